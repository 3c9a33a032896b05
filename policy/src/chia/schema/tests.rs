//! The embedded schema, and what a bad one is refused for.

use super::*;

/// The smallest schema with one more type and message.
fn with(types: &str, messages: &str) -> Result<Schema, SchemaError> {
    Schema::parse(&format!(
        r#"{{"chia_blockchain": "2.7.5", "node_types": {{"full_node": 1}}, "capabilities": {{"base": 1}},
            "aggregate_limit": {{"per_minute": 1000, "bytes_per_minute": 1}}, "interiors": [],
            "types": {{"Handshake": [["network_id", "str"]]{types}}},
            "messages": [{{"number": 1, "name": "handshake", "body": "Handshake", "senders": ["full_node"],
                "handlers": [], "replies": [], "push": null, "limit_v1": null, "limit_v2": null}}{messages}]}}"#
    ))
}

fn body(shape: &str) -> Result<Schema, SchemaError> {
    let message = r#", {"number": 2, "name": "odd", "body": "Odd", "senders": [], "handlers": [],
        "replies": [], "push": null, "limit_v1": null, "limit_v2": null}"#;
    with(&format!(r#", "Odd": [["field", {shape}]]"#), message)
}

fn refusal(schema: Result<Schema, SchemaError>) -> String {
    schema.expect_err("refused").to_string()
}

#[test]
fn the_embedded_schema_loads() {
    let schema = Schema::embedded();
    assert_eq!(schema.version, Version([2, 7, 5]));
    assert_eq!(schema.messages().len(), 112);
    let shaped = schema.messages().iter().filter(|message| message.body().is_some()).count();
    assert_eq!(shaped, 110);
    let blocks = schema.message(number::RESPOND_BLOCKS).expect("a type");
    assert_eq!((&*blocks.name, blocks.is_reply, blocks.push), ("respond_blocks", true, Push::Never));
    assert_eq!(blocks.window_v3, Some(0));
    let request = schema.message(number::REQUEST_BLOCKS).expect("a type");
    assert_eq!((&*request.replies, request.window_v3), ([30, 31].as_slice(), Some(2)));
    let height =
        |name: &str| schema.messages().iter().find(|facts| &*facts.name == name).map(|facts| facts.height);
    for (name, at) in [
        ("request_block", Some(0)),
        ("request_block_headers", Some(0)),
        ("request_puzzle_solution", Some(32)),
        ("new_peak", Some(32)),
        ("new_peak_wallet", Some(32)),
        ("register_for_ph_updates", None),
        ("request_peers", None),
        ("respond_blocks", Some(0)),
    ] {
        assert_eq!(height(name), Some(at), "{name}");
    }
    let transaction = schema.message(number::RESPOND_TRANSACTION).expect("a type");
    assert_eq!(transaction.push, Push::Before(Version([2, 6, 0])));
    assert_eq!(schema.message(2), None);
}

#[test]
fn numbers_that_the_gate_knows_by_name() {
    let schema = Schema::embedded();
    for (number, name) in number::ALL {
        assert_eq!(schema.message(*number).map(|facts| &*facts.name), Some(*name));
    }
}

#[test]
fn a_bad_schema_is_refused_with_the_place() {
    assert!(with("", "").is_ok());
    assert!(body(r#""list[tuple[uint8,optional[str]]]""#).is_ok());
    let cases = [
        (r#""Missing""#, "message odd: in the type Odd: the type Missing is not defined"),
        (r#""Odd""#, "message odd: in the type Odd: the type Odd contains itself, or types 32 deep"),
        (r#""uint7""#, "message odd: in the type Odd: the type uint7 is not defined"),
        (r#""set[str]""#, "message odd: in the type Odd: set[str]: neither list, optional nor tuple"),
        (
            r#""list[list[list[list[list[list[list[list[list[str]]]]]]]]]""#,
            "message odd: in the type Odd: lists stand more than 4 deep",
        ),
        (r#""list[Empty]""#, "message odd: in the type Odd: the type Empty is not defined"),
    ];
    for (shape, expected) in cases {
        assert_eq!(refusal(body(shape)), expected, "{shape}");
    }
    let twin = r#", {"number": 1, "name": "twin", "body": null, "senders": [], "handlers": [], "replies": [],
        "push": null, "limit_v1": null, "limit_v2": null}"#;
    assert_eq!(refusal(with("", twin)), "two messages have the number 1");
    let wrong = twin.replace(r#""number": 1"#, r#""number": 2"#);
    let cases = [
        (r#""senders": []"#, r#""senders": ["pool"]"#, "message twin: senders: pool is not defined"),
        (r#""replies": []"#, r#""replies": ["no"]"#, "message twin: replies: no is not defined"),
        (
            r#""push": null"#,
            r#""push": "maybe""#,
            "message twin: push: \"maybe\" is neither always, pending nor before and a version",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(refusal(with("", &wrong.replace(from, to))), expected);
    }
    assert!(refusal(Schema::parse("{\n  \"x\": 1\n}")).contains("unknown field `x`"));
    assert!(refusal(Schema::parse("{\n")).contains("line 2"));
}
