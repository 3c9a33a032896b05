//! `hedgerow lab`: the real core as the device of the simulated world.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{self, Accept, ShardIndex, ShardLink, Target};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::LinkId;
use hedgerow_lab::{Sample, Site, Subject};
use hedgerow_policy::gate;
use hedgerow_policy::identity::Fleet;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::{Acceptor, Clock, Connector, Settings, SetupError};
use hedgerow_port::Memory;

use crate::commons::Commons;
use crate::core::{Core, CoreConfig};
use crate::identity::expand;
use crate::pool::{NodeConfig, PoolConfig};
use crate::sessions::{Factory, Kind, Passed};

/// Flows of the simulated appliance: few, so that floods press.
const FLOWS: usize = 2_048;

/// A core in a simulated world.
pub struct Device {
    core: Core<Memory>,
    clock: Arc<Clock>,
    unix: Duration,
    passed: Rc<Cell<Passed>>,
    now: Instant,
}

/// The device for a site, as `hedgerow lab` and the simulation tests use it.
pub fn device(site: Site) -> Result<Box<dyn Subject>, String> {
    let clock = Clock::at(site.unix);
    let kind = gate(&site, &clock).map_err(|error| error.to_string())?;
    let factory = Factory::new(vec![kind], site.seed);
    let passed = factory.passed();
    let config = config(&site);
    let Site { public, private, unix, .. } = site;
    let commons = Commons::alone(&config, Instant::ZERO);
    let core = Core::new(&config, commons, vec![public, private], Box::new(factory), Instant::ZERO);
    Ok(Box::new(Device { core, clock, unix, passed, now: Instant::ZERO }))
}

/// The one listener: everything as an operator would have it, randomness from the world.
fn gate(site: &Site, clock: &Arc<Clock>) -> Result<Kind, SetupError> {
    let settings = Settings { provider: site.crypto.clone(), ..Settings::new(clock.clone()) };
    let authority = Authority::chia()?;
    let fleet = Fleet::new(&expand(site.seed, "fleet"), &authority)?;
    let credential = fleet.service(&authority, site.service.ip(), site.service.port())?;
    let acceptor = Acceptor::new(&settings, credential)?;
    let connector = Connector::new(&settings, None)?;
    let gate = gate::Config::new(&site.network, acceptor, connector, fleet);
    Ok(Kind::Gate(BTreeMap::from([(site.service.ip(), Arc::new(gate))])))
}

fn config(site: &Site) -> CoreConfig {
    let link = |config: &hedgerow_dataplane::link::LinkConfig, port: &Memory| {
        ShardLink::new(config.clone(), port.abilities())
    };
    let node = |(name, address): (usize, &std::net::SocketAddr)| NodeConfig {
        name: format!("node-{name}"),
        target: Target { link: LinkId(1), address: address.ip().into(), port: address.port() },
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
        },
        listener_pools: vec![0],
        pools: vec![PoolConfig {
            name: "nodes".into(),
            nodes: site.nodes.iter().enumerate().map(node).collect(),
            transparent: false,
            dials_per_second: 100,
            dial_timeout: Duration::from_secs(5),
            slots: FLOWS,
        }],
        own_nodes: Vec::new(),
        work_queue: 256,
        events: 64,
    }
}

impl Subject for Device {
    fn step(&mut self, now: Instant) {
        self.now = now;
        let unix = self.unix + Duration::from_micros(now.micros());
        self.clock.set(unix);
        // A simulated port cannot fail, and one cryptographic step per call is all that a call may do: the rest follows
        // while no virtual time passes.
        while let Ok(progress) = self.core.step(now, unix.as_millis() as u64) {
            if progress.is_idle() {
                break;
            }
        }
        while self.core.event().is_some() {}
    }

    fn deadline(&self) -> Option<Instant> {
        self.core.deadline(self.now)
    }

    fn sample(&self) -> Sample {
        let statistics = self.core.statistics(self.now);
        let passed = self.passed.get();
        Sample {
            dataplane: statistics.shard,
            strangers: self.core.shard().strangers().map(|(key, bytes)| (key.remote().ip(), bytes)).collect(),
            ended: statistics.ended.iter().map(|(reason, count)| (reason.name(), count)).collect(),
            sessions: statistics.sessions_dialled,
            messages_forwarded: passed.messages_to_nodes + passed.messages_to_peers,
        }
    }
}

/// Runs the world around the core and tells what happens. Fails where a promise was broken.
pub fn run(options: &hedgerow_lab::Options) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    let summary = hedgerow_lab::run(options, &mut device, &mut out).map_err(|error| error.to_string())?;
    match summary.is_kept() {
        true => Ok(()),
        false => Err(format!("a promise was broken; --seed {} shows it again", summary.seed)),
    }
}
