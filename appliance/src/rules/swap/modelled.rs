//! The discipline over loom's types, in every order in which threads may run; a mutex stands for arc-swap, which loom cannot
//! see into.

#[path = "cell.rs"]
#[allow(clippy::duplicate_mod, dead_code, unreachable_pub)]
// what is not used here is used over the true types
mod cell;

use std::sync::Arc;

use super::Swap;

mod sync {
    use std::sync::Arc;

    use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug)]
    pub(super) struct Slot<T>(Mutex<Arc<T>>);

    impl<T> Slot<T> {
        pub(super) fn new(value: Arc<T>) -> Self {
            Slot(Mutex::new(value))
        }

        pub(super) fn store(&self, value: Arc<T>) {
            *self.0.lock().unwrap() = value;
        }

        pub(super) fn load(&self) -> Arc<T> {
            self.0.lock().unwrap().clone()
        }
    }
}

#[test]
fn a_reader_is_told_once_of_what_is_new() {
    let swap = Swap::new(1, Arc::new("one"));
    let mut reader = swap.reader(0);
    assert_eq!(swap.take(&mut reader).as_deref(), Some(&"one"));
    assert_eq!(swap.take(&mut reader), None);
    swap.put(Arc::new("two"));
    assert!(!swap.is_taken());
    assert_eq!(swap.take(&mut reader).as_deref(), Some(&"two"));
    swap.taken(&reader);
    assert!(swap.is_taken());
}

/// Whatever the order: a reader never goes back, never sees parts of two values, has the last one in the end, and the
/// writer does not hear that all have it before they do.
#[test]
fn every_order_of_threads_ends_well() {
    use loom::sync::atomic::{AtomicU64, Ordering};

    loom::model(|| {
        let swap = Arc::new(cell::Swap::new(2, Arc::new((0_u64, 0_u64))));
        let has = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let readers: Vec<_> = (0..2)
            .map(|index| {
                let (swap, has) = (swap.clone(), has.clone());
                loom::thread::spawn(move || {
                    let mut reader = swap.reader(index);
                    if let Some(value) = swap.take(&mut reader) {
                        assert_eq!(value.0, value.1, "parts of two values");
                        has[usize::from(index)].store(value.0, Ordering::Release);
                        swap.taken(&reader);
                    }
                    let last = has[usize::from(index)].load(Ordering::Relaxed);
                    (reader, last)
                })
            })
            .collect();
        swap.put(Arc::new((7, 7)));
        if swap.is_taken() {
            assert!(has.iter().all(|has| has.load(Ordering::Acquire) == 7), "told too early");
        }
        for reader in readers {
            let (mut reader, last) = reader.join().unwrap();
            match swap.take(&mut reader) {
                Some(value) => assert_eq!(value.0, 7),
                None => assert_eq!(last, 7, "it missed the last one"),
            }
            assert!(swap.take(&mut reader).is_none());
        }
    });
}
