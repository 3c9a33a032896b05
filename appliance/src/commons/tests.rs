//! Identities that sessions of several cores argue about, and the letters that tell how it went.

use std::net::{IpAddr, Ipv4Addr};

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::shard::Target;
use hedgerow_dataplane::wire::{Address, LinkId};
use hedgerow_policy::PeerId;

use super::*;
use crate::pool::{Answer, Caller, NodeConfig, PATIENCE, PoolConfig};

const KEY: Key = (0, PeerId([1; 32]));
const NOW: Instant = Instant::from_millis(1_000);

fn books(cores: u16) -> Arc<Commons> {
    with_slots(cores, 100)
}

fn with_slots(cores: u16, slots: usize) -> Arc<Commons> {
    let target = Target { link: LinkId(0), address: Address::from_v4([10, 0, 0, 1]), port: 8444 };
    let node = NodeConfig::new("a", target);
    let pool = PoolConfig {
        name: "front".into(),
        nodes: vec![node],
        transparent: false,
        dials_per_second: 2,
        dial_timeout: std::time::Duration::from_secs(5),
        slots,
        ..PoolConfig::default()
    };
    let own_nodes = vec![PeerId([9; 32])];
    Commons::over(&[pool], own_nodes, cores, Box::new(|_| {}), NOW)
}

