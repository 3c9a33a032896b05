//! The configuration file as it is written: one structure per section, unknown fields refused.
//!
//! Values that other sections are checked against keep the place in the file where they stand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use crate::pool::Role;

use super::egress::{Access, PortRange, Purpose};
use super::units::{Hop, Network, NodeAddress, NodeId, OwnAddress, Period, Prefix, Size};
use super::{AnswerSyns, Driver, Mode, Poll, Protocol, Share, SourceChoice, Stuck};

/// All sections, as far as they could be read.
#[derive(Default)]
pub(super) struct File {
    pub(super) version: Option<Spanned<i64>>,
    pub(super) mode: Option<Spanned<Mode>>,
    pub(super) cores: Option<Cores>,
    pub(super) management: Option<Management>,
    pub(super) ports: BTreeMap<String, Spanned<Port>>,
    pub(super) listeners: Vec<Spanned<Listener>>,
    pub(super) pools: BTreeMap<String, Spanned<Pool>>,
    pub(super) identity: Option<Spanned<Identity>>,
    pub(super) limits: Option<Limits>,
    pub(super) policy: Option<Policy>,
    pub(super) bans: Option<Bans>,
    pub(super) egress: Option<Spanned<Egress>>,
}

/// The sections of a file.
pub(super) const SECTIONS: &[&str] = &[
    "version",
    "mode",
    "cores",
    "management",
    "port",
    "listener",
    "pool",
    "identity",
    "limits",
    "policy",
    "bans",
    "egress",
];

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Policy {
    pub(super) file: Option<Spanned<PathBuf>>,
    pub(super) history: Option<Spanned<PathBuf>>,
    pub(super) watch: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Cores {
    pub(super) dataplane: Option<Spanned<CoreChoice>>,
    pub(super) poll: Option<Poll>,
    pub(super) workers: Option<Spanned<i64>>,
    pub(super) watchdog: Option<Spanned<Period>>,
    pub(super) stuck: Option<Stuck>,
}

/// `"auto"`, the number of one core, or a list of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CoreChoice {
    Auto,
    Number(usize),
    List(Vec<usize>),
}

impl<'de> Deserialize<'de> for CoreChoice {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = CoreChoice;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\", the number of a core, or a list of numbers")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<CoreChoice, A::Error> {
                let mut cores = Vec::new();
                while let Some(core) = list.next_element()? {
                    cores.push(core);
                }
                Ok(CoreChoice::List(cores))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<CoreChoice, E> {
                match text {
                    "auto" => Ok(CoreChoice::Auto),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<CoreChoice, E> {
                usize::try_from(number)
                    .map(CoreChoice::Number)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Management {
    pub(super) socket: Option<Spanned<PathBuf>>,
    pub(super) events: Option<Spanned<PathBuf>>,
    pub(super) nodes: Option<Spanned<PathBuf>>,
    pub(super) known: Option<Spanned<PathBuf>>,
    pub(super) leases: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    #[serde(default)]
    pub(super) device: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) driver: Option<Spanned<Driver>>,
    pub(super) address: Spanned<Vec<Spanned<OwnAddress>>>,
    #[serde(default)]
    pub(super) gateway: Vec<Spanned<Hop>>,
    #[serde(default)]
    pub(super) routes: Vec<Spanned<Route>>,
    #[serde(default)]
    pub(super) mtu: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) vlan: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) strangers_per_second: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) answer_syns: Option<Spanned<AnswerSyns>>,
    #[serde(default)]
    pub(super) share: Option<Spanned<Share>>,
}

impl Port {
    /// The addresses that are written.
    pub(super) fn fixed(&self) -> Vec<Spanned<Prefix>> {
        let fixed = |written: &Spanned<OwnAddress>| match *written.get_ref() {
            OwnAddress::Fixed(prefix) => Some(Spanned::new(written.span(), prefix)),
            OwnAddress::Dhcp => None,
        };
        self.address.get_ref().iter().filter_map(fixed).collect()
    }

