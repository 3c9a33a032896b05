//! Identities are the same bytes for ever: golden files hold them.

use std::path::Path;

use sha2::Digest;

use super::*;
use crate::tls::mint;

const SECRET: &[u8; 32] = b"a fleet secret of thirty-two byt";

fn fleet() -> Arc<Fleet> {
    Fleet::new(SECRET, &Authority::chia().unwrap()).unwrap()
}

fn service(fleet: &Fleet, address: &str, port: u16) -> Credential {
    fleet.service(&Authority::chia().unwrap(), address.parse().unwrap(), port).unwrap()
}

fn outward(fleet: &Fleet, node: &str) -> Credential {
    fleet.outward(&Authority::chia().unwrap(), node).unwrap()
}

/// Compares with `tests/golden/NAME.der`; writes it first if `HEDGEROW_GOLDEN=write` says so.
#[track_caller]
fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension("der");
    if std::env::var("HEDGEROW_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, bytes).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert!(kept == bytes, "{name} changed: every node would see every peer as a stranger");
}

#[test]
fn keys_are_those_of_another_library() {
    use p256::pkcs8::EncodePrivateKey;
    let order: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let near = |last: u8| [&order[..31], &[last]].concat();
    let low = |last: u8| [&[0; 31][..], &[last]].concat();
    let some = (0..64u8).map(|n| Sha256::digest([n]).to_vec());
    for scalar in some.chain([low(0), low(1), near(0x50), near(0x51), near(0x52), vec![0xff; 32]]) {
        let theirs = p256::SecretKey::from_slice(&scalar).ok().map(|key| {
            let public = key.public_key().to_sec1_bytes().to_vec();
            (public, key.to_pkcs8_der().unwrap().as_bytes().to_vec())
        });
        assert_eq!(pair(&scalar), theirs, "{scalar:02x?}");
    }
}

#[test]
fn identities_never_change() {
    let fleet = fleet();
    golden("intermediate", fleet.intermediate());
    for (name, peer) in [("leaf-00", 0x00), ("leaf-5a", 0x5a), ("leaf-ff", 0xff)] {
        let credential = fleet.identity(PeerId([peer; 32])).unwrap();
        golden(name, &credential.chain[0]);
        assert_eq!(credential.chain[1], *fleet.intermediate());
    }
    golden("service", &service(&fleet, "192.0.2.1", 8444).chain[0]);
    golden("outward", &outward(&fleet, "node-1").chain[0]);
}

#[test]
fn identities_differ_by_secret_peer_address_node_and_purpose() {
    let fleet = fleet();
    let other = Fleet::new(&[9; 40], &Authority::chia().unwrap()).unwrap();
    let ids = [
        fleet.identity(PeerId([1; 32])).unwrap().id(),
        fleet.identity(PeerId([2; 32])).unwrap().id(),
        other.identity(PeerId([1; 32])).unwrap().id(),
        service(&fleet, "192.0.2.1", 8444).id(),
        service(&fleet, "192.0.2.1", 8445).id(),
        service(&fleet, "2001:db8::1", 8444).id(),
        outward(&fleet, "node-1").id(),
        outward(&fleet, "node-2").id(),
        outward(&other, "node-1").id(),
    ];
    for (i, id) in ids.iter().enumerate() {
        assert!(id.is_some() && !ids[i + 1..].contains(id));
    }
    assert_ne!(fleet.intermediate(), other.intermediate());
}

#[test]
fn short_secrets_are_refused() {
    let error = Fleet::new(&[1; SECRET_MIN - 1], &Authority::chia().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "fleet secret: 31 bytes, at least 32 are needed");
}

#[test]
fn minted_peers_are_reproducible() {
    let authority = Authority::chia().unwrap();
    let [one, again, two] = [1, 1, 2].map(|seed| mint::peer(&authority, seed).unwrap());
    assert_eq!(one.chain, again.chain);
    assert_ne!(one.id(), two.id());
}
