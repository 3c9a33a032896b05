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
//! sends what arrives at the box to a soft interrupt of the box's core. The kernel samples the time of these per core
//! (`/proc/stat`); what interrupted a process of the box is in that one's time already, so of the sum only the share is
//! added in which no process of the box ran.
//!
//! Not counted anywhere: timers of the kernel's TCP, which run in soft interrupts of their own; a few per connection, for peers only.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hedgerow_tests::rig::Namespace;
use hedgerow_tests::{Context, Outcome};

use super::pin;

/// The clock of one box.
#[derive(Debug)]
pub struct BoxTime {
    /// Threads of the kernel that work for it, as directories of `/proc`.
    kernel: Vec<PathBuf>,
    namespace: PathBuf,
    /// The core whose soft interrupts work for the box, where it has no NAPI threads.
    interrupted: Option<usize>,
}

/// What a box's clock shows at one time.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    at: Instant,
    threads: Duration,
    interrupts: Duration,
}

impl Reading {
    /// Processor time of the box from this reading to a later one.
    pub fn until(&self, later: &Reading) -> Duration {
        let threads = later.threads.saturating_sub(self.threads);
        let interrupts = later.interrupts.saturating_sub(self.interrupts);
        let busy = threads.as_secs_f64() / later.at.duration_since(self.at).as_secs_f64().max(1e-9);
        threads + interrupts.mul_f64((1.0 - busy).clamp(0.0, 1.0))
    }
}

impl BoxTime {
    /// A clock for what lives in `namespace` and for NAPI threads that were found.
    pub fn new(namespace: &Namespace, kernel: Vec<PathBuf>, interrupted: Option<usize>) -> Outcome<Self> {
        Ok(BoxTime { kernel, namespace: namespace.identity()?, interrupted })
    }

    /// What the clock shows; the time of threads which have ended is forgotten.
    pub fn read(&self) -> Outcome<Reading> {
        let mut threads: Duration = self.kernel.iter().filter_map(|path| thread_time(path)).sum();
        for process in self.processes()? {
            let tasks = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
            threads += tasks.filter_map(|task| thread_time(&task.path())).sum::<Duration>();
        }
        let interrupts = self.interrupted.map_or(Ok(Duration::ZERO), soft_interrupts)?;
        Ok(Reading { at: Instant::now(), threads, interrupts })
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

/// Ticks a second in `/proc/stat` (proc(5)); the same on every architecture that matters here.
const USER_HZ: u32 = 100;

/// Time of a core in soft interrupts, as the kernel samples it.
fn soft_interrupts(core: usize) -> Outcome<Duration> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let name = format!("cpu{core}");
    let line = text.lines().find(|line| line.split_whitespace().next() == Some(&name));
    // user nice system idle iowait irq softirq
    let ticks = line.and_then(|line| line.split_whitespace().nth(7)?.parse().ok());
    let ticks: u64 = ticks.context(format_args!("{name} in /proc/stat"))?;
    Ok(Duration::from_secs(ticks) / USER_HZ)
}

/// Lets frames that a TAP device brings into the kernel be handled on `core`, not by the thread that wrote them.
pub fn steer(namespace: &Namespace, device: &str, core: usize) -> Outcome {
    let mask = 1_u64 << core;
    namespace.with_sysfs(&format!("echo {mask:x} >/sys/class/net/{device}/queues/rx-0/rps_cpus")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_of_the_box_itself_are_not_counted_twice() {
        let at = Instant::now();
        let before = Reading { at, threads: Duration::ZERO, interrupts: Duration::ZERO };
        let after = |threads, interrupts| Reading {
            at: at + Duration::from_secs(1),
            threads: Duration::from_millis(threads),
            interrupts: Duration::from_millis(interrupts),
        };
        assert_eq!(before.until(&after(0, 200)), Duration::from_millis(200));
        assert_eq!(before.until(&after(250, 200)), Duration::from_millis(400));
        assert_eq!(before.until(&after(1_000, 200)), Duration::from_millis(1_000));
    }

    #[test]
    fn soft_interrupts_are_found() {
        assert!(soft_interrupts(0).is_ok());
        assert!(soft_interrupts(9_999).is_err());
    }
}
