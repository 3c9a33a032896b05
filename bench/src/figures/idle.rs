//! `proxy-bytes` and `idle-cpu`: what the box holds for a connection on which nothing happens, and what it does when
//! nothing happens at all.

use std::fs;
use std::time::Duration;

use hedgerow_tests::{Context, Outcome};
use serde_json::json;

use super::{on, worlds};
use crate::report::{Better, Measured, Result, median};
use crate::rig::contestant::{NODES, SERVICE};
use crate::rig::traffic::{Answer as Reply, Load, Server, clients};
use crate::rig::{Contestant, Driver, Link, OUTSIDE, World};
use crate::{Answer, Settings};

/// What the issue allows for both legs of an idle connection, in bytes.
const LIMIT_BYTES: f64 = 1024.0;
/// What it allows of a core, in percent.
const LIMIT_PERCENT: f64 = 1.0;

/// `idle-cpu`: the adaptive poll, nothing arriving but what neighbours say.
pub fn cpu(settings: &Settings<'_>) -> Outcome<Answer> {
    let worlds = match worlds(&on(Link::Frames, [Contestant::Hedgerow(Driver::AfPacket)]), settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let rounds = if settings.quick { 3 } else { 10 };
    let length = Duration::from_secs(1);
    let mut percent = vec![];
    for round in 0..rounds {
        (settings.progress)(&format!("second {} of {rounds}", round + 1));
        let ((), cost) = worlds[0].cost(|| {
            std::thread::sleep(length);
            Ok(())
        })?;
        percent.push(cost.as_secs_f64() / length.as_secs_f64() * 100.0);
    }
    let limits = vec![LIMIT_PERCENT; percent.len()];
    let result = Result::of("idle-cpu", "% of a core", "the limit", Better::Less, 1.0, &percent, &limits)
        .noting("AF_PACKET on two devices, adaptive poll".into());
    let raw = json!(percent);
    Ok(Answer::Measured(Box::new(Measured { result, raw, plots: vec![] })))
}

/// What connections made a box grow by.
#[derive(Clone, Copy, Debug)]
struct Growth {
    connections: f64,
    resident: f64,
    /// Of the kernel's objects for sockets, at all ends together.
    kernel: f64,
}

/// `proxy-bytes`. The kernel counts its objects for all namespaces together; clients and nodes have as many sockets in
/// every world, and Hedgerow has none in the box, so what peers need beyond its sum is their box's.
pub fn bytes(settings: &Settings<'_>) -> Outcome<Answer> {
    let contestants = [Contestant::Hedgerow(Driver::AfPacket), Contestant::Haproxy, Contestant::Nginx];
    let worlds = match worlds(&on(Link::Frames, contestants), settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let connections = if settings.quick { 2_000 } else { 4_000 };
    let mut grown = vec![];
    for world in &worlds {
        (settings.progress)(&format!("{connections} connections through {}", world.contestant.name()));
        grown.push(growth(world, connections)?);
    }
    let outside = grown[0].kernel / grown[0].connections;
    let each = |g: &Growth| g.resident / g.connections + (g.kernel / g.connections - outside).max(0.0);
    let raw = worlds.iter().zip(&grown).map(|(world, g)| {
        json!({
            "contestant": world.contestant.name(), "connections": g.connections,
            "resident_bytes_each": g.resident / g.connections, "kernel_bytes_each_all_ends": g.kernel / g.connections,
            "bytes_each": each(g),
        })
    });
    let peer = median(grown[1..].iter().map(each).collect());
    let limit = format!("the limit (peers: {peer:.0})");
    let result =
        Result::of("proxy-bytes", "bytes", &limit, Better::Less, 1.0, &[each(&grown[0])], &[LIMIT_BYTES])
            .noting(format!(
                "{connections} connections, 16 bytes echoed on each, then idle; kernel's share included"
            ));
    let raw = raw.collect();
    Ok(Answer::Measured(Box::new(Measured { result, raw, plots: vec![] })))
}

fn growth(world: &World, connections: usize) -> Outcome<Growth> {
    let _server = Server::start(&world.node, SERVICE..NODES.end, Reply::Echo, OUTSIDE)?;
    // A first few, so that what is made once for all is not counted.
    let few = Load { attempts: 64, ..Load::closed(world.target(), 16) };
    clients(&world.client, few, Duration::from_secs(10), OUTSIDE)?;
    let before = (world.time.resident()? as f64, kernel_objects()?);
    let load = Load { keep: true, attempts: connections, ..Load::closed(world.target(), 32) };
    let tally = clients(&world.client, load, Duration::from_secs(60), OUTSIDE)?;
    std::thread::sleep(Duration::from_millis(500));
    let after = (world.time.resident()? as f64, kernel_objects()?);
    if tally.kept.len() < connections * 9 / 10 {
        return Err(format!("only {} of {connections} connections were made", tally.kept.len()));
    }
    Ok(Growth {
        connections: tally.kept.len() as f64,
        resident: (after.0 - before.0).max(0.0),
        kernel: after.1 - before.1,
    })
}

/// Bytes of the kernel's objects that sockets consist of.
pub(super) fn kernel_objects() -> Outcome<f64> {
    const CACHES: [&str; 5] = ["TCP", "sock_inode_cache", "filp", "eventpoll_epi", "nf_conntrack"];
    let text = fs::read_to_string("/proc/slabinfo").context("/proc/slabinfo")?;
    let bytes = |line: &str| -> Option<f64> {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        let objects: f64 = fields.next()?.parse().ok()?;
        let size: f64 = fields.nth(1)?.parse().ok()?;
        CACHES.contains(&name).then_some(objects * size)
    };
    Ok(text.lines().filter_map(bytes).sum())
}
