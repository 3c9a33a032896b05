//! Writes an [`Outgoing`] segment into a frame: Ethernet, optional tag, IPv4 or IPv6, TCP, payload and checksums.

use super::checksum::{copy_and_sum, finish, fold, numbers, shifted};
use super::options::Emitted;
use super::parse::{
    ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, IPV4_HEADER, IPV6_HEADER, PROTOCOL_TCP,
    TCP_HEADER, VLAN_TAG,
};
use super::{Flags, FlowKey, Mac, Outgoing, Seq};
use crate::frame::{Checksum, Meta};

/// Time to live and hop limit of what we send (RFC 1700).
const HOP_LIMIT: u8 = 64;
/// Where the checksum lies in a TCP header.
const CHECKSUM_OFFSET: usize = 16;
/// A frame of an untagged IPv4 segment without options and payload.
const BARE_V4: usize = ETHERNET + IPV4_HEADER + TCP_HEADER;

/// How frames of a link are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BuildRules {
    /// The VLAN tag that frames carry.
    pub vlan: Option<u16>,
    /// Whether the port inserts the tag itself ([`Meta::vlan`]).
    pub vlan_offload: bool,
    /// Whether the port completes TCP checksums ([`Checksum::Partial`]). Segments that the port cuts get a partial
    /// checksum in any case: cutting implies completing.
    pub checksum_offload: bool,
}

/// A frame that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Its length in bytes.
    pub len: usize,
    /// What the port has to be told.
    pub meta: Meta,
}

/// Everything that stands before a segment's payload.
pub(crate) struct Head<'a> {
    /// Addresses and ports; `local` is the source.
    pub(crate) key: &'a FlowKey,
    pub(crate) source: Mac,
    pub(crate) destination: Mac,
    /// A VLAN tag in the bytes.
    pub(crate) tag: Option<u16>,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    pub(crate) options: Emitted,
}

/// Writes `segment` into `frame`; `None` if it does not fit there, or not into one IP packet.
pub fn build_tcp(
    frame: &mut [u8],
    segment: &Outgoing<'_>,
    source: Mac,
    destination: Mac,
    rules: &BuildRules,
) -> Option<Built> {
    let head = Head {
        key: &segment.key,
        source,
        destination,
        tag: rules.vlan.filter(|_| !rules.vlan_offload),
        seq: segment.seq,
        ack: segment.ack,
        flags: segment.flags,
        window: segment.window,
        options: Emitted::new(&segment.options),
    };
    let length = segment.payload.len();
    let Written { start, end, pseudo, header } = head.write(frame, length)?;
    let partial = rules.checksum_offload || segment.segment > 0;
    let (mut at, mut total) = (end, 0);
    for piece in segment.payload.pieces() {
        let into = frame.get_mut(at..at + piece.len())?;
        if partial {
            into.copy_from_slice(piece);
        } else {
            let added = copy_and_sum(into, piece);
            total += if (at - end).is_multiple_of(2) { added } else { shifted(added) };
        }
        at += piece.len();
    }
    let checksum = if partial { fold(pseudo) } else { finish(pseudo + header + numbers(total)) };
    *frame.get_mut(start + CHECKSUM_OFFSET..)?.first_chunk_mut()? = checksum.to_be_bytes();
    let checksum = match partial {
        true => Checksum::Partial { start: start as u16, offset: CHECKSUM_OFFSET as u16 },
        false => Checksum::Unverified,
    };
    let vlan = rules.vlan.filter(|_| rules.vlan_offload);
    Some(Built { len: end + length, meta: Meta { checksum, vlan, segment: segment.segment } })
}

/// Where headers went, and what they add to the checksum, as numbers.
struct Written {
    /// Offset of the TCP header.
    start: usize,
    /// Offset of the payload.
    end: usize,
    /// Sum of the pseudo-header.
    pseudo: u64,
    /// Sum of the TCP header without its checksum.
    header: u64,
}

