//! The TCP engine: both roles of RFC 9293 over a keyed flow table, a timer wheel and one pool of buffers.
//!
//! An [`Engine`] is sans-IO. The host feeds it checked segments, pulls what it wants sent, and hears about flows through
//! [`Event`]s. All memory is limited by [`EngineConfig`]; an idle flow owns no buffer.

mod flow;

use std::time::Duration;

use crate::Reason;
use crate::reason::Counters;
use crate::shard::{Event, FlowId, ListenerId};
use crate::time::Instant;
use crate::wire::{Agreed, FlowKey, LinkId, Mac, Outgoing, Segment, Seq};

pub use flow::Flow;

/// What the engine has to know about a link.
#[derive(Clone, Copy, Debug)]
pub struct LinkSettings {
    /// Largest IP packet.
    pub mtu: u16,
    /// Largest TCP payload that the port cuts by itself; zero: none.
    pub segmentation: usize,
}

/// Limits and times of an engine; fixed at its start.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Flows at most.
    pub flows: usize,
    /// Remembered 4-tuples in TIME-WAIT at most; the oldest makes room.
    pub time_waits: usize,
    /// Blocks of 4 KiB in the buffer pool.
    pub blocks: usize,
    /// The links, by [`LinkId`].
    pub links: Vec<LinkSettings>,
    /// Bytes that may wait in a flow's send queue.
    pub send_buffer: usize,
    /// Largest receive window.
    pub window: usize,
    /// Data or a FIN unacknowledged for this long ends the flow (RFC 9293, section 3.8.3).
    pub user_timeout: Duration,
    /// An active open gives up after this long.
    pub connect_timeout: Duration,
    /// How long a flow that the host has closed may take to finish.
    pub linger: Duration,
    /// Duration of TIME-WAIT.
    pub time_wait: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            flows: 16_384,
            time_waits: 16_384,
            blocks: 16_384,
            links: vec![LinkSettings { mtu: 1500, segmentation: 0 }],
            send_buffer: 1 << 20,
            window: 1 << 20,
            user_timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(20),
            linger: Duration::from_secs(30),
            time_wait: Duration::from_secs(60),
        }
    }
}

/// Bytes of a block of the buffer pool.
pub const BLOCK: usize = 4_096;

/// What became of a segment that [`Engine::transmit`] offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Yes,
    /// Not now (no frame, next hop being resolved): offer it again at the next call.
    Later,
    /// It will never leave; as if the network had lost it.
    Dropped,
}

/// What TIME-WAIT says to a segment for which [`Engine::lookup`] found no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The 4-tuple is not in TIME-WAIT, or the segment begins or proves a new connection (RFC 6191): treat it as any
    /// stranger's. A flow that [`Engine::accept`] makes of it replaces the entry.
    Stranger,
    /// The entry took it, perhaps with an ACK to be transmitted.
    Consumed,
    /// Refused and counted.
    Dropped(Reason),
}

/// An ICMP error about a segment that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// A router could not forward a packet larger than this many bytes.
    PacketTooBig(u16),
    /// The destination cannot be reached.
    Unreachable,
}

/// Figures for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Flows now.
    pub flows: usize,
    /// Most flows at once.
    pub flows_peak: usize,
    /// 4-tuples in TIME-WAIT now.
    pub time_waits: usize,
    /// Blocks of the buffer pool.
    pub blocks: usize,
    /// Blocks in use now.
    pub blocks_used: usize,
    /// Most blocks in use at once.
    pub blocks_peak: usize,
    /// Segments taken in.
    pub segments_in: u64,
    /// Segments sent.
    pub segments_out: u64,
    /// Segments sent again.
    pub retransmissions: u64,
    /// Times that the retransmission timer ran out.
    pub timeouts: u64,
}

/// The TCP engine of one shard.
#[derive(Debug)]
pub struct Engine {
    counters: Counters,
}

impl Engine {
    /// An engine with all its memory reserved. `seed` keys the flow table and initial sequence numbers.
    pub fn new(config: EngineConfig, seed: [u8; 32]) -> Self {
        let _ = (config, seed);
        Engine { counters: Counters::default() }
    }

