//! `hedgerow check`: what a configuration would do, and what this machine still lacks for it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hedgerow_policy::tls::{Clock, Settings};

use crate::assemble;
use crate::config::egress::Access;
use crate::config::{Config, Driver, Identity, Listener, Mode, Pool, Port, Protocol, Share, SourceChoice};
use crate::cores;
use crate::identity::Secret;
use crate::rules::Policy;

/// What `run` would do with a configuration, in a few lines.
pub fn summary(config: &Config) -> String {
    let mut text = match config.mode {
        Mode::Enforce => String::new(),
        Mode::Shadow => "mode shadow: what can pass passes, and `hedgerow report` tells of it\n".to_owned(),
        Mode::Tap => "mode tap: looks at copies of frames and sends nothing\n".to_owned(),
    };
    for port in &config.ports {
        let _ = writeln!(text, "port {}: {}", port.name, port_line(port));
    }
    for listener in &config.listeners {
        let port = &config.ports[listener.port];
        let own = port.addresses.iter().map(|own| own.address);
        let served = own.filter(|own| listener.address.is_none_or(|wanted| wanted == *own));
        let mut at: Vec<String> =
            served.map(|a| SocketAddr::new(a, listener.local_port).to_string()).collect();
        if port.dhcp && listener.address.is_none() {
            at.push(format!("port {} of the address by DHCP", listener.local_port));
        }
        let what = match listener.protocol {
            Protocol::Chia => format!("chia on {}, {:?}", listener.network, listener.types),
            Protocol::Tcp if listener.proxy_protocol.is_some() => {
                "any bytes, unread, after a PROXY header that names the peer".to_owned()
            }
            Protocol::Tcp => "any bytes, unread".to_owned(),
        };
        let pool = &config.pools[listener.pool].name;
        let _ = writeln!(text, "listener {}: {} ({what}) to pool {pool}", listener.name, at.join(", "));
    }
    for pool in &config.pools {
        let _ = writeln!(text, "pool {}: {}", pool.name, pool_line(config, pool));
    }
    text += &egress_line(config);
    text += &cores_line(config);
    let limits = &config.limits;
    let _ = writeln!(
        text,
        "limits: {} connections, {} handshakes in flight, {} MiB of buffers",
        limits.flows,
        limits.handshakes_in_flight,
        limits.buffer_memory >> 20
    );
    text
}

/// The nodes' way out.
fn egress_line(config: &Config) -> String {
    let Some(plan) = &config.egress else { return String::new() };
    let nodes = config.pools.iter().flat_map(|pool| &pool.nodes);
    let access = |node: &crate::config::Node| {
        let own = plan.nodes.get(&node.name).and_then(|own| own.access);
        let inspected = if plan.inspects(&node.name) { ", inspected" } else { "" };
        let word = match own.unwrap_or(plan.of_role(node.role)) {
            Access::Closed => "closed",
            Access::Emergency => "in an emergency",
            Access::Open => "open",
        };
        format!("{} {word}{inspected}", node.name)
    };
    let nodes: Vec<String> = nodes.map(access).collect();
    let allow: Vec<String> = plan.allow.iter().map(ToString::to_string).collect();
    let address = plan.address.map_or("IPv6 only".to_owned(), |address| format!("as {address}"));
    let mut line = format!(
        "egress by port {} {address}, ports {}-{}: {}; may begin {}\n",
        config.ports[plan.port].name,
        plan.ports.start(),
        plan.ports.end(),
        nodes.join(", "),
        allow.join(", ")
    );
    if plan.inspects_any() {
        let ports: Vec<String> = plan.inspect.ports.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            line,
            "  inspected: what these nodes begin at TCP {} ends here, passes the policy as what comes in does, and goes on \
             as a connection of our own, {} at once for each; all else that they may begin passes uninspected",
            ports.join(", "),
            plan.inspect.at_once
        );
    }
    line
}

/// What a policy says, in a line.
pub fn policy(policy: &Policy) -> String {
    let Some(path) = &policy.path else {
        return "policy: none; limits and actions are the node's own\n".to_owned();
    };
    let layer = policy.rules.everybody();
    let friends = policy.rules.friends();
    format!(
        "policy {}: {} messages, {} reasons, {} scopes, {} friends, {} prefixes denied, {} allowed\n",
        path.display(),
        layer.messages.len(),
        layer.reasons.len(),
        policy.rules.scopes().len(),
        friends.ids.len() + friends.networks.len(),
        policy.deny.len(),
        policy.allow.prefixes().len()
    )
}