impl Head<'_> {
    /// Writes a segment without payload, checksum complete; gives its length.
    #[inline]
    pub(crate) fn build(&self, frame: &mut [u8]) -> Option<usize> {
        match (self.tag, self.key.remote.is_v4(), self.options.words().len()) {
            (None, true, 5) => return self.build_v4::<{ BARE_V4 + 20 }>(frame),
            (None, true, 0) => return self.build_v4::<BARE_V4>(frame),
            _ => {}
        }
        let Written { start, end, pseudo, header } = self.write(frame, 0)?;
        *frame.get_mut(start + CHECKSUM_OFFSET..)?.first_chunk_mut()? = finish(pseudo + header).to_be_bytes();
        Some(end)
    }

    /// [`Head::build`] for the answers that most of a flood asks for (to Linux' SYN; a reset): with the length known
    /// beforehand every offset is a constant.
    #[inline(always)]
    fn build_v4<const LENGTH: usize>(&self, frame: &mut [u8]) -> Option<usize> {
        let frame = frame.first_chunk_mut::<LENGTH>()?;
        self.write_link(frame, ETHERTYPE_IPV4)?;
        let (_, words) = frame.split_at_mut(ETHERNET);
        let ip = ipv4(self.key, LENGTH - ETHERNET - IPV4_HEADER)?;
        let options = self.options.words().get(..(LENGTH - BARE_V4) / 4)?;
        let mut tcp = self.tcp();
        let sum = |words: &[u32]| words.iter().map(|&word| u64::from(word)).sum::<u64>();
        let total = sum(&ip[3..]) + sum(&tcp) + sum(options) + pseudo(LENGTH - ETHERNET - IPV4_HEADER);
        tcp[CHECKSUM_OFFSET / 4] |= u32::from(finish(total)) << 16;
        put(words, &ip)?;
        put(&mut words[IPV4_HEADER..], &tcp)?;
        put(&mut words[IPV4_HEADER + TCP_HEADER..], options)?;
        Some(LENGTH)
    }

    /// Writes all headers in front of `payload` bytes. The TCP checksum stays zero.
    #[inline(always)]
    fn write(&self, frame: &mut [u8], payload: usize) -> Option<Written> {
        let options = self.options.words();
        let length = TCP_HEADER + 4 * options.len() + payload;
        let v4 = self.key.local.is_v4();
        let link = self.write_link(frame, if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 })?;
        let rest = frame.get_mut(link..)?;
        let (network, pseudo) =
            if v4 { write_ipv4(rest, self.key, length)? } else { write_ipv6(rest, self.key, length)? };
        let fixed = self.tcp();
        let (to_fixed, to_options) = rest.get_mut(network..)?.split_at_mut_checked(TCP_HEADER)?;
        let header = put(to_fixed, &fixed)? + put(to_options, options)?;
        let start = link + network;
        Some(Written { start, end: start + length - payload, pseudo, header })
    }

    #[inline]
    fn write_link(&self, frame: &mut [u8], ethertype: u16) -> Option<usize> {
        let header = frame.first_chunk_mut::<ETHERNET>()?;
        header[..6].copy_from_slice(&self.destination.0);
        header[6..12].copy_from_slice(&self.source.0);
        let outer = if self.tag.is_some() { ETHERTYPE_VLAN } else { ethertype };
        header[12..].copy_from_slice(&outer.to_be_bytes());
        let Some(tag) = self.tag else { return Some(ETHERNET) };
        let inner = u32::from(tag) << 16 | u32::from(ethertype);
        *frame.get_mut(ETHERNET..)?.first_chunk_mut()? = inner.to_be_bytes();
        Some(ETHERNET + VLAN_TAG)
    }

    /// The fixed part of the TCP header, without its checksum.
    #[inline]
    fn tcp(&self) -> [u32; TCP_HEADER / 4] {
        let offset = (TCP_HEADER / 4 + self.options.words().len()) as u32;
        [
            u32::from(self.key.local_port) << 16 | u32::from(self.key.remote_port),
            self.seq.0,
            self.ack.0,
            offset << 28 | u32::from(self.flags.0) << 16 | u32::from(self.window),
            0,
        ]
    }
}

/// Writes an IPv4 header for `length` bytes of TCP; gives its length and the sum of the pseudo-header.
#[inline]
fn write_ipv4(into: &mut [u8], key: &FlowKey, length: usize) -> Option<(usize, u64)> {
    let words = ipv4(key, length)?;
    put(into, &words)?;
    Some((IPV4_HEADER, u64::from(words[3]) + u64::from(words[4]) + pseudo(length)))
}

/// An IPv4 header for `length` bytes of TCP, not to be fragmented and hence with identification zero (RFC 6864, section
/// 4.1).
#[inline(always)]
fn ipv4(key: &FlowKey, length: usize) -> Option<[u32; IPV4_HEADER / 4]> {
    let total = u16::try_from(IPV4_HEADER + length).ok()?;
    let (source, destination) = (key.local.bits() as u32, key.remote.v4().map(u32::from_be_bytes)?);
    let mut words = [
        0x4500_0000 | u32::from(total),
        0x4000,
        u32::from(HOP_LIMIT) << 24 | u32::from(PROTOCOL_TCP) << 16,
        source,
        destination,
    ];
    words[2] |= u32::from(finish(words.iter().copied().map(u64::from).sum()));
    Some(words)
}

/// Writes an IPv6 header for `length` bytes of TCP; gives its length and the sum of the pseudo-header.
#[inline(never)]
fn write_ipv6(into: &mut [u8], key: &FlowKey, length: usize) -> Option<(usize, u64)> {
    if key.remote.is_v4() {
        return None;
    }
    let payload = u16::try_from(length).ok()?;
    let quarter = |bits: u128, at: u32| (bits >> (96 - 32 * at)) as u32;
    let (source, destination) = (key.local.bits(), key.remote.bits());
    let words = [
        0x6000_0000,
        u32::from(payload) << 16 | u32::from(PROTOCOL_TCP) << 8 | u32::from(HOP_LIMIT),
        quarter(source, 0),
        quarter(source, 1),
        quarter(source, 2),
        quarter(source, 3),
        quarter(destination, 0),
        quarter(destination, 1),
        quarter(destination, 2),
        quarter(destination, 3),
    ];
    let sum = put(into, &words)? - u64::from(words[0]) - u64::from(words[1]);
    Some((IPV6_HEADER, sum + pseudo(length)))
}

/// Writes words in the byte order of the wire; gives their sum.
#[inline(always)]
fn put(into: &mut [u8], words: &[u32]) -> Option<u64> {
    let places = into.as_chunks_mut::<4>().0.get_mut(..words.len())?;
    let mut sum = 0;
    for (place, &word) in places.iter_mut().zip(words) {
        *place = word.to_be_bytes();
        sum += u64::from(word);
    }
    Some(sum)
}

/// The part of the pseudo-header that is not an address: protocol and length, as numbers.
fn pseudo(length: usize) -> u64 {
    u64::from(PROTOCOL_TCP) + length as u64
}

#[cfg(test)]
mod tests;
