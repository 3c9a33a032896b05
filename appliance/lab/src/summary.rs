//! What a run is told, and what it comes to.

use std::collections::BTreeMap;

use serde::Serialize;

/// How to run the world.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// How long, in virtual seconds.
    pub seconds: u64,
    /// Where all chance comes from.
    pub seed: u64,
    /// Print one JSON object at the end instead of a story.
    pub json: bool,
    /// Let virtual time pass no faster than the wall's, so that the story can be read while it happens.
    pub paced: bool,
    /// The output is a terminal: the last line may be rewritten, words may have colour.
    pub terminal: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { seconds: 10, seed: 1, json: false, paced: true, terminal: false }
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Virtual seconds that passed.
    pub seconds: u64,
    /// The seed that repeats this run.
    pub seed: u64,
    /// Good peers that came.
    pub begun: u64,
    /// Good peers that had their handshake answered by a node and all replies correct.
    pub sessions_ok: u64,
    /// Good peers that did not.
    pub sessions_failed: u64,
    /// Median time from a good peer's first SYN to the node's handshake, in virtual milliseconds.
    pub session_ms_median: f64,
    /// The slowest of them.
    pub session_ms_worst: f64,
    /// Messages that the device passed on, both ways.
    pub messages_forwarded: u64,
    /// Frames that the device received.
    pub frames_in: u64,
    /// Frames that the device sent.
    pub frames_out: u64,
    /// Frames that one shard of the device passed on to another.
    pub frames_handed_over: u64,
    /// Frames and flows that the dataplane refused or ended, by reason.
    pub frames_refused: BTreeMap<&'static str, u64>,
    /// Sessions that were refused or ended after proof, by reason.
    pub sessions_ended: BTreeMap<&'static str, u64>,
    /// Most flows that the device held at one time, both legs.
    pub flows_peak: usize,
    /// Most memory that it held for addresses that had proved nothing, in bytes: those of forged floods and of whoever
    /// connects and keeps silent. Must be zero.
    pub stranger_bytes: usize,
    /// Most buffer memory that it held for peers on their way: they returned a cookie and a beginning of TLS, which
    /// proves their address and nothing else, in bytes.
    pub unfinished_bytes: usize,
    /// Most buffer memory that it held in all, in bytes.
    pub buffer_bytes_peak: usize,
    /// Hostile frames and connections that were thrown at the device, by kind.
    pub attacks: BTreeMap<&'static str, u64>,
    /// Rude visitors that were served or kept waiting instead of being turned away, by kind: must be empty.
    pub served: BTreeMap<&'static str, u64>,
    /// Connections that reached the node without a valid handshake before them: must be zero.
    pub node_unproven: u64,
    /// SHA-256 over all frames with their times: equal for equal seeds.
    pub fingerprint: String,
}

impl Summary {
    /// Whether good peers are still on their way.
    pub(crate) fn open(&self) -> bool {
        self.sessions_ok + self.sessions_failed < self.begun
    }

    /// Whether everything went as it should: all good peers served, nobody else.
    pub fn is_good(&self) -> bool {
        self.sessions_ok > 0 && self.is_kept()
    }

    /// Whether no promise was broken, however short the run: no good peer let down, nobody else served, nothing held for
    /// strangers.
    pub fn is_kept(&self) -> bool {
        self.sessions_failed == 0
            && self.node_unproven == 0
            && self.stranger_bytes == 0
            && self.served.is_empty()
    }
}
