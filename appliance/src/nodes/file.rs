//! The file of changes to nodes: one JSON document, replaced as a whole. It holds what differs from the configuration, so that
//! what is edited there counts wherever no change was made.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Change, Note};
use crate::bans::file::replace;
use crate::pool::Role;

/// The format that this program writes and reads.
const VERSION: u32 = 1;

/// What differs from the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kept {
    version: u32,
    /// By the name of the pool.
    pools: BTreeMap<String, Changes>,
}

impl Default for Kept {
    fn default() -> Self {
        Kept { version: VERSION, pools: BTreeMap::new() }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Changes {
    added: Vec<Added>,
    removed: Vec<String>,
    weights: BTreeMap<String, u32>,
    /// Until when, in seconds since the Unix epoch, where there is an end.
    drained: BTreeMap<String, Option<u64>>,
}

/// A node that the configuration does not have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Added {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) role: Role,
    pub(super) weight: u32,
}

/// Reads a file; one that is not there yet holds nothing.
pub(super) fn load(path: &Path) -> io::Result<Kept> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(error),
    };
    let wrong = |problem: String| io::Error::new(io::ErrorKind::InvalidData, problem);
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| {
        wrong(format!("{error}; put it right, or move it away to begin with the configuration alone"))
    })?;
    match kept.version {
        VERSION => Ok(kept),
        other => Err(wrong(format!("its version is {other}, expected {VERSION}"))),
    }
}

impl Kept {
    /// Replaces the file.
    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        replace(path, &serde_json::to_vec_pretty(self)?)
    }

    /// Notes a change. `configured` says whether the configuration has a node of that name.
    pub(super) fn note(&mut self, pool: &str, note: Note, configured: impl Fn(&str) -> bool) {
        let changes = self.pools.entry(pool.to_owned()).or_default();
        match note {
            Note::Added(added) => changes.added.push(added),
            Note::Removed(name) => {
                changes.added.retain(|added| added.name != name);
                changes.weights.remove(&name);
                changes.drained.remove(&name);
                if configured(&name) && !changes.removed.contains(&name) {
                    changes.removed.push(name);
                }
            }
            Note::Weighed(name, weight) => {
                changes.weights.insert(name, weight);
            }
            Note::Drained(name, until) => {
                changes.drained.insert(name, until);
            }
            Note::Serving(name) => {
                changes.drained.remove(&name);
            }
        }
    }

    /// The changes that make a pool as it was, in an order in which they can be made.
    pub(super) fn changes(&self, unix: u64) -> Vec<Change> {
        let mut all = Vec::new();
        for (pool, changes) in &self.pools {
            let full = |name: &String| format!("{pool}/{name}");
            // A node may have been removed to make room for another at its address.
            all.extend(changes.added.iter().filter(|_| changes.removed.is_empty()).map(|one| add(pool, one)));
            all.extend(changes.removed.iter().map(|name| Change::Remove { node: full(name), force: true }));
            all.extend(
                changes.added.iter().filter(|_| !changes.removed.is_empty()).map(|one| add(pool, one)),
            );
            all.extend(
                changes.weights.iter().map(|(name, &weight)| Change::Weigh { node: full(name), weight }),
            );
            let lasting = changes.drained.iter().filter(|(_, until)| until.is_none_or(|until| until > unix));
            all.extend(lasting.map(|(name, until)| Change::Drain {
                node: full(name),
                seconds: until.map(|until| until - unix),
            }));
        }
        all
    }
}

fn add(pool: &str, added: &Added) -> Change {
    let Added { name, address, role, weight } = added;
    let node = format!("{name}={address} {} weight={weight}", role.name());
    Change::Add { node, pool: Some(pool.to_owned()) }
}
