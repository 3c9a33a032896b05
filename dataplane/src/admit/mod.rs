//! Who may own a flow, and who keeps it.
//!
//! # Before Finished
//!
//! Whoever returns a cookie is a stranger. It gets a flow if its source (IPv4 /32, IPv6 /64), its prefixes (/24 and /16, /48
//! and /32) and its listener hold fewer than they may, and if its source, its /24 or /48 and the appliance have not begun
//! more sessions than their pace allows. Strangers have a deadline that shrinks as they fill their room up; when it is full
//! a random one of the fullest /16 or /32 goes. Counts hold for the whole appliance ([`Census`]); each shard evicts among its
//! own flows.
//!
//! # After Finished
//!
//! Whoever finished the handshake moves from the strangers' room into the others. If all of that is taken, the rule of
//! [`roster`] says who goes: never friends, the long-lived or the useful, and of the others the youngest of the largest
//! prefix, which may be the newcomer. Some of the room is kept: the last `friends_percent` for friends, and before that
//! `known_percent` for sources with a record, so that no crowd of fresh addresses can take it. Quotas and paces do not hold
//! for friends; the pace of all together holds for no source with a record.
//!
//! Bytes are a matter of pace, too: a source, or its /24 or /48, that exchanges more in a second than it may is not refused but
//! held back ([`Admission::moved`]).
//!
//! # What it costs
//!
//! All tables are taken at start. No operation looks at all flows, but for the choice among strangers where a few draws do
//! not find one of the fullest prefix: then those are gone through once.

mod census;
mod ledger;
mod random;
pub mod roster;

use core::time::Duration;
use std::sync::Arc;

pub use census::Census;
use census::prefix;
use ledger::Ledger;
use random::Random;
use roster::{Roster, Seat};

use crate::Reason;
use crate::shard::{FlowId, ListenerId, Standing};
use crate::time::Instant;
use crate::wire::{Address, PrefixSet};

/// Limits of an [`Admission`]. Those of sources, prefixes, listeners and paces hold for all shards together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows of the shard in all, those that we opened included.
    pub flows: u32,
    /// Flows from one IPv4 address.
    pub per_source: u32,
    /// Flows from one IPv4 /24.
    pub per_24: u32,
    /// Percentage of all flows from one IPv4 /16 or IPv6 /32.
    pub per_16_percent: u32,
    /// Flows from one IPv6 /64.
    pub v6_64: u32,
    /// Flows from one IPv6 /48.
    pub v6_48: u32,
    /// Flows to one listener.
    pub per_listener: u32,
    /// Flows of the shard whose peer is still a stranger.
    pub handshakes_in_flight: u32,
    /// How long a stranger may take while at most half of the handshakes are in flight.
    pub handshake_longest: Duration,
    /// How long a stranger may take when all handshakes are in flight.
    pub handshake_shortest: Duration,
    /// Sessions that one IPv4 address or IPv6 /64 may begin in a minute; zero: any number.
    pub source_per_minute: u32,
    /// Sessions that one IPv4 /24 or IPv6 /48 may begin in a minute; zero: any number.
    pub prefix_per_minute: u32,
    /// Sessions that may begin in a second; zero: any number.
    pub sessions_per_second: u32,
    /// Bytes that one IPv4 address or IPv6 /64 may exchange with us in a second, both ways together; zero: any number.
    pub source_bytes: u32,
    /// Bytes that one IPv4 /24 or IPv6 /48 may exchange with us in a second, both ways together; zero: any number.
    pub prefix_bytes: u32,
    /// Percentage of the flows that only friends may take.
    pub friends_percent: u32,
    /// Percentage of the flows that only friends and sources with a record may take.
    pub known_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            flows: 4_096,
            per_source: 16,
            per_24: 32,
            per_16_percent: 12,
            v6_64: 4,
            v6_48: 16,
            per_listener: u32::MAX,
            handshakes_in_flight: 256,
            handshake_longest: Duration::from_secs(15),
            handshake_shortest: Duration::from_secs(3),
            source_per_minute: 0,
            prefix_per_minute: 0,
            sessions_per_second: 0,
            source_bytes: 0,
            prefix_bytes: 0,
            friends_percent: 2,
            known_percent: 10,
        }
    }
}

