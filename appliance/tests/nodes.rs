//! Several nodes behind the real core, in the lab's world: one is killed, one is drained, one falls behind, and peers are
//! served all the while. `SEED=n` repeats one world.

#![cfg(feature = "lab")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hedgerow::bans::{Bans, Rules as BanRules, Setup};
use hedgerow::lab::{Device, Government};
use hedgerow::pool::health::{Condition, Loss};
use hedgerow::pool::node::Duty;
use hedgerow::rules::Policy;
use hedgerow::rules::slots::Slots;
use hedgerow_dataplane::Instant;
use hedgerow_dataplane::wire::Mac;
use hedgerow_lab::host::{Host, Place, socket};
use hedgerow_lab::line::{self, Common};
use hedgerow_lab::network::{Path, Side, World};
use hedgerow_lab::node::{Fate, HEIGHT, Happening, Node};
use hedgerow_lab::random::Random;
use hedgerow_lab::site::{self, Ground, UNIX};
use hedgerow_lab::visitor::{GoodPeer, Note};
use hedgerow_lab::{Subject, crypto, seeds};
use hedgerow_policy::Reason;
use hedgerow_policy::chia::{BEYOND_PEAK_MAX, Schema};
use hedgerow_policy::rules::{Action, Friends, Layer, ReasonRule, Rules, Stated};
use hedgerow_policy::tls::Clock;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::mint;

const PORT: u16 = 8444;
const NODES: usize = 3;

