//! A packet to be passed on: what of it matters for that, checked; and how its addresses and ports are replaced.
//!
//! Transport checksums are not verified here: what is replaced changes them by what it changes (RFC 1624), so that a packet
//! that was broken stays so, and its receiver sees it.

use crate::Reason;
use crate::wire::{
    Address, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Flags, FlowKey, IPV4_HEADER,
    IPV6_HEADER, Mac, TCP_HEADER, VLAN_TAG, checksum_fold as fold, checksum_sum as sum, link_local, martian,
};

pub(super) const PROTOCOL_ICMP: u8 = 1;
pub(super) const PROTOCOL_TCP: u8 = 6;
pub(super) const PROTOCOL_UDP: u8 = 17;
pub(super) const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_FRAGMENT: u8 = 44;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;
/// Where the packet begins that an error quotes, from the IP header of an IPv4 one.
const QUOTE_V4: usize = IPV4_HEADER + ICMP_HEADER;

/// What is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo requests and replies of ICMP and ICMPv6: their identifier stands for a port.
    Icmp,
}

/// What kind of packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp(Flags),
    Udp,
    EchoRequest,
    EchoReply,
    /// An ICMP error about a packet that it quotes.
    Error,
}

/// A packet, seen from here: its destination is local.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    /// Its protocol; for an error, that of the packet that it quotes.
    pub(super) protocol: Protocol,
    pub(super) kind: Kind,
    /// Its ends. An echo has its identifier at the end that asked, and zero at the other.
    pub(super) key: FlowKey,
    pub(super) hop_limit: u8,
    /// Offset of the IP header in the frame, and of the packet's end.
    pub(super) network: usize,
    pub(super) end: usize,
    /// The packet that an error quotes, seen from who sent it: its source is local.
    quoted: Option<FlowKey>,
}

/// What is replaced; an IPv6 packet keeps its addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rewrite {
    Source(Address, u16),
    Destination(Address, u16),
}

/// What stands behind an IP header.
struct Transport {
    protocol: Protocol,
    kind: Kind,
    /// Ports of source and destination.
    ports: (u16, u16),
    quoted: Option<FlowKey>,
}

impl Datagram {
    /// Looks at a frame.
    pub(super) fn parse(bytes: &[u8]) -> Result<Datagram, Reason> {
        let ethertype = |at| half(bytes, at).ok_or(Reason::Truncated);
        if Mac(*chunk(bytes, 0).ok_or(Reason::Truncated)?).is_group() {
            return Err(Reason::WrongStation);
        }
        let (network, ethertype) = match ethertype(ETHERNET - 2)? {
            ETHERTYPE_VLAN => (ETHERNET + VLAN_TAG, ethertype(ETHERNET + VLAN_TAG - 2)?),
            plain => (ETHERNET, plain),
        };
        let packet = bytes.get(network..).unwrap_or_default();
        let mut datagram = match ethertype {
            ETHERTYPE_IPV4 => Datagram::ipv4(packet)?,
            ETHERTYPE_IPV6 => Datagram::ipv6(packet)?,
            _ => return Err(Reason::UnknownProtocol),
        };
        datagram.network += network;
        datagram.end += network;
        Ok(datagram)
    }

    fn ipv4(packet: &[u8]) -> Result<Datagram, Reason> {
        const MORE_OR_OFFSET: u16 = 0x3fff;
        let header: &[u8; IPV4_HEADER] = chunk(packet, 0).ok_or(Reason::Truncated)?;
        if header[0] != 0x45 {
            return Err(if header[0] >> 4 == 4 { Reason::IpOptions } else { Reason::BadIpHeader });
        }
        if fold(sum(header)) != u16::MAX || header[8] == 0 {
            return Err(Reason::BadIpHeader);
        }
        if half(header, 6).is_none_or(|word| word & MORE_OR_OFFSET != 0) {
            return Err(Reason::Fragment);
        }
        let end = half(header, 2).map_or(0, usize::from);
        let message = packet.get(IPV4_HEADER..end).ok_or(Reason::Truncated)?;
        let transport = match header[9] {
            PROTOCOL_ICMP => icmp(message, false),
            other => ports(other, message),
        }?;
        let (source, destination) = (v4(header, 12), v4(header, 16));
        Datagram::new(transport, source, destination, header[8], end)
    }

