//! Ports take their memory when they open: frames that pass allocate nothing.

mod common;

use common::{namespace, until_up};
use hedgerow_dataplane::frame::{BATCH, Batch, Lane, Meta, Port};
use hedgerow_port::{AfPacket, AfPacketConfig, Faults, Faulty, Memory, MemoryConfig, Pcap, PcapLimits};

/// Sends batches from `one` to `other` and echoes them in place; says how many came back.
fn echo(one: &mut dyn Port, other: &mut dyn Port, batch: &mut Batch, rounds: usize) -> u64 {
    let mut back = 0;
    for _ in 0..rounds {
        while batch.space() > 0 {
            let Some(mut frame) = one.allocate() else { break };
            one.resize(&mut frame, 200);
            // A local experimental EtherType, which no stack answers.
            one.bytes_mut(&mut frame)[..14]
                .copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5]);
            batch.push(frame, Meta::default()).expect("space");
        }
        one.transmit(batch).expect("sends");
        one.flush().expect("flushes");
        discard(one, batch);
        other.receive(Lane::Stranger, batch).expect("receives");
        other.transmit(batch).expect("sends");
        other.flush().expect("flushes");
        discard(other, batch);
        back += one.receive(Lane::Stranger, batch).expect("receives") as u64;
        discard(one, batch);
    }
    back
}

fn discard(port: &mut dyn Port, batch: &mut Batch) {
    for (frame, _) in batch.drain(BATCH) {
        port.release(frame);
    }
}

#[test]
fn frames_allocate_nothing() {
    namespace("frames_allocate_nothing", || {
        let mut batch = Batch::new();
        let (near, mut far) = Memory::pair(MemoryConfig::default(), MemoryConfig::default());
        let faults = Faults {
            loss: 10_000,
            duplicate: 10_000,
            reorder: 10_000,
            reorder_polls: 3,
            delay_polls: 1,
            corrupt: 10_000,
        };
        let recorded = Pcap::new(near, std::io::sink(), || 0, PcapLimits::default());
        let mut near = Faulty::new(recorded, faults, faults, 1);
        let taken =
            allocation_counter::measure(|| assert!(echo(&mut near, &mut far, &mut batch, 300) > 10_000));
        assert_eq!(taken.count_total, 0, "memory, recorder and faults");

        common::ip("link add pub0 type veth peer name far0");
        common::ip("link set pub0 up");
        common::ip("link set far0 up");
        until_up("pub0");
        until_up("far0");
        let mut near = AfPacket::open(&AfPacketConfig::new("pub0")).expect("opens");
        let mut far = AfPacket::open(&AfPacketConfig::new("far0")).expect("opens");
        let taken =
            allocation_counter::measure(|| assert!(echo(&mut near, &mut far, &mut batch, 300) > 1_000));
        assert_eq!(taken.count_total, 0, "packet sockets");
    });
}
