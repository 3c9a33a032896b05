//! `cores.dataplane = "auto"`: how many shards this machine is good for, and on which of its cores.
//!
//! AF_XDP serves a queue of a device per shard, so where a device may be served by it there are as many shards as it has
//! queues. Where nothing says how many, each core but one and those that the workers take has a shard: interrupts and
//! commands want a core, too.

use std::fs;
use std::path::Path;

use crate::config::{Config, Driver, Mode, Port};
use crate::doctor::{Roots, XDP_MTU, read};

/// Most shards where no device's queues ask for more: beyond, their memory costs more than they bring.
const SHARDS: usize = 16;
/// What each shard has at least: fewer connections or less memory is no use.
const FLOWS: usize = 256;
const BUFFERS: u64 = 8 << 20;
/// Of a TAP device's flags: it takes several queues (`IFF_MULTI_QUEUE`).
const MULTI_QUEUE: u32 = 0x100;

/// How many shards a port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queues {
    /// As many as there are.
    Any,
    /// So many, by AF_XDP; with any other number it is served by AF_PACKET, if it may be.
    Preferred(usize),
    /// So many, or it cannot be served.
    Needed(usize),
}

/// The cores with a shard each; empty where the machine does not say what cores it lends.
pub fn choose(config: &Config) -> Vec<usize> {
    let lent: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    let count =
        count(config, lent.len(), config.ports.iter().map(|port| queues(config, port, Roots::here().sys)));
    lent[lent.len() - count..].to_vec()
}

/// Shards on a machine that lends us `lent` cores.
fn count(config: &Config, lent: usize, ports: impl Iterator<Item = Queues>) -> usize {
    let limits = &config.limits;
    let affordable = (limits.flows / FLOWS).min((limits.buffer_memory / BUFFERS) as usize);
    let most = lent.min(affordable.max(1));
    let spare = lent.saturating_sub(1 + config.cores.workers);
    let (mut needed, mut preferred) = (None, None);
    for queues in ports {
        match queues {
            Queues::Any => {}
            Queues::Preferred(count) if count > most => {}
            Queues::Preferred(count) => preferred = preferred.max(Some(count)),
            Queues::Needed(count) => needed = needed.or(Some(count)),
        }
    }
    needed.or(preferred).unwrap_or(spare.min(SHARDS)).min(most).max(1.min(lent))
}

