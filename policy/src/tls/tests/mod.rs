//! TLS tested through its public interface: channels against each other and against rustls' own connections.

mod meet;
mod mutate;
mod refuse;
mod traffic;

use core::time::Duration;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::ca::Authority;
use super::connector::Showing;
use super::mint::{self, Shape};
use super::{Acceptor, Channel, Clock, Connector, Credential, Failure, Settings};
use crate::identity::Fleet;

/// 2026-11-23.
const NOW: Duration = Duration::from_secs(1_795_392_000);

fn settings() -> Settings {
    Settings::new(Clock::at(NOW))
}

fn authority() -> Authority {
    Authority::chia().unwrap()
}

fn peer(seed: u64) -> Credential {
    mint::peer(&authority(), seed).unwrap()
}

fn shaped(shape: &Shape) -> Credential {
    mint::certificate(&authority(), &mint::p256_key(9).unwrap(), 9, shape).unwrap()
}

fn fleet() -> Arc<Fleet> {
    static FLEET: LazyLock<Arc<Fleet>> = LazyLock::new(|| Fleet::new(&[7; 32], &authority()).unwrap());
    FLEET.clone()
}

fn acceptor() -> Acceptor {
    acceptor_with(&settings())
}

fn acceptor_with(settings: &Settings) -> Acceptor {
    Acceptor::new(settings, fleet().service(&authority(), [192, 0, 2, 1].into(), 8444).unwrap()).unwrap()
}

fn connect(credential: Credential) -> Channel {
    Connector::new(&settings(), None).unwrap().connect(Showing::Credential(Arc::new(credential)))
}

/// Runs all work that a channel has; says how many pieces there were.
fn work(channel: &mut Channel) -> Result<usize, Failure> {
    let mut pieces = 0;
    while let Some(mut work) = channel.work() {
        work.run();
        channel.complete(work)?;
        pieces += 1;
    }
    Ok(pieces)
}

/// Hands `bytes` to a channel until it has taken them all, working where it wants to; gives back what it decrypted.
fn feed(channel: &mut Channel, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut bytes = bytes.to_vec();
    let (mut at, mut plain) = (0, Vec::new());
    loop {
        let received = channel.receive(&mut bytes[at..])?;
        at += received.taken;
        plain.extend_from_slice(received.plain);
        let quiet = received.taken == 0 && received.plain.is_empty();
        if work(channel)? == 0 && quiet {
            assert_eq!(at, bytes.len(), "the channel left bytes although it had nothing to do");
            return Ok(plain);
        }
    }
}

/// Everything that a channel has to say by itself.
fn said(channel: &mut Channel) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let mut space = [0; 999];
        match channel.transmit(&mut space) {
            0 => return out,
            count => out.extend_from_slice(&space[..count]),
        }
    }
}

fn seal(channel: &mut Channel, mut plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut space = vec![0; 4096];
    while !plain.is_empty() {
        let sealed = channel.seal(plain, &mut space).unwrap();
        assert!(sealed.taken > 0, "nothing could be sealed");
        out.extend_from_slice(&space[..sealed.written]);
        plain = &plain[sealed.taken..];
    }
    out
}

/// A handshake between two channels, `chunk` bytes at a time.
fn shake(
    client: &mut Channel,
    server: &mut Channel,
    mut chunk: impl FnMut() -> usize,
) -> Result<(), Failure> {
    loop {
        work(client)?;
        let up = said(client);
        for piece in pieces(&up, &mut chunk) {
            assert!(feed(server, piece)?.is_empty());
        }
        let down = said(server);
        for piece in pieces(&down, &mut chunk) {
            assert!(feed(client, piece)?.is_empty());
        }
        if up.is_empty() && down.is_empty() {
            return Ok(());
        }
    }
}

/// Two channels that know each other.
fn pair() -> (Channel, Channel) {
    let (mut client, mut server) = (connect(peer(1)), acceptor().accept());
    shake(&mut client, &mut server, || usize::MAX).unwrap();
    assert!(client.is_established() && server.is_established());
    (client, server)
}

fn pieces<'a>(mut bytes: &'a [u8], chunk: &mut impl FnMut() -> usize) -> Vec<&'a [u8]> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(chunk().clamp(1, bytes.len()));
        all.push(piece);
        bytes = rest;
    }
    all
}

/// rustls' own client, which trusts everybody.
fn foreign_client(
    settings: &Settings,
    credential: Option<Credential>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConnection {
    let builder = ClientConfig::builder_with_details(settings.provider.clone(), settings.clock.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match credential {
        Some(shown) => builder.with_client_auth_cert(shown.chain, shown.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    ClientConnection::new(Arc::new(config), "chia.net".try_into().unwrap()).unwrap()
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        super::provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Carries bytes between one of rustls' connections and a channel until both are silent; what the channel decrypted.
fn converse<D>(foreign: &mut rustls::ConnectionCommon<D>, channel: &mut Channel) -> Result<Vec<u8>, Failure>
where
    D: rustls::SideData,
{
    let mut plain = Vec::new();
    loop {
        work(channel)?;
        let mut up = Vec::new();
        while foreign.wants_write() {
            foreign.write_tls(&mut up).unwrap();
        }
        let fed = feed(channel, &up);
        let down = said(channel);
        listen(foreign, &down);
        plain.extend_from_slice(&fed?);
        if up.is_empty() && down.is_empty() {
            return Ok(plain);
        }
    }
}

/// Hands bytes to one of rustls' connections.
fn listen<D: rustls::SideData>(foreign: &mut rustls::ConnectionCommon<D>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        foreign.read_tls(&mut bytes).unwrap();
        let _ = foreign.process_new_packets(); // its opinion is asked for by the tests that care
    }
}
