//! A token bucket and a small random source: what keeps a link from answering more than it was told to, and what spreads
//! timers.

use core::time::Duration;

use crate::time::Instant;

/// One token in the bucket's own unit, so that refilling needs no division.
const TOKEN: u64 = 1_000_000;

/// Tokens that come back at a fixed rate, up to a burst.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    per_second: u64,
    burst: u64,
    level: u64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let burst = u64::from(burst) * TOKEN;
        Bucket { per_second: u64::from(per_second), burst, level: burst, filled: now }
    }

    /// Takes a token; false where none is left.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.micros().saturating_sub(self.filled.micros());
        self.level = self.level.saturating_add(passed.saturating_mul(self.per_second)).min(self.burst);
        self.filled = self.filled.max(now);
        let allowed = self.level >= TOKEN;
        if allowed {
            self.level -= TOKEN;
        }
        allowed
    }
}

/// Randomness for timers (SplitMix64). Spreads stations apart; hides nothing.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) fn new(seed: u64) -> Self {
        Jitter(seed)
    }

    /// A number.
    pub(super) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration in `[from, to)` milliseconds.
    pub(super) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.number() % to.saturating_sub(from).max(1))
    }
}
