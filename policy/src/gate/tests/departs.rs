//! Sessions that a node begins: in which order the two sides learn what, who is refused at which step, and what the other
//! one sees of it. What passes an open session is tested whoever began it (`interleaved`, `refusals`).

use proptest::prelude::*;

use super::world::{
    DESTINATION, Dials, MASK, World, config, departure, greeting, judging, message, node_credential, node_id,
    peer_credential, peer_id, upgrade,
};
use crate::chia::{Handshake, Message, NodeType, number};
use crate::gate::{Departure, Privacy};
use crate::session::{Close, DialFailure, Done, End, Leg, Request, Session, Standing};
use crate::tls::channel::HANDSHAKE_BUFFER;
use crate::tls::{Credential, peer_id as id_of};
use crate::verdict::Reason;
use crate::websocket::{CloseFrame, Opcode, encode_frame};

/// The steps at which one side or the host is waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stop {
    Reach,
    PeerTls,
    Claim,
    NodeTls,
    NodeRequest,
    PeerUpgrade,
    NodeHandshake,
    PeerHandshake,
    Open,
}

impl Stop {
    const ALL: [Stop; 9] = [
        Stop::Reach,
        Stop::PeerTls,
        Stop::Claim,
        Stop::NodeTls,
        Stop::NodeRequest,
        Stop::PeerUpgrade,
        Stop::NodeHandshake,
        Stop::PeerHandshake,
        Stop::Open,
    ];
}

/// A session that has come so far, and waits.
fn at(stop: Stop) -> World {
    let mut world = World::departing();
    stop_at(&mut world, stop);
    world
}

fn stop_at(world: &mut World, stop: Stop) {
    match stop {
        Stop::Reach => world.dials = Dials::Hang,
        Stop::PeerTls => world.peer.reads = false,
        Stop::Claim => world.claims = Dials::Hang,
        Stop::NodeTls => world.node.as_mut().expect("a node").reads = false,
        Stop::NodeRequest | Stop::NodeHandshake => world.node_greets = false,
        Stop::PeerUpgrade | Stop::PeerHandshake => world.peer_greets = false,
        Stop::Open => {}
    }
    world.run();
    match stop {
        Stop::NodeHandshake => world.node_says(&upgrade()),
        Stop::PeerHandshake => {
            world.peer.play(&[]);
            world.run();
        }
        _ => {}
    }
    assert_eq!((world.verdict(), world.gate.is_open()), (None, stop == Stop::Open), "{stop:?}");
}

fn node_closed(world: &World) -> Option<Close> {
    world.node.as_ref().expect("a node").closed
}

/// The session ended for the reason, before anything of the peer's reached the node.
#[track_caller]
fn refused(world: &World, reason: Reason) {
    assert_eq!(world.verdict(), Some(reason), "{:?}", world.detail());
    assert_eq!(world.node_messages().len(), 0);
}

fn self_signed() -> Credential {
    let own = rcgen::generate_simple_self_signed(["chia.net".to_owned()]).expect("a certificate");
    Credential {
        chain: vec![own.cert.der().clone()],
        key: rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key"),
    }
}

fn handshake(change: impl FnOnce(&mut Handshake)) -> Vec<u8> {
    let mut handshake = Handshake::new("mainnet", NodeType::FullNode, 8444);
    change(&mut handshake);
    handshake.message().encode()
}

// What is seen.

#[test]
fn each_side_sees_who_stands_for_the_other() {
    let world = World::departed();
    let shown = |tls: &rustls::Connection| tls.peer_certificates().expect("a chain").to_vec();
    assert_eq!(shown(&world.peer.tls), departure().showing.chain);
    let node = world.node.as_ref().expect("a node");
    assert_eq!(shown(&node.tls), config().fleet.identity(peer_id()).expect("an identity").chain);
    assert_eq!((world.node_ids, world.claimed, world.reached), (vec![node_id()], vec![peer_id()], 1));
    assert_eq!(world.standings, [Standing::Proven]);
    assert_eq!(world.dialled, []);
    assert!(world.peer.http.contains(&format!("\r\nHost: {DESTINATION}\r\n")), "{}", world.peer.http);
}

#[test]
fn a_node_knows_a_peer_by_one_identity_whoever_dials() {
    let of = |world: World| {
        let node = world.node.expect("a node");
        id_of(&node.tls.peer_certificates().expect("a chain")[0])
    };
    assert_eq!(of(World::departed()), of(World::open()));
}

