//! What good peers and nodes say to each other arrives whole, in order, in any cutting.

use proptest::prelude::*;

use super::world::{MASK, World, binary, config, greeting, message, node_id, peer_id, upgrade};
use crate::chia::{Handshake, Message, NodeType, PLAIN_HEADER_BYTES, number};
use crate::gate::{Budget, Privacy};
use crate::session::{Close, Leg, Session};
use crate::verdict::Reason;
use crate::websocket::{Opcode, encode_frame};

#[test]
fn the_handshake_passes_end_to_end_but_for_the_server_port() {
    let mut peer = Handshake::new("mainnet", NodeType::FullNode, 8444);
    peer.capabilities.push((77, "a capability of tomorrow".into()));
    let mut world = World::upgraded();
    world.say(&binary(&peer.message().encode()));
    assert_eq!(world.dialled, [Some(peer_id())]);
    let seen = Message::decode(&world.node_messages()[0]).expect("an envelope");
    let seen = Handshake::decode(&seen.body).expect("a handshake");
    assert_eq!(seen, Handshake { server_port: 0, ..peer });
    assert_eq!(world.peer.messages, [greeting()]);
    assert_eq!(world.gate.software(), "2.7.5");
    assert_eq!(world.gate.kind(), Some(NodeType::FullNode));
}

#[test]
fn a_transparent_listener_keeps_the_server_port() {
    let world = World::configured(|config| config.server_port = None).opened();
    assert_eq!(world.node_messages(), [greeting()]);
}

/// In one piece and byte by byte, with an id and without, behind and before other messages.
#[test]
fn a_list_of_peers_carries_no_inner_address_outward() {
    let list = |hosts: &[&str]| {
        let mut body = (hosts.len() as u32).to_be_bytes().to_vec();
        for host in hosts {
            body.extend((host.len() as u32).to_be_bytes());
            body.extend(host.as_bytes());
            body.extend([0x20, 0xfc, 0, 0, 0, 0, 0, 0, 0, 7]);
        }
        body
    };
    let service = "203.0.113.1:8444".parse().expect("an address");
    let privacy = Privacy {
        nodes: vec!["10.2.0.2".parse().expect("an address")],
        inner: vec![],
        service: Some(service),
    };
    let mut world = World::configured(|config| config.privacy = Some(privacy)).opened();
    let answer =
        |hosts: &[&str]| Message { id: Some(7), ..Message::new(number::RESPOND_PEERS, list(hosts)) }.encode();
    let (sent, expected) = (
        answer(&["10.2.0.1", "198.51.100.7", "10.2.0.2", "192.168.7.7"]),
        answer(&["198.51.100.7", "203.0.113.1"]),
    );
    let peak = message(number::NEW_PEAK, 80);
    world.node_sends(&peak);
    world.node_sends(&sent);
    let frame = encode_frame(true, Opcode::Binary, None, &sent);
    for byte in frame.chunks(1) {
        world.node_says(byte);
    }
    world.node_sends(&peak);
    assert_eq!(world.peer.messages[1..], [peak.clone(), expected.clone(), expected, peak]);
    assert_eq!(world.gate.tally().addresses_withheld, 4);
    let greeting = Message::decode(&world.peer.messages[0]).expect("an envelope");
    assert_eq!(Handshake::decode(&greeting.body).expect("a handshake").server_port, 8444);
}

#[test]
fn each_peer_has_an_identity_of_its_own_at_the_node() {
    let world = World::open();
    let shown = world.node.as_ref().and_then(|node| node.tls.peer_certificates()).expect("a chain");
    let expected = config().fleet.identity(peer_id()).expect("an identity");
    assert_eq!(shown, expected.chain);
}

#[test]
fn the_host_hears_who_the_node_is() {
    assert_eq!(World::open().node_ids, [node_id()]);
}

#[test]
fn what_a_peer_sends_while_the_node_is_dialled_waits_for_it() {
    let mut world = World::upgraded();
    let peak = message(number::NEW_PEAK, 80);
    world.say(&[binary(&greeting()), binary(&peak)].concat());
    assert_eq!(world.node_messages()[1..], [peak]);
}

