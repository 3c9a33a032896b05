//! The way out: next hop, frame, bytes.

use crate::Reason;
use crate::egress::{self, Queued, Taken};
use crate::frame::{BATCH, Batch, Checksum, Frame, Meta, Pool};
use crate::link::{Hop, Link};
use crate::reason::Counters;
use crate::tcp::Sent;
use crate::time::Instant;
use crate::wire::{
    self, BuildRules, Flags, IPV4_HEADER, IPV6_HEADER, Mac, Outgoing, checksum_fold as fold,
    checksum_pseudo as pseudo, checksum_sum as sum,
};

/// Ethernet with a tag, IPv6 and TCP, both without extensions, and 40 bytes of TCP options.
const HEADERS_MAX: usize = 14 + 4 + 40 + 20 + 40;
/// Where lengths, identification and checksum stand in IP headers, and what else cutting changes in TCP's.
const V4_LENGTH: usize = 2;
const V4_IDENTIFICATION: usize = 4;
const V4_CHECKSUM: usize = 10;
const V6_LENGTH: usize = 4;
const TCP_SEQ: usize = 4;
const TCP_FLAGS: usize = 13;
/// Destination and source in an Ethernet header: a VLAN tag comes behind them (IEEE 802.1Q).
const ADDRESSES: usize = 12;

/// Where the frames of one link are written.
pub(super) struct Output<'a, P: ?Sized> {
    pub(super) pool: &'a mut P,
    pub(super) tx: &'a mut Batch,
    pub(super) build: &'a BuildRules,
    pub(super) frame_bytes: usize,
    /// Largest TCP payload that the port cuts; zero: none.
    pub(super) segmentation: usize,
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

    /// Sends a packet that is passed on, if its next hop is known and there is room for it: a super-frame in as few pieces as
    /// the port can cut.
    pub(super) fn datagram(
        &mut self,
        now: Instant,
        link: &mut Link,
        queued: &Queued,
        packet: &[u8],
    ) -> Taken {
        let hop = match link.next_hop(now, queued.to) {
            Hop::Known(mac) => mac,
            Hop::Pending => return Taken::Pending,
            Hop::Unroutable(reason) => {
                self.reasons.count(reason);
                return Taken::Yes;
            }
        };
        let each = usize::from(queued.segment);
        let (headers, step) = match egress::headers(packet).filter(|_| each > 0) {
            Some(headers) => (headers, (self.segmentation / each).max(1) * each),
            None => (packet.len(), usize::MAX),
        };
        let (head, payload) = packet.split_at(headers);
        let pieces = payload.len().div_ceil(step).max(1);
        if pieces > BATCH {
            self.reasons.count(Reason::TooBig);
            return Taken::Yes;
        }
        if self.tx.space() < pieces {
            return Taken::Full;
        }
        let stations = (link.config().mac, hop);
        for number in 0..pieces {
            let from = number * step.min(payload.len());
            let bytes = &payload[from..payload.len().min(from.saturating_add(step))];
            let segment = if each > 0 && bytes.len() > each { queued.segment } else { 0 };
            let piece = Piece {
                head,
                bytes,
                number: number as u16,
                offset: from as u32,
                cut: pieces > 1,
                last: number + 1 == pieces,
                segment,
                complete: queued.complete,
            };
            if self.piece(stations, &piece).is_none() {
                self.reasons.count(Reason::NoFrame);
            }
        }
        Taken::Yes
    }

    fn piece(&mut self, (source, hop): (Mac, Mac), piece: &Piece<'_>) -> Option<()> {
        let tag = self.build.vlan.filter(|_| !self.build.vlan_offload);
        let start = ADDRESSES + 2 + if tag.is_some() { 4 } else { 0 };
        let mut frame = self.pool.allocate()?;
        if !self.pool.resize(&mut frame, start + piece.head.len() + piece.bytes.len()) {
            self.pool.release(frame);
            return None;
        }
        let (ethernet, packet) = self.pool.bytes_mut(&mut frame).split_at_mut(start);
        let v4 = piece.head.first().is_some_and(|byte| byte >> 4 == 4);
        let ethertype: [u8; 2] = if v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        ethernet[..6].copy_from_slice(&hop.0);
        ethernet[6..ADDRESSES].copy_from_slice(&source.0);
        if let Some(tag) = tag {
            ethernet[ADDRESSES..ADDRESSES + 2].copy_from_slice(&[0x81, 0x00]);
            ethernet[ADDRESSES + 2..ADDRESSES + 4].copy_from_slice(&tag.to_be_bytes());
        }
        ethernet[start - 2..].copy_from_slice(&ethertype);
        let checksum = piece.write(packet, v4, self.build.checksum_offload);
        let checksum = match checksum {
            Checksum::Partial { start: within, offset } => {
                Checksum::Partial { start: within + start as u16, offset }
            }
            other => other,
        };
        let vlan = self.build.vlan.filter(|_| self.build.vlan_offload);
        self.push(frame, Meta { checksum, vlan, segment: piece.segment });
        Some(())
    }

    fn push(&mut self, frame: Frame, meta: Meta) {
        if let Err(frame) = self.tx.push(frame, meta) {
            self.reasons.count(Reason::NoFrame);
            self.pool.release(frame);
        }
    }
}

