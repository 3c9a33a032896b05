//! The schema read a second time, and bodies read by it the obvious way: with recursion, one value after the other.
//!
//! It knows nothing of points and programs but where they begin: the caller's oracle judges those.

use std::collections::BTreeMap;

use serde_json::Value;

/// What a value looks like.
#[derive(Debug, Clone)]
pub enum Shape {
    /// So many bytes.
    Fixed(usize),
    /// A length and bytes.
    Bytes,
    /// A length and UTF-8.
    Text,
    /// An element of the first (0) or second (1) group.
    Point(usize),
    /// A CLVM program.
    Program,
    /// A count and items.
    List(Box<Shape>),
    /// A byte, and what follows each of its values.
    Choice(Vec<(u8, Vec<Shape>)>),
    /// One after the other.
    Fields(Vec<Shape>),
    /// A type by name.
    Type(String),
}

/// A message type and the shape of its body.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Its number.
    pub number: u8,
    /// Its name in the protocol.
    pub name: String,
    /// Its body.
    pub body: Shape,
}

/// The schema.
#[derive(Debug)]
pub struct Model {
    types: BTreeMap<String, Shape>,
    /// Every message type whose body is known.
    pub kinds: Vec<Kind>,
}

/// Judges what the model does not know: how many bytes an element or a program takes at the start of a slice.
pub trait Leaves {
    /// An element of a group at this place of the body; whether it is one.
    fn point(&mut self, group: usize, at: usize, bytes: &[u8]) -> bool;
    /// The length of the program that these bytes begin with.
    fn program(&mut self, bytes: &[u8]) -> Option<usize>;
}

impl Model {
    /// Reads a schema.
    ///
    /// # Panics
    /// If the text is no schema: this is for the project's own.
    pub fn new(schema: &str) -> Model {
        let file: Value = serde_json::from_str(schema).expect("a schema");
        let types = file["types"].as_object().expect("types").iter();
        let types = types.map(|(name, fields)| (name.clone(), Shape::Fields(all(fields)))).collect();
        let messages = file["messages"].as_array().expect("messages").iter();
        let kind = |message: &Value| {
            Some(Kind {
                number: message["number"].as_u64()? as u8,
                name: message["name"].as_str()?.to_owned(),
                body: Shape::Type(message["body"].as_str()?.to_owned()),
            })
        };
        Model { types, kinds: messages.filter_map(kind).collect() }
    }

    /// The shape of a type.
    ///
    /// # Panics
    /// If there is no such type.
    pub fn of_type(&self, name: &str) -> &Shape {
        &self.types[name]
    }

    /// Whether the bytes are a body of this shape, to the last one.
    pub fn accepts(&self, shape: &Shape, body: &[u8], leaves: &mut dyn Leaves) -> bool {
        let mut reader = Reader { body, at: 0 };
        self.read(shape, &mut reader, leaves).is_some() && reader.at == body.len()
    }

    fn read(&self, shape: &Shape, reader: &mut Reader<'_>, leaves: &mut dyn Leaves) -> Option<()> {
        match shape {
            Shape::Fixed(bytes) => reader.take(*bytes).map(drop),
            Shape::Bytes => reader.sized().map(drop),
            Shape::Text => std::str::from_utf8(reader.sized()?).ok().map(drop),
            Shape::Point(group) => {
                let at = reader.at;
                let bytes = reader.take([48, 96][*group])?;
                leaves.point(*group, at, bytes).then_some(())
            }
            Shape::Program => {
                let length = leaves.program(&reader.body[reader.at..])?;
                reader.take(length).map(drop)
            }
            Shape::List(item) => {
                (0..reader.number()?).try_for_each(|_| self.read(item, reader, leaves).ok_or(())).ok()
            }
            Shape::Choice(arms) => {
                let value = reader.take(1)?[0];
                let (_, fields) = arms.iter().find(|(arm, _)| *arm == value)?;
                fields.iter().try_for_each(|field| self.read(field, reader, leaves))
            }
            Shape::Fields(fields) => fields.iter().try_for_each(|field| self.read(field, reader, leaves)),
            Shape::Type(name) => self.read(self.of_type(name), reader, leaves),
        }
    }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let taken = self.body.get(self.at..self.at.checked_add(bytes)?)?;
        self.at += bytes;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap_or_default()))
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length as usize)
    }
}

fn all(fields: &Value) -> Vec<Shape> {
    fields.as_array().expect("fields").iter().map(|field| shape(&field[1])).collect()
}

fn shape(value: &Value) -> Shape {
    match value {
        Value::String(text) => named(text),
        Value::Object(arms) => Shape::Choice(
            arms.iter().map(|(value, fields)| (value.parse().expect("a byte"), all(fields))).collect(),
        ),
        other => panic!("no shape: {other}"),
    }
}

fn named(text: &str) -> Shape {
    let inside = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(']'));
    if let Some(item) = inside("list[") {
        return Shape::List(Box::new(named(item)));
    }
    if let Some(item) = inside("optional[") {
        return Shape::Choice(vec![(0, vec![]), (1, vec![named(item)])]);
    }
    if let Some(parts) = inside("tuple[") {
        // No tuple of the protocol holds another one.
        return Shape::Fields(parts.split(',').map(named).collect());
    }
    let sized = |prefix: &str, unit: usize| {
        text.strip_prefix(prefix).and_then(|n| n.parse::<usize>().ok()).map(|n| Shape::Fixed(n / unit))
    };
    match text {
        "bool" => Shape::Choice(vec![(0, vec![]), (1, vec![])]),
        "bytes" => Shape::Bytes,
        "str" => Shape::Text,
        "g1" => Shape::Point(0),
        "g2" => Shape::Point(1),
        "program" => Shape::Program,
        _ => sized("uint", 8)
            .or_else(|| sized("int", 8))
            .or_else(|| sized("bytes", 1))
            .unwrap_or(Shape::Type(text.to_owned())),
    }
}
