//! Who keeps a slot when more have finished their handshake than there are slots: the rule of eviction after Finished.
//!
//! # The rule
//!
//! Whoever enters when all slots are taken displaces a member, or is turned away itself. Kept are
//!
//! 1. **friends**: they never enter a roster, so nobody can displace them;
//! 2. **the long-lived**: the oldest quarter of the slots, of those who have been there for an hour;
//! 3. **the useful**: the quarter with the most points, of those who have any. The host gives points for what a peer is
//!    first to bring and for quick answers; they halve every hour, so that nobody lives on old merits;
//! 4. **the diversity of prefixes**: of all others, the youngest of the largest prefix (IPv4 /16, IPv6 /32) goes; among
//!    prefixes of one size, one at random. The newcomer counts for its own prefix, and goes itself only where that prefix is
//!    larger than every other one.
//!
//! So an attacker with one prefix, however wide, displaces only itself; one with many prefixes can fill no more than it can
//! keep filling, since each newcomer takes a place at random from among the fullest; and what protects is bounded: half of
//! the slots are never protected, so they cannot be held for ever by being polite, old and first.
//!
//! # Cost
//!
//! Entering, leaving and choosing a victim touch a constant number of members; points and protection cost a logarithm of
//! the slots. All tables but the lists of equally large prefixes are taken at start, and those hold each prefix once.

use core::time::Duration;
use std::collections::BTreeSet;

use super::ledger::{Ledger, Vacant};
use super::random::Random;
use crate::time::Instant;
use crate::wire::Address;

/// From this age on a member may be protected as long-lived.
const LONG: Duration = Duration::from_secs(3_600);
/// Points halve in this time.
const HALF_LIFE: Duration = Duration::from_secs(3_600);
/// The part of the slots, as a divisor, that each kind of protection covers at most.
const PART: usize = 4;
/// No member, no group.
const NONE: u32 = u32::MAX;

/// Points on a scale that grows as time passes: the logarithm of their sum, each weighed by when it was given. Those who
/// stand above another stay above it until new points are given, so nothing has to be counted down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Merit(i64);

impl Merit {
    const NOTHING: Merit = Merit(i64::MIN);
    /// Steps per doubling.
    const SCALE: f64 = 1_048_576.0;

    fn plus(self, now: Instant, points: u32) -> Merit {
        if points == 0 {
            return self;
        }
        let age = now.micros() as f64 / HALF_LIFE.as_micros() as f64;
        let given = f64::from(points).log2() + age;
        if self == Merit::NOTHING {
            return Merit((given * Self::SCALE) as i64);
        }
        let held = self.0 as f64 / Self::SCALE;
        let (high, low) = if given > held { (given, held) } else { (held, given) };
        Merit(((high + (1.0 + (low - high).exp2()).log2()) * Self::SCALE) as i64)
    }
}

/// A member's place in a [`Roster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seat(u32);

#[derive(Clone, Copy)]
struct Member<T> {
    who: T,
    prefix: Address,
    since: Instant,
    merit: Merit,
    elder: bool,
    useful: bool,
    /// Its group, while nothing protects it.
    group: u32,
    /// Neighbours in the group, by age.
    before: u32,
    after: u32,
    /// Neighbours among all members, by age.
    older: u32,
    younger: u32,
}

/// The unprotected members of a prefix.
#[derive(Clone, Copy)]
struct Group {
    prefix: Address,
    count: u32,
    oldest: u32,
    youngest: u32,
    /// Its place among the groups of its size.
    place: u32,
}

/// Where the group of a prefix is.
#[derive(Clone, Copy)]
struct At(u32);

impl Default for At {
    fn default() -> Self {
        At(NONE)
    }
}

impl Vacant for At {
    fn vacant(&self) -> bool {
        self.0 == NONE
    }
}

/// Members of a set of slots. See the [module](self).
pub struct Roster<T> {
    members: Vec<Option<Member<T>>>,
    free: Vec<u32>,
    groups: Vec<Group>,
    free_groups: Vec<u32>,
    index: Ledger<At>,
    /// Groups by their size, less one.
    sizes: Vec<Vec<u32>>,
    /// The largest size.
    largest: usize,
    oldest: u32,
    youngest: u32,
    /// The youngest of the long-lived; they are the oldest of all.
    last_elder: u32,
    elders: usize,
    useful: BTreeSet<(Merit, u32)>,
    part: usize,
    random: Random,
}

