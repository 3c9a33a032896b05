//! The way out: what nodes send is passed on and answered, and nothing from outside ever begins anything.
//!
//! Packets are built and checked by another stack's code (smoltcp), so that a checksum that is kept right by what changes is
//! held against one that is made anew.

mod attacks;
mod inspected;
mod world;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hedgerow_dataplane::Reason;
use hedgerow_dataplane::frame::{Checksum, Meta};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv6Packet,
    TcpControl, TcpPacket, UdpPacket,
};
use world::*;

#[test]
fn udp_tcp_and_echo_go_out_under_our_address_and_come_back() {
    let mut world = World::new(1, 1_500);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    assert_eq!(shown.0, IpAddr::V4(OURS));
    assert!((FIRST_PORT..FIRST_PORT + BLOCK).contains(&shown.1));

    let far = (IpAddr::V4(WORLD), 8_444);
    let syn = world.one(0, INNER, tcp(INNER, NODE_END, far, TcpControl::Syn, None, b""), OUTER);
    let shown = syn.from;
    let answer = tcp(OUTER, far, shown, TcpControl::Syn, Some(1_001), b"");
    assert_eq!(world.one(0, OUTER, answer, INNER).at, NODE_END);
    let data = tcp(OUTER, far, shown, TcpControl::Psh, Some(1_001), b"a block");
    let data = world.one(0, OUTER, data, INNER);
    assert_eq!(data.what, What::Tcp { rst: false, seq: 1_000, payload: b"a block".to_vec() });

    let asked = world.one(0, INNER, ping(INNER, NODE.into(), WORLD.into(), false, 77), OUTER);
    assert_eq!(asked.from.0, IpAddr::V4(OURS));
    let answered = world.one(0, OUTER, ping(OUTER, WORLD.into(), OURS.into(), true, asked.from.1), INNER);
    assert_eq!((answered.at, answered.what), ((NODE.into(), 77), What::Echo { reply: true }));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 3);
    assert_eq!(world.shards[0].egress_traffic()[0].packets_in, 4);
}

/// RFC 4787, REQ-1 and REQ-8: one mapping for all destinations, and only those that were spoken to may answer by it.
#[test]
fn an_end_shows_the_same_port_to_all_and_only_those_it_spoke_to_may_answer() {
    let mut world = World::new(1, 1_500);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    let same_host = (IpAddr::V4(WORLD), 54);
    world.none(0, OUTER, udp(OUTER, same_host, shown, b"guess"), Reason::EgressUnsolicited);
    assert_eq!(converse(&mut world, NODE_END, same_host), shown);
    let stranger = (IpAddr::V4(STRANGER), 53);
    world.none(0, OUTER, udp(OUTER, stranger, shown, b"guess"), Reason::EgressUnsolicited);
    let other = converse(&mut world, (IpAddr::V4(OTHER_NODE), 5_000), WORLD_END);
    assert!((FIRST_PORT + BLOCK..FIRST_PORT + 2 * BLOCK).contains(&other.1), "a block for each node");
}

#[test]
fn whatever_comes_from_outside_begins_nothing() {
    let mut world = World::new(1, 1_500);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    let far = (IpAddr::V4(WORLD), 8_444);
    let tcp_shown = world.one(0, INNER, tcp(INNER, NODE_END, far, TcpControl::Syn, None, b""), OUTER).from;
    // Every port, by every protocol, from a stranger and from whom the node spoke to.
    for port in (1..=u16::MAX).filter(|port| ![LISTENS, shown.1, tcp_shown.1].contains(port)) {
        for source in [STRANGER, WORLD] {
            let to = (IpAddr::V4(OURS), port);
            let from = (IpAddr::V4(source), if port % 2 == 0 { 53 } else { 8_444 });
            for packet in [
                udp(OUTER, from, to, b"guess"),
                tcp(OUTER, from, to, TcpControl::Syn, None, b""),
                tcp(OUTER, from, to, TcpControl::None, Some(7), b"guess"),
                ping(OUTER, source.into(), OURS.into(), true, port),
            ] {
                let sent = world.give(0, OUTER, packet, Meta::default());
                assert!(sent[usize::from(INNER.0)].is_empty(), "{port}");
            }
        }
    }
    // A SYN does not even where there is a session, and a node's own addresses mean nothing outside.
    let syn = tcp(OUTER, far, tcp_shown, TcpControl::Syn, None, b"");
    world.none(0, OUTER, syn, Reason::EgressUnsolicited);
    for to in [IpAddr::V4(NODE), IpAddr::V6(NODE_V6)] {
        let from = if to.is_ipv4() { IpAddr::V4(WORLD) } else { IpAddr::V6(WORLD_V6) };
        world.none(0, OUTER, udp(OUTER, (from, 53), (to, 5_000), b"direct"), Reason::EgressUnsolicited);
        let syn = tcp(OUTER, (from, 53), (to, 8_444), TcpControl::Syn, None, b"");
        world.none(0, OUTER, syn, Reason::EgressUnsolicited);
        world.none(0, OUTER, ping(OUTER, from, to, false, 9), Reason::EgressUnsolicited);
    }
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 2);
}