    fn ipv6(packet: &[u8]) -> Result<Datagram, Reason> {
        let header: &[u8; IPV6_HEADER] = chunk(packet, 0).ok_or(Reason::Truncated)?;
        if header[0] >> 4 != 6 || header[7] == 0 {
            return Err(Reason::BadIpHeader);
        }
        let end = IPV6_HEADER + half(header, 4).map_or(0, usize::from);
        let message = packet.get(IPV6_HEADER..end).ok_or(Reason::Truncated)?;
        let transport = match header[6] {
            PROTOCOL_ICMPV6 => icmp(message, true),
            PROTOCOL_FRAGMENT => Err(Reason::Fragment),
            other => ports(other, message),
        }?;
        let (source, destination) = (v6(header, 8), v6(header, 24));
        // An address of IPv4 in an IPv6 packet would be taken for that host's.
        if source.is_v4() || destination.is_v4() {
            return Err(Reason::Martian);
        }
        Datagram::new(transport, source, destination, header[7], end)
    }

    fn new(
        transport: Transport,
        source: Address,
        destination: Address,
        hop_limit: u8,
        end: usize,
    ) -> Result<Datagram, Reason> {
        if [source, destination].iter().any(|&address| martian(address) || link_local(address)) {
            return Err(Reason::Martian);
        }
        if source == destination {
            return Err(Reason::Land);
        }
        let Transport { protocol, kind, ports: (from, to), quoted } = transport;
        // An error belongs to who sent what it quotes (RFC 5508, section 4.2).
        if quoted.is_some_and(|quoted| quoted.local != destination) {
            return Err(Reason::IcmpUnrelated);
        }
        let key = FlowKey { local: destination, local_port: to, remote: source, remote_port: from };
        Ok(Datagram { protocol, kind, key, hop_limit, network: 0, end, quoted })
    }

    /// The conversation that it belongs to, seen from its destination.
    pub(super) fn concerns(&self) -> FlowKey {
        self.quoted.unwrap_or(self.key)
    }

    /// The MTU that it is too large for, as what it will be on the wire: `segment` bytes of payload in each piece of a
    /// super-frame.
    pub(super) fn exceeds(&self, packet: &[u8], segment: u16, mtu: u16) -> Option<u16> {
        let size = match segment {
            0 => packet.len(),
            each => headers(packet)? + usize::from(each),
        };
        (size > usize::from(mtu)).then_some(mtu)
    }

    /// Counts the hop, and replaces an end of an IPv4 packet. `packet` begins with its IP header; `complete` says whether its
    /// transport checksum is to be kept right.
    pub(super) fn rewrite(&self, packet: &mut [u8], rewrite: &Rewrite, complete: bool) {
        // What was parsed is long enough.
        let _ = match self.key.local.is_v4() {
            true => self.rewrite_v4(packet, rewrite, complete),
            false => packet.get_mut(7).map(|limit| *limit = limit.saturating_sub(1)),
        };
    }