/// A part of a packet that is passed on, or all of it.
struct Piece<'a> {
    /// The headers where the packet is cut; else the whole packet.
    head: &'a [u8],
    bytes: &'a [u8],
    /// Which of the pieces it is, and how much payload is in those before it.
    number: u16,
    offset: u32,
    cut: bool,
    last: bool,
    /// Payload of each segment, where the port cuts further.
    segment: u16,
    /// The transport checksum is right already.
    complete: bool,
}

impl Piece<'_> {
    /// Writes it, from the IP header on, into room of just its length; says what the port has to do about its checksum, with
    /// offsets from the IP header.
    fn write(&self, packet: &mut [u8], v4: bool, offload: bool) -> Checksum {
        let (head, bytes) = packet.split_at_mut(self.head.len());
        head.copy_from_slice(self.head);
        bytes.copy_from_slice(self.bytes);
        let network = if v4 { IPV4_HEADER } else { IPV6_HEADER };
        if self.cut {
            // Headers that were read before are there whole.
            let _ = self.renumber(packet, v4, network);
        }
        if self.complete {
            return Checksum::Unverified;
        }
        let complete = self.segment == 0 && !offload;
        self.sum(packet, v4, network, complete).unwrap_or_default()
    }

    /// Makes the headers of a whole those of a part.
    fn renumber(&self, packet: &mut [u8], v4: bool, network: usize) -> Option<()> {
        let length = packet.len();
        let add = |field: &mut [u8]| {
            let field: &mut [u8; 2] = field.first_chunk_mut()?;
            *field = u16::from_be_bytes(*field).wrapping_add(self.number).to_be_bytes();
            Some(())
        };
        let (at, length) = if v4 { (V4_LENGTH, length) } else { (V6_LENGTH, length - network) };
        packet.get_mut(at..at + 2)?.copy_from_slice(&(length as u16).to_be_bytes());
        if v4 {
            add(packet.get_mut(V4_IDENTIFICATION..)?)?;
            packet.get_mut(V4_CHECKSUM..V4_CHECKSUM + 2)?.fill(0);
            let checksum = !fold(sum(packet.get(..network)?));
            packet.get_mut(V4_CHECKSUM..V4_CHECKSUM + 2)?.copy_from_slice(&checksum.to_ne_bytes());
        }
        let tcp = packet.get_mut(network..)?;
        let seq: &mut [u8; 4] = tcp.get_mut(TCP_SEQ..)?.first_chunk_mut()?;
        *seq = u32::from_be_bytes(*seq).wrapping_add(self.offset).to_be_bytes();
        let flags = tcp.get_mut(TCP_FLAGS)?;
        if !self.last {
            *flags &= !(Flags::FIN.0 | Flags::PSH.0);
        }
        if self.number > 0 {
            *flags &= !Flags::CWR.0;
        }
        Some(())
    }

    /// Completes the transport checksum, or leaves that to the port.
    fn sum(&self, packet: &mut [u8], v4: bool, network: usize, complete: bool) -> Option<Checksum> {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        let protocol = *packet.get(if v4 { 9 } else { 6 })?;
        let (at, addresses) = match protocol {
            TCP => (16, true),
            UDP => (6, true),
            _ => (2, !v4),
        };
        let pseudo = match addresses {
            true => {
                let from = if v4 { 12 } else { 8 };
                sum(packet.get(from..network)?) + pseudo(protocol, packet.len() - network)
            }
            false => 0,
        };
        let message = packet.get_mut(network..)?;
        message.get_mut(at..at + 2)?.fill(0);
        let total = if complete { !fold(pseudo + sum(message)) } else { fold(pseudo) };
        // UDP says "no checksum" by zero (RFC 768).
        let total = if complete && total == 0 && protocol == UDP { u16::MAX } else { total };
        message.get_mut(at..at + 2)?.copy_from_slice(&total.to_ne_bytes());
        Some(match complete {
            true => Checksum::Unverified,
            false => Checksum::Partial { start: network as u16, offset: at as u16 },
        })
    }
}
