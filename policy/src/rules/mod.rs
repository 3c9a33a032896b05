//! What is done about what peers do: limits per message type and direction, an action per reason, for everybody or for a
//! scope, compiled to flat tables.
//!
//! A host reads a policy file (the format is the host's) into [`Layer`]s: one for everybody, and one per [`Scope`]. A
//! [`Rules`] holds them with the schema. A session asks for its [`Table`] a few times in its life, whenever more is known
//! about its peer; per message it looks up an array. Tables are shared by all sessions for which the same scopes hold.
//! Without a file everything is as a node does it: [`Rules::default`].
//!
//! What is stated more narrowly wins: a scope before what holds for everybody, a later scope before an earlier one, and a
//! message's own action before that of the reason. [`Rules::explain`] says where each value came from.

mod action;
mod explain;
mod layer;
mod table;

pub use action::{Action, Response, fits, fitting};
pub use explain::{Explained, Source, Value};
pub use layer::{
    Comparison, Layer, LimitRule, MessageRule, Numbers, ReasonRule, Scope, Stated, VersionRange,
};
pub use table::{Limits, Table};

use core::fmt;
use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use crate::chia::{NodeType, Schema, Version};
use crate::session::PeerId;

/// Scopes at most: a set of them is a number of so many bits.
pub const SCOPES_MAX: usize = 32;

/// Tables that are kept for sessions to come; of more sets of scopes each session makes its own.
const TABLES_MAX: usize = 64;

/// How far what is decided is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Enforcement {
    /// As the rules say.
    #[default]
    Full,
    /// What can be passed is passed and noted. What cannot, broken framing for one, ends a session as ever.
    Shadow,
}

/// What is known about a peer when a rule is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// The listener, by its place in the configuration.
    pub listener: u16,
    /// Where it comes from.
    pub source: IpAddr,
    /// Its identity, once it has shown one.
    pub id: Option<PeerId>,
    /// What it is, once it has said so.
    pub kind: Option<NodeType>,
    /// Its software, once it has said so in a way that can be compared.
    pub version: Option<Version>,
}

/// Peers that the operator named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Friends {
    /// By identity: the SHA-256 over a leaf certificate.
    pub ids: BTreeSet<PeerId>,
    /// By where they come from.
    pub networks: Vec<IpNet>,
}

impl Friends {
    /// Whether the peer is one.
    pub fn contains(&self, who: &Who) -> bool {
        let source = who.source.to_canonical();
        who.id.is_some_and(|id| self.ids.contains(&id))
            || self.networks.iter().any(|net| net.contains(&source))
    }
}

/// All rules of one version of the policy.
pub struct Rules {
    schema: Arc<Schema>,
    enforcement: Enforcement,
    friends: Friends,
    everybody: Layer,
    scopes: Vec<Scope>,
    tables: Mutex<BTreeMap<u32, Arc<Table>>>,
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("scopes", &self.scopes.len()).finish_non_exhaustive()
    }
}

impl Default for Rules {
    /// Everything as a node does it, by the schema that the program carries.
    fn default() -> Rules {
        Rules::new(Schema::embedded(), Layer::default(), Vec::new(), Friends::default())
    }
}

impl Rules {
    /// Rules by a schema. Scopes beyond [`SCOPES_MAX`] are left out: a host refuses such a file.
    pub fn new(schema: Arc<Schema>, everybody: Layer, mut scopes: Vec<Scope>, friends: Friends) -> Rules {
        scopes.truncate(SCOPES_MAX);
        let enforcement = Enforcement::Full;
        Rules { schema, enforcement, friends, everybody, scopes, tables: Mutex::default() }
    }

    /// The same with what is decided carried out so far.
    #[must_use]
    pub fn enforced(mut self, enforcement: Enforcement) -> Rules {
        self.enforcement = enforcement;
        self.tables = Mutex::default();
        self
    }

    /// How far what is decided is carried out.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    /// What is known about messages.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The peers that the operator named.
    pub fn friends(&self) -> &Friends {
        &self.friends
    }

    /// The scopes, in their order.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// What holds for everybody.
    pub fn everybody(&self) -> &Layer {
        &self.everybody
    }

    /// Whether the peer is one that the operator named.
    pub fn is_friend(&self, who: &Who) -> bool {
        self.friends.contains(who)
    }

    /// The table that holds for a peer as far as it is known.
    pub fn table(&self, who: &Who) -> Arc<Table> {
        let set = self.matching(who);
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = tables.get(&set) {
            return table.clone();
        }
        let table = Arc::new(Table::new(&self.schema, &self.layers(set), self.enforcement));
        if tables.len() < TABLES_MAX {
            tables.insert(set, table.clone());
        }
        table
    }

    /// The scopes that hold for a peer, a bit each.
    fn matching(&self, who: &Who) -> u32 {
        let friend = self.is_friend(who);
        let holds = self.scopes.iter().enumerate().filter(|(_, scope)| scope.holds(who, friend));
        holds.fold(0, |set, (index, _)| set | 1 << index)
    }

    /// The layers of a set of scopes, the widest first.
    fn layers(&self, set: u32) -> Vec<&Layer> {
        let scopes = self.scopes.iter().enumerate().filter(|(index, _)| set >> index & 1 == 1);
        core::iter::once(&self.everybody).chain(scopes.map(|(_, scope)| &scope.layer)).collect()
    }
}

#[cfg(test)]
mod tests;
