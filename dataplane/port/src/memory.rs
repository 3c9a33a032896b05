//! A port whose other end is another memory port: for benches, simulations and the lab.
//!
//! Frames pass from one end's pool to the other's by exchanging buffers, so that nothing is copied or allocated per
//! frame, and in an order that depends on the calls alone. A full wire takes no more: [`Port::transmit`] leaves the rest
//! with the caller, and [`Memory::send`] counts a loss.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hedgerow_dataplane::frame::{Abilities, Batch, Frame, Lane, Meta, Pool, Port, PortError, PortStatistics};
use hedgerow_dataplane::wire::Mac;

use crate::pool::HeapPool;

/// One end of a pair.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// The end's Ethernet address.
    pub mac: Mac,
    /// Largest IP packet.
    pub mtu: u16,
    /// Frames in the end's pool.
    pub frames: usize,
    /// Frames that may be on the way to this end.
    pub queue: usize,
    /// Whether frames with partial checksums may be sent; the other end receives them as such.
    pub checksum: bool,
    /// Largest TCP payload of a super-frame that may be sent, in bytes; the other end receives it whole. Zero: none.
    pub segmentation: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        MemoryConfig {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            frames: 1024,
            queue: 512,
            checksum: false,
            segmentation: 0,
        }
    }
}

impl MemoryConfig {
    fn frame_bytes(&self) -> usize {
        crate::frame_bytes(self.mtu, self.segmentation)
    }
}

/// A frame between two pools.
struct Passing {
    buffer: Box<[u8]>,
    head: u32,
    len: u32,
    meta: Meta,
}

/// One direction. A frame on the way holds a buffer that was spare before: the spares bound the queue.
struct Wire {
    queue: VecDeque<Passing>,
    spare: Vec<Box<[u8]>>,
}

impl Wire {
    fn new(queue: usize, frame_bytes: usize) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Wire {
            queue: VecDeque::with_capacity(queue),
            spare: (0..queue).map(|_| vec![0; frame_bytes].into_boxed_slice()).collect(),
        }))
    }
}

fn lock(wire: &Mutex<Wire>) -> MutexGuard<'_, Wire> {
    // A panic elsewhere leaves buffers and queue in order: each step moves one whole frame.
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One end of a pair. All its frames come in [`Lane::Stranger`].
pub struct Memory {
    abilities: Abilities,
    pool: HeapPool,
    incoming: Arc<Mutex<Wire>>,
    outgoing: Arc<Mutex<Wire>>,
    statistics: PortStatistics,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("abilities", &self.abilities).finish_non_exhaustive()
    }
}

impl Memory {
    /// Two connected ends.
    pub fn pair(one: MemoryConfig, other: MemoryConfig) -> (Memory, Memory) {
        let frame_bytes = one.frame_bytes().max(other.frame_bytes());
        let to_one = Wire::new(one.queue, frame_bytes);
        let to_other = Wire::new(other.queue, frame_bytes);
        let a = Memory::end(one, frame_bytes, to_one.clone(), to_other.clone());
        (a, Memory::end(other, frame_bytes, to_other, to_one))
    }

    fn end(
        config: MemoryConfig,
        bytes: usize,
        incoming: Arc<Mutex<Wire>>,
        outgoing: Arc<Mutex<Wire>>,
    ) -> Self {
        Memory {
            pool: HeapPool::new(config.frames, bytes, 0),
            abilities: Abilities {
                mac: config.mac,
                mtu: config.mtu,
                frame_bytes: bytes,
                frames: config.frames,
                checksum: config.checksum,
                segmentation: config.segmentation,
                vlan: true,
                lanes: false,
                mode: "memory".into(),
            },
            incoming,
            outgoing,
            statistics: PortStatistics::default(),
        }
    }

