//! Every dependency's licence is one that `deny.toml` allows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Whether an SPDX expression (with `/` as an old way to write OR) can be satisfied by allowed licences alone.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let result = any(&words, &mut at, allowed);
    result && at == words.len()
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut result = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        result |= all(words, at, allowed);
    }
    result
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut result = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        result &= one(words, at, allowed);
    }
    result
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let result = any(words, at, allowed);
        *at += 1;
        return result;
    }
    let mut licence = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&licence)
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn strings(list: &toml::Value) -> BTreeSet<String> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("a string").to_owned()).collect()
}

/// The licences that anything may have, and those that single packages may have beside them.
fn allow_list() -> (BTreeSet<String>, BTreeMap<String, BTreeSet<String>>) {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let table: toml::Table = text.parse().expect("deny.toml is TOML");
    let exceptions = table["licenses"]["exceptions"].as_array().expect("licenses.exceptions");
    let exception =
        |one: &toml::Value| (one["crate"].as_str().expect("a crate").to_owned(), strings(&one["allow"]));
    (strings(&table["licenses"]["allow"]), exceptions.iter().map(exception).collect())
}

/// Names of the packages that become part of the appliance's program.
fn built_in(metadata: &Value) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |id: &Value| {
        let package = packages.iter().find(|package| package["id"] == *id).expect("a package");
        package["name"].as_str().expect("a name").to_owned()
    };
    let start = packages.iter().find(|package| package["name"] == "hedgerow").expect("the appliance");
    let (mut open, mut seen) = (vec![&start["id"]], BTreeSet::new());
    while let Some(id) = open.pop() {
        if !seen.insert(name(id)) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == *id).expect("a node");
        let normal = |dep: &&Value| {
            dep["dep_kinds"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
        };
        open.extend(
            node["deps"].as_array().expect("dependencies").iter().filter(normal).map(|dep| &dep["pkg"]),
        );
    }
    seen
}

#[test]
fn dependencies_have_allowed_licences() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let (allowed, exceptions) = allow_list();
    let built_in = built_in(&metadata);
    let excepted = |package: &Value| {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        exceptions.get(name).is_some_and(|more| satisfied(licence, more)) && !built_in.contains(name)
    };
    let packages = metadata["packages"].as_array().expect("packages");
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !satisfied(package["license"].as_str().unwrap_or("none stated"), &allowed))
        .filter(|package| !excepted(package))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(packages.len() > 50, "only {} packages were looked at", packages.len());
    assert!(built_in.len() > 20 && built_in.contains("rustls"), "{built_in:?}");
    assert!(refused.is_empty(), "not in deny.toml's list:\n{}", refused.join("\n"));
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed: BTreeSet<String> =
        ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for yes in
        ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "(GPL-3.0 OR ISC) AND MIT", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(satisfied(yes, &allowed), "{yes}");
    }
    for no in
        ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT OR ISC) AND GPL-3.0", "", "MIT MIT", "none stated"]
    {
        assert!(!satisfied(no, &allowed), "{no}");
    }
}
