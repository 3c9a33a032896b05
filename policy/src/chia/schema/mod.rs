//! The schema: every message type with its senders, replies, limits and the shape of its body, as data.
//!
//! It is read from JSON at start, the file that `policy/schema/generate.py` writes from a chia-blockchain, and judged as
//! a whole: a schema that loads has no unknown name, no type without an end and no shape that the validator of bodies
//! could not walk in its fixed memory. A newer file can take an older one's place while sessions go on: each session
//! keeps the one that it began with.

mod file;
mod shape;

use core::fmt;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

pub(crate) use shape::{Group, NESTING_MAX, Operation, Shapes};

use super::messages::number;
use super::node_type::{NodeType, NodeTypes};
use super::version::Version;
use file::File;

/// The schema of the chia-blockchain that this program was made for.
const EMBEDDED: &str = include_str!("../../../schema/protocol.json");

/// When a reply passes that no request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// Never; a node punishes it.
    Never,
    /// Always: gossip, and pairs without ids.
    Always,
    /// When a request of the node's own waits for it, whatever the ids.
    Pending,
    /// From software before this version.
    Before(Version),
}

/// The limits on one message type, from one of the node's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Largest body in bytes.
    pub size: u32,
    /// Messages and bytes of their bodies per minute; `None` where only the size is limited.
    pub rate: Option<Rate>,
}

/// How much may come in a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages.
    pub messages: u32,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Whether it also counts for the limit over all types.
    pub aggregate: bool,
}

/// The facts about one message type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageType {
    /// Its number on the wire.
    pub number: u8,
    /// Its name in the protocol.
    pub name: Box<str>,
    /// Kinds of services that may send it.
    pub senders: NodeTypes,
    /// Kinds of services that handle it when it arrives.
    pub handlers: NodeTypes,
    /// Numbers of the types that answer it; empty for what is no request.
    pub replies: Box<[u8]>,
    /// Whether it answers a request of some type.
    pub is_reply: bool,
    /// When it passes unasked, if it is a reply.
    pub push: Push,
    /// The first table of limits, for services without the capability `rate_limits_v2`.
    pub limit_v1: Option<Limit>,
    /// The second.
    pub limit_v2: Option<Limit>,
    /// The third, for sessions that negotiated it: requests that may be in the works at a time; 0 is no limit, `None` a
    /// type that the third table does not cover.
    pub window_v3: Option<u16>,
    /// At which byte of its body the height begins that it is about, the first one of a range; `None` if it names none, or
    /// behind something of no fixed size.
    pub height: Option<u32>,
    /// Where the operations of its body begin; `None` if nothing is known of its body.
    body: Option<u32>,
}

impl MessageType {
    /// Whether a full node would take this type from a peer of the given kind.
    pub fn may_come_from(&self, kind: NodeType) -> bool {
        let of_the_connection = matches!(self.number, number::CONFIGURE_WINDOW_SIZES | number::ERROR);
        self.senders.contains(kind) && (of_the_connection || self.handlers.contains(NodeType::FullNode))
    }

    /// Whether a full node sends this type.
    pub fn is_sent_by_full_nodes(&self) -> bool {
        self.senders.contains(NodeType::FullNode)
    }

    /// Whether it asks for something.
    pub fn is_request(&self) -> bool {
        !self.replies.is_empty()
    }

    /// Whether it costs a node much: the types of which the third table allows two at a time.
    pub fn is_expensive(&self) -> bool {
        matches!(self.window_v3, Some(1..=2))
    }

    /// Largest body in bytes by the widest of the tables; 0 if none names the type.
    pub fn largest(&self) -> u32 {
        let size = |limit: Option<Limit>| limit.map_or(0, |limit| limit.size);
        size(self.limit_v1).max(size(self.limit_v2))
    }

    /// Where the operations of its body begin.
    pub(crate) fn body(&self) -> Option<u32> {
        self.body
    }
}

/// Why a schema does not load: what is wrong, and in which line or type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError(String);

impl SchemaError {
    fn new(what: String) -> SchemaError {
        SchemaError(what)
    }

