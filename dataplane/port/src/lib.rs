//! Ports for the Hedgerow dataplane: everything that calls the operating system, maps rings or needs `unsafe`.
//!
//! - [`af_packet`]: a network device of the kernel, through a packet socket with a mapped ring.
//! - [`af_xdp`]: one whose frames an XDP program takes before the kernel does.
//! - [`tap`]: the far end of a TAP device.
//! - [`memory`]: two ends in one process, for benches, simulations and the lab.
//! - [`sender`]: a way out only, for load generators.
//!
//! Three go around any other port, and around each other:
//!
//! - [`pcap`]: records what passes.
//! - [`faulty`]: loses, duplicates, reorders, delays and corrupts it.
//! - [`silent`]: lets nothing out.
//!
//! # Unsafe code
//!
//! Of the workspace's crates only this one has any, in `mapping`, `ring`, `syscall`, `bpf` and `af_xdp`; each block says why it is sound. The tests
//! also run under AddressSanitizer and valgrind, those against the kernel included:
//!
//! ```text
//! RUSTFLAGS=-Zsanitizer=address cargo +nightly test -p hedgerow-port --target x86_64-unknown-linux-gnu
//!
//! CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="valgrind -q --error-exitcode=9 --leak-check=full \
//!   --show-leak-kinds=definite --errors-for-leak-kinds=definite --trace-children=yes --trace-children-skip=*/ip,*/ethtool" \
//!   cargo test -p hedgerow-port
//! ```

pub mod af_packet;
pub mod af_xdp;
mod bpf;
mod error;
mod ethtool;
pub mod faulty;
mod lanes;
mod mapping;
pub mod memory;
mod packet_lanes;
pub mod pcap;
mod pool;
mod ring;
pub mod sender;
pub mod silent;
mod syscall;
pub mod tap;
mod vnet;

use hedgerow_dataplane::frame::Port;

pub use af_packet::{AfPacket, AfPacketConfig};
pub use af_xdp::{AfXdp, AfXdpConfig, AnswerSyns, Attach};
pub use error::{OpenError, Problem};
pub use faulty::{FaultCounts, Faults, Faulty};
pub use lanes::{LaneLimits, Ours};
pub use memory::{Memory, MemoryConfig};
pub use packet_lanes::{PacketLanes, PacketLanesConfig};
pub use pcap::{Pcap, PcapCounts, PcapLimits};
pub use sender::PacketSender;
pub use silent::Silent;
pub use tap::{Tap, TapConfig};

/// The drivers that [`open`] knows.
pub const DRIVERS: &[&str] = &["af-packet", "tap"];

/// Opens `device` with a driver's defaults. ([`Memory`] has two ends and no device: it is made with [`Memory::pair`].)
pub fn open(driver: &str, device: &str) -> Result<Box<dyn Port + Send>, OpenError> {
    match driver {
        "af-packet" => Ok(Box::new(AfPacket::open(&AfPacketConfig::new(device))?)),
        "tap" => Ok(Box::new(Tap::open(&TapConfig::new(device))?)),
        other => Err(Problem::NoDriver(other.into()).of(device)),
    }
}

/// Opens `device` as `count` ports, one per shard: each frame for us arrives at one of them, and those of a flow at the same
/// one for as long as `count` stays what it is. All of them have the same address and abilities.
///
/// # Errors
/// As [`open`]; [`Problem::Queues`] where the device has fewer queues.
pub fn open_queues(driver: &str, device: &str, count: usize) -> Result<Vec<Box<dyn Port + Send>>, OpenError> {
    fn boxed<P: Port + Send + 'static>(ports: Vec<P>) -> Vec<Box<dyn Port + Send>> {
        ports.into_iter().map(|port| Box::new(port) as Box<dyn Port + Send>).collect()
    }
    match driver {
        "af-packet" => AfPacket::open_queues(&AfPacketConfig::new(device), count).map(boxed),
        "tap" => Tap::open_queues(&TapConfig::new(device), count).map(boxed),
        other => Err(Problem::NoDriver(other.into()).of(device)),
    }
}

/// Ethernet header and one 802.1Q tag.
const LINK_BYTES: usize = 18;

/// TCP payload of the largest super-frame that the kernel cuts: the total length of IPv4 has 16 bits and counts an IP
/// header and the longest TCP header.
const SEGMENTATION: usize = u16::MAX as usize - 20 - 60;

/// Bytes of a frame that holds the largest packet of `mtu`, or the largest super-frame with `segmentation` bytes of
/// payload; in whole cache lines.
fn frame_bytes(mtu: u16, segmentation: usize) -> usize {
    /// IPv6 and the longest TCP header.
    const HEADERS: usize = 40 + 60;
    let payload = if segmentation > 0 { segmentation + HEADERS } else { 0 };
    (payload.max(usize::from(mtu)) + LINK_BYTES).next_multiple_of(64)
}
