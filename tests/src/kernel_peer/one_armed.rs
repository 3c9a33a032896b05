//! One-armed set-ups: peers and nodes come by the same device, on one link or on two VLANs of it, and so do the gateways that
//! clouds hand out: outside the prefix of a host address, and link-local.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hedgerow_dataplane::frame::{BATCH, Batch, Lane, Meta, Pool, Port};
use hedgerow_port::{AfPacket, AfPacketConfig};

use super::wires::{exchange, xdp_is_possible};
use crate::appliance::{Appliance, Scratch};
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::rig::Namespace;

/// How long any step may take; the addresses are probed first.
const SOON: Duration = Duration::from_secs(30);
const BULK: u64 = 8 << 20;
const LISTENER: u16 = 5_000;
const SERVER: u16 = 5_001;

/// A peer on the link itself.
const NEAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2))];
/// A peer behind the link's gateway.
const FAR: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2))];

/// How the one device is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arm {
    /// Peers, their gateway and the node on one link; one port.
    Flat,
    /// Peers and node on a VLAN each, with tags that the ports handle; two ports of one device.
    Tagged,
    /// The same with VLAN devices of the kernel.
    SubDevices,
    /// A host address, and gateways outside it: everything goes by a router, which knows us at one link-local address.
    HostRoute,
}

struct Round {
    name: &'static str,
    driver: &'static str,
    arm: Arm,
    source: &'static str,
}

const ROUNDS: [Round; 10] = [
    Round { name: "snat", driver: "af-packet", arm: Arm::Flat, source: "snat" },
    Round { name: "transparent", driver: "af-packet", arm: Arm::Flat, source: "transparent" },
    Round { name: "xdp-snat", driver: "af-xdp", arm: Arm::Flat, source: "snat" },
    Round { name: "xdp-transparent", driver: "af-xdp", arm: Arm::Flat, source: "transparent" },
    Round { name: "vlans-snat", driver: "auto", arm: Arm::Tagged, source: "snat" },
    Round { name: "vlans-transparent", driver: "af-packet", arm: Arm::Tagged, source: "transparent" },
    Round { name: "vlan-devices", driver: "af-packet", arm: Arm::SubDevices, source: "transparent" },
    Round { name: "vlan-devices-auto", driver: "auto", arm: Arm::SubDevices, source: "snat" },
    Round { name: "host-route", driver: "af-packet", arm: Arm::HostRoute, source: "snat" },
    Round { name: "xdp-host-route", driver: "af-xdp", arm: Arm::HostRoute, source: "snat" },
];

/// Runs the cases: one for each round, which brings peers from near and far, of both families.
pub(super) fn run(report: &mut Report) {
    for round in ROUNDS {
        let name = format!("one-armed/{}", round.name);
        if !report.wants(&name) {
            continue;
        }
        if round.arm == Arm::SubDevices && !vlan_devices_are_possible() {
            report.skip(&name, "this kernel has no VLAN devices");
            continue;
        }
        if round.driver == "af-xdp" && !xdp_is_possible() {
            report.skip(&name, "this user may load no XDP program");
            continue;
        }
        report.case(&name, || {
            let rig = Rig::new(&round)?;
            rig.serve(&round).map_err(|failure| {
                let status = rig.appliance.ask(&["status"]).unwrap_or_else(|error| error);
                format!("{failure}\nstatus: {status}\nlog: {}", rig.appliance.log())
            })
        });
    }
}

/// Peers and their router, the appliance, and a node, at a switch.
struct Rig {
    outer: Namespace,
    inner: Namespace,
    appliance: Appliance,
    _kept: (Namespace, Namespace, Scratch),
    _trunk: Option<Trunk>,
}

