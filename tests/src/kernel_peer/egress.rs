//! The way out with kernels at both ends: a node's own connections to the world through the appliance, and what the world
//! tries in the other direction.

use std::fs::Permissions;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::wires::{exchange, tap_is_possible, xdp_is_possible};
use crate::appliance::{Appliance, PortSetup, Scratch};
use crate::check::{Context, Outcome, Report, ensure, wait_for};
use crate::rig::Namespace;
use crate::site::CHIA_PORT;

/// How long any step may take.
const SOON: Duration = Duration::from_secs(20);
/// How long something that must not come is waited for.
const NEVER: Duration = Duration::from_millis(600);
const BULK: u64 = 16 << 20;
const WORLD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 2);
/// The ports that the node shows.
const SHOWN: std::ops::RangeInclusive<u16> = 20_000..=20_255;

/// What lies between the kernels.
#[derive(Clone, Copy)]
struct Round {
    name: &'static str,
    driver: &'static str,
    shards: usize,
    /// Largest packet of the outer port.
    mtu: u16,
}

const ROUNDS: [Round; 6] = [
    Round { name: "veth", driver: "af-packet", shards: 1, mtu: 1_500 },
    Round { name: "shards", driver: "af-packet", shards: 2, mtu: 1_500 },
    Round { name: "xdp", driver: "af-xdp", shards: 1, mtu: 1_500 },
    Round { name: "xdp-shards", driver: "af-xdp", shards: 2, mtu: 1_500 },
    Round { name: "tap", driver: "tap", shards: 1, mtu: 1_500 },
    // The node's kernel learns it from the appliance's ICMP messages.
    Round { name: "narrow", driver: "af-packet", shards: 1, mtu: 1_300 },
];

/// A case by name.
type Case = (&'static str, fn(&Way) -> Outcome);

const CASES: [Case; 6] = [
    ("connects-and-carries", connects_and_carries),
    ("datagrams", datagrams),
    ("nothing-comes-in", nothing_comes_in),
    ("nobody-dials-ourselves", nobody_dials_ourselves),
    ("inspected", inspected),
    ("closes-and-opens", closes_and_opens),
];

/// Runs the cases.
pub(super) fn run(report: &mut Report) {
    for round in ROUNDS {
        let names = CASES.map(|(case, _)| format!("egress/{}/{case}", round.name));
        if !names.iter().any(|name| report.wants(name)) {
            continue;
        }
        if round.driver == "tap" && !tap_is_possible() {
            report.skip("egress/tap", "/dev/net/tun cannot be opened here");
            continue;
        }
        if round.driver == "af-xdp" && !xdp_is_possible() {
            report.skip(&format!("egress/{}", round.name), "this user may load no XDP program");
            continue;
        }
        match Way::new(round) {
            Ok(way) => {
                for (name, (_, case)) in names.iter().zip(CASES) {
                    report.case(name, || {
                        case(&way).map_err(|failure| {
                            let status = way.appliance.ask(&["status"]).unwrap_or_else(|error| error);
                            format!("{failure}\nstatus: {status}\nlog: {}", way.appliance.log())
                        })
                    });
                }
            }
            Err(failure) => {
                report.step(&format!("egress/{}/set-up", round.name), || Err(failure));
            }
        }
    }
}

/// The world, the appliance and a node.
struct Way {
    outer: Namespace,
    inner: Namespace,
    appliance: Appliance,
    _boxed: Namespace,
    _scratch: Scratch,
}

impl Way {
    fn new(round: Round) -> Outcome<Way> {
        let [outer, boxed, inner] = ["outer", "box", "inner"].map(Namespace::new);
        let (outer, boxed, inner) = (outer?, boxed?, inner?);
        let prefix = if round.driver == "tap" { "tap-" } else { "veth-" };
        let port = |name, addresses: [&str; 2]| PortSetup {
            name,
            device: format!("{prefix}{name}"),
            driver: round.driver,
            addresses: addresses.map(str::to_owned).to_vec(),
        };
        let ports =
            [port("public", ["10.1.0.1/24", "fd01::1/64"]), port("private", ["10.2.0.1/24", "fd02::1/64"])];
        if round.driver != "tap" {
            let queues = if round.driver == "af-xdp" { round.shards } else { 1 };
            outer.veth_queues("wan", &boxed, &ports[0].device, queues)?;
            inner.veth_queues("lan", &boxed, &ports[1].device, queues)?;
        }
        let scratch = Scratch::new("egress")?;
        let secret = secret(&scratch)?;
        let mut appliance = Appliance::start(&boxed, &scratch, &sections(round, &ports, &secret))?;
        if round.driver == "tap" {
            for (port, namespace, name) in [(&ports[0], &outer, "wan"), (&ports[1], &inner, "lan")] {
                boxed.give(&port.device, namespace)?;
                namespace.shell(&format!("ip link set {} name {name}", port.device))?;
            }
        }
        outer.address("wan", &["10.1.0.2/24", "fd01::2/64"])?;
        inner.address("lan", &["10.2.0.2/24", "fd02::2/64"])?;
        inner.shell("ip route add default via 10.2.0.1 && ip -6 route add default via fd02::1")?;
        // The world knows where the node is, and tries.
        outer.shell("ip route add 10.2.0.0/24 via 10.1.0.1 && ip -6 route add fd02::/64 via fd01::1")?;
        appliance.wait_until_up()?;
        for (namespace, address) in
            [(&outer, "10.1.0.1"), (&outer, "fd01::1"), (&inner, "10.2.0.1"), (&inner, "fd02::1")]
        {
            namespace.await_neighbour(address.parse().context("an address")?)?;
        }
        Ok(Way { outer, inner, appliance, _boxed: boxed, _scratch: scratch })
    }

    /// A server in the world, and a connection of the node's to it, from both ends.
    fn pair(&self, server: SocketAddr) -> Outcome<(TcpStream, TcpStream)> {
        let listener = self.outer.enter(|| TcpListener::bind(server).context("listening"))?;
        let at = listener.local_addr().context("an address")?;
        let node = self.inner.enter(|| TcpStream::connect_timeout(&at, SOON).context("connecting"))?;
        let world = accept(&listener)?;
        for stream in [&node, &world] {
            stream.set_read_timeout(Some(SOON)).context("a deadline")?;
            stream.set_write_timeout(Some(SOON)).context("a deadline")?;
        }
        Ok((node, world))
    }

    fn exit(&self, field: &str) -> Outcome<u64> {
        let status = self.appliance.status()?;
        status["egress"]["nodes"][0][field].as_u64().context(format_args!("{field} in {}", status["egress"]))
    }
}

/// A fleet's secret, in a file.
fn secret(scratch: &Scratch) -> Outcome<String> {
    let path = scratch.path().join("fleet-secret");
    std::fs::write(&path, "5e".repeat(32)).context("writing a secret")?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).context("protecting a secret")?;
    path.to_str().map(str::to_owned).context("a path")
}

