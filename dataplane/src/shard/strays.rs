//! Frames at the wrong shard: found out by the flow that they belong to, passed on once, taken in by their owner.

use super::Shard;
use crate::Reason;
use crate::frame::{Batch, Checksum, Meta, Pool};
use crate::time::Instant;
use crate::wire::{Flags, FlowKey, LinkId, Packet};

impl Shard {
    /// Takes in the frames that other shards handed over for `link`, up to a batch; says how many. To be called after
    /// [`Shard::ingest`], with the same port and batches; `rx` must be empty.
    pub fn ingest_handed<P: Pool + ?Sized>(
        &mut self,
        now: Instant,
        link: LinkId,
        pool: &mut P,
        rx: &mut Batch,
        tx: &mut Batch,
    ) -> usize {
        let Some(member) = self.exchange.as_ref().filter(|member| member.waiting()) else { return 0 };
        while rx.space() > 0 {
            // What finds no frame waits until one is back.
            let Some(mut frame) = pool.allocate() else { break };
            let mut whole = None;
            member.next(link, |bytes, meta| {
                if pool.resize(&mut frame, bytes.len()) {
                    pool.bytes_mut(&mut frame).copy_from_slice(bytes);
                    whole = Some(meta);
                }
            });
            let Some(meta) = whole else {
                pool.release(frame);
                break;
            };
            if let Err(frame) = rx.push(frame, meta) {
                pool.release(frame);
            }
        }
        let count = rx.len();
        self.statistics.handed_in += count as u64;
        self.handed = true;
        self.judge(now, link, pool, rx, tx);
        self.handed = false;
        count
    }

    /// Whether frames wait that other shards handed over.
    pub fn has_handed(&self) -> bool {
        self.exchange.as_ref().is_some_and(|member| member.waiting())
    }

    /// The shard that holds the flow of a segment for which there is none here. A SYN is answered by whoever gets it.
    pub(super) fn elsewhere(&self, packet: &Packet) -> Option<u16> {
        let opens = packet.flags.has(Flags::SYN) && !packet.flags.has(Flags::ACK);
        let member = self.exchange.as_ref().filter(|_| !self.handed && !opens)?;
        member.owner(&packet.key)
    }

    /// The other shard that holds a flow of which an ICMP error speaks.
    pub(super) fn elsewhere_to(&self, key: &FlowKey) -> Option<u16> {
        let member = self.exchange.as_ref().filter(|_| !self.handed)?;
        if self.engine.lookup(key).is_some() { None } else { member.owner(key) }
    }

    /// Copies a frame to the shard that holds its flow.
    pub(super) fn pass_on(&mut self, shard: u16, link: LinkId, bytes: &[u8], meta: Meta) {
        let Some(member) = &self.exchange else { return };
        match member.hand_over(shard, link, bytes, checked(meta)) {
            true => self.statistics.handed_over += 1,
            false => self.statistics.reasons.count(Reason::HandoverFull),
        }
    }

    /// Copies to the other shards what a neighbour says about itself or about one of our addresses: each of them asks for
    /// its own next hops, and the answer arrives at any queue.
    pub(super) fn share(&mut self, now: Instant, link: LinkId, packet: &Packet, bytes: &[u8], meta: Meta) {
        let Some(member) = self.exchange.as_ref().filter(|_| !self.handed) else { return };
        let concerns_all = self
            .links
            .get(usize::from(link.0))
            .is_some_and(|attached| attached.link.concerns_all(packet, bytes));
        if !concerns_all {
            return;
        }
        match self.sharing.take(now) {
            true => {
                let full = member.tell_all(link, bytes, checked(meta));
                self.statistics.reasons[Reason::HandoverFull] += full;
            }
            false => self.statistics.reasons.count(Reason::LinkRate),
        }
    }
}

/// The metadata of a frame whose checksum has been looked at.
fn checked(meta: Meta) -> Meta {
    let checksum = match meta.checksum {
        Checksum::Unverified => Checksum::Verified,
        seen => seen,
    };
    Meta { checksum, ..meta }
}
