//! The neighbour table: Ethernet addresses of next hops that we asked for, and of nobody else.
//!
//! States follow RFC 4861, section 7.3, for both families, with these simplifications: no hints from above are taken, so
//! a next hop in use is asked again, by unicast, each time its reachability has run out; the old address serves meanwhile
//! (there is no DELAY state). A next hop that does not answer is remembered as failed for a short time, so that a dead
//! node costs three requests per [`NEGATIVE`] and not three per connection attempt.

use core::time::Duration;

use super::Hop;
use super::rate::Jitter;
use crate::Reason;
use crate::time::Instant;
use crate::wire::{Address, Mac};

/// Requests before a next hop counts as silent (RFC 4861, MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT).
const TRIES: u8 = 3;
/// Time between two requests (RFC 4861, RETRANS_TIMER).
const RETRANSMIT: Duration = Duration::from_secs(1);
/// How long a failure is remembered before the next attempt may ask again.
pub(super) const NEGATIVE: Duration = Duration::from_secs(5);
/// Bounds of the time that an answer counts (RFC 4861: 30 s times 0.5 to 1.5), in milliseconds.
const REACHABLE_MS: (u64, u64) = (15_000, 45_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Asked; no address yet.
    Incomplete { asked: u8, next: Instant },
    /// Answered lately.
    Reachable { until: Instant },
    /// The address may be out of date; asked again on the next use.
    Stale,
    /// In use and being asked again.
    Probing { asked: u8, next: Instant },
    /// Did not answer.
    Failed { until: Instant },
}

#[derive(Clone, Debug)]
struct Neighbour {
    address: Address,
    mac: Mac,
    state: State,
    used: Instant,
}

/// What a neighbour said about itself, in the terms of RFC 4861, section 7.2.5; ARP is translated into them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    /// Whose address it is.
    pub(super) address: Address,
    /// The Ethernet address claimed; `None` where the message named none.
    pub(super) mac: Option<Mac>,
    /// An answer to a request of ours.
    pub(super) solicited: bool,
    /// May replace an address that is known already.
    pub(super) replaces: bool,
}

/// What a neighbour's message changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing: it concerns no next hop of ours.
    None,
    /// It concerns a next hop that is known already, or adds nothing.
    Refreshed,
    /// A next hop that was being asked for can be used now.
    Resolved,
}

/// A request that is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    /// Whose Ethernet address we want.
    pub(super) address: Address,
    /// Where we believe it is; `None`: ask everybody.
    pub(super) mac: Option<Mac>,
}

/// The table: sorted by address, of fixed capacity.
#[derive(Clone, Debug)]
pub(super) struct Neighbours {
    entries: Vec<Neighbour>,
    capacity: usize,
    due: Option<Instant>,
}

impl Neighbours {
    /// An empty table for `capacity` next hops; its memory is taken once.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Neighbours { entries: Vec::with_capacity(capacity), capacity, due: None }
    }

    /// Entries held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The Ethernet address of a next hop that we want to send to; starts asking where it is unknown or old.
    pub(super) fn lookup(&mut self, now: Instant, address: Address) -> Hop {
        let Ok(place) = self.find(address) else {
            self.insert(now, address);
            return Hop::Pending;
        };
        let Some(entry) = self.entries.get_mut(place) else { return Hop::Unroutable(Reason::NoNeighbour) };
        entry.used = now;
        let (state, hop) = match entry.state {
            State::Incomplete { .. } => return Hop::Pending,
            State::Probing { .. } => return Hop::Known(entry.mac),
            State::Reachable { until } if now < until => return Hop::Known(entry.mac),
            State::Reachable { .. } | State::Stale => {
                (State::Probing { asked: 0, next: now }, Hop::Known(entry.mac))
            }
            State::Failed { until } if now < until => return Hop::Unroutable(Reason::NoNeighbour),
            State::Failed { .. } => (State::Incomplete { asked: 0, next: now }, Hop::Pending),
        };
        entry.state = state;
        self.hurry(now);
        hop
    }

    /// Takes in what a neighbour said. Only an existing entry is ever changed.
    pub(super) fn hear(&mut self, now: Instant, heard: Heard, jitter: &mut Jitter) -> Effect {
        let Some(entry) = self.find(heard.address).ok().and_then(|place| self.entries.get_mut(place)) else {
            return Effect::None;
        };
        let reachable = State::Reachable { until: now + jitter.millis(REACHABLE_MS.0, REACHABLE_MS.1) };
        let known = match entry.state {
            State::Incomplete { .. } | State::Failed { .. } => false,
            State::Reachable { .. } | State::Stale | State::Probing { .. } => true,
        };
        // An answer counts as one only while a question is out.
        let solicited =
            heard.solicited && matches!(entry.state, State::Incomplete { .. } | State::Probing { .. });
        let Some(mac) = heard.mac else {
            if known && solicited {
                entry.state = reachable;
            }
            return Effect::Refreshed;
        };
        if !known {
            entry.mac = mac;
            entry.state = if solicited { reachable } else { State::Stale };
            return Effect::Resolved;
        }
        let moved = mac != entry.mac;
        if moved && !heard.replaces {
            if matches!(entry.state, State::Reachable { .. }) {
                entry.state = State::Stale;
            }
            return Effect::Refreshed;
        }
        entry.mac = mac;
        if solicited {
            entry.state = reachable;
        } else if moved {
            entry.state = State::Stale;
        }
        Effect::Refreshed
    }

    /// When [`Neighbours::ask`] has something to say.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    /// Hands out the requests that are due, and gives up on those who did not answer.
    pub(super) fn ask(&mut self, now: Instant, mut send: impl FnMut(Ask)) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        self.due = None;
        for entry in &mut self.entries {
            entry.state = match entry.state {
                State::Incomplete { asked, next } if next <= now && asked < TRIES => {
                    send(Ask { address: entry.address, mac: None });
                    State::Incomplete { asked: asked + 1, next: now + RETRANSMIT }
                }
                State::Incomplete { next, .. } if next <= now => State::Failed { until: now + NEGATIVE },
                State::Probing { asked, next } if next <= now && asked < TRIES => {
                    send(Ask { address: entry.address, mac: Some(entry.mac) });
                    State::Probing { asked: asked + 1, next: now + RETRANSMIT }
                }
                State::Probing { next, .. } if next <= now => {
                    send(Ask { address: entry.address, mac: None });
                    State::Incomplete { asked: 1, next: now + RETRANSMIT }
                }
                state => state,
            };
            if let State::Incomplete { next, .. } | State::Probing { next, .. } = entry.state {
                self.due = Some(self.due.map_or(next, |due| due.min(next)));
            }
        }
    }

    fn find(&self, address: Address) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&address, |entry| entry.address)
    }

    fn hurry(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Adds a next hop, where the table is full in place of the one that was used least lately: of those that have not answered,
    /// if there are any, so that nobody who asks for one address after the other displaces those that are there.
    fn insert(&mut self, now: Instant, address: Address) {
        if self.entries.len() >= self.capacity {
            let answered = |state| !matches!(state, State::Incomplete { .. } | State::Failed { .. });
            let place = |(_, entry): &(usize, &Neighbour)| (answered(entry.state), entry.used);
            let oldest = self.entries.iter().enumerate().min_by_key(place);
            if let Some(place) = oldest.map(|(place, _)| place) {
                self.entries.remove(place);
            }
        }
        let place = self.find(address).unwrap_or_else(|place| place);
        let state = State::Incomplete { asked: 0, next: now };
        self.entries.insert(place, Neighbour { address, mac: Mac::default(), state, used: now });
        self.hurry(now);
    }
}
