//! Bytes and requests between flows and sessions, and how a session ends.

use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::Reason as FlowReason;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::shard::{self, FlowId};
use hedgerow_policy::session::Work;
use hedgerow_policy::{Close, Done, End, Leg, Request, Standing, verdict};

use super::seats::{Dial, LegState, Seat};
use super::{Core, Happened, guard, to_policy};
use crate::pool::Ticket;
use crate::workers::Desk;

const LEGS: [Leg; 2] = [Leg::Public, Leg::Private];
/// Turns that one session may take before others have theirs.
const ROUNDS: usize = 16;
/// Requests that are carried out in one turn.
const REQUESTS: usize = 16;
/// How long a session whose verdict is there may take to send its last bytes and to hear the other sides' FIN.
const LINGER: Duration = Duration::from_secs(12);
/// A session of this length makes its identity known to the pool.
pub(super) const KNOWN_AFTER: Duration = Duration::from_secs(30);

impl<P: Port> Core<P> {
    /// Calls all sessions to which something happened.
    pub(super) fn pump_ready(&mut self, now: Instant) {
        for _ in 0..self.ready.len() {
            let Some(ticket) = self.ready.pop_front() else { return };
            self.pump(now, ticket);
        }
    }

    /// Runs the oldest-proven or newest-stranger cryptographic step and goes on with its session, or has the workers do so;
    /// whether there is more to do at once.
    pub(super) fn work(&mut self, now: Instant) -> bool {
        if self.desk.is_some() {
            return self.collect(now);
        }
        if let Some((ticket, mut work)) = self.work.pop() {
            let done = guard::run(work.as_mut()).then_some(work);
            self.worked(now, ticket, done);
        }
        self.work.len() > 0
    }

    /// Takes in what the workers have done, and gives them more.
    fn collect(&mut self, now: Instant) -> bool {
        while let Some((ticket, done)) = self.desk.as_mut().and_then(Desk::done) {
            self.worked(now, ticket, done);
        }
        let Some(desk) = &mut self.desk else { return false };
        while desk.has_room() {
            let Some(job) = self.work.pop() else { break };
            desk.give(job);
        }
        false
    }

    /// A step was run; `None`: it panicked, which costs its session alone.
    fn worked(&mut self, now: Instant, ticket: Ticket, done: Option<Box<dyn Work>>) {
        self.crashed += u64::from(done.is_none());
        if let Some(seat) = self.seats.get(ticket) {
            match done {
                Some(work) => seat.session.complete(to_policy(now), Done::Work(work)),
                None => seat.doomed = true,
            }
        }
        self.pump(now, ticket);
    }

    /// Sessions whose time has come.
    pub(super) fn timers(&mut self, now: Instant) {
        while let Some(ticket) = self.seats.expired(now) {
            let Some(mut seat) = self.seats.take(ticket) else { continue };
            if seat.session.deadline().is_some_and(|at| at <= to_policy(now)) {
                seat.session.advance(to_policy(now));
            }
            self.dial_timers(now, &mut seat);
            self.go_on(now, seat);
        }
    }

    /// A flow is gone.
    pub(super) fn closed(&mut self, now: Instant, flow: FlowId, reason: FlowReason) {
        let Some((ticket, leg)) = self.seats.owner(flow) else { return };
        let Some(mut seat) = self.seats.take(ticket) else { return };
        self.detach(&mut seat, leg);
        // Of the leg that others began, or where it is the node's that its way out no longer bears.
        if leg == Leg::Public || seat.voyage.is_some() {
            seat.flow_reason.get_or_insert(reason);
        }
        let connecting = leg == Leg::Private && matches!(seat.dial, Dial::Connecting(..));
        if connecting {
            self.dial_failed(now, &mut seat);
        } else if leg == Leg::Public && self.unreached(now, &mut seat) {
            // It has been told.
        } else if reason != FlowReason::Finished || !seat.leg(leg).told_fin {
            seat.session.ended(to_policy(now), leg, end(reason));
        }
        self.go_on(now, seat);
    }

    pub(super) fn attach(&mut self, flow: FlowId, ticket: Ticket, leg: Leg) {
        self.seats.attach(flow, ticket, leg);
        let key = self.seats.get(ticket).and_then(|seat| seat.leg(leg).flow);
        self.announce(key, true);
    }

    /// Parts a leg from its flow, which lives on or is gone already.
    pub(super) fn detach(&mut self, seat: &mut Seat, leg: Leg) {
        if let Some(flow) = seat.leg(leg).flow.take() {
            self.seats.detach(flow.0);
            self.announce(Some(flow), false);
        }
    }

    /// Tells the port whose frames belong into its known lane.
    pub(super) fn announce(
        &mut self,
        flow: Option<(FlowId, hedgerow_dataplane::wire::FlowKey, hedgerow_dataplane::wire::LinkId)>,
        on: bool,
    ) {
        if let Some((_, key, link)) = flow
            && let Some(attached) = self.ports.get_mut(usize::from(link.0))
        {
            attached.port.known(&key, on);
        }
    }

