//! `hedgerow node-setup`: the lines that a node's machine needs so that its sessions pass the appliance, and those that undo
//! them. Nothing is carried out; an operator reads, and pastes as root.

use std::fmt::Write;
use std::net::IpAddr;

use clap::ValueEnum;

use crate::config::{Config, Listener, Node, Pool, Protocol};

/// The routing table, the rule's priority and the packet filter's table, on the node.
const TABLE: u16 = 8444;

/// How a node that sees the peers' own addresses sends its answers back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Only answers from the node's port go by the appliance; the default route stays.
    Rule,
    /// The appliance becomes the node's default route.
    Gateway,
}

/// The lines for a node, by its name or `ADDRESS:PORT`.
///
/// # Errors
/// Where no pool has such a node: those that there are.
pub fn lines(config: &Config, name: &str, way: Way) -> Result<String, String> {
    let nodes = || config.pools.iter().flat_map(|pool| pool.nodes.iter().map(move |node| (pool, node)));
    let named = |node: &Node| node.name == name || node.address.to_string() == name;
    let Some((pool, node)) = nodes().find(|(_, node)| named(node)) else {
        let known: Vec<&str> = nodes().map(|(_, node)| node.name.as_str()).collect();
        return Err(format!("no node is called `{name}`; there are {}", known.join(", ")));
    };
    if way == Way::Gateway && pool.source.is_transparent() && config.is_one_armed(node) {
        return Err(format!(
            "peers come by the link of the node {}, and by that link the appliance lets nobody out: what the node begins itself \
             would have no way; take `--way rule`",
            node.name
        ));
    }
    let own = own_address(config, node).ok_or_else(|| {
        let port = &config.ports[node.port];
        match port.dhcp && node.address.is_ipv4() {
            true => format!(
                "port.{} has its address by DHCP, and a node's lines need one that stays: give the port a fixed one, or have the \
                 server reserve it and write it down",
                port.name
            ),
            false => format!("port.{} has no address of the family of {}", port.name, node.address),
        }
    })?;
    let seen = match pool.source.is_transparent() {
        true => "it sees the peers' own addresses (transparent)",
        false => "it sees the appliance's address (snat)",
    };
    let mut text = format!("# For the node {} at {}, pool {}: {seen}.\n", node.name, node.address, pool.name);
    let chia = config.listeners.iter().any(|l| l.protocol == Protocol::Chia && leads_to(l, config, pool));
    if chia {
        configuration(&mut text, pool, own);
    }
    if pool.source.is_transparent() {
        routes(&mut text, node, own, way);
    } else {
        filter(&mut text, node, own);
    }
    if config.egress.is_some() && !(pool.source.is_transparent() && way == Way::Gateway) {
        way_out(&mut text, own);
    }
    Ok(text)
}

fn leads_to(listener: &Listener, config: &Config, pool: &Pool) -> bool {
    config.pools.get(listener.pool).is_some_and(|to| to.name == pool.name)
}

/// The appliance's address on the node's side.
fn own_address(config: &Config, node: &Node) -> Option<IpAddr> {
    let own = config.ports[node.port].addresses.iter().map(|own| own.address);
    own.clone().find(|own| own.is_ipv4() == node.address.is_ipv4())
}

fn configuration(text: &mut String, pool: &Pool, own: IpAddr) {
    let length = if own.is_ipv4() { 32 } else { 128 };
    let exempt = match pool.source.is_transparent() {
        true => String::new(),
        false => format!(
            "  exempt_peer_networks: [\"{own}/{length}\"]  # or one peer's ban is everybody's; limits and slots are the appliance's then\n"
        ),
    };
    let _ = write!(
        text,
        "\n# config.yaml, section full_node, then `chia start full_node -r`:\n  enable_upnp: false  # no way in but through the appliance\n{exempt}"
    );
}

/// Nobody else reaches the port.
fn filter(text: &mut String, node: &Node, own: IpAddr) {
    let (family, port) = (if own.is_ipv4() { "ip" } else { "ip6" }, node.address.port());
    let _ = write!(
        text,
        "\n# As root: nobody but the appliance reaches the node's port.\n\
         nft add table inet hedgerow\n\
         nft add chain inet hedgerow input '{{ type filter hook input priority -10; policy accept; }}'\n\
         nft add rule inet hedgerow input iif != lo tcp dport {port} {family} saddr != {own} counter drop\n\
         nft add rule inet hedgerow input iif != lo meta nfproto {other} tcp dport {port} counter drop\n\
         \n# Undo:\nnft delete table inet hedgerow\n",
        other = if own.is_ipv4() { "ipv6" } else { "ipv4" },
    );
}

/// What the node begins itself goes by the appliance.
fn way_out(text: &mut String, own: IpAddr) {
    let family = if own.is_ipv4() { "-4" } else { "-6" };
    let _ = write!(
        text,
        "\n# As root: what the node itself begins goes out by the appliance, as its section [egress] lets it.\n\
         # Note the old one first: ip {family} route show default\n\
         ip {family} route replace default via {own}\n\
         \n# Undo, with what was noted:\n\
         ip {family} route replace default OLD\n"
    );
}

