//! Bans: which addresses and prefixes are refused, why, by whom and how long, and the way to the shards that refuse them.
//!
//! A [`Book`] holds them; it can be tried without a clock or a disk. [`Bans`] is the book of a running appliance: shared by
//! the control socket, which writes what the operator wants, and by the shards, which report what peers did and take each
//! new list between two rounds. The list is swapped whole, so that nobody waits for anybody.
//!
//! # Who may be banned, and by what
//!
//! - The operator bans and lifts what he likes, but for what is protected: the nodes (those that join later, too), our own addresses and gateways, friends,
//!   and the prefixes of `bans.never`. A ban that would touch one of them is refused with its name.
//! - The policy bans where `bans.policy` or an action of `policy.toml` says so: single addresses (IPv6: a /64) whose peers, after their TLS Finished, did
//!   what [`score`] gives points for. Nothing that a stranger sends can ban anybody: whoever only returned a cookie may be
//!   a forger.

pub mod book;
pub(crate) mod cli;
pub mod file;
pub mod score;
pub mod text;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use hedgerow_dataplane::screen::DenyList;
use hedgerow_dataplane::wire::Prefix;
use hedgerow_policy::verdict;
use serde::{Deserialize, Serialize};

pub use book::{Ban, Book, Change, Origin, Refusal, Rules};

use crate::rules::swap::Swap;
use crate::rules::{InForce, Policy};

/// Complaints of the shards that may wait; what exceeds it is lost, as a flood of complaints says nothing new.
const COMPLAINTS: usize = 1_024;
/// Bans that have run out are lifted this often, and the file is written if something changed.
const LOOK: Duration = Duration::from_secs(1);

/// What a peer did that counts against its address.
#[derive(Debug, Clone, Copy)]
struct Complaint {
    source: IpAddr,
    reason: verdict::Reason,
    /// For how many seconds, where the policy says so; else it is for the score.
    seconds: Option<u64>,
}

/// The bans of a running appliance.
pub struct Bans {
    book: Mutex<Book>,
    /// What is in force on the shards: the list of who is refused, and the policy.
    swap: Swap<InForce>,
    shards: u16,
    close: bool,
    file: Option<PathBuf>,
    complaints: Sender<Complaint>,
    tell: Box<dyn Fn(&Change) + Send + Sync>,
    clock: fn() -> u64,
}

impl fmt::Debug for Bans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bans").field("file", &self.file).finish_non_exhaustive()
    }
}

/// How [`Bans`] are set up.
pub struct Setup {
    /// What may be banned, and for how long.
    pub rules: Rules,
    /// Where they are kept; without a file they end with the process.
    pub file: Option<PathBuf>,
    /// Connections of a source end when it is banned.
    pub close: bool,
    /// Shards that refuse them.
    pub shards: u16,
    /// Told of every ban that is set or lifted.
    pub tell: Box<dyn Fn(&Change) + Send + Sync>,
    /// Seconds since the Unix epoch.
    pub clock: fn() -> u64,
}

/// What `status` says about bans.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BansStatus {
    /// In force.
    pub now: usize,
    /// At most.
    pub limit: usize,
    /// Set by the operator, imported, and set by the policy.
    pub operator: usize,
    /// Imported.
    pub imported: usize,
    /// Set by the policy.
    pub policy: usize,
    /// Frames that the shards refused because of those in force.
    pub hits: u64,
    /// Sources with points against them.
    pub watched: usize,
    /// Where they are kept.
    pub file: Option<PathBuf>,
}

impl Bans {
    /// Takes up the bans of `setup.file`, and keeps them from now on. A file that cannot be understood is set aside, with a
    /// word in the log, and the book begins empty.
    ///
    /// # Errors
    /// If the file cannot be read or set aside, or no thread can be started.
    pub fn open(setup: Setup) -> std::io::Result<Arc<Bans>> {
        let mut book = Book::new(setup.rules);
        let now = (setup.clock)();
        if let Some(path) = &setup.file {
            match file::load(path)? {
                file::Loaded::Nothing => {}
                file::Loaded::Kept(kept) => {
                    for (ban, refusal) in book.restore(now, kept) {
                        tracing::warn!(%ban.prefix, %refusal, "a ban of the file is given up");
                    }
                }
                file::Loaded::SetAside { to, problem } => {
                    let (path, to) = (path.display(), to.display());
                    tracing::error!(%path, %to, problem, "the ban file cannot be understood: set aside, no ban is in force");
                }
            }
        }
        let (complaints, received) = bounded(COMPLAINTS);
        let bans = Arc::new(Bans {
            book: Mutex::new(book),
            swap: Swap::new(setup.shards, Arc::default()),
            shards: setup.shards,
            close: setup.close,
            file: setup.file,
            complaints,
            tell: setup.tell,
            clock: setup.clock,
        });
        bans.publish(&mut bans.lock(), InForce::default());
        let keeper = Arc::downgrade(&bans);
        std::thread::Builder::new().name("bans".into()).spawn(move || {
            while let Some(bans) = keeper.upgrade() {
                if !bans.keep(&received) {
                    return;
                }
            }
        })?;
        Ok(bans)
    }

