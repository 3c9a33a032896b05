//! `reload-under-load`: a policy with a list of a hundred thousand prefixes takes another one's place while as many
//! connections come as can; that second is held against those around it.
//!
//! What is timed are the turns of sessions that stand, a kilobyte there and back: they wait for whatever the shard waits for.
//! The p99 of newcomers is in the raw numbers; where a burst of theirs overflows a ring of veth, it is that of a
//! retransmission.

use std::fs;
use std::time::Duration;

use hedgerow_tests::appliance::Appliance;
use hedgerow_tests::{Context, Outcome};
use serde_json::{Value, json};

use super::{on, worlds};
use crate::report::{Better, Measured, Result, median};
use crate::rig::contestant::{NODES, SERVICE};
use crate::rig::traffic::{Answer as Reply, Conversation, Load, Server, Tally, clients};
use crate::rig::{Contestant, Link, OUTSIDE, World};
use crate::{Answer, Settings};

/// Prefixes of the list.
const PREFIXES: u32 = 100_000;
/// How much later than others an answer may come in that second.
const LIMIT: f64 = 1.2;
/// Clients at one time.
const AT_ONCE: usize = 32;
/// Sessions that stand, and compare every byte.
const SESSIONS: usize = 16;
/// Seconds before the reload, and after it.
const AROUND: usize = 3;

/// One second.
#[derive(Clone, Copy, Debug)]
struct Second {
    /// Of turns of sessions that stand, in milliseconds.
    p99: f64,
    /// Of newcomers.
    connect_p99: f64,
    connects: usize,
    failed: usize,
    lost: u64,
}

/// One round: the seconds in their order, the reload in the middle one.
#[derive(Clone, Debug)]
struct Round {
    seconds: Vec<Second>,
    reload_ms: f64,
}

/// The figure.
pub fn run(settings: &Settings<'_>) -> Outcome<Answer> {
    let worlds = match worlds(&on(Link::Frames, [Contestant::Governed]), settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let world = &worlds[0];
    let _server = Server::start(&world.node, SERVICE..NODES.end, Reply::Echo, OUTSIDE)?;
    // The first seconds make what is made once for all.
    clients(&world.client, Load::closed(world.target(), AT_ONCE), Duration::from_secs(2), OUTSIDE)?;
    let count = if settings.quick { 2 } else { 7 };
    let mut rounds = vec![];
    for number in 0..count {
        (settings.progress)(&format!("round {} of {count}", number + 1));
        rounds.push(round(world, number)?);
    }
    Ok(Answer::Measured(Box::new(measured(&rounds))))
}

fn round(world: &World, number: u32) -> Outcome<Round> {
    let talk = |_| Conversation::start(&world.client, world.target(), OUTSIDE);
    let sessions = (0..SESSIONS).map(talk).collect::<Outcome<Vec<_>>>()?;
    let mut reload_ms = 0.0;
    let mut seconds = vec![];
    for index in 0..=2 * AROUND {
        let reload = (index == AROUND).then_some(number);
        let (second, ms) = second(world, &sessions, reload)?;
        seconds.push(second);
        reload_ms += ms;
    }
    for session in sessions {
        session.end()?;
    }
    Ok(Round { seconds, reload_ms })
}

/// A second of full load, with a reload in it or without; the milliseconds that the reload took until all shards had it.
fn second(world: &World, sessions: &[Conversation], reload: Option<u32>) -> Outcome<(Second, f64)> {
    if let Some(number) = reload {
        fs::write(world.scratch.path().join("deny.txt"), list(number)).context("writing a list")?;
    }
    let appliance = world.appliance()?;
    let before = lost(world)?;
    sessions.iter().for_each(|session| drop(session.turns()));
    let load = Load::closed(world.target(), AT_ONCE);
    let (tally, ms) = std::thread::scope(|scope| {
        let reloading = reload.map(|_| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                self::reload(appliance)
            })
        });
        let tally = clients(&world.client, load, Duration::from_secs(1), OUTSIDE)?;
        let ms = reloading.map_or(Ok(Ok(0.0)), |thread| thread.join());
        Ok::<_, String>((tally, ms.map_err(|_| "the reload panicked".to_owned())??))
    })?;
    let turns = Tally { times: sessions.iter().flat_map(Conversation::turns).collect(), ..Tally::default() };
    let lost = lost(world)? - before;
    let p99 = |tally: &Tally| tally.quantile(0.99).as_secs_f64() * 1e3;
    let (connect_p99, connects, failed) = (p99(&tally), tally.times.len(), tally.failed);
    Ok((Second { p99: p99(&turns), connect_p99, connects, failed, lost }, ms))
}