/// Answers go back by the appliance, which alone knows their connections.
fn routes(text: &mut String, node: &Node, own: IpAddr, way: Way) {
    let (family, port) = (if own.is_ipv4() { "-4" } else { "-6" }, node.address.port());
    let loose = match own.is_ipv4() {
        true => {
            "sysctl -w net.ipv4.conf.all.rp_filter=2  # peers come by an interface that is not their route\n"
        }
        false => "",
    };
    let _ = match way {
        Way::Rule => write!(
            text,
            "\n# As root: answers from the node's port go by the appliance, all else as before.\n\
             {loose}ip {family} route replace default via {own} table {TABLE}\n\
             ip {family} rule add priority {TABLE} ipproto tcp sport {port} lookup {TABLE}\n\
             \n# Undo:\n\
             ip {family} rule del priority {TABLE}\n\
             ip {family} route flush table {TABLE}\n"
        ),
        Way::Gateway => write!(
            text,
            "\n# As root: the appliance is the default route. Note the old one first: ip {family} route show default\n\
             ip {family} route replace default via {own}\n\
             \n# Undo, with what was noted:\n\
             ip {family} route replace default OLD\n"
        ),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../examples/proxy/hedgerow.toml");

    fn config(change: impl Fn(String) -> String) -> Config {
        let parsed = Config::parse("hedgerow.toml", &change(EXAMPLE.to_owned()));
        parsed.map(|(config, _)| config).unwrap_or_else(|report| panic!("{}", report.render(false)))
    }

    #[test]
    fn a_way_out_is_a_default_route() {
        let with = |text: String| text + "\n[egress]\nport = \"public\"\n";
        let lines_with = |change: &dyn Fn(String) -> String, way| {
            let config = config(change);
            lines(&config, &config.pools[0].nodes[0].name, way).expect("lines")
        };
        let text = lines_with(&with, Way::Rule);
        assert!(text.contains("ip -4 route replace default via 10.0.1.1\n"), "{text}");
        assert!(!lines_with(&|text| text, Way::Rule).contains("route replace default via"));
    }

    #[test]
    fn behind_snat_the_appliance_is_exempt_and_nobody_else_gets_in() {
        let config = config(|text| text);
        let node = &config.pools[0].nodes[0];
        let text = lines(&config, &node.name, Way::Rule).expect("lines");
        for line in [
            "exempt_peer_networks: [\"10.0.1.1/32\"]",
            "enable_upnp: false",
            "nft add rule inet hedgerow input iif != lo tcp dport 8444 ip saddr != 10.0.1.1 counter drop",
            "nft delete table inet hedgerow",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(
            !text.contains("ip rule") && lines(&config, &node.address.to_string(), Way::Rule) == Ok(text)
        );
    }

    #[test]
    fn a_transparent_nodes_answers_go_by_the_appliance() {
        let config = config(|text| {
            let text = text.replacen("[pool.front]", "[pool.front]\nsource = \"transparent\"", 1);
            text.replacen("# address = \"203.0.113.7\"", "address = \"203.0.113.7\"", 1)
        });
        let name = config.pools[0].nodes[0].name.clone();
        let rule = lines(&config, &name, Way::Rule).expect("lines");
        assert!(rule.contains("ip -4 route replace default via 10.0.1.1 table 8444\n"), "{rule}");
        assert!(rule.contains("ip -4 rule add priority 8444 ipproto tcp sport 8444 lookup 8444\n"), "{rule}");
        assert!(!rule.contains("exempt_peer_networks"), "the node bans peers by their own addresses");
        let gateway = lines(&config, &name, Way::Gateway).expect("lines");
        assert!(gateway.contains("ip -4 route replace default via 10.0.1.1\n"), "{gateway}");
    }

    /// With one arm the default route stays, and the rule covers the link itself.
    #[test]
    fn a_one_armed_nodes_answers_go_by_the_appliance_by_a_rule_alone() {
        let config = config(|text| {
            let text = text.replacen("[pool.front]", "[pool.front]\nsource = \"transparent\"", 1);
            let text = text.replacen("# address = \"203.0.113.7\"", "address = \"203.0.113.7\"", 1);
            text.replace("a=10.0.1.11:", "a=203.0.113.11:").replace(", \"b=10.0.1.12:8444\"", "")
        });
        let node = &config.pools[0].nodes[0];
        assert!(config.is_one_armed(node), "{}", node.address);
        let rule = lines(&config, &node.name, Way::Rule).expect("lines");
        assert!(rule.contains("default via 203.0.113.7 table 8444\n"), "{rule}");
        let error = lines(&config, &node.name, Way::Gateway).expect_err("it cannot work");
        assert!(error.contains("--way rule"), "{error}");
    }

    #[test]
    fn an_unknown_node_is_told_the_known_ones() {
        let config = config(|text| text);
        let error = lines(&config, "nobody", Way::Rule).expect_err("no such node");
        assert!(error.contains("nobody") && error.contains(&config.pools[0].nodes[0].name), "{error}");
    }
}
