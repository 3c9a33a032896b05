//! A keyed sequence that strangers cannot foresee, for choices among equals.

use crate::sip::{Sip13, SipKey};

/// The sequence; the same key gives the same choices.
pub(super) struct Random {
    key: SipKey,
    pub(super) drawn: u64,
}

impl Random {
    pub(super) fn new(seed: [u8; 16]) -> Self {
        Random { key: SipKey::new(seed), drawn: 0 }
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.drawn += 1;
        let random = Sip13::new(&self.key).word(self.drawn).finish(8, 0);
        ((u128::from(random) * end as u128) >> 64) as usize
    }
}
