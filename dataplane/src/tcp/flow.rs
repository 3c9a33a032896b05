//! The host's handle to one flow: read, write, half-close, abort.
//!
//! A [`Flow`] borrows the engine for as long as the host works on one connection; what it changed takes effect when the
//! handle goes.

use crate::Reason;
use crate::shard::Standing;
use crate::time::Instant;
use crate::wire::FlowKey;

use super::Engine;

/// One flow, borrowed from its [`Engine`].
#[derive(Debug)]
pub struct Flow<'a> {
    engine: &'a mut Engine,
}

impl Flow<'_> {
    /// The flow's 4-tuple.
    pub fn key(&self) -> FlowKey {
        unreachable!()
    }

    /// The first contiguous piece of what can be read; empty if there is nothing. The host may scribble over bytes that
    /// it consumes next.
    pub fn peek(&mut self) -> &mut [u8] {
        &mut []
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        0
    }

    /// Takes `n` bytes of what can be read out (at most all).
    pub fn consume(&mut self, n: usize) {
        let _ = n;
    }

    /// Whether the peer has sent FIN and everything before it has been consumed.
    pub fn finished(&self) -> bool {
        false
    }

    /// Bytes that [`Flow::write`] would take now.
    pub fn space(&self) -> usize {
        0
    }

    /// Queues bytes to be sent; says how many fit. Where not all did, [`crate::shard::Event::Writable`] follows.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let _ = bytes;
        0
    }

    /// Free memory at the end of the send queue to write into, followed by [`Flow::commit`]; empty if there is no space,
    /// and then [`crate::shard::Event::Writable`] follows.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut []
    }

    /// Queues the first `n` bytes of what [`Flow::spare`] returned (at most all).
    pub fn commit(&mut self, n: usize) {
        let _ = n;
    }

    /// Bytes that the peer has not acknowledged yet, sent or not.
    pub fn unacknowledged(&self) -> usize {
        0
    }

    /// Ends our side: FIN after what was written. Reading goes on.
    pub fn finish(&mut self) {}

    /// Ends our side and stops reading: unread bytes are discarded, further data is answered with a reset, and the flow
    /// is gone at the latest after [`super::EngineConfig::linger`].
    pub fn close(&mut self, now: Instant) {
        let _ = now;
    }

    /// Ends the flow at once with a reset; [`crate::shard::Event::Closed`] reports `reason`.
    pub fn abort(&mut self, reason: Reason) {
        let _ = reason;
    }

    /// Sets how many bytes the host would take in all (unread ones included): the receive window follows, though its
    /// right edge never retreats.
    pub fn limit_window(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// What admission thinks of the flow.
    pub fn standing(&self) -> Standing {
        Standing::Stranger
    }

    /// Changes what admission thinks of the flow.
    pub fn set_standing(&mut self, standing: Standing) {
        let _ = standing;
    }
}
