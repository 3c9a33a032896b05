//! Real Chia nodes and single-purpose peers as child processes, driven by lines of JSON (`tests/nodes/*.py`).

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::check::{Context, Outcome, wait_for};
use crate::rig::{Namespace, Process};

/// Longest wait for one answer; a node's thread may be busy with a batch of blocks.
const PATIENCE: Duration = Duration::from_secs(120);

/// Blocks in the test chain (see `tests/nodes/chain.py`).
pub const CHAIN_BLOCKS: u64 = 506;

/// A process that answers lines of JSON with lines of JSON.
#[derive(Debug)]
pub(crate) struct Dialogue {
    pub(crate) questions: Option<ChildStdin>,
    answers: Receiver<String>,
    process: Process,
}

impl Dialogue {
    pub(crate) fn start(command: &mut Command) -> Outcome<Self> {
        let mut child: Child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting a node")?;
        let questions = child.stdin.take();
        let stdout = child.stdout.take().context("a node's output")?;
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Dialogue { questions, answers, process: Process(child) })
    }

    pub(crate) fn say(&mut self, question: &Value) -> Outcome {
        let pipe = self.questions.as_mut().context("a node's input")?;
        writeln!(pipe, "{question}").context("asking a node")
    }

    pub(crate) fn hear(&self, limit: Duration) -> Outcome<Value> {
        match self.answers.recv_timeout(limit) {
            Ok(line) => serde_json::from_str(&line).context(format_args!("an answer: {line}")),
            Err(RecvTimeoutError::Timeout) => Err(format!("no answer within {} s", limit.as_secs())),
            Err(RecvTimeoutError::Disconnected) => Err("it ended without an answer".into()),
        }
    }
}

/// A real full node.
#[derive(Debug)]
pub struct Node {
    name: String,
    root: PathBuf,
    id: String,
    dialogue: Dialogue,
}

/// How a node begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeSetup {
    /// Blocks of the test chain that it has from the start.
    pub preload: u64,
    /// Whether it can farm.
    pub farms: bool,
    /// Settings of its configuration beside the stock ones, each `KEY=JSON`.
    pub settings: &'static [&'static str],
}

impl Node {
    /// Starts a node inside `namespace`, its files under `folder`, and waits until it is ready. It listens on 8444.
    pub fn start(namespace: &Namespace, folder: &Path, name: &str, setup: NodeSetup) -> Outcome<Self> {
        Node::start_on(namespace, folder, name, setup, 8444)
    }

    /// As [`Node::start`], listening on `port`: nodes bind every address, so two in one namespace need two ports.
    pub fn start_on(
        namespace: &Namespace,
        folder: &Path,
        name: &str,
        setup: NodeSetup,
        port: u16,
    ) -> Outcome<Self> {
        let mut arguments = vec![format!("--port={port}"), format!("--preload={}", setup.preload)];
        if setup.farms {
            arguments.push("--farms".into());
        }
        arguments.extend(setup.settings.iter().map(|setting| format!("--set={setting}")));
        Node::start_with(namespace, folder, name, &arguments)
    }

