//! An hour of ordinary life: real full nodes and a real wallet through the appliance as it comes, nothing configured away, and at
//! the end no session was closed by policy.
//!
//! The inner node farms, one node and the wallet follow it; between blocks nodes that know nothing come one after the other over
//! a line of 10 Mbit/s with 150 ms there and back and get the whole chain by a proof of weight, and a peer announces peaks as
//! often as a node just takes it, 190 times a minute.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::appliance::Appliance;
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::node_sync::GOSSIP;
use crate::nodes::{CHAIN_BLOCKS, Line, Node, NodeSetup, Peer, Wallet};
use crate::rig::Namespace;
use crate::site::{CHIA_PORT, PUBLIC_V4, Site};

/// How long it goes on, unless `MINUTES` says otherwise.
const MINUTES: u64 = 60;
/// Peaks a minute; a node takes 200 before it bans.
const STORM: &str = "190";
/// A block of the real chain comes about as often.
const BLOCK: Duration = Duration::from_secs(18);
/// Blocks between two long syncs.
const BLOCKS: u64 = 3;
/// A proof of weight and all blocks over a slow line, on a busy machine.
const LONG_SYNC: Duration = Duration::from_secs(600);
/// Ends that are the doing of a peer or a node, or of nobody.
const OWN_DOING: &[&str] = &["finished", "peer_closed", "peer_lost", "node_closed", "node_lost"];

