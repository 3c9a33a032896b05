//! Chia's messages: their envelope, the schema of their types, their bodies, and the handshake that opens every session.
//!
//! Everything here is pure: bytes in, facts or a [`Reason`](crate::Reason) out. The order of things on a connection is
//! the business of [`gate`](crate::gate).

mod body;
mod conversation;
mod handshake;
mod heights;
mod inspect;
mod limits;
mod message;
mod messages;
mod node_type;
mod schema;
mod subscriptions;
mod version;

pub use body::{Body, Fault, Flaw, Scratches};
pub use conversation::{Answer, Conversation};
pub use handshake::{Handshake, HandshakeError};
pub use heights::{BEYOND_PEAK_MAX, HEIGHT_MARGIN, KnownPeak};
pub use inspect::{Alarm, Inspector, Judged, Noted, Standard, Truth, Would};
pub use limits::{Excess, Limiter, Minute, Pacer, Tables};
pub use message::{Envelope, ID_HEADER_BYTES, Message, PLAIN_HEADER_BYTES, Scan};
pub use messages::number;
pub use node_type::{NodeType, NodeTypes};
pub use schema::{Limit, MessageType, Push, Rate, Schema, SchemaError};
pub use version::Version;

#[cfg(test)]
mod tests;
