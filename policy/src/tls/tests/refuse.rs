//! Handshakes that fail, each with its failure, and an alert where the other side can read one.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use rustls::AlertDescription;
use rustls::version::{TLS12, TLS13};

use super::*;
use crate::tls::channel::HANDSHAKE_BUFFER;
use crate::tls::verify::{Beyond, CERTIFICATE_MAX, check_limits};

/// A client that shows `credential` is refused for `failure`, and hears `alert`.
#[track_caller]
fn refused(credential: Option<Credential>, failure: Failure, alert: AlertDescription) {
    let mut server = acceptor().accept();
    let mut client = foreign_client(&settings(), credential, &[&TLS13]);
    assert_eq!(converse(&mut client, &mut server), Err(failure));
    assert_eq!(server.failure(), Some(failure));
    assert_eq!(server.peer(), None);
    assert_eq!(client.process_new_packets().unwrap_err(), Error::AlertReceived(alert));
}

#[test]
fn clients_without_a_proper_certificate_are_refused() {
    use AlertDescription as A;
    use Failure as F;
    refused(None, F::NoCertificate, A::CertificateRequired);
    refused(Some(foreign_ca_peer()), F::Untrusted, A::UnknownCA);
    refused(
        Some(shaped(&Shape { until: (2026, 11, 1), ..Shape::default() })),
        F::Expired,
        A::CertificateExpired,
    );
    refused(
        Some(shaped(&Shape { from: (2027, 1, 1), ..Shape::default() })),
        F::Expired,
        A::CertificateExpired,
    );
    refused(Some(shaped(&Shape { ca: true, ..Shape::default() })), F::Untrusted, A::UnknownCA);
    for wrong in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::CodeSigning] {
        let shape = Shape { extended: vec![wrong], ..Shape::default() };
        refused(Some(shaped(&shape)), F::Untrusted, A::UnsupportedCertificate);
    }
    let shape = Shape { usages: vec![KeyUsagePurpose::KeyEncipherment], ..Shape::default() };
    refused(Some(shaped(&shape)), F::Untrusted, A::CertificateUnknown);
}

/// The Chia CA's name with another key behind it.
fn foreign_ca_peer() -> Credential {
    let key = KeyPair::generate().unwrap();
    let ca = include_str!("../../../assets/chia_ca.crt");
    let foreign = Authority::from_pem(ca, &key.serialize_pem()).unwrap();
    mint::peer(&foreign, 1).unwrap()
}

#[test]
fn a_leaf_under_a_leaf_is_refused() {
    let key = KeyPair::generate().unwrap();
    let middle = mint::certificate(&authority(), &key, 1, &Shape::default()).unwrap();
    let params = CertificateParams::default();
    let leaf_key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&middle.chain[0], key).unwrap();
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    let chain = vec![leaf.der().clone(), middle.chain[0].clone()];
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into();
    refused(Some(Credential { chain, key }), Failure::Untrusted, AlertDescription::UnknownCA);
}

#[test]
fn chains_and_keys_beyond_the_limits_are_refused_unverified() {
    // None of these chains to anything: that it is not what they are refused for shows that nothing was verified.
    let foreign = foreign_ca_peer();
    let leaf = &foreign.chain[0];
    let beyond = |intermediates: &[CertificateDer<'_>]| check_limits(leaf, intermediates).unwrap_err();
    assert_eq!(beyond(&[leaf.clone(), leaf.clone(), leaf.clone()]), Beyond::Depth);
    assert_eq!(beyond(&[vec![0x30; CERTIFICATE_MAX + 1].into()]), Beyond::Size);
    assert_eq!(beyond(&[vec![0x30; 100].into()]), Beyond::Encoding);
    assert_eq!(beyond(&[leaf[..leaf.len() - 1].to_vec().into()]), Beyond::Encoding);
    assert_eq!(beyond(&[[leaf, &b"\0"[..]].concat().into()]), Beyond::Encoding);
    let mut deep = foreign_ca_peer();
    deep.chain = vec![deep.chain[0].clone(); 4];
    refused(Some(deep), Failure::BadCertificate, AlertDescription::CertificateUnknown);

    assert_eq!(check_limits(&rsa_certificate(1024, &[1, 0, 1]), &[]), Err(Beyond::Key));
    assert_eq!(check_limits(&rsa_certificate(2048, &[1, 0, 1]), &[]), Ok(()));
    assert_eq!(check_limits(&rsa_certificate(4096, &[3]), &[]), Ok(()));
    assert_eq!(check_limits(&rsa_certificate(4104, &[1, 0, 1]), &[]), Err(Beyond::Key));
    assert_eq!(check_limits(&rsa_certificate(16_384, &[1, 0, 1]), &[]), Err(Beyond::Key));
    assert_eq!(check_limits(&rsa_certificate(2048, &[1, 0, 0, 0, 1]), &[]), Err(Beyond::Key));
}

/// A certificate with an RSA key of `bits` ones; the signature is by another key, of no meaning.
fn rsa_certificate(bits: usize, exponent: &[u8]) -> CertificateDer<'static> {
    struct Rsa(Vec<u8>);
    impl rcgen::PublicKeyData for Rsa {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_RSA_SHA256
        }
    }
    let modulus = vec![0xff; bits / 8];
    let integer = |bytes: &[u8]| {
        let lead: &[u8] = if bytes[0] & 0x80 != 0 { &[0] } else { &[] };
        der(2, &[lead, bytes].concat())
    };
    let public = Rsa(der(0x30, &[integer(&modulus), integer(exponent)].concat()));
    let key = KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(CertificateParams::default(), key);
    CertificateParams::default().signed_by(&public, &issuer).unwrap().der().clone()
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    match content.len() {
        short @ 0..128 => [&[tag, short as u8], content].concat(),
        _ => [&[tag, 0x82, length[0], length[1]], content].concat(),
    }
}