    /// Changes the book; what was changed is published, told and written before this returns.
    ///
    /// # Errors
    /// If the file cannot be written: what was changed holds until the process ends.
    pub fn change<T>(&self, act: impl FnOnce(&mut Book, u64) -> T) -> std::io::Result<T> {
        let mut book = self.lock();
        let result = act(&mut book, (self.clock)());
        let changes = book.take_changes();
        if !changes.is_empty() {
            self.collect_hits(&mut book);
            self.publish(&mut book, InForce { now: false, ..InForce::clone(&self.swap.current()) });
        }
        let saved = if changes.is_empty() { Ok(()) } else { self.save(&mut book) };
        drop(book);
        changes.iter().for_each(|change| (self.tell)(change));
        saved.map(|()| result)
    }

    /// The bans in force, with their hits.
    pub fn all(&self) -> Vec<Ban> {
        let mut book = self.lock();
        self.collect_hits(&mut book);
        book.bans().cloned().collect()
    }

    /// What `status` says.
    pub fn status(&self) -> BansStatus {
        let mut book = self.lock();
        self.collect_hits(&mut book);
        let of = |origin| book.bans().filter(|ban| ban.origin == origin).count();
        BansStatus {
            now: book.bans().count(),
            limit: book.rules().most,
            operator: of(Origin::Operator),
            imported: of(Origin::Import),
            policy: of(Origin::Policy),
            hits: book.bans().map(|ban| ban.hits).sum(),
            watched: book.watched(),
            file: self.file.clone(),
        }
    }

    /// A peer that had finished its TLS handshake was closed for a reason. Never waits.
    pub fn complain(&self, source: IpAddr, reason: verdict::Reason) {
        if score::points(reason) > 0 {
            self.tell_of(Complaint { source, reason, seconds: None });
        }
    }

    /// A peer that had finished its TLS handshake was closed for a reason for which the policy bans. Never waits.
    pub fn punish(&self, source: IpAddr, reason: verdict::Reason, time: Duration) {
        self.tell_of(Complaint { source, reason, seconds: Some(time.as_secs().max(1)) });
    }

    fn tell_of(&self, complaint: Complaint) {
        let in_force = self.swap.current();
        if in_force.policy.as_ref().is_some_and(|policy| policy.allow.covers(complaint.source.into())) {
            return;
        }
        // What does not fit is lost, see COMPLAINTS.
        let _ = self.complaints.try_send(complaint);
    }

    /// Puts a policy in force, with the bans that there are. With `now`, sessions that stand are judged by it too.
    pub fn adopt(&self, policy: Arc<Policy>, number: u64, now: bool) {
        let mut book = self.lock();
        self.collect_hits(&mut book);
        let in_force = InForce { policy: Some(policy), number, now, ..InForce::default() };
        self.publish(&mut book, in_force);
    }

    /// Whether all shards have what is in force.
    pub fn is_taken(&self) -> bool {
        self.swap.is_taken()
    }

    /// What is in force, for shards to take over.
    pub fn swap(&self) -> &Swap<InForce> {
        &self.swap
    }

    /// Counts what is in force; moves when it changes.
    pub fn version(&self) -> u64 {
        self.swap.count()
    }

    /// The list in force.
    pub fn list(&self) -> Arc<DenyList> {
        self.swap.current().deny.clone()
    }

    /// Waits for complaints and does what is due; false when nobody can complain any more.
    fn keep(&self, complaints: &Receiver<Complaint>) -> bool {
        let first = match complaints.recv_timeout(LOOK) {
            Ok(complaint) => Some(complaint),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        let changed = self.change(|book, now| {
            for Complaint { source, reason, seconds } in first.into_iter().chain(complaints.try_iter()) {
                match seconds {
                    Some(seconds) => book.punish(now, source.into(), reason, seconds),
                    None => book.complain(now, source.into(), reason),
                };
            }
            book.expire(now);
        });
        if let Err(error) = changed {
            tracing::error!(%error, file = ?self.file, "the ban file cannot be written");
        }
        true
    }

    /// Takes the hits that the shards have counted into the book.
    fn collect_hits(&self, book: &mut Book) {
        book.count_hits(self.swap.current().deny.hits());
    }

    /// Makes a new list of the book and the policy, and puts it in force with that.
    fn publish(&self, book: &mut Book, in_force: InForce) {
        book.settle_hits();
        let listed = in_force.policy.as_ref().map_or(&[][..], |policy| &policy.deny);
        let banned: Vec<Prefix> = book.bans().map(|ban| ban.prefix).collect();
        let list = |prefixes: Vec<Prefix>| Arc::new(DenyList::new(prefixes, self.shards));
        let deny = list(banned.iter().chain(listed).copied().collect());
        // What the policy lists ends no connection that stands, unless the operator wants it to.
        let ends = match (self.close, in_force.now) {
            (_, true) => Some(deny.clone()),
            (true, false) if listed.is_empty() => Some(deny.clone()),
            (true, false) => Some(list(banned)),
            (false, false) => None,
        };
        self.swap.put(Arc::new(InForce { deny, ends, ..in_force }));
    }

    fn save(&self, book: &mut Book) -> std::io::Result<()> {
        match &self.file {
            Some(path) => file::save(path, &book.kept()),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // The book is changed by whole operations: one that panicked has changed nothing or all.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
