//! Loss: timeouts and backing off, fast retransmission with and without SACK, what a lying peer gains.

use std::time::Duration;

use crate::Reason;
use crate::shard::Event;
use crate::wire::{Flags, Seq};

use super::super::{PathError, Sent};
use super::pipe::{LINK, Owned, Setup};
use super::solo::{ISS, Solo, plain};

const ACK: Flags = Flags::ACK;

/// A flow that has `n` segments of 1,000 bytes under way.
fn in_flight(setup: Setup, n: usize) -> Solo {
    let mut solo = Solo::new(setup);
    solo.write(n * 1_000);
    let sent = solo.sent();
    assert_eq!(sent.len(), n.min(10));
    solo
}

impl Solo {
    /// A duplicate ACK with SACK blocks, in thousands.
    fn sack(&mut self, ack: u32, blocks: &[(u32, u32)]) -> Result<(), Reason> {
        let mut owned: Owned = self.segment(0, ack, ACK, b"");
        for &(left, right) in blocks {
            owned.options.sack.push(Seq(ISS) + 1 + left * 1_000, Seq(ISS) + 1 + right * 1_000);
        }
        self.give(&owned)
    }
}

#[test]
fn a_timer_runs_though_the_port_takes_no_more() {
    let mut solo = Solo::new(plain());
    solo.write(2_000);
    let mut room = 1;
    let mut sink = |_: &crate::wire::Outgoing<'_>| {
        room -= 1;
        if room >= 0 { Sent::Yes } else { Sent::Later }
    };
    assert_eq!(solo.engine.transmit(solo.now, LINK, &mut sink, 64), 1);
    let due = solo.now + Duration::from_secs(1);
    assert!(solo.engine.deadline().is_some_and(|at| at <= due));
}

#[test]
fn the_timeout_backs_off_until_patience_ends() {
    let mut solo = in_flight(plain(), 1);
    let start = solo.now;
    let mut times = Vec::new();
    let reason = loop {
        solo.next();
        let sent = solo.sent();
        if let [Event::Closed(_, reason)] = solo.events()[..] {
            assert_eq!(sent, [(1_000, 0, Flags::RST.with(ACK))]);
            break reason;
        }
        if !sent.is_empty() {
            assert_eq!(sent, [(0, 1_000, ACK)]);
            times.push(solo.now.since(start).as_secs());
        }
    };
    assert_eq!(times, [1, 3, 7, 15, 31]);
    assert_eq!(reason, Reason::TimedOut);
    assert_eq!(solo.engine.statistics().timeouts, 5);
}

#[test]
fn a_measured_round_trip_sets_the_timeout() {
    let mut solo = in_flight(plain(), 1);
    solo.pass(Duration::from_millis(300));
    solo.peer(0, 1_000, ACK, b"").expect("an ACK");
    solo.write(10);
    solo.out();
    // SRTT + 4 * RTTVAR = 300 + 4 * 150 (RFC 6298, rule 2.2).
    let armed = solo.now;
    solo.later();
    assert_eq!(solo.now.since(armed), Duration::from_millis(900));
}

#[test]
fn retransmissions_are_not_timed_without_timestamps() {
    let mut solo = in_flight(plain(), 1);
    solo.next();
    assert_eq!(solo.sent(), [(0, 1_000, ACK)]);
    solo.pass(Duration::from_millis(1));
    solo.peer(0, 1_000, ACK, b"").expect("an ACK");
    solo.write(10);
    solo.out();
    let armed = solo.now;
    solo.later();
    assert_eq!(solo.now.since(armed), Duration::from_secs(1), "Karn: still the initial timeout");
}

#[test]
fn sack_resends_the_hole_at_once_and_only_it() {
    let mut solo = in_flight(plain(), 10);
    solo.sack(0, &[(1, 2)]).expect("an ACK");
    solo.sack(0, &[(1, 3)]).expect("an ACK");
    assert_eq!(solo.sent(), []);
    // More than two segments held above: lost (RFC 6675, IsLost).
    solo.sack(0, &[(1, 4)]).expect("an ACK");
    assert_eq!(solo.sent(), [(0, 1_000, ACK)]);
    solo.sack(0, &[(1, 5)]).expect("an ACK");
    assert_eq!(solo.sent(), [], "the window was halved: nothing else may go");
    solo.peer(0, 10_000, ACK, b"").expect("everything");
    assert_eq!(solo.flow().unacknowledged(), 0);
    assert_eq!(solo.engine.statistics().retransmissions, 1);
}

#[test]
fn sack_resends_several_holes_as_the_window_allows() {
    let mut solo = in_flight(plain(), 10);
    // 0, 2 and 4 are missing.
    solo.sack(0, &[(5, 10), (3, 4), (1, 2)]).expect("an ACK");
    assert_eq!(solo.sent(), [(0, 1_000, ACK), (2_000, 1_000, ACK), (4_000, 1_000, ACK)]);
    solo.sack(2_000, &[(5, 10), (3, 4)]).expect("a partial ACK");
    assert_eq!(solo.sent(), [], "nothing is sent twice");
    solo.peer(0, 10_000, ACK, b"").expect("everything");
    solo.write(8_000);
    assert_eq!(solo.sent().len(), 5, "half of the flight");
}

