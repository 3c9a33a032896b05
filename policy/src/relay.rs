//! The session of a plain `tcp` listener: dials a node and passes bytes both ways, half-closes included.
//!
//! Each direction holds at most a fixed number of bytes, and none while nothing is under way.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;

mod proxy;

use crate::session::{Close, Done, End, Instant, Leg, Request, Session, Standing};
use crate::verdict::Reason;

/// How a relay behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes held in each direction.
    pub buffer: usize,
    /// How long a peer that says nothing waits for its node: protocols in which the server speaks first need it.
    pub patience: Duration,
    /// How long the dial may take.
    pub dial: Duration,
    /// How long a leg may leave what it is sent unread.
    pub stall: Duration,
    /// Silence in both directions after which the session ends.
    pub idle: Duration,
    /// The node first gets a header that says who the peer is (PROXY protocol, version 2).
    pub proxy_header: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            buffer: 64 << 10,
            patience: Duration::from_millis(200),
            dial: Duration::from_secs(15),
            stall: Duration::from_secs(60),
            idle: Duration::from_secs(3_600),
            proxy_header: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Waiting,
    Dialling,
    Open,
    Over,
}

/// What goes to one leg.
#[derive(Debug, Default)]
struct Way {
    bytes: VecDeque<u8>,
    /// Since when bytes have waited without one of them being taken.
    stuck: Option<Instant>,
    /// The other leg finished sending: FIN follows the bytes.
    finished: bool,
}

/// A plain session.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    step: Step,
    due: Instant,
    to_public: Way,
    to_private: Way,
    heard: Instant,
    active: Instant,
    requests: VecDeque<Request>,
    verdict: Option<Reason>,
    /// What the node gets before everything else.
    header: Option<Box<[u8]>>,
}

impl Relay {
    /// A session for a `peer` that has just connected to `local`.
    pub fn new(config: Config, now: Instant, peer: SocketAddr, local: SocketAddr) -> Relay {
        Relay {
            config,
            step: Step::Waiting,
            due: now + config.patience,
            to_public: Way::default(),
            to_private: Way::default(),
            heard: now,
            active: now,
            requests: VecDeque::new(),
            verdict: None,
            header: config.proxy_header.then(|| proxy::header(peer, local).into()),
        }
    }

    fn to(&mut self, leg: Leg) -> &mut Way {
        match leg {
            Leg::Public => &mut self.to_public,
            Leg::Private => &mut self.to_private,
        }
    }

    fn dial(&mut self, now: Instant) {
        self.step = Step::Dialling;
        self.due = now + self.config.dial;
        self.requests.push_back(Request::Dial { peer: None, kind: None });
    }

    /// Ends both legs; the one that ended by itself, if any, is left alone.
    fn end(&mut self, reason: Reason, except: Option<Leg>) {
        let step = core::mem::replace(&mut self.step, Step::Over);
        if step == Step::Over {
            return;
        }
        self.verdict = Some(reason);
        self.to_public = Way::default();
        self.to_private = Way::default();
        let private = matches!(step, Step::Dialling | Step::Open).then_some(Leg::Private);
        for leg in [Some(Leg::Public), private].into_iter().flatten().filter(|&leg| Some(leg) != except) {
            self.requests.push_back(Request::Close(leg, Close::Abort(reason)));
        }
    }

    /// A leg finished sending: the other one hears it after everything that came before.
    fn finish(&mut self, leg: Leg) {
        let way = self.to(leg.other());
        if core::mem::replace(&mut way.finished, true) {
            return;
        }
        if leg == Leg::Private || self.step == Step::Open {
            self.requests.push_back(Request::Close(leg.other(), Close::Finish(Reason::Finished)));
        }
        self.settle();
    }

    /// Both directions are finished and empty: the session is done.
    fn settle(&mut self) {
        let done = |way: &Way| way.finished && way.bytes.is_empty();
        if self.step == Step::Open && done(&self.to_public) && done(&self.to_private) {
            self.step = Step::Over;
            self.verdict = Some(Reason::Finished);
        }
    }

    fn stuck_at(&self, way: &Way) -> Option<Instant> {
        way.stuck.filter(|_| self.step == Step::Open).map(|since| since + self.config.stall)
    }
}

impl Session for Relay {
    fn receive(&mut self, now: Instant, leg: Leg, bytes: &mut [u8]) -> usize {
        if self.step == Step::Over {
            return bytes.len();
        }
        let taken = bytes.len().min(self.appetite(leg));
        self.active = now;
        if leg == Leg::Public {
            self.heard = now;
        }
        let way = self.to(leg.other());
        way.bytes.extend(&bytes[..taken]);
        if taken > 0 {
            way.stuck.get_or_insert(now);
        }
        if self.step == Step::Waiting && taken > 0 {
            self.dial(now);
        }
        taken
    }

