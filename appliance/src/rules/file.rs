//! `policy.toml`: from a text to a [`Policy`], with every mistake in one report.

mod layer;
mod walk;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hedgerow_dataplane::admit::Quotas;
use hedgerow_dataplane::wire::{Prefix, PrefixSet};
use hedgerow_policy::PeerId;
use hedgerow_policy::chia::{NodeType, Schema};
use hedgerow_policy::rules::{Enforcement, Friends, Layer, Rules, SCOPES_MAX, Scope};
use toml::de::{DeTable, DeValue};

use super::slots::Slots;
use super::{Policy, lists, words};
use crate::assemble;
use crate::config::units::{Network, NodeId, Size};
use crate::config::{Config, Diagnostic, Limits, Mode, Report};
use walk::{Value, Walk};

/// Reads a policy. Lists and a schema are looked for beside `path`.
pub(super) fn parse(config: &Config, path: &Path, text: &str) -> Result<(Policy, Report), Report> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut diagnostics: Vec<Diagnostic> = syntax
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(text.len()..text.len());
            Diagnostic::error(span, format!("this is not TOML: {}", error.message()), "here")
        })
        .collect();
    let mut read = Read { directory: path.parent().unwrap_or(Path::new("")), hasher: DefaultHasher::new() };
    text.hash(&mut read.hasher);
    let policy = if diagnostics.is_empty() {
        let mut reader = Reader { config, read, walk: Walk::new(text, &mut diagnostics) };
        Some(reader.policy(table.get_ref()))
    } else {
        None
    };
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    let report = Report { path: path.display().to_string(), text: text.to_owned(), diagnostics };
    match policy {
        Some(policy) if !report.is_fatal() => {
            Ok((Policy { path: Some(path.to_owned()), text: text.to_owned(), ..policy }, report))
        }
        _ => Err(report),
    }
}

/// Files beside the policy, and a fingerprint of all that was read.
struct Read<'a> {
    directory: &'a Path,
    hasher: DefaultHasher,
}

impl Read<'_> {
    fn file(&mut self, name: &str, most: u64) -> Result<(PathBuf, String), String> {
        let path = self.directory.join(name);
        let told = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let bytes = std::fs::metadata(&path).map_err(told)?.len();
        if bytes > most {
            return Err(format!("{} is larger than {most} bytes", path.display()));
        }
        let text = std::fs::read_to_string(&path).map_err(told)?;
        text.hash(&mut self.hasher);
        Ok((path, text))
    }
}

struct Reader<'a> {
    config: &'a Config,
    read: Read<'a>,
    walk: Walk<'a>,
}

