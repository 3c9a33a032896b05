//! The small world of the in-memory figures: shards over memory ports on one Ethernet, and frames made by hand.

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::frame::{Abilities, Batch, Lane, Port};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{Accept, Config, Listener, Shard, ShardIndex, ShardLink};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{Address, LinkId, Mac};
use hedgerow_port::{Memory, MemoryConfig};

/// The box: address, MAC and service port.
pub const BOX: ([u8; 4], [u8; 6]) = ([198, 51, 100, 1], [2, 0, 0, 0, 0, 1]);
/// The peer: address and MAC.
pub const PEER: ([u8; 4], [u8; 6]) = ([198, 51, 100, 2], [2, 0, 0, 0, 0, 2]);
/// The service port.
pub const SERVICE: u16 = 8444;

/// The only link of these shards.
pub const LINK: LinkId = LinkId(0);

/// A shard for one end, with one listener that wants `accept`.
pub fn shard(end: ([u8; 4], [u8; 6]), abilities: &Abilities, accept: Accept) -> Shard {
    let engine = EngineConfig { flows: 1_024, ..EngineConfig::default() };
    shard_with(end, abilities, accept, Limits::default(), engine)
}

/// The same with quotas and tables of the caller's choice.
pub fn shard_with(
    end: ([u8; 4], [u8; 6]),
    abilities: &Abilities,
    accept: Accept,
    admit: Limits,
    engine: EngineConfig,
) -> Shard {
    let address = Prefix { address: Address::from_v4(end.0), length: 24 };
    let link = LinkConfig {
        addresses: vec![address],
        claiming: Claiming::Silent,
        mtu: abilities.mtu,
        ..LinkConfig::default()
    };
    let config = Config {
        links: vec![ShardLink::new(link, abilities)],
        listeners: vec![Listener { link: LINK, address: None, port: SERVICE, accept }],
        admit,
        engine,
        screen: ScreenConfig { replies_per_second: u32::MAX, ..ScreenConfig::default() },
        cookie_secret: Master([7; 32]),
        seed: [end.0[3]; 32],
        index: ShardIndex::default(),
        exchange: None,
        egress: None,
    };
    let mut shard = Shard::new(&config, Instant::ZERO);
    shard.set_utc(Instant::ZERO, 1_800_000_000_000);
    shard
}

/// A pair of memory ports, the box's and the peer's.
pub fn wire() -> (Memory, Memory) {
    let config =
        |end: ([u8; 4], [u8; 6])| MemoryConfig { mac: Mac(end.1), queue: 1_024, ..MemoryConfig::default() };
    Memory::pair(config(BOX), config(PEER))
}

/// One end: a shard and its port.
pub struct End {
    /// The shard.
    pub shard: Shard,
    /// Its port.
    pub port: Memory,
    rx: Batch,
    tx: Batch,
}

impl End {
    /// A shard over a port.
    pub fn new(shard: Shard, port: Memory) -> Self {
        End { shard, port, rx: Batch::new(), tx: Batch::new() }
    }

    /// Takes in what waits, and sends what there is to send; says whether anything moved.
    pub fn step(&mut self, now: Instant) -> bool {
        let mut moved = 0;
        loop {
            let received = self.port.receive(Lane::Stranger, &mut self.rx).unwrap_or(0);
            if received == 0 {
                break;
            }
            self.shard.ingest(now, LINK, &mut self.port, &mut self.rx, &mut self.tx);
            self.flush();
            moved += received;
        }
        if self.shard.deadline().is_some_and(|at| at <= now) {
            self.shard.advance(now);
        }
        loop {
            let written = self.shard.transmit(now, LINK, &mut self.port, &mut self.tx, usize::MAX);
            moved += written;
            if !self.flush() || written == 0 {
                return moved > 0;
            }
        }
    }

    /// Gives the port what it takes; whether that was all.
    fn flush(&mut self) -> bool {
        // A memory port does not fail.
        let _ = self.port.transmit(&mut self.tx);
        self.tx.is_empty()
    }
}

/// An Ethernet frame with a SYN as Linux sends it (MSS, SACK, timestamps, window scale) from the peer to the service.
pub fn syn_frame() -> Vec<u8> {
    let mut frame = vec![0_u8; 74];
    frame[..6].copy_from_slice(&BOX.1);
    frame[6..12].copy_from_slice(&PEER.1);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..34]
        .copy_from_slice(&[0x45, 0, 0, 60, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    frame[26..30].copy_from_slice(&PEER.0);
    frame[30..34].copy_from_slice(&BOX.0);
    frame[34..36].copy_from_slice(&40_000_u16.to_be_bytes());
    frame[36..38].copy_from_slice(&SERVICE.to_be_bytes());
    frame[38..42].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    frame[46..50].copy_from_slice(&[0xa0, 0x02, 0xfa, 0xf0]);
    frame[54..74].copy_from_slice(&[2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 1, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
    let header = checksum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&header);
    let pseudo: u32 = pairs(&frame[26..34]) + 6 + 40;
    let tcp = checksum(&frame[34..74], pseudo);
    frame[50..52].copy_from_slice(&tcp);
    frame
}

/// Bytes of headers that [`segment`] writes.
pub const HEADERS: usize = 54;

/// One direction of a connection: addresses, then ports.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The sender's Ethernet address.
    pub source_mac: [u8; 6],
    /// The receiver's.
    pub destination_mac: [u8; 6],
    /// The sender's address and port.
    pub source: (u32, u16),
    /// The receiver's.
    pub destination: (u32, u16),
}

/// Writes a segment without options, over all of `frame`. Its TCP checksum stays zero: send it as verified.
pub fn segment(frame: &mut [u8], way: &Way, (seq, ack): (u32, u32), flags: u8, payload: &[u8]) {
    frame[..6].copy_from_slice(&way.destination_mac);
    frame[6..12].copy_from_slice(&way.source_mac);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let length = (frame.len() as u16 - 14).to_be_bytes();
    frame[14..26].copy_from_slice(&[0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame[26..30].copy_from_slice(&way.source.0.to_be_bytes());
    frame[30..34].copy_from_slice(&way.destination.0.to_be_bytes());
    let sum = checksum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&sum);
    frame[34..36].copy_from_slice(&way.source.1.to_be_bytes());
    frame[36..38].copy_from_slice(&way.destination.1.to_be_bytes());
    frame[38..42].copy_from_slice(&seq.to_be_bytes());
    frame[42..46].copy_from_slice(&ack.to_be_bytes());
    frame[46..54].copy_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame[HEADERS..].copy_from_slice(payload);
}

fn pairs(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

/// The Internet checksum (RFC 1071) of `bytes` and what was summed before.
fn checksum(bytes: &[u8], before: u32) -> [u8; 2] {
    let mut sum = pairs(bytes) + before;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
