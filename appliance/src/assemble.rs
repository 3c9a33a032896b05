//! From a configuration and opened ports to what a [`Core`](crate::core::Core) is told.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::admit;
use hedgerow_dataplane::frame::Abilities;
use hedgerow_dataplane::link::dhcp::Dhcp;
use hedgerow_dataplane::link::{self, LinkConfig};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{self, Accept, Exchange, ListenerId, ShardIndex, ShardLink, Target};
use hedgerow_dataplane::tcp::{self, EngineConfig};
use hedgerow_dataplane::wire::{Address, LinkId, Prefix};
use hedgerow_policy::chia::{NodeType, NodeTypes, Standard};
use hedgerow_policy::gate::{self, Privacy};
use hedgerow_policy::identity::Fleet;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::{Acceptor, Connector, Credential, Settings, SetupError};
use hedgerow_policy::{PeerId, relay};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{Config, Listener, Mode, PeerType, Pool, Port, Protocol, Share};
use crate::core::{CoreConfig, Errand, NO_LISTENER};
use crate::identity::Secret;
use crate::pool::{NodeConfig, PATIENCE, PoolConfig};
use crate::sessions::{Kind, Outward};
use crate::sockets;

/// Bytes of unfinished messages that one node may hold.
const UNFINISHED_PER_NODE: u64 = 64 << 20;

/// Why a configuration that is right in itself cannot be put to work.
#[derive(Debug)]
pub enum AssembleError {
    /// A certificate or key file cannot be used.
    File(PathBuf, String),
    /// The policy refused.
    Setup(SetupError),
}

impl fmt::Display for AssembleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AssembleError::File(path, problem) => write!(f, "{}: {problem}", path.display()),
            AssembleError::Setup(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for AssembleError {}

impl From<SetupError> for AssembleError {
    fn from(error: SetupError) -> Self {
        AssembleError::Setup(error)
    }
}

/// A core's place among those of the appliance.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its number.
    pub index: u16,
    /// How many there are.
    pub shards: u16,
    /// What their shards share, where there are several.
    pub exchange: Option<Arc<Exchange>>,
}

impl Place {
    /// The place of a core that is alone.
    pub fn alone() -> Self {
        Place { index: 0, shards: 1, exchange: None }
    }
}

/// Memory that a shard reserves at its start for each connection that it may hold, in bytes, buffers apart: an upper bound,
/// which `tests/tests/shard_memory.rs` holds. A third of it is used before a connection comes.
pub const FLOW_BYTES: usize = 1_536;

/// Slots of one shard's flow table. Each shard has an equal part of all connections, which the device deals out evenly.
pub fn flows(config: &Config, shards: u16) -> usize {
    // An evicted flow keeps its slot until its end was reported: newcomers of the same batch find a spare one.
    config.limits.flows.div_ceil(usize::from(shards.max(1))) + hedgerow_dataplane::frame::BATCH
}