#[test]
fn tls_1_2_is_refused_unless_configured() {
    let mut server = acceptor().accept();
    let mut client = foreign_client(&settings(), Some(peer(1)), &[&TLS12]);
    assert_eq!(converse(&mut client, &mut server), Err(Failure::Incompatible));
    let heard = client.process_new_packets().unwrap_err();
    assert_eq!(heard, Error::AlertReceived(AlertDescription::ProtocolVersion));
}

#[test]
fn nodes_that_are_not_what_they_should_be_are_refused() {
    let refusal = |credential: Credential, pinned| {
        let mut server = Acceptor::new(&settings(), credential).unwrap().accept();
        let connector = Connector::new(&settings(), pinned).unwrap();
        let mut client = connector.connect(Showing::Credential(Arc::new(peer(1))));
        shake(&mut client, &mut server, || usize::MAX).unwrap_err()
    };
    let client_only = Shape { extended: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Shape::default() };
    assert_eq!(refusal(shaped(&client_only), None), Failure::Untrusted);
    assert_eq!(refusal(foreign_ca_peer(), None), Failure::Untrusted);
    assert_eq!(refusal(peer(2), peer(3).id()), Failure::WrongIdentity);
    let expired = Shape { until: (2026, 11, 1), ..Shape::default() };
    assert_eq!(refusal(shaped(&expired), None), Failure::Expired);
}

#[test]
fn first_bytes_that_are_not_tls_are_refused_at_once() {
    for (bytes, failure) in [
        (&b"G"[..], Failure::PlainHttp),
        (b"POST / HTTP/1.1\r\n", Failure::PlainHttp),
        (b"\x00", Failure::Garbage),
        (b"SSH-2.0-x", Failure::Garbage),
        (b"\x16\x02", Failure::Garbage),
        (b"\x16\x03\x01\xff\xff", Failure::TooLarge),
    ] {
        let mut server = acceptor().accept();
        assert_eq!(server.receive(&mut bytes.to_vec()).unwrap_err(), failure, "{bytes:?}");
        assert!(server.work().is_none());
        assert_eq!(server.receive(&mut []).unwrap_err(), failure);
    }
    let mut server = acceptor().accept();
    assert_eq!(feed(&mut server, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01x"), Err(Failure::Protocol));
    assert_eq!(feed(&mut acceptor().accept(), b"\x15\x03\x03\x00\x02\x02\x28"), Err(Failure::Alert));
}

#[test]
fn a_first_flight_without_end_is_refused_within_its_limit() {
    // A ClientHello of 60,000 bytes, in records of 1,000.
    let mut server = acceptor().accept();
    let mut hello = vec![0; 60_000];
    hello[..4].copy_from_slice(&[1, 0, 0xea, 0x5c]);
    let mut sent = 0;
    let refusal = hello.chunks(1000).find_map(|part| {
        let mut record = vec![22, 3, 1, (part.len() >> 8) as u8, part.len() as u8];
        record.extend_from_slice(part);
        sent += record.len();
        feed(&mut server, &record).err()
    });
    assert_eq!(refusal, Some(Failure::TooLarge));
    assert!(sent <= HANDSHAKE_BUFFER + 2000, "{sent}");
}

#[test]
fn a_hello_in_crumbs_is_refused() {
    let mut client = connect(peer(1));
    work(&mut client).unwrap();
    let hello = said(&mut client);
    let mut server = acceptor().accept();
    let refusal = hello[5..].iter().find_map(|byte| feed(&mut server, &[22, 3, 1, 0, 1, *byte]).err());
    assert_eq!(refusal, Some(Failure::TooLarge));
}

#[test]
fn work_that_is_not_ours_breaks_the_channel() {
    let (mut one, mut other) = (connect(peer(1)), connect(peer(2)));
    let mut work = one.work().unwrap();
    work.run();
    assert_eq!(other.complete(work), Err(Failure::Internal));
    assert_eq!(other.failure(), Some(Failure::Internal));
}
