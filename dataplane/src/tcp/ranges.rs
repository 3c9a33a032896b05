//! Sorted, disjoint ranges of sequence space with a fixed bound, and the shelf that lends them to flows.
//!
//! Reassembly (what arrived ahead of a gap) and the scoreboard (what the peer holds ahead of a gap) are both such sets. A
//! flow without gaps holds none.

use crate::wire::Seq;

/// Ranges in a set at most.
pub(crate) const RANGES: usize = 32;
/// How many recent insertions a set remembers, for SACK blocks in RFC 2018's order.
pub(crate) const RECENT: usize = 4;

/// A sorted set of disjoint, non-adjacent ranges `[left, right)`.
#[derive(Clone, Debug)]
pub(crate) struct Ranges {
    items: [(Seq, Seq); RANGES],
    count: usize,
    /// A member of each of the ranges that were touched last, latest first.
    recent: [Seq; RECENT],
    bytes: u32,
}

impl Default for Ranges {
    fn default() -> Self {
        Ranges { items: [(Seq(0), Seq(0)); RANGES], count: 0, recent: [Seq(0); RECENT], bytes: 0 }
    }
}

impl Ranges {
    /// The ranges in order.
    pub(crate) fn as_slice(&self) -> &[(Seq, Seq)] {
        &self.items[..self.count]
    }

    /// Whether there is no range.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Sequence numbers covered.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Whether `[left, right)` could be inserted without exceeding the bound.
    pub(crate) fn fits(&self, left: Seq, right: Seq) -> bool {
        self.count < RANGES || self.touching(left, right).1 > 0
    }

    /// Index of the first range that overlaps or touches `[left, right)`, and how many do.
    fn touching(&self, left: Seq, right: Seq) -> (usize, usize) {
        let first = self.as_slice().partition_point(|range| range.1.before(left));
        let count = self.as_slice()[first..].partition_point(|range| range.0.at_most(right));
        (first, count)
    }

    /// Adds `[left, right)`; says how many sequence numbers are new, or `None` if the bound would be exceeded.
    pub(crate) fn insert(&mut self, left: Seq, right: Seq) -> Option<u32> {
        if !left.before(right) {
            return Some(0);
        }
        let (first, merged) = self.touching(left, right);
        if merged == 0 && self.count == RANGES {
            return None;
        }
        let (mut low, mut high, mut known) = (left, right, 0);
        for range in &self.items[first..first + merged] {
            known += range.1 - range.0;
            low = low.min(range.0);
            high = high.max(range.1);
        }
        if merged == 0 {
            self.items.copy_within(first..self.count, first + 1);
            self.count += 1;
        } else {
            self.items.copy_within(first + merged..self.count, first + 1);
            self.count -= merged - 1;
        }
        self.items[first] = (low, high);
        let new = (high - low) - known;
        self.bytes += new;
        self.touch(low, high);
        Some(new)
    }

    /// Puts the range `[low, high)` first among the recent ones.
    fn touch(&mut self, low: Seq, high: Seq) {
        let at = self.recent.iter().position(|seq| seq.within(low, high)).unwrap_or(RECENT - 1);
        self.recent.copy_within(0..at, 1);
        self.recent[0] = low;
    }

    /// Removes everything before `seq`.
    pub(crate) fn remove_before(&mut self, seq: Seq) {
        let gone = self.as_slice().partition_point(|range| range.1.at_most(seq));
        self.bytes -= self.items[..gone].iter().map(|range| range.1 - range.0).sum::<u32>();
        self.items.copy_within(gone..self.count, 0);
        self.count -= gone;
        if let Some(range) = self.items[..self.count].first_mut()
            && range.0.before(seq)
        {
            self.bytes -= seq - range.0;
            range.0 = seq;
        }
    }

    /// The range that contains or begins at `seq`.
    pub(crate) fn containing(&self, seq: Seq) -> Option<(Seq, Seq)> {
        let at = self.as_slice().partition_point(|range| range.1.at_most(seq));
        self.as_slice().get(at).copied().filter(|range| range.0.at_most(seq))
    }

    /// The first gap in `[from, to)`.
    pub(crate) fn gap(&self, from: Seq, to: Seq) -> Option<(Seq, Seq)> {
        let mut left = from;
        for &(start, end) in self.as_slice() {
            if end.at_most(left) {
                continue;
            }
            if start.after(left) {
                return left.before(to).then(|| (left, start.min(to)));
            }
            left = end;
        }
        left.before(to).then_some((left, to))
    }

    /// Sequence numbers of `[from, to)` that no range covers.
    pub(crate) fn uncovered(&self, from: Seq, to: Seq) -> u32 {
        if !from.before(to) {
            return 0;
        }
        let covered: u32 = self
            .as_slice()
            .iter()
            .map(|&(left, right)| (left.max(from), right.min(to)))
            .filter(|(left, right)| left.before(*right))
            .map(|(left, right)| right - left)
            .sum();
        (to - from) - covered
    }

