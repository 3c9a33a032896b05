//! A segment arrives: the checks and steps of RFC 9293, section 3.10.7, in its order.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::Reason;
use crate::time::Instant;
use crate::wire::{Agreed, AgreedTimestamps, Flags, Mac, Segment, Seq};

use super::challenge::SPACING;
use super::congestion::Control;
use super::connection::{Connection, LOCAL_SCALE, Pending, RECORD_WINDOW, Shared};
use super::reassembly::Stored;
use super::recovery::Phase;
use super::state::{Outcome, State, Step};
use super::timers::Timer;

/// TS.Recent is no guide after this long without traffic (RFC 7323, section 5.5).
const STALE_AFTER: Duration = Duration::from_secs(24 * 24 * 3600);
/// Longest delay of an acknowledgement. RFC 9293 allows half a second; large stacks use 40 ms at least.
const ACK_DELAY: Duration = Duration::from_millis(40);
/// How far below `rcv_nxt` a segment may lie to count as an honest duplicate, which is acknowledged at once.
const DUPLICATE_REACH: u32 = 1 << 20;

impl Connection {
    /// Processes one segment.
    pub(crate) fn arrives(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        hop: Mac,
        shared: &mut Shared,
    ) -> Outcome {
        if self.state == State::SynSent {
            return self.arrives_in_syn_sent(now, segment, hop, shared);
        }
        // First: sequence number, and PAWS before it (RFC 7323, section 5.3).
        if let Some(reason) = self.unacceptable(now, segment) {
            return Outcome::Dropped(self.refuse(now, segment, reason));
        }
        // Second: reset, believed only with the exact number (RFC 5961, section 3.2).
        if segment.flags.has(Flags::RST) {
            return match segment.seq == self.rcv_nxt() {
                true => Outcome::Closed(Reason::Reset),
                false => Outcome::Dropped(self.challenge(now, Reason::Challenged, shared)),
            };
        }
        // Fourth: SYN, whatever its number (RFC 5961, section 4.2).
        if segment.flags.has(Flags::SYN) {
            return Outcome::Dropped(self.challenge(now, Reason::Challenged, shared));
        }
        // Fifth: acknowledgement.
        if !segment.flags.has(Flags::ACK) {
            return Outcome::Dropped(Reason::BadAck);
        }
        if segment.ack.after(self.send.nxt) || segment.ack.before(self.oldest_ack()) {
            return Outcome::Dropped(self.challenge(now, Reason::BadAck, shared));
        }
        self.hop = Some(hop);
        self.note_timestamp(now, segment);
        let step = self.acknowledged(now, segment, shared);
        if step != Step::To(self.state) {
            match step {
                Step::To(state) => self.state = state,
                Step::TimeWait => return Outcome::TimeWait,
                Step::Closed => return Outcome::Closed(Reason::Finished),
            }
        }
        // Seventh and eighth: text and FIN.
        self.text(now, segment, shared)
    }

    /// Why a segment is not acceptable (RFC 9293, section 3.10.7.4, table 6), if so.
    fn unacceptable(&self, now: Instant, segment: &Segment<'_>) -> Option<Reason> {
        if self.is_stale(now, segment) {
            return Some(Reason::StaleTimestamp);
        }
        let (next, edge) = (self.rcv_nxt(), self.receive.edge);
        let length = length(segment);
        let inside = match length {
            // A bare ACK right at the edge comes from a peer that filled the window; the table would refuse it.
            0 => segment.seq.at_least(next) && segment.seq.at_most(edge),
            // At `next` even while the window is closed, for its acknowledgement's sake (section 3.10.7.4).
            _ => segment.seq == next || overlaps((segment.seq, segment.seq + length), (next, edge)),
        };
        (!inside).then_some(Reason::OutOfWindow)
    }

    /// PAWS (RFC 7323, section 5.3, R1). A segment that lacks the agreed option is dropped too (section 3.2).
    fn is_stale(&self, now: Instant, segment: &Segment<'_>) -> bool {
        let (Some(stamps), false) = (&self.stamps, segment.flags.has(Flags::RST)) else { return false };
        match segment.options.timestamps {
            Some((value, _)) => {
                Seq(value).before(Seq(stamps.recent)) && now.since(stamps.recent_at) < STALE_AFTER
            }
            None => true,
        }
    }

