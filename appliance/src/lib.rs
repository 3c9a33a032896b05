//! The appliance: one core's loop around dataplane and policy, its configuration, its control socket and its command
//! line.
//!
//! - [`config`]: `hedgerow.toml`, read and checked.
//! - [`core`]: one core's loop, without I/O of its own.
//! - [`pool`]: nodes, their turns and their pace.

pub mod assemble;
pub mod config;
pub mod core;
pub mod identity;
#[cfg(feature = "lab")]
pub mod lab;
pub mod pool;
pub mod sessions;
