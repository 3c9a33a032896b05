//! Who gets in while somebody wants all the room: a whole device between crowds of attackers and honest newcomers with
//! stacks of their own. `SEED=n` repeats one world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::Mac;
use hedgerow_dataplane::{Reason, admit};
use hedgerow_lab::crowd::{Crowd, Home};
use hedgerow_lab::forwarder::{Forwarder, Limits};
use hedgerow_lab::host::{Host, Place, socket};
use hedgerow_lab::network::{Path, Side, World};
use hedgerow_lab::random::Random;
use hedgerow_lab::site::{self, Ground};
use hedgerow_lab::streams::{Manner, Note, Order, Peer, Server};
use hedgerow_lab::{Subject, crypto, seeds};

const PORT: u16 = 8444;
/// Flows of the device, two for each session: what is not kept for handshakes, friends and known peers makes some fifty
/// sessions.
const FLOWS: usize = 160;
/// Newcomers, two a second once the attackers have had ten seconds.
const NEWCOMERS: u32 = 60;

/// What became of one world.
struct Outcome {
    served: usize,
    /// Most flows at one time.
    flows: usize,
    reasons: Vec<(Reason, u64)>,
}

/// An honest newcomer from a network of its own.
fn newcomer(ground: &Ground, number: u32, random: &mut Random) -> Place {
    let [_, _, c, d] = number.to_be_bytes();
    let (address, prefix, gateway): (IpAddr, u8, IpAddr) = match ground.service.ip() {
        IpAddr::V4(_) => (Ipv4Addr::new(193, d, c, 7).into(), 24, Ipv4Addr::new(193, d, c, 1).into()),
        IpAddr::V6(_) => {
            let at = |last| Ipv6Addr::new(0x2a00, 0x1450 + number as u16, 1, 0, 0, 0, 0, last).into();
            (at(7), 64, at(1))
        }
    };
    Place { mac: Mac([2, 0x70, 0, 0, c, d]), address, prefix, gateway, mtu: 1_400, seed: random.next() }
}

fn run(seed: u64, ground: Ground, crowd: impl FnOnce(&Ground, Random) -> Crowd) -> Outcome {
    let mut random = Random::new(seed);
    let (site, outside, inside) = site::lay_out(&ground, crypto::provider(seed), random.next());
    let limits = Limits {
        admit: admit::Limits { flows: FLOWS as u32, handshakes_in_flight: 40, ..admit::Limits::default() },
        engine: EngineConfig { flows: FLOWS + 64, blocks: 512, ..EngineConfig::default() },
    };
    let mac = site.public_link.mac;
    let mut device = Forwarder::new(site, limits).expect("a node");
    let mut world = World::new(outside, inside, mac, random.next());
    let node = ground.node_host(random.next());
    world.add(
        Side::Private,
        node,
        Box::new(Server::new(PORT, 160, 1 << 12)),
        Path::clean(Duration::from_millis(1)),
    );
    world.add_source(Box::new(crowd(&ground, random.branch("crowd"))));
    let mut outcome = Outcome { served: 0, flows: 0, reasons: Vec::new() };
    let service = (ground.service.ip(), ground.service.port());
    for step in 0..20 + NEWCOMERS + 20 {
        if let Some(number) = step.checked_sub(20).filter(|number| *number < NEWCOMERS) {
            let mut host = Host::new(newcomer(&ground, number, &mut random), world.now());
            assert!(host.connect(socket(1 << 14, 1 << 14, true), service, 40_000 + number as u16));
            let order = Order { seed: number, up: 500, down: 2_000, server_pause: 0 };
            let peer = Box::new(Peer::new(order, Manner::Polite));
            world.add(Side::Public, host, peer, Path::clean(Duration::from_millis(20)));
        }
        world.run_until(world.now() + Duration::from_millis(500), &mut device);
        let now = device.sample().dataplane;
        outcome.flows = outcome.flows.max(now.flows);
        for note in std::mem::take(&mut world.notes) {
            match note {
                Note::PeerDone(_) => outcome.served += 1,
                Note::Corrupted(..) | Note::Surplus(..) => panic!("{note:?}"),
                _ => {}
            }
        }
    }
    outcome.reasons = device.sample().dataplane.reasons.iter().collect();
    outcome
}

/// Runs some worlds; the share of honest newcomers who were served, in per cent.
fn served(
    name: &str,
    ground: fn(u16) -> Ground,
    crowd: impl Fn(&Ground, Random) -> Crowd,
) -> (usize, Vec<Outcome>) {
    let outcomes: Vec<Outcome> =
        seeds::from_environment(4).take(4).map(|seed| run(seed, ground(PORT), &crowd)).collect();
    let served: usize = outcomes.iter().map(|outcome| outcome.served).sum();
    let percent = served * 100 / (outcomes.len() * NEWCOMERS as usize);
    println!("{name}: {percent}% of the newcomers served, {:?}", outcomes[0].reasons);
    assert!(outcomes.iter().all(|outcome| outcome.flows <= FLOWS));
    (percent, outcomes)
}

fn counted(outcome: &Outcome, reason: Reason) -> u64 {
    outcome.reasons.iter().find(|(name, _)| *name == reason).map_or(0, |(_, count)| *count)
}

/// Two hundred members of one /16, at addresses that never come twice.
#[test]
fn a_16_takes_its_share_and_no_more() {
    let (percent, outcomes) = served("one /16", Ground::v4, |ground, random| {
        let (within, rest) = (Duration::from_secs(5), Duration::from_secs(2));
        Crowd::new(ground.service, Home::Net16([91, 65]), 200, within, rest, random)
    });
    assert_eq!(percent, 100);
    assert!(outcomes.iter().all(|outcome| counted(outcome, Reason::PrefixQuota) > 100));
}

#[test]
fn a_32_of_ipv6_takes_its_share_and_no_more() {
    let (percent, outcomes) = served("one IPv6 /32", Ground::v6, |ground, random| {
        let (within, rest) = (Duration::from_secs(5), Duration::from_secs(2));
        Crowd::new(ground.service, Home::Net32([0x2a, 2, 8, 0x10]), 200, within, rest, random)
    });
    assert_eq!(percent, 100);
    assert!(outcomes.iter().all(|outcome| counted(outcome, Reason::PrefixQuota) > 100));
}

/// Sixty polite bots from sixty networks: more than there is room for, first to come, never leaving by themselves.
#[test]
fn sixty_polite_bots_hold_all_slots_until_somebody_comes() {
    let (percent, outcomes) = served("sixty polite bots", Ground::v4, |ground, random| {
        let (within, rest) = (Duration::from_secs(5), Duration::from_secs(5));
        Crowd::new(ground.service, Home::Apart(60), 60, within, rest, random)
    });
    // A session of a tenth of a second is displaced by a bot that comes again once in a hundred times or so.
    assert!(percent >= 95, "{percent}%");
    assert!(outcomes.iter().all(|outcome| counted(outcome, Reason::Outranked) > 40));
}
