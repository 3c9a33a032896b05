//! What a flow sends next: lost data first, then new data and FIN, window probes, and an ACK if nothing carries one.
//!
//! [`Connection::plan`] decides without changing anything; [`Connection::sent`] commits once the segment is on its way.
//! Nagle's algorithm is off: whoever writes here writes whole messages.

use crate::time::Instant;
use crate::wire::{Flags, Options, Outgoing, Payload, SackBlocks, Seq};

use super::congestion::Control;
use super::connection::{Connection, LOCAL_SCALE, RECORD_WINDOW, SYN_WINDOW, Shared, TRUSTED_WINDOW};
use super::state::State;
use super::timers::Timer;
use crate::shard::Standing;

/// What kind of segment a [`Plan`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Syn,
    /// Data or FIN that was sent before.
    Again,
    /// Data or FIN for the first time.
    New,
    /// A question about the window.
    Probe,
    Ack,
}

/// A segment to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    kind: Kind,
    seq: Seq,
    len: u32,
    fin: bool,
    /// Payload bytes per segment on the wire, where the port is to cut; else 0.
    segment: u16,
    /// Window field.
    window: u16,
    /// Right edge that the window field promises.
    edge: Seq,
}

impl Connection {
    /// The next segment, if there is one to be sent now.
    pub(crate) fn plan(&mut self, now: Instant, shared: &Shared) -> Option<Plan> {
        let mut plan = match self.state {
            State::Closed => return None,
            State::SynSent => self.send.probe.then(|| Plan::bare(Kind::Syn, self.send.una))?,
            _ => self.plan_synchronised(now, shared)?,
        };
        (plan.window, plan.edge) = match plan.kind {
            Kind::Syn => (SYN_WINDOW, plan.edge),
            _ => self.window_field(shared),
        };
        Some(plan)
    }

    fn plan_synchronised(&mut self, now: Instant, shared: &Shared) -> Option<Plan> {
        if self.state.sends() {
            if let Some(plan) = self.plan_again(shared).or_else(|| self.plan_new(now, shared)) {
                return Some(plan);
            }
            if self.send.probe {
                return Some(self.plan_probe());
            }
        }
        self.receive.ack_now.then(|| Plan::bare(Kind::Ack, self.send.nxt))
    }

    /// Lost data (RFC 6675, section 5, NextSeg rule 1; RFC 6582), as far as the window of the path allows.
    fn plan_again(&self, shared: &Shared) -> Option<Plan> {
        let flight = self.flight();
        let (seq, len, urgent) = self.recovery.next(&shared.shelf, flight)?;
        let pipe = self.recovery.pipe(&shared.shelf, flight, self.sack);
        if !urgent && pipe + len > self.congestion.window() {
            return None;
        }
        // A peer that shrank its window still gets its first missing byte.
        if seq != self.send.una && (seq + len).after(self.send.una + self.send.wnd) {
            return None;
        }
        let data = if seq.before(self.send.end) { len.min(self.send.end - seq) } else { 0 };
        let data = data.min(self.room(shared));
        let fin = self.state.fin_in_flight() && seq + data == self.send.end && len > data;
        Some(Plan { len: data, fin, ..Plan::bare(Kind::Again, seq) })
    }

    /// Payload bytes that fit one segment, beside the options that it has to carry.
    fn room(&self, shared: &Shared) -> u32 {
        let options = match self.sack && (self.receive.queue.has_gap() || self.receive.duplicate.is_some()) {
            true => 4 + 8 * self.sack_blocks(shared).as_slice().len() as u32,
            false => 0,
        };
        u32::from(self.send.mss).saturating_sub(options).max(1)
    }

    /// New data, and FIN after the last of it.
    fn plan_new(&mut self, now: Instant, shared: &Shared) -> Option<Plan> {
        let unsent = self.unsent();
        let fin_due = self.send.fin_queued && !self.state.fin_sent();
        if unsent == 0 && !fin_due {
            return None;
        }
        let seq = self.send.nxt;
        let limit = self.send.una + self.send.wnd;
        let usable = if seq.before(limit) { limit - seq } else { 0 };
        let idle = self.send.una == self.send.nxt;
        if idle && now.since(self.send.sent_at) > self.rtt.timeout() {
            self.congestion.idled(self.send.mss.into());
        }
        let (len, segment) = if unsent > 0 { self.amount(unsent, usable, shared)? } else { (0, 0) };
        let fin = fin_due && len == unsent && usable > len;
        (len > 0 || fin).then(|| Plan { len, fin, segment, ..Plan::bare(Kind::New, seq) })
    }

