//! `hidden-nodes`: two zones with a public and a hidden node each. Hidden nodes sync by sessions of their own making, as
//! friends however full the other zone is; nothing gets in; a zone is lost, and the other goes on.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::proxy::open_ports;
use super::{BLOCKS, Example, NETWORK, SOON, Segment, at_once, await_state, host, world};
use crate::appliance::Appliance;
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::crowd::{Crowd, Manner};
use crate::nodes::{Node, Peer, Wire, intrude};
use crate::peers::FULL_NODE;
use crate::rig::Namespace;
use crate::site::CHIA_PORT;

/// Slots of each zone for strangers; one is the outer node's.
const SLOTS: u8 = 32;
/// What marks frames that must not arrive.
const MARK: &str = "found-you";

/// What is particular to a zone.
#[derive(Clone, Copy)]
struct Plan {
    name: &'static str,
    /// The service, and what the way out shows.
    service: Ipv4Addr,
    exit: Ipv4Addr,
    /// The third number of the inner addresses.
    number: u8,
    public: &'static str,
    hidden: &'static str,
}

const EAST: Plan = Plan {
    name: "east",
    service: Ipv4Addr::new(203, 0, 113, 7),
    exit: Ipv4Addr::new(203, 0, 113, 8),
    number: 1,
    public: "a",
    hidden: "h",
};
const WEST: Plan = Plan {
    name: "west",
    service: Ipv4Addr::new(198, 51, 100, 7),
    exit: Ipv4Addr::new(198, 51, 100, 8),
    number: 2,
    public: "b",
    hidden: "k",
};

/// Runs its cases.
pub fn run(report: &mut Report) {
    const CASES: [&str; 3] = ["friends", "nothing-gets-in", "zone-lost"];
    if !CASES.iter().any(|case| report.wants(&format!("hidden-nodes-{case}"))) {
        return;
    }
    let mut scene = None;
    report.step("hidden-nodes-boots", || {
        scene = Some(Scene::new()?);
        Ok(())
    });
    let Some(mut scene) = scene else { return };
    // Each begins where the one before ended.
    let steps: [fn(&mut Scene) -> Outcome; 3] = [Scene::friends, Scene::nothing_gets_in, Scene::zone_lost];
    for (case, step) in CASES.iter().zip(steps) {
        if !report.step(&format!("hidden-nodes-{case}"), || step(&mut scene)) {
            return;
        }
    }
}

/// A zone: networks, and what is there of the rest.
struct Zone {
    plan: Plan,
    nodes: Vec<Node>,
    appliance: Option<Appliance>,
    homes: [Namespace; 2],
    _boxed: Namespace,
    _inside: Segment,
}

impl Zone {
    fn new(plan: Plan, example: &Example, outside: &Segment) -> Outcome<Self> {
        let inside = Segment::new(plan.name)?;
        let boxed = Namespace::new("box")?;
        outside.plug(&boxed, "ens5", &[])?;
        inside.plug(&boxed, "ens6", &[])?;
        let home = |name, host_number| host(&inside, name, plan.inner(host_number));
        let homes = [home(plan.public, 11)?, home(plan.hidden, 12)?];
        for home in &homes {
            home.shell(&format!("ip route add default via {}", plan.inner(1)))?;
        }
        let appliance = example.appliance(&boxed, plan.name, &format!("{}.toml", plan.name))?;
        Ok(Zone { plan, nodes: vec![], appliance: Some(appliance), homes, _boxed: boxed, _inside: inside })
    }

    fn await_up(&self, name: &str) -> Outcome {
        await_state(self.appliance.as_ref().context("an appliance")?, &[name], "up")
    }
}

impl Plan {
    fn inner(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, self.number, host)
    }

    fn start_public(&self, example: &Example, home: &Namespace) -> Outcome<Node> {
        example.node(home, self.public, self.inner(11), &[])
    }

    /// It begins with nothing.
    fn start_hidden(&self, example: &Example, home: &Namespace) -> Outcome<Node> {
        let settings = format!("hidden-{}.yaml", self.name);
        example.node_with(home, self.hidden, &settings, self.inner(12), &["--preload=0"])
    }
}

/// Everybody who takes part.
struct Scene {
    strangers: Option<Crowd>,
    outer: Node,
    east: Zone,
    west: Zone,
    world: Namespace,
    example: Example,
    _outside: [Segment; 2],
}

impl Scene {
    fn new() -> Outcome<Self> {
        let example = Example::open("hidden-nodes")?;
        let outside = [Segment::new("outside-east")?, Segment::new("outside-west")?];
        let world = world(&outside[0])?;
        outside[1].plug(&world, "eth1", &["198.51.100.1/24"])?;
        // The zones reach each other through it.
        world.shell("sysctl -qw net.ipv4.ip_forward=1")?;
        let (mut east, mut west) =
            (Zone::new(EAST, &example, &outside[0])?, Zone::new(WEST, &example, &outside[1])?);
        let ([east_home, _], [west_home, _]) = (&east.homes, &west.homes);
        let [a, b, outer] = at_once([
            &|| EAST.start_public(&example, east_home),
            &|| WEST.start_public(&example, west_home),
            &|| example.outer(&world, "outer", &["--farms", "--preload=40"]),
        ])?;
        east.nodes.push(a);
        west.nodes.push(b);
        east.await_up(EAST.public)?;
        west.await_up(WEST.public)?;
        Ok(Scene { strangers: None, outer, east, west, world, example, _outside: outside })
    }

