//! Which policies there were: the last ones with their texts, kept across restarts where a file is named for it.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::bans::file::replace;

/// The format that this program writes and reads.
const FORMAT: u32 = 1;
/// Versions that are kept.
const VERSIONS: usize = 16;

/// How a version came into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The appliance started.
    Start,
    /// `hedgerow reload`.
    Command,
    /// SIGHUP.
    Signal,
    /// The file was changed, and is watched.
    Watch,
    /// `hedgerow reload undo`.
    Undo,
    /// Nobody confirmed the one before it.
    Timer,
}

impl By {
    /// In words.
    pub fn told(self) -> &'static str {
        match self {
            By::Start => "start",
            By::Command => "reload",
            By::Signal => "signal",
            By::Watch => "watch",
            By::Undo => "undo",
            By::Timer => "not confirmed",
        }
    }
}

/// A version of the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// Counts up, across restarts.
    pub number: u64,
    /// When it came into force, in seconds since the Unix epoch.
    pub since: u64,
    /// How.
    pub by: By,
    /// Whether it is there to stay: false until it is confirmed, where that was asked for.
    pub confirmed: bool,
    /// What was other than in the one before it.
    pub changes: Vec<String>,
    /// The text of its file; empty: there was none.
    pub text: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    versions: VecDeque<Version>,
}

/// The versions, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    versions: VecDeque<Version>,
}

impl History {
    /// Reads what was kept; nothing where there is no file yet.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(path: &Path) -> io::Result<History> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
            Err(error) => return Err(error),
        };
        let document: Document = serde_json::from_slice(&bytes)?;
        if document.format != FORMAT {
            let told = format!("its format is {}, expected {FORMAT}", document.format);
            return Err(io::Error::new(io::ErrorKind::InvalidData, told));
        }
        let mut history = History { versions: document.versions };
        history.bound();
        Ok(history)
    }

    /// Replaces what was kept.
    ///
    /// # Errors
    /// If it cannot be written; what was kept is still there then.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let document = Document { format: FORMAT, versions: self.versions.clone() };
        replace(path, &serde_json::to_vec(&document)?)
    }

    /// The versions, oldest first.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.versions.iter()
    }

    /// The last one.
    pub fn last(&self) -> Option<&Version> {
        self.versions.back()
    }

    /// Adds a version, with the next number.
    pub fn push(&mut self, version: Version) -> u64 {
        let number = self.last().map_or(1, |last| last.number + 1);
        self.versions.push_back(Version { number, ..version });
        self.bound();
        number
    }

    /// The last version is there to stay.
    pub fn confirm(&mut self) {
        if let Some(last) = self.versions.back_mut() {
            last.confirmed = true;
        }
    }

    fn bound(&mut self) {
        while self.versions.len() > VERSIONS {
            self.versions.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        let changes = vec!["in_flight: not stated -> 3".to_owned()];
        Version { number: 0, since: 7, by: By::Command, confirmed: false, changes, text: text.to_owned() }
    }

    #[test]
    fn the_last_versions_are_kept_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        let mut history = History::load(&path).unwrap();
        for round in 0..40 {
            assert_eq!(history.push(version(&round.to_string())), round + 1);
        }
        history.confirm();
        history.save(&path).unwrap();
        let mut again = History::load(&path).unwrap();
        assert_eq!(again.versions().count(), VERSIONS);
        assert_eq!(
            again.last().map(|last| (last.number, last.confirmed, last.text.as_str())),
            Some((40, true, "39"))
        );
        assert_eq!(again.push(version("")), 41);
        std::fs::write(&path, "{\"format\":9,\"versions\":[]}").unwrap();
        assert!(History::load(&path).unwrap_err().to_string().contains("its format is 9"));
    }
}
