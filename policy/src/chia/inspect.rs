//! Judges what passes a session: each envelope before its body is held or passed on, each body as it comes.
//!
//! Nothing here is stricter than a node. What only consensus can judge, and types that our own nodes encode otherwise
//! than the schema says, is judged in shadow: noted, and passed. A peer is refused for what a node bans for.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use super::body::{Body, Fault, Scratches};
use super::conversation::{Answer, Conversation};
use super::handshake::Handshake;
use super::heights::{BEYOND_PEAK_MAX, HEIGHT_MARGIN, Heights, KnownPeak};
use super::limits::{Limiter, Minute, Pacer, Tables};
use super::message::Envelope;
use super::messages::number;
use super::node_type::NodeType;
use super::schema::{MessageType, Schema};
use super::subscriptions::Subscriptions;
use super::version::Version;
use crate::finding::Finding;
use crate::rules::{Action, Response, Table};
use crate::session::Instant;
use crate::verdict::Reason;

/// Largest body of a message whose type is unknown here, in bytes.
const UNKNOWN_BYTES_MAX: u32 = 64 * 1024;

/// Messages of unknown types that pass in one [`UNKNOWN_PERIOD`].
const UNKNOWN_COUNT_MAX: u32 = 60;

const UNKNOWN_PERIOD: Duration = Duration::from_secs(60);

/// Bodies up to this size are held whole even where they might stream.
const WHOLE_BYTES_MAX: u32 = 64 * 1024;

/// Replies to nothing that are thrown away before the session is ended for them.
const UNSOLICITED_MAX: u32 = 16;

/// Programs that are judged with their back-references at a time; beyond it those are not followed.
const SCRATCHES: usize = 4;

/// Alarms of one session that wait to be fetched.
const ALARMS_MAX: usize = 8;

/// What would have been done, of one session, that waits to be fetched; more is counted only.
const WOULD_MAX: usize = 16;

/// Capabilities by their numbers.
mod capability {
    pub(super) const RATE_LIMITS_V2: u16 = 3;
    pub(super) const RATE_LIMITS_V3: u16 = 7;
}

/// How a message that passed is to be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Hold it until it is complete.
    Hold,
    /// The node asked for it and it is large: it may stream, its end withheld until all of it has come.
    Stream,
    /// Take it and throw it away: the node has no use for it, and would punish the peer.
    Drop,
}

/// What was decided about a message and not carried out as a refusal: an action other than to end the session, or any
/// action in shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Would {
    /// Why.
    pub reason: Reason,
    /// The message's number.
    pub kind: u8,
    /// What was decided.
    pub response: Response,
}

/// What the sessions of a listener judge by, beside the rules.
#[derive(Clone, Debug)]
pub struct Standard {
    /// Memory in which programs in messages are judged.
    pub scratches: Arc<Scratches>,
    /// Types for which our nodes have shown the schema to be wrong.
    pub truth: Arc<Truth>,
    /// The highest block that the nodes know, against which requested heights are judged.
    pub peak: Arc<KnownPeak>,
    /// Whether the node's messages are paced to the limits of the peer, since the node does not limit itself.
    pub paces: bool,
}

impl Default for Standard {
    fn default() -> Standard {
        Standard {
            scratches: Scratches::new(SCRATCHES),
            truth: Arc::default(),
            peak: Arc::default(),
            paces: true,
        }
    }
}

/// Types whose bodies are judged in shadow, because a node of ours sent one that the schema does not know. Shared by
/// all sessions with the same nodes.
#[derive(Debug, Default)]
pub struct Truth([AtomicU64; 4]);

impl Truth {
    /// Whether a type is judged in shadow.
    pub fn is_shadowed(&self, kind: u8) -> bool {
        self.0[usize::from(kind / 64)].load(Ordering::Relaxed) >> (kind % 64) & 1 == 1
    }

