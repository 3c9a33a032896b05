//! A crowd of simulated peers, as good ones behave: each connects from an address of its own, keeps its session, answers
//! pings and farewells, and comes back when it was closed. Some ask for something all the time, the others only listen.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::check::{Context, Outcome, wait_for};
use crate::peers::{self, FULL_NODE, Session, WALLET};
use crate::rig::Namespace;

/// Between two requests of a peer that asks all the time.
const BUSY: Duration = Duration::from_millis(800);
/// Opcodes of WebSocket frames (RFC 6455, section 11.8).
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const BINARY: u8 = 2;
/// A Chia message.
const HANDSHAKE: u8 = 1;

/// A peer of a crowd.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Its own address.
    pub from: Ipv4Addr,
    /// [`FULL_NODE`] or [`WALLET`].
    pub kind: u8,
    /// It asks all the time, while the crowd is told to.
    pub busy: bool,
}

/// How a session ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// When.
    pub at: Instant,
    /// The peer's address and port.
    pub was: SocketAddr,
    /// The code of the close frame, where one came.
    pub code: Option<u16>,
    /// It was in the middle of asking all the time.
    pub busy: bool,
}

/// What became of a peer.
#[derive(Debug, Default)]
pub struct Record {
    /// Its own address and port, while it is connected.
    pub at: Option<SocketAddr>,
    /// Handshakes that were answered.
    pub joined: usize,
    /// Attempts that were not.
    pub refused: Vec<String>,
    /// Ends of its sessions.
    pub ends: Vec<End>,
    /// Peaks that it was told of.
    pub peaks: usize,
    /// Answers to what it asked for.
    pub answers: usize,
    connection: Option<TcpStream>,
}

/// Peers; their sessions end when it is dropped.
#[derive(Debug)]
pub struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddrV4,
    network: &'static str,
    stop: AtomicBool,
    /// Whether those that ask all the time do so.
    busy: AtomicBool,
    records: Vec<Mutex<Record>>,
}

impl Shared {
    fn record(&self, index: usize) -> MutexGuard<'_, Record> {
        self.records[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits, but not for longer than the crowd is there.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stop.load(Ordering::Relaxed) && Instant::now() < until {
            std::thread::sleep(time.min(Duration::from_millis(50)));
        }
    }
}

impl Crowd {
    /// Sends peers of `namespace` to `target`. `first` is the number of the first one's identity.
    pub fn start(
        namespace: &Namespace,
        target: SocketAddrV4,
        network: &'static str,
        first: u64,
        manners: &[Manner],
    ) -> Outcome<Self> {
        let identities = peers::identities(first, manners.len() as u64)?;
        let records = manners.iter().map(|_| Mutex::default()).collect();
        let (stop, busy) = (AtomicBool::new(false), AtomicBool::new(true));
        let shared = Arc::new(Shared { target, network, stop, busy, records });
        let sharing = shared.clone();
        let threads = namespace.enter(move || {
            let peer = |(index, (identity, manner)): (usize, (Arc<ClientConfig>, &Manner))| {
                let (shared, manner) = (sharing.clone(), *manner);
                let life = move || live(&shared, index, &identity, manner);
                std::thread::Builder::new().stack_size(256 << 10).spawn(life).context("a peer's thread")
            };
            identities.into_iter().zip(manners).enumerate().map(peer).collect::<Outcome<Vec<_>>>()
        })?;
        Ok(Crowd { shared, threads })
    }

    /// Looks at every peer.
    pub fn each<T>(&self, look: impl Fn(&Record) -> T) -> Vec<T> {
        (0..self.threads.len()).map(|index| look(&self.shared.record(index))).collect()
    }

    /// How many peers something is true of.
    pub fn count(&self, holds: impl Fn(&Record) -> bool) -> usize {
        self.each(holds).into_iter().filter(|held| *held).count()
    }

    /// Lets those that ask all the time ask, or only listen.
    pub fn be_busy(&self, busy: bool) {
        self.shared.busy.store(busy, Ordering::Relaxed);
    }

