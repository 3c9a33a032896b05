//! Messages on their way through: from the peer with each envelope judged first, from the node as it sends them.

use core::time::Duration;
use std::sync::Arc;

use super::config::{Budget, Budgets, Share};
use crate::chia::{Asked, Envelope, Inspector, Judged, Scan};
use crate::session::Instant;
use crate::verdict::Reason;
use crate::websocket::Writer;

/// Fragments in which a streamed reply goes to the node; larger than a TLS record, so that what one record holds never
/// completes one by itself.
const FRAGMENT_TO_NODE: u64 = 32 * 1024;

/// Fragments in which a large message goes to the peer. Control frames slip in between.
const FRAGMENT_TO_PEER: u64 = 64 * 1024;

/// What has to come besides the time that the minimum rate gives.
const GRACE: Duration = Duration::from_secs(10);

/// How often it is tried again to get a share of the budget.
pub(super) const RETRY: Duration = Duration::from_millis(100);

/// Messages up to this size are held without asking the budget: a session's own limit.
const FREE: u64 = 64 * 1024;

/// What passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Whole messages from the peer that passed, the handshake included.
    pub messages_to_node: u64,
    /// Messages from the node that were passed to the peer.
    pub messages_to_peer: u64,
    /// Bytes of those messages.
    pub bytes_to_node: u64,
    /// Bytes of those messages.
    pub bytes_to_peer: u64,
    /// Messages of types that the table does not know, in either direction.
    pub unknown: u64,
    /// Messages of the node that contradict the table.
    pub odd: u64,
}

/// The message that is passing.
#[derive(Debug)]
struct Passing {
    total: u64,
    left: u64,
    streams: bool,
    claim: Claim,
    /// When it began; moved on by the time in which the peer was not read.
    begun: Instant,
}

impl Passing {
    /// When more of it must have come: at the minimum rate, what has come so far took until then. What was announced and
    /// does not come holds its claim for the time of grace and no longer.
    fn due(&self, rate: u32) -> Instant {
        self.begun + GRACE + at_rate(self.total - self.left, rate)
    }
}

/// A large message's claim to memory: here where it is held, at the node where it streams.
#[derive(Debug)]
enum Claim {
    /// Too small to need one.
    Free,
    /// The budget had no share left; tried again at this time.
    Waiting(Instant),
    /// The share is given back with the message.
    Granted { _share: Share },
}

impl Claim {
    fn new(budget: &Arc<Budget>, bytes: u64, now: Instant) -> Claim {
        match budget.take(bytes) {
            Some(share) => Claim::Granted { _share: share },
            None => Claim::Waiting(now + RETRY),
        }
    }
}

/// The way from the peer to the node.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    scan: Scan,
    passing: Option<Passing>,
    /// When the message or frame that has begun must be complete.
    due: Option<Instant>,
    /// Since when the peer is not read.
    paused: Option<Instant>,
    /// The share of a message that passed, for as long as its bytes wait for the node.
    passed: Option<Claim>,
}

impl Inbound {
    /// A message that was built or checked elsewhere goes first: the handshake.
    pub(super) fn put(&mut self, writer: &mut Writer, message: &[u8], tally: &mut Tally) {
        writer.begin(message.len() as u64, true, true, false);
        writer.push(message);
        tally.messages_to_node += 1;
        tally.bytes_to_node += message.len() as u64;
    }

    /// Payload of a message; `end` with its last bytes.
    pub(super) fn data(
        &mut self,
        now: Instant,
        mut bytes: &[u8],
        end: bool,
        through: &mut Through<'_>,
    ) -> Result<(), Reason> {
        if self.passing.is_none() {
            let (taken, envelope) = self.scan.take(bytes)?;
            bytes = &bytes[taken..];
            if let Some(envelope) = envelope {
                self.begin(now, &envelope, through)?;
            }
        }
        if let Some(passing) = &mut self.passing {
            if bytes.len() as u64 > passing.left {
                return Err(Reason::EnvelopeMalformed);
            }
            fill(passing, bytes, through.writer);
            self.due = Some(passing.due(through.rate));
        } else if !bytes.is_empty() {
            return Err(Reason::EnvelopeMalformed);
        }
        if end { self.end(through) } else { Ok(()) }
    }

    /// The envelope is there: what follows is held, streamed or refused.
    fn begin(&mut self, now: Instant, envelope: &Envelope, through: &mut Through<'_>) -> Result<(), Reason> {
        let total = envelope.total();
        let streams = through.inspector.judge(now, envelope, through.asked)? == Judged::Stream;
        let budget = through.budgets.of(streams);
        if !budget.fits(total) {
            return Err(Reason::MessageTooLarge);
        }
        let claim = if total > FREE { Claim::new(budget, total, now) } else { Claim::Free };
        let first = if streams { total.min(FRAGMENT_TO_NODE) } else { total };
        through.writer.begin(first, true, first == total, true);
        through.writer.push(self.scan.seen());
        self.passing =
            Some(Passing { total, left: total - self.scan.seen().len() as u64, streams, claim, begun: now });
        Ok(())
    }