    /// Starts a node with these arguments of `node.py` beside its root.
    pub fn start_with(
        namespace: &Namespace,
        folder: &Path,
        name: &str,
        arguments: &[String],
    ) -> Outcome<Self> {
        let root = folder.join(name);
        let log_path = folder.join(format!("{name}.log"));
        let log = std::fs::File::create(&log_path).context("creating a log")?;
        let mut command = namespace.command("nice");
        command.args(["-n", "5"]).arg(python()?).arg(script("node.py")?).arg("--root").arg(&root);
        command.args(arguments).stderr(log);
        let dialogue = Dialogue::start(&mut command)?;
        let ready = dialogue.hear(PATIENCE).map_err(|error| {
            let log = std::fs::read(&log_path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let tail: Vec<&str> = log.lines().rev().take(12).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            format!("starting node {name}: {error}\n{}", tail.join("\n"))
        })?;
        let id = ready["node_id"].as_str().context("a node's id")?.to_owned();
        Ok(Node { name: name.to_owned(), root, id, dialogue })
    }

    /// Its id: the hash of its certificate, in hexadecimal.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its configuration, chain and certificates.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its certificate and key.
    pub fn certificate(&self) -> (PathBuf, PathBuf) {
        let folder = self.root.join("config/ssl/full_node");
        (folder.join("public_full_node.crt"), folder.join("public_full_node.key"))
    }

    fn ask(&mut self, question: &Value) -> Outcome<Value> {
        self.dialogue.say(question)?;
        let answer = self.dialogue.hear(PATIENCE).context(format_args!("node {}", self.name))?;
        match answer.get("error") {
            Some(error) => Err(format!("node {}: {question}: {error}", self.name)),
            None => Ok(answer),
        }
    }

    /// What it knows: height, connections, messages by type, bans.
    pub fn state(&mut self) -> Outcome<Value> {
        self.ask(&json!({ "do": "state" }))
    }

    /// Dials, as the node's own RPC does.
    pub fn connect(&mut self, host: &str, port: u16) -> Outcome {
        let answer = self.ask(&json!({ "do": "connect", "host": host, "port": port }))?;
        if answer["connected"] == true {
            Ok(())
        } else {
            Err(format!("{} could not connect to {host}", self.name))
        }
    }

    /// Dials again, unless it is connected: what a node does by itself for the peers of its configuration.
    pub fn stay_connected(&mut self, host: impl Display, port: u16) -> Outcome {
        let host = host.to_string();
        let state = self.state()?;
        let connections = state["connections"].as_array();
        let dialled = |peer: &Value| peer["host"] == host.as_str() && peer["outbound"] == true;
        let there = connections.is_some_and(|all| all.iter().any(dialled));
        if there { Ok(()) } else { self.connect(&host, port) }
    }

    /// Farms transaction blocks; gives the new height.
    pub fn farm(&mut self, blocks: u64) -> Outcome<u64> {
        self.ask(&json!({ "do": "farm", "blocks": blocks }))?["height"]
            .as_u64()
            .context("the height after farming")
    }

    /// Makes it know `hosts` as peers, private ones too, and tell of them; how many it knows then.
    pub fn learn(&mut self, hosts: &[String]) -> Outcome<u64> {
        self.ask(&json!({ "do": "learn", "hosts": hosts }))?["known"]
            .as_u64()
            .context("how many peers it knows")
    }

    /// Waits until its peak is at `height`, then gives its state. `each` is asked now and then and can end the wait.
    pub fn reach(
        &mut self,
        height: u64,
        limit: Duration,
        mut each: impl FnMut() -> Outcome,
    ) -> Outcome<Value> {
        let mut last = Value::Null;
        let what = format!("{} is at height {height}", self.name);
        let reached = wait_for(what, limit, || {
            each()?;
            last = self.state()?;
            Ok((last["height"].as_u64() >= Some(height)).then(|| last.clone()))
        });
        let seen = || {
            format!(
                "height {}, {} connections, bans {}, messages {}",
                last["height"],
                last["connections"].as_array().map_or(0, Vec::len),
                last["bans"],
                last["messages"]
            )
        };
        reached.map_err(|failure| format!("{failure}; last: {}", seen()))
    }

    /// Waits until it has exactly `count` connections; gives their descriptions. The appliance's light peer, which comes as a
    /// wallet, is not counted.
    pub fn connections(&mut self, count: usize) -> Outcome<Vec<Value>> {
        let mut last = Value::Null;
        let what = format!("{} has {count} connections", self.name);
        let found = wait_for(what, PATIENCE, || {
            last = self.state()?["connections"].take();
            let peers = last.as_array().into_iter().flatten().filter(|peer| peer["type"] != "wallet");
            Ok(Some(peers.cloned().collect::<Vec<_>>()).filter(|peers| peers.len() == count))
        });
        found.map_err(|failure| format!("{failure}; last: {last}"))
    }
}

/// What became of a peer's attempt.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `accepted`, `refused` or `silent`.
    pub outcome: String,
    /// More words.
    pub detail: String,
    /// Messages that came, where it was told to ask for something.
    pub messages: Vec<Vec<u8>>,
}

/// A peer that makes one attempt, and holds what was accepted if told so.
#[derive(Debug)]
pub struct Peer {
    dialogue: Dialogue,
}

impl Peer {
    /// Starts `peer.py` with `arguments` inside `namespace`.
    pub fn start(namespace: &Namespace, arguments: &[&str]) -> Outcome<Self> {
        let mut command = namespace.command(python()?);
        command.arg(script("peer.py")?).args(arguments).stderr(Stdio::null());
        Ok(Peer { dialogue: Dialogue::start(&mut command)? })
    }

    /// How the attempt was answered, at most `limit` later.
    pub fn answer(&self, limit: Duration) -> Outcome<Answer> {
        let answer = self.dialogue.hear(limit).context("a peer")?;
        let word = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        let messages = answer["messages"].as_array().into_iter().flatten();
        let messages =
            messages.map(|text| bytes(text.as_str().unwrap_or_default())).collect::<Outcome<_>>()?;
        Ok(Answer { outcome: word("outcome"), detail: word("detail"), messages })
    }

    /// Lets go of a held session; whether it was still open.
    pub fn release(mut self) -> Outcome<bool> {
        self.dialogue.questions = None;
        let answer = self.dialogue.hear(PATIENCE).context("a held peer")?;
        answer["still_open"].as_bool().context("whether a session was open")
    }

    /// Process id, for messages.
    pub fn pid(&self) -> u32 {
        self.dialogue.process.0.id()
    }
}

/// A real wallet, which dials one node.
#[derive(Debug)]
pub struct Wallet {
    dialogue: Dialogue,
}

