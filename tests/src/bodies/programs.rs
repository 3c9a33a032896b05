//! Serialized CLVM programs: trees of atoms and pairs, with back-references that mostly lead somewhere.

use super::Random;

/// Items after which a program comes to an end.
const ITEMS: u64 = 40;

/// Writes one program.
pub(super) fn write(random: &mut Random, body: &mut Vec<u8>) {
    let references = random.below(3) == 0;
    let mut budget = random.below(ITEMS);
    let (mut pending, mut done) = (1_u64, 0_u64);
    while pending > 0 {
        pending -= 1;
        match random.below(if references && done > 0 { 5 } else { 4 }) {
            0 | 1 if budget > 0 => {
                budget -= 1;
                body.push(0xff);
                pending += 2;
                continue;
            }
            4 => reference(random, body),
            _ => atom(random, body),
        }
        done += 1;
    }
}

/// Small paths name what is near the top of the stack.
fn reference(random: &mut Random, body: &mut Vec<u8>) {
    body.push(0xfe);
    match random.below(8) {
        0 => body.extend_from_slice(&[0x81, 0x80 | random.byte()]),
        1 => body.extend_from_slice(&[0x83, 0, 0, random.pick(&[0, 1, 2, 3, 4, 6])]),
        2 => body.extend_from_slice(&[0x82, random.pick(&[0, 1]), random.byte()]),
        _ => body.push(random.pick(&[0, 1, 2, 3, 4, 5, 6, 0x0a, 0x0e, 0x16])),
    }
}

fn atom(random: &mut Random, body: &mut Vec<u8>) {
    match random.below(8) {
        0 => body.push(0x80),
        1 => body.push(random.below(0x80) as u8),
        2 => sized(random, &[0xa0], 32, body),
        3 => sized(random, &[0xc0, 0x41], 0x41, body),
        4 => sized(random, &[0xe0, 0, 3], 3, body),
        5 => sized(random, &[0xc0, 0], 0, body),
        _ => {
            let bytes = 1 + random.below(12);
            sized(random, &[0x80 | bytes as u8], bytes, body);
        }
    }
}

fn sized(random: &mut Random, size: &[u8], bytes: u64, body: &mut Vec<u8>) {
    body.extend_from_slice(size);
    (0..bytes).for_each(|_| body.push(random.byte()));
}
