//! A port that records the frames of another as pcapng, readable by tcpdump and Wireshark.
//!
//! Each frame is written with its direction, its 802.1Q tag and a time that the caller's clock gives. The recording has a
//! largest size, after which frames are only counted; a failing writer ends it. Frames themselves pass unharmed either
//! way. (The format: the IETF draft "PCAP Next Generation Capture File Format", one section with one interface.)

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use hedgerow_dataplane::frame::{
    Abilities, BATCH, Batch, Frame, Lane, Meta, Pool, Port, PortError, PortStatistics,
};
use hedgerow_dataplane::wire::{Address, FlowKey, Mac, Prefix};

use crate::vnet::{self, TAG_OFFSET};

/// A port around another. `C` gives the time in nanoseconds since 1970.
#[derive(Debug)]
pub struct Pcap<P, W, C> {
    inner: P,
    recording: Recording<W, C>,
    /// Slots of frames that are recorded, but were not taken by the inner port: they will be offered again.
    offered: Vec<u32>,
}

/// How much is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcapLimits {
    /// Largest size of the recording.
    pub bytes: u64,
    /// Bytes recorded of each frame.
    pub frame_bytes: usize,
}

impl Default for PcapLimits {
    fn default() -> Self {
        PcapLimits { bytes: 1 << 30, frame_bytes: 1 << 18 }
    }
}

/// What became of a recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PcapCounts {
    /// Frames recorded.
    pub recorded: u64,
    /// Frames left out because the recording had reached its size or its writer failed.
    pub skipped: u64,
    /// Bytes written.
    pub bytes: u64,
}

#[derive(Debug)]
struct Recording<W, C> {
    writer: W,
    clock: C,
    limits: PcapLimits,
    counts: PcapCounts,
    error: Option<io::Error>,
}

/// Which way a frame went, as the option `epb_flags` says it.
#[derive(Clone, Copy)]
enum Way {
    In = 1,
    Out = 2,
}

impl<P: Port, W: Write, C: FnMut() -> u64> Pcap<P, W, C> {
    /// Records the frames of `inner`. The recording's header is written at once.
    pub fn new(inner: P, writer: W, clock: C, limits: PcapLimits) -> Self {
        let mut recording = Recording { writer, clock, limits, counts: PcapCounts::default(), error: None };
        recording.begin();
        Pcap { inner, recording, offered: Vec::with_capacity(BATCH) }
    }

    /// What became of the recording so far.
    pub fn counts(&self) -> PcapCounts {
        self.recording.counts
    }

    /// Why the recording ended early, if its writer failed.
    pub fn error(&self) -> Option<&io::Error> {
        self.recording.error.as_ref()
    }

    /// The port inside.
    pub fn inner(&mut self) -> &mut P {
        &mut self.inner
    }

    /// Ends the recording and gives its parts back.
    pub fn finish(mut self) -> (P, io::Result<W>) {
        let result = match self.recording.error.take() {
            Some(error) => Err(error),
            None => self.recording.writer.flush(),
        };
        (self.inner, result.map(|()| self.recording.writer))
    }
}

impl<W: Write, C: FnMut() -> u64> Recording<W, C> {
    /// Section header and interface description.
    fn begin(&mut self) {
        const SECTION: [u32; 7] = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28];
        // Ethernet, no limit on frames, option 9: times are in units of 10^-9 seconds.
        const INTERFACE: [u32; 8] = [1, 32, 1, 0, 9 | 1 << 16, 9, 0, 32];
        let mut header = [0; 60];
        for (bytes, word) in header.chunks_exact_mut(4).zip(SECTION.into_iter().chain(INTERFACE)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        self.put(&[&header]);
    }

