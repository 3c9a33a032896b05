//! `syn-ack-bare`: SYN in, cookie SYN-ACK out through a whole shard, against the least that an answer can take: the frame
//! copied in, parsed, the keyed hash, and the reply written into the same frame with both checksums. No port, no link, no
//! deny list, no quota, no counter.

use std::hint::black_box;

use hedgerow_dataplane::frame::{BATCH, Meta};
use hedgerow_dataplane::screen::Master;
use hedgerow_dataplane::screen::cookie::{Choice, Cookies};
use hedgerow_dataplane::wire::{Kind, LinkRules, Mac, Packet, parse_into};

use crate::syn_ack::{Syns, vary};
use crate::world::BOX;
use crate::{Figure, processor_time};

/// Bytes of a frame's buffer, as the ports have them.
const BUFFER: usize = 2_048;
/// The parts of the reply: Ethernet, IPv4, TCP with twenty bytes of options.
const NETWORK: usize = 14;
const TRANSPORT: usize = NETWORK + 20;
const END: usize = TRANSPORT + 40;

/// The figure.
pub struct Bare {
    ours: Syns,
    cookies: Cookies,
    buffers: Vec<[u8; BUFFER]>,
}

impl Bare {
    /// `frames` SYNs a round.
    pub fn new(frames: usize) -> Self {
        let cookies = Cookies::new(Master([7; 32]));
        Bare { ours: Syns::new(frames), cookies, buffers: vec![[0; BUFFER]; BATCH] }
    }
}

impl Figure for Bare {
    fn name(&self) -> &'static str {
        "syn-ack-bare"
    }

    fn unit(&self) -> &'static str {
        "M frames/s"
    }

    fn peer(&self) -> &'static str {
        "parse, hash, two checksums, store"
    }

    fn bar(&self) -> f64 {
        1.0 / 1.5
    }

    fn note(&self) -> String {
        format!("{} SYNs of 74 bytes a round, batches of {BATCH}, source ports vary", self.ours.frames)
    }

    fn ours(&mut self) -> f64 {
        self.ours.round()
    }

    fn theirs(&mut self) -> f64 {
        let rules = LinkRules { mac: Mac(BOX.1), vlan: None, mtu: 1_500, resets: true };
        let (meta, mut packet, mut answered) = (Meta::default(), Packet::default(), 0);
        let start = processor_time();
        for batch in 0..self.ours.frames / BATCH {
            for (n, buffer) in self.buffers.iter_mut().enumerate() {
                buffer[..END].copy_from_slice(&self.ours.syn);
                vary(buffer, batch * BATCH + n);
            }
            for buffer in &mut self.buffers {
                if parse_into(&buffer[..END], &meta, &rules, &mut packet).is_err() || packet.kind != Kind::Tcp
                {
                    continue;
                }
                let irs = packet.segment(&buffer[..END]).seq;
                let choice = Choice { mss: 3, profile: 7 };
                let iss = self.cookies.make(1_800_000_000_000, &packet.key, irs, choice);
                reply(buffer, iss.0, irs.0.wrapping_add(1));
                answered += 1;
            }
            black_box(&mut self.buffers);
        }
        let seconds = (processor_time() - start).as_secs_f64();
        assert_eq!(answered, self.ours.frames / BATCH * BATCH, "every SYN is answered");
        answered as f64 / seconds / 1e6
    }
}

/// Turns a SYN into its SYN-ACK where it stands; its options serve as ours.
fn reply(frame: &mut [u8; BUFFER], seq: u32, ack: u32) {
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&BOX.1);
    let (source, destination): ([u8; 4], [u8; 4]) = (copy(frame, NETWORK + 12), copy(frame, NETWORK + 16));
    frame[NETWORK..NETWORK + 12].copy_from_slice(&[0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame[NETWORK + 12..NETWORK + 16].copy_from_slice(&destination);
    frame[NETWORK + 16..NETWORK + 20].copy_from_slice(&source);
    let header = checksum(&frame[NETWORK..TRANSPORT], 0);
    frame[NETWORK + 10..NETWORK + 12].copy_from_slice(&header);
    let ports: [u8; 4] = copy(frame, TRANSPORT);
    frame[TRANSPORT..TRANSPORT + 4].copy_from_slice(&[ports[2], ports[3], ports[0], ports[1]]);
    frame[TRANSPORT + 4..TRANSPORT + 8].copy_from_slice(&seq.to_be_bytes());
    frame[TRANSPORT + 8..TRANSPORT + 12].copy_from_slice(&ack.to_be_bytes());
    frame[TRANSPORT + 12..TRANSPORT + 20].copy_from_slice(&[0xa0, 0x12, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&frame[NETWORK + 12..TRANSPORT], &[0, 6, 0, 40][..]].map(sum).iter().sum();
    let segment = checksum(&frame[TRANSPORT..END], pseudo);
    frame[TRANSPORT + 16..TRANSPORT + 18].copy_from_slice(&segment);
}

fn copy<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..].first_chunk().copied().unwrap_or([0; N])
}

/// The sum of a header's 32-bit words, of which each half is a term of the checksum (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(4).map(|word| u64::from(u32::from_be_bytes(copy(word, 0)))).sum()
}

fn checksum(bytes: &[u8], before: u64) -> [u8; 2] {
    let sum = sum(bytes) + before;
    let fold = |sum: u64| (sum & 0xffff) + (sum >> 16);
    (!(fold(fold(fold(fold(sum)))) as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::syn_frame;

    /// A figure against wrong replies would be worth nothing.
    #[test]
    fn the_bare_reply_is_a_valid_segment() {
        let mut frame = [0; BUFFER];
        frame[..END].copy_from_slice(&syn_frame());
        reply(&mut frame, 7, 9);
        let rules = LinkRules { mac: Mac(copy(&frame, 0)), vlan: None, mtu: 1_500, resets: true };
        let packet = hedgerow_dataplane::wire::parse(&frame[..END], &Meta::default(), &rules).expect("valid");
        let segment = packet.segment(&frame[..END]);
        assert_eq!((segment.seq.0, segment.ack.0, segment.flags.0), (7, 9, 0x12));
    }
}
