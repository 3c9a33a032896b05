//! What a stranger, or a node that has been taken over, might try against the other nodes and against us.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hedgerow_dataplane::egress::{EgressConfig, EgressNode, Rules};
use hedgerow_dataplane::frame::{BATCH, Checksum, Meta};
use hedgerow_dataplane::shard::{Event, Source, Target};
use hedgerow_dataplane::wire::{Address, PrefixSet};
use hedgerow_dataplane::{Instant, Reason};
use proptest::prelude::*;
use smoltcp::wire::{Ipv4Packet, TcpControl};

use super::world::*;

const OTHER_END: End = (IpAddr::V4(OTHER_NODE), 5_000);
const INSIDE_ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
const FAR: End = (IpAddr::V4(WORLD), 8_444);

/// A box of one shard with so many sessions and ports for each node.
fn large(sessions: usize, ports_per_node: u16) -> World {
    World::with(1, |index, exchange| {
        let mut config = config(index, 1, 1_500, exchange);
        config.egress = config.egress.map(|way| EgressConfig { sessions, ports_per_node, ..way });
        config
    })
}

impl World {
    /// Frames from the nodes' side that nothing is sent for yet.
    fn hoard(&mut self, packets: impl IntoIterator<Item = Vec<u8>>) {
        for packet in packets {
            self.ingest(0, INNER, &packet, Meta::default(), &mut [Vec::new(), Vec::new()]);
        }
    }

    /// A connection of the node's, from its end, and what it shows.
    fn dial(&mut self, node: End) -> End {
        let shown = self.one(0, INNER, tcp(INNER, node, FAR, TcpControl::Syn, None, b""), OUTER).from;
        self.one(0, OUTER, tcp(OUTER, FAR, shown, TcpControl::Syn, Some(1_001), b""), INNER);
        shown
    }

    fn sessions(&self, node: usize) -> usize {
        self.shards[0].egress_traffic()[node].sessions
    }
}

/// The first node alone is open, or both are.
fn half(both: bool) -> std::sync::Arc<Rules> {
    let open = |(place, node): (usize, &EgressNode)| EgressNode { open: both || place == 0, ..node.clone() };
    let nodes = rules(true).nodes().iter().enumerate().map(open).collect();
    Rules::new(nodes, PrefixSet::default()).into()
}

#[test]
fn a_node_that_floods_leaves_room_for_another_and_for_our_own_flows() {
    let mut world = World::new(1, 1_500);
    converse(&mut world, NODE_END, WORLD_END);
    converse(&mut world, OTHER_END, WORLD_END);
    world.hoard((0..5_000).map(|_| udp(INNER, NODE_END, WORLD_END, &[7; 1_000])));
    let refused = world.count(Reason::EgressQueue);
    assert!(refused > 1_000, "{refused}");
    world.hoard((0..100).map(|_| udp(INNER, OTHER_END, WORLD_END, &[7; 1_000])));
    assert_eq!(world.count(Reason::EgressQueue), refused);

    let target = Target { link: OUTER, address: Address::from(WORLD), port: 9_999 };
    world.shards[0].connect(world.now, target, Source::Own).expect("a connection");
    let mut sent = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        world.transmit(0, OUTER, &mut sent);
        world.hoard((0..BATCH).map(|_| udp(INNER, NODE_END, WORLD_END, b"more")));
    }
    assert!(sent[0].len() >= BATCH, "nodes have their turn, too");
    assert!(sent[0].iter().any(|(bytes, _)| see(bytes).at == (IpAddr::V4(WORLD), 9_999)));
}