fn sections(round: Round, ports: &[PortSetup; 2], secret: &str) -> String {
    let cores = match round.shards {
        1 => String::new(),
        shards => format!("[cores]\ndataplane = {:?}\n\n", (0..shards).collect::<Vec<_>>()),
    };
    let public = format!("{}\nmtu = {}\n\n", ports[0].section().trim_end(), round.mtu);
    format!(
        "{cores}{public}{}\
         [[listener]]\nname = \"relay\"\nport = \"public\"\nlocal_port = 5000\nprotocol = \"tcp\"\npool = \"nodes\"\n\n\
         [pool.nodes]\nnodes = [\"n={NODE}:5001 protected\"]\n\n\
         [identity]\nsecret = {secret:?}\n\n\
         [egress]\nport = \"public\"\nports = \"{}-{}\"\nports_per_node = 256\nallow = [\"any\"]\ninspect = true\n\
         node.n.access = \"open\"\nnode.n.addresses = [\"{NODE_V6}\"]\n",
        ports[1].section(),
        SHOWN.start(),
        SHOWN.end(),
    )
}

fn accept(listener: &TcpListener) -> Outcome<TcpStream> {
    listener.set_nonblocking(true).context("preparing a listener")?;
    let stream = wait_for("the connection reaches the world", SOON, || match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.to_string()),
    })?;
    stream.set_nonblocking(false).context("preparing a connection")?;
    Ok(stream)
}

/// Megabytes both ways at once, with whatever super-frames and unfinished checksums the kernels make of them.
fn connects_and_carries(way: &Way) -> Outcome {
    for server in [SocketAddr::from((WORLD, 0)), SocketAddr::from((WORLD_V6, 0))] {
        let (node, world) = way.pair(server)?;
        let seen = world.peer_addr().context("an address")?;
        match seen {
            SocketAddr::V4(seen) => ensure(*seen.ip() == OURS && SHOWN.contains(&seen.port()), || {
                format!("the world sees {seen}")
            })?,
            SocketAddr::V6(seen) => ensure(*seen.ip() == NODE_V6, || format!("the world sees {seen}"))?,
        }
        exchange(node, world, BULK).context(server)?;
    }
    ensure(way.exit("opened")? >= 2, || "no session was counted".to_owned())
}

