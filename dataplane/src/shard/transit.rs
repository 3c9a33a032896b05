//! Frames that are for nobody here: from nodes to the world and back, by the way out.

use std::sync::Arc;

use super::{Hint, Shard, Verdict};
use crate::Reason;
use crate::egress::{self, EgressSession, NodeTraffic, Passing, Protocol, Rules, Way};
use crate::frame::Meta;
use crate::time::Instant;
use crate::wire::{FlowKey, LinkId};

impl Shard {
    /// Says which nodes may go where from now on. Until it is first called nobody may. Nodes keep their places in the list: one
    /// that was removed stays there, closed.
    pub fn set_egress(&mut self, rules: Arc<Rules>) {
        if let Some(egress) = &mut self.egress {
            egress.set_rules(rules);
            self.review = Some(0);
        }
    }

    /// What each node's way out has carried, in the order of the rules; nothing but in shard 0.
    pub fn egress_traffic(&self) -> &[NodeTraffic] {
        self.egress.as_ref().map_or(&[], |egress| egress.traffic())
    }

    /// The sessions of the way out; none but in shard 0.
    pub fn egress_sessions(&self) -> impl Iterator<Item = EgressSession> + '_ {
        self.egress.iter().flat_map(|egress| egress.sessions())
    }

    /// Whether an ICMP message is to be passed on.
    pub(super) fn transits(&self, link: LinkId, bytes: &[u8]) -> bool {
        self.egress.as_ref().is_some_and(|egress| egress.passes(link, bytes))
    }

    /// Whether a segment for an address of ours may be an answer to a node.
    pub(super) fn translates(&self, link: LinkId, key: &FlowKey) -> bool {
        self.egress.as_ref().is_some_and(|egress| egress.translates(link, key.local, key.local_port))
    }

    /// Passes a frame on, or to the shard that may; `otherwise` is why it is refused where there is no way out.
    pub(super) fn transit(
        &mut self,
        now: Instant,
        link: LinkId,
        bytes: &[u8],
        meta: &Meta,
        otherwise: Reason,
    ) -> Verdict {
        let Some(egress) = &mut self.egress else { return Verdict::Drop(otherwise) };
        let way = match egress.way(link, bytes) {
            None => return Verdict::Drop(otherwise),
            Some(Err(reason)) => return Verdict::Drop(reason),
            Some(Ok(way)) => way,
        };
        let owner = |key| self.exchange.as_ref().and_then(|member| member.owner(&key));
        match way {
            Way::Here => {
                let (deny, admission, index) = (&self.deny, &self.admission, self.index);
                let denied = |source| deny.refuses(source, index) && !admission.is_friend(source);
                match egress.judge(Passing { now, link, bytes, meta }, denied) {
                    Ok(()) => Verdict::Done,
                    Err(reason) => Verdict::Drop(reason),
                }
            }
            // It came from another shard already.
            _ if self.handed => Verdict::Drop(otherwise),
            Way::Home => Verdict::Elsewhere(0),
            Way::Listed(key) => match owner(key) {
                Some(shard) => Verdict::Elsewhere(shard),
                None => Verdict::Drop(Reason::EgressUnsolicited),
            },
        }
    }

    /// Tells the other shards and the ports which sessions have begun and ended.
    pub(super) fn tell_transits(&mut self) {
        while let Some((news, outer)) = self.egress.as_mut().and_then(|way| Some((way.news()?, way.outer())))
        {
            let listed = egress::listed(news.protocol, &news.outer);
            match &self.exchange {
                Some(member) if news.on => member.opened(&listed),
                Some(member) => member.closed(&listed),
                None => {}
            }
            // The lane of known flows is one of TCP.
            if news.protocol == Protocol::Tcp {
                let inner = egress::reversed(&news.inner);
                self.note(Hint { link: outer, key: news.outer, on: news.on });
                self.note(Hint { link: news.link, key: inner, on: news.on });
            }
        }
    }
}
