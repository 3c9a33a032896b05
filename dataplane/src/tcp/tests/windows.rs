//! Windows and acknowledgements: delays, merged segments, silly windows, probes, edges that never retreat.

use std::time::Duration;

use crate::Reason;
use crate::shard::{Event, Standing};
use crate::wire::{Flags, Seq};

use super::pipe::{Dice, Setup};
use super::solo::{IRS, Solo, plain};

const ACK: Flags = Flags::ACK;

#[test]
fn every_second_full_segment_is_acknowledged_at_once() {
    let mut solo = Solo::new(plain());
    solo.peer(0, 0, ACK, &[1; 1_000]).expect("data");
    assert_eq!(solo.acked(), None);
    solo.peer(1_000, 0, ACK, &[1; 1_000]).expect("data");
    assert_eq!(solo.acked(), Some(2_000));
    solo.peer(2_000, 0, ACK, &[1; 10]).expect("data");
    assert_eq!(solo.acked(), None);
    solo.events();
    assert_eq!(solo.next(), Duration::from_millis(40));
    assert_eq!(solo.acked(), Some(2_010));
}

#[test]
fn an_answer_carries_the_acknowledgement() {
    let mut solo = Solo::new(plain());
    solo.peer(0, 0, ACK, b"question").expect("data");
    solo.write(6);
    assert_eq!(solo.acked(), Some(8));
    solo.peer(8, 6, ACK, b"").expect("an ACK");
    while solo.engine.deadline().is_some() {
        solo.next();
        assert_eq!(solo.acked(), None);
    }
}

#[test]
fn a_merged_frame_counts_as_its_segments() {
    let mut solo = Solo::new(plain());
    let mut owned = solo.segment(0, 0, ACK, &[2; 3_000]);
    owned.merged = 3;
    solo.give(&owned).expect("a merged frame");
    assert_eq!(solo.acked(), Some(3_000));
    assert_eq!(solo.read().len(), 3_000);
}

#[test]
fn data_ahead_of_a_gap_is_reported_latest_first() {
    let mut solo = Solo::new(plain());
    let mut blocks = Vec::new();
    for seq in [100, 300, 200, 500] {
        solo.peer(seq, 0, ACK, &[3; 50]).expect("out of order");
        blocks = solo.out()[0].options.sack.as_slice().to_vec();
    }
    let lefts: Vec<u32> = blocks.iter().map(|block| block.0 - (Seq(IRS) + 1)).collect();
    assert_eq!(lefts, [500, 200, 300, 100]);
    solo.peer(0, 0, ACK, &[3; 100]).expect("the gap");
    let out = solo.out();
    assert_eq!(out[0].ack, Seq(IRS) + 151);
    assert_eq!(out[0].options.sack.as_slice().len(), 3);
    assert_eq!(solo.read(), [3; 150]);
}

#[test]
fn a_duplicate_is_acknowledged_and_reported() {
    let mut solo = Solo::new(plain());
    solo.peer(0, 0, ACK, b"abcdef").expect("data");
    solo.read();
    solo.out();
    assert_eq!(solo.peer(0, 0, ACK, b"abc"), Err(Reason::OutOfWindow));
    let out = solo.out();
    assert_eq!(out[0].ack, Seq(IRS) + 7);
    assert_eq!(out[0].options.sack.as_slice(), [(Seq(IRS) + 1, Seq(IRS) + 4)]);
    // What overlaps is taken from where it is new.
    solo.peer(3, 0, ACK, b"defghi").expect("an overlap");
    assert_eq!(solo.read(), b"ghi");
}

#[test]
fn a_closed_window_is_probed_with_growing_pauses() {
    let mut solo = Solo::new(plain());
    solo.window = 0;
    solo.peer(0, 0, ACK, b"").expect("a closed window");
    solo.write(500);
    assert_eq!(solo.sent(), []);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let before = solo.now;
        while solo.sent() != [(-1, 0, ACK)] {
            solo.next();
        }
        pauses.push(solo.now.since(before).as_secs());
        let _ = solo.peer(0, 0, ACK, b"");
    }
    assert_eq!(pauses, [1, 2, 4, 8]);
    solo.window = 400;
    solo.peer(0, 0, ACK, b"").expect("an open window");
    // Not worth a segment, but it is all that there is.
    assert_eq!(solo.later(), [(0, 400, ACK)]);
}

