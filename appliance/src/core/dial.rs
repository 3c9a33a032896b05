//! The way to a node: identities that are unique per pool, turns, pace, failures.

use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::shard::{FlowId, Source};
use hedgerow_policy::{DialFailure, Done, Leg, PeerId, Standing, verdict};

use super::seats::{Dial, Seat};
use super::{Core, Happened, to_policy};
use crate::pool::{Answer, Ticket, Wish};

/// How long the holder of an identity has to answer while another source shows the same one.
const PROBE: Duration = Duration::from_secs(5);

/// Whether a session may use its identity.
enum Claim {
    Granted,
    /// The holder is being asked for a sign of life.
    Waits,
    Refused,
}

impl<P: Port> Core<P> {
    /// A session asks for a node.
    pub(super) fn dial(&mut self, now: Instant, seat: &mut Seat, peer: Option<PeerId>) {
        // A session dials once: its identity is given back when it ends, and there is but one.
        if !matches!(seat.dial, Dial::None) || seat.asked {
            return;
        }
        seat.asked = true;
        seat.peer_id = peer;
        let Some(id) = peer else { return self.ask(now, seat) };
        if self.own_nodes.contains(&id) || self.pools.iter().any(|pool| pool.has_met(id)) {
            return self.refuse(now, seat, DialFailure::OwnNode);
        }
        match self.claim(now, seat, id) {
            Claim::Granted => self.ask(now, seat),
            Claim::Waits => {}
            Claim::Refused => self.refuse(now, seat, DialFailure::Duplicate),
        }
    }

    fn refuse(&mut self, now: Instant, seat: &mut Seat, why: DialFailure) {
        seat.dial = Dial::None;
        seat.session.complete(to_policy(now), Done::DialFailed(why));
    }

    /// Takes an identity for a session. From the same address the newer session wins; otherwise the holder keeps it for
    /// as long as it is alive, and one challenger at a time may wait for that to be found out.
    fn claim(&mut self, now: Instant, seat: &mut Seat, id: PeerId) -> Claim {
        let key = (seat.pool, id);
        let holder = self.holders.get(&key).copied();
        let Some(other) = holder.and_then(|ticket| self.seats.get(ticket)) else {
            self.holders.insert(key, seat.ticket);
            return Claim::Granted;
        };
        let ticket = other.ticket;
        if other.peer.ip() == seat.peer.ip() {
            self.end(now, ticket, verdict::Reason::Replaced);
            self.holders.insert(key, seat.ticket);
            return Claim::Granted;
        }
        if other.challenger.is_some() {
            return Claim::Refused;
        }
        other.challenger = Some((seat.ticket, now));
        other.session.probe(to_policy(now));
        seat.dial = Dial::Challenging(ticket, now + PROBE);
        self.mark(ticket);
        Claim::Waits
    }

    /// The holder of an identity has spoken: who waited for its silence is refused.
    pub(super) fn answer_challenger(&mut self, now: Instant, seat: &mut Seat) {
        let Some((challenger, since)) = seat.challenger else { return };
        if seat.session.heard() <= to_policy(since) {
            return;
        }
        seat.challenger = None;
        if let Some(other) = self.seats.get(challenger)
            && matches!(other.dial, Dial::Challenging(holder, _) if holder == seat.ticket)
        {
            other.dial = Dial::None;
            other.session.complete(to_policy(now), Done::DialFailed(DialFailure::Duplicate));
            self.mark(challenger);
        }
    }

    /// A session is over: its identity is free, and who waited for it is next.
    pub(super) fn release_identity(&mut self, now: Instant, seat: &mut Seat) {
        if let Some(id) = seat.peer_id
            && self.holders.get(&(seat.pool, id)) == Some(&seat.ticket)
        {
            self.holders.remove(&(seat.pool, id));
        }
        if let Some((challenger, _)) = seat.challenger.take() {
            self.challenge_won(now, challenger);
        }
    }

    fn challenge_won(&mut self, now: Instant, challenger: Ticket) {
        // It is looked at by the next turn of the timers, with nothing else taken out.
        if let Some(mut seat) = self.seats.take(challenger) {
            if let Dial::Challenging(holder, _) = seat.dial {
                seat.dial = Dial::Challenging(holder, now);
                self.seats.arm(&mut seat);
            }
            self.seats.put(seat);
        }
    }

