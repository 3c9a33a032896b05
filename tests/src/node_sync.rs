//! A real full node that knows only the appliance's address syncs from a second real node behind it; what is no valid
//! peer ends with its reason and never reaches that node.

use std::time::Duration;

use serde_json::Value;

use crate::appliance::Appliance;
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::nodes::{CHAIN_BLOCKS, Node, NodeSetup, Peer};
use crate::privacy;
use crate::site::{CHIA_PORT, OUTER_V4, PRIVATE_V4, PUBLIC_V4, Site, counted};

/// A long sync of the test chain takes half a minute of a quiet machine's time.
pub const SYNC: Duration = Duration::from_secs(240);
/// Gossip of one block.
pub const GOSSIP: Duration = Duration::from_secs(60);

/// Peers that must not reach the node: case, arguments of `peer.py`, and the reasons that may be given.
const REFUSED: &[(&str, &[&str], &[&str])] = &[
    ("wrong-network", &["chia", "--from", "10.1.0.10", "--network", "mainnet"], &["chia_wrong_network"]),
    ("no-certificate", &["anonymous", "--from", "10.1.0.11"], &["tls_no_certificate"]),
    ("foreign-certificate", &["foreign", "--from", "10.1.0.12"], &["tls_untrusted"]),
    ("plain-http", &["http", "--from", "10.1.0.13"], &["not_client_hello", "plain_http"]),
    ("garbage", &["garbage", "--from", "10.1.0.14"], &["not_client_hello", "tls_garbage"]),
];

/// Runs the suite.
pub fn run(report: &mut Report) {
    let mut site = None;
    let started = report.step("set-up", || {
        let built = Site::new("node-sync")?;
        let appliance = built.appliance(PUBLIC_V4, "10.2.0.2", "snat")?;
        site = Some((built, appliance));
        Ok(())
    });
    let Some((mut site, mut appliance)) = site.filter(|_| started) else { return };
    for (name, arguments, reasons) in REFUSED {
        report.case(name, || refused(&site, &appliance, arguments, reasons));
    }
    let mut first = None;
    report.step("whole-chain", || {
        first = Some(whole_chain(&mut site, &appliance)?);
        Ok(())
    });
    let Some(mut first) = first else { return };
    report.case("farmed-blocks", || farmed_blocks(&mut site, &mut first));
    report.case("second-node", || second_node(&mut site));
    report.case("second-identical-id", || second_identical_id(&mut site, &appliance, &mut first));
    report.case("own-node", || own_node(&site, &appliance));
    report.case("addresses-stay-inside-snat", || privacy::holds(&mut site, &appliance, true));
    report.case("nothing-remains", || {
        drop(first);
        site.node.connections(0)?;
        appliance.alive()
    });
    drop(appliance);
    report.case("addresses-stay-inside-transparent", || {
        let appliance = site.appliance(PUBLIC_V4, "10.2.0.2", "transparent")?;
        privacy::holds(&mut site, &appliance, false)
    });
    report.case("inspected-egress", || inspected_egress(&mut site));
}

/// The node behind dials a real one outside, and its way out is inspected: it gets that one's blocks, sees it as whom it would
/// see if that one came, and shows nobody its own identity.
fn inspected_egress(site: &mut Site) -> Outcome {
    let egress = "[egress]\nport = \"public\"\ninspect = true\n";
    let appliance = site.appliance_with(PUBLIC_V4, "10.2.0.2", "snat", egress)?;
    let told = |failure| format!("{failure}\nstatus: {:?}\n{}", appliance.status(), appliance.log());
    let setup = NodeSetup { preload: CHAIN_BLOCKS, farms: true, ..NodeSetup::default() };
    let mut far = Node::start(&site.outer, site.scratch.path(), "far", setup)?;
    // More of the chain than the node behind has by now.
    let have = site.node.state()?["height"].as_u64().context("a height")?;
    let height = far.farm((have + 3).saturating_sub(CHAIN_BLOCKS - 1))?;
    site.node.connect(OUTER_V4, CHIA_PORT).map_err(told)?;
    site.node.reach(height, GOSSIP, || Ok(())).map_err(told)?;
    let seen = site.node.connections(1)?;
    ensure(seen[0]["host"] == OUTER_V4 && seen[0]["outbound"] == true, || format!("it sees {}", seen[0]))?;
    let shown = far.connections(1)?;
    ensure(shown[0]["host"] == PUBLIC_V4, || format!("outside {} is seen", shown[0]))?;
    ensure(shown[0]["node_id"] != site.node.id(), || "its own identity went outside".to_owned())?;
    ensure(seen[0]["node_id"] != far.id(), || "the peer's own identity came in".to_owned())?;
    let outbound = seen[0]["node_id"].clone();
    let status = appliance.status()?;
    ensure(status["egress"]["nodes"][0]["inspected"] == 1, || format!("status: {}", status["egress"]))?;
    let events = appliance.ask(&["events"])?;
    ensure(events.contains("outbound from inner to 10.1.0.2:8444"), || events.clone())?;
    // Blocks come by it in both directions.
    let height = site.node.farm(1)?;
    far.reach(height, GOSSIP, || Ok(())).map_err(told)?;
    // It closes, the peer comes itself, and is the same one.
    appliance.ask(&["egress", "close", "inner"])?;
    far.connections(0)?;
    far.connect(PUBLIC_V4, CHIA_PORT).map_err(told)?;
    let inbound = site.node.connections(1)?[0]["node_id"].clone();
    ensure(inbound == outbound, || format!("{outbound} when it is dialled, {inbound} when it comes"))?;
    // A second connection with it, now from inside, is refused.
    appliance.ask(&["egress", "open", "inner"])?;
    ensure(site.node.connect(OUTER_V4, CHIA_PORT).is_err(), || "two connections with one peer".to_owned())?;
    wait_for("the reason", GOSSIP, || Ok((counted(&appliance.status()?, "duplicate_id") > 0).then_some(())))
}

