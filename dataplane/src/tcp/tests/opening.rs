//! Active opens, and what established flows make of SYNs, resets and odd numbers.

use std::time::Duration;

use crate::Reason;
use crate::shard::Event;
use crate::time::Instant;
use crate::wire::{Flags, Seq};

use super::super::{Engine, PathError, Sent};
use super::pipe::{HOP, LINK, Owned, Setup, config, key};
use super::solo::{Solo, plain};

const SYN_ACK: Flags = Flags::SYN.with(Flags::ACK);
const RST_ACK: Flags = Flags::RST.with(Flags::ACK);

/// An engine with a connection attempt under way, and its SYN.
struct Dial {
    engine: Engine,
    id: crate::shard::FlowId,
    now: Instant,
    syn: Owned,
}

impl Dial {
    fn new() -> Self {
        let mut engine = Engine::new(config(&Setup::default()), [3; 32]);
        let now = Instant::from_millis(5_000);
        let id = engine.connect(now, key(), LINK, None).expect("a free slot");
        let syn = out(&mut engine, now).remove(0);
        Dial { engine, id, now, syn }
    }

    fn answer(&self, ack: u32, flags: Flags) -> Owned {
        let mut answer = Owned::new(key(), Seq(77), self.syn.seq + ack, flags);
        answer.options.mss = Some(1_300);
        answer.options.window_scale = Some(7);
        answer.options.sack_permitted = true;
        answer.options.timestamps = self.syn.options.timestamps.map(|(value, _)| (900, value));
        answer
    }

    fn give(&mut self, owned: &Owned) -> Result<(), Reason> {
        self.engine.input(self.now, self.id, &owned.segment(), HOP)
    }
}

fn out(engine: &mut Engine, now: Instant) -> Vec<Owned> {
    let mut out = Vec::new();
    let mut sink = |outgoing: &crate::wire::Outgoing<'_>| {
        out.push(Owned::from(outgoing));
        Sent::Yes
    };
    while engine.transmit(now, LINK, &mut sink, 64) > 0 {}
    out
}

#[test]
fn a_dial_offers_all_options_and_takes_what_the_peer_agrees_to() {
    let mut dial = Dial::new();
    assert_eq!(dial.syn.flags, Flags::SYN);
    assert_eq!(dial.syn.options.mss, Some(1_460));
    assert_eq!(dial.syn.options.window_scale, Some(8));
    assert!(dial.syn.options.sack_permitted && dial.syn.options.timestamps.is_some());
    dial.give(&dial.answer(1, SYN_ACK)).expect("an answer");
    assert_eq!(dial.engine.event(), Some(Event::Connected(dial.id)));
    let ack = out(&mut dial.engine, dial.now).remove(0);
    assert_eq!((ack.flags, ack.ack, ack.seq), (Flags::ACK, Seq(78), dial.syn.seq + 1));
    assert_eq!(ack.window, (64 << 10 >> 8) as u16);
    assert_eq!(ack.options.timestamps.map(|stamps| stamps.1), Some(900));
    let mut flow = dial.engine.flow(dial.id).expect("a flow");
    assert_eq!(flow.write(&[1; 5_000]), 5_000);
    drop(flow);
    // The peer's MSS, less the timestamps.
    assert_eq!(out(&mut dial.engine, dial.now)[0].payload.len(), 1_288);
}

#[test]
fn a_plain_answer_turns_all_options_off() {
    let mut dial = Dial::new();
    let mut answer = dial.answer(1, SYN_ACK);
    answer.options = Default::default();
    dial.give(&answer).expect("an answer");
    let mut flow = dial.engine.flow(dial.id).expect("a flow");
    flow.write(&[1; 5_000]);
    drop(flow);
    let sent = out(&mut dial.engine, dial.now);
    assert_eq!(sent[0].payload.len(), 536);
    assert_eq!(sent[0].options, Default::default());
    // 64 KiB do not fit an unscaled field.
    assert_eq!(sent[0].window, u16::MAX);
}

