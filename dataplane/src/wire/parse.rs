//! From bytes to a checked [`Packet`] in one pass: lengths, checksums, addresses, flags and options, each refusal with
//! its own reason. Nothing after this module looks at an unchecked offset.

use super::checksum::{fold, pseudo, sum};
use super::options::Found;
use super::{Address, Flags, FlowKey, Mac, Segment, Seq};
use crate::Reason;
use crate::frame::{Checksum, Meta};

pub(crate) const ETHERNET: usize = 14;
pub(crate) const VLAN_TAG: usize = 4;
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const TCP_HEADER: usize = 20;

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(crate) const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

const IPV6_FRAGMENT: u8 = 44;
/// Hop-by-hop, routing, ESP, authentication, none, destination options, mobility, HIP, shim6.
const IPV6_EXTENSIONS: [u8; 9] = [0, 43, 50, 51, 59, 60, 135, 139, 140];

/// The bits of a VLAN tag that are its id.
const VLAN_ID: u16 = 0x0fff;
const ICMP_HEADER: usize = 8;

/// What a link expects of its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRules {
    /// Our Ethernet address: the destination of unicast frames.
    pub mac: Mac,
    /// The VLAN that the link carries (12 bits); `None`: untagged frames, priority tags with id 0 allowed.
    pub vlan: Option<u16>,
    /// Largest IP packet that the link carries.
    pub mtu: u16,
    /// Whether segments that belong to no flow and no listener are answered with a reset. Only where the addresses are
    /// ours alone: on a shared address such segments belong to the kernel.
    pub resets: bool,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ARP message for IPv4 over Ethernet of sufficient length; nothing else about it is checked.
    Arp,
    /// A TCP segment, fully checked.
    Tcp,
    /// An ICMP message with a correct checksum.
    Icmpv4,
    /// An ICMPv6 message with a correct checksum.
    Icmpv6,
}

/// A frame whose headers have been checked, as offsets and the fields that every stage needs.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// What the frame carries.
    pub kind: Kind,
    /// Ethernet source.
    pub source_mac: Mac,
    /// Ethernet destination: ours, or a group for ARP and ICMPv6.
    pub destination_mac: Mac,
    /// The 802.1Q tag with its priority bits, from the bytes or from the metadata.
    pub vlan: Option<u16>,
    /// The flow that a TCP segment belongs to, from our side: its destination is local. ICMP and ICMPv6 have no ports; for
    /// ARP the sender's protocol address is remote and the target's local.
    pub key: FlowKey,
    /// IP time to live or hop limit; 255 for ARP.
    pub hop_limit: u8,
    /// TCP control bits; empty for others.
    pub flags: Flags,
    /// Segments of the wire that the driver merged into this frame.
    pub merged: u16,
    network: u8,
    transport: u8,
    payload: u8,
    end: u32,
    found: Found,
}

impl Default for Packet {
    /// An ARP message of no bytes: a place to parse into.
    fn default() -> Self {
        Packet {
            kind: Kind::Arp,
            source_mac: Mac::default(),
            destination_mac: Mac::default(),
            vlan: None,
            key: FlowKey {
                local: Address::default(),
                remote: Address::default(),
                local_port: 0,
                remote_port: 0,
            },
            hop_limit: u8::MAX,
            flags: Flags::default(),
            merged: 1,
            network: 0,
            transport: 0,
            payload: 0,
            end: 0,
            found: Found::default(),
        }
    }
}

impl Packet {
    /// Offset of the ARP or IP header in the frame.
    pub fn network(&self) -> usize {
        usize::from(self.network)
    }

    /// Offset of the TCP, ICMP or ICMPv6 header; for ARP, of the message.
    #[inline]
    pub fn transport(&self) -> usize {
        usize::from(self.transport)
    }

    /// Offset of the TCP payload; for others the same as [`Packet::transport`].
    pub fn payload(&self) -> usize {
        usize::from(self.payload)
    }

    /// Offset of the end of the packet: what follows is Ethernet padding.
    pub fn end(&self) -> usize {
        self.end as usize
    }

