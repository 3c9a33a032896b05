//! Byte streams between two engines over a pipe that loses, repeats and reorders.

use std::time::Duration;

use crate::Reason;

use super::pipe::{Dice, Faults, Pipe, Setup};

/// One direction's stream: what is to be sent, and what arrived.
struct Stream {
    bytes: Vec<u8>,
    written: usize,
    arrived: Vec<u8>,
}

impl Stream {
    fn new(len: usize, salt: u64) -> Self {
        let mut dice = Dice(salt);
        let bytes = (0..len).map(|_| dice.next() as u8).collect();
        Stream { bytes, written: 0, arrived: Vec::new() }
    }
}

/// Sends `lens` bytes in both directions at once, then FINs, and compares. `appetite` limits reads per step.
fn exchange(setup: Setup, seed: u64, lens: [usize; 2], appetite: usize) -> Pipe {
    let mut pipe = Pipe::new(setup, seed);
    let mut streams = [Stream::new(lens[0], seed), Stream::new(lens[1], !seed)];
    let done = pipe.until(Duration::from_secs(3_600), |pipe| {
        for (from, stream) in streams.iter_mut().enumerate() {
            stream.written += pipe.write(from, &stream.bytes[stream.written..]);
            if stream.written == stream.bytes.len() {
                pipe.finish(from);
            }
            let arrived = pipe.read(1 - from, appetite);
            stream.arrived.extend(arrived);
        }
        pipe.gather();
        (0..2).all(|end| pipe.closed(end).is_some())
    });
    let closed = [pipe.closed(0), pipe.closed(1)];
    assert!(
        done,
        "seed {seed}: stuck at {:?}: {}/{} and {}/{} of {lens:?}; {:?}",
        pipe.now,
        streams[0].arrived.len(),
        streams[0].written,
        streams[1].arrived.len(),
        streams[1].written,
        pipe.ends.each_ref().map(|end| end.statistics()),
    );
    assert_eq!(closed, [Some(Reason::Finished); 2], "seed {seed}");
    for stream in &streams {
        assert!(stream.arrived == stream.bytes, "seed {seed}: streams differ");
    }
    for end in &pipe.ends {
        assert_eq!(end.statistics().blocks_used, 0, "seed {seed}: blocks left");
        assert_eq!(end.statistics().flows, 0, "seed {seed}: flows left");
    }
    pipe
}

#[test]
fn a_clean_pipe_carries_both_directions() {
    let pipe = exchange(Setup::default(), 1, [3_000_000, 1_000_000], usize::MAX);
    assert_eq!(pipe.ends[0].statistics().retransmissions, 0);
    assert_eq!(pipe.ends[1].statistics().retransmissions, 0);
}

#[test]
fn a_bad_pipe_changes_nothing() {
    for seed in 0..150 {
        let mut dice = Dice(seed ^ 0xbad);
        let setup = Setup {
            mss: [64, 536, 1220, 1460, 8_960][dice.below(5) as usize],
            sack: dice.chance(70),
            timestamps: dice.chance(70),
            scale: if dice.chance(80) { 8 } else { 0 },
            segmentation: if dice.chance(30) { 65_000 } else { 0 },
            faults: Faults {
                loss: dice.below(8),
                duplicate: dice.below(10),
                reorder: dice.below(20),
                delay: Duration::from_micros(200 + dice.below(30_000)),
            },
            ..Setup::default()
        };
        let lens = [dice.below(200_000) as usize, dice.below(60_000) as usize];
        let appetite = if dice.chance(50) { usize::MAX } else { 1 + dice.below(20_000) as usize };
        exchange(setup, seed, lens, appetite);
    }
}

#[test]
fn heavy_loss_is_survived() {
    for seed in 0..20 {
        let faults = Faults { loss: 20, duplicate: 5, reorder: 30, delay: Duration::from_millis(10) };
        let setup = Setup { sack: seed % 2 == 0, faults, ..Setup::default() };
        exchange(setup, seed, [60_000, 20_000], usize::MAX);
    }
}

#[test]
fn a_tiny_pool_slows_down_and_corrupts_nothing() {
    for seed in 0..20 {
        let faults = Faults { loss: 3, duplicate: 2, reorder: 10, delay: Duration::from_millis(2) };
        let setup = Setup { blocks: 12, faults, ..Setup::default() };
        exchange(setup, seed, [150_000, 50_000], usize::MAX);
    }
}
