//! What is in force, and what peers did: bans and the policy as this core has them, slots, complaints, records.

use std::sync::Arc;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_policy::chia::NodeType;
use hedgerow_policy::rules::{Action, Enforcement, Response, Who};
use hedgerow_policy::{Leg, Standing, verdict};

use super::Core;
use super::denials::Denials;
use super::pump::KNOWN_AFTER;
use super::seats::{Dial, Seat};
use crate::bans::{Bans, score};
use crate::rules::InForce;
use crate::rules::slots::Class;
use crate::rules::swap::Reader;
use crate::rules::witness::Witness;

/// Sessions that a new policy is handed to in one round, where those that stand are to be judged by it.
const ADOPTED_A_ROUND: usize = 64;

/// What is in force, as this core has it.
pub(super) struct Enforced {
    bans: Arc<Bans>,
    reader: Reader,
    current: Arc<InForce>,
    /// What the ports know of who is denied.
    denials: Denials,
}

impl Enforced {
    /// Whether what is decided is carried out.
    fn is_shadow(&self) -> bool {
        let policy = self.current.policy.as_ref();
        policy.is_some_and(|policy| policy.rules.enforcement() == Enforcement::Shadow)
    }
}

impl<P: Port> Core<P> {
    /// Refuses who is banned and goes by the policy from now on, and reports who should be banned.
    pub fn enforce(&mut self, bans: Arc<Bans>) {
        let reader = bans.swap().reader(self.number);
        self.bans = Some(Enforced { bans, reader, current: Arc::default(), denials: Denials::default() });
        self.take_in_force();
    }

    /// Takes what is in force if it has changed: one atomic load where it has not. All of it changes between two batches.
    pub(super) fn take_in_force(&mut self) {
        let Some(enforced) = &mut self.bans else { return };
        let Some(new) = enforced.bans.swap().take(&mut enforced.reader) else { return };
        let former = std::mem::replace(&mut enforced.current, new.clone());
        let shadow = enforced.is_shadow();
        let list = if shadow { Arc::default() } else { new.deny.clone() };
        let ends = new.ends.clone().filter(|_| !shadow);
        if let Some(sockets) = &mut self.sockets {
            sockets.set_deny(list.clone(), ends.clone());
        }
        self.shard.set_deny(list.clone(), ends);
        enforced.denials.aim(list);
        if let Some(policy) = new.policy.as_ref().filter(|_| new.number != former.number) {
            self.shard.set_friends(policy.friends.clone());
            self.sockets.iter_mut().for_each(|sockets| sockets.set_friends(policy.friends.clone()));
            if let Some(quotas) = &policy.quotas {
                self.shard.set_quotas(quotas);
                self.sockets.iter_mut().for_each(|sockets| sockets.set_quotas(quotas));
            }
            self.sessions.adopt(policy);
            self.adopting = if new.now { self.tickets() } else { Vec::new() };
        }
        if let Some(enforced) = &self.bans {
            enforced.bans.swap().taken(&enforced.reader);
        }
    }

    /// Tells the ports of some more prefixes that are denied, or no longer.
    pub(super) fn tell_denials(&mut self, now: Instant) {
        let Some(enforced) = &mut self.bans else { return };
        let ports = &mut self.ports;
        enforced
            .denials
            .tell(now, |prefix, on| ports.iter_mut().for_each(|attached| attached.port.deny(prefix, on)));
    }

    /// When there is more to tell them. No session waits for it, so it is no [`Core::deadline`].
    pub fn denials_due(&self) -> Option<Instant> {
        self.bans.as_ref().and_then(|enforced| enforced.denials.due())
    }

    /// Hands the policy in force to some of the sessions that stand, where the operator wants that.
    pub(super) fn go_on_adopting(&mut self) {
        let Some(policy) = self.bans.as_ref().and_then(|enforced| enforced.current.policy.clone()) else {
            return;
        };
        for _ in 0..ADOPTED_A_ROUND {
            let Some(ticket) = self.adopting.pop() else { return };
            if let Some(seat) = self.seats.get(ticket) {
                seat.session.adopt(&policy.rules);
                self.mark(ticket);
            }
        }
    }

