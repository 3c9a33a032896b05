//! One core's dataplane: link, screen, admission and TCP engine in the order in which a frame meets them.
//!
//! A [`Shard`] is sans-IO: the host receives batches from its ports, hands them to [`Shard::ingest`], sends what comes
//! back, asks [`Shard::transmit`] for what the engine wants to say, and takes [`Event`]s. Same frames, same times and
//! same seed give the same frames.

mod departures;
mod directory;
mod exchange;
mod leases;
mod listing;
mod output;
mod ports;
mod strays;
mod transit;

use std::collections::VecDeque;
use std::sync::Arc;

use siphasher::sip::SipHasher24;

use crate::Reason;
use crate::admit::{self, Admission, Census};
use crate::egress::{Egress, EgressConfig, EgressLink};
use crate::frame::{Abilities, BATCH, Batch, Frame, Meta, Pool};
use crate::link::{self, Bucket, Hop, IcmpErrorKind, Link, LinkConfig};
use crate::reason::Counters;
use crate::screen::{self, DenyList, Listeners, Master, Screen, ScreenConfig};
use crate::tcp::{Engine, EngineConfig, Flow, Gone, KeyHash, LinkSettings, PathError, Waiting};
use crate::time::Instant;
use crate::wire::{
    self, Address, Agreed, BuildRules, Flags, FlowKey, Kind, LinkId, LinkRules, Packet, PrefixSet,
};

use exchange::Member;
pub use exchange::{Exchange, ExchangeConfig, Wake};
use listing::HINTS;
pub use listing::Hint;
use output::Output;
use ports::PortChooser;
pub use ports::ShardIndex;

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
    /// A node, by its place in the rules of the way out, began a connection that is inspected; it ends here. The flow's local
    /// end is where it was going.
    Departing(FlowId, u16),
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

/// For whom a connection is that others began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Of a peer, to a listener.
    To(ListenerId),
    /// Of a node, by its place in the rules of the way out, to somebody outside.
    By(u16),
}

/// Where to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// What nodes show outside: the way out's address, or of IPv6 ours on that link, and a port of the shard's choice.
    Shown,
    /// Another's (transparent mode), with that port, or one of the shard's choice if zero, taken or another shard's.
    Transparent(Address, u16),
}

/// What a listener demands before a flow exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// The first data segment begins like a TLS ClientHello.
    ClientHello,
    /// A completed handshake is enough. Where the first segment was lost, each later one that overtakes it is taken for the
    /// first with probability 2^-20 (the cookie's whole bits), and the stream would lack its beginning: protocols without
    /// a check of their own should know. The other kind of listener would refuse such a segment by its content.
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

/// A link of a shard: its place in the network, and what its port does by itself.
#[derive(Clone, Debug)]
pub struct ShardLink {
    /// Addresses, routes, MAC and MTU.
    pub config: LinkConfig,
    /// The port completes checksums ([`crate::frame::Abilities::checksum`]).
    pub checksum_offload: bool,
    /// The port inserts VLAN tags ([`crate::frame::Abilities::vlan`]).
    pub vlan_offload: bool,
    /// Largest payload that the port cuts ([`crate::frame::Abilities::segmentation`]); zero: none.
    pub segmentation: usize,
    /// Bytes that fit a frame ([`crate::frame::Abilities::frame_bytes`]).
    pub frame_bytes: usize,
    /// The link's addresses are ours alone, so that segments for nobody are answered with a reset.
    pub exclusive: bool,
}

impl ShardLink {
    /// A link over a port: `config` with the port's MAC, and an MTU that is at most the port's.
    pub fn new(config: LinkConfig, abilities: &Abilities) -> Self {
        let exclusive = !config.shared;
        ShardLink {
            config: LinkConfig { mac: abilities.mac, mtu: config.mtu.min(abilities.mtu), ..config },
            checksum_offload: abilities.checksum,
            vlan_offload: abilities.vlan,
            segmentation: if abilities.checksum { abilities.segmentation } else { 0 },
            frame_bytes: abilities.frame_bytes,
            exclusive,
        }
    }
}

