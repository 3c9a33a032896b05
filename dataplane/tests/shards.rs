//! Several shards of one box, whose device gives each frame to any of them: the worst that a network card can do. Peers
//! and a node are boxes of one shard.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::frame::{Abilities, BATCH, Batch, Frame, Meta, Pool};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{
    Accept, Config, Event, Exchange, ExchangeConfig, FlowId, Listener, Shard, ShardIndex, ShardLink, Source,
    Standing, Target,
};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{Address, LinkId, Mac};
use hedgerow_dataplane::{Instant, Reason};
use proptest::prelude::*;

const PUBLIC: LinkId = LinkId(0);
const PRIVATE: LinkId = LinkId(1);
const PORT: u16 = 8444;
const SLOT: usize = 2_048;
const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
const INSIDE: [u8; 4] = [10, 0, 0, 1];
const PEER: [u8; 4] = [192, 0, 2, 9];
const NODE: [u8; 4] = [10, 0, 0, 9];
/// What a transparent private leg shows.
const SHOWN: [u8; 4] = [198, 51, 100, 7];

/// Memory for frames.
struct Heap {
    slots: Vec<[u8; SLOT]>,
    free: Vec<u32>,
}

impl Pool for Heap {
    fn allocate(&mut self) -> Option<Frame> {
        self.free.pop().map(|slot| Frame::new(slot, 0, 0))
    }
    fn release(&mut self, frame: Frame) {
        self.free.push(frame.slot());
    }
    fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.slots[frame.slot() as usize][..frame.len()]
    }
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        &mut self.slots[frame.slot() as usize][..frame.len()]
    }
    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        let fits = len <= SLOT;
        if fits {
            frame.set_len(len as u32);
        }
        fits
    }
}

/// A shard that reads everything, and says it back where it was told to.
struct End {
    shard: Shard,
    pool: Heap,
    open: BTreeMap<FlowId, Vec<u8>>,
    accepted: Vec<FlowId>,
    closed: Vec<(FlowId, Reason)>,
    echoes: bool,
}

const HEAP: u32 = 512;

fn config(addresses: &[[u8; 4]], claiming: Claiming, index: ShardIndex) -> Config {
    let link = |&[a, b, c, d]: &[u8; 4]| {
        let abilities = Abilities {
            mac: Mac([2, 0, a, b, c, d]),
            mtu: 1500,
            frame_bytes: SLOT,
            frames: HEAP as usize,
            checksum: false,
            segmentation: 0,
            vlan: false,
            lanes: false,
            mode: "test".into(),
        };
        let link = LinkConfig {
            addresses: vec![Prefix { address: Address::from_v4([a, b, c, d]), length: 24 }],
            claiming,
            // The node's way back to whom a private leg shows.
            gateways: if [a, b, c, d] == NODE { vec![Address::from_v4(INSIDE)] } else { Vec::new() },
            ..LinkConfig::default()
        };
        ShardLink::new(link, &abilities)
    };
    let listener =
        |link| Listener { link: LinkId(link), address: None, port: PORT, accept: Accept::Handshake };
    Config {
        links: addresses.iter().map(link).collect(),
        listeners: (0..addresses.len() as u8).map(listener).collect(),
        admit: Limits { per_source: 1_000, per_24: 1_000, per_16_percent: 100, ..Limits::default() },
        engine: EngineConfig { flows: 128, time_waits: 128, blocks: 512, ..EngineConfig::default() },
        screen: ScreenConfig::default(),
        cookie_secret: Master([1; 32]),
        seed: [addresses[0][3].wrapping_add(16 * index.index as u8); 32],
        index,
        exchange: None,
        egress: None,
    }
}

impl End {
    fn new(config: &Config, echoes: bool) -> End {
        let mut shard = Shard::new(config, Instant::ZERO);
        shard.set_utc(Instant::ZERO, 1_800_000_000_000);
        let pool = Heap { slots: vec![[0; SLOT]; HEAP as usize], free: (0..HEAP).collect() };
        End { shard, pool, open: BTreeMap::new(), accepted: Vec::new(), closed: Vec::new(), echoes }
    }

