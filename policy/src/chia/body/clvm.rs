//! CLVM programs: where a serialization ends, and whether its back-references lead anywhere.
//!
//! The node's parser walks a serialization with a stack: an atom is pushed, a pair takes the two values below it. A
//! back-reference names a value by a path through that stack as it is then, so following it needs the tree that was
//! built so far. This validator builds only the tree's pairs, in memory that it borrows from a fixed number of
//! [`Scratches`] and gives back at the program's end. Where there is none to borrow, or a program has more pairs than one
//! holds, back-references are taken on trust and the rest is checked all the same: the node looks at them itself.
//!
//! The cost is bounded by the bytes: each byte of a path takes eight steps at most, and the list that the stack is seen
//! as is built once per value.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// Pairs that one scratch holds, and values on its stack: those of any program that fits a block.
const PAIRS_MAX: usize = 1 << 19;

/// Atoms beyond this are refused by the node.
const ATOM_BYTES_END: u64 = 0x4_0000_0000;

const PAIR: u8 = 0xff;
const BACK_REFERENCE: u8 = 0xfe;
const NIL: u8 = 0x80;

/// Node numbers: zero for an atom, else one more than the index of a pair.
type Node = u32;
const ATOM: Node = 0;

/// A value on the stack, and the list that begins with it once somebody asked for that.
#[derive(Clone, Copy, Debug)]
struct Held {
    value: Node,
    list: Node,
}

/// The tree of one program under way.
#[derive(Default)]
struct Scratch {
    pairs: Vec<[Node; 2]>,
    stack: Vec<Held>,
    /// For each pair that is open, whether its left half is done.
    open: Vec<bool>,
    path: Vec<u8>,
}

impl Scratch {
    fn clear(&mut self) {
        self.pairs.clear();
        self.stack.clear();
        self.open.clear();
        self.path.clear();
    }

    fn pair(&mut self, left: Node, right: Node) -> Result<Node, Full> {
        if self.pairs.len() >= PAIRS_MAX {
            return Err(Full);
        }
        self.pairs.push([left, right]);
        Ok(self.pairs.len() as Node)
    }

    fn open(&mut self) -> Result<(), Full> {
        if self.open.len() >= PAIRS_MAX {
            return Err(Full);
        }
        self.open.push(false);
        Ok(())
    }

    /// A value is complete: it goes on the stack, or closes the pairs that waited for it.
    fn complete(&mut self, mut value: Node) -> Result<(), Full> {
        while let Some(left_done) = self.open.last_mut() {
            if !*left_done {
                *left_done = true;
                self.stack.push(Held { value, list: ATOM });
                return Ok(());
            }
            self.open.pop();
            let left = self.stack.pop().map_or(ATOM, |held| held.value);
            value = self.pair(left, value)?;
        }
        Ok(())
    }

    /// The value at the end of the path; `None` if the path leads through an atom.
    fn follow(&mut self) -> Result<Option<Node>, Full> {
        let Some(&first) = self.path.first() else { return Ok(Some(ATOM)) };
        // The highest bit only marks where the path ends.
        let steps = 8 * (self.path.len() - 1) + 7 - first.leading_zeros() as usize;
        let (mut left, mut depth) = (steps, self.stack.len());
        let mut node = None;
        for &byte in self.path.iter().rev() {
            for bit in 0..left.min(8) {
                let right = usize::from(byte >> bit & 1);
                node = match node {
                    None if depth == 0 => return Ok(None),
                    None if right == 1 => {
                        depth -= 1;
                        None
                    }
                    None => Some(self.stack[depth - 1].value),
                    Some(ATOM) => return Ok(None),
                    Some(pair) => Some(self.pairs[pair as usize - 1][right]),
                };
            }
            left = left.saturating_sub(8);
        }
        node.map_or_else(|| self.list(depth), Ok).map(Some)
    }

    /// The lowest `depth` values of the stack as a list, the uppermost first.
    fn list(&mut self, depth: usize) -> Result<Node, Full> {
        let known = self.stack[..depth].iter().rposition(|held| held.list != ATOM).map_or(0, |at| at + 1);
        let mut list = self.stack[..known].last().map_or(ATOM, |held| held.list);
        for at in known..depth {
            list = self.pair(self.stack[at].value, list)?;
            self.stack[at].list = list;
        }
        Ok(list)
    }
}

