//! One pool of fixed-size blocks for all queues of a shard, and the chains that queues are made of.
//!
//! The pool's size is an absolute limit, reserved at start and touched only as it is used. A chain holds a contiguous
//! stretch of one direction's sequence space; an empty chain owns no block.

use crate::wire::{Blocks, Payload, Seq};

/// Bytes of a block of the buffer pool.
pub const BLOCK: usize = 4096;
/// [`BLOCK`] in sequence space.
const BLOCK_SEQ: u32 = BLOCK as u32;
/// No block.
const NIL: u32 = u32::MAX;

/// Blocks for all queues of a shard.
#[derive(Debug)]
pub(crate) struct Pool {
    bytes: Vec<u8>,
    next: Vec<u32>,
    /// Blocks given back, most recent first: their memory is warm.
    free: u32,
    /// Blocks from here on have never been used.
    fresh: u32,
    used: usize,
    peak: usize,
}

impl Pool {
    /// A pool of `blocks` blocks, at least one. The operating system backs them as they are touched.
    pub(crate) fn new(blocks: usize) -> Self {
        let blocks = blocks.clamp(1, NIL as usize - 1);
        Pool { bytes: vec![0; blocks * BLOCK], next: vec![0; blocks], free: NIL, fresh: 0, used: 0, peak: 0 }
    }

    /// Blocks in all.
    pub(crate) fn capacity(&self) -> usize {
        self.next.len()
    }

    /// Blocks in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Most blocks in use at once.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    /// Whether more than `parts` eighths of the pool are in use.
    pub(crate) fn above(&self, parts: usize) -> bool {
        self.used * 8 > self.capacity() * parts
    }

    /// Bytes in blocks that can be taken before `parts` eighths of the pool are in use.
    pub(crate) fn left(&self, parts: usize) -> usize {
        (self.capacity() * parts / 8).saturating_sub(self.used) * BLOCK
    }

    fn take(&mut self) -> Option<u32> {
        let block = if self.free != NIL {
            let block = self.free;
            self.free = self.next[block as usize];
            block
        } else if (self.fresh as usize) < self.next.len() {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        self.next[block as usize] = NIL;
        self.used += 1;
        self.peak = self.peak.max(self.used);
        Some(block)
    }

    fn give(&mut self, block: u32) {
        self.next[block as usize] = self.free;
        self.free = block;
        self.used -= 1;
    }

    fn piece(&self, block: u32, from: usize, to: usize) -> &[u8] {
        let start = block as usize * BLOCK;
        &self.bytes[start + from..start + to]
    }

    fn piece_mut(&mut self, block: u32, from: usize, to: usize) -> &mut [u8] {
        let start = block as usize * BLOCK;
        &mut self.bytes[start + from..start + to]
    }
}

/// A block and the sequence number of its first byte.
#[derive(Clone, Copy, Debug)]
struct Place {
    block: u32,
    base: Seq,
}

impl Place {
    const NONE: Place = Place { block: NIL, base: Seq(0) };

    fn is_none(self) -> bool {
        self.block == NIL
    }

    /// Sequence number after the block's last byte.
    fn end(self) -> Seq {
        self.base + BLOCK_SEQ
    }

    fn offset(self, seq: Seq) -> usize {
        (seq - self.base) as usize
    }
}

/// A list of blocks that covers a contiguous stretch of sequence space. What part of it holds bytes is the owner's
/// knowledge.
#[derive(Debug)]
pub(crate) struct Chain {
    head: Place,
    tail: Place,
    /// Where the last access was: accesses are mostly sequential.
    hint: Place,
}

impl Default for Chain {
    fn default() -> Self {
        Chain { head: Place::NONE, tail: Place::NONE, hint: Place::NONE }
    }
}

impl Chain {
    /// Whether the chain owns no block.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Bytes of all blocks.
    pub(crate) fn held(&self) -> usize {
        if self.is_empty() { 0 } else { (self.tail.end() - self.head.base) as usize }
    }

    /// Sequence number after the last byte of the last block; `None` without blocks.
    fn end(&self) -> Option<Seq> {
        (!self.is_empty()).then(|| self.tail.end())
    }

