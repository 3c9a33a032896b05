//! The session of a `chia` listener: TLS and WebSocket with the peer, its handshake checked, then a node dialled, TLS and
//! WebSocket with the node, and messages both ways. Or the session of a node's own connection outward, which begins at the
//! other end (`departure`) and is the same once both sides have introduced themselves.
//!
//! No node is dialled before the peer finished TLS with a certificate under the Chia CA, a valid upgrade and a handshake
//! for the right network from a kind of peer that is served; none that dials is answered before the peer has proved its
//! identity. After that a message completes at the node only once all of
//! it passed: it is held whole, or, where the node asked for it, streams in fragments whose last one is withheld.
//!
//! [`Gate`] moves bytes between both TLS channels and the exchange above them (`exchange`), which knows the steps;
//! `carry` and `outward` know how messages pass, `half` how a leg is seen to live, `farewell` what is said at the end.

mod carry;
mod config;
mod departure;
mod detour;
mod exchange;
mod explain;
mod farewell;
mod half;
pub mod light;
mod outward;
mod privacy;

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

pub use carry::Tally;
pub use config::{Budget, Budgets, Config, Deadlines, Limits, Share};
pub use departure::Departure;
pub use privacy::Privacy;

use crate::chia::{Inspector, Minute, NodeType, Tables, Would};
use crate::finding::Finding;
use crate::rules::{Rules, Who};
use crate::session::{Close, Done, End, Instant, Leg, PeerId, Request, Session};
use crate::tls::connector::Showing;
use crate::tls::record::OVERHEAD;
use crate::tls::{Channel, Failure, Sealed};
use crate::verdict::Reason;
use exchange::{Exchange, Step};
use half::{Half, Life};

/// Smallest TLS record that is made while more waits to be sent.
const RECORD_MIN: usize = 1024;

/// One peer's session, as the host drives it.
pub struct Gate {
    public: Option<Channel>,
    private: Option<Channel>,
    exchange: Exchange,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("step", &self.exchange.step.name())
            .field("peer", &self.exchange.peer)
            .field("verdict", &self.exchange.verdict)
            .field("public", &self.exchange.public)
            .field("private", &self.exchange.private)
            .finish_non_exhaustive()
    }
}

/// What the passing of time can bring.
#[derive(Clone, Copy, Debug)]
enum Timer {
    Step,
    Linger(Leg),
    Budget,
    Turn,
    Slow,
    Ping(Leg),
    Pong(Leg),
    Stall(Leg),
    Idle,
}

impl Gate {
    /// A session for a peer that has just connected from `source`. `seed` decides the masks and the key of the private
    /// leg's WebSocket.
    pub fn new(config: Arc<Config>, source: IpAddr, seed: u64, now: Instant) -> Gate {
        let public = Some(config.acceptor.accept());
        Gate { public, private: None, exchange: Exchange::new(config, source, None, seed, now) }
    }

    /// A session for a node of ours that has just connected to a peer outside, in whose name the connection was taken: the
    /// private leg is there, and the public one is asked for at once. Until the peer has shown who it is, the node's hello
    /// waits here, and what follows it with the host.
    pub fn outbound(config: Arc<Config>, departure: Departure, seed: u64, now: Instant) -> Gate {
        let source = departure.to.ip();
        let mut exchange = Exchange::new(config, source, Some(Box::new(departure)), seed, now);
        exchange.depart(now);
        let private = Some(exchange.config.acceptor.hold());
        Gate { public: None, private, exchange }
    }

    /// What is known about the peer.
    pub fn who(&self) -> Who {
        self.exchange.who()
    }

    /// The rules that it is judged by.
    pub fn rules(&self) -> &Arc<Rules> {
        &self.exchange.rules
    }

    /// The tables of the node's limits that both sides know.
    pub fn tables(&self) -> Tables {
        self.exchange.inspector.as_deref().map(Inspector::tables).unwrap_or_default()
    }

    /// Whether there is something for [`Gate::would`] or [`Gate::minute`].
    pub fn has_facts(&self) -> bool {
        self.exchange.inspector.as_deref().is_some_and(Inspector::has_facts)
    }

    /// The next thing that was decided about a message and not carried out as a refusal.
    pub fn would(&mut self) -> Option<Would> {
        self.exchange.inspector.as_deref_mut()?.would()
    }

    /// What came of each type in the last minute that is over, once.
    pub fn minute(&mut self) -> Vec<Minute> {
        self.exchange.inspector.as_deref_mut().map(Inspector::minute).unwrap_or_default()
    }

