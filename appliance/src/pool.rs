//! One pool of nodes: whose turn it is, how fast each may be dialled, and who waits.
//!
//! A node's single thread bears few new sessions a second, so dials are paced per node. Half of the pace and half of the
//! queue are kept for peers that had a session before: strangers with fresh identities cannot lock them out. Nothing else
//! is needed against a stampede after a restart: those who come at once wait or are sent away with a code that brings them
//! back later. Where all slots are taken, one changes hands now and then by the rule of eviction (`tenants`), so that
//! nobody holds them for ever by being polite.
//!
//! Who is dialled: of the nodes that the operator lets serve (`duty`), that have the right role (`node`) and a slot, those
//! whose condition is best (`health`), and of these the one with the least sessions for its weight. A node that is down or
//! far behind is never dialled; where none can serve, callers wait for [`PATIENCE`] and are refused then. The application
//! behind a back-end listener prefers protected nodes in sync to public ones, and any that is in sync to one that is not.
//!
//! The pool does no I/O; it answers which ticket may dial which node now.

pub mod duty;
pub mod health;
pub mod node;
mod tenants;

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::Target;
use hedgerow_dataplane::wire::{Address, LinkId};
use hedgerow_policy::chia::{KnownPeak, NodeType};
use hedgerow_policy::{DialFailure, PeerId};

use duty::News;
use health::Condition;
use node::{Duty, Node};
pub use node::{NodeConfig, NodeStatistics, Role};
use tenants::Tenants;

/// A node that has begun a connection.
#[derive(Debug, Clone)]
pub struct Begun {
    /// Its place.
    pub node: usize,
    /// Its name.
    pub name: Arc<str>,
    /// The identity that it has shown, if it has.
    pub id: Option<PeerId>,
}

/// How long a dial may wait for its turn.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How much later than that a wish of another core still keeps its place.
const GRACE: Duration = Duration::from_secs(1);
/// How long a connection to a node may take while another node could serve: a neighbour answers in a millisecond, and a
/// second covers one segment that was lost.
const HASTE: Duration = Duration::from_millis(1_200);
/// Different needs that are remembered while a queue is looked through.
const NEEDS: usize = 16;
/// Sessions of the application that may wait.
const APPLICATION_WAITS: usize = 256;
/// How long a node that failed is asked only if no other is left.
const COOL_DOWN: Duration = Duration::from_secs(10);
/// Identities that are remembered as known.
const KNOWN_IDS: usize = 8_192;
/// Nodes of a pool at most: tried nodes are kept in 64 bits.
pub const NODES: usize = 64;
/// One dial, in the unit in which allowances are counted.
const DIAL: u64 = 1_000_000;

/// What a pool is, as configured.
#[derive(Debug, Clone, Default)]
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
    /// Sessions of peers at one time, those that wait included.
    pub slots: usize,
    /// Sessions of a kind of peer that one node takes at one time; kinds that are not among them: any number.
    pub node_slots: Vec<(NodeType, u32)>,
    /// Light peers look at the nodes.
    pub watched: bool,
    /// Where sessions look up the highest block that a node of the pool knows.
    pub peak: Arc<KnownPeak>,
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

/// On whose behalf a node is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The session.
    pub ticket: Ticket,
    /// Its peer's identity.
    pub peer: Option<PeerId>,
    /// The peer's address family: true for IPv4.
    pub v4: bool,
    /// What the peer is, where that is known.
    pub kind: Option<NodeType>,
    /// It came through a back-end listener: it is the operator's own application, so it is neither paced nor counted.
    pub backend: bool,
    /// Where the peer is.
    pub source: Address,
    /// Its slot is nobody else's to take.
    pub friend: bool,
}

/// A session that wants a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Who.
    pub caller: Caller,
    /// Whether its identity had a session before.
    pub known: bool,
    /// The only address family that can serve it, where there is such a limit: true for IPv4.
    pub v4: Option<bool>,
    /// Nodes that failed already, a bit each.
    pub tried: u64,
    /// Since when it waits.
    pub since: Instant,
}

/// How far a session had come with its node when it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It waited.
    Queued,
    /// A connection was being made.
    Dialling(usize),
    /// It was connected.
    Connected(usize),
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

/// One pool.
#[derive(Debug)]
pub struct Pool {
    config: PoolConfig,
    nodes: Vec<Node>,
    turn: usize,
    /// Of the application, of peers with a record, of strangers.
    queues: [VecDeque<Wish>; 3],
    taken: usize,
    ids: BTreeSet<PeerId>,
    order: VecDeque<PeerId>,
    remembered: u64,
    drains: Vec<duty::Drain>,
    news: VecDeque<News>,
    tenants: Tenants,
    /// Sessions that have to go, and have not been told.
    displaced: Vec<Ticket>,
}

