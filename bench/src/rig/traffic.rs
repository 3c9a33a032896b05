//! Honest traffic: servers that echo or swallow, clients that connect, ask sixteen bytes, and leave. Each is one thread
//! with an event loop of its own, so that thousands of connections cost no thread each.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hedgerow_tests::rig::Namespace;
use hedgerow_tests::{Context, Outcome};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::pin;
use super::world::sources;

/// What a server does with what it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Sends it back.
    Echo,
    /// Drops it without copying it.
    Swallow,
}

/// Connections that a server can hold: descriptors are few where a process may not raise its limit.
const CONNECTIONS: usize = 9_000;
const EVENTS: usize = 256;
/// Bytes of a client's question and of its answer.
pub const QUESTION: usize = 16;

/// A server in a namespace; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    thread: Option<JoinHandle<Outcome>>,
}

impl Server {
    /// Listens on all addresses of the namespace, at each of `ports`.
    pub fn start(namespace: &Namespace, ports: Range<u16>, answer: Answer, core: usize) -> Outcome<Self> {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, receiving) = (stop.clone(), received.clone());
        let thread = namespace.enter(move || {
            let listeners = ports.map(listen).collect::<Outcome<Vec<OwnedFd>>>()?;
            Ok(thread::spawn(move || {
                pin(None, core)?;
                serve(&listeners, answer, &stopping, &receiving)
            }))
        })?;
        Ok(Server { stop, received, thread: Some(thread) })
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(port: u16) -> Outcome<OwnedFd> {
    let socket = stream_socket()?;
    sockopt::set_socket_reuseaddr(&socket, true).context("listening")?;
    let address = SocketAddrV4::new([0, 0, 0, 0].into(), port);
    rustix::net::bind(&socket, &address).context(format_args!("binding port {port}"))?;
    rustix::net::listen(&socket, 65_535).context("listening")?;
    Ok(socket)
}

fn stream_socket() -> Outcome<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).context("a socket")
}

/// An epoll descriptor and its room for events.
struct Loop {
    epoll: OwnedFd,
    events: [MaybeUninit<Event>; EVENTS],
}

impl Loop {
    fn new() -> Outcome<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("an epoll descriptor")?;
        Ok(Loop { epoll, events: [MaybeUninit::uninit(); EVENTS] })
    }

    fn add(&self, source: impl AsFd, data: u64, flags: EventFlags) -> Outcome {
        epoll::add(&self.epoll, source, EventData::new_u64(data), flags).context("watching a socket")
    }

    /// Events within `patience`.
    fn wait(&mut self, patience: Duration) -> Outcome<Vec<(u64, EventFlags)>> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
        match epoll::wait(&self.epoll, &mut self.events[..], Some(&timeout)) {
            Ok((ready, _)) => Ok(ready.iter().map(|event| (event.data.u64(), event.flags)).collect()),
            Err(Errno::INTR) => Ok(vec![]),
            Err(error) => Err(error).context("waiting"),
        }
    }
}

/// Things by number; freed numbers are used again.
struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Slots<T> {
    fn new() -> Self {
        Slots { slots: vec![], free: vec![] }
    }

    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, value: T) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.slots[index] = Some(value);
                index
            }
            None => {
                self.slots.push(Some(value));
                self.slots.len() - 1
            }
        }
    }

    fn get(&mut self, index: usize) -> Option<&mut T> {
        self.slots.get_mut(index)?.as_mut()
    }

    fn remove(&mut self, index: usize) -> Option<T> {
        let taken = self.slots.get_mut(index)?.take();
        self.free.extend(taken.is_some().then_some(index));
        taken
    }
}

fn serve(listeners: &[OwnedFd], answer: Answer, stop: &AtomicBool, received: &AtomicU64) -> Outcome {
    let mut watch = Loop::new()?;
    let first = listeners.len();
    for (index, listener) in listeners.iter().enumerate() {
        watch.add(listener, index as u64, EventFlags::IN)?;
    }
    let mut connections: Slots<OwnedFd> = Slots::new();
    let mut buffer = vec![0; 1 << 18];
    while !stop.load(Ordering::Relaxed) {
        for (data, _) in watch.wait(Duration::from_millis(20))? {
            let index = data as usize;
            if let Some(listener) = listeners.get(index) {
                accept(listener, &watch, first, &mut connections)?;
                continue;
            }
            let Some(connection) = connections.get(index - first) else { continue };
            match respond(connection, answer, &mut buffer) {
                Some(bytes) => drop(received.fetch_add(bytes as u64, Ordering::Relaxed)),
                None => drop(connections.remove(index - first)),
            }
        }
    }
    Ok(())
}

fn accept(listener: &OwnedFd, watch: &Loop, first: usize, connections: &mut Slots<OwnedFd>) -> Outcome {
    for _ in 0..64 {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let Ok(connection) = rustix::net::accept_with(listener, flags) else { return Ok(()) };
        if connections.len() < CONNECTIONS {
            let index = connections.insert(connection);
            let Some(connection) = connections.get(index) else { continue };
            watch.add(connection, (first + index) as u64, EventFlags::IN)?;
        }
    }
    Ok(())
}

