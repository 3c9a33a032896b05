//! The difference between two policies, in words.

use std::collections::BTreeMap;

use hedgerow_dataplane::wire::Prefix;
use hedgerow_policy::chia::Schema;
use hedgerow_policy::rules::{Layer, LimitRule, Rules, Stated};

use super::Policy;

/// Changes that are told one by one.
const TOLD: usize = 200;

/// What is other in `new` than in `old`, a line each.
pub fn difference(old: &Policy, new: &Policy) -> Vec<String> {
    let (before, after) = (values(old), values(new));
    let mut changes = Vec::new();
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        match (before.get(key), after.get(key)) {
            (Some(a), Some(b)) if a != b => changes.push(format!("{key}: {a} -> {b}")),
            (Some(a), None) => changes.push(format!("{key}: {a} -> not stated")),
            (None, Some(b)) => changes.push(format!("{key}: not stated -> {b}")),
            _ => {}
        }
    }
    let (gone, come) = moved(&old.deny, &new.deny);
    changes.extend(told("denied prefixes", gone, come, new.deny.len()));
    let (gone, come) = moved(old.allow.prefixes(), new.allow.prefixes());
    changes.extend(told("allowed prefixes", gone, come, new.allow.prefixes().len()));
    if changes.len() > TOLD {
        let more = changes.len() - TOLD;
        changes.truncate(TOLD);
        changes.push(format!("and {more} more"));
    }
    changes
}

fn told(what: &str, gone: usize, come: usize, now: usize) -> Option<String> {
    (gone + come > 0).then(|| format!("{what}: {come} more, {gone} less, {now} now"))
}

/// How many prefixes of two sorted lists are in the first alone and in the second alone.
fn moved(old: &[Prefix], new: &[Prefix]) -> (usize, usize) {
    let only =
        |a: &[Prefix], b: &[Prefix]| a.iter().filter(|prefix| b.binary_search(prefix).is_err()).count();
    (only(old, new), only(new, old))
}

/// Everything that a policy states, by a name.
fn values(policy: &Policy) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let rules = &policy.rules;
    let schema = rules.schema();
    values.insert("schema".to_owned(), schema.version.to_string());
    layer(&mut values, "", rules.everybody(), schema);
    for scope in rules.scopes() {
        let at = format!("scope {}: ", scope.name);
        let whom = [
            scope.listener.map(|listener| format!("listener {listener}")),
            scope.kinds.map(|kinds| format!("type {kinds:?}")),
            scope.sources.as_ref().map(|sources| format!("source {sources:?}")),
            scope.versions.map(|versions| format!("version {versions}")),
            scope.friend.map(|friend| format!("friend {friend}")),
        ];
        values.insert(format!("{at}for"), whom.into_iter().flatten().collect::<Vec<_>>().join(", "));
        layer(&mut values, &at, &scope.layer, schema);
    }
    friends(&mut values, rules);
    if let Some(quotas) = &policy.quotas {
        let told = [
            ("per_source", quotas.per_source),
            ("per_24", quotas.per_24),
            ("per_16_percent", quotas.per_16_percent),
            ("v6_64", quotas.v6_64),
            ("v6_48", quotas.v6_48),
            ("source_per_minute", quotas.source_per_minute),
            ("prefix_per_minute", quotas.prefix_per_minute),
            ("sessions_per_second", quotas.sessions_per_second),
            ("source_bytes", quotas.source_bytes),
            ("prefix_bytes", quotas.prefix_bytes),
        ];
        values.extend(told.map(|(name, value)| (format!("quotas.{name}"), value.to_string())));
    }
    for (listener, slots) in policy.slots.iter().enumerate() {
        for (kind, count) in &slots.kinds {
            values.insert(format!("slots of listener {listener}: {kind}"), count.to_string());
        }
        if slots.friends > 0 {
            values.insert(format!("slots of listener {listener}: friend"), slots.friends.to_string());
        }
    }
    values
}

fn friends(values: &mut BTreeMap<String, String>, rules: &Rules) {
    let friends = rules.friends();
    for id in &friends.ids {
        values.insert(format!("friend {id}"), "yes".to_owned());
    }
    for network in &friends.networks {
        values.insert(format!("friends of {network}"), "yes".to_owned());
    }
}

fn layer(values: &mut BTreeMap<String, String>, at: &str, layer: &Layer, schema: &Schema) {
    let mut put = |name: String, value: Option<String>| {
        if let Some(value) = value {
            values.insert(format!("{at}{name}"), value);
        }
    };
    fn text<T: ToString>(stated: Option<Stated<T>>) -> Option<String> {
        stated.map(|stated| stated.value.to_string())
    }
    put("in_flight".into(), text(layer.numbers.in_flight));
    put("subscriptions".into(), text(layer.numbers.subscriptions));
    put("hold".into(), text(layer.numbers.hold));
    put("min_rate".into(), text(layer.numbers.rate));
    put("interiors enforced".into(), text(layer.numbers.interiors));
    for (&kind, rule) in &layer.messages {
        let name = schema.message(kind).map_or_else(|| kind.to_string(), |facts| facts.name.to_string());
        for (direction, LimitRule { messages, bytes, size }) in
            [("from_peer", rule.from_peer), ("to_peer", rule.to_peer)]
        {
            put(format!("message.{name}.{direction}.per_minute"), text(messages));
            put(format!("message.{name}.{direction}.bytes_per_minute"), text(bytes));
            put(format!("message.{name}.{direction}.size"), text(size));
        }
        put(format!("message.{name}.action"), text(rule.action));
        put(format!("message.{name}.shadow"), text(rule.shadow));
    }
    for (reason, rule) in &layer.reasons {
        put(format!("reason.{reason}.action"), text(rule.action));
        put(format!("reason.{reason}.shadow"), text(rule.shadow));
    }
}
