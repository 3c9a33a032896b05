//! A world of three: a peer, a core and a node, joined by two wires in memory.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::egress::{Allow, EgressConfig, EgressNode, Inspect, Protocol, Rules};
use hedgerow_dataplane::frame::{Batch, Lane, Port};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::DenyList;
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{
    self, Accept, Config, Event, FlowId, Listener, Shard, ShardIndex, ShardLink, Source, Target,
};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{Address, LinkId, Mac, PrefixSet};
use hedgerow_dataplane::{Instant, Reason as FlowReason};
use hedgerow_policy::session::Work;
use hedgerow_policy::{Close, Done, End, Leg, PeerId, Reason, Request, Session, Standing, relay};
use hedgerow_port::{Memory, MemoryConfig};

use crate::bell::Bell;
use crate::commons::Books;
use crate::commons::Commons;
use crate::core::{
    Arrival, Core, CoreConfig, CoreStatistics, Departed, Departure, Errand, SessionEvent, Sessions,
};
use crate::pool::{NodeConfig, PoolConfig};
use crate::sessions::{Factory, Kind};
use crate::workers::Workers;

pub(super) const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));
pub(super) const OTHER_PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 3));
/// A peer's address that lies in the node's network.
pub(super) const BESIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
pub(super) const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(super) const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const ABSENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
const PORT: u16 = 8444;
/// What a ClientHello begins with.
pub(super) const HELLO: &[u8] = &[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];

/// How a world differs from the usual one.
#[derive(Debug)]
pub(super) struct Plan {
    /// Nodes that refuse connections, before all others.
    pub(super) dead_nodes: usize,
    /// Nodes that are not there at all, after those.
    pub(super) silent_nodes: usize,
    /// Nodes that serve.
    pub(super) live_nodes: usize,
    pub(super) transparent: bool,
    pub(super) dials_per_second: u32,
    pub(super) work_queue: usize,
    pub(super) events: usize,
    pub(super) own_node: Option<u8>,
    /// The listener is the application's.
    pub(super) backend: bool,
    /// Bytes a second that a source may move.
    pub(super) source_bytes: u32,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            dead_nodes: 0,
            silent_nodes: 0,
            live_nodes: 1,
            transparent: false,
            dials_per_second: 100,
            work_queue: 64,
            events: 64,
            own_node: None,
            backend: false,
            source_bytes: 0,
        }
    }
}

pub(super) struct World {
    core: Core<Memory>,
    pub(super) peer: Host,
    pub(super) node: Host,
    now: Instant,
}

impl World {
    pub(super) fn relays(plan: Plan) -> World {
        let relay = relay::Config { idle: Duration::from_secs(3_600), ..relay::Config::default() };
        World::new(&plan, Box::new(Factory::new(vec![Kind::Relay(relay)], 1)))
    }

    pub(super) fn scripted(plan: Plan) -> World {
        World::new(&plan, Box::new(Scripts))
    }

    fn new(plan: &Plan, sessions: Box<dyn Sessions>) -> World {
        let now = Instant::from_millis(1_000);
        let wire = |last| MemoryConfig { mac: Mac([2, 0, 0, 0, 0, last]), ..MemoryConfig::default() };
        let (outer, public) = Memory::pair(wire(1), wire(2));
        let (private, inner) = Memory::pair(wire(3), wire(4));
        let config = core_config(plan, &public, &private);
        // The node's default route leads through the core, as a transparent source needs it.
        World {
            core: Core::new(&config, Commons::alone(&config, now), vec![public, private], sessions, now),
            peer: Host::new(outer, &[PEER, OTHER_PEER, BESIDE, NODE], None, now),
            node: Host::new(inner, &[NODE], Some(INSIDE), now),
            now,
        }
    }

    /// Says which of the node's connections are inspected, if its way out is open.
    pub(super) fn let_out(&mut self, open: bool) {
        let inspect = Inspect { ports: [PORT].into(), at_once: 4, held: Arc::default() };
        let allow = Allow { protocol: Protocol::Tcp, ports: 1..=u16::MAX, to: None };
        let node = EgressNode {
            addresses: vec![NODE.into()],
            link: LinkId(1),
            open,
            block: 0,
            allow: [allow].into(),
            inspect,
        };
        self.core.shard.set_egress(Arc::new(Rules::new(vec![node], PrefixSet::default())));
        self.settle();
    }

