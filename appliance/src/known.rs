//! Identities that had a session before, kept across restarts, so that known peers keep their half of the pace and the queue
//! when all come back at once.
//!
//! The file has a line for each, `POOL ID`, the oldest first. It is a help and no truth: what in it cannot be read is left out,
//! and said.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hedgerow_policy::PeerId;

use crate::bans::file::replace;
use crate::commons::Commons;
use crate::config::units::NodeId;

/// How often the file is written at most.
const EVERY: Duration = Duration::from_secs(60);

/// Who keeps the file.
#[derive(Debug)]
pub struct Known {
    path: PathBuf,
    /// How many had been remembered when it was last written, and when that was.
    written: (u64, Instant),
}

impl Known {
    /// Reads the file, if it is there, into the pools.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    pub fn open(path: &Path, commons: &Arc<Commons>) -> io::Result<Known> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let mut left_out = 0;
        commons.with(|books| {
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let entry =
                    line.split_once(' ').and_then(|(pool, id)| Some((pool, id.parse::<NodeId>().ok()?)));
                let place = entry
                    .as_ref()
                    .and_then(|(pool, _)| books.pools.iter_mut().find(|there| there.config().name == *pool));
                match (place, entry) {
                    (Some(pool), Some((_, NodeId(id)))) => pool.remember(PeerId(id)),
                    _ => left_out += 1,
                }
            }
        });
        if left_out > 0 {
            tracing::warn!("{left_out} lines of {} name no pool and identity: left out", path.display());
        }
        Ok(Known { path: path.to_owned(), written: (remembered(commons), Instant::now()) })
    }

    /// Writes the file where there is something new: at once, or now and then.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&mut self, commons: &Arc<Commons>, at_once: bool) -> io::Result<()> {
        let (count, at) = self.written;
        let now = remembered(commons);
        if now == count || !at_once && at.elapsed() < EVERY {
            return Ok(());
        }
        self.written = (now, Instant::now());
        let text = commons.with(|books| {
            let mut text = String::new();
            for pool in &books.pools {
                for id in pool.known() {
                    let _ = writeln!(text, "{} {id}", pool.config().name);
                }
            }
            text
        });
        replace(&self.path, text.as_bytes())
    }
}

/// Identities that the pools have ever remembered.
fn remembered(commons: &Arc<Commons>) -> u64 {
    commons.with(|books| books.pools.iter().map(|pool| pool.remembered()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::PoolConfig;

    fn commons() -> Arc<Commons> {
        let pool = |name: &str| PoolConfig { name: name.into(), slots: 10, ..PoolConfig::default() };
        Commons::over(
            &[pool("front"), pool("web")],
            Vec::new(),
            1,
            Box::new(|_| {}),
            hedgerow_dataplane::Instant::ZERO,
        )
    }

    fn known(commons: &Arc<Commons>, pool: usize) -> Vec<PeerId> {
        commons.with(|books| books.pools[pool].known().copied().collect())
    }

    #[test]
    fn who_is_known_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known");
        let before = commons();
        let mut kept = Known::open(&path, &before).unwrap();
        kept.save(&before, true).unwrap();
        assert!(!path.exists(), "nothing to keep");
        for n in 1..=3 {
            before.with(|books| books.pools[usize::from(n == 2)].remember(PeerId([n; 32])));
        }
        kept.save(&before, false).unwrap();
        assert!(!path.exists(), "not yet");
        kept.save(&before, true).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text += "nowhere 00\nfront nonsense\n";
        std::fs::write(&path, text).unwrap();
        let after = commons();
        Known::open(&path, &after).unwrap();
        assert_eq!(known(&after, 0), [PeerId([1; 32]), PeerId([3; 32])]);
        assert_eq!(known(&after, 1), [PeerId([2; 32])]);
    }
}
