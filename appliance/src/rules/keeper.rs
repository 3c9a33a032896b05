//! The policy of a running appliance: loads it, puts another in its place, and takes that back if it must.
//!
//! One lock keeps changes apart. A change is parsed and judged whole before anything is touched, so a bad file changes
//! nothing; what is in force goes to the shards through the [`Bans`], whose list is part of it, and each takes it between
//! two batches. Sessions that stand go on by the rules that they began with, unless the operator wants otherwise.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::diff::difference;
use super::history::{By, History, Version};
use super::trial::{self, Trial};
use super::witness::{Report, Witness};
use super::{Policy, PolicyError};
use crate::bans::Bans;
use crate::config::Config;

/// Policies that can be gone back to without reading anything.
const BACK: usize = 16;
/// How long the shards have to take a policy over.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked whether they have, a confirmation is overdue, or a watched file has changed.
const LOOK: Duration = Duration::from_millis(500);
/// How far a thread that reads policies stands back.
const NICE: i32 = 19;
/// Longest time that a confirmation may be waited for.
pub const CONFIRM_MAX: Duration = Duration::from_secs(86_400);

/// What a keeper needs.
pub struct Setup {
    /// The configuration.
    pub config: Arc<Config>,
    /// Through which a policy comes into force.
    pub bans: Arc<Bans>,
    /// What it is tried against.
    pub witness: Arc<Witness>,
    /// Wakes all shards.
    pub wake: Box<dyn Fn() + Send + Sync>,
    /// Seconds since the Unix epoch.
    pub clock: fn() -> u64,
}

/// How a policy is to be reloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Wish {
    /// Show what would change, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Go back unless it is confirmed within so many seconds.
    #[serde(default)]
    pub confirm: Option<u64>,
    /// Judge sessions that stand by it too.
    #[serde(default)]
    pub enforce_now: bool,
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The number of the version in force.
    pub version: u64,
    /// Whether it is another one than before.
    pub changed: bool,
    /// What is other, or would be.
    pub changes: Vec<String>,
    /// What would have been treated differently lately.
    pub trial: Trial,
    /// Warnings about the file.
    pub warnings: String,
    /// Seconds until it is undone unless it is confirmed.
    pub confirm: Option<u64>,
    /// Whether all shards have it by now.
    pub taken: bool,
}

/// What `status` says about the policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The version in force.
    pub version: u64,
    /// Its file.
    pub file: Option<PathBuf>,
    /// Since when, in seconds since the Unix epoch.
    pub since: u64,
    /// Seconds until it is undone unless it is confirmed.
    pub confirm: Option<u64>,
    /// Denied prefixes of its lists.
    pub denied: usize,
    /// Scopes.
    pub scopes: usize,
    /// Decisions that were not carried out as a refusal; see `hedgerow report`.
    pub passed: u64,
}

impl std::fmt::Display for PolicyStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PolicyStatus { version, file, denied, scopes, passed, confirm, .. } = self;
        let file = file.as_ref().map_or("as nodes do it".to_owned(), |file| file.display().to_string());
        writeln!(
            f,
            "policy   version {version}, {file}: {scopes} scopes, {denied} prefixes denied, {passed} let pass"
        )?;
        match confirm {
            Some(seconds) => {
                writeln!(f, "         UNDONE IN {seconds} s unless you say `hedgerow reload confirm`")
            }
            None => Ok(()),
        }
    }
}

/// The policy of a running appliance.
pub struct Keeper {
    setup: Setup,
    state: Mutex<State>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

struct State {
    history: History,
    current: Arc<Policy>,
    /// Those before it, the last one last.
    back: Vec<Arc<Policy>>,
    /// When the current one is undone unless it is confirmed.
    confirm_by: Option<Instant>,
    /// What was seen of the watched files last.
    seen: Option<SystemTime>,
}

impl Keeper {
    /// Loads the policy and puts it in force, before the first shard asks.
    ///
    /// A version that was not confirmed when the process ended is not taken up again: the one before it is, if its text
    /// was kept and the file has not been changed since.
    ///
    /// # Errors
    /// If the file is wrong.
    pub fn open(setup: Setup) -> Result<Arc<Keeper>, PolicyError> {
        let history = match &setup.config.policy.history {
            Some(path) => History::load(path).unwrap_or_else(|error| {
                tracing::error!(path = %path.display(), %error, "the history of policies cannot be understood; it begins anew");
                History::default()
            }),
            None => History::default(),
        };
        let (loaded, report) = Policy::load(&setup.config)?;
        if let Some(report) = report.filter(|report| !report.diagnostics.is_empty()) {
            tracing::warn!("{}", report.render(false));
        }
        let policy = Arc::new(unconfirmed(&setup.config, &history, &loaded).unwrap_or(loaded));
        let seen = modified(&setup.config);
        let state = State { history, current: policy.clone(), back: Vec::new(), confirm_by: None, seen };
        let keeper = Arc::new(Keeper { setup, state: Mutex::new(state) });
        let mut state = keeper.lock();
        let again = state.history.last().is_some_and(|last| last.text == policy.text && last.confirmed);
        let number = match state.history.last() {
            Some(last) if again => last.number,
            _ => keeper.remember(&mut state, By::Start, true, Vec::new()),
        };
        keeper.setup.bans.adopt(policy, number, false);
        drop(state);
        Ok(keeper)
    }