#[test]
fn fragments_options_spoofed_and_broken_packets_are_refused() {
    let mut world = World::new(1, 1_500);
    let good = udp(INNER, NODE_END, WORLD_END, b"question");
    // Source routing, and the first fragment of a longer packet.
    let mut options = good.clone();
    let length = options.len();
    options.splice(34..34, [131, 7, 4, 192, 0, 2, 99, 0]);
    options[14] = 0x47;
    options[16..18].copy_from_slice(&((length - 14 + 8) as u16).to_be_bytes());
    world.none(0, INNER, fix(options), Reason::IpOptions);
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    world.none(0, INNER, fix(fragment), Reason::Fragment);
    let spoofed = udp(INNER, (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 99)), 5_000), WORLD_END, b"who");
    world.none(0, INNER, spoofed, Reason::EgressUnknownNode);
    let mut last_hop = good.clone();
    last_hop[22] = 1;
    world.none(0, INNER, fix(last_hop), Reason::HopLimit);
    let metadata = (IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
    world.none(0, INNER, udp(INNER, NODE_END, metadata, b"secrets"), Reason::Martian);
    let mut unknown = good.clone();
    unknown[23] = 132;
    world.none(0, INNER, fix(unknown), Reason::UnknownProtocol);
    // A checksum that was wrong is wrong to its receiver, too.
    let mut broken = good;
    *broken.last_mut().unwrap() ^= 1;
    let sent = world.give(0, INNER, broken, Meta::default());
    let bytes = &sent[0][0].0;
    let ip = Ipv4Packet::new_checked(&bytes[14..]).unwrap();
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(ip.verify_checksum() && !udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
}

#[test]
fn a_node_that_may_not_is_told_at_once() {
    let mut world = World::new(1, 1_500);
    world.open(false);
    let told = |world: &mut World, packet: Vec<u8>, reason: Reason| {
        let before = world.count(reason);
        let seen = world.one(0, INNER, packet.clone(), INNER);
        let What::Error(kind, code, quote) = seen.what else { panic!("{:?}", seen.what) };
        let v6 = seen.from.0.is_ipv6();
        assert_eq!((kind, code), if v6 { (1, 1) } else { (3, 13) });
        assert!(packet[14..].starts_with(&quote));
        assert_eq!(seen.from.0, if v6 { IpAddr::V6(INSIDE_V6) } else { IpAddr::V4(INSIDE) });
        assert_eq!(world.count(reason), before + 1);
    };
    let syn = |to| tcp(INNER, NODE_END, (to, 8_444), TcpControl::Syn, None, b"");
    told(&mut world, syn(IpAddr::V4(WORLD)), Reason::EgressClosed);
    told(&mut world, udp(INNER, NODE_END, WORLD_END, b"question"), Reason::EgressClosed);
    let v6 = udp(INNER, (NODE_V6.into(), 5_000), (WORLD_V6.into(), 53), b"question");
    told(&mut world, v6, Reason::EgressClosed);
    world.open(true);
    // A node does not dial its own public address, nor the inner one.
    told(&mut world, syn(IpAddr::V4(OURS)), Reason::EgressRefused);
    // Nobody floods by what we say.
    let mut said = 0;
    for _ in 0..1_000 {
        said += world.give(0, INNER, syn(IpAddr::V4(OURS)), Meta::default())[1].len();
    }
    assert!((25..=600).contains(&said), "{said}: a hundred a second");
}

#[test]
fn what_is_closed_ends_and_its_connections_are_reset() {
    let mut world = World::new(1, 1_500);
    let far = (IpAddr::V4(WORLD), 8_444);
    let shown = world.one(0, INNER, tcp(INNER, NODE_END, far, TcpControl::Syn, None, b""), OUTER).from;
    let answer = tcp(OUTER, far, shown, TcpControl::Syn, Some(1_001), b"");
    world.one(0, OUTER, answer.clone(), INNER);
    world.open(false);
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 0);
    world.none(0, OUTER, answer, Reason::EgressUnsolicited);
    let data = tcp(INNER, NODE_END, far, TcpControl::None, Some(4_242), b"late");
    let seen = world.one(0, INNER, data, INNER);
    assert_eq!((seen.from, seen.at), (far, NODE_END));
    assert_eq!(seen.what, What::Tcp { rst: true, seq: 4_242, payload: Vec::new() });
    let reset = tcp(INNER, NODE_END, far, TcpControl::Rst, Some(4_242), b"");
    world.none(0, INNER, reset, Reason::EgressNoSession);
}

