//! The light peer: Hedgerow's own session with a node, to see it as a Chia peer does. It comes as a wallet, which a node
//! tells of every new peak and of nothing else, and times a request that costs next to nothing.
//!
//! It is a [`Session`] with a private leg only: the host connects it, and carries on as with any other. What it sees comes
//! out as [`Request::Sighting`]; that it ended, as a verdict. It keeps no more than one small message.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use super::config::Limits;
use super::half::{Half, Life};
use super::write;
use crate::chia::{Handshake, Message, NodeType, number};
use crate::session::{Close, Done, End, Instant, Leg, Request, Session, Work};
use crate::tls::connector::Showing;
use crate::tls::{Channel, Connector};
use crate::verdict::Reason;
use crate::websocket::{ClientUpgrade, CloseFrame, Piece, close_code};

/// How long TLS, upgrade and handshake may take.
const INTRODUCTION: Duration = Duration::from_secs(15);
/// How often the node is asked something.
const EVERY: Duration = Duration::from_secs(2);
/// A reply that has not come by then is reported as slow, once.
const SLOW: Duration = Duration::from_secs(2);
/// A reply that has not come by then never will.
const STALL: Duration = Duration::from_secs(20);
/// How long the node has to take our farewell.
const LINGER: Duration = Duration::from_secs(3);
/// Largest message that is read; what is larger is skipped.
const MESSAGE_BYTES: usize = 10 * 1024;
/// A height that no chain has: the node looks it up in memory, and rejects the request.
const NO_HEIGHT: u32 = u32::MAX - 1;

/// The end of a chain, as a node announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peak {
    /// The hash of its last block's header.
    pub hash: [u8; 32],
    /// Its height.
    pub height: u32,
    /// The sum of its blocks' difficulties: the heaviest chain is the right one.
    pub weight: u128,
}

impl Peak {
    /// Reads the beginning that `new_peak` and `new_peak_wallet` share.
    fn decode(body: &[u8]) -> Option<Peak> {
        let (hash, rest) = body.split_first_chunk()?;
        let (height, rest) = rest.split_first_chunk()?;
        let weight = rest.first_chunk()?;
        Some(Peak { hash: *hash, height: u32::from_be_bytes(*height), weight: u128::from_be_bytes(*weight) })
    }
}

/// What a light peer saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The node has taken it as a peer.
    Ready,
    /// The node has a new peak.
    Peak(Peak),
    /// A reply took so long, or has not come for so long.
    Reply(Duration),
}

/// What light peers of a pool are told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Chia network of the nodes.
    pub network: String,
    /// Makes TLS with them.
    pub connector: Connector,
    /// Who it is. Two light peers of one identity would push each other out.
    pub showing: Showing,
}

#[derive(Debug)]
enum Step {
    Dial,
    Tls,
    Upgrade(Box<ClientUpgrade>),
    Handshake,
    Open,
    Over,
}

/// A light peer.
pub struct Light {
    config: Arc<Config>,
    channel: Option<Channel>,
    half: Half,
    step: Step,
    due: Instant,
    seed: u64,
    /// The message that is coming in; `None` where it is too large to be read.
    message: Option<Vec<u8>>,
    /// When the request was sent that has no reply, and whether it was called slow.
    asked: Option<(Instant, bool)>,
    next: Instant,
    id: u16,
    requests: VecDeque<Request>,
    verdict: Option<Reason>,
}

impl fmt::Debug for Light {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Light")
            .field("step", &self.step)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl Light {
    /// A light peer whose connection is being made. `seed` decides its masks.
    pub fn new(config: Arc<Config>, seed: u64, now: Instant) -> Light {
        Light {
            config,
            channel: None,
            half: Half::new(Leg::Private, true, &Limits::default(), seed, now),
            step: Step::Dial,
            due: now + INTRODUCTION,
            seed,
            message: Some(Vec::new()),
            asked: None,
            next: now,
            id: 0,
            requests: VecDeque::new(),
            verdict: None,
        }
    }

    fn dialled(&mut self, now: Instant) {
        self.channel = Some(self.config.connector.connect(self.config.showing.clone()));
        self.half.life = Life::Live;
        self.half.hear(now);
        self.step = Step::Tls;
    }

    fn secured(&mut self, now: Instant) {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.seed.to_be_bytes());
        key[8..].copy_from_slice(&now.as_micros().to_be_bytes()[8..]);
        let (upgrade, request) = ClientUpgrade::new("node", key);
        self.half.head = request;
        self.half.watch(now);
        self.step = Step::Upgrade(Box::new(upgrade));
    }

