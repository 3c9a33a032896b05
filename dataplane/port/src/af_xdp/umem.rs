//! The frames' memory: one mapping cut into equal chunks, of which each is free, held by a handle, or the kernel's.
//!
//! Bytes are given out of chunks that are held, and of no others: the kernel reads and writes those that were put into
//! one of its rings, and leaves the rest alone.

use std::io;

use hedgerow_dataplane::frame::Frame;

use crate::mapping::Mapping;

/// Bytes that the kernel keeps free before a received frame (`XDP_PACKET_HEADROOM`); frames of ours begin there too.
pub(crate) const HEADROOM: u32 = 256;

/// Whose a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Free,
    Handle,
    Kernel,
}

/// The memory.
pub(crate) struct Umem {
    map: Mapping,
    chunk: u32,
    holders: Vec<Holder>,
    free: Vec<u32>,
}

impl Umem {
    /// `chunks` chunks of `chunk` bytes, a power of two.
    pub(crate) fn new(chunks: u32, chunk: u32) -> io::Result<Self> {
        Ok(Umem {
            map: Mapping::zeroed(chunks as usize * chunk as usize)?,
            chunk,
            holders: vec![Holder::Free; chunks as usize],
            // The last one freed is the next one used: the fewest chunks stay in the cache.
            free: (0..chunks).rev().collect(),
        })
    }

    /// Start and length in bytes, for the kernel.
    pub(crate) fn region(&self) -> (u64, u64) {
        (self.map.start() as u64, self.map.len() as u64)
    }

    pub(crate) fn chunk(&self) -> u32 {
        self.chunk
    }

    /// Chunks that are nobody's.
    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// A frame without bytes in a free chunk.
    pub(crate) fn allocate(&mut self) -> Option<Frame> {
        let slot = self.free.pop()?;
        self.holders[slot as usize] = Holder::Handle;
        Some(Frame::new(slot, HEADROOM, 0))
    }

    pub(crate) fn release(&mut self, frame: Frame) {
        self.give_up(&frame, Holder::Free);
    }

    /// Gives a free chunk to the kernel, for a frame to come; its address.
    pub(crate) fn lend(&mut self) -> Option<u64> {
        let slot = self.free.pop()?;
        self.holders[slot as usize] = Holder::Kernel;
        Some(u64::from(slot) * u64::from(self.chunk))
    }

    /// Gives a frame to the kernel, to be sent.
    pub(crate) fn hand_over(&mut self, frame: Frame) {
        self.give_up(&frame, Holder::Kernel);
    }

    /// A frame that the kernel has received; `None` for an address that is not one of the kernel's chunks.
    pub(crate) fn received(&mut self, address: u64, len: u32) -> Option<Frame> {
        let (slot, head) = self.place(address)?;
        let holder = self.holders.get_mut(slot as usize).filter(|holder| **holder == Holder::Kernel)?;
        *holder = Holder::Handle;
        Some(Frame::new(slot, head, len.min(self.chunk - head)))
    }

    /// Takes back a chunk whose frame the kernel has sent, or did not use.
    pub(crate) fn returned(&mut self, address: u64) {
        let Some((slot, _)) = self.place(address) else { return };
        if let Some(holder) = self.holders.get_mut(slot as usize).filter(|holder| **holder == Holder::Kernel)
        {
            *holder = Holder::Free;
            self.free.push(slot);
        }
    }

    /// A frame's bytes; nothing for a handle to a chunk that is not held.
    pub(crate) fn bytes(&self, frame: &Frame) -> &[u8] {
        match self.range(frame) {
            // SAFETY: `range` vouches for bounds and ownership: the kernel leaves the chunk alone until it is given away, which
            // needs `&mut self` and so waits for the end of this borrow.
            Some((start, len)) => unsafe { std::slice::from_raw_parts(start, len) },
            None => &[],
        }
    }

    /// As [`Umem::bytes`], to write.
    pub(crate) fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        match self.range(frame) {
            // SAFETY: as in `bytes`; `&mut self` keeps every other slice of the memory away.
            Some((start, len)) => unsafe { std::slice::from_raw_parts_mut(start, len) },
            None => &mut [],
        }
    }

    pub(crate) fn resize(&self, frame: &mut Frame, len: usize) -> bool {
        let fits = (frame.head() as usize).checked_add(len).is_some_and(|end| end <= self.chunk as usize);
        if fits {
            frame.set_len(len as u32);
        }
        fits
    }

    fn give_up(&mut self, frame: &Frame, to: Holder) {
        debug_assert!(self.is_held(frame), "{frame:?} was not given out");
        if self.is_held(frame) {
            self.holders[frame.slot() as usize] = to;
            if to == Holder::Free {
                self.free.push(frame.slot());
            }
        }
    }

    /// Chunk and offset within it.
    fn place(&self, address: u64) -> Option<(u32, u32)> {
        let slot = u32::try_from(address / u64::from(self.chunk)).ok()?;
        Some((slot, (address % u64::from(self.chunk)) as u32))
    }

    fn is_held(&self, frame: &Frame) -> bool {
        self.holders.get(frame.slot() as usize) == Some(&Holder::Handle)
    }

    fn range(&self, frame: &Frame) -> Option<(*mut u8, usize)> {
        let (head, len) = (frame.head() as usize, frame.len());
        let within = head.checked_add(len).is_some_and(|end| end <= self.chunk as usize);
        let at = frame.slot() as usize * self.chunk as usize + head;
        // SAFETY: a chunk that is held is one of the mapping's, and the frame lies within it.
        (within && self.is_held(frame)).then(|| (unsafe { self.map.start().add(at) }, len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_one_holder_at_a_time() {
        let mut umem = Umem::new(4, 2048).expect("memory");
        let mut frame = umem.allocate().expect("a frame");
        assert!(!umem.resize(&mut frame, 1793) && umem.resize(&mut frame, 1792));
        umem.bytes_mut(&frame)[1791] = 7;
        let address = u64::from(frame.slot()) * 2048 + 256;
        umem.hand_over(frame);
        assert!(umem.received(address + 4096 * 4, 1).is_none(), "beyond the last chunk");
        let frame = umem.received(address, 5000).expect("the kernel's");
        assert_eq!((frame.len(), umem.bytes(&frame)[1791]), (1792, 7), "cut to the chunk");
        assert!(umem.received(address, 1).is_none(), "given out already");
        umem.returned(address);
        assert_eq!(umem.free(), 3, "a chunk that is held does not come back by its address");
        umem.release(frame);
        assert_eq!(umem.free(), 4);
        let lent = umem.lend().expect("a chunk");
        assert!(umem.bytes(&Frame::new((lent / 2048) as u32, 256, 10)).is_empty(), "the kernel's bytes");
        umem.returned(lent);
        umem.returned(lent);
        assert_eq!(umem.free(), 4);
    }
}
