//! The link from outside: frames in, answers and frames out, under a clock that the test owns.

use core::time::Duration;
use std::net::IpAddr;

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Address,
    Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::*;
use crate::frame::Meta;
use crate::wire::{LinkRules, parse};

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 3]);
const V4: &str = "198.18.0.1";
const PEER4: &str = "198.18.0.9";
const V6: &str = "2a00:1450::1";
const PEER6: &str = "2a00:1450::9";

fn ip(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

fn v6(text: &str) -> Ipv6Address {
    text.parse().expect("an IPv6 address")
}

fn prefix(text: &str, length: u8) -> Prefix {
    Prefix { address: ip(text), length }
}

/// A link under test with its clock.
struct Bed {
    link: Link,
    now: Instant,
}

fn config() -> LinkConfig {
    LinkConfig {
        mac: OURS,
        addresses: vec![prefix(V4, 24), prefix(V6, 64)],
        claiming: Claiming::Silent,
        ..LinkConfig::default()
    }
}

fn bed(config: LinkConfig) -> Bed {
    let now = Instant::from_millis(1_000);
    Bed { link: Link::new(config, 7, now), now }
}

impl Bed {
    /// Hands in a frame; the answer, and the bytes of the reply if there is one.
    #[track_caller]
    fn hand(&mut self, frame: &[u8]) -> (Answer, Vec<u8>) {
        let rules = LinkRules { mac: OURS, vlan: self.link.config().vlan, mtu: 1500, resets: true };
        let mut bytes = frame.to_vec();
        let packet = match parse(&bytes, &Meta::default(), &rules) {
            Ok(packet) => packet,
            Err(reason) => return (Answer::Drop(reason), Vec::new()),
        };
        let answer = self.link.ingest(self.now, &packet, &mut bytes);
        if let Answer::Reply(length) = answer {
            assert!(length <= frame.len(), "a reply of {length} bytes to {} bytes", frame.len());
            bytes.truncate(length);
            return (answer, bytes);
        }
        (answer, Vec::new())
    }

    #[track_caller]
    fn reply(&mut self, frame: &[u8]) -> Vec<u8> {
        let (answer, bytes) = self.hand(frame);
        assert!(matches!(answer, Answer::Reply(_)), "{answer:?}");
        bytes
    }

    /// What the link sends up to `seconds` from now, with the time of each frame in milliseconds.
    fn run(&mut self, seconds: u64) -> Vec<(u64, Vec<u8>)> {
        let (start, end) = (self.now, self.now + Duration::from_secs(seconds));
        let mut sent = Vec::new();
        loop {
            let now = self.now;
            self.link.transmit(now, |frame| sent.push((now.since(start).as_millis() as u64, frame.to_vec())));
            match self.link.deadline() {
                Some(next) if next <= end => {
                    assert!(next > self.now, "a deadline that does not move");
                    self.now = next;
                }
                _ => break,
            }
        }
        self.now = end;
        sent
    }

    /// Resolves `address` to `mac` by asking and answering.
    fn learn(&mut self, address: &str, mac: Mac) {
        assert_eq!(self.link.next_hop(self.now, ip(address)), Hop::Pending);
        self.link.transmit(self.now, |_| {});
        let answer = match ip(address).v4() {
            Some(_) => arp(ArpOperation::Reply, mac, address, OURS, V4),
            None => advert(mac, address, V6, NdiscNeighborFlags::SOLICITED, Some(mac)),
        };
        assert_eq!(self.hand(&answer).0, Answer::Quiet);
        assert_eq!(self.link.next_hop(self.now, ip(address)), Hop::Known(mac));
    }
}

fn ethernet(from: Mac, to: Mac, ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET];
    EthernetRepr { src_addr: EthernetAddress(from.0), dst_addr: EthernetAddress(to.0), ethertype }
        .emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    bytes.extend_from_slice(payload);
    bytes
}

fn arp(operation: ArpOperation, from: Mac, sender: &str, target_mac: Mac, target: &str) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(from.0),
        source_protocol_addr: sender.parse().expect("IPv4"),
        target_hardware_addr: EthernetAddress(target_mac.0),
        target_protocol_addr: target.parse().expect("IPv4"),
    };
    let mut body = vec![0; repr.buffer_len()];
    repr.emit(&mut ArpPacket::new_unchecked(&mut body));
    let to = if operation == ArpOperation::Request { Mac::BROADCAST } else { target_mac };
    ethernet(from, to, EthernetProtocol::Arp, &body)
}

fn arp_of(frame: &[u8]) -> (ArpOperation, Mac, Address, Mac, Address) {
    let packet = ArpPacket::new_checked(&frame[ETHERNET..]).expect("ARP");
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = ArpRepr::parse(&packet).expect("ARP for IPv4")
    else {
        panic!("another ARP")
    };
    let (source, target) = (Mac(source_hardware_addr.0), Mac(target_hardware_addr.0));
    (operation, source, source_protocol_addr.into(), target, target_protocol_addr.into())
}

fn is_arp(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6]
}

fn icmpv6(
    from: Mac,
    to: Mac,
    source: &str,
    destination: &str,
    hop_limit: u8,
    repr: &Icmpv6Repr<'_>,
) -> Vec<u8> {
    let (source, destination) = (v6(source), v6(destination));
    let ipv6 = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: repr.buffer_len(),
        hop_limit,
    };
    let mut packet = vec![0; ipv6.buffer_len() + repr.buffer_len()];
    ipv6.emit(&mut Ipv6Packet::new_unchecked(&mut packet));
    let mut message = Icmpv6Packet::new_unchecked(&mut packet[ipv6.buffer_len()..]);
    repr.emit(&source, &destination, &mut message, &ChecksumCapabilities::default());
    ethernet(from, to, EthernetProtocol::Ipv6, &packet)
}

