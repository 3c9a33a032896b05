//! One engine with one flow, and a peer played by hand with numbers relative to both initial sequence numbers.

use std::time::Duration;

use crate::Reason;
use crate::shard::{Event, FlowId, ListenerId, Opened};
use crate::time::Instant;
use crate::wire::{Flags, FlowKey, Seq};

use super::super::{Engine, EngineConfig, Flow, Sent, Waiting};
use super::pipe::{HOP, LINK, Owned, Setup, agreed, config, key};

/// Our and the peer's initial sequence numbers; ours wraps soon.
pub(super) const ISS: u32 = u32::MAX - 3_000;
pub(super) const IRS: u32 = 5_000;

pub(super) struct Solo {
    pub(super) engine: Engine,
    pub(super) id: FlowId,
    pub(super) now: Instant,
    pub(super) key: FlowKey,
    /// The window field of the peer's segments.
    pub(super) window: u16,
    /// The peer's timestamps.
    pub(super) timestamps: Option<(u32, u32)>,
}

/// A setup without timestamps and with unscaled windows, which makes numbers readable.
pub(super) fn plain() -> Setup {
    Setup { mss: 1_000, timestamps: false, scale: 0, ..Setup::default() }
}

impl Solo {
    /// An established flow whose peer has acknowledged our SYN.
    pub(super) fn new(setup: Setup) -> Self {
        Solo::with(setup, config(&setup))
    }

    pub(super) fn with(setup: Setup, config: EngineConfig) -> Self {
        let mut engine = Engine::new(config, [7; 32]);
        let now = Instant::from_millis(10_000);
        let agreed = agreed(&setup, ISS, IRS);
        let id =
            engine.accept(now, key(), LINK, HOP, &agreed, Opened::To(ListenerId(3))).expect("a free slot");
        let timestamps = setup.timestamps.then_some((1, 1));
        let mut solo = Solo { engine, id, now, key: key(), window: 0xffff >> setup.scale, timestamps };
        solo.peer(0, 0, Flags::ACK, b"").expect("the first ACK");
        assert_eq!(solo.events(), [Event::Accepted(id, ListenerId(3))]);
        solo
    }

    /// A segment of the peer: `seq` from its first data byte, `ack` from ours.
    pub(super) fn segment(&self, seq: u32, ack: u32, flags: Flags, payload: &[u8]) -> Owned {
        let mut owned = Owned::new(self.key, Seq(IRS) + 1 + seq, Seq(ISS) + 1 + ack, flags).data(payload);
        owned.window = self.window;
        owned.options.timestamps = self.timestamps;
        owned
    }

    /// The peer sends a segment.
    pub(super) fn peer(&mut self, seq: u32, ack: u32, flags: Flags, payload: &[u8]) -> Result<(), Reason> {
        let owned = self.segment(seq, ack, flags, payload);
        self.give(&owned)
    }

    /// A segment arrives.
    pub(super) fn give(&mut self, owned: &Owned) -> Result<(), Reason> {
        self.engine.input(self.now, self.id, &owned.segment(), HOP)
    }

    /// A segment arrives for which there is no flow.
    pub(super) fn wait(&mut self, seq: u32, ack: u32, flags: Flags, payload: &[u8]) -> Waiting {
        let owned = self.segment(seq, ack, flags, payload);
        assert_eq!(self.engine.lookup(&self.key), None);
        let hash = self.engine.hash(&self.key);
        self.engine.waiting(self.now, hash, &self.key, || owned.segment())
    }

    /// What the engine sends now.
    pub(super) fn out(&mut self) -> Vec<Owned> {
        let mut out = Vec::new();
        let mut sink = |outgoing: &crate::wire::Outgoing<'_>| {
            out.push(Owned::from(outgoing));
            Sent::Yes
        };
        while self.engine.transmit(self.now, LINK, &mut sink, 64) > 0 {}
        out
    }

    /// What the engine sends now, as (sequence number from our first data byte, payload length, flags without PSH).
    pub(super) fn sent(&mut self) -> Vec<(i32, usize, Flags)> {
        let plain = |flags: Flags| Flags(flags.0 & !Flags::PSH.0);
        let first = Seq(ISS) + 1;
        self.out().iter().map(|o| (o.seq.offset_from(first), o.payload.len(), plain(o.flags))).collect()
    }

    /// The acknowledgement that the engine sends now, from the peer's first data byte; `None` if it sends none.
    pub(super) fn acked(&mut self) -> Option<i32> {
        self.out().last().map(|owned| owned.ack.offset_from(Seq(IRS) + 1))
    }

    /// Lets time pass from deadline to deadline until the engine has something to send or to report; says how long that
    /// took.
    pub(super) fn next(&mut self) -> Duration {
        let start = self.now;
        while let Some(at) = self.engine.deadline() {
            self.pass(at.since(self.now));
            if self.engine.has_output() || !self.engine.events.is_empty() {
                break;
            }
        }
        self.now.since(start)
    }

    /// Lets time pass until the engine sends something.
    pub(super) fn later(&mut self) -> Vec<(i32, usize, Flags)> {
        loop {
            let sent = self.sent();
            if !sent.is_empty() {
                return sent;
            }
            self.next();
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.engine.advance(self.now);
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.engine.event()).collect()
    }

    pub(super) fn flow(&mut self) -> Flow<'_> {
        self.engine.flow(self.id).expect("the flow")
    }

    /// Queues `n` bytes.
    pub(super) fn write(&mut self, n: usize) {
        assert_eq!(self.flow().write(&vec![b'x'; n]), n);
    }

    /// Reads everything.
    pub(super) fn read(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut flow = self.flow();
        while let piece @ [_, ..] = flow.peek() {
            let n = piece.len();
            bytes.extend_from_slice(piece);
            flow.consume(n);
        }
        bytes
    }
}
