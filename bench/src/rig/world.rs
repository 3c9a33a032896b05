//! One contestant's world: four namespaces, their links, and the contestant running in the box.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hedgerow_tests::appliance::{Appliance, Scratch};
use hedgerow_tests::check::wait_for;
use hedgerow_tests::rig::Namespace;
use hedgerow_tests::{Context, Outcome};
use serde_json::Value;

use super::contestant::{self, CHIA, Contestant, Driver, Running, SERVICE};
use super::flood::Flood;
use super::frames::{Aim, Kind, SOURCES, frames};
use super::time::{self, BoxTime};
use super::{OUTSIDE, box_core};

/// Different frames in a flood.
const FRAMES: usize = 16_384;
/// The bridge's Ethernet address: what the box sees as its gateway.
const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The first of the client's addresses; fifty follow.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);

/// Worlds so far: devices of each have names of their own, so that their NAPI threads can be told apart.
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// How frames pass the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// As on a wire: none larger than the MTU. GRO is on, as it is on network cards.
    Frames,
    /// As between virtual machines of one host: the kernel's own settings for veth, super-frames of 64 KiB.
    Offloads,
}

/// A contestant with everything around it. Ends when dropped.
#[derive(Debug)]
pub struct World {
    /// Who is in the box.
    pub contestant: Contestant,
    /// Where floods come from; its bridge is the way to the box for everyone.
    pub attacker: Namespace,
    /// Where clients are.
    pub client: Namespace,
    /// The box.
    pub boxed: Namespace,
    /// Where the node is.
    pub node: Namespace,
    /// The attacker's end of the link to the box.
    pub outlet: String,
    /// The node's end of its link to the box.
    pub lan: String,
    /// The box's public device.
    pub public: String,
    /// What the box costs.
    pub time: BoxTime,
    /// Files.
    pub scratch: Scratch,
    running: Running,
    mac: [u8; 6],
    /// Frames of floods that were made already.
    made: RefCell<HashMap<Kind, Arc<Vec<Vec<u8>>>>>,
}

impl World {
    /// Builds a world and waits until the contestant answers.
    pub fn new(contestant: Contestant, link: Link) -> Outcome<Self> {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let [attacker, client, boxed, node] = ["attacker", "client", "box", "node"].map(Namespace::new);
        let (attacker, client, boxed, node) = (attacker?, client?, boxed?, node?);
        let name = |kind: &str| format!("{kind}{number}");
        let (public, private) = (name("pub"), name("prv"));
        let (outlet, lan) = (name("out"), name("lan"));
        let scratch = Scratch::new(&name("rig"))?;
        attacker.shell(&format!(
            "ip link add wan address {} type bridge && ip link set wan up",
            mac_text(GATEWAY)
        ))?;
        attacker.address("wan", &["10.1.0.2/16"])?;
        // Attackers that finish handshakes have any address they like.
        attacker.shell("ip route add local 10.128.0.0/9 dev lo && ip route add 10.2.0.0/24 via 10.1.0.1")?;
        join(&attacker, &client, &name("cli"), &name("wan"), link)?;
        let tap = contestant == Contestant::Hedgerow(Driver::Tap);
        let (kernel, running) = if tap {
            let running = contestant::start(contestant, &boxed, &scratch, &public, &private)?;
            for (device, namespace, name) in [(&public, &attacker, &outlet), (&private, &node, &lan)] {
                boxed.give(device, namespace)?;
                namespace.shell(&format!("ip link set {device} name {name} up"))?;
                time::steer(namespace, name, OUTSIDE)?;
            }
            (vec![], running)
        } else {
            let ends = [(&attacker, &outlet, &public), (&node, &lan, &private)];
            let kernel = wire(&boxed, ends, link)?;
            if contestant.on_kernel() {
                kernel_box(&boxed, &public, &private)?;
            }
            (kernel, contestant::start(contestant, &boxed, &scratch, &public, &private)?)
        };
        attacker.shell(&format!("ip link set {outlet} master wan"))?;
        neighbours(&client, &name("wan"), &node, &lan)?;
        tune(&client)?;
        tune(&node)?;
        count_answers(&attacker, &outlet)?;
        let interrupted = (link == Link::Offloads && !tap).then(box_core);
        let time = BoxTime::new(&boxed, kernel, interrupted)?;
        let mut world = World {
            contestant,
            attacker,
            client,
            boxed,
            node,
            outlet,
            lan,
            public,
            time,
            scratch,
            running,
            mac: [0; 6],
            made: RefCell::default(),
        };
        for namespace in [&world.client, &world.attacker] {
            namespace.await_neighbour(Ipv4Addr::new(10, 1, 0, 1).into())?;
        }
        world.node.await_neighbour(Ipv4Addr::new(10, 2, 0, 1).into())?;
        world.mac = world.learn_mac()?;
        world.await_listener()?;
        Ok(world)
    }

