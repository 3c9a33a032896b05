//! A relay against a host that moves bytes between two queues.

use core::time::Duration;
use std::collections::VecDeque;

use proptest::prelude::*;

use super::{Config, Relay};
use crate::session::{Close, DialFailure, Done, End, Instant, Leg, Request, Session};
use crate::verdict::Reason;

const NOW: Instant = Duration::from_secs(5);

fn relay() -> Relay {
    new(Config::default())
}

fn new(config: Config) -> Relay {
    let end = |text: &str| text.parse().expect("an address");
    Relay::new(config, NOW, end("198.51.100.7:40000"), end("203.0.113.1:443"))
}

fn requests(relay: &mut Relay) -> Vec<String> {
    std::iter::from_fn(|| relay.request()).map(|request| format!("{request:?}")).collect()
}

fn close(leg: Leg, close: Close) -> String {
    format!("{:?}", Request::Close(leg, close))
}

fn sent(relay: &mut Relay, leg: Leg) -> Vec<u8> {
    let mut space = vec![0; 1 << 20];
    let written = relay.transmit(NOW, leg, &mut space);
    space[..written].to_vec()
}

fn open() -> Relay {
    let mut relay = relay();
    assert_eq!(relay.receive(NOW, Leg::Public, &mut b"hello".to_owned()), 5);
    assert_eq!(requests(&mut relay), ["Dial { peer: None, kind: None }"]);
    assert_eq!(sent(&mut relay, Leg::Private), b"");
    relay.complete(NOW, Done::Dialled);
    assert_eq!(requests(&mut relay), ["Standing(Proven)"]);
    assert_eq!(sent(&mut relay, Leg::Private), b"hello");
    relay
}

#[test]
fn a_silent_peer_gets_its_node_after_a_short_wait() {
    let mut relay = relay();
    assert_eq!(requests(&mut relay), [""; 0]);
    let at = relay.deadline().expect("a deadline");
    relay.advance(at - Duration::from_millis(1));
    assert_eq!(requests(&mut relay), [""; 0]);
    relay.advance(at);
    assert_eq!(requests(&mut relay), ["Dial { peer: None, kind: None }"]);
    relay.complete(at, Done::Dialled);
    relay.receive(at, Leg::Private, &mut b"220 ready".to_owned());
    assert_eq!(sent(&mut relay, Leg::Public), b"220 ready");
}

#[test]
fn a_node_that_wants_to_know_hears_first_who_the_peer_is() {
    for says in [&b"hello"[..], b""] {
        let mut relay = new(Config { proxy_header: true, ..Config::default() });
        relay.receive(NOW, Leg::Public, &mut says.to_owned());
        relay.advance(NOW + Duration::from_secs(1));
        assert_eq!(sent(&mut relay, Leg::Private), b"");
        relay.complete(NOW, Done::Dialled);
        let first = sent(&mut relay, Leg::Private);
        assert_eq!((&first[..12], &first[28..]), (&b"\r\n\r\n\0\r\nQUIT\n"[..], says));
        assert_eq!(first[16..28], [198, 51, 100, 7, 203, 0, 113, 1, 0x9c, 0x40, 1, 0xbb]);
        relay.receive(NOW, Leg::Public, &mut b"more".to_owned());
        assert_eq!(sent(&mut relay, Leg::Private), b"more");
    }
}

#[test]
fn half_closes_pass_in_both_orders() {
    for (first, second) in [(Leg::Public, Leg::Private), (Leg::Private, Leg::Public)] {
        let mut relay = open();
        relay.receive(NOW, first, &mut b"last".to_owned());
        relay.ended(NOW, first, End::Fin);
        assert_eq!(requests(&mut relay), [close(second, Close::Finish(Reason::Finished))]);
        assert_eq!(relay.verdict(), None);
        relay.receive(NOW, second, &mut b"answer".to_owned());
        relay.ended(NOW, second, End::Fin);
        assert_eq!(requests(&mut relay), [close(first, Close::Finish(Reason::Finished))]);
        assert_eq!(relay.verdict(), None, "bytes wait");
        assert_eq!(
            (sent(&mut relay, second), sent(&mut relay, first)),
            (b"last".to_vec(), b"answer".to_vec())
        );
        assert_eq!((relay.verdict(), relay.deadline()), (Some(Reason::Finished), None));
    }
}

