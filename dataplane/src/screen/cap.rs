//! The cap on replies per destination prefix: a sketch of token buckets, so that no flood of forged sources turns us into
//! a weapon against anyone (promise: fixed memory, whatever the number of prefixes).

use core::time::Duration;

use crate::sip::{Sip13, SipKey};
use crate::time::Instant;
use crate::wire::Address;

/// Bursts of so many seconds' worth of replies pass.
const BURST: Duration = Duration::from_secs(2);

/// Two rows of token buckets under independent hashes. A prefix may be answered while one of its two buckets has tokens,
/// and then both pay. So no prefix gets more than its rate, and it gets less only where *both* of its buckets are shared
/// with prefixes under attack.
///
/// A bucket is the instant, in microseconds, at which it will be full again (the generic cell rate algorithm).
pub(super) struct ReplyCap {
    /// Secrets of the hash: what is added to a prefix, and what it is multiplied by.
    key: (u64, u64),
    rows: [Vec<u64>; 2],
    /// Microseconds that one reply costs; zero where there is no cap.
    cost: u64,
}

impl ReplyCap {
    /// A cap of `per_second` replies; above a million there is none.
    pub(super) fn new(per_second: u32, buckets_log2: u8, seed: [u8; 16]) -> Self {
        let buckets = 1 << buckets_log2.min(24);
        let secret = |number| Sip13::new(&SipKey::new(seed)).word(number).finish(8, 0);
        ReplyCap {
            key: (secret(0), secret(1) | 1),
            rows: [vec![0; buckets], vec![0; buckets]],
            cost: cost(per_second),
        }
    }

    /// Half of a rate, where it is one; never less than a reply a second.
    pub(super) fn half(&self, per_second: u32) -> Option<u32> {
        (cost(per_second) > 0).then(|| (per_second / 2).max(1))
    }

    /// Changes the rate.
    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.cost = cost(per_second);
    }

    /// Numbers that nobody else knows, for another sketch like this one; those that a prefix is multiplied by are odd.
    pub(super) fn secrets(&self) -> [u64; 4] {
        let mixed =
            |n: u64| (self.key.0 ^ n).wrapping_mul(self.key.1).rotate_left(32).wrapping_mul(self.key.1);
        [mixed(1), mixed(2) | 1, mixed(3), mixed(4) | 1]
    }

    /// Multiplies by a secret and folds. Nobody sees a bucket, and who floods enough prefixes to find two that share both
    /// buckets with a victim has filled the table anyway: no stronger hash would help.
    #[inline]
    fn hash(&self, prefix: u64) -> u64 {
        let product = u128::from(prefix ^ self.key.0) * u128::from(self.key.1);
        product as u64 ^ (product >> 64) as u64
    }

    /// Takes a token for a reply to `destination`; false where there is none left.
    pub(super) fn take(&mut self, now: Instant, destination: Address) -> bool {
        let hash = self.hash(prefix(destination));
        let [first, second] = &mut self.rows;
        let mask = first.len() - 1;
        let (Some(first), Some(second)) =
            (first.get_mut(hash as usize & mask), second.get_mut((hash >> 32) as usize & mask))
        else {
            return false;
        };
        let now = now.micros();
        if (*first).min(*second) > now + BURST.as_micros() as u64 {
            return false;
        }
        *first = (*first).max(now) + self.cost;
        *second = (*second).max(now) + self.cost;
        true
    }
}

/// Microseconds that a reply costs.
fn cost(per_second: u32) -> u64 {
    1_000_000 / u64::from(per_second.max(1))
}

/// The IPv4 /24 or IPv6 /48 in 56 bits; the families differ because no packet carries `::ffff:0:0/96`.
fn prefix(address: Address) -> u64 {
    match address.v4() {
        Some([a, b, c, _]) => u64::from(u32::from_be_bytes([0, a, b, c])) | 1 << 55,
        None => (address.bits() >> 80) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(per_second: u32) -> ReplyCap {
        ReplyCap::new(per_second, 10, [7; 16])
    }

    fn host(network: u32, host: u8) -> Address {
        let [a, b, c, _] = (network << 8).to_be_bytes();
        Address::from_v4([a, b, c, host])
    }

    #[test]
    fn one_prefix_gets_its_rate_and_a_burst() {
        let mut cap = cap(100);
        let passed = |cap: &mut ReplyCap, at: u64| {
            let instant = Instant::from_millis(at);
            (0..5000u32).filter(|&n| cap.take(instant, host(0x0a_0000, n as u8))).count()
        };
        assert_eq!(passed(&mut cap, 0), 201);
        assert_eq!(passed(&mut cap, 0), 0);
        assert_eq!(passed(&mut cap, 1_000), 100);
        assert_eq!(passed(&mut cap, 100_000), 201);
    }

    #[test]
    fn a_flood_from_one_prefix_costs_others_nothing() {
        let mut cap = cap(100);
        for _ in 0..10_000 {
            cap.take(Instant::ZERO, host(0x0a_0000, 1));
        }
        let starved =
            (1..5_000).filter(|&other| !cap.take(Instant::ZERO, host(0x0b_0000 + other, 1))).count();
        assert_eq!(starved, 0);
    }

    #[test]
    fn a_v6_site_counts_as_one_and_families_are_apart() {
        let mut cap = cap(1);
        let v6 = |text: &str| Address::from(text.parse::<std::net::IpAddr>().unwrap());
        for host in 0..3u16 {
            assert!(cap.take(Instant::ZERO, v6(&format!("2001:db8:1:{host:x}::{host:x}"))));
        }
        assert!(!cap.take(Instant::ZERO, v6("2001:db8:1:ffff::9")));
        assert!(cap.take(Instant::ZERO, v6("2001:db8:2::9")));
        assert!(cap.take(Instant::ZERO, host(1, 1)));
    }

    #[test]
    fn above_a_million_there_is_no_cap() {
        let mut cap = cap(u32::MAX);
        assert!((0..100_000).all(|_| cap.take(Instant::ZERO, host(1, 1))));
    }
}
