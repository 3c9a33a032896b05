//! A core between a peer and a node that are shards of their own, over ports in memory and a clock of our own.

mod books;
mod departures;
mod rig;

use std::time::Duration;

use hedgerow_dataplane::Reason as FlowReason;
use hedgerow_policy::Reason;

use super::Happened;
use rig::{BESIDE, INSIDE, NODE, OTHER_PEER, PEER, Plan, World};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_relay_carries_both_ways_and_half_closes() {
    let mut world = World::relays(Plan::default());
    let peer = world.connect(PEER);
    world.say(peer, b"hello");
    let node = world.node_flow();
    assert_eq!(world.node.heard(node), b"hello");
    world.node.say(node, b"world");
    world.settle();
    assert_eq!(world.peer.heard(peer), b"world");
    world.peer.finish(peer);
    world.settle();
    world.node.say(node, b"after the peer's FIN");
    world.settle();
    assert_eq!(world.peer.heard(peer), b"after the peer's FIN");
    world.node.finish(node);
    world.settle();
    let statistics = world.statistics();
    assert_eq!(statistics.ended[Reason::Finished], 1, "{:?}", statistics.ended);
    assert_eq!((statistics.sessions, statistics.shard.buffer_bytes), (0, 0));
    assert_eq!(world.peer.closed(peer), Some(FlowReason::Finished));
}

#[test]
fn megabytes_arrive_whole_through_windows_of_any_size() {
    let mut world = World::relays(Plan::default());
    let peer = world.connect(PEER);
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut sent, mut arrived) = (0, Vec::new());
    while arrived.len() < data.len() {
        let before = arrived.len();
        sent += world.peer.say(peer, &data[sent..]);
        world.settle();
        arrived.extend(world.node.heard(world.node_flow()));
        assert!(arrived.len() > before, "stuck after {before} bytes");
    }
    assert!(arrived == data);
    assert!(world.statistics().shard.buffer_bytes_peak <= 4 << 20);
}

#[test]
fn a_source_that_moves_more_than_it_may_waits_and_loses_nothing() {
    const RATE: usize = 1 << 20;
    let mut world = World::relays(Plan { source_bytes: RATE as u32, ..Plan::default() });
    let peer = world.connect(PEER);
    world.say(peer, b"x");
    let node = world.node_flow();
    let other = world.connect(OTHER_PEER);
    // Both ways at once, as fast as the windows let it, for ten seconds.
    let data = vec![7; 64 << 10];
    let (mut sent, mut heard) = ([1, 0], [0, 0]);
    for _ in 0..100 {
        sent[0] += world.peer.say(peer, &data);
        sent[1] += world.node.say(node, &data);
        world.pass(Duration::from_millis(100));
        heard[0] += world.node.heard(node).len();
        heard[1] += world.peer.heard(peer).len();
    }
    let (moved, most) = (heard[0] + heard[1], 11 * RATE + (64 << 10));
    assert!((10 * RATE..most).contains(&moved), "{moved} bytes in ten seconds");
    assert!(heard.iter().all(|&way| way > moved / 4), "each way has its share: {heard:?}");
    assert!(world.statistics().held_back > 10);
    assert_eq!(world.peer.closed(other), None);
    world.pass(seconds(3));
    heard[0] += world.node.heard(node).len();
    heard[1] += world.peer.heard(peer).len();
    assert_eq!(heard, sent, "what was held back arrives");
}

#[test]
fn a_session_that_stands_has_no_handshake_deadline() {
    let mut world = World::relays(Plan::default());
    let peer = world.connect(PEER);
    world.say(peer, b"x");
    world.pass(seconds(60));
    assert_eq!(world.statistics().sessions_dialled, 1);
    assert_eq!(world.peer.closed(peer), None);
}

#[test]
fn the_next_node_is_asked_when_one_refuses_and_the_peer_is_reset_when_none_is_left() {
    let mut world = World::relays(Plan { dead_nodes: 1, ..Plan::default() });
    let peer = world.connect(PEER);
    world.say(peer, b"hello");
    assert_eq!(world.node.heard(world.node_flow()), b"hello");
    let nodes: Vec<(u64, u64)> =
        world.statistics().pools[0].nodes.iter().map(|(_, n)| (n.connected, n.failed)).collect();
    assert_eq!(nodes, [(0, 1), (1, 0)]);

    let mut world = World::relays(Plan { dead_nodes: 1, live_nodes: 0, ..Plan::default() });
    let peer = world.connect(PEER);
    assert_eq!(world.peer.closed(peer), Some(FlowReason::Reset));
    assert_eq!(world.statistics().ended[Reason::NoNode], 1, "{:?}", world.statistics().ended);
}