    /// One enhanced packet block.
    fn frame(&mut self, way: Way, bytes: &[u8], meta: &Meta) {
        let tag = vnet::tag(meta).filter(|_| bytes.len() >= TAG_OFFSET);
        let tag = tag.as_ref().map_or(&[][..], |tag| &tag[..]);
        let original = bytes.len() + tag.len();
        let captured = original.min(self.limits.frame_bytes);
        let padding = captured.next_multiple_of(4) - captured;
        let total = 28 + captured + padding + 12 + 4;
        if self.error.is_some() || self.counts.bytes + total as u64 > self.limits.bytes {
            self.counts.skipped += 1;
            return;
        }
        let time = (self.clock)();
        let head = [6, total as u32, 0, (time >> 32) as u32, time as u32, captured as u32, original as u32];
        // Option 2 with four bytes, the end of options, and the length again.
        let tail = [2 | 4 << 16, way as u32, 0, total as u32];
        let (addresses, rest) = bytes.split_at(bytes.len().min(TAG_OFFSET));
        let mut left = captured;
        let mut cut = |piece| -> &[u8] {
            let piece: &[u8] = piece;
            let piece = &piece[..piece.len().min(left)];
            left -= piece.len();
            piece
        };
        let pieces = [cut(addresses), cut(tag), cut(rest)];
        self.put(&[words(&head), pieces[0], pieces[1], pieces[2], &[0; 3][..padding], words(&tail)]);
        match self.error {
            None => self.counts.recorded += 1,
            Some(_) => self.counts.skipped += 1,
        }
    }

    fn put(&mut self, pieces: &[&[u8]]) {
        for piece in pieces {
            if let Err(error) = self.writer.write_all(piece) {
                self.error = Some(error);
                return;
            }
            self.counts.bytes += piece.len() as u64;
        }
    }
}

fn words(words: &[u32]) -> &[u8] {
    bytemuck::cast_slice(words)
}

impl<P: Port, W: Write, C: FnMut() -> u64> Pool for Pcap<P, W, C> {
    fn allocate(&mut self) -> Option<Frame> {
        self.inner.allocate()
    }
    fn release(&mut self, frame: Frame) {
        self.offered.retain(|&slot| slot != frame.slot());
        self.inner.release(frame);
    }
    fn bytes(&self, frame: &Frame) -> &[u8] {
        self.inner.bytes(frame)
    }
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        self.inner.bytes_mut(frame)
    }
    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.inner.resize(frame, len)
    }
    fn prefetch(&self, frame: &Frame) {
        self.inner.prefetch(frame);
    }
}

impl<P: Port, W: Write, C: FnMut() -> u64> Port for Pcap<P, W, C> {
    fn abilities(&self) -> &Abilities {
        self.inner.abilities()
    }

    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        let before = into.len();
        let count = self.inner.receive(lane, into)?;
        for (frame, meta) in into.iter().skip(before) {
            self.recording.frame(Way::In, self.inner.bytes(frame), meta);
        }
        Ok(count)
    }

    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        // What was sent can no longer be read, so it is recorded before; what was not taken comes again.
        for (frame, meta) in from.iter() {
            if !self.offered.contains(&frame.slot()) {
                self.recording.frame(Way::Out, self.inner.bytes(frame), meta);
            }
        }
        let result = self.inner.transmit(from);
        self.offered.clear();
        self.offered.extend(from.iter().map(|(frame, _)| frame.slot()));
        result
    }

    fn flush(&mut self) -> Result<(), PortError> {
        self.inner.flush()
    }

    fn known(&mut self, key: &FlowKey, on: bool) {
        self.inner.known(key, on);
    }

    fn own(&mut self, address: Address, on: bool) {
        self.inner.own(address, on);
    }

    fn deny(&mut self, prefix: Prefix, on: bool) {
        self.inner.deny(prefix, on);
    }

    fn join(&mut self, group: Mac) -> Result<(), PortError> {
        self.inner.join(group)
    }

    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        self.inner.park()
    }

    fn statistics(&self) -> PortStatistics {
        self.inner.statistics()
    }
}

#[cfg(test)]
mod tests;
