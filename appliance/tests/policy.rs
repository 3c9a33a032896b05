//! The policy in the lab's whole world: one that changes under load loses no frame and no byte, and what it states is done.

#![cfg(feature = "lab")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hedgerow::bans::{Bans, Change, Rules as BanRules, Setup};
use hedgerow::lab::{Government, governed, sharded};
use hedgerow::rules::Policy;
use hedgerow::rules::slots::Slots;
use hedgerow_dataplane::admit::Quotas;
use hedgerow_dataplane::wire::{Address, Prefix};
use hedgerow_lab::{Options, Summary};
use hedgerow_policy::Reason;
use hedgerow_policy::chia::{NodeType, Schema};
use hedgerow_policy::rules::{Action, Enforcement, Friends, Layer, ReasonRule, Rules, Stated};

/// Prefixes of a long list, from where nobody comes.
const PREFIXES: u32 = 100_000;

fn bans(shards: u16) -> Arc<Bans> {
    let rules = BanRules { most: 1_000, ..BanRules::default() };
    let tell = Box::new(|_: &Change| {});
    Bans::open(Setup { rules, file: None, close: true, shards, tell, clock: || 1_800_000_000 }).unwrap()
}

fn policy(rules: Rules) -> Policy {
    Policy {
        path: None,
        text: String::new(),
        rules: Arc::new(rules),
        deny: Vec::new(),
        allow: Default::default(),
        friends: Arc::default(),
        quotas: None,
        slots: vec![Slots::default()],
        fingerprint: 0,
    }
}

fn listed(from: u32) -> Policy {
    let prefix = |n: u32| Prefix::of(Address::from_v4((0xf000_0000 | (from + n) << 8).to_be_bytes()), 24);
    Policy { deny: (0..PREFIXES).map(prefix).collect(), ..policy(Rules::default()) }
}

fn options(seconds: u64) -> Options {
    Options { seconds, seed: 5, json: false, paced: false, terminal: false }
}

fn run(
    shards: u16,
    seconds: u64,
    bans: Arc<Bans>,
    policies: Vec<Policy>,
    every: Duration,
    now: bool,
) -> Summary {
    let policies = policies.into_iter().map(Arc::new).collect();
    let government = Government { bans, policies, every, now };
    let mut story = Vec::new();
    hedgerow_lab::run(&options(seconds), &mut governed(shards, Some(government)), &mut story)
        .expect("a world")
}

fn ruled(seconds: u64, policy: Policy) -> (Summary, Arc<Bans>) {
    let bans = bans(1);
    (run(1, seconds, bans.clone(), vec![policy], Duration::from_secs(3_600), false), bans)
}

/// With a list of a hundred thousand prefixes put in the place of another one ten times a second, every frame is the same as
/// without: none is lost, none comes later, no byte is other.
#[test]
fn a_reload_under_load_loses_no_frame_and_no_byte() {
    for shards in [1, 2] {
        let calm = hedgerow_lab::run(&options(7), &mut sharded(shards), &mut Vec::new()).expect("a world");
        let (policies, every) = (vec![listed(0), listed(70_000)], Duration::from_millis(100));
        let busy = run(shards, 7, bans(shards), policies, every, false);
        assert!(busy.is_good() && busy.frames_in > 10_000, "{busy:#?}");
        assert_eq!(busy, calm, "{shards} shards");
    }
}

/// The same with all sessions that stand told of it each time, which looks at each of them sooner than it asked for: the
/// same peers are served, and the same messages pass.
#[test]
fn sessions_that_stand_take_a_policy_over_and_go_on() {
    let calm = hedgerow_lab::run(&options(7), &mut sharded(1), &mut Vec::new()).expect("a world");
    let (policies, every) = (vec![listed(0), listed(70_000)], Duration::from_millis(100));
    let busy = run(1, 7, bans(1), policies, every, true);
    let passed = |summary: &Summary| {
        let Summary { sessions_ok, messages_forwarded, sessions_ended, .. } = summary;
        (*sessions_ok, *messages_forwarded, sessions_ended.clone())
    };
    assert!(busy.is_good(), "{busy:#?}");
    assert_eq!(passed(&busy), passed(&calm));
}