/// A device, three nodes, and peers that come.
struct Scene {
    world: World<Note>,
    device: Device,
    fates: Vec<Fate>,
    common: Common,
    authority: Authority,
    ground: Ground,
    random: Random,
    /// When each peer came.
    came: BTreeMap<u32, Instant>,
    ready: BTreeSet<u32>,
    left: BTreeSet<u32>,
    failed: BTreeMap<u32, (Instant, String)>,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        Scene::governed(seed, None)
    }

    fn governed(seed: u64, government: Option<Government>) -> Scene {
        let mut random = Random::new(seed);
        let ground = Ground::v4(PORT);
        let common = Common { crypto: crypto::provider(random.next()), clock: Clock::at(UNIX) };
        let (mut site, outside, inside) = site::lay_out(&ground, common.crypto.clone(), random.next());
        let places = (0..NODES as u8).map(|n| Ipv4Addr::new(10, 20, 0, 10 + n));
        site.nodes = places.clone().map(|ip| SocketAddr::new(ip.into(), PORT)).collect();
        let mac = site.public_link.mac;
        let device = Device::new(site, 1, government).expect("a device");
        let authority = Authority::chia().expect("an authority");
        let mut world = World::new(outside, inside, mac, random.next());
        let mut fates = Vec::new();
        for (number, address) in (0..).zip(places) {
            let credential = mint::peer(&authority, 0x6e6f_6465 + u64::from(number)).expect("a certificate");
            let config = line::server_config(&common, credential).expect("TLS");
            let node = Node::new(PORT, "mainnet", config, random.branch("node"));
            fates.push(node.fate());
            let place = Place {
                mac: Mac([2, 0x6e, 0, 0, 0, 1 + number]),
                address: address.into(),
                prefix: 24,
                gateway: ground.inside,
                mtu: 1_500,
                seed: random.next(),
            };
            let near = Path::clean(Duration::from_micros(150));
            world.add(Side::Private, Host::new(place, Instant::ZERO), Box::new(node), near);
        }
        let (came, ready, left, failed) = Default::default();
        Scene { world, device, fates, common, authority, ground, random, came, ready, left, failed }
    }

    fn seconds(&self) -> u64 {
        self.world.now().millis() / 1_000
    }

    /// A peer comes and stays for so long.
    fn come(&mut self, stay: Duration) -> u32 {
        self.visit(stay, |peer| peer)
    }

    fn visit(&mut self, stay: Duration, manner: impl FnOnce(GoodPeer) -> GoodPeer) -> u32 {
        let number = self.came.len() as u32 + 1;
        self.came.insert(number, self.world.now());
        let [_, b, c, d] = number.to_be_bytes();
        let credential = mint::peer(&self.authority, u64::from(number) | 1 << 32).expect("a certificate");
        let random = self.random.branch("peer");
        let now = self.world.now();
        let peer =
            GoodPeer::new(number, &self.common, credential, "mainnet", now, stay, random).expect("TLS");
        let address: IpAddr = Ipv4Addr::new(81, 2 + b, c * 16 + d / 16, 10 + d).into();
        let place = Place {
            mac: Mac([2, 0x70, 0, b, c, d]),
            address,
            prefix: 24,
            gateway: Ipv4Addr::new(81, 2 + b, c * 16 + d / 16, 254).into(),
            mtu: 1_500,
            seed: self.random.next(),
        };
        let mut host = Host::new(place, now);
        let service = (self.ground.service.ip(), self.ground.service.port());
        assert!(host.connect(socket(1 << 16, 1 << 16, true), service, 40_000 + number as u16));
        self.world.add(Side::Public, host, Box::new(manner(peer)), Path::clean(Duration::from_millis(20)));
        number
    }

    /// Lets time pass, with two newcomers a second who stay for some seconds.
    fn go_on(&mut self, seconds: u64) {
        for _ in 0..seconds * 2 {
            let stay = self.random.micros(1_500_000, 6_000_000);
            self.come(stay);
            self.rest(500);
        }
    }

    /// Lets time pass.
    fn rest(&mut self, millis: u64) {
        (0..millis / 500).for_each(|_| self.pass());
    }

    /// Lets half a second pass, and hears what happened.
    fn pass(&mut self) {
        self.world.run_until(self.world.now() + Duration::from_millis(500), &mut self.device);
        for note in std::mem::take(&mut self.world.notes) {
            match note {
                Note::Ready(peer, _) => drop(self.ready.insert(peer)),
                Note::Left(peer, _) => drop(self.left.insert(peer)),
                Note::Failed(peer, why) => drop(self.failed.insert(peer, (self.world.now(), why))),
                _ => {}
            }
        }
    }

    fn nodes(&self) -> Vec<(Condition, Duty, usize, u64)> {
        let now = self.world.now();
        self.device.commons().with(|books| {
            let nodes = books.pools[0].nodes(now);
            nodes.map(|(_, n)| (n.condition, n.duty, n.sessions, n.connected)).collect()
        })
    }

    fn conditions(&self) -> Vec<Condition> {
        self.nodes().into_iter().map(|(condition, ..)| condition).collect()
    }

    /// The highest block that is known of the nodes.
    fn known_peak(&self) -> Option<u32> {
        self.device.commons().with(|books| books.pools[0].config().peak.get())
    }

    fn connected(&self, node: usize) -> u64 {
        self.nodes()[node].3
    }
}

#[test]
fn peers_that_come_after_a_node_was_killed_are_all_served() {
    for seed in seeds::from_environment(3) {
        let mut scene = Scene::new(seed);
        scene.go_on(6);
        assert_eq!(scene.conditions(), [Condition::Up; NODES], "seed {seed}");
        assert!((0..NODES).all(|node| scene.connected(node) >= 2), "seed {seed}: {:?}", scene.nodes());
        scene.fates[1].turn(Happening::Killed);
        let killed = scene.world.now();
        scene.go_on(6);
        assert_eq!(scene.conditions()[1], Condition::Down, "seed {seed}");
        let before = scene.connected(1);
        scene.go_on(6);
        assert_eq!(scene.connected(1), before, "seed {seed}: nobody is led to a dead node");
        for (peer, (at, why)) in &scene.failed {
            assert!(scene.came[peer] <= killed, "seed {seed}: {peer} came after and failed at {at:?}: {why}");
        }
        scene.fates[1].turn(Happening::Lives);
        scene.go_on(45);
        assert_eq!(scene.conditions(), [Condition::Up; NODES], "seed {seed}");
        assert!(scene.connected(1) > before, "seed {seed}: it is back");
        scene.rest(30_000);
        let lost = scene.came.keys().filter(|peer| !scene.left.contains(peer)).count();
        assert!(lost <= 8 && lost == scene.failed.len(), "seed {seed}: {:?}", scene.failed);
    }
}

