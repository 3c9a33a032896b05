//! `connect-memory`: connections through a plain TCP proxy, a whole core over memory ports, with peers and a node that are
//! made by hand, outside of what is timed.
//!
//! Each connection is opened, carries sixteen bytes to the node and sixteen back, and is closed by the client: ten frames
//! for the core to take in and as many to send.

use std::time::Duration;

use hedgerow::commons::Commons;
use hedgerow::core::{Core, CoreConfig};
use hedgerow::pool::{NodeConfig, PoolConfig};
use hedgerow::sessions::{Factory, Kind};
use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::frame::{Checksum, Meta, Port};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{Accept, Config, Listener, ShardIndex, ShardLink, Target};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{Address, LinkId, Mac};
use hedgerow_policy::relay;
use hedgerow_port::{Memory, MemoryConfig};

use crate::world::{BOX, HEADERS, PEER, SERVICE, Way, segment};
use crate::{Figure, processor_time};

const INSIDE: ([u8; 4], [u8; 6]) = ([10, 2, 0, 1], [2, 0, 0, 0, 0, 3]);
/// The nodes' one Ethernet address; they have addresses of their own, from 10.2.0.16 up.
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];
const NODES: usize = 32;
/// Connections that begin in one turn, and so a quarter of those under way.
const WAVE: u32 = 64;
/// Time between turns.
const TURN_US: u64 = 200;
const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 16;
const DATA: [u8; 16] = [0x42; 16];
/// The promise, in connections a second.
const PROMISED: f64 = 200_000.0;

/// What stands in a frame that the core sent.
struct Seen {
    source: (u32, u16),
    destination: (u32, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    payload: u32,
}

impl Seen {
    /// `None` for what is not TCP over IPv4: nothing else is expected here.
    fn read(bytes: &[u8]) -> Option<Seen> {
        let word = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..at + 4)?.first_chunk()?));
        let half = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..at + 2)?.first_chunk()?));
        if bytes.get(12..14)? != [8, 0] || *bytes.get(23)? != 6 {
            return None;
        }
        let headers = 20 + u32::from(*bytes.get(46)? >> 4) * 4;
        Some(Seen {
            source: (word(26)?, half(34)?),
            destination: (word(30)?, half(36)?),
            seq: word(38)?,
            ack: word(42)?,
            flags: *bytes.get(47)?,
            payload: u32::from(half(16)?).checked_sub(headers)?,
        })
    }

    /// Sends an answer from where the frame went.
    fn answer(&self, port: &mut Memory, macs: [[u8; 6]; 2], numbers: (u32, u32), flags: u8, payload: &[u8]) {
        let [source_mac, destination_mac] = macs;
        let way = Way { source_mac, destination_mac, source: self.destination, destination: self.source };
        send(port, &way, numbers, flags, payload);
    }
}