fn icmpv4(source: &str, destination: &str, message: &[u8]) -> Vec<u8> {
    let ipv4 = Ipv4Repr {
        src_addr: source.parse().expect("IPv4"),
        dst_addr: destination.parse().expect("IPv4"),
        next_header: IpProtocol::Icmp,
        payload_len: message.len(),
        hop_limit: 55,
    };
    let mut packet = vec![0; ipv4.buffer_len()];
    packet.extend_from_slice(message);
    ipv4.emit(&mut Ipv4Packet::new_unchecked(&mut packet), &ChecksumCapabilities::default());
    Icmpv4Packet::new_unchecked(&mut packet[ipv4.buffer_len()..]).fill_checksum();
    ethernet(THEIRS, OURS, EthernetProtocol::Ipv4, &packet)
}

fn raw(mac: Mac) -> RawHardwareAddress {
    EthernetAddress(mac.0).into()
}

fn group_of(address: &str) -> (Mac, String) {
    let group = build::solicited_node(ip(address));
    (build::group_mac(group), group.to_string())
}

fn solicit(from: Mac, source: &str, target: &str, option: Option<Mac>) -> Vec<u8> {
    let (to, group) = group_of(target);
    let repr = NdiscRepr::NeighborSolicit { target_addr: v6(target), lladdr: option.map(raw) };
    icmpv6(from, to, source, &group, 255, &Icmpv6Repr::Ndisc(repr))
}

fn advert(from: Mac, target: &str, to: &str, flags: NdiscNeighborFlags, option: Option<Mac>) -> Vec<u8> {
    let repr = NdiscRepr::NeighborAdvert { flags, target_addr: v6(target), lladdr: option.map(raw) };
    icmpv6(from, OURS, target, to, 255, &Icmpv6Repr::Ndisc(repr))
}

/// Checks an IPv6 frame through smoltcp, checksum included, and hands its message over.
fn icmpv6_of<'a>(frame: &'a [u8], source: &str, destination: &str) -> Icmpv6Repr<'a> {
    let packet = Ipv6Packet::new_checked(&frame[ETHERNET..]).expect("IPv6");
    assert_eq!((packet.src_addr(), packet.dst_addr()), (v6(source), v6(destination)));
    let message = Icmpv6Packet::new_checked(packet.payload()).expect("ICMPv6");
    Icmpv6Repr::parse(&v6(source), &v6(destination), &message, &ChecksumCapabilities::default())
        .expect("a message")
}

fn macs(frame: &[u8]) -> (Mac, Mac) {
    (Mac(frame[..6].try_into().expect("six")), Mac(frame[6..12].try_into().expect("six")))
}

// ----- ARP -----

#[test]
fn a_request_for_our_address_is_answered_in_its_own_frame() {
    let mut bed = bed(config());
    let mut request = arp(ArpOperation::Request, THEIRS, PEER4, Mac::default(), V4);
    request.resize(60, 0xaa); // padding of the wire does not come back
    let reply = bed.reply(&request);
    assert_eq!(reply.len(), 42);
    assert_eq!(macs(&reply), (THEIRS, OURS));
    assert_eq!(arp_of(&reply), (ArpOperation::Reply, OURS, ip(V4), THEIRS, ip(PEER4)));
}

#[test]
fn a_probe_for_an_address_in_use_is_answered() {
    let mut bed = bed(config());
    let reply = bed.reply(&arp(ArpOperation::Request, THEIRS, "0.0.0.0", Mac::default(), V4));
    assert_eq!(arp_of(&reply), (ArpOperation::Reply, OURS, ip(V4), THEIRS, ip("0.0.0.0")));
}

#[test]
fn a_tag_in_the_bytes_comes_back_with_the_answer() {
    let mut bed = bed(LinkConfig { vlan: Some(7), ..config() });
    let mut request = arp(ArpOperation::Request, THEIRS, PEER4, Mac::default(), V4);
    request.splice(12..12, [0x81, 0, 0, 7]);
    let reply = bed.reply(&request);
    assert_eq!(reply[12..18], [0x81, 0, 0, 7, 8, 6]);
    assert_eq!(ArpPacket::new_checked(&reply[18..]).expect("ARP").operation(), ArpOperation::Reply);
}

#[test]
fn what_asks_for_nothing_of_ours_is_refused_and_leaves_no_trace() {
    let mut bed = bed(config());
    for frame in [
        arp(ArpOperation::Request, THEIRS, PEER4, Mac::default(), "198.18.0.77"),
        arp(ArpOperation::Request, THEIRS, PEER4, Mac::default(), PEER4),
        arp(ArpOperation::Reply, THEIRS, PEER4, OURS, V4),
        arp(ArpOperation::Request, Mac::default(), PEER4, Mac::default(), V4),
        advert(THEIRS, PEER6, V6, NdiscNeighborFlags::SOLICITED, Some(THEIRS)),
        solicit(THEIRS, PEER6, "2a00:1450::77", Some(THEIRS)),
    ] {
        assert_eq!(bed.hand(&frame).0, Answer::Drop(Reason::NeighbourInvalid), "{frame:02x?}");
    }
    assert_eq!(bed.link.neighbours(), 0);
}