    fn rewrite_v4(&self, packet: &mut [u8], rewrite: &Rewrite, complete: bool) -> Option<()> {
        let (address, port, at, port_at) = match *rewrite {
            Rewrite::Source(address, port) => (address.v4()?, port.to_be_bytes(), 12, 0),
            Rewrite::Destination(address, port) => (address.v4()?, port.to_be_bytes(), 16, 2),
        };
        let before = sum(packet.get(at..at + 4)?);
        packet.get_mut(at..at + 4)?.copy_from_slice(&address);
        *packet.get_mut(8)? -= 1;
        packet.get_mut(10..12)?.fill(0);
        let header = !fold(sum(packet.get(..IPV4_HEADER)?));
        packet.get_mut(10..12)?.copy_from_slice(&header.to_ne_bytes());
        if self.kind == Kind::Error {
            return rewrite_quote(packet, address, port);
        }
        let (port_at, field) = match self.protocol {
            Protocol::Tcp => (port_at, 16),
            Protocol::Udp => (port_at, 6),
            Protocol::Icmp => (4, 2),
        };
        let message = packet.get_mut(IPV4_HEADER..)?;
        let old = replace(message, port_at, port)?;
        // The addresses count in the pseudo-header, which ICMP of IPv4 has not.
        let (old, new) = match self.protocol {
            Protocol::Icmp => (old, sum(&port)),
            _ => (old + before, sum(&port) + sum(&address)),
        };
        if complete { adjust(message, field, old, new, self.protocol) } else { Some(()) }
    }
}

/// Replaces the source of the packet that an error quotes, and makes the error's checksum anew: the error was verified.
fn rewrite_quote(packet: &mut [u8], address: [u8; 4], port: [u8; 2]) -> Option<()> {
    let quote = packet.get_mut(QUOTE_V4..)?;
    let protocol = *quote.get(9)?;
    let before = sum(quote.get(12..16)?);
    quote.get_mut(12..16)?.copy_from_slice(&address);
    let after = sum(&address);
    adjust(quote, 10, before, after, Protocol::Icmp)?;
    let message = quote.get_mut(IPV4_HEADER..)?;
    let (port_at, field, kind) = match protocol {
        PROTOCOL_TCP => (0, 16, Protocol::Tcp),
        PROTOCOL_UDP => (0, 6, Protocol::Udp),
        _ => (4, 2, Protocol::Icmp),
    };
    let old = replace(message, port_at, port)?;
    let (before, after) = if kind == Protocol::Icmp { (0, 0) } else { (before, after) };
    // A quote of eight bytes holds no checksum of TCP.
    let _ = adjust(message, field, old + before, sum(&port) + after, kind);
    let message = packet.get_mut(IPV4_HEADER..)?;
    message.get_mut(2..4)?.fill(0);
    let checksum = !fold(sum(message));
    message.get_mut(2..4)?.copy_from_slice(&checksum.to_ne_bytes());
    Some(())
}

/// Puts a port, and gives the sum of the old one.
fn replace(message: &mut [u8], at: usize, port: [u8; 2]) -> Option<u64> {
    let field = message.get_mut(at..at + 2)?;
    let old = sum(field);
    field.copy_from_slice(&port);
    Some(old)
}

/// Keeps a checksum right where bytes that add up to `old` became such that add up to `new` (RFC 1624, equation 3).
fn adjust(message: &mut [u8], at: usize, old: u64, new: u64, protocol: Protocol) -> Option<()> {
    let field: &mut [u8; 2] = message.get_mut(at..)?.first_chunk_mut()?;
    // UDP without a checksum (RFC 768).
    if protocol == Protocol::Udp && *field == [0; 2] {
        return Some(());
    }
    let checksum = !fold(u64::from(!u16::from_ne_bytes(*field)) + u64::from(!fold(old)) + new);
    let none = protocol == Protocol::Udp && checksum == 0;
    *field = if none { [0xff; 2] } else { checksum.to_ne_bytes() };
    Some(())
}

/// Reads TCP or UDP.
fn ports(protocol: u8, message: &[u8]) -> Result<Transport, Reason> {
    let (protocol, kind, least) = match protocol {
        PROTOCOL_TCP => {
            let flags = message.get(13).ok_or(Reason::Truncated)?;
            (Protocol::Tcp, Kind::Tcp(Flags(*flags)), TCP_HEADER)
        }
        PROTOCOL_UDP => (Protocol::Udp, Kind::Udp, UDP_HEADER),
        _ => return Err(Reason::UnknownProtocol),
    };
    let udp_length = if protocol == Protocol::Udp { half(message, 4).map(usize::from) } else { None };
    if message.len() < least || udp_length.is_some_and(|len| len < UDP_HEADER || len > message.len()) {
        return Err(Reason::Truncated);
    }
    let ports = half(message, 0).zip(half(message, 2)).ok_or(Reason::Truncated)?;
    if ports.0 == 0 || ports.1 == 0 {
        return Err(Reason::PortZero);
    }
    Ok(Transport { protocol, kind, ports, quoted: None })
}

