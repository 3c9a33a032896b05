//! One leg of a session above TLS: frames in and out, and when it was last seen to live.

use core::fmt;
use core::time::Duration;

use super::config::{Deadlines, Limits as GateLimits};
use crate::session::{Instant, Leg};
use crate::websocket::{self, Reader, Role, Writer};

/// Whether a leg is still part of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It does not exist yet.
    Absent,
    /// In use.
    Live,
    /// The session is over; what is queued still goes out, what arrives is thrown away. Cut after a while.
    Closing(Instant),
    /// The same for a leg whose other side has finished too.
    Leaving,
    /// It ended, or was cut.
    Gone,
}

/// One leg above TLS.
pub(super) struct Half {
    pub(super) life: Life,
    /// The HTTP part of what is to be sent; goes out before any frame.
    pub(super) head: Vec<u8>,
    /// Sealed bytes for which the host had no room.
    spilled: Vec<u8>,
    /// Whether the upgrade is done, so that frames may go out.
    pub(super) upgraded: bool,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) heard: Instant,
    pinged: Option<Instant>,
    /// Since when bytes wait to be sent without a pause, and how many went out since.
    backlog: Option<(Instant, u64)>,
}

impl Half {
    /// `dials` where we ask for the upgrade on this leg.
    pub(super) fn new(leg: Leg, dials: bool, limits: &GateLimits, seed: u64, now: Instant) -> Half {
        let role = if dials { Role::Client } else { Role::Server };
        let limits = match leg {
            Leg::Public => websocket::Limits {
                controls_per_minute: limits.controls_per_minute,
                ..websocket::Limits::default()
            },
            // A node is trusted with what it sends, and none of it is held here.
            Leg::Private => websocket::Limits { message_bytes: u64::MAX, controls_per_minute: u32::MAX },
        };
        Half {
            life: if dials { Life::Absent } else { Life::Live },
            head: Vec::new(),
            spilled: Vec::new(),
            upgraded: false,
            reader: Reader::new(role, limits),
            writer: Writer::new(role, seed),
            heard: now,
            pinged: None,
            backlog: None,
        }
    }

    /// The bytes that may be sent now.
    pub(super) fn ready(&self) -> &[u8] {
        if !self.head.is_empty() {
            &self.head
        } else if self.upgraded {
            self.writer.ready()
        } else {
            &[]
        }
    }

    /// The first `count` bytes of [`Half::ready`] went out.
    pub(super) fn sent(&mut self, now: Instant, count: usize) {
        if self.head.is_empty() {
            self.writer.sent(count);
        } else {
            self.head.drain(..count);
            if self.head.is_empty() {
                self.head = Vec::new();
            }
        }
        if let Some((_, sent)) = &mut self.backlog {
            *sent += count as u64;
        }
        self.watch(now);
    }

    /// Puts as much of a sealed record into `room` as fits, says how much, and keeps the rest.
    pub(super) fn overflow(&mut self, record: &[u8], room: &mut [u8]) -> usize {
        self.spilled.extend_from_slice(record);
        self.spill(room)
    }

    /// Writes what is left of a sealed record; says how much.
    pub(super) fn spill(&mut self, room: &mut [u8]) -> usize {
        let count = self.spilled.len().min(room.len());
        room[..count].copy_from_slice(&self.spilled[..count]);
        self.spilled.drain(..count);
        if self.spilled.is_empty() {
            self.spilled = Vec::new();
        }
        count
    }

    /// Whether a part of a sealed record waits.
    pub(super) fn spills(&self) -> bool {
        !self.spilled.is_empty()
    }

    /// Notes whether bytes wait. Called whenever that may have changed.
    pub(super) fn watch(&mut self, now: Instant) {
        if self.ready().is_empty() {
            self.backlog = None;
        } else if self.backlog.is_none() {
            self.backlog = Some((now, 0));
        }
    }

    /// Bytes arrived.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// Asks for a sign of life, unless one is being waited for.
    pub(super) fn ping(&mut self, now: Instant) {
        if self.upgraded && self.pinged.is_none() {
            self.pinged = Some(now);
            self.writer.ping();
            self.watch(now);
        }
    }

    /// When to ping.
    pub(super) fn ping_at(&self, deadlines: &Deadlines) -> Option<Instant> {
        let wanted = self.life == Life::Live && self.upgraded && self.pinged.is_none();
        wanted.then(|| self.heard + deadlines.ping)
    }

    /// When the answer to a ping is overdue.
    pub(super) fn pong_at(&self, deadlines: &Deadlines) -> Option<Instant> {
        self.pinged.filter(|_| self.life == Life::Live).map(|pinged| pinged + deadlines.pong)
    }

    /// When it has to be looked at whether the leg still reads.
    pub(super) fn stall_at(&self, deadlines: &Deadlines) -> Option<Instant> {
        self.backlog.filter(|_| self.life == Life::Live).map(|(since, _)| since + deadlines.stall)
    }

    /// Whether at least `least` bytes went out since the last look; begins a new one.
    pub(super) fn reads(&mut self, now: Instant, least: u64) -> bool {
        let sent = self.backlog.map_or(u64::MAX, |(_, sent)| sent);
        self.backlog = self.backlog.map(|_| (now, 0));
        sent >= least
    }

    /// Whether what is queued is the last that goes out.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.life, Life::Closing(_) | Life::Leaving)
    }

    /// The other side finished: nobody needs to be waited for.
    pub(super) fn heard_end(&mut self) {
        if self.is_closing() {
            self.life = Life::Leaving;
        }
    }

    /// When a leg that was told goodbye is cut.
    pub(super) fn linger_at(&self, linger: Duration) -> Option<Instant> {
        match self.life {
            Life::Closing(since) => Some(since + linger),
            _ => None,
        }
    }
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Half")
            .field("life", &self.life)
            .field("upgraded", &self.upgraded)
            .field("ready", &self.ready().len())
            .field("heard", &self.heard)
            .finish_non_exhaustive()
    }
}
