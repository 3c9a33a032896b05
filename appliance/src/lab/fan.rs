//! A simulated network card with several queues: one memory port outside, one per shard inside.
//!
//! It chooses the queue by a hash over addresses and ports that knows nothing of the shards, as real cards do, so the two
//! directions of a connection, and both legs of a session, mostly meet at different ones. Now and then its table is
//! changed, as an operator or a driver may do, and flows move to other queues.

use hedgerow_dataplane::frame::{Meta, Port};
use hedgerow_port::{Memory, MemoryConfig};

/// Frames between two changes of the table.
const CHANGE_EVERY: u64 = 2_000;

/// See the [module](self).
pub(super) struct Fan {
    outer: Memory,
    queues: Vec<Memory>,
    key: u64,
    dealt: u64,
}

impl Fan {
    /// A card with `count` queues in place of `outer`; returns the shards' ends.
    pub(super) fn new(outer: Memory, count: usize, key: u64) -> (Fan, Vec<Memory>) {
        let abilities = outer.abilities();
        let config = MemoryConfig {
            mac: abilities.mac,
            mtu: abilities.mtu,
            checksum: abilities.checksum,
            segmentation: abilities.segmentation,
            ..MemoryConfig::default()
        };
        let (queues, ends) = (0..count).map(|_| Memory::pair(config.clone(), config.clone())).unzip();
        (Fan { outer, queues, key, dealt: 0 }, ends)
    }

    /// Gives what came from outside to the queues; how many frames.
    pub(super) fn deal(&mut self) -> usize {
        let Fan { outer, queues, key, dealt } = self;
        outer.take(|bytes, meta: Meta| {
            *dealt += 1;
            let table = *key ^ (*dealt / CHANGE_EVERY);
            let queue = hash(table, bytes) as usize % queues.len();
            // A full queue loses the frame and counts it.
            queues[queue].send(bytes, meta);
        })
    }

    /// Sends what the shards have sent; how many frames.
    pub(super) fn gather(&mut self) -> usize {
        let Fan { outer, queues, .. } = self;
        let mut send = |bytes: &[u8], meta| {
            // A full wire loses the frame and counts it.
            outer.send(bytes, meta);
        };
        queues.iter_mut().map(|queue| queue.take(&mut send)).sum()
    }
}

/// A hash over IPv4 addresses and the ports behind them, or over both stations where there is something else (FNV-1a).
fn hash(key: u64, bytes: &[u8]) -> u64 {
    let range = if bytes.get(12..14) == Some(&[8, 0]) { 26..38 } else { 0..12 };
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let mixed = bytes.get(range).unwrap_or(bytes).iter().fold(0xcbf2_9ce4_8422_2325 ^ key, step);
    mixed ^ mixed >> 32
}