#[test]
fn a_reset_refuses_a_dial_only_with_our_number() {
    let mut dial = Dial::new();
    assert_eq!(dial.give(&dial.answer(2, RST_ACK)), Err(Reason::BadAck));
    assert_eq!(dial.give(&dial.answer(1, Flags::RST)), Err(Reason::OutOfWindow));
    assert_eq!(out(&mut dial.engine, dial.now).len(), 0);
    dial.give(&dial.answer(1, RST_ACK)).expect("a refusal");
    assert_eq!(dial.engine.event(), Some(Event::Closed(dial.id, Reason::Refused)));
    assert!(dial.engine.flow(dial.id).is_none());
}

#[test]
fn an_old_connection_of_the_peer_is_reset_and_the_dial_goes_on() {
    let mut dial = Dial::new();
    let stale = dial.answer(5_000, Flags::ACK);
    assert_eq!(dial.give(&stale), Err(Reason::BadAck));
    let reset = out(&mut dial.engine, dial.now).remove(0);
    assert_eq!((reset.flags, reset.seq), (Flags::RST, stale.ack));
    dial.give(&dial.answer(1, SYN_ACK)).expect("an answer");
}

#[test]
fn a_simultaneous_open_is_refused() {
    let mut dial = Dial::new();
    assert_eq!(dial.give(&dial.answer(0, Flags::SYN)), Err(Reason::NoListener));
}

#[test]
fn an_echo_of_another_clock_is_refused() {
    let mut dial = Dial::new();
    let mut answer = dial.answer(1, SYN_ACK);
    answer.options.timestamps =
        dial.syn.options.timestamps.map(|(value, _)| (900, value.wrapping_sub(1 << 20)));
    assert_eq!(dial.give(&answer), Err(Reason::BadAck));
}

#[test]
fn an_unanswered_dial_backs_off_and_gives_up() {
    let mut dial = Dial::new();
    let start = dial.now;
    let mut syns = Vec::new();
    loop {
        dial.now = dial.engine.deadline().expect("a timer");
        dial.engine.advance(dial.now);
        let sent = out(&mut dial.engine, dial.now);
        if let Some(Event::Closed(_, reason)) = dial.engine.event() {
            assert_eq!(reason, Reason::TimedOut);
            assert!(sent.is_empty(), "no reset for a peer that never answered");
            break;
        }
        syns.extend(sent.iter().map(|syn| (dial.now.since(start).as_secs(), syn.seq == dial.syn.seq)));
    }
    assert_eq!(syns, [(1, true), (3, true), (7, true), (15, true)]);
    assert_eq!(dial.now.since(start), Duration::from_secs(20));
}

#[test]
fn only_a_dial_dies_of_an_unreachable_destination() {
    let mut dial = Dial::new();
    let refused = Err(Reason::IcmpUnrelated);
    let (now, seq) = (dial.now, dial.syn.seq);
    assert_eq!(dial.engine.icmp_error(now, &key(), seq + 1, PathError::Unreachable), refused);
    assert_eq!(dial.engine.icmp_error(now, &key(), seq, PathError::Unreachable), Ok(()));
    assert_eq!(dial.engine.event(), Some(Event::Closed(dial.id, Reason::Unreachable)));

    let mut solo = Solo::new(plain());
    solo.write(10);
    solo.out();
    let seq = Seq(super::solo::ISS) + 1;
    assert_eq!(solo.engine.icmp_error(solo.now, &solo.key, seq, PathError::Unreachable), refused);
}

#[test]
fn initial_numbers_differ_by_tuple_and_secret_and_repeat_by_seed() {
    let iss = |seed: u8, port: u16| {
        let mut engine = Engine::new(config(&Setup::default()), [seed; 32]);
        let mut key = key();
        key.local_port = port;
        engine.connect(Instant::ZERO, key, LINK, None).expect("a free slot");
        out(&mut engine, Instant::ZERO)[0].seq
    };
    assert_eq!(iss(1, 50_000), iss(1, 50_000));
    assert_ne!(iss(1, 50_000), iss(1, 50_001));
    assert_ne!(iss(1, 50_000), iss(2, 50_000));
}

