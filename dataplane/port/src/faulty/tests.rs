//! Faults happen as often as they should, and nothing else changes.

use super::*;
use crate::memory::{Memory, MemoryConfig};

const ALWAYS: u32 = 1_000_000;

fn world(received: Faults, sent: Faults, seed: u64) -> (Faulty<Memory>, Memory) {
    let config = MemoryConfig { frames: 512, queue: 4096, ..MemoryConfig::default() };
    let (near, far) = Memory::pair(config.clone(), config);
    (Faulty::new(near, received, sent, seed), far)
}

/// Numbered frames from the far end; returns the numbers in the order in which they come out, by poll.
fn receive(port: &mut Faulty<Memory>, far: &mut Memory, count: u32, polls: usize) -> Vec<Vec<u32>> {
    for n in 0..count {
        assert!(far.send(&n.to_be_bytes(), Meta::default()));
    }
    (0..polls).map(|_| poll(port)).collect()
}

fn poll(port: &mut Faulty<Memory>) -> Vec<u32> {
    let mut numbers = Vec::new();
    loop {
        let mut batch = Batch::new();
        let count = port.receive(Lane::Stranger, &mut batch).expect("memory never fails");
        for (frame, _) in batch.drain(count) {
            numbers.push(u32::from_be_bytes(port.bytes(&frame).try_into().expect("four bytes")));
            port.release(frame);
        }
        if count == 0 && port.inner().waiting() == 0 {
            break;
        }
    }
    port.flush().expect("memory never fails");
    numbers
}

fn send(port: &mut Faulty<Memory>, count: u32) {
    for n in 0..count {
        let mut frame = port.allocate().expect("a frame");
        assert!(port.resize(&mut frame, 4));
        port.bytes_mut(&mut frame).copy_from_slice(&n.to_be_bytes());
        let mut batch = Batch::new();
        batch.push(frame, Meta::default()).expect("space");
        assert_eq!(port.transmit(&mut batch).expect("memory never fails"), 1);
    }
}

fn arrived(far: &mut Memory) -> Vec<u32> {
    let mut numbers = Vec::new();
    far.take(|bytes, _| numbers.push(u32::from_be_bytes(bytes.try_into().expect("four bytes"))));
    numbers
}

