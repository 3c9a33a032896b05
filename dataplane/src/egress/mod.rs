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
//! - **Inspected** connections ([`Inspect`]) are not passed on and never have a session here: the shard accepts them in the
//!   name of where they were going, and its host opens another one.
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

use std::collections::VecDeque;
use std::sync::Arc;

use crate::Reason;
use crate::frame::{Checksum, Meta};
use crate::link::Bucket;
use crate::time::Instant;
use crate::wire::{Address, Flags, FlowKey, LinkId};

pub use datagram::Protocol;
pub(crate) use datagram::headers;
use datagram::{Datagram, Kind, Rewrite};
use notice::Complaint;
pub(crate) use outbox::{Outbox, Queued, Taken};
pub use rules::{Allow, EgressNode, Inspect, Rules};
use sessions::{Place, Session, Sessions, State};

/// Errors and resets told each second about one node's packets.
const NOTICES_PER_SECOND: u32 = 100;
/// Changes that wait to be taken by the shard: it takes them after every batch, and each packet causes one at most.
const NEWS: usize = 1_024;
/// Sessions that end in one turn: their news must find room at the ports, too.
const ENDS: usize = 256;

/// How the way out is laid.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Where nodes are.
    pub inner: Vec<LinkId>,
    /// Where the world is.
    pub outer: LinkId,
    /// What IPv4 conversations show outside; `None`: no IPv4.
    pub address: Option<Address>,
    /// First port shown outside; no listener may lie within the blocks.
    pub first_port: u16,
    /// Ports of each node's block.
    pub ports_per_node: u16,
    /// Sessions of all nodes together, at most.
    pub sessions: usize,
    /// Whether this shard holds the sessions; the others pass on to shard 0.
    pub home: bool,
}

/// A link, for the way out.
#[derive(Clone, Debug)]
pub(crate) struct EgressLink {
    /// Largest IP packet.
    pub(crate) mtu: u16,
    /// Our addresses.
    pub(crate) own: Vec<Address>,
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

/// A session, for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressSession {
    /// The protocol.
    pub protocol: Protocol,
    /// The session as the node sees it; its end is local.
    pub inner: FlowKey,
    /// The session as the world sees it; our end is local.
    pub outer: FlowKey,
    /// Whether both sides of a TCP connection have spoken and none has ended it.
    pub established: bool,
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
    /// It comes from outside: that shard judges it only if the directory lists this key.
    Listed(FlowKey),
}

/// A frame to be judged.
#[derive(Clone, Copy)]
pub(crate) struct Passing<'a> {
    pub(crate) now: Instant,
    pub(crate) link: LinkId,
    pub(crate) bytes: &'a [u8],
    pub(crate) meta: &'a Meta,
}

/// A frame with what was read of it: `packet` begins with its IP header.
struct Read<'a> {
    passing: Passing<'a>,
    datagram: Datagram,
    packet: &'a [u8],
}

/// The way out. See the [module](self).
pub(crate) struct Egress {
    config: EgressConfig,
    links: Vec<EgressLink>,
    rules: Arc<Rules>,
    sessions: Sessions,
    outboxes: Vec<Outbox>,
    /// By node.
    notices: Vec<Bucket>,
    traffic: Vec<NodeTraffic>,
    news: VecDeque<News>,
    /// The rules are new: sessions that they no longer allow end at the next turn.
    review: bool,
}

impl Egress {
    /// A way out for `config`, closed to all. Its memory is taken here; that of a shard that is not home is small.
    pub(crate) fn new(config: EgressConfig, links: Vec<EgressLink>, seed: [u8; 16], now: Instant) -> Self {
        let room = if config.home { config.sessions } else { 0 };
        let used = |link: usize| {
            config.home
                && (usize::from(config.outer.0) == link
                    || config.inner.iter().any(|inner| usize::from(inner.0) == link))
        };
        Egress {
            sessions: Sessions::new(room, seed, now),
            outboxes: (0..links.len()).map(|link| Outbox::new(used(link))).collect(),
            notices: Vec::new(),
            traffic: Vec::new(),
            news: VecDeque::with_capacity(NEWS),
            rules: Arc::default(),
            review: false,
            links,
            config,
        }
    }