    /// How much new data to send in one go, and the segment size if the port is to cut it.
    fn amount(&mut self, unsent: u32, usable: u32, shared: &Shared) -> Option<(u32, u16)> {
        let pipe = self.recovery.pipe(&shared.shelf, self.flight(), self.sack);
        let room = self.room(shared);
        let len = unsent.min(usable).min(room);
        // Sender's avoidance of silly windows (RFC 9293, section 3.8.6.2.1, without Nagle's condition).
        let worth = len == room || len == unsent || 2 * len >= self.send.max_wnd;
        if len == 0 || !worth {
            return None;
        }
        let open = self.congestion.window().saturating_sub(pipe);
        if open < len && pipe > 0 {
            self.send.limited = true;
            return None;
        }
        let most = shared.segmentation(self.link) as u32;
        let many = unsent.min(usable).min(open).min(most);
        if many < 2 * room {
            return Some((len, 0));
        }
        Some((many - many % room, room as u16))
    }

    /// A window probe: a byte that the peer has already, outside of its window, so that it answers with an ACK. While some
    /// window is open but too small to be worth while, what fits is sent instead (RFC 9293, section 3.8.6.1).
    fn plan_probe(&self) -> Plan {
        let limit = self.send.una + self.send.wnd;
        let usable = if self.send.nxt.before(limit) { limit - self.send.nxt } else { 0 };
        let len = usable.min(self.unsent()).min(self.send.mss.into());
        if len == 0 || self.send.nxt != self.send.una {
            return Plan::bare(Kind::Probe, self.send.una - 1);
        }
        Plan { len, ..Plan::bare(Kind::New, self.send.nxt) }
    }

    /// What the window may grow to now.
    fn window_limit(&self, shared: &Shared) -> u32 {
        let limit = self.receive.tuned.min(self.receive.appetite);
        match self.standing {
            // Under pressure everybody's windows shrink, strangers' first.
            Standing::Stranger if shared.pool.above(4) => limit.min(RECORD_WINDOW),
            _ if shared.pool.above(6) => limit.min(TRUSTED_WINDOW),
            _ => limit,
        }
    }

    /// The right edge that we would like to offer; never before one that was promised.
    fn wanted_edge(&self, shared: &Shared) -> Seq {
        (self.receive.queue.read() + self.window_limit(shared)).max(self.receive.edge)
    }

    /// The window field and the right edge that it promises. Scaling makes it coarse: it is rounded up where that keeps the
    /// edge from retreating, but never to more than one step above the limit; then it is rounded down and segments are
    /// still judged by the largest edge ever promised (RFC 7323, section 2.4).
    fn window_field(&self, shared: &Shared) -> (u16, Seq) {
        let next = self.rcv_nxt();
        let wanted = self.wanted_edge(shared);
        if !next.before(wanted) {
            return (0, self.receive.edge);
        }
        let (window, unit) = (wanted - next, 1u32 << self.receive.scale);
        let largest = u32::from(u16::MAX) << self.receive.scale;
        let down = (window & !(unit - 1)).min(largest);
        let up = (down + if down < window { unit } else { 0 }).min(largest);
        let limit = self.receive.queue.read() + self.window_limit(shared) + (unit - 1);
        let offered =
            if (next + down).before(self.receive.edge) && (next + up).at_most(limit) { up } else { down };
        ((offered >> self.receive.scale) as u16, self.receive.edge.max(next + offered))
    }

    /// The host consumed data or changed its appetite: whether the peer should hear of the larger window at once
    /// (receiver's avoidance of silly windows, RFC 9293, section 3.8.6.2.2).
    pub(crate) fn window_opened(&mut self, shared: &Shared) {
        if !self.state.receives() {
            return;
        }
        let gain = self.wanted_edge(shared) - self.receive.edge;
        let open = self.receive.edge - self.rcv_nxt();
        let step =
            (self.window_limit(shared) / 2).min(2 * u32::from(self.receive.mss)).max(1 << self.receive.scale);
        if gain >= step && (gain >= open || gain >= self.window_limit(shared) / 2) {
            self.receive.ack_now = true;
        }
    }

