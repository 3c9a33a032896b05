//! Frames on the heap: a fixed number of equal buffers and a stack of free ones.
//!
//! Used by every port that has no memory shared with the kernel, and by AF_PACKET for what is sent. All memory is taken
//! at opening; nothing is allocated per frame.

use hedgerow_dataplane::frame::Frame;

/// A fixed set of frames. Slots are numbered from `base`, so that a port can have other slots below.
#[derive(Debug)]
pub(crate) struct HeapPool {
    slots: Vec<Box<[u8]>>,
    free: Vec<u32>,
    base: u32,
    frame_bytes: usize,
}

impl HeapPool {
    /// `frames` buffers of `frame_bytes` each, with slots from `base` on.
    pub(crate) fn new(frames: usize, frame_bytes: usize, base: u32) -> Self {
        let count = u32::try_from(frames).unwrap_or(u32::MAX - base).min(u32::MAX - base);
        HeapPool {
            slots: (0..count).map(|_| vec![0; frame_bytes].into_boxed_slice()).collect(),
            // The last one freed is the next one used: the fewest buffers stay in the cache.
            free: (0..count).rev().collect(),
            base,
            frame_bytes,
        }
    }

    pub(crate) fn allocate(&mut self) -> Option<Frame> {
        self.free.pop().map(|index| Frame::new(self.base + index, 0, 0))
    }

    pub(crate) fn release(&mut self, frame: Frame) {
        debug_assert!(
            self.index(&frame).is_some_and(|index| index < self.slots.len()),
            "{frame:?} is not of this pool"
        );
        if let Some(index) = self.index(&frame).filter(|&index| index < self.slots.len()) {
            self.free.push(index as u32);
        }
    }

    /// A frame's bytes; nothing for a handle that is not of this pool.
    pub(crate) fn bytes(&self, frame: &Frame) -> &[u8] {
        let slot = self.index(frame).and_then(|index| self.slots.get(index));
        slot.and_then(|slot| slot.get(range(frame))).unwrap_or(&[])
    }

    pub(crate) fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        let slot = self.index(frame).and_then(|index| self.slots.get_mut(index));
        slot.and_then(|slot| slot.get_mut(range(frame))).unwrap_or(&mut [])
    }

    pub(crate) fn resize(&self, frame: &mut Frame, len: usize) -> bool {
        let fits = (frame.head() as usize).checked_add(len).is_some_and(|end| end <= self.frame_bytes);
        if fits {
            frame.set_len(len as u32);
        }
        fits
    }

    /// Puts `buffer` in the place of the frame's own, which is returned: a frame changes pools without a copy.
    pub(crate) fn exchange(&mut self, frame: &Frame, buffer: Box<[u8]>) -> Box<[u8]> {
        match self.index(frame).and_then(|index| self.slots.get_mut(index)) {
            Some(slot) => std::mem::replace(slot, buffer),
            None => buffer,
        }
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    fn index(&self, frame: &Frame) -> Option<usize> {
        frame.slot().checked_sub(self.base).map(|index| index as usize)
    }
}

fn range(frame: &Frame) -> std::ops::Range<usize> {
    let head = frame.head() as usize;
    head..head.saturating_add(frame.len())
}
