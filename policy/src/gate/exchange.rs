//! A session above TLS: which step it is in, what each side's plaintext means there, and how it ends.
//!
//! Whoever came is answered as a server, the other side is dialled: which leg is which is all that tells a session that a peer
//! began from one that a node did (`departure`).

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::carry::{Inbound, Tally, Through};
use super::config::Config;
use super::departure::Departure;
use super::explain;
use super::farewell;
use super::half::{Half, Life};
use super::outward::{Back, Outbound};
use crate::chia::{Envelope, Handshake, Inspector, NodeType, number};
use crate::finding::{Finding, clean};
use crate::rules::{Rules, Table, Who};
use crate::session::{Close, Instant, Leg, PeerId, Request, Standing};
use crate::verdict::Reason;
use crate::websocket::{ClientUpgrade, CloseFrame, Piece, ServerUpgrade, close_code};

/// Largest handshake body, in bytes; a node's own limit.
const HANDSHAKE_BYTES_MAX: u32 = 10 * 1024;

/// The steps of a session, in their order; of one that a node began, those from [`Step::Reach`] on.
pub(super) enum Step {
    /// TLS with the peer.
    Tls,
    /// The peer's upgrade request.
    Upgrade(Box<ServerUpgrade>),
    /// The peer's handshake, as far as it has come.
    Handshake(Vec<u8>),
    /// A node is being dialled.
    Dial,
    /// TLS with the node.
    NodeTls,
    /// The node's answer to our upgrade request.
    NodeUpgrade(Box<ClientUpgrade>),
    /// The node's handshake.
    NodeHandshake,
    /// The peer is being dialled. TLS with it follows.
    Reach,
    /// The host is asked whether the session may have the peer's identity. TLS with the node follows.
    Claim,
    /// The node's upgrade request.
    NodeRequest(Box<ServerUpgrade>),
    /// The peer's answer to our upgrade request; with it the node gets its own. The peer's handshake follows.
    PeerUpgrade { asked: Box<ClientUpgrade>, answer: Vec<u8> },
    /// Messages pass both ways.
    Open,
    /// The verdict is spoken.
    Over,
}

impl Step {
    /// For reports.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Step::Tls => "tls",
            Step::Upgrade(_) => "upgrade",
            Step::Handshake(_) => "handshake",
            Step::Dial => "dial",
            Step::NodeTls => "node tls",
            Step::NodeUpgrade(_) => "node upgrade",
            Step::NodeHandshake => "node handshake",
            Step::Reach => "reach",
            Step::Claim => "claim",
            Step::NodeRequest(_) => "node request",
            Step::PeerUpgrade { .. } => "peer upgrade",
            Step::Open => "open",
            Step::Over => "over",
        }
    }
}

/// A session above TLS.
pub(super) struct Exchange {
    pub(super) config: Arc<Config>,
    /// Those that the session began with, unless it was told to take others.
    pub(super) rules: Arc<Rules>,
    pub(super) table: Arc<Table>,
    source: IpAddr,
    /// Of a session that a node began: where to. Then the private leg was there first, and the public one is dialled.
    pub(super) departure: Option<Box<Departure>>,
    pub(super) seed: u64,
    pub(super) step: Step,
    /// When the step must be done.
    pub(super) due: Instant,
    pub(super) public: Half,
    pub(super) private: Half,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    pub(super) inspector: Option<Box<Inspector>>,
    pub(super) requests: VecDeque<Request>,
    pub(super) verdict: Option<Reason>,
    /// What exactly for.
    pub(super) finding: Option<Box<Finding>>,
    /// How long the peer's address is to be refused for it.
    pub(super) penalty: Option<Duration>,
    pub(super) peer: Option<PeerId>,
    /// When the peer's last message arrived.
    pub(super) spoke: Instant,
    pub(super) tally: Tally,
    /// Fit to be shown.
    pub(super) software: Box<str>,
}

