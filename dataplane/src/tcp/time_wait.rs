//! TIME-WAIT: 4-tuples of finished connections, kept small and apart from the flows.
//!
//! All entries rest equally long, so a queue in order of their ends is enough of a timer. When the table is full, the
//! oldest entry makes room: a flood of short connections cannot keep new ones out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;
use crate::wire::{Flags, FlowKey, LinkId, Mac, Segment, Seq};

use super::connection::Stamps;
use super::parting::Parting;
use super::table::{Index, KeyHash};

/// How far below the last numbers a segment may lie to count as one of the old connection. Small, because anything else
/// has a chance to be taken for a new connection's proof.
const OLD_SEQ: u32 = 1 << 20;
const OLD_ACK: u32 = 1 << 16;

/// What remains of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) key: FlowKey,
    pub(crate) hash: KeyHash,
    pub(crate) link: LinkId,
    pub(crate) hop: Option<Mac>,
    pub(crate) snd_nxt: Seq,
    pub(crate) rcv_nxt: Seq,
    pub(crate) window: u16,
    pub(crate) stamps: Option<Stamps>,
    pub(crate) until: Instant,
}

/// What an entry makes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It begins or proves a new connection.
    Stranger,
    /// It belongs to the old one and needs no answer.
    Quiet,
    /// It belongs to the old one: acknowledge again.
    Acknowledge,
    /// The same, and the rest begins anew.
    Restart,
    /// A SYN or RST that must not count: acknowledge within the challenge budget (SYN), or ignore.
    Challenge,
    Ignore,
}

impl Entry {
    /// Judges a segment (RFC 9293, section 3.10.7.4; RFC 1337; RFC 6191).
    pub(crate) fn judge(&self, segment: &Segment<'_>) -> Judgement {
        if segment.flags.has(Flags::RST) {
            // RFC 1337, section 3, fix (F1).
            return Judgement::Ignore;
        }
        if segment.flags.has(Flags::SYN) {
            let fresh = !segment.flags.has(Flags::ACK) && self.reusable(segment);
            return if fresh { Judgement::Stranger } else { Judgement::Challenge };
        }
        let old = self.rcv_nxt - segment.seq <= OLD_SEQ && self.snd_nxt - segment.ack <= OLD_ACK;
        if !old {
            return Judgement::Stranger;
        }
        match (segment.flags.has(Flags::FIN), segment.payload.is_empty()) {
            (true, _) => Judgement::Restart,
            (false, false) => Judgement::Acknowledge,
            (false, true) => Judgement::Quiet,
        }
    }

    /// RFC 6191, section 2: whether a SYN certainly comes after the old connection.
    fn reusable(&self, segment: &Segment<'_>) -> bool {
        let later = segment.seq.after(self.rcv_nxt);
        match (self.stamps, segment.options.timestamps) {
            (Some(stamps), Some((value, _))) => {
                Seq(value).after(Seq(stamps.recent)) || (value == stamps.recent && later)
            }
            _ => later,
        }
    }

    /// The ACK that the old connection would send.
    pub(crate) fn acknowledgement(&self, now: Instant) -> Parting {
        Parting {
            key: self.key,
            link: self.link,
            hop: self.hop,
            seq: self.snd_nxt,
            ack: self.rcv_nxt,
            flags: Flags::ACK,
            window: self.window,
            timestamps: self.stamps.map(|stamps| (stamps.value(now), stamps.recent)),
        }
    }
}

/// All entries.
#[derive(Debug)]
pub(crate) struct TimeWaits {
    slots: Vec<Option<Entry>>,
    index: Index,
    free: Vec<u32>,
    /// All slots that are not free, in the order of their ends as they were when a slot was put here.
    order: VecDeque<(Instant, u32)>,
    rest: Duration,
    limit: usize,
}

impl TimeWaits {
    /// A table of at most `limit` entries that each rest for `rest`.
    pub(crate) fn new(limit: usize, rest: Duration) -> Self {
        let limit = limit.max(1);
        TimeWaits {
            slots: Vec::with_capacity(limit),
            index: Index::new(limit),
            free: Vec::with_capacity(limit),
            order: VecDeque::with_capacity(limit + 1),
            rest,
            limit,
        }
    }

    /// Slots taken.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn find(&self, hash: KeyHash, key: &FlowKey) -> Option<u32> {
        let same = |slot: u32| self.slots[slot as usize].as_ref().is_some_and(|entry| entry.key == *key);
        self.index.find(hash, same)
    }

    /// Pulls the index entry of a 4-tuple into the cache.
    #[inline]
    pub(crate) fn touch(&self, hash: KeyHash) {
        self.index.touch(hash);
    }

    /// The entry of a 4-tuple.
    pub(crate) fn get(&self, hash: KeyHash, key: &FlowKey) -> Option<&Entry> {
        self.find(hash, key).and_then(|slot| self.slots[slot as usize].as_ref())
    }

    /// Adds an entry, whose end is set here; the oldest makes room if need be.
    pub(crate) fn insert(&mut self, now: Instant, mut entry: Entry) {
        self.remove(entry.hash, &entry.key);
        if self.len() == self.limit
            && let Some((_, slot)) = self.order.pop_front()
        {
            self.vacate(slot);
        }
        entry.until = now + self.rest;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                self.slots.len() as u32 - 1
            }
        };
        self.index.insert(entry.hash, slot);
        self.order.push_back((entry.until, slot));
    }

    /// Lets an entry's rest begin anew (RFC 9293, section 3.10.7.4, on a repeated FIN). It moves in the queue when its
    /// former end comes.
    pub(crate) fn restart(&mut self, now: Instant, hash: KeyHash, key: &FlowKey) {
        if let Some(slot) = self.find(hash, key)
            && let Some(entry) = &mut self.slots[slot as usize]
        {
            entry.until = now + self.rest;
        }
    }

    /// Removes an entry before its time: a new connection takes its place. The slot is free again once the queue comes to
    /// it.
    pub(crate) fn remove(&mut self, hash: KeyHash, key: &FlowKey) {
        if let Some(slot) = self.find(hash, key) {
            self.index.remove(hash, slot);
            self.slots[slot as usize] = None;
        }
    }

    /// Frees a slot that has left the queue.
    fn vacate(&mut self, slot: u32) {
        if let Some(entry) = self.slots[slot as usize].take() {
            self.index.remove(entry.hash, slot);
        }
        self.free.push(slot);
    }

    /// When [`TimeWaits::advance`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|&(at, _)| at)
    }

    /// Lets entries go whose rest is over.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(&(at, slot)) = self.order.front()
            && at <= now
        {
            self.order.pop_front();
            match self.slots[slot as usize] {
                Some(entry) if entry.until > now => self.order.push_back((entry.until, slot)),
                _ => self.vacate(slot),
            }
        }
    }
}
