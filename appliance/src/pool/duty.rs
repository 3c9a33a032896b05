//! What changes a pool while it runs: what the light peers see, and what the operator wants.
//!
//! A drain stops new sessions at once and ends those that are there one by one: the one that was silent longest first, not
//! faster than the nodes that stay can take them up, and nobody who is in the middle of something before the drain has
//! lasted a minute. All cores share one allowance of such turns.

use std::fmt;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_policy::gate::light::Sighting;

use super::health::{Best, Condition, Loss};
use super::node::{Duty, Node, NodeConfig};
use super::{NODES, Pool};

/// A session that was silent for so long is idle.
pub const IDLE: Duration = Duration::from_secs(5);
/// A drain that has lasted so long no longer waits for sessions to be idle.
pub const PRESSES: Duration = Duration::from_secs(60);

/// Something that an operator should hear about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The pool.
    pub pool: usize,
    /// The node's name.
    pub node: String,
    /// What it is now.
    pub state: &'static str,
    /// Why, or since what.
    pub detail: String,
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unchanged {
    /// The pool has no such node; these are there.
    NoNode(String, Vec<String>),
    /// A node of that name or address is there already.
    Twin(String),
    /// The pool has as many nodes as it can.
    Full,
    /// It is the pool's only one.
    Last(String),
    /// It still has so many sessions.
    Busy(String, usize),
    /// It is not being drained.
    Serving(String),
}

impl fmt::Display for Unchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unchanged::NoNode(name, there) => {
                write!(f, "there is no node `{name}`: expected {}", there.join(" or "))
            }
            Unchanged::Twin(name) => {
                write!(
                    f,
                    "node `{name}` has that name or address already: choose another, or remove it first"
                )
            }
            Unchanged::Full => write!(f, "a pool has {NODES} nodes at most: remove one first"),
            Unchanged::Last(name) => write!(
                f,
                "`{name}` is the pool's only node: add another first with `hedgerow nodes add`, or drain it"
            ),
            Unchanged::Busy(name, sessions) => write!(
                f,
                "`{name}` still has {sessions} sessions: `hedgerow drain {name}` moves them gently, --force cuts them off"
            ),
            Unchanged::Serving(name) => {
                write!(f, "`{name}` is not being drained; `hedgerow nodes` shows how it is")
            }
        }
    }
}