impl Rig {
    fn new(round: &Round) -> Outcome<Rig> {
        let [outer, boxed, inner, switch] = ["outer", "box", "inner", "switch"].map(Namespace::new);
        let (outer, boxed, inner, switch) = (outer?, boxed?, inner?, switch?);
        let tagged = matches!(round.arm, Arm::Tagged | Arm::SubDevices);
        for (namespace, device) in [(&outer, "wan"), (&boxed, "arm"), (&inner, "lan")] {
            namespace.veth(device, &switch, device)?;
        }
        let mut trunk = None;
        if tagged {
            trunk = Some(Trunk::start(&switch)?);
        } else {
            switch.shell("ip link add bridge type bridge && ip link set bridge up")?;
            switch.shell("for device in wan arm lan; do ip link set $device master bridge; done")?;
        }
        // The peers' machine is the router of those that are farther away.
        outer.address("wan", &["10.1.0.2/24", "10.1.0.254/24", "fd01::2/64", "fd01::fe/64", "fe80::1/64"])?;
        outer.address("lo", &["10.9.0.2/32", "fd09::2/128"])?;
        let own = if tagged { ["10.2.0.2/24", "fd02::2/64"] } else { ["10.1.0.3/24", "fd01::3/64"] };
        match round.arm {
            Arm::HostRoute => {
                // The node is behind the router as well, on a link of its own.
                switch.shell("ip link set lan nomaster")?;
                inner.shell("ip link set lan down")?;
                outer.veth("back", &inner, "house")?;
                outer.address("back", &["10.2.0.254/24", "fd02::fe/64"])?;
                inner.address("house", &["10.2.0.2/24", "fd02::2/64"])?;
                inner.shell("ip route add default via 10.2.0.254; ip -6 route add default via fd02::fe")?;
                outer.shell("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
                outer.shell("ip route add 10.7.0.1/32 dev wan; ip -6 route add fd07::1/128 dev wan")?;
            }
            _ => inner.address("lan", &own)?,
        }
        if round.arm == Arm::SubDevices {
            boxed.shell(
                "for id in 7 8; do ip link add link arm name arm.$id type vlan id $id; ip link set arm.$id up; done",
            )?;
        }
        if round.source == "transparent" {
            // As `hedgerow node-setup` prints it: the answers alone, whoever they are for.
            let (v4, v6) = if tagged { ("10.2.0.1", "fd02::1") } else { ("10.1.0.1", "fd01::1") };
            inner.shell("sysctl -qw net.ipv4.conf.all.rp_filter=2")?;
            for (family, via) in [("-4", v4), ("-6", v6)] {
                inner.shell(&format!(
                    "ip {family} route replace default via {via} dev lan table 8444\n\
                     ip {family} rule add priority 8444 ipproto tcp sport {SERVER} lookup 8444"
                ))?;
            }
        }
        let scratch = Scratch::new("one-armed")?;
        let appliance = Appliance::start(&boxed, &scratch, &sections(round))?;
        Ok(Rig { outer, inner, appliance, _kept: (boxed, switch, scratch), _trunk: trunk })
    }

    /// A connection of each peer in each family, with bytes both ways; the node sees who the source mode lets it see.
    fn serve(&self, round: &Round) -> Outcome {
        let listener = self.inner.enter(|| TcpListener::bind(("::", SERVER)).context("listening"))?;
        listener.set_nonblocking(true).context("preparing the listener")?;
        let near = if round.arm == Arm::HostRoute { &[][..] } else { &NEAR[..] };
        for peer in near.iter().chain(&FAR).copied() {
            let (client, server) = self.pair(round, peer, &listener).context(peer)?;
            let seen = server.peer_addr().context("an address")?.ip().to_canonical();
            let wanted = match round.source {
                // A node answers its own network past us, so that these see the appliance.
                "transparent" if round.arm != Arm::Flat || !NEAR.contains(&peer) => peer,
                // A node of the other family may be the one that is chosen.
                _ => ours(round, seen.is_ipv4(), true),
            };
            ensure(seen == wanted, || format!("the node sees {seen} instead of {wanted}"))?;
            exchange(client, server, BULK).context(peer)?;
        }
        ensure(listener.accept().is_err(), || "the node was dialled without cause".to_owned())
    }

    fn pair(&self, round: &Round, peer: IpAddr, listener: &TcpListener) -> Outcome<(TcpStream, TcpStream)> {
        let to = SocketAddr::new(ours(round, peer.is_ipv4(), false), LISTENER);
        let client = wait_for("a connection", SOON, || {
            // Until the addresses are in use nobody answers.
            self.outer.enter(|| Ok(connect_from(peer, to).ok()))
        })?;
        let server = wait_for("the connection reaches the node", SOON, || Ok(listener.accept().ok()))?.0;
        server.set_nonblocking(false).context("preparing a connection")?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(SOON)).context("a deadline")?;
            stream.set_write_timeout(Some(SOON)).context("a deadline")?;
        }
        Ok((client, server))
    }
}