#[test]
fn a_drain_moves_peers_gently_and_ends_when_the_node_is_empty() {
    for seed in seeds::from_environment(2) {
        let mut scene = Scene::new(seed);
        let long: Vec<u32> = (0..9).map(|_| scene.come(Duration::from_secs(400))).collect();
        scene.go_on(6);
        let now = scene.world.now();
        let drained = scene.device.commons().with(|books| books.pools[0].drain(now, "node-2", None));
        assert_eq!(drained, Ok(()));
        let (at, led) = (scene.seconds(), scene.connected(2));
        scene.go_on(40);
        assert_eq!(scene.connected(2), led, "seed {seed}: nobody is led to a node that is drained");
        assert!(
            scene.failed.len() < 2,
            "seed {seed}: busy peers are let be for a minute: {:?}",
            scene.failed
        );
        assert!(scene.nodes()[2].2 >= 2, "seed {seed}: the long ones are there: {:?}", scene.nodes());
        scene.go_on(40);
        assert_eq!(scene.nodes()[2].1, Duty::Maintenance(None), "seed {seed}: {:?}", scene.nodes());
        // A peer that asks too often on its own account is closed with another code.
        let drained = scene.failed.iter().filter(|(_, (_, why))| why == "closed with 1001");
        let mut moved = 0;
        for (peer, (when, _)) in drained {
            assert!(long.contains(peer), "seed {seed}: {peer} had not long to stay");
            // One that says nothing for five seconds, because of a lost segment perhaps, may go before the minute is over.
            assert!(when.millis() / 1_000 >= at + 5, "seed {seed}: at {when:?}, drained at {at} s");
            moved += 1;
        }
        let counted = scene.device.sample().ended.get("drained").copied().unwrap_or(0);
        assert!(moved > 0 && counted == moved, "seed {seed}: {counted} counted, {:?}", scene.failed);
        let undrained = scene.device.commons().with(|books| books.pools[0].undrain(now, "node-2"));
        assert_eq!(undrained, Ok(()));
        scene.go_on(10);
        assert!(scene.connected(2) > led, "seed {seed}: it serves again");
    }
}

#[test]
fn a_node_that_takes_no_blocks_gets_no_peers_and_a_chain_that_stands_still_is_no_outage() {
    let mut scene = Scene::new(5);
    scene.go_on(4);
    scene.fates[0].turn(Happening::Lags);
    scene.go_on(25);
    assert_eq!(scene.conditions(), [Condition::Lagging, Condition::Up, Condition::Up]);
    let before = scene.connected(0);
    scene.go_on(5);
    assert_eq!(scene.connected(0), before);
    for fate in &scene.fates[1..] {
        fate.turn(Happening::Lags);
    }
    scene.rest(600_000);
    assert_eq!(scene.conditions()[1..], [Condition::Up, Condition::Up]);
    scene.go_on(5);
    assert!(scene.failed.is_empty(), "{:?}", scene.failed);
}

