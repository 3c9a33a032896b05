//! The Linux kernel as opponent: two kernel sockets in two namespaces whose every byte passes the appliance's own TCP
//! stack, through a `tcp` listener.
//!
//! Rounds differ in the devices (veth with AF_PACKET and with AF_XDP, TAP, ordinary sockets), the address family and the loss that nftables makes; all keep the kernel's
//! default offloads, so partial checksums and super-frames are the rule. Nothing is timed but the whole.

pub mod cases;
mod dhcp;
mod egress;
mod one_armed;
mod policy;
mod shared;
pub mod wires;

use crate::check::{Outcome, Report};
use wires::{Devices, Family, Wires};

/// A variation of the same cases.
pub struct Round {
    name: &'static str,
    devices: Devices,
    family: Family,
    /// Frames in a hundred that each end loses on the way out.
    loss: u32,
    /// The appliance's shards; with several there is a worker thread, too.
    shards: usize,
    /// The kernel of the appliance's machine has the public addresses, too.
    shared: bool,
}

const ROUND: Round =
    Round { name: "", devices: Devices::Veth, family: Family::V4, loss: 0, shards: 1, shared: false };

const ROUNDS: &[Round] = &[
    Round { name: "veth", ..ROUND },
    Round { name: "veth-ipv6", family: Family::V6, ..ROUND },
    Round { name: "veth-loss", loss: 2, ..ROUND },
    Round { name: "xdp", devices: Devices::Xdp, ..ROUND },
    Round { name: "xdp-ipv6", devices: Devices::Xdp, family: Family::V6, ..ROUND },
    Round { name: "xdp-loss", devices: Devices::Xdp, loss: 2, ..ROUND },
    Round { name: "xdp-shared", devices: Devices::Xdp, shared: true, ..ROUND },
    Round { name: "tap", devices: Devices::Tap, ..ROUND },
    // The kernel hands out by a hash that knows nothing of the shards: every other answer of the server is a stray.
    Round { name: "veth-shards", shards: 2, ..ROUND },
    Round { name: "xdp-shards", devices: Devices::Xdp, shards: 2, ..ROUND },
    Round { name: "tap-shards", devices: Devices::Tap, shards: 2, ..ROUND },
    Round { name: "veth-shared", shared: true, ..ROUND },
    Round { name: "sockets", devices: Devices::Sockets, ..ROUND },
    Round { name: "sockets-ipv6", devices: Devices::Sockets, family: Family::V6, ..ROUND },
    Round { name: "sockets-shards", devices: Devices::Sockets, shards: 2, ..ROUND },
    Round { name: "kernel-leg", devices: Devices::KernelLeg, ..ROUND },
    Round { name: "virtio", devices: Devices::Virtio, ..ROUND },
];

/// Runs the suite.
pub fn run(report: &mut Report) {
    for round in ROUNDS {
        let names: Vec<String> =
            cases::ALL.iter().map(|(name, _)| format!("{}/{name}", round.name)).collect();
        if !names.iter().any(|name| report.wants(name)) {
            continue;
        }
        if round.devices == Devices::Virtio && crate::machine::image().is_none() {
            // The suite `virtio` has one.
            continue;
        }
        if matches!(round.devices, Devices::Tap | Devices::Virtio) && !wires::tap_is_possible() {
            report.skip(round.name, "/dev/net/tun cannot be opened here");
            continue;
        }
        if round.devices == Devices::Xdp && !wires::xdp_is_possible() {
            report.skip(round.name, "this user may load no XDP program");
            continue;
        }
        match Wires::new(round) {
            Ok(mut wires) => run_cases(report, &names, &mut wires),
            Err(failure) => drop(report.step(&format!("{}/set-up", round.name), || Err(failure))),
        }
    }
    shared::run(report);
    policy::run(report);
    egress::run(report);
    one_armed::run(report);
    dhcp::run(report);
}

fn run_cases(report: &mut Report, names: &[String], wires: &mut Wires) {
    for (name, (_, case)) in names.iter().zip(cases::ALL) {
        report.case(name, || -> Outcome {
            case(wires).map_err(|failure| wires.explain(failure))?;
            wires.alive()
        });
    }
}
