//! The way out: next hop, frame, bytes.

use crate::Reason;
use crate::frame::{Batch, Frame, Meta, Pool};
use crate::link::{Hop, Link};
use crate::reason::Counters;
use crate::tcp::Sent;
use crate::time::Instant;
use crate::wire::{self, BuildRules, Mac, Outgoing};

/// Ethernet with a tag, IPv6 and TCP, both without extensions, and 40 bytes of TCP options.
const HEADERS_MAX: usize = 14 + 4 + 40 + 20 + 40;
/// Destination and source in an Ethernet header: a VLAN tag comes behind them (IEEE 802.1Q).
const ADDRESSES: usize = 12;

/// Where the frames of one link are written.
pub(super) struct Output<'a, P: ?Sized> {
    pub(super) pool: &'a mut P,
    pub(super) tx: &'a mut Batch,
    pub(super) build: &'a BuildRules,
    pub(super) frame_bytes: usize,
    pub(super) reasons: &'a mut Counters,
}

impl<P: Pool + ?Sized> Output<'_, P> {
    /// Sends a segment, if its next hop is known and there is a frame for it.
    pub(super) fn segment(&mut self, now: Instant, link: &mut Link, segment: &Outgoing<'_>) -> Sent {
        let hop = match segment.hop {
            Some(mac) => mac,
            None => match link.next_hop(now, segment.key.remote) {
                Hop::Known(mac) => mac,
                Hop::Pending => return Sent::Later,
                Hop::Unroutable(reason) => {
                    self.reasons.count(reason);
                    return Sent::Dropped;
                }
            },
        };
        self.write(link.config().mac, hop, segment)
    }

    fn write(&mut self, source: Mac, hop: Mac, segment: &Outgoing<'_>) -> Sent {
        if self.tx.space() == 0 {
            return Sent::Later;
        }
        let Some(mut frame) = self.pool.allocate() else {
            self.reasons.count(Reason::NoFrame);
            return Sent::Later;
        };
        // Room for the headers; the builder says how much of it was used.
        let payload = segment.payload.len();
        self.pool.resize(&mut frame, (payload + HEADERS_MAX).min(self.frame_bytes));
        let built = wire::build_tcp(self.pool.bytes_mut(&mut frame), segment, source, hop, self.build);
        match built {
            Some(built) => {
                frame.truncate(built.len);
                self.push(frame, built.meta);
                Sent::Yes
            }
            None => {
                self.reasons.count(Reason::NoFrame);
                self.pool.release(frame);
                Sent::Dropped
            }
        }
    }

    /// Sends a whole Ethernet frame of the link's own.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        let Some(mut frame) = self.pool.allocate() else { return self.reasons.count(Reason::NoFrame) };
        let inline = self.build.vlan.filter(|_| !self.build.vlan_offload);
        let tag = inline.map(|vlan| [0x81, 0x00, (vlan >> 8) as u8, vlan as u8]);
        let tag: &[u8] = tag.as_ref().map_or(&[], |tag| tag);
        if !self.pool.resize(&mut frame, bytes.len() + tag.len()) {
            self.reasons.count(Reason::NoFrame);
            return self.pool.release(frame);
        }
        let (addresses, rest) = bytes.split_at(ADDRESSES.min(bytes.len()));
        let space = self.pool.bytes_mut(&mut frame);
        for (place, byte) in space.iter_mut().zip(addresses.iter().chain(tag).chain(rest)) {
            *place = *byte;
        }
        let vlan = self.build.vlan.filter(|_| self.build.vlan_offload);
        self.push(frame, Meta { vlan, ..Meta::default() });
    }

    fn push(&mut self, frame: Frame, meta: Meta) {
        if let Err(frame) = self.tx.push(frame, meta) {
            self.reasons.count(Reason::NoFrame);
            self.pool.release(frame);
        }
    }
}
