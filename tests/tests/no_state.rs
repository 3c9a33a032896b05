//! Promises 1 and 9 at the shard: floods from addresses that prove nothing grow no memory, allocate nothing on the frame
//! path, and get no more frames or bytes back than they sent.

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::frame::{BATCH, Batch, Lane, Meta, Port};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{Accept, Config, Listener, Shard, ShardIndex, ShardLink, Statistics};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{
    self, Address, BuildRules, Flags, FlowKey, LinkId, Mac, Options, Outgoing, Seq,
};
use hedgerow_port::{Memory, MemoryConfig};

const LINK: LinkId = LinkId(0);
const SERVICE: u16 = 8444;
const OURS: [u8; 4] = [198, 51, 100, 1];
const OURS_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const BOX_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const WORLD_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// A small generator (splitmix64): floods need no better one, and the same seed makes the same frames.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A flood: writes one frame into `space`, says its length.
type Flood = fn(&mut Random, &mut [u8]) -> usize;

const FLOODS: &[(&str, Flood)] = &[
    ("syn", |r, space| segment(r, space, Flags::SYN, 0)),
    ("syn without options", |r, space| bare_syn(r, space)),
    ("syn with data", |r, space| segment(r, space, Flags::SYN, 200)),
    ("ack", |r, space| segment(r, space, Flags::ACK, 0)),
    ("data", |r, space| segment(r, space, Flags::ACK.with(Flags::PSH), 517)),
    ("fin", |r, space| segment(r, space, Flags::FIN.with(Flags::ACK), 0)),
    ("rst", |r, space| segment(r, space, Flags::RST, 0)),
    ("syn-ack", |r, space| segment(r, space, Flags::SYN.with(Flags::ACK), 0)),
    ("other port", other_port),
    ("noise", noise),
    ("broken syn", broken),
    ("ping", ping),
    ("arp", arp),
];

fn key(random: &mut Random) -> FlowKey {
    let bits = random.next();
    let (local, remote) = if bits & 1 == 0 {
        let b = random.next().to_be_bytes();
        // Unicast sources outside our own network.
        (Address::from_v4(OURS), Address::from_v4([1 + b[0] % 100, b[1], b[2], b[3]]))
    } else {
        let mut source = [0x20, 1, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        source[4..12].copy_from_slice(&random.next().to_be_bytes());
        (Address::from_v6(OURS_V6), Address::from_v6(source))
    };
    let remote_port = 1 + (bits >> 16) as u16 % u16::MAX;
    FlowKey { local: remote, remote: local, local_port: remote_port, remote_port: SERVICE }
}

fn build(
    random: &mut Random,
    space: &mut [u8],
    flags: Flags,
    options: Options,
    payload: usize,
    port: u16,
) -> usize {
    const HELLO: [u8; 517] = {
        let mut hello = [0; 517];
        hello[0] = 22;
        hello[1] = 3;
        hello[2] = 1;
        hello[3] = 2;
        hello[5] = 1;
        hello
    };
    let outgoing = Outgoing {
        key: FlowKey { remote_port: port, ..key(random) },
        link: LINK,
        hop: None,
        seq: Seq(random.next() as u32),
        ack: Seq(random.next() as u32),
        flags,
        window: 64_240,
        options,
        payload: [&HELLO[..payload], &[]].into(),
        segment: 0,
    };
    wire::build_tcp(space, &outgoing, WORLD_MAC, BOX_MAC, &BuildRules::default()).expect("it fits").len
}

fn segment(random: &mut Random, space: &mut [u8], flags: Flags, payload: usize) -> usize {
    let timestamps = (random.next().is_multiple_of(2)).then(|| (random.next() as u32, random.next() as u32));
    let mut options = Options { timestamps, ..Options::default() };
    if flags == Flags::SYN {
        options = Options { mss: Some(1460), window_scale: Some(7), sack_permitted: true, ..options };
    }
    build(random, space, flags, options, payload, SERVICE)
}

fn bare_syn(random: &mut Random, space: &mut [u8]) -> usize {
    build(random, space, Flags::SYN, Options::default(), 0, SERVICE)
}

fn other_port(random: &mut Random, space: &mut [u8]) -> usize {
    let port = 1 + random.next() as u16 % 8_000;
    build(random, space, Flags::SYN, Options::default(), 0, port)
}

fn noise(random: &mut Random, space: &mut [u8]) -> usize {
    let len = random.next() as usize % 200;
    for byte in &mut space[..len] {
        *byte = random.next() as u8;
    }
    if len >= 14 && !random.next().is_multiple_of(4) {
        space[..6].copy_from_slice(&BOX_MAC.0);
        space[6..12].copy_from_slice(&WORLD_MAC.0);
        let types: [[u8; 2]; 4] = [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]];
        space[12..14].copy_from_slice(&types[random.next() as usize % 4]);
    }
    len
}