#[test]
fn messages_pass_both_ways_and_nothing_is_held_afterwards() {
    let mut world = World::open();
    let small = message(number::NEW_PEAK, 80);
    let block = message(27, 500_000);
    let blocks = message(number::RESPOND_BLOCKS, 3_000_000);
    for sent in [&small, &block, &small, &blocks] {
        world.say(&binary(sent));
        world.node_sends(sent);
    }
    assert_eq!(world.verdict(), None);
    assert_eq!(world.node_messages()[1..], [small.clone(), block.clone(), small.clone(), blocks.clone()]);
    assert_eq!(world.peer.messages[1..], [small, block, world.peer.messages[1].clone(), blocks]);
    assert_eq!(world.gate.buffered(), 0);
    let tally = world.gate.tally();
    assert_eq!((tally.messages_to_node, tally.messages_to_peer), (5, 5));
    assert_eq!((tally.noted.unknown, tally.noted.odd), (0, 0));
}

#[test]
fn fragments_with_pings_between_them() {
    let block = message(27, 10_000);
    let mut frames = encode_frame(false, Opcode::Binary, Some(MASK), &block[..3]);
    frames.extend(encode_frame(true, Opcode::Ping, Some(MASK), b"are you there"));
    frames.extend(encode_frame(false, Opcode::Continuation, Some(MASK), &block[3..5_000]));
    frames.extend(encode_frame(true, Opcode::Pong, Some(MASK), b""));
    frames.extend(encode_frame(true, Opcode::Continuation, Some(MASK), &block[5_000..]));
    let mut world = World::open();
    world.say(&frames);
    assert_eq!(world.node_messages()[1..], [block]);
    assert_eq!((world.peer.pongs, world.node.as_ref().map(|node| node.pings)), (1, Some(0)));
}

#[test]
fn a_request_is_not_seen_by_the_node_before_it_is_complete() {
    let mut world = World::open();
    let transaction = message(23, 300_000);
    let frame = binary(&transaction);
    world.say(&frame[..frame.len() - 1]);
    assert_eq!(world.node.as_ref().expect("a node").partial, b"");
    world.say(&frame[frame.len() - 1..]);
    assert_eq!(world.node_messages()[1..], [transaction]);
}

/// The node asks for blocks with an id.
fn ask(world: &mut World, id: u16) {
    world.node_sends(&Message::new(number::REQUEST_BLOCKS, [0; 9]).with_id(id).encode());
}

fn blocks(id: u16, size: usize) -> Vec<u8> {
    Message::new(number::RESPOND_BLOCKS, vec![7; size]).with_id(id).encode()
}

#[test]
fn a_reply_that_was_asked_for_streams_with_its_end_withheld() {
    let mut world = World::open();
    ask(&mut world, 9);
    let reply = blocks(9, 20 << 20);
    let frame = binary(&reply);
    let (most, end) = frame.split_at(frame.len() - 1);
    world.say(most);
    let node = world.node.as_ref().expect("a node");
    assert!(node.partial.len() > reply.len() - (64 << 10), "it should stream");
    assert!(world.gate.buffered() < 256 << 10, "{}", world.gate.buffered());
    assert_eq!(node.messages.len(), 1);
    world.say(end);
    assert_eq!(world.node_messages()[1..], [reply]);
}

#[test]
fn only_the_reply_with_the_right_id_streams() {
    for (id, partial) in [(9, true), (8, false)] {
        let mut world = World::open();
        ask(&mut world, 9);
        let frame = binary(&blocks(id, 1 << 20));
        world.say(&frame[..frame.len() - 1]);
        assert_eq!(!world.node.as_ref().expect("a node").partial.is_empty(), partial);
    }
}

#[test]
fn an_abandoned_stream_never_completes_and_gives_its_budget_back() {
    let mut world = World::open();
    let budget = world.gate.exchange.config.budgets.nodes.clone();
    ask(&mut world, 9);
    let frame = binary(&blocks(9, 1 << 20));
    world.say(&frame[..500_000]);
    assert_eq!(budget.free(), (64 << 20) - (1 << 20) - 8);
    world.say(&encode_frame(true, Opcode::Text, Some(MASK), b""));
    world.ends(Leg::Public, crate::session::End::Reset);
    assert_eq!(world.verdict(), Some(Reason::PeerLost));
    assert_eq!(budget.free(), 64 << 20);
    let node = world.node.as_ref().expect("a node");
    assert_eq!(node.messages.len(), 1);
    assert!(node.close.is_some(), "the node is told, between two fragments");
}

