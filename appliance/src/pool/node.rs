//! One node of a pool: its pace, its slots, what it carries, how it is, and whether the operator lets it serve.

use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::Target;
use hedgerow_policy::PeerId;
use hedgerow_policy::chia::NodeType;
use serde::{Deserialize, Serialize};

use super::health::{Condition, Health};
use super::{Caller, DIAL};

/// How long a node that has just come back takes to get its whole share.
const WARMS_UP: Duration = Duration::from_secs(60);
/// Its share at the beginning, in hundredths.
const COLD: u64 = 10;

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It serves peers; the application, too, where no protected node is in sync.
    #[default]
    Public,
    /// It serves the application behind back-end listeners.
    Protected,
    /// It serves nobody: it is watched, and connects outward only.
    Hidden,
}

impl Role {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Public => "public",
            Role::Protected => "protected",
            Role::Hidden => "hidden",
        }
    }
}

/// A node, as configured.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name in `status`.
    pub name: Arc<str>,
    /// Where it is.
    pub target: Target,
    /// What it is for.
    pub role: Role,
    /// Its share of sessions, in proportion to the others' weights.
    pub weight: u32,
}

impl NodeConfig {
    /// A node that serves peers, with the usual weight.
    pub fn new(name: impl Into<Arc<str>>, target: Target) -> NodeConfig {
        NodeConfig { name: name.into(), target, role: Role::Public, weight: 1 }
    }
}

/// Whether the operator lets a node serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// It serves.
    Serving,
    /// It gets no new sessions and loses those that it has, one by one. It serves again at that time, if there is one.
    Draining(Option<Instant>),
    /// It has none left.
    Maintenance(Option<Instant>),
    /// It is no longer part of the pool; its place is free once nothing refers to it.
    Removed,
}

/// What a pool says about a node in `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeStatistics {
    /// Sessions now.
    pub sessions: usize,
    /// Sessions that it began itself, inspected on their way out.
    pub begun: usize,
    /// Connections made.
    pub connected: u64,
    /// Connections that failed.
    pub failed: u64,
    /// It failed lately, so others come first.
    pub cooling: bool,
    /// How it is.
    pub condition: Condition,
    /// Whether it may serve.
    pub duty: Duty,
    /// Height of its peak.
    pub height: Option<u32>,
    /// How long the light peer's last request took.
    pub reply: Option<Duration>,
    /// It follows another chain than the heaviest.
    pub forked: bool,
}

/// A node's allowance of dials. Each half refills at half the pace, and holds a second's worth.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    general: u64,
    reserved: u64,
    filled: Instant,
}

/// A node, as it is.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) config: NodeConfig,
    allowance: Allowance,
    /// For peers, and for the application: its ports may fail apart from each other.
    cooling_until: [Instant; 2],
    pub(super) connected: u64,
    pub(super) failed: u64,
    /// Connections to it that are being made.
    pub(super) dialling: usize,
    pub(super) sessions: usize,
    /// Sessions that it began itself.
    pub(super) begun: usize,
    /// Slots taken, by the caller's kind.
    kinds: [u32; NodeType::ALL.len()],
    /// The identity that it showed last.
    pub(super) id: Option<PeerId>,
    pub(super) health: Health,
    pub(super) duty: Duty,
    /// Since when it serves, where it did not before.
    pub(super) back: Option<Instant>,
}

impl Node {
    pub(super) fn new(config: NodeConfig, rate: u32, watched: bool, now: Instant) -> Node {
        let full = capacity(rate);
        Node {
            config,
            allowance: Allowance { general: full, reserved: full, filled: now },
            cooling_until: [Instant::ZERO; 2],
            connected: 0,
            failed: 0,
            dialling: 0,
            sessions: 0,
            begun: 0,
            kinds: [0; NodeType::ALL.len()],
            id: None,
            health: if watched { Health::default() } else { Health::unwatched() },
            duty: Duty::Serving,
            back: None,
        }
    }

    /// Nothing refers to it.
    pub(super) fn is_free(&self) -> bool {
        self.duty == Duty::Removed && self.holds() == 0
    }

    /// Sessions that refer to it.
    pub(super) fn holds(&self) -> usize {
        self.dialling + self.sessions + self.begun
    }

    /// Whether it serves callers of this kind at all, how it is left aside.
    pub(super) fn serves(&self, backend: bool) -> bool {
        let role = match self.config.role {
            Role::Public => true,
            Role::Protected => backend,
            Role::Hidden => false,
        };
        role && self.duty == Duty::Serving
    }

