//! A peer that sends anything at all near the numbers that matter, and a host that does anything: streams stay true, calls
//! end, timers lie ahead, and all memory comes back.

use std::time::Duration;

use proptest::prelude::*;

use crate::Reason;
use crate::shard::Standing;
use crate::wire::{Flags, SackBlocks, Seq};

use super::super::{Flow, PathError};
use super::pipe::{HOP, Owned, Setup, key};
use super::solo::{IRS, ISS, Solo};

#[derive(Clone, Debug)]
enum Step {
    /// Offsets from our and the peer's next numbers as the peer could know them.
    Segment {
        seq: i32,
        ack: i32,
        flags: u8,
        len: usize,
        merged: u16,
        window: u16,
        stamp: i32,
        sack: Vec<(i32, i32)>,
    },
    Pass(u64),
    Deadline,
    Write(usize),
    Read(usize),
    Limit(usize),
    Finish,
    Close,
    Proven,
    TooBig(u16, i32),
}

fn near() -> impl Strategy<Value = i32> {
    prop_oneof![
        8 => Just(0),
        3 => -3..4i32,
        3 => -5_000..20_000i32,
        1 => any::<i32>(),
    ]
}

fn window() -> impl Strategy<Value = u16> {
    prop_oneof![2 => Just(0u16), 2 => 1..10u16, 4 => Just(500u16), 1 => any::<u16>()]
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![12 => Just(0x10u8), 2 => Just(0x11u8), 1 => Just(0x02u8), 1 => Just(0x12u8)]
}

