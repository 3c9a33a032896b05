//! A hierarchical timer wheel with one entry per slot of the flow table: arming, moving and cancelling take constant time.
//!
//! Five levels of 64 buckets cover twelve days in ticks of a millisecond; what lies further fires early, and the owner
//! arms it again. Entries are linked through an array, so nothing is allocated after the start.

use crate::time::Instant;

const LEVELS: usize = 5;
const BUCKETS: usize = 64;
const BITS: u32 = 6;
/// Ticks that the wheel can look ahead.
const SPAN: u64 = 1 << (BITS * LEVELS as u32);
const NIL: u32 = u32::MAX;
/// Bucket number of an entry that is not armed; its tick is the last one.
const IDLE: u16 = u16::MAX;
const TICK_MAX: u64 = u64::MAX >> 16;

/// A point in time, or never; half the size of an `Option<Instant>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timer(u64);

impl Timer {
    /// Not running.
    pub(crate) const OFF: Timer = Timer(u64::MAX);

    /// Runs out at `at`.
    pub(crate) fn at(at: Instant) -> Self {
        Timer(at.micros().min(u64::MAX - 1))
    }

    /// Whether it is running.
    pub(crate) fn is_on(self) -> bool {
        self != Timer::OFF
    }

    /// Whether it has run out.
    pub(crate) fn is_due(self, now: Instant) -> bool {
        self.0 <= now.micros()
    }

    /// When it runs out.
    pub(crate) fn instant(self) -> Option<Instant> {
        self.is_on().then(|| Instant::from_micros(self.0))
    }
}

/// Sixteen bytes: every flow has one.
#[derive(Clone, Copy, Debug)]
struct Entry {
    previous: u32,
    next: u32,
    /// The tick in 48 bits (nine thousand years), and the bucket.
    place: u64,
}

impl Entry {
    const IDLE: Entry = Entry { previous: NIL, next: NIL, place: u64::MAX };

    fn new(next: u32, tick: u64, bucket: usize) -> Self {
        Entry { previous: NIL, next, place: tick.min(TICK_MAX) << 16 | bucket as u64 }
    }

    fn tick(self) -> u64 {
        self.place >> 16
    }

    fn bucket(self) -> u16 {
        self.place as u16
    }
}

/// The wheel.
#[derive(Debug)]
pub(crate) struct Wheel {
    entries: Vec<Entry>,
    heads: [u32; LEVELS * BUCKETS],
    occupied: [u64; LEVELS],
    elapsed: u64,
}

impl Wheel {
    /// A wheel for slots below `capacity`.
    pub(crate) fn new(capacity: usize) -> Self {
        Wheel {
            entries: Vec::with_capacity(capacity),
            heads: [NIL; LEVELS * BUCKETS],
            occupied: [0; LEVELS],
            elapsed: 0,
        }
    }

    /// Arms `slot` to fire at `timer`, moving it if it was armed; [`Timer::OFF`] disarms it.
    pub(crate) fn arm(&mut self, slot: u32, timer: Timer) {
        while self.entries.len() <= slot as usize {
            self.entries.push(Entry::IDLE);
        }
        self.unlink(slot);
        if let Some(at) = timer.instant() {
            self.link(slot, at.micros().div_ceil(1_000));
        }
    }

    /// Makes sure that `slot` fires at `timer` or before: an entry that fires earlier stays, which spares moving it each
    /// time its deadline is put off.
    pub(crate) fn arm_by(&mut self, slot: u32, timer: Timer) {
        let Some(at) = timer.instant() else { return };
        let armed = self.entries.get(slot as usize).map_or(TICK_MAX, |entry| entry.tick());
        if at.micros().div_ceil(1_000) < armed {
            self.arm(slot, timer);
        }
    }

    /// Reads the entry of `slot`, to have it in the cache.
    #[inline]
    pub(crate) fn warm(&self, slot: u32) -> u64 {
        self.entries.get(slot as usize).map_or(0, |entry| entry.place)
    }

