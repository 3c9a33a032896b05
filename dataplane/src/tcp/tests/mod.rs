//! The engine through its public face: streams between two engines over a bad pipe, and RFC scenarios segment by segment.

mod pipe;
mod streams;