#[test]
fn quotas_hold_from_the_policy_that_states_them() {
    // A thousandth of what everybody had before: of newcomers from one network few are admitted.
    let few = Quotas {
        per_source: 1,
        per_24: 1,
        per_16_percent: 1,
        v6_64: 1,
        v6_48: 1,
        source_per_minute: 1,
        prefix_per_minute: 1,
        sessions_per_second: 0,
        source_bytes: 0,
        prefix_bytes: 0,
    };
    let (usual, _) = ruled(5, policy(Rules::default()));
    let (tight, _) = ruled(5, Policy { quotas: Some(few), ..policy(Rules::default()) });
    let refused = |summary: &Summary| {
        let names = ["session_rate", "source_quota", "prefix_quota"];
        names.iter().filter_map(|name| summary.frames_refused.get(name)).sum::<u64>()
    };
    assert!(refused(&tight) > refused(&usual), "{:?} {:?}", tight.frames_refused, usual.frames_refused);
}

#[test]
fn slots_of_a_kind_are_the_most_and_friends_have_their_own() {
    let none = || Slots { kinds: [(NodeType::FullNode, 0)].into(), friends: 0 };
    let full = Policy { slots: vec![none()], ..policy(Rules::default()) };
    let (summary, _) = ruled(3, full);
    assert_eq!(summary.sessions_ok, 0, "{summary:#?}");
    assert!(summary.sessions_ended["slots_taken"] > 5, "{summary:#?}");
    let everybody = ["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).to_vec();
    let friends = Friends { ids: Default::default(), networks: everybody };
    let rules = Rules::new(Schema::embedded(), Layer::default(), Vec::new(), friends);
    let (summary, _) = ruled(3, Policy { slots: vec![none()], ..policy(rules) });
    assert!(summary.sessions_ok > 5 && !summary.sessions_ended.contains_key("slots_taken"), "{summary:#?}");
    // They are inspected all the same.
    assert!(summary.sessions_ended.contains_key("not_for_this_sender"), "{summary:#?}");
}

#[test]
fn an_action_of_the_policy_bans_and_in_shadow_nobody() {
    let ban = Stated { value: Action::Ban(Duration::from_secs(3_600)), line: 1 };
    let rule = ReasonRule { action: Some(ban), shadow: None };
    let layer = Layer { reasons: [(Reason::NotForThisSender, rule)].into(), ..Layer::default() };
    let rules = || Rules::new(Schema::embedded(), layer.clone(), Vec::new(), Friends::default());
    let (summary, bans) = ruled(3, policy(rules()));
    assert!(summary.sessions_ended.contains_key("not_for_this_sender"), "{summary:#?}");
    // A thread of its own sets them.
    let until = Instant::now() + Duration::from_secs(10);
    while bans.all().is_empty() && Instant::now() < until {
        std::thread::yield_now();
    }
    assert!(bans.all().iter().all(|ban| ban.reason == "not_for_this_sender") && !bans.all().is_empty());

    let full = vec![Slots { kinds: [(NodeType::FullNode, 0)].into(), friends: 0 }];
    let shadow = Policy { slots: full, ..policy(rules().enforced(Enforcement::Shadow)) };
    let (summary, bans) = ruled(3, shadow);
    assert!(summary.sessions_ok > 5, "{summary:#?}");
    for passed in ["not_for_this_sender", "slots_taken"] {
        assert!(!summary.sessions_ended.contains_key(passed), "{passed} in {summary:#?}");
    }
    // What cannot be passed ends as ever.
    for ended in ["tls_no_certificate", "ws_unmasked", "envelope_malformed", "chia_wrong_network"] {
        assert!(summary.sessions_ended.contains_key(ended), "{ended} in {summary:#?}");
    }
    assert_eq!(bans.all(), []);
}
