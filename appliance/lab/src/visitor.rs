//! Whoever comes to the front door with a stack of their own: good peers who sync a little, and rude ones.

use std::collections::BTreeMap;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_policy::chia::{Handshake, Message, NodeType, number};
use hedgerow_policy::tls::Credential;
use hedgerow_policy::websocket::Opcode;
use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::{self, State};

use crate::chain;
use crate::host::App;
use crate::line::{Common, Line};
use crate::node::HEIGHT;
use crate::random::Random;

/// How rude visitors go about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rudeness {
    /// Bytes that are no TLS.
    Garbage,
    /// A ClientHello's first bytes, then garbage.
    BrokenHello,
    /// An HTTP request without TLS.
    PlainHttp,
    /// TLS without a certificate.
    NoCertificate,
    /// A certificate that expired.
    ExpiredCertificate,
    /// Another path than a node's.
    WrongPath,
    /// Another Chia network.
    WrongNetwork,
    /// Another first message than the handshake.
    NoHandshake,
    /// A good beginning, then what only wallets send.
    WrongSender,
    /// A good beginning, then a message that is longer than it says.
    BadEnvelope,
    /// A good beginning, then a second handshake.
    SecondHandshake,
    /// A good beginning, then a frame without mask.
    Unmasked,
}

impl Rudeness {
    /// All of them.
    pub const ALL: [Rudeness; 12] = [
        Rudeness::Garbage,
        Rudeness::BrokenHello,
        Rudeness::PlainHttp,
        Rudeness::NoCertificate,
        Rudeness::ExpiredCertificate,
        Rudeness::WrongPath,
        Rudeness::WrongNetwork,
        Rudeness::NoHandshake,
        Rudeness::WrongSender,
        Rudeness::BadEnvelope,
        Rudeness::SecondHandshake,
        Rudeness::Unmasked,
    ];

    /// In counters and the story.
    pub const fn name(self) -> &'static str {
        match self {
            Rudeness::Garbage => "garbage",
            Rudeness::BrokenHello => "broken_hello",
            Rudeness::PlainHttp => "plain_http",
            Rudeness::NoCertificate => "no_certificate",
            Rudeness::ExpiredCertificate => "expired_certificate",
            Rudeness::WrongPath => "wrong_path",
            Rudeness::WrongNetwork => "wrong_network",
            Rudeness::NoHandshake => "no_handshake",
            Rudeness::WrongSender => "wrong_sender",
            Rudeness::BadEnvelope => "bad_envelope",
            Rudeness::SecondHandshake => "second_handshake",
            Rudeness::Unmasked => "unmasked",
        }
    }

    /// Whether the rudeness comes after a good handshake, so that a node is reached first.
    pub const fn begins_well(self) -> bool {
        matches!(
            self,
            Rudeness::WrongSender | Rudeness::BadEnvelope | Rudeness::SecondHandshake | Rudeness::Unmasked
        )
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// A good peer has the node's handshake, so long after its first SYN.
    Ready(u32, Duration),
    /// A good peer got every answer right and went away, after so many messages from the node.
    Left(u32, u32),
    /// A good peer was let down.
    Failed(u32, String),
    /// A rude visitor's connection ended.
    Refused(Rudeness),
    /// A rude visitor got what it should not.
    Served(Rudeness),
    /// A connection reached the node with a good handshake; true: by an identity not seen before.
    NodeReached(bool),
    /// A connection reached the node without one.
    NodeUnproven(String),
}

/// A good peer: handshake, a few requests, and away.
pub struct GoodPeer {
    number: u32,
    line: Line,
    network: String,
    since: Instant,
    until: Instant,
    greeted: bool,
    ready: bool,
    next_request: Instant,
    asked: BTreeMap<u16, Message>,
    next_id: u16,
    messages: u32,
    /// It asks only for blocks that nobody has.
    astray: bool,
    leaving: Option<Instant>,
    /// All is said; the stack may finish until then.
    parting: Option<Instant>,
    random: Random,
    done: bool,
}

/// A wallet hands in a transaction.
const SEND_TRANSACTION: u8 = 48;
/// How long a good peer waits for what it is owed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long its stack may take to end a connection in order.
const PARTING: Duration = Duration::from_secs(3);

