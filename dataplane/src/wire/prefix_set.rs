//! A set of prefixes that is asked for the longest one covering an address: bans, friends.
//!
//! The prefixes of each family are flattened into ranges that do not overlap, sorted by their first address, each with the
//! longest prefix that covers it. A look-up begins at a table of the first sixteen bits, and compares the few ranges there or
//! searches them by halves; it allocates nothing. A hundred thousand IPv4 prefixes take some two megabytes. A set never
//! changes: make another one.

use super::{Address, Prefix};

/// No prefix covers the range.
const NONE: u32 = u32::MAX;
/// With fewer ranges than this, the table of the first bits is not worth its quarter of a megabyte.
const COARSE_FROM: usize = 256;

/// So few ranges are all compared at once, without a branch that could be guessed wrong: faster than a search by halves.
const TOGETHER: usize = 8;

/// The ranges of one family.
#[derive(Clone, Debug)]
struct Ranges<N> {
    /// The first address of each range.
    starts: Vec<N>,
    /// The prefix that covers it.
    owners: Vec<u32>,
    /// By the first sixteen bits of an address: the first range that begins there or later. Empty in small sets.
    coarse: Vec<u32>,
}

impl<N: Copy + Ord> Ranges<N> {
    fn new(pieces: Vec<(N, u32)>, top: impl Fn(N) -> u16) -> Self {
        let mut ranges = Ranges {
            starts: pieces.iter().map(|piece| piece.0).collect(),
            owners: pieces.iter().map(|piece| piece.1).collect(),
            coarse: Vec::new(),
        };
        if pieces.len() >= COARSE_FROM {
            let first = |bits: u32| ranges.starts.partition_point(|&start| u32::from(top(start)) < bits);
            ranges.coarse = (0..=1 << 16).map(|bits| first(bits) as u32).collect();
        }
        ranges
    }

    #[inline]
    fn find(&self, address: N, top: u16) -> Option<u32> {
        let (low, high) = match self.coarse.get(usize::from(top)..usize::from(top) + 2) {
            Some(&[low, high]) => (low as usize, high as usize),
            _ => (0, self.starts.len()),
        };
        let within = match self.starts.get(low..low + TOGETHER) {
            // Those from `high` on begin behind the address: their first bits are greater.
            Some(near) if high - low <= TOGETHER => {
                near.iter().map(|&start| usize::from(start <= address)).sum()
            }
            _ => self.starts.get(low..high)?.partition_point(|&start| start <= address),
        };
        let owner = *self.owners.get((low + within).checked_sub(1)?)?;
        (owner != NONE).then_some(owner)
    }
}

/// A set of prefixes.
#[derive(Clone, Debug)]
pub struct PrefixSet {
    prefixes: Vec<Prefix>,
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl Default for PrefixSet {
    fn default() -> Self {
        PrefixSet::new([])
    }
}

impl FromIterator<Prefix> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        PrefixSet::new(prefixes)
    }
}

impl PrefixSet {
    /// The set of these prefixes; what comes twice counts once.
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut prefixes: Vec<Prefix> = prefixes.into_iter().collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let (mut v4, mut v6) = (Sweep::default(), Sweep::default());
        for (index, prefix) in (0..).zip(&prefixes) {
            let sweep = if prefix.is_v4() { &mut v4 } else { &mut v6 };
            sweep.add(index, *prefix);
        }
        // IPv4 addresses are the low half of their form, and the range after the last one is cut off with it.
        let v4 = v4.finish().into_iter().map(|(start, owner)| (start as u32, owner)).collect();
        PrefixSet {
            v4: Ranges::new(v4, |start| (start >> 16) as u16),
            v6: Ranges::new(v6.finish(), |start| (start >> 112) as u16),
            prefixes,
        }
    }

    /// The prefixes, sorted.
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }

    /// Whether there is no prefix.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }

    /// The longest prefix that covers an address, by its place in [`PrefixSet::prefixes`].
    #[inline]
    pub fn find(&self, address: Address) -> Option<usize> {
        let bits = address.bits();
        let found = match address.is_v4() {
            true => self.v4.find(bits as u32, (bits >> 16) as u16),
            false => self.v6.find(bits, (bits >> 112) as u16),
        };
        found.map(|owner| owner as usize)
    }

    /// Whether a prefix covers an address.
    #[inline]
    pub fn covers(&self, address: Address) -> bool {
        !self.is_empty() && self.find(address).is_some()
    }
}