    /// A link has these addresses from now on: no node reaches them by this way.
    pub(crate) fn set_own(&mut self, link: LinkId, own: Vec<Address>) {
        if let Some(link) = self.links.get_mut(usize::from(link.0)) {
            link.own = own;
        }
    }

    /// Judges by these rules from now on. Sessions that they do not allow end. Nodes keep their places: one that was removed
    /// is still there, closed.
    pub(crate) fn set_rules(&mut self, rules: Arc<Rules>) {
        let nodes = rules.nodes().len().max(self.traffic.len());
        let notices = Bucket::new(NOTICES_PER_SECOND, NOTICES_PER_SECOND / 4, Instant::ZERO);
        self.traffic.resize(nodes, NodeTraffic::default());
        self.notices.resize(nodes, notices);
        self.outboxes.iter_mut().for_each(|outbox| outbox.serve(nodes));
        self.rules = rules;
        self.review = self.config.home;
    }

    /// Whether a segment for this end of ours may be an answer to a node rather than a stranger's to a listener.
    pub(crate) fn translates(&self, link: LinkId, local: Address, port: u16) -> bool {
        link == self.config.outer
            && self.config.address == Some(local)
            && port.checked_sub(self.config.first_port).is_some_and(|offset| {
                usize::from(offset) < self.rules.nodes().len() * usize::from(self.config.ports_per_node)
            })
    }

    /// The node that begins an inspected connection with a segment, and whether it may. `key` is seen from us.
    pub(crate) fn departing(&self, link: LinkId, key: &FlowKey) -> Option<(u16, Result<(), Reason>)> {
        if !self.config.inner.contains(&link) {
            return None;
        }
        let seen = reversed(key);
        let node = self.rules.inspected(link, &seen)?;
        Some((node as u16, self.rules.permits(node, Protocol::Tcp, &seen)))
    }

    /// A node, by its place.
    pub(crate) fn node(&self, node: u16) -> Option<&EgressNode> {
        self.rules.nodes().get(usize::from(node))
    }

    /// Takes a place among a node's inspected connections, if there is one.
    pub(crate) fn take_inspected(&self, node: u16) -> bool {
        self.rules.take(usize::from(node))
    }

    /// Gives it back.
    pub(crate) fn give_inspected(&self, node: u16) {
        self.rules.give(usize::from(node));
    }

    /// What our own connections show outside on behalf of nodes, by IPv4.
    pub(crate) fn address(&self) -> Option<Address> {
        self.config.address
    }

    /// Where a frame goes that is for nobody here; `None` from a link where passing on is no question.
    pub(crate) fn way(&self, link: LinkId, bytes: &[u8]) -> Option<Result<Way, Reason>> {
        let (inner, outer) = (self.config.inner.contains(&link), self.config.outer == link);
        if !inner && !outer {
            return None;
        }
        if self.config.home {
            return Some(Ok(Way::Here));
        }
        Some(Datagram::parse(bytes).and_then(|datagram| {
            let outward = inner && self.rules.node(link, datagram.key.remote).is_some();
            match (outward, outer) {
                (true, _) => Ok(Way::Home),
                (_, true) => Ok(Way::Listed(listed(datagram.protocol, &datagram.concerns()))),
                _ => Err(Reason::EgressUnknownNode),
            }
        }))
    }

    /// Whether an ICMP message is to be passed on, rather than for ourselves: a node's echo, the answer to one, an error
    /// about a session. A shard that is not home cannot tell by itself which sessions there are.
    pub(crate) fn passes(&self, link: LinkId, bytes: &[u8]) -> bool {
        let Ok(datagram) = Datagram::parse(bytes) else { return false };
        let ours = |address| self.links.iter().any(|link| link.own.contains(&address));
        let to_us = ours(datagram.key.local);
        match datagram.kind {
            // Nodes' errors are not passed on; one from their side may be about a flow of ours that shows a peer's address.
            Kind::Error if link != self.config.outer => false,
            _ if !to_us => true,
            Kind::EchoReply => link == self.config.outer,
            Kind::Error if link == self.config.outer => {
                let key = datagram.concerns();
                match self.config.home {
                    true => self.sessions.by_outer(datagram.protocol, &key).is_some(),
                    false => self.translates(link, key.local, key.local_port),
                }
            }
            _ => false,
        }
    }

