//! What all shards of an appliance count together about sources: how many flows each holds, how fast it began sessions and moves bytes, and
//! whether it has a record. Tables of atomics of a fixed size under a keyed hash, touched some times per connection, never
//! per frame; bytes are counted by the turn of a session. With one shard everything is deterministic.
//!
//! # What is where, and what may write it
//!
//! - **Flows** of a source, of its prefixes and of a listener are counted while they last; a flow that goes takes its count
//!   along. Four counters stand for each prefix, the least of them counts: it is never too low, and too high only where all
//!   four are shared with others.
//! - **Paces** and **records** outlast a flow, so only a finished handshake writes them: a forged flow (2^-26 per guess)
//!   leaves the record of the address that it pretends to be untouched, and takes one place of its quota for at most the
//!   handshake's deadline.
//!
//! IPv4 sources count as /32, /24 and /16, IPv6 ones as /64, /48 and /32. v4-mapped, v4-compatible, 6to4 and Teredo sources
//! do not get here: the parser refuses them, so that one IPv4 host cannot count as many IPv6 networks.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use crate::sip::{Sip13, SipKey};
use crate::time::Instant;
use crate::wire::Address;

/// The lengths at which a source counts, from narrow to wide, for IPv4 and IPv6.
const LENGTHS: [[u8; 3]; 2] = [[32, 24, 16], [64, 48, 32]];
/// Levels of [`LENGTHS`].
pub(super) const LEVELS: usize = 3;
/// Counters per prefix.
const ROWS: usize = 4;
/// Listeners that are counted; the few beyond have no limit of their own.
const LISTENERS: usize = 1_024;
/// Buckets of each row of paces: enough for a flood of proven addresses to meet itself.
const PACES: usize = 1 << 14;
/// Bits of each half of the record.
const RECORD_BITS: usize = 1 << 19;
/// Entries of half a record: at this many, one source in fifty seems to have a record and has none.
const RECORD_ENTRIES: u64 = 50_000;

/// The prefix of an address at a level.
pub(super) fn prefix(address: Address, level: usize) -> Address {
    address.prefix(LENGTHS[usize::from(!address.is_v4())][level])
}

/// The counts.
pub struct Census {
    key: SipKey,
    shards: u32,
    /// By level, then by row.
    flows: [[Box<[AtomicU32]>; ROWS]; LEVELS],
    listeners: Box<[AtomicU32]>,
    /// Two rows of buckets: the instant, in microseconds, at which a bucket is full again.
    paces: [Box<[AtomicU64]>; 2],
    /// The pace of all sources together.
    total: AtomicU64,
    /// Two rows of buckets for bytes, by the same places as the paces: the instant, in nanoseconds, at which one is full again.
    bytes: [Box<[AtomicU64]>; 2],
    /// Two halves of keyed bits; the older is emptied when the younger is full.
    record: [Box<[AtomicU64]>; 2],
    /// Entries written so far; says which half is the younger.
    recorded: AtomicU64,
}