#[test]
fn answers_are_rate_limited() {
    let mut bed = bed(config());
    let request = arp(ArpOperation::Request, THEIRS, PEER4, Mac::default(), V4);
    let answered = (0..2_000).filter(|_| matches!(bed.hand(&request).0, Answer::Reply(_))).count();
    assert_eq!(answered, 250);
    assert_eq!(bed.hand(&request).0, Answer::Drop(Reason::LinkRate));
    bed.now += Duration::from_millis(10);
    let answered = (0..2_000).filter(|_| matches!(bed.hand(&request).0, Answer::Reply(_))).count();
    assert_eq!(answered, 10);
}

// ----- Neighbours -----

#[test]
fn a_next_hop_is_asked_for_and_known_once_it_answers() {
    for (address, own) in [(PEER4, V4), (PEER6, V6)] {
        let mut bed = bed(config());
        assert_eq!(bed.link.next_hop(bed.now, ip(address)), Hop::Pending);
        let sent = bed.run(0);
        assert_eq!(sent.len(), 1);
        let request = &sent[0].1;
        if own == V4 {
            assert_eq!(macs(request), (Mac::BROADCAST, OURS));
            assert_eq!(arp_of(request), (ArpOperation::Request, OURS, ip(own), Mac::default(), ip(address)));
        } else {
            let (mac, group) = group_of(address);
            assert_eq!(macs(request), (mac, OURS));
            let expected = NdiscRepr::NeighborSolicit { target_addr: v6(address), lladdr: Some(raw(OURS)) };
            assert_eq!(icmpv6_of(request, own, &group), Icmpv6Repr::Ndisc(expected));
        }
        assert!(!bed.link.take_resolved());
        let answer = match own {
            V4 => arp(ArpOperation::Reply, THEIRS, address, OURS, own),
            _ => advert(THEIRS, address, own, NdiscNeighborFlags::SOLICITED, Some(THEIRS)),
        };
        assert_eq!(bed.hand(&answer).0, Answer::Quiet);
        assert!(bed.link.take_resolved());
        assert!(!bed.link.take_resolved());
        assert_eq!(bed.link.next_hop(bed.now, ip(address)), Hop::Known(THEIRS));
        assert!(bed.run(10).is_empty());
    }
}

#[test]
fn a_silent_next_hop_costs_three_requests_and_is_remembered_for_a_while() {
    let mut bed = bed(config());
    let hop = |bed: &mut Bed| bed.link.next_hop(bed.now, ip(PEER4));
    assert_eq!(hop(&mut bed), Hop::Pending);
    let times: Vec<u64> = bed.run(3).into_iter().map(|(at, _)| at).collect();
    assert_eq!(times, [0, 1_000, 2_000]);
    assert_eq!(hop(&mut bed), Hop::Unroutable(Reason::NoNeighbour));
    assert!(bed.run(4).is_empty());
    assert_eq!(hop(&mut bed), Hop::Unroutable(Reason::NoNeighbour));
    bed.now += neighbours::NEGATIVE;
    assert_eq!(hop(&mut bed), Hop::Pending);
    assert_eq!(bed.run(0).len(), 1);
}

#[test]
fn a_next_hop_in_use_is_asked_again_by_unicast_and_serves_meanwhile() {
    for (address, own) in [(PEER4, V4), (PEER6, V6)] {
        let mut bed = bed(config());
        bed.learn(address, THEIRS);
        assert!(bed.run(50).is_empty(), "nobody used it");
        assert_eq!(bed.link.next_hop(bed.now, ip(address)), Hop::Known(THEIRS));
        let sent = bed.run(2);
        assert_eq!(sent.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1_000, 2_000]);
        assert!(sent.iter().all(|(_, frame)| macs(frame) == (THEIRS, OURS)));
        assert_eq!(bed.link.next_hop(bed.now, ip(address)), Hop::Known(THEIRS));
        let answer = match own {
            V4 => arp(ArpOperation::Reply, THEIRS, address, OURS, own),
            // An answer to a unicast solicitation need not name the station.
            _ => advert(THEIRS, address, own, NdiscNeighborFlags::SOLICITED, None),
        };
        bed.hand(&answer);
        assert!(bed.run(10).is_empty());
    }
}

#[test]
fn a_next_hop_that_went_silent_is_asked_for_from_everybody_again() {
    let mut bed = bed(config());
    bed.learn(PEER4, THEIRS);
    bed.run(50);
    bed.link.next_hop(bed.now, ip(PEER4));
    let to: Vec<Mac> = bed.run(6).iter().map(|(_, frame)| macs(frame).0).collect();
    let all = Mac::BROADCAST;
    assert_eq!(to, [THEIRS, THEIRS, THEIRS, all, all, all]);
    assert_eq!(bed.link.next_hop(bed.now, ip(PEER4)), Hop::Unroutable(Reason::NoNeighbour));
}

#[test]
fn an_announcement_moves_a_next_hop_that_we_use_and_makes_none() {
    let mut bed = bed(config());
    bed.learn(PEER4, THEIRS);
    assert_eq!(bed.hand(&arp(ArpOperation::Request, OTHER, PEER4, Mac::default(), PEER4)).0, Answer::Quiet);
    assert_eq!(bed.link.next_hop(bed.now, ip(PEER4)), Hop::Known(OTHER));
    assert_eq!(bed.run(0).len(), 1, "an address that moved by itself is checked on its next use");
    bed.learn(PEER6, THEIRS);
    let moved = advert(OTHER, PEER6, "ff02::1", NdiscNeighborFlags::OVERRIDE, Some(OTHER));
    assert_eq!(bed.hand(&moved).0, Answer::Quiet);
    assert_eq!(bed.link.next_hop(bed.now, ip(PEER6)), Hop::Known(OTHER));
    assert_eq!(bed.link.neighbours(), 2);
}

