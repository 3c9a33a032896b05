//! `hedgerow.toml`: what it says, read once at start, checked as a whole.
//!
//! [`Config::parse`] either returns a configuration in which every reference resolves and every number lies in its
//! range, or a [`Report`] that names each mistake with its place, the expectation and a suggestion.

mod diagnostic;
pub mod egress;
mod file;
mod lower;
mod read;
pub mod units;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use diagnostic::{Diagnostic, Report, nearest};
use units::Prefix;

use crate::pool::Role;

/// A whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// How far verdicts are enforced.
    pub mode: Mode,
    /// The cores that poll the ports, and what stands beside them.
    pub cores: Cores,
    /// The control socket and the event log.
    pub management: Management,
    /// The ports; a port's place is its `LinkId`.
    pub ports: Vec<Port>,
    /// The listeners; a listener's place is its `ListenerId`.
    pub listeners: Vec<Listener>,
    /// The pools.
    pub pools: Vec<Pool>,
    /// Identities; present if any listener speaks Chia.
    pub identity: Option<Identity>,
    /// What may be held at most.
    pub limits: Limits,
    /// Where the policy is.
    pub policy: PolicyFiles,
    /// Who is refused, and who never is.
    pub bans: Bans,
    /// The nodes' way out; `None`: they have none by us.
    pub egress: Option<egress::Egress>,
}

/// How far verdicts are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Look only.
    Tap,
    /// In the path, everything counted, only memory limits enforced.
    Shadow,
    /// Everything enforced.
    #[default]
    Enforce,
}

/// What the core does while nothing arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Poll {
    /// Polls for ever: the lowest latency, one whole core.
    Busy,
    /// Polls a while, then sleeps until a frame arrives or a timer is due.
    #[default]
    Adaptive,
}

/// The cores that poll the ports, each with a shard of its own, and what stands beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// A shard on each of these cores; `None`: [`cores::choose`](crate::cores::choose) says.
    pub dataplane: Option<Vec<usize>>,
    /// What they do while nothing arrives.
    pub poll: Poll,
    /// Threads beside them that run cryptographic steps; zero: the shards run their own.
    pub workers: usize,
    /// How long a shard may be silent before the watchdog says so.
    pub watchdog: Duration,
    /// What the watchdog does then.
    pub stuck: Stuck,
}

impl Default for Cores {
    fn default() -> Self {
        Cores {
            dataplane: None,
            poll: Poll::default(),
            workers: 0,
            watchdog: Duration::from_secs(10),
            stuck: Stuck::default(),
        }
    }
}

impl Cores {
    /// Most shards: what a device's queues and the low bits of a port can tell apart with room to spare.
    pub const SHARDS: usize = 64;

    /// Number of shards.
    pub fn shards(&self) -> u16 {
        self.dataplane.as_ref().map_or(1, |cores| cores.len().clamp(1, Self::SHARDS) as u16)
    }
}

/// What the watchdog does about a shard that is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Stuck {
    /// Says so, and what is known.
    #[default]
    Report,
    /// Says so and aborts the process, so that whoever watches it starts it again.
    Abort,
}

/// Who answers SYNs of a port with AF_XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerSyns {
    /// The XDP program where frames would have to be copied to reach the core, else the core.
    #[default]
    Auto,
    /// The core.
    Core,
    /// The XDP program.
    Program,
}

/// Who else has a port's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// Nobody.
    #[default]
    Nothing,
    /// The kernel has them; only the listeners' TCP ports are ours.
    Listeners,
}

/// The control socket and the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Management {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// A file that session events are appended to, as JSON lines.
    pub events: Option<PathBuf>,
    /// Where changes to nodes are kept across restarts; without it they end with the process.
    pub nodes: Option<PathBuf>,
    /// Where identities of peers that had a session are kept; without it all are strangers after a restart.
    pub known: Option<PathBuf>,
    /// Where addresses by DHCP are kept, so that a restart asks for the same.
    pub leases: Option<PathBuf>,
}

/// How frames are taken from a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// AF_XDP where the device and the kernel can, else AF_PACKET; TAP for devices named `tap…`.
    #[default]
    Auto,
    /// AF_XDP: an XDP program on an existing device.
    AfXdp,
    /// A mapped packet socket on an existing device.
    AfPacket,
    /// A TAP device, created if it does not exist.
    Tap,
    /// No frames at all: ordinary sockets of the kernel, without privileges and without what the screen defends against.
    Sockets,
}

/// A device that frames come from and go to, and our addresses on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name in the configuration.
    pub name: String,
    /// Name of the network device; `sockets` where there is none.
    pub device: String,
    /// How frames are taken from it.
    pub driver: Driver,
    /// Our addresses, but for one by DHCP.
    pub addresses: Vec<Prefix>,
    /// One more comes by DHCP.
    pub dhcp: bool,
    /// The one that it was when we last ran: not of the file, see [`crate::leases`].
    pub last: Option<std::net::Ipv4Addr>,
    /// Default gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// Static routes: destination and next hop.
    pub routes: Vec<(ipnet::IpNet, IpAddr)>,
    /// Largest IP packet; `None`: the device's.
    pub mtu: Option<u16>,
    /// 802.1Q VLAN that the port's frames carry.
    pub vlan: Option<u16>,
    /// SYNs, and again other frames of strangers, that each queue lets through in a second; zero: all.
    pub strangers_per_second: u32,
    /// Who answers SYNs.
    pub answer_syns: AnswerSyns,
    /// Who else has the addresses.
    pub share: Share,
}