/// The shards, and what each of them may hold.
fn cores_line(config: &Config) -> String {
    let auto = config.cores.dataplane.is_none();
    let cores = config.cores.dataplane.clone().unwrap_or_else(|| cores::choose(config));
    let shards = cores.len().max(1);
    let numbers: Vec<String> = cores.iter().map(ToString::to_string).collect();
    let on = match numbers.as_slice() {
        [] => "any core".to_owned(),
        [core] => format!("core {core}"),
        several => format!("cores {}", several.join(", ")),
    } + if auto { ", as this machine and its devices suggest" } else { "" };
    let flows = config.limits.flows.div_ceil(shards);
    let (count, each) = match shards {
        1 => ("one shard".to_owned(), String::new()),
        _ => (format!("{shards} shards"), " each".to_owned()),
    };
    let workers = match config.cores.workers {
        0 => String::new(),
        count => format!(", {count} threads for cryptography beside"),
    };
    format!(
        "cores: {count} on {on}; {flows} connections{each} (up to {} MiB of tables, {} MiB of buffers){workers}\n",
        (flows * assemble::FLOW_BYTES).div_ceil(1 << 20),
        (config.limits.buffer_memory / shards as u64) >> 20
    )
}

fn port_line(port: &Port) -> String {
    let leased = "an address by DHCP, which the kernel's own client must not ask for on this device";
    let leased = port.dhcp.then(|| leased.to_owned());
    let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).chain(leased).collect();
    let driver = match port.driver {
        Driver::Auto => "auto",
        Driver::AfXdp => "af-xdp",
        Driver::AfPacket => "af-packet",
        Driver::Tap => "tap",
        Driver::Sockets => return format!("ordinary sockets, {}", addresses.join(", ")),
    };
    let mut line = format!("device {} ({driver}), {}", port.device, addresses.join(", "));
    if let Some(vlan) = port.vlan {
        let _ = write!(line, ", VLAN {vlan}");
    }
    for gateway in &port.gateways {
        let _ = write!(line, ", gateway {gateway}");
    }
    if port.share == Share::Listeners {
        line += ", shared with the kernel: the listeners' ports alone are ours";
    }
    line
}

fn pool_line(config: &Config, pool: &Pool) -> String {
    let nodes: Vec<String> = pool
        .nodes
        .iter()
        .map(|node| match node.name == node.address.to_string() {
            true => format!("{} by {}", node.address, config.ports[node.port].name),
            false => format!("{} ({}) by {}", node.name, node.address, config.ports[node.port].name),
        })
        .collect();
    let source = match pool.source {
        SourceChoice::Snat => "nodes see the appliance's address (snat)",
        SourceChoice::Auto => {
            "nodes see the appliance's address (auto chose snat: it works with every network)"
        }
        SourceChoice::Transparent => {
            "nodes see the peer's address (transparent): their route back must lead through the appliance"
        }
    };
    format!(
        "{}; {source}; {} new sessions a second per node, {} at one time{}{}",
        nodes.join(", "),
        pool.dials_per_second,
        pool.slots,
        one_arm(config, pool),
        exemptions(config, pool)
    )
}

/// What it means that peers come by the link of the nodes.
fn one_arm(config: &Config, pool: &Pool) -> String {
    let Some(node) = pool.nodes.iter().find(|node| config.is_one_armed(node)) else { return String::new() };
    let keeps = match pool.source.is_transparent() {
        true => {
            "peers of the nodes' own network are shown with the appliance's address, and answers to all others go by the appliance"
        }
        false => "only a filter on the nodes keeps peers from going to them directly",
    };
    format!(
        "\n  one-armed: peers come by port {}, as nodes do; {keeps} (`hedgerow node-setup {}` prints the lines)",
        config.ports[node.port].name, node.name
    )
}

/// What nodes that see our address instead of the peers' need: they ban addresses, so one bad peer would shut out all.
fn exemptions(config: &Config, pool: &Pool) -> String {
    let chia = |l: &Listener| l.protocol == Protocol::Chia && config.pools[l.pool].name == pool.name;
    if pool.source.is_transparent() || !config.listeners.iter().any(chia) {
        return String::new();
    }
    let seen: BTreeSet<String> = pool
        .nodes
        .iter()
        .flat_map(|node| {
            let own = config.ports[node.port].addresses.iter().map(|own| own.address);
            own.filter(|own| own.is_ipv4() == node.address.is_ipv4())
        })
        .map(|own| format!("\"{own}/{}\"", if own.is_ipv4() { 32 } else { 128 }))
        .collect();
    if seen.is_empty() {
        return "\n  each node's config.yaml needs full_node.exempt_peer_networks with the network that DHCP gives the address from, or one \
                peer's ban is everybody's"
            .to_owned();
    }
    format!(
        "\n  each node's config.yaml needs full_node.exempt_peer_networks: [{}], or one peer's ban is everybody's",
        seen.into_iter().collect::<Vec<_>>().join(", ")
    )
}

