//! Certificates of the other side: cheap limits first, then the chain, for both directions of a Chia connection.
//!
//! What a stock node accepts, measured against OpenSSL, is the yardstick. The same here: P-256, P-384, P-521, Ed25519 and RSA
//! leaves, directly under the CA or under one that the CA signed; names never matter; validity, chain, extended key usage
//! and critical extensions do; a client leaf with a key usage must allow signatures. Refused here although a node
//! takes them: RSA keys beyond 4,096 bits or with a public exponent beyond 32 bits (a verification as a weapon), chains of
//! more than [`CHAIN_MAX`] certificates, certificates longer than [`CERTIFICATE_MAX`], leaves that claim to be a CA
//! (webpki knows no such leaf; Chia never made one).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::ca::Roots;
use crate::session::PeerId;

/// Most certificates in a chain: leaf, one intermediate, and the CA that many peers send along.
pub const CHAIN_MAX: usize = 3;
/// Longest certificate in bytes. An RSA-4096 leaf signed by an RSA-4096 CA takes 1.4 kB.
pub const CERTIFICATE_MAX: usize = 4096;
/// Accepted sizes of RSA keys, in bits.
pub const RSA_BITS: core::ops::RangeInclusive<usize> = 2048..=4096;

// How a SubjectPublicKeyInfo of each kind begins: header, algorithm and curve, up to the bits of the key.
const P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
const P384: &[u8] =
    b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00";
const P521: &[u8] =
    b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00";
const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// The object identifier of the key usage extension, 2.5.29.15, as it stands in a certificate.
const KEY_USAGE: &[u8] = b"\x06\x03\x55\x1d\x0f";

/// Which rule of [`check_limits`] a certificate breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// More certificates than [`CHAIN_MAX`].
    Depth,
    /// A certificate longer than [`CERTIFICATE_MAX`].
    Size,
    /// Not parsable as an X.509 certificate.
    Encoding,
    /// A key type or size that is not accepted.
    Key,
    /// A client leaf whose key usage forbids signatures.
    Usage,
    /// Not the pinned identity.
    Identity,
}

impl core::fmt::Display for Beyond {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "certificate beyond limits: {self:?}")
    }
}

impl core::error::Error for Beyond {}

impl From<Beyond> for Error {
    fn from(beyond: Beyond) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(beyond))))
    }
}

/// The limits that hold before any signature is verified.
///
/// # Errors
/// The first rule that is broken.
pub fn check_limits(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Beyond> {
    if intermediates.len() >= CHAIN_MAX {
        return Err(Beyond::Depth);
    }
    check_certificate(leaf)?;
    intermediates.iter().try_for_each(check_certificate)
}

fn check_certificate(certificate: &CertificateDer<'_>) -> Result<(), Beyond> {
    if certificate.len() > CERTIFICATE_MAX {
        return Err(Beyond::Size);
    }
    // webpki's parser takes a tenth of the time that a complete one takes, and it is strict.
    let parsed = EndEntityCert::try_from(certificate).map_err(|_| Beyond::Encoding)?;
    let key = parsed.subject_public_key_info();
    if is_acceptable(&key) { Ok(()) } else { Err(Beyond::Key) }
}

fn is_acceptable(key: &[u8]) -> bool {
    if [P256, P384, P521, ED25519].iter().any(|kind| key.starts_with(kind)) {
        return true;
    }
    let Ok(([], key)) = SubjectPublicKeyInfo::from_der(key) else { return false };
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            RSA_BITS.contains(&rsa_bits(rsa.modulus)) && significant(rsa.exponent).len() <= 4
        }
        _ => false,
    }
}

fn significant(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    integer.get(zeros..).unwrap_or_default()
}

fn rsa_bits(modulus: &[u8]) -> usize {
    let digits = significant(modulus);
    digits.first().map_or(0, |top| digits.len() * 8 - top.leading_zeros() as usize)
}

/// As OpenSSL judges a client's leaf: a key usage, if there is one, allows digital signatures or key agreement. webpki
/// does not look at key usages, and almost no certificate has one, so the parser that does is seldom asked.
fn check_client_usage(leaf: &CertificateDer<'_>) -> Result<(), Beyond> {
    if !leaf.windows(KEY_USAGE.len()).any(|window| window == KEY_USAGE) {
        return Ok(());
    }
    let Ok(([], parsed)) = X509Certificate::from_der(leaf) else { return Err(Beyond::Encoding) };
    match parsed.key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.digital_signature() || usage.value.key_agreement() => Ok(()),
        _ => Err(Beyond::Usage),
    }
}

/// Verifies what the other side of a handshake shows, in either role.
#[derive(Debug)]
pub struct Verifier {
    roots: Roots,
    provider: Arc<CryptoProvider>,
    pinned: Option<PeerId>,
}

impl Verifier {
    /// Chains must end at one of `roots`.
    pub fn new(roots: Roots, provider: Arc<CryptoProvider>) -> Verifier {
        Verifier { roots, provider, pinned: None }
    }

    /// Only this identity is accepted, and it must chain to a root all the same.
    #[must_use]
    pub fn pinned(mut self, id: PeerId) -> Verifier {
        self.pinned = Some(id);
        self
    }

    fn chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if intermediates.len() >= CHAIN_MAX {
            return Err(Beyond::Depth.into());
        }
        // Nodes send the CA along. A root says nothing new, so it is neither parsed nor tried.
        let intermediates: Vec<CertificateDer<'_>> = intermediates
            .iter()
            .filter(|certificate| !self.roots.contains(certificate))
            .map(|certificate| CertificateDer::from(certificate.as_ref()))
            .collect();
        check_limits(leaf, &intermediates)?;
        if self.pinned.is_some_and(|id| id != super::peer_id(leaf)) {
            return Err(Beyond::Identity.into());
        }
        let entity = EndEntityCert::try_from(leaf).map_err(certificate_error)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        entity
            .verify_for_usage(algorithms, self.roots.anchors(), &intermediates, now, usage, None, None)
            .map(drop)
            .map_err(certificate_error)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn tls12(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn tls13(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }
}

fn certificate_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    Error::InvalidCertificate(match error {
        E::CertExpired { .. } => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::UnknownIssuer
        | E::CaUsedAsEndEntity
        | E::EndEntityUsedAsCa
        | E::InvalidSignatureForPublicKey
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => CertificateError::UnknownIssuer,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::UnsupportedCriticalExtension => CertificateError::UnhandledCriticalExtension,
        _ => CertificateError::BadEncoding,
    })
}

impl ClientCertVerifier for Verifier {
    /// Empty, as a node sends it: a peer shows whatever certificate it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain(leaf, intermediates, now, KeyUsage::client_auth())?;
        check_client_usage(leaf)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.chain(leaf, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls13(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
