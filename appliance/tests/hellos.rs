//! Peers whose ClientHello needs several segments, since it carries a post-quantum key share, before the real core in the lab's
//! world: they are served whether all of it comes, its first segment is lost, or it is overtaken by the rest. `SEED=n` repeats one
//! world.

#![cfg(feature = "lab")]

use std::net::Ipv4Addr;
use std::time::Duration;

use hedgerow::lab::Device;
use hedgerow_dataplane::Reason;
use hedgerow_dataplane::wire::Mac;
use hedgerow_lab::host::{Host, Place, socket};
use hedgerow_lab::line::{self, Common};
use hedgerow_lab::network::{Mishap, Path, Side, World};
use hedgerow_lab::node::Node;
use hedgerow_lab::random::Random;
use hedgerow_lab::site::{self, Ground, UNIX};
use hedgerow_lab::visitor::{GoodPeer, Note};
use hedgerow_lab::{Subject, crypto, seeds};
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::{Clock, mint};

const PORT: u16 = 8444;
const PEERS: u32 = 8;

/// What became of a world's peers.
struct Outcome {
    left: u32,
    failed: Vec<String>,
    reasons: Vec<(Reason, u64)>,
}

impl Outcome {
    fn count(&self, reason: Reason) -> u64 {
        self.reasons.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| *count)
    }
}

/// Peers on networks that carry packets of `mtu` bytes; the same befalls each one's hello.
fn run(seed: u64, mtu: usize, mishap: Option<Mishap>) -> Outcome {
    let mut random = Random::new(seed);
    let ground = Ground::v4(PORT);
    let common = Common { crypto: crypto::provider(random.next()), clock: Clock::at(UNIX) };
    let quantum = Common { crypto: crypto::quantum(&common.crypto), ..common.clone() };
    let (site, outside, inside) = site::lay_out(&ground, common.crypto.clone(), random.next());
    let mac = site.public_link.mac;
    let mut device = Device::new(site, 1, None).expect("a device");
    let authority = Authority::chia().expect("an authority");
    let mut world = World::new(outside, inside, mac, random.next());
    let config = line::server_config(&common, mint::peer(&authority, 0x6e6f_6465).expect("a certificate"));
    let node = Node::new(PORT, "mainnet", config.expect("TLS"), random.branch("node"));
    let near = Path::clean(Duration::from_micros(150));
    world.add(Side::Private, ground.node_host(random.next()), Box::new(node), near);
    // The light peer comes first.
    world.run_until(world.now() + Duration::from_secs(3), &mut device);
    for number in 1..=PEERS {
        let credential = mint::peer(&authority, u64::from(number) | 1 << 32).expect("a certificate");
        let (now, stay) = (world.now(), Duration::from_secs(2));
        let peer = GoodPeer::new(number, &quantum, credential, "mainnet", now, stay, random.branch("peer"));
        let place = Place {
            mac: Mac([2, 0x70, 0, 0, 0, number as u8]),
            address: Ipv4Addr::new(81, 2, number as u8, 10).into(),
            prefix: 24,
            gateway: Ipv4Addr::new(81, 2, number as u8, 254).into(),
            mtu,
            seed: random.next(),
        };
        let mut host = Host::new(place, now);
        let service = (ground.service.ip(), ground.service.port());
        assert!(host.connect(socket(1 << 16, 1 << 16, true), service, 40_000 + number as u16));
        let path = Path::clean(Duration::from_millis(20));
        let host = world.add(Side::Public, host, Box::new(peer.expect("TLS")), path);
        if let Some(mishap) = mishap {
            world.befall(host, mishap);
        }
        world.run_until(world.now() + Duration::from_millis(300), &mut device);
    }
    world.run_until(world.now() + Duration::from_secs(25), &mut device);
    let mut outcome = Outcome { left: 0, failed: Vec::new(), reasons: Vec::new() };
    for note in std::mem::take(&mut world.notes) {
        match note {
            Note::Left(..) => outcome.left += 1,
            Note::Failed(_, why) => outcome.failed.push(why),
            _ => {}
        }
    }
    outcome.reasons = device.sample().dataplane.reasons.iter().collect();
    outcome
}

#[test]
fn a_hello_in_segments_is_served_whatever_befalls_its_first() {
    let late = |millis| Some(Mishap::Late(Duration::from_millis(millis)));
    // Between the segments' arrival, after it, and after the first was sent again.
    let mishaps = [None, Some(Mishap::Lost), late(1), late(50), late(2_000)];
    for seed in seeds::from_environment(1).take(2) {
        // Two segments, and four; with 1,500 this client's hello would just fit one.
        for mtu in [1_400, 576] {
            for mishap in mishaps {
                let outcome = run(seed, mtu, mishap);
                let story = format!("seed {seed}, MTU {mtu}, {mishap:?}: {:?}", outcome.failed);
                assert_eq!(outcome.left, PEERS, "{story}");
                let overtaken = outcome.count(Reason::Overtaken);
                assert_eq!(overtaken >= u64::from(PEERS), mishap.is_some(), "{story}: {:?}", outcome.reasons);
                // Nobody is sent away while the beginning is on its way.
                assert_eq!(outcome.count(Reason::BadCookie), 0, "{story}: {:?}", outcome.reasons);
            }
        }
    }
}
