//! `node-under-attack`: a real, stock full node that anybody can reach, and the same node behind Hedgerow, under the same
//! attackers; and, as the reference, the same attackers against a server that only swallows.
//!
//! In each phase the node's own RPC is asked some twenty times a second; halfway a second node, an honest peer that was
//! there before, farms a block: how long until the RPC knows it? And a newcomer connects: how long until its handshake is
//! answered? Each of the three has a node of its own, so that what an attack leaves behind in one is not seen in another;
//! within one, attacks follow each other, as they would. Attackers, nodes and clients share the first core, attackers
//! with the lowest priority; the box has the last one.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hedgerow_tests::application::{Rpc, rpc_identity};
use hedgerow_tests::check::wait_for;
use hedgerow_tests::nodes::{Node, NodeSetup};
use hedgerow_tests::rig::Namespace;
use hedgerow_tests::{Context, Outcome};
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::{on, worlds};
use crate::plot::{Chart, Series, stack};
use crate::report::{Better, Measured, Result};
use crate::rig::attacks::{Attack, Attackers, IDENTITIES};
use crate::rig::contestant::CHIA;
use crate::rig::frames::Kind;
use crate::rig::peers::{self, Session};
use crate::rig::time::BoxTime;
use crate::rig::traffic::{Answer as Reply, Server};
use crate::rig::{Contestant, Link, OUTSIDE, World, pin};
use crate::{Answer, Settings};

/// Blocks of the test chain that both nodes begin with.
const CHAIN: u64 = 40;
/// SYNs a second of the flood.
const SYNS: u32 = 20_000;
/// Where the reference swallows, in the client's namespace.
const SINK: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 59), CHIA + 1);
/// A block that is not there after this long is called late by as much.
const BLOCK_LIMIT: Duration = Duration::from_secs(20);
/// What the issue allows: RPC p99 and memory, against the reference.
const LIMIT: f64 = 1.2;

/// The reference, and the two that are compared.
const CASES: [&str; 3] = ["null sink", "bare node", "behind Hedgerow"];

/// What the node was like during one phase.
#[derive(Clone, Copy, Debug, Default)]
struct Phase {
    p50: f64,
    p99: f64,
    block: f64,
    newcomer: f64,
    megabytes: f64,
    cpu: f64,
    tried: u64,
    done: u64,
}

/// Phases by attack: against the sink, the bare node, and the node behind Hedgerow.
type Phases = Vec<(String, [Phase; 3])>;

/// The figure.
pub fn run(settings: &Settings<'_>) -> Outcome<Answer> {
    if std::env::var_os("HEDGEROW_TEST_PYTHON").is_none() {
        return Ok(Answer::Skipped(
            "needs chia-blockchain, which bench/run installs when this figure is named".into(),
        ));
    }
    let contestants = on(Link::Frames, [Contestant::Forward, Contestant::Forward, Contestant::Chia]);
    let worlds = match worlds(&contestants, settings)? {
        Ok(worlds) => worlds,
        Err(skipped) => return Ok(skipped),
    };
    (settings.progress)("starting six nodes");
    // Children inherit the core.
    pin(None, OUTSIDE)?;
    let mut homes = worlds.iter().map(Home::new).collect::<Outcome<Vec<_>>>()?;
    let identities = Arc::new(peers::identities(1_000, IDENTITIES)?);
    let _sink = Server::start(&worlds[0].client, SINK.port()..SINK.port() + 1, Reply::Swallow, OUTSIDE)?;
    let length = if settings.quick { Duration::from_secs(4) } else { Duration::from_secs(10) };
    let mut phases: Phases = vec![];
    for attack in std::iter::once(None).chain(Attack::EACH.map(Some)) {
        let name = attack.map_or("nothing".into(), Attack::name);
        let mut row = [Phase::default(); 3];
        for (index, (world, home)) in worlds.iter().zip(&mut homes).enumerate() {
            (settings.progress)(&format!("{name}: {}", CASES[index]));
            let target = if index == 0 { SINK } else { world.target() };
            row[index] = phase(world, home, attack, target, &identities, length)
                .context(format_args!("{name}, {}", CASES[index]))?;
        }
        phases.push((name, row));
    }
    Ok(Answer::Measured(Box::new(measured(&phases))))
}

/// A protected node and its honest peer.
struct Home {
    _node: Node,
    peer: Node,
    time: BoxTime,
    rpc: Arc<ClientConfig>,
}

