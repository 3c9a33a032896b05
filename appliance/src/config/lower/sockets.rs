//! `driver = "sockets"`: a port without a device, whose addresses, routes and frames are the kernel's affair.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use toml::Spanned;

use super::super::units::Prefix;
use super::super::{Diagnostic, Driver, Listener, Port, file};
use super::{Lowering, Pools, Ports};

/// The name that stands for a device where there is none.
const DEVICE: &str = "sockets";

impl Lowering<'_> {
    /// A port of ordinary sockets: addresses that the kernel has, and nothing that is said about frames.
    pub(super) fn sockets_port(&mut self, name: &str, span: Range<usize>, file: &file::Port) -> Port {
        let frames = [
            ("device", file.device.as_ref().map(Spanned::span)),
            ("gateway", file.gateway.first().map(Spanned::span)),
            ("routes", file.routes.first().map(Spanned::span)),
            ("mtu", file.mtu.as_ref().map(Spanned::span)),
            ("vlan", file.vlan.as_ref().map(Spanned::span)),
            ("strangers_per_second", file.strangers_per_second.as_ref().map(Spanned::span)),
            ("answer_syns", file.answer_syns.as_ref().map(Spanned::span)),
            ("share", file.share.as_ref().map(Spanned::span)),
        ];
        for (key, place) in frames {
            let Some(place) = place else { continue };
            let driver = file.driver.as_ref().map_or(span.clone(), Spanned::span);
            self.error(
                Diagnostic::error(
                    place,
                    format!("with ordinary sockets the kernel decides `{key}`"),
                    "not expected here",
                )
                .context(driver, "this port has no frames"),
            );
        }
        for place in file.dhcp() {
            let title = "with ordinary sockets the kernel has the addresses, and asks for them";
            self.error(Diagnostic::error(
                place,
                title,
                "expected the address, or \"0.0.0.0/0\" for all of them",
            ));
        }
        for address in &file.fixed() {
            let Prefix { address: own, length } = *address.get_ref();
            if own.is_unspecified() && length != 0 {
                self.error(Diagnostic::error(
                    address.span(),
                    format!("{own}/{length} is the address of no host"),
                    format!("expected \"{own}/0\", which stands for all addresses of this machine"),
                ));
            } else if !own.is_unspecified() && !own.is_loopback() {
                self.usable(address.span(), own);
                self.of_a_host(address);
            }
        }
        Port {
            name: name.to_owned(),
            device: DEVICE.to_owned(),
            driver: Driver::Sockets,
            addresses: file.fixed().iter().map(|own| *own.get_ref()).collect(),
            dhcp: false,
            last: None,
            gateways: Vec::new(),
            routes: Vec::new(),
            mtu: None,
            vlan: None,
            strangers_per_second: 0,
            answer_syns: Default::default(),
            share: Default::default(),
        }
    }

    /// Nodes that are reached by sockets: not ourselves, not from an address that they trust, and never as somebody else.
    pub(super) fn kernel_nodes(
        &mut self,
        files: &BTreeMap<String, Spanned<file::Pool>>,
        ports: &Ports,
        pools: &Pools,
        listeners: &[Listener],
    ) {
        for pool in &pools.0 {
            let Some(file) = files.get(&pool.value.name) else { continue };
            for (node, place) in pool.value.nodes.iter().zip(file.get_ref().nodes.get_ref()) {
                let Some(port) =
                    ports.0.get(node.port).map(|port| &port.value).filter(|port| port.is_sockets())
                else {
                    continue;
                };
                self.kernel_node(place.span(), port, node.address, listeners, ports);
                if pool.value.source.is_transparent() {
                    self.error(
                        Diagnostic::error(
                            place.span(),
                            format!(
                                "`port.{}` has ordinary sockets, which show their own address",
                                port.name
                            ),
                            "expected a node behind a port with a device",
                        )
                        .help("set `source = \"snat\"`, or leave it out"),
                    );
                }
            }
        }
    }

    fn kernel_node(
        &mut self,
        span: Range<usize>,
        port: &Port,
        node: std::net::SocketAddr,
        listeners: &[Listener],
        ports: &Ports,
    ) {
        let is_ours = |listener: &Listener| {
            let own = ports.0.get(listener.port).map(|port| &port.value).filter(|port| port.is_sockets());
            let own = own.into_iter().flat_map(|port| &port.addresses).map(|own| own.address);
            let mut own = own.filter(|own| listener.address.is_none_or(|wanted| wanted == *own));
            let same = |own: IpAddr| own == node.ip() || own.is_unspecified() && node.ip().is_loopback();
            listener.local_port == node.port() && own.any(same)
        };
        if let Some(listener) = listeners.iter().find(|listener| is_ours(listener)) {
            self.error(Diagnostic::error(
                span,
                format!("{node} is where the listener `{}` listens", listener.name),
                "expected another TCP port for the node or the listener",
            ));
        } else if node.ip().is_loopback() {
            let source =
                port.addresses.iter().map(|own| own.address).find(|own| own.is_ipv4() == node.is_ipv4());
            let trusted =
                |own: IpAddr| !own.is_loopback() || own == IpAddr::V4(Ipv4Addr::LOCALHOST) || own.is_ipv6();
            if source.is_none_or(trusted) {
                self.error(
                    Diagnostic::error(
                        span,
                        format!("the node {node} would see its peers come from a loopback address that it trusts"),
                        "expected another address of the node's machine, such as its one on the local network",
                    )
                    .help(
                        "or dial it from an address that it does not take for its own machine's: \
                         a port with driver = \"sockets\" and address = [\"127.0.0.9/8\"]",
                    ),
                );
            }
        } else {
            self.usable(span, node.ip());
        }
    }
}
