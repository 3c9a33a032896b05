//! `deny-lookup`: whether a source is denied, by a list of a hundred thousand prefixes, against ten nanoseconds.

use std::hint::black_box;

use hedgerow_dataplane::screen::DenyList;
use hedgerow_dataplane::wire::{Address, Prefix};

use crate::{Figure, processor_time};

/// Prefixes on the list.
const PREFIXES: usize = 100_000;
/// Sources that are asked for, in turn: more than the first-level cache holds the way to.
const SOURCES: usize = 1 << 16;
/// What a look-up may take.
const NANOS: f64 = 10.0;

/// The figure.
pub struct DenyLookup {
    rounds: usize,
    list: DenyList,
    sources: Vec<Address>,
    denied: usize,
}

impl DenyLookup {
    /// `lookups` a round.
    pub fn new(lookups: usize) -> Self {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            // xorshift64: the same list each time.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        // What lists of abusers look like: hosts above all, some networks, one in eight IPv6.
        let prefixes: Vec<Prefix> = (0..PREFIXES)
            .map(|n| {
                let bits = next();
                match n % 8 {
                    0 => Prefix::of(v6(bits), [48, 56, 64][n / 8 % 3]),
                    1 | 2 => Prefix::of(v4(bits), 24),
                    3 => Prefix::of(v4(bits), 16 + (n / 8 % 8) as u8),
                    _ => Prefix::host(v4(bits)),
                }
            })
            .collect();
        // Every second source is on the list: strangers that are not would find the short ways only.
        let sources: Vec<Address> = (0..SOURCES)
            .map(|n| match n % 16 {
                0 => v6(next()),
                n if n % 2 == 1 => prefixes[next() as usize % PREFIXES].last(),
                _ => v4(next()),
            })
            .collect();
        let list = DenyList::new(prefixes, 1);
        let denied = sources.iter().filter(|source| list.covers(**source)).count();
        DenyLookup { rounds: lookups.div_ceil(SOURCES), list, sources, denied }
    }
}

fn v4(bits: u64) -> Address {
    Address::from_v4((bits as u32).to_be_bytes())
}

fn v6(bits: u64) -> Address {
    Address::from_v6((0x2000_u128 << 112 | u128::from(bits) << 60).to_be_bytes())
}

impl Figure for DenyLookup {
    fn name(&self) -> &'static str {
        "deny-lookup"
    }

    fn unit(&self) -> &'static str {
        "M look-ups/s"
    }

    fn peer(&self) -> &'static str {
        "10 ns each"
    }

    fn bar(&self) -> f64 {
        1.0
    }

    fn note(&self) -> String {
        let share = 100 * self.denied / SOURCES;
        format!(
            "{PREFIXES} prefixes, one in eight IPv6; {SOURCES} sources in turn, {share}% of them denied, hits counted"
        )
    }

    fn ours(&mut self) -> f64 {
        let mut denied = 0;
        let start = processor_time();
        for _ in 0..self.rounds {
            denied += self.sources.iter().filter(|source| self.list.refuses(black_box(**source), 0)).count();
        }
        let seconds = (processor_time() - start).as_secs_f64();
        assert_eq!(denied, self.rounds * self.denied, "each look-up is right");
        (self.rounds * SOURCES) as f64 / seconds / 1e6
    }

    fn theirs(&mut self) -> f64 {
        1e3 / NANOS
    }
}