/// A node reset its connection, or both sides ended it: the peer can send what it likes, its place is free in four minutes.
#[test]
fn nobody_outside_keeps_an_ended_connection_from_being_forgotten() {
    let mut world = World::new(1, 1_500);
    let (reset, ended) = ((IpAddr::V4(NODE), 1), (IpAddr::V4(NODE), 2));
    let shown = [world.dial(reset), world.dial(ended)];
    let rst = tcp(INNER, reset, FAR, TcpControl::Rst, Some(1), b"");
    world.one(0, INNER, rst.clone(), OUTER);
    world.one(0, INNER, tcp(INNER, ended, FAR, TcpControl::Fin, Some(1), b""), OUTER);
    world.one(0, OUTER, tcp(OUTER, FAR, shown[1], TcpControl::Fin, Some(1), b""), INNER);
    for _ in 0..3 {
        world.wait(Duration::from_secs(70));
        for shown in shown {
            world.give(
                0,
                OUTER,
                tcp(OUTER, FAR, shown, TcpControl::None, Some(1), b"hello?"),
                Meta::default(),
            );
        }
        // The node's kernel knows nothing of it any more, and says so.
        world.give(0, INNER, rst.clone(), Meta::default());
    }
    world.wait(Duration::from_secs(30));
    assert_eq!(world.sessions(0), 0);
}

/// A reset that nobody meant ends nothing as long as the node goes on (RFC 7857, section 2.2).
#[test]
fn a_forged_reset_ends_no_connection_that_is_in_use() {
    let mut world = World::new(1, 1_500);
    let shown = world.dial(NODE_END);
    world.one(0, OUTER, tcp(OUTER, FAR, shown, TcpControl::Rst, Some(1), b""), INNER);
    for _ in 0..10 {
        world.wait(Duration::from_secs(200));
        world.one(0, INNER, tcp(INNER, NODE_END, FAR, TcpControl::None, Some(1), b"ping"), OUTER);
    }
    world.one(0, OUTER, tcp(OUTER, FAR, shown, TcpControl::None, Some(1), b"pong"), INNER);
}

#[test]
fn what_one_node_is_told_silences_no_other() {
    let mut world = World::new(1, 1_500);
    world.open(false);
    world.hoard((0..200).map(|_| udp(INNER, NODE_END, WORLD_END, b"q")));
    world.transmit(0, INNER, &mut [Vec::new(), Vec::new()]);
    world.transmit(0, INNER, &mut [Vec::new(), Vec::new()]);
    let told = world.one(0, INNER, udp(INNER, OTHER_END, WORLD_END, b"q"), INNER);
    assert!(matches!(told.what, What::Error(3, 13, _)), "{told:?}");
}

/// Whoever was alone had everything; a node that is let out in an emergency finds its share free.
#[test]
fn a_share_shrinks_when_another_node_is_let_out() {
    let mut world = World::new(1, 1_500);
    world.shards[0].set_egress(half(false));
    for port in 1..=SESSIONS as u16 {
        world.one(0, INNER, udp(INNER, NODE_END, (IpAddr::V4(WORLD), port), b"q"), OUTER);
    }
    assert_eq!(world.sessions(0), SESSIONS);
    world.shards[0].set_egress(half(true));
    world.shards[0].advance(world.now);
    assert_eq!(world.sessions(0), SESSIONS / 2);
    converse(&mut world, OTHER_END, WORLD_END);
}

/// The ports keep a table of connections: where they are told of a beginning, they are told of the end.
#[test]
fn every_end_is_told_to_the_ports() {
    const MANY: u16 = 1_500;
    let mut world = large(8_192, 2_048);
    let mut known = 0;
    for port in 1..=MANY {
        world.one(0, INNER, tcp(INNER, (NODE.into(), port), FAR, TcpControl::Syn, None, b""), OUTER);
        while let Some(hint) = world.shards[0].hint() {
            known += if hint.on { 1 } else { -1 };
        }
    }
    assert_eq!((known, world.sessions(0)), (2 * i32::from(MANY), usize::from(MANY)));
    world.shards[0].set_egress(rules(false));
    while world.shards[0].deadline().is_some_and(|at| at == Instant::ZERO) {
        world.shards[0].advance(world.now);
        while let Some(hint) = world.shards[0].hint() {
            known += if hint.on { 1 } else { -1 };
        }
    }
    assert_eq!((known, world.sessions(0)), (0, 0));
}