    fn within(self, name: &str) -> SchemaError {
        if self.0.starts_with("in the type ") {
            self
        } else {
            SchemaError(format!("in the type {name}: {}", self.0))
        }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SchemaError {}

/// Everything that is known about messages.
#[derive(Debug)]
pub struct Schema {
    /// The chia-blockchain that it was made from.
    pub version: Version,
    /// Limits per minute over all messages that count for them.
    pub aggregate: Rate,
    messages: Vec<MessageType>,
    /// The index into `messages` by number.
    index: [Option<u8>; 256],
    shapes: Shapes,
}

impl Schema {
    /// The schema that this program carries.
    ///
    /// # Panics
    /// If the file in the source does not load, which a test would say first.
    pub fn embedded() -> Arc<Schema> {
        static SCHEMA: LazyLock<Arc<Schema>> = LazyLock::new(|| match Schema::parse(EMBEDDED) {
            Ok(schema) => Arc::new(schema),
            Err(error) => panic!("policy/schema/protocol.json: {error}"),
        });
        SCHEMA.clone()
    }

    /// Reads a schema and judges it.
    pub fn parse(text: &str) -> Result<Schema, SchemaError> {
        let file: File = serde_json::from_str(text).map_err(|error| SchemaError::new(error.to_string()))?;
        let version = Version::parse(&file.chia_blockchain);
        let version = version.ok_or_else(|| {
            SchemaError::new(format!(
                "chia_blockchain: {:?} is no version such as 2.7.5",
                file.chia_blockchain
            ))
        })?;
        known_node_types(&file)?;
        unknown_names("interiors", file.interiors.iter(), |name| file.types.contains_key(name))?;
        let mut compiler = shape::Compiler::new(&file.types, &file.interiors);
        let mut bodies = BTreeMap::new();
        let mut messages = Vec::with_capacity(file.messages.len());
        let mut index = [None; 256];
        for message in &file.messages {
            let facts = message_type(message, &file, &mut compiler, &mut bodies)
                .map_err(|error| SchemaError::new(format!("message {}: {error}", message.name)))?;
            let slot = &mut index[usize::from(facts.number)];
            if slot.replace(messages.len() as u8).is_some() {
                return Err(SchemaError::new(format!("two messages have the number {}", facts.number)));
            }
            messages.push(facts);
        }
        if index[usize::from(number::HANDSHAKE)].is_none() {
            return Err(SchemaError::new("no message has the number 1, the handshake's".to_owned()));
        }
        let aggregate = Rate {
            messages: file.aggregate_limit.per_minute,
            bytes: file.aggregate_limit.bytes_per_minute,
            aggregate: true,
        };
        Ok(Schema { version, aggregate, messages, index, shapes: compiler.finish() })
    }

    /// The facts about the type with this number, if it is known.
    #[inline]
    pub fn message(&self, number: u8) -> Option<&MessageType> {
        self.messages.get(usize::from(self.index[usize::from(number)]?))
    }

    /// Every known type, in the order of the file.
    pub fn messages(&self) -> &[MessageType] {
        &self.messages
    }

    pub(crate) fn shapes(&self) -> &Shapes {
        &self.shapes
    }
}

/// The numbers of node types are built in: a schema must agree with them.
fn known_node_types(file: &File) -> Result<(), SchemaError> {
    for (name, &number) in &file.node_types {
        if NodeType::from_name(name).map(|kind| kind as u8) != Some(number) {
            return Err(SchemaError::new(format!(
                "node_types: {name} with the number {number} is not known here"
            )));
        }
    }
    Ok(())
}

fn unknown_names<'a>(
    key: &str,
    mut names: impl Iterator<Item = &'a String>,
    known: impl Fn(&str) -> bool,
) -> Result<(), SchemaError> {
    match names.find(|name| !known(name)) {
        Some(name) => Err(SchemaError::new(format!("{key}: {name} is not defined"))),
        None => Ok(()),
    }
}

fn message_type<'a>(
    message: &'a file::Message,
    file: &'a File,
    compiler: &mut shape::Compiler<'a>,
    bodies: &mut BTreeMap<&'a str, u32>,
) -> Result<MessageType, SchemaError> {
    let number_of = |name: &String| {
        let found = file.messages.iter().find(|other| other.name == *name);
        found
            .map(|other| other.number)
            .ok_or_else(|| SchemaError::new(format!("replies: {name} is not defined")))
    };
    let body = match &message.body {
        None => None,
        Some(name) => Some(match bodies.get(name.as_str()) {
            Some(&start) => start,
            None => {
                let start = compiler.body(name)?;
                bodies.insert(name, start);
                start
            }
        }),
    };
    Ok(MessageType {
        number: message.number,
        name: message.name.as_str().into(),
        senders: kinds("senders", &message.senders)?,
        handlers: kinds("handlers", &message.handlers)?,
        replies: message.replies.iter().map(number_of).collect::<Result<_, _>>()?,
        is_reply: file.messages.iter().any(|request| request.replies.contains(&message.name)),
        push: push(message.push.as_deref())?,
        limit_v1: message.limit_v1.as_ref().map(limit),
        limit_v2: message.limit_v2.as_ref().map(limit),
        window_v3: message.window_v3,
        height: message.body.as_ref().and_then(|name| file.types.get(name)).and_then(|fields| height(fields)),
        body,
    })
}

/// Where a body's first field of that meaning begins.
fn height(fields: &[file::Field]) -> Option<u32> {
    let mut at = 0;
    for file::Field(name, shape) in fields {
        let file::Shape::Named(shape) = shape else { return None };
        if matches!(name.as_str(), "height" | "start_height") {
            return (shape == "uint32").then_some(at);
        }
        at += shape::fixed(shape)?;
    }
    None
}

fn kinds(key: &str, names: &[String]) -> Result<NodeTypes, SchemaError> {
    unknown_names(key, names.iter(), |name| NodeType::from_name(name).is_some())?;
    Ok(names.iter().filter_map(|name| NodeType::from_name(name)).collect())
}

fn push(text: Option<&str>) -> Result<Push, SchemaError> {
    let before = |text: &str| text.strip_prefix("before ").and_then(Version::parse).map(Push::Before);
    match text {
        None => Ok(Push::Never),
        Some("always") => Ok(Push::Always),
        Some("pending") => Ok(Push::Pending),
        Some(other) => before(other).ok_or_else(|| {
            SchemaError::new(format!("push: {other:?} is neither always, pending nor before and a version"))
        }),
    }
}

fn limit(limit: &file::Limit) -> Limit {
    let rate = |messages| Rate { messages, bytes: limit.bytes_per_minute, aggregate: limit.aggregate };
    Limit { size: limit.max_size, rate: limit.per_minute.map(rate) }
}

#[cfg(test)]
mod tests;
