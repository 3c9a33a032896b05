//! `[egress]`: the port that leads to the world, ports for every node, and nothing that takes a listener's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::super::egress::{Access, Egress, Emergency, Inspection, NodeEgress, Purpose, Transport, USUAL};
use super::super::units::{Network, Period};
use super::super::{Diagnostic, Driver, Listener, Node, Port, Protocol, Share, file};
use super::{Lowering, Pools, Ports};

/// Ports shown outside where nothing else is said: eight blocks.
const PORTS: (u16, u16) = (16_384, 32_767);
const PORTS_PER_NODE: i64 = 2_048;
const SESSIONS: i64 = 8_192;

impl Lowering<'_> {
    pub(super) fn egress(
        &mut self,
        file: Option<Spanned<file::Egress>>,
        ports: &Ports,
        pools: &Pools,
        listeners: &[Listener],
        has_identity: bool,
    ) -> Option<Egress> {
        let file = file?;
        let span = file.span();
        let file = file.into_inner();
        let known = ports.0.iter().map(|port| port.value.name.as_str()).collect::<Vec<_>>();
        let index = self.reference("port", &file.port, &known)?;
        let port = &ports.0[index].value;
        self.frames_only(&file.port, port);
        let v4 = |ip: &IpAddr| ip.is_ipv4();
        if let Some(address) = &file.address {
            self.own_address(address, port);
            if address.get_ref().0.is_ipv6() {
                let title = "IPv6 is not translated, so it shows no address of ours";
                self.error(Diagnostic::error(address.span(), title, "expected an IPv4 address"));
            }
        }
        let own = port.addresses.iter().map(|own| own.address).find(v4);
        if port.dhcp && own.is_none() {
            self.error(
                Diagnostic::error(
                    file.port.span(),
                    format!(
                        "what nodes show outside cannot be the address that `port.{}` has by DHCP",
                        port.name
                    ),
                    "expected a port with an IPv4 address of its own",
                )
                .help("it may have one beside: address = [\"dhcp\", \"203.0.113.8/24\"]"),
            );
        }
        let address = file.address.as_ref().map(|written| written.get_ref().0).filter(v4).or(own);
        let wide = file.ports.as_ref().map_or(PORTS.0..=PORTS.1, |ports| ports.get_ref().0.clone());
        let each = self.number(file.ports_per_node.as_ref(), 16..=32_768, PORTS_PER_NODE);
        let nodes = pools.0.iter().flat_map(|pool| &pool.value.nodes);
        let mut hosts: Vec<IpAddr> = nodes.clone().map(|node| node.address.ip()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        let blocks = (i64::from(*wide.end()) - i64::from(*wide.start()) + 1) / each;
        let place = file.ports.as_ref().map_or(span.clone(), Spanned::span);
        if blocks < hosts.len() as i64 {
            self.error(
                Diagnostic::error(
                    place.clone(),
                    format!(
                        "these are ports for {blocks} nodes with {each} each, and there are {}",
                        hosts.len()
                    ),
                    "expected more ports",
                )
                .help("widen `ports`, or lower `ports_per_node`"),
            );
        }
        for listener in listeners.iter().filter(|listener| listener.port == index) {
            let same = listener.address.is_none() || listener.address == address;
            if same && wide.contains(&listener.local_port) {
                self.error(Diagnostic::error(
                    place.clone(),
                    format!("`{}` listens on port {} among these", listener.name, listener.local_port),
                    "expected ports without those of listeners",
                ));
            }
        }
        let mut ways: Vec<usize> = nodes.clone().map(|node| node.port).filter(|&way| way != index).collect();
        ways.sort_unstable();
        ways.dedup();
        ways.iter().for_each(|&way| self.frames_only(&file.port, &ports.0[way].value));
        let names: Vec<&str> = nodes.clone().map(|node| node.name.as_str()).collect();
        let nodes: Vec<&Node> = nodes.collect();
        let sessions = self.number(file.sessions.as_ref(), 16..=262_144, SESSIONS);
        let usual = || USUAL.iter().filter_map(|text| text.parse().ok()).collect::<Vec<Purpose>>();
        let nets = |nets: Vec<Network>| nets.into_iter().map(|net| net.0).collect();
        self.distinct(&file.node, &nodes);
        let (inspect, said) =
            self.inspection(&file.inspect, file.inspect_ports, file.inspect_at_once, &file.node);
        let own: BTreeMap<String, NodeEgress> =
            file.node.into_iter().filter_map(|(name, node)| self.node_egress(name, node, &names)).collect();
        self.behind(&file.port, index, port, &nodes, &own);
        self.one_role(span.clone(), &nodes, &own);
        let plan = Egress {
            port: index,
            address,
            ports: wide,
            ports_per_node: u16::try_from(each).unwrap_or(16),
            sessions: usize::try_from(sessions).unwrap_or(16),
            access: [
                file.public.unwrap_or(Access::Open),
                file.protected.unwrap_or(Access::Emergency),
                file.hidden.unwrap_or(Access::Open),
            ],
            allow: file.allow.unwrap_or_else(usual),
            refuse: nets(file.refuse),
            inspect,
            nodes: own,
            emergency: self.emergency(&file.emergency),
        };
        let inspected = nodes.iter().any(|node| plan.inspects(&node.name));
        if inspected && self.complete {
            self.inspectable(said.unwrap_or(span), &plan, &nodes, listeners, has_identity);
        }
        Some(plan)
    }

    /// What is inspected, and where most is said about it.
    fn inspection(
        &mut self,
        inspect: &Option<bool>,
        ports: Option<Spanned<Vec<i64>>>,
        at_once: Option<Spanned<i64>>,
        nodes: &BTreeMap<String, Spanned<file::NodeEgress>>,
    ) -> (Inspection, Option<Range<usize>>) {
        let usual = Inspection::default();
        let on = inspect.unwrap_or(usual.on);
        let said = ports.as_ref().map(Spanned::span);
        let any = on || nodes.values().any(|node| node.get_ref().inspect == Some(true));
        // What says nothing new does no harm.
        let other = |ports: &&Spanned<Vec<i64>>| {
            !ports.get_ref().iter().copied().eq(usual.ports.iter().map(|&port| i64::from(port)))
        };
        let more = |most: &&Spanned<i64>| *most.get_ref() != i64::from(usual.at_once);
        let places = ports.as_ref().filter(other).map(Spanned::span);
        let places = places.into_iter().chain(at_once.as_ref().filter(more).map(Spanned::span));
        for place in places.filter(|_| !any) {
            self.error(Diagnostic::error(
                place,
                "no node's connections are inspected",
                "expected `inspect = true` beside it, or at a node",
            ));
        }
        let most = self.number(at_once.as_ref(), 1..=65_535, i64::from(usual.at_once));
        let mut chosen = usual.ports;
        if let Some(written) = ports {
            let span = written.span();
            let ports = written.into_inner();
            if ports.is_empty() || ports.iter().any(|port| !(1..=65_535).contains(port)) {
                let title = "these are no ports of Chia peers";
                self.error(Diagnostic::error(span, title, "expected some of 1 to 65535, such as [8444]"));
            } else {
                chosen = ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect();
                chosen.sort_unstable();
                chosen.dedup();
            }
        }
        (Inspection { on, ports: chosen, at_once: u32::try_from(most).unwrap_or(1) }, said)
    }

    /// What is inspected can be: it may be begun at all, we know which network it is of and what to show.
    fn inspectable(
        &mut self,
        place: Range<usize>,
        plan: &Egress,
        nodes: &[&Node],
        listeners: &[Listener],
        has_identity: bool,
    ) {
        let allows = |purposes: &[Purpose], port: u16| {
            let kinds = purposes.iter().flat_map(|purpose| &purpose.kinds);
            kinds.clone().any(|(transport, ports)| *transport == Transport::Tcp && ports.contains(&port))
        };
        let allow = |node: &&Node| {
            plan.nodes.get(&node.name).and_then(|own| own.allow.as_ref()).unwrap_or(&plan.allow)
        };
        for &port in &plan.inspect.ports {
            let inspected = nodes.iter().filter(|node| plan.inspects(&node.name));
            if inspected.clone().all(|node| !allows(allow(node), port)) {
                self.error(
                    Diagnostic::error(
                        place.clone(),
                        format!("no node that is inspected may begin anything at port {port}"),
                        format!("expected `allow` to have \"tcp {port}\", or another port here"),
                    )
                    .help("inspection takes nothing more out than `allow` lets"),
                );
            }
        }
        let chia = || listeners.iter().filter(|listener| listener.protocol == Protocol::Chia);
        let mut networks: Vec<&str> = chia().map(|listener| listener.network.as_str()).collect();
        networks.sort_unstable();
        networks.dedup();
        if let [one, other, ..] = networks[..] {
            self.error(Diagnostic::error(
                place.clone(),
                format!(
                    "listeners speak {one} and {other}: of which network are the peers that nodes go to?"
                ),
                "expected one network where nodes' connections are inspected",
            ));
        }
        if !has_identity {
            self.error(
                Diagnostic::error(
                    place,
                    "what is inspected needs identities",
                    "expected a section `[identity]`",
                )
                .help(
                    "make a secret with `hedgerow identity new FILE` and add: [identity] secret = \"FILE\"",
                ),
            );
        }
    }

    /// What is passed on comes and goes as frames, and all of an address's: the kernel must not answer for it.
    fn frames_only(&mut self, place: &Spanned<String>, port: &Port) {
        let name = &port.name;
        let (what, expected) = match port.driver {
            Driver::Sockets => ("has no frames", "expected a port with a device"),
            _ if port.share != Share::Nothing => {
                ("shares its addresses with the kernel", "expected a port without `share`")
            }
            _ => return,
        };
        let title = format!("`port.{name}` {what}, so that nodes have no way out by it");
        self.error(Diagnostic::error(place.span(), title, expected));
    }

    /// Nodes are behind us, and have addresses of a family that is spoken on the way out.
    fn behind(
        &mut self,
        place: &Spanned<String>,
        index: usize,
        port: &Port,
        nodes: &[&Node],
        own: &BTreeMap<String, NodeEgress>,
    ) {
        let name = &port.name;
        if !nodes.is_empty() && nodes.iter().all(|node| node.port == index) {
            let title =
                format!("all nodes are on `port.{name}` themselves, so that it is no way out for them");
            self.error(Diagnostic::error(
                place.span(),
                title,
                "expected another port than that of the nodes",
            ));
        }
        let spoken = |ip: IpAddr| port.addresses.iter().any(|own| own.address.is_ipv4() == ip.is_ipv4());
        for node in nodes.iter().filter(|node| node.port != index) {
            let told = own.get(&node.name);
            let more = told.map_or(&[][..], |own| &own.addresses);
            if told.is_some_and(|own| own.access == Some(Access::Closed))
                || spoken(node.address.ip())
                || more.iter().any(|&ip| spoken(ip))
            {
                continue;
            }
            let family = if node.address.is_ipv4() { "IPv4" } else { "IPv6" };
            self.error(Diagnostic::error(
                place.span(),
                format!(
                    "`port.{name}` has no {family} address, so that `{}` has no way out by it",
                    node.name
                ),
                format!("expected a port with an {family} address"),
            ));
        }
    }

    /// No address stands for two nodes.
    fn distinct(&mut self, own: &BTreeMap<String, Spanned<file::NodeEgress>>, nodes: &[&Node]) {
        let mut taken: BTreeSet<IpAddr> = nodes.iter().map(|node| node.address.ip()).collect();
        for (name, node) in own {
            let hosts: BTreeSet<IpAddr> =
                nodes.iter().filter(|node| node.name == *name).map(|node| node.address.ip()).collect();
            for address in &node.get_ref().addresses {
                let ip = address.get_ref().0;
                if !taken.insert(ip) || hosts.len() > 1 {
                    let title = match hosts.len() {
                        0 | 1 => format!("{ip} is a node's address already"),
                        count => {
                            format!("{count} nodes are called `{name}`, and {ip} cannot be all of theirs")
                        }
                    };
                    self.error(Diagnostic::error(
                        address.span(),
                        title,
                        "expected an address of this node alone",
                    ));
                }
            }
        }
    }

    /// A machine that is a node of several pools is one node to the way out.
    fn one_role(&mut self, span: Range<usize>, nodes: &[&Node], own: &BTreeMap<String, NodeEgress>) {
        let mut first: BTreeMap<IpAddr, &Node> = BTreeMap::new();
        for node in nodes {
            let known = *first.entry(node.address.ip()).or_insert(node);
            let told = own.get(&known.name).is_some_and(|own| own.access.is_some());
            if known.role == node.role || told {
                continue;
            }
            let (one, other) = (known.role.name(), node.role.name());
            self.error(
                Diagnostic::error(
                    span.clone(),
                    format!("`{}` is {one} in a pool and {other} in another: may it go out?", known.name),
                    "expected one role for each machine",
                )
                .help(format!("give it the same role in both, or say `node.{}.access`", known.name)),
            );
        }
    }

    fn node_egress(
        &mut self,
        name: String,
        node: Spanned<file::NodeEgress>,
        known: &[&str],
    ) -> Option<(String, NodeEgress)> {
        if !known.contains(&name.as_str()) && self.complete {
            let near =
                super::nearest(&name, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            self.error(
                Diagnostic::error(
                    node.span(),
                    format!("there is no node `{name}`"),
                    format!("expected `{}`", known.join("` or `")),
                )
                .maybe_help(near),
            );
            return None;
        }
        let node = node.into_inner();
        for address in &node.addresses {
            self.usable(address.span(), address.get_ref().0);
        }
        let addresses = node.addresses.iter().map(|address| address.get_ref().0).collect();
        Some((name, NodeEgress { access: node.access, addresses, allow: node.allow, inspect: node.inspect }))
    }

    fn emergency(&mut self, file: &file::Emergency) -> Emergency {
        let standard = Emergency::default();
        let seconds = Duration::from_secs;
        let day = seconds(86_400);
        let mut period = |written: &Option<Spanned<Period>>, least, most, usual| {
            self.period(written.as_ref(), least..=most, usual)
        };
        let emergency = Emergency {
            after: period(&file.after, seconds(5), day, standard.after),
            hold: period(&file.hold, seconds(1), day, standard.hold),
            at_most: period(&file.at_most, seconds(10), day * 31, standard.at_most),
            cool_down: period(&file.cool_down, seconds(0), day, standard.cool_down),
        };
        if let Some(written) = file.at_most.as_ref().filter(|_| emergency.at_most < emergency.hold) {
            self.error(Diagnostic::error(
                written.span(),
                "an emergency would be over before a healthy node could end it",
                format!("expected {:?} or more, as `hold` says", emergency.hold),
            ));
        }
        emergency
    }
}
