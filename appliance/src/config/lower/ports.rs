//! `[port.NAME]`: addresses that may stand on a wire, gateways that can be reached, and nothing claimed twice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use toml::Spanned;

use super::super::units::{Hop, Prefix};
use super::super::{Diagnostic, Driver, Port, Share, file};
use super::{Lowering, Placed, Ports};

/// Smallest packet size of an IPv6 link (RFC 8200, section 5).
const IPV6_MTU_MIN: i64 = 1_280;

impl Lowering<'_> {
    pub(super) fn ports(&mut self, files: &BTreeMap<String, Spanned<file::Port>>) -> Ports {
        if files.is_empty() && self.complete {
            self.error(
                Diagnostic::error(0..0, "there is no port", "expected a section such as `[port.public]`")
                    .help("a port names a network device and our addresses on it"),
            );
        }
        let mut ports = Ports(Vec::new());
        for (name, file) in files {
            let value = self.port(name, file.span(), file.get_ref());
            self.same_device(&ports, files, &value, file.get_ref());
            self.one_program(&ports, &value, file.get_ref());
            self.same_address(&ports, file.get_ref());
            ports.0.push(Placed { span: file.span(), value });
        }
        ports
    }

    fn port(&mut self, name: &str, span: Range<usize>, file: &file::Port) -> Port {
        let addresses: Vec<Prefix> = file.fixed().iter().map(|a| *a.get_ref()).collect();
        let dhcp = self.dhcp(file);
        if addresses.is_empty() && !dhcp {
            self.error(Diagnostic::error(
                file.address.span(),
                "the port has no address",
                "expected at least one address, such as \"203.0.113.7/24\"",
            ));
        }
        let driver = file.driver.as_ref().map(|driver| *driver.get_ref()).unwrap_or_default();
        if driver == Driver::Sockets {
            return self.sockets_port(name, span, file);
        }
        for address in &file.fixed() {
            self.usable(address.span(), address.get_ref().address);
            self.of_a_host(address);
        }
        let device = self.device(name, span, file);
        for (index, gateway) in file.gateway.iter().enumerate() {
            self.next_hop(gateway, &addresses, dhcp);
            let family = |hop: &&Spanned<Hop>| hop.get_ref().0.is_ipv4() == gateway.get_ref().0.is_ipv4();
            if let Some(first) = file.gateway[..index].iter().find(family) {
                self.error(
                    Diagnostic::error(
                        gateway.span(),
                        "a second default gateway of one family",
                        "expected one",
                    )
                    .context(first.span(), "the first one"),
                );
            }
        }
        for route in &file.routes {
            self.next_hop(&route.get_ref().via, &addresses, dhcp);
        }
        let mtu = file.mtu.as_ref().map(|mtu| self.number(Some(mtu), 576..=9_216, 1_500));
        if let (Some(written), Some(..IPV6_MTU_MIN)) = (&file.mtu, mtu)
            && addresses.iter().any(|own| own.address.is_ipv6())
        {
            self.error(Diagnostic::error(
                written.span(),
                format!("IPv6 does not work with packets of {} bytes", written.get_ref()),
                format!("expected {IPV6_MTU_MIN} at least, or no IPv6 address"),
            ));
        }
        let vlan = file.vlan.as_ref().map(|vlan| self.number(Some(vlan), 1..=4_094, 1));
        let strangers = self.number(file.strangers_per_second.as_ref(), 0..=100_000_000, 0);
        Port {
            name: name.to_owned(),
            device,
            driver,
            addresses,
            dhcp,
            last: None,
            gateways: file.gateway.iter().map(|hop| hop.get_ref().0).collect(),
            routes: file.routes.iter().map(|r| (r.get_ref().to.0, r.get_ref().via.get_ref().0)).collect(),
            mtu: mtu.and_then(|mtu| u16::try_from(mtu).ok()),
            vlan: vlan.and_then(|vlan| u16::try_from(vlan).ok()),
            strangers_per_second: u32::try_from(strangers).unwrap_or(0),
            answer_syns: file.answer_syns.as_ref().map(|who| *who.get_ref()).unwrap_or_default(),
            share: file.share.as_ref().map(|share| *share.get_ref()).unwrap_or_default(),
        }
    }

    /// Whether an address comes by DHCP: by frames of ours, for an address that is ours alone, and but one.
    fn dhcp(&mut self, file: &file::Port) -> bool {
        let places: Vec<Range<usize>> = file.dhcp().collect();
        let Some(place) = places.first() else { return false };
        if let Some(second) = places.get(1) {
            let title = "a second address by DHCP";
            self.error(
                Diagnostic::error(second.clone(), title, "expected one")
                    .context(place.clone(), "the first one"),
            );
        }
        if let Some(share) = file.share.as_ref().filter(|share| *share.get_ref() != Share::Nothing) {
            self.error(
                Diagnostic::error(
                    place.clone(),
                    "an address that the kernel has too is not ours to ask for",
                    "expected that address itself, or no `share`",
                )
                .context(share.span(), "the kernel has it, and renews its lease"),
            );
        }
        true
    }

    fn device(&mut self, name: &str, span: Range<usize>, file: &file::Port) -> String {
        let Some(device) = &file.device else {
            self.error(
                Diagnostic::error(
                    span,
                    format!("`port.{name}` has no device"),
                    "expected `device`, as `ip link` prints its name",
                )
                .help("for a first try without a device and without privileges: driver = \"sockets\""),
            );
            return String::new();
        };
        if device.get_ref().is_empty() || device.get_ref().len() > 15 {
            self.error(Diagnostic::error(
                device.span(),
                "no network device has this name",
                "expected 1 to 15 characters, as `ip link` prints them",
            ));
        }
        device.get_ref().clone()
    }

    /// What an address that the kernel has too cannot be used for.
    pub(super) fn shared(
        &mut self,
        files: &BTreeMap<String, Spanned<file::Port>>,
        ports: &Ports,
        pools: &super::Pools,
    ) {
        for (index, port) in ports.0.iter().enumerate().map(|(index, port)| (index, &port.value)) {
            let written = files.get(&port.name).and_then(|file| file.get_ref().share.as_ref());
            let Some(span) = written.filter(|_| port.share == Share::Listeners).map(Spanned::span) else {
                continue;
            };
            let mut wrong = |title: &str, expected: &str| {
                self.error(Diagnostic::error(span.clone(), title, expected));
            };
            if port.is_tap() {
                wrong(
                    "the far end of a TAP device has no addresses of the kernel's",
                    "expected another device, or no `share`",
                );
            }
            if port.vlan.is_some() {
                wrong(
                    "addresses of a tagged network cannot be shared by way of the device beneath it",
                    "expected the VLAN's own device, such as \"ens5.7\", and no `vlan`",
                );
            }
            let node = pools.0.iter().flat_map(|pool| &pool.value.nodes).find(|node| node.port == index);
            if let Some(node) = node {
                self.error(
                    Diagnostic::error(
                        span.clone(),
                        format!(
                            "the node {} is reached by this port, and its answers would be the kernel's",
                            node.name
                        ),
                        "expected nodes behind another port",
                    )
                    .help("only the listeners' TCP ports of a shared address are ours"),
                );
            }
        }
    }

    /// The first and the last address of an IPv4 network belong to no host (RFC 1122, section 3.2.1.3), unless the network
    /// has only two (RFC 3021).
    pub(super) fn of_a_host(&mut self, address: &Spanned<Prefix>) {
        let prefix = address.get_ref();
        let network = prefix.network();
        let what = match prefix.address {
            IpAddr::V4(_) if prefix.length >= 31 => None,
            IpAddr::V4(_) if prefix.address == network.network() => Some("network"),
            IpAddr::V4(_) if prefix.address == network.broadcast() => Some("broadcast"),
            _ => None,
        };
        if let Some(what) = what {
            self.error(Diagnostic::error(
                address.span(),
                format!("{} is the {what} address of {network}", prefix.address),
                "expected the address of a host in it",
            ));
        }
    }

    /// An address that may stand on a wire. Loopback is refused above all: a node trusts whoever comes from there.
    pub(super) fn usable(&mut self, span: Range<usize>, address: IpAddr) {
        let wrong = match address {
            _ if address.is_loopback() => Some("a loopback address"),
            _ if address.is_multicast() => Some("a multicast address"),
            _ if address.is_unspecified() => Some("the unspecified address"),
            IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address in IPv6 form"),
            _ => None,
        };
        let Some(wrong) = wrong else { return };
        let diagnostic = Diagnostic::error(
            span,
            format!("{address} is {wrong}"),
            "expected an address that hosts on this network can reach",
        );
        let help = address
            .is_loopback()
            .then(|| "a node trusts every connection from a loopback address".to_owned());
        self.error(diagnostic.maybe_help(help));
    }

    /// A gateway must be a neighbour: inside a prefix, link-local, or beyond a host route (as clouds hand out).
    /// Where IPv4 comes by DHCP its next hops do as well.
    fn next_hop(&mut self, hop: &Spanned<Hop>, addresses: &[Prefix], dhcp: bool) {
        let Hop(gateway) = *hop.get_ref();
        if dhcp && gateway.is_ipv4() {
            return self.error(Diagnostic::error(
                hop.span(),
                format!("the port's IPv4 routes come by DHCP, and {gateway} would be another"),
                "expected no IPv4 gateway here",
            ));
        }
        let own: Vec<&Prefix> =
            addresses.iter().filter(|a| a.address.is_ipv4() == gateway.is_ipv4()).collect();
        let host_route = |prefix: &&Prefix| prefix.length == if gateway.is_ipv4() { 32 } else { 128 };
        let link_local = matches!(gateway, IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80);
        let near = own.iter().any(|p| p.contains(gateway)) || own.iter().any(host_route);
        if addresses.iter().any(|prefix| prefix.address == gateway) {
            self.error(Diagnostic::error(
                hop.span(),
                format!("the gateway {gateway} is our own address"),
                "expected another host",
            ));
        } else if own.is_empty() {
            self.error(Diagnostic::error(
                hop.span(),
                format!("the gateway {gateway} is of a family that the port has no address of"),
                format!("expected {} gateway", if gateway.is_ipv4() { "an IPv6" } else { "an IPv4" }),
            ));
        } else if !near && !link_local {
            let prefixes: Vec<String> = own.iter().map(|prefix| prefix.network().to_string()).collect();
            self.error(Diagnostic::error(
                hop.span(),
                format!("the gateway {gateway} is no neighbour of the port"),
                format!("expected an address in {}", prefixes.join(" or ")),
            ));
        }
    }

    fn same_device(
        &mut self,
        ports: &Ports,
        files: &BTreeMap<String, Spanned<file::Port>>,
        port: &Port,
        file: &file::Port,
    ) {
        let same = |p: &&Placed<Port>| p.value.device == port.device && p.value.vlan == port.vlan;
        let Some(device) = file.device.as_ref().filter(|_| !port.is_sockets()) else { return };
        if let Some(first) = ports.0.iter().find(same) {
            let context =
                files.get(&first.value.name).and_then(|f| Some(f.get_ref().device.as_ref()?.span()));
            let context = context.unwrap_or(first.span.clone());
            self.error(
                Diagnostic::error(
                    device.span(),
                    "two ports on one device",
                    "expected another device, or a `vlan`",
                )
                .context(context, format!("`port.{}` has it", first.value.name))
                .help("one port may serve both the public and the private side"),
            );
        }
    }

    /// A device takes one XDP program, and gives its frames to one TAP port; packet sockets may be many.
    fn one_program(&mut self, ports: &Ports, port: &Port, file: &file::Port) {
        let beneath = |p: &&Placed<Port>| p.value.device == port.device && p.value.vlan != port.vlan;
        let alone = |port: &Port| port.driver == Driver::AfXdp || port.is_tap();
        let Some(other) = ports.0.iter().find(beneath).filter(|_| !port.is_sockets()) else { return };
        if !alone(port) && !alone(&other.value) {
            return;
        }
        let place = file.driver.as_ref().map(Spanned::span);
        let place = place.or(file.device.as_ref().map(Spanned::span)).unwrap_or_default();
        self.error(
            Diagnostic::error(
                place,
                format!("one port alone may take the frames of `{}` in this way", port.device),
                "expected af-packet for ports that share a device",
            )
            .context(other.span.clone(), "the other port")
            .help("or a device for each: `ip link add link ens5 name ens5.7 type vlan id 7`, and no `vlan`"),
        );
    }

    fn same_address(&mut self, ports: &Ports, file: &file::Port) {
        for address in &file.fixed() {
            let has =
                |p: &&Placed<Port>| p.value.addresses.iter().any(|a| a.address == address.get_ref().address);
            if let Some(other) = ports.0.iter().find(has) {
                let title =
                    format!("{} is an address of `port.{}` too", address.get_ref().address, other.value.name);
                self.error(Diagnostic::error(
                    address.span(),
                    title,
                    "expected an address of this port alone",
                ));
            }
        }
    }
}