impl Pool {
    /// A pool whose nodes may be dialled at once.
    pub fn new(mut config: PoolConfig, now: Instant) -> Self {
        config.nodes.truncate(NODES);
        let node = |node: &NodeConfig| Node::new(node.clone(), config.dials_per_second, config.watched, now);
        Pool {
            nodes: config.nodes.iter().map(node).collect(),
            tenants: Tenants::new(config.slots, [0; 16]),
            displaced: Vec::new(),
            config,
            turn: 0,
            queues: Default::default(),
            taken: 0,
            ids: BTreeSet::new(),
            order: VecDeque::new(),
            remembered: 0,
            drains: Vec::new(),
            news: VecDeque::new(),
        }
    }

    /// The configuration that it began with.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// A session asks for a node. Unless refused, it holds a slot until [`Pool::leave`].
    pub fn ask(&mut self, now: Instant, caller: Caller) -> Answer {
        let known = caller.peer.is_some_and(|id| self.ids.contains(&id));
        let v4 = self.config.transparent.then_some(caller.v4);
        let wish = Wish { caller, known, v4, tried: 0, since: now };
        let full = self.taken >= self.config.slots && !caller.backend;
        let short = full || self.candidates(&wish).next().is_some() && self.slots_are_taken(&wish);
        if short {
            let why = if full { DialFailure::Busy } else { DialFailure::Slots };
            let Some(victim) = self.tenants.displace(now, &caller, full) else {
                return Answer::Refused(caller.ticket, why);
            };
            self.displaced.push(victim);
        }
        let answer = self.place(now, wish, short);
        match answer {
            Answer::Refused(..) => self.tenants.leave(now, caller.ticket),
            _ => {
                self.taken += usize::from(!caller.backend);
                self.tenants.enter(now, &caller);
            }
        }
        answer
    }

    /// The next session that has to give up its slot for another one.
    pub fn displaced(&mut self) -> Option<Ticket> {
        self.displaced.pop()
    }

    /// A session's peer was useful: others go before it.
    pub fn credit(&mut self, now: Instant, ticket: Ticket, points: u32) {
        self.tenants.credit(now, ticket, points);
    }

    /// Decides between equals by other chance than the one that everybody knows. To be called before the first session asks.
    pub fn reseed(&mut self, seed: [u8; 16]) {
        self.tenants = Tenants::new(self.config.slots, seed);
    }

    /// A node could not be reached: the next one's turn. A refusal has freed the slot.
    pub fn failed(&mut self, now: Instant, wish: Wish, node: usize) -> Answer {
        if let Some(state) = self.nodes.get_mut(node) {
            state.failed += 1;
            state.give(&wish.caller, false);
            state.cool(wish.caller.backend, now + COOL_DOWN);
        }
        let tried = wish.tried | 1 << node.min(NODES - 1);
        let answer = self.place(now, Wish { tried, ..wish }, false);
        if matches!(answer, Answer::Refused(..)) {
            self.free(now, &wish.caller);
        }
        answer
    }

    /// A node has been reached; its name.
    pub fn connected(&mut self, node: usize, backend: bool) -> Option<Arc<str>> {
        let node = self.nodes.get_mut(node)?;
        node.connected += 1;
        node.dialling = node.dialling.saturating_sub(1);
        node.sessions += 1;
        node.cool(backend, Instant::ZERO);
        Some(node.config.name.clone())
    }