#[test]
fn handshakes_pass_end_to_end_but_for_the_nodes_port() {
    for (service, port) in [(Some("203.0.113.1:18444"), 18_444), (None, 0)] {
        let service = service.map(|text| text.parse().expect("an address"));
        let mut config = config();
        config.privacy = Some(Privacy { service, ..Privacy::default() });
        let mut world =
            World::departing_with(config, departure(), peer_credential(), Some(node_credential()));
        let said = |port| {
            handshake(|handshake| {
                handshake.server_port = port;
                handshake.capabilities.push((77, "a capability of tomorrow".into()));
            })
        };
        world.node_greeting = said(8_555);
        world.peer_greeting = said(8_666);
        world.run();
        assert_eq!(world.peer.messages, [said(port)]);
        assert_eq!(world.node_messages(), [said(8_666)]);
        assert_eq!((world.gate.kind(), world.gate.software()), (Some(NodeType::FullNode), "2.7.5"));
    }
}

#[test]
fn messages_pass_both_ways_and_nothing_is_held_afterwards() {
    let mut world = World::departed();
    let all =
        [message(number::NEW_PEAK, 80), message(27, 500_000), message(number::RESPOND_BLOCKS, 3_000_000)];
    for sent in &all {
        world.peer_sends(sent);
        world.node_sends(sent);
    }
    assert_eq!(world.verdict(), None);
    assert_eq!((&world.node_messages()[1..], &world.peer.messages[1..]), (&all[..], &all[..]));
    assert_eq!(world.gate.buffered(), 0);
    let tally = world.gate.tally();
    assert_eq!((tally.messages_to_node, tally.messages_to_peer), (4, 4));
    assert_eq!((tally.noted.unknown, tally.noted.odd), (0, 0));
    let sum = all.iter().chain([&greeting()]).map(Vec::len).sum::<usize>() as u64;
    assert_eq!((tally.bytes_to_node, tally.bytes_to_peer), (sum, sum));
}

#[test]
fn judged_and_paired_as_any_session() {
    let mut world = World::departing_with(judging(), departure(), peer_credential(), Some(node_credential()));
    world.run();
    // What nobody asked for is thrown away; what the node asked for passes.
    let reply = Message::new(31, [0, 0, 0, 1, 0, 0, 0, 33]).with_id(7);
    world.peer_sends(&reply.encode());
    assert_eq!((world.node_messages().len(), world.gate.tally().noted.dropped), (1, 1));
    let ask = Message::new(number::REQUEST_BLOCKS, [0, 0, 0, 1, 0, 0, 0, 33, 1]).with_id(7);
    world.node_sends(&ask.encode());
    world.peer_sends(&reply.encode());
    assert_eq!(world.node_messages()[1..], [reply.encode()]);
    // The node's announcements are held back before the peer would ban for them.
    for height in 0..200_u32 {
        let body = [&[7; 32][..], &height.to_be_bytes(), &[0; 16 + 4 + 32]].concat();
        world.node_sends(&Message::new(number::NEW_PEAK, body).encode());
    }
    assert!((50..190).contains(&world.peer.messages.len()), "{}", world.peer.messages.len());
    assert_eq!(world.verdict(), None);
}

#[test]
fn no_inner_address_goes_outward() {
    let mut config = config();
    config.privacy =
        Some(Privacy { nodes: vec!["198.51.100.9".parse().expect("an address")], ..Privacy::default() });
    let mut world = World::departing_with(config, departure(), peer_credential(), Some(node_credential()));
    world.run();
    let list = |hosts: &[&str]| {
        let mut body = (hosts.len() as u32).to_be_bytes().to_vec();
        for host in hosts {
            body.extend((host.len() as u32).to_be_bytes());
            body.extend(host.as_bytes());
            body.extend([0; 10]);
        }
        Message::new(number::RESPOND_PEERS, body).encode()
    };
    world.node_sends(&list(&["10.0.0.1", "203.0.113.9", "198.51.100.9"]));
    assert_eq!(world.peer.messages[1..], [list(&["203.0.113.9"])]);
    assert_eq!(world.gate.tally().addresses_withheld, 2);
}

