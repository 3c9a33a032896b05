//! The way out for nodes: NAT44 and an IPv6 outbound filter, for what no flow and no listener of ours is about.
//!
//! A node may begin a conversation with the world where the [`Rules`] let it; what comes back must belong to one. Nothing
//! from outside ever begins one, whatever port it guesses: an inward packet is passed on only if its protocol, both
//! addresses and both ports are those of a session that a node began, and a TCP SYN never is.
//!
//! - **NAT44** (RFC 4787, RFC 5382, RFC 5508): mappings are endpoint-independent (one port of ours per port of a node, shared
//!   by TCP, UDP and ICMP), filtering is address- and port-dependent. Each node has a block of ports of its own, so that no
//!   node can use up another's; the port within the block is a keyed hash's choice (RFC 6056).
//! - **IPv6** is filtered the same way and not translated; the network routes the nodes' addresses to us.
//! - **Refused**: fragments and IP options, source routes among them, hairpins, spoofed sources, our own addresses, ICMP
//!   other than echo outward, and inward other than echo replies and errors about a session.
//! - **Path MTU**: a packet too large for the next link is answered as a router would (RFC 1191, RFC 8201), and errors from
//!   further out go to the node, translated.
//! - **One shard holds all sessions** ([`EgressConfig::home`]). The others hand it what nodes send, and from outside only what
//!   belongs to a session by the directory: a flood does not pass between shards.
//!
//! Everything is bounded and taken at start: sessions, ports, packets that wait. A node that is refused learns it at once
//! (ICMP "administratively prohibited", a reset for a connection that is not known here any more), at a limited rate.

mod datagram;
mod notice;
mod outbox;
mod rules;
mod sessions;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::Reason;
use crate::frame::{Checksum, Meta};
use crate::link::Bucket;
use crate::time::Instant;
use crate::wire::{Address, Flags, FlowKey, LinkId};

pub use datagram::Protocol;
use datagram::{Datagram, Kind, Rewrite};
pub(crate) use outbox::{Outbox, Queued};
pub use rules::{Allow, EgressNode, Rules};
use sessions::{Sessions, State};

/// Errors and resets told to nodes each second.
const NOTICES_PER_SECOND: u32 = 100;
/// Changes that wait to be taken by the shard: it takes them after every packet, and each causes one or two.
const NEWS: usize = 1_024;

/// How the way out is laid.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Where nodes are.
    pub inner: Vec<LinkId>,
    /// Where the world is.
    pub outer: LinkId,
    /// What IPv4 conversations show outside; `None`: no IPv4.
    pub address: Option<Address>,
    /// First port shown outside; listeners must not lie within the blocks.
    pub first_port: u16,
    /// Ports of each node's block.
    pub ports_per_node: u16,
    /// Sessions of all nodes together, at most.
    pub sessions: usize,
    /// Largest IP packet of each link, by [`LinkId`].
    pub mtu: Vec<u16>,
    /// Whether this shard holds the sessions; the others pass on to shard 0.
    pub home: bool,
}

/// What one node's way out has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeTraffic {
    /// Sessions now.
    pub sessions: usize,
    /// Sessions begun.
    pub opened: u64,
    /// Packets outward.
    pub packets_out: u64,
    /// Their bytes, IP headers included.
    pub bytes_out: u64,
    /// Packets inward.
    pub packets_in: u64,
    /// Their bytes, IP headers included.
    pub bytes_in: u64,
    /// Packets refused because the node may not go there, or not now.
    pub refused: u64,
}

/// A session begins or ends, for the directory and the ports' lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) protocol: Protocol,
    /// The session as the world sees it.
    pub(crate) outer: FlowKey,
    /// The session as the node sees it.
    pub(crate) inner: FlowKey,
    /// The node's link.
    pub(crate) link: LinkId,
    pub(crate) on: bool,
}

/// Where a packet that no flow of ours is about has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is judged here.
    Here,
    /// The shard that holds the sessions judges it.
    Home,
    /// It comes from outside: only if the directory lists this key.
    Listed(FlowKey),
}

/// The way out. See the [module](self).
pub(crate) struct Egress {
    config: EgressConfig,
    rules: Arc<Rules>,
    sessions: Sessions,
    outboxes: Vec<Outbox>,
    notices: Bucket,
    traffic: Vec<NodeTraffic>,
    news: Vec<News>,
    /// The rules are new: sessions that they no longer allow end at the next turn.
    review: bool,
}

