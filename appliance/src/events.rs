//! Events of sessions and bans on their way out: a bounded ring for the socket and, where configured, a file of JSON lines.
//!
//! The shards hand events over through a bounded queue and never wait; a thread of its own writes them.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use serde::{Deserialize, Serialize};

use crate::bans::{Change, Origin, text};
use crate::config::Config;
use crate::core::{Happened, SessionEvent};
use crate::pool::duty::News;

/// An event as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// `dialled`, `alarm`, `closed`, `node`, `ban_set` or `ban_lifted`.
    pub event: String,
    /// The session's number in this run; none for a ban.
    #[serde(default, skip_serializing_if = "is_none")]
    pub session: u64,
    /// The listener's name; none for a ban.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub listener: String,
    /// The peer's address and port; for a ban its prefix, for a node its pool.
    pub peer: String,
    /// The peer's identity, where it showed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The node that it was connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it ended; see `hedgerow explain`. For a node: what it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What exactly was refused: the message, the field and the byte, the limit; or what the alarm is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
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
            node: None,
            reason: None,
            detail: None,
            flow_reason: None,
            seconds: None,
            bytes_from_peer: None,
            bytes_from_node: None,
            origin: None,
            until: None,
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
            &Happened::Closed { reason, ref detail, flow, lasted, from_peer, from_node } => {
                line.event = "closed".to_owned();
                line.reason = Some(reason.name().to_owned());
                line.detail = detail.clone();
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
            session: 0,
            listener: String::new(),
            peer: config.pools.get(news.pool).map_or_else(String::new, |pool| pool.name.clone()),
            id: None,
            node: Some(news.node.clone()),
            reason: Some(news.state.to_owned()),
            detail: Some(news.detail.clone()),
            flow_reason: None,
            seconds: None,
            bytes_from_peer: None,
            bytes_from_node: None,
            origin: None,
            until: None,
        }
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
            session: 0,
            listener: String::new(),
            peer: ban.prefix.to_string(),
            id: None,
            node: None,
            reason: Some(ban.reason.clone()).filter(|reason| !reason.is_empty()),
            detail: None,
            flow_reason: None,
            seconds: None,
            bytes_from_peer: None,
            bytes_from_node: None,
            origin: Some(ban.origin),
            until: ban.until,
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
        if self.event == "node" {
            let [node, state, detail] =
                [&self.node, &self.reason, &self.detail].map(|text| text.as_deref().unwrap_or_default());
            return write!(f, " node {node} of {}: {state} ({detail})", self.peer);
        }
        write!(f, " session {} {} from {} at {}", self.session, self.event, self.peer, self.listener)?;
        if let Some(node) = &self.node {
            write!(f, " to {node}")?;
        }
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        if let Some(reason) = &self.flow_reason {
            write!(f, " ({reason})")?;
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