/// RFC 1191 and RFC 8201: the sender learns the next link's size; and what routers further out say reaches it, about its own
/// packet (RFC 5508, REQ-3 to REQ-5).
#[test]
fn path_mtu_is_honoured() {
    let mut world = World::new(1, 1_400);
    let seen = world.one(0, INNER, udp(INNER, NODE_END, WORLD_END, &[7; 1_400]), INNER);
    let What::Error(3, 4, quote) = seen.what else { panic!("{seen:?}") };
    assert!(quote.len() >= 28);
    let big = udp(INNER, (NODE_V6.into(), 5_000), (WORLD_V6.into(), 53), &[7; 1_400]);
    assert!(matches!(world.one(0, INNER, big, INNER).what, What::Error(2, 0, _)));
    assert_eq!(world.count(Reason::TooBig), 2);

    let node = (IpAddr::V4(NODE), 6_000);
    let out = udp(INNER, node, WORLD_END, &[7; 1_300]);
    let sent = world.give(0, INNER, out.clone(), Meta::default());
    let (outside, router) = (&sent[0][0].0, IpAddr::V4(STRANGER));
    for (error, bytes) in [(4, 576), (4, 28), (13, 28)] {
        let reason = if error == 4 { Icmpv4DstUnreachable::FragRequired } else { 13.into() };
        let quoted = &outside[14..14 + bytes.min(outside.len() - 14)];
        let packet = unreachable(router, OURS.into(), reason, quoted);
        let seen = world.one(0, OUTER, packet, INNER);
        assert_eq!((seen.from.0, seen.at.0), (router, IpAddr::V4(NODE)));
        let What::Error(3, code, quote) = seen.what else { panic!("{seen:?}") };
        assert_eq!((code, quote.len()), (error, bytes));
        // The quote is what the node sent, but for a hop.
        let mut sent = out[14..14 + bytes].to_vec();
        sent[8] -= 1;
        sent[10..12].copy_from_slice(&quote[10..12]);
        assert_eq!(sent, quote);
        assert!(Ipv4Packet::new_unchecked(&quote).verify_checksum());
    }
    // Errors about what no node sent reach nobody, nor such that come to another address than the quoted one.
    let mut other = outside[14..42].to_vec();
    other[20..22].copy_from_slice(&(FIRST_PORT + 3 * BLOCK).to_be_bytes());
    let sent = world.give(0, OUTER, unreachable(router, OURS.into(), 1.into(), &other), Meta::default());
    assert!(sent.iter().all(Vec::is_empty), "{sent:?}");
}