/// Everything that a shard is told at its start.
#[derive(Clone)]
pub struct Config {
    /// The links, by [`LinkId`].
    pub links: Vec<ShardLink>,
    /// The listeners, by [`ListenerId`].
    pub listeners: Vec<Listener>,
    /// Quotas and deadlines for peers.
    pub admit: admit::Limits,
    /// Table sizes and buffer memory of the engine; its links are filled in from `links`.
    pub engine: EngineConfig,
    /// Cookies, and how much is answered to strangers.
    pub screen: ScreenConfig,
    /// The fleet's secret for cookies: appliances that share it accept each other's.
    pub cookie_secret: Master,
    /// This shard's own randomness, never to be used again.
    pub seed: [u8; 32],
    /// This shard among the box's.
    pub index: ShardIndex,
    /// What it shares with the box's other shards; `None` where there are none.
    pub exchange: Option<Arc<Exchange>>,
    /// The way out for nodes; `None`: they have none by us.
    pub egress: Option<EgressConfig>,
}

/// What a shard counts, for `status`.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Frames taken in.
    pub frames_in: u64,
    /// Frames given out.
    pub frames_out: u64,
    /// Frames passed on to the shard that holds their flow.
    pub handed_over: u64,
    /// Frames that other shards passed on; not counted as taken in once more.
    pub handed_in: u64,
    /// Frames refused and flows ended, by reason.
    pub reasons: Counters,
    /// SYNs answered with a cookie.
    pub cookies_sent: u64,
    /// Resets sent to strangers.
    pub resets_sent: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections opened.
    pub connected: u64,
    /// Connections of nodes that were accepted to be inspected.
    pub departed: u64,
    /// Flows now.
    pub flows: usize,
    /// Most flows at one time.
    pub flows_peak: usize,
    /// Flows whose peer has proved nothing but its address.
    pub strangers: usize,
    /// Flows whose peer finished its handshake and is no friend.
    pub settled: usize,
    /// Those of them that are protected from eviction by their age.
    pub long_lived: usize,
    /// Those of them that are protected from eviction by their usefulness.
    pub useful: usize,
    /// Buffer memory that strangers hold, in bytes.
    pub stranger_bytes: usize,
    /// Buffer memory in use by all flows, in bytes.
    pub buffer_bytes: usize,
    /// Most buffer memory in use at one time, in bytes.
    pub buffer_bytes_peak: usize,
    /// Segments sent again.
    pub retransmissions: u64,
}

impl Statistics {
    /// Adds those of another shard. Peaks add up to what there may have been at one time.
    pub fn absorb(&mut self, other: &Statistics) {
        self.frames_in += other.frames_in;
        self.frames_out += other.frames_out;
        self.handed_over += other.handed_over;
        self.handed_in += other.handed_in;
        self.reasons.absorb(&other.reasons);
        self.cookies_sent += other.cookies_sent;
        self.resets_sent += other.resets_sent;
        self.accepted += other.accepted;
        self.connected += other.connected;
        self.departed += other.departed;
        self.flows += other.flows;
        self.flows_peak += other.flows_peak;
        self.strangers += other.strangers;
        self.settled += other.settled;
        self.long_lived += other.long_lived;
        self.useful += other.useful;
        self.stranger_bytes += other.stranger_bytes;
        self.buffer_bytes += other.buffer_bytes;
        self.buffer_bytes_peak += other.buffer_bytes_peak;
        self.retransmissions += other.retransmissions;
    }
}

/// A link with the rules for frames that come from it and go to it.
struct Attached {
    link: Link,
    rules: LinkRules,
    build: BuildRules,
    frame_bytes: usize,
    segmentation: usize,
    /// What is passed on goes before what flows have to say; they take turns.
    passing_first: bool,
}

/// Frames that are parsed before the first of them is judged: enough to hide a cache miss, and few enough that their
/// payload, read for the checksum, is still in the first-level cache when it is copied.
const AHEAD: usize = 16;

/// What the parser made of a frame: a packet, which counts if `outcome` is good, and the hash of its flow.
#[derive(Debug)]
struct Parsed {
    packet: Packet,
    outcome: Result<KeyHash, Reason>,
}

impl Default for Parsed {
    fn default() -> Self {
        Parsed { packet: Packet::default(), outcome: Err(Reason::Truncated) }
    }
}