/// Deals with what a connection brought; `None` at its end.
fn respond(connection: &OwnedFd, answer: Answer, buffer: &mut [u8]) -> Option<usize> {
    // A TCP socket forgets what is read with this flag, without copying it.
    let flags = if answer == Answer::Swallow { RecvFlags::TRUNC } else { RecvFlags::empty() };
    match rustix::net::recv(connection, &mut *buffer, flags) {
        Ok((_, 0)) => None,
        Ok((_, bytes)) if answer == Answer::Echo => {
            rustix::net::send(connection, &buffer[..bytes], SendFlags::NOSIGNAL).ok().map(|_| bytes)
        }
        Ok((_, bytes)) => Some(bytes),
        Err(Errno::AGAIN | Errno::INTR) => Some(0),
        Err(_) => None,
    }
}

/// How clients come.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Where to.
    pub target: SocketAddrV4,
    /// At most so many at one time.
    pub at_once: usize,
    /// At most so many new ones a second.
    pub per_second: f64,
    /// An attempt that takes longer has failed.
    pub patience: Duration,
    /// Keep connections that were answered, rather than close them.
    pub keep: bool,
    /// Stop after so many attempts.
    pub attempts: usize,
}

impl Load {
    /// As many as possible, `at_once` at a time.
    pub fn closed(target: SocketAddrV4, at_once: usize) -> Self {
        Load {
            target,
            at_once,
            per_second: f64::INFINITY,
            patience: Duration::from_secs(5),
            keep: false,
            attempts: usize::MAX,
        }
    }

    /// `per_second` new ones, whatever becomes of the others.
    pub fn open(target: SocketAddrV4, per_second: f64, patience: Duration) -> Self {
        Load { per_second, patience, ..Load::closed(target, 6_000) }
    }
}

/// What became of clients.
#[derive(Debug, Default)]
pub struct Tally {
    /// From connecting to the answer, of those that were answered.
    pub times: Vec<Duration>,
    /// Refused, reset or out of patience.
    pub failed: usize,
    /// Connections that are still open, if they were to be kept.
    pub kept: Vec<OwnedFd>,
}

impl Tally {
    /// The time within which a share of the answers came.
    pub fn quantile(&self, share: f64) -> Duration {
        let mut times = self.times.clone();
        times.sort_unstable();
        let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
        times.get(at).copied().unwrap_or_default()
    }

    /// Answered, of all that were tried.
    pub fn success(&self) -> f64 {
        self.times.len() as f64 / (self.times.len() + self.failed).max(1) as f64
    }
}

/// One client's connection.
struct Attempt {
    socket: OwnedFd,
    since: Instant,
    asked: bool,
    heard: usize,
}

/// Lets clients come for `length`, from `namespace`; returns when the last of them has its answer or no patience left.
pub fn clients(namespace: &Namespace, load: Load, length: Duration, core: usize) -> Outcome<Tally> {
    namespace.enter(move || {
        pin(None, core)?;
        let (watch, attempts, tally) = (Loop::new()?, Slots::new(), Tally::default());
        Clients { load, watch, attempts, begun: 0, sources: sources().collect(), tally }.run(length)
    })
}

struct Clients {
    load: Load,
    watch: Loop,
    attempts: Slots<Attempt>,
    begun: usize,
    sources: Vec<Ipv4Addr>,
    tally: Tally,
}

impl Clients {
    fn run(mut self, length: Duration) -> Outcome<Tally> {
        let begin = Instant::now();
        let mut looked = begin;
        loop {
            let elapsed = begin.elapsed();
            let due = (elapsed.as_secs_f64() * self.load.per_second).min(self.load.attempts as f64) as usize;
            let going = elapsed < length && self.begun < self.load.attempts;
            while going && self.begun < due && self.attempts.len() < self.load.at_once {
                self.begin()?;
            }
            if !going && self.attempts.len() == 0 {
                return Ok(self.tally);
            }
            let now = Instant::now();
            for (data, flags) in self.watch.wait(Duration::from_millis(1))? {
                self.step(data as usize, flags);
            }
            if now - looked > Duration::from_millis(50) {
                looked = now;
                self.expire(now);
            }
        }
    }

