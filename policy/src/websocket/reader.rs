//! Takes frames apart as their bytes arrive, and holds them to the rules for a machine that speaks to machines.
//!
//! Payload is unmasked in place and handed on piece by piece. What is kept between calls is a partial header and a partial
//! control frame: some 150 bytes at most.

use core::time::Duration;

use super::Role;
use super::frame::{CONTROL_BYTES_MAX, CloseFrame, FrameHeader, HEADER_BYTES_MAX, Opcode, apply_mask};
use crate::session::Instant;
use crate::verdict::Reason;

/// What a reader accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest message in bytes.
    pub message_bytes: u64,
    /// Control frames and empty fragments in one minute.
    pub controls_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { message_bytes: 50 * 1024 * 1024 + 1024, controls_per_minute: 60 }
    }
}

/// Fragments that any message may have; beyond them each must carry [`FRAGMENT_BYTES`] on average.
const FRAGMENTS_FREE: u64 = 64;
const FRAGMENT_BYTES: u64 = 1024;
const CONTROL_PERIOD: Duration = Duration::from_secs(60);

/// What a reader found.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Payload of a binary message, unmasked.
    Data {
        /// The bytes; may be empty where a frame is.
        bytes: &'a mut [u8],
        /// Bytes of this frame that are still to come.
        left: u64,
        /// Whether the frame ends its message.
        fin: bool,
        /// Whether these are the first bytes of the message.
        begins: bool,
    },
    /// A ping; the bytes go back in a pong.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The other side ends the connection; nothing after it counts.
    Close(CloseFrame),
}

/// A message of which more is to come.
#[derive(Clone, Copy, Debug)]
struct Message {
    bytes: u64,
    fragments: u64,
    begun: bool,
}

/// A data frame of which more is to come.
#[derive(Clone, Copy, Debug)]
struct Frame {
    fin: bool,
    left: u64,
    mask: Option<[u8; 4]>,
    offset: usize,
}

/// The receiving half of a connection.
#[derive(Debug)]
pub struct Reader {
    role: Role,
    limits: Limits,
    header: [u8; HEADER_BYTES_MAX],
    header_len: u8,
    frame: Option<Frame>,
    /// A control frame that is being collected; not allocated otherwise.
    control: Option<Box<(FrameHeader, Vec<u8>)>>,
    message: Option<Message>,
    controls: u32,
    controls_since: Instant,
    /// Bytes taken, and those before the frame whose header came last.
    seen: u64,
    frame_at: u64,
}

impl Reader {
    /// A reader for the end of the connection that plays `role`.
    pub fn new(role: Role, limits: Limits) -> Reader {
        Reader {
            role,
            limits,
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            frame: None,
            control: None,
            message: None,
            controls: 0,
            controls_since: Instant::ZERO,
            seen: 0,
            frame_at: 0,
        }
    }

    /// Whether a message or a frame has begun and not ended.
    pub fn is_within(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.control.is_some() || self.message.is_some()
    }

    /// The limits that it holds the other side to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Where the frame began whose header came last, in bytes from the first; and the first bytes of that header.
    pub fn last_frame(&self) -> (u64, [u8; 2]) {
        (self.frame_at, [self.header[0], self.header[1]])
    }

