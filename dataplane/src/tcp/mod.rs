//! The TCP engine: both roles of RFC 9293 over a keyed flow table, a timer wheel and one pool of buffers.
//!
//! An [`Engine`] is sans-IO. The host feeds it checked segments, pulls what it wants sent, and hears about flows through
//! [`Event`]s. All memory is limited by [`EngineConfig`]; an idle flow owns no buffer.

mod buffer;
mod challenge;
mod congestion;
mod connection;
mod expiry;
mod flow;
mod input;
mod output;
mod parting;
mod ranges;
mod reassembly;
mod recovery;
mod settings;
mod state;
mod table;
mod time_wait;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::Reason;
use crate::reason::Counters;
use crate::screen::PlanKey;
use crate::shard::{Event, FlowId, Opened, Standing};
use crate::time::Instant;
use crate::wire::{Address, Agreed, Flags, FlowKey, LinkId, Mac, Outgoing, Segment, Seq};

use buffer::Pool;
use challenge::Budget;
use connection::{Connection, Pending, SEND_SHARE, Shared};
use parting::Parting;
use ranges::Shelf;
use state::{Outcome, State};
pub use table::KeyHash;
use table::{Index, Keyed};
use time_wait::{Entry, Judgement, TimeWaits};
use timers::{Timer, Wheel};

pub use buffer::BLOCK;
pub use flow::Flow;
pub use settings::{EngineConfig, LinkSettings, PathError, Sent, Statistics, Waiting};

/// Segments that a flow may send before the next one has its turn.
const QUANTUM: usize = 32;
/// Resets and other segments without a flow that may wait to be sent; what exceeds it is lost, as on a network.
const PARTINGS: usize = 1024;
/// TSvals below this never look stale after a wrap; the rest of a keyed hash gives each 4-tuple its own clock.
const CLOCK_SHIFT: u32 = 7;

/// A place in the flow table.
#[derive(Debug)]
struct Slot {
    generation: u32,
    /// Whether the index leads here; not any more once the connection is over on the wire.
    indexed: bool,
    /// In the ready queue; survives the flow, so that no slot is there twice.
    ready: bool,
    /// In the queue for buffer space.
    starved: bool,
    /// Why the flow ended, once it has.
    end: Option<Reason>,
    /// Empty between two flows.
    connection: Option<Connection>,
}

/// What waits to be sent on one link.
#[derive(Debug)]
struct Outlet {
    /// Slots of flows that may have something to send, each once.
    ready: VecDeque<u32>,
    partings: VecDeque<Parting>,
}

impl Outlet {
    fn new(flows: usize) -> Self {
        Outlet { ready: VecDeque::with_capacity(flows), partings: VecDeque::with_capacity(PARTINGS) }
    }
}

impl Slot {
    fn empty() -> Self {
        Slot { generation: 0, indexed: false, ready: false, starved: false, end: None, connection: None }
    }
}

/// The TCP engine of one shard.
#[derive(Debug)]
pub struct Engine {
    keyed: Keyed,
    index: Index,
    slots: Vec<Slot>,
    free: Vec<u32>,
    shared: Shared,
    wheel: Wheel,
    /// Delayed ACKs in the order in which they are due: all wait equally long, so a queue does, and unlike the wheel it
    /// shows what comes next. A flow stands here once.
    acks: VecDeque<(Instant, u32)>,
    outlets: Vec<Outlet>,
    events: VecDeque<u32>,
    starved: VecDeque<u32>,
    time_waits: TimeWaits,
    gone: Option<Gone>,
}

/// What a flow leaves behind for those who knew it by its id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone {
    /// Its 4-tuple.
    pub(crate) key: FlowKey,
    /// The link that it lived on.
    pub(crate) link: LinkId,
    /// The cookie that opened it, if a peer did.
    pub(crate) cookie: Option<Seq>,
    /// The node that began it, if one did.
    pub(crate) node: Option<u16>,
}

