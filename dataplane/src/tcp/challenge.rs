//! The budget for ACKs that answer segments which look like an attack (RFC 5961, section 7).
//!
//! Each flow answers at most ten a second. For resets, SYNs and impossible acknowledgements all flows together share an
//! allowance too, whose size differs from second to second, so that nobody can count it from outside and learn from it
//! whether a flow exists (CVE-2016-5696).

use std::time::Duration;

use crate::time::Instant;

/// Least time between two challenge ACKs of a flow.
pub(crate) const SPACING: Duration = Duration::from_millis(100);
/// Smallest allowance per second for all flows.
const ALLOWANCE: u64 = 1_000;

/// The shared allowance.
#[derive(Debug)]
pub(crate) struct Budget {
    second: u64,
    left: u64,
    noise: u64,
}

impl Budget {
    /// A budget whose variation follows from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Budget { second: u64::MAX, left: 0, noise: seed | 1 }
    }

    /// Takes one, if there is one left in this second.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let second = now.micros() / 1_000_000;
        if second != self.second {
            // One step of xorshift64: the seed is secret, and nobody sees the numbers themselves.
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 7;
            self.noise ^= self.noise << 17;
            self.second = second;
            self.left = ALLOWANCE + self.noise % ALLOWANCE;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_a_varying_allowance_per_second() {
        let mut budget = Budget::new(42);
        let granted: Vec<usize> = (0..20)
            .map(|second| (0..5_000).filter(|_| budget.take(Instant::from_millis(second * 1_000))).count())
            .collect();
        assert!(granted.iter().all(|count| (1_000..2_000).contains(count)));
        assert!(granted.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
