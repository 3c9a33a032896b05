//! Lists of prefixes in files of their own: one a line, `#` or `;` begins a comment.

use hedgerow_dataplane::wire::{Address, Prefix};

/// Prefixes of all lists together.
pub const PREFIXES_MAX: usize = 1_000_000;
/// Largest list, in bytes.
pub const FILE_MAX: u64 = 64 << 20;
/// The widest prefixes that a deny list may have: nobody refuses a family by a slip of the pen.
const WIDEST: [u8; 2] = [8, 16];
/// Mistakes of one list that are told.
const TOLD: usize = 5;

/// Reads a list; the mistakes with the numbers of their lines, the first few of them.
pub fn read(text: &str) -> Result<Vec<Prefix>, Vec<(usize, String)>> {
    let (mut prefixes, mut bad) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split(['#', ';']).next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match line.parse::<Prefix>() {
            Ok(prefix) => prefixes.push(prefix),
            Err(error) if bad.len() < TOLD => bad.push((number, error.to_string())),
            Err(_) => {}
        }
    }
    if bad.is_empty() { Ok(prefixes) } else { Err(bad) }
}

/// Whether a prefix is wider than any network that is meant.
pub fn is_too_wide(prefix: Prefix) -> bool {
    prefix.length() < WIDEST[usize::from(!prefix.is_v4())]
}

/// What is left of `deny` once everything of `keep` is taken out of it, sorted: prefixes that contain one of `keep` fall
/// apart into those around it.
pub fn without(deny: Vec<Prefix>, keep: impl IntoIterator<Item = Prefix>) -> Vec<Prefix> {
    let keep = widest(keep.into_iter().collect());
    let mut left = Vec::with_capacity(deny.len());
    for prefix in deny {
        // The kept ones are apart from each other: one that contains the prefix is the last to begin before its end.
        let after = keep.partition_point(|kept| kept.address() <= prefix.address());
        let around = keep[..after].last().is_some_and(|kept| kept.contains(prefix));
        let from = keep.partition_point(|kept| kept.address() < prefix.address());
        let until = keep.partition_point(|kept| kept.address() <= prefix.last());
        if !around {
            split(prefix, keep.get(from..until).unwrap_or_default(), &mut left);
        }
    }
    left.sort_unstable();
    left.dedup();
    left
}

/// The prefixes that no other one contains, sorted.
fn widest(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_unstable();
    let mut widest: Vec<Prefix> = Vec::with_capacity(prefixes.len());
    for prefix in prefixes {
        if !widest.last().is_some_and(|last| last.contains(prefix)) {
            widest.push(prefix);
        }
    }
    widest
}

/// Halves a prefix until each half contains nothing that is kept, or is kept. It ends with the address' bits.
fn split(prefix: Prefix, kept: &[Prefix], left: &mut Vec<Prefix>) {
    let [first, ..] = kept else { return left.push(prefix) };
    if first.contains(prefix) {
        return;
    }
    let length = prefix.length() + 1;
    let low = Prefix::of(prefix.address(), length);
    let high = Prefix::of(next(low.last()), length);
    let middle = kept.partition_point(|kept| kept.address() < high.address());
    split(low, &kept[..middle], left);
    split(high, &kept[middle..], left);
}

fn next(address: Address) -> Address {
    Address::from_v6(address.bits().wrapping_add(1).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use hedgerow_dataplane::wire::PrefixSet;
    use proptest::prelude::*;

    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn lists_are_read_with_comments_and_mistakes_are_placed() {
        let list = read("# mine\n203.0.113.0/24 ; SBL1\n\n 2001:db8::/32 # rude\r\n198.51.100.7\n").unwrap();
        assert_eq!(list, prefixes(&["203.0.113.0/24", "2001:db8::/32", "198.51.100.7"]));
        let bad = read("1.2.3.4\n10.0.0.1/8\nhost.example\n").unwrap_err();
        assert_eq!(bad.iter().map(|bad| bad.0).collect::<Vec<_>>(), [2, 3]);
        assert!(bad[0].1.contains("expected 10.0.0.0/8"), "{}", bad[0].1);
        assert_eq!(read(&"x\n".repeat(1_000)).unwrap_err().len(), TOLD);
    }

    #[test]
    fn what_is_kept_is_taken_out() {
        let left = without(
            prefixes(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]),
            prefixes(&["10.0.1.11", "192.0.2.0/24"]),
        );
        assert_eq!(left.len(), 24 + 1);
        let set = PrefixSet::new(left);
        assert!(set.covers("10.0.1.10/32".parse::<Prefix>().unwrap().address()));
        assert!(!set.covers("10.0.1.11/32".parse::<Prefix>().unwrap().address()));
        assert_eq!(without(prefixes(&["10.0.0.0/8"]), prefixes(&["10.0.0.0/8"])), []);
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        // Few bits that differ, so that they overlap.
        (0..4_u8, 0..16_u8, 8..=32_u8)
            .prop_map(|(a, b, length)| Prefix::of(Address::from_v4([10, a, b << 4, 0]), length))
    }

    proptest! {
        #[test]
        fn an_address_is_left_if_it_was_denied_and_not_kept(
            deny in prop::collection::vec(prefix(), 0..8), keep in prop::collection::vec(prefix(), 0..8),
            probes in prop::collection::vec((0..4_u8, any::<u8>(), 0..2_u8), 40),
        ) {
            let left = PrefixSet::new(without(deny.clone(), keep.clone()));
            for (a, b, c) in probes {
                let address = Address::from_v4([10, a, b, c]);
                let of = |set: &[Prefix]| set.iter().any(|prefix| prefix.covers(address));
                prop_assert_eq!(left.covers(address), of(&deny) && !of(&keep), "{}", address);
            }
        }
    }
}
