//! `two-nodes`: the public node is killed under a flood. The application on the protected one goes on, the emergency opens its
//! way out, it syncs from elsewhere, and the way out closes when the public node is back.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Instant;

use serde_json::Value;

use super::{Example, PRIVATE, PUBLIC, RPC_PORT, SOON, Stage, at_once, await_state, front, host};
use crate::appliance::Appliance;
use crate::application::{Caller, rpc_identity};
use crate::check::{Outcome, Report, ensure, wait_for};
use crate::flood::{Flood, Kind};
use crate::nodes::Node;
use crate::rig::Namespace;
use crate::site::CHIA_PORT;

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 11);
const P: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 12);
/// The application's host.
const APPLICATION: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 100);
/// The friend's node.
const ELSEWHERE: &str = "198.51.100.20";
/// Packets a second of each flood.
const PACKETS: u32 = 2_000;

/// Runs its cases.
pub fn run(report: &mut Report) {
    const CASES: [&str; 3] = ["calm", "emergency", "recovery"];
    if !CASES.iter().any(|case| report.wants(&format!("two-nodes-{case}"))) {
        return;
    }
    let mut scene = None;
    report.step("two-nodes-boots", || {
        scene = Some(Scene::new()?);
        Ok(())
    });
    let Some(mut scene) = scene else { return };
    // Each begins where the one before ended.
    let steps: [fn(&mut Scene) -> Outcome; 3] = [Scene::calm, Scene::emergency, Scene::recovery];
    for (case, step) in CASES.iter().zip(steps) {
        let told = report.step(&format!("two-nodes-{case}"), || {
            step(&mut scene).map_err(|failure| format!("{failure}\n{}", scene.appliance.log()))
        });
        if !told {
            return;
        }
    }
}

/// Everybody who takes part.
struct Scene {
    begin: Instant,
    caller: Caller,
    public: Option<Node>,
    protected: Node,
    outer: Node,
    appliance: Appliance,
    homes: [Namespace; 2],
    _office: Namespace,
    stage: Stage,
    example: Example,
}

impl Scene {
    fn new() -> Outcome<Self> {
        let (example, stage) = (Example::open("two-nodes")?, Stage::new()?);
        stage.world.shell(&format!("ip address add {ELSEWHERE}/32 dev lo"))?;
        let homes = [host(&stage.inside, "a", A)?, host(&stage.inside, "p", P)?];
        for home in &homes {
            home.shell(&format!("ip route add default via {PRIVATE}"))?;
        }
        let office = host(&stage.inside, "application", APPLICATION)?;
        let [public, protected, outer] = at_once([
            &|| example.node(&homes[0], "a", A, &[]),
            &|| example.node_with(&homes[1], "p", "protected.yaml", P, &[]),
            &|| example.outer(&stage.world, "outer", &["--farms", "--preload=40"]),
        ])?;
        // Last of all: nodes that are long in coming would be an emergency.
        let appliance = example.appliance(&stage.boxed, "box", "hedgerow.toml")?;
        await_state(&appliance, &["a", "p"], "up")?;
        let identity = rpc_identity(protected.root())?;
        let caller =
            Caller::start(&office, &identity, APPLICATION, SocketAddrV4::new(PRIVATE, RPC_PORT), true)?;
        let begin = Instant::now();
        let public = Some(public);
        Ok(Scene {
            begin,
            caller,
            public,
            protected,
            outer,
            appliance,
            homes,
            _office: office,
            stage,
            example,
        })
    }

    /// A block comes by the public node; the protected one has no way out, though it tries all the time.
    fn calm(&mut self) -> Outcome {
        self.block_arrives()?;
        let refused = || Ok::<_, String>(self.exit("p")?["refused"].as_u64());
        wait_for("the protected node is refused", SOON, || Ok((refused()? > Some(0)).then_some(())))?;
        ensure(!self.is_elsewhere()?, || "the protected node got out".into())?;
        // Nor does the public one dial itself, though its way out is open.
        let Some(public) = &mut self.public else { return Err("no public node".into()) };
        let itself = public.connect(&PUBLIC.to_string(), CHIA_PORT);
        ensure(itself.is_err(), || "the public node has a session by its own public address".into())
    }

    /// The public node is killed under a flood.
    fn emergency(&mut self) -> Outcome {
        let target = SocketAddr::from(front());
        let flood = |kind| Flood::start(&self.stage.world, kind, "198.18.9.9", target, PACKETS);
        let floods = [flood(Kind::Syn)?, flood(Kind::BadCookie)?];
        wait_for("the flood", SOON, || Ok(floods.iter().all(|flood| flood.sent() > 1_000).then_some(())))?;
        drop(self.public.take());
        let height = self.outer.farm(2)?;
        self.await_exit("p", true)?;
        self.protected.reach(height, SOON, || Ok(()))?;
        ensure(self.is_elsewhere()?, || "the protected node has its blocks from nowhere".into())?;
        for flood in floods {
            flood.end()?;
        }
        self.application_knows(height)
    }

    /// The public node comes back: the way out closes, and blocks come by the public node again.
    fn recovery(&mut self) -> Outcome {
        self.public = Some(self.example.node(&self.homes[0], "a", A, &["--preload=0"])?);
        self.await_exit("p", false)?;
        let passed = |exit: Value| [exit["sessions"].clone(), exit["packets_in"].clone()];
        let [sessions, before] = passed(self.exit("p")?);
        ensure(sessions == 0, || format!("{sessions} conversations go on"))?;
        self.block_arrives()?;
        let [_, after] = passed(self.exit("p")?);
        ensure(before == after, || format!("{before} packets had come in, now {after}"))
    }

    /// A block that is farmed outside comes by the public node.
    fn block_arrives(&mut self) -> Outcome {
        self.outer.stay_connected(PUBLIC, CHIA_PORT)?;
        let height = self.outer.farm(1)?;
        self.protected.reach(height, SOON, || Ok(()))?;
        self.application_knows(height)
    }

    /// It does, and no call of it has ever failed.
    fn application_knows(&self, height: u64) -> Outcome {
        wait_for("the application knows the block", SOON, || {
            let calls = self.caller.calls();
            let failed = calls.iter().find(|call| call.begin >= self.begin && call.answer.is_err());
            ensure(failed.is_none(), || format!("a call of the application failed: {failed:?}"))?;
            Ok(calls
                .last()
                .is_some_and(|call| call.answer.as_ref().is_ok_and(|it| *it >= height))
                .then_some(()))
        })
    }

    /// Whether the protected node is connected to the friend's.
    fn is_elsewhere(&mut self) -> Outcome<bool> {
        let state = self.protected.state()?;
        let all = state["connections"].as_array();
        Ok(all.is_some_and(|all| all.iter().any(|peer| peer["host"] == ELSEWHERE)))
    }

    fn exit(&self, name: &str) -> Outcome<Value> {
        let status = self.appliance.status()?;
        let nodes = status["egress"]["nodes"].as_array().cloned().unwrap_or_default();
        nodes
            .into_iter()
            .find(|node| node["node"] == name)
            .ok_or_else(|| format!("no way out of {name} in {status}"))
    }

    fn await_exit(&self, name: &str, open: bool) -> Outcome {
        wait_for(format_args!("the way out of {name}: open is {open}"), SOON, || {
            Ok((self.exit(name)?["open"] == open).then_some(()))
        })
    }
}
