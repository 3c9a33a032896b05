//! Every rule that ends a session before or after a node was dialled: its reason, what the peer is told, and what the node
//! saw.

use super::world::{
    Dials, KEY, MASK, World, befriended, binary, config, greeting, message, peer_id, upgrade,
};
use crate::chia::{Envelope, Handshake, ID_HEADER_BYTES, Message, NodeType, NodeTypes, number};
use crate::session::{Close, DialFailure, Done, End, Leg, Request, Session, Standing};
use crate::verdict::Reason;
use crate::websocket::{CloseFrame, Opcode, encode_frame};

/// What the peer is told.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// Nothing that can be read: TLS failed, or there was nothing to say.
    Nothing,
    /// An HTTP status.
    Http(u16),
    /// A close frame with this code and text.
    Close(u16, &'static str),
}
use Told::{Close as Closed, Http, Nothing};

/// Plays a script; the session must end for the reason, tell the peer, and never have asked for a node.
#[track_caller]
fn refused(world: World, script: impl FnOnce(&mut World), reason: Reason, told: Told) {
    let mut world = world;
    script(&mut world);
    assert_eq!(world.verdict(), Some(reason));
    assert_eq!(world.dialled, [], "a node was asked for");
    check_told(&world, reason, told);
}

/// The same after both handshakes: nothing but the handshake and what the script is allowed to pass may complete.
#[track_caller]
fn closed(script: impl FnOnce(&mut World), reason: Reason, told: Told) {
    closed_after(World::open(), 0, script, reason, told);
}

/// The same whoever began the session.
#[track_caller]
fn closed_either_way(script: impl Fn(&mut World), reason: Reason, told: Told) {
    closed_after(World::open(), 0, &script, reason, told);
    closed_after(World::departed(), 0, &script, reason, told);
}

#[track_caller]
fn closed_after(world: World, passed: usize, script: impl FnOnce(&mut World), reason: Reason, told: Told) {
    let mut world = world;
    let before = world.node_messages().len();
    script(&mut world);
    assert_eq!(world.verdict(), Some(reason));
    assert_eq!(world.node_messages().len(), before + passed, "messages that completed at the node");
    check_told(&world, reason, told);
    let node = world.node.as_ref().expect("a node");
    assert_eq!(node.partial, b"", "a message was left unfinished");
    assert_eq!(node.closed, Some(Close::Finish(reason)));
    assert_eq!(node.close, Some(CloseFrame::new(1000, "")));
    assert!(node.notified, "TLS with the node ended without close_notify");
}

#[track_caller]
fn check_told(world: &World, reason: Reason, told: Told) {
    let peer = &world.peer;
    assert_eq!(peer.closed, Some(Close::Finish(reason)));
    let peers_fault =
        ["http_", "ws_", "chia_", "envelope_"].iter().any(|kind| reason.name().starts_with(kind));
    if peers_fault {
        let found = world.gate.finding().expect("something to tell the operator");
        assert!(!found.step.is_empty() && !found.what.is_empty(), "{found:?}");
    }
    match told {
        Nothing => {
            assert!(peer.close.is_none() && (peer.http.is_empty() || peer.http.starts_with("HTTP/1.1 101")))
        }
        Http(status) => {
            let line = format!("HTTP/1.1 {status} ");
            assert!(peer.http.starts_with(&line), "{}", peer.http);
            assert!(peer.http.ends_with("Connection: close\r\n\r\n") && peer.notified);
        }
        Closed(code, text) => {
            assert_eq!(peer.close, Some(CloseFrame::new(code, text)));
            assert!(peer.notified, "TLS ended without close_notify");
        }
    }
}

// TLS.

#[test]
fn bytes_that_are_no_tls() {
    let raw = |bytes: &'static [u8]| move |world: &mut World| world.say_raw(bytes);
    let silent = || World::with(config(), None);
    let mut world = silent();
    world.say_raw(b"\x00\x01\x02\x03\x04\x05");
    assert_eq!(world.verdict(), Some(Reason::TlsGarbage));
    refused(silent(), raw(b"\xff\xff\xff\xff\xff\xff"), Reason::TlsGarbage, Nothing);
    refused(silent(), raw(b"GET /ws HTTP/1.1\r\n\r\n"), Reason::PlainHttp, Nothing);
}

#[test]
fn certificates() {
    refused(World::with(config(), None), World::run, Reason::TlsNoCertificate, Nothing);
    let own = rcgen::generate_simple_self_signed(["chia.net".to_owned()]).expect("a certificate");
    let credential = crate::tls::Credential {
        chain: vec![own.cert.der().clone()],
        key: rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key"),
    };
    refused(World::with(config(), Some(&credential)), World::run, Reason::TlsUntrusted, Nothing);
}

