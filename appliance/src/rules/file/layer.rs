//! What is stated about messages and reasons, for everybody and for a scope.

use std::time::Duration;

use hedgerow_policy::Reason;
use hedgerow_policy::chia::{NodeType, NodeTypes, Schema};
use hedgerow_policy::rules::{
    Action, Layer, LimitRule, MessageRule, ReasonRule, Scope, Stated, VersionRange, fits, fitting,
};
use toml::de::DeTable;

use super::walk::{Value, Walk};
use crate::config::Diagnostic;
use crate::config::units::{Network, Period};
use crate::rules::words;

/// Reads what `table` states of a layer; other entries are somebody else's.
pub(super) fn read(walk: &mut Walk<'_>, table: &DeTable<'_>, schema: &Schema) -> Layer {
    let mut layer = Layer::default();
    for (key, value) in table.iter().filter(|(key, _)| words::LAYER.contains(&key.get_ref().as_ref())) {
        let numbers = &mut layer.numbers;
        match key.get_ref().as_ref() {
            "interiors" => {
                let word = walk.word(value, "value", words::INTERIORS);
                numbers.interiors = word.map(|word| walk.stated(&value.span(), word == "enforce"));
            }
            "in_flight" => numbers.in_flight = walk.number(value, &words::IN_FLIGHT).map(narrow),
            "subscriptions" => numbers.subscriptions = walk.number(value, &words::SUBSCRIPTIONS).map(narrow),
            "hold" => numbers.hold = walk.bytes(value, &words::HOLD).map(narrow),
            "min_rate" => numbers.rate = walk.bytes(value, &words::MIN_RATE).map(narrow),
            "message" => messages(walk, value, schema, &mut layer),
            _ => reasons(walk, value, &mut layer),
        }
    }
    layer
}

fn narrow(stated: Stated<i64>) -> Stated<u32> {
    Stated { value: u32::try_from(stated.value).unwrap_or(u32::MAX), line: stated.line }
}

/// `[message.NAME]`.
fn messages(walk: &mut Walk<'_>, value: &Value<'_>, schema: &Schema, layer: &mut Layer) {
    let names: Vec<&str> = schema.messages().iter().map(|facts| &*facts.name).collect();
    let Some(table) = walk.table(value) else { return };
    for (name, _, value) in walk.entries(table, "message", &names) {
        let Some(facts) = schema.messages().iter().find(|facts| *facts.name == *name) else { continue };
        let rule = message(walk, value);
        layer.messages.insert(facts.number, rule);
    }
}

fn message(walk: &mut Walk<'_>, value: &Value<'_>) -> MessageRule {
    let mut rule = MessageRule::default();
    let Some(table) = walk.table(value) else { return rule };
    for (word, _, value) in walk.entries(table, "field", words::MESSAGE) {
        match word {
            "from_peer" => rule.from_peer = limit(walk, value),
            "to_peer" => rule.to_peer = limit(walk, value),
            "action" => rule.action = action(walk, value, Reason::RateLimited),
            _ => rule.shadow = walk.flag(value),
        }
    }
    rule
}

fn limit(walk: &mut Walk<'_>, value: &Value<'_>) -> LimitRule {
    let mut rule = LimitRule::default();
    let Some(table) = walk.table(value) else { return rule };
    for (word, _, value) in walk.entries(table, "field", words::LIMIT) {
        match word {
            "per_minute" => rule.messages = walk.number(value, &words::PER_MINUTE).map(narrow),
            "size" => rule.size = walk.bytes(value, &words::SIZE).map(narrow),
            _ => {
                let bytes = walk.bytes(value, &words::BYTES_PER_MINUTE);
                rule.bytes = bytes.map(|bytes| Stated { value: bytes.value as u64, line: bytes.line });
            }
        }
    }
    rule
}

/// `[reason.NAME]`.
fn reasons(walk: &mut Walk<'_>, value: &Value<'_>, layer: &mut Layer) {
    let names: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    let Some(table) = walk.table(value) else { return };
    for (name, _, value) in walk.entries(table, "reason", &names) {
        let Some(&reason) = Reason::ALL.iter().find(|reason| reason.name() == name) else { continue };
        let Some(table) = walk.table(value) else { continue };
        let mut rule = ReasonRule::default();
        for (word, _, value) in walk.entries(table, "field", words::REASON) {
            match word {
                "action" => rule.action = action(walk, value, reason),
                _ => rule.shadow = walk.flag(value),
            }
        }
        layer.reasons.insert(reason, rule);
    }
}