    /// Answers an unacceptable segment with an ACK, unless it is a reset.
    fn refuse(&mut self, now: Instant, segment: &Segment<'_>, reason: Reason) -> Reason {
        if segment.flags.has(Flags::RST) {
            return reason;
        }
        let end = segment.seq + length(segment);
        let next = self.rcv_nxt();
        let honest = end.after(segment.seq) && end.at_most(next) && next - segment.seq <= DUPLICATE_REACH;
        if !honest || reason != Reason::OutOfWindow {
            // Keep-alives and window probes look like this too, so what all flows share has no say in it: whoever used it up
            // would silence everybody's.
            return self.answer(now, reason);
        }
        // Our ACK was lost: the peer waits for it.
        self.receive.duplicate = NonZeroU32::new(end - segment.seq).map(|length| (segment.seq, length));
        self.receive.ack_now = true;
        reason
    }

    /// Has a challenge ACK sent, if the budgets allow (RFC 5961, section 7).
    fn challenge(&mut self, now: Instant, reason: Reason, shared: &mut Shared) -> Reason {
        match self.rested(now) && shared.challenge.take(now) {
            true => self.answer(now, reason),
            false => Reason::ChallengeCap,
        }
    }

    /// Whether the flow's own budget allows an ACK to something that looks like an attack.
    fn rested(&self, now: Instant) -> bool {
        self.receive.challenged_at.is_none_or(|at| now.since(at) >= SPACING)
    }

    /// Has an ACK sent, if the flow's own budget allows.
    fn answer(&mut self, now: Instant, reason: Reason) -> Reason {
        if !self.rested(now) {
            return Reason::ChallengeCap;
        }
        self.receive.challenged_at = Some(now);
        self.receive.ack_now = true;
        reason
    }

    /// The least acceptable acknowledgement (RFC 5961, section 5.2).
    fn oldest_ack(&self) -> Seq {
        self.send.una - self.send.max_wnd.max(u32::from(self.send.mss))
    }

    /// RFC 7323, section 4.3: rules 2 and 3.
    fn note_timestamp(&mut self, now: Instant, segment: &Segment<'_>) {
        if let (Some(stamps), Some((value, _))) = (&mut self.stamps, segment.options.timestamps)
            && segment.seq.at_most(self.receive.acked)
        {
            stamps.recent = value;
            stamps.recent_at = now;
        }
    }

    /// Fifth step: the acknowledgement field, the scoreboard, the window.
    fn acknowledged(&mut self, now: Instant, segment: &Segment<'_>, shared: &mut Shared) -> Step {
        let ack = segment.ack;
        if ack.before(self.send.una) {
            // Old: nothing in it is news.
            return Step::To(self.state);
        }
        let mut news = 0;
        if self.sack {
            let flight = self.flight();
            for &block in segment.options.sack.as_slice() {
                news += self.recovery.note(&mut shared.shelf, flight, block);
            }
        }
        let advance = ack - self.send.una;
        let fin_acked = self.state.fin_in_flight() && ack == self.send.nxt;
        if advance > 0 {
            self.advance(now, segment, advance, shared);
        }
        let repeated = advance == 0 && self.is_duplicate(segment);
        if if self.sack { news > 0 } else { repeated } {
            self.count_duplicate(shared);
        }
        self.update_window(now, segment);
        if fin_acked { self.state.after_fin_acked() } else { Step::To(self.state) }
    }

    /// RFC 5681, section 2: what a duplicate acknowledgement is.
    fn is_duplicate(&self, segment: &Segment<'_>) -> bool {
        self.send.una != self.send.nxt
            && segment.payload.is_empty()
            && !segment.flags.has(Flags::FIN)
            && u32::from(segment.window) << self.send.scale == self.send.wnd
    }

    fn count_duplicate(&mut self, shared: &mut Shared) {
        let flight = self.flight();
        if self.recovery.duplicate(&shared.shelf, flight, self.sack) {
            self.congestion.lost(flight.len(), flight.mss);
            self.send.timed = None;
        }
    }

