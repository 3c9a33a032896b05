//! Bans as lines of text that other tools read and write: one prefix per line, and what else there is behind a `#`.
//!
//! ```text
//! # a list of mine
//! 203.0.113.0/24
//! 198.51.100.7 # until 2026-12-24T18:00:00Z, open proxy
//! 2001:db8::/32 # for 12h
//! 192.0.2.0/24 ; SBL123 as Spamhaus writes it
//! ```
//!
//! Behind `#` or `;` stands the reason, and before it `until` a time in UTC or `for` a duration, if the ban ends.

use std::fmt::{self, Write};
use std::time::Duration;

use hedgerow_dataplane::wire::Prefix;

use super::book::Ban;
use crate::config::units::Period;

/// A line's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its number, from one.
    pub number: usize,
    /// Whom it concerns.
    pub prefix: Prefix,
    /// When it ends, in seconds since the Unix epoch, if the line says so.
    pub until: Option<u64>,
    /// Why; empty where the line does not say.
    pub reason: String,
}

/// A line that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from one.
    pub number: usize,
    /// What is wrong; what was expected.
    pub problem: String,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.number, self.problem)
    }
}

/// Reads a list; `now` is what durations are counted from.
pub fn read(text: &str, now: u64) -> (Vec<Line>, Vec<BadLine>) {
    let (mut lines, mut bad) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        match read_line(number, line, now) {
            Ok(line) => lines.extend(line),
            Err(problem) => bad.push(BadLine { number, problem }),
        }
    }
    (lines, bad)
}

fn read_line(number: usize, line: &str, now: u64) -> Result<Option<Line>, String> {
    let (prefix, comment) = match line.find(['#', ';']) {
        Some(at) => (&line[..at], line[at + 1..].trim()),
        None => (line, ""),
    };
    let prefix = prefix.trim();
    if prefix.is_empty() {
        return Ok(None);
    }
    let prefix = prefix.parse().map_err(|error| format!("{error}"))?;
    let (until, reason) = end(comment, now)?;
    Ok(Some(Line { number, prefix, until, reason: reason.to_owned() }))
}

/// Takes the end off the beginning of a comment.
fn end(comment: &str, now: u64) -> Result<(Option<u64>, &str), String> {
    let (head, rest) = comment.split_once(',').unwrap_or((comment, ""));
    let until = match head.trim().split_once(' ') {
        Some(("until", time)) => read_time(time.trim()).ok_or_else(|| {
            format!("`{}` is no time; expected UTC such as 2026-12-24T18:00:00Z", time.trim())
        })?,
        Some(("for", period)) => {
            let Period(period) = period.trim().parse::<Period>().map_err(|error| error.to_string())?;
            now + period.as_secs()
        }
        _ => return Ok((None, comment)),
    };
    Ok((Some(until), rest.trim()))
}

/// Writes bans as a list that [`read`] understands.
pub fn write<'a>(bans: impl Iterator<Item = &'a Ban>) -> String {
    let mut text = String::new();
    for ban in bans {
        let _ = write!(text, "{}", ban.prefix);
        let until = ban.until.map(|until| format!("until {}", time(until)));
        // A reason that would read as an end gets the end's place filled.
        let reason = Some(ban.reason.as_str()).filter(|reason| !reason.is_empty());
        let parts: Vec<&str> = until.as_deref().into_iter().chain(reason).collect();
        if !parts.is_empty() {
            let _ = write!(text, " # {}", parts.join(", "));
        }
        text.push('\n');
    }
    text
}

