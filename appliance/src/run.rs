//! `hedgerow run`: opens the ports, starts a pinned thread for each shard, and waits until it is told to stop.
//!
//! A shard's thread does nothing but go round its loop, answer commands and sleep; signals, the control socket, the event
//! file, the watchdog and cryptographic workers have threads of their own. If one shard ends, so does the appliance: a
//! share of the peers without a shard would be worse than a restart.

mod error;
mod park;
mod pin;
mod ports;
mod shard;
mod share;
mod watchdog;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use core_affinity::CoreId;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::shard::{Exchange, ExchangeConfig, Wake};
use hedgerow_policy::tls::{Clock, Settings};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::assemble::{self, Place};
use crate::bans::{self, Bans};
use crate::bell::Bell;
use crate::commons::Commons;
use crate::config::{Config, Mode};
use crate::control::{self, Commands, Control, Line};
use crate::cores;
use crate::egress::Egress;
use crate::events::{EventLine, EventSink, Feed};
use crate::identity::{Secret, random};
use crate::known::Known;
use crate::leases::Leases;
use crate::management;
use crate::nodes::Nodes;
use crate::rules::history::By;
use crate::rules::keeper::{self, Keeper};
use crate::rules::witness::Witness;
use crate::sessions::Outward;
use crate::workers::{Desk, Workers};

pub use error::RunError;
use ports::Device;
use shard::Parts;

/// How long connections have to take their end when the appliance stops.
const DRAIN: Duration = Duration::from_secs(2);
/// What is not a shard's is looked after this often.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the appliance until SIGTERM or SIGINT.
pub fn run(mut config: Config) -> Result<(), RunError> {
    if config.cores.dataplane.is_none() {
        config.cores.dataplane = Some(cores::choose(&config)).filter(|cores| !cores.is_empty());
    }
    let file = config.management.leases.clone().unwrap_or_else(|| "leases".into());
    let leases = Leases::recall(&mut config).map_err(|e| RunError::Leases(file, e))?;
    let config = Arc::new(config);
    let secret = match &config.identity {
        Some(identity) => Secret::load(&identity.secret).map_err(RunError::Secret)?,
        None => Secret::ephemeral().map_err(|e| RunError::System("randomness", e))?,
    };
    let cores = pin::choose(config.cores.dataplane.as_deref())?;
    let ports = ports::open(&config)?;
    // Who only looks on takes nothing from the kernel.
    let kept = if config.mode == Mode::Tap { Vec::new() } else { share::keep(&config)? };
    let lines = (0..ports.len()).map(|_| control::line()).collect::<Result<Vec<_>, _>>();
    let (lines, commands): (Vec<Line>, Vec<Commands>) =
        lines.map_err(|e| RunError::System("the way to the shards", e))?.into_iter().unzip();
    let bells: Vec<Arc<Bell>> = lines.iter().map(|line| line.bell.clone()).collect();
    let control = Control::new(config.clone(), lines);

    let events = config.management.events.as_deref();
    let sink = EventSink::open(events, config.limits.events)
        .map_err(|e| RunError::Events(events.unwrap_or("events".as_ref()).to_owned(), e))?;
    let bans = open_bans(&config, ports.len() as u16, &sink)?;
    let witness = Arc::new(Witness::new(|| unix_now().as_secs()));
    let keeper = open_policy(&config, &bans, &witness, &bells)?;
    let watch = Watch::start();
    let commons = commons(&config, &bells, &watch)?;
    let nodes = open_nodes(&config, &commons, &bans, &watch)?;
    let known = open_known(&config, &commons)?;
    let egress = open_egress(&config, &commons, &watch, &sink, ports.len() as u16);
    let control = control.with_policy(keeper.clone()).with_nodes(nodes.clone()).with_egress(egress.clone());
    let path = config.management.socket.clone();
    let _socket = management::serve(&path, control.clone(), sink.recent(), bans.clone())
        .map_err(|e| RunError::Socket(path, e))?;
    stop_on_signals(control.clone()).map_err(|e| RunError::System("signals", e))?;
    let (_workers, desks) =
        Workers::start(config.cores.workers, &bells).map_err(|e| RunError::System("worker threads", e))?;

    keeper.watch().map_err(|e| RunError::System("the policy's thread", e))?;
    let shards = prepare(
        &config,
        &secret,
        (&bells, &watch),
        &commons,
        (&bans, &witness),
        (ports, desks),
        egress.as_ref(),
    )?;
    let (ended, ends) = unbounded();
    for (((parts, commands), number), core) in shards.into_iter().zip(commands).zip(0..).zip(cores) {
        start(number, parts, commands, sink.feed(), core, ended.clone())?;
    }
    drop(ended);
    watchdog::start(&control, &config.cores).map_err(|e| RunError::System("the watchdog", e))?;
    for (_, problem) in crate::check::machine(&config) {
        tracing::warn!("{problem}");
    }
    announce(&config);
    let result = wait(&control, &ends, kept, &nodes, (known, leases), (&commons, &bans));
    tracing::info!("stopped");
    result
}