    /// `advance` sequence numbers were acknowledged.
    fn advance(&mut self, now: Instant, segment: &Segment<'_>, advance: u32, shared: &mut Shared) {
        self.measure(now, segment);
        self.send.una = segment.ack;
        self.send.progress_at = now;
        self.send.stalled = false;
        if self.send.una.at_least(self.send.end) {
            self.send.chain.clear(&mut shared.pool);
        } else {
            self.send.chain.release_before(&mut shared.pool, self.send.una);
        }
        let flight = self.flight();
        match self.recovery.phase() {
            Phase::Fast => {}
            // After a timeout an ACK may cover what left long ago (RFC 3465, section 2.3, L = 1).
            Phase::Timeout => self.congestion.acknowledged(advance.min(flight.mss), flight.mss),
            // A window that was not used is not known to be good (RFC 7661).
            Phase::Open if self.send.limited => self.congestion.acknowledged(advance, flight.mss),
            Phase::Open => {}
        }
        self.recovery.advanced(&mut shared.shelf, flight, advance, self.sack);
        self.send.limited = false;
        self.rtt.progressed();
        // RFC 6298, rules 5.2 and 5.3.
        self.timers.retransmit = match flight.len() {
            0 => Timer::OFF,
            _ => Timer::at(now + self.rtt.timeout()),
        };
        self.offer_space(shared);
    }

    /// A round-trip time, from the timed segment or, after retransmissions, from the echoed timestamp (RFC 7323,
    /// section 4.1).
    fn measure(&mut self, now: Instant, segment: &Segment<'_>) {
        if let Some((end, at)) = self.send.timed {
            if segment.ack.at_least(end) {
                self.rtt.sample(now.since(at));
                self.send.timed = None;
            }
        } else if let (Some(stamps), Some((_, echoed))) = (&self.stamps, segment.options.timestamps) {
            let age = stamps.value(now).wrapping_sub(echoed);
            if age < 60_000 {
                self.rtt.sample(Duration::from_millis(u64::from(age.max(1))));
            }
        }
    }

    /// The pool, which had nothing left for this flow, has recovered.
    pub(crate) fn fed(&mut self, shared: &Shared) {
        if self.send.wanted && self.space(shared) > 0 {
            self.send.wanted = false;
            self.pending.add(Pending::WRITABLE);
        }
    }

    /// Tells the host that it can write, once enough became free for it to be worth while.
    pub(crate) fn offer_space(&mut self, shared: &Shared) {
        if self.send.wanted && self.space(shared) >= self.send_limit(shared) / 4 {
            self.send.wanted = false;
            self.pending.add(Pending::WRITABLE);
        }
    }

    /// RFC 9293, section 3.10.7.4: SND.WND, SND.WL1, SND.WL2.
    fn update_window(&mut self, now: Instant, segment: &Segment<'_>) {
        let newer = self.send.wl1.before(segment.seq)
            || (self.send.wl1 == segment.seq && self.send.wl2.at_most(segment.ack));
        if !newer {
            return;
        }
        let wnd = u32::from(segment.window) << self.send.scale;
        if wnd > self.send.wnd && self.send.una == self.send.nxt {
            // The window opened: what is still not worth a segment waits no longer than at first. Never longer than before,
            // or a window that keeps blinking would put the end of its patience off for ever.
            self.rtt.progressed();
            if self.timers.retransmit.is_on() {
                let soon = Timer::at(now + self.rtt.timeout());
                self.timers.retransmit = self.timers.retransmit.min(soon);
            }
        }
        self.send.wnd = wnd;
        self.send.max_wnd = self.send.max_wnd.max(wnd);
        self.send.wl1 = segment.seq;
        self.send.wl2 = segment.ack;
    }