#[test]
fn introducers_are_asked_for_peers() {
    let mut world = World::departing_with(judging(), departure(), peer_credential(), Some(node_credential()));
    world.peer_greeting = handshake(|handshake| handshake.node_type = NodeType::Introducer as u8);
    world.run();
    assert!(world.gate.is_open() && world.gate.kind() == Some(NodeType::Introducer));
    let ask = Message::new(63, []).encode();
    let answer = Message::new(number::RESPOND_PEERS_INTRODUCER, [0; 4]).encode();
    world.node_sends(&ask);
    world.peer_sends(&answer);
    assert_eq!((&world.peer.messages[1..], &world.node_messages()[1..]), (&[ask][..], &[answer][..]));
    // It is no full node.
    let body = [&[7; 32][..], &[0; 4 + 16 + 4 + 32]].concat();
    world.peer_sends(&Message::new(number::NEW_PEAK, body).encode());
    assert_eq!(world.verdict(), Some(Reason::NotForThisSender));
}

// The order of things.

#[test]
fn the_node_waits_unanswered_until_its_peer_is_known() {
    for stop in [Stop::Reach, Stop::PeerTls, Stop::Claim] {
        let mut world = at(stop);
        assert_eq!(world.gate.transmit(world.now, Leg::Private, &mut [0; 600]), 0);
        assert!((1..HANDSHAKE_BUFFER).contains(&world.gate.appetite(Leg::Private)), "its hello is here");
        world.peer.reads = true;
        let done = match stop {
            Stop::Reach => Some(Done::Dialled),
            Stop::Claim => Some(Done::Claimed),
            _ => None,
        };
        if let Some(done) = done {
            world.gate.complete(world.now, done);
        }
        world.run();
        assert!(world.gate.is_open(), "{stop:?}: {:?}", world.gate);
    }
}

#[test]
fn no_more_than_a_hello_waits_for_the_peer() {
    for stop in [Stop::Reach, Stop::PeerTls, Stop::Claim] {
        let mut world = at(stop);
        // A change of ciphers, again and again: no matter of ours before the hello is looked at.
        let mut noise = [20, 3, 3, 0, 1, 1].repeat(10_000);
        let mut taken = 0;
        for _ in 0..100 {
            taken += world.gate.receive(world.now, Leg::Private, &mut noise);
        }
        assert!(taken < HANDSHAKE_BUFFER, "{taken}");
        assert_eq!((world.gate.appetite(Leg::Private), world.verdict()), (0, None));
    }
}

#[test]
fn a_node_that_speaks_no_tls_is_refused_before_its_peer_is_reached() {
    for stop in [Stop::Reach, Stop::PeerTls, Stop::Claim] {
        let mut world = World::departing();
        world.node = None;
        match stop {
            Stop::Reach => world.dials = Dials::Hang,
            Stop::PeerTls => world.peer.reads = false,
            _ => world.claims = Dials::Hang,
        }
        world.run();
        world.gate.receive(world.now, Leg::Private, &mut b"GET / HTTP/1.1\r\n\r\n".to_vec());
        world.run();
        refused(&world, Reason::NodeTls);
        assert_eq!(world.peer.closed, Some(Close::Abort(Reason::NodeTls)));
    }
}

#[test]
fn the_peer_is_not_asked_before_the_node_has_asked() {
    let mut world = at(Stop::NodeRequest);
    assert_eq!(world.peer.http, "");
    world.node_says(&upgrade());
    assert!(world.peer.http.starts_with("GET /ws "));
}

#[test]
fn a_peer_that_introduces_itself_first_is_heard_out() {
    let mut world = at(Stop::NodeHandshake);
    world.peer_greets = false;
    let peak = message(number::NEW_PEAK, 80);
    let early = [world.peer.frame(&greeting()), world.peer.frame(&peak)].concat();
    world.say(&early);
    assert_eq!((world.verdict(), world.gate.is_open()), (None, false));
    world.node_sends(&greeting());
    assert!(world.gate.is_open());
    assert_eq!(
        (world.node_messages(), &world.peer.messages[..]),
        (&[greeting(), peak][..], &[greeting()][..])
    );
}

// Who is refused.

#[test]
fn peers_that_cannot_be_reached() {
    let mut world = World::departing();
    world.dials = Dials::Fail(DialFailure::Unreachable);
    world.run();
    refused(&world, Reason::PeerUnreachable);
    assert_eq!(node_closed(&world), Some(Close::Abort(Reason::PeerUnreachable)));
    for how in [End::Reset, End::TimedOut, End::Fin] {
        let mut world = at(Stop::Reach);
        world.ends(Leg::Public, how);
        refused(&world, Reason::PeerUnreachable);
        assert_eq!(node_closed(&world), Some(Close::Abort(Reason::PeerUnreachable)));
    }
}

