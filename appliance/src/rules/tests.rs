//! The policy from a text to what is in force. Each case under `cases/` is a file that an operator might have written and,
//! after a line of dashes, the report. `UPDATE_CASES=1` writes the reports anew.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hedgerow_policy::chia::{Minute, NodeType, Schema, Tables, Version, number};
use hedgerow_policy::rules::{Action, Who};
use hedgerow_policy::{PeerId, Reason};

use super::history::By;
use super::keeper::{Keeper, Setup, Wish};
use super::swap::Reader;
use super::witness::{What, Witness};
use super::*;
use crate::bans::{self, Bans};
use crate::config::{Config, PolicyFiles};

const RULE: &str = "\n-----\n";

/// A configuration with the listeners `peers` and `wallets`.
fn config() -> Config {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/proxy/hedgerow.toml")).unwrap();
    let second = "[[listener]]\nname = \"wallets\"\nport = \"public\"\nlocal_port = 8447\nprotocol = \"chia\"\n\
                  network = \"mainnet\"\ntypes = [\"wallet\"]\npool = \"front\"\n[pool.front]";
    let text = text.replace("[pool.front]", second);
    Config::parse("hedgerow.toml", &text).unwrap_or_else(|report| panic!("{}", report.render(false))).0
}

fn parse(text: &str) -> Result<Policy, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules/cases/policy.toml");
    match file::parse(&config(), &path, text) {
        Ok((policy, _)) => Ok(policy),
        Err(report) => Err(Report { path: "policy.toml".into(), ..report }.render(false)),
    }
}

fn who() -> Who {
    let version = Version::parse("2.7.5");
    let id = Some(PeerId([7; 32]));
    Who { listener: 0, source: [192, 0, 2, 7].into(), id, kind: Some(NodeType::FullNode), version }
}

#[test]
fn mistakes_are_reported_with_place_expectation_and_suggestion() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules/cases");
    let paths = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(".case")).collect();
    paths.sort();
    assert!(paths.len() >= 12, "{} cases", paths.len());
    for path in paths {
        let case = fs::read_to_string(&path).unwrap();
        let (text, expected) = case.split_once(RULE).unwrap_or((case.trim_end(), ""));
        let report = parse(text).err().unwrap_or_default();
        let report = report.replace(&format!("{}/", directory.display()), "");
        if std::env::var_os("UPDATE_CASES").is_some() {
            fs::write(&path, format!("{text}{RULE}{report}")).unwrap();
        } else {
            assert_eq!(report, expected, "{}", path.display());
        }
    }
}

#[test]
fn without_a_file_everything_is_as_a_node_does_it() {
    let standard = Policy::standard(&config());
    let facts = standard.rules.schema().message(number::REQUEST_BLOCKS).unwrap();
    let tables = Tables { second: true, third: false };
    assert_eq!(standard.rules.table(&who()).from_peer().limit(tables, facts.number), tables.limit(facts));
    assert!(standard.path.is_none() && standard.deny.is_empty());
    // The example shows defaults only.
    let example =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/proxy/policy.toml")).unwrap();
    let example = parse(&example).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(diff::difference(&standard, &example), [] as [String; 0]);
}

/// What the example shows in comments can be written.
#[test]
fn the_examples_comments_are_right() {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/proxy/policy.toml")).unwrap();
    let setting = |line: &&str| {
        line.starts_with("# [")
            || line.strip_prefix("# ").is_some_and(|line| {
                line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
                    && !line.contains(".txt")
                    && !line.contains(".json")
            })
    };
    let lines = text.lines().map(|line| if setting(&line) { &line[2..] } else { line });
    let shown = lines.collect::<Vec<_>>().join("\n");
    assert!(shown.contains("\n[message.request_blocks]"), "{shown}");
    parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
}

