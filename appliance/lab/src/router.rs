//! The router between the device and the Internet, as far as frames show it: it answers ARP and neighbour solicitations
//! for every address but the asker's, and puts its own Ethernet address on what it carries.

use std::net::IpAddr;

use hedgerow_dataplane::wire::Mac;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Address,
    Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr, TcpPacket, TcpRepr,
};

/// The router's Ethernet address.
pub(crate) const ROUTER: Mac = Mac([2, 0x72, 0x6f, 0x75, 0x74, 0x65]);

const ETHERNET: usize = 14;

/// The answer to an ARP request or neighbour solicitation; `None` for anything else.
pub(crate) fn answer(frame: &[u8]) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Arp => arp(ethernet.src_addr(), ethernet.payload()),
        EthernetProtocol::Ipv6 => solicitation(ethernet.src_addr(), ethernet.payload()),
        _ => None,
    }
}

/// Where an IP packet wants to go; `None` for groups and for what is no IP.
pub(crate) fn destination(frame: &[u8]) -> Option<IpAddr> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let address: IpAddr = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(ethernet.payload()).ok()?.dst_addr().into(),
        EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(ethernet.payload()).ok()?.dst_addr().into(),
        _ => return None,
    };
    (!address.is_multicast()).then_some(address)
}

/// Whether the router carries a host's frame on: IP to a single address.
pub(crate) fn carries(frame: &[u8]) -> bool {
    destination(frame).is_some()
}

/// The ICMP message with which a router near the destination answers a packet that is longer than `mtu`.
pub(crate) fn too_big(frame: &[u8], mtu: usize, device: Mac) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.payload().len() <= mtu {
        return None;
    }
    let to = EthernetAddress(device.0);
    match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => too_big_v4(ethernet.payload(), mtu, to),
        EthernetProtocol::Ipv6 => too_big_v6(ethernet.payload(), mtu, to),
        _ => None,
    }
}

fn too_big_v4(packet: &[u8], mtu: usize, to: EthernetAddress) -> Option<Vec<u8>> {
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    let checksums = ChecksumCapabilities::default();
    let header = Ipv4Repr::parse(&packet, &checksums).ok()?;
    let reason = Icmpv4DstUnreachable::FragRequired;
    let message = Icmpv4Repr::DstUnreachable { reason, header, data: packet.payload().get(..8)? };
    let [a, b, c, d] = packet.dst_addr().octets();
    let ip = Ipv4Repr {
        src_addr: Ipv4Address::new(a, b, c, d ^ 0x40),
        dst_addr: packet.src_addr(),
        next_header: IpProtocol::Icmp,
        payload_len: message.buffer_len(),
        hop_limit: 61,
    };
    let mut bytes = frame(to, EthernetProtocol::Ipv4, ip.buffer_len() + message.buffer_len());
    let (head, body) = bytes[ETHERNET..].split_at_mut(ip.buffer_len());
    ip.emit(&mut Ipv4Packet::new_unchecked(head), &checksums);
    message.emit(&mut Icmpv4Packet::new_unchecked(&mut *body), &checksums);
    body[6..8].copy_from_slice(&u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes());
    Icmpv4Packet::new_unchecked(body).fill_checksum();
    Some(bytes)
}

fn too_big_v6(packet: &[u8], mtu: usize, to: EthernetAddress) -> Option<Vec<u8>> {
    let packet = Ipv6Packet::new_checked(packet).ok()?;
    let header = Ipv6Repr::parse(&packet).ok()?;
    let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
    let message = Icmpv6Repr::PktTooBig { mtu, header, data: packet.payload().get(..40)? };
    let mut source = packet.dst_addr().octets();
    source[15] ^= 0x40;
    let ip = Ipv6Repr {
        src_addr: source.into(),
        dst_addr: packet.src_addr(),
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: 61,
    };
    let mut bytes = frame(to, EthernetProtocol::Ipv6, ip.buffer_len() + message.buffer_len());
    let (head, body) = bytes[ETHERNET..].split_at_mut(ip.buffer_len());
    ip.emit(&mut Ipv6Packet::new_unchecked(head));
    let checksums = ChecksumCapabilities::default();
    message.emit(&ip.src_addr, &ip.dst_addr, &mut Icmpv6Packet::new_unchecked(body), &checksums);
    Some(bytes)
}

