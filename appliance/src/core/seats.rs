//! The table of sessions: who sits where, which flow is whose leg, and when each wants to be called.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::{FlowId, Target};
use hedgerow_dataplane::wire::{FlowKey, LinkId};
use hedgerow_policy::{Close, Leg, PeerId, Session, Standing};

use super::guard::Guarded;
use super::watch::Post;
use crate::commons::Side;
use crate::pool::{Caller, Ticket, Wish};
use crate::rules::slots::Class;

/// Timers of sessions that are over, beside two for each that is not, before they are looked for.
const TIMERS_FREE: usize = 256;

/// One leg of a session.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LegState {
    /// Its flow while there is one: id, 4-tuple and link.
    pub(super) flow: Option<(FlowId, FlowKey, LinkId)>,
    /// The other side's FIN was passed on to the session.
    pub(super) told_fin: bool,
    /// The session asked to end the leg.
    pub(super) closing: Option<Close>,
    /// Our FIN is queued; nothing more can be written.
    pub(super) shut: bool,
    /// Bytes that the session took from it.
    pub(super) bytes: u64,
}

/// How far a session is on its way to a node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dial {
    /// Not asked for, or refused.
    None,
    /// Another source's session holds the identity and is being asked for a sign of life, until that instant.
    Challenging(Instant),
    /// In the pool's queue.
    Queued,
    /// A connection to a node is being opened, until that instant.
    Connecting(Wish, usize, Instant),
    /// Connected to a node since then.
    Connected(usize, Instant),
    /// A light peer's: whether it is connected to its node.
    Watching(bool),
}

/// Where a session goes that a node began.
#[derive(Debug, Clone)]
pub(super) struct Voyage {
    /// The node's place in its pool.
    pub(super) node: usize,
    /// Its name.
    pub(super) name: Arc<str>,
    /// The peer outside.
    pub(super) to: Target,
    pub(super) reach: Reach,
}

/// How far the public leg of such a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Not asked for, or not to be had.
    None,
    /// Being opened.
    Underway,
    /// Open.
    There,
}

/// One session.
pub(super) struct Seat {
    pub(super) ticket: Ticket,
    /// A number that no other session of this run has.
    pub(super) number: u64,
    pub(super) session: Guarded,
    pub(super) listener: usize,
    pub(super) pool: usize,
    pub(super) peer: SocketAddr,
    pub(super) peer_id: Option<PeerId>,
    pub(super) standing: Standing,
    pub(super) opened: Instant,
    pub(super) legs: [LegState; 2],
    /// It asked for a node.
    pub(super) asked: bool,
    /// Whose slot of its listener it holds.
    pub(super) slot: Option<Class>,
    pub(super) dial: Dial,
    /// On whose behalf it asked for a node.
    pub(super) caller: Option<Caller>,
    /// Where it goes, where a node began it.
    pub(super) voyage: Option<Voyage>,
    /// The node that it looks at, where it is a light peer.
    pub(super) post: Option<Post>,
    /// When bytes last arrived on either leg.
    pub(super) moved: Instant,
    /// Another source waits for this session to show no sign of life, since then.
    pub(super) challenged: Option<Instant>,
    /// The public leg is neither read nor written until then: its source has moved as many bytes as it may.
    pub(super) rests: Option<Instant>,
    /// Ends the session whatever it says: its verdict is there, but a leg does not drain.
    pub(super) linger: Option<Instant>,
    /// The host ends it: its work had to make room.
    pub(super) doomed: bool,
    /// It stands in the queue of those to be called.
    pub(super) ready: bool,
    /// The earliest entry in the heap of timers.
    pub(super) armed: Option<Instant>,
    /// Why the dataplane ended the public leg, where it did.
    pub(super) flow_reason: Option<hedgerow_dataplane::Reason>,
}

impl Seat {
    /// A session that has just begun, on these legs.
    pub(super) fn new(
        ticket: Ticket,
        number: u64,
        session: Box<dyn Session>,
        peer: SocketAddr,
        now: Instant,
        legs: [LegState; 2],
    ) -> Seat {
        Seat {
            ticket,
            number,
            session: Guarded::new(session),
            listener: 0,
            pool: 0,
            peer,
            peer_id: None,
            standing: Standing::Stranger,
            opened: now,
            legs,
            asked: false,
            slot: None,
            dial: Dial::None,
            caller: None,
            voyage: None,
            post: None,
            moved: now,
            challenged: None,
            rests: None,
            linger: None,
            doomed: false,
            ready: false,
            armed: None,
            flow_reason: None,
        }
    }

    pub(super) fn leg(&mut self, leg: Leg) -> &mut LegState {
        &mut self.legs[leg as usize]
    }

    /// Whether a leg is to be left alone for now.
    pub(super) fn is_at_rest(&self, leg: Leg) -> bool {
        leg == Leg::Public && self.rests.is_some()
    }

    /// Whether a leg stands, so that bytes can go there.
    pub(super) fn stands(&self, leg: Leg) -> bool {
        match (&self.voyage, leg) {
            (None, Leg::Public) | (Some(_), Leg::Private) => true,
            (None, Leg::Private) => matches!(self.dial, Dial::Connected(..) | Dial::Watching(true)),
            (Some(voyage), Leg::Public) => voyage.reach == Reach::There,
        }
    }

    /// The node that it is a session of, by its place in the pool.
    pub(super) fn node(&self) -> Option<usize> {
        match (&self.voyage, self.dial, self.post) {
            (Some(voyage), ..) => Some(voyage.node),
            (None, Dial::Connected(node, _), _) => Some(node),
            (None, _, post) => post.map(|post| post.node),
        }
    }

    /// How it came about.
    pub(super) fn side(&self) -> Side {
        match &self.voyage {
            Some(voyage) => Side::By(voyage.node),
            None => Side::From(self.peer.ip()),
        }
    }

