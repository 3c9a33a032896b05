//! SipHash (Aumasson and Bernstein, 2012) over messages of whole 64-bit words and a short tail: no buffer, no branch, so
//! that it can be written down once more in eBPF. `finish` leaves the state as it was: two hashes may share a beginning.
//!
//! The frame path takes SipHash-1-3 throughout. Table keys never show a hash. Cookies show 26 bits of one under a key that
//! lives for two minutes; no attack on the function is known that such a window could serve.

use crate::screen::PlanKey;
use crate::wire::FlowKey;

/// A SipHash key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SipKey {
    k0: u64,
    k1: u64,
}

impl SipKey {
    pub(crate) fn new(bytes: [u8; 16]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        SipKey { k0: bits as u64, k1: (bits >> 64) as u64 }
    }

    /// The key, for whoever computes the same hash elsewhere.
    pub(crate) fn words(&self) -> PlanKey {
        PlanKey { k0: self.k0, k1: self.k1 }
    }
}

/// The state of a hash with `C` compression and `D` finalisation rounds.
#[derive(Clone, Copy)]
pub(crate) struct Sip<const C: usize, const D: usize> {
    v: [u64; 4],
}

pub(crate) type Sip13 = Sip<1, 3>;

impl<const C: usize, const D: usize> Sip<C, D> {
    /// A place for a state.
    pub(crate) const ZERO: Self = Sip { v: [0; 4] };

    #[inline]
    pub(crate) fn new(key: &SipKey) -> Self {
        Sip {
            v: [
                key.k0 ^ 0x736f_6d65_7073_6575,
                key.k1 ^ 0x646f_7261_6e64_6f6d,
                key.k0 ^ 0x6c79_6765_6e65_7261,
                key.k1 ^ 0x7465_6462_7974_6573,
            ],
        }
    }

    /// Takes eight bytes of the message, as a little-endian number.
    #[inline]
    pub(crate) fn word(mut self, word: u64) -> Self {
        self.v[3] ^= word;
        for _ in 0..C {
            round(&mut self.v);
        }
        self.v[0] ^= word;
        self
    }

    /// The hash of a message of `length` bytes (below 256) whose last `length % 8` are in `tail`, little-endian.
    #[inline]
    pub(crate) fn finish(self, length: u8, tail: u64) -> u64 {
        let Sip { mut v } = self.word(u64::from(length) << 56 | tail);
        v[2] ^= 0xff;
        for _ in 0..D {
            round(&mut v);
        }
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

/// A 4-tuple's addresses as words: the families differ in length, and a hash covers its message's length.
pub(crate) enum Addresses {
    V4(u64),
    V6([u64; 4]),
}

#[inline]
pub(crate) fn addresses(flow: &FlowKey) -> Addresses {
    let (remote, local) = (flow.remote.bits(), flow.local.bits());
    if flow.remote.is_v4() {
        Addresses::V4((remote as u64) << 32 | local as u64 & 0xffff_ffff)
    } else {
        Addresses::V6([(remote >> 64) as u64, remote as u64, (local >> 64) as u64, local as u64])
    }
}

#[inline]
pub(crate) fn ports(flow: &FlowKey) -> u64 {
    u64::from(flow.remote_port) << 16 | u64::from(flow.local_port)
}

/// The SipHash-1-3 of a 4-tuple.
#[inline]
pub(crate) fn flow13(key: &SipKey, flow: &FlowKey) -> u64 {
    let sip = Sip13::new(key);
    match addresses(flow) {
        Addresses::V4(word) => sip.word(word).finish(12, ports(flow)),
        Addresses::V6(words) => words.iter().fold(sip, |sip, &word| sip.word(word)).finish(36, ports(flow)),
    }
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use siphasher::sip::SipHasher13;

    use super::*;

    proptest! {
        #[test]
        fn is_siphash(key: [u8; 16], words in proptest::collection::vec(any::<u64>(), 0..7), tail: u32) {
            let mut message: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let key13 = words.iter().fold(Sip13::new(&SipKey::new(key)), |sip, &word| sip.word(word));
            let length = message.len() as u8;
            prop_assert_eq!(key13.finish(length, 0), SipHasher13::new_with_key(&key).hash(&message));
            message.extend(tail.to_le_bytes());
            prop_assert_eq!(key13.finish(length + 4, tail.into()), SipHasher13::new_with_key(&key).hash(&message));
        }
    }
}
