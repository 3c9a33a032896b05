//! One pool of nodes: whose turn it is, how fast each may be dialled, and who waits.
//!
//! A node's single thread bears few new sessions a second, so dials are paced per node. Half of the pace and half of the
//! queue are kept for peers that had a session before: strangers with fresh identities cannot lock them out. The pool
//! does no I/O; it answers which ticket may dial which node now.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::Target;
use hedgerow_policy::{DialFailure, PeerId};

/// How long a dial may wait for its turn.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How much later than that a wish of another core still keeps its place.
const GRACE: Duration = Duration::from_secs(1);
/// How long a node that failed is asked only if no other is left.
const COOL_DOWN: Duration = Duration::from_secs(10);
/// Identities that are remembered as known.
const KNOWN_IDS: usize = 8_192;
/// Nodes of a pool at most: tried nodes are kept in 64 bits.
pub const NODES: usize = 64;
/// One dial, in the unit in which allowances are counted.
const DIAL: u64 = 1_000_000;

/// What a pool is, as configured.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Name in `status`.
    pub name: String,
    /// The nodes, at most [`NODES`].
    pub nodes: Vec<NodeConfig>,
    /// Nodes see the peer's own address; only those of its family can serve it.
    pub transparent: bool,
    /// New sessions per second and node.
    pub dials_per_second: u32,
    /// How long a connection to a node may take.
    pub dial_timeout: Duration,
    /// Sessions at one time, those that wait included.
    pub slots: usize,
}

/// A node, as configured.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name in `status`.
    pub name: String,
    /// Where it is.
    pub target: Target,
}

/// Who dials: a core's number for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// The core whose session it is.
    pub core: u16,
    /// Place in the core's table.
    pub index: u32,
    /// How often the place had been taken.
    pub generation: u32,
}

/// A session that wants a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Who.
    pub ticket: Ticket,
    /// Whether its identity had a session before.
    pub known: bool,
    /// The only address family that can serve it, where there is such a limit: true for IPv4.
    pub v4: Option<bool>,
    /// Nodes that failed already, a bit each.
    pub tried: u64,
    /// Since when it waits.
    pub since: Instant,
}

/// What becomes of a [`Wish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Dial this node.
    Dial(Wish, usize),
    /// Its turn will come; see [`Pool::poll`].
    Queued,
    /// It is not served.
    Refused(Ticket, DialFailure),
}

/// What a pool says about a node in `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeStatistics {
    /// Sessions now.
    pub sessions: usize,
    /// Connections made.
    pub connected: u64,
    /// Connections that failed.
    pub failed: u64,
    /// It failed lately, so others come first.
    pub cooling: bool,
}

/// A node's allowance of dials. Each half refills at half the pace, and holds a second's worth.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    general: u64,
    reserved: u64,
    filled: Instant,
}

#[derive(Debug)]
struct Node {
    allowance: Allowance,
    cooling_until: Instant,
    statistics: NodeStatistics,
    /// The identity that it showed last.
    id: Option<PeerId>,
}

/// One pool.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    nodes: Vec<Node>,
    turn: usize,
    known: VecDeque<Wish>,
    strangers: VecDeque<Wish>,
    taken: usize,
    ids: BTreeSet<PeerId>,
    order: VecDeque<PeerId>,
}

