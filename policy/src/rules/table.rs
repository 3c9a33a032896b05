//! Rules as sessions use them: arrays by message number and by reason, nothing to search for.

use std::sync::Arc;

use super::Enforcement;
use super::action::{Response, is_passable};
use super::layer::{Layer, LimitRule, MessageRule, Stated};
use crate::chia::{Limit, MessageType, Rate, Schema, Tables};
use crate::verdict::Reason;

/// Numbers that a message can have.
const NUMBERS: usize = 256;

/// Limits on every type in one direction, by which of the node's tables both sides know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    by_number: Box<[[Option<Limit>; 4]]>,
    aggregate: Rate,
}

/// The place of a limit by the tables that both sides know.
fn place(tables: Tables) -> usize {
    usize::from(tables.second) | usize::from(tables.third) << 1
}

impl Limits {
    /// The node's own.
    pub fn of(schema: &Schema) -> Limits {
        Limits::with(schema, |_| LimitRule::default())
    }

    /// The node's own, but for what `rule` says about a number.
    fn with(schema: &Schema, rule: impl Fn(u8) -> LimitRule) -> Limits {
        let mut by_number = vec![[None; 4]; NUMBERS];
        for facts in schema.messages() {
            let rule = rule(facts.number);
            for second in [false, true] {
                for third in [false, true] {
                    let tables = Tables { second, third };
                    by_number[usize::from(facts.number)][place(tables)] = limit(facts, tables, &rule);
                }
            }
        }
        Limits { by_number: by_number.into(), aggregate: schema.aggregate }
    }

    /// The limit on a type; `None` where windows take its place, or nothing names it.
    #[inline]
    pub fn limit(&self, tables: Tables, kind: u8) -> Option<Limit> {
        self.by_number.get(usize::from(kind)).and_then(|limits| limits[place(tables)])
    }

    /// The limit over all types that count for it.
    pub fn aggregate(&self) -> Rate {
        self.aggregate
    }
}

/// The node's limit, changed as far as the rule says.
pub(super) fn limit(facts: &MessageType, tables: Tables, rule: &LimitRule) -> Option<Limit> {
    let node = tables.limit(facts);
    if rule.is_empty() {
        return node;
    }
    let value = |stated: Option<Stated<u32>>| stated.map(|stated| stated.value);
    let size = value(rule.size).or(node.map(|limit| limit.size)).unwrap_or(u32::MAX);
    let rate = node.and_then(|limit| limit.rate);
    let bytes = rule.bytes.map(|bytes| bytes.value);
    let rate = match (value(rule.messages), bytes, rate) {
        (None, None, rate) => rate,
        (messages, bytes, rate) => Some(Rate {
            messages: messages.or(rate.map(|rate| rate.messages)).unwrap_or(u32::MAX),
            bytes: bytes.or(rate.map(|rate| rate.bytes)).unwrap_or(u64::MAX),
            aggregate: rate.is_some_and(|rate| rate.aggregate),
        }),
    };
    Some(Limit { size, rate })
}

/// What holds for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    from_peer: Limits,
    to_peer: Limits,
    by_number: Box<[Response]>,
    by_reason: Box<[Response]>,
    /// Expensive requests that a node works on at a time; more wait.
    pub in_flight: usize,
    /// Puzzle hashes and coins that a peer may ask to be told of, where the rules say so.
    pub subscriptions: Option<u32>,
    /// Largest body that is held whole for a node, in bytes, where the rules say so.
    pub hold: Option<u32>,
    /// Bytes a second that a peer has to manage, where the rules say so.
    pub rate: Option<u32>,
    /// Whether flaws inside blocks, headers and proofs count.
    pub interiors: bool,
}

/// Expensive requests of a peer that a node works on at a time.
pub(super) const IN_FLIGHT: u32 = 2;

