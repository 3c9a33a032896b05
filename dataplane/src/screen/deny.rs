//! The deny list: sources whose frames are refused unless they belong to a flow, with a count for each prefix.
//!
//! A [`DenyList`] is a snapshot that never changes but for its counts. The host makes another one when bans come or go, and
//! hands it to each shard between two batches ([`Shard::set_deny`](crate::shard::Shard::set_deny)); the longest prefix that
//! covers a source is the one that counts. Each shard counts for itself, so nothing is shared on the frame path.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::wire::{Address, Prefix, PrefixSet};

/// Denied prefixes.
#[derive(Debug, Default)]
pub struct DenyList {
    set: PrefixSet,
    /// By shard, then by prefix.
    hits: Vec<Box<[AtomicU64]>>,
}

impl DenyList {
    /// A list for `shards` shards.
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>, shards: u16) -> Self {
        let set = PrefixSet::new(prefixes);
        let count = set.prefixes().len();
        let hits = |_| (0..count).map(|_| AtomicU64::new(0)).collect();
        DenyList { hits: (0..shards.max(1)).map(hits).collect(), set }
    }

    /// The prefixes, sorted.
    pub fn prefixes(&self) -> &[Prefix] {
        self.set.prefixes()
    }

    /// Whether nothing is denied.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Whether a source is denied.
    #[inline]
    pub fn covers(&self, source: Address) -> bool {
        self.set.covers(source)
    }

    /// Whether a source is denied; a frame of its that came to `shard` is counted if it is.
    #[inline]
    pub fn refuses(&self, source: Address, shard: u16) -> bool {
        if self.set.is_empty() {
            return false;
        }
        let Some(index) = self.set.find(source) else { return false };
        if let Some(count) = self.hits.get(usize::from(shard)).and_then(|hits| hits.get(index)) {
            // Nobody else writes this one: no need for an atomic addition.
            count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
        true
    }

    /// Frames refused for each prefix, in the order of [`DenyList::prefixes`].
    pub fn hits(&self) -> impl Iterator<Item = (Prefix, u64)> + '_ {
        self.set.prefixes().iter().enumerate().map(|(index, prefix)| {
            let of = |hits: &[AtomicU64]| hits.get(index).map_or(0, |hit| hit.load(Ordering::Relaxed));
            (*prefix, self.hits.iter().map(|hits| of(hits)).sum())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_counts_and_each_shard_for_itself() {
        let prefix = |text: &str| text.parse::<Prefix>().expect("a prefix");
        let list = DenyList::new(["198.51.100.0/24", "198.51.100.7", "2001:db8::/32"].map(prefix), 2);
        let from = |a, d| Address::from_v4([a, 51, 100, d]);
        assert!(
            list.refuses(from(198, 7), 0) && list.refuses(from(198, 7), 1) && list.refuses(from(198, 8), 1)
        );
        assert!(!list.refuses(from(199, 7), 0));
        // A shard that the list was not made for refuses all the same.
        assert!(list.refuses(prefix("2001:db8::1").address(), 9));
        let hits: Vec<_> = list.hits().map(|(prefix, hits)| (prefix.to_string(), hits)).collect();
        assert_eq!(
            hits,
            [("198.51.100.0/24".into(), 1), ("198.51.100.7/32".into(), 2), ("2001:db8::/32".into(), 0)]
        );
    }
}
