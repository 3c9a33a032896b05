//! How much may be said in a minute: by the node's own tables, and by what the rules make of them.
//!
//! [`Limiter`] counts what a peer sends exactly as a node counts: fixed minutes, a count and bytes per type, and both over
//! all types that count for the aggregate. Whoever it refuses, a node would ban.
//!
//! [`Pacer`] says when the node's messages may go to the peer. A node does not limit itself towards an address that it
//! exempts, as it does ours where we translate addresses; but the peer counts, and would ban us. The peer's minutes begin
//! when they like, and what was delayed on the way may arrive in one of them; so each type, and all together, get half of
//! the peer's limits as a rate, with half a minute's worth at once. Nothing is dropped, and the order is kept.

use core::fmt;
use core::time::Duration;

use super::message::Envelope;
use super::schema::{Limit, MessageType, Rate};
use crate::finding::Finding;
use crate::rules::Limits;
use crate::session::Instant;

/// The node's window.
const MINUTE: Duration = Duration::from_secs(60);

/// How far ahead of its steady rate the pacer lets a type run.
const AHEAD: Duration = Duration::from_secs(30);

/// Which of the tables both ends of a session know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The second table of limits, capability `rate_limits_v2`.
    pub second: bool,
    /// Windows for requests instead of limits per minute, capability `rate_limits_v3`.
    pub third: bool,
}

impl Tables {
    /// The limit on a type; `None` where windows take its place, or no table names it.
    pub fn limit(self, facts: &MessageType) -> Option<Limit> {
        if self.third && facts.window_v3.is_some() {
            return None;
        }
        if self.second { facts.limit_v2 } else { facts.limit_v1 }
    }
}

/// The limit that a message goes beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Bytes of one body.
    Size(u32),
    /// Messages of its type in a minute.
    Messages(u32),
    /// Bytes of its type in a minute.
    Bytes(u64),
    /// Messages of all limited types in a minute.
    AllMessages(u32),
    /// Bytes of all limited types in a minute.
    AllBytes(u64),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Size(limit) => write!(f, "a body of more than {limit} bytes"),
            Excess::Messages(limit) => write!(f, "more than {limit} in a minute"),
            Excess::Bytes(limit) => write!(f, "more than {limit} bytes in a minute"),
            Excess::AllMessages(limit) => write!(f, "more than {limit} messages of all types in a minute"),
            Excess::AllBytes(limit) => write!(f, "more than {limit} bytes of all types in a minute"),
        }
    }
}

impl From<Excess> for Finding {
    fn from(excess: Excess) -> Finding {
        let (rule, limit) = match excess {
            Excess::Size(limit) => ("size", limit.into()),
            Excess::Messages(limit) => ("per_minute", limit.into()),
            Excess::Bytes(limit) => ("bytes_per_minute", limit),
            Excess::AllMessages(limit) => ("aggregate per_minute", limit.into()),
            Excess::AllBytes(limit) => ("aggregate bytes_per_minute", limit),
        };
        Finding::new(excess).limited(rule, limit)
    }
}

/// What was counted in the minute under way.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    messages: u32,
    bytes: u64,
    largest: u32,
}

impl Count {
    fn add(&mut self, body: u32) -> Count {
        self.messages = self.messages.saturating_add(1);
        self.bytes = self.bytes.saturating_add(u64::from(body));
        self.largest = self.largest.max(body);
        *self
    }
}

/// What came of a type in a minute that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// The type.
    pub kind: u8,
    /// Messages.
    pub messages: u32,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The largest of them.
    pub largest: u32,
}

/// Counts a peer's messages as a node does.
#[derive(Debug, Default)]
pub struct Limiter {
    minute: u64,
    all: Count,
    /// Types that came in this minute: never more than there are.
    by_type: Vec<(u8, Count)>,
    /// The last minute in which something came, once it is over, until it is asked for.
    over: Vec<Minute>,
}

