//! The same real nodes while floods run: IPv4 with the peer's own address shown to the node, then IPv6; and forty silent
//! connections a second, which lock a bare node out and change nothing behind the appliance.

use std::net::SocketAddr;
use std::time::Duration;

use crate::appliance::Appliance;
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::flood::{Flood, Kind};
use crate::node_sync::{GOSSIP, SYNC};
use crate::nodes::{CHAIN_BLOCKS, Node, NodeSetup, Peer};
use crate::rig::Namespace;
use crate::site::{CHIA_PORT, OUTER_V4, PRIVATE_V6, PUBLIC_V4, PUBLIC_V6, Site, counted};

/// Packets a second of each forged flood: enough to matter on two shared cores, not enough to starve the nodes.
const PACKETS: u32 = 2000;
/// What locks a bare node out, from one address.
const SILENT: u32 = 40;
/// A peer that is not answered within this is locked out; an answer takes a tenth of a second.
const LOCKED_OUT: Duration = Duration::from_secs(20);

/// Runs the suite.
pub fn run(report: &mut Report) {
    report.case("bare-node-is-locked-out", bare_node);
    if !["transparent-under-flood", "ipv6-under-flood"].iter().any(|name| report.wants(name)) {
        return;
    }
    let mut site = None;
    report.step("set-up", || {
        site = Some(Site::new("node-attack")?);
        Ok(())
    });
    let Some(mut site) = site else { return };
    report.case("transparent-under-flood", || {
        let appliance = site.appliance(PUBLIC_V4, "10.2.0.2", "transparent")?;
        under_flood(&mut site, appliance, PUBLIC_V4, "10.1.0.66", OUTER_V4)
    });
    report.case("ipv6-under-flood", || {
        let appliance = site.appliance(PUBLIC_V6, "[fd02::2]", "snat")?;
        under_flood(&mut site, appliance, PUBLIC_V6, "fd01::66", PRIVATE_V6)
    });
}

/// A stock node whose port anybody can reach, as a baseline: silent connections alone keep a valid peer out.
fn bare_node() -> Outcome {
    let (world, home) = (Namespace::new("world")?, Namespace::new("home")?);
    world.veth("wan", &home, "lan")?;
    world.address("wan", &["10.9.0.2/24", "10.9.0.3/24"])?;
    home.address("lan", &["10.9.0.1/24"])?;
    let scratch = crate::appliance::Scratch::new("bare-node")?;
    let _node = Node::start(&home, scratch.path(), "bare", NodeSetup::default())?;
    let target = SocketAddr::new([10, 9, 0, 1].into(), CHIA_PORT);
    let probe = || -> Outcome<String> {
        let peer = Peer::start(&world, &["chia", "--to", &target.to_string(), "--from", "10.9.0.3"])?;
        Ok(peer.answer(LOCKED_OUT).map_or_else(|failure| failure, |answer| answer.outcome))
    };
    let before = probe()?;
    ensure(before == "accepted", || format!("even without an attack a peer is {before}"))?;
    let flood = Flood::start(&world, Kind::Silent, "10.9.0.2", target, SILENT)?;
    wait_for("the node's sockets are used up", GOSSIP, || Ok((flood.sent() > 400).then_some(())))?;
    let during = probe()?;
    flood.end()?;
    ensure(during != "accepted", || "a bare node served a peer despite the attack".to_owned())
}

/// All floods run while an empty node syncs the whole chain and then hears of farmed blocks.
fn under_flood(
    site: &mut Site,
    mut appliance: Appliance,
    public: &str,
    attacker: &str,
    seen: &str,
) -> Outcome {
    let target = SocketAddr::new(public.parse().context("a public address")?, CHIA_PORT);
    let dials = site.dials()?;
    let floods = [
        (Kind::Syn, PACKETS),
        (Kind::ForgedSyn, PACKETS),
        (Kind::BadCookie, PACKETS),
        (Kind::Silent, SILENT),
    ]
    .map(|(kind, rate)| Flood::start(&site.attacker, kind, attacker, target, rate));
    let floods: Vec<Flood> = floods.into_iter().collect::<Outcome<_>>()?;
    let outcome = sync_and_farm(site, &mut appliance, public, seen);
    let told = outcome
        .map_err(|failure| format!("{failure}\nstatus: {:?}\n{}", appliance.status(), appliance.log()));
    let sent = floods.into_iter().map(Flood::end).collect::<Outcome<Vec<u64>>>()?;
    told?;
    ensure(sent.iter().all(|&count| count > 0), || format!("a flood sent nothing: {sent:?}"))?;
    let status = appliance.status()?;
    ensure(counted(&status, "bad_cookie") > 0, || format!("no forged cookie was met: {status}"))?;
    ensure(counted(&status, "awaiting_data") > 0, || format!("no silent connection was met: {status}"))?;
    let held = status["memory"]["strangers"].as_u64();
    ensure(held == Some(0), || format!("{held:?} bytes are held for strangers: {status}"))?;
    let reached = site.dials()? - dials;
    ensure(reached == 1, || format!("{reached} connections reached the node instead of one"))
}

fn sync_and_farm(site: &mut Site, appliance: &mut Appliance, public: &str, seen: &str) -> Outcome {
    let name = if public.contains(':') { "outer-ipv6" } else { "outer-ipv4" };
    let mut outer = Node::start(&site.outer, site.scratch.path(), name, NodeSetup::default())?;
    outer.connect(public, CHIA_PORT)?;
    let connections = site.node.connections(1)?;
    ensure(connections[0]["host"] == seen, || format!("the node sees {} instead of {seen}", connections[0]))?;
    let known = site.node.state()?["height"].as_u64().unwrap_or(CHAIN_BLOCKS - 1);
    outer.reach(known, SYNC, || appliance.alive())?;
    let height = site.node.farm(1)?;
    outer.reach(height, GOSSIP, || appliance.alive())?;
    drop(outer);
    site.node.connections(0).map(drop)
}
