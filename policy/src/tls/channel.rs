//! One TLS connection in either role: bytes in, plaintext out in place; plaintext in, records out into the caller's space.
//!
//! Before Finished a channel buffers at most [`HANDSHAKE_BUFFER`] bytes of what arrived, takes at most [`HANDSHAKE_BYTES`] in
//! all, and holds one rustls connection and the flight it has to send: under 48 KiB at the worst, nothing but this struct
//! before the first byte. Signatures, key exchange and certificates are [`Work`]: while a piece of it is out, the channel
//! takes nothing. After Finished only a record that arrived in parts is buffered, and an idle channel holds two keys.

use core::{fmt, mem};

use super::Failure;
use super::connector::Showing;
use super::handshake::{Inbox, Progress, Stage, Step};
use super::record::{self, Opened, Traffic};
use crate::session::{PeerId, Work};

/// Most bytes of a handshake that are held at a time: one record of the largest size, or one flight.
pub const HANDSHAKE_BUFFER: usize = 17 * 1024;
/// Most bytes that are taken before Finished.
pub const HANDSHAKE_BYTES: usize = 32 * 1024;

/// What [`Channel::receive`] did.
#[derive(Debug, Default)]
pub struct Received<'a> {
    /// How many bytes it took; it may have scribbled over them.
    pub taken: usize,
    /// Decrypted application data, in the caller's memory or the channel's.
    pub plain: &'a mut [u8],
}

/// What [`Channel::seal`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// How many bytes of plaintext it took.
    pub taken: usize,
    /// How many bytes it wrote.
    pub written: usize,
}

/// One TLS connection.
pub struct Channel {
    state: State,
    /// Before Finished: what rustls still needs. After it: ciphertext that is not a whole record in the caller's memory.
    inbox: Inbox,
    /// How many bytes at the front of `inbox` were decrypted and handed out.
    spent: usize,
    /// Bytes taken before Finished.
    taken: usize,
    outgoing: Vec<u8>,
    peer: Option<PeerId>,
    /// The other side sent close_notify.
    peer_closed: bool,
    closing: Closing,
}

enum State {
    Handshake(Stage),
    Working,
    Traffic(Box<Traffic>),
    Failed(Failure),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    Wanted,
    Sent,
}

impl Channel {
    pub(super) fn new(stage: Stage) -> Channel {
        Channel {
            state: State::Handshake(stage),
            inbox: Inbox::default(),
            spent: 0,
            taken: 0,
            outgoing: Vec::new(),
            peer: None,
            peer_closed: false,
            closing: Closing::No,
        }
    }

    /// Who the other side is, once its Finished was verified.
    pub fn peer(&self) -> Option<PeerId> {
        self.peer
    }

    /// Whether the handshake is done.
    pub fn is_established(&self) -> bool {
        matches!(self.state, State::Traffic(_))
    }

    /// Whether a piece of work is out and has to come back before anything else happens.
    pub fn is_working(&self) -> bool {
        matches!(self.state, State::Working)
    }

    /// Whether the other side said that it will send no more.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether a record after Finished has begun to arrive and is not complete.
    pub fn is_within(&self) -> bool {
        self.is_established() && !self.peer_closed && self.inbox.bytes.len() > self.spent
    }

    /// Whether [`Channel::transmit`] has something to write.
    pub fn wants_transmit(&self) -> bool {
        !self.outgoing.is_empty()
            || match &self.state {
                State::Traffic(traffic) => {
                    self.closing == Closing::Wanted || (self.closing == Closing::No && traffic.wants_update())
                }
                _ => false,
            }
    }

