//! Figures of Hedgerow beside those of its peers, measured in one run on one core.
//!
//! A [`Figure`] measures one round of ours and one of the peer's in turn; [`measure`] interleaves the rounds, so that a
//! noisy neighbour hits both, and reports medians. Speed is judged as a ratio to the peer, never as an absolute.

pub mod bulk;
pub mod report;
pub mod smol;
pub mod syn_ack;
pub mod tls_accept;
pub mod world;

use std::time::Duration;

use report::Result;
use rustix::time::{ClockId, clock_gettime};

/// One named figure and the peer that it is held against.
pub trait Figure {
    /// The name on the command line and in the report.
    fn name(&self) -> &'static str;
    /// Unit of both values; higher is better.
    fn unit(&self) -> &'static str;
    /// What the peer is.
    fn peer(&self) -> &'static str;
    /// The least ratio that this project promises.
    fn bar(&self) -> f64;
    /// Conditions, in a few words.
    fn note(&self) -> String;
    /// One round of ours: the value.
    fn ours(&mut self) -> f64;
    /// One round of the peer's: the value.
    fn theirs(&mut self) -> f64;
}

/// Makes a figure; the argument shortens its rounds.
pub type Maker = fn(bool) -> Box<dyn Figure>;

/// All figures by name, in the order of the report. Nothing is set up before its maker is called.
pub const FIGURES: &[(&str, Maker)] = &[
    ("syn-ack-memory", |quick| Box::new(syn_ack::SynAck::new(if quick { 200_000 } else { 1_000_000 }))),
    ("bulk-memory", |quick| Box::new(bulk::Bulk::new(if quick { 256 << 20 } else { 1 << 30 }))),
    ("tls-accept", |quick| Box::new(tls_accept::TlsAccept::new(if quick { 300 } else { 1_500 }))),
];

/// Processor time of this thread: what else the machine does counts for neither side.
pub fn processor_time() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.cast_unsigned(), used.tv_nsec.cast_unsigned() as u32)
}

/// Measures `rounds` interleaved rounds of a figure, after one of each to warm up.
pub fn measure(figure: &mut dyn Figure, rounds: usize, mut progress: impl FnMut(usize)) -> Result {
    figure.ours();
    figure.theirs();
    let (mut ours, mut theirs) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for round in 0..rounds {
        progress(round);
        // The one that goes first alternates, so that neither always finds the warmer cache.
        if round % 2 == 0 {
            ours.push(figure.ours());
            theirs.push(figure.theirs());
        } else {
            theirs.push(figure.theirs());
            ours.push(figure.ours());
        }
    }
    Result::new(figure, ours, theirs)
}
