//! What the BPF programs look up, whichever port loads them: what is ours, flows that the shard holds, denied prefixes,
//! settings, and what they count. `bpf/hedgerow.h` holds the same layouts in C.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use bytemuck::{Pod, Zeroable};
use hedgerow_dataplane::Reason;
use hedgerow_dataplane::reason::Counters;
use hedgerow_dataplane::wire::{Address, FlowKey, Mac, Prefix};

use crate::bpf::{Counts, Kind, Map};

/// What of a device's traffic is ours. The rest goes on to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ours {
    /// Addresses that are ours alone: everything that is sent to them.
    pub addresses: Vec<Address>,
    /// TCP ports of addresses that the kernel has too: segments to them, and ICMP errors about them.
    pub ports: Vec<(Address, u16)>,
    /// TCP ports of others whose segments are ours wherever they are sent to: nodes that see the peers' addresses.
    pub sources: Vec<(Address, u16)>,
    /// Others all of whose packets are ours: nodes with a way out.
    pub nodes: Vec<Address>,
    /// Packets are passed on by this device, so that UDP for our addresses is ours, too.
    pub transit: bool,
    /// One more address may become ours ([`hedgerow_dataplane::frame::Port::own`]), which a DHCP server gives.
    pub dhcp: bool,
}

/// Names of the maps that each program may refer to.
#[cfg(test)]
pub(crate) const MAPS: [&str; 7] =
    ["settings", "endpoints", "known", "denied4", "denied6", "counters", "buckets"];

/// Reasons in the order of `enum reason`. What follows them there is counted, but nothing was refused.
const REASONS: [Reason; 16] = [
    Reason::Truncated,
    Reason::BadIpHeader,
    Reason::IpOptions,
    Reason::Fragment,
    Reason::UnknownProtocol,
    Reason::Martian,
    Reason::Land,
    Reason::BadTcpHeader,
    Reason::BadFlags,
    Reason::PortZero,
    Reason::BadOptions,
    Reason::BadChecksum,
    Reason::Denied,
    Reason::Policed,
    Reason::ReplyCap,
    Reason::NoFrame,
];
const NO_QUEUE: u32 = REASONS.len() as u32;
const COOKIE: u32 = NO_QUEUE + 1;
const COUNTERS: u32 = COOKIE + 1;

/// `struct address`.
pub(crate) type Octets = [u8; 16];

/// `struct flow`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(crate) struct RawFlow {
    local: Octets,
    remote: Octets,
    local_port: [u8; 2],
    remote_port: [u8; 2],
}

impl From<&FlowKey> for RawFlow {
    fn from(key: &FlowKey) -> Self {
        RawFlow {
            local: key.local.octets(),
            remote: key.remote.octets(),
            local_port: key.local_port.to_be_bytes(),
            remote_port: key.remote_port.to_be_bytes(),
        }
    }
}

/// `struct endpoint`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct RawEndpoint {
    address: Octets,
    port: [u8; 2],
    role: u16,
}

impl RawEndpoint {
    const DESTINATION: u16 = 0;
    const SOURCE: u16 = 1;

    pub(crate) fn destination(address: Address, port: u16) -> Self {
        RawEndpoint { address: address.octets(), port: port.to_be_bytes(), role: Self::DESTINATION }
    }

    fn source(address: Address, port: u16) -> Self {
        RawEndpoint { role: Self::SOURCE, ..Self::destination(address, port) }
    }
}

/// `struct prefix4`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RawPrefix4 {
    length: u32,
    address: [u8; 4],
}

/// `struct prefix`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RawPrefix6 {
    length: u32,
    address: Octets,
}

/// `struct settings`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct RawSettings {
    mac: [u8; 6],
    vlan: u16,
    sources: u32,
    ports: u32,
    police_ns: u64,
    police_burst_ns: u64,
    transit: u32,
    dhcp: u32,
}

/// How large the tables are, and how much of strangers passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Flows in the known lane; those beyond stay with the strangers.
    pub flows: u32,
    /// Denied prefixes of each family; the shard refuses those beyond by itself.
    pub denied: u32,
    /// SYNs, and again other frames of strangers, that pass in a second on each queue; zero: as many as come. Spares
    /// processor time; no frame of a known flow depends on it.
    pub strangers_per_second: u32,
}

impl Default for LaneLimits {
    fn default() -> Self {
        LaneLimits { flows: 65_536, denied: 65_536, strangers_per_second: 0 }
    }
}

/// A burst of so many frames of strangers passes whatever the rate.
const BURST: u64 = 1_024;

/// The maps of one device.
pub(crate) struct Lanes {
    settings: Map<u32, RawSettings>,
    endpoints: Map<RawEndpoint, u32>,
    known: Map<RawFlow, u32>,
    denied4: Map<RawPrefix4, u32>,
    denied6: Map<RawPrefix6, u32>,
    counters: Counts,
    buckets: Counts,
}

