//! What the operator changes about nodes while the appliance runs: drains, shares, nodes that come and go.
//!
//! A change holds at once, for all cores: they read it in the commons. Where `management.nodes` names a file, changes are
//! kept across restarts, laid over what the configuration says; without it they end with the process. That the appliance
//! itself is drained is never kept: it is asked for because a restart follows.

pub mod cli;
mod file;

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::Target;
use hedgerow_dataplane::wire::{LinkId, Prefix};
use serde::{Deserialize, Serialize};

use crate::bans::Bans;
use crate::commons::{Books, Commons, Drained};
use crate::config::Config;
use crate::config::units::{NodeAddress, WEIGHT_MAX};
use crate::pool::duty::Unchanged;
use crate::pool::node::Duty;
use crate::pool::{NodeConfig, Pool};
use crate::status::NodeStatus;
use file::{Added, Kept};

/// How long a drain of the appliance may take where nothing else is said.
pub const SELF_PATIENCE: Duration = Duration::from_secs(600);

/// What is to change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// Nothing: how are they?
    List,
    /// A node more.
    Add {
        /// As in the configuration: `d=10.0.1.14:8444 protected weight=2`.
        node: String,
        /// Its pool; needed where there are several.
        pool: Option<String>,
    },
    /// A node less.
    Remove {
        /// `NODE`, or `POOL/NODE`.
        node: String,
        /// Its sessions are cut off.
        force: bool,
    },
    /// Another share.
    Weigh {
        /// `NODE`, or `POOL/NODE`.
        node: String,
        /// The share.
        weight: u32,
    },
    /// Out of service.
    Drain {
        /// `NODE`, `POOL/NODE`, or `self`.
        node: String,
        /// For so long; for `self`: how long it may take.
        seconds: Option<u64>,
    },
    /// Into service again.
    Undrain {
        /// `NODE`, `POOL/NODE`, or `self`.
        node: String,
    },
}

/// How the nodes of a pool are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    /// The pool.
    pub pool: String,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// How it was changed, and how the nodes are now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What was done, and what follows.
    pub said: String,
    /// All nodes.
    pub pools: Vec<Listed>,
}

/// Where changes are made.
pub struct Nodes {
    config: Arc<Config>,
    commons: Arc<Commons>,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    unix: fn() -> u64,
    /// Where nodes are protected from bans.
    bans: Arc<Bans>,
    kept: Mutex<Kept>,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("kept", &self.kept).finish_non_exhaustive()
    }
}

/// A change that was made: what to say, and what to note in the file.
type Made = (String, Option<(String, Note)>);

/// What the file notes about a node.
enum Note {
    Added(Added),
    Removed(String),
    Weighed(String, u32),
    Drained(String, Option<u64>),
    Serving(String),
}

