//! Flows as others have to know them: the other shards of the box, and the ports that keep known flows in a lane of their own.

use super::{FlowId, Shard};
use crate::wire::{FlowKey, LinkId};

/// A flow by its slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listed {
    key: FlowKey,
    link: LinkId,
}

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

    /// Lets others find a flow.
    pub(super) fn list(&mut self, id: FlowId, key: FlowKey, link: LinkId) {
        let Some(place) = self.listed.get_mut(id.slot as usize) else { return };
        *place = Some(Listed { key, link });
        if let Some(member) = &self.exchange {
            member.opened(&key);
        }
        self.note(Hint { link, key, on: true });
    }

    /// The flow is gone.
    pub(super) fn strike(&mut self, id: FlowId) {
        let listed = self.listed.get_mut(id.slot as usize).and_then(Option::take);
        let Some(Listed { key, link }) = listed else { return };
        if let Some(member) = &self.exchange {
            member.closed(&key);
        }
        self.note(Hint { link, key, on: false });
    }

    fn note(&mut self, hint: Hint) {
        if self.hints.len() < HINTS {
            self.hints.push_back(hint);
        }
    }
}