/// Datagrams that a sender of the same machine left to be cut are no single datagram.
#[test]
fn datagrams_to_be_cut_are_refused() {
    let mut world = World::new(1, 1_500);
    let before = world.count(Reason::TooBig);
    let meta = Meta { segment: 500, ..Meta::default() };
    let sent = world.give(0, INNER, udp(INNER, NODE_END, WORLD_END, &[7; 1_000]), meta);
    assert!(sent.iter().all(Vec::is_empty), "{sent:?}");
    assert_eq!(world.count(Reason::TooBig), before + 1);
}

/// No error is answered with an error (RFC 1122, section 3.2.2).
#[test]
fn errors_are_not_complained_about() {
    let mut world = World::with(1, |index, exchange| {
        let mut config = config(index, 1, 1_500, exchange);
        config.links[1].config.mtu = 1_000;
        config
    });
    let router = IpAddr::V4(STRANGER);
    let sent = world.give(0, INNER, udp(INNER, NODE_END, WORLD_END, &[7; 900]), Meta::default());
    let mut quote = sent[0][0].0[14..].to_vec();
    quote.resize(1_200, 0);
    world.none(0, OUTER, unreachable(router, OURS.into(), 1.into(), &quote), Reason::TooBig);
}

/// Lengths that lie: of the IP packet, of the datagram, of the header, of what an error quotes.
#[test]
fn lengths_that_lie_are_refused() {
    let mut world = World::new(1, 1_500);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    let good = udp(OUTER, WORLD_END, shown, b"an answer");
    let lie = |at: usize, value: u16| {
        let mut bytes = good.clone();
        bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        fix(bytes)
    };
    for total in [0, 1, 19, 20, 27, 40, 1_500, u16::MAX] {
        world.none(0, OUTER, lie(16, total), Reason::Truncated);
    }
    for length in [0, 1, 7, 18, 1_500, u16::MAX] {
        world.none(0, OUTER, lie(38, length), Reason::Truncated);
    }
    // Padding behind the packet is not passed on.
    let mut padded = good.clone();
    padded.resize(60, 0xaa);
    assert_eq!(world.one(0, OUTER, padded, INNER).what, What::Udp(b"an answer".to_vec()));
    for length in 0..27 {
        let quote = &udp(OUTER, shown, WORLD_END, b"question")[14..14 + length];
        let error = unreachable(IpAddr::V4(STRANGER), OURS.into(), 1.into(), quote);
        let sent = world.give(0, OUTER, error, Meta::default());
        assert!(sent.iter().all(Vec::is_empty), "{length}: {sent:?}");
    }
    let v6 = udp(INNER, (NODE_V6.into(), 5_000), (WORLD_V6.into(), 53), b"question");
    for length in [0u16, 1, 7, 17, 1_000, u16::MAX] {
        let mut bytes = v6.clone();
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        world.none(0, INNER, bytes, Reason::Truncated);
    }
}

/// No datagram is without a checksum that had one, and none has one that had none (RFC 768); for every sum.
#[test]
fn checksums_of_datagrams_are_right_at_their_corners() {
    let mut world = World::new(1, 1_500);
    converse(&mut world, NODE_END, WORLD_END);
    let mut none = udp(INNER, NODE_END, WORLD_END, b"question");
    none[40..42].fill(0);
    let sent = world.give(0, INNER, none, Meta::default());
    assert_eq!(sent[0][0].0[40..42], [0, 0]);
    // Two bytes that count up lead over every checksum that the translated datagram may have.
    for word in 0..=u16::MAX {
        let packet = udp(INNER, NODE_END, WORLD_END, &word.to_be_bytes());
        world.ingest(0, INNER, &packet, Meta::default(), &mut [Vec::new(), Vec::new()]);
        let mut sent = [Vec::new(), Vec::new()];
        world.transmit(0, OUTER, &mut sent);
        let bytes = &sent[0][0].0;
        assert_ne!(bytes[40..42], [0, 0], "{word}");
        assert_eq!(see(bytes).what, What::Udp(word.to_be_bytes().to_vec()));
    }
}