    /// Ranges, the one touched last first (RFC 2018, section 4).
    pub(crate) fn by_recency(&self) -> impl Iterator<Item = (Seq, Seq)> + '_ {
        let mut shown = [(Seq(0), Seq(0)); RECENT];
        let mut count = 0;
        self.recent.iter().filter_map(move |&seq| {
            let range = self.containing(seq)?;
            if shown[..count].contains(&range) {
                return None;
            }
            shown[count] = range;
            count += 1;
            Some(range)
        })
    }
}

/// A loan from a [`Shelf`], or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan(u32);

impl Loan {
    /// No loan.
    pub(crate) const NONE: Loan = Loan(u32::MAX);

    /// Whether nothing is lent.
    pub(crate) fn is_none(self) -> bool {
        self == Loan::NONE
    }
}

/// A bounded store of [`Ranges`].
#[derive(Debug)]
pub(crate) struct Shelf {
    sets: Vec<Ranges>,
    free: Vec<u32>,
    limit: usize,
}

impl Shelf {
    /// A shelf of at most `limit` sets.
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.min(u32::MAX as usize - 1);
        Shelf { sets: Vec::with_capacity(limit), free: Vec::with_capacity(limit), limit }
    }

    /// The set behind a loan, taking an empty one if there is none yet; `None` if all are lent.
    pub(crate) fn lend(&mut self, loan: &mut Loan) -> Option<&mut Ranges> {
        if loan.is_none() {
            *loan = match self.free.pop() {
                Some(index) => Loan(index),
                None if self.sets.len() < self.limit => {
                    self.sets.push(Ranges::default());
                    Loan(self.sets.len() as u32 - 1)
                }
                None => return None,
            };
        }
        self.sets.get_mut(loan.0 as usize)
    }

    /// The set behind a loan.
    pub(crate) fn get(&self, loan: Loan) -> Option<&Ranges> {
        self.sets.get(loan.0 as usize)
    }

    /// Takes the set back.
    pub(crate) fn settle(&mut self, loan: &mut Loan) {
        if let Some(set) = self.sets.get_mut(loan.0 as usize) {
            *set = Ranges::default();
            self.free.push(loan.0);
        }
        *loan = Loan::NONE;
    }

    /// Removes everything before `seq` from the set behind a loan, and takes the set back once it is empty.
    pub(crate) fn remove_before(&mut self, loan: &mut Loan, seq: Seq) {
        let Some(set) = self.sets.get_mut(loan.0 as usize) else { return };
        set.remove_before(seq);
        if set.is_empty() {
            self.settle(loan);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SPAN: u32 = 400;

    fn model_ranges(model: &BTreeSet<u32>, base: Seq) -> Vec<(Seq, Seq)> {
        let mut out: Vec<(Seq, Seq)> = Vec::new();
        for &n in model {
            let seq = base + n;
            match out.last_mut() {
                Some(last) if last.1 == seq => last.1 = seq + 1,
                _ => out.push((seq, seq + 1)),
            }
        }
        out
    }

    proptest! {
        /// Against a set of single numbers, across the wrap of sequence space.
        #[test]
        fn behaves_like_a_set(
            base in prop_oneof![Just(0u32), Just(u32::MAX - 100), any::<u32>()],
            steps in prop::collection::vec((any::<bool>(), 0..SPAN, 1..20u32), 1..120),
        ) {
            let base = Seq(base);
            let mut set = Ranges::default();
            let mut model = BTreeSet::new();
            let mut floor = 0;
            for (insert, at, len) in steps {
                if insert {
                    let at = at.max(floor);
                    let (left, right) = (base + at, base + at + len);
                    let fits = set.fits(left, right);
                    let new = (at..at + len).filter(|n| !model.contains(n)).count() as u32;
                    match set.insert(left, right) {
                        Some(added) => {
                            prop_assert!(fits);
                            prop_assert_eq!(added, new);
                            model.extend(at..at + len);
                            prop_assert!(set.by_recency().next().is_some_and(|r| left.within(r.0, r.1)));
                        }
                        None => {
                            prop_assert!(!fits);
                            prop_assert_eq!(set.as_slice().len(), RANGES);
                        }
                    }
                } else {
                    floor = floor.max(at / 4);
                    set.remove_before(base + floor);
                    model.retain(|&n| n >= floor);
                }
                prop_assert_eq!(set.as_slice(), &model_ranges(&model, base)[..]);
                prop_assert_eq!(set.bytes() as usize, model.len());
                let gap = (at..SPAN).find(|n| !model.contains(n));
                prop_assert_eq!(set.gap(base + at, base + SPAN).map(|g| g.0), gap.map(|n| base + n));
                let uncovered = (at..SPAN).filter(|n| !model.contains(n)).count() as u32;
                prop_assert_eq!(set.uncovered(base + at, base + SPAN), uncovered);
            }
        }
    }

    #[test]
    fn a_shelf_lends_no_more_than_it_has() {
        let mut shelf = Shelf::new(1);
        let (mut one, mut two) = (Loan::NONE, Loan::NONE);
        assert!(shelf.lend(&mut one).is_some_and(|set| set.insert(Seq(1), Seq(5)) == Some(4)));
        assert!(shelf.lend(&mut two).is_none());
        shelf.remove_before(&mut one, Seq(5));
        assert!(one.is_none());
        assert!(shelf.lend(&mut two).is_some_and(|set| set.is_empty()));
    }
}
