//! What the node has asked a peer for: only such replies may stream to it before they are complete.

use std::collections::VecDeque;

use super::schema::{MessageType, Schema};

/// Requests remembered per session. A node has far fewer in flight; beyond it the oldest is forgotten, one
/// without an id first, and its reply is held whole like any other message.
const ASKED_MAX: usize = 64;

/// The node's requests that wait for a reply.
#[derive(Debug, Default)]
pub struct Asked {
    requests: VecDeque<(u8, Option<u16>)>,
}

impl Asked {
    /// The node sent a message; remembered if it is a request.
    pub fn sent(&mut self, schema: &Schema, kind: u8, id: Option<u16>) {
        if !schema.message(kind).is_some_and(MessageType::is_request) {
            return;
        }
        if self.requests.len() == ASKED_MAX {
            // A node waits for what it gave an id; what it asked without one may never be answered.
            let oldest = self.requests.iter().position(|(_, id)| id.is_none()).unwrap_or(0);
            self.requests.remove(oldest);
        }
        self.requests.push_back((kind, id));
    }

    /// Whether a message from the peer answers a request; it is then no longer waited for.
    pub fn answers(&mut self, schema: &Schema, kind: u8, id: Option<u16>) -> bool {
        let answered = self.requests.iter().position(|&(request, asked)| {
            asked == id && schema.message(request).is_some_and(|facts| facts.replies.contains(&kind))
        });
        let Some(at) = answered else { return false };
        self.requests.remove(at);
        if self.requests.is_empty() {
            self.requests = VecDeque::new();
        }
        true
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}