/// Seconds since the Unix epoch as UTC (RFC 3339).
pub fn time(unix: u64) -> String {
    let (days, seconds) = (unix / 86_400, unix % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date so many days after 1 January 1970, by the Gregorian rule.
fn date(mut days: u64) -> (u64, u64, u64) {
    let mut year = 1970;
    while days >= year_days(year) {
        days -= year_days(year);
        year += 1;
    }
    let mut month = 1;
    while days >= month_days(year, month) {
        days -= month_days(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

fn year_days(year: u64) -> u64 {
    if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) { 366 } else { 365 }
}

fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 => year_days(year) - 337,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads what [`time`] writes; the time of day may be missing.
pub fn read_time(text: &str) -> Option<u64> {
    let (date, clock) = match text.split_once('T') {
        Some((date, clock)) => (date, clock.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let numbers = |text: &str, mark: char, widths: [usize; 3]| -> Option<[u64; 3]> {
        let parts: Vec<&str> = text.split(mark).collect();
        let whole = parts.len() == 3
            && parts
                .iter()
                .zip(widths)
                .all(|(part, width)| part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit()));
        let mut numbers = [0; 3];
        for (number, part) in numbers.iter_mut().zip(parts.iter().filter(|_| whole)) {
            *number = part.parse().ok()?;
        }
        whole.then_some(numbers)
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=month_days(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    let days: u64 =
        (1970..year).map(year_days).sum::<u64>() + (1..month).map(|m| month_days(year, m)).sum::<u64>();
    valid.then(|| (days + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// A span of time for people: the two largest units.
pub fn span(seconds: u64) -> String {
    let duration = Duration::from_secs(seconds);
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut left = duration.as_secs();
    let mut parts = Vec::new();
    for (unit, name) in units {
        if left >= unit && parts.len() < 2 {
            parts.push(format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// A prefix as text, for files and the socket.
pub mod as_text {
    use hedgerow_dataplane::wire::Prefix;
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes it.
    ///
    /// # Errors
    /// Those of the format.
    pub fn serialize<S: Serializer>(prefix: &Prefix, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(prefix)
    }

    /// Reads it.
    ///
    /// # Errors
    /// If it is none.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Prefix, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::book::Origin;
    use super::*;

    const NOW: u64 = 1_793_534_400;

    #[test]
    fn lists_of_all_kinds_are_read() {
        let text = "# mine\n\n203.0.113.0/24\n 198.51.100.7 # until 2026-12-24T18:00:00Z, open proxy, twice\n\
                    2001:db8::/32 # for 12h\n192.0.2.0/24 ; SBL123\n10.9.8.7 # until 2027-01-01\n";
        let (lines, bad) = read(text, NOW);
        assert_eq!(bad, []);
        let read: Vec<_> =
            lines.iter().map(|l| (l.number, l.prefix.to_string(), l.until, &*l.reason)).collect();
        assert_eq!(
            read,
            [
                (3, "203.0.113.0/24".into(), None, ""),
                (4, "198.51.100.7/32".into(), Some(1_798_135_200), "open proxy, twice"),
                (5, "2001:db8::/32".into(), Some(NOW + 43_200), ""),
                (6, "192.0.2.0/24".into(), None, "SBL123"),
                (7, "10.9.8.7/32".into(), Some(1_798_761_600), ""),
            ]
        );
    }

    #[test]
    fn a_bad_line_is_named_with_what_was_expected() {
        let (lines, bad) =
            read("1.2.3.4\n10.0.0.1/8\nhost.example\n1.2.3.5 # until tomorrow\n1.2.3.6 # for ever\n", NOW);
        assert_eq!(lines.len(), 1);
        let said: Vec<String> = bad.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "line 2: the address has bits beyond its prefix; expected 10.0.0.0/8",
                "line 3: `host.example` is no address; expected an address or a prefix, such as 203.0.113.7 or 2001:db8::/32",
                "line 4: `tomorrow` is no time; expected UTC such as 2026-12-24T18:00:00Z",
                "line 5: `ever` is no duration; expected a number and a unit, such as \"30s\"",
            ]
        );
    }

    #[test]
    fn spans_show_two_units() {
        assert_eq!([0, 59, 3_600, 90_061].map(span), ["0s", "59s", "1h", "1d 1h"]);
    }

    proptest! {
        #[test]
        fn times_come_back(unix in 0u64..253_402_300_800) {
            prop_assert_eq!(read_time(&time(unix)), Some(unix));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "[ -~\n]{0,200}") {
            let (lines, bad) = read(&text, NOW);
            prop_assert!(lines.len() + bad.len() <= text.lines().count());
        }

        #[test]
        fn what_is_written_is_read(
            bans in proptest::collection::vec((any::<[u8; 4]>(), 1u8..=32, proptest::option::of(NOW..NOW * 2), "[a-z]{0,9}( [a-z]{1,5})?"), 0..20)
        ) {
            let bans: Vec<Ban> = bans
                .into_iter()
                .map(|(bytes, length, until, reason)| Ban {
                    prefix: Prefix::of(hedgerow_dataplane::wire::Address::from_v4(bytes), length),
                    reason: if reason.starts_with("for ") || reason.starts_with("until ") { String::new() } else { reason.trim().to_owned() },
                    origin: Origin::Operator,
                    since: NOW,
                    until,
                    hits: 0,
                })
                .collect();
            let (lines, bad) = read(&write(bans.iter()), NOW);
            prop_assert_eq!(bad, []);
            let read: Vec<_> = lines.into_iter().map(|line| (line.prefix, line.until, line.reason)).collect();
            let wanted: Vec<_> = bans.into_iter().map(|ban| (ban.prefix, ban.until, ban.reason)).collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
