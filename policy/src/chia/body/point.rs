//! The form of compressed elements of BLS12-381: flag bits, the one form of infinity, coordinates below the field's prime.
//!
//! Whether such a coordinate belongs to a point of the curve and of its subgroup is left to the node: it costs a hundred
//! times as much as all the rest of a message, and only consensus needs it. So a body can pass here that the node then
//! refuses, and none is refused here that the node takes.

use crate::chia::schema::Group;

/// Bytes of a coordinate.
const COORDINATE: u8 = 48;

/// The prime of the field, big endian.
const PRIME: [u8; 48] = [
    0x1a, 0x01, 0x11, 0xea, 0x39, 0x7f, 0xe6, 0x9a, 0x4b, 0x1b, 0xa7, 0xb6, 0x43, 0x4b, 0xac, 0xd7, 0x64,
    0x77, 0x4b, 0x84, 0xf3, 0x85, 0x12, 0xbf, 0x67, 0x30, 0xd2, 0xa0, 0xf6, 0xb0, 0xf6, 0x24, 0x1e, 0xab,
    0xff, 0xfe, 0xb1, 0x53, 0xff, 0xff, 0xb9, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xaa, 0xab,
];

const COMPRESSED: u8 = 0x80;
const INFINITY: u8 = 0x40;
const SIGN: u8 = 0x20;

/// How a coordinate compares with the prime so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    Yes,
    Equal,
}

/// An element under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    group: Group,
    /// Bytes seen.
    at: u8,
    infinity: bool,
    /// Whether all bytes after the first are zero.
    zeros: bool,
    below: Below,
}

impl Point {
    pub(super) fn new(group: Group) -> Point {
        Point { group, at: 0, infinity: false, zeros: true, below: Below::Equal }
    }

    /// Bytes of an element.
    pub(super) fn bytes(group: Group) -> u8 {
        match group {
            Group::G1 => COORDINATE,
            Group::G2 => 2 * COORDINATE,
        }
    }

    /// Takes bytes up to the element's end and says how many, and whether it is complete; `None` if it is none.
    pub(super) fn take(&mut self, piece: &[u8]) -> Option<(usize, bool)> {
        let total = Point::bytes(self.group);
        let mut taken = 0;
        while self.at < total {
            // What is decided need not be looked at.
            if self.below == Below::Yes && !self.zeros && !self.infinity {
                let end = if self.at < COORDINATE { COORDINATE } else { total };
                let skipped = usize::from(end - self.at).min(piece.len() - taken);
                self.at += skipped as u8;
                taken += skipped;
                if self.at == COORDINATE && total > COORDINATE {
                    self.below = Below::Equal;
                }
                if self.at < end || self.at == total {
                    break;
                }
                continue;
            }
            let Some(&byte) = piece.get(taken) else { break };
            self.byte(byte)?;
            taken += 1;
        }
        let complete = self.at == total;
        (!complete || self.is_valid()).then_some((taken, complete))
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        let mut value = byte;
        if self.at == 0 {
            self.infinity = byte & (COMPRESSED | INFINITY) == COMPRESSED | INFINITY;
            let whole = if self.infinity { byte == COMPRESSED | INFINITY } else { byte & COMPRESSED != 0 };
            if !whole {
                return None;
            }
            value &= !(COMPRESSED | INFINITY | SIGN);
        } else {
            self.zeros &= byte == 0;
        }
        if self.at == COORDINATE {
            self.below = Below::Equal;
        }
        if self.below == Below::Equal {
            self.below = match value.cmp(&PRIME[usize::from(self.at % COORDINATE)]) {
                core::cmp::Ordering::Less => Below::Yes,
                core::cmp::Ordering::Equal => Below::Equal,
                core::cmp::Ordering::Greater => return None,
            };
        }
        self.at += 1;
        // A coordinate that is the prime itself is not below it.
        (!self.at.is_multiple_of(COORDINATE) || self.below == Below::Yes).then_some(())
    }

    fn is_valid(&self) -> bool {
        match self.group {
            // Only infinity may be all zeros, and it must.
            Group::G1 => self.infinity == self.zeros,
            Group::G2 => !self.infinity || self.zeros,
        }
    }
}