#[test]
fn a_node_that_leaves_during_the_dial_cancels_it() {
    for (how, reason) in [(End::Reset, Reason::NodeLost), (End::Fin, Reason::NodeLost)] {
        let mut world = at(Stop::Reach);
        world.ends(Leg::Private, how);
        refused(&world, reason);
        assert_eq!(world.peer.closed, Some(Close::Abort(reason)));
        world.gate.complete(world.now, Done::Dialled);
        let request = world.gate.request();
        assert!(matches!(request, Some(Request::Close(Leg::Public, Close::Abort(_)))), "{request:?}");
    }
}

#[test]
fn peers_whose_tls_does_not_fit() {
    let own = self_signed();
    let mut world = World::departing_with(config(), departure(), &own, Some(node_credential()));
    world.run();
    refused(&world, Reason::TlsUntrusted);
    assert_eq!(world.claimed, []);
    assert_eq!(node_closed(&world), Some(Close::Abort(Reason::TlsUntrusted)));
    for (bytes, reason) in [
        (&b"\x00\x01\x02\x03\x04\x05"[..], Reason::TlsGarbage),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Reason::PlainHttp),
        (b"\x15\x03\x03\x00\x02\x02\x28", Reason::TlsAlert),
    ] {
        let mut world = at(Stop::PeerTls);
        world.say_raw(bytes);
        refused(&world, reason);
        assert_eq!(node_closed(&world), Some(Close::Abort(reason)));
    }
}

#[test]
fn identities_that_are_taken_or_ours() {
    for (failure, reason) in
        [(DialFailure::Duplicate, Reason::DuplicateId), (DialFailure::OwnNode, Reason::OwnNode)]
    {
        let mut world = World::departing();
        world.claims = Dials::Fail(failure);
        world.run();
        refused(&world, reason);
        assert_eq!(world.claimed, [peer_id()]);
        assert_eq!(node_closed(&world), Some(Close::Abort(reason)));
    }
    for own in [node_credential(), &departure().showing] {
        let mut world = World::departing_with(config(), departure(), own, Some(node_credential()));
        world.run();
        refused(&world, Reason::OwnNode);
        assert_eq!(world.claimed, []);
    }
}

#[test]
fn nodes_that_are_not_who_they_should_be() {
    let with = |departure, node: Option<&Credential>| {
        let mut world = World::departing_with(config(), departure, peer_credential(), node);
        world.run();
        world
    };
    let other = Departure { node: Some(crate::PeerId([9; 32])), ..departure() };
    let world = with(other, Some(node_credential()));
    refused(&world, Reason::NodeTls);
    assert!(world.detail().is_some_and(|text| text.contains("instead of 0909")), "{:?}", world.detail());
    assert_eq!(node_closed(&world), Some(Close::Finish(Reason::NodeTls)));
    assert_eq!(world.peer.http, "");

    let unknown = Departure { node: None, ..departure() };
    assert!(with(unknown, Some(node_credential())).gate.is_open());
    for node in [None, Some(&self_signed())] {
        let world = with(departure(), node);
        refused(&world, Reason::NodeTls);
        assert!(world.node.as_ref().is_some_and(|node| node.error.is_some()), "it is told by an alert");
        assert_eq!(world.peer.closed, Some(Close::Abort(Reason::NodeTls)));
    }
}

#[test]
fn requests_that_no_node_makes() {
    let good = String::from_utf8(upgrade()).expect("text");
    for (request, status) in [
        (good.replace("/ws", "/"), 404),
        (good.replace("GET", "POST"), 405),
        (good.replace("Version: 13", "Version: 8"), 400),
        (format!("{good}more"), 400),
        ("x".repeat(5_000), 431),
    ] {
        let mut world = at(Stop::NodeRequest);
        world.node_says(request.as_bytes());
        refused(&world, Reason::NodeUpgrade);
        let node = world.node.as_ref().expect("a node");
        assert!(node.http.starts_with(&format!("HTTP/1.1 {status} ")), "{}", node.http);
        assert!(world.detail().is_some());
        assert_eq!(world.peer.closed, Some(Close::Abort(Reason::NodeUpgrade)));
    }
    let mut world = at(Stop::PeerUpgrade);
    world.node_says(b"more");
    refused(&world, Reason::NodeUpgrade);
}

