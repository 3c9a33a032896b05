//! The heart of one core, without I/O of its own: a shard, its ports, the sessions and the pools, driven by
//! [`Core::step`].
//!
//! `hedgerow run` steps it over real devices, the lab and the tests over memory. A step polls the ports, tells the
//! sessions what happened, moves bytes between flows and sessions, runs at most one cryptographic step, and sends.

mod conduct;
mod denials;
mod departures;
mod dial;
mod guard;
mod leases;
mod legs;
mod pump;
mod seats;
mod statistics;
mod watch;
mod ways;
mod work;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::{Abilities, BATCH, Batch, Lane, Port, PortError, PortStatistics};
use hedgerow_dataplane::link::dhcp::LeaseNews;
use hedgerow_dataplane::shard::{self, Event, FlowId, ListenerId, Shard};
use hedgerow_dataplane::wire::LinkId;
use hedgerow_policy::{Finding, Leg, PeerId, Session, Standing, verdict};

use crate::commons::Commons;
use crate::pool::{PoolConfig, Ticket};
use crate::pulse::{Phase, Pulse};
use crate::rules::Policy;
use crate::rules::witness::Witness;
use crate::sockets::Sockets;
use crate::workers::Desk;
use conduct::Enforced;
pub(crate) use departures::NO_LISTENER;
pub(crate) use guard::{discard, run as run_guarded};
use seats::{LegState, Seat, Seats};
pub use statistics::{CoreStatistics, PoolStatistics, WorkStatistics};
use watch::Watch;
use work::WorkQueue;

/// Batches that one port may send in one step.
const SEND_ROUNDS: usize = 8;
/// The shard is told the time of day this often.
const UTC_EVERY_MS: u64 = 250;

/// Makes a session for each connection to a listener.
pub trait Sessions {
    /// A session for a connection that has just been accepted; `None` ends the connection.
    fn open(&mut self, now: hedgerow_policy::Instant, arrival: &Arrival) -> Option<Box<dyn Session>>;

    /// A session for a connection that a node has begun; `None` ends the connection.
    fn depart(&mut self, now: hedgerow_policy::Instant, departure: &Departure<'_>) -> Option<Departed> {
        let _ = (now, departure);
        None
    }

    /// A light peer for the nodes of a pool, if they are watched.
    fn watch(&mut self, now: hedgerow_policy::Instant, pool: usize) -> Option<Box<dyn Session>> {
        let _ = (now, pool);
        None
    }

    /// Sessions that begin from now on are judged by this policy.
    fn adopt(&mut self, policy: &Policy) {
        let _ = policy;
    }
}

/// A connection that a node has begun and that is inspected.
#[derive(Debug, Clone, Copy)]
pub struct Departure<'a> {
    /// The node's pool.
    pub pool: usize,
    /// The node's name.
    pub node: &'a str,
    /// The identity that the node has shown, if it has.
    pub id: Option<PeerId>,
    /// The peer outside.
    pub to: SocketAddr,
}

/// The session of such a connection.
pub struct Departed {
    /// The session.
    pub session: Box<dyn Session>,
    /// The identity that stands for the node outside: no peer may come with it.
    pub showing: Option<PeerId>,
}

/// A connection that has just been accepted.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// The listener.
    pub listener: ListenerId,
    /// The peer's end.
    pub peer: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
}

/// What is special about a listener's way to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Errand {
    /// It is a back-end listener: the application comes through it.
    pub backend: bool,
    /// Nodes are dialled at this port instead of their own.
    pub node_port: Option<u16>,
}

/// What a core is told at its start.
#[derive(Clone)]
pub struct CoreConfig {
    /// The dataplane.
    pub shard: shard::Config,
    /// The pool of each listener, by [`ListenerId`].
    pub listener_pools: Vec<usize>,
    /// What is special about each listener's way to a node; those that are missing have nothing.
    pub errands: Vec<Errand>,
    /// The pools.
    pub pools: Vec<PoolConfig>,
    /// Identities of the operator's own nodes, besides those that the pools' nodes show when they are dialled.
    pub own_nodes: Vec<PeerId>,
    /// Cryptographic steps of each kind that may wait.
    pub work_queue: usize,
    /// Session events that may wait to be taken.
    pub events: usize,
}