/// A peer is refused for one of `reasons`, and the node hears nothing of it.
fn refused(site: &Site, appliance: &Appliance, arguments: &[&str], reasons: &[&str]) -> Outcome {
    let dials = site.dials()?;
    let before = reason_count(&appliance.status()?, reasons);
    let target = format!("{PUBLIC_V4}:{CHIA_PORT}");
    let mut all = arguments.to_vec();
    all.extend(["--to", &target]);
    let answer = Peer::start(&site.outer, &all)?.answer(GOSSIP)?;
    ensure(answer.outcome == "refused", || format!("the peer says: {} {}", answer.outcome, answer.detail))?;
    let mut status = Value::Null;
    wait_for(format_args!("reason {}", reasons.join(" or ")), Duration::from_secs(10), || {
        status = appliance.status()?;
        Ok((reason_count(&status, reasons) > before).then_some(()))
    })
    .map_err(|failure| format!("{failure}; the peer says {}; status: {status}", answer.detail))?;
    let reached = site.dials()? - dials;
    ensure(reached == 0, || format!("{reached} connections reached the node"))
}

fn reason_count(status: &Value, reasons: &[&str]) -> u64 {
    reasons.iter().map(|reason| counted(status, reason)).sum()
}

/// An empty node gets the whole chain, by a proof of weight, as one peer with a derived identity.
fn whole_chain(site: &mut Site, appliance: &Appliance) -> Outcome<Node> {
    let mut node = Node::start(&site.outer, site.scratch.path(), "first", NodeSetup::default())?;
    node.connect(PUBLIC_V4, CHIA_PORT)?;
    let state = node
        .reach(CHAIN_BLOCKS - 1, SYNC, || Ok(()))
        .map_err(|failure| format!("{failure}\nstatus: {:?}\n{}", appliance.status(), appliance.log()))?;
    let proofs = state["messages"]["in"]["respond_proof_of_weight"].as_u64();
    ensure(proofs >= Some(1), || format!("no proof of weight was among {}", state["messages"]["in"]))?;
    let seen = site.node.connections(1)?;
    ensure(seen[0]["host"] == PRIVATE_V4, || format!("the node sees {}", seen[0]))?;
    ensure(seen[0]["node_id"] != node.id(), || "the peer's own identity reached the node".to_owned())?;
    Ok(node)
}

/// Blocks that the inner node farms reach the outer one.
fn farmed_blocks(site: &mut Site, first: &mut Node) -> Outcome {
    let height = site.node.farm(2)?;
    let outside = first.reach(height, GOSSIP, || Ok(()))?;
    let inside = site.node.state()?;
    ensure(outside["header_hash"] == inside["header_hash"], || format!("{outside} differs from {inside}"))
}

/// A second outer node is another peer inside, although both come from one address.
fn second_node(site: &mut Site) -> Outcome {
    let mut second =
        Node::start_on(&site.outer, site.scratch.path(), "second", NodeSetup::default(), CHIA_PORT + 1)?;
    second.connect(PUBLIC_V4, CHIA_PORT)?;
    let seen = site.node.connections(2)?;
    ensure(seen[0]["node_id"] != seen[1]["node_id"], || format!("one identity for both: {seen:?}"))?;
    drop(second);
    site.node.connections(1).map(drop)
}

/// The first node's certificate, shown from another address while the first is connected.
fn second_identical_id(site: &mut Site, appliance: &Appliance, first: &mut Node) -> Outcome {
    impostor(site, appliance, first, "10.1.0.20", &["duplicate_id"])?;
    let still = first.connections(1)?;
    ensure(still.len() == 1, || "the rightful session was lost".to_owned())?;
    site.node.connections(1).map(drop)
}

/// The inner node's own certificate, as it comes when a node finds its public address through gossip.
fn own_node(site: &Site, appliance: &Appliance) -> Outcome {
    impostor(site, appliance, &site.node, "10.1.0.21", &["own_node"])
}

fn impostor(site: &Site, appliance: &Appliance, of: &Node, from: &str, reasons: &[&str]) -> Outcome {
    let (certificate, key) = of.certificate();
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path");
    let (certificate, key) = (path(&certificate)?, path(&key)?);
    refused(site, appliance, &["chia", "--from", from, "--certificate", &certificate, "--key", &key], reasons)
}
