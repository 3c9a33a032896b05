//! What an appliance says about itself: one structure, for `status --json`, for people, and for whoever asks the socket.

mod pools;

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::{Abilities, Port, PortStatistics};
use hedgerow_dataplane::link::Link;
use hedgerow_dataplane::wire::{Address, LinkId};
use serde::{Deserialize, Serialize};

use crate::bans::BansStatus;
use crate::config::{Config, Mode, Poll, Protocol};
use crate::core::{Core, CoreStatistics};
use crate::egress::EgressStatus;
use crate::pulse::Pulse;
use crate::rules::keeper::PolicyStatus;
use crate::sessions::Passed;
use pools::pools;
pub use pools::{NodeStatus, PoolStatus};

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
    /// Who holds the flows, and who had to go.
    pub admission: AdmissionStatus,
    /// Who is refused.
    pub bans: BansStatus,
    /// The nodes' way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressStatus>,
    /// The policy in force.
    #[serde(default)]
    pub policy: Option<PolicyStatus>,
    /// Frames by number.
    pub frames: Frames,
    /// The shards, each by itself; everything else is their sum.
    pub shards: Vec<ShardStatus>,
    /// What was refused or ended.
    pub refused: Refused,
    /// Memory for buffers, in bytes.
    pub memory: Memory,
    /// Cryptographic steps.
    pub work: Work,
    /// Session events that were lost because nobody took them in time.
    pub events_lost: u64,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Its number.
    pub shard: u16,
    /// It did not report in time: nothing of it is in the sums.
    pub silent: bool,
    /// Where in its loop it was.
    pub phase: String,
    /// TCP connections now.
    pub flows: usize,
    /// Sessions now.
    pub sessions: usize,
    /// Connections accepted.
    pub accepted: u64,
    /// Frames taken in.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames passed on to the shard that holds their connection.
    pub handed_over: u64,
    /// Frames that other shards passed on.
    pub handed_in: u64,
    /// Memory for buffers in use, in bytes.
    pub buffers: usize,
    /// Cryptographic steps that wait.
    pub work_waiting: usize,
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
    /// The one of them that comes by DHCP: how it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseStatus>,
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
    /// Frames that the driver itself refused, by reason; part of what was refused in all.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// SYNs that the driver itself answered; part of all cookies.
    #[serde(default)]
    pub cookies: u64,
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
    /// Begun by a node, now.
    #[serde(default)]
    pub outbound: usize,
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
    /// Messages of peers with a flaw that was judged in shadow.
    pub shadowed: u64,
    /// Messages of peers that were thrown away: replies to nothing, and types that the node does not know.
    pub dropped: u64,
    /// Puzzle hashes and coins that peers registered for.
    pub subscriptions: u64,
    /// Requests of peers for heights far above every peak that the nodes know.
    pub beyond_peak: u64,
    /// Addresses in nodes' lists of peers that were not passed on: they are not public.
    pub addresses_withheld: u64,
}

/// Who holds the flows, and who had to go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdmissionStatus {
    /// Flows whose TLS handshake is not finished.
    pub handshakes: usize,
    /// At most.
    pub handshakes_limit: u32,
    /// Flows whose peer has finished it and is no friend.
    pub settled: usize,
    /// Those of them that nobody displaces because of their age.
    pub long_lived: usize,
    /// Those of them that nobody displaces because of what they brought.
    pub useful: usize,
    /// Evicted before their handshake was finished, from the fullest prefix.
    pub evicted: u64,
    /// Displaced after it, or turned away for others, by the rule for full slots.
    pub outranked: u64,
    /// Handshakes that were not finished in time.
    pub expired: u64,
    /// Refused because their source held what it may.
    pub source_quota: u64,
    /// Refused because their prefix held what it may.
    pub prefix_quota: u64,
    /// Refused because the listener's peers held what they may.
    pub listener_quota: u64,
    /// Refused because too many sessions had just begun.
    pub session_rate: u64,
    /// Times that a session had to rest because its source or prefix moved more bytes than it may.
    pub held_back: u64,
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
    /// Passed on to the shard that holds their connection.
    pub handed_over: u64,
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

/// An address by DHCP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The address with its prefix; none where no server has given one yet, or none any more.
    pub address: Option<String>,
    /// It is in use, and no longer being probed.
    pub in_use: bool,
    /// Who gave it.
    pub server: Option<String>,
    /// The default gateway.
    pub gateway: Option<String>,
    /// Seconds until the lease ends; none where it never does.
    pub seconds_left: Option<u64>,
}