#[test]
fn the_json_schema_knows_every_word_of_the_reader() {
    let schema = schema::json(&Schema::embedded());
    let fields = |value: &serde_json::Value| -> Vec<String> {
        value["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let sorted = |words: &[&[&str]]| {
        let mut words: Vec<String> = words.concat().iter().map(|word| (*word).to_owned()).collect();
        words.sort();
        words.dedup();
        words
    };
    assert_eq!(fields(&schema), sorted(&[words::TOP]));
    let properties = &schema["properties"];
    assert_eq!(fields(&properties["scope"]["items"]), sorted(&[words::SCOPE, words::LAYER]));
    let message = &properties["message"]["properties"]["request_blocks"];
    assert_eq!(fields(message), sorted(&[words::MESSAGE]));
    assert_eq!(fields(&message["properties"]["from_peer"]), sorted(&[words::LIMIT]));
    assert_eq!(fields(&properties["reason"]).len(), Reason::ALL.len());
    assert_eq!(fields(&properties["friends"]), sorted(&[words::FRIENDS]));
    assert_eq!(fields(&properties["lists"]), sorted(&[words::LISTS]));
    // Each reason may do in the schema what the reader takes, and nothing else.
    for &reason in Reason::ALL {
        let allowed =
            &properties["reason"]["properties"][reason.name()]["properties"]["action"]["anyOf"][0]["enum"];
        for word in ["log", "delay", "drop", "close"] {
            let text = format!("version = 1\n[reason.{reason}]\naction = \"{word}\"\n");
            let in_schema = allowed.as_array().unwrap().iter().any(|known| known == word);
            assert_eq!(parse(&text).is_ok(), in_schema, "{reason} {word}");
        }
        assert!(parse(&format!("version = 1\n[reason.{reason}]\naction = \"ban 10m\"\n")).is_ok());
    }
}

#[test]
fn no_text_makes_the_reader_panic() {
    let text = "version = 1\n[message.new_peak]\nfrom_peer = { per_minute = 3, size = \"1 KiB\" }\naction = \"ban 1h\"\n\
                [[scope]]\nname = \"ö\"\nversion = \"< 2\"\nsource = [\"192.0.2.0/24\"]\n[scope.reason.idle]\nshadow = true\n";
    assert!(parse(text).is_ok(), "{}", parse(text).unwrap_err());
    for cut in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
        for text in [&text[..cut], &text[cut..]] {
            let _ = parse(text);
        }
    }
}

#[test]
fn lists_deny_and_whom_they_must_not_concern_is_taken_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    let lists = "version = 1\n[lists]\ndeny = [\"deny.txt\", \"more.txt\"]\nallow = \"allow.txt\"\n\
                 [friends]\nnetworks = [\"198.51.100.8/29\"]\n";
    // The nodes of the example stand in 10.0.1.0/24.
    fs::write(dir.path().join("deny.txt"), "10.0.0.0/8\n198.51.100.0/24\n").unwrap();
    fs::write(dir.path().join("more.txt"), "203.0.113.0/24 ; SBL\n").unwrap();
    fs::write(dir.path().join("allow.txt"), "203.0.113.77\n").unwrap();
    let (policy, _) =
        file::parse(&config(), &path, lists).unwrap_or_else(|report| panic!("{}", report.render(false)));
    let denied: PrefixSet = policy.deny.iter().copied().collect();
    let covers = |text: &str| denied.covers(text.parse::<std::net::IpAddr>().unwrap().into());
    assert!(covers("10.0.9.9") && covers("198.51.100.7") && covers("203.0.113.76"));
    assert!(!covers("10.0.1.11") && !covers("198.51.100.9") && !covers("203.0.113.77"));
    fs::write(dir.path().join("more.txt"), "203.0.113.0/24\n203.0.113.1/24\n").unwrap();
    let report = file::parse(&config(), &path, lists).unwrap_err().render(false);
    assert!(report.contains("more.txt:2: the address has bits beyond its prefix"), "{report}");
}

/// A keeper over files in a directory of its own, and a shard's place.
struct Kept {
    dir: tempfile::TempDir,
    config: Arc<Config>,
    bans: Arc<Bans>,
    witness: Arc<Witness>,
    keeper: Option<Arc<Keeper>>,
    reader: Reader,
}

static NOW: AtomicU64 = AtomicU64::new(1_800_000_000);

fn clock() -> u64 {
    NOW.load(Ordering::Relaxed)
}

impl Kept {
    fn new(text: &str) -> Kept {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("policy.toml");
        fs::write(&file, text).unwrap();
        let history = Some(dir.path().join("history.json"));
        let policy = PolicyFiles { file: Some(file), history, watch: true };
        let config = Arc::new(Config { policy, ..config() });
        let rules = bans::Rules { most: 1_000, ..bans::Rules::default() };
        let tell = Box::new(|_: &bans::Change| {});
        let setup = bans::Setup { rules, file: None, close: true, shards: 1, tell, clock };
        let bans = Bans::open(setup).unwrap();
        let reader = bans.swap().reader(0);
        let witness = Arc::new(Witness::new(clock));
        let mut kept = Kept { dir, config, bans, witness, keeper: None, reader };
        kept.start();
        kept
    }

