//! Changes as the socket asks for them, what they say, and what of them is there after a restart.

use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;

use super::{Change, Nodes};
use crate::assemble;
use crate::bans::{self, Ban, Bans, Origin, Refusal};
use crate::commons::Commons;
use crate::config::Config;

const NOW: Instant = Instant::from_millis(10_000);

fn config(file: Option<&std::path::Path>) -> Arc<Config> {
    let kept = file.map_or(String::new(), |file| format!("[management]\nnodes = \"{}\"\n", file.display()));
    let text = format!(
        "version = 1\n{kept}[port.public]\ndevice = \"ens5\"\naddress = [\"203.0.113.7/24\"]\n\
         [port.private]\ndevice = \"ens6\"\naddress = [\"10.0.1.1/24\"]\n\
         [[listener]]\nname = \"peers\"\nport = \"public\"\nlocal_port = 8444\nprotocol = \"tcp\"\npool = \"front\"\n\
         [[listener]]\nname = \"others\"\nport = \"public\"\nlocal_port = 443\nprotocol = \"tcp\"\npool = \"web\"\n\
         [pool.front]\nnodes = [\"a=10.0.1.11:8444\", \"b=10.0.1.12:8444\"]\n\
         [pool.web]\nnodes = [\"a=10.0.1.21:443\", \"w=10.0.1.22:443\"]\n"
    );
    let (config, _) = Config::parse("hedgerow.toml", &text).unwrap_or_else(|r| panic!("{}", r.render(false)));
    Arc::new(config)
}

fn bans(config: &Config) -> Arc<Bans> {
    let rules = bans::Rules { protected: assemble::protected(config), most: 10, ..bans::Rules::default() };
    let setup = bans::Setup {
        rules,
        file: None,
        close: true,
        shards: 1,
        tell: Box::new(|_| {}),
        clock: || 1_800_000_000,
    };
    Bans::open(setup).unwrap()
}

fn start(file: Option<&std::path::Path>) -> Arc<Nodes> {
    let config = config(file);
    let bans = bans(&config);
    start_with(config, bans)
}

fn start_with(config: Arc<Config>, bans: Arc<Bans>) -> Arc<Nodes> {
    let commons = Commons::over(&assemble::pools(&config), Vec::new(), 1, Box::new(|_| {}), NOW);
    Nodes::open(config, commons, Box::new(|| NOW), || 1_800_000_000, bans).unwrap()
}

fn names(nodes: &Nodes) -> Vec<String> {
    let answer = nodes.change(&Change::List).unwrap();
    let all = answer.pools.iter().flat_map(|pool| {
        pool.nodes.iter().map(|node| format!("{}/{} {} x{}", pool.pool, node.name, node.state, node.weight))
    });
    all.collect()
}

fn drain(node: &str, seconds: Option<u64>) -> Change {
    Change::Drain { node: node.into(), seconds }
}

fn add(node: &str, pool: Option<&str>) -> Change {
    Change::Add { node: node.into(), pool: pool.map(str::to_owned) }
}

fn refusal(nodes: &Nodes, change: &Change) -> String {
    nodes.change(change).expect_err("it was done")
}

#[test]
fn refusals_say_what_to_do() {
    let nodes = start(None);
    for (change, words) in [
        (drain("c", None), "there is no node `c`: expected `a` or `b` or `a` or `w`"),
        (drain("a", None), "expected `front/a` or `web/a`"),
        (Change::Undrain { node: "b".into() }, "`hedgerow nodes` shows"),
        (Change::Undrain { node: "self".into() }, "not being drained"),
        (Change::Weigh { node: "b".into(), weight: 0 }, "`hedgerow drain` gives a node none"),
        (add("d=10.0.1.14:8444", None), "Expected --pool with `front` or `web`"),
        (add("d=10.0.1.14:8444", Some("back")), "there is no pool `back`"),
        (add("d=10.0.1.14", Some("front")), "has no port"),
        (add("d=10.0.1.14:8444 fast", Some("front")), "`fast`"),
        (add("b=10.0.1.14:8444", Some("front")), "choose another"),
        (add("d=10.0.1.1:8444", Some("front")), "another host"),
        (add("d=127.0.0.1:8444", Some("front")), "another host"),
        (add("d=192.0.2.1:8444", Some("front")), "no port leads to 192.0.2.1"),
        (add("self=10.0.1.14:8444", Some("front")), "not `self`"),
    ] {
        let said = refusal(&nodes, &change);
        assert!(said.contains(words), "{change:?}: {said}");
    }
    assert_eq!(names(&nodes).len(), 4);
}