    /// The node begins a connection to a peer, and says what a hello begins with.
    pub(super) fn depart(&mut self, to: IpAddr) -> FlowId {
        let to = Target { link: LinkId(0), address: to.into(), port: PORT };
        let flow = self.node.shard.connect(self.now, to, Source::Own).unwrap();
        self.settle();
        self.node.say(flow, HELLO);
        self.settle();
        flow
    }

    /// Refuses an address from now on.
    pub(super) fn ban(&mut self, ip: IpAddr) {
        let list = || DenyList::new([hedgerow_dataplane::wire::Prefix::host(Address::from(ip))], 1);
        self.core.shard.set_deny(Arc::new(list()), Some(Arc::new(list())));
        self.settle();
    }

    /// Does something with what cores share.
    pub(super) fn books<T>(&mut self, act: impl FnOnce(&mut Books, Instant) -> T) -> T {
        let now = self.now;
        self.core.commons.with(|books| act(books, now))
    }

    /// Leaves the sessions' work to threads; they end with what is returned.
    pub(super) fn employ(&mut self, workers: usize) -> Workers {
        let (workers, mut desks) = Workers::start(workers, &[Arc::new(Bell::new().unwrap())]).unwrap();
        self.core.employ(desks.remove(0));
        workers
    }

    /// Turns until `done`, which threads of their own bring about: for twenty seconds at most.
    pub(super) fn turn_until(&mut self, mut done: impl FnMut(&mut World) -> bool) {
        let until = std::time::Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(std::time::Instant::now() < until, "it did not come to that");
            self.turn();
            std::thread::yield_now();
        }
    }

    /// A connection from one of the peer's addresses, established.
    pub(super) fn connect(&mut self, from: IpAddr) -> FlowId {
        let to = Target { link: LinkId(0), address: SERVICE.into(), port: PORT };
        let flow = self.peer.shard.connect(self.now, to, Source::Transparent(from.into(), 0)).unwrap();
        self.settle();
        assert!(self.peer.flows.get(&flow).is_some_and(|state| state.open), "not connected");
        flow
    }

    /// A connection from one of the peer's addresses, if there is room for it; nothing is waited for.
    pub(super) fn begin(&mut self, from: IpAddr) -> Option<FlowId> {
        let to = Target { link: LinkId(0), address: SERVICE.into(), port: PORT };
        self.peer.shard.connect(self.now, to, Source::Transparent(from.into(), 0)).ok()
    }

    /// The peer says something, and everything that follows at once happens.
    pub(super) fn say(&mut self, flow: FlowId, bytes: &[u8]) {
        assert_eq!(self.peer.say(flow, bytes), bytes.len());
        self.settle();
    }

    /// The one connection that reached a node.
    pub(super) fn node_flow(&self) -> FlowId {
        let flows: Vec<FlowId> = self.node.accepted().collect();
        assert_eq!(flows.len(), 1, "connections at the node");
        flows[0]
    }

    /// One turn of everybody.
    pub(super) fn turn(&mut self) -> bool {
        let moved = self.peer.turn(self.now) | self.node.turn(self.now);
        let progress = self.core.step(self.now, self.now.millis()).unwrap();
        moved | !progress.is_idle()
    }

    /// Turns until nothing moves; half a second at most, for acknowledgements that are held back.
    pub(super) fn settle(&mut self) {
        let end = self.now + Duration::from_millis(500);
        self.run_until(end);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.run_until(end);
        self.now = end;
    }

    fn run_until(&mut self, end: Instant) {
        loop {
            while self.turn() {}
            let core = self.core.deadline(self.now);
            let next =
                [core, self.peer.shard.deadline(), self.node.shard.deadline()].into_iter().flatten().min();
            match next {
                Some(at) if at <= end => self.now = at.max(self.now + Duration::from_millis(1)),
                _ => return,
            }
        }
    }

    pub(super) fn shut_down(&mut self) {
        self.core.shut_down(self.now);
        self.settle();
    }

    pub(super) fn cut_off(&mut self) {
        self.core.cut_off(self.now);
        self.settle();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.core.is_empty()
    }

    /// Entries in the heap of timers, those that mean nothing any more included.
    pub(super) fn timers(&self) -> usize {
        self.core.seats.timers()
    }

    /// Everything that a session may hold beside its seat, which nobody may hold any more: identities, places in the
    /// queue of the ready, steps of work, slots and places in the pools, flows and their buffers.
    pub(super) fn holdings(&self) -> Vec<(&'static str, usize)> {
        let statistics = self.statistics();
        let pool = &statistics.pools[0];
        vec![
            ("sessions", statistics.sessions),
            ("identities", self.core.commons.with(|books| books.identities())),
            ("ready", self.core.ready.len()),
            ("work", statistics.work.waiting),
            ("slots", pool.taken),
            ("waiting", pool.waiting),
            ("sessions of nodes", pool.nodes.iter().map(|(_, node)| node.sessions + node.begun).sum()),
            ("flows", statistics.shard.flows),
            ("buffers", statistics.shard.buffer_bytes),
        ]
    }

    pub(super) fn statistics(&self) -> CoreStatistics {
        self.core.statistics(self.now)
    }

    pub(super) fn events(&mut self) -> Vec<SessionEvent> {
        std::iter::from_fn(|| self.core.event()).collect()
    }
}