impl Pool {
    /// The light peer of a node has seen something.
    pub fn saw(&mut self, now: Instant, node: usize, sighting: Sighting) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.health.saw(now, sighting);
        }
        self.judge(now);
    }

    /// The light peer of a node is gone.
    pub fn lost(&mut self, now: Instant, node: usize, loss: Loss) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.health.lost(loss);
        }
        self.judge(now);
    }

    /// Judges all nodes against the heaviest peak, ends what has lasted its time, and notes what is new.
    pub fn judge(&mut self, now: Instant) {
        let heaviest = (0..self.nodes.len())
            .filter_map(|node| Some(Best { node, peak: self.nodes[node].health.holds()? }))
            .max_by_key(|best| best.peak.weight);
        let heights = self.nodes.iter().filter_map(|node| node.health.holds()).map(|peak| peak.height);
        self.config.peak.set(heights.max());
        let peaks = heaviest.map(|best| self.nodes[best.node].health.peaks()).unwrap_or_default();
        for index in 0..self.nodes.len() {
            let node = &mut self.nodes[index];
            let (before, forked) = (node.health.condition(), node.health.is_forked(now));
            let best = heaviest.map(|best| (best, peaks.as_slice()));
            let changed = node.health.judge(now, best, heaviest.is_some_and(|best| best.node == index));
            if let Some(condition) = changed {
                // From the start all are equal; who comes back later begins with a small share.
                if condition == Condition::Up && before != Condition::Unknown {
                    node.back = Some(now);
                }
                self.tell(index, condition.name(), format!("was {}", before.name()));
            }
            if self.nodes[index].health.is_forked(now) != forked {
                let detail = if forked { "the fork is over" } else { "its chain is not the heaviest" };
                self.tell(index, "fork", detail.to_owned());
            }
            self.look_at_duty(now, index);
        }
    }

    fn look_at_duty(&mut self, now: Instant, index: usize) {
        let node = &mut self.nodes[index];
        match node.duty {
            Duty::Draining(Some(until)) | Duty::Maintenance(Some(until)) if until <= now => {
                self.serve_again(now, index, "its time is over");
            }
            Duty::Draining(until) if node.holds() == 0 => {
                node.duty = Duty::Maintenance(until);
                self.tell(index, "maintenance", "no session is left".to_owned());
            }
            _ => {}
        }
    }

    fn serve_again(&mut self, now: Instant, index: usize, why: &str) {
        let node = &mut self.nodes[index];
        node.duty = Duty::Serving;
        node.back = Some(now);
        self.drains.retain(|drain| drain.node != index);
        self.tell(index, "serving", why.to_owned());
    }

    fn tell(&mut self, index: usize, state: &'static str, detail: String) {
        let node = self.nodes[index].config.name.to_string();
        self.news.push_back(News { pool: 0, node, state, detail });
        // Nobody listens, or something flaps: the latest is what counts.
        if self.news.len() > 4 * NODES {
            self.news.pop_front();
        }
    }

    /// The next thing that an operator should hear.
    pub fn news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// The place of a node that is part of the pool.
    pub fn find(&self, name: &str) -> Result<usize, Unchanged> {
        let there = |node: &&Node| node.duty != Duty::Removed;
        let found = self.nodes.iter().position(|node| there(&node) && *node.config.name == *name);
        found.ok_or_else(|| {
            let names = self.nodes.iter().filter(there).map(|node| format!("`{}`", node.config.name));
            Unchanged::NoNode(name.to_owned(), names.collect())
        })
    }

    /// Takes a node out of service, until a time if one is given. Again for one that is drained already: another time.
    pub fn drain(&mut self, now: Instant, name: &str, until: Option<Instant>) -> Result<(), Unchanged> {
        let index = self.find(name)?;
        match &mut self.nodes[index].duty {
            Duty::Maintenance(time) => *time = until,
            duty => {
                let again = matches!(duty, Duty::Draining(_));
                *duty = Duty::Draining(until);
                if !again {
                    self.drains.push(Drain { node: index, since: now, turn: now });
                    self.tell(index, "draining", "by the operator".to_owned());
                }
            }
        }
        self.judge(now);
        Ok(())
    }

    /// Puts a node back into service.
    pub fn undrain(&mut self, now: Instant, name: &str) -> Result<(), Unchanged> {
        let index = self.find(name)?;
        match self.nodes[index].duty {
            Duty::Draining(_) | Duty::Maintenance(_) => {
                self.serve_again(now, index, "by the operator");
                Ok(())
            }
            _ => Err(Unchanged::Serving(name.to_owned())),
        }
    }

    /// Adds a node; it may be dialled at once.
    pub fn add(&mut self, now: Instant, config: NodeConfig) -> Result<(), Unchanged> {
        let there = || self.nodes.iter().filter(|node| node.duty != Duty::Removed);
        let twin = there().find(|node| {
            node.config.name == config.name
                || node.config.target.address == config.target.address
                    && node.config.target.port == config.target.port
        });
        if let Some(twin) = twin {
            return Err(Unchanged::Twin(twin.config.name.to_string()));
        }
        let node = Node::new(config, self.config.dials_per_second, self.config.watched, now);
        let index = match self.nodes.iter().position(Node::is_free) {
            Some(free) => {
                self.nodes[free] = node;
                free
            }
            None if self.nodes.len() < NODES => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
            None => return Err(Unchanged::Full),
        };
        self.nodes[index].back = Some(now);
        self.tell(index, "added", "by the operator".to_owned());
        Ok(())
    }

    /// Removes a node; with `force` its sessions are cut off by whoever holds them.
    pub fn remove(&mut self, name: &str, force: bool) -> Result<(), Unchanged> {
        let index = self.find(name)?;
        if self.nodes.iter().filter(|node| node.duty != Duty::Removed).count() == 1 {
            return Err(Unchanged::Last(name.to_owned()));
        }
        let busy = self.nodes[index].holds();
        if busy > 0 && !force {
            return Err(Unchanged::Busy(name.to_owned(), busy));
        }
        self.tell(index, "removed", "by the operator".to_owned());
        self.nodes[index].duty = Duty::Removed;
        self.drains.retain(|drain| drain.node != index);
        Ok(())
    }

    /// Gives a node another share of sessions to come.
    pub fn weigh(&mut self, name: &str, weight: u32) -> Result<(), Unchanged> {
        let index = self.find(name)?;
        self.nodes[index].config.weight = weight.max(1);
        self.tell(index, "weighed", format!("weight {weight}, by the operator"));
        Ok(())
    }

    /// Nodes whose sessions are to end, and since when: the next turn is [`Pool::take_turn`]'s to give.
    pub fn leaving(&self) -> impl Iterator<Item = Leaving> + '_ {
        let cut =
            self.nodes.iter().enumerate().filter(|(_, node)| node.duty == Duty::Removed && node.holds() > 0);
        let drains =
            self.drains.iter().filter(|drain| matches!(self.nodes[drain.node].duty, Duty::Draining(_)));
        drains
            .map(|drain| Leaving { node: drain.node, since: Some(drain.since) })
            .chain(cut.map(|(node, _)| Leaving { node, since: None }))
    }

    /// Whether a session of a node that is drained may end now; takes the turn.
    pub fn take_turn(&mut self, now: Instant, node: usize) -> bool {
        let others = self.nodes.iter().filter(|node| node.duty == Duty::Serving).count() as u32;
        // Half of what the others are dialled at most, so that who comes back is taken up at once.
        let rate = (self.config.dials_per_second * others / 2).max(1);
        let Some(drain) = self.drains.iter_mut().find(|drain| drain.node == node) else { return false };
        if drain.turn > now {
            return false;
        }
        drain.turn = next_turn(drain.turn, now, rate);
        true
    }
}

/// The turn after one that is taken now. Cores look some times a second: turns that fell between two looks are not lost.
pub fn next_turn(turn: Instant, now: Instant, rate: u32) -> Instant {
    let from = if now.since(turn) < Duration::from_millis(500) { turn } else { now };
    from + Duration::from_secs(1) / rate.max(1)
}

/// A node whose sessions are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// Its place.
    pub node: usize,
    /// Since when it is drained; `None`: it was removed, and they end at once.
    pub since: Option<Instant>,
}

/// A drain under way.
#[derive(Debug)]
pub(super) struct Drain {
    node: usize,
    since: Instant,
    /// When the next session may end.
    turn: Instant,
}
