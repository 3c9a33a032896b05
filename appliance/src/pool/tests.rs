//! Turns, pace, queue and memory of a pool, with a clock of our own.

use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::Target;
use hedgerow_dataplane::wire::{Address, LinkId};
use hedgerow_policy::chia::NodeType;
use hedgerow_policy::gate::light::{Peak, Sighting};
use hedgerow_policy::{DialFailure, PeerId};

use super::duty::Unchanged;
use super::health::{Condition, Loss};
use super::node::{Duty, Role};
use super::{Answer, Caller, NodeConfig, PATIENCE, Pool, PoolConfig, Stage, Ticket, Wish};

mod chooser;

const START: Instant = Instant::from_millis(1_000);

fn pool(nodes: u8, dials_per_second: u32) -> Pool {
    let node = |n: u8| {
        let target = Target { link: LinkId(0), address: Address::from_v4([10, 0, 0, n]), port: 8444 };
        NodeConfig::new(n.to_string(), target)
    };
    let config = PoolConfig {
        name: "front".into(),
        nodes: (0..nodes).map(node).collect(),
        transparent: false,
        dials_per_second,
        dial_timeout: Duration::from_secs(5),
        slots: 1_000,
        ..PoolConfig::default()
    };
    Pool::new(config, START)
}

fn ticket(index: u32) -> Ticket {
    Ticket { core: 0, index, generation: 0 }
}

fn caller(ticket: Ticket, peer: Option<PeerId>, v4: bool) -> Caller {
    Caller {
        ticket,
        peer,
        v4,
        kind: None,
        backend: false,
        source: Address::from_v4([192, 0, 2, 1]),
        friend: false,
    }
}

fn dialled(answer: Answer) -> (Wish, usize) {
    match answer {
        Answer::Dial(wish, node) => (wish, node),
        other => panic!("expected a dial, got {other:?}"),
    }
}

/// Dials that the pool allows in `seconds`, polled every millisecond.
fn served(pool: &mut Pool, from: Instant, millis: u64) -> usize {
    let mut count = 0;
    for ms in 0..millis {
        while let Some(answer) = pool.poll(from + Duration::from_millis(ms), 0) {
            count += usize::from(matches!(answer, Answer::Dial(..)));
        }
    }
    count
}

