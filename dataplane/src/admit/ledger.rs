//! What belongs to each prefix of one length: an open-addressed table of fixed size under a keyed hash.

use crate::sip::{Sip13, SipKey};
use crate::wire::Address;

/// A value that a table keeps only while there is something to keep.
pub(super) trait Vacant: Copy + Default {
    /// Whether there is nothing to keep, as in the default.
    fn vacant(&self) -> bool;
}

impl Vacant for u32 {
    fn vacant(&self) -> bool {
        *self == 0
    }
}

/// Prefixes with a value. At most half of the places are ever taken, so probing is short.
pub(super) struct Ledger<V> {
    key: SipKey,
    /// A power of two; a place with a vacant value is free.
    places: Vec<(Address, V)>,
}

impl<V: Vacant> Ledger<V> {
    /// Room for `prefixes` prefixes.
    pub(super) fn new(prefixes: usize, seed: [u8; 16]) -> Self {
        let places = (2 * prefixes).next_power_of_two();
        Ledger { key: SipKey::new(seed), places: vec![Default::default(); places] }
    }

    pub(super) fn get(&self, prefix: Address) -> V {
        self.places[self.find(prefix)].1
    }

    /// Sets a prefix's value; with a vacant one it leaves the table.
    pub(super) fn set(&mut self, prefix: Address, value: V) {
        let place = self.find(prefix);
        self.places[place] = (prefix, value);
        if value.vacant() {
            self.close_gap(place);
        }
    }

    /// The place of a prefix, or the free one where it would be.
    fn find(&self, prefix: Address) -> usize {
        let mut at = self.home(prefix);
        while !self.places[at].1.vacant() && self.places[at].0 != prefix {
            at = self.next(at);
        }
        at
    }

    /// Moves those back that a free place would cut off from their home.
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.places.len() - 1;
        let mut at = self.next(gap);
        while !self.places[at].1.vacant() {
            let home = self.home(self.places[at].0);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.places.swap(gap, at);
                gap = at;
            }
            at = self.next(at);
        }
    }

    fn home(&self, prefix: Address) -> usize {
        let bits = prefix.bits();
        let hash = Sip13::new(&self.key).word((bits >> 64) as u64).word(bits as u64).finish(16, 0);
        hash as usize & (self.places.len() - 1)
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.places.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_map(operations in proptest::collection::vec((0u32..24, 0u32..3), 0..400)) {
            let mut ledger = Ledger::new(16, [3; 16]);
            let mut model: HashMap<Address, u32> = HashMap::new();
            for (number, flows) in operations {
                let prefix = Address::from_v4(number.to_be_bytes());
                let taken = model.values().filter(|&&flows| flows > 0).count();
                if taken == 16 && flows > 0 && model.get(&prefix).is_none_or(|&flows| flows == 0) {
                    continue;
                }
                ledger.set(prefix, flows);
                model.insert(prefix, flows);
                for (prefix, flows) in &model {
                    prop_assert_eq!(ledger.get(*prefix), *flows);
                }
            }
        }
    }
}