/// Runs the suite.
pub fn run(report: &mut Report) {
    let minutes = std::env::var("MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(MINUTES);
    println!("  for {minutes} minutes; MINUTES=N tests/run hour is shorter");
    let mut scene = None;
    let begun = report.step("everybody-comes", || {
        scene = Some(Scene::new()?);
        Ok(())
    });
    let Some(mut scene) = scene.filter(|_| begun) else { return };
    report.step("life-goes-on", || scene.live(Duration::from_secs(minutes * 60)));
    report.step("nobody-was-closed", || scene.judge());
}

struct Scene {
    site: Site,
    appliance: Appliance,
    /// Where nodes come from over the slow line.
    far: Namespace,
    line: Option<Line>,
    follower: Node,
    wallet: Wallet,
    storm: Option<Peer>,
    /// The one that syncs now.
    newcomer: Option<(Node, Instant)>,
    syncs: Vec<Duration>,
    height: u64,
    /// From which height on the next newcomer comes.
    due: u64,
    /// All sessions that nodes, wallet and storm have begun.
    sessions: u64,
}

impl Scene {
    fn new() -> Outcome<Scene> {
        let mut site = Site::new("hour")?;
        let appliance = site.serving(&["full_node", "wallet"], PUBLIC_V4, "10.2.0.2", "snat", "")?;
        // A wallet leaves nodes whose peak is old, so there is a new one before it comes.
        let height = site.node.farm(1)?;
        let far = Namespace::new("far")?;
        let line = Line::lay(&site.outer, "near0", &far, "far0", (75, 10))?;
        site.outer.shell("ip link set dev near0 master wan")?;
        far.address("far0", &["10.1.0.50/24"])?;
        let mut follower = Node::start(&site.outer, site.scratch.path(), "follower", NodeSetup::default())?;
        follower.connect(PUBLIC_V4, CHIA_PORT)?;
        let target = format!("{PUBLIC_V4}:{CHIA_PORT}");
        let wallet = Wallet::start(&site.attacker, site.scratch.path(), "wallet", &target)?;
        let peak = site.node.state()?;
        let hash = peak["header_hash"].as_str().context("a hash")?;
        let arguments =
            ["chia", "--from", "10.1.0.30", "--to", &target, "--hold", "--storm", STORM, "--peak", hash];
        let storm = Peer::start(&site.outer, &arguments)?;
        let answer = storm.answer(GOSSIP)?;
        ensure(answer.outcome == "accepted", || {
            format!("the storm was {}: {}", answer.outcome, answer.detail)
        })?;
        Ok(Scene {
            site,
            appliance,
            far,
            line: Some(line),
            follower,
            wallet,
            storm: Some(storm),
            newcomer: None,
            syncs: Vec::new(),
            height,
            due: 0,
            sessions: 3,
        })
    }

    /// Lets all of it go on for so long.
    fn live(&mut self, long: Duration) -> Outcome {
        let begin = Instant::now();
        let mut next_block = begin;
        while begin.elapsed() < long || self.syncs.is_empty() {
            self.appliance.alive()?;
            // A node that knows one peer only begins its long sync anew whenever that peer's peak has moved meanwhile.
            if Instant::now() >= next_block && self.newcomer.is_none() {
                next_block = Instant::now() + BLOCK;
                self.height = self.site.node.farm(1)?;
            }
            self.welcome()?;
            std::thread::sleep(Duration::from_millis(500));
        }
        self.follower.reach(self.height, GOSSIP, || Ok(()))?;
        wait_for("the wallet is synced", GOSSIP, || {
            let state = self.wallet.state()?;
            Ok((state["height"].as_u64() >= Some(self.height)).then_some(()))
        })
        .map_err(|failure| format!("{failure}; its state: {:?}", self.wallet.state()))
    }

    /// Sees to it that a node is syncing over the slow line; one that has synced goes, and the next one comes.
    fn welcome(&mut self) -> Outcome {
        let Some((node, since)) = &mut self.newcomer else {
            // Blocks come for a while before the next one.
            if self.height < self.due {
                return Ok(());
            }
            self.due = self.height + BLOCKS;
            let name = format!("newcomer-{}", self.syncs.len());
            let mut node = Node::start(&self.far, self.site.scratch.path(), &name, NodeSetup::default())?;
            node.connect(PUBLIC_V4, CHIA_PORT)?;
            self.sessions += 1;
            self.newcomer = Some((node, Instant::now()));
            return Ok(());
        };
        let state = node.state()?;
        if state["height"].as_u64() < Some(CHAIN_BLOCKS) {
            let status = self.appliance.status();
            return ensure(since.elapsed() < LONG_SYNC, || format!("no long sync: {state}\n{status:?}"));
        }
        let proofs = state["messages"]["in"]["respond_proof_of_weight"].as_u64();
        ensure(proofs >= Some(1), || format!("no proof of weight was among {}", state["messages"]["in"]))?;
        banned("the newcomer", &state)?;
        self.syncs.push(since.elapsed());
        self.newcomer = None;
        Ok(())
    }

    /// No session ended by our doing, nobody banned anybody, and everybody is still there.
    fn judge(&mut self) -> Outcome {
        let status = self.appliance.status()?;
        let passed = &status["passed"];
        let ended = status["refused"]["policy"].as_object().cloned().unwrap_or_default();
        println!("  {} sessions begun; ended: {}", self.sessions, Value::Object(ended.clone()));
        println!("  passed: {passed}");
        println!("  frames and flows refused: {}", status["refused"]["dataplane"]);
        let syncs: Vec<u64> = self.syncs.iter().map(Duration::as_secs).collect();
        println!("  long syncs of {CHAIN_BLOCKS} blocks and more, in seconds: {syncs:?}");
        println!("  the slow line: {}", self.line.take().context("the line")?.cut()?);
        let wallet = self.wallet.state()?;
        println!("  the wallet: {wallet}");
        let ours = ended.keys().filter(|reason| !OWN_DOING.contains(&reason.as_str()));
        let ours: Vec<&String> = ours.collect();
        ensure(ours.is_empty(), || {
            format!("sessions were ended for {ours:?}: {}\n{}", status, self.appliance.log())
        })?;
        ensure(passed["beyond_peak"] == 0, || format!("heights were judged too high: {passed}"))?;
        banned("the inner node", &self.site.node.state()?)?;
        banned("the follower", &self.follower.state()?)?;
        let stayed = self.follower.state()?["connections"].as_array().map_or(0, Vec::len);
        ensure(stayed == 1, || format!("the follower has {stayed} connections"))?;
        let sent = wallet["messages"]["out"]["handshake"].as_u64();
        ensure(sent == Some(1), || format!("the wallet had to come again: {wallet}"))?;
        let storm = self.storm.take().context("the storm")?.release()?;
        ensure(storm, || "the storm was closed".to_owned())
    }
}

fn banned(who: &str, state: &Value) -> Outcome {
    let bans = state["bans"].as_object().map_or(0, serde_json::Map::len);
    ensure(bans == 0, || format!("{who} bans {}", state["bans"]))
}
