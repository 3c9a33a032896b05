//! A JSON Schema of `policy.toml`, for editors: made from the words and the facts that the reader goes by.

use hedgerow_policy::Reason;
use hedgerow_policy::chia::{NodeType, Schema};
use hedgerow_policy::rules::fitting;
use serde_json::{Map, Value, json};

use super::words::{self, Range};

/// The schema, by a protocol's.
pub fn json(protocol: &Schema) -> Value {
    let mut top = layer(protocol);
    top.insert("version".into(), json!({ "const": 1, "description": "The format of this file." }));
    top.insert(
        "schema".into(),
        json!({ "type": "string", "description": "A protocol schema in place of the built-in one." }),
    );
    top.insert("scope".into(), json!({ "type": "array", "items": scope(protocol) }));
    top.insert(
        "quotas".into(),
        object(words::QUOTAS, |word| match words::counts_bytes(word) {
            true => bytes(&words::quota(word)),
            false => number(&words::quota(word)),
        }),
    );
    top.insert("friends".into(), object(words::FRIENDS, |_| texts()));
    top.insert("lists".into(), object(words::LISTS, |_| texts()));
    let kinds: Vec<&str> = NodeType::ALL.iter().map(|kind| kind.name()).chain(["friend"]).collect();
    top.insert(
        "slots".into(),
        json!({ "type": "object", "additionalProperties": object(&kinds, |_| number(&words::SLOTS)) }),
    );
    debug_assert!(words::TOP.iter().all(|word| top.contains_key(*word)));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hedgerow's policy.toml",
        "type": "object",
        "required": ["version"],
        "additionalProperties": false,
        "properties": top,
    })
}

fn layer(protocol: &Schema) -> Map<String, Value> {
    let names: Vec<&str> = protocol.messages().iter().map(|facts| &*facts.name).collect();
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    let of = |name: &str| Reason::ALL.iter().find(|reason| reason.name() == name).copied();
    let reason = |name: &str| {
        object(words::REASON, |word| match (word, of(name)) {
            ("action", Some(reason)) => action(reason),
            _ => json!({ "type": "boolean" }),
        })
    };
    Map::from_iter([
        ("interiors".to_owned(), json!({ "enum": words::INTERIORS })),
        ("in_flight".to_owned(), number(&words::IN_FLIGHT)),
        ("subscriptions".to_owned(), number(&words::SUBSCRIPTIONS)),
        ("hold".to_owned(), bytes(&words::HOLD)),
        ("min_rate".to_owned(), bytes(&words::MIN_RATE)),
        ("message".to_owned(), object(&names, |_| message())),
        ("reason".to_owned(), object(&reasons, reason)),
    ])
}

fn message() -> Value {
    let limit = || {
        object(words::LIMIT, |word| match word {
            "per_minute" => number(&words::PER_MINUTE),
            "size" => bytes(&words::SIZE),
            _ => bytes(&words::BYTES_PER_MINUTE),
        })
    };
    object(words::MESSAGE, |word| match word {
        "action" => action(Reason::RateLimited),
        "shadow" => json!({ "type": "boolean" }),
        _ => limit(),
    })
}

fn scope(protocol: &Schema) -> Value {
    let mut fields = layer(protocol);
    let kinds: Vec<&str> = NodeType::ALL.iter().map(|kind| kind.name()).collect();
    let kind = json!({ "enum": kinds });
    for word in words::SCOPE {
        let field = match *word {
            "type" => json!({ "anyOf": [kind, { "type": "array", "items": kind }] }),
            "source" => texts(),
            "version" => json!({ "type": "string", "pattern": "^\\s*(<=|>=|<|>|=)\\s*[0-9]+(\\.[0-9]+)*" }),
            "friend" => json!({ "type": "boolean" }),
            _ => json!({ "type": "string" }),
        };
        fields.insert((*word).to_owned(), field);
    }
    json!({ "type": "object", "additionalProperties": false, "properties": fields })
}

fn object(words: &[&str], value: impl Fn(&str) -> Value) -> Value {
    let fields: Map<String, Value> = words.iter().map(|word| ((*word).to_owned(), value(word))).collect();
    json!({ "type": "object", "additionalProperties": false, "properties": fields })
}

fn texts() -> Value {
    json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
}

fn number(range: &Range) -> Value {
    json!({ "type": "integer", "minimum": range.least, "maximum": range.most })
}

fn bytes(range: &Range) -> Value {
    json!({ "anyOf": [number(range), { "type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)$" }] })
}

fn action(reason: Reason) -> Value {
    let plain: Vec<&str> = fitting(reason).iter().copied().filter(|word| *word != "ban").collect();
    json!({ "anyOf": [{ "enum": plain }, { "type": "string", "pattern": "^ban [0-9]+ *(s|m|min|h|d)$" }] })
}
