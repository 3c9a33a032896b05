//! Figures of Hedgerow beside those of its peers, measured in one run on the same cores.
//!
//! There are two kinds. In memory, a [`Figure`] measures one round of ours and one of the peer's on one thread, and
//! [`measure`] interleaves the rounds. Over the [`rig`], whole programs run in network namespaces; [`figures`] has one
//! module per figure, and they too let the contestants take turns. Speed is judged as a ratio to the peer, never as an
//! absolute, and in processor time, so that a noisy neighbour hits both.

pub mod bare;
pub mod bulk;
pub mod deny;
pub mod figures;
pub mod flood_heap;
pub mod flows;
pub mod plot;
pub mod proxy_memory;
pub mod report;
pub mod rig;
pub mod smol;
pub mod syn_ack;
pub mod tls_accept;
pub mod validate;
pub mod world;

use std::time::Duration;

use hedgerow_tests::Outcome;
use report::{Measured, Result};
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

/// How a figure is to be measured.
pub struct Settings<'a> {
    /// Shorter rounds and fewer of them.
    pub quick: bool,
    /// Told what is being done, now and then.
    pub progress: &'a dyn Fn(&str),
}

/// What became of a figure.
pub enum Answer {
    /// It was measured.
    Measured(Box<Measured>),
    /// It cannot be measured here, for this reason.
    Skipped(String),
}

/// How a figure is made.
pub enum Kind {
    /// In memory; the argument shortens its rounds.
    Memory(fn(bool) -> Box<dyn Figure>),
    /// Over the rig.
    Rig(fn(&Settings<'_>) -> Outcome<Answer>),
}

/// A figure on the list.
pub struct Entry {
    /// The name on the command line and in the report.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// How it is made. Nothing is set up before.
    pub kind: Kind,
    /// Only if named: it takes minutes, or needs more than the others.
    pub long: bool,
}

const fn memory(name: &'static str, about: &'static str, make: fn(bool) -> Box<dyn Figure>) -> Entry {
    Entry { name, about, kind: Kind::Memory(make), long: false }
}

const fn over_rig(
    name: &'static str,
    about: &'static str,
    run: fn(&Settings<'_>) -> Outcome<Answer>,
) -> Entry {
    Entry { name, about, kind: Kind::Rig(run), long: false }
}

/// All figures, in the order of the report.
pub const FIGURES: &[Entry] = &[
    memory("syn-ack-memory", "SYNs answered by a shard, in memory, against smoltcp's resets", |quick| {
        Box::new(syn_ack::SynAck::new(if quick { 200_000 } else { 1_000_000 }))
    }),
    memory("syn-ack-bare", "SYNs answered by a shard, in memory, against the least that takes", |quick| {
        Box::new(bare::Bare::new(if quick { 200_000 } else { 1_000_000 }))
    }),
    memory("deny-lookup", "sources looked up in a list of 100,000 prefixes, against 10 ns", |quick| {
        Box::new(deny::DenyLookup::new(if quick { 2_000_000 } else { 10_000_000 }))
    }),
    memory("bulk-memory", "one stream from engine to engine, in memory, against smoltcp", |quick| {
        Box::new(bulk::Bulk::new(if quick { 256 << 20 } else { 1 << 30 }))
    }),
    memory(
        "flow-scale",
        "a frame to one of a million flows, in memory, against one of a thousand",
        |quick| Box::new(flows::FlowScale::new(quick)),
    ),
    memory("flow-bytes", "memory of an idle flow, against 512 bytes", |quick| {
        Box::new(flows::FlowBytes::new(quick))
    }),
    memory("connect-memory", "connections through a TCP proxy, in memory, against 200 k/s", |quick| {
        Box::new(proxy_memory::Connects::new(if quick { 50_000 } else { 200_000 }))
    }),
    memory("tls-accept", "mutual TLS handshakes, against their primitives alone", |quick| {
        Box::new(tls_accept::TlsAccept::new(if quick { 300 } else { 1_500 }))
    }),
    memory("validate-blocks", "bodies of blocks judged, against chia-protocol parsing them", |quick| {
        Box::new(validate::Validate::blocks(if quick { 1 } else { 4 }))
    }),
    memory("validate-small", "bodies of gossip judged, against chia-protocol parsing them", |quick| {
        Box::new(validate::Validate::small(if quick { 1 } else { 4 }))
    }),
    over_rig(
        "flood-kinds-memory",
        "what a frame of each kind of flood costs a shard",
        figures::kinds::memory,
    ),
    over_rig("flood-heap", "growth of the heap during ten minutes of flood", flood_heap::run),
    over_rig("syn-veth-packet", "SYNs answered on veth with AF_PACKET", figures::syn::packet),
    over_rig("syn-veth-xdp", "SYNs answered on veth with AF_XDP", figures::syn::xdp),
    over_rig("syn-tap", "SYNs answered on TAP", figures::syn::tap),
    over_rig(
        "connect-under-flood",
        "newcomers and old sessions while SYNs flood in",
        figures::under_flood::run,
    ),
    over_rig("flood-kinds", "what a frame of each kind of flood costs the box", figures::kinds::run),
    over_rig("proxy-connects", "new connections through a TCP proxy", figures::connects::run),
    over_rig("proxy-bulk-tap", "bytes through a TCP proxy on links with offloads", figures::bulk::tap),
    over_rig(
        "proxy-bulk-packet",
        "bytes through a TCP proxy, AF_PACKET frame by frame",
        figures::bulk::packet,
    ),
    over_rig("proxy-bulk-xdp", "bytes through a TCP proxy, AF_XDP frame by frame", figures::bulk::xdp),
    over_rig("back-end-latency", "what a back-end listener adds to a question's time", figures::backend::run),
    over_rig("egress-nat", "datagrams of a node translated on their way out", figures::egress::nat),
    over_rig("egress-nat-bulk", "streams of a node translated on their way out", figures::egress::bulk),
    over_rig("proxy-bytes", "memory of an idle connection through a TCP proxy", figures::idle::bytes),
    over_rig("session-bytes", "memory of an idle authenticated session", figures::session_bytes::run),
    over_rig("session-pairs-known", "TLS both ways, peers that came before", figures::pairs::known),
    over_rig("session-pairs-fresh", "TLS both ways, ids never seen before", figures::pairs::fresh),
    over_rig(
        "reload-under-load",
        "a policy with 100,000 prefixes takes another one's place at full load",
        figures::reload::run,
    ),
    over_rig("idle-cpu", "processor time with nothing to do", figures::idle::cpu),
    Entry {
        long: true,
        ..over_rig(
            "node-under-attack",
            "a real node, bare and behind Hedgerow, under a dozen attacks",
            figures::node::run,
        )
    },
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