#[test]
fn peers_that_refuse_the_upgrade() {
    for (answer, told) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403"),
        ("HTTP/1.1 200 OK\r\n\r\n", "200"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "101",
        ),
        ("nonsense\r\n\r\n", "not HTTP"),
    ] {
        let mut world = at(Stop::PeerUpgrade);
        world.say(answer.as_bytes());
        refused(&world, Reason::PeerUpgrade);
        assert!(world.detail().is_some_and(|text| text.contains(told)), "{:?}", world.detail());
        let node = world.node.as_ref().expect("a node");
        assert!(node.http.starts_with("HTTP/1.1 502 ") && node.notified, "{}", node.http);
        assert_eq!(node.closed, Some(Close::Finish(Reason::PeerUpgrade)));
    }
    for stop in [Stop::Claim, Stop::NodeTls, Stop::NodeRequest] {
        let mut world = at(stop);
        world.say(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        refused(&world, Reason::PeerUpgrade);
    }
}

#[test]
fn nodes_that_do_not_introduce_themselves() {
    let early = [greeting(), message(number::NEW_PEAK, 80)];
    for said in [&[vec![]][..], &[vec![1]], &[message(number::NEW_PEAK, 80)], &early] {
        let mut world = at(Stop::NodeHandshake);
        world.peer_greets = false;
        let node = world.node.as_ref().expect("a node");
        let frames: Vec<u8> = said.iter().flat_map(|message| node.frame(message)).collect();
        world.node_says(&frames);
        refused(&world, Reason::NodeProtocol);
        assert_eq!(world.peer.close, Some(CloseFrame::new(1001, "")));
        assert!(world.peer.messages.len() < 2, "nothing but a handshake went out");
    }
}

#[test]
fn peers_whose_handshake_does_not_fit() {
    let kind = |kind: u8| handshake(|handshake| handshake.node_type = kind);
    for (said, reason, close) in [
        (
            handshake(|handshake| handshake.network_id = "testnet11".into()),
            Reason::ChiaWrongNetwork,
            CloseFrame::new(1002, "110"),
        ),
        (kind(NodeType::Wallet as u8), Reason::ChiaWrongType, CloseFrame::new(1000, "")),
        (kind(99), Reason::ChiaWrongType, CloseFrame::new(1000, "")),
        (message(number::NEW_PEAK, 80), Reason::ChiaNoHandshake, CloseFrame::new(1002, "-6")),
        (message(number::HANDSHAKE, 20_000), Reason::ChiaBadHandshake, CloseFrame::new(1002, "-6")),
        (vec![], Reason::EnvelopeMalformed, CloseFrame::new(1002, "-4")),
    ] {
        let mut world = at(Stop::PeerHandshake);
        world.peer_sends(&said);
        refused(&world, reason);
        assert_eq!(world.peer.close, Some(close));
        assert_eq!(world.node.as_ref().and_then(|node| node.close.clone()), Some(CloseFrame::new(1000, "")));
        assert!(world.detail().is_some());
    }
    let mut world = at(Stop::PeerHandshake);
    world.say(&encode_frame(true, Opcode::Binary, Some(MASK), &greeting()));
    refused(&world, Reason::WsUnmasked);
}

#[test]
fn sides_that_leave_at_any_step() {
    for stop in Stop::ALL {
        for how in [End::Fin, End::Reset, End::TimedOut, End::Aborted] {
            for leg in [Leg::Public, Leg::Private] {
                let mut world = at(stop);
                world.ends(leg, how);
                let reason = match (how, leg, stop) {
                    (End::Aborted, ..) => Reason::Aborted,
                    (_, Leg::Public, Stop::Reach) => Reason::PeerUnreachable,
                    (End::Fin, Leg::Public, _) => Reason::PeerClosed,
                    (_, Leg::Public, _) => Reason::PeerLost,
                    (_, Leg::Private, _) => Reason::NodeLost,
                };
                assert_eq!(world.verdict(), Some(reason), "{stop:?} {how:?} {leg:?}");
                let other = match leg {
                    Leg::Public => node_closed(&world),
                    Leg::Private => world.peer.closed,
                };
                assert!(other.is_some(), "{stop:?} {how:?} {leg:?}: the other side is told");
            }
        }
    }
}

// Time.

