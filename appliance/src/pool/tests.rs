//! Turns, pace, queue and memory of a pool, with a clock of our own.

use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::Target;
use hedgerow_dataplane::wire::{Address, LinkId};
use hedgerow_policy::{DialFailure, PeerId};

use super::{Answer, NodeConfig, PATIENCE, Pool, PoolConfig, Ticket, Wish};

const START: Instant = Instant::from_millis(1_000);

fn pool(nodes: u8, dials_per_second: u32) -> Pool {
    let node = |n: u8| NodeConfig {
        name: n.to_string(),
        target: Target { link: LinkId(0), address: Address::from_v4([10, 0, 0, n]), port: 8444 },
    };
    let config = PoolConfig {
        name: "front".into(),
        nodes: (0..nodes).map(node).collect(),
        transparent: false,
        dials_per_second,
        dial_timeout: Duration::from_secs(5),
        slots: 1_000,
    };
    Pool::new(config, START)
}

fn ticket(index: u32) -> Ticket {
    Ticket { core: 0, index, generation: 0 }
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
    let nodes: Vec<usize> = (0..6).map(|i| dialled(pool.ask(START, ticket(i), None, true)).1).collect();
    assert_eq!(nodes, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_failed_dial_goes_to_the_next_node_and_ends_when_all_have_failed() {
    let mut pool = pool(2, 10);
    let (wish, first) = dialled(pool.ask(START, ticket(1), None, true));
    let (wish, second) = dialled(pool.failed(START, wish, first));
    assert_ne!(first, second);
    assert_eq!(pool.failed(START, wish, second), Answer::Refused(ticket(1), DialFailure::NoNode));
    assert_eq!(pool.taken(), 0, "a refusal frees the slot");
}

#[test]
fn a_node_that_failed_is_spared_while_another_is_left() {
    let mut pool = pool(2, 10);
    let (wish, first) = dialled(pool.ask(START, ticket(0), None, true));
    pool.failed(START, wish, first);
    for i in 1..4 {
        assert_ne!(dialled(pool.ask(START, ticket(i), None, true)).1, first);
    }
    let later = START + Duration::from_secs(11);
    let nodes: Vec<usize> = (4..6).map(|i| dialled(pool.ask(later, ticket(i), None, true)).1).collect();
    assert!(nodes.contains(&first), "it is asked again after a while");
}

#[test]
fn strangers_are_served_at_half_the_pace_and_the_rest_is_for_known_ids() {
    let mut pool = pool(1, 10);
    let id = PeerId([7; 32]);
    pool.remember(id);
    let now =
        (0..100).filter(|&i| matches!(pool.ask(START, ticket(i), None, true), Answer::Dial(..))).count();
    assert_eq!(now, 5, "half of a second's allowance");
    assert_eq!(pool.waiting(), 25, "half of the queue of five seconds");
    dialled(pool.ask(START, ticket(200), Some(id), true));
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
            dials += usize::from(matches!(pool.ask(now, ticket(ms as u32), peer, true), Answer::Dial(..)));
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
    dialled(pool.ask(START, ticket(0), None, true));
    for i in 1..4 {
        pool.ask(START, ticket(i), None, true);
    }
    assert!(pool.deadline(START).is_some_and(|at| at > START && at <= START + PATIENCE));
    let late = START + PATIENCE;
    assert_eq!(pool.poll(late, 0), Some(Answer::Refused(ticket(1), DialFailure::Busy)));
}

#[test]
fn who_leaves_waits_no_longer_and_frees_a_slot() {
    let mut pool = pool(1, 1);
    dialled(pool.ask(START, ticket(0), None, true));
    assert_eq!(pool.ask(START, ticket(1), None, true), Answer::Queued);
    pool.leave(ticket(1), None);
    assert_eq!((pool.waiting(), pool.taken()), (0, 1));
    assert_eq!(pool.deadline(START), None);
}

#[test]
fn slots_are_a_limit() {
    let mut pool = pool(1, 1_000);
    pool.config.slots = 2;
    dialled(pool.ask(START, ticket(0), None, true));
    dialled(pool.ask(START, ticket(1), None, true));
    assert_eq!(pool.ask(START, ticket(2), None, true), Answer::Refused(ticket(2), DialFailure::Busy));
    pool.leave(ticket(0), None);
    dialled(pool.ask(START, ticket(2), None, true));
}

#[test]
fn a_transparent_pool_serves_a_family_with_its_own_nodes_only() {
    let mut pool = pool(1, 10);
    pool.config.transparent = true;
    assert_eq!(pool.ask(START, ticket(0), None, false), Answer::Refused(ticket(0), DialFailure::NoNode));
    dialled(pool.ask(START, ticket(1), None, true));
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
