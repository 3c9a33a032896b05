//! Bodies by hand: what each flaw looks like, where it is found, and that any cutting finds it. That the judgement is the
//! node's is the business of the differential tests (`tests/tests/bodies.rs`).

use super::*;
use crate::chia::{Handshake, NodeType};

fn schema(fields: &str) -> Schema {
    let text = format!(
        r#"{{"chia_blockchain": "1.0.0", "node_types": {{}}, "capabilities": {{}}, "interiors": ["Inside"],
            "aggregate_limit": {{"per_minute": 1, "bytes_per_minute": 1}},
            "types": {{"Body": [{fields}], "Inside": [["flag", "bool"], ["rest", "uint8"]]}},
            "messages": [{{"number": 1, "name": "handshake", "body": "Body", "senders": [], "handlers": [],
                "replies": [], "push": null, "limit_v1": null, "limit_v2": null}}]}}"#
    );
    Schema::parse(&text).expect("a schema")
}

/// Judges a body in pieces of every size; all must agree. Yields the flaw, its place, and its field.
fn judge(schema: &Schema, bytes: &[u8]) -> Result<(), (Flaw, u32, String)> {
    let scratches = Scratches::new(1);
    let in_pieces = |size: usize| {
        let mut body = Body::of(schema, 1, bytes.len() as u32).expect("a type");
        body.take(schema, &scratches, &[])?;
        bytes.chunks(size).try_for_each(|piece| body.take(schema, &scratches, piece))?;
        assert!(body.is_complete());
        Ok(())
    };
    let whole: Result<(), Fault> = in_pieces(bytes.len().max(1));
    for size in 1..bytes.len() {
        assert_eq!(in_pieces(size), whole, "in pieces of {size}");
    }
    whole.map_err(|fault| (fault.flaw, fault.at, fault.path(schema)))
}

fn flaw(flaw: Flaw, at: u32, path: &str) -> Result<(), (Flaw, u32, String)> {
    Err((flaw, at, path.to_owned()))
}

#[test]
fn lists_of_lists_with_the_number_of_the_item() {
    let schema = schema(r#"["rows", "list[list[bool]]"]"#);
    assert_eq!(judge(&schema, &[0, 0, 0, 0]), Ok(()));
    assert_eq!(judge(&schema, &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0]), Ok(()));
    let third = [0, 0, 0, 2, 0, 0, 0, 1, 1, 0, 0, 0, 3, 1, 0, 2];
    assert_eq!(judge(&schema, &third), flaw(Flaw::Choice, 15, "rows[1][2]"));
    assert_eq!(judge(&schema, &[0, 0, 0]), flaw(Flaw::Truncated, 0, "rows"));
    // Two rows take eight bytes at least.
    assert_eq!(judge(&schema, &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), flaw(Flaw::Truncated, 4, "rows"));
    assert_eq!(judge(&schema, &[0xff; 12]), flaw(Flaw::Truncated, 4, "rows"));
}