#[test]
fn an_advertisement_that_may_not_replace_only_casts_doubt() {
    let mut bed = bed(config());
    bed.learn(PEER6, THEIRS);
    bed.hand(&advert(OTHER, PEER6, "ff02::1", NdiscNeighborFlags::empty(), Some(OTHER)));
    assert_eq!(bed.link.next_hop(bed.now, ip(PEER6)), Hop::Known(THEIRS));
    assert_eq!(bed.run(0).len(), 1);
}

#[test]
fn a_full_table_forgets_the_next_hop_that_was_used_least_lately() {
    let mut bed = bed(LinkConfig { neighbours: 4, ..config() });
    for last in 1..=4_u8 {
        bed.learn(&format!("198.18.0.{}", 10 + last), Mac([2, 0, 0, 0, 1, last]));
        bed.now += Duration::from_millis(1);
    }
    bed.link.next_hop(bed.now, ip("198.18.0.11"));
    bed.link.next_hop(bed.now, ip("198.18.0.99"));
    assert_eq!(bed.link.neighbours(), 4);
    assert!(matches!(bed.link.next_hop(bed.now, ip("198.18.0.11")), Hop::Known(_)));
    assert_eq!(bed.link.next_hop(bed.now, ip("198.18.0.12")), Hop::Pending);
}

/// A node with a way out may send to every address of a network: the gateway stays known.
#[test]
fn addresses_that_do_not_answer_displace_none_that_did() {
    let mut bed = bed(LinkConfig { neighbours: 4, ..config() });
    bed.learn("198.18.0.11", Mac([2, 0, 0, 0, 1, 1]));
    for last in 20..=250_u8 {
        bed.now += Duration::from_millis(1);
        assert_eq!(bed.link.next_hop(bed.now, ip(&format!("198.18.0.{last}"))), Hop::Pending);
    }
    assert_eq!(bed.link.neighbours(), 4);
    assert!(matches!(bed.link.next_hop(bed.now, ip("198.18.0.11")), Hop::Known(_)));
}

// ----- Routes -----

#[test]
fn the_longest_prefix_decides_and_gateways_may_lie_anywhere() {
    let mut bed = bed(LinkConfig {
        addresses: vec![prefix(V4, 32), prefix(V6, 64)],
        gateways: vec![ip("203.0.113.1"), ip("fe80::1")],
        routes: vec![
            Route { prefix: prefix("10.0.0.0", 8), gateway: Some(ip("203.0.113.2")) },
            Route { prefix: prefix("10.9.0.0", 16), gateway: None },
        ],
        ..config()
    });
    for (destination, hop) in [
        ("8.8.8.8", "203.0.113.1"),
        ("198.18.0.9", "203.0.113.1"),
        ("10.1.2.3", "203.0.113.2"),
        ("10.9.2.3", "10.9.2.3"),
        ("2001:4860::1", "fe80::1"),
        (PEER6, PEER6),
    ] {
        bed.link.next_hop(bed.now, ip(destination));
        let sent = bed.run(0);
        let asked = match ip(hop).v4() {
            Some(_) => sent.iter().find(|(_, frame)| is_arp(frame)).map(|(_, frame)| arp_of(frame).4),
            None => sent.iter().find(|(_, frame)| !is_arp(frame)).map(|(_, frame)| {
                let packet = Ipv6Packet::new_checked(&frame[ETHERNET..]).expect("IPv6");
                Icmpv6Packet::new_checked(packet.payload()).expect("a solicitation").target_addr().into()
            }),
        };
        if let Some(asked) = asked {
            assert_eq!(asked, ip(hop), "towards {destination}");
        } else {
            assert_eq!(hop, "203.0.113.1", "asked for once only; {destination}");
        }
    }
    assert_eq!(bed.link.source_for(ip("8.8.8.8")), Some(ip(V4)));
    assert_eq!(bed.link.source_for(ip("2001:4860::1")), Some(ip(V6)));
}

#[test]
fn without_a_route_there_is_no_next_hop() {
    let mut bed = bed(config());
    assert_eq!(bed.link.next_hop(bed.now, ip("8.8.8.8")), Hop::Unroutable(Reason::NoRoute));
    assert_eq!(bed.link.next_hop(bed.now, ip("2001:4860::1")), Hop::Unroutable(Reason::NoRoute));
    assert_eq!(bed.link.neighbours(), 0);
}

#[test]
fn the_second_gateway_serves_while_the_first_is_silent() {
    let mut bed = bed(LinkConfig { gateways: vec![ip("198.18.0.254"), ip("198.18.0.253")], ..config() });
    assert_eq!(bed.link.next_hop(bed.now, ip("8.8.8.8")), Hop::Pending);
    bed.run(4);
    assert_eq!(bed.link.next_hop(bed.now, ip("8.8.8.8")), Hop::Pending);
    bed.link.transmit(bed.now, |_| {});
    bed.hand(&arp(ArpOperation::Reply, OTHER, "198.18.0.253", OURS, V4));
    assert_eq!(bed.link.next_hop(bed.now, ip("8.8.8.8")), Hop::Known(OTHER));
}

// ----- Our own addresses -----

fn claiming(address: &str) -> Bed {
    bed(LinkConfig { addresses: vec![prefix(address, 24)], claiming: Claiming::Probe, ..config() })
}

