//! The way to a node: identities that are unique per pool, turns, pace, failures. What concerns other cores' sessions too is
//! asked of the [commons](crate::commons).

use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::link::Link;
use hedgerow_dataplane::shard::{FlowId, Source, Target};
use hedgerow_policy::chia::NodeType;
use hedgerow_policy::{DialFailure, Done, Leg, PeerId, Standing, verdict};

use super::seats::{Dial, Seat};
use super::{Core, Errand, Happened, to_policy};
use crate::commons::{Claim, Letter};
use crate::pool::{Answer, Caller, Stage, Ticket, Wish};

/// How long the holder of an identity has to answer while another source shows the same one.
const PROBE: Duration = Duration::from_secs(5);

impl<P: Port> Core<P> {
    /// A session asks for a node.
    pub(super) fn dial(
        &mut self,
        now: Instant,
        seat: &mut Seat,
        peer: Option<PeerId>,
        kind: Option<NodeType>,
    ) {
        // A session dials once: its identity is given back when it ends, and there is but one.
        if !matches!(seat.dial, Dial::None) || seat.asked {
            return;
        }
        seat.asked = true;
        seat.peer_id = peer;
        let backend = self.errand(seat).backend;
        seat.caller = Some(Caller {
            ticket: seat.ticket,
            peer,
            v4: seat.peer.is_ipv4(),
            kind,
            backend,
            source: seat.peer.ip().into(),
            friend: seat.standing == Standing::Reserved,
        });
        if !backend && !self.take_slot(seat, kind) {
            return self.refuse(now, seat, DialFailure::Slots);
        }
        let Some(id) = peer else { return self.ask(now, seat) };
        // Whoever comes from a node's address is no peer, whatever it shows; its machine's application has its own listener.
        let from = seat.peer.ip();
        match !backend && self.commons.with(|books| books.is_node(from)) {
            true => self.claimed(now, seat, Claim::OwnNode),
            false => self.claim(now, seat, id),
        }
    }

    /// Asks for a session's identity to be its own.
    pub(super) fn claim(&mut self, now: Instant, seat: &mut Seat, id: PeerId) {
        let claim = self.commons.with(|books| books.claim((seat.pool, id), seat.ticket, seat.side()));
        self.claimed(now, seat, claim);
    }

    /// What comes of a session's claim to its identity.
    fn claimed(&mut self, now: Instant, seat: &mut Seat, claim: Claim) {
        match claim {
            Claim::Granted if seat.voyage.is_some() => self.sail(now, seat),
            Claim::Granted => self.ask(now, seat),
            Claim::Waits => seat.dial = Dial::Challenging(now + PROBE),
            Claim::Refused => self.refuse(now, seat, DialFailure::Duplicate),
            Claim::OwnNode => self.refuse(now, seat, DialFailure::OwnNode),
        }
    }

    /// What is special about the way of a session's listener.
    fn errand(&self, seat: &Seat) -> Errand {
        self.errands.get(seat.listener).copied().unwrap_or_default()
    }

    pub(super) fn refuse(&mut self, now: Instant, seat: &mut Seat, why: DialFailure) {
        seat.dial = Dial::None;
        seat.session.complete(to_policy(now), Done::DialFailed(why));
    }

    /// Carries out what other sessions, of this core or another, have brought about.
    pub(super) fn read_letters(&mut self, now: Instant) {
        if !self.commons.has_mail(self.number) {
            return;
        }
        for (ticket, letter) in self.commons.take_mail(self.number) {
            match letter {
                Letter::Replaced => self.end(now, ticket, verdict::Reason::Replaced),
                Letter::Displaced => self.end(now, ticket, verdict::Reason::Displaced),
                Letter::Challenged => {
                    if let Some(seat) = self.seats.get(ticket) {
                        seat.challenged = Some(now);
                        seat.session.probe(to_policy(now));
                        self.mark(ticket);
                    }
                }
                Letter::Free | Letter::Held => self.argument_over(now, ticket, letter == Letter::Free),
            }
        }
    }