impl Exchange {
    /// For a peer that came from `source`, or a node that came with a `departure` to there.
    pub(super) fn new(
        config: Arc<Config>,
        source: IpAddr,
        departure: Option<Box<Departure>>,
        seed: u64,
        now: Instant,
    ) -> Exchange {
        let who = Who { listener: config.listener, source, id: None, kind: None, version: None };
        let rules = config.rules.clone();
        let due = now + config.deadlines.tls;
        let half = |leg, dials| Half::new(leg, dials, &config.limits, seed, now);
        let public = half(Leg::Public, departure.is_some());
        let private = half(Leg::Private, departure.is_none());
        Exchange {
            table: rules.table(&who),
            config,
            rules,
            source,
            departure,
            seed,
            step: Step::Tls,
            due,
            public,
            private,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            inspector: None,
            requests: VecDeque::new(),
            verdict: None,
            finding: None,
            penalty: None,
            peer: None,
            spoke: now,
            tally: Tally::default(),
            software: Box::default(),
        }
    }

    /// The leg of the side that began the session.
    pub(super) fn came(&self) -> Leg {
        if self.departure.is_some() { Leg::Private } else { Leg::Public }
    }

    pub(super) fn half(&self, leg: Leg) -> &Half {
        match leg {
            Leg::Public => &self.public,
            Leg::Private => &self.private,
        }
    }

    pub(super) fn half_mut(&mut self, leg: Leg) -> &mut Half {
        match leg {
            Leg::Public => &mut self.public,
            Leg::Private => &mut self.private,
        }
    }

    /// Whether a leg may be read: what it brings has somewhere to go.
    pub(super) fn may_read(&self, leg: Leg) -> bool {
        let backlog = self.half(leg.other()).writer.ready().len();
        let waits = match leg {
            Leg::Public => self.inbound.is_waiting(),
            Leg::Private => self.outbound.free_at().is_some(),
        };
        backlog < self.config.limits.backlog && !waits
    }

    /// Whether a leg is read now; takes note of it.
    pub(super) fn reads(&mut self, now: Instant, leg: Leg) -> bool {
        let reads = self.may_read(leg);
        if leg == Leg::Public {
            self.inbound.reading(now, reads);
        }
        reads && self.half(leg).life == Life::Live
    }

    /// When the step under way must be done.
    pub(super) fn step_at(&self) -> Option<Instant> {
        (!matches!(self.step, Step::Open | Step::Over)).then_some(self.due)
    }

    /// The step took too long.
    pub(super) fn step_overdue(&mut self, now: Instant) {
        let reason = match self.step {
            Step::Tls => Reason::TlsTimeout,
            Step::Upgrade(_) => Reason::HttpTimeout,
            Step::Handshake(_) if self.awaits_node() => Reason::NodeTimeout,
            Step::Handshake(_) => Reason::ChiaTimeout,
            Step::Dial => Reason::DialFailed,
            Step::NodeTls | Step::NodeUpgrade(_) | Step::NodeHandshake | Step::NodeRequest(_) => {
                Reason::NodeTimeout
            }
            Step::Reach => Reason::PeerUnreachable,
            // Whoever holds the identity still lives, as far as anybody knows.
            Step::Claim => Reason::DuplicateId,
            Step::PeerUpgrade { .. } => Reason::PeerUpgrade,
            Step::Open | Step::Over => return,
        };
        self.refuse(now, reason);
    }

    /// TLS with the peer is done.
    pub(super) fn proven(&mut self, now: Instant, peer: PeerId) {
        self.peer = Some(peer);
        self.look_up();
        let standing = if self.is_friend() { Standing::Reserved } else { Standing::Proven };
        self.requests.push_back(Request::Standing(standing));
        if self.came() == Leg::Private {
            return self.claim(now, peer);
        }
        self.step = Step::Upgrade(Box::default());
        self.due = now + self.config.deadlines.upgrade;
    }

    /// What is known about the peer.
    pub(super) fn who(&self) -> Who {
        Who {
            listener: self.config.listener,
            source: self.source,
            id: self.peer,
            kind: self.kind(),
            version: self.inspector.as_deref().and_then(Inspector::version),
        }
    }

    fn is_friend(&self) -> bool {
        self.rules.is_friend(&self.who())
    }