    /// Pulls the table entry of `key` into the cache.
    pub fn prefetch(&self, key: &FlowKey) {
        let _ = key;
    }

    /// The flow of a 4-tuple.
    pub fn lookup(&self, key: &FlowKey) -> Option<FlowId> {
        let _ = key;
        None
    }

    /// Asks TIME-WAIT about a segment for which there is no flow.
    pub fn waiting(&mut self, now: Instant, key: &FlowKey, segment: &Segment<'_>) -> Waiting {
        let _ = (now, key, segment);
        Waiting::Stranger
    }

    /// Makes an established flow of what a returned cookie proved. The segment that proved it goes to [`Engine::input`]
    /// next. Reports [`Event::Accepted`]. Replaces a TIME-WAIT entry of the 4-tuple.
    pub fn accept(
        &mut self,
        now: Instant,
        key: FlowKey,
        link: LinkId,
        hop: Mac,
        agreed: &Agreed,
        listener: ListenerId,
    ) -> Result<FlowId, Reason> {
        let _ = (now, key, link, hop, agreed, listener);
        Err(Reason::TableFull)
    }

    /// Opens a connection (reports [`Event::Connected`] or [`Event::Closed`]). `hop`: the next hop's Ethernet address,
    /// where known. Fails if the table is full or the 4-tuple is taken or in TIME-WAIT.
    pub fn connect(
        &mut self,
        now: Instant,
        key: FlowKey,
        link: LinkId,
        hop: Option<Mac>,
    ) -> Result<FlowId, Reason> {
        let _ = (now, key, link, hop);
        Err(Reason::TableFull)
    }

    /// A segment arrived for a flow; `hop` is the Ethernet address that it came from. The error says why it was dropped
    /// and is counted in [`Engine::counters`] already.
    pub fn input(&mut self, now: Instant, id: FlowId, segment: &Segment<'_>, hop: Mac) -> Result<(), Reason> {
        let _ = (now, id, segment, hop);
        Ok(())
    }

    /// An ICMP error quoted a segment of `key` that began at `seq`. Believed only as far as RFC 5927 allows.
    pub fn icmp_error(
        &mut self,
        now: Instant,
        key: &FlowKey,
        seq: Seq,
        error: PathError,
    ) -> Result<(), Reason> {
        let _ = (now, key, seq, error);
        Err(Reason::IcmpUnrelated)
    }

    /// Offers up to `budget` segments of one link's flows to `sink`; says how many were taken ([`Sent::Yes`] or
    /// [`Sent::Dropped`]). Each link has a ready queue of its own, so that a full port holds up nobody else.
    pub fn transmit(
        &mut self,
        now: Instant,
        link: LinkId,
        sink: &mut impl FnMut(&Outgoing<'_>) -> Sent,
        budget: usize,
    ) -> usize {
        let _ = (now, link, sink, budget);
        0
    }

    /// Bytes of buffer memory that a flow holds, both directions.
    pub fn buffered(&self, id: FlowId) -> usize {
        let _ = id;
        0
    }

    /// Whether so little buffer memory is left that new strangers should be refused.
    pub fn buffers_short(&self) -> bool {
        false
    }

    /// Whether [`Engine::transmit`] may have something to offer.
    pub fn has_output(&self) -> bool {
        false
    }

    /// When [`Engine::advance`] wants to be called at the latest. May be early, never late.
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// Lets timers expire.
    pub fn advance(&mut self, now: Instant) {
        let _ = now;
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Event> {
        None
    }

    /// A flow by its id; `None` if it is gone.
    pub fn flow(&mut self, id: FlowId) -> Option<Flow<'_>> {
        let _ = id;
        None
    }

    /// Sets or clears the instant at which a flow is aborted with [`Reason::HandshakeTimeout`].
    pub fn set_deadline(&mut self, id: FlowId, at: Option<Instant>) {
        let _ = (id, at);
    }

    /// Ends a flow with a reset and `reason`, which its [`Event::Closed`] reports.
    pub fn evict(&mut self, id: FlowId, reason: Reason) {
        let _ = (id, reason);
    }

    /// Dropped segments by reason.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Figures for `status`.
    pub fn statistics(&self) -> Statistics {
        Statistics::default()
    }
}