    /// Seventh step: the segment's text; then its FIN.
    fn text(&mut self, now: Instant, segment: &Segment<'_>, shared: &mut Shared) -> Outcome {
        let fin = segment.flags.has(Flags::FIN);
        if segment.payload.is_empty() && !fin {
            return Outcome::Taken;
        }
        if !self.state.receives() {
            // Behind the peer's own FIN there is nothing (RFC 9293, section 3.10.7.4, seventh).
            self.receive.ack_now = true;
            return Outcome::Dropped(Reason::DataAfterClose);
        }
        let stored = self.store(now, segment, shared);
        if stored == Err(Reason::DataAfterClose) {
            return Outcome::Reset(Reason::DataAfterClose);
        }
        if fin {
            self.receive.ack_now = true;
            // A second FIN with another number is a lie; the first one stands.
            self.receive.fin.get_or_insert(segment.seq + segment.payload.len() as u32);
        }
        match (self.take_fin(now, shared), stored) {
            (Step::TimeWait, _) => Outcome::TimeWait,
            (_, Err(reason)) => Outcome::Dropped(reason),
            _ => Outcome::Taken,
        }
    }

    /// Stores the part of the text that is new and within the window.
    fn store(&mut self, now: Instant, segment: &Segment<'_>, shared: &mut Shared) -> Result<(), Reason> {
        let next = self.receive.queue.next();
        let edge = self.receive.fin.map_or(self.receive.edge, |fin| fin.min(self.receive.edge));
        let (mut seq, mut bytes) = (segment.seq, segment.payload);
        if seq.before(next) {
            let known = ((next - seq) as usize).min(bytes.len());
            self.receive.duplicate = NonZeroU32::new(known as u32).map(|length| (seq, length));
            self.receive.ack_now = true;
            bytes = &bytes[known..];
            seq = next;
        }
        let room = if seq.before(edge) { (edge - seq) as usize } else { 0 };
        if bytes.len() > room {
            self.receive.ack_now = true;
            bytes = &bytes[..room];
        }
        if bytes.is_empty() {
            return if segment.payload.is_empty() { Ok(()) } else { Err(Reason::OutOfWindow) };
        }
        if self.send.orphan {
            // RFC 9293, section 3.6.1: nobody will read it, and the peer is told.
            return Err(Reason::DataAfterClose);
        }
        match self.receive.queue.store(&mut shared.pool, &mut shared.shelf, seq, bytes) {
            Stored::InOrder(urgent) => {
                let bytes = self.receive.queue.next() - next;
                self.delivered(now, segment, bytes, urgent, shared);
            }
            Stored::Ahead => self.receive.ack_now = true,
            Stored::Refused(reason) => {
                self.receive.ack_now = true;
                return Err(reason);
            }
        }
        Ok(())
    }

    /// In-order bytes arrived: when to acknowledge (RFC 9293, section 3.8.6.3), and how far to open the window.
    fn delivered(&mut self, now: Instant, segment: &Segment<'_>, bytes: u32, urgent: bool, shared: &Shared) {
        self.pending.add(Pending::READABLE);
        let each = segment.payload.len().div_ceil(usize::from(segment.merged.max(1)));
        self.receive.mss = self.receive.mss.max(each.min(9_000) as u16);
        self.receive.unacked = self.receive.unacked.saturating_add(bytes);
        if urgent || self.receive.unacked >= 2 * u32::from(self.receive.mss) {
            self.receive.ack_now = true;
        } else if !self.timers.ack.is_on() {
            self.timers.ack = Timer::at(now + ACK_DELAY);
        }
        self.tune(now, shared);
    }

    /// Doubles the window when a whole one arrived within about a round trip and the host keeps reading.
    fn tune(&mut self, now: Instant, shared: &Shared) {
        let (mark, since) = self.receive.mark;
        let next = self.receive.queue.next();
        if next.before(mark) {
            return;
        }
        let window = self.receive.tuned;
        let patience = self.rtt.smoothed().map_or(Duration::from_millis(200), |rtt| 2 * rtt);
        let quick = now.since(since) <= patience.max(Duration::from_millis(20));
        if quick && self.receive.queue.readable() <= window as usize / 2 && !shared.pool.above(4) {
            self.receive.tuned = (2 * window).min(shared.config.window as u32).max(RECORD_WINDOW);
        }
        self.receive.mark = (next + self.receive.tuned, now);
    }

