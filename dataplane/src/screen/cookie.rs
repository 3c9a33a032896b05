//! The SYN cookie: everything about a half-open connection that must come back, in 32 bits of our initial sequence
//! number.
//!
//! ```text
//!  31       30 29   28 27 26     25 ... 20          19 ... 0
//!  parity   MSS     profile      tuple bits         whole bits
//! ```
//!
//! A MAC over 4-tuple, slot, MSS and profile gives 64 bits. Six of them are the tuple bits; mixed with the peer's initial
//! sequence number they give the whole bits. Only the first segment after the SYN shows that number, so only it verifies
//! in whole; a later one that overtook it is known by the tuple bits. The mixing needs no key: who has seen a cookie for a
//! 4-tuple need not guess one, and to everybody else the 64 bits are random, hence for each number the whole bits too.
//!
//! A slot is 64 seconds of UTC. Each slot has a key of its own, derived from the fleet's secret; two live at once. The
//! parity bit says which: the current slot or its neighbour, which is the former one for the first 48 seconds and the
//! coming one in the last 16, because another appliance's clock may be that much ahead. So every guess is held against
//! exactly one value, and **a forger succeeds with probability 2^-26 per segment**. A cookie lives 48 to 112 seconds, 16
//! more or less between appliances.

use sha2::{Digest, Sha256};

use super::{Master, PlanKey};
use crate::sip::{Addresses, Sip13, SipKey, addresses, ports};
use crate::wire::{FlowKey, Seq};

/// Length of a slot, in milliseconds of UTC.
pub const SLOT_MS: u64 = 64_000;
/// How far ahead another appliance's clock may be, in milliseconds.
pub const AHEAD_MS: u64 = 16_000;
/// The longest that a cookie can pass, clock differences included, in milliseconds.
pub const LIFE_MS: u64 = 2 * SLOT_MS;
/// MAC bits that cover 4-tuple, slot and choice.
pub const TUPLE_BITS: u32 = 6;
/// MAC bits that cover everything.
pub const WHOLE_BITS: u32 = 20;

const CHOICE_BITS: u32 = 5;
/// No slot has this number.
const NO_KEYS: [(u64, Sip13); 2] = [(u64::MAX, Sip13::ZERO); 2];
/// Spreads an initial sequence number over 64 bits, and carries every bit of the mixture into the highest ones: any odd
/// numbers without pattern would do (these are 2^64 over the golden ratio, and what xxHash multiplies by).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const MIX: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// What a cookie carries for the flow to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into the table of MSS values, 0 to 3.
    pub mss: u8,
    /// The profile of options, 0 to 7.
    pub profile: u8,
}

impl Choice {
    fn bits(self) -> u32 {
        u32::from(self.mss & 3) << 3 | u32::from(self.profile & 7)
    }

    fn from_bits(bits: u32) -> Self {
        Choice { mss: (bits >> 3 & 3) as u8, profile: (bits & 7) as u8 }
    }
}

/// What a returned number turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Our cookie for this 4-tuple and this initial sequence number of the peer.
    Whole(Choice),
    /// Most likely our cookie for this 4-tuple: the tuple bits match (one guess in 64 does).
    Tuple,
    /// None of ours.
    Foreign,
}

/// A secret and the first slot in which it is used.
struct Generation {
    from: u64,
    master: Master,
}

impl Generation {
    fn new(master: Master, from: u64) -> Self {
        Generation { from, master }
    }
}

/// Makes and checks cookies.
pub struct Cookies {
    newest: Generation,
    former: Option<Generation>,
    /// The last slot seen of either parity, and the hash of nothing under its key.
    keys: [(u64, Sip13); 2],
    /// Which bits of a number are compared.
    tuple_mask: u32,
    whole_mask: u32,
}

impl Cookies {
    /// Cookies with a fleet's secret.
    pub fn new(master: Master) -> Self {
        Cookies::shortened(master, TUPLE_BITS, WHOLE_BITS)
    }

    /// Cookies of which only the lowest `tuple_bits` (at most 6) and `whole_bits` (at most 20) are compared, so that a
    /// test can see forgeries succeed: with probability 2^-(tuple_bits + whole_bits). Not for the road.
    pub fn shortened(master: Master, tuple_bits: u32, whole_bits: u32) -> Self {
        let ones = |bits: u32, most: u32| (1 << bits.min(most)) - 1;
        Cookies {
            newest: Generation::new(master, 0),
            former: None,
            keys: NO_KEYS,
            tuple_mask: ones(tuple_bits, TUPLE_BITS) << WHOLE_BITS,
            whole_mask: ones(whole_bits, WHOLE_BITS),
        }
    }