/// Takes up the bans that were kept; each that is set or lifted is an event.
fn open_bans(config: &Config, shards: u16, sink: &EventSink) -> Result<Arc<Bans>, RunError> {
    let seconds = |duration: Duration| duration.as_secs();
    let rules = bans::Rules {
        protected: assemble::protected(config),
        most: config.bans.most,
        policy: config.bans.policy,
        first: seconds(config.bans.first),
        longest: seconds(config.bans.longest),
    };
    let herald = sink.herald();
    let setup = bans::Setup {
        rules,
        file: config.bans.file.clone(),
        close: config.bans.close,
        shards,
        tell: Box::new(move |change| herald.tell(EventLine::ban(unix_now().as_millis() as u64, change))),
        clock: || unix_now().as_secs(),
    };
    let file = config.bans.file.clone().unwrap_or_else(|| "bans".into());
    Bans::open(setup).map_err(|e| RunError::Bans(file, e))
}

/// Puts the policy in force that the configuration names.
fn open_policy(
    config: &Arc<Config>,
    bans: &Arc<Bans>,
    witness: &Arc<Witness>,
    bells: &[Arc<Bell>],
) -> Result<Arc<Keeper>, RunError> {
    let bells = bells.to_vec();
    let setup = keeper::Setup {
        config: config.clone(),
        bans: bans.clone(),
        witness: witness.clone(),
        wake: Box::new(move || bells.iter().for_each(|bell| bell.ring())),
        clock: || unix_now().as_secs(),
    };
    Keeper::open(setup).map_err(RunError::Policy)
}

/// Rings a shard's bell.
fn wake(bells: &[Arc<Bell>]) -> Wake {
    let bells = bells.to_vec();
    Box::new(move |shard| {
        if let Some(bell) = bells.get(usize::from(shard)) {
            bell.ring();
        }
    })
}

/// What the shards share about sessions.
fn commons(config: &Config, bells: &[Arc<Bell>], watch: &Watch) -> Result<Arc<Commons>, RunError> {
    let (pools, own_nodes) = (assemble::pools(config), assemble::own_nodes(config));
    let commons = Commons::over(&pools, own_nodes, bells.len() as u16, wake(bells), watch.now());
    for index in 0..pools.len() {
        let seed = random().map_err(|e| RunError::System("randomness", e))?;
        commons.with(|books| books.pools[index].reseed(*seed.first_chunk().unwrap_or(&[0; 16])));
    }
    Ok(commons)
}

