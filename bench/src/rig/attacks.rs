//! The attackers of `node-under-attack`, each bounded in rate, in connections and in time. They run with the lowest
//! priority, so that what they need themselves does not pass for harm done to the node beside them.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hedgerow_tests::rig::Namespace;
use hedgerow_tests::{Context, Outcome};
use rustls::ClientConfig;

use super::peers::{self, Session};

/// Attackers have addresses in 10.128.0.0/9, so many of them, each in a /24 of its own.
const ADDRESSES: u64 = 1_000;
/// Connections that one attack holds at most.
const HELD: usize = 400;
/// Threads of one attack.
const THREADS: u64 = 16;
/// Identities that attackers take turns with.
pub const IDENTITIES: u64 = 600;

/// What an attacker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Connects and says nothing, so many times a second.
    Silent(u32),
    /// Finishes TLS handshakes with valid certificates, and leaves.
    Handshakes,
    /// SYNs from forged sources: the flood is not in here, see [`super::flood`].
    Syns,
    /// HTTP requests that are no upgrade, over TLS.
    Http,
    /// Messages without end after a valid handshake.
    Messages,
    /// A small message that inflates to forty MiB.
    Bomb,
    /// Whole valid sessions with fresh ids, then gone.
    Sessions,
    /// Valid sessions that stay and do nothing.
    Squatters,
    /// Requests for many blocks, all at once, the answers read.
    Requests,
    /// The same, the answers never read.
    SlowReaders,
    /// All of them.
    All,
}

impl Attack {
    /// All of them, in the order of the report.
    pub const EACH: [Attack; 12] = [
        Attack::Silent(10),
        Attack::Silent(40),
        Attack::Handshakes,
        Attack::Syns,
        Attack::Http,
        Attack::Messages,
        Attack::Bomb,
        Attack::Sessions,
        Attack::Squatters,
        Attack::Requests,
        Attack::SlowReaders,
        Attack::All,
    ];

    /// Its name in the report.
    pub fn name(self) -> String {
        match self {
            Attack::Silent(rate) => format!("silent {rate}/s"),
            Attack::Handshakes => "TLS".into(),
            Attack::Syns => "SYNs".into(),
            Attack::Http => "HTTP".into(),
            Attack::Messages => "messages".into(),
            Attack::Bomb => "bomb".into(),
            Attack::Sessions => "sessions".into(),
            Attack::Squatters => "squatters".into(),
            Attack::Requests => "requests".into(),
            Attack::SlowReaders => "slow".into(),
            Attack::All => "all".into(),
        }
    }

    /// Steps a second of all its threads together.
    fn rate(self) -> f64 {
        match self {
            Attack::Silent(rate) => f64::from(rate),
            Attack::Handshakes => 150.0,
            Attack::Http => 200.0,
            Attack::Messages => 400.0,
            Attack::Bomb => 2.0,
            Attack::Sessions => 500.0,
            Attack::Squatters => 20.0,
            Attack::Requests | Attack::SlowReaders => 10.0,
            Attack::Syns | Attack::All => 0.0,
        }
    }

    /// What it consists of.
    fn parts(self) -> Vec<Attack> {
        match self {
            Attack::All => Attack::EACH.into_iter().filter(|part| *part != Attack::All).collect(),
            one => vec![one],
        }
    }

    /// Whether SYNs flood too.
    pub fn floods(self) -> bool {
        matches!(self, Attack::Syns | Attack::All)
    }
}