    /// More is known about the peer than before: other scopes may hold.
    fn look_up(&mut self) {
        self.table = self.rules.table(&self.who());
        if let Some(inspector) = &mut self.inspector {
            inspector.adopt(self.rules.schema().clone(), self.table.clone());
        }
    }

    /// Takes other rules from now on.
    pub(super) fn adopt(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
        self.look_up();
    }

    /// Bytes a second that the peer has to manage.
    pub(super) fn rate(&self) -> u32 {
        self.table.rate.unwrap_or(self.config.limits.rate)
    }

    /// The node is connected.
    pub(super) fn dialled(&mut self, now: Instant) {
        self.step = Step::NodeTls;
        self.due = now + self.config.deadlines.node;
        self.private.life = Life::Live;
        self.private.hear(now);
    }

    /// TLS with the node is done: the upgrade request goes out, or the node's own is waited for.
    pub(super) fn node_secured(&mut self, now: Instant, node: PeerId) {
        self.requests.push_back(Request::Node(node));
        if self.came() == Leg::Private {
            return self.await_node(now, node);
        }
        let (upgrade, request) = ClientUpgrade::new(&self.config.host, self.upgrade_key());
        self.private.head = request;
        self.private.watch(now);
        self.step = Step::NodeUpgrade(Box::new(upgrade));
    }

    /// The key of our upgrade request: another one for each session, and nothing that tells of the seed.
    pub(super) fn upgrade_key(&self) -> [u8; 16] {
        let peer = self.peer.map_or([0; 32], |PeerId(peer)| peer);
        let hash = Sha256::new_with_prefix(self.seed.to_be_bytes()).chain_update(peer).finalize();
        hash.first_chunk().copied().unwrap_or_default()
    }

    /// Plaintext from a leg.
    pub(super) fn plaintext(&mut self, now: Instant, leg: Leg, bytes: &mut [u8]) -> Result<(), Reason> {
        match leg {
            Leg::Public => self.peer_plaintext(now, bytes),
            Leg::Private => self.node_plaintext(now, bytes),
        }
    }

    /// Plaintext from the peer.
    fn peer_plaintext(&mut self, now: Instant, mut bytes: &mut [u8]) -> Result<(), Reason> {
        if self.came() == Leg::Private && !self.public.upgraded {
            let Some(taken) = self.peer_answers(now, bytes)? else { return Ok(()) };
            bytes = &mut bytes[taken..];
        }
        if let Step::Upgrade(upgrade) = &mut self.step {
            let Some(upgraded) = upgrade.receive(bytes)? else { return Ok(()) };
            self.public.head = upgraded.response;
            self.public.upgraded = true;
            self.step = Step::Handshake(Vec::new());
            self.due = now + self.config.deadlines.handshake;
            return Ok(());
        }
        let mut at = 0;
        while at < bytes.len() && self.verdict.is_none() {
            let (taken, piece) = self.public.reader.read(now, &mut bytes[at..])?;
            at += taken;
            match piece {
                None => {}
                Some(Piece::Data { bytes, left, fin, .. }) => self.peer_data(now, bytes, fin && left == 0)?,
                Some(Piece::Ping(payload)) => self.public.writer.pong(payload),
                Some(Piece::Pong) => {}
                Some(Piece::Close(frame)) => self.end(now, Reason::PeerClosed, frame.clone(), frame),
            }
        }
        self.inbound.within(now, self.verdict.is_none() && self.public.reader.is_within());
        Ok(())
    }

    /// A record of the peer's has begun: it must become complete in time, as a frame must. The upgrade has its own deadline.
    pub(super) fn begun(&mut self, now: Instant) {
        if self.verdict.is_none() && self.public.upgraded {
            self.inbound.within(now, true);
        }
    }

    fn peer_data(&mut self, now: Instant, bytes: &[u8], end: bool) -> Result<(), Reason> {
        if end {
            self.spoke = now;
        }
        match self.inward() {
            Some((inbound, mut through)) => {
                let taken = inbound.data(now, bytes, end, &mut through);
                self.tell_credit();
                taken
            }
            None => self.peer_handshake(now, bytes, end),
        }
    }

