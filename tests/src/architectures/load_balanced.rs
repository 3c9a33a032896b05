//! `load-balanced`: three public nodes and a protected one, two hundred peers, an application. One node is drained, one
//! is killed under load, then the one that the application uses; peers and application stay served.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{
    Example, NETWORK, PRIVATE, PUBLIC, RPC_PORT, SOON, Stage, at_once, await_state, front, host, node_status,
};
use crate::appliance::Appliance;
use crate::application::{Call, Caller, rpc_identity};
use crate::check::{Outcome, Report, ensure, wait_for};
use crate::crowd::{Crowd, End, Manner};
use crate::nodes::Node;
use crate::peers::{FULL_NODE, WALLET};
use crate::rig::Namespace;
use crate::site::CHIA_PORT;

/// Peers at one time.
const PEERS: u8 = 200;
/// Of so many peers one asks for something all the time.
const BUSY: u8 = 8;
/// From then on after a node's death no call of the application fails.
const FAILS_OVER: Duration = Duration::from_secs(2);
/// What a peer is told when its node is drained, so that it comes back (RFC 6455, section 7.4.1: going away).
const GOING_AWAY: u16 = 1001;
/// The application's host.
const APPLICATION: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 100);
/// How long two hundred peers may take to find a node, at the nodes' pace and on a busy machine.
const CROWDED: Duration = Duration::from_secs(90);
/// Nodes with the last number of their address.
const NODES: [(&str, u8); 4] = [("a", 11), ("b", 12), ("c", 13), ("p", 14)];

/// Runs its cases.
pub fn run(report: &mut Report) {
    const CASES: [&str; 5] = ["serves", "drain", "kill", "fails-over", "silent"];
    if !CASES.iter().any(|case| report.wants(&format!("load-balanced-{case}"))) {
        return;
    }
    let mut scene = None;
    report.step("load-balanced-boots", || {
        scene = Some(Scene::new()?);
        Ok(())
    });
    let Some(mut scene) = scene else { return };
    // Each begins where the one before ended.
    let steps: [fn(&mut Scene) -> Outcome; 5] =
        [Scene::serves, Scene::drains, Scene::loses_a_node, Scene::fails_over, Scene::goes_silent];
    for (case, step) in CASES.iter().zip(steps) {
        if !report.step(&format!("load-balanced-{case}"), || scene.tell(step)) {
            return;
        }
    }
}

/// Everybody who takes part.
struct Scene {
    peers: Crowd,
    wallet: Crowd,
    callers: [Caller; 2],
    outer: Node,
    nodes: BTreeMap<&'static str, Node>,
    appliance: Appliance,
    example: Example,
    homes: BTreeMap<&'static str, Namespace>,
    _office: Namespace,
    _stage: Stage,
}

impl Scene {
    fn new() -> Outcome<Self> {
        let example = Example::open("load-balanced")?;
        let stage = Stage::new()?;
        let office = host(&stage.inside, "application", APPLICATION)?;
        let homes: Vec<_> = NODES
            .iter()
            .map(|(name, number)| {
                let address = Ipv4Addr::new(10, 0, 1, *number);
                Ok((*name, address, host(&stage.inside, name, address)?))
            })
            .collect::<Outcome<_>>()?;
        let appliance = example.appliance(&stage.boxed, "box", "hedgerow.toml")?;
        let start = |index: usize| {
            let (name, address, home) = &homes[index];
            example.node(home, name, *address, &[])
        };
        let outer = || example.outer(&stage.world, "outer", &["--farms", "--preload=40"]);
        let [a, b, c, p, outer] = at_once([&|| start(0), &|| start(1), &|| start(2), &|| start(3), &outer])?;
        let nodes = BTreeMap::from([("a", a), ("b", b), ("c", c), ("p", p)]);
        await_state(&appliance, &["a", "b", "c", "p"], "up")?;

        let target = front();
        let peers = Crowd::start(&stage.world, target, NETWORK, 1, &manners())?;
        let back_end = |port| SocketAddrV4::new(PRIVATE, port);
        let wallet = [Manner { from: APPLICATION, kind: WALLET, busy: false }];
        let wallet = Crowd::start(&office, back_end(CHIA_PORT), NETWORK, 1_000, &wallet)?;
        let identity = rpc_identity(nodes["p"].root())?;
        let caller = |keeps| Caller::start(&office, &identity, APPLICATION, back_end(RPC_PORT), keeps);
        let callers = [caller(true)?, caller(false)?];
        let homes = homes.into_iter().map(|(name, _, home)| (name, home)).collect();
        Ok(Scene {
            peers,
            wallet,
            callers,
            outer,
            nodes,
            appliance,
            example,
            homes,
            _office: office,
            _stage: stage,
        })
    }

    /// Runs a step; where it fails, with what the appliance says.
    fn tell(&mut self, step: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        step(self).map_err(|failure| {
            let pools = self.appliance.status().map(|status| status["pools"].to_string());
            format!("{failure}\npools: {pools:?}\n{}", self.appliance.log())
        })
    }