#[test]
fn changes_are_there_after_a_restart_where_there_is_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nodes.json");
    let nodes = start(Some(&file));
    for change in [
        add("d=10.0.1.14:8444 protected weight=2", Some("front")),
        Change::Weigh { node: "b".into(), weight: 5 },
        drain("d", Some(1_200)),
        drain("w", None),
        Change::Remove { node: "front/a".into(), force: false },
    ] {
        nodes.change(&change).unwrap_or_else(|problem| panic!("{change:?}: {problem}"));
    }
    let expected =
        ["front/b unwatched x5", "front/d maintenance x2", "web/a unwatched x1", "web/w maintenance x1"];
    let sorted = |nodes: &Nodes| {
        let mut names = names(nodes);
        names.sort();
        names
    };
    assert_eq!(sorted(&nodes), expected);
    let again = start(Some(&file));
    assert_eq!(sorted(&again), expected);
    again.change(&Change::Undrain { node: "w".into() }).unwrap();
    again.change(&Change::Remove { node: "d".into(), force: false }).unwrap();
    assert_eq!(
        sorted(&start(Some(&file))),
        ["front/b unwatched x5", "web/a unwatched x1", "web/w unwatched x1"]
    );
    std::fs::write(&file, "{").unwrap();
    let config = config(Some(&file));
    let commons = Commons::over(&assemble::pools(&config), Vec::new(), 1, Box::new(|_| {}), NOW);
    let bans = bans(&config);
    let error = Nodes::open(config, commons, Box::new(|| NOW), || 0, bans).unwrap_err();
    assert!(error.to_string().contains("move it away"), "{error}");
}

#[test]
fn without_a_file_the_answer_says_that_a_change_does_not_last() {
    let said = start(None).change(&drain("b", None)).unwrap().said;
    assert!(said.contains("gets no new sessions") && said.contains("`management.nodes`"), "{said}");
}

#[test]
fn a_drained_appliance_ends_when_it_has_no_session() {
    let nodes = start(None);
    assert!(!nodes.may_end());
    nodes.change(&drain("self", Some(60))).unwrap();
    assert!(nodes.may_end());
    nodes.change(&Change::Undrain { node: "self".into() }).unwrap();
    assert!(!nodes.may_end());
    assert!(Duration::from_secs(60) < super::SELF_PATIENCE);
}

#[test]
fn a_node_that_joins_is_never_banned_and_bans_that_concern_it_are_lifted() {
    let config = config(None);
    let bans = bans(&config);
    let nodes = start_with(config, bans.clone());
    let ban = |prefix: &str| Ban {
        prefix: prefix.parse().unwrap(),
        reason: "test".into(),
        origin: Origin::Operator,
        since: 0,
        until: None,
        hits: 0,
    };
    for prefix in ["10.0.1.14/32", "10.0.1.15/32"] {
        bans.change(|book, now| book.set(now, ban(prefix))).unwrap().unwrap();
    }
    let said = nodes.change(&add("d=10.0.1.14:8444", Some("front"))).unwrap().said;
    assert!(said.contains("the ban of 10.0.1.14/32 is lifted"), "{said}");
    assert_eq!(bans.all().iter().map(|ban| ban.prefix.to_string()).collect::<Vec<_>>(), ["10.0.1.15/32"]);
    let refused = bans.change(|book, now| book.set(now, ban("10.0.1.14/31"))).unwrap().unwrap_err();
    assert_eq!(refused, Refusal::Protected("10.0.1.14/32".parse().unwrap(), "the node d".into()));
}