#[test]
fn an_ipv4_address_is_probed_announced_and_only_then_used() {
    let mut bed = claiming(V4);
    assert!(!bed.link.usable(ip(V4)) && bed.link.owns(ip(V4)));
    let early = bed.hand(&arp(ArpOperation::Request, THEIRS, PEER4, Mac::default(), V4)).0;
    assert_eq!(early, Answer::Drop(Reason::NeighbourInvalid));
    let sent = bed.run(12);
    let senders: Vec<Address> = sent.iter().map(|(_, frame)| arp_of(frame).2).collect();
    let none = ip("0.0.0.0");
    assert_eq!(senders, [none, none, none, ip(V4), ip(V4)]);
    assert!(sent.iter().all(|(_, frame)| arp_of(frame).4 == ip(V4) && macs(frame) == (Mac::BROADCAST, OURS)));
    let at: Vec<u64> = sent.iter().map(|(at, _)| *at).collect();
    assert!(at[0] < 1_000, "{at:?}");
    assert!(at[1..3].iter().zip(&at).all(|(b, a)| (1_000..2_000).contains(&(b - a))), "{at:?}");
    assert_eq!((at[3] - at[2], at[4] - at[3]), (2_000, 2_000));
    assert!(bed.link.usable(ip(V4)));
    assert!(bed.run(3_600).is_empty());
}

#[test]
fn a_packet_waits_for_an_address_that_is_being_probed_and_for_no_other() {
    for (own, peer) in [(V4, PEER4), (V6, PEER6)] {
        let mut bed = claiming(own);
        assert_eq!(bed.link.source_for(ip(peer)), Some(ip(own)));
        let mut early = Vec::new();
        while !bed.link.usable(ip(own)) {
            assert_eq!(bed.link.next_hop(bed.now, ip(peer)), Hop::Pending);
            early.extend(bed.run(1));
        }
        let asks = |frame: &Vec<u8>| match own {
            V4 => arp_of(frame).4 == ip(peer),
            _ => macs(frame).0 == group_of(peer).0,
        };
        assert!(early.iter().all(|(_, frame)| !asks(frame)), "asked from an address that may be another's");
        assert_eq!(bed.link.next_hop(bed.now, ip(peer)), Hop::Pending);
        assert!(bed.run(0).iter().any(|(_, frame)| asks(frame)));

        let mut bed = claiming(own);
        bed.run(1);
        let defence = match own {
            V4 => arp(ArpOperation::Reply, THEIRS, V4, OURS, "0.0.0.0"),
            _ => advert(THEIRS, V6, "ff02::1", NdiscNeighborFlags::OVERRIDE, Some(THEIRS)),
        };
        bed.hand(&defence);
        assert_eq!(bed.link.source_for(ip(peer)), None, "another's");
        assert_eq!(bed.link.next_hop(bed.now, ip(peer)), Hop::Unroutable(Reason::NoRoute));
        assert_eq!(bed.link.neighbours(), 0);
    }
}

#[test]
fn an_ipv6_address_is_reported_probed_announced_and_only_then_used() {
    let mut bed = claiming(V6);
    let (mac, group) = group_of(V6);
    let sent = bed.run(1);
    assert!(!bed.link.usable(ip(V6)) || sent.len() > 2);
    let report = &sent[0].1;
    assert_eq!(macs(report), (Mac([0x33, 0x33, 0, 0, 0, 0x16]), OURS));
    assert_eq!(report[ETHERNET + 6], 0, "a hop-by-hop header with the router alert");
    assert_eq!(report[report.len() - 16..], v6(&group).octets());
    let probe = &sent[1].1;
    assert_eq!(macs(probe), (mac, OURS));
    let expected = NdiscRepr::NeighborSolicit { target_addr: v6(V6), lladdr: None };
    assert_eq!(icmpv6_of(probe, "::", &group), Icmpv6Repr::Ndisc(expected));
    let announced = bed.run(8);
    let expected = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: v6(V6),
        lladdr: Some(raw(OURS)),
    };
    assert_eq!(announced.len(), 3);
    for (_, frame) in &announced {
        assert_eq!(icmpv6_of(frame, V6, "ff02::1"), Icmpv6Repr::Ndisc(expected));
    }
    assert!(bed.link.usable(ip(V6)));
    assert_eq!(bed.run(120).len(), 2, "membership is reported once a minute");
}

#[test]
fn an_address_that_another_station_holds_is_not_used_and_probed_again_later() {
    let unspecified = "0.0.0.0";
    let defence = [
        (V4, arp(ArpOperation::Reply, THEIRS, V4, OURS, unspecified)),
        (V4, arp(ArpOperation::Request, THEIRS, unspecified, Mac::default(), V4)),
        (V6, advert(THEIRS, V6, "ff02::1", NdiscNeighborFlags::OVERRIDE, Some(THEIRS))),
        (V6, solicit(THEIRS, "::", V6, None)),
    ];
    for (own, defence) in defence {
        let mut bed = claiming(own);
        bed.run(1);
        assert_eq!(bed.hand(&defence).0, Answer::Drop(Reason::AddressConflict), "{own}");
        assert_eq!(bed.link.conflicts().collect::<Vec<_>>(), [ip(own)]);
        let quiet = bed.run(50);
        assert!(!bed.link.usable(ip(own)));
        assert!(quiet.iter().all(|(_, frame)| !is_arp(frame)));
        bed.run(30);
        assert!(bed.link.usable(ip(own)), "nobody objects any more");
        assert_eq!(bed.link.conflicts().count(), 0);
    }
}

