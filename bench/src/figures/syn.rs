//! `syn-veth-packet`, `syn-veth-xdp`, `syn-tap`: SYNs from forged sources that the box answers, per second of its core.
//!
//! Each contestant meets the same ladder of rates, up to all that the generator can send. A round's value is its best rung:
//! answers divided by all of the box's processor time. Where the box is slower than the generator, what it spends on frames
//! that it then loses counts against it.

use std::time::Duration;

use hedgerow_tests::Outcome;
use serde_json::{Value, json};

use super::{Rounds, on, worlds};
use crate::plot::{Chart, Series};
use crate::report::{Better, Measured, median};
use crate::rig::frames::Kind;
use crate::rig::{Contestant, Driver, Link, World};
use crate::{Answer, Settings};

/// Rates offered, SYNs a second; the last is beyond any generator here.
const LADDER: &[u32] = &[100_000, 200_000, 400_000, 800_000, 2_000_000];
const QUICK_LADDER: &[u32] = &[200_000, 400_000, 2_000_000];

/// What happened at one rate.
#[derive(Clone, Copy, Debug)]
struct Rung {
    rate: u32,
    sent: f64,
    delivered: f64,
    answered: f64,
    per_core: f64,
    nanoseconds: f64,
}

/// `syn-veth-packet`.
pub fn packet(settings: &Settings<'_>) -> Outcome<Answer> {
    run("syn-veth-packet", Driver::AfPacket, 1.8, settings)
}

/// `syn-veth-xdp`: with the XDP program's own answers, if this build has them, else with AF_XDP alone.
pub fn xdp(settings: &Settings<'_>) -> Outcome<Answer> {
    run("syn-veth-xdp", Driver::AfXdp, 2.4, settings)
}

/// `syn-tap`.
pub fn tap(settings: &Settings<'_>) -> Outcome<Answer> {
    run("syn-tap", Driver::Tap, 0.0, settings)
}

fn run(name: &'static str, driver: Driver, bar: f64, settings: &Settings<'_>) -> Outcome<Answer> {
    let contestants = [Contestant::Hedgerow(driver), Contestant::Kernel, Contestant::SynProxy];
    let worlds = match worlds(&on(Link::Frames, contestants), settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let (ladder, rounds, length) = match settings.quick {
        true => (QUICK_LADDER, 3, Duration::from_millis(250)),
        false => (LADDER, 5, Duration::from_millis(500)),
    };
    let mut rungs: Vec<Vec<Rung>> = vec![vec![]; worlds.len()];
    let values = Rounds::play(&worlds, rounds, settings, |index, world, _| {
        world.flood(Kind::Syn, 1000)?.end()?;
        let mut best = 0.0_f64;
        for &rate in ladder {
            let rung = flood(world, rate, length)?;
            best = best.max(rung.per_core);
            rungs[index].push(rung);
        }
        Ok(best)
    })?;
    let result = values.result(name, "SYN/s/core", Better::More, bar, &worlds);
    let note = format!("best of {} rates; {}", ladder.len(), result.note);
    Ok(Answer::Measured(Box::new(Measured {
        result: result.noting(note),
        raw: raw(&worlds, &rungs),
        plots: vec![("", plot(&worlds, &rungs, ladder))],
    })))
}

/// One rate for one contestant.
fn flood(world: &World, rate: u32, length: Duration) -> Outcome<Rung> {
    let (answers, delivered) = (world.answers()?, world.delivered()?);
    let ((sent, seconds), cost) = world.cost(|| {
        let flood = world.flood(Kind::Syn, rate)?;
        let begin = std::time::Instant::now();
        std::thread::sleep(length);
        let seconds = begin.elapsed().as_secs_f64();
        let sent = flood.end()?;
        // What is under way belongs to the round.
        std::thread::sleep(Duration::from_millis(20));
        Ok((sent as f64, seconds))
    })?;
    let answered = (world.answers()? - answers) as f64;
    let delivered = (world.delivered()? - delivered) as f64;
    let cost = cost.as_secs_f64();
    Ok(Rung {
        rate,
        sent: sent / seconds,
        delivered: delivered / seconds,
        answered: answered / seconds,
        per_core: answered / cost,
        nanoseconds: cost * 1e9 / answered.max(1.0),
    })
}

fn raw(worlds: &[World], rungs: &[Vec<Rung>]) -> Value {
    let rung = |r: &Rung| {
        json!({
            "rate": r.rate, "sent_per_s": r.sent, "delivered_per_s": r.delivered, "answered_per_s": r.answered,
            "answered_per_core_s": r.per_core, "box_ns_per_answer": r.nanoseconds,
        })
    };
    worlds
        .iter()
        .zip(rungs)
        .map(|(world, rungs)| {
            json!({ "contestant": world.contestant.name(), "rungs": rungs.iter().map(rung).collect::<Vec<_>>() })
        })
        .collect()
}

fn plot(worlds: &[World], rungs: &[Vec<Rung>], ladder: &[u32]) -> String {
    let series = |(world, rungs): (&World, &Vec<Rung>)| Series {
        name: world.contestant.name(),
        points: ladder
            .iter()
            .map(|rate| {
                let at = |value: fn(&Rung) -> f64| {
                    median(rungs.iter().filter(|rung| rung.rate == *rate).map(value).collect())
                };
                (at(|rung| rung.sent), at(|rung| rung.per_core))
            })
            .collect(),
    };
    Chart {
        title: "SYNs answered per second of the box's core".into(),
        x: "SYNs sent per second".into(),
        y: "answered per core-second".into(),
        logarithmic: false,
        series: worlds.iter().zip(rungs).map(series).collect(),
    }
    .lines()
}
