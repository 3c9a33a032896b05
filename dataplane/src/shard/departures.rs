//! Connections of nodes to the world that are inspected: accepted here in the name of where they were going, with a cookie as
//! any stranger's, and told to the host, which opens another one there ([`crate::shard::Source::Shown`]).
//!
//! Only a node's own addresses on its own link get here, where the rules let it go, and never more at once than they say.
//! Its handshake ends here before anybody outside was asked, so the host resets what it cannot carry on.

use super::{Accept, FlowId, Listener, Opened, SWEEP, Shard, Standing, Verdict};
use crate::Reason;
use crate::egress::{Egress, EgressNode};
use crate::frame::{Frame, Pool};
use crate::screen;
use crate::tcp::KeyHash;
use crate::time::Instant;
use crate::wire::{Agreed, LinkId, Packet};

impl Shard {
    /// A node, by its place in the rules of the way out.
    pub fn egress_node(&self, node: u16) -> Option<&EgressNode> {
        self.egress.as_ref()?.node(node)
    }

    /// Where the world is to nodes.
    pub fn egress_link(&self) -> Option<LinkId> {
        self.egress.as_ref().map(Egress::outer)
    }

    /// What becomes of a segment without a flow that is of an inspected connection of a node; `None`: of any other.
    pub(super) fn depart<P: Pool + ?Sized>(
        &mut self,
        now: Instant,
        link: LinkId,
        packet: &Packet,
        hash: KeyHash,
        pool: &mut P,
        frame: &mut Frame,
    ) -> Option<Verdict> {
        let (node, may) = self.egress.as_ref()?.departing(link, &packet.key)?;
        // One that may not is told so by the way out, which passes none of these on.
        may.ok()?;
        let to = packet.key.local;
        let banned = self.deny.refuses(to, self.index) && !self.admission.is_friend(to);
        let listener =
            Listener { link, address: None, port: packet.key.local_port, accept: Accept::ClientHello };
        let rules = &self.links.get(usize::from(link.0))?.rules;
        let bytes = pool.bytes_mut(frame);
        let answer = match banned {
            true => self.screen.refuse(now, packet, bytes, Reason::Banned),
            false => self.screen.stranger(now, rules, packet, hash.offset(), bytes, Some(&listener)),
        };
        Some(match answer {
            screen::Answer::Reply(len) => Verdict::Reply(len),
            screen::Answer::Refuse(len, reason) => {
                self.statistics.reasons.count(reason);
                Verdict::Reply(len)
            }
            screen::Answer::Drop(reason) => Verdict::Drop(reason),
            screen::Answer::Proof(agreed) => match self.take_departure(now, link, node, packet, &agreed) {
                Ok(id) => {
                    let segment = packet.segment(pool.bytes(frame));
                    // A refusal is counted by the engine.
                    let _ = self.engine.input(now, id, &segment, packet.source_mac);
                    Verdict::Done
                }
                Err(reason) => match self.screen.refuse(now, packet, pool.bytes_mut(frame), reason) {
                    screen::Answer::Refuse(len, reason) => {
                        self.statistics.reasons.count(reason);
                        Verdict::Reply(len)
                    }
                    _ => Verdict::Drop(reason),
                },
            },
        })
    }

    /// A node returned our cookie: a flow for it, if it may have one more.
    fn take_departure(
        &mut self,
        now: Instant,
        link: LinkId,
        node: u16,
        packet: &Packet,
        agreed: &Agreed,
    ) -> Result<FlowId, Reason> {
        if self.engine.buffers_short() {
            return Err(Reason::BufferQuota);
        }
        if !self.egress.as_ref().is_some_and(|egress| egress.take_inspected(node)) {
            return Err(Reason::InspectFull);
        }
        let flow = self.open_departure(now, link, node, packet, agreed);
        if flow.is_err() {
            self.departed(Some(node));
        }
        flow
    }

    fn open_departure(
        &mut self,
        now: Instant,
        link: LinkId,
        node: u16,
        packet: &Packet,
        agreed: &Agreed,
    ) -> Result<FlowId, Reason> {
        if let Some(victim) = self.admission.admit_own()? {
            self.engine.evict(victim, Reason::Evicted);
        }
        let key = packet.key;
        let id = self.engine.accept(now, key, link, packet.source_mac, agreed, Opened::By(node))?;
        // Quotas are for who comes from outside; a node has one of its own.
        self.admission.opened(now, id, key.remote, None, Standing::Reserved);
        if let Some(mut flow) = self.engine.flow(id) {
            flow.set_standing(Standing::Reserved);
        }
        self.list(key, link);
        self.statistics.departed += 1;
        Ok(id)
    }

    /// A connection that a node began is over.
    pub(super) fn departed(&mut self, node: Option<u16>) {
        if let (Some(node), Some(egress)) = (node, &self.egress) {
            egress.give_inspected(node);
        }
    }

    /// Ends inspected connections that the rules of the way out no longer allow, some at a time.
    pub(super) fn review_departures(&mut self) {
        let (Some(from), Some(egress)) = (self.review, &self.egress) else { return };
        let until = (from + SWEEP).min(self.engine.slots());
        for slot in from..until {
            let Some((id, key, link, node)) = self.engine.begun(slot) else { continue };
            let over = match egress.departing(link, key) {
                Some((now, may)) if now == node => may.err(),
                _ => Some(Reason::EgressClosed),
            };
            if let Some(reason) = over {
                self.engine.evict(id, reason);
            }
        }
        self.review = (until < self.engine.slots()).then_some(until);
    }
}
