//! Events of sessions and bans on their way out: a bounded ring for the socket and, where configured, a file of JSON lines.
//!
//! The shards hand events over through a bounded queue and never wait; a thread of its own writes them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use hedgerow_dataplane::link::dhcp::LeaseNews;
use hedgerow_policy::Finding;
use serde::{Deserialize, Serialize};

use crate::bans::{Change, Origin, text};
use crate::config::Config;
use crate::core::{Happened, SessionEvent};
use crate::pool::duty::News;

/// An event as it is written.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// `dialled`, `alarm`, `closed`, `node`, `egress`, `address`, `ban_set` or `ban_lifted`.
    pub event: String,
    /// The session's number in this run; none for a ban.
    #[serde(default, skip_serializing_if = "is_none")]
    pub session: u64,
    /// The listener's name; none for a ban, for an address by DHCP its port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub listener: String,
    /// `outbound` for a session that a node began; none for those of peers that came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// The peer's address and port; for a ban its prefix, for a node its pool, for an address by DHCP itself.
    pub peer: String,
    /// The peer's identity, where it showed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The node that it was connected to, or that began it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it ended; see `hedgerow explain`. For a node: what it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What exactly it was for, all of it in words; or what the alarm is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The same in parts.
    #[serde(flatten)]
    pub parts: Parts,
    /// The peer's software in its own words: only printable ASCII, the rest escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<String>,
    /// Why the dataplane ended its connection, where it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow_reason: Option<String>,
    /// How long it was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Bytes from the peer, encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_from_peer: Option<u64>,
    /// Bytes from the node, encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_from_node: Option<u64>,
    /// Who set a ban.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// When a ban ends, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// What exactly a session ended for, part by part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// The step that the session was in, such as `handshake` or `open`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The message's type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The field, such as `blocks[3].foliage.pool_signature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The byte: of the message's body; without a message, of what the peer sent within TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte: Option<u64>,
    /// The rule, by the name that `check --why` has for it, and where its value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The limit's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

impl From<&Finding> for Parts {
    fn from(found: &Finding) -> Parts {
        Parts {
            step: Some(found.step.to_owned()).filter(|step| !step.is_empty()),
            message: found.message.clone(),
            field: found.field.clone(),
            byte: found.byte,
            rule: found.rule.clone(),
            limit: found.limit,
        }
    }
}

fn is_none(number: &u64) -> bool {
    *number == 0
}

impl EventLine {
    /// An event with the names of the configuration.
    pub fn new(config: &Config, event: &SessionEvent) -> EventLine {
        let mut line = EventLine {
            unix_ms: event.unix_ms,
            event: String::new(),
            session: event.number,
            listener: config.listeners.get(event.listener).map_or_else(String::new, |l| l.name.clone()),
            peer: event.peer.to_string(),
            id: event.id.map(|id| id.to_string()),
            direction: event.begun_by.as_ref().map(|_| "outbound".to_owned()),
            node: event.begun_by.as_ref().map(|node| node.to_string()),
            ..EventLine::default()
        };
        match &event.what {
            Happened::Dialled { node } => {
                line.event = "dialled".to_owned();
                line.node = Some(node.to_string());
            }
            Happened::Alarm { what } => {
                line.event = "alarm".to_owned();
                line.detail = Some(what.clone());
            }
            &Happened::Closed { reason, ref finding, ref software, flow, lasted, from_peer, from_node } => {
                line.event = "closed".to_owned();
                line.reason = Some(reason.name().to_owned());
                line.detail = finding.as_ref().map(ToString::to_string).filter(|text| !text.is_empty());
                line.parts = finding.as_deref().map(Parts::from).unwrap_or_default();
                line.software = software.as_deref().map(str::to_owned);
                line.flow_reason = flow.map(|reason| reason.name().to_owned());
                line.seconds = Some(lasted.as_secs_f64());
                line.bytes_from_peer = Some(from_peer);
                line.bytes_from_node = Some(from_node);
            }
        }
        line
    }

    /// Something about a node of a pool.
    pub fn node(config: &Config, unix_ms: u64, news: &News) -> EventLine {
        EventLine {
            unix_ms,
            event: "node".to_owned(),
            peer: config.pools.get(news.pool).map_or_else(String::new, |pool| pool.name.clone()),
            node: Some(news.node.clone()),
            reason: Some(news.state.to_owned()),
            detail: Some(news.detail.clone()),
            ..EventLine::default()
        }
    }

    /// A node's way out opens or closes.
    pub fn egress(pool: &str, node: &str, state: &str, why: &str) -> EventLine {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        EventLine {
            unix_ms: unix.as_millis() as u64,
            event: "egress".to_owned(),
            peer: pool.to_owned(),
            node: Some(node.to_owned()),
            reason: Some(state.to_owned()),
            detail: Some(why.to_owned()),
            ..EventLine::default()
        }
    }