    /// The way from the peer to the node, once its handshake passed.
    fn inward(&mut self) -> Option<(&mut Inbound, Through<'_>)> {
        let rate = self.rate();
        let through = Through {
            inspector: self.inspector.as_deref_mut()?,
            writer: &mut self.private.writer,
            budgets: &self.config.budgets,
            tally: &mut self.tally,
            rate,
        };
        Some((&mut self.inbound, through))
    }

    /// The way from the node to the peer.
    fn outward(&mut self) -> (&mut Outbound, Back<'_>) {
        let back = Back {
            inspector: self.inspector.as_deref_mut(),
            writer: &mut self.public.writer,
            tally: &mut self.tally,
            privacy: self.config.privacy.as_ref(),
        };
        (&mut self.outbound, back)
    }

    /// Lets messages go on that waited for their turn.
    pub(super) fn forward(&mut self, now: Instant) {
        if self.verdict.is_some() {
            return;
        }
        let (outbound, mut back) = self.outward();
        outbound.forward(now, &mut back);
        if let Some((inbound, mut through)) = self.inward() {
            inbound.forward(now, &mut through);
        }
        self.public.watch(now);
        self.private.watch(now);
    }

    /// When a message that waits for its turn may go; never once the verdict is spoken.
    pub(super) fn forward_at(&self) -> Option<Instant> {
        if self.verdict.is_some() {
            return None;
        }
        let work =
            self.inspector.as_deref().filter(|_| self.inbound.is_detained()).and_then(Inspector::may_go_at);
        [work, self.outbound.free_at()].into_iter().flatten().min()
    }

    /// Bytes of the first message, which must be a handshake for this network from a kind of peer that is served here.
    fn peer_handshake(&mut self, now: Instant, bytes: &[u8], end: bool) -> Result<(), Reason> {
        let Step::Handshake(message) = &mut self.step else { return Err(Reason::ChiaNoHandshake) };
        let limit = HANDSHAKE_BYTES_MAX as usize + crate::chia::ID_HEADER_BYTES;
        if message.len() + bytes.len() > limit {
            self.finding = Some(explain::long_handshake(HANDSHAKE_BYTES_MAX));
            return Err(Reason::ChiaBadHandshake);
        }
        message.extend_from_slice(bytes);
        if let Some(&kind) = message.first().filter(|&&kind| kind != number::HANDSHAKE) {
            self.finding = Some(explain::no_handshake(self.rules.schema(), kind));
            return Err(Reason::ChiaNoHandshake);
        }
        if !end {
            return Ok(());
        }
        let mut message = core::mem::take(message);
        let checked = self.check_handshake(&mut message);
        let (kind, handshake) = checked.map_err(|(reason, found)| {
            self.finding = Some(found);
            reason
        })?;
        let limits = self.config.limits;
        let standard = self.config.standard.clone();
        let rules = (self.rules.schema().clone(), self.table.clone());
        let most = (self.table.hold.unwrap_or(limits.hold), limits.stream);
        self.inspector = Some(Box::new(Inspector::new(standard, rules, kind, &handshake, most, now)));
        self.look_up();
        self.software = clean(&handshake.software_version).into();
        self.inbound.put(&mut self.private.writer, &message, &mut self.tally);
        match self.came() {
            Leg::Public => {
                self.requests.push_back(Request::Dial { peer: self.peer, kind: Some(kind) });
                self.step = Step::Dial;
                self.due = now + self.config.deadlines.dial;
            }
            Leg::Private => self.introduced(),
        }
        Ok(())
    }