    /// Waits until every peer has a session.
    pub fn all_served(&self, what: &str, limit: Duration) -> Outcome {
        let all = self.threads.len();
        wait_for(format_args!("all {all} peers are served {what}"), limit, || {
            Ok((self.count(|record| record.at.is_some()) == all).then_some(()))
        })
        .map_err(|failure| {
            let refused: Vec<_> =
                self.each(|record| record.refused.last().cloned()).into_iter().flatten().collect();
            format!("{failure}; {} are; last words: {refused:?}", self.count(|record| record.at.is_some()))
        })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for index in 0..self.threads.len() {
            if let Some(connection) = &self.shared.record(index).connection {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A peer's life: sessions, one after the other.
fn live(shared: &Shared, index: usize, identity: &Arc<ClientConfig>, manner: Manner) {
    // They do not all come at one instant, neither the first time nor when they come back.
    let step = Duration::from_millis(20 * (index as u64 * 7919 % 100));
    shared.pause(step);
    while !shared.stop.load(Ordering::Relaxed) {
        match join(shared, identity, manner) {
            Ok(mut session) => {
                let connection = session.connection();
                let (at, connection) = (connection.local_addr(), connection.try_clone());
                let (Ok(was), Ok(connection)) = (at, connection) else { continue };
                let mut record = shared.record(index);
                (record.at, record.connection) = (Some(was), Some(connection));
                record.joined += 1;
                drop(record);
                let code = attend(shared, index, &mut session, manner).ok().flatten();
                let mut record = shared.record(index);
                (record.at, record.connection) = (None, None);
                let busy = manner.busy && shared.busy.load(Ordering::Relaxed);
                record.ends.push(End { at: Instant::now(), was, code, busy });
            }
            Err(error) => shared.record(index).refused.push(error.to_string()),
        }
        shared.pause(Duration::from_millis(300) + step);
    }
}

fn join(shared: &Shared, identity: &Arc<ClientConfig>, manner: Manner) -> io::Result<Session> {
    let mut session = Session::start(identity, peers::tcp(manner.from, shared.target, None)?)?;
    session.upgrade("")?;
    session.say_whole(&peers::handshake_as(shared.network, manner.kind))?;
    match session.hear()? {
        (BINARY, answer) if answer.first() == Some(&HANDSHAKE) => {}
        (CLOSE, farewell) => return Err(io::Error::other(format!("closed with {:?}", code(&farewell)))),
        other => return Err(io::Error::other(format!("answered with {other:?}"))),
    }
    // A node may say nothing for long.
    session.connection().set_read_timeout(None)?;
    Ok(session)
}

/// The code in a close frame.
fn code(farewell: &[u8]) -> Option<u16> {
    farewell.first_chunk().map(|code| u16::from_be_bytes(*code))
}

/// Listens, and asks, until the session ends; the code that it was closed with.
fn attend(shared: &Shared, index: usize, session: &mut Session, manner: Manner) -> io::Result<Option<u16>> {
    // Messages by number: request, the first of its answers, and the announcement of a new peak.
    let (request, answer, peak) = match manner.kind {
        WALLET => (51, 52, 50),
        _ => (26, 27, 20),
    };
    let body: &[u8] = if manner.kind == FULL_NODE { &[0, 0, 0, 1, 0] } else { &[0, 0, 0, 1] };
    let mut awaits = false;
    let mut number = 0;
    loop {
        if manner.busy && !awaits && shared.busy.load(Ordering::Relaxed) {
            shared.pause(BUSY);
            session.say(request, Some(number), body)?;
            (awaits, number) = (true, number.wrapping_add(1) & 0x7fff);
        }
        match session.hear()? {
            (PING, payload) => session.write(&peers::frame(PONG, false, &payload))?,
            (CLOSE, payload) => {
                session.write(&peers::frame(CLOSE, false, &payload))?;
                return Ok(code(&payload));
            }
            (BINARY, message) if message.first() == Some(&peak) => shared.record(index).peaks += 1,
            (BINARY, message) if message.first().is_some_and(|kind| (answer..answer + 2).contains(kind)) => {
                shared.record(index).answers += 1;
                awaits = false;
            }
            _ => {}
        }
    }
}
