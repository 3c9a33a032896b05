//! The manual of reasons, from the one place where each is defined.

use std::fmt::Write;

use crate::config::nearest;

/// Who decides for a reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// Frames and flows.
    Dataplane,
    /// Sessions.
    Policy,
}

/// A reason's entry in the manual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who decides.
    pub decider: Decider,
    /// The name in counters, events and logs.
    pub name: &'static str,
    /// The paragraph.
    pub manual: String,
}

/// All reasons, in the order in which a peer can meet them.
pub fn entries() -> Vec<Entry> {
    let dataplane =
        hedgerow_dataplane::Reason::ALL.iter().map(|r| (Decider::Dataplane, r.name(), r.manual()));
    let policy = hedgerow_policy::Reason::ALL.iter().map(|r| (Decider::Policy, r.name(), r.manual()));
    let entry = |(decider, name, manual): (_, _, &str)| Entry { decider, name, manual: tidy(manual) };
    dataplane.chain(policy).map(entry).collect()
}

/// The entries of one name; some names mean something for a flow and something for a session.
pub fn find(name: &str) -> Result<Vec<Entry>, String> {
    let all = entries();
    let found: Vec<Entry> = all.iter().filter(|entry| entry.name == name).cloned().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let mut message = format!("there is no reason `{name}`");
    if let Some(meant) = nearest(name, all.iter().map(|entry| entry.name)) {
        let _ = write!(message, "; did you mean `{meant}`?");
    }
    Err(message)
}

/// The whole manual as Markdown.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Reasons\n\nEvery frame, flow and session that Hedgerow refuses or ends has exactly one reason. `hedgerow status` \
         counts them, events name them, and `hedgerow explain REASON` prints the paragraph below. This file is made by \
         `hedgerow explain --all --markdown`.\n",
    );
    for (decider, title) in
        [(Decider::Dataplane, "Frames and flows (dataplane)"), (Decider::Policy, "Sessions (policy)")]
    {
        let _ = write!(text, "\n## {title}\n\n| reason | meaning |\n| --- | --- |\n");
        for entry in entries().iter().filter(|entry| entry.decider == decider) {
            let _ = writeln!(text, "| `{}` | {} |", entry.name, entry.manual.replace('|', "\\|"));
        }
    }
    text
}

/// One line of plain text from a documentation comment.
fn tidy(manual: &str) -> String {
    manual.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_in_the_repository_is_the_one_of_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/REASONS.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == markdown(),
            "appliance/REASONS.md is out of date: cargo run -- explain --all --markdown > appliance/REASONS.md"
        );
    }

    #[test]
    fn every_reason_of_both_enums_has_its_paragraph() {
        let count = hedgerow_dataplane::Reason::ALL.len() + hedgerow_policy::Reason::ALL.len();
        assert_eq!(entries().len(), count);
        for entry in entries() {
            assert!(entry.manual.ends_with('.'), "{}: {:?}", entry.name, entry.manual);
            assert!(find(entry.name).is_ok_and(|found| found.contains(&entry)));
        }
    }

    #[test]
    fn a_slip_gets_a_suggestion() {
        assert_eq!(
            find("bad_cookies").unwrap_err(),
            "there is no reason `bad_cookies`; did you mean `bad_cookie`?"
        );
        assert_eq!(find("zzz").unwrap_err(), "there is no reason `zzz`");
    }
}
