//! Frames of a sender on the same host: their transport checksum holds the sum of the pseudo-header and nothing else, and
//! no ring says so. They are told by that value.
//!
//! Whoever sends it from afar gains nothing: the checksum of a segment is no proof of anything, and one frame in 65,536 with
//! a complete checksum carries that very value and passes as well.

use hedgerow_dataplane::frame::Checksum;

const ETHERNET: usize = 14;
const TAG: usize = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The state of a TCP or UDP packet's checksum by its value; unverified for everything else.
pub(crate) fn checksum(frame: &[u8]) -> Checksum {
    find(frame).unwrap_or_default()
}

fn find(frame: &[u8]) -> Option<Checksum> {
    let half = |at: usize| Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?));
    let (kind, network) = match half(12)? {
        0x8100 => (half(16)?, ETHERNET + TAG),
        kind => (kind, ETHERNET),
    };
    let (protocol, start, addresses, length) = match kind {
        0x0800 if frame.get(network)? == &0x45 => {
            (*frame.get(network + 9)?, network + 20, network + 12, half(network + 2)?.checked_sub(20)?)
        }
        0x86dd => (*frame.get(network + 6)?, network + 40, network + 8, half(network + 4)?),
        _ => return None,
    };
    // Where the checksum lies in the header.
    let offset: u16 = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let words = frame.get(addresses..start)?.chunks_exact(2);
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = sum + u32::from(protocol) + u32::from(length);
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (folded == u32::from(half(start + usize::from(offset))?))
        .then_some(Checksum::Partial { start: start as u16, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(checksum: u16) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
        frame[16..18].copy_from_slice(&40u16.to_be_bytes());
        frame[23] = TCP;
        frame[26..34].copy_from_slice(&[0xc0, 0, 2, 1, 0xc0, 0, 2, 2]);
        frame[50..52].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    /// 2 * 0xc000 + 0x0201 + 0x0202 + 6 + 20, folded.
    const SUM: u16 = 0x841e;

    #[test]
    fn the_value_tells() {
        let partial = |start| Checksum::Partial { start, offset: 16 };
        assert_eq!(checksum(&v4(SUM)), partial(34));
        assert_eq!(checksum(&v4(!SUM)), Checksum::Unverified);
        let mut tagged = v4(SUM);
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(checksum(&tagged), partial(38));
        let mut v6 = vec![0; 74];
        v6[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        v6[18..21].copy_from_slice(&[0, 20, TCP]);
        v6[22] = 0xfd;
        v6[38] = 0xfd;
        // 2 * 0xfd00 + 6 + 20, folded.
        v6[70..72].copy_from_slice(&0xfa1bu16.to_be_bytes());
        assert_eq!(checksum(&v6), partial(54));
    }

    #[test]
    fn no_length_is_too_short() {
        let frame = v4(SUM);
        assert!((0..frame.len()).all(|len| len >= 52 || checksum(&frame[..len]) == Checksum::Unverified));
    }
}