impl Port {
    /// Whether it has an address of a family, or will have one.
    pub fn speaks(&self, v4: bool) -> bool {
        v4 && self.dhcp || self.addresses.iter().any(|own| own.address.is_ipv4() == v4)
    }

    /// Whether its connections are the kernel's.
    pub fn is_sockets(&self) -> bool {
        self.driver == Driver::Sockets
    }

    /// Whether it is a TAP device, which need not exist before.
    pub fn is_tap(&self) -> bool {
        match self.driver {
            Driver::Tap => true,
            Driver::Auto => self.device.starts_with("tap"),
            Driver::AfPacket | Driver::AfXdp | Driver::Sockets => false,
        }
    }
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TLS, WebSocket and the Chia protocol, all inspected.
    Chia,
    /// Any bytes, relayed unread.
    Tcp,
}

/// A header in front of what a node gets, which says who the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// Version 2 of the PROXY protocol.
    V2,
}

/// A kind of peer that a listener may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerType {
    /// A full node.
    FullNode,
    /// A wallet.
    Wallet,
}

/// An address and TCP port that peers connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name in status and logs.
    pub name: String,
    /// Place of its port in [`Config::ports`].
    pub port: usize,
    /// One service address, or all of the port's.
    pub address: Option<IpAddr>,
    /// The TCP port.
    pub local_port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether nodes are told who the peer is; on `tcp` listeners.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// The Chia network, such as `mainnet`.
    pub network: String,
    /// The kinds of peers it serves.
    pub types: Vec<PeerType>,
    /// Place of its pool in [`Config::pools`].
    pub pool: usize,
    /// The application comes through it: neither paced nor counted, and protected nodes come first.
    pub backend: bool,
    /// Nodes are dialled at this port instead of their own.
    pub node_port: Option<u16>,
}

/// Which source address nodes see, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum SourceChoice {
    /// Decided by Hedgerow: `snat`, which works with every network.
    #[default]
    Auto,
    /// The appliance's own address.
    Snat,
    /// The peer's address; the node's route back leads through the appliance.
    Transparent,
}

impl SourceChoice {
    /// Whether nodes see the peer's own address.
    pub fn is_transparent(self) -> bool {
        self == SourceChoice::Transparent
    }
}

/// A named set of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Name in the configuration.
    pub name: String,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Which source address they see.
    pub source: SourceChoice,
    /// New sessions per second that each node is asked to bear.
    pub dials_per_second: u32,
    /// How long a connection to a node may take.
    pub dial_timeout: Duration,
    /// Sessions at one time.
    pub slots: usize,
    /// Sessions of a kind of peer that one node takes at one time.
    pub node_slots: Vec<(PeerType, u32)>,
}

/// An internal full node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name in status and logs.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Place in [`Config::ports`] of the port that leads to it.
    pub port: usize,
    /// What it is for.
    pub role: Role,
    /// Its share of sessions, in proportion to the others'.
    pub weight: u32,
}

/// Secrets and identities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// File with the fleet secret.
    pub secret: PathBuf,
    /// Ids of the operator's own nodes: peers that show one are refused.
    pub own_nodes: Vec<[u8; 32]>,
    /// An imported certificate for the public side and its key, in PEM files.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// What may be held at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections, both legs counted.
    pub flows: usize,
    /// Connections from one IPv4 address.
    pub per_source: u32,
    /// Connections from one IPv4 /24.
    pub per_24: u32,
    /// Percentage of all connections that may come from one IPv4 /16 or IPv6 /32.
    pub per_16_percent: u32,
    /// Connections from one IPv6 /64.
    pub v6_64: u32,
    /// Connections from one IPv6 /48.
    pub v6_48: u32,
    /// Percentage of all connections that the peers of one listener may hold.
    pub per_listener_percent: u32,
    /// Sessions that one IPv4 address or IPv6 /64 may begin in a minute; zero: any number.
    pub source_per_minute: u32,
    /// Sessions that one IPv4 /24 or IPv6 /48 may begin in a minute; zero: any number.
    pub prefix_per_minute: u32,
    /// Sessions that may begin in a second; zero: any number.
    pub sessions_per_second: u32,
    /// Bytes that one IPv4 address or IPv6 /64 may exchange with us in a second; zero: any number.
    pub source_bytes: u32,
    /// Bytes that one IPv4 /24 or IPv6 /48 may exchange with us in a second; zero: any number.
    pub prefix_bytes: u32,
    /// From where friends come: no quota, eviction or ban concerns them.
    pub friends: Vec<ipnet::IpNet>,
    /// Percentage of all connections that only friends may take.
    pub friends_percent: u32,
    /// Percentage of all connections that only friends and peers with a record may take.
    pub known_percent: u32,
    /// Connections whose TLS handshake is not finished.
    pub handshakes_in_flight: u32,
    /// How long a handshake may take while there is room; shrinks as the table fills.
    pub handshake_timeout: Duration,
    /// Buffer memory of all connections, in bytes.
    pub buffer_memory: u64,
    /// Memory for unfinished messages of all peers, in bytes.
    pub message_memory: u64,
    /// Cryptographic steps that wait.
    pub work_queue: usize,
    /// Session events that are kept for the management socket.
    pub events: usize,
}