impl Egress {
    /// A way out for `config`, closed to all. Its memory is taken here; that of a shard that is not home is small.
    pub(crate) fn new(config: EgressConfig, seed: [u8; 16], now: Instant) -> Self {
        let links = config.mtu.len();
        let room = if config.home { config.sessions } else { 0 };
        Egress {
            sessions: Sessions::new(room, seed, now),
            outboxes: (0..links).map(|_| Outbox::new(config.home)).collect(),
            notices: Bucket::new(NOTICES_PER_SECOND, NOTICES_PER_SECOND / 4, now),
            traffic: Vec::new(),
            news: Vec::with_capacity(NEWS),
            rules: Arc::default(),
            review: false,
            config,
        }
    }

    /// Judges by these rules from now on. Sessions that they do not allow end.
    pub(crate) fn set_rules(&mut self, rules: Arc<Rules>) {
        self.traffic.resize(rules.nodes().len().max(self.traffic.len()), NodeTraffic::default());
        self.rules = rules;
        self.review = true;
    }

    /// Whether a segment for this end of ours may be an answer to a node rather than a stranger's to a listener.
    pub(crate) fn translates(&self, link: LinkId, local: Address, port: u16) -> bool {
        link == self.config.outer
            && self.config.address == Some(local)
            && port.checked_sub(self.config.first_port).is_some_and(|offset| {
                usize::from(offset) < self.rules.nodes().len() * usize::from(self.config.ports_per_node)
            })
    }

    /// Where a packet from `link` goes that is for nobody here; an error where forwarding is no question: `None`.
    pub(crate) fn way(&self, link: LinkId, bytes: &[u8]) -> Option<Result<Way, Reason>> {
        let (inner, outer) = (self.config.inner.contains(&link), self.config.outer == link);
        if !inner && !outer {
            return None;
        }
        let datagram = match Datagram::parse(bytes) {
            Ok(datagram) => datagram,
            Err(reason) => return Some(Err(reason)),
        };
        let outward = inner && self.rules.node(datagram.key.remote).is_some();
        Some(match (outward, outer) {
            _ if self.config.home => Ok(Way::Here),
            (true, _) => Ok(Way::Home),
            (_, true) => Ok(Way::Listed(listed(datagram.protocol, &datagram.concerns()))),
            _ => Err(Reason::EgressUnknownNode),
        })
    }

    /// Judges a packet, and queues what goes on. `bytes` is the frame.
    pub(crate) fn judge(
        &mut self,
        now: Instant,
        link: LinkId,
        bytes: &[u8],
        meta: &Meta,
    ) -> Result<(), Reason> {
        let datagram = Datagram::parse(bytes)?;
        let packet = bytes.get(datagram.network..datagram.end).ok_or(Reason::Truncated)?;
        let node = if self.config.inner.contains(&link) { self.rules.node(datagram.key.remote) } else { None };
        match node {
            Some(node) => self.outward(now, link, node, &datagram, packet, meta),
            None if link == self.config.outer => self.inward(now, &datagram, packet, meta),
            None => Err(Reason::EgressUnknownNode),
        }
    }

    /// A packet of a node's.
    fn outward(
        &mut self,
        now: Instant,
        link: LinkId,
        node: usize,
        datagram: &Datagram,
        packet: &[u8],
        meta: &Meta,
    ) -> Result<(), Reason> {
        if datagram.hop_limit < 2 {
            return Err(Reason::HopLimit);
        }
        if datagram.destination_is_group() {
            return Err(Reason::Martian);
        }
        // The node is at the local end of its sessions.
        let inner = reversed(&datagram.key);
        let slot = match self.sessions.by_inner(datagram.protocol, &inner) {
            Some(slot) => slot,
            None => match self.begin(now, link, node, datagram, &inner) {
                Ok(slot) => slot,
                Err(reason) => {
                    self.refuse(now, link, node, datagram, packet, reason);
                    return Err(reason);
                }
            },
        };
        let outer_mtu = self.mtu(self.config.outer);
        if let Some(mtu) = datagram.exceeds(packet, meta.segment, outer_mtu) {
            self.tell(now, link, |room, from| notice::too_big(room, from, packet, mtu), datagram.key.remote);
            return Err(Reason::TooBig);
        }
        let session = self.sessions.touch(now, slot, datagram.kind, false);
        let outer = session.outer;
        let rewrite = Rewrite { source: Some((outer.local, outer.local_port)), destination: None };
        self.count_out(node, packet.len());
        self.queue(self.config.outer, now, datagram, packet, meta, &rewrite, outer.remote)
    }

