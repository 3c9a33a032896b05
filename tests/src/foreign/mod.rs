//! Clients of other makes, good and hostile, against the program in its simplest form: ordinary sockets on loopback, a stub of a
//! node behind it. tlslite-ng plays odd handshakes, OpenSSL shows certificates of all kinds, Python's `ssl` carries raw bytes of
//! HTTP, WebSocket and Chia; aiohttp, `ws` on Node.js and rustls must get through.
//!
//! The cases are in `tests/foreign/*.py`, each with the reasons that may be given, or none where it is served; `stand` holds what
//! they run against. They run one by one, so that what the appliance counts meanwhile is theirs: one reason, once. Those that wait
//! for a deadline run side by side before. Beside all of them one good session asks the node questions without a pause; at the end
//! nothing of the cases is left, and a second round of them takes no more memory than the first.

mod quantum;
mod stand;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use crate::appliance::Appliance;
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use stand::Stand;

/// Longest wait for what a client says of a case.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for the appliance to count a case that is over for the client.
const COUNTED: Duration = Duration::from_secs(20);
/// What a second round of everything may add to the process, in KiB: the allocator's slack.
const GROWTH_KIB: u64 = 8 << 10;
/// How a session ends that was served.
const SERVED: &[&str] = &["peer_closed", "node_closed", "finished", "peer_lost"];

/// Ends of sessions by reason.
type Counts = BTreeMap<String, u64>;

/// A case as its script names it.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    reasons: Vec<String>,
    slow: bool,
}

/// Runs the suite.
pub fn run(report: &mut Report) {
    let mut stand = None;
    report.step("set-up", || {
        stand = Some(Stand::new()?);
        Ok(())
    });
    let Some(mut stand) = stand else { return };
    let (slow, quick): (Vec<Case>, Vec<Case>) =
        catalogue(report, &stand).into_iter().partition(|case| case.slow);
    report.step("every-reason-is-explained", || {
        let reasons: BTreeSet<&String> = slow.iter().chain(&quick).flat_map(|case| &case.reasons).collect();
        reasons.into_iter().try_for_each(|reason| stand.explain(reason))
    });
    report.step("deadlines", || side_by_side(&mut stand, &slow));
    for (number, case) in quick.iter().enumerate() {
        report.step(&case.name, || alone(&mut stand, case, &source(1, number)));
    }
    for (number, most) in [1, 7, 1_400].into_iter().enumerate() {
        let name = format!("rustls-with-post-quantum-share-in-pieces-of-{most}");
        report.case(&name, || rustls(&stand, &source(4, number), most));
    }
    report.step("a-second-round-takes-no-more-memory", || more_of_it(&mut stand, &quick));
    report.step("the-session-beside-them-went-on", || stand.companion_is_well());
    report.step("nothing-is-left", || nothing_is_left(&mut stand.appliance));
}

/// The cases that were asked for and can run here.
fn catalogue(report: &mut Report, stand: &Stand) -> Vec<Case> {
    let missing = stand.catalogue["missing"].as_object().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut cases = Vec::new();
    for case in stand.catalogue["cases"].as_array().into_iter().flatten() {
        let name = text(&case["name"]);
        if let Some((_, why)) = missing.iter().find(|(part, _)| name.starts_with(part.as_str())) {
            report.skip(&name, why.as_str().unwrap_or_default());
        } else if report.wants(&name) {
            let reasons = case["reasons"].as_array().into_iter().flatten().map(text).collect();
            cases.push(Case { name, reasons, slow: case["slow"] == true });
        }
    }
    cases
}

/// The address that a case of a round comes from: each has a prefix of its own, so that none counts for another.
fn source(round: usize, number: usize) -> String {
    format!("127.{}.{}.{round}", 10 + number / 200, 1 + number % 200)
}

/// How many sessions ended for what, and how often a node was dialled for a peer.
fn counts(appliance: &Appliance) -> Outcome<(Counts, u64)> {
    let status = appliance.status()?;
    let ended = status["refused"]["policy"].as_object().context("counters of reasons")?;
    let ended = ended.iter().map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or_default()));
    let dialled = status["pools"][0]["nodes"][0]["connected"].as_u64().context("a counter of dials")?;
    Ok((ended.collect(), dialled))
}