/// Those of the [`Limits`] that no table's size depends on: they may change while flows stand, whom that ends none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// See [`Limits::per_source`].
    pub per_source: u32,
    /// See [`Limits::per_24`].
    pub per_24: u32,
    /// See [`Limits::per_16_percent`].
    pub per_16_percent: u32,
    /// See [`Limits::v6_64`].
    pub v6_64: u32,
    /// See [`Limits::v6_48`].
    pub v6_48: u32,
    /// See [`Limits::source_per_minute`].
    pub source_per_minute: u32,
    /// See [`Limits::prefix_per_minute`].
    pub prefix_per_minute: u32,
    /// See [`Limits::sessions_per_second`].
    pub sessions_per_second: u32,
    /// See [`Limits::source_bytes`].
    pub source_bytes: u32,
    /// See [`Limits::prefix_bytes`].
    pub prefix_bytes: u32,
}

/// The level at which the fullest prefix is looked for: an attacker who owns a wide prefix spreads over narrow ones.
const WIDE: usize = 2;
/// No flow, in lists.
const NONE: u32 = u32::MAX;

/// Whose room a peer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Fresh,
    Known,
    Friend,
}

/// A flow in the books.
#[derive(Clone, Copy)]
struct Entry {
    id: FlowId,
    remote: Address,
    /// The listener that it came to; none for those that we opened.
    listener: Option<ListenerId>,
    standing: Standing,
    opened: Instant,
    /// Its place among those that finished the handshake.
    seat: Option<Seat>,
    /// Its place among the strangers.
    place: u32,
    /// Strangers before and after it by age.
    older: u32,
    younger: u32,
}

/// The books of one shard.
pub struct Admission {
    limits: Limits,
    /// Flows by slot.
    entries: Vec<Option<Entry>>,
    flows: u32,
    census: Arc<Census>,
    friends: Arc<PrefixSet>,
    /// Those that finished the handshake and are no friends.
    roster: Roster<FlowId>,
    /// Strangers by wide prefix.
    crowds: Ledger<u32>,
    /// Slots of strangers, in no order.
    strangers: Vec<u32>,
    /// The oldest and the youngest stranger.
    oldest: u32,
    youngest: u32,
    /// How many wide prefixes hold so many strangers.
    prefixes_with: Vec<u32>,
    /// Strangers of the fullest wide prefix.
    fullest: usize,
    random: Random,
}

impl Admission {
    /// Empty books with all memory taken; `slots` is the size of the engine's flow table, `seed` keys the tables and the
    /// choice of victims, `census` is what the shards count together.
    pub fn new(limits: Limits, slots: usize, seed: [u8; 16], census: Arc<Census>) -> Self {
        let keyed = |label: u8| {
            let mut seed = seed;
            seed[0] ^= label;
            seed
        };
        // The limit of strangers holds before another is let in.
        let strangers = slots.min(limits.handshakes_in_flight.max(1) as usize + 1);
        Admission {
            limits,
            entries: vec![None; slots],
            flows: 0,
            census,
            friends: Arc::default(),
            roster: Roster::new(slots, keyed(2)),
            crowds: Ledger::new(strangers, keyed(1)),
            strangers: Vec::with_capacity(strangers),
            oldest: NONE,
            youngest: NONE,
            prefixes_with: vec![0; strangers + 1],
            fullest: 0,
            random: Random::new(seed),
        }
    }

    /// Admits newcomers by other quotas from now on.
    pub fn set_quotas(&mut self, quotas: &Quotas) {
        let Quotas { per_source, per_24, per_16_percent, v6_64, v6_48, .. } = *quotas;
        let Quotas { source_per_minute, prefix_per_minute, sessions_per_second, .. } = *quotas;
        let Quotas { source_bytes, prefix_bytes, .. } = *quotas;
        self.limits = Limits {
            per_source,
            per_24,
            per_16_percent,
            v6_64,
            v6_48,
            source_per_minute,
            prefix_per_minute,
            sessions_per_second,
            source_bytes,
            prefix_bytes,
            ..self.limits
        };
    }

    /// Says who the friends are from now on.
    pub fn set_friends(&mut self, friends: Arc<PrefixSet>) {
        self.friends = friends;
    }

    /// Whether a source is a friend's.
    pub fn is_friend(&self, source: Address) -> bool {
        self.friends.covers(source)
    }