#[test]
fn text_and_bytes() {
    let schema = schema(r#"["name", "str"], ["blob", "optional[bytes]"]"#);
    assert_eq!(judge(&schema, "\0\0\0\u{9}é苗🌱\0".as_bytes()), Ok(()));
    assert_eq!(judge(&schema, b"\0\0\0\x01x\x01\0\0\0\x02\xff\xff"), Ok(()));
    assert_eq!(judge(&schema, b"\0\0\0\x02\xc3\x28\0"), flaw(Flaw::Text, 0, "name"));
    // A character that the text's end cuts, and one that UTF-8 does not have.
    assert!(matches!(judge(&schema, b"\0\0\0\x02a\xc3\0"), Err((Flaw::Text, ..))));
    assert!(matches!(judge(&schema, b"\0\0\0\x03\xed\xa0\x80\0"), Err((Flaw::Text, ..))));
    assert_eq!(judge(&schema, b"\0\0\0\x09ab\0"), flaw(Flaw::Truncated, 4, "name"));
    assert_eq!(judge(&schema, b"\0\0\0\0\0x"), flaw(Flaw::Trailing, 5, "the body"));
}

#[test]
fn a_byte_with_several_meanings() {
    let schema =
        schema(r#"["both", {"0": [], "2": [["", "uint16"]], "3": [["", "uint8"], ["second", "bool"]]}]"#);
    for body in [&[0][..], &[2, 9, 9], &[3, 9, 1]] {
        assert_eq!(judge(&schema, body), Ok(()));
    }
    assert_eq!(judge(&schema, &[1, 0]), flaw(Flaw::Choice, 0, "both"));
    assert_eq!(judge(&schema, &[4]), flaw(Flaw::Choice, 0, "both"));
    assert_eq!(judge(&schema, &[3, 9, 7]), flaw(Flaw::Choice, 2, "both.second"));
}

#[test]
fn interiors_are_told_from_the_rest() {
    let schema = schema(r#"["flag", "bool"], ["inside", "Inside"]"#);
    let interior = |bytes: &[u8]| {
        let mut body = Body::of(&schema, 1, bytes.len() as u32).expect("a type");
        body.take(&schema, &Scratches::new(1), bytes).expect_err("a flaw").interior
    };
    assert!(!interior(&[2, 0, 0]));
    assert!(interior(&[1, 2, 0]));
    // What a fork adds at the end of an interior belongs to it.
    assert!(interior(&[1, 1, 0, 0]));
}

#[test]
fn elements_of_the_groups() {
    let schema = schema(r#"["key", "g1"], ["signature", "g2"]"#);
    let element = |first: u8, rest: u8, bytes: usize| {
        let mut element = vec![rest; bytes];
        element[0] = first;
        element
    };
    let body = |key: Vec<u8>, signature: Vec<u8>| judge(&schema, &[key, signature].concat());
    let good = || (element(0x80, 1, 48), element(0x80, 1, 96));
    assert_eq!(body(good().0, good().1), Ok(()));
    assert_eq!(body(element(0xc0, 0, 48), element(0xc0, 0, 96)), Ok(()));
    assert_eq!(body(element(0xb9, 0xff, 48), good().1), Ok(()));
    // Uncompressed, zero, infinity with something in it, coordinates beyond the prime.
    for (first, rest) in
        [(0x00, 1), (0x40, 0), (0x80, 0), (0xe0, 0), (0xc0, 1), (0x9b, 0), (0x9a, 0xff), (0xbf, 0xff)]
    {
        assert!(
            matches!(body(element(first, rest, 48), good().1), Err((Flaw::Point, ..))),
            "{first:x} {rest:x}"
        );
    }
    let mut second = good().1;
    second[48] = 0x1b;
    assert!(matches!(body(good().0, second), Err((Flaw::Point, ..))));
}

#[test]
fn programs_and_their_references() {
    let schema = schema(r#"["program", "program"]"#);
    let good: &[&[u8]] = &[
        &[0x80],
        &[0x7f],
        &[0x82, 1, 2],
        &[0xff, 1, 0xff, 2, 0x80],
        // The left half again; the whole stack; nothing.
        &[0xff, 1, 0xfe, 2],
        &[0xff, 1, 0xfe, 1],
        &[0xfe, 0],
        &[0xfe, 0x80],
        &[0xfe, 1],
        // A pair's halves, by paths through the stack.
        &[0xff, 0xff, 1, 2, 0xfe, 4],
        &[0xff, 0xff, 1, 2, 0xfe, 6],
        &[0xff, 0xff, 1, 2, 0xfe, 0x83, 0, 0, 6],
    ];
    for program in good {
        assert_eq!(judge(&schema, program), Ok(()), "{program:x?}");
    }
    for program in [&[0xff, 1, 0xfe, 4][..], &[0xfe, 2], &[0xfe, 3], &[0xff, 0xff, 1, 2, 0xfe, 8]] {
        assert!(matches!(judge(&schema, program), Err((Flaw::Reference, ..))), "{program:x?}");
    }
    assert!(matches!(judge(&schema, &[0xfd, 0, 0, 0, 0, 0, 0]), Err((Flaw::Program, ..))));
    assert_eq!(judge(&schema, &[0xff, 1]), flaw(Flaw::Truncated, 0, "program"));
    assert_eq!(judge(&schema, &[0xff, 0xff, 0xff]), flaw(Flaw::Truncated, 0, "program"));
    assert_eq!(judge(&schema, &[0x80, 0x80]), flaw(Flaw::Trailing, 1, "the body"));
}

#[test]
fn programs_deeper_than_any_stack_and_references_without_a_scratch() {
    let schema = schema(r#"["program", "program"]"#);
    let deep = [vec![0xff; 1 << 20], vec![1; (1 << 20) + 1]].concat();
    let judge = |bytes: &[u8], scratches: &Arc<Scratches>| {
        Body::of(&schema, 1, bytes.len() as u32).expect("a type").take(&schema, scratches, bytes)
    };
    assert_eq!(judge(&deep, &Scratches::new(1)), Ok(()));
    assert!(judge(&deep[..deep.len() - 1], &Scratches::new(1)).is_err());
    let nowhere = [0xff, 1, 0xfe, 4];
    assert!(judge(&nowhere, &Scratches::new(1)).is_err());
    assert_eq!(judge(&nowhere, &Scratches::new(0)), Ok(()));
    // A scratch that was lent comes back.
    let scratches = Scratches::new(1);
    for _ in 0..3 {
        assert!(judge(&nowhere, &scratches).is_err());
    }
    // A list of the whole stack for each of many items: built once, not once per item.
    let many: Vec<u8> =
        [0xff, 1].repeat(50_000).into_iter().chain([0xff, 0xfe, 1].repeat(50_000)).chain([0x80]).collect();
    assert_eq!(judge(&many, &Scratches::new(1)), Ok(()));
}

#[test]
fn a_handshake_as_services_send_it() {
    let schema = Schema::embedded();
    let bytes = Handshake::new("mainnet", NodeType::FullNode, 8444).encode();
    assert_eq!(judge(&schema, &bytes), Ok(()));
    let (flaw, _, path) = judge(&schema, &bytes[..bytes.len() - 1]).expect_err("cut");
    assert_eq!((flaw, path.as_str()), (Flaw::Truncated, "capabilities[3]"));
}
