//! The envelope around every message: a type, an optional id, and a body with its length in front.
//!
//! Integers are big endian. One message travels as one binary WebSocket message, so the length is stated twice; both
//! must agree.

use crate::verdict::Reason;

/// Bytes before the body of a message without an id.
pub const PLAIN_HEADER_BYTES: usize = 6;

/// Bytes before the body of a message with an id.
pub const ID_HEADER_BYTES: usize = 8;

/// What stands before a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The number of the message's type.
    pub kind: u8,
    /// Pairs a reply with its request.
    pub id: Option<u16>,
    /// Length of the body in bytes.
    pub body: u32,
}

impl Envelope {
    /// Bytes before the body.
    pub const fn header_bytes(&self) -> usize {
        if self.id.is_some() { ID_HEADER_BYTES } else { PLAIN_HEADER_BYTES }
    }

    /// Bytes of the whole message.
    pub const fn total(&self) -> u64 {
        self.header_bytes() as u64 + self.body as u64
    }

    /// Reads an envelope from the start of a message; `None` as long as bytes of it are missing.
    pub fn parse(bytes: &[u8]) -> Result<Option<Envelope>, Reason> {
        let (kind, id, length) = match bytes {
            [kind, 0, length @ ..] => (*kind, None, length),
            [kind, 1, high, low, length @ ..] => (*kind, Some(u16::from_be_bytes([*high, *low])), length),
            [_] | [] | [_, 1, ..] => return Ok(None),
            [_, _, ..] => return Err(Reason::EnvelopeMalformed),
        };
        let body = length.first_chunk().map(|length| u32::from_be_bytes(*length));
        Ok(body.map(|body| Envelope { kind, id, body }))
    }

    /// Writes the envelope; says how many bytes it takes.
    pub fn write(&self, into: &mut [u8; ID_HEADER_BYTES]) -> usize {
        into[0] = self.kind;
        let length = self.body.to_be_bytes();
        match self.id {
            None => {
                into[1] = 0;
                into[2..6].copy_from_slice(&length);
            }
            Some(id) => {
                into[1] = 1;
                into[2..4].copy_from_slice(&id.to_be_bytes());
                into[4..8].copy_from_slice(&length);
            }
        }
        self.header_bytes()
    }
}

/// Finds the envelope of a message that arrives in pieces of any size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    bytes: [u8; ID_HEADER_BYTES],
    len: u8,
}

impl Scan {
    /// Takes the bytes of `piece` that still belong to the envelope. Says how many they are, and the envelope once it is
    /// complete.
    pub fn take(&mut self, piece: &[u8]) -> Result<(usize, Option<Envelope>), Reason> {
        let mut taken = 0;
        for &byte in piece {
            self.bytes[usize::from(self.len)] = byte;
            self.len += 1;
            taken += 1;
            if let Some(envelope) = Envelope::parse(self.seen())? {
                return Ok((taken, Some(envelope)));
            }
        }
        Ok((taken, None))
    }

    /// The bytes taken so far.
    pub fn seen(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A whole message, for whoever builds or reads one outside the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The number of the message's type.
    pub kind: u8,
    /// Pairs a reply with its request.
    pub id: Option<u16>,
    /// The body, in the encoding of its type.
    pub body: Vec<u8>,
}

impl Message {
    /// A message without an id.
    pub fn new(kind: u8, body: impl Into<Vec<u8>>) -> Message {
        Message { kind, id: None, body: body.into() }
    }

    /// The message with an id.
    #[must_use]
    pub fn with_id(self, id: u16) -> Message {
        Message { id: Some(id), ..self }
    }

    /// The bytes on the wire, to be sent as one binary WebSocket message.
    ///
    /// A body beyond 4 GiB cannot be stated; its length is cut.
    pub fn encode(&self) -> Vec<u8> {
        let envelope = Envelope { kind: self.kind, id: self.id, body: self.body.len() as u32 };
        let mut header = [0; ID_HEADER_BYTES];
        let len = envelope.write(&mut header);
        let mut bytes = Vec::with_capacity(len + self.body.len());
        bytes.extend_from_slice(&header[..len]);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads one whole message; anything missing or left over is [`Reason::EnvelopeMalformed`].
    pub fn decode(bytes: &[u8]) -> Result<Message, Reason> {
        let envelope = Envelope::parse(bytes)?.ok_or(Reason::EnvelopeMalformed)?;
        if envelope.total() != bytes.len() as u64 {
            return Err(Reason::EnvelopeMalformed);
        }
        Ok(Message { kind: envelope.kind, id: envelope.id, body: bytes[envelope.header_bytes()..].to_vec() })
    }
}