    /// Judges a frame, and queues what goes on. From sources that are `denied` nothing comes in.
    pub(crate) fn judge(
        &mut self,
        passing: Passing<'_>,
        denied: impl Fn(Address) -> bool,
    ) -> Result<(), Reason> {
        let datagram = Datagram::parse(passing.bytes)?;
        let packet = passing.bytes.get(datagram.network..datagram.end).ok_or(Reason::Truncated)?;
        let inner = self.config.inner.contains(&passing.link);
        let node = if inner { self.rules.node(passing.link, datagram.key.remote) } else { None };
        // Only TCP can be cut where it goes on.
        if passing.meta.segment > 0 && !matches!(datagram.kind, Kind::Tcp(_)) {
            return Err(Reason::TooBig);
        }
        let read = Read { passing, datagram, packet };
        match node {
            Some(node) => self.outward(node, &read),
            None if denied(read.datagram.key.remote) => Err(Reason::Banned),
            None if passing.link == self.config.outer => self.inward(&read),
            None => Err(Reason::EgressUnknownNode),
        }
    }

    /// A packet of a node's.
    fn outward(&mut self, node: usize, read: &Read<'_>) -> Result<(), Reason> {
        let Read { passing: Passing { now, meta, .. }, datagram, packet } = read;
        if datagram.hop_limit < 2 {
            return Err(Reason::HopLimit);
        }
        // The node is at the local end of its sessions.
        let inner = reversed(&datagram.key);
        let found = self.sessions.by_inner(datagram.protocol, &inner);
        let begun = found.map_or_else(|| self.begin(node, read, &inner), Ok);
        let slot = begun.inspect_err(|&reason| self.refuse(node, read, reason))?;
        if let Some(mtu) = datagram.exceeds(packet, meta.segment, self.mtu(self.config.outer)) {
            self.complain(node, read, Complaint::TooBig(mtu));
            return Err(Reason::TooBig);
        }
        let session = self.sessions.touch(*now, slot, datagram.kind, false).ok_or(Reason::EgressNoSession)?;
        let (outer, out) = (session.outer, self.config.outer);
        self.queue(node, out, read, &Rewrite::Source(outer.local, outer.local_port), outer.remote)?;
        if let Some(traffic) = self.traffic.get_mut(node) {
            traffic.packets_out += 1;
            traffic.bytes_out += packet.len() as u64;
        }
        Ok(())
    }

    /// A packet from the world.
    fn inward(&mut self, read: &Read<'_>) -> Result<(), Reason> {
        let Read { passing: Passing { now, meta, .. }, datagram, packet } = read;
        let opens =
            matches!(datagram.kind, Kind::Tcp(flags) if flags.has(Flags::SYN) && !flags.has(Flags::ACK));
        if opens || datagram.kind == Kind::EchoRequest {
            return Err(Reason::EgressUnsolicited);
        }
        let found = self.sessions.by_outer(datagram.protocol, &datagram.concerns());
        let slot = found.ok_or(Reason::EgressUnsolicited)?;
        if datagram.hop_limit < 2 {
            return Err(Reason::HopLimit);
        }
        let touched = self.sessions.touch(*now, slot, datagram.kind, true);
        let Session { inner, node, link, .. } = touched.ok_or(Reason::EgressUnsolicited)?;
        let node = usize::from(node);
        if let Some(mtu) = datagram.exceeds(packet, meta.segment, self.mtu(link)) {
            self.complain(node, read, Complaint::TooBig(mtu));
            return Err(Reason::TooBig);
        }
        self.queue(node, link, read, &Rewrite::Destination(inner.local, inner.local_port), inner.local)?;
        if let Some(traffic) = self.traffic.get_mut(node) {
            traffic.packets_in += 1;
            traffic.bytes_in += packet.len() as u64;
        }
        Ok(())
    }

