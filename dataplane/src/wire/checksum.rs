//! The Internet checksum (RFC 1071) as an unfolded sum of native-endian words, so that parts add up in any order.

/// Adds up `bytes` as native-endian 16-bit words, the last one padded with zero, without folding.
///
/// Sums of pieces may be added as long as every piece but the last has an even length.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
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
    const PIECE: usize = 32;
    let mut total = 0u64;
    let (to_pieces, to_rest) = to.as_chunks_mut::<PIECE>();
    let (from_pieces, from_rest) = from.as_chunks::<PIECE>();
    for (to, from) in to_pieces.iter_mut().zip(from_pieces) {
        *to = *from;
        for word in from.as_chunks::<4>().0 {
            total += u64::from(u32::from_ne_bytes(*word));
        }
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to = *from;
    }
    total + sum(from_rest)
}

/// Adds up words that will stand in the byte order of the wire, as [`sum`] would over their bytes.
pub(crate) fn sum_words(words: &[u32]) -> u64 {
    words.iter().map(|word| u64::from(word.to_be())).sum()
}

/// The part of the pseudo-header that is not an address: protocol and length.
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
pub(crate) fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field, in the byte order of the wire.
pub(crate) fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
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