/// Another machine beside another link, or the world, that takes a node's address is not that node: it has no way out, and the
/// node's conversations are not its own.
#[test]
fn a_node_is_itself_on_its_own_link_only() {
    let mut world = World::with(1, |index, exchange| {
        let mut config = config(index, 1, 1_500, exchange);
        config.egress = config.egress.map(|way| EgressConfig { inner: vec![INNER, OUTER], ..way });
        config
    });
    converse(&mut world, NODE_END, WORLD_END);
    let to = (IpAddr::V4(STRANGER), 53);
    world.none(0, OUTER, udp(OUTER, NODE_END, to, b"relay this"), Reason::EgressUnsolicited);
    world.none(0, OUTER, udp(OUTER, NODE_END, WORLD_END, b"relay this"), Reason::EgressUnsolicited);
    let elsewhere = |node: &EgressNode| EgressNode { link: OUTER, ..node.clone() };
    let nodes = rules(true).nodes().iter().map(elsewhere).collect();
    world.shards[0].set_egress(Rules::new(nodes, PrefixSet::default()).into());
    world.none(0, INNER, udp(INNER, NODE_END, to, b"let me out"), Reason::EgressUnknownNode);
}

/// A flow to a node that shows it the peer's address hears from routers on the way, whatever ways out there are.
#[test]
fn errors_about_our_own_flows_to_nodes_are_ours() {
    let mut world = World::new(1, 1_500);
    let target = Target { link: INNER, address: Address::from(NODE), port: 8_444 };
    let shown = Source::Transparent(Address::from(STRANGER), 7_000);
    world.shards[0].connect(world.now, target, shown).expect("a connection");
    let mut syn = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        let sent = world.give(0, OUTER, ping(OUTER, WORLD.into(), OURS.into(), false, 1), Meta::default());
        syn[1].extend(sent[1].iter().cloned());
    }
    let quote = &syn[1].first().expect("a SYN").0[14..];
    let mut error = unreachable(INSIDE_ROUTER.into(), STRANGER.into(), 1.into(), quote);
    error[..6].copy_from_slice(&ours(INNER).0);
    world.give(0, INNER, error, Meta::default());
    let events: Vec<_> = std::iter::from_fn(|| world.shards[0].event(world.now)).collect();
    assert!(
        matches!(events[..], [Event::Closed(_, Reason::Unreachable)]),
        "{events:?} {:?}",
        world.reasons()
    );
}

/// Our own flows under the address that nodes show never have a port of theirs, however many those are.
#[test]
fn our_own_flows_have_no_ports_of_nodes() {
    const EACH: u16 = 16_000;
    let mut world = World::with(1, |index, exchange| {
        let mut config = config(index, 1, 1_500, exchange);
        config.egress =
            config.egress.map(|way| EgressConfig { first_port: 1_024, ports_per_node: EACH, ..way });
        config
    });
    for port in 1..=50 {
        let target = Target { link: OUTER, address: Address::from(WORLD), port };
        let flow = world.shards[0].connect(world.now, target, Source::Own).expect("a connection");
        let shown = world.shards[0].flow(flow).expect("a flow").key().local_port;
        assert!(shown >= 1_024 + 2 * EACH, "{shown}");
    }
}

