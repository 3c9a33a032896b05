//! The conversations that nodes began: found from both sides, with the time-outs of the standards, and the ports that IPv4
//! ones show outside. Fixed size; an open addressing of the keys would be faster, and the standard map is fast enough.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::Protocol;
use super::datagram::Kind;
use crate::time::Instant;
use crate::wire::{Flags, FlowKey, LinkId};

/// RFC 5382, REQ-5: an established connection lives at least 2 hours and 4 minutes without a packet.
const ESTABLISHED: Duration = Duration::from_secs(2 * 3_600 + 4 * 60);
/// RFC 5382, REQ-5: one that is opening or closing lives at least 4 minutes.
const TRANSITORY: Duration = Duration::from_secs(4 * 60);
/// RFC 4787, REQ-5: recommended, two minutes at least.
const UDP: Duration = Duration::from_secs(5 * 60);
/// RFC 5508, REQ-1: a query lives at least 60 seconds.
const ICMP: Duration = Duration::from_secs(60);
/// How often a part of the table is looked through, and how many parts there are: each session once a second.
const SWEEP_EVERY: Duration = Duration::from_millis(250);
const PARTS: usize = 4;

/// How far a conversation is. Only TCP knows more than one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The node has spoken, nobody answered.
    Opening,
    /// Both have spoken.
    Established,
    /// One side has said FIN: `true` if it was the node.
    HalfClosed(bool),
    /// Both have, or one has reset it.
    Closing,
}

/// A conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) protocol: Protocol,
    /// As the node sees it: its end is local.
    pub(super) inner: FlowKey,
    /// As the world sees it: our end is local.
    pub(super) outer: FlowKey,
    pub(super) state: State,
    /// Who began it.
    pub(super) node: u16,
    /// Where it is.
    pub(super) link: LinkId,
    expires: Instant,
}

/// Whose conversation it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) node: u16,
    pub(super) link: LinkId,
}