    /// The message is complete: it passes as a whole.
    fn end(&mut self, through: &mut Through<'_>) -> Result<(), Reason> {
        let passing = self.passing.take().filter(|passing| passing.left == 0);
        let passing = passing.ok_or(Reason::EnvelopeMalformed)?;
        through.writer.release();
        through.tally.messages_to_node += 1;
        through.tally.bytes_to_node += passing.total;
        self.passed = (!passing.streams).then_some(passing.claim);
        (self.scan, self.due) = (Scan::default(), None);
        Ok(())
    }

    /// Whether nothing may be read from the peer until the budget has a share.
    pub(super) fn is_waiting(&self) -> bool {
        self.retry_at().is_some()
    }

    /// When to ask the budget again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        match self.passing.as_ref()?.claim {
            Claim::Waiting(at) => Some(at),
            Claim::Free | Claim::Granted { .. } => None,
        }
    }

    /// Asks the budget again.
    pub(super) fn retry(&mut self, now: Instant, budgets: &Budgets) {
        if let Some(Passing { total, streams, claim: claim @ Claim::Waiting(_), .. }) = &mut self.passing {
            *claim = Claim::new(budgets.of(*streams), *total, now);
        }
    }

    /// When what has begun must be complete.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.paused.is_none())
    }

    /// A frame has begun, or none is open any more.
    pub(super) fn within(&mut self, now: Instant, within: bool) {
        if !within {
            self.due = None;
        } else if self.due.is_none() {
            self.due = Some(now + GRACE);
        }
    }

    /// Whether the peer is read: the time while it is not does not count against it. It is not read while much waits for
    /// the node.
    pub(super) fn reading(&mut self, now: Instant, reads: bool) {
        if !reads {
            self.paused.get_or_insert(now);
            return;
        }
        self.passed = None;
        if let Some(paused) = self.paused.take() {
            let paused = now.saturating_sub(paused);
            self.due = self.due.map(|due| due + paused);
            if let Some(passing) = &mut self.passing {
                passing.begun += paused;
            }
        }
    }

    /// Forgets what is unfinished, and gives its share back.
    pub(super) fn abandon(&mut self) {
        *self = Inbound::default();
    }
}

fn at_rate(bytes: u64, rate: u32) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / u64::from(rate.max(1)))
}

/// Adds payload to the fragment under way, and begins the next where one is full. A full fragment goes out only once bytes
/// of the next one are there, so the last always waits for the message's end.
fn fill(passing: &mut Passing, mut bytes: &[u8], writer: &mut Writer) {
    while !bytes.is_empty() {
        if writer.wanted() == 0 {
            writer.release();
            let len = passing.left.min(FRAGMENT_TO_NODE);
            writer.begin(len, false, len == passing.left, true);
        }
        let taken = writer.push(bytes);
        passing.left -= taken as u64;
        bytes = &bytes[taken..];
    }
}

/// What a message meets on its way to the node.
pub(super) struct Through<'a> {
    pub(super) inspector: &'a mut Inspector,
    pub(super) asked: &'a mut Asked,
    pub(super) writer: &'a mut Writer,
    pub(super) budgets: &'a Budgets,
    pub(super) tally: &'a mut Tally,
    pub(super) rate: u32,
}

/// The way from the node to the peer. The node is trusted: its frames are written anew and pass as they come.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    scan: Scan,
    /// Whether the envelope of the message under way was found, or cannot be.
    found: bool,
    /// Whether a fragment of it went out already.
    continues: bool,
}

impl Outbound {
    /// Payload of a message. `left` bytes of its frame are still to come; `fin` if the frame is the message's last. Yields
    /// the envelope when it is complete.
    pub(super) fn data(
        &mut self,
        mut bytes: &[u8],
        left: u64,
        fin: bool,
        writer: &mut Writer,
        tally: &mut Tally,
    ) -> Option<Envelope> {
        let envelope = self.look(bytes, tally);
        let mut rest = bytes.len() as u64 + left;
        if rest == 0 && fin && writer.wanted() == 0 {
            writer.begin(0, !self.continues, true, false);
        }
        tally.bytes_to_peer += bytes.len() as u64;
        while !bytes.is_empty() {
            if writer.wanted() == 0 {
                let len = rest.min(FRAGMENT_TO_PEER);
                writer.begin(len, !self.continues, fin && len == rest, false);
                self.continues = true;
            }
            let taken = writer.push(bytes);
            rest -= taken as u64;
            bytes = &bytes[taken..];
        }
        if fin && left == 0 {
            tally.messages_to_peer += 1;
            *self = Outbound::default();
        }
        envelope
    }

    fn look(&mut self, bytes: &[u8], tally: &mut Tally) -> Option<Envelope> {
        if self.found {
            return None;
        }
        match self.scan.take(bytes) {
            Ok((_, None)) => None,
            Ok((_, envelope)) => {
                self.found = true;
                envelope
            }
            Err(_) => {
                self.found = true;
                tally.odd += 1;
                None
            }
        }
    }
}
