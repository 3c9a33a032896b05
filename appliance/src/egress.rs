//! The nodes' way out, as the operator wants it: who may go out now, and why it opens and closes.
//!
//! What packets are held against is made here and handed to the shards whole ([`Swap`]); they pass packets on by
//! themselves. A node's way out opens and closes loudly: each change is an event and a line in the log.

pub mod cli;
mod emergency;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::egress::{Allow, EgressConfig, EgressNode, Inspect, NodeTraffic, Protocol, Rules};
use hedgerow_dataplane::wire::{Address, LinkId, Prefix, PrefixSet};
use serde::{Deserialize, Serialize};

use crate::assemble::network;
use crate::commons::Commons;
use crate::config::Config;
use crate::config::egress::{Access, Inspection, Purpose, Transport};
use crate::events::EventLine;
use crate::pool::Role;
use crate::pool::health::Condition;
use crate::pool::node::Duty;
use crate::rules::swap::Swap;
use emergency::{Emergency, Turn};

/// How long a way out is open that is opened without a time.
pub const USUALLY: Duration = Duration::from_secs(3_600);

/// What the operator asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Nothing: how is it?
    List,
    /// A node may go out.
    Open {
        /// Its name, or `all`.
        node: String,
        /// For so long, where it may not always.
        seconds: Option<u64>,
    },
    /// A node may go out no more, until it is opened again or, where its way out is for emergencies, the next one begins.
    Close {
        /// Its name, or `all`.
        node: String,
    },
}

/// The way out, for `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EgressStatus {
    /// The port that leads to the world.
    pub port: String,
    /// What IPv4 conversations show.
    pub address: Option<String>,
    /// `calm`, `threatening`, `on` or `cooling down`.
    pub emergency: String,
    /// Seconds until that changes at the latest.
    pub seconds: Option<u64>,
    /// Sessions, at most.
    pub limit: usize,
    /// The nodes.
    pub nodes: Vec<ExitStatus>,
}

/// A node's way out, for `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The node.
    pub node: String,
    /// Its address.
    pub address: String,
    /// What the configuration lets it.
    pub access: Access,
    /// Whether it is open now.
    pub open: bool,
    /// Seconds until it closes, where it was opened by hand.
    pub seconds: Option<u64>,
    /// Sessions now.
    pub sessions: usize,
    /// Sessions begun.
    pub opened: u64,
    /// Connections to Chia peers now that pass the policy; `None`: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspected: Option<u32>,
    /// Packets outward.
    pub packets_out: u64,
    /// Bytes outward.
    pub bytes_out: u64,
    /// Packets inward.
    pub packets_in: u64,
    /// Bytes inward.
    pub bytes_in: u64,
    /// Packets refused.
    pub refused: u64,
}

/// A node with what it may.
struct Exit {
    name: String,
    pool: String,
    ip: IpAddr,
    role: Role,
    access: Access,
    /// It is still one of ours.
    there: bool,
    /// Opened by hand until then.
    until: Option<Instant>,
    /// Closed by hand.
    shut: bool,
    open: bool,
    /// What it is to the dataplane, but for whether it is open.
    rules: EgressNode,
}

impl Exit {
    fn is(&self, found: &Found) -> bool {
        let Found { name, pool, role, link, .. } = found;
        (&self.name, &self.pool, self.role, self.rules.link) == (name, pool, *role, *link)
    }
}

/// A node as its pool has it.
struct Found {
    name: String,
    pool: String,
    ip: IpAddr,
    role: Role,
    link: LinkId,
}

struct State {
    /// A node keeps its place for ever, since its ports and its counters go by that.
    exits: Vec<Exit>,
    emergency: Emergency,
    /// Nodes that found no block of ports.
    left_out: BTreeSet<IpAddr>,
    /// A node has come back as something else.
    renewed: bool,
}

/// What becomes of a change.
pub type Tell = Box<dyn Fn(EventLine) + Send + Sync>;

/// Who may go out. See the [module](self).
pub struct Egress {
    config: Arc<Config>,
    commons: Arc<Commons>,
    clock: Box<dyn Fn() -> Instant + Send + Sync>,
    tell: Tell,
    swap: Swap<Rules>,
    refused: PrefixSet,
    state: Mutex<State>,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").finish_non_exhaustive()
    }
}

