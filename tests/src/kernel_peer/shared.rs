//! An address that the kernel has too: when that is refused, that it is guarded, and that nothing of it is left behind.

use std::net::TcpListener;
use std::time::Duration;

use super::wires::{Devices, Family, Wires};
use super::{ROUND, Round};
use crate::check::{Context, Outcome, Report, ensure, wait_for};

const ROUND_SHARED: Round =
    Round { name: "shared", devices: Devices::Veth, family: Family::V4, shared: true, ..ROUND };

/// How long rules may take to come and go.
const SOON: Duration = Duration::from_secs(20);

/// A case by name.
type Case = (&'static str, fn() -> Outcome);

/// Runs the cases, each with a rig of its own.
pub(super) fn run(report: &mut Report) {
    let cases: [Case; 4] = [
        ("shared/absent-address-is-refused", absent_address_is_refused),
        ("shared/port-in-use-is-refused", port_in_use_is_refused),
        ("shared/rules-are-made-anew", rules_are_made_anew),
        ("shared/nothing-is-left-behind", nothing_is_left_behind),
    ];
    for (name, case) in cases {
        if report.wants(name) {
            report.case(name, case);
        }
    }
}

fn absent_address_is_refused() -> Outcome {
    // The kernel of the appliance's machine has no address at all.
    let refused = Wires::with(&ROUND_SHARED, |_| Ok(()), false);
    expect_refusal(refused, "the kernel does not have 10.1.0.1")
}

fn port_in_use_is_refused() -> Outcome {
    let mut taken = None;
    let refused = Wires::with(
        &ROUND_SHARED,
        |boxed| {
            let listen = || TcpListener::bind(("10.1.0.1", 5000)).context("listening");
            taken = Some(boxed.enter(listen)?);
            Ok(())
        },
        true,
    );
    expect_refusal(refused, "a program of this machine listens at 10.1.0.1:5000")
}

fn expect_refusal(started: Outcome<Wires>, words: &str) -> Outcome {
    match started {
        Ok(_) => Err("it started".to_owned()),
        Err(said) => ensure(said.contains(words), || said.clone()),
    }
}

fn rules(wires: &Wires) -> Outcome<String> {
    wires.boxed.shell("nft list ruleset")
}

/// Whoever keeps the rules may be killed: they come back, and connections work.
fn rules_are_made_anew() -> Outcome {
    let mut wires = Wires::new(&ROUND_SHARED)?;
    let keeper = wires.keeper()?;
    wires.boxed.shell(&format!("kill -KILL {keeper}"))?;
    wait_for("the rules stand again", SOON, || {
        let anew = wires.keeper().is_ok_and(|other| other != keeper);
        Ok((anew && rules(&wires)?.contains("tcp dport 5000")).then_some(()))
    })?;
    wires.alive()?;
    wires.pair().map(drop)
}

/// However the appliance ends, the kernel answers for the address again.
fn nothing_is_left_behind() -> Outcome {
    for signal in ["KILL", "TERM"] {
        let wires = Wires::new(&ROUND_SHARED)?;
        ensure(rules(&wires)?.contains("flags owner"), || "no rules".to_owned())?;
        wires.boxed.shell(&format!("kill -{signal} {}", wires.process()))?;
        wait_for("the rules are gone", SOON, || Ok(rules(&wires)?.trim().is_empty().then_some(())))
            .context(signal)?;
    }
    Ok(())
}
