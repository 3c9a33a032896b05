//! A port that spoils the frames of another: loss, duplication, reordering, delay and corruption, in either direction.
//!
//! Same seed, same frames and same calls give the same faults; each is counted. Time is counted in polls: every
//! [`Port::flush`] is one.

use std::os::fd::BorrowedFd;

use hedgerow_dataplane::frame::{
    Abilities, BATCH, Batch, Checksum, Frame, Lane, Meta, Pool, Port, PortError, PortStatistics,
};
use hedgerow_dataplane::wire::{Address, FlowKey, Mac, Prefix};

use crate::vnet;

/// How often faults happen to the frames of one direction. Chances are in parts of a million, each drawn on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Chance that a frame vanishes.
    pub loss: u32,
    /// Chance that a frame comes twice. The copy goes the same way as the original, each with its own delay.
    pub duplicate: u32,
    /// Chance that a frame is held back while later ones pass.
    pub reorder: u32,
    /// Largest number of polls that such a frame is held back.
    pub reorder_polls: u32,
    /// Polls that every frame waits.
    pub delay_polls: u32,
    /// Chance that one bit of a frame is flipped. The frame's checksum is complete afterwards as on a wire, so that the
    /// receiver can tell. A super-frame to be sent is lost instead: the port would give its parts new checksums.
    pub corrupt: u32,
}

/// What happened to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Frames that vanished.
    pub lost: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Frames held back behind later ones.
    pub reordered: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
    /// Frames that passed at once because no more may be held back.
    pub hurried: u64,
}

/// A port around another.
#[derive(Debug)]
pub struct Faulty<P> {
    inner: P,
    received: Direction,
    sent: Direction,
    /// Frames on their way to or from the inner port.
    staged: Batch,
    poll: u64,
}

/// One direction: its faults, and the frames that wait.
#[derive(Debug)]
struct Direction {
    faults: Faults,
    /// Whether the port is still to act on the metadata.
    sending: bool,
    random: Random,
    counts: FaultCounts,
    held: Vec<Held>,
    number: u64,
}

#[derive(Debug)]
struct Held {
    /// When it is due, and its place among those due at once.
    due: (u64, u64),
    lane: Lane,
    frame: Frame,
    meta: Meta,
}

/// Frames that one direction may hold back at once.
const HELD_MAX: usize = 1024;

impl<P: Port> Faulty<P> {
    /// Spoils what `inner` receives and sends.
    pub fn new(inner: P, received: Faults, sent: Faults, seed: u64) -> Self {
        Faulty {
            inner,
            received: Direction::new(received, false, Random(seed)),
            sent: Direction::new(sent, true, Random(!seed)),
            staged: Batch::new(),
            poll: 0,
        }
    }

    /// Other faults from now on: for received and for sent frames.
    pub fn set(&mut self, received: Faults, sent: Faults) {
        self.received.faults = received;
        self.sent.faults = sent;
    }

    /// What happened so far: to received and to sent frames.
    pub fn counts(&self) -> (FaultCounts, FaultCounts) {
        (self.received.counts, self.sent.counts)
    }

    /// The port inside.
    pub fn inner(&mut self) -> &mut P {
        &mut self.inner
    }

    /// Gives the inner port what is due, as far as it takes it.
    fn push(&mut self) -> Result<(), PortError> {
        loop {
            self.sent.take_due(self.poll, None, &mut self.staged);
            if self.staged.is_empty() || self.inner.transmit(&mut self.staged)? == 0 {
                break;
            }
        }
        self.sent.put_back(&mut self.staged);
        Ok(())
    }
}

impl Direction {
    fn new(faults: Faults, sending: bool, random: Random) -> Self {
        let held = Vec::with_capacity(HELD_MAX + BATCH);
        Direction { faults, sending, random, counts: FaultCounts::default(), held, number: 0 }
    }

    /// Decides about one frame and keeps what remains of it, and of its copy, until it is due.
    fn admit(&mut self, pool: &mut impl Pool, now: u64, lane: Lane, mut frame: Frame, mut meta: Meta) {
        if self.random.chance(self.faults.loss) {
            self.counts.lost += 1;
            return pool.release(frame);
        }
        if self.random.chance(self.faults.duplicate)
            && let Some(copy) = copy(pool, &frame)
        {
            self.counts.duplicated += 1;
            self.hold(now, lane, copy, meta);
        }
        if self.random.chance(self.faults.corrupt) {
            if self.sending && meta.segment > 0 {
                self.counts.lost += 1;
                return pool.release(frame);
            }
            self.counts.corrupted += 1;
            corrupt(pool.bytes_mut(&mut frame), &mut meta, self.random.next());
        }
        self.hold(now, lane, frame, meta);
    }