/// A port stopped working.
#[derive(Debug)]
pub struct PortFault {
    /// Its place in the configuration.
    pub port: usize,
    /// What happened.
    pub error: PortError,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Frames received.
    pub received: usize,
    /// Frames handed to the ports.
    pub sent: usize,
    /// There is more to do at once, whatever arrives.
    pub pending: bool,
}

impl Progress {
    /// Whether nothing happened and nothing waits.
    pub fn is_idle(&self) -> bool {
        self.received == 0 && self.sent == 0 && !self.pending
    }
}

/// A session began or ended, after proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEvent {
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// The session's number in this run.
    pub number: u64,
    /// The listener; of no matter for a session that a node began.
    pub listener: usize,
    /// The node that began it, if one did.
    pub begun_by: Option<Arc<str>>,
    /// The peer's address and port.
    pub peer: SocketAddr,
    /// Its identity, on listeners that know one.
    pub id: Option<PeerId>,
    /// What happened.
    pub what: Happened,
}

/// What happened to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// It was connected to a node.
    Dialled {
        /// The node's name.
        node: Arc<str>,
    },
    /// Nothing was refused, but an operator should know.
    Alarm {
        /// What.
        what: String,
    },
    /// It is over.
    Closed {
        /// Why.
        reason: verdict::Reason,
        /// What exactly for, where there is more to say.
        finding: Option<Box<Finding>>,
        /// The peer's software in its own words, fit to be shown.
        software: Option<Box<str>>,
        /// Why the dataplane ended the public leg, where it did.
        flow: Option<hedgerow_dataplane::Reason>,
        /// How long it was there.
        lasted: Duration,
        /// Bytes from the peer.
        from_peer: u64,
        /// Bytes from the node.
        from_node: u64,
    },
}

/// One core.
pub struct Core<P> {
    shard: Shard,
    /// Connections of the kernel, where a port is served by ordinary sockets.
    sockets: Option<Sockets>,
    ports: Vec<Attached<P>>,
    sessions: Box<dyn Sessions>,
    seats: Seats,
    ready: VecDeque<Ticket>,
    commons: Arc<Commons>,
    /// This core's number.
    number: u16,
    pools: Vec<PoolConfig>,
    /// Sessions that wait in a pool's queue.
    queued: usize,
    /// Pool and link of each listener.
    listeners: Vec<(usize, LinkId)>,
    errands: Vec<Errand>,
    watch: Watch,
    work: WorkQueue,
    /// Threads that run the steps of work; `None`: this one does.
    desk: Option<Desk>,
    pulse: Arc<Pulse>,
    /// Who is refused, and the policy; `None`: nobody, and that of nodes.
    bans: Option<Enforced>,
    /// Who may go out; `None`: nobody.
    ways: Option<ways::Ways>,
    /// Sessions that are still to be judged by the policy in force.
    adopting: Vec<Ticket>,
    /// Who remembers what was decided and not carried out.
    witness: Option<Arc<Witness>>,
    /// It takes no new connections.
    stopping: bool,
    ended: verdict::Counters,
    crashed: u64,
    held_back: u64,
    events: VecDeque<SessionEvent>,
    events_room: usize,
    events_lost: u64,
    unix_ms: u64,
    told_utc: Option<u64>,
    /// News of addresses by DHCP, and how often those of all cores had changed.
    leases: VecDeque<(usize, LeaseNews)>,
    leased: u64,
}

/// A port with its batches.
struct Attached<P> {
    port: P,
    rx: Batch,
    tx: Batch,
}

