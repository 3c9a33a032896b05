//! Drives two shards by hand: frames and a clock, nothing else. One end listens on port 7 and echoes; the other connects,
//! says something and prints what comes back.
//!
//! Run it with `cargo run -p hedgerow-dataplane --example embed`.
//!
//! Everything a host has to bring is here: memory for frames ([`Heap`]; a real driver hands out pieces of its rings
//! instead), the time, a seed, and a way for frames from one end to the other.

use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::frame::{Abilities, Batch, Frame, Meta, Pool};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{
    Accept, Config, Event, Listener, Shard, ShardIndex, ShardLink, Source, Target,
};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{Address, LinkId, Mac};

const LINK: LinkId = LinkId(0);
const ECHO: u16 = 7;
const SLOT: usize = 2048;

/// Memory for frames: slots of one size and a list of the free ones.
struct Heap {
    slots: Vec<[u8; SLOT]>,
    free: Vec<u32>,
}

impl Heap {
    fn new(slots: u32) -> Self {
        Heap { slots: vec![[0; SLOT]; slots as usize], free: (0..slots).collect() }
    }
}

impl Pool for Heap {
    fn allocate(&mut self) -> Option<Frame> {
        self.free.pop().map(|slot| Frame::new(slot, 0, 0))
    }

    fn release(&mut self, frame: Frame) {
        self.free.push(frame.slot());
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.slots[frame.slot() as usize][frame.head() as usize..][..frame.len()]
    }

    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        &mut self.slots[frame.slot() as usize][frame.head() as usize..][..frame.len()]
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        let fits = frame.head() as usize + len <= SLOT;
        if fits {
            frame.set_len(len as u32);
        }
        fits
    }
}

/// A shard, its memory, and its two batches.
struct End {
    shard: Shard,
    pool: Heap,
    rx: Batch,
    tx: Batch,
}

impl End {
    fn new(last_byte: u8) -> Self {
        let abilities = Abilities {
            mac: Mac([2, 0, 0, 0, 0, last_byte]),
            mtu: 1500,
            frame_bytes: SLOT,
            frames: 256,
            checksum: false,
            segmentation: 0,
            vlan: false,
            lanes: false,
            mode: "by hand".into(),
        };
        let link = LinkConfig {
            addresses: vec![Prefix { address: Address::from_v4([192, 0, 2, last_byte]), length: 24 }],
            claiming: Claiming::Silent, // nobody else is on this wire, so there is nobody to ask first
            ..LinkConfig::default()
        };
        let config = Config {
            links: vec![ShardLink::new(link, &abilities)],
            listeners: vec![Listener { link: LINK, address: None, port: ECHO, accept: Accept::Handshake }],
            admit: Limits::default(),
            engine: EngineConfig { flows: 64, blocks: 64, ..EngineConfig::default() },
            screen: ScreenConfig::default(),
            cookie_secret: Master([1; 32]), // a real host reads it from a file that its fleet shares
            seed: [last_byte; 32],          // and this from the operating system
            index: ShardIndex::default(),
            exchange: None,
            egress: None,
        };
        let mut shard = Shard::new(&config, Instant::ZERO);
        shard.set_utc(Instant::ZERO, 1_800_000_000_000);
        End { shard, pool: Heap::new(256), rx: Batch::new(), tx: Batch::new() }
    }

    /// Lets the shard say what it has to say, and hands every frame to `other`.
    fn deliver(&mut self, now: Instant, other: &mut End) {
        if self.shard.deadline().is_some_and(|at| at <= now) {
            self.shard.advance(now);
        }
        self.shard.transmit(now, LINK, &mut self.pool, &mut self.tx, 64);
        for (frame, meta) in self.tx.drain(64) {
            let bytes = self.pool.bytes(&frame);
            println!("{now:?}  {} -> {}  {:>4} bytes", bytes[11], bytes[5], bytes.len());
            other.receive(bytes, meta);
            self.pool.release(frame);
        }
        other.shard.ingest(now, LINK, &mut other.pool, &mut other.rx, &mut other.tx);
    }

    fn receive(&mut self, bytes: &[u8], meta: Meta) {
        let Some(mut frame) = self.pool.allocate() else { return };
        if self.pool.resize(&mut frame, bytes.len()) {
            self.pool.bytes_mut(&mut frame).copy_from_slice(bytes);
        }
        if let Err(frame) = self.rx.push(frame, meta) {
            self.pool.release(frame);
        }
    }
}

fn main() {
    let (mut server, mut client) = (End::new(1), End::new(2));
    let target = Target { link: LINK, address: Address::from_v4([192, 0, 2, 1]), port: ECHO };
    client.shard.connect(Instant::ZERO, target, Source::Own).expect("the route and the table have room");

    let mut now = Instant::ZERO;
    while now < Instant::from_millis(2_000) {
        now += Duration::from_micros(500);
        client.deliver(now, &mut server);
        server.deliver(now, &mut client);

        while let Some(event) = server.shard.event(now) {
            println!("{now:?}  server: {event:?}");
            if let Event::Readable(id) = event
                && let Some(mut flow) = server.shard.flow(id)
            {
                let said = flow.peek().to_vec();
                flow.write(&said);
                flow.consume(said.len());
            }
        }
        while let Some(event) = client.shard.event(now) {
            println!("{now:?}  client: {event:?}");
            match event {
                Event::Connected(id) => {
                    let mut flow = client.shard.flow(id).expect("just connected");
                    flow.write(b"Good fences make good neighbours.");
                }
                Event::Readable(id) => {
                    let mut flow = client.shard.flow(id).expect("just readable");
                    println!("echoed: {}", String::from_utf8_lossy(flow.peek()));
                    return;
                }
                _ => {}
            }
        }
    }
    eprintln!("nothing came back");
    std::process::exit(1);
}