#[test]
fn an_address_in_use_is_defended_once_in_ten_seconds_and_never_given_up() {
    for (own, claim) in [
        (V4, arp(ArpOperation::Request, THEIRS, V4, Mac::default(), PEER4)),
        (V6, advert(THEIRS, V6, "ff02::1", NdiscNeighborFlags::OVERRIDE, Some(THEIRS))),
    ] {
        let mut bed = bed(config());
        let mut announcements = 0;
        for _ in 0..40 {
            assert_eq!(bed.hand(&claim).0, Answer::Drop(Reason::AddressConflict));
            announcements += bed.run(1).len();
        }
        assert_eq!(announcements, 4);
        assert!(bed.link.usable(ip(own)));
    }
}

#[test]
fn our_own_frames_coming_back_are_no_conflict() {
    let mut bed = claiming(V4);
    for (_, frame) in bed.run(12) {
        assert_eq!(bed.hand(&frame).0, Answer::Quiet);
    }
    assert!(bed.link.usable(ip(V4)));
}

#[test]
fn an_address_that_just_moved_here_is_used_and_announced_at_once() {
    let mut bed = bed(LinkConfig { claiming: Claiming::Announce, ..config() });
    assert!(bed.link.usable(ip(V4)) && bed.link.usable(ip(V6)));
    let sent = bed.run(10);
    assert_eq!(sent.iter().filter(|(_, frame)| is_arp(frame)).count(), 2);
    assert!(sent.iter().filter(|(at, _)| *at == 0).count() == 3, "ARP, membership, advertisement");
}

#[test]
fn the_groups_to_receive_are_those_of_the_ipv6_addresses() {
    let groups = bed(config()).link.multicast_groups();
    assert_eq!(groups, [Mac([0x33, 0x33, 0, 0, 0, 1]), Mac([0x33, 0x33, 0xff, 0, 0, 1])]);
    let v4_only = LinkConfig { addresses: vec![prefix(V4, 24)], ..config() };
    assert!(bed(v4_only).link.multicast_groups().is_empty());
}

#[test]
fn the_same_seed_sends_the_same_frames() {
    let sent = |seed| {
        let now = Instant::ZERO;
        let mut link =
            Bed { link: Link::new(LinkConfig { claiming: Claiming::Probe, ..config() }, seed, now), now };
        link.run(30)
    };
    assert_eq!(sent(1), sent(1));
    assert_ne!(sent(1), sent(2));
}

// ----- Neighbour discovery -----

#[test]
fn a_solicitation_becomes_its_advertisement() {
    let mut bed = bed(config());
    let request = solicit(THEIRS, PEER6, V6, Some(THEIRS));
    let reply = bed.reply(&request);
    assert_eq!(reply.len(), request.len());
    assert_eq!(macs(&reply), (THEIRS, OURS));
    assert_eq!(reply[ETHERNET + 7], 255);
    let expected = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
        target_addr: v6(V6),
        lladdr: Some(raw(OURS)),
    };
    assert_eq!(icmpv6_of(&reply, V6, PEER6), Icmpv6Repr::Ndisc(expected));
}

#[test]
fn a_unicast_solicitation_without_option_gets_an_answer_of_its_own_length() {
    let mut bed = bed(config());
    let repr = NdiscRepr::NeighborSolicit { target_addr: v6(V6), lladdr: None };
    let request = icmpv6(THEIRS, OURS, PEER6, V6, 255, &Icmpv6Repr::Ndisc(repr));
    let reply = bed.reply(&request);
    assert_eq!(reply.len(), request.len());
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { lladdr, .. }) = icmpv6_of(&reply, V6, PEER6) else {
        panic!("not an advertisement")
    };
    assert_eq!(lladdr, None);
}

#[test]
fn a_duplicate_address_probe_is_answered_by_an_announcement_at_most_once_a_second() {
    let mut bed = bed(config());
    let probe = solicit(THEIRS, "::", V6, None);
    let mut announced = 0;
    for _ in 0..30 {
        assert_eq!(bed.hand(&probe).0, Answer::Quiet);
        for (_, frame) in bed.run(0) {
            assert!(matches!(
                icmpv6_of(&frame, V6, "ff02::1"),
                Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags: NdiscNeighborFlags::OVERRIDE, .. })
            ));
            announced += 1;
        }
        bed.now += Duration::from_millis(100);
    }
    assert_eq!(announced, 3);
}

#[test]
fn neighbour_messages_from_beyond_the_link_are_refused() {
    let mut bed = bed(config());
    let (to, group) = group_of(V6);
    let ask = NdiscRepr::NeighborSolicit { target_addr: v6(V6), lladdr: Some(raw(THEIRS)) };
    let frame = icmpv6(THEIRS, to, PEER6, &group, 254, &Icmpv6Repr::Ndisc(ask));
    assert_eq!(bed.hand(&frame).0, Answer::Drop(Reason::NeighbourInvalid));
    let claim = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr: v6(V6),
        lladdr: Some(raw(THEIRS)),
    };
    let frame = icmpv6(THEIRS, OURS, V6, "ff02::1", 64, &Icmpv6Repr::Ndisc(claim));
    assert!(matches!(bed.hand(&frame).0, Answer::Drop(reason) if reason != Reason::AddressConflict));
    assert!(bed.run(10).is_empty(), "nothing is defended against a forgery from afar");
}

