//! `hedgerow check --node-config`: a node's own `config.yaml` held against what the appliance will be to it.
//!
//! What the node would take for its own (trusted sources), whom it would ban for everybody (no exemption behind SNAT), what
//! opens a way in beside the appliance (UPnP), and where ports, networks and slots do not fit together.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

use crate::config::{Config, Listener, Node, PeerType, Pool, Protocol};

/// Largest file that is read: a node's own is some 30 KB.
const LARGEST: u64 = 4 << 20;
/// An exempt network with fewer leading bits is more than one appliance.
const NARROW: (u8, u8) = (28, 120);

/// A node and its file, as they are asked for: `a=/home/chia/.chia/mainnet/config/config.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFile {
    /// The node's name.
    pub node: String,
    /// Its `config.yaml`.
    pub path: PathBuf,
}

impl FromStr for NodeFile {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (node, path) =
            text.split_once('=').ok_or("expected NODE=FILE, such as a=/path/to/config.yaml")?;
        Ok(NodeFile { node: node.to_owned(), path: path.into() })
    }
}

/// What a file says that matters here; everything else is the node's own.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    selected_network: Option<String>,
    full_node: Section,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Section {
    port: Option<u16>,
    selected_network: Option<String>,
    enable_upnp: Option<bool>,
    exempt_peer_networks: Option<Vec<String>>,
    trusted_cidrs: Option<Vec<String>>,
    target_peer_count: Option<u32>,
    target_outbound_peer_count: Option<u32>,
    max_inbound_wallet: Option<u32>,
}

/// Something that does not fit: whether it must not stay so, and what.
pub type Finding = (bool, String);

/// Reads a node's file and compares.
///
/// # Errors
/// If there is no such node, or the file cannot be read.
pub fn compare(config: &Config, file: &NodeFile) -> Result<Vec<Finding>, String> {
    let nodes = || config.pools.iter().flat_map(|pool| pool.nodes.iter().map(move |node| (pool, node)));
    let Some((pool, node)) = nodes().find(|(_, node)| node.name == file.node) else {
        let known: Vec<&str> = nodes().map(|(_, node)| node.name.as_str()).collect();
        return Err(format!(
            "--node-config: no node is called `{}`; there are {}",
            file.node,
            known.join(", ")
        ));
    };
    let text = read(&file.path).map_err(|error| format!("{}: {error}", file.path.display()))?;
    let read: File =
        serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", file.path.display()))?;
    let compared = Compared { config, pool, node, file: &read, found: Vec::new() };
    let place = format!("node {} ({})", node.name, file.path.display());
    Ok(compared.all().into_iter().map(|(fatal, what)| (fatal, format!("{place}: {what}"))).collect())
}

fn read(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > LARGEST {
        return Err(std::io::Error::other("too large for a node's config.yaml"));
    }
    std::fs::read_to_string(path)
}

struct Compared<'a> {
    config: &'a Config,
    pool: &'a Pool,
    node: &'a Node,
    file: &'a File,
    found: Vec<Finding>,
}

