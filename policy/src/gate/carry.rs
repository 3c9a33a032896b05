//! Messages on their way through, each judged by its envelope first and by its body as that comes.
//!
//! What may not go on yet, an expensive request of the peer's beyond those that the node works on, or a message of the
//! node's beyond what the peer takes in a minute, waits in a [`Detour`] with all that comes after it, and its leg is not
//! read meanwhile.

use core::time::Duration;
use std::sync::Arc;

use super::config::{Budget, Budgets, Share};
use super::detour::Detour;
use crate::chia::{Body, Envelope, Inspector, Judged, Noted, Scan, number};
use crate::finding::Finding;
use crate::session::Instant;
use crate::verdict::Reason;
use crate::websocket::Writer;

/// Fragments in which a streamed reply goes to the node; larger than a TLS record, so that what one record holds never
/// completes one by itself.
const FRAGMENT_TO_NODE: u64 = 32 * 1024;

/// What has to come besides the time that the minimum rate gives.
const GRACE: Duration = Duration::from_secs(10);

/// How often it is tried again to get a share of the budget.
pub(super) const RETRY: Duration = Duration::from_millis(100);

/// Messages up to this size are held without asking the budget: a session's own limit.
const FREE: u64 = 64 * 1024;

/// Largest `configure_window_sizes`: one entry for every number a type can have, and a few more.
const WINDOWS_MAX: u32 = 1024;

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
    /// Addresses in the nodes' lists that stayed inside; a list that could not be read counts as one.
    pub addresses_withheld: u64,
    /// What was not refused and should be known.
    pub noted: Noted,
}

/// The message that is passing.
#[derive(Debug)]
struct Passing {
    envelope: Envelope,
    left: u64,
    streams: bool,
    to: To,
    /// The judge of what comes, for as long as there is something to judge.
    body: Option<Body>,
    /// The body itself, where it is to be read.
    kept: Option<Vec<u8>>,
    claim: Claim,
    /// When it began; moved on by the time in which the peer was not read.
    begun: Instant,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// To the node, as it comes.
    Node,
    /// It waits.
    Detour,
    /// It is thrown away.
    Nowhere,
}

