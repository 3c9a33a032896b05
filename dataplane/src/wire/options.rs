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
    /// that runs past the header refuses the segment. Of an option that comes twice the last one counts. The layouts that
    /// Linux gives to established segments and to SYNs are recognised whole.
    pub(crate) fn walk(bytes: &[u8]) -> Result<Found, Reason> {
        let mut found = Found::default();
        if let Ok(only) = <&[u8; 12]>::try_from(bytes)
            && only.first_chunk() == Some(&ALIGNED_TIMESTAMPS)
        {
            found.note(TIMESTAMPS, &only[4..], 4);
            return Ok(found);
        }
        if let Ok(all) = <&[u8; 20]>::try_from(bytes)
            && let (&[mss, second, value, echo, scale], []) = all.as_chunks::<4>()
            && let ([MSS, 4, m0, m1], [NOP, WINDOW_SCALE, 3, shift]) = (mss, scale)
            && second == [SACK_PERMITTED, 2, TIMESTAMPS, 10]
        {
            return Ok(Found {
                mss: Some(u16::from_be_bytes([m0, m1])),
                window_scale: Some(shift),
                sack_permitted: true,
                timestamps: Some((u32::from_be_bytes(value), u32::from_be_bytes(echo))),
                sack: (0, 0),
            });
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

/// Options as they are sent: whole words, so that every layout is aligned and its checksum never touches memory.
pub(crate) struct Emitted {
    words: [u32; OPTIONS_MAX / 4],
    count: usize,
}

impl Emitted {
    /// None.
    pub(crate) const NONE: Emitted = Emitted { words: [0; OPTIONS_MAX / 4], count: 0 };

    /// Lays `options` out: those of a handshake, then as many SACK blocks as fit (RFC 2018, section 3). They never take more
    /// room than the same options in a peer's header.
    #[inline]
    pub(crate) fn new(options: &Options) -> Self {
        let Options { mss, window_scale, sack_permitted, timestamps, sack } = options;
        let mut emitted = Emitted::handshake(*mss, *sack_permitted, *timestamps, *window_scale);
        emitted.push_sack(sack.as_slice());
        emitted
    }

    /// Lays the options of a handshake out in the order of a SYN: MSS, SACK permitted, timestamps and window scale.
    #[inline]
    pub(crate) fn handshake(
        mss: Option<u16>,
        sack_permitted: bool,
        timestamps: Option<(u32, u32)>,
        window_scale: Option<u8>,
    ) -> Self {
        let mut emitted = Emitted::NONE;
        if let Some(mss) = mss {
            emitted.push(quad(MSS, 4, 0, 0) | u32::from(mss));
        }
        if let Some((value, echo)) = timestamps {
            let (first, second) = if sack_permitted { (SACK_PERMITTED, 2) } else { (NOP, NOP) };
            emitted.push(quad(first, second, TIMESTAMPS, 10));
            emitted.push(value);
            emitted.push(echo);
        } else if sack_permitted {
            emitted.push(quad(NOP, NOP, SACK_PERMITTED, 2));
        }
        if let Some(shift) = window_scale {
            emitted.push(quad(NOP, WINDOW_SCALE, 3, shift));
        }
        emitted
    }

    #[inline]
    fn push(&mut self, word: u32) {
        if let Some(place) = self.words.get_mut(self.count) {
            *place = word;
            self.count += 1;
        }
    }

    fn push_sack(&mut self, blocks: &[(Seq, Seq)]) {
        let fit = (self.words.len() - self.count).saturating_sub(1) / 2;
        let blocks = &blocks[..blocks.len().min(fit)];
        if blocks.is_empty() {
            return;
        }
        self.push(quad(NOP, NOP, SACK, 2 + 8 * blocks.len() as u8));
        for (left, right) in blocks {
            self.push(left.0);
            self.push(right.0);
        }
    }

    /// The words, to be written in the byte order of the wire.
    #[inline]
    pub(crate) fn words(&self) -> &[u32] {
        &self.words[..self.count]
    }
}

fn quad(a: u8, b: u8, c: u8, d: u8) -> u32 {
    u32::from_be_bytes([a, b, c, d])
}
