//! A keyed hash index from 4-tuples to slots: open addressing, linear probing, fixed capacity.
//!
//! Peers choose half of a key, so the hash is keyed (SipHash-1-3) and nobody can aim at one bucket. Each entry carries 32
//! bits of the hash, so that a probe touches the flow itself only on a match and removal needs no rehashing.

use crate::sip::{SipKey, flow13};
use crate::wire::FlowKey;

/// The keyed hash of a 4-tuple.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyHash(u64);

impl KeyHash {
    /// The half that the table does not use: a number that the 4-tuple decides and nobody can guess.
    pub fn offset(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Hashes 4-tuples under a secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed(SipKey);

impl Keyed {
    /// From a 128-bit secret.
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Keyed(SipKey::new(secret))
    }

    /// The secret.
    pub(crate) fn key(&self) -> &SipKey {
        &self.0
    }

    /// The hash of `key`.
    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> KeyHash {
        KeyHash(flow13(&self.0, key))
    }

    /// The hash of `key` as a number, for values that must be hard to guess.
    pub(crate) fn number(&self, key: &FlowKey) -> u64 {
        self.hash(key).0
    }
}

/// Hash tag in the high half, slot in the low half.
type Entry = u64;
const EMPTY: Entry = u64::MAX;

/// The index.
#[derive(Debug)]
pub(crate) struct Index {
    entries: Vec<Entry>,
    mask: usize,
}

impl Index {
    /// An index for `capacity` keys; never more than half full.
    pub(crate) fn new(capacity: usize) -> Self {
        let size = (capacity.max(4) * 2).next_power_of_two();
        Index { entries: vec![EMPTY; size], mask: size - 1 }
    }

    fn home(&self, entry: Entry) -> usize {
        (entry >> 32) as usize & self.mask
    }

    fn tag(hash: KeyHash) -> Entry {
        // 31 bits of tag keep an entry from ever looking like EMPTY.
        (hash.0 & 0x7fff_ffff) << 32
    }

    /// Asks for the bucket of `hash`, so that a batch's lookups overlap their cache misses. A plain read would do so too,
    /// but hold up what follows it for as long as the miss lasts.
    #[inline]
    pub(crate) fn touch(&self, hash: KeyHash) {
        prefetch_index::prefetch_index(&self.entries, self.home(Self::tag(hash)));
    }

    /// The first slot whose hash fits: most likely the one that [`Index::find`] will find.
    #[inline]
    pub(crate) fn guess(&self, hash: KeyHash) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The slot whose hash fits and that `matches` accepts.
    #[inline]
    pub(crate) fn find(&self, hash: KeyHash, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = Self::tag(hash);
        let mut at = self.home(tag);
        loop {
            let entry = self.entries[at];
            if entry == EMPTY {
                return None;
            }
            if entry & !u64::from(u32::MAX) == tag && matches(entry as u32) {
                return Some(entry as u32);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds a slot. The caller keeps to the capacity and knows that the key is new.
    pub(crate) fn insert(&mut self, hash: KeyHash, slot: u32) {
        let tag = Self::tag(hash);
        let mut at = self.home(tag);
        while self.entries[at] != EMPTY {
            at = (at + 1) & self.mask;
        }
        self.entries[at] = tag | u64::from(slot);
    }

    /// Removes a slot and closes the gap that it leaves.
    pub(crate) fn remove(&mut self, hash: KeyHash, slot: u32) {
        let wanted = Self::tag(hash) | u64::from(slot);
        let mut at = self.home(wanted);
        while self.entries[at] != wanted {
            if self.entries[at] == EMPTY {
                return;
            }
            at = (at + 1) & self.mask;
        }
        let mut probe = at;
        loop {
            probe = (probe + 1) & self.mask;
            let entry = self.entries[probe];
            if entry == EMPTY {
                break;
            }
            // An entry may move into the gap unless its home lies between the gap and itself.
            let distance = probe.wrapping_sub(self.home(entry)) & self.mask;
            if distance >= probe.wrapping_sub(at) & self.mask {
                self.entries[at] = entry;
                at = probe;
            }
        }
        self.entries[at] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, SocketAddr};

    use proptest::prelude::*;

    use super::*;

    fn key(n: u16) -> FlowKey {
        let local = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 8444));
        FlowKey::new(local, SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), n)))
    }

    proptest! {
        /// Against a map, at every filling up to the capacity. Twelve tags for all keys make long runs.
        #[test]
        fn behaves_like_a_map(steps in prop::collection::vec((any::<bool>(), 0..64u32), 1..300)) {
            let mut index = Index::new(32);
            let mut model = HashMap::new();
            for (insert, slot) in steps {
                let hash = KeyHash(u64::from(slot % 12) * 7);
                if insert && model.len() < 32 && !model.contains_key(&slot) {
                    index.insert(hash, slot);
                    model.insert(slot, hash);
                } else if !insert {
                    index.remove(hash, slot);
                    model.remove(&slot);
                }
                for slot in 0..64 {
                    let hash = KeyHash(u64::from(slot % 12) * 7);
                    let found = index.find(hash, |candidate| candidate == slot);
                    prop_assert_eq!(found, model.contains_key(&slot).then_some(slot));
                }
            }
        }
    }

    #[test]
    fn the_secret_decides_the_bucket() {
        let (one, two) = (Keyed::new([1; 16]), Keyed::new([2; 16]));
        assert!((0..64).any(|n| one.hash(&key(n)).0 % 64 != two.hash(&key(n)).0 % 64));
        assert_eq!(one.hash(&key(7)), Keyed::new([1; 16]).hash(&key(7)));
    }

    #[test]
    fn both_directions_of_a_connection_differ() {
        let keyed = Keyed::new([3; 16]);
        let there = key(9);
        let back = FlowKey::new(there.remote(), there.local());
        assert_ne!(keyed.hash(&there), keyed.hash(&back));
    }
}