    /// The ARP or ICMP message, or the TCP segment with its header.
    pub fn message<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.transport()..self.end()).unwrap_or_default()
    }

    /// The TCP segment. `bytes` are those that were parsed.
    pub fn segment<'a>(&self, bytes: &'a [u8]) -> Segment<'a> {
        let header = chunk::<TCP_HEADER>(bytes, self.transport()).unwrap_or(&[0; TCP_HEADER]);
        Segment {
            seq: Seq(word(header, 4)),
            ack: Seq(word(header, 8)),
            flags: self.flags,
            window: half(header, 14),
            options: self.found.options(self.options(bytes)),
            payload: bytes.get(self.payload()..self.end()).unwrap_or_default(),
            merged: self.merged,
        }
    }

    /// Sequence and acknowledgement number of the TCP segment.
    pub(crate) fn numbers(&self, bytes: &[u8]) -> (Seq, Seq) {
        let header = chunk::<12>(bytes, self.transport()).unwrap_or(&[0; 12]);
        (Seq(word(header, 4)), Seq(word(header, 8)))
    }

    /// Whether the VLAN tag stands in the frame's bytes.
    pub(crate) fn tagged(&self) -> bool {
        self.network() != ETHERNET
    }

    /// Bytes of TCP payload.
    pub(crate) fn payload_len(&self) -> usize {
        self.end() - self.payload()
    }

    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// Fills in what only a TCP segment has.
    fn without_segment(&mut self) {
        (self.flags, self.merged, self.found) = (Flags::default(), 1, Found::default());
        (self.key.local_port, self.key.remote_port) = (0, 0);
        self.payload = self.transport;
    }

    fn options<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.transport() + TCP_HEADER..self.payload()).unwrap_or_default()
    }
}

/// Checks a frame. `meta` says what the driver knows about its checksum and tag, `link` what the frame may be.
///
/// Packets that TCP or neighbour discovery never need are refused whole: IPv4 options, IPv6 extension headers,
/// fragments. An IPv6 datagram for a group passes only as ICMPv6.
pub fn parse(bytes: &[u8], meta: &Meta, link: &LinkRules) -> Result<Packet, Reason> {
    let mut packet = Packet::default();
    parse_into(bytes, meta, link, &mut packet)?;
    Ok(packet)
}

/// [`parse`] in place: a packet is larger than what is worth copying. Where a reason comes back, `packet` means nothing.
pub fn parse_into(bytes: &[u8], meta: &Meta, link: &LinkRules, packet: &mut Packet) -> Result<(), Reason> {
    match ethernet(bytes, meta, link, packet)? {
        ETHERTYPE_IPV4 => ipv4(bytes, meta, packet),
        ETHERTYPE_IPV6 => ipv6(bytes, meta, packet),
        ETHERTYPE_ARP => arp(bytes, packet),
        _ => Err(Reason::UnknownProtocol),
    }
}

/// Checks stations and VLAN; fills in the fields of this layer, and says the type of what follows.
#[inline]
fn ethernet(bytes: &[u8], meta: &Meta, link: &LinkRules, packet: &mut Packet) -> Result<u16, Reason> {
    let (addresses, &[t0, t1]) = bytes
        .first_chunk::<ETHERNET>()
        .and_then(|header| header.split_last_chunk::<2>())
        .ok_or(Reason::Truncated)?;
    let [destination_mac, source_mac] = [0, 6].map(|at| Mac(*chunk(addresses, at).unwrap_or(&[0; 6])));
    if source_mac.is_group() || (destination_mac != link.mac && !destination_mac.is_group()) {
        return Err(Reason::WrongStation);
    }
    let mut ethertype = u16::from_be_bytes([t0, t1]);
    let (mut vlan, mut network) = (meta.vlan, ETHERNET);
    if ethertype == ETHERTYPE_VLAN {
        if vlan.is_some() {
            return Err(Reason::WrongVlan);
        }
        let tag = chunk::<VLAN_TAG>(bytes, ETHERNET).ok_or(Reason::Truncated)?;
        vlan = Some(half(tag, 0));
        ethertype = half(tag, 2);
        network += VLAN_TAG;
    }
    if vlan.map_or(0, |tag| tag & VLAN_ID) != link.vlan.unwrap_or(0) {
        return Err(Reason::WrongVlan);
    }
    (packet.source_mac, packet.destination_mac, packet.vlan) = (source_mac, destination_mac, vlan);
    packet.network = network as u8;
    Ok(ethertype)
}

/// The IPv4 packet in a frame, whatever it is: for what is judged by somebody else.
pub(crate) fn ipv4_packet(bytes: &[u8]) -> Option<&[u8]> {
    let ethertype = |at: usize| Some(half(chunk::<2>(bytes, at)?, 0));
    let start = match ethertype(ETHERNET - 2)? {
        ETHERTYPE_VLAN => ETHERNET + VLAN_TAG,
        _ => ETHERNET,
    };
    if ethertype(start - 2)? == ETHERTYPE_IPV4 { bytes.get(start..) } else { None }
}