    fn hold(&mut self, now: u64, lane: Lane, frame: Frame, meta: Meta) {
        let mut wait = u64::from(self.faults.delay_polls);
        if self.faults.reorder_polls > 0 && self.random.chance(self.faults.reorder) {
            self.counts.reordered += 1;
            wait += 1 + self.random.next() % u64::from(self.faults.reorder_polls);
        }
        if wait > 0 && self.held.len() >= HELD_MAX {
            self.counts.hurried += 1;
            wait = 0;
        }
        self.number += 1;
        self.held.push(Held { due: (now + wait, self.number), lane, frame, meta });
    }

    /// Whether another batch of frames and their copies can be admitted without holding more than the vector has room for.
    fn has_room(&self) -> bool {
        self.held.len() + 2 * BATCH <= HELD_MAX + BATCH
    }

    /// Moves frames that are due, of one lane or all, into the batch in their order; says how many.
    fn take_due(&mut self, now: u64, lane: Option<Lane>, into: &mut Batch) -> usize {
        let mut count = 0;
        while into.space() > 0 {
            let wanted = |held: &Held| held.due.0 <= now && lane.is_none_or(|lane| lane == held.lane);
            let due = self.held.iter().enumerate().filter(|(_, held)| wanted(held));
            let Some((index, _)) = due.min_by_key(|(_, held)| held.due) else { break };
            let held = self.held.swap_remove(index);
            match into.push(held.frame, held.meta) {
                Ok(()) => count += 1,
                Err(frame) => {
                    self.held.push(Held { frame, ..held });
                    break;
                }
            }
        }
        count
    }

    /// Keeps frames that the inner port did not take, before all others.
    fn put_back(&mut self, from: &mut Batch) {
        let count = from.len();
        for (place, (frame, meta)) in from.drain(count).enumerate() {
            self.held.push(Held { due: (0, place as u64), lane: Lane::Stranger, frame, meta });
        }
    }
}

fn copy(pool: &mut impl Pool, frame: &Frame) -> Option<Frame> {
    let mut copy = pool.allocate()?;
    let len = frame.len();
    if !pool.resize(&mut copy, len) {
        pool.release(copy);
        return None;
    }
    // The two frames are in one pool, of which only one slice can be had at a time.
    let mut done = 0;
    while done < len {
        let mut piece = [0; 256];
        let count = piece.len().min(len - done);
        piece[..count].copy_from_slice(&pool.bytes(frame)[done..done + count]);
        pool.bytes_mut(&mut copy)[done..done + count].copy_from_slice(&piece[..count]);
        done += count;
    }
    Some(copy)
}

/// Flips one bit. Nobody has verified the checksum then, and a partial one is completed first: a flipped bit must not be
/// covered by a sum that is made after it.
fn corrupt(bytes: &mut [u8], meta: &mut Meta, random: u64) {
    if let Checksum::Partial { start, offset } = meta.checksum {
        vnet::complete(bytes, start, offset);
    }
    meta.checksum = Checksum::Unverified;
    let bits = bytes.len() as u64 * 8;
    if bits > 0 {
        let bit = random % bits;
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
}

impl<P: Port> Pool for Faulty<P> {
    fn allocate(&mut self) -> Option<Frame> {
        self.inner.allocate()
    }
    fn release(&mut self, frame: Frame) {
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

impl<P: Port> Port for Faulty<P> {
    fn abilities(&self) -> &Abilities {
        self.inner.abilities()
    }

    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        if self.received.has_room() {
            let count = self.inner.receive(lane, &mut self.staged)?;
            for (frame, meta) in self.staged.drain(count) {
                self.received.admit(&mut self.inner, self.poll, lane, frame, meta);
            }
        }
        Ok(self.received.take_due(self.poll, Some(lane), into))
    }

    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        self.push()?;
        if !self.sent.has_room() {
            return Ok(0);
        }
        let count = from.len();
        for (frame, meta) in from.drain(count) {
            self.sent.admit(&mut self.inner, self.poll, Lane::Stranger, frame, meta);
        }
        self.push()?;
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), PortError> {
        self.poll += 1;
        self.push()?;
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
        // Held frames need further polls, which no descriptor asks for.
        if self.received.held.is_empty() && self.sent.held.is_empty() { self.inner.park() } else { None }
    }

    fn statistics(&self) -> PortStatistics {
        self.inner.statistics()
    }
}

/// SplitMix64: small, and good enough to choose victims.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// True `millionths` times in a million. Draws nothing for zero, so that faults which are off change no others.
    fn chance(&mut self, millionths: u32) -> bool {
        millionths > 0 && self.next() % 1_000_000 < u64::from(millionths)
    }
}

#[cfg(test)]
mod tests;