    /// Takes bytes from the front of `bytes`: says how many, and what they were. To be called again with the rest until
    /// all are taken; without a piece all are.
    pub fn read<'a>(
        &mut self,
        now: Instant,
        bytes: &'a mut [u8],
    ) -> Result<(usize, Option<Piece<'a>>), Reason> {
        let mut taken = 0;
        while self.frame.is_none() && self.control.is_none() {
            let Some(&byte) = bytes.get(taken) else { return Ok((taken, None)) };
            taken += 1;
            if self.header_len == 0 {
                self.frame_at = self.seen;
                self.header = [0; HEADER_BYTES_MAX];
            }
            self.seen += 1;
            self.header[usize::from(self.header_len)] = byte;
            self.header_len += 1;
            if let Some((header, _)) = FrameHeader::parse(&self.header[..usize::from(self.header_len)])? {
                self.header_len = 0;
                self.begin(now, header)?;
            }
        }
        let rest = &mut bytes[taken..];
        let (used, piece) =
            if self.control.is_some() { self.read_control(rest)? } else { self.read_data(rest) };
        self.seen += used as u64;
        Ok((taken + used, piece))
    }

    /// A frame's header is complete.
    fn begin(&mut self, now: Instant, header: FrameHeader) -> Result<(), Reason> {
        if header.mask.is_some() != (self.role == Role::Server) {
            return Err(Reason::WsUnmasked);
        }
        if header.opcode.is_control() {
            self.count_control(now)?;
            self.control =
                Some(Box::new((header, Vec::with_capacity(CONTROL_BYTES_MAX.min(header.len as usize)))));
            return Ok(());
        }
        let message = match (header.opcode, self.message) {
            (Opcode::Text, None) => return Err(Reason::WsTextFrame),
            (Opcode::Binary, None) => Message { bytes: 0, fragments: 0, begun: false },
            (Opcode::Continuation, Some(message)) => message,
            _ => return Err(Reason::WsContinuation),
        };
        if header.len == 0 && !(header.fin && message.fragments == 0) {
            self.count_control(now)?;
        }
        let message = Message {
            bytes: message.bytes.saturating_add(header.len),
            fragments: message.fragments + 1,
            ..message
        };
        if message.bytes > self.limits.message_bytes {
            return Err(Reason::WsTooLarge);
        }
        if message.fragments > FRAGMENTS_FREE + message.bytes / FRAGMENT_BYTES {
            return Err(Reason::WsFragments);
        }
        self.message = Some(message);
        self.frame = Some(Frame { fin: header.fin, left: header.len, mask: header.mask, offset: 0 });
        Ok(())
    }

    fn count_control(&mut self, now: Instant) -> Result<(), Reason> {
        if now.saturating_sub(self.controls_since) >= CONTROL_PERIOD {
            self.controls_since = now;
            self.controls = 0;
        }
        self.controls += 1;
        if self.controls > self.limits.controls_per_minute { Err(Reason::WsControlFlood) } else { Ok(()) }
    }

    /// Payload of a data frame, unmasked where it lies.
    fn read_data<'a>(&mut self, bytes: &'a mut [u8]) -> (usize, Option<Piece<'a>>) {
        let Some(mut frame) = self.frame.take() else { return (0, None) };
        let count = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
        if count == 0 && frame.left > 0 {
            self.frame = Some(frame);
            return (0, None);
        }
        let bytes = &mut bytes[..count];
        if let Some(mask) = frame.mask {
            apply_mask(bytes, mask, frame.offset);
        }
        frame.offset = (frame.offset + count) % 4;
        frame.left -= count as u64;
        let begins =
            self.message.as_mut().is_some_and(|message| !core::mem::replace(&mut message.begun, true));
        if frame.left > 0 {
            self.frame = Some(frame);
        } else if frame.fin {
            self.message = None;
        }
        (count, Some(Piece::Data { bytes, left: frame.left, fin: frame.fin, begins }))
    }

    /// Collects a control frame.
    fn read_control<'a>(&mut self, bytes: &[u8]) -> Result<(usize, Option<Piece<'a>>), Reason> {
        let Some(mut control) = self.control.take() else { return Ok((0, None)) };
        let (header, payload) = &mut *control;
        let count = (header.len as usize - payload.len()).min(bytes.len());
        payload.extend_from_slice(&bytes[..count]);
        if payload.len() < header.len as usize {
            self.control = Some(control);
            return Ok((count, None));
        }
        if let Some(mask) = header.mask {
            apply_mask(payload, mask, 0);
        }
        let piece = match header.opcode {
            Opcode::Ping => Piece::Ping(core::mem::take(payload)),
            Opcode::Pong => Piece::Pong,
            _ => Piece::Close(CloseFrame::decode(payload)?),
        };
        Ok((count, Some(piece)))
    }
}
