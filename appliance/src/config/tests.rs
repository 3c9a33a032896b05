//! Mistakes and how they are shown. Each case under `cases/` is a file that an operator might have written and, after a
//! line of dashes, the report. `UPDATE_CASES=1` writes the reports anew.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Config, Cores, PeerType, Protocol, SourceChoice};
use crate::pool::Role;

const RULE: &str = "\n-----\n";

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/cases");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn mistakes_are_reported_with_place_expectation_and_suggestion() {
    let cases = cases();
    assert!(cases.len() >= 20, "{} cases", cases.len());
    for path in cases {
        let case = fs::read_to_string(&path).unwrap();
        let (text, expected) = case.split_once(RULE).unwrap_or((case.trim_end(), ""));
        let report = match Config::parse("hedgerow.toml", text) {
            Ok((_, report)) | Err(report) => report.render(false),
        };
        if std::env::var_os("UPDATE_CASES").is_some() {
            fs::write(&path, format!("{text}{RULE}{report}")).unwrap();
        } else {
            assert_eq!(report, expected, "{}", path.display());
        }
    }
}

fn example() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/proxy/hedgerow.toml")).unwrap()
}

#[test]
fn the_example_is_valid() {
    let (config, report) =
        Config::parse("hedgerow.toml", &example()).unwrap_or_else(|r| panic!("{}", r.render(false)));
    assert_eq!(report.diagnostics, []);
    assert_eq!(config.listeners[0].protocol, Protocol::Chia);
    let pool = &config.pools[config.listeners[0].pool];
    assert_eq!((pool.name.as_str(), pool.nodes.len(), pool.source), ("front", 2, SourceChoice::Auto));
    assert_eq!(config.ports[pool.nodes[0].port].name, "private");
}

/// What the example shows commented out is as good as the rest.
#[test]
fn the_example_of_a_way_out_is_valid() {
    let example = example();
    let start = example.find("# [egress]").unwrap();
    let egress: String = example[start..].lines().map(|line| format!("{}\n", &line[2..])).collect();
    let (config, report) = Config::parse("hedgerow.toml", &(example[..start].to_owned() + &egress))
        .unwrap_or_else(|r| panic!("{}", r.render(false)));
    assert_eq!(report.diagnostics, []);
    let standard = super::egress::Emergency::default();
    let egress = config.egress.unwrap();
    assert_eq!((egress.emergency, egress.ports, egress.sessions), (standard, 16_384..=32_767, 8_192));
}

#[test]
fn the_example_with_several_nodes_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/load-balanced/hedgerow.toml");
    let (config, report) = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.diagnostics, []);
    let roles: Vec<(Role, u32)> = config.pools[0].nodes.iter().map(|node| (node.role, node.weight)).collect();
    assert_eq!(roles, [(Role::Public, 1), (Role::Public, 1), (Role::Public, 2), (Role::Protected, 1)]);
    assert_eq!(config.pools[0].node_slots, [(PeerType::FullNode, 60), (PeerType::Wallet, 60)]);
    let back: Vec<(bool, Option<u16>)> = config.listeners.iter().map(|l| (l.backend, l.node_port)).collect();
    assert_eq!(back, [(false, None), (true, None), (true, Some(8555))]);
}

#[test]
fn the_example_for_a_first_try_is_valid_and_needs_no_device() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/first-try/hedgerow.toml");
    let (config, report) = Config::load(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.diagnostics, []);
    assert!(config.ports.iter().all(|port| port.is_sockets()));
}

/// What the example shows as a default is the default: with those lines in force nothing changes.
#[test]
fn the_examples_comments_show_the_defaults() {
    let text = example();
    // A section that is not there by default has a test of its own.
    let lines = text.lines().take_while(|line| *line != "# [egress]").map(|line| {
        let setting = line.strip_prefix("# ").filter(|line| !line.contains("this machine"));
        let setting =
            setting.filter(|line| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')));
        let optional = [
            "events = \"",
            "vlan",
            "routes",
            "own_nodes",
            "certificate",
            "key",
            "address",
            "file",
            "policy",
            "node_",
        ];
        setting.filter(|line| !optional.iter().any(|word| line.starts_with(word))).unwrap_or(line)
    });
    let shown = lines.collect::<Vec<_>>().join("\n");
    assert!(
        shown.matches("\nflows = 16384").count() == 1 && shown.contains("\nmode = \"enforce\""),
        "{shown}"
    );
    let (shown, _) = Config::parse("shown", &shown).unwrap_or_else(|r| panic!("{}", r.render(false)));
    let (plain, _) = Config::parse("plain", &text).unwrap();
    assert_eq!(shown.limits, plain.limits);
    assert_eq!(shown.pools, plain.pools);
    assert_eq!(shown.bans, plain.bans);
    assert_eq!(shown.cores, Cores::default());
    let mut ports = shown.ports;
    // The one value that stands for the device's own.
    ports.iter_mut().for_each(|port| port.mtu = None);
    assert_eq!(ports, plain.ports);
}

#[test]
fn no_text_makes_the_reader_panic() {
    let text = example();
    for cut in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
        for text in [&text[..cut], &text[cut..]] {
            let (Ok((_, report)) | Err(report)) = Config::parse("cut", text);
            report.render(false);
        }
    }
}
