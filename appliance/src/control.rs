//! The way to the shards: commands for each between two rounds of its loop, and their reports put together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::bell::Bell;
use crate::config::Config;
use crate::egress::Egress;
use crate::nodes::Nodes;
use crate::pulse::Pulse;
use crate::rules::keeper::Keeper;
use crate::status::{Report, Status};

/// How long the shards have to report.
const PATIENCE: Duration = Duration::from_secs(3);
/// Commands that may wait for a shard: one of each client, and the one to stop.
const COMMANDS: usize = 16;

/// What a shard is asked between two rounds.
#[derive(Debug, Clone)]
pub enum Command {
    /// Report, with the shard's number.
    Report(Sender<(u16, Box<Report>)>),
    /// Drain and stop.
    Stop,
}

/// The way to one shard, which may be asleep.
#[derive(Debug, Clone)]
pub struct Line {
    commands: Sender<Command>,
    /// Wakes it.
    pub bell: Arc<Bell>,
    /// Says how it is.
    pub pulse: Arc<Pulse>,
}

/// The shard's end of a [`Line`].
#[derive(Debug)]
pub struct Commands {
    commands: Receiver<Command>,
    /// Its bell.
    pub bell: Arc<Bell>,
    /// Its pulse.
    pub pulse: Arc<Pulse>,
}

/// A way to a shard.
///
/// # Errors
/// If the kernel has no descriptor left.
pub fn line() -> std::io::Result<(Line, Commands)> {
    let (bell, pulse) = (Arc::new(Bell::new()?), Arc::new(Pulse::default()));
    let (sender, receiver) = bounded(COMMANDS);
    let commands = Commands { commands: receiver, bell: bell.clone(), pulse: pulse.clone() };
    Ok((Line { commands: sender, bell, pulse }, commands))
}

impl Line {
    /// Hands a command over and wakes the shard; false where it does not keep up or is gone.
    pub fn send(&self, command: Command) -> bool {
        let sent = self.commands.try_send(command).is_ok();
        self.bell.ring();
        sent
    }
}

impl Commands {
    /// The next command.
    pub fn next(&self) -> Option<Command> {
        self.commands.try_recv().ok()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Waits for the next command; [`Command::Stop`] once nobody can send one any more.
    pub fn wait(&self) -> Command {
        self.commands.recv().unwrap_or(Command::Stop)
    }
}

/// The way to all shards.
#[derive(Debug, Clone)]
pub struct Control {
    config: Arc<Config>,
    lines: Arc<[Line]>,
    started: Instant,
    policy: Option<Arc<Keeper>>,
    nodes: Option<Arc<Nodes>>,
    egress: Option<Arc<Egress>>,
}

impl Control {
    /// The way to the shards at the other ends of `lines`, which run `config` from now on.
    pub fn new(config: Arc<Config>, lines: Vec<Line>) -> Control {
        Control {
            config,
            lines: lines.into(),
            started: Instant::now(),
            policy: None,
            nodes: None,
            egress: None,
        }
    }

    /// The same for an appliance whose policy can be changed.
    #[must_use]
    pub fn with_policy(mut self, policy: Arc<Keeper>) -> Control {
        self.policy = Some(policy);
        self
    }

    /// The same for an appliance whose nodes can be changed.
    #[must_use]
    pub fn with_nodes(mut self, nodes: Arc<Nodes>) -> Control {
        self.nodes = Some(nodes);
        self
    }

    /// The same for an appliance that lets nodes out.
    #[must_use]
    pub fn with_egress(mut self, egress: Option<Arc<Egress>>) -> Control {
        self.egress = egress;
        self
    }

    /// The nodes' way out.
    pub fn egress(&self) -> Option<&Arc<Egress>> {
        self.egress.as_ref()
    }

    /// Where nodes are changed.
    pub fn nodes(&self) -> Option<&Arc<Nodes>> {
        self.nodes.as_ref()
    }

    /// Who keeps the policy.
    pub fn policy(&self) -> Option<&Arc<Keeper>> {
        self.policy.as_ref()
    }

    /// The ways to each shard.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Has all shards stop; false where one cannot be told.
    pub fn stop(&self) -> bool {
        // All of them are told, whatever the first says.
        let told = self.lines.iter().filter(|line| line.send(Command::Stop)).count();
        told == self.lines.len()
    }

    /// The state of the appliance: what the shards that answer in time have to say, put together.
    pub fn status(&self) -> Status {
        let (sender, receiver) = bounded(self.lines.len());
        let mut reports: Vec<Option<Report>> = self.lines.iter().map(|_| None).collect();
        let asked = self.lines.iter().filter(|line| line.send(Command::Report(sender.clone()))).count();
        drop(sender);
        let until = Instant::now() + PATIENCE;
        for _ in 0..asked {
            let Ok((shard, report)) = receiver.recv_deadline(until) else { break };
            if let Some(place) = reports.get_mut(usize::from(shard)) {
                *place = Some(*report);
            }
        }
        let pulses: Vec<&Pulse> = self.lines.iter().map(|line| &*line.pulse).collect();
        let mut status = Status::of(&self.config, self.started.elapsed(), &reports, &pulses);
        let first = reports.first().and_then(Option::as_ref);
        let traffic = first.map_or(&[][..], |report| &report.core.egress);
        status.egress = self.egress.as_ref().map(|egress| egress.status(traffic));
        status
    }
}
