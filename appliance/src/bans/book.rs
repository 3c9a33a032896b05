//! The book of bans: what is in it, what may enter, when it leaves. Sans I/O: the time is an argument, in seconds since the
//! Unix epoch.

use std::collections::BTreeMap;
use std::fmt;

use hedgerow_dataplane::wire::{Address, Prefix};
use hedgerow_policy::verdict;
use serde::{Deserialize, Serialize};

use super::file::Kept;
use super::score::Offenders;

/// Longest reason, in characters.
pub const REASON_MAX: usize = 120;
/// The widest prefixes that may be banned: nobody bans a family by a slip of the pen.
const WIDEST: [u8; 2] = [8, 16];

/// Who set a ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The operator, by hand.
    Operator,
    /// The policy, for what a peer did after its handshake.
    Policy,
    /// The operator, from a list.
    Import,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::Operator => "operator",
            Origin::Policy => "policy",
            Origin::Import => "import",
        })
    }
}

/// A ban.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Whom it concerns.
    #[serde(with = "super::text::as_text")]
    pub prefix: Prefix,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub origin: Origin,
    /// When, in seconds since the Unix epoch.
    pub since: u64,
    /// When it ends, in seconds since the Unix epoch; `None`: when it is lifted.
    pub until: Option<u64>,
    /// Frames that were refused because of it.
    pub hits: u64,
}

/// A ban was set or lifted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Set, or set anew with another end or reason.
    Set(Ban),
    /// Lifted, or run out.
    Lifted(Ban),
}

/// What may be banned, and how long.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// What is never banned, with the name that the operator knows it by.
    pub protected: Vec<(Prefix, String)>,
    /// Bans at most.
    pub most: usize,
    /// The policy may ban.
    pub policy: bool,
    /// How long a first offence is banned, in seconds.
    pub first: u64,
    /// How long the policy bans at most, in seconds.
    pub longest: u64,
}