    /// Waits until a connection to the service is accepted.
    fn await_listener(&self) -> Outcome {
        if matches!(self.contestant, Contestant::Forward | Contestant::Masquerade) {
            return Ok(()); // nothing listens yet
        }
        let target = self.target().into();
        let attempt = || TcpStream::connect_timeout(&target, Duration::from_millis(500));
        let accepted = wait_for("a connection is accepted", Duration::from_secs(10), || {
            Ok(self.client.enter(|| Ok(attempt()))?.ok().map(drop))
        });
        accepted.map_err(|failure| {
            let log = std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default();
            format!("{failure}\n{log}")
        })
    }

    /// Where clients connect to.
    pub fn target(&self) -> SocketAddrV4 {
        match self.contestant {
            Contestant::SynProxy => SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 2), SERVICE),
            Contestant::Forward => SocketAddrV4::new(Ipv4Addr::new(10, 2, 0, 2), CHIA),
            Contestant::Chia | Contestant::Pairs(_) | Contestant::HaproxyTls => {
                SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), CHIA)
            }
            _ => SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), SERVICE),
        }
    }

    /// Starts a flood of one kind on the last link before the box.
    pub fn flood(&self, kind: Kind, per_second: u32) -> Outcome<Flood> {
        let aim = self.aim();
        let mut made = self.made.borrow_mut();
        let made = made.entry(kind).or_insert_with(|| Arc::new(frames(kind, aim, FRAMES)));
        Flood::start(&self.attacker, &self.outlet, made.clone(), per_second)
    }

    /// Starts a flood of frames made by hand.
    pub fn flood_of(&self, frames: Vec<Vec<u8>>, per_second: u32) -> Outcome<Flood> {
        Flood::start(&self.attacker, &self.outlet, Arc::new(frames), per_second)
    }

    /// Starts a flood of frames made by hand from the node to the box.
    pub fn outward(&self, frames: Vec<Vec<u8>>, per_second: u32) -> Outcome<Flood> {
        Flood::start(&self.node, &self.lan, Arc::new(frames), per_second)
    }

    /// The box's private Ethernet address, and the node's.
    pub fn inner_macs(&self) -> Outcome<([u8; 6], [u8; 6])> {
        let read = |command: &str, field: &str| {
            let list: Value =
                serde_json::from_str(&self.node.shell(command)?).context("reading an address")?;
            list[0][field].as_str().and_then(parse_mac).context(command)
        };
        let ours = read(&format!("ip -j link show {}", self.lan), "address")?;
        Ok((read(&format!("ip -j neigh show 10.2.0.1 dev {}", self.lan), "lladdr")?, ours))
    }

    /// Where frames made by hand go.
    pub fn aim(&self) -> Aim {
        let target = self.target();
        Aim { from: GATEWAY, to: self.mac, address: *target.ip(), port: target.port() }
    }

    /// SYN-ACKs to forged sources that came out of the box.
    pub fn answers(&self) -> Outcome<u64> {
        self.counted("answers")
    }

    /// Other packets to such addresses that came out of it.
    pub fn passed(&self) -> Outcome<u64> {
        self.counted("others")
    }

    fn counted(&self, counter: &str) -> Outcome<u64> {
        let text = self.attacker.shell(&format!("nft -j list counter netdev seen {counter}"))?;
        let list: Value = serde_json::from_str(&text).context("reading a counter")?;
        let counters =
            list["nftables"].as_array().and_then(|items| items.iter().find_map(|item| item.get("counter")));
        counters.and_then(|counter| counter["packets"].as_u64()).context("the counter of answers")
    }

    /// Frames that have arrived in the box through its public device.
    pub fn delivered(&self) -> Outcome<u64> {
        let (namespace, device, key) = match self.contestant {
            // The kernel's end sends what the TAP device brings in.
            Contestant::Hedgerow(Driver::Tap) => (&self.attacker, &self.outlet, "tx"),
            _ => (&self.boxed, &self.public, "rx"),
        };
        let text = namespace.shell(&format!("ip -j -s link show {device}"))?;
        let list: Value = serde_json::from_str(&text).context("reading a device's counters")?;
        list[0]["stats64"][key]["packets"].as_u64().context("frames of a device")
    }

    /// Hedgerow's status; nothing for others.
    pub fn status(&self) -> Outcome<Option<Value>> {
        match &self.running {
            Running::Appliance(appliance) => appliance.status().map(Some),
            _ => Ok(None),
        }
    }

    /// Hedgerow itself.
    pub fn appliance(&self) -> Outcome<&Appliance> {
        match &self.running {
            Running::Appliance(appliance) => Ok(appliance),
            _ => Err(format!("{} is no appliance", self.contestant.name())),
        }
    }

    /// Processor time of the box while `work` ran.
    pub fn cost<T>(&self, work: impl FnOnce() -> Outcome<T>) -> Outcome<(T, Duration)> {
        let before = self.time.read()?;
        let done = work()?;
        Ok((done, before.until(&self.time.read()?)))
    }

    /// The box's address, as its neighbour learned it.
    fn learn_mac(&self) -> Outcome<[u8; 6]> {
        wait_for("the box answers its gateway", Duration::from_secs(20), || {
            let text = self.attacker.shell("ip -j neigh show 10.1.0.1 dev wan")?;
            let list: Value = serde_json::from_str(&text).context("reading a neighbour")?;
            Ok(list[0]["lladdr"].as_str().and_then(parse_mac))
        })
    }
}

