//! Source ports for connections that we open: hard to guess (RFC 6056, algorithm 4), and their low bits name the shard,
//! so that an answer finds the core that asked.

use siphasher::sip::SipHasher24;

use crate::wire::FlowKey;

/// A shard's place among `1 << bits` shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ShardIndex {
    /// The shard.
    pub index: u16,
    /// How many low bits of a source port name it; at most 8.
    pub bits: u8,
}

impl ShardIndex {
    /// Shard `index` of `shards`, at most 256.
    pub fn of(index: u16, shards: u16) -> Self {
        ShardIndex { index, bits: (shards.max(1).next_power_of_two().trailing_zeros() as u8).min(8) }
    }
}

/// First source port.
const FIRST: u16 = 1_024;
/// Counters of algorithm 4; each serves the destinations that hash to it.
const COUNTERS: usize = 256;
/// Ports tried before a destination counts as used up.
const TRIES: u32 = 4_096;

/// Chooses source ports. RFC 6056, section 3.3.4: a keyed offset per destination, and a table of counters.
#[derive(Debug)]
pub(super) struct PortChooser {
    index: ShardIndex,
    hash: SipHasher24,
    counters: Box<[u32; COUNTERS]>,
}

impl PortChooser {
    pub(super) fn new(index: ShardIndex, seed: [u8; 16]) -> Self {
        let index = ShardIndex { bits: index.bits.min(8), ..index };
        PortChooser { index, hash: SipHasher24::new_with_key(&seed), counters: Box::new([0; COUNTERS]) }
    }

    /// Whether a port's low bits name this shard.
    pub(super) fn is_own(&self, port: u16) -> bool {
        port & ((1 << self.index.bits) - 1) == self.index.index & ((1 << self.index.bits) - 1)
    }

    /// A port for which `free` holds, and `reserved` does not; `key.local_port` is ignored. `None` after as many tries as are
    /// sensible.
    pub(super) fn choose(
        &mut self,
        key: &FlowKey,
        reserved: impl Fn(u16) -> bool,
        free: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let bits = self.index.bits;
        let places = u32::from(u16::MAX - FIRST + 1) >> bits;
        let hash = self.destination(key);
        let offset = (hash >> 32) as u32;
        let counter = self.counters.get_mut(hash as usize % COUNTERS)?;
        let mut tries = TRIES;
        for _ in 0..places {
            *counter = counter.wrapping_add(1);
            let place = offset.wrapping_add(*counter) % places;
            let port = ((place << bits) as u16 + FIRST) | (self.index.index & ((1 << bits) - 1));
            if reserved(port) {
                continue;
            }
            if free(port) {
                return Some(port);
            }
            tries -= 1;
            if tries == 0 {
                break;
            }
        }
        None
    }

    fn destination(&self, key: &FlowKey) -> u64 {
        let mut bytes = [0; 34];
        bytes[..16].copy_from_slice(&key.local.octets());
        bytes[16..32].copy_from_slice(&key.remote.octets());
        bytes[32..].copy_from_slice(&key.remote_port.to_be_bytes());
        self.hash.hash(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Address;

    fn key(last: u8) -> FlowKey {
        FlowKey {
            local: Address::from_v4([10, 0, 1, 1]),
            remote: Address::from_v4([10, 0, 1, last]),
            local_port: 0,
            remote_port: 8444,
        }
    }

    #[test]
    fn low_bits_name_the_shard_and_no_port_is_privileged() {
        let mut ports = PortChooser::new(ShardIndex { index: 5, bits: 3 }, [7; 16]);
        for n in 0..=255 {
            let port = ports.choose(&key(n), |_| false, |_| true).expect("all are free");
            assert_eq!(port & 7, 5);
            assert!(port >= FIRST && ports.is_own(port) && !ports.is_own(port ^ 1));
        }
    }

    #[test]
    fn shards_have_bits_enough_and_a_lone_one_has_all_ports() {
        let bits = |shards| ShardIndex::of(0, shards).bits;
        assert_eq!([1, 2, 3, 4, 5, 64, 256].map(bits), [0, 1, 2, 2, 3, 6, 8]);
        assert!((1..=u16::MAX).all(|port| PortChooser::new(ShardIndex::of(0, 1), [0; 16]).is_own(port)));
    }

    #[test]
    fn taken_ports_are_passed_over_and_exhaustion_is_told() {
        let mut ports = PortChooser::new(ShardIndex::default(), [7; 16]);
        let first = ports.choose(&key(1), |_| false, |_| true).expect("all are free");
        let mut again = PortChooser::new(ShardIndex::default(), [7; 16]);
        assert_ne!(again.choose(&key(1), |_| false, |port| port != first), Some(first));
        assert_eq!(again.choose(&key(1), |_| false, |_| false), None);
    }

    #[test]
    fn successive_ports_differ() {
        let mut ports = PortChooser::new(ShardIndex::default(), [7; 16]);
        let chosen: std::collections::BTreeSet<_> =
            (0..500).filter_map(|_| ports.choose(&key(1), |_| false, |_| true)).collect();
        assert_eq!(chosen.len(), 500);
    }
}
