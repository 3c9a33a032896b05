//! The table against the facts it was made from, the node's own encodings, and the rules of the inspector.

use core::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rules::{Rules, Who};
use crate::session::Instant;
use crate::verdict::Reason;

const SAMPLES: &str = include_str!("../../schema/samples.txt");

fn inspector(kind: NodeType) -> Inspector {
    let handshake = Handshake::new("mainnet", kind, 8444);
    let rules = Rules::default();
    let who = Who { listener: 0, source: [192, 0, 2, 7].into(), id: None, kind: Some(kind), version: None };
    let judged_by = (rules.schema().clone(), rules.table(&who));
    let standard = Standard::default();
    let mut inspector =
        Inspector::new(standard, judged_by, kind, &handshake, (8 << 20, 50 << 20), Instant::ZERO);
    inspector.node_handshake(&Handshake::new("mainnet", NodeType::FullNode, 8444).encode());
    inspector
}

fn judge(kind: NodeType, envelope: Envelope) -> Result<Judged, Reason> {
    inspector(kind).judge(Instant::ZERO, &envelope)
}

/// The node asks for something with an id.
fn ask(inspector: &mut Inspector, kind: u8, id: u16) {
    inspector.goes_out(Instant::ZERO, &Envelope { kind, id: Some(id), body: 9 });
}

#[test]
fn what_the_package_encodes_is_understood_and_passes() {
    let mut handshakes = 0;
    for line in SAMPLES.lines() {
        let mut fields = line.split(' ');
        let mut field = || fields.next().expect("four fields");
        let (sender, name, id, hex) =
            (NodeType::from_name(field()).expect("a kind"), field(), field(), field());
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        let message = Message::decode(&bytes).expect("an envelope");
        assert_eq!(Schema::embedded().message(message.kind).map(|facts| &*facts.name), Some(name));
        assert_eq!(message.id, id.parse().ok());
        assert_eq!(message.encode(), bytes);
        let schema = Schema::embedded();
        let mut body = Body::of(&schema, message.kind, message.body.len() as u32).expect("a known body");
        assert_eq!(body.take(&schema, &Scratches::new(1), &message.body), Ok(()), "{line}");
        if name == "handshake" {
            handshakes += 1;
            let handshake = Handshake::decode(&message.body).expect("a handshake");
            assert_eq!((handshake.kind(), handshake.server_port), (Some(sender), 8444));
            assert_eq!(handshake.message().encode(), bytes);
        } else {
            let envelope = Envelope { kind: message.kind, id: message.id, body: message.body.len() as u32 };
            let expected = match name {
                // It answers nothing here.
                "reject_block" => Ok(Judged::Drop),
                // Nobody agreed on windows.
                "configure_window_sizes" => Err(Reason::WindowsUnexpected),
                _ => Ok(Judged::Hold),
            };
            assert_eq!(judge(sender, envelope), expected, "{line}");
        }
    }
    assert_eq!((SAMPLES.lines().count(), handshakes), (18, 3));
}

#[test]
fn a_farmer_may_send_what_farmers_send_and_no_more() {
    let envelope = |kind| Envelope { kind, id: None, body: 50 };
    let allowed = |kind| {
        let schema = Schema::embedded();
        let sends = |facts: &&MessageType| {
            facts.number != number::CONFIGURE_WINDOW_SIZES
                && !matches!(judge(kind, envelope(facts.number)), Err(Reason::NotForThisSender))
        };
        schema.messages().iter().filter(sends).count()
    };
    assert_eq!(judge(NodeType::Farmer, envelope(9)), Ok(Judged::Hold));
    assert_eq!(judge(NodeType::Farmer, envelope(20)), Err(Reason::NotForThisSender));
    // Of the connection itself: a second handshake, which is refused for what it is, errors, and the reply that stands
    // for nothing.
    assert_eq!((allowed(NodeType::Harvester), allowed(NodeType::Farmer)), (3, 5));
    assert_eq!((allowed(NodeType::FullNode), allowed(NodeType::Wallet)), (30, 22));
}

