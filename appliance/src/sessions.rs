//! The policy's sessions, made for each connection to a listener: a gate for `chia`, a relay for `tcp`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hedgerow_policy::gate::light::{self, Light};
use hedgerow_policy::gate::{self, Gate, Tally};
use hedgerow_policy::identity::Fleet;
use hedgerow_policy::relay::{self, Relay};
use hedgerow_policy::rules::{Action, Rules};
use hedgerow_policy::session::Instant;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::connector::Showing;
use hedgerow_policy::tls::{Credential, SetupError};
use hedgerow_policy::{Done, End, Finding, Leg, PeerId, Reason, Request, Session};

use crate::core::{Arrival, Departed, Departure, Sessions};
use crate::rules::Policy;
use crate::rules::witness::{What, Witness};

/// What a listener makes of a connection.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Any bytes, relayed unread.
    Relay(relay::Config),
    /// Chia, inspected; each service address shows a certificate of its own.
    Gate(BTreeMap<IpAddr, Arc<gate::Config>>),
}

/// What is made of connections that nodes begin.
#[derive(Clone)]
pub struct Outward {
    /// By pool.
    gates: Vec<Arc<gate::Config>>,
    shown: Arc<Shown>,
}

/// What stands for each node outside: made once for each, whichever core needs it first.
struct Shown {
    fleet: Arc<Fleet>,
    authority: Authority,
    made: Mutex<BTreeMap<String, Arc<Credential>>>,
}

impl std::fmt::Debug for Outward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outward").field("pools", &self.gates.len()).finish_non_exhaustive()
    }
}

impl Outward {
    /// Gates by pool, and where nodes' credentials come from.
    pub fn new(gates: Vec<Arc<gate::Config>>, fleet: Arc<Fleet>, authority: Authority) -> Outward {
        Outward { gates, shown: Arc::new(Shown { fleet, authority, made: Mutex::default() }) }
    }

    /// What a node shows outside. The first time it costs an RSA signature.
    ///
    /// # Errors
    /// Only if the cryptographic library refuses to work.
    pub fn showing(&self, node: &str) -> Result<Arc<Credential>, SetupError> {
        let Shown { fleet, authority, made } = &*self.shown;
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(credential) = made.get(node) {
            return Ok(credential.clone());
        }
        let credential = Arc::new(fleet.outward(authority, node)?);
        made.insert(node.to_owned(), credential.clone());
        Ok(credential)
    }

    /// The identities that have been made so far: no peer may come with one.
    pub fn ids(&self) -> Vec<PeerId> {
        let made = self.shown.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.values().filter_map(|credential| credential.id()).collect()
    }
}

/// Messages and bytes that passed all gates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Passed {
    /// Whole messages from peers to nodes.
    pub messages_to_nodes: u64,
    /// Messages from nodes to peers.
    pub messages_to_peers: u64,
    /// Bytes of the former.
    pub bytes_to_nodes: u64,
    /// Bytes of the latter.
    pub bytes_to_peers: u64,
    /// Messages of types that the table does not know, either way.
    pub unknown: u64,
    /// Messages of nodes that contradict the table.
    pub odd: u64,
    /// Messages of peers with a flaw that was judged in shadow.
    pub shadowed: u64,
    /// Messages of peers that were thrown away: replies to nothing, and types that the node does not know.
    pub dropped: u64,
    /// Puzzle hashes and coins that peers registered for.
    pub subscriptions: u64,
    /// Requests of peers for heights far above every peak that the nodes know.
    pub beyond_peak: u64,
    /// Addresses in nodes' lists of peers that were not passed on.
    pub addresses_withheld: u64,
    /// Messages of peers that waited for the next minute, as the policy says.
    pub delayed: u64,
}

impl Passed {
    /// Adds what passed elsewhere.
    pub fn absorb(&mut self, other: &Passed) {
        self.messages_to_nodes += other.messages_to_nodes;
        self.messages_to_peers += other.messages_to_peers;
        self.bytes_to_nodes += other.bytes_to_nodes;
        self.bytes_to_peers += other.bytes_to_peers;
        self.unknown += other.unknown;
        self.odd += other.odd;
        self.shadowed += other.shadowed;
        self.dropped += other.dropped;
        self.subscriptions += other.subscriptions;
        self.beyond_peak += other.beyond_peak;
        self.addresses_withheld += other.addresses_withheld;
        self.delayed += other.delayed;
    }
}

