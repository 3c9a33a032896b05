//! The receive queue: in-order bytes that the host has not read yet, and out-of-order ranges behind a gap, in one chain of
//! blocks.
//!
//! Bytes are written where they belong at once, so that closing a gap moves nothing. What was acknowledged is never given
//! up; what waits behind a gap is bounded in ranges and refused while the pool is short.

use crate::Reason;
use crate::wire::{SackBlocks, Seq};

use super::buffer::{Chain, Pool};
use super::ranges::{Loan, Shelf};

/// Parts (eighths) of the pool that must not be exceeded for data behind a gap to be kept.
const PRESSURE: usize = 6;

/// What became of a segment's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// They, or as many of them as found room, moved `rcv_nxt`. The flag says that the peer should hear of it at once: a
    /// gap is or was open (RFC 5681, section 4.2), or some found no room.
    InOrder(bool),
    /// They wait behind a gap.
    Ahead,
    /// There was no room.
    Refused(Reason),
}

/// The receive queue of one flow.
#[derive(Debug)]
pub(crate) struct Reassembly {
    chain: Chain,
    /// First byte that the host has not consumed.
    read: Seq,
    /// First byte that has not arrived (`rcv_nxt`, less a FIN).
    next: Seq,
    ahead: Loan,
}

impl Reassembly {
    /// An empty queue that begins at `next`.
    pub(crate) fn new(next: Seq) -> Self {
        Reassembly { chain: Chain::default(), read: next, next, ahead: Loan::NONE }
    }

    /// First byte that has not arrived.
    pub(crate) fn next(&self) -> Seq {
        self.next
    }

    /// First byte that the host has not consumed.
    pub(crate) fn read(&self) -> Seq {
        self.read
    }

    /// Bytes that can be read.
    pub(crate) fn readable(&self) -> usize {
        (self.next - self.read) as usize
    }

    /// Bytes of memory in use.
    pub(crate) fn held(&self) -> usize {
        self.chain.held()
    }

    /// Whether bytes wait behind a gap.
    pub(crate) fn has_gap(&self) -> bool {
        !self.ahead.is_none()
    }

    /// Stores bytes of which all lie at or after `next` and within the window.
    pub(crate) fn store(&mut self, pool: &mut Pool, shelf: &mut Shelf, seq: Seq, bytes: &[u8]) -> Stored {
        if seq == self.next { self.append(pool, shelf, bytes) } else { self.keep(pool, shelf, seq, bytes) }
    }

    fn append(&mut self, pool: &mut Pool, shelf: &mut Shelf, bytes: &[u8]) -> Stored {
        let gap = self.has_gap();
        let written = self.chain.write(pool, self.read, self.next, bytes);
        if written == 0 {
            return Stored::Refused(Reason::BufferQuota);
        }
        self.next += written as u32;
        if gap {
            if let Some(range) = shelf.get(self.ahead).and_then(|set| set.containing(self.next)) {
                self.next = range.1;
            }
            shelf.remove_before(&mut self.ahead, self.next);
        }
        Stored::InOrder(gap || written < bytes.len())
    }

    fn keep(&mut self, pool: &mut Pool, shelf: &mut Shelf, seq: Seq, bytes: &[u8]) -> Stored {
        if pool.above(PRESSURE) {
            return Stored::Refused(Reason::BufferQuota);
        }
        let end = seq + bytes.len() as u32;
        let Some(set) = shelf.lend(&mut self.ahead) else { return Stored::Refused(Reason::ReassemblyFull) };
        if !set.fits(seq, end) {
            return Stored::Refused(Reason::ReassemblyFull);
        }
        let written = self.chain.write(pool, self.read, seq, bytes) as u32;
        if set.insert(seq, seq + written).is_none_or(|_| set.is_empty()) {
            shelf.settle(&mut self.ahead);
        }
        if written == 0 {
            return Stored::Refused(Reason::BufferQuota);
        }
        Stored::Ahead
    }

    /// The first contiguous piece of what can be read.
    pub(crate) fn peek<'p>(&mut self, pool: &'p mut Pool) -> &'p mut [u8] {
        let len = self.readable();
        if len == 0 { &mut [] } else { self.chain.first_mut(pool, self.read, len) }
    }

    /// Consumes up to `n` bytes; says how many.
    pub(crate) fn consume(&mut self, pool: &mut Pool, n: usize) -> usize {
        let n = n.min(self.readable());
        self.read += n as u32;
        if self.read == self.next && !self.has_gap() {
            self.chain.clear(pool);
        } else {
            self.chain.release_before(pool, self.read);
        }
        n
    }

    /// SACK blocks, the latest first (RFC 2018, section 4).
    pub(crate) fn sack(&self, shelf: &Shelf) -> SackBlocks {
        let mut blocks = SackBlocks::default();
        if let Some(set) = shelf.get(self.ahead) {
            for (left, right) in set.by_recency() {
                blocks.push(left, right);
            }
        }
        blocks
    }

    /// Gives everything back.
    pub(crate) fn release(&mut self, pool: &mut Pool, shelf: &mut Shelf) {
        self.chain.clear(pool);
        shelf.settle(&mut self.ahead);
        self.read = self.next;
    }

    /// Gives back what waits behind a gap: nothing more will arrive.
    pub(crate) fn forget_ahead(&mut self, pool: &mut Pool, shelf: &mut Shelf) {
        shelf.settle(&mut self.ahead);
        self.consume(pool, 0);
    }
}