/// Messages of neighbours that a shard passes on to the others each second.
const SHARED_PER_SECOND: u32 = 1_000;

/// Slots of the flow table that are held against a new deny list at a time.
const SWEEP: usize = 1_024;

/// What becomes of a received frame.
enum Verdict {
    /// Its first bytes are the reply.
    Reply(usize),
    /// Another shard holds its flow.
    Elsewhere(u16),
    /// Taken in, or refused and counted already.
    Done,
    /// Refused.
    Drop(Reason),
}

/// One core's dataplane.
pub struct Shard {
    links: Vec<Attached>,
    listeners: Listeners,
    screen: Screen,
    admission: Admission,
    deny: Arc<DenyList>,
    /// Flows of whose sources are being ended.
    ends: Option<Arc<DenyList>>,
    /// The next slot of the flow table to be held against a new deny list.
    sweep: Option<usize>,
    /// The next slot to be held against new rules of the way out.
    review: Option<usize>,
    engine: Engine,
    /// The frames that come next.
    ahead: Box<[Parsed]>,
    ports: PortChooser,
    exchange: Option<Member>,
    egress: Option<Egress>,
    /// This shard's number.
    index: u16,
    /// What the ports have not been told yet.
    hints: VecDeque<Hint>,
    /// The frames at hand were handed over by another shard: they go no further.
    handed: bool,
    /// How many messages of neighbours are passed on.
    sharing: Bucket,
    statistics: Statistics,
}

impl Shard {
    /// A shard for `config`. All memory for flows is taken here.
    pub fn new(config: &Config, now: Instant) -> Self {
        let seed = |label: u8| Seed::new(&config.seed, label);
        let settings =
            |link: &ShardLink| LinkSettings { mtu: link.config.mtu, segmentation: link.segmentation };
        let engine =
            EngineConfig { links: config.links.iter().map(settings).collect(), ..config.engine.clone() };
        let exchange = config.exchange.clone().map(|exchange| Member::new(exchange, config.index.index));
        // The shards of a box claim its addresses in step; one of them speaks for all.
        let link_seed = |n: u8| match &exchange {
            Some(member) => Seed::new(member.seed(), 0x80 | n),
            None => seed(0x80 | n),
        };
        let census = match &exchange {
            Some(member) => member.census(),
            None => Census::new(1, engine.flows, seed(5).bytes16()),
        };
        let speaks = config.index.index == 0;
        Shard {
            links: (0u8..)
                .zip(&config.links)
                .map(|(n, link)| Attached::new(link, link_seed(n), speaks, now))
                .collect(),
            listeners: Listeners::new(&config.listeners),
            screen: Screen::new(config.screen, config.cookie_secret.clone(), seed(1).bytes16()),
            admission: Admission::new(config.admit, engine.flows, seed(2).bytes16(), census),
            deny: Arc::default(),
            ends: None,
            sweep: None,
            review: None,
            engine: Engine::new(engine, seed(3).bytes32()),
            ahead: (0..AHEAD).map(|_| Parsed::default()).collect(),
            ports: PortChooser::new(config.index, seed(4).bytes16()),
            hints: VecDeque::with_capacity(HINTS),
            exchange,
            egress: config.egress.clone().map(|way| {
                let link = |link: &ShardLink| EgressLink {
                    mtu: link.config.mtu,
                    own: link.config.addresses.iter().map(|own| own.address).collect(),
                };
                Egress::new(way, config.links.iter().map(link).collect(), seed(6).bytes16(), now)
            }),
            index: config.index.index,
            handed: false,
            sharing: Bucket::new(SHARED_PER_SECOND, SHARED_PER_SECOND / 4, now),
            statistics: Statistics::default(),
        }
    }

    /// Tells the shard the time of day, in milliseconds since the Unix epoch; cookies depend on it. To be repeated at
    /// least once a second; a step of the clock costs only handshakes that are in flight.
    pub fn set_utc(&mut self, now: Instant, unix_ms: u64) {
        self.screen.set_utc(now, unix_ms);
    }

    /// Takes in a batch of frames that came from `link`. Replies go into `tx`, in the frames that asked for them; all
    /// other frames go back to the pool. `rx` is empty afterwards.
    pub fn ingest<P: Pool + ?Sized>(
        &mut self,
        now: Instant,
        link: LinkId,
        pool: &mut P,
        rx: &mut Batch,
        tx: &mut Batch,
    ) {
        self.statistics.frames_in += rx.len() as u64;
        self.judge(now, link, pool, rx, tx);
    }