/// What a core of `config` is told; `abilities` are those of its ports, in order. `seed` is its own randomness of this run.
pub fn core(
    config: &Config,
    abilities: &[&Abilities],
    secret: &Secret,
    seed: [u8; 32],
    place: Place,
) -> CoreConfig {
    let limits = &config.limits;
    let shards = u32::from(place.shards.max(1));
    let flows_each = limits.flows.div_ceil(shards as usize);
    let polled = config.ports.iter().any(|port| !port.is_sockets());
    let connect_timeout = config.pools.iter().map(|pool| pool.dial_timeout).max();
    CoreConfig {
        shard: shard::Config {
            links: config
                .ports
                .iter()
                .zip(abilities)
                .map(|(port, a)| {
                    // Who only looks on has no address of its own to find out about.
                    let tap = config.mode == Mode::Tap;
                    let mut link = link(config, port, a, shards);
                    link.shared |= tap;
                    ShardLink::new(link, a)
                })
                .collect(),
            listeners: config.listeners.iter().map(listener).collect(),
            admit: admit::Limits {
                flows: u32::try_from(flows_each).unwrap_or(u32::MAX),
                per_source: limits.per_source,
                per_24: limits.per_24,
                per_16_percent: limits.per_16_percent,
                v6_64: limits.v6_64,
                v6_48: limits.v6_48,
                handshakes_in_flight: limits.handshakes_in_flight.div_ceil(shards),
                handshake_longest: limits.handshake_timeout,
                handshake_shortest: limits.handshake_timeout.min(Duration::from_secs(3)),
                per_listener: u32::try_from(
                    limits.flows as u64 * u64::from(limits.per_listener_percent) / 100,
                )
                .unwrap_or(u32::MAX),
                source_per_minute: limits.source_per_minute,
                prefix_per_minute: limits.prefix_per_minute,
                sessions_per_second: limits.sessions_per_second,
                source_bytes: limits.source_bytes,
                prefix_bytes: limits.prefix_bytes,
                friends_percent: limits.friends_percent,
                known_percent: limits.known_percent,
            },
            engine: EngineConfig {
                flows: if polled { flows(config, place.shards) } else { hedgerow_dataplane::frame::BATCH },
                time_waits: if polled { flows_each } else { 1 },
                blocks: usize::try_from(buffers(config, true)).unwrap_or(usize::MAX) / tcp::BLOCK,
                connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(5)),
                ..EngineConfig::default()
            },
            screen: {
                let standard = ScreenConfig::default();
                // What one prefix is answered comes from all shards together.
                ScreenConfig { replies_per_second: standard.replies_per_second.div_ceil(shards), ..standard }
            },
            cookie_secret: Master(secret.derive("cookies")),
            seed,
            index: ShardIndex::of(place.index, place.shards),
            exchange: place.exchange,
            egress: crate::egress::layout(config, place.index),
        },
        listener_pools: config.listeners.iter().map(|listener| listener.pool).collect(),
        errands: config.listeners.iter().map(errand).collect(),
        pools: pools(config),
        own_nodes: own_nodes(config),
        work_queue: limits.work_queue,
        events: limits.events.max(64),
    }
}

/// Buffer memory of one shard's own TCP, or of its sockets, in bytes: they have halves where both are there.
fn buffers(config: &Config, polled: bool) -> u64 {
    let each = config.limits.buffer_memory / u64::from(config.cores.shards());
    let of_that_kind = |port: &&Port| port.is_sockets() != polled;
    match config.ports.iter().filter(of_that_kind).count() {
        0 => 0,
        count if count == config.ports.len() => each,
        _ => each / 2,
    }
}

/// What the sockets of a core are told, of which `core` is told the rest; `None` where no port has any.
pub fn sockets(
    config: &Config,
    core: &CoreConfig,
    census: &Arc<admit::Census>,
    seed: [u8; 16],
) -> Option<sockets::Setup> {
    let own = |port: &Port| port.addresses.iter().map(|own| own.address).collect::<Vec<_>>();
    let sources: Vec<_> = config.ports.iter().map(|port| port.is_sockets().then(|| own(port))).collect();
    let wanted = |(number, listener): (u16, &Listener)| {
        let own = sources[listener.port].iter().flatten().copied();
        let own = own.filter(|own| listener.address.is_none_or(|wanted| wanted == *own)).collect::<Vec<_>>();
        let port = listener.local_port;
        own.into_iter().map(move |own| sockets::Wanted {
            address: SocketAddr::new(own, port),
            listener: ListenerId(number),
        })
    };
    let listeners = (0u16..).zip(&config.listeners).flat_map(wanted).collect();
    sources.iter().any(Option::is_some).then(|| sockets::Setup {
        listeners,
        sources: sources.clone(),
        limits: core.shard.admit,
        flows: core.shard.admit.flows as usize,
        memory: buffers(config, false),
        shard: (core.shard.index.index, config.cores.shards()),
        census: census.clone(),
        seed,
    })
}

fn link(config: &Config, port: &Port, abilities: &Abilities, shards: u32) -> LinkConfig {
    let standard = LinkConfig::default();
    if port.is_sockets() {
        // Its addresses are the kernel's, and no frame comes.
        return LinkConfig { mtu: abilities.mtu, ..standard };
    }
    LinkConfig {
        pings_per_second: standard.pings_per_second.div_ceil(shards),
        mtu: port.mtu.unwrap_or(abilities.mtu),
        vlan: port.vlan,
        addresses: port.addresses.iter().map(|a| prefix(a.address, a.length)).collect(),
        gateways: port.gateways.iter().map(|&hop| hop.into()).collect(),
        shared: port.share == Share::Listeners,
        dhcp: port.dhcp.then(|| Dhcp { taken: taken(config), last: port.last.map(Into::into) }),
        routes: port
            .routes
            .iter()
            .map(|(to, via)| link::Route {
                prefix: prefix(to.addr(), to.prefix_len()),
                gateway: Some((*via).into()),
            })
            .collect(),
        ..standard
    }
}