impl GoodPeer {
    /// Peer `number`, who stays for `stay`.
    pub fn new(
        number: u32,
        common: &Common,
        credential: Credential,
        network: &str,
        now: Instant,
        stay: Duration,
        mut random: Random,
    ) -> Result<Self, rustls::Error> {
        Ok(GoodPeer {
            number,
            line: Line::client(common, Some(credential), "/ws", random.branch("line"))?,
            network: network.to_owned(),
            since: now,
            until: now + stay,
            greeted: false,
            ready: false,
            next_request: now,
            asked: BTreeMap::new(),
            next_id: 0,
            messages: 0,
            astray: false,
            leaving: None,
            parting: None,
            random,
            done: false,
        })
    }

    /// The same peer, but it asks only for blocks that nobody has, and is content with being told so.
    #[must_use]
    pub fn astray(self) -> Self {
        GoodPeer { astray: true, ..self }
    }

    fn fail(&mut self, why: impl Into<String>, notes: &mut Vec<Note>) {
        self.done = true;
        notes.push(Note::Failed(self.number, why.into()));
    }

    fn hear(&mut self, now: Instant, notes: &mut Vec<Note>) {
        while let Some(message) = self.line.received.pop_front() {
            self.messages += 1;
            if !self.ready {
                if message.kind != number::HANDSHAKE {
                    return self.fail(format!("type {} before the handshake", message.kind), notes);
                }
                self.ready = true;
                self.next_request = now;
                notes.push(Note::Ready(self.number, now.since(self.since)));
            } else if let Some(expected) = message.id.and_then(|id| self.asked.remove(&id))
                && expected != message
            {
                return self.fail(format!("a wrong answer of type {}", message.kind), notes);
            }
        }
    }

    fn speak(&mut self, now: Instant) {
        if !self.line.is_open() {
            return;
        }
        if !self.greeted {
            self.greeted = true;
            self.line.send(&Handshake::new(&self.network, NodeType::FullNode, 8444).message());
        }
        if !self.ready || self.leaving.is_some() {
            return;
        }
        if now >= self.until && self.asked.is_empty() {
            self.leaving = Some(now);
            self.line.close(1000);
        } else if now >= self.next_request && now < self.until && self.asked.len() < 2 {
            self.next_request = now + self.random.micros(150_000, 700_000);
            self.request();
        }
    }

    fn request(&mut self) {
        let id = self.next_id;
        self.next_id += 1;
        let height = self.random.below(u64::from(HEIGHT) - 40) as u32;
        let request = match self.random.below(8) {
            _ if self.astray => chain::request_block(chain::NOWHERE + height, id),
            0 => chain::request_blocks(height, height + self.random.below(12) as u32, id),
            1 => {
                self.line.send(&Message::new(number::REQUEST_PEERS, []));
                return;
            }
            2 => {
                self.line.send(&chain::new_peak(HEIGHT));
                return;
            }
            _ => chain::request_block(height, id),
        };
        if let Some(answer) = chain::answer(&request) {
            self.asked.insert(id, answer);
        }
        self.line.send(&request);
    }

    fn judge_end(&mut self, now: Instant, socket: &mut tcp::Socket<'_>, notes: &mut Vec<Note>) {
        let over = !socket.is_open() || matches!(socket.state(), State::CloseWait | State::TimeWait);
        match self.leaving {
            Some(_) if over || self.line.closed.is_some() => {
                socket.close();
                self.parting = Some(now + PARTING);
                notes.push(Note::Left(self.number, self.messages));
            }
            Some(since) if now.since(since) > PATIENCE => {
                socket.abort();
                self.fail("its farewell was not answered", notes);
            }
            Some(_) => {}
            None => {
                let late = now.since(self.since) > PATIENCE && !self.ready;
                let why = match (&self.line.failure, self.line.closed) {
                    (Some(failure), _) => failure.clone(),
                    (None, Some(code)) => format!("closed with {code}"),
                    (None, None) if over => "the connection ended".to_owned(),
                    (None, None) if late => "nobody answered".to_owned(),
                    (None, None) if now > self.until + PATIENCE => "answers were missing".to_owned(),
                    _ => return,
                };
                socket.abort();
                self.fail(why, notes);
            }
        }
    }
}