    /// A challenger learns what became of the session that it waited for.
    fn argument_over(&mut self, now: Instant, ticket: Ticket, free: bool) {
        let Some(mut seat) = self.seats.take(ticket) else { return };
        if let (Dial::Challenging(_), Some(id)) = (seat.dial, seat.peer_id) {
            seat.dial = Dial::None;
            match free {
                true => self.claim(now, &mut seat, id),
                false => self.claimed(now, &mut seat, Claim::Refused),
            }
        }
        self.go_on(now, seat);
    }

    /// A session that is to give a sign of life may have given one: who waited for its silence is refused.
    pub(super) fn answer_challenger(&mut self, seat: &mut Seat) {
        let (Some(since), Some(id)) = (seat.challenged, seat.peer_id) else { return };
        if seat.session.heard() > to_policy(since) {
            seat.challenged = None;
            self.commons.with(|books| books.lives((seat.pool, id), seat.ticket));
        }
    }

    /// A session is over: its identity is free.
    pub(super) fn release_identity(&mut self, seat: &Seat) {
        if let Some(id) = seat.peer_id {
            self.commons.with(|books| books.release((seat.pool, id), seat.ticket));
        }
    }

    /// What the host waits for on a session's behalf has taken too long.
    pub(super) fn dial_timers(&mut self, now: Instant, seat: &mut Seat) {
        match seat.dial {
            Dial::Challenging(until) if until <= now => {
                seat.dial = Dial::None;
                let Some(id) = seat.peer_id else { return };
                let key = (seat.pool, id);
                let claim = self.commons.with(|books| books.outlasted(key, seat.ticket, seat.side()));
                self.claimed(now, seat, claim);
            }
            Dial::Connecting(_, _, until) if until <= now => {
                self.cut(seat, Leg::Private);
                self.dial_failed(now, seat);
            }
            _ => {}
        }
    }

    /// Those of this core who waited in a pool and whose turn has come.
    pub(super) fn poll_pools(&mut self, now: Instant) {
        for index in 0..self.pools.len() {
            while self.queued > 0 {
                let number = self.number;
                let Some(answer) = self.commons.with(|books| books.pools[index].poll(now, number)) else {
                    break;
                };
                self.queued -= 1;
                let ticket = match answer {
                    Answer::Dial(wish, _) => wish.caller.ticket,
                    Answer::Refused(ticket, _) => ticket,
                    Answer::Queued => continue,
                };
                if let Some(mut seat) = self.seats.take(ticket) {
                    self.answer(now, &mut seat, answer);
                    self.go_on(now, seat);
                }
            }
        }
    }

    fn ask(&mut self, now: Instant, seat: &mut Seat) {
        let Some(caller) = seat.caller else { return };
        let answer = self.commons.with(|books| books.ask(seat.pool, now, caller));
        self.answer(now, seat, answer);
    }

    fn answer(&mut self, now: Instant, seat: &mut Seat, mut answer: Answer) {
        loop {
            match answer {
                Answer::Queued => {
                    self.queued += 1;
                    return seat.dial = Dial::Queued;
                }
                Answer::Refused(_, why) => return self.refuse(now, seat, why),
                Answer::Dial(wish, node) => match self.connect(now, seat, wish, node) {
                    Ok(()) => return,
                    Err(()) => {
                        answer = self.commons.with(|books| books.pools[seat.pool].failed(now, wish, node))
                    }
                },
            }
        }
    }

