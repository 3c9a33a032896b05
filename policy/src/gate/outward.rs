//! The way from the node to the peer. The node is trusted: its frames are written anew and pass as they come, unless the
//! peer would ban us for one more of them just now.

use super::carry::Tally;
use super::detour::Detour;
use crate::chia::{Body, Envelope, Inspector, Scan, number};
use crate::session::Instant;
use crate::websocket::Writer;

/// Fragments in which a large message goes to the peer. Control frames slip in between.
const FRAGMENT_TO_PEER: u64 = 64 * 1024;

/// Largest body of the node's that is kept to be read: its handshake.
const HANDSHAKE_MAX: u32 = 10 * 1024;

/// What a message meets on its way to the peer.
pub(super) struct Back<'a> {
    pub(super) inspector: Option<&'a mut Inspector>,
    pub(super) writer: &'a mut Writer,
    pub(super) tally: &'a mut Tally,
}

/// The node's message under way.
#[derive(Debug, Default)]
enum Message {
    /// Its envelope is not complete.
    #[default]
    Beginning,
    /// It has no envelope that could be read; it passes.
    Unread,
    /// Known by its envelope.
    Known {
        envelope: Envelope,
        body: Option<Body>,
        kept: Option<Vec<u8>>,
        /// Whether it waits.
        detained: bool,
    },
}

/// The way from the node to the peer.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    scan: Scan,
    message: Message,
    /// Whether a fragment of it went out already.
    continues: bool,
    detour: Detour,
    /// When the first message in the detour may go.
    free_at: Instant,
}

impl Outbound {
    /// Payload of a message. `left` bytes of its frame are still to come; `fin` if the frame is the message's last.
    pub(super) fn data(&mut self, now: Instant, bytes: &[u8], left: u64, fin: bool, back: &mut Back<'_>) {
        let end = fin && left == 0;
        let mut rest = bytes;
        let mut scanned = Scan::default();
        if matches!(self.message, Message::Beginning) {
            let before = self.scan.seen().len();
            let found = self.scan.take(bytes);
            rest = &bytes[self.scan.seen().len() - before..];
            match found {
                Ok((_, None)) if !end => return,
                Ok((_, Some(envelope))) => self.begin(now, envelope, back),
                Ok((_, None)) | Err(_) => {
                    back.tally.noted.odd += 1;
                    self.message = Message::Unread;
                }
            }
            scanned = core::mem::take(&mut self.scan);
        }
        let detained = self.judge(rest, back);
        if detained {
            self.detour.push(scanned.seen());
            self.detour.push(rest);
        } else {
            write([scanned.seen(), rest], left, fin, &mut self.continues, back.writer);
        }
        if end {
            self.end(back);
        }
    }

    /// The envelope is there: the message goes on, or waits behind those that wait.
    fn begin(&mut self, now: Instant, envelope: Envelope, back: &mut Back<'_>) {
        let Some(inspector) = &mut back.inspector else {
            self.message = Message::Unread;
            return;
        };
        let mut detained = !self.detour.is_empty();
        if !detained {
            self.free_at = inspector.free_at(now, &envelope);
            detained = self.free_at > now;
        }
        if !detained {
            inspector.goes_out(now, &envelope);
        }
        let keeps = envelope.kind == number::HANDSHAKE && envelope.body <= HANDSHAKE_MAX;
        let body = inspector.body(&envelope);
        self.message = Message::Known { envelope, body, kept: keeps.then(Vec::new), detained };
    }

    /// Judges a piece of the body; whether the message waits.
    fn judge(&mut self, piece: &[u8], back: &mut Back<'_>) -> bool {
        let (Message::Known { envelope, body, kept, detained }, Some(inspector)) =
            (&mut self.message, &mut back.inspector)
        else {
            return false;
        };
        inspector.learn(envelope, body, piece);
        if let Some(kept) = kept {
            kept.extend_from_slice(piece);
        }
        *detained
    }

    /// The message is complete.
    fn end(&mut self, back: &mut Back<'_>) {
        let message = core::mem::take(&mut self.message);
        self.continues = false;
        if let Message::Known { envelope, kept, detained, .. } = message {
            if let (Some(kept), Some(inspector)) = (kept, &mut back.inspector) {
                inspector.node_handshake(&kept);
            }
            if detained {
                return;
            }
            went(&envelope, back);
        } else {
            back.tally.messages_to_peer += 1;
        }
    }

    /// Lets go what waited, as far as the peer takes it by now.
    pub(super) fn forward(&mut self, now: Instant, back: &mut Back<'_>) {
        while let (Some((envelope, come)), Some(inspector)) = (self.detour.front(), &mut back.inspector) {
            self.free_at = inspector.free_at(now, &envelope);
            if self.free_at > now {
                return;
            }
            inspector.goes_out(now, &envelope);
            let count = come.len();
            match &mut self.message {
                // Still coming: from here on it goes straight to the peer.
                Message::Known { detained: detained @ true, .. } if self.detour.is_last(count) => {
                    *detained = false;
                    write([come, &[]], 0, false, &mut self.continues, back.writer);
                }
                _ => {
                    write([come, &[]], 0, true, &mut false, back.writer);
                    went(&envelope, back);
                }
            }
            self.detour.take(count);
        }
    }

    /// When what waits may go.
    pub(super) fn free_at(&self) -> Option<Instant> {
        (!self.detour.is_empty()).then_some(self.free_at)
    }

    pub(super) fn memory(&self) -> usize {
        self.detour.memory()
    }
}

/// A message went to the peer, to its last byte.
fn went(envelope: &Envelope, back: &mut Back<'_>) {
    back.tally.messages_to_peer += 1;
    back.tally.bytes_to_peer += envelope.total();
    if let Some(inspector) = &mut back.inspector {
        inspector.went_out(envelope);
    }
}

/// Writes pieces of a message, with `left` bytes of its frame to come.
fn write(pieces: [&[u8]; 2], left: u64, fin: bool, continues: &mut bool, writer: &mut Writer) {
    let mut rest = pieces.iter().map(|piece| piece.len() as u64).sum::<u64>() + left;
    if rest == 0 && fin && writer.wanted() == 0 {
        writer.begin(0, !*continues, true, false);
    }
    for mut bytes in pieces {
        while !bytes.is_empty() {
            if writer.wanted() == 0 {
                let len = rest.min(FRAGMENT_TO_PEER);
                writer.begin(len, !*continues, fin && len == rest, false);
                *continues = true;
            }
            let taken = writer.push(bytes);
            rest -= taken as u64;
            bytes = &bytes[taken..];
        }
    }
}
