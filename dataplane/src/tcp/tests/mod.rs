//! The engine through its public face: streams between two engines over a bad pipe, and RFC scenarios segment by segment.

mod closing;
mod hostile;
mod limits;
mod opening;
mod pipe;
mod recovery;
mod solo;
mod streams;
mod windows;
