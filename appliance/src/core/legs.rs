//! Where a leg's bytes go: each leg of a session is either a flow of the shard or a connection of the kernel, and nothing
//! above this seam knows which.
//!
//! Both have ids of one kind: places of the shard's table come first, those of [`Sockets`] after them.

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::Reason;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::shard::{Event, FlowId, Source, Standing, Target};
use hedgerow_dataplane::tcp::Flow;
use hedgerow_dataplane::wire::FlowKey;
use hedgerow_policy::Leg;

use super::Core;
use super::seats::Seat;
use crate::sockets::{SocketFlow, Sockets};

/// One leg's connection.
pub(super) enum Way<'a> {
    /// The shard's.
    Engine(Flow<'a>),
    /// The kernel's.
    Kernel(SocketFlow<'a>),
}

impl Way<'_> {
    pub(super) fn key(&self) -> Option<FlowKey> {
        match self {
            Way::Engine(flow) => Some(flow.key()),
            Way::Kernel(flow) => flow.key(),
        }
    }

    pub(super) fn peek(&mut self) -> &mut [u8] {
        match self {
            Way::Engine(flow) => flow.peek(),
            Way::Kernel(flow) => flow.peek(),
        }
    }

    pub(super) fn consume(&mut self, n: usize) {
        match self {
            Way::Engine(flow) => flow.consume(n),
            Way::Kernel(flow) => flow.consume(n),
        }
    }

    pub(super) fn finished(&mut self) -> bool {
        match self {
            Way::Engine(flow) => flow.finished(),
            Way::Kernel(flow) => flow.finished(),
        }
    }

    pub(super) fn spare(&mut self) -> &mut [u8] {
        match self {
            Way::Engine(flow) => flow.spare(),
            Way::Kernel(flow) => flow.spare(),
        }
    }

    pub(super) fn commit(&mut self, n: usize) {
        match self {
            Way::Engine(flow) => flow.commit(n),
            Way::Kernel(flow) => flow.commit(n),
        }
    }

    pub(super) fn finish(&mut self) {
        match self {
            Way::Engine(flow) => flow.finish(),
            Way::Kernel(flow) => flow.finish(),
        }
    }

    pub(super) fn close(&mut self, now: Instant) {
        match self {
            Way::Engine(flow) => flow.close(now),
            Way::Kernel(flow) => flow.close(now),
        }
    }

    pub(super) fn abort(&mut self) {
        match self {
            Way::Engine(flow) => flow.abort(Reason::Aborted),
            Way::Kernel(flow) => flow.abort(Reason::Aborted),
        }
    }

    pub(super) fn limit_window(&mut self, bytes: usize) {
        match self {
            Way::Engine(flow) => flow.limit_window(bytes),
            Way::Kernel(flow) => flow.limit_window(bytes),
        }
    }
}

impl<P: Port> Core<P> {
    /// Has the kernel's connections served, too. To be called once, before the first step.
    pub fn plug(&mut self, mut sockets: Sockets) {
        sockets.set_base(self.seats.flows() as u32);
        self.seats.widen(sockets.room());
        self.sockets = Some(sockets);
    }

    /// A leg's connection.
    pub(super) fn flow(&mut self, id: FlowId) -> Option<Way<'_>> {
        match self.sockets.as_mut().filter(|sockets| sockets.has(id)) {
            Some(sockets) => sockets.flow(id).map(Way::Kernel),
            None => self.shard.flow(id).map(Way::Engine),
        }
    }

    /// Opens a connection to a node.
    pub(super) fn open(&mut self, now: Instant, to: Target, source: Source) -> Result<FlowId, Reason> {
        match self.sockets.as_mut().filter(|sockets| sockets.serves(to.link)) {
            Some(sockets) => sockets.connect(now, to),
            None => self.shard.connect(now, to, source),
        }
    }

    /// What happened next, here or there.
    pub(super) fn happened(&mut self, now: Instant) -> Option<Event> {
        self.shard.event(now).or_else(|| self.sockets.as_mut()?.event())
    }

    pub(super) fn set_standing(&mut self, now: Instant, id: FlowId, standing: Standing) {
        match self.sockets.as_mut().filter(|sockets| sockets.has(id)) {
            Some(sockets) => sockets.standing(now, id, standing),
            None => self.shard.standing(now, id, standing),
        }
    }

    pub(super) fn commend(&mut self, id: FlowId) {
        match self.sockets.as_mut().filter(|sockets| sockets.has(id)) {
            Some(sockets) => sockets.commend(id),
            None => self.shard.commend(id),
        }
    }

    pub(super) fn credit_flow(&mut self, now: Instant, id: FlowId, points: u32) {
        match self.sockets.as_mut().filter(|sockets| sockets.has(id)) {
            Some(sockets) => sockets.credit(now, id, points),
            None => self.shard.credit(now, id, points),
        }
    }

    /// Until when a flow has to rest after so many bytes, if it has to.
    fn moved(&mut self, now: Instant, id: FlowId, bytes: usize) -> Option<Instant> {
        match self.sockets.as_mut().filter(|sockets| sockets.has(id)) {
            Some(sockets) => sockets.moved(now, id, bytes),
            None => self.shard.moved(now, id, bytes),
        }
    }

    /// Counts what a leg moved in this turn; the public one may have to rest for it.
    pub(super) fn spend(&mut self, now: Instant, seat: &mut Seat, leg: Leg, bytes: usize) {
        let Some((id, ..)) = seat.leg(leg).flow.filter(|_| leg == Leg::Public && bytes > 0) else { return };
        if let Some(until) = self.moved(now, id, bytes) {
            self.held_back += u64::from(seat.rests.is_none());
            seat.rests = seat.rests.max(Some(until));
        }
    }

    /// Takes in what the kernel has for us.
    pub(super) fn poll_sockets(&mut self, now: Instant) -> usize {
        self.sockets.as_mut().map_or(0, |sockets| sockets.poll(now))
    }

    /// Whether sockets have more to say at once.
    pub(super) fn sockets_pending(&self) -> bool {
        self.sockets.as_ref().is_some_and(Sockets::has_events)
    }
}