impl Census {
    /// A census for `shards` shards with `flows` flows in all.
    pub fn new(shards: u16, flows: usize, seed: [u8; 16]) -> Arc<Self> {
        let width = (2 * flows).next_power_of_two();
        Arc::new(Census {
            key: SipKey::new(seed),
            shards: u32::from(shards.max(1)),
            flows: core::array::from_fn(|_| core::array::from_fn(|_| zeros(width, || AtomicU32::new(0)))),
            listeners: zeros(LISTENERS, || AtomicU32::new(0)),
            paces: core::array::from_fn(|_| zeros(PACES, || AtomicU64::new(0))),
            total: AtomicU64::new(0),
            bytes: core::array::from_fn(|_| zeros(PACES, || AtomicU64::new(0))),
            record: core::array::from_fn(|_| zeros(RECORD_BITS / 64, || AtomicU64::new(0))),
            recorded: AtomicU64::new(0),
        })
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(flows: usize) -> usize {
        (2 * flows).next_power_of_two() * 4 * ROWS * LEVELS + LISTENERS * 4 + PACES * 32 + RECORD_BITS / 4
    }

    /// Shards that count here.
    pub(super) fn shards(&self) -> u32 {
        self.shards
    }

    /// Flows that a source holds at a level; never too few.
    pub(super) fn held(&self, source: Address, level: usize) -> u32 {
        let counters = self.counters(source, level);
        counters.map(|counter| counter.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// Counts a flow into its prefixes, or out of them.
    pub(super) fn count(&self, source: Address, enters: bool) {
        for level in 0..LEVELS {
            self.counters(source, level).for_each(|counter| step(counter, enters));
        }
    }

    /// Flows of a listener's peers.
    pub(super) fn at(&self, listener: u16) -> u32 {
        self.listeners.get(usize::from(listener)).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Counts a flow to a listener, or out of it.
    pub(super) fn count_at(&self, listener: u16, enters: bool) {
        if let Some(counter) = self.listeners.get(usize::from(listener)) {
            step(counter, enters);
        }
    }

    /// Whether a source may begin a session at a pace of `per_minute`; bursts of a minute's worth pass.
    pub(super) fn in_pace(&self, now: Instant, source: Address, level: usize, per_minute: u32) -> bool {
        let full = now.micros() + MINUTE;
        let buckets = self.buckets(&self.paces, source, level);
        per_minute == 0 || buckets.iter().any(|b| b.load(Ordering::Relaxed) < full)
    }

    /// A source began a session.
    pub(super) fn charge(&self, now: Instant, source: Address, level: usize, per_minute: u32) {
        if per_minute > 0 {
            let cost = MINUTE / u64::from(per_minute);
            self.buckets(&self.paces, source, level).iter().for_each(|bucket| {
                pay(bucket, now.micros(), cost);
            });
        }
    }

    /// Whether a session may begin at a pace of `per_second` for all; bursts of a second's worth pass.
    pub(super) fn all_in_pace(&self, now: Instant, per_second: u32) -> bool {
        per_second == 0 || self.total.load(Ordering::Relaxed) < now.micros() + SECOND
    }

    /// A session began.
    pub(super) fn charge_all(&self, now: Instant, per_second: u32) {
        if per_second > 0 {
            pay(&self.total, now.micros(), SECOND / u64::from(per_second));
        }
    }

    /// A source has moved bytes at a pace of `per_second`: until when that takes, if longer than until now. A second's worth
    /// takes no time.
    pub(super) fn moved(
        &self,
        now: Instant,
        source: Address,
        level: usize,
        bytes: u64,
        per_second: u32,
    ) -> Option<Instant> {
        if per_second == 0 {
            return None;
        }
        let nanos = now.micros() * 1_000;
        let cost = bytes.saturating_mul(1_000_000_000) / u64::from(per_second);
        let full = self.buckets(&self.bytes, source, level).map(|bucket| pay(bucket, nanos, cost));
        // Whoever shares one of the buckets with others has the other one.
        let until = full.into_iter().min()?.saturating_sub(1_000 * SECOND);
        (until > nanos).then(|| Instant::from_micros(until.div_ceil(1_000)))
    }

    /// Notes that a source has earned a record: a session of some length, without complaint.
    pub(super) fn remember(&self, source: Address) {
        if self.remembers(source) {
            return;
        }
        let number = self.recorded.fetch_add(1, Ordering::Relaxed);
        let half = &self.record[(number / RECORD_ENTRIES % 2) as usize];
        if number.is_multiple_of(RECORD_ENTRIES) {
            half.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        for bit in self.bits(source) {
            half[bit / 64].fetch_or(1 << (bit % 64), Ordering::Relaxed);
        }
    }

    /// Whether a source has a record. One in fifty without one seems to, when the record is full.
    pub(super) fn remembers(&self, source: Address) -> bool {
        let has = |half: &[AtomicU64]| {
            self.bits(source).iter().all(|&bit| half[bit / 64].load(Ordering::Relaxed) >> (bit % 64) & 1 == 1)
        };
        self.record.iter().any(|half| has(half))
    }

    fn counters(&self, source: Address, level: usize) -> impl Iterator<Item = &AtomicU32> {
        let hash = self.hash(source, level);
        self.flows[level].iter().enumerate().map(move |(row, counters)| {
            let place = nth(hash, row);
            &counters[place as usize & (counters.len() - 1)]
        })
    }

    fn buckets<'a>(
        &self,
        rows: &'a [Box<[AtomicU64]>; 2],
        source: Address,
        level: usize,
    ) -> [&'a AtomicU64; 2] {
        let hash = self.hash(source, level);
        [&rows[0][hash as usize & (PACES - 1)], &rows[1][(hash >> 32) as usize & (PACES - 1)]]
    }

    fn bits(&self, source: Address) -> [usize; 4] {
        let hash = self.hash(source, 0);
        core::array::from_fn(|n| nth(hash, n) as usize & (RECORD_BITS - 1))
    }

    fn hash(&self, source: Address, level: usize) -> u64 {
        let bits = prefix(source, level).bits();
        Sip13::new(&self.key).word((bits >> 64) as u64).word(bits as u64).finish(17, level as u64)
    }
}

const SECOND: u64 = Duration::from_secs(1).as_micros() as u64;
const MINUTE: u64 = Duration::from_secs(60).as_micros() as u64;

fn zeros<T>(count: usize, zero: impl Fn() -> T) -> Box<[T]> {
    (0..count).map(|_| zero()).collect()
}

fn step(counter: &AtomicU32, enters: bool) {
    match enters {
        true => counter.fetch_add(1, Ordering::Relaxed),
        false => counter.fetch_sub(1, Ordering::Relaxed),
    };
}

/// One of several places out of the two halves of one hash (Kirsch and Mitzenmacher, 2006).
fn nth(hash: u64, n: usize) -> u32 {
    (hash as u32).wrapping_add(((hash >> 32) as u32 | 1).wrapping_mul(n as u32))
}

/// Takes what something costs out of a bucket; when it is full again.
fn pay(bucket: &AtomicU64, now: u64, cost: u64) -> u64 {
    let take = |full: u64| full.max(now).saturating_add(cost);
    // The closure always gives a value, so this is what was there before.
    let (Ok(before) | Err(before)) =
        bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full| Some(take(full)));
    take(before)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn host(number: u32) -> Address {
        Address::from_v4((0x0a00_0000 + number).to_be_bytes())
    }

    proptest! {
        #[test]
        fn a_count_is_never_too_low(steps in proptest::collection::vec((0u32..64, any::<bool>()), 0..400)) {
            let census = Census::new(1, 8, [3; 16]);
            let mut model: HashMap<u32, u32> = HashMap::new();
            for (number, enters) in steps {
                let held = model.entry(number).or_default();
                if enters || *held > 0 {
                    *held = if enters { *held + 1 } else { *held - 1 };
                    census.count(host(number), enters);
                }
            }
            for (&number, &held) in &model {
                prop_assert!(census.held(host(number), 0) >= held);
            }
            let all: u32 = model.values().sum();
            prop_assert_eq!(census.held(host(0), 2), all, "one /16, alone in its counters");
        }
    }

    #[test]
    fn with_every_flow_from_another_source_few_count_too_high() {
        let census = Census::new(1, 16_384, [9; 16]);
        let source = |n: u32| Address::from_v4(n.wrapping_mul(0x9e37_79b1).to_be_bytes());
        (0..16_384).for_each(|n| census.count(source(n), true));
        let wrong = (0..16_384).filter(|&n| census.held(source(n), 0) > 1).count();
        assert!(wrong < 16_384 / 25, "{wrong}");
        (0..16_384).for_each(|n| census.count(source(n), false));
        assert!((0..16_384).all(|n| (0..LEVELS).all(|level| census.held(source(n), level) == 0)));
    }

    #[test]
    fn a_record_lasts_until_as_many_others_have_earned_one() {
        let census = Census::new(1, 8, [9; 16]);
        let entries = RECORD_ENTRIES as u32;
        census.remember(host(0));
        (1..entries).for_each(|n| census.remember(host(n)));
        assert!((0..entries).all(|n| census.remembers(host(n))));
        let mistaken = (0..10_000).filter(|&n| census.remembers(host(9_000_000 + n))).count();
        assert!(mistaken < 10_000 / 50, "{mistaken}");
        (0..3 * entries).for_each(|n| census.remember(host(1_000_000 + n)));
        assert!(!census.remembers(host(0)));
    }

    #[test]
    fn a_source_has_a_record_as_its_64_or_its_address() {
        let census = Census::new(1, 8, [9; 16]);
        let v6 = |text: &str| Address::from(text.parse::<std::net::IpAddr>().expect("an address"));
        census.remember(v6("2001:db8:1:2::3"));
        assert!(census.remembers(v6("2001:db8:1:2:ffff::")) && !census.remembers(v6("2001:db8:1:3::3")));
    }
}
