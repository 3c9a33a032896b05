//! The discipline of a [`Swap`]: what is stored before what, and read after what.

use std::sync::Arc;

use super::sync::{AtomicU64, Ordering, Slot};

/// A value that readers take over at moments of their own.
#[derive(Debug)]
pub struct Swap<T> {
    slot: Slot<T>,
    /// Counts the values. Moved after the value is there, so that who sees the count sees the value.
    count: AtomicU64,
    /// By reader: the count of the value that it has.
    taken: Vec<AtomicU64>,
}

/// One reader's place.
#[derive(Debug)]
pub struct Reader {
    index: u16,
    count: u64,
}

impl<T> Swap<T> {
    /// A first value for so many readers.
    pub fn new(readers: u16, value: Arc<T>) -> Self {
        let taken = (0..readers).map(|_| AtomicU64::new(0)).collect();
        Swap { slot: Slot::new(value), count: AtomicU64::new(1), taken }
    }

    /// A reader that has nothing yet.
    pub fn reader(&self, index: u16) -> Reader {
        Reader { index, count: 0 }
    }

    /// Puts a value in the place of the last one. Writers keep each other out by a lock of their own.
    pub fn put(&self, value: Arc<T>) {
        self.slot.store(value);
        self.count.fetch_add(1, Ordering::Release);
    }

    /// How many values there were. What a reader takes is this one or a later one.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The last value.
    pub fn current(&self) -> Arc<T> {
        self.slot.load()
    }

    /// The last value, if it is new to the reader. It has it once it says so by [`Swap::taken`], or takes the next one.
    pub fn take(&self, reader: &mut Reader) -> Option<Arc<T>> {
        let count = self.count();
        self.taken(reader);
        if count == reader.count {
            return None;
        }
        reader.count = count;
        Some(self.slot.load())
    }

    /// The reader has what it took.
    pub fn taken(&self, reader: &Reader) {
        if let Some(taken) = self.taken.get(usize::from(reader.index)) {
            taken.store(reader.count, Ordering::Release);
        }
    }

    /// Whether all readers have the last value.
    pub fn is_taken(&self) -> bool {
        let count = self.count();
        self.taken.iter().all(|taken| taken.load(Ordering::Acquire) >= count)
    }
}
