//! What happened lately, and what was decided and not carried out.
//!
//! Two things are kept, both bounded. The *facts* of the last minutes: sessions that began and ended, and what each peer
//! sent in a minute; a new policy is tried against them. The *report*: by reason and message, how often an action was
//! taken that passes a message, or would have been taken were it not for shadow, and whose peers it met most.
//!
//! Nothing is kept of a peer that has not shown an identity: whoever only returned a cookie may be a forger.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hedgerow_policy::Reason;
use hedgerow_policy::chia::{Minute, Schema, Tables, Would};
use hedgerow_policy::rules::{Response, Who};
use serde::{Deserialize, Serialize};

/// Facts at most.
const FACTS: usize = 32_768;
/// How long a fact is one, in seconds.
pub const LATELY: u64 = 300;
/// Lines of the report at most: reasons times messages.
const LINES: usize = 512;
/// Peers that are named in a line.
const PEERS: usize = 16;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact {
    /// When, in seconds since the Unix epoch.
    pub at: u64,
    /// To whom.
    pub who: Who,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A peer showed its identity.
    Began,
    /// Its session ended.
    Ended(Reason),
    /// What it sent of a type in a minute, and the tables that limits were looked up in.
    Sent(Minute, Tables),
}

/// Something that an action was taken about, or would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct About {
    reason: &'static str,
    kind: Option<u8>,
    shadow: bool,
}

#[derive(Debug, Clone)]
struct Line {
    response: Response,
    count: u64,
    last: u64,
    peers: Vec<(IpAddr, u64)>,
    others: u64,
}

/// What is remembered.
pub struct Witness {
    inner: Mutex<Inner>,
    clock: fn() -> u64,
}

impl std::fmt::Debug for Witness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Witness").finish_non_exhaustive()
    }
}

struct Inner {
    since: u64,
    facts: VecDeque<Fact>,
    lines: BTreeMap<About, Line>,
    lost: u64,
}

/// What would have been done since a time: see the [module](self).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Since when, in seconds since the Unix epoch.
    pub since: u64,
    /// By reason and message, the most frequent first.
    pub lines: Vec<ReportLine>,
    /// What found no line.
    pub lost: u64,
}

/// A line of a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportLine {
    /// Why.
    pub reason: String,
    /// The message, where it was about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What was done or would have been.
    pub action: String,
    /// It would have been.
    pub shadow: bool,
    /// How often.
    pub count: u64,
    /// Last when, in seconds since the Unix epoch.
    pub last: u64,
    /// Peers that it met, and how often, the most frequent first.
    pub peers: Vec<(IpAddr, u64)>,
    /// How often it met others.
    pub others: u64,
}

impl Witness {
    /// One that remembers nothing yet. `clock`: seconds since the Unix epoch.
    pub fn new(clock: fn() -> u64) -> Self {
        let inner = Inner { since: clock(), facts: VecDeque::new(), lines: BTreeMap::new(), lost: 0 };
        Witness { inner: Mutex::new(inner), clock }
    }

    /// Remembers a fact.
    pub fn saw(&self, who: Who, what: What) {
        if who.id.is_none() {
            return;
        }
        let at = (self.clock)();
        let mut inner = self.lock();
        while inner.facts.front().is_some_and(|fact| fact.at + LATELY < at) || inner.facts.len() >= FACTS {
            inner.facts.pop_front();
        }
        inner.facts.push_back(Fact { at, who, what });
    }

    /// Remembers what was decided about a message and not carried out as a refusal.
    pub fn would(&self, who: &Who, would: Would) {
        self.tell(who, would.reason.name(), Some(would.kind), would.response);
    }

    /// Remembers what was decided, or would have been.
    pub fn tell(&self, who: &Who, reason: &'static str, kind: Option<u8>, response: Response) {
        let at = (self.clock)();
        let about = About { reason, kind, shadow: response.shadow };
        let mut inner = self.lock();
        if inner.lines.len() >= LINES && !inner.lines.contains_key(&about) {
            inner.lost += 1;
            return;
        }
        let empty = Line { response, count: 0, last: at, peers: Vec::new(), others: 0 };
        let line = inner.lines.entry(about).or_insert(empty);
        line.response = response;
        line.count += 1;
        line.last = at;
        match line.peers.iter().position(|(peer, _)| *peer == who.source) {
            Some(at) => line.peers[at].1 += 1,
            None if line.peers.len() < PEERS => line.peers.push((who.source, 1)),
            None => line.others += 1,
        }
    }