impl Reader<'_> {
    fn policy(&mut self, table: &DeTable<'_>) -> Policy {
        let entries = self.walk.entries(table, "section", words::TOP);
        let find =
            |wanted: &str| entries.iter().find(|(word, ..)| *word == wanted).map(|(_, _, value)| *value);
        self.version(find("version"));
        let schema = find("schema").and_then(|value| self.schema(value)).unwrap_or_else(Schema::embedded);
        let everybody = self.layer(table, &schema);
        let scopes = find("scope").map(|value| self.scopes(value, &schema)).unwrap_or_default();
        let friends = self.friends(find("friends"));
        let slots = self.slots(find("slots"));
        let quotas = Some(self.quotas(find("quotas")));
        let (deny, allow) = self.lists(find("lists"));
        let networks: PrefixSet = friends.networks.iter().map(assemble::network).collect();
        let protected = assemble::protected(self.config).into_iter().map(|(prefix, _)| prefix);
        let kept = protected.chain(networks.prefixes().iter().copied()).chain(allow.iter().copied());
        let enforcement = match self.config.mode {
            Mode::Enforce => Enforcement::Full,
            Mode::Shadow | Mode::Tap => Enforcement::Shadow,
        };
        Policy {
            path: None,
            text: String::new(),
            deny: lists::without(deny, kept),
            allow: allow.into_iter().collect(),
            friends: Arc::new(networks),
            rules: Arc::new(Rules::new(schema, everybody, scopes, friends).enforced(enforcement)),
            quotas,
            slots,
            fingerprint: self.read.hasher.finish(),
        }
    }

    fn version(&mut self, version: Option<&Value<'_>>) {
        match version {
            None => self.walk.errors.push(
                Diagnostic::error(
                    0..0,
                    "the policy does not say its version",
                    "expected at the top of the file",
                )
                .help("add `version = 1`"),
            ),
            Some(value) => {
                self.walk.number(value, &words::Range { least: 1, most: 1 });
            }
        }
    }

    /// A schema in place of the one that the program carries.
    fn schema(&mut self, value: &Value<'_>) -> Option<Arc<Schema>> {
        let name = self.walk.text(value, "the path of a file")?;
        let schema = self.read.file(name, super::FILE_MAX).and_then(|(path, text)| {
            Schema::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
        });
        match schema {
            Ok(schema) => Some(Arc::new(schema)),
            Err(error) => {
                self.walk.error(value.span(), error, "expected a schema such as policy/schema/protocol.json");
                None
            }
        }
    }

    /// `[[scope]]`.
    fn scopes(&mut self, value: &Value<'_>, schema: &Schema) -> Vec<Scope> {
        let DeValue::Array(list) = value.get_ref() else {
            self.walk.errors.push(
                Diagnostic::error(value.span(), "`scope` is a list", "expected `[[scope]]`")
                    .help("write two brackets: [[scope]]"),
            );
            return Vec::new();
        };
        if list.len() > SCOPES_MAX {
            let label = format!("expected {SCOPES_MAX} at most");
            self.walk.error(value.span(), format!("{} scopes are too many", list.len()), label);
        }
        list.iter().filter_map(|value| self.scope(value, schema)).collect()
    }

    /// `[friends]`; those of the configuration are friends too.
    fn friends(&mut self, value: Option<&Value<'_>>) -> Friends {
        let mut friends = Friends { networks: self.config.limits.friends.clone(), ..Friends::default() };
        let Some(table) = value.and_then(|value| self.walk.table(value)) else { return friends };
        for (word, _, value) in self.walk.entries(table, "field", words::FRIENDS) {
            let values = self.walk.list(value);
            if values.len() > words::FRIENDS_MAX {
                let label = format!("expected {} at most", words::FRIENDS_MAX);
                self.walk.error(
                    value.span(),
                    format!("{} {word} are too many for friends", values.len()),
                    label,
                );
                continue;
            }
            for value in values {
                if word == "ids" {
                    let id = self.walk.parsed::<NodeId>(value, "a node id: 64 hexadecimal digits");
                    friends.ids.extend(id.map(|id| PeerId(id.0)));
                } else if let Some(Network(network)) =
                    self.walk.parsed(value, "a network, such as \"198.51.100.8/29\"")
                {
                    let least = if network.addr().is_ipv4() { 16 } else { 32 };
                    if network.prefix_len() < least {
                        let label = format!("expected /{least} or longer");
                        self.walk.error(value.span(), format!("{network} is too wide for friends"), label);
                    }
                    friends.networks.push(network);
                }
            }
        }
        friends
    }

    /// `[quotas]`; what it does not say is as the configuration says.
    fn quotas(&mut self, value: Option<&Value<'_>>) -> Quotas {
        let limits = &self.config.limits;
        let mut quotas = Quotas {
            per_source: limits.per_source,
            per_24: limits.per_24,
            per_16_percent: limits.per_16_percent,
            v6_64: limits.v6_64,
            v6_48: limits.v6_48,
            source_per_minute: limits.source_per_minute,
            prefix_per_minute: limits.prefix_per_minute,
            sessions_per_second: limits.sessions_per_second,
            source_bytes: limits.source_bytes,
            prefix_bytes: limits.prefix_bytes,
        };
        let Some(table) = value.and_then(|value| self.walk.table(value)) else { return quotas };
        for (word, _, value) in self.walk.entries(table, "field", words::QUOTAS) {
            let range = words::quota(word);
            let bytes = words::counts_bytes(word);
            let number = if bytes { self.walk.bytes(value, &range) } else { self.walk.number(value, &range) };
            let Some(number) = number else { continue };
            let least = i64::from(Limits::BYTES_LEAST);
            if bytes && (1..least).contains(&number.value) {
                let expected = format!("expected {} at least, or 0 for any number", Size(least as u64));
                self.walk.error(value.span(), "too few bytes a second", expected);
            }
            let place = match word {
                "per_source" => &mut quotas.per_source,
                "per_24" => &mut quotas.per_24,
                "per_16_percent" => &mut quotas.per_16_percent,
                "v6_64" => &mut quotas.v6_64,
                "v6_48" => &mut quotas.v6_48,
                "source_per_minute" => &mut quotas.source_per_minute,
                "prefix_per_minute" => &mut quotas.prefix_per_minute,
                "source_bytes" => &mut quotas.source_bytes,
                "prefix_bytes" => &mut quotas.prefix_bytes,
                _ => &mut quotas.sessions_per_second,
            };
            *place = u32::try_from(number.value).unwrap_or(u32::MAX);
        }
        quotas
    }

    /// `[slots.LISTENER]`.
    fn slots(&mut self, value: Option<&Value<'_>>) -> Vec<Slots> {
        let names: Vec<&str> = self.config.listeners.iter().map(|listener| listener.name.as_str()).collect();
        let mut slots = vec![Slots::default(); names.len()];
        let Some(table) = value.and_then(|value| self.walk.table(value)) else { return slots };
        let mut kinds: Vec<&str> = NodeType::ALL.iter().map(|kind| kind.name()).collect();
        kinds.push("friend");
        for (name, _, value) in self.walk.entries(table, "listener", &names) {
            let Some(at) = names.iter().position(|known| *known == name) else { continue };
            let Some(table) = self.walk.table(value) else { continue };
            for (word, _, value) in self.walk.entries(table, "kind of peer", &kinds) {
                let Some(count) = self.walk.number(value, &words::SLOTS) else { continue };
                let count = usize::try_from(count.value).unwrap_or(0);
                match NodeType::from_name(word) {
                    Some(kind) => drop(slots[at].kinds.insert(kind, count)),
                    None => slots[at].friends = count,
                }
            }
        }
        slots
    }

    /// `[lists]`: who is refused, and whom that does not concern.
    fn lists(&mut self, value: Option<&Value<'_>>) -> (Vec<Prefix>, Vec<Prefix>) {
        let mut lists: BTreeMap<&str, Vec<Prefix>> = BTreeMap::new();
        let Some(table) = value.and_then(|value| self.walk.table(value)) else { return Default::default() };
        for (word, _, value) in self.walk.entries(table, "field", words::LISTS) {
            for value in self.walk.list(value) {
                let prefixes = self.prefixes(value, word == "deny");
                lists.entry(word).or_default().extend(prefixes);
            }
        }
        let count: usize = lists.values().map(Vec::len).sum();
        if count > lists::PREFIXES_MAX {
            let label = format!("expected {} at most", lists::PREFIXES_MAX);
            let span = value.map_or(0..0, |value| value.span());
            self.walk.error(span, format!("{count} prefixes are too many"), label);
        }
        (lists.remove("deny").unwrap_or_default(), lists.remove("allow").unwrap_or_default())
    }

    fn prefixes(&mut self, value: &Value<'_>, deny: bool) -> Vec<Prefix> {
        let Some(name) = self.walk.text(value, "the path of a list") else { return Vec::new() };
        let (path, text) = match self.read.file(name, lists::FILE_MAX) {
            Ok(file) => file,
            Err(error) => {
                self.walk.error(value.span(), error, "expected a list: a prefix a line");
                return Vec::new();
            }
        };
        match lists::read(&text) {
            Ok(prefixes) => {
                if let Some(wide) = prefixes.iter().find(|prefix| deny && lists::is_too_wide(**prefix)) {
                    let title = format!("{}: {wide} is wider than any network", path.display());
                    self.walk.error(value.span(), title, "expected /8 (IPv4) or /16 (IPv6) or longer");
                }
                prefixes
            }
            Err(bad) => {
                for (line, problem) in bad {
                    let (title, label) = problem.split_once("; ").unwrap_or((&problem, "here"));
                    self.walk.error(value.span(), format!("{}:{line}: {title}", path.display()), label);
                }
                Vec::new()
            }
        }
    }

    fn layer(&mut self, table: &DeTable<'_>, schema: &Schema) -> Layer {
        layer::read(&mut self.walk, table, schema)
    }

    fn scope(&mut self, value: &Value<'_>, schema: &Schema) -> Option<Scope> {
        let listeners: Vec<&str> =
            self.config.listeners.iter().map(|listener| listener.name.as_str()).collect();
        layer::scope(&mut self.walk, value, schema, &listeners)
    }
}