/// Addresses that no DHCP server may give us.
fn taken(config: &Config) -> Vec<Address> {
    let own = config.ports.iter().flat_map(|port| &port.addresses).map(|own| own.address);
    let nodes = config.pools.iter().flat_map(|pool| &pool.nodes).map(|node| node.address.ip());
    own.chain(nodes).filter(IpAddr::is_ipv4).map(Address::from).collect()
}

fn prefix(address: IpAddr, length: u8) -> link::Prefix {
    link::Prefix { address: address.into(), length }
}

fn listener(listener: &Listener) -> shard::Listener {
    shard::Listener {
        link: LinkId(listener.port as u8),
        address: listener.address.map(Into::into),
        port: listener.local_port,
        accept: match listener.protocol {
            Protocol::Chia => Accept::ClientHello,
            Protocol::Tcp => Accept::Handshake,
        },
    }
}

/// What no ban may concern, by the names that the configuration has for it.
pub fn protected(config: &Config) -> Vec<(Prefix, String)> {
    let own = |port: &Port| {
        let addresses = port.addresses.iter().map(|own| own.address);
        let own: Vec<IpAddr> = addresses.chain(port.gateways.iter().copied()).collect();
        let name = format!("port.{}", port.name);
        own.into_iter().map(move |ip| (Prefix::host(ip.into()), name.clone()))
    };
    let nodes = config.pools.iter().flat_map(|pool| &pool.nodes);
    let nodes = nodes.map(|node| (Prefix::host(node.address.ip().into()), format!("the node {}", node.name)));
    let friends = config.limits.friends.iter().map(|net| (network(net), "a friend".to_owned()));
    let never = config.bans.never.iter().map(|net| (network(net), "`bans.never`".to_owned()));
    config.ports.iter().flat_map(own).chain(nodes).chain(friends).chain(never).collect()
}

pub(crate) fn network(net: &ipnet::IpNet) -> Prefix {
    Prefix::of(net.addr().into(), net.prefix_len())
}

/// The pools. Light peers look at those that a listener leads to which speaks Chia, unless nothing may be sent at all.
pub fn pools(config: &Config) -> Vec<PoolConfig> {
    let watched = |index| {
        let speaks = |listener: &Listener| listener.pool == index && listener.protocol == Protocol::Chia;
        config.mode != Mode::Tap && config.listeners.iter().any(speaks)
    };
    config.pools.iter().enumerate().map(|(index, one)| pool(one, watched(index))).collect()
}

/// Identities of nodes that no pool has.
pub fn own_nodes(config: &Config) -> Vec<PeerId> {
    config.identity.iter().flat_map(|i| &i.own_nodes).map(|id| PeerId(*id)).collect()
}

fn errand(listener: &Listener) -> Errand {
    Errand { backend: listener.backend, node_port: listener.node_port }
}

fn pool(pool: &Pool, watched: bool) -> PoolConfig {
    let node = |node: &crate::config::Node| NodeConfig {
        name: node.name.as_str().into(),
        role: node.role,
        weight: node.weight,
        target: Target {
            link: LinkId(node.port as u8),
            address: node.address.ip().into(),
            port: node.address.port(),
        },
    };
    PoolConfig {
        name: pool.name.clone(),
        nodes: pool.nodes.iter().map(node).collect(),
        transparent: pool.source.is_transparent(),
        dials_per_second: pool.dials_per_second,
        dial_timeout: pool.dial_timeout,
        slots: pool.slots,
        node_slots: pool.node_slots.iter().map(|&(kind, slots)| (node_type(kind), slots)).collect(),
        watched,
        peak: Arc::default(),
    }
}

/// What each listener makes of a connection, where the pools are those that [`pools`] made. One RSA signature for the fleet's
/// intermediate, and a leaf per service address, are made here.
pub fn kinds(
    config: &Config,
    pools: &[PoolConfig],
    secret: &Secret,
    settings: &Settings,
) -> Result<Vec<Kind>, AssembleError> {
    sessions(config, pools, secret, settings).map(|(kinds, _)| kinds)
}

