//! The appliance from outside: the program's exit codes and words, and the control socket in front of a core over memory.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, mpsc};

use hedgerow::assemble::{self, Place};
use hedgerow::bans::{Bans, Change, Rules, Setup};
use hedgerow::commons::Commons;
use hedgerow::config::Config;
use hedgerow::control::{self, Command as Order, Control};
use hedgerow::core::Core;
use hedgerow::events::EventSink;
use hedgerow::identity::Secret;
use hedgerow::management::{self, Request, Response};
use hedgerow::rules::keeper::{self, Keeper};
use hedgerow::rules::witness::Witness;
use hedgerow::sessions::Factory;
use hedgerow::status::{Report, Status};
use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_policy::Reason;
use hedgerow_policy::rules::{Action, Response as Decided, Who};
use hedgerow_policy::tls::{Clock, Settings};
use hedgerow_port::{Memory, MemoryConfig};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/proxy/hedgerow.toml");

fn hedgerow(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hedgerow")).args(args).output().unwrap()
}

#[track_caller]
fn outcome(args: &[&str], code: i32, out: &str, err: &str) {
    let output = hedgerow(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stdout}{stderr}");
    assert!(stdout.contains(out), "{args:?}: no {out:?} in {stdout}");
    assert!(stderr.contains(err), "{args:?}: no {err:?} in {stderr}");
}

#[test]
fn check_accepts_the_example_and_says_what_it_would_do() {
    outcome(&["check", EXAMPLE], 0, "listener peers: 203.0.113.7:8444, [2001:db8:7::7]:8444 (chia", "");
    // Nodes ban by address: with snat that is ours.
    outcome(&["check", EXAMPLE], 0, "exempt_peer_networks: [\"10.0.1.1/32\"]", "");
}

#[test]
fn node_setup_prints_lines_and_doctor_findings() {
    outcome(&["node-setup", "a", "-c", EXAMPLE], 0, "exempt_peer_networks: [\"10.0.1.1/32\"]", "");
    outcome(&["node-setup", "nobody", "-c", EXAMPLE], 1, "", "no node is called `nobody`");
    let output = hedgerow(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("kernel") && text.contains("CAP_NET_RAW"), "{text}");
}

#[test]
fn check_refuses_and_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.toml");
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    std::fs::write(&path, text.replace("local_port = 8444", "local_prot = 8444").replace("version = 1", ""))
        .unwrap();
    let path = path.to_str().unwrap();
    outcome(&["check", path], 1, "", "help: did you mean `local_port`?");
    outcome(&["check", EXAMPLE, path], 1, "valid", "broken.toml:");
    outcome(&["run", "-c", path], 1, "", "local_prot");
    outcome(&["check", "/nowhere/hedgerow.toml"], 1, "", "cannot read /nowhere/hedgerow.toml");
}

#[test]
fn a_run_without_its_device_or_secret_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hedgerow.toml");
    let secret = dir.path().join("secret");
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    std::fs::write(&path, text.replace("/etc/hedgerow/secret", secret.to_str().unwrap())).unwrap();
    let path = path.to_str().unwrap();
    outcome(&["run", "-c", path], 1, "", "identity new");
    outcome(&["identity", "new", secret.to_str().unwrap()], 0, "a new fleet secret", "");
    outcome(&["run", "-c", path], 1, "", "port.private: device \"ens6\"");
}

#[test]
fn check_finds_a_key_of_another_certificate_and_a_core_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    outcome(&["identity", "new", &file("secret")], 0, "", "");
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../policy/assets");
    std::fs::copy(format!("{assets}/chia_ca.crt"), file("crt")).unwrap();
    std::fs::write(file("key"), "no key").unwrap();
    std::fs::set_permissions(file("key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let text = text.replace("/etc/hedgerow/secret", &file("secret"));
    let imported = format!("[identity]\ncertificate = \"{}\"\nkey = \"{}\"\n", file("crt"), file("key"));
    let text = text
        .replace("[identity]\n", &imported)
        .replace("[management]", "[cores]\ndataplane = 4000\n[management]");
    std::fs::write(file("hedgerow.toml"), text).unwrap();
    outcome(&["check", &file("hedgerow.toml")], 1, "valid", "none is number 4000");
    outcome(&["check", &file("hedgerow.toml")], 1, "valid", "identity.certificate: ");
    outcome(&["check", &file("hedgerow.toml")], 1, "valid", "can be read by others (mode 0644)");
}

#[test]
fn identities_follow_from_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    let secret = secret.to_str().unwrap();
    outcome(&["identity", "new", secret], 0, "", "");
    outcome(&["identity", "new", secret], 1, "", "exists already");
    let show = |service: &str| hedgerow(&["identity", "show", secret, "--service", service]).stdout;
    assert_eq!(show("203.0.113.7:8444"), show("203.0.113.7:8444"));
    let ids = |service: &str| {
        String::from_utf8(show(service)).unwrap().split_whitespace().last().unwrap().to_owned()
    };
    assert_ne!(ids("203.0.113.7:8444"), ids("203.0.113.8:8444"));
    assert_eq!(ids("203.0.113.7:8444").len(), 64);
}