    fn transmit(&mut self, now: Instant, leg: Leg, space: &mut [u8]) -> usize {
        if leg == Leg::Private && self.step != Step::Open {
            return 0;
        }
        let way = self.to(leg);
        let mut written = 0;
        let (front, back) = way.bytes.as_slices();
        for piece in [front, back] {
            let count = piece.len().min(space.len() - written);
            space[written..written + count].copy_from_slice(&piece[..count]);
            written += count;
        }
        way.bytes.drain(..written);
        if way.bytes.is_empty() {
            way.bytes = VecDeque::new();
            way.stuck = None;
        } else if written > 0 {
            way.stuck = Some(now);
        }
        self.settle();
        written
    }

    fn appetite(&self, leg: Leg) -> usize {
        let way = match leg {
            Leg::Public => &self.to_private,
            Leg::Private => &self.to_public,
        };
        match self.step {
            Step::Over => self.config.buffer,
            _ => self.config.buffer.saturating_sub(way.bytes.len()),
        }
    }

    fn ended(&mut self, _now: Instant, leg: Leg, how: End) {
        match (how, leg) {
            (End::Fin, Leg::Public) if self.step == Step::Waiting => {
                // Nothing was asked for, so no node needs to hear of it.
                self.step = Step::Over;
                self.verdict = Some(Reason::Finished);
                self.requests.push_back(Request::Close(Leg::Public, Close::Finish(Reason::Finished)));
            }
            (End::Fin, leg) => self.finish(leg),
            (End::Aborted, leg) => self.end(Reason::Aborted, Some(leg)),
            (_, Leg::Public) => self.end(Reason::PeerLost, Some(Leg::Public)),
            (_, Leg::Private) => self.end(Reason::NodeLost, Some(Leg::Private)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.step {
            Step::Waiting | Step::Dialling => Some(self.due),
            Step::Open => {
                let stuck = self.stuck_at(&self.to_public).into_iter().chain(self.stuck_at(&self.to_private));
                stuck.chain([self.active + self.config.idle]).min()
            }
            Step::Over => None,
        }
    }

    fn advance(&mut self, now: Instant) {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        match self.step {
            Step::Waiting if passed(Some(self.due)) => self.dial(now),
            Step::Dialling if passed(Some(self.due)) => self.end(Reason::DialFailed, None),
            Step::Open if passed(self.stuck_at(&self.to_public)) => self.end(Reason::Stalled, None),
            Step::Open if passed(self.stuck_at(&self.to_private)) => self.end(Reason::NodeStalled, None),
            Step::Open if passed(Some(self.active + self.config.idle)) => self.end(Reason::Idle, None),
            _ => {}
        }
    }

    fn request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    fn complete(&mut self, now: Instant, done: Done) {
        match done {
            Done::Dialled if self.step == Step::Dialling => {
                self.step = Step::Open;
                self.active = now;
                // All the proof that plain TCP has to offer; from here on the relay's own deadlines hold.
                self.requests.push_back(Request::Standing(Standing::Proven));
                if let Some(header) = self.header.take() {
                    let after = core::mem::replace(&mut self.to_private.bytes, Vec::from(header).into());
                    self.to_private.bytes.extend(after);
                    self.to_private.stuck = Some(now);
                }
                self.to_private.stuck = self.to_private.stuck.map(|_| now);
                if self.to_private.finished {
                    self.requests.push_back(Request::Close(Leg::Private, Close::Finish(Reason::Finished)));
                }
            }
            Done::Dialled => {
                let reason = self.verdict.unwrap_or(Reason::Aborted);
                self.requests.push_back(Request::Close(Leg::Private, Close::Abort(reason)));
            }
            Done::DialFailed(failure) => self.end(failure.into(), Some(Leg::Private)),
            Done::Claimed | Done::Work(_) => {}
        }
    }

    /// With a reset: a FIN would say that the stream is complete.
    fn close(&mut self, _now: Instant, reason: Reason) {
        self.end(reason, None);
    }

    /// Plain TCP has no question that a peer must answer; its stack's keep-alives are the host's business.
    fn probe(&mut self, _now: Instant) {}

    fn heard(&self) -> Instant {
        self.heard
    }

    fn verdict(&self) -> Option<Reason> {
        self.verdict
    }
}

#[cfg(test)]
mod tests;