#[test]
fn ipv6_is_filtered_and_not_translated() {
    let mut world = World::new(1, 1_500);
    let (node, far): (End, End) = ((NODE_V6.into(), 5_000), (WORLD_V6.into(), 53));
    let out = world.one(0, INNER, udp(INNER, node, far, b"question"), OUTER);
    assert_eq!((out.from, out.at, out.hop_limit), (node, far, 63));
    let back = world.one(0, OUTER, udp(OUTER, far, node, b"answer"), INNER);
    assert_eq!((back.from, back.at, back.hop_limit), (far, node, 63));
    let other = (WORLD_V6.into(), 54);
    world.none(0, OUTER, udp(OUTER, other, node, b"guess"), Reason::EgressUnsolicited);
    let asked = world.one(0, INNER, ping(INNER, NODE_V6.into(), WORLD_V6.into(), false, 9), OUTER);
    assert_eq!(asked.from, (NODE_V6.into(), 9));
    world.one(0, OUTER, ping(OUTER, WORLD_V6.into(), NODE_V6.into(), true, 9), INNER);
    // An error about it comes in, and one about anything else does not.
    let quote = |port| udp(OUTER, (NODE_V6.into(), port), far, b"question")[14..].to_vec();
    for (port, comes) in [(5_000, true), (5_001, false)] {
        let quote = quote(port);
        let (header, data) = quote.split_at(40);
        let ip = Ipv6Packet::new_unchecked(header);
        let error = Icmpv6Repr::DstUnreachable {
            reason: Icmpv6DstUnreachable::NoRoute,
            header: smoltcp::wire::Ipv6Repr {
                src_addr: ip.src_addr(),
                dst_addr: ip.dst_addr(),
                next_header: IpProtocol::Udp,
                payload_len: data.len(),
                hop_limit: 60,
            },
            data,
        };
        let mut body = vec![0; error.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        error.emit(&WORLD_V6, &NODE_V6, &mut Icmpv6Packet::new_unchecked(&mut body), &checksums);
        let packet = frame(OUTER, WORLD_V6.into(), NODE_V6.into(), IpProtocol::Icmpv6, &body);
        match comes {
            true => assert!(matches!(world.one(0, OUTER, packet, INNER).what, What::Error(1, 0, _))),
            false => world.none(0, OUTER, packet, Reason::EgressUnsolicited),
        }
    }
}

/// RFC 4787, REQ-5 and REQ-6; RFC 5382, REQ-5; RFC 5508, REQ-1.
#[test]
fn sessions_live_as_long_as_the_standards_say() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut world = World::new(1, 1_500);
    let far = (IpAddr::V4(WORLD), 8_444);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    world.wait(minutes(4));
    // What comes from outside keeps nothing alive.
    world.one(0, OUTER, udp(OUTER, WORLD_END, shown, b"still there"), INNER);
    world.wait(minutes(1));
    world.none(0, OUTER, udp(OUTER, WORLD_END, shown, b"and now"), Reason::EgressUnsolicited);

    let asked = world.one(0, INNER, ping(INNER, NODE.into(), WORLD.into(), false, 77), OUTER);
    world.wait(Duration::from_secs(50));
    world.one(0, OUTER, ping(OUTER, WORLD.into(), OURS.into(), true, asked.from.1), INNER);
    world.wait(Duration::from_secs(10));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 0);

    let begin = |world: &mut World, port| {
        let node = (IpAddr::V4(NODE), port);
        let shown = world.one(0, INNER, tcp(INNER, node, far, TcpControl::Syn, None, b""), OUTER).from;
        (node, shown)
    };
    let (_, never_answered) = begin(&mut world, 1);
    let (node, established) = begin(&mut world, 2);
    let (_, closed) = begin(&mut world, 3);
    for shown in [established, closed] {
        world.one(0, OUTER, tcp(OUTER, far, shown, TcpControl::Syn, Some(1_001), b""), INNER);
    }
    world.one(0, INNER, tcp(INNER, (IpAddr::V4(NODE), 3), far, TcpControl::Fin, Some(1), b""), OUTER);
    world.one(0, OUTER, tcp(OUTER, far, closed, TcpControl::Fin, Some(1), b""), INNER);
    world.wait(minutes(3));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 3);
    world.wait(minutes(1));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 1, "{never_answered:?} and {closed:?} are over");
    world.wait(minutes(118));
    world.one(0, OUTER, tcp(OUTER, far, established, TcpControl::None, Some(1_001), b"news"), INNER);
    world.wait(minutes(123));
    world.one(0, INNER, tcp(INNER, node, far, TcpControl::None, Some(1_001), b""), OUTER);
    world.wait(minutes(124));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 0);
    assert!(world.shards[0].egress_sessions().next().is_none());
}

#[test]
fn a_node_uses_up_its_own_share_and_no_more() {
    let mut world = World::new(1, 1_500);
    let mut ports = BTreeSet::new();
    for port in 1..=2 * BLOCK {
        let sent = world.give(0, INNER, udp(INNER, (NODE.into(), port), WORLD_END, b"q"), Meta::default());
        ports.extend(sent[0].iter().map(|(bytes, _)| see(bytes).from.1));
    }
    assert_eq!(ports.len(), usize::from(BLOCK), "each end has a port of its own");
    assert_eq!(world.count(Reason::EgressFull), u64::from(BLOCK));
    for port in 1..=10 {
        converse(&mut world, (OTHER_NODE.into(), port), WORLD_END);
    }
    assert_eq!(world.shards[0].egress_traffic().iter().map(|t| t.sessions).sum::<usize>(), 74);
    // An end that has a port may speak to more peers, up to the node's share of sessions.
    world.none(0, INNER, udp(INNER, (NODE.into(), 1), (WORLD.into(), 99), b"q"), Reason::EgressFull);
    world.wait(Duration::from_secs(300));
    converse(&mut world, (NODE.into(), 9_999), WORLD_END);
}

