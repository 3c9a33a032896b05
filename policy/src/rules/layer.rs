//! What a policy file states, for everybody or for a scope, each value with the line where it stands.

use core::fmt;
use std::collections::BTreeMap;

use ipnet::IpNet;

use super::Who;
use super::action::Action;
use crate::chia::{NodeTypes, Version};
use crate::verdict::Reason;

/// A value with its line, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stated<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub line: u32,
}

/// Limits on a message type in one direction, in place of the node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitRule {
    /// Messages in a minute.
    pub messages: Option<Stated<u32>>,
    /// Bytes of bodies in a minute.
    pub bytes: Option<Stated<u64>>,
    /// Bytes of one body.
    pub size: Option<Stated<u32>>,
}

impl LimitRule {
    /// Whether it states nothing.
    pub fn is_empty(&self) -> bool {
        *self == LimitRule::default()
    }
}

/// What is stated about a message type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageRule {
    /// How much of it peers may send.
    pub from_peer: LimitRule,
    /// How much of it a peer is sent.
    pub to_peer: LimitRule,
    /// What is done about more.
    pub action: Option<Stated<Action>>,
    /// Whether that is only noted.
    pub shadow: Option<Stated<bool>>,
}

/// What is stated about a reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReasonRule {
    /// What is done.
    pub action: Option<Stated<Action>>,
    /// Whether that is only noted.
    pub shadow: Option<Stated<bool>>,
}

/// Numbers that hold for all messages of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Expensive requests that a node works on at a time; more wait.
    pub in_flight: Option<Stated<u32>>,
    /// Puzzle hashes and coins that a peer may ask to be told of.
    pub subscriptions: Option<Stated<u32>>,
    /// Largest body that is held whole for a node, in bytes.
    pub hold: Option<Stated<u32>>,
    /// Bytes a second that a peer has to manage.
    pub rate: Option<Stated<u32>>,
    /// Whether flaws inside blocks, headers and proofs count.
    pub interiors: Option<Stated<bool>>,
}

/// What is stated for everybody, or for a scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// By message number.
    pub messages: BTreeMap<u8, MessageRule>,
    /// By reason.
    pub reasons: BTreeMap<Reason, ReasonRule>,
    /// For all messages.
    pub numbers: Numbers,
}

/// How a version is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Before.
    Less,
    /// That or before.
    AtMost,
    /// Exactly that.
    Equal,
    /// That or after.
    AtLeast,
    /// After.
    More,
}

/// Versions on one side of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// Which side.
    pub comparison: Comparison,
    /// Of which.
    pub version: Version,
}

impl VersionRange {
    /// Reads `< 2.5.0`, `<= 2.5.0`, `= 2.5.0`, `>= 2.5.0`, `> 2.5.0`.
    pub fn parse(text: &str) -> Option<VersionRange> {
        let text = text.trim();
        let signs = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Less),
            (">", Comparison::More),
            ("=", Comparison::Equal),
        ];
        let (rest, comparison) =
            signs.into_iter().find_map(|(sign, comparison)| Some((text.strip_prefix(sign)?, comparison)))?;
        Some(VersionRange { comparison, version: Version::parse(rest)? })
    }

    fn contains(self, version: Version) -> bool {
        match self.comparison {
            Comparison::Less => version < self.version,
            Comparison::AtMost => version <= self.version,
            Comparison::Equal => version == self.version,
            Comparison::AtLeast => version >= self.version,
            Comparison::More => version > self.version,
        }
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::Less => "<",
            Comparison::AtMost => "<=",
            Comparison::Equal => "=",
            Comparison::AtLeast => ">=",
            Comparison::More => ">",
        };
        write!(f, "{sign} {}", self.version)
    }
}

/// Peers for whom something else holds. All that is given must be so; what is not known of a peer is not so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// For reports.
    pub name: String,
    /// Where it stands.
    pub line: u32,
    /// Those of a listener.
    pub listener: Option<u16>,
    /// Those of some kinds.
    pub kinds: Option<NodeTypes>,
    /// Those from some networks.
    pub sources: Option<Vec<IpNet>>,
    /// Those with some software.
    pub versions: Option<VersionRange>,
    /// Friends, or all others.
    pub friend: Option<bool>,
    /// What holds for them.
    pub layer: Layer,
}

impl Scope {
    pub(super) fn holds(&self, who: &Who, friend: bool) -> bool {
        let source = who.source.to_canonical();
        self.listener.is_none_or(|listener| listener == who.listener)
            && self.kinds.is_none_or(|kinds| who.kind.is_some_and(|kind| kinds.contains(kind)))
            && self.sources.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(&source)))
            && self.versions.is_none_or(|range| who.version.is_some_and(|version| range.contains(version)))
            && self.friend.is_none_or(|wanted| wanted == friend)
    }
}