    fn judge<P: Pool + ?Sized>(
        &mut self,
        now: Instant,
        link: LinkId,
        pool: &mut P,
        rx: &mut Batch,
        tx: &mut Batch,
    ) {
        let mut frames = rx.drain(BATCH);
        let mut ahead = std::mem::take(&mut self.ahead);
        while !frames.as_slice().is_empty() {
            self.parse_ahead(link, pool, frames.as_slice(), &mut ahead);
            self.warm(&ahead[..frames.as_slice().len().min(AHEAD)]);
            for (Parsed { packet, outcome }, (mut frame, meta)) in ahead.iter().zip(frames.by_ref()) {
                let verdict = match *outcome {
                    Ok(hash) if packet.kind == Kind::Tcp => {
                        self.segment(now, link, packet, hash, pool, (&mut frame, &meta))
                    }
                    Ok(_) if packet.kind != Kind::Arp && self.transits(link, pool.bytes(&frame)) => {
                        self.transit(now, link, pool.bytes(&frame), &meta, Reason::NotOurs)
                    }
                    Err(Reason::UnknownProtocol) if self.asks(link) => {
                        self.served(now, link, pool.bytes(&frame), &meta)
                    }
                    Err(reason @ Reason::UnknownProtocol) => {
                        self.transit(now, link, pool.bytes(&frame), &meta, reason)
                    }
                    Ok(_) => {
                        self.share(now, link, packet, pool.bytes(&frame), meta);
                        self.neighbourly(now, link, packet, pool.bytes_mut(&mut frame))
                    }
                    Err(reason) => Verdict::Drop(reason),
                };
                self.settle(verdict, link, pool, frame, meta, tx);
            }
        }
        drop(frames);
        self.ahead = ahead;
        self.tell_transits();
    }

    /// Writes what the engine and the link have to say on `link` into `tx`, at most `budget` frames; says how many.
    pub fn transmit<P: Pool + ?Sized>(
        &mut self,
        now: Instant,
        link: LinkId,
        pool: &mut P,
        tx: &mut Batch,
        budget: usize,
    ) -> usize {
        let before = tx.len();
        let Some(attached) = self.links.get_mut(usize::from(link.0)) else { return 0 };
        let reasons = &mut self.statistics.reasons;
        let frame_bytes = attached.frame_bytes;
        let segmentation = attached.segmentation;
        let mut output = Output { pool, tx, build: &attached.build, frame_bytes, segmentation, reasons };
        attached.link.transmit(now, |bytes| output.raw(bytes));
        attached.passing_first = !attached.passing_first;
        let Attached { link: way, passing_first, .. } = attached;
        for passing in [*passing_first, !*passing_first] {
            let left = budget.saturating_sub(output.tx.len() - before);
            if !passing {
                self.engine.transmit(now, link, &mut |segment| output.segment(now, way, segment), left);
            } else if let Some(outbox) = self.egress.as_mut().and_then(|egress| egress.outbox(link)) {
                let lost = outbox.drain(now, |queued, packet| output.datagram(now, way, queued, packet));
                output.reasons[Reason::NoNeighbour] += lost;
            }
        }
        let written = tx.len() - before;
        self.statistics.frames_out += written as u64;
        written
    }