    /// Tells what was decided and not carried out.
    pub fn testify(&mut self, witness: Arc<Witness>) {
        self.witness = Some(witness);
    }

    /// In shadow, counts whom a ban or a list would have refused: once per connection, when its peer is proven.
    pub(super) fn count_denied(&self, seat: &Seat) {
        let Some(enforced) = self.bans.as_ref().filter(|enforced| enforced.is_shadow()) else { return };
        if enforced.current.deny.refuses(seat.peer.ip().into(), self.number) {
            self.would_refuse(seat, hedgerow_dataplane::Reason::Banned.name(), None);
        }
    }

    fn would_refuse(&self, seat: &Seat, reason: &'static str, kind: Option<NodeType>) {
        let Some(witness) = &self.witness else { return };
        let (listener, source) = (seat.listener as u16, seat.peer.ip());
        let who = Who { listener, source, id: seat.peer_id, kind, version: None };
        witness.tell(&who, reason, None, Response { action: Action::Close, shadow: true });
    }

    /// Takes a slot of the session's listener for it; false if there is none.
    pub(super) fn take_slot(&mut self, seat: &mut Seat, kind: Option<NodeType>) -> bool {
        let Some(policy) = self.bans.as_ref().and_then(|enforced| enforced.current.policy.as_ref()) else {
            return true;
        };
        let class = match (seat.standing, kind) {
            (Standing::Reserved, _) => Class::Friend,
            (_, Some(kind)) => Class::Kind(kind),
            (_, None) => return true,
        };
        let listeners: Vec<usize> =
            (0..self.listeners.len()).filter(|&at| self.listeners[at].0 == seat.pool).collect();
        let room = self.pools.get(seat.pool).map_or(usize::MAX, |pool| pool.slots);
        let taken = self
            .commons
            .with(|books| books.slots.take(&policy.slots, seat.listener, class, (&listeners, room)));
        let shadow = policy.rules.enforcement() == Enforcement::Shadow;
        seat.slot = taken.then_some(class);
        if !taken && shadow {
            self.would_refuse(seat, verdict::Reason::SlotsTaken.name(), kind);
        }
        taken || shadow
    }

    /// Gives a session's slot back.
    pub(super) fn give_slot(&mut self, seat: &mut Seat) {
        if let Some(class) = seat.slot.take() {
            self.commons.with(|books| books.slots.give(seat.listener, class));
        }
    }

    /// A peer was useful: others go before it where slots are short.
    pub(super) fn credit(&mut self, now: Instant, seat: &Seat, points: u32) {
        if let Some((flow, ..)) = seat.legs[Leg::Public as usize].flow {
            self.credit_flow(now, flow, points);
        }
        self.commons.with(|books| books.pools[seat.pool].credit(now, seat.ticket, points));
    }

    /// A session is over: what its peer did counts for its address, once TLS is through. Nothing is ever written about an
    /// address that has returned no more than a cookie.
    pub(super) fn judge(&mut self, now: Instant, seat: &mut Seat, reason: verdict::Reason) {
        if seat.standing != Standing::Proven {
            return;
        }
        let penalty = seat.session.penalty();
        if penalty.is_some() || score::points(reason) > 0 {
            let enforced = self.bans.as_ref().filter(|enforced| !enforced.is_shadow());
            match (enforced, penalty) {
                (Some(Enforced { bans, .. }), Some(time)) => bans.punish(seat.peer.ip(), reason, time),
                (Some(Enforced { bans, .. }), None) => bans.complain(seat.peer.ip(), reason),
                (None, _) => {}
            }
        } else if let Dial::Connected(_, since) = seat.dial
            && now.since(since) >= KNOWN_AFTER
            && let Some((flow, ..)) = seat.legs[Leg::Public as usize].flow
        {
            self.commend(flow);
        }
    }
}