/// Goes through the sorted prefixes of a family, wide before narrow, and writes down where the longest one changes.
#[derive(Default)]
struct Sweep {
    pieces: Vec<(u128, u32)>,
    /// Prefixes that have begun and not ended, each within the one before: last address and index.
    open: Vec<(u128, u32)>,
}

impl Sweep {
    fn add(&mut self, index: u32, prefix: Prefix) {
        let first = prefix.address().bits();
        self.close_before(first);
        self.write(first, index);
        self.open.push((prefix.last().bits(), index));
    }

    fn close_before(&mut self, first: u128) {
        while let Some(&(last, _)) = self.open.last().filter(|(last, _)| *last < first) {
            self.close(last);
        }
    }

    fn close(&mut self, last: u128) {
        self.open.pop();
        let around = self.open.last().map_or(NONE, |&(_, index)| index);
        if let Some(next) = last.checked_add(1).filter(|next| !past_v4(*next)) {
            self.write(next, around);
        }
    }

    /// A range begins; one that began at the same address is empty.
    fn write(&mut self, start: u128, owner: u32) {
        if self.pieces.last().is_some_and(|&(last, _)| last == start) {
            self.pieces.pop();
        }
        if self.pieces.last().is_none_or(|&(_, before)| before != owner) {
            self.pieces.push((start, owner));
        }
    }

    fn finish(mut self) -> Vec<(u128, u32)> {
        while let Some(&(last, _)) = self.open.last() {
            self.close(last);
        }
        self.pieces
    }
}

/// Whether this is the number after the last IPv4 address.
const fn past_v4(bits: u128) -> bool {
    bits == 0x1_0000_0000_0000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (0u8..4, 0u8..4, any::<[u8; 2]>(), 0u8..=32)
            .prop_map(|(a, b, [c, d], length)| Prefix::of(Address::from_v4([a, b, c, d]), length));
        let v6 = (0u8..3, any::<[u8; 2]>(), 0u8..=128).prop_map(|(a, [b, c], length)| {
            Prefix::of(Address::from_v6([0x20, 1, a, b, c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, c]), length)
        });
        prop_oneof![2 => v4, 1 => v6, 1 => Just(Prefix::of(Address::from_v4([255; 4]), 8))]
    }

    /// The addresses at which an answer may change.
    fn edges(prefixes: &[Prefix]) -> Vec<Address> {
        let at = |bits: u128| Address::from_v6(bits.to_be_bytes());
        let around = |prefix: &Prefix| {
            let (first, last) = (prefix.address().bits(), prefix.last().bits());
            [first, last, first.saturating_sub(1), last.saturating_add(1)].map(at)
        };
        prefixes.iter().flat_map(around).collect()
    }

    proptest! {
        #[test]
        fn finds_the_longest_prefix(prefixes in proptest::collection::vec(any_prefix(), 0..400)) {
            let set = PrefixSet::new(prefixes.iter().copied());
            for address in edges(&prefixes) {
                let covering = prefixes.iter().filter(|prefix| prefix.covers(address));
                let longest = covering.max_by_key(|prefix| prefix.length()).copied();
                let found = set.find(address).map(|index| set.prefixes()[index]);
                prop_assert_eq!(found, longest, "{}", address);
                prop_assert_eq!(set.covers(address), longest.is_some());
            }
        }
    }

    #[test]
    fn whole_families_have_edges_too() {
        let all = |text: &str| PrefixSet::new([text.parse::<Prefix>().expect("a prefix")]);
        let (first, last) = (Address::from_v4([0; 4]), Address::from_v4([255; 4]));
        assert!(all("0.0.0.0/0").covers(first) && all("0.0.0.0/0").covers(last));
        assert!(!all("0.0.0.0/0").covers(Address::from_v6([0x20; 16])));
        assert!(all("::/0").covers(Address::from_v6([0xff; 16])) && !all("::/0").covers(last));
        assert!(!PrefixSet::default().covers(first));
    }
}