/// Takes up the changes to nodes that were kept.
fn open_nodes(
    config: &Arc<Config>,
    commons: &Arc<Commons>,
    bans: &Arc<Bans>,
    watch: &Watch,
) -> Result<Arc<Nodes>, RunError> {
    let watch = watch.clone();
    let clock = Box::new(move || watch.now());
    let unix = || unix_now().as_secs();
    let opened = Nodes::open(config.clone(), commons.clone(), clock, unix, bans.clone());
    let file = config.management.nodes.clone().unwrap_or_else(|| "nodes".into());
    opened.map_err(|e| RunError::Nodes(file, e))
}

/// Takes up who is known from before.
fn open_known(config: &Config, commons: &Arc<Commons>) -> Result<Option<Known>, RunError> {
    let Some(path) = &config.management.known else { return Ok(None) };
    Known::open(path, commons).map(Some).map_err(|e| RunError::Known(path.clone(), e))
}

/// Decides who may go out from now on.
fn open_egress(
    config: &Arc<Config>,
    commons: &Arc<Commons>,
    watch: &Watch,
    sink: &EventSink,
    shards: u16,
) -> Option<Arc<Egress>> {
    let (watch, herald) = (watch.clone(), sink.herald());
    let clock = Box::new(move || watch.now());
    let tell = Box::new(move |line| herald.tell(line));
    Egress::open(config.clone(), commons.clone(), clock, tell, shards)
}

/// Starts a shard's thread, which sends how it ended.
fn start(
    number: u16,
    parts: Parts,
    commands: Commands,
    feed: Feed,
    core: Option<CoreId>,
    ended: Sender<(u16, Result<(), RunError>)>,
) -> Result<(), RunError> {
    let life = move || {
        commands.pulse.begin();
        pin::pin(number, core);
        let mut last = LastWord { number, ended, result: Err(RunError::Shard(number)) };
        last.result = shard::run(parts, commands, feed);
    };
    let thread = std::thread::Builder::new().name(format!("shard-{number}")).spawn(life);
    thread.map(drop).map_err(|e| RunError::System("a shard's thread", e))
}

/// Tells how a thread ended, however it did.
struct LastWord {
    number: u16,
    ended: Sender<(u16, Result<(), RunError>)>,
    result: Result<(), RunError>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        let _ = self.ended.send((self.number, result));
    }
}

/// Waits until all shards have ended. The first that ends with an error ends the others, and so does an address that can
/// be shared no more.
fn wait(
    control: &Control,
    ends: &Receiver<(u16, Result<(), RunError>)>,
    mut kept: Vec<share::Kept>,
    nodes: &Nodes,
    (mut known, mut leases): (Option<Known>, Leases),
    (commons, bans): (&Arc<Commons>, &Bans),
) -> Result<(), RunError> {
    let mut result = Ok(());
    let mut keep = |at_once| {
        if let Some(Err(error)) = known.as_mut().map(|known| known.save(commons, at_once)) {
            tracing::warn!(%error, "the file of known peers cannot be written");
        }
    };
    let mut late: Option<std::time::Instant> = None;
    loop {
        control.egress().iter().for_each(|egress| egress.step());
        keep(false);
        if let Err(error) = leases.step(commons, bans) {
            tracing::warn!(%error, "the file of leases or that of bans cannot be written");
        }
        if late.is_none() && nodes.may_end() {
            tracing::info!("drained: the appliance ends");
            late = Some(std::time::Instant::now() + DRAIN + LOOK * 5);
            control.stop();
        }
        let failed = match ends.recv_timeout(LOOK) {
            Ok((_, outcome)) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => share::check(&mut kept).err().map(Err),
            Err(RecvTimeoutError::Disconnected) => {
                keep(true);
                return result;
            }
        };
        if let Some(outcome) = failed {
            late.get_or_insert_with(|| std::time::Instant::now() + DRAIN + LOOK * 5);
            if let Err(error) = outcome
                && result.is_ok()
            {
                tracing::error!("{error}");
                result = Err(error);
            }
            control.stop();
        }
        if late.is_some_and(|late| late <= std::time::Instant::now()) {
            tracing::error!("a shard does not end; the process ends without it");
            std::process::exit(1);
        }
    }
}

