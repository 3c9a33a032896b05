//! Who Hedgerow is towards nodes: from one fleet secret an intermediate CA under the Chia CA, and from it one leaf for each
//! peer, each service address and each node's way out. Nothing is stored: same secret and same peer give the same bytes on every appliance and
//! every run, because keys come from HKDF, serial numbers and validity are fixed, and signatures are RFC 6979's.

use core::fmt;
use core::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use hkdf::Hkdf;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::Sha256;

use crate::session::PeerId;
use crate::tls::ca::Authority;
use crate::tls::{Credential, SetupError};

/// Shortest fleet secret, in bytes.
pub const SECRET_MIN: usize = 32;

/// Separates this derivation from any other use of the same secret.
const SALT: &[u8] = b"hedgerow fleet identity 1";
/// From the first day of the first Chia CA until the day on which the leaves of stock nodes end.
const VALID: [(i32, u8, u8); 2] = [(2021, 1, 23), (2100, 8, 2)];

/// A fleet's identities: everything that derives from its secret.
pub struct Fleet {
    derive: Hkdf<Sha256>,
    intermediate: CertificateDer<'static>,
    issuer: Issuer<'static, Signer>,
}

impl Fleet {
    /// Derives the intermediate and has `authority` sign it, which takes one RSA signature.
    ///
    /// # Errors
    /// If the secret is shorter than [`SECRET_MIN`].
    pub fn new(secret: &[u8], authority: &Authority) -> Result<Arc<Fleet>, SetupError> {
        if secret.len() < SECRET_MIN {
            return Err(SetupError(format!(
                "fleet secret: {} bytes, at least {SECRET_MIN} are needed",
                secret.len()
            )));
        }
        let derive = Hkdf::<Sha256>::new(Some(SALT), secret);
        let key = Signer::derive(&derive, b"intermediate")?;
        let mut params = params("Hedgerow", &key.key)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let signed =
            params.signed_by(&key, authority.issuer()).map_err(|e| SetupError::because("intermediate", e))?;
        let intermediate = signed.der().clone();
        let issuer = Issuer::new(params, key);
        Ok(Arc::new(Fleet { derive, intermediate, issuer }))
    }

    /// The certificate that all of this fleet's leaves are signed by.
    pub fn intermediate(&self) -> &CertificateDer<'static> {
        &self.intermediate
    }

    /// What a node sees instead of `peer`. Expensive: part of a piece of work, never of the frame path.
    ///
    /// # Errors
    /// Only if the cryptographic library refuses to work.
    pub fn identity(&self, peer: PeerId) -> Result<Credential, SetupError> {
        let key = Key::derive(&self.derive, b"peer", &peer.0)?;
        let signed = params("Chia", &key)?
            .signed_by(&key, &self.issuer)
            .map_err(|e| SetupError::because("leaf", e))?;
        Ok(Credential { chain: vec![signed.der().clone(), self.intermediate.clone()], key: key.pkcs8 })
    }

    /// What peers see at a service address: a leaf directly under `authority`, as any node has one, so that nothing in it
    /// links one address of the fleet to another. Takes one RSA signature.
    ///
    /// # Errors
    /// Only if the cryptographic library refuses to work.
    pub fn service(
        &self,
        authority: &Authority,
        address: IpAddr,
        port: u16,
    ) -> Result<Credential, SetupError> {
        let mut name = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        name.extend_from_slice(&port.to_be_bytes());
        self.stock(authority, b"service", &name)
    }

    /// What peers see that a node of ours dials, where its own connections are inspected: a leaf as [`Fleet::service`] makes
    /// them, one for each node. `node` is the node's name in the configuration. Takes one RSA signature.
    ///
    /// # Errors
    /// Only if the cryptographic library refuses to work.
    pub fn outward(&self, authority: &Authority, node: &str) -> Result<Credential, SetupError> {
        self.stock(authority, b"outward", node.as_bytes())
    }

    /// A leaf that looks like any node's.
    fn stock(&self, authority: &Authority, what: &[u8], whose: &[u8]) -> Result<Credential, SetupError> {
        let key = Key::derive(&self.derive, what, whose)?;
        let failed = |e| SetupError::because("certificate for peers", e);
        let mut params = Authority::stock_leaf().map_err(failed)?;
        params.serial_number = Some(SerialNumber::from_slice(&key.serial));
        let signed = params.signed_by(&key, authority.issuer()).map_err(failed)?;
        Ok(Credential { chain: vec![signed.der().clone()], key: key.pkcs8 })
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fleet")
    }
}

