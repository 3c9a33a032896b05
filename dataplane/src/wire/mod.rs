//! What travels on the wire: addresses, flow keys, sequence numbers and the checked form of a TCP segment.
//!
//! [`Segment`] is what the engine reads and [`Outgoing`] what it wants sent; neither holds anything half-checked.

mod address;
mod build;
mod checksum;
mod options;
mod parse;
mod payload;
mod prefix;
mod prefix_set;
#[cfg(test)]
pub(crate) mod sample;
mod seq;

pub use address::{Address, FlowKey, Mac};
pub use build::{BuildRules, Built, build_tcp};
pub use parse::{Kind, LinkRules, Packet, parse, parse_into};
pub(crate) use payload::Blocks;
pub use payload::Payload;
pub use prefix::{Prefix, PrefixError};
pub use prefix_set::PrefixSet;
pub use seq::Seq;

pub(crate) use build::Head;
pub(crate) use checksum::{fold as checksum_fold, pseudo as checksum_pseudo, sum as checksum_sum};
pub(crate) use options::{Emitted, Found};
pub(crate) use parse::{
    ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, IPV4_HEADER, IPV6_HEADER, TCP_HEADER, VLAN_TAG,
    ipv4_packet, link_local, martian,
};

/// Which of a shard's links a frame came from or goes to: an index into its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u8);

/// TCP control bits (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is significant.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo.
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced.
    pub const CWR: Flags = Flags(0x80);

    /// Whether all bits of `other` are set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

/// Up to four SACK blocks (RFC 2018): `[left, right)` in sequence space, in the order of the option.
#[derive(Clone, Copy, Debug, Default)]
pub struct SackBlocks {
    blocks: [(Seq, Seq); 4],
    count: u8,
}

/// What lies beyond the count does not matter.
impl PartialEq for SackBlocks {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for SackBlocks {}

impl SackBlocks {
    /// Appends a block; false where four are there already.
    pub fn push(&mut self, left: Seq, right: Seq) -> bool {
        if usize::from(self.count) == self.blocks.len() {
            return false;
        }
        self.blocks[usize::from(self.count)] = (left, right);
        self.count += 1;
        true
    }

    /// The blocks.
    pub fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.blocks[..usize::from(self.count)]
    }

    /// Keeps the first `count` blocks.
    pub fn truncate(&mut self, count: usize) {
        self.count = self.count.min(u8::try_from(count).unwrap_or(u8::MAX));
    }
}

/// TCP options that are understood; all others are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Maximum segment size (RFC 9293, section 3.7.1).
    pub mss: Option<u16>,
    /// Window scale shift count as sent, 0 to 255 (RFC 7323, section 2; above 14 counts as 14).
    pub window_scale: Option<u8>,
    /// Selective acknowledgements permitted (RFC 2018).
    pub sack_permitted: bool,
    /// TSval and TSecr (RFC 7323, section 3).
    pub timestamps: Option<(u32, u32)>,
    /// Selective acknowledgements.
    pub sack: SackBlocks,
}

/// A received TCP segment: every length, flag combination and option has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Sequence number of the first byte (of the SYN, if there is one).
    pub seq: Seq,
    /// Acknowledgement number; significant only with [`Flags::ACK`].
    pub ack: Seq,
    /// Control bits.
    pub flags: Flags,
    /// Window as on the wire, unscaled.
    pub window: u16,
    /// Options.
    pub options: Options,
    /// Payload.
    pub payload: &'a [u8],
    /// How many segments of the wire this is: more than one where the driver merged them (GRO).
    pub merged: u16,
}

/// What both sides agreed on in the three-way handshake: what a returned cookie proves, and what an active open learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Our initial sequence number.
    pub iss: Seq,
    /// The peer's initial sequence number.
    pub irs: Seq,
    /// Largest segment that the peer takes, by its MSS option (possibly rounded down by the cookie); options of the
    /// segments count against it (RFC 6691).
    pub mss: u16,
    /// Shift of windows that the peer announces; with `local_scale` present only if both sides offered it.
    pub remote_scale: u8,
    /// Shift of windows that we announce.
    pub local_scale: u8,
    /// Whether both sides permit selective acknowledgements.
    pub sack: bool,
    /// Timestamps, where both sides use them.
    pub timestamps: Option<AgreedTimestamps>,
}

/// Timestamps at the end of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgreedTimestamps {
    /// The peer's latest TSval: what we echo.
    pub recent: u32,
    /// Our TSval as the peer echoed it: the flow's timestamp clock goes on from here, a tick per millisecond.
    pub echoed: u32,
}

/// A TCP segment that the engine wants sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The flow's addresses and ports; `local` is the source.
    pub key: FlowKey,
    /// The link that the flow lives on.
    pub link: LinkId,
    /// The Ethernet address of the next hop, where the flow has learned it from the peer's own frames.
    pub hop: Option<Mac>,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement number; zero without [`Flags::ACK`].
    pub ack: Seq,
    /// Control bits.
    pub flags: Flags,
    /// Window as on the wire, already scaled.
    pub window: u16,
    /// Options.
    pub options: Options,
    /// Payload.
    pub payload: Payload<'a>,
    /// Where the payload is longer than one segment: payload bytes per segment on the wire, cut by the port; else 0.
    pub segment: u16,
}