#[test]
fn streams_wait_for_their_share_of_the_budget() {
    let budget = Budget::new(3 << 20);
    let with_budget = || World::configured(|config| config.budgets.nodes = budget.clone()).opened();
    let (mut first, mut second) = (with_budget(), with_budget());
    let reply = blocks(9, 2 << 20);
    let frame = binary(&reply);
    for world in [&mut first, &mut second] {
        ask(world, 9);
        world.say(&frame[..frame.len() - 1]);
    }
    assert!(!first.node.as_ref().expect("a node").partial.is_empty());
    assert_eq!(second.node.as_ref().expect("a node").partial, b"");
    assert_eq!(second.gate.appetite(Leg::Public), 0);
    first.say(&frame[frame.len() - 1..]);
    assert_eq!(budget.free(), 3 << 20);
    second.wait(1);
    second.say(&frame[frame.len() - 1..]);
    assert_eq!(second.node_messages()[1..], [reply]);
    assert_eq!(budget.free(), 3 << 20);
}

#[test]
fn what_is_held_for_all_peers_together_is_bounded() {
    let held = Budget::new(1 << 20);
    let with_budget = || World::configured(|config| config.budgets.held = held.clone()).opened();
    let (mut first, mut second) = (with_budget(), with_budget());
    let block = message(27, 600_000);
    let frame = binary(&block);
    first.say(&frame[..200_000]);
    second.say(&frame);
    assert_eq!(held.free(), (1 << 20) - block.len() as u64);
    assert!(second.gate.buffered() < 64 << 10, "{}", second.gate.buffered());
    first.say(&frame[200_000..]);
    second.wait(1);
    assert_eq!((first.node_messages().last(), second.node_messages().last()), (Some(&block), Some(&block)));
    assert_eq!(held.free(), 1 << 20);
    first.node.as_mut().expect("a node").reads = false;
    first.say(&frame);
    assert!(held.free() < 1 << 20, "its bytes are still here");
    first.node.as_mut().expect("a node").reads = true;
    first.run();
    assert_eq!(held.free(), 1 << 20);
    first.say(&binary(&message(27, 1 << 20)));
    assert_eq!(first.verdict(), Some(Reason::MessageTooLarge));
}

#[test]
fn a_reply_beyond_the_whole_budget_is_refused() {
    let mut world = World::configured(|config| config.budgets.nodes = Budget::new(1 << 20)).opened();
    ask(&mut world, 9);
    world.say(&binary(&blocks(9, 2 << 20))[..1_000]);
    assert_eq!(world.verdict(), Some(Reason::MessageTooLarge));
}

#[test]
fn what_the_node_sends_is_right_even_where_the_table_disagrees() {
    let mut world = World::open();
    let sent = [message(48, 10), message(201, 10), message(number::NEW_PEAK, 10_000), vec![20, 9, 9]];
    for message in &sent {
        world.node_sends(message);
    }
    world.node_sends(&[]);
    assert_eq!(world.verdict(), None);
    assert_eq!(world.peer.messages[1..5], sent);
    assert_eq!(world.peer.messages[5], b"");
    let tally = world.gate.tally();
    assert_eq!((tally.noted.unknown, tally.noted.odd), (1, 4));
}

#[test]
fn windows_are_configured_end_to_end() {
    let both =
        Handshake { capabilities: vec![(7, "1".into())], ..Handshake::new("mainnet", NodeType::FullNode, 1) };
    let mut world = World::between(&both, &both);
    let mut windows = message(number::CONFIGURE_WINDOW_SIZES, 124);
    windows[9] = 40;
    world.node_sends(&windows);
    world.say(&binary(&windows));
    assert_eq!(world.node_messages().last(), Some(&windows));
    assert_eq!(world.peer.messages[1..], [windows]);
}

#[test]
fn a_reader_that_stops_stops_the_other_side() {
    let mut world = World::open();
    world.peer.reads = false;
    for _ in 0..40 {
        world.node_sends(&message(27, 100_000));
    }
    assert!(world.gate.buffered() < 256 << 10, "{}", world.gate.buffered());
    assert_eq!(world.gate.appetite(Leg::Private), 0);
    assert!(world.gate.appetite(Leg::Public) > 0);
    world.peer.reads = true;
    world.run();
    assert_eq!(world.peer.messages.len(), 41);
    assert_eq!(world.verdict(), None);
}