    /// A packet from the world.
    fn inward(
        &mut self,
        now: Instant,
        datagram: &Datagram,
        packet: &[u8],
        meta: &Meta,
    ) -> Result<(), Reason> {
        let opens = matches!(datagram.kind, Kind::Tcp(flags) if flags.has(Flags::SYN) && !flags.has(Flags::ACK));
        if opens || matches!(datagram.kind, Kind::EchoRequest) {
            return Err(Reason::EgressUnsolicited);
        }
        let outer = datagram.concerns();
        let protocol = datagram.protocol;
        let slot = self.sessions.by_outer(protocol, &outer).ok_or(Reason::EgressUnsolicited)?;
        if datagram.hop_limit < 2 {
            return Err(Reason::HopLimit);
        }
        let session = self.sessions.touch(now, slot, datagram.kind, true);
        let (inner, node, link) = (session.inner, session.node, session.link);
        if let Some(mtu) = datagram.exceeds(packet, meta.segment, self.mtu(link)) {
            let world = datagram.key.remote;
            self.tell(now, self.config.outer, |room, from| notice::too_big(room, from, packet, mtu), world);
            return Err(Reason::TooBig);
        }
        let rewrite = Rewrite { source: None, destination: Some((inner.local, inner.local_port)) };
        self.count_in(usize::from(node), packet.len());
        self.queue(link, now, datagram, packet, meta, &rewrite, inner.local)
    }

    /// The first packet of a conversation.
    fn begin(
        &mut self,
        now: Instant,
        link: LinkId,
        node: usize,
        datagram: &Datagram,
        inner: &FlowKey,
    ) -> Result<u32, Reason> {
        let rules = self.rules.clone();
        rules.permits(node, datagram.protocol, inner)?;
        match datagram.kind {
            Kind::Tcp(flags) if !flags.has(Flags::SYN) || flags.has(Flags::ACK) => return Err(Reason::EgressNoSession),
            Kind::EchoReply | Kind::Error { .. } => return Err(Reason::IcmpIgnored),
            Kind::Tcp(_) | Kind::Udp | Kind::EchoRequest => {}
        }
        let each = self.config.sessions.div_ceil(rules.nodes().len().max(1));
        let held = self.traffic.get(node).map_or(0, |traffic| traffic.sessions);
        if held >= each {
            return Err(Reason::EgressFull);
        }
        let outer_local = match inner.local.is_v4() {
            true => {
                let address = self.config.address.ok_or(Reason::EgressClosed)?;
                let block = rules.nodes().get(node).map_or(0, |node| node.block);
                let size = self.config.ports_per_node;
                let first = u32::from(self.config.first_port) + u32::from(block) * u32::from(size);
                let first = u16::try_from(first).map_err(|_| Reason::EgressFull)?;
                (address, self.sessions.map(datagram.protocol, inner, first, size).ok_or(Reason::EgressFull)?)
            }
            false => (inner.local, inner.local_port),
        };
        let outer = FlowKey { local: outer_local.0, local_port: outer_local.1, ..*inner };
        let place = sessions::Place { node: node as u16, link };
        let slot = self.sessions.insert(now, datagram.protocol, *inner, outer, place).ok_or(Reason::EgressFull)?;
        if let Some(traffic) = self.traffic.get_mut(node) {
            traffic.sessions += 1;
            traffic.opened += 1;
        }
        self.announce(News { protocol: datagram.protocol, outer, inner: *inner, link, on: true });
        Ok(slot)
    }

    /// Tells a node that it may not, so that it does not wait for an answer that cannot come.
    fn refuse(
        &mut self,
        now: Instant,
        link: LinkId,
        node: usize,
        datagram: &Datagram,
        packet: &[u8],
        reason: Reason,
    ) {
        let to = datagram.key.remote;
        match reason {
            Reason::EgressClosed | Reason::EgressRefused => {
                if let Some(traffic) = self.traffic.get_mut(node) {
                    traffic.refused += 1;
                }
                self.tell(now, link, |room, from| notice::prohibited(room, from, packet), to);
            }
            Reason::EgressNoSession => self.tell(now, link, |room, _| notice::reset(room, datagram, packet), to),
            _ => {}
        }
    }