    /// Ends the process and starts it again.
    fn start(&mut self) {
        self.keeper = None;
        let (bans, swap) = (self.bans.clone(), self.bans.clone());
        let shard = std::sync::Mutex::new(bans.swap().reader(0));
        let setup = Setup {
            config: self.config.clone(),
            bans,
            witness: self.witness.clone(),
            // The shard takes over what is new as soon as it is woken.
            wake: Box::new(move || {
                let mut reader = shard.lock().unwrap();
                swap.swap().take(&mut reader);
                swap.swap().taken(&reader);
            }),
            clock,
        };
        self.keeper = Some(Keeper::open(setup).unwrap_or_else(|error| panic!("{error}")));
    }

    fn keeper(&self) -> &Arc<Keeper> {
        self.keeper.as_ref().unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("policy.toml"), text).unwrap();
    }

    fn in_flight(&mut self) -> usize {
        let in_force = self.bans.swap().take(&mut self.reader).unwrap_or_else(|| self.bans.swap().current());
        in_force.policy.as_ref().unwrap().rules.table(&who()).in_flight
    }
}

fn policy(in_flight: u32) -> String {
    format!("version = 1\nin_flight = {in_flight}\n")
}

#[test]
fn a_reload_is_shown_applied_and_taken_back() {
    let mut kept = Kept::new(&policy(3));
    assert_eq!(kept.in_flight(), 3);
    kept.write(&policy(4));
    let wish = Wish { dry_run: true, ..Wish::default() };
    let outcome = kept.keeper().reload(By::Command, wish).unwrap();
    assert_eq!((outcome.changed, outcome.changes.as_slice()), (false, &["in_flight: 3 -> 4".to_owned()][..]));
    assert_eq!(kept.in_flight(), 3);
    let outcome = kept.keeper().reload(By::Command, Wish::default()).unwrap();
    assert!(outcome.changed && outcome.taken, "{outcome:?}");
    assert_eq!(kept.in_flight(), 4);
    assert!(
        !kept.keeper().reload(By::Command, Wish::default()).unwrap().changed,
        "the same again is no change"
    );

    kept.write("version = 1\nin_flihgt = 5\n");
    let error = kept.keeper().reload(By::Command, Wish::default()).unwrap_err().to_string();
    assert!(error.contains("policy.toml:2:1") && error.contains("did you mean `in_flight`?"), "{error}");
    assert_eq!((kept.in_flight(), kept.keeper().status().version), (4, outcome.version));

    assert_eq!(kept.keeper().undo(By::Undo).unwrap().changes, ["in_flight: 4 -> 3"]);
    assert_eq!(kept.in_flight(), 3);
    let told: Vec<By> = kept.keeper().history().iter().map(|version| version.by).collect();
    assert_eq!(told, [By::Start, By::Command, By::Undo]);
}

#[test]
fn what_nobody_confirms_is_undone_and_not_taken_up_again() {
    let mut kept = Kept::new(&policy(3));
    kept.write(&policy(4));
    let wish = Wish { confirm: Some(60), ..Wish::default() };
    assert!(kept.keeper().reload(By::Command, wish).unwrap().confirm.is_some());
    kept.keeper().look(Instant::now());
    assert_eq!(kept.in_flight(), 4);
    kept.keeper().look(Instant::now() + Duration::from_secs(61));
    assert_eq!((kept.in_flight(), kept.keeper().history().last().unwrap().by), (3, By::Timer));
    assert!(kept.keeper().confirm().is_err());

    // Confirmed, it stays.
    kept.keeper().reload(By::Command, wish).unwrap();
    kept.keeper().confirm().unwrap();
    kept.keeper().look(Instant::now() + Duration::from_secs(61));
    assert_eq!(kept.in_flight(), 4);

    // The process ends before anybody confirms: the version before is in force again.
    kept.write(&policy(5));
    kept.keeper().reload(By::Command, wish).unwrap();
    assert_eq!(kept.in_flight(), 5);
    kept.start();
    assert_eq!(kept.in_flight(), 4);
    // Versions before the restart can still be gone back to.
    kept.keeper().undo(By::Undo).unwrap();
    assert_ne!(kept.in_flight(), 4);
}

#[test]
fn a_watched_file_is_read_when_it_has_changed() {
    let mut kept = Kept::new(&policy(3));
    kept.keeper().look(Instant::now());
    assert_eq!(kept.keeper().history().len(), 1);
    kept.write(&policy(6));
    let file = fs::File::options().write(true).open(kept.dir.path().join("policy.toml")).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(2)).unwrap();
    kept.keeper().look(Instant::now());
    assert_eq!((kept.in_flight(), kept.keeper().history().last().unwrap().by), (6, By::Watch));
}