#[test]
fn only_large_replies_that_were_asked_for_stream() {
    let reply = |id, body| Envelope { kind: number::RESPOND_BLOCKS, id, body };
    let after_request = |envelope: &Envelope| {
        let mut inspector = inspector(NodeType::FullNode);
        ask(&mut inspector, number::REQUEST_BLOCKS, 7);
        inspector.judge(Instant::ZERO, envelope)
    };
    assert_eq!(after_request(&reply(Some(7), 1 << 20)), Ok(Judged::Stream));
    assert_eq!(after_request(&reply(Some(7), 50 << 20)), Ok(Judged::Stream));
    assert_eq!(after_request(&reply(Some(7), 1 << 10)), Ok(Judged::Hold));
    assert_eq!(after_request(&reply(Some(8), 1 << 20)), Ok(Judged::Drop));
    assert_eq!(after_request(&reply(None, 1 << 20)), Ok(Judged::Drop));
    assert_eq!(after_request(&reply(Some(7), (50 << 20) + 1)), Err(Reason::RateLimited));
    // A proof of weight that nobody asked for passes, whole.
    let proof = |body| Envelope { kind: 25, id: None, body };
    assert_eq!(after_request(&proof(1 << 20)), Ok(Judged::Hold));
    assert_eq!(after_request(&proof((8 << 20) + 1)), Err(Reason::MessageTooLarge));
}

fn answer(conversation: &mut Conversation, kind: u8, id: Option<u16>) -> Answer {
    conversation.answer(&Schema::embedded(), kind, id, false, None)
}

#[test]
fn a_request_is_answered_once() {
    let (schema, mut conversation) = (Schema::embedded(), Conversation::default());
    conversation.asked(Instant::ZERO, &schema, number::REQUEST_BLOCKS, Some(1));
    conversation.asked(Instant::ZERO, &schema, number::NEW_PEAK, None);
    assert_eq!(conversation.open(), 1);
    assert_eq!(answer(&mut conversation, number::NEW_PEAK, Some(1)), Answer::No);
    assert_eq!(answer(&mut conversation, number::RESPOND_BLOCKS, Some(2)), Answer::Unsolicited);
    assert_eq!(answer(&mut conversation, number::RESPOND_BLOCKS, Some(1)), Answer::Solicited);
    assert_eq!(answer(&mut conversation, number::RESPOND_BLOCKS, Some(1)), Answer::Unsolicited);
    assert_eq!(conversation.open(), 0);
    // An error with its id ends a request as well.
    conversation.asked(Instant::ZERO, &schema, number::REQUEST_BLOCKS, Some(3));
    assert_eq!(answer(&mut conversation, number::ERROR, Some(3)), Answer::Solicited);
    assert_eq!(answer(&mut conversation, number::ERROR, Some(3)), Answer::Pushed);
}

#[test]
fn few_requests_are_remembered_and_of_the_rest_how_many_there_were() {
    let (schema, mut conversation) = (Schema::embedded(), Conversation::default());
    for id in 0..1_000 {
        conversation.asked(Instant::ZERO, &schema, number::REQUEST_BLOCKS, Some(id));
    }
    assert_eq!(conversation.open(), 64);
    // All of them may still be answered, and not one more.
    for id in 0..1_000 {
        assert_eq!(answer(&mut conversation, number::RESPOND_BLOCKS, Some(id)), Answer::Solicited);
    }
    assert_eq!(answer(&mut conversation, number::RESPOND_BLOCKS, Some(1)), Answer::Unsolicited);
}

#[test]
fn requests_that_nobody_answers_do_not_displace_those_with_an_id() {
    let (schema, mut conversation) = (Schema::embedded(), Conversation::default());
    conversation.asked(Instant::ZERO, &schema, number::REQUEST_BLOCKS, Some(1));
    (0..1_000).for_each(|_| conversation.asked(Instant::ZERO, &schema, 22, None));
    assert_eq!(answer(&mut conversation, number::RESPOND_BLOCKS, Some(1)), Answer::Solicited);
    assert!(conversation.open() <= 64);
}

#[test]
fn a_smaller_proof_of_time_answers_whatever_its_id() {
    let (schema, mut conversation) = (Schema::embedded(), Conversation::default());
    assert_eq!(answer(&mut conversation, 41, Some(9)), Answer::Unsolicited);
    conversation.asked(Instant::ZERO, &schema, number::REQUEST_COMPACT_VDF, None);
    assert_eq!(answer(&mut conversation, 41, Some(9)), Answer::Solicited);
    assert_eq!(answer(&mut conversation, 41, Some(9)), Answer::Unsolicited);
}