    /// Judges a type in shadow from now on; true if it was not before.
    pub fn shadow(&self, kind: u8) -> bool {
        let bit = 1 << (kind % 64);
        self.0[usize::from(kind / 64)].fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

/// Something that an operator should know although nothing was refused: the schema is older than the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Our node sent a body that the schema does not know: its type is judged in shadow from now on.
    Body {
        /// The type.
        kind: u8,
        /// The field and what is wrong with it.
        what: String,
    },
    /// A type that the schema does not know came from a node of ours, or from a peer of a node that may know it.
    Type(u8),
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Alarm::Body { kind, what } => {
                write!(
                    f,
                    "our node's message of type {kind} is not as the schema says ({what}): judged in shadow"
                )
            }
            Alarm::Type(kind) => write!(f, "messages of type {kind} pass, which the schema does not know"),
        }
    }
}

/// What a side has said about itself.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    version: Option<Version>,
    second: bool,
    third: bool,
}

impl Side {
    fn new(handshake: &Handshake) -> Side {
        let has =
            |number| handshake.capabilities.iter().any(|(known, state)| *known == number && state == "1");
        Side {
            version: Version::parse(&handshake.software_version),
            second: has(capability::RATE_LIMITS_V2),
            third: has(capability::RATE_LIMITS_V3),
        }
    }
}

/// Messages that were not refused and should be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// Of types that are not in the schema, in either direction.
    pub unknown: u64,
    /// Of the node's, that contradict the schema. They pass: the node is right.
    pub odd: u64,
    /// With a flaw that would have been a reason to refuse, were it not judged in shadow.
    pub shadowed: u64,
    /// Thrown away: replies to nothing, and types that the node does not know.
    pub dropped: u64,
    /// Puzzle hashes and coins that the peer registered for.
    pub subscriptions: u64,
    /// Requests for heights far above every peak that is known.
    pub beyond_peak: u64,
    /// That waited for the next minute, as the rules say.
    pub delayed: u64,
}

/// What one session's messages are judged by.
#[derive(Debug)]
pub struct Inspector {
    standard: Standard,
    schema: Arc<Schema>,
    table: Arc<Table>,
    kind: NodeType,
    hold_max: u32,
    stream_max: u32,
    peer: Side,
    /// Known once the node's handshake has passed.
    node: Option<Side>,
    /// Windows that the peer sent, if windows were agreed on.
    windows: Option<Vec<(u8, u16)>>,
    limiter: Limiter,
    pacer: Pacer,
    conversation: Conversation,
    unknown: u32,
    unknown_since: Instant,
    unsolicited: u32,
    /// What the peer was useful for since the host was told.
    credit: u32,
    subscriptions: Subscriptions,
    heights: Heights,
    /// Until when the peer's messages wait because of a limit; zero if they do not.
    postponed: Instant,
    noted: Noted,
    alarms: VecDeque<Alarm>,
    would: VecDeque<Would>,
    finding: Option<Box<Finding>>,
    /// How long the peer's address is to be refused for what a message of it was refused for.
    penalty: Option<Duration>,
}

/// Points for what a node asked a peer for and got. A node asks the one who announced a thing first, so whoever answers most was
/// most often the first.
fn worth(kind: u8) -> u32 {
    match kind {
        number::RESPOND_BLOCK | number::RESPOND_BLOCKS | number::RESPOND_UNFINISHED_BLOCK => 4,
        number::RESPOND_TRANSACTION | number::RESPOND_SIGNAGE_POINT | number::RESPOND_END_OF_SUB_SLOT => 1,
        _ => 0,
    }
}

impl Inspector {
    /// For a peer that came with this handshake, by this schema and these rules; bodies beyond `hold_max` bytes are refused unless they may stream, and
    /// then those beyond `stream_max`.
    pub fn new(
        standard: Standard,
        (schema, table): (Arc<Schema>, Arc<Table>),
        kind: NodeType,
        handshake: &Handshake,
        (hold_max, stream_max): (u32, u32),
        now: Instant,
    ) -> Inspector {
        Inspector {
            standard,
            schema,
            table,
            kind,
            hold_max,
            stream_max,
            peer: Side::new(handshake),
            node: None,
            windows: None,
            limiter: Limiter::default(),
            pacer: Pacer::default(),
            conversation: Conversation::default(),
            unknown: 0,
            unknown_since: now,
            unsolicited: 0,
            credit: 0,
            subscriptions: Subscriptions::default(),
            heights: Heights::default(),
            postponed: Instant::ZERO,
            noted: Noted::default(),
            alarms: VecDeque::new(),
            would: VecDeque::new(),
            finding: None,
            penalty: None,
        }
    }

