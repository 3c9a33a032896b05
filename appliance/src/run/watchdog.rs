//! The watchdog: a thread that sees a shard whose loop goes round no more, says what is known about it and, where the
//! configuration says so, aborts the process.
//!
//! It must not cry where nothing is wrong: not when the whole process did not run (a suspended machine, a stopped or
//! traced process), and not when the machine gave a shard no processor time. So it counts silence only in looks that came
//! when they were due, and asks the kernel what the thread has been doing.

use std::fmt;
use std::time::{Duration, Instant};

use crate::config::{Cores, Stuck};
use crate::control::{Control, Line};

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A look that comes so much later says that the process itself did not run.
const LATE: Duration = Duration::from_secs(1);
/// A shard that used less than this share of its silence did not run: in percent.
const RAN_PERCENT: u32 = 10;
/// It is said again after so many times the limit.
const AGAIN: u32 = 6;

/// Starts the thread, which ends with the process.
pub(super) fn start(control: &Control, cores: &Cores) -> std::io::Result<()> {
    let (control, limit, stuck) = (control.clone(), cores.watchdog, cores.stuck);
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || watch(control.lines(), limit, stuck))?;
    Ok(())
}

fn watch(lines: &[Line], limit: Duration, stuck: Stuck) {
    let mut dogs: Vec<Dog> = lines.iter().map(|_| Dog::new(limit)).collect();
    loop {
        let asked = Instant::now();
        std::thread::sleep(LOOK);
        let slept = asked.elapsed();
        for (shard, (dog, line)) in dogs.iter_mut().zip(lines).enumerate() {
            if line.pulse.phase() == crate::pulse::Phase::Ended {
                continue;
            }
            let thread = || line.pulse.thread().map_or(Some(Thread::UNBORN), Thread::read);
            match dog.look(slept, line.pulse.beats(), thread) {
                Some(Finding::Alive(silence)) => tracing::warn!(shard, ?silence, "the shard goes on"),
                Some(Finding::Starved(silence)) => {
                    tracing::warn!(shard, ?silence, "the machine gives the shard no processor time");
                }
                Some(Finding::Stuck(silence, how)) => {
                    let (phase, session) = (line.pulse.phase().name(), line.pulse.last_session());
                    tracing::error!(
                        shard, ?silence, phase, session, %how,
                        "THE SHARD IS STUCK: its connections stand still (session: the one called last)"
                    );
                    // Not on a guess.
                    if stuck == Stuck::Abort && how != How::Unknown {
                        tracing::error!("aborting, as `cores.stuck` says");
                        std::process::abort();
                    }
                }
                None => {}
            }
        }
    }
}

/// What the kernel says about a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread {
    /// `R`, `S`, `D`, `T`, `t` and so on, as in proc(5).
    state: char,
    /// Processor time that it has had.
    ran: Duration,
}

impl Thread {
    /// One that has been made but did not run yet.
    const UNBORN: Thread = Thread { state: 'R', ran: Duration::ZERO };

    fn read(number: i32) -> Option<Thread> {
        let stat = std::fs::read_to_string(format!("/proc/self/task/{number}/stat")).ok()?;
        let schedule = std::fs::read_to_string(format!("/proc/self/task/{number}/schedstat")).ok()?;
        Thread::parse(&stat, &schedule)
    }

    /// From the text of `stat`, where the state follows a name in brackets that may hold anything, and of `schedstat`,
    /// which begins with nanoseconds on a processor.
    fn parse(stat: &str, schedule: &str) -> Option<Thread> {
        let state = stat.rsplit_once(") ")?.1.chars().next()?;
        let ran = Duration::from_nanos(schedule.split_whitespace().next()?.parse().ok()?);
        Some(Thread { state, ran })
    }

