//! Who may own a flow: quotas per source and prefix, handshakes in flight with deadlines that shrink as they fill up,
//! and the choice of whom to evict. All tables are taken at start; no operation looks at all flows.

use core::time::Duration;

use crate::Reason;
use crate::shard::{FlowId, Standing};
use crate::time::Instant;
use crate::wire::Address;

/// Limits of an [`Admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows in all, those that we opened included.
    pub flows: u32,
    /// Flows from one IPv4 address.
    pub per_source: u32,
    /// Flows from one IPv4 /24.
    pub per_24: u32,
    /// Percentage of all flows from one IPv4 /16 or IPv6 /32.
    pub per_16_percent: u32,
    /// Flows from one IPv6 /64.
    pub v6_64: u32,
    /// Flows from one IPv6 /48.
    pub v6_48: u32,
    /// Flows whose peer is still a stranger.
    pub handshakes_in_flight: u32,
    /// How long a stranger may take while at most half of the handshakes are in flight.
    pub handshake_longest: Duration,
    /// How long a stranger may take when all handshakes are in flight.
    pub handshake_shortest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            flows: 4_096,
            per_source: 16,
            per_24: 32,
            per_16_percent: 12,
            v6_64: 4,
            v6_48: 16,
            handshakes_in_flight: 256,
            handshake_longest: Duration::from_secs(15),
            handshake_shortest: Duration::from_secs(3),
        }
    }
}

/// The books of one shard.
pub struct Admission {
    limits: Limits,
}

impl Admission {
    /// Empty books with all memory taken; `seed` keys the tables and the choice of victims.
    pub fn new(limits: Limits, seed: [u8; 16]) -> Self {
        Admission { limits }.seeded(seed)
    }

    fn seeded(self, _seed: [u8; 16]) -> Self {
        self
    }

    /// Whether a stranger from `source` may own a flow. `Ok(Some(victim))`: yes, in the place of this unfinished flow,
    /// which is already out of the books: abort it with [`Reason::Evicted`]. Says no with [`Reason::BufferQuota`] where
    /// `buffers_short`. Follow up with [`Admission::opened`].
    pub fn admit(&mut self, source: Address, buffers_short: bool) -> Result<Option<FlowId>, Reason> {
        let _ = source;
        if buffers_short { Err(Reason::BufferQuota) } else { Ok(None) }
    }

    /// Whether a connection of our own may be opened: only the total counts. May evict as [`Admission::admit`] does.
    pub fn admit_own(&mut self) -> Result<Option<FlowId>, Reason> {
        Ok(None)
    }

    /// Enters a flow that was admitted.
    pub fn opened(&mut self, now: Instant, id: FlowId, remote: Address, standing: Standing) {
        let _ = (now, id, remote, standing, self.limits);
    }

    /// Changes what is thought of a flow. A `Proven` one is no longer evicted here; a `Reserved` one leaves the quotas.
    pub fn standing(&mut self, id: FlowId, standing: Standing) {
        let _ = (id, standing);
    }

    /// Strikes a flow out. Unknown ids are ignored.
    pub fn closed(&mut self, id: FlowId) {
        let _ = id;
    }

    /// When the oldest stranger's time is up, as occupancy is now.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// A stranger whose time is up, struck out: abort it with [`Reason::HandshakeTimeout`], and ask again.
    pub fn expired(&mut self, now: Instant) -> Option<FlowId> {
        let _ = now;
        None
    }

    /// Flows in the books.
    pub fn flows(&self) -> u32 {
        0
    }

    /// Flows of strangers.
    pub fn strangers(&self) -> u32 {
        0
    }
}
