//! From sections to a [`Config`]: ranges, references between sections, and what cannot work on a network.
//!
//! Nothing here stops at the first mistake. References into sections that could not be read are not reported twice.

mod bans;
mod cores;
mod egress;
mod limits;
mod ports;
mod sockets;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;

use super::diagnostic::{Diagnostic, nearest};
use super::file::{self, File};
use super::units::{Hop, NodeAddress, Period};
use super::{
    Config, Driver, Identity, Listener, Management, Mode, Node, PeerType, PolicyFiles, Pool, Port, Protocol,
};

/// The default path of the control socket.
const SOCKET: &str = "/run/hedgerow.sock";
/// Longest path of a Unix socket, in bytes: a byte less than the kernel's structure has (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Checks the sections against each other. `complete` says that all of them could be read.
pub(super) fn lower(file: File, complete: bool, out: &mut Vec<Diagnostic>) -> Option<Config> {
    let mut lowering = Lowering { out, complete };
    lowering.version(file.version.as_ref());
    let ports = lowering.ports(&file.ports);
    let mode = lowering.mode(file.mode.as_ref(), &ports);
    let pools = lowering.pools(&file.pools, &ports);
    let listeners = lowering.listeners(&file.listeners, &ports, &pools);
    let identity = lowering.identity(file.identity.as_ref(), &file.listeners);
    let limits = lowering.limits(file.limits.unwrap_or_default());
    let policy = lowering.policy(file.policy.unwrap_or_default());
    let bans = lowering.bans(file.bans.unwrap_or_default());
    lowering.families(&file.listeners, &listeners, &ports, &pools);
    lowering.unused(&listeners, &pools);
    let cores = lowering.cores(file.cores.unwrap_or_default(), &limits);
    lowering.shared(&file.ports, &ports, &pools);
    let egress = lowering.egress(file.egress, &ports, &pools, &listeners, identity.is_some());
    lowering.kernel_nodes(&file.pools, &ports, &pools, &listeners);
    let management = lowering.management(file.management.unwrap_or_default());
    Some(Config {
        mode,
        cores,
        management,
        ports: ports.0.into_iter().map(|port| port.value).collect(),
        listeners,
        pools: pools.0.into_iter().map(|pool| pool.value).collect(),
        identity,
        limits,
        policy,
        bans,
        egress,
    })
}

/// A section with its place in the file.
struct Placed<T> {
    span: Range<usize>,
    value: T,
}

struct Ports(Vec<Placed<Port>>);
struct Pools(Vec<Placed<Pool>>);

struct Lowering<'a> {
    out: &'a mut Vec<Diagnostic>,
    complete: bool,
}