    /// The segment of a plan.
    pub(crate) fn outgoing<'p>(&mut self, plan: &Plan, now: Instant, shared: &'p Shared) -> Outgoing<'p> {
        let mut flags = if plan.kind == Kind::Syn { Flags::SYN } else { Flags::ACK };
        if plan.fin {
            flags = flags.with(Flags::FIN);
        }
        if plan.len > 0 && plan.seq + plan.len == self.send.end {
            flags = flags.with(Flags::PSH);
        }
        let payload = match plan.len {
            0 => Payload::default(),
            len => self.send.chain.payload(&shared.pool, plan.seq, len as usize),
        };
        Outgoing {
            key: self.key,
            link: self.link,
            hop: self.hop,
            seq: plan.seq,
            ack: if plan.kind == Kind::Syn { Seq(0) } else { self.rcv_nxt() },
            flags,
            window: plan.window,
            options: if plan.kind == Kind::Syn {
                self.syn_options(now, shared)
            } else {
                self.options(now, shared)
            },
            payload,
            segment: plan.segment,
        }
    }

    fn syn_options(&self, now: Instant, shared: &Shared) -> Options {
        Options {
            mss: Some(shared.link_mss(self.link, &self.key)),
            window_scale: Some(LOCAL_SCALE),
            sack_permitted: true,
            timestamps: self.stamps.map(|stamps| (stamps.value(now), 0)),
            sack: SackBlocks::default(),
        }
    }

    fn options(&self, now: Instant, shared: &Shared) -> Options {
        let timestamps = self.stamps.map(|stamps| (stamps.value(now), stamps.recent));
        let sack = if self.sack { self.sack_blocks(shared) } else { SackBlocks::default() };
        Options { timestamps, sack, ..Options::default() }
    }

    /// Blocks that fit beside the timestamps (RFC 2018, section 3).
    fn sack_room(&self) -> usize {
        if self.stamps.is_some() { 3 } else { 4 }
    }

    /// What waits behind a gap, after the duplicate that arrived last (RFC 2883, section 4).
    fn sack_blocks(&self, shared: &Shared) -> SackBlocks {
        if self.receive.duplicate.is_none() && !self.receive.queue.has_gap() {
            return SackBlocks::default();
        }
        let mut blocks = SackBlocks::default();
        if let Some((left, length)) = self.receive.duplicate {
            blocks.push(left, left + length.get());
        }
        for &(left, right) in self.receive.queue.sack(&shared.shelf).as_slice() {
            blocks.push(left, right);
        }
        blocks.truncate(self.sack_room());
        blocks
    }

    /// The planned segment is on its way (or as good as lost).
    pub(crate) fn sent(&mut self, plan: &Plan, now: Instant, shared: &mut Shared) {
        shared.statistics.segments_out += 1;
        match plan.kind {
            Kind::Syn => self.syn_sent(now),
            Kind::Again => {
                self.recovery.retransmitted(plan.seq + plan.len + u32::from(plan.fin));
                self.send.timed = None;
                shared.statistics.retransmissions += 1;
                self.start_retransmit(now, plan.seq == self.send.una);
            }
            Kind::New => self.new_sent(plan, now),
            Kind::Probe => self.send.probe = false,
            Kind::Ack => {}
        }
        if plan.kind != Kind::Syn {
            self.acknowledgement_sent(plan);
        }
    }

    fn syn_sent(&mut self, now: Instant) {
        self.send.probe = false;
        // Karn's rule: only the first SYN can be timed.
        self.send.timed = (self.rtt.backoffs() == 0).then_some((self.send.nxt, now));
        self.timers.retransmit = Timer::at(now + self.rtt.timeout());
    }

    fn new_sent(&mut self, plan: &Plan, now: Instant) {
        if self.send.una == self.send.nxt {
            self.send.progress_at = now;
            self.timers.retransmit = Timer::OFF;
        }
        self.send.probe = false;
        self.send.nxt = plan.seq + plan.len + u32::from(plan.fin);
        self.send.sent_at = now;
        if plan.fin {
            self.state = self.state.after_fin_sent();
        }
        if self.send.timed.is_none() {
            self.send.timed = Some((self.send.nxt, now));
        }
        self.start_retransmit(now, false);
    }

    /// RFC 6298, rule 5.1; and once recovery has sent the first lost segment, its timer starts anew (RFC 6675, section 5).
    fn start_retransmit(&mut self, now: Instant, anew: bool) {
        if anew || !self.timers.retransmit.is_on() {
            self.timers.retransmit = Timer::at(now + self.rtt.timeout());
        }
    }

    fn acknowledgement_sent(&mut self, plan: &Plan) {
        self.receive.edge = plan.edge;
        self.receive.acked = self.rcv_nxt();
        self.receive.ack_now = false;
        self.receive.unacked = 0;
        self.receive.duplicate = None;
        self.timers.ack = Timer::OFF;
    }

    /// Nothing can be sent now. If something waits for the peer's window alone, probing begins (RFC 9293, section
    /// 3.8.6.1).
    pub(crate) fn rest(&mut self, now: Instant) {
        let waits = self.unsent() > 0 || (self.send.fin_queued && !self.state.fin_sent());
        let idle = self.send.una == self.send.nxt && self.state.sends();
        if waits && idle && !self.timers.retransmit.is_on() {
            // Only taken bytes end a stall: a window that opens and shuts again must not hold the queue for ever.
            if !self.send.stalled {
                self.send.stalled = true;
                self.send.progress_at = now;
            }
            self.timers.retransmit = Timer::at(now + self.rtt.timeout());
        }
    }
}

impl Plan {
    fn bare(kind: Kind, seq: Seq) -> Self {
        Plan { kind, seq, len: 0, fin: false, segment: 0, window: 0, edge: Seq(0) }
    }
}