#[test]
fn a_peer_that_breaks_tls_after_finished() {
    refused(
        World::secured(),
        |world| world.say_raw(&[0x17, 3, 3, 0, 40].repeat(9)),
        Reason::TlsProtocol,
        Nothing,
    );
}

#[test]
fn only_a_verified_finished_makes_a_peer_proven() {
    assert_eq!(World::with(config(), None).standings, []);
    assert_eq!(World::secured().standings, [Standing::Proven]);
    let friends = |config: &mut crate::gate::Config| config.rules = befriended();
    let mut world = World::configured(friends);
    world.run();
    assert_eq!(world.standings, [Standing::Reserved]);
}

// HTTP.

#[test]
fn requests_that_are_no_upgrade() {
    let good = String::from_utf8(upgrade()).expect("text");
    let changed = |from: &str, to: &str| {
        assert!(good.contains(from));
        good.replace(from, to)
    };
    let header = |line: &str| changed("\r\n\r\n", &format!("\r\n{line}\r\n\r\n"));
    let cases = [
        (changed("GET", "POST"), Reason::HttpMethod, 405),
        (changed("/ws", "/"), Reason::HttpPath, 404),
        (changed("/ws", "/ws/../ws"), Reason::HttpPath, 404),
        (changed("HTTP/1.1", "HTTP/1.0"), Reason::HttpMalformed, 400),
        (changed("HTTP/1.1", "HTTP/9"), Reason::HttpMalformed, 400),
        (changed("Host: 203.0.113.7:8444\r\n", ""), Reason::HttpMalformed, 400),
        (header("Host: other"), Reason::HttpMalformed, 400),
        (changed("Upgrade: websocket\r\n", ""), Reason::HttpNotUpgrade, 400),
        (changed("Connection: Upgrade\r\n", ""), Reason::HttpNotUpgrade, 400),
        (changed("Version: 13", "Version: 8"), Reason::HttpNotUpgrade, 400),
        (changed(KEY, "short"), Reason::HttpNotUpgrade, 400),
        (changed(KEY, "dGhlIHNhbXBsZSBub25jZQ!="), Reason::HttpNotUpgrade, 400),
        (header(&format!("Sec-WebSocket-Key: {KEY}")), Reason::HttpNotUpgrade, 400),
        (header("Content-Length: 5"), Reason::HttpBody, 400),
        (header("Content-Length: 0\r\nContent-Length: 44"), Reason::HttpBody, 400),
        (header("Transfer-Encoding: chunked"), Reason::HttpBody, 400),
        (format!("{good}GET /other HTTP/1.1\r\n\r\n"), Reason::HttpBody, 400),
        (header(&"X: y\r\n".repeat(40)[..238]), Reason::HttpTooLarge, 431),
        (header(&format!("X: {}", "y".repeat(5_000))), Reason::HttpTooLarge, 431),
        ("nonsense\r\n\r\n".to_owned(), Reason::HttpMalformed, 400),
        ("\0\0\0\0\r\n\r\n".to_owned(), Reason::HttpMalformed, 400),
    ];
    for (request, reason, status) in cases {
        refused(World::secured(), |world| world.say(request.as_bytes()), reason, Http(status));
    }
}

#[test]
fn compression_is_not_agreed_on() {
    let mut world = World::secured();
    let offer = "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
    world.say(String::from_utf8(upgrade()).expect("text").replace("\r\n\r\n", offer).as_bytes());
    assert!(world.peer.http.starts_with("HTTP/1.1 101 ") && !world.peer.http.contains("Extensions"));
}

// WebSocket, before and after a node is there.

