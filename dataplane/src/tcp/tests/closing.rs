//! Ends: half-close in both orders, both at once, TIME-WAIT, orphans, aborts.

use std::time::Duration;

use crate::Reason;
use crate::shard::{Event, ListenerId, Opened};
use crate::wire::{Flags, Seq};

use super::super::Waiting;
use super::pipe::{HOP, LINK, Setup, agreed};
use super::solo::{ISS, Solo, plain};

const FIN_ACK: Flags = Flags::FIN.with(Flags::ACK);
const RST_ACK: Flags = Flags::RST.with(Flags::ACK);

#[test]
fn the_peer_closes_first_and_we_go_on_sending() {
    let mut solo = Solo::new(plain());
    solo.peer(0, 0, FIN_ACK, b"last words").expect("data and FIN");
    assert_eq!(solo.events(), [Event::Readable(solo.id), Event::Finished(solo.id)]);
    assert_eq!(solo.acked(), Some(11));
    assert!(!solo.flow().finished());
    assert_eq!(solo.read(), b"last words");
    assert!(solo.flow().finished());
    solo.write(500);
    assert_eq!(solo.sent(), [(0, 500, Flags::ACK)]);
    solo.peer(11, 500, Flags::ACK, b"").expect("an ACK");
    solo.flow().finish();
    assert_eq!(solo.sent(), [(500, 0, FIN_ACK)]);
    assert_eq!(solo.flow().write(b"too late"), 0);
    solo.peer(11, 501, Flags::ACK, b"").expect("the last ACK");
    assert_eq!(solo.events(), [Event::Closed(solo.id, Reason::Finished)]);
    // The peer closed first, so TIME-WAIT is its business.
    assert_eq!(solo.engine.statistics().time_waits, 0);
}

#[test]
fn we_close_first_and_the_tuple_rests() {
    let mut solo = Solo::new(plain());
    solo.write(100);
    solo.flow().finish();
    assert_eq!(solo.sent(), [(0, 100, FIN_ACK)]);
    solo.peer(0, 101, Flags::ACK, b"").expect("an ACK");
    assert_eq!(solo.events(), []);
    solo.peer(0, 101, Flags::ACK, b"still talking").expect("data in FIN-WAIT-2");
    assert_eq!(solo.read(), b"still talking");
    solo.peer(13, 101, FIN_ACK, b"").expect("FIN");
    let closed =
        [Event::Readable(solo.id), Event::Finished(solo.id), Event::Closed(solo.id, Reason::Finished)];
    assert_eq!(solo.events(), closed);
    assert_eq!(solo.acked(), Some(14));
    assert_eq!((solo.engine.statistics().time_waits, solo.engine.statistics().flows), (1, 0));
}

/// A tuple in TIME-WAIT; the peer's next number is 1, ours 1.
fn resting(setup: Setup) -> Solo {
    let mut solo = Solo::new(setup);
    solo.flow().finish();
    solo.out();
    solo.peer(0, 1, FIN_ACK, b"").expect("FIN and ACK");
    assert_eq!(solo.acked(), Some(1));
    assert_eq!(solo.events().last(), Some(&Event::Closed(solo.id, Reason::Finished)));
    solo
}

#[test]
fn time_wait_answers_a_repeated_fin_and_rests_anew() {
    let mut solo = resting(plain());
    solo.pass(Duration::from_secs(50));
    assert_eq!(solo.wait(0, 1, FIN_ACK, b""), Waiting::Consumed);
    assert_eq!(solo.acked(), Some(1));
    solo.pass(Duration::from_secs(50));
    assert_eq!(solo.wait(0, 1, FIN_ACK, b""), Waiting::Consumed);
    solo.pass(Duration::from_secs(61));
    assert_eq!(solo.wait(0, 1, FIN_ACK, b""), Waiting::Stranger);
    assert_eq!(solo.engine.statistics().time_waits, 0);
}

#[test]
fn time_wait_ignores_resets_and_bare_acks() {
    let mut solo = resting(plain());
    assert_eq!(solo.wait(1, 1, Flags::RST, b""), Waiting::Dropped(Reason::NoFlow));
    assert_eq!(solo.wait(1, 1, Flags::ACK, b""), Waiting::Consumed);
    assert_eq!(solo.acked(), None);
    assert_eq!(solo.engine.statistics().time_waits, 1);
}

#[test]
fn time_wait_gives_way_to_a_later_syn_only() {
    let mut solo = resting(plain());
    assert_eq!(solo.wait(1_000, 0, Flags::SYN, b""), Waiting::Stranger);
    assert_eq!(solo.wait(0u32.wrapping_sub(9), 0, Flags::SYN, b""), Waiting::Dropped(Reason::Challenged));
    assert_eq!(solo.acked(), Some(1));
    assert_eq!(solo.engine.statistics().time_waits, 1);

    let mut solo = resting(Setup { timestamps: true, ..plain() });
    solo.timestamps = Some((2, 0));
    assert_eq!(solo.wait(0u32.wrapping_sub(9), 0, Flags::SYN, b""), Waiting::Stranger);
    solo.timestamps = Some((1, 0));
    assert_eq!(solo.wait(0u32.wrapping_sub(9), 0, Flags::SYN, b""), Waiting::Dropped(Reason::Challenged));
    assert_eq!(solo.wait(1_000, 0, Flags::SYN, b""), Waiting::Stranger);
}

