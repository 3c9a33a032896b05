//! The book, its file, and the bans of a running appliance.

use std::sync::Mutex;

use hedgerow_dataplane::wire::Address;
use hedgerow_policy::Reason;

use super::*;

const NOW: u64 = 1_793_534_400;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ban(text: &str, until: Option<u64>) -> Ban {
    Ban { prefix: prefix(text), reason: "test".into(), origin: Origin::Operator, since: NOW, until, hits: 0 }
}

fn rules() -> Rules {
    Rules {
        protected: vec![
            (prefix("10.0.1.11"), "the node a".into()),
            (prefix("198.51.100.8/29"), "a friend".into()),
        ],
        most: 4,
        policy: true,
        first: 600,
        longest: 86_400,
    }
}

#[test]
fn nodes_and_friends_are_never_banned_by_anybody() {
    let mut book = Book::new(rules());
    let node: Address = prefix("10.0.1.11").address();
    for text in ["10.0.1.11", "10.0.0.0/16", "198.51.100.9", "198.51.100.0/24"] {
        assert!(matches!(book.set(NOW, ban(text, None)), Err(Refusal::Protected(..))), "{text}");
    }
    assert_eq!(
        book.set(NOW, ban("10.0.1.0/24", None)).unwrap_err().to_string(),
        "it would concern the node a (10.0.1.11/32), which is never banned; ban smaller prefixes around it"
    );
    for source in [node, prefix("198.51.100.9").address()] {
        (0..10).for_each(|_| assert!(!book.complain(NOW, source, Reason::WsUnmasked)));
    }
    assert_eq!((book.bans().count(), book.watched()), (0, 0));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let mut book = Book::new(rules());
    assert_eq!(book.set(NOW, ban("0.0.0.0/0", None)), Err(Refusal::TooWide(prefix("0.0.0.0/0"))));
    assert_eq!(book.set(NOW, ban("1.2.3.4", Some(NOW))), Err(Refusal::Over));
    for reason in ["\u{1b}[2J".to_owned(), "a\nb".to_owned(), "\u{202e}txt".to_owned(), "x".repeat(200)] {
        assert_eq!(book.set(NOW, Ban { reason, ..ban("1.2.3.4", None) }), Err(Refusal::BadReason));
    }
    for host in 0..4 {
        assert_eq!(book.set(NOW, ban(&format!("1.2.3.{host}"), None)), Ok(()));
    }
    assert_eq!(book.set(NOW, ban("1.2.3.9", None)), Err(Refusal::Full(4)));
    assert_eq!(book.set(NOW, ban("1.2.3.1", Some(NOW + 9))), Ok(()), "one that is there can be set anew");
}

#[test]
fn only_repeated_offences_ban_and_the_operator_has_the_last_word() {
    let mut book = Book::new(rules());
    let source = prefix("203.0.113.7").address();
    assert!(!book.complain(NOW, source, Reason::WsUnmasked));
    assert!(book.complain(NOW, source, Reason::EnvelopeMalformed));
    let set = book.bans().next().unwrap().clone();
    assert_eq!(
        (set.until, set.origin, set.reason.as_str()),
        (Some(NOW + 600), Origin::Policy, "envelope_malformed")
    );
    book.expire(NOW + 600);
    assert_eq!(book.bans().count(), 0);
    // Again: six times as long.
    let now = NOW + 700;
    book.complain(now, source, Reason::WsUnmasked);
    assert!(book.complain(now, source, Reason::WsUnmasked));
    assert_eq!(book.bans().next().unwrap().until, Some(now + 3_600));
    // Lifting forgives.
    assert!(book.lift(prefix("203.0.113.7")).is_some());
    assert_eq!(book.watched(), 0);
    // What the operator sets the policy does not shorten.
    book.set(now, ban("203.0.113.7", None)).unwrap();
    book.complain(now, source, Reason::WsUnmasked);
    book.complain(now, source, Reason::WsUnmasked);
    assert_eq!(book.bans().next().unwrap().until, None);
    // IPv6 sources count as their /64.
    let v6 = prefix("2001:db8:1:2::3").address();
    book.complain(now, v6, Reason::WsUnmasked);
    book.complain(now, v6, Reason::WsUnmasked);
    assert!(book.bans().any(|ban| ban.prefix == prefix("2001:db8:1:2::/64")));
    let mut off = Book::new(Rules { policy: false, ..rules() });
    assert!((0..9).all(|_| !off.complain(now, source, Reason::WsUnmasked)));
}