#[test]
fn without_faults_nothing_changes() {
    let (mut port, mut far) = world(Faults::default(), Faults::default(), 1);
    assert_eq!(receive(&mut port, &mut far, 300, 1), [(0..300).collect::<Vec<_>>()]);
    send(&mut port, 300);
    assert_eq!(arrived(&mut far), (0..300).collect::<Vec<_>>());
    assert_eq!(port.counts(), Default::default());
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let faults = Faults {
        loss: 100_000,
        duplicate: 100_000,
        reorder: 200_000,
        reorder_polls: 3,
        delay_polls: 1,
        corrupt: 0,
    };
    let run = |seed| {
        let (mut port, mut far) = world(faults, faults, seed);
        let received = receive(&mut port, &mut far, 300, 8);
        send(&mut port, 100);
        let mut sent = Vec::new();
        for _ in 0..8 {
            port.flush().expect("memory never fails");
            sent.push(arrived(&mut far));
        }
        (received, sent, port.counts())
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
}

#[test]
fn what_is_counted_is_what_happened() {
    let faults = Faults { loss: 200_000, duplicate: 100_000, ..Faults::default() };
    let (mut port, mut far) = world(faults, Faults::default(), 3);
    let numbers = receive(&mut port, &mut far, 2_000, 1).concat();
    let (counts, _) = port.counts();
    assert_eq!(numbers.len() as u64, 2_000 - counts.lost + counts.duplicated);
    assert!((300..500).contains(&counts.lost), "{counts:?}");
    assert!((100..230).contains(&counts.duplicated), "{counts:?}");
    let mut different = numbers.clone();
    different.dedup();
    assert_eq!(different.len() as u64, 2_000 - counts.lost);
    assert!(different.is_sorted());
}

#[test]
fn delayed_frames_keep_their_order_and_their_time() {
    let faults = Faults { delay_polls: 2, ..Faults::default() };
    let (mut port, mut far) = world(faults, faults, 1);
    let polls = receive(&mut port, &mut far, 50, 4);
    assert_eq!(polls, [vec![], vec![], (0..50).collect(), vec![]]);
    send(&mut port, 50);
    assert_eq!(arrived(&mut far), []);
    assert!(port.park().is_none(), "a poll is needed to bring them out");
    port.flush().expect("memory never fails");
    assert_eq!(arrived(&mut far), []);
    port.flush().expect("memory never fails");
    assert_eq!(arrived(&mut far), (0..50).collect::<Vec<_>>());
}

#[test]
fn reordered_frames_come_later_but_come() {
    let faults = Faults { reorder: 300_000, reorder_polls: 4, ..Faults::default() };
    let (mut port, mut far) = world(faults, Faults::default(), 5);
    let polls = receive(&mut port, &mut far, 200, 6);
    let (counts, _) = port.counts();
    assert_eq!(polls[0].len() as u64, 200 - counts.reordered);
    assert!(counts.reordered > 30);
    let mut all = polls.concat();
    assert!(!all.is_sorted());
    all.sort_unstable();
    assert_eq!(all, (0..200).collect::<Vec<_>>());
    assert!(polls[5].is_empty(), "nobody waits for longer than four polls");
}

#[test]
fn a_full_wire_behind_loses_nothing() {
    let config = MemoryConfig { frames: 512, queue: 10, ..MemoryConfig::default() };
    let (near, mut far) = Memory::pair(config.clone(), config);
    let mut port = Faulty::new(near, Faults::default(), Faults::default(), 1);
    send(&mut port, 64);
    let mut numbers = arrived(&mut far);
    assert_eq!(numbers.len(), 10);
    while numbers.len() < 64 {
        port.flush().expect("memory never fails");
        numbers.extend(arrived(&mut far));
    }
    assert_eq!(numbers, (0..64).collect::<Vec<_>>());
}

#[test]
fn what_is_held_is_bounded() {
    let faults = Faults { delay_polls: 1_000_000, ..Faults::default() };
    let config = MemoryConfig { frames: 4096, queue: 4096, ..MemoryConfig::default() };
    let (near, mut far) = Memory::pair(config.clone(), config);
    let mut port = Faulty::new(near, faults, Faults::default(), 1);
    for n in 0..4_000u32 {
        assert!(far.send(&n.to_be_bytes(), Meta::default()));
    }
    let mut batch = Batch::new();
    for _ in 0..100 {
        port.receive(Lane::Stranger, &mut batch).expect("memory never fails");
        port.flush().expect("memory never fails");
    }
    assert!(port.received.held.len() <= HELD_MAX + BATCH);
    assert!(port.received.held.len() >= HELD_MAX - BATCH);
    assert_eq!(port.received.held.capacity(), HELD_MAX + BATCH, "the memory taken at the start was enough");
}

#[test]
fn one_flipped_bit_is_always_seen_by_the_checksum() {
    let faults = Faults { corrupt: ALWAYS, ..Faults::default() };
    let (mut port, mut far) = world(faults, Faults::default(), 9);
    // Only a checksummed part, whose field holds a pseudo-header's sum of 0x1234.
    let mut bytes: Vec<u8> = (0..100).collect();
    bytes[16..18].copy_from_slice(&[0x12, 0x34]);
    let meta = Meta { checksum: Checksum::Partial { start: 0, offset: 16 }, ..Meta::default() };
    for _ in 0..200 {
        far.send(&bytes, meta);
        let mut batch = Batch::new();
        assert_eq!(port.receive(Lane::Stranger, &mut batch).expect("memory never fails"), 1);
        for (frame, meta) in batch.drain(1) {
            assert_eq!(meta.checksum, Checksum::Unverified);
            let sum: u32 =
                port.bytes(&frame).chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            let sum = 0x1234 + sum;
            assert_ne!((sum & 0xffff) + (sum >> 16), 0xffff);
            port.release(frame);
        }
    }
    assert_eq!(port.counts().0.corrupted, 200);
}

#[test]
fn a_super_frame_to_be_sent_is_lost_rather_than_repaired() {
    let faults = Faults { corrupt: ALWAYS, ..Faults::default() };
    let (mut port, mut far) = world(Faults::default(), faults, 9);
    let mut frame = port.allocate().expect("a frame");
    port.resize(&mut frame, 100);
    let mut batch = Batch::new();
    let meta = Meta { checksum: Checksum::Partial { start: 34, offset: 16 }, vlan: None, segment: 20 };
    batch.push(frame, meta).expect("space");
    assert_eq!(port.transmit(&mut batch).expect("memory never fails"), 1);
    assert_eq!(far.take(|_, _| ()), 0);
    assert_eq!(port.counts().1, FaultCounts { lost: 1, ..FaultCounts::default() });
}