#[test]
fn a_peer_that_finishes_while_the_node_is_dialled() {
    let mut relay = relay();
    relay.receive(NOW, Leg::Public, &mut b"GET".to_owned());
    relay.ended(NOW, Leg::Public, End::Fin);
    assert_eq!(requests(&mut relay), ["Dial { peer: None, kind: None }"]);
    relay.complete(NOW, Done::Dialled);
    assert_eq!(sent(&mut relay, Leg::Private), b"GET");
    let finish = close(Leg::Private, Close::Finish(Reason::Finished));
    assert_eq!(requests(&mut relay), ["Standing(Proven)".to_owned(), finish]);
}

#[test]
fn a_peer_that_asks_for_nothing_costs_no_dial() {
    let mut relay = relay();
    relay.ended(NOW, Leg::Public, End::Fin);
    assert_eq!(requests(&mut relay), [close(Leg::Public, Close::Finish(Reason::Finished))]);
    assert_eq!(relay.verdict(), Some(Reason::Finished));
}

#[test]
fn a_reset_passes_as_a_reset() {
    for (leg, reason) in [(Leg::Public, Reason::PeerLost), (Leg::Private, Reason::NodeLost)] {
        let mut relay = open();
        relay.ended(NOW, leg, End::Reset);
        assert_eq!(requests(&mut relay), [close(leg.other(), Close::Abort(reason))]);
        assert_eq!(relay.verdict(), Some(reason));
        assert_eq!(relay.receive(NOW, leg.other(), &mut [0; 10]), 10, "what still comes is thrown away");
    }
}

#[test]
fn dials_that_fail() {
    for (failure, reason) in [(DialFailure::NoNode, Reason::NoNode), (DialFailure::Busy, Reason::DialBusy)] {
        let mut relay = relay();
        relay.receive(NOW, Leg::Public, &mut b"x".to_owned());
        requests(&mut relay);
        relay.complete(NOW, Done::DialFailed(failure));
        assert_eq!(requests(&mut relay), [close(Leg::Public, Close::Abort(reason))]);
    }
    let mut relay = relay();
    relay.receive(NOW, Leg::Public, &mut b"x".to_owned());
    requests(&mut relay);
    relay.advance(NOW + Duration::from_secs(15));
    let aborted = Close::Abort(Reason::DialFailed);
    assert_eq!(requests(&mut relay), [close(Leg::Public, aborted), close(Leg::Private, aborted)]);
    relay.complete(NOW, Done::Dialled);
    assert_eq!(requests(&mut relay), [close(Leg::Private, aborted)], "too late");
}

#[test]
fn what_is_not_read_is_bounded_and_ends_the_session() {
    let mut relay = open();
    let mut bytes = vec![7; 100_000];
    assert_eq!(relay.receive(NOW, Leg::Private, &mut bytes), 64 << 10);
    assert_eq!((relay.appetite(Leg::Private), relay.appetite(Leg::Public)), (0, 64 << 10));
    relay.advance(NOW + Duration::from_secs(59));
    assert_eq!(relay.verdict(), None);
    relay.advance(NOW + Duration::from_secs(60));
    assert_eq!(relay.verdict(), Some(Reason::Stalled));
}

#[test]
fn silence_ends_the_session() {
    let mut relay = open();
    assert_eq!(relay.deadline(), Some(NOW + Duration::from_secs(3_600)));
    relay.advance(NOW + Duration::from_secs(3_600));
    assert_eq!(relay.verdict(), Some(Reason::Idle));
}

proptest! {
    #[test]
    fn streams_arrive_as_they_were_sent(
        moves in prop::collection::vec((any::<bool>(), 1_usize..200, 1_usize..200), 1..200),
    ) {
        let mut relay = new(Config { buffer: 300, ..Config::default() });
        relay.receive(NOW, Leg::Public, &mut []);
        relay.advance(NOW + Duration::from_secs(1));
        relay.complete(NOW, Done::Dialled);
        let mut counters = [0_u8; 2];
        let mut expected = [VecDeque::new(), VecDeque::new()];
        for (public, offered, room) in moves {
            let from = if public { Leg::Public } else { Leg::Private };
            let mut bytes: Vec<u8> = (0..offered).map(|at| counters[from as usize].wrapping_add(at as u8)).collect();
            let kept = bytes.clone();
            let appetite = relay.appetite(from);
            let taken = relay.receive(NOW, from, &mut bytes);
            prop_assert_eq!(taken, offered.min(appetite));
            counters[from as usize] = counters[from as usize].wrapping_add(taken as u8);
            expected[from as usize].extend(&kept[..taken]);
            prop_assert!(expected[from as usize].len() <= 300);
            let mut space = vec![0; room];
            let written = relay.transmit(NOW, from.other(), &mut space);
            let due: Vec<u8> = expected[from as usize].drain(..written).collect();
            prop_assert_eq!(&space[..written], &due[..]);
        }
    }
}