#[test]
fn a_node_that_does_not_answer_is_given_up_in_time() {
    let mut world = World::relays(Plan { silent_nodes: 1, ..Plan::default() });
    let peer = world.connect(PEER);
    world.say(peer, b"hello");
    world.pass(seconds(3));
    assert_eq!(world.node.heard(world.node_flow()), b"hello", "after two seconds the second node was asked");
}

#[test]
fn nodes_see_the_peers_address_where_the_pool_is_transparent() {
    let mut world = World::relays(Plan { transparent: true, ..Plan::default() });
    let peer = world.connect(PEER);
    world.say(peer, b"hello");
    let node = world.node_flow();
    assert_eq!(world.node.remote(node).ip(), PEER);
    assert_eq!(world.node.heard(node), b"hello");
}

#[test]
fn no_node_sees_an_address_of_its_own_network() {
    let mut world = World::relays(Plan { transparent: true, ..Plan::default() });
    let peer = world.connect(BESIDE);
    world.say(peer, b"hello");
    let node = world.node_flow();
    assert_eq!(world.node.remote(node).ip(), INSIDE, "the node would answer past us");
    assert_eq!(world.node.heard(node), b"hello");
}

#[test]
fn a_panic_in_a_session_ends_that_session_only() {
    let mut world = World::scripted(Plan::default());
    let (good, bad) = (world.connect(PEER), world.connect(PEER));
    world.say(good, b"Da");
    world.say(bad, b"!");
    assert_eq!(world.peer.closed(bad), Some(FlowReason::Reset));
    world.say(good, b".");
    assert_eq!(world.peer.closed(good), None);
    let statistics = world.statistics();
    assert_eq!((statistics.crashed, statistics.sessions), (1, 1));
}

#[test]
fn a_panic_in_a_sessions_work_ends_that_session_only() {
    let mut world = World::scripted(Plan::default());
    let (good, bad) = (world.connect(PEER), world.connect(PEER));
    world.say(good, b"W");
    world.say(bad, b"w");
    assert_eq!(world.peer.closed(bad), Some(FlowReason::Reset));
    assert_eq!(world.peer.heard(good), b"worked");
    assert_eq!((world.statistics().crashed, world.statistics().sessions), (1, 1));
}

#[test]
fn at_most_one_step_of_work_runs_between_two_receive_polls() {
    let mut world = World::scripted(Plan::default());
    let peers: Vec<_> = (0..8).map(|_| world.connect(PEER)).collect();
    for peer in peers {
        world.peer.say(peer, b"W");
    }
    let mut done = 0;
    for _ in 0..64 {
        world.turn();
        let now = world.statistics().work.done;
        assert!(now - done <= 1, "{} steps in one turn", now - done);
        done = now;
    }
    assert_eq!(done, 8);
}

#[test]
fn workers_do_the_work_and_a_panic_in_it_ends_its_session_only() {
    let mut world = World::scripted(Plan::default());
    let workers = world.employ(2);
    let peers: Vec<_> = (0..20).map(|_| world.connect(PEER)).collect();
    for (number, &peer) in peers.iter().enumerate() {
        world.peer.say(peer, if number % 5 == 3 { b"w" } else { b"W" });
    }
    let over = |world: &mut World, number: usize, peer| match number % 5 {
        3 => world.peer.closed(peer) == Some(FlowReason::Reset),
        _ => world.peer.told(peer) == b"worked",
    };
    world.turn_until(|world| (0..).zip(&peers).all(|(number, &peer)| over(world, number, peer)));
    let statistics = world.statistics();
    assert_eq!((statistics.crashed, statistics.sessions), (4, 16));
    assert_eq!((statistics.work.done, statistics.work.waiting), (20, 0));
    drop(workers);
}

#[test]
fn a_session_that_ends_while_a_worker_has_its_step_leaves_nothing_behind() {
    let mut world = World::scripted(Plan::default());
    let _workers = world.employ(1);
    for _ in 0..50 {
        let peer = world.connect(PEER);
        world.peer.say(peer, b"W");
        world.turn();
        world.peer.abort(peer);
        world.settle();
    }
    world.turn_until(|world| world.statistics().work.waiting == 0);
    assert!(world.holdings().iter().all(|(_, count)| *count == 0), "{:?}", world.holdings());
}

#[test]
fn work_that_finds_the_queue_full_costs_the_oldest_stranger_its_session() {
    let mut world = World::scripted(Plan { work_queue: 2, ..Plan::default() });
    let peers: Vec<_> = (0..4).map(|_| world.connect(PEER)).collect();
    // All in one batch of frames, so that no step runs in between.
    for &peer in &peers {
        world.peer.say(peer, b"W");
    }
    world.settle();
    let closed: Vec<bool> = peers.iter().map(|&peer| world.peer.closed(peer).is_some()).collect();
    assert_eq!(closed, [true, true, false, false]);
    assert_eq!(world.statistics().work.dropped, 2);
}