#[test]
fn three_duplicates_resend_without_sack() {
    let setup = Setup { sack: false, ..plain() };
    let mut solo = in_flight(setup, 10);
    for _ in 0..2 {
        solo.peer(0, 0, ACK, b"").expect("a duplicate");
        assert_eq!(solo.sent(), []);
    }
    solo.peer(0, 0, ACK, b"").expect("the third duplicate");
    assert_eq!(solo.sent(), [(0, 1_000, ACK)]);
    // A partial acknowledgement shows the next hole (RFC 6582).
    solo.peer(0, 3_000, ACK, b"").expect("a partial ACK");
    assert_eq!(solo.sent(), [(3_000, 1_000, ACK)]);
    solo.peer(0, 10_000, ACK, b"").expect("everything");
    assert_eq!(solo.engine.statistics().retransmissions, 2);
    assert_eq!(solo.engine.statistics().timeouts, 0);
}

#[test]
fn a_window_update_is_no_duplicate() {
    let mut solo = in_flight(Setup { sack: false, ..plain() }, 10);
    for window in 0..5 {
        solo.window = 50_000 + window;
        solo.peer(0, 0, ACK, b"").expect("a window update");
    }
    assert_eq!(solo.sent(), []);
}

#[test]
fn a_timeout_resends_everything_that_is_not_held_from_one_segment_on() {
    let mut solo = in_flight(plain(), 6);
    solo.sack(0, &[(4, 5)]).expect("an ACK");
    assert_eq!(solo.later(), [(0, 1_000, ACK)]);
    solo.sack(1_000, &[(4, 5)]).expect("an ACK");
    assert_eq!(solo.sent(), [(1_000, 1_000, ACK), (2_000, 1_000, ACK)], "slow start");
    solo.sack(3_000, &[(4, 5)]).expect("an ACK");
    assert_eq!(solo.sent(), [(3_000, 1_000, ACK), (5_000, 1_000, ACK)], "4,000 is held");
}

#[test]
fn a_peer_that_forgets_what_it_held_gets_it_again() {
    let mut solo = in_flight(plain(), 3);
    solo.sack(0, &[(1, 3)]).expect("an ACK");
    assert_eq!(solo.later(), [(0, 1_000, ACK)]);
    // The peer acknowledges the first segment alone: it dropped the others (RFC 2018, section 8).
    solo.peer(0, 1_000, ACK, b"").expect("an ACK");
    assert_eq!(solo.later(), [(1_000, 1_000, ACK)]);
}

#[test]
fn lies_about_what_was_held_change_nothing() {
    let mut solo = in_flight(plain(), 4);
    solo.sack(0, &[(4, 9), (0, 1)]).expect("an ACK");
    solo.sack(0, &[(3, 2), (40, 50)]).expect("an ACK");
    assert_eq!(solo.sent(), []);
    // Hundreds of scraps exhaust the scoreboard and nothing else.
    for n in 0..300 {
        let mut owned = solo.segment(0, 0, ACK, b"");
        let left = Seq(ISS) + 2 + 2 * n;
        owned.options.sack.push(left, left + 1);
        let _ = solo.give(&owned);
    }
    solo.out();
    solo.peer(0, 4_000, ACK, b"").expect("everything");
    assert_eq!(solo.flow().unacknowledged(), 0);
}

#[test]
fn invented_duplicates_do_not_inflate_the_flight() {
    let mut solo = in_flight(Setup { sack: false, ..plain() }, 10);
    solo.write(50_000);
    let mut sent = 0;
    for _ in 0..1_000 {
        solo.peer(0, 0, ACK, b"").expect("a duplicate");
        sent += solo.sent().len();
    }
    assert!(sent <= 20, "{sent} segments for nothing");
}

#[test]
fn a_smaller_path_cuts_segments_anew() {
    let mut solo = in_flight(Setup { mss: 1_460, ..plain() }, 1);
    solo.write(4_000);
    solo.out();
    let (now, key, first) = (solo.now, solo.key, Seq(ISS) + 1);
    let mut icmp = |seq, mtu| solo.engine.icmp_error(now, &key, seq, PathError::PacketTooBig(mtu));
    assert_eq!(icmp(first + 100_000, 1_000), Err(Reason::IcmpUnrelated));
    assert_eq!(icmp(first, 100), Err(Reason::IcmpUnrelated));
    assert_eq!(icmp(first, 1_500), Err(Reason::IcmpUnrelated));
    assert_eq!(icmp(first, 1_040), Ok(()));
    assert!(solo.sent().iter().all(|&(_, len, _)| len <= 1_000));
    assert_eq!(solo.engine.statistics().timeouts, 0);
}

#[test]
fn a_busy_sink_changes_nothing_and_a_lossy_one_costs_a_timeout() {
    let mut solo = Solo::new(plain());
    solo.write(3_000);
    assert_eq!(solo.engine.transmit(solo.now, LINK, &mut |_| Sent::Later, 64), 0);
    assert!(solo.engine.has_output());
    assert_eq!(solo.engine.transmit(solo.now, LINK, &mut |_| Sent::Dropped, 2), 2);
    assert_eq!(solo.sent(), [(2_000, 1_000, ACK)]);
    assert!(!solo.engine.has_output());
    solo.next();
    assert_eq!(solo.sent(), [(0, 1_000, ACK)]);
}
