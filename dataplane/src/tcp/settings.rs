//! Limits and times of an engine, and the small types of its interface.

use std::time::Duration;

use crate::Reason;

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
    /// The links, by [`crate::wire::LinkId`].
    pub links: Vec<LinkSettings>,
    /// Bytes that may wait in a flow's send queue.
    pub send_buffer: usize,
    /// Largest receive window.
    pub window: usize,
    /// Data or a FIN unacknowledged for this long ends the flow (RFC 9293, section 3.8.3).
    pub user_timeout: Duration,
    /// Data that waits this long for a window that the peer keeps closed ends the flow. RFC 9293 would wait for ever;
    /// nobody may hold memory for ever here.
    pub stall_timeout: Duration,
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
            stall_timeout: Duration::from_secs(120),
            connect_timeout: Duration::from_secs(20),
            linger: Duration::from_secs(30),
            time_wait: Duration::from_secs(60),
        }
    }
}

/// What became of a segment that [`super::Engine::transmit`] offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Yes,
    /// Not now (no frame, next hop being resolved): offer it again at the next call.
    Later,
    /// It will never leave; as if the network had lost it.
    Dropped,
}

/// What TIME-WAIT says to a segment for which [`super::Engine::lookup`] found no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The 4-tuple is not in TIME-WAIT, or the segment begins or proves a new connection (RFC 6191): treat it as any
    /// stranger's. A flow that [`super::Engine::accept`] makes of it replaces the entry.
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
