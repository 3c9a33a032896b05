//! A shard with a public and a private link, driven from outside: a peer and a node are shards of their own on the other
//! ends of the wires.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::frame::{Abilities, Batch, Checksum, Frame, Meta, Pool};
use hedgerow_dataplane::link::dhcp::Lease;
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{DenyList, Master, ScreenConfig};
use hedgerow_dataplane::shard::{
    Accept, Config, Event, FlowId, Listener, Shard, ShardIndex, ShardLink, Source, Standing, Target,
};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{self, Address, LinkId, LinkRules, Mac, PrefixSet, Segment};
use hedgerow_dataplane::{Instant, Reason};

const PUBLIC: LinkId = LinkId(0);
const PRIVATE: LinkId = LinkId(1);
const PORT: u16 = 8444;
const SLOT: usize = 2048;

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

/// A shard and its memory.
struct End {
    shard: Shard,
    pool: Heap,
    events: Vec<Event>,
}

fn v4(bytes: [u8; 4]) -> Address {
    Address::from_v4(bytes)
}

fn mac(address: [u8; 4]) -> Mac {
    let [a, b, c, d] = address;
    Mac([2, 0, a, b, c, d])
}

impl End {
    /// A shard with a link per address that listens on [`PORT`] of each.
    fn new(addresses: &[[u8; 4]]) -> Self {
        let link = |&address: &[u8; 4]| {
            let abilities = Abilities {
                mac: mac(address),
                mtu: 1500,
                frame_bytes: SLOT,
                frames: 256,
                checksum: false,
                segmentation: 0,
                vlan: false,
                lanes: false,
                mode: "test".into(),
            };
            let link = LinkConfig {
                addresses: vec![Prefix { address: v4(address), length: 24 }],
                claiming: Claiming::Silent,
                ..LinkConfig::default()
            };
            ShardLink::new(link, &abilities)
        };
        let listener =
            |link| Listener { link: LinkId(link), address: None, port: PORT, accept: Accept::Handshake };
        let config = Config {
            links: addresses.iter().map(link).collect(),
            listeners: (0..addresses.len() as u8).map(listener).collect(),
            admit: Limits::default(),
            engine: EngineConfig { flows: 64, blocks: 64, ..EngineConfig::default() },
            screen: ScreenConfig::default(),
            cookie_secret: Master([1; 32]),
            seed: [addresses[0][3]; 32],
            index: ShardIndex::default(),
            exchange: None,
            egress: None,
        };
        let mut shard = Shard::new(&config, Instant::ZERO);
        shard.set_utc(Instant::ZERO, 1_800_000_000_000);
        let pool = Heap { slots: vec![[0; SLOT]; 256], free: (0..256).collect() };
        End { shard, pool, events: Vec::new() }
    }

    /// Takes in frames; gives what it answers and what it has to say.
    fn turn(&mut self, now: Instant, link: LinkId, frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        self.turn_with(now, link, frames, Meta::default())
    }

    /// The same, with what the driver says about each frame.
    fn turn_with(&mut self, now: Instant, link: LinkId, frames: Vec<Vec<u8>>, meta: Meta) -> Vec<Vec<u8>> {
        let (mut rx, mut tx, mut said) = (Batch::new(), Batch::new(), Vec::new());
        for bytes in frames {
            let mut frame = self.pool.allocate().expect("memory");
            assert!(self.pool.resize(&mut frame, bytes.len()));
            self.pool.bytes_mut(&mut frame).copy_from_slice(&bytes);
            rx.push(frame, meta).expect("few frames");
        }
        self.shard.ingest(now, link, &mut self.pool, &mut rx, &mut tx);
        self.shard.advance(now);
        self.shard.transmit(now, link, &mut self.pool, &mut tx, 32);
        for (frame, _) in tx.drain(64) {
            said.push(self.pool.bytes(&frame).to_vec());
            self.pool.release(frame);
        }
        while let Some(event) = self.shard.event(now) {
            self.events.push(event);
        }
        said
    }

    /// The flow of the first event that `which` names.
    fn seen(&self, which: impl Fn(&Event) -> Option<FlowId>) -> Option<FlowId> {
        self.events.iter().find_map(which)
    }
}

/// Hedgerow between a peer on its public link and a node on its private one.
struct World {
    now: Instant,
    shard: End,
    others: [End; 2],
    /// Frames on their way to the shard, by link.
    inbound: [Vec<Vec<u8>>; 2],
    /// Everything that the shard ever sent, by link.
    sent: [Vec<Vec<u8>>; 2],
}