/// A keyed hash: nodes and peers choose what is hashed.
#[derive(Clone, Copy)]
struct Keyed([u8; 16]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;
    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

type Key = (Protocol, FlowKey);

/// All conversations.
pub(super) struct Sessions {
    slots: Vec<Option<Session>>,
    free: Vec<u32>,
    inner: HashMap<Key, u32, Keyed>,
    outer: HashMap<Key, u32, Keyed>,
    /// The port that an end of a node's shows.
    ports: HashMap<(Protocol, FlowKey), u16, Keyed>,
    /// Sessions that show each port.
    uses: Box<[u16]>,
    key: Keyed,
    next_sweep: Instant,
    part: usize,
}

impl Sessions {
    /// A table for `capacity` sessions; all memory is taken here.
    pub(super) fn new(capacity: usize, seed: [u8; 16], now: Instant) -> Self {
        let key = Keyed(seed);
        let map = || HashMap::with_capacity_and_hasher(2 * capacity, key);
        Sessions {
            slots: (0..capacity).map(|_| None).collect(),
            free: (0..capacity as u32).rev().collect(),
            inner: map(),
            outer: map(),
            ports: HashMap::with_capacity_and_hasher(2 * capacity, key),
            uses: vec![0; if capacity == 0 { 0 } else { 1 << 16 }].into(),
            key,
            next_sweep: now,
            part: 0,
        }
    }

    /// The session of a packet that a node sent; `key` is seen from the node.
    pub(super) fn by_inner(&self, protocol: Protocol, key: &FlowKey) -> Option<u32> {
        self.inner.get(&(protocol, *key)).copied()
    }

    /// The session of a packet from outside.
    pub(super) fn by_outer(&self, protocol: Protocol, key: &FlowKey) -> Option<u32> {
        self.outer.get(&(protocol, *key)).copied()
    }

    /// The port that a node's end shows outside: the one that it shows already (RFC 4787, REQ-1), or a free one of the
    /// block of `size` that begins with `first`. It is taken once a session is inserted that shows it.
    pub(super) fn map(&self, protocol: Protocol, inner: &FlowKey, first: u16, size: u16) -> Option<u16> {
        let end = end_of(inner);
        if let Some(port) = self.ports.get(&(protocol, end)) {
            return Some(*port);
        }
        let start = self.key.hash_one((protocol, end, "port")) % u64::from(size.max(1));
        let ports = (0..u64::from(size)).map(|n| (start + n) % u64::from(size));
        let mut ports = ports.filter_map(|offset| first.checked_add(u16::try_from(offset).ok()?));
        ports.find(|port| self.uses.get(usize::from(*port)) == Some(&0))
    }

    /// Adds a session; `None` where the table is full.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        protocol: Protocol,
        inner: FlowKey,
        outer: FlowKey,
        place: Place,
    ) -> Option<u32> {
        let slot = self.free.pop()?;
        let Place { node, link } = place;
        let state = State::Opening;
        let session =
            Session { protocol, inner, outer, state, node, link, expires: now + patience(protocol, state) };
        *self.slots.get_mut(slot as usize)? = Some(session);
        self.inner.insert((protocol, inner), slot);
        self.outer.insert((protocol, outer), slot);
        if inner.local.is_v4() {
            self.ports.insert((protocol, end_of(&inner)), outer.local_port);
            if let Some(uses) = self.uses.get_mut(usize::from(outer.local_port)) {
                *uses += 1;
            }
        }
        Some(slot)
    }

    /// A packet of a session: its state and its time go on. `inward` says who sent it.
    pub(super) fn touch(&mut self, now: Instant, slot: u32, kind: Kind, inward: bool) -> Option<Session> {
        let session = self.slots.get_mut(slot as usize)?.as_mut()?;
        let before = session.state;
        if let Kind::Tcp(flags) = kind {
            session.state = next(before, flags, inward);
        }
        // An error is no sign of life (RFC 5508, REQ-10), and what outsiders send keeps nothing open but a connection that
        // neither side has ended (RFC 4787, REQ-6; RFC 5382 asks for both directions). Nor does the node's reset, which may
        // be its answer to them.
        let counts = match kind {
            Kind::Error => false,
            Kind::Tcp(flags) if before == State::Closing => !inward && !flags.has(Flags::RST),
            Kind::Tcp(_) => true,
            _ => !inward,
        };
        if counts {
            session.expires = now + patience(session.protocol, session.state);
        }
        Some(*session)
    }

    /// When [`Sessions::sweep`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (self.free.len() < self.slots.len()).then_some(self.next_sweep)
    }

    /// Ends what has expired, or is not `allowed`, in a part of the table, or in `all` of it. `end` says whether a session may
    /// be ended now; where it may not, the rest waits, and false comes back.
    pub(super) fn sweep(
        &mut self,
        now: Instant,
        all: bool,
        mut allowed: impl FnMut(&Session) -> bool,
        mut end: impl FnMut(&Session) -> bool,
    ) -> bool {
        if !all && now < self.next_sweep {
            return true;
        }
        let part = self.slots.len().div_ceil(PARTS);
        let begin = self.part * part;
        let range = if all { 0..self.slots.len() } else { begin..(begin + part).min(self.slots.len()) };
        for slot in range {
            let Some(session) = self.slots.get(slot).copied().flatten() else { continue };
            if now < session.expires && allowed(&session) {
                continue;
            }
            if !end(&session) {
                return false;
            }
            self.remove(slot as u32);
        }
        if !all {
            self.part = (self.part + 1) % PARTS;
            self.next_sweep = now + SWEEP_EVERY;
        }
        true
    }

    fn remove(&mut self, slot: u32) {
        let Some(session) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        self.free.push(slot);
        self.inner.remove(&(session.protocol, session.inner));
        self.outer.remove(&(session.protocol, session.outer));
        if !session.inner.local.is_v4() {
            return;
        }
        let Some(uses) = self.uses.get_mut(usize::from(session.outer.local_port)) else { return };
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.ports.remove(&(session.protocol, end_of(&session.inner)));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter().flatten()
    }
}

/// A node's end, whoever it speaks to.
fn end_of(inner: &FlowKey) -> FlowKey {
    FlowKey { remote: inner.local, remote_port: 0, ..*inner }
}

fn patience(protocol: Protocol, state: State) -> Duration {
    match (protocol, state) {
        (Protocol::Tcp, State::Established | State::HalfClosed(_)) => ESTABLISHED,
        (Protocol::Tcp, State::Opening | State::Closing) => TRANSITORY,
        (Protocol::Udp, _) => UDP,
        (Protocol::Icmp, _) => ICMP,
    }
}

/// How far a TCP conversation is after a segment. The ends judge for themselves whether a reset or FIN is genuine; here it
/// only shortens how long the conversation is remembered, and traffic lengthens it again.
fn next(state: State, flags: Flags, inward: bool) -> State {
    if flags.has(Flags::RST) {
        return State::Closing;
    }
    match (state, flags.has(Flags::FIN)) {
        // The same ends again.
        (State::Closing, _) if flags.has(Flags::SYN) && !inward => State::Opening,
        (State::Opening, _) if inward && flags.has(Flags::SYN) => State::Established,
        (State::Established, true) => State::HalfClosed(!inward),
        (State::HalfClosed(node), true) if node == inward => State::Closing,
        (state, _) => state,
    }
}