impl Wallet {
    /// Starts it inside `namespace`, its files under `folder`; it owns what the test chain's farmer earned.
    pub fn start(namespace: &Namespace, folder: &Path, name: &str, peer: &str) -> Outcome<Self> {
        let log = std::fs::File::create(folder.join(format!("{name}.log"))).context("creating a log")?;
        let mut command = namespace.command("nice");
        command.args(["-n", "5"]).arg(python()?).arg(script("wallet.py")?);
        command.arg("--root").arg(folder.join(name)).args(["--peer", peer]).stderr(log);
        let dialogue = Dialogue::start(&mut command)?;
        dialogue.hear(PATIENCE).context("starting a wallet")?;
        Ok(Wallet { dialogue })
    }

    /// What it knows: height, coins, connections, messages by type.
    pub fn state(&mut self) -> Outcome<Value> {
        self.dialogue.say(&json!({ "do": "state" }))?;
        self.dialogue.hear(PATIENCE).context("a wallet")
    }
}

/// A slow line between two namespaces.
#[derive(Debug)]
pub struct Line {
    dialogue: Dialogue,
}

impl Line {
    /// Lays it from the device `near` to the device `far` in another namespace, which it makes. A frame takes `delay` ms each
    /// way, and `rate` Mbit pass in a second.
    pub fn lay(
        namespace: &Namespace,
        near: &str,
        other: &Namespace,
        far: &str,
        (delay, rate): (u32, u32),
    ) -> Outcome<Self> {
        let mut command = namespace.command(python()?);
        command.arg(script("link.py")?).args([near, far]);
        command.args(["--delay", &delay.to_string(), "--rate", &rate.to_string()]);
        let dialogue = Dialogue::start(&mut command)?;
        dialogue.hear(PATIENCE).context("laying a line")?;
        namespace.give(far, other)?;
        namespace.shell(&format!("ip link set dev {near} up"))?;
        Ok(Line { dialogue })
    }

    /// Takes it away; what passed and what was lost, each way.
    pub fn cut(mut self) -> Outcome<Value> {
        self.dialogue.questions = None;
        self.dialogue.hear(PATIENCE).context("what passed a line")
    }
}

/// What hexadecimal text stands for.
fn bytes(text: &str) -> Outcome<Vec<u8>> {
    let pairs = (0..text.len()).step_by(2).map(|at| text.get(at..at + 2).unwrap_or_default());
    pairs.map(|pair| u8::from_str_radix(pair, 16).context("a message in hexadecimal")).collect()
}

/// What came in by a device while somebody listened there.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Frames.
    pub frames: u64,
    /// Addresses in their headers.
    pub addresses: Vec<String>,
    /// Those of the texts that were listened for that stood in one.
    pub texts: Vec<String>,
}

/// Somebody who listens to a device.
#[derive(Debug)]
pub struct Wire {
    dialogue: Dialogue,
}

impl Wire {
    /// Listens in `namespace` to what comes in by `device`, also for `texts`.
    pub fn listen(namespace: &Namespace, device: &str, texts: &[&str]) -> Outcome<Self> {
        let mut command = namespace.command(python()?);
        command.arg(script("wire.py")?).args(["--device", device]).args(texts);
        let dialogue = Dialogue::start(&mut command)?;
        dialogue.hear(PATIENCE).context("listening to a device")?;
        Ok(Wire { dialogue })
    }

    /// What was heard.
    pub fn end(mut self) -> Outcome<Heard> {
        self.dialogue.questions = None;
        let answer = self.dialogue.hear(PATIENCE).context("what was heard")?;
        let list = |key: &str| {
            let items = answer[key].as_array().into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let frames = answer["frames"].as_u64().context("how many frames came")?;
        Ok(Heard { frames, addresses: list("addresses"), texts: list("texts") })
    }
}

/// Sends what tries to reach `to` in every way but the right one, with `text` in it, from `namespace`; how many frames. The
/// gateway is `via`, where there is one, and `forge` another source.
pub fn intrude(namespace: &Namespace, to: &str, detour: Option<(&str, &str)>, text: &str) -> Outcome<u64> {
    let mut command = namespace.command(python()?);
    command.arg(script("intrude.py")?).args(["--to", to]);
    if let Some((via, forge)) = detour {
        command.args(["--via", via, "--forge", forge]);
    }
    let output = command.arg(text).output().context("intruding")?;
    let answer: Value = serde_json::from_slice(&output.stdout)
        .context(format_args!("intruding: {}", String::from_utf8_lossy(&output.stderr)))?;
    answer["sent"].as_u64().context("how much was sent")
}

pub(crate) fn python() -> Outcome<PathBuf> {
    let path = std::env::var_os("HEDGEROW_TEST_PYTHON");
    path.map(PathBuf::from).context("HEDGEROW_TEST_PYTHON (tests/run sets it)")
}

pub(crate) fn script(name: &str) -> Outcome<PathBuf> {
    file(&format!("nodes/{name}"))
}

/// A file of this crate, by its path within.
pub(crate) fn file(name: &str) -> Outcome<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    path.canonicalize().context(path.display())
}