/// `"log"`, `"delay"`, `"drop"`, `"close"` or `"ban 10m"`, as far as the reason can have it.
fn action(walk: &mut Walk<'_>, value: &Value<'_>, reason: Reason) -> Option<Stated<Action>> {
    let text = walk.text(value, "an action, such as \"close\" or \"ban 10m\"")?;
    let (word, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    let action = match (word, rest) {
        ("log", "") => Action::Log,
        ("delay", "") => Action::Delay,
        ("drop", "") => Action::Drop,
        ("close", "") => Action::Close,
        ("ban", time) => match time.parse::<Period>() {
            Ok(Period(time)) if in_range(time) => Action::Ban(time),
            _ => {
                let label = "expected a time from 1s to 366d, such as \"ban 10m\"";
                walk.error(value.span(), format!("`{text}` does not say how long"), label);
                return None;
            }
        },
        _ => {
            walk.unknown(value.span(), "action", text, fitting(reason));
            return None;
        }
    };
    if !fits(reason, action) {
        let title = format!("`{}` cannot be done about {reason}", action.word());
        let label = format!("expected {}", fitting(reason).join(", "));
        let help = "a session whose bytes or time ran out can only be ended; `shadow = true` lets nobody be banned for it";
        walk.errors.push(Diagnostic::error(value.span(), title, label).help(help));
        return None;
    }
    Some(walk.stated(&value.span(), action))
}

fn in_range(time: Duration) -> bool {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    (words::BAN_SECONDS.least..=words::BAN_SECONDS.most).contains(&seconds)
}

/// One `[[scope]]`.
pub(super) fn scope(
    walk: &mut Walk<'_>,
    value: &Value<'_>,
    schema: &Schema,
    listeners: &[&str],
) -> Option<Scope> {
    let table = walk.table(value)?;
    let known: Vec<&str> = words::SCOPE.iter().chain(words::LAYER).copied().collect();
    let mut scope = Scope { line: walk.line(&value.span()), ..Scope::default() };
    let mut narrows = false;
    for (word, _, value) in walk.entries(table, "field", &known) {
        narrows |= words::SCOPE.contains(&word) && word != "name";
        match word {
            "name" => scope.name = walk.text(value, "a name").unwrap_or_default().to_owned(),
            "listener" => {
                let name = walk.word(value, "listener", listeners);
                let place = name.and_then(|name| listeners.iter().position(|known| *known == name));
                scope.listener = place.map(|place| place as u16);
            }
            "type" => scope.kinds = Some(kinds(walk, value)),
            "source" => scope.sources = Some(sources(walk, value)),
            "version" => {
                let text = walk.text(value, "a comparison, such as \"< 2.5.0\"").unwrap_or("= 0");
                scope.versions = VersionRange::parse(text);
                if scope.versions.is_none() {
                    walk.error(
                        value.span(),
                        format!("`{text}` is no comparison"),
                        "expected such as \"< 2.5.0\"",
                    );
                }
            }
            "friend" => scope.friend = walk.flag(value).map(|flag| flag.value),
            _ => {}
        }
    }
    if scope.name.is_empty() {
        scope.name = format!("scope of line {}", scope.line);
    }
    if !narrows {
        let label = "expected listener, type, source, version or friend";
        walk.error(value.span(), "the scope does not say for whom it is", label);
    }
    scope.layer = read(walk, table, schema);
    Some(scope)
}

fn kinds(walk: &mut Walk<'_>, value: &Value<'_>) -> NodeTypes {
    let names: Vec<&str> = NodeType::ALL.iter().map(|kind| kind.name()).collect();
    let mut kinds = NodeTypes::NONE;
    for value in walk.list(value) {
        let kind = walk.word(value, "kind of peer", &names).and_then(NodeType::from_name);
        kinds = kind.map_or(kinds, |kind| kinds.with(kind));
    }
    kinds
}

fn sources(walk: &mut Walk<'_>, value: &Value<'_>) -> Vec<ipnet::IpNet> {
    let expected = "a network, such as \"203.0.113.0/24\"";
    let values = walk.list(value);
    if values.len() > words::SOURCES_MAX {
        let label = format!("expected {} at most: many belong into [lists]", words::SOURCES_MAX);
        walk.error(value.span(), format!("{} networks are too many for a scope", values.len()), label);
        return Vec::new();
    }
    let networks = values.into_iter().filter_map(|value| walk.parsed::<Network>(value, expected));
    networks.map(|network| network.0).collect()
}
