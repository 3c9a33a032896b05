//! Peers and a server that send each other streams which both can predict: every byte that arrives is compared.

use std::time::Duration;

use hedgerow_dataplane::Instant;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};

use crate::host::{App, socket};
use crate::random::Random;

/// Bytes of the order that opens a stream: seed, bytes up, bytes down.
const ORDER: usize = 16;

/// What one peer and the server do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What the bytes follow from.
    pub seed: u32,
    /// Bytes that the peer sends after the order.
    pub up: u32,
    /// Bytes that the server sends.
    pub down: u32,
    /// Milliseconds that the server waits between reads while it is told to be slow.
    pub server_pause: u32,
}

impl Order {
    fn encode(self) -> [u8; ORDER] {
        let mut bytes = [0; ORDER];
        for (place, number) in
            bytes.chunks_exact_mut(4).zip([self.seed, self.up, self.down, self.server_pause])
        {
            place.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; ORDER]) -> Self {
        let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Order { seed: number(0), up: number(4), down: number(8), server_pause: number(12) }
    }

    fn up(self) -> Stream {
        Stream::new(u64::from(self.seed) << 1, u64::from(self.up))
    }

    fn down(self) -> Stream {
        Stream::new(u64::from(self.seed) << 1 | 1, u64::from(self.down))
    }
}