#[test]
fn routers_and_redirects_are_not_believed() {
    let mut bed = bed(config());
    let advert = NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: smoltcp::wire::NdiscRouterFlags::empty(),
        router_lifetime: smoltcp::time::Duration::from_secs(1_800),
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: Some(raw(THEIRS)),
        mtu: None,
        prefix_info: None,
    };
    let frame = icmpv6(THEIRS, OURS, "fe80::2", V6, 255, &Icmpv6Repr::Ndisc(advert));
    assert_eq!(bed.hand(&frame).0, Answer::Drop(Reason::IcmpIgnored));
    let redirect = NdiscRepr::Redirect {
        target_addr: v6("fe80::2"),
        dest_addr: v6(PEER6),
        lladdr: None,
        redirected_hdr: None,
    };
    let frame = icmpv6(THEIRS, OURS, "fe80::2", V6, 255, &Icmpv6Repr::Ndisc(redirect));
    assert_eq!(bed.hand(&frame).0, Answer::Drop(Reason::IcmpIgnored));
    assert_eq!(bed.link.next_hop(bed.now, ip("2001:4860::1")), Hop::Unroutable(Reason::NoRoute));
}

// ----- Ping and errors -----

fn ping4(destination: &str) -> Vec<u8> {
    let repr = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 9, data: b"are you there?" };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message), &ChecksumCapabilities::default());
    icmpv4(PEER4, destination, &message)
}

#[test]
fn a_ping_comes_back_with_its_data() {
    let mut bed = bed(config());
    let reply = bed.reply(&ping4(V4));
    assert_eq!(macs(&reply), (THEIRS, OURS));
    let packet = Ipv4Packet::new_checked(&reply[ETHERNET..]).expect("IPv4");
    assert!(packet.verify_checksum());
    assert_eq!((Address::from(packet.src_addr()), Address::from(packet.dst_addr())), (ip(V4), ip(PEER4)));
    let message = Icmpv4Packet::new_checked(packet.payload()).expect("ICMP");
    let parsed = Icmpv4Repr::parse(&message, &ChecksumCapabilities::default());
    assert_eq!(parsed, Ok(Icmpv4Repr::EchoReply { ident: 7, seq_no: 9, data: b"are you there?" }));

    let ask = Icmpv6Repr::EchoRequest { ident: 7, seq_no: 9, data: b"and you?" };
    let reply = bed.reply(&icmpv6(THEIRS, OURS, PEER6, V6, 3, &ask));
    let expected = Icmpv6Repr::EchoReply { ident: 7, seq_no: 9, data: b"and you?" };
    assert_eq!(icmpv6_of(&reply, V6, PEER6), expected);
    assert_eq!(reply[ETHERNET + 7], 64);
}

#[test]
fn pings_are_rate_limited_and_only_for_us() {
    let mut bed = bed(LinkConfig { pings_per_second: 20, ..config() });
    let answered = (0..100).filter(|_| matches!(bed.hand(&ping4(V4)).0, Answer::Reply(_))).count();
    assert_eq!(answered, 5);
    assert_eq!(bed.hand(&ping4(V4)).0, Answer::Drop(Reason::LinkRate));
    assert_eq!(bed.hand(&ping4("198.18.0.2")).0, Answer::Drop(Reason::NotOurs));
    let mut none = self::bed(LinkConfig { pings_per_second: 0, ..config() });
    assert_eq!(none.hand(&ping4(V4)).0, Answer::Drop(Reason::LinkRate));
}

/// An ICMP message of the given type, code and second word that quotes a segment of ours.
fn error4(kind: u8, code: u8, word: u32, from: &str) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&word.to_be_bytes());
    let quoted = Ipv4Repr {
        src_addr: from.parse().expect("IPv4"),
        dst_addr: PEER4.parse().expect("IPv4"),
        next_header: IpProtocol::Tcp,
        payload_len: 1_480,
        hop_limit: 9,
    };
    let mut header = vec![0; 20];
    quoted.emit(&mut Ipv4Packet::new_unchecked(&mut header), &ChecksumCapabilities::default());
    message.extend_from_slice(&header);
    message.extend_from_slice(&8444_u16.to_be_bytes());
    message.extend_from_slice(&50_000_u16.to_be_bytes());
    message.extend_from_slice(&0xdead_beef_u32.to_be_bytes());
    icmpv4("198.18.0.254", V4, &message)
}

fn key(own: &str, peer: &str) -> FlowKey {
    FlowKey { local: ip(own), remote: ip(peer), local_port: 8444, remote_port: 50_000 }
}

#[test]
fn errors_about_our_segments_reach_the_engine() {
    let mut bed = bed(config());
    let seq = Seq(0xdead_beef);
    let key4 = key(V4, PEER4);
    for (code, word, kind) in [
        (4, 1_400, IcmpErrorKind::PacketTooBig(1_400)),
        (4, 0, IcmpErrorKind::PacketTooBig(1_492)), // no size named: the plateau below 1,500
        (1, 0, IcmpErrorKind::Unreachable),
        (3, 0, IcmpErrorKind::Unreachable),
        (13, 0, IcmpErrorKind::Unreachable),
    ] {
        let error = IcmpError { key: key4, seq, kind };
        assert_eq!(bed.hand(&error4(3, code, word, V4)).0, Answer::Error(error), "code {code}");
    }
    assert_eq!(bed.hand(&error4(3, 4, 1_400, PEER4)).0, Answer::Drop(Reason::IcmpUnrelated));
    assert_eq!(bed.hand(&error4(11, 0, 0, V4)).0, Answer::Drop(Reason::IcmpIgnored));
    assert_eq!(bed.hand(&error4(5, 1, 0, V4)).0, Answer::Drop(Reason::IcmpIgnored));
}

#[test]
fn forged_errors_do_not_keep_the_true_ones_out() {
    let mut bed = bed(config());
    // Anybody can quote a segment that was never sent; only the engine knows what was.
    let heard = |bed: &mut Bed| matches!(bed.hand(&error4(3, 4, 1_400, V4)).0, Answer::Error(_));
    assert!((0..10_000).all(|_| heard(&mut bed)));
}