    /// Whether a stranger from `source` may own a flow to `listener`. `Ok(Some(victim))`: yes, in the place of this stranger,
    /// which is already out of the books: abort it with [`Reason::Evicted`]. Follow up with [`Admission::opened`].
    ///
    /// # Errors
    /// [`Reason::BufferQuota`] where `buffers_short`; [`Reason::SourceQuota`], [`Reason::PrefixQuota`] and
    /// [`Reason::ListenerQuota`] where those who share a prefix or a listener hold what they may; [`Reason::SessionRate`]
    /// where too many sessions have just begun; [`Reason::TableFull`] and [`Reason::HandshakeQuota`] where there is no room
    /// and nobody to evict.
    pub fn admit(
        &mut self,
        now: Instant,
        source: Address,
        listener: ListenerId,
        buffers_short: bool,
    ) -> Result<Option<FlowId>, Reason> {
        if buffers_short {
            return Err(Reason::BufferQuota);
        }
        let class = self.class(source);
        if class != Class::Friend {
            self.quotas(now, source, listener, class)?;
        }
        if self.flows >= self.limits.flows {
            return self.evict().map(Some).ok_or(Reason::TableFull);
        }
        if self.strangers() >= self.limits.handshakes_in_flight {
            return self.evict().map(Some).ok_or(Reason::HandshakeQuota);
        }
        Ok(None)
    }

    /// Whether a connection of our own may be opened: only the total counts. May evict as [`Admission::admit`] does.
    ///
    /// # Errors
    /// [`Reason::TableFull`] where there is nobody to evict.
    pub fn admit_own(&mut self) -> Result<Option<FlowId>, Reason> {
        if self.flows < self.limits.flows {
            return Ok(None);
        }
        self.evict().map(Some).ok_or(Reason::TableFull)
    }

    /// Enters a flow that was admitted; `listener` is the one that it came to, if we did not open it.
    pub fn opened(
        &mut self,
        now: Instant,
        id: FlowId,
        remote: Address,
        listener: Option<ListenerId>,
        standing: Standing,
    ) {
        let Some(place) = self.entries.get(id.slot as usize) else { return };
        if let Some(former) = place {
            self.strike(now, former.id);
        }
        let entry = Entry {
            id,
            remote,
            listener,
            standing,
            opened: now,
            seat: None,
            place: NONE,
            older: NONE,
            younger: NONE,
        };
        self.entries[id.slot as usize] = Some(entry);
        self.flows += 1;
        self.count(&entry, true);
        if standing == Standing::Stranger {
            self.append(id.slot);
        }
    }

    /// Thinks better of a flow; nobody becomes a stranger again. From [`Standing::Proven`] on it has no deadline, and whoever
    /// is returned has to go for it, and is already out of the books: abort it with [`Reason::Outranked`]. That may be the
    /// flow itself. A [`Standing::Reserved`] one leaves the quotas and never goes.
    pub fn standing(&mut self, now: Instant, id: FlowId, standing: Standing) -> Option<FlowId> {
        let entry = self.entry(id).filter(|entry| standing > entry.standing)?;
        if entry.standing == Standing::Stranger {
            self.remove(id.slot);
            self.began(now, entry.remote);
        }
        self.count(&entry, false);
        let entry = Entry { standing, ..self.entry(id)? };
        self.count(&entry, true);
        let seat = match (standing, entry.seat) {
            (Standing::Proven, _) => Some(self.roster.enter(now, id, prefix(entry.remote, WIDE))),
            (_, Some(seat)) => {
                self.roster.leave(now, seat);
                None
            }
            (_, None) => None,
        };
        self.link(id.slot, |place| (place.standing, place.seat) = (standing, seat));
        let class = if standing == Standing::Reserved { Class::Friend } else { self.class(entry.remote) };
        if self.flows - self.strangers() <= self.room(class) {
            return None;
        }
        let victim = self.roster.victim(now, seat).map(|(_, victim)| victim)?;
        self.strike(now, victim);
        Some(victim)
    }

    /// Gives a flow's peer points for what it is useful for.
    pub fn credit(&mut self, now: Instant, id: FlowId, points: u32) {
        if let Some(seat) = self.entry(id).and_then(|entry| entry.seat) {
            self.roster.credit(now, seat, points);
        }
    }

    /// A flow's peer has exchanged so many bytes with us. The flow rests until the returned instant, if that is still to come.
    ///
    /// Each flow of a source waits for what it has moved itself, behind what the others moved before it: so they share what the
    /// source may have, and none of them starves. A second's worth passes at once. Strangers and friends are not held back:
    /// the ones may be forged and move little, the others are trusted.
    pub fn moved(&self, now: Instant, id: FlowId, bytes: usize) -> Option<Instant> {
        let Limits { source_bytes, prefix_bytes, .. } = self.limits;
        if source_bytes == 0 && prefix_bytes == 0 {
            return None;
        }
        let entry = self.entry(id).filter(|entry| entry.standing == Standing::Proven)?;
        let pay = |level, rate| self.census.moved(now, entry.remote, level, bytes as u64, rate);
        pay(0, source_bytes).max(pay(1, prefix_bytes))
    }