/// Frames that no client may send.
fn bad_frames() -> Vec<(Vec<u8>, Reason, Told)> {
    let frame = |fin, opcode, payload: &[u8]| encode_frame(fin, opcode, Some(MASK), payload);
    let peak = message(number::NEW_PEAK, 80);
    let mut reserved = binary(&peak);
    reserved[0] |= 0x40;
    let mut opcode = binary(&peak);
    opcode[0] = 0x83;
    let mut long_form = vec![0x82, 0x80 | 126, 0, 5];
    long_form.extend(MASK);
    vec![
        (encode_frame(true, Opcode::Binary, None, &peak), Reason::WsUnmasked, Closed(1002, "")),
        (reserved, Reason::WsReservedBits, Closed(1002, "")),
        (opcode, Reason::WsOpcode, Closed(1002, "")),
        (frame(true, Opcode::Text, b"{}"), Reason::WsTextFrame, Closed(1003, "")),
        (long_form, Reason::WsLength, Closed(1002, "")),
        (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4], Reason::WsLength, Closed(1002, "")),
        (vec![0x82, 0xff, 0, 0, 0, 0x10, 0, 0, 0, 0, 1, 2, 3, 4], Reason::WsTooLarge, Closed(1009, "")),
        (frame(false, Opcode::Ping, b""), Reason::WsControl, Closed(1002, "")),
        (vec![0x89, 0xfe, 0, 126], Reason::WsControl, Closed(1002, "")),
        (frame(true, Opcode::Close, &[3]), Reason::WsControl, Closed(1002, "")),
        (frame(true, Opcode::Close, &[3, 237]), Reason::WsControl, Closed(1002, "")),
        (frame(true, Opcode::Continuation, &peak), Reason::WsContinuation, Closed(1002, "")),
        (
            [frame(false, Opcode::Binary, &greeting()[..4]), binary(&peak)].concat(),
            Reason::WsContinuation,
            Closed(1002, ""),
        ),
        (frame(true, Opcode::Ping, b"x").repeat(61), Reason::WsControlFlood, Closed(1002, "")),
    ]
}

#[test]
fn frames_that_no_client_sends_before_the_handshake() {
    for (frame, reason, told) in bad_frames() {
        refused(World::upgraded(), |world| world.say(&frame), reason, told);
    }
}

#[test]
fn frames_that_no_client_sends_once_messages_pass() {
    for (frame, reason, told) in bad_frames().into_iter().filter(|case| case.1 != Reason::WsContinuation) {
        closed(|world| world.say(&frame), reason, told);
    }
    let peak = message(number::NEW_PEAK, 80);
    let inside = [encode_frame(false, Opcode::Binary, Some(MASK), &peak[..9]), binary(&peak)].concat();
    closed(|world| world.say(&inside), Reason::WsContinuation, Closed(1002, ""));
}

#[test]
fn a_message_in_one_byte_fragments() {
    let peak = message(number::RESPOND_BLOCKS, 2_000);
    let mut frames = encode_frame(false, Opcode::Binary, Some(MASK), &peak[..1]);
    for byte in &peak[1..] {
        frames.extend(encode_frame(false, Opcode::Continuation, Some(MASK), &[*byte]));
    }
    closed(|world| world.say(&frames), Reason::WsFragments, Closed(1002, ""));
}

// Chia handshake.

fn handshake(change: impl FnOnce(&mut Handshake)) -> Vec<u8> {
    let mut handshake = Handshake::new("mainnet", NodeType::FullNode, 8444);
    change(&mut handshake);
    handshake.message().encode()
}

#[test]
fn handshakes() {
    let mut long = greeting();
    long.push(0);
    let mut short = greeting();
    short.pop();
    let trailing = Message::new(number::HANDSHAKE, [&greeting()[6..], &[0]].concat()).encode();
    let huge = message(number::HANDSHAKE, 20_000);
    let mut text = Handshake::new("mainnet", NodeType::FullNode, 8444).encode();
    text[5] = 0xff;
    let kind = |kind: u8| handshake(|handshake| handshake.node_type = kind);
    let cases = [
        (
            handshake(|handshake| handshake.network_id = "testnet11".into()),
            Reason::ChiaWrongNetwork,
            Closed(1002, "110"),
        ),
        (
            handshake(|handshake| handshake.network_id = String::new()),
            Reason::ChiaWrongNetwork,
            Closed(1002, "110"),
        ),
        (kind(0), Reason::ChiaWrongType, Closed(1000, "")),
        (kind(99), Reason::ChiaWrongType, Closed(1000, "")),
        (kind(NodeType::Wallet as u8), Reason::ChiaWrongType, Closed(1000, "")),
        (kind(NodeType::Farmer as u8), Reason::ChiaWrongType, Closed(1000, "")),
        (
            handshake(|handshake| handshake.software_version = "9".repeat(129)),
            Reason::ChiaBadHandshake,
            Closed(1002, "-6"),
        ),
        (
            handshake(|handshake| handshake.protocol_version = "latest".into()),
            Reason::ChiaBadHandshake,
            Closed(1002, "-6"),
        ),
        (trailing, Reason::ChiaBadHandshake, Closed(1002, "-6")),
        (Message::new(number::HANDSHAKE, text).encode(), Reason::ChiaBadHandshake, Closed(1002, "-6")),
        (Message::new(number::HANDSHAKE, []).encode(), Reason::ChiaBadHandshake, Closed(1002, "-6")),
        (huge, Reason::ChiaBadHandshake, Closed(1002, "-6")),
        (long, Reason::EnvelopeMalformed, Closed(1002, "-4")),
        (short, Reason::EnvelopeMalformed, Closed(1002, "-4")),
        (vec![number::HANDSHAKE], Reason::EnvelopeMalformed, Closed(1002, "-4")),
        (message(number::NEW_PEAK, 80), Reason::ChiaNoHandshake, Closed(1002, "-6")),
        (message(number::CONFIGURE_WINDOW_SIZES, 80), Reason::ChiaNoHandshake, Closed(1002, "-6")),
        (message(200, 4), Reason::ChiaNoHandshake, Closed(1002, "-6")),
    ];
    for (message, reason, told) in cases {
        refused(World::upgraded(), |world| world.say(&binary(&message)), reason, told);
    }
    refused(
        World::upgraded(),
        |world| world.say(&binary(&[])),
        Reason::EnvelopeMalformed,
        Closed(1002, "-4"),
    );
}