    /// The first packet of a conversation.
    fn begin(&mut self, node: usize, read: &Read<'_>, inner: &FlowKey) -> Result<u32, Reason> {
        let Datagram { kind, protocol, .. } = read.datagram;
        match kind {
            Kind::Tcp(flags) if !flags.has(Flags::SYN) || flags.has(Flags::ACK) => {
                return Err(Reason::EgressNoSession);
            }
            Kind::EchoReply | Kind::Error => return Err(Reason::IcmpIgnored),
            Kind::Tcp(_) | Kind::Udp | Kind::EchoRequest => {}
        }
        self.rules.passes(node, protocol, inner)?;
        if self.traffic.get(node).is_some_and(|traffic| traffic.sessions >= self.share()) {
            return Err(Reason::EgressFull);
        }
        let (local, local_port) = match inner.local.is_v4() {
            true => self.shown(node, protocol, inner)?,
            false => (inner.local, inner.local_port),
        };
        let outer = FlowKey { local, local_port, ..*inner };
        let link = read.passing.link;
        let place = Place { node: node as u16, link };
        let inserted = self.sessions.insert(read.passing.now, protocol, *inner, outer, place);
        let slot = inserted.ok_or(Reason::EgressFull)?;
        if let Some(traffic) = self.traffic.get_mut(node) {
            traffic.sessions += 1;
            traffic.opened += 1;
        }
        if self.news.len() < NEWS {
            self.news.push_back(News { protocol, outer, inner: *inner, link, on: true });
        }
        Ok(slot)
    }

    /// Sessions that a node may have.
    fn share(&self) -> usize {
        self.config.sessions.div_ceil(self.rules.open().max(1))
    }

    /// What an end of a node's shows outside.
    fn shown(&self, node: usize, protocol: Protocol, inner: &FlowKey) -> Result<(Address, u16), Reason> {
        let address = self.config.address.ok_or(Reason::EgressClosed)?;
        let block = self.rules.nodes().get(node).map_or(0, |node| node.block);
        let size = self.config.ports_per_node;
        let first = u32::from(self.config.first_port) + u32::from(block) * u32::from(size);
        let first = u16::try_from(first).map_err(|_| Reason::EgressFull)?;
        let port = self.sessions.map(protocol, inner, first, size).ok_or(Reason::EgressFull)?;
        Ok((address, port))
    }

    /// Tells a node that it may not, so that it does not wait for an answer that cannot come.
    fn refuse(&mut self, node: usize, read: &Read<'_>, reason: Reason) {
        match reason {
            Reason::EgressClosed | Reason::EgressRefused => {
                if let Some(traffic) = self.traffic.get_mut(node) {
                    traffic.refused += 1;
                }
                self.complain(node, read, Complaint::Prohibited);
            }
            Reason::EgressNoSession => {
                let (key, packet) = (&read.datagram.key, read.packet);
                self.tell(node, read, |room| notice::reset(room, key, packet));
            }
            _ => {}
        }
    }

    /// Sends an error about a packet: from our own address where it came in, and where there is none of the family, from that
    /// which it was for. About an error nothing is said (RFC 1122, section 3.2.2).
    fn complain(&mut self, node: usize, read: &Read<'_>, complaint: Complaint) {
        if read.datagram.kind == Kind::Error {
            return;
        }
        let (to, asked) = (read.datagram.key.remote, read.datagram.key.local);
        let own = self.links.get(usize::from(read.passing.link.0)).map_or(&[][..], |link| &link.own);
        let from = own.iter().copied().find(|own| own.same_family(to)).unwrap_or(asked);
        let packet = read.packet;
        self.tell(node, read, |room| notice::error(room, from, to, packet, complaint));
    }

