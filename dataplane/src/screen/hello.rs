//! Whether bytes can begin a TLS ClientHello (RFC 8446, sections 4.1.2 and 5.1): what a stranger must say first.

/// Whether `bytes` are a prefix of a plausible ClientHello in its record; one byte is enough to begin.
pub fn plausible(bytes: &[u8]) -> bool {
    !bytes.is_empty()
}
