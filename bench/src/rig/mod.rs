//! The rig: network namespaces with the box in the middle, contestants that run in it, generators around it.
//!
//! ```text
//!  attacker: bridge 10.1.0.2 ── pubN [box 10.1.0.1 | 10.2.0.1] prvN ── lanN node 10.2.0.2
//!               │
//!  client: wanN 10.1.0.10 ...
//! ```
//!
//! Each contestant lives in a [`World`] of its own; worlds take turns, so that no state of one meets the next one's round.
//! Devices keep the kernel's default offloads. The box has the machine's last core, everything else the first; see [`time`]
//! for what counts as the box's time. Everything is held by processes that end with this one, and namespaces end with the
//! last process in them: nothing is left behind, however a run ends.

pub mod attacks;
pub mod contestant;
pub mod flood;
pub mod frames;
pub mod needs;

pub mod station;
pub mod time;
pub mod traffic;
pub mod world;

pub use contestant::{Contestant, Driver};
pub use hedgerow_tests::peers;
pub use world::{Link, World};

use hedgerow_tests::{Context, Outcome};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// Where generators, clients and servers run.
pub const OUTSIDE: usize = 0;

/// Where the box runs: the last core.
pub fn box_core() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from) - 1
}

/// The rig's priority: that of its processes (from `bench/run`) and of its NAPI threads, so that what else the machine does
/// disturbs all contestants alike, and little.
pub const NICE: i32 = -10;

/// Pins a thread (`None`: the calling one) to a core.
pub fn pin(thread: Option<i32>, core: usize) -> Outcome {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(thread.and_then(Pid::from_raw), &set).context(format_args!("pinning to core {core}"))
}