impl Egress {
    /// The way out of a configuration that has one, for so many shards.
    pub fn open(
        config: Arc<Config>,
        commons: Arc<Commons>,
        clock: Box<dyn Fn() -> Instant + Send + Sync>,
        tell: Tell,
        shards: u16,
    ) -> Option<Arc<Egress>> {
        let plan = config.egress.as_ref()?;
        let emergency = Emergency::new(plan.emergency);
        let refused = refused(&config);
        let state = State { exits: Vec::new(), emergency, left_out: BTreeSet::new(), renewed: false };
        let swap = Swap::new(shards, Arc::default());
        let egress = Egress { config, commons, clock, tell, swap, refused, state: Mutex::new(state) };
        egress.step();
        Some(Arc::new(egress))
    }

    /// What the shards go by.
    pub fn swap(&self) -> &Swap<Rules> {
        &self.swap
    }

    /// Looks after it: to be called about once a second.
    pub fn step(&self) {
        let now = (self.clock)();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let healthy = self.look(&mut state);
        let turn = state.emergency.step(now, healthy);
        if let Some(turn) = turn {
            tracing::warn!("{}", said(turn));
            // One that is always open and was closed by hand is no matter of an emergency.
            let concerned = |exit: &&mut Exit| exit.access == Access::Emergency;
            if matches!(turn, Turn::Begun(_)) {
                state.exits.iter_mut().filter(concerned).for_each(|exit| exit.shut = false);
            }
        }
        self.settle(&mut state, now, &turn.map_or_else(String::new, said));
    }

    /// Takes up which nodes there are; says whether a public one is healthy, or nobody could tell. Those of pools that nobody
    /// watches say nothing about it, and a node on the world's own side of us has no way out by us.
    fn look(&self, state: &mut State) -> bool {
        let outer = self.config.egress.as_ref().map(|plan| LinkId(plan.port as u8));
        let mut watched = 0;
        let mut healthy = false;
        let mut there: Vec<Found> = Vec::new();
        self.commons.with(|books| {
            let now = (self.clock)();
            for pool in &books.pools {
                for (node, figures) in pool.nodes(now).filter(|(_, figures)| figures.duty != Duty::Removed) {
                    if node.role == Role::Public && figures.condition != Condition::Unwatched {
                        watched += 1;
                        healthy |= [Condition::Up, Condition::Degraded].contains(&figures.condition);
                    }
                    let ip = IpAddr::from(node.target.address);
                    // The first pool that has a machine says what it is.
                    if Some(node.target.link) != outer && there.iter().all(|found| found.ip != ip) {
                        let (name, pool) = (node.name.to_string(), pool.config().name.clone());
                        there.push(Found { name, pool, ip, role: node.role, link: node.target.link });
                    }
                }
            }
        });
        state.exits.iter_mut().for_each(|exit| exit.there = false);
        for found in there {
            match state.exits.iter().position(|exit| exit.ip == found.ip) {
                // It may have come back as something else; what was said by hand about a name stays.
                Some(place) if !state.exits[place].is(&found) => {
                    let now = self.exit(found, place);
                    let old = std::mem::replace(&mut state.exits[place], now);
                    let new = &mut state.exits[place];
                    new.open = old.open;
                    new.rules.inspect.held = old.rules.inspect.held;
                    if new.name == old.name {
                        (new.until, new.shut) = (old.until, old.shut);
                    }
                    state.renewed = true;
                }
                Some(place) => state.exits[place].there = true,
                None => self.add(state, found),
            }
        }
        healthy || watched == 0
    }

    fn add(&self, state: &mut State, found: Found) {
        let Some(plan) = &self.config.egress else { return };
        let block = state.exits.len();
        let ports = usize::from(*plan.ports.end()) - usize::from(*plan.ports.start()) + 1;
        if block >= ports / usize::from(plan.ports_per_node) {
            if state.left_out.insert(found.ip) {
                tracing::warn!(
                    node = found.name,
                    "no ports are left for the way out of this node: widen `egress.ports` and restart"
                );
            }
            return;
        }
        state.exits.push(self.exit(found, block));
    }