#[test]
fn errors_of_ipv6_reach_the_engine() {
    let mut bed = bed(config());
    let header = Ipv6Repr {
        src_addr: v6(V6),
        dst_addr: v6(PEER6),
        next_header: IpProtocol::Tcp,
        payload_len: 1_440,
        hop_limit: 9,
    };
    let data = [0x20, 0xfc, 0xc3, 0x50, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0];
    let big = Icmpv6Repr::PktTooBig { mtu: 1_280, header, data: &data };
    let expected =
        IcmpError { key: key(V6, PEER6), seq: Seq(0xdead_beef), kind: IcmpErrorKind::PacketTooBig(1_280) };
    assert_eq!(bed.hand(&icmpv6(THEIRS, OURS, "fe80::1", V6, 64, &big)).0, Answer::Error(expected));
    let reason = smoltcp::wire::Icmpv6DstUnreachable::AddrUnreachable;
    let gone = Icmpv6Repr::DstUnreachable { reason, header, data: &data };
    let expected = IcmpError { kind: IcmpErrorKind::Unreachable, ..expected };
    assert_eq!(bed.hand(&icmpv6(THEIRS, OURS, "fe80::1", V6, 64, &gone)).0, Answer::Error(expected));
    let short = Icmpv6Repr::PktTooBig { mtu: 1_280, header, data: &data[..6] };
    let answer = bed.hand(&icmpv6(THEIRS, OURS, "fe80::1", V6, 64, &short)).0;
    assert_eq!(answer, Answer::Drop(Reason::IcmpUnrelated));
}

// ----- Properties -----

/// Any message body in a frame that passes the parser: Ethernet and IP correct, checksum filled in.
fn arbitrary_frame() -> impl Strategy<Value = Vec<u8>> {
    let body = proptest::collection::vec(any::<u8>(), 8..120);
    let kinds =
        prop_oneof![Just(135_u8), Just(136), Just(134), Just(137), Just(128), Just(2), Just(1), any::<u8>()];
    (0..3_u8, kinds, any::<bool>(), 0..3_usize, body).prop_map(|(family, kind, near, whose, mut body)| {
        match family {
            0 => {
                let targets = [V4, PEER4, "198.18.0.200"];
                let operation = if near { ArpOperation::Request } else { ArpOperation::Reply };
                let mut frame = arp(operation, THEIRS, PEER4, OURS, targets[whose]);
                let damage = usize::from(body[0]) % frame.len();
                if damage >= ETHERNET {
                    frame[damage] ^= body[1];
                }
                frame
            }
            1 => {
                body[0] = [8, 3, kind][whose];
                icmpv4(PEER4, V4, &body)
            }
            _ => {
                let destinations = [V6.to_owned(), group_of(V6).1, "ff02::1".to_owned()];
                let ipv6 = Ipv6Repr {
                    src_addr: v6(if body[7] & 1 == 0 { PEER6 } else { "::" }),
                    dst_addr: v6(&destinations[whose]),
                    next_header: IpProtocol::Icmpv6,
                    payload_len: body.len(),
                    hop_limit: if near { 255 } else { 64 },
                };
                body[0] = kind;
                body[1] &= 1;
                if body.len() >= 24 && body[6] & 1 == 0 {
                    body[8..24].copy_from_slice(&v6(V6).octets());
                }
                let mut packet = vec![0; 40];
                ipv6.emit(&mut Ipv6Packet::new_unchecked(&mut packet));
                Icmpv6Packet::new_unchecked(&mut body).fill_checksum(&ipv6.src_addr, &ipv6.dst_addr);
                packet.extend_from_slice(&body);
                ethernet(THEIRS, OURS, EthernetProtocol::Ipv6, &packet)
            }
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever strangers send: no panic, no longer answer (asserted by the bed), no new neighbour, our addresses kept,
    /// and no more frames of our own than announcements allow.
    #[test]
    fn strangers_grow_nothing(frames in proptest::collection::vec(arbitrary_frame(), 1..40)) {
        let mut bed = bed(config());
        bed.learn("198.18.0.50", OTHER);
        for frame in &frames {
            let (answer, reply) = bed.hand(frame);
            if let Answer::Reply(_) = answer {
                prop_assert_eq!(macs(&reply).1, OURS);
                prop_assert!(!macs(&reply).0.is_group());
            }
        }
        prop_assert_eq!(bed.link.neighbours(), 1);
        prop_assert!(bed.link.usable(ip(V4)) && bed.link.usable(ip(V6)));
        prop_assert!(bed.run(0).len() <= 3);
    }

    /// The table against its bound: any order of asking, answering and waiting.
    #[test]
    fn the_table_keeps_its_bound(steps in proptest::collection::vec((0..3_u8, 0..40_u8, 0..3_000_u64), 1..200)) {
        let mut bed = bed(LinkConfig { neighbours: 8, ..config() });
        for (step, last, millis) in steps {
            let address = format!("198.18.0.{}", 100 + last);
            match step {
                0 => { bed.link.next_hop(bed.now, ip(&address)); }
                1 => { bed.hand(&arp(ArpOperation::Reply, THEIRS, &address, OURS, V4)); }
                _ => {
                    bed.now += Duration::from_millis(millis);
                    bed.link.transmit(bed.now, |frame| assert!(frame.len() <= FRAME_MAX));
                }
            }
            prop_assert!(bed.link.neighbours() <= 8);
        }
    }
}
