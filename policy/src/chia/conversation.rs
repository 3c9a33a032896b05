//! Who asked whom for what: requests and replies paired as a node pairs them, in both directions.
//!
//! A node takes as an answer whatever comes back with the id of a request that it waits for, and then looks at the type;
//! requests that it sent without an id are answered by type alone. What it waits for no longer it ignores when it comes
//! late. What answers nothing it punishes, but for some replies that are gossip; the schema says which.
//!
//! All is bounded: a fixed number of requests is remembered, and beyond it only how many of each type there were.

use core::time::Duration;
use std::collections::VecDeque;

use super::messages::number;
use super::schema::{MessageType, Push, Schema};
use super::version::Version;
use crate::session::Instant;

/// Requests of the node's that are remembered one by one; the oldest without an id is forgotten first. A node has far
/// fewer in flight, but those that were never answered stay, so that a late reply is known as one.
const ASKED_MAX: usize = 64;

/// How long a request counts as being worked on without an answer: some are never answered.
const WORK_MAX: Duration = Duration::from_secs(30);

/// Replies that a node takes from an old peer after `request_mempool_transactions`.
const MEMPOOL_REPLIES: u16 = 200;

/// What a message from the peer is to the node's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answers a request, which may be long over.
    Solicited,
    /// It is a reply that nobody waits for, of a type that a node takes anyway.
    Pushed,
    /// It is a reply that nobody waits for; a node would ban for it.
    Unsolicited,
    /// It is no reply.
    No,
}

/// A request of the node's.
#[derive(Clone, Copy, Debug)]
struct Asked {
    kind: u8,
    id: Option<u16>,
    at: Instant,
}

/// A request of the peer's at the node.
#[derive(Clone, Copy, Debug)]
struct Work {
    kind: u8,
    id: Option<u16>,
    until: Instant,
}

/// The requests of one session.
#[derive(Debug, Default)]
pub struct Conversation {
    /// The node's requests that no reply came to.
    asked: VecDeque<Asked>,
    /// How many more there were, by type.
    forgotten: Vec<(u8, u16)>,
    mempool_replies: u16,
    /// The peer's expensive requests that the node works on.
    works: Vec<Work>,
}

impl Conversation {
    /// The node sent a message; remembered if it is a request.
    pub fn asked(&mut self, now: Instant, schema: &Schema, kind: u8, id: Option<u16>) {
        if kind == number::REQUEST_MEMPOOL_TRANSACTIONS {
            self.mempool_replies = MEMPOOL_REPLIES;
        }
        if !schema.message(kind).is_some_and(MessageType::is_request) {
            return;
        }
        if self.asked.len() == ASKED_MAX {
            let oldest = self.asked.iter().position(|asked| asked.id.is_none()).unwrap_or(0);
            if let Some(asked) = self.asked.remove(oldest) {
                self.forget(asked.kind);
            }
        }
        self.asked.push_back(Asked { kind, id, at: now });
    }

    fn forget(&mut self, kind: u8) {
        match self.forgotten.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => self.forgotten.push((kind, 1)),
        }
    }

    /// Requests of the node's that are remembered one by one.
    pub fn open(&self) -> usize {
        self.asked.len()
    }

    /// What a message from the peer answers; what it answers is then no longer waited for.
    pub fn answer(
        &mut self,
        schema: &Schema,
        kind: u8,
        id: Option<u16>,
        empty: bool,
        peer: Option<Version>,
    ) -> Answer {
        let answers =
            |request: u8| schema.message(request).is_some_and(|facts| facts.replies.contains(&kind));
        let exact = self.asked.iter().position(|asked| asked.id == id && answers(asked.kind));
        // With its id anything without a body is an answer, and so is the word that there is none.
        let any = || {
            let nothing = empty || matches!(kind, number::ERROR | number::NONE_RESPONSE);
            id.filter(|_| nothing).and_then(|id| self.asked.iter().position(|asked| asked.id == Some(id)))
        };
        if let Some(at) = exact.or_else(any) {
            self.asked.remove(at);
            if self.asked.is_empty() {
                self.asked = VecDeque::new();
            }
            return Answer::Solicited;
        }
        let Some(facts) = schema.message(kind).filter(|facts| facts.is_reply) else {
            return if kind == number::ERROR { Answer::Pushed } else { Answer::No };
        };
        if let Some((_, count)) =
            self.forgotten.iter_mut().find(|(request, count)| *count > 0 && answers(*request))
        {
            *count -= 1;
            return Answer::Solicited;
        }
        match facts.push {
            Push::Always => Answer::Pushed,
            Push::Pending => match self.asked.iter().position(|asked| answers(asked.kind)) {
                Some(at) => {
                    self.asked.remove(at);
                    Answer::Solicited
                }
                None => Answer::Unsolicited,
            },
            // A peer whose version nobody can read may be an old one.
            Push::Before(version) if peer.is_none_or(|peer| peer < version) && self.mempool_replies > 0 => {
                self.mempool_replies -= 1;
                Answer::Solicited
            }
            Push::Before(_) | Push::Never => Answer::Unsolicited,
        }
    }

    /// Puts an expensive request of the peer's among those that the node works on; false if `in_flight` are there
    /// already, or as many of its type as the third table allows.
    pub fn begin_work(
        &mut self,
        now: Instant,
        facts: &MessageType,
        id: Option<u16>,
        in_flight: usize,
    ) -> bool {
        self.works.retain(|work| work.until > now);
        let same = self.works.iter().filter(|work| work.kind == facts.number).count();
        let window = facts.window_v3.filter(|&window| window > 0).map_or(usize::MAX, usize::from);
        if self.works.len() >= in_flight || same >= window {
            return false;
        }
        self.works.push(Work { kind: facts.number, id, until: now + WORK_MAX });
        true
    }

    /// The node sent a whole reply: the work on its request is done.
    pub fn replied(&mut self, kind: u8, id: Option<u16>, schema: &Schema) {
        let answered = self.works.iter().position(|work| {
            let replies = schema.message(work.kind).is_some_and(|facts| facts.replies.contains(&kind));
            work.id == id && (replies || id.is_some() && kind == number::ERROR)
        });
        if let Some(at) = answered {
            self.works.remove(at);
        }
        if self.works.is_empty() {
            self.works = Vec::new();
        }
    }

    /// When the oldest work is given up, so that the next may begin.
    pub fn work_until(&self) -> Option<Instant> {
        self.works.iter().map(|work| work.until).min()
    }

    /// Requests of one type with an id that the node still waits for.
    pub fn waiting(&self, now: Instant, kind: u8) -> usize {
        let waits = |asked: &&Asked| asked.kind == kind && asked.id.is_some() && asked.at + WORK_MAX > now;
        self.asked.iter().filter(waits).count()
    }
}
