//! A shard's pulse: that its loop goes round, and where in it the shard is, for the watchdog and for `status`.
//!
//! The shard writes a few words per round, of a cache line that nobody else writes.

use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};

/// Where in its round a shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It has not begun.
    Starting,
    /// Taking frames from the ports.
    Receiving,
    /// Timers of connections and sessions, and the pools.
    Timers,
    /// Calling sessions.
    Sessions,
    /// A cryptographic step.
    Crypto,
    /// Handing frames to the ports.
    Sending,
    /// Answering commands and writing events.
    Commands,
    /// Asleep until a frame, a command or a timer.
    Asleep,
    /// It has ended.
    Ended,
}

impl Phase {
    const ALL: [Phase; 9] = [
        Phase::Starting,
        Phase::Receiving,
        Phase::Timers,
        Phase::Sessions,
        Phase::Crypto,
        Phase::Sending,
        Phase::Commands,
        Phase::Asleep,
        Phase::Ended,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Receiving => "receiving frames",
            Phase::Timers => "timers",
            Phase::Sessions => "calling a session",
            Phase::Crypto => "a cryptographic step",
            Phase::Sending => "sending frames",
            Phase::Commands => "answering commands",
            Phase::Asleep => "asleep",
            Phase::Ended => "ended",
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Pulse {
    beats: AtomicU64,
    phase: AtomicU8,
    /// The session that was called last.
    session: AtomicU64,
    /// The thread's number with the kernel; zero before it runs.
    thread: AtomicI32,
}

impl Pulse {
    /// The calling thread is the shard's.
    pub fn begin(&self) {
        self.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    }

    /// Another round.
    pub fn beat(&self) {
        // The shard is the only one who writes.
        self.beats.store(self.beats.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The shard is here now.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The shard calls this session now.
    pub fn session(&self, number: u64) {
        self.session.store(number, Ordering::Relaxed);
    }

    /// Rounds so far.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Where the shard is.
    pub fn phase(&self) -> Phase {
        Phase::ALL.get(usize::from(self.phase.load(Ordering::Relaxed))).copied().unwrap_or(Phase::Starting)
    }

    /// The session that was called last; zero: none yet.
    pub fn last_session(&self) -> u64 {
        self.session.load(Ordering::Relaxed)
    }

    /// The shard's thread, by the kernel's number.
    pub fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|&thread| thread != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shard_says_is_what_others_read() {
        let pulse = Pulse::default();
        assert_eq!((pulse.phase(), pulse.thread(), pulse.beats()), (Phase::Starting, None, 0));
        pulse.begin();
        pulse.beat();
        pulse.session(7);
        for phase in Phase::ALL {
            pulse.enter(phase);
            assert_eq!(pulse.phase(), phase);
        }
        assert_eq!((pulse.beats(), pulse.last_session()), (1, 7));
        assert!(std::path::Path::new(&format!("/proc/self/task/{}", pulse.thread().unwrap())).exists());
    }
}
