//! The payload of a segment to be sent, where it lies: buffers are chains of blocks, so it comes in pieces.

/// Payload in pieces: two for an ordinary segment, as many more blocks as needed for one that the port cuts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Payload<'a> {
    pieces: [&'a [u8]; 2],
    rest: Blocks<'a>,
}

/// What is left in blocks of equal size, each of which names the next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blocks<'a> {
    /// All blocks, back to back.
    pub(crate) memory: &'a [u8],
    /// The block after each.
    pub(crate) next: &'a [u32],
    /// Bytes of a block.
    pub(crate) size: usize,
    /// The block to begin with, at its first byte.
    pub(crate) block: u32,
    /// Bytes in all.
    pub(crate) left: usize,
}

impl<'a> Payload<'a> {
    pub(crate) fn new(pieces: [&'a [u8]; 2], rest: Blocks<'a>) -> Self {
        Payload { pieces, rest }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.pieces[0].len() + self.pieces[1].len() + self.rest.left
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in order, none of them empty.
    pub fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        self.pieces.into_iter().filter(|piece| !piece.is_empty()).chain(self.rest)
    }

    /// A copy in one piece.
    pub fn to_vec(self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }
}

impl<'a> From<[&'a [u8]; 2]> for Payload<'a> {
    fn from(pieces: [&'a [u8]; 2]) -> Self {
        Payload { pieces, rest: Blocks::default() }
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let take = self.left.min(self.size);
        if take == 0 {
            return None;
        }
        let start = self.block as usize * self.size;
        let piece = self.memory.get(start..start + take)?;
        self.left -= take;
        self.block = *self.next.get(self.block as usize)?;
        Some(piece)
    }
}