#[test]
fn a_newer_session_from_the_same_source_takes_over_its_identity() {
    let mut world = World::scripted(Plan::default());
    let (old, new) = (world.connect(PEER), world.connect(PEER));
    world.say(old, b"Da");
    world.say(new, b"Da");
    assert_eq!(world.peer.closed(old), Some(FlowReason::Reset));
    assert_eq!(world.peer.heard(new), b"dialled");
    assert_eq!(world.statistics().ended[Reason::Replaced], 1);
}

#[test]
fn another_source_is_refused_while_the_holder_of_the_identity_answers() {
    let mut world = World::scripted(Plan::default());
    let (old, new) = (world.connect(PEER), world.connect(OTHER_PEER));
    world.say(old, b"Da");
    assert_eq!(world.peer.heard(old), b"dialled");
    world.say(new, b"Da");
    assert_eq!(world.peer.heard(old), b"ping", "the holder is asked for a sign of life");
    assert_eq!(world.peer.closed(new), None);
    world.say(old, b".");
    assert_eq!(world.peer.closed(new), Some(FlowReason::Reset));
    assert_eq!(world.statistics().ended[Reason::DuplicateId], 1);
    assert_eq!(world.peer.closed(old), None);
}

#[test]
fn another_source_gets_the_identity_of_a_holder_that_is_silent() {
    let mut world = World::scripted(Plan::default());
    let (old, new) = (world.connect(PEER), world.connect(OTHER_PEER));
    world.say(old, b"Da");
    world.say(new, b"Da");
    world.pass(seconds(6));
    assert_eq!(world.peer.closed(old), Some(FlowReason::Reset));
    assert_eq!(world.peer.heard(new), b"dialled");
    let nodes = world.statistics().pools[0].clone();
    assert_eq!((nodes.taken, world.statistics().sessions), (1, 1));
}

#[test]
fn a_third_source_is_refused_while_two_argue() {
    let mut world = World::scripted(Plan::default());
    let (old, new) = (world.connect(PEER), world.connect(OTHER_PEER));
    world.say(old, b"Da");
    world.say(new, b"Da");
    let third = world.connect(OTHER_PEER);
    world.say(third, b"Da");
    assert_eq!(world.peer.closed(third), Some(FlowReason::Reset));
    assert_eq!(world.peer.closed(new), None);
}

#[test]
fn a_challenger_that_gives_up_leaves_the_way_to_the_next() {
    let mut world = World::scripted(Plan::default());
    let (old, new) = (world.connect(PEER), world.connect(OTHER_PEER));
    world.say(old, b"Da");
    world.say(new, b"Da");
    world.peer.abort(new);
    world.settle();
    let next = world.connect(OTHER_PEER);
    world.say(next, b"Da");
    world.pass(seconds(6));
    assert_eq!(world.peer.heard(next), b"dialled");
    assert_eq!(world.peer.closed(old), Some(FlowReason::Reset));
}

#[test]
fn an_identity_is_free_again_when_its_session_ends() {
    let mut world = World::scripted(Plan::default());
    for _ in 0..3 {
        let peer = world.connect(OTHER_PEER);
        world.say(peer, b"Da");
        assert_eq!(world.peer.heard(peer), b"dialled");
        world.peer.abort(peer);
        world.settle();
    }
    assert_eq!(world.statistics().ended[Reason::PeerLost], 3);
    assert_eq!((world.statistics().sessions, world.statistics().pools[0].taken), (0, 0));
}

#[test]
fn the_operators_own_nodes_are_refused() {
    let mut world = World::scripted(Plan { own_node: Some(b'n'), ..Plan::default() });
    let peer = world.connect(PEER);
    world.say(peer, b"Dn");
    assert_eq!(world.peer.closed(peer), Some(FlowReason::Reset));
    assert_eq!(world.statistics().ended[Reason::OwnNode], 1);
    assert_eq!(world.node.accepted().count(), 0, "no node has heard of it");
}

/// Where peers and nodes share a link a node reaches the service address by itself, whatever it says it is.
#[test]
fn who_comes_from_a_nodes_address_is_no_peer_but_may_be_the_application() {
    let mut world = World::scripted(Plan::default());
    let itself = world.connect(NODE);
    world.say(itself, b"Da");
    assert_eq!(world.peer.closed(itself), Some(FlowReason::Reset));
    assert_eq!(world.statistics().ended[Reason::OwnNode], 1);
    assert_eq!(world.node.accepted().count(), 0, "no node has heard of it");
    let mut world = World::scripted(Plan { backend: true, ..Plan::default() });
    let application = world.connect(NODE);
    world.say(application, b"Da");
    assert_eq!(world.peer.heard(application), b"dialled");
}

