//! The frames that a link sends on its own: requests, probes, announcements and membership reports.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Address, Ipv6Address, Ipv6Packet, Ipv6Repr,
    NdiscNeighborFlags, NdiscRepr,
};

use super::ETHERNET;
use super::claims::Say;
use super::neighbours::Ask;
use crate::wire::{Address, Mac};

/// Longest frame of the link's own but for DHCP messages; bytes.
const FRAME_MAX: usize = 128;
/// Room for one of them.
pub(super) type Space = [u8; FRAME_MAX];

/// Room for a frame.
pub(super) fn space() -> Space {
    [0; FRAME_MAX]
}

const IPV6: usize = 40;
/// All nodes on the link (RFC 4291, section 2.7.1).
pub(super) const ALL_NODES: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// All MLDv2-capable routers (RFC 3810, section 5.2.14).
const MLD_ROUTERS: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// A hop-by-hop header with the router alert that MLD demands (RFC 2711), padded to eight bytes; ICMPv6 follows.
const ROUTER_ALERT: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];

/// The solicited-node group of an address (RFC 4291, section 2.7.1).
pub(super) fn solicited_node(address: Address) -> Ipv6Address {
    let [.., a, b, c] = address.octets();
    Ipv6Address::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// The Ethernet address of an IPv6 group (RFC 2464, section 7).
pub(super) fn group_mac(group: Ipv6Address) -> Mac {
    let [.., a, b, c, d] = group.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// The frame for what one of our addresses wants said.
pub(super) fn say(space: &mut Space, mac: Mac, say: Say) -> &[u8] {
    match say {
        Say::Probe(address) => match address.v4() {
            // RFC 5227, section 2.1.1: the sender's address is unspecified.
            Some(target) => arp_request(space, mac, Mac::BROADCAST, [0; 4], target),
            None => solicit(space, mac, None, Ipv6Address::UNSPECIFIED, address),
        },
        Say::Announce(address) => match address.v4() {
            // RFC 5227, section 2.3: a request for oneself.
            Some(own) => arp_request(space, mac, Mac::BROADCAST, own, own),
            None => advertise(space, mac, address),
        },
        Say::Report(address) => report(space, mac, address),
    }
}

/// The frame that asks for a neighbour's Ethernet address.
pub(super) fn ask(space: &mut Space, mac: Mac, source: Address, ask: Ask) -> &[u8] {
    match (source.v4(), ask.address.v4()) {
        (Some(source), Some(target)) => {
            arp_request(space, mac, ask.mac.unwrap_or(Mac::BROADCAST), source, target)
        }
        _ => solicit(space, mac, ask.mac, source.octets().into(), ask.address),
    }
}

fn arp_request(space: &mut Space, mac: Mac, to: Mac, source: [u8; 4], target: [u8; 4]) -> &[u8] {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: Ipv4Address::from(source),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: Ipv4Address::from(target),
    };
    let end = ETHERNET + repr.buffer_len();
    ethernet(space, mac, to, EthernetProtocol::Arp);
    repr.emit(&mut ArpPacket::new_unchecked(&mut space[ETHERNET..end]));
    &space[..end]
}

/// A neighbour solicitation (RFC 4861, section 4.3): without source option where the source is unspecified.
fn solicit(space: &mut Space, mac: Mac, to: Option<Mac>, source: Ipv6Address, target: Address) -> &[u8] {
    let target_addr = Ipv6Address::from(target.octets());
    let group = solicited_node(target);
    let (to, destination) = match to {
        Some(to) => (to, target_addr),
        None => (group_mac(group), group),
    };
    let lladdr = (!source.is_unspecified()).then(|| EthernetAddress(mac.0).into());
    let message = NdiscRepr::NeighborSolicit { target_addr, lladdr };
    ndisc(space, mac, to, source, destination, message)
}

/// An unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
fn advertise(space: &mut Space, mac: Mac, own: Address) -> &[u8] {
    let target_addr = Ipv6Address::from(own.octets());
    let message = NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::OVERRIDE,
        target_addr,
        lladdr: Some(EthernetAddress(mac.0).into()),
    };
    ndisc(space, mac, group_mac(ALL_NODES), target_addr, ALL_NODES, message)
}

fn ndisc<'a>(
    space: &'a mut Space,
    mac: Mac,
    to: Mac,
    source: Ipv6Address,
    destination: Ipv6Address,
    message: NdiscRepr<'_>,
) -> &'a [u8] {
    let message = Icmpv6Repr::Ndisc(message);
    let length = message.buffer_len();
    ethernet(space, mac, to, EthernetProtocol::Ipv6);
    ipv6(space, source, destination, IpProtocol::Icmpv6, length, 255);
    let body = &mut space[ETHERNET + IPV6..][..length];
    let checksums = ChecksumCapabilities::default();
    message.emit(&source, &destination, &mut Icmpv6Packet::new_unchecked(body), &checksums);
    &space[..ETHERNET + IPV6 + length]
}

/// An MLDv2 report (RFC 3810, section 5.2) of one group joined, from the unspecified address (RFC 3590).
fn report(space: &mut Space, mac: Mac, own: Address) -> &[u8] {
    const LENGTH: usize = 28;
    let source = Ipv6Address::UNSPECIFIED;
    ethernet(space, mac, group_mac(MLD_ROUTERS), EthernetProtocol::Ipv6);
    ipv6(space, source, MLD_ROUTERS, IpProtocol::HopByHop, ROUTER_ALERT.len() + LENGTH, 1);
    space[ETHERNET + IPV6..][..ROUTER_ALERT.len()].copy_from_slice(&ROUTER_ALERT);
    let start = ETHERNET + IPV6 + ROUTER_ALERT.len();
    let body = &mut space[start..][..LENGTH];
    body.fill(0);
    body[7] = 1; // one record:
    body[8] = 4; // CHANGE_TO_EXCLUDE_MODE without sources, which is "joined"
    body[12..].copy_from_slice(&solicited_node(own).octets());
    let mut message = Icmpv6Packet::new_unchecked(body);
    message.set_msg_type(Icmpv6Message::MldReport);
    message.fill_checksum(&source, &MLD_ROUTERS);
    &space[..start + LENGTH]
}

/// A frame with a DHCP message in it.
pub(super) fn dhcp<'a>(
    space: &'a mut [u8; super::FRAME_MAX],
    (mac, to): (Mac, Mac),
    message: &[u8],
    from: Option<Address>,
    server: Option<Address>,
) -> &'a [u8] {
    let [a, b, c, d, e, f] = to.0;
    let [g, h, i, j, k, l] = mac.0;
    space[..ETHERNET].copy_from_slice(&[a, b, c, d, e, f, g, h, i, j, k, l, 0x08, 0x00]);
    let length = super::dhcp::datagram(&mut space[ETHERNET..], message, from, server);
    &space[..ETHERNET + length]
}

fn ethernet(space: &mut Space, source: Mac, to: Mac, ethertype: EthernetProtocol) {
    let repr =
        EthernetRepr { src_addr: EthernetAddress(source.0), dst_addr: EthernetAddress(to.0), ethertype };
    repr.emit(&mut EthernetFrame::new_unchecked(&mut space[..]));
}

fn ipv6(
    space: &mut Space,
    source: Ipv6Address,
    destination: Ipv6Address,
    next_header: IpProtocol,
    payload_len: usize,
    hop_limit: u8,
) {
    let repr = Ipv6Repr { src_addr: source, dst_addr: destination, next_header, payload_len, hop_limit };
    repr.emit(&mut Ipv6Packet::new_unchecked(&mut space[ETHERNET..]));
}