fn core_config(plan: &Plan, public: &Memory, private: &Memory) -> CoreConfig {
    let nodes = std::iter::repeat_n((NODE, 1), plan.dead_nodes)
        .chain(std::iter::repeat_n((ABSENT, PORT), plan.silent_nodes))
        .chain(std::iter::repeat_n((NODE, PORT), plan.live_nodes));
    let nodes = nodes.map(|(address, port)| {
        let target = Target { link: LinkId(1), address: address.into(), port };
        NodeConfig::new(format!("{address}:{port}"), target)
    });
    CoreConfig {
        shard: Config {
            links: vec![shard_link(public, &[SERVICE], None), shard_link(private, &[INSIDE], None)],
            admit: Limits { source_bytes: plan.source_bytes, ..shard_config(Accept::Handshake).admit },
            egress: Some(EgressConfig {
                inner: vec![LinkId(1)],
                outer: LinkId(0),
                address: Some(SERVICE.into()),
                first_port: 40_000,
                ports_per_node: 64,
                sessions: 16,
                home: true,
            }),
            ..shard_config(Accept::Handshake)
        },
        listener_pools: vec![0],
        errands: vec![Errand { backend: plan.backend, ..Errand::default() }],
        pools: vec![PoolConfig {
            name: "nodes".into(),
            nodes: nodes.collect(),
            transparent: plan.transparent,
            dials_per_second: plan.dials_per_second,
            dial_timeout: Duration::from_secs(2),
            slots: 1_000,
            ..PoolConfig::default()
        }],
        own_nodes: plan.own_node.iter().map(|&id| PeerId([id; 32])).collect(),
        work_queue: plan.work_queue,
        events: plan.events,
    }
}

fn shard_link(port: &Memory, addresses: &[IpAddr], gateway: Option<IpAddr>) -> ShardLink {
    let prefix = |&address: &IpAddr| Prefix { address: address.into(), length: 24 };
    let config = LinkConfig {
        addresses: addresses.iter().map(prefix).collect(),
        gateways: gateway.into_iter().map(Into::into).collect(),
        claiming: Claiming::Silent,
        ..LinkConfig::default()
    };
    ShardLink::new(config, port.abilities())
}

fn shard_config(accept: Accept) -> Config {
    Config {
        links: Vec::new(),
        listeners: vec![Listener { link: LinkId(0), address: None, port: PORT, accept }],
        admit: Limits { flows: 256, per_source: 64, per_24: 64, per_16_percent: 100, ..Limits::default() },
        engine: EngineConfig { flows: 256, time_waits: 256, blocks: 4_096, ..EngineConfig::default() },
        screen: ScreenConfig::default(),
        cookie_secret: Master([1; 32]),
        seed: [2; 32],
        index: ShardIndex::default(),
        exchange: None,
        egress: None,
    }
}

/// An end of a wire with a TCP stack.
pub(super) struct Host {
    shard: Shard,
    port: Memory,
    rx: Batch,
    tx: Batch,
    flows: BTreeMap<FlowId, State>,
}

#[derive(Default)]
struct State {
    open: bool,
    accepted: bool,
    heard: Vec<u8>,
    remote: Option<SocketAddr>,
    closed: Option<FlowReason>,
}

impl Host {
    fn new(port: Memory, addresses: &[IpAddr], gateway: Option<IpAddr>, now: Instant) -> Host {
        let links = vec![shard_link(&port, addresses, gateway)];
        let config = Config { links, ..shard_config(Accept::Handshake) };
        Host {
            shard: Shard::new(&config, now),
            port,
            rx: Batch::new(),
            tx: Batch::new(),
            flows: BTreeMap::new(),
        }
    }

