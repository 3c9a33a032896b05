//! The Internet checksum (RFC 1071) as an unfolded sum, so that parts add up in any order.
//!
//! Bytes are added up as native-endian words, whatever they mean; [`numbers`] turns such a sum into one of numbers, which
//! is what header fields add to before they are laid out (RFC 1071, section 2 (B): byte order does not matter to the sum).

/// Words whose halves add up without overflow of 32 bits.
const RUN: usize = 1 << 16;

/// Adds up at most [`RUN`] words. Both totals stay within 32 bits, so that the loop becomes vector additions without
/// widening: the low halves' total is what the wrapped total of the words lacks.
#[inline]
fn run(words: impl Iterator<Item = u32>) -> u64 {
    let (all, high) =
        words.fold((0u32, 0u32), |(all, high), word| (all.wrapping_add(word), high.wrapping_add(word >> 16)));
    let low = all.wrapping_sub(high << 16);
    (u64::from(high) << 16) + u64::from(low)
}

/// Adds up `bytes` as native-endian 16-bit words, the last one padded with zero, without folding.
///
/// Sums of pieces may be added as long as every piece but the last has an even length.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 =
        words.chunks(RUN).map(|words| run(words.iter().map(|word| u32::from_ne_bytes(*word)))).sum();
    let tail = match *rest {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => return total,
    };
    total + u64::from(u32::from_ne_bytes(tail))
}

/// Copies `from` into `to` (of the same length) and adds it up on the way: one pass over memory instead of two.
pub(crate) fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    let (to_words, to_rest) = to.as_chunks_mut::<4>();
    let (from_words, from_rest) = from.as_chunks::<4>();
    let mut total = 0;
    for (to, from) in to_words.chunks_mut(RUN).zip(from_words.chunks(RUN)) {
        total += run(to.iter_mut().zip(from).map(|(to, from)| {
            *to = *from;
            u32::from_ne_bytes(*from)
        }));
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
    total + sum(from_rest)
}

/// A sum of bytes as a sum of the numbers that they are on the wire.
#[inline]
pub(crate) fn numbers(sum: u64) -> u64 {
    u64::from(u16::from_be(fold(sum)))
}

/// The part of the pseudo-header that is not an address: protocol and length, as [`sum`] would add them up.
#[inline]
pub(crate) fn pseudo(protocol: u8, length: usize) -> u64 {
    let length = length as u64;
    u64::from((u16::from(protocol)).to_be())
        + u64::from(((length >> 16) as u16).to_be())
        + u64::from((length as u16).to_be())
}

/// What a piece adds to the whole if it starts at an odd offset: each byte has the other weight there.
pub(crate) fn shifted(sum: u64) -> u64 {
    u64::from(fold(sum).swap_bytes())
}

/// Folds a sum to 16 bits, native-endian, not complemented. Over data that include their checksum: `0xffff`.
#[inline]
pub(crate) fn fold(sum: u64) -> u16 {
    // Each step adds the halves twice, once in either half: the upper one then holds their sum with the carry added back.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum field of a sum of numbers.
#[inline]
pub(crate) fn finish(numbers: u64) -> u16 {
    !fold(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 by the letter: big-endian words, carries added back one by one.
    fn slowly(bytes: &[u8]) -> u16 {
        bytes.chunks(2).fold(0u16, |total, pair| {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
            let (total, carry) = total.overflowing_add(word);
            total + u16::from(carry)
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let expected = slowly(&bytes).to_be();
            prop_assert_eq!(fold(sum(&bytes)), expected);
            let mut copy = vec![0; bytes.len()];
            prop_assert_eq!(fold(copy_and_sum(&mut copy, &bytes)), expected);
            prop_assert_eq!(&copy, &bytes);
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            let tail_sum = if head.len() % 2 == 1 { shifted(sum(tail)) } else { sum(tail) };
            prop_assert_eq!(fold(sum(head) + tail_sum), expected);
        }
    }
}