impl Home {
    fn new(world: &World) -> Outcome<Self> {
        let folder = world.scratch.path();
        // Behind a source that stands for all peers a node is to ban none: what the manual says about `snat`.
        let exempt: &[&str] = &["exempt_peer_networks=[\"10.2.0.1/32\"]"];
        let settings = if world.contestant == Contestant::Chia { exempt } else { &[] };
        let setup = NodeSetup { preload: CHAIN, farms: false, settings };
        let node = Node::start(&world.node, folder, "protected", setup)?;
        let setup = NodeSetup { preload: CHAIN, farms: true, settings: &[] };
        let mut peer = Node::start(&world.client, folder, "peer", setup)?;
        let time = BoxTime::new(&world.node, vec![], None)?;
        let rpc = rpc_identity(&folder.join("protected"))?;
        let target = world.target();
        peer.connect(&target.ip().to_string(), target.port())?;
        let height = peer.farm(1)?;
        let home = Home { _node: node, peer, time, rpc };
        wait_for("the node takes its peer's block", Duration::from_secs(60), || {
            let height_now = world
                .node
                .enter(|| probe(&home.rpc).and_then(|mut rpc| rpc.height()).context("the node's RPC"))?;
            Ok((height_now >= Some(height)).then_some(()))
        })?;
        Ok(home)
    }
}

/// A connection to the node's RPC, from where the node is.
fn probe(identity: &Arc<ClientConfig>) -> std::io::Result<Rpc> {
    Rpc::open(identity, Ipv4Addr::LOCALHOST, SocketAddrV4::new(Ipv4Addr::LOCALHOST, CHIA + 1_000))
}

/// What the RPC said, when, and how long it took.
#[derive(Debug, Default)]
struct Heard {
    times: Vec<Duration>,
    heights: Vec<(Instant, u64)>,
}

/// Asks the RPC until told to stop.
struct Asker {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
    thread: JoinHandle<()>,
}

impl Asker {
    fn start(node: &Namespace, identity: &Arc<ClientConfig>) -> Outcome<Self> {
        let (stop, heard): (Arc<AtomicBool>, Arc<Mutex<Heard>>) = Default::default();
        let (stopping, hearing, identity) = (stop.clone(), heard.clone(), identity.clone());
        let thread = node.enter(move || {
            Ok(std::thread::spawn(move || {
                let mut probe = None;
                while !stopping.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    if probe.is_none() {
                        probe = self::probe(&identity).ok();
                    }
                    let answer = probe.as_mut().and_then(|probe| probe.height().ok());
                    if answer.is_none() {
                        probe = None;
                    }
                    if let Ok(mut heard) = hearing.lock() {
                        heard.times.push(begin.elapsed());
                        heard.heights.extend(answer.flatten().map(|height| (Instant::now(), height)));
                    }
                    std::thread::sleep(Duration::from_millis(40));
                }
            }))
        })?;
        Ok(Asker { stop, heard, thread })
    }

    /// When a height was first heard of.
    fn known(&self, height: u64) -> Option<Instant> {
        let heard = self.heard.lock().ok()?;
        heard.heights.iter().find(|(_, known)| *known >= height).map(|(at, _)| *at)
    }

    fn end(self) -> Outcome<Vec<Duration>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the prober panicked".to_owned())?;
        let mut heard = self.heard.lock().map_err(|_| "the prober panicked".to_owned())?;
        Ok(std::mem::take(&mut heard.times))
    }
}

/// Seconds until an honest peer that nobody knows has its handshake answered; [`peers::PATIENCE`] where it never has.
fn newcomer(world: &World) -> Outcome<f64> {
    static NUMBER: AtomicU64 = AtomicU64::new(1_000_000);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let identity = peers::identities(number, 1)?.pop().context("an identity")?;
    let from = Ipv4Addr::new(10, 1, 0, 20 + (number % 30) as u8);
    let (begin, target) = (Instant::now(), world.target());
    let joined = world.client.enter(|| Ok(Session::join(&identity, from, target, None).is_ok()))?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(if joined { seconds } else { peers::PATIENCE.as_secs_f64().max(seconds) })
}