#[test]
fn a_new_proof_replaces_time_wait() {
    let mut solo = resting(plain());
    assert_eq!(solo.wait(7_000_000, 0xdead_beef, Flags::ACK, b"hello"), Waiting::Stranger);
    let agreed = agreed(&plain(), 42, 43);
    let id = solo
        .engine
        .accept(solo.now, solo.key, LINK, HOP, &agreed, Opened::To(ListenerId(0)))
        .expect("a free slot");
    assert_eq!(solo.engine.lookup(&solo.key), Some(id));
    assert_ne!(id, solo.id);
    assert!(solo.engine.flow(solo.id).is_none(), "a stale id finds nothing");
    let seq = Seq(super::solo::IRS) + 1;
    let old = super::pipe::Owned::new(solo.key, seq, Seq(ISS) + 2, FIN_ACK);
    assert_eq!(
        solo.engine.waiting(solo.now, solo.engine.hash(&solo.key), &solo.key, || old.segment()),
        Waiting::Stranger
    );
}

#[test]
fn old_data_in_time_wait_is_acknowledged_within_the_budget() {
    let mut solo = resting(plain());
    let answers = (0..3_000).filter(|_| solo.wait(0, 1, Flags::ACK, b"x") == Waiting::Consumed).count();
    assert!((1_000..2_000).contains(&answers));
    assert!(solo.engine.counters()[Reason::ChallengeCap] > 1_000);
}

#[test]
fn both_close_at_once() {
    let mut solo = Solo::new(plain());
    solo.flow().finish();
    assert_eq!(solo.sent(), [(0, 0, FIN_ACK)]);
    // The peer's FIN crossed ours: it does not acknowledge it.
    solo.peer(0, 0, FIN_ACK, b"").expect("FIN");
    assert_eq!(solo.acked(), Some(1));
    assert_eq!(solo.events(), [Event::Finished(solo.id)]);
    solo.peer(1, 1, Flags::ACK, b"").expect("the ACK of our FIN");
    assert_eq!(solo.events(), [Event::Closed(solo.id, Reason::Finished)]);
    assert_eq!(solo.engine.statistics().time_waits, 1);
}

#[test]
fn a_lost_fin_is_sent_again_with_the_data_before_it() {
    let mut solo = Solo::new(plain());
    solo.write(300);
    solo.flow().finish();
    assert_eq!(solo.sent(), [(0, 300, FIN_ACK)]);
    assert_eq!(solo.next(), Duration::from_secs(1));
    assert_eq!(solo.sent(), [(0, 300, FIN_ACK)]);
    solo.peer(0, 300, Flags::ACK, b"").expect("the data's ACK");
    assert_eq!(solo.later(), [(300, 0, FIN_ACK)]);
}

#[test]
fn a_fin_ahead_of_a_gap_waits() {
    let mut solo = Solo::new(plain());
    solo.peer(3, 0, FIN_ACK, b"def").expect("out of order");
    assert_eq!(solo.events(), []);
    assert_eq!(solo.acked(), Some(0));
    // Nothing lies behind a FIN, whatever else claims so.
    assert_eq!(solo.peer(6, 0, Flags::ACK, b"beyond"), Err(Reason::OutOfWindow));
    solo.peer(0, 0, Flags::ACK, b"abc").expect("the gap");
    assert_eq!(solo.events(), [Event::Readable(solo.id), Event::Finished(solo.id)]);
    assert_eq!(solo.acked(), Some(7));
    assert_eq!(solo.read(), b"abcdef");
    assert_eq!(solo.peer(7, 0, Flags::ACK, b"more"), Err(Reason::DataAfterClose));
}

#[test]
fn what_was_acknowledged_can_be_read_after_the_end() {
    let mut solo = Solo::new(plain());
    solo.peer(0, 0, FIN_ACK, b"unread").expect("data and FIN");
    solo.flow().finish();
    solo.out();
    solo.peer(7, 1, Flags::ACK, b"").expect("the last ACK");
    assert_eq!(solo.engine.lookup(&solo.key), None);
    assert_eq!(solo.events(), [Event::Readable(solo.id), Event::Finished(solo.id)]);
    assert_eq!(solo.read(), b"unread");
    assert_eq!(solo.events(), [Event::Closed(solo.id, Reason::Finished)]);
    assert_eq!(solo.engine.statistics().blocks_used, 0);
}

#[test]
fn an_abort_resets_the_peer_and_keeps_nothing() {
    let mut solo = Solo::new(plain());
    solo.peer(0, 0, Flags::ACK, b"unread").expect("data");
    solo.write(2_000);
    solo.out();
    solo.flow().abort(Reason::Aborted);
    assert_eq!(solo.events(), [Event::Closed(solo.id, Reason::Aborted)]);
    assert_eq!(solo.sent(), [(2_000, 0, RST_ACK)]);
    assert_eq!(solo.engine.statistics().blocks_used, 0);
    assert!(solo.engine.flow(solo.id).is_none());
}

#[test]
fn an_orphan_resets_a_peer_that_goes_on_sending() {
    let mut solo = Solo::new(plain());
    let now = solo.now;
    solo.write(100);
    solo.flow().close(now);
    assert_eq!(solo.sent(), [(0, 100, FIN_ACK)]);
    assert_eq!(solo.peer(0, 101, Flags::ACK, b"more"), Err(Reason::DataAfterClose));
    assert_eq!(solo.sent(), [(101, 0, RST_ACK)]);
    assert_eq!(solo.events(), [Event::Closed(solo.id, Reason::DataAfterClose)]);
}

#[test]
fn an_orphan_does_not_linger() {
    let mut solo = Solo::new(plain());
    let now = solo.now;
    solo.flow().close(now);
    solo.out();
    solo.peer(0, 1, Flags::ACK, b"").expect("FIN-WAIT-2");
    assert_eq!(solo.next(), Duration::from_secs(30));
    assert_eq!(solo.events(), [Event::Closed(solo.id, Reason::TimedOut)]);
    assert_eq!(solo.sent(), [(1, 0, RST_ACK)]);
}
