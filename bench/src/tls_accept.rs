//! `tls-accept`: full mutual handshakes that the session object takes, against the rate that its primitives allow: one
//! P-256 signature, two RSA-2048 verifications (the peer's certificate, and its signature with the key of a stock node),
//! one X25519 key and one agreement. The peer's own work is not counted.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

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

use crate::{Figure, processor_time};

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

    /// A batch of handshakes, flight by flight: how long the sessions took for their share.
    fn batch(&self) -> Duration {
        let mut peers: Vec<Channel> =
            (0..BATCH).map(|_| self.connector.connect(Showing::Credential(self.peer.clone()))).collect();
        let mut said: Vec<Vec<u8>> = peers.iter_mut().map(|peer| step(peer, &[])).collect();
        let mut answers = vec![Vec::new(); BATCH];

        let start = processor_time();
        let mut gates: Vec<Gate> = (0..BATCH)
            .map(|_| Gate::new(self.config.clone(), std::net::Ipv4Addr::LOCALHOST.into(), 1, Duration::ZERO))
            .collect();
        let mut spent = processor_time() - start;
        for _flight in 0..FLIGHTS {
            let start = processor_time();
            let mut proven = 0;
            for ((gate, said), answer) in gates.iter_mut().zip(&mut said).zip(&mut answers) {
                proven += usize::from(gate_step(gate, said, answer));
            }
            spent += processor_time() - start;
            if proven == BATCH {
                return spent;
            }
            said = peers.iter_mut().zip(&answers).map(|(peer, answer)| step(peer, answer)).collect();
        }
        panic!("the handshakes came to nothing: {:?}", gates.first().map(|gate| gate.verdict()));
    }
}

/// Handshakes under way at a time. In batches, the peers' own arithmetic does not push the sessions' out of the caches.
const BATCH: usize = 50;
/// More flights than a handshake has.
const FLIGHTS: usize = 8;

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
        let batches = self.handshakes as usize / BATCH;
        let spent: Duration = (0..batches).map(|_| self.batch()).sum();
        (batches * BATCH) as f64 / spent.as_secs_f64()
    }

    fn theirs(&mut self) -> f64 {
        let start = processor_time();
        for _ in 0..self.handshakes {
            self.primitives.once();
        }
        f64::from(self.handshakes) / (processor_time() - start).as_secs_f64()
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
        agree_ephemeral(key, theirs, (), |secret| {
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
