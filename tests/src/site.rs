//! The site of the node suites: real nodes and attackers outside on one network, the appliance, one real node inside.
//!
//! ```text
//! outer (10.1.0.2 ...) --+
//!                        +-- switch -- [appliance 10.1.0.1 | 10.2.0.1] -- inner (10.2.0.2)
//! attacker (10.1.0.66) --+
//! ```
//!
//! Everything has IPv6 addresses too (fd01::, fd02::). The outer namespace is the gateway to the rest of the world, so
//! answers to forged sources end there.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use crate::appliance::{Appliance, PortSetup, Scratch};
use crate::check::{Context, Outcome, wait_for};
use crate::nodes::{CHAIN_BLOCKS, Node, NodeSetup};
use crate::rig::Namespace;

/// How long the light peer may take to be there.
const SEEN: Duration = Duration::from_secs(60);

/// The TCP port of every node and listener.
pub const CHIA_PORT: u16 = 8444;

/// Addresses of the appliance's public side.
pub const PUBLIC_V4: &str = "10.1.0.1";
/// As [`PUBLIC_V4`].
pub const PUBLIC_V6: &str = "fd01::1";
/// Addresses of the appliance's private side.
pub const PRIVATE_V4: &str = "10.2.0.1";
/// As [`PRIVATE_V4`].
pub const PRIVATE_V6: &str = "fd02::1";
/// The first of the outer nodes' addresses.
pub const OUTER_V4: &str = "10.1.0.2";
/// As [`OUTER_V4`].
pub const OUTER_V6: &str = "fd01::2";

/// Namespaces, the node inside, and room for files.
#[derive(Debug)]
pub struct Site {
    /// Where outer nodes and peers are.
    pub outer: Namespace,
    /// Where floods come from.
    pub attacker: Namespace,
    /// Where the appliance is.
    pub boxed: Namespace,
    /// Where the protected node is.
    pub inner: Namespace,
    /// The protected node, with the whole chain.
    pub node: Node,
    /// Files of this test.
    pub scratch: Scratch,
}

impl Site {
    /// Builds the networks and starts the inner node.
    pub fn new(name: &str) -> Outcome<Self> {
        let namespaces = ["outer", "attacker", "box", "inner"].map(Namespace::new);
        let [outer, attacker, boxed, inner] = namespaces;
        let (outer, attacker, boxed, inner) = (outer?, attacker?, boxed?, inner?);
        outer.shell("ip link add name wan type bridge && ip link set wan up")?;
        outer.veth("to-box", &boxed, "pub0")?;
        outer.veth("to-attacker", &attacker, "wan")?;
        outer.shell("ip link set to-box master wan && ip link set to-attacker master wan")?;
        inner.veth("lan", &boxed, "priv0")?;
        // Peers get addresses of their own, so that what one does is not counted against another.
        let peers: Vec<String> = (10..40).map(|host| format!("10.1.0.{host}/24")).collect();
        let mut addresses = vec!["10.1.0.2/24", "fd01::2/64"];
        addresses.extend(peers.iter().map(String::as_str));
        outer.address("wan", &addresses)?;
        attacker.address("wan", &["10.1.0.66/24", "fd01::66/64"])?;
        attacker.shell("ip route add default via 10.1.0.1 && ip -6 route add default via fd01::1")?;
        inner.address("lan", &["10.2.0.2/24", "fd02::2/64"])?;
        inner.shell("ip route add default via 10.2.0.1 && ip -6 route add default via fd02::1")?;
        count_dials(&inner)?;
        let scratch = Scratch::new(name)?;
        let setup = NodeSetup { preload: CHAIN_BLOCKS, farms: true, ..NodeSetup::default() };
        let node = Node::start(&inner, scratch.path(), "inner", setup)?;
        Ok(Site { outer, attacker, boxed, inner, node, scratch })
    }

    /// Starts the appliance with one Chia listener on the public address `listener`; `node_address` says how it reaches
    /// the node, `source` what the node sees.
    pub fn appliance(&self, listener: &str, node_address: &str, source: &str) -> Outcome<Appliance> {
        self.appliance_with(listener, node_address, source, "")
    }