/// What this machine lacks: files and devices that the configuration names. The first of each pair says whether `run`
/// would refuse to start for sure.
pub fn machine(config: &Config) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for port in &config.ports {
        let device = !port.is_tap() && !port.is_sockets();
        if device && !Path::new("/sys/class/net").join(&port.device).exists() {
            found.push((false, format!("port.{}: this machine has no device `{}`", port.name, port.device)));
        }
    }
    let sockets = config.ports.iter().filter(|port| port.is_sockets());
    found.extend(sockets.map(|port| (false, format!("port.{}: {}", port.name, crate::sockets::CAVEAT))));
    // Who only looks on minds nobody else's addresses.
    let taken = if config.mode == Mode::Tap { Vec::new() } else { kernel_addresses() };
    for (port, own) in
        config.ports.iter().flat_map(|port| port.addresses.iter().map(move |own| (port, own.address)))
    {
        if port.is_sockets() {
            let anywhere = own.is_unspecified() || own.is_loopback();
            if !anywhere && !taken.contains(&own) {
                found.push((
                    false,
                    format!("port.{}: the kernel of this machine does not have {own}", port.name),
                ));
            }
            continue;
        }
        match (port.share, taken.contains(&own)) {
            (Share::Nothing, true) => found.push((false, kernel_too(port, own))),
            (Share::Listeners, false) if config.mode != Mode::Tap => found.push((
                false,
                format!("port.{}: the kernel does not have {own}, so there is nothing to share", port.name),
            )),
            _ => {}
        }
    }
    if let Some(identity) = &config.identity {
        match Secret::load(&identity.secret) {
            Ok(_) => {}
            Err(error) => found.push((identity.secret.exists(), error.to_string())),
        }
        found.extend(imported(config, identity));
    }
    found.extend(core(config));
    found
}

/// What is wrong with an imported certificate and its key.
fn imported(config: &Config, identity: &Identity) -> Vec<(bool, String)> {
    let Some((certificate, key)) = &identity.certificate else { return Vec::new() };
    let missing: Vec<_> = [certificate, key]
        .into_iter()
        .filter(|path| !path.exists())
        .map(|path| (false, format!("{} does not exist", path.display())))
        .collect();
    if !missing.is_empty() {
        return missing;
    }
    let mut found = Vec::new();
    // Any secret will do: what is looked for is whether they can be read, and belong together.
    if let Ok(secret) = Secret::ephemeral()
        && let settings = Settings::new(Clock::at(Duration::ZERO))
        && let Err(error) = assemble::kinds(config, &assemble::pools(config), &secret, &settings)
    {
        found.push((true, format!("identity.certificate: {error}")));
    }
    let mode = std::fs::metadata(key).map_or(0, |file| file.mode() & 0o7777);
    if mode & 0o077 != 0 {
        let path = key.display();
        found.push((
            false,
            format!("the key {path} can be read by others (mode {mode:04o}): `chmod 600 {path}`"),
        ));
    }
    found
}

/// A core that this machine does not have.
fn core(config: &Config) -> Option<(bool, String)> {
    let cores = core_affinity::get_core_ids()?;
    let wanted = config.cores.dataplane.iter().flatten();
    let number = wanted.copied().find(|number| cores.iter().all(|core| core.id != *number))?;
    Some((
        false,
        format!("cores.dataplane: this machine lends us {} cores, and none is number {number}", cores.len()),
    ))
}

/// Why an address that the kernel has too does not work, and what to do.
fn kernel_too(port: &Port, address: IpAddr) -> String {
    format!(
        "port.{}: the kernel of this machine has the address {address} too, and would reset every connection to it: \
         `ip address del {address} dev {}`, or keep it there with `share = \"listeners\"`",
        port.name, port.device
    )
}

/// The addresses that the kernel answers for in this network namespace; none where it does not say.
pub(crate) fn kernel_addresses() -> Vec<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut addresses = local_v4(&read("/proc/net/fib_trie"));
    addresses.extend(local_v6(&read("/proc/net/if_inet6")));
    addresses
}

/// The host routes of the local table: an address, and below it what it is.
fn local_v4(trie: &str) -> Vec<IpAddr> {
    let mut leaf: Option<IpAddr> = None;
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(leaf);
        }
    }
    found
}

/// The first column: 32 hexadecimal digits.
fn local_v6(table: &str) -> Vec<IpAddr> {
    let first = table.lines().filter_map(|line| line.split_whitespace().next());
    first
        .filter_map(|digits| u128::from_str_radix(digits, 16).ok())
        .map(|bits| IpAddr::V6(bits.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_addresses_are_read_from_its_tables() {
        let trie = "Local:\n  +-- 10.0.0.0/8 2 0 2\n     |-- 10.0.1.0\n        /24 link UNICAST\n     |-- 10.0.1.7\n        \
                    /32 host LOCAL\n     |-- 10.0.1.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(trie), ["10.0.1.7".parse::<IpAddr>().unwrap()]);
        let table = "20010db8000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(local_v6(table), ["2001:db8::7".parse::<IpAddr>().unwrap()]);
    }
}
