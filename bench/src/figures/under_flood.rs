//! `connect-under-flood`: newcomers and established sessions while SYNs flood in, at nine tenths of what the contestant can
//! answer and at one and a half times that.

use std::time::{Duration, Instant};

use hedgerow_tests::{Context, Outcome};
use serde_json::{Value, json};

use super::{on, worlds};
use crate::plot::{Chart, Series};
use crate::report::{Better, Measured, Result, median};
use crate::rig::contestant::{NODES, SERVICE};
use crate::rig::frames::Kind;
use crate::rig::traffic::{Answer as Reply, Conversation, Load, Server, clients};
use crate::rig::{Contestant, Driver, Link, OUTSIDE, World};
use crate::{Answer, Settings};

/// Newcomers a second.
const NEWCOMERS: f64 = 200.0;
/// A newcomer that has no answer after this long has failed.
const PATIENCE: Duration = Duration::from_secs(4);
/// Established sessions.
const SESSIONS: usize = 8;
/// Flood rates as shares of the contestant's own capacity.
const SHARES: [f64; 3] = [0.0, 0.9, 1.5];
const LABELS: [&str; 3] = ["idle", "0.9 of capacity", "1.5 of capacity"];

/// What newcomers and sessions saw at one rate.
#[derive(Clone, Debug)]
struct Seen {
    flood: f64,
    success: f64,
    p50: f64,
    p99: f64,
    /// Why a session broke, if one did.
    broken: Option<String>,
}

/// One contestant in one round.
#[derive(Clone, Debug)]
struct Turn {
    capacity: f64,
    seen: Vec<Seen>,
}