    /// Queues bytes; says how many.
    pub(super) fn say(&mut self, flow: FlowId, bytes: &[u8]) -> usize {
        self.shard.flow(flow).map_or(0, |mut flow| flow.write(bytes))
    }

    pub(super) fn finish(&mut self, flow: FlowId) {
        if let Some(mut flow) = self.shard.flow(flow) {
            flow.finish();
        }
    }

    pub(super) fn abort(&mut self, flow: FlowId) {
        if let Some(mut flow) = self.shard.flow(flow) {
            flow.abort(FlowReason::Aborted);
        }
    }

    /// What arrived since the last call.
    pub(super) fn heard(&mut self, flow: FlowId) -> Vec<u8> {
        self.flows.get_mut(&flow).map(|state| std::mem::take(&mut state.heard)).unwrap_or_default()
    }

    /// What arrived since the last call of [`Host::heard`].
    pub(super) fn told(&self, flow: FlowId) -> &[u8] {
        self.flows.get(&flow).map_or(&[], |state| &state.heard)
    }

    pub(super) fn closed(&self, flow: FlowId) -> Option<FlowReason> {
        self.flows.get(&flow)?.closed
    }

    pub(super) fn remote(&self, flow: FlowId) -> SocketAddr {
        self.flows[&flow].remote.unwrap()
    }

    /// The one connection that was accepted last.
    pub(super) fn last(&self) -> Option<FlowId> {
        self.flows
            .iter()
            .filter(|(_, state)| state.accepted && state.closed.is_none())
            .map(|(&flow, _)| flow)
            .next_back()
    }

    /// Connections that were accepted, the ended ones included.
    pub(super) fn accepted(&self) -> impl Iterator<Item = FlowId> {
        self.flows.iter().filter(|(_, state)| state.accepted).map(|(&flow, _)| flow)
    }

    fn turn(&mut self, now: Instant) -> bool {
        self.shard.set_utc(now, now.millis());
        let received = self.port.receive(Lane::Stranger, &mut self.rx).unwrap();
        if received > 0 {
            self.shard.ingest(now, LinkId(0), &mut self.port, &mut self.rx, &mut self.tx);
        }
        self.shard.advance(now);
        while let Some(event) = self.shard.event(now) {
            self.event(now, event);
        }
        let budget = self.tx.space();
        self.shard.transmit(now, LinkId(0), &mut self.port, &mut self.tx, budget);
        let sent = self.port.transmit(&mut self.tx).unwrap();
        received + sent > 0
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Accepted(flow, _) => {
                let remote = self.shard.flow(flow).map(|flow| flow.key().remote());
                self.shard.standing(now, flow, shard::Standing::Proven);
                self.flows.insert(flow, State { open: true, accepted: true, remote, ..State::default() });
            }
            Event::Connected(flow) => {
                self.flows.insert(flow, State { open: true, ..State::default() });
            }
            Event::Closed(flow, reason) => self.flows.entry(flow).or_default().closed = Some(reason),
            Event::Readable(flow) => self.read(flow),
            Event::Finished(_) | Event::Writable(_) | Event::Departing(..) => {}
        }
    }

    fn read(&mut self, id: FlowId) {
        let Some(mut flow) = self.shard.flow(id) else { return };
        let state = self.flows.entry(id).or_default();
        loop {
            let piece = flow.peek();
            if piece.is_empty() {
                return;
            }
            let count = piece.len();
            state.heard.extend_from_slice(piece);
            flow.consume(count);
        }
    }
}

/// Makes a [`Script`] of each connection.
struct Scripts;

impl Sessions for Scripts {
    fn open(&mut self, now: hedgerow_policy::Instant, _: &Arrival) -> Option<Box<dyn Session>> {
        Some(Box::new(Script { heard: now, ..Script::default() }))
    }

    fn depart(&mut self, now: hedgerow_policy::Instant, _: &Departure<'_>) -> Option<Departed> {
        let requests = [Request::Reach].into();
        let script = Script { heard: now, holds_back: true, requests, ..Script::default() };
        Some(Departed { session: Box::new(script), showing: Some(PeerId([b'z'; 32])) })
    }
}