    /// The facts of the last [`LATELY`], oldest first.
    pub fn facts(&self) -> Vec<Fact> {
        let now = (self.clock)();
        self.lock().facts.iter().filter(|fact| fact.at + LATELY >= now).copied().collect()
    }

    /// What was decided and not carried out as a refusal.
    pub fn report(&self, schema: &Schema) -> Report {
        let inner = self.lock();
        let mut lines: Vec<ReportLine> =
            inner.lines.iter().map(|(about, line)| line.told(about, schema)).collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.count));
        Report { since: inner.since, lines, lost: inner.lost }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn told(&self, about: &About, schema: &Schema) -> ReportLine {
        let name = |kind| match schema.message(kind) {
            Some(facts) => facts.name.to_string(),
            None => format!("type {kind}"),
        };
        let mut peers = self.peers.clone();
        peers.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        ReportLine {
            reason: about.reason.to_owned(),
            message: about.kind.map(name),
            action: self.response.action.to_string(),
            shadow: about.shadow,
            count: self.count,
            last: self.last,
            peers,
            others: self.others,
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use crate::bans::text::time;
        if self.lines.is_empty() {
            return writeln!(f, "since {}: nothing that was let pass", time(self.since));
        }
        writeln!(f, "since {}:", time(self.since))?;
        for line in &self.lines {
            let about = line.message.as_deref().map(|message| format!(" by {message}")).unwrap_or_default();
            let would = if line.shadow { "would have been: " } else { "was: " };
            writeln!(
                f,
                "{:>9} {}{about}, {would}{}, last {}",
                line.count,
                line.reason,
                line.action,
                time(line.last)
            )?;
            let peers: Vec<String> =
                line.peers.iter().map(|(peer, count)| format!("{peer} ({count})")).collect();
            let others = if line.others > 0 { format!(", others ({})", line.others) } else { String::new() };
            writeln!(f, "          from {}{others}", peers.join(", "))?;
        }
        match self.lost {
            0 => Ok(()),
            lost => writeln!(f, "and {lost} for which there was no room"),
        }
    }
}

#[cfg(test)]
mod tests {
    use hedgerow_policy::PeerId;
    use hedgerow_policy::rules::Action;

    use super::*;

    fn who(host: u8) -> Who {
        Who {
            listener: 0,
            source: [192, 0, 2, host].into(),
            id: Some(PeerId([host; 32])),
            kind: None,
            version: None,
        }
    }

    const RESPONSE: Response = Response { action: Action::Close, shadow: true };

    #[test]
    fn everything_is_bounded_and_strangers_leave_no_trace() {
        let witness = Witness::new(|| 1_000);
        witness.saw(Who { id: None, ..who(1) }, What::Began);
        assert_eq!(witness.facts(), []);
        for _ in 0..FACTS + 5 {
            witness.saw(who(1), What::Began);
        }
        assert_eq!(witness.facts().len(), FACTS);
        for host in 0..200 {
            for kind in 0..=255 {
                witness.tell(&who(host), Reason::RateLimited.name(), Some(kind), RESPONSE);
                witness.tell(&who(host), Reason::BodyMalformed.name(), Some(kind), RESPONSE);
                witness.tell(&who(host), Reason::UnknownMessage.name(), Some(kind), RESPONSE);
            }
        }
        let report = witness.report(&Schema::embedded());
        assert_eq!((report.lines.len(), report.lost), (LINES, 200 * 256));
        assert!(report.lines.iter().all(|line| line.count == 200 && line.peers.len() == PEERS));
        assert!(
            report.to_string().contains("200 rate_limited by request_blocks, would have been: close"),
            "{report}"
        );
    }
}
