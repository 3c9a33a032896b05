//! Our own addresses: probed before use, announced, defended (RFC 5227 for IPv4, RFC 4862 and 4861 for IPv6).
//!
//! An address that an operator gave us is never given up while in use (RFC 5227, section 2.4, choice (c); the same is
//! done for IPv6): each conflict is reported, and the address is announced again at most once per [`DEFEND`].

use core::time::Duration;

use super::rate::Jitter;
use super::{Claiming, Prefix};
use crate::time::Instant;
use crate::wire::Address;

/// RFC 5227, PROBE_NUM.
const PROBES_V4: u8 = 3;
/// RFC 4862, DupAddrDetectTransmits.
const PROBES_V6: u8 = 1;
/// RFC 5227, PROBE_WAIT, and RFC 4862, MAX_RTR_SOLICITATION_DELAY: the first probe waits up to this, in milliseconds.
const PROBE_WAIT_MS: u64 = 1_000;
/// RFC 5227, PROBE_MIN and PROBE_MAX, in milliseconds.
const PROBE_GAP_MS: (u64, u64) = (1_000, 2_000);
/// RFC 5227, ANNOUNCE_WAIT.
const ANNOUNCE_WAIT_V4: Duration = Duration::from_secs(2);
/// RFC 4862: RetransTimer after the last probe.
const ANNOUNCE_WAIT_V6: Duration = Duration::from_secs(1);
/// RFC 5227, ANNOUNCE_NUM, and one more as RFC 4861, MAX_NEIGHBOR_ADVERTISEMENT, allows.
const ANNOUNCEMENTS_V4: u8 = 2;
const ANNOUNCEMENTS_V6: u8 = 3;
/// RFC 5227, ANNOUNCE_INTERVAL. Longer than RFC 4861 asks for, which names a minimum.
const ANNOUNCE_GAP: Duration = Duration::from_secs(2);
/// RFC 5227, DEFEND_INTERVAL.
pub(super) const DEFEND: Duration = Duration::from_secs(10);
/// RFC 5227, RATE_LIMIT_INTERVAL: how long an address stays unused before it is probed again.
const RETRY: Duration = Duration::from_secs(60);
/// Least time between announcements that a neighbour's own probe provoked.
const ANSWER_GAP: Duration = Duration::from_secs(1);
/// How often group membership is reported without being asked. Queries carry extension headers and are not read; a
/// snooping switch forgets a member after 260 s (RFC 3810, section 9.4).
const REPORT_GAP: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Probing { left: u8, next: Instant },
    Waiting { until: Instant },
    Held,
    Conflicted { until: Instant },
}

/// What one of our addresses wants said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// "Does anybody hold this address?"
    Probe(Address),
    /// "This address is here."
    Announce(Address),
    /// "I listen to this address's solicited-node group" (IPv6).
    Report(Address),
}

/// One address of ours.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) own: Prefix,
    state: State,
    announcements: u8,
    announce: Instant,
    announced: Option<Instant>,
    defend: Instant,
    report: Option<Instant>,
}

impl Claim {
    /// A claim that begins now.
    pub(super) fn new(own: Prefix, claiming: Claiming, now: Instant, jitter: &mut Jitter) -> Self {
        let v6 = !own.address.is_v4();
        let mut claim = Claim {
            own,
            state: State::Held,
            announcements: 0,
            announce: now,
            announced: None,
            defend: now,
            report: (v6 && claiming != Claiming::Silent).then_some(now),
        };
        match claiming {
            Claiming::Probe => claim.probe_from(now + jitter.millis(0, PROBE_WAIT_MS)),
            Claiming::Announce => claim.hold(now),
            Claiming::Silent => {}
        }
        claim
    }

    /// Whether the address may be used.
    pub(super) fn held(&self) -> bool {
        self.state == State::Held
    }

    /// Whether another station held the address when we last looked.
    pub(super) fn conflicted(&self) -> bool {
        matches!(self.state, State::Conflicted { .. })
    }

    /// Whether the address is being probed, so that another station's probe is a conflict too.
    pub(super) fn tentative(&self) -> bool {
        matches!(self.state, State::Probing { .. } | State::Waiting { .. })
    }

    /// Another station uses the address.
    pub(super) fn conflict(&mut self, now: Instant) {
        match self.state {
            State::Probing { .. } | State::Waiting { .. } => {
                self.state = State::Conflicted { until: now + RETRY };
            }
            State::Held if now >= self.defend => {
                self.defend = now + DEFEND;
                self.announcements = self.announcements.max(1);
                self.announce = now;
            }
            State::Held | State::Conflicted { .. } => {}
        }
    }

    /// Somebody asks for the address in a way that only an announcement answers.
    pub(super) fn asked(&mut self, now: Instant) {
        if self.held() && self.announcements == 0 {
            self.announcements = 1;
            self.announce = self.announced.map_or(now, |last| now.max(last + ANSWER_GAP));
        }
    }

    /// When [`Claim::say`] has something to say or to decide.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let state = match self.state {
            State::Probing { next, .. } => Some(next),
            State::Waiting { until } | State::Conflicted { until } => Some(until),
            State::Held => (self.announcements > 0).then_some(self.announce),
        };
        [state, self.report].into_iter().flatten().min()
    }

    /// The next thing to be said by now; call until it has none.
    pub(super) fn say(&mut self, now: Instant, jitter: &mut Jitter) -> Option<Say> {
        if self.report.is_some_and(|at| at <= now) {
            self.report = Some(now + REPORT_GAP);
            return Some(Say::Report(self.own.address));
        }
        if let State::Conflicted { until } = self.state
            && until <= now
        {
            self.probe_from(now);
        }
        if let State::Waiting { until } = self.state
            && until <= now
        {
            self.hold(now);
        }
        match self.state {
            State::Probing { left, next } if next <= now => {
                self.state = self.after_probe(left.saturating_sub(1), now, jitter);
                Some(Say::Probe(self.own.address))
            }
            State::Held if self.announcements > 0 && self.announce <= now => {
                self.announcements -= 1;
                self.announce = now + ANNOUNCE_GAP;
                self.announced = Some(now);
                Some(Say::Announce(self.own.address))
            }
            _ => None,
        }
    }

    fn probe_from(&mut self, next: Instant) {
        let left = if self.own.address.is_v4() { PROBES_V4 } else { PROBES_V6 };
        self.state = State::Probing { left, next };
    }

    fn after_probe(&self, left: u8, now: Instant, jitter: &mut Jitter) -> State {
        if left > 0 {
            State::Probing { left, next: now + jitter.millis(PROBE_GAP_MS.0, PROBE_GAP_MS.1) }
        } else if self.own.address.is_v4() {
            State::Waiting { until: now + ANNOUNCE_WAIT_V4 }
        } else {
            State::Waiting { until: now + ANNOUNCE_WAIT_V6 }
        }
    }

    fn hold(&mut self, now: Instant) {
        self.state = State::Held;
        self.announcements = if self.own.address.is_v4() { ANNOUNCEMENTS_V4 } else { ANNOUNCEMENTS_V6 };
        self.announce = now;
    }
}
