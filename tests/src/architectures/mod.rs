//! The examples of `appliance/examples`, each started as it is written, in front of real nodes that are configured as it
//! says, and put to the test of its promise.
//!
//! Nothing of a configuration is changed for it: namespaces have the devices and addresses that it names, the appliance has
//! an /etc/hedgerow, a /run and a /var of its own. What a node's `config.yaml` gets is the example's `node.yaml`. Nodes take
//! the test chain for that of the network that the example names.

pub mod hidden_nodes;
pub mod home_node;
pub mod load_balanced;
pub mod proxy;
pub mod two_nodes;

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::appliance::{Appliance, Scratch};
use crate::check::{Context, Outcome, Report, wait_for};
use crate::nodes::Node;
use crate::rig::Namespace;
use crate::site::CHIA_PORT;

/// Blocks of the test chain that all nodes begin with: enough to be a chain, few enough to be there soon.
const BLOCKS: u64 = 40;
/// What the examples call their network.
const NETWORK: &str = "mainnet";
/// The TCP port of nodes' RPC.
const RPC_PORT: u16 = 8555;
/// How long a node may take to be seen as it is, or a block to go round: machines are busy.
const SOON: Duration = Duration::from_secs(60);

/// The outer side of most examples: the appliance, its gateway, and whole networks of peers behind that.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const GATEWAY: [&str; 2] = ["203.0.113.1/24", "2001:db8:7::1/64"];
const PEERS: &str = "198.18.0.0/15";
/// The appliance on the inner side.
const PRIVATE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);

/// Runs the suite.
pub fn run(report: &mut Report) {
    proxy::run(report);
    home_node::run(report);
    two_nodes::run(report);
    hidden_nodes::run(report);
    load_balanced::run(report);
}

/// A network: a bridge in a namespace of its own.
#[derive(Debug)]
struct Segment {
    switch: Namespace,
    plugs: Cell<usize>,
}

impl Segment {
    fn new(name: &str) -> Outcome<Self> {
        let switch = Namespace::new(name)?;
        switch.shell("ip link add name bridge type bridge && ip link set bridge up")?;
        Ok(Segment { switch, plugs: Cell::new(0) })
    }

    /// Gives a namespace a device on this network, with addresses.
    fn plug(&self, host: &Namespace, device: &str, addresses: &[&str]) -> Outcome {
        let port = format!("plug{}", self.plugs.replace(self.plugs.get() + 1));
        self.switch.veth(&port, host, device)?;
        self.switch.shell(&format!("ip link set {port} master bridge"))?;
        host.address(device, addresses)
    }
}

/// A host with one device.
fn host(segment: &Segment, name: &str, address: Ipv4Addr) -> Outcome<Namespace> {
    let host = Namespace::new(name)?;
    segment.plug(&host, "eth0", &[&format!("{address}/24")])?;
    Ok(host)
}

/// The world outside: the gateway, who has all peers' addresses.
fn world(outside: &Segment) -> Outcome<Namespace> {
    let world = Namespace::new("world")?;
    outside.plug(&world, "eth0", &GATEWAY)?;
    world.shell(&format!("ip route add local {PEERS} dev lo"))?;
    Ok(world)
}

/// The usual stage: the Internet, the appliance's machine with two devices, and the network of the nodes.
#[derive(Debug)]
struct Stage {
    /// The gateway, who has all peers' addresses.
    world: Namespace,
    boxed: Namespace,
    outside: Segment,
    inside: Segment,
}

impl Stage {
    fn new() -> Outcome<Self> {
        let (outside, inside) = (Segment::new("outside")?, Segment::new("inside")?);
        let (world, boxed) = (world(&outside)?, Namespace::new("box")?);
        outside.plug(&boxed, "ens5", &[])?;
        inside.plug(&boxed, "ens6", &[])?;
        Ok(Stage { world, boxed, outside, inside })
    }

