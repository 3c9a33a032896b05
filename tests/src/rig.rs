//! Network namespaces with processes inside and veth links between, none of which outlives the test.
//!
//! A namespace lives as long as one small process that waits for the end of its standard input, so the kernel removes
//! it with all its devices however the test ends. Whole suites run in a process namespace of their own (see
//! `tests/lib/need.sh`), which ends what was started inside.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::check::{Context, Outcome, wait_for};

/// Duplicate-address detection takes up to seven seconds (RFC 5227), and the kernel forgets a failure slowly.
const NEIGHBOUR: Duration = Duration::from_secs(40);

/// A process that ends when this is dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    holder: Process,
    handle: File,
}

impl Namespace {
    /// An empty namespace, its loopback device up. The name is for messages only.
    pub fn new(name: &str) -> Outcome<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting unshare")?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).context("waiting for a namespace")?;
        }
        let holder = Process(child);
        if line != "ready\n" {
            return Err(format!("no namespace {name}: unshare said {line:?}"));
        }
        let handle = File::open(format!("/proc/{}/ns/net", holder.0.id())).context("opening a namespace")?;
        Ok(Namespace { name: name.to_owned(), holder, handle })
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.0.id())).arg("--").arg(program);
        command
    }

    /// A command that will run inside and that the kernel kills when the thread that started it is gone, however it went.
    pub fn tethered(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    /// What the kernel calls the namespace (as `readlink /proc/PID/ns/net` says it): equal for every process inside.
    pub fn identity(&self) -> Outcome<PathBuf> {
        std::fs::read_link(format!("/proc/{}/ns/net", self.holder.0.id())).context("a namespace's name")
    }

    /// Runs a shell script inside, with the namespace's own devices under /sys/class/net.
    pub fn with_sysfs(&self, script: &str) -> Outcome<String> {
        self.shell(&format!("unshare --mount sh -ec 'mount -t sysfs sysfs /sys; {script}'"))
    }

    /// Runs a shell script inside; gives its output, fails if any line of it fails.
    pub fn shell(&self, script: &str) -> Outcome<String> {
        let output = self.command("sh").args(["-ec", script]).output().context("starting a shell")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("in {}: {script}: {}", self.name, said.trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `work` on a thread inside: sockets that it opens, and threads that it starts, belong to the namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
        let inside = || {
            move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
                .context(format_args!("entering {}", self.name))?;
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| "a thread panicked".to_owned())?
    }

    /// Connects a device of this namespace to one of another, both up, with the kernel's own offload settings.
    pub fn veth(&self, device: &str, other: &Namespace, other_device: &str) -> Outcome {
        self.veth_queues(device, other, other_device, 1)
    }

    /// The same with several queues at either end: what one end sends by a queue arrives in the other's of that number.
    pub fn veth_queues(&self, device: &str, other: &Namespace, other_device: &str, queues: usize) -> Outcome {
        let pid = other.holder.0.id();
        let queues = format!("numtxqueues {queues} numrxqueues {queues}");
        self.shell(&format!(
            "ip link add {device} {queues} type veth peer name {other_device} {queues} netns {pid}"
        ))?;
        self.shell(&format!("ip link set {device} up"))?;
        other.shell(&format!("ip link set {other_device} up"))?;
        Ok(())
    }

    /// Moves a device of this namespace into another.
    pub fn give(&self, device: &str, other: &Namespace) -> Outcome {
        self.shell(&format!("ip link set {device} netns {}", other.holder.0.id())).map(drop)
    }

    /// Gives a device addresses at once usable (no duplicate detection) and brings it up.
    pub fn address(&self, device: &str, addresses: &[&str]) -> Outcome {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.shell(&format!("ip address add {address} dev {device} {nodad}"))?;
        }
        self.shell(&format!("ip link set {device} up")).map(drop)
    }

    /// Waits until something at `address` refuses a connection to a port that nobody listens on: its owner has finished
    /// its duplicate-address detection and both sides know each other.
    pub fn await_neighbour(&self, address: IpAddr) -> Outcome {
        let target = SocketAddr::new(address, 9);
        wait_for(format_args!("{address} answers in {}", self.name), NEIGHBOUR, || {
            let attempt = self.enter(|| Ok(TcpStream::connect_timeout(&target, Duration::from_secs(1))))?;
            Ok(matches!(attempt, Err(error) if error.kind() == ErrorKind::ConnectionRefused).then_some(()))
        })
    }

    /// Loads an nftables ruleset.
    pub fn nftables(&self, ruleset: &str) -> Outcome {
        self.shell(&format!("nft -f - <<'RULES'\n{ruleset}\nRULES")).map(drop)
    }
}
