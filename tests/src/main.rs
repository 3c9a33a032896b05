//! Runs the system suites: `hedgerow-tests SUITE [CASE...]`. Started by `tests/run`, inside a sandbox.

use std::process::ExitCode;

use hedgerow_tests::{
    Report, architectures, foreign, hour, kernel_peer, node_attack, node_bodies, node_sync,
};

/// A suite by name.
type Suite = (&'static str, fn(&mut Report));

/// Every suite that this binary holds.
const SUITES: &[Suite] = &[
    ("kernel-peer", kernel_peer::run),
    ("tls", foreign::run),
    ("node-sync", node_sync::run),
    ("node-attack", node_attack::run),
    ("node-bodies", node_bodies::run),
    ("architectures", architectures::run),
    ("hour", hour::run),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some((name, run)) = SUITES.iter().find(|(suite, _)| *suite == name) else {
        let names: Vec<&str> = SUITES.iter().map(|(suite, _)| *suite).collect();
        eprintln!("usage: hedgerow-tests SUITE [CASE...], where SUITE is one of: {}", names.join(", "));
        return ExitCode::from(2);
    };
    let mut report = Report::new(name, arguments.collect());
    run(&mut report);
    if report.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