#[test]
fn nodes_take_turns() {
    let mut pool = pool(3, 10);
    let nodes: Vec<usize> =
        (0..6).map(|i| dialled(pool.ask(START, caller(ticket(i), None, true))).1).collect();
    assert_eq!(nodes, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_failed_dial_goes_to_the_next_node_and_ends_when_all_have_failed() {
    let mut pool = pool(2, 10);
    let (wish, first) = dialled(pool.ask(START, caller(ticket(1), None, true)));
    let (wish, second) = dialled(pool.failed(START, wish, first));
    assert_ne!(first, second);
    assert_eq!(pool.failed(START, wish, second), Answer::Refused(ticket(1), DialFailure::NoNode));
    assert_eq!(pool.taken(), 0, "a refusal frees the slot");
}

#[test]
fn a_node_that_failed_is_spared_while_another_is_left() {
    let mut pool = pool(2, 10);
    let (wish, first) = dialled(pool.ask(START, caller(ticket(0), None, true)));
    pool.failed(START, wish, first);
    for i in 1..4 {
        assert_ne!(dialled(pool.ask(START, caller(ticket(i), None, true))).1, first);
    }
    let later = START + Duration::from_secs(11);
    let nodes: Vec<usize> =
        (4..6).map(|i| dialled(pool.ask(later, caller(ticket(i), None, true))).1).collect();
    assert!(nodes.contains(&first), "it is asked again after a while");
}

#[test]
fn strangers_are_served_at_half_the_pace_and_the_rest_is_for_known_ids() {
    let mut pool = pool(1, 10);
    let id = PeerId([7; 32]);
    pool.remember(id);
    let now = (0..100)
        .filter(|&i| matches!(pool.ask(START, caller(ticket(i), None, true)), Answer::Dial(..)))
        .count();
    assert_eq!(now, 5, "half of a second's allowance");
    assert_eq!(pool.waiting(), 25, "half of the queue of five seconds");
    dialled(pool.ask(START, caller(ticket(200), Some(id), true)));
    // The one dial above came from the reserved half, so strangers still get their 5 a second.
    assert_eq!(served(&mut pool, START, 2_001), 10);
}

#[test]
fn no_node_is_dialled_faster_than_it_can_bear() {
    let mut pool = pool(1, 10);
    let id = PeerId([7; 32]);
    pool.remember(id);
    let mut dials = 0;
    for ms in 0..10_000 {
        let now = START + Duration::from_millis(ms);
        for peer in [None, Some(id)] {
            dials +=
                usize::from(matches!(pool.ask(now, caller(ticket(ms as u32), peer, true)), Answer::Dial(..)));
        }
        while let Some(answer) = pool.poll(now, 0) {
            dials += usize::from(matches!(answer, Answer::Dial(..)));
        }
    }
    assert!((100..=110).contains(&dials), "{dials} dials in ten seconds at 10 a second and a second's burst");
}

#[test]
fn patience_ends() {
    let mut pool = pool(1, 1);
    dialled(pool.ask(START, caller(ticket(0), None, true)));
    for i in 1..4 {
        pool.ask(START, caller(ticket(i), None, true));
    }
    assert!(pool.deadline(START).is_some_and(|at| at > START && at <= START + PATIENCE));
    let late = START + PATIENCE;
    assert_eq!(pool.poll(late, 0), Some(Answer::Refused(ticket(1), DialFailure::Busy)));
}

#[test]
fn who_leaves_waits_no_longer_and_frees_a_slot() {
    let mut pool = pool(1, 1);
    dialled(pool.ask(START, caller(ticket(0), None, true)));
    assert_eq!(pool.ask(START, caller(ticket(1), None, true)), Answer::Queued);
    pool.leave(START, &caller(ticket(1), None, true), Stage::Queued);
    assert_eq!((pool.waiting(), pool.taken()), (0, 1));
    assert_eq!(pool.deadline(START), None);
}

#[test]
fn slots_are_a_limit() {
    let mut pool = pool(1, 1_000);
    pool.config.slots = 2;
    dialled(pool.ask(START, caller(ticket(0), None, true)));
    dialled(pool.ask(START, caller(ticket(1), None, true)));
    assert_eq!(pool.ask(START, caller(ticket(2), None, true)), Answer::Refused(ticket(2), DialFailure::Busy));
    pool.leave(START, &caller(ticket(0), None, true), Stage::Dialling(0));
    dialled(pool.ask(START, caller(ticket(2), None, true)));
}

#[test]
fn a_transparent_pool_serves_a_family_with_its_own_nodes_only() {
    let mut pool = pool(1, 10);
    pool.config.transparent = true;
    assert_eq!(
        pool.ask(START, caller(ticket(0), None, false)),
        Answer::Refused(ticket(0), DialFailure::NoNode)
    );
    dialled(pool.ask(START, caller(ticket(1), None, true)));
}

#[test]
fn the_memory_of_known_ids_is_bounded() {
    let mut pool = pool(1, 10);
    for n in 0..10_000u32 {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        pool.remember(PeerId(id));
    }
    assert_eq!((pool.ids.len(), pool.order.len()), (super::KNOWN_IDS, super::KNOWN_IDS));
}

fn saw(pool: &mut Pool, now: Instant, node: usize, sighting: Sighting) {
    pool.saw(now, node, sighting);
}

fn peak(height: u32) -> Sighting {
    Sighting::Peak(Peak { hash: [1; 32], height, weight: u128::from(height) })
}

/// Three nodes that light peers look at, all of them up.
fn watched() -> Pool {
    let mut pool = pool(3, 100);
    let mut config = pool.config.clone();
    config.watched = true;
    pool = Pool::new(config, START);
    for node in 0..3 {
        saw(&mut pool, START, node, Sighting::Ready);
        saw(&mut pool, START, node, peak(100));
    }
    pool
}

fn application(index: u32) -> Caller {
    Caller { backend: true, ..caller(ticket(index), None, true) }
}

/// Where so many sessions go that ask one after the other, once each is connected.
fn spread(pool: &mut Pool, now: Instant, sessions: u32) -> Vec<usize> {
    let mut counts = vec![0; pool.nodes.len()];
    for index in 0..sessions {
        let now = now + Duration::from_millis(u64::from(index) * 20);
        let (_, node) = dialled(pool.ask(now, caller(ticket(index), None, true)));
        pool.connected(node, false);
        counts[node] += 1;
    }
    counts
}

fn states(pool: &Pool, now: Instant) -> Vec<Condition> {
    pool.nodes(now).map(|(_, figures)| figures.condition).collect()
}

#[test]
fn sessions_follow_weights_and_the_least_busy_comes_first() {
    let mut pool = watched();
    pool.weigh("1", 3).unwrap();
    assert_eq!(spread(&mut pool, START, 50), [10, 30, 10]);
    assert_eq!(
        pool.weigh("7", 2),
        Err(Unchanged::NoNode("7".into(), vec!["`0`".into(), "`1`".into(), "`2`".into()]))
    );
}

#[test]
fn a_node_that_is_down_or_behind_gets_nobody_while_one_is_in_sync() {
    let mut pool = watched();
    for _ in 0..2 {
        pool.lost(START, 0, Loss::Unreachable);
    }
    saw(&mut pool, START, 1, peak(1_000));
    pool.judge(START);
    pool.judge(START + Duration::from_secs(11));
    assert_eq!(states(&pool, START), [Condition::Down, Condition::Up, Condition::Syncing]);
    assert_eq!(spread(&mut pool, START + Duration::from_secs(11), 20), [0, 20, 0]);
}

#[test]
fn a_node_that_comes_back_begins_with_a_small_share() {
    let mut pool = watched();
    for _ in 0..2 {
        pool.lost(START, 0, Loss::Unreachable);
    }
    spread(&mut pool, START, 100);
    let back = START + Duration::from_secs(60);
    saw(&mut pool, back, 0, Sighting::Ready);
    saw(&mut pool, back, 0, peak(100));
    pool.judge(back + Duration::from_secs(6));
    let [first, ..] = spread(&mut pool, back + Duration::from_secs(6), 30)[..] else { panic!() };
    assert!((3..=12).contains(&first), "{first} of 30");
    let [first, ..] = spread(&mut pool, back + Duration::from_secs(120), 100)[..] else { panic!() };
    assert!(first > 50, "{first} of 100, to make up for what it lacks");
}

#[test]
fn slow_nodes_are_spared_only_while_enough_others_are_well() {
    let mut pool = watched();
    let slow = |pool: &mut Pool, node| {
        (0..3).for_each(|_| saw(pool, START, node, Sighting::Reply(Duration::from_secs(3))));
    };
    slow(&mut pool, 0);
    let later = START + Duration::from_secs(11);
    pool.judge(later);
    assert_eq!(states(&pool, later)[0], Condition::Degraded);
    assert_eq!(spread(&mut pool, later, 20)[0], 0);
    slow(&mut pool, 1);
    let later = START + Duration::from_secs(25);
    pool.judge(later);
    pool.judge(later + Duration::from_secs(11));
    assert!(
        spread(&mut pool, later + Duration::from_secs(11), 20)[0] > 10,
        "two of three are slow: the load is"
    );
}

#[test]
fn where_no_node_serves_newcomers_wait_a_while_and_hear_that_there_is_none() {
    let mut pool = watched();
    for node in 0..3 {
        (0..2).for_each(|_| pool.lost(START, node, Loss::Unreachable));
    }
    assert_eq!(pool.ask(START, caller(ticket(0), None, true)), Answer::Queued);
    assert_eq!(pool.ask(START, caller(ticket(1), None, true)), Answer::Queued);
    saw(&mut pool, START + Duration::from_secs(1), 2, Sighting::Ready);
    assert_eq!(pool.poll(START + Duration::from_secs(1), 0), None);
    pool.judge(START + Duration::from_secs(2));
    let late = START + PATIENCE;
    assert_eq!(pool.poll(late, 0), Some(Answer::Refused(ticket(0), DialFailure::NoNode)));
    pool.judge(START + Duration::from_secs(7));
    assert_eq!(pool.ask(late + Duration::from_secs(2), caller(ticket(3), None, true)), Answer::Queued);
}

#[test]
fn the_application_gets_protected_nodes_in_sync_and_public_ones_otherwise_and_is_never_paced() {
    let mut pool = watched();
    pool.nodes[0].config.role = Role::Protected;
    pool.nodes[2].config.role = Role::Hidden;
    let ask = |pool: &mut Pool, now, caller| match pool.ask(now, caller) {
        Answer::Dial(_, node) => Some(node),
        _ => None,
    };
    assert!((0..500).all(|index| ask(&mut pool, START, application(index)) == Some(0)));
    assert_eq!(
        ask(&mut pool, START, caller(ticket(900), None, true)),
        Some(1),
        "peers see public nodes only"
    );
    pool.lost(START, 0, Loss::Unreachable);
    assert_eq!(ask(&mut pool, START, application(901)), Some(1), "at the first sign, before it is down");
    for node in [0, 1] {
        (0..2).for_each(|_| pool.lost(START, node, Loss::Unreachable));
    }
    assert_eq!(ask(&mut pool, START, application(902)), None, "a hidden node serves nobody");
    assert_eq!(pool.taken(), 1, "the application takes no peer's slot");
}

#[test]
fn a_kind_of_peer_gets_as_many_slots_of_a_node_as_there_are() {
    let mut pool = watched();
    pool.config.node_slots = vec![(NodeType::Wallet, 2)];
    let wallet = |index| Caller { kind: Some(NodeType::Wallet), ..caller(ticket(index), None, true) };
    let wishes: Vec<(Wish, usize)> = (0..6).map(|index| dialled(pool.ask(START, wallet(index)))).collect();
    assert_eq!(pool.ask(START, wallet(6)), Answer::Refused(ticket(6), DialFailure::Slots));
    dialled(pool.ask(START, caller(ticket(7), None, true)));
    let (wish, node) = wishes[3];
    pool.connected(node, false);
    pool.leave(START, &wish.caller, Stage::Connected(node));
    assert_eq!(dialled(pool.ask(START, wallet(8))).1, node);
}

#[test]
fn a_drain_stops_new_sessions_ends_the_others_in_turn_and_is_over_when_none_is_left() {
    let mut pool = watched();
    let before = spread(&mut pool, START, 30);
    pool.drain(START, "1", None).unwrap();
    assert_eq!(spread(&mut pool, START + Duration::from_secs(1), 20)[1], 0);
    assert_eq!(pool.leaving().map(|leaving| leaving.node).collect::<Vec<_>>(), [1]);
    // The two others take a hundred dials a second each: half of that is the pace, cores look four times a second.
    let mut ended = 0;
    for look in 0..40 {
        let now = START + Duration::from_millis(look * 250);
        while ended < before[1] && pool.take_turn(now, 1) {
            ended += 1;
            pool.leave(START, &caller(ticket(0), None, true), Stage::Connected(1));
        }
        assert!(ended as u64 <= 1 + look * 25 + 1, "{ended} after {look} looks");
    }
    pool.judge(START + Duration::from_secs(20));
    assert_eq!(pool.nodes(START).nth(1).map(|(_, figures)| figures.duty), Some(Duty::Maintenance(None)));
    assert_eq!(pool.undrain(START, "0"), Err(Unchanged::Serving("0".into())));
    pool.undrain(START + Duration::from_secs(30), "1").unwrap();
    assert!(spread(&mut pool, START + Duration::from_secs(120), 30)[1] > 0);
    let told: Vec<&str> = std::iter::from_fn(|| pool.news()).map(|news| news.state).collect();
    assert_eq!(told, ["up", "up", "up", "draining", "maintenance", "serving"]);
}

#[test]
fn a_drain_for_a_time_ends_by_itself() {
    let mut pool = watched();
    pool.drain(START, "1", Some(START + Duration::from_secs(1_200))).unwrap();
    pool.judge(START + Duration::from_secs(1_199));
    assert_eq!(spread(&mut pool, START + Duration::from_secs(1_199), 9)[1], 0);
    pool.judge(START + Duration::from_secs(1_200));
    assert!(spread(&mut pool, START + Duration::from_secs(1_270), 9)[1] > 0);
}

#[test]
fn nodes_come_and_go_and_a_place_is_used_again_only_when_nothing_refers_to_it() {
    let mut pool = watched();
    let target = Target { link: LinkId(0), address: Address::from_v4([10, 0, 0, 9]), port: 8444 };
    assert_eq!(pool.add(START, NodeConfig::new("0", target)), Err(Unchanged::Twin("0".into())));
    pool.add(START, NodeConfig::new("new", target)).unwrap();
    assert_eq!(pool.add(START, NodeConfig::new("other", target)), Err(Unchanged::Twin("new".into())));
    let sessions = spread(&mut pool, START, 30);
    assert_eq!(pool.remove("0", false), Err(Unchanged::Busy("0".into(), sessions[0])));
    pool.remove("0", true).unwrap();
    assert_eq!(spread(&mut pool, START + Duration::from_secs(5), 9)[0], 0);
    assert_eq!(pool.leaving().next().map(|leaving| (leaving.node, leaving.since)), Some((0, None)));
    let another = Target { address: Address::from_v4([10, 0, 0, 8]), ..target };
    pool.add(START, NodeConfig::new("fifth", another)).unwrap();
    assert_eq!(pool.nodes.len(), 5);
    (0..sessions[0]).for_each(|_| pool.leave(START, &caller(ticket(0), None, true), Stage::Connected(0)));
    let sixth = Target { address: Address::from_v4([10, 0, 0, 7]), ..target };
    pool.add(START, NodeConfig::new("sixth", sixth)).unwrap();
    assert_eq!((pool.nodes.len(), pool.find("sixth")), (5, Ok(0)));
    for name in ["new", "fifth", "sixth", "1"] {
        pool.remove(name, true).unwrap();
    }
    assert_eq!(pool.remove("2", true), Err(Unchanged::Last("2".into())));
}

/// Loses nodes for good.
fn down(pool: &mut Pool, nodes: &[usize]) {
    for node in nodes {
        (0..2).for_each(|_| pool.lost(START, *node, Loss::Unreachable));
    }
}

#[test]
fn who_has_tried_the_only_node_that_is_up_stands_in_nobodys_way() {
    let mut pool = watched();
    down(&mut pool, &[0, 2]);
    let (wish, node) = dialled(pool.ask(START, caller(ticket(1), None, true)));
    assert_eq!((node, pool.failed(START, wish, node)), (1, Answer::Queued));
    assert_eq!(dialled(pool.ask(START, caller(ticket(2), None, true))).1, 1);
}

#[test]
fn who_is_of_a_family_whose_nodes_are_down_stands_in_nobodys_way() {
    let mut config = watched().config.clone();
    config.transparent = true;
    config.nodes[0].target.address = "fd00::1".parse::<std::net::IpAddr>().unwrap().into();
    let mut pool = Pool::new(config, START);
    down(&mut pool, &[0]);
    assert_eq!(pool.ask(START, caller(ticket(1), None, false)), Answer::Queued);
    assert_ne!(dialled(pool.ask(START, caller(ticket(2), None, true))).1, 0);
}

#[test]
fn who_waits_for_a_slot_of_its_kind_stands_in_nobodys_way() {
    let mut config = watched().config.clone();
    config.node_slots = vec![(NodeType::Wallet, 1)];
    let mut pool = Pool::new(config, START);
    down(&mut pool, &[0, 2]);
    let wallet = |index| Caller { kind: Some(NodeType::Wallet), ..caller(ticket(index), None, true) };
    dialled(pool.ask(START, wallet(1)));
    assert_eq!(pool.ask(START, wallet(2)), Answer::Queued);
    assert_eq!(dialled(pool.ask(START, caller(ticket(3), None, true))).1, 1);
}

/// A peer of a network of its own, or of one that it shares.
fn peer(index: u32, network: u8) -> Caller {
    let source = Address::from_v4([20, network, (index >> 8) as u8, index as u8]);
    Caller { source, ..caller(ticket(index), Some(PeerId([index as u8; 32])), true) }
}

/// A pool whose slots are all held by bots from so many networks.
fn squatted(slots: usize, networks: u32) -> Pool {
    let mut pool = pool(1, 1_000);
    pool.config.slots = slots;
    pool.reseed([7; 16]);
    for index in 0..slots as u32 {
        let (wish, node) = dialled(pool.ask(START, peer(index, (index % networks) as u8)));
        pool.connected(node, wish.caller.backend);
    }
    pool
}

/// A newcomer asks; whom it displaced, whose slot it then gets.
fn comes(pool: &mut Pool, now: Instant, newcomer: Caller) -> Option<Ticket> {
    if let Answer::Refused(_, why) = pool.ask(now, newcomer) {
        assert_eq!(why, DialFailure::Busy);
        return None;
    }
    let victim = pool.displaced().expect("somebody has to go");
    // Who they are matters to nobody but the roster.
    pool.leave(now, &Caller { ticket: victim, ..newcomer }, Stage::Connected(0));
    Some(victim)
}

#[test]
fn polite_bots_do_not_hold_a_full_pool_for_ever() {
    let mut pool = squatted(60, 3);
    let mut served = Vec::new();
    for second in 1..=40 {
        let newcomer = peer(1_000 + second, 100 + second as u8);
        let victim = comes(&mut pool, START + Duration::from_secs(second.into()), newcomer);
        assert!(victim.is_some_and(|victim| victim.index < 60), "{second}: {victim:?}");
        served.push(newcomer.ticket);
    }
    assert_eq!(pool.taken(), 60);
    // More bots of the same networks displace only each other.
    for second in 41..=60 {
        let bot = peer(2_000 + second, (second % 3) as u8);
        let victim = comes(&mut pool, START + Duration::from_secs(second.into()), bot);
        assert!(victim.is_none_or(|victim| !served.contains(&victim)), "{second}: {victim:?}");
    }
}

#[test]
fn one_slot_changes_hands_in_a_second_and_only_for_who_has_shown_an_identity() {
    let mut pool = squatted(8, 2);
    let now = START + Duration::from_secs(5);
    assert!(comes(&mut pool, now, peer(100, 50)).is_some());
    assert!(comes(&mut pool, now + Duration::from_millis(999), peer(101, 51)).is_none());
    let nobody = Caller { peer: None, ..peer(102, 52) };
    assert!(comes(&mut pool, now + Duration::from_secs(2), nobody).is_none());
    assert!(comes(&mut pool, now + Duration::from_secs(2), peer(103, 53)).is_some());
}

#[test]
fn friends_and_useful_peers_stay_and_friends_get_in() {
    let mut pool = squatted(8, 8);
    let now = |second| START + Duration::from_secs(second);
    (0..2).for_each(|index| pool.credit(now(1), ticket(index), 5));
    let friend = Caller { friend: true, ..peer(50, 0) };
    assert!(comes(&mut pool, now(2), friend).is_some());
    for second in 3..60 {
        let victim = comes(&mut pool, now(second), peer(100 + second as u32, 100 + second as u8));
        let gone = victim.expect("a newcomer of another network gets in");
        assert!(gone.index >= 2 && gone != friend.ticket, "{gone:?}");
    }
}

#[test]
fn a_kind_that_is_full_gives_way_to_its_own() {
    let mut pool = pool(1, 1_000);
    pool.config.node_slots = vec![(NodeType::Wallet, 2)];
    let of = |kind, one: Caller| Caller { kind: Some(kind), ..one };
    for index in 0..2 {
        dialled(pool.ask(START, of(NodeType::Wallet, peer(index, 1))));
        pool.connected(0, false);
    }
    dialled(pool.ask(START, of(NodeType::FullNode, peer(9, 2))));
    pool.connected(0, false);
    let newcomer = of(NodeType::Wallet, peer(20, 3));
    let later = START + Duration::from_secs(2);
    assert_eq!(pool.ask(later, newcomer), Answer::Queued);
    let victim = pool.displaced().unwrap();
    assert!(victim.index < 2);
    assert_eq!(pool.poll(later, 0), None, "the slot is not free yet");
    pool.leave(later, &of(NodeType::Wallet, peer(victim.index, 1)), Stage::Connected(0));
    assert!(
        matches!(pool.poll(later, 0), Some(Answer::Dial(wish, 0)) if wish.caller.ticket == newcomer.ticket)
    );
}