    /// When [`Shard::advance`] wants to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let links = self.links.iter().filter_map(|attached| attached.link.deadline());
        let sweep = self.sweep.or(self.review).map(|_| Instant::ZERO);
        let egress = self.egress.as_ref().and_then(Egress::deadline);
        links.chain(self.engine.deadline()).chain(self.admission.deadline()).chain(sweep).chain(egress).min()
    }

    /// Whether [`Shard::transmit`] may have something to write, whatever the time.
    pub fn has_output(&self) -> bool {
        self.engine.has_output() || self.egress.as_ref().is_some_and(Egress::has_output)
    }

    /// Runs the timers that are due.
    pub fn advance(&mut self, now: Instant) {
        self.engine.advance(now);
        while let Some(late) = self.admission.expired(now) {
            self.engine.evict(late, Reason::HandshakeTimeout);
        }
        self.enforce();
        self.review_departures();
        if let Some(egress) = &mut self.egress {
            egress.advance(now);
            self.tell_transits();
        }
    }

    /// The next event.
    pub fn event(&mut self, now: Instant) -> Option<Event> {
        let event = self.engine.event()?;
        match event {
            Event::Closed(id, reason) => self.forget(now, id, reason),
            Event::Connected(_) => self.statistics.connected += 1,
            _ => {}
        }
        Some(event)
    }

    /// Refuses strangers from these prefixes from now on. Flows of peers who come from those in `ends` are ended too, some at
    /// each [`Shard::advance`]; never those of friends, nor connections that we opened.
    pub fn set_deny(&mut self, list: Arc<DenyList>, ends: Option<Arc<DenyList>>) {
        self.ends = ends.filter(|ends| !ends.is_empty());
        self.sweep = self.ends.as_ref().map(|_| 0);
        self.deny = list;
    }

    /// Admits newcomers by other quotas from now on.
    pub fn set_quotas(&mut self, quotas: &admit::Quotas) {
        self.admission.set_quotas(quotas);
    }

    /// Says from where friends come from now on: no quota, no ban and no eviction concerns them.
    pub fn set_friends(&mut self, friends: Arc<PrefixSet>) {
        self.admission.set_friends(friends);
    }

    /// Ends flows of denied sources, as far as the deny list is new to them.
    fn enforce(&mut self) {
        let (Some(from), Some(ends)) = (self.sweep, self.ends.clone()) else { return };
        let until = (from + SWEEP).min(self.engine.slots());
        for slot in from..until {
            let Some((id, source)) = self.engine.accepted(slot) else { continue };
            if ends.covers(source) && !self.admission.is_friend(source) {
                self.engine.evict(id, Reason::Banned);
            }
        }
        self.sweep = (until < self.engine.slots()).then_some(until);
        if self.sweep.is_none() {
            self.ends = None;
        }
    }

    /// Opens a connection. [`Event::Connected`] or [`Event::Closed`] tells how it went.
    pub fn connect(&mut self, now: Instant, to: Target, source: Source) -> Result<FlowId, Reason> {
        let attached = self.links.get_mut(usize::from(to.link.0)).ok_or(Reason::NoRoute)?;
        let hop = match attached.link.next_hop(now, to.address) {
            Hop::Known(mac) => Some(mac),
            Hop::Pending => None,
            Hop::Unroutable(reason) => return Err(reason),
        };
        let (local, wanted) = match source {
            Source::Shown if to.address.is_v4() => {
                (self.egress.as_ref().and_then(Egress::address).ok_or(Reason::EgressClosed)?, 0)
            }
            Source::Own | Source::Shown => (attached.link.source_for(to.address).ok_or(Reason::NoRoute)?, 0),
            Source::Transparent(address, port) => (address, port),
        };
        let key = |local_port| FlowKey { local, remote: to.address, local_port, remote_port: to.port };
        let (engine, listeners) = (&self.engine, &self.listeners);
        // A listener's port is for those who come, and those of the nodes' blocks are theirs.
        let way = self.egress.as_ref().filter(|_| !matches!(source, Source::Transparent(..)));
        let nodes = |port: u16| way.is_some_and(|way| way.translates(to.link, local, port));
        let free = |port: u16| {
            port != 0 && listeners.find(to.link, local, port).is_none() && !engine.taken(now, &key(port))
        };
        let port = if self.ports.is_own(wanted) && free(wanted) {
            Some(wanted)
        } else {
            self.ports.choose(&key(0), nodes, free)
        };
        let key = key(port.ok_or(Reason::TableFull)?);
        if let Some(victim) = self.admission.admit_own()? {
            self.engine.evict(victim, Reason::Evicted);
        }
        let id = self.engine.connect(now, key, to.link, hop)?;
        self.admission.opened(now, id, to.address, None, Standing::Reserved);
        self.list(key, to.link);
        Ok(id)
    }

    /// A flow, to read, write or end it.
    pub fn flow(&mut self, id: FlowId) -> Option<Flow<'_>> {
        self.engine.flow(id)
    }

    /// Changes what admission, eviction and the receive window think of a flow. From [`Standing::Proven`] on it has no
    /// handshake deadline; a friend's is [`Standing::Reserved`]. Where all slots are taken another flow ends for it, or the
    /// flow itself ([`Reason::Outranked`]).
    pub fn standing(&mut self, now: Instant, id: FlowId, standing: Standing) {
        let Some(mut flow) = self.engine.flow(id).filter(|flow| flow.standing() < standing) else { return };
        let friend = standing == Standing::Proven && self.admission.is_friend(flow.key().remote);
        let standing = if friend { Standing::Reserved } else { standing };
        flow.set_standing(standing);
        drop(flow);
        if let Some(victim) = self.admission.standing(now, id, standing) {
            self.engine.evict(victim, Reason::Outranked);
        }
    }

    /// Gives a peer points for what it is useful for: what it was first to bring, quick answers. They halve every hour, and
    /// those with the most keep their flow when others have to go.
    pub fn credit(&mut self, now: Instant, id: FlowId, points: u32) {
        self.admission.credit(now, id, points);
    }

    /// A peer has exchanged so many bytes with us: until when its flow has to rest, if it has to. The host sees to it.
    pub fn moved(&self, now: Instant, id: FlowId, bytes: usize) -> Option<Instant> {
        self.admission.moved(now, id, bytes)
    }

    /// Notes that a peer has earned a record: room is kept for its address when it comes again.
    pub fn commend(&mut self, id: FlowId) {
        self.admission.remember(id);
    }

    /// What the shard counted, and what it holds now.
    pub fn statistics(&self) -> Statistics {
        let (engine, screen) = (self.engine.statistics(), self.screen.statistics());
        let mut statistics = self.statistics.clone();
        for (reason, count) in self.engine.counters().iter() {
            statistics.reasons[reason] += count;
        }
        statistics.cookies_sent = screen.syn_acks;
        statistics.resets_sent = screen.resets;
        statistics.flows = engine.flows;
        statistics.flows_peak = engine.flows_peak;
        statistics.strangers = self.admission.strangers() as usize;
        (statistics.settled, statistics.long_lived, statistics.useful) = self.admission.settled();
        statistics.stranger_bytes = self.strangers().map(|(_, bytes)| bytes).sum();
        statistics.buffer_bytes = engine.blocks_used * crate::tcp::BLOCK;
        statistics.buffer_bytes_peak = engine.blocks_peak * crate::tcp::BLOCK;
        statistics.retransmissions = engine.retransmissions;
        statistics
    }

    /// A link, to ask for the groups that its port shall join and for conflicts about its addresses.
    pub fn link(&self, link: LinkId) -> Option<&Link> {
        self.links.get(usize::from(link.0)).map(|attached| &attached.link)
    }

    /// The flows whose peer has proved nothing but its address, with the buffer memory that each holds, in bytes.
    pub fn strangers(&self) -> impl Iterator<Item = (FlowKey, usize)> + '_ {
        self.engine.strangers()
    }

    /// Parses the next frames before any table is touched, so that the table's lines arrive meanwhile.
    fn parse_ahead<P: Pool + ?Sized>(
        &self,
        link: LinkId,
        pool: &P,
        frames: &[(Frame, Meta)],
        ahead: &mut [Parsed],
    ) {
        let attached = self.links.get(usize::from(link.0));
        for (Parsed { packet, outcome }, (frame, meta)) in ahead.iter_mut().zip(frames) {
            *outcome = match attached {
                Some(attached) => {
                    wire::parse_into(pool.bytes(frame), meta, &attached.rules, packet).map(|()| {
                        let hash = self.engine.hash(&packet.key);
                        self.engine.touch(hash);
                        hash
                    })
                }
                None => Err(Reason::NotOurs),
            };
        }
    }

    /// Has what the segments of flows need read before the first of them is judged, all misses at once. SYNs need nothing.
    #[inline]
    fn warm(&self, ahead: &[Parsed]) {
        let warmed = ahead.iter().filter(|parsed| !parsed.packet.flags.has(Flags::SYN));
        let sum =
            warmed.filter_map(|parsed| parsed.outcome.ok()).fold(0, |sum, hash| sum ^ self.engine.warm(hash));
        std::hint::black_box(sum);
    }

    /// A TCP segment: for a flow, for TIME-WAIT, for another shard, or a stranger's.
    fn segment<P: Pool + ?Sized>(
        &mut self,
        now: Instant,
        link: LinkId,
        packet: &Packet,
        hash: KeyHash,
        pool: &mut P,
        (frame, meta): (&mut Frame, &Meta),
    ) -> Verdict {
        let key = &packet.key;
        if let Some(id) = self.engine.find(hash, key) {
            if self.engine.link(id) != Some(link) {
                return Verdict::Drop(Reason::NotOurs);
            }
            // A refusal is counted by the engine.
            let _ = self.engine.input(now, id, &packet.segment(pool.bytes(frame)), packet.source_mac);
            return Verdict::Done;
        }
        match self.engine.waiting(now, hash, key, || packet.segment(pool.bytes(frame))) {
            Waiting::Stranger => match self.elsewhere(packet) {
                Some(shard) => Verdict::Elsewhere(shard),
                None => self.stranger(now, link, packet, hash, pool, (frame, meta)),
            },
            Waiting::Consumed | Waiting::Dropped(_) => Verdict::Done,
        }
    }

    /// Whether a message that is not TCP comes from a denied source. Neighbours are never cut off: a gateway may be one.
    fn denies(&self, packet: &Packet) -> bool {
        let routed =
            packet.kind == Kind::Icmpv4 || packet.kind == Kind::Icmpv6 && packet.hop_limit != u8::MAX;
        let source = packet.key.remote;
        routed && self.deny.refuses(source, self.index) && !self.admission.is_friend(source)
    }

    /// ARP, ICMP and ICMPv6.
    fn neighbourly(&mut self, now: Instant, link: LinkId, packet: &Packet, bytes: &mut [u8]) -> Verdict {
        if self.denies(packet) {
            return Verdict::Drop(Reason::Banned);
        }
        match self.links[usize::from(link.0)].link.ingest(now, packet, bytes) {
            // The shard that it came to answers.
            link::Answer::Reply(_) if self.handed => Verdict::Done,
            link::Answer::Reply(len) => Verdict::Reply(len),
            link::Answer::Quiet => Verdict::Done,
            link::Answer::Drop(reason) => Verdict::Drop(reason),
            link::Answer::Error(error) => {
                if let Some(shard) = self.elsewhere_to(&error.key) {
                    return Verdict::Elsewhere(shard);
                }
                let kind = match error.kind {
                    IcmpErrorKind::PacketTooBig(mtu) => PathError::PacketTooBig(mtu),
                    IcmpErrorKind::Unreachable => PathError::Unreachable,
                };
                // A refusal is counted by the engine.
                let _ = self.engine.icmp_error(now, &error.key, error.seq, kind);
                Verdict::Done
            }
        }
    }

    /// A TCP segment that belongs to no flow.
    fn stranger<P: Pool + ?Sized>(
        &mut self,
        now: Instant,
        link: LinkId,
        packet: &Packet,
        hash: KeyHash,
        pool: &mut P,
        (frame, meta): (&mut Frame, &Meta),
    ) -> Verdict {
        if self.deny.refuses(packet.key.remote, self.index) && !self.admission.is_friend(packet.key.remote) {
            return Verdict::Drop(Reason::Banned);
        }
        let ours = self.links[usize::from(link.0)].link.usable(packet.key.local);
        if !ours || self.translates(link, &packet.key) {
            if let Some(verdict) = self.depart(now, link, packet, hash, pool, frame) {
                return verdict;
            }
            return self.transit(now, link, pool.bytes(frame), meta, Reason::NotOurs);
        }
        let attached = &self.links[usize::from(link.0)];
        let found = self.listeners.find(link, packet.key.local, packet.key.local_port);
        let listener = found.map(|(_, listener)| listener);
        match self.screen.stranger(
            now,
            &attached.rules,
            packet,
            hash.offset(),
            pool.bytes_mut(frame),
            listener,
        ) {
            screen::Answer::Reply(len) => Verdict::Reply(len),
            screen::Answer::Refuse(len, reason) => {
                self.statistics.reasons.count(reason);
                Verdict::Reply(len)
            }
            screen::Answer::Drop(reason) => Verdict::Drop(reason),
            screen::Answer::Proof(agreed) => {
                let Some((listener, _)) = found else { return Verdict::Drop(Reason::NoListener) };
                match self.admit(now, link, listener, packet, &agreed) {
                    Ok(id) => {
                        let segment = packet.segment(pool.bytes(frame));
                        // A refusal is counted by the engine.
                        let _ = self.engine.input(now, id, &segment, packet.source_mac);
                        Verdict::Done
                    }
                    Err(reason) => Verdict::Drop(reason),
                }
            }
        }
    }

    /// A peer returned our cookie: a flow for it, if the quotas allow one.
    fn admit(
        &mut self,
        now: Instant,
        link: LinkId,
        listener: ListenerId,
        packet: &Packet,
        agreed: &Agreed,
    ) -> Result<FlowId, Reason> {
        let key = packet.key;
        if let Some(victim) = self.admission.admit(now, key.remote, listener, self.engine.buffers_short())? {
            self.engine.evict(victim, Reason::Evicted);
        }
        let id = self.engine.accept(now, key, link, packet.source_mac, agreed, Opened::To(listener))?;
        self.admission.opened(now, id, key.remote, Some(listener), Standing::Stranger);
        self.list(key, link);
        self.statistics.accepted += 1;
        Ok(id)
    }

    /// A flow is gone: its quota is free, and its cookie is spent.
    fn forget(&mut self, now: Instant, id: FlowId, reason: Reason) {
        self.statistics.reasons.count(reason);
        self.admission.closed(now, id);
        let Some(Gone { key, link, cookie, node }) = self.engine.gone() else { return };
        self.strike(key, link);
        self.departed(node);
        if let Some(iss) = cookie {
            self.screen.spent(now, &key, iss);
        }
    }

    /// Sends or releases a frame.
    fn settle<P: Pool + ?Sized>(
        &mut self,
        verdict: Verdict,
        link: LinkId,
        pool: &mut P,
        mut frame: Frame,
        meta: Meta,
        tx: &mut Batch,
    ) {
        match verdict {
            Verdict::Reply(len) => {
                frame.truncate(len);
                match tx.push(frame, Meta { vlan: meta.vlan, ..Meta::default() }) {
                    Ok(()) => self.statistics.frames_out += 1,
                    Err(frame) => {
                        self.statistics.reasons.count(Reason::NoFrame);
                        pool.release(frame);
                    }
                }
            }
            Verdict::Done => pool.release(frame),
            Verdict::Elsewhere(shard) => {
                self.pass_on(shard, link, pool.bytes(&frame), meta);
                pool.release(frame);
            }
            Verdict::Drop(reason) => {
                self.statistics.reasons.count(reason);
                pool.release(frame);
            }
        }
    }
}

