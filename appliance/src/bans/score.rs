//! When the policy bans: points for what peers did after their handshake, how they fade, and how long a ban lasts.
//!
//! # The score
//!
//! Each source (an IPv4 address, an IPv6 /64) has points. A session that ends for a reason of the table below adds its
//! points; they halve every hour. At [`BAN_AT`] points the source is banned and its points are used up. The first ban lasts
//! `bans.first` (10 minutes); each further one six times as long as the one before, up to `bans.longest` (a day). A day
//! without a ban takes one repetition off. So a peer that is broken once is not banned, one that is broken all the time is
//! out for a day at most, and one that was repaired has a clean record after some days.
//!
//! | reasons | points |
//! | --- | --- |
//! | frames and messages that no stack sends: masks, reserved bits, lengths, envelopes, what only nodes send; smuggled bodies; floods of control frames and key updates | 50 |
//! | a beginning that leads nowhere: no handshake, a second one, malformed or huge upgrades, endless fragments | 30 |
//! | the wrong place: another network or kind of peer, other paths and methods, unknown messages; slow or stalled messages | 10 |
//! | all else: ends in order, lost connections, silence, our own doing | 0 |

use std::collections::BTreeMap;

use hedgerow_dataplane::wire::Prefix;
use hedgerow_policy::verdict::Reason;
use serde::{Deserialize, Serialize};

/// Points at which a source is banned.
pub const BAN_AT: f64 = 100.0;
/// Points halve in this time, in seconds.
const HALF_LIFE: f64 = 3_600.0;
/// A day without a ban takes a repetition off.
const FORGIVEN_AFTER: u64 = 86_400;
/// A ban lasts so many times as long as the one before.
const GROWTH: u64 = 6;
/// Sources with points at most; the one with the fewest makes room.
const SOURCES: usize = 4_096;
/// Fewer points than this are none.
const NOTHING: f64 = 1.0;

/// The points that a reason is worth.
pub fn points(reason: Reason) -> u32 {
    use Reason::*;
    match reason {
        WsUnmasked | WsReservedBits | WsOpcode | WsTextFrame | WsLength | WsControl | WsContinuation
        | WsControlFlood | WsTooLarge | EnvelopeMalformed | NotForThisSender | MessageTooLarge
        | ChiaBadHandshake | HttpBody | TlsKeyUpdates => 50,
        ChiaNoHandshake | ChiaSecondHandshake | WsFragments | HttpMalformed | HttpTooLarge => 30,
        ChiaWrongNetwork | ChiaWrongType | UnknownMessage | HttpMethod | HttpPath | HttpNotUpgrade
        | TooSlow | Stalled => 10,
        _ => 0,
    }
}

/// How long a ban lasts after `level` earlier ones, in seconds.
pub fn lifetime(first: u64, longest: u64, level: u32) -> u64 {
    GROWTH.checked_pow(level).and_then(|times| first.checked_mul(times)).map_or(longest, |s| s.min(longest))
}

/// What is held against a source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The source.
    #[serde(with = "super::text::as_text")]
    pub source: Prefix,
    /// Points at `at`.
    pub points: f64,
    /// When they were counted, in seconds since the Unix epoch.
    pub at: u64,
    /// Bans that are not forgiven yet.
    pub bans: u32,
    /// When the last of them was set or the last was forgiven.
    pub banned: u64,
}

impl Record {
    /// The record as it is at `now`.
    fn faded(self, now: u64) -> Record {
        let age = now.saturating_sub(self.at) as f64;
        let days = now.saturating_sub(self.banned) / FORGIVEN_AFTER;
        let forgiven = u32::try_from(days).unwrap_or(u32::MAX).min(self.bans);
        Record {
            points: self.points * (-age / HALF_LIFE).exp2(),
            at: now.max(self.at),
            bans: self.bans - forgiven,
            banned: if forgiven > 0 { self.banned + days * FORGIVEN_AFTER } else { self.banned },
            ..self
        }
    }

    fn is_clean(&self) -> bool {
        self.points < NOTHING && self.bans == 0
    }
}

