//! `hedgerow doctor`: what this machine allows, a line for each thing that matters, with what to do where it is wanting.
//! It only reads: files of `/proc` and `/sys`, and devices that can be opened.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::check;
use crate::config::{Config, Driver};

/// How a thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be, or good to know.
    Good,
    /// It works, but not as well as it could.
    Hint,
    /// The appliance cannot run, or a part of it cannot.
    Bad,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it stands.
    pub level: Level,
    /// What was looked at.
    pub what: String,
    /// What is the case.
    pub is: String,
    /// What to do, where something is to be done.
    pub advice: Option<String>,
}

impl Finding {
    fn new(level: Level, what: impl Into<String>, is: impl Into<String>) -> Self {
        Finding { level, what: what.into(), is: is.into(), advice: None }
    }

    fn advising(self, advice: impl Into<String>) -> Self {
        Finding { advice: Some(advice.into()), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.level {
            Level::Good => "ok  ",
            Level::Hint => "hint",
            Level::Bad => "BAD ",
        };
        write!(f, "{mark}  {:<22} {}", self.what, self.is)?;
        match &self.advice {
            Some(advice) => write!(f, "\n      {:<22} -> {advice}", ""),
            None => Ok(()),
        }
    }
}

/// Where a machine's facts are read.
#[derive(Clone, Copy, Debug)]
pub struct Roots<'a> {
    /// `/proc`.
    pub proc: &'a Path,
    /// `/sys`.
    pub sys: &'a Path,
}

impl Roots<'static> {
    /// This machine's.
    pub fn here() -> Self {
        Roots { proc: Path::new("/proc"), sys: Path::new("/sys") }
    }
}

/// Capabilities by their bits (capabilities(7)).
const CAPABILITIES: [(u32, &str, &str); 3] = [
    (13, "CAP_NET_RAW", "AF_PACKET and AF_XDP"),
    (12, "CAP_NET_ADMIN", "TAP devices, AF_XDP, shared addresses"),
    (39, "CAP_BPF", "AF_XDP and the lanes of AF_PACKET"),
];
/// The first kernel that has what the XDP program needs.
const XDP_FROM: (u32, u32) = (5, 18);
/// Largest MTU that AF_XDP's chunks hold.
pub(crate) const XDP_MTU: u32 = 3_822;

/// Looks at the machine, and at what a configuration asks of it.
pub fn findings(config: Option<&Config>, roots: Roots<'_>) -> Vec<Finding> {
    let mut found = vec![kernel(roots)];
    found.extend(capabilities(roots));
    found.push(tun());
    found.push(cores());
    found.push(memory(roots));
    found.extend(cloud(roots));
    let devices = match config {
        Some(config) => config.ports.iter().map(|port| (port.device.clone(), Some(port.driver))).collect(),
        None => network_devices(roots),
    };
    found.extend(devices.iter().flat_map(|(device, driver)| network_device(roots, device, *driver)));
    if let Some(config) = config {
        found.extend(check::machine(config).into_iter().map(|(fatal, problem)| {
            let level = if fatal { Level::Bad } else { Level::Hint };
            Finding::new(level, "configuration", problem)
        }));
    }
    found
}

pub(crate) fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn kernel(roots: Roots<'_>) -> Finding {
    let release = read(roots.proc.join("sys/kernel/osrelease")).unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = XDP_FROM;
    match version >= XDP_FROM {
        true => {
            Finding::new(Level::Good, "kernel", format!("{release}: AF_XDP with SYNs answered in the driver"))
        }
        false => Finding::new(Level::Hint, "kernel", format!("{release}: too old for AF_XDP"))
            .advising(format!("Linux {major}.{minor} or newer; until then AF_PACKET is used")),
    }
}

fn capabilities(roots: Roots<'_>) -> Vec<Finding> {
    let status = read(roots.proc.join("self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    let finding = |(bit, name, needed): (u32, &str, &str)| match held >> bit & 1 {
        1 => Finding::new(Level::Good, name, format!("held: {needed}")),
        _ => Finding::new(Level::Hint, name, format!("missing, for {needed}"))
            .advising("run as root, or `AmbientCapabilities=CAP_NET_RAW CAP_NET_ADMIN CAP_BPF` in the unit"),
    };
    CAPABILITIES.into_iter().map(finding).collect()
}

fn tun() -> Finding {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::new(Level::Good, "TAP", "/dev/net/tun can be opened"),
        Err(error) => Finding::new(Level::Hint, "TAP", format!("/dev/net/tun: {error}"))
            .advising("`modprobe tun`, where TAP devices are wanted"),
    }
}

fn cores() -> Finding {
    match core_affinity::get_core_ids().map_or(0, |cores| cores.len()) {
        0 | 1 => Finding::new(Level::Hint, "cores", "one: shard and interrupts share it")
            .advising("two or more; `cores.dataplane` names those that poll"),
        count => {
            Finding::new(Level::Good, "cores", format!("{count}: one for the rest, the others may poll"))
        }
    }
}