    /// Sends a copy of `bytes` to the other end; false, and counted as lost, where the wire or the pool is full or the
    /// frame too large.
    pub fn send(&mut self, bytes: &[u8], meta: Meta) -> bool {
        let mut wire = lock(&self.outgoing);
        let Some(mut buffer) =
            (bytes.len() <= self.abilities.frame_bytes).then(|| wire.spare.pop()).flatten()
        else {
            self.statistics.lost_transmit += 1;
            return false;
        };
        buffer[..bytes.len()].copy_from_slice(bytes);
        wire.queue.push_back(Passing { buffer, head: 0, len: bytes.len() as u32, meta });
        self.statistics.transmitted += 1;
        true
    }

    /// Shows every waiting frame to `sink` and drops it; says how many.
    pub fn take(&mut self, mut sink: impl FnMut(&[u8], Meta)) -> usize {
        let mut taken = 0;
        // Not in `while let`: the lock must not be held while the sink runs.
        loop {
            let passing = lock(&self.incoming).queue.pop_front();
            let Some(Passing { buffer, head, len, meta }) = passing else { break };
            sink(&buffer[head as usize..][..len as usize], meta);
            lock(&self.incoming).spare.push(buffer);
            taken += 1;
        }
        self.statistics.received += taken as u64;
        taken
    }

    /// Frames on the way to this end.
    pub fn waiting(&self) -> usize {
        lock(&self.incoming).queue.len()
    }

    fn pull(&mut self, into: &mut Batch) -> usize {
        let mut wire = lock(&self.incoming);
        let count = into.space().min(wire.queue.len()).min(self.pool.free());
        for _ in 0..count {
            let (Some(empty), Some(passing)) = (self.pool.allocate(), wire.queue.pop_front()) else { break };
            let frame = Frame::new(empty.slot(), passing.head, passing.len);
            wire.spare.push(self.pool.exchange(&frame, passing.buffer));
            if let Err(frame) = into.push(frame, passing.meta) {
                self.pool.release(frame);
            }
        }
        self.statistics.received += count as u64;
        count
    }
}

impl Pool for Memory {
    fn allocate(&mut self) -> Option<Frame> {
        self.pool.allocate()
    }

    fn release(&mut self, frame: Frame) {
        self.pool.release(frame);
    }

    fn bytes(&self, frame: &Frame) -> &[u8] {
        self.pool.bytes(frame)
    }

    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        self.pool.bytes_mut(frame)
    }

    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        self.pool.resize(frame, len)
    }
}

impl Port for Memory {
    fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    fn receive(&mut self, lane: Lane, into: &mut Batch) -> Result<usize, PortError> {
        match lane {
            Lane::Known => Ok(0),
            Lane::Stranger => Ok(self.pull(into)),
        }
    }

    fn transmit(&mut self, from: &mut Batch) -> Result<usize, PortError> {
        let mut wire = lock(&self.outgoing);
        let mut sent = 0;
        let count = from.len().min(wire.spare.len());
        for (frame, meta) in from.drain(count) {
            if let Some(spare) = wire.spare.pop() {
                let (head, len) = (frame.head(), frame.len() as u32);
                let buffer = self.pool.exchange(&frame, spare);
                wire.queue.push_back(Passing { buffer, head, len, meta });
                sent += 1;
            }
            self.pool.release(frame);
        }
        self.statistics.transmitted += sent as u64;
        Ok(sent)
    }

    fn flush(&mut self) -> Result<(), PortError> {
        Ok(())
    }

