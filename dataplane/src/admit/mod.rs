//! Who may own a flow: quotas per source and prefix, handshakes in flight with deadlines that shrink as they fill up,
//! and the choice of whom to evict. All tables are taken at start; no operation looks at all flows.

mod ledger;

use core::time::Duration;

use ledger::{Count, Ledger};

use crate::Reason;
use crate::shard::{FlowId, Standing};
use crate::sip::{Sip13, SipKey};
use crate::time::Instant;
use crate::wire::Address;

/// Limits of an [`Admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows in all, those that we opened included.
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
    /// Flows whose peer is still a stranger.
    pub handshakes_in_flight: u32,
    /// How long a stranger may take while at most half of the handshakes are in flight.
    pub handshake_longest: Duration,
    /// How long a stranger may take when all handshakes are in flight.
    pub handshake_shortest: Duration,
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
            handshakes_in_flight: 256,
            handshake_longest: Duration::from_secs(15),
            handshake_shortest: Duration::from_secs(3),
        }
    }
}

/// The lengths at which a source counts, from narrow to wide, for IPv4 and IPv6.
const LENGTHS: [[u8; 3]; 2] = [[32, 24, 16], [64, 48, 32]];
/// The level at which the fullest prefix is looked for: an attacker who owns a wide prefix spreads over narrow ones.
const WIDE: usize = 2;
/// No flow, in lists.
const NONE: u32 = u32::MAX;

/// A flow in the books.
#[derive(Clone, Copy)]
struct Entry {
    id: FlowId,
    remote: Address,
    standing: Standing,
    opened: Instant,
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
    ledgers: [Ledger; 3],
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
    /// choice of victims.
    pub fn new(limits: Limits, slots: usize, seed: [u8; 16]) -> Self {
        let ledger = |level: u8| {
            let mut seed = seed;
            seed[0] ^= level;
            Ledger::new(slots, seed)
        };
        Admission {
            limits,
            entries: vec![None; slots],
            flows: 0,
            ledgers: [ledger(1), ledger(2), ledger(3)],
            strangers: Vec::with_capacity(slots),
            oldest: NONE,
            youngest: NONE,
            prefixes_with: vec![0; slots + 1],
            fullest: 0,
            random: Random { key: SipKey::new(seed), drawn: 0 },
        }
    }

    /// Whether a stranger from `source` may own a flow. `Ok(Some(victim))`: yes, in the place of this stranger, which is
    /// already out of the books: abort it with [`Reason::Evicted`]. Follow up with [`Admission::opened`].
    ///
    /// # Errors
    /// [`Reason::BufferQuota`] where `buffers_short`; [`Reason::SourceQuota`] and [`Reason::PrefixQuota`] where those who
    /// share a prefix hold what they may; [`Reason::TableFull`] and [`Reason::HandshakeQuota`] where there is no room and
    /// nobody to evict.
    pub fn admit(&mut self, source: Address, buffers_short: bool) -> Result<Option<FlowId>, Reason> {
        if buffers_short {
            return Err(Reason::BufferQuota);
        }
        let reasons = [Reason::SourceQuota, Reason::PrefixQuota, Reason::PrefixQuota];
        for (level, reason) in reasons.into_iter().enumerate() {
            let held = self.ledgers[level].get(prefix(source, level)).flows;
            if held >= self.quota(source, level) {
                return Err(reason);
            }
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

    /// Enters a flow that was admitted.
    pub fn opened(&mut self, now: Instant, id: FlowId, remote: Address, standing: Standing) {
        let Some(place) = self.entries.get(id.slot as usize) else { return };
        if let Some(former) = place {
            self.strike(former.id);
        }
        let entry = Entry { id, remote, standing, opened: now, place: NONE, older: NONE, younger: NONE };
        self.entries[id.slot as usize] = Some(entry);
        self.flows += 1;
        self.count(remote, standing, true);
        if standing == Standing::Stranger {
            self.append(id.slot);
        }
    }

    /// Thinks better of a flow; nobody becomes a stranger again. A `Proven` flow is no longer evicted here and has no
    /// deadline; a `Reserved` one leaves the quotas too.
    pub fn standing(&mut self, id: FlowId, standing: Standing) {
        let Some(entry) = self.entry(id) else { return };
        if standing <= entry.standing {
            return;
        }
        if entry.standing == Standing::Stranger {
            self.remove(id.slot);
        }
        self.count(entry.remote, entry.standing, false);
        self.count(entry.remote, standing, true);
        if let Some(Some(entry)) = self.entries.get_mut(id.slot as usize) {
            entry.standing = standing;
        }
    }

    /// Strikes a flow out. Unknown ids are ignored.
    pub fn closed(&mut self, id: FlowId) {
        self.strike(id);
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
        self.strike(id);
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
            _ => (u64::from(limits.flows) * u64::from(limits.per_16_percent) / 100).max(1) as u32,
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
        self.strike(id);
        Some(id)
    }

    /// The stranger at a place in the list, if its wide prefix holds as many strangers as any.
    fn in_fullest(&self, place: usize) -> Option<FlowId> {
        let slot = *self.strangers.get(place)?;
        let entry = self.entries.get(slot as usize)?.as_ref()?;
        let count = self.ledgers[WIDE].get(prefix(entry.remote, WIDE));
        (count.strangers as usize == self.fullest).then_some(entry.id)
    }

    fn strike(&mut self, id: FlowId) {
        let Some(entry) = self.entry(id) else { return };
        if entry.standing == Standing::Stranger {
            self.remove(id.slot);
        }
        self.count(entry.remote, entry.standing, false);
        self.flows -= 1;
        self.entries[id.slot as usize] = None;
    }

    /// Counts a flow into its prefixes, or out of them.
    fn count(&mut self, remote: Address, standing: Standing, enters: bool) {
        if standing == Standing::Reserved {
            return;
        }
        let stranger = u32::from(standing == Standing::Stranger);
        for (level, ledger) in self.ledgers.iter_mut().enumerate() {
            let prefix = prefix(remote, level);
            let Count { flows, strangers } = ledger.get(prefix);
            let count = match enters {
                true => Count { flows: flows + 1, strangers: strangers + stranger },
                false => {
                    Count { flows: flows.saturating_sub(1), strangers: strangers.saturating_sub(stranger) }
                }
            };
            ledger.set(prefix, count);
            if level == WIDE && stranger == 1 {
                self.prefixes_with[strangers as usize] -= u32::from(strangers > 0);
                self.prefixes_with[count.strangers as usize] += u32::from(count.strangers > 0);
                // By one either way, so the fullest prefix is never searched for.
                if enters {
                    self.fullest = self.fullest.max(count.strangers as usize);
                } else if strangers as usize == self.fullest && self.prefixes_with[strangers as usize] == 0 {
                    self.fullest = count.strangers as usize;
                }
            }
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

/// The prefix of an address at a level.
fn prefix(address: Address, level: usize) -> Address {
    address.prefix(LENGTHS[usize::from(!address.is_v4())][level])
}

/// A keyed sequence that strangers cannot foresee.
struct Random {
    key: SipKey,
    drawn: u64,
}

impl Random {
    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.drawn += 1;
        let random = Sip13::new(&self.key).word(self.drawn).finish(8, 0);
        ((u128::from(random) * end as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests;
