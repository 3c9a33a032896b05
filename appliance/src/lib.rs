//! The appliance: one core's loop around dataplane and policy, its configuration, its control socket and its command
//! line.
//!
//! - [`config`]: `hedgerow.toml`, read and checked.
//! - [`core`]: one core's loop, without I/O of its own.
//! - [`pool`]: nodes, their turns and their pace.
//! - [`commons`]: what all cores share.

pub mod assemble;
pub mod check;
pub mod cli;
pub mod commons;
pub mod config;
pub mod core;
pub mod events;
pub mod explain;
pub mod identity;
#[cfg(feature = "lab")]
pub mod lab;
pub mod management;
pub mod pool;
pub mod run;
pub mod sessions;
pub mod status;