#[test]
fn any_shard_may_get_a_packet_and_floods_do_not_pass_between_them() {
    let mut world = World::new(3, 1_500);
    let far = (IpAddr::V4(WORLD), 8_444);
    let shown = world.one(2, INNER, udp(INNER, NODE_END, WORLD_END, b"question"), OUTER).from;
    for shard in [1, 0, 2] {
        let back = world.one(shard, OUTER, udp(OUTER, WORLD_END, shown, b"answer"), INNER);
        assert_eq!(back.at, NODE_END);
    }
    let syn = tcp(INNER, NODE_END, far, TcpControl::Syn, None, b"");
    let shown = world.one(1, INNER, syn, OUTER).from;
    for shard in [2, 1, 0] {
        let back = tcp(OUTER, far, shown, TcpControl::Syn, Some(1_001), b"");
        assert_eq!(world.one(shard, OUTER, back, INNER).at, NODE_END);
    }
    let asked = world.one(1, INNER, ping(INNER, NODE.into(), WORLD.into(), false, 77), OUTER);
    let answer = ping(OUTER, WORLD.into(), OURS.into(), true, asked.from.1);
    assert_eq!(world.one(2, OUTER, answer, INNER).at, (NODE.into(), 77));
    let handed = |world: &World| world.shards.iter().map(|s| s.statistics().handed_over).sum::<u64>();
    let before = handed(&world);
    for port in 1..200 {
        let guess = udp(OUTER, (STRANGER.into(), port), shown, b"guess");
        world.none(usize::from(port % 3), OUTER, guess, Reason::EgressUnsolicited);
    }
    assert_eq!(handed(&world), before);
}

/// A super-frame of a driver that merges is cut to what the other link carries, and a checksum that a local sender left
/// undone is made.
#[test]
fn super_frames_are_cut_and_partial_checksums_completed() {
    let mut world = World::new(1, 1_500);
    let far = (IpAddr::V4(WORLD), 8_444);
    world.one(0, INNER, tcp(INNER, NODE_END, far, TcpControl::Syn, None, b""), OUTER);
    let payload: Vec<u8> = (0..1_900u16).map(|n| n as u8).collect();
    let mut whole = tcp(INNER, NODE_END, far, TcpControl::Fin, Some(9), &payload);
    whole[50..52].copy_from_slice(&[0xab, 0xcd]);
    let meta =
        Meta { checksum: Checksum::Partial { start: 34, offset: 16 }, segment: 500, ..Meta::default() };
    let sent = world.give(0, INNER, whole.clone(), meta);
    let pieces: Vec<Seen> = sent[0].iter().map(|(bytes, _)| see(bytes)).collect();
    assert_eq!(pieces.len(), 4);
    let mut joined = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let What::Tcp { seq, payload, .. } = &piece.what else { panic!("{piece:?}") };
        assert_eq!(*seq as usize, 1_000 + 500 * n);
        joined.extend_from_slice(payload);
    }
    assert_eq!(joined, payload);
    let fin = |n: usize| TcpPacket::new_unchecked(&sent[0][n].0[34..]).fin();
    assert_eq!([0, 1, 2, 3].map(fin), [false, false, false, true]);
    let alone = Meta { segment: 0, ..meta };
    let short = {
        let mut short = tcp(INNER, NODE_END, far, TcpControl::None, Some(9), b"short");
        short[50..52].copy_from_slice(&[0xab, 0xcd]);
        short
    };
    let sent = world.give(0, INNER, short, alone);
    assert!(matches!(see(&sent[0][0].0).what, What::Tcp { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes come from either side: nothing panics, no frame is lost, nothing from outside reaches a node.
    #[test]
    fn no_bytes_from_outside_reach_a_node(
        kind in 0u8..4,
        flips in proptest::collection::vec((14usize..60, any::<u8>()), 0..4),
        cut in 42usize..80,
    ) {
        let mut world = World::new(1, 1_500);
        let shown = converse(&mut world, NODE_END, WORLD_END);
        let from = (IpAddr::V4(STRANGER), 53);
        let mut packet = match kind {
            0 => udp(OUTER, from, shown, b"a guess of some length, long enough"),
            1 => tcp(OUTER, from, shown, TcpControl::None, Some(1), b"a guess of some length"),
            2 => ping(OUTER, STRANGER.into(), OURS.into(), true, shown.1),
            _ => unreachable(STRANGER.into(), OURS.into(), 1.into(),
                &udp(OUTER, shown, from, b"a guess of some length, long enough")[14..]),
        };
        for (at, value) in flips {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        packet.truncate(cut);
        // The one who was spoken to may answer.
        let spoken = Ipv4Packet::new_checked(&packet[14..]).is_ok_and(|ip| ip.src_addr() == WORLD);
        prop_assume!(!spoken);
        let sent = world.give(0, OUTER, fix(packet), Meta::default());
        prop_assert!(sent[1].is_empty());
    }
}