#[test]
fn friends_may_be_of_any_kind() {
    let mut world = World::configured(|config| config.rules = befriended());
    world.run();
    world.say(&upgrade());
    world.say(&binary(&handshake(|handshake| handshake.node_type = NodeType::Farmer as u8)));
    assert!(world.gate.is_open());
}

// Dials.

#[test]
fn dials_that_fail() {
    let cases = [
        (DialFailure::NoNode, Reason::NoNode, Closed(1013, "")),
        (DialFailure::Busy, Reason::DialBusy, Closed(1013, "")),
        (DialFailure::Duplicate, Reason::DuplicateId, Closed(1000, "")),
        (DialFailure::OwnNode, Reason::OwnNode, Closed(1000, "")),
    ];
    for (failure, reason, told) in cases {
        let mut world = World::upgraded();
        world.dials = Dials::Fail(failure);
        world.say(&binary(&greeting()));
        assert_eq!(world.verdict(), Some(reason));
        assert_eq!(world.dialled, [Some(peer_id())]);
        check_told(&world, reason, told);
    }
}

// Messages.

#[test]
fn messages_that_must_not_reach_the_node() {
    let mut lying = message(number::NEW_PEAK, 80);
    lying[5] += 1;
    let mut short = message(number::NEW_PEAK, 80);
    short[5] -= 1;
    let mut flag = message(number::NEW_PEAK, 80);
    flag[1] = 2;
    let wallets_own = 48; // send_transaction
    let to_wallets = 50; // new_peak_wallet
    let cases = [
        (greeting(), Reason::ChiaSecondHandshake, Closed(1002, "1")),
        (lying, Reason::EnvelopeMalformed, Closed(1002, "-4")),
        (short, Reason::EnvelopeMalformed, Closed(1002, "-4")),
        (flag, Reason::EnvelopeMalformed, Closed(1002, "-4")),
        (vec![number::NEW_PEAK, 1, 0], Reason::EnvelopeMalformed, Closed(1002, "-4")),
        (vec![], Reason::EnvelopeMalformed, Closed(1002, "-4")),
        (message(wallets_own, 100), Reason::NotForThisSender, Closed(1002, "1")),
        (message(to_wallets, 100), Reason::NotForThisSender, Closed(1002, "1")),
        (message(number::NEW_PEAK, 513), Reason::RateLimited, Closed(1008, "")),
        (message(number::REQUEST_PEERS, 101), Reason::RateLimited, Closed(1008, "")),
        (message(200, 65_537), Reason::UnknownMessage, Closed(1002, "-4")),
    ];
    for (message, reason, told) in cases {
        closed_either_way(|world| world.peer_sends(&message), reason, told);
    }
}

#[test]
fn an_unsolicited_reply_beyond_what_is_held() {
    let size = (8 << 20) + 1;
    let header = Envelope { kind: number::RESPOND_BLOCKS, id: None, body: size };
    let mut bytes = [0; ID_HEADER_BYTES];
    let len = header.write(&mut bytes);
    let script = |world: &mut World| {
        let frame = encode_frame(false, Opcode::Binary, world.mask(Leg::Public), &bytes[..len]);
        world.say(&frame);
    };
    closed_either_way(script, Reason::MessageTooLarge, Closed(1009, ""));
}

#[test]
fn unknown_types_pass_within_limits() {
    let unknown = binary(&message(200, 4));
    let script = |world: &mut World| (0..61).for_each(|_| world.say(&unknown));
    closed_after(World::open(), 60, script, Reason::UnknownMessage, Closed(1002, "-4"));

    let mut world = World::open();
    (0..60).for_each(|_| world.say(&unknown));
    world.wait(61);
    world.say(&unknown);
    assert_eq!(world.verdict(), None);
    assert_eq!(world.gate.tally().noted.unknown, 61);
}