impl Nodes {
    /// Takes up what was kept: what no longer fits the configuration is left out, and said.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn open(
        config: Arc<Config>,
        commons: Arc<Commons>,
        clock: Box<dyn Fn() -> Instant + Send + Sync>,
        unix: fn() -> u64,
        bans: Arc<Bans>,
    ) -> std::io::Result<Arc<Nodes>> {
        let kept = config.management.nodes.as_deref().map(file::load).transpose()?.unwrap_or_default();
        let nodes = Nodes { config, commons, clock, unix, bans, kept: Mutex::default() };
        for change in kept.changes((nodes.unix)()) {
            if let Err(problem) = nodes.change(&change) {
                tracing::warn!("a change of nodes that was kept is left out: {problem}");
            }
        }
        Ok(Arc::new(nodes))
    }

    /// Makes a change.
    ///
    /// # Errors
    /// Why it was not made, and what to do.
    pub fn change(&self, change: &Change) -> Result<Answer, String> {
        let now = (self.clock)();
        let (mut said, note) = self.commons.with(|books| self.make(books, now, change))?;
        if let Some((_, Note::Added(added))) = &note {
            self.protect(added, &mut said);
        }
        let kept = note.map_or(Ok(()), |note| self.keep(note));
        kept.map_err(|error| {
            format!("{said}; it holds until the process ends, but it cannot be written down: {error}")
        })?;
        let lasts = match (change, &self.config.management.nodes) {
            (Change::List, _) | (_, Some(_)) => "",
            _ => "; without `management.nodes` it ends with the process",
        };
        let pools = self.commons.with(|books| books.pools.iter().map(|pool| listed(pool, now)).collect());
        Ok(Answer { said: if said.is_empty() { said } else { said + lasts }, pools })
    }

    fn make(&self, books: &mut Books, now: Instant, change: &Change) -> Result<Made, String> {
        let note = |pool: &Pool, note| Some((pool.config().name.clone(), note));
        match change {
            Change::List => Ok((String::new(), None)),
            Change::Add { node, pool } => {
                let index = self.pool(pool.as_deref())?;
                let (config, added) = self.node(index, node)?;
                let pool = &mut books.pools[index];
                pool.add(now, config).map_err(|why| why.to_string())?;
                let said = format!("`{}` is part of `{}`", added.name, pool.config().name);
                Ok((said, note(pool, Note::Added(added))))
            }
            Change::Remove { node, force } => {
                let (pool, name) = find(books, node)?;
                pool.remove(name, *force).map_err(|why| why.to_string())?;
                Ok((format!("`{name}` is removed"), note(pool, Note::Removed(name.to_owned()))))
            }
            Change::Weigh { weight, .. } if !(1..=WEIGHT_MAX).contains(weight) => Err(format!(
                "{weight} is no weight: expected 1 to {WEIGHT_MAX}; `hedgerow drain` gives a node none"
            )),
            Change::Weigh { node, weight } => {
                let (pool, name) = find(books, node)?;
                pool.weigh(name, *weight).map_err(|why| why.to_string())?;
                Ok((
                    format!("`{name}` has weight {weight}"),
                    note(pool, Note::Weighed(name.to_owned(), *weight)),
                ))
            }
            Change::Drain { node, seconds } if node == "self" => {
                let patience = seconds.map_or(SELF_PATIENCE, Duration::from_secs);
                let until = now + patience;
                let since = books.drained.map_or(now, |drained| drained.since);
                books.drained = Some(Drained { since, until, turn: now });
                let said = format!(
                    "the appliance takes no new sessions, and ends once it has none, in {patience:?} at the latest"
                );
                Ok((said, None))
            }
            Change::Drain { node, seconds } => {
                let (pool, name) = find(books, node)?;
                let until = seconds.map(|seconds| now + Duration::from_secs(seconds));
                pool.drain(now, name, until).map_err(|why| why.to_string())?;
                let others = pool.nodes(now).filter(|(_, figures)| figures.duty == Duty::Serving);
                let alone = if others.count() == 0 { ", AND NO OTHER NODE SERVES" } else { "" };
                let said = format!(
                    "`{name}` gets no new sessions{alone}; those that it has move to others one by one"
                );
                let unix = seconds.map(|seconds| (self.unix)() + seconds);
                Ok((said, note(pool, Note::Drained(name.to_owned(), unix))))
            }
            Change::Undrain { node } if node == "self" => match books.drained.take() {
                Some(_) => Ok(("the appliance takes new sessions again".to_owned(), None)),
                None => {
                    Err("the appliance is not being drained; `hedgerow status` shows how it is".to_owned())
                }
            },
            Change::Undrain { node } => {
                let (pool, name) = find(books, node)?;
                pool.undrain(now, name).map_err(|why| why.to_string())?;
                Ok((format!("`{name}` serves again"), note(pool, Note::Serving(name.to_owned()))))
            }
        }
    }

    /// No ban concerns a node, as for those of the configuration; those that did are lifted.
    fn protect(&self, node: &Added, said: &mut String) {
        let (prefix, name) = (Prefix::host(node.address.ip().into()), format!("the node {}", node.name));
        match self.bans.change(|book, _| book.protect(prefix, name)) {
            Ok(lifted) => {
                lifted.iter().for_each(|ban| *said += &format!("; the ban of {} is lifted", ban.prefix))
            }
            // What was lifted is lifted until a restart, and then the node protects itself again.
            Err(error) => tracing::warn!(%error, "the ban file cannot be written"),
        }
    }

    /// The place of a pool; without a name there must be only one.
    fn pool(&self, name: Option<&str>) -> Result<usize, String> {
        let pools = &self.config.pools;
        let names = || pools.iter().map(|pool| format!("`{}`", pool.name)).collect::<Vec<_>>().join(" or ");
        match name {
            None if pools.len() == 1 => Ok(0),
            None => Err(format!("to which pool? Expected --pool with {}", names())),
            Some(name) => pools
                .iter()
                .position(|pool| pool.name == name)
                .ok_or_else(|| format!("there is no pool `{name}`: expected {}", names())),
        }
    }

    /// A node that the network lets us reach.
    fn node(&self, pool: usize, text: &str) -> Result<(NodeConfig, Added), String> {
        let NodeAddress { name, address, role, weight } =
            text.parse().map_err(|error: crate::config::units::Misread| error.to_string())?;
        if name.contains('/') || name == "self" {
            return Err(format!(
                "`{name}` cannot be the name of a node: expected one without `/`, and not `self`"
            ));
        }
        let link = self.way(pool, address.ip())?;
        let target = Target { link: LinkId(link as u8), address: address.ip().into(), port: address.port() };
        let role = role.unwrap_or_default();
        let config = NodeConfig { name: name.as_str().into(), target, role, weight };
        Ok((config, Added { name, address, role, weight }))
    }

    /// The port that leads to a node.
    fn way(&self, pool: usize, ip: IpAddr) -> Result<usize, String> {
        let ports = &self.config.ports;
        let own = |ip: IpAddr| ports.iter().flat_map(|port| &port.addresses).any(|own| own.address == ip);
        if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || own(ip) {
            return Err(format!("no node can be at {ip}: expected the address of another host"));
        }
        let way = self.config.way_to(ip).ok_or_else(|| {
            format!("no port leads to {ip}: expected an address beside a port, or behind a route of the configuration")
        })?;
        let sees = ports[way].speaks(ip.is_ipv4());
        if !sees && !self.config.pools[pool].source.is_transparent() {
            return Err(format!("`port.{}` has no address that {ip} could see", ports[way].name));
        }
        Ok(way)
    }

    fn keep(&self, (pool, note): (String, Note)) -> std::io::Result<()> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let configured = |name: &str| {
            let pool = self.config.pools.iter().find(|other| other.name == pool);
            pool.is_some_and(|pool| pool.nodes.iter().any(|node| node.name == name))
        };
        kept.note(&pool, note, configured);
        match &self.config.management.nodes {
            Some(path) => kept.save(path),
            None => Ok(()),
        }
    }

    /// Whether the appliance is drained and may end: it has no session left, or its time is over.
    pub fn may_end(&self) -> bool {
        let now = (self.clock)();
        self.commons.with(|books| {
            let empty = |pool: &Pool| pool.is_empty();
            books.drained.is_some_and(|drained| drained.until <= now || books.pools.iter().all(empty))
        })
    }
}

