//! The world: one virtual clock, the device's two ports, hosts behind paths that lose, delay, reorder, duplicate and
//! damage, and sources of raw frames.
//!
//! Outside, every host sits behind a router that answers for the rest of the Internet: frames are carried by IP address.
//! Inside, nodes and device share one Ethernet segment. Events at one instant happen in the order in which they were
//! scheduled, so a run follows from its seed.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Meta;
use hedgerow_dataplane::wire::Mac;
use hedgerow_port::Memory;
use sha2::{Digest, Sha256};
use smoltcp::wire::{EthernetFrame, PrettyPrinter};

use crate::host::{App, Host};
use crate::random::Random;
use crate::router;
use crate::subject::Subject;

thread_local! {
    static MILLIS: Cell<u32> = const { Cell::new(0) };
}

/// The virtual clock in milliseconds, for stacks that ask a bare function for it (TCP timestamps).
pub(crate) fn clock_millis() -> u32 {
    MILLIS.get()
}

/// Which of the device's two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The Internet.
    Public,
    /// The nodes.
    Private,
}

/// What happens to frames on their way, in one direction; chances are per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Time on the way.
    pub delay: Duration,
    /// Up to so much more, differently for each frame: frames overtake each other.
    pub jitter: Duration,
    /// Lost.
    pub loss: u32,
    /// Delivered twice.
    pub duplicate: u32,
    /// Delivered with one bit changed.
    pub corrupt: u32,
    /// Largest IP packet towards the host; a router answers longer ones (RFC 1191, RFC 8201).
    pub mtu: usize,
}

impl Path {
    /// Nothing happens but time.
    pub const fn clean(delay: Duration) -> Self {
        Path { delay, jitter: Duration::ZERO, loss: 0, duplicate: 0, corrupt: 0, mtu: usize::MAX }
    }
}

/// What happens to the first data that a host sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// It is lost.
    Lost,
    /// It comes so much later.
    Late(Duration),
}

/// A host of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(u32);

/// Something that sends raw frames to the device's public port and may listen for what comes back.
pub trait Source {
    /// When it sends next.
    fn next(&self) -> Option<Instant>;
    /// Sends what is due.
    fn fire(&mut self, now: Instant, send: &mut Vec<Vec<u8>>);
    /// Whether it answers for an address.
    fn covers(&self, address: IpAddr) -> bool;
    /// A frame for one of its addresses.
    fn hear(&mut self, now: Instant, frame: &[u8], send: &mut Vec<Vec<u8>>);
}

/// What the world counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames that reached the device's ports.
    pub to_device: u64,
    /// Frames that the device sent.
    pub from_device: u64,
    /// Frames that the device's ports had no room for.
    pub overflowed: u64,
    /// Frames of the device for addresses where nobody lives.
    pub to_nobody: u64,
    /// Frames lost on a path.
    pub lost: u64,
    /// Frames that were too long for a path.
    pub too_big: u64,
}

#[derive(Clone, Copy)]
enum Destination {
    Device(Side),
    Host(HostId),
}

