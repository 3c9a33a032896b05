//! The opening of a session that a node of ours began. Its connection was taken in the name of the peer that it wants, and
//! waits: the peer is dialled and proves who it is, as one that comes does; only then the node is answered, with the identity
//! that it sees of this peer whoever dials. The two upgrades pass through one behind the other, and the two introduce
//! themselves, as a rule the node first. From there on nothing tells such a session from others.

use core::net::SocketAddr;
use std::sync::Arc;

use super::exchange::{Exchange, Step};
use super::half::Life;
use crate::finding::{Finding, clean_bytes};
use crate::session::{Instant, Leg, PeerId, Request};
use crate::tls::Credential;
use crate::verdict::Reason;
use crate::websocket::{ClientUpgrade, ServerUpgrade};

/// A connection that a node of ours began.
#[derive(Clone, Debug)]
pub struct Departure {
    /// Where it leads to.
    pub to: SocketAddr,
    /// What stands for the node there: [`Fleet::outward`](crate::identity::Fleet::outward).
    pub showing: Arc<Credential>,
    /// The node's own identity, where it is known.
    pub node: Option<PeerId>,
}

impl Exchange {
    /// The peer is wanted.
    pub(super) fn depart(&mut self, now: Instant) {
        self.requests.push_back(Request::Reach);
        self.step = Step::Reach;
        self.due = now + self.config.deadlines.dial;
    }

    /// The peer is connected.
    pub(super) fn reached(&mut self, now: Instant) {
        self.step = Step::Tls;
        self.due = now + self.config.deadlines.tls;
        self.public.life = Life::Live;
        self.public.hear(now);
    }

    /// The peer has shown who it is. It is none of ours, and the host has to say whether it is there already.
    pub(super) fn claim(&mut self, now: Instant, peer: PeerId) {
        let ours = |departure: &Departure| [departure.node, departure.showing.id()].contains(&Some(peer));
        if self.departure.as_deref().is_some_and(ours) {
            return self.refuse(now, Reason::OwnNode);
        }
        self.requests.push_back(Request::Claim(peer));
        self.step = Step::Claim;
        self.due = now + self.config.deadlines.dial;
    }

    /// The peer's identity is this session's: TLS with the node begins.
    pub(super) fn claimed(&mut self, now: Instant) {
        self.step = Step::NodeTls;
        self.due = now + self.config.deadlines.node;
    }

    /// TLS with the node is done: its request is waited for, if it is the node that it should be.
    pub(super) fn await_node(&mut self, now: Instant, node: PeerId) {
        let known = self.departure.as_deref().and_then(|departure| departure.node);
        match known.filter(|&known| known != node) {
            Some(known) => {
                self.finding =
                    Some(Box::new(Finding::new(format!("the node shows {node} instead of {known}"))));
                self.refuse(now, Reason::NodeTls);
            }
            None => self.step = Step::NodeRequest(Box::default()),
        }
    }

    /// The node's request. Once it is there, and good, ours goes to the peer.
    pub(super) fn node_asks(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Reason> {
        let Step::NodeRequest(upgrade) = &mut self.step else {
            self.finding = Some(Box::new(Finding::new("it spoke before it was answered")));
            return Err(Reason::NodeUpgrade);
        };
        let upgraded = upgrade.receive(bytes).map_err(|reason| {
            let what = format!("{reason}: the request \"{}\"", clean_bytes(upgrade.line()));
            self.finding = Some(Box::new(Finding::new(what)));
            self.private.head = ServerUpgrade::refusal(reason).unwrap_or_default().to_vec();
            Reason::NodeUpgrade
        })?;
        let (Some(upgraded), Some(departure)) = (upgraded, &self.departure) else { return Ok(()) };
        let (asked, request) = ClientUpgrade::new(&departure.to.to_string(), self.upgrade_key());
        self.public.head = request;
        self.public.watch(now);
        self.step = Step::PeerUpgrade { asked: Box::new(asked), answer: upgraded.response };
        self.due = now + self.config.deadlines.upgrade;
        Ok(())
    }

    /// The peer's answer to our request; says how much of `bytes` belongs to it once it is there, and good. Then the node gets
    /// its own.
    pub(super) fn peer_answers(&mut self, now: Instant, bytes: &[u8]) -> Result<Option<usize>, Reason> {
        let Step::PeerUpgrade { asked, answer } = &mut self.step else {
            self.finding = Some(Box::new(Finding::new("it spoke before it was asked")));
            return Err(Reason::PeerUpgrade);
        };
        let Some(taken) = asked.receive(bytes).map_err(|_| Reason::PeerUpgrade)? else { return Ok(None) };
        self.private.head = core::mem::take(answer);
        self.private.upgraded = true;
        self.public.upgraded = true;
        self.private.watch(now);
        self.step = Step::Handshake(Vec::new());
        self.due = now + self.config.deadlines.node_handshake;
        Ok(Some(taken))
    }

    /// The peer has introduced itself. Messages pass once the node has too.
    pub(super) fn introduced(&mut self) {
        let greeting = self.outbound.take_greeting();
        self.step = match (greeting, self.inspector.as_deref_mut()) {
            (Some(body), Some(inspector)) => {
                inspector.node_handshake(&body);
                Step::Open
            }
            _ => Step::NodeHandshake,
        };
    }

    /// Whether the node has not introduced itself, where it goes first.
    pub(super) fn awaits_node(&self) -> bool {
        self.came() == Leg::Private && self.outbound.greeting().is_none()
    }
}