/// The scratch holds no more.
struct Full;

/// The scratches that sessions share. They are made when they are first needed, and kept.
pub struct Scratches {
    free: ArrayQueue<Box<Scratch>>,
    left: AtomicUsize,
}

impl Scratches {
    /// At most so many, with up to 8 MiB each.
    pub fn new(count: usize) -> Arc<Scratches> {
        Arc::new(Scratches { free: ArrayQueue::new(count.max(1)), left: AtomicUsize::new(count) })
    }

    fn lend(self: &Arc<Scratches>) -> Option<Lent> {
        let made = || {
            let left =
                self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            left.is_ok().then(Box::default)
        };
        let scratch = self.free.pop().or_else(made)?;
        Some(Lent { scratch: Some(scratch), owner: self.clone() })
    }
}

impl fmt::Debug for Scratches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scratches").field("free", &self.free.len()).finish_non_exhaustive()
    }
}

/// A scratch that goes back when it is dropped.
struct Lent {
    scratch: Option<Box<Scratch>>,
    owner: Arc<Scratches>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(mut scratch) = self.scratch.take() {
            scratch.clear();
            // There is a place for every one that was lent.
            let _ = self.owner.free.push(scratch);
        }
    }
}

/// What is read next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The first byte of an item.
    Item,
    /// The first byte of a back-reference's path.
    Path,
    /// The bytes of a length, of which `left` are to come.
    Size { left: u8, value: u64, path: bool },
    /// An atom's bytes.
    Atom(u64),
    /// A path's bytes.
    PathBytes(u64),
}

/// A program under way.
pub(super) struct Clvm {
    step: Step,
    /// Items that have to come, this one included.
    pending: u64,
    /// The tree; `None` before the first pair or path, and where it is not kept.
    tree: Option<Lent>,
    /// Whether back-references are taken on trust.
    trusts: bool,
}

impl fmt::Debug for Clvm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clvm")
            .field("step", &self.step)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// Why a program is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It cannot end within the body.
    Truncated,
    /// A length that no atom may have.
    Size,
    /// A back-reference to nowhere.
    Reference,
}

impl Clvm {
    pub(super) fn new() -> Clvm {
        Clvm { step: Step::Item, pending: 1, tree: None, trusts: false }
    }

    /// Takes bytes up to the program's end; says how many, and whether that was it. `left` are the body's bytes from here
    /// on, those of the piece included.
    pub(super) fn take(
        &mut self,
        piece: &[u8],
        left: u64,
        scratches: &Arc<Scratches>,
    ) -> Result<(usize, bool), Bad> {
        let mut at = 0;
        loop {
            let left = left - at as u64;
            let here = &piece[at..];
            match self.step {
                Step::Atom(size) | Step::PathBytes(size) => {
                    let count = size.min(here.len() as u64) as usize;
                    at += count;
                    let rest = size - count as u64;
                    if let Step::PathBytes(_) = self.step {
                        self.gather(&here[..count])?;
                        self.step = Step::PathBytes(rest);
                    } else {
                        self.step = Step::Atom(rest);
                    }
                    if rest > 0 {
                        return Ok((at, false));
                    }
                    match self.step {
                        Step::PathBytes(_) => self.refer()?,
                        _ => self.item_done(ATOM),
                    }
                    if self.pending == 0 {
                        self.tree = None;
                        return Ok((at, true));
                    }
                    continue;
                }
                Step::Item | Step::Path | Step::Size { .. } => {}
            }
            if self.pending > left {
                return Err(Bad::Truncated);
            }
            let Some(&byte) = here.first() else { return Ok((at, false)) };
            at += 1;
            self.byte(byte, left - 1, scratches)?;
            if self.pending == 0 {
                self.tree = None;
                return Ok((at, true));
            }
        }
    }