struct Event {
    at: Instant,
    order: u64,
    to: Destination,
    frame: Vec<u8>,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct Resident<N> {
    host: Host,
    app: Box<dyn App<N>>,
    side: Side,
    path: Path,
    wake: Option<Instant>,
    mishap: Option<Mishap>,
}

/// The world. `N` is what its applications report.
pub struct World<N> {
    now: Instant,
    public: Memory,
    private: Memory,
    device_mac: Mac,
    events: BinaryHeap<Reverse<Event>>,
    order: u64,
    residents: BTreeMap<HostId, Resident<N>>,
    addresses: BTreeMap<IpAddr, HostId>,
    stations: BTreeMap<Mac, HostId>,
    wakes: BTreeSet<(Instant, HostId)>,
    sources: Vec<Box<dyn Source>>,
    source_path: Path,
    next_host: u32,
    random: Random,
    fingerprint: Sha256,
    traffic: Traffic,
    trace: bool,
    /// What applications reported and nobody has taken yet.
    pub notes: Vec<N>,
}

impl<N> World<N> {
    /// An empty world around the far ends of the device's ports. `device_mac` is the device's public Ethernet address.
    pub fn new(public: Memory, private: Memory, device_mac: Mac, seed: u64) -> Self {
        World {
            now: Instant::ZERO,
            public,
            private,
            device_mac,
            events: BinaryHeap::new(),
            order: 0,
            residents: BTreeMap::new(),
            addresses: BTreeMap::new(),
            stations: BTreeMap::new(),
            wakes: BTreeSet::new(),
            sources: Vec::new(),
            source_path: Path::clean(Duration::from_millis(5)),
            next_host: 0,
            random: Random::new(seed),
            fingerprint: Sha256::new(),
            traffic: Traffic::default(),
            trace: std::env::var_os("TRACE").is_some(),
            notes: Vec::new(),
        }
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What was counted.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Hosts that live now.
    pub fn population(&self) -> usize {
        self.residents.len()
    }

    /// SHA-256 over all frames to and from the device with their times, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Adds a host; it begins at once. Both directions of its way to the device behave like `path`.
    pub fn add(&mut self, side: Side, host: Host, app: Box<dyn App<N>>, path: Path) -> HostId {
        let id = HostId(self.next_host);
        self.next_host += 1;
        self.addresses.insert(host.place().address, id);
        self.stations.insert(host.place().mac, id);
        self.residents.insert(id, Resident { host, app, side, path, wake: Some(self.now), mishap: None });
        self.wakes.insert((self.now, id));
        id
    }

    /// Lets something happen to the first data that a host outside sends from now on.
    pub fn befall(&mut self, host: HostId, mishap: Mishap) {
        if let Some(resident) = self.residents.get_mut(&host) {
            resident.mishap = Some(mishap);
        }
    }

    /// Adds a source of raw frames.
    pub fn add_source(&mut self, source: Box<dyn Source>) {
        self.sources.push(source);
    }

    /// Lets time pass until `end`, with the device in the middle.
    pub fn run_until(&mut self, end: Instant, subject: &mut dyn Subject) {
        while let Some(next) = self.next(subject).filter(|next| *next <= end) {
            self.advance_clock(next);
            self.deliver();
            self.fire_sources();
            self.poll_hosts();
            self.step(subject);
        }
        self.advance_clock(end);
    }

    fn advance_clock(&mut self, to: Instant) {
        self.now = self.now.max(to);
        MILLIS.set(self.now.millis() as u32);
    }

    /// When something happens next; the device is asked again at the earliest after a millisecond where it has nothing
    /// better to offer than now.
    fn next(&self, subject: &dyn Subject) -> Option<Instant> {
        let event = self.events.peek().map(|Reverse(event)| event.at);
        let wake = self.wakes.first().map(|(at, _)| *at);
        let source = self.sources.iter().filter_map(|source| source.next()).min();
        let device = subject.deadline().map(|at| if at <= self.now { self.now + TICK } else { at });
        [event, wake, source, device].into_iter().flatten().min()
    }

    fn deliver(&mut self) {
        while self.events.peek().is_some_and(|Reverse(event)| event.at <= self.now) {
            let Some(Reverse(event)) = self.events.pop() else { return };
            match event.to {
                Destination::Device(side) => {
                    self.hash(side, b'>', &event.frame);
                    let port = if side == Side::Public { &mut self.public } else { &mut self.private };
                    self.traffic.to_device += 1;
                    if !port.send(&event.frame, Meta::default()) {
                        self.traffic.overflowed += 1;
                    }
                }
                Destination::Host(id) => {
                    if let Some(resident) = self.residents.get_mut(&id) {
                        resident.host.receive(event.frame);
                        self.wake(id, self.now);
                    }
                }
            }
        }
    }

    fn fire_sources(&mut self) {
        let mut sent = Vec::new();
        for source in &mut self.sources {
            if source.next().is_some_and(|at| at <= self.now) {
                source.fire(self.now, &mut sent);
            }
        }
        self.send_raw(sent);
    }

    fn send_raw(&mut self, frames: Vec<Vec<u8>>) {
        for frame in frames {
            self.carry(Destination::Device(Side::Public), frame, self.source_path);
        }
    }

    fn wake(&mut self, id: HostId, at: Instant) {
        let Some(resident) = self.residents.get_mut(&id) else { return };
        if resident.wake.is_none_or(|wake| at < wake) {
            if let Some(wake) = resident.wake {
                self.wakes.remove(&(wake, id));
            }
            resident.wake = Some(at);
            self.wakes.insert((at, id));
        }
    }

    fn poll_hosts(&mut self) {
        while let Some(&(at, id)) = self.wakes.first() {
            if at > self.now {
                return;
            }
            self.wakes.remove(&(at, id));
            let Some(resident) = self.residents.get_mut(&id) else { continue };
            resident.wake = None;
            let (frames, next) = resident.host.poll(self.now, resident.app.as_mut(), &mut self.notes);
            let (side, path, mac, done) =
                (resident.side, resident.path, resident.host.place().mac, resident.app.done());
            for frame in frames {
                self.leave_host(id, side, mac, path, frame);
            }
            match next {
                _ if done => self.remove(id),
                Some(next) => self.wake(id, next.max(self.now + Duration::from_micros(1))),
                None => {}
            }
        }
    }

    fn remove(&mut self, id: HostId) {
        let Some(resident) = self.residents.remove(&id) else { return };
        let place = resident.host.place();
        self.addresses.remove(&place.address);
        self.stations.remove(&place.mac);
    }

    fn leave_host(&mut self, id: HostId, side: Side, mac: Mac, path: Path, mut frame: Vec<u8>) {
        if side == Side::Private {
            return self.carry(Destination::Device(side), frame, path);
        }
        if let Some(answer) = router::answer(&frame) {
            // The router is next door: its answers do not travel the path.
            return self.schedule(Destination::Host(id), answer, self.now + HOP);
        }
        debug_assert_eq!(frame[6..12], mac.0);
        if router::carries(&frame) {
            router::address(&mut frame, self.device_mac);
            let delay = match self.mishap(id, &frame) {
                Some(Mishap::Lost) => {
                    self.traffic.lost += 1;
                    return;
                }
                Some(Mishap::Late(late)) => path.delay + late,
                None => path.delay,
            };
            self.carry(Destination::Device(side), frame, Path { delay, ..path });
        }
    }

    /// What happens to this frame, where it is the first of its host that carries data.
    fn mishap(&mut self, id: HostId, frame: &[u8]) -> Option<Mishap> {
        let resident = self.residents.get_mut(&id).filter(|_| router::has_data(frame))?;
        resident.mishap.take()
    }

    /// Lets the device work until it has nothing left to do now.
    fn step(&mut self, subject: &mut dyn Subject) {
        for _ in 0..ROUNDS {
            let waiting = subject.deadline().is_some_and(|at| at <= self.now);
            subject.step(self.now);
            let sent = self.collect(Side::Public) + self.collect(Side::Private);
            if sent == 0 && !waiting {
                return;
            }
        }
    }

    fn collect(&mut self, side: Side) -> usize {
        let mut frames = Vec::new();
        let port = if side == Side::Public { &mut self.public } else { &mut self.private };
        port.take(|bytes, _| frames.push(bytes.to_vec()));
        let count = frames.len();
        for frame in frames {
            self.hash(side, b'<', &frame);
            self.traffic.from_device += 1;
            match side {
                Side::Public => self.route_outside(frame),
                Side::Private => self.switch_inside(frame),
            }
        }
        count
    }

    fn route_outside(&mut self, mut frame: Vec<u8>) {
        if let Some(answer) = router::answer(&frame) {
            return self.schedule(Destination::Device(Side::Public), answer, self.now + HOP);
        }
        let Some(address) = router::destination(&frame) else { return };
        if let Some(&id) = self.addresses.get(&address) {
            let Some(resident) = self.residents.get(&id) else { return };
            let path = resident.path;
            if let Some(answer) = router::too_big(&frame, path.mtu, self.device_mac) {
                self.traffic.too_big += 1;
                return self.carry(Destination::Device(Side::Public), answer, path);
            }
            router::address(&mut frame, resident.host.place().mac);
            return self.carry(Destination::Host(id), frame, path);
        }
        let mut sent = Vec::new();
        match self.sources.iter_mut().find(|source| source.covers(address)) {
            Some(source) => source.hear(self.now, &frame, &mut sent),
            None => self.traffic.to_nobody += 1,
        }
        self.send_raw(sent);
    }

    fn switch_inside(&mut self, frame: Vec<u8>) {
        let Some(&to) = frame.first_chunk::<6>() else { return };
        let inside = |resident: &Resident<N>| resident.side == Side::Private;
        let receivers: Vec<(HostId, Path)> = if Mac(to).is_group() {
            self.residents.iter().filter(|(_, r)| inside(r)).map(|(id, r)| (*id, r.path)).collect()
        } else {
            let station = self.stations.get(&Mac(to));
            station.and_then(|id| self.residents.get(id).map(|r| (*id, r.path))).into_iter().collect()
        };
        for (id, path) in receivers {
            self.carry(Destination::Host(id), frame.clone(), path);
        }
    }

    /// Sends a frame along a path.
    fn carry(&mut self, to: Destination, mut frame: Vec<u8>, path: Path) {
        let random = &mut self.random;
        if random.chance(path.loss) {
            self.traffic.lost += 1;
            return;
        }
        if random.chance(path.corrupt) && !frame.is_empty() {
            let bit = random.below(frame.len() as u64 * 8) as usize;
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        let jitter = path.jitter.as_micros() as u64;
        let at = self.now + path.delay + random.micros(0, jitter.max(1));
        if random.chance(path.duplicate) {
            let later = at + random.micros(0, jitter.max(1_000));
            self.schedule(to, frame.clone(), later);
        }
        self.schedule(to, frame, at);
    }

    fn schedule(&mut self, to: Destination, frame: Vec<u8>, at: Instant) {
        self.order += 1;
        self.events.push(Reverse(Event { at, order: self.order, to, frame }));
    }

    fn hash(&mut self, side: Side, way: u8, frame: &[u8]) {
        if self.trace {
            eprintln!("{:?} {side:?} {}", self.now, trace(way, frame));
        }
        self.fingerprint.update(self.now.micros().to_be_bytes());
        self.fingerprint.update([side as u8, way]);
        self.fingerprint.update((frame.len() as u32).to_be_bytes());
        self.fingerprint.update(frame);
    }
}

/// A frame in one line, for whoever repeats a seed with `TRACE=1`.
fn trace(way: u8, frame: &[u8]) -> String {
    let text = PrettyPrinter::<EthernetFrame<&[u8]>>::new("", &frame).to_string();
    format!(
        "{} {}",
        char::from(way),
        text.split('\n').map(|line| line.trim_start_matches([' ', '\\'])).collect::<Vec<_>>().join(" | ")
    )
}

/// How long the device is left alone when it wants to be called at once again and again.
const TICK: Duration = Duration::from_millis(1);
/// Time to the next station on the same wire.
const HOP: Duration = Duration::from_micros(50);
/// Rounds that the device may take at one instant.
const ROUNDS: usize = 256;