impl LeaseStatus {
    fn of(link: &Link, now: Instant) -> Option<Self> {
        if !link.asks() {
            return None;
        }
        let ip = |address: Address| IpAddr::from(address).to_string();
        let lease = link.lease();
        Some(LeaseStatus {
            address: lease.map(|lease| format!("{}/{}", ip(lease.own.address), lease.own.length)),
            in_use: lease.is_some_and(|lease| link.usable(lease.own.address)),
            server: lease.map(|lease| ip(lease.server)),
            gateway: lease.and_then(|lease| lease.gateway).map(ip),
            seconds_left: lease.and_then(|lease| lease.until).map(|until| until.since(now).as_secs()),
        })
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(address) = &self.address else {
            return writeln!(f, "  NO ADDRESS by DHCP: no server has given one");
        };
        let named = |name: &str, what: &Option<String>| what.as_ref().map(|what| format!(", {name} {what}"));
        writeln!(
            f,
            "  {address} by DHCP{}{}{}{}",
            if self.in_use { "" } else { ", being probed" },
            named("server", &self.server).unwrap_or_default(),
            named("gateway", &self.gateway).unwrap_or_default(),
            self.seconds_left.map_or(", for ever".to_owned(), |left| format!(", {left} s left"))
        )
    }
}

/// What one shard reports.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its core.
    pub core: CoreStatistics,
    /// What passed its sessions.
    pub passed: Passed,
    /// Events that it could not hand over.
    pub events_lost: u64,
    /// Its queues of the ports.
    pub ports: Vec<PortReport>,
}

/// One shard's queue of a port.
#[derive(Debug, Clone)]
pub struct PortReport {
    /// What it can do.
    pub abilities: Abilities,
    /// What it counted.
    pub counted: PortStatistics,
    /// Addresses of ours that another station has.
    pub conflicts: Vec<Address>,
    /// The address by DHCP.
    pub lease: Option<LeaseStatus>,
}

impl Report {
    /// The state of `core`.
    pub fn of<P: Port>(core: &Core<P>, passed: Passed, events_lost: u64, now: Instant) -> Report {
        let port = |(index, (abilities, counted)): (u8, (&Abilities, PortStatistics))| PortReport {
            abilities: abilities.clone(),
            counted,
            conflicts: core.shard().link(LinkId(index)).iter().flat_map(|link| link.conflicts()).collect(),
            lease: core.shard().link(LinkId(index)).and_then(|link| LeaseStatus::of(link, now)),
        };
        let core_statistics = core.statistics(now);
        Report {
            core: core_statistics,
            passed,
            events_lost,
            ports: (0..).zip(core.ports()).map(port).collect(),
        }
    }
}

impl Status {
    /// The state of an appliance that has run for `uptime`, from its shards' reports, in order, and their pulses.
    pub fn of(config: &Config, uptime: Duration, reports: &[Option<Report>], pulses: &[&Pulse]) -> Status {
        let mut sum = CoreStatistics::default();
        let mut passed = Passed::default();
        let mut events_lost = 0;
        for report in reports.iter().flatten() {
            sum.absorb(&report.core);
            passed.absorb(&report.passed);
            events_lost += report.core.events_lost + report.events_lost;
        }
        let ports = ports(config, reports);
        let shard = &sum.shard;
        let mut refused = named(shard.reasons.iter().map(|(reason, count)| (reason.name(), count)));
        for (name, count) in ports.iter().flat_map(|port| &port.refused) {
            *refused.entry(name.clone()).or_default() += count;
        }
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: uptime.as_secs(),
            mode: config.mode,
            poll: config.cores.poll,
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
                now: sum.sessions,
                peak: sum.sessions_peak,
                opened: sum.sessions_opened,
                dialled: sum.sessions_dialled,
                outbound: sum.sessions_begun,
                crashed: sum.crashed,
            },
            passed: passed.into(),
            pools: pools(config, &sum.pools),
            admission: admission(config, &sum),
            bans: BansStatus::default(),
            egress: None,
            policy: None,
            frames: Frames {
                received: shard.frames_in,
                sent: shard.frames_out,
                cookies: shard.cookies_sent + ports.iter().map(|port| port.cookies).sum::<u64>(),
                resets: shard.resets_sent,
                handed_over: shard.handed_over,
            },
            shards: (0..).zip(reports.iter().zip(pulses)).map(ShardStatus::of).collect(),
            refused: Refused {
                dataplane: refused,
                policy: named(sum.ended.iter().map(|(reason, count)| (reason.name(), count))),
            },
            memory: Memory {
                buffers: shard.buffer_bytes,
                buffers_peak: shard.buffer_bytes_peak,
                limit: config.limits.buffer_memory,
                strangers: shard.stranger_bytes,
            },
            work: Work {
                done: sum.work.done,
                dropped: sum.work.dropped,
                waiting: sum.work.waiting,
                peak: sum.work.peak,
            },
            events_lost,
            ports,
        }
    }
}