#[test]
fn a_leg_cut_within_a_frame_is_reset() {
    let mut world = World::open();
    let frame = encode_frame(true, Opcode::Binary, None, &message(27, 100_000));
    world.node_says(&frame[..50_000]);
    world.ends(Leg::Private, crate::session::End::Reset);
    assert_eq!(world.peer.closed, Some(Close::Abort(Reason::NodeLost)));
    assert_eq!(world.peer.messages.len(), 1);
}

/// One thing that a peer says: a type, a size, and where it is cut into fragments.
fn spoken() -> impl Strategy<Value = (u8, usize, Vec<usize>)> {
    let kind = prop_oneof![Just(20_u8), Just(27), Just(30), Just(43), Just(44), Just(255), Just(200)];
    (kind, 0_usize..90, prop::collection::vec(1_usize..60, 0..4))
}

fn in_fragments(message: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut rest = message;
    let mut opcode = Opcode::Binary;
    for &cut in cuts {
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        frames.extend(encode_frame(false, opcode, Some(MASK), piece));
        (rest, opcode) = (after, Opcode::Continuation);
    }
    frames.extend(encode_frame(true, opcode, Some(MASK), rest));
    frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_cutting_gives_the_same_messages(
        spoken in prop::collection::vec(spoken(), 1..10),
        chunk in 1_usize..400,
    ) {
        let mut world = World::new();
        world.chunk = chunk;
        let mut world = world.opened();
        let mut expected = Vec::new();
        for (kind, size, cuts) in &spoken {
            let message = message(*kind, *size);
            world.peer.write(&in_fragments(&message, cuts));
            expected.push(message);
        }
        world.run();
        prop_assert_eq!(world.verdict(), None);
        prop_assert_eq!(&world.node_messages()[1..], &expected[..]);
    }

    #[test]
    fn a_byte_corrupted_below_tls_never_reaches_the_node(at in 0_usize..2_500, by in 1_u8..) {
        let mut world = World::new();
        world.corrupts = Some((at, by));
        world.run();
        let peak = message(number::NEW_PEAK, 80);
        for step in [upgrade(), binary(&greeting()), binary(&peak), binary(&message(27, 1_000))] {
            if world.verdict().is_none() {
                world.say(&step);
            }
        }
        let node_greeting = Handshake { server_port: 0, ..Handshake::new("mainnet", NodeType::FullNode, 8444) };
        let all = [node_greeting.message().encode(), peak, message(27, 1_000)];
        prop_assert!(all.starts_with(world.node_messages()));
        // A record's version before the handshake is nobody's business (RFC 8446, section 5.1), so it may have passed.
        let corrupted = world.corrupts.is_none();
        prop_assert!(corrupted || world.node_messages().len() == all.len(), "{:?}", world.gate);
    }

    #[test]
    fn mutated_plaintext_never_panics_and_never_forwards_garbage(
        spoken in prop::collection::vec(spoken(), 1..6),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        from in 0_usize..3,
    ) {
        let mut plain = Vec::new();
        for (kind, size, cuts) in &spoken {
            plain.extend(in_fragments(&message(*kind, *size), cuts));
        }
        let steps = [upgrade(), binary(&greeting()), plain];
        let mut world = World::secured();
        for (at, mut bytes) in steps.into_iter().enumerate() {
            if at >= from {
                for (index, value) in &mutations {
                    let index = index.index(bytes.len());
                    bytes[index] ^= value;
                }
            }
            if world.verdict().is_none() {
                world.say(&bytes);
            }
        }
        for (at, bytes) in world.node_messages().iter().enumerate() {
            let message = Message::decode(bytes);
            prop_assert!(message.is_ok(), "forwarded without a valid envelope: {bytes:?}");
            prop_assert!(bytes.len() >= PLAIN_HEADER_BYTES);
            prop_assert_eq!(at == 0, message.is_ok_and(|message| message.kind == number::HANDSHAKE));
        }
    }
}

#[test]
fn an_idle_session_is_small() {
    let mut world = World::open();
    world.say(&binary(&message(27, 100_000)));
    world.node_sends(&message(27, 100_000));
    assert_eq!(world.gate.buffered(), 0);
    assert!(size_of::<crate::gate::Gate>() <= 2 << 10, "{}", size_of::<crate::gate::Gate>());
}