impl Compared<'_> {
    fn all(mut self) -> Vec<Finding> {
        self.place();
        self.trusted();
        self.exempt();
        self.slots();
        if self.file.full_node.enable_upnp == Some(true) {
            self.warn("full_node.enable_upnp opens a way in beside the appliance: expected False");
        }
        self.found
    }

    fn warn(&mut self, what: impl fmt::Display) {
        self.found.push((false, what.to_string()));
    }

    fn wrong(&mut self, what: impl fmt::Display) {
        self.found.push((true, what.to_string()));
    }

    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        let leads = |listener: &&Listener| {
            self.config.pools.get(listener.pool).is_some_and(|to| to.name == self.pool.name)
        };
        self.config.listeners.iter().filter(leads).filter(|listener| listener.protocol == Protocol::Chia)
    }

    /// The node's port and network.
    fn place(&mut self) {
        let section = &self.file.full_node;
        let wanted = self.node.address.port();
        if let Some(port) = section.port.filter(|port| *port != wanted && self.listeners().next().is_some()) {
            self.wrong(format_args!("full_node.port is {port}, and the appliance dials {wanted}"));
        }
        let network = section.selected_network.as_ref().or(self.file.selected_network.as_ref());
        let Some(network) = network.cloned() else { return };
        let others: Vec<String> = self
            .listeners()
            .filter(|listener| listener.network != network)
            .map(|listener| format!("listener {} is for {}", listener.name, listener.network))
            .collect();
        for other in others {
            self.wrong(format_args!("selected_network is {network}, and {other}"));
        }
    }

    /// What the node sees: our address on its side, or, where it sees the peers' own, anybody's.
    fn sources(&self) -> Vec<IpAddr> {
        if self.pool.source.is_transparent() {
            return Vec::new();
        }
        let own = self.config.ports[self.node.port].addresses.iter().map(|own| own.address);
        own.filter(|own| own.is_ipv4() == self.node.address.is_ipv4()).collect()
    }

    /// Networks of a list; what is none is told.
    fn networks(&mut self, name: &str, list: &Option<Vec<String>>) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for text in list.iter().flatten() {
            let host = || text.parse::<IpAddr>().ok().map(IpNet::from);
            match text.parse::<IpNet>().ok().or_else(host) {
                Some(net) => nets.push(net.trunc()),
                None => self.wrong(format_args!("full_node.{name}: `{text}` is no network")),
            }
        }
        nets
    }

    /// Who is trusted has huge limits and priority: nobody who comes through the appliance may be.
    fn trusted(&mut self) {
        let file = self.file;
        for net in self.networks("trusted_cidrs", &file.full_node.trusted_cidrs) {
            let what = match self.sources().into_iter().find(|own| net.contains(own)) {
                Some(own) => {
                    format!("covers {own}, under which every peer comes: the node would trust them all")
                }
                None if self.pool.source.is_transparent() && !is_private(&net) => {
                    "holds public addresses, and peers come with their own: the node would trust them"
                        .to_owned()
                }
                None => continue,
            };
            self.wrong(format_args!("full_node.trusted_cidrs: {net} {what}"));
        }
    }

    /// Behind one address a ban of one peer is everybody's; where the node sees the peers, exemption would spare them all.
    fn exempt(&mut self) {
        let file = self.file;
        let nets = self.networks("exempt_peer_networks", &file.full_node.exempt_peer_networks);
        for own in self.sources() {
            if !nets.iter().any(|net| net.contains(&own)) {
                let length = if own.is_ipv4() { 32 } else { 128 };
                self.warn(format_args!(
                    "full_node.exempt_peer_networks lacks {own}/{length}, under which every peer comes: one peer's ban is everybody's"
                ));
            }
        }
        for net in nets {
            let narrow = if net.addr().is_ipv4() { NARROW.0 } else { NARROW.1 };
            let everybody = self.pool.source.is_transparent() && !is_private(&net);
            if everybody {
                self.wrong(format_args!(
                    "full_node.exempt_peer_networks: {net} holds public addresses, and peers come with their own: no limit of the node's would hold for them"
                ));
            } else if net.prefix_len() < narrow {
                self.warn(format_args!(
                    "full_node.exempt_peer_networks: {net} is wide, and whoever is in it has no limits at the node"
                ));
            }
        }
    }

    /// What the node itself takes, where it counts peers one by one.
    fn slots(&mut self) {
        if !self.pool.source.is_transparent() {
            return;
        }
        let section = &self.file.full_node;
        let full_nodes = section
            .target_peer_count
            .zip(section.target_outbound_peer_count)
            .map(|(all, out)| all.saturating_sub(out));
        let limits = [
            (PeerType::FullNode, full_nodes, "target_peer_count less target_outbound_peer_count"),
            (PeerType::Wallet, section.max_inbound_wallet, "max_inbound_wallet"),
        ];
        for (kind, takes, name) in limits {
            let given = self.pool.node_slots.iter().find(|(of, _)| *of == kind).map(|(_, slots)| *slots);
            if let (Some(takes), Some(given)) = (takes, given)
                && given > takes
            {
                self.warn(format_args!(
                    "full_node.{name} is {takes}, and `node_slots` leads up to {given} there: the node turns the rest away"
                ));
            }
        }
    }
}