/// A session that does what the peer says: `D` and a byte: dial with that identity; `S`: be proven; `W`: ask for work;
/// `w`: for work that panics; `!`: panic; `.`: nothing. Where a node began it: `C` and a byte: claim that identity; `F` and
/// a byte: that for the node, whose own bytes the peer gets once the identity is there.
#[derive(Default)]
struct Script {
    heard: hedgerow_policy::Instant,
    requests: VecDeque<Request>,
    to_peer: VecDeque<u8>,
    to_node: VecDeque<u8>,
    /// The node is not heard yet.
    holds_back: bool,
    passes: bool,
    verdict: Option<Reason>,
}

#[derive(Debug)]
struct Step {
    panics: bool,
}

impl Work for Step {
    fn run(&mut self) {
        assert!(!self.panics, "as the script says");
    }

    fn into_any(self: Box<Self>) -> Box<dyn core::any::Any + Send> {
        self
    }
}

impl Script {
    fn end(&mut self, reason: Reason) {
        self.verdict.get_or_insert(reason);
        self.requests.push_back(Request::Close(Leg::Public, Close::Abort(reason)));
        self.requests.push_back(Request::Close(Leg::Private, Close::Abort(reason)));
    }

    fn finish(&mut self, reason: Reason) {
        self.verdict = Some(reason);
        self.requests.push_back(Request::Close(Leg::Public, Close::Finish(reason)));
        self.requests.push_back(Request::Close(Leg::Private, Close::Finish(reason)));
    }
}

impl Session for Script {
    fn receive(&mut self, now: hedgerow_policy::Instant, leg: Leg, bytes: &mut [u8]) -> usize {
        if leg == Leg::Private {
            let taken = if self.holds_back { 0 } else { bytes.len() };
            if self.passes {
                self.to_peer.extend(&bytes[..taken]);
            }
            return taken;
        }
        self.heard = now;
        let mut words = bytes.iter();
        while let Some(word) = words.next() {
            match word {
                b'D' => {
                    let peer = words.next().map(|&id| PeerId([id; 32]));
                    self.requests.push_back(Request::Dial { peer, kind: None });
                }
                b'C' => self.requests.extend(words.next().map(|&id| Request::Claim(PeerId([id; 32])))),
                b'F' => self.to_node.extend(words.next()),
                b'S' => self.requests.push_back(Request::Standing(Standing::Proven)),
                b'W' | b'w' => {
                    self.requests.push_back(Request::Work(Box::new(Step { panics: *word == b'w' })));
                }
                b'!' => panic!("as the script says"),
                b'N' => self.requests.extend(words.next().map(|&id| Request::Node(PeerId([id; 32])))),
                b'E' if self.verdict.is_none() => self.finish(Reason::Finished),
                _ => {}
            }
        }
        bytes.len()
    }

    fn transmit(&mut self, _: hedgerow_policy::Instant, leg: Leg, space: &mut [u8]) -> usize {
        let way = if leg == Leg::Private { &mut self.to_node } else { &mut self.to_peer };
        let count = space.len().min(way.len());
        for (place, byte) in space.iter_mut().zip(way.drain(..count)) {
            *place = byte;
        }
        count
    }

    fn appetite(&self, _: Leg) -> usize {
        4_096
    }

    fn ended(&mut self, _: hedgerow_policy::Instant, leg: Leg, how: End) {
        self.end(match (leg, how) {
            (_, End::Aborted) => Reason::Aborted,
            (Leg::Public, _) => Reason::PeerLost,
            (Leg::Private, _) => Reason::NodeLost,
        });
    }

    fn deadline(&self) -> Option<hedgerow_policy::Instant> {
        None
    }

    fn advance(&mut self, _: hedgerow_policy::Instant) {}

    fn request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    fn complete(&mut self, _: hedgerow_policy::Instant, done: Done) {
        match done {
            Done::Dialled => self.to_peer.extend(b"dialled"),
            Done::Claimed => (self.holds_back, self.passes) = (false, true),
            Done::Work(_) => self.to_peer.extend(b"worked"),
            Done::DialFailed(failure) => self.end(failure.into()),
        }
    }

    fn close(&mut self, _: hedgerow_policy::Instant, reason: Reason) {
        if self.verdict.is_none() {
            self.to_peer.extend(b"bye");
            self.finish(reason);
        }
    }

    fn probe(&mut self, _: hedgerow_policy::Instant) {
        self.to_peer.extend(b"ping");
    }

    fn heard(&self) -> hedgerow_policy::Instant {
        self.heard
    }

    fn verdict(&self) -> Option<Reason> {
        self.verdict
    }
}