    /// When the host wants to look at it, apart from the session's own deadline.
    pub(super) fn host_deadline(&self) -> Option<Instant> {
        let dial = match self.dial {
            Dial::Challenging(until) | Dial::Connecting(_, _, until) => Some(until),
            _ => None,
        };
        dial.into_iter().chain(self.rests).chain(self.linger).min()
    }
}

/// The table.
pub(super) struct Seats {
    /// The core's number, and how many there are.
    core: (u16, u16),
    places: Vec<Place>,
    free: Vec<u32>,
    /// By slot of the flow table.
    flows: Vec<Option<(FlowId, Ticket, Leg)>>,
    timers: BinaryHeap<Reverse<(Instant, Ticket)>>,
    pub(super) live: usize,
    pub(super) peak: usize,
    pub(super) opened: u64,
}

#[derive(Default)]
struct Place {
    generation: u32,
    seat: Option<Box<Seat>>,
}

impl Seats {
    /// A table over `flows` places of the flow table. It grows with the sessions, which the flows limit.
    pub(super) fn new(flows: usize, core: (u16, u16)) -> Self {
        Seats {
            core,
            places: Vec::new(),
            free: Vec::new(),
            flows: vec![None; flows],
            timers: BinaryHeap::new(),
            live: 0,
            peak: 0,
            opened: 0,
        }
    }

    /// Places of the flow table.
    pub(super) fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Has room for `more` flows from somewhere else.
    pub(super) fn widen(&mut self, more: usize) {
        self.flows.resize(self.flows.len() + more, None);
    }

    /// Takes a place; [`Seats::put`] fills it.
    pub(super) fn open(&mut self) -> (Ticket, u64) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        self.live += 1;
        self.peak = self.peak.max(self.live);
        self.opened += 1;
        let generation = self.places[index as usize].generation;
        let (core, cores) = self.core;
        // Each core counts in steps of their number, so that no two sessions of the appliance have the same.
        let number = (self.opened - 1) * u64::from(cores) + u64::from(core) + 1;
        (Ticket { core, index, generation }, number)
    }

    /// Takes a session out, to work on it while the rest of the core is at hand.
    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Box<Seat>> {
        let place = self.places.get_mut(ticket.index as usize)?;
        if place.generation != ticket.generation { None } else { place.seat.take() }
    }

    /// Puts it back.
    pub(super) fn put(&mut self, seat: Box<Seat>) {
        let index = seat.ticket.index as usize;
        self.places[index].seat = Some(seat);
    }

    /// A session that is not taken out.
    pub(super) fn get(&mut self, ticket: Ticket) -> Option<&mut Seat> {
        let place = self.places.get_mut(ticket.index as usize)?;
        if place.generation != ticket.generation { None } else { place.seat.as_deref_mut() }
    }

    /// Frees the place of a session that was taken out and is over.
    pub(super) fn free(&mut self, ticket: Ticket) {
        let place = &mut self.places[ticket.index as usize];
        place.generation = place.generation.wrapping_add(1);
        self.free.push(ticket.index);
        self.live -= 1;
    }

    /// All sessions that are not taken out.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Seat> {
        self.places.iter().filter_map(|place| place.seat.as_deref())
    }

    /// Notes whose leg a flow is.
    pub(super) fn attach(&mut self, flow: FlowId, ticket: Ticket, leg: Leg) {
        if let Some(entry) = self.flows.get_mut(flow.slot as usize) {
            *entry = Some((flow, ticket, leg));
        }
    }

    /// Forgets a flow.
    pub(super) fn detach(&mut self, flow: FlowId) {
        if self.owner(flow).is_some() {
            self.flows[flow.slot as usize] = None;
        }
    }

    /// Whose leg a flow is.
    pub(super) fn owner(&self, flow: FlowId) -> Option<(Ticket, Leg)> {
        let (id, ticket, leg) = (*self.flows.get(flow.slot as usize)?)?;
        (id == flow).then_some((ticket, leg))
    }

    /// Sees to it that the session is called at its deadline.
    pub(super) fn arm(&mut self, seat: &mut Seat) {
        let session = seat.session.deadline().map(super::from_policy);
        let Some(at) = session.into_iter().chain(seat.host_deadline()).min() else { return };
        if seat.armed.is_none_or(|armed| at < armed) {
            seat.armed = Some(at);
            self.timers.push(Reverse((at, seat.ticket)));
            if self.timers.len() > TIMERS_FREE + 2 * self.live {
                self.tidy(seat);
            }
        }
    }

    /// Forgets timers that mean nothing any more: those behind a timer that is still to come would stay until their time.
    /// `out` is the session that is taken out.
    fn tidy(&mut self, out: &Seat) {
        let places = &self.places;
        self.timers.retain(|&Reverse((at, ticket))| {
            let place = &places[ticket.index as usize];
            let seat = if ticket == out.ticket { Some(out) } else { place.seat.as_deref() };
            place.generation == ticket.generation && seat.is_none_or(|seat| seat.armed == Some(at))
        });
    }

    /// The next session whose time has come.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Ticket> {
        loop {
            let Reverse((at, ticket)) = *self.timers.peek()?;
            let current = self.get(ticket).is_some_and(|seat| seat.armed == Some(at));
            if current && at > now {
                return None;
            }
            self.timers.pop();
            if current {
                if let Some(seat) = self.get(ticket) {
                    seat.armed = None;
                }
                return Some(ticket);
            }
        }
    }

    /// Entries in the heap of timers.
    #[cfg(test)]
    pub(super) fn timers(&self) -> usize {
        self.timers.len()
    }

    /// When [`Seats::expired`] has something; early rather than late.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }
}
