//! WebSocket (RFC 6455) between machines: one upgrade request, then binary messages both ways, without extensions.
//!
//! The codec works on bytes in place and in pieces of any size: a payload is unmasked where it lies and handed on at
//! once, so that a large message never needs a buffer here. The crates for this job assemble whole messages in buffers of
//! their own or own the socket; neither fits a relay that decides after eight bytes whether it wants the rest.

mod frame;
mod reader;
mod upgrade;
mod writer;

pub use frame::{CloseFrame, FrameHeader, Opcode, apply_mask, close_code, encode_frame};
pub use reader::{Limits, Piece, Reader};
pub use upgrade::{
    ClientUpgrade, HEADERS_MAX, REQUEST_BYTES_MAX, ServerUpgrade, Upgraded, accept_key, upgrade_request,
};
pub use writer::{Masks, Writer};

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We asked for the upgrade: what we send is masked, what we receive is not.
    Client,
    /// We answered it: what we receive is masked, what we send is not.
    Server,
}

#[cfg(test)]
mod tests;