fn memory(roots: Roots<'_>) -> Finding {
    let text = read(roots.proc.join("meminfo")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    let megabytes = kilobytes / 1_024;
    match megabytes {
        0..512 => Finding::new(Level::Hint, "memory", format!("{megabytes} MiB available"))
            .advising("512 MiB for a shard with the default limits"),
        _ => Finding::new(Level::Good, "memory", format!("{megabytes} MiB available")),
    }
}

/// What a provider is known to demand.
fn cloud(roots: Roots<'_>) -> Option<Finding> {
    let vendor = read(roots.sys.join("class/dmi/id/sys_vendor"))?;
    let advice = match vendor.as_str() {
        "Amazon EC2" => {
            "source/destination check off on the private interface for transparent sources; XDP limits MTU and queues on ENA"
        }
        "Google" => "IP forwarding must be allowed when the machine is created; the MTU is 1460",
        "Hetzner" => "private networks are layer 3 with MTU 1450: use `share = \"listeners\"` and snat",
        "Microsoft Corporation" => "IP forwarding on the interface, and routes, for transparent sources",
        _ => return Some(Finding::new(Level::Good, "platform", vendor)),
    };
    Some(Finding::new(Level::Hint, "platform", vendor).advising(advice))
}

/// The devices that are no loopback, where no configuration names any.
fn network_devices(roots: Roots<'_>) -> Vec<(String, Option<Driver>)> {
    let entries = fs::read_dir(roots.sys.join("class/net")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| read(roots.sys.join("class/net").join(name).join("type")).as_deref() == Some("1"))
        .collect();
    names.sort();
    names.into_iter().map(|name| (name, None)).collect()
}

fn network_device(roots: Roots<'_>, device: &str, driver: Option<Driver>) -> Vec<Finding> {
    let folder = roots.sys.join("class/net").join(device);
    if !folder.exists() {
        // The check of the configuration says so.
        return Vec::new();
    }
    let behind = fs::read_link(folder.join("device/driver")).ok();
    let named = behind.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let module = named.unwrap_or_else(|| "virtual".into());
    let mtu: u32 = read(folder.join("mtu")).and_then(|text| text.parse().ok()).unwrap_or(0);
    let queues = fs::read_dir(folder.join("queues")).into_iter().flatten().flatten();
    let queues = queues.filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count();
    let state = read(folder.join("operstate")).unwrap_or_default();
    let mut found = vec![Finding::new(
        Level::Good,
        device,
        format!("driver {module}, MTU {mtu}, {queues} receive queue(s), {state}"),
    )];
    if state == "down" {
        // Where no configuration names it, it may be meant to be.
        let level = if driver.is_some() { Level::Bad } else { Level::Hint };
        found.push(Finding::new(level, device, "it is down").advising(format!("`ip link set {device} up`")));
    }
    if mtu > XDP_MTU && !matches!(driver, Some(Driver::AfPacket | Driver::Tap)) {
        found.push(
            Finding::new(
                Level::Hint,
                device,
                format!("MTU {mtu}: AF_XDP takes {XDP_MTU} at most, so AF_PACKET is used"),
            )
            .advising(format!("`ip link set {device} mtu 1500`, if jumbo frames are not needed")),
        );
    }
    if queues > 1 {
        found.push(
            Finding::new(Level::Hint, device, format!("{queues} queues: AF_XDP wants a shard for each"))
                .advising(format!("`cores.dataplane = \"auto\"` on a machine with as many cores, or `ethtool -L {device} combined N`")),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(release: &str, capabilities: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        write("proc/sys/kernel/osrelease", release);
        write("proc/self/status", &format!("Name:\thedgerow\nCapEff:\t{capabilities}\n"));
        write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:  204800 kB\n");
        write("sys/class/dmi/id/sys_vendor", "Google\n");
        write("sys/class/net/ens5/type", "1\n");
        write("sys/class/net/ens5/mtu", "8896\n");
        write("sys/class/net/ens5/operstate", "down\n");
        write("sys/class/net/ens5/queues/rx-0/rps_cpus", "0\n");
        write("sys/class/net/ens5/queues/rx-1/rps_cpus", "0\n");
        write("sys/class/net/lo/type", "772\n");
        dir
    }

    fn report(dir: &tempfile::TempDir) -> Vec<Finding> {
        let (proc, sys) = (dir.path().join("proc"), dir.path().join("sys"));
        findings(None, Roots { proc: &proc, sys: &sys })
    }

    #[test]
    fn what_is_wanting_is_named_with_what_to_do() {
        let found = report(&machine("5.10.0-8-amd64\n", "0000000000002000"));
        let level = |what: &str, part: &str| {
            let finding = found.iter().find(|finding| finding.what == what && finding.is.contains(part));
            finding.map(|finding| (finding.level, finding.advice.is_some()))
        };
        assert_eq!(level("kernel", "too old"), Some((Level::Hint, true)));
        assert_eq!(level("CAP_NET_RAW", "held"), Some((Level::Good, false)));
        assert_eq!(level("CAP_BPF", "missing"), Some((Level::Hint, true)));
        assert_eq!(level("memory", "200 MiB"), Some((Level::Hint, true)));
        assert_eq!(level("platform", "Google"), Some((Level::Hint, true)));
        assert_eq!(level("ens5", "is down"), Some((Level::Hint, true)));
        assert_eq!(level("ens5", "MTU 8896: AF_XDP"), Some((Level::Hint, true)));
        assert_eq!(level("ens5", "2 queues"), Some((Level::Hint, true)));
        assert!(found.iter().all(|finding| finding.what != "lo"));
    }

    #[test]
    fn a_new_kernel_and_all_capabilities_are_well() {
        let found = report(&machine("6.12.3\n", "000001ffffffffff"));
        let good =
            |what: &str| found.iter().any(|finding| finding.what == what && finding.level == Level::Good);
        assert!(good("kernel") && good("CAP_NET_RAW") && good("CAP_NET_ADMIN") && good("CAP_BPF"));
    }
}