    /// Queues a packet of our own making. `write` gets the room and the address that we have on no link: the packet's own
    /// destination speaks, as it would for a closed port there.
    fn tell(
        &mut self,
        now: Instant,
        link: LinkId,
        write: impl FnOnce(&mut [u8], Option<Address>) -> Option<usize>,
        to: Address,
    ) {
        if !self.notices.take(now) {
            return;
        }
        let mut room = [0; notice::LONGEST];
        let from = self.config.address.filter(|address| link == self.config.outer && address.same_family(to));
        if let Some(length) = write(&mut room, from)
            && let Some(outbox) = self.outboxes.get_mut(usize::from(link.0))
        {
            outbox.push(Queued::whole(to, now), &room[..length]);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn queue(
        &mut self,
        link: LinkId,
        now: Instant,
        datagram: &Datagram,
        packet: &[u8],
        meta: &Meta,
        rewrite: &Rewrite,
        hop: Address,
    ) -> Result<(), Reason> {
        let complete = meta.segment == 0 && !matches!(meta.checksum, Checksum::Partial { .. });
        let queued = Queued { segment: meta.segment, complete, ..Queued::whole(hop, now) };
        let outbox = self.outboxes.get_mut(usize::from(link.0)).ok_or(Reason::NoRoute)?;
        let room = outbox.push(queued, packet).ok_or(Reason::EgressQueue)?;
        datagram.rewrite(room, rewrite, complete);
        Ok(())
    }

    fn mtu(&self, link: LinkId) -> u16 {
        self.config.mtu.get(usize::from(link.0)).copied().unwrap_or(1_280)
    }

    fn count_out(&mut self, node: usize, bytes: usize) {
        if let Some(traffic) = self.traffic.get_mut(node) {
            traffic.packets_out += 1;
            traffic.bytes_out += bytes as u64;
        }
    }

    fn count_in(&mut self, node: usize, bytes: usize) {
        if let Some(traffic) = self.traffic.get_mut(node) {
            traffic.packets_in += 1;
            traffic.bytes_in += bytes as u64;
        }
    }

    /// Ends sessions whose time is over, and those that new rules do not allow.
    pub(crate) fn advance(&mut self, now: Instant) {
        let review = std::mem::take(&mut self.review).then(|| self.rules.clone());
        let (traffic, news) = (&mut self.traffic, &mut self.news);
        let allowed = |session: &sessions::Session| {
            review.as_ref().is_none_or(|rules| {
                let node = rules.node(session.inner.local);
                node == Some(usize::from(session.node))
                    && rules.permits(usize::from(session.node), session.protocol, &session.inner).is_ok()
            })
        };
        self.sessions.sweep(now, review.is_some(), allowed, |session| {
            if let Some(traffic) = traffic.get_mut(usize::from(session.node)) {
                traffic.sessions = traffic.sessions.saturating_sub(1);
            }
            if news.len() < NEWS {
                let sessions::Session { protocol, outer, inner, link, .. } = *session;
                news.push(News { protocol, outer, inner, link, on: false });
            }
            news.len() < NEWS
        });
    }

    /// When [`Egress::advance`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.review { Some(Instant::ZERO) } else { self.sessions.deadline() }
    }

    /// Whether packets wait to be sent.
    pub(crate) fn has_output(&self) -> bool {
        self.outboxes.iter().any(|outbox| !outbox.is_empty())
    }

    /// What goes out by a link.
    pub(crate) fn outbox(&mut self, link: LinkId) -> Option<&mut Outbox> {
        self.outboxes.get_mut(usize::from(link.0))
    }

    /// The next session that began or ended.
    pub(crate) fn news(&mut self) -> Option<News> {
        self.news.pop()
    }

    fn announce(&mut self, news: News) {
        if self.news.len() < NEWS {
            self.news.push(news);
        }
    }

    /// What each node's way out has carried, in the order of the rules.
    pub(crate) fn traffic(&self) -> &[NodeTraffic] {
        &self.traffic
    }

    /// Sessions now, by state of the conversation: for `status`.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (Protocol, FlowKey, FlowKey, bool)> + '_ {
        self.sessions.iter().map(|s| (s.protocol, s.inner, s.outer, s.state == State::Established))
    }
}

/// How the directory of flows lists a session. It knows no protocols: what is not TCP stands there the other way round, as
/// no TCP flow of ours can, because the far end of a flow is never one of our addresses.
pub(crate) fn listed(protocol: Protocol, outer: &FlowKey) -> FlowKey {
    match protocol {
        Protocol::Tcp => *outer,
        Protocol::Udp | Protocol::Icmp => reversed(outer),
    }
}

fn reversed(key: &FlowKey) -> FlowKey {
    FlowKey {
        local: key.remote,
        remote: key.local,
        local_port: key.remote_port,
        remote_port: key.local_port,
    }
}
