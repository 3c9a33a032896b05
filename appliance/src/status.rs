//! What an appliance says about itself: one structure, for `status --json`, for people, and for whoever asks the socket.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Mode, Poll, Protocol};
use crate::core::Core;
use crate::sessions::Passed;

/// The state of an appliance at one moment. Counters run from its start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_seconds: u64,
    /// How far verdicts are enforced.
    pub mode: Mode,
    /// What the core does while nothing arrives.
    pub poll: Poll,
    /// The ports.
    pub ports: Vec<PortStatus>,
    /// The listeners.
    pub listeners: Vec<ListenerStatus>,
    /// TCP connections, both legs.
    pub flows: Flows,
    /// Sessions.
    pub sessions: SessionCounts,
    /// Messages and bytes that passed inspection.
    pub passed: PassedStatus,
    /// The pools and their nodes.
    pub pools: Vec<PoolStatus>,
    /// Frames by number.
    pub frames: Frames,
    /// What was refused or ended.
    pub refused: Refused,
    /// Memory for buffers, in bytes.
    pub memory: Memory,
    /// Cryptographic steps.
    pub work: Work,
    /// Session events that were lost because nobody took them in time.
    pub events_lost: u64,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortStatus {
    /// Its name.
    pub name: String,
    /// The device.
    pub device: String,
    /// The driver and its mode.
    pub mode: String,
    /// Our Ethernet address.
    pub mac: String,
    /// Largest IP packet.
    pub mtu: u16,
    /// Our addresses.
    pub addresses: Vec<String>,
    /// Addresses that another station claims: not in use.
    pub conflicts: Vec<String>,
    /// Frames received.
    pub received: u64,
    /// Frames sent.
    pub transmitted: u64,
    /// Frames lost because the receive ring was full.
    pub lost_ring: u64,
    /// Frames lost before they reached the ring.
    pub lost_before: u64,
    /// Frames lost because the device took no more.
    pub lost_transmit: u64,
    /// Frames that the driver could not represent.
    pub malformed: u64,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its pool.
    pub pool: String,
}

/// TCP connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flows {
    /// Now.
    pub now: usize,
    /// Most at one time.
    pub peak: usize,
    /// At most.
    pub limit: usize,
    /// Those whose peer has proved nothing but its address.
    pub strangers: usize,
    /// Accepted.
    pub accepted: u64,
    /// Opened to nodes.
    pub connected: u64,
    /// Segments sent again.
    pub retransmissions: u64,
}

/// Sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionCounts {
    /// Now.
    pub now: usize,
    /// Most at one time.
    pub peak: usize,
    /// Begun.
    pub opened: u64,
    /// Connected to a node now.
    pub dialled: usize,
    /// Ended by a fault in the program; see the log.
    pub crashed: u64,
}

/// What passed inspection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PassedStatus {
    /// Messages from peers to nodes.
    pub messages_to_nodes: u64,
    /// Messages from nodes to peers.
    pub messages_to_peers: u64,
    /// Bytes of the former.
    pub bytes_to_nodes: u64,
    /// Bytes of the latter.
    pub bytes_to_peers: u64,
    /// Messages of unknown types.
    pub unknown: u64,
    /// Messages of our own nodes that contradict what we know of the protocol.
    pub odd: u64,
}

/// A pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// Sessions that hold a slot.
    pub taken: usize,
    /// Slots.
    pub slots: usize,
    /// Sessions that wait for a node.
    pub waiting: usize,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Sessions now.
    pub sessions: usize,
    /// Connections made.
    pub connected: u64,
    /// Connections that failed.
    pub failed: u64,
    /// It failed lately, so others come first.
    pub cooling: bool,
}

/// Frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frames {
    /// Taken in.
    pub received: u64,
    /// Sent.
    pub sent: u64,
    /// SYNs answered with a cookie.
    pub cookies: u64,
    /// Resets sent to strangers.
    pub resets: u64,
}

/// What was refused or ended, by reason; `hedgerow explain REASON` tells more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// Frames and flows, by the dataplane.
    pub dataplane: BTreeMap<String, u64>,
    /// Sessions, by the policy.
    pub policy: BTreeMap<String, u64>,
}

/// Memory for buffers, in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// In use.
    pub buffers: usize,
    /// Most at one time.
    pub buffers_peak: usize,
    /// At most.
    pub limit: u64,
    /// Held for peers who have proved nothing but their address.
    pub strangers: usize,
}

