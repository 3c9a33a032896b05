//! Handshakes that succeed: any chunking, any version, suite and key that is allowed.

use std::io::{Read, Write};

use proptest::prelude::*;
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, RsaKeySize};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::tls::verify::Verifier;

#[test]
fn both_roles_meet_whatever_the_chunks() {
    for chunk in [1, 2, 5, 536, 1460, usize::MAX] {
        let (mut client, mut server) = (connect(peer(1)), acceptor().accept());
        shake(&mut client, &mut server, || chunk).unwrap();
        assert_eq!(server.peer(), peer(1).id());
        assert_eq!(client.peer(), fleet().service(&authority(), [192, 0, 2, 1].into(), 8444).unwrap().id());
        assert_eq!(feed(&mut server, &seal(&mut client, b"ping")).unwrap(), b"ping");
        assert_eq!(feed(&mut client, &seal(&mut server, b"pong")).unwrap(), b"pong");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn both_roles_meet_in_random_chunks(chunks in prop::collection::vec(1usize..900, 1..40)) {
        let mut chunks = chunks.into_iter().cycle();
        let (mut client, mut server) = (connect(peer(1)), acceptor().accept());
        shake(&mut client, &mut server, || chunks.next().unwrap()).unwrap();
        prop_assert_eq!(server.peer(), peer(1).id());
    }
}

#[test]
fn a_handshake_takes_few_pieces_of_work() {
    let (mut client, mut server) = (connect(peer(1)), acceptor().accept());
    assert_eq!(work(&mut client), Ok(1), "key share");
    let hello = said(&mut client);
    assert_eq!(server.receive(&mut hello.clone()).unwrap().taken, hello.len());
    assert_eq!(work(&mut server), Ok(1), "key exchange and signature");
    let flight = said(&mut server);
    assert_eq!(client.receive(&mut flight.clone()).unwrap().taken, flight.len());
    assert_eq!(work(&mut client), Ok(1), "chain, signature, own signature");
    let finished = said(&mut client);
    assert_eq!(server.receive(&mut finished.clone()).unwrap().taken, finished.len());
    assert_eq!(work(&mut server), Ok(1), "chain, signature, Finished");
    assert!(client.is_established() && server.is_established());
}

#[test]
fn nothing_is_taken_while_work_is_out() {
    let (mut client, mut server) = (connect(peer(1)), acceptor().accept());
    work(&mut client).unwrap();
    let hello = said(&mut client);
    server.receive(&mut hello.clone()).unwrap();
    let mut out = server.work().unwrap();
    assert!(server.is_working() && server.work().is_none());
    assert_eq!(server.appetite(), 0);
    assert_eq!(server.receive(&mut [22, 3, 3]).unwrap().taken, 0);
    out.run();
    server.complete(out).unwrap();
    assert!(server.wants_transmit() && server.appetite() > 0);
}

#[test]
fn data_right_behind_finished_is_not_lost() {
    let (mut client, mut server) = (connect(peer(1)), acceptor().accept());
    work(&mut client).unwrap();
    feed(&mut server, &said(&mut client)).unwrap();
    feed(&mut client, &said(&mut server)).unwrap();
    let mut flight = said(&mut client);
    flight.extend(seal(&mut client, b"GET /ws HTTP/1.1\r\n"));
    flight.extend(seal(&mut client, b"Host: x\r\n\r\n"));
    assert_eq!(feed(&mut server, &flight).unwrap(), b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n");
}

#[test]
fn rustls_clients_of_all_suites_and_versions_are_served() {
    let mut settings = settings();
    settings.tls12 = true;
    let suites = settings.provider.cipher_suites.clone();
    assert_eq!(suites.len(), 6);
    for suite in suites {
        let mut theirs = settings.clone();
        let mut provider = (*settings.provider).clone();
        provider.cipher_suites = vec![suite];
        theirs.provider = Arc::new(provider);
        let mut server = acceptor_with(&settings).accept();
        let mut client = foreign_client(&theirs, Some(peer(2)), &[suite.version()]);
        converse(&mut client, &mut server).unwrap();
        assert_eq!(server.peer(), peer(2).id(), "{suite:?}");
        exchange(&mut client, &mut server);
    }
}

/// Bulk in both directions, then an orderly end.
fn exchange<D: rustls::SideData>(foreign: &mut rustls::ConnectionCommon<D>, channel: &mut Channel) {
    let bulk: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
    let mut heard = Vec::new();
    for part in bulk.chunks(30_000) {
        foreign.writer().write_all(part).unwrap();
        heard.extend(converse(foreign, channel).unwrap());
    }
    assert_eq!(heard, bulk);
    let mut echoed = vec![0; bulk.len()];
    for (part, heard) in bulk.chunks(9_000).zip(echoed.chunks_mut(9_000)) {
        listen(foreign, &seal(channel, part));
        foreign.reader().read_exact(heard).unwrap();
    }
    assert_eq!(echoed, bulk);

    channel.close();
    assert!(!channel.peer_closed());
    foreign.send_close_notify();
    converse(foreign, channel).unwrap();
    assert!(channel.peer_closed());
    assert!(foreign.process_new_packets().unwrap().peer_has_closed());
}

/// rustls' own server, with the session tickets that a node would send too.
fn foreign_server(credential: Credential) -> ServerConnection {
    let settings = settings();
    let verifier = Arc::new(Verifier::new(settings.roots.clone(), settings.provider.clone()));
    let config = ServerConfig::builder_with_details(settings.provider.clone(), settings.clock.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(credential.chain, credential.key)
        .unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

#[test]
fn a_rustls_server_sees_the_identity_derived_for_the_peer() {
    let mut server = foreign_server(peer(3));
    let outside = peer(4).id().unwrap();
    let connector = Connector::new(&settings(), peer(3).id()).unwrap();
    let mut client = connector.connect(Showing::Peer(fleet(), outside));
    converse(&mut server, &mut client).unwrap();
    assert_eq!(client.peer(), peer(3).id());
    let expected = fleet().identity(outside).unwrap().chain;
    assert_eq!(server.peer_certificates().unwrap(), expected);
    exchange(&mut server, &mut client);
}

#[track_caller]
fn accepted(credential: Credential) {
    let id = credential.id();
    let mut server = acceptor().accept();
    converse(&mut foreign_client(&settings(), Some(credential), &[&TLS13]), &mut server).unwrap();
    assert_eq!(server.peer(), id);
}

#[test]
fn what_a_node_accepts_from_clients_is_accepted() {
    accepted(mint::certificate(&authority(), &mint::rsa_key().unwrap(), 1, &Shape::default()).unwrap());
    let largest = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096).unwrap();
    accepted(mint::certificate(&authority(), &largest, 1, &Shape::default()).unwrap());
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ECDSA_P521_SHA512, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        accepted(mint::certificate(&authority(), &key, 1, &Shape::default()).unwrap());
    }
    accepted(shaped(&Shape { extended: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Shape::default() }));
    accepted(shaped(&Shape { usages: vec![KeyUsagePurpose::DigitalSignature], ..Shape::default() }));
    accepted(fleet().identity(peer(5).id().unwrap()).unwrap());
    let mut with_ca = peer(6);
    with_ca.chain.push(root(include_str!("../../../assets/chia_ca.crt")));
    accepted(with_ca);
    let old = include_str!("../../../assets/chia_ca_old.crt");
    let old_authority = Authority::from_pem(old, include_str!("../../../assets/chia_ca.key")).unwrap();
    let mut under_old = mint::peer(&old_authority, 7).unwrap();
    under_old.chain.push(root(old));
    accepted(under_old);
}

fn root(pem: &str) -> CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn what_a_node_accepts_from_servers_is_accepted() {
    let server_only = Shape { extended: vec![ExtendedKeyUsagePurpose::ServerAuth], ..Shape::default() };
    let no_signatures = Shape { usages: vec![KeyUsagePurpose::KeyEncipherment], ..Shape::default() };
    for shape in [Shape::default(), server_only, no_signatures] {
        let mut client = connect(peer(1));
        converse(&mut foreign_server(shaped(&shape)), &mut client).unwrap();
        assert_eq!(client.peer(), shaped(&shape).id());
    }
}
