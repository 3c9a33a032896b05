//! `tls-accept`: full mutual handshakes that the session object takes, against the rate that its primitives allow: one
//! P-256 signature, two RSA-2048 verifications (the peer's certificate, and its signature with the key of a stock node),
//! one X25519 key and one agreement. The peer's own work is not counted.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256,
};
use hedgerow_policy::gate::{Config, Gate};
use hedgerow_policy::identity::Fleet;
use hedgerow_policy::tls::ca::Authority;
use hedgerow_policy::tls::connector::Showing;
use hedgerow_policy::tls::mint::{self, Shape};
use hedgerow_policy::tls::{self, Acceptor, Channel, Connector, Credential, Settings};
use hedgerow_policy::{Done, Leg, Request, Session, Standing};

use crate::Figure;

/// 2026-11-23, when all certificates in use here are valid.
const TODAY: Duration = Duration::from_secs(1_795_392_000);

/// The figure.
pub struct TlsAccept {
    handshakes: u32,
    config: Arc<Config>,
    peer: Arc<Credential>,
    connector: Connector,
    primitives: Primitives,
}

impl TlsAccept {
    /// `handshakes` a round.
    ///
    /// # Panics
    /// If the cryptographic library cannot make keys.
    pub fn new(handshakes: u32) -> Self {
        let settings = Settings::new(tls::Clock::at(TODAY));
        let authority = Authority::chia().expect("the CA of the network");
        let fleet = Fleet::new(&[7; 32], &authority).expect("a fleet");
        let service = fleet.service(&authority, [192, 0, 2, 1].into(), 8444).expect("a service certificate");
        let acceptor = Acceptor::new(&settings, service).expect("an acceptor");
        let connector = Connector::new(&settings, None).expect("a connector");
        let key = mint::rsa_key().expect("a key like a stock node's");
        let peer = mint::certificate(&authority, &key, 1, &Shape::default()).expect("a peer's certificate");
        TlsAccept {
            handshakes,
            config: Arc::new(Config::new("mainnet", acceptor, connector.clone(), fleet)),
            peer: Arc::new(peer),
            connector,
            primitives: Primitives::new(),
        }
    }

    /// One handshake: how long the session took for its share.
    fn handshake(&self) -> Duration {
        let mut peer = self.connector.connect(Showing::Credential(self.peer.clone()));
        let mut spent = Duration::ZERO;
        let mut timed = |work: &mut dyn FnMut()| {
            let start = Clock::now();
            work();
            spent += start.elapsed();
        };
        let mut gate = None;
        timed(&mut || gate = Some(Gate::new(self.config.clone(), 1, Duration::ZERO)));
        let Some(mut gate) = gate else { return spent };
        let mut proven = false;
        for _ in 0..100 {
            let mut said = step(&mut peer, &[]);
            let mut answer = Vec::new();
            timed(&mut || proven |= gate_step(&mut gate, &mut said, &mut answer));
            if proven {
                return spent;
            }
            step(&mut peer, &answer);
        }
        panic!("the handshake came to nothing: {:?}", gate.verdict());
    }
}

/// Feeds the peer, lets it work, and takes what it says.
fn step(peer: &mut Channel, heard: &[u8]) -> Vec<u8> {
    let (mut heard, mut at, mut said) = (heard.to_vec(), 0, vec![0; 16 << 10]);
    loop {
        let taken = peer.receive(&mut heard[at..]).map_or(0, |received| received.taken);
        at += taken;
        let mut worked = false;
        while let Some(mut work) = peer.work() {
            work.run();
            worked = true;
            peer.complete(work).unwrap_or_else(|failure| panic!("the peer failed: {failure:?}"));
        }
        if taken == 0 && !worked {
            break;
        }
    }
    let length = if heard.is_empty() { peer.transmit(&mut said) } else { 0 };
    said.truncate(length);
    said
}

/// Hands the session what the peer said, carries out its requests, and takes what it answers; whether the peer is proven.
fn gate_step(gate: &mut Gate, said: &mut [u8], answer: &mut Vec<u8>) -> bool {
    let (mut at, mut proven) = (0, false);
    loop {
        let taken = gate.receive(Duration::ZERO, Leg::Public, &mut said[at..]);
        at += taken;
        let mut worked = false;
        while let Some(request) = gate.request() {
            match request {
                Request::Work(mut work) => {
                    work.run();
                    worked = true;
                    gate.complete(Duration::ZERO, Done::Work(work));
                }
                Request::Standing(Standing::Proven | Standing::Reserved) => proven = true,
                _ => {}
            }
        }
        if !worked && (taken == 0 || at == said.len()) {
            break;
        }
    }
    answer.resize(16 << 10, 0);
    let length = gate.transmit(Duration::ZERO, Leg::Public, answer);
    answer.truncate(length);
    proven
}

impl Figure for TlsAccept {
    fn name(&self) -> &'static str {
        "tls-accept"
    }

    fn unit(&self) -> &'static str {
        "handshakes/s"
    }

    fn peer(&self) -> &'static str {
        "its primitives alone (aws-lc)"
    }

    fn bar(&self) -> f64 {
        0.6
    }

    fn note(&self) -> String {
        format!("{} handshakes a round, TLS 1.3, P-256 server leaf, RSA-2048 peers", self.handshakes)
    }

    fn ours(&mut self) -> f64 {
        let spent: Duration = (0..self.handshakes).map(|_| self.handshake()).sum();
        f64::from(self.handshakes) / spent.as_secs_f64()
    }

    fn theirs(&mut self) -> f64 {
        let start = Clock::now();
        for _ in 0..self.handshakes {
            self.primitives.once();
        }
        f64::from(self.handshakes) / start.elapsed().as_secs_f64()
    }
}

/// The arithmetic of one handshake on the server's side.
struct Primitives {
    random: SystemRandom,
    p256: EcdsaKeyPair,
    rsa_public: Vec<u8>,
    rsa_signature: Vec<u8>,
    x25519_public: Vec<u8>,
}

/// What is signed in a TLS 1.3 CertificateVerify: 64 spaces, a label and a hash.
const SIGNED: [u8; 130] = [0x20; 130];

impl Primitives {
    fn new() -> Self {
        let random = SystemRandom::new();
        let p256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).expect("a P-256 key");
        let rsa = RsaKey::generate(KeySize::Rsa2048).expect("an RSA key");
        let mut rsa_signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(&RSA_PKCS1_SHA256, &random, &SIGNED, &mut rsa_signature).expect("a signature");
        let x25519 = EphemeralPrivateKey::generate(&X25519, &random).expect("an X25519 key");
        let x25519_public = x25519.compute_public_key().expect("its public half").as_ref().to_vec();
        let rsa_public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(rsa.public_key());
        let rsa_public = rsa_public.expect("its encoding").as_ref().to_vec();
        Primitives { random, p256, rsa_public, rsa_signature, x25519_public }
    }

    fn once(&self) {
        let key = EphemeralPrivateKey::generate(&X25519, &self.random).expect("a key");
        black_box(key.compute_public_key().expect("its public half"));
        let theirs = UnparsedPublicKey::new(&X25519, &self.x25519_public);
        agree_ephemeral(key, &theirs, (), |secret| {
            black_box(secret);
            Ok(())
        })
        .expect("an agreement");
        black_box(self.p256.sign(&self.random, &SIGNED).expect("a signature"));
        for _ in 0..2 {
            let key = signature::UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.rsa_public);
            key.verify(&SIGNED, &self.rsa_signature).expect("a valid signature");
        }
    }
}