/// One attack against one target, while the node of `world` is watched.
fn phase(
    world: &World,
    home: &mut Home,
    attack: Option<Attack>,
    target: SocketAddrV4,
    identities: &Arc<Vec<Arc<ClientConfig>>>,
    length: Duration,
) -> Outcome<Phase> {
    let attackers =
        attack.map(|attack| Attackers::start(&world.attacker, attack, target, identities, OUTSIDE));
    let attackers = attackers.transpose()?;
    let floods = attack.is_some_and(Attack::floods) && target != SINK;
    let flood = if floods { Some(world.flood(Kind::Syn, SYNS)?) } else { None };
    // What the attack does to newcomers it has to do first.
    std::thread::sleep(length / 4);
    let (begin, before) = (Instant::now(), home.time.read()?);
    let asker = Asker::start(&world.node, &home.rpc)?;
    let mut most = 0;
    let mut watch = |until: Instant| -> Outcome {
        while Instant::now() < until {
            most = home.time.resident()?.max(most);
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    };
    watch(begin + length / 2)?;
    let height = home.peer.farm(1)?;
    let made = Instant::now();
    watch(begin + length)?;
    while asker.known(height).is_none() && made.elapsed() < BLOCK_LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    let newcomer = newcomer(world)?;
    let block = asker.known(height).map_or(BLOCK_LIMIT, |at| at.saturating_duration_since(made));
    let cpu = before.until(&home.time.read()?).as_secs_f64() / begin.elapsed().as_secs_f64();
    let count = |of: fn(&Attackers) -> &Arc<AtomicU64>| {
        attackers.as_ref().map_or(0, |attackers| of(attackers).load(Ordering::Relaxed))
    };
    let (tried, done) = (count(|a| &a.tried), count(|a| &a.done));
    let mut times = asker.end()?;
    drop((attackers, flood));
    times.sort_unstable();
    let quantile = |share: f64| {
        let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
        times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    // Connections that the attack leaves behind are the node's own business, not the next attack's.
    std::thread::sleep(Duration::from_secs(2));
    Ok(Phase {
        p50: quantile(0.5),
        p99: quantile(0.99),
        block: block.as_secs_f64(),
        newcomer,
        megabytes: most as f64 / 1e6,
        cpu,
        tried,
        done,
    })
}

fn measured(phases: &Phases) -> Measured {
    let worst = |phase: fn(&Phase) -> f64, index: usize| {
        phases
            .iter()
            .map(|(name, row)| (phase(&row[index]) / phase(&row[0]).max(1e-9), name))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map_or((0.0, ""), |(ratio, name)| (ratio, name.as_str()))
    };
    let (rpc, rpc_name) = worst(|p| p.p99, 2);
    let (memory, memory_name) = worst(|p| p.megabytes, 2);
    let (bare, bare_name) = worst(|p| p.p99, 1);
    let late = |index: usize| phases.iter().map(|(_, row)| row[index].block).fold(0.0, f64::max);
    let newcomer = |index: usize| {
        let row = phases.iter().max_by(|a, b| a.1[index].newcomer.total_cmp(&b.1[index].newcomer));
        row.map_or((0.0, ""), |(name, row)| (row[index].newcomer, name.as_str()))
    };
    let ours = rpc.max(memory);
    let mut result =
        Result::of("node-under-attack", "x the sink", "the limit", Better::Less, 1.0, &[ours], &[LIMIT]);
    if late(2) > 2.0 {
        result.ratio = result.ratio.min(2.0 / late(2));
    }
    result.note = format!(
        "behind Hedgerow: RPC p99 {rpc:.2}x ({rpc_name}), memory {memory:.2}x ({memory_name}), latest block {:.2} s, slowest \
         newcomer {:.2} s ({}); bare: RPC p99 {bare:.1}x ({bare_name}), latest block {:.2} s, slowest newcomer {:.2} s ({})",
        late(2),
        newcomer(2).0,
        newcomer(2).1,
        late(1),
        newcomer(1).0,
        newcomer(1).1,
    );
    let names: Vec<&str> = phases.iter().map(|(name, _)| name.as_str()).collect();
    let chart = |title: &str, y: &str, logarithmic, of: fn(&Phase) -> f64| {
        let series = CASES.iter().enumerate().map(|(index, name)| Series {
            name: (*name).into(),
            points: phases.iter().enumerate().map(|(n, (_, row))| (n as f64, of(&row[index]))).collect(),
        });
        Chart { title: title.into(), x: "attack".into(), y: y.into(), logarithmic, series: series.collect() }
            .bars(&names)
    };
    let charts = [
        chart("A full node's RPC under attack, p50", "ms", true, |p| p.p50),
        chart("A full node's RPC under attack, p99", "ms", true, |p| p.p99),
        chart("Time until the node has a new block", "s", true, |p| p.block.max(0.01)),
        chart("Time until a newcomer is served (10 s: never)", "s", true, |p| p.newcomer.max(0.01)),
        chart("The node's memory, at most", "MB", false, |p| p.megabytes),
        chart("The node's processor time", "share of a core", false, |p| p.cpu),
    ];
    let plots = vec![("", stack(&charts))];
    Measured { result, raw: raw(phases), plots }
}

fn raw(phases: &Phases) -> Value {
    let phase = |p: &Phase| {
        json!({
            "rpc_p50_ms": p.p50, "rpc_p99_ms": p.p99, "block_s": p.block, "newcomer_s": p.newcomer, "memory_mb": p.megabytes, "cpu": p.cpu,
            "steps_tried": p.tried, "steps_done": p.done,
        })
    };
    phases
        .iter()
        .map(|(name, row)| {
            json!({ "attack": name, "sink": phase(&row[0]), "bare": phase(&row[1]), "hedgerow": phase(&row[2]) })
        })
        .collect()
}