#[test]
fn a_window_that_stays_closed_ends_the_flow() {
    let mut solo = Solo::new(plain());
    solo.window = 0;
    solo.peer(0, 0, ACK, b"").expect("a closed window");
    solo.write(500);
    solo.out();
    let start = solo.now;
    loop {
        solo.next();
        solo.out();
        if let [Event::Closed(_, reason)] = solo.events()[..] {
            assert_eq!(reason, Reason::TimedOut);
            break;
        }
        let _ = solo.peer(0, 0, ACK, b"");
    }
    assert!(solo.now.since(start) >= Duration::from_secs(120));
    assert!(solo.now.since(start) <= Duration::from_secs(240));
}

#[test]
fn a_window_that_only_blinks_ends_the_flow_too() {
    let mut solo = Solo::new(plain());
    solo.window = 0;
    solo.peer(0, 0, ACK, b"").expect("a closed window");
    solo.write(500);
    solo.out();
    let start = solo.now;
    while solo.events().is_empty() {
        assert!(solo.now.since(start) < Duration::from_secs(300), "held for ever without taking a byte");
        // Too little to be worth a segment, and gone before a probe would fill it.
        solo.window = 1;
        let _ = solo.peer(0, 0, ACK, b"");
        solo.out();
        solo.window = 0;
        let _ = solo.peer(0, 0, ACK, b"");
        solo.out();
        solo.pass(Duration::from_millis(500));
        solo.out();
    }
    assert!(solo.now.since(start) >= Duration::from_secs(120));
}

#[test]
fn others_challenges_do_not_silence_keep_alives_and_probes() {
    let mut solo = Solo::new(plain());
    // Whoever sends SYNs on some hundred flows of his own uses up what all flows share.
    while solo.engine.shared.challenge.take(solo.now) {}
    let keep_alive = u32::MAX;
    assert_eq!(solo.peer(keep_alive, 0, ACK, b""), Err(Reason::OutOfWindow));
    assert_eq!(solo.acked(), Some(0));
    // One flow alone still gets no more than ten a second.
    assert_eq!(solo.peer(keep_alive, 0, ACK, b""), Err(Reason::ChallengeCap));
    assert_eq!(solo.acked(), None);
    solo.pass(Duration::from_millis(100));
    assert_eq!(solo.peer(keep_alive, 0, ACK, b""), Err(Reason::OutOfWindow));
    assert_eq!(solo.acked(), Some(0));
}

#[test]
fn a_peer_that_probes_our_closed_window_is_heard() {
    let mut solo = Solo::new(plain());
    solo.flow().limit_window(0);
    solo.write(100);
    solo.out();
    // What was promised before stays promised.
    solo.peer(0, 0, ACK, &[4; 1_000]).expect("data within the promise");
    let mut at = 1_000;
    while at < 8_192 {
        let n = (8_192 - at).min(1_000);
        solo.peer(at, 0, ACK, &vec![4; n as usize]).expect("data within the promise");
        at += n;
    }
    assert_eq!(solo.out().last().map(|owned| owned.window), Some(0));
    let probe = solo.peer(8_192, 100, ACK, &[5]);
    assert_eq!(probe, Err(Reason::OutOfWindow));
    assert_eq!(solo.acked(), Some(8_192), "the byte was not taken");
    assert_eq!(solo.flow().unacknowledged(), 0, "its acknowledgement was");
    solo.read();
    solo.flow().limit_window(20_000);
    assert_eq!(solo.out().last().map(|owned| owned.window), Some(18 << 10));
}