/// Addresses that stand for others, and a node's that comes from elsewhere.
#[test]
fn odd_addresses_lead_nowhere() {
    let mut world = World::new(1, 1_500);
    let v6 = |text: &str| -> End { (text.parse().expect("an address"), 8_444) };
    for to in ["::ffff:192.0.2.77", "::1", "::192.0.2.77", "fe80::1", "2002:c000:24d::1", "2001:0:1::1"] {
        world.none(0, INNER, udp(INNER, (NODE_V6.into(), 1), v6(to), b"q"), Reason::Martian);
    }
    for to in [[0, 0, 0, 0], [127, 0, 0, 1], [255, 255, 255, 255], [169, 254, 169, 254], [240, 0, 0, 1]] {
        let to = (IpAddr::V4(Ipv4Addr::from(to)), 80);
        world.none(0, INNER, udp(INNER, NODE_END, to, b"q"), Reason::Martian);
    }
    world.none(0, OUTER, udp(OUTER, NODE_END, WORLD_END, b"spoofed"), Reason::EgressUnsolicited);
    world.none(0, INNER, udp(INNER, WORLD_END, (OURS.into(), 40_000), b"spoofed"), Reason::EgressUnknownNode);
    assert_eq!(world.sessions(0), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Packets that lie about everything, with metadata that lie: nothing panics, no frame is lost, what comes out is whole and
    /// no larger than its link carries, and each frame that went in came out or was counted.
    #[test]
    fn lies_end_in_a_counter(
        kind in 0u8..6,
        outward in any::<bool>(),
        changes in proptest::collection::vec((14usize..100, any::<u8>()), 0..5),
        cut in 14usize..1_400,
        segment in prop_oneof![Just(0u16), Just(1), Just(7), Just(536), Just(u16::MAX), any::<u16>()],
        partial in proptest::option::of((0u16..200, 0u16..40)),
        shards in 1u16..3,
    ) {
        let mut world = World::new(shards, 1_300);
        let shown = converse(&mut world, NODE_END, WORLD_END);
        let connection = world.dial(NODE_END);
        let (link, from, to) = if outward { (INNER, NODE_END, WORLD_END) } else { (OUTER, WORLD_END, shown) };
        let (near, far) = if outward { (NODE_END, FAR) } else { (FAR, connection) };
        let (node, there): (End, End) = ((NODE_V6.into(), 5_000), (WORLD_V6.into(), 53));
        let mut packet = match kind {
            0 => udp(link, from, to, &[7; 1_200]),
            1 => tcp(link, near, far, TcpControl::Psh, Some(1), &[7; 1_200]),
            2 => udp(link, node, there, &[7; 1_000]),
            3 => tcp(link, node, there, TcpControl::Syn, None, b""),
            4 => ping(link, from.0, to.0, !outward, shown.1),
            _ => unreachable(STRANGER.into(), OURS.into(), 1.into(), &udp(OUTER, shown, WORLD_END, &[7; 500])[14..]),
        };
        for (at, value) in changes {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        packet.truncate(cut);
        let checksum = match partial {
            Some((start, offset)) => Checksum::Partial { start, offset },
            None => Checksum::Verified,
        };
        let packet = if packet.len() >= 34 { fix(packet) } else { packet };
        let counted = |world: &World| world.reasons().iter().map(|(_, count)| count).sum::<u64>();
        let before = counted(&world);
        let sent = world.give(usize::from(shards - 1), link, packet, Meta { checksum, segment, vlan: None });
        let out: Vec<_> = sent.iter().flatten().collect();
        for (bytes, _) in &out {
            prop_assert!(bytes.len() <= 14 + 1_500, "{}", bytes.len());
            if bytes[12..14] == [8, 0] {
                let ip = Ipv4Packet::new_checked(&bytes[14..]).expect("a packet");
                prop_assert!(ip.verify_checksum());
                prop_assert_eq!(usize::from(ip.total_len()), bytes.len() - 14);
            }
        }
        // An echo to ourselves, and what a neighbour says, are neither.
        prop_assert!(!out.is_empty() || counted(&world) > before || kind >= 4, "{:?}", world.reasons());
    }
}
