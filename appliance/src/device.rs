//! From a port of the configuration to an opened driver: which one, and what of the device's traffic is ours.

use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::wire::Address;
use hedgerow_port::{
    AfPacket, AfPacketConfig, AfXdp, AfXdpConfig, LaneLimits, OpenError, Ours, PacketLanes,
    PacketLanesConfig, Problem, Silent, Tap, TapConfig,
};

use crate::config::{AnswerSyns, Config, Driver, Mode, Share};
use crate::sockets::Place;

/// An opened port.
pub type Device = Box<dyn Port + Send>;

/// Opens the port at place `index` of the configuration, once for each of `count` shards.
///
/// # Errors
/// What the driver says. With `driver = "auto"` a device that cannot serve AF_XDP is opened with AF_PACKET, whose mode then
/// says why; but not one that another program has, which would fight with us over every frame.
pub fn open(config: &Config, index: usize, count: usize) -> Result<Vec<Device>, OpenError> {
    let port = &config.ports[index];
    if config.mode == Mode::Tap {
        let ports = AfPacket::open_queues(&AfPacketConfig::new(&port.device), count)?;
        return Ok(boxed(ports.into_iter().map(Silent::new).collect()));
    }
    match port.driver {
        _ if port.is_tap() => Tap::open_queues(&TapConfig::new(&port.device), count).map(boxed),
        Driver::Sockets => {
            let place = || Place::new().map(|place| Box::new(place) as Device);
            let failed = |error| {
                let problem = Problem::System { operation: "a descriptor", source: error };
                OpenError { device: port.device.clone(), problem }
            };
            (0..count).map(|_| place().map_err(failed)).collect()
        }
        Driver::AfPacket => af_packet(config, index, count, &[]),
        Driver::Auto if config.shares_device(port) => {
            let note = "no af-xdp: another port has another VLAN of this device".to_owned();
            af_packet(config, index, count, &[note])
        }
        Driver::AfXdp => AfXdp::open_queues(&af_xdp(config, index), count).map(boxed),
        Driver::Auto | Driver::Tap => match AfXdp::open_queues(&af_xdp(config, index), count) {
            Ok(ports) => Ok(boxed(ports)),
            Err(error) if matches!(error.problem, Problem::ProgramAttached | Problem::QueueTaken(_)) => {
                Err(error)
            }
            Err(error) => {
                tracing::info!(port = port.name, "AF_PACKET instead of AF_XDP: {error}");
                af_packet(config, index, count, &[format!("no af-xdp: {error}")])
            }
        },
    }
}

/// A device with AF_PACKET: a socket for each lane where the process may load their filters, else one for both.
fn af_packet(
    config: &Config,
    index: usize,
    count: usize,
    notes: &[String],
) -> Result<Vec<Device>, OpenError> {
    let packet = AfPacketConfig::new(&config.ports[index].device);
    let lanes = PacketLanesConfig { packet: packet.clone(), limits: limits(config, index) };
    match PacketLanes::open_queues(&lanes, count) {
        Ok(mut ports) => {
            ports.iter_mut().for_each(|port| notes.iter().for_each(|note| port.note(note)));
            Ok(boxed(ports))
        }
        Err(error) => {
            let mut ports = AfPacket::open_queues(&packet, count)?;
            let note = format!("one lane: {error}");
            ports.iter_mut().for_each(|port| notes.iter().chain([&note]).for_each(|note| port.note(note)));
            Ok(boxed(ports))
        }
    }
}

/// Conversations that are passed on have a place beside our own flows, so that the ones cannot displace the others.
fn limits(config: &Config, index: usize) -> LaneLimits {
    let passing = config.egress.as_ref().filter(|_| transit(config, index).transit);
    LaneLimits {
        flows: u32::try_from(config.limits.flows + passing.map_or(0, |way| way.sessions)).unwrap_or(u32::MAX),
        strangers_per_second: config.ports[index].strangers_per_second,
        ..LaneLimits::default()
    }
}

fn boxed<P: Port + Send + 'static>(ports: Vec<P>) -> Vec<Device> {
    ports.into_iter().map(|port| Box::new(port) as Device).collect()
}

