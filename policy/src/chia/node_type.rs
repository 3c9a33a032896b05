//! Kinds of Chia services, as handshakes name them, and sets of them.

use core::fmt;

/// What a peer says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum NodeType {
    /// Keeps the whole chain.
    FullNode = 1,
    /// Reads plots for a farmer.
    Harvester = 2,
    /// Farms with the signage points of a full node.
    Farmer = 3,
    /// Computes proofs of time.
    Timelord = 4,
    /// Hands out addresses of full nodes.
    Introducer = 5,
    /// Follows its own coins.
    Wallet = 6,
    /// Serves DataLayer tables.
    DataLayer = 7,
    /// Solves partial proofs for a farmer.
    Solver = 8,
}

impl NodeType {
    /// All of them, in the order of their numbers.
    pub const ALL: [NodeType; 8] = [
        NodeType::FullNode,
        NodeType::Harvester,
        NodeType::Farmer,
        NodeType::Timelord,
        NodeType::Introducer,
        NodeType::Wallet,
        NodeType::DataLayer,
        NodeType::Solver,
    ];

    /// The kind that a handshake's byte means.
    pub fn from_number(number: u8) -> Option<NodeType> {
        NodeType::ALL.into_iter().find(|&kind| kind as u8 == number)
    }

    /// The name in configuration files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            NodeType::FullNode => "full_node",
            NodeType::Harvester => "harvester",
            NodeType::Farmer => "farmer",
            NodeType::Timelord => "timelord",
            NodeType::Introducer => "introducer",
            NodeType::Wallet => "wallet",
            NodeType::DataLayer => "data_layer",
            NodeType::Solver => "solver",
        }
    }

    /// The kind with this [`NodeType::name`].
    pub fn from_name(name: &str) -> Option<NodeType> {
        NodeType::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for NodeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of kinds: bit `n` stands for the kind with number `n`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NodeTypes(pub(super) u16);

impl NodeTypes {
    /// No kind.
    pub const NONE: NodeTypes = NodeTypes(0);
    /// Every kind.
    pub const ALL: NodeTypes = NodeTypes(0b1_1111_1110);

    /// Whether the kind is in the set.
    pub const fn contains(self, kind: NodeType) -> bool {
        self.0 & (1 << kind as u16) != 0
    }

    /// The set with one kind more.
    #[must_use]
    pub const fn with(self, kind: NodeType) -> NodeTypes {
        NodeTypes(self.0 | (1 << kind as u16))
    }

    /// Whether no kind is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The kinds in the set.
    pub fn iter(self) -> impl Iterator<Item = NodeType> {
        NodeType::ALL.into_iter().filter(move |&kind| self.contains(kind))
    }
}

impl FromIterator<NodeType> for NodeTypes {
    fn from_iter<I: IntoIterator<Item = NodeType>>(kinds: I) -> NodeTypes {
        kinds.into_iter().fold(NodeTypes::NONE, NodeTypes::with)
    }
}

impl fmt::Debug for NodeTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(NodeType::name)).finish()
    }
}
