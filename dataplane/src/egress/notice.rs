//! What senders are told about packets that are not passed on.

use super::datagram::{PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use crate::wire::{
    Address, ETHERNET, Emitted, Flags, FlowKey, Head, IPV4_HEADER, IPV6_HEADER, Mac, Options, Seq,
    checksum_fold as fold, checksum_pseudo as pseudo, checksum_sum as sum,
};

/// Bytes of the longest one: no error of IPv6 is longer (RFC 4443, section 2.4).
pub(super) const LONGEST: usize = 1_280;
/// The longest error of IPv4 (RFC 1812, section 4.3.2.3).
const LONGEST_V4: usize = 576;
const ICMP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Complaint {
    /// It is larger than this (RFC 1191, RFC 8201).
    TooBig(u16),
    /// It may not go there (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1).
    Prohibited,
}

/// Writes an error about `packet` that `from` sends to `to`; gives its length.
pub(super) fn error(
    room: &mut [u8; LONGEST],
    from: Address,
    to: Address,
    packet: &[u8],
    complaint: Complaint,
) -> Option<usize> {
    match (from.v4(), to.v4()) {
        (Some(from), Some(to)) => {
            let (kind, code, mtu) = match complaint {
                Complaint::TooBig(mtu) => (3, 4, mtu),
                Complaint::Prohibited => (3, 13, 0),
            };
            let [m, n] = mtu.to_be_bytes();
            let quote = packet.get(..packet.len().min(LONGEST_V4 - IPV4_HEADER - ICMP_HEADER))?;
            let length = IPV4_HEADER + ICMP_HEADER + quote.len();
            let (header, message) = room.get_mut(..length)?.split_at_mut(IPV4_HEADER);
            let [a, b] = (length as u16).to_be_bytes();
            header[..12].copy_from_slice(&[0x45, 0, a, b, 0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL_ICMP, 0, 0]);
            header[12..16].copy_from_slice(&from);
            header[16..].copy_from_slice(&to);
            let checksum = !fold(sum(header));
            header[10..12].copy_from_slice(&checksum.to_ne_bytes());
            fill(message, [kind, code, 0, 0, 0, 0, m, n], quote, 0);
            Some(length)
        }
        (None, None) => {
            let (kind, code, mtu) = match complaint {
                Complaint::TooBig(mtu) => (2, 0, mtu),
                Complaint::Prohibited => (1, 1, 0),
            };
            let [m, n] = mtu.to_be_bytes();
            let quote = packet.get(..packet.len().min(LONGEST - IPV6_HEADER - ICMP_HEADER))?;
            let payload = ICMP_HEADER + quote.len();
            let (header, message) = room.get_mut(..IPV6_HEADER + payload)?.split_at_mut(IPV6_HEADER);
            let [a, b] = (payload as u16).to_be_bytes();
            header[..8].copy_from_slice(&[0x60, 0, 0, 0, a, b, PROTOCOL_ICMPV6, HOP_LIMIT]);
            header[8..24].copy_from_slice(&from.octets());
            header[24..].copy_from_slice(&to.octets());
            let pseudo = sum(&header[8..]) + pseudo(PROTOCOL_ICMPV6, payload);
            fill(message, [kind, code, 0, 0, 0, 0, m, n], quote, pseudo);
            Some(IPV6_HEADER + payload)
        }
        _ => None,
    }
}

fn fill(message: &mut [u8], header: [u8; ICMP_HEADER], quote: &[u8], pseudo: u64) {
    message[..ICMP_HEADER].copy_from_slice(&header);
    message[ICMP_HEADER..].copy_from_slice(quote);
    let checksum = !fold(pseudo + sum(message));
    message[2..4].copy_from_slice(&checksum.to_ne_bytes());
}

/// Writes the reset that answers a segment for a connection that nobody knows (RFC 9293, section 3.10.7.1), from the end
/// that the segment was for; gives its length. A reset is not answered.
pub(super) fn reset(room: &mut [u8; LONGEST], key: &FlowKey, packet: &[u8]) -> Option<usize> {
    let headers = super::datagram::headers(packet)?;
    let start = if key.local.is_v4() { IPV4_HEADER } else { IPV6_HEADER };
    let number = |at| packet.get(start + at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let flags = Flags(*packet.get(start + 13)?);
    if flags.has(Flags::RST) {
        return None;
    }
    let counts = u32::from(flags.has(Flags::SYN)) + u32::from(flags.has(Flags::FIN));
    let length = (packet.len() - headers) as u32 + counts;
    let (seq, ack, flags) = match flags.has(Flags::ACK) {
        true => (number(8)?, 0, Flags::RST),
        false => (0, number(4)?.wrapping_add(length), Flags::RST.with(Flags::ACK)),
    };
    let head = Head {
        key,
        source: Mac::default(),
        destination: Mac::default(),
        tag: None,
        seq: Seq(seq),
        ack: Seq(ack),
        flags,
        window: 0,
        options: Emitted::new(&Options::default()),
    };
    let end = head.build(room)?;
    room.copy_within(ETHERNET..end, 0);
    Some(end - ETHERNET)
}
