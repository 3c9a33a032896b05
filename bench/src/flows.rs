//! Figures of a shard that holds many flows: `flow-scale` (what a frame to a known flow costs when there are a million of
//! them) and `flow-bytes` (what an idle one takes).
//!
//! Peers are made by hand: frames without a stack behind them, built outside of what is timed.

use std::hint::black_box;
use std::process::Command;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::frame::{BATCH, Batch, Checksum, Meta, Pool, Port};
use hedgerow_dataplane::shard::{Accept, Event, FlowId, Shard, Standing};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_port::Memory;

use crate::world::{BOX, HEADERS, LINK, PEER, SERVICE, Way, segment, shard_with, wire};
use crate::{Figure, processor_time};

/// Bytes of payload in a frame to a known flow.
const PAYLOAD: usize = 32;
const SYN: u8 = 2;
const ACK: u8 = 16;
const PSH: u8 = 8;
/// Handshakes that may be in flight.
const HANDSHAKES: u32 = 1_024;
/// Each flow is sent a frame so often, on average, however many there are: its timers do the same work.
const FLOW_US: u64 = 800_000;

/// A shard with flows from peers that do not exist.
pub struct Crowd {
    shard: Shard,
    port: Memory,
    /// By number of the peer: what it sends next, and what it acknowledges.
    numbers: Vec<(u32, u32)>,
    rx: Batch,
    tx: Batch,
    now: u64,
}

impl Crowd {
    /// `count` idle flows of peers that have proved who they are, each from an address of its own.
    pub fn new(count: usize) -> Self {
        let (port, _) = wire();
        // Room for handshakes is kept beside that for those who have finished.
        let room = count + 2 * HANDSHAKES as usize;
        let limits = Limits {
            flows: room as u32,
            per_16_percent: 100,
            per_listener: u32::MAX,
            friends_percent: 0,
            known_percent: 0,
            handshakes_in_flight: HANDSHAKES,
            handshake_longest: Duration::from_secs(3_600),
            handshake_shortest: Duration::from_secs(3_600),
            ..Limits::default()
        };
        let engine = EngineConfig { flows: room, time_waits: 16, ..EngineConfig::default() };
        let shard = shard_with(BOX, port.abilities(), Accept::Handshake, limits, engine);
        let numbers = vec![(1, 0); count];
        let mut crowd = Crowd { shard, port, numbers, rx: Batch::new(), tx: Batch::new(), now: 1_000_000 };
        for first in (0..count).step_by(BATCH) {
            crowd.open(first..count.min(first + BATCH));
        }
        let flows = crowd.shard.statistics().flows;
        assert_eq!(flows, count, "every peer has its flow");
        crowd
    }

    fn open(&mut self, peers: std::ops::Range<usize>) {
        for peer in peers.clone() {
            self.push(peer, SYN, &[]);
        }
        self.ingest();
        for (answered, peer) in peers.clone().enumerate() {
            let (frame, _) = &self.tx.as_slice()[answered];
            let bytes = self.port.bytes(frame);
            let iss = u32::from_be_bytes([bytes[38], bytes[39], bytes[40], bytes[41]]);
            self.numbers[peer] = (2, iss.wrapping_add(1));
        }
        self.drop_sent();
        for peer in peers {
            self.push(peer, ACK, &[]);
        }
        self.ingest();
        self.drop_sent();
        while let Some(event) = self.shard.event(Instant::from_micros(self.now)) {
            if let Event::Accepted(id, _) = event {
                self.shard.standing(Instant::from_micros(self.now), id, Standing::Proven);
            }
        }
    }

    /// Puts a frame of a peer into the batch.
    fn push(&mut self, peer: usize, flags: u8, payload: &[u8]) {
        let (seq, ack) = self.numbers[peer];
        let Some(mut frame) = self.port.allocate() else { return };
        self.port.resize(&mut frame, HEADERS + payload.len());
        segment(self.port.bytes_mut(&mut frame), &way(peer as u32), (seq, ack), flags, payload);
        let meta = Meta { checksum: Checksum::Verified, ..Meta::default() };
        // The caller pushes no more than a batch.
        let _ = self.rx.push(frame, meta);
    }

    fn ingest(&mut self) {
        self.now += FLOW_US * BATCH as u64 / self.numbers.len() as u64;
        let now = Instant::from_micros(self.now);
        self.shard.ingest(now, LINK, &mut self.port, &mut self.rx, &mut self.tx);
    }

    fn drop_sent(&mut self) {
        for (frame, _) in self.tx.drain(BATCH) {
            black_box(self.port.bytes(&frame));
            self.port.release(frame);
        }
    }

