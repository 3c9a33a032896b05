//! What an operator learns about an end: the step, the message, the field, the byte, the rule and its limit; and never a
//! byte that a peer chose as it came.

use super::world::{MASK, World, binary, greeting, message, upgrade};
use crate::chia::{Handshake, Message, NodeType, number};
use crate::finding::Finding;
use crate::session::Session;
use crate::verdict::Reason;
use crate::websocket::{CloseFrame, Opcode, encode_frame};

/// Text that would clear a screen, ring, turn what follows around, and forge a line.
const HOSTILE: &str = "9.9\x1b[2J\x07\u{202e}\r\n{\"event\":\"x\"}\0";
const SHOWN: &str = r#"9.9\u{1b}[2J\u{7}\u{202e}\u{d}\u{a}{"event":"x"}\u{0}"#;

fn after(mut world: World, bytes: &[u8]) -> (Option<Reason>, Finding) {
    world.say(bytes);
    (world.verdict(), world.gate.finding().cloned().unwrap_or_default())
}

fn hello(change: impl FnOnce(&mut Handshake)) -> Vec<u8> {
    let mut handshake = Handshake::new("mainnet", NodeType::FullNode, 8444);
    change(&mut handshake);
    binary(&handshake.message().encode())
}

#[test]
fn a_limit_is_named_with_its_value_and_where_it_comes_from() {
    let (reason, found) = after(World::judged(), &binary(&message(number::REQUEST_PEERS, 0)).repeat(11));
    assert_eq!(reason, Some(Reason::RateLimited));
    let expected = Finding {
        step: "open",
        kind: Some(number::REQUEST_PEERS),
        message: Some("request_peers".into()),
        rule: Some("per_minute (the node's own)".into()),
        limit: Some(10),
        ..Finding::new("more than 10 in a minute")
    };
    assert_eq!(found, expected);
}

#[test]
fn a_flaw_in_a_body_has_a_field_and_a_byte() {
    let host = |host: &[u8]| [&[0, 0, 0, 2][..], host, &[0; 10]].concat();
    let list = [&[0, 0, 0, 2][..], &host(b"::"), &host(b"\xff\xfe")].concat();
    let (reason, found) =
        after(World::judged(), &binary(&Message::new(number::RESPOND_PEERS, list).encode()));
    assert_eq!(reason, Some(Reason::BodyMalformed));
    assert_eq!(found.to_string(), "respond_peers: peer_list[1].host, byte 20: not UTF-8");
    assert_eq!((found.step, found.field.as_deref()), ("open", Some("peer_list[1].host")));
}

#[test]
fn a_message_that_differs_from_its_envelope() {
    let mut lying = message(number::NEW_PEAK, 80);
    lying[5] += 1;
    let (reason, found) = after(World::open(), &binary(&lying));
    assert_eq!((reason, found.byte), (Some(Reason::EnvelopeMalformed), Some(80)));
    assert!(found.to_string().starts_with("new_peak: byte 80: the message is shorter than the 81 bytes"));
    let (_, found) = after(World::open(), &binary(&[number::NEW_PEAK, 2, 0, 0]));
    assert_eq!(found.what, "the message begins with [14, 02], which is no envelope");
}

#[test]
fn what_a_handshake_says_is_shown_clean() {
    let wrong = hello(|handshake| handshake.network_id = HOSTILE.into());
    let (reason, found) = after(World::upgraded(), &wrong);
    assert_eq!(reason, Some(Reason::ChiaWrongNetwork));
    let told = format!("handshake: network_id: \"{SHOWN}\" instead of \"mainnet\"");
    assert_eq!((found.step, found.to_string()), ("handshake", told));

    let mut world = World::upgraded();
    world.say(&hello(|handshake| handshake.software_version = HOSTILE.into()));
    assert!(world.gate.is_open(), "a node takes any text");
    assert_eq!(world.gate.software(), SHOWN);

    let (_, found) = after(World::upgraded(), &hello(|handshake| handshake.node_type = 3));
    assert_eq!(found.to_string(), "handshake: node_type: a farmer is not served here");
}

#[test]
fn what_a_request_says_is_shown_clean() {
    let request = String::from_utf8(upgrade()).expect("text").replace("/ws", "/\u{9b}31m\u{202e}");
    let (reason, found) = after(World::secured(), request.as_bytes());
    assert!(matches!(reason, Some(Reason::HttpPath | Reason::HttpMalformed)), "{reason:?}");
    assert_eq!((found.step, &*found.what), ("upgrade", r#"the request "GET /\u{9b}31m\u{202e} HTTP/1.1""#));
    let long = format!("GET /ws HTTP/1.1\r\nX: {}", "y".repeat(5_000));
    let (reason, found) = after(World::secured(), long.as_bytes());
    assert_eq!(reason, Some(Reason::HttpTooLarge));
    assert_eq!((found.rule.as_deref(), found.limit), (Some("request_bytes"), Some(4096)));
}

#[test]
fn a_frame_is_found_by_its_place() {
    let first = binary(&greeting());
    let bad = encode_frame(true, Opcode::Text, Some(MASK), b"{}");
    let (reason, found) = after(World::upgraded(), &[&first[..], &bad].concat());
    assert_eq!(reason, Some(Reason::WsTextFrame));
    assert_eq!((found.byte, &*found.what), (Some(first.len() as u64), "the frame that begins with 81 82"));
}

#[test]
fn last_words_are_shown_clean() {
    let close = CloseFrame::new(4000, HOSTILE);
    let (reason, found) =
        after(World::open(), &encode_frame(true, Opcode::Close, Some(MASK), &close.encode()));
    assert_eq!(reason, Some(Reason::PeerClosed));
    assert_eq!(found.to_string(), format!("code 4000 \"{SHOWN}\""));
}

#[test]
fn time_that_ran_out_is_named() {
    let mut world = World::upgraded();
    world.wait(31);
    assert_eq!(world.verdict(), Some(Reason::ChiaTimeout));
    assert_eq!(world.detail().as_deref(), Some("the handshake did not come within 30 s"));
}