    /// Appends one block; `first` is the first sequence number of interest if the chain is empty.
    fn extend(&mut self, pool: &mut Pool, first: Seq) -> bool {
        let Some(block) = pool.take() else { return false };
        if self.is_empty() {
            self.head = Place { block, base: first };
            self.tail = self.head;
            self.hint = self.head;
        } else {
            pool.next[self.tail.block as usize] = block;
            self.tail = Place { block, base: self.tail.end() };
        }
        true
    }

    /// The block that holds `seq`; `None` outside of the chain.
    fn locate(&mut self, pool: &Pool, seq: Seq) -> Option<Place> {
        let place = self.find(pool, seq)?;
        self.hint = place;
        Some(place)
    }

    fn find(&self, pool: &Pool, seq: Seq) -> Option<Place> {
        if self.is_empty() || seq.before(self.head.base) || seq.at_least(self.tail.end()) {
            return None;
        }
        if seq.at_least(self.tail.base) {
            return Some(self.tail);
        }
        let mut place = if seq.at_least(self.hint.base) { self.hint } else { self.head };
        while seq.at_least(place.end()) {
            place = Place { block: pool.next[place.block as usize], base: place.end() };
        }
        Some(place)
    }

    /// Writes `bytes` at `seq`, taking blocks as needed (`first`: what an empty chain begins with, at most `seq`). Says
    /// how many bytes found room.
    pub(crate) fn write(&mut self, pool: &mut Pool, first: Seq, seq: Seq, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            let at = seq + written as u32;
            while self.end().is_none_or(|end| at.at_least(end)) {
                if !self.extend(pool, first) {
                    return written;
                }
            }
            let Some(place) = self.locate(pool, at) else { return written };
            let offset = place.offset(at);
            let n = (BLOCK - offset).min(bytes.len() - written);
            pool.piece_mut(place.block, offset, offset + n).copy_from_slice(&bytes[written..written + n]);
            written += n;
        }
        written
    }

