//! Going through a TOML document value by value, each mistake with its place, what was expected, and a suggestion.

use std::borrow::Borrow;
use std::fmt::Display;
use std::ops::Range as Span;
use std::str::FromStr;

use hedgerow_policy::rules::Stated;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::units::Size;
use crate::config::{Diagnostic, nearest};
use crate::rules::words::Range;

/// A value with its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// Where the walk is, and what it found wrong.
pub(super) struct Walk<'a> {
    /// Where each line begins.
    lines: Vec<usize>,
    pub(super) errors: &'a mut Vec<Diagnostic>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(text: &str, errors: &'a mut Vec<Diagnostic>) -> Self {
        let ends = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n').map(|(at, _)| at + 1);
        Walk { lines: std::iter::once(0).chain(ends).collect(), errors }
    }

    /// The line of a place, from one.
    pub(super) fn line(&self, span: &Span<usize>) -> u32 {
        self.lines.partition_point(|&start| start <= span.start) as u32
    }

    pub(super) fn stated<T>(&self, span: &Span<usize>, value: T) -> Stated<T> {
        Stated { value, line: self.line(span) }
    }

    pub(super) fn error(&mut self, span: Span<usize>, title: impl Into<String>, label: impl Into<String>) {
        self.errors.push(Diagnostic::error(span, title, label));
    }

    /// A table, or a mistake.
    pub(super) fn table<'v, 'i>(&mut self, value: &'v Value<'i>) -> Option<&'v DeTable<'i>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.error(value.span(), format!("this is {}", kind(value)), "expected a section");
        }
        table
    }

    /// The entries of a table with known words; unknown ones are mistakes.
    pub(super) fn entries<'v, 'i, S: Borrow<str>>(
        &mut self,
        table: &'v DeTable<'i>,
        what: &str,
        known: &[S],
    ) -> Vec<(&'v str, Span<usize>, &'v Value<'i>)> {
        let mut entries = Vec::new();
        for (key, value) in table.iter() {
            let word = key.get_ref().as_ref();
            if known.iter().any(|known| known.borrow() == word) {
                entries.push((word, key.span(), value));
            } else {
                self.unknown(key.span(), what, word, known);
            }
        }
        // The document's order, so that what comes later is read later.
        entries.sort_by_key(|(_, span, _)| span.start);
        entries
    }

    pub(super) fn unknown<S: Borrow<str>>(&mut self, span: Span<usize>, what: &str, word: &str, known: &[S]) {
        let help =
            nearest(word, known.iter().map(Borrow::borrow)).map(|near| format!("did you mean `{near}`?"));
        self.errors.push(
            Diagnostic::error(
                span,
                format!("unknown {what} `{word}`"),
                format!("expected {}", one_of(known)),
            )
            .maybe_help(help),
        );
    }

    pub(super) fn text<'v>(&mut self, value: &'v Value<'_>, expected: &str) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.error(value.span(), format!("this is {}", kind(value)), format!("expected {expected}"));
        }
        text
    }

    pub(super) fn flag(&mut self, value: &Value<'_>) -> Option<Stated<bool>> {
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(self.stated(&value.span(), *flag)),
            _ => {
                self.error(value.span(), format!("this is {}", kind(value)), "expected true or false");
                None
            }
        }
    }

    /// A whole number in its range.
    pub(super) fn number(&mut self, value: &Value<'_>, range: &Range) -> Option<Stated<i64>> {
        let Range { least, most } = range;
        let number = match value.get_ref() {
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => {
                let expected = format!("expected a whole number from {least} to {most}");
                self.error(value.span(), format!("this is {}", kind(value)), expected);
                return None;
            }
        };
        match number.filter(|number| (*least..=*most).contains(number)) {
            Some(number) => Some(self.stated(&value.span(), number)),
            None => {
                self.error(value.span(), "the number is out of range", format!("expected {least} to {most}"));
                None
            }
        }
    }

    /// Bytes: a whole number, or a size such as `"64 KiB"`.
    pub(super) fn bytes(&mut self, value: &Value<'_>, range: &Range) -> Option<Stated<i64>> {
        if value.get_ref().as_str().is_none() {
            return self.number(value, range);
        }
        let Size(bytes) = self.parsed(value, "a size, such as \"64 KiB\"")?;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        if (range.least..=range.most).contains(&bytes) {
            return Some(self.stated(&value.span(), bytes));
        }
        let expected = format!("expected {} to {}", Size(range.least as u64), Size(range.most as u64));
        self.error(value.span(), "the size is out of range", expected);
        None
    }

    /// Something that parses from a text; its error reads `what is wrong; expected what would be right`.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        value: &Value<'_>,
        expected: &str,
    ) -> Option<T> {
        match self.text(value, expected)?.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let error = format!("{error}");
                let (title, label) = error.split_once("; ").unwrap_or((&error, "here"));
                self.error(value.span(), title, label);
                None
            }
        }
    }

    /// One of some words.
    pub(super) fn word<'v, S: Borrow<str>>(
        &mut self,
        value: &'v Value<'_>,
        what: &str,
        known: &[S],
    ) -> Option<&'v str> {
        let word = self.text(value, &one_of(known))?;
        if known.iter().any(|known| known.borrow() == word) {
            return Some(word);
        }
        self.unknown(value.span(), what, word, known);
        None
    }

    /// A list, or one value that stands for a list of it.
    pub(super) fn list<'v, 'i>(&mut self, value: &'v Value<'i>) -> Vec<&'v Value<'i>> {
        match value.get_ref() {
            DeValue::Array(list) => list.iter().collect(),
            _ => vec![value],
        }
    }
}

/// What a value is, in words.
fn kind(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Words as an expectation; of many only some are named.
fn one_of<S: Borrow<str>>(known: &[S]) -> String {
    const NAMED: usize = 12;
    let quoted: Vec<String> = known.iter().take(NAMED).map(|word| format!("`{}`", word.borrow())).collect();
    match quoted.as_slice() {
        [] => "nothing here".to_owned(),
        [one] => one.clone(),
        _ if known.len() > NAMED => format!("{}, …", quoted.join(", ")),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