/// Questions and answers by UDP: small ones, and such that fill a packet.
fn datagrams(way: &Way) -> Outcome {
    let socket = |namespace: &Namespace, at: SocketAddr| {
        let socket = namespace.enter(|| UdpSocket::bind(at).context("a socket"))?;
        socket.set_read_timeout(Some(SOON)).context("a deadline").map(|()| socket)
    };
    for (world, node) in [
        (SocketAddr::from((WORLD, 0)), SocketAddr::from((NODE, 0))),
        (SocketAddr::from((WORLD_V6, 0)), SocketAddr::from((NODE_V6, 0))),
    ] {
        let (world, node) = (socket(&way.outer, world)?, socket(&way.inner, node)?);
        let at = world.local_addr().context("an address")?;
        for size in [1, 100, 1_200] {
            let question: Vec<u8> = (0..size).map(|n| n as u8).collect();
            node.send_to(&question, at).context("asking")?;
            let mut room = [0; 2_048];
            let (length, asker) = world.recv_from(&mut room).context("the question")?;
            ensure(room[..length] == question, || "the question is another".to_owned())?;
            world.send_to(&room[..length], asker).context("answering")?;
            let (length, from) = node.recv_from(&mut room).context("the answer")?;
            ensure(room[..length] == question && from == at, || format!("an answer from {from}"))?;
        }
    }
    Ok(())
}

/// The world knows the node's addresses and the ports that it shows, and gets nowhere.
fn nothing_comes_in(way: &Way) -> Outcome {
    let (_node, world) = way.pair(SocketAddr::from((WORLD, 0)))?;
    let shown = world.peer_addr().context("an address")?.port();
    let listener = way.inner.enter(|| TcpListener::bind(("::", 5_002)).context("listening"))?;
    listener.set_nonblocking(true).context("preparing a listener")?;
    let ears = way.inner.enter(|| UdpSocket::bind(("::", 5_003)).context("a socket"))?;
    ears.set_read_timeout(Some(NEVER)).context("a deadline")?;
    let before = way.exit("packets_in")?;
    let mouth = way.outer.enter(|| UdpSocket::bind(("::", 0)).context("a socket"))?;
    for port in SHOWN {
        for to in [SocketAddr::from((OURS.to_ipv6_mapped(), port)), (NODE.to_ipv6_mapped(), 5_003).into()] {
            // What cannot be sent does not come in either.
            let _ = mouth.send_to(b"guess", to);
        }
    }
    let _ = mouth.send_to(b"guess", SocketAddr::from((NODE_V6, 5_003)));
    for to in [
        SocketAddr::from((NODE, 5_002)),
        SocketAddr::from((NODE_V6, 5_002)),
        SocketAddr::from((OURS, shown)),
        SocketAddr::from((OURS, shown ^ 1)),
    ] {
        let attempt = way.outer.enter(|| Ok(TcpStream::connect_timeout(&to, NEVER)))?;
        ensure(attempt.is_err(), || format!("{to} was connected"))?;
    }
    let heard = ears.recv_from(&mut [0; 64]);
    ensure(heard.is_err(), || format!("the node heard {heard:?}"))?;
    let came = listener.accept();
    ensure(came.is_err(), || format!("the node was dialled: {came:?}"))?;
    let after = way.exit("packets_in")?;
    ensure(after == before, || format!("{} packets came in", after - before))?;
    let status = way.appliance.status()?;
    let refused = status["refused"]["dataplane"]["egress_unsolicited"].as_u64();
    ensure(refused.is_some_and(|count| count >= 200), || format!("{refused:?} were refused"))
}

/// A node that is told its own public address, or that of the inner side, gets no session to it.
fn nobody_dials_ourselves(way: &Way) -> Outcome {
    for to in [
        SocketAddr::from((OURS, 5_000)),
        SocketAddr::from((Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1), 5_000)),
    ] {
        let attempt = way.inner.enter(|| Ok(TcpStream::connect_timeout(&to, SOON)))?;
        let Err(error) = attempt else { return Err(format!("{to} was connected")) };
        ensure(error.kind() != ErrorKind::TimedOut, || format!("{to}: the node was not told: {error}"))?;
    }
    Ok(())
}