    /// Checks a whole handshake message and sets the server port that the node shall see in it.
    fn check_handshake(&self, message: &mut [u8]) -> Result<(NodeType, Handshake), (Reason, Box<Finding>)> {
        let malformed =
            || (Reason::EnvelopeMalformed, explain::handshake("", "its envelope does not fit it"));
        let envelope = Envelope::parse(message).ok().flatten().ok_or_else(malformed)?;
        if envelope.total() != message.len() as u64 {
            return Err(malformed());
        }
        let body = &mut message[envelope.header_bytes()..];
        let handshake =
            Handshake::decode(body).map_err(|error| (error.into(), explain::handshake("", error)))?;
        if handshake.network_id != self.config.network {
            let what = format!("\"{}\" instead of \"{}\"", clean(&handshake.network_id), self.config.network);
            return Err((Reason::ChiaWrongNetwork, explain::handshake("network_id", what)));
        }
        let served = |kind: &NodeType| self.config.types.contains(*kind) || self.is_friend();
        let Some(kind) = handshake.kind().filter(served) else {
            let what = handshake.kind().map_or("no such type".to_owned(), |kind| format!("a {kind}"));
            let what = format!("{what} is not served here");
            return Err((Reason::ChiaWrongType, explain::handshake("node_type", what)));
        };
        if let (Some(port), Some(at)) = (self.config.server_port, Handshake::server_port_bytes(body)) {
            body[at].copy_from_slice(&port.to_be_bytes());
        }
        Ok((kind, handshake))
    }

    /// Plaintext from the node.
    fn node_plaintext(&mut self, now: Instant, mut bytes: &mut [u8]) -> Result<(), Reason> {
        if self.came() == Leg::Private && !self.private.upgraded {
            return self.node_asks(now, bytes);
        }
        if let Step::NodeUpgrade(upgrade) = &mut self.step {
            let Some(taken) = upgrade.receive(bytes)? else { return Ok(()) };
            bytes = &mut bytes[taken..];
            self.private.upgraded = true;
            self.private.watch(now);
            self.step = Step::NodeHandshake;
            self.due = now + self.config.deadlines.node_handshake;
        }
        let mut at = 0;
        while at < bytes.len() && self.verdict.is_none() {
            let (taken, piece) =
                self.private.reader.read(now, &mut bytes[at..]).map_err(|_| Reason::NodeProtocol)?;
            at += taken;
            match piece {
                None => {}
                Some(Piece::Data { bytes, left, fin, .. }) => self.node_data(now, bytes, left, fin)?,
                Some(Piece::Ping(payload)) => self.private.writer.pong(payload),
                Some(Piece::Pong) => {}
                Some(Piece::Close(frame)) => self.end(now, Reason::NodeClosed, frame.clone(), frame),
            }
        }
        Ok(())
    }

    fn node_data(&mut self, now: Instant, bytes: &[u8], left: u64, fin: bool) -> Result<(), Reason> {
        let (outbound, mut back) = self.outward();
        outbound.data(now, bytes, left, fin, &mut back).inspect_err(|_| {
            let what =
                "the node said something other than one handshake before the peer had introduced itself";
            self.finding = Some(Box::new(Finding::new(what)));
        })?;
        if fin && left == 0 {
            match self.step {
                Step::NodeHandshake => self.step = Step::Open,
                // The node went first, and the peer's turn is next.
                Step::Handshake(_) => self.due = now + self.config.deadlines.handshake,
                _ => {}
            }
            // What it answered may make room for the next request.
            if let Some((inbound, mut through)) = self.inward() {
                inbound.forward(now, &mut through);
            }
        }
        while let Some(alarm) = self.inspector.as_deref_mut().and_then(Inspector::alarm) {
            self.requests.push_back(Request::Alarm(alarm));
        }
        Ok(())
    }

    /// Tells the host what the peer was useful for.
    fn tell_credit(&mut self) {
        if let Some(points) = self.inspector.as_deref_mut().and_then(Inspector::take_credit) {
            self.requests.push_back(Request::Credit(points));
        }
    }

    /// When a full node has been silent for too long.
    pub(super) fn idle_at(&self) -> Option<Instant> {
        let full_node = self.kind() == Some(NodeType::FullNode);
        (full_node && matches!(self.step, Step::Open)).then(|| self.spoke + self.config.deadlines.idle)
    }

    /// A leg had bytes waiting for the whole of the stall time: whether it took enough of them.
    pub(super) fn look_at_reader(&mut self, now: Instant, leg: Leg) {
        let deadlines = &self.config.deadlines;
        let (least, reason) = match leg {
            Leg::Public => (u64::from(self.rate()) * deadlines.stall.as_secs(), Reason::Stalled),
            Leg::Private => (1, Reason::NodeStalled),
        };
        if !self.half_mut(leg).reads(now, least) {
            self.refuse(now, reason);
        }
    }

