//! Messages that have to wait, one behind the other, as the bytes that they came in.

use crate::chia::Envelope;

/// Whole messages, and at the end perhaps one that is still coming.
#[derive(Debug, Default)]
pub(super) struct Detour {
    bytes: Vec<u8>,
    /// Bytes at the front that went on.
    at: usize,
}

impl Detour {
    /// Adds bytes of a message; its envelope comes in one piece.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// The envelope of the message in front, and as much of the message as has come.
    pub(super) fn front(&self) -> Option<(Envelope, &[u8])> {
        let waiting = self.bytes.get(self.at..)?;
        let envelope = Envelope::parse(waiting).ok()??;
        let total = usize::try_from(envelope.total()).unwrap_or(usize::MAX);
        Some((envelope, &waiting[..total.min(waiting.len())]))
    }

    /// Whether nothing is behind so many bytes at the front.
    pub(super) fn is_last(&self, count: usize) -> bool {
        self.at + count >= self.bytes.len()
    }

    /// So many bytes at the front went on.
    pub(super) fn take(&mut self, count: usize) {
        self.at += count;
        if self.at >= self.bytes.len() {
            *self = Detour::default();
        }
    }
}