    /// How gladly it is dialled, the best first; `None`: not at all.
    pub(super) fn rank(&self, now: Instant, backend: bool, spare_slow: bool) -> Option<(u8, u8)> {
        let tier = match self.health.condition() {
            Condition::Down | Condition::Syncing => return None,
            _ if self.cooling_until[usize::from(backend)] > now || self.health.is_suspect() => 2,
            Condition::Up => 0,
            Condition::Unknown | Condition::Unwatched => 1,
            Condition::Degraded if !spare_slow => 0,
            Condition::Degraded | Condition::Lagging => 3,
        };
        Some((tier, u8::from(backend && self.config.role != Role::Protected)))
    }

    /// What one more session would make it carry, in proportion to its weight, times a constant.
    pub(super) fn load(&self, now: Instant) -> u64 {
        let busy = (self.sessions + self.dialling) as u64 + 1;
        let warm = match self.back {
            Some(since) if now.since(since) < WARMS_UP => {
                COLD + (100 - COLD) * now.since(since).as_millis() as u64 / WARMS_UP.as_millis() as u64
            }
            _ => 100,
        };
        busy * 1_000_000 / (u64::from(self.config.weight.max(1)) * warm)
    }

    /// Whether a caller's kind has a slot left.
    pub(super) fn has_slot(&self, caller: &Caller, slots: &[(NodeType, u32)]) -> bool {
        let limit = slots.iter().find(|(kind, _)| Some(*kind) == caller.kind).map(|(_, limit)| *limit);
        caller.backend || limit.is_none_or(|limit| self.kind(caller) < limit)
    }

    fn kind(&self, caller: &Caller) -> u32 {
        caller.kind.map_or(0, |kind| self.kinds[place(kind)])
    }

    /// A caller's dial begins.
    pub(super) fn take(&mut self, caller: &Caller) {
        self.dialling += 1;
        if let Some(kind) = caller.kind {
            self.kinds[place(kind)] += 1;
        }
    }

    /// It ends, or the session that came of it does.
    pub(super) fn give(&mut self, caller: &Caller, connected: bool) {
        let count = if connected { &mut self.sessions } else { &mut self.dialling };
        *count = count.saturating_sub(1);
        if let Some(kind) = caller.kind {
            let taken = &mut self.kinds[place(kind)];
            *taken = taken.saturating_sub(1);
        }
    }

    /// It could not be reached: others come first until then.
    pub(super) fn cool(&mut self, backend: bool, until: Instant) {
        self.cooling_until[usize::from(backend)] = until;
    }

    pub(super) fn fill(&mut self, now: Instant, rate: u32) {
        self.allowance.fill(now, rate);
    }

    /// Whether the pace lets it be dialled now. The application is not paced: it is one of ours.
    pub(super) fn allows(&self, known: bool, backend: bool) -> bool {
        backend || self.allowance.allows(known)
    }

    pub(super) fn charge(&mut self, known: bool, backend: bool) {
        if !backend {
            self.allowance.take(known);
        }
    }

    pub(super) fn statistics(&self, now: Instant) -> NodeStatistics {
        NodeStatistics {
            sessions: self.sessions,
            begun: self.begun,
            connected: self.connected,
            failed: self.failed,
            cooling: self.cooling_until.iter().any(|until| *until > now),
            condition: self.health.condition(),
            duty: self.duty,
            height: self.health.peak().map(|(peak, _)| peak.height),
            reply: self.health.reply(),
            forked: self.health.is_forked(now),
        }
    }
}

fn place(kind: NodeType) -> usize {
    kind as usize - 1
}

/// A second's worth of half the pace, but one dial at least.
fn capacity(rate: u32) -> u64 {
    (u64::from(rate) * DIAL / 2).max(DIAL)
}

impl Allowance {
    fn fill(&mut self, now: Instant, rate: u32) {
        let micros = now.since(self.filled).as_micros().min(10_000_000) as u64;
        let refill = micros * u64::from(rate) / 2;
        if refill == 0 {
            return;
        }
        self.general = (self.general + refill).min(capacity(rate));
        self.reserved = (self.reserved + refill).min(capacity(rate));
        self.filled = now;
    }

    fn allows(&self, known: bool) -> bool {
        self.general >= DIAL || known && self.reserved >= DIAL
    }

    fn take(&mut self, known: bool) {
        if known && self.reserved >= DIAL {
            self.reserved -= DIAL;
        } else {
            self.general = self.general.saturating_sub(DIAL);
        }
    }
}