    /// Where it says that an address comes by DHCP.
    pub(super) fn dhcp(&self) -> impl Iterator<Item = Range<usize>> {
        let written = self.address.get_ref().iter().filter(|own| *own.get_ref() == OwnAddress::Dhcp);
        written.map(Spanned::span)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) to: Network,
    pub(super) via: Spanned<Hop>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) name: Spanned<String>,
    pub(super) port: Spanned<String>,
    #[serde(default)]
    pub(super) address: Option<Spanned<Hop>>,
    pub(super) local_port: Spanned<i64>,
    pub(super) protocol: Spanned<Protocol>,
    #[serde(default)]
    pub(super) proxy_protocol: Option<Spanned<super::ProxyProtocol>>,
    #[serde(default)]
    pub(super) network: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) types: Option<Spanned<Vec<Spanned<super::PeerType>>>>,
    #[serde(default)]
    pub(super) backend: bool,
    #[serde(default)]
    pub(super) node_port: Option<Spanned<i64>>,
    pub(super) pool: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pool {
    pub(super) nodes: Spanned<Vec<Spanned<NodeAddress>>>,
    #[serde(default)]
    pub(super) source: Option<Spanned<SourceChoice>>,
    #[serde(default)]
    pub(super) dials_per_second: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) dial_timeout: Option<Spanned<Period>>,
    #[serde(default)]
    pub(super) slots: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) node_slots: BTreeMap<super::PeerType, Spanned<i64>>,
    #[serde(default)]
    pub(super) role: Role,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    pub(super) secret: PathBuf,
    #[serde(default)]
    pub(super) own_nodes: Vec<NodeId>,
    #[serde(default)]
    pub(super) certificate: Option<PathBuf>,
    #[serde(default)]
    pub(super) key: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub(super) flows: Option<Spanned<i64>>,
    pub(super) per_source: Option<Spanned<i64>>,
    pub(super) per_24: Option<Spanned<i64>>,
    pub(super) per_16_percent: Option<Spanned<i64>>,
    pub(super) v6_64: Option<Spanned<i64>>,
    pub(super) v6_48: Option<Spanned<i64>>,
    pub(super) per_listener_percent: Option<Spanned<i64>>,
    pub(super) source_per_minute: Option<Spanned<i64>>,
    pub(super) prefix_per_minute: Option<Spanned<i64>>,
    pub(super) sessions_per_second: Option<Spanned<i64>>,
    pub(super) source_bytes: Option<Spanned<Size>>,
    pub(super) prefix_bytes: Option<Spanned<Size>>,
    pub(super) friends: Option<Spanned<Vec<Network>>>,
    pub(super) friends_percent: Option<Spanned<i64>>,
    pub(super) known_percent: Option<Spanned<i64>>,
    pub(super) handshakes_in_flight: Option<Spanned<i64>>,
    pub(super) handshake_timeout: Option<Spanned<Period>>,
    pub(super) buffer_memory: Option<Spanned<Size>>,
    pub(super) message_memory: Option<Spanned<Size>>,
    pub(super) work_queue: Option<Spanned<i64>>,
    pub(super) events: Option<Spanned<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Bans {
    pub(super) file: Option<Spanned<PathBuf>>,
    pub(super) policy: Option<bool>,
    pub(super) close: Option<bool>,
    pub(super) never: Option<Vec<Network>>,
    pub(super) first: Option<Spanned<Period>>,
    pub(super) longest: Option<Spanned<Period>>,
    pub(super) most: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Egress {
    pub(super) port: Spanned<String>,
    #[serde(default)]
    pub(super) address: Option<Spanned<Hop>>,
    #[serde(default)]
    pub(super) ports: Option<Spanned<PortRange>>,
    #[serde(default)]
    pub(super) ports_per_node: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) sessions: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) public: Option<Access>,
    #[serde(default)]
    pub(super) protected: Option<Access>,
    #[serde(default)]
    pub(super) hidden: Option<Access>,
    #[serde(default)]
    pub(super) allow: Option<Vec<Purpose>>,
    #[serde(default)]
    pub(super) refuse: Vec<Network>,
    #[serde(default)]
    pub(super) inspect: Option<bool>,
    #[serde(default)]
    pub(super) inspect_ports: Option<Spanned<Vec<i64>>>,
    #[serde(default)]
    pub(super) inspect_at_once: Option<Spanned<i64>>,
    #[serde(default)]
    pub(super) node: BTreeMap<String, Spanned<NodeEgress>>,
    #[serde(default)]
    pub(super) emergency: Emergency,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeEgress {
    #[serde(default)]
    pub(super) access: Option<Access>,
    #[serde(default)]
    pub(super) addresses: Vec<Spanned<Hop>>,
    #[serde(default)]
    pub(super) allow: Option<Vec<Purpose>>,
    #[serde(default)]
    pub(super) inspect: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Emergency {
    pub(super) after: Option<Spanned<Period>>,
    pub(super) hold: Option<Spanned<Period>>,
    pub(super) at_most: Option<Spanned<Period>>,
    pub(super) cool_down: Option<Spanned<Period>>,
}