#[test]
fn each_step_has_its_deadline() {
    for (stop, seconds, reason) in [
        (Stop::Reach, 15, Reason::PeerUnreachable),
        (Stop::PeerTls, 10, Reason::TlsTimeout),
        (Stop::Claim, 15, Reason::DuplicateId),
        (Stop::NodeTls, 10, Reason::NodeTimeout),
        (Stop::NodeRequest, 10, Reason::NodeTimeout),
        (Stop::PeerUpgrade, 5, Reason::PeerUpgrade),
        (Stop::NodeHandshake, 30, Reason::NodeTimeout),
        (Stop::PeerHandshake, 30, Reason::ChiaTimeout),
    ] {
        let mut world = at(stop);
        world.wait(seconds - 1);
        assert_eq!(world.verdict(), None, "{stop:?}: too early");
        world.wait(1);
        assert_eq!(world.verdict(), Some(reason), "{stop:?}");
        assert!(node_closed(&world).is_some() && world.peer.closed.is_some(), "{stop:?}");
        assert!(world.detail().is_some() || stop == Stop::Claim, "{stop:?}");
    }
}

#[test]
fn a_node_that_stays_silent_behind_an_early_peer() {
    let mut world = at(Stop::NodeHandshake);
    world.peer_sends(&greeting());
    world.wait(30);
    assert_eq!(world.verdict(), Some(Reason::NodeTimeout));
}

// Anything, in any pieces.

fn leg() -> impl Strategy<Value = Leg> {
    prop_oneof![Just(Leg::Public), Just(Leg::Private)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_cutting_opens_and_passes_the_same(chunk in 1_usize..700, node_first in any::<bool>()) {
        let mut world = World::departing();
        world.chunk = chunk;
        world.run();
        prop_assert!(world.gate.is_open(), "{:?}", world.gate);
        let peak = message(number::NEW_PEAK, 80);
        if node_first {
            world.node_sends(&peak);
        }
        world.peer_sends(&peak);
        prop_assert_eq!(world.node_messages(), [greeting(), peak]);
        prop_assert_eq!(world.peer.messages.len(), 1 + usize::from(node_first));
    }

    /// Whatever arrives on either leg, below TLS or above it, at whatever step: nothing is held beyond the limits, nothing
    /// but what passed reaches the node, and a session that does not open ends by itself.
    #[test]
    fn noise_at_any_step_is_bounded_and_ends(
        stop in prop::sample::select(&Stop::ALL[..]),
        leg in leg(),
        below in any::<bool>(),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3_000), 1..5),
        chunk in prop::sample::select(&[7, 1_400, usize::MAX][..]),
    ) {
        let mut world = at(stop);
        world.chunk = chunk;
        for bytes in &noise {
            match (leg, below) {
                (Leg::Public, true) => world.say_raw(bytes),
                (Leg::Public, false) => world.say(bytes),
                (Leg::Private, true) => world.node_says_raw(bytes),
                (Leg::Private, false) => world.node_says(bytes),
            }
            prop_assert!(world.gate.buffered() < 128 << 10, "{}", world.gate.buffered());
        }
        for message in world.node_messages() {
            prop_assert!(Message::decode(message).is_ok(), "{:?}", message);
        }
        world.wait(4_000);
        prop_assert!(world.verdict().is_some());
        prop_assert_eq!(world.gate.deadline(), None);
    }

    /// The lines of the opening with a few bytes changed, from either side.
    #[test]
    fn changed_lines_never_panic_and_never_pass_unread(
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        of_node in any::<bool>(),
        second in any::<bool>(),
    ) {
        let stop = match (of_node, second) {
            (true, false) => Stop::NodeRequest,
            (true, true) => Stop::NodeHandshake,
            (false, false) => Stop::PeerUpgrade,
            (false, true) => Stop::PeerHandshake,
        };
        let mut world = at(stop);
        let mut line = match (of_node, second) {
            (true, false) => upgrade(),
            (true, true) => world.node.as_ref().expect("a node").frame(&greeting()),
            (false, false) => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_vec(),
            (false, true) => world.peer.frame(&greeting()),
        };
        for (index, value) in &mutations {
            let index = index.index(line.len());
            line[index] ^= value;
        }
        if of_node { world.node_says(&line) } else { world.say(&line) }
        for message in world.node_messages() {
            let kind = Message::decode(message).map(|message| message.kind);
            prop_assert_eq!(kind, Ok(number::HANDSHAKE));
        }
        world.wait(4_000);
        prop_assert!(world.verdict().is_some());
    }
}
