//! `hedgerow lab`: the real core as the device of the simulated world.

mod fan;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{self, Accept, Exchange, ExchangeConfig, ShardIndex, ShardLink, Target};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::LinkId;
use hedgerow_lab::{Sample, Site, Subject};
use hedgerow_policy::PeerId;
use hedgerow_policy::gate;
use hedgerow_policy::identity::Fleet;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::{Acceptor, Clock, Connector, Settings, SetupError};
use hedgerow_port::Memory;

use crate::bans::Bans;
use crate::commons::Commons;
use crate::core::{Core, CoreConfig, CoreStatistics};
use crate::identity::expand;
use crate::pool::{NodeConfig, PoolConfig};
use crate::rules::Policy;
use crate::sessions::{Factory, Kind, Passed};
use fan::Fan;

/// Flows of the simulated appliance: few, so that floods press.
const FLOWS: usize = 2_048;

/// Cores in a simulated world.
pub struct Device {
    cores: Vec<Core<Memory>>,
    /// The cards, where there are several cores.
    fans: Vec<Fan>,
    clock: Arc<Clock>,
    unix: Duration,
    passed: Vec<Rc<Cell<Passed>>>,
    now: Instant,
    government: Option<Government>,
    /// How often the policy has changed.
    turn: u64,
    commons: Arc<Commons>,
}

/// The device for a site with one core, as `hedgerow lab` and the simulation tests use it.
pub fn device(site: Site) -> Result<Box<dyn Subject>, String> {
    sharded(1)(site)
}

/// What a simulated appliance is governed by.
#[derive(Clone)]
pub struct Government {
    /// Through which it comes into force; for as many shards as there are.
    pub bans: Arc<Bans>,
    /// Policies that take turns.
    pub policies: Vec<Arc<Policy>>,
    /// How often the next one takes its turn.
    pub every: Duration,
    /// Sessions that stand are judged by it too.
    pub now: bool,
}

impl Government {
    /// Puts the policy of a turn in force.
    fn turn(&self, turn: u64) {
        let policy = self.policies[turn as usize % self.policies.len()].clone();
        self.bans.adopt(policy, turn + 1, self.now);
    }
}

/// The same with several cores, each with a shard and a queue of both cards.
pub fn sharded(shards: u16) -> impl FnMut(Site) -> Result<Box<dyn Subject>, String> {
    governed(shards, None)
}

/// The same with a policy, which may change while it goes on.
pub fn governed(
    shards: u16,
    government: Option<Government>,
) -> impl FnMut(Site) -> Result<Box<dyn Subject>, String> {
    move |site| Ok(Box::new(Device::new(site, shards, government.clone())?))
}

impl Device {
    /// A device for a site, with several cores and a policy.
    pub fn new(site: Site, shards: u16, government: Option<Government>) -> Result<Device, String> {
        let clock = Clock::at(site.unix);
        let config = config(&site);
        let kind = gate(&site, &clock, &config.pools[0]).map_err(|error| error.to_string())?;
        let commons = Commons::new(&config, shards, Box::new(|_| {}), Instant::ZERO);
        let exchange = (shards > 1).then(|| {
            let links = [&site.public, &site.private];
            let size = ExchangeConfig {
                shards,
                flows: FLOWS,
                frame_bytes: links.map(|port| port.abilities().frame_bytes).to_vec(),
                seed: expand(site.seed, "exchange"),
            };
            Exchange::new(&size, Box::new(|_| {}))
        });
        let Site { public, private, unix, seed, .. } = site;
        let (fans, ports) = match shards {
            1 => (Vec::new(), vec![vec![public, private]]),
            _ => {
                let (outside, publics) = Fan::new(public, shards.into(), seed);
                let (inside, privates) = Fan::new(private, shards.into(), !seed);
                let ports = publics.into_iter().zip(privates).map(|(public, private)| vec![public, private]);
                (vec![outside, inside], ports.collect())
            }
        };
        let mut passed = Vec::new();
        let cores = (0..shards).zip(ports).map(|(index, ports)| {
            let factory = Factory::new(vec![kind.clone()], seed ^ u64::from(index) << 32)
                .watching(&[0], PeerId(expand(seed, "light peer")));
            passed.push(factory.passed());
            let config = place(config.clone(), index, shards, exchange.clone(), seed);
            Core::new(&config, commons.clone(), ports, Box::new(factory), Instant::ZERO)
        });
        let mut cores: Vec<Core<Memory>> = cores.collect();
        if let Some(government) = &government {
            government.turn(0);
            cores.iter_mut().for_each(|core| core.enforce(government.bans.clone()));
        }
        Ok(Device { cores, fans, clock, unix, passed, now: Instant::ZERO, government, turn: 0, commons })
    }

    /// What passed the sessions of all cores.
    pub fn passed(&self) -> Passed {
        let mut passed = Passed::default();
        self.passed.iter().for_each(|one| passed.absorb(&one.get()));
        passed
    }

    /// What the cores share: pools and nodes can be changed through it.
    pub fn commons(&self) -> &Arc<Commons> {
        &self.commons
    }
}