/// The same, and what is made of connections that nodes begin, where some of them are inspected.
pub fn sessions(
    config: &Config,
    pools: &[PoolConfig],
    secret: &Secret,
    settings: &Settings,
) -> Result<(Vec<Kind>, Option<Outward>), AssembleError> {
    let held = gate::Budget::new(config.limits.message_memory);
    let budget = |pool: &Pool| gate::Budgets {
        nodes: gate::Budget::new(UNFINISHED_PER_NODE * pool.nodes.len().max(1) as u64),
        held: held.clone(),
    };
    let budgets: Vec<gate::Budgets> = config.pools.iter().map(budget).collect();
    let standards = standards(config, pools);
    let inspecting = config.egress.as_ref().filter(|way| way.inspects_any());
    let speaks = config.listeners.iter().any(|l| l.protocol == Protocol::Chia);
    let identities = match speaks || inspecting.is_some() {
        true => Some(Identities::new(config, secret, settings)?),
        false => None,
    };
    let kind = |(index, listener): (usize, &Listener)| {
        let pool = &config.pools[listener.pool];
        match (listener.protocol, &identities) {
            (Protocol::Chia, Some(identities)) => {
                let (budgets, standard) = (&budgets[listener.pool], &standards[listener.pool]);
                identities.gates(config, index, pool, budgets, standard).map(Kind::Gate)
            }
            _ => Ok(Kind::Relay(relay::Config {
                dial: dial_deadline(pool),
                proxy_header: listener.proxy_protocol.is_some(),
                ..relay::Config::default()
            })),
        }
    };
    let kinds = config.listeners.iter().enumerate().map(kind).collect::<Result<_, _>>()?;
    let outward = match (inspecting, identities) {
        (Some(way), Some(identities)) => Some(identities.outward(config, way, &budgets, &standards)?),
        _ => None,
    };
    Ok((kinds, outward))
}

/// What messages are judged by beside the rules, for each pool: what one node shows to be true holds for all of its pool.
fn standards(config: &Config, pools: &[PoolConfig]) -> Vec<Standard> {
    let usual = Standard::default();
    let standard = |(pool, shared): (&Pool, &PoolConfig)| Standard {
        truth: Arc::default(),
        peak: shared.peak.clone(),
        // Towards an address of the peer's own, a node limits itself.
        paces: !pool.source.is_transparent(),
        ..usual.clone()
    };
    config.pools.iter().zip(pools).map(standard).collect()
}

/// The queue's patience, and as many failed dials as anyone would wait for.
fn dial_deadline(pool: &Pool) -> Duration {
    PATIENCE + pool.dial_timeout * pool.nodes.len().clamp(1, 3) as u32
}

/// What the gates of all listeners have in common.
struct Identities<'a> {
    settings: &'a Settings,
    authority: Authority,
    fleet: Arc<Fleet>,
    connector: Connector,
    imported: Option<Credential>,
}

impl<'a> Identities<'a> {
    fn new(config: &Config, secret: &Secret, settings: &'a Settings) -> Result<Self, AssembleError> {
        let imported = config.identity.as_ref().and_then(|identity| identity.certificate.as_ref());
        let authority = Authority::chia()?;
        Ok(Identities {
            settings,
            fleet: Fleet::new(secret.bytes(), &authority)?,
            authority,
            connector: Connector::new(settings, None)?,
            imported: imported.map(|(certificate, key)| credential(certificate, key)).transpose()?,
        })
    }

