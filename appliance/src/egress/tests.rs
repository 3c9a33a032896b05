//! Who may go out, by configuration, by hand and in an emergency, and what is said about it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hedgerow_dataplane::Instant;
use hedgerow_policy::gate::light::{Peak, Sighting};

use super::{Ask, Egress, layout};
use crate::assemble;
use crate::commons::Commons;
use crate::config::Config;
use crate::config::egress::Access;
use crate::pool::health::Loss;

fn config(egress: &str) -> Arc<Config> {
    let text = format!(
        "version = 1\n[port.public]\ndevice = \"ens5\"\naddress = [\"203.0.113.7/24\", \"203.0.113.8/24\"]\n\
         [port.private]\ndevice = \"ens6\"\naddress = [\"10.0.1.1/24\"]\n\
         [[listener]]\nname = \"peers\"\nport = \"public\"\naddress = \"203.0.113.7\"\nlocal_port = 8444\nprotocol = \"tcp\"\npool = \"front\"\n\
         [pool.front]\nnodes = [\"a=10.0.1.11:8444\", \"b=10.0.1.12:8444 protected\", \"c=10.0.1.13:8444 hidden\"]\n\
         [egress]\nport = \"public\"\n{egress}"
    );
    let (config, _) = Config::parse("hedgerow.toml", &text).unwrap_or_else(|r| panic!("{}", r.render(false)));
    Arc::new(config)
}

/// An appliance without shards, its clock, and what was said.
struct World {
    egress: Arc<Egress>,
    commons: Arc<Commons>,
    clock: Arc<AtomicU64>,
    said: Arc<Mutex<Vec<String>>>,
}

fn start(egress: &str) -> World {
    let config = config(egress);
    let clock = Arc::new(AtomicU64::new(10_000));
    let now = Instant::from_millis(10_000);
    let mut pools = assemble::pools(&config);
    pools[0].watched = true;
    let commons = Commons::over(&pools, Vec::new(), 1, Box::new(|_| {}), now);
    let (time, said) = (clock.clone(), Arc::new(Mutex::new(Vec::new())));
    let lines = said.clone();
    let clock_of = Box::new(move || Instant::from_millis(time.load(Ordering::Relaxed)));
    let tell = Box::new(move |line: crate::events::EventLine| {
        lines.lock().unwrap().push(format!(
            "{} {} {}",
            line.node.unwrap_or_default(),
            line.reason.unwrap_or_default(),
            line.detail.unwrap_or_default()
        ));
    });
    let egress = Egress::open(config, commons.clone(), clock_of, tell, 1).expect("a way out");
    World { egress, commons, clock, said }
}

impl World {
    fn now(&self) -> Instant {
        Instant::from_millis(self.clock.load(Ordering::Relaxed))
    }

    fn wait(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.fetch_add(1_000, Ordering::Relaxed);
            self.commons.with(|books| books.pools[0].judge(self.now()));
            self.egress.step();
        }
    }

    /// The public node is in sync, or gone.
    fn healthy(&self, well: bool) {
        let now = self.now();
        let peak = Peak { hash: [1; 32], height: 1_000, weight: 1_000 };
        self.commons.with(|books| match well {
            true => {
                books.pools[0].saw(now, 0, Sighting::Ready);
                books.pools[0].saw(now, 0, Sighting::Peak(peak));
            }
            false => (0..3).for_each(|_| books.pools[0].lost(now, 0, Loss::Unreachable)),
        });
    }

    /// Those whose way out is open, as the shards see it.
    fn open(&self) -> String {
        let rules = self.egress.swap().current();
        "abc".chars().zip(rules.nodes()).filter(|(_, node)| node.open).map(|(name, _)| name).collect()
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut self.said.lock().unwrap())
    }
}

#[test]
fn roles_have_the_access_that_their_purpose_asks_for() {
    let world = start("");
    assert_eq!(world.open(), "ac");
    assert_eq!(world.said(), ["a open as configured", "c open as configured"]);
    let world = start("public = \"closed\"\nnode.b.access = \"open\"\nnode.c.access = \"emergency\"\n");
    assert_eq!(world.open(), "b");
    let blocks: Vec<u16> = world.egress.swap().current().nodes().iter().map(|node| node.block).collect();
    assert_eq!(blocks, [0, 1, 2], "each has ports of its own");
}

