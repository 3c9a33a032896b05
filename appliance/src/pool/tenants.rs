//! Who holds a pool's slots, and who gives one up for a newcomer when none is left.
//!
//! The rule is that of eviction after Finished ([`roster`](hedgerow_dataplane::admit::roster)), among sessions of one kind:
//! kept are friends, the oldest, the most useful, and the diversity of prefixes. Where a pool as a whole is full, the kind
//! with the most sessions gives way to one that has none to give. One slot changes hands in a second at most, so that a
//! flood of valid newcomers wears nobody out; and only who has shown an identity may ask for one.

use std::collections::BTreeMap;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::roster::{Roster, Seat};
use hedgerow_policy::chia::NodeType;

use super::{Caller, Ticket};

/// How often a slot changes hands at most.
const EVERY: Duration = Duration::from_secs(1);
/// The networks whose diversity counts, as in the dataplane.
const WIDE: (u8, u8) = (16, 32);

type Kind = Option<NodeType>;

/// The sessions that hold a slot and may be asked to give it up.
pub(super) struct Tenants {
    slots: usize,
    seed: [u8; 16],
    kinds: BTreeMap<Kind, Roster<Ticket>>,
    seats: BTreeMap<Ticket, (Kind, Seat)>,
    /// When the next slot may change hands.
    next: Instant,
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenants").field("seats", &self.seats.len()).finish_non_exhaustive()
    }
}

impl Tenants {
    /// Nobody, of so many slots.
    pub(super) fn new(slots: usize, seed: [u8; 16]) -> Tenants {
        let (kinds, seats) = (BTreeMap::new(), BTreeMap::new());
        Tenants { slots, seed, kinds, seats, next: Instant::ZERO }
    }

    /// A session takes a slot. Those of friends and of the application are their own, and nobody asks for one of a session
    /// without an identity: plain listeners pay nothing for this.
    pub(super) fn enter(&mut self, now: Instant, caller: &Caller) {
        let apart = caller.friend || caller.backend || caller.peer.is_none();
        if apart || self.seats.contains_key(&caller.ticket) {
            return;
        }
        let (slots, seed) = (self.slots, self.seed);
        let roster = self.kinds.entry(caller.kind).or_insert_with(|| Roster::new(slots, seed));
        let prefix = caller.source.prefix(if caller.source.is_v4() { WIDE.0 } else { WIDE.1 });
        let seat = roster.enter(now, caller.ticket, prefix);
        self.seats.insert(caller.ticket, (caller.kind, seat));
    }

    /// It gives it back.
    pub(super) fn leave(&mut self, now: Instant, ticket: Ticket) {
        if let Some((kind, seat)) = self.seats.remove(&ticket)
            && let Some(roster) = self.kinds.get_mut(&kind)
        {
            roster.leave(now, seat);
        }
    }

    /// Its peer was useful.
    pub(super) fn credit(&mut self, now: Instant, ticket: Ticket, points: u32) {
        if let Some(&(kind, seat)) = self.seats.get(&ticket)
            && let Some(roster) = self.kinds.get_mut(&kind)
        {
            roster.credit(now, seat, points);
        }
    }

    /// Who has to go for a newcomer: one of its kind, or where `any` will do and its kind has none, one of the commonest.
    /// The newcomer has entered then, and the other one has left. `None` where it is the newcomer that cannot stay.
    pub(super) fn displace(&mut self, now: Instant, newcomer: &Caller, any: bool) -> Option<Ticket> {
        if newcomer.peer.is_none() || newcomer.backend || now < self.next {
            return None;
        }
        self.enter(now, newcomer);
        let own = self.seats.get(&newcomer.ticket).map(|(_, seat)| *seat);
        let commonest = self.kinds.iter().max_by_key(|(_, roster)| roster.len()).map(|(kind, _)| *kind);
        let alone =
            self.kinds.get(&newcomer.kind).is_none_or(|roster| roster.len() <= usize::from(own.is_some()));
        let (kind, seat) = match commonest.filter(|_| any && alone) {
            Some(other) => (other, None),
            None => (newcomer.kind, own),
        };
        let victim = self.kinds.get_mut(&kind).and_then(|roster| roster.victim(now, seat));
        let Some((_, victim)) = victim.filter(|(_, who)| *who != newcomer.ticket) else {
            self.leave(now, newcomer.ticket);
            return None;
        };
        self.leave(now, victim);
        self.next = now + EVERY;
        Some(victim)
    }
}