    /// Notes that a flow's peer has earned a record.
    pub fn remember(&self, id: FlowId) {
        if let Some(entry) = self.entry(id).filter(|entry| entry.standing != Standing::Stranger) {
            self.census.remember(entry.remote);
        }
    }

    /// Strikes a flow out. Unknown ids are ignored.
    pub fn closed(&mut self, now: Instant, id: FlowId) {
        self.strike(now, id);
    }

    /// When the oldest stranger's time is up, as occupancy is now.
    pub fn deadline(&self) -> Option<Instant> {
        let oldest = self.entries.get(self.oldest as usize)?.as_ref()?;
        Some(oldest.opened + self.patience())
    }

    /// A stranger whose time is up, struck out: abort it with [`Reason::HandshakeTimeout`], and ask again.
    pub fn expired(&mut self, now: Instant) -> Option<FlowId> {
        if self.deadline()? > now {
            return None;
        }
        let id = self.entries.get(self.oldest as usize)?.as_ref()?.id;
        self.strike(now, id);
        Some(id)
    }

    /// Flows in the books.
    pub fn flows(&self) -> u32 {
        self.flows
    }

    /// Flows of strangers.
    pub fn strangers(&self) -> u32 {
        self.strangers.len() as u32
    }

    /// Those that finished the handshake and are no friends, and how many of them are protected as long-lived and as useful.
    pub fn settled(&self) -> (usize, usize, usize) {
        let (elders, useful) = self.roster.protected();
        (self.roster.len(), elders, useful)
    }

    fn class(&self, source: Address) -> Class {
        match source {
            _ if self.friends.covers(source) => Class::Friend,
            _ if self.census.remembers(source) => Class::Known,
            _ => Class::Fresh,
        }
    }

    /// Flows that all but strangers may hold together when one of `class` comes.
    fn room(&self, class: Class) -> u32 {
        let limits = &self.limits;
        let part = |percent: u32| (u64::from(limits.flows) * u64::from(percent.min(100)) / 100) as u32;
        let kept = match class {
            Class::Friend => 0,
            Class::Known => part(limits.friends_percent),
            Class::Fresh => part(limits.friends_percent + limits.known_percent),
        };
        limits.flows.saturating_sub(limits.handshakes_in_flight.min(limits.flows / 4)).saturating_sub(kept)
    }

    fn quotas(
        &self,
        now: Instant,
        source: Address,
        listener: ListenerId,
        class: Class,
    ) -> Result<(), Reason> {
        let limits = &self.limits;
        for (level, reason) in
            [Reason::SourceQuota, Reason::PrefixQuota, Reason::PrefixQuota].into_iter().enumerate()
        {
            if self.census.held(source, level) >= self.quota(source, level) {
                return Err(reason);
            }
        }
        if self.census.at(listener.0) >= limits.per_listener {
            return Err(Reason::ListenerQuota);
        }
        let in_pace = self.census.in_pace(now, source, 0, limits.source_per_minute)
            && self.census.in_pace(now, source, 1, limits.prefix_per_minute)
            && (class == Class::Known || self.census.all_in_pace(now, limits.sessions_per_second));
        if in_pace { Ok(()) } else { Err(Reason::SessionRate) }
    }

    /// A source has finished a handshake.
    fn began(&self, now: Instant, source: Address) {
        self.census.charge(now, source, 0, self.limits.source_per_minute);
        self.census.charge(now, source, 1, self.limits.prefix_per_minute);
        self.census.charge_all(now, self.limits.sessions_per_second);
    }

    /// How long a stranger may take now: less and less once half of the handshakes are in flight. It holds for those who
    /// are there already, too.
    fn patience(&self) -> Duration {
        let Limits { handshake_longest: longest, handshake_shortest: shortest, .. } = self.limits;
        let (here, most) = (self.strangers(), self.limits.handshakes_in_flight.max(1));
        let beyond_half = (2 * here.min(most)).saturating_sub(most);
        longest - longest.saturating_sub(shortest) * beyond_half / most
    }