    /// A leg sends nothing more: its side hung up, with or without a close frame.
    pub(super) fn hung_up(&mut self, now: Instant, leg: Leg) {
        let reason = match (leg, &self.step) {
            (Leg::Public, Step::Reach) => Reason::PeerUnreachable,
            (Leg::Public, _) => Reason::PeerClosed,
            (Leg::Private, Step::Dial) => Reason::DialFailed,
            (Leg::Private, _) => Reason::NodeLost,
        };
        self.refuse(now, reason);
    }

    /// A dial failed, or a claim, if it is still wanted.
    pub(super) fn dial_failed(&mut self, now: Instant, reason: Reason) {
        match self.step {
            Step::Dial => self.private.life = Life::Gone,
            Step::Reach => self.public.life = Life::Gone,
            Step::Claim => {}
            _ => return,
        }
        self.refuse(now, reason);
    }

    /// Cuts a leg that did not take its farewell.
    pub(super) fn cut(&mut self, leg: Leg) {
        let reason = self.verdict.unwrap_or(Reason::Aborted);
        self.half_mut(leg).life = Life::Gone;
        self.requests.push_back(Request::Close(leg, Close::Abort(reason)));
    }

    /// Ends the session for a reason of ours; both sides are told what a node would tell.
    pub(super) fn refuse(&mut self, now: Instant, reason: Reason) {
        self.end(now, reason, farewell::to_peer(reason), CloseFrame::new(close_code::NORMAL, ""));
    }

    /// Ends the session. What passed before still goes out; what is unfinished does not.
    pub(super) fn end(&mut self, now: Instant, reason: Reason, to_peer: CloseFrame, to_node: CloseFrame) {
        if self.verdict.is_some() {
            return;
        }
        self.verdict = Some(reason);
        self.explain(now, reason, &to_peer);
        let message = self.inspector.as_deref().and_then(Inspector::penalty);
        self.penalty = message.or_else(|| self.table.response(reason, None).ban());
        if let Some(inspector) = &mut self.inspector {
            inspector.finish();
        }
        self.inbound.abandon();
        let step = core::mem::replace(&mut self.step, Step::Over);
        match step {
            Step::Upgrade(_) => {
                self.public.head = ServerUpgrade::refusal(reason).unwrap_or_default().to_vec();
            }
            Step::PeerUpgrade { .. } => self.private.head = ServerUpgrade::BAD_GATEWAY.to_vec(),
            _ => {}
        }
        for (leg, frame) in [(Leg::Public, &to_peer), (Leg::Private, &to_node)] {
            let dialled = matches!((leg, &step), (Leg::Private, Step::Dial) | (Leg::Public, Step::Reach));
            if dialled && self.half(leg).life == Life::Absent {
                self.requests.push_back(Request::Close(leg, Close::Abort(reason)));
            }
            // A node that came was not answered before the peer had proved itself.
            let unanswered = matches!((leg, &step), (Leg::Private, Step::Reach | Step::Tls | Step::Claim));
            let answered = leg == self.came() && !unanswered;
            self.close(now, leg, reason, frame, answered);
        }
    }

    /// Closes one leg: in order if it stands between two frames, with a reset if it does not. Before the upgrade, only who was
    /// `answered` would understand anything.
    fn close(&mut self, now: Instant, leg: Leg, reason: Reason, frame: &CloseFrame, answered: bool) {
        let half = self.half_mut(leg);
        if half.life != Life::Live {
            return;
        }
        let between = half.writer.discard();
        if between && half.upgraded {
            half.writer.close(frame);
        }
        let in_order = between && (half.upgraded || answered);
        half.life = if in_order { Life::Closing(now) } else { Life::Gone };
        half.watch(now);
        let close = if in_order { Close::Finish(reason) } else { Close::Abort(reason) };
        self.requests.push_back(Request::Close(leg, close));
    }

    /// The kind of peer, once its handshake passed.
    pub(super) fn kind(&self) -> Option<NodeType> {
        self.inspector.as_deref().map(Inspector::kind)
    }
}