const OUTSIDE: [u8; 4] = [192, 0, 2, 1];
const INSIDE: [u8; 4] = [10, 0, 0, 1];
const PEER: [u8; 4] = [192, 0, 2, 9];
const NODE: [u8; 4] = [10, 0, 0, 9];

impl World {
    fn new() -> Self {
        World {
            now: Instant::from_millis(1_000),
            shard: End::new(&[OUTSIDE, INSIDE]),
            others: [End::new(&[PEER]), End::new(&[NODE])],
            inbound: [Vec::new(), Vec::new()],
            sent: [Vec::new(), Vec::new()],
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(1);
            for link in [PUBLIC, PRIVATE] {
                let at = usize::from(link.0);
                let frames = std::mem::take(&mut self.inbound[at]);
                let said = self.shard.turn(self.now, link, frames);
                self.sent[at].extend(said.iter().cloned());
                self.inbound[at] = self.others[at].turn(self.now, LinkId(0), said);
            }
        }
    }

    /// The peer connects; the shard's flow and the peer's.
    fn accepted(&mut self) -> (FlowId, FlowId) {
        let target = Target { link: LinkId(0), address: v4(OUTSIDE), port: PORT };
        self.others[0].shard.connect(self.now, target, Source::Own).expect("a route and room");
        self.run(Duration::from_millis(20));
        let accepted = |event: &Event| match event {
            Event::Accepted(id, _) => Some(*id),
            _ => None,
        };
        let connected = |event: &Event| match event {
            Event::Connected(id) => Some(*id),
            _ => None,
        };
        let ours = self.shard.seen(accepted).expect("accepted");
        (ours, self.others[0].seen(connected).expect("connected"))
    }

    fn dial(&mut self, source: Source) -> Result<FlowId, Reason> {
        let target = Target { link: PRIVATE, address: v4(NODE), port: PORT };
        self.shard.shard.connect(self.now, target, source)
    }
}

