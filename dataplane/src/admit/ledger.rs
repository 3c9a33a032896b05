//! How many flows each prefix of one length holds: an open-addressed table of fixed size under a keyed hash.

use crate::sip::{Sip13, SipKey};
use crate::wire::Address;

/// Flows of one prefix, and how many of them are strangers'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) flows: u32,
    pub(super) strangers: u32,
}

/// Prefixes with at least one flow. At most half of the places are ever taken, so probing is short.
pub(super) struct Ledger {
    key: SipKey,
    /// A power of two; a place without flows is free.
    places: Vec<(Address, Count)>,
}

impl Ledger {
    /// Room for as many prefixes as there may be flows.
    pub(super) fn new(flows: usize, seed: [u8; 16]) -> Self {
        let places = (2 * flows).next_power_of_two();
        Ledger { key: SipKey::new(seed), places: vec![Default::default(); places] }
    }

    pub(super) fn get(&self, prefix: Address) -> Count {
        self.places[self.find(prefix)].1
    }

    /// Sets a prefix's count; without flows it leaves the table.
    pub(super) fn set(&mut self, prefix: Address, count: Count) {
        let place = self.find(prefix);
        self.places[place] = (prefix, count);
        if count.flows == 0 {
            self.close_gap(place);
        }
    }

    /// The place of a prefix, or the free one where it would be.
    fn find(&self, prefix: Address) -> usize {
        let mut at = self.home(prefix);
        while self.places[at].1.flows != 0 && self.places[at].0 != prefix {
            at = self.next(at);
        }
        at
    }

    /// Moves those back that a free place would cut off from their home.
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.places.len() - 1;
        let mut at = self.next(gap);
        while self.places[at].1.flows != 0 {
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
            let mut model: HashMap<Address, Count> = HashMap::new();
            for (number, flows) in operations {
                let prefix = Address::from_v4(number.to_be_bytes());
                let taken = model.values().filter(|count| count.flows > 0).count();
                if taken == 16 && flows > 0 && model.get(&prefix).is_none_or(|count| count.flows == 0) {
                    continue;
                }
                let count = Count { flows, strangers: flows / 2 };
                ledger.set(prefix, count);
                model.insert(prefix, count);
                for (prefix, count) in &model {
                    prop_assert_eq!(ledger.get(*prefix), *count);
                }
            }
        }
    }
}
