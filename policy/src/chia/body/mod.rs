//! Bodies of messages, judged in place while they arrive: a machine that walks a type's operations over byte slices in any
//! cutting.
//!
//! It accepts what the node's own parser accepts, but for two things that it leaves to the node: whether elements of the
//! curve's groups lie on the curve (`point`), and back-references in programs larger than any block (`clvm`). All its
//! memory is in [`Body`]: a few places for lists in lists, bounded by the schema. What cannot end well is refused as soon
//! as that is known: a count or length that goes beyond the body's end is refused when it is read.

mod clvm;
mod point;
mod text;

use core::fmt;
use std::sync::Arc;

pub use clvm::Scratches;

use super::schema::{NESTING_MAX, Operation, Schema};
use clvm::{Bad, Clvm};
use point::Point;
use text::Utf8;

/// What is wrong with a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// The body ends too early, or a length or count in it leads beyond its end.
    Truncated,
    /// Bytes are left over.
    Trailing,
    /// A byte that says which of several forms follows has a value that stands for none.
    Choice,
    /// Text that is not UTF-8.
    Text,
    /// Bytes that encode no element of a group of the curve.
    Point,
    /// A CLVM program with an atom's length that cannot be.
    Program,
    /// A CLVM program with a back-reference to nowhere.
    Reference,
}

impl Flaw {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Flaw::Truncated => "leads beyond the body's end",
            Flaw::Trailing => "bytes are left over",
            Flaw::Choice => "no such form",
            Flaw::Text => "not UTF-8",
            Flaw::Point => "no element of the group",
            Flaw::Program => "no CLVM atom is that long",
            Flaw::Reference => "a CLVM back-reference to nowhere",
        }
    }
}

/// A flaw and where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub flaw: Flaw,
    /// Bytes of the body before it; before the whole value, if it is text, an element or a program.
    pub at: u32,
    /// Whether it lies inside what only consensus can judge: blocks, headers, proofs.
    pub interior: bool,
    operation: u32,
    items: [u32; NESTING_MAX],
    depth: u8,
}

impl Fault {
    /// The field, such as `blocks[3].foliage.pool_signature`.
    pub fn path(&self, schema: &Schema) -> String {
        schema.shapes().path(self.operation, &self.items[..usize::from(self.depth)])
    }
}

/// A list under way.
#[derive(Clone, Copy, Debug, Default)]
struct Frame {
    /// The operations of an item.
    item: u32,
    total: u32,
    /// Items to come, the one under way included.
    left: u32,
}

/// What is read next.
#[derive(Debug)]
enum Step {
    /// The operation at hand begins.
    Begin,
    /// So many bytes of any content, to the end of the operation.
    Skip(u32),
    /// The length or count of the operation at hand, of which bytes have come.
    Number {
        seen: u8,
        value: u32,
    },
    /// Text, with so many bytes to come.
    Text(u32, Utf8),
    Point(Point),
    Program(Clvm),
}

/// A body under way.
#[derive(Debug)]
pub struct Body {
    operation: u32,
    step: Step,
    /// Bytes of the body, those taken so far, and those before the operation at hand.
    total: u32,
    at: u32,
    start: u32,
    frames: [Frame; NESTING_MAX],
    depth: u8,
}

impl Body {
    /// A body of `total` bytes of the type whose operations begin at `start`.
    pub(crate) fn new(start: u32, total: u32) -> Body {
        Body {
            operation: start,
            step: Step::Begin,
            total,
            at: 0,
            start: 0,
            frames: [Frame::default(); NESTING_MAX],
            depth: 0,
        }
    }

    /// A body of `total` bytes of a type of messages; `None` for those of which nothing is known.
    pub fn of(schema: &Schema, kind: u8, total: u32) -> Option<Body> {
        schema.message(kind)?.body().map(|start| Body::new(start, total))
    }