impl Lowering<'_> {
    fn error(&mut self, diagnostic: Diagnostic) {
        self.out.push(diagnostic);
    }

    fn version(&mut self, version: Option<&Spanned<i64>>) {
        match version {
            Some(version) if *version.get_ref() == 1 => {}
            Some(version) => self.error(Diagnostic::error(
                version.span(),
                format!("this program does not know version {} of the configuration", version.get_ref()),
                "expected 1",
            )),
            None if self.complete => self.error(
                Diagnostic::error(
                    0..0,
                    "the configuration does not say its version",
                    "expected at the top of the file",
                )
                .help("add `version = 1`"),
            ),
            None => {}
        }
    }

    /// In tap mode frames are copies: only a packet socket gets those without taking them from the kernel.
    fn mode(&mut self, mode: Option<&Spanned<Mode>>, ports: &Ports) -> Mode {
        let Some(mode) = mode else { return Mode::default() };
        for port in ports.0.iter().filter(|_| *mode.get_ref() == Mode::Tap) {
            if port.value.dhcp {
                let title =
                    format!("`port.{}` asks for its address, and a tap sends nothing", port.value.name);
                self.error(
                    Diagnostic::error(mode.span(), title, "expected ports with addresses")
                        .context(port.span.clone(), "this port"),
                );
            }
            if matches!(port.value.driver, Driver::AfXdp | Driver::Tap | Driver::Sockets) {
                self.error(
                    Diagnostic::error(
                        mode.span(),
                        format!(
                            "`port.{}` takes its frames from the kernel, and a tap only looks on",
                            port.value.name
                        ),
                        "expected ports with driver af-packet",
                    )
                    .context(port.span.clone(), "this port"),
                );
            }
        }
        *mode.get_ref()
    }

    /// An empty path names no file.
    fn policy(&mut self, file: file::Policy) -> PolicyFiles {
        for path in file.file.iter().chain(&file.history).filter(|path| path.get_ref().as_os_str().is_empty())
        {
            self.error(Diagnostic::error(path.span(), "the path is empty", "expected the path of a file"));
        }
        PolicyFiles {
            file: file.file.map(Spanned::into_inner),
            history: file.history.map(Spanned::into_inner),
            watch: file.watch.unwrap_or(false),
        }
    }

    /// An empty path would make a socket without a name, which has no owner either.
    fn management(&mut self, file: file::Management) -> Management {
        for path in file
            .socket
            .iter()
            .chain(&file.events)
            .chain(&file.nodes)
            .chain(&file.known)
            .chain(&file.leases)
            .filter(|path| path.get_ref().as_os_str().is_empty())
        {
            self.error(Diagnostic::error(path.span(), "the path is empty", "expected the path of a file"));
        }
        if let Some(socket) = &file.socket {
            let length = socket.get_ref().as_os_str().len();
            if length > SOCKET_PATH_MAX {
                self.error(Diagnostic::error(
                    socket.span(),
                    format!("{length} bytes are too many for the path of a socket"),
                    format!("expected {SOCKET_PATH_MAX} at most"),
                ));
            }
            if let Some(events) = file.events.as_ref().filter(|events| events.get_ref() == socket.get_ref()) {
                self.error(
                    Diagnostic::error(
                        events.span(),
                        "the event file has the path of the socket",
                        "expected another path",
                    )
                    .context(socket.span(), "the socket"),
                );
            }
        }
        Management {
            socket: file.socket.map_or_else(|| SOCKET.into(), Spanned::into_inner),
            events: file.events.map(Spanned::into_inner),
            nodes: file.nodes.map(Spanned::into_inner),
            known: file.known.map(Spanned::into_inner),
            leases: file.leases.map(Spanned::into_inner),
        }
    }

    /// A number within `range`.
    fn number(&mut self, value: Option<&Spanned<i64>>, range: RangeInclusive<i64>, default: i64) -> i64 {
        let Some(value) = value else { return default };
        if !range.contains(value.get_ref()) {
            self.error(Diagnostic::error(
                value.span(),
                format!("{} is out of range", value.get_ref()),
                format!("expected {} to {}", range.start(), range.end()),
            ));
            return default;
        }
        *value.get_ref()
    }

    fn period(
        &mut self,
        value: Option<&Spanned<Period>>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let Some(value) = value else { return default };
        let Period(period) = *value.get_ref();
        if !range.contains(&period) {
            self.error(Diagnostic::error(
                value.span(),
                format!("{period:?} is out of range"),
                format!("expected {:?} to {:?}", range.start(), range.end()),
            ));
        }
        period
    }

    fn pools(&mut self, files: &BTreeMap<String, Spanned<file::Pool>>, ports: &Ports) -> Pools {
        let pool = |(name, file): (&String, &Spanned<file::Pool>)| Placed {
            span: file.span(),
            value: self.pool(name, file.get_ref(), ports),
        };
        Pools(files.iter().map(pool).collect())
    }

    fn pool(&mut self, name: &str, file: &file::Pool, ports: &Ports) -> Pool {
        let mut nodes: Vec<Node> = Vec::new();
        for (index, node) in file.nodes.get_ref().iter().enumerate() {
            let twin = |n: &&Spanned<NodeAddress>| {
                n.get_ref().name == node.get_ref().name || n.get_ref().address == node.get_ref().address
            };
            if let Some(first) = file.nodes.get_ref()[..index].iter().find(twin) {
                self.error(
                    Diagnostic::error(
                        node.span(),
                        "the same node twice",
                        "expected another name and address",
                    )
                    .context(first.span(), "the first one"),
                );
            }
            let NodeAddress { name, address, role, weight } = node.get_ref().clone();
            let port = self.port_to(node.span(), address.ip(), ports).unwrap_or_default();
            nodes.push(Node { name, address, port, role: role.unwrap_or(file.role), weight });
        }
        if nodes.is_empty() {
            self.error(Diagnostic::error(
                file.nodes.span(),
                "the pool has no nodes",
                "expected at least one, such as \"a=10.0.1.11:8444\"",
            ));
        }
        if nodes.len() > crate::pool::NODES {
            self.error(Diagnostic::error(
                file.nodes.span(),
                format!("{} nodes are too many", nodes.len()),
                format!("expected {} at most", crate::pool::NODES),
            ));
        }
        let dials = self.number(file.dials_per_second.as_ref(), 1..=1_000, 10);
        let slots = self.number(file.slots.as_ref(), 1..=1_000_000, 1_024);
        let seconds = Duration::from_secs;
        Pool {
            name: name.to_owned(),
            nodes,
            source: file.source.as_ref().map(|s| *s.get_ref()).unwrap_or_default(),
            dials_per_second: u32::try_from(dials).unwrap_or(1),
            dial_timeout: self.period(file.dial_timeout.as_ref(), seconds(1)..=seconds(60), seconds(5)),
            slots: usize::try_from(slots).unwrap_or(1),
            node_slots: file
                .node_slots
                .iter()
                .map(|(kind, slots)| (*kind, self.number(Some(slots), 1..=100_000, 1) as u32))
                .collect(),
        }
    }

    /// The port that leads to a node, by longest prefix.
    fn port_to(&mut self, span: Range<usize>, node: IpAddr, ports: &Ports) -> Option<usize> {
        let best = way_to(ports.0.iter().map(|port| &port.value), node);
        // What sockets may reach is looked at once listeners are known.
        if let Some(index) = best.filter(|&index| ports.0[index].value.is_sockets()) {
            return Some(index);
        }
        self.usable(span.clone(), node);
        if ports.0.iter().any(|p| p.value.addresses.iter().any(|a| a.address == node)) {
            self.error(Diagnostic::error(
                span,
                format!("the node {node} has an address of Hedgerow itself"),
                "expected the address of another host",
            ));
            return None;
        }
        if best.is_none() && self.complete {
            let prefixes = ports.0.iter().flat_map(|p| &p.value.addresses).map(|a| a.network().to_string());
            let prefixes = prefixes.collect::<Vec<_>>().join(", ");
            self.error(
                Diagnostic::error(
                    span,
                    format!("no port leads to the node {node}"),
                    format!("expected an address in {prefixes}, or behind a route"),
                )
                .help(format!(
                    "add a route to a port: routes = [{{ to = \"{node}/{}\", via = \"…\" }}]",
                    bits(node)
                )),
            );
        }
        best
    }

    fn listeners(
        &mut self,
        files: &[Spanned<file::Listener>],
        ports: &Ports,
        pools: &Pools,
    ) -> Vec<Listener> {
        if files.is_empty() && self.complete {
            self.error(
                Diagnostic::error(0..0, "there is no listener", "expected a section `[[listener]]`")
                    .help("a listener names the address and TCP port that peers connect to"),
            );
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let listener = self.listener(file.get_ref(), ports, pools);
            for (earlier, other) in listeners.iter().zip(&files[..index]) {
                self.clash(&listener, file.get_ref(), earlier, other.get_ref());
            }
            listeners.push(listener);
        }
        listeners
    }

    fn listener(&mut self, file: &file::Listener, ports: &Ports, pools: &Pools) -> Listener {
        let known = ports.0.iter().map(|port| port.value.name.as_str()).collect::<Vec<_>>();
        let port = self.reference("port", &file.port, &known);
        let known = pools.0.iter().map(|pool| pool.value.name.as_str()).collect::<Vec<_>>();
        let pool = self.reference("pool", &file.pool, &known);
        let local_port = self.number(Some(&file.local_port), 1..=65_535, 1);
        let address = file.address.as_ref().map(|address| address.get_ref().0);
        if let (Some(place), Some(port)) = (&file.address, port.and_then(|i| ports.0.get(i))) {
            self.own_address(place, &port.value);
        }
        self.chia_only(file);
        let types =
            file.types.as_ref().map(|types| types.get_ref().iter().map(|t| *t.get_ref()).collect::<Vec<_>>());
        if let Some(types) = file.types.as_ref().filter(|types| types.get_ref().is_empty()) {
            self.error(Diagnostic::error(
                types.span(),
                "the listener serves no kind of peer",
                "expected [\"full_node\"], [\"wallet\"] or both",
            ));
        }
        Listener {
            name: file.name.get_ref().clone(),
            port: port.unwrap_or_default(),
            address,
            local_port: u16::try_from(local_port).unwrap_or(1),
            protocol: *file.protocol.get_ref(),
            proxy_protocol: file.proxy_protocol.as_ref().map(|version| *version.get_ref()),
            network: file.network.as_ref().map_or("mainnet", |n| n.get_ref()).to_owned(),
            types: types.unwrap_or_else(|| vec![PeerType::FullNode]),
            pool: pool.unwrap_or_default(),
            backend: file.backend,
            node_port: self.node_port(file),
        }
    }

    /// Another port speaks another protocol: what Chia is inspected for would not hold there.
    fn node_port(&mut self, file: &file::Listener) -> Option<u16> {
        let node_port = file.node_port.as_ref()?;
        if *file.protocol.get_ref() == Protocol::Chia {
            self.error(
                Diagnostic::error(
                    node_port.span(),
                    "a listener that speaks Chia leads to the nodes' own ports",
                    "not expected here",
                )
                .help("for another service of the nodes, such as their RPC, set `protocol = \"tcp\"`"),
            );
        }
        u16::try_from(self.number(Some(node_port), 1..=65_535, 1)).ok()
    }

    /// A name that another section must have.
    fn reference(&mut self, kind: &str, name: &Spanned<String>, known: &[&str]) -> Option<usize> {
        let found = known.iter().position(|k| k == name.get_ref());
        if found.is_none() && self.complete {
            let expected = match known {
                [] => format!("expected a section `[{kind}.{}]`", name.get_ref()),
                known => format!("expected `{}`", known.join("` or `")),
            };
            let help = nearest(name.get_ref(), known.iter().copied()).map(|n| format!("did you mean `{n}`?"));
            self.error(
                Diagnostic::error(name.span(), format!("there is no {kind} `{}`", name.get_ref()), expected)
                    .maybe_help(help),
            );
        }
        found
    }

    fn own_address(&mut self, address: &Spanned<Hop>, port: &Port) {
        let Hop(wanted) = *address.get_ref();
        if port.addresses.iter().all(|own| own.address != wanted) {
            let own: Vec<String> = port.addresses.iter().map(|own| own.address.to_string()).collect();
            let expected = match own.is_empty() {
                true => "expected no `address`: the listener has whichever DHCP gives".to_owned(),
                false => format!("expected {}", own.join(" or ")),
            };
            self.error(Diagnostic::error(
                address.span(),
                format!("`port.{}` does not have the address {wanted}", port.name),
                expected,
            ));
        }
    }

    /// `network` and `types` mean nothing to bytes that nobody reads, and a node would not understand a proxy's header.
    fn chia_only(&mut self, file: &file::Listener) {
        if *file.protocol.get_ref() == Protocol::Chia {
            if let Some(header) = &file.proxy_protocol {
                self.error(
                    Diagnostic::error(
                        header.span(),
                        "a Chia node knows no PROXY protocol",
                        "expected with `protocol = \"tcp\"` alone",
                    )
                    .context(file.protocol.span(), "this one leads to Chia nodes"),
                );
            }
            return;
        }
        let network = file.network.as_ref().map(Spanned::span);
        let types = file.types.as_ref().map(Spanned::span);
        for span in network.into_iter().chain(types) {
            self.error(
                Diagnostic::error(span, "only listeners that speak Chia have this", "not expected here")
                    .context(file.protocol.span(), "this one relays any bytes"),
            );
        }
    }

    fn clash(&mut self, new: &Listener, file: &file::Listener, old: &Listener, first: &file::Listener) {
        if new.name == old.name {
            self.error(
                Diagnostic::error(
                    file.name.span(),
                    format!("two listeners are called `{}`", new.name),
                    "expected another name",
                )
                .context(first.name.span(), "the first one"),
            );
        }
        let overlap = new.address.is_none() || old.address.is_none() || new.address == old.address;
        if new.port == old.port && new.local_port == old.local_port && overlap && self.complete {
            self.error(
                Diagnostic::error(
                    file.local_port.span(),
                    "two listeners on one address and port",
                    "expected another port",
                )
                .context(first.local_port.span(), format!("`{}` has it", old.name)),
            );
        }
    }

    fn identity(
        &mut self,
        file: Option<&Spanned<file::Identity>>,
        listeners: &[Spanned<file::Listener>],
    ) -> Option<Identity> {
        let chia = listeners.iter().map(Spanned::get_ref).find(|l| *l.protocol.get_ref() == Protocol::Chia);
        let Some(file) = file else {
            if let Some(listener) = chia.filter(|_| self.complete) {
                self.error(
                    Diagnostic::error(
                        listener.protocol.span(),
                        "a listener that speaks Chia needs identities",
                        "expected a section `[identity]`",
                    )
                    .help("make a secret with `hedgerow identity new FILE` and add: [identity] secret = \"FILE\""),
                );
            }
            return None;
        };
        let span = file.span();
        let file = file.get_ref();
        let certificate = file.certificate.clone().zip(file.key.clone());
        if file.certificate.is_some() != file.key.is_some() {
            self.error(Diagnostic::error(
                span,
                "an imported certificate and its key belong together",
                "expected both `certificate` and `key`, or neither",
            ));
        }
        Some(Identity {
            secret: file.secret.clone(),
            own_nodes: file.own_nodes.iter().map(|id| id.0).collect(),
            certificate,
        })
    }

    /// A node can only be shown a source address of its own family.
    fn families(
        &mut self,
        files: &[Spanned<file::Listener>],
        listeners: &[Listener],
        ports: &Ports,
        pools: &Pools,
    ) {
        for (file, listener) in files.iter().zip(listeners) {
            let (Some(pool), Some(port)) = (pools.0.get(listener.pool), ports.0.get(listener.port)) else {
                continue;
            };
            let serves = |v4: bool| match listener.address {
                Some(address) => address.is_ipv4() == v4,
                None => port.value.speaks(v4),
            };
            for v4 in [true, false] {
                let lacks = pool.value.nodes.iter().all(|n| n.address.is_ipv4() != v4)
                    && !pool.value.nodes.is_empty();
                if pool.value.source.is_transparent() && serves(v4) && lacks {
                    let (ours, theirs) = if v4 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
                    self.error(
                        Diagnostic::error(
                            file.get_ref().pool.span(),
                            format!("{ours} peers of `{}` cannot be shown to {theirs} nodes", listener.name),
                            format!("expected an {ours} node in `pool.{}`", pool.value.name),
                        )
                        .help(format!("set `source = \"snat\"`, or give the listener an {theirs} `address`")),
                    );
                }
            }
        }
        for pool in pools.0.iter().filter(|pool| !pool.value.source.is_transparent()) {
            self.snat_source(pool, ports);
        }
    }

    /// With SNAT the port that leads to a node needs an address of the node's family.
    fn snat_source(&mut self, pool: &Placed<Pool>, ports: &Ports) {
        for node in &pool.value.nodes {
            let Some(port) = ports.0.get(node.port) else { continue };
            if !port.value.speaks(node.address.is_ipv4()) {
                self.error(Diagnostic::error(
                    pool.span.clone(),
                    format!(
                        "`port.{}` has no address that the node {} could see",
                        port.value.name, node.address
                    ),
                    "expected an address of the node's family on that port",
                ));
            }
        }
    }

    fn unused(&mut self, listeners: &[Listener], pools: &Pools) {
        if !self.complete {
            return;
        }
        for (index, pool) in pools.0.iter().enumerate() {
            if listeners.iter().all(|listener| listener.pool != index) {
                let title = format!("no listener leads to `pool.{}`", pool.value.name);
                self.error(Diagnostic::warning(pool.span.clone(), title, "its nodes serve nobody"));
            }
        }
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Place of the port that leads to `address`: the first of those with the longest prefix.
pub(super) fn way_to<'a>(ports: impl Iterator<Item = &'a Port>, address: IpAddr) -> Option<usize> {
    let found = ports
        .enumerate()
        .filter_map(|(index, port)| Some((distance(port, address)?, port.is_sockets(), index)));
    found
        .max_by_key(|(length, sockets, index)| (*length, *sockets, usize::MAX - index))
        .map(|(.., index)| index)
}

/// Length of the longest prefix by which `port` reaches `address`; its default gateway counts as zero. The kernel has routes
/// of its own, so sockets reach every address of a family that they have.
fn distance(port: &Port, address: IpAddr) -> Option<u8> {
    let direct = port.addresses.iter().filter(|p| p.contains(address)).map(|p| p.length);
    let routed = port.routes.iter().filter(|(to, _)| to.contains(&address)).map(|(to, _)| to.prefix_len());
    let default = port.gateways.iter().filter(|hop| hop.is_ipv4() == address.is_ipv4()).map(|_| 0);
    let kernel =
        port.is_sockets() && port.addresses.iter().any(|own| own.address.is_ipv4() == address.is_ipv4());
    let leased = port.dhcp && address.is_ipv4();
    direct.chain(routed).chain(default).chain((kernel || leased).then_some(0)).max()
}
