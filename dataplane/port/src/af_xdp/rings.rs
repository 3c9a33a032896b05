//! The rings of an AF_XDP socket: fill and send rings that we write, receive and completion rings that the kernel writes.
//!
//! Each has one producer and one consumer, who own an index each and read the other's. What lies between the indices is
//! the consumer's; it becomes so by a releasing store of the producer, which an acquiring load here sees, and returns
//! likewise.

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use bytemuck::{Pod, Zeroable};

use super::socket::Offsets;
use crate::mapping::Mapping;

/// `struct xdp_desc`: a frame in a receive or send ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Descriptor {
    /// Where it begins, in bytes from the start of the frames' memory.
    pub(crate) address: u64,
    /// Its length in bytes.
    pub(crate) len: u32,
    pub(crate) options: u32,
}

/// What both kinds of rings have in common.
struct Shared<T> {
    map: Mapping,
    offsets: Offsets,
    mask: u32,
    kind: PhantomData<T>,
}

impl<T: Pod> Shared<T> {
    /// Maps the ring that the kernel offers at `page`. `entries` is the power of two that it was told.
    fn new(socket: BorrowedFd<'_>, page: u64, offsets: Offsets, entries: u32) -> io::Result<Self> {
        let len = usize::try_from(offsets.entries)
            .unwrap_or(usize::MAX)
            .saturating_add(entries as usize * size_of::<T>());
        let within = |at: u64| at.is_multiple_of(4) && at.saturating_add(4) <= len as u64;
        let fits = [offsets.producer, offsets.consumer, offsets.flags].into_iter().all(within);
        if !fits || !entries.is_power_of_two() || !offsets.entries.is_multiple_of(align_of::<T>() as u64) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Shared { map: Mapping::of(socket, len, page)?, offsets, mask: entries - 1, kind: PhantomData })
    }

    fn word(&self, at: u64) -> &AtomicU32 {
        // SAFETY: `new` has checked that the word lies aligned within the mapping, which lives as long as `self`; both sides
        // access it atomically only.
        unsafe { AtomicU32::from_ptr(self.map.start().add(at as usize).cast()) }
    }

    fn producer(&self) -> &AtomicU32 {
        self.word(self.offsets.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.word(self.offsets.consumer)
    }

    /// The place of entry `index`, which is within the mapping whatever `index` is.
    fn entry(&self, index: u32) -> *mut T {
        let at = self.offsets.entries as usize + (index & self.mask) as usize * size_of::<T>();
        // SAFETY: the mapping has room for `mask + 1` entries from `offsets.entries` on, aligned as `new` has checked.
        unsafe { self.map.start().add(at).cast() }
    }
}

/// A ring that we write.
pub(crate) struct Producer<T> {
    ring: Shared<T>,
    /// Entries up to here are written, those up to the shared index also shown.
    written: u32,
    /// The kernel's index when it was last read.
    consumed: u32,
}

impl<T: Pod> Producer<T> {
    pub(crate) fn new(socket: BorrowedFd<'_>, page: u64, offsets: Offsets, entries: u32) -> io::Result<Self> {
        Ok(Producer { ring: Shared::new(socket, page, offsets, entries)?, written: 0, consumed: 0 })
    }

    /// Writes an entry; false where the ring is full. The kernel sees it after [`Producer::publish`].
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.room() == 0 {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
            if self.room() == 0 {
                return false;
            }
        }
        // SAFETY: the place lies in the mapping, and between our index and the kernel's, so it is ours alone.
        unsafe { self.ring.entry(self.written).write(entry) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the kernel what was written.
    pub(crate) fn publish(&mut self) {
        self.ring.producer().store(self.written, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet.
    pub(crate) fn waiting(&self) -> u32 {
        self.written.wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    /// Whether the kernel sleeps until it is kicked (`XDP_RING_NEED_WAKEUP`).
    pub(crate) fn wants_kick(&self) -> bool {
        self.ring.word(self.ring.offsets.flags).load(Ordering::Relaxed) & 1 != 0
    }

    fn room(&self) -> u32 {
        (self.ring.mask + 1).saturating_sub(self.written.wrapping_sub(self.consumed))
    }
}

/// A ring that the kernel writes.
pub(crate) struct Consumer<T> {
    ring: Shared<T>,
    /// Entries up to here are taken, those up to the shared index also given back.
    taken: u32,
    /// The kernel's index when it was last read.
    produced: u32,
}

impl<T: Pod> Consumer<T> {
    pub(crate) fn new(socket: BorrowedFd<'_>, page: u64, offsets: Offsets, entries: u32) -> io::Result<Self> {
        Ok(Consumer { ring: Shared::new(socket, page, offsets, entries)?, taken: 0, produced: 0 })
    }

    /// Takes an entry. Its place is free again after [`Consumer::give_back`].
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.taken == self.produced {
            self.produced = self.ring.producer().load(Ordering::Acquire);
            if self.taken == self.produced {
                return None;
            }
        }
        // SAFETY: the place lies in the mapping; the kernel has written it before it moved its index, and does not write it
        // again before ours has passed. Any bytes are valid.
        let entry = unsafe { self.ring.entry(self.taken).read() };
        self.taken = self.taken.wrapping_add(1);
        Some(entry)
    }

    /// Frees the places of what was taken.
    pub(crate) fn give_back(&mut self) {
        self.ring.consumer().store(self.taken, Ordering::Release);
    }
}
