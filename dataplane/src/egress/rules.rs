//! Which node may go where: what the operator says, compiled to what a packet is held against.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Protocol;
use crate::Reason;
use crate::wire::{Address, FlowKey, LinkId, PrefixSet};

/// A kind of conversation that a node may begin.
#[derive(Clone, Debug)]
pub struct Allow {
    /// The protocol.
    pub protocol: Protocol,
    /// The far end's ports; of no matter for ICMP.
    pub ports: RangeInclusive<u16>,
    /// Where to; `None`: anywhere.
    pub to: Option<Arc<PrefixSet>>,
}

impl Allow {
    fn covers(&self, protocol: Protocol, key: &FlowKey) -> bool {
        self.protocol == protocol
            && (protocol == Protocol::Icmp || self.ports.contains(&key.remote_port))
            && self.to.as_ref().is_none_or(|to| to.covers(key.remote))
    }
}

/// Connections of a node that are not passed on: they end at us, in the name of where they were going, and the host opens
/// another one there ([`crate::shard::Event::Departing`]). The default is none.
#[derive(Clone, Debug, Default)]
pub struct Inspect {
    /// The far end's TCP ports.
    pub ports: Arc<[u16]>,
    /// How many of them the node may have at once, in all shards together.
    pub at_once: u32,
    /// How many it has: to be the same for the node's place in all rules that ever stand.
    pub held: Arc<AtomicU32>,
}

impl Inspect {
    /// How many connections the node has; `None` where nothing of it is inspected.
    pub fn now(&self) -> Option<u32> {
        (!self.ports.is_empty()).then(|| self.held.load(Ordering::Relaxed))
    }

    fn covers(&self, protocol: Protocol, key: &FlowKey) -> bool {
        protocol == Protocol::Tcp && self.ports.contains(&key.remote_port)
    }

    /// Takes a place for a connection, if there is one.
    fn take(&self) -> bool {
        let more = |held: u32| (held < self.at_once).then_some(held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give(&self) {
        let less = |held: u32| Some(held.saturating_sub(1));
        let _ = self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// A node with a way out.
#[derive(Clone, Debug)]
pub struct EgressNode {
    /// The addresses that it may show to us.
    pub addresses: Vec<Address>,
    /// Where it is: who comes from elsewhere with its address is somebody else.
    pub link: LinkId,
    /// Whether its way out is open now.
    pub open: bool,
    /// Its block of ports: the first one is 0. No two nodes have the same.
    pub block: u16,
    /// What it may begin while it is open.
    pub allow: Arc<[Allow]>,
    /// What of that is not passed on.
    pub inspect: Inspect,
}

/// All nodes with a way out, and where nobody may go. The default lets nobody out.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    nodes: Vec<EgressNode>,
    /// Sorted by address.
    by_address: Vec<(Address, usize)>,
    refused: PrefixSet,
    open: usize,
}

impl Rules {
    /// Rules for `nodes`. Nobody may go to `refused`: our own addresses, above all, so that no node dials itself.
    pub fn new(nodes: Vec<EgressNode>, refused: PrefixSet) -> Self {
        let places = |(place, node): (usize, &EgressNode)| {
            node.addresses.iter().map(move |&a| (a, place)).collect::<Vec<_>>()
        };
        let mut by_address: Vec<_> = nodes.iter().enumerate().flat_map(places).collect();
        by_address.sort_unstable();
        by_address.dedup_by_key(|(address, _)| *address);
        let open = nodes.iter().filter(|node| node.open).count();
        Rules { nodes, by_address, refused, open }
    }

    /// The nodes.
    pub fn nodes(&self) -> &[EgressNode] {
        &self.nodes
    }

    /// How many of them are open.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// The node that has an address, on its own link.
    pub(super) fn node(&self, link: LinkId, address: Address) -> Option<usize> {
        let found = self.by_address.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        let place = self.by_address.get(found)?.1;
        self.nodes.get(place).filter(|node| node.link == link).map(|_| place)
    }

    /// Whether a node may begin a conversation, with the reason why not. `key` is seen from the node.
    pub(super) fn permits(&self, node: usize, protocol: Protocol, key: &FlowKey) -> Result<(), Reason> {
        let node = self.nodes.get(node).ok_or(Reason::EgressUnknownNode)?;
        if !node.open {
            return Err(Reason::EgressClosed);
        }
        if self.refused.covers(key.remote) || !node.allow.iter().any(|allow| allow.covers(protocol, key)) {
            return Err(Reason::EgressRefused);
        }
        Ok(())
    }

    /// Whether a conversation that a node begins may be passed on: it is permitted, and nobody inspects it.
    pub(super) fn passes(&self, node: usize, protocol: Protocol, key: &FlowKey) -> Result<(), Reason> {
        self.permits(node, protocol, key)?;
        match self.nodes.get(node).is_some_and(|node| node.inspect.covers(protocol, key)) {
            true => Err(Reason::EgressRefused),
            false => Ok(()),
        }
    }

    /// The node whose connection this is, if it is one that is inspected. `key` is seen from the node.
    pub(super) fn inspected(&self, link: LinkId, key: &FlowKey) -> Option<usize> {
        let node = self.node(link, key.local)?;
        self.nodes.get(node)?.inspect.covers(Protocol::Tcp, key).then_some(node)
    }

    /// Takes a place among a node's inspected connections, if there is one.
    pub(super) fn take(&self, node: usize) -> bool {
        self.nodes.get(node).is_some_and(|node| node.inspect.take())
    }

    /// Gives it back.
    pub(super) fn give(&self, node: usize) {
        if let Some(node) = self.nodes.get(node) {
            node.inspect.give();
        }
    }
}