/// What every shard is told, and what they share.
fn prepare(
    config: &Arc<Config>,
    secret: &Secret,
    (bells, watch): (&[Arc<Bell>], &Watch),
    commons: &Arc<Commons>,
    (bans, witness): (&Arc<Bans>, &Arc<Witness>),
    (ports, desks): (Vec<Vec<Device>>, Vec<Desk>),
    egress: Option<&Arc<Egress>>,
) -> Result<Vec<Parts>, RunError> {
    let randomness = || random().map_err(|e| RunError::System("randomness", e));
    let clock = Clock::at(unix_now());
    let settings = Settings::new(clock.clone());
    let pools: Vec<_> = commons.with(|books| books.pools.iter().map(|pool| pool.config().clone()).collect());
    let made = assemble::sessions(config, &pools, secret, &settings);
    let (kinds, outward) = made.map_err(RunError::Assemble)?;
    let shown = outward.iter().flat_map(Outward::ids);
    commons.with(|books| shown.for_each(|id| books.own(id)));
    let count = ports.len() as u16;
    let exchange = match ports.first() {
        Some(first) if count > 1 => {
            let frame_bytes = first.iter().map(|port| port.abilities().frame_bytes).collect();
            let size = ExchangeConfig {
                shards: count,
                flows: assemble::flows(config, count) * usize::from(count)
                    + config.egress.as_ref().map_or(0, |way| way.sessions),
                frame_bytes,
                seed: randomness()?,
            };
            Some(Exchange::new(&size, wake(bells)))
        }
        _ => None,
    };
    let census = ports::census(config)?;
    let mut shards = Vec::new();
    for ((queues, desk), index) in ports.into_iter().zip(desks).zip(0..) {
        let abilities: Vec<_> = queues.iter().map(|port| port.abilities()).collect();
        let place = Place { index, shards: count, exchange: exchange.clone() };
        let core_config = assemble::core(config, &abilities, secret, randomness()?, place);
        let sockets = ports::sockets(config, &core_config, &census)?;
        shards.push(Parts {
            config: config.clone(),
            core_config,
            commons: commons.clone(),
            ports: queues,
            sockets,
            desk: Some(desk).filter(|_| config.cores.workers > 0),
            kinds: kinds.clone(),
            outward: outward.clone(),
            masks: u64::from_be_bytes(*randomness()?.first_chunk().unwrap_or(&[0; 8])),
            watch: watch.clone(),
            clock: clock.clone(),
            bans: bans.clone(),
            witness: witness.clone(),
            egress: egress.cloned(),
        });
    }
    Ok(shards)
}

/// A first signal drains and stops; a second one ends the process at once. SIGHUP reads the policy anew.
fn stop_on_signals(control: Control) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                control.policy().iter().for_each(|keeper| keeper.reload_and_log(By::Signal));
            } else if std::mem::replace(&mut stopping, true) || !control.stop() {
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

fn announce(config: &Config) {
    for listener in &config.listeners {
        let port = &config.ports[listener.port];
        tracing::info!(
            listener = listener.name,
            port = port.name,
            device = port.device,
            local_port = listener.local_port,
            pool = config.pools[listener.pool].name,
            "listening"
        );
    }
    tracing::info!(shards = config.cores.shards(), socket = %config.management.socket.display(), "ready");
}

/// The monotonic clock that all shards are stepped by.
#[derive(Debug, Clone)]
struct Watch(std::time::Instant);

impl Watch {
    fn start() -> Self {
        Watch(std::time::Instant::now())
    }

    fn now(&self) -> Instant {
        // A second ahead of the origin, so that "a moment ago" can be said from the start.
        Instant::ZERO + Duration::from_secs(1) + self.0.elapsed()
    }
}

fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
