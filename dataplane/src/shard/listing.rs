//! What others have to know of a shard: the other shards of the box where its flows are, the ports which flows to keep in a
//! lane of their own, and how to answer SYNs as it does.

use super::Shard;
use crate::screen::SynPlan;
use crate::time::Instant;
use crate::wire::{Address, FlowKey, LinkId};

/// News for a port: whether a flow is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// The link whose port it is for.
    pub link: LinkId,
    /// The flow.
    pub key: FlowKey,
    /// Whether its frames belong into the known lane from now on, or no longer.
    pub on: bool,
}

/// Hints that wait at most: what a few batches can cause. Beyond that they are dropped; whoever takes them in every step
/// never sees that happen, and a flow without its hint merely stays in the strangers' lane.
pub(super) const HINTS: usize = 1_024;

impl Shard {
    /// The next hint for [`crate::frame::Port::known`]. To be asked for after every call that takes frames or opens and closes
    /// flows, before what these left to send goes out.
    pub fn hint(&mut self) -> Option<Hint> {
        self.hints.pop_front()
    }

    /// What the port of a link needs to answer SYNs as this shard does, for [`crate::frame::Port::answer`]; `None` for a link
    /// that is not there. To be repeated at least four times a minute: cookies change, and so does what may be answered.
    pub fn syn_plan(&self, now: Instant, link: LinkId) -> Option<SynPlan> {
        let attached = self.links.get(usize::from(link.0))?;
        let usable = |address: &Address| attached.link.usable(*address);
        let own = || attached.link.config().addresses.iter().map(|own| own.address).filter(usable);
        let places = |(address, port): (Option<Address>, u16)| {
            let addresses: Vec<Address> = match address {
                Some(address) => Some(address).filter(usable).into_iter().collect(),
                None => own().collect(),
            };
            addresses.into_iter().map(move |address| (address, port))
        };
        let listeners = self.listeners.on(link).flat_map(places).collect();
        Some(self.screen.plan(now, attached.rules.mtu, self.engine.hash_key(), listeners))
    }

    /// Says whether any port answers SYNs by a plan of this shard: then it has half of the replies that a prefix may get.
    pub fn share_replies(&mut self, shared: bool) {
        self.screen.share_cap(shared);
    }

    /// Lets others find a flow.
    pub(super) fn list(&mut self, key: FlowKey, link: LinkId) {
        if let Some(member) = &self.exchange {
            member.opened(&key);
        }
        self.note(Hint { link, key, on: true });
    }

    /// The flow is gone.
    pub(super) fn strike(&mut self, key: FlowKey, link: LinkId) {
        if let Some(member) = &self.exchange {
            member.closed(&key);
        }
        self.note(Hint { link, key, on: false });
    }

    pub(super) fn note(&mut self, hint: Hint) {
        if self.hints.len() < HINTS {
            self.hints.push_back(hint);
        }
    }
}
