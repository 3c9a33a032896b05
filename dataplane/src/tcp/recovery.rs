//! What was lost and what is sent again: the retransmission timeout (RFC 6298), and loss recovery with a SACK scoreboard
//! (RFC 6675) or, for peers without SACK, with counted duplicates (RFC 6582).
//!
//! Both kinds of recovery and the aftermath of a timeout share one model: everything before [`Recovery::lost_edge`] that
//! the peer does not hold counts as lost, and [`Recovery::high_rxt`] says how far of that was sent again. A detector that
//! works with times (RFC 8985) moves the same edge by another rule.

use std::time::Duration;

use crate::wire::Seq;

use super::ranges::{Loan, Shelf};

/// Lower bound of the timeout. RFC 6298 recommends a second; all large stacks use 200 ms, which leaves room for the delayed
/// ACKs of 40 ms that they send.
const RTO_MIN_US: u32 = 200_000;
/// Upper bound of the timeout (RFC 6298, rule 2.5).
const RTO_MAX_US: u32 = 60_000_000;
/// Before the first measurement (RFC 6298, rule 2.1).
const RTO_INITIAL_US: u32 = 1_000_000;
/// Duplicates that mean loss (RFC 5681, section 3.2; DupThresh of RFC 6675).
const DUPLICATES: u32 = 3;

/// Round-trip time and the retransmission timeout, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundTrip {
    srtt: u32,
    rttvar: u32,
    rto: u32,
    backoff: u8,
}

impl Default for RoundTrip {
    fn default() -> Self {
        RoundTrip { srtt: 0, rttvar: 0, rto: RTO_INITIAL_US, backoff: 0 }
    }
}

impl RoundTrip {
    /// A measurement (RFC 6298, rules 2.2 and 2.3). Ends the backing off.
    pub(crate) fn sample(&mut self, rtt: Duration) {
        let rtt = u32::try_from(rtt.as_micros()).unwrap_or(RTO_MAX_US).clamp(1, RTO_MAX_US);
        if self.srtt == 0 {
            self.srtt = rtt;
            self.rttvar = rtt / 2;
        } else {
            self.rttvar = self.rttvar - self.rttvar / 4 + self.srtt.abs_diff(rtt) / 4;
            self.srtt = self.srtt - self.srtt / 8 + rtt / 8;
        }
        self.srtt = self.srtt.max(1);
        self.rto = (self.srtt + (4 * self.rttvar).max(1_000)).clamp(RTO_MIN_US, RTO_MAX_US);
        self.backoff = 0;
    }

    /// The smoothed round-trip time, once measured.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        (self.srtt != 0).then(|| Duration::from_micros(self.srtt.into()))
    }

    /// The timeout, backed off.
    pub(crate) fn timeout(&self) -> Duration {
        let rto = u64::from(self.rto) << self.backoff;
        Duration::from_micros(rto.min(RTO_MAX_US.into()))
    }

    /// Doubles the timeout (RFC 6298, rule 5.5).
    pub(crate) fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(10);
    }

    /// New data was acknowledged: the path works again.
    pub(crate) fn progressed(&mut self) {
        self.backoff = 0;
    }

    /// Times that the timeout was doubled.
    pub(crate) fn backoffs(&self) -> u8 {
        self.backoff
    }
}

/// Where loss recovery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No loss known.
    Open,
    /// Fast recovery until the recovery point is acknowledged.
    Fast,
    /// After a timeout, until the recovery point is acknowledged.
    Timeout,
}

/// What is under way, as recovery sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// Oldest sequence number not acknowledged.
    pub(crate) una: Seq,
    /// Next sequence number to be sent for the first time.
    pub(crate) nxt: Seq,
    /// Payload bytes per segment.
    pub(crate) mss: u32,
}

impl Flight {
    /// Sequence numbers under way.
    pub(crate) fn len(&self) -> u32 {
        self.nxt - self.una
    }
}

/// State of loss recovery of one flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovery {
    phase: Phase,
    /// Duplicate ACKs since the last advance; without SACK each stands for a segment that left the network.
    duplicates: u32,
    /// `snd_nxt` when recovery began (RFC 6582, `recover`).
    point: Seq,
    /// Everything before this that the peer does not hold is lost.
    lost_edge: Seq,
    /// Retransmitted up to here (RFC 6675, HighRxt).
    high_rxt: Seq,
    /// Lost data is known and the first of it must go out whatever the window says (RFC 5681, section 3.2, step 3).
    urgent: bool,
    /// What the peer holds ahead of a gap.
    held: Loan,
}

impl Recovery {
    /// At the start of a connection.
    pub(crate) fn new(una: Seq) -> Self {
        Recovery {
            phase: Phase::Open,
            duplicates: 0,
            point: una,
            lost_edge: una,
            high_rxt: una,
            urgent: false,
            held: Loan::NONE,
        }
    }

    /// Where recovery stands.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Gives back what was borrowed.
    pub(crate) fn release(&mut self, shelf: &mut Shelf) {
        shelf.settle(&mut self.held);
    }

    /// Notes a SACK block (RFC 2018); blocks outside of the flight (D-SACK, games) are ignored. Says how many bytes are
    /// newly held.
    pub(crate) fn note(&mut self, shelf: &mut Shelf, flight: Flight, block: (Seq, Seq)) -> u32 {
        let (left, right) = block;
        if !left.after(flight.una) || !left.before(right) || right.after(flight.nxt) {
            return 0;
        }
        shelf.lend(&mut self.held).and_then(|set| set.insert(left, right)).unwrap_or(0)
    }

