//! `session-bytes`: what the box holds for an authenticated session on which nothing happens: TLS, WebSocket and all state of
//! both legs, the kernel's share included.

use std::net::Ipv4Addr;

use hedgerow_tests::Outcome;
use serde_json::json;

use super::idle::kernel_objects;
use super::{on, worlds};
use crate::report::{Better, Measured, Result};
use crate::rig::contestant::{CHIA, NODES};
use crate::rig::peers::{Session, identities};
use crate::rig::station::Stations;
use crate::rig::{Contestant, Driver, Link, OUTSIDE, World};
use crate::{Answer, Settings};

/// What an idle session may take, in bytes.
const LIMIT: f64 = 20.0 * 1024.0;
/// Sessions before the first look: what is made once for all is not counted.
const FEW: usize = 64;

/// The figure.
pub fn run(settings: &Settings<'_>) -> Outcome<Answer> {
    let worlds = match worlds(
        &on(Link::Frames, [Contestant::Pairs(Driver::AfPacket), Contestant::HaproxyTls]),
        settings,
    )? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let sessions = if settings.quick { 256 } else { 1_024 };
    let all = FEW + sessions;
    // The far ends have a thread for each session.
    let each = all / NODES.len() + 4;
    let peers = identities(50_000, all as u64)?;
    let mut bytes = vec![];
    for world in &worlds {
        let name = world.contestant.name();
        (settings.progress)(&format!("{sessions} sessions through {name}"));
        let ports: Vec<(u16, usize)> = match world.contestant {
            Contestant::HaproxyTls => vec![(CHIA, all + 8)],
            _ => NODES.map(|port| (port, each)).collect(),
        };
        let _stations = Stations::start(&world.node, &ports, OUTSIDE)?;
        let join = |range: std::ops::Range<usize>| join(world, &peers, range);
        let _few = join(0..FEW)?;
        let look = || -> Outcome<(f64, f64)> {
            std::thread::sleep(std::time::Duration::from_secs(1));
            Ok((world.time.resident()? as f64, kernel_objects()?))
        };
        let before = look()?;
        let _many = join(FEW..all)?;
        let after = look()?;
        let count = sessions as f64;
        bytes.push(((after.0 - before.0).max(0.0) / count, (after.1 - before.1) / count));
    }
    // Clients and nodes have as many sockets in every world, and Hedgerow has none in the box.
    let outside = bytes[0].1;
    let total = |(resident, kernel): (f64, f64)| resident + (kernel - outside).max(0.0);
    let raw = worlds.iter().zip(&bytes).map(|(world, &one)| {
        json!({
            "contestant": world.contestant.name(), "sessions": sessions, "resident_bytes_each": one.0,
            "kernel_bytes_each_all_ends": one.1, "bytes_each": total(one),
        })
    });
    let limit = format!("the limit (HAProxy: {:.0})", total(bytes[1]));
    let result =
        Result::of("session-bytes", "bytes", &limit, Better::Less, 1.0, &[total(bytes[0])], &[LIMIT]).noting(
            format!(
                "{sessions} sessions up to the answer to the handshake, then idle; kernel's share included"
            ),
        );
    Ok(Answer::Measured(Box::new(Measured { result, raw: raw.collect(), plots: vec![] })))
}

/// Sessions of as many peers, each from a network of its own.
fn join(
    world: &World,
    peers: &[std::sync::Arc<rustls::ClientConfig>],
    range: std::ops::Range<usize>,
) -> Outcome<Vec<Session>> {
    let target = world.target();
    world.attacker.enter(|| {
        let one = |place: usize| {
            let from = Ipv4Addr::from(0x0a80_0001 + ((place as u32 % 0x7fff) << 8));
            Session::join(&peers[place], from, target, None)
                .map_err(|error| format!("session {place}: {error}"))
        };
        range.map(one).collect()
    })
}