    /// Takes in frames, those of other shards too; gives what is said.
    fn turn(&mut self, now: Instant, link: LinkId, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let (mut rx, mut tx, mut said) = (Batch::new(), Batch::new(), Vec::new());
        for frames in frames.chunks(BATCH) {
            for bytes in frames {
                let mut frame = self.pool.allocate().expect("memory");
                assert!(self.pool.resize(&mut frame, bytes.len()));
                self.pool.bytes_mut(&mut frame).copy_from_slice(bytes);
                rx.push(frame, Meta::default()).expect("space");
            }
            self.shard.ingest(now, link, &mut self.pool, &mut rx, &mut tx);
            self.send(&mut tx, &mut said);
        }
        while self.shard.ingest_handed(now, link, &mut self.pool, &mut rx, &mut tx) > 0 {
            self.send(&mut tx, &mut said);
        }
        self.shard.advance(now);
        while let Some(event) = self.shard.event(now) {
            self.event(now, event);
        }
        while self.shard.transmit(now, link, &mut self.pool, &mut tx, BATCH) > 0 {
            self.send(&mut tx, &mut said);
        }
        said
    }

    fn send(&mut self, tx: &mut Batch, said: &mut Vec<Vec<u8>>) {
        for (frame, _) in tx.drain(BATCH) {
            said.push(self.pool.bytes(&frame).to_vec());
            self.pool.release(frame);
        }
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Accepted(id, _) => {
                self.shard.standing(now, id, Standing::Proven);
                self.accepted.push(id);
                self.open.insert(id, Vec::new());
            }
            Event::Connected(id) => {
                self.open.insert(id, Vec::new());
            }
            Event::Readable(id) => self.read(id),
            Event::Finished(id) => {
                if let Some(mut flow) = self.shard.flow(id) {
                    flow.finish();
                }
            }
            Event::Writable(_) | Event::Departing(..) => {}
            Event::Closed(id, reason) => self.closed.push((id, reason)),
        }
    }

    fn read(&mut self, id: FlowId) {
        let Some(mut flow) = self.shard.flow(id) else { return };
        let bytes = flow.peek().to_vec();
        flow.consume(bytes.len());
        if self.echoes {
            assert_eq!(flow.write(&bytes), bytes.len());
        }
        self.open.entry(id).or_default().extend(bytes);
    }
}

/// The box, the peer and the node.
struct World {
    now: Instant,
    shards: Vec<End>,
    others: [End; 2],
    /// On their way to the box, by link.
    inbound: [Vec<Vec<u8>>; 2],
    random: u64,
    sent: [Vec<Vec<u8>>; 2],
}

impl World {
    fn new(count: u16, seed: u64, claiming: Claiming) -> World {
        let index = |n| ShardIndex::of(n, count);
        let exchange = (count > 1).then(|| {
            let size = ExchangeConfig {
                shards: count,
                flows: 128 * usize::from(count),
                frame_bytes: vec![SLOT; 2],
                seed: [9; 32],
            };
            Exchange::new(&size, Box::new(|_| {}))
        });
        let shard = |n| {
            let config =
                Config { exchange: exchange.clone(), ..config(&[OUTSIDE, INSIDE], claiming, index(n)) };
            End::new(&config, true)
        };
        let alone =
            |address| End::new(&config(&[address], Claiming::Silent, ShardIndex::default()), address == NODE);
        World {
            now: Instant::from_millis(1_000),
            shards: (0..count).map(shard).collect(),
            others: [alone(PEER), alone(NODE)],
            inbound: Default::default(),
            random: seed | 1,
            sent: Default::default(),
        }
    }

    fn draw(&mut self, below: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % below
    }

    /// Lets time pass; each frame for the box reaches a shard by lot.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(1);
            for link in [PUBLIC, PRIVATE] {
                let at = usize::from(link.0);
                let mut lots = vec![Vec::new(); self.shards.len()];
                for bytes in std::mem::take(&mut self.inbound[at]) {
                    let lot = self.draw(lots.len());
                    lots[lot].push(bytes);
                }
                let mut said = Vec::new();
                // Twice, so that what one hands over to an earlier one is not left until the next millisecond.
                for lot in lots.into_iter().chain(vec![Vec::new(); self.shards.len()]).zip(0..) {
                    let (frames, turn): (Vec<Vec<u8>>, usize) = lot;
                    let shard = turn % self.shards.len();
                    said.extend(self.shards[shard].turn(self.now, link, frames));
                }
                self.sent[at].extend(said.iter().cloned());
                self.inbound[at] = self.others[at].turn(self.now, LinkId(0), said);
            }
        }
    }

    fn peer_connects(&mut self) -> FlowId {
        let to = Target { link: LinkId(0), address: Address::from_v4(OUTSIDE), port: PORT };
        self.others[0].shard.connect(self.now, to, Source::Own).expect("room")
    }

    fn dial(&mut self, shard: usize, source: Source) -> FlowId {
        let to = Target { link: PRIVATE, address: Address::from_v4(NODE), port: PORT };
        self.shards[shard].shard.connect(self.now, to, source).expect("room")
    }

    fn total(&self, what: impl Fn(&hedgerow_dataplane::shard::Statistics) -> u64) -> u64 {
        self.shards.iter().map(|end| what(&end.shard.statistics())).sum()
    }

    fn reason(&self, reason: Reason) -> u64 {
        self.total(|statistics| statistics.reasons[reason])
    }
}

