//! Segments that outlive their flow: resets, and ACKs of TIME-WAIT.

use crate::wire::{Flags, FlowKey, LinkId, Mac, Options, Outgoing, Payload, Seq};

/// A segment without payload and without a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parting {
    pub(crate) key: FlowKey,
    pub(crate) link: LinkId,
    pub(crate) hop: Option<Mac>,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    pub(crate) timestamps: Option<(u32, u32)>,
}

impl Parting {
    /// As the engine hands it out.
    pub(crate) fn outgoing(&self) -> Outgoing<'static> {
        Outgoing {
            key: self.key,
            link: self.link,
            hop: self.hop,
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            options: Options { timestamps: self.timestamps, ..Options::default() },
            payload: Payload::default(),
            segment: 0,
        }
    }
}