/// A running attack; it stops when dropped.
#[derive(Debug)]
pub struct Attackers {
    stop: Arc<AtomicBool>,
    /// Steps that were tried.
    pub tried: Arc<AtomicU64>,
    /// Steps that went as the attacker wished.
    pub done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads of an attack share.
#[derive(Clone)]
struct Shared {
    attack: Attack,
    target: SocketAddrV4,
    identities: Arc<Vec<Arc<ClientConfig>>>,
    turn: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tried: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
}

impl Attackers {
    /// Starts an attack from `namespace`.
    pub fn start(
        namespace: &Namespace,
        attack: Attack,
        target: SocketAddrV4,
        identities: &Arc<Vec<Arc<ClientConfig>>>,
        core: usize,
    ) -> Outcome<Self> {
        let shared = Shared {
            attack,
            target,
            identities: identities.clone(),
            turn: Arc::default(),
            stop: Arc::default(),
            tried: Arc::default(),
            done: Arc::default(),
        };
        let (stop, tried, done) = (shared.stop.clone(), shared.tried.clone(), shared.done.clone());
        let threads = namespace.enter(move || {
            let mut threads = vec![];
            for part in attack.parts().into_iter().filter(|part| part.rate() > 0.0) {
                let share = if attack == Attack::All { 0.25 } else { 1.0 };
                let count = if attack == Attack::All { 4 } else { THREADS };
                for _ in 0..count {
                    let shared = Shared { attack: part, turn: shared.turn.clone(), ..shared.clone() };
                    let pace = part.rate() * share / count as f64;
                    threads.push(
                        thread::Builder::new()
                            .stack_size(256 << 10)
                            .spawn(move || attack_on(&shared, pace, core))
                            .context("an attacker's thread")?,
                    );
                }
            }
            Ok(threads)
        })?;
        Ok(Attackers { stop, tried, done, threads })
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What a thread holds on to.
#[derive(Default)]
struct Loot {
    sockets: Vec<std::net::TcpStream>,
    sessions: Vec<Session>,
}

fn attack_on(shared: &Shared, pace: f64, core: usize) {
    // The lowest priority is the thread's own: Linux keeps it per thread.
    if super::pin(None, core).is_err() || rustix::process::nice(19).is_err() {
        return;
    }
    let begin = Instant::now();
    let (mut steps, mut loot) = (0.0, Loot::default());
    while !shared.stop.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_secs_f64() * pace;
        if steps >= due {
            thread::sleep(Duration::from_millis(2));
            continue;
        }
        // Who is held up does not make up for it later.
        steps = (steps + 1.0).max(due - 1.0);
        shared.tried.fetch_add(1, Ordering::Relaxed);
        if step(shared, &mut loot).is_ok() {
            shared.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// One step of an attack.
fn step(shared: &Shared, loot: &mut Loot) -> std::io::Result<()> {
    let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
    let from = Ipv4Addr::from(0x0a80_0001 + (((turn % ADDRESSES) as u32 * 7_919 % 0x8000) << 8));
    let identity = &shared.identities[turn as usize % shared.identities.len()];
    let connect = || peers::tcp(from, shared.target, None);
    let most = HELD / THREADS as usize;
    match shared.attack {
        Attack::Silent(_) => {
            loot.sockets.push(connect()?);
            keep(&mut loot.sockets, most);
        }
        Attack::Handshakes => drop(Session::start(identity, connect()?)?),
        Attack::Http => {
            if loot.sessions.is_empty() {
                loot.sessions.push(Session::start(identity, connect()?)?);
            }
            let outcome = request(&mut loot.sessions[0]);
            if outcome.is_err() {
                loot.sessions.clear();
            }
            return outcome;
        }
        Attack::Messages => {
            if loot.sessions.is_empty() {
                loot.sessions.push(Session::join(identity, from, shared.target, None)?);
            }
            let outcome = chatter(&mut loot.sessions[0], turn);
            if outcome.is_err() {
                loot.sessions.clear();
            }
            return outcome;
        }
        Attack::Bomb => {
            let mut session = Session::start(identity, connect()?)?;
            session.upgrade("permessage-deflate")?;
            session.shake_hands()?;
            session.write(&peers::frame(2, true, &zeros(40 << 20)))?;
            thread::sleep(Duration::from_millis(200));
        }
        Attack::Sessions => drop(Session::join(identity, from, shared.target, None)?),
        Attack::Squatters => {
            loot.sessions.push(Session::join(identity, from, shared.target, None)?);
            keep(&mut loot.sessions, most);
        }
        Attack::Requests | Attack::SlowReaders => {
            let slow = shared.attack == Attack::SlowReaders;
            let buffer = slow.then_some(4096);
            let mut session = Session::join(identity, from, shared.target, buffer)?;
            for id in 0..64 {
                session.say(
                    REQUEST_BLOCKS,
                    Some(id),
                    &[&[0; 4][..], &31_u32.to_be_bytes(), &[1]].concat(),
                )?;
            }
            if slow {
                loot.sessions.push(session);
                keep(&mut loot.sessions, most);
            } else {
                let until = Instant::now() + Duration::from_secs(2);
                while Instant::now() < until && !shared.stop.load(Ordering::Relaxed) {
                    session.drain()?;
                }
            }
        }
        Attack::Syns | Attack::All => {}
    }
    Ok(())
}

/// Types of Chia messages.
const NEW_PEAK: u8 = 20;
const REQUEST_BLOCKS: u8 = 29;
const REQUEST_PEERS: u8 = 43;

/// Lets go of the oldest.
fn keep<T>(held: &mut Vec<T>, most: usize) {
    if held.len() > most {
        held.remove(0);
    }
}

fn request(session: &mut Session) -> std::io::Result<()> {
    session.write(b"GET /nothing HTTP/1.1\r\nHost: node\r\n\r\n")?;
    session.http().map(drop)
}

/// Ten messages that make a node look something up or answer.
fn chatter(session: &mut Session, turn: u64) -> std::io::Result<()> {
    for n in 0..10_u8 {
        let mut body = vec![n; 32];
        body[..8].copy_from_slice(&turn.to_be_bytes());
        body.extend([0, 0, 0, 9]); // height
        body.extend([0; 16]); // weight
        body.extend([0, 0, 0, 8]); // fork point
        body.extend([n; 32]); // unfinished reward block
        session.say(NEW_PEAK, None, &body)?;
        session.say(REQUEST_PEERS, None, &[])?;
    }
    session.drain()
}

/// `count` zeros as a raw DEFLATE stream (RFC 1951) without its last four bytes, as RFC 7692 wants it: one literal, then
/// copies of 258 bytes at distance 1 in the fixed code.
pub fn zeros(count: usize) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.put(0b010, 3); // not the last block, fixed codes
    bits.code(0b0011_0000, 8); // the literal 0
    for _ in 0..(count - 1) / 258 {
        bits.code(0b1100_0101, 8); // length 258
        bits.code(0, 5); // distance 1
    }
    for _ in 0..(count - 1) % 258 {
        bits.code(0b0011_0000, 8);
    }
    bits.code(0, 7); // end of block
    bits.put(0, 3); // an empty stored block, whose length and its complement are left out
    bits.bytes
}

/// A stream of bits, the lowest of each byte first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    /// A number, lowest bit first.
    fn put(&mut self, value: u32, count: usize) {
        for n in 0..count {
            if self.used.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> n & 1) as u8) << (self.used % 8);
            }
            self.used += 1;
        }
    }

    /// A Huffman code, highest bit first.
    fn code(&mut self, value: u32, count: usize) {
        self.put(value.reverse_bits() >> (32 - count), count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checked against another implementation: python3 -c "import zlib; zlib.decompress(bytes + b'\0\0\xff\xff', -15)".
    #[test]
    fn zeros_are_a_deflate_stream() {
        assert_eq!(zeros(1), [0b0110_0010, 0b0000_0000, 0b0000_0000]);
        assert!(zeros(40 << 20).len() < 300_000);
    }

    #[test]
    fn all_is_all_of_them() {
        assert_eq!(Attack::All.parts().len(), Attack::EACH.len() - 1);
        assert!(Attack::All.floods() && Attack::Syns.floods() && !Attack::Bomb.floods());
    }
}