/// Where clients come from: each address in a /24 of its own, since nobody is to be held back by what Hedgerow answers one of
/// them at most.
pub fn sources() -> impl Iterator<Item = Ipv4Addr> {
    (1..=64).map(|network| Ipv4Addr::new(10, 1, network, 10))
}

/// Connects the client to the attacker's bridge.
fn join(attacker: &Namespace, client: &Namespace, near: &str, far: &str, link: Link) -> Outcome {
    attacker.veth(near, client, far)?;
    for (namespace, device) in [(attacker, near), (client, far)] {
        serve(namespace, device, OUTSIDE, link)?;
    }
    attacker.shell(&format!("ip link set {near} master wan"))?;
    let hosts = (10..60).map(|host| Ipv4Addr::new(10, 1, 0, host));
    let addresses: Vec<String> = hosts.chain(sources()).map(|address| format!("{address}/16")).collect();
    client.address(far, &addresses.iter().map(String::as_str).collect::<Vec<_>>())?;
    client.shell("ip route add default via 10.1.0.1 && ip route add 10.128.0.0/9 via 10.1.0.2").map(drop)
}

/// The box's links over veth: (namespace, its device, the box's). Says which threads of the kernel work for the box.
fn wire(boxed: &Namespace, ends: [(&Namespace, &String, &String); 2], link: Link) -> Outcome<Vec<PathBuf>> {
    let mut threads = vec![];
    for (namespace, far, near) in ends {
        namespace.veth(far, boxed, near)?;
        serve(namespace, far, OUTSIDE, link)?;
        threads.extend(serve(boxed, near, box_core(), link)?);
    }
    Ok(threads)
}

/// Has what arrives at a device handled on `core`; says by which thread of the kernel.
fn serve(namespace: &Namespace, device: &str, core: usize, link: Link) -> Outcome<Vec<PathBuf>> {
    match link {
        Link::Frames => time::thread_napi(namespace, device, core),
        Link::Offloads => time::steer(namespace, device, core).map(|()| vec![]),
    }
}

/// Addresses and settings of a box whose kernel answers.
fn kernel_box(boxed: &Namespace, public: &str, private: &str) -> Outcome {
    boxed.address(public, &["10.1.0.1/16"])?;
    boxed.address(private, &["10.2.0.1/24"])?;
    tune(boxed)?;
    boxed.shell(&format!(
        "ip route add default via 10.1.0.2
         ip neigh replace 10.1.0.2 lladdr {} nud permanent dev {public}
         sysctl -qw net.ipv4.tcp_syncookies=2 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{public}.rp_filter=0",
        mac_text(GATEWAY)
    ))
    .map(drop)
}

fn neighbours(client: &Namespace, wan: &str, node: &Namespace, lan: &str) -> Outcome {
    client.shell(&format!("ip link set {wan} up"))?;
    node.address(lan, &["10.2.0.2/24"])?;
    node.shell("ip route add default via 10.2.0.1").map(drop)
}

/// Room for many short connections: ports, backlogs, and few sockets that wait for the past.
fn tune(namespace: &Namespace) -> Outcome {
    namespace
        .shell(
            "sysctl -qw net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1 \
             net.ipv4.tcp_max_tw_buckets=8192 net.core.somaxconn=65535 net.ipv4.tcp_max_syn_backlog=65536",
        )
        .map(drop)
}

/// Counts SYN-ACKs to forged sources where they leave the box, and ends them there with all else that goes to such.
fn count_answers(attacker: &Namespace, outlet: &str) -> Outcome {
    attacker.nftables(&format!(
        "table netdev seen {{\n counter answers {{ }}\n counter others {{ }}\n\
         chain arriving {{ type filter hook ingress device {outlet} priority 0;\n\
         ip daddr {SOURCES} tcp flags & (syn | ack) == syn | ack counter name answers drop\n\
         ip daddr {SOURCES} counter name others drop\n }}\n }}"
    ))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.try_into().ok()
}