/// Where the policy is: what is done about what peers do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyFiles {
    /// Its file; without one everything is as a node does it.
    pub file: Option<PathBuf>,
    /// Where its versions are kept across restarts; without it they end with the process.
    pub history: Option<PathBuf>,
    /// The file is read anew when it has changed.
    pub watch: bool,
}

impl Limits {
    /// The least that [`Limits::source_bytes`] and [`Limits::prefix_bytes`] may be, in bytes: with the usual quotas each session
    /// of a source or prefix gets no less than the rate below which a peer counts as too slow.
    pub const BYTES_LEAST: u32 = 1 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            flows: 16_384,
            per_source: 16,
            per_24: 32,
            per_16_percent: 12,
            v6_64: 4,
            v6_48: 16,
            per_listener_percent: 100,
            source_per_minute: 0,
            prefix_per_minute: 0,
            sessions_per_second: 0,
            source_bytes: 0,
            prefix_bytes: 0,
            friends: Vec::new(),
            friends_percent: 2,
            known_percent: 10,
            handshakes_in_flight: 256,
            handshake_timeout: Duration::from_secs(15),
            buffer_memory: 256 << 20,
            message_memory: 128 << 20,
            work_queue: 1_024,
            events: 1_024,
        }
    }
}

/// Who is refused, and who never is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bans {
    /// Where bans are kept across restarts; without it they end with the process.
    pub file: Option<PathBuf>,
    /// The policy bans addresses for what peers did after their handshake.
    pub policy: bool,
    /// Connections of an address end when it is banned.
    pub close: bool,
    /// What is never banned, besides nodes, friends and our own addresses and gateways.
    pub never: Vec<ipnet::IpNet>,
    /// How long a first offence is banned.
    pub first: Duration,
    /// How long the policy bans at most.
    pub longest: Duration,
    /// Bans at one time.
    pub most: usize,
}

impl Default for Bans {
    fn default() -> Self {
        Bans {
            file: None,
            policy: false,
            close: true,
            never: Vec::new(),
            first: Duration::from_secs(600),
            longest: Duration::from_secs(86_400),
            most: 100_000,
        }
    }
}

impl Config {
    /// Whether peers come by the port that leads to a node: a one-armed set-up.
    pub fn is_one_armed(&self, node: &Node) -> bool {
        self.listeners.iter().any(|listener| !listener.backend && listener.port == node.port)
    }

    /// Whether another port has the same device, with another VLAN.
    pub fn shares_device(&self, port: &Port) -> bool {
        let same = |other: &&Port| !other.is_sockets() && other.device == port.device;
        !port.is_sockets() && self.ports.iter().filter(same).count() > 1
    }

    /// Reads a configuration from `text`; `path` only names it. The report of a success holds warnings at most.
    pub fn parse(path: &str, text: &str) -> Result<(Config, Report), Report> {
        let (file, mut diagnostics) = read::read(text);
        let complete = diagnostics.is_empty();
        let config = lower::lower(file, complete, &mut diagnostics);
        read::name_fields(text, &mut diagnostics);
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        let report = Report { path: path.to_owned(), text: text.to_owned(), diagnostics };
        match config {
            Some(config) if !report.is_fatal() => Ok((config, report)),
            _ => Err(report),
        }
    }

    /// Place of the port that leads to an address, by longest prefix.
    pub fn way_to(&self, address: IpAddr) -> Option<usize> {
        lower::way_to(self.ports.iter(), address)
    }

    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<(Config, Report), LoadError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| LoadError::Unreadable(path.to_owned(), source))?;
        let parsed = Config::parse(&path.display().to_string(), &text).map_err(LoadError::Wrong);
        // What it names beside itself stands beside it.
        parsed.map(|(mut config, report)| {
            let directory = path.parent().unwrap_or(Path::new(""));
            config.policy.file = config.policy.file.map(|file| directory.join(file));
            (config, report)
        })
    }
}

/// Why a configuration file could not be used.
#[derive(Debug)]
pub enum LoadError {
    /// The file could not be read.
    Unreadable(PathBuf, std::io::Error),
    /// Its contents are wrong.
    Wrong(Report),
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LoadError::Unreadable(path, source) => write!(f, "cannot read {}: {source}", path.display()),
            LoadError::Wrong(report) => f.write_str(&report.render(false)),
        }
    }
}

impl std::error::Error for LoadError {}