/// What one of several cores is told: its part of tables and memory, and randomness of its own.
fn place(
    mut config: CoreConfig,
    index: u16,
    shards: u16,
    exchange: Option<Arc<Exchange>>,
    seed: u64,
) -> CoreConfig {
    let shard = &mut config.shard;
    shard.index = ShardIndex::of(index, shards);
    shard.exchange = exchange;
    if shards > 1 {
        shard.seed = expand(seed, &format!("shard {index}"));
        shard.admit.flows /= u32::from(shards);
        shard.engine.flows /= usize::from(shards);
        shard.engine.time_waits /= usize::from(shards);
        shard.engine.blocks /= usize::from(shards);
    }
    config
}

/// The one listener: everything as an operator would have it, randomness from the world.
fn gate(site: &Site, clock: &Arc<Clock>, pool: &PoolConfig) -> Result<Kind, SetupError> {
    let settings = Settings { provider: site.crypto.clone(), ..Settings::new(clock.clone()) };
    let authority = Authority::chia()?;
    let fleet = Fleet::new(&expand(site.seed, "fleet"), &authority)?;
    let credential = fleet.service(&authority, site.service.ip(), site.service.port())?;
    let acceptor = Acceptor::new(&settings, credential)?;
    let connector = Connector::new(&settings, None)?;
    let mut gate = gate::Config::new(&site.network, acceptor, connector, fleet);
    gate.standard.peak = pool.peak.clone();
    Ok(Kind::Gate(BTreeMap::from([(site.service.ip(), Arc::new(gate))])))
}

fn config(site: &Site) -> CoreConfig {
    let link = |config: &hedgerow_dataplane::link::LinkConfig, port: &Memory| {
        ShardLink::new(config.clone(), port.abilities())
    };
    let node = |(name, address): (usize, &std::net::SocketAddr)| {
        let target = Target { link: LinkId(1), address: address.ip().into(), port: address.port() };
        NodeConfig::new(format!("node-{name}"), target)
    };
    CoreConfig {
        shard: shard::Config {
            links: vec![link(&site.public_link, &site.public), link(&site.private_link, &site.private)],
            listeners: vec![shard::Listener {
                link: LinkId(0),
                address: Some(site.service.ip().into()),
                port: site.service.port(),
                accept: Accept::ClientHello,
            }],
            admit: admit::Limits { flows: FLOWS as u32, ..admit::Limits::default() },
            engine: EngineConfig {
                flows: FLOWS,
                time_waits: FLOWS,
                blocks: 2 * FLOWS,
                ..EngineConfig::default()
            },
            screen: ScreenConfig::default(),
            cookie_secret: Master(expand(site.seed, "cookies")),
            seed: expand(site.seed, "shard"),
            index: ShardIndex::default(),
            exchange: None,
            egress: None,
        },
        listener_pools: vec![0],
        errands: Vec::new(),
        pools: vec![PoolConfig {
            name: "nodes".into(),
            nodes: site.nodes.iter().enumerate().map(node).collect(),
            transparent: false,
            dials_per_second: 100,
            dial_timeout: Duration::from_secs(5),
            slots: FLOWS,
            watched: true,
            ..PoolConfig::default()
        }],
        own_nodes: Vec::new(),
        work_queue: 256,
        events: 64,
    }
}

impl Device {
    /// One round of everything; whether nothing happened.
    fn round(&mut self, now: Instant, unix_ms: u64) -> bool {
        let dealt: usize = self.fans.iter_mut().map(Fan::deal).sum();
        let mut idle = true;
        for core in &mut self.cores {
            // A simulated port cannot fail.
            idle &= core.step(now, unix_ms).is_ok_and(|progress| progress.is_idle());
        }
        let gathered: usize = self.fans.iter_mut().map(Fan::gather).sum();
        idle && dealt + gathered == 0
    }
}

impl Subject for Device {
    fn step(&mut self, now: Instant) {
        self.now = now;
        if let Some(government) = &self.government {
            let turn = now.since(Instant::ZERO).as_micros() / government.every.as_micros().max(1);
            if turn as u64 > self.turn {
                self.turn = turn as u64;
                government.turn(self.turn);
            }
        }
        let unix = self.unix + Duration::from_micros(now.micros());
        self.clock.set(unix);
        // One cryptographic step per call is all that a call may do: the rest follows while no virtual time passes.
        while !self.round(now, unix.as_millis() as u64) {}
        for core in &mut self.cores {
            while core.event().is_some() {}
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.cores.iter().filter_map(|core| core.deadline(self.now)).min()
    }

    fn sample(&self) -> Sample {
        let mut sum = CoreStatistics::default();
        self.cores.iter().for_each(|core| sum.absorb(&core.statistics(self.now)));
        let passed = self.passed();
        let strangers = self.cores.iter().flat_map(|core| core.shard().strangers());
        Sample {
            dataplane: sum.shard,
            strangers: strangers.map(|(key, bytes)| (key.remote().ip(), bytes)).collect(),
            ended: sum.ended.iter().map(|(reason, count)| (reason.name(), count)).collect(),
            sessions: sum.sessions_dialled,
            messages_forwarded: passed.messages_to_nodes + passed.messages_to_peers,
        }
    }
}

/// Runs the world around so many cores and tells what happens. Fails where a promise was broken.
pub fn run(options: &hedgerow_lab::Options, shards: u16) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    let summary =
        hedgerow_lab::run(options, &mut sharded(shards), &mut out).map_err(|error| error.to_string())?;
    match summary.is_kept() {
        true => Ok(()),
        false => Err(format!("a promise was broken; --seed {} shows it again", summary.seed)),
    }
}