    /// Why the channel broke, if it did.
    pub fn failure(&self) -> Option<Failure> {
        match self.state {
            State::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// How many more bytes [`Channel::receive`] would take now.
    pub fn appetite(&self) -> usize {
        match &self.state {
            State::Handshake(_) => self.handshake_room(),
            State::Traffic(_) => record::RECORD_MAX,
            State::Working | State::Failed(_) => 0,
        }
    }

    /// Takes bytes, up to the end of one record, and decrypts that record where it lies. Call it until it neither takes nor
    /// yields anything, and also with no bytes after [`Channel::complete`] and after the last bytes of a burst: what
    /// arrived behind Finished waits inside, and a buffer is given back by the call after the one that emptied it.
    ///
    /// # Errors
    /// Why the connection is refused. What [`Channel::transmit`] then still yields tells the other side.
    pub fn receive<'a>(&'a mut self, bytes: &'a mut [u8]) -> Result<Received<'a>, Failure> {
        match self.state {
            State::Working => Ok(Received::default()),
            State::Failed(failure) => Err(failure),
            State::Handshake(_) => match self.gather(bytes) {
                Ok(taken) => Ok(Received { taken, plain: &mut [] }),
                Err(failure) => Err(self.fail(failure)),
            },
            State::Traffic(_) => self.decrypt(bytes),
        }
    }

    fn handshake_room(&self) -> usize {
        let held = HANDSHAKE_BUFFER.saturating_sub(self.inbox.bytes.len());
        held.min(HANDSHAKE_BYTES.saturating_sub(self.taken))
    }

    /// Collects bytes of the handshake, as long as they can still become one.
    fn gather(&mut self, bytes: &[u8]) -> Result<usize, Failure> {
        let room = self.handshake_room();
        let taken = bytes.len().min(room);
        if taken < bytes.len() && !self.inbox.is_ready() && room == 0 {
            return Err(Failure::TooLarge);
        }
        if self.taken == 0 && taken > 0 {
            check_first(bytes)?;
        }
        self.taken += taken;
        self.inbox.bytes.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        let next = self.inbox.bytes.get(self.inbox.seen..).unwrap_or_default();
        if next.get(1).is_some_and(|major| *major != 3) {
            return Err(Failure::Garbage);
        }
        if record::length(next).is_some_and(|length| length > record::RECORD_MAX) {
            return Err(Failure::TooLarge);
        }
        Ok(taken)
    }

    /// The next expensive step, if there is enough for one. Run it anywhere, then hand it to [`Channel::complete`].
    pub fn work(&mut self) -> Option<Box<dyn Work>> {
        let State::Handshake(stage) = &self.state else { return None };
        let ready = match stage {
            Stage::Hold(_) => false,
            Stage::Connect { .. } => true,
            _ => self.inbox.is_ready(),
        };
        if !ready {
            return None;
        }
        let State::Handshake(stage) = mem::replace(&mut self.state, State::Working) else { return None };
        Some(Box::new(Step::new(stage, mem::take(&mut self.inbox))))
    }

    /// Answers, with this identity, whoever was held until now.
    pub fn answer_as(&mut self, showing: Showing) {
        if let State::Handshake(Stage::Hold(config)) = &self.state {
            let (config, showing) = (config.clone(), Some(showing));
            self.state = State::Handshake(Stage::Accept { config, showing });
        }
    }

    /// Takes back what [`Channel::work`] gave out, after it ran.
    ///
    /// # Errors
    /// Why the connection is refused. What [`Channel::transmit`] then still yields tells the other side.
    pub fn complete(&mut self, work: Box<dyn Work>) -> Result<(), Failure> {
        let step = match work.into_any().downcast::<Step>() {
            Ok(step) if self.is_working() => step,
            _ => return Err(self.fail(Failure::Internal)),
        };
        let (inbox, outgoing, outcome) = step.into_parts();
        self.inbox = inbox;
        self.outgoing.extend_from_slice(&outgoing);
        match outcome {
            Ok(Progress::More(stage)) => self.state = State::Handshake(stage),
            Ok(Progress::Done { traffic, peer }) => {
                self.state = State::Traffic(traffic);
                self.peer = Some(peer);
            }
            Err(failure) => return Err(self.fail(failure)),
        }
        Ok(())
    }

    fn decrypt<'a>(&'a mut self, bytes: &'a mut [u8]) -> Result<Received<'a>, Failure> {
        self.release();
        let Channel { state, inbox, spent, outgoing, peer_closed, .. } = self;
        let State::Traffic(traffic) = state else { return Err(Failure::Internal) };
        if *peer_closed {
            // Whatever follows close_notify is ignored (RFC 8446 section 6.1).
            inbox.bytes = Vec::new();
            return Ok(Received { taken: bytes.len(), plain: &mut [] });
        }
        let opened = if inbox.bytes.is_empty() {
            open_there(traffic, inbox, bytes)
        } else {
            open_here(traffic, inbox, spent, bytes)
        };
        match opened {
            Ok((taken, Opened::Data(plain))) => Ok(Received { taken, plain }),
            Ok((taken, Opened::Nothing)) => Ok(Received { taken, plain: &mut [] }),
            Ok((taken, Opened::Closed)) => {
                *peer_closed = true;
                Ok(Received { taken, plain: &mut [] })
            }
            Err(failure) => Err(fail(state, outgoing, failure)),
        }
    }

    /// Forgets decrypted bytes that the caller has seen.
    fn release(&mut self) {
        let spent = mem::take(&mut self.spent);
        if spent == self.inbox.bytes.len() {
            self.inbox = Inbox::default();
        } else {
            self.inbox.bytes.drain(..spent);
        }
    }

    /// Writes what the handshake, key updates, close_notify and alerts have to say.
    pub fn transmit(&mut self, space: &mut [u8]) -> usize {
        self.speak();
        let count = self.outgoing.len().min(space.len());
        if let (Some(to), Some(from)) = (space.get_mut(..count), self.outgoing.get(..count)) {
            to.copy_from_slice(from);
        }
        if count == self.outgoing.len() {
            self.outgoing = Vec::new();
        } else {
            self.outgoing.drain(..count);
        }
        count
    }

    fn speak(&mut self) {
        let State::Traffic(traffic) = &mut self.state else { return };
        let mut said = Ok(());
        if self.closing != Closing::Sent && traffic.wants_update() {
            said = traffic.update(&mut self.outgoing);
        }
        if self.closing == Closing::Wanted {
            self.closing = Closing::Sent;
            said = said.and_then(|()| traffic.close(&mut self.outgoing));
        }
        if let Err(failure) = said {
            self.fail(failure);
        }
    }

    /// Encrypts as much of `plain` as one record and `space` take, behind what [`Channel::transmit`] would write. Takes
    /// nothing before the handshake is done and after [`Channel::close`].
    ///
    /// # Errors
    /// Why the channel broke.
    pub fn seal(&mut self, plain: &[u8], space: &mut [u8]) -> Result<Sealed, Failure> {
        if let State::Failed(failure) = self.state {
            return Err(failure); // and what explains it stays for `transmit`
        }
        let control = self.transmit(space);
        let traffic = match &mut self.state {
            State::Traffic(traffic) if self.outgoing.is_empty() && self.closing == Closing::No => traffic,
            _ => return Ok(Sealed { taken: 0, written: control }),
        };
        let room = space.get_mut(control..).unwrap_or_default();
        let taken = room.len().saturating_sub(record::OVERHEAD).min(record::PLAIN_MAX).min(plain.len());
        let piece = plain.get(..taken).unwrap_or_default();
        if piece.is_empty() {
            return Ok(Sealed { taken: 0, written: control });
        }
        match traffic.seal(piece, room) {
            Ok(written) => Ok(Sealed { taken, written: control + written }),
            Err(failure) => Err(self.fail(failure)),
        }
    }

    /// Says close_notify after everything that was sealed so far; nothing can be sealed from now on, but the other side may
    /// go on sending.
    pub fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Wanted;
        }
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        fail(&mut self.state, &mut self.outgoing, failure)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Handshake(_) => "handshake",
            State::Working => "working",
            State::Traffic(_) => "traffic",
            State::Failed(_) => "failed",
        };
        f.debug_struct("Channel").field("state", &state).field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Decrypts the record at the front of the caller's memory, or keeps its beginning.
fn open_there<'a>(
    traffic: &mut Traffic,
    inbox: &mut Inbox,
    bytes: &'a mut [u8],
) -> Result<(usize, Opened<'a>), Failure> {
    match whole(bytes)? {
        Some(length) => {
            let record = bytes.get_mut(..length).ok_or(Failure::Internal)?;
            Ok((length, traffic.open(record)?))
        }
        None => {
            inbox.bytes.extend_from_slice(bytes);
            Ok((bytes.len(), Opened::Nothing))
        }
    }
}

