//! The closed set of reasons: every frame or flow that is refused or ended has exactly one, each with a counter and a
//! paragraph for the operator.

use std::ops::{Index, IndexMut};

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident = $text:literal, )+) => {
        /// Why a frame was refused or a flow ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $( $(#[doc = $doc])+ $name, )+ }

        impl Reason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)+];

            /// The name in counters, logs and the manual.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)+ }
            }

            /// The paragraph in the manual.
            pub const fn manual(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    // Sanity of frames.
    /// The frame is shorter than its headers say, or its lengths contradict each other.
    Truncated = "truncated",
    /// The Ethernet source is a group address, or the frame is for another station.
    WrongStation = "wrong_station",
    /// Neither ARP, IPv4 nor IPv6, or an IP protocol that nothing here speaks.
    UnknownProtocol = "unknown_protocol",
    /// A VLAN tag that this link does not carry.
    WrongVlan = "wrong_vlan",
    /// An IP header with a wrong version, header length, hop limit of zero or header checksum.
    BadIpHeader = "bad_ip_header",
    /// IPv4 options or IPv6 extension headers: no peer needs them, attackers do.
    IpOptions = "ip_options",
    /// A fragment. TCP segments sized by path MTU discovery are never fragmented.
    Fragment = "fragment",
    /// A source or destination that no frame of ours may carry: loopback, unspecified, reserved, multicast (but for
    /// neighbour discovery), v4-mapped or v4-compatible, and 6to4 or Teredo wrappers as source.
    Martian = "martian",
    /// Source equal to destination.
    Land = "land",
    /// A transport checksum that does not match.
    BadChecksum = "bad_checksum",
    /// A TCP header whose data offset is too small or points past the end.
    BadTcpHeader = "bad_tcp_header",
    /// A combination of TCP flags that no stack sends.
    BadFlags = "bad_flags",
    /// TCP options whose lengths run past the header.
    BadOptions = "bad_options",
    /// TCP port 0.
    PortZero = "port_zero",
    /// A destination address that is not ours, or a flow that lives on another link.
    NotOurs = "not_ours",

    // Link.
    /// An ARP or neighbour message that asks for nothing of ours or breaks its format.
    NeighbourInvalid = "neighbour_invalid",
    /// More neighbour, ping or ICMP messages than the link answers.
    LinkRate = "link_rate",
    /// Another station claims one of our addresses.
    AddressConflict = "address_conflict",
    /// A DHCP message that answers no question of ours, or breaks its format.
    DhcpInvalid = "dhcp_invalid",
    /// A DHCP server offers or grants what cannot be used: an address that no host may have or that is another of ours, a
    /// gateway that is no neighbour, malformed routes, a lease of less than 30 seconds. The events say which.
    DhcpRefused = "dhcp_refused",
    /// The address of a flow was taken away, or given for another: its DHCP lease ended. The events say when and why.
    AddressLost = "address_lost",
    /// An ICMP error whose quoted segment belongs to no flow or lies outside its window.
    IcmpUnrelated = "icmp_unrelated",
    /// An ICMP message that nothing here uses: replies, redirects, router messages, exceeded times.
    IcmpIgnored = "icmp_ignored",
    /// A next hop did not answer, or too many frames already wait for it.
    NoNeighbour = "no_neighbour",
    /// No route leads to the destination.
    NoRoute = "no_route",
    /// The port had no frame or no room for a frame that should be sent; TCP sends it again.
    NoFrame = "no_frame",

    // Between shards.
    /// A frame that belongs to another core's shard found its inbox full. TCP sends it again. If it happens often, the
    /// device distributes the directions of a connection differently among its queues, or a core does not keep up.
    HandoverFull = "handover_full",

    // Screen.
    /// The source is banned, by itself or by its prefix: `hedgerow bans list` tells why and how long. Frames of strangers from
    /// there are dropped without an answer, and its connections are closed when the ban is set, unless `bans.close` is off.
    Banned = "banned",
    /// A destination port that no listener holds.
    NoListener = "no_listener",
    /// A segment without a flow whose acknowledgement is none of our cookies.
    BadCookie = "bad_cookie",
    /// A bare acknowledgement of a cookie: the peer has proved its address but sent nothing, so nothing is remembered.
    AwaitingData = "awaiting_data",
    /// A later segment of a first flight that overtook its beginning. Dropped silently: the beginning will come again.
    Overtaken = "overtaken",
    /// The first bytes cannot begin a TLS ClientHello.
    NotClientHello = "not_client_hello",
    /// A cookie that has been used by a flow that is already gone. Answered with a reset.
    SpentCookie = "spent_cookie",
    /// A segment for no flow. A reset or what belongs to a closing one needs no answer; the rest is answered with a reset.
    NoFlow = "no_flow",
    /// A SYN-ACK or reset that would be sent was held back by the cap per destination prefix.
    ReplyCap = "reply_cap",
    /// A source prefix that is banned.
    Denied = "denied",
    /// A stranger's frame beyond the rate at which strangers are let through to the core. Frames of known flows are not
    /// counted against it.
    Policed = "policed",

    // The way out.
    /// A packet to be passed on has no hops left.
    HopLimit = "hop_limit",
    /// A packet to be passed on is larger than the next link carries; its sender was told (path MTU discovery).
    TooBig = "too_big",
    /// A node wants out, and its way out is closed: `hedgerow egress` shows and opens it.
    EgressClosed = "egress_closed",
    /// A node wants where it may not go: `egress.allow` names what it may reach, and nodes never reach addresses of
    /// Hedgerow's own or each other by this way.
    EgressRefused = "egress_refused",
    /// A packet to be passed on whose source is no node with a way out.
    EgressUnknownNode = "egress_unknown_node",
    /// A packet from outside that belongs to nothing that a node began. Nothing from outside ever begins a conversation
    /// with a node by the way out.
    EgressUnsolicited = "egress_unsolicited",
    /// A node's segment for a connection that is not known, or no more, on the way out; answered with a reset.
    EgressNoSession = "egress_no_session",
    /// A node wants more connections at once that are inspected than it may have: `egress.inspect_at_once` says how many.
    /// Answered with a reset.
    InspectFull = "inspect_full",
    /// The table of sessions of the way out, the node's share of it, or its block of ports is full.
    EgressFull = "egress_full",
    /// Too many packets wait to be passed on: the link does not keep up.
    EgressQueue = "egress_queue",

    // Admission.
    /// The table of flows is full and nobody could be evicted.
    TableFull = "table_full",
    /// The source address holds as many flows as it may.
    SourceQuota = "source_quota",
    /// The source prefix holds as many flows as it may.
    PrefixQuota = "prefix_quota",
    /// The listener's peers hold as many flows as they may.
    ListenerQuota = "listener_quota",
    /// The source, its prefix, or all sources together have begun as many sessions lately as they may.
    SessionRate = "session_rate",
    /// Too many handshakes are in flight and none could be evicted.
    HandshakeQuota = "handshake_quota",
    /// Buffer memory is used up.
    BufferQuota = "buffer_quota",
    /// Evicted before its handshake finished: the table or the quota was full and its prefix was the fullest.
    Evicted = "evicted",
    /// Ended to make room for a newcomer after its own handshake was finished: all slots were taken, and it was the youngest
    /// of the largest prefix, neither a friend nor long-lived nor useful. Where the newcomer's own prefix was the largest, it
    /// is the newcomer that was turned away.
    Outranked = "outranked",
    /// The handshake was not finished before its deadline, which shrinks as the table fills.
    HandshakeTimeout = "handshake_timeout",

    // TCP engine.
    /// A segment outside the receive window.
    OutOfWindow = "out_of_window",
    /// A timestamp older than the last one accepted (RFC 7323, PAWS).
    StaleTimestamp = "stale_timestamp",
    /// An acknowledgement of data that was never sent.
    BadAck = "bad_ack",
    /// A SYN or inexact reset within the window, answered with a challenge (RFC 5961).
    Challenged = "challenged",
    /// A segment that needs an ACK where the challenge budget is used up (RFC 5961, section 7).
    ChallengeCap = "challenge_cap",
    /// Out-of-order data beyond what a flow may hold.
    ReassemblyFull = "reassembly_full",
    /// Data after the flow was closed for reading.
    DataAfterClose = "data_after_close",
    /// The peer reset the connection.
    Reset = "reset",
    /// Both sides finished in order.
    Finished = "finished",
    /// The peer stopped answering: retransmissions or window probes ran out.
    TimedOut = "timed_out",
    /// An active open was refused.
    Refused = "refused",
    /// The host closed or aborted the flow.
    Aborted = "aborted",
    /// An ICMP error for this flow's connection attempt said that the destination cannot be reached.
    Unreachable = "unreachable",
}

/// One counter per [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters([u64; Reason::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters([0; Reason::ALL.len()])
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&mut self, reason: Reason) {
        self[reason] += 1;
    }

    /// Reasons that were counted, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.iter().map(|&reason| (reason, self[reason])).filter(|&(_, count)| count > 0)
    }

    /// Adds what was counted elsewhere.
    pub fn absorb(&mut self, other: &Counters) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    /// The sum of all counters.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Index<Reason> for Counters {
    type Output = u64;
    fn index(&self, reason: Reason) -> &u64 {
        &self.0[reason as usize]
    }
}

impl IndexMut<Reason> for Counters {
    fn index_mut(&mut self, reason: Reason) -> &mut u64 {
        &mut self.0[reason as usize]
    }
}