/// Peers connect and talk, shards dial the node and talk, whichever shard each frame reaches.
fn check(count: u16, seed: u64) -> Result<(), TestCaseError> {
    let mut world = World::new(count, seed, Claiming::Silent);
    let peers: Vec<FlowId> = (0..12).map(|_| world.peer_connects()).collect();
    let legs: Vec<(usize, FlowId)> = (0..12)
        .map(|n| {
            let shard = n % usize::from(count);
            let source = match n / usize::from(count) % 2 {
                0 => Source::Own,
                _ => Source::Transparent(Address::from_v4(SHOWN), 0),
            };
            (shard, world.dial(shard, source))
        })
        .collect();
    // An ARP question, its answer by another queue, a SYN sent again: a second or two.
    world.run(Duration::from_millis(2_500));
    prop_assert_eq!(world.total(|s| s.accepted), 12, "each connection is accepted once");
    let piece: Vec<u8> = (0..3_000u32).map(|n| (n / 5) as u8).collect();
    for _ in 0..3 {
        for &peer in &peers {
            prop_assert_eq!(world.others[0].shard.flow(peer).expect("connected").write(&piece), piece.len());
        }
        for &(shard, leg) in &legs {
            prop_assert_eq!(
                world.shards[shard].shard.flow(leg).expect("connected").write(&piece),
                piece.len()
            );
        }
        world.run(Duration::from_millis(1_500));
    }
    let whole = piece.repeat(3);
    for peer in &peers {
        prop_assert!(world.others[0].open.get(peer) == Some(&whole), "a peer's stream, said back");
    }
    // The node says back, and so do the shards: their own legs echo for ever, so only the beginning is compared.
    for (shard, leg) in &legs {
        let heard = &world.shards[*shard].open[leg];
        prop_assert!(heard.len() >= whole.len() && heard[..3_000] == piece[..], "a private leg's stream");
    }
    let (over, into) = (world.total(|s| s.handed_over), world.total(|s| s.handed_in));
    prop_assert_eq!(over > 100, count > 1, "{} frames handed over", over);
    prop_assert!(into >= over, "{} handed over, {} taken in", over, into);
    for reason in
        [Reason::HandoverFull, Reason::BadCookie, Reason::NoListener, Reason::Refused, Reason::Reset]
    {
        prop_assert_eq!(world.reason(reason), 0, "{:?}", reason);
    }
    for &(shard, leg) in &legs {
        world.shards[shard].shard.flow(leg).expect("open").abort(Reason::Aborted);
    }
    for &peer in &peers {
        world.others[0].shard.flow(peer).expect("open").abort(Reason::Aborted);
    }
    world.run(Duration::from_millis(500));
    for end in &world.shards {
        prop_assert_eq!(end.shard.statistics().flows, 0);
        prop_assert_eq!(end.pool.free.len(), HEAP as usize);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3, ..ProptestConfig::default() })]
    #[test]
    fn every_frame_finds_its_flow(seed in any::<u64>()) {
        for count in [1, 2, 3, 4] {
            check(count, seed)?;
        }
    }
}

#[test]
fn the_same_lots_give_the_same_frames() {
    let frames = |seed| {
        let mut world = World::new(4, seed, Claiming::Silent);
        world.peer_connects();
        world.dial(2, Source::Own);
        world.run(Duration::from_millis(3_000));
        world.sent
    };
    assert_eq!(frames(5), frames(5));
}

#[test]
fn source_ports_of_two_shards_never_meet() {
    let mut world = World::new(4, 3, Claiming::Silent);
    let mut ports = BTreeSet::new();
    for n in 0..40 {
        let leg = world.dial(n % 4, Source::Transparent(Address::from_v4(SHOWN), 0));
        let port = world.shards[n % 4].shard.flow(leg).expect("the flow").key().local_port;
        assert_eq!(usize::from(port % 4), n % 4);
        assert!(ports.insert(port));
    }
    // A port that is asked for is another shard's: one of our own instead.
    let leg = world.dial(1, Source::Transparent(Address::from_v4(SHOWN), 40_000));
    assert_eq!(world.shards[1].shard.flow(leg).expect("the flow").key().local_port % 4, 1);
}

