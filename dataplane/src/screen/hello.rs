//! Whether bytes can begin a TLS ClientHello (RFC 8446, sections 4.1.2 and 5.1): what a stranger must say first.

/// Record header, handshake header, legacy version, random, length of the session id.
const HEAD: usize = 5 + 4 + 2 + 32 + 1;
/// Version, random, no session id, one cipher suite, one compression method.
const SHORTEST: usize = 2 + 32 + 1 + 2 + 2 + 1 + 1;
/// Largest plaintext of a record.
const RECORD_MAX: usize = 1 << 14;

/// Whether `bytes` are a prefix of a plausible ClientHello in its record; one byte is enough to begin.
///
/// A hello may be split over segments and over records, and its length is only known to be below 64 KiB; everything else
/// that stands at a fixed place is checked as far as it is there.
pub fn plausible(bytes: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    let fits = |at: usize, test: &dyn Fn(u8) -> bool| bytes.get(at).is_none_or(|&byte| test(byte));
    let within = |at: usize, least: usize, most: usize| match bytes.get(at..at + 2) {
        Some(&[high, low]) => (least..=most).contains(&usize::from(u16::from_be_bytes([high, low]))),
        _ => true,
    };
    !bytes.is_empty()
        && fits(0, &|kind| kind == HANDSHAKE)
        && fits(1, &|major| major == 3)
        && fits(2, &|minor| minor <= 4)
        && within(3, 1, RECORD_MAX)
        && fits(5, &|kind| kind == CLIENT_HELLO)
        && fits(6, &|high| high == 0)
        && within(7, SHORTEST, usize::from(u16::MAX))
        && fits(9, &|major| major == 3)
        && fits(10, &|minor| minor <= 3)
        && fits(HEAD - 1, &|length| length <= 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Vec<u8> {
        let mut bytes = vec![22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        bytes.extend([0x77; 32]);
        bytes.push(32);
        bytes.extend([0x11; 200]);
        bytes
    }

    #[test]
    fn every_prefix_of_a_hello_is_plausible() {
        let hello = hello();
        for length in 1..=hello.len() {
            assert!(plausible(&hello[..length]), "{length} bytes");
        }
        assert!(!plausible(&[]));
    }

    #[test]
    fn a_hello_may_be_split_over_records() {
        assert!(plausible(&[22, 3, 3, 0, 1, 1]));
    }

    #[test]
    fn one_wrong_byte_is_enough() {
        for (at, value) in [(0, 23), (1, 2), (2, 5), (3, 0x41), (5, 2), (6, 1), (9, 2), (10, 4), (43, 33)] {
            let mut hello = hello();
            hello[at] = value;
            assert!(!plausible(&hello), "byte {at}");
            assert!(!plausible(&hello[..=at.max(4)]), "byte {at}, at the end");
            assert!(at == 0 || plausible(&hello[..at]), "before byte {at}");
        }
        let mut empty_record = hello();
        empty_record[3..5].fill(0);
        assert!(!plausible(&empty_record));
        let mut short = hello();
        short[7..9].copy_from_slice(&[0, 40]);
        assert!(!plausible(&short));
    }

    #[test]
    fn other_protocols_are_told_from_the_first_byte() {
        for greeting in [&b"GET /ws HTTP/1.1\r\n"[..], b"SSH-2.0-x", b"\0\0\0", b"\x80\x2e\x01"] {
            assert!(!plausible(&greeting[..1]));
        }
    }
}