fn segment() -> impl Strategy<Value = Step> {
    let blocks = prop::collection::vec((near(), 1..4_000i32), 0..4);
    let len = prop_oneof![4 => Just(0usize), 2 => 1..10usize, 3 => 1..2_000usize, 1 => 1..20_000usize];
    let stamp = prop_oneof![8 => Just(0), 1 => -100_000..100_000i32];
    (near(), near(), flags(), len, 1..4u16, window(), stamp, blocks).prop_map(
        |(seq, ack, flags, len, merged, window, stamp, sack)| Step::Segment {
            seq,
            ack,
            flags,
            len,
            merged,
            window,
            stamp,
            sack,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => segment(),
        3 => (0..300u64).prop_map(Step::Pass),
        4 => Just(Step::Deadline),
        5 => (1..40_000usize).prop_map(Step::Write),
        5 => (1..40_000usize).prop_map(Step::Read),
        1 => (0..100_000usize).prop_map(Step::Limit),
        1 => Just(Step::Proven),
        1 => (500..1_600u16, near()).prop_map(|(mtu, at)| Step::TooBig(mtu, at)),
    ]
}

fn ending() -> impl Strategy<Value = Step> {
    prop_oneof![30 => step(), 1 => Just(Step::Finish), 1 => Just(Step::Close)]
}

fn pattern(at: u32) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

/// What the test knows about the flow beside the engine.
struct Model {
    solo: Solo,
    written: u32,
    read: u32,
    /// Next number of ours that was not sent, and what the engine acknowledged last.
    next: Seq,
    acked: Seq,
    stamps: bool,
}

impl Model {
    fn new(setup: Setup) -> Self {
        Model {
            solo: Solo::new(setup),
            written: 0,
            read: 0,
            next: Seq(ISS) + 1,
            acked: Seq(IRS) + 1,
            stamps: setup.timestamps,
        }
    }

    /// Takes what the engine sends, and checks it.
    fn drain(&mut self) -> Result<(), TestCaseError> {
        let out = self.solo.out();
        prop_assert!(out.len() < 2_000, "{} segments in one go", out.len());
        prop_assert!(!self.solo.engine.has_output());
        for owned in out {
            let offset = owned.seq - (Seq(ISS) + 1);
            for (n, &byte) in owned.payload.iter().enumerate() {
                prop_assert_eq!(byte, pattern(offset.wrapping_add(n as u32)), "sent at {}", offset);
            }
            if !owned.payload.is_empty() {
                prop_assert!(offset + owned.payload.len() as u32 <= self.written);
            }
            if !owned.flags.has(Flags::RST) {
                let end = owned.seq + owned.payload.len() as u32;
                self.next = self.next.max(end + u32::from(owned.flags.has(Flags::FIN)));
                prop_assert!(owned.ack.at_least(self.acked), "acknowledgements never retreat");
                self.acked = owned.ack;
            }
        }
        Ok(())
    }

    /// The host does something to its flow, if there still is one.
    fn host(&mut self, act: impl FnOnce(&mut Flow<'_>)) {
        if let Some(mut flow) = self.solo.engine.flow(self.solo.id) {
            act(&mut flow);
        }
    }

    fn alive(&mut self) -> bool {
        let id = self.solo.id;
        self.solo.engine.flow(id).is_some()
    }

    fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let id = self.solo.id;
        match step {
            Step::Segment { seq, ack, flags, len, merged, window, stamp, sack } => {
                let seq = Seq(self.acked.0.wrapping_add_signed(*seq));
                let ack = Seq(self.next.0.wrapping_add_signed(*ack));
                let first = seq - (Seq(IRS) + 1);
                let payload: Vec<u8> = (0..*len as u32).map(|n| pattern(first.wrapping_add(n))).collect();
                let mut owned = Owned::new(key(), seq, ack, Flags(*flags)).data(&payload);
                owned.window = *window;
                owned.merged = *merged;
                let now = self.solo.now.millis() as i32;
                owned.options.timestamps =
                    self.stamps.then(|| (now.wrapping_add(*stamp) as u32, now.wrapping_sub(*stamp) as u32));
                let mut blocks = SackBlocks::default();
                for &(left, len) in sack {
                    let left = Seq(ack.0.wrapping_add_signed(left));
                    blocks.push(left, Seq(left.0.wrapping_add_signed(len)));
                }
                owned.options.sack = blocks;
                match self.solo.engine.lookup(&owned.key) {
                    Some(id) => {
                        let _ = self.solo.engine.input(self.solo.now, id, &owned.segment(), HOP);
                    }
                    None => {
                        let hash = self.solo.engine.hash(&owned.key);
                        let _ = self.solo.engine.waiting(self.solo.now, hash, &owned.key, || owned.segment());
                    }
                }
            }
            Step::Pass(ms) => self.solo.pass(Duration::from_millis(*ms)),
            Step::Deadline => {
                if let Some(at) = self.solo.engine.deadline() {
                    self.solo.pass(at.since(self.solo.now));
                }
            }
            Step::Write(n) => {
                let bytes: Vec<u8> = (0..*n as u32).map(|n| pattern(self.written + n)).collect();
                if let Some(mut flow) = self.solo.engine.flow(id) {
                    let space = flow.space();
                    let taken = flow.write(&bytes);
                    prop_assert_eq!(taken, space.min(*n));
                    self.written += taken as u32;
                }
            }
            Step::Read(most) => {
                let Some(mut flow) = self.solo.engine.flow(id) else { return Ok(()) };
                let mut left = *most;
                while left > 0 {
                    let piece = flow.peek();
                    let n = piece.len().min(left);
                    if n == 0 {
                        break;
                    }
                    for &byte in &piece[..n] {
                        prop_assert_eq!(byte, pattern(self.read));
                        self.read += 1;
                    }
                    flow.consume(n);
                    left -= n;
                }
            }
            Step::Limit(n) => self.host(|flow| flow.limit_window(*n)),
            Step::Finish => self.host(|flow| flow.finish()),
            Step::Close => {
                let now = self.solo.now;
                self.host(|flow| flow.close(now));
            }
            Step::Proven => self.host(|flow| flow.set_standing(Standing::Proven)),
            Step::TooBig(mtu, at) => {
                let seq = Seq(self.next.0.wrapping_add_signed(*at));
                let error = PathError::PacketTooBig(*mtu);
                let _ = self.solo.engine.icmp_error(self.solo.now, &key(), seq, error);
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        self.drain()?;
        self.solo.engine.advance(self.solo.now);
        self.drain()?;
        if let Some(at) = self.solo.engine.deadline() {
            prop_assert!(at > self.solo.now, "a timer in the past: {:?} at {:?}", at, self.solo.now);
        }
        self.solo.events();
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn no_peer_breaks_a_flow(
        (sack, timestamps, scaled, cutting, small) in any::<(bool, bool, bool, bool, bool)>(),
        steps in prop::collection::vec(ending(), 1..200),
    ) {
        let setup = Setup {
            mss: if small { 100 } else { 1_460 },
            sack,
            timestamps,
            scale: if scaled { 8 } else { 0 },
            segmentation: if cutting { 65_000 } else { 0 },
            blocks: 48,
            ..Setup::default()
        };
        let mut model = Model::new(setup);
        for step in &steps {
            model.take(step)?;
            model.check()?;
        }
        // Whatever happened: a flow that its host lets go is gone in bounded time, and nothing stays behind.
        let now = model.solo.now;
        model.host(|flow| flow.close(now));
        let end = model.solo.now + Duration::from_secs(400);
        while model.alive() {
            prop_assert!(model.solo.now < end, "lives for ever");
            model.take(&Step::Deadline)?;
            model.check()?;
        }
        let statistics = model.solo.engine.statistics();
        prop_assert_eq!((statistics.flows, statistics.blocks_used), (0, 0));
        prop_assert!(model.solo.engine.counters()[Reason::NoFrame] == 0);
    }
}