#[test]
fn explain_knows_reasons_of_both_layers() {
    outcome(&["explain", "bad_cookie"], 0, "frames and flows", "");
    outcome(&["explain", "chia_wrong_network"], 0, "sessions", "");
    outcome(&["explain", "chia_wrong_netwrok"], 1, "", "did you mean `chia_wrong_network`?");
}

#[test]
fn a_client_without_an_appliance_says_so() {
    outcome(
        &["status", "--socket", "/nowhere/hedgerow.sock"],
        1,
        "",
        "no appliance answers at /nowhere/hedgerow.sock",
    );
}

#[test]
fn completions_and_version() {
    outcome(&["completions", "bash"], 0, "_hedgerow", "");
    outcome(&["--version"], 0, env!("CARGO_PKG_VERSION"), "");
}

/// The example's core over memory ports.
fn core(config: &Config) -> Core<Memory> {
    let ports: Vec<Memory> = config
        .ports
        .iter()
        .map(|_| Memory::pair(MemoryConfig::default(), MemoryConfig::default()).0)
        .collect();
    let abilities: Vec<_> = ports.iter().map(Port::abilities).collect();
    let secret = Secret::ephemeral().unwrap();
    let settings = Settings::new(Clock::at(std::time::Duration::from_secs(1_800_000_000)));
    let core = assemble::core(config, &abilities, &secret, [7; 32], Place::alone());
    let kinds = assemble::kinds(config, &core.pools, &secret, &settings).unwrap();
    let now = Instant::from_millis(1_000);
    Core::new(&core, Commons::alone(&core, now), ports, Box::new(Factory::new(kinds, 1)), now)
}

/// Bans that nobody enforces, with one node to be protected.
fn bans() -> Arc<Bans> {
    let rules = Rules {
        protected: vec![("10.0.1.11".parse().unwrap(), "the node a".into())],
        most: 100_000,
        ..Rules::default()
    };
    let tell = Box::new(|_: &Change| {});
    Bans::open(Setup { rules, file: None, close: true, shards: 1, tell, clock: || 1_800_000_000 }).unwrap()
}

/// The way to a shard that never does anything.
fn idle() -> (Control, control::Commands) {
    let (line, commands) = control::line().unwrap();
    let (config, _) = Config::parse("example", &std::fs::read_to_string(EXAMPLE).unwrap()).unwrap();
    (Control::new(config.into(), vec![line]), commands)
}

/// The example's configuration with a policy beside it, in a directory of its own.
fn governed(dir: &Path, policy: &str) -> Config {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let stated =
        format!("policy = {{ file = \"policy.toml\", history = \"{}/history.json\" }}\n", dir.display());
    let text = text.replace("# policy = \"policy.toml\"\n", &stated);
    std::fs::write(dir.join("hedgerow.toml"), text).unwrap();
    std::fs::write(dir.join("policy.toml"), policy).unwrap();
    Config::load(&dir.join("hedgerow.toml")).unwrap().0
}