impl App<Note> for GoodPeer {
    fn drive(
        &mut self,
        now: Instant,
        sockets: &mut SocketSet<'static>,
        notes: &mut Vec<Note>,
    ) -> Option<Instant> {
        let (_, smoltcp::socket::Socket::Tcp(socket)) = sockets.iter_mut().next()?;
        if self.done {
            return None;
        }
        if let Some(until) = self.parting {
            self.done = now >= until || matches!(socket.state(), State::Closed | State::TimeWait);
            return Some(until);
        }
        self.line.drive(socket);
        self.hear(now, notes);
        if !self.done {
            self.speak(now);
            self.line.drive(socket);
            self.judge_end(now, socket, notes);
        }
        Some(now + Duration::from_millis(50))
    }

    fn done(&self) -> bool {
        self.done
    }
}

/// A rude visitor.
pub struct Rude {
    how: Rudeness,
    line: Option<Line>,
    network: String,
    blunt: Vec<u8>,
    greeted: bool,
    since: Instant,
    done: bool,
}

impl Rude {
    /// A visitor who is rude in one way.
    pub fn new(
        how: Rudeness,
        common: &Common,
        credential: Option<Credential>,
        network: &str,
        now: Instant,
        mut random: Random,
    ) -> Result<Self, rustls::Error> {
        let mut garbage = vec![0; 600];
        random.fill(&mut garbage);
        let blunt = match how {
            Rudeness::Garbage => {
                garbage[0] = 0x47;
                garbage
            }
            Rudeness::BrokenHello => [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &garbage].concat(),
            Rudeness::PlainHttp => b"GET / HTTP/1.1\r\nHost: chia.example\r\n\r\n".to_vec(),
            _ => Vec::new(),
        };
        let path = if how == Rudeness::WrongPath { "/wp-login.php" } else { "/ws" };
        let network = if how == Rudeness::WrongNetwork { "testnet11" } else { network }.to_owned();
        let line = match blunt.is_empty() {
            true => Some(Line::client(common, credential, path, random.branch("line"))?),
            false => None,
        };
        Ok(Rude { how, line, network, blunt, greeted: false, since: now, done: false })
    }

    fn speak(&mut self) {
        let Some(line) = &mut self.line else { return };
        if !line.is_open() {
            return;
        }
        if !self.greeted {
            self.greeted = true;
            match self.how {
                Rudeness::NoHandshake => line.send(&chain::request_block(1, 1)),
                _ => line.send(&Handshake::new(&self.network, NodeType::FullNode, 8444).message()),
            }
        }
    }

    /// After the node's handshake.
    fn misbehave(&mut self) {
        let Some(line) = &mut self.line else { return };
        match self.how {
            Rudeness::WrongSender => line.send(&Message::new(SEND_TRANSACTION, [0; 64])),
            Rudeness::BadEnvelope => {
                line.send_frame(Opcode::Binary, &[number::REQUEST_PEERS, 0, 0, 0, 0, 0, 7])
            }
            Rudeness::SecondHandshake => {
                line.send(&Handshake::new(&self.network, NodeType::FullNode, 8444).message());
            }
            Rudeness::Unmasked => line.send_plain(&[0x82, 6, 43, 0, 0, 0, 0, 0]),
            _ => {}
        }
    }
}

impl App<Note> for Rude {
    fn drive(
        &mut self,
        now: Instant,
        sockets: &mut SocketSet<'static>,
        notes: &mut Vec<Note>,
    ) -> Option<Instant> {
        let (_, smoltcp::socket::Socket::Tcp(socket)) = sockets.iter_mut().next()?;
        if self.done {
            return None;
        }
        if !self.blunt.is_empty() && socket.can_send() {
            let sent = socket.send_slice(&self.blunt).unwrap_or(0);
            self.blunt.drain(..sent);
        }
        let mut ended = !socket.is_open() || matches!(socket.state(), State::CloseWait | State::TimeWait);
        let mut served = false;
        if let Some(line) = &mut self.line {
            line.drive(socket);
            let answers = line.received.drain(..).filter(|message| message.kind == number::HANDSHAKE);
            if answers.count() > 0 {
                served = !self.how.begins_well();
                self.misbehave();
            }
        }
        self.speak();
        if let Some(line) = &mut self.line {
            line.drive(socket);
            ended |= line.failure.is_some() || line.closed.is_some();
        }
        if served || now.since(self.since) > PATIENCE {
            notes.push(Note::Served(self.how));
            self.done = true;
        } else if ended {
            notes.push(Note::Refused(self.how));
            self.done = true;
        }
        if self.done {
            socket.abort();
        }
        Some(now + Duration::from_millis(200))
    }

    fn done(&self) -> bool {
        self.done
    }
}