#[test]
fn an_emergency_opens_protected_nodes_and_a_healthy_public_one_closes_them() {
    let world =
        start("[egress.emergency]\nafter = \"30s\"\nhold = \"20s\"\nat_most = \"10m\"\ncool_down = \"2m\"\n");
    world.healthy(true);
    world.wait(100);
    assert_eq!(world.open(), "ac");
    world.said();
    world.healthy(false);
    world.wait(25);
    assert_eq!((world.open().as_str(), world.egress.status(&[]).emergency.as_str()), ("ac", "threatening"));
    world.wait(20);
    assert_eq!(world.open(), "abc");
    let status = world.egress.status(&[]);
    assert_eq!((status.emergency.as_str(), status.nodes[1].open), ("on", true));
    assert_eq!(world.said(), ["b open EMERGENCY: no public node has been healthy for 30s"]);
    // By hand against it.
    world.egress.ask(&Ask::Close { node: "b".into() }).unwrap();
    assert_eq!((world.open().as_str(), world.said().join("")), ("ac", "b closed closed by hand".into()));
    world.egress.ask(&Ask::Open { node: "b".into(), seconds: None }).unwrap();
    world.said();
    world.healthy(true);
    world.wait(30);
    assert_eq!(world.egress.status(&[]).emergency, "cooling down");
    assert_eq!(world.open(), "abc", "the hour that was given by hand lasts");
    world.wait(3_600);
    assert_eq!((world.open().as_str(), world.said().join("")), ("ac", "b closed the time is over".into()));
}

#[test]
fn it_opens_by_hand_for_a_time_within_limits() {
    let world = start("hidden = \"closed\"\n");
    world.said();
    let open = |node: &str, seconds| world.egress.ask(&Ask::Open { node: node.into(), seconds });
    assert!(open("b", Some(60)).unwrap().contains("`b` may go out"));
    assert_eq!(world.open(), "ab");
    assert_eq!(world.egress.status(&[]).nodes[1].seconds, Some(60));
    world.healthy(true);
    world.wait(61);
    assert_eq!(world.open(), "a");
    assert!(open("c", Some(60)).unwrap_err().contains("set its `access` to \"emergency\""));
    assert!(open("b", Some(7 * 3_600)).unwrap_err().contains("egress.emergency.at_most"));
    assert!(open("d", None).unwrap_err().contains("expected `a` or `b` or `c` or `all`"));
    world.egress.ask(&Ask::Close { node: "all".into() }).unwrap();
    assert_eq!(world.open(), "");
    open("all", None).unwrap();
    assert_eq!(world.open(), "ab");
}

/// A node keeps its ports and its counters; one that comes later gets others, as long as there are any.
#[test]
fn nodes_come_and_go_and_keep_their_places() {
    let world = start("ports = \"20000-20063\"\nports_per_node = 16\n");
    let node = |name: &str, last| {
        let target = hedgerow_dataplane::shard::Target {
            link: hedgerow_dataplane::wire::LinkId(0),
            address: std::net::IpAddr::from([10, 0, 1, last]).into(),
            port: 8_444,
        };
        crate::pool::NodeConfig::new(name, target)
    };
    world.commons.with(|books| books.pools[0].remove("a", true)).unwrap();
    world.wait(1);
    assert_eq!(world.open(), "c");
    for (name, last) in [("d", 14), ("e", 15)] {
        world.commons.with(|books| books.pools[0].add(world.now(), node(name, last))).unwrap();
    }
    world.wait(1);
    let rules = world.egress.swap().current();
    assert_eq!(rules.nodes().len(), 4, "the last one finds no ports");
    assert_eq!((rules.nodes()[3].block, rules.nodes()[3].open), (3, true));
    let status = world.egress.status(&[]);
    assert_eq!(status.nodes.iter().map(|exit| exit.node.as_str()).collect::<String>(), "bcd");
}

#[test]
fn the_dataplane_is_told_where_nodes_and_the_world_are() {
    let config = config("address = \"203.0.113.8\"\n");
    let told = layout(&config, 1).unwrap();
    assert_eq!((told.inner.len(), told.inner[0].0, told.outer.0, told.home), (1, 0, 1, false));
    assert_eq!(told.address.map(|address| address.to_string()).as_deref(), Some("203.0.113.8"));
    let plan = config.egress.as_ref().unwrap();
    assert_eq!(plan.access, [Access::Open, Access::Emergency, Access::Open]);
    assert_eq!(plan.allow.iter().map(ToString::to_string).collect::<Vec<_>>(), ["chia", "dns", "ntp"]);
}

/// Nobody looks at the nodes of a pool that does not speak Chia: that they are there says nothing about their health.
#[test]
fn a_pool_that_nobody_watches_holds_up_no_emergency() {
    let world = start(
        "[egress.emergency]\nafter = \"30s\"\n\
         [[listener]]\nname = \"rpc\"\nport = \"private\"\nlocal_port = 8555\nprotocol = \"tcp\"\npool = \"rpc\"\nbackend = true\n\
         [pool.rpc]\nnodes = [\"a=10.0.1.11:8555\"]\n",
    );
    world.healthy(true);
    world.wait(5);
    world.healthy(false);
    world.wait(45);
    assert_eq!((world.egress.status(&[]).emergency.as_str(), world.open().as_str()), ("on", "abc"));
}