#[test]
fn check_explains_where_each_value_of_a_rule_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hedgerow.toml");
    let file = file.to_str().unwrap();
    let policy = "version = 1\n[message.request_blocks]\nfrom_peer = { per_minute = 300 }\n[reason.rate_limited]\n\
                  action = \"ban 10m\"\n[[scope]]\nname = \"old\"\nversion = \"< 2.6\"\n\
                  [scope.message.request_blocks]\naction = \"delay\"\nshadow = true\n";
    governed(dir.path(), policy);
    let path = dir.path().join("policy.toml");
    let at = |line: u32| format!("{}:{line}", path.display());
    outcome(&["check", file], 0, "1 messages, 1 reasons, 1 scopes", "");
    let why = ["check", "--why", "full_node", "request_blocks"];
    let told = |more: &[&str]| {
        let output = hedgerow(&[&why, more, &["--", file]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let plain = told(&[]);
    assert!(plain.contains(&format!("per_minute 300 {}", at(3))), "{plain}");
    assert!(plain.contains("size 100 the node's own"), "{plain}");
    assert!(plain.contains(&format!("action ban 600s {}", at(5))), "{plain}");
    assert!(plain.contains("shadow false default") && plain.contains("scopes: none"), "{plain}");
    let old = told(&["--version", "2.5.1", "--from", "192.0.2.7", "--listener", "peers"]);
    assert!(old.contains(&format!("scopes: old ({})", at(6))), "{old}");
    assert!(old.contains(&format!("action delay {} shadow true {}", at(10), at(11))), "{old}");
    outcome(
        &["check", "--why", "wallet", "rate_limited", "--", file],
        0,
        "it can be: log, delay, drop, close, ban",
        "",
    );
    outcome(
        &["check", "--why", "full_node", "request_blokcs", "--", file],
        1,
        "",
        "did you mean `request_blocks`?",
    );
    outcome(&["check", "--why", "ful_node", "new_peak", "--", file], 1, "", "did you mean `full_node`?");
    std::fs::write(&path, "version = 1\n[message.request_blocks]\naction = \"dorp\"\n").unwrap();
    outcome(&["check", file], 1, "", "policy.toml:3:10");
    outcome(&["run", "-c", file], 1, "", "");
}

#[test]
fn editors_get_a_schema_of_the_policy() {
    let output = hedgerow(&["policy", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let action = &schema["properties"]["reason"]["properties"]["tls_garbage"]["properties"]["action"];
    assert_eq!(action["anyOf"][0]["enum"], serde_json::json!(["close"]));
    assert!(schema["properties"]["message"]["properties"]["request_blocks"].is_object());
}

#[test]
fn a_policy_is_reloaded_confirmed_undone_and_remembered_by_command() {
    let dir = tempfile::tempdir().unwrap();
    let config = Arc::new(governed(dir.path(), "version = 1\nin_flight = 3\n"));
    let (control, _commands) = idle();
    let bans = bans();
    let shard = std::sync::Mutex::new(bans.swap().reader(0));
    let (taker, clock) = (bans.clone(), || 1_800_000_000);
    let witness = Arc::new(Witness::new(clock));
    let keeper = Keeper::open(keeper::Setup {
        config,
        bans: bans.clone(),
        witness: witness.clone(),
        wake: Box::new(move || {
            let mut reader = shard.lock().unwrap();
            taker.swap().take(&mut reader);
            taker.swap().taken(&reader);
        }),
        clock,
    });
    let control = control.with_policy(keeper.unwrap());
    let path = dir.path().join("hedgerow.sock");
    let recent = EventSink::open(None, 1).unwrap().recent();
    let _socket = management::serve(&path, control, recent, bans).unwrap();
    let socket = path.to_str().unwrap();
    let run = |args: &[&str], code: i32, out: &str, err: &str| {
        outcome(&[args, &["--socket", socket]].concat(), code, out, err);
    };
    let write = |text: &str| std::fs::write(dir.path().join("policy.toml"), text).unwrap();
    run(&["reload"], 0, "version 1 stays in force", "");
    write("version = 1\nin_flight = 4\n");
    run(&["reload", "--dry-run"], 0, "in_flight: 3 -> 4", "");
    run(&["reload", "--dry-run"], 0, "version 1 stays in force", "");
    run(&["reload", "--confirm", "60s"], 0, "version 2 is in force on all shards\nundone in", "");
    run(&["reload", "confirm"], 0, "version 2 stays", "");
    run(&["reload", "confirm"], 1, "", "no policy waits for a confirmation");
    write("version = 1\nin_flight = 4\n[message.new_peak]\nfrom_peer = { per_minit = 9 }\n");
    run(&["reload"], 1, "", "policy.toml:4:15");
    run(&["reload"], 1, "", "did you mean `per_minute`?");
    run(&["reload", "--confirm", "0s"], 1, "", "expected 1s to 24h");
    run(&["reload", "undo"], 0, "in_flight: 4 -> 3", "");
    run(
        &["reload", "history"],
        0,
        "version 2 since 2027-01-15T08:00:00Z by reload\n  in_flight: 3 -> 4\n",
        "",
    );
    run(&["reload", "history", "--show", "2"], 0, "version = 1\nin_flight = 4\n", "");
    run(&["reload", "history", "--show", "9"], 1, "", "version 9 is not kept");
    run(&["report"], 0, "nothing that was let pass", "");
    let who = Who { listener: 0, source: [192, 0, 2, 7].into(), id: None, kind: None, version: None };
    let response = Decided { action: Action::Close, shadow: true };
    witness.tell(&who, Reason::RateLimited.name(), Some(20), response);
    run(&["report"], 0, "1 rate_limited by new_peak, would have been: close", "");
    run(&["report", "--json"], 0, "\"peers\": [", "");
}

#[test]
fn the_control_socket_answers_with_the_state_of_the_core() {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let (config, _) = Config::parse("example", &text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let (line, commands) = control::line().unwrap();
    let control = Control::new(config.clone().into(), vec![line]);
    let sink = EventSink::open(None, 16).unwrap();
    let socket = management::serve(&path, control.clone(), sink.recent(), bans()).unwrap();
    let (ready, started) = mpsc::channel();
    let stepper = std::thread::spawn(move || {
        let mut core = core(&config);
        ready.send(()).unwrap();
        let start = Instant::from_millis(1_000);
        for millis in 0.. {
            let now = start + std::time::Duration::from_millis(millis);
            core.step(now, 1_800_000_000_000 + millis).unwrap();
            match commands.wait() {
                Order::Report(answer) => {
                    let report = Report::of(&core, Default::default(), 0, now);
                    answer.send((0, Box::new(report))).unwrap();
                }
                Order::Stop => return,
            }
        }
    });
    started.recv().unwrap();

    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let Response::Status(status) = management::ask(&path, &Request::Status).unwrap() else { panic!() };
    assert_eq!(status.listeners[0].addresses, ["203.0.113.7:8444", "[2001:db8:7::7]:8444"]);
    assert_eq!(status.pools[0].nodes[1].address, "10.0.1.12:8444");
    assert_eq!((status.flows.limit, status.memory.strangers), (16_384, 0));
    assert_eq!((status.shards.len(), status.shards[0].silent), (1, false));
    let again: Status = serde_json::from_str(&serde_json::to_string(&status).unwrap()).unwrap();
    assert_eq!(*status, again);
    assert_eq!(management::ask(&path, &Request::Events).unwrap(), Response::Events(Vec::new()));
    let program = hedgerow(&["status", "--json", "--socket", path.to_str().unwrap()]);
    let program: Status = serde_json::from_slice(&program.stdout).unwrap();
    assert_eq!(program.ports, status.ports);
    assert_eq!(raw(&path, "{\"command\":\"dance\"}"), "not a request");

    control.stop();
    stepper.join().unwrap();
    drop(socket);
    assert!(!path.exists());
}

/// The kind of error that a raw line gets.
fn raw(path: &Path, line: &str) -> String {
    use std::io::{BufRead, BufReader, Write};
    let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    (&stream).write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).unwrap();
    match serde_json::from_str(&answer).unwrap() {
        Response::Error(error) => error.split(':').next().unwrap_or_default().to_owned(),
        other => panic!("{other:?}"),
    }
}

/// A shard that does not answer costs the others' figures nothing.
#[test]
fn a_silent_shard_is_named_and_the_others_are_reported() {
    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let (config, _) = Config::parse("example", &text).unwrap();
    let ((one, commands), (other, _deaf)) = (control::line().unwrap(), control::line().unwrap());
    let control = Control::new(config.clone().into(), vec![one, other]);
    let answers = std::thread::spawn(move || {
        let core = core(&config);
        let Order::Report(answer) = commands.wait() else { panic!() };
        let report = Report::of(&core, Default::default(), 0, Instant::from_millis(2_000));
        answer.send((0, Box::new(report))).unwrap();
    });
    let status = control.status();
    answers.join().unwrap();
    assert_eq!(status.shards.iter().map(|shard| shard.silent).collect::<Vec<_>>(), [false, true]);
    assert_eq!((status.ports.len(), status.pools[0].nodes.len()), (2, 2));
    assert!(status.to_string().contains("shard 1: DOES NOT ANSWER, last seen starting"), "{status}");
}

#[test]
fn a_socket_that_is_alive_is_not_taken_and_a_dead_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let serve = || {
        let (control, _commands) = idle();
        management::serve(&path, control, EventSink::open(None, 1).unwrap().recent(), bans())
    };
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let alive = serve().unwrap();
    assert_eq!(serve().unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(alive);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hedgerow.toml");
    std::fs::write(&path, "precious").unwrap();
    let (control, _commands) = idle();
    let sink = EventSink::open(None, 1).unwrap();
    let error = management::serve(&path, control, sink.recent(), bans()).unwrap_err();
    assert!(error.to_string().contains("is no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_client_that_says_nothing_keeps_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hedgerow.sock");
    let (control, _commands) = idle();
    let sink = EventSink::open(None, 1).unwrap();
    let _socket = management::serve(&path, control, sink.recent(), bans()).unwrap();
    let silent: Vec<UnixStream> = (0..3).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
    (&stream).write_all(b"{\"command\":\"events\"}\n").unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"events\":[]}\n");
    drop(silent);
}

#[test]
fn a_request_without_an_end_is_refused_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hedgerow.sock");
    let (control, _commands) = idle();
    let sink = EventSink::open(None, 1).unwrap();
    let _socket = management::serve(&path, control, sink.recent(), bans()).unwrap();
    let stream = UnixStream::connect(&path).unwrap();
    (&stream).write_all(&vec![b' '; 1 << 20]).unwrap();
    let mut answer = String::new();
    // The connection ends, with a reset where bytes were left unread.
    let _ = BufReader::new(&stream).read_to_string(&mut answer);
    assert_eq!(answer.lines().count(), 1, "{answer}");
    assert!(answer.contains("longer than"), "{answer}");
}

#[test]
fn bans_are_set_listed_exported_imported_and_lifted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hedgerow.sock");
    let (control, _commands) = idle();
    let bans = bans();
    let recent = EventSink::open(None, 1).unwrap().recent();
    let _socket = management::serve(&path, control, recent, bans.clone()).unwrap();
    let socket = path.to_str().unwrap();
    let run = |args: &[&str], code: i32, out: &str, err: &str| {
        outcome(&[&["bans"], args, &["--socket", socket]].concat(), code, out, err);
    };
    run(&["list"], 0, "nobody is banned", "");
    run(&["add", "203.0.113.0/24", "2001:db8::7", "--reason", "scans us"], 0, "2 banned", "");
    run(
        &["add", "10.0.0.0/16", "1.2.3.4", "--for", "1h"],
        1,
        "1 banned",
        "10.0.0.0/16: it would concern the node a",
    );
    run(&["add", "10.0.0.1/8"], 2, "", "the address has bits beyond its prefix; expected 10.0.0.0/8");
    run(&["list"], 0, "203.0.113.0/24   operator", "");
    run(&["list", "203.0.113.9"], 0, "scans us", "");
    run(&["list", "--json"], 0, "\"prefix\": \"2001:db8::7/128\"", "");
    run(
        &["export"],
        0,
        "1.2.3.4/32 # until 2027-01-15T09:00:00Z\n203.0.113.0/24 # scans us\n2001:db8::7/128 # scans us\n",
        "",
    );
    run(&["lift", "203.0.113.0/24"], 0, "1 lifted", "");
    run(&["lift", "203.0.113.0/24"], 1, "0 lifted", "203.0.113.0/24 is not banned");

    let list = dir.path().join("deny.txt");
    let file = list.to_str().unwrap();
    std::fs::write(&list, "# a list\n198.51.100.0/24\nhost.example\n").unwrap();
    run(&["import", file], 1, "1 prefixes", "deny.txt:3: `host.example` is no address");
    assert_eq!(bans.all().len(), 2, "a list with mistakes bans nobody");
    std::fs::write(&list, "# a list\n198.51.100.0/24 ; SBL1\n10.0.1.11\n192.0.2.1 # for 2h, rude\n").unwrap();
    run(&["import", file, "--for", "1d"], 1, "2 banned", "deny.txt:3: it would concern the node a");
    let ends: Vec<_> = bans.all().iter().map(|ban| ban.until.map(|until| until - 1_800_000_000)).collect();
    assert_eq!(ends, [Some(3_600), Some(7_200), Some(86_400), None]);
    run(&["lift", "--all"], 0, "4 lifted", "");
}

#[test]
fn a_hundred_thousand_prefixes_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hedgerow.sock");
    let (control, _commands) = idle();
    let bans = bans();
    let recent = EventSink::open(None, 1).unwrap().recent();
    let _socket = management::serve(&path, control, recent, bans.clone()).unwrap();
    let list = dir.path().join("deny.txt");
    let lines = (0..100_000u32).map(|n| format!("{}.{}.{}.0/24\n", 20 + n / 65_536, n / 256 % 256, n % 256));
    std::fs::write(&list, lines.collect::<String>()).unwrap();
    let (file, socket) = (list.to_str().unwrap(), path.to_str().unwrap());
    outcome(&["bans", "import", file, "--socket", socket], 0, "100000 banned", "");
    assert!(bans.list().covers("21.134.159.9".parse::<std::net::IpAddr>().unwrap().into()));
}