    /// Something about a port's address by DHCP.
    pub fn lease(config: &Config, unix_ms: u64, port: usize, news: &LeaseNews) -> Option<EventLine> {
        let (address, state, detail) = match news {
            LeaseNews::Bound(lease) => {
                (lease.own.address, "bound", format!("by the DHCP server {}", IpAddr::from(lease.server)))
            }
            LeaseNews::Lost(address, why) => (*address, "lost", why.words().to_owned()),
            LeaseNews::Refused(address, server, why) => {
                let server = server.map_or("a DHCP server".to_owned(), |by| IpAddr::from(by).to_string());
                (*address, "refused", format!("{server} offers it, and {}", why.words()))
            }
            // What is as it was is in the status.
            LeaseNews::Renewed(_) => return None,
        };
        Some(EventLine {
            unix_ms,
            event: "address".to_owned(),
            listener: config.ports.get(port).map_or_else(String::new, |port| format!("port.{}", port.name)),
            peer: IpAddr::from(address).to_string(),
            reason: Some(state.to_owned()),
            detail: Some(detail),
            ..EventLine::default()
        })
    }

    /// A ban that was set or lifted.
    pub fn ban(unix_ms: u64, change: &Change) -> EventLine {
        let (event, ban) = match change {
            Change::Set(ban) => ("ban_set", ban),
            Change::Lifted(ban) => ("ban_lifted", ban),
        };
        EventLine {
            unix_ms,
            event: event.to_owned(),
            peer: ban.prefix.to_string(),
            reason: Some(ban.reason.clone()).filter(|reason| !reason.is_empty()),
            origin: Some(ban.origin),
            until: ban.until,
            ..EventLine::default()
        }
    }
}

/// The last events, shared with the socket.
#[derive(Debug, Clone, Default)]
pub struct Recent(Arc<Mutex<VecDeque<EventLine>>>);

impl Recent {
    /// The last events, oldest first.
    pub fn lines(&self) -> Vec<EventLine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, line: EventLine, room: usize) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while lines.len() >= room.max(1) {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Where events end: the ring for the socket, and the file.
#[derive(Debug)]
pub struct EventSink {
    queue: Option<Arc<Sender<EventLine>>>,
    writer: Option<JoinHandle<()>>,
    recent: Recent,
}

/// A shard's way there.
#[derive(Debug)]
pub struct Feed {
    queue: Option<Sender<EventLine>>,
    /// Events that found the queue full.
    pub lost: u64,
}

impl Feed {
    /// Hands an event over; never waits.
    pub fn send(&mut self, line: EventLine) {
        if let Some(queue) = &self.queue
            && let Err(TrySendError::Full(_)) = queue.try_send(line)
        {
            self.lost += 1;
        }
    }
}

/// A way to the sink that ends with it.
#[derive(Debug)]
pub struct Herald(Weak<Sender<EventLine>>);

impl Herald {
    /// Hands an event over; never waits. Where nobody keeps up it is lost: what it told can be looked up.
    pub fn tell(&self, line: EventLine) {
        if let Some(queue) = self.0.upgrade() {
            let _ = queue.try_send(line);
        }
    }
}

impl EventSink {
    /// Opens the event file, if there is one, and starts the writer. Keeps `room` events in memory.
    pub fn open(file: Option<&Path>, room: usize) -> std::io::Result<EventSink> {
        let open = |path: &Path| OpenOptions::new().append(true).create(true).mode(0o640).open(path);
        let file = file.map(open).transpose()?;
        let (queue, events) = bounded(room.max(64));
        let recent = Recent::default();
        let shared = recent.clone();
        let writer = std::thread::Builder::new()
            .name("events".into())
            .spawn(move || write(&events, file, &shared, room))?;
        Ok(EventSink { queue: Some(Arc::new(queue)), writer: Some(writer), recent })
    }

    /// A way for one more shard. The sink waits at its end until all of them are gone.
    pub fn feed(&self) -> Feed {
        Feed { queue: self.queue.as_deref().cloned(), lost: 0 }
    }

    /// A way for those who outlive the shards: the sink does not wait for it.
    pub fn herald(&self) -> Herald {
        Herald(self.queue.as_ref().map(Arc::downgrade).unwrap_or_default())
    }

    /// The last events.
    pub fn recent(&self) -> Recent {
        self.recent.clone()
    }
}

impl Drop for EventSink {
    /// Waits until the last event is written.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so itself.
            let _ = writer.join();
        }
    }
}

fn write(events: &Receiver<EventLine>, mut file: Option<File>, recent: &Recent, room: usize) {
    let mut failing = false;
    for line in events {
        if let Some(file) = &mut file
            && let Ok(mut text) = serde_json::to_string(&line)
        {
            text.push('\n');
            // A full disk loses events, never sessions; it is said once, and once more when it is over.
            let failed = file.write_all(text.as_bytes()).err();
            match (&failed, failing) {
                (Some(error), false) => tracing::error!(%error, "the event file cannot be written"),
                (None, true) => tracing::info!("the event file can be written again"),
                _ => {}
            }
            failing = failed.is_some();
        }
        recent.push(line, room);
    }
}

