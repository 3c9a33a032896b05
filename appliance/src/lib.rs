//! The appliance: one core's loop around dataplane and policy, as many of them as there are shards, their configuration,
//! control socket and command line.
//!
//! - [`config`]: `hedgerow.toml`, read and checked.
//! - [`core`]: one core's loop, without I/O of its own.
//! - [`pool`]: nodes, their turns and their pace.
//! - [`commons`]: what all cores share.
//! - [`bans`]: who is refused, why and how long.
//! - [`rules`]: the policy, and how another one takes its place.

pub mod assemble;
pub mod bans;
pub mod bell;
pub mod check;
pub mod cli;
pub mod commons;
pub mod config;
pub mod control;
pub mod core;
pub mod cores;
pub mod device;
pub mod doctor;
pub mod egress;
pub mod events;
pub mod explain;
pub mod identity;
pub mod known;
#[cfg(feature = "lab")]
pub mod lab;
pub mod leases;
pub mod management;
pub mod node_config;
pub mod node_setup;
pub mod nodes;
pub mod pool;
pub mod pulse;
pub mod rules;
pub mod run;
pub mod sessions;
pub mod sockets;
pub mod status;
pub mod workers;