    fn pump(&mut self, now: Instant, ticket: Ticket) {
        if let Some(mut seat) = self.seats.take(ticket) {
            self.pulse.session(seat.number);
            seat.ready = false;
            self.go_on(now, seat);
        }
    }

    /// Lets a session that was taken out go on, and puts it back or ends it.
    pub(super) fn go_on(&mut self, now: Instant, mut seat: Box<Seat>) {
        let again = self.drive(now, &mut seat);
        if let Some(reason) = self.is_over(now, &mut seat) {
            return self.finish(now, seat, reason);
        }
        self.windows(&mut seat);
        self.answer_challenger(&mut seat);
        self.seats.arm(&mut seat);
        let ticket = seat.ticket;
        self.seats.put(seat);
        if again {
            self.mark(ticket);
        }
    }

    /// Moves bytes and requests until nothing moves; true where turns ran out first.
    fn drive(&mut self, now: Instant, seat: &mut Seat) -> bool {
        seat.rests = seat.rests.filter(|until| *until > now);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for leg in LEGS {
                moved |= self.read(now, seat, leg);
            }
            moved |= self.requests(now, seat);
            for leg in LEGS {
                moved |= self.write(now, seat, leg);
            }
            if !moved || seat.session.broken() {
                return false;
            }
        }
        true
    }

    /// Hands what arrived on a leg to the session, and its end once all before it was taken.
    fn read(&mut self, now: Instant, seat: &mut Seat, leg: Leg) -> bool {
        let Some((id, ..)) = seat.leg(leg).flow.filter(|_| !seat.is_at_rest(leg)) else { return false };
        let Some(mut flow) = self.flow(id) else { return false };
        let over = seat.session.verdict().is_some();
        let bytes = flow.peek();
        if !bytes.is_empty() {
            let available = bytes.len();
            let taken = seat.session.receive(to_policy(now), leg, bytes).min(available);
            // What a session that is over does not want is nobody's.
            let consumed = if taken == 0 && over { available } else { taken };
            flow.consume(consumed);
            drop(flow);
            seat.leg(leg).bytes += consumed as u64;
            seat.moved = now;
            self.spend(now, seat, leg, consumed);
            return consumed > 0;
        }
        if flow.finished() && !seat.leg(leg).told_fin {
            seat.leg(leg).told_fin = true;
            seat.session.ended(to_policy(now), leg, End::Fin);
            return true;
        }
        false
    }

    /// Lets the session write into a leg, and ends the leg once everything before its end is queued.
    fn write(&mut self, now: Instant, seat: &mut Seat, leg: Leg) -> bool {
        if !seat.stands(leg) || seat.leg(leg).shut || seat.is_at_rest(leg) {
            return false;
        }
        let Some((id, ..)) = seat.leg(leg).flow else { return false };
        let Some(mut flow) = self.flow(id) else { return false };
        let space = flow.spare();
        if space.is_empty() {
            return false;
        }
        let room = space.len();
        let written = seat.session.transmit(to_policy(now), leg, space).min(room);
        // Even of nothing: an empty queue gives its memory back.
        flow.commit(written);
        if written > 0 {
            drop(flow);
            self.spend(now, seat, leg, written);
            return true;
        }
        if matches!(seat.leg(leg).closing, Some(Close::Finish(_))) {
            flow.finish();
            seat.leg(leg).shut = true;
            return true;
        }
        false
    }

    /// Carries out what the session asks for.
    fn requests(&mut self, now: Instant, seat: &mut Seat) -> bool {
        for count in 0..REQUESTS {
            let Some(request) = seat.session.request() else { return count > 0 };
            match request {
                Request::Dial { peer, kind } => self.dial(now, seat, peer, kind),
                Request::Reach => self.reach(now, seat),
                Request::Claim(id) => self.claim_peer(now, seat, id),
                Request::Work(work) => self.queue_work(now, seat, work),
                Request::Standing(standing) => self.standing(now, seat, standing),
                Request::Node(id) => self.met(seat, id),
                Request::Sighting(sighting) => self.sighted(now, seat, sighting),
                Request::Alarm(alarm) => self.record(seat, Happened::Alarm { what: alarm.to_string() }),
                Request::Credit(points) => self.credit(now, seat, points),
                Request::Close(leg, how) => self.close(now, seat, leg, how),
            }
        }
        true
    }

    fn queue_work(&mut self, now: Instant, seat: &mut Seat, work: Box<dyn Work>) {
        let stranger = seat.standing == Standing::Stranger;
        match self.work.push((seat.ticket, work), stranger) {
            Some(victim) if victim == seat.ticket => seat.doomed = true,
            Some(victim) => self.end(now, victim, verdict::Reason::Aborted),
            None => {}
        }
    }

    pub(super) fn standing(&mut self, now: Instant, seat: &mut Seat, standing: Standing) {
        if seat.standing == Standing::Stranger && standing == Standing::Proven {
            self.count_denied(seat);
        }
        seat.standing = standing;
        if let Some((id, ..)) = seat.leg(Leg::Public).flow {
            let standing = match standing {
                Standing::Stranger => shard::Standing::Stranger,
                Standing::Proven => shard::Standing::Proven,
                Standing::Reserved => shard::Standing::Reserved,
            };
            self.set_standing(now, id, standing);
        }
    }

    fn close(&mut self, now: Instant, seat: &mut Seat, leg: Leg, how: Close) {
        seat.leg(leg).closing = Some(how);
        let waits = !seat.stands(leg);
        if leg == Leg::Private && waits {
            self.leave_pool(now, seat);
        }
        if matches!(how, Close::Abort(_)) || leg == Leg::Public && waits {
            self.cut(seat, leg);
        }
    }

    /// Ends a leg at once.
    pub(super) fn cut(&mut self, seat: &mut Seat, leg: Leg) {
        if let Some((id, ..)) = seat.leg(leg).flow {
            self.detach(seat, leg);
            self.abort_flow(id);
        }
    }

    /// Whether a session is over, and why.
    fn is_over(&mut self, now: Instant, seat: &mut Seat) -> Option<verdict::Reason> {
        if seat.session.broken() {
            self.crashed += 1;
            return Some(verdict::Reason::Aborted);
        }
        if seat.doomed {
            return Some(verdict::Reason::Aborted);
        }
        let verdict = seat.session.verdict();
        if verdict.is_some() {
            seat.linger.get_or_insert(now + LINGER);
        }
        let gone = |leg: &LegState| leg.flow.is_none();
        // A leg is read until the other side's FIN: a reset for what comes late would destroy our last words.
        let drained = seat.legs.iter().all(|leg| gone(leg) || leg.shut && leg.told_fin);
        let late = seat.linger.is_some_and(|at| at <= now);
        match verdict {
            Some(reason) if drained || late => Some(reason),
            None if seat.legs.iter().all(gone) => Some(verdict::Reason::Aborted),
            _ => None,
        }
    }

    /// Ends a session for a reason of the host's.
    pub(super) fn end(&mut self, now: Instant, ticket: Ticket, reason: verdict::Reason) {
        if let Some(seat) = self.seats.take(ticket) {
            self.finish(now, seat, reason);
        }
    }

    /// A session is over: its legs go, what it held is given back.
    pub(super) fn finish(&mut self, now: Instant, mut seat: Box<Seat>, reason: verdict::Reason) {
        match seat.post {
            Some(_) => self.watch_ended(now, &seat, reason),
            None => self.judge(now, &mut seat, reason),
        }
        for leg in LEGS {
            let LegState { flow, shut, .. } = *seat.leg(leg);
            match flow {
                // Everything is queued and our FIN with it: the engine brings it to an end.
                Some((id, ..)) if shut => {
                    self.detach(&mut seat, leg);
                    if let Some(mut flow) = self.flow(id) {
                        flow.close(now);
                    }
                }
                _ => self.cut(&mut seat, leg),
            }
        }
        self.work.forget(seat.ticket);
        self.release_identity(&seat);
        if let (Dial::Connected(_, since), Some(id)) = (seat.dial, seat.peer_id)
            && now.since(since) >= KNOWN_AFTER
        {
            self.commons.with(|books| books.pools[seat.pool].remember(id));
        }
        self.leave_pool(now, &mut seat);
        self.come_home(&seat);
        self.give_slot(&mut seat);
        if seat.post.is_none() {
            self.ended.count(reason);
        }
        let what = Happened::Closed {
            reason,
            finding: seat.session.finding(),
            software: seat.session.software(),
            flow: seat.flow_reason,
            lasted: now.since(seat.opened),
            from_peer: seat.leg(Leg::Public).bytes,
            from_node: seat.leg(Leg::Private).bytes,
        };
        self.record(&seat, what);
        self.seats.free(seat.ticket);
    }

    /// The receive windows follow the session's appetite.
    fn windows(&mut self, seat: &mut Seat) {
        for leg in LEGS {
            let Some((id, ..)) = seat.leg(leg).flow else { continue };
            let appetite = seat.session.appetite(leg);
            if let Some(mut flow) = self.flow(id) {
                flow.limit_window(appetite);
            }
        }
    }
}

/// How a flow's end looks to a session.
fn end(reason: FlowReason) -> End {
    match reason {
        FlowReason::Finished => End::Fin,
        FlowReason::Reset | FlowReason::Refused => End::Reset,
        FlowReason::TimedOut | FlowReason::Unreachable => End::TimedOut,
        _ => End::Aborted,
    }
}
