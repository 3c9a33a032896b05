//! Sessions that nodes begin: what a node sends to a peer outside ends here, and the peer is dialled from this core by the way
//! out. Their private leg comes first, their public leg is opened when the session wishes for it, and the peer's identity is
//! its own once no other session of that node has it.

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::shard::{FlowId, Source, Target};
use hedgerow_policy::{DialFailure, Done, Leg, PeerId};

use super::seats::{Dial, LegState, Reach, Seat, Voyage};
use super::{Core, Departed, Departure, Happened, to_policy};

/// What stands for a listener where there is none.
pub(crate) const NO_LISTENER: u16 = u16::MAX;

impl<P: Port> Core<P> {
    /// A node has begun a connection that is inspected.
    pub(super) fn departing(&mut self, now: Instant, flow: FlowId, place: u16) {
        let begun = self.flow(flow).and_then(|flow| flow.key()).filter(|_| !self.stopping);
        let Some(key) = begun.filter(|_| !self.watch.turns_away) else { return self.abort_flow(flow) };
        let exit = self.shard.egress_node(place).zip(self.shard.egress_link());
        let exit = exit.and_then(|(exit, out)| Some((exit.link, *exit.addresses.first()?, out)));
        let Some((link, address, out)) = exit else { return self.abort_flow(flow) };
        // The first pool that has a machine says what it is.
        let whose = self.commons.with(|books| {
            let mut pools = books.pools.iter_mut().enumerate();
            pools.find_map(|(pool, state)| Some((pool, state.begins(link, address)?)))
        });
        let Some((pool, node)) = whose else { return self.abort_flow(flow) };
        let departure = Departure { pool, node: &node.name, id: node.id, to: key.local() };
        let Some(Departed { session, showing }) = self.sessions.depart(to_policy(now), &departure) else {
            self.commons.with(|books| books.pools[pool].ended(node.node));
            return self.abort_flow(flow);
        };
        if let Some(id) = showing {
            self.commons.with(|books| books.own(id));
        }
        let (ticket, number) = self.seats.open();
        let mut legs = [LegState::default(), LegState::default()];
        legs[Leg::Private as usize].flow = Some((flow, key, link));
        let mut seat = Seat::new(ticket, number, session, key.local(), now, legs);
        (seat.listener, seat.pool) = (usize::from(NO_LISTENER), pool);
        let to = Target { link: out, address: key.local, port: key.local_port };
        seat.voyage = Some(Voyage { node: node.node, name: node.name, to, reach: Reach::None });
        self.seats.put(Box::new(seat));
        self.attach(flow, ticket, Leg::Private);
        self.mark(ticket);
    }

    /// A session wishes for its public leg.
    pub(super) fn reach(&mut self, now: Instant, seat: &mut Seat) {
        let Some(voyage) = &mut seat.voyage else { return };
        if std::mem::replace(&mut seat.asked, true) {
            return;
        }
        voyage.reach = Reach::Underway;
        let to = voyage.to;
        let flow = self.shard.connect(now, to, Source::Shown).ok();
        let flow = flow.and_then(|flow| Some((flow, self.flow(flow)?.key()?, to.link)));
        let Some(flow) = flow else {
            self.unreached(now, seat);
            return;
        };
        seat.leg(Leg::Public).flow = Some(flow);
        self.seats.attach(flow.0, seat.ticket, Leg::Public);
        self.announce(Some(flow), true);
    }

    /// The public leg is open.
    pub(super) fn reached(&mut self, now: Instant, seat: &mut Seat) {
        if let Some(voyage) = &mut seat.voyage {
            voyage.reach = Reach::There;
            seat.session.complete(to_policy(now), Done::Dialled);
        }
    }

    /// The public leg is gone: whether it was never there, which the session is told.
    pub(super) fn unreached(&mut self, now: Instant, seat: &mut Seat) -> bool {
        match seat.voyage.as_mut().filter(|voyage| voyage.reach == Reach::Underway) {
            Some(voyage) => {
                voyage.reach = Reach::None;
                seat.session.complete(to_policy(now), Done::DialFailed(DialFailure::Unreachable));
                true
            }
            None => false,
        }
    }

    /// A session knows who its peer is.
    pub(super) fn claim_peer(&mut self, now: Instant, seat: &mut Seat, id: PeerId) {
        if seat.voyage.is_some() && seat.peer_id.is_none() && matches!(seat.dial, Dial::None) {
            seat.peer_id = Some(id);
            self.claim(now, seat, id);
        }
    }

    /// The peer's identity is the session's.
    pub(super) fn sail(&mut self, now: Instant, seat: &mut Seat) {
        if let Some(voyage) = &seat.voyage {
            let node = voyage.name.clone();
            self.record(seat, Happened::Dialled { node });
            seat.session.complete(to_policy(now), Done::Claimed);
        }
    }

    /// A session that a node began is over.
    pub(super) fn come_home(&mut self, seat: &Seat) {
        if let Some(voyage) = &seat.voyage {
            self.commons.with(|books| books.pools[seat.pool].ended(voyage.node));
        }
    }
}