/// Waits until `count` more sessions have ended than `before`; what was counted since.
fn ended(appliance: &Appliance, before: &Counts, count: u64) -> Outcome<(Counts, u64)> {
    wait_for(format_args!("the end of {count} sessions is counted"), COUNTED, || {
        let (mut since, dialled) = counts(appliance)?;
        since
            .iter_mut()
            .for_each(|(reason, count)| *count -= before.get(reason).copied().unwrap_or_default());
        since.retain(|_, count| *count > 0);
        Ok((since.values().sum::<u64>() >= count).then_some((since, dialled)))
    })
}

/// Runs a case, and holds what was counted against what should come of it.
fn alone(stand: &mut Stand, case: &Case, source: &str) -> Outcome {
    let (before, dialled_before) = counts(&stand.appliance)?;
    stand.clients.say(&json!({ "case": case.name, "from": source }))?;
    let answer = stand.clients.hear(PATIENCE)?;
    let counted = ended(&stand.appliance, &before, 1);
    if let Some(failure) = answer["failure"].as_str() {
        return Err(format!("{failure}; since then {counted:?} was counted"));
    }
    let (since, dialled) = counted?;
    let expected: Vec<&str> = case.reasons.iter().map(String::as_str).collect();
    let expected = if expected.is_empty() { SERVED } else { &expected };
    ensure(since.keys().all(|reason| expected.contains(&reason.as_str())), || {
        format!("not {} but {since:?} was counted", expected.join(" or "))
    })?;
    let early = since.keys().any(|reason| comes_before_a_node(reason));
    ensure(!early || dialled == dialled_before, || format!("{since:?}, and yet a node was dialled"))
}

/// A session of rustls whose key share needs several segments.
fn rustls(stand: &Stand, source: &str, most: usize) -> Outcome {
    let (before, _) = counts(&stand.appliance)?;
    stand.rustls(source, most)?;
    let (since, _) = ended(&stand.appliance, &before, 1)?;
    ensure(since.keys().all(|reason| SERVED.contains(&reason.as_str())), || format!("{since:?} was counted"))
}

/// Whether a reason is one for which no node may hear of the peer.
fn comes_before_a_node(reason: &str) -> bool {
    let late = ["chia_second_handshake", "tls_protocol", "tls_alert", "tls_key_updates", "tls_too_large"];
    ["tls_", "http_", "chia_"].iter().any(|part| reason.starts_with(part)) && !late.contains(&reason)
}

/// Runs cases that a deadline ends, all at once.
fn side_by_side(stand: &mut Stand, cases: &[Case]) -> Outcome {
    let (before, _) = counts(&stand.appliance)?;
    for (number, case) in cases.iter().enumerate() {
        stand.clients.say(&json!({ "case": case.name, "from": source(3, number) }))?;
    }
    for _ in cases {
        let answer = stand.clients.hear(PATIENCE)?;
        ensure(answer["failure"].is_null(), || answer.to_string())?;
    }
    let (since, _) = ended(&stand.appliance, &before, cases.len() as u64)?;
    let expected: BTreeSet<&String> = cases.iter().flat_map(|case| &case.reasons).collect();
    ensure(since.keys().all(|reason| expected.contains(reason)), || format!("{since:?} was counted"))
}

/// Everything that is refused and that no deadline ends, once more.
fn more_of_it(stand: &mut Stand, cases: &[Case]) -> Outcome {
    let refused: Vec<&Case> = cases.iter().filter(|case| !case.reasons.is_empty()).collect();
    let before = stand.appliance.memory()?;
    for (number, case) in refused.iter().enumerate() {
        alone(stand, case, &source(2, number)).context(&case.name)?;
    }
    let after = stand.appliance.memory()?;
    println!("          {before} KiB before, {after} KiB after {} sessions more", refused.len());
    ensure(after <= before + GROWTH_KIB, || format!("{before} KiB became {after} KiB"))
}

/// Only the light peer is still there.
fn nothing_is_left(appliance: &mut Appliance) -> Outcome {
    let mut status = Value::Null;
    wait_for("no session is left", COUNTED, || {
        status = appliance.status()?;
        let flows = status["flows"]["now"].as_u64().context("flows")?;
        let idle = status["memory"]["strangers"] == 0 && status["sessions"]["dialled"] == 0;
        Ok((idle && flows <= 1).then_some(()))
    })
    .map_err(|failure| format!("{failure}; flows {}, sessions {}", status["flows"], status["sessions"]))?;
    ensure(status["sessions"]["crashed"] == 0, || appliance.log())?;
    ensure(status["work"]["waiting"] == 0, || format!("work waits: {}", status["work"]))?;
    appliance.alive()
}