#[test]
fn a_policy_is_tried_against_the_last_minutes() {
    let kept = Kept::new("version = 1\n");
    let tables = Tables { second: true, third: false };
    for host in 1..=9 {
        let who = Who { source: [203, 0, 113, host].into(), ..who() };
        kept.witness.saw(who, What::Began);
        let minute =
            Minute { kind: number::REQUEST_BLOCKS, messages: u32::from(host) * 10, bytes: 90, largest: 9 };
        kept.witness.saw(who, What::Sent(minute, tables));
        kept.witness.saw(who, What::Ended(Reason::BodyMalformed));
    }
    fs::write(kept.dir.path().join("deny.txt"), "203.0.113.0/30\n").unwrap();
    kept.write(
        "version = 1\n[lists]\ndeny = \"deny.txt\"\n[message.request_blocks]\nfrom_peer = { per_minute = 70 }\n\
         action = \"delay\"\n[reason.body_malformed]\naction = \"ban 1h\"\n",
    );
    let outcome = kept.keeper().reload(By::Command, Wish { dry_run: true, ..Wish::default() }).unwrap();
    let different: Vec<(&str, u64)> =
        outcome.trial.different.iter().map(|(what, n)| (what.as_str(), *n)).collect();
    assert_eq!(
        different,
        [
            ("messages request_blocks would have gone beyond their limit: delay", 10 + 20),
            ("sessions that ended with body_malformed: ban 3600s instead of close", 9),
            // One of three is our gateway.
            ("sessions would not have begun: the lists deny their source", 2),
        ]
    );
    assert_eq!((outcome.trial.sessions, outcome.trial.messages), (9, 450));
}

/// A set of lists, policy and bans changes in one step, and what the policy lists ends no connection unless it is to.
#[test]
fn what_the_lists_deny_ends_no_connection_unless_the_operator_wants_it() {
    let kept = Kept::new("version = 1\n");
    fs::write(kept.dir.path().join("deny.txt"), "203.0.113.0/24\n").unwrap();
    kept.write("version = 1\n[lists]\ndeny = \"deny.txt\"\n");
    kept.keeper().reload(By::Command, Wish::default()).unwrap();
    let source = hedgerow_dataplane::wire::Address::from_v4([203, 0, 113, 9]);
    let in_force = kept.bans.swap().current();
    assert!(in_force.deny.covers(source) && !in_force.ends.as_ref().unwrap().covers(source));
    let banned = "198.51.100.7".parse().unwrap();
    let ban = bans::Ban {
        prefix: banned,
        reason: String::new(),
        origin: bans::Origin::Operator,
        since: clock(),
        until: None,
        hits: 0,
    };
    kept.bans.change(|book, now| book.set(now, ban)).unwrap().unwrap();
    let in_force = kept.bans.swap().current();
    assert!(in_force.policy.is_some() && in_force.deny.covers(source), "a ban leaves the policy as it is");
    assert!(in_force.ends.as_ref().unwrap().covers(banned.address()));
    kept.keeper().reload(By::Command, Wish { enforce_now: true, ..Wish::default() }).unwrap();
    assert!(kept.bans.swap().current().ends.as_ref().unwrap().covers(source));
}

#[test]
fn a_ban_of_the_policy_ends_by_itself_and_spares_whom_a_list_allows() {
    let kept =
        Kept::new("version = 1\n[lists]\nallow = \"allow.txt\"\n".replace("allow.txt", "/dev/null").as_str());
    fs::write(kept.dir.path().join("allow.txt"), "192.0.2.9\n").unwrap();
    kept.write("version = 1\n[lists]\nallow = \"allow.txt\"\n");
    kept.keeper().reload(By::Command, Wish::default()).unwrap();
    for host in [8, 9] {
        kept.bans.punish([192, 0, 2, host].into(), Reason::RateLimited, Duration::from_secs(600));
    }
    let until = Instant::now() + Duration::from_secs(10);
    while kept.bans.all().is_empty() && Instant::now() < until {
        std::thread::yield_now();
    }
    let bans: Vec<_> = kept.bans.all().into_iter().map(|ban| (ban.prefix.to_string(), ban.until)).collect();
    assert_eq!(bans, [("192.0.2.8/32".to_owned(), Some(clock() + 600))]);
}

#[test]
fn actions_are_read_with_their_times() {
    let policy = parse("version = 1\n[reason.rate_limited]\naction = \"ban 10m\"\nshadow = true\n").unwrap();
    let response = policy.rules.table(&who()).response(Reason::RateLimited, Some(1));
    assert_eq!((response.action, response.shadow), (Action::Ban(Duration::from_secs(600)), true));
}
