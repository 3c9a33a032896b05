//! The policy: what an operator changes while the appliance runs, and the way of a change to the shards.
//!
//! `policy.toml` is read as a whole ([`mod@file`]) with the lists that it names ([`lists`]) and compiled into a [`Policy`],
//! which never changes. The [`keeper`] puts one in the place of another: tried against the last minutes ([`trial`]), shown
//! as a difference, handed to all shards in one step ([`swap`]), and taken back if nobody confirms it. Which policies there
//! were is kept across restarts ([`history`]). What was decided and not carried out is told by the [`witness`].

pub mod cli;
pub mod diff;
pub mod file;
pub mod history;
pub mod keeper;
pub mod lists;
pub mod schema;
pub mod slots;
pub mod swap;
pub mod trial;
pub mod why;
pub mod witness;
mod words;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hedgerow_dataplane::admit::Quotas;
use hedgerow_dataplane::screen::DenyList;
use hedgerow_dataplane::wire::{Prefix, PrefixSet};
use hedgerow_policy::rules::Rules;

use crate::config::{Config, Report};
use slots::Slots;

/// Largest policy file, in bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// One version of the policy, compiled.
pub struct Policy {
    /// The file; `None`: there is none, and everything is as a node does it.
    pub path: Option<PathBuf>,
    /// Its text.
    pub text: String,
    /// Limits, actions, scopes and friends.
    pub rules: Arc<Rules>,
    /// Who is refused, without those that the allow lists, the nodes and friends are taken out of.
    pub deny: Vec<Prefix>,
    /// Whom neither deny lists nor bans of the policy concern.
    pub allow: PrefixSet,
    /// From where friends come.
    pub friends: Arc<PrefixSet>,
    /// How many connections a source or prefix may have; `None`: as many as before.
    pub quotas: Option<Quotas>,
    /// How many sessions of each kind a listener has, in the order of the configuration.
    pub slots: Vec<Slots>,
    /// Fingerprint of everything that was read: the text and the lists.
    pub fingerprint: u64,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("path", &self.path)
            .field("deny", &self.deny.len())
            .finish_non_exhaustive()
    }
}

/// Why a policy cannot be used.
#[derive(Debug)]
pub enum PolicyError {
    /// The file cannot be read.
    Unreadable(PathBuf, std::io::Error),
    /// It is larger than any policy.
    TooLarge(PathBuf),
    /// Its contents are wrong.
    Wrong(Report),
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyError::Unreadable(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            PolicyError::TooLarge(path) => {
                write!(f, "{} is larger than {FILE_MAX} bytes; prefixes belong into lists", path.display())
            }
            PolicyError::Wrong(report) => f.write_str(&report.render(false)),
        }
    }
}

impl std::error::Error for PolicyError {}

impl Policy {
    /// The policy that the configuration names, or the one of nodes where it names none. The report holds warnings.
    ///
    /// # Errors
    /// If the file, or a list or schema that it names, cannot be read or is wrong.
    pub fn load(config: &Config) -> Result<(Policy, Option<Report>), PolicyError> {
        let Some(path) = &config.policy.file else { return Ok((Policy::standard(config), None)) };
        let (policy, report) = Policy::parse(config, path, &read(path)?)?;
        Ok((policy, Some(report)))
    }

    /// A policy from a text; lists are looked for beside `path`.
    ///
    /// # Errors
    /// If it is wrong, or something that it names.
    pub fn parse(config: &Config, path: &Path, text: &str) -> Result<(Policy, Report), PolicyError> {
        file::parse(config, path, text).map_err(PolicyError::Wrong)
    }

    /// Everything as a node does it.
    pub fn standard(config: &Config) -> Policy {
        let path = PathBuf::new();
        match file::parse(config, &path, "version = 1\n") {
            Ok((policy, _)) => Policy { path: None, text: String::new(), ..policy },
            // A text that a test reads at every build.
            Err(report) => unreachable!("{}", report.render(false)),
        }
    }
}

/// Reads a policy file.
///
/// # Errors
/// If it cannot be read or is too large.
pub fn read(path: &Path) -> Result<String, PolicyError> {
    let unreadable = |error| PolicyError::Unreadable(path.to_owned(), error);
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_MAX {
        return Err(PolicyError::TooLarge(path.to_owned()));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// What is in force, as shards take it: all of it changes in one step.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// The policy's number; counts up from one.
    pub number: u64,
    /// The policy; `None` before the first one.
    pub policy: Option<Arc<Policy>>,
    /// Sessions that stand are to be judged by it too.
    pub now: bool,
    /// Strangers from here are refused: bans, and the policy's lists.
    pub deny: Arc<DenyList>,
    /// Connections that stand are ended if they come from here; `None`: none are.
    pub ends: Option<Arc<DenyList>>,
}

#[cfg(test)]
mod tests;
