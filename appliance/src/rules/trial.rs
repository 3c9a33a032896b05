//! A new policy tried against the last minutes: what would have been treated differently.

use std::collections::BTreeMap;

use hedgerow_dataplane::wire::PrefixSet;
use hedgerow_policy::Reason;
use hedgerow_policy::chia::{Minute, Tables};
use hedgerow_policy::rules::{Limits, Response, Table, Who};
use serde::{Deserialize, Serialize};

use super::Policy;
use super::witness::{Fact, What};

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trial {
    /// Seconds that the facts reach back.
    pub seconds: u64,
    /// Sessions that began in that time.
    pub sessions: u64,
    /// Messages that peers sent.
    pub messages: u64,
    /// What would have been treated differently, and how often.
    pub different: Vec<(String, u64)>,
}

/// Tries `new` against what happened under `old`; `now` in seconds since the Unix epoch.
pub fn run(old: &Policy, new: &Policy, facts: &[Fact], now: u64) -> Trial {
    let mut trial =
        Trial { seconds: facts.first().map_or(0, |fact| now.saturating_sub(fact.at)), ..Trial::default() };
    let denied = [&old.deny, &new.deny].map(|deny| deny.iter().copied().collect::<PrefixSet>());
    let mut different: BTreeMap<String, u64> = BTreeMap::new();
    let mut note = |what: String, count: u64| *different.entry(what).or_default() += count;
    for fact in facts {
        let tables = [old, new].map(|policy| policy.rules.table(&fact.who));
        match fact.what {
            What::Began => {
                trial.sessions += 1;
                began(old, new, &denied, &fact.who, &mut note);
            }
            What::Ended(reason) => ended(reason, tables.map(|table| table.response(reason, None)), &mut note),
            What::Sent(minute, known) => {
                trial.messages += u64::from(minute.messages);
                sent(new, &minute, known, [&tables[0], &tables[1]], &mut note);
            }
        }
    }
    trial.different = different.into_iter().collect();
    trial
}

fn began(old: &Policy, new: &Policy, denied: &[PrefixSet; 2], who: &Who, note: &mut impl FnMut(String, u64)) {
    let source = who.source.into();
    match [denied[0].covers(source), denied[1].covers(source)] {
        [false, true] => note("sessions would not have begun: the lists deny their source".to_owned(), 1),
        [true, false] => note("sessions of sources that are no longer denied".to_owned(), 1),
        _ => {}
    }
    match [old.rules.is_friend(who), new.rules.is_friend(who)] {
        [false, true] => note("sessions would have been those of friends".to_owned(), 1),
        [true, false] => note("sessions would not have been those of friends".to_owned(), 1),
        _ => {}
    }
}

fn ended(reason: Reason, [old, new]: [Response; 2], note: &mut impl FnMut(String, u64)) {
    if old == new {
        return;
    }
    note(format!("sessions that ended with {reason}: {} instead of {}", told(new), told(old)), 1);
}

fn told(response: Response) -> String {
    format!("{}{}", response.action, if response.shadow { " in shadow" } else { "" })
}

fn sent(
    new: &Policy,
    minute: &Minute,
    known: Tables,
    [old, table]: [&Table; 2],
    note: &mut impl FnMut(String, u64),
) {
    let [before, after] = [old, table].map(|table| beyond(table.from_peer(), known, minute));
    let responses = [old, table].map(|table| table.response(Reason::RateLimited, Some(minute.kind)));
    let name = match new.rules.schema().message(minute.kind) {
        Some(facts) => facts.name.to_string(),
        None => format!("type {}", minute.kind),
    };
    let action = told(responses[1]);
    if after > before {
        note(format!("messages {name} would have gone beyond their limit: {action}"), after - before);
    } else if after < before {
        note(format!("messages {name} would have kept within their limit"), before - after);
    } else if after > 0 && responses[0] != responses[1] {
        note(
            format!("messages {name} beyond their limit: {action} instead of {}", told(responses[0])),
            after,
        );
    }
}

/// How many messages of a minute were beyond the limits.
fn beyond(limits: &Limits, known: Tables, minute: &Minute) -> u64 {
    let Some(limit) = limits.limit(known, minute.kind) else { return 0 };
    let count = limit.rate.map_or(0, |rate| minute.messages.saturating_sub(rate.messages));
    let bytes = limit.rate.is_some_and(|rate| minute.bytes > rate.bytes);
    u64::from(count).max(u64::from(bytes || minute.largest > limit.size))
}

impl std::fmt::Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Trial { seconds, sessions, messages, different } = self;
        let past = format!("of the last {}", crate::bans::text::span(*seconds));
        if *sessions == 0 && *messages == 0 && different.is_empty() {
            return writeln!(f, "nothing happened lately that it could be tried against");
        }
        if different.is_empty() {
            return writeln!(
                f,
                "{past}: {sessions} sessions and {messages} messages, none treated differently"
            );
        }
        writeln!(f, "{past}, {sessions} sessions and {messages} messages:")?;
        different.iter().try_for_each(|(what, count)| writeln!(f, "{count:>9} {what}"))
    }
}
