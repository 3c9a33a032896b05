//! Which shard holds which flow, for frames that arrive at another: a table of fixed size that all shards share.
//!
//! A shard writes when a flow begins and when it ends, and reads only for a frame that it has no flow for: frames of known
//! flows never touch the table, and no frame writes to it. An entry is one word, 48 bits of a keyed hash and the shard, so
//! nothing is ever half there. Where a bucket is full a flow is not listed: its strays are then refused like any frame
//! without a flow. That befalls one in some thousands where the box is full, and nobody without the key can bring it about.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sip::{Addresses, Sip13, SipKey, addresses};
use crate::wire::FlowKey;

/// Entries of a bucket: a cache line.
const WAYS: usize = 8;
/// The bits of an entry that name the shard, plus one; zero is free.
const SHARD: u64 = 0xffff;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; WAYS]);

/// The table. See the [module](self).
pub(super) struct Directory {
    key: SipKey,
    buckets: Box<[Bucket]>,
}

impl Directory {
    /// Room for `flows` in all shards together: 32 to 64 bytes each.
    pub(super) fn new(flows: usize, key: [u8; 16]) -> Self {
        let buckets = flows.div_ceil(2).max(8).next_power_of_two();
        Directory { key: SipKey::new(key), buckets: (0..buckets).map(|_| Bucket::default()).collect() }
    }

    /// Lists a flow; false where there is no room.
    pub(super) fn insert(&self, flow: &FlowKey, shard: u16) -> bool {
        let (bucket, entry) = self.place(flow, shard);
        // An entry carries its whole meaning, so no other memory has to be seen with it: relaxed throughout.
        bucket
            .0
            .iter()
            .any(|way| way.compare_exchange(0, entry, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }

    /// Strikes a flow of `shard` out.
    pub(super) fn remove(&self, flow: &FlowKey, shard: u16) {
        let (bucket, entry) = self.place(flow, shard);
        let _ = bucket
            .0
            .iter()
            .find(|way| way.compare_exchange(entry, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok());
    }

    /// The shard that holds a flow, where one is listed.
    pub(super) fn find(&self, flow: &FlowKey) -> Option<u16> {
        let (bucket, entry) = self.place(flow, 0);
        let entries = bucket.0.iter().map(|way| way.load(Ordering::Relaxed));
        entries
            .filter(|found| found & !SHARD == entry & !SHARD)
            .find_map(|found| u16::try_from((found & SHARD).checked_sub(1)?).ok())
    }

    fn place(&self, flow: &FlowKey, shard: u16) -> (&Bucket, u64) {
        let ports = u64::from(flow.remote_port) << 16 | u64::from(flow.local_port);
        let sip = Sip13::new(&self.key);
        let hash = match addresses(flow) {
            Addresses::V4(word) => sip.word(word).finish(12, ports),
            Addresses::V6(words) => words.iter().fold(sip, |sip, &word| sip.word(word)).finish(36, ports),
        };
        let bucket = &self.buckets[hash as usize & (self.buckets.len() - 1)];
        (bucket, hash & !SHARD | (u64::from(shard) + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Address;

    fn flow(remote: u32) -> FlowKey {
        FlowKey {
            local: Address::from_v4([192, 0, 2, 1]),
            remote: Address::from_v4((0x0a00_0000 + remote).to_be_bytes()),
            local_port: 8444,
            remote_port: 40_000,
        }
    }

    #[test]
    fn a_flow_is_found_from_its_beginning_to_its_end() {
        let directory = Directory::new(1_000, [7; 16]);
        for n in 0..1_000 {
            assert!(directory.insert(&flow(n), (n % 64) as u16));
        }
        assert!((0..1_000).all(|n| directory.find(&flow(n)) == Some((n % 64) as u16)));
        assert!((1_000..100_000).all(|n| directory.find(&flow(n)).is_none()));
        for n in 0..1_000 {
            directory.remove(&flow(n), 65);
            assert!(directory.find(&flow(n)).is_some(), "another shard's is left alone");
            directory.remove(&flow(n), (n % 64) as u16);
            assert_eq!(directory.find(&flow(n)), None);
        }
    }

    #[test]
    fn a_full_box_lists_nearly_all_and_a_fuller_one_does_not_grow() {
        let directory = Directory::new(10_000, [7; 16]);
        let listed = |range: core::ops::Range<u32>| range.filter(|&n| directory.insert(&flow(n), 1)).count();
        assert!(listed(0..10_000) >= 9_990);
        assert!(listed(10_000..200_000) < directory.buckets.len() * WAYS);
        assert!((0..9_000).filter(|&n| directory.find(&flow(n)) == Some(1)).count() >= 8_990);
    }
}
