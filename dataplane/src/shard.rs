//! One core's dataplane: link, screen, admission and TCP engine in the order in which a frame meets them.
//!
//! A [`Shard`] is sans-IO: the host receives batches from its ports, hands them to [`Shard::ingest`], sends what comes
//! back, asks [`Shard::transmit`] for what the engine wants to say, and takes [`Event`]s. Same frames, same times and
//! same seed give the same frames.

use crate::Reason;
use crate::time::Instant;
use crate::wire::{Address, FlowKey, LinkId};

/// One listener of the configuration, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub u16);

/// A flow, by its place in the table and the generation of that place; a stale id finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// Place in the table.
    pub slot: u32,
    /// How often the place had been taken.
    pub generation: u32,
}

/// What admission and eviction think of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Standing {
    /// Has returned a cookie, nothing more.
    #[default]
    Stranger,
    /// The host verified that the peer is who it says (TLS Finished).
    Proven,
    /// Never evicted: friends, and connections that we opened.
    Reserved,
}

/// Something happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer completed a connection to a listener.
    Accepted(FlowId, ListenerId),
    /// A connection that the host opened is established.
    Connected(FlowId),
    /// Data can be read that could not before.
    Readable(FlowId),
    /// Space for data became free after a write found too little.
    Writable(FlowId),
    /// The peer sent FIN; what came before it can still be read.
    Finished(FlowId),
    /// The flow is gone; its id finds nothing any more.
    Closed(FlowId, Reason),
}

/// Where to connect.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The link to use.
    pub link: LinkId,
    /// The destination.
    pub address: Address,
    /// The destination's TCP port.
    pub port: u16,
}

/// Which source address a connection shows.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// Ours on that link, and a port of the shard's choice (RFC 6056).
    Own,
    /// Another's (transparent mode), and a port of the shard's choice if zero.
    Transparent(Address, u16),
}

/// What a listener demands before a flow exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// The first data segment begins like a TLS ClientHello.
    ClientHello,
    /// A completed handshake is enough.
    Handshake,
}

/// A local TCP port that answers.
#[derive(Clone, Copy, Debug)]
pub struct Listener {
    /// The link.
    pub link: LinkId,
    /// One service address, or all of the link's.
    pub address: Option<Address>,
    /// The TCP port.
    pub port: u16,
    /// What it takes to own a flow.
    pub accept: Accept,
}

/// (interface sketch; replaced as the engine lands)
pub trait Sketch {
    /// Time.
    fn deadline(&self) -> Option<Instant>;
    /// Key.
    fn key(&self) -> FlowKey;
}