    /// The way out of a node at a place, closed.
    fn exit(&self, found: Found, place: usize) -> Exit {
        let Found { name, pool, ip, role, link } = found;
        let plan = self.config.egress.as_ref();
        let own = plan.and_then(|plan| plan.nodes.get(&name)).cloned().unwrap_or_default();
        let purposes = own.allow.as_deref().or(plan.map(|plan| plan.allow.as_slice())).unwrap_or_default();
        let rules = EgressNode {
            addresses: [ip].into_iter().chain(own.addresses).map(Address::from).collect(),
            link,
            open: false,
            block: place as u16,
            allow: purposes.iter().flat_map(allow).collect(),
            inspect: plan.filter(|plan| plan.inspects(&name)).map(inspect).unwrap_or_default(),
        };
        let access = own.access.or(plan.map(|plan| plan.of_role(role))).unwrap_or_default();
        let (until, shut, open) = (None, false, false);
        Exit { name, pool, ip, role, access, there: true, until, shut, open, rules }
    }

    /// Opens and closes what must be, says so, and hands it to the shards.
    fn settle(&self, state: &mut State, now: Instant, why: &str) {
        let emergency = state.emergency.is_on();
        let grown = state.exits.len() != self.swap.current().nodes().len();
        let mut changed = std::mem::take(&mut state.renewed) || grown;
        for exit in &mut state.exits {
            if exit.until.is_some_and(|until| until <= now) {
                exit.until = None;
            }
            let by_hand = exit.until.is_some();
            let open = exit.there
                && match exit.access {
                    Access::Closed => false,
                    Access::Emergency => by_hand || emergency && !exit.shut,
                    Access::Open => !exit.shut,
                };
            if exit.open == open {
                continue;
            }
            (exit.open, changed) = (open, true);
            let state = if open { "open" } else { "closed" };
            let why = match (open, exit.access) {
                _ if !exit.there => "the node is gone",
                (true, Access::Open) if !exit.shut && why.is_empty() => "as configured",
                (false, Access::Emergency) if why.is_empty() => "the time is over",
                _ => why,
            };
            match exit.access {
                Access::Open => tracing::info!(node = exit.name, "way out {state}: {why}"),
                _ => tracing::warn!(node = exit.name, "WAY OUT {}: {why}", state.to_uppercase()),
            }
            (self.tell)(EventLine::egress(&exit.pool, &exit.name, state, why));
        }
        if changed {
            let nodes = state.exits.iter().map(|exit| EgressNode { open: exit.open, ..exit.rules.clone() });
            self.swap.put(Arc::new(Rules::new(nodes.collect(), self.refused.clone())));
        }
    }

    /// Does what is asked; says what was done.
    ///
    /// # Errors
    /// Why it cannot be, and what to do.
    pub fn ask(&self, ask: &Ask) -> Result<String, String> {
        let now = (self.clock)();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match ask {
            Ask::List => Ok(String::new()),
            Ask::Open { node, seconds } => {
                let at_most = self.config.egress.as_ref().map_or(USUALLY, |plan| plan.emergency.at_most);
                let time = seconds.map_or(USUALLY.min(at_most), Duration::from_secs);
                if time > at_most {
                    return Err(format!(
                        "a way out is open for {at_most:?} at most, as `egress.emergency.at_most` says"
                    ));
                }
                let exits = chosen(&mut state, node)?;
                // Nothing is done by halves where several nodes have the name.
                if node != "all" && exits.iter().any(|exit| exit.access == Access::Closed) {
                    return Err(format!(
                        "the configuration lets `{node}` never out: set its `access` to \"emergency\""
                    ));
                }
                for exit in exits {
                    match exit.access {
                        Access::Closed => {}
                        Access::Emergency => (exit.shut, exit.until) = (false, Some(now + time)),
                        Access::Open => exit.shut = false,
                    }
                }
                self.settle(&mut state, now, &format!("opened by hand for {time:?}"));
                Ok(format!("`{node}` may go out"))
            }
            Ask::Close { node } => {
                for exit in chosen(&mut state, node)? {
                    (exit.shut, exit.until) = (true, None);
                }
                self.settle(&mut state, now, "closed by hand");
                Ok(format!("`{node}` may not go out; what it had begun is over"))
            }
        }
    }