    /// The kind of peer that is judged.
    pub fn kind(&self) -> NodeType {
        self.kind
    }

    /// What was not refused and should be known.
    pub fn noted(&self) -> Noted {
        self.noted
    }

    /// The message, field, place and limit of the refusal, once.
    pub fn finding(&mut self) -> Option<Box<Finding>> {
        self.finding.take()
    }

    /// How long the peer's address is to be refused, where the rules say so of the message that was refused.
    pub fn penalty(&self) -> Option<Duration> {
        self.penalty
    }

    /// The peer's software, as far as it can be compared.
    pub fn version(&self) -> Option<Version> {
        self.peer.version
    }

    /// Judges by other rules from now on. What was counted stays.
    pub fn adopt(&mut self, schema: Arc<Schema>, table: Arc<Table>) {
        self.schema = schema;
        self.table = table;
    }

    /// The next thing that was decided and not carried out as a refusal.
    pub fn would(&mut self) -> Option<Would> {
        self.would.pop_front()
    }

    /// Whether there is something for [`Inspector::would`] or [`Inspector::minute`].
    pub fn has_facts(&self) -> bool {
        !self.would.is_empty() || self.limiter.is_over()
    }

    /// What came of each type in the last minute that is over, once.
    pub fn minute(&mut self) -> Vec<Minute> {
        self.limiter.take_over()
    }

    /// The session is over, and with it its last minute.
    pub fn finish(&mut self) {
        self.limiter.finish();
    }

    /// The next alarm.
    pub fn alarm(&mut self) -> Option<Alarm> {
        self.alarms.pop_front()
    }

    /// The tables that both sides know. Before the node has spoken, it is taken to know what the peer knows.
    pub fn tables(&self) -> Tables {
        let node = self.node.unwrap_or(self.peer);
        Tables { second: self.peer.second && node.second, third: self.peer.third && node.third }
    }

    /// Does about a message what the rules say for a reason. `None`: it is judged on as if there were none.
    fn rule(&mut self, reason: Reason, envelope: &Envelope, what: Finding) -> Result<Option<Judged>, Reason> {
        let response = self.table.response(reason, Some(envelope.kind));
        if !response.passes(reason) {
            self.penalty = response.ban();
            return Err(self.refuse(reason, envelope, what));
        }
        if self.would.len() < WOULD_MAX {
            self.would.push_back(Would { reason, kind: envelope.kind, response });
        }
        match response.action {
            Action::Delay if !response.shadow => {
                let tables = self.tables();
                let until = self.limiter.postpone(self.table.from_peer(), tables, envelope);
                self.postponed = self.postponed.max(until);
                self.noted.delayed += 1;
                Ok(None)
            }
            Action::Drop if !response.shadow => {
                self.noted.dropped += 1;
                Ok(Some(Judged::Drop))
            }
            _ => {
                self.noted.shadowed += 1;
                Ok(None)
            }
        }
    }

    /// A message is refused for this.
    pub fn refuse(&mut self, reason: Reason, envelope: &Envelope, what: Finding) -> Reason {
        let name = self.schema.message(envelope.kind).map(|facts| facts.name.to_string());
        let message = Some(name.unwrap_or_else(|| format!("type {}", envelope.kind)));
        self.finding = Some(Box::new(Finding { kind: Some(envelope.kind), message, ..what }));
        reason
    }

    fn alarm_about(&mut self, alarm: Alarm) {
        if self.alarms.len() < ALARMS_MAX {
            self.alarms.push_back(alarm);
        }
    }

