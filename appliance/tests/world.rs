//! The real core in the lab's whole world: good peers are served, nobody else is, and a seed repeats every frame.

#![cfg(feature = "lab")]

use hedgerow_lab::{Options, Summary, seeds};

fn run(seconds: u64, seed: u64) -> Summary {
    run_with(1, seconds, seed)
}

fn run_with(shards: u16, seconds: u64, seed: u64) -> Summary {
    let options = Options { seconds, seed, json: false, paced: false, terminal: false };
    let mut story = Vec::new();
    let summary =
        hedgerow_lab::run(&options, &mut hedgerow::lab::sharded(shards), &mut story).expect("a world");
    println!("{}", String::from_utf8_lossy(&story));
    summary
}

#[test]
fn good_peers_are_served_while_everybody_else_is_turned_away() {
    let summary = run(6, 1);
    assert!(summary.is_good(), "{summary:#?}");
    assert!(summary.sessions_ok >= 10 && summary.messages_forwarded > 100, "{summary:#?}");
    assert_eq!((summary.node_unproven, summary.stranger_bytes), (0, 0));
    assert!(summary.unfinished_bytes > 0, "nobody was on the way in: nothing was measured");
    for reason in [
        "tls_no_certificate",
        "tls_expired",
        "http_path",
        "chia_no_handshake",
        "chia_wrong_network",
        "chia_second_handshake",
        "not_for_this_sender",
        "envelope_malformed",
        "ws_unmasked",
    ] {
        assert!(summary.sessions_ended.contains_key(reason), "{reason} in {:#?}", summary.sessions_ended);
    }
    for reason in ["bad_cookie", "awaiting_data", "not_client_hello"] {
        assert!(summary.frames_refused.contains_key(reason), "{reason} in {:#?}", summary.frames_refused);
    }
}

#[test]
fn every_seed_ends_well() {
    let bad: Vec<Summary> =
        seeds::from_environment(6).map(|seed| run(5, seed)).filter(|summary| !summary.is_good()).collect();
    assert!(bad.is_empty(), "repeat one with SEED=n: {bad:#?}");
}

#[test]
fn a_seed_repeats_every_frame() {
    let (one, two) = (run(3, 7), run(3, 7));
    assert_eq!(one, two);
    assert_ne!(one.fingerprint, run(3, 8).fingerprint);
}

/// Several shards behind cards that know nothing of them: the same promises, and a seed repeats every frame.
#[test]
fn several_shards_keep_what_one_promises() {
    for shards in [2, 4] {
        for seed in seeds::from_environment(2) {
            let summary = run_with(shards, 4, seed);
            assert!(summary.is_good(), "{shards} shards: {summary:#?}");
            assert_eq!((summary.node_unproven, summary.stranger_bytes), (0, 0));
            assert!(!summary.frames_refused.contains_key("handover_full"), "{summary:#?}");
            assert!(summary.frames_handed_over > 100, "{summary:#?}");
        }
        let (one, two) = (run_with(shards, 3, 7), run_with(shards, 3, 7));
        assert_eq!(one, two);
        assert_ne!(one.fingerprint, run(3, 7).fingerprint);
    }
}
