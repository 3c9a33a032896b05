//! Two engines at the ends of a pipe that loses, repeats, delays and reorders by a seed, in virtual time.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::Reason;
use crate::shard::{Event, FlowId, ListenerId, Opened};
use crate::time::Instant;
use crate::wire::{Agreed, AgreedTimestamps, Flags, FlowKey, LinkId, Mac, Options, Outgoing, Segment, Seq};

use super::super::{Engine, EngineConfig, LinkSettings, Sent};

pub(super) const HOP: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub(super) const LINK: LinkId = LinkId(0);

/// A segment that owns its payload.
#[derive(Clone, Debug)]
pub(super) struct Owned {
    pub(super) key: FlowKey,
    pub(super) seq: Seq,
    pub(super) ack: Seq,
    pub(super) flags: Flags,
    pub(super) window: u16,
    pub(super) options: Options,
    pub(super) payload: Vec<u8>,
    pub(super) merged: u16,
}

impl Owned {
    /// A bare segment with a wide open window.
    pub(super) fn new(key: FlowKey, seq: Seq, ack: Seq, flags: Flags) -> Self {
        let options = Options::default();
        Owned { key, seq, ack, flags, window: 0xffff, options, payload: Vec::new(), merged: 1 }
    }

    pub(super) fn data(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub(super) fn from(out: &Outgoing<'_>) -> Self {
        let payload = out.payload.to_vec();
        let merged = match out.segment {
            0 => 1,
            each => payload.len().div_ceil(usize::from(each)) as u16,
        };
        Owned {
            key: FlowKey::new(out.key.remote(), out.key.local()),
            seq: out.seq,
            ack: out.ack,
            flags: out.flags,
            window: out.window,
            options: out.options,
            payload,
            merged,
        }
    }

    pub(super) fn segment(&self) -> Segment<'_> {
        Segment {
            seq: self.seq,
            ack: self.ack,
            flags: self.flags,
            window: self.window,
            options: self.options,
            payload: &self.payload,
            merged: self.merged,
        }
    }
}

/// A small deterministic generator (splitmix64).
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True in `percent` of cases.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the pipe does to segments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    pub(super) loss: u64,
    pub(super) duplicate: u64,
    /// In percent of segments: delayed by up to eight times the usual.
    pub(super) reorder: u64,
    pub(super) delay: Duration,
}

/// How both ends are set up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) mss: u16,
    pub(super) sack: bool,
    pub(super) timestamps: bool,
    pub(super) scale: u8,
    pub(super) segmentation: usize,
    pub(super) blocks: usize,
    pub(super) faults: Faults,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            mss: 1460,
            sack: true,
            timestamps: true,
            scale: 8,
            segmentation: 0,
            blocks: 2048,
            faults: Faults { delay: Duration::from_millis(5), ..Faults::default() },
        }
    }
}

/// Both ends and what is under way between them.
pub(super) struct Pipe {
    pub(super) now: Instant,
    pub(super) ends: [Engine; 2],
    pub(super) ids: [FlowId; 2],
    pub(super) events: [Vec<Event>; 2],
    pub(super) faults: Faults,
    pub(super) dice: Dice,
    /// By arrival time and a serial number: to which end.
    pub(super) flying: BTreeMap<(Instant, u64), (usize, Owned)>,
    pub(super) sent: [u64; 2],
    serial: u64,
}

pub(super) fn config(setup: &Setup) -> EngineConfig {
    EngineConfig {
        flows: 64,
        time_waits: 64,
        blocks: setup.blocks,
        links: vec![LinkSettings { mtu: setup.mss.max(536) + 40, segmentation: setup.segmentation }],
        ..EngineConfig::default()
    }
}

pub(super) fn key() -> FlowKey {
    let local = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 8444));
    FlowKey::new(local, SocketAddr::from((Ipv4Addr::new(198, 51, 100, 7), 40_000)))
}

pub(super) fn agreed(setup: &Setup, iss: u32, irs: u32) -> Agreed {
    Agreed {
        iss: Seq(iss),
        irs: Seq(irs),
        mss: setup.mss,
        remote_scale: setup.scale,
        local_scale: setup.scale,
        sack: setup.sack,
        timestamps: setup.timestamps.then_some(AgreedTimestamps { recent: 1, echoed: 1 }),
    }
}