    /// A gate's configuration for each service address of a listener.
    fn gates(
        &self,
        config: &Config,
        index: usize,
        pool: &Pool,
        budgets: &gate::Budgets,
        standard: &Standard,
    ) -> Result<BTreeMap<IpAddr, Arc<gate::Config>>, AssembleError> {
        let listener = &config.listeners[index];
        let port = &config.ports[listener.port];
        // Whichever address DHCP gives has the entry for all.
        let leased = port.dhcp.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let all = port.addresses.iter().map(|own| own.address).chain(leased);
        let served = all.filter(|own| listener.address.is_none_or(|wanted| wanted == *own));
        let gate = |address: IpAddr| {
            let credential = match &self.imported {
                Some(imported) => imported.clone(),
                None => self.fleet.service(&self.authority, address, listener.local_port)?,
            };
            let acceptor = Acceptor::new(self.settings, credential)?;
            let usual =
                gate::Config::new(&listener.network, acceptor, self.connector.clone(), self.fleet.clone());
            let deadlines = gate::Deadlines {
                tls: config.limits.handshake_timeout,
                dial: dial_deadline(pool),
                ..usual.deadlines
            };
            let gate = gate::Config {
                listener: index as u16,
                privacy: (!listener.backend)
                    .then(|| privacy(config, Some(SocketAddr::new(address, listener.local_port)))),
                types: listener
                    .types
                    .iter()
                    .fold(NodeTypes::NONE, |types, kind| types.with(node_type(*kind))),
                // A node that sees the peer's own address may also know its port.
                server_port: if pool.source.is_transparent() { None } else { Some(0) },
                deadlines,
                budgets: budgets.clone(),
                standard: standard.clone(),
                ..usual
            };
            Ok((address, Arc::new(gate)))
        };
        served.map(gate).collect()
    }

    /// What sessions have in common that nodes begin, by pool. A node shows the same outside whatever goes through, so what it
    /// says of itself is edited as in sessions of peers that come.
    fn outward(
        self,
        config: &Config,
        way: &crate::config::egress::Egress,
        budgets: &[gate::Budgets],
        standards: &[Standard],
    ) -> Result<Outward, AssembleError> {
        let own = config.ports[way.port].addresses.first().map(|own| own.address);
        let own = own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        // Which one a gate is made with is of no matter: nodes are shown their peers'.
        let credential = self.fleet.service(&self.authority, own, 0)?;
        let acceptor = Acceptor::new(self.settings, credential)?;
        let gate = |index: usize| {
            let public = |listener: &&Listener| {
                listener.pool == index && listener.protocol == Protocol::Chia && !listener.backend
            };
            let all = || config.listeners.iter().filter(|listener| listener.protocol == Protocol::Chia);
            let listener = all().find(public);
            let network = listener.or(all().next()).map_or("mainnet", |listener| listener.network.as_str());
            let service = listener.and_then(|listener| {
                let first = config.ports[listener.port].addresses.first().map(|own| own.address);
                Some(SocketAddr::new(listener.address.or(first)?, listener.local_port))
            });
            let usual =
                gate::Config::new(network, acceptor.clone(), self.connector.clone(), self.fleet.clone());
            Arc::new(gate::Config {
                listener: NO_LISTENER,
                types: NodeTypes::NONE.with(NodeType::FullNode).with(NodeType::Introducer),
                privacy: Some(privacy(config, service)),
                server_port: None,
                budgets: budgets[index].clone(),
                // A node sees its peer's own address, and limits itself.
                standard: Standard { paces: false, ..standards[index].clone() },
                ..usual
            })
        };
        let outward = Outward::new((0..config.pools.len()).map(gate).collect(), self.fleet, self.authority);
        for node in config.pools.iter().flat_map(|pool| &pool.nodes).filter(|node| way.inspects(&node.name)) {
            outward.showing(&node.name)?;
        }
        Ok(outward)
    }
}

/// What stays inside: all nodes' addresses, and the appliance's own on ports that no peer comes to.
fn privacy(config: &Config, service: Option<SocketAddr>) -> Privacy {
    let public: Vec<usize> = config.listeners.iter().filter(|l| !l.backend).map(|l| l.port).collect();
    let inner = config.ports.iter().enumerate().filter(|(number, _)| !public.contains(number));
    Privacy {
        nodes: config.pools.iter().flat_map(|pool| &pool.nodes).map(|node| node.address.ip()).collect(),
        inner: inner.flat_map(|(_, port)| &port.addresses).map(|own| own.address).collect(),
        service,
    }
}

fn node_type(kind: PeerType) -> NodeType {
    match kind {
        PeerType::FullNode => NodeType::FullNode,
        PeerType::Wallet => NodeType::Wallet,
    }
}

/// An imported certificate and its key.
fn credential(certificate: &Path, key: &Path) -> Result<Credential, AssembleError> {
    let file =
        |path: &Path, error: &dyn fmt::Display| AssembleError::File(path.to_owned(), error.to_string());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|e| file(certificate, &e))?;
    if chain.is_empty() {
        return Err(AssembleError::File(certificate.to_owned(), "holds no certificate in PEM form".into()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| file(key, &e))?;
    Ok(Credential { chain, key })
}
