//! What is known about each message type: who sends it, who handles it, what answers it, how large it may be.

use super::node_type::{NodeType, NodeTypes};
use super::table::TABLE;

/// Numbers of the types that the gate itself has to know.
pub mod number {
    /// Opens every session, both ways.
    pub const HANDSHAKE: u8 = 1;
    /// A transaction on its way to the mempool of another full node.
    pub const NEW_TRANSACTION: u8 = 21;
    /// Asks for the proof that a long chain has its weight.
    pub const REQUEST_PROOF_OF_WEIGHT: u8 = 24;
    /// Asks for a range of blocks.
    pub const REQUEST_BLOCKS: u8 = 29;
    /// Answers [`REQUEST_BLOCKS`]; the largest ordinary message.
    pub const RESPOND_BLOCKS: u8 = 30;
    /// Announces a new tip of the chain.
    pub const NEW_PEAK: u8 = 20;
    /// Asks for addresses of full nodes.
    pub const REQUEST_PEERS: u8 = 43;
    /// A reply that says "nothing"; whether it may be used is negotiated by capability.
    pub const NONE_RESPONSE: u8 = 91;
    /// Agrees on windows for requests, right after the handshake.
    pub const CONFIGURE_WINDOW_SIZES: u8 = 111;
    /// Says that a request failed.
    pub const ERROR: u8 = 255;
}

/// The facts about one message type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageType {
    /// Its number on the wire.
    pub number: u8,
    /// Its name in the protocol.
    pub name: &'static str,
    /// Kinds of services that may send it.
    pub senders: NodeTypes,
    /// Kinds of services that handle it when it arrives.
    pub handlers: NodeTypes,
    /// Numbers of the types that answer it; empty for what is no request.
    pub replies: &'static [u8],
    /// Largest body in bytes, the widest of the node's own limits.
    pub largest: u32,
}

impl MessageType {
    /// Whether a full node would take this type from a peer of the given kind.
    pub fn may_come_from(&self, kind: NodeType) -> bool {
        let of_the_connection = matches!(self.number, number::CONFIGURE_WINDOW_SIZES | number::ERROR);
        self.senders.contains(kind) && (of_the_connection || self.handlers.contains(NodeType::FullNode))
    }

    /// Whether a full node sends this type.
    pub fn is_sent_by_full_nodes(&self) -> bool {
        self.senders.contains(NodeType::FullNode)
    }

    /// Whether the type can answer a request at all.
    pub fn is_reply(&self) -> bool {
        TABLE.iter().any(|request| request.replies.contains(&self.number))
    }
}

/// The index into [`TABLE`] by number; `NO_TYPE` where the number is unknown.
static INDEX: [u8; 256] = index();
const NO_TYPE: u8 = u8::MAX;

const fn index() -> [u8; 256] {
    assert!(TABLE.len() < NO_TYPE as usize);
    let mut index = [NO_TYPE; 256];
    let mut at = 0;
    while at < TABLE.len() {
        index[TABLE[at].number as usize] = at as u8;
        at += 1;
    }
    index
}

/// The facts about the type with this number, if it is known.
pub fn message_type(number: u8) -> Option<&'static MessageType> {
    TABLE.get(usize::from(INDEX[usize::from(number)]))
}

/// Every known type.
pub fn message_types() -> &'static [MessageType] {
    TABLE
}