    /// Judges a message from the peer by its envelope.
    pub fn judge(&mut self, now: Instant, envelope: &Envelope) -> Result<Judged, Reason> {
        if envelope.kind == number::HANDSHAKE {
            return Err(self.refuse(
                Reason::ChiaSecondHandshake,
                envelope,
                Finding::new("it was sent before"),
            ));
        }
        let schema = self.schema.clone();
        let facts = schema.message(envelope.kind);
        self.heights.ask(facts.filter(|facts| facts.is_request()).and_then(|facts| facts.height));
        let counted = self.limiter.count(now, self.table.from_peer(), self.tables(), envelope);
        if let Err(excess) = counted
            && let Some(judged) = self.rule(Reason::RateLimited, envelope, excess.into())?
        {
            return Ok(judged);
        }
        let empty = envelope.body == 0;
        let answer = self.conversation.answer(&schema, envelope.kind, envelope.id, empty, self.peer.version);
        if answer == Answer::Solicited {
            self.credit += worth(envelope.kind);
        }
        match facts {
            Some(facts) if !facts.senders.is_empty() => self.known(envelope, facts, answer),
            _ if answer == Answer::Solicited => self.size(envelope, false),
            _ => self.unknown(now, envelope),
        }
    }

    /// Points for what the peer has brought since this was asked last.
    pub fn take_credit(&mut self) -> Option<u32> {
        Some(std::mem::take(&mut self.credit)).filter(|points| *points > 0)
    }

    fn known(&mut self, envelope: &Envelope, facts: &MessageType, answer: Answer) -> Result<Judged, Reason> {
        if answer != Answer::Solicited && !facts.may_come_from(self.kind) {
            let what = format!("a {} never sends it to a full node", self.kind);
            if let Some(judged) = self.rule(Reason::NotForThisSender, envelope, Finding::new(what))? {
                return Ok(judged);
            }
        }
        let windows = envelope.kind == number::CONFIGURE_WINDOW_SIZES;
        if windows && (!self.tables().third || self.windows.is_some()) {
            let what = "windows were not agreed on, or set before";
            if let Some(judged) = self.rule(Reason::WindowsUnexpected, envelope, Finding::new(what))? {
                return Ok(judged);
            }
        }
        match answer {
            Answer::Solicited => self.size(envelope, true),
            Answer::Pushed | Answer::No => self.size(envelope, false),
            Answer::Unsolicited => self.unsolicited(envelope),
        }
    }

    fn size(&mut self, envelope: &Envelope, streams: bool) -> Result<Judged, Reason> {
        if streams && envelope.body > WHOLE_BYTES_MAX && envelope.body <= self.stream_max {
            return Ok(Judged::Stream);
        }
        if envelope.body > self.hold_max {
            let what = format!(
                "{} bytes, more than the {} that are held for a message",
                envelope.body, self.hold_max
            );
            let found = Finding::new(what).limited("hold", self.hold_max);
            return Err(self.refuse(Reason::MessageTooLarge, envelope, found));
        }
        Ok(Judged::Hold)
    }

    /// A reply that nobody waits for: a node would ban for it, so it does not reach one.
    fn unsolicited(&mut self, envelope: &Envelope) -> Result<Judged, Reason> {
        self.noted.dropped += 1;
        self.unsolicited = self.unsolicited.saturating_add(1);
        if self.unsolicited > UNSOLICITED_MAX {
            let what = format!("answers nothing, as {UNSOLICITED_MAX} before it");
            // Whatever the rules say short of an end: it reaches no node.
            self.rule(
                Reason::Unsolicited,
                envelope,
                Finding::new(what).limited("unsolicited", UNSOLICITED_MAX),
            )?;
        }
        Ok(Judged::Drop)
    }

    /// A newer peer may know more types than the schema. Where the node may know them too, they pass within limits; a node
    /// whose version the schema knows would ban the peer for them, so they do not reach it.
    fn unknown(&mut self, now: Instant, envelope: &Envelope) -> Result<Judged, Reason> {
        self.noted.unknown += 1;
        if now.saturating_sub(self.unknown_since) >= UNKNOWN_PERIOD {
            self.unknown_since = now;
            self.unknown = 0;
        }
        self.unknown += 1;
        if envelope.body > UNKNOWN_BYTES_MAX || self.unknown > UNKNOWN_COUNT_MAX {
            let what = format!(
                "an unknown type with {} bytes, number {} in a minute; {UNKNOWN_BYTES_MAX} and {UNKNOWN_COUNT_MAX} pass",
                envelope.body, self.unknown
            );
            let (rule, limit) = match envelope.body > UNKNOWN_BYTES_MAX {
                true => ("unknown_bytes", UNKNOWN_BYTES_MAX),
                false => ("unknown_per_minute", UNKNOWN_COUNT_MAX),
            };
            let found = Finding::new(what).limited(rule, limit);
            if let Some(judged) = self.rule(Reason::UnknownMessage, envelope, found)? {
                return Ok(judged);
            }
            // Memory is bounded whatever the rules say.
            if envelope.body > self.hold_max {
                return self.size(envelope, false);
            }
        }
        let node = self.node.and_then(|node| node.version);
        if node.is_some_and(|version| version <= self.schema.version) {
            self.noted.dropped += 1;
            return Ok(Judged::Drop);
        }
        self.alarm_about_type(envelope.kind);
        Ok(Judged::Hold)
    }

