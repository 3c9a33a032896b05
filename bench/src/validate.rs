//! `validate-blocks` and `validate-small`: bodies judged where they lie, against the node's own types parsing them
//! (`chia-protocol`), both for messages of the kept corpus, in memory.
//!
//! Both do what they do in life: the node builds values and checks that elements of the curve's groups lie on it, the
//! validator builds nothing and leaves the curve to the node. So that this cannot hide behind the curve, the note tells
//! how the ratio is against the same types told to trust their elements (`from_bytes_unchecked`), which still
//! decompresses each of them.

use std::hint::black_box;
use std::sync::Arc;

use chia_protocol::{
    CoinStateUpdate, NewPeak, NewTransaction, RequestBlocks, RespondBlock, RespondBlockHeaders,
    RespondBlocks, RespondTransaction, RespondUnfinishedBlock,
};
use chia_traits::Streamable;
use hedgerow_policy::chia::{Body, Message, Schema, Scratches};

use crate::{Figure, processor_time};

/// Parses a body as a node does; whether it is one.
type Parser = fn(&[u8]) -> bool;

fn parses<T: Streamable>(body: &[u8]) -> bool {
    black_box(T::from_bytes(body)).is_ok()
}

fn trusts<T: Streamable>(body: &[u8]) -> bool {
    black_box(T::from_bytes_unchecked(body)).is_ok()
}

/// A message of the corpus and how the node parses it.
struct Sample {
    message: Message,
    parses: Parser,
    trusts: Parser,
}

macro_rules! samples {
    ($($file:literal $kind:ident,)+) => {
        vec![$(Sample {
            message: Message::decode(include_bytes!(concat!("../../tests/fuzz/corpus/", $file, ".bin")))
                .expect("a message of the corpus"),
            parses: parses::<$kind>,
            trusts: trusts::<$kind>,
        },)+]
    };
}

/// The figure.
pub struct Validate {
    name: &'static str,
    unit: &'static str,
    samples: Vec<Sample>,
    /// Rounds through the samples, ours and the peer's: both take about the same time.
    repeats: [u32; 2],
    /// What one round through the samples counts, in the unit.
    worth: f64,
    schema: Arc<Schema>,
    scratches: Arc<Scratches>,
    trusting: f64,
}

impl Validate {
    /// Blocks and what is made of them, in MB/s.
    pub fn blocks(scale: u32) -> Self {
        let samples = samples! {
            "blocks" RespondBlocks, "block" RespondBlock, "block-packed" RespondBlock,
            "unfinished" RespondUnfinishedBlock, "headers" RespondBlockHeaders, "transaction" RespondTransaction,
        };
        let bytes: usize = samples.iter().map(|sample| sample.message.body.len()).sum();
        Validate::new("validate-blocks", "MB/s", samples, [100 * scale, scale], bytes as f64 / 1e6)
    }

    /// Gossip and requests, in million messages a second.
    pub fn small(scale: u32) -> Self {
        let samples = samples! {
            "new-peak" NewPeak, "new-transaction" NewTransaction, "request-blocks" RequestBlocks,
            "coin-states" CoinStateUpdate,
        };
        let count = samples.len() as f64 / 1e6;
        Validate::new("validate-small", "M messages/s", samples, [100_000 * scale, 40_000 * scale], count)
    }

    fn new(
        name: &'static str,
        unit: &'static str,
        samples: Vec<Sample>,
        repeats: [u32; 2],
        worth: f64,
    ) -> Self {
        let (schema, scratches) = (Schema::embedded(), Scratches::new(1));
        Validate { name, unit, samples, repeats, worth, schema, scratches, trusting: 0.0 }
    }

    fn judge(&self, sample: &Sample) -> bool {
        let message = &sample.message;
        let body = Body::of(&self.schema, message.kind, message.body.len() as u32);
        body.is_some_and(|mut body| {
            body.take(&self.schema, &self.scratches, black_box(&message.body)).is_ok()
        })
    }

    /// So much of the unit a second.
    fn rate(&self, repeats: u32, mut judge: impl FnMut(&Sample) -> bool) -> f64 {
        let start = processor_time();
        for _ in 0..repeats {
            for sample in &self.samples {
                assert!(judge(sample), "a message of the corpus was refused");
            }
        }
        f64::from(repeats) * self.worth / (processor_time() - start).as_secs_f64()
    }
}

impl Figure for Validate {
    fn name(&self) -> &'static str {
        self.name
    }

    fn unit(&self) -> &'static str {
        self.unit
    }

    fn peer(&self) -> &'static str {
        "chia-protocol, from_bytes"
    }

    fn bar(&self) -> f64 {
        10.0
    }

    fn note(&self) -> String {
        let trusting = format!("{:.2} {}", self.trusting, self.unit);
        format!("{} messages of the kept corpus; from_bytes_unchecked does {trusting}", self.samples.len())
    }

    fn ours(&mut self) -> f64 {
        self.rate(self.repeats[0], |sample| self.judge(sample))
    }

    fn theirs(&mut self) -> f64 {
        self.trusting = self.rate(self.repeats[1], |sample| (sample.trusts)(black_box(&sample.message.body)));
        self.rate(self.repeats[1], |sample| (sample.parses)(black_box(&sample.message.body)))
    }
}
