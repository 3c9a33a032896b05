//! TLS without I/O: the side that peers connect to ([`acceptor`]), the side that connects to nodes ([`connector`]), and
//! what both rest on. One connection is a [`Channel`]; it is bounded before it trusts anybody and small once it is idle.
//!
//! - [`ca`]: the Chia CA, or a test network's: trust anchors and an authority that signs.
//! - [`verify`]: limits on certificates before any signature is checked, then the chain.
//! - [`channel`]: bytes in, plaintext out, and back; [`handshake`]: its expensive steps as detached work; [`record`]:
//!   record protection in place after the handshake.
//! - [`mint`]: certificates for simulated peers and tests.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::Arc;

use base64ct::{Base64, Encoding};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use sha2::{Digest, Sha256};

use crate::session::PeerId;

pub mod acceptor;
pub mod ca;
pub mod channel;
pub mod connector;
pub mod handshake;
pub mod mint;
pub mod record;
pub mod verify;

pub use acceptor::Acceptor;
pub use channel::{Channel, Received, Sealed};
pub use connector::Connector;

/// Why a TLS connection was refused or broke; says whose fault it is, not which side saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The first bytes are not TLS.
    Garbage,
    /// The first bytes are an HTTP request without TLS.
    PlainHttp,
    /// A record longer than RFC 8446 section 5.2 allows, or a handshake beyond this implementation's limits.
    TooLarge,
    /// No protocol version, cipher suite or group in common.
    Incompatible,
    /// The other side showed no certificate.
    NoCertificate,
    /// The certificate does not chain to a root, or not for this use.
    Untrusted,
    /// The certificate has expired or is not valid yet.
    Expired,
    /// The certificate cannot be parsed, or its key, size or chain is beyond the limits for verification.
    BadCertificate,
    /// A valid certificate, but not the one that was expected here.
    WrongIdentity,
    /// A rule of the protocol was broken: bad signature, bad Finished, a record that does not decrypt, wrong order.
    Protocol,
    /// After the handshake: a record or message that has no place there, or too many that say nothing.
    Unexpected,
    /// The other side sent a fatal alert.
    Alert,
    /// More key updates than anybody needs.
    KeyUpdates,
    /// A fault on our side: a resource is exhausted, or the host broke this module's contract.
    Internal,
}

/// The host's clock as certificates see it: seconds since 1970, written by the host, read at each handshake.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// A clock that stands at `unix`, the time since 1970-01-01 UTC.
    pub fn at(unix: Duration) -> Arc<Clock> {
        Arc::new(Clock(AtomicU64::new(unix.as_secs())))
    }

    /// Sets the time. Once a second is enough.
    pub fn set(&self, unix: Duration) {
        self.0.store(unix.as_secs(), Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

/// What every TLS connection of this process has in common.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Ciphers, key exchange, randomness and signatures. A test hands in one whose randomness has a seed.
    pub provider: Arc<CryptoProvider>,
    /// The time that certificates are judged by.
    pub clock: Arc<Clock>,
    /// Whom to believe.
    pub roots: ca::Roots,
    /// Whether peers may use TLS 1.2. A node as server has asked for 1.3 for years, so no current peer needs it.
    pub tls12: bool,
}

impl Settings {
    /// The real provider, the Chia CA, TLS 1.3 only.
    pub fn new(clock: Arc<Clock>) -> Settings {
        Settings { provider: Arc::new(provider()), clock, roots: ca::Roots::chia(), tls12: false }
    }
}

/// The provider used outside of tests: aws-lc with the suites and groups that this appliance wants, cheapest first.
///
/// A peer with other groups alone (P-521, X448, finite fields, post-quantum ones without X25519 beside them) is refused although some
/// nodes' OpenSSL would serve it: no TLS library asks for these alone unless it is told to.
pub fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite as suite, kx_group as group};
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![group::X25519, group::SECP256R1, group::SECP384R1],
        ..aws_lc_rs::default_provider()
    }
}

/// A certificate chain, leaf first, and the leaf's private key: what one side of a handshake shows.
pub struct Credential {
    /// Leaf first, then what leads to the root, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Credential {
    /// The identity that the other side will see; `None` for an empty chain.
    pub fn id(&self) -> Option<PeerId> {
        self.chain.first().map(peer_id)
    }

    /// The leaf certificate as text (RFC 7468), for those who want to know it beforehand; empty for an empty chain.
    pub fn certificate_pem(&self) -> String {
        let Some(leaf) = self.chain.first() else { return String::new() };
        let text = Base64::encode_string(leaf);
        let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Credential { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// The identity that a leaf certificate stands for in Chia: the SHA-256 of its DER encoding.
pub fn peer_id(leaf: &CertificateDer<'_>) -> PeerId {
    PeerId(Sha256::digest(leaf).into())
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupError(pub(crate) String);

impl SetupError {
    pub(crate) fn because(what: &str, why: impl fmt::Display) -> SetupError {
        SetupError(format!("{what}: {why}"))
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SetupError {}

#[cfg(test)]
mod tests;
