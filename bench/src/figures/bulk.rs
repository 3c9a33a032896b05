//! `proxy-bulk-tap`, `proxy-bulk-packet`, `proxy-bulk-xdp`: bytes through a plain TCP proxy per second of the box's core,
//! four streams from client to node, on the same kind of link for everyone: with super-frames, or frame by frame.

use std::time::Duration;

use hedgerow_tests::Outcome;
use serde_json::json;

use super::{Rounds, on, worlds};
use crate::report::{Better, Measured};
use crate::rig::contestant::{NODES, SERVICE};
use crate::rig::traffic::{Answer as Reply, Bulk, Server};
use crate::rig::{Contestant, Driver, Link, OUTSIDE};
use crate::{Answer, Settings};

const STREAMS: usize = 4;

/// TAP with offloads, peers on veth with offloads.
pub fn tap(settings: &Settings<'_>) -> Outcome<Answer> {
    run("proxy-bulk-tap", Driver::Tap, Link::Offloads, 1.2, settings)
}

/// AF_PACKET frame by frame; the issue asks for no bar here.
pub fn packet(settings: &Settings<'_>) -> Outcome<Answer> {
    run("proxy-bulk-packet", Driver::AfPacket, Link::Frames, 0.0, settings)
}

/// AF_XDP frame by frame.
pub fn xdp(settings: &Settings<'_>) -> Outcome<Answer> {
    run("proxy-bulk-xdp", Driver::AfXdp, Link::Frames, 0.75, settings)
}

fn run(name: &'static str, driver: Driver, link: Link, bar: f64, settings: &Settings<'_>) -> Outcome<Answer> {
    let contestants = on(link, [Contestant::Hedgerow(driver), Contestant::Haproxy, Contestant::Nginx]);
    let worlds = match worlds(&contestants, settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let (rounds, length) =
        if settings.quick { (3, Duration::from_millis(800)) } else { (7, Duration::from_secs(2)) };
    let mut raw = vec![];
    let values = Rounds::play(&worlds, rounds, settings, |_, world, _| {
        let server = Server::start(&world.node, SERVICE..NODES.end, Reply::Swallow, OUTSIDE)?;
        let streams = Bulk::start(&world.client, world.target(), STREAMS, OUTSIDE)?;
        std::thread::sleep(Duration::from_millis(200)); // windows open, buffers settle
        let before = server.received();
        let (bytes, cost) = world.cost(|| {
            std::thread::sleep(length);
            Ok((server.received() - before) as f64)
        })?;
        drop(streams);
        let (bits, cost) = (bytes * 8.0, cost.as_secs_f64());
        if bytes == 0.0 {
            return Err("the streams stand still".into());
        }
        raw.push(json!({
            "contestant": world.contestant.name(), "gbit_per_s": bits / length.as_secs_f64() / 1e9,
            "gbit_per_core_s": bits / cost / 1e9, "box_share_of_core": cost / length.as_secs_f64(),
        }));
        Ok(bits / cost / 1e9)
    })?;
    let result = values.result(name, "Gbit/s/core", Better::More, bar, &worlds);
    let note = format!(
        "{STREAMS} streams, {}; {}",
        if link == Link::Frames { "MTU frames" } else { "super-frames" },
        result.note
    );
    Ok(Answer::Measured(Box::new(Measured { result: result.noting(note), raw: json!(raw), plots: vec![] })))
}
