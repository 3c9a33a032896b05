//! `proxy`: one machine in front of two nodes. Peers sync through it, and nothing else leads to a node: not by the
//! appliance's addresses, not around it, and not for the nodes themselves, who find their own public address by gossip.

use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::{
    BLOCKS, Example, NETWORK, PRIVATE, PUBLIC, RPC_PORT, SOON, Stage, at_once, await_state, front, host,
};
use crate::appliance::Appliance;
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::nodes::{Node, Peer, Wire, intrude};
use crate::rig::Namespace;
use crate::site::{CHIA_PORT, counted};

/// The nodes.
const A: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 11);
const B: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 12);
/// What marks frames that must not arrive.
const MARK: &str = "over-the-hedge";
/// TCP ports that programs of a node's machine listen at, and some that anybody tries.
const TRIED: [u16; 10] = [22, 80, 443, 8443, CHIA_PORT, 8445, 8447, 8449, RPC_PORT, 55_400];
/// How long a port may take to answer where one should, and where none should.
const PATIENCE: Duration = Duration::from_secs(20);
const BRIEFLY: Duration = Duration::from_secs(2);

/// Runs its cases.
pub fn run(report: &mut Report) {
    if !["serves", "walls", "loops"].iter().any(|case| report.wants(&format!("proxy-{case}"))) {
        return;
    }
    let mut scene = None;
    report.step("proxy-boots", || {
        scene = Some(Scene::new()?);
        Ok(())
    });
    let Some(mut scene) = scene else { return };
    report.case("proxy-serves", || scene.serves());
    report.case("proxy-walls", || scene.walls());
    report.case("proxy-loops", || scene.loops());
}

/// Everybody who takes part.
struct Scene {
    nodes: [Node; 2],
    appliance: Appliance,
    homes: [Namespace; 2],
    router: Namespace,
    stage: Stage,
    example: Example,
}

impl Scene {
    fn new() -> Outcome<Self> {
        let (example, stage) = (Example::open("proxy")?, Stage::new()?);
        let router = stage.router()?;
        let homes = [host(&stage.inside, "a", A)?, host(&stage.inside, "b", B)?];
        for home in &homes {
            home.shell("ip route add default via 10.0.1.254")?;
        }
        let appliance = example.appliance(&stage.boxed, "box", "hedgerow.toml")?;
        let nodes =
            at_once([&|| example.node(&homes[0], "a", A, &[]), &|| example.node(&homes[1], "b", B, &[])])?;
        await_state(&appliance, &["a", "b"], "up")?;
        Ok(Scene { nodes, appliance, homes, router, stage, example })
    }

    /// An empty node outside knows the public address only, and gets the chain.
    fn serves(&mut self) -> Outcome {
        let mut outer = self.example.outer(&self.stage.world, "outer", &[])?;
        outer.connect(&PUBLIC.to_string(), CHIA_PORT)?;
        outer.reach(BLOCKS - 1, SOON * 2, || Ok(())).map(drop)
    }

