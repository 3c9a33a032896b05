//! `flood-kinds`: what a frame of each kind of flood costs the box, held against a SYN: none may be a cheaper weapon.
//!
//! `flood-kinds` floods the box on veth with AF_PACKET; `flood-kinds-memory` hands the same frames to a shard.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::{BATCH, Batch, Meta, Pool, Port};
use hedgerow_dataplane::shard::Accept;
use hedgerow_tests::{Context, Outcome};
use serde_json::json;

use super::{on, worlds};
use crate::plot::{Chart, Series};
use crate::report::{Better, Measured, Result, median};
use crate::rig::contestant::{NODES, SERVICE};
use crate::rig::frames::{Aim, Kind, frames, out_of_window};
use crate::rig::traffic::{Answer as Reply, Load, Server, clients};
use crate::rig::{Contestant, Driver, Link, OUTSIDE, World};
use crate::world::{BOX, LINK, PEER, shard, wire};
use crate::{Answer, Settings, processor_time};

/// A kind may cost so many SYNs.
const LIMIT: f64 = 2.0;
/// Frames a second: little enough that all of them arrive.
const RATE: u32 = 150_000;
/// Connections whose tuples the last kind of flood uses.
const KNOWN: usize = 64;

/// Costs by kind, one per round, in nanoseconds a frame.
type Costs = Vec<(&'static str, Vec<f64>)>;

/// `flood-kinds`.
pub fn run(settings: &Settings<'_>) -> Outcome<Answer> {
    let worlds = match worlds(&on(Link::Frames, [Contestant::Hedgerow(Driver::AfPacket)]), settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let world = &worlds[0];
    let _server = Server::start(&world.node, SERVICE..NODES.end, Reply::Echo, OUTSIDE)?;
    let load = Load { keep: true, attempts: KNOWN, ..Load::closed(world.target(), 16) };
    let known = clients(&world.client, load, Duration::from_secs(10), OUTSIDE)?.kept;
    let peers = known.iter().map(own_address).collect::<Outcome<Vec<_>>>()?;
    let (rounds, length) =
        if settings.quick { (3, Duration::from_millis(150)) } else { (5, Duration::from_millis(400)) };
    let mut costs: Costs = names().map(|name| (name, vec![])).collect();
    for round in 0..rounds {
        for (index, (name, values)) in costs.iter_mut().enumerate() {
            (settings.progress)(&format!("round {} of {rounds}: {name}", round + 1));
            let kind = kinds().nth(index);
            values.push(cost_of(world, kind, &peers, length)?);
        }
    }
    Ok(answer("flood-kinds", "AF_PACKET on veth", &costs))
}

/// The kinds by name; the last has no [`Kind`] of its own.
fn names() -> impl Iterator<Item = &'static str> {
    kinds().map(Kind::name).chain(["out-of-window"])
}

fn kinds() -> impl Iterator<Item = Kind> {
    Kind::PLAIN.into_iter().chain([Kind::Mixed])
}

fn own_address(socket: &std::os::fd::OwnedFd) -> Outcome<SocketAddrV4> {
    let address = rustix::net::getsockname(socket).context("a client's address")?;
    address.try_into().context("a client's address")
}

/// What a frame costs the box, in nanoseconds.
fn cost_of(world: &World, kind: Option<Kind>, peers: &[SocketAddrV4], length: Duration) -> Outcome<f64> {
    // Frames are made before the clock runs.
    let strange = kind.is_none().then(|| out_of_window(world.aim(), peers, 16_384));
    if let Some(kind) = kind {
        world.flood(kind, 1_000)?.end()?;
    }
    let delivered = world.delivered()?;
    let ((), cost) = world.cost(|| {
        let flood = match (kind, strange) {
            (Some(kind), _) => world.flood(kind, RATE)?,
            (None, frames) => world.flood_of(frames.unwrap_or_default(), RATE)?,
        };
        std::thread::sleep(length);
        flood.end()?;
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    })?;
    let delivered = world.delivered()? - delivered;
    if delivered == 0 {
        return Err("no frame arrived".into());
    }
    Ok(cost.as_secs_f64() * 1e9 / delivered as f64)
}

/// `flood-kinds-memory`.
pub fn memory(settings: &Settings<'_>) -> Outcome<Answer> {
    let (rounds, count) = if settings.quick { (5, 64_000) } else { (11, 256_000) };
    let address = Ipv4Addr::from(BOX.0);
    let aim = Aim { from: PEER.1, to: BOX.1, address, port: crate::world::SERVICE };
    let mut costs: Costs = kinds().map(|kind| (kind.name(), vec![])).collect();
    let made: Vec<Vec<Vec<u8>>> = kinds().map(|kind| frames(kind, aim, 4_096)).collect();
    for round in 0..rounds {
        (settings.progress)(&format!("round {} of {rounds}", round + 1));
        for ((_, values), frames) in costs.iter_mut().zip(&made) {
            values.push(ingest(frames, count));
        }
    }
    Ok(answer("flood-kinds-memory", "Shard::ingest, one core", &costs))
}

/// What a shard needs for a frame, in nanoseconds; `frames` again and again, `count` in all.
fn ingest(frames: &[Vec<u8>], count: usize) -> f64 {
    let (mut port, _) = wire();
    let mut shard = shard(BOX, port.abilities(), Accept::ClientHello);
    let (mut rx, mut tx) = (Batch::new(), Batch::new());
    let mut now = 1_000_000;
    let begin = processor_time();
    for batch in 0..count / BATCH {
        for n in 0..BATCH {
            let Some(mut frame) = port.allocate() else { break };
            let bytes = &frames[(batch * BATCH + n) % frames.len()];
            port.resize(&mut frame, bytes.len());
            port.bytes_mut(&mut frame).copy_from_slice(bytes);
            // The batch is empty and has room for as many.
            let _ = rx.push(frame, Meta::default());
        }
        now += 10;
        shard.ingest(Instant::from_micros(now), LINK, &mut port, &mut rx, &mut tx);
        for (frame, _) in tx.drain(BATCH) {
            port.release(frame);
        }
    }
    (processor_time() - begin).as_secs_f64() * 1e9 / (count / BATCH * BATCH) as f64
}

/// The result: the dearest kind, in SYNs.
fn answer(name: &str, note: &str, costs: &Costs) -> Answer {
    let rounds = costs[0].1.len();
    let worst =
        |round: usize| costs.iter().map(|(_, values)| values[round] / costs[0].1[round]).fold(0.0, f64::max);
    let ours: Vec<f64> = (0..rounds).map(worst).collect();
    let middle = |values: &Vec<f64>| median(values.clone());
    let dearest = costs.iter().max_by(|a, b| middle(&a.1).total_cmp(&middle(&b.1))).map_or("", |cost| cost.0);
    let result = Result::of(name, "SYNs", "the limit", Better::Less, 1.0, &ours, &vec![LIMIT; rounds])
        .noting(format!("{note}; a SYN {:.0} ns, dearest: {dearest}", middle(&costs[0].1)));
    let chart = Chart {
        title: "Processor time of the box by kind of flood".into(),
        x: note.into(),
        y: "ns a frame".into(),
        logarithmic: false,
        series: vec![Series {
            name: "Hedgerow".into(),
            points: costs.iter().enumerate().map(|(n, cost)| (n as f64, middle(&cost.1))).collect(),
        }],
    };
    let names: Vec<&str> = costs.iter().map(|cost| cost.0).collect();
    let raw = costs.iter().map(|(kind, values)| json!({ "kind": kind, "ns_per_frame": values })).collect();
    Answer::Measured(Box::new(Measured { result, raw, plots: vec![("", chart.bars(&names))] }))
}
