//! The simulation of the TCP engine: a [`Forwarder`] between foreign stacks over paths that lose, reorder, duplicate and
//! damage frames, while strangers send floods. Streams are compared byte for byte, memory is held against its limits, and
//! a seed repeats a run exactly.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hedgerow_dataplane::admit;
use hedgerow_dataplane::tcp::{BLOCK, EngineConfig};
use hedgerow_dataplane::wire::Mac;
use hedgerow_dataplane::{Instant, Reason};

use crate::crypto;
use crate::floods::{AckFlood, Schedule, SynFlood};
use crate::forwarder::{Forwarder, Limits};
use crate::host::{Host, Place, socket};
use crate::network::{Path, Side, Traffic, World};
use crate::random::Random;
use crate::site::{self, Ground};
use crate::streams::{Manner, Note, Order, Peer, Server};
use crate::subject::Subject;

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Peers whose streams arrived whole, both ways.
    pub whole: usize,
    /// Peers that broke their connection on purpose.
    pub broken: usize,
    /// Bytes compared, both ways.
    pub bytes: u64,
    /// Frames, for the curious.
    pub traffic: Traffic,
    /// Segments that the device sent again.
    pub retransmissions: u64,
    /// Segments that overtook the first of their connection. Each is taken for the first with a probability of 2^-20:
    /// the price of a cookie that has room for twenty bits about the peer's sequence number.
    pub overtaken: u64,
    /// SHA-256 over all frames.
    pub fingerprint: String,
}

/// Why a run failed; shows the seed that repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What went wrong, in words.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.what)
    }
}

impl std::error::Error for Failure {}

/// Blocks of the device's buffer pool: little enough to be felt.
const BLOCKS: usize = 512;
/// Flows of the device.
const FLOWS: usize = 256;
/// Virtual time after which everything must be over: a run of losses may take the longest retransmission timeouts.
const PATIENCE: Duration = Duration::from_secs(600);
/// Virtual time after which the device has noticed who went without a word, and has forgotten them.
const REST: Duration = Duration::from_secs(300);
/// Port of the service and of the node.
const PORT: u16 = 8444;

/// Runs the world of one seed.
///
/// # Errors
/// If a stream arrived damaged or incomplete, a limit was passed, or memory was still held when all was over.
pub fn run(seed: u64) -> Result<Report, Failure> {
    let mut run = Run::new(seed).map_err(|what| Failure { seed, what })?;
    run.go().map_err(|what| Failure { seed, what })
}

struct Run {
    world: World<Note>,
    device: Forwarder,
    random: Random,
    orders: Vec<(Order, Manner)>,
}

impl Run {
    fn new(seed: u64) -> Result<Self, String> {
        let mut random = Random::new(seed);
        let v6 = random.chance(300_000);
        let ground = if v6 { Ground::v6(PORT) } else { Ground::v4(PORT) };
        let (site, outside, inside) = site::lay_out(&ground, crypto::provider(seed), random.next());
        let limits = Limits {
            admit: admit::Limits { flows: FLOWS as u32, ..admit::Limits::default() },
            engine: EngineConfig { flows: FLOWS, blocks: BLOCKS, ..EngineConfig::default() },
        };
        let mac = site.public_link.mac;
        let device = Forwarder::new(site, limits)?;
        let mut world = World::new(outside, inside, mac, random.next());
        let path = inner_path(&mut random);
        world.add(
            Side::Private,
            ground.node_host(random.next()),
            Box::new(Server::new(PORT, 24, 1 << 16)),
            path,
        );
        let mut run = Run { world, device, random, orders: Vec::new() };
        run.populate(&ground);
        Ok(run)
    }

    fn populate(&mut self, ground: &Ground) {
        let hostile = self.random.chance(500_000);
        if hostile {
            let schedule =
                Schedule { from: Instant::ZERO, until: Instant::from_millis(5_000), per_second: 200 };
            let mut random = self.random.branch("floods");
            self.world.add_source(Box::new(SynFlood::new(ground.service, schedule, random.branch("syn"))));
            self.world.add_source(Box::new(AckFlood::new(ground.service, schedule, random.branch("ack"))));
        }
        let path = outer_path(&mut self.random);
        for number in 0..self.random.between(1, 9) as u32 {
            let (order, manner) = self.plan(number);
            let mut host = Host::new(peer_place(ground, number, &mut self.random), self.world.now());
            let buffer = 1 << self.random.between(12, 18);
            let timestamps = self.random.chance(500_000);
            let port = self.random.between(1_024, 65_536) as u16;
            let service = (ground.service.ip(), ground.service.port());
            if host.connect(socket(buffer, buffer, timestamps), service, port) {
                self.world.add(Side::Public, host, Box::new(Peer::new(order, manner)), path);
                self.orders.push((order, manner));
            }
        }
    }

