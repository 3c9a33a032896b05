//! Judges the envelope of each message that a peer sends, before its body is held or passed on.

use core::time::Duration;
use std::sync::Arc;

use super::asked::Asked;
use super::message::Envelope;
use super::messages::number;
use super::node_type::NodeType;
use super::schema::{MessageType, Schema};
use crate::session::Instant;
use crate::verdict::Reason;

/// Largest body of a message whose type is unknown here, in bytes.
const UNKNOWN_BYTES_MAX: u32 = 64 * 1024;

/// Messages of unknown types that pass in one [`UNKNOWN_PERIOD`].
const UNKNOWN_COUNT_MAX: u32 = 60;

const UNKNOWN_PERIOD: Duration = Duration::from_secs(60);

/// Bodies up to this size are held whole even where they might stream.
const WHOLE_BYTES_MAX: u32 = 64 * 1024;

/// How a message that passed is to be carried to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// Hold it until it is complete.
    Hold,
    /// The node asked for it and it is large: it may stream, its end withheld until all of it has come.
    Stream,
}

/// What one session's messages are judged by.
#[derive(Debug)]
pub struct Inspector {
    schema: Arc<Schema>,
    kind: NodeType,
    hold_max: u32,
    stream_max: u32,
    unknown: u32,
    unknown_since: Instant,
    /// Messages of types that are not in the table, in either direction.
    pub unknown_total: u64,
    /// Messages of the node that contradict the table. They pass: the node is right.
    pub odd_total: u64,
}

impl Inspector {
    /// For a peer of the given kind; bodies beyond `hold_max` bytes are refused unless they may stream, and then those
    /// beyond `stream_max`.
    pub fn new(
        schema: Arc<Schema>,
        kind: NodeType,
        hold_max: u32,
        stream_max: u32,
        now: Instant,
    ) -> Inspector {
        Inspector {
            schema,
            kind,
            hold_max,
            stream_max,
            unknown: 0,
            unknown_since: now,
            unknown_total: 0,
            odd_total: 0,
        }
    }

    /// The kind of peer that is judged.
    pub fn kind(&self) -> NodeType {
        self.kind
    }

    /// Judges a message from the peer by its envelope.
    pub fn judge(&mut self, now: Instant, envelope: &Envelope, asked: &mut Asked) -> Result<Judged, Reason> {
        if envelope.kind == number::HANDSHAKE {
            return Err(Reason::ChiaSecondHandshake);
        }
        match self.schema.message(envelope.kind) {
            Some(facts) if !facts.senders.is_empty() => self.known(envelope, facts, asked),
            _ => self.unknown(now, envelope),
        }
    }

    fn known(&self, envelope: &Envelope, facts: &MessageType, asked: &mut Asked) -> Result<Judged, Reason> {
        if !facts.may_come_from(self.kind) {
            return Err(Reason::NotForThisSender);
        }
        if envelope.body > facts.largest() {
            return Err(Reason::MessageTooLarge);
        }
        let solicited = asked.answers(&self.schema, envelope.kind, envelope.id);
        if solicited && envelope.body > WHOLE_BYTES_MAX && envelope.body <= self.stream_max {
            return Ok(Judged::Stream);
        }
        if envelope.body > self.hold_max {
            return Err(Reason::MessageTooLarge);
        }
        Ok(Judged::Hold)
    }

    /// A newer peer may know more types than this table, and so may the node: they pass within limits, and are counted.
    fn unknown(&mut self, now: Instant, envelope: &Envelope) -> Result<Judged, Reason> {
        self.unknown_total += 1;
        if now.saturating_sub(self.unknown_since) >= UNKNOWN_PERIOD {
            self.unknown_since = now;
            self.unknown = 0;
        }
        self.unknown += 1;
        if envelope.body > UNKNOWN_BYTES_MAX || self.unknown > UNKNOWN_COUNT_MAX {
            return Err(Reason::UnknownMessage);
        }
        Ok(Judged::Hold)
    }

    /// Takes note of a message from the node. It passes in any case.
    pub fn observe(&mut self, envelope: &Envelope, asked: &mut Asked) {
        asked.sent(&self.schema, envelope.kind, envelope.id);
        match self.schema.message(envelope.kind) {
            None => self.unknown_total += 1,
            Some(facts) if !facts.is_sent_by_full_nodes() || envelope.body > facts.largest() => {
                self.odd_total += 1
            }
            Some(_) => {}
        }
    }
}