    fn alarm_about_type(&mut self, kind: u8) {
        if self.standard.truth.shadow(kind) {
            self.alarm_about(Alarm::Type(kind));
        }
    }

    /// A body of the peer's is whole and was judged; `last` is its last byte.
    pub fn whole(&mut self, envelope: &Envelope, last: u8) -> Result<(), Reason> {
        self.in_reach(envelope)?;
        let added = self.subscriptions.note(envelope, last);
        self.noted.subscriptions += added;
        let count = self.subscriptions.count();
        match self.table.subscriptions {
            Some(most) if added > 0 && count > u64::from(most) => {
                let what = format!("{added} puzzle hashes or coins more to be told of, {count} in all");
                let found = Finding::new(what).limited("subscriptions", most);
                self.rule(Reason::Subscriptions, envelope, found).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Counts a request for what lies far above every known peak, and judges it once there were many.
    fn in_reach(&mut self, envelope: &Envelope) -> Result<(), Reason> {
        let Some((wanted, known)) = self.heights.beyond(self.standard.peak.get()) else { return Ok(()) };
        self.noted.beyond_peak += 1;
        if self.noted.beyond_peak <= BEYOND_PEAK_MAX {
            return Ok(());
        }
        let what = format!(
            "height {wanted}, more than {HEIGHT_MARGIN} above the highest that is known, {known}; request number {} of that kind",
            self.noted.beyond_peak
        );
        let found = Finding::new(what).limited("beyond_peak", BEYOND_PEAK_MAX);
        self.rule(Reason::BeyondPeak, envelope, found).map(drop)
    }

    /// Whether a message of the peer's may go to the node now; an expensive request then counts as being worked on.
    pub fn may_go(&mut self, now: Instant, envelope: &Envelope) -> bool {
        if self.postponed > now {
            return false;
        }
        self.postponed = Instant::ZERO;
        match self.schema.message(envelope.kind) {
            Some(facts) if facts.is_expensive() => {
                self.conversation.begin_work(now, facts, envelope.id, self.table.in_flight)
            }
            _ => true,
        }
    }

    /// When a message that waits may go at the latest.
    pub fn may_go_at(&self) -> Option<Instant> {
        if self.postponed > Instant::ZERO {
            return Some(self.postponed);
        }
        self.conversation.work_until()
    }

    /// The body of a message from the node with this envelope, to be judged as it comes; `None` if nothing is known of it.
    pub fn begins(&mut self, envelope: &Envelope) -> Option<Body> {
        let height = self.schema.message(envelope.kind).and_then(|facts| facts.height);
        self.heights.say(envelope.kind, height);
        self.body(envelope)
    }

    /// A body with this envelope, to be judged as it comes; `None` if nothing is known of it.
    pub fn body(&self, envelope: &Envelope) -> Option<Body> {
        Body::of(&self.schema, envelope.kind, envelope.body)
    }

    /// Judges a piece of a body from the peer. A body that is not judged on is taken away.
    pub fn inspect(
        &mut self,
        envelope: &Envelope,
        body: &mut Option<Body>,
        piece: &[u8],
    ) -> Result<(), Reason> {
        self.heights.asking(piece);
        let Some(fault) = self.fault(body, piece) else { return Ok(()) };
        *body = None;
        let shadow =
            fault.interior && !self.table.interiors || self.standard.truth.is_shadowed(envelope.kind);
        // A node takes an empty body with the id of its request for "nothing".
        if shadow || envelope.body == 0 && envelope.id.is_some() && self.is_reply(envelope.kind) {
            self.noted.shadowed += 1;
            return Ok(());
        }
        let found = self.place(&fault);
        self.rule(Reason::BodyMalformed, envelope, found).map(drop)
    }

    fn is_reply(&self, kind: u8) -> bool {
        self.schema.message(kind).is_some_and(|facts| facts.is_reply)
    }

    fn fault(&self, body: &mut Option<Body>, piece: &[u8]) -> Option<Fault> {
        body.as_mut()?.take(&self.schema, &self.standard.scratches, piece).err()
    }

    fn place(&self, fault: &Fault) -> Finding {
        let field = Some(fault.path(&self.schema));
        Finding { field, byte: Some(fault.at.into()), ..Finding::new(fault.flaw) }
    }

    /// The node's handshake, the whole body.
    pub fn node_handshake(&mut self, body: &[u8]) {
        match Handshake::decode(body) {
            Ok(handshake) => self.node = Some(Side::new(&handshake)),
            Err(_) => self.noted.odd += 1,
        }
    }

    /// The peer's windows, the whole body: how many requests of each type it works on at a time, 0 for no limit.
    pub fn peer_windows(&mut self, body: &[u8]) {
        let entry = |entry: &[u8; 3]| (entry[0], u16::from_be_bytes([entry[1], entry[2]]));
        let (entries, _) = body.get(4..).unwrap_or_default().as_chunks::<3>();
        // A node takes 256 entries; there are no more types.
        self.windows = Some(entries.iter().take(256).map(entry).filter(|&(_, window)| window > 0).collect());
    }

    /// Takes note of a message from the node by its envelope.
    fn observe(&mut self, now: Instant, envelope: &Envelope) {
        let schema = self.schema.clone();
        self.conversation.asked(now, &schema, envelope.kind, envelope.id);
        match schema.message(envelope.kind) {
            None => {
                self.noted.unknown += 1;
                self.alarm_about_type(envelope.kind);
            }
            Some(facts) if !facts.is_sent_by_full_nodes() || envelope.body > facts.largest() => {
                self.noted.odd += 1
            }
            Some(_) => {}
        }
    }

    /// Judges a piece of a body from the node: what does not fit shows that the schema is wrong.
    pub fn learn(&mut self, envelope: &Envelope, body: &mut Option<Body>, piece: &[u8]) {
        self.heights.saying(piece);
        let Some(fault) = self.fault(body, piece) else { return };
        *body = None;
        self.noted.odd += 1;
        if self.standard.truth.shadow(envelope.kind) {
            let what = self.place(&fault).to_string();
            self.alarm_about(Alarm::Body { kind: envelope.kind, what });
        }
    }

    /// When a message of the node's may go to the peer: in the past, if at once.
    pub fn free_at(&self, now: Instant, envelope: &Envelope) -> Instant {
        if !self.standard.paces {
            return Instant::ZERO;
        }
        if self.tables().third
            && let Some(window) = self.window(envelope.kind)
            && self.conversation.waiting(now, envelope.kind) >= usize::from(window)
        {
            return now + PACED_RETRY;
        }
        self.pacer.free_at(self.table.to_peer(), self.tables(), envelope.kind)
    }

    fn window(&self, kind: u8) -> Option<u16> {
        self.windows.as_ref()?.iter().find(|(known, _)| *known == kind).map(|(_, window)| *window)
    }

    /// A message of the node's goes to the peer.
    pub fn goes_out(&mut self, now: Instant, envelope: &Envelope) {
        if self.standard.paces {
            self.pacer.went(now, self.table.to_peer(), self.tables(), envelope);
        }
        self.observe(now, envelope);
    }

    /// A message of the node's went to the peer, to its last byte.
    pub fn went_out(&mut self, envelope: &Envelope) {
        self.conversation.replied(envelope.kind, envelope.id, &self.schema);
    }
}

/// How often it is looked whether a request of the node's fits the peer's window.
const PACED_RETRY: Duration = Duration::from_secs(1);