#[test]
fn changes_are_told_once() {
    let mut book = Book::new(rules());
    book.set(NOW, ban("1.2.3.4", Some(NOW + 10))).unwrap();
    book.set(NOW, ban("1.2.3.4", Some(NOW + 10))).unwrap();
    book.expire(NOW + 9);
    assert_eq!(book.take_changes(), [Change::Set(ban("1.2.3.4", Some(NOW + 10)))]);
    book.expire(NOW + 10);
    assert_eq!(book.take_changes(), [Change::Lifted(ban("1.2.3.4", Some(NOW + 10)))]);
    assert_eq!(book.take_changes(), []);
}

fn open(file: Option<PathBuf>, told: &'static Mutex<Vec<String>>) -> Arc<Bans> {
    let tell = move |change: &Change| {
        let (what, ban) = match change {
            Change::Set(ban) => ("+", ban),
            Change::Lifted(ban) => ("-", ban),
        };
        told.lock().unwrap().push(format!("{what}{}", ban.prefix));
    };
    let setup = Setup { rules: rules(), file, close: true, shards: 1, tell: Box::new(tell), clock: || NOW };
    Bans::open(setup).unwrap()
}

#[test]
fn bans_outlive_the_process_and_hits_go_on() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bans.json");
    let source = prefix("203.0.113.9").address();
    let bans = open(Some(path.clone()), &TOLD);
    let version = bans.version();
    bans.change(|book, now| book.set(now, ban("203.0.113.0/24", None))).unwrap().unwrap();
    assert!(bans.version() > version);
    assert!((0..3).all(|_| bans.list().refuses(source, 0)));
    // Another ban makes another list; what was counted stays.
    bans.change(|book, now| book.set(now, ban("1.2.3.4", Some(NOW + 60)))).unwrap().unwrap();
    assert!(bans.list().refuses(source, 0));
    let hits = |bans: &Bans| bans.all().iter().map(|ban| ban.hits).sum::<u64>();
    assert_eq!((hits(&bans), bans.status().hits), (4, 4));
    bans.change(|book, _| book.lift(prefix("1.2.3.4"))).unwrap().unwrap();
    assert_eq!(hits(&bans), 4);
    drop(bans);
    let again = open(Some(path), &TOLD);
    assert_eq!(again.all().len(), 1);
    assert!(again.list().covers(source) && hits(&again) == 4);
    assert_eq!(*TOLD.lock().unwrap(), ["+203.0.113.0/24", "+1.2.3.4/32", "-1.2.3.4/32"]);
}

#[test]
fn a_corrupt_file_is_set_aside_under_a_name_of_its_own() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bans.json");
    for (round, text) in ["{ not json", "{\"version\":9,\"bans\":[],\"offenders\":[]}"].iter().enumerate() {
        std::fs::write(&path, text).unwrap();
        let bans = open(Some(path.clone()), &TOLD);
        assert_eq!(bans.all(), []);
        let aside = if round == 0 { "bans.json.bad" } else { "bans.json.bad.1" };
        assert_eq!(std::fs::read_to_string(directory.path().join(aside)).unwrap(), *text);
        assert!(!path.exists());
        // And a new one can be written in its place.
        bans.change(|book, now| book.set(now, ban("1.2.3.4", None))).unwrap().unwrap();
        assert!(matches!(file::load(&path).unwrap(), file::Loaded::Kept(kept) if kept.bans.len() == 1));
    }
}

#[test]
fn a_file_that_cannot_be_written_is_no_reason_to_let_anybody_in() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let directory = tempfile::tempdir().unwrap();
    let bans = open(Some(directory.path().join("gone/bans.json")), &TOLD);
    assert!(bans.change(|book, now| book.set(now, ban("1.2.3.4", None))).is_err());
    assert!(bans.list().covers(prefix("1.2.3.4").address()));
}

#[test]
fn complaints_of_shards_reach_the_book() {
    static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let bans = open(None, &TOLD);
    let source: IpAddr = "203.0.113.7".parse().unwrap();
    bans.complain(source, Reason::Finished);
    bans.complain(source, Reason::WsUnmasked);
    bans.complain(source, Reason::WsUnmasked);
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !bans.list().covers(source.into()) {
        assert!(std::time::Instant::now() < until, "the keeper does not keep");
        std::thread::yield_now();
    }
}