/// A switch with peers and node untagged in a VLAN each, and the appliance at a port that is tagged for both: not every kernel
/// has bridges that filter, but packet sockets take tags out and put them in.
struct Trunk {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trunk {
    fn start(switch: &Namespace) -> Outcome<Self> {
        let open = |device| {
            switch.enter(move || {
                AfPacket::open(&AfPacketConfig { large_slots: true, ..AfPacketConfig::new(device) })
                    .context(device)
            })
        };
        let (mut wan, mut lan, mut arm) = (open("wan")?, open("lan")?, open("arm")?);
        let done = Arc::new(AtomicBool::new(false));
        let ended = done.clone();
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let moved = pass(&mut wan, &mut [(None, Some(7), &mut arm)])
                    + pass(&mut lan, &mut [(None, Some(8), &mut arm)])
                    + pass(&mut arm, &mut [(Some(7), None, &mut wan), (Some(8), None, &mut lan)]);
                if moved == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Ok(Trunk { done, thread: Some(thread) })
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Passes on what has come: with which tag, with which tag it goes, and where. What does not fit is lost, as at any switch.
fn pass(from: &mut AfPacket, ways: &mut [(Option<u16>, Option<u16>, &mut AfPacket)]) -> usize {
    let mut came = Batch::new();
    let count = from.receive(Lane::Stranger, &mut came).unwrap_or(0);
    let mut batches: Vec<Batch> = ways.iter().map(|_| Batch::new()).collect();
    for (frame, meta) in came.drain(BATCH) {
        for ((tag, to_tag, way), batch) in ways.iter_mut().zip(&mut batches) {
            if meta.vlan != *tag {
                continue;
            }
            let Some(mut copy) = way.allocate() else { continue };
            if !way.resize(&mut copy, from.bytes(&frame).len()) {
                way.release(copy);
                continue;
            }
            way.bytes_mut(&mut copy).copy_from_slice(from.bytes(&frame));
            if let Err(copy) = batch.push(copy, Meta { vlan: *to_tag, ..meta }) {
                way.release(copy);
            }
        }
        from.release(frame);
    }
    for ((.., way), mut batch) in ways.iter_mut().zip(batches) {
        let _ = way.transmit(&mut batch);
        let _ = way.flush();
        for (frame, _) in batch.drain(BATCH) {
            way.release(frame);
        }
    }
    let _ = from.flush();
    count
}

/// Whether this kernel has devices of type vlan.
fn vlan_devices_are_possible() -> bool {
    let tried = Namespace::new("try")
        .and_then(|namespace| namespace.shell("ip link add link lo name lo.7 type vlan id 7").map(drop));
    tried.is_ok()
}

/// The appliance's address on the peers' side, or on the node's.
fn ours(round: &Round, v4: bool, towards_node: bool) -> IpAddr {
    let network = match round.arm {
        Arm::HostRoute => 7,
        Arm::Tagged | Arm::SubDevices if towards_node => 2,
        _ => 1,
    };
    match v4 {
        true => Ipv4Addr::new(10, network, 0, 1).into(),
        false => Ipv6Addr::new(0xfd00 + u16::from(network), 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn connect_from(peer: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let family = if peer.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(peer, 0))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(Duration::from_secs(2)))?;
    connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

fn sections(round: &Round) -> String {
    let port = |name: &str, device: &str, rest: &str| {
        format!("[port.{name}]\ndevice = {device:?}\ndriver = {:?}\n{rest}\n\n", round.driver)
    };
    let addresses = |network: u8| format!("address = [\"10.{network}.0.1/24\", \"fd0{network}::1/64\"]");
    let gateways = "gateway = [\"10.1.0.254\", \"fe80::1\"]";
    let public = |more: &str| format!("{}\n{gateways}{more}", addresses(1));
    let (ports, node, node_v6) = match round.arm {
        Arm::Flat => (port("public", "arm", &public("")), "10.1.0.3", "fd01::3"),
        Arm::Tagged => {
            let private = format!("{}\nvlan = 8", addresses(2));
            let ports = port("public", "arm", &public("\nvlan = 7")) + &port("private", "arm", &private);
            (ports, "10.2.0.2", "fd02::2")
        }
        Arm::SubDevices => {
            let ports = port("public", "arm.7", &public("")) + &port("private", "arm.8", &addresses(2));
            (ports, "10.2.0.2", "fd02::2")
        }
        Arm::HostRoute => {
            let lines = format!("address = [\"10.7.0.1/32\", \"fd07::1/128\"]\n{gateways}\nmtu = 1460");
            (port("public", "arm", &lines), "10.2.0.2", "fd02::2")
        }
    };
    format!(
        "{ports}\
         [[listener]]\nname = \"relay\"\nport = \"public\"\nlocal_port = {LISTENER}\nprotocol = \"tcp\"\npool = \"nodes\"\n\n\
         [pool.nodes]\nnodes = [\"n={node}:{SERVER}\", \"m=[{node_v6}]:{SERVER}\"]\nsource = {:?}\n\n\
         [limits]\nper_source = 1000\nper_24 = 1000\nper_16_percent = 100\nv6_64 = 1000\nv6_48 = 1000\n",
        round.source
    )
}