/// Whether all of a network is for private use (RFC 1918, RFC 4193, RFC 6598) or a link's own.
fn is_private(net: &IpNet) -> bool {
    const PRIVATE: [&str; 8] = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "fc00::/7",
        "fe80::/10",
    ];
    PRIVATE.iter().filter_map(|text| text.parse::<IpNet>().ok()).any(|private| private.contains(net))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../examples/proxy/hedgerow.toml");

    /// What is found in a file with these lines in its section `full_node`; `true` where it is wrong.
    fn found(change: &dyn Fn(String) -> String, lines: &str) -> Vec<Finding> {
        let (config, _) = Config::parse("hedgerow.toml", &change(EXAMPLE.to_owned()))
            .unwrap_or_else(|report| panic!("{}", report.render(false)));
        let text = format!(
            "selected_network: &network \"mainnet\"\nfull_node:\n  port: 8444\n  selected_network: *network\n{lines}"
        );
        let path = std::env::temp_dir().join(format!("hedgerow-node-{}-{:p}", std::process::id(), &text));
        std::fs::write(&path, text).unwrap();
        let node = config.pools[0].nodes[0].name.clone();
        let result = compare(&config, &NodeFile { node, path: path.clone() });
        std::fs::remove_file(path).unwrap();
        result.unwrap()
    }

    fn same(text: String) -> String {
        text
    }

    fn transparent(text: String) -> String {
        let text = text.replace("\nlocal_port = 8444", "\naddress = \"203.0.113.7\"\nlocal_port = 8444");
        text.replace(
            "\n[pool.front]\n",
            "\n[pool.front]\nsource = \"transparent\"\nnode_slots = { wallet = 30 }\n",
        )
    }

    /// The findings are these, in order: a word of each, and whether it is wrong.
    fn expect(found: Vec<Finding>, expected: &[(bool, &str)]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((fatal, what), (wrong, word)) in found.iter().zip(expected) {
            assert!(fatal == wrong && what.contains(word), "{what} for {word}");
        }
    }

    #[test]
    fn a_node_as_it_should_be_passes() {
        expect(found(&same, "  enable_upnp: False\n  exempt_peer_networks: [\"10.0.1.1/32\"]\n"), &[]);
        expect(found(&transparent, "  enable_upnp: False\n  exempt_peer_networks: []\n"), &[]);
    }

    #[test]
    fn what_the_node_would_trust_or_spare_is_told() {
        let stock = "  enable_upnp: True\n  exempt_peer_networks: []\n";
        expect(found(&same, stock), &[(false, "lacks 10.0.1.1/32"), (false, "enable_upnp")]);
        let wide =
            "  exempt_peer_networks: [\"10.0.1.0/16\"]\n  trusted_cidrs: [\"10.0.0.0/8\", \"nonsense\"]\n";
        expect(
            found(&same, wide),
            &[(true, "`nonsense` is no network"), (true, "covers 10.0.1.1"), (false, "10.0.0.0/16 is wide")],
        );
        let open = "  exempt_peer_networks: [\"0.0.0.0/0\"]\n  trusted_cidrs: [\"203.0.113.0/24\"]\n  max_inbound_wallet: 20\n";
        expect(
            found(&transparent, open),
            &[
                (true, "trusted_cidrs: 203.0.113.0/24"),
                (true, "0.0.0.0/0"),
                (false, "max_inbound_wallet is 20"),
            ],
        );
    }

    #[test]
    fn ports_and_networks_must_fit() {
        let other = |text: String| text.replace("\nnetwork = \"mainnet\"", "\nnetwork = \"testnet11\"");
        let exempt = "  exempt_peer_networks: [\"10.0.1.1/32\"]\n";
        let elsewhere = |text: String| text.replace(":8444\"", ":8448\"");
        expect(found(&elsewhere, exempt), &[(true, "port is 8444, and the appliance dials 8448")]);
        let found = found(&other, exempt);
        assert!(
            !found.is_empty() && found.iter().all(|(fatal, what)| *fatal && what.contains("testnet11")),
            "{found:?}"
        );
    }

    #[test]
    fn mistakes_name_their_place() {
        let (config, _) =
            Config::parse("hedgerow.toml", EXAMPLE).unwrap_or_else(|r| panic!("{}", r.render(false)));
        let absent = NodeFile { node: "nobody".into(), path: "/nowhere".into() };
        assert!(compare(&config, &absent).unwrap_err().contains("no node is called `nobody`; there are a"));
        assert!("a".parse::<NodeFile>().unwrap_err().contains("NODE=FILE"));
        let path = std::env::temp_dir().join(format!("hedgerow-node-bad-{}", std::process::id()));
        std::fs::write(&path, "full_node:\n  port: many\n").unwrap();
        let error = compare(&config, &NodeFile { node: "a".into(), path: path.clone() }).unwrap_err();
        std::fs::remove_file(path).unwrap();
        assert!(error.contains("line 2"), "{error}");
    }
}
