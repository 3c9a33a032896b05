//! Buffer memory of sockets: blocks of one size, taken while bytes wait and given back when none do.

/// Bytes of a block: what one read or write moves at most.
pub(super) const BLOCK: usize = 32 << 10;
/// Blocks that are kept for the next taker.
const KEPT: usize = 64;

pub(super) type Block = Box<[u8]>;

/// A bounded stock of blocks.
#[derive(Debug)]
pub(super) struct Blocks {
    kept: Vec<Block>,
    used: usize,
    peak: usize,
    most: usize,
}

impl Blocks {
    /// A stock of `bytes`, though two blocks at least.
    pub(super) fn new(bytes: u64) -> Self {
        let most = usize::try_from(bytes / BLOCK as u64).unwrap_or(usize::MAX).max(2);
        Blocks { kept: Vec::new(), used: 0, peak: 0, most }
    }

    pub(super) fn take(&mut self) -> Option<Block> {
        if !self.has_room() {
            return None;
        }
        self.used += 1;
        self.peak = self.peak.max(self.used);
        Some(self.kept.pop().unwrap_or_else(|| vec![0; BLOCK].into_boxed_slice()))
    }

    pub(super) fn give(&mut self, block: Block) {
        self.used -= 1;
        if self.kept.len() < KEPT {
            self.kept.push(block);
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.used < self.most
    }

    /// Whether newcomers should be refused for the sake of those who are there: an eighth is left.
    pub(super) fn is_short(&self) -> bool {
        self.used >= self.most - self.most / 8
    }

    /// In use now, and most at one time, in bytes.
    pub(super) fn bytes(&self) -> (usize, usize) {
        (self.used * BLOCK, self.peak * BLOCK)
    }
}
