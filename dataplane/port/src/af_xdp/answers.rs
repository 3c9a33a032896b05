//! What the program needs to answer SYNs by itself, one plan per queue. `bpf/plan.h` holds the same layout in C.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use bytemuck::{Pod, Zeroable};
use hedgerow_dataplane::screen::{PlanKey, SynPlan};
use hedgerow_dataplane::wire::Address;

use crate::bpf::{Kind, Map};
use crate::lanes::RawEndpoint;
use crate::syscall::monotonic_ms;

/// Buckets of each row of the sketch that caps replies: `1 << CAP_LOG2`.
const CAP_BUCKETS: u32 = 1 << 14;
/// Bursts of so many seconds' worth of replies pass.
const BURST_SECONDS: u64 = 2;
/// Listeners that are answered for; those beyond are the core's.
const LISTENERS: u32 = 1_024;

/// `struct slot_key`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
struct RawSlot {
    slot: u64,
    key: [u64; 2],
}

/// `struct plan`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
struct RawPlan {
    on: u64,
    skew_ms: u64,
    slots: [RawSlot; 2],
    stamp: [u64; 2],
    cap_secret: [u64; 4],
    cap_cost_us: u64,
    cap_burst_us: u64,
    mss_v4: [u16; 4],
    mss_v6: [u16; 4],
    mtu: u16,
    by_redirect: u16,
    unused: [u16; 2],
}

fn words(key: PlanKey) -> [u64; 2] {
    [key.k0, key.k1]
}

impl RawPlan {
    /// `monotonic_ms` is the clock of the program when the plan's `unix_ms` was read.
    fn new(plan: &SynPlan, monotonic_ms: u64) -> Self {
        let mut slots = [RawSlot::default(); 2];
        for (slot, key) in plan.slots {
            slots[(slot & 1) as usize] = RawSlot { slot, key: words(key) };
        }
        RawPlan {
            on: 1,
            skew_ms: plan.unix_ms.wrapping_sub(monotonic_ms),
            slots,
            stamp: words(plan.stamp),
            cap_secret: plan.cap_secret,
            cap_cost_us: plan.replies_per_second.map_or(0, |rate| 1_000_000 / u64::from(rate.max(1))),
            cap_burst_us: BURST_SECONDS * 1_000_000,
            mss_v4: plan.mss_v4,
            mss_v6: plan.mss_v6,
            mtu: plan.mtu,
            by_redirect: 0,
            unused: [0; 2],
        }
    }
}

/// The maps of a device.
pub(super) struct Answers {
    plans: Map<u32, RawPlan>,
    listeners: Map<RawEndpoint, u32>,
    caps: Map<u32, u64>,
    /// Answers go out as if to another device: see [`super::device::Device::is_veth`].
    by_redirect: bool,
}

impl Answers {
    pub(super) fn new(queues: u32, by_redirect: bool) -> io::Result<Self> {
        Ok(Answers {
            plans: Map::new(Kind::Array, "plans", queues)?,
            listeners: Map::new(Kind::Hash, "listeners", LISTENERS)?,
            caps: Map::new(Kind::Array, "caps", 2 * CAP_BUCKETS)?,
            by_redirect,
        })
    }

    /// The maps by the names that the program knows them by.
    pub(super) fn maps(&self) -> [(&'static str, BorrowedFd<'_>); 3] {
        [("plans", self.plans.as_fd()), ("listeners", self.listeners.as_fd()), ("caps", self.caps.as_fd())]
    }
}

/// What one queue has been told.
#[derive(Debug, Default)]
pub(super) struct Told {
    plan: RawPlan,
    listeners: Vec<(Address, u16)>,
}

impl Told {
    /// Tells the program of a queue. An error leaves SYNs to the core.
    pub(super) fn tell(&mut self, maps: &Answers, queue: u32, plan: &SynPlan) -> io::Result<()> {
        let mut raw = RawPlan::new(plan, monotonic_ms());
        raw.by_redirect = maps.by_redirect.into();
        // Both clocks are read in whole milliseconds: a difference of one is none.
        if raw.skew_ms.abs_diff(self.plan.skew_ms) <= 1 {
            raw.skew_ms = self.plan.skew_ms;
        }
        if self.listeners != plan.listeners {
            for (address, port) in self.listeners.iter().filter(|place| !plan.listeners.contains(place)) {
                maps.listeners.remove(&RawEndpoint::destination(*address, *port))?;
            }
            for (address, port) in &plan.listeners {
                maps.listeners.set(&RawEndpoint::destination(*address, *port), &1)?;
            }
            self.listeners.clone_from(&plan.listeners);
        }
        if self.plan != raw {
            maps.plans.set(&queue, &raw)?;
            self.plan = raw;
        }
        Ok(())
    }

    /// What the program adds to its clock.
    #[cfg(test)]
    pub(super) fn skew_ms(&self) -> u64 {
        self.plan.skew_ms
    }

    /// Leaves SYNs to the core.
    pub(super) fn stop(&mut self, maps: &Answers, queue: u32) {
        if self.plan.on != 0 {
            self.plan.on = 0;
            let _ = maps.plans.set(&queue, &self.plan);
        }
    }
}
