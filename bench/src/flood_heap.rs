//! `flood-heap`: what the heap grows by while every kind of flood goes on for ten minutes, in memory.

use std::net::Ipv4Addr;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::{BATCH, Batch, Meta, Pool, Port};
use hedgerow_dataplane::shard::Accept;
use hedgerow_tests::Outcome;
use serde_json::json;

use crate::report::{Better, Measured, Result};
use crate::rig::frames::{Aim, Kind, frames};
use crate::world::{BOX, LINK, PEER, SERVICE, shard, wire};
use crate::{Answer, Settings};

/// Of the shard's clock.
const MINUTES: u64 = 10;
/// Frames a second of that time.
const RATE: u64 = 100_000;
/// Distinct frames of the flood.
const FRAMES: usize = 65_536;

/// The figure.
pub fn run(settings: &Settings<'_>) -> Outcome<Answer> {
    let address = Ipv4Addr::from(BOX.0);
    let made = frames(Kind::Mixed, Aim { from: PEER.1, to: BOX.1, address, port: SERVICE }, FRAMES);
    let (mut port, _) = wire();
    let mut shard = shard(BOX, port.abilities(), Accept::ClientHello);
    let (mut rx, mut tx) = (Batch::new(), Batch::new());
    let rate = if settings.quick { RATE / 10 } else { RATE };
    let (mut count, mut micros) = (0, 1_000_000);
    let mut minute = |shard: &mut hedgerow_dataplane::shard::Shard| {
        for _ in 0..rate * 60 / BATCH as u64 {
            for _ in 0..BATCH {
                let Some(mut frame) = port.allocate() else { break };
                let bytes = &made[count % made.len()];
                port.resize(&mut frame, bytes.len());
                port.bytes_mut(&mut frame).copy_from_slice(bytes);
                // The batch is empty and has room for as many.
                let _ = rx.push(frame, Meta::default());
                count += 1;
            }
            micros += BATCH as u64 * 1_000_000 / rate;
            let now = Instant::from_micros(micros);
            shard.ingest(now, LINK, &mut port, &mut rx, &mut tx);
            while shard.event(now).is_some() {}
            if shard.deadline().is_some_and(|at| at <= now) {
                shard.advance(now);
            }
            shard.set_utc(now, 1_800_000_000_000 + micros / 1_000);
            for (frame, _) in tx.drain(BATCH) {
                port.release(frame);
            }
        }
    };
    // Whatever is made at first use is there before the clock runs.
    minute(&mut shard);
    let mut grown = vec![];
    for number in 0..MINUTES {
        (settings.progress)(&format!("minute {} of {MINUTES}", number + 1));
        let allocated = allocation_counter::measure(|| minute(&mut shard));
        grown.push(allocated.bytes_current);
    }
    let bytes = grown.iter().sum::<i64>();
    let mut result = Result::of("flood-heap", "bytes", "none", Better::Less, 1.0, &[bytes as f64], &[0.0]);
    result.ratio = if bytes == 0 { 1.0 } else { 0.0 };
    let what = shard.statistics();
    let note = format!(
        "{MINUTES} minutes of the shard's clock, {rate} frames of all kinds a second; {} flows",
        what.flows
    );
    let raw = json!(grown);
    Ok(Answer::Measured(Box::new(Measured { result: result.noting(note), raw, plots: vec![] })))
}
