//! The certificate authority that all Chia peers share: trust anchors to verify against, and an authority that signs.
//! Both default to the public Chia CA and can be read from PEM for a network with a CA of its own.

use core::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SanType, date_time_ymd};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};

use super::SetupError;

const CHIA_CA: &str = include_str!("../../assets/chia_ca.crt");
const CHIA_CA_OLD: &str = include_str!("../../assets/chia_ca_old.crt");
const CHIA_CA_KEY: &str = include_str!("../../assets/chia_ca.key");

/// Certificates that a chain may end at.
///
/// A root's own validity is not judged: whoever configures a root believes it, and the old and the renewed Chia CA are one
/// key under two dates.
#[derive(Clone)]
pub struct Roots {
    anchors: Arc<[TrustAnchor<'static>]>,
    certificates: Arc<[CertificateDer<'static>]>,
}

impl Roots {
    /// The Chia CA, old and renewed.
    pub fn chia() -> Roots {
        // The files are part of the program. No roots would mean that nobody is believed.
        Roots::from_pem(&[CHIA_CA, CHIA_CA_OLD])
            .unwrap_or_else(|_| Roots { anchors: Arc::new([]), certificates: Arc::new([]) })
    }

    /// Any number of CA certificates, one or more in each text.
    ///
    /// # Errors
    /// If a text holds no certificate, or one that cannot serve as a trust anchor.
    pub fn from_pem(texts: &[&str]) -> Result<Roots, SetupError> {
        let (mut anchors, mut certificates) = (Vec::new(), Vec::new());
        for text in texts {
            let known = anchors.len();
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let certificate = certificate.map_err(|e| SetupError::because("CA certificate", e))?;
                let anchor = webpki::anchor_from_trusted_cert(&certificate)
                    .map_err(|e| SetupError::because("CA certificate", e))?;
                anchors.push(anchor.to_owned());
                certificates.push(certificate);
            }
            if anchors.len() == known {
                return Err(SetupError("CA certificate: no certificate in the file".into()));
            }
        }
        Ok(Roots { anchors: anchors.into(), certificates: certificates.into() })
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    pub(super) fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|root| root == certificate)
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({})", self.anchors.len())
    }
}

/// A CA that can sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// The Chia CA. Its key is public.
    ///
    /// # Errors
    /// Never with the files that are built in; the type keeps this honest.
    pub fn chia() -> Result<Authority, SetupError> {
        Authority::from_pem(CHIA_CA, CHIA_CA_KEY)
    }

    /// The Chia CA's certificate in use, which stock nodes send behind their leaf; `None` never happens.
    pub fn chia_certificate() -> Option<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(CHIA_CA.as_bytes()).ok()
    }

    /// Another CA.
    ///
    /// # Errors
    /// If one of the texts does not parse.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Authority, SetupError> {
        let key = KeyPair::from_pem(key).map_err(|e| SetupError::because("CA key", e))?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key)
            .map_err(|e| SetupError::because("CA certificate", e))?;
        Ok(Authority { issuer })
    }

    /// A leaf as a stock installation makes it, but for key, serial number and first day.
    pub(crate) fn stock_leaf() -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2021, 1, 23);
        params.not_after = date_time_ymd(2100, 8, 2);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "Chia");
        params.distinguished_name.push(DnType::OrganizationName, "Chia");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "Organic Farming Division");
        params.subject_alt_names = vec![SanType::DnsName("chia.net".try_into()?)];
        Ok(params)
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}
