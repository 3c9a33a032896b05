//! Writes an [`Outgoing`] segment into a frame: Ethernet, optional tag, IPv4 or IPv6, TCP, payload and checksums.

use super::checksum::{copy_and_sum, finish, fold, pseudo, shifted, sum};
use super::options::Emitted;
use super::parse::{
    ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN, IPV4_HEADER, IPV6_HEADER, PROTOCOL_TCP,
    TCP_HEADER, VLAN_TAG,
};
use super::{FlowKey, Mac, Outgoing};
use crate::frame::{Checksum, Meta};

/// Time to live and hop limit of what we send (RFC 1700).
pub(crate) const HOP_LIMIT: u8 = 64;
/// Where the checksum lies in a TCP header.
const CHECKSUM_OFFSET: usize = 16;

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

/// Writes `segment` into `frame`; `None` if it does not fit there, or not into one IP packet.
pub fn build_tcp(
    frame: &mut [u8],
    segment: &Outgoing<'_>,
    source: Mac,
    destination: Mac,
    rules: &BuildRules,
) -> Option<Built> {
    let options = Emitted::new(&segment.options);
    let length = TCP_HEADER + options.as_slice().len() + segment.payload[0].len() + segment.payload[1].len();
    let v4 = segment.key.local.is_v4();
    let in_band = rules.vlan.filter(|_| !rules.vlan_offload);

    let (link, rest) = frame.split_at_mut_checked(ETHERNET + in_band.map_or(0, |_| VLAN_TAG))?;
    ethernet(link, source, destination, in_band, if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 })?;
    let (network, rest) = rest.split_at_mut_checked(if v4 { IPV4_HEADER } else { IPV6_HEADER })?;
    let pseudo = if v4 { ipv4(network, &segment.key, length)? } else { ipv6(network, &segment.key, length)? };
    let message = rest.get_mut(..length)?;

    let start = link.len() + network.len();
    let partial = rules.checksum_offload || segment.segment > 0;
    tcp(message, segment, options.as_slice(), pseudo, partial)?;
    let checksum = match partial {
        true => Checksum::Partial { start: start as u16, offset: CHECKSUM_OFFSET as u16 },
        false => Checksum::Unverified,
    };
    let vlan = rules.vlan.filter(|_| rules.vlan_offload);
    Some(Built { len: start + length, meta: Meta { checksum, vlan, segment: segment.segment } })
}

fn ethernet(
    header: &mut [u8],
    source: Mac,
    destination: Mac,
    tag: Option<u16>,
    ethertype: u16,
) -> Option<()> {
    header.get_mut(..6)?.copy_from_slice(&destination.0);
    header.get_mut(6..12)?.copy_from_slice(&source.0);
    let mut at = 12;
    if let Some(tag) = tag {
        header.get_mut(12..14)?.copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
        header.get_mut(14..16)?.copy_from_slice(&tag.to_be_bytes());
        at += VLAN_TAG;
    }
    header.get_mut(at..at + 2)?.copy_from_slice(&ethertype.to_be_bytes());
    Some(())
}

/// Writes an IPv4 header for `length` bytes of TCP; gives the sum of the pseudo-header.
fn ipv4(into: &mut [u8], key: &FlowKey, length: usize) -> Option<u64> {
    let (source, destination) = (key.local.v4()?, key.remote.v4()?);
    let header = ipv4_header(source, destination, u16::try_from(IPV4_HEADER + length).ok()?);
    into.copy_from_slice(&header);
    Some(sum(&header[12..]) + pseudo(PROTOCOL_TCP, length))
}

/// An IPv4 header for TCP: not to be fragmented, hence with identification zero (RFC 6864, section 4.1).
pub(crate) fn ipv4_header(source: [u8; 4], destination: [u8; 4], total: u16) -> [u8; IPV4_HEADER] {
    let ([l0, l1], [a, b, c, d], [e, f, g, h]) = (total.to_be_bytes(), source, destination);
    let mut header = [0x45, 0, l0, l1, 0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL_TCP, 0, 0, a, b, c, d, e, f, g, h];
    let [high, low] = finish(sum(&header));
    (header[10], header[11]) = (high, low);
    header
}

/// Writes an IPv6 header for `length` bytes of TCP; gives the sum of the pseudo-header.
fn ipv6(into: &mut [u8], key: &FlowKey, length: usize) -> Option<u64> {
    if key.remote.is_v4() {
        return None;
    }
    let header = ipv6_header(key.local.octets(), key.remote.octets(), u16::try_from(length).ok()?);
    into.copy_from_slice(&header);
    Some(sum(&header[8..]) + pseudo(PROTOCOL_TCP, length))
}

/// An IPv6 header for TCP.
pub(crate) fn ipv6_header(source: [u8; 16], destination: [u8; 16], length: u16) -> [u8; IPV6_HEADER] {
    let [high, low] = length.to_be_bytes();
    let mut header = [0; IPV6_HEADER];
    header[..8].copy_from_slice(&[0x60, 0, 0, 0, high, low, PROTOCOL_TCP, HOP_LIMIT]);
    header[8..24].copy_from_slice(&source);
    header[24..].copy_from_slice(&destination);
    header
}

fn tcp(message: &mut [u8], segment: &Outgoing<'_>, options: &[u8], pseudo: u64, partial: bool) -> Option<()> {
    let [first, second] = segment.payload;
    let (header, payload) = message.split_at_mut_checked(TCP_HEADER + options.len())?;
    let (fixed, rest) = header.split_first_chunk_mut::<TCP_HEADER>()?;
    *fixed = tcp_header(segment, options.len());
    rest.copy_from_slice(options);
    let (to_first, to_second) = payload.split_at_mut_checked(first.len())?;
    let checksum = if partial {
        to_first.copy_from_slice(first);
        to_second.copy_from_slice(second);
        fold(pseudo).to_ne_bytes()
    } else {
        let mut total = pseudo + sum(header) + copy_and_sum(to_first, first);
        if !second.is_empty() {
            let added = copy_and_sum(to_second, second);
            total += if first.len().is_multiple_of(2) { added } else { shifted(added) };
        }
        finish(total)
    };
    message.get_mut(CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2)?.copy_from_slice(&checksum);
    Some(())
}

/// The fixed part of a TCP header, without its checksum.
fn tcp_header(segment: &Outgoing<'_>, options: usize) -> [u8; TCP_HEADER] {
    let ([s0, s1], [d0, d1]) = (segment.key.local_port.to_be_bytes(), segment.key.remote_port.to_be_bytes());
    let ([q0, q1, q2, q3], [a0, a1, a2, a3]) = (segment.seq.0.to_be_bytes(), segment.ack.0.to_be_bytes());
    let [w0, w1] = segment.window.to_be_bytes();
    let offset = ((TCP_HEADER + options) as u8 / 4) << 4;
    [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, segment.flags.0, w0, w1, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests;
