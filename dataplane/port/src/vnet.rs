//! The virtio-net header that AF_PACKET and TAP put before each frame, and its translation from and to [`Meta`].
//!
//! It says whether a transport checksum is complete and how a super-frame is to be cut. Nothing that it says about a
//! received frame is believed before it has been held against the frame's length. (Virtio 1.2, section 5.1.6; Linux
//! uses the legacy form of ten bytes in the host's byte order.)

use bytemuck::{Pod, Zeroable};
use hedgerow_dataplane::frame::{Checksum, Meta};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: only the pseudo-header sum is in place.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum has been verified.
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_TCP_V6: u8 = 4;
/// A bit beside the type: the super-frame's first segment carries CWR.
const GSO_ECN: u8 = 0x80;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;

/// Where the Ethernet addresses end: here goes an 802.1Q tag.
pub(crate) const TAG_OFFSET: usize = 12;

/// `struct virtio_net_hdr`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Header {
    flags: u8,
    gso_type: u8,
    /// Bytes of all headers before the payload of a super-frame.
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl Header {
    /// Its size.
    pub(crate) const BYTES: usize = size_of::<Header>();

    /// What the header says about a received frame of `len` bytes; `None` where it contradicts the frame.
    pub(crate) fn meta(&self, len: usize) -> Option<Meta> {
        let checksum = if self.flags & NEEDS_CHECKSUM != 0 {
            let (start, offset) = (self.csum_start, self.csum_offset);
            if usize::from(start) + usize::from(offset) + 2 > len {
                return None;
            }
            Checksum::Partial { start, offset }
        } else if self.flags & DATA_VALID != 0 {
            Checksum::Verified
        } else {
            Checksum::Unverified
        };
        let segment = match (self.gso_type & !GSO_ECN, self.gso_size) {
            (GSO_NONE, _) => 0,
            (_, 0) => return None,
            (_, size) => size,
        };
        Some(Meta { checksum, vlan: None, segment })
    }

    /// The header for a frame to be sent; `None` where `meta` asks for what the frame does not allow.
    ///
    /// A super-frame must be TCP with a partial checksum: the kernel recomputes the sum of each segment from the
    /// pseudo-header's.
    pub(crate) fn outgoing(bytes: &[u8], meta: &Meta) -> Option<Header> {
        let mut header = Header::default();
        // A tag is put in before everything that the header points at.
        let tag = if meta.vlan.is_some() { 4 } else { 0 };
        if bytes.len() < TAG_OFFSET + 2 {
            return None;
        }
        if let Checksum::Partial { start, offset } = meta.checksum {
            if usize::from(start) + usize::from(offset) + 2 > bytes.len() {
                return None;
            }
            header.flags = NEEDS_CHECKSUM;
            header.csum_start = start.checked_add(tag)?;
            header.csum_offset = offset;
        }
        if meta.segment > 0 {
            let Checksum::Partial { start, .. } = meta.checksum else { return None };
            let tcp_header = usize::from(*bytes.get(usize::from(start) + 12)? >> 4) * 4;
            let headers = usize::from(start) + tcp_header;
            if tcp_header < 20 || headers > bytes.len() {
                return None;
            }
            if bytes.len() - headers > usize::from(meta.segment) {
                header.gso_type = tcp_type(bytes)?;
                header.gso_size = meta.segment;
                header.hdr_len = u16::try_from(headers).ok()?.checked_add(tag)?;
            }
        }
        Some(header)
    }
}

/// The kind of super-frame, by the EtherType behind any tags within the bytes.
fn tcp_type(bytes: &[u8]) -> Option<u8> {
    let mut at = TAG_OFFSET;
    loop {
        match u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?) {
            ETHERTYPE_IPV4 => return Some(GSO_TCP_V4),
            ETHERTYPE_IPV6 => return Some(GSO_TCP_V6),
            ETHERTYPE_VLAN => at += 4,
            _ => return None,
        }
    }
}

/// The 802.1Q tag that `meta` asks for, as it stands on the wire.
pub(crate) fn tag(meta: &Meta) -> Option<[u8; 4]> {
    let [a, b] = ETHERTYPE_VLAN.to_be_bytes();
    meta.vlan.map(|tci| [a, b, tci.to_be_bytes()[0], tci.to_be_bytes()[1]])
}

