//! `[egress]` as it is meant: who may go out, where to, and under which address.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::units::Misread;
use crate::pool::Role;

/// The way out for nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Place in the ports of the one that leads to the world.
    pub port: usize,
    /// What IPv4 conversations show; `None`: nodes have no way out by IPv4.
    pub address: Option<IpAddr>,
    /// Ports shown outside.
    pub ports: RangeInclusive<u16>,
    /// Ports of each node.
    pub ports_per_node: u16,
    /// Sessions of all nodes together.
    pub sessions: usize,
    /// Who may go out, by role.
    pub access: [Access; 3],
    /// What nodes may begin.
    pub allow: Vec<Purpose>,
    /// Where they never go, beside our own addresses and networks.
    pub refuse: Vec<IpNet>,
    /// What of that passes the policy.
    pub inspect: Inspection,
    /// What is different for a node.
    pub nodes: BTreeMap<String, NodeEgress>,
    /// When the way out of those with [`Access::Emergency`] opens by itself.
    pub emergency: Emergency,
}

impl Egress {
    /// Who may go out of those with a role.
    pub fn of_role(&self, role: Role) -> Access {
        self.access[role as usize]
    }

    /// Whether those of any node may do.
    pub fn inspects_any(&self) -> bool {
        self.inspect.on || self.nodes.values().any(|own| own.inspect == Some(true))
    }

    /// Whether connections of a node to Chia peers pass the policy.
    pub fn inspects(&self, node: &str) -> bool {
        self.nodes.get(node).and_then(|own| own.inspect).unwrap_or(self.inspect.on)
    }
}

/// Which connections of nodes are not passed on but end here, go through the policy as those of peers that come, and are opened
/// anew to where they were going.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Those of all nodes for which nothing else is said.
    pub on: bool,
    /// TCP ports of Chia peers.
    pub ports: Vec<u16>,
    /// Connections of one node at once.
    pub at_once: u32,
}

impl Default for Inspection {
    fn default() -> Self {
        Inspection { on: false, ports: vec![8_444], at_once: 64 }
    }
}

/// What is different for a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeEgress {
    /// Whether it may go out.
    pub access: Option<Access>,
    /// Addresses that it has beside the one at which it is dialled.
    pub addresses: Vec<IpAddr>,
    /// What it may begin.
    pub allow: Option<Vec<Purpose>>,
    /// Whether its connections to Chia peers pass the policy.
    pub inspect: Option<bool>,
}

/// Whether a node may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Never.
    #[default]
    Closed,
    /// While an emergency lasts, or for a time that the operator says.
    Emergency,
    /// Always.
    Open,
}

/// When an emergency begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emergency {
    /// No public node has been healthy for so long: it begins.
    pub after: Duration,
    /// A public node has been healthy for so long: it ends.
    pub hold: Duration,
    /// It lasts no longer.
    pub at_most: Duration,
    /// None begins so soon after another.
    pub cool_down: Duration,
}

impl Default for Emergency {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Emergency { after: minutes(1), hold: minutes(5), at_most: minutes(360), cool_down: minutes(30) }
    }
}

/// A protocol of the Internet that a node may speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Echo requests.
    Ping,
}

/// What a node may begin: `chia`, `dns to 192.0.2.53`, `tcp 443`, `udp 8000-8010 to 198.51.100.0/24`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// As it was written.
    pub text: String,
    /// By which protocols, to which ports.
    pub kinds: Vec<(Transport, RangeInclusive<u16>)>,
    /// Where to; empty: anywhere.
    pub to: Vec<IpNet>,
}

/// What nodes may begin where nothing else is said: their peers and the introducer, names, and the time.
pub const USUAL: [&str; 3] = ["chia", "dns", "ntp"];

const ALL: RangeInclusive<u16> = 1..=u16::MAX;

impl FromStr for Purpose {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        let wrong = || {
            Misread::new(
                format_args!("`{text}` is nothing that a node could be let do"),
                "\"chia\", \"dns\", \"ntp\", \"ping\", \"any\", \"tcp 443\" or \"udp 8000-8010\", and perhaps \"to 198.51.100.0/24\" behind it",
            )
        };
        let (what, to) = match text.split_once(" to ") {
            Some((what, to)) => (what.trim(), to.split(',').map(|net| net.trim().to_owned()).collect()),
            None => (text.trim(), Vec::new()),
        };
        let network = |text: &String| text.parse::<super::units::Network>().map(|net| net.0);
        let to = to.iter().map(network).collect::<Result<Vec<IpNet>, _>>()?;
        let one = |port: u16| port..=port;
        let kinds = match what {
            "chia" => vec![(Transport::Tcp, one(8_444))],
            "dns" => vec![(Transport::Udp, one(53)), (Transport::Tcp, one(53))],
            "ntp" => vec![(Transport::Udp, one(123))],
            "ping" => vec![(Transport::Ping, ALL)],
            "any" => vec![(Transport::Tcp, ALL), (Transport::Udp, ALL), (Transport::Ping, ALL)],
            other => {
                let (protocol, ports) = other.split_once(' ').ok_or_else(wrong)?;
                let protocol = match protocol {
                    "tcp" => Transport::Tcp,
                    "udp" => Transport::Udp,
                    _ => return Err(wrong()),
                };
                let ports: PortRange = ports.trim().parse()?;
                vec![(protocol, ports.0)]
            }
        };
        Ok(Purpose { text: text.to_owned(), kinds, to })
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `443` or `8000-8010`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange(pub RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<u16>().ok().filter(|&port| port > 0);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(PortRange(first..=last)),
            _ => Err(Misread::new(
                format_args!("`{text}` are no ports"),
                "a port or two with a dash between them, such as \"16384-32767\"",
            )),
        }
    }
}
