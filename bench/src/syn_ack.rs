//! `syn-ack-memory`: SYN in, cookie SYN-ACK out, against smoltcp's answer (a reset: no socket listens) to the same frame.
//!
//! Both are handed the frame as bytes in memory of their own kind: ours in a batch of a pool's frames, smoltcp's in the
//! buffer of its receive token. Copying the frame there is part of both.

use std::hint::black_box;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::{BATCH, Batch, Meta, Pool, Port};
use hedgerow_dataplane::shard::{Accept, Shard};
use hedgerow_port::Memory;

use crate::smol::Host;
use crate::world::{BOX, LINK, PEER, shard, syn_frame, wire};
use crate::{Figure, processor_time};

/// A shard that is sent SYNs.
pub(crate) struct Syns {
    pub(crate) frames: usize,
    pub(crate) syn: Vec<u8>,
    port: Memory,
    shard: Shard,
    now: u64,
}

impl Syns {
    /// `frames` SYNs a round.
    pub(crate) fn new(frames: usize) -> Self {
        let (port, _) = wire();
        let shard = shard(BOX, port.abilities(), Accept::ClientHello);
        Syns { frames, syn: syn_frame(), port, shard, now: 1_000_000 }
    }

    /// SYNs answered, in millions a second.
    pub(crate) fn round(&mut self) -> f64 {
        let (mut rx, mut tx) = (Batch::new(), Batch::new());
        let before = self.shard.statistics().cookies_sent;
        let start = processor_time();
        for batch in 0..self.frames / BATCH {
            for n in 0..BATCH {
                let Some(mut frame) = self.port.allocate() else { break };
                self.port.resize(&mut frame, self.syn.len());
                let bytes = self.port.bytes_mut(&mut frame);
                bytes.copy_from_slice(&self.syn);
                vary(bytes, batch * BATCH + n);
                // The batch is empty and has room for as many.
                let _ = rx.push(frame, Meta::default());
            }
            self.now += 10;
            self.shard.ingest(Instant::from_micros(self.now), LINK, &mut self.port, &mut rx, &mut tx);
            for (frame, _) in tx.drain(BATCH) {
                black_box(self.port.bytes(&frame));
                self.port.release(frame);
            }
        }
        let seconds = (processor_time() - start).as_secs_f64();
        let answered = self.shard.statistics().cookies_sent - before;
        assert_eq!(answered as usize, self.frames / BATCH * BATCH, "every SYN is answered");
        answered as f64 / seconds / 1e6
    }
}

/// The figure.
pub struct SynAck {
    ours: Syns,
    smol: Host,
    now: u64,
}

impl SynAck {
    /// `frames` SYNs a round.
    pub fn new(frames: usize) -> Self {
        let mut smol = Host::new(BOX.1, BOX.0);
        // smoltcp sends its reset to a neighbour that it knows: let it learn the peer's address first.
        smol.device.incoming.push_back(arp_request());
        smol.poll(0);
        smol.device.outgoing.clear();
        SynAck { ours: Syns::new(frames), smol, now: 1_000_000 }
    }
}

/// An ARP request from the peer for the box.
fn arp_request() -> Vec<u8> {
    let mut frame = vec![];
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&PEER.1);
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&PEER.1);
    frame.extend_from_slice(&PEER.0);
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&BOX.0);
    frame
}

impl Figure for SynAck {
    fn name(&self) -> &'static str {
        "syn-ack-memory"
    }

    fn unit(&self) -> &'static str {
        "M frames/s"
    }

    fn peer(&self) -> &'static str {
        "smoltcp, SYN -> RST"
    }

    fn bar(&self) -> f64 {
        2.3
    }

    fn note(&self) -> String {
        format!("{} SYNs of 74 bytes a round, batches of {BATCH}, source ports vary", self.ours.frames)
    }

    fn ours(&mut self) -> f64 {
        self.ours.round()
    }

    fn theirs(&mut self) -> f64 {
        let mut answered = 0;
        let start = processor_time();
        for batch in 0..self.ours.frames / BATCH {
            for n in 0..BATCH {
                let mut frame = self.smol.device.buffer();
                frame.clear();
                frame.extend_from_slice(&self.ours.syn);
                vary(&mut frame, batch * BATCH + n);
                self.smol.device.incoming.push_back(frame);
            }
            self.now += 10;
            self.smol.poll(self.now as i64);
            answered += self.smol.device.outgoing.len();
            while let Some(frame) = self.smol.device.outgoing.pop_front() {
                black_box(&frame);
                self.smol.device.give_back(frame);
            }
        }
        let seconds = (processor_time() - start).as_secs_f64();
        assert_eq!(answered, self.ours.frames / BATCH * BATCH, "smoltcp answers every SYN");
        answered as f64 / seconds / 1e6
    }
}

/// Gives the SYN another source port, and its checksum the same change (RFC 1624).
pub(crate) fn vary(frame: &mut [u8], n: usize) {
    let old = u16::from_be_bytes([frame[34], frame[35]]);
    let new = 1_024 + (n % 60_000) as u16;
    let check = u16::from_be_bytes([frame[50], frame[51]]);
    let sum = u32::from(!check) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[34..36].copy_from_slice(&new.to_be_bytes());
    frame[50..52].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