/// What the last TCP frame to `to` says.
fn last<T>(frames: &[Vec<u8>], to: [u8; 4], what: impl Fn(&Segment<'_>) -> T) -> Option<T> {
    let rules = LinkRules { mac: mac(to), vlan: None, mtu: 1500, resets: true };
    frames.iter().rev().find_map(|bytes| {
        let packet = wire::parse(bytes, &Meta::default(), &rules).ok()?;
        (packet.kind == wire::Kind::Tcp).then(|| what(&packet.segment(bytes)))
    })
}

#[test]
fn the_window_of_a_proven_peer_is_not_a_strangers() {
    let mut world = World::new();
    let (id, peer) = world.accepted();
    let say = |world: &mut World| {
        world.others[0].shard.flow(peer).expect("the peer's flow").write(b"more");
        world.run(Duration::from_millis(60));
        last(&world.sent[0], PEER, |segment| u32::from(segment.window) << 8).expect("an ACK")
    };
    assert!(say(&mut world) <= 18 << 10);
    world.shard.shard.standing(world.now, id, Standing::Proven);
    assert!(say(&mut world) > 63 << 10);
}

/// Flows of an address that DHCP gave and takes away end, those of other addresses do not; a lease that is renewed changes
/// nothing for either.
#[test]
fn an_address_that_goes_away_takes_its_flows_along() {
    const LEASED: [u8; 4] = [192, 0, 2, 50];
    let mut world = World::new();
    let (kept, _) = world.accepted();
    world.shard.events.clear();
    let lease = |seconds| Lease {
        own: Prefix { address: v4(LEASED), length: 24 },
        gateway: None,
        routes: Vec::new(),
        mtu: Some(1_400),
        server: v4(PEER),
        renew: None,
        rebind: None,
        until: Some(Instant::from_millis(seconds)),
    };
    world.shard.shard.set_lease(world.now, PUBLIC, Some(lease(1)));
    let target = Target { link: LinkId(0), address: v4(LEASED), port: PORT };
    world.others[0].shard.connect(world.now, target, Source::Own).expect("a route and room");
    world.run(Duration::from_millis(20));
    let accepted = |event: &Event| match event {
        Event::Accepted(id, _) => Some(*id),
        _ => None,
    };
    let leased = world.shard.seen(accepted).expect("accepted");
    let key = world.shard.shard.flow(leased).map(|flow| flow.key()).expect("a flow");
    assert_eq!(key.local, v4(LEASED));
    world.shard.shard.set_lease(world.now, PUBLIC, Some(lease(2)));
    world.run(Duration::from_millis(20));
    assert!(world.shard.shard.flow(leased).is_some());
    world.shard.shard.set_lease(world.now, PUBLIC, None);
    world.run(Duration::from_millis(20));
    assert!(world.shard.events.contains(&Event::Closed(leased, Reason::AddressLost)));
    assert!(world.shard.shard.flow(kept).is_some());
    assert_eq!(last(&world.sent[0], PEER, |segment| segment.flags.has(wire::Flags::RST)), Some(true));
    // Nobody answers at the address any more.
    let sent = world.sent[0].len();
    world.others[0].shard.connect(world.now, target, Source::Own).expect("a route and room");
    world.run(Duration::from_millis(20));
    assert_eq!(world.sent[0].len(), sent);
}

/// The networks of the world's peer and of its node.
fn deny() -> Arc<DenyList> {
    Arc::new(DenyList::new(["192.0.2.0/24", "10.0.0.0/24"].map(|text| text.parse().expect("a prefix")), 1))
}

fn closed(world: &World, id: FlowId) -> Option<Reason> {
    world.shard.events.iter().find_map(|event| match event {
        Event::Closed(closed, reason) if *closed == id => Some(*reason),
        _ => None,
    })
}

#[test]
fn a_ban_ends_the_flows_of_peers_but_none_of_ours() {
    let mut world = World::new();
    let (id, _) = world.accepted();
    let node = world.dial(Source::Own).expect("room");
    world.run(Duration::from_millis(20));
    world.shard.shard.standing(world.now, id, Standing::Proven);
    world.shard.shard.set_deny(deny(), Some(deny()));
    world.run(Duration::from_millis(20));
    assert_eq!(closed(&world, id), Some(Reason::Banned));
    assert!(
        world.shard.shard.flow(node).is_some(),
        "the node's network is on the list, and we opened this one"
    );
    // Whoever comes again is not answered, and counted.
    let target = Target { link: LinkId(0), address: v4(OUTSIDE), port: PORT };
    let sent = world.sent[0].len();
    world.others[0].shard.connect(world.now, target, Source::Own).expect("a route and room");
    world.run(Duration::from_millis(20));
    assert_eq!(world.sent[0].len(), sent);
    assert!(world.shard.shard.statistics().reasons[Reason::Banned] >= 2);
}

#[test]
fn a_ban_need_not_end_what_is_there_and_never_concerns_friends() {
    let mut world = World::new();
    let (id, _) = world.accepted();
    let list = deny();
    world.shard.shard.set_deny(list.clone(), None);
    world.run(Duration::from_millis(20));
    assert_eq!(closed(&world, id), None);
    let friends = ["192.0.2.9/32".parse().expect("a prefix")];
    world.shard.shard.set_friends(Arc::new(PrefixSet::new(friends)));
    world.shard.shard.set_deny(list.clone(), Some(list));
    world.run(Duration::from_millis(20));
    assert_eq!(closed(&world, id), None);
    world.accepted();
    assert_eq!(world.shard.shard.statistics().accepted, 2);
}

#[test]
fn a_segment_from_the_wrong_side_belongs_to_nobody() {
    let mut world = World::new();
    let id = world.dial(Source::Own).expect("room");
    world.run(Duration::from_millis(20));
    let accepted = |event: &Event| match event {
        Event::Accepted(id, _) => Some(*id),
        _ => None,
    };
    let node = world.others[1].seen(accepted).expect("accepted");
    world.others[1].shard.flow(node).expect("the node's flow").write(b"hello");
    world.run(Duration::from_millis(1));
    // The node's segment comes in by the public link, as a neighbour there could send it.
    let mut astray = std::mem::take(&mut world.inbound[1]);
    assert!(!astray.is_empty());
    astray.iter_mut().for_each(|frame| frame[..6].copy_from_slice(&mac(OUTSIDE).0));
    world.inbound[0] = astray;
    world.run(Duration::from_millis(2));
    assert_eq!(world.shard.shard.flow(id).expect("the flow").readable(), 0);
    // The same bytes by the right link.
    world.run(Duration::from_millis(2_000));
    assert_eq!(world.shard.shard.flow(id).expect("the flow").peek(), b"hello");
}

#[test]
fn a_source_port_at_rest_is_passed_over() {
    let mut world = World::new();
    let source = Source::Transparent(v4([198, 51, 100, 7]), 40_000);
    let id = world.dial(source).expect("room");
    world.run(Duration::from_millis(20));
    let accepted = |event: &Event| match event {
        Event::Accepted(id, _) => Some(*id),
        _ => None,
    };
    let node = world.others[1].seen(accepted).expect("accepted");
    // We close first, so that the tuple rests with us.
    world.shard.shard.flow(id).expect("the flow").finish();
    world.run(Duration::from_millis(20));
    world.others[1].shard.flow(node).expect("the node's flow").finish();
    world.run(Duration::from_millis(20));
    assert!(world.shard.events.contains(&Event::Closed(id, Reason::Finished)));
    let again = world.dial(source).expect("another port");
    let key = world.shard.shard.flow(again).expect("the flow").key();
    assert_eq!(key.local, v4([198, 51, 100, 7]));
    assert_ne!(key.local_port, 40_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Frames of real connections with headers garbled and checksums vouched for, amid those connections: nothing breaks,
    /// every frame goes back to its pool, and all is over once both sides let go.
    #[test]
    fn garbled_frames_break_nothing(
        garbles in prop::collection::vec(
            (0..500u16, 34..90usize, any::<u8>(), 34..90usize, prop_oneof![Just(0u8), any::<u8>()], 0..1500u16),
            1..120,
        ),
    ) {
        let mut world = World::new();
        let (id, peer) = world.accepted();
        let node = world.dial(Source::Transparent(v4([198, 51, 100, 7]), 40_000)).expect("room");
        let mut heard: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
        for (which, first, one, second, two, segment) in garbles {
            for (heard, inbound) in heard.iter_mut().zip(&world.inbound) {
                heard.extend(inbound.iter().cloned());
            }
            let link = usize::from(which & 1);
            let count = heard[link].len();
            if count > 0 {
                let mut bytes = heard[link][count - 1 - usize::from(which / 2) % count].clone();
                for (at, value) in [(first, one), (second, two)] {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= value;
                    }
                }
                let meta = Meta { checksum: Checksum::Verified, vlan: None, segment };
                let said = world.shard.turn_with(world.now, LinkId(link as u8), vec![bytes], meta);
                let answers = world.others[link].turn(world.now, LinkId(0), said);
                world.inbound[link].extend(answers);
            }
            for flow in [id, node] {
                if let Some(mut flow) = world.shard.shard.flow(flow) {
                    let n = flow.peek().len();
                    flow.consume(n);
                    flow.write(&[7; 300]);
                }
            }
            if let Some(mut flow) = world.others[0].shard.flow(peer) {
                flow.write(&[8; 900]);
            }
            world.run(Duration::from_millis(u64::from(segment % 7)));
        }
        world.inbound = Default::default();
        prop_assert_eq!(world.shard.pool.free.len(), 256);
        let now = world.now;
        let live: Vec<FlowId> = world.shard.events.iter().filter_map(|event| match event {
            Event::Accepted(id, _) | Event::Connected(id) => Some(*id),
            _ => None,
        }).chain([node]).collect();
        for id in live {
            if let Some(mut flow) = world.shard.shard.flow(id) {
                flow.close(now);
            }
        }
        for _ in 0..200 {
            world.now += Duration::from_secs(1);
            for link in [PUBLIC, PRIVATE] {
                world.shard.turn(world.now, link, Vec::new());
            }
        }
        let statistics = world.shard.shard.statistics();
        prop_assert_eq!((statistics.flows, statistics.strangers, statistics.buffer_bytes), (0, 0, 0));
        prop_assert_eq!(world.shard.pool.free.len(), 256);
    }
}

#[test]
fn a_dial_to_a_dead_station_ends_and_the_next_one_is_refused_at_once() {
    let mut world = World::new();
    let id = world.dial(Source::Own).expect("nobody knows yet that it is dead");
    let start = world.now;
    let dead = loop {
        world.now += Duration::from_millis(100);
        let said = world.shard.turn(world.now, PRIVATE, Vec::new());
        world.sent[1].extend(said);
        let closed = |event: &Event| match event {
            Event::Closed(closed, reason) if *closed == id => Some(*reason),
            _ => None,
        };
        if let Some(reason) = world.shard.events.iter().find_map(closed) {
            break reason;
        }
        assert!(world.now.since(start) < Duration::from_secs(30), "waits for ever");
    };
    assert_eq!(dead, Reason::TimedOut);
    assert!(last(&world.sent[1], NODE, |_| ()).is_none(), "nowhere to send it to");
    let refused = (0..100).any(|_| {
        world.now += Duration::from_millis(100);
        world.shard.turn(world.now, PRIVATE, Vec::new());
        world.dial(Source::Own) == Err(Reason::NoNeighbour)
    });
    assert!(refused);
    assert!(world.sent[1].len() <= 3 * 4, "{} questions", world.sent[1].len());
}