    /// When the next entry may fire.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.expiration().map(|(tick, ..)| Instant::from_millis(tick))
    }

    /// Takes one entry out whose time has come. Call it until it returns `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<u32> {
        let now = now.millis();
        while let Some((tick, level, bucket)) = self.expiration() {
            if tick > now {
                break;
            }
            self.elapsed = self.elapsed.max(tick);
            let slot = self.heads[level * BUCKETS + bucket];
            let due = self.entries[slot as usize].tick();
            self.unlink(slot);
            if due <= now {
                return Some(slot);
            }
            self.link(slot, due);
        }
        self.elapsed = self.elapsed.max(now);
        None
    }

    /// The occupied bucket that begins first: the tick at which it begins, its level, its number.
    fn expiration(&self) -> Option<(u64, usize, usize)> {
        let occupied = (0..LEVELS).filter(|&level| self.occupied[level] != 0);
        let begins = occupied.map(|level| {
            let shift = BITS * level as u32;
            let here = (self.elapsed >> shift) & (BUCKETS as u64 - 1);
            let ahead = u64::from(self.occupied[level].rotate_right(here as u32).trailing_zeros());
            let begin = ((self.elapsed >> shift) + ahead) << shift;
            (begin.max(self.elapsed), level, ((here + ahead) % BUCKETS as u64) as usize)
        });
        begins.min()
    }

    fn link(&mut self, slot: u32, tick: u64) {
        let at = tick.clamp(self.elapsed, self.elapsed + SPAN - (SPAN / BUCKETS as u64) - 1);
        let differing = 63 - ((at ^ self.elapsed) | (BUCKETS as u64 - 1)).leading_zeros();
        let level = ((differing / BITS) as usize).min(LEVELS - 1);
        let bucket = level * BUCKETS + ((at >> (BITS * level as u32)) as usize & (BUCKETS - 1));
        let head = self.heads[bucket];
        self.entries[slot as usize] = Entry::new(head, tick, bucket);
        if head != NIL {
            self.entries[head as usize].previous = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[level] |= 1 << (bucket % BUCKETS);
    }

    fn unlink(&mut self, slot: u32) {
        let entry = self.entries[slot as usize];
        let Entry { previous, next, .. } = entry;
        let bucket = entry.bucket();
        if bucket == IDLE {
            return;
        }
        if next != NIL {
            self.entries[next as usize].previous = previous;
        }
        if previous != NIL {
            self.entries[previous as usize].next = next;
        } else {
            self.heads[usize::from(bucket)] = next;
            if next == NIL {
                self.occupied[usize::from(bucket) / BUCKETS] &= !(1 << (usize::from(bucket) % BUCKETS));
            }
        }
        self.entries[slot as usize] = Entry::IDLE;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u32, u64),
        Disarm(u32),
        Advance(u64),
        Jump,
    }

    fn step() -> impl Strategy<Value = Step> {
        let ahead = prop_oneof![0..100u64, 0..10_000u64, 0..10_000_000u64, 0..100_000_000_000u64];
        let pass = prop_oneof![0..100u64, 0..10_000u64, 0..10_000_000u64];
        prop_oneof![
            4 => (0..16u32, ahead).prop_map(|(slot, ms)| Step::Arm(slot, ms)),
            1 => (0..16u32).prop_map(Step::Disarm),
            4 => pass.prop_map(Step::Advance),
            1 => Just(Step::Jump),
        ]
    }

    proptest! {
        /// Against a map of deadlines: every entry fires once, not before its time, and at the latest when the wheel's own
        /// deadline says.
        #[test]
        fn fires_on_time(steps in prop::collection::vec(step(), 1..80)) {
            let mut wheel = Wheel::new(16);
            let mut model = BTreeMap::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Arm(slot, ms) => {
                        wheel.arm(slot, Timer::at(Instant::from_millis(now + ms)));
                        model.insert(slot, now + ms);
                    }
                    Step::Disarm(slot) => {
                        wheel.arm(slot, Timer::OFF);
                        model.remove(&slot);
                    }
                    Step::Advance(ms) => now += ms,
                    Step::Jump => now = wheel.next().map_or(now, |at| now.max(at.millis())),
                }
                while let Some(slot) = wheel.expire(Instant::from_millis(now)) {
                    prop_assert!(model.remove(&slot).is_some_and(|due| due <= now));
                }
                prop_assert!(model.values().all(|&due| due > now));
                match (wheel.next(), model.values().min()) {
                    (Some(next), Some(&due)) => prop_assert!(next.millis() <= due && next.millis() > now),
                    (next, due) => prop_assert!(next.is_none() && due.is_none()),
                }
            }
        }
    }

    #[test]
    fn putting_off_leaves_the_entry() {
        let mut wheel = Wheel::new(4);
        wheel.arm_by(2, Timer::at(Instant::from_millis(10)));
        wheel.arm_by(2, Timer::at(Instant::from_millis(50)));
        assert_eq!(wheel.next(), Some(Instant::from_millis(10)));
        wheel.arm_by(2, Timer::at(Instant::from_millis(5)));
        assert_eq!(wheel.next(), Some(Instant::from_millis(5)));
        assert_eq!(wheel.expire(Instant::from_millis(5)), Some(2));
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn rounds_up_to_the_tick() {
        let mut wheel = Wheel::new(1);
        wheel.arm(0, Timer::at(Instant::from_micros(1_001)));
        assert_eq!(wheel.expire(Instant::from_micros(1_999)), None);
        assert_eq!(wheel.expire(Instant::from_micros(2_000)), Some(0));
    }
}
