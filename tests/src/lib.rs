//! Hedgerow's system tests: real kernels and real nodes on the other end of the wire, in network namespaces.
//!
//! `tests/run` starts them; `cargo test` runs what needs no privileges. A suite is a function that gets a [`Report`] and
//! runs named cases through it.
//!
//! - [`rig`]: namespaces, links between them, processes inside them; all of it ends with the test.
//! - [`appliance`]: the binary under test with its configuration and its status.
//! - [`application`]: a pool's application, a client of the nodes' RPC.
//! - [`architectures`]: the examples as they boot, with real nodes.
//! - [`bodies`]: bodies of messages, valid and changed, and a slow reader of the schema.
//! - [`peers`]: simulated peers, one by one; [`crowd`]: many of them, who come back.
//! - [`foreign`]: TLS, HTTP, WebSocket and Chia by clients of other makes, good and hostile.
//! - [`pattern`]: bytes whose every position is known, to compare streams exactly.
//! - [`kernel_peer`]: the Linux kernel's TCP as opponent.
//! - [`machine`]: the image in a virtual machine, as the appliance.
//! - [`nodes`]: real Chia nodes and single-purpose peers; [`site`]: the networks that they live in.
//! - [`privacy`]: nothing that goes outward names an inner address.
//! - [`node_sync`]: a real node syncs through the appliance, everybody else is refused.
//! - [`hour`]: an hour of ordinary life, after which no session was closed by policy.
//! - [`node_bodies`]: bodies of messages judged by us and by the node.
//! - [`node_attack`]: the same while floods run ([`flood`]), and what happens to a bare node.

pub mod appliance;
pub mod application;
pub mod architectures;
pub mod bodies;
pub mod check;
pub mod crowd;
pub mod flood;
pub mod foreign;
pub mod hour;
pub mod kernel_peer;
pub mod machine;
pub mod node_attack;
pub mod node_bodies;
pub mod node_sync;
pub mod nodes;
pub mod pattern;
pub mod peers;
pub mod privacy;
pub mod rig;
pub mod site;

pub use check::{Context, Outcome, Report};