impl Attached {
    fn new(link: &ShardLink, seed: Seed, speaks: bool, now: Instant) -> Self {
        let config = &link.config;
        let mut claimed = Link::new(config.clone(), seed.number(), now);
        if !speaks {
            claimed.hush();
        }
        Attached {
            rules: LinkRules { mac: config.mac, vlan: config.vlan, mtu: config.mtu, resets: link.exclusive },
            build: BuildRules {
                vlan: config.vlan,
                vlan_offload: link.vlan_offload,
                checksum_offload: link.checksum_offload,
            },
            frame_bytes: link.frame_bytes,
            segmentation: link.segmentation,
            passing_first: false,
            link: claimed,
        }
    }
}

/// Independent seeds for the parts of a shard, derived from its own by label.
struct Seed([u64; 4]);

impl Seed {
    fn new(seed: &[u8; 32], label: u8) -> Self {
        let (mut low, mut high) = ([0; 16], [0; 16]);
        low.copy_from_slice(&seed[..16]);
        high.copy_from_slice(&seed[16..]);
        let word = |key: &[u8; 16], n: u8| SipHasher24::new_with_key(key).hash(&[label, n]);
        Seed([word(&low, 0), word(&high, 1), word(&low, 2), word(&high, 3)])
    }

    fn number(&self) -> u64 {
        self.0[0] ^ self.0[1]
    }

    fn bytes32(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn bytes16(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.bytes32()[..16]);
        bytes
    }
}