    fn quota(&self, source: Address, level: usize) -> u32 {
        let limits = &self.limits;
        match (level, source.is_v4()) {
            (0, true) => limits.per_source,
            (0, false) => limits.v6_64,
            (1, true) => limits.per_24,
            (1, false) => limits.v6_48,
            _ => {
                let all = u64::from(limits.flows) * u64::from(self.census.shards());
                u32::try_from(all * u64::from(limits.per_16_percent) / 100).unwrap_or(u32::MAX).max(1)
            }
        }
    }

    fn entry(&self, id: FlowId) -> Option<Entry> {
        self.entries.get(id.slot as usize).copied().flatten().filter(|entry| entry.id == id)
    }

    /// A random stranger of the fullest wide prefix, struck out. Where many prefixes are fuller than the rest a few draws
    /// find one; else the strangers are gone through once, from a random one on.
    fn evict(&mut self) -> Option<FlowId> {
        const DRAWS: usize = 8;
        let count = self.strangers.len();
        if count == 0 {
            return None;
        }
        let drawn = (0..DRAWS).find_map(|_| {
            let place = self.random.below(count);
            self.in_fullest(place)
        });
        let id = drawn.or_else(|| {
            let start = self.random.below(count);
            (0..count).find_map(|step| self.in_fullest((start + step) % count))
        })?;
        // When a stranger goes does not matter: it has no age among the settled.
        self.strike(Instant::ZERO, id);
        Some(id)
    }

    /// The stranger at a place in the list, if its wide prefix holds as many strangers as any.
    fn in_fullest(&self, place: usize) -> Option<FlowId> {
        let slot = *self.strangers.get(place)?;
        let entry = self.entries.get(slot as usize)?.as_ref()?;
        let count = self.crowds.get(prefix(entry.remote, WIDE));
        (count as usize == self.fullest).then_some(entry.id)
    }

    fn strike(&mut self, now: Instant, id: FlowId) {
        let Some(entry) = self.entry(id) else { return };
        if entry.standing == Standing::Stranger {
            self.remove(id.slot);
        }
        if let Some(seat) = entry.seat {
            self.roster.leave(now, seat);
        }
        self.count(&entry, false);
        self.flows -= 1;
        self.entries[id.slot as usize] = None;
    }

    /// Counts a flow into its prefixes and its listener, or out of them.
    fn count(&mut self, entry: &Entry, enters: bool) {
        if entry.standing == Standing::Reserved {
            return;
        }
        self.census.count(entry.remote, enters);
        if let Some(listener) = entry.listener {
            self.census.count_at(listener.0, enters);
        }
        if entry.standing == Standing::Stranger {
            self.count_stranger(prefix(entry.remote, WIDE), enters);
        }
    }

    fn count_stranger(&mut self, wide: Address, enters: bool) {
        let before = self.crowds.get(wide);
        let after = if enters { before + 1 } else { before.saturating_sub(1) };
        self.crowds.set(wide, after);
        self.prefixes_with[before as usize] -= u32::from(before > 0);
        self.prefixes_with[after as usize] += u32::from(after > 0);
        // By one either way, so the fullest prefix is never searched for.
        if enters {
            self.fullest = self.fullest.max(after as usize);
        } else if before as usize == self.fullest && self.prefixes_with[before as usize] == 0 {
            self.fullest = after as usize;
        }
    }

    /// Appends a flow to the strangers.
    fn append(&mut self, slot: u32) {
        let (place, older) = (self.strangers.len() as u32, self.youngest);
        self.strangers.push(slot);
        self.link(older, |entry| entry.younger = slot);
        self.link(slot, |entry| (entry.place, entry.older, entry.younger) = (place, older, NONE));
        self.youngest = slot;
        if older == NONE {
            self.oldest = slot;
        }
    }

    /// Takes a flow out of the strangers.
    fn remove(&mut self, slot: u32) {
        let Some(Some(entry)) = self.entries.get(slot as usize) else { return };
        let Entry { place, older, younger, .. } = *entry;
        self.strangers.swap_remove(place as usize);
        if let Some(&moved) = self.strangers.get(place as usize) {
            self.link(moved, |entry| entry.place = place);
        }
        self.link(older, |entry| entry.younger = younger);
        self.link(younger, |entry| entry.older = older);
        if self.oldest == slot {
            self.oldest = younger;
        }
        if self.youngest == slot {
            self.youngest = older;
        }
    }

    fn link(&mut self, slot: u32, change: impl FnOnce(&mut Entry)) {
        if let Some(Some(entry)) = self.entries.get_mut(slot as usize) {
            change(entry);
        }
    }
}

#[cfg(test)]
mod tests;
