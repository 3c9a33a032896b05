//! Bounds: the table, the pool, deadlines, what an idle flow costs, and that nothing depends on anything but its inputs.

use std::time::Duration;

use crate::Reason;
use crate::shard::{Event, ListenerId, Opened, Standing};
use crate::time::Instant;
use crate::wire::{Flags, LinkId};

use super::super::{BLOCK, Engine, EngineConfig, Sent, Slot};
use super::pipe::{Faults, HOP, LINK, Pipe, Setup, agreed, config, key};
use super::solo::{Solo, plain};

const ACK: Flags = Flags::ACK;

#[test]
fn an_idle_flow_is_small_and_owns_no_block() {
    assert!(size_of::<Slot>() <= 512, "{} bytes", size_of::<Slot>());
    let mut solo = Solo::new(plain());
    solo.peer(0, 0, ACK, &[1; 9_000][..8_000]).expect("data");
    solo.write(9_000);
    assert_eq!(solo.engine.buffered(solo.id), 5 * BLOCK);
    assert_eq!(solo.engine.statistics().blocks_used, 5);
    solo.read();
    solo.out();
    solo.peer(8_000, 9_000, ACK, b"").expect("an ACK");
    assert_eq!(solo.engine.statistics().blocks_used, 0);
    // A place to write in that is not used does not stay.
    assert_eq!(solo.flow().spare().len(), BLOCK);
    solo.flow().commit(0);
    assert_eq!((solo.engine.statistics().blocks_used, solo.engine.statistics().blocks_peak), (0, 5));
}

#[test]
fn writing_in_place_is_writing() {
    let mut solo = Solo::new(plain());
    let mut flow = solo.flow();
    flow.spare()[..3].copy_from_slice(b"abc");
    flow.commit(3);
    flow.spare()[..2].copy_from_slice(b"de");
    flow.commit(2);
    drop(flow);
    assert_eq!(solo.out()[0].payload, b"abcde");
}

#[test]
fn the_table_is_as_large_as_it_was_told() {
    let settings = EngineConfig { flows: 3, ..config(&Setup::default()) };
    let mut engine = Engine::new(settings, [1; 32]);
    let mut accept = |port| {
        let mut key = key();
        key.remote_port = port;
        engine.accept(
            Instant::ZERO,
            key,
            LINK,
            HOP,
            &agreed(&Setup::default(), 1, 2),
            Opened::To(ListenerId(0)),
        )
    };
    let ids: Vec<_> = (0..3).map(|port| accept(port).expect("a free slot")).collect();
    assert_eq!(accept(3), Err(Reason::TableFull));
    assert_eq!(accept(0), Err(Reason::Challenged), "taken");
    engine.evict(ids[1], Reason::Evicted);
    assert_eq!(engine.statistics().flows, 3, "until its end was heard of");
    let events: Vec<_> = std::iter::from_fn(|| engine.event()).collect();
    assert!(events.contains(&Event::Closed(ids[1], Reason::Evicted)));
    let mut fresh = key();
    fresh.remote_port = 9;
    let id = engine.accept(
        Instant::ZERO,
        fresh,
        LINK,
        HOP,
        &agreed(&Setup::default(), 1, 2),
        Opened::To(ListenerId(0)),
    );
    assert!(id.is_ok_and(|id| id.slot == ids[1].slot && id != ids[1]));
    assert_eq!(engine.lookup(&fresh).map(|id| id.slot), Some(ids[1].slot));
}

#[test]
fn a_link_that_does_not_exist_carries_nothing() {
    let mut engine = Engine::new(config(&Setup::default()), [1; 32]);
    let nowhere = LinkId(7);
    let agreed = agreed(&Setup::default(), 1, 2);
    let accepted = engine.accept(Instant::ZERO, key(), nowhere, HOP, &agreed, Opened::To(ListenerId(0)));
    assert_eq!(accepted, Err(Reason::NoRoute));
    assert_eq!(engine.connect(Instant::ZERO, key(), nowhere, None), Err(Reason::NoRoute));
}