    fn plan(&mut self, number: u32) -> (Order, Manner) {
        let random = &mut self.random;
        let size = |random: &mut Random| match random.below(4) {
            0 => random.below(3) as u32,
            1 => random.below(3_000) as u32,
            2 => random.below(60_000) as u32,
            _ => random.below(400_000) as u32,
        };
        let (up, down) = (size(random), size(random));
        let server_pause = if random.chance(100_000) { random.between(1, 40) as u32 } else { 0 };
        let seed = (random.next() as u32) << 8 | number;
        let manner = match random.below(10) {
            0..=5 => Manner::Polite,
            6 | 7 => Manner::ReadsFirst,
            8 => Manner::Slow(random.between(1, 30) as u32),
            _ => Manner::Breaks(random.below(u64::from(up) + 1) as u32),
        };
        (Order { seed, up, down, server_pause }, manner)
    }

    fn go(&mut self) -> Result<Report, String> {
        let end = Instant::ZERO + PATIENCE;
        let mut report = Report {
            whole: 0,
            broken: 0,
            bytes: 0,
            traffic: Traffic::default(),
            retransmissions: 0,
            overtaken: 0,
            fingerprint: String::new(),
        };
        let mut left = self.orders.len();
        while left > 0 && self.world.now() < end {
            self.world.run_until(self.world.now() + Duration::from_millis(500), &mut self.device);
            for note in std::mem::take(&mut self.world.notes) {
                left -= usize::from(account(&mut report, note)?);
            }
            self.check_limits()?;
        }
        if left > 0 {
            return Err(format!("{left} of {} peers not done after {PATIENCE:?}", self.orders.len()));
        }
        self.check_rest()?;
        report.traffic = self.world.traffic();
        let counted = self.device.sample().dataplane;
        report.retransmissions = counted.retransmissions;
        report.overtaken = counted.reasons[Reason::Overtaken];
        report.fingerprint = self.world.fingerprint();
        Ok(report)
    }

    fn check_limits(&self) -> Result<(), String> {
        let now = self.device.sample().dataplane;
        if now.flows > FLOWS {
            return Err(format!("{} flows, {FLOWS} allowed", now.flows));
        }
        if now.buffer_bytes > BLOCKS * BLOCK {
            return Err(format!("{} bytes of buffers, {} allowed", now.buffer_bytes, BLOCKS * BLOCK));
        }
        Ok(())
    }

    /// Once everybody has gone and timers have run out, nothing is held any more.
    fn check_rest(&mut self) -> Result<(), String> {
        self.world.run_until(self.world.now() + REST, &mut self.device);
        for note in std::mem::take(&mut self.world.notes) {
            if let Note::Corrupted(..) | Note::Surplus(..) = note {
                return Err(format!("{note:?}"));
            }
        }
        let rest = self.device.sample();
        let (flows, bytes) = (rest.dataplane.flows, rest.dataplane.buffer_bytes);
        if flows + bytes + rest.sessions > 0 {
            return Err(format!("{flows} flows, {} pairs and {bytes} bytes left over", rest.sessions));
        }
        Ok(())
    }
}

/// Enters what happened into the report; says whether a peer is done.
fn account(report: &mut Report, note: Note) -> Result<bool, String> {
    match note {
        Note::PeerDone(order) => {
            report.whole += 1;
            report.bytes += u64::from(order.up) + u64::from(order.down);
            Ok(true)
        }
        Note::PeerBroke(_) => {
            report.broken += 1;
            Ok(true)
        }
        Note::ServerDone(_) => Ok(false),
        bad => Err(format!("{bad:?}")),
    }
}

fn outer_path(random: &mut Random) -> Path {
    let delay = Duration::from_micros(random.between(50, 60_000));
    let path = match random.below(4) {
        0 => Path::clean(delay),
        1 => Path { loss: random.below(20_000) as u32, ..Path::clean(delay) },
        _ => Path {
            jitter: Duration::from_micros(random.below(20_000)),
            loss: random.below(40_000) as u32,
            duplicate: random.below(20_000) as u32,
            corrupt: random.below(10_000) as u32,
            ..Path::clean(delay)
        },
    };
    match random.chance(200_000) {
        true => Path { mtu: random.between(1_280, 1_500) as usize, ..path },
        false => path,
    }
}

fn inner_path(random: &mut Random) -> Path {
    let delay = Duration::from_micros(random.between(20, 2_000));
    let loss = if random.chance(250_000) { random.below(10_000) as u32 } else { 0 };
    Path { loss, ..Path::clean(delay) }
}

fn peer_place(ground: &Ground, number: u32, random: &mut Random) -> Place {
    let [a, b, c, d] = number.to_be_bytes();
    let mac = Mac([2, 0x70, a, b, c, d]);
    let (address, prefix, gateway): (IpAddr, u8, IpAddr) = if ground.service.is_ipv4() {
        let address = Ipv4Addr::new(81, 10 + d, random.below(200) as u8, 7);
        (address.into(), 24, Ipv4Addr::new(81, 10 + d, address.octets()[2], 1).into())
    } else {
        let net = 0x4000 + number as u16;
        let address = Ipv6Addr::new(0x2a00, 0x1450, net, 0, 0, 0, 0, 7);
        (address.into(), 64, Ipv6Addr::new(0x2a00, 0x1450, net, 0, 0, 0, 0, 1).into())
    };
    let mtu = [1_500, 1_500, 1_492, 1_400, 1_280][random.below(5) as usize];
    Place { mac, address, prefix, gateway, mtu, seed: random.next() }
}