impl ShardStatus {
    fn of((shard, (report, pulse)): (u16, (&Option<Report>, &&Pulse))) -> ShardStatus {
        let standard = CoreStatistics::default();
        let core = report.as_ref().map_or(&standard, |report| &report.core);
        ShardStatus {
            shard,
            silent: report.is_none(),
            phase: pulse.phase().name().to_owned(),
            flows: core.shard.flows,
            sessions: core.sessions,
            accepted: core.shard.accepted,
            received: core.shard.frames_in,
            sent: core.shard.frames_out,
            handed_over: core.shard.handed_over,
            handed_in: core.shard.handed_in,
            buffers: core.shard.buffer_bytes,
            work_waiting: core.work.waiting,
        }
    }
}

fn admission(config: &Config, core: &CoreStatistics) -> AdmissionStatus {
    use hedgerow_dataplane::Reason;
    let shard = &core.shard;
    AdmissionStatus {
        handshakes: shard.strangers,
        handshakes_limit: config.limits.handshakes_in_flight,
        settled: shard.settled,
        long_lived: shard.long_lived,
        useful: shard.useful,
        evicted: shard.reasons[Reason::Evicted],
        outranked: shard.reasons[Reason::Outranked],
        expired: shard.reasons[Reason::HandshakeTimeout],
        source_quota: shard.reasons[Reason::SourceQuota],
        prefix_quota: shard.reasons[Reason::PrefixQuota],
        listener_quota: shard.reasons[Reason::ListenerQuota],
        session_rate: shard.reasons[Reason::SessionRate],
        held_back: core.held_back,
    }
}

fn named<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> BTreeMap<String, u64> {
    counts.map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Each port's queues put together; a port of which no shard has reported is left out.
fn ports(config: &Config, reports: &[Option<Report>]) -> Vec<PortStatus> {
    let port = |(index, port): (usize, &crate::config::Port)| {
        let mut queues = reports.iter().flatten().filter_map(|report| report.ports.get(index));
        let first = queues.next()?;
        let abilities = &first.abilities;
        let (mut counted, mut conflicts) = (first.counted, first.conflicts.clone());
        for queue in queues {
            counted.absorb(&queue.counted);
            conflicts.extend(&queue.conflicts);
        }
        conflicts.sort();
        conflicts.dedup();
        let leased = first.lease.as_ref().and_then(|lease| lease.address.clone());
        Some(PortStatus {
            name: port.name.clone(),
            device: port.device.clone(),
            mode: abilities.mode.clone(),
            mac: abilities.mac.to_string(),
            mtu: port.mtu.unwrap_or(abilities.mtu).min(abilities.mtu),
            addresses: port.addresses.iter().map(ToString::to_string).chain(leased).collect(),
            lease: first.lease.clone(),
            conflicts: conflicts.iter().map(ToString::to_string).collect(),
            received: counted.received,
            transmitted: counted.transmitted,
            lost_ring: counted.lost_ring,
            lost_before: counted.lost_before,
            lost_transmit: counted.lost_transmit,
            malformed: counted.malformed,
            refused: named(counted.refused.iter().map(|(reason, count)| (reason.name(), count))),
            cookies: counted.cookies,
        })
    };
    config.ports.iter().enumerate().filter_map(port).collect()
}

fn listener(config: &Config, listener: &crate::config::Listener) -> ListenerStatus {
    let own = config.ports[listener.port].addresses.iter().map(|own| own.address);
    let served = own.filter(|own| listener.address.is_none_or(|wanted| wanted == *own));
    let served = served.map(|a| std::net::SocketAddr::new(a, listener.local_port).to_string());
    let leased = config.ports[listener.port].dhcp && listener.address.is_none();
    ListenerStatus {
        name: listener.name.clone(),
        addresses: served.chain(leased.then(|| format!("dhcp:{}", listener.local_port))).collect(),
        protocol: listener.protocol,
        pool: config.pools[listener.pool].name.clone(),
    }
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
            shadowed: passed.shadowed,
            dropped: passed.dropped,
            subscriptions: passed.subscriptions,
            beyond_peak: passed.beyond_peak,
            addresses_withheld: passed.addresses_withheld,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up = duration(self.uptime_seconds);
        writeln!(f, "hedgerow {} up {up}, process {}", self.version, self.pid)?;
        match self.mode {
            Mode::Enforce => {}
            Mode::Shadow => writeln!(f, "mode     SHADOW: what can pass passes; see `hedgerow report`")?,
            Mode::Tap => writeln!(f, "mode     TAP: looks at copies of frames and sends nothing")?,
        }
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
            write!(f, "{pool}")?;
        }
        let Flows { now, peak, limit, strangers, .. } = self.flows;
        writeln!(f, "flows    {now} of {limit} (peak {peak}), {strangers} of strangers")?;
        self.admission.write(f)?;
        self.bans.write(f)?;
        self.egress.iter().try_for_each(|egress| write!(f, "{egress}"))?;
        self.policy.iter().try_for_each(|policy| write!(f, "{policy}"))?;
        let SessionCounts { now, opened, dialled, outbound, crashed, .. } = self.sessions;
        let outbound = match outbound {
            0 => String::new(),
            count => format!("{count} of nodes outbound, "),
        };
        writeln!(
            f,
            "sessions {now} now, {dialled} with a node, {outbound}{opened} begun, {crashed} crashed"
        )?;
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
        self.write_shards(f)?;
        self.refused.write(f)
    }
}