/// Cryptographic steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Run.
    pub done: u64,
    /// Given up because too many waited.
    pub dropped: u64,
    /// Waiting.
    pub waiting: usize,
    /// Most that waited at one time.
    pub peak: usize,
}

impl Status {
    /// The state of `core`, which runs since `started`.
    pub fn of<P: Port>(
        config: &Config,
        core: &Core<P>,
        passed: Passed,
        now: Instant,
        started: Instant,
    ) -> Status {
        let core_statistics = core.statistics(now);
        let shard = &core_statistics.shard;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: now.since(started).as_secs(),
            mode: config.mode,
            poll: config.poll,
            ports: ports(config, core),
            listeners: config.listeners.iter().map(|l| listener(config, l)).collect(),
            flows: Flows {
                now: shard.flows,
                peak: shard.flows_peak,
                limit: config.limits.flows,
                strangers: shard.strangers,
                accepted: shard.accepted,
                connected: shard.connected,
                retransmissions: shard.retransmissions,
            },
            sessions: SessionCounts {
                now: core_statistics.sessions,
                peak: core_statistics.sessions_peak,
                opened: core_statistics.sessions_opened,
                dialled: core_statistics.sessions_dialled,
                crashed: core_statistics.crashed,
            },
            passed: passed.into(),
            pools: pools(config, &core_statistics.pools),
            frames: Frames {
                received: shard.frames_in,
                sent: shard.frames_out,
                cookies: shard.cookies_sent,
                resets: shard.resets_sent,
            },
            refused: Refused {
                dataplane: named(shard.reasons.iter().map(|(reason, count)| (reason.name(), count))),
                policy: named(core_statistics.ended.iter().map(|(reason, count)| (reason.name(), count))),
            },
            memory: Memory {
                buffers: shard.buffer_bytes,
                buffers_peak: shard.buffer_bytes_peak,
                limit: config.limits.buffer_memory,
                strangers: shard.stranger_bytes,
            },
            work: Work {
                done: core_statistics.work.done,
                dropped: core_statistics.work.dropped,
                waiting: core_statistics.work.waiting,
                peak: core_statistics.work.peak,
            },
            events_lost: core_statistics.events_lost,
        }
    }
}

fn named<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    counts.map(|(name, count)| (name.to_owned(), count)).collect()
}

fn ports<P: Port>(config: &Config, core: &Core<P>) -> Vec<PortStatus> {
    let port = |(index, (port, (abilities, counted))): (usize, (&crate::config::Port, (&_, _)))| {
        let abilities: &hedgerow_dataplane::frame::Abilities = abilities;
        let counted: hedgerow_dataplane::frame::PortStatistics = counted;
        let link = core.shard().link(hedgerow_dataplane::wire::LinkId(index as u8));
        PortStatus {
            name: port.name.clone(),
            device: port.device.clone(),
            mode: abilities.mode.clone(),
            mac: abilities.mac.to_string(),
            mtu: port.mtu.unwrap_or(abilities.mtu).min(abilities.mtu),
            addresses: port.addresses.iter().map(ToString::to_string).collect(),
            conflicts: link.iter().flat_map(|link| link.conflicts()).map(|a| a.to_string()).collect(),
            received: counted.received,
            transmitted: counted.transmitted,
            lost_ring: counted.lost_ring,
            lost_before: counted.lost_before,
            lost_transmit: counted.lost_transmit,
            malformed: counted.malformed,
        }
    };
    config.ports.iter().zip(core.ports()).enumerate().map(port).collect()
}

fn listener(config: &Config, listener: &crate::config::Listener) -> ListenerStatus {
    let own = config.ports[listener.port].addresses.iter().map(|own| own.address);
    let served = own.filter(|own| listener.address.is_none_or(|wanted| wanted == *own));
    ListenerStatus {
        name: listener.name.clone(),
        addresses: served.map(|a| std::net::SocketAddr::new(a, listener.local_port).to_string()).collect(),
        protocol: listener.protocol,
        pool: config.pools[listener.pool].name.clone(),
    }
}