    /// The same with more sections.
    pub fn appliance_with(
        &self,
        listener: &str,
        node_address: &str,
        source: &str,
        more: &str,
    ) -> Outcome<Appliance> {
        self.serving(&["full_node"], listener, node_address, source, more)
    }

    /// The same for peers of these types.
    pub fn serving(
        &self,
        types: &[&str],
        listener: &str,
        node_address: &str,
        source: &str,
        more: &str,
    ) -> Outcome<Appliance> {
        let secret = self.scratch.path().join("fleet-secret");
        std::fs::write(&secret, "7d".repeat(32)).context("writing a secret")?;
        std::fs::set_permissions(&secret, Permissions::from_mode(0o600)).context("protecting a secret")?;
        let ports: String = [
            ("public", "pub0", PUBLIC_V4, PUBLIC_V6, "gateway = [\"10.1.0.2\", \"fd01::2\"]\n"),
            ("private", "priv0", PRIVATE_V4, PRIVATE_V6, ""),
        ]
        .map(|(name, device, v4, v6, more)| {
            let addresses = vec![format!("{v4}/24"), format!("{v6}/64")];
            let section = PortSetup { name, device: device.into(), driver: "af-packet", addresses }.section();
            format!("{}\n{more}\n", section.trim_end())
        })
        .concat();
        let sections = format!(
            "{ports}\
             [[listener]]\nname = \"peers\"\nport = \"public\"\naddress = {listener:?}\nlocal_port = {CHIA_PORT}\nprotocol = \"chia\"\n\
             network = \"testnet0\"\ntypes = {types:?}\npool = \"front\"\n\n\
             [pool.front]\nsource = {source:?}\nnodes = [\"inner={node_address}:{CHIA_PORT}\"]\n\n\
             [identity]\nsecret = {secret:?}\nown_nodes = [{:?}]\n\n{more}",
            self.node.id(),
        );
        let appliance = Appliance::start(&self.boxed, &self.scratch, &sections)?;
        for (namespace, address) in [
            (&self.outer, PUBLIC_V4),
            (&self.outer, PUBLIC_V6),
            (&self.inner, PRIVATE_V4),
            (&self.inner, PRIVATE_V6),
        ] {
            namespace.await_neighbour(address.parse().context("an address")?)?;
        }
        // From here on the light peer has its session, and whatever reaches the node is a peer's.
        wait_for("the light peer finds the node up", SEEN, || {
            let status = appliance.status()?;
            Ok((status["pools"][0]["nodes"][0]["state"] == "up").then_some(()))
        })?;
        Ok(appliance)
    }

    /// Connection attempts that have arrived at the inner node's port, as its own kernel counted them.
    pub fn dials(&self) -> Outcome<u64> {
        let text = self.inner.shell("nft -j list counter inet seen dials")?;
        let list: Value = serde_json::from_str(&text).context("reading a counter")?;
        let counter =
            list["nftables"].as_array().and_then(|items| items.iter().find_map(|item| item.get("counter")));
        counter.and_then(|counter| counter["packets"].as_u64()).context("the counter of dials")
    }
}

fn count_dials(inner: &Namespace) -> Outcome {
    inner.nftables(&format!(
        "table inet seen {{\n counter dials {{ }}\n chain arriving {{\n  type filter hook input priority 0;\n  \
         tcp dport {CHIA_PORT} tcp flags & (syn | ack) == syn counter name dials\n }}\n}}"
    ))
}

/// The sum of all numbers that stand under `key`, anywhere in a status.
pub fn counted(status: &Value, key: &str) -> u64 {
    match status {
        Value::Object(map) => map
            .iter()
            .map(|(name, value)| if name == key { value.as_u64().unwrap_or(0) } else { counted(value, key) })
            .sum(),
        Value::Array(list) => list.iter().map(|value| counted(value, key)).sum(),
        _ => 0,
    }
}