fn arp(bytes: &[u8], packet: &mut Packet) -> Result<(), Reason> {
    const LENGTH: usize = 28;
    /// Ethernet, IPv4, and the lengths of their addresses (RFC 826).
    const SHAPE: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let message = chunk::<LENGTH>(bytes, packet.network()).ok_or(Reason::Truncated)?;
    if message.first_chunk() != Some(&SHAPE) {
        return Err(Reason::NeighbourInvalid);
    }
    packet.kind = Kind::Arp;
    packet.key.remote = Address::from_v4(word(message, 14).to_be_bytes());
    packet.key.local = Address::from_v4(word(message, 24).to_be_bytes());
    packet.hop_limit = u8::MAX;
    packet.end = (packet.network() + LENGTH) as u32;
    packet.transport = packet.network;
    packet.without_segment();
    Ok(())
}

#[inline]
fn ipv4(bytes: &[u8], meta: &Meta, packet: &mut Packet) -> Result<(), Reason> {
    const MORE_OR_OFFSET: u16 = 0x3fff;
    let network = packet.network();
    let header = chunk::<IPV4_HEADER>(bytes, network).ok_or(Reason::Truncated)?;
    if header[0] != 0x45 {
        let options = header[0] >> 4 == 4 && header[0] & 0xf > 5;
        return Err(if options { Reason::IpOptions } else { Reason::BadIpHeader });
    }
    let total = usize::from(half(header, 2));
    let datagram = bytes.get(network..network + total).ok_or(Reason::Truncated)?;
    let message = datagram.get(IPV4_HEADER..).ok_or(Reason::Truncated)?;
    packet.hop_limit = header[8];
    if packet.hop_limit == 0 || fold(sum(header)) != u16::MAX {
        return Err(Reason::BadIpHeader);
    }
    if half(header, 6) & MORE_OR_OFFSET != 0 {
        return Err(Reason::Fragment);
    }
    let protocol = header[9];
    packet.kind = match protocol {
        PROTOCOL_TCP => Kind::Tcp,
        PROTOCOL_ICMP => Kind::Icmpv4,
        _ => return Err(Reason::UnknownProtocol),
    };
    let (source, destination) = (word(header, 12), word(header, 16));
    if martian_v4(source) || martian_v4(destination) {
        return Err(Reason::Martian);
    }
    if source == destination {
        return Err(Reason::Land);
    }
    if packet.destination_mac.is_group() {
        return Err(Reason::WrongStation);
    }
    packet.key.remote = Address::from_v4(source.to_be_bytes());
    packet.key.local = Address::from_v4(destination.to_be_bytes());
    packet.transport = (network + IPV4_HEADER) as u8;
    packet.end = (network + total) as u32;
    let pseudo = match packet.kind {
        Kind::Tcp => sum(&header[12..]) + pseudo(protocol, message.len()),
        _ => 0,
    };
    transport(message, pseudo, meta, packet)
}

#[inline(never)]
fn ipv6(bytes: &[u8], meta: &Meta, packet: &mut Packet) -> Result<(), Reason> {
    let network = packet.network();
    let header = chunk::<IPV6_HEADER>(bytes, network).ok_or(Reason::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::BadIpHeader);
    }
    let length = usize::from(half(header, 4));
    let start = network + IPV6_HEADER;
    let message = bytes.get(start..start + length).ok_or(Reason::Truncated)?;
    packet.hop_limit = header[7];
    if packet.hop_limit == 0 {
        return Err(Reason::BadIpHeader);
    }
    let protocol = header[6];
    packet.kind = match protocol {
        PROTOCOL_TCP => Kind::Tcp,
        PROTOCOL_ICMPV6 => Kind::Icmpv6,
        IPV6_FRAGMENT => return Err(Reason::Fragment),
        other if IPV6_EXTENSIONS.contains(&other) => return Err(Reason::IpOptions),
        _ => return Err(Reason::UnknownProtocol),
    };
    let (source, destination) = (address_v6(header, 8), address_v6(header, 24));
    let icmp = packet.kind == Kind::Icmpv6;
    if martian_v6_source(source, icmp) || martian_v6_destination(destination, icmp) {
        return Err(Reason::Martian);
    }
    if source == destination {
        return Err(Reason::Land);
    }
    if packet.destination_mac.is_group() && !icmp {
        return Err(Reason::WrongStation);
    }
    packet.key.remote = source;
    packet.key.local = destination;
    packet.transport = start as u8;
    packet.end = (start + length) as u32;
    transport(message, sum(&header[8..]) + pseudo(protocol, length), meta, packet)
}

/// What both families share: `pseudo` is the unfolded sum of the pseudo-header.
#[inline]
fn transport(message: &[u8], pseudo: u64, meta: &Meta, packet: &mut Packet) -> Result<(), Reason> {
    if packet.kind == Kind::Tcp {
        tcp(message, meta, packet)?;
    } else {
        packet.without_segment();
        if message.len() < ICMP_HEADER {
            return Err(Reason::Truncated);
        }
    }
    if meta.checksum == Checksum::Unverified && fold(pseudo + sum_segment(message)) != u16::MAX {
        return Err(Reason::BadChecksum);
    }
    Ok(())
}

