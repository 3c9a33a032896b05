//! Queues frames to be sent, and keeps back what may not go out yet.
//!
//! A fragment is begun with its length known, filled in pieces, and either goes out as it fills or is withheld until its
//! message passed. Control frames slip in between fragments, before one that is withheld.

use super::frame::{FrameHeader, HEADER_BYTES_MAX, Opcode, apply_mask, encode_frame};
use super::{CloseFrame, Role};

/// Bytes by which the queue grows at least.
const GROWTH: usize = 2 * 1024;

/// Sent bytes that are kept before the queue moves up.
const SENT_MAX: usize = 32 * 1024;

/// Where masks come from. They protect proxies on plain connections (RFC 6455, section 10.3); within TLS, and towards our
/// own nodes, a cheap generator does.
#[derive(Clone, Debug)]
pub struct Masks(u64);

impl Masks {
    /// A generator; the same seed gives the same masks.
    pub fn new(seed: u64) -> Masks {
        Masks(seed)
    }

    /// SplitMix64.
    fn next(&mut self) -> [u8; 4] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) as u32).to_be_bytes()
    }
}

/// The fragment that is being filled.
#[derive(Clone, Copy, Debug)]
struct Open {
    left: u64,
    mask: Option<[u8; 4]>,
    offset: usize,
    withheld: bool,
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct Writer {
    masks: Option<Masks>,
    bytes: Vec<u8>,
    /// Bytes at the front of the queue that were sent.
    sent: usize,
    /// Bytes of the queue that may be sent.
    released: usize,
    open: Option<Open>,
    ping: bool,
    pong: Option<Vec<u8>>,
    close: Option<Vec<u8>>,
    closed: bool,
}

impl Writer {
    /// A writer for the end of the connection that plays `role`; `seed` is for the masks of a client.
    pub fn new(role: Role, seed: u64) -> Writer {
        Writer {
            masks: (role == Role::Client).then(|| Masks::new(seed)),
            bytes: Vec::new(),
            sent: 0,
            released: 0,
            open: None,
            ping: false,
            pong: None,
            close: None,
            closed: false,
        }
    }

    /// Queues bytes that are no frame: the upgrade request or its answer.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.released = self.bytes.len();
    }

    /// Begins a fragment of `len` bytes: `first` and `fin` place it within its message. A withheld fragment does not go
    /// out before [`Writer::release`]. The one before must be complete.
    pub fn begin(&mut self, len: u64, first: bool, fin: bool, withheld: bool) {
        debug_assert!(self.open.is_none_or(|open| open.left == 0));
        let mask = self.masks.as_mut().map(Masks::next);
        let opcode = if first { Opcode::Binary } else { Opcode::Continuation };
        let mut header = [0; HEADER_BYTES_MAX];
        let header_len = FrameHeader { fin, opcode, len, mask }.write(&mut header);
        self.append(&header[..header_len]);
        self.open = Some(Open { left: len, mask, offset: 0, withheld });
        self.settle();
    }

    /// Fills the fragment; says how many of the bytes it took: no more than belong to it.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let Some(open) = self.open else { return 0 };
        let count = usize::try_from(open.left).unwrap_or(usize::MAX).min(bytes.len());
        let at = self.bytes.len();
        self.append(&bytes[..count]);
        if let Some(mask) = open.mask {
            apply_mask(&mut self.bytes[at..], mask, open.offset);
        }
        let offset = (open.offset + count) % 4;
        self.open = Some(Open { left: open.left - count as u64, offset, ..open });
        self.settle();
        count
    }

    /// Bytes that the fragment still needs.
    pub fn wanted(&self) -> u64 {
        self.open.map_or(0, |open| open.left)
    }

    /// Lets the withheld fragment go: its message passed.
    pub fn release(&mut self) {
        if let Some(open) = &mut self.open {
            open.withheld = false;
        }
        self.settle();
    }

    /// Drops what was withheld. Whether the connection is then between two frames: only there can it be closed in order.
    pub fn discard(&mut self) -> bool {
        self.bytes.truncate(self.released);
        let between = self.open.is_none_or(|open| open.withheld);
        self.open = None;
        between
    }

    /// Queues a ping.
    pub fn ping(&mut self) {
        self.ping = true;
        self.settle();
    }

    /// Queues a pong; only the latest ping is answered where several wait (RFC 6455, section 5.5.3).
    pub fn pong(&mut self, payload: Vec<u8>) {
        self.pong = Some(payload);
        self.settle();
    }

    /// Queues a close frame, after which nothing is sent.
    pub fn close(&mut self, frame: &CloseFrame) {
        if !self.closed && self.close.is_none() {
            self.close = Some(frame.encode());
            self.settle();
        }
    }

    /// Whether a close frame was queued.
    pub fn is_closed(&self) -> bool {
        self.closed || self.close.is_some()
    }

    /// The bytes that may go out now.
    pub fn ready(&self) -> &[u8] {
        &self.bytes[self.sent..self.released]
    }

    /// Takes note that the first `count` bytes of [`Writer::ready`] went out; frees the queue once all did.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() {
            self.bytes = Vec::new();
            (self.sent, self.released) = (0, 0);
        } else if self.sent >= SENT_MAX && self.sent * 2 >= self.bytes.len() {
            self.bytes.drain(..self.sent);
            self.released -= self.sent;
            self.sent = 0;
        }
    }

    /// Bytes of memory that the queue holds.
    pub fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Grows in step with what has arrived, never with what was announced.
    fn append(&mut self, bytes: &[u8]) {
        let room = self.bytes.capacity() - self.bytes.len();
        if room < bytes.len() {
            self.bytes.reserve_exact(bytes.len().max(self.bytes.len() / 2).max(GROWTH.min(bytes.len() * 2)));
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Releases what may go, and places waiting control frames where a frame may begin.
    fn settle(&mut self) {
        match self.open {
            Some(open) if open.withheld => {}
            Some(open) => {
                self.released = self.bytes.len();
                if open.left > 0 {
                    return;
                }
                self.open = None;
            }
            None => self.released = self.bytes.len(),
        }
        if self.closed {
            return;
        }
        if let Some(payload) = self.pong.take() {
            self.insert(Opcode::Pong, &payload);
        }
        if core::mem::take(&mut self.ping) {
            self.insert(Opcode::Ping, &[]);
        }
        if let Some(payload) = self.close.take() {
            self.insert(Opcode::Close, &payload);
            self.closed = true;
        }
    }

    /// Puts a control frame behind everything released and before what is withheld.
    fn insert(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = self.masks.as_mut().map(Masks::next);
        let frame = encode_frame(true, opcode, mask, payload);
        let len = frame.len();
        self.bytes.splice(self.released..self.released, frame);
        self.released += len;
    }
}
