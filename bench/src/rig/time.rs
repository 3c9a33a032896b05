//! What the box costs: the processor time of every thread that works for it.
//!
//! Frames that arrive at a veth device are usually handled by a soft interrupt on the core that happened to send them, and
//! nobody can say whose time that was. So both ends of each link get a NAPI thread of the kernel: those of the box's ends
//! belong to the box, those of the far ends do not. veth hands frames to NAPI only where the sender leaves segmentation to
//! no device, so TSO is off on these links: no frame of a flood or of a short connection is large enough to notice. A box's time is then that of its NAPI threads (driver, protocol stack,
//! netfilter, XDP programs, cookies) and of all threads of all processes in its namespace, as the scheduler counts it in
//! nanoseconds (`schedstat`). The price is one wake-up per burst, the same for everyone.
//!
//! Links that keep TSO ([`Link::Offloads`](super::world::Link)) cannot have NAPI threads. There, receive packet steering
//! sends what arrives at the box to a soft interrupt of the box's core, which the scheduler counts as time of the thread that
//! it interrupted, or of `ksoftirqd`. A saturated box is hardly ever idle, so its processes and `ksoftirqd` have nearly all
//! of it; what interrupts somebody else's thread is not counted, which favours contestants on the kernel's stack.
//!
//! Not counted anywhere: timers of the kernel's TCP, which run in soft interrupts of their own; a few per connection, for peers only.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hedgerow_tests::rig::Namespace;
use hedgerow_tests::{Context, Outcome};

use super::pin;

/// The clock of one box.
#[derive(Debug)]
pub struct BoxTime {
    /// Threads of the kernel that work for it, as directories of `/proc`.
    kernel: Vec<PathBuf>,
    namespace: PathBuf,
}

impl BoxTime {
    /// A clock for what lives in `namespace` and for NAPI threads that were found.
    pub fn new(namespace: &Namespace, kernel: Vec<PathBuf>) -> Outcome<Self> {
        Ok(BoxTime { kernel, namespace: namespace.identity()? })
    }

    /// Processor time since the box began; that of threads which have ended is forgotten.
    pub fn read(&self) -> Outcome<Duration> {
        let mut total: Duration = self.kernel.iter().filter_map(|path| thread_time(path)).sum();
        for process in self.processes()? {
            let tasks = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
            total += tasks.filter_map(|task| thread_time(&task.path())).sum::<Duration>();
        }
        Ok(total)
    }

    /// Processes in the namespace, as directories of `/proc`.
    pub fn processes(&self) -> Outcome<Vec<PathBuf>> {
        let all = fs::read_dir("/proc").context("/proc")?.flatten().map(|entry| entry.path());
        Ok(all
            .filter(|path| fs::read_link(path.join("ns/net")).is_ok_and(|name| name == self.namespace))
            .collect())
    }

    /// Resident memory of all its processes, in bytes: what is theirs alone, and a share of what they share.
    pub fn resident(&self) -> Outcome<u64> {
        Ok(self.processes()?.iter().filter_map(|process| proportional(process)).sum())
    }
}

fn proportional(process: &Path) -> Option<u64> {
    let text = fs::read_to_string(process.join("smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// Time on a processor: the first field of `schedstat`, in nanoseconds.
fn thread_time(thread: &Path) -> Option<Duration> {
    let text = fs::read_to_string(thread.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Gives a device of `namespace` a NAPI thread of its own on `core`; says where the thread is.
pub fn thread_napi(namespace: &Namespace, device: &str, core: usize) -> Outcome<Vec<PathBuf>> {
    // veth has NAPI once GRO is on, and uses it for what comes from a device that does not segment by itself; threads
    // exist once the device says so.
    namespace.shell(&format!("ethtool -K {device} gro on tso off"))?;
    namespace.with_sysfs(&format!("echo 1 >/sys/class/net/{device}/threaded"))?;
    let prefix = format!("napi/{device}-");
    let mut found = vec![];
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let number = entry.file_name().to_str().and_then(|text| text.parse().ok());
        if let Some(number) = number.filter(|_| name.starts_with(&prefix)) {
            pin(Some(number), core)?;
            // As nimble as the rig's processes; a neighbour's builds are not to be what is measured.
            rustix::process::setpriority_process(rustix::process::Pid::from_raw(number), super::NICE)
                .context("the priority of a NAPI thread")?;
            found.push(entry.path());
        }
    }
    if found.is_empty() {
        return Err(format!(
            "{device} got no NAPI thread (visible only in the machine's own process namespace)"
        ));
    }
    Ok(found)
}

/// The kernel's thread for soft interrupts of a core that is busy with them.
pub fn soft_interrupts(core: usize) -> Outcome<Vec<PathBuf>> {
    let name = format!("ksoftirqd/{core}\n");
    let all = fs::read_dir("/proc").context("/proc")?.flatten().map(|entry| entry.path());
    Ok(all.filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm == name)).collect())
}

/// Lets frames that a TAP device brings into the kernel be handled on `core`, not by the thread that wrote them.
pub fn steer(namespace: &Namespace, device: &str, core: usize) -> Outcome {
    let mask = 1_u64 << core;
    namespace.with_sysfs(&format!("echo {mask:x} >/sys/class/net/{device}/queues/rx-0/rps_cpus")).map(drop)
}
