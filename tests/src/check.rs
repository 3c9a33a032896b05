//! What a test says: outcomes with their context, waiting for a condition, and the report that counts cases.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

/// Passed with a value, or failed with a sentence.
pub type Outcome<T = ()> = Result<T, String>;

/// Says what was being done when something failed.
pub trait Context<T> {
    /// Puts `doing` in front of the failure.
    fn context(self, doing: impl Display) -> Outcome<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, doing: impl Display) -> Outcome<T> {
        self.map_err(|error| format!("{doing}: {error}"))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, doing: impl Display) -> Outcome<T> {
        self.ok_or_else(|| format!("{doing}: nothing there"))
    }
}

/// Fails with `otherwise` unless `condition` holds.
pub fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition { Ok(()) } else { Err(otherwise()) }
}

/// Asks `probe` again and again until it has a value; fails when `limit` is over.
pub fn wait_for<T>(
    what: impl Display,
    limit: Duration,
    mut probe: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(value) = probe().context(&what)? {
            return Ok(value);
        }
        if begin.elapsed() > limit {
            return Err(format!("{what}: not within {} s", limit.as_secs()));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// Runs named cases, prints each with its time, and counts them for the launcher.
pub struct Report {
    suite: String,
    only: Vec<String>,
    failed: usize,
}

impl Report {
    /// A report for a suite; of its cases only those run whose name contains one of `only`, or all if that is empty.
    pub fn new(suite: &str, only: Vec<String>) -> Self {
        Report { suite: suite.to_owned(), only, failed: 0 }
    }

    /// Whether a case was asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()))
    }

    /// Runs one case; true if it passed or was not asked for.
    pub fn case(&mut self, name: &str, run: impl FnOnce() -> Outcome) -> bool {
        !self.wants(name) || self.step(name, run)
    }

    /// Runs what other cases need, whatever was asked for; true if it passed.
    pub fn step(&mut self, name: &str, run: impl FnOnce() -> Outcome) -> bool {
        let begin = Instant::now();
        let outcome = run();
        let seconds = begin.elapsed().as_secs_f32();
        match &outcome {
            Ok(()) => {
                println!("  ok      {name} ({seconds:.1} s)");
                self.record("passed", name);
            }
            Err(failure) => {
                println!("  FAILED  {name} ({seconds:.1} s): {failure}");
                self.failed += 1;
                self.record("failed", &format!("{name}: {failure}"));
            }
        }
        outcome.is_ok()
    }

    /// Counts a case that cannot run here.
    pub fn skip(&mut self, name: &str, reason: &str) {
        if self.wants(name) {
            println!("  skipped {name}: {reason}");
            self.record("skipped", &format!("{name}: {reason}"));
        }
    }

    /// Cases that failed.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Tells the launcher, if one started us.
    fn record(&self, kind: &str, name: &str) {
        let Some(path) = std::env::var_os("RESULTS") else { return };
        let line = format!("{kind} 1 {}: {}\n", self.suite, name.replace('\n', " | "));
        let written =
            OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            println!("  could not write to {}: {error}", path.display());
        }
    }
}
