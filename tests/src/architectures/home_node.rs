//! `home-node`: Hedgerow on the node's own machine behind a router that translates addresses, and a rented machine with a
//! tunnel to the node.

use std::net::{Ipv4Addr, SocketAddr};

use super::{BLOCKS, Example, NETWORK, PUBLIC, SOON, Segment, await_state, front, world};
use crate::check::{Outcome, Report, ensure, wait_for};
use crate::flood::{Flood, Kind};
use crate::nodes::{Peer, Wire, intrude};
use crate::rig::Namespace;
use crate::site::{CHIA_PORT, counted};

/// The machine at home.
const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
/// The node's end of the tunnel.
const FAR_END: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
/// What marks frames that must not arrive.
const MARK: &str = "through-the-tunnel";
/// Silent connections a second, of which a bare node bears ten.
const SILENT: u32 = 40;
/// So many of them fill a bare node.
const FILLS: u64 = 400;

/// Runs its cases.
pub fn run(report: &mut Report) {
    report.case("home-node-same-machine", same_machine);
    report.case("home-node-tunnel", tunnel);
}

/// A router as homes have it: it translates what goes out, forwards one port, and leads back inside who asks for that from
/// inside.
fn home_router(outside: &Segment, lan: &Segment) -> Outcome<Namespace> {
    let router = Namespace::new("router")?;
    outside.plug(&router, "wan", &["203.0.113.7/24"])?;
    lan.plug(&router, "lan", &["192.168.1.1/24"])?;
    router.shell("ip route add default via 203.0.113.1 && sysctl -qw net.ipv4.ip_forward=1")?;
    router.nftables(
        "table ip home {\n\
         chain in { type nat hook prerouting priority dstnat; ip daddr 203.0.113.7 tcp dport 8444 dnat to 192.168.1.10:8454\n }\n\
         chain out { type nat hook postrouting priority srcnat; oifname wan masquerade\n\
         iifname lan oifname lan masquerade\n }\n\
         chain through { type filter hook forward priority filter; policy drop;\n\
         iifname lan accept\n ct state established,related accept\n ct status dnat accept\n }\n }",
    )?;
    Ok(router)
}

/// Hedgerow beside the node.
fn same_machine() -> Outcome {
    let example = Example::open("home-node")?;
    let (outside, lan) = (Segment::new("outside")?, Segment::new("lan")?);
    let world = world(&outside)?;
    let _router = home_router(&outside, &lan)?;
    let home = Namespace::new("home")?;
    lan.plug(&home, "eth0", &[&format!("{HOME}/24")])?;
    home.shell("ip route add default via 192.168.1.1")?;
    let mut appliance = example.appliance(&home, "box", "hedgerow.toml")?;
    let mut node = example.node(&home, "home", Ipv4Addr::LOCALHOST, &[])?;
    await_state(&appliance, &["node"], "up")?;

    let mut outer = example.outer(&world, "outer", &["--farms"])?;
    outer.connect(&PUBLIC.to_string(), CHIA_PORT)?;
    outer.reach(BLOCKS - 1, SOON * 2, || appliance.alive())?;
    let seen = node.connections(1)?;
    ensure(seen[0]["host"] == "127.0.0.9", || format!("the node sees {}", seen[0]))?;

    silence_changes_nothing(&world)?;

    // The node's own way out is the kernel's, and what it brings reaches the peers that came in.
    let mut second = example.outer(&world, "second", &["--port=8445"])?;
    second.connect(&PUBLIC.to_string(), CHIA_PORT)?;
    second.reach(BLOCKS - 1, SOON * 2, || Ok(()))?;
    node.connect("198.18.0.1", CHIA_PORT)?;
    let height = outer.farm(1)?;
    node.reach(height, SOON, || Ok(()))?;
    second.reach(height, SOON, || Ok(()))?;

    // Its own public address leads back to it.
    ensure(node.connect(&PUBLIC.to_string(), CHIA_PORT).is_err(), || {
        "the node has a session to itself".into()
    })?;
    wait_for("own_node", SOON, || Ok((counted(&appliance.status()?, "own_node") > 0).then_some(())))
}

/// A peer is served while silent connections come in that lock a bare node out.
fn silence_changes_nothing(world: &Namespace) -> Outcome {
    let target = SocketAddr::from(front());
    let flood = Flood::start(world, Kind::Silent, "198.18.9.9", target, SILENT)?;
    wait_for("enough to lock a bare node out", SOON, || Ok((flood.sent() > FILLS).then_some(())))?;
    let to = target.to_string();
    let peer = Peer::start(world, &["chia", "--to", &to, "--from", "198.18.7.7", "--network", NETWORK])?;
    let answer = peer.answer(SOON);
    flood.end()?;
    let answer = answer?;
    ensure(answer.outcome == "accepted", || format!("a peer is {} ({})", answer.outcome, answer.detail))
}

/// Hedgerow at the tunnel's other end. What the tunnel is made of is the kernel's business; here it is VXLAN.
fn tunnel() -> Outcome {
    let example = Example::open("home-node")?;
    let (outside, line) = (Segment::new("outside")?, Segment::new("line")?);
    let world = world(&outside)?;
    let (rented, home) = (Namespace::new("rented")?, Namespace::new("home")?);
    outside.plug(&rented, "eth0", &["203.0.113.7/24"])?;
    rented.shell("ip route add default via 203.0.113.1")?;
    for (end, number, other) in [(&rented, 1, 2), (&home, 2, 1)] {
        line.plug(end, "line", &[&format!("172.31.0.{number}/24")])?;
        end.shell(&format!(
            "ip link add tunnel type vxlan id 8 local 172.31.0.{number} remote 172.31.0.{other} dstport 4789"
        ))?;
        end.address("tunnel", &[&format!("10.8.0.{number}/24")])?;
    }
    let mut appliance = example.appliance(&rented, "box", "tunnel.toml")?;
    let mut node = example.node_with(&home, "home", "tunnel-node.yaml", FAR_END, &[])?;
    await_state(&appliance, &["node"], "up")?;

    let wire = Wire::listen(&home, "tunnel", &[MARK])?;
    let mut outer = example.outer(&world, "outer", &[])?;
    outer.connect(&PUBLIC.to_string(), CHIA_PORT)?;
    outer.reach(BLOCKS - 1, SOON * 2, || appliance.alive())?;
    let seen = node.connections(1)?;
    ensure(seen[0]["host"] == "10.8.0.1", || format!("the node sees {}", seen[0]))?;

    world.shell("ip route add 10.8.0.0/24 via 203.0.113.7")?;
    intrude(&world, &FAR_END.to_string(), Some((&PUBLIC.to_string(), "10.8.0.3")), MARK)?;
    let heard = wire.end()?;
    ensure(heard.frames > 0 && heard.texts.is_empty(), || format!("{heard:?} came through the tunnel"))
}
