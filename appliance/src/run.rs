//! `hedgerow run`: opens the ports, pins the core, and steps it until it is told to stop.
//!
//! The core's thread does nothing but step, answer commands and sleep; signals, the control socket and the event file have
//! threads of their own.

mod park;

use std::cell::Cell;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_policy::tls::{Clock, Settings};
use hedgerow_port::{AfPacket, AfPacketConfig, OpenError, Tap, TapConfig};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::assemble::{self, AssembleError};
use crate::commons::Commons;
use crate::config::{self, Config, Driver, Poll};
use crate::core::{Core, PortFault};
use crate::events::{EventLine, EventSink};
use crate::identity::{Secret, SecretError, random};
use crate::management::{self, Command, Commands, Control};
use crate::sessions::{Factory, Passed};
use crate::status::Status;

/// How long connections have to take their end when the appliance stops.
const DRAIN: Duration = Duration::from_secs(2);
/// Nothing happened for so long: the core may sleep.
const SPIN: Duration = Duration::from_micros(50);
/// The core wakes this often at least, to tell the time to those who need it.
const NAP: Duration = Duration::from_millis(900);
/// The policy's clock is set this often.
const CLOCK_EVERY: Duration = Duration::from_millis(500);

/// Why the appliance did not start, or stopped.
#[derive(Debug)]
pub enum RunError {
    /// A port could not be opened.
    Port(String, OpenError),
    /// A port stopped working.
    Fault(String, PortFault),
    /// The fleet secret cannot be used.
    Secret(SecretError),
    /// Certificates or TLS cannot be set up.
    Assemble(AssembleError),
    /// The control socket cannot be opened.
    Socket(PathBuf, std::io::Error),
    /// The event file cannot be opened.
    Events(PathBuf, std::io::Error),
    /// The core that the configuration names is not there.
    NoCore(usize, usize),
    /// The operating system refused something else.
    System(&'static str, std::io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Port(name, error) => write!(f, "port.{name}: {error}"),
            RunError::Fault(name, fault) => write!(f, "port.{name} stopped working: {}", fault.error),
            RunError::Secret(error) => error.fmt(f),
            RunError::Assemble(error) => error.fmt(f),
            RunError::Socket(path, error) => write!(
                f,
                "the control socket {}: {error}; its directory must exist and be writable, see `management.socket`",
                path.display()
            ),
            RunError::Events(path, error) => write!(
                f,
                "the event file {}: {error}; its directory must exist and be writable, see `management.events`",
                path.display()
            ),
            RunError::NoCore(core, count) => write!(
                f,
                "cores.dataplane = {core}, but this machine lends us {count} cores; write \"auto\" or a number below"
            ),
            RunError::System(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for RunError {}

type Device = Box<dyn Port + Send>;

/// Runs the appliance until SIGTERM or SIGINT.
pub fn run(config: Config) -> Result<(), RunError> {
    let secret = match &config.identity {
        Some(identity) => Secret::load(&identity.secret).map_err(RunError::Secret)?,
        None => Secret::ephemeral().map_err(|e| RunError::System("randomness", e))?,
    };
    let ports = open_ports(&config)?;
    let clock = Clock::at(unix_now());
    let kinds =
        assemble::kinds(&config, &secret, &Settings::new(clock.clone())).map_err(RunError::Assemble)?;
    let seed = random().map_err(|e| RunError::System("randomness", e))?;
    let masks = u64::from_be_bytes(
        *random().map_err(|e| RunError::System("randomness", e))?.first_chunk().unwrap_or(&[0; 8]),
    );
    let factory = Factory::new(kinds, masks);
    let passed = factory.passed();
    let abilities: Vec<_> = ports.iter().map(|port| port.abilities()).collect();
    let core_config = assemble::core(&config, &abilities, &secret, seed);

    let events = config.management.events.as_deref();
    let sink = EventSink::open(events, config.limits.events)
        .map_err(|e| RunError::Events(events.unwrap_or("events".as_ref()).to_owned(), e))?;
    let (control, commands) =
        management::control().map_err(|e| RunError::System("the way to the core", e))?;
    let path = config.management.socket.clone();
    let _socket =
        management::serve(&path, control.clone(), sink.recent()).map_err(|e| RunError::Socket(path, e))?;
    stop_on_signals(control).map_err(|e| RunError::System("signals", e))?;
    pin(config.core)?;

    let watch = Watch::start();
    let started = watch.now();
    let commons = Commons::alone(&core_config, started);
    let mut core = Core::new(&core_config, commons, ports, Box::new(factory), started);
    core.join_groups().map_err(|fault| port_fault(&config, fault))?;
    for (_, problem) in crate::check::machine(&config) {
        tracing::warn!("{problem}");
    }
    announce(&config);
    Loop { config, core, commands, sink, watch, clock, passed, started, told: started }.run()
}

fn open_ports(config: &Config) -> Result<Vec<Device>, RunError> {
    config.ports.iter().map(|port| open(port).map_err(|e| RunError::Port(port.name.clone(), e))).collect()
}

fn open(port: &config::Port) -> Result<Device, OpenError> {
    let tap = match port.driver {
        Driver::Tap => true,
        Driver::AfPacket => false,
        Driver::Auto => port.device.starts_with("tap"),
    };
    Ok(match tap {
        true => Box::new(Tap::open(&TapConfig::new(&port.device))?),
        false => Box::new(AfPacket::open(&AfPacketConfig::new(&port.device))?),
    })
}

fn port_fault(config: &Config, fault: PortFault) -> RunError {
    let name = config.ports.get(fault.port).map_or_else(String::new, |port| port.name.clone());
    RunError::Fault(name, fault)
}

/// A first signal drains and stops; a second one ends the process at once.
fn stop_on_signals(control: Control) -> std::io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for (count, signal) in signals.forever().enumerate() {
            if count > 0 || !control.send(Command::Stop) {
                std::process::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// Pins this thread to the chosen core, or the last one that the machine lends us.
fn pin(core: Option<usize>) -> Result<(), RunError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let chosen = match core {
        Some(number) => {
            let found = cores.iter().find(|id| id.id == number);
            Some(found.ok_or(RunError::NoCore(number, cores.len()))?)
        }
        None => cores.last(),
    };
    match chosen {
        Some(id) if core_affinity::set_for_current(*id) => tracing::info!(core = id.id, "pinned"),
        _ => tracing::warn!("the core's thread could not be pinned; it works, with more jitter"),
    }
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
    tracing::info!(socket = %config.management.socket.display(), "ready");
}

/// The monotonic clock that the core is stepped by.
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

struct Loop {
    config: Config,
    core: Core<Device>,
    commands: Commands,
    sink: EventSink,
    watch: Watch,
    clock: Arc<Clock>,
    passed: Rc<Cell<Passed>>,
    started: Instant,
    told: Instant,
}

impl Loop {
    fn run(mut self) -> Result<(), RunError> {
        let mut busy_at = self.started;
        let mut stop_by: Option<Instant> = None;
        loop {
            let now = self.watch.now();
            let idle = self.step(now)?;
            if !idle {
                busy_at = now;
            }
            while let Some(command) = self.commands.next() {
                match command {
                    Command::Status(answer) => self.report(now, &answer),
                    Command::Stop => {
                        tracing::info!("stopping");
                        self.core.shut_down(now);
                        stop_by = Some(now + DRAIN);
                    }
                }
                busy_at = now;
            }
            if stop_by.is_some_and(|by| by <= now || self.core.is_empty()) {
                self.core.cut_off(now);
                break;
            }
            let sleepy = self.config.poll == Poll::Adaptive && now.since(busy_at) >= SPIN;
            if sleepy {
                let until = [self.core.deadline(now), stop_by].into_iter().flatten().min();
                let nap = until.map_or(NAP, |at| at.since(now).min(NAP));
                park::park(&mut self.core, &self.commands, nap).map_err(|e| RunError::System("poll", e))?;
            }
        }
        // What the end of the sessions left to say.
        let now = self.watch.now();
        self.step(now)?;
        tracing::info!("stopped");
        Ok(())
    }

    /// One turn; whether nothing happened.
    fn step(&mut self, now: Instant) -> Result<bool, RunError> {
        let unix = unix_now();
        if now.since(self.told) >= CLOCK_EVERY {
            self.told = now;
            self.clock.set(unix);
        }
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        let progress = self.core.step(now, unix_ms).map_err(|fault| port_fault(&self.config, fault))?;
        while let Some(event) = self.core.event() {
            self.sink.send(EventLine::new(&self.config, &event));
        }
        Ok(progress.is_idle())
    }

    fn report(&self, now: Instant, answer: &crossbeam::channel::Sender<Box<Status>>) {
        let mut status = Status::of(&self.config, &self.core, self.passed.get(), now, self.started);
        status.events_lost += self.sink.lost;
        // A client that has given up needs no answer.
        let _ = answer.try_send(Box::new(status));
    }
}
