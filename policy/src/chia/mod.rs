//! Chia's messages: their envelope, the table of their types, and the handshake that opens every session.
//!
//! Everything here is pure: bytes in, facts or a [`Reason`](crate::Reason) out. The order of things on a connection is
//! the business of [`gate`](crate::gate).

mod asked;
mod handshake;
mod inspect;
mod message;
mod messages;
mod node_type;
mod table;

pub use asked::Asked;
pub use handshake::{Handshake, HandshakeError};
pub use inspect::{Inspector, Judged};
pub use message::{Envelope, ID_HEADER_BYTES, Message, PLAIN_HEADER_BYTES, Scan};
pub use messages::{MessageType, message_type, message_types, number};
pub use node_type::{NodeType, NodeTypes};

#[cfg(test)]
mod tests;
