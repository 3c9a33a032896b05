//! `hedgerow check`: what a configuration would do, and what this machine still lacks for it.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::{Config, Driver, Pool, Port, Protocol, SourceChoice};
use crate::identity::Secret;

/// What `run` would do with a configuration, in a few lines.
pub fn summary(config: &Config) -> String {
    let mut text = String::new();
    for port in &config.ports {
        let _ = writeln!(text, "port {}: {}", port.name, port_line(port));
    }
    for listener in &config.listeners {
        let port = &config.ports[listener.port];
        let own = port.addresses.iter().map(|own| own.address);
        let served = own.filter(|own| listener.address.is_none_or(|wanted| wanted == *own));
        let at: Vec<String> = served.map(|a| SocketAddr::new(a, listener.local_port).to_string()).collect();
        let what = match listener.protocol {
            Protocol::Chia => format!("chia on {}, {:?}", listener.network, listener.types),
            Protocol::Tcp => "any bytes, unread".to_owned(),
        };
        let pool = &config.pools[listener.pool].name;
        let _ = writeln!(text, "listener {}: {} ({what}) to pool {pool}", listener.name, at.join(", "));
    }
    for pool in &config.pools {
        let _ = writeln!(text, "pool {}: {}", pool.name, pool_line(config, pool));
    }
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

fn port_line(port: &Port) -> String {
    let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
    let driver = match port.driver {
        Driver::Auto => "auto",
        Driver::AfPacket => "af-packet",
        Driver::Tap => "tap",
    };
    let mut line = format!("device {} ({driver}), {}", port.device, addresses.join(", "));
    if let Some(vlan) = port.vlan {
        let _ = write!(line, ", VLAN {vlan}");
    }
    for gateway in &port.gateways {
        let _ = write!(line, ", gateway {gateway}");
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
        "{}; {source}; {} new sessions a second per node, {} at one time",
        nodes.join(", "),
        pool.dials_per_second,
        pool.slots
    )
}

/// What this machine lacks: files and devices that the configuration names. The first of each pair says whether `run`
/// would refuse to start for sure.
pub fn machine(config: &Config) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for port in &config.ports {
        let created =
            port.driver == Driver::Tap || port.driver == Driver::Auto && port.device.starts_with("tap");
        if !created && !Path::new("/sys/class/net").join(&port.device).exists() {
            found.push((false, format!("port.{}: this machine has no device `{}`", port.name, port.device)));
        }
    }
    if let Some(identity) = &config.identity {
        match Secret::load(&identity.secret) {
            Ok(_) => {}
            Err(error) => found.push((identity.secret.exists(), error.to_string())),
        }
        for path in identity.certificate.iter().flat_map(|(certificate, key)| [certificate, key]) {
            if !path.exists() {
                found.push((false, format!("{} does not exist", path.display())));
            }
        }
    }
    found
}