#[test]
fn where_all_nodes_are_down_a_newcomer_is_told_to_come_again() {
    let mut scene = Scene::new(7);
    scene.go_on(3);
    scene.rest(8_000);
    scene.fates.iter().for_each(|fate| fate.turn(Happening::Killed));
    scene.rest(4_000);
    assert_eq!(scene.conditions(), [Condition::Down; NODES]);
    let late = scene.come(Duration::from_secs(5));
    scene.rest(12_000);
    let (at, why) = &scene.failed[&late];
    assert_eq!(why, "closed with 1013");
    let waited = at.since(scene.came[&late]);
    assert!((Duration::from_secs(4)..Duration::from_secs(8)).contains(&waited), "{waited:?}");
    let early = scene.come(Duration::from_secs(5));
    scene.rest(1_000);
    scene.fates.iter().for_each(|fate| fate.turn(Happening::Lives));
    scene.rest(30_000);
    assert!(scene.failed.contains_key(&early) || scene.left.contains(&early));
    scene.go_on(5);
    scene.rest(10_000);
    assert!(scene.came.keys().rev().take(8).all(|peer| scene.left.contains(peer)), "{:?}", scene.failed);
}

#[test]
fn a_seed_repeats_every_frame_with_several_nodes() {
    let fingerprint = |seed| {
        let mut scene = Scene::new(seed);
        scene.go_on(4);
        scene.fates[0].turn(Happening::Killed);
        scene.go_on(4);
        scene.world.fingerprint()
    };
    assert_eq!(fingerprint(3), fingerprint(3));
    assert_ne!(fingerprint(3), fingerprint(4));
}

/// A policy of one rule, in force at once.
fn closing(reason: Reason) -> Government {
    let rule = ReasonRule { action: Some(Stated { value: Action::Close, line: 1 }), shadow: None };
    let layer = Layer { reasons: [(reason, rule)].into(), ..Layer::default() };
    let rules = Rules::new(Schema::embedded(), layer, Vec::new(), Friends::default());
    let bans = Bans::open(Setup {
        rules: BanRules::default(),
        file: None,
        close: true,
        shards: 1,
        tell: Box::new(|_| {}),
        clock: || 1_800_000_000,
    });
    let policy = Policy {
        path: None,
        text: String::new(),
        rules: Arc::new(rules),
        deny: Vec::new(),
        allow: Default::default(),
        friends: Arc::default(),
        quotas: None,
        slots: vec![Slots::default()],
        fingerprint: 0,
    };
    let every = Duration::from_secs(3_600);
    Government { bans: bans.expect("bans"), policies: vec![Arc::new(policy)], every, now: false }
}

#[test]
fn who_asks_for_blocks_that_nobody_has_is_told_so_counted_and_ended_where_the_policy_says_so() {
    let stay = Duration::from_secs(20);
    let mut scene = Scene::new(11);
    scene.rest(2_000);
    assert!(scene.known_peak() >= Some(HEIGHT));
    let astray = scene.visit(stay, GoodPeer::astray);
    scene.go_on(30);
    assert!(scene.left.contains(&astray) && scene.failed.is_empty(), "{:?}", scene.failed);
    assert!(scene.device.passed().beyond_peak > 2 * BEYOND_PEAK_MAX);

    let mut scene = Scene::governed(11, Some(closing(Reason::BeyondPeak)));
    scene.rest(2_000);
    let astray = scene.visit(stay, GoodPeer::astray);
    scene.go_on(30);
    let failed: Vec<u32> = scene.failed.keys().copied().collect();
    assert_eq!((failed, &*scene.failed[&astray].1), (vec![astray], "closed with 1008"));
    assert_eq!(scene.device.passed().beyond_peak, BEYOND_PEAK_MAX + 1);

    // Where the light peers see no node, nothing is known, and nothing is judged.
    let astray = scene.visit(stay, GoodPeer::astray);
    scene.rest(2_000);
    scene.device.commons().with(|books| {
        (0..NODES).for_each(|node| books.pools[0].lost(scene.world.now(), node, Loss::Unreachable));
    });
    assert_eq!(scene.known_peak(), None);
    scene.rest(30_000);
    assert!(scene.left.contains(&astray), "{:?}", scene.failed.get(&astray));
}