/// [`sum`], with the length of a SYN or of an ACK with timestamps known beforehand: most of a flood has one of them.
#[inline]
fn sum_segment(message: &[u8]) -> u64 {
    const SYN: usize = TCP_HEADER + 20;
    const ACK: usize = TCP_HEADER + 12;
    if let Ok(message) = <&[u8; SYN]>::try_from(message) {
        return sum(message);
    }
    match message.split_first_chunk::<ACK>() {
        Some((header, payload)) => sum(header) + sum(payload),
        None => sum(message),
    }
}

#[inline]
fn tcp(segment: &[u8], meta: &Meta, packet: &mut Packet) -> Result<(), Reason> {
    let header = segment.first_chunk::<TCP_HEADER>().ok_or(Reason::Truncated)?;
    let data = usize::from(header[12] >> 4) * 4;
    if data < TCP_HEADER || data > segment.len() {
        return Err(Reason::BadTcpHeader);
    }
    packet.flags = Flags(header[13]);
    if !sane(packet.flags) {
        return Err(Reason::BadFlags);
    }
    packet.key.remote_port = half(header, 0);
    packet.key.local_port = half(header, 2);
    if packet.key.remote_port == 0 || packet.key.local_port == 0 {
        return Err(Reason::PortZero);
    }
    packet.found = Found::walk(segment.get(TCP_HEADER..data).unwrap_or_default())?;
    packet.payload = packet.transport + data as u8;
    packet.merged = match meta.segment {
        0 => 1,
        each => u16::try_from((segment.len() - data).div_ceil(each.into())).unwrap_or(u16::MAX).max(1),
    };
    Ok(())
}

/// Whether some stack sends this combination: SYN, SYN-ACK, RST, RST-ACK, FIN-ACK and ACK, urgent where data may be.
/// PSH says nothing, ECE and CWR are for both ends to agree on.
const fn sane(flags: Flags) -> bool {
    const FIN: u8 = Flags::FIN.0;
    const SYN: u8 = Flags::SYN.0;
    const RST: u8 = Flags::RST.0;
    const ACK: u8 = Flags::ACK.0;
    const URG: u8 = Flags::URG.0;
    const GOOD: u64 = 1 << SYN
        | 1 << (SYN | ACK)
        | 1 << (SYN | URG)
        | 1 << RST
        | 1 << (RST | ACK)
        | 1 << (FIN | ACK)
        | 1 << (FIN | ACK | URG)
        | 1 << ACK
        | 1 << (ACK | URG);
    GOOD >> (flags.0 & (FIN | SYN | RST | ACK | URG)) & 1 == 1
}

/// This network, loopback, multicast, reserved and broadcast (RFC 1122, section 3.2.1.3).
const fn martian_v4(address: u32) -> bool {
    matches!(address >> 24, 0 | 127 | 224..)
}

/// Multicast, unspecified (but for duplicate-address detection), loopback, v4-compatible, v4-mapped, 6to4, Teredo: the
/// last three would let one IPv4 host count as many IPv6 networks.
const fn martian_v6_source(address: Address, icmp: bool) -> bool {
    let bits = address.bits();
    let wrapped = bits >> 112 == 0x2002 || bits >> 96 == 0x2001_0000;
    bits >> 120 == 0xff || wrapped || (martian_v6_low(bits) && !(icmp && bits == 0))
}

const fn martian_v6_destination(address: Address, icmp: bool) -> bool {
    let bits = address.bits();
    martian_v6_low(bits) || (bits >> 120 == 0xff && !icmp)
}

/// `::/96` and `::ffff:0:0/96`.
const fn martian_v6_low(bits: u128) -> bool {
    matches!(bits >> 32, 0 | 0xffff)
}

/// Whether no host may be reached under an address, nor speak from it.
pub(crate) const fn martian(address: Address) -> bool {
    match address.v4() {
        Some(bytes) => martian_v4(u32::from_be_bytes(bytes)),
        None => martian_v6_source(address, false),
    }
}

/// Whether an address means something on its own link only (RFC 3927, RFC 4291).
pub(crate) const fn link_local(address: Address) -> bool {
    match address.v4() {
        Some(bytes) => bytes[0] == 169 && bytes[1] == 254,
        None => address.bits() >> 118 == 0xfe80 >> 6,
    }
}

fn address_v6(header: &[u8; IPV6_HEADER], at: usize) -> Address {
    let bytes = header.get(at..).and_then(|bytes| bytes.first_chunk::<16>());
    Address::from_v6(*bytes.unwrap_or(&[0; 16]))
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk())
}

fn half<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