    /// Starts the thread that looks after confirmations and watched files.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn watch(self: &Arc<Self>) -> std::io::Result<()> {
        let keeper: Weak<Keeper> = Arc::downgrade(self);
        let watch = move || {
            stand_back();
            while let Some(keeper) = keeper.upgrade() {
                keeper.look(Instant::now());
                drop(keeper);
                std::thread::sleep(LOOK);
            }
        };
        std::thread::Builder::new().name("policy".into()).spawn(watch).map(drop)
    }

    /// Reads the file anew and puts it in force, or says what that would change.
    ///
    /// # Errors
    /// If the file is wrong: then nothing has changed.
    pub fn reload(&self, by: By, wish: Wish) -> Result<Outcome, PolicyError> {
        let mut state = self.lock();
        state.seen = modified(&self.setup.config);
        let (policy, report) = Policy::load(&self.setup.config)?;
        let warnings = report.map(|report| report.render(false)).unwrap_or_default();
        let facts = self.setup.witness.facts();
        let mut outcome = Outcome {
            version: state.history.last().map_or(0, |last| last.number),
            changes: difference(&state.current, &policy),
            trial: trial::run(&state.current, &policy, &facts, (self.setup.clock)()),
            warnings,
            ..Outcome::default()
        };
        let same = policy.fingerprint == state.current.fingerprint;
        outcome.changed = !wish.dry_run && (!same || wish.enforce_now);
        if !outcome.changed {
            outcome.confirm = left(&state);
            outcome.taken = self.setup.bans.is_taken();
            return Ok(outcome);
        }
        let confirm = wish.confirm.map(|seconds| Duration::from_secs(seconds).min(CONFIRM_MAX));
        state.confirm_by = confirm.map(|confirm| Instant::now() + confirm);
        let former = std::mem::replace(&mut state.current, Arc::new(policy));
        push(&mut state.back, former);
        let changes = outcome.changes.clone();
        outcome.version = self.remember(&mut state, by, confirm.is_none(), changes);
        outcome.confirm = left(&state);
        outcome.taken = self.apply(&state, outcome.version, wish.enforce_now);
        Ok(outcome)
    }

    /// The version in force is there to stay.
    ///
    /// # Errors
    /// If none waits for it, in words.
    pub fn confirm(&self) -> Result<u64, String> {
        let mut state = self.lock();
        if state.confirm_by.take().is_none() {
            return Err("no policy waits for a confirmation".to_owned());
        }
        state.history.confirm();
        self.save(&state);
        Ok(state.history.last().map_or(0, |last| last.number))
    }

    /// Puts the version before the one in force into its place. Its text is in the history; the file is left alone.
    ///
    /// # Errors
    /// If there is none, or its text can no longer be used, in words.
    pub fn undo(&self, by: By) -> Result<Outcome, String> {
        let mut state = self.lock();
        let policy = match state.back.pop() {
            Some(policy) => policy,
            None => self.former(&state)?,
        };
        let changes = difference(&state.current, &policy);
        state.current = policy;
        state.confirm_by = None;
        let version = self.remember(&mut state, by, true, changes.clone());
        let taken = self.apply(&state, version, false);
        Ok(Outcome { version, changed: true, changes, taken, ..Outcome::default() })
    }

    /// The versions that there were, oldest first.
    pub fn history(&self) -> Vec<Version> {
        self.lock().history.versions().cloned().collect()
    }

    /// What was decided and not carried out as a refusal.
    pub fn report(&self) -> Report {
        let current = self.lock().current.clone();
        self.setup.witness.report(current.rules.schema())
    }