    /// The session is over; where the node may still listen, it is told.
    fn end(&mut self, now: Instant, reason: Reason, close: Close) {
        if self.verdict.is_some() {
            return;
        }
        self.verdict = Some(reason);
        let open = matches!(self.step, Step::Open) && self.half.life == Life::Live;
        self.step = Step::Over;
        if open && matches!(close, Close::Finish(_)) {
            self.half.writer.close(&CloseFrame::new(close_code::GOING_AWAY, ""));
            self.half.life = Life::Closing(now);
        }
        self.requests.push_back(Request::Close(Leg::Private, close));
    }

    fn send(&mut self, now: Instant, message: &Message) {
        let bytes = message.encode();
        self.half.writer.begin(bytes.len() as u64, true, true, false);
        self.half.writer.push(&bytes);
        self.half.watch(now);
    }

    fn plaintext(&mut self, now: Instant, bytes: &mut [u8]) -> Result<(), Reason> {
        let mut at = 0;
        if let Step::Upgrade(upgrade) = &mut self.step {
            let Some(taken) = upgrade.receive(bytes)? else { return Ok(()) };
            at = taken;
            self.half.upgraded = true;
            self.step = Step::Handshake;
            let handshake = Handshake::new(&self.config.network, NodeType::Wallet, 0);
            self.send(now, &handshake.message());
        }
        while at < bytes.len() && self.verdict.is_none() {
            let (taken, piece) = self.half.reader.read(now, &mut bytes[at..])?;
            at += taken;
            match piece {
                None | Some(Piece::Pong) => {}
                Some(Piece::Ping(payload)) => self.half.writer.pong(payload),
                Some(Piece::Close(_)) => return Err(Reason::NodeClosed),
                Some(Piece::Data { bytes, left, fin, .. }) => {
                    let room = |message: &Vec<u8>| message.len() + bytes.len() <= MESSAGE_BYTES;
                    self.message = self.message.take().filter(room);
                    if let Some(message) = &mut self.message {
                        message.extend_from_slice(bytes);
                    }
                    if fin
                        && left == 0
                        && let Some(message) = self.message.replace(Vec::new())
                    {
                        self.message(now, &message)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn message(&mut self, now: Instant, bytes: &[u8]) -> Result<(), Reason> {
        let message = Message::decode(bytes).map_err(|_| Reason::NodeProtocol)?;
        match (&self.step, message.kind) {
            (Step::Handshake, number::HANDSHAKE) => {
                let handshake = Handshake::decode(&message.body).map_err(|_| Reason::NodeProtocol)?;
                if handshake.network_id != self.config.network {
                    return Err(Reason::ChiaWrongNetwork);
                }
                self.step = Step::Open;
                self.next = now;
                self.requests.push_back(Request::Sighting(Sighting::Ready));
            }
            (Step::Handshake, _) => return Err(Reason::NodeProtocol),
            (Step::Open, number::NEW_PEAK | number::NEW_PEAK_WALLET) => {
                let peak = Peak::decode(&message.body).ok_or(Reason::NodeProtocol)?;
                self.requests.push_back(Request::Sighting(Sighting::Peak(peak)));
            }
            (Step::Open, _) if message.id == Some(self.id) => {
                if let Some((since, _)) = self.asked.take() {
                    self.requests.push_back(Request::Sighting(Sighting::Reply(now.saturating_sub(since))));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// When something is due.
    fn timer(&self) -> Option<Instant> {
        match (&self.step, self.asked) {
            (Step::Over, _) => self.half.linger_at(LINGER),
            (Step::Open, None) => Some(self.next),
            (Step::Open, Some((since, false))) => Some(since + SLOW),
            (Step::Open, Some((since, true))) => Some(since + STALL),
            _ => Some(self.due),
        }
    }

    fn refuse(&mut self, now: Instant, reason: Reason) {
        self.end(now, reason, Close::Abort(reason));
    }
}

impl Session for Light {
    fn receive(&mut self, now: Instant, _: Leg, bytes: &mut [u8]) -> usize {
        let mut at = 0;
        while self.half.life == Life::Live {
            let Some(mut channel) = self.channel.take() else { break };
            let received = channel.receive(&mut bytes[at..]).map(|received| {
                at += received.taken;
                let quiet = received.taken == 0 && received.plain.is_empty();
                let said = match received.plain {
                    [] => Ok(()),
                    plain => self.plaintext(now, plain),
                };
                (quiet, said)
            });
            let closed = channel.peer_closed();
            self.channel = Some(channel);
            match received {
                Err(_) => self.refuse(now, Reason::NodeTls),
                Ok((_, Err(reason))) => self.refuse(now, reason),
                Ok(_) if closed => self.refuse(now, Reason::NodeClosed),
                Ok((true, _)) => break,
                Ok(_) => {}
            }
        }
        self.half.watch(now);
        if self.half.life == Life::Live { at } else { bytes.len() }
    }

    fn transmit(&mut self, now: Instant, _: Leg, space: &mut [u8]) -> usize {
        let Some(channel) = &mut self.channel else { return 0 };
        let (written, failure) = write(now, channel, &mut self.half, space);
        if failure.is_some() {
            self.refuse(now, Reason::NodeTls);
        }
        written
    }

    fn appetite(&self, _: Leg) -> usize {
        64 << 10
    }

    fn ended(&mut self, now: Instant, _: Leg, how: End) {
        let was_dialling = matches!(self.step, Step::Dial);
        self.half.life = Life::Gone;
        let reason = match how {
            End::Aborted => Reason::Aborted,
            _ if was_dialling => Reason::DialFailed,
            _ => Reason::NodeLost,
        };
        self.refuse(now, reason);
    }

    fn deadline(&self) -> Option<Instant> {
        self.timer()
    }

    fn advance(&mut self, now: Instant) {
        if self.timer().is_none_or(|at| at > now) {
            return;
        }
        match (&self.step, self.asked) {
            (Step::Open, None) => {
                self.id = self.id.wrapping_add(1);
                self.asked = Some((now, false));
                self.next = now + EVERY;
                let body = NO_HEIGHT.to_be_bytes();
                self.send(now, &Message::new(number::REQUEST_BLOCK_HEADER, body).with_id(self.id));
            }
            (Step::Open, Some((since, false))) => {
                self.asked = Some((since, true));
                self.requests.push_back(Request::Sighting(Sighting::Reply(now.saturating_sub(since))));
            }
            (Step::Open, Some(_)) => self.refuse(now, Reason::NodeStalled),
            (Step::Over, _) => self.half.life = Life::Gone,
            (Step::Dial, _) => self.refuse(now, Reason::DialFailed),
            _ => self.refuse(now, Reason::NodeTimeout),
        }
    }

    fn request(&mut self) -> Option<Request> {
        if let Some(request) = self.requests.pop_front() {
            return Some(request);
        }
        match self.verdict {
            None => self.channel.as_mut().and_then(Channel::work).map(Request::Work),
            Some(_) => None,
        }
    }

    fn complete(&mut self, now: Instant, done: Done) {
        match done {
            Done::Dialled if matches!(self.step, Step::Dial) => self.dialled(now),
            Done::Dialled | Done::Claimed => {}
            Done::DialFailed(failure) => self.refuse(now, failure.into()),
            Done::Work(work) => self.worked(now, work),
        }
    }

    fn close(&mut self, now: Instant, reason: Reason) {
        self.end(now, reason, Close::Finish(reason));
    }

    fn probe(&mut self, _: Instant) {}

    fn heard(&self) -> Instant {
        self.half.heard
    }

    fn verdict(&self) -> Option<Reason> {
        self.verdict
    }
}

impl Light {
    fn worked(&mut self, now: Instant, work: Box<dyn Work>) {
        let Some(channel) = &mut self.channel else { return };
        if channel.complete(work).is_err() {
            return self.refuse(now, Reason::NodeTls);
        }
        if channel.is_established() && matches!(self.step, Step::Tls) {
            self.requests.extend(channel.peer().map(Request::Node));
            self.secured(now);
        }
        self.receive(now, Leg::Private, &mut []);
    }
}