#[test]
fn little_reads_are_not_advertised() {
    let mut solo = Solo::new(plain());
    solo.flow().set_standing(Standing::Proven);
    solo.flow().limit_window(10_000);
    let mut window = None;
    for n in 0..10 {
        solo.peer(n * 1_000, 0, ACK, &[6; 1_000]).expect("data");
        window = solo.out().last().map(|owned| owned.window).or(window);
    }
    assert_eq!(window, Some(0));
    solo.flow().consume(100);
    assert_eq!(solo.acked(), None);
    solo.flow().consume(1_900);
    assert_eq!(solo.out().last().map(|owned| owned.window), Some(2_000));
}

#[test]
fn the_edge_never_retreats_by_more_than_the_scale() {
    for seed in 0..50 {
        let mut dice = Dice(seed);
        let mut solo = Solo::new(Setup { scale: 8, ..plain() });
        let (mut seq, mut edge, mut read) = (0u32, 8_192, 0u32);
        for _ in 0..300 {
            match dice.below(4) {
                0 => solo.flow().limit_window(dice.below(40_000) as usize),
                1 => {
                    read += {
                        let n = solo.flow().readable().min(dice.below(5_000) as usize);
                        solo.flow().consume(n);
                        n as u32
                    }
                }
                _ => {
                    let n = (edge - seq).min(dice.below(1_400) as u32 + 1);
                    if n > 0 {
                        solo.peer(seq, 0, ACK, &vec![7; n as usize]).expect("data within the promise");
                        seq += n;
                    }
                }
            }
            for owned in solo.out() {
                let offered = (owned.ack - (Seq(IRS) + 1)) + (u32::from(owned.window) << 8);
                assert!(offered + 255 >= edge, "seed {seed}: retreated from {edge} to {offered}");
                edge = edge.max(offered);
                assert!(edge <= read + (64 << 10), "seed {seed}: beyond every limit");
            }
        }
    }
}

#[test]
fn small_writes_go_out_together() {
    let mut solo = Solo::new(plain());
    for _ in 0..30 {
        solo.write(100);
    }
    assert_eq!(solo.sent(), [(0, 1_000, ACK), (1_000, 1_000, ACK), (2_000, 1_000, ACK)]);
}

#[test]
fn a_sender_does_not_fill_small_windows() {
    let mut solo = Solo::new(plain());
    solo.window = 10_000;
    solo.peer(0, 0, ACK, b"").expect("a window");
    solo.write(30_000);
    assert_eq!(solo.sent().len(), 10);
    // The window slides by a little: not worth a segment (RFC 9293, section 3.8.6.2.1).
    solo.window = 300;
    solo.peer(0, 10_000, ACK, b"").expect("an ACK");
    assert_eq!(solo.sent(), []);
    solo.window = 1_000;
    solo.peer(0, 10_000, ACK, b"").expect("a window update");
    assert_eq!(solo.sent(), [(10_000, 1_000, ACK)]);
}

#[test]
fn a_cutting_port_gets_many_segments_at_once() {
    let mut solo = Solo::new(Setup { segmentation: 65_000, ..plain() });
    solo.write(9_500);
    let out = solo.out();
    assert!(out.len() <= 3, "{} frames", out.len());
    assert!(out.iter().any(|owned| owned.merged >= 4));
    assert_eq!(out.iter().map(|owned| owned.payload.len()).sum::<usize>(), 9_500);
}

#[test]
fn tiny_segments_are_respected() {
    let mut solo = Solo::new(Setup { mss: 64, ..plain() });
    solo.write(640);
    assert!(solo.sent().iter().all(|&(_, len, _)| len == 64));
}

#[test]
fn a_reader_that_keeps_up_gets_a_larger_window() {
    let mut solo = Solo::new(Setup { scale: 8, ..plain() });
    let mut windows = Vec::new();
    for n in 0..200 {
        solo.peer(n * 1_000, 0, ACK, &[8; 1_000]).expect("data");
        solo.read();
        windows.extend(solo.out().iter().map(|owned| u32::from(owned.window) << 8));
    }
    assert_eq!(windows.first(), Some(&(18 << 10)));
    assert!(windows.last().is_some_and(|&window| window >= 64 << 10), "{windows:?}");
}