impl Status {
    /// A line for each shard where there are several, or where one is silent.
    fn write_shards(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shards.len() == 1 && !self.shards[0].silent {
            return Ok(());
        }
        for shard in &self.shards {
            let ShardStatus { shard: number, flows, sessions, received, sent, handed_over, .. } = shard;
            match shard.silent {
                true => writeln!(f, "shard {number}: DOES NOT ANSWER, last seen {}", shard.phase)?,
                false => writeln!(
                    f,
                    "shard {number}: {flows} flows, {sessions} sessions, {received} frames in, {sent} out, \
                     {handed_over} passed on"
                )?,
            }
        }
        Ok(())
    }
}

impl PortStatus {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mode == crate::sockets::CAVEAT {
            return writeln!(f, "port {}: {}; {}", self.name, self.addresses.join(", "), self.mode);
        }
        writeln!(
            f,
            "port {}: {} ({}), {}, {}; {} in, {} out, {} refused in the driver, {} lost",
            self.name,
            self.device,
            self.mode,
            self.mac,
            self.addresses.join(", "),
            self.received,
            self.transmitted,
            self.refused.values().sum::<u64>(),
            self.lost_ring + self.lost_before + self.lost_transmit,
        )?;
        if let Some(lease) = &self.lease {
            lease.write(f)?;
        }
        match self.conflicts.is_empty() {
            true => Ok(()),
            false => writeln!(f, "  NOT IN USE, another station has it: {}", self.conflicts.join(", ")),
        }
    }
}

impl AdmissionStatus {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AdmissionStatus { handshakes, handshakes_limit, settled, long_lived, useful, .. } = self;
        writeln!(
            f,
            "admitted {handshakes} of {handshakes_limit} handshakes, {settled} settled \
             ({long_lived} kept for their age, {useful} for what they brought)"
        )?;
        let quotas = self.source_quota + self.prefix_quota + self.listener_quota;
        let AdmissionStatus { evicted, outranked, expired, session_rate, held_back, .. } = self;
        writeln!(
            f,
            "evicted  {evicted} in the handshake, {expired} too slow in it, {outranked} after it; \
             refused {quotas} by quotas, {session_rate} by pace; held back {held_back} times for bytes"
        )
    }
}

impl BansStatus {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BansStatus { now, limit, operator, imported, policy, hits, watched, .. } = self;
        writeln!(
            f,
            "bans     {now} of {limit}: {operator} by hand, {imported} imported, {policy} by the policy; \
             {hits} frames refused, {watched} sources watched"
        )
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
