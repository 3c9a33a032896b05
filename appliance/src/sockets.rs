//! Ordinary sockets as a source of flows: what the shard is for frames of a port, [`Sockets`] is for connections of the
//! kernel. The core asks both the same questions and gets the same events, so that sessions, pools, quotas and bans are one.
//!
//! It needs no privileges and no device of its own, and works wherever the kernel has TCP. What it gives up is everything
//! before a connection stands: floods of SYNs and other frames, forged segments and the kernel's own buffers are the
//! kernel's to bear ([`CAVEAT`]). Everything that is ours stays bounded: connections, buffers, accepted ones per round.

mod blocks;
mod flow;
mod open;
mod place;
mod socket;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::admit::{Admission, Quotas};
use hedgerow_dataplane::screen::DenyList;
use hedgerow_dataplane::shard::{Event, FlowId, ListenerId, Standing, Statistics, Target};
use hedgerow_dataplane::wire::{Address, FlowKey, LinkId, PrefixSet};
use hedgerow_dataplane::{Instant, Reason};
use rustix::event::{Timespec, epoll};

use blocks::Blocks;
pub use flow::SocketFlow;
pub use open::{BindError, Setup, Wanted};
pub use place::Place;
use socket::{Phase, Socket};

/// What sockets do not defend against, for `check`, `status` and `run`.
pub const CAVEAT: &str = "ordinary sockets: floods below TLS, forged segments and TCP's own handshakes are the kernel's to \
                          bear, not Hedgerow's";

/// Connections that one listener accepts in a round.
const ACCEPTS: usize = 32;
/// Events that are taken from the kernel in a round.
const EVENTS: usize = 256;
/// A listener that cannot accept (no descriptors, no memory) rests this long.
const REST: Duration = Duration::from_millis(100);
/// How long a connection whose session is over may take to send its last bytes and to hear the other side's FIN.
const LINGER: Duration = Duration::from_secs(12);
/// What marks an epoll entry as a listener's.
const LISTENER: u64 = 1 << 63;

/// A listening socket.
struct Ear {
    socket: TcpListener,
    listener: ListenerId,
    resting: bool,
}

/// A place in the table.
#[derive(Default)]
struct Slot {
    generation: u32,
    socket: Option<Box<Socket>>,
}

/// The sockets of one core.
pub struct Sockets {
    epoll: OwnedFd,
    ears: Vec<Ear>,
    /// Listeners rest until then.
    rest: Option<Instant>,
    /// Our addresses on each link that sockets serve, from which nodes are dialled; none for other links.
    sources: Vec<Option<Vec<IpAddr>>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Places in the core's table that are not ours come before ours.
    base: u32,
    /// This core's number, for the hits of denied prefixes.
    shard: u16,
    /// The time of the last round.
    now: Instant,
    admission: Admission,
    deny: Arc<DenyList>,
    /// Connections of whose sources are to end.
    ends: Option<Arc<DenyList>>,
    blocks: Blocks,
    /// Those that have bytes to send.
    dirty: Vec<u32>,
    /// Those that found no block free.
    starved: VecDeque<u32>,
    events: VecDeque<Event>,
    /// Connections whose session is over, and when they are looked for next.
    orphans: usize,
    sweep: Option<Instant>,
    statistics: Statistics,
}

impl Sockets {
    /// Says how many places of the core's table come before ours.
    pub fn set_base(&mut self, base: u32) {
        self.base = base;
    }

    /// Most connections at one time.
    pub fn room(&self) -> usize {
        self.slots.len()
    }

    /// Whether a link's connections are the kernel's.
    pub fn serves(&self, link: LinkId) -> bool {
        self.sources.get(usize::from(link.0)).is_some_and(Option::is_some)
    }

    /// Whether a flow is one of ours.
    pub fn has(&self, id: FlowId) -> bool {
        id.slot >= self.base
    }

    /// Becomes readable when there is something to [`Sockets::poll`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The addresses that listeners are bound to, as the kernel has them.
    pub fn bound(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.ears.iter().filter_map(|ear| ear.socket.local_addr().ok())
    }