    /// Strangers take all slots of the zone west. Both hidden nodes get the chain, and the one of the zone east has its
    /// session there.
    fn friends(&mut self) -> Outcome {
        self.outer.stay_connected(WEST.service, CHIA_PORT)?;
        let stranger =
            |number| Manner { from: Ipv4Addr::new(198, 18, number, 1), kind: FULL_NODE, busy: false };
        let strangers: Vec<Manner> = (1..SLOTS).map(stranger).collect();
        let service = SocketAddrV4::new(WEST.service, CHIA_PORT);
        let strangers = Crowd::start(&self.world, service, NETWORK, 1, &strangers)?;
        strangers.all_served("in the zone west", SOON)?;
        let to = service.to_string();
        let late = ["chia", "--to", &to, "--from", "198.18.99.1", "--network", NETWORK];
        let late = Peer::start(&self.world, &late)?.answer(SOON)?;
        ensure(late.outcome == "refused", || {
            format!("a stranger more is {} ({})", late.outcome, late.detail)
        })?;
        self.strangers = Some(strangers);

        let (example, [_, east_home], [_, west_home]) = (&self.example, &self.east.homes, &self.west.homes);
        let [h, k] =
            at_once([&|| EAST.start_hidden(example, east_home), &|| WEST.start_hidden(example, west_home)])?;
        self.east.nodes.push(h);
        self.west.nodes.push(k);
        for (zone, other) in [(&mut self.east, WEST), (&mut self.west, EAST)] {
            let hidden = &mut zone.nodes[1];
            hidden.reach(BLOCKS - 1, SOON, || Ok(()))?;
            await_dialled(hidden, &[&zone.plan.inner(11).to_string(), &other.service.to_string()])?;
            zone.await_up(zone.plan.hidden)?;
        }
        // A block that the zone west hears of is known in both, public and hidden.
        self.block_reaches(true)
    }

    fn block_reaches(&mut self, east: bool) -> Outcome {
        let height = self.outer.farm(1)?;
        let zones = [Some(&mut self.west), Some(&mut self.east).filter(|_| east)];
        for node in zones.into_iter().flatten().flat_map(|zone| &mut zone.nodes) {
            node.reach(height, SOON, || Ok(()))?;
        }
        Ok(())
    }

    /// Whoever knows a hidden node's address, and that of its way out, gets nothing there; and its way out leads to no
    /// service of its own zone.
    fn nothing_gets_in(&mut self) -> Outcome {
        let hidden = EAST.inner(12).to_string();
        let wire = Wire::listen(&self.east.homes[1], "eth0", &[MARK])?;
        for via in [EAST.service, EAST.exit] {
            let via = via.to_string();
            self.world.shell(&format!("ip route replace 10.0.1.0/24 via {via}"))?;
            intrude(&self.world, &hidden, Some((&via, &WEST.service.to_string())), MARK)?;
            intrude(&self.world, &via, None, MARK)?;
            let open = open_ports(&self.world, EAST.inner(12))?;
            ensure(open.is_empty(), || format!("the hidden node answers at {open:?}"))?;
        }
        self.world.shell("ip route del 10.0.1.0/24")?;
        let open = open_ports(&self.world, EAST.exit)?;
        ensure(open.is_empty(), || format!("the way out lets in at {open:?}"))?;
        let heard = wire.end()?;
        ensure(heard.frames > 0 && heard.texts.is_empty(), || format!("{heard:?} arrived"))?;

        let itself = self.east.nodes[1].connect(&EAST.service.to_string(), CHIA_PORT);
        ensure(itself.is_err(), || "the hidden node has a session by its own zone's service".into())?;
        for zone in [&mut self.east, &mut self.west] {
            let state = zone.nodes[1].state()?;
            let all = state["connections"].as_array().context("connections")?;
            let inward = all.iter().find(|peer| peer["type"] == "full_node" && peer["outbound"] != true);
            ensure(inward.is_none(), || format!("{inward:?} dialled a hidden node"))?;
        }
        Ok(())
    }

    /// The zone east is gone, appliance and nodes; the other one's hidden node hears of blocks as before.
    fn zone_lost(&mut self) -> Outcome {
        self.east.appliance = None;
        self.east.nodes.clear();
        self.block_reaches(false)?;
        let strangers = self.strangers.as_ref().context("strangers")?;
        let moved = strangers.count(|peer| peer.joined != 1 || peer.at.is_none());
        ensure(moved == 0, || format!("{moved} strangers of the zone west lost their session"))
    }
}

/// Waits until a node is connected to each of `hosts` by dialling.
fn await_dialled(node: &mut Node, hosts: &[&str]) -> Outcome {
    wait_for(format_args!("a session with each of {hosts:?}"), SOON, || {
        let state = node.state()?;
        let all = state["connections"].as_array().context("connections")?;
        let dialled = |host: &&str| all.iter().any(|peer| peer["host"] == **host && peer["outbound"] == true);
        Ok(hosts.iter().all(dialled).then_some(()))
    })
}
