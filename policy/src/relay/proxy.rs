//! The header that tells a server behind a proxy who its client is: PROXY protocol, version 2 (HAProxy's specification of
//! 2020-03-05, section 2.2).

use core::net::{IpAddr, SocketAddr};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and the connection is made for somebody else.
const PROXY: u8 = 0x21;
const TCP_V4: u8 = 0x11;
const TCP_V6: u8 = 0x21;

/// The header for a connection of `peer` to `local`. Ends of different families both count as IPv6.
pub(super) fn header(peer: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    let family = match (peer.ip(), local.ip()) {
        (IpAddr::V4(peer), IpAddr::V4(local)) => {
            addresses.extend(peer.octets());
            addresses.extend(local.octets());
            TCP_V4
        }
        (peer, local) => {
            for end in [peer, local] {
                let v6 = match end {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                addresses.extend(v6.octets());
            }
            TCP_V6
        }
    };
    addresses.extend(peer.port().to_be_bytes());
    addresses.extend(local.port().to_be_bytes());
    let mut header = SIGNATURE.to_vec();
    header.extend([PROXY, family]);
    header.extend((addresses.len() as u16).to_be_bytes());
    header.extend(addresses);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written out by the tables of the specification.
    #[test]
    fn headers_are_as_specified() {
        let end = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let v4 = header(end("198.51.100.7:40000"), end("203.0.113.1:443"));
        let expected = [
            &[0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a][..],
            &[0x21, 0x11, 0x00, 0x0c],
            &[198, 51, 100, 7, 203, 0, 113, 1],
            &[0x9c, 0x40, 0x01, 0xbb],
        ];
        assert_eq!(v4, expected.concat());
        let v6 = header(end("[2001:db8::7]:40000"), end("[2001:db8:1::1]:443"));
        assert_eq!(v6[12..16], [0x21, 0x21, 0x00, 0x24]);
        assert_eq!(
            (v6.len(), &v6[16..20], &v6[32..38]),
            (52, &[0x20, 1, 0xd, 0xb8][..], &[0x20, 1, 0xd, 0xb8, 0, 1][..])
        );
        assert_eq!(v6[48..], [0x9c, 0x40, 0x01, 0xbb]);
        let mixed = header(end("198.51.100.7:1"), end("[2001:db8::1]:2"));
        assert_eq!(mixed[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7]);
    }
}