    /// Takes in what the kernel has to say; how much that was. Never blocks.
    pub fn poll(&mut self, now: Instant) -> usize {
        self.now = now;
        self.timers(now);
        let mut space = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Interrupted or not: what is there is reported again by the next round.
        let heard = match epoll::wait(&self.epoll, &mut space, Some(&zero)) {
            Ok((heard, _)) => heard,
            Err(_) => &mut [],
        };
        for event in &*heard {
            let (flags, data) = (event.flags, event.data.u64());
            if data & LISTENER != 0 {
                self.accept(now, (data & !LISTENER) as usize);
            } else {
                let id = FlowId { slot: data as u32, generation: (data >> 32) as u32 };
                self.roused(id, flags);
            }
        }
        let count = heard.len();
        while self.blocks.has_room()
            && let Some(slot) = self.starved.pop_front()
        {
            if let Some(socket) = self.slots[slot as usize].socket.as_mut() {
                socket.starved = false;
            }
            self.tell(slot, Event::Readable);
        }
        count
    }

    /// The next thing that happened.
    pub fn event(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        if let Event::Closed(id, _) = event {
            self.free.push(id.slot);
        }
        let ours = |id: FlowId| FlowId { slot: id.slot + self.base, ..id };
        Some(match event {
            Event::Accepted(id, listener) => Event::Accepted(ours(id), listener),
            Event::Departing(id, node) => Event::Departing(ours(id), node),
            Event::Connected(id) => Event::Connected(ours(id)),
            Event::Readable(id) => Event::Readable(ours(id)),
            Event::Writable(id) => Event::Writable(ours(id)),
            Event::Finished(id) => Event::Finished(ours(id)),
            Event::Closed(id, reason) => Event::Closed(ours(id), reason),
        })
    }

