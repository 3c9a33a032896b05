//! The simplest device: a bare shard whose `tcp` listener forwards each connection to a node, byte by byte. It shows how a
//! shard is driven, and is what the simulation of the TCP engine puts in the middle.

use std::collections::BTreeMap;
use std::time::Duration;

use hedgerow_dataplane::frame::{Batch, Lane, Port};
use hedgerow_dataplane::screen::Master;
use hedgerow_dataplane::shard::{
    Accept, Config, Event, FlowId, Listener, Shard, ShardLink, Source, Standing, Target,
};
use hedgerow_dataplane::wire::LinkId;
use hedgerow_dataplane::{Instant, Reason};
use hedgerow_port::Memory;

use crate::random::Random;
use crate::subject::{Sample, Site, Subject};

const PUBLIC: LinkId = LinkId(0);
const PRIVATE: LinkId = LinkId(1);

/// Limits of a forwarder.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// Who may own a flow.
    pub admit: hedgerow_dataplane::admit::Limits,
    /// The engine's tables and buffers; its links are filled in.
    pub engine: hedgerow_dataplane::tcp::EngineConfig,
}

/// A port with the frames that it could not send yet.
struct Side {
    link: LinkId,
    port: Memory,
    unsent: Batch,
}

/// The other leg of a flow.
#[derive(Clone, Copy, Debug)]
struct Pairing {
    other: FlowId,
    /// The other leg can be written to.
    connected: bool,
    /// When something was last moved from this leg to the other.
    moved: Instant,
}

/// A pair through which nothing went for so long is cut: its peer may have gone without a word.
const IDLE: Duration = Duration::from_secs(120);

/// The device.
pub struct Forwarder {
    shard: Shard,
    sides: [Side; 2],
    received: Batch,
    pairs: BTreeMap<FlowId, Pairing>,
    node: Target,
    unix: Duration,
    piece: Vec<u8>,
}

impl Forwarder {
    /// A forwarder at `site`, to the first of its nodes.
    pub fn new(site: Site, limits: Limits) -> Result<Self, String> {
        let node = site.nodes.first().ok_or("a forwarder needs a node")?;
        let mut random = Random::new(site.seed);
        let (mut seed, mut master) = ([0; 32], [0; 32]);
        random.fill(&mut seed);
        random.fill(&mut master);
        let listener = Listener {
            link: PUBLIC,
            address: Some(site.service.ip().into()),
            port: site.service.port(),
            accept: Accept::Handshake,
        };
        let config = Config {
            links: vec![
                ShardLink::new(site.public_link, site.public.abilities()),
                ShardLink::new(site.private_link, site.private.abilities()),
            ],
            listeners: vec![listener],
            admit: limits.admit,
            engine: limits.engine,
            screen: Default::default(),
            cookie_secret: Master(master),
            seed,
            index: Default::default(),
            exchange: None,
            egress: None,
        };
        let mut shard = Shard::new(&config, Instant::ZERO);
        shard.set_utc(Instant::ZERO, site.unix.as_millis() as u64);
        let side = |link, port| Side { link, port, unsent: Batch::new() };
        Ok(Forwarder {
            shard,
            sides: [side(PUBLIC, site.public), side(PRIVATE, site.private)],
            received: Batch::new(),
            pairs: BTreeMap::new(),
            node: Target { link: PRIVATE, address: node.ip().into(), port: node.port() },
            unix: site.unix,
            piece: Vec::new(),
        })
    }

    /// Takes in what waits at both ports; says whether there was anything.
    fn receive(&mut self, now: Instant) -> bool {
        let mut any = false;
        for side in &mut self.sides {
            for lane in [Lane::Known, Lane::Stranger] {
                while side.port.receive(lane, &mut self.received).is_ok_and(|count| count > 0) {
                    any = true;
                    self.shard.ingest(now, side.link, &mut side.port, &mut self.received, &mut side.unsent);
                    side.send();
                }
            }
        }
        any
    }