/// Reads ICMP or ICMPv6: echoes and errors.
fn icmp(message: &[u8], v6: bool) -> Result<Transport, Reason> {
    let header: &[u8; ICMP_HEADER] = chunk(message, 0).ok_or(Reason::Truncated)?;
    let identifier = u16::from_be_bytes([header[4], header[5]]);
    let echo = |kind, ports| Ok(Transport { protocol: Protocol::Icmp, kind, ports, quoted: None });
    match (header[0], v6) {
        (8, false) | (128, true) => echo(Kind::EchoRequest, (identifier, 0)),
        (0, false) | (129, true) => echo(Kind::EchoReply, (0, identifier)),
        // Unreachable, time exceeded, parameter problem; for IPv6 too big, too.
        (3 | 11 | 12, false) | (1..=4, true) => {
            let quote = message.get(ICMP_HEADER..).unwrap_or_default();
            let (protocol, key) = quoted(quote, v6).ok_or(Reason::IcmpUnrelated)?;
            Ok(Transport { protocol, kind: Kind::Error, ports: (0, 0), quoted: Some(key) })
        }
        _ => Err(Reason::IcmpIgnored),
    }
}

/// The conversation of a packet that an error quotes: its headers' first bytes, seen from who sent it.
fn quoted(quote: &[u8], v6: bool) -> Option<(Protocol, FlowKey)> {
    let (protocol, local, remote, message) = match v6 {
        false => {
            let header: &[u8; IPV4_HEADER] = chunk(quote, 0)?;
            let whole = header[0] == 0x45 && half(header, 6)? & 0x1fff == 0;
            (whole.then_some(header[9])?, v4(header, 12), v4(header, 16), quote.get(IPV4_HEADER..)?)
        }
        true => {
            let header: &[u8; IPV6_HEADER] = chunk(quote, 0)?;
            let whole = header[0] >> 4 == 6;
            (
                whole.then_some(header[6])?,
                self::v6(header, 8),
                self::v6(header, 24),
                quote.get(IPV6_HEADER..)?,
            )
        }
    };
    let start: &[u8; 8] = chunk(message, 0)?;
    let (protocol, local_port, remote_port) = match (protocol, start[0]) {
        (PROTOCOL_TCP, _) => (Protocol::Tcp, half(start, 0)?, half(start, 2)?),
        (PROTOCOL_UDP, _) => (Protocol::Udp, half(start, 0)?, half(start, 2)?),
        (PROTOCOL_ICMP, 8) | (PROTOCOL_ICMPV6, 128) => (Protocol::Icmp, half(start, 4)?, 0),
        _ => return None,
    };
    Some((protocol, FlowKey { local, remote, local_port, remote_port }))
}

/// Bytes of the IP and TCP headers of a packet that was parsed; `None` for other protocols, which have no segments.
pub(crate) fn headers(packet: &[u8]) -> Option<usize> {
    let (network, protocol) = match packet.first()? >> 4 {
        4 => (IPV4_HEADER, *packet.get(9)?),
        _ => (IPV6_HEADER, *packet.get(6)?),
    };
    let transport = usize::from(packet.get(network + 12)? >> 4) * 4;
    (protocol == PROTOCOL_TCP && transport >= TCP_HEADER && network + transport <= packet.len())
        .then_some(network + transport)
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk())
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    chunk(bytes, at).map(|pair| u16::from_be_bytes(*pair))
}

fn v4(header: &[u8], at: usize) -> Address {
    Address::from_v4(*chunk(header, at).unwrap_or(&[0; 4]))
}

fn v6(header: &[u8], at: usize) -> Address {
    Address::from_v6(*chunk(header, at).unwrap_or(&[0; 16]))
}