/// The fields that all certificates of a fleet share.
fn params(name: &str, key: &Key) -> Result<CertificateParams, SetupError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(|e| SetupError::because("certificate", e))?;
    let [from, until] = VALID.map(|(year, month, day)| date_time_ymd(year, month, day));
    params.not_before = from;
    params.not_after = until;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&key.serial));
    Ok(params)
}

/// A P-256 key and the serial number of its certificate.
struct Key {
    scalar: [u8; 32],
    public: Vec<u8>,
    pkcs8: PrivateKeyDer<'static>,
    serial: [u8; 16],
}

/// What stands before the scalar of a P-256 key in PKCS#8 (RFC 5208, RFC 5915), and between it and the public point.
const PKCS8: [&[u8]; 2] = [
    &[
        0x30, 0x81, 0x87, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
        0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x6d, 0x30, 0x6b, 0x02, 0x01, 0x01,
        0x04, 0x20,
    ],
    &[0xa1, 0x44, 0x03, 0x42, 0x00],
];

impl Key {
    fn derive(from: &Hkdf<Sha256>, what: &[u8], whose: &[u8]) -> Result<Key, SetupError> {
        let failed = |why: &dyn fmt::Display| SetupError::because("derived key", why);
        // One in 2^32 candidates is not a scalar of the curve; the next one is taken.
        for attempt in 0..=u8::MAX {
            let mut bytes = [0; 48];
            derive_into(from, &[what, &[0, attempt], whose], &mut bytes)?;
            let (scalar, serial) = bytes.split_at(32);
            let Some((public, pkcs8)) = pair(scalar) else { continue };
            let mut number: [u8; 16] = serial.try_into().map_err(|e| failed(&e))?;
            number[0] = number[0] & 0x7f | 0x40; // positive, and always 16 bytes long (RFC 5280 section 4.1.2.2)
            return Ok(Key {
                scalar: scalar.try_into().map_err(|e| failed(&e))?,
                public,
                pkcs8: PrivatePkcs8KeyDer::from(pkcs8).into(),
                serial: number,
            });
        }
        Err(SetupError("derived key: no scalar found".into()))
    }
}

/// The uncompressed public point and the PKCS#8 form of a key; `None` where the number is no scalar of the curve.
fn pair(scalar: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let key = PrivateKey::from_private_key(&ECDH_P256, scalar).ok()?;
    let public = key.compute_public_key().ok()?.as_ref().to_vec();
    let pkcs8 = [PKCS8[0], scalar, PKCS8[1], &public].concat();
    Some((public, pkcs8))
}

/// A key whose signatures have no randomness.
struct Signer {
    key: Key,
    signing: SigningKey,
}

impl Signer {
    fn derive(from: &Hkdf<Sha256>, what: &[u8]) -> Result<Signer, SetupError> {
        let key = Key::derive(from, what, &[])?;
        let signing =
            SigningKey::from_slice(&key.scalar).map_err(|e| SetupError::because("signing key", e))?;
        Ok(Signer { key, signing })
    }
}

/// A key for a simulated peer: anybody can derive it.
pub(crate) fn seeded_key(seed: u64) -> Result<rcgen::KeyPair, SetupError> {
    let derive = Hkdf::<Sha256>::new(Some(b"simulated peer"), &seed.to_be_bytes());
    let key = Key::derive(&derive, b"peer", &[])?;
    rcgen::KeyPair::try_from(&key.pkcs8).map_err(|e| SetupError::because("seeded key", e))
}

fn derive_into(from: &Hkdf<Sha256>, info: &[&[u8]], out: &mut [u8]) -> Result<(), SetupError> {
    from.expand_multi_info(info, out).map_err(|e| SetupError::because("derived key", e))
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.key.algorithm()
    }
}

impl rcgen::SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: DerSignature =
            self.signing.try_sign(message).map_err(|_| rcgen::Error::RemoteKeyError)?;
        Ok(signature.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests;