/// Makes sessions by listener.
#[derive(Debug)]
pub struct Factory {
    kinds: Vec<Kind>,
    /// By pool: what its light peers are told.
    lights: Vec<Option<Arc<light::Config>>>,
    outward: Option<Outward>,
    seed: u64,
    passed: Rc<Cell<Passed>>,
    witness: Option<Arc<Witness>>,
}

impl Factory {
    /// A factory for listeners in the order of the configuration. `seed` decides the masks towards nodes.
    pub fn new(kinds: Vec<Kind>, seed: u64) -> Self {
        Factory { kinds, lights: Vec::new(), outward: None, seed, passed: Rc::default(), witness: None }
    }

    /// Makes light peers for pools to which listeners lead that speak Chia, all of them with the identity that nodes see of
    /// a peer `who`. Two appliances need two: a node has one session per identity.
    #[must_use]
    pub fn watching(mut self, listener_pools: &[usize], who: PeerId) -> Self {
        for (kind, &pool) in self.kinds.iter().zip(listener_pools) {
            let Kind::Gate(gates) = kind else { continue };
            self.lights.resize((pool + 1).max(self.lights.len()), None);
            let light = |gate: &Arc<gate::Config>| light::Config {
                network: gate.network.clone(),
                connector: gate.connector.clone(),
                showing: Showing::Peer(gate.fleet.clone(), who),
            };
            self.lights[pool] = gates.values().next().map(light).map(Arc::new);
        }
        self
    }

    /// Makes sessions of what nodes begin.
    #[must_use]
    pub fn departing(mut self, outward: Option<Outward>) -> Self {
        self.outward = outward;
        self
    }

    /// Tells what sessions do.
    #[must_use]
    pub fn witnessed(mut self, witness: Arc<Witness>) -> Self {
        self.witness = Some(witness);
        self
    }

    /// What passes all sessions, readable while the core owns the factory.
    pub fn passed(&self) -> Rc<Cell<Passed>> {
        self.passed.clone()
    }

    fn counted(&self, gate: Gate) -> Box<dyn Session> {
        let (passed, witness) = (self.passed.clone(), self.witness.clone());
        Box::new(Counted { gate, told: Tally::default(), passed, witness, began: false })
    }