/// What the node begins at a Chia peer ends in the appliance, which dials the peer by itself and asks it first; what becomes of
/// either side the other learns.
fn inspected(way: &Way) -> Outcome {
    let now = || way.exit("inspected");
    for (to, ours) in [
        (SocketAddr::from((WORLD, CHIA_PORT)), IpAddr::from(OURS)),
        (SocketAddr::from((WORLD_V6, CHIA_PORT)), IpAddr::from(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1))),
    ] {
        let sessions = way.exit("opened")?;
        let listener = way.outer.enter(|| TcpListener::bind(to).context("listening"))?;
        let (mut node, mut world) = dialled(way, &listener, to)?;
        let seen = world.peer_addr().context("an address")?;
        // The nodes' blocks of ports are theirs by IPv4, where they are translated.
        let nodes = seen.is_ipv4() && SHOWN.contains(&seen.port());
        ensure(seen.ip() == ours && !nodes, || format!("the world sees {seen}"))?;
        let mut begins = [0; 3];
        world.read_exact(&mut begins).context("what the peer is told first")?;
        ensure(begins == [22, 3, 1], || format!("the peer is told {begins:?}"))?;
        ensure(now()? == 1, || format!("{:?} connections are inspected", now()))?;
        // The peer is no node: whatever it says, the node hears none of it.
        world.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").context("answering")?;
        let heard = rest(&mut node)?;
        ensure(heard.is_empty(), || format!("the node heard {heard:?}"))?;
        // Nobody is there.
        drop((listener, world));
        let mut node = hello(way, to)?;
        let heard = rest(&mut node)?;
        ensure(heard.is_empty(), || format!("a peer that is not there answers {heard:?}"))?;
        // The way out closes.
        let listener = way.outer.enter(|| TcpListener::bind(to).context("listening"))?;
        let (mut node, mut world) = dialled(way, &listener, to)?;
        way.appliance.ask(&["egress", "close", "n"])?;
        rest(&mut node)?;
        rest(&mut world)?;
        wait_for("nothing is inspected any more", SOON, || Ok((now()? == 0).then_some(())))?;
        ensure(way.exit("opened")? == sessions, || "something was passed on".to_owned())?;
        way.appliance.ask(&["egress", "open", "n", "--for", "1h"])?;
        wait_for("it is open", SOON, || Ok(way.pair(SocketAddr::from((WORLD, 0))).ok()))?;
    }
    Ok(())
}

/// What is still to be heard on a connection until its end, which has to come.
fn rest(stream: &mut TcpStream) -> Outcome<Vec<u8>> {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(format!("the connection lives, and said {heard:?}"))
        }
        _ => Ok(heard),
    }
}

/// The node connects to a peer and begins TLS.
fn hello(way: &Way, to: SocketAddr) -> Outcome<TcpStream> {
    let mut node = way.inner.enter(|| TcpStream::connect_timeout(&to, SOON).context("connecting"))?;
    node.set_read_timeout(Some(SOON)).context("a deadline")?;
    node.write_all(&[22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3]).context("a hello")?;
    Ok(node)
}

/// The same with the connection that reaches the peer.
fn dialled(way: &Way, listener: &TcpListener, to: SocketAddr) -> Outcome<(TcpStream, TcpStream)> {
    let node = hello(way, to)?;
    let world = accept(listener)?;
    world.set_read_timeout(Some(SOON)).context("a deadline")?;
    Ok((node, world))
}

/// What the operator closes ends, and the node learns it; what is opened works.
fn closes_and_opens(way: &Way) -> Outcome {
    let (mut node, world) = way.pair(SocketAddr::from((WORLD, 0)))?;
    way.appliance.ask(&["egress", "close", "n"])?;
    wait_for("the sessions end", SOON, || Ok((way.exit("sessions")? == 0).then_some(())))?;
    let written = node.write_all(b"still there?");
    let ended = written.and_then(|()| node.read_exact(&mut [0]));
    ensure(ended.is_err(), || "the connection lives".to_owned())?;
    let listener = way.outer.enter(|| TcpListener::bind((WORLD, 0)).context("listening"))?;
    let at = listener.local_addr().context("an address")?;
    let attempt = way.inner.enter(|| Ok(TcpStream::connect_timeout(&at, SOON)))?;
    let Err(error) = attempt else { return Err("it was connected".to_owned()) };
    ensure(error.kind() != ErrorKind::TimedOut, || format!("the node was not told: {error}"))?;
    drop((listener, world));
    let said = way.appliance.ask(&["egress", "open", "n", "--for", "1h"])?;
    ensure(said.contains("`n` may go out"), || said.clone())?;
    let begun = wait_for("it is open", SOON, || Ok(way.pair(SocketAddr::from((WORLD, 0))).ok()))?;
    drop(begun);
    let events = way.appliance.ask(&["events"])?;
    ensure(events.contains("way out of n of nodes: closed (closed by hand)"), || events.clone())
}