    /// All are served, by more than one node; a block from outside reaches every node, every peer and the application.
    fn serves(&mut self) -> Outcome {
        self.peers.all_served("at first", CROWDED)?;
        self.wallet.all_served("as the application", SOON)?;
        let status = self.appliance.status()?;
        for name in ["a", "b", "c"] {
            let sessions = node_status(&status, name).and_then(|node| node["sessions"].as_u64());
            ensure(sessions > Some(u64::from(PEERS) / 10), || format!("{name} has {sessions:?} sessions"))?;
        }
        self.block_goes_round()?;
        wait_for("those who ask are answered", SOON, || {
            Ok((self.peers.count(|peer| peer.answers > 0) >= usize::from(PEERS / BUSY)).then_some(()))
        })
    }

    /// One block, farmed by a node outside.
    fn block_goes_round(&mut self) -> Outcome {
        let peaks = self.peers.each(|peer| peer.peaks);
        self.outer.stay_connected(PUBLIC, CHIA_PORT)?;
        let height = self.outer.farm(1)?;
        for node in self.nodes.values_mut() {
            node.reach(height, SOON, || Ok(()))?;
        }
        let told =
            || self.peers.each(|peer| peer.peaks).iter().zip(&peaks).filter(|(now, old)| now > old).count();
        wait_for("all peers hear of the block", SOON, || Ok((told() == peaks.len()).then_some(())))
            .map_err(|failure| format!("{failure}; {} of {} do", told(), peaks.len()))?;
        wait_for("the application knows the block", SOON, || {
            Ok(self.callers.iter().all(|caller| last(caller) >= Some(height)).then_some(()))
        })
    }

    /// Peers of the crowd that are at a node, by address, as the appliance's events tell.
    fn sessions_of(&self, node: &str) -> Outcome<BTreeSet<String>> {
        let here: BTreeSet<String> =
            self.peers.each(|peer| peer.at).iter().flatten().map(ToString::to_string).collect();
        wait_for("events of all sessions", SOON, || {
            let events = Appliance::events(&self.example.place("box"))?;
            let dialled = events.iter().filter(|event| event["event"] == "dialled");
            let led: BTreeMap<&str, &Value> =
                dialled.filter_map(|event| Some((event["peer"].as_str()?, &event["node"]))).collect();
            let known = here.iter().all(|peer| led.contains_key(peer.as_str()));
            let there = || here.iter().filter(|peer| led[peer.as_str()] == node).cloned().collect();
            Ok(known.then(there))
        })
    }

    /// Ends of the crowd's sessions since `before`, with the peers' addresses.
    fn ends_since(&self, before: Instant) -> Vec<End> {
        let ends = self.peers.each(|peer| peer.ends.clone()).into_iter().flatten();
        ends.filter(|end| end.at > before).collect()
    }

    /// No call of the application has failed since `since`.
    fn answered_since(&self, since: Instant) -> Outcome {
        for caller in &self.callers {
            let calls = caller.calls();
            let failed = calls.iter().filter(|call| call.begin >= since).find(|call| call.answer.is_err());
            ensure(failed.is_none(), || format!("a call of the application failed: {failed:?}"))?;
        }
        Ok(())
    }

    /// Node b is drained: who listens only leaves at its turn, who asks stays until it asks no more, and nobody else is
    /// disturbed. Then the application's node, which its calls do not notice.
    fn drains(&mut self) -> Outcome {
        let (begin, at_b) = (Instant::now(), self.sessions_of("b")?);
        let busy_at_b = self.busy_among(&at_b);
        ensure(busy_at_b > 0 && busy_at_b < at_b.len(), || {
            format!("{busy_at_b} of {} ask at b", at_b.len())
        })?;
        self.appliance.ask(&["drain", "b"])?;
        wait_for("those who listen only leave b", CROWDED, || {
            Ok((self.ends_since(begin).len() == at_b.len() - busy_at_b).then_some(()))
        })
        .map_err(|failure| format!("{failure}: {} of {} left", self.ends_since(begin).len(), at_b.len()))?;
        let idle = self.ends_since(begin);
        ensure(idle.iter().all(|end| !end.busy), || "a session was closed in the middle of its work".into())?;
        self.peers.be_busy(false);
        await_state(&self.appliance, &["b"], "maintenance")?;
        self.peers.all_served("while b is drained", CROWDED)?;
        let ends = self.ends_since(begin);
        ensure(ends.len() == at_b.len(), || format!("{} of {} sessions at b ended", ends.len(), at_b.len()))?;
        for end in &ends {
            ensure(at_b.contains(&end.was.to_string()), || format!("{end:?}, which was not at b"))?;
            ensure(end.code == Some(GOING_AWAY), || format!("{end:?}, without the code to come back"))?;
        }
        self.paced(&ends)?;
        self.answered_since(begin)?;
        self.appliance.ask(&["undrain", "b"])?;
        await_state(&self.appliance, &["b"], "up")?;

        self.appliance.ask(&["drain", "p"])?;
        wait_for("the application's wallet moves", SOON, || {
            Ok((self.wallet.count(|peer| peer.joined > 1) == 1).then_some(()))
        })?;
        self.wallet.all_served("while p is drained", SOON)?;
        self.appliance.ask(&["undrain", "p"])?;
        self.answered_since(begin)
    }