/// The figure.
pub fn run(settings: &Settings<'_>) -> Outcome<Answer> {
    let contestants = [
        Contestant::Hedgerow(Driver::AfXdp),
        Contestant::Kernel,
        Contestant::SynProxy,
        Contestant::Haproxy,
        Contestant::Nginx,
    ];
    let contestants = &contestants[..if settings.quick { 3 } else { 5 }];
    let contestants: Vec<_> = contestants.iter().map(|c| on(Link::Frames, [*c])[0]).collect();
    let worlds = match worlds(&contestants, settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let servers = worlds.iter().map(|w| Server::start(&w.node, SERVICE..NODES.end, Reply::Echo, OUTSIDE));
    let _servers = servers.collect::<Outcome<Vec<_>>>()?;
    let (rounds, length) =
        if settings.quick { (1, Duration::from_millis(1500)) } else { (3, Duration::from_secs(4)) };
    let mut turns: Vec<Vec<Turn>> = vec![vec![]; worlds.len()];
    for round in 0..rounds {
        for (world, turns) in worlds.iter().zip(&mut turns) {
            let name = world.contestant.name();
            (settings.progress)(&format!("round {} of {rounds}: {name}", round + 1));
            turns.push(turn(world, length).context(name)?);
        }
    }
    Ok(Answer::Measured(Box::new(measured(&worlds, &turns))))
}

fn turn(world: &World, length: Duration) -> Outcome<Turn> {
    let capacity = capacity(world)?;
    let seen = SHARES.iter().map(|share| look(world, capacity * share, length)).collect::<Outcome<_>>()?;
    Ok(Turn { capacity, seen })
}

/// The most SYNs that it answered in a second, of a few rates.
fn capacity(world: &World) -> Outcome<f64> {
    let mut best = 0.0_f64;
    for rate in [150_000, 300_000, 600_000] {
        let before = world.answers()?;
        let flood = world.flood(Kind::Syn, rate)?;
        let begin = Instant::now();
        std::thread::sleep(Duration::from_millis(300));
        let seconds = begin.elapsed().as_secs_f64();
        flood.end()?;
        best = best.max((world.answers()? - before) as f64 / seconds);
    }
    Ok(best)
}

/// Newcomers and sessions under a flood.
fn look(world: &World, rate: f64, length: Duration) -> Outcome<Seen> {
    let talk = |_| Conversation::start(&world.client, world.target(), OUTSIDE);
    let sessions = (0..SESSIONS).map(talk).collect::<Outcome<Vec<_>>>()?;
    let flood = if rate > 0.0 { Some(world.flood(Kind::Syn, rate as u32)?) } else { None };
    let begin = Instant::now();
    let load = Load::open(world.target(), NEWCOMERS, PATIENCE);
    let tally = clients(&world.client, load, length, OUTSIDE)?;
    let seconds = begin.elapsed().as_secs_f64();
    let sent = flood.map_or(Ok(0), |flood| flood.end())?;
    let ends: Vec<Outcome<u64>> = sessions.into_iter().map(Conversation::end).collect();
    let quantile = |share| tally.quantile(share).as_secs_f64() * 1e3;
    Ok(Seen {
        flood: sent as f64 / seconds,
        success: tally.success(),
        p50: quantile(0.5),
        p99: quantile(0.99),
        broken: ends.into_iter().find_map(Outcome::err),
    })
}

/// How far one of our turns holds the promises: 1 or more where it holds all. At nine tenths all succeed, within three
/// times the idle p99; beyond capacity 99.9% do; no session breaks.
fn holds(turn: &Turn) -> f64 {
    let [idle, below, beyond] = [&turn.seen[0], &turn.seen[1], &turn.seen[2]];
    if turn.seen.iter().any(|seen| seen.broken.is_some()) {
        return 0.0;
    }
    (below.success / 1.0).min(3.0 * idle.p99 / below.p99.max(1e-9)).min(beyond.success / 0.999)
}

fn measured(worlds: &[World], turns: &[Vec<Turn>]) -> Measured {
    let ours = &turns[0];
    let at = |turns: &[Turn], index: usize, value: fn(&Seen) -> f64| {
        median(turns.iter().map(|turn| value(&turn.seen[index])).collect())
    };
    let success: Vec<f64> = ours.iter().map(|turn| turn.seen[2].success * 100.0).collect();
    let best = (1..worlds.len())
        .max_by(|a, b| at(&turns[*a], 2, |s| s.success).total_cmp(&at(&turns[*b], 2, |s| s.success)))
        .unwrap_or(0);
    let theirs: Vec<f64> = turns[best].iter().map(|turn| turn.seen[2].success * 100.0).collect();
    let name = worlds[best].contestant.name();
    let mut result =
        Result::of("connect-under-flood", "% at 1.5x", &name, Better::More, 1.0, &success, &theirs);
    result.ratio = median(ours.iter().map(holds).collect());
    let broken = turns[0].iter().flat_map(|turn| &turn.seen).find_map(|seen| seen.broken.clone());
    result.note = format!(
        "ratio: the least of success at 0.9x / 100%, 3 x idle p99 / p99 at 0.9x, success at 1.5x / 99.9%; capacity {:.0} SYN/s; \
         p99 idle {:.1}, 0.9x {:.1}, 1.5x {:.1} ms; success at 0.9x {:.2}%; established sessions: {}",
        median(ours.iter().map(|turn| turn.capacity).collect()),
        at(ours, 0, |s| s.p99),
        at(ours, 1, |s| s.p99),
        at(ours, 2, |s| s.p99),
        at(ours, 1, |s| s.success) * 100.0,
        broken.unwrap_or_else(|| "none lost a byte".into()),
    );
    let chart = |title: &str, y: &str, logarithmic, value: fn(&Seen) -> f64| {
        let series = |(world, turns): (&World, &Vec<Turn>)| Series {
            name: world.contestant.name(),
            points: (0..SHARES.len()).map(|index| (index as f64, at(turns, index, value))).collect(),
        };
        let series = worlds.iter().zip(turns).map(series).collect();
        Chart { title: title.into(), x: "SYN flood".into(), y: y.into(), logarithmic, series }.bars(&LABELS)
    };
    let plots = vec![
        ("-success", chart("Newcomers served under a SYN flood", "%", false, |s| s.success * 100.0)),
        ("-p99", chart("Time from connecting to the answer, p99", "ms", true, |s| s.p99)),
    ];
    Measured { result, raw: raw(worlds, turns), plots }
}

fn raw(worlds: &[World], turns: &[Vec<Turn>]) -> Value {
    let seen = |s: &Seen| {
        json!({
            "flood_per_s": s.flood, "success": s.success, "p50_ms": s.p50, "p99_ms": s.p99,
            "sessions": s.broken.clone().unwrap_or_else(|| "whole".into()),
        })
    };
    let turn =
        |t: &Turn| json!({ "capacity": t.capacity, "rates": t.seen.iter().map(seen).collect::<Vec<_>>() });
    let one = |(world, turns): (&World, &Vec<Turn>)| json!({ "contestant": world.contestant.name(), "rounds": turns.iter().map(turn).collect::<Vec<_>>() });
    worlds.iter().zip(turns).map(one).collect()
}
