//! The schema as it stands in its file: JSON, with unknown keys refused.
//!
//! Names and numbers are taken as they are; [`Schema`](super::Schema) judges what they mean.

use core::fmt;
use std::collections::BTreeMap;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) chia_blockchain: String,
    pub(super) node_types: BTreeMap<String, u8>,
    /// For readers of the file; what they mean is built in.
    #[serde(rename = "capabilities")]
    pub(super) _capabilities: BTreeMap<String, u16>,
    pub(super) aggregate_limit: Aggregate,
    pub(super) interiors: Vec<String>,
    pub(super) types: BTreeMap<String, Vec<Field>>,
    pub(super) messages: Vec<Message>,
}

/// A field of a body type: its name, empty for what belongs to the field around it, and its shape.
#[derive(Debug, Deserialize)]
pub(super) struct Field(pub(super) String, pub(super) Shape);

/// What a field looks like.
#[derive(Debug)]
pub(super) enum Shape {
    /// A type by name, or `list[..]`, `optional[..]`, `tuple[..,..]` of shapes.
    Named(String),
    /// One byte, and what follows each value that it may have.
    Choice(BTreeMap<u8, Vec<Field>>),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        struct Shapes;
        impl<'de> Visitor<'de> for Shapes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a type, or an object with what follows each value of a byte")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Shape, E> {
                Ok(Shape::Named(name.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Shape, M::Error> {
                let mut arms = BTreeMap::new();
                while let Some((value, fields)) = map.next_entry::<String, Vec<Field>>()? {
                    let byte =
                        value.parse().map_err(|_| M::Error::custom(format!("{value:?} is no byte")))?;
                    arms.insert(byte, fields);
                }
                Ok(Shape::Choice(arms))
            }
        }
        deserializer.deserialize_any(Shapes)
    }
}

/// Limits over all messages that count for them, per minute.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aggregate {
    pub(super) per_minute: u32,
    pub(super) bytes_per_minute: u64,
}

/// A message type.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    pub(super) number: u8,
    pub(super) name: String,
    pub(super) body: Option<String>,
    pub(super) senders: Vec<String>,
    pub(super) handlers: Vec<String>,
    pub(super) replies: Vec<String>,
    pub(super) push: Option<String>,
    pub(super) limit_v1: Option<Limit>,
    pub(super) limit_v2: Option<Limit>,
    #[serde(default)]
    pub(super) window_v3: Option<u16>,
}

/// An entry of a table of limits. Without a count, only the size is limited.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    pub(super) max_size: u32,
    #[serde(default)]
    pub(super) per_minute: Option<u32>,
    #[serde(default)]
    pub(super) bytes_per_minute: u64,
    #[serde(default)]
    pub(super) aggregate: bool,
}