    /// Opens the private leg to a node.
    fn connect(&mut self, now: Instant, seat: &mut Seat, wish: Wish, node: usize) -> Result<(), ()> {
        let (target, timeout) = self.commons.with(|books| {
            let pool = &books.pools[seat.pool];
            (pool.target(node), pool.dial_timeout(now, &wish, node))
        });
        let target = target.ok_or(())?;
        let target = Target { port: self.errand(seat).node_port.unwrap_or(target.port), ..target };
        let peer = seat.peer.ip().into();
        // A node answers a host of its own network past us: the application, or whoever shows such an address outside.
        let beside = |link: &Link| link.config().addresses.iter().any(|own| own.covers(peer));
        let beside = self.shard.link(target.link).is_some_and(beside);
        let source = match self.pools[seat.pool].transparent && !beside {
            true => Source::Transparent(peer, 0),
            false => Source::Own,
        };
        let until = now + timeout;
        let flow = self.open(now, target, source).map_err(|_| ())?;
        let key = self.flow(flow).and_then(|flow| flow.key()).ok_or(())?;
        seat.leg(Leg::Private).flow = Some((flow, key, target.link));
        self.seats.attach(flow, seat.ticket, Leg::Private);
        self.announce(seat.leg(Leg::Private).flow, true);
        seat.dial = Dial::Connecting(wish, node, until);
        Ok(())
    }

    /// The private leg could not be opened: the next node's turn.
    pub(super) fn dial_failed(&mut self, now: Instant, seat: &mut Seat) {
        if let Dial::Connecting(wish, node, _) = seat.dial {
            seat.dial = Dial::None;
            let answer = self.commons.with(|books| books.pools[seat.pool].failed(now, wish, node));
            self.answer(now, seat, answer);
        }
    }

    /// The private leg is open.
    pub(super) fn connected(&mut self, now: Instant, flow: FlowId) {
        let Some((ticket, leg)) = self.seats.owner(flow) else { return };
        let Some(mut seat) = self.seats.take(ticket) else { return };
        if leg == Leg::Public {
            self.reached(now, &mut seat);
        } else if let Dial::Connecting(_, node, _) = seat.dial {
            seat.dial = Dial::Connected(node, now);
            let backend = self.errand(&seat).backend;
            let name = self.commons.with(|books| {
                if let Some(id) = seat.peer_id {
                    books.settled((seat.pool, id), seat.ticket, node);
                }
                books.pools[seat.pool].connected(node, backend)
            });
            if seat.peer_id.is_none() {
                // A plain listener knows no better proof than this: its handshake is over, and it counts as a session.
                self.standing(now, &mut seat, Standing::Proven);
            }
            self.record(&seat, Happened::Dialled { node: name.unwrap_or_default() });
            seat.session.complete(to_policy(now), Done::Dialled);
        } else if matches!(seat.dial, Dial::Watching(_)) {
            seat.dial = Dial::Watching(true);
            seat.session.complete(to_policy(now), Done::Dialled);
        }
        self.go_on(now, seat);
    }

    /// The node of a session has shown its identity.
    pub(super) fn met(&mut self, seat: &Seat, id: PeerId) {
        if let Some(node) = seat.node() {
            self.commons.with(|books| books.pools[seat.pool].met(node, id));
        }
    }

    /// Gives back the slot, and the place in the queue or the connection in the making.
    pub(super) fn leave_pool(&mut self, now: Instant, seat: &mut Seat) {
        let stage = match seat.dial {
            Dial::None => return,
            Dial::Watching(_) => {
                self.cut(seat, Leg::Private);
                return seat.dial = Dial::None;
            }
            Dial::Challenging(_) => {
                if let Some(id) = seat.peer_id {
                    self.commons.with(|books| books.withdraw((seat.pool, id), seat.ticket));
                }
                return seat.dial = Dial::None;
            }
            Dial::Queued => {
                self.queued -= 1;
                Stage::Queued
            }
            Dial::Connecting(_, node, _) => {
                self.cut(seat, Leg::Private);
                Stage::Dialling(node)
            }
            Dial::Connected(node, _) => Stage::Connected(node),
        };
        if let Some(caller) = &seat.caller {
            self.commons.with(|books| books.pools[seat.pool].leave(now, caller, stage));
        }
        seat.dial = Dial::None;
    }
}