fn queues(config: &Config, port: &Port, sys: &Path) -> Queues {
    let folder = sys.join("class/net").join(&port.device);
    if port.is_tap() && config.mode != Mode::Tap {
        let flags = read(folder.join("tun_flags"));
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        // One that is not there is made with as many as are asked for.
        return if flags.is_some_and(|flags| flags & MULTI_QUEUE == 0) {
            Queues::Needed(1)
        } else {
            Queues::Any
        };
    }
    let entries = fs::read_dir(folder.join("queues")).into_iter().flatten().flatten();
    let count = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count();
    let mtu: u32 = read(folder.join("mtu")).and_then(|text| text.parse().ok()).unwrap_or(0);
    match port.driver {
        _ if count == 0 || config.mode == Mode::Tap => Queues::Any,
        Driver::AfXdp => Queues::Needed(count),
        Driver::Auto if mtu <= XDP_MTU => Queues::Preferred(count),
        Driver::Auto | Driver::AfPacket | Driver::Sockets | Driver::Tap => Queues::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
version = 1
[port.public]
device = "eth0"
address = ["198.51.100.1/24"]
[port.private]
device = "eth1"
address = ["10.0.0.1/24"]
[[listener]]
name = "relay"
port = "public"
local_port = 5000
protocol = "tcp"
pool = "nodes"
[pool.nodes]
nodes = ["n=10.0.0.5:8444"]
"#;

    fn config(changes: &[(&str, &str)]) -> Config {
        let text = changes.iter().fold(TEXT.to_owned(), |text, (from, to)| text.replace(from, to));
        Config::parse("test", &text).unwrap_or_else(|report| panic!("{}", report.render(false))).0
    }

    #[test]
    fn shards_are_as_many_as_queues_where_queues_matter() {
        use Queues::{Any, Needed, Preferred};
        let config = config(&[]);
        let count = |lent, ports: &[Queues]| count(&config, lent, ports.iter().copied());
        assert_eq!([1, 2, 4, 8, 64].map(|lent| count(lent, &[Any, Any])), [1, 1, 3, 7, 16]);
        assert_eq!(count(0, &[Any]), 0, "the machine does not say");
        assert_eq!([2, 4, 8].map(|lent| count(lent, &[Preferred(1), Preferred(1)])), [1, 1, 1]);
        assert_eq!(
            count(4, &[Preferred(4), Preferred(1)]),
            4,
            "one device by AF_XDP, the other by AF_PACKET"
        );
        assert_eq!(count(2, &[Preferred(8), Preferred(2)]), 2, "eight queues need eight cores");
        assert_eq!(count(2, &[Preferred(8), Any]), 1);
        assert_eq!(count(8, &[Needed(2), Preferred(4)]), 2);
        assert_eq!(count(2, &[Needed(4)]), 2, "too few cores: opening it says what to do");
    }

    #[test]
    fn workers_and_limits_leave_less_room_for_shards() {
        let of = |changes: &[(&str, &str)]| count(&config(changes), 8, [Queues::Any].into_iter());
        let head = "version = 1";
        assert_eq!(of(&[(head, "version = 1\ncores = { workers = 3 }")]), 4);
        assert_eq!(of(&[(head, "version = 1\nlimits = { flows = 600 }")]), 2);
        assert_eq!(of(&[(head, "version = 1\nlimits = { buffer_memory = \"4 MiB\" }")]), 1);
    }

    #[test]
    fn a_devices_facts_decide_what_it_can_have() {
        let sys = std::env::temp_dir().join(format!("hedgerow-cores-{}", std::process::id()));
        let device = |name: &str, queues: usize, more: &[(&str, &str)]| {
            let folder = sys.join("class/net").join(name);
            (0..queues).for_each(|n| fs::create_dir_all(folder.join(format!("queues/rx-{n}"))).unwrap());
            fs::create_dir_all(folder.join("queues/tx-0")).unwrap();
            more.iter().for_each(|(file, text)| fs::write(folder.join(file), text).unwrap());
        };
        device("eth0", 2, &[("mtu", "1500\n")]);
        device("eth1", 2, &[("mtu", "9000\n")]);
        device("tap0", 1, &[("mtu", "1500\n"), ("tun_flags", "0x1002\n")]);
        device("tap1", 1, &[("mtu", "1500\n"), ("tun_flags", "0x1102\n")]);
        let ask = |changes: &[(&str, &str)], port: usize| {
            let config = config(changes);
            queues(&config, &config.ports[port], &sys)
        };
        // Ports stand by name: the private one comes first.
        assert_eq!(ask(&[], 1), Queues::Preferred(2));
        assert_eq!(ask(&[], 0), Queues::Any, "AF_XDP does not take jumbo frames");
        let driven = |driver: &str| [("\"eth0\"", format!("\"eth0\"\ndriver = \"{driver}\""))];
        let with = |driver: &str| ask(&driven(driver).each_ref().map(|(from, to)| (*from, to.as_str())), 1);
        assert_eq!([with("af-xdp"), with("af-packet")], [Queues::Needed(2), Queues::Any]);
        assert_eq!(ask(&[("eth0", "tap0")], 1), Queues::Needed(1));
        assert_eq!([ask(&[("eth0", "tap1")], 1), ask(&[("eth0", "tap7")], 1)], [Queues::Any; 2]);
        assert_eq!(ask(&[("eth0", "eth9")], 1), Queues::Any, "a device that is not there");
        fs::remove_dir_all(sys).unwrap();
    }
}
