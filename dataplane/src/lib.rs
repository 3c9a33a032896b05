//! Frames in, completed sessions out: a userspace TCP stack that remembers nothing about a peer before the peer has
//! proved that it can receive what is sent to it.
//!
//! The crate is sans-IO: time, randomness and frames come in as arguments, so the same seed gives the same frames. A
//! reader who follows a frame meets the modules in this order:
//!
//! - [`frame`]: where frames come from: the [`frame::Port`] trait, lanes, batches, linear frame handles, metadata.
//! - [`wire`]: checked views of Ethernet, VLAN, IPv4, IPv6 and TCP, and the builders for what is sent.
//! - [`link`]: ARP, NDP, duplicate-address detection, ping, ICMP errors, routes.
//! - [`screen`]: sanity, listener match and the SYN cookie; pure functions of frame, secrets and time.
//! - [`admit`]: quotas, deadlines and eviction: who may own a flow.
//! - [`tcp`]: the engine: states, reassembly, recovery, congestion, timers, the flow table.
//! - [`egress`]: the way out for nodes: what no flow of ours is about, translated, or refused.
//! - [`shard`]: one core's dataplane, which puts the above in order.

pub mod admit;
pub mod egress;
pub mod frame;
pub mod link;
pub mod reason;
pub mod screen;
pub mod shard;
mod sip;
pub mod tcp;
pub mod time;
pub mod wire;

pub use reason::Reason;
pub use time::Instant;