    /// Who the peer is, once its Finished was verified.
    pub fn peer(&self) -> Option<PeerId> {
        self.exchange.peer
    }

    /// What the peer is, once its handshake passed.
    pub fn kind(&self) -> Option<NodeType> {
        self.exchange.kind()
    }

    /// Whether both handshakes are done and messages pass.
    pub fn is_open(&self) -> bool {
        matches!(self.exchange.step, Step::Open)
    }

    /// What passed so far.
    pub fn tally(&self) -> Tally {
        let mut tally = self.exchange.tally;
        if let Some(inspector) = &self.exchange.inspector {
            let odd = tally.noted.odd;
            tally.noted = inspector.noted();
            tally.noted.odd += odd;
        }
        tally
    }

    /// Bytes of message buffers that the session holds: zero while nothing is under way.
    pub fn buffered(&self) -> usize {
        let exchange = &self.exchange;
        let detours = exchange.inbound.memory() + exchange.outbound.memory();
        exchange.public.writer.memory() + exchange.private.writer.memory() + detours
    }

    fn channel(&mut self, leg: Leg) -> Option<&mut Channel> {
        match leg {
            Leg::Public => self.public.as_mut(),
            Leg::Private => self.private.as_mut(),
        }
    }

    /// Reads a leg for as long as there is something to read and somewhere to put it; says how many bytes it took.
    fn pump(&mut self, now: Instant, leg: Leg, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while self.exchange.reads(now, leg) {
            let channel = match leg {
                Leg::Public => &mut self.public,
                Leg::Private => &mut self.private,
            };
            let Some(channel) = channel else { return at };
            let received = match channel.receive(&mut bytes[at..]) {
                Ok(received) => received,
                Err(failure) => {
                    self.broken(now, leg, failure);
                    return bytes.len();
                }
            };
            let (taken, plain) = (received.taken, received.plain);
            at += taken;
            if taken == 0 && plain.is_empty() {
                break;
            }
            if !plain.is_empty()
                && let Err(reason) = self.exchange.plaintext(now, leg, plain)
            {
                self.exchange.refuse(now, reason);
            }
            self.after_record(now, leg);
        }
        if leg == Leg::Public && self.public.as_ref().is_some_and(Channel::is_within) {
            self.exchange.begun(now);
        }
        if self.exchange.half(leg).life == Life::Live { at } else { bytes.len() }
    }

    /// Notices what a record may have changed beside its plaintext.
    fn after_record(&mut self, now: Instant, leg: Leg) {
        self.exchange.public.watch(now);
        self.exchange.private.watch(now);
        if self.channel(leg).is_some_and(|channel| channel.peer_closed()) {
            self.exchange.hung_up(now, leg);
        }
    }

    /// A leg's TLS failed.
    fn broken(&mut self, now: Instant, leg: Leg, failure: Failure) {
        let reason = match (leg, &self.exchange.step) {
            (Leg::Public, _) => farewell::peer_tls(failure),
            (
                Leg::Private,
                Step::NodeTls
                | Step::NodeUpgrade(_)
                | Step::NodeHandshake
                | Step::NodeRequest(_)
                | Step::Reach
                | Step::Tls
                | Step::Claim,
            ) => Reason::NodeTls,
            (Leg::Private, _) => Reason::NodeLost,
        };
        self.exchange.refuse(now, reason);
    }

    /// A piece of TLS came back.
    fn worked(&mut self, now: Instant, work: Box<dyn crate::session::Work>) {
        let public = self.public.as_ref().is_some_and(Channel::is_working);
        let leg = if public { Leg::Public } else { Leg::Private };
        let Some(channel) = self.channel(leg) else { return };
        if let Err(failure) = channel.complete(work) {
            self.broken(now, leg, failure);
            return;
        }
        if channel.is_established() {
            match (leg, channel.peer()) {
                (Leg::Public, Some(peer)) if matches!(self.exchange.step, Step::Tls) => {
                    self.exchange.proven(now, peer);
                }
                (Leg::Private, Some(node)) if matches!(self.exchange.step, Step::NodeTls) => {
                    self.exchange.node_secured(now, node);
                }
                _ => {}
            }
        }
        self.pump(now, leg, &mut []);
    }

