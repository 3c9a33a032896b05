//! What a port has to know to answer SYNs by itself, before they cost the core anything: see [`crate::frame::Port::answer`].
//!
//! The port's answer is the screen's own, byte for byte: same cookie, same options, same clock. The cap on replies is split:
//! while a port answers, it has one half of what a prefix may get and the screen the other.

use crate::wire::Address;

/// A secret of 128 bits, as two little-endian words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PlanKey {
    /// The first eight bytes.
    pub k0: u64,
    /// The other eight.
    pub k1: u64,
}

/// Nobody should find a secret in a log.
impl core::fmt::Debug for PlanKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("PlanKey")
    }
}

/// How SYNs that arrive on one link are answered, for a minute from now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynPlan {
    /// Milliseconds of UTC now.
    pub unix_ms: u64,
    /// The current slot of cookies and the one that follows, with their keys.
    pub slots: [(u64, PlanKey); 2],
    /// Hashes 4-tuples to where their timestamp clocks begin.
    pub stamp: PlanKey,
    /// MSS values that a cookie can hold for IPv4, ascending.
    pub mss_v4: [u16; 4],
    /// MSS values that a cookie can hold for IPv6, ascending.
    pub mss_v6: [u16; 4],
    /// Largest IP packet of the link.
    pub mtu: u16,
    /// Where SYNs are answered: listeners on addresses that may be used.
    pub listeners: Vec<(Address, u16)>,
    /// Replies a second to one IPv4 /24 or IPv6 /48, with bursts of two seconds' worth; `None`: as many as are asked for.
    pub replies_per_second: Option<u32>,
    /// Secret numbers for the sketch that counts them.
    pub cap_secret: [u64; 4],
}
