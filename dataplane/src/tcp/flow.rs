//! The host's handle to one flow: read, write, half-close, abort.
//!
//! A [`Flow`] borrows the engine for as long as the host works on one connection; queues and timers follow when the handle
//! goes.

use crate::Reason;
use crate::shard::Standing;
use crate::time::Instant;
use crate::wire::FlowKey;

use super::Engine;
use super::connection::{Connection, SEND_SHARE, Shared, TRUSTED_WINDOW};
use super::state::State;
use super::timers::Timer;

/// One flow, borrowed from its [`Engine`].
#[derive(Debug)]
pub struct Flow<'a> {
    engine: &'a mut Engine,
    slot: u32,
}

impl<'a> Flow<'a> {
    /// The handle to a slot, if a flow is there.
    pub(super) fn new(engine: &'a mut Engine, slot: u32) -> Option<Self> {
        engine.slots.get(slot as usize)?.connection.as_ref()?;
        Some(Flow { engine, slot })
    }

    fn parts(&mut self) -> Option<(&mut Connection, &mut Shared)> {
        let Engine { slots, shared, .. } = &mut *self.engine;
        slots[self.slot as usize].connection.as_mut().map(|connection| (connection, shared))
    }

    fn connection(&self) -> Option<&Connection> {
        self.engine.slots[self.slot as usize].connection.as_ref()
    }

    /// The flow's 4-tuple.
    pub fn key(&self) -> FlowKey {
        self.connection().map_or(EMPTY_KEY, |connection| connection.key)
    }

    /// The first contiguous piece of what can be read; empty if there is nothing. The host may scribble over bytes that
    /// it consumes next.
    pub fn peek(&mut self) -> &mut [u8] {
        match self.parts() {
            Some((connection, shared)) => connection.receive.queue.peek(&mut shared.pool),
            None => &mut [],
        }
    }

    /// Bytes that can be read.
    pub fn readable(&self) -> usize {
        self.connection().map_or(0, |connection| connection.receive.queue.readable())
    }

    /// Takes `n` bytes of what can be read out (at most all).
    pub fn consume(&mut self, n: usize) {
        if let Some((connection, shared)) = self.parts() {
            connection.receive.queue.consume(&mut shared.pool, n);
            connection.window_opened(shared);
        }
    }

    /// Whether the peer has sent FIN and everything before it has been consumed.
    pub fn finished(&self) -> bool {
        self.connection().is_some_and(|connection| {
            connection.receive.fin_taken && connection.receive.queue.readable() == 0
        })
    }

    /// Bytes that [`Flow::write`] would take now.
    pub fn space(&self) -> usize {
        self.connection().map_or(0, |connection| connection.space(&self.engine.shared))
    }

    /// Queues bytes to be sent; says how many fit. Where not all did, [`crate::shard::Event::Writable`] follows.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let Some((connection, shared)) = self.parts() else { return 0 };
        let n = bytes.len().min(connection.space(shared));
        let (first, end) = (connection.queue_start(), connection.send.end);
        let written = connection.send.chain.write(&mut shared.pool, first, end, &bytes[..n]);
        connection.send.end += written as u32;
        if written < bytes.len() {
            self.want();
        }
        written
    }

    /// Free memory at the end of the send queue to write into, followed by [`Flow::commit`]; empty if there is no space,
    /// and then [`crate::shard::Event::Writable`] follows.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.space() == 0 {
            self.want();
            return &mut [];
        }
        let Some((connection, shared)) = self.parts() else { return &mut [] };
        let space = connection.space(shared);
        let (first, end) = (connection.queue_start(), connection.send.end);
        let spare = connection.send.chain.spare(&mut shared.pool, first, end);
        let n = spare.len().min(space);
        &mut spare[..n]
    }

    /// Queues the first `n` bytes of what [`Flow::spare`] returned (at most all).
    pub fn commit(&mut self, n: usize) {
        let Some((connection, shared)) = self.parts() else { return };
        let n = n.min(connection.space(shared)).min(connection.send.chain.room(connection.send.end));
        connection.send.end += n as u32;
        if connection.queued() == 0 {
            connection.send.chain.clear(&mut shared.pool);
        }
    }

    /// Notes that the host found no space.
    fn want(&mut self) {
        let Engine { slots, shared, starved, .. } = &mut *self.engine;
        let place = &mut slots[self.slot as usize];
        let Some(connection) = place.connection.as_mut() else { return };
        if connection.send.fin_queued || connection.state == State::Closed {
            return;
        }
        connection.send.wanted = true;
        // No acknowledgement will come to wake a flow that waits for memory, not for its peer.
        if shared.pool.left(SEND_SHARE) == 0 && !place.starved {
            place.starved = true;
            starved.push_back(self.slot);
        }
    }

    /// Bytes that the peer has not acknowledged yet, sent or not.
    pub fn unacknowledged(&self) -> usize {
        self.connection().map_or(0, Connection::queued)
    }

    /// Ends our side: FIN after what was written. Reading goes on.
    pub fn finish(&mut self) {
        if let Some((connection, _)) = self.parts() {
            connection.send.fin_queued = true;
        }
    }

    /// Ends our side and stops reading: unread bytes are discarded, further data is answered with a reset, and the flow
    /// is gone at the latest after [`super::EngineConfig::linger`].
    pub fn close(&mut self, now: Instant) {
        let Some((connection, shared)) = self.parts() else { return };
        connection.send.fin_queued = true;
        connection.send.orphan = true;
        let unread = connection.receive.queue.readable();
        connection.receive.queue.consume(&mut shared.pool, unread);
        if connection.state != State::Closed {
            connection.timers.life = connection.timers.life.min(Timer::at(now + shared.config.linger));
        }
    }

    /// Ends the flow at once with a reset; [`crate::shard::Event::Closed`] reports `reason`.
    pub fn abort(&mut self, reason: Reason) {
        self.engine.reset(self.slot, reason);
    }

    /// Sets how many bytes the host would take in all (unread ones included): the receive window follows, though its
    /// right edge never retreats.
    pub fn limit_window(&mut self, bytes: usize) {
        if let Some((connection, shared)) = self.parts() {
            connection.receive.appetite = u32::try_from(bytes).unwrap_or(u32::MAX);
            connection.window_opened(shared);
        }
    }

    /// What admission thinks of the flow.
    pub fn standing(&self) -> Standing {
        self.connection().map_or(Standing::Stranger, |connection| connection.standing)
    }

    /// Changes what admission thinks of the flow.
    pub fn set_standing(&mut self, standing: Standing) {
        if let Some((connection, _)) = self.parts() {
            connection.standing = standing;
            if standing > Standing::Stranger {
                connection.receive.tuned = connection.receive.tuned.max(TRUSTED_WINDOW);
            }
        }
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        self.engine.wake(self.slot);
    }
}

/// What a handle shows whose flow it has just aborted.
const EMPTY_KEY: FlowKey = FlowKey {
    local: crate::wire::Address::from_v6([0; 16]),
    remote: crate::wire::Address::from_v6([0; 16]),
    local_port: 0,
    remote_port: 0,
};