    /// SplitMix64: distinct seeds for distinct sessions.
    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Sessions for Factory {
    fn open(&mut self, now: Instant, arrival: &Arrival) -> Option<Box<dyn Session>> {
        let seed = self.next_seed();
        match self.kinds.get(usize::from(arrival.listener.0))? {
            Kind::Relay(config) => Some(Box::new(Relay::new(*config, now, arrival.peer, arrival.local))),
            Kind::Gate(configs) => {
                // Sockets may serve all addresses of the machine, and DHCP may give any: there is one entry for all.
                let all: IpAddr = match arrival.local {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                let config = configs.get(&arrival.local.ip()).or_else(|| configs.get(&all))?.clone();
                let gate = Gate::new(config, arrival.peer.ip(), seed, now);
                Some(self.counted(gate))
            }
        }
    }

    fn depart(&mut self, now: Instant, departure: &Departure<'_>) -> Option<Departed> {
        let seed = self.next_seed();
        let outward = self.outward.as_ref()?;
        let config = outward.gates.get(departure.pool)?.clone();
        let showing = outward.showing(departure.node).ok()?;
        let id = showing.id();
        let departure = gate::Departure { to: departure.to, showing, node: departure.id };
        let gate = Gate::outbound(config, departure, seed, now);
        Some(Departed { session: self.counted(gate), showing: id })
    }

    fn watch(&mut self, now: Instant, pool: usize) -> Option<Box<dyn Session>> {
        let seed = self.next_seed();
        let config = self.lights.get(pool)?.clone()?;
        Some(Box::new(Light::new(config, seed, now)))
    }

    fn adopt(&mut self, policy: &Policy) {
        let gates = self.kinds.iter_mut().filter_map(|kind| match kind {
            Kind::Gate(gates) => Some(gates),
            Kind::Relay(_) => None,
        });
        let outward = self.outward.iter_mut().flat_map(|outward| &mut outward.gates);
        for gate in gates.flat_map(BTreeMap::values_mut).chain(outward) {
            *gate = Arc::new(gate::Config { rules: policy.rules.clone(), ..gate::Config::clone(gate) });
        }
    }
}

/// A gate whose tally is added to that of all gates.
#[derive(Debug)]
struct Counted {
    gate: Gate,
    told: Tally,
    passed: Rc<Cell<Passed>>,
    witness: Option<Arc<Witness>>,
    /// The witness knows of it.
    began: bool,
}

impl Counted {
    fn tell(&mut self) {
        let (now, told) = (self.gate.tally(), self.told);
        let mut sum = self.passed.get();
        sum.messages_to_nodes += now.messages_to_node - told.messages_to_node;
        sum.messages_to_peers += now.messages_to_peer - told.messages_to_peer;
        sum.bytes_to_nodes += now.bytes_to_node - told.bytes_to_node;
        sum.bytes_to_peers += now.bytes_to_peer - told.bytes_to_peer;
        sum.unknown += now.noted.unknown - told.noted.unknown;
        sum.odd += now.noted.odd - told.noted.odd;
        sum.shadowed += now.noted.shadowed - told.noted.shadowed;
        sum.dropped += now.noted.dropped - told.noted.dropped;
        sum.subscriptions += now.noted.subscriptions - told.noted.subscriptions;
        sum.beyond_peak += now.noted.beyond_peak - told.noted.beyond_peak;
        sum.addresses_withheld += now.addresses_withheld - told.addresses_withheld;
        sum.delayed += now.noted.delayed - told.noted.delayed;
        self.passed.set(sum);
        self.told = now;
        self.testify();
    }

    /// Tells the witness what there is to tell: little, and seldom.
    fn testify(&mut self) {
        let Some(witness) = &self.witness else { return };
        if !self.began && self.gate.kind().is_some() {
            self.began = true;
            witness.saw(self.gate.who(), What::Began);
        }
        if !self.gate.has_facts() {
            return;
        }
        let (who, tables) = (self.gate.who(), self.gate.tables());
        while let Some(would) = self.gate.would() {
            witness.would(&who, would);
        }
        for minute in self.gate.minute() {
            witness.saw(who, What::Sent(minute, tables));
        }
    }

    /// Tells the witness how it ended, and of a ban that shadow has spared the peer.
    fn testify_end(&mut self) {
        let (Some(witness), Some(reason)) = (&self.witness, self.gate.verdict()) else { return };
        let who = self.gate.who();
        witness.saw(who, What::Ended(reason));
        let response = self.gate.rules().table(&who).response(reason, None);
        if response.shadow && matches!(response.action, Action::Ban(_)) && who.id.is_some() {
            witness.tell(&who, reason.name(), None, response);
        }
    }
}

impl Session for Counted {
    fn receive(&mut self, now: Instant, leg: Leg, bytes: &mut [u8]) -> usize {
        let taken = self.gate.receive(now, leg, bytes);
        self.tell();
        taken
    }

    fn transmit(&mut self, now: Instant, leg: Leg, space: &mut [u8]) -> usize {
        self.gate.transmit(now, leg, space)
    }

    fn appetite(&self, leg: Leg) -> usize {
        self.gate.appetite(leg)
    }

    fn ended(&mut self, now: Instant, leg: Leg, how: End) {
        self.gate.ended(now, leg, how);
    }

    fn deadline(&self) -> Option<Instant> {
        self.gate.deadline()
    }

    fn advance(&mut self, now: Instant) {
        self.gate.advance(now);
    }

    fn request(&mut self) -> Option<Request> {
        self.gate.request()
    }

    fn complete(&mut self, now: Instant, done: Done) {
        self.gate.complete(now, done);
        self.tell();
    }

    fn close(&mut self, now: Instant, reason: Reason) {
        self.gate.close(now, reason);
    }

    fn probe(&mut self, now: Instant) {
        self.gate.probe(now);
    }

    fn heard(&self) -> Instant {
        self.gate.heard()
    }

    fn verdict(&self) -> Option<Reason> {
        self.gate.verdict()
    }

    fn finding(&self) -> Option<&Finding> {
        self.gate.finding()
    }

    fn software(&self) -> &str {
        self.gate.software()
    }

    fn penalty(&self) -> Option<Duration> {
        self.gate.penalty()
    }

    fn adopt(&mut self, rules: &Arc<Rules>) {
        self.gate.adopt(rules);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tell();
        self.testify_end();
    }
}
