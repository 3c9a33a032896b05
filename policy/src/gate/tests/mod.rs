//! The session as its host sees it: between a peer and a node that speak through rustls.

mod departs;
mod explained;
mod interleaved;
mod judged;
mod passing;
mod refusals;
mod ruled;
mod time;
mod world;