    /// A byte that says what follows.
    fn byte(&mut self, byte: u8, left: u64, scratches: &Arc<Scratches>) -> Result<(), Bad> {
        match self.step {
            Step::Item if byte == PAIR => {
                self.pending += 1;
                self.grow(scratches, Scratch::open);
            }
            Step::Item if byte == BACK_REFERENCE => {
                self.grow(scratches, |_| Ok(()));
                self.step = Step::Path;
            }
            Step::Item if byte <= NIL => self.item_done(ATOM),
            Step::Item => self.size(byte, left, false)?,
            Step::Path if byte < NIL => {
                self.gather(&[byte])?;
                self.refer()?;
            }
            Step::Path => self.size(byte, left, true)?,
            Step::Size { left: more, value, path } => {
                self.step = Step::Size { left: more - 1, value: value << 8 | u64::from(byte), path };
                self.sized(left)?;
            }
            Step::Atom(_) | Step::PathBytes(_) => {}
        }
        Ok(())
    }

    /// The first byte of an atom with a length: as many leading ones as the length has bytes.
    fn size(&mut self, first: u8, left: u64, path: bool) -> Result<(), Bad> {
        let bytes = first.leading_ones();
        if bytes > 6 {
            return Err(Bad::Size);
        }
        let value = u64::from(first & (0xff >> bytes));
        self.step = Step::Size { left: bytes as u8 - 1, value, path };
        self.sized(left)
    }

    /// Goes on to the bytes of an atom once its length is known.
    fn sized(&mut self, left: u64) -> Result<(), Bad> {
        let Step::Size { left: 0, value, path } = self.step else { return Ok(()) };
        if value >= ATOM_BYTES_END {
            return Err(Bad::Size);
        }
        // The items after this one take a byte each.
        if value + (self.pending - 1) > left {
            return Err(Bad::Truncated);
        }
        match (value, path) {
            (0, true) => self.refer()?,
            (0, false) => self.item_done(ATOM),
            (_, true) => self.step = Step::PathBytes(value),
            (_, false) => self.step = Step::Atom(value),
        }
        Ok(())
    }

    /// Does something to the tree, which is borrowed first if there is none yet. A tree that cannot be kept is given back.
    fn grow(&mut self, scratches: &Arc<Scratches>, change: impl FnOnce(&mut Scratch) -> Result<(), Full>) {
        if self.tree.is_none() && !self.trusts {
            self.tree = scratches.lend();
            self.trusts = self.tree.is_none();
        }
        self.change(change);
    }

    fn change(&mut self, change: impl FnOnce(&mut Scratch) -> Result<(), Full>) {
        let Some(scratch) = self.tree.as_mut().and_then(|tree| tree.scratch.as_mut()) else { return };
        if change(scratch).is_err() {
            self.tree = None;
            self.trusts = true;
        }
    }

    fn item_done(&mut self, node: Node) {
        self.change(|scratch| scratch.complete(node));
        self.pending -= 1;
        self.step = Step::Item;
    }

    /// Bytes of a path. Zeros in front say nothing; more steps than there are values lead nowhere.
    fn gather(&mut self, bytes: &[u8]) -> Result<(), Bad> {
        let Some(scratch) = self.tree.as_mut().and_then(|tree| tree.scratch.as_mut()) else { return Ok(()) };
        let zeros =
            if scratch.path.is_empty() { bytes.iter().take_while(|&&byte| byte == 0).count() } else { 0 };
        let longest = (scratch.pairs.len() + scratch.stack.len()) / 8 + 2;
        if scratch.path.len() + bytes.len() - zeros > longest {
            return Err(Bad::Reference);
        }
        scratch.path.extend_from_slice(&bytes[zeros..]);
        Ok(())
    }

    /// The path is complete: the value that it names is the item.
    fn refer(&mut self) -> Result<(), Bad> {
        let Some(scratch) = self.tree.as_mut().and_then(|tree| tree.scratch.as_mut()) else {
            self.item_done(ATOM);
            return Ok(());
        };
        let found = scratch.follow();
        scratch.path.clear();
        match found {
            Ok(Some(node)) => self.item_done(node),
            Ok(None) => return Err(Bad::Reference),
            Err(Full) => {
                self.tree = None;
                self.trusts = true;
                self.item_done(ATOM);
            }
        }
        Ok(())
    }
}