impl<P: Port> Core<P> {
    /// A core over `ports`, which stand in the order of the shard's links. What it shares with other cores is in `commons`.
    pub fn new(
        config: &CoreConfig,
        commons: Arc<Commons>,
        ports: Vec<P>,
        sessions: Box<dyn Sessions>,
        now: Instant,
    ) -> Self {
        let number = config.shard.index.index;
        let attach = |port| Attached { port, rx: Batch::new(), tx: Batch::new() };
        Core {
            shard: Shard::new(&config.shard, now),
            sockets: None,
            ports: ports.into_iter().map(attach).collect(),
            sessions,
            seats: Seats::new(config.shard.engine.flows, (number, commons.cores())),
            ready: VecDeque::new(),
            commons,
            number,
            pools: config.pools.clone(),
            queued: 0,
            listeners: config
                .listener_pools
                .iter()
                .zip(&config.shard.listeners)
                .map(|(&p, l)| (p, l.link))
                .collect(),
            errands: config.errands.clone(),
            watch: Watch::default(),
            work: WorkQueue::new(config.work_queue),
            desk: None,
            bans: None,
            ways: None,
            adopting: Vec::new(),
            witness: None,
            pulse: Arc::default(),
            stopping: false,
            ended: verdict::Counters::default(),
            crashed: 0,
            held_back: 0,
            events: VecDeque::new(),
            events_room: config.events,
            events_lost: 0,
            unix_ms: 0,
            told_utc: None,
            leases: VecDeque::new(),
            leased: 0,
        }
    }

    /// Says where the core is in its round, for the watchdog.
    pub fn show(&mut self, pulse: Arc<Pulse>) {
        self.pulse = pulse;
    }

    /// Leaves cryptographic steps to worker threads.
    pub fn employ(&mut self, desk: Desk) {
        self.desk = Some(desk);
    }

    /// Has the ports receive what neighbour discovery needs. To be called once, before the first step.
    pub fn join_groups(&mut self) -> Result<(), PortFault> {
        for (index, attached) in self.ports.iter_mut().enumerate() {
            let link = self.shard.link(LinkId(index as u8));
            for group in link.map(|link| link.multicast_groups()).unwrap_or_default() {
                attached.port.join(group).map_err(|error| PortFault { port: index, error })?;
            }
        }
        Ok(())
    }

    /// One turn of the loop: receives, decides, sends. `unix_ms` is the time of day in milliseconds since the epoch.
    pub fn step(&mut self, now: Instant, unix_ms: u64) -> Result<Progress, PortFault> {
        self.tell_utc(now, unix_ms);
        self.take_in_force();
        self.take_ways();
        self.follow_leases(now);
        self.go_on_adopting();
        self.tell_denials(now);
        self.pulse.enter(Phase::Receiving);
        let known = self.receive(now, Lane::Known)? + self.receive_handed(now)?;
        let received = known + self.receive(now, Lane::Stranger)? + self.poll_sockets(now);
        self.pulse.enter(Phase::Timers);
        if self.shard.deadline().is_some_and(|at| at <= now) {
            self.shard.advance(now);
        }
        self.read_letters(now);
        self.timers(now);
        self.look_after_nodes(now);
        self.poll_pools(now);
        self.pulse.enter(Phase::Sessions);
        self.take_events(now);
        self.pump_ready(now);
        self.pulse.enter(Phase::Crypto);
        let worked = self.work(now);
        self.take_events(now);
        self.pulse.enter(Phase::Sending);
        let sent = self.send(now)?;
        let waiting = !self.ready.is_empty() || !self.adopting.is_empty() || self.sockets_pending();
        let pending = worked || waiting || self.has_mail();
        Ok(Progress { received, sent, pending })
    }

