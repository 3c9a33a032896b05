//! A timer of a flow ran out: retransmission and window probes, delayed ACK, end of patience.

use crate::Reason;
use crate::time::Instant;

use super::congestion::Control;
use super::connection::{Connection, Shared};
use super::state::{Outcome, State};
use super::timers::Timer;

impl Connection {
    /// Handles all timers that are due.
    pub(crate) fn expired(&mut self, now: Instant, shared: &mut Shared) -> Outcome {
        if self.timers.deadline.is_due(now) {
            return Outcome::Reset(Reason::HandshakeTimeout);
        }
        if self.timers.life.is_due(now) {
            // Before the peer answered there is nothing that a reset could end.
            let silent = self.state == State::SynSent;
            return if silent { Outcome::Closed(Reason::TimedOut) } else { Outcome::Reset(Reason::TimedOut) };
        }
        if self.timers.ack.is_due(now) {
            self.timers.ack = Timer::OFF;
            self.receive.ack_now = true;
        }
        if self.timers.retransmit.is_due(now) {
            self.timers.retransmit = Timer::OFF;
            return self.retransmit_timeout(now, shared);
        }
        Outcome::Taken
    }

    fn retransmit_timeout(&mut self, now: Instant, shared: &mut Shared) -> Outcome {
        let flight = self.flight();
        let patience =
            if flight.len() > 0 { shared.config.user_timeout } else { shared.config.stall_timeout };
        if self.state != State::SynSent && now.since(self.send.progress_at) >= patience {
            // RFC 9293, section 3.8.3, and RFC 5482; for a closed window see `stall_timeout`.
            return Outcome::Reset(Reason::TimedOut);
        }
        // RFC 6298, rule 5.5. Karn's rule: what is sent again is not timed.
        self.rtt.back_off();
        self.send.timed = None;
        if self.state == State::SynSent {
            self.send.probe = true;
            return Outcome::Taken;
        }
        if flight.len() > 0 {
            shared.statistics.timeouts += 1;
            let first = self.recovery.timed_out(&mut shared.shelf, flight);
            self.congestion.timed_out(flight.len(), flight.mss, first);
        } else {
            self.send.probe = true;
            self.timers.retransmit = Timer::at(now + self.rtt.timeout());
        }
        Outcome::Taken
    }
}
