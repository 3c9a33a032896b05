//! Sequence numbers: arithmetic modulo 2^32 (RFC 9293, section 3.4).

use core::ops::{Add, AddAssign, Sub};

/// A TCP sequence number. Ordered only within half the space, hence no `Ord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// Whether `self` comes before `other`.
    pub const fn before(self, other: Seq) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether `self` comes after `other`.
    pub const fn after(self, other: Seq) -> bool {
        other.before(self)
    }

    /// Whether `self` equals `other` or comes before it.
    pub const fn at_most(self, other: Seq) -> bool {
        !self.after(other)
    }

    /// Whether `self` equals `other` or comes after it.
    pub const fn at_least(self, other: Seq) -> bool {
        !self.before(other)
    }

    /// Whether `self` lies in `[left, right)`.
    pub const fn within(self, left: Seq, right: Seq) -> bool {
        self.0.wrapping_sub(left.0) < right.0.wrapping_sub(left.0)
    }

    /// The later of both.
    pub const fn max(self, other: Seq) -> Seq {
        if self.before(other) { other } else { self }
    }

    /// The earlier of both.
    pub const fn min(self, other: Seq) -> Seq {
        if self.before(other) { self } else { other }
    }

    /// Distance from `earlier` to `self` as a signed number.
    pub const fn offset_from(self, earlier: Seq) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }
}

impl Add<u32> for Seq {
    type Output = Seq;
    fn add(self, rhs: u32) -> Seq {
        Seq(self.0.wrapping_add(rhs))
    }
}

impl AddAssign<u32> for Seq {
    fn add_assign(&mut self, rhs: u32) {
        *self = *self + rhs;
    }
}

impl Sub<u32> for Seq {
    type Output = Seq;
    fn sub(self, rhs: u32) -> Seq {
        Seq(self.0.wrapping_sub(rhs))
    }
}

impl Sub<Seq> for Seq {
    type Output = u32;
    fn sub(self, rhs: Seq) -> u32 {
        self.0.wrapping_sub(rhs.0)
    }
}