impl std::fmt::Display for EventLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.unix_ms / 1_000, self.unix_ms % 1_000)?;
        if let Some(origin) = self.origin {
            return self.write_ban(f, origin);
        }
        if self.event == "node" || self.event == "egress" {
            let [node, state, detail] =
                [&self.node, &self.reason, &self.detail].map(|text| text.as_deref().unwrap_or_default());
            let what = if self.event == "egress" { "way out of" } else { "node" };
            return write!(f, " {what} {node} of {}: {state} ({detail})", self.peer);
        }
        write!(f, " session {} {}", self.session, self.event)?;
        match (&self.direction, &self.node) {
            (Some(_), Some(node)) => write!(f, " outbound from {node} to {}", self.peer)?,
            (_, Some(node)) => write!(f, " from {} at {} to {node}", self.peer, self.listener)?,
            (_, None) => write!(f, " from {} at {}", self.peer, self.listener)?,
        }
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let (Some(rule), Some(limit)) = (&self.parts.rule, self.parts.limit) {
            write!(f, " [{rule} = {limit}]")?;
        }
        if let Some(reason) = &self.flow_reason {
            write!(f, " ({reason})")?;
        }
        if let Some(software) = &self.software {
            write!(f, ", software {software}")?;
        }
        if let Some(seconds) = self.seconds {
            write!(f, " after {seconds:.1} s")?;
        }
        Ok(())
    }
}

impl EventLine {
    fn write_ban(&self, f: &mut std::fmt::Formatter<'_>, origin: Origin) -> std::fmt::Result {
        let what = if self.event == "ban_set" { "banned" } else { "no longer banned" };
        write!(f, " {} {what} ({origin})", self.peer)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        match self.until.filter(|_| self.event == "ban_set") {
            Some(until) => write!(f, ", until {}", text::time(until)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hedgerow_policy::finding::clean;
    use hedgerow_policy::verdict::Reason;

    use super::*;

    /// An end with everything that a peer could have put its words into.
    fn closed(begun_by: Option<Arc<str>>) -> EventLine {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/proxy/hedgerow.toml");
        let config = Config::load(Path::new(path)).unwrap().0;
        let found = Finding {
            step: "open",
            kind: Some(20),
            message: Some("new_peak".to_owned()),
            field: Some("header_hash".to_owned()),
            byte: Some(7),
            ..Finding::new("more than 200 in a minute").limited("per_minute (line 12 of the policy)", 200_u64)
        };
        let what = Happened::Closed {
            reason: Reason::RateLimited,
            finding: Some(Box::new(found)),
            software: Some(clean("2.7\x1b[2J\r\n").into()),
            flow: None,
            lasted: Duration::from_secs(3),
            from_peer: 1,
            from_node: 2,
        };
        let peer = "192.0.2.7:50000".parse().unwrap();
        let event = SessionEvent { unix_ms: 1_500, number: 42, listener: 0, begun_by, peer, id: None, what };
        EventLine::new(&config, &event)
    }

    #[test]
    fn an_end_is_told_in_parts_and_in_words() {
        let line = closed(None);
        let json = serde_json::to_value(&line).unwrap();
        for (key, value) in [
            ("session", serde_json::Value::from(42)),
            ("reason", "rate_limited".into()),
            ("step", "open".into()),
            ("message", "new_peak".into()),
            ("field", "header_hash".into()),
            ("byte", 7.into()),
            ("rule", "per_minute (line 12 of the policy)".into()),
            ("limit", 200.into()),
            ("software", r"2.7\u{1b}[2J\u{d}\u{a}".into()),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
        assert_eq!(serde_json::from_value::<EventLine>(json).unwrap(), line);
        let expected = "1.500 session 42 closed from 192.0.2.7:50000 at peers: rate_limited: new_peak: header_hash, byte 7: \
                        more than 200 in a minute [per_minute (line 12 of the policy) = 200], \
                        software 2.7\\u{1b}[2J\\u{d}\\u{a} after 3.0 s";
        assert_eq!(line.to_string(), expected);
    }

    #[test]
    fn what_a_node_began_is_told_as_that() {
        let line = closed(Some("b".into()));
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!((&json["direction"], &json["node"]), (&"outbound".into(), &"b".into()));
        let begins = "1.500 session 42 closed outbound from b to 192.0.2.7:50000: rate_limited";
        assert!(line.to_string().starts_with(begins), "{line}");
    }

    #[test]
    fn no_byte_of_a_line_moves_a_cursor() {
        let line = closed(None);
        for text in [line.to_string(), serde_json::to_string(&line).unwrap()] {
            assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
        }
    }
}
