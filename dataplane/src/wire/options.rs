//! TCP options: one bounded walk that finds those that are understood, and the layouts that are sent.

use super::{Options, SackBlocks, Seq};
use crate::Reason;

/// Largest number of option bytes in a TCP header.
pub(crate) const OPTIONS_MAX: usize = 40;

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// The head of the options that nearly every established segment carries: two NOPs and timestamps (RFC 7323, A).
const ALIGNED_TIMESTAMPS: [u8; 4] = [NOP, NOP, TIMESTAMPS, 10];

/// Options as one walk found them; SACK blocks stay where they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) timestamps: Option<(u32, u32)>,
    /// Offset and length of the SACK blocks within the option bytes.
    sack: (u8, u8),
}

impl Found {
    /// Walks over option bytes. Unknown kinds and known kinds with a wrong length are skipped, as kernels do; a length
    /// that runs past the header refuses the segment. Of an option that comes twice the last one counts.
    pub(crate) fn walk(bytes: &[u8]) -> Result<Found, Reason> {
        let mut found = Found::default();
        if let Ok(only) = <&[u8; 12]>::try_from(bytes)
            && only.first_chunk() == Some(&ALIGNED_TIMESTAMPS)
        {
            found.note(TIMESTAMPS, &only[4..], 4);
            return Ok(found);
        }
        let mut at = 0;
        while let Some(&kind) = bytes.get(at) {
            if kind == END {
                break;
            }
            if kind == NOP {
                at += 1;
                continue;
            }
            let length = usize::from(*bytes.get(at + 1).ok_or(Reason::BadOptions)?);
            if length < 2 {
                return Err(Reason::BadOptions);
            }
            let body = bytes.get(at + 2..at + length).ok_or(Reason::BadOptions)?;
            found.note(kind, body, at + 2);
            at += length;
        }
        Ok(found)
    }

    fn note(&mut self, kind: u8, body: &[u8], at: usize) {
        match (kind, body) {
            (MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (TIMESTAMPS, &[a, b, c, d, e, f, g, h]) => {
                self.timestamps = Some((u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])));
            }
            (SACK, body) if !body.is_empty() && body.len().is_multiple_of(8) => {
                self.sack = (at as u8, body.len() as u8);
            }
            _ => {}
        }
    }

    /// The options in the engine's form; `bytes` are those that were walked over.
    pub(crate) fn options(&self, bytes: &[u8]) -> Options {
        let mut sack = SackBlocks::default();
        let (at, length) = (usize::from(self.sack.0), usize::from(self.sack.1));
        for &[a, b, c, d, e, f, g, h] in bytes.get(at..at + length).unwrap_or_default().as_chunks::<8>().0 {
            sack.push(Seq(u32::from_be_bytes([a, b, c, d])), Seq(u32::from_be_bytes([e, f, g, h])));
        }
        Options {
            mss: self.mss,
            window_scale: self.window_scale,
            sack_permitted: self.sack_permitted,
            timestamps: self.timestamps,
            sack,
        }
    }
}

/// Option bytes as they are sent, padded to a multiple of four.
pub(crate) struct Emitted {
    bytes: [u8; OPTIONS_MAX],
    length: usize,
}

impl Emitted {
    /// Writes `options`: MSS, SACK permitted, timestamps and window scale in the order of a SYN, or aligned timestamps
    /// and as many SACK blocks as fit (RFC 2018, section 3).
    pub(crate) fn new(options: &Options) -> Self {
        let mut emitted = Emitted { bytes: [END; OPTIONS_MAX], length: 0 };
        let syn = options.mss.is_some() || options.sack_permitted || options.window_scale.is_some();
        if let Some(mss) = options.mss {
            let [high, low] = mss.to_be_bytes();
            emitted.push([MSS, 4, high, low]);
        }
        if options.sack_permitted {
            emitted.push([SACK_PERMITTED, 2]);
        }
        if let Some((value, echo)) = options.timestamps {
            if !syn {
                emitted.push([NOP, NOP]);
            }
            emitted.push([TIMESTAMPS, 10]);
            emitted.push(value.to_be_bytes());
            emitted.push(echo.to_be_bytes());
        }
        if let Some(shift) = options.window_scale {
            emitted.push([NOP, WINDOW_SCALE, 3, shift]);
        }
        emitted.push_sack(options.sack.as_slice());
        while !emitted.length.is_multiple_of(4) {
            emitted.push([if syn { END } else { NOP }]);
        }
        emitted
    }

    fn push<const N: usize>(&mut self, piece: [u8; N]) {
        if let Some(place) = self.bytes.get_mut(self.length..self.length + N) {
            place.copy_from_slice(&piece);
            self.length += N;
        }
    }

    fn push_sack(&mut self, blocks: &[(Seq, Seq)]) {
        let fit = (OPTIONS_MAX - self.length).saturating_sub(4) / 8;
        let blocks = &blocks[..blocks.len().min(fit)];
        if blocks.is_empty() {
            return;
        }
        self.push([NOP, NOP, SACK, 2 + 8 * blocks.len() as u8]);
        for (left, right) in blocks {
            self.push(left.0.to_be_bytes());
            self.push(right.0.to_be_bytes());
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