/// A machine that comes back for another purpose has the way out of that purpose.
#[test]
fn a_node_that_comes_back_is_what_it_comes_back_as() {
    let world = start("");
    assert_eq!(world.open(), "ac");
    let target = hedgerow_dataplane::shard::Target {
        link: hedgerow_dataplane::wire::LinkId(0),
        address: std::net::IpAddr::from([10, 0, 1, 13]).into(),
        port: 8_444,
    };
    let node = crate::pool::NodeConfig {
        role: crate::pool::Role::Protected,
        ..crate::pool::NodeConfig::new("d", target)
    };
    world.commons.with(|books| {
        books.pools[0].remove("c", true).unwrap();
        books.pools[0].add(world.now(), node).unwrap();
    });
    world.said();
    world.healthy(true);
    world.wait(1);
    assert_eq!((world.open().as_str(), world.egress.status(&[]).nodes[2].node.as_str()), ("a", "d"));
    assert!(world.said().iter().any(|said| said.starts_with("d closed")), "it is told");
    world.egress.ask(&Ask::Open { node: "d".into(), seconds: None }).unwrap();
    assert_eq!(world.open(), "ac", "in the place of the third");
}

/// A node beside us towards the world needs us for no way out, and whoever writes its address there has none.
#[test]
fn nodes_on_the_worlds_side_have_no_way_out() {
    let world = start(
        "[pool.beside]\nnodes = [\"e=203.0.113.20:8444\"]\n[[listener]]\nname = \"more\"\nport = \"private\"\nlocal_port = 8446\nprotocol = \"tcp\"\npool = \"beside\"\n",
    );
    assert!(world.egress.status(&[]).nodes.iter().all(|exit| exit.node != "e"));
    let told = layout(&world.egress.config, 0).unwrap();
    assert!(!told.inner.contains(&told.outer));
}

/// Whoever closes a node that has been taken over does not want it out again because others fail.
#[test]
fn an_emergency_opens_none_that_was_closed_by_hand_and_is_no_matter_of_it() {
    let world = start("[egress.emergency]\nafter = \"30s\"\n");
    world.egress.ask(&Ask::Close { node: "all".into() }).unwrap();
    assert_eq!(world.open(), "");
    world.healthy(false);
    world.wait(45);
    assert_eq!((world.egress.status(&[]).emergency.as_str(), world.open().as_str()), ("on", "b"));
}

#[test]
fn what_cannot_be_opened_whole_is_not_opened_by_halves() {
    let world = start(
        "hidden = \"closed\"\n\
         [[listener]]\nname = \"rpc\"\nport = \"private\"\nlocal_port = 8555\nprotocol = \"tcp\"\npool = \"rpc\"\nbackend = true\n\
         [pool.rpc]\nnodes = [\"b=10.0.1.19:8555 hidden\", \"p=10.0.1.20:8555 protected\"]\n",
    );
    assert!(world.egress.ask(&Ask::Open { node: "b".into(), seconds: Some(60) }).is_err());
    world.wait(1);
    assert_eq!(world.open(), "a");
}

#[test]
fn what_is_inspected_is_said_for_all_nodes_or_for_one() {
    let inspected = |egress: &str| {
        let world = start(&format!("{egress}\n{}", identity()));
        let rules = world.egress.swap().current();
        let of = |node: &hedgerow_dataplane::egress::EgressNode| {
            (node.inspect.ports.to_vec(), node.inspect.at_once)
        };
        rules.nodes().iter().map(of).collect::<Vec<_>>()
    };
    let none = (vec![], 0);
    assert_eq!(inspected(""), [none.clone(), none.clone(), none.clone()]);
    let usual = (vec![8_444], 64);
    assert_eq!(
        inspected("inspect = true\nnode.b.inspect = false\n"),
        [usual.clone(), none.clone(), usual.clone()]
    );
    let other = (vec![8_444, 58_444], 3);
    assert_eq!(
        inspected(
            "allow = [\"any\"]\ninspect_ports = [58444, 8444, 8444]\ninspect_at_once = 3\nnode.c.inspect = true\n"
        ),
        [none.clone(), none, other]
    );
}

/// The section that inspection needs.
fn identity() -> &'static str {
    "[identity]\nsecret = \"secret\"\n"
}

#[test]
fn a_node_s_inspected_connections_are_counted_on_when_it_comes_back() {
    let world = start(&format!("inspect = true\n{}", identity()));
    let held = |world: &World| world.egress.swap().current().nodes()[0].inspect.held.clone();
    held(&world).store(5, Ordering::Relaxed);
    let status = world.egress.status(&[]);
    assert_eq!((status.nodes[0].inspected, status.nodes[1].inspected), (Some(5), Some(0)));
    assert!(
        status.to_string().contains("a 10.0.1.11 open: 5 inspected connections and 0 other sessions"),
        "{status}"
    );
    let node =
        crate::pool::NodeConfig::new("z", world.commons.with(|books| books.pools[0].target(0)).unwrap());
    let now = world.now();
    world.commons.with(|books| {
        books.pools[0].remove("a", true).unwrap();
        books.pools[0].add(now, node).unwrap();
    });
    world.egress.step();
    assert_eq!(held(&world).load(Ordering::Relaxed), 5);
}