fn ticket(core: u16, index: u32) -> Ticket {
    Ticket { core, index, generation: 0 }
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

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn mail(commons: &Commons, core: u16) -> Vec<(Ticket, Letter)> {
    assert_eq!(commons.has_mail(core), !commons.with(|books| books.letters[usize::from(core)].is_empty()));
    commons.take_mail(core).into()
}

#[test]
fn a_newer_session_of_the_same_source_replaces_one_of_another_core() {
    let commons = books(2);
    assert_eq!(commons.with(|books| books.claim(KEY, ticket(0, 7), ip(1))), Claim::Granted);
    assert_eq!(commons.with(|books| books.claim(KEY, ticket(1, 3), ip(1))), Claim::Granted);
    assert_eq!(mail(&commons, 0), [(ticket(0, 7), Letter::Replaced)]);
    assert_eq!(mail(&commons, 1), []);
    // What the replaced one gives back is no longer its own.
    commons.with(|books| books.release(KEY, ticket(0, 7)));
    assert_eq!(commons.with(|books| books.identities()), 1);
    commons.with(|books| books.release(KEY, ticket(1, 3)));
    assert_eq!(commons.with(|books| books.identities()), 0);
}

#[test]
fn a_holder_that_lives_keeps_its_identity_and_one_that_ends_gives_it_to_who_waits() {
    let commons = books(3);
    let (holder, challenger, third) = (ticket(0, 1), ticket(1, 1), ticket(2, 1));
    commons.with(|books| {
        assert_eq!(books.claim(KEY, holder, ip(1)), Claim::Granted);
        assert_eq!(books.claim(KEY, challenger, ip(2)), Claim::Waits);
        assert_eq!(books.claim(KEY, third, ip(3)), Claim::Refused);
    });
    assert_eq!(mail(&commons, 0), [(holder, Letter::Challenged)]);
    commons.with(|books| books.lives(KEY, challenger));
    assert_eq!(mail(&commons, 1), [], "only the holder can say that it lives");
    commons.with(|books| books.lives(KEY, holder));
    assert_eq!(mail(&commons, 1), [(challenger, Letter::Held)]);

    assert_eq!(commons.with(|books| books.claim(KEY, third, ip(3))), Claim::Waits);
    commons.with(|books| books.release(KEY, holder));
    assert_eq!(mail(&commons, 2), [(third, Letter::Free)]);
    assert_eq!(commons.with(|books| books.claim(KEY, third, ip(3))), Claim::Granted);
}

#[test]
fn a_silent_holder_loses_its_identity_to_who_outlasted_it_and_to_nobody_else() {
    let commons = books(2);
    let (holder, challenger, stranger) = (ticket(0, 1), ticket(1, 1), ticket(1, 2));
    commons.with(|books| {
        books.claim(KEY, holder, ip(1));
        books.claim(KEY, challenger, ip(2));
        books.withdraw(KEY, stranger);
        assert_eq!(books.outlasted(KEY, stranger, ip(3)), Claim::Refused, "it waited for nobody");
        assert_eq!(books.outlasted(KEY, challenger, ip(2)), Claim::Granted);
    });
    assert_eq!(mail(&commons, 0), [(holder, Letter::Challenged), (holder, Letter::Replaced)]);
}

#[test]
fn a_challenger_that_withdraws_leaves_its_place() {
    let commons = books(1);
    commons.with(|books| {
        books.claim(KEY, ticket(0, 1), ip(1));
        assert_eq!(books.claim(KEY, ticket(0, 2), ip(2)), Claim::Waits);
        books.withdraw(KEY, ticket(0, 2));
        assert_eq!(books.claim(KEY, ticket(0, 3), ip(3)), Claim::Waits);
    });
}

#[test]
fn our_own_nodes_are_known_to_all_cores() {
    let commons = books(2);
    let met = PeerId([5; 32]);
    commons.with(|books| {
        assert_eq!(books.claim((0, PeerId([9; 32])), ticket(0, 1), ip(1)), Claim::OwnNode);
        assert_eq!(books.claim((0, met), ticket(0, 1), ip(1)), Claim::Granted);
        books.pools[0].met(0, met);
        assert_eq!(books.claim((0, met), ticket(1, 1), ip(1)), Claim::OwnNode);
    });
}

#[test]
fn those_who_wait_are_served_in_order_whichever_core_asks() {
    let commons = books(2);
    let ask =
        |core, index| commons.with(|books| books.pools[0].ask(NOW, caller(ticket(core, index), None, true)));
    assert!(matches!(ask(0, 1), Answer::Dial(..)));
    for (core, index) in [(0, 2), (1, 1), (0, 3)] {
        assert_eq!(ask(core, index), Answer::Queued);
    }
    let poll = |ms, core| {
        let answer =
            commons.with(|books| books.pools[0].poll(NOW + std::time::Duration::from_millis(ms), core));
        answer.map(|answer| match answer {
            Answer::Dial(wish, _) => (wish.caller.ticket, true),
            Answer::Refused(ticket, _) => (ticket, false),
            Answer::Queued => panic!("nobody asked"),
        })
    };
    // One a second for strangers. The second in the queue is not served before the first.
    assert_eq!(poll(1_100, 1), None);
    assert_eq!(poll(1_100, 0), Some((ticket(0, 2), true)));
    assert_eq!(poll(2_200, 0), None);
    assert_eq!(poll(2_200, 1), Some((ticket(1, 1), true)));
    // A core that does not come for its own keeps the others waiting for a bounded time only.
    assert_eq!(ask(1, 9), Answer::Queued);
    let late = PATIENCE.as_millis() as u64;
    assert_eq!(poll(late + 500, 1), None);
    assert_eq!(poll(late + 1_500, 1), Some((ticket(1, 9), false)));
    assert_eq!(poll(late + 1_500, 0), Some((ticket(0, 3), false)));
}

/// Letters and books under several threads: every claim ends in exactly one owner.
#[test]
fn cores_that_argue_at_the_same_time_agree() {
    let commons = books(4);
    std::thread::scope(|scope| {
        for core in 0..4 {
            let commons = &commons;
            scope.spawn(move || {
                for index in 0..2_000 {
                    let key = (0, PeerId([(index % 7) as u8 + 100; 32]));
                    let me = ticket(core, index);
                    let mut claim = commons.with(|books| books.claim(key, me, ip(core as u8)));
                    if claim == Claim::Waits {
                        claim = commons.with(|books| books.outlasted(key, me, ip(core as u8)));
                    }
                    if claim == Claim::Waits {
                        commons.with(|books| books.withdraw(key, me));
                    }
                    commons.take_mail(core);
                    commons.with(|books| books.release(key, me));
                }
            });
        }
    });
    assert_eq!(commons.with(|books| books.identities()), 0);
    assert!((0..4).all(|core| commons.take_mail(core).is_empty() || !commons.has_mail(core)));
}

#[test]
fn who_has_to_go_for_a_newcomer_of_another_core_is_told() {
    let commons = with_slots(2, 1);
    let peer = |core, n: u8| Caller {
        source: Address::from_v4([20, n, 0, 1]),
        ..caller(ticket(core, u32::from(n)), Some(PeerId([n; 32])), true)
    };
    assert!(matches!(commons.with(|books| books.ask(0, NOW, peer(0, 1))), Answer::Dial(..)));
    let later = NOW + std::time::Duration::from_secs(2);
    assert!(!matches!(commons.with(|books| books.ask(0, later, peer(1, 2))), Answer::Refused(..)));
    assert_eq!(mail(&commons, 0), [(ticket(0, 1), Letter::Displaced)]);
    assert_eq!(mail(&commons, 1), []);
}

#[test]
fn each_node_has_one_session_with_a_peer_whoever_began_it() {
    let commons = books(1);
    let [came, first, second, again] = [1, 2, 3, 4].map(|index| ticket(0, index));
    commons.with(|books| {
        assert_eq!(books.claim(KEY, came, ip(1)), Claim::Granted);
        // Nobody knows yet which node it comes to.
        assert_eq!(books.claim(KEY, first, Side::By(0)), Claim::Waits);
        books.withdraw(KEY, first);
        books.settled(KEY, came, 0);
        assert_eq!(books.claim(KEY, second, Side::By(1)), Claim::Granted);
        assert_eq!(books.claim(KEY, first, Side::By(0)), Claim::Waits);
        assert_eq!(books.identities(), 2);
    });
    mail(&commons, 0);
    commons.with(|books| books.release(KEY, came));
    assert_eq!(mail(&commons, 0), [(first, Letter::Free)]);
    commons.with(|books| {
        assert_eq!(books.claim(KEY, first, Side::By(0)), Claim::Granted);
        // The peer comes itself, even from where the nodes reached it: neither is replaced before it was silent.
        assert_eq!(books.claim(KEY, again, ip(1)), Claim::Waits);
        let next = books.outlasted(KEY, again, ip(1));
        assert_eq!(next, Claim::Waits, "the other node's is still there");
        assert_eq!(books.outlasted(KEY, again, ip(1)), Claim::Granted);
        assert_eq!(books.identities(), 1);
        [first, second, again].into_iter().for_each(|ticket| books.release(KEY, ticket));
        assert_eq!(books.identities(), 0);
    });
    let replaced = mail(&commons, 0).into_iter().filter(|(_, letter)| *letter == Letter::Replaced);
    assert_eq!(replaced.count(), 2);
}

#[test]
fn what_stands_for_a_node_outside_is_nobody_s_identity() {
    let commons = books(1);
    commons.with(|books| {
        books.own(KEY.1);
        books.own(KEY.1);
        assert_eq!(books.claim(KEY, ticket(0, 1), ip(1)), Claim::OwnNode);
        assert_eq!(books.claim(KEY, ticket(0, 2), Side::By(0)), Claim::OwnNode);
        assert_eq!(books.identities(), 0);
    });
}
