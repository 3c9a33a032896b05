//! The appliance: one core's loop around dataplane and policy, its configuration, its control socket and its command
//! line.
//!
//! - [`config`]: `hedgerow.toml`, read and checked.
//! - [`core`]: one core's loop, without I/O of its own.
//! - [`pool`]: nodes, their turns and their pace.

pub mod config;
pub mod core;
pub mod pool;
