//! The bell of a core that may be asleep: whoever leaves something for it rings, and only a sleeper costs a system call.
//!
//! The sleeper says that it sleeps, then looks once more for what was left, then waits. Who leaves something does so, then
//! looks whether the other sleeps. Both put a fence between their two steps, so at least one of them sees the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// See the [module](self).
#[derive(Debug)]
pub struct Bell {
    asleep: AtomicBool,
    wake: OwnedFd,
}

impl Bell {
    /// A bell of a core that is awake.
    pub fn new() -> io::Result<Bell> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Bell { asleep: AtomicBool::new(false), wake })
    }

    /// Wakes the core if it sleeps. To be called after something was left for it.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // A counter that is full wakes just as well.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// The core is about to sleep. It must look once more for what was left before it waits for [`Bell::fd`].
    pub fn doze(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The core is awake again.
    pub fn awake(&self) {
        if !self.asleep.swap(false, Ordering::Relaxed) {
            // Somebody rang, or is about to: then the next sleep is a short one.
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.wake, &mut count);
        }
    }

    /// Becomes readable when somebody rang.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    fn readable(bell: &Bell, seconds: i64) -> bool {
        let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
        poll(&mut [PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN)], Some(&timeout)).unwrap() > 0
    }

    #[test]
    fn only_a_sleeper_is_woken() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!readable(&bell, 0));
        bell.doze();
        bell.ring();
        assert!(readable(&bell, 0));
        bell.awake();
        assert!(!readable(&bell, 0));
        bell.doze();
        bell.awake();
        bell.ring();
        assert!(!readable(&bell, 0), "it sleeps no more");
    }

    /// One leaves numbers, the other sleeps whenever it finds none: it never sleeps over one that was left. (A lost one
    /// would keep it waiting until the timeout, which fails.)
    #[test]
    fn nothing_that_was_left_is_slept_over() {
        const COUNT: u64 = 50_000;
        let (bell, left) = (Arc::new(Bell::new().unwrap()), Arc::new(AtomicU64::new(0)));
        let leaver = {
            let (bell, left) = (bell.clone(), left.clone());
            std::thread::spawn(move || {
                for number in 1..=COUNT {
                    left.store(number, Ordering::Relaxed);
                    bell.ring();
                    // Now and then the sleeper finds time to fall asleep.
                    if number % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            })
        };
        let mut seen = 0;
        while seen < COUNT {
            bell.doze();
            if left.load(Ordering::Relaxed) == seen {
                assert!(readable(&bell, 20), "slept over number {}", seen + 1);
            }
            bell.awake();
            seen = left.load(Ordering::Relaxed);
        }
        leaver.join().unwrap();
    }
}