impl Limiter {
    /// Counts a message; an error if it goes beyond a limit.
    pub fn count(
        &mut self,
        now: Instant,
        limits: &Limits,
        tables: Tables,
        envelope: &Envelope,
    ) -> Result<(), Excess> {
        let Some(limit) = limits.limit(tables, envelope.kind) else {
            return Ok(());
        };
        // A delayed message was counted for the minute to come.
        let minute = now.as_secs() / MINUTE.as_secs();
        if minute > self.minute {
            self.begin(minute);
        }
        // A node counts before it judges.
        let all = limit.rate.filter(|rate| rate.aggregate).map(|_| self.all.add(envelope.body));
        let own = self.of_type(envelope.kind).add(envelope.body);
        if let Some(all) = all {
            let most = limits.aggregate();
            within(all.messages.into(), most.messages.into(), Excess::AllMessages(most.messages))?;
            within(all.bytes, most.bytes, Excess::AllBytes(most.bytes))?;
        }
        if let Some(rate) = limit.rate {
            within(own.messages.into(), rate.messages.into(), Excess::Messages(rate.messages))?;
        }
        within(envelope.body.into(), limit.size.into(), Excess::Size(limit.size))?;
        limit.rate.map_or(Ok(()), |rate| within(own.bytes, rate.bytes, Excess::Bytes(rate.bytes)))
    }

    /// A message that went beyond a limit waits for the next minute, in which it is counted instead; says when that begins.
    pub fn postpone(&mut self, limits: &Limits, tables: Tables, envelope: &Envelope) -> Instant {
        self.begin(self.minute + 1);
        if limits.limit(tables, envelope.kind).and_then(|limit| limit.rate).is_some_and(|rate| rate.aggregate)
        {
            self.all.add(envelope.body);
        }
        self.of_type(envelope.kind).add(envelope.body);
        MINUTE * u32::try_from(self.minute).unwrap_or(u32::MAX)
    }

    /// What came in the last minute that is over, once.
    pub fn take_over(&mut self) -> Vec<Minute> {
        core::mem::take(&mut self.over)
    }

    /// Whether a minute is over that was not asked for.
    pub fn is_over(&self) -> bool {
        !self.over.is_empty()
    }

    /// The minute under way is over, whatever the time: the session is.
    pub fn finish(&mut self) {
        self.begin(self.minute + 1);
    }

    fn begin(&mut self, minute: u64) {
        self.minute = minute;
        self.all = Count::default();
        if !self.by_type.is_empty() {
            let over = |&(kind, Count { messages, bytes, largest }): &(u8, Count)| Minute {
                kind,
                messages,
                bytes,
                largest,
            };
            self.over = self.by_type.iter().map(over).collect();
        }
        self.by_type.clear();
    }

    fn of_type(&mut self, kind: u8) -> &mut Count {
        let at = self.by_type.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            self.by_type.push((kind, Count::default()));
            self.by_type.len() - 1
        });
        &mut self.by_type[at].1
    }
}

fn within(value: u64, limit: u64, excess: Excess) -> Result<(), Excess> {
    if value <= limit { Ok(()) } else { Err(excess) }
}

/// A steady rate with a start: when the next message or byte would be due at the rate alone.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    messages: Instant,
    bytes: Instant,
}

impl Pace {
    /// When something may go.
    fn free_at(self) -> Instant {
        self.messages.max(self.bytes).saturating_sub(AHEAD)
    }

    fn went(&mut self, now: Instant, rate: Rate, body: u32) {
        // Half of the limit is the rate.
        let messages = 2 * MINUTE / rate.messages.max(1);
        let nanos = 2 * MINUTE.as_nanos() * u128::from(body) / u128::from(rate.bytes.max(1));
        self.messages = self.messages.max(now) + messages;
        self.bytes = self.bytes.max(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }
}

/// Says when the node's messages may go on to the peer.
#[derive(Debug, Default)]
pub struct Pacer {
    all: Pace,
    by_type: Vec<(u8, Pace)>,
}

impl Pacer {
    /// When the message may go; in the past or now, if at once.
    pub fn free_at(&self, limits: &Limits, tables: Tables, kind: u8) -> Instant {
        let Some(rate) = rate(limits, tables, kind) else { return Instant::ZERO };
        let own = self
            .by_type
            .iter()
            .find(|(known, _)| *known == kind)
            .map_or(Instant::ZERO, |(_, pace)| pace.free_at());
        if rate.aggregate { own.max(self.all.free_at()) } else { own }
    }

