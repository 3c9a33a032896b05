//! The simulated world around a Hedgerow: links, peers, attackers and an emulated node, in one thread and under one
//! virtual clock. Everything follows from a seed: the same seed gives the same frames.
//!
//! The device under test is handed in ([`Subject`]), so that the world knows nothing of the appliance's loop and can try
//! other devices too. What talks to it is foreign on purpose: smoltcp's TCP and rustls' own state machine.
//!
//! - [`subject`]: what a world offers to a device, and what it asks of one; [`forwarder`]: the simplest device.
//! - [`network`]: clock, paths, hosts and sources of raw frames; [`host`]: a foreign TCP/IP stack with an application;
//!   [`site`]: addresses.
//! - [`mod@line`]: a Chia connection on such a host; [`visitor`]: good peers and rude ones; [`node`] and [`chain`]: the
//!   emulated node; [`floods`] and [`crowd`]: attackers that need no stack.
//! - [`run()`]: the whole world with its story and [`Summary`]. [`tcp_world`] and [`streams`]: the simulation of the TCP
//!   engine alone, one seed at a time ([`seeds`]).
//! - [`random`]: where all chance comes from; [`crypto`]: TLS whose randomness has a seed.

pub mod chain;
pub mod crowd;
pub mod crypto;
pub mod floods;
pub mod forwarder;
pub mod host;
pub mod line;
pub mod network;
pub mod node;
pub mod random;
mod router;
mod run;
pub mod seeds;
pub mod site;
mod story;
pub mod streams;
pub mod subject;
pub mod summary;
pub mod tcp_world;
pub mod visitor;

pub use run::{Error, run};
pub use subject::{Factory, Sample, Site, Subject};
pub use summary::{Options, Summary};