    fn park(&mut self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn statistics(&self) -> PortStatistics {
        self.statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hedgerow_dataplane::frame::{BATCH, Checksum};

    fn pair(queue: usize) -> (Memory, Memory) {
        let config = MemoryConfig { frames: 100, queue, ..MemoryConfig::default() };
        Memory::pair(config.clone(), config)
    }

    fn frame(port: &mut Memory, bytes: &[u8]) -> Frame {
        let mut frame = port.allocate().expect("a frame");
        assert!(port.resize(&mut frame, bytes.len()));
        port.bytes_mut(&mut frame).copy_from_slice(bytes);
        frame
    }

    #[test]
    fn frames_arrive_whole_in_order_and_with_their_meta() {
        let (mut a, mut b) = pair(512);
        let meta =
            Meta { checksum: Checksum::Partial { start: 34, offset: 16 }, vlan: Some(7), segment: 1448 };
        let mut batch = Batch::new();
        for n in 0..BATCH as u8 {
            batch.push(frame(&mut a, &[n; 60]), meta).expect("space");
        }
        assert_eq!(a.transmit(&mut batch).expect("memory never fails"), BATCH);
        assert!(batch.is_empty());
        let mut seen = 0;
        b.take(|bytes, got| {
            assert_eq!((bytes, got), (&[seen; 60][..], meta));
            seen += 1;
        });
        assert_eq!(usize::from(seen), BATCH);
    }

    #[test]
    fn a_full_wire_leaves_the_rest_with_the_sender() {
        let (mut a, mut b) = pair(10);
        let mut batch = Batch::new();
        for n in 0..15 {
            batch.push(frame(&mut a, &[n; 20]), Meta::default()).expect("space");
        }
        assert_eq!(a.transmit(&mut batch).expect("memory never fails"), 10);
        assert_eq!(batch.len(), 5);
        assert!(!a.send(&[1; 20], Meta::default()));
        assert_eq!(a.statistics().lost_transmit, 1);
        assert_eq!(b.take(|_, _| ()), 10);
        assert_eq!(a.transmit(&mut batch).expect("memory never fails"), 5);
        let mut first = None;
        b.take(|bytes, _| first = first.or(Some(bytes[0])));
        assert_eq!(first, Some(10), "the prefix went first");
    }

    #[test]
    fn every_frame_returns_to_its_pool() {
        let (mut a, mut b) = pair(512);
        for round in 0..50 {
            let mut batch = Batch::new();
            for _ in 0..BATCH {
                batch.push(frame(&mut a, &[round; 99]), Meta::default()).expect("space");
            }
            a.transmit(&mut batch).expect("memory never fails");
            let mut received = Batch::new();
            b.receive(Lane::Stranger, &mut received).expect("memory never fails");
            // Answered in the frame that asked.
            assert_eq!(b.transmit(&mut received).expect("memory never fails"), BATCH);
            assert_eq!(a.take(|bytes, _| assert_eq!(bytes, [round; 99])), BATCH);
        }
        assert_eq!((a.pool.free(), b.pool.free()), (100, 100));
        assert_eq!(lock(&a.outgoing).spare.len(), 512);
    }

    #[test]
    fn an_exhausted_pool_receives_no_more_than_it_has() {
        let (mut a, mut b) = pair(512);
        let held: Vec<Frame> = std::iter::from_fn(|| b.allocate()).take(97).collect();
        for n in 0..5 {
            assert!(a.send(&[n], Meta::default()));
        }
        let mut batch = Batch::new();
        assert_eq!(b.receive(Lane::Stranger, &mut batch).expect("memory never fails"), 3);
        assert_eq!(b.waiting(), 2);
        for frame in held {
            b.release(frame);
        }
        assert_eq!(b.receive(Lane::Stranger, &mut batch).expect("memory never fails"), 2);
        for (n, (frame, _)) in batch.drain(5).enumerate() {
            assert_eq!(b.bytes(&frame), [n as u8]);
            b.release(frame);
        }
    }

    #[test]
    fn sizes_are_held() {
        let (mut a, _b) = pair(4);
        let mut frame = a.allocate().expect("a frame");
        let room = a.abilities().frame_bytes;
        assert!(room >= 1500 + 18);
        assert!(a.resize(&mut frame, room));
        assert!(!a.resize(&mut frame, room + 1));
        assert_eq!(a.bytes(&frame).len(), room);
        a.release(frame);
        assert!(!a.send(&vec![0; room + 1], Meta::default()));
    }
}
