//! A packet to be passed on: what of it matters for that, checked; and how its addresses and ports are replaced.

use crate::Reason;
use crate::wire::{
    Address, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, Flags, FlowKey, IPV4_HEADER, IPV6_HEADER,
    TCP_HEADER, VLAN_TAG, checksum_fold as fold, checksum_sum as sum, martian,
};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_FRAGMENT: u8 = 44;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

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
    /// An ICMP error about the packet that stands at this offset of the message.
    Error,
}

/// A packet, seen from here: its destination is local.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    pub(super) protocol: Protocol,
    pub(super) kind: Kind,
    pub(super) key: FlowKey,
    pub(super) hop_limit: u8,
    /// Offset of the IP header in the frame, and of the packet's end.
    pub(super) network: usize,
    pub(super) end: usize,
    /// The packet that an error quotes, seen from who sent it: its source is local.
    quoted: FlowKey,
}

/// What is replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rewrite {
    pub(super) source: Option<(Address, u16)>,
    pub(super) destination: Option<(Address, u16)>,
}