    /// Eighth step: the peer's FIN, once everything before it is here.
    fn take_fin(&mut self, now: Instant, shared: &mut Shared) -> Step {
        if self.receive.fin_taken || self.receive.fin != Some(self.receive.queue.next()) {
            return Step::To(self.state);
        }
        self.receive.fin_taken = true;
        self.receive.ack_now = true;
        self.receive.queue.forget_ahead(&mut shared.pool, &mut shared.shelf);
        self.pending.add(Pending::FINISHED);
        let step = self.state.after_fin_received();
        if let Step::To(state) = step {
            self.state = state;
        }
        if self.send.orphan {
            self.timers.life = Timer::at(now + shared.config.linger);
        }
        step
    }

    /// RFC 9293, section 3.10.7.3. A simultaneous open is refused: our side dials from ports that nobody listens on, so
    /// such a SYN is a probe or an attack.
    fn arrives_in_syn_sent(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        hop: Mac,
        shared: &mut Shared,
    ) -> Outcome {
        let acked = segment.flags.has(Flags::ACK);
        if acked && segment.ack != self.send.nxt {
            // Perhaps the peer still holds a connection of before a crash; a reset frees the way for our next SYN.
            return match segment.flags.has(Flags::RST) {
                true => Outcome::Dropped(Reason::BadAck),
                false => Outcome::Repelled(Reason::BadAck),
            };
        }
        if segment.flags.has(Flags::RST) {
            return if acked {
                Outcome::Closed(Reason::Refused)
            } else {
                Outcome::Dropped(Reason::OutOfWindow)
            };
        }
        if !segment.flags.has(Flags::SYN) || !acked {
            return Outcome::Dropped(if acked { Reason::BadFlags } else { Reason::NoListener });
        }
        let timestamps = match (self.stamps, segment.options.timestamps) {
            (Some(stamps), Some((recent, echoed))) => {
                if stamps.value(now).wrapping_sub(echoed) > 60_000 {
                    return Outcome::Dropped(Reason::BadAck);
                }
                Some(AgreedTimestamps { recent, echoed: stamps.value(now) })
            }
            _ => None,
        };
        self.establish(now, segment, timestamps, shared);
        self.hop = Some(hop);
        Outcome::Taken
    }

    fn establish(
        &mut self,
        now: Instant,
        segment: &Segment<'_>,
        timestamps: Option<AgreedTimestamps>,
        shared: &Shared,
    ) {
        let scale = segment.options.window_scale;
        let agreed = Agreed {
            iss: self.send.una,
            irs: segment.seq,
            mss: segment.options.mss.unwrap_or(536),
            remote_scale: scale.unwrap_or(0),
            local_scale: if scale.is_some() { LOCAL_SCALE } else { 0 },
            sack: segment.options.sack_permitted,
            timestamps,
        };
        if let Some((_, at)) = self.send.timed.take() {
            self.rtt.sample(now.since(at));
        }
        self.agree(now, &agreed, shared.link_mss(self.link, &self.key));
        // The window of a SYN is never scaled (RFC 7323, section 2.2).
        self.send.wnd = segment.window.into();
        self.send.max_wnd = self.send.wnd;
        self.send.wl1 = segment.seq;
        self.send.probe = false;
        self.send.progress_at = now;
        self.state = State::Established;
        self.timers.retransmit = Timer::OFF;
        self.timers.life = if self.send.orphan { Timer::at(now + shared.config.linger) } else { Timer::OFF };
        self.receive.ack_now = true;
        self.rtt.progressed();
        self.pending.add(Pending::CONNECTED);
    }
}

/// SEG.LEN: payload, SYN and FIN.
fn length(segment: &Segment<'_>) -> u32 {
    segment.payload.len() as u32
        + u32::from(segment.flags.has(Flags::SYN))
        + u32::from(segment.flags.has(Flags::FIN))
}

/// Whether two non-empty ranges share a number.
fn overlaps(one: (Seq, Seq), other: (Seq, Seq)) -> bool {
    one.0.before(other.1) && other.0.before(one.1)
}
