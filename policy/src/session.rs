//! The [`Session`] trait: one peer's connection and the connection to a node that it may earn, as one object without
//! sockets.
//!
//! The host (the appliance's core loop, the lab, a bench) owns both TCP connections. It calls [`Session::receive`] with
//! bytes that arrived, [`Session::transmit`] when a leg has room, carries out what [`Session::request`] asks for, and
//! reports the outcome through [`Session::complete`]. All memory that a session holds is bounded by its configuration.

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use crate::chia::{Alarm, NodeType};
use crate::finding::Finding;
use crate::gate::light::Sighting;
use crate::rules::Rules;
use crate::verdict::Reason;

/// Monotonic time since an origin that the host chose.
pub type Instant = Duration;

/// One of a session's two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leg {
    /// To the peer outside.
    Public,
    /// To the node inside.
    Private,
}

impl Leg {
    /// The other one.
    pub const fn other(self) -> Leg {
        match self {
            Leg::Public => Leg::Private,
            Leg::Private => Leg::Public,
        }
    }
}

/// How a leg ended, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other side finished sending; what it sent before was handed over already.
    Fin,
    /// The other side reset the connection.
    Reset,
    /// The other side stopped answering.
    TimedOut,
    /// Our own side ended it: eviction, shutdown, exhausted memory.
    Aborted,
}

/// A peer's identity: SHA-256 over its leaf certificate, as Chia counts it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub [u8; 32]);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..")
    }
}

/// What admission and eviction think of a flow from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Has proved its address only.
    Stranger,
    /// Its TLS Finished was verified: it saw our randomness. On a `tcp` listener, which has no such proof: a node took it.
    Proven,
    /// A friend that the operator named.
    Reserved,
}

/// How to end a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// In order: what [`Session::transmit`] still yields goes out first, then FIN.
    Finish(Reason),
    /// At once, with RST.
    Abort(Reason),
}

/// What a session asks of its host.
#[derive(Debug)]
pub enum Request {
    /// Connect the private leg to a node of the pool. Answer with [`Done::Dialled`] or [`Done::DialFailed`].
    Dial {
        /// The peer's identity, unique per pool; `None` on listeners without certificates.
        peer: Option<PeerId>,
        /// What the peer is; `None` on listeners that do not know it.
        kind: Option<NodeType>,
    },
    /// Connect the public leg, to where a node's own connection was going. Answer with [`Done::Dialled`] or
    /// [`Done::DialFailed`].
    Reach,
    /// Keep this identity for the session, unique per pool. Answer with [`Done::Claimed`] or [`Done::DialFailed`]. A session
    /// that asks for a [`Request::Dial`] claims its peer's with that.
    Claim(PeerId),
    /// Run an expensive step and hand it back with [`Done::Work`]: at once, later, or on another thread.
    Work(Box<dyn Work>),
    /// The peer's standing changed.
    Standing(Standing),
    /// The node that was dialled has shown this identity: no peer may come with it.
    Node(PeerId),
    /// A light peer has seen something of its node.
    Sighting(Sighting),
    /// Something that an operator should know, although nothing was refused.
    Alarm(Alarm),
    /// The peer has brought what the node wanted from it: so many points for it, where slots are short.
    Credit(u32),
    /// End a leg.
    Close(Leg, Close),
}

/// An expensive step that a session wants done, detached so that any thread can do it.
pub trait Work: Send + fmt::Debug {
    /// Does the step. Called once, before the work is handed back.
    fn run(&mut self);
    /// The way back to the concrete type, for the session that made it.
    fn into_any(self: Box<Self>) -> Box<dyn core::any::Any + Send>;
}

/// Why a leg could not be connected, or an identity not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// No node of the pool accepts connections.
    NoNode,
    /// The pool's dial rate and queue are used up.
    Busy,
    /// Another session of this pool holds the identity.
    Duplicate,
    /// The identity belongs to one of our own nodes.
    OwnNode,
    /// The listener's slots for this kind of peer are taken.
    Slots,
    /// The peer outside did not answer, or refused the connection.
    Unreachable,
}

/// The outcome of a [`Request`].
#[derive(Debug)]
pub enum Done {
    /// The leg that was missing is connected.
    Dialled,
    /// The identity is the session's.
    Claimed,
    /// The leg could not be connected, or the identity not be had.
    DialFailed(DialFailure),
    /// The work is done.
    Work(Box<dyn Work>),
}

/// A peer's connection, from its first byte to its last, and the private leg beside it: dialled for a peer that came, or
/// begun by a node, for which the peer is dialled.
///
/// After every call the host asks [`Session::request`] until it answers `None`, and [`Session::transmit`] for both legs
/// while they have room.
pub trait Session {
    /// Takes bytes that arrived on a leg, and says how many it took. The rest stays with the host and comes again once
    /// the session's state has changed: backpressure reaches the sender through the TCP window. The session may scribble
    /// over the bytes that it takes.
    fn receive(&mut self, now: Instant, leg: Leg, bytes: &mut [u8]) -> usize;

    /// Writes bytes to be sent on a leg into `space`; says how many.
    fn transmit(&mut self, now: Instant, leg: Leg, space: &mut [u8]) -> usize;

    /// How many more bytes the session would take from a leg now; becomes its receive window.
    fn appetite(&self, leg: Leg) -> usize;

    /// A leg ended.
    fn ended(&mut self, now: Instant, leg: Leg, how: End);

    /// When [`Session::advance`] wants to be called at the latest.
    fn deadline(&self) -> Option<Instant>;

    /// Time has passed.
    fn advance(&mut self, now: Instant);

    /// The next thing that the host shall do.
    fn request(&mut self) -> Option<Request>;

    /// A request has been carried out.
    fn complete(&mut self, now: Instant, done: Done);

    /// The host ends the session: both sides are told as far as they still can be, and [`Session::verdict`] is `reason`
    /// unless there was one already.
    fn close(&mut self, now: Instant, reason: Reason);

    /// Asks the peer for a sign of life (a WebSocket ping): the host wants to know whether the session still lives,
    /// because another source shows the same identity.
    fn probe(&mut self, now: Instant);

    /// When the peer was last heard.
    fn heard(&self) -> Instant;

    /// Why the session ended, once it has.
    fn verdict(&self) -> Option<Reason>;

    /// What exactly the session ended for, where the verdict alone does not say.
    fn finding(&self) -> Option<&Finding> {
        None
    }

    /// The peer's software in its own words, fit to be shown; empty while it has not said.
    fn software(&self) -> &str {
        ""
    }

    /// The operator wants sessions that stand to be judged by these rules from now on.
    fn adopt(&mut self, rules: &Arc<Rules>) {
        let _ = rules;
    }

    /// How long the peer's address is to be refused for the verdict, where the rules say so.
    fn penalty(&self) -> Option<Duration> {
        None
    }
}