/// Completes the record at the front of our own memory and decrypts it; then the next one, until one has something in it.
fn open_here<'a>(
    traffic: &mut Traffic,
    inbox: &'a mut Inbox,
    spent: &mut usize,
    bytes: &[u8],
) -> Result<(usize, Opened<'a>), Failure> {
    let mut taken = top_up(&mut inbox.bytes, record::HEADER, bytes);
    whole(&inbox.bytes)?;
    if let Some(length) = record::length(&inbox.bytes) {
        taken += top_up(&mut inbox.bytes, length, bytes.get(taken..).unwrap_or_default());
    }
    let mut begin = 0;
    while let Some(length) = whole(inbox.bytes.get(begin..).unwrap_or_default())? {
        let record = inbox.bytes.get_mut(begin..begin + length).ok_or(Failure::Internal)?;
        let front = begin + traffic.front();
        begin += length;
        *spent = begin;
        match traffic.open(record)? {
            Opened::Data([]) | Opened::Nothing => {}
            Opened::Data(plain) => {
                let end = front + plain.len();
                let plain = inbox.bytes.get_mut(front..end).ok_or(Failure::Internal)?;
                return Ok((taken, Opened::Data(plain)));
            }
            Opened::Closed => return Ok((taken, Opened::Closed)),
        }
    }
    Ok((taken, Opened::Nothing))
}

