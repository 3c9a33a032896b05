//! The way from the node to the peer. The node is trusted: its frames are written anew and pass as they come, unless the
//! peer would ban us for one more of them just now. Those that speak of addresses are held until they are complete, and go
//! on as [`Privacy`] has them. Before the peer has introduced itself nothing passes but a handshake.

use super::carry::Tally;
use super::detour::Detour;
use super::privacy::{LIST_MAX, Privacy};
use crate::chia::{Body, Envelope, Inspector, Scan, number};
use crate::session::Instant;
use crate::verdict::Reason;
use crate::websocket::Writer;

/// Fragments in which a large message goes to the peer. Control frames slip in between.
const FRAGMENT_TO_PEER: u64 = 64 * 1024;

/// What a message meets on its way to the peer.
pub(super) struct Back<'a> {
    pub(super) inspector: Option<&'a mut Inspector>,
    pub(super) writer: &'a mut Writer,
    pub(super) tally: &'a mut Tally,
    pub(super) privacy: Option<&'a Privacy>,
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
        /// Whether it waits.
        detained: bool,
    },
    /// Held until it is complete.
    Held { envelope: Envelope, judge: Option<Body>, header: Vec<u8>, body: Vec<u8> },
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
    /// The body of a handshake that went out before the peer had introduced itself.
    greeting: Option<Box<[u8]>>,
}

impl Outbound {
    /// Payload of a message. `left` bytes of its frame are still to come; `fin` if the frame is the message's last. Fails
    /// where a message cannot pass because its peer is not known.
    pub(super) fn data(
        &mut self,
        now: Instant,
        bytes: &[u8],
        left: u64,
        fin: bool,
        back: &mut Back<'_>,
    ) -> Result<(), Reason> {
        let end = fin && left == 0;
        let mut rest = bytes;
        let mut scanned = Scan::default();
        let began = matches!(self.message, Message::Beginning);
        if matches!(self.message, Message::Beginning) {
            let before = self.scan.seen().len();
            let found = self.scan.take(bytes);
            rest = &bytes[self.scan.seen().len() - before..];
            match found {
                Ok((_, None)) if !end => return Ok(()),
                Ok((_, Some(envelope))) => self.begin(now, envelope, back)?,
                Ok((_, None)) | Err(_) if back.inspector.is_none() => return Err(Reason::NodeProtocol),
                Ok((_, None)) | Err(_) => {
                    back.tally.noted.odd += 1;
                    self.message = Message::Unread;
                }
            }
            scanned = core::mem::take(&mut self.scan);
        }
        match self.judge(rest, back) {
            Way::Held => {
                if let Message::Held { header, body, .. } = &mut self.message {
                    if began {
                        header.extend_from_slice(scanned.seen());
                    }
                    let room = (LIST_MAX as usize + 1).saturating_sub(body.len());
                    body.extend_from_slice(&rest[..rest.len().min(room)]);
                }
            }
            Way::Detour => {
                self.detour.push(scanned.seen());
                self.detour.push(rest);
            }
            Way::Straight => write([scanned.seen(), rest], left, fin, &mut self.continues, back.writer),
        }
        if end {
            self.end(now, back);
        }
        Ok(())
    }

    /// The envelope is there: the message goes on, or waits behind those that wait.
    fn begin(&mut self, now: Instant, envelope: Envelope, back: &mut Back<'_>) -> Result<(), Reason> {
        let early = back.inspector.is_none();
        if early && (envelope.kind != number::HANDSHAKE || self.greeting.is_some()) {
            return Err(Reason::NodeProtocol);
        }
        let body = back.inspector.as_deref_mut().and_then(|inspector| inspector.begins(&envelope));
        self.message = match envelope.kind {
            number::HANDSHAKE | number::RESPOND_PEERS | number::RESPOND_PEERS_INTRODUCER => {
                Message::Held { envelope, judge: body, header: Vec::new(), body: Vec::new() }
            }
            _ => Message::Known { envelope, body, detained: self.detains(now, &envelope, back) },
        };
        Ok(())
    }

    /// Whether a message has to wait; if not, it is counted as one that goes.
    fn detains(&mut self, now: Instant, envelope: &Envelope, back: &mut Back<'_>) -> bool {
        let Some(inspector) = &mut back.inspector else { return false };
        if !self.detour.is_empty() {
            return true;
        }
        self.free_at = inspector.free_at(now, envelope);
        if self.free_at > now {
            return true;
        }
        inspector.goes_out(now, envelope);
        false
    }

    /// Judges a piece of the body; which way it goes.
    fn judge(&mut self, piece: &[u8], back: &mut Back<'_>) -> Way {
        match (&mut self.message, &mut back.inspector) {
            (Message::Known { envelope, body, detained }, Some(inspector)) => {
                inspector.learn(envelope, body, piece);
                if *detained { Way::Detour } else { Way::Straight }
            }
            (Message::Held { envelope, judge, .. }, inspector) => {
                if let Some(inspector) = inspector {
                    inspector.learn(envelope, judge, piece);
                }
                Way::Held
            }
            _ => Way::Straight,
        }
    }

    /// The message is complete.
    fn end(&mut self, now: Instant, back: &mut Back<'_>) {
        let message = core::mem::take(&mut self.message);
        self.continues = false;
        match message {
            Message::Known { envelope, detained, .. } => {
                if !detained {
                    went(&envelope, back);
                }
            }
            Message::Held { envelope, header, body, .. } => self.release(now, &envelope, header, body, back),
            Message::Beginning | Message::Unread => back.tally.messages_to_peer += 1,
        }
    }

    /// A message that was held is complete: it is changed, and goes on or waits behind those that wait.
    fn release(
        &mut self,
        now: Instant,
        envelope: &Envelope,
        mut header: Vec<u8>,
        body: Vec<u8>,
        back: &mut Back<'_>,
    ) {
        match &mut back.inspector {
            Some(inspector) if envelope.kind == number::HANDSHAKE => inspector.node_handshake(&body),
            Some(_) => {}
            None => self.greeting = Some(body.as_slice().into()),
        }
        if body.len() > LIST_MAX as usize {
            back.tally.addresses_withheld += 1;
            return;
        }
        let body = match back.privacy {
            Some(privacy) => privacy.edit(envelope.kind, body, back.tally),
            None => body,
        };
        // A header ends with the length of the body.
        if let Some(length) = header.last_chunk_mut() {
            *length = (body.len() as u32).to_be_bytes();
        }
        let envelope = Envelope { body: body.len() as u32, ..*envelope };
        if self.detains(now, &envelope, back) {
            self.detour.push(&header);
            self.detour.push(&body);
        } else {
            write([&header, &body], 0, true, &mut false, back.writer);
            went(&envelope, back);
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

    /// The node's handshake, where it went out before the peer had introduced itself.
    pub(super) fn greeting(&self) -> Option<&[u8]> {
        self.greeting.as_deref()
    }

    /// The same, once.
    pub(super) fn take_greeting(&mut self) -> Option<Box<[u8]>> {
        self.greeting.take()
    }

    /// When what waits may go.
    pub(super) fn free_at(&self) -> Option<Instant> {
        (!self.detour.is_empty()).then_some(self.free_at)
    }

    pub(super) fn memory(&self) -> usize {
        self.detour.memory()
    }
}

/// Where a piece of a message goes.
enum Way {
    /// To the peer.
    Straight,
    /// Behind what waits.
    Detour,
    /// Nowhere until the message is complete.
    Held,
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