/// A list that shares few prefixes with the one before it; nobody comes from there.
fn list(number: u32) -> String {
    let first = number % 2 * PREFIXES;
    (first..first + PREFIXES)
        .map(|n| format!("{}.{}.{}.0/24\n", 20 + n / 65_536, n / 256 % 256, n % 256))
        .collect()
}

fn reload(appliance: &Appliance) -> Outcome<f64> {
    let begin = std::time::Instant::now();
    let said = appliance.ask(&["reload"])?;
    if !said.contains("is in force on all shards") || !said.contains("denied prefixes: 100000 more") {
        return Err(format!("the reload: {said}"));
    }
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// Frames that were lost so far, wherever they were.
fn lost(world: &World) -> Outcome<u64> {
    let status = world.status()?.context("a status")?;
    let ports = status["ports"].as_array().context("ports")?;
    let of = |port: &Value, key: &str| port[key].as_u64().unwrap_or(0);
    Ok(ports
        .iter()
        .map(|port| of(port, "lost_ring") + of(port, "lost_before") + of(port, "lost_transmit"))
        .sum())
}

fn measured(rounds: &[Round]) -> Measured {
    let others = |round: &Round| -> Vec<Second> {
        round
            .seconds
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != AROUND)
            .map(|(_, second)| *second)
            .collect()
    };
    let ours: Vec<f64> = rounds.iter().map(|round| round.seconds[AROUND].p99).collect();
    let theirs: Vec<f64> =
        rounds.iter().map(|round| median(others(round).iter().map(|second| second.p99).collect())).collect();
    let lost: u64 = rounds.iter().map(|round| round.seconds[AROUND].lost).sum();
    let failed: usize = rounds.iter().map(|round| round.seconds[AROUND].failed).sum();
    let mut result = Result::of(
        "reload-under-load",
        "ms p99",
        "the seconds around it",
        Better::Less,
        1.0 / LIMIT,
        &ours,
        &theirs,
    );
    if lost > 0 || failed > 0 {
        result.ratio = 0.0;
    }
    let calm = |value: fn(&Second) -> f64| {
        median(rounds.iter().flat_map(others).map(|second| value(&second)).collect())
    };
    result.note = format!(
        "{PREFIXES} prefixes take the place of as many others; {lost} frames lost and {failed} connections failed in those \
         seconds (others: {} lost); {SESSIONS} sessions that stood lost no byte; {:.0} connections in such a second, {:.0} in \
         others; {:.0} ms from the command until all shards had it",
        rounds.iter().flat_map(others).map(|second| second.lost).sum::<u64>(),
        median(rounds.iter().map(|round| round.seconds[AROUND].connects as f64).collect()),
        calm(|second| second.connects as f64),
        median(rounds.iter().map(|round| round.reload_ms).collect()),
    );
    let second = |s: &Second| json!({ "p99_ms": s.p99, "connect_p99_ms": s.connect_p99, "connects": s.connects, "failed": s.failed, "lost": s.lost });
    let one = |round: &Round| json!({ "reload_ms": round.reload_ms, "seconds": round.seconds.iter().map(second).collect::<Vec<_>>() });
    Measured { result, raw: rounds.iter().map(one).collect(), plots: vec![] }
}
