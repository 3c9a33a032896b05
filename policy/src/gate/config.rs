//! What an operator decides about the sessions of one `chia` listener, with the defaults that suit a public full node.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use super::privacy::Privacy;
use crate::chia::{NodeType, NodeTypes, Standard};
use crate::identity::Fleet;
use crate::rules::Rules;
use crate::tls::{Acceptor, Connector};

/// How long each step may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// The peer's TLS handshake.
    pub tls: Duration,
    /// The peer's upgrade request.
    pub upgrade: Duration,
    /// The peer's Chia handshake.
    pub handshake: Duration,
    /// From the wish for a node until its connection stands; includes the wait for a place in the pool's queue.
    pub dial: Duration,
    /// TLS and upgrade with the node.
    pub node: Duration,
    /// The node's Chia handshake.
    pub node_handshake: Duration,
    /// How long a leg may leave what it is sent unread.
    pub stall: Duration,
    /// A leg that was silent for so long is pinged.
    pub ping: Duration,
    /// How long the answer may take.
    pub pong: Duration,
    /// Silence after which a full node is gone. Nodes themselves give up after 1,800 s; wallets may be silent for hours.
    pub idle: Duration,
    /// How long a leg has to take our farewell and hang up.
    pub linger: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        let seconds = Duration::from_secs;
        Deadlines {
            tls: seconds(10),
            upgrade: seconds(5),
            handshake: seconds(30),
            dial: seconds(15),
            node: seconds(10),
            node_handshake: seconds(30),
            stall: seconds(30),
            ping: seconds(60),
            pong: seconds(30),
            idle: seconds(2_100),
            linger: seconds(10),
        }
    }
}

/// How much of what a session may hold or do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest body that is held whole for the node, in bytes.
    pub hold: u32,
    /// Largest body of a reply that the node asked for, in bytes. It streams.
    pub stream: u32,
    /// Bytes that wait for a leg before the other one is no longer read.
    pub backlog: usize,
    /// Bytes a second that a peer has to manage while it sends a message, and while it is being sent to without a pause.
    pub rate: u32,
    /// Receive window in bytes for a leg whose session stands.
    pub window: usize,
    /// WebSocket control frames a minute from the peer.
    pub controls_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            hold: 8 << 20,
            stream: 50 << 20,
            backlog: 64 << 10,
            rate: 32 << 10,
            window: 1 << 20,
            controls_per_minute: 60,
        }
    }
}

/// An amount of bytes that sessions share.
#[derive(Debug)]
pub struct Budget {
    total: u64,
    free: AtomicU64,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Arc<Budget> {
        Arc::new(Budget { total: bytes, free: AtomicU64::new(bytes) })
    }

    /// Bytes that nobody holds.
    pub fn free(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// All of it, in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether a message of this size can ever have its share.
    pub fn fits(&self, bytes: u64) -> bool {
        bytes <= self.total
    }

    /// Takes a share, until it is dropped; `None` as long as too much is taken.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Share> {
        let taken =
            self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes));
        taken.is_ok().then(|| Share { budget: self.clone(), bytes })
    }
}

/// A part of a [`Budget`]; dropping it gives it back.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// The memory that large messages of peers may take while they are unfinished.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// In the memory of the nodes of a pool, for replies that stream; 64 MiB for each node is a good value.
    pub nodes: Arc<Budget>,
    /// In our own memory, for what is held whole.
    pub held: Arc<Budget>,
}

impl Budgets {
    pub(super) fn of(&self, streams: bool) -> &Arc<Budget> {
        if streams { &self.nodes } else { &self.held }
    }
}

impl Default for Budgets {
    fn default() -> Budgets {
        Budgets { nodes: Budget::new(64 << 20), held: Budget::new(128 << 20) }
    }
}

/// Everything that the sessions of one listener have in common.
#[derive(Clone, Debug)]
pub struct Config {
    /// The network that handshakes must name.
    pub network: String,
    /// The listener's place in the host's configuration, as scopes of the rules name it.
    pub listener: u16,
    /// Kinds of peers that are served.
    pub types: NodeTypes,
    /// Limits, actions and friends: those are served whatever their kind, with a reserved standing.
    pub rules: Arc<Rules>,
    /// What the node is told as the peer's server port: `Some(0)` where the node sees our address instead of the peer's,
    /// `None` to pass on what the peer said.
    pub server_port: Option<u16>,
    /// Addresses that the node's messages do not carry outward; `None`: the peer is one of us and hears all.
    pub privacy: Option<Privacy>,
    /// The `Host` of the request that nodes get.
    pub host: String,
    /// How long each step may take.
    pub deadlines: Deadlines,
    /// How much a session may hold or do.
    pub limits: Limits,
    /// What messages are judged by, beside the rules.
    pub standard: Standard,
    /// Memory for unfinished messages.
    pub budgets: Budgets,
    /// TLS towards peers.
    pub acceptor: Acceptor,
    /// TLS towards nodes.
    pub connector: Connector,
    /// Where the identities come from that nodes see.
    pub fleet: Arc<Fleet>,
}

impl Config {
    /// The defaults for a public listener: full nodes only, source address translated.
    pub fn new(network: &str, acceptor: Acceptor, connector: Connector, fleet: Arc<Fleet>) -> Config {
        Config {
            network: network.to_owned(),
            listener: 0,
            types: NodeTypes::NONE.with(NodeType::FullNode),
            rules: Arc::default(),
            server_port: Some(0),
            privacy: Some(Privacy::default()),
            host: "node".to_owned(),
            deadlines: Deadlines::default(),
            limits: Limits::default(),
            standard: Standard::default(),
            budgets: Budgets::default(),
            acceptor,
            connector,
            fleet,
        }
    }
}