    /// The times at which something is due.
    fn timers(&self) -> impl Iterator<Item = (Instant, Timer)> + '_ {
        let exchange = &self.exchange;
        let deadlines = &exchange.config.deadlines;
        let both = [Leg::Public, Leg::Private].into_iter().flat_map(move |leg| {
            let half = exchange.half(leg);
            [
                (half.linger_at(deadlines.linger), Timer::Linger(leg)),
                (half.ping_at(deadlines), Timer::Ping(leg)),
                (half.pong_at(deadlines), Timer::Pong(leg)),
                (half.stall_at(deadlines), Timer::Stall(leg)),
            ]
        });
        let own = [
            (exchange.step_at(), Timer::Step),
            (exchange.inbound.retry_at(), Timer::Budget),
            (exchange.forward_at(), Timer::Turn),
            (exchange.inbound.due(), Timer::Slow),
            (exchange.idle_at(), Timer::Idle),
        ];
        own.into_iter().chain(both).filter_map(|(at, timer)| at.map(|at| (at, timer)))
    }

    fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Step => self.exchange.step_overdue(now),
            Timer::Budget => {
                self.exchange.inbound.retry(now, &self.exchange.config.budgets);
                self.pump(now, Leg::Public, &mut []);
            }
            Timer::Turn => {
                self.exchange.forward(now);
                self.pump(now, Leg::Public, &mut []);
                self.pump(now, Leg::Private, &mut []);
            }
            Timer::Slow => self.exchange.refuse(now, Reason::TooSlow),
            Timer::Ping(leg) => self.exchange.half_mut(leg).ping(now),
            // A leg that we do not read cannot answer.
            Timer::Pong(leg) if !self.exchange.may_read(leg) => self.exchange.half_mut(leg).hear(now),
            Timer::Pong(Leg::Public) => self.exchange.refuse(now, Reason::PingTimeout),
            Timer::Pong(Leg::Private) => self.exchange.refuse(now, Reason::NodeStalled),
            Timer::Stall(leg) => self.exchange.look_at_reader(now, leg),
            Timer::Idle => self.exchange.refuse(now, Reason::Idle),
            Timer::Linger(leg) => self.exchange.cut(leg),
        }
    }
}

/// Fills `space` with what a leg has to send; says how much, and whether TLS broke over it.
fn write(now: Instant, channel: &mut Channel, half: &mut Half, space: &mut [u8]) -> (usize, Option<Failure>) {
    let mut written = half.spill(space);
    if half.spills() {
        return (written, None);
    }
    written += channel.transmit(&mut space[written..]);
    while channel.is_established() && !half.ready().is_empty() && written < space.len() {
        let room = &mut space[written..];
        // A record never shrinks to the end of the host's buffer: what does not fit goes out with the next call.
        let sealed = if room.len() < RECORD_MIN && half.ready().len() + OVERHEAD > room.len() {
            let mut record = [0; RECORD_MIN];
            let sealed = channel.seal(half.ready(), &mut record);
            sealed.map(|sealed| Sealed { written: half.overflow(&record[..sealed.written], room), ..sealed })
        } else {
            channel.seal(half.ready(), room)
        };
        match sealed {
            Ok(sealed) => {
                written += sealed.written;
                half.sent(now, sealed.taken);
                if sealed.taken == 0 || half.spills() {
                    return (written, None);
                }
            }
            Err(failure) => return (written, Some(failure)),
        }
    }
    if half.is_closing() && half.ready().is_empty() && channel.is_established() {
        channel.close();
        written += channel.transmit(&mut space[written..]);
    }
    (written, None)
}

impl Session for Gate {
    fn receive(&mut self, now: Instant, leg: Leg, bytes: &mut [u8]) -> usize {
        if self.exchange.half(leg).life != Life::Live {
            return bytes.len();
        }
        let taken = self.pump(now, leg, bytes);
        if taken > 0 {
            self.exchange.half_mut(leg).hear(now);
        }
        taken
    }

    fn transmit(&mut self, now: Instant, leg: Leg, space: &mut [u8]) -> usize {
        let (channel, half) = match leg {
            Leg::Public => (&mut self.public, &mut self.exchange.public),
            Leg::Private => (&mut self.private, &mut self.exchange.private),
        };
        let Some(channel) = channel else { return 0 };
        if matches!(half.life, Life::Absent | Life::Gone) {
            return 0;
        }
        let (written, failure) = write(now, channel, half, space);
        if let Some(failure) = failure {
            self.broken(now, leg, failure);
        }
        // The other leg may have waited for the room.
        self.pump(now, leg.other(), &mut []);
        written
    }

