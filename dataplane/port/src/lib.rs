//! Ports for the Hedgerow dataplane: everything that calls the operating system, maps rings or needs `unsafe`.
//!
//! - [`memory`]: two ends in one process, for benches, simulations and the lab.
//!
//! Wrappers that are ports themselves go around any of them.

pub mod memory;
mod pool;

pub use memory::{Memory, MemoryConfig};

/// Ethernet header and one 802.1Q tag.
const LINK_BYTES: usize = 18;

/// Bytes of a frame that holds the largest packet of `mtu`, or the largest super-frame with `segmentation` bytes of
/// payload; in whole cache lines.
fn frame_bytes(mtu: u16, segmentation: usize) -> usize {
    /// IPv6 and the longest TCP header.
    const HEADERS: usize = 40 + 60;
    let payload = if segmentation > 0 { segmentation + HEADERS } else { 0 };
    (payload.max(usize::from(mtu)) + LINK_BYTES).next_multiple_of(64)
}