#[test]
fn a_slot_that_changes_links_sends_on_its_new_one_alone() {
    let links = vec![config(&Setup::default()).links[0]; 2];
    let mut engine = Engine::new(EngineConfig { links, ..config(&Setup::default()) }, [1; 32]);
    let agreed = agreed(&Setup::default(), 1, 2);
    let first = engine
        .accept(Instant::ZERO, key(), LINK, HOP, &agreed, Opened::To(ListenerId(0)))
        .expect("a free slot");
    // It waits to send when it ends, and its slot goes to a flow of the other link.
    engine.flow(first).expect("the flow").finish();
    engine.evict(first, Reason::Evicted);
    assert!(std::iter::from_fn(|| engine.event()).any(|event| matches!(event, Event::Closed(..))));
    let other = LinkId(1);
    let mut inner = key();
    inner.remote_port = 1;
    let second = engine.connect(Instant::ZERO, inner, other, Some(HOP)).expect("a free slot");
    assert_eq!(second.slot, first.slot);
    let mut sent = |link| {
        let mut keys = Vec::new();
        let mut sink = |outgoing: &crate::wire::Outgoing<'_>| {
            keys.push((outgoing.link, outgoing.flags));
            Sent::Yes
        };
        engine.transmit(Instant::ZERO, link, &mut sink, 64);
        keys
    };
    assert_eq!(sent(LINK), [(LINK, Flags::RST.with(ACK))]);
    assert_eq!(sent(other), [(other, Flags::SYN)]);
}

#[test]
fn the_host_sets_a_deadline_and_lifts_it() {
    let mut solo = Solo::new(plain());
    let at = solo.now + Duration::from_secs(5);
    solo.engine.set_deadline(solo.id, Some(at));
    solo.pass(Duration::from_secs(4));
    assert_eq!(solo.events(), []);
    solo.engine.set_deadline(solo.id, None);
    solo.pass(Duration::from_secs(10));
    assert_eq!(solo.events(), []);
    solo.engine.set_deadline(solo.id, Some(solo.now + Duration::from_secs(1)));
    solo.next();
    assert_eq!(solo.events(), [Event::Closed(solo.id, Reason::HandshakeTimeout)]);
    assert_eq!(solo.sent(), [(0, 0, Flags::RST.with(ACK))]);
}

#[test]
fn data_behind_a_gap_is_bounded_in_ranges() {
    let mut solo = Solo::new(plain());
    let kept = (0..100).filter(|n| solo.peer(10 + 20 * n, 0, ACK, b"x").is_ok()).count();
    assert_eq!(kept, super::super::ranges::RANGES);
    assert_eq!(solo.engine.counters()[Reason::ReassemblyFull], 100 - kept as u64);
    // In-order data is taken whatever waits.
    solo.peer(0, 0, ACK, &[b'y'; 2_100]).expect("data");
    assert_eq!(solo.read().len(), 2_100);
    assert_eq!(solo.engine.statistics().blocks_used, 0);
}

#[test]
fn a_writer_that_found_the_pool_empty_is_woken() {
    let mut solo = Solo::new(Setup { blocks: 8, ..plain() });
    // The peer's unread bytes fill what may be used for sending: no acknowledgement will ever free it.
    for n in 0..6 {
        solo.peer(n * 4_000, 0, ACK, &[1; 4_000]).expect("data");
        solo.out();
        if n == 1 {
            solo.flow().set_standing(Standing::Proven);
        }
    }
    assert_eq!(solo.flow().write(b"no room"), 0);
    solo.events();
    solo.flow().consume(4_000);
    assert_eq!(solo.events(), []);
    solo.read();
    assert_eq!(solo.events(), [Event::Writable(solo.id)]);
    solo.write(7);
}

#[test]
fn what_does_not_fit_the_pool_is_not_acknowledged() {
    let mut solo = Solo::new(Setup { blocks: 1, ..plain() });
    solo.peer(0, 0, ACK, &[1; 4_000]).expect("data");
    solo.peer(4_000, 0, ACK, &[1; 1_000]).expect("a part of it");
    assert_eq!(solo.acked(), Some(4_096));
    assert_eq!(solo.peer(4_096, 0, ACK, &[1; 904]), Err(Reason::BufferQuota));
    assert_eq!(solo.acked(), Some(4_096));
    assert_eq!(solo.read().len(), 4_096);
    solo.peer(4_096, 0, ACK, &[1; 904]).expect("there is room again");
}

#[test]
fn the_same_seed_gives_the_same_segments() {
    let trace = |seed| {
        let faults = Faults { loss: 5, duplicate: 5, reorder: 10, delay: Duration::from_millis(3) };
        let mut pipe = Pipe::new(Setup { faults, ..Setup::default() }, seed);
        let mut trace = Vec::new();
        for n in 0..400 {
            pipe.write(0, &[n as u8; 700]);
            pipe.read(1, usize::MAX);
            pipe.step();
            trace.extend(
                pipe.flying.iter().map(|(at, (to, owned))| (at.0, *to, owned.seq, owned.ack, owned.window)),
            );
        }
        trace
    };
    assert_eq!(trace(5), trace(5));
    assert_ne!(trace(5), trace(6));
}