impl Passing {
    /// When more of it must have come: at the minimum rate, what has come so far took until then. What was announced and
    /// does not come holds its claim for the time of grace and no longer.
    fn due(&self, rate: u32) -> Instant {
        self.begun + GRACE + at_rate(self.envelope.total() - self.left, rate)
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
    detour: Detour,
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
                return Err(misfit(passing, true, through.inspector));
            }
            through.inspector.inspect(&passing.envelope, &mut passing.body, bytes)?;
            if let Some(&last) = bytes.last().filter(|_| bytes.len() as u64 == passing.left)
                && passing.to != To::Nowhere
            {
                through.inspector.whole(&passing.envelope, last)?;
            }
            if let Some(kept) = &mut passing.kept {
                kept.extend_from_slice(bytes);
            }
            match passing.to {
                To::Node => fill(passing, bytes, through.writer),
                To::Detour => self.detour.push(bytes),
                To::Nowhere => {}
            }
            if passing.to != To::Node {
                passing.left -= bytes.len() as u64;
            }
            self.due = Some(passing.due(through.rate));
        } else if !bytes.is_empty() {
            return Err(Reason::EnvelopeMalformed);
        }
        if end { self.end(through) } else { Ok(()) }
    }

    /// The envelope is there: what follows is held, streamed, thrown away or refused.
    fn begin(&mut self, now: Instant, envelope: &Envelope, through: &mut Through<'_>) -> Result<(), Reason> {
        let total = envelope.total();
        let judged = through.inspector.judge(now, envelope)?;
        let streams = judged == Judged::Stream;
        let budget = through.budgets.of(streams);
        if !budget.fits(total) {
            let what = format!("{total} bytes, more than the {} that all sessions share", budget.total());
            let found = Finding::new(what).limited("message_memory", budget.total());
            return Err(through.inspector.refuse(Reason::MessageTooLarge, envelope, found));
        }
        let to = match judged {
            Judged::Drop => To::Nowhere,
            _ if !self.detour.is_empty() || !through.inspector.may_go(now, envelope) => To::Detour,
            _ => To::Node,
        };
        let claim =
            if total > FREE && to != To::Nowhere { Claim::new(budget, total, now) } else { Claim::Free };
        match to {
            To::Node => open(envelope, streams, self.scan.seen(), through.writer),
            To::Detour => self.detour.push(self.scan.seen()),
            To::Nowhere => {}
        }
        let keeps = envelope.kind == number::CONFIGURE_WINDOW_SIZES && envelope.body <= WINDOWS_MAX;
        self.passing = Some(Passing {
            envelope: *envelope,
            left: u64::from(envelope.body),
            streams,
            to,
            body: if to == To::Nowhere { None } else { through.inspector.body(envelope) },
            kept: keeps.then(Vec::new),
            claim,
            begun: now,
        });
        Ok(())
    }

    /// The message is complete: it passes as a whole.
    fn end(&mut self, through: &mut Through<'_>) -> Result<(), Reason> {
        let passing = self.passing.take().ok_or(Reason::EnvelopeMalformed)?;
        if passing.left > 0 {
            return Err(misfit(&passing, false, through.inspector));
        }
        (self.scan, self.due) = (Scan::default(), None);
        if let Some(kept) = &passing.kept {
            through.inspector.peer_windows(kept);
        }
        if passing.to == To::Node {
            through.writer.release();
            through.tally.messages_to_node += 1;
            through.tally.bytes_to_node += passing.envelope.total();
        }
        self.passed = (!passing.streams).then_some(passing.claim);
        Ok(())
    }

    /// Lets go what waited, as far as it may.
    pub(super) fn forward(&mut self, now: Instant, through: &mut Through<'_>) {
        while let Some((envelope, come)) = self.detour.front() {
            if !through.inspector.may_go(now, &envelope) {
                return;
            }
            let (header, body) = come.split_at(envelope.header_bytes());
            let count = come.len();
            let coming = self.passing.as_mut().filter(|passing| passing.to == To::Detour);
            match coming.filter(|_| self.detour.is_last(count)) {
                // Still coming: from here on it goes straight to the node.
                Some(passing) => {
                    open(&envelope, passing.streams, header, through.writer);
                    passing.to = To::Node;
                    passing.left = u64::from(envelope.body);
                    fill(passing, body, through.writer);
                }
                None => {
                    open(&envelope, false, header, through.writer);
                    through.writer.push(body);
                    through.writer.release();
                    through.tally.messages_to_node += 1;
                    through.tally.bytes_to_node += envelope.total();
                }
            }
            self.detour.take(count);
        }
    }

    /// What has come of an envelope that is not complete, or not valid.
    pub(super) fn envelope(&self) -> &[u8] {
        self.scan.seen()
    }

    /// Whether a message waits for the node to be done with others.
    pub(super) fn is_detained(&self) -> bool {
        !self.detour.is_empty()
    }

    /// Whether nothing may be read from the peer until the budget has a share.
    pub(super) fn is_waiting(&self) -> bool {
        self.retry_at().is_some() || self.is_detained()
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
        if let Some(Passing { envelope, streams, claim: claim @ Claim::Waiting(_), .. }) = &mut self.passing {
            *claim = Claim::new(budgets.of(*streams), envelope.total(), now);
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

    /// Bytes of messages that wait.
    pub(super) fn memory(&self) -> usize {
        self.detour.memory()
    }

    /// Forgets what is unfinished, and gives its share back.
    pub(super) fn abandon(&mut self) {
        *self = Inbound::default();
    }
}

/// The WebSocket message is longer or shorter than the envelope in it says.
fn misfit(passing: &Passing, longer: bool, inspector: &mut Inspector) -> Reason {
    let body = u64::from(passing.envelope.body);
    let (byte, than) = if longer { (body, "longer") } else { (body - passing.left, "shorter") };
    let what = format!("the message is {than} than the {body} bytes of body that its envelope states");
    let found = Finding { byte: Some(byte), ..Finding::new(what) };
    inspector.refuse(Reason::EnvelopeMalformed, &passing.envelope, found)
}

/// Begins a message's first frame with its envelope.
fn open(envelope: &Envelope, streams: bool, header: &[u8], writer: &mut Writer) {
    let total = envelope.total();
    let first = if streams { total.min(FRAGMENT_TO_NODE) } else { total };
    writer.begin(first, true, first == total, true);
    writer.push(header);
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
    pub(super) writer: &'a mut Writer,
    pub(super) budgets: &'a Budgets,
    pub(super) tally: &'a mut Tally,
    pub(super) rate: u32,
}