#[test]
fn a_tuple_is_dialled_once() {
    let mut dial = Dial::new();
    assert_eq!(dial.engine.connect(dial.now, key(), LINK, None), Err(Reason::Refused));
}

#[test]
fn resets_count_only_with_the_exact_number() {
    let mut solo = Solo::new(plain());
    assert_eq!(solo.peer(100_000, 0, Flags::RST, b""), Err(Reason::OutOfWindow));
    assert_eq!(solo.acked(), None);
    assert_eq!(solo.peer(1, 0, Flags::RST, b""), Err(Reason::Challenged));
    assert_eq!(solo.acked(), Some(0));
    solo.peer(0, 0, Flags::RST, b"").expect("a reset");
    assert_eq!(solo.events(), [Event::Closed(solo.id, Reason::Reset)]);
    assert!(solo.out().is_empty());
    assert_eq!(solo.engine.lookup(&solo.key), None);
}

#[test]
fn a_syn_is_challenged_within_the_budget() {
    let mut solo = Solo::new(plain());
    assert_eq!(solo.peer(0, 0, Flags::SYN, b""), Err(Reason::Challenged));
    assert_eq!(solo.acked(), Some(0));
    assert_eq!(solo.peer(500_000, 0, Flags::SYN, b""), Err(Reason::ChallengeCap));
    assert_eq!(solo.acked(), None);
    solo.pass(Duration::from_millis(100));
    assert_eq!(solo.peer(500_000, 0, Flags::SYN, b""), Err(Reason::OutOfWindow));
    assert_eq!(solo.acked(), Some(0));
    assert_eq!(solo.engine.counters()[Reason::ChallengeCap], 1);
}

#[test]
fn acknowledgements_outside_of_what_was_sent_are_refused() {
    let mut solo = Solo::new(plain());
    solo.write(100);
    solo.out();
    assert_eq!(solo.peer(0, 101, Flags::ACK, b""), Err(Reason::BadAck));
    assert_eq!(solo.acked(), Some(0));
    assert_eq!(solo.flow().unacknowledged(), 100);
    solo.peer(0, 100, Flags::ACK, b"").expect("an ACK");
    assert_eq!(solo.flow().unacknowledged(), 0);
    solo.pass(Duration::from_secs(1));
    assert_eq!(solo.peer(0, 0u32.wrapping_sub(70_000), Flags::ACK, b""), Err(Reason::BadAck));
    assert_eq!(solo.peer(0, 0, Flags::PSH, b"no ACK bit"), Err(Reason::BadAck));
}

#[test]
fn data_with_an_old_acknowledgement_is_taken() {
    let mut solo = Solo::new(plain());
    solo.write(100);
    solo.out();
    solo.peer(0, 100, Flags::ACK, b"").expect("an ACK");
    solo.peer(0, 50, Flags::ACK, b"late").expect("data");
    assert_eq!(solo.read(), b"late");
}

#[test]
fn old_timestamps_are_refused_until_they_mean_nothing() {
    let mut solo = Solo::new(Setup { timestamps: true, ..plain() });
    solo.timestamps = Some((1_000, 1));
    solo.peer(0, 0, Flags::ACK, b"one").expect("data");
    solo.out();
    solo.timestamps = Some((999, 1));
    assert_eq!(solo.peer(3, 0, Flags::ACK, b"old"), Err(Reason::StaleTimestamp));
    assert_eq!(solo.acked(), Some(3));
    solo.pass(Duration::from_millis(100));
    solo.timestamps = None;
    assert_eq!(solo.peer(3, 0, Flags::ACK, b"none"), Err(Reason::StaleTimestamp));
    // A reset needs none (RFC 7323, section 5.2).
    solo.timestamps = Some((5, 1));
    solo.pass(Duration::from_secs(25 * 24 * 3_600));
    solo.peer(3, 0, Flags::ACK, b"two").expect("after 24 days the clock proves nothing");
    assert_eq!(solo.read(), b"onetwo");
}