    /// The message goes.
    pub fn went(&mut self, now: Instant, limits: &Limits, tables: Tables, envelope: &Envelope) {
        let Some(rate) = rate(limits, tables, envelope.kind) else { return };
        // Those that are back at their steady rate need not be remembered.
        self.by_type.retain(|(_, pace)| pace.messages.max(pace.bytes) > now);
        let at = self.by_type.iter().position(|(known, _)| *known == envelope.kind).unwrap_or_else(|| {
            self.by_type.push((envelope.kind, Pace::default()));
            self.by_type.len() - 1
        });
        self.by_type[at].1.went(now, rate, envelope.body);
        if rate.aggregate {
            self.all.went(now, limits.aggregate(), envelope.body);
        }
    }
}

fn rate(limits: &Limits, tables: Tables, kind: u8) -> Option<Rate> {
    limits.limit(tables, kind)?.rate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chia::{Schema, number};

    const SECOND: Tables = Tables { second: true, third: false };

    fn envelope(kind: u8, body: u32) -> Envelope {
        Envelope { kind, id: None, body }
    }

    #[test]
    fn a_peer_is_stopped_where_a_node_bans() {
        let limits = Limits::of(&Schema::embedded());
        let mut limiter = Limiter::default();
        let mut count = |second: u64, kind, body| {
            limiter.count(Duration::from_secs(second), &limits, SECOND, &envelope(kind, body))
        };
        for _ in 0..10 {
            assert_eq!(count(59, number::REQUEST_PEERS, 0), Ok(()));
        }
        assert_eq!(count(59, number::REQUEST_PEERS, 0), Err(Excess::Messages(10)));
        // A minute later all is forgotten.
        assert_eq!(count(60, number::REQUEST_PEERS, 0), Ok(()));
        assert_eq!(count(61, number::REQUEST_PEERS, 101), Err(Excess::Size(100)));
        let (mut messages, mut last) = (0, Ok(()));
        while last.is_ok() {
            last = count(120, number::NEW_PEAK, 88);
            messages += 1;
        }
        assert_eq!((messages, last), (201, Err(Excess::Messages(200))));
    }

    #[test]
    fn the_third_table_takes_the_place_of_limits_a_minute() {
        let limits = Limits::of(&Schema::embedded());
        let mut limiter = Limiter::default();
        let third = Tables { second: true, third: true };
        for _ in 0..10_000 {
            assert_eq!(
                limiter.count(Duration::ZERO, &limits, third, &envelope(number::REQUEST_BLOCKS, 9)),
                Ok(())
            );
        }
        assert!((0..10_000).any(|_| {
            limiter.count(Duration::ZERO, &limits, SECOND, &envelope(number::REQUEST_BLOCKS, 9)).is_err()
        }));
    }

    /// Sends as much as the pacer lets pass for five minutes, and counts as a peer whose minutes begin at any second.
    fn paced(limits: &Limits, kind: u8, body: u32) {
        let mut pacer = Pacer::default();
        let (mut now, end, mut sent) = (Duration::ZERO, Duration::from_secs(300), Vec::new());
        while now < end && sent.len() < 20_000 {
            pacer.went(now, limits, SECOND, &envelope(kind, body));
            sent.push(now);
            now = now.max(pacer.free_at(limits, SECOND, kind));
        }
        for phase in 0..60 {
            let mut peer = Limiter::default();
            for at in &sent {
                let at = *at + Duration::from_secs(phase);
                assert_eq!(
                    peer.count(at, limits, SECOND, &envelope(kind, body)),
                    Ok(()),
                    "type {kind}, {body} bytes"
                );
            }
        }
    }

    #[test]
    fn what_is_paced_never_goes_beyond_the_peers_limits() {
        let schema = Schema::embedded();
        let limits = Limits::of(&schema);
        for facts in schema.messages().iter().filter(|facts| facts.is_sent_by_full_nodes()) {
            let Some(limit) = SECOND.limit(facts) else { continue };
            for body in [0, limit.size / 4, limit.size.min(2 << 20)] {
                if limit.rate.is_some() {
                    paced(&limits, facts.number, body);
                }
            }
        }
    }
}