    /// Queues a packet of our own making to who sent the one at hand, which is a node's or for it.
    fn tell(
        &mut self,
        node: usize,
        read: &Read<'_>,
        write: impl FnOnce(&mut [u8; notice::LONGEST]) -> Option<usize>,
    ) {
        let Passing { now, link, .. } = read.passing;
        if !self.notices.get_mut(node).is_some_and(|notices| notices.take(now)) {
            return;
        }
        let mut room = [0; notice::LONGEST];
        if let Some(packet) = write(&mut room).and_then(|length| room.get(..length))
            && let Some(outbox) = self.outboxes.get_mut(usize::from(link.0))
        {
            outbox.push(Queued::whole(node, read.datagram.key.remote, now), packet);
        }
    }

    fn queue(
        &mut self,
        node: usize,
        link: LinkId,
        read: &Read<'_>,
        rewrite: &Rewrite,
        hop: Address,
    ) -> Result<(), Reason> {
        let Passing { now, meta, .. } = read.passing;
        let complete = meta.segment == 0 && !matches!(meta.checksum, Checksum::Partial { .. });
        let queued = Queued::whole(node, hop, now).in_segments(meta.segment, complete);
        let outbox = self.outboxes.get_mut(usize::from(link.0)).ok_or(Reason::NoRoute)?;
        let room = outbox.push(queued, read.packet).ok_or(Reason::EgressQueue)?;
        read.datagram.rewrite(room, rewrite, complete);
        Ok(())
    }

    fn mtu(&self, link: LinkId) -> u16 {
        self.links.get(usize::from(link.0)).map_or(1_280, |link| link.mtu)
    }

    /// Ends sessions whose time is over, and those that new rules do not allow or that are beyond a node's new share.
    pub(crate) fn advance(&mut self, now: Instant) {
        let share = self.share();
        let review = std::mem::take(&mut self.review).then(|| self.rules.clone());
        let mut kept = vec![0; if review.is_some() { self.traffic.len() } else { 0 }];
        let (traffic, news) = (&mut self.traffic, &mut self.news);
        let allowed = |session: &Session| {
            review.as_ref().is_none_or(|rules| {
                let Session { node, link, protocol, ref inner, .. } = *session;
                let node = usize::from(node);
                let kept = kept.get_mut(node).map_or(0, |kept| {
                    *kept += 1;
                    *kept
                });
                kept <= share
                    && rules.node(link, inner.local) == Some(node)
                    && rules.passes(node, protocol, inner).is_ok()
            })
        };
        let done = self.sessions.sweep(now, review.is_some(), allowed, |session| {
            if news.len() >= ENDS {
                return false;
            }
            if let Some(traffic) = traffic.get_mut(usize::from(session.node)) {
                traffic.sessions = traffic.sessions.saturating_sub(1);
            }
            let Session { protocol, outer, inner, link, .. } = *session;
            news.push_back(News { protocol, outer, inner, link, on: false });
            true
        });
        self.review = review.is_some() && !done;
    }

    /// When [`Egress::advance`] wants to be called, or packets be offered again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let review = self.review.then_some(Instant::ZERO);
        let waiting = self.outboxes.iter().filter_map(Outbox::deadline);
        waiting.chain(review).chain(self.sessions.deadline()).min()
    }

    /// Whether packets wait to be sent.
    pub(crate) fn has_output(&self) -> bool {
        self.outboxes.iter().any(|outbox| !outbox.is_empty())
    }

    /// Where the world is.
    pub(crate) fn outer(&self) -> LinkId {
        self.config.outer
    }

    /// What goes out by a link.
    pub(crate) fn outbox(&mut self, link: LinkId) -> Option<&mut Outbox> {
        self.outboxes.get_mut(usize::from(link.0))
    }

    /// The next session that began or ended.
    pub(crate) fn news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// What each node's way out has carried, in the order of the rules.
    pub(crate) fn traffic(&self) -> &[NodeTraffic] {
        &self.traffic
    }

    /// Sessions now.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = EgressSession> + '_ {
        self.sessions.iter().map(|session| {
            let Session { protocol, inner, outer, state, .. } = *session;
            EgressSession { protocol, inner, outer, established: state == State::Established }
        })
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

/// A key seen from its other end.
pub(crate) fn reversed(key: &FlowKey) -> FlowKey {
    FlowKey { local: key.remote, remote: key.local, local_port: key.remote_port, remote_port: key.local_port }
}