/// Addresses a frame for the next station, from the router.
pub(crate) fn address(frame: &mut [u8], to: Mac) {
    let mut ethernet = EthernetFrame::new_unchecked(frame);
    ethernet.set_dst_addr(EthernetAddress(to.0));
    ethernet.set_src_addr(EthernetAddress(ROUTER.0));
}

fn frame(to: EthernetAddress, ethertype: EthernetProtocol, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; ETHERNET + length];
    EthernetRepr { src_addr: EthernetAddress(ROUTER.0), dst_addr: to, ethertype }
        .emit(&mut EthernetFrame::new_unchecked(&mut bytes));
    bytes
}

fn arp(asker: EthernetAddress, packet: &[u8]) -> Option<Vec<u8>> {
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
    else {
        return None;
    };
    if source_protocol_addr == target_protocol_addr || source_protocol_addr.is_unspecified() {
        return None; // an announcement or a probe
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(ROUTER.0),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut bytes = frame(asker, EthernetProtocol::Arp, reply.buffer_len());
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes[ETHERNET..]));
    Some(bytes)
}

fn solicitation(asker: EthernetAddress, packet: &[u8]) -> Option<Vec<u8>> {
    let ipv6 = Ipv6Packet::new_checked(packet).ok()?;
    if ipv6.next_header() != IpProtocol::Icmpv6 || ipv6.src_addr().is_unspecified() {
        return None;
    }
    let message = Icmpv6Packet::new_checked(ipv6.payload()).ok()?;
    let checksums = ChecksumCapabilities::default();
    let Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. }) =
        Icmpv6Repr::parse(&ipv6.src_addr(), &ipv6.dst_addr(), &message, &checksums).ok()?
    else {
        return None;
    };
    let reply = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE | NdiscNeighborFlags::ROUTER,
        target_addr,
        lladdr: Some(EthernetAddress(ROUTER.0).into()),
    });
    let header = Ipv6Repr {
        src_addr: target_addr,
        dst_addr: ipv6.src_addr(),
        next_header: IpProtocol::Icmpv6,
        payload_len: reply.buffer_len(),
        hop_limit: 255,
    };
    let mut bytes = frame(asker, EthernetProtocol::Ipv6, header.buffer_len() + reply.buffer_len());
    let (head, body) = bytes[ETHERNET..].split_at_mut(header.buffer_len());
    header.emit(&mut Ipv6Packet::new_unchecked(head));
    reply.emit(&header.src_addr, &header.dst_addr, &mut Icmpv6Packet::new_unchecked(body), &checksums);
    Some(bytes)
}

/// Whether a frame is a TCP segment with data.
pub(crate) fn has_data(frame: &[u8]) -> bool {
    let found = EthernetFrame::new_checked(frame).ok().and_then(|ethernet| {
        let payload = match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => Ipv4Packet::new_checked(ethernet.payload()).ok()?.payload(),
            EthernetProtocol::Ipv6 => Ipv6Packet::new_checked(ethernet.payload()).ok()?.payload(),
            _ => return None,
        };
        Some(!TcpPacket::new_checked(payload).ok()?.payload().is_empty())
    });
    found.unwrap_or_default()
}

/// The TCP header of a frame, with the addresses that it comes from and goes to.
pub(crate) fn tcp(frame: &[u8]) -> Option<(IpAddr, IpAddr, TcpRepr<'_>)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let (from, to, payload): (IpAddr, IpAddr, &[u8]) = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            (ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            (ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
        }
        _ => return None,
    };
    let segment = TcpPacket::new_checked(payload).ok()?;
    let repr = TcpRepr::parse(&segment, &from.into(), &to.into(), &ChecksumCapabilities::ignored()).ok()?;
    Some((from, to, TcpRepr { payload: &[], ..repr }))
}
