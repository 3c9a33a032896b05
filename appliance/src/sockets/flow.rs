//! The host's handle to one connection of the kernel, with the verbs of [`hedgerow_dataplane::tcp::Flow`].

use hedgerow_dataplane::shard::Event;
use hedgerow_dataplane::wire::FlowKey;
use hedgerow_dataplane::{Instant, Reason};

use super::socket::Socket;
use super::{Sockets, reason};

/// One connection, borrowed from its [`Sockets`].
pub struct SocketFlow<'a> {
    sockets: &'a mut Sockets,
    slot: u32,
}

impl<'a> SocketFlow<'a> {
    pub(super) fn new(sockets: &'a mut Sockets, slot: u32) -> Self {
        SocketFlow { sockets, slot }
    }

    fn socket(&mut self) -> Option<&mut Socket> {
        self.sockets.slots[self.slot as usize].socket.as_deref_mut()
    }

    /// The connection's 4-tuple.
    pub fn key(&self) -> Option<FlowKey> {
        self.sockets.slots[self.slot as usize].socket.as_deref().map(|socket| socket.key)
    }

    /// What can be read; empty if there is nothing. The host may scribble over bytes that it consumes next.
    pub fn peek(&mut self) -> &mut [u8] {
        let Sockets { slots, blocks, .. } = &mut *self.sockets;
        let outcome = match slots[self.slot as usize].socket.as_deref_mut() {
            Some(socket) => socket.fill(blocks),
            None => return &mut [],
        };
        match outcome {
            Ok(true) => {}
            Ok(false) => self.sockets.starve(self.slot),
            Err(error) => self.sockets.lose(self.slot, reason(&error)),
        }
        self.socket().map_or(&mut [], |socket| socket.inbox.bytes())
    }

    /// Takes `n` bytes of what can be read out.
    pub fn consume(&mut self, n: usize) {
        let Sockets { slots, blocks, .. } = &mut *self.sockets;
        if let Some(socket) = slots[self.slot as usize].socket.as_deref_mut() {
            socket.inbox.take(n);
            socket.inbox.tidy(blocks);
        }
    }

    /// Whether the other side has sent FIN and everything before it has been consumed.
    pub fn finished(&mut self) -> bool {
        self.socket().is_some_and(|socket| socket.fin && socket.inbox.len() == 0)
    }

    /// Free memory to write into, followed by [`SocketFlow::commit`]; empty if there is none, and then [`Event::Writable`]
    /// follows.
    pub fn spare(&mut self) -> &mut [u8] {
        let Sockets { slots, blocks, .. } = &mut *self.sockets;
        let Some(socket) = slots[self.slot as usize].socket.as_deref_mut() else { return &mut [] };
        if socket.finishing {
            return &mut [];
        }
        match socket.outbox.room(blocks).map(|room| room.is_empty()) {
            Some(full) => socket.wanted |= full,
            None => self.sockets.starve(self.slot),
        }
        let Sockets { slots, blocks, .. } = &mut *self.sockets;
        let socket = slots[self.slot as usize].socket.as_deref_mut();
        socket.and_then(|socket| socket.outbox.room(blocks)).unwrap_or_default()
    }

    /// Queues the first `n` bytes of what [`SocketFlow::spare`] returned.
    pub fn commit(&mut self, n: usize) {
        let Sockets { slots, blocks, .. } = &mut *self.sockets;
        let Some(socket) = slots[self.slot as usize].socket.as_deref_mut() else { return };
        socket.outbox.filled(n);
        socket.outbox.tidy(blocks);
        if n > 0 {
            self.sockets.soil(self.slot);
        }
    }

    /// Ends our side: FIN after what was written. Reading goes on.
    pub fn finish(&mut self) {
        if let Some(socket) = self.socket() {
            socket.finishing = true;
            self.sockets.soil(self.slot);
        }
    }

    /// Ends our side and stops reading; what was written is still sent, for a bounded time.
    pub fn close(&mut self, now: Instant) {
        self.sockets.orphan(now, self.slot);
    }

    /// Ends the connection at once with a reset; [`Event::Closed`] reports `reason`.
    pub fn abort(&mut self, reason: Reason) {
        self.sockets.lose(self.slot, reason);
    }

    /// Sets how many bytes the host would take: at zero nothing is read, and the kernel's window fills.
    pub fn limit_window(&mut self, bytes: usize) {
        let Some(socket) = self.socket() else { return };
        let woken = socket.appetite == 0 && bytes > 0 && socket.readable && socket.inbox.len() == 0;
        socket.appetite = bytes;
        if woken {
            self.sockets.tell(self.slot, Event::Readable);
        }
    }
}
