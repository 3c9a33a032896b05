//! Certificates for simulated peers and nodes, as their installations would have made them; the Chia CA's key is public.

use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, RsaKeySize, date_time_ymd};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::ca::Authority;
use super::{Credential, SetupError};

/// A date as year, month, day.
pub type Date = (i32, u8, u8);

/// What a minted certificate looks like. The default is what a stock installation makes.
#[derive(Clone, Debug)]
pub struct Shape {
    /// First day of validity.
    pub from: Date,
    /// Last day of validity.
    pub until: Date,
    /// Extended key usages; none means any.
    pub extended: Vec<ExtendedKeyUsagePurpose>,
    /// Key usages; none means any.
    pub usages: Vec<KeyUsagePurpose>,
    /// Whether the leaf claims to be a CA.
    pub ca: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            from: (2021, 1, 23),
            until: (2100, 8, 2),
            extended: Vec::new(),
            usages: Vec::new(),
            ca: false,
        }
    }
}

/// A fresh RSA-2048 key, which stock nodes have. Takes some hundred milliseconds.
///
/// # Errors
/// If the cryptographic library fails.
pub fn rsa_key() -> Result<KeyPair, SetupError> {
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)
        .map_err(|e| SetupError::because("key", e))
}

/// A P-256 key that a seed determines.
///
/// # Errors
/// If the cryptographic library fails.
pub fn p256_key(seed: u64) -> Result<KeyPair, SetupError> {
    crate::identity::seeded_key(seed)
}

/// A certificate for `key`, signed by `authority`. The serial number decides which of several certificates for one key
/// this is, so it decides the peer id too.
///
/// # Errors
/// If the cryptographic library fails.
pub fn certificate(
    authority: &Authority,
    key: &KeyPair,
    serial: u64,
    shape: &Shape,
) -> Result<Credential, SetupError> {
    let failed = |e: rcgen::Error| SetupError::because("certificate", e);
    let mut params = Authority::stock_leaf().map_err(failed)?;
    params.not_before = date_time_ymd(shape.from.0, shape.from.1, shape.from.2);
    params.not_after = date_time_ymd(shape.until.0, shape.until.1, shape.until.2);
    params.serial_number = Some((serial | 1 << 62).into());
    params.extended_key_usages.clone_from(&shape.extended);
    params.key_usages.clone_from(&shape.usages);
    if shape.ca {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let signed = params.signed_by(key, authority.issuer()).map_err(failed)?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Credential { chain: vec![signed.der().clone()], key })
}

/// The usual peer: a P-256 key from `seed`, a certificate under the Chia CA, the same bytes each time.
///
/// # Errors
/// If the cryptographic library fails.
pub fn peer(authority: &Authority, seed: u64) -> Result<Credential, SetupError> {
    certificate(authority, &p256_key(seed)?, seed, &Shape::default())
}