/// The nodes' answer to a request of ARP for one of them.
fn arp_answer(bytes: &[u8]) -> Option<[u8; 60]> {
    let request = bytes.get(12..42).filter(|bytes| bytes[..2] == [8, 6] && bytes[8..10] == [0, 1])?;
    let mut answer = [0; 60];
    answer[..6].copy_from_slice(&INSIDE.1);
    answer[6..12].copy_from_slice(&NODE_MAC);
    answer[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    answer[22..28].copy_from_slice(&NODE_MAC);
    answer[28..32].copy_from_slice(&request[26..30]);
    answer[32..38].copy_from_slice(&INSIDE.1);
    answer[38..42].copy_from_slice(&INSIDE.0);
    Some(answer)
}

fn send(port: &mut Memory, way: &Way, numbers: (u32, u32), flags: u8, payload: &[u8]) {
    let mut frame = [0; HEADERS + DATA.len()];
    let frame = &mut frame[..HEADERS + payload.len()];
    segment(frame, way, numbers, flags, payload);
    port.send(frame, Meta { checksum: Checksum::Verified, ..Meta::default() });
}

/// The core and the other ends of its wires.
pub struct Connects {
    core: Core<Memory>,
    outer: Memory,
    inner: Memory,
    begun: u32,
    served: u32,
    now: u64,
    connections: u32,
    seen: Vec<Seen>,
}

impl Connects {
    /// Rounds of so many connections.
    pub fn new(connections: u32) -> Self {
        let wire =
            |mac| MemoryConfig { mac: Mac(mac), frames: 2_048, queue: 2_048, ..MemoryConfig::default() };
        let (outer, public) = Memory::pair(wire(PEER.1), wire(BOX.1));
        let (private, inner) = Memory::pair(wire(INSIDE.1), wire(NODE_MAC));
        let config = config(&public, &private);
        let now = Instant::from_micros(1_000_000);
        let factory = Factory::new(vec![Kind::Relay(relay::Config::default())], 1);
        let commons = Commons::alone(&config, now);
        let core = Core::new(&config, commons, vec![public, private], Box::new(factory), now);
        Connects { core, outer, inner, begun: 0, served: 0, now: 1_000_000, connections, seen: vec![] }
    }

    /// New clients, each from an address of its own.
    fn begin(&mut self, count: u32) {
        for number in self.begun..self.begun + count {
            let way = Way {
                source_mac: PEER.1,
                destination_mac: BOX.1,
                source: (0x1000_0001 + ((number & 0x3f_ffff) << 8), 20_000 + (number >> 22) as u16),
                destination: (u32::from_be_bytes(BOX.0), SERVICE),
            };
            send(&mut self.outer, &way, (number, 0), SYN, &[]);
        }
        self.begun += count;
    }

    /// One step of the core, which is all that is timed, and the others' answers.
    fn turn(&mut self) -> Duration {
        self.now += TURN_US;
        let start = processor_time();
        // Each takes one batch from a port.
        for _ in 0..6 {
            // Memory ports do not fail.
            let _ = self.core.step(Instant::from_micros(self.now), 1_800_000_000_000 + self.now / 1_000);
        }
        let spent = processor_time() - start;
        self.clients();
        self.nodes();
        spent
    }

    fn clients(&mut self) {
        let mut seen = std::mem::take(&mut self.seen);
        self.outer.take(|bytes, _| seen.extend(Seen::read(bytes)));
        for frame in seen.drain(..) {
            let macs = [PEER.1, BOX.1];
            let after = frame.seq.wrapping_add(frame.payload);
            match (frame.flags & SYN != 0, frame.payload > 0, frame.flags & FIN != 0) {
                (true, ..) => {
                    frame.answer(&mut self.outer, macs, (frame.ack, frame.seq.wrapping_add(1)), ACK, &DATA)
                }
                (_, true, _) => frame.answer(&mut self.outer, macs, (frame.ack, after), ACK | FIN, &[]),
                (_, _, true) => {
                    frame.answer(&mut self.outer, macs, (frame.ack, after.wrapping_add(1)), ACK, &[]);
                    self.served += 1;
                }
                _ => {}
            }
        }
        self.seen = seen;
    }

    fn nodes(&mut self) {
        let mut seen = std::mem::take(&mut self.seen);
        let mut asked = vec![];
        self.inner.take(|bytes, _| {
            seen.extend(Seen::read(bytes));
            asked.extend(arp_answer(bytes));
        });
        for answer in asked {
            self.inner.send(&answer, Meta::default());
        }
        for frame in seen.drain(..) {
            let macs = [NODE_MAC, INSIDE.1];
            let after = frame.seq.wrapping_add(frame.payload);
            match (frame.flags & SYN != 0, frame.payload > 0, frame.flags & FIN != 0) {
                (true, ..) => {
                    frame.answer(&mut self.inner, macs, (9_000, frame.seq.wrapping_add(1)), SYN | ACK, &[]);
                }
                (_, true, _) => frame.answer(&mut self.inner, macs, (frame.ack, after), ACK, &DATA),
                (_, _, true) => {
                    frame.answer(&mut self.inner, macs, (frame.ack, after.wrapping_add(1)), ACK | FIN, &[]);
                }
                _ => {}
            }
        }
        self.seen = seen;
    }
}

fn config(public: &Memory, private: &Memory) -> CoreConfig {
    let link = |port: &Memory, address| {
        let addresses = vec![Prefix { address: Address::from_v4(address), length: 24 }];
        let gateways = vec![Address::from_v4(PEER.0)].into_iter().filter(|_| address == BOX.0).collect();
        let config = LinkConfig { addresses, gateways, claiming: Claiming::Silent, ..LinkConfig::default() };
        ShardLink::new(config, port.abilities())
    };
    let flows = 4_096;
    let node = |number: usize| {
        let address = Address::from_v4([10, 2, 0, 16 + number as u8]);
        NodeConfig::new(format!("node {number}"), Target { link: LinkId(1), address, port: SERVICE })
    };
    CoreConfig {
        shard: Config {
            links: vec![link(public, BOX.0), link(private, INSIDE.0)],
            listeners: vec![Listener {
                link: LinkId(0),
                address: None,
                port: SERVICE,
                accept: Accept::Handshake,
            }],
            admit: Limits {
                flows: flows as u32,
                per_16_percent: 100,
                handshakes_in_flight: 1_024,
                ..Limits::default()
            },
            engine: EngineConfig { flows, ..EngineConfig::default() },
            screen: ScreenConfig { replies_per_second: u32::MAX, ..ScreenConfig::default() },
            cookie_secret: Master([7; 32]),
            seed: [3; 32],
            index: ShardIndex::default(),
            exchange: None,
            egress: None,
        },
        listener_pools: vec![0],
        errands: Vec::new(),
        pools: vec![PoolConfig {
            name: "nodes".into(),
            nodes: (0..NODES).map(node).collect(),
            transparent: false,
            dials_per_second: 1_000_000,
            dial_timeout: Duration::from_secs(2),
            slots: flows,
            ..PoolConfig::default()
        }],
        own_nodes: vec![],
        work_queue: 64,
        events: 64,
    }
}

impl Figure for Connects {
    fn name(&self) -> &'static str {
        "connect-memory"
    }

    fn unit(&self) -> &'static str {
        "connections/s"
    }

    fn peer(&self) -> &'static str {
        "200 k/s"
    }

    fn bar(&self) -> f64 {
        1.0
    }

    fn note(&self) -> String {
        format!(
            "one core, {} connections through a TCP proxy, 16 bytes each way, closed in order",
            self.connections
        )
    }

    fn ours(&mut self) -> f64 {
        let (begun, served) = (self.begun, self.served);
        let mut spent = Duration::ZERO;
        let mut idle = 0;
        while self.served - served < self.connections && idle < 1_000 {
            let before = self.served;
            if self.begun - begun < self.connections && self.begun - self.served < 4 * WAVE {
                self.begin(WAVE);
            }
            spent += self.turn();
            idle = if self.served > before { 0 } else { idle + 1 };
        }
        f64::from(self.served - served) / spent.as_secs_f64()
    }

    fn theirs(&mut self) -> f64 {
        PROMISED
    }
}