    /// One batch to flows all over the table: taken in, read, acknowledged, timers run.
    fn batch(&mut self, draw: &mut u64) -> Duration {
        let count = self.numbers.len();
        for _ in 0..BATCH {
            *draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let peer = ((u128::from(*draw) * count as u128) >> 64) as usize;
            self.push(peer, ACK | PSH, &[7; PAYLOAD]);
            self.numbers[peer].0 = self.numbers[peer].0.wrapping_add(PAYLOAD as u32);
        }
        let start = processor_time();
        self.ingest();
        let now = Instant::from_micros(self.now);
        while let Some(event) = self.shard.event(now) {
            if let Event::Readable(id) = event {
                read(&mut self.shard, id);
            }
        }
        if self.shard.deadline().is_some_and(|at| at <= now) {
            self.shard.advance(now);
        }
        self.shard.transmit(now, LINK, &mut self.port, &mut self.tx, BATCH);
        let spent = processor_time() - start;
        self.drop_sent();
        spent
    }

    /// Millions of frames a second, over `batches` batches.
    fn rate(&mut self, batches: usize) -> f64 {
        let mut draw = self.now;
        let spent: Duration = (0..batches).map(|_| self.batch(&mut draw)).sum();
        (batches * BATCH) as f64 / spent.as_secs_f64() / 1e6
    }
}

fn read(shard: &mut Shard, id: FlowId) {
    if let Some(mut flow) = shard.flow(id) {
        let length = black_box(flow.peek()).len();
        flow.consume(length);
    }
}

/// What a peer's segments carry: its number is its address, in a /24 of its own, from 16.0.0.0 up.
fn way(peer: u32) -> Way {
    Way {
        source_mac: PEER.1,
        destination_mac: BOX.1,
        source: (0x1000_0001 + (peer << 8), 40_000),
        destination: (u32::from_be_bytes(BOX.0), SERVICE),
    }
}

/// `flow-scale`.
pub struct FlowScale {
    many: Crowd,
    few: Crowd,
    batches: usize,
}

impl FlowScale {
    /// A million flows against a thousand.
    pub fn new(quick: bool) -> Self {
        let (many, few) = (Crowd::new(1_000_000), Crowd::new(1_000));
        FlowScale { many, few, batches: if quick { 2_000 } else { 10_000 } }
    }
}

impl Figure for FlowScale {
    fn name(&self) -> &'static str {
        "flow-scale"
    }

    fn unit(&self) -> &'static str {
        "M frames/s"
    }

    fn peer(&self) -> &'static str {
        "the same with 1,000 flows"
    }

    fn bar(&self) -> f64 {
        0.5
    }

    fn note(&self) -> String {
        format!("{PAYLOAD} bytes to random ones of 1,000,000 flows, read, acknowledged, timers run")
    }

    fn ours(&mut self) -> f64 {
        self.many.rate(self.batches)
    }

    fn theirs(&mut self) -> f64 {
        self.few.rate(self.batches)
    }
}

/// `flow-bytes`.
pub struct FlowBytes {
    flows: usize,
}

impl FlowBytes {
    /// Over half a million flows, or fewer.
    pub fn new(quick: bool) -> Self {
        FlowBytes { flows: if quick { 120_000 } else { 500_000 } }
    }
}

/// The promise: bytes that an idle flow takes at most.
const PROMISED: f64 = 512.0;

impl Figure for FlowBytes {
    fn name(&self) -> &'static str {
        "flow-bytes"
    }

    fn unit(&self) -> &'static str {
        "flows/MiB"
    }

    fn peer(&self) -> &'static str {
        "512 bytes each"
    }

    fn bar(&self) -> f64 {
        1.0
    }

    fn note(&self) -> String {
        format!(
            "growth of resident memory by {} idle flows of as many addresses, all tables of a shard in it",
            self.flows
        )
    }

    /// In a process of its own, whose memory nothing has used before.
    fn ours(&mut self) -> f64 {
        let argument = [CHILD.to_owned(), self.flows.to_string()];
        let child = std::env::current_exe().and_then(|own| Command::new(own).args(argument).output());
        let said = child.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let bytes = said.ok().and_then(|text| text.trim().parse::<f64>().ok());
        bytes.map_or(0.0, |bytes| f64::from(1 << 20) / bytes)
    }

    fn theirs(&mut self) -> f64 {
        f64::from(1 << 20) / PROMISED
    }
}

/// The argument that makes this program say [`bytes_per_flow`] and end.
pub const CHILD: &str = "--bytes-per-flow";

/// Growth of this process's resident memory per idle flow, in bytes, beyond what a shard takes that has hardly any: ports,
/// sketches and the like do not grow with flows.
pub fn bytes_per_flow(flows: usize) -> f64 {
    let grown = |flows| {
        let before = resident();
        let crowd = Crowd::new(flows);
        let own = std::mem::size_of_val(crowd.numbers.as_slice());
        let grown = resident().saturating_sub(before + own);
        // Kept, or the next one would find its memory.
        std::mem::forget(crowd);
        grown
    };
    let empty = grown(BATCH);
    grown(flows).saturating_sub(empty) as f64 / flows as f64
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.as_deref().and_then(|text| text.split(' ').nth(1)).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0usize) * rustix::param::page_size()
}