impl Pool {
    /// A pool whose nodes may be dialled at once.
    pub fn new(mut config: PoolConfig, now: Instant) -> Self {
        config.nodes.truncate(NODES);
        let full = capacity(config.dials_per_second);
        let allowance = Allowance { general: full, reserved: full, filled: now };
        let node = |_: &NodeConfig| Node {
            allowance,
            cooling_until: Instant::ZERO,
            statistics: NodeStatistics::default(),
            id: None,
        };
        Pool {
            nodes: config.nodes.iter().map(node).collect(),
            config,
            turn: 0,
            known: VecDeque::new(),
            strangers: VecDeque::new(),
            taken: 0,
            ids: BTreeSet::new(),
            order: VecDeque::new(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// A session asks for a node. Unless refused, it holds a slot until [`Pool::leave`].
    pub fn ask(&mut self, now: Instant, ticket: Ticket, peer: Option<PeerId>, v4: bool) -> Answer {
        if self.taken >= self.config.slots {
            return Answer::Refused(ticket, DialFailure::Busy);
        }
        let known = peer.is_some_and(|id| self.ids.contains(&id));
        let v4 = self.config.transparent.then_some(v4);
        let answer = self.place(now, Wish { ticket, known, v4, tried: 0, since: now });
        if !matches!(answer, Answer::Refused(..)) {
            self.taken += 1;
        }
        answer
    }

    /// A node could not be reached: the next one's turn. A refusal has freed the slot.
    pub fn failed(&mut self, now: Instant, wish: Wish, node: usize) -> Answer {
        if let Some(state) = self.nodes.get_mut(node) {
            state.statistics.failed += 1;
            state.cooling_until = now + COOL_DOWN;
        }
        let tried = wish.tried | 1 << node.min(NODES - 1);
        let answer = self.place(now, Wish { tried, ..wish });
        if matches!(answer, Answer::Refused(..)) {
            self.taken = self.taken.saturating_sub(1);
        }
        answer
    }

    /// A node has been reached.
    pub fn connected(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.statistics.connected += 1;
            node.statistics.sessions += 1;
            node.cooling_until = Instant::ZERO;
        }
    }

    /// A node has shown its identity.
    pub fn met(&mut self, node: usize, id: PeerId) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.id = Some(id);
        }
    }

    /// Whether one of the nodes has shown this identity. Nodes find themselves through gossip, and dial.
    pub fn has_met(&self, id: PeerId) -> bool {
        self.nodes.iter().any(|node| node.id == Some(id))
    }

    /// A session that holds a slot is over; `node`: the one that it was connected to. Who waited no longer does.
    pub fn leave(&mut self, ticket: Ticket, node: Option<usize>) {
        self.taken = self.taken.saturating_sub(1);
        self.known.retain(|wish| wish.ticket != ticket);
        self.strangers.retain(|wish| wish.ticket != ticket);
        if let Some(node) = node.and_then(|node| self.nodes.get_mut(node)) {
            node.statistics.sessions = node.statistics.sessions.saturating_sub(1);
        }
    }

    /// Remembers an identity as known: its peer had a session of some length. The oldest is forgotten.
    pub fn remember(&mut self, peer: PeerId) {
        if !self.ids.insert(peer) {
            return;
        }
        self.order.push_back(peer);
        if self.order.len() > KNOWN_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    /// The next of those who wait that can be answered now, if it is a session of `core`. Nobody is passed over for another
    /// core's sake, but for those whose core should have asked long ago.
    pub fn poll(&mut self, now: Instant, core: u16) -> Option<Answer> {
        for known in [true, false] {
            let overdue = |wish: &Wish| wish.ticket.core != core && now.since(wish.since) >= PATIENCE + GRACE;
            let queue = self.queue(known);
            let Some(place) = queue.iter().position(|wish| !overdue(wish)) else { continue };
            let wish = queue[place];
            if wish.ticket.core != core {
                continue;
            }
            if now.since(wish.since) >= PATIENCE {
                self.queue(known).remove(place);
                self.taken = self.taken.saturating_sub(1);
                return Some(Answer::Refused(wish.ticket, DialFailure::Busy));
            }
            if let Some(node) = self.choose(now, &wish) {
                self.queue(known).remove(place);
                return Some(Answer::Dial(wish, node));
            }
        }
        None
    }

    /// When [`Pool::poll`] may have an answer at the latest; early rather than late.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let waiting = [&self.known, &self.strangers].into_iter().filter_map(VecDeque::front);
        let patience = waiting.map(|wish| wish.since + PATIENCE).min()?;
        let pace = Duration::from_micros(DIAL * 2 / u64::from(self.config.dials_per_second.max(1)) / 4);
        Some(patience.min(now + pace.max(Duration::from_millis(1))))
    }