    /// Takes the next piece, all of it. With the body's last piece, or without one for a body of no bytes, everything
    /// that the type asks for must have come.
    ///
    /// The pieces together must not be longer than the body was said to be.
    pub fn take(
        &mut self,
        schema: &Schema,
        scratches: &Arc<Scratches>,
        mut piece: &[u8],
    ) -> Result<(), Fault> {
        let shapes = schema.shapes();
        loop {
            match &mut self.step {
                Step::Begin => match self.begin(schema) {
                    Operation::Skip(bytes) => {
                        self.needs(schema, u64::from(bytes))?;
                        self.step = Step::Skip(bytes);
                    }
                    Operation::Choice { arms, count } => {
                        self.needs(schema, 1)?;
                        let Some((&value, rest)) = piece.split_first() else { return Ok(()) };
                        let Some(arm) = shapes.arm(arms, count, value) else {
                            return Err(self.fault(schema, Flaw::Choice));
                        };
                        piece = rest;
                        self.at += 1;
                        self.operation = arm;
                    }
                    Operation::Jump(to) => self.operation = to,
                    Operation::Next => self.next_item(),
                    Operation::Point(group) => {
                        self.needs(schema, u64::from(Point::bytes(group)))?;
                        self.step = Step::Point(Point::new(group));
                    }
                    Operation::Program => self.step = Step::Program(Clvm::new()),
                    Operation::Bytes | Operation::Text | Operation::Items { .. } | Operation::List { .. } => {
                        self.needs(schema, 4)?;
                        self.step = Step::Number { seen: 0, value: 0 };
                    }
                    Operation::End if self.at < self.total => return Err(self.fault(schema, Flaw::Trailing)),
                    Operation::End => return Ok(()),
                },
                Step::Skip(left) => {
                    let count = (*left).min(piece.len() as u32);
                    *left -= count;
                    self.at += count;
                    piece = &piece[count as usize..];
                    if *left > 0 {
                        return Ok(());
                    }
                    self.done();
                }
                Step::Number { seen, value } => {
                    if let (0, Some((number, rest))) = (*seen, piece.split_first_chunk::<4>()) {
                        *value = u32::from_be_bytes(*number);
                        self.at += 4;
                        piece = rest;
                    } else {
                        let Some((&byte, rest)) = piece.split_first() else { return Ok(()) };
                        *value = *value << 8 | u32::from(byte);
                        *seen += 1;
                        self.at += 1;
                        piece = rest;
                        if *seen < 4 {
                            continue;
                        }
                    }
                    let number = *value;
                    self.number(schema, number)?;
                }
                Step::Text(left, text) => {
                    let count = (*left).min(piece.len() as u32);
                    let (here, rest) = piece.split_at(count as usize);
                    *left -= count;
                    if !text.take(here) || *left == 0 && !text.is_whole() {
                        return Err(self.bad_value(schema, Flaw::Text));
                    }
                    self.at += count;
                    piece = rest;
                    if *left > 0 {
                        return Ok(());
                    }
                    self.done();
                }
                Step::Point(point) => {
                    let Some((taken, complete)) = point.take(piece) else {
                        return Err(self.bad_value(schema, Flaw::Point));
                    };
                    self.at += taken as u32;
                    piece = &piece[taken..];
                    if !complete {
                        return Ok(());
                    }
                    self.done();
                }
                Step::Program(program) => {
                    let left = u64::from(self.total - self.at);
                    let (taken, complete) = match program.take(piece, left, scratches) {
                        Ok(taken) => taken,
                        Err(Bad::Truncated) => return Err(self.bad_value(schema, Flaw::Truncated)),
                        Err(Bad::Size) => return Err(self.bad_value(schema, Flaw::Program)),
                        Err(Bad::Reference) => return Err(self.bad_value(schema, Flaw::Reference)),
                    };
                    self.at += taken as u32;
                    piece = &piece[taken..];
                    if !complete {
                        return Ok(());
                    }
                    self.done();
                }
            }
        }
    }

    /// The operation at hand, which begins here.
    #[inline]
    fn begin(&mut self, schema: &Schema) -> Operation {
        self.start = self.at;
        schema.shapes().operation(self.operation)
    }

    /// Whether the whole body has come.
    pub fn is_complete(&self) -> bool {
        self.at == self.total
    }

    /// The operation at hand is done.
    #[inline]
    fn done(&mut self) {
        self.operation += 1;
        self.step = Step::Begin;
    }

    /// The length or count of the operation at hand is known.
    fn number(&mut self, schema: &Schema, number: u32) -> Result<(), Fault> {
        match schema.shapes().operation(self.operation) {
            Operation::Text => {
                self.needs(schema, u64::from(number))?;
                self.step = Step::Text(number, Utf8::default());
            }
            Operation::Items { bytes } => {
                self.needs(schema, u64::from(number) * u64::from(bytes))?;
                // What the body has room for fits 32 bits.
                self.step = Step::Skip(number * bytes);
            }
            Operation::List { least, end } => {
                self.needs(schema, u64::from(number) * u64::from(least))?;
                self.step = Step::Begin;
                if number == 0 {
                    self.operation = end;
                    return Ok(());
                }
                self.operation += 1;
                if let Some(frame) = self.frames.get_mut(usize::from(self.depth)) {
                    *frame = Frame { item: self.operation, total: number, left: number };
                    self.depth += 1;
                }
            }
            _ => {
                self.needs(schema, u64::from(number))?;
                self.step = Step::Skip(number);
            }
        }
        Ok(())
    }

    /// A list's item is done: on to the next, or behind the list.
    fn next_item(&mut self) {
        let Some(frame) = self.depth.checked_sub(1).and_then(|at| self.frames.get_mut(usize::from(at)))
        else {
            self.operation += 1;
            return;
        };
        frame.left -= 1;
        if frame.left > 0 {
            self.operation = frame.item;
        } else {
            self.depth -= 1;
            self.operation += 1;
        }
    }

    /// The body must have room for so many bytes more.
    #[inline]
    fn needs(&self, schema: &Schema, bytes: u64) -> Result<(), Fault> {
        if bytes <= u64::from(self.total - self.at) {
            Ok(())
        } else {
            Err(self.fault(schema, Flaw::Truncated))
        }
    }

    /// A flaw of a value as a whole, wherever in it that showed.
    #[cold]
    fn bad_value(&self, schema: &Schema, flaw: Flaw) -> Fault {
        Fault { at: self.start, ..self.fault(schema, flaw) }
    }

    #[cold]
    fn fault(&self, schema: &Schema, flaw: Flaw) -> Fault {
        let mut items = [0; NESTING_MAX];
        for (item, frame) in items.iter_mut().zip(&self.frames[..usize::from(self.depth)]) {
            *item = frame.total - frame.left;
        }
        Fault {
            flaw,
            at: self.at,
            interior: schema.shapes().is_interior(self.operation),
            operation: self.operation,
            items,
            depth: self.depth,
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests;