/// With so many flows they no longer fit the second-level cache, and [`Engine::warm`] is worth its while.
const WARM_FROM: usize = 2_048;
/// Flows whose timers ran out, or whose turn to send has come, are taken in groups of this size, so that their cache misses
/// overlap.
const DUE: usize = 16;

impl Engine {
    /// An engine with all its memory reserved. `seed` keys the flow table and initial sequence numbers.
    pub fn new(config: EngineConfig, seed: [u8; 32]) -> Self {
        let flows = config.flows.clamp(1, 1 << 24);
        let (mut table, mut noise) = ([0; 16], [0; 8]);
        table.copy_from_slice(&seed[..16]);
        noise.copy_from_slice(&seed[16..24]);
        Engine {
            keyed: Keyed::new(table),
            index: Index::new(flows),
            slots: Vec::with_capacity(flows),
            free: Vec::with_capacity(flows),
            wheel: Wheel::new(flows),
            acks: VecDeque::with_capacity(flows),
            outlets: config.links.iter().map(|_| Outlet::new(flows)).collect(),
            events: VecDeque::with_capacity(flows),
            starved: VecDeque::with_capacity(flows),
            time_waits: TimeWaits::new(config.time_waits, config.time_wait),
            gone: None,
            shared: Shared {
                pool: Pool::new(config.blocks),
                // A quarter of all flows may have gaps in both directions at once.
                shelf: Shelf::new((flows / 2).max(64)),
                counters: Counters::default(),
                statistics: Statistics::default(),
                challenge: Budget::new(u64::from_le_bytes(noise)),
                config,
            },
        }
    }

    /// The keyed hash of a 4-tuple: what [`Engine::touch`], [`Engine::find`] and [`Engine::waiting`] want, so that a
    /// frame pays for it once.
    #[inline]
    pub fn hash(&self, key: &FlowKey) -> KeyHash {
        self.keyed.hash(key)
    }

    /// The key of [`Engine::hash`].
    pub(crate) fn hash_key(&self) -> PlanKey {
        self.keyed.key().words()
    }

    /// Pulls the table entries of a 4-tuple into the cache.
    #[inline]
    pub fn touch(&self, hash: KeyHash) {
        self.index.touch(hash);
        self.time_waits.touch(hash);
    }

    /// Reads what a segment of the flow with this hash will need, so that the cache misses of several flows overlap. Call
    /// it a few frames ahead, and after [`Engine::touch`]; the number means nothing.
    #[inline]
    pub fn warm(&self, hash: KeyHash) -> u64 {
        if self.slots.len() < WARM_FROM {
            return 0;
        }
        let Some(slot) = self.index.guess(hash) else { return 0 };
        self.warm_slot(slot) ^ self.wheel.warm(slot)
    }

    fn warm_slot(&self, slot: u32) -> u64 {
        let flow = self.slots.get(slot as usize).and_then(|place| place.connection.as_ref());
        flow.map_or(0, Connection::warm)
    }

    /// The flow of a 4-tuple.
    pub fn lookup(&self, key: &FlowKey) -> Option<FlowId> {
        self.find(self.keyed.hash(key), key)
    }

    /// The flow of a 4-tuple whose hash is known.
    pub fn find(&self, hash: KeyHash, key: &FlowKey) -> Option<FlowId> {
        let same = |slot: u32| {
            self.slots[slot as usize].connection.as_ref().is_some_and(|connection| connection.key == *key)
        };
        let slot = self.index.find(hash, same)?;
        Some(FlowId { slot, generation: self.slots[slot as usize].generation })
    }

    /// The link that a flow lives on.
    #[inline]
    pub fn link(&self, id: FlowId) -> Option<LinkId> {
        self.slots.get(id.slot as usize)?.connection.as_ref().map(|connection| connection.link)
    }