/// How a peer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Sends everything, then FIN; reads to the end.
    Polite,
    /// Reads everything first, then sends.
    ReadsFirst,
    /// Stops reading for this many milliseconds after every piece.
    Slow(u32),
    /// Resets the connection once so many bytes have been sent.
    Breaks(u32),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A peer sent everything and received everything.
    PeerDone(Order),
    /// A peer's connection ended early, after so many bytes up and down.
    PeerCut(Order, u64, u64),
    /// A peer broke its connection as planned.
    PeerBroke(Order),
    /// The server received everything that was announced and sent everything.
    ServerDone(Order),
    /// A byte differs from what was sent, at this place.
    Corrupted(Order, &'static str, u64),
    /// More arrived than was sent.
    Surplus(Order, &'static str),
}

/// A predictable stream of bytes.
#[derive(Clone, Debug)]
struct Stream {
    random: Random,
    word: [u8; 8],
    at: u64,
    length: u64,
}

impl Stream {
    fn new(seed: u64, length: u64) -> Self {
        Stream { random: Random::new(seed), word: [0; 8], at: 0, length }
    }

    fn left(&self) -> u64 {
        self.length - self.at
    }

    fn next(&mut self) -> u8 {
        let place = (self.at % 8) as usize;
        if place == 0 {
            self.word = self.random.next().to_le_bytes();
        }
        self.at += 1;
        self.word[place]
    }

    /// Sends what the socket has room for.
    fn send(&mut self, socket: &mut tcp::Socket<'_>) {
        while self.left() > 0 && socket.can_send() {
            let left = self.left();
            let sent = socket.send(|space| {
                let count = left.min(space.len() as u64) as usize;
                space[..count].fill_with(|| self.next());
                (count, count)
            });
            if sent.is_err() || sent == Ok(0) {
                return;
            }
        }
    }

    /// Compares up to `most` received bytes; the place of the first that differs is an error.
    fn receive(&mut self, socket: &mut tcp::Socket<'_>, most: usize) -> Result<usize, Bad> {
        let mut taken = 0;
        while taken < most && socket.can_recv() {
            let outcome = socket.recv(|bytes| {
                let count = bytes.len().min(most - taken);
                let bad = bytes[..count].iter().find_map(|&byte| match self.left() {
                    0 => Some(Bad::Surplus),
                    _ => {
                        let at = self.at;
                        (self.next() != byte).then_some(Bad::Differs(at))
                    }
                });
                (count, bad.map_or(Ok(count), Err))
            });
            match outcome {
                Ok(result) => taken += result?,
                Err(_) => break,
            }
        }
        Ok(taken)
    }
}

enum Bad {
    Differs(u64),
    Surplus,
}

impl Bad {
    fn note(self, order: Order, way: &'static str) -> Note {
        match self {
            Bad::Differs(at) => Note::Corrupted(order, way, at),
            Bad::Surplus => Note::Surplus(order, way),
        }
    }
}

/// A peer with one connection.
pub struct Peer {
    order: Order,
    manner: Manner,
    opening: Vec<u8>,
    up: Stream,
    down: Stream,
    resume: Instant,
    done: bool,
}

impl Peer {
    /// A peer that has just begun to connect.
    pub fn new(order: Order, manner: Manner) -> Self {
        Peer {
            order,
            manner,
            opening: order.encode().to_vec(),
            up: order.up(),
            down: order.down(),
            resume: Instant::ZERO,
            done: false,
        }
    }

    fn end(&mut self, note: Note, notes: &mut Vec<Note>) {
        notes.push(note);
        self.done = true;
    }

    fn send(&mut self, socket: &mut tcp::Socket<'_>) {
        if !self.opening.is_empty() {
            let sent = socket.send_slice(&self.opening).unwrap_or(0);
            self.opening.drain(..sent);
        }
        let held = self.manner == Manner::ReadsFirst && self.down.left() > 0;
        if self.opening.is_empty() && !held {
            self.up.send(socket);
            if self.up.left() == 0 {
                socket.close();
            }
        }
    }
}

impl App<Note> for Peer {
    fn drive(
        &mut self,
        now: Instant,
        sockets: &mut SocketSet<'static>,
        notes: &mut Vec<Note>,
    ) -> Option<Instant> {
        let order = self.order;
        let (_, socket) = sockets.iter_mut().next()?;
        let smoltcp::socket::Socket::Tcp(socket) = socket;
        if self.done {
            return None;
        }
        let mut wake = None;
        if let Manner::Breaks(after) = self.manner
            && self.up.at >= u64::from(after)
        {
            socket.abort();
            self.end(Note::PeerBroke(order), notes);
            return None;
        }
        if now >= self.resume {
            let most = if let Manner::Slow(_) = self.manner { 2_000 } else { usize::MAX };
            match self.down.receive(socket, most) {
                Ok(taken) => {
                    if let (Manner::Slow(pause), true) = (self.manner, taken > 0) {
                        self.resume = now + Duration::from_millis(u64::from(pause));
                    }
                }
                Err(bad) => {
                    socket.abort();
                    self.end(bad.note(order, "down"), notes);
                    return None;
                }
            }
        }
        if now < self.resume {
            wake = Some(self.resume);
        }
        if socket.may_send() {
            self.send(socket);
        }
        let complete = self.opening.is_empty() && self.up.left() == 0 && self.down.left() == 0;
        match socket.state() {
            State::TimeWait | State::Closed if complete => self.end(Note::PeerDone(order), notes),
            State::TimeWait | State::Closed if !socket.can_recv() => {
                self.end(Note::PeerCut(order, self.up.at, self.down.at), notes);
            }
            _ => {}
        }
        wake
    }

    fn done(&self) -> bool {
        self.done
    }
}

/// One connection of the server.
struct Serving {
    handle: SocketHandle,
    opening: Vec<u8>,
    order: Option<(Order, Stream, Stream)>,
    resume: Instant,
    reported: bool,
}

/// The server: a number of sockets that listen again once they are free.
pub struct Server {
    port: u16,
    spare: usize,
    buffer: usize,
    serving: Vec<Serving>,
}

impl Server {
    /// A server on `port` that keeps `spare` sockets listening.
    pub fn new(port: u16, spare: usize, buffer: usize) -> Self {
        Server { port, spare, buffer, serving: Vec::new() }
    }

    fn listen(&mut self, sockets: &mut SocketSet<'static>) {
        let listening =
            |serving: &&Serving| sockets.get::<tcp::Socket>(serving.handle).state() == State::Listen;
        let ready = self.serving.iter().filter(listening).count();
        for _ in ready..self.spare {
            let mut socket = socket(self.buffer, self.buffer, true);
            if socket.listen(self.port).is_err() {
                return;
            }
            let handle = sockets.add(socket);
            let (opening, resume) = (Vec::with_capacity(ORDER), Instant::ZERO);
            self.serving.push(Serving { handle, opening, order: None, resume, reported: false });
        }
    }
}

impl Serving {
    fn drive(
        &mut self,
        now: Instant,
        socket: &mut tcp::Socket<'_>,
        notes: &mut Vec<Note>,
    ) -> Option<Instant> {
        while self.order.is_none() && socket.can_recv() {
            let wanted = ORDER - self.opening.len();
            let mut bytes = [0; ORDER];
            let count = socket.recv_slice(&mut bytes[..wanted]).unwrap_or(0);
            self.opening.extend_from_slice(&bytes[..count]);
            if let Some(opening) = self.opening.first_chunk::<ORDER>() {
                let order = Order::decode(opening);
                self.order = Some((order, order.up(), order.down()));
            }
        }
        let mut wake = None;
        if let Some((order, up, down)) = &mut self.order {
            let pause = Duration::from_millis(u64::from(order.server_pause));
            if now >= self.resume {
                let most = if pause.is_zero() { usize::MAX } else { 3_000 };
                match up.receive(socket, most) {
                    Ok(taken) if taken > 0 => self.resume = now + pause,
                    Ok(_) => {}
                    Err(bad) => {
                        notes.push(bad.note(*order, "up"));
                        socket.abort();
                        return None;
                    }
                }
            }
            wake = (now < self.resume).then_some(self.resume);
            down.send(socket);
            if down.left() == 0 && up.left() == 0 && !self.reported {
                self.reported = true;
                notes.push(Note::ServerDone(*order));
            }
            if down.left() == 0 {
                socket.close();
            }
        } else if socket.state() == State::CloseWait {
            socket.close(); // ended before it said what it wanted
        }
        wake
    }
}

impl App<Note> for Server {
    fn drive(
        &mut self,
        now: Instant,
        sockets: &mut SocketSet<'static>,
        notes: &mut Vec<Note>,
    ) -> Option<Instant> {
        let mut wake: Option<Instant> = None;
        for serving in &mut self.serving {
            let next = serving.drive(now, sockets.get_mut::<tcp::Socket>(serving.handle), notes);
            wake = [wake, next].into_iter().flatten().min();
        }
        self.serving.retain(|serving| {
            let gone = sockets.get::<tcp::Socket>(serving.handle).state() == State::Closed;
            if gone {
                sockets.remove(serving.handle);
            }
            !gone
        });
        self.listen(sockets);
        wake
    }

    fn done(&self) -> bool {
        false
    }
}