    /// Somebody has stopped it on purpose.
    fn is_held(self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// How a shard is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It ran for so long without coming round.
    Circles(Duration),
    /// It waits in the kernel, in this state.
    Waits(char),
    /// The kernel says nothing.
    Unknown,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Circles(ran) => write!(f, "it runs in circles: {ran:.1?} of processor time meanwhile"),
            How::Waits(state) => write!(f, "it waits in the kernel, in state {state}"),
            How::Unknown => f.write_str("the kernel does not say what it does"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Stuck(Duration, How),
    Starved(Duration),
    /// It was reported, and goes on.
    Alive(Duration),
}

/// What is remembered about one shard.
struct Dog {
    limit: Duration,
    beats: Option<u64>,
    silence: Duration,
    /// Processor time at the beginning of the silence.
    ran: Option<Duration>,
    /// The silence at which it is reported next.
    next: Duration,
}

impl Dog {
    fn new(limit: Duration) -> Self {
        Dog { limit, beats: None, silence: Duration::ZERO, ran: None, next: limit }
    }

    /// Looks at a shard `slept` after the last look.
    fn look(
        &mut self,
        slept: Duration,
        beats: u64,
        thread: impl FnOnce() -> Option<Thread>,
    ) -> Option<Finding> {
        if self.beats != Some(beats) {
            let finding = (self.next > self.limit).then_some(Finding::Alive(self.silence));
            *self = Dog { beats: Some(beats), ..Dog::new(self.limit) };
            return finding;
        }
        let thread = thread();
        if slept > LOOK + LATE || thread.is_some_and(Thread::is_held) {
            // Nobody's fault: the silence is measured from now on.
            *self = Dog { beats: Some(beats), next: self.next, ..Dog::new(self.limit) };
            return None;
        }
        let ran_before = *self.ran.get_or_insert(thread.map_or(Duration::ZERO, |thread| thread.ran));
        self.silence += slept;
        if self.silence < self.next {
            return None;
        }
        self.next = self.silence + self.limit * AGAIN;
        let Some(thread) = thread else { return Some(Finding::Stuck(self.silence, How::Unknown)) };
        let ran = thread.ran.saturating_sub(ran_before);
        Some(match thread.state {
            _ if ran >= self.silence * RAN_PERCENT / 100 => Finding::Stuck(self.silence, How::Circles(ran)),
            'R' => Finding::Starved(self.silence),
            state => Finding::Stuck(self.silence, How::Waits(state)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Looks once a second while the shard's round does not end; the thread's state and its share of time in percent.
    fn silent(dog: &mut Dog, seconds: u32, state: char, percent: u32) -> Vec<Finding> {
        let thread = |second: u32| Thread { state, ran: LOOK * second * percent / 100 };
        (0..seconds).filter_map(|second| dog.look(LOOK, 7, || Some(thread(second)))).collect()
    }

    #[test]
    fn a_shard_that_goes_round_is_left_alone() {
        let mut dog = Dog::new(LIMIT);
        assert!((0..1_000).all(|beats| dog.look(LOOK, beats, || None).is_none()));
    }

    #[test]
    fn a_shard_in_circles_is_reported_once_in_a_while_and_when_it_goes_on() {
        let mut dog = Dog::new(LIMIT);
        let found = silent(&mut dog, 60, 'R', 100);
        assert!(matches!(found[..], [Finding::Stuck(LIMIT, How::Circles(_))]), "{found:?}");
        assert_eq!(silent(&mut dog, 60, 'R', 100).len(), 1);
        assert!(matches!(dog.look(LOOK, 8, || None), Some(Finding::Alive(_))));
        assert_eq!(dog.look(LOOK, 9, || None), None);
    }

    #[test]
    fn a_shard_that_waits_for_ever_is_stuck_and_one_that_gets_no_time_is_not() {
        assert_eq!(silent(&mut Dog::new(LIMIT), 12, 'D', 0), [Finding::Stuck(LIMIT, How::Waits('D'))]);
        assert_eq!(silent(&mut Dog::new(LIMIT), 12, 'R', 2), [Finding::Starved(LIMIT)]);
        let mut dog = Dog::new(LIMIT);
        let found: Vec<_> = (0..12).filter_map(|_| dog.look(LOOK, 7, || None)).collect();
        assert_eq!(found, [Finding::Stuck(LIMIT, How::Unknown)]);
    }

    #[test]
    fn a_shard_that_did_not_run_yet_is_not_stuck() {
        let mut dog = Dog::new(LIMIT);
        let found: Vec<_> = (0..12).filter_map(|_| dog.look(LOOK, 0, || Some(Thread::UNBORN))).collect();
        assert_eq!(found, [Finding::Starved(LIMIT)]);
    }

    #[test]
    fn time_in_which_nobody_ran_does_not_count() {
        let mut dog = Dog::new(LIMIT);
        let thread = || Some(Thread { state: 'R', ran: Duration::from_secs(1) });
        // A machine that is suspended again and again, each time for an hour.
        for _ in 0..100 {
            for _ in 0..8 {
                assert_eq!(dog.look(LOOK, 7, thread), None);
            }
            assert_eq!(dog.look(Duration::from_secs(3_600), 7, thread), None);
        }
    }

    #[test]
    fn a_thread_in_a_debugger_is_not_stuck() {
        for state in ['t', 'T'] {
            assert_eq!(silent(&mut Dog::new(LIMIT), 1_000, state, 0), []);
        }
    }

    #[test]
    fn the_kernels_words_are_understood() {
        let stat = "17 (shard-0 (odd) name) D 1 17 17 0 -1 4194368 100 0 0 0 3 4 0 0 20 0 5 0";
        let thread = Thread::parse(stat, "2500000000 17 9\n").unwrap();
        assert_eq!((thread.state, thread.ran), ('D', Duration::from_millis(2_500)));
        let own = Thread::read(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        assert_eq!(own.state, 'R');
        assert_eq!(Thread::parse("", ""), None);
    }
}