    /// Uses another secret from the slot that contains `from_unix_ms` on; see [`super::Screen::rotate`].
    pub fn rotate(&mut self, master: Master, from_unix_ms: u64) {
        let coming = Generation::new(master, from_unix_ms / SLOT_MS);
        let replaced = core::mem::replace(&mut self.newest, coming);
        if replaced.from < self.newest.from {
            self.former = Some(replaced);
        }
        self.keys = NO_KEYS;
    }

    /// Our initial sequence number for a SYN with the initial sequence number `irs`.
    #[inline]
    pub fn make(&mut self, unix_ms: u64, flow: &FlowKey, irs: Seq, choice: Choice) -> Seq {
        self.in_slot(unix_ms / SLOT_MS, flow, irs, choice)
    }

    /// Judges `iss`, which came back in a segment that would be the first after a SYN with `irs`.
    pub fn check(&mut self, unix_ms: u64, flow: &FlowKey, irs: Seq, iss: Seq) -> Verdict {
        let Some(slot) = issued(iss.0 >> 31, unix_ms) else { return Verdict::Foreign };
        let choice = Choice::from_bits(iss.0 >> (TUPLE_BITS + WHOLE_BITS));
        let wrong = self.in_slot(slot, flow, irs, choice).0 ^ iss.0;
        match (wrong & self.tuple_mask, wrong & self.whole_mask) {
            (0, 0) => Verdict::Whole(choice),
            (0, _) => Verdict::Tuple,
            _ => Verdict::Foreign,
        }
    }

    /// The slot of `unix_ms` and the one that follows, with their keys.
    pub(super) fn coming(&self, unix_ms: u64) -> [(u64, PlanKey); 2] {
        let slot = unix_ms / SLOT_MS;
        [slot, slot + 1]
            .map(|slot| (slot, derive(&self.generation(slot).master, b"syn cookie", slot).words()))
    }

    #[inline(always)]
    fn in_slot(&mut self, slot: u64, flow: &FlowKey, irs: Seq, choice: Choice) -> Seq {
        let sip = self.keyed(slot);
        let last = ports(flow) << 32 | u64::from((slot as u32) << CHOICE_BITS | choice.bits());
        let mac = match addresses(flow) {
            Addresses::V4(word) => sip.word(word).word(last).finish(16, 0),
            Addresses::V6(words) => {
                words.iter().fold(sip, |sip, &word| sip.word(word)).word(last).finish(40, 0)
            }
        };
        let tuple = (mac as u32 & ((1 << TUPLE_BITS) - 1)) << WHOLE_BITS;
        let mixed = (mac ^ u64::from(irs.0).wrapping_mul(SPREAD)).wrapping_mul(MIX);
        let whole = (mixed >> (u64::BITS - WHOLE_BITS)) as u32;
        Seq((slot as u32) << 31 | choice.bits() << (TUPLE_BITS + WHOLE_BITS) | tuple | whole)
    }

    #[inline]
    fn keyed(&mut self, slot: u64) -> Sip13 {
        match self.keys[(slot & 1) as usize] {
            (at, sip) if at == slot => sip,
            _ => self.rekeyed(slot),
        }
    }

    #[cold]
    fn rekeyed(&mut self, slot: u64) -> Sip13 {
        let sip = Sip13::new(&derive(&self.generation(slot).master, b"syn cookie", slot));
        self.keys[(slot & 1) as usize] = (slot, sip);
        sip
    }

    fn generation(&self, slot: u64) -> &Generation {
        match &self.former {
            Some(former) if slot < self.newest.from => former,
            _ => &self.newest,
        }
    }
}

/// The one slot that a number of this parity may have been issued in.
fn issued(parity: u32, unix_ms: u64) -> Option<u64> {
    let (slot, within) = (unix_ms / SLOT_MS, unix_ms % SLOT_MS);
    if slot & 1 == u64::from(parity) {
        Some(slot)
    } else if within < SLOT_MS - AHEAD_MS {
        slot.checked_sub(1)
    } else {
        Some(slot + 1)
    }
}

/// A key of limited purpose and life: one step of hashing over secret and purpose (NIST SP 800-56C, section 4).
fn derive(master: &Master, purpose: &[u8], number: u64) -> SipKey {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(1u32.to_be_bytes())
        .chain_update(master.0)
        .chain_update(number.to_be_bytes())
        .chain_update(b"hedgerow ")
        .chain_update(purpose)
        .finalize()
        .into();
    let mut key = [0; 16];
    key.copy_from_slice(&hash[..16]);
    SipKey::new(key)
}

#[cfg(test)]
mod tests;
