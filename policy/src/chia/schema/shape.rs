//! Body types compiled into one flat program that the validator of bodies runs: no tree is walked per message.

use std::collections::BTreeMap;

use super::SchemaError;
use super::file::{Field, Shape};

/// How deep lists may stand in lists; the validator's stack has as many places.
pub(crate) const NESTING_MAX: usize = 4;

/// How deep types may stand in types. A type that contains itself ends here.
const DEPTH_MAX: usize = 32;

/// Operations of all types together. The types of chia-blockchain 2.7.5 take about 3,000.
const OPERATIONS_MAX: usize = 1 << 16;

/// An arm of a choice that no value may take.
pub(crate) const NO_ARM: u32 = u32::MAX;

/// A group of the curve whose elements stand in bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Public keys, 48 bytes.
    G1,
    /// Signatures, 96 bytes.
    G2,
}

/// One step of the validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// So many bytes of any content.
    Skip(u32),
    /// A length and as many bytes.
    Bytes,
    /// A length and as many bytes of UTF-8.
    Text,
    /// A compressed element of a group.
    Point(Group),
    /// A serialized CLVM program, which says itself where it ends.
    Program,
    /// One byte; the arm of its value is where to go on.
    Choice { arms: u32, count: u16 },
    /// Go on elsewhere.
    Jump(u32),
    /// A count and as many items of a fixed size.
    Items { bytes: u32 },
    /// A count; the item's operations follow, each item at least so many bytes. `end` is behind them.
    List { least: u32, end: u32 },
    /// The end of a list's item.
    Next,
    /// The end of the body.
    End,
}

/// Where an operation stands, for reports.
#[derive(Clone, Copy, Debug)]
struct Place {
    path: u32,
    interior: bool,
}

/// The operations of all body types.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    operations: Vec<Operation>,
    places: Vec<Place>,
    arms: Vec<u32>,
    /// Field names with the index of the name around each; the first stands for the body.
    names: Vec<(u32, String)>,
}

impl Shapes {
    /// The operation at an index. Indexes come from this program, so there is one.
    #[inline]
    pub(crate) fn operation(&self, at: u32) -> Operation {
        self.operations.get(at as usize).copied().unwrap_or(Operation::End)
    }

    /// Where a choice goes on for a value; `None` if there is no such value.
    #[inline]
    pub(crate) fn arm(&self, arms: u32, count: u16, value: u8) -> Option<u32> {
        let arm = (u16::from(value) < count).then(|| self.arms.get(arms as usize + usize::from(value)))?;
        arm.copied().filter(|&arm| arm != NO_ARM)
    }

    /// Whether an operation belongs to what only consensus can judge.
    pub(crate) fn is_interior(&self, at: u32) -> bool {
        self.places.get(at as usize).is_some_and(|place| place.interior)
    }

    /// The path of the field at an operation, with the numbers of the lists' items around it.
    pub(crate) fn path(&self, at: u32, items: &[u32]) -> String {
        let mut parts = Vec::new();
        let mut name = self.places.get(at as usize).map_or(0, |place| place.path);
        while let Some((around, text)) = self.names.get(name as usize).filter(|_| name != 0) {
            parts.push(text.as_str());
            name = *around;
        }
        let (mut path, mut items) = (String::new(), items.iter());
        for part in parts.into_iter().rev() {
            match (part, items.next_if_list(part)) {
                ("[]", Some(item)) => path.push_str(&format!("[{item}]")),
                ("[]", None) => path.push_str("[]"),
                _ if path.is_empty() => path.push_str(part),
                _ => {
                    path.push('.');
                    path.push_str(part);
                }
            }
        }
        if path.is_empty() { "the body".to_owned() } else { path }
    }
}

/// Draws an item's number only for the parts that are lists.
trait NextIfList {
    fn next_if_list(&mut self, part: &str) -> Option<u32>;
}

impl NextIfList for core::slice::Iter<'_, u32> {
    fn next_if_list(&mut self, part: &str) -> Option<u32> {
        if part == "[]" { self.next().copied() } else { None }
    }
}