    /// A node has shown its identity.
    pub fn met(&mut self, node: usize, id: PeerId) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.id = Some(id);
        }
    }

    /// Whether a node of the pool has shown this as its identity. Nodes find themselves through gossip, and dial.
    pub fn has_met(&self, id: PeerId) -> bool {
        self.nodes.iter().any(|node| node.id == Some(id))
    }

    /// Whether a node of the pool has this address.
    pub fn has_node_at(&self, ip: IpAddr) -> bool {
        self.nodes
            .iter()
            .any(|node| node.duty != Duty::Removed && IpAddr::from(node.config.target.address) == ip)
    }

    /// Whose connection it is that comes from a node's address by a link: a node that serves. Takes it into its sessions, until
    /// [`Pool::ended`], and tells its name and the identity that it has shown.
    pub fn begins(&mut self, link: LinkId, address: Address) -> Option<Begun> {
        let here = |node: &Node| (node.config.target.link, node.config.target.address) == (link, address);
        let place = self.nodes.iter().position(|node| node.duty == Duty::Serving && here(node))?;
        let node = &mut self.nodes[place];
        node.begun += 1;
        Some(Begun { node: place, name: node.config.name.clone(), id: node.id })
    }

    /// A session that a node began is over.
    pub fn ended(&mut self, node: usize) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.begun = node.begun.saturating_sub(1);
        }
    }

    /// Where a node is.
    pub fn target(&self, node: usize) -> Option<Target> {
        self.nodes.get(node).map(|node| node.config.target)
    }

    /// How long a connection to a node may take: not long, while another could serve.
    pub fn dial_timeout(&self, now: Instant, wish: &Wish, node: usize) -> Duration {
        let another =
            self.candidates(wish).any(|other| other != node && self.rank(now, wish, other).is_some());
        if another { self.config.dial_timeout.min(HASTE) } else { self.config.dial_timeout }
    }

    /// Nodes that light peers should look at: all that are part of the pool.
    pub fn watched(&self) -> impl Iterator<Item = (usize, Target)> + '_ {
        let nodes = self.nodes.iter().enumerate().filter(|(_, node)| node.duty != Duty::Removed);
        nodes.filter(|_| self.config.watched).map(|(index, node)| (index, node.config.target))
    }

    /// A session that holds a slot is over. Who waited no longer does.
    pub fn leave(&mut self, now: Instant, caller: &Caller, stage: Stage) {
        self.free(now, caller);
        match stage {
            Stage::Queued => {
                self.queues
                    .iter_mut()
                    .for_each(|queue| queue.retain(|wish| wish.caller.ticket != caller.ticket));
            }
            Stage::Dialling(node) | Stage::Connected(node) => {
                if let Some(state) = self.nodes.get_mut(node) {
                    state.give(caller, matches!(stage, Stage::Connected(_)));
                }
            }
        }
    }

    fn free(&mut self, now: Instant, caller: &Caller) {
        self.tenants.leave(now, caller.ticket);
        self.taken = self.taken.saturating_sub(usize::from(!caller.backend));
    }

    /// Remembers an identity as known: its peer had a session of some length. The oldest is forgotten.
    pub fn remember(&mut self, peer: PeerId) {
        if !self.ids.insert(peer) {
            return;
        }
        self.order.push_back(peer);
        self.remembered += 1;
        if self.order.len() > KNOWN_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }

    /// Identities that are known, the oldest first.
    pub fn known(&self) -> impl Iterator<Item = &PeerId> {
        self.order.iter()
    }

    /// How many have ever been remembered.
    pub fn remembered(&self) -> u64 {
        self.remembered
    }

    /// The next of those who wait that can be answered now, if it is a session of `core`. Nobody is passed over for another
    /// core's sake, but for those whose core should have asked long ago.
    pub fn poll(&mut self, now: Instant, core: u16) -> Option<Answer> {
        for queue in 0..self.queues.len() {
            let Some(place) = self.next(now, queue, Some(core)) else { continue };
            let wish = self.queues[queue][place];
            if wish.caller.ticket.core != core {
                continue;
            }
            if now.since(wish.since) >= PATIENCE {
                self.queues[queue].remove(place);
                self.free(now, &wish.caller);
                let why = match self.best(now, &wish) {
                    Some(_) => DialFailure::Busy,
                    None => DialFailure::NoNode,
                };
                return Some(Answer::Refused(wish.caller.ticket, why));
            }
            if let Some(node) = self.choose(now, &wish) {
                self.queues[queue].remove(place);
                return Some(Answer::Dial(wish, node));
            }
        }
        None
    }

    /// The first in a queue whom a node could serve now or whose patience is over, but for those of other cores than `core`
    /// that are overdue. Whom no node can serve just now is passed over and keeps its place: it has tried those that are up,
    /// is of another family, or waits for a slot of its kind.
    fn next(&self, now: Instant, queue: usize, core: Option<u16>) -> Option<usize> {
        let mut stuck = VecDeque::new();
        self.queues[queue].iter().position(|wish| {
            let waits = now.since(wish.since);
            if waits >= PATIENCE {
                return waits < PATIENCE + GRACE || core.is_none_or(|core| wish.caller.ticket.core == core);
            }
            let needs = (wish.tried, wish.v4, wish.caller.kind);
            if stuck.contains(&needs) {
                return false;
            }
            let served = self.best(now, wish).is_some();
            if !served {
                stuck.truncate(NEEDS - 1);
                stuck.push_front(needs);
            }
            served
        })
    }

    /// When [`Pool::poll`] may have an answer at the latest; early rather than late.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let waiting = self.queues.iter().filter_map(VecDeque::front);
        let patience = waiting.map(|wish| wish.since + PATIENCE).min()?;
        let pace = Duration::from_micros(DIAL * 2 / u64::from(self.config.dials_per_second.max(1)) / 4);
        Some(patience.min(now + pace.max(Duration::from_millis(1))))
    }

    /// Sessions that wait for a node.
    pub fn waiting(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Whether nobody waits and no node has a session.
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0 && self.nodes.iter().all(|node| node.holds() == 0)
    }

    /// Sessions of peers that hold a slot.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// What is known about each node that is part of the pool.
    pub fn nodes(&self, now: Instant) -> impl Iterator<Item = (&NodeConfig, NodeStatistics)> {
        let there = self.nodes.iter().filter(|node| node.duty != Duty::Removed);
        there.map(move |node| (&node.config, node.statistics(now)))
    }

    /// Dials at once, queues or refuses. Nobody overtakes those of its own queue who wait for their turn. Where no node can
    /// serve just now, waiting is worth while: one that is not tried yet may come up, and for a newcomer to whom somebody
    /// `yields` a slot becomes free.
    fn place(&mut self, now: Instant, wish: Wish, yields: bool) -> Answer {
        let ticket = wish.caller.ticket;
        if self.candidates(&wish).next().is_none() {
            return Answer::Refused(ticket, DialFailure::NoNode);
        }
        let queue = wish.queue();
        if self.next(now, queue, None).is_none()
            && let Some(node) = self.choose(now, &wish)
        {
            return Answer::Dial(wish, node);
        }
        if self.slots_are_taken(&wish) && !yields {
            return Answer::Refused(ticket, DialFailure::Slots);
        }
        let room = self.config.dials_per_second as usize * self.nodes.len() * PATIENCE.as_secs() as usize;
        let [_, known, strangers] = &self.queues;
        let full = match queue {
            APPLICATION => self.queues[APPLICATION].len() >= APPLICATION_WAITS,
            KNOWN => known.len() + strangers.len() >= room,
            _ => strangers.len() >= room.div_ceil(2),
        };
        if full {
            return Answer::Refused(ticket, DialFailure::Busy);
        }
        self.queues[queue].push_back(wish);
        Answer::Queued
    }

    /// Nodes that the wish has not tried and that may serve it, from the one whose turn it is; how they are is left aside.
    fn candidates(&self, wish: &Wish) -> impl Iterator<Item = usize> + use<'_> {
        let count = self.nodes.len();
        let Wish { tried, v4, caller, .. } = *wish;
        (0..count).map(move |step| (self.turn + step) % count).filter(move |&node| {
            let state = &self.nodes[node];
            let fits = v4.is_none_or(|v4| state.config.target.address.is_v4() == v4);
            tried & 1 << node == 0 && fits && state.serves(caller.backend)
        })
    }

    /// Whether nodes would serve the wish, but for the slots of its kind.
    fn slots_are_taken(&self, wish: &Wish) -> bool {
        let full = |&node: &usize| !self.nodes[node].has_slot(&wish.caller, &self.config.node_slots);
        self.candidates(wish).all(|node| full(&node))
    }

    fn rank(&self, now: Instant, wish: &Wish, node: usize) -> Option<(u8, u8)> {
        let state = &self.nodes[node];
        let slot = state.has_slot(&wish.caller, &self.config.node_slots);
        state.rank(now, wish.caller.backend, self.spares_slow()).filter(|_| slot)
    }

    /// Whether slow nodes can be spared: only while at least half of those that serve are well.
    fn spares_slow(&self) -> bool {
        let serving = || self.nodes.iter().filter(|node| node.duty == Duty::Serving);
        let well = serving().filter(|node| node.health.condition() == Condition::Up).count();
        well * 2 >= serving().count()
    }

    /// The best rank that a candidate has.
    fn best(&self, now: Instant, wish: &Wish) -> Option<(u8, u8)> {
        self.candidates(wish).filter_map(|node| self.rank(now, wish, node)).min()
    }

    /// The node to dial now, its allowance charged: of those that are best, the one that carries least for its weight.
    fn choose(&mut self, now: Instant, wish: &Wish) -> Option<usize> {
        let (rate, backend) = (self.config.dials_per_second, wish.caller.backend);
        self.nodes.iter_mut().for_each(|node| node.fill(now, rate));
        let best = self.best(now, wish)?;
        let fit = self.candidates(wish).filter(|&node| {
            self.rank(now, wish, node) == Some(best) && self.nodes[node].allows(wish.known, backend)
        });
        // Of equals the first, whose turn it is.
        let node = fit.min_by_key(|&node| self.nodes[node].load(now))?;
        self.nodes[node].charge(wish.known, backend);
        self.nodes[node].take(&wish.caller);
        self.turn = (node + 1) % self.nodes.len();
        Some(node)
    }
}

/// Places in [`Pool::queues`].
const APPLICATION: usize = 0;
const KNOWN: usize = 1;
const STRANGERS: usize = 2;

impl Wish {
    fn queue(&self) -> usize {
        match (self.caller.backend, self.known) {
            (true, _) => APPLICATION,
            (false, true) => KNOWN,
            (false, false) => STRANGERS,
        }
    }
}

#[cfg(test)]
mod tests;