    /// Sends what the shard has to say; says whether there was anything.
    fn transmit(&mut self, now: Instant) -> bool {
        let mut any = false;
        for side in &mut self.sides {
            loop {
                side.send();
                let space = side.unsent.space();
                let written = self.shard.transmit(now, side.link, &mut side.port, &mut side.unsent, space);
                any |= written > 0;
                side.send();
                if written == 0 || !side.unsent.is_empty() {
                    break;
                }
            }
        }
        any
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Accepted(id, _) => match self.shard.connect(now, self.node, Source::Own) {
                Ok(node) => {
                    self.pairs.insert(id, Pairing { other: node, connected: false, moved: now });
                    self.pairs.insert(node, Pairing { other: id, connected: true, moved: now });
                }
                Err(reason) => self.abort(id, reason),
            },
            Event::Departing(id, _) => self.abort(id, Reason::Aborted),
            Event::Connected(node) => {
                let Some(peer) = self.pairs.get(&node).map(|pair| pair.other) else { return };
                if let Some(pair) = self.pairs.get_mut(&peer) {
                    pair.connected = true;
                }
                self.shard.standing(now, peer, Standing::Proven);
                self.forward(now, peer);
            }
            Event::Readable(id) | Event::Finished(id) => self.forward(now, id),
            Event::Writable(id) => {
                if let Some(pair) = self.pairs.get(&id).copied() {
                    self.forward(now, pair.other);
                }
            }
            Event::Closed(id, reason) => {
                let Some(pair) = self.pairs.remove(&id) else { return };
                if reason != Reason::Finished {
                    self.pairs.remove(&pair.other);
                    self.abort(pair.other, Reason::Aborted);
                }
            }
        }
    }

    fn abort(&mut self, id: FlowId, reason: Reason) {
        if let Some(mut flow) = self.shard.flow(id) {
            flow.abort(reason);
        }
    }

    /// Moves what one flow received into the other's send queue, and its end after it.
    fn forward(&mut self, now: Instant, from: FlowId) {
        let Some(Pairing { other, connected: true, .. }) = self.pairs.get(&from).copied() else { return };
        loop {
            let Some(mut source) = self.shard.flow(from) else { return };
            let finished = source.finished();
            self.piece.clear();
            self.piece.extend_from_slice(source.peek());
            drop(source);
            let Some(mut sink) = self.shard.flow(other) else { return };
            if self.piece.is_empty() {
                if finished {
                    sink.finish();
                }
                return;
            }
            let written = sink.write(&self.piece);
            drop(sink);
            if written == 0 {
                return;
            }
            if let Some(mut source) = self.shard.flow(from) {
                source.consume(written);
            }
            if let Some(pair) = self.pairs.get_mut(&from) {
                pair.moved = now;
            }
        }
    }

    /// When the pair of a leg will have been idle for too long.
    fn expiry(&self, pair: &Pairing) -> Instant {
        let other = self.pairs.get(&pair.other).map_or(pair.moved, |other| other.moved);
        pair.moved.max(other) + IDLE
    }

    fn cut_idle(&mut self, now: Instant) {
        let idle = |(id, pair): (&FlowId, &Pairing)| (self.expiry(pair) <= now).then_some(*id);
        let idle: Vec<FlowId> = self.pairs.iter().filter_map(idle).collect();
        for id in idle {
            self.pairs.remove(&id);
            self.abort(id, Reason::TimedOut);
        }
    }
}

impl Side {
    fn send(&mut self) {
        // A memory port never fails; what it has no room for stays.
        let _ = self.port.transmit(&mut self.unsent);
    }
}

impl Subject for Forwarder {
    fn step(&mut self, now: Instant) {
        self.shard.set_utc(now, self.unix.as_millis() as u64 + now.millis());
        loop {
            let received = self.receive(now);
            self.shard.advance(now);
            self.cut_idle(now);
            while let Some(event) = self.shard.event(now) {
                self.event(now, event);
            }
            if !self.transmit(now) && !received {
                return;
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let idle = self.pairs.values().map(|pair| self.expiry(pair)).min();
        [self.shard.deadline(), idle].into_iter().flatten().min()
    }

    fn sample(&self) -> Sample {
        Sample {
            dataplane: self.shard.statistics(),
            strangers: self.shard.strangers().map(|(key, bytes)| (key.remote().ip(), bytes)).collect(),
            sessions: self.pairs.len() / 2,
            ..Sample::default()
        }
    }
}
