//! From text to sections: every syntax error, and one error per section, in one pass.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::diagnostic::{Diagnostic, nearest};
use super::file::{self, File};

/// Reads what can be read, and says what cannot.
pub(super) fn read(text: &str) -> (File, Vec<Diagnostic>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut reader = Reader { root: table.get_ref(), errors: Vec::new() };
    if !errors.is_empty() {
        reader.errors.extend(errors.iter().map(|e| syntax(text, e)));
        return (File::default(), reader.errors);
    }
    let file = reader.file();
    (file, reader.errors)
}

fn syntax(text: &str, error: &toml::de::Error) -> Diagnostic {
    let span = error.span().unwrap_or(text.len()..text.len());
    Diagnostic::error(span, format!("this is not TOML: {}", error.message()), "here")
}

struct Reader<'a, 'i> {
    root: &'a DeTable<'i>,
    errors: Vec<Diagnostic>,
}

impl<'i> Reader<'_, 'i> {
    fn file(&mut self) -> File {
        let mut file = File::default();
        for (key, value) in self.root.iter() {
            match key.get_ref().as_ref() {
                "version" => file.version = self.section(value),
                "mode" => file.mode = self.section(value),
                "cores" => file.cores = self.section(value),
                "management" => file.management = self.section(value),
                "port" => file.ports = self.named(value),
                "pool" => file.pools = self.named(value),
                "listener" => file.listeners = self.list(key.span(), value),
                "identity" => file.identity = self.section(value),
                "limits" => file.limits = self.section(value),
                "policy" => file.policy = self.policy(value),
                "bans" => file.bans = self.section(value),
                "egress" => file.egress = self.section(value).map(|egress| Spanned::new(key.span(), egress)),
                other => self.unknown(key.span(), "section", other, file::SECTIONS),
            }
        }
        file
    }

    fn section<T: for<'de> Deserialize<'de>>(&mut self, value: &Spanned<DeValue<'i>>) -> Option<T> {
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(section) => Some(section),
            Err(error) => {
                let diagnostic = self.explain(&error, value.span());
                self.errors.push(diagnostic);
                None
            }
        }
    }

    /// `policy = "policy.toml"`, or a section with more to say.
    fn policy(&mut self, value: &Spanned<DeValue<'i>>) -> Option<file::Policy> {
        match value.get_ref().as_str() {
            Some(path) => {
                let file = Some(Spanned::new(value.span(), path.into()));
                Some(file::Policy { file, ..file::Policy::default() })
            }
            None => self.section(value),
        }
    }

    /// `[port.NAME]`, `[pool.NAME]`.
    fn named<T, C>(&mut self, value: &Spanned<DeValue<'i>>) -> C
    where
        T: for<'de> Deserialize<'de>,
        C: Default + Extend<(String, Spanned<T>)>,
    {
        let mut sections = C::default();
        let Some(table) = value.get_ref().as_table() else {
            self.errors.push(Diagnostic::error(
                value.span(),
                "sections of this kind have a name",
                "expected a table",
            ));
            return sections;
        };
        for (name, value) in table.iter() {
            if let Some(section) = self.section(value) {
                sections.extend([(name.get_ref().to_string(), Spanned::new(name.span(), section))]);
            }
        }
        sections
    }

    /// `[[listener]]`.
    fn list<T>(&mut self, key: Range<usize>, value: &Spanned<DeValue<'i>>) -> Vec<Spanned<T>>
    where
        T: for<'de> Deserialize<'de>,
    {
        let Some(array) = value.get_ref().as_array() else {
            self.errors.push(
                Diagnostic::error(key, "`listener` is a list", "expected `[[listener]]`")
                    .help("write two brackets: [[listener]]"),
            );
            return Vec::new();
        };
        array.iter().filter_map(|item| Some(Spanned::new(item.span(), self.section(item)?))).collect()
    }

    /// A refusal by the types of a section, in the operator's words.
    fn explain(&self, error: &toml::de::Error, section: Range<usize>) -> Diagnostic {
        let span = error.span().unwrap_or(section);
        let message = error.message();
        if let Some((kind, word, known)) = unknown_word(message) {
            let help = nearest(word, known.iter().copied()).map(|word| format!("did you mean `{word}`?"));
            let title = format!("unknown {kind} `{word}`");
            return Diagnostic::error(span, title, format!("expected {}", one_of(&known))).maybe_help(help);
        }
        if let Some(missing) = message.strip_prefix("missing field ") {
            return Diagnostic::error(span, format!("{missing} is missing"), "expected in this section");
        }
        let cut = message.split_once("; expected ").or_else(|| message.split_once(", expected "));
        match cut {
            Some((title, expected)) => {
                Diagnostic::error(span, plain(title), format!("expected {}", plain(expected)))
            }
            None => Diagnostic::error(span, message, "here"),
        }
    }

    fn unknown(&mut self, span: Range<usize>, kind: &str, word: &str, known: &[&str]) {
        let help = nearest(word, known.iter().copied()).map(|word| format!("did you mean `{word}`?"));
        self.errors.push(
            Diagnostic::error(
                span,
                format!("unknown {kind} `{word}`"),
                format!("expected {}", one_of(known)),
            )
            .maybe_help(help),
        );
    }
}

/// Words of the library in the operator's.
fn plain(text: &str) -> String {
    match text {
        "i64" => "a whole number".to_owned(),
        "a sequence" => "a list, such as [\"…\"]".to_owned(),
        _ if text.starts_with("struct ") => "a section".to_owned(),
        _ => text.strip_prefix("invalid type: ").map_or(text.to_owned(), |found| format!("this is {found}")),
    }
}

/// Takes serde's ``unknown field `x`, expected one of `a`, `b` `` apart.
fn unknown_word(message: &str) -> Option<(&str, &str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown ")?;
    let (kind, rest) = rest.split_once(' ')?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let word = quoted.next()?;
    Some((if kind == "variant" { "value" } else { kind }, word, quoted.collect()))
}

fn one_of(known: &[&str]) -> String {
    match known {
        [] => "nothing here".to_owned(),
        [one] => format!("`{one}`"),
        [first @ .., last] => format!("`{}` or `{last}`", first.join("`, `")),
    }
}

/// Names the entry that each diagnostic is about, as `section.field`.
pub(super) fn name_fields(text: &str, diagnostics: &mut [Diagnostic]) {
    let (table, _) = DeTable::parse_recoverable(text);
    for diagnostic in diagnostics.iter_mut().filter(|diagnostic| !diagnostic.span.is_empty()) {
        if let Some(path) = path(table.get_ref(), diagnostic.span.start) {
            diagnostic.title = format!("`{path}`: {}", diagnostic.title);
        }
    }
}

/// The dotted path of the entry that stands at `offset`.
fn path(table: &DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        let inner = |tail: String| match tail.starts_with('[') {
            true => format!("{name}{tail}"),
            false => format!("{name}.{tail}"),
        };
        let here = key.span().contains(&offset) || value.span().contains(&offset);
        path_in(value.get_ref(), offset).map(inner).or_else(|| here.then(|| name.to_string()))
    })
}

fn path_in(value: &DeValue<'_>, offset: usize) -> Option<String> {
    match value {
        DeValue::Table(table) => path(table, offset),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            let tail = path_in(item.get_ref(), offset);
            let here = item.span().contains(&offset);
            match tail {
                Some(tail) => Some(format!("[{index}].{tail}")),
                None => here.then(|| format!("[{index}]")),
            }
        }),
        _ => None,
    }
}