fn pools(config: &Config, counted: &[crate::core::PoolStatistics]) -> Vec<PoolStatus> {
    let pool = |(config, counted): (&crate::config::Pool, &crate::core::PoolStatistics)| PoolStatus {
        name: config.name.clone(),
        taken: counted.taken,
        slots: config.slots,
        waiting: counted.waiting,
        nodes: config
            .nodes
            .iter()
            .zip(&counted.nodes)
            .map(|(node, (_, figures))| NodeStatus {
                name: node.name.clone(),
                address: node.address.to_string(),
                sessions: figures.sessions,
                connected: figures.connected,
                failed: figures.failed,
                cooling: figures.cooling,
            })
            .collect(),
    };
    config.pools.iter().zip(counted).map(pool).collect()
}

impl From<Passed> for PassedStatus {
    fn from(passed: Passed) -> Self {
        PassedStatus {
            messages_to_nodes: passed.messages_to_nodes,
            messages_to_peers: passed.messages_to_peers,
            bytes_to_nodes: passed.bytes_to_nodes,
            bytes_to_peers: passed.bytes_to_peers,
            unknown: passed.unknown,
            odd: passed.odd,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = duration(self.uptime_seconds);
        writeln!(f, "hedgerow {} up {up}, process {}", self.version, self.pid)?;
        for port in &self.ports {
            port.write(f)?;
        }
        for listener in &self.listeners {
            let protocol = match listener.protocol {
                Protocol::Chia => "chia",
                Protocol::Tcp => "tcp",
            };
            let addresses = listener.addresses.join(", ");
            writeln!(f, "listener {}: {addresses}, {protocol}, pool {}", listener.name, listener.pool)?;
        }
        for pool in &self.pools {
            pool.write(f)?;
        }
        let Flows { now, peak, limit, strangers, .. } = self.flows;
        writeln!(f, "flows    {now} of {limit} (peak {peak}), {strangers} of strangers")?;
        let SessionCounts { now, opened, dialled, crashed, .. } = self.sessions;
        writeln!(f, "sessions {now} now, {dialled} with a node, {opened} begun, {crashed} crashed")?;
        let PassedStatus { messages_to_nodes, messages_to_peers, .. } = self.passed;
        writeln!(f, "messages {messages_to_nodes} to nodes, {messages_to_peers} to peers")?;
        let Memory { buffers, limit, strangers, .. } = self.memory;
        writeln!(
            f,
            "memory   {} of {} in buffers, {} for strangers",
            bytes(buffers as u64),
            bytes(limit),
            bytes(strangers as u64)
        )?;
        let Work { done, dropped, waiting, .. } = self.work;
        writeln!(f, "crypto   {done} steps, {waiting} waiting, {dropped} given up")?;
        self.refused.write(f)
    }
}

impl PortStatus {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "port {}: {} ({}), {}, {}; {} in, {} out, {} lost",
            self.name,
            self.device,
            self.mode,
            self.mac,
            self.addresses.join(", "),
            self.received,
            self.transmitted,
            self.lost_ring + self.lost_before + self.lost_transmit,
        )?;
        match self.conflicts.is_empty() {
            true => Ok(()),
            false => writeln!(f, "  NOT IN USE, another station has it: {}", self.conflicts.join(", ")),
        }
    }
}

impl PoolStatus {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pool {}: {} of {} slots, {} waiting", self.name, self.taken, self.slots, self.waiting)?;
        for node in &self.nodes {
            let cooling = if node.cooling { ", failed lately" } else { "" };
            writeln!(
                f,
                "  {} {}: {} sessions, {} connected, {} failed{cooling}",
                node.name, node.address, node.sessions, node.connected, node.failed
            )?;
        }
        Ok(())
    }
}

impl Refused {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, counts) in
            [("refused frames and flows", &self.dataplane), ("ended sessions", &self.policy)]
        {
            let mut counts: Vec<_> = counts.iter().collect();
            counts.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
            if !counts.is_empty() {
                writeln!(f, "{title}:")?;
            }
            for (reason, count) in counts {
                writeln!(f, "  {count:>12} {reason}")?;
            }
        }
        Ok(())
    }
}

fn duration(seconds: u64) -> String {
    let mut text = String::new();
    let mut left = seconds;
    for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if left >= unit {
            let _ = write!(text, "{}{name} ", left / unit);
            left %= unit;
        }
    }
    let _ = write!(text, "{left}s");
    text
}

fn bytes(count: u64) -> String {
    match count {
        0..1_024 => format!("{count} B"),
        1_024..1_048_576 => format!("{:.1} KiB", count as f64 / 1_024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}