#[test]
fn a_node_that_was_dialled_is_known_when_it_finds_its_own_public_address() {
    let mut world = World::scripted(Plan::default());
    let peer = world.connect(PEER);
    world.say(peer, b"SDa");
    world.say(peer, b"Nn");
    let itself = world.connect(OTHER_PEER);
    world.say(itself, b"SDn");
    assert_eq!(world.peer.closed(itself), Some(FlowReason::Reset));
    assert_eq!(world.statistics().ended[Reason::OwnNode], 1);
    assert_eq!(world.node.accepted().count(), 1, "no node has heard of it");
}

#[test]
fn dials_are_paced_and_a_full_queue_is_refused() {
    let mut world = World::scripted(Plan { dials_per_second: 1, ..Plan::default() });
    let peers: Vec<_> = (b'a'..b'g').map(|id| (world.connect(PEER), id)).collect();
    for &(peer, id) in &peers {
        world.peer.say(peer, &[b'D', id]);
    }
    world.settle();
    // Half a dial a second for strangers and one at once; half of five seconds' queue: three more.
    assert_eq!(world.node.accepted().count(), 1);
    assert_eq!(world.statistics().ended[Reason::DialBusy], 2);
    world.pass(seconds(3));
    assert_eq!(world.node.accepted().count(), 2);
    world.pass(seconds(4));
    assert_eq!(world.statistics().sessions, world.statistics().sessions_dialled, "nobody waits for ever");
}

#[test]
fn shutting_down_leaves_nothing_behind() {
    let mut world = World::relays(Plan::default());
    let peers: Vec<_> = (0..5).map(|_| world.connect(PEER)).collect();
    for &peer in &peers[..3] {
        world.say(peer, b"hello");
    }
    world.shut_down();
    assert!(world.is_empty());
    assert!(peers.iter().all(|&peer| world.peer.closed(peer) == Some(FlowReason::Reset)));
    let statistics = world.statistics();
    assert_eq!((statistics.shard.buffer_bytes, statistics.pools[0].taken), (0, 0));
}

#[test]
fn a_shutdown_says_goodbye_to_the_proven_and_takes_nobody_new() {
    let mut world = World::scripted(Plan::default());
    let (proven, deaf, stranger) = (world.connect(PEER), world.connect(PEER), world.connect(PEER));
    world.say(proven, b"SDa");
    world.say(deaf, b"S");
    world.peer.heard(proven);
    world.shut_down();
    assert_eq!(world.peer.heard(proven), b"bye");
    assert_eq!(world.peer.closed(proven), None, "it ended with a FIN");
    assert_eq!(world.peer.closed(stranger), Some(FlowReason::Reset));
    let late = world.begin(PEER).unwrap();
    world.settle();
    assert_eq!(world.peer.closed(late), Some(FlowReason::Reset));
    world.peer.finish(proven);
    world.settle();
    assert_eq!(world.peer.closed(proven), Some(FlowReason::Finished));
    assert!(!world.is_empty(), "one has not hung up");
    world.cut_off();
    world.peer.finish(deaf);
    world.settle();
    assert!(world.is_empty());
    assert_eq!(world.statistics().ended[Reason::Aborted], 3);
}

#[test]
fn timers_of_sessions_that_are_over_are_forgotten() {
    let mut world = World::relays(Plan::default());
    // Its deadline is the first of all, so nothing behind it is looked at.
    world.begin(OTHER_PEER).unwrap();
    while world.turn() {}
    for _ in 0..600 {
        let peer = world.begin(PEER).unwrap();
        while world.turn() {}
        assert_eq!(world.statistics().sessions, 2);
        world.peer.abort(peer);
        while world.turn() {}
    }
    assert_eq!(world.statistics().sessions, 1);
    assert!(world.timers() <= 512, "{} timers for one session", world.timers());
}

#[test]
fn events_tell_of_proven_sessions_only() {
    let mut world = World::scripted(Plan::default());
    let (stranger, proven) = (world.connect(PEER), world.connect(PEER));
    world.say(stranger, b"!");
    world.say(proven, b"SDa");
    world.peer.abort(proven);
    world.settle();
    let events = world.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(matches!(events[0].what, Happened::Dialled { .. }));
    let Happened::Closed { reason, flow, from_peer, .. } = &events[1].what else { panic!("{events:?}") };
    assert_eq!((*reason, *flow, *from_peer), (Reason::PeerLost, Some(FlowReason::Reset), 3));
}

#[test]
fn events_that_nobody_takes_are_counted_and_bounded() {
    let mut world = World::relays(Plan { events: 4, ..Plan::default() });
    for _ in 0..4 {
        let peer = world.connect(PEER);
        world.say(peer, b"x");
        world.peer.abort(peer);
        world.settle();
    }
    assert_eq!(world.statistics().events_lost, 4);
    assert_eq!(world.events().len(), 4);
}