impl<T: Copy + PartialEq> Roster<T> {
    /// A roster for `slots` members; one more may be there until its victim is struck out. `seed` decides between equals.
    pub fn new(slots: usize, seed: [u8; 16]) -> Self {
        Roster {
            members: Vec::with_capacity(slots + 1),
            free: Vec::with_capacity(slots + 1),
            groups: Vec::with_capacity(slots + 1),
            free_groups: Vec::with_capacity(slots + 1),
            index: Ledger::new(slots + 1, seed),
            sizes: Vec::new(),
            largest: 0,
            oldest: NONE,
            youngest: NONE,
            last_elder: NONE,
            elders: 0,
            useful: BTreeSet::new(),
            part: slots / PART,
            random: Random::new(seed),
        }
    }

    /// Members.
    pub fn len(&self) -> usize {
        self.members.len() - self.free.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Members that are protected as long-lived and as useful; some as both.
    pub fn protected(&self) -> (usize, usize) {
        (self.elders, self.useful.len())
    }

    /// Enters `who`, whose slot counts for `prefix`.
    pub fn enter(&mut self, now: Instant, who: T, prefix: Address) -> Seat {
        let member = Member {
            who,
            prefix,
            since: now,
            merit: Merit::NOTHING,
            elder: false,
            useful: false,
            group: NONE,
            before: NONE,
            after: NONE,
            older: self.youngest,
            younger: NONE,
        };
        let seat = match self.free.pop() {
            Some(seat) => seat,
            None => {
                self.members.push(None);
                self.members.len() as u32 - 1
            }
        };
        self.members[seat as usize] = Some(member);
        self.change(self.youngest, |elder| elder.younger = seat);
        self.youngest = seat;
        if self.oldest == NONE {
            self.oldest = seat;
        }
        self.join(seat);
        self.promote(now);
        Seat(seat)
    }

    /// Strikes a member out.
    pub fn leave(&mut self, now: Instant, seat: Seat) {
        let Seat(seat) = seat;
        let Some(member) = self.member(seat) else { return };
        self.part_from_group(seat);
        if member.useful {
            self.useful.remove(&(member.merit, seat));
        }
        if member.elder {
            self.elders -= 1;
            if self.last_elder == seat {
                self.last_elder = member.older;
            }
        }
        self.change(member.older, |other| other.younger = member.younger);
        self.change(member.younger, |other| other.older = member.older);
        if self.oldest == seat {
            self.oldest = member.younger;
        }
        if self.youngest == seat {
            self.youngest = member.older;
        }
        self.members[seat as usize] = None;
        self.free.push(seat);
        self.promote(now);
    }

    /// Gives a member points.
    pub fn credit(&mut self, now: Instant, seat: Seat, points: u32) {
        let Seat(seat) = seat;
        let Some(member) = self.member(seat) else { return };
        let merit = member.merit.plus(now, points);
        if member.useful {
            self.useful.remove(&(member.merit, seat));
            self.useful.insert((merit, seat));
        }
        self.change(seat, |member| member.merit = merit);
        if member.useful || self.part == 0 || merit == Merit::NOTHING {
            return;
        }
        if self.useful.len() == self.part {
            let Some(&(least, loser)) = self.useful.first() else { return };
            if least >= merit {
                return;
            }
            self.useful.pop_first();
            self.change(loser, |member| member.useful = false);
            self.rejoin(loser);
        }
        self.useful.insert((merit, seat));
        self.change(seat, |member| member.useful = true);
        self.part_from_group(seat);
    }

    /// Who has to go for `newcomer`, which has just entered; for `None`, for somebody who never goes. The victim stays in until
    /// [`Roster::leave`]. `None` where everybody is protected.
    pub fn victim(&mut self, now: Instant, newcomer: Option<Seat>) -> Option<(Seat, T)> {
        self.promote(now);
        let own = newcomer.and_then(|Seat(seat)| self.member(seat)).map_or(NONE, |member| member.group);
        let fullest = self.sizes.get(self.largest.checked_sub(1)?)?;
        let count = fullest.len();
        let start = self.random.below(count);
        let other = (0..count.min(2)).map(|step| fullest[(start + step) % count]);
        let group = other.into_iter().find(|&group| group != own).unwrap_or(own);
        let seat = self.groups.get(group as usize)?.youngest;
        self.member(seat).map(|victim| (Seat(seat), victim.who))
    }

    fn member(&self, seat: u32) -> Option<Member<T>> {
        self.members.get(seat as usize).copied().flatten()
    }

    fn change(&mut self, seat: u32, change: impl FnOnce(&mut Member<T>)) {
        if let Some(Some(member)) = self.members.get_mut(seat as usize) {
            change(member);
        }
    }

    /// Lets the oldest pass into the protection of age, as far as there is room.
    fn promote(&mut self, now: Instant) {
        while self.elders < self.part {
            let next = match self.member(self.last_elder) {
                Some(last) => last.younger,
                None => self.oldest,
            };
            let Some(member) = self.member(next) else { return };
            if now.since(member.since) < LONG {
                return;
            }
            self.part_from_group(next);
            self.change(next, |member| member.elder = true);
            self.last_elder = next;
            self.elders += 1;
        }
    }

    /// Adds a member, the youngest of its prefix, to its group.
    fn join(&mut self, seat: u32) {
        let Some(member) = self.member(seat) else { return };
        let group = self.group_of(member.prefix);
        let last = self.groups[group as usize].youngest;
        self.change(last, |other| other.after = seat);
        self.change(seat, |member| (member.group, member.before, member.after) = (group, last, NONE));
        let place = &mut self.groups[group as usize];
        place.youngest = seat;
        place.oldest = if place.oldest == NONE { seat } else { place.oldest };
        self.resize(group, true);
    }

    /// Adds a member that has lost its protection to its group, as the oldest: what it did is not forgotten at once.
    fn rejoin(&mut self, seat: u32) {
        let Some(member) = self.member(seat) else { return };
        if member.elder || member.useful {
            return;
        }
        let group = self.group_of(member.prefix);
        let Group { oldest, youngest, .. } = self.groups[group as usize];
        self.change(oldest, |other| other.before = seat);
        self.change(seat, |member| (member.group, member.before, member.after) = (group, NONE, oldest));
        let place = &mut self.groups[group as usize];
        place.oldest = seat;
        place.youngest = if youngest == NONE { seat } else { youngest };
        self.resize(group, true);
    }

    /// Takes a member out of its group, if it is in one.
    fn part_from_group(&mut self, seat: u32) {
        let Some(member) = self.member(seat).filter(|member| member.group != NONE) else { return };
        self.change(member.before, |other| other.after = member.after);
        self.change(member.after, |other| other.before = member.before);
        let group = &mut self.groups[member.group as usize];
        if group.youngest == seat {
            group.youngest = member.before;
        }
        if group.oldest == seat {
            group.oldest = member.after;
        }
        self.change(seat, |member| (member.group, member.before, member.after) = (NONE, NONE, NONE));
        self.resize(member.group, false);
    }

    /// The group of a prefix; an empty one is made.
    fn group_of(&mut self, prefix: Address) -> u32 {
        let At(at) = self.index.get(prefix);
        if at != NONE {
            return at;
        }
        let group = Group { prefix, count: 0, oldest: NONE, youngest: NONE, place: NONE };
        let at = match self.free_groups.pop() {
            Some(at) => {
                self.groups[at as usize] = group;
                at
            }
            None => {
                self.groups.push(group);
                self.groups.len() as u32 - 1
            }
        };
        self.index.set(prefix, At(at));
        at
    }

    /// Moves a group among those of its new size; an empty one is forgotten.
    fn resize(&mut self, at: u32, grows: bool) {
        let Group { prefix, count, place, .. } = self.groups[at as usize];
        if count > 0 {
            let peers = &mut self.sizes[count as usize - 1];
            peers.swap_remove(place as usize);
            if let Some(&moved) = peers.get(place as usize) {
                self.groups[moved as usize].place = place;
            }
        }
        let count = if grows { count + 1 } else { count - 1 };
        self.groups[at as usize].count = count;
        if count == 0 {
            self.index.set(prefix, At::default());
            self.free_groups.push(at);
        } else {
            if self.sizes.len() < count as usize {
                self.sizes.push(Vec::new());
            }
            let peers = &mut self.sizes[count as usize - 1];
            self.groups[at as usize].place = peers.len() as u32;
            peers.push(at);
        }
        // By one either way, so the largest is never searched for.
        self.largest = self.largest.max(count as usize);
        if self.largest > 0 && self.sizes[self.largest - 1].is_empty() {
            self.largest -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
