//! One shard's loop: rounds of the core, commands, and sleep.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_policy::PeerId;
use hedgerow_policy::tls::Clock;

use super::ports::Device;
use super::{DRAIN, RunError, Watch, park, unix_now};
use crate::bans::Bans;
use crate::commons::Commons;
use crate::config::{Config, Poll};
use crate::control::{Command, Commands};
use crate::core::{Core, CoreConfig, PortFault};
use crate::egress::Egress;
use crate::events::{EventLine, Feed};
use crate::identity::expand;
use crate::pulse::Phase;
use crate::rules::witness::Witness;
use crate::sessions::{Factory, Kind, Outward, Passed};
use crate::sockets::Sockets;
use crate::status::Report;
use crate::workers::Desk;

/// Nothing happened for so long: the shard may sleep. About what going to sleep and waking costs, so that waiting in vain never
/// costs more than twice that.
const SPIN: Duration = Duration::from_micros(5);
/// The shard wakes this often at least, to tell the time to those who need it and to show that it lives.
const NAP: Duration = Duration::from_millis(900);
/// The policy's clock is set this often.
const CLOCK_EVERY: Duration = Duration::from_millis(500);

/// What a shard's thread is made of. The core itself is made on the thread, since sessions never leave it.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) core_config: CoreConfig,
    pub(super) commons: Arc<Commons>,
    pub(super) ports: Vec<Device>,
    pub(super) sockets: Option<Sockets>,
    pub(super) desk: Option<Desk>,
    pub(super) kinds: Vec<Kind>,
    pub(super) outward: Option<Outward>,
    /// Randomness for masks towards nodes.
    pub(super) masks: u64,
    pub(super) watch: Watch,
    pub(super) clock: Arc<Clock>,
    pub(super) bans: Arc<Bans>,
    pub(super) witness: Arc<Witness>,
    pub(super) egress: Option<Arc<Egress>>,
}

/// Runs a shard until it is told to stop.
pub(super) fn run(parts: Parts, commands: Commands, feed: Feed) -> Result<(), RunError> {
    let Parts {
        config,
        core_config,
        commons,
        ports,
        sockets,
        desk,
        kinds,
        outward,
        masks,
        watch,
        clock,
        bans,
        witness,
        egress,
    } = parts;
    let factory = Factory::new(kinds, masks)
        .watching(&core_config.listener_pools, PeerId(expand(masks, "light peer")))
        .departing(outward)
        .witnessed(witness.clone());
    let passed = factory.passed();
    let started = watch.now();
    let number = core_config.shard.index.index;
    let mut core = Core::new(&core_config, commons, ports, Box::new(factory), started);
    core.join_groups().map_err(|fault| port_fault(&config, fault))?;
    core.show(commands.pulse.clone());
    if let Some(sockets) = sockets {
        core.plug(sockets);
    }
    core.testify(witness);
    core.enforce(bans);
    if let Some(egress) = egress {
        core.let_out(egress);
    }
    if let Some(desk) = desk {
        core.employ(desk);
    }
    let pulse = commands.pulse.clone();
    let result = Loop { config, core, number, commands, feed, watch, clock, passed, told: started }.run();
    pulse.enter(Phase::Ended);
    result
}

fn port_fault(config: &Config, fault: PortFault) -> RunError {
    let name = config.ports.get(fault.port).map_or_else(String::new, |port| port.name.clone());
    RunError::Fault(name, fault)
}

struct Loop {
    config: Arc<Config>,
    core: Core<Device>,
    number: u16,
    commands: Commands,
    feed: Feed,
    watch: Watch,
    clock: Arc<Clock>,
    passed: Rc<Cell<Passed>>,
    told: Instant,
}

impl Loop {
    fn run(mut self) -> Result<(), RunError> {
        let mut busy_at = self.watch.now();
        let mut stop_by: Option<Instant> = None;
        loop {
            let now = self.watch.now();
            self.commands.pulse.beat();
            let idle = self.step(now)?;
            if !idle {
                busy_at = now;
            }
            while let Some(command) = self.commands.next() {
                match command {
                    Command::Report(answer) => self.report(now, &answer),
                    Command::Stop => {
                        tracing::info!(shard = self.number, "stopping");
                        self.core.shut_down(now);
                        stop_by.get_or_insert(now + DRAIN);
                    }
                }
                busy_at = now;
            }
            if stop_by.is_some_and(|by| by <= now || self.core.is_empty()) {
                self.core.cut_off(now);
                break;
            }
            let sleepy = self.config.cores.poll == Poll::Adaptive && now.since(busy_at) >= SPIN;
            if sleepy {
                let until =
                    [self.core.deadline(now), self.core.denials_due(), stop_by].into_iter().flatten().min();
                let nap = until.map_or(NAP, |at| at.since(now).min(NAP));
                self.commands.pulse.enter(Phase::Asleep);
                park::park(&mut self.core, &self.commands, nap).map_err(|e| RunError::System("poll", e))?;
            }
        }
        // What the end of the sessions left to say.
        let now = self.watch.now();
        self.step(now)?;
        Ok(())
    }

    /// One round; whether nothing happened.
    fn step(&mut self, now: Instant) -> Result<bool, RunError> {
        let unix = unix_now();
        if now.since(self.told) >= CLOCK_EVERY {
            self.told = now;
            self.clock.set(unix);
        }
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        let progress = self.core.step(now, unix_ms).map_err(|fault| port_fault(&self.config, fault))?;
        self.commands.pulse.enter(Phase::Commands);
        while let Some(news) = self.core.news() {
            tracing::info!(node = news.node, state = news.state, "{}", news.detail);
            self.feed.send(EventLine::node(&self.config, unix_ms, &news));
        }
        while let Some((port, news)) = self.core.lease_news() {
            if let Some(line) = EventLine::lease(&self.config, unix_ms, port, &news) {
                let (address, state) = (&line.peer, line.reason.as_deref());
                tracing::warn!(
                    port = line.listener,
                    address,
                    state,
                    "{}",
                    line.detail.as_deref().unwrap_or("")
                );
                self.feed.send(line);
            }
        }
        while let Some(event) = self.core.event() {
            self.feed.send(EventLine::new(&self.config, &event));
        }
        Ok(progress.is_idle())
    }

    fn report(&self, now: Instant, answer: &crossbeam::channel::Sender<(u16, Box<Report>)>) {
        let report = Report::of(&self.core, self.passed.get(), self.feed.lost, now);
        // A client that has given up needs no answer.
        let _ = answer.try_send((self.number, Box::new(report)));
    }
}