    /// Sessions that wait for a node.
    pub fn waiting(&self) -> usize {
        self.known.len() + self.strangers.len()
    }

    /// Sessions that hold a slot.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// What is known about each node, in the order of the configuration.
    pub fn nodes(&self, now: Instant) -> impl Iterator<Item = (&NodeConfig, NodeStatistics)> {
        self.config.nodes.iter().zip(&self.nodes).map(move |(config, node)| {
            (config, NodeStatistics { cooling: node.cooling_until > now, ..node.statistics })
        })
    }

    fn queue(&mut self, known: bool) -> &mut VecDeque<Wish> {
        if known { &mut self.known } else { &mut self.strangers }
    }

    /// Dials at once, queues or refuses. Nobody overtakes those of its own kind who wait already.
    fn place(&mut self, now: Instant, wish: Wish) -> Answer {
        if self.candidates(&wish).next().is_none() {
            return Answer::Refused(wish.ticket, DialFailure::NoNode);
        }
        if self.queue(wish.known).is_empty()
            && let Some(node) = self.choose(now, &wish)
        {
            return Answer::Dial(wish, node);
        }
        let room = self.config.dials_per_second as usize * self.nodes.len() * PATIENCE.as_secs() as usize;
        let full = match wish.known {
            true => self.waiting() >= room,
            false => self.strangers.len() >= room.div_ceil(2),
        };
        if full {
            return Answer::Refused(wish.ticket, DialFailure::Busy);
        }
        self.queue(wish.known).push_back(wish);
        Answer::Queued
    }

    /// Nodes that the wish has not tried and that can serve it, from the one whose turn it is.
    fn candidates(&self, wish: &Wish) -> impl Iterator<Item = usize> + use<'_> {
        let count = self.nodes.len();
        let Wish { tried, v4, .. } = *wish;
        (0..count).map(move |step| (self.turn + step) % count).filter(move |&node| {
            let fits = v4.is_none_or(|v4| self.config.nodes[node].target.address.is_v4() == v4);
            tried & 1 << node == 0 && fits
        })
    }

    /// The node to dial now, its allowance charged. One that failed lately comes last.
    fn choose(&mut self, now: Instant, wish: &Wish) -> Option<usize> {
        let rate = self.config.dials_per_second;
        self.nodes.iter_mut().for_each(|node| node.allowance.fill(now, rate));
        let cooling = |&node: &usize| self.nodes[node].cooling_until > now;
        let all_cooling = self.candidates(wish).all(|node| cooling(&node));
        let mut fit = self.candidates(wish).filter(|node| all_cooling || !cooling(node));
        let node = fit.find(|&node| self.nodes[node].allowance.allows(wish.known));
        drop(fit);
        let node = node?;
        self.nodes[node].allowance.take(wish.known);
        self.turn = (node + 1) % self.nodes.len();
        Some(node)
    }
}

/// A second's worth of half the pace, but one dial at least.
fn capacity(rate: u32) -> u64 {
    (u64::from(rate) * DIAL / 2).max(DIAL)
}

impl Allowance {
    fn fill(&mut self, now: Instant, rate: u32) {
        let micros = now.since(self.filled).as_micros().min(10_000_000) as u64;
        let refill = micros * u64::from(rate) / 2;
        if refill == 0 {
            return;
        }
        self.general = (self.general + refill).min(capacity(rate));
        self.reserved = (self.reserved + refill).min(capacity(rate));
        self.filled = now;
    }

    fn allows(&self, known: bool) -> bool {
        self.general >= DIAL || known && self.reserved >= DIAL
    }

    fn take(&mut self, known: bool) {
        if known && self.reserved >= DIAL {
            self.reserved -= DIAL;
        } else {
            self.general = self.general.saturating_sub(DIAL);
        }
    }
}

#[cfg(test)]
mod tests;