/// Sources with points against them, bounded in number.
#[derive(Debug, Clone, Default)]
pub struct Offenders(BTreeMap<Prefix, Record>);

impl Offenders {
    /// Those of these records that there is room for.
    pub fn of(records: Vec<Record>) -> Self {
        Offenders(records.into_iter().take(SOURCES).map(|record| (record.source, record)).collect())
    }

    /// The records.
    pub fn all(&self) -> Vec<Record> {
        self.0.values().copied().collect()
    }

    /// Sources.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody has points.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a reason's points; where that makes a ban, how many earlier ones count.
    pub fn complain(&mut self, now: u64, source: Prefix, reason: Reason) -> Option<u32> {
        let points = f64::from(points(reason));
        if points == 0.0 {
            return None;
        }
        if self.0.len() >= SOURCES && !self.0.contains_key(&source) {
            self.make_room(now);
        }
        let clean = Record { source, points: 0.0, at: now, bans: 0, banned: now };
        let record = self.0.entry(source).or_insert(clean);
        *record = record.faded(now);
        record.points += points;
        if record.points < BAN_AT {
            return None;
        }
        let level = record.bans;
        *record = Record { points: 0.0, bans: level + 1, banned: now, ..*record };
        Some(level)
    }

    /// A source begins anew, as do all of a prefix.
    pub fn forget(&mut self, prefix: Prefix) {
        self.0.retain(|source, _| !prefix.contains(*source));
    }

    /// Forgets those against whom nothing is left.
    pub fn tidy(&mut self, now: u64) {
        self.0.retain(|_, record| !record.faded(now).is_clean());
    }

    fn make_room(&mut self, now: u64) {
        self.tidy(now);
        let weight = |record: &Record| {
            let record = record.faded(now);
            record.points + f64::from(record.bans) * BAN_AT
        };
        let least =
            self.0.values().min_by(|a, b| weight(a).total_cmp(&weight(b))).map(|record| record.source);
        if let Some(source) = least.filter(|_| self.0.len() >= SOURCES) {
            self.0.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> Prefix {
        Prefix::host(hedgerow_dataplane::wire::Address::from_v4(number.to_be_bytes()))
    }

    #[test]
    fn bans_grow_and_are_forgiven() {
        let day = 86_400;
        assert_eq!([0, 1, 2, 3, 40].map(|level| lifetime(600, day, level)), [600, 3_600, 21_600, day, day]);
        let (mut offenders, mut now) = (Offenders::default(), 1_000);
        let mut offend = |now| {
            offenders.complain(now, source(1), Reason::WsUnmasked);
            offenders.complain(now, source(1), Reason::WsUnmasked)
        };
        assert_eq!([offend(now), offend(now), offend(now)], [Some(0), Some(1), Some(2)]);
        // Two days later two of three are forgiven; a week later all are.
        now += 2 * day;
        assert_eq!(offend(now), Some(1));
        now += 7 * day;
        assert_eq!(offend(now), Some(0));
        offenders.tidy(now + 2 * day);
        assert!(offenders.is_empty());
    }

    #[test]
    fn points_fade_and_need_company() {
        let mut offenders = Offenders::default();
        // Once an hour for a day: never twice the points of one.
        for hour in 0..24 {
            assert_eq!(offenders.complain(hour * 3_600, source(1), Reason::EnvelopeMalformed), None);
        }
        assert_eq!(offenders.complain(0, source(2), Reason::Finished), None);
        assert_eq!(offenders.len(), 1);
    }

    #[test]
    fn room_is_bounded_and_the_least_guilty_leave() {
        let mut offenders = Offenders::default();
        offenders.complain(0, source(0), Reason::WsUnmasked);
        (1..10_000).for_each(|n| {
            offenders.complain(0, source(n), Reason::TooSlow);
        });
        assert_eq!(offenders.len(), SOURCES);
        assert_eq!(offenders.complain(0, source(0), Reason::WsUnmasked), Some(0));
    }
}