    /// A router beside the appliance: the nodes' way out, at 10.0.1.254.
    fn router(&self) -> Outcome<Namespace> {
        let router = host(&self.inside, "router", Ipv4Addr::new(10, 0, 1, 254))?;
        self.outside.plug(&router, "wan", &["203.0.113.9/24"])?;
        router.shell("ip route add default via 203.0.113.1 && sysctl -qw net.ipv4.ip_forward=1")?;
        router.nftables(
            "table ip exit {\n chain out { type nat hook postrouting priority srcnat; oifname wan masquerade\n }\n\
             chain through { type filter hook forward priority filter; policy drop;\n\
             iifname eth0 accept\n ct state established,related accept\n }\n }",
        )?;
        Ok(router)
    }
}

/// An example, and room for the files of its test.
#[derive(Debug)]
struct Example {
    folder: PathBuf,
    scratch: Scratch,
}

impl Example {
    fn open(name: &str) -> Outcome<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../appliance/examples").join(name);
        let folder = folder.canonicalize().context(folder.display())?;
        Ok(Example { folder, scratch: Scratch::new(name)? })
    }

    /// Where the files of an appliance lie.
    fn place(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Starts an appliance with one of the example's configurations.
    fn appliance(&self, boxed: &Namespace, place: &str, config: &str) -> Outcome<Appliance> {
        Appliance::install(boxed, &self.place(place), &self.folder, config)
    }

    /// Starts a node that is configured as the example says, with more arguments of `node.py`.
    fn node(&self, home: &Namespace, name: &str, address: Ipv4Addr, more: &[&str]) -> Outcome<Node> {
        self.node_with(home, name, "node.yaml", address, more)
    }

    /// As [`Example::node`], with another file of the example for its configuration.
    fn node_with(
        &self,
        home: &Namespace,
        name: &str,
        settings: &str,
        address: Ipv4Addr,
        more: &[&str],
    ) -> Outcome<Node> {
        let mut arguments = vec![
            format!("--rpc-port={RPC_PORT}"),
            format!("--network={NETWORK}"),
            format!("--preload={BLOCKS}"),
            format!("--private-ca={}", self.place("private-ca").display()),
            format!("--merge={}", self.folder.join(settings).display()),
            format!("--address={address}"),
        ];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Node::start_with(home, self.scratch.path(), name, &arguments)
    }

    /// Starts a node of the world, that has its peers from nowhere but the arguments.
    fn outer(&self, home: &Namespace, name: &str, more: &[&str]) -> Outcome<Node> {
        let mut arguments = vec![format!("--network={NETWORK}")];
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Node::start_with(home, self.scratch.path(), name, &arguments)
    }
}

/// Starts nodes all at the same time: one takes ten seconds.
fn at_once<const N: usize>(start: [&(dyn Fn() -> Outcome<Node> + Sync); N]) -> Outcome<[Node; N]> {
    let started = thread::scope(|scope| {
        let threads = start.map(|start| scope.spawn(start));
        threads.map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
    });
    let nodes: Vec<Node> = started.into_iter().collect::<Outcome<_>>()?;
    nodes.try_into().map_err(|_| "a node is missing".to_owned())
}

/// Where the public side of an example is.
fn front() -> SocketAddrV4 {
    SocketAddrV4::new(PUBLIC, CHIA_PORT)
}

/// A node in the status of the first pool.
fn node_status(status: &Value, name: &str) -> Option<Value> {
    let nodes = status["pools"][0]["nodes"].as_array()?;
    nodes.iter().find(|node| node["name"] == name).cloned()
}

/// Waits until the appliance says that these nodes are as wanted.
fn await_state(appliance: &Appliance, names: &[&str], state: &str) -> Outcome {
    let mut last = Value::Null;
    wait_for(format_args!("{} {state}", names.join(", ")), SOON, || {
        last = appliance.status()?;
        let all =
            names.iter().all(|name| node_status(&last, name).is_some_and(|node| node["state"] == state));
        Ok(all.then_some(()))
    })
    .map_err(|failure| format!("{failure}; pools: {}", last["pools"]))
}
