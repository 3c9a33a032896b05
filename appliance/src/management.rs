//! The control socket: one JSON request per line, one JSON answer per line.
//!
//! Each client has a thread of its own, and there are few of them; only `status` asks the shards, which answer between two
//! rounds.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::wire::Prefix;
use rustix::fs::Mode;
use rustix::process::umask;
use serde::{Deserialize, Serialize};

use crate::bans::{Ban, Bans, Book, Origin, text};
use crate::control::Control;
use crate::egress;
use crate::events::{EventLine, Recent};
use crate::nodes::{self, Change};
use crate::rules::history::{By, Version};
use crate::rules::keeper::{Keeper, Outcome, Wish, stand_back};
use crate::rules::witness::Report;
use crate::status::Status;

/// How long either side of the socket waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest request, in bytes.
const REQUEST_MAX: u64 = 1 << 20;
/// Clients that are served at one time.
const CLIENTS: usize = 8;
/// How long to wait before the next client where one could not be taken.
const BREATH: Duration = Duration::from_millis(100);

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The state of the appliance.
    Status,
    /// The last session events.
    Events,
    /// The bans in force.
    Bans,
    /// Sets bans: all that are allowed.
    Ban {
        /// Lines as [`text::read`] reads them.
        list: String,
        /// Where a line says none: why.
        #[serde(default)]
        reason: String,
        /// Where a line says nothing: for how many seconds.
        #[serde(default)]
        seconds: Option<u64>,
        /// Who wants them.
        origin: Origin,
    },
    /// Lifts bans.
    Lift {
        /// These; without any, all.
        prefixes: Vec<String>,
    },
    /// Changes nodes, or shows them.
    Nodes(Change),
    /// Opens and closes the nodes' way out, or shows it.
    Egress(egress::Ask),
    /// Reads the policy anew.
    Reload(Wish),
    /// Keeps the policy that waits for it.
    ReloadConfirm,
    /// Goes back to the policy before.
    ReloadUndo,
    /// The policies that there were.
    ReloadHistory,
    /// What was decided and not carried out as a refusal.
    Report,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Events`].
    Events(Vec<EventLine>),
    /// To [`Request::Bans`]; to [`Request::Lift`] those that were lifted.
    Bans(Vec<Ban>),
    /// To [`Request::Ban`].
    Banned(Banned),
    /// To [`Request::Reload`] and [`Request::ReloadUndo`].
    Reloaded(Box<Outcome>),
    /// To [`Request::ReloadConfirm`]: the version that stays.
    Confirmed(u64),
    /// To [`Request::ReloadHistory`].
    Policies(Vec<Version>),
    /// To [`Request::Nodes`].
    Nodes(nodes::Answer),
    /// To [`Request::Egress`].
    Egress(egress::cli::Answer),
    /// To [`Request::Report`].
    Report(Box<Report>),
    /// It could not be done.
    Error(String),
}

/// What became of bans that were to be set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Banned {
    /// Those that were set, or set anew.
    pub set: usize,
    /// Those that were refused: the number of their line, and why.
    pub refused: Vec<(usize, String)>,
}

/// The listening socket; its file goes with it.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // It may be gone already: whoever removed it wanted the same.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Opens the socket, for its owner alone, and answers requests until the process ends.
pub fn serve(path: &Path, control: Control, recent: Recent, bans: Arc<Bans>) -> io::Result<Socket> {
    let desk = Desk { control, recent, bans };
    clear_stale(path)?;
    // The mask makes the file its owner's from the first moment on.
    let mask = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    umask(mask);
    let listener = listener?;
    let socket = Socket { path: path.to_owned() };
    std::thread::Builder::new().name("management".into()).spawn(move || {
        // Each client's thread holds a copy: their count is the number of clients.
        let clients = Arc::new(());
        for stream in listener.incoming() {
            let served = match stream {
                Ok(stream) if Arc::strong_count(&clients) > CLIENTS => say(&stream, &full()),
                Ok(stream) => attend(stream, clients.clone(), desk.clone()),
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::debug!(%error, "a client of the control socket could not be served");
                std::thread::sleep(BREATH);
            }
        }
    })?;
    Ok(socket)
}

/// Where requests are answered.
#[derive(Debug, Clone)]
struct Desk {
    control: Control,
    recent: Recent,
    bans: Arc<Bans>,
}

impl Desk {
    fn respond(&self, request: Request) -> Response {
        match request {
            Request::Status => {
                let mut status = self.control.status();
                status.bans = self.bans.status();
                status.policy = self.control.policy().map(|keeper| keeper.status());
                Response::Status(Box::new(status))
            }
            Request::Events => Response::Events(self.recent.lines()),
            Request::Nodes(change) => match self.control.nodes() {
                Some(nodes) => nodes.change(&change).map_or_else(Response::Error, Response::Nodes),
                None => Response::Error("this appliance has no nodes that could be changed".to_owned()),
            },
            Request::Egress(wish) => self.egress(&wish).unwrap_or_else(Response::Error),
            Request::Bans => Response::Bans(self.bans.all()),
            Request::Ban { list, reason, seconds, origin } => self.ban(&list, &reason, seconds, origin),
            Request::Lift { prefixes } => self.lift(&prefixes),
            request => match self.control.policy() {
                Some(keeper) => policy(keeper, &request),
                None => Response::Error("this appliance has no policy that could be changed".to_owned()),
            },
        }
    }

    fn egress(&self, wish: &egress::Ask) -> Result<Response, String> {
        let none =
            || "this appliance lets no node out: its configuration has no section `[egress]`".to_owned();
        let said = self.control.egress().ok_or_else(none)?.ask(wish)?;
        let egress = self.control.status().egress.ok_or_else(none)?;
        Ok(Response::Egress(egress::cli::Answer { said, egress }))
    }

    fn ban(&self, list: &str, reason: &str, seconds: Option<u64>, origin: Origin) -> Response {
        let set = |book: &mut Book, now: u64| {
            let (lines, bad) = text::read(list, now);
            let mut banned = Banned::default();
            banned.refused.extend(bad.into_iter().map(|bad| (bad.number, bad.problem)));
            for line in lines {
                let reason = if line.reason.is_empty() { reason.to_owned() } else { line.reason };
                let until = line.until.or(seconds.map(|seconds| now.saturating_add(seconds)));
                let ban = Ban { prefix: line.prefix, reason, origin, since: now, until, hits: 0 };
                match book.set(now, ban) {
                    Ok(()) => banned.set += 1,
                    Err(refusal) => banned.refused.push((line.number, refusal.to_string())),
                }
            }
            banned.refused.sort();
            banned
        };
        self.changed(self.bans.change(set).map(Response::Banned))
    }

    fn lift(&self, prefixes: &[String]) -> Response {
        let parsed: Result<Vec<Prefix>, String> =
            prefixes.iter().map(|text| text.parse::<Prefix>().map_err(|error| error.to_string())).collect();
        let wanted = match parsed {
            Ok(wanted) => wanted,
            Err(problem) => return Response::Error(problem),
        };
        let lift = |book: &mut Book, _: u64| {
            let all = || book.bans().map(|ban| ban.prefix).collect();
            let wanted = if wanted.is_empty() { all() } else { wanted };
            Response::Bans(wanted.into_iter().filter_map(|prefix| book.lift(prefix)).collect())
        };
        self.changed(self.bans.change(lift))
    }

    fn changed(&self, result: io::Result<Response>) -> Response {
        result.unwrap_or_else(|error| {
            Response::Error(format!(
                "it holds until the process ends, but the ban file cannot be written: {error}"
            ))
        })
    }
}

/// Answers what is asked about the policy.
fn policy(keeper: &Keeper, request: &Request) -> Response {
    if matches!(request, Request::Reload(_) | Request::ReloadUndo) {
        // For the rest of this client's life: it has a thread of its own.
        stand_back();
    }
    let outcome = match request {
        Request::Reload(wish) => keeper.reload(By::Command, *wish).map_err(|error| error.to_string()),
        Request::ReloadUndo => keeper.undo(By::Undo),
        Request::ReloadConfirm => {
            return keeper.confirm().map_or_else(Response::Error, Response::Confirmed);
        }
        Request::ReloadHistory => return Response::Policies(keeper.history()),
        _ => return Response::Report(Box::new(keeper.report())),
    };
    outcome.map_or_else(Response::Error, |outcome| Response::Reloaded(Box::new(outcome)))
}

fn full() -> Response {
    Response::Error(format!("{CLIENTS} clients are served at one time: try again"))
}

/// Serves a client on a thread of its own, so that one that is slow keeps nobody waiting.
fn attend(stream: UnixStream, place: Arc<()>, desk: Desk) -> io::Result<()> {
    let serve = move || {
        let _place = place;
        if let Err(error) = answer(&stream, &desk) {
            tracing::debug!(%error, "a client of the control socket went away");
        }
    };
    std::thread::Builder::new().name("client".into()).spawn(serve).map(drop)
}

fn say(mut stream: &UnixStream, response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_vec(response)?;
    text.push(b'\n');
    stream.write_all(&text)
}

/// Removes what a dead process left behind; refuses to take a living one's place.
fn clear_stale(path: &Path) -> io::Result<()> {
    // To connect to a file of any other kind is refused too, and it is not ours to remove.
    let taken = std::fs::symlink_metadata(path);
    if taken.is_ok_and(|file| !file.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file is there that is no socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another hedgerow answers there")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// Serves one client: as many requests as it has, one after the other, with time limits.
fn answer(stream: &UnixStream, desk: &Desk) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(REQUEST_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.len() as u64 == REQUEST_MAX && !line.ends_with('\n') {
            return say(stream, &Response::Error(format!("a request is longer than {REQUEST_MAX} bytes")));
        }
        let response = match serde_json::from_str(&line) {
            Ok(request) => desk.respond(request),
            Err(error) => Response::Error(format!("not a request: {error}")),
        };
        say(stream, &response)?;
    }
}

/// Asks the appliance behind `path`.
pub fn ask(path: &Path, request: &Request) -> io::Result<Response> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE * 2))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    (&stream).write_all(&text)?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