    fn begin(&mut self) -> Outcome {
        self.begun += 1;
        let socket = stream_socket()?;
        let from = self.sources[self.begun % self.sources.len()];
        rustix::net::bind(&socket, &SocketAddrV4::new(from, 0)).context("an address of the client's")?;
        match rustix::net::connect(&socket, &self.load.target) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => {
                self.tally.failed += 1;
                return Ok(());
            }
        }
        let attempt = Attempt { socket, since: Instant::now(), asked: false, heard: 0 };
        let index = self.attempts.insert(attempt);
        let Some(attempt) = self.attempts.get(index) else { return Ok(()) };
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
        self.watch.add(&attempt.socket, index as u64, flags)
    }

    fn step(&mut self, index: usize, flags: EventFlags) {
        let Some(attempt) = self.attempts.get(index) else { return };
        let open = !flags.intersects(EventFlags::ERR | EventFlags::HUP) && attempt.go_on(flags);
        if open && attempt.heard < QUESTION {
            return;
        }
        let done = attempt.heard >= QUESTION;
        let Some(attempt) = self.attempts.remove(index) else { return };
        if done {
            self.tally.times.push(attempt.since.elapsed());
            if self.load.keep {
                // Nobody waits for it any more; the loop's descriptor forgets it when it is closed.
                let _ = epoll::delete(&self.watch.epoll, &attempt.socket);
                self.tally.kept.push(attempt.socket);
            }
        } else {
            self.tally.failed += 1;
        }
    }

    fn expire(&mut self, now: Instant) {
        for index in 0..self.attempts.slots.len() {
            let late = |attempt: &mut Attempt| now.duration_since(attempt.since) > self.load.patience;
            if self.attempts.get(index).is_some_and(late) {
                self.attempts.remove(index);
                self.tally.failed += 1;
            }
        }
    }
}

impl Attempt {
    /// Asks once connected, hears what there is; false at an end.
    fn go_on(&mut self, flags: EventFlags) -> bool {
        if !self.asked && flags.contains(EventFlags::OUT) {
            self.asked = true;
            if rustix::net::send(&self.socket, &[7; QUESTION], SendFlags::NOSIGNAL) != Ok(QUESTION) {
                return false;
            }
        }
        if flags.contains(EventFlags::IN) {
            let mut answer = [0; QUESTION];
            match rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty()) {
                Ok((_, 0)) => return false,
                Ok((_, bytes)) => self.heard += bytes,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

/// A connection that was there before: a pattern goes out and comes back, kilobyte by kilobyte, each compared.
#[derive(Debug)]
pub struct Conversation {
    stop: Arc<AtomicBool>,
    /// How long each turn took.
    turns: Arc<Mutex<Vec<Duration>>>,
    thread: JoinHandle<Outcome<u64>>,
}

impl Conversation {
    /// Connects and begins. One kilobyte every few milliseconds.
    pub fn start(namespace: &Namespace, target: SocketAddrV4, core: usize) -> Outcome<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, turns) = (stop.clone(), Arc::<Mutex<Vec<Duration>>>::default());
        let telling = turns.clone();
        let thread = namespace.enter(move || {
            let limit = Duration::from_secs(20);
            let stream = std::net::TcpStream::connect_timeout(&target.into(), limit).context("connecting")?;
            stream.set_read_timeout(Some(limit)).context("a deadline")?;
            stream.set_nodelay(true).context("an option")?;
            Ok(thread::spawn(move || converse(stream, core, &stopping, &telling)))
        })?;
        Ok(Conversation { stop, turns, thread })
    }

    /// How long each turn took since this was asked last.
    pub fn turns(&self) -> Vec<Duration> {
        std::mem::take(&mut self.turns.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Ends it; bytes that came back as they went, or what went wrong.
    pub fn end(self) -> Outcome<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "a conversation panicked".to_owned())?
    }
}

fn converse(
    mut stream: std::net::TcpStream,
    core: usize,
    stop: &AtomicBool,
    turns: &Mutex<Vec<Duration>>,
) -> Outcome<u64> {
    use std::io::{Read, Write};
    pin(None, core)?;
    let (mut said, mut heard) = ([0; 1024], [0; 1024]);
    let mut turn = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        hedgerow_tests::pattern::fill(turn, 0, &mut said);
        let begin = Instant::now();
        stream.write_all(&said).context("an established session, sending")?;
        stream.read_exact(&mut heard).context("an established session, receiving")?;
        if said != heard {
            return Err(format!("an established session was garbled in turn {turn}"));
        }
        turn += 1;
        turns.lock().unwrap_or_else(PoisonError::into_inner).push(begin.elapsed());
        thread::sleep(Duration::from_millis(5));
    }
    Ok(turn * said.len() as u64)
}

/// Streams from client to node, as much as goes; they end when dropped.
#[derive(Debug)]
pub struct Bulk {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Bulk {
    /// Starts `streams` of them.
    pub fn start(namespace: &Namespace, target: SocketAddrV4, streams: usize, core: usize) -> Outcome<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let threads = namespace.enter(move || {
            (0..streams)
                .map(|_| {
                    let stream = std::net::TcpStream::connect_timeout(&target.into(), Duration::from_secs(5))
                        .context("connecting")?;
                    stream.set_write_timeout(Some(Duration::from_secs(1))).context("a deadline")?;
                    let stopping = stopping.clone();
                    Ok(thread::spawn(move || write(stream, core, &stopping)))
                })
                .collect::<Outcome<Vec<_>>>()
        })?;
        Ok(Bulk { stop, threads })
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn write(mut stream: std::net::TcpStream, core: usize, stop: &AtomicBool) {
    let chunk = vec![0x42; 1 << 18];
    if pin(None, core).is_err() {
        return;
    }
    while !stop.load(Ordering::Relaxed) {
        if std::io::Write::write(&mut stream, &chunk).is_err() {
            return;
        }
    }
}