/// Compiles types into [`Shapes`].
pub(super) struct Compiler<'a> {
    types: &'a BTreeMap<String, Vec<Field>>,
    interiors: &'a [String],
    shapes: Shapes,
    /// The field under way, whether it is an interior, how deep types and lists are.
    path: u32,
    interior: bool,
    depth: usize,
    nesting: usize,
    /// No `Skip` may grow beyond this index: something jumps there.
    barrier: usize,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(types: &'a BTreeMap<String, Vec<Field>>, interiors: &'a [String]) -> Compiler<'a> {
        let shapes = Shapes { names: vec![(0, String::new())], ..Shapes::default() };
        Compiler { types, interiors, shapes, path: 0, interior: false, depth: 0, nesting: 0, barrier: 0 }
    }

    pub(super) fn finish(self) -> Shapes {
        self.shapes
    }

    /// Compiles a type as the body of a message; says where its operations begin.
    pub(super) fn body(&mut self, name: &str) -> Result<u32, SchemaError> {
        let start = self.here();
        (self.path, self.interior, self.depth, self.nesting) = (0, false, 0, 0);
        self.barrier = start as usize;
        self.named(name)?;
        // What is left over after an interior belongs to it: a fork may add to the end of a block.
        self.interior =
            self.shapes.places.last().filter(|_| self.here() > start).is_some_and(|place| place.interior);
        self.emit(Operation::End)?;
        Ok(start)
    }

    fn here(&self) -> u32 {
        self.shapes.operations.len() as u32
    }

    fn emit(&mut self, operation: Operation) -> Result<(), SchemaError> {
        let place = Place { path: self.path, interior: self.interior };
        let at = self.shapes.operations.len();
        if let (Operation::Skip(more), true) = (operation, at > self.barrier)
            && let (Some(Operation::Skip(bytes)), Some(last)) =
                (self.shapes.operations.last_mut(), self.shapes.places.last())
            && last.interior == place.interior
        {
            *bytes += more;
            return Ok(());
        }
        if at >= OPERATIONS_MAX {
            return Err(SchemaError::new(format!("the types take more than {OPERATIONS_MAX} operations")));
        }
        self.shapes.operations.push(operation);
        self.shapes.places.push(place);
        Ok(())
    }

    /// Something jumps to what comes next.
    fn label(&mut self) -> u32 {
        self.barrier = self.shapes.operations.len();
        self.here()
    }

    /// Compiles fields one after the other; says how many bytes they take at least.
    fn fields(&mut self, fields: &[Field]) -> Result<u32, SchemaError> {
        let mut least = 0_u32;
        for Field(name, shape) in fields {
            let around = self.path;
            if !name.is_empty() {
                self.enter(name);
            }
            least = least.saturating_add(match shape {
                Shape::Named(name) => self.named(name)?,
                Shape::Choice(arms) => self.choice(arms)?,
            });
            self.path = around;
        }
        Ok(least)
    }

    fn enter(&mut self, name: &str) {
        self.shapes.names.push((self.path, name.to_owned()));
        self.path = self.shapes.names.len() as u32 - 1;
    }

    fn named(&mut self, text: &str) -> Result<u32, SchemaError> {
        let skip = |compiler: &mut Self, bytes: u32| compiler.emit(Operation::Skip(bytes)).map(|()| bytes);
        match text {
            "bool" => return self.choice(&BTreeMap::from([(0, vec![]), (1, vec![])])),
            "bytes" => return self.emit(Operation::Bytes).map(|()| 4),
            "str" => return self.emit(Operation::Text).map(|()| 4),
            "g1" => return self.emit(Operation::Point(Group::G1)).map(|()| 48),
            "g2" => return self.emit(Operation::Point(Group::G2)).map(|()| 96),
            "program" => return self.emit(Operation::Program).map(|()| 1),
            _ => {}
        }
        if let Some(bytes) = fixed(text) {
            return skip(self, bytes);
        }
        if let Some((outer, inner)) = text.strip_suffix(']').and_then(|text| text.split_once('[')) {
            return match outer {
                "list" => self.list(inner),
                "optional" => {
                    let present = Field(String::new(), Shape::Named(inner.to_owned()));
                    self.choice(&BTreeMap::from([(0, vec![]), (1, vec![present])]))
                }
                "tuple" => parts(inner)
                    .into_iter()
                    .try_fold(0_u32, |least, part| self.named(part).map(|more| least.saturating_add(more))),
                _ => Err(SchemaError::new(format!("{text}: neither list, optional nor tuple"))),
            };
        }
        self.defined(text)
    }

    /// A type that the schema defines.
    fn defined(&mut self, name: &str) -> Result<u32, SchemaError> {
        let Some(fields) = self.types.get(name) else {
            return Err(SchemaError::new(format!("the type {name} is not defined")));
        };
        if self.depth == DEPTH_MAX {
            return Err(SchemaError::new(format!(
                "the type {name} contains itself, or types {DEPTH_MAX} deep"
            )));
        }
        let around = self.interior;
        self.depth += 1;
        self.interior |= self.interiors.iter().any(|interior| interior == name);
        let least = self.fields(fields);
        self.interior = around;
        self.depth -= 1;
        least.map_err(|error| error.within(name))
    }

    fn list(&mut self, item: &str) -> Result<u32, SchemaError> {
        if let Some(bytes) = fixed(item) {
            return self.emit(Operation::Items { bytes }).map(|()| 4);
        }
        if self.nesting == NESTING_MAX {
            return Err(SchemaError::new(format!("lists stand more than {NESTING_MAX} deep")));
        }
        self.nesting += 1;
        let around = self.path;
        let at = self.here() as usize;
        self.emit(Operation::List { least: 0, end: 0 })?;
        self.label();
        self.enter("[]");
        let least = self.named(item)?;
        self.path = around;
        self.emit(Operation::Next)?;
        if least == 0 {
            return Err(SchemaError::new(format!("the items of list[{item}] may take no byte")));
        }
        let end = self.label();
        self.shapes.operations[at] = Operation::List { least, end };
        self.nesting -= 1;
        Ok(4)
    }

    fn choice(&mut self, choices: &BTreeMap<u8, Vec<Field>>) -> Result<u32, SchemaError> {
        let count = choices.keys().next_back().map_or(0, |&most| u16::from(most) + 1);
        let arms = self.shapes.arms.len() as u32;
        self.shapes.arms.resize(self.shapes.arms.len() + usize::from(count), NO_ARM);
        self.emit(Operation::Choice { arms, count })?;
        let (mut jumps, mut least) = (Vec::new(), u32::MAX);
        for (position, (value, fields)) in choices.iter().enumerate() {
            let at = self.label();
            self.shapes.arms[arms as usize + usize::from(*value)] = at;
            least = least.min(self.fields(fields)?);
            if position + 1 < choices.len() {
                jumps.push(self.here() as usize);
                self.emit(Operation::Jump(0))?;
            }
        }
        let end = self.label();
        for jump in jumps {
            self.shapes.operations[jump] = Operation::Jump(end);
        }
        self.straighten(arms, count);
        Ok(least.saturating_add(1))
    }

    /// Arms that only jump on lead to where they jump.
    fn straighten(&mut self, arms: u32, count: u16) {
        let range = arms as usize..arms as usize + usize::from(count);
        for arm in &mut self.shapes.arms[range] {
            if let Some(&Operation::Jump(to)) = self.shapes.operations.get(*arm as usize) {
                *arm = to;
            }
        }
    }
}

/// The bytes of a type of fixed size and any content.
pub(super) fn fixed(name: &str) -> Option<u32> {
    let number = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.parse::<u32>().ok());
    let bits = number("uint").or_else(|| number("int")).filter(|bits| bits % 8 == 0 && *bits > 0);
    bits.map(|bits| bits / 8).or_else(|| number("bytes")).filter(|&bytes| (1..=1024).contains(&bytes))
}

/// The parts of a tuple, whose own brackets keep theirs together.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, character) in text.char_indices() {
        match character {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}
