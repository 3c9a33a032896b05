//! Frame headers, masks and the body of close frames (RFC 6455, sections 5.2 to 5.5).

use crate::verdict::Reason;

/// Longest payload of a control frame.
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// Longest frame header: two bytes, eight of length, four of mask.
pub(super) const HEADER_BYTES_MAX: usize = 14;

/// Close codes that are used here (RFC 6455, section 7.4.1).
pub mod close_code {
    /// The purpose of the connection was fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server is going down.
    pub const GOING_AWAY: u16 = 1001;
    /// A protocol error.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A kind of data that is not taken here.
    pub const UNSUPPORTED: u16 = 1003;
    /// Against a rule of this side that no other code names.
    pub const POLICY_VIOLATION: u16 = 1008;
    /// A message too big to process.
    pub const TOO_BIG: u16 = 1009;
    /// Try again later.
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0,
    /// The beginning of a text message.
    Text = 1,
    /// The beginning of a binary message.
    Binary = 2,
    /// The end of the connection.
    Close = 8,
    /// Asks for a sign of life.
    Ping = 9,
    /// A sign of life.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    /// Whether it belongs to no message.
    pub const fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// A frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether the frame ends its message.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// Length of the payload in bytes.
    pub len: u64,
    /// The mask, where there is one.
    pub mask: Option<[u8; 4]>,
}

impl FrameHeader {
    /// Reads a header from the start of `bytes`, and how long it is; `None` as long as bytes of it are missing. What is
    /// wrong is refused as early as its byte is there.
    pub fn parse(bytes: &[u8]) -> Result<Option<(FrameHeader, usize)>, Reason> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(Reason::WsReservedBits);
        }
        let fin = first & 0x80 != 0;
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(Reason::WsOpcode)?;
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        let short = second & 0x7f;
        if opcode.is_control() && (!fin || usize::from(short) > CONTROL_BYTES_MAX) {
            return Err(Reason::WsControl);
        }
        let Some((len, at)) = parse_length(short, &bytes[2..])? else { return Ok(None) };
        let at = at + 2;
        if second & 0x80 == 0 {
            return Ok(Some((FrameHeader { fin, opcode, len, mask: None }, at)));
        }
        let mask = bytes[at..].first_chunk().copied();
        Ok(mask.map(|mask| (FrameHeader { fin, opcode, len, mask: Some(mask) }, at + 4)))
    }

    /// Writes the header; says how many bytes it takes.
    pub fn write(&self, into: &mut [u8; HEADER_BYTES_MAX]) -> usize {
        into[0] = u8::from(self.fin) << 7 | self.opcode as u8;
        let at = match self.len {
            0..=125 => {
                into[1] = self.len as u8;
                2
            }
            126..=0xffff => {
                into[1] = 126;
                into[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
                4
            }
            _ => {
                into[1] = 127;
                into[2..10].copy_from_slice(&self.len.to_be_bytes());
                10
            }
        };
        let Some(mask) = self.mask else { return at };
        into[1] |= 0x80;
        into[at..at + 4].copy_from_slice(&mask);
        at + 4
    }
}

/// The payload's length and the bytes it takes beyond the header's second; it must have its shortest form.
fn parse_length(short: u8, bytes: &[u8]) -> Result<Option<(u64, usize)>, Reason> {
    match short {
        126 => {
            let Some(len) = bytes.first_chunk() else { return Ok(None) };
            let len = u16::from_be_bytes(*len);
            if len < 126 { Err(Reason::WsLength) } else { Ok(Some((len.into(), 2))) }
        }
        127 => {
            let Some(len) = bytes.first_chunk() else { return Ok(None) };
            let len = u64::from_be_bytes(*len);
            if len <= 0xffff || len > i64::MAX as u64 { Err(Reason::WsLength) } else { Ok(Some((len, 8))) }
        }
        short => Ok(Some((short.into(), 0))),
    }
}

/// Masks or unmasks a piece of a payload that begins `offset` bytes into it (RFC 6455, section 5.3).
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let mut mask = mask;
    mask.rotate_left(offset % 4);
    let word = u32::from_ne_bytes(mask);
    let wide = u64::from(word) << 32 | u64::from(word);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// A whole frame, for whoever builds one outside a [`Writer`](super::Writer).
pub fn encode_frame(fin: bool, opcode: Opcode, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut header = [0; HEADER_BYTES_MAX];
    let len = FrameHeader { fin, opcode, len: payload.len() as u64, mask }.write(&mut header);
    let mut bytes = Vec::with_capacity(len + payload.len());
    bytes.extend_from_slice(&header[..len]);
    bytes.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut bytes[len..], mask, 0);
    }
    bytes
}

/// What a close frame says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CloseFrame {
    /// The code; `None` where the frame is empty.
    pub code: Option<u16>,
    /// The text beside it, at most 123 bytes.
    pub text: String,
}

impl CloseFrame {
    /// A close frame with a code and a text, which is cut to what fits.
    pub fn new(code: u16, text: &str) -> CloseFrame {
        CloseFrame { code: Some(code), text: cut(text, CONTROL_BYTES_MAX - 2).to_owned() }
    }

    /// The payload on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        if let Some(code) = self.code {
            payload.extend_from_slice(&code.to_be_bytes());
            payload.extend_from_slice(self.text.as_bytes());
        }
        payload
    }

    /// Reads a payload (RFC 6455, sections 5.5.1 and 7.4).
    pub fn decode(payload: &[u8]) -> Result<CloseFrame, Reason> {
        let (code, text) = match payload {
            [] => return Ok(CloseFrame::default()),
            [high, low, text @ ..] => (u16::from_be_bytes([*high, *low]), text),
            [_] => return Err(Reason::WsControl),
        };
        let text = core::str::from_utf8(text).map_err(|_| Reason::WsControl)?;
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => {
                Ok(CloseFrame { code: Some(code), text: text.to_owned() })
            }
            _ => Err(Reason::WsControl),
        }
    }
}

/// The longest beginning of `text` that has at most `len` bytes and cuts no character.
fn cut(text: &str, len: usize) -> &str {
    let end = (0..=len.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}