fn af_xdp(config: &Config, index: usize) -> AfXdpConfig {
    let port = &config.ports[index];
    AfXdpConfig {
        vlan: port.vlan,
        limits: limits(config, index),
        answer: match port.answer_syns {
            AnswerSyns::Auto => hedgerow_port::AnswerSyns::Auto,
            AnswerSyns::Core => hedgerow_port::AnswerSyns::Core,
            AnswerSyns::Program => hedgerow_port::AnswerSyns::Program,
        },
        ..AfXdpConfig::new(&port.device, ours(config, index))
    }
}

/// What of a port's traffic is ours: its addresses, or its listeners' ports where the kernel has the addresses too, and what
/// nodes send to peers whose addresses they see.
fn ours(config: &Config, index: usize) -> Ours {
    let own = || config.ports[index].addresses.iter().map(|own| own.address);
    let shared = config.ports[index].share == Share::Listeners;
    let listeners = config.listeners.iter().filter(|listener| shared && listener.port == index);
    let ports = listeners.flat_map(|listener| {
        let served = own().filter(|own| listener.address.is_none_or(|wanted| wanted == *own));
        served.map(|address| (Address::from(address), listener.local_port))
    });
    let nodes = config.pools.iter().filter(|pool| pool.source.is_transparent()).flat_map(|pool| &pool.nodes);
    let nodes = nodes.filter(|node| node.port == index);
    let transit = transit(config, index);
    Ours {
        addresses: own().filter(|_| !shared).map(Address::from).chain(transit.addresses).collect(),
        ports: ports.collect(),
        sources: nodes.map(|node| (Address::from(node.address.ip()), node.address.port())).collect(),
        nodes: transit.nodes,
        transit: transit.transit,
        dhcp: config.ports[index].dhcp,
    }
}

/// What of a port's traffic is ours because nodes have a way out: all that they send, and from the world all that goes to those
/// of their addresses that are not translated.
fn transit(config: &Config, index: usize) -> Ours {
    let Some(plan) = &config.egress else { return Ours::default() };
    let addresses = |node: &crate::config::Node| {
        let more = plan.nodes.get(&node.name).map(|own| own.addresses.clone()).unwrap_or_default();
        [node.address.ip()].into_iter().chain(more)
    };
    // A node on the world's own side of us has no way out by us.
    let nodes = || config.pools.iter().flat_map(|pool| &pool.nodes).filter(|node| node.port != plan.port);
    let untranslated = nodes().flat_map(addresses).filter(|ip| index == plan.port && ip.is_ipv6());
    let behind: Vec<Address> =
        nodes().filter(|node| node.port == index).flat_map(addresses).map(Address::from).collect();
    Ours {
        addresses: untranslated.map(Address::from).collect(),
        transit: index == plan.port || !behind.is_empty(),
        nodes: behind,
        ..Ours::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
version = 1
[port.a]
device = "eth0"
driver = "af-xdp"
address = ["10.1.0.1/24"]
[port.b]
device = "tap9"
address = ["10.2.0.1/24", "fd02::1/64"]
strangers_per_second = 1000
[[listener]]
name = "relay"
port = "a"
local_port = 5000
protocol = "tcp"
pool = "nodes"
[pool.nodes]
nodes = ["n=10.2.0.5:8444"]
source = "transparent"
"#;

    #[test]
    fn ours_are_the_ports_addresses_and_what_nodes_send_to_peers() {
        let (config, _) = Config::parse("test", TEXT).unwrap_or_else(|r| panic!("{}", r.render(false)));
        let address = |text: &str| Address::from(text.parse::<std::net::IpAddr>().unwrap());
        assert_eq!(ours(&config, 0), Ours { addresses: vec![address("10.1.0.1")], ..Ours::default() });
        let private = ours(&config, 1);
        assert_eq!(private.addresses, [address("10.2.0.1"), address("fd02::1")]);
        assert_eq!(private.sources, [(address("10.2.0.5"), 8444)]);
        assert!(!config.ports[0].is_tap() && config.ports[1].is_tap());
        assert_eq!(af_xdp(&config, 1).limits.strangers_per_second, 1_000);
        let shared = TEXT.replace("\"af-xdp\"", "\"af-xdp\"\nshare = \"listeners\"");
        let (config, _) = Config::parse("test", &shared).unwrap_or_else(|r| panic!("{}", r.render(false)));
        assert_eq!(ours(&config, 0), Ours { ports: vec![(address("10.1.0.1"), 5000)], ..Ours::default() });
    }
}