impl Pipe {
    /// Two established flows that face each other.
    pub(super) fn new(setup: Setup, seed: u64) -> Self {
        let mut dice = Dice(seed);
        let (one, two) = (dice.next() as u32, dice.next() as u32);
        let now = Instant::from_millis(1_000 + dice.below(1_000));
        let here = key();
        let there = FlowKey::new(here.remote(), here.local());
        let mut ends =
            [Engine::new(config(&setup), [seed as u8; 32]), Engine::new(config(&setup), [!seed as u8; 32])];
        let accept = |engine: &mut Engine, key, iss, irs| {
            engine
                .accept(now, key, LINK, HOP, &agreed(&setup, iss, irs), Opened::To(ListenerId(0)))
                .expect("a free slot")
        };
        let ids = [accept(&mut ends[0], here, one, two), accept(&mut ends[1], there, two, one)];
        // A first ACK in each direction tells the windows, as the end of a handshake does.
        for (end, (seq, ack)) in [(two, one), (one, two)].into_iter().enumerate() {
            let mut first = Owned::new([here, there][end], Seq(seq) + 1, Seq(ack) + 1, Flags::ACK);
            first.window = (8192 >> setup.scale) as u16;
            first.options.timestamps = setup.timestamps.then_some((1, 1));
            ends[end].input(now, ids[end], &first.segment(), HOP).expect("the first ACK");
        }
        Pipe {
            now,
            ends,
            ids,
            events: [Vec::new(), Vec::new()],
            faults: setup.faults,
            dice,
            flying: BTreeMap::new(),
            sent: [0; 2],
            serial: 0,
        }
    }

    /// Lets both ends send; the pipe does to it what its faults say.
    pub(super) fn pump(&mut self) {
        for end in 0..2 {
            let mut out = Vec::new();
            let mut sink = |outgoing: &Outgoing<'_>| {
                out.push(Owned::from(outgoing));
                Sent::Yes
            };
            while self.ends[end].transmit(self.now, LINK, &mut sink, 64) > 0 {}
            for owned in out {
                self.sent[end] += 1;
                self.fly(1 - end, owned);
            }
        }
    }

    /// Puts a segment on its way to an end.
    pub(super) fn fly(&mut self, to: usize, owned: Owned) {
        if self.dice.chance(self.faults.loss) {
            return;
        }
        let copies = 1 + u64::from(self.dice.chance(self.faults.duplicate));
        for _ in 0..copies {
            let late = self.dice.chance(self.faults.reorder);
            let usual = self.faults.delay.as_micros() as u64;
            let delay = if late { self.dice.below(8 * usual) } else { usual };
            self.serial += 1;
            let at = self.now + Duration::from_micros(delay);
            self.flying.insert((at, self.serial), (to, owned.clone()));
        }
    }

    /// Goes on to the next thing that happens: arrivals and timers. False if nothing will ever happen.
    pub(super) fn step(&mut self) -> bool {
        self.pump();
        let arrival = self.flying.keys().next().map(|(at, _)| *at);
        let timer = self.ends.iter().filter_map(Engine::deadline).min();
        let Some(next) = [arrival, timer].into_iter().flatten().min() else { return false };
        self.now = self.now.max(next);
        while let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, owned) = entry.remove();
            self.deliver(to, &owned);
        }
        for end in 0..2 {
            self.ends[end].advance(self.now);
        }
        self.gather();
        true
    }

    /// Hands a segment to an end.
    pub(super) fn deliver(&mut self, to: usize, owned: &Owned) {
        match self.ends[to].lookup(&owned.key) {
            Some(id) => drop(self.ends[to].input(self.now, id, &owned.segment(), HOP)),
            None => drop({
                let hash = self.ends[to].hash(&owned.key);
                self.ends[to].waiting(self.now, hash, &owned.key, || owned.segment())
            }),
        }
    }

    /// Collects events.
    pub(super) fn gather(&mut self) {
        for end in 0..2 {
            while let Some(event) = self.ends[end].event() {
                self.events[end].push(event);
            }
        }
    }

    /// Why an end's flow was closed, if it was.
    pub(super) fn closed(&self, end: usize) -> Option<Reason> {
        self.events[end].iter().find_map(|event| match event {
            Event::Closed(_, reason) => Some(*reason),
            _ => None,
        })
    }

    /// Steps until `done`, or until virtual `limit` passed; says whether `done`.
    pub(super) fn until(&mut self, limit: Duration, mut done: impl FnMut(&mut Pipe) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            if self.now > end {
                return false;
            }
            if !self.step() {
                // Only the host can go on, at its own pace.
                self.now += Duration::from_millis(10);
            }
        }
    }

    /// Everything that an end can read now.
    pub(super) fn read(&mut self, end: usize, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(mut flow) = self.ends[end].flow(self.ids[end]) else { return bytes };
        while bytes.len() < most {
            let piece = flow.peek();
            let n = piece.len().min(most - bytes.len());
            if n == 0 {
                break;
            }
            bytes.extend_from_slice(&piece[..n]);
            flow.consume(n);
        }
        bytes
    }

    /// Queues what fits.
    pub(super) fn write(&mut self, end: usize, bytes: &[u8]) -> usize {
        self.ends[end].flow(self.ids[end]).map_or(0, |mut flow| flow.write(bytes))
    }

    pub(super) fn finish(&mut self, end: usize) {
        if let Some(mut flow) = self.ends[end].flow(self.ids[end]) {
            flow.finish();
        }
    }
}
