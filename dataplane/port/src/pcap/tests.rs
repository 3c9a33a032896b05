//! Captures read back as they were written.

use super::*;
use crate::memory::{Memory, MemoryConfig};
use std::collections::VecDeque;

/// A frame as a reader of the file sees it: direction, time, bytes, length on the wire.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    way: u32,
    time: u64,
    bytes: Vec<u8>,
    original: usize,
}

/// Reads a recording by the format's rules.
fn read(file: &[u8]) -> Vec<Block> {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().expect("four bytes"));
    let mut blocks = VecDeque::new();
    let mut at = 0;
    while at < file.len() {
        let total = word(at + 4) as usize;
        assert_eq!(total % 4, 0);
        assert_eq!(word(at + total - 4) as usize, total, "the length stands at both ends");
        blocks.push_back((word(at), at, total));
        at += total;
    }
    assert_eq!(at, file.len());
    let (kind, at, _) = blocks.pop_front().expect("a section");
    assert_eq!((kind, word(at + 8)), (0x0a0d_0d0a, 0x1a2b_3c4d));
    let (kind, at, _) = blocks.pop_front().expect("an interface");
    assert_eq!((kind, word(at + 8) & 0xffff, file[at + 20]), (1, 1, 9), "Ethernet, nanoseconds");
    blocks
        .into_iter()
        .map(|(kind, at, total)| {
            assert_eq!(kind, 6);
            let captured = word(at + 20) as usize;
            let options = at + 28 + captured.next_multiple_of(4);
            assert_eq!(word(options), 2 | 4 << 16);
            assert_eq!(options + 16, at + total);
            Block {
                way: word(options + 4),
                time: u64::from(word(at + 12)) << 32 | u64::from(word(at + 16)),
                bytes: file[at + 28..at + 28 + captured].to_vec(),
                original: word(at + 24) as usize,
            }
        })
        .collect()
}

fn clock() -> impl FnMut() -> u64 {
    let mut now = 5_000_000_000_000_000_000;
    move || {
        now += 1;
        now
    }
}

fn world(queue: usize, limits: PcapLimits) -> (Pcap<Memory, Vec<u8>, impl FnMut() -> u64>, Memory) {
    let config = MemoryConfig { queue, ..MemoryConfig::default() };
    let (near, far) = Memory::pair(config.clone(), config);
    (Pcap::new(near, Vec::new(), clock(), limits), far)
}

fn queue<P: Port>(port: &mut P, batch: &mut Batch, bytes: &[u8], meta: Meta) {
    let mut frame = port.allocate().expect("a frame");
    assert!(port.resize(&mut frame, bytes.len()));
    port.bytes_mut(&mut frame).copy_from_slice(bytes);
    batch.push(frame, meta).expect("space");
}

#[test]
fn both_directions_are_recorded_in_order() {
    let (mut port, mut far) = world(100, PcapLimits::default());
    far.send(&[1; 61], Meta::default());
    let mut batch = Batch::new();
    assert_eq!(port.receive(Lane::Stranger, &mut batch).expect("memory never fails"), 1);
    queue(&mut port, &mut batch, &[2; 60], Meta { vlan: Some(0x2007), ..Meta::default() });
    assert_eq!(port.transmit(&mut batch).expect("memory never fails"), 2);
    assert_eq!(far.take(|_, _| ()), 2);
    let (_, file) = port.finish();
    let start = 5_000_000_000_000_000_000;
    let mut tagged = vec![2; 12];
    tagged.extend([0x81, 0, 0x20, 7]);
    tagged.extend([2; 48]);
    let expected = [
        Block { way: 1, time: start + 1, bytes: vec![1; 61], original: 61 },
        Block { way: 2, time: start + 2, bytes: vec![1; 61], original: 61 },
        Block { way: 2, time: start + 3, bytes: tagged, original: 64 },
    ];
    assert_eq!(read(&file.expect("a vector never fails")), expected);
}

#[test]
fn a_frame_that_is_offered_twice_is_recorded_once() {
    let (mut port, mut far) = world(3, PcapLimits::default());
    let mut batch = Batch::new();
    for n in 0..5 {
        queue(&mut port, &mut batch, &[n; 20], Meta::default());
    }
    assert_eq!(port.transmit(&mut batch).expect("memory never fails"), 3);
    assert_eq!(port.transmit(&mut batch).expect("memory never fails"), 0);
    assert_eq!(far.take(|_, _| ()), 3);
    assert_eq!(port.transmit(&mut batch).expect("memory never fails"), 2);
    assert_eq!(far.take(|_, _| ()), 2);
    // The same slots with new frames are recorded again.
    queue(&mut port, &mut batch, &[9; 20], Meta::default());
    assert_eq!(port.transmit(&mut batch).expect("memory never fails"), 1);
    let first: Vec<u8> =
        read(&port.finish().1.expect("a vector never fails")).iter().map(|b| b.bytes[0]).collect();
    assert_eq!(first, [0, 1, 2, 3, 4, 9]);
}

#[test]
fn size_and_frame_length_are_held() {
    let limits = PcapLimits { bytes: 400, frame_bytes: 14 };
    let (mut port, mut far) = world(100, limits);
    for n in 0..20 {
        far.send(&[n; 90], Meta { vlan: Some(1), ..Meta::default() });
    }
    let mut batch = Batch::new();
    assert_eq!(port.receive(Lane::Stranger, &mut batch).expect("memory never fails"), 20);
    let counts = port.counts();
    assert_eq!(counts.recorded + counts.skipped, 20);
    let file = port.finish().1.expect("a vector never fails");
    assert_eq!(counts.bytes, file.len() as u64);
    assert!(file.len() <= 400 && file.len() > 300);
    let blocks = read(&file);
    assert_eq!(blocks.len() as u64, counts.recorded);
    for (n, block) in blocks.iter().enumerate() {
        let n = n as u8;
        assert_eq!(block.bytes, [n, n, n, n, n, n, n, n, n, n, n, n, 0x81, 0]);
        assert_eq!(block.original, 94);
    }
}

/// Takes some bytes, then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_recording_and_nothing_else() {
    let (near, mut far) = Memory::pair(MemoryConfig::default(), MemoryConfig::default());
    let mut port = Pcap::new(near, Full(250), clock(), PcapLimits::default());
    for n in 0..5 {
        far.send(&[n; 60], Meta::default());
    }
    let mut batch = Batch::new();
    assert_eq!(port.receive(Lane::Stranger, &mut batch).expect("frames pass"), 5);
    assert_eq!((port.counts().recorded, port.counts().skipped), (1, 4));
    assert!(port.error().is_some());
    assert!(port.finish().1.is_err());
}
