//! `proxy-connects`: new connections through a TCP proxy, per second of the box's core. A client connects, asks sixteen
//! bytes, hears them again from the node, and leaves.

use std::time::Duration;

use hedgerow_tests::Outcome;
use serde_json::json;

use super::{Rounds, on, worlds};
use crate::report::{Better, Measured};
use crate::rig::contestant::{NODES, SERVICE};
use crate::rig::traffic::{Answer as Reply, Load, Server, clients};
use crate::rig::{Contestant, Driver, Link, OUTSIDE};
use crate::{Answer, Settings};

/// Connections at one time: no burst of theirs overflows a veth ring of 256 frames, which would measure retransmission.
const AT_ONCE: usize = 64;

/// The figure.
pub fn run(settings: &Settings<'_>) -> Outcome<Answer> {
    let [ours, other] = [Driver::AfXdp, Driver::AfPacket].map(Contestant::Hedgerow);
    let contestants = [ours, Contestant::Haproxy, Contestant::Nginx, other];
    let worlds = match worlds(&on(Link::Frames, contestants), settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let servers = worlds
        .iter()
        .map(|world| Server::start(&world.node, SERVICE..NODES.end, Reply::Echo, OUTSIDE))
        .collect::<Outcome<Vec<_>>>()?;
    let (rounds, length) =
        if settings.quick { (3, Duration::from_millis(700)) } else { (7, Duration::from_secs(2)) };
    let mut raw = vec![];
    let values = Rounds::play(&worlds, rounds, settings, |_, world, _| {
        let load = Load::closed(world.target(), AT_ONCE);
        let (tally, cost) = world.cost(|| clients(&world.client, load, length, OUTSIDE))?;
        let (answered, cost) = (tally.times.len() as f64, cost.as_secs_f64());
        if answered == 0.0 {
            return Err(format!("none of {} connections was answered", tally.failed));
        }
        raw.push(json!({
            "contestant": world.contestant.name(), "answered": answered, "failed": tally.failed,
            "box_us_per_connection": cost * 1e6 / answered, "per_second": answered / length.as_secs_f64(),
            "box_seconds": cost, "p50_ms": tally.quantile(0.5).as_secs_f64() * 1e3,
            "p99_ms": tally.quantile(0.99).as_secs_f64() * 1e3,
        }));
        Ok(answered / cost)
    })?;
    drop(servers);
    let result = values.result("proxy-connects", "conn/s/core", Better::More, 5.0, &worlds[..3]);
    let note = format!(
        "{AT_ONCE} at a time, 16 bytes there and back; {}; {}",
        result.note,
        values.beside(3, &worlds)
    );
    Ok(Answer::Measured(Box::new(Measured { result: result.noting(note), raw: json!(raw), plots: vec![] })))
}
