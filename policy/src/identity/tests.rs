//! Identities are the same bytes for ever: golden files hold them.

use std::path::Path;

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