    /// Whether something happened that nobody has taken yet.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// A connection, to read, write or end it.
    pub fn flow(&mut self, id: FlowId) -> Option<SocketFlow<'_>> {
        let slot = id.slot.checked_sub(self.base)?;
        let place = self.slots.get(slot as usize)?;
        (place.generation == id.generation && place.socket.is_some()).then(|| SocketFlow::new(self, slot))
    }

    /// Opens a connection. [`Event::Connected`] or [`Event::Closed`] tells how it went.
    ///
    /// # Errors
    /// [`Reason::TableFull`] where there is no room, [`Reason::BufferQuota`] where memory is short,
    /// [`Reason::Unreachable`] where the kernel refuses at once.
    pub fn connect(&mut self, now: Instant, to: Target) -> Result<FlowId, Reason> {
        if self.blocks.is_short() {
            return Err(Reason::BufferQuota);
        }
        if let Some(victim) = self.admission.admit_own()? {
            self.lose(victim.slot, Reason::Evicted);
        }
        let remote = SocketAddr::new(to.address.into(), to.port);
        let source = self.source_for(to);
        let stream = open::connect(remote, source).map_err(|error| self.failed(reason(&error)))?;
        let local = stream.local_addr().map_err(|_| Reason::Unreachable)?;
        let id =
            self.enter(stream, FlowKey::new(local, remote), Phase::Connecting).ok_or(Reason::TableFull)?;
        self.admission.opened(now, id, to.address, None, Standing::Reserved);
        Ok(FlowId { slot: id.slot + self.base, ..id })
    }

    /// See [`hedgerow_dataplane::shard::Shard::standing`].
    pub fn standing(&mut self, now: Instant, id: FlowId, standing: Standing) {
        let Some(id) = self.inner(id) else { return };
        let Some(socket) = self.slots[id.slot as usize].socket.as_mut().filter(|s| s.standing < standing)
        else {
            return;
        };
        let friend = standing == Standing::Proven && self.admission.is_friend(socket.key.remote);
        let standing = if friend { Standing::Reserved } else { standing };
        socket.standing = standing;
        if let Some(victim) = self.admission.standing(now, id, standing) {
            self.lose(victim.slot, Reason::Outranked);
        }
    }

    /// Gives a connection's peer points for what it is useful for.
    pub fn credit(&mut self, now: Instant, id: FlowId, points: u32) {
        if let Some(id) = self.inner(id) {
            self.admission.credit(now, id, points);
        }
    }

    /// A peer has exchanged so many bytes with us: until when its connection has to rest, if it has to.
    pub fn moved(&self, now: Instant, id: FlowId, bytes: usize) -> Option<Instant> {
        self.admission.moved(now, self.inner(id)?, bytes)
    }

    /// Notes that a peer has earned a record.
    pub fn commend(&mut self, id: FlowId) {
        if let Some(id) = self.inner(id) {
            self.admission.remember(id);
        }
    }

    /// Refuses those on the list from now on; the next [`Sockets::poll`] ends connections of those in `ends`.
    pub fn set_deny(&mut self, list: Arc<DenyList>, ends: Option<Arc<DenyList>>) {
        self.deny = list;
        self.ends = ends.filter(|ends| !ends.is_empty());
    }

    /// Admits newcomers by other quotas from now on.
    pub fn set_quotas(&mut self, quotas: &Quotas) {
        self.admission.set_quotas(quotas);
    }

    /// Says from where friends come from now on.
    pub fn set_friends(&mut self, friends: Arc<PrefixSet>) {
        self.admission.set_friends(friends);
    }

    /// When [`Sockets::poll`] wants to be called at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        [self.admission.deadline(), self.rest, self.sweep].into_iter().flatten().min()
    }

    /// Gives the kernel what was written since the last call.
    pub fn flush(&mut self) {
        for slot in std::mem::take(&mut self.dirty) {
            let Some(socket) = self.slots[slot as usize].socket.as_mut() else { continue };
            socket.dirty = false;
            match socket.flush(&mut self.blocks) {
                Ok(true) => self.tell(slot, Event::Writable),
                Ok(false) => {}
                Err(error) => self.lose(slot, reason(&error)),
            }
        }
    }

    /// What was counted, in the shard's terms; frames are the kernel's affair.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = self.statistics.clone();
        statistics.flows = self.slots.len() - self.free.len();
        statistics.strangers = self.admission.strangers() as usize;
        (statistics.settled, statistics.long_lived, statistics.useful) = self.admission.settled();
        (statistics.buffer_bytes, statistics.buffer_bytes_peak) = self.blocks.bytes();
        statistics
    }

    /// Connections now.
    pub fn flows(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A flow's id without the places of others.
    fn inner(&self, id: FlowId) -> Option<FlowId> {
        let slot = id.slot.checked_sub(self.base)?;
        let place = self.slots.get(slot as usize).filter(|place| place.socket.is_some())?;
        (place.generation == id.generation).then_some(FlowId { slot, ..id })
    }

    fn failed(&mut self, reason: Reason) -> Reason {
        self.statistics.reasons.count(reason);
        reason
    }

    /// From where a node is dialled; `None`: as the kernel has it.
    fn source_for(&self, to: Target) -> Option<IpAddr> {
        let to_ip: IpAddr = to.address.into();
        let own = self.sources.get(usize::from(to.link.0))?.as_ref()?;
        own.iter().copied().find(|own| own.is_ipv4() == to_ip.is_ipv4() && !own.is_unspecified())
    }

    /// Takes some of those who wait at a listener.
    fn accept(&mut self, now: Instant, index: usize) {
        for _ in 0..ACCEPTS {
            let Some(ear) = self.ears.get_mut(index) else { return };
            match ear.socket.accept() {
                Ok((stream, peer)) => {
                    let listener = ear.listener;
                    match self.admit(now, peer, listener) {
                        Ok(()) => self.accepted(now, stream, peer, listener),
                        Err(reason) => {
                            self.statistics.reasons.count(reason);
                            // It goes as it is dropped, without a place in TIME-WAIT.
                            open::forget(&stream);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Who hung up before we came (accept(2)) is no reason to rest.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return self.rest(now, index),
            }
        }
    }

    fn rest(&mut self, now: Instant, index: usize) {
        let Some(ear) = self.ears.get_mut(index) else { return };
        ear.resting = epoll::modify(
            &self.epoll,
            &ear.socket,
            epoll::EventData::new_u64(LISTENER | index as u64),
            epoll::EventFlags::empty(),
        )
        .is_ok();
        self.rest.get_or_insert(now + REST);
        self.statistics.reasons.count(Reason::TableFull);
    }

    /// Whether somebody may come in; who has to go for it is gone.
    fn admit(&mut self, now: Instant, peer: SocketAddr, listener: ListenerId) -> Result<(), Reason> {
        let source = Address::from(peer.ip());
        if !self.admission.is_friend(source) && self.deny.refuses(source, self.shard) {
            return Err(Reason::Banned);
        }
        if let Some(victim) = self.admission.admit(now, source, listener, self.blocks.is_short())? {
            self.lose(victim.slot, Reason::Evicted);
        }
        if self.free.is_empty() { Err(Reason::TableFull) } else { Ok(()) }
    }

    fn accepted(&mut self, now: Instant, stream: TcpStream, peer: SocketAddr, listener: ListenerId) {
        let local = open::ready(&stream).and_then(|()| stream.local_addr());
        let entered = match local {
            Ok(local) => self.enter(stream, FlowKey::new(local, peer), Phase::Open),
            Err(_) => None,
        };
        let Some(id) = entered else { return self.statistics.reasons.count(Reason::TableFull) };
        if let Some(socket) = self.slots[id.slot as usize].socket.as_mut() {
            socket.accepted = true;
        }
        self.admission.opened(now, id, peer.ip().into(), Some(listener), Standing::Stranger);
        self.statistics.accepted += 1;
        self.events.push_back(Event::Accepted(id, listener));
    }

    /// Gives a connection a place; `None` where there is none, or the kernel does not watch it.
    fn enter(&mut self, stream: TcpStream, key: FlowKey, phase: Phase) -> Option<FlowId> {
        let slot = *self.free.last()?;
        let id = FlowId { slot, generation: self.slots[slot as usize].generation };
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(u64::from(id.generation) << 32 | u64::from(slot));
        epoll::add(&self.epoll, &stream, data, flags).ok()?;
        self.free.pop();
        self.slots[slot as usize].socket = Some(Box::new(Socket::new(stream, key, phase)));
        self.statistics.flows_peak = self.statistics.flows_peak.max(self.flows());
        Some(id)
    }

    /// The kernel says that something changed about a connection.
    fn roused(&mut self, id: FlowId, flags: epoll::EventFlags) {
        let Some(place) = self.slots.get_mut(id.slot as usize) else { return };
        let Some(socket) = place.socket.as_mut().filter(|_| place.generation == id.generation) else {
            return;
        };
        let connecting = socket.phase == Phase::Connecting;
        if flags.contains(epoll::EventFlags::ERR) || connecting && flags.contains(epoll::EventFlags::HUP) {
            let why = socket.stream.take_error().ok().flatten();
            return self.lose(id.slot, why.map_or(Reason::Reset, |error| reason(&error)));
        }
        let input = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::HUP;
        socket.readable |= flags.intersects(input);
        socket.writable |= flags.contains(epoll::EventFlags::OUT);
        if connecting {
            if socket.writable {
                socket.phase = Phase::Open;
                self.statistics.connected += 1;
                self.events.push_back(Event::Connected(id));
            }
            return;
        }
        if socket.has_output() {
            self.soil(id.slot);
        }
        if matches!(self.slots[id.slot as usize].socket.as_deref(), Some(socket) if socket.is_orphan()) {
            self.drain(id.slot);
        } else if flags.intersects(input) {
            self.tell(id.slot, Event::Readable);
        }
    }

    /// Tells the host of a connection, if it still has it.
    fn tell(&mut self, slot: u32, event: impl FnOnce(FlowId) -> Event) {
        let place = &self.slots[slot as usize];
        if place.socket.as_deref().is_some_and(|socket| !socket.is_orphan()) {
            self.events.push_back(event(FlowId { slot, generation: place.generation }));
        }
    }

    /// Notes that a connection has something to send.
    fn soil(&mut self, slot: u32) {
        if let Some(socket) = self.slots[slot as usize].socket.as_mut()
            && !std::mem::replace(&mut socket.dirty, true)
        {
            self.dirty.push(slot);
        }
    }

    /// Notes that a connection found no block free.
    fn starve(&mut self, slot: u32) {
        if let Some(socket) = self.slots[slot as usize].socket.as_mut()
            && !std::mem::replace(&mut socket.starved, true)
        {
            self.starved.push_back(slot);
        }
    }

    /// Reads and forgets what still comes to a connection whose session is over, until it has heard and said everything.
    fn drain(&mut self, slot: u32) {
        let Some(socket) = self.slots[slot as usize].socket.as_mut() else { return };
        match socket.discard() {
            Ok(true) if !socket.has_output() => self.remove(slot, Reason::Finished),
            Ok(_) => {}
            Err(error) => self.remove(slot, reason(&error)),
        }
    }

    /// Strangers who took too long, connections that do not end, listeners that have rested.
    fn timers(&mut self, now: Instant) {
        while let Some(late) = self.admission.expired(now) {
            self.lose(late.slot, Reason::HandshakeTimeout);
        }
        if let Some(ends) = self.ends.take() {
            self.end_denied(&ends);
        }
        if self.rest.is_some_and(|at| at <= now) {
            self.rest = None;
            for (index, ear) in self.ears.iter_mut().enumerate().filter(|(_, ear)| ear.resting) {
                let data = epoll::EventData::new_u64(LISTENER | index as u64);
                ear.resting = epoll::modify(&self.epoll, &ear.socket, data, epoll::EventFlags::IN).is_err();
            }
        }
        if self.sweep.is_some_and(|at| at <= now) {
            for slot in self.those(|socket| socket.is_late(now)) {
                self.remove(slot, Reason::Finished);
            }
            self.sweep = (self.orphans > 0).then(|| now + Duration::from_secs(1));
        }
    }

    fn end_denied(&mut self, ends: &DenyList) {
        let denied = |socket: &Socket| {
            let source = socket.key.remote;
            socket.accepted && ends.covers(source) && !self.admission.is_friend(source)
        };
        for slot in self.those(denied) {
            self.lose(slot, Reason::Banned);
        }
    }

    /// The slots of connections like that.
    fn those(&self, like: impl Fn(&Socket) -> bool) -> Vec<u32> {
        let found = self.slots.iter().map(|place| place.socket.as_deref().is_some_and(&like));
        (0u32..).zip(found).filter(|(_, found)| *found).map(|(slot, _)| slot).collect()
    }

    /// The session of a connection is over; what it has written is still sent.
    fn orphan(&mut self, now: Instant, slot: u32) {
        let Some(socket) = self.slots[slot as usize].socket.as_mut() else { return };
        if !socket.is_orphan() {
            socket.phase = Phase::Orphan(now + LINGER);
            socket.finishing = true;
            socket.give_back_inbox(&mut self.blocks);
            self.orphans += 1;
            self.sweep.get_or_insert(now + Duration::from_secs(1));
        }
        self.soil(slot);
        self.drain(slot);
    }

    /// Ends a connection with a reset, and tells why.
    fn lose(&mut self, slot: u32, reason: Reason) {
        let generation = self.slots[slot as usize].generation;
        let Some(socket) = self.slots[slot as usize].socket.as_deref() else { return };
        open::forget(&socket.stream);
        // Its place is free once its end was told: nobody else's flow may have it before.
        match socket.is_orphan() {
            true => self.remove(slot, reason),
            false => {
                self.take_out(slot, reason);
                self.events.push_back(Event::Closed(FlowId { slot, generation }, reason));
            }
        }
    }

    /// Frees the place of a connection that no host has. The kernel closes it.
    fn remove(&mut self, slot: u32, reason: Reason) {
        if self.take_out(slot, reason) {
            self.free.push(slot);
        }
    }

    fn take_out(&mut self, slot: u32, reason: Reason) -> bool {
        let place = &mut self.slots[slot as usize];
        let Some(mut socket) = place.socket.take() else { return false };
        let id = FlowId { slot, generation: place.generation };
        // The highest bit marks listeners.
        place.generation = place.generation.wrapping_add(1) & (u32::MAX >> 1);
        socket.give_back(&mut self.blocks);
        self.orphans -= usize::from(socket.is_orphan());
        self.admission.closed(self.now, id);
        self.statistics.reasons.count(reason);
        true
    }
}

/// Why a connection ended, from what the kernel says.
fn reason(error: &io::Error) -> Reason {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Reason::Refused,
        io::ErrorKind::TimedOut => Reason::TimedOut,
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::PermissionDenied => Reason::Unreachable,
        _ => Reason::Reset,
    }
}
