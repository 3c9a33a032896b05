//! Broken input of every kind never panics, and never gets anybody in.

use proptest::prelude::*;

use super::*;
use crate::tls::verify::{Verifier, check_limits};
use rustls::server::danger::ClientCertVerifier;

/// One change to a byte string.
#[derive(Clone, Debug)]
enum Change {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), 1u8..).prop_map(|(at, bits)| Change::Flip(at, bits)),
        1 => any::<prop::sample::Index>().prop_map(Change::Cut),
        1 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Change::Insert(at, new)),
        1 => any::<prop::sample::Index>().prop_map(Change::Remove),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        match change {
            Change::Flip(at, bits) => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Change::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Change::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Change::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_changed_certificate_is_refused(changes in prop::collection::vec(change(), 1..4)) {
        static PEER: LazyLock<Credential> = LazyLock::new(|| peer(1));
        let genuine = &PEER.chain[0];
        let broken = CertificateDer::from(changed(genuine.to_vec(), &changes));
        prop_assume!(broken != *genuine);
        let settings = settings();
        let verifier = Verifier::new(settings.roots, settings.provider);
        let now = UnixTime::since_unix_epoch(NOW);
        let _ = check_limits(&broken, &[]);
        prop_assert!(verifier.verify_client_cert(&broken, &[], now).is_err());
        prop_assert!(verifier.verify_client_cert(&broken, std::slice::from_ref(genuine), now).is_err());
    }

    #[test]
    fn noise_never_gets_in(noise in prop::collection::vec(any::<u8>(), 0..2000), tls in any::<bool>()) {
        let mut server = acceptor().accept();
        let framed = if tls {
            let length = (noise.len() as u16).to_be_bytes();
            [&[22, 3, 1, length[0], length[1]], &noise[..]].concat()
        } else {
            noise
        };
        let _ = feed(&mut server, &framed);
        prop_assert!(!server.is_established());
    }

    #[test]
    fn a_changed_hello_never_panics(changes in prop::collection::vec(change(), 1..4)) {
        let mut client = connect(peer(1));
        work(&mut client).unwrap();
        let mut server = acceptor().accept();
        let genuine = said(&mut client);
        let broken = changed(genuine.clone(), &changes);
        prop_assume!(!broken.starts_with(&genuine) && differs_in_substance(&genuine, &broken));
        let _ = feed(&mut server, &broken);
        prop_assert!(!server.is_established());
        let _ = feed(&mut client, &said(&mut server));
        prop_assert!(!client.is_established());
    }

    #[test]
    fn a_changed_flight_never_gets_in(changes in prop::collection::vec(change(), 1..3), down in any::<bool>()) {
        let (mut client, mut server) = (connect(peer(1)), acceptor().accept());
        work(&mut client).unwrap();
        feed(&mut server, &said(&mut client)).unwrap();
        let flight = said(&mut server);
        let (to, genuine) = if down {
            (&mut client, flight)
        } else {
            feed(&mut client, &flight).unwrap();
            (&mut server, said(&mut client))
        };
        let broken = changed(genuine.clone(), &changes);
        prop_assume!(!broken.starts_with(&genuine) && differs_in_substance(&genuine, &broken));
        let _ = feed(to, &broken);
        prop_assert!(!to.is_established());
    }
}

/// Not only in what nobody looks at: the change-cipher-spec and the version in a record's header are ignored.
fn differs_in_substance(one: &[u8], other: &[u8]) -> bool {
    fn protected(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut bodies = Vec::new();
        while let [kind, _, _, high, low, rest @ ..] = bytes {
            let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
            if *kind != 20 {
                bodies.push(&rest[..length]);
            }
            bytes = &rest[length..];
        }
        bodies
    }
    protected(one) != protected(other)
}
