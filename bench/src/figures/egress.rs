//! `egress-nat`, `egress-nat-bulk`: what a node says to the world, translated on its way: datagrams frame by frame, and streams
//! in super-frames, per second of the box's core.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use hedgerow_tests::Outcome;
use serde_json::json;

use super::{Rounds, on, worlds};
use crate::report::{Better, Measured};
use crate::rig::contestant::SERVICE;
use crate::rig::frames::outward;
use crate::rig::traffic::{Answer as Reply, Bulk, Server};
use crate::rig::world::CLIENT;
use crate::rig::{Contestant, Driver, Link, OUTSIDE, World};
use crate::{Answer, Settings};

/// Ports of the node, and hosts that each speaks to.
const PORTS: u16 = 64;
const HOSTS: u8 = 8;
/// Datagrams offered each second; the last is beyond any generator here.
const LADDER: &[u32] = &[100_000, 200_000, 400_000, 800_000, 2_000_000];
const QUICK_LADDER: &[u32] = &[200_000, 400_000, 2_000_000];
const STREAMS: usize = 4;

/// `egress-nat`.
pub fn nat(settings: &Settings<'_>) -> Outcome<Answer> {
    let contestants =
        [Contestant::WayOut(Driver::AfXdp), Contestant::Masquerade, Contestant::WayOut(Driver::AfPacket)];
    let worlds = match worlds(&on(Link::Frames, contestants), settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let (ladder, rounds, length) = match settings.quick {
        true => (QUICK_LADDER, 3, Duration::from_millis(250)),
        false => (LADDER, 5, Duration::from_millis(500)),
    };
    let mut raw = vec![];
    let values = Rounds::play(&worlds, rounds, settings, |_, world, _| {
        let mut best = 0.0_f64;
        // The first rung begins the sessions.
        for &rate in [ladder[0]].iter().chain(ladder) {
            let (passed, per_core) = datagrams(world, rate, length)?;
            raw.push(json!({
                "contestant": world.contestant.name(), "rate": rate, "passed_per_s": passed,
                "passed_per_core_s": per_core,
            }));
            best = best.max(per_core);
        }
        Ok(best)
    })?;
    // Held against the kernel alone; the other driver is for the note.
    let result = values.result("egress-nat", "packets/s/core", Better::More, 0.7, &worlds[..2]);
    let other = values.beside(2, &worlds);
    let note = format!(
        "UDP of 64 bytes, {} sessions, best of {} rates; {other}",
        usize::from(PORTS) * usize::from(HOSTS),
        ladder.len()
    );
    Ok(Answer::Measured(Box::new(Measured { result: result.noting(note), raw: json!(raw), plots: vec![] })))
}

/// Datagrams that come out in a second, and for a second of the box's core.
fn datagrams(world: &World, rate: u32, length: Duration) -> Outcome<(f64, f64)> {
    let (to, from) = world.inner_macs()?;
    let frames = outward(from, to, PORTS, HOSTS);
    let before = world.passed()?;
    let (seconds, cost) = world.cost(|| {
        let flood = world.outward(frames, rate)?;
        let begin = Instant::now();
        std::thread::sleep(length);
        let seconds = begin.elapsed().as_secs_f64();
        flood.end()?;
        std::thread::sleep(Duration::from_millis(20));
        Ok(seconds)
    })?;
    let passed = (world.passed()? - before) as f64;
    if passed == 0.0 {
        return Err("nothing comes out".into());
    }
    Ok((passed / seconds, passed / cost.as_secs_f64()))
}

/// `egress-nat-bulk`.
pub fn bulk(settings: &Settings<'_>) -> Outcome<Answer> {
    let contestants = on(Link::Offloads, [Contestant::WayOut(Driver::AfPacket), Contestant::Masquerade]);
    let worlds = match worlds(&contestants, settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let (rounds, length) =
        if settings.quick { (3, Duration::from_millis(800)) } else { (7, Duration::from_secs(2)) };
    let mut raw = vec![];
    let values = Rounds::play(&worlds, rounds, settings, |_, world, _| {
        let server = Server::start(&world.client, SERVICE..SERVICE + 1, Reply::Swallow, OUTSIDE)?;
        let streams = Bulk::start(&world.node, SocketAddrV4::new(CLIENT, SERVICE), STREAMS, OUTSIDE)?;
        std::thread::sleep(Duration::from_millis(200));
        let before = server.received();
        let (bytes, cost) = world.cost(|| {
            std::thread::sleep(length);
            Ok((server.received() - before) as f64)
        })?;
        drop(streams);
        if bytes == 0.0 {
            return Err("the streams stand still".into());
        }
        let per_core = bytes * 8.0 / cost.as_secs_f64() / 1e9;
        raw.push(json!({ "contestant": world.contestant.name(), "gbit_per_core_s": per_core }));
        Ok(per_core)
    })?;
    let result = values.result("egress-nat-bulk", "Gbit/s/core", Better::More, 0.0, &worlds);
    let note = format!("{STREAMS} streams, super-frames; {}", result.note);
    Ok(Answer::Measured(Box::new(Measured { result: result.noting(note), raw: json!(raw), plots: vec![] })))
}
