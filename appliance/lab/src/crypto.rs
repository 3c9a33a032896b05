//! TLS primitives whose randomness follows from a seed, so that a world with TLS in it repeats itself frame by frame.
//!
//! For simulation only: whoever knows the seed knows every key.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use hedgerow_policy::tls;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey as P256Key};
use p256::pkcs8::DecodePrivateKey;
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, SharedSecret,
    SupportedKxGroup,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{Error, NamedGroup, PeerMisbehaved, SignatureAlgorithm, SignatureScheme};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::random::Random;

/// The appliance's provider with randomness from `seed`, X25519 alone, and signatures by RFC 6979 for P-256 keys.
///
/// rustls wants its parts for ever, so each call leaks a few bytes: call it once per run.
pub fn provider(seed: u64) -> Arc<CryptoProvider> {
    let source: &'static Seeded = Box::leak(Box::new(Seeded(Mutex::new(Random::new(seed)))));
    let group: &'static SeededX25519 = Box::leak(Box::new(SeededX25519(source)));
    let base = tls::provider();
    let fallback = base.key_provider;
    let keys: &'static Keys = Box::leak(Box::new(Keys(fallback)));
    Arc::new(CryptoProvider { kx_groups: vec![group], secure_random: source, key_provider: keys, ..base })
}

/// The same for a client that offers a post-quantum key share as well, as OpenSSL 3.5 and rustls do: its hello needs two segments.
///
/// The share is noise of that length, and its exchange fails: only servers that take X25519 can be met. Leaks like [`provider`].
pub fn quantum(base: &CryptoProvider) -> Arc<CryptoProvider> {
    let classic = base.kx_groups.first().copied();
    let shares = classic.map(|classic| Quantum { classic, random: base.secure_random });
    let shares = shares.map(|shares| &*Box::leak(Box::new(shares)) as &dyn SupportedKxGroup);
    Arc::new(CryptoProvider { kx_groups: shares.into_iter().chain(classic).collect(), ..base.clone() })
}

/// Bytes of an ML-KEM-768 encapsulation key (FIPS 203), which X25519's stand behind.
const ENCAPSULATION_KEY: usize = 1_184;

#[derive(Debug)]
struct Quantum {
    classic: &'static dyn SupportedKxGroup,
    random: &'static dyn SecureRandom,
}

impl SupportedKxGroup for Quantum {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let classic = self.classic.start()?;
        let mut share = vec![0; ENCAPSULATION_KEY];
        self.random.fill(&mut share)?;
        share.extend_from_slice(classic.pub_key());
        Ok(Box::new(Hybrid { classic, share }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

struct Hybrid {
    classic: Box<dyn ActiveKeyExchange>,
    share: Vec<u8>,
}

impl ActiveKeyExchange for Hybrid {
    fn complete(self: Box<Self>, _: &[u8]) -> Result<SharedSecret, Error> {
        Err(PeerMisbehaved::InvalidKeyShare.into())
    }

    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        Some((self.classic.group(), self.classic.pub_key()))
    }

    fn complete_hybrid_component(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        self.classic.complete(peer)
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

/// One generator for everybody who uses the provider; calls come in the order of the virtual clock.
struct Seeded(Mutex<Random>);

impl Seeded {
    fn draw(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
    }
}

impl fmt::Debug for Seeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seeded")
    }
}

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        self.draw(bytes);
        Ok(())
    }
}

#[derive(Debug)]
struct SeededX25519(&'static Seeded);

impl SupportedKxGroup for SeededX25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut bytes = [0; 32];
        self.0.draw(&mut bytes);
        let secret = StaticSecret::from(bytes);
        let public = PublicKey::from(&secret);
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| PeerMisbehaved::InvalidKeyShare)?;
        let shared = self.secret.diffie_hellman(&PublicKey::from(peer));
        if !shared.was_contributory() {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(&shared.as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// P-256 keys sign by RFC 6979; others as the provider beneath does.
#[derive(Debug)]
struct Keys(&'static dyn KeyProvider);

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        if let PrivateKeyDer::Pkcs8(der) = &key
            && let Ok(key) = P256Key::from_pkcs8_der(der.secret_pkcs8_der())
        {
            return Ok(Arc::new(Deterministic(key)));
        }
        self.0.load_private_key(key)
    }
}

#[derive(Clone, Debug)]
struct Deterministic(P256Key);

impl SigningKey for Deterministic {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let wanted = SignatureScheme::ECDSA_NISTP256_SHA256;
        offered.contains(&wanted).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Deterministic {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature: DerSignature =
            self.0.try_sign(message).map_err(|_| Error::General("P-256 signature".into()))?;
        Ok(signature.as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