    /// Memory at `seq` up to the end of its block, to be written; a block is taken if need be. Empty if there is none.
    pub(crate) fn spare<'p>(&mut self, pool: &'p mut Pool, first: Seq, seq: Seq) -> &'p mut [u8] {
        if self.end().is_none_or(|end| seq.at_least(end)) && !self.extend(pool, first) {
            return &mut [];
        }
        match self.locate(pool, seq) {
            Some(place) => pool.piece_mut(place.block, place.offset(seq), BLOCK),
            None => &mut [],
        }
    }

    /// Bytes from `seq` to the end of the last block.
    pub(crate) fn room(&self, seq: Seq) -> usize {
        self.end().filter(|end| seq.before(*end)).map_or(0, |end| (end - seq) as usize)
    }

    /// Up to `len` bytes from `seq` on.
    pub(crate) fn payload<'p>(&mut self, pool: &'p Pool, seq: Seq, len: usize) -> Payload<'p> {
        let Some(place) = self.locate(pool, seq) else { return Payload::default() };
        let offset = place.offset(seq);
        let len = len.min((self.tail.end() - seq) as usize);
        let first = len.min(BLOCK - offset);
        let second = (len - first).min(BLOCK);
        let one = pool.piece(place.block, offset, offset + first);
        if second == 0 {
            return [one, &[]].into();
        }
        let next = pool.next[place.block as usize];
        let two = pool.piece(next, 0, second);
        let left = len - first - second;
        let rest = Blocks {
            memory: &pool.bytes,
            next: &pool.next,
            size: BLOCK,
            block: pool.next[next as usize],
            left,
        };
        Payload::new([one, two], rest)
    }

    /// Up to `len` bytes from `seq` on in one piece.
    pub(crate) fn first_mut<'p>(&mut self, pool: &'p mut Pool, seq: Seq, len: usize) -> &'p mut [u8] {
        let Some(place) = self.locate(pool, seq) else { return &mut [] };
        let offset = place.offset(seq);
        pool.piece_mut(place.block, offset, (offset + len).min(BLOCK))
    }

    /// Gives back all blocks that end at or before `seq`.
    pub(crate) fn release_before(&mut self, pool: &mut Pool, seq: Seq) {
        while !self.is_empty() && self.head.end().at_most(seq) {
            let next = pool.next[self.head.block as usize];
            pool.give(self.head.block);
            if next == NIL {
                *self = Chain::default();
                return;
            }
            let stale = self.hint.block == self.head.block;
            self.head = Place { block: next, base: self.head.end() };
            if stale {
                self.hint = self.head;
            }
        }
    }

    /// Gives back all blocks.
    pub(crate) fn clear(&mut self, pool: &mut Pool) {
        let mut block = self.head.block;
        while block != NIL {
            let next = pool.next[block as usize];
            pool.give(block);
            block = next;
        }
        *self = Chain::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize),
        Release(usize),
        Show(usize, usize),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..3 * BLOCK).prop_map(Step::Append),
            4 => (1..3 * BLOCK).prop_map(Step::Release),
            4 => (0..8 * BLOCK, 1..3 * BLOCK).prop_map(|(at, len)| Step::Show(at, len)),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        /// Against a plain vector: what is appended can be shown until it is released, and no block is lost.
        #[test]
        fn behaves_like_a_vector(start: u32, steps in prop::collection::vec(step(), 1..60)) {
            let mut pool = Pool::new(8);
            let mut chain = Chain::default();
            let (mut begin, mut model, mut next) = (Seq(start), Vec::<u8>::new(), 0u8);
            for step in steps {
                match step {
                    Step::Append(n) => {
                        let bytes: Vec<u8> = (0..n).map(|i| next.wrapping_add(i as u8)).collect();
                        next = next.wrapping_add(101);
                        let taken = chain.write(&mut pool, begin, begin + model.len() as u32, &bytes);
                        prop_assert!(taken == n || pool.used() == pool.capacity());
                        model.extend(&bytes[..taken]);
                    }
                    Step::Release(n) => {
                        let n = n.min(model.len());
                        model.drain(..n);
                        begin += n as u32;
                        chain.release_before(&mut pool, begin);
                        if model.is_empty() {
                            chain.clear(&mut pool);
                            prop_assert_eq!(pool.used(), 0);
                        }
                    }
                    Step::Show(at, len) => {
                        let at = at.min(model.len());
                        let len = len.min(model.len() - at);
                        if len == 0 {
                            continue;
                        }
                        let seq = begin + at as u32;
                        let shown = chain.payload(&pool, seq, len);
                        prop_assert_eq!(shown.len(), len);
                        prop_assert_eq!(&shown.to_vec()[..], &model[at..at + len]);
                        let first = chain.first_mut(&mut pool, seq, len);
                        prop_assert!(!first.is_empty());
                        prop_assert_eq!(&first[..], &model[at..at + first.len()]);
                    }
                    Step::Clear => {
                        chain.clear(&mut pool);
                        begin += model.len() as u32;
                        model.clear();
                        prop_assert_eq!(pool.used(), 0);
                    }
                }
                prop_assert!(pool.used() <= model.len() / BLOCK + 2);
            }
        }
    }

    #[test]
    fn a_full_pool_takes_a_prefix() {
        let mut pool = Pool::new(2);
        let mut chain = Chain::default();
        let bytes = vec![7; 3 * BLOCK];
        assert_eq!(chain.write(&mut pool, Seq(5), Seq(5), &bytes), 2 * BLOCK);
        assert_eq!(pool.peak(), 2);
        assert!(chain.spare(&mut pool, Seq(5), Seq(5) + 2 * BLOCK as u32).is_empty());
        chain.release_before(&mut pool, Seq(5) + BLOCK as u32);
        assert_eq!(chain.spare(&mut pool, Seq(5), Seq(5) + 2 * BLOCK as u32).len(), BLOCK);
    }

    #[test]
    fn bytes_ahead_of_a_gap_stay_in_place() {
        let mut pool = Pool::new(4);
        let mut chain = Chain::default();
        let far = Seq(100) + BLOCK as u32 + 10;
        assert_eq!(chain.write(&mut pool, Seq(100), far, b"late"), 4);
        assert_eq!(chain.write(&mut pool, Seq(100), Seq(100), &[1; BLOCK + 10]), BLOCK + 10);
        assert_eq!(chain.payload(&pool, far, 4).to_vec(), b"late");
    }
}
