//! `back-end-latency`: what a question and its answer through a back-end listener take longer than by way of a router in the
//! same place.

use std::time::Duration;

use hedgerow_tests::Outcome;
use serde_json::json;

use super::{Rounds, worlds};
use crate::report::{Better, Measured, Result, median};
use crate::rig::contestant::{CHIA, NODES, SERVICE};
use crate::rig::traffic::{Answer as Reply, Conversation, Server, Tally};
use crate::rig::{Contestant, Driver, Link, OUTSIDE};
use crate::{Answer, Settings};

/// What may be added at the 99th percentile, in microseconds.
const LIMIT: f64 = 100.0;
/// What a conversation needs to begin: the first segments' timers, caches.
const WARMS_UP: Duration = Duration::from_millis(200);

/// The figure.
pub fn run(settings: &Settings<'_>) -> Outcome<Answer> {
    let contestants =
        [Contestant::Backend(Driver::AfXdp), Contestant::Forward].map(|one| (one, Link::Frames));
    let worlds = match worlds(&contestants, settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    let (rounds, length) =
        if settings.quick { (5, Duration::from_millis(800)) } else { (15, Duration::from_secs(2)) };
    let mut raw = vec![];
    let values = Rounds::play(&worlds, rounds, settings, |_, world, _| {
        let ports = if world.contestant == Contestant::Forward { CHIA..CHIA + 1 } else { SERVICE..NODES.end };
        let _server = Server::start(&world.node, ports, Reply::Echo, OUTSIDE)?;
        let conversation = Conversation::start(&world.client, world.target(), OUTSIDE)?;
        std::thread::sleep(WARMS_UP);
        conversation.turns();
        std::thread::sleep(length);
        let tally = Tally { times: conversation.turns(), ..Tally::default() };
        conversation.end()?;
        let micros = |share: f64| tally.quantile(share).as_secs_f64() * 1e6;
        raw.push(json!({
            "contestant": world.contestant.name(), "turns": tally.times.len(), "p50_us": micros(0.5),
            "p99_us": micros(0.99),
        }));
        Ok(micros(0.99))
    })?;
    let added: Vec<f64> = values.of(0).iter().zip(values.of(1)).map(|(ours, direct)| ours - direct).collect();
    let limits = vec![LIMIT; added.len()];
    let note = format!(
        "p99 of turns of a kilobyte, {:.0} us through the listener, {:.0} us by a router; AF_XDP, adaptive poll",
        median(values.of(0).to_vec()),
        median(values.of(1).to_vec())
    );
    let mut result =
        Result::of("back-end-latency", "us more at p99", "the limit", Better::Less, 1.0, &added, &limits)
            .noting(note);
    // Rounds that took less than the router's have no ratio to speak of.
    result.ratio = LIMIT / median(added).max(1.0);
    Ok(Answer::Measured(Box::new(Measured { result, raw: json!(raw), plots: vec![] })))
}