/// Appends to `held` until it is `length` long; says how many bytes that took.
fn top_up(held: &mut Vec<u8>, length: usize, bytes: &[u8]) -> usize {
    let missing = length.saturating_sub(held.len()).min(bytes.len());
    held.extend_from_slice(bytes.get(..missing).unwrap_or_default());
    missing
}

/// The length of the record at the front, if all of it is there.
fn whole(bytes: &[u8]) -> Result<Option<usize>, Failure> {
    if bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(Failure::Protocol);
    }
    match record::length(bytes) {
        Some(length) if length > record::RECORD_MAX => Err(Failure::TooLarge),
        Some(length) if length <= bytes.len() => Ok(Some(length)),
        _ => Ok(None),
    }
}

/// Ends the connection, with an alert unless the other side began; a failure that is known already stays.
fn fail(state: &mut State, outgoing: &mut Vec<u8>, failure: Failure) -> Failure {
    match state {
        State::Failed(earlier) => return *earlier,
        State::Traffic(traffic) if failure != Failure::Alert => {
            let _ = traffic.alert(failure, outgoing); // the connection ends with or without an explanation
        }
        _ => {}
    }
    *state = State::Failed(failure);
    failure
}

/// What the first byte gives away: a handshake or an alert of TLS, or the first letter of an HTTP method.
fn check_first(bytes: &[u8]) -> Result<(), Failure> {
    match bytes.first() {
        None | Some(&(record::HANDSHAKE | record::ALERT)) => Ok(()),
        Some(b'G' | b'P' | b'H' | b'O' | b'C' | b'D' | b'T') => Err(Failure::PlainHttp),
        Some(_) => Err(Failure::Garbage),
    }
}