impl Lanes {
    /// The maps for a device of `queues` queues with the address `mac`.
    pub(crate) fn new(
        mac: Mac,
        vlan: Option<u16>,
        ours: &Ours,
        limits: LaneLimits,
        queues: u32,
    ) -> io::Result<Self> {
        let endpoints: Vec<RawEndpoint> =
            (ours.addresses.iter().map(|own| RawEndpoint::destination(*own, 0)))
                .chain(ours.ports.iter().map(|(own, port)| RawEndpoint::destination(*own, *port)))
                .chain(ours.sources.iter().map(|(node, port)| RawEndpoint::source(*node, *port)))
                .chain(ours.nodes.iter().map(|node| RawEndpoint::source(*node, 0)))
                .collect();
        let lanes = Lanes {
            settings: Map::new(Kind::Array, "settings", 1)?,
            endpoints: Map::new(Kind::Hash, "endpoints", endpoints.len() as u32 + u32::from(ours.dhcp))?,
            known: Map::new(Kind::Hash, "known", limits.flows)?,
            denied4: Map::new(Kind::Trie, "denied4", limits.denied)?,
            denied6: Map::new(Kind::Trie, "denied6", limits.denied)?,
            counters: Counts::new("counters", queues * COUNTERS)?,
            buckets: Counts::new("buckets", queues * 2)?,
        };
        for endpoint in &endpoints {
            lanes.endpoints.set(endpoint, &1)?;
        }
        let police_ns = 1_000_000_000u64.checked_div(limits.strangers_per_second.into()).unwrap_or(0);
        let settings = RawSettings {
            mac: mac.0,
            vlan: vlan.unwrap_or(0),
            sources: u32::from(!ours.sources.is_empty()),
            ports: u32::from(!ours.ports.is_empty()),
            police_ns,
            police_burst_ns: police_ns * BURST,
            transit: u32::from(ours.transit),
            dhcp: u32::from(ours.dhcp),
        };
        lanes.settings.set(&0, &settings)?;
        Ok(lanes)
    }

    /// The maps by the names that programs know them by.
    pub(crate) fn maps(&self) -> [(&'static str, BorrowedFd<'_>); 7] {
        [
            ("settings", self.settings.as_fd()),
            ("endpoints", self.endpoints.as_fd()),
            ("known", self.known.as_fd()),
            ("denied4", self.denied4.as_fd()),
            ("denied6", self.denied6.as_fd()),
            ("counters", self.counters.as_fd()),
            ("buckets", self.buckets.as_fd()),
        ]
    }

    /// SYNs that were answered on one queue.
    pub(crate) fn cookies(&self, queue: u32) -> u64 {
        self.counters.sum(queue * COUNTERS + COOKIE)
    }

    /// What the programs counted on one queue.
    pub(crate) fn counted(&self, queue: u32) -> Counted {
        let number = |index: u32| self.counters.sum(queue * COUNTERS + index);
        let mut counted = Counted { lost: number(NO_QUEUE), cookies: number(COOKIE), ..Counted::default() };
        for (index, reason) in (0..).zip(REASONS) {
            counted.refused[reason] += number(index);
        }
        counted
    }

    /// Takes all that is sent to an address, or no longer.
    pub(crate) fn own(&self, address: Address, on: bool) -> io::Result<()> {
        put(&self.endpoints, &RawEndpoint::destination(address, 0), on)
    }

    /// Denies a prefix, or no longer.
    fn deny(&self, prefix: Prefix, on: bool) -> io::Result<()> {
        let length = u32::from(prefix.length());
        match prefix.address().v4() {
            Some(address) => put(&self.denied4, &RawPrefix4 { length, address }, on),
            None => put(&self.denied6, &RawPrefix6 { length, address: prefix.address().octets() }, on),
        }
    }
}

fn put<K: bytemuck::NoUninit>(map: &Map<K, u32>, key: &K, on: bool) -> io::Result<()> {
    if on { map.set(key, &1) } else { map.remove(key) }
}

/// What the programs counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Counted {
    /// Frames refused.
    pub(crate) refused: Counters,
    /// Frames that no socket took.
    pub(crate) lost: u64,
    /// SYNs answered.
    pub(crate) cookies: u64,
}

/// What one port wants to tell its device's maps; a system call each, and so kept until the port's next flush.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    flows: Vec<(FlowKey, bool)>,
    prefixes: Vec<(Prefix, bool)>,
    /// Room for the keys and values of one call.
    keys: Vec<RawFlow>,
    ones: Vec<u32>,
}

/// Hints that may wait; more are told at once.
const WAITING: usize = 1_024;

impl Hints {
    pub(crate) fn new() -> Self {
        Hints {
            flows: Vec::with_capacity(WAITING),
            prefixes: Vec::with_capacity(WAITING),
            keys: Vec::with_capacity(WAITING),
            ones: vec![1; WAITING],
        }
    }

    pub(crate) fn known(&mut self, lanes: &Lanes, key: &FlowKey, on: bool) {
        if self.flows.len() == WAITING {
            self.tell(lanes);
        }
        self.flows.push((*key, on));
    }

    pub(crate) fn deny(&mut self, lanes: &Lanes, prefix: Prefix, on: bool) {
        if self.prefixes.len() == WAITING {
            self.tell(lanes);
        }
        self.prefixes.push((prefix, on));
    }

    /// Tells the maps. A table that is full is no error: these are hints.
    pub(crate) fn tell(&mut self, lanes: &Lanes) {
        for run in self.flows.chunk_by(|a, b| a.1 == b.1) {
            self.keys.clear();
            self.keys.extend(run.iter().map(|(key, _)| RawFlow::from(key)));
            let _ = match run.first() {
                Some((_, true)) => lanes.known.set_all(&self.keys, &self.ones),
                _ => self.keys.iter().try_for_each(|key| lanes.known.remove(key)),
            };
        }
        self.flows.clear();
        for (prefix, on) in self.prefixes.drain(..) {
            let _ = lanes.deny(prefix, on);
        }
    }
}