/// One shard speaks for the addresses of all, and a conflict that one hears of is known to all.
#[test]
fn a_claim_is_made_once_and_a_conflict_concerns_all() {
    let mut world = World::new(3, 7, Claiming::Probe);
    world.run(Duration::from_secs(12));
    for end in &world.shards {
        assert!(end.shard.link(PUBLIC).expect("a link").usable(Address::from_v4(OUTSIDE)));
    }
    // RFC 5227: three probes and two announcements.
    let arps = world.sent[0].iter().filter(|bytes| bytes[12..14] == [8, 6]).count();
    assert_eq!(arps, 5, "for three shards");

    let mut world = World::new(3, 7, Claiming::Probe);
    world.run(Duration::from_millis(100));
    let mut claim = vec![0xff; 6];
    claim.extend([2, 9, 9, 9, 9, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 9, 9, 9, 9, 9]);
    claim.extend(OUTSIDE);
    claim.extend([0; 6]);
    claim.extend(OUTSIDE);
    world.inbound[0].push(claim);
    world.run(Duration::from_millis(100));
    for end in &world.shards {
        let link = end.shard.link(PUBLIC).expect("a link");
        assert_eq!(link.conflicts().collect::<Vec<_>>(), [Address::from_v4(OUTSIDE)]);
    }
}

/// A shard that does not take its frames costs the others theirs, with a reason, and nothing else.
#[test]
fn a_full_inbox_refuses_with_a_reason() {
    let mut world = World::new(2, 1, Claiming::Silent);
    let leg = world.dial(0, Source::Own);
    world.run(Duration::from_millis(2_500));
    let key = world.shards[0].shard.flow(leg).expect("connected").key();
    assert!(world.shards[0].open.contains_key(&leg), "connected");
    let last = world.others[1].accepted[0];
    world.others[1].shard.flow(last).expect("accepted").write(b"from the node");
    let frames = world.others[1].turn(world.now, LinkId(0), Vec::new());
    assert_eq!(frames.len(), 1);
    for _ in 0..1_000 {
        let said = world.shards[1].turn(world.now, PRIVATE, frames.clone());
        assert!(said.is_empty(), "a stray is answered by nobody but its owner: {key:?}");
    }
    let statistics = world.shards[1].shard.statistics();
    assert_eq!(
        statistics.handed_over + statistics.reasons[Reason::HandoverFull],
        world.total(|s| s.frames_in) - world.shards[0].shard.statistics().frames_in
    );
    assert!(statistics.reasons[Reason::HandoverFull] > 700);
    world.run(Duration::from_millis(10));
    assert!(world.shards[0].open[&leg].starts_with(b"from the node"));
}

/// A router's message about a public flow comes by any queue.
#[test]
fn an_icmp_error_finds_the_flow_that_it_is_about() {
    let mut elsewhere = 0;
    for seed in 1..12 {
        let mut world = World::new(4, seed, Claiming::Silent);
        let peer = world.peer_connects();
        world.run(Duration::from_millis(2_500));
        world.others[0].shard.flow(peer).expect("connected").write(&[7; 1_200]);
        // The echo of a full segment is under way when the router refuses it.
        let large = |bytes: &&Vec<u8>| bytes.len() > 1_000;
        while !world.sent[0].iter().any(|bytes| large(&bytes)) {
            world.run(Duration::from_millis(1));
        }
        let echo = world.sent[0].iter().rev().find(large).cloned().expect("said back");
        let (before, sent) = (world.total(|s| s.handed_over), world.sent[0].len());
        world.inbound[0] = vec![too_big(&echo, 700)];
        world.run(Duration::from_millis(1));
        elsewhere += world.total(|s| s.handed_over) - before;
        world.run(Duration::from_millis(1_500));
        assert_eq!(world.reason(Reason::IcmpUnrelated), 0);
        let again: Vec<usize> = world.sent[0][sent..].iter().map(Vec::len).collect();
        assert!(again.contains(&714) && again.iter().all(|&len| len <= 714), "{again:?}");
        assert!(world.others[0].open[&peer] == [7; 1_200]);
    }
    assert!(elsewhere > 4, "{elsewhere} of the errors came to another shard");
}

/// "Fragmentation needed" about a frame of ours, from the peer's station.
fn too_big(ours: &[u8], mtu: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&ours[14..14 + 28]);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ip = vec![0x45, 0];
    ip.extend((20 + message.len() as u16).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 1, 0, 0]);
    ip.extend(PEER);
    ip.extend(OUTSIDE);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let (to, from) = (&ours[6..12], &ours[..6]);
    [to, from, &[8, 0], &ip, &message].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}