    /// Whatever comes from outside, but a session of a peer, arrives at no node.
    fn walls(&mut self) -> Outcome {
        let world = &self.stage.world;
        self.only_one_port_answers()?;
        let wires =
            [Wire::listen(&self.homes[0], "eth0", &[MARK])?, Wire::listen(&self.homes[1], "eth0", &[MARK])?];
        // As a router it would be the way; as a host of the outer network a node would answer there.
        for way in [format!("via {PUBLIC}"), "dev eth0".into()] {
            world.shell(&format!("ip route replace 10.0.1.0/24 {way}"))?;
            for (to, sibling) in [(A, B), (B, A)] {
                let detour = (PUBLIC.to_string(), sibling.to_string());
                let sent = intrude(world, &to.to_string(), Some((&detour.0, &detour.1)), MARK)?;
                ensure(sent > 50, || format!("only {sent} frames were sent"))?;
                let open = open_ports(world, to)?;
                ensure(open.is_empty(), || format!("{to} answers at {open:?}, {way}"))?;
            }
        }
        world.shell("ip route del 10.0.1.0/24")?;
        // A peer whose source is a node's may be served, but nothing of it goes inward.
        world.shell(&format!("ip address add {B}/32 dev lo"))?;
        let forged = ["chia", "--from", &B.to_string(), "--to", &front().to_string(), "--network", NETWORK];
        let _ = Peer::start(world, &forged)?.answer(SOON)?;
        world.shell(&format!("ip address del {B}/32 dev lo"))?;
        for (wire, name) in wires.into_iter().zip(["a", "b"]) {
            let heard = wire.end()?;
            let outer: Vec<&String> = heard
                .addresses
                .iter()
                .filter(|it| ["203.", "198.", "2001:"].iter().any(|net| it.starts_with(net)))
                .collect();
            ensure(heard.frames > 0 && heard.texts.is_empty() && outer.is_empty(), || {
                format!("{name} got {} frames, of {outer:?}, with {:?}", heard.frames, heard.texts)
            })?;
        }
        self.listener_would_hear()
    }

    /// Of the ports of the public address one accepts, and no plain HTTP there.
    fn only_one_port_answers(&self) -> Outcome {
        let open = open_ports_within(&self.stage.world, PUBLIC, PATIENCE)?;
        ensure(open == [CHIA_PORT], || format!("{PUBLIC} answers at {open:?}"))?;
        let http = Peer::start(&self.stage.world, &["http", "--to", &front().to_string()])?.answer(SOON)?;
        ensure(http.outcome == "refused", || format!("plain HTTP: {} {}", http.outcome, http.detail))
    }

    /// The same frames, sent by somebody who can reach the node, are heard: silence meant something.
    fn listener_would_hear(&self) -> Outcome {
        let wire = Wire::listen(&self.homes[0], "eth0", &[MARK])?;
        intrude(&self.router, &A.to_string(), None, MARK)?;
        let heard = wire.end()?;
        ensure(heard.texts == [MARK], || format!("{} frames, and none of ours among them", heard.frames))
    }

    /// Each node dials the public address, by the router beside: it gets a session neither to itself nor to its sibling.
    fn loops(&mut self) -> Outcome {
        let refused = |appliance: &Appliance| Ok::<_, String>(counted(&appliance.status()?, "own_node"));
        for index in 0..2 {
            let before = refused(&self.appliance)?;
            let public = PUBLIC.to_string();
            let dialled = self.nodes[index].connect(&public, CHIA_PORT);
            ensure(dialled.is_err(), || "a node has a session by its own public address".into())?;
            wait_for("own_node", SOON, || Ok((refused(&self.appliance)? > before).then_some(())))?;
            for node in &mut self.nodes {
                let state = node.state()?;
                let peers = state["connections"].as_array().context("connections")?;
                let ours = |host: &str| host == public || host == PRIVATE.to_string();
                let led = peers
                    .iter()
                    .find(|peer| peer["type"] == "full_node" && peer["host"].as_str().is_some_and(ours));
                ensure(led.is_none(), || format!("a session leads back: {led:?}"))?;
            }
        }
        Ok(())
    }
}

/// Which of the ports that are tried accept a connection, where none should.
pub(super) fn open_ports(from: &Namespace, host: Ipv4Addr) -> Outcome<Vec<u16>> {
    open_ports_within(from, host, BRIEFLY)
}

fn open_ports_within(from: &Namespace, host: Ipv4Addr, patience: Duration) -> Outcome<Vec<u16>> {
    let tries = |port: u16| {
        std::thread::spawn(move || TcpStream::connect_timeout(&(host, port).into(), patience).is_ok())
    };
    from.enter(|| {
        let threads: Vec<_> = TRIED.into_iter().map(|port| (port, tries(port))).collect();
        Ok(threads.into_iter().filter_map(|(port, thread)| thread.join().ok()?.then_some(port)).collect())
    })
}