    /// `snd_una` advanced by `acked` to `flight.una`. Says whether recovery just ended.
    pub(crate) fn advanced(&mut self, shelf: &mut Shelf, flight: Flight, acked: u32, sack: bool) -> bool {
        shelf.remove_before(&mut self.held, flight.una);
        self.lost_edge = self.lost_edge.max(flight.una);
        self.high_rxt = self.high_rxt.max(flight.una);
        if self.phase == Phase::Open || flight.una.at_least(self.point) {
            self.duplicates = 0;
            self.urgent = false;
            let ended = self.phase != Phase::Open;
            self.phase = Phase::Open;
            // Nothing before `una` can be lost any more, and what lies behind was not judged yet.
            self.lost_edge = flight.una;
            self.high_rxt = flight.una;
            return ended;
        }
        if !sack && self.phase == Phase::Fast {
            // RFC 6582, section 3.2, step 3, partial acknowledgement: the next segment is lost too. The segments that it
            // acknowledges, less the one sent again, had been counted as duplicates.
            self.duplicates = self.duplicates.saturating_sub((acked / flight.mss.max(1)).saturating_sub(1));
            self.high_rxt = flight.una;
            self.lost_edge = flight.una + flight.mss.min(flight.len());
            self.urgent = true;
        }
        false
    }

    /// A duplicate ACK (RFC 5681, section 2; with SACK: one that brought news). Says whether fast recovery begins now.
    pub(crate) fn duplicate(&mut self, shelf: &Shelf, flight: Flight, sack: bool) -> bool {
        // Never more duplicates than segments that could have caused them: a peer gains nothing by inventing some (RFC
        // 5681, section 3.2, step 4).
        let judged = if self.phase == Phase::Fast { self.point - flight.una } else { flight.len() };
        self.duplicates = (self.duplicates + 1).min((judged / flight.mss.max(1)).max(DUPLICATES));
        if sack {
            self.judge(shelf, flight);
        }
        let lost = self.duplicates >= DUPLICATES || (sack && self.lost_edge.after(flight.una));
        // RFC 6582, section 3.2, step 1: one reduction per window of data, also after a timeout.
        if self.phase != Phase::Open || !lost {
            return false;
        }
        self.phase = Phase::Fast;
        self.point = flight.nxt;
        self.high_rxt = flight.una;
        self.lost_edge = self.lost_edge.max(flight.una + flight.mss.min(flight.len()));
        self.urgent = true;
        true
    }

    /// Moves the edge of loss by IsLost of RFC 6675, section 4: three ranges, or more than two segments, are held above.
    fn judge(&mut self, shelf: &Shelf, flight: Flight) {
        let Some(set) = shelf.get(self.held) else { return };
        let mut bytes = 0;
        for (count, &(left, right)) in set.as_slice().iter().rev().enumerate() {
            bytes += right - left;
            if bytes > (DUPLICATES - 1) * flight.mss || count as u32 + 1 >= DUPLICATES {
                self.lost_edge = self.lost_edge.max(left);
                return;
            }
        }
    }

    /// The retransmission timer ran out. Says whether it did so for this flight for the first time.
    pub(crate) fn timed_out(&mut self, shelf: &mut Shelf, flight: Flight) -> bool {
        let first = self.phase != Phase::Timeout;
        // RFC 2018, section 8: a peer may have discarded what it reported. It certainly did where it claims to hold the
        // first byte that it does not acknowledge, and after a second timeout nothing is taken for granted.
        let reneged = shelf.get(self.held).is_some_and(|set| set.containing(flight.una).is_some());
        if !first || reneged {
            shelf.settle(&mut self.held);
        }
        self.phase = Phase::Timeout;
        self.duplicates = 0;
        self.point = flight.nxt;
        self.lost_edge = flight.nxt;
        self.high_rxt = flight.una;
        self.urgent = true;
        first
    }

    /// What is under way was too large for the path (RFC 1191, section 6.5): it is sent again, without blaming congestion.
    pub(crate) fn cut_off(&mut self, flight: Flight) {
        self.phase = Phase::Fast;
        self.point = flight.nxt;
        self.lost_edge = flight.nxt;
        self.high_rxt = flight.una;
        self.urgent = true;
    }

    /// Bytes that are in the network (RFC 6675, SetPipe).
    pub(crate) fn pipe(&self, shelf: &Shelf, flight: Flight, sack: bool) -> u32 {
        let from = self.high_rxt.max(flight.una);
        let (held, lost) = match shelf.get(self.held) {
            Some(set) => (set.bytes(), set.uncovered(from, self.lost_edge)),
            None => (0, if from.before(self.lost_edge) { self.lost_edge - from } else { 0 }),
        };
        let left = if sack { held } else { self.duplicates.saturating_mul(flight.mss) };
        flight.len().saturating_sub(lost).saturating_sub(left)
    }

    /// The next range to send again; at most one segment long. The flag says that the window does not matter.
    pub(crate) fn next(&self, shelf: &Shelf, flight: Flight) -> Option<(Seq, u32, bool)> {
        if self.phase == Phase::Open {
            return None;
        }
        let from = self.high_rxt.max(flight.una);
        let (left, right) = match shelf.get(self.held) {
            Some(set) => set.gap(from, self.lost_edge)?,
            None => from.before(self.lost_edge).then_some((from, self.lost_edge))?,
        };
        Some((left, (right - left).min(flight.mss), self.urgent))
    }

    /// `[.., to)` was sent again.
    pub(crate) fn retransmitted(&mut self, to: Seq) {
        self.high_rxt = self.high_rxt.max(to);
        self.urgent = false;
    }
}
