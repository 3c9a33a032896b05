//! The pools and their nodes in `status`: how each node is, what it carries, and where its chain ends.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::core::PoolStatistics;
use crate::pool::health::Condition;
use crate::pool::node::{Duty, NodeConfig, NodeStatistics, Role};

/// A pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Sessions that hold a slot.
    pub taken: usize,
    /// Slots.
    pub slots: usize,
    /// Sessions that wait for a node.
    pub waiting: usize,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// What it is for.
    #[serde(default)]
    pub role: Role,
    /// Its share of sessions.
    #[serde(default)]
    pub weight: u32,
    /// `draining` or `maintenance` where the operator wants that, else how it is: `up`, `degraded`, `lagging`, `syncing`,
    /// `down`; `unknown` before it was seen, `unwatched` where nobody looks.
    #[serde(default)]
    pub state: String,
    /// How it is, whatever the operator wants.
    #[serde(default)]
    pub condition: Condition,
    /// Height of its peak.
    #[serde(default)]
    pub height: Option<u32>,
    /// How long its last reply to the light peer took.
    #[serde(default)]
    pub reply_ms: Option<f64>,
    /// Its chain is not the heaviest.
    #[serde(default)]
    pub forked: bool,
    /// Sessions now.
    pub sessions: usize,
    /// Connections made.
    pub connected: u64,
    /// Connections that failed.
    pub failed: u64,
    /// It failed lately, so others come first.
    pub cooling: bool,
}

impl NodeStatus {
    /// A node as the pool knows it.
    pub fn new(node: &NodeConfig, figures: &NodeStatistics) -> NodeStatus {
        NodeStatus {
            name: node.name.to_string(),
            address: SocketAddr::new(node.target.address.into(), node.target.port).to_string(),
            role: node.role,
            weight: node.weight,
            state: match figures.duty {
                Duty::Draining(_) => "draining",
                Duty::Maintenance(_) => "maintenance",
                Duty::Serving | Duty::Removed => figures.condition.name(),
            }
            .to_owned(),
            condition: figures.condition,
            height: figures.height,
            reply_ms: figures.reply.map(|reply| (reply.as_secs_f64() * 1e5).round() / 1e2),
            forked: figures.forked,
            sessions: figures.sessions,
            connected: figures.connected,
            failed: figures.failed,
            cooling: figures.cooling,
        }
    }
}

/// The pools, as configured and as counted.
pub(super) fn pools(config: &Config, counted: &[PoolStatistics]) -> Vec<PoolStatus> {
    let pool = |(config, counted): (&crate::config::Pool, &PoolStatistics)| PoolStatus {
        name: config.name.clone(),
        taken: counted.taken,
        slots: config.slots,
        waiting: counted.waiting,
        nodes: counted.nodes.iter().map(|(node, figures)| NodeStatus::new(node, figures)).collect(),
    };
    config.pools.iter().zip(counted).map(pool).collect()
}

impl fmt::Display for PoolStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pool {}: {} of {} slots, {} waiting", self.name, self.taken, self.slots, self.waiting)?;
        self.nodes.iter().try_for_each(|node| writeln!(f, "  {node}"))
    }
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeStatus { name, address, state, sessions, connected, failed, .. } = self;
        write!(f, "{name} {address} {state}: {sessions} sessions, {connected} connected, {failed} failed")?;
        if let Some(height) = self.height {
            write!(f, ", height {height}")?;
        }
        if let Some(reply) = self.reply_ms {
            write!(f, ", replies in {reply} ms")?;
        }
        if self.role != Role::Public {
            write!(f, ", {}", self.role.name())?;
        }
        if self.weight != 1 {
            write!(f, ", weight {}", self.weight)?;
        }
        let notes = [(self.cooling, "failed lately"), (self.forked, "ON ANOTHER CHAIN than the heaviest")];
        notes.iter().filter(|(holds, _)| *holds).try_for_each(|(_, note)| write!(f, ", {note}"))
    }
}
