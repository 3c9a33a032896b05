//! Bodies of messages for tests that compare parsers: valid ones of every type, drawn from the schema, and what becomes
//! of them when bytes are changed.
//!
//! [`model`] is a second, slow reader of the same schema, as obvious as it can be. Everything is drawn from a seed.

pub mod model;
mod programs;
mod random;

pub use random::Random;

use hedgerow_policy::chia::{Body, Fault, PLAIN_HEADER_BYTES, Schema, Scratches};
use model::{Model, Shape};

/// Draws bodies and changes them.
pub struct Bodies<'a> {
    model: &'a Model,
    /// Where the bodies come from.
    pub random: Random,
    /// Encoded elements of both groups that are valid.
    points: [&'a [Vec<u8>]; 2],
}

impl<'a> Bodies<'a> {
    /// With valid elements of both groups to choose from.
    pub fn new(model: &'a Model, seed: u64, points: [&'a [Vec<u8>]; 2]) -> Self {
        Bodies { model, random: Random::new(seed), points }
    }

    /// A valid body of a type; back-references in its programs may lead nowhere.
    pub fn valid(&mut self, shape: &Shape) -> Vec<u8> {
        let mut body = Vec::new();
        let items = 1 + self.random.below(4);
        self.write(shape, items, &mut body);
        body
    }

    fn write(&mut self, shape: &Shape, items: u64, body: &mut Vec<u8>) {
        match shape {
            Shape::Fixed(bytes) => (0..*bytes).for_each(|_| body.push(self.random.byte())),
            Shape::Bytes => {
                let length = self.random.below(40);
                number(length, body);
                (0..length).for_each(|_| body.push(self.random.byte()));
            }
            Shape::Text => {
                let text: String = (0..self.random.below(6)).map(|_| self.random.pick(&TEXT)).collect();
                number(text.len() as u64, body);
                body.extend_from_slice(text.as_bytes());
            }
            Shape::Point(group) => {
                let points = self.points[*group];
                body.extend_from_slice(&points[self.random.below(points.len() as u64) as usize]);
            }
            Shape::Program => programs::write(&mut self.random, body),
            Shape::List(item) => {
                let count = self.random.below(items + 1);
                number(count, body);
                (0..count).for_each(|_| self.write(item, items / 2, body));
            }
            Shape::Choice(arms) => {
                let (value, fields) = &arms[self.random.below(arms.len() as u64) as usize];
                body.push(*value);
                fields.iter().for_each(|field| self.write(field, items, body));
            }
            Shape::Fields(fields) => fields.iter().for_each(|field| self.write(field, items, body)),
            Shape::Type(name) => self.write(self.model.of_type(name), items, body),
        }
    }

    /// Changes a body in one to four places.
    pub fn change(&mut self, body: &mut Vec<u8>) {
        for _ in 0..=self.random.below(4) {
            self.change_once(body);
        }
    }

    fn change_once(&mut self, body: &mut Vec<u8>) {
        let at = self.random.below(body.len() as u64 + 1) as usize;
        let inside = at < body.len();
        match self.random.below(9) {
            0 if inside => body[at] ^= 1 << self.random.below(8),
            1 if inside => body[at] = self.random.pick(&ODD),
            2 if inside => body[at] = body[at].wrapping_add(self.random.pick(&[1, 0xff])),
            3 if inside => drop(body.remove(at)),
            4 => body.insert(at, self.random.pick(&ODD)),
            5 => body.truncate(at),
            6 => body.push(self.random.byte()),
            // A length or count that is a little off, or far.
            7 if at + 4 <= body.len() => {
                let value = u32::from_be_bytes(body[at..at + 4].try_into().unwrap_or_default());
                let other = [value.wrapping_add(1), value.wrapping_sub(1), u32::MAX, body.len() as u32];
                body[at..at + 4].copy_from_slice(&self.random.pick(&other).to_be_bytes());
            }
            _ if inside => {
                let end = (at + 1 + self.random.below(40) as usize).min(body.len());
                let piece = body[at..end].to_vec();
                let to = self.random.below(body.len() as u64 + 1) as usize;
                if self.random.below(2) == 0 {
                    body.splice(to..to, piece);
                } else {
                    body.drain(at..end);
                }
            }
            _ => {}
        }
    }
}

/// Bytes that mean something somewhere.
const ODD: [u8; 14] = [0, 1, 2, 3, 4, 0x1a, 0x7f, 0x80, 0x81, 0xc0, 0xe0, 0xfc, 0xfe, 0xff];

const TEXT: [char; 6] = ['a', '7', 'é', '\u{0}', '苗', '🌱'];

fn number(value: u64, body: &mut Vec<u8>) {
    body.extend_from_slice(&(value as u32).to_be_bytes());
}

/// Judges the message in `data` whole and in several cuttings: all must agree, and the judgement is yielded. The bytes are
/// those of a message without an id; what its envelope says of the length does not count.
///
/// # Panics
/// If two judgements differ: this is for tests and the fuzz target.
pub fn judge_consistently(data: &[u8]) -> Option<Result<(), Fault>> {
    let (&kind, body) = (data.first()?, data.get(PLAIN_HEADER_BYTES..)?);
    let (schema, scratches) = (Schema::embedded(), Scratches::new(1));
    let judge = |size: usize| {
        let mut judged = Body::of(&schema, kind, body.len() as u32)?;
        let whole = judged.take(&schema, &scratches, &[]);
        let mut pieces = body.chunks(size.max(1));
        Some(whole.and_then(|()| pieces.try_for_each(|piece| judged.take(&schema, &scratches, piece))))
    };
    let whole = judge(body.len());
    for size in [1, 2, 3, 7, 64, 1_400] {
        assert_eq!(judge(size), whole, "type {kind} in pieces of {size}");
    }
    whole
}