    /// The rate of a drain is half of what the other three are dialled: fifteen a second. What is seen of it here is as
    /// coarse as the machine is busy.
    fn paced(&self, ends: &[End]) -> Outcome {
        let times = || ends.iter().filter(|end| !end.busy).map(|end| end.at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return Ok(()) };
        let least = Duration::from_secs(1) * (ends.len() as u32).saturating_sub(10) / 30;
        ensure(last - first >= least, || format!("{} sessions ended within {:?}", ends.len(), last - first))
    }

    fn busy_among(&self, peers: &BTreeSet<String>) -> usize {
        let here = self.peers.each(|peer| peer.at).into_iter().zip(manners());
        here.filter(|(at, manner)| manner.busy && at.is_some_and(|at| peers.contains(&at.to_string())))
            .count()
    }

    /// Node c is killed while it serves: its peers find another, nobody else notices, and blocks go round.
    fn loses_a_node(&mut self) -> Outcome {
        self.peers.be_busy(true);
        self.block_goes_round()?;
        let (begin, at_c) = (Instant::now(), self.sessions_of("c")?);
        ensure(at_c.len() > usize::from(PEERS) / 10, || format!("only {} peers are at c", at_c.len()))?;
        let refused = self.peers.each(|peer| peer.refused.len());
        drop(self.nodes.remove("c"));
        wait_for("the sessions of a dead node end", SOON, || {
            Ok((self.ends_since(begin).len() >= at_c.len()).then_some(()))
        })?;
        self.peers.all_served("after c was killed", CROWDED)?;
        let again: usize =
            self.peers.each(|peer| peer.refused.len()).iter().sum::<usize>() - refused.iter().sum::<usize>();
        println!("          {} peers of c are served again, {again} attempts were refused", at_c.len());
        for end in self.ends_since(begin) {
            let told = (at_c.contains(&end.was.to_string()), end.code);
            ensure(told == (true, Some(GOING_AWAY)), || format!("{end:?}; at c and its code: {told:?}"))?;
        }
        await_state(&self.appliance, &["c"], "down")?;
        self.answered_since(begin)?;
        self.block_goes_round()
    }

    /// The application's node is killed: what was under way there is lost, later calls and its wallet find another.
    fn fails_over(&mut self) -> Outcome {
        await_state(&self.appliance, &["p"], "up")?;
        let killed = Instant::now();
        drop(self.nodes.remove("p"));
        let later =
            |caller: &Caller| caller.calls().iter().filter(|call| call.begin >= killed + FAILS_OVER).count();
        wait_for("the application goes on", SOON, || {
            Ok(self.callers.iter().all(|it| later(it) >= 30).then_some(()))
        })?;
        let failed = |caller: &Caller| -> Vec<Call> {
            caller.calls().into_iter().filter(|call| call.begin >= killed && call.answer.is_err()).collect()
        };
        let [kept, fresh] = &self.callers;
        println!(
            "          calls that failed: {} on one connection, {} on new ones",
            failed(kept).len(),
            failed(fresh).len()
        );
        self.answered_since(killed + FAILS_OVER)?;
        self.wallet.all_served("after p was killed", SOON)?;
        self.peers.all_served("at last", SOON)?;
        self.block_goes_round()
    }

    /// The machine of one of the last two is cut off. Nothing refuses there any more, and new calls find the other one.
    fn goes_silent(&mut self) -> Outcome {
        let cut = Instant::now();
        self.homes["a"].shell("ip link set eth0 down")?;
        let [_, fresh] = &self.callers;
        let calls = || fresh.calls().into_iter().filter(|call| call.begin >= cut).collect::<Vec<Call>>();
        wait_for("the application goes on", SOON, || Ok((calls().len() >= 20).then_some(())))?;
        let failed = calls().into_iter().find(|call| call.answer.is_err());
        ensure(failed.is_none(), || format!("a call of the application failed: {failed:?}"))
    }
}

/// Two hundred peers, full nodes and wallets, a few of a network each.
fn manners() -> Vec<Manner> {
    let peer = |number: u8| Manner {
        from: Ipv4Addr::new(198, 18, number / 8, 1 + number),
        kind: if number.is_multiple_of(2) { FULL_NODE } else { WALLET },
        busy: (number / 2).is_multiple_of(BUSY),
    };
    (0..PEERS).map(peer).collect()
}

/// The last height that a caller was told.
fn last(caller: &Caller) -> Option<u64> {
    caller.calls().into_iter().rev().find_map(|call| call.answer.ok())
}