    /// What the host waits for on a session's behalf has taken too long.
    pub(super) fn dial_timers(&mut self, now: Instant, seat: &mut Seat) {
        match seat.dial {
            Dial::Challenging(holder, until) if until <= now => {
                seat.dial = Dial::None;
                if let Some(silent) = self.seats.get(holder) {
                    silent.challenger = None;
                    self.end(now, holder, verdict::Reason::Replaced);
                }
                seat.asked = false;
                self.dial(now, seat, seat.peer_id);
            }
            Dial::Connecting(_, _, until) if until <= now => {
                self.cut(seat, Leg::Private);
                self.dial_failed(now, seat);
            }
            _ => {}
        }
    }

    /// Those who waited in a pool and whose turn has come.
    pub(super) fn poll_pools(&mut self, now: Instant) {
        for index in 0..self.pools.len() {
            while let Some(answer) = self.pools[index].poll(now) {
                let (Answer::Dial(Wish { ticket, .. }, _) | Answer::Refused(ticket, _)) = answer else {
                    continue;
                };
                if let Some(mut seat) = self.seats.take(ticket) {
                    self.answer(now, &mut seat, answer);
                    self.go_on(now, seat);
                }
            }
        }
    }

    fn ask(&mut self, now: Instant, seat: &mut Seat) {
        let answer = self.pools[seat.pool].ask(now, seat.ticket, seat.peer_id, seat.peer.is_ipv4());
        self.answer(now, seat, answer);
    }

    fn answer(&mut self, now: Instant, seat: &mut Seat, mut answer: Answer) {
        loop {
            match answer {
                Answer::Queued => return seat.dial = Dial::Queued,
                Answer::Refused(_, why) => return self.refuse(now, seat, why),
                Answer::Dial(wish, node) => match self.connect(now, seat, wish, node) {
                    Ok(()) => return,
                    Err(()) => answer = self.pools[seat.pool].failed(now, wish, node),
                },
            }
        }
    }

    /// Opens the private leg to a node.
    fn connect(&mut self, now: Instant, seat: &mut Seat, wish: Wish, node: usize) -> Result<(), ()> {
        let config = self.pools[seat.pool].config();
        let target = config.nodes.get(node).ok_or(())?.target;
        let source = match config.transparent {
            true => Source::Transparent(seat.peer.ip().into(), 0),
            false => Source::Own,
        };
        let until = now + config.dial_timeout;
        let flow = self.shard.connect(now, target, source).map_err(|_| ())?;
        let key = self.shard.flow(flow).map(|flow| flow.key()).ok_or(())?;
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
            let answer = self.pools[seat.pool].failed(now, wish, node);
            self.answer(now, seat, answer);
        }
    }

    /// The private leg is open.
    pub(super) fn connected(&mut self, now: Instant, flow: FlowId) {
        let Some((ticket, _)) = self.seats.owner(flow) else { return };
        let Some(mut seat) = self.seats.take(ticket) else { return };
        if let Dial::Connecting(_, node, _) = seat.dial {
            seat.dial = Dial::Connected(node, now);
            self.pools[seat.pool].connected(node);
            if seat.peer_id.is_none() {
                // A plain listener knows no better proof than this: its handshake is over, and it counts as a session.
                self.standing(&mut seat, Standing::Proven);
            }
            self.record(&seat, Happened::Dialled { pool: seat.pool, node });
            seat.session.complete(to_policy(now), Done::Dialled);
        }
        self.go_on(now, seat);
    }

    /// The node of a session has shown its identity.
    pub(super) fn met(&mut self, seat: &Seat, id: PeerId) {
        if let Dial::Connected(node, _) = seat.dial {
            self.pools[seat.pool].met(node, id);
        }
    }

    /// Gives back the slot, and the place in the queue or the connection in the making.
    pub(super) fn leave_pool(&mut self, seat: &mut Seat) {
        let node = match seat.dial {
            Dial::None => return,
            Dial::Challenging(holder, _) => {
                // Another may try.
                if let Some(holder) = self.seats.get(holder) {
                    holder.challenger = None;
                }
                return seat.dial = Dial::None;
            }
            Dial::Queued => None,
            Dial::Connecting(..) => {
                self.cut(seat, Leg::Private);
                None
            }
            Dial::Connected(node, _) => Some(node),
        };
        self.pools[seat.pool].leave(seat.ticket, node);
        seat.dial = Dial::None;
    }
}