    fn appetite(&self, leg: Leg) -> usize {
        let window = self.exchange.config.limits.window;
        let half = self.exchange.half(leg);
        match (half.life, leg) {
            (Life::Absent, _) => 0,
            (Life::Closing(_) | Life::Leaving | Life::Gone, _) => window,
            (Life::Live, _) if !self.exchange.may_read(leg) => 0,
            (Life::Live, _) if half.upgraded => window,
            (Life::Live, Leg::Public) => self.public.as_ref().map_or(0, Channel::appetite),
            (Life::Live, Leg::Private) => self.private.as_ref().map_or(0, Channel::appetite),
        }
    }

    fn ended(&mut self, now: Instant, leg: Leg, how: End) {
        if how == End::Fin {
            self.exchange.hung_up(now, leg);
            self.exchange.half_mut(leg).heard_end();
            return;
        }
        self.exchange.half_mut(leg).life = Life::Gone;
        let reason = match (how, leg) {
            (End::Aborted, _) => Reason::Aborted,
            (_, Leg::Public) if matches!(self.exchange.step, Step::Reach) => Reason::PeerUnreachable,
            (_, Leg::Public) => Reason::PeerLost,
            (_, Leg::Private) if matches!(self.exchange.step, Step::Dial) => Reason::DialFailed,
            (_, Leg::Private) => Reason::NodeLost,
        };
        self.exchange.refuse(now, reason);
    }

    fn deadline(&self) -> Option<Instant> {
        self.timers().map(|(at, _)| at).min()
    }

    fn advance(&mut self, now: Instant) {
        // Each timer that fires moves its time or ends the session, so this ends; the bound is for the one that does not.
        for _ in 0..32 {
            let Some((_, timer)) = self.timers().filter(|&(at, _)| at <= now).min_by_key(|&(at, _)| at)
            else {
                break;
            };
            self.fire(now, timer);
        }
    }

    fn request(&mut self) -> Option<Request> {
        if let Some(request) = self.exchange.requests.pop_front() {
            return Some(request);
        }
        if self.exchange.verdict.is_some() {
            return None;
        }
        [&mut self.public, &mut self.private].into_iter().flatten().find_map(Channel::work).map(Request::Work)
    }

    fn complete(&mut self, now: Instant, done: Done) {
        match done {
            Done::Work(work) => self.worked(now, work),
            Done::Dialled if matches!(self.exchange.step, Step::Dial) => {
                let config = self.exchange.config.clone();
                if let Some(peer) = self.exchange.peer {
                    self.private = Some(config.connector.connect(Showing::Peer(config.fleet.clone(), peer)));
                    self.exchange.dialled(now);
                }
            }
            Done::Dialled if matches!(self.exchange.step, Step::Reach) => {
                if let Some(departure) = &self.exchange.departure {
                    let showing = Showing::Credential(departure.showing.clone());
                    self.public = Some(self.exchange.config.connector.connect(showing));
                    self.exchange.reached(now);
                }
            }
            // The session ended while the dial was under way.
            Done::Dialled => {
                let reason = self.exchange.verdict.unwrap_or(Reason::Aborted);
                let leg = self.exchange.came().other();
                self.exchange.requests.push_back(Request::Close(leg, Close::Abort(reason)));
            }
            Done::Claimed if matches!(self.exchange.step, Step::Claim) => {
                let config = self.exchange.config.clone();
                if let (Some(peer), Some(private)) = (self.exchange.peer, &mut self.private) {
                    private.answer_as(Showing::Peer(config.fleet.clone(), peer));
                    self.exchange.claimed(now);
                }
            }
            Done::Claimed => {}
            Done::DialFailed(failure) => self.exchange.dial_failed(now, failure.into()),
        }
    }

    fn close(&mut self, now: Instant, reason: Reason) {
        self.exchange.refuse(now, reason);
    }

    fn probe(&mut self, now: Instant) {
        self.exchange.public.ping(now);
    }

    fn heard(&self) -> Instant {
        self.exchange.public.heard
    }

    fn verdict(&self) -> Option<Reason> {
        self.exchange.verdict
    }

    fn finding(&self) -> Option<&Finding> {
        self.exchange.finding.as_deref()
    }

    fn software(&self) -> &str {
        &self.exchange.software
    }

    fn penalty(&self) -> Option<Duration> {
        self.exchange.penalty
    }

    /// What was counted stays, and what was agreed on with the peer.
    fn adopt(&mut self, rules: &Arc<Rules>) {
        self.exchange.adopt(rules.clone());
    }
}

#[cfg(test)]
mod tests;