    /// When [`Core::step`] wants to be called at the latest, though no frame arrives.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let pools = match self.queued {
            0 => None,
            _ => self.commons.with(|books| books.pools.iter().filter_map(|pool| pool.deadline(now)).min()),
        };
        pools
            .into_iter()
            .chain(self.watch.deadline())
            .chain(self.shard.deadline())
            .chain(self.sockets.as_ref().and_then(Sockets::deadline))
            .chain(self.seats.deadline())
            .min()
    }

    /// Ends all sessions, those of strangers with a reset, the others with a farewell, and takes no new ones. Steps that
    /// follow send what is left; see [`Core::is_empty`] and [`Core::cut_off`].
    pub fn shut_down(&mut self, now: Instant) {
        self.stopping = true;
        for ticket in self.tickets() {
            match self.seats.get(ticket) {
                Some(seat) if seat.standing != Standing::Stranger => {
                    seat.session.close(to_policy(now), verdict::Reason::Aborted);
                    self.mark(ticket);
                }
                _ => self.end(now, ticket, verdict::Reason::Aborted),
            }
        }
    }

    /// Ends what [`Core::shut_down`] has left, with a reset; one more step sends it.
    pub fn cut_off(&mut self, now: Instant) {
        for ticket in self.tickets() {
            self.end(now, ticket, verdict::Reason::Aborted);
        }
    }

    fn tickets(&self) -> Vec<Ticket> {
        self.seats.iter().map(|seat| seat.ticket).collect()
    }

    /// Whether no flow is left.
    pub fn is_empty(&self) -> bool {
        let sockets = self.sockets.as_ref().map_or(0, Sockets::flows);
        self.seats.live == 0 && self.shard.statistics().flows + sockets == 0
    }

    /// The next session event.
    pub fn event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// What each port can do and has counted.
    pub fn ports(&self) -> impl Iterator<Item = (&Abilities, PortStatistics)> {
        self.ports.iter().map(|attached| (attached.port.abilities(), attached.port.statistics()))
    }

    /// Descriptors that become readable when frames wait; `None` where a port has none, or holds frames that only another
    /// step will bring out.
    pub fn park(&mut self) -> Option<Vec<BorrowedFd<'_>>> {
        let sockets = self.sockets.iter().map(|sockets| Some(sockets.fd()));
        self.ports.iter_mut().map(|attached| attached.port.park()).chain(sockets).collect()
    }

    /// Whether other threads have left something that a step would take: frames, letters, finished work.
    pub fn has_mail(&self) -> bool {
        let done = self.desk.as_ref().is_some_and(Desk::has_done);
        let leased = self.commons.leased() != self.leased;
        done || leased || self.shard.has_handed() || self.commons.has_mail(self.number)
    }

    /// The dataplane.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    fn tell_utc(&mut self, now: Instant, unix_ms: u64) {
        self.unix_ms = unix_ms;
        if self.told_utc.is_none_or(|told| unix_ms.abs_diff(told) >= UTC_EVERY_MS) {
            self.told_utc = Some(unix_ms);
            self.shard.set_utc(now, unix_ms);
            self.plan_answers(now);
        }
    }

    /// Takes one batch of a lane from each port.
    fn receive(&mut self, now: Instant, lane: Lane) -> Result<usize, PortFault> {
        let mut received = 0;
        for (index, Attached { port, rx, tx }) in self.ports.iter_mut().enumerate() {
            let fault = |error| PortFault { port: index, error };
            let count = port.receive(lane, rx).map_err(fault)?;
            if count == 0 {
                continue;
            }
            received += count;
            self.shard.ingest(now, LinkId(index as u8), port, rx, tx);
            port.transmit(tx).map_err(fault)?;
        }
        Ok(received)
    }

    /// Takes a batch of what other cores handed over for each port.
    fn receive_handed(&mut self, now: Instant) -> Result<usize, PortFault> {
        let mut received = 0;
        if !self.shard.has_handed() {
            return Ok(0);
        }
        for (index, Attached { port, rx, tx }) in self.ports.iter_mut().enumerate() {
            received += self.shard.ingest_handed(now, LinkId(index as u8), port, rx, tx);
            port.transmit(tx).map_err(|error| PortFault { port: index, error })?;
        }
        Ok(received)
    }

    /// Tells the ports how SYNs are answered, for those that can do it before a frame costs us anything.
    fn plan_answers(&mut self, now: Instant) {
        let mut shared = false;
        for (index, Attached { port, .. }) in self.ports.iter_mut().enumerate() {
            let plan = self.shard.syn_plan(now, LinkId(index as u8));
            shared |= plan.is_some_and(|plan| port.answer(&plan));
        }
        self.shard.share_replies(shared);
    }

    /// Tells the ports which flows are there, for their lanes.
    fn tell_ports(&mut self) {
        while let Some(hint) = self.shard.hint() {
            if let Some(Attached { port, .. }) = self.ports.get_mut(usize::from(hint.link.0)) {
                port.known(&hint.key, hint.on);
            }
        }
    }

    /// Sends what the engine and the links have to say.
    fn send(&mut self, now: Instant) -> Result<usize, PortFault> {
        self.tell_ports();
        if let Some(sockets) = &mut self.sockets {
            sockets.flush();
        }
        let mut sent = 0;
        for (index, Attached { port, tx, .. }) in self.ports.iter_mut().enumerate() {
            let fault = |error| PortFault { port: index, error };
            for _ in 0..SEND_ROUNDS {
                let budget = tx.space();
                self.shard.transmit(now, LinkId(index as u8), port, tx, budget);
                let count = port.transmit(tx).map_err(fault)?;
                sent += count;
                if count < BATCH || !tx.is_empty() {
                    break;
                }
            }
            port.flush().map_err(fault)?;
        }
        Ok(sent)
    }

    /// Hands the shard's events to the sessions that they concern.
    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.happened(now) {
            match event {
                Event::Accepted(flow, listener) => self.accepted(now, flow, listener),
                Event::Departing(flow, node) => self.departing(now, flow, node),
                Event::Connected(flow) => self.connected(now, flow),
                Event::Closed(flow, reason) => self.closed(now, flow, reason),
                Event::Readable(flow) | Event::Writable(flow) | Event::Finished(flow) => {
                    if let Some((ticket, _)) = self.seats.owner(flow) {
                        self.mark(ticket);
                    }
                }
            }
            self.tell_ports();
        }
    }

    fn accepted(&mut self, now: Instant, flow: FlowId, listener: ListenerId) {
        let Some(key) = self.flow(flow).and_then(|flow| flow.key()) else { return };
        let index = usize::from(listener.0);
        let Some(&(pool, link)) =
            self.listeners.get(index).filter(|_| !self.stopping && !self.watch.turns_away)
        else {
            return self.abort_flow(flow);
        };
        let arrival = Arrival { listener, peer: key.remote(), local: key.local() };
        let Some(session) = self.sessions.open(to_policy(now), &arrival) else {
            return self.abort_flow(flow);
        };
        let (ticket, number) = self.seats.open();
        let mut legs = [LegState::default(), LegState::default()];
        legs[Leg::Public as usize].flow = Some((flow, key, link));
        let mut seat = Seat::new(ticket, number, session, key.remote(), now, legs);
        (seat.listener, seat.pool) = (index, pool);
        self.seats.put(Box::new(seat));
        self.attach(flow, ticket, Leg::Public);
        self.mark(ticket);
    }

    /// Puts a session into the queue of those to be called.
    fn mark(&mut self, ticket: Ticket) {
        if let Some(seat) = self.seats.get(ticket)
            && !seat.ready
        {
            seat.ready = true;
            self.ready.push_back(ticket);
        }
    }

    fn abort_flow(&mut self, flow: FlowId) {
        if let Some(mut flow) = self.flow(flow) {
            flow.abort();
        }
    }

    fn record(&mut self, seat: &Seat, what: Happened) {
        // Nothing is written about an address that has proved no more than a cookie.
        if seat.standing == Standing::Stranger || seat.post.is_some() {
            return;
        }
        if self.events.len() >= self.events_room {
            self.events_lost += 1;
            if self.events.pop_front().is_none() {
                return;
            }
        }
        self.events.push_back(SessionEvent {
            unix_ms: self.unix_ms,
            number: seat.number,
            listener: seat.listener,
            begun_by: seat.voyage.as_ref().map(|voyage| voyage.name.clone()),
            peer: seat.peer,
            id: seat.peer_id,
            what,
        });
    }
}

/// The dataplane's clock in the policy's form.
fn to_policy(now: Instant) -> hedgerow_policy::Instant {
    Duration::from_micros(now.micros())
}

/// The policy's clock in the dataplane's form, never early.
fn from_policy(at: hedgerow_policy::Instant) -> Instant {
    Instant::from_micros(u64::try_from(at.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX))
}