#[test]
fn wallets_speak_their_own_language() {
    let wallets = || {
        let types = NodeTypes::NONE.with(NodeType::Wallet);
        let mut world = World::configured(|config| config.types = types);
        world.run();
        world.say(&upgrade());
        world.say(&binary(&handshake(|handshake| handshake.node_type = NodeType::Wallet as u8)));
        world
    };
    let script = |world: &mut World| {
        world.say(&binary(&message(48, 100)));
        world.say(&binary(&message(number::NEW_PEAK, 100)));
    };
    closed_after(wallets(), 1, script, Reason::NotForThisSender, Closed(1002, "1"));
}

// The node's side.

#[test]
fn a_node_that_refuses_the_upgrade() {
    let mut world = World::upgraded();
    world.node_greets = false;
    world.say(&binary(&greeting()));
    world.node_says(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(world.verdict(), Some(Reason::NodeUpgrade));
    assert_eq!(world.node.as_ref().expect("a node").closed, Some(Close::Abort(Reason::NodeUpgrade)));
    check_told(&world, Reason::NodeUpgrade, Closed(1013, ""));
}

#[test]
fn what_a_node_says_at_the_end_reaches_the_peer() {
    let mut world = World::open();
    world.node_sends(&message(number::NEW_PEAK, 80));
    let close = CloseFrame::new(1002, "110");
    world.node_says(&encode_frame(true, Opcode::Close, None, &close.encode()));
    assert_eq!(world.verdict(), Some(Reason::NodeClosed));
    assert_eq!(world.peer.messages.len(), 2);
    check_told(&world, Reason::NodeClosed, Closed(1002, "110"));
    assert_eq!(world.node.expect("a node").close, Some(close));
}

#[test]
fn what_a_peer_says_at_the_end_reaches_the_node() {
    let mut world = World::open();
    world.say(&binary(&message(number::NEW_PEAK, 80)));
    let close = CloseFrame::new(1001, "bye");
    world.say(&encode_frame(true, Opcode::Close, Some(MASK), &close.encode()));
    assert_eq!(world.verdict(), Some(Reason::PeerClosed));
    assert_eq!(world.node_messages().len(), 2);
    assert_eq!(world.node.as_ref().expect("a node").close, Some(close));
    check_told(&world, Reason::PeerClosed, Closed(1001, "bye"));
}

#[test]
fn legs_that_end_without_a_word() {
    let node = |world: &World| world.node.as_ref().expect("a node").closed;
    let ended = |leg, how| {
        let mut world = World::open();
        world.ends(leg, how);
        world
    };
    let world = ended(Leg::Public, End::Reset);
    assert_eq!((world.verdict(), world.peer.closed), (Some(Reason::PeerLost), None));
    assert_eq!(node(&world), Some(Close::Finish(Reason::PeerLost)));
    let world = ended(Leg::Public, End::Fin);
    assert_eq!(world.peer.closed, Some(Close::Finish(Reason::PeerClosed)));
    assert_eq!(node(&world), Some(Close::Finish(Reason::PeerClosed)));
    let world = ended(Leg::Private, End::Reset);
    assert_eq!((world.verdict(), node(&world)), (Some(Reason::NodeLost), None));
    assert_eq!(world.peer.close, Some(CloseFrame::new(1001, "")));
    let world = ended(Leg::Private, End::TimedOut);
    assert_eq!(world.verdict(), Some(Reason::NodeLost));
}

#[test]
fn a_peer_that_leaves_during_the_dial_cancels_it() {
    let mut world = World::upgraded();
    world.dials = Dials::Hang;
    world.say(&binary(&greeting()));
    world.ends(Leg::Public, End::Reset);
    assert_eq!(world.verdict(), Some(Reason::PeerLost));
    world.gate.complete(world.now, Done::Dialled);
    let request = world.gate.request();
    assert!(
        matches!(request, Some(Request::Close(Leg::Private, Close::Abort(Reason::PeerLost)))),
        "{request:?}"
    );
}

#[test]
fn the_host_may_end_a_session() {
    for (reason, told) in [(Reason::Replaced, Closed(1000, "")), (Reason::Aborted, Closed(1001, ""))] {
        let script = |world: &mut World| {
            world.gate.close(world.now, reason);
            world.run();
        };
        closed_either_way(script, reason, told);
    }
    let mut world = World::secured();
    world.gate.close(world.now, Reason::Aborted);
    world.run();
    check_told(&world, Reason::Aborted, Nothing);
}
