//! Where each value of a rule came from, for `check --why`.

use core::fmt;

use super::action::{Action, Response};
use super::layer::{Layer, LimitRule, Stated};
use super::table::{IN_FLIGHT, limit, merged, response, stated};
use super::{Rules, Who};
use crate::chia::{MessageType, Tables};
use crate::verdict::Reason;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The node's own tables, as the schema has them.
    Node,
    /// This program, where a file says nothing.
    BuiltIn,
    /// A line of the policy file.
    Line(u32),
}

/// A value of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// What it is.
    pub name: &'static str,
    /// The value; `None`: no limit.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
}

/// An effective rule, value by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Scopes that hold: name and line.
    pub scopes: Vec<(String, u32)>,
    /// Whether the peer is a friend.
    pub friend: bool,
    /// How much of the type the peer may send.
    pub from_peer: Vec<Value>,
    /// How much of it the peer is sent.
    pub to_peer: Vec<Value>,
    /// What is done about more of it.
    pub response: Vec<Value>,
    /// What is done about each reason that concerns a message, and numbers for all messages.
    pub others: Vec<Value>,
}

fn source<T>(stated: Option<Stated<T>>, otherwise: Source) -> Source {
    stated.map_or(otherwise, |stated| Source::Line(stated.line))
}

impl Rules {
    /// The rule for a message type as it holds for a peer whose session knows these tables.
    pub fn explain(&self, who: &Who, facts: &MessageType, tables: Tables) -> Explained {
        let set = self.matching(who);
        let layers = self.layers(set);
        let scopes = self.scopes.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1);
        Explained {
            scopes: scopes.map(|(_, scope)| (scope.name.clone(), scope.line)).collect(),
            friend: self.is_friend(who),
            from_peer: limits(facts, tables, &merged(&layers, facts.number, |rule| rule.from_peer)),
            to_peer: limits(facts, tables, &merged(&layers, facts.number, |rule| rule.to_peer)),
            response: self.responses(&layers, Reason::RateLimited, Some(facts.number)),
            others: numbers(&layers),
        }
    }

    /// What is done about a reason as it holds for a peer: the action, and whether it is only noted.
    pub fn explain_reason(&self, who: &Who, reason: Reason) -> Vec<Value> {
        self.responses(&self.layers(self.matching(who)), reason, None)
    }

    fn responses(&self, layers: &[&Layer], reason: Reason, kind: Option<u8>) -> Vec<Value> {
        let Response { action, shadow } = response(layers, reason, kind, self.enforcement);
        let message =
            |layer: &Layer| kind.and_then(|kind| layer.messages.get(&kind)).copied().unwrap_or_default();
        let of_reason = |layer: &Layer| layer.reasons.get(&reason).copied().unwrap_or_default();
        let stated_action: Option<Stated<Action>> = stated(layers, |layer| message(layer).action)
            .or_else(|| stated(layers, |layer| of_reason(layer).action));
        let stated_shadow: Option<Stated<bool>> = stated(layers, |layer| message(layer).shadow)
            .or_else(|| stated(layers, |layer| of_reason(layer).shadow));
        let node = Source::Node;
        vec![
            Value { name: "action", value: Some(action.to_string()), source: source(stated_action, node) },
            Value {
                name: "shadow",
                value: Some(shadow.to_string()),
                source: source(stated_shadow, Source::BuiltIn),
            },
        ]
    }
}

fn limits(facts: &MessageType, tables: Tables, rule: &LimitRule) -> Vec<Value> {
    let effective = limit(facts, tables, rule);
    let rate = effective.and_then(|limit| limit.rate);
    let number = |value: Option<u64>| value.filter(|&value| value != u64::MAX).map(|value| value.to_string());
    let messages = rate.map(|rate| rate.messages).filter(|&messages| messages != u32::MAX);
    let size = effective.map(|limit| limit.size).filter(|&size| size != u32::MAX);
    vec![
        Value {
            name: "per_minute",
            value: number(messages.map(u64::from)),
            source: source(rule.messages, Source::Node),
        },
        Value {
            name: "bytes_per_minute",
            value: number(rate.map(|rate| rate.bytes)),
            source: source(rule.bytes, Source::Node),
        },
        Value { name: "size", value: number(size.map(u64::from)), source: source(rule.size, Source::Node) },
    ]
}

fn numbers(layers: &[&Layer]) -> Vec<Value> {
    let in_flight = stated(layers, |layer| layer.numbers.in_flight);
    let subscriptions = stated(layers, |layer| layer.numbers.subscriptions);
    let interiors = stated(layers, |layer| layer.numbers.interiors);
    let judged = if interiors.is_some_and(|stated| stated.value) { "enforce" } else { "shadow" };
    vec![
        Value {
            name: "in_flight",
            value: Some(in_flight.map_or(IN_FLIGHT, |stated| stated.value).to_string()),
            source: source(in_flight, Source::BuiltIn),
        },
        Value {
            name: "subscriptions",
            value: subscriptions.map(|stated| stated.value.to_string()),
            source: source(subscriptions, Source::Node),
        },
        Value {
            name: "interiors",
            value: Some(judged.to_owned()),
            source: source(interiors, Source::BuiltIn),
        },
    ]
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Node => f.write_str("the node's own"),
            Source::BuiltIn => f.write_str("default"),
            Source::Line(line) => write!(f, "line {line}"),
        }
    }
}
