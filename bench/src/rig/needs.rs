//! What the rig needs of the machine, said in words where it is missing. `bench/run` installs packages before.

use std::process::{Command, Stdio};

use super::box_core;

/// A program and the Debian package that has it.
pub type Tool = (&'static str, &'static str);

/// What every figure over the rig needs.
pub const BASIC: &[Tool] = &[
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("ethtool", "ethtool"),
    ("nft", "nftables"),
];

/// Why the rig cannot run here with these tools, if it cannot.
pub fn missing(tools: &[Tool]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, for namespaces and the kernel's NAPI threads".into());
    }
    if box_core() == 0 {
        return Some("needs two processor cores, one of them for the box".into());
    }
    let absent: Vec<String> = BASIC
        .iter()
        .chain(tools)
        .filter(|(program, _)| !exists(program))
        .map(|(program, package)| format!("{program} (package {package})"))
        .collect();
    (!absent.is_empty()).then(|| format!("needs {}", absent.join(", ")))
}

fn exists(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "PATH=$PATH:/usr/sbin:/sbin command -v \"$1\"", "sh", program])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}