fn broken(random: &mut Random, space: &mut [u8]) -> usize {
    let len = segment(random, space, Flags::SYN, 0);
    for _ in 0..1 + random.next() % 4 {
        let at = 12 + random.next() as usize % (len - 12);
        space[at] ^= 1 << (random.next() % 8);
    }
    len
}

fn ping(random: &mut Random, space: &mut [u8]) -> usize {
    let mut header = [0x45, 0, 0, 28, 0, 1, 0x40, 0, 64, 1, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0];
    header[12..16].copy_from_slice(&(0x0900_0000 | random.next() as u32 >> 8).to_be_bytes());
    header[16..20].copy_from_slice(&OURS);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let mut echo = [8, 0, 0, 0, 0, 1, 0, 0];
    echo[6..8].copy_from_slice(&(random.next() as u16).to_be_bytes());
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum);
    frame(space, [8, 0], &[&header, &echo])
}

fn arp(random: &mut Random, space: &mut [u8]) -> usize {
    let mut request =
        [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 198, 51, 100, 9, 0, 0, 0, 0, 0, 0, 198, 51, 100, 1];
    request[17] = random.next() as u8 | 2;
    frame(space, [8, 6], &[&request])
}

fn frame(space: &mut [u8], ethertype: [u8; 2], parts: &[&[u8]]) -> usize {
    space[..6].copy_from_slice(&BOX_MAC.0);
    space[6..12].copy_from_slice(&WORLD_MAC.0);
    space[12..14].copy_from_slice(&ethertype);
    let mut at = 14;
    for part in parts {
        space[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    at
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// A shard with a listener, behind one end of a memory wire; the flood sits at the other.
struct Bench {
    shard: Shard,
    port: Memory,
    outside: Memory,
    rx: Batch,
    tx: Batch,
    now: u64,
    sent: (u64, u64),
    back: (u64, u64),
}

impl Bench {
    fn new(accept: Accept) -> Self {
        let memory = |mac| MemoryConfig { mac, queue: 256, ..MemoryConfig::default() };
        let (port, outside) = Memory::pair(memory(BOX_MAC), memory(WORLD_MAC));
        let addresses = vec![
            Prefix { address: Address::from_v4(OURS), length: 24 },
            Prefix { address: Address::from_v6(OURS_V6), length: 64 },
        ];
        let gateways = vec![Address::from_v4([198, 51, 100, 2])];
        let link = LinkConfig { addresses, gateways, claiming: Claiming::Silent, ..LinkConfig::default() };
        let config = Config {
            links: vec![ShardLink::new(link, port.abilities())],
            listeners: vec![Listener { link: LINK, address: None, port: SERVICE, accept }],
            admit: Limits::default(),
            engine: EngineConfig { flows: 1_024, ..EngineConfig::default() },
            screen: ScreenConfig::default(),
            cookie_secret: Master([3; 32]),
            seed: [4; 32],
            index: ShardIndex::default(),
            exchange: None,
            egress: None,
        };
        let mut shard = Shard::new(&config, Instant::ZERO);
        shard.set_utc(Instant::ZERO, 1_800_000_000_000);
        let (rx, tx) = (Batch::new(), Batch::new());
        Bench { shard, port, outside, rx, tx, now: 1_000, sent: (0, 0), back: (0, 0) }
    }

    /// Sends `batches` batches of a flood through the shard and takes the answers.
    fn flood(&mut self, random: &mut Random, flood: Flood, batches: usize) {
        let mut space = [0; 1_514];
        for _ in 0..batches {
            for _ in 0..BATCH {
                let len = flood(random, &mut space);
                assert!(self.outside.send(&space[..len], Meta::default()), "the wire has room for a batch");
                self.sent = (self.sent.0 + 1, self.sent.1 + len as u64);
            }
            self.step();
        }
    }

    fn step(&mut self) {
        self.now += 100;
        let now = Instant::from_micros(self.now);
        self.port.receive(Lane::Stranger, &mut self.rx).expect("memory does not fail");
        self.shard.ingest(now, LINK, &mut self.port, &mut self.rx, &mut self.tx);
        if self.shard.deadline().is_some_and(|at| at <= now) {
            self.shard.advance(now);
        }
        self.port.transmit(&mut self.tx).expect("memory does not fail");
        let back = &mut self.back;
        self.outside.take(|bytes, _| *back = (back.0 + 1, back.1 + bytes.len() as u64));
        assert!(self.shard.event(now).is_none(), "a flood causes no event");
    }
}

fn holds_nothing(name: &str, statistics: &Statistics) {
    assert_eq!(statistics.flows, 0, "{name}: flows");
    assert_eq!(statistics.flows_peak, 0, "{name}: flows at any time");
    assert_eq!(statistics.stranger_bytes, 0, "{name}: bytes held for strangers");
    assert_eq!(statistics.buffer_bytes_peak, 0, "{name}: buffer memory");
}

#[test]
fn floods_grow_nothing_and_get_back_no_more_than_they_sent() {
    for accept in [Accept::ClientHello, Accept::Handshake] {
        for (name, flood) in FLOODS {
            let mut bench = Bench::new(accept);
            bench.flood(&mut Random(1), *flood, 200);
            let statistics = bench.shard.statistics();
            holds_nothing(name, &statistics);
            assert_eq!(statistics.frames_in, bench.sent.0, "{name}: every frame was looked at");
            assert!(bench.back.0 <= bench.sent.0, "{name}: frames back");
            assert!(bench.back.1 <= bench.sent.1, "{name}: bytes back");
            let explained = statistics.reasons.total() + bench.back.0;
            assert!(explained >= bench.sent.0, "{name}: {explained} of {} frames explained", bench.sent.0);
        }
    }
}

#[test]
fn the_frame_path_does_not_allocate() {
    for (name, flood) in FLOODS {
        let mut bench = Bench::new(Accept::ClientHello);
        let mut random = Random(2);
        bench.flood(&mut random, *flood, 8); // whatever is lazily set up, is now
        let counted = allocation_counter::measure(|| bench.flood(&mut random, *flood, 100));
        assert_eq!(counted.count_total, 0, "{name}: {counted:?}");
    }
}

#[test]
fn answers_to_one_prefix_are_capped() {
    let mut bench = Bench::new(Accept::ClientHello);
    let from_one_prefix: Flood = |random, space| {
        let source = [203, 0, 113, random.next() as u8];
        let outgoing = Outgoing {
            key: FlowKey {
                local: Address::from_v4(source),
                remote: Address::from_v4(OURS),
                local_port: 1_024 + random.next() as u16 % 60_000,
                remote_port: SERVICE,
            },
            link: LINK,
            hop: None,
            seq: Seq(random.next() as u32),
            ack: Seq(0),
            flags: Flags::SYN,
            window: 1_024,
            options: Options::default(),
            payload: Default::default(),
            segment: 0,
        };
        let built = wire::build_tcp(space, &outgoing, WORLD_MAC, BOX_MAC, &BuildRules::default());
        built.expect("it fits").len
    };
    bench.flood(&mut Random(3), from_one_prefix, 200);
    let limit = u64::from(ScreenConfig::default().replies_per_second);
    assert!(bench.back.0 <= 3 * limit, "{} answers within {} us", bench.back.0, bench.now);
    let capped = bench.shard.statistics().reasons[hedgerow_dataplane::Reason::ReplyCap];
    assert_eq!(capped + bench.back.0, bench.sent.0, "every frame is either answered or counted");
}
