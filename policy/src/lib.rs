//! Session bytes in, verdicts out: what a sane Chia peer would say, decided without any I/O.
//!
//! A host drives each connection through the [`Session`] trait: it hands in bytes, pulls bytes, carries out requests
//! (dial a node, run a cryptographic step) and reports how they ended. Time comes in as an argument.
//!
//! - [`session`]: the trait and the words it uses; [`verdict`]: why a session is refused or ended, [`finding`] what exactly.
//! - [`tls`]: certificates, acceptor and connector; [`identity`]: who we are towards nodes.
//! - [`websocket`]: the one upgrade request that is allowed, and frames both ways.
//! - [`chia`]: message table, handshake, framing and inspection; [`rules`]: limits and actions, compiled from a policy.
//! - [`gate`]: the session of a `chia` listener, composed of all of these; [`relay`]: that of a plain `tcp` listener.

pub mod chia;
pub mod finding;
pub mod gate;
pub mod identity;
pub mod relay;
pub mod rules;
pub mod session;
pub mod tls;
pub mod verdict;
pub mod websocket;

pub use finding::Finding;
pub use session::{Close, DialFailure, Done, End, Instant, Leg, PeerId, Request, Session, Standing};
pub use verdict::Reason;