/// Completes a partial checksum in software: the Internet checksum (RFC 1071) from `start` to the end, where the field
/// holds the sum of the pseudo-header. Does nothing to a frame that is too short.
pub(crate) fn complete(bytes: &mut [u8], start: u16, offset: u16) {
    let field = usize::from(start) + usize::from(offset);
    if field + 2 > bytes.len() {
        return;
    }
    let (pairs, last) = bytes[usize::from(start)..].as_chunks::<2>();
    let mut sum: u64 = pairs.iter().map(|&pair| u64::from(u16::from_be_bytes(pair))).sum();
    sum += last.first().map_or(0, |&byte| u64::from(byte) << 8);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[field..field + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ethernet, `ip` bytes of IP header, 32 bytes of TCP header, payload.
    fn frame(ethertype: u16, ip: usize, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0; 14 + ip + 32 + payload];
        bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
        bytes[14 + ip + 12] = 8 << 4;
        bytes
    }

    fn meta(start: u16, segment: u16, vlan: Option<u16>) -> Meta {
        Meta { checksum: Checksum::Partial { start, offset: 16 }, vlan, segment }
    }

    #[test]
    fn what_is_sent_is_what_is_received() {
        for (ethertype, ip, kind) in [(ETHERTYPE_IPV4, 20, GSO_TCP_V4), (ETHERTYPE_IPV6, 40, GSO_TCP_V6)] {
            let bytes = frame(ethertype, ip, 5000);
            let wanted = meta(14 + ip as u16, 1400, None);
            let header = Header::outgoing(&bytes, &wanted).expect("a legal super-frame");
            assert_eq!((header.gso_type, usize::from(header.hdr_len)), (kind, 14 + ip + 32));
            assert_eq!(header.meta(bytes.len()), Some(wanted));
        }
        let plain = Meta::default();
        assert_eq!(Header::outgoing(&[0; 60], &plain), Some(Header::default()));
        assert_eq!(Header::default().meta(60), Some(plain));
    }

    #[test]
    fn a_tag_moves_what_lies_behind_it() {
        let bytes = frame(ETHERTYPE_IPV4, 20, 5000);
        let header = Header::outgoing(&bytes, &meta(34, 1400, Some(5))).expect("a legal super-frame");
        assert_eq!((header.csum_start, header.csum_offset, header.hdr_len), (38, 16, 14 + 4 + 20 + 32));
        assert_eq!(tag(&meta(34, 0, Some(0x2005))), Some([0x81, 0, 0x20, 5]));
        assert_eq!(tag(&Meta::default()), None);
    }

    #[test]
    fn one_segment_is_no_super_frame() {
        let bytes = frame(ETHERTYPE_IPV4, 20, 1400);
        let header = Header::outgoing(&bytes, &meta(34, 1400, None)).expect("a legal frame");
        assert_eq!((header.gso_type, header.gso_size), (GSO_NONE, 0));
    }

    #[test]
    fn contradictions_are_refused() {
        let bytes = frame(ETHERTYPE_IPV4, 20, 5000);
        let complete = Meta { segment: 1400, ..Meta::default() };
        assert_eq!(Header::outgoing(&bytes, &complete), None, "a super-frame with a complete checksum");
        assert_eq!(
            Header::outgoing(&frame(0x0806, 20, 5000), &meta(34, 1400, None)),
            None,
            "ARP in segments"
        );
        assert_eq!(Header::outgoing(&bytes, &meta(u16::MAX, 0, None)), None, "a checksum beyond the end");
        assert_eq!(Header::outgoing(&bytes[..40], &meta(34, 1400, None)), None, "half a TCP header");
        assert_eq!(Header::outgoing(&[0; 5], &Meta::default()), None, "no Ethernet header");
        let mut short = bytes;
        short[14 + 20 + 12] = 4 << 4;
        assert_eq!(Header::outgoing(&short, &meta(34, 1400, None)), None, "a TCP header of 16 bytes");

        let outside = Header { flags: NEEDS_CHECKSUM, csum_start: 34, csum_offset: 16, ..Header::default() };
        assert_eq!(outside.meta(51), None);
        assert!(outside.meta(52).is_some());
        assert_eq!(
            Header { gso_type: GSO_TCP_V4, ..Header::default() }.meta(60),
            None,
            "segments of nothing"
        );
    }

    #[test]
    fn verified_and_ecn_are_understood() {
        let verified = Header { flags: DATA_VALID, ..Header::default() };
        assert_eq!(verified.meta(60).map(|meta| meta.checksum), Some(Checksum::Verified));
        let ecn = Header { gso_type: GSO_TCP_V6 | GSO_ECN, gso_size: 1000, ..Header::default() };
        assert_eq!(ecn.meta(60).map(|meta| meta.segment), Some(1000));
    }

    #[test]
    fn a_completed_checksum_sums_to_zero() {
        for len in [40, 41, 1500] {
            let mut bytes: Vec<u8> = (0..len).map(|n| (n * 7 + 3) as u8).collect();
            // The field holds a pseudo-header's sum, so the rest sums to its complement.
            let pseudo = u16::from_be_bytes([bytes[20 + 16], bytes[20 + 17]]);
            complete(&mut bytes, 20, 16);
            let mut padded = bytes[20..].to_vec();
            padded.resize(padded.len().next_multiple_of(2), 0);
            let mut sum: u32 = u32::from(pseudo);
            sum +=
                padded.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(sum, 0xffff);
        }
        let mut short = [1; 10];
        complete(&mut short, 8, 16);
        assert_eq!(short, [1; 10]);
    }
}