    /// How it is. `traffic` is what shard 0 has counted.
    pub fn status(&self, traffic: &[NodeTraffic]) -> EgressStatus {
        let now = (self.clock)();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (emergency, left) = state.emergency.state(now);
        let plan = self.config.egress.as_ref();
        let exit = |(place, exit): (usize, &Exit)| {
            let traffic = traffic.get(place).copied().unwrap_or_default();
            ExitStatus {
                node: exit.name.clone(),
                address: exit.ip.to_string(),
                access: exit.access,
                open: exit.open,
                seconds: exit.until.map(|until| until.since(now).as_secs()),
                sessions: traffic.sessions,
                opened: traffic.opened,
                inspected: exit.rules.inspect.now(),
                packets_out: traffic.packets_out,
                bytes_out: traffic.bytes_out,
                packets_in: traffic.packets_in,
                bytes_in: traffic.bytes_in,
                refused: traffic.refused,
            }
        };
        let there = state.exits.iter().enumerate().filter(|(_, exit)| exit.there);
        EgressStatus {
            port: plan.map_or_else(String::new, |plan| self.config.ports[plan.port].name.clone()),
            address: plan.and_then(|plan| plan.address).map(|address| address.to_string()),
            emergency: emergency.to_owned(),
            seconds: left.map(|left| left.as_secs()),
            limit: plan.map_or(0, |plan| plan.sessions),
            nodes: there.map(exit).collect(),
        }
    }
}

fn said(turn: Turn) -> String {
    match turn {
        Turn::Begun(after) => format!("EMERGENCY: no public node has been healthy for {after:?}"),
        Turn::Recovered(hold) => {
            format!("the emergency is over: a public node has been healthy for {hold:?}")
        }
        Turn::Exhausted(most) => format!("the emergency is cut off after {most:?}"),
    }
}

/// Those whom the operator means.
fn chosen<'a>(state: &'a mut State, node: &str) -> Result<Vec<&'a mut Exit>, String> {
    let known: Vec<String> =
        state.exits.iter().filter(|exit| exit.there).map(|exit| format!("`{}`", exit.name)).collect();
    let chosen: Vec<&mut Exit> =
        state.exits.iter_mut().filter(|exit| exit.there && (node == "all" || exit.name == node)).collect();
    match chosen.is_empty() {
        true => Err(format!("there is no node `{node}`: expected {} or `all`", known.join(" or "))),
        false => Ok(chosen),
    }
}

/// Where no node goes by its way out: to ourselves, to where other nodes are, and where the operator says.
fn refused(config: &Config) -> PrefixSet {
    let own = config.ports.iter().flat_map(|port| &port.addresses);
    let own = own.map(|own| Prefix::host(own.address.into()));
    let inner = inner(config).into_iter().flat_map(|port| &config.ports[port].addresses);
    let inner = inner.map(|own| Prefix::of(own.address.into(), own.length));
    let told = config.egress.iter().flat_map(|plan| &plan.refuse).map(network);
    own.chain(inner).chain(told).collect()
}

/// The ports that lead to nodes.
fn inner(config: &Config) -> BTreeSet<usize> {
    config.pools.iter().flat_map(|pool| &pool.nodes).map(|node| node.port).collect()
}

/// What a shard is told of the way out.
pub fn layout(config: &Config, shard: u16) -> Option<EgressConfig> {
    let plan = config.egress.as_ref()?;
    Some(EgressConfig {
        inner: inner(config)
            .into_iter()
            .filter(|&port| port != plan.port)
            .map(|port| LinkId(port as u8))
            .collect(),
        outer: LinkId(plan.port as u8),
        address: plan.address.map(Address::from),
        first_port: *plan.ports.start(),
        ports_per_node: plan.ports_per_node,
        sessions: plan.sessions,
        home: shard == 0,
    })
}

/// What of a node's is inspected, to the dataplane.
fn inspect(plan: &crate::config::egress::Egress) -> Inspect {
    let Inspection { ports, at_once, .. } = &plan.inspect;
    Inspect { ports: ports.as_slice().into(), at_once: *at_once, held: Arc::default() }
}

/// What a purpose is to the dataplane.
fn allow(purpose: &Purpose) -> Vec<Allow> {
    let to =
        (!purpose.to.is_empty()).then(|| Arc::new(purpose.to.iter().map(network).collect::<PrefixSet>()));
    let one = |(transport, ports): &(Transport, _)| Allow {
        protocol: match transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
            Transport::Ping => Protocol::Icmp,
        },
        ports: std::ops::RangeInclusive::clone(ports),
        to: to.clone(),
    };
    purpose.kinds.iter().map(one).collect()
}