/// The pool of a node, and the node's name in it.
fn find<'a, 'b>(books: &'a mut Books, node: &'b str) -> Result<(&'a mut Pool, &'b str), String> {
    let (pool, name) = node.split_once('/').map_or((None, node), |(pool, name)| (Some(pool), name));
    let fits = |one: &Pool| pool.is_none_or(|pool| one.config().name == pool) && one.find(name).is_ok();
    let found: Vec<usize> = (0..books.pools.len()).filter(|&index| fits(&books.pools[index])).collect();
    match found[..] {
        [index] => Ok((&mut books.pools[index], name)),
        [] => {
            let all = books.pools.iter().filter_map(|pool| match pool.find("") {
                Err(Unchanged::NoNode(_, there)) => Some(there),
                _ => None,
            });
            Err(Unchanged::NoNode(node.to_owned(), all.flatten().collect()).to_string())
        }
        _ => {
            let names = found.iter().map(|&index| format!("`{}/{name}`", books.pools[index].config().name));
            Err(format!(
                "several pools have a node `{name}`: expected {}",
                names.collect::<Vec<_>>().join(" or ")
            ))
        }
    }
}

fn listed(pool: &Pool, now: Instant) -> Listed {
    let nodes = pool.nodes(now).map(|(node, figures)| NodeStatus::new(node, &figures)).collect();
    Listed { pool: pool.config().name.clone(), nodes }
}

#[cfg(test)]
mod tests;