impl Table {
    pub(super) fn new(schema: &Arc<Schema>, layers: &[&Layer], enforcement: Enforcement) -> Table {
        let by_reason: Box<[Response]> =
            Reason::ALL.iter().map(|&reason| response(layers, reason, None, enforcement)).collect();
        let rated = |kind| response(layers, Reason::RateLimited, Some(kind), enforcement);
        let last = |get: fn(&Layer) -> Option<Stated<u32>>| stated(layers, get).map(|stated| stated.value);
        Table {
            from_peer: Limits::with(schema, |kind| merged(layers, kind, |rule| rule.from_peer)),
            to_peer: Limits::with(schema, |kind| merged(layers, kind, |rule| rule.to_peer)),
            by_number: (0..NUMBERS).map(|kind| rated(kind as u8)).collect(),
            by_reason,
            in_flight: last(|layer| layer.numbers.in_flight).unwrap_or(IN_FLIGHT) as usize,
            subscriptions: last(|layer| layer.numbers.subscriptions),
            hold: last(|layer| layer.numbers.hold),
            rate: last(|layer| layer.numbers.rate),
            interiors: stated(layers, |layer| layer.numbers.interiors).is_some_and(|stated| stated.value),
        }
    }

    /// How much of each type peers may send.
    pub fn from_peer(&self) -> &Limits {
        &self.from_peer
    }

    /// How much of each type a peer is sent.
    pub fn to_peer(&self) -> &Limits {
        &self.to_peer
    }

    /// What is done about a reason; `kind` is the message's number.
    #[inline]
    pub fn response(&self, reason: Reason, kind: Option<u8>) -> Response {
        let of_kind = kind.filter(|_| reason == Reason::RateLimited);
        let found = match of_kind {
            Some(kind) => self.by_number.get(usize::from(kind)),
            None => self.by_reason.get(reason as usize),
        };
        found.copied().unwrap_or(Response::usual(reason))
    }
}

/// The last of the layers that states something.
pub(super) fn stated<T>(layers: &[&Layer], get: impl Fn(&Layer) -> Option<Stated<T>>) -> Option<Stated<T>> {
    layers.iter().rev().find_map(|layer| get(layer))
}

/// The last statement about each part of a limit.
pub(super) fn merged(layers: &[&Layer], kind: u8, get: impl Fn(&MessageRule) -> LimitRule) -> LimitRule {
    let rule = |layer: &Layer| layer.messages.get(&kind).map(&get).unwrap_or_default();
    LimitRule {
        messages: stated(layers, |layer| rule(layer).messages),
        bytes: stated(layers, |layer| rule(layer).bytes),
        size: stated(layers, |layer| rule(layer).size),
    }
}

/// What is stated about a reason: a message's own before that of the reason, a later layer before an earlier one.
pub(super) fn response(
    layers: &[&Layer],
    reason: Reason,
    kind: Option<u8>,
    enforcement: Enforcement,
) -> Response {
    let message =
        |layer: &Layer| kind.and_then(|kind| layer.messages.get(&kind)).copied().unwrap_or_default();
    let of_reason = |layer: &Layer| layer.reasons.get(&reason).copied().unwrap_or_default();
    let action = stated(layers, |layer| message(layer).action);
    let action = action.or_else(|| stated(layers, |layer| of_reason(layer).action));
    let shadow = stated(layers, |layer| message(layer).shadow);
    let shadow = shadow.or_else(|| stated(layers, |layer| of_reason(layer).shadow));
    Response {
        action: action.map_or(Response::usual(reason).action, |action| action.value),
        shadow: shadow.is_some_and(|shadow| shadow.value) || enforcement == Enforcement::Shadow,
    }
}

/// Whether what the response says about a reason leaves the session alone.
impl Response {
    /// Whether a session goes on after it: a shadow passes whatever can be passed.
    pub fn passes(self, reason: Reason) -> bool {
        is_passable(reason) && (self.shadow || !self.action.ends())
    }
}
