//! The appliance: one core's loop around dataplane and policy, its configuration, its control socket and its command
//! line.
//!
//! - [`config`]: `hedgerow.toml`, read and checked.

pub mod config;
