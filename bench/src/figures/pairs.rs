//! `session-pairs-known` and `session-pairs-fresh`: a peer's TLS session ended in the box and a second one begun towards
//! the node, with everything up to the answer to the first message, per second of the box's core. P-256 leaves everywhere.
//!
//! Hedgerow also reads what passes, and shows the node an identity of its own per peer: cached for those that came before,
//! derived and signed for fresh ones. HAProxy shows one certificate for all, and passes bytes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hedgerow_tests::{Context, Outcome};
use rustls::ClientConfig;
use serde_json::json;

use super::{Rounds, on, worlds};
use crate::report::{Better, Measured};
use crate::rig::contestant::{CHIA, NODES};
use crate::rig::peers::{Session, identities};
use crate::rig::station::Stations;
use crate::rig::{Contestant, Driver, Link, OUTSIDE, World, pin};
use crate::{Answer, Settings};

/// Peers at one time.
const PEERS: usize = 24;
/// Different peers where they are to be known.
const KNOWN: u64 = 200;

/// `session-pairs-known`.
pub fn known(settings: &Settings<'_>) -> Outcome<Answer> {
    run("session-pairs-known", false, 4.0, settings)
}

/// `session-pairs-fresh`.
pub fn fresh(settings: &Settings<'_>) -> Outcome<Answer> {
    run("session-pairs-fresh", true, 3.0, settings)
}

fn run(name: &'static str, fresh: bool, bar: f64, settings: &Settings<'_>) -> Outcome<Answer> {
    let worlds = match worlds(
        &on(
            Link::Frames,
            [Contestant::Pairs(Driver::AfXdp), Contestant::HaproxyTls, Contestant::Pairs(Driver::AfPacket)],
        ),
        settings,
    )? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let (rounds, length) =
        if settings.quick { (3, Duration::from_millis(800)) } else { (5, Duration::from_secs(2)) };
    let ports: Vec<(u16, usize)> = NODES.map(|port| (port, 2)).chain([(CHIA, PEERS + 8)]).collect();
    let stations = worlds.iter().map(|world| Stations::start(&world.node, &ports, OUTSIDE));
    let _stations = stations.collect::<Outcome<Vec<_>>>()?;
    let supply = if fresh { 1_200 * length.as_millis() as u64 / 1_000 } else { KNOWN };
    let mut first = 10_000;
    let mut peers = identities(first, supply)?;
    if !fresh {
        for world in &worlds {
            visit(world, &peers, length)?;
        }
    }
    let mut raw = vec![];
    let values = Rounds::play(&worlds, rounds, settings, |_, world, _| {
        if fresh {
            first += supply;
            peers = identities(first, supply)?;
        }
        let ((done, failed), cost) = world.cost(|| visit(world, &peers, length))?;
        if done == 0 {
            return Err(format!("no session of {failed} was made"));
        }
        let cost = cost.as_secs_f64();
        raw.push(json!({
            "contestant": world.contestant.name(), "pairs": done, "failed": failed,
            "box_us_per_pair": cost * 1e6 / done as f64, "pairs_per_s": done as f64 / length.as_secs_f64(),
        }));
        Ok(done as f64 / cost)
    })?;
    let result = values.result(name, "pairs/s/core", Better::More, bar, &worlds[..2]).noting(format!(
        "{PEERS} at a time, {}; {}",
        if fresh { "each with an id never seen before" } else { "200 peers that come again and again" },
        values.beside(2, &worlds),
    ));
    Ok(Answer::Measured(Box::new(Measured { result, raw: json!(raw), plots: vec![] })))
}

/// Peers come for `length`, each identity in turn and none twice at one time; sessions made, and failed.
fn visit(world: &World, peers: &[Arc<ClientConfig>], length: Duration) -> Outcome<(u64, u64)> {
    let (turn, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let target = world.target();
    let until = Instant::now() + length;
    let done = world.attacker.enter(|| {
        let work = || -> Outcome<u64> {
            pin(None, OUTSIDE)?;
            let mut done = 0;
            while Instant::now() < until {
                let number = turn.fetch_add(1, Ordering::Relaxed);
                let place = number as usize % peers.len();
                // An address per identity, each in a /24 of its own.
                let from = Ipv4Addr::from(0x0a80_0001 + ((place as u32 % 0x7fff) << 8));
                match Session::join(&peers[place], from, target, None) {
                    Ok(_) => done += 1,
                    Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                }
            }
            Ok(done)
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..PEERS).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().ok().context("a peer's thread")?).sum()
        })
    })?;
    Ok((done, failed.into_inner()))
}