#[test]
fn unknown_types_have_a_budget_by_the_minute() {
    let unknown = Envelope { kind: 200, id: None, body: 64 << 10 };
    let mut inspector = inspector(NodeType::FullNode);
    let mut judge =
        |seconds, envelope: &Envelope| inspector.judge(Duration::from_secs(seconds), envelope).is_ok();
    assert!((0..60).all(|second| judge(second, &unknown)));
    assert!(!judge(59, &unknown));
    assert!(judge(60, &unknown));
    assert!(!judge(61, &Envelope { body: (64 << 10) + 1, ..unknown }));
    // A known number that nobody may send by the schema is negotiated by capability.
    assert!(judge(62, &Envelope { kind: number::NONE_RESPONSE, id: Some(1), body: 0 }));
}

#[test]
fn envelopes() {
    let parse = Envelope::parse;
    assert_eq!(parse(&[20, 0, 0, 0, 0, 5]), Ok(Some(Envelope { kind: 20, id: None, body: 5 })));
    assert_eq!(
        parse(&[20, 1, 2, 3, 0, 0, 1, 0, 9]),
        Ok(Some(Envelope { kind: 20, id: Some(515), body: 256 }))
    );
    for len in 0..6 {
        assert_eq!(parse(&[20, 0, 0, 0, 0, 5][..len]), Ok(None));
    }
    assert_eq!(parse(&[20, 2]), Err(Reason::EnvelopeMalformed));
    assert_eq!(Message::decode(&[20, 0, 0, 0, 0, 0, 0]), Err(Reason::EnvelopeMalformed));
}

#[test]
fn lengths_in_a_handshake_never_allocate_what_is_not_there() {
    let mut body = Handshake::new("mainnet", NodeType::FullNode, 1).encode();
    let at = body.len() - 4 * (2 + 4 + 1) - 4;
    assert_eq!(body[at..at + 4], [0, 0, 0, 4]);
    body[at..at + 4].copy_from_slice(&[0xff; 4]);
    assert_eq!(Handshake::decode(&body), Err(HandshakeError::Malformed));
    body[..4].copy_from_slice(&[0xff; 4]);
    assert_eq!(Handshake::decode(&body), Err(HandshakeError::Malformed));
}

fn handshake() -> impl Strategy<Value = Handshake> {
    let capabilities = prop::collection::vec((any::<u16>(), ".{0,4}"), 0..6);
    (".{0,20}", "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}", ".{0,30}", any::<u16>(), 1_u8..=8, capabilities).prop_map(
        |(network_id, protocol_version, software_version, server_port, node_type, capabilities)| Handshake {
            network_id,
            protocol_version,
            software_version,
            server_port,
            node_type,
            capabilities,
        },
    )
}

proptest! {
    #[test]
    fn handshakes_read_back_as_they_were_written(handshake in handshake()) {
        let body = handshake.encode();
        let port = Handshake::server_port_bytes(&body).expect("a valid body");
        prop_assert_eq!(&body[port], &handshake.server_port.to_be_bytes());
        prop_assert_eq!(Handshake::decode(&body), Ok(handshake.clone()));
        for cut in 0..body.len() {
            prop_assert_eq!(Handshake::decode(&body[..cut]), Err(HandshakeError::Malformed));
        }
        prop_assert!(Handshake::decode(&[&body[..], &[0]].concat()).is_err());
    }

    #[test]
    fn any_bytes_are_a_handshake_that_reads_back_or_none(bytes in prop::collection::vec(0_u8..12, 0..80)) {
        if let Ok(handshake) = Handshake::decode(&bytes) {
            prop_assert_eq!(handshake.encode(), bytes);
        }
    }

    #[test]
    fn an_envelope_is_found_in_any_cutting(kind: u8, id: Option<u16>, body in prop::collection::vec(any::<u8>(), 0..20), chunk in 1_usize..30) {
        let message = Message { kind, id, body };
        let bytes = message.encode();
        let mut scan = Scan::default();
        let (mut taken, mut found) = (0, None);
        for piece in bytes.chunks(chunk) {
            let (count, envelope) = scan.take(piece).expect("well formed");
            taken += count;
            found = envelope;
            if found.is_some() {
                break;
            }
        }
        let expected = Envelope { kind, id, body: message.body.len() as u32 };
        prop_assert_eq!((found, taken), (Some(expected), expected.header_bytes()));
        prop_assert_eq!(scan.seen(), &bytes[..taken]);
        prop_assert_eq!(Message::decode(&bytes), Ok(message));
    }
}