/// Why a ban was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It would concern something that is never banned.
    Protected(Prefix, String),
    /// It is wider than anybody means.
    TooWide(Prefix),
    /// The book is full.
    Full(usize),
    /// It has ended already.
    Over,
    /// The reason is too long or holds what no terminal should be sent.
    BadReason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Protected(prefix, name) => {
                write!(
                    f,
                    "it would concern {name} ({prefix}), which is never banned; ban smaller prefixes around it"
                )
            }
            Refusal::TooWide(prefix) => {
                let widest = if prefix.is_v4() { WIDEST[0] } else { WIDEST[1] };
                write!(f, "{prefix} is wider than any network; expected /{widest} or longer")
            }
            Refusal::Full(most) => {
                write!(f, "{most} bans are in force, as many as `bans.most` allows; lift some or raise it")
            }
            Refusal::Over => f.write_str("it would have ended already; expected a time to come"),
            Refusal::BadReason => {
                write!(f, "the reason is no line of text; expected at most {REASON_MAX} printable characters")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// The book.
#[derive(Debug, Default)]
pub struct Book {
    rules: Rules,
    bans: BTreeMap<Prefix, Ban>,
    /// Hits that were counted before the list in force was made.
    settled: BTreeMap<Prefix, u64>,
    offenders: Offenders,
    changes: Vec<Change>,
}

impl Book {
    /// An empty book.
    pub fn new(rules: Rules) -> Self {
        Book { rules, ..Book::default() }
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The bans, by prefix.
    pub fn bans(&self) -> impl Iterator<Item = &Ban> {
        self.bans.values()
    }

    /// Sources with points against them.
    pub fn watched(&self) -> usize {
        self.offenders.len()
    }

    /// Sets a ban, or sets it anew: the operator's word goes before the policy's, and a later end before an earlier one.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn set(&mut self, now: u64, ban: Ban) -> Result<(), Refusal> {
        self.check(now, &ban)?;
        let ban = match self.bans.get(&ban.prefix) {
            Some(old) if ban.origin == Origin::Policy && old.origin != Origin::Policy => return Ok(()),
            Some(old) => Ban { hits: old.hits, since: old.since, ..ban },
            None if self.bans.len() >= self.rules.most => return Err(Refusal::Full(self.rules.most)),
            None => ban,
        };
        if self.bans.get(&ban.prefix) != Some(&ban) {
            self.changes.push(Change::Set(ban.clone()));
            self.bans.insert(ban.prefix, ban);
        }
        Ok(())
    }

    /// Lifts the ban of exactly this prefix. Its source begins anew: its points are forgotten.
    pub fn lift(&mut self, prefix: Prefix) -> Option<Ban> {
        let ban = self.bans.remove(&prefix)?;
        self.settled.remove(&prefix);
        self.offenders.forget(prefix);
        self.changes.push(Change::Lifted(ban.clone()));
        Some(ban)
    }

    /// Never bans a prefix from now on, known to the operator by this name. Bans that concern it are lifted and given back.
    pub fn protect(&mut self, prefix: Prefix, name: String) -> Vec<Ban> {
        if !self.rules.protected.iter().any(|(known, _)| *known == prefix) {
            self.rules.protected.push((prefix, name));
        }
        let against: Vec<Prefix> = self.bans.keys().copied().filter(|ban| ban.overlaps(prefix)).collect();
        against.into_iter().filter_map(|ban| self.lift(ban)).collect()
    }

    /// Undoes [`Book::protect`] for what was known by this name.
    pub fn expose(&mut self, prefix: Prefix, name: &str) {
        self.rules.protected.retain(|(known, by)| *known != prefix || by != name);
    }

    /// The bans that concern an address.
    pub fn covering(&self, address: Address) -> impl Iterator<Item = &Ban> {
        self.bans.values().filter(move |ban| ban.prefix.covers(address))
    }

    /// Lifts what has run out.
    pub fn expire(&mut self, now: u64) {
        let over = |ban: &&Ban| ban.until.is_some_and(|until| until <= now);
        let over: Vec<Prefix> = self.bans.values().filter(over).map(|ban| ban.prefix).collect();
        for prefix in over {
            if let Some(ban) = self.bans.remove(&prefix) {
                self.settled.remove(&prefix);
                self.changes.push(Change::Lifted(ban));
            }
        }
        self.offenders.tidy(now);
    }

    /// A peer at `source` was closed for `reason` after its handshake; whether its address is banned now.
    pub fn complain(&mut self, now: u64, source: Address, reason: verdict::Reason) -> bool {
        let prefix = Prefix::of(source, if source.is_v4() { 32 } else { 64 });
        if !self.rules.policy || self.protector(prefix).is_some() {
            return false;
        }
        let Some(level) = self.offenders.complain(now, prefix, reason) else { return false };
        let seconds = super::score::lifetime(self.rules.first, self.rules.longest, level);
        self.set_for(now, prefix, reason, seconds)
    }

    /// The same where the policy bans for the reason at once; whether its address is banned now.
    pub fn punish(&mut self, now: u64, source: Address, reason: verdict::Reason, seconds: u64) -> bool {
        let prefix = Prefix::of(source, if source.is_v4() { 32 } else { 64 });
        self.protector(prefix).is_none() && self.set_for(now, prefix, reason, seconds)
    }

    fn set_for(&mut self, now: u64, prefix: Prefix, reason: verdict::Reason, seconds: u64) -> bool {
        // A ban that lasts longer is not cut short.
        let until =
            self.bans.get(&prefix).map_or(Some(0), |ban| ban.until).map(|until| until.max(now + seconds));
        let ban = Ban {
            prefix,
            reason: reason.name().to_owned(),
            origin: Origin::Policy,
            since: now,
            until,
            hits: 0,
        };
        self.set(now, ban).is_ok()
    }

    /// What was set and lifted since this was asked last.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Takes over what the shards have counted since the list in force was made.
    pub fn count_hits(&mut self, counted: impl Iterator<Item = (Prefix, u64)>) {
        for (prefix, hits) in counted {
            if let Some(ban) = self.bans.get_mut(&prefix) {
                ban.hits = self.settled.get(&prefix).copied().unwrap_or(0) + hits;
            }
        }
    }

    /// The shards begin to count anew.
    pub fn settle_hits(&mut self) {
        self.settled =
            self.bans.values().filter(|ban| ban.hits > 0).map(|ban| (ban.prefix, ban.hits)).collect();
    }

    /// What is kept across restarts.
    pub fn kept(&self) -> Kept {
        Kept { bans: self.bans.values().cloned().collect(), offenders: self.offenders.all() }
    }

    /// Takes up what was kept; gives back what the rules of today refuse.
    pub fn restore(&mut self, now: u64, kept: Kept) -> Vec<(Ban, Refusal)> {
        self.offenders = Offenders::of(kept.offenders);
        let mut refused = Vec::new();
        for ban in kept.bans {
            match self.set(now, ban.clone()) {
                Ok(()) => {}
                Err(Refusal::Over) => {}
                Err(refusal) => refused.push((ban, refusal)),
            }
        }
        self.changes.clear();
        refused
    }

    fn check(&self, now: u64, ban: &Ban) -> Result<(), Refusal> {
        let printable = |c: char| !c.is_control() && !('\u{200b}'..='\u{202e}').contains(&c);
        if ban.reason.chars().count() > REASON_MAX || !ban.reason.chars().all(printable) {
            return Err(Refusal::BadReason);
        }
        if ban.until.is_some_and(|until| until <= now) {
            return Err(Refusal::Over);
        }
        if ban.prefix.length() < WIDEST[usize::from(!ban.prefix.is_v4())] {
            return Err(Refusal::TooWide(ban.prefix));
        }
        match self.protector(ban.prefix) {
            Some((prefix, name)) => Err(Refusal::Protected(*prefix, name.clone())),
            None => Ok(()),
        }
    }

    /// What protects an address of this prefix.
    pub(crate) fn protector(&self, prefix: Prefix) -> Option<&(Prefix, String)> {
        self.rules.protected.iter().find(|(protected, _)| protected.overlaps(prefix))
    }
}