    /// Asks TIME-WAIT about a segment for which there is no flow.
    #[inline]
    pub fn waiting<'a>(
        &mut self,
        now: Instant,
        hash: KeyHash,
        key: &FlowKey,
        segment: impl FnOnce() -> Segment<'a>,
    ) -> Waiting {
        if self.time_waits.len() == 0 {
            return Waiting::Stranger;
        }
        self.rested(now, hash, key, &segment())
    }

    /// [`Engine::waiting`] where somebody waits.
    fn rested(&mut self, now: Instant, hash: KeyHash, key: &FlowKey, segment: &Segment<'_>) -> Waiting {
        let Some(entry) = self.time_waits.get(hash, key).filter(|entry| entry.until > now) else {
            return Waiting::Stranger;
        };
        let answer = entry.acknowledgement(now);
        let dropped = match entry.judge(segment) {
            Judgement::Stranger => return Waiting::Stranger,
            Judgement::Quiet => return Waiting::Consumed,
            Judgement::Ignore => Reason::NoFlow,
            Judgement::Acknowledge | Judgement::Restart | Judgement::Challenge
                if !self.shared.challenge.take(now) =>
            {
                Reason::ChallengeCap
            }
            Judgement::Challenge => {
                self.part(answer);
                Reason::Challenged
            }
            judgement => {
                self.part(answer);
                if judgement == Judgement::Restart {
                    self.time_waits.restart(now, hash, key);
                }
                return Waiting::Consumed;
            }
        };
        self.shared.counters.count(dropped);
        Waiting::Dropped(dropped)
    }

    /// Makes an established flow of what a returned cookie proved. The segment that proved it goes to [`Engine::input`]
    /// next. Reports [`Event::Accepted`] or [`Event::Departing`]. Replaces a TIME-WAIT entry of the 4-tuple.
    pub fn accept(
        &mut self,
        now: Instant,
        key: FlowKey,
        link: LinkId,
        hop: Mac,
        agreed: &Agreed,
        opened: Opened,
    ) -> Result<FlowId, Reason> {
        let hash = self.keyed.hash(&key);
        if self.find(hash, &key).is_some() {
            return Err(Reason::Challenged);
        }
        if usize::from(link.0) >= self.outlets.len() {
            return Err(Reason::NoRoute);
        }
        let mss = self.shared.link_mss(link, &key);
        let mut connection = Connection::accepted(now, key, link, hop, agreed, mss);
        connection.opened = opened;
        connection.pending.add(Pending::ACCEPTED);
        let id = self.place(hash, connection)?;
        self.time_waits.remove(hash, &key);
        self.settle(id.slot);
        Ok(id)
    }

    /// Opens a connection (reports [`Event::Connected`] or [`Event::Closed`]). `hop`: the next hop's Ethernet address,
    /// where known. Fails if the table is full or the 4-tuple is taken or in TIME-WAIT.
    pub fn connect(
        &mut self,
        now: Instant,
        key: FlowKey,
        link: LinkId,
        hop: Option<Mac>,
    ) -> Result<FlowId, Reason> {
        let hash = self.keyed.hash(&key);
        if usize::from(link.0) >= self.outlets.len() {
            return Err(Reason::NoRoute);
        }
        if self.taken(now, &key) {
            return Err(Reason::Refused);
        }
        // RFC 6528, section 3: a keyed hash of the 4-tuple plus a clock of four microseconds. The direction of the tuple is
        // turned round, so that the number says nothing about the table.
        let turned = FlowKey {
            local: key.remote,
            remote: key.local,
            local_port: key.remote_port,
            remote_port: key.local_port,
        };
        let secret = self.keyed.number(&turned);
        let iss = Seq(secret as u32) + (now.micros() / 4) as u32;
        let clock = ((secret >> 32) as u32) >> CLOCK_SHIFT;
        let mut connection =
            Connection::connecting(now, key, link, hop, iss, clock.wrapping_add(now.millis() as u32));
        connection.timers.life = Timer::at(now + self.shared.config.connect_timeout);
        let id = self.place(hash, connection)?;
        self.wake(id.slot);
        Ok(id)
    }

    /// Whether a 4-tuple cannot be used for a connection of our own: it has a flow, or rests in TIME-WAIT.
    pub fn taken(&self, now: Instant, key: &FlowKey) -> bool {
        let hash = self.keyed.hash(key);
        let resting = self.time_waits.get(hash, key).is_some_and(|entry| entry.until > now);
        resting || self.find(hash, key).is_some()
    }

    fn place(&mut self, hash: KeyHash, connection: Connection) -> Result<FlowId, Reason> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots.len() < self.shared.config.flows.max(1) => {
                self.slots.push(Slot::empty());
                self.slots.len() as u32 - 1
            }
            None => return Err(Reason::TableFull),
        };
        let place = &mut self.slots[slot as usize];
        place.indexed = true;
        place.end = None;
        place.connection = Some(connection);
        self.index.insert(hash, slot);
        let statistics = &mut self.shared.statistics;
        statistics.flows += 1;
        statistics.flows_peak = statistics.flows_peak.max(statistics.flows);
        Ok(FlowId { slot, generation: place.generation })
    }

    fn connection(&mut self, id: FlowId) -> Option<&mut Connection> {
        let place = self.slots.get_mut(id.slot as usize)?;
        if place.generation != id.generation {
            return None;
        }
        place.connection.as_mut()
    }

    /// A segment arrived for a flow; `hop` is the Ethernet address that it came from. The error says why it was dropped
    /// and is counted in [`Engine::counters`] already.
    pub fn input(&mut self, now: Instant, id: FlowId, segment: &Segment<'_>, hop: Mac) -> Result<(), Reason> {
        self.shared.statistics.segments_in += 1;
        let place = self.slots.get_mut(id.slot as usize).filter(|place| place.generation == id.generation);
        let Some(connection) = place.and_then(|place| place.connection.as_mut()) else {
            self.shared.counters.count(Reason::NoFlow);
            return Err(Reason::NoFlow);
        };
        let outcome = connection.arrives(now, segment, hop, &mut self.shared);
        let verdict = match outcome {
            Outcome::Dropped(reason) | Outcome::Repelled(reason) | Outcome::Reset(reason) => {
                self.shared.counters.count(reason);
                Err(reason)
            }
            _ => Ok(()),
        };
        if let Outcome::Repelled(_) = outcome {
            self.repel(id.slot, segment.ack);
        }
        self.apply(now, id.slot, outcome);
        self.wake(id.slot);
        verdict
    }

    /// An ICMP error quoted a segment of `key` that began at `seq`. Believed only as far as RFC 5927 allows.
    pub fn icmp_error(
        &mut self,
        now: Instant,
        key: &FlowKey,
        seq: Seq,
        error: PathError,
    ) -> Result<(), Reason> {
        let refused = Err(Reason::IcmpUnrelated);
        let Some(id) = self.lookup(key) else { return refused };
        let Some(connection) = self.connection(id) else { return refused };
        // RFC 5927, section 4.1: it must quote something that is under way.
        if !seq.within(connection.send.una, connection.send.nxt) {
            return refused;
        }
        match error {
            PathError::PacketTooBig(mtu) => {
                if !connection.path_mtu(mtu) {
                    return refused;
                }
            }
            // RFC 5927, section 5.2: only a connection attempt dies of it.
            PathError::Unreachable if connection.state == State::SynSent => {
                self.apply(now, id.slot, Outcome::Closed(Reason::Unreachable));
            }
            PathError::Unreachable => return refused,
        }
        self.wake(id.slot);
        Ok(())
    }

    /// Offers up to `budget` segments of one link's flows to `sink`; says how many were taken ([`Sent::Yes`] or
    /// [`Sent::Dropped`]). Each link has a ready queue of its own, so that a full port holds up nobody else.
    pub fn transmit(
        &mut self,
        now: Instant,
        link: LinkId,
        sink: &mut impl FnMut(&Outgoing<'_>) -> Sent,
        budget: usize,
    ) -> usize {
        let Some(outlet) = self.outlets.get_mut(usize::from(link.0)) else { return 0 };
        let mut taken = 0;
        let mut turns = outlet.partings.len();
        while taken < budget && turns > 0 {
            turns -= 1;
            let Some(parting) = outlet.partings.pop_front() else { break };
            match sink(&parting.outgoing()) {
                Sent::Later => outlet.partings.push_back(parting),
                Sent::Yes | Sent::Dropped => {
                    taken += 1;
                    self.shared.statistics.segments_out += 1;
                }
            }
        }
        // Each flow has one turn, and another only after it used all of the former.
        let mut turns = outlet.ready.len();
        let mut warmed = 0;
        while taken < budget && turns > 0 {
            if warmed == 0 {
                self.warm_ready(link);
                warmed = DUE;
            }
            warmed -= 1;
            let Some(slot) = self.outlet(link).and_then(|outlet| outlet.ready.pop_front()) else { break };
            if self.moved(slot, link) {
                turns -= 1;
                continue;
            }
            let (count, turn) = self.serve(now, slot, sink, QUANTUM.min(budget - taken));
            taken += count;
            turns -= usize::from(turn != Turn::Used);
            if turn != Turn::Done {
                self.queue(link, slot);
            }
            // What did leave is timed, even if the port takes the rest much later.
            self.settle(slot);
        }
        taken
    }

    /// Reads what the next flows that have something to send will need.
    fn warm_ready(&self, link: LinkId) {
        let outlet = self.outlets.get(usize::from(link.0)).filter(|_| self.slots.len() >= WARM_FROM);
        let next = outlet.into_iter().flat_map(|outlet| outlet.ready.iter().take(DUE));
        std::hint::black_box(next.fold(0, |sum, &slot| sum ^ self.warm_slot(slot)));
    }

    /// Whether the flow that waited here has made room for one of another link; that one waits there from now on.
    fn moved(&mut self, slot: u32, link: LinkId) -> bool {
        let place = &mut self.slots[slot as usize];
        let moved = place.connection.as_ref().is_some_and(|connection| connection.link != link);
        if moved {
            place.ready = false;
            self.wake(slot);
        }
        moved
    }

    fn outlet(&mut self, link: LinkId) -> Option<&mut Outlet> {
        self.outlets.get_mut(usize::from(link.0))
    }

    /// Puts a slot into the ready queue of a link.
    fn queue(&mut self, link: LinkId, slot: u32) {
        if let Some(outlet) = self.outlets.get_mut(usize::from(link.0)) {
            outlet.ready.push_back(slot);
            self.slots[slot as usize].ready = true;
        }
    }

    /// Lets one flow send up to `quantum` segments.
    fn serve(
        &mut self,
        now: Instant,
        slot: u32,
        sink: &mut impl FnMut(&Outgoing<'_>) -> Sent,
        quantum: usize,
    ) -> (usize, Turn) {
        let place = &mut self.slots[slot as usize];
        place.ready = false;
        let Some(connection) = place.connection.as_mut() else { return (0, Turn::Done) };
        let shared = &mut self.shared;
        let mut count = 0;
        while let Some(plan) = connection.plan(now, shared) {
            if count == quantum {
                return (count, Turn::Used);
            }
            if sink(&connection.outgoing(&plan, now, shared)) == Sent::Later {
                return (count, Turn::Held);
            }
            connection.sent(&plan, now, shared);
            count += 1;
        }
        connection.rest(now);
        (count, Turn::Done)
    }

    /// Bytes of buffer memory that a flow holds, both directions.
    pub fn buffered(&self, id: FlowId) -> usize {
        let place = self.slots.get(id.slot as usize).filter(|place| place.generation == id.generation);
        place.and_then(|place| place.connection.as_ref()).map_or(0, Connection::buffered)
    }

    /// What the flow left behind that the last [`Event::Closed`] spoke of.
    pub(crate) fn gone(&mut self) -> Option<Gone> {
        self.gone.take()
    }

    /// Slots of the flow table that have been used so far.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The flow in a slot, if others began it, and who outside is at its other end or was to be.
    pub(crate) fn accepted(&self, slot: usize) -> Option<(FlowId, Address)> {
        let place = self.slots.get(slot)?;
        let flow = place.connection.as_ref().filter(|flow| flow.accepted)?;
        let outside = if flow.node().is_some() { flow.key.local } else { flow.key.remote };
        Some((FlowId { slot: slot as u32, generation: place.generation }, outside))
    }

    /// The flow in a slot, if a node began it, and which.
    pub(crate) fn begun(&self, slot: usize) -> Option<(FlowId, &FlowKey, LinkId, u16)> {
        let place = self.slots.get(slot)?;
        let flow = place.connection.as_ref()?;
        let id = FlowId { slot: slot as u32, generation: place.generation };
        Some((id, &flow.key, flow.link, flow.node()?))
    }

    /// The flow in a slot, with its address on our side and its link.
    pub(crate) fn local(&self, slot: usize) -> Option<(FlowId, Address, LinkId)> {
        let place = self.slots.get(slot)?;
        let flow = place.connection.as_ref()?;
        Some((FlowId { slot: slot as u32, generation: place.generation }, flow.key.local, flow.link))
    }

    /// Packets of a link's flows to come are at most so large.
    pub(crate) fn set_mtu(&mut self, link: LinkId, mtu: u16) {
        if let Some(settings) = self.shared.config.links.get_mut(usize::from(link.0)) {
            settings.mtu = mtu;
        }
    }

    /// The flows that peers opened and that have proved no more than their addresses, with the buffer memory that each
    /// holds, in bytes.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = (FlowKey, usize)> + '_ {
        let flows = self.slots.iter().filter_map(|place| place.connection.as_ref());
        let strangers = flows.filter(|flow| flow.standing == Standing::Stranger);
        strangers.map(|flow| (flow.key, flow.buffered()))
    }

    /// Whether so little buffer memory is left that new strangers should be refused.
    pub fn buffers_short(&self) -> bool {
        self.shared.pool.above(6)
    }

    /// Whether [`Engine::transmit`] may have something to offer.
    pub fn has_output(&self) -> bool {
        self.outlets.iter().any(|outlet| !outlet.ready.is_empty() || !outlet.partings.is_empty())
    }

    /// When [`Engine::advance`] wants to be called at the latest. May be early, never late.
    pub fn deadline(&self) -> Option<Instant> {
        let acks = self.acks.front().map(|&(at, _)| at);
        [self.wheel.next(), acks, self.time_waits.deadline()].into_iter().flatten().min()
    }

    /// Lets timers expire.
    pub fn advance(&mut self, now: Instant) {
        self.expire(now, |engine| engine.due_ack(now));
        self.expire(now, |engine| engine.wheel.expire(now));
        self.time_waits.advance(now);
    }

    /// Lets the timers of those flows expire that `next` tells, in groups.
    fn expire(&mut self, now: Instant, next: impl Fn(&mut Self) -> Option<u32>) {
        loop {
            let (mut due, mut count) = ([0; DUE], 0);
            while count < DUE
                && let Some(slot) = next(self)
            {
                due[count] = slot;
                count += 1;
            }
            let due = &due[..count];
            std::hint::black_box(due.iter().fold(0, |sum, &slot| sum ^ self.warm_slot(slot)));
            for &slot in due {
                let Some(connection) = self.slots[slot as usize].connection.as_mut() else { continue };
                let outcome = connection.expired(now, &mut self.shared);
                self.apply(now, slot, outcome);
                self.wake(slot);
            }
            if count < DUE {
                break;
            }
        }
    }

    /// The next flow whose delayed ACK is due. Where another one took its place meanwhile, the wheel sees to that.
    fn due_ack(&mut self, now: Instant) -> Option<u32> {
        while let Some(&(at, slot)) = self.acks.front()
            && at <= now
        {
            self.acks.pop_front();
            let Some(connection) = self.slots[slot as usize].connection.as_mut() else { continue };
            connection.ack_queued = false;
            match connection.timers.ack.is_due(now) {
                true => return Some(slot),
                false => self.wheel.arm_by(slot, connection.timers.ack),
            }
        }
        None
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Event> {
        self.feed_starved();
        while let Some(&slot) = self.events.front() {
            let place = &mut self.slots[slot as usize];
            let id = FlowId { slot, generation: place.generation };
            let Some(connection) = place.connection.as_mut() else {
                self.events.pop_front();
                continue;
            };
            let event = connection.pending.take();
            if connection.pending == Pending::default() {
                connection.reported = false;
                self.events.pop_front();
            }
            return Some(match event {
                Pending::ACCEPTED => match connection.opened {
                    Opened::To(listener) => Event::Accepted(id, listener),
                    Opened::By(node) => Event::Departing(id, node),
                },
                Pending::CONNECTED => Event::Connected(id),
                Pending::READABLE => Event::Readable(id),
                Pending::WRITABLE => Event::Writable(id),
                Pending::FINISHED => Event::Finished(id),
                _ => Event::Closed(id, self.vacate(slot)),
            });
        }
        None
    }

    /// Wakes flows that found the pool empty, as far as it has recovered.
    fn feed_starved(&mut self) {
        while !self.starved.is_empty() && self.shared.pool.left(SEND_SHARE) > 0 {
            let Some(slot) = self.starved.pop_front() else { return };
            let place = &mut self.slots[slot as usize];
            place.starved = false;
            if let Some(connection) = place.connection.as_mut() {
                connection.fed(&self.shared);
                self.settle(slot);
                return;
            }
        }
    }

    /// Frees a slot whose end has been reported.
    fn vacate(&mut self, slot: u32) -> Reason {
        let place = &mut self.slots[slot as usize];
        let left = place.connection.take();
        let gone = |flow: Connection| Gone {
            key: flow.key,
            link: flow.link,
            cookie: flow.accepted.then_some(flow.iss),
            node: flow.node(),
        };
        self.gone = left.map(gone);
        place.generation = place.generation.wrapping_add(1);
        self.wheel.arm(slot, Timer::OFF);
        self.free.push(slot);
        self.shared.statistics.flows -= 1;
        place.end.take().unwrap_or(Reason::Aborted)
    }

    /// A flow by its id; `None` if it is gone.
    pub fn flow(&mut self, id: FlowId) -> Option<Flow<'_>> {
        let place = self.slots.get(id.slot as usize)?;
        let ended = place.end.is_some_and(|reason| reason != Reason::Finished);
        if place.generation != id.generation || ended {
            return None;
        }
        place.connection.as_ref()?;
        Flow::new(self, id.slot)
    }

    /// Sets or clears the instant at which a flow is aborted with [`Reason::HandshakeTimeout`].
    pub fn set_deadline(&mut self, id: FlowId, at: Option<Instant>) {
        if let Some(connection) = self.connection(id) {
            connection.timers.deadline = at.map_or(Timer::OFF, Timer::at);
            self.settle(id.slot);
        }
    }

    /// Ends a flow with a reset and `reason`, which its [`Event::Closed`] reports.
    pub fn evict(&mut self, id: FlowId, reason: Reason) {
        if let Some(mut flow) = self.flow(id) {
            flow.abort(reason);
        }
    }

    /// Dropped segments by reason.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Figures for `status`.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            time_waits: self.time_waits.len(),
            blocks: self.shared.pool.capacity(),
            blocks_used: self.shared.pool.used(),
            blocks_peak: self.shared.pool.peak(),
            ..self.shared.statistics
        }
    }

    /// Carries out what an outcome means for the table.
    fn apply(&mut self, now: Instant, slot: u32, outcome: Outcome) {
        match outcome {
            Outcome::Taken | Outcome::Dropped(_) | Outcome::Repelled(_) => {}
            Outcome::TimeWait => {
                self.rest_in_time_wait(now, slot);
                self.end(slot, Reason::Finished);
            }
            Outcome::Closed(reason) => self.end(slot, reason),
            Outcome::Reset(reason) => self.reset(slot, reason),
        }
    }

    fn rest_in_time_wait(&mut self, now: Instant, slot: u32) {
        let place = &self.slots[slot as usize];
        let Some(connection) = &place.connection else { return };
        let entry = Entry {
            key: connection.key,
            hash: self.keyed.hash(&connection.key),
            link: connection.link,
            hop: connection.hop,
            snd_nxt: connection.send.nxt,
            rcv_nxt: connection.rcv_nxt(),
            window: 0,
            stamps: connection.stamps,
            until: now,
        };
        let answer = entry.acknowledgement(now);
        self.time_waits.insert(now, entry);
        if connection.receive.ack_now {
            self.part(answer);
        }
    }

    /// Ends a flow with a reset (RFC 9293, section 3.10.5).
    fn reset(&mut self, slot: u32, reason: Reason) {
        let Some(connection) = &self.slots[slot as usize].connection else { return };
        if !matches!(connection.state, State::SynSent | State::Closed) {
            let parting = Parting {
                key: connection.key,
                link: connection.link,
                hop: connection.hop,
                seq: connection.send.nxt,
                ack: connection.rcv_nxt(),
                flags: Flags::RST.with(Flags::ACK),
                window: 0,
                timestamps: None,
            };
            self.part(parting);
        }
        self.end(slot, reason);
    }

    /// Sends a reset numbered `seq` to the peer of a flow that goes on.
    fn repel(&mut self, slot: u32, seq: Seq) {
        let Some(connection) = &self.slots[slot as usize].connection else { return };
        let (key, link, hop) = (connection.key, connection.link, connection.hop);
        let ack = Seq(0);
        self.part(Parting { key, link, hop, seq, ack, flags: Flags::RST, window: 0, timestamps: None });
    }

    fn part(&mut self, parting: Parting) {
        if let Some(outlet) = self.outlet(parting.link)
            && outlet.partings.len() < PARTINGS
        {
            outlet.partings.push_back(parting);
        }
    }

    /// Takes a flow off the wire. After an end in order the host can still read what it has not read.
    fn end(&mut self, slot: u32, reason: Reason) {
        let place = &mut self.slots[slot as usize];
        let Some(connection) = place.connection.as_mut() else { return };
        connection.state = State::Closed;
        connection.timers.retransmit = Timer::OFF;
        connection.timers.ack = Timer::OFF;
        connection.timers.life = Timer::OFF;
        if place.end.is_none_or(|end| end == Reason::Finished) {
            place.end = Some(reason);
        }
        if reason != Reason::Finished {
            connection.pending = Pending::default();
            connection.release(&mut self.shared);
            connection.timers.deadline = Timer::OFF;
        }
        let key = connection.key;
        if std::mem::take(&mut place.indexed) {
            self.index.remove(self.keyed.hash(&key), slot);
        }
        self.settle(slot);
    }

    /// A flow may have something to send.
    fn wake(&mut self, slot: u32) {
        let place = &self.slots[slot as usize];
        if let Some(connection) = &place.connection
            && !place.ready
            && connection.state != State::Closed
            && connection.may_send()
        {
            let link = connection.link;
            self.queue(link, slot);
        }
        self.settle(slot);
    }

    /// Brings queues and timers in line with a flow's state.
    fn settle(&mut self, slot: u32) {
        let place = &mut self.slots[slot as usize];
        let Some(connection) = place.connection.as_mut() else { return };
        let over = place.end.is_some() && connection.receive.queue.readable() == 0;
        if over {
            connection.pending.add(Pending::CLOSED);
        }
        if connection.pending != Pending::default() && !connection.reported {
            connection.reported = true;
            self.events.push_back(slot);
        }
        self.wheel.arm_by(slot, connection.timers.first());
        let Some(at) = connection.timers.ack.instant().filter(|_| !connection.ack_queued) else { return };
        // The queue has room for all flows, but entries of flows that are gone may still stand in it.
        match self.acks.len() < self.shared.config.flows {
            true => {
                connection.ack_queued = true;
                self.acks.push_back((at, slot));
            }
            false => self.wheel.arm_by(slot, connection.timers.ack),
        }
    }
}

/// How a flow's turn to send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It has nothing more to send now.
    Done,
    /// It used its quantum.
    Used,
    /// The sink asked it to wait.
    Held,
}