    /// What `status` says.
    pub fn status(&self) -> PolicyStatus {
        let state = self.lock();
        let last = state.history.last();
        PolicyStatus {
            version: last.map_or(0, |last| last.number),
            file: state.current.path.clone(),
            since: last.map_or(0, |last| last.since),
            confirm: left(&state),
            denied: state.current.deny.len(),
            scopes: state.current.rules.scopes().len(),
            passed: self
                .setup
                .witness
                .report(state.current.rules.schema())
                .lines
                .iter()
                .map(|line| line.count)
                .sum(),
        }
    }

    /// Does what is due at `now`: undoes what nobody confirmed, and reloads a watched file that has changed.
    pub fn look(&self, now: Instant) {
        let overdue = self.lock().confirm_by.is_some_and(|by| by <= now);
        if overdue {
            match self.undo(By::Timer) {
                Ok(outcome) => {
                    tracing::warn!(version = outcome.version, "nobody confirmed the policy: undone")
                }
                Err(error) => tracing::error!(error, "nobody confirmed the policy, and it cannot be undone"),
            }
        }
        if !self.setup.config.policy.watch {
            return;
        }
        let modified = modified(&self.setup.config);
        if modified.is_some() && modified != self.lock().seen {
            self.reload_and_log(By::Watch);
        }
    }

    /// Reloads where nobody waits for an answer.
    pub fn reload_and_log(&self, by: By) {
        match self.reload(by, Wish::default()) {
            Ok(outcome) if outcome.changed => {
                tracing::info!(version = outcome.version, by = by.told(), "policy reloaded");
                outcome.changes.iter().for_each(|change| tracing::info!("policy: {change}"));
            }
            Ok(_) => tracing::info!(by = by.told(), "the policy is as it was"),
            Err(error) => tracing::error!(by = by.told(), "the policy stays as it is: {error}"),
        }
    }

    /// Hands the current policy to the shards; whether all of them have it in time.
    fn apply(&self, state: &State, number: u64, now: bool) -> bool {
        let bans = &self.setup.bans;
        bans.adopt(state.current.clone(), number, now);
        (self.setup.wake)();
        let until = Instant::now() + PATIENCE;
        while !bans.is_taken() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        bans.is_taken()
    }

    fn remember(&self, state: &mut State, by: By, confirmed: bool, changes: Vec<String>) -> u64 {
        let since = (self.setup.clock)();
        let text = state.current.text.clone();
        let number = state.history.push(Version { number: 0, since, by, confirmed, changes, text });
        self.save(state);
        number
    }

    fn save(&self, state: &State) {
        if let Some(path) = &self.setup.config.policy.history
            && let Err(error) = state.history.save(path)
        {
            tracing::error!(path = %path.display(), %error, "the history of policies cannot be written");
        }
    }

    /// The last version in the history with another text than the current one.
    fn former(&self, state: &State) -> Result<Arc<Policy>, String> {
        let config = &self.setup.config;
        let current = &state.current.text;
        let former = state.history.versions().rev().skip(1).find(|version| version.text != *current);
        let text = former.map(|version| &version.text).ok_or("there is no version before this one")?;
        compile(config, text).map(Arc::new).map_err(|error| format!("the version before this one: {error}"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets shards go before this thread where they share a core: a long list takes a while to read. What cannot be had is not
/// needed.
pub(crate) fn stand_back() {
    let _ = rustix::process::nice(NICE);
}

fn compile(config: &Config, text: &str) -> Result<Policy, PolicyError> {
    match &config.policy.file {
        Some(path) if !text.is_empty() => Policy::parse(config, path, text).map(|(policy, _)| policy),
        _ => Ok(Policy::standard(config)),
    }
}

/// What takes the place of a file that holds a version which was never confirmed.
fn unconfirmed(config: &Config, history: &History, loaded: &Policy) -> Option<Policy> {
    let last = history.last().filter(|last| !last.confirmed && last.text == loaded.text)?;
    let before = history.versions().rev().find(|version| version.confirmed)?;
    let policy = compile(config, &before.text).ok()?;
    let (last, before) = (last.number, before.number);
    tracing::warn!(
        "the policy file holds version {last}, which nobody confirmed: version {before} is in force"
    );
    Some(policy)
}

fn push(back: &mut Vec<Arc<Policy>>, policy: Arc<Policy>) {
    back.push(policy);
    if back.len() > BACK {
        back.remove(0);
    }
}

/// Seconds until the current policy is undone.
fn left(state: &State) -> Option<u64> {
    state.confirm_by.map(|by| by.saturating_duration_since(Instant::now()).as_secs())
}

/// When the policy file was changed last.
fn modified(config: &Config) -> Option<SystemTime> {
    std::fs::metadata(config.policy.file.as_ref()?).ok()?.modified().ok()
}
