//! A value that is replaced as a whole while others read it: one writer at a time, any number of readers, nobody waits.
//!
//! Each reader looks at a counter, one atomic load, and at the value only when the counter has moved; then it says which
//! one it has. So a reader changes over at a moment of its own, between two batches of frames, and the writer can wait
//! until all have.
//!
//! `cell` is the discipline, written once over the types of `sync`; the test puts loom's in their place and goes
//! through every order in which threads may run.

mod cell;

pub use cell::{Reader, Swap};

/// What the discipline is built on.
mod sync {
    use std::sync::Arc;
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};

    use arc_swap::ArcSwap;

    /// Where the value is.
    #[derive(Debug)]
    pub(super) struct Slot<T>(ArcSwap<T>);

    impl<T> Slot<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Slot(ArcSwap::new(value))
        }

        pub(super) fn store(&self, value: Arc<T>) {
            self.0.store(value);
        }

        pub(super) fn load(&self) -> Arc<T> {
            self.0.load_full()
        }
    }
}

#[cfg(test)]
mod modelled;
