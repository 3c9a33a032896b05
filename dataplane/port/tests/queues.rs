//! One device, several ports: every frame arrives once, those of a flow at the same port.

mod common;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

use common::*;
use hedgerow_dataplane::frame::{Batch, Lane, Meta, Port};
use hedgerow_dataplane::wire::Mac;
use hedgerow_port::{AfPacket, AfPacketConfig, Problem, Tap, TapConfig};

const FLOWS: u16 = 64;
const ROUNDS: u8 = 5;

fn packet_sockets(count: usize) -> Vec<AfPacket> {
    ip("link add pub0 type veth peer name far0");
    ip("link set pub0 up");
    let config = AfPacketConfig { ring_bytes: 2 << 20, ..AfPacketConfig::new("pub0") };
    let ports = AfPacket::open_queues(&config, count).expect("opens");
    addresses("far0", ports[0].abilities().mac);
    until_up("pub0");
    ports
}

fn tap_queues(count: usize) -> Vec<Tap> {
    let ours = Mac([2, 0, 0, 0, 9, 2]);
    let ports =
        Tap::open_queues(&TapConfig { mac: Some(ours), ..TapConfig::new("tap7") }, count).expect("opens");
    addresses("tap7", ours);
    ports
}

/// A socket for each flow.
fn sockets() -> Vec<UdpSocket> {
    (0..FLOWS).map(|_| UdpSocket::bind((Ipv4Addr::from(KERNEL_IP), 0)).expect("binds")).collect()
}

/// What arrived, by source port: at which ports of ours, and which frames.
type Arrived = BTreeMap<u16, Vec<(usize, Vec<u8>)>>;

/// Receives until `count` UDP datagrams have come; silence before that is a failure.
fn receive<P: Port>(ports: &mut [P], count: usize) -> Arrived {
    let mut arrived = Arrived::new();
    let mut batch = Batch::new();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while arrived.values().map(Vec::len).sum::<usize>() < count {
        assert!(std::time::Instant::now() < until, "silence after {arrived:?}");
        for (index, port) in ports.iter_mut().enumerate() {
            let got = port.receive(Lane::Stranger, &mut batch).expect("receives");
            for (frame, _) in batch.drain(got) {
                let bytes = port.bytes(&frame).to_vec();
                port.release(frame);
                if bytes.len() > 42 && bytes[12..14] == [8, 0] && bytes[23] == 17 {
                    let source = u16::from_be_bytes([bytes[34], bytes[35]]);
                    arrived.entry(source).or_default().push((index, bytes));
                }
            }
        }
    }
    arrived
}

/// Each flow sends some datagrams; all of them must arrive, each once, each flow at one port, and no port without any.
fn flows_stay_together<P: Port>(ports: &mut [P]) {
    let sockets = sockets();
    for round in 0..ROUNDS {
        for socket in &sockets {
            socket.send_to(&[round], (Ipv4Addr::from(OUR_IP), 9)).expect("sends");
        }
    }
    let arrived = receive(ports, usize::from(FLOWS) * usize::from(ROUNDS));
    let mut used = vec![0; ports.len()];
    for (source, frames) in &arrived {
        let at: Vec<usize> = frames.iter().map(|(index, _)| *index).collect();
        assert!(at.iter().all(|index| *index == at[0]), "flow {source} at {at:?}");
        let rounds: Vec<u8> = frames.iter().map(|(_, bytes)| bytes[42]).collect();
        assert_eq!(rounds, (0..ROUNDS).collect::<Vec<_>>(), "flow {source}");
        used[at[0]] += 1;
    }
    assert!(used.iter().all(|&flows| flows > 0), "flows per port: {used:?}");
}

#[test]
fn packet_sockets_share_a_device_by_flow() {
    namespace("packet_sockets_share_a_device_by_flow", || {
        flows_stay_together(&mut packet_sockets(2));
    });
}

#[test]
fn tap_queues_share_a_device_by_flow() {
    tap_namespace("tap_queues_share_a_device_by_flow", || {
        flows_stay_together(&mut tap_queues(4));
    });
}

#[test]
fn what_this_host_sends_reaches_no_packet_socket_of_a_group() {
    namespace("what_this_host_sends_reaches_no_packet_socket_of_a_group", || {
        let mut ports = packet_sockets(2);
        ip("addr add 10.9.1.1/24 dev pub0");
        let far = AfPacket::open(&AfPacketConfig::new("far0")).expect("opens").abilities().mac;
        ip(&format!("neigh replace 10.9.1.2 lladdr {far} dev pub0 nud permanent"));
        let own = UdpSocket::bind("10.9.1.1:0").expect("binds");
        own.send_to(b"from the same host", "10.9.1.2:9").expect("sends");
        sockets()[0].send_to(b"from the far end", (Ipv4Addr::from(OUR_IP), 9)).expect("sends");
        for frames in receive(&mut ports, 1).values() {
            assert!(frames.iter().all(|(_, bytes)| bytes.ends_with(b"from the far end")), "{frames:?}");
        }
    });
}

/// All fragments of a datagram arrive at one port, as they are: nothing is put together, nothing lost.
#[test]
fn fragments_of_a_datagram_come_as_they_are_to_one_packet_socket() {
    namespace("fragments_of_a_datagram_come_as_they_are_to_one_packet_socket", || {
        let mut ports = packet_sockets(2);
        let sockets = sockets();
        for socket in &sockets {
            socket.send_to(&[7; 4_000], (Ipv4Addr::from(OUR_IP), 9)).expect("sends");
        }
        // Three of each datagram; the later ones have no ports, so they are told apart by the datagram's number.
        let arrived = receive(&mut ports, 3 * usize::from(FLOWS));
        let mut datagrams: BTreeMap<[u8; 2], Vec<usize>> = BTreeMap::new();
        for (index, bytes) in arrived.into_values().flatten() {
            datagrams.entry([bytes[18], bytes[19]]).or_default().push(index);
        }
        for (datagram, at) in datagrams {
            assert_eq!(at.len(), 3, "datagram {datagram:?}");
            assert!(at.iter().all(|index| *index == at[0]), "datagram {datagram:?} at {at:?}");
        }
    });
}

/// A reply makes the kernel send what follows to the queue that it came from: so a flow's frames find their shard.
#[test]
fn a_tap_device_learns_where_a_flow_lives() {
    tap_namespace("a_tap_device_learns_where_a_flow_lives", || {
        let mut ports = tap_queues(2);
        let sockets = sockets();
        for socket in &sockets {
            socket.send_to(&[0], (Ipv4Addr::from(OUR_IP), 9)).expect("sends");
        }
        for (index, bytes) in receive(&mut ports, sockets.len()).into_values().flatten() {
            // From the queue at which it did not arrive.
            send(&mut ports[1 - index], &turned(&bytes), Meta::default());
        }
        for socket in &sockets {
            let mut back = [9; 1];
            socket.recv(&mut back).expect("answered");
            socket.send_to(&[1], (Ipv4Addr::from(OUR_IP), 9)).expect("sends");
        }
        let again = receive(&mut ports, sockets.len());
        // What a queue sent is remembered by a hash of the flow; a few may share one.
        let used: Vec<usize> = again.values().flatten().map(|(index, _)| *index).collect();
        assert!(used.contains(&0) && used.contains(&1), "{used:?}");
    });
}

/// The datagram's way back: addresses and ports changed about, checksum left out.
fn turned(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let (to, rest) = bytes.split_at_mut(6);
    to.swap_with_slice(&mut rest[..6]);
    let (source, destination) = bytes[26..34].split_at_mut(4);
    source.swap_with_slice(destination);
    let (source, destination) = bytes[34..38].split_at_mut(2);
    source.swap_with_slice(destination);
    bytes[40..42].copy_from_slice(&[0, 0]);
    bytes
}

#[test]
fn a_tap_device_of_one_queue_is_refused_in_words() {
    tap_namespace("a_tap_device_of_one_queue_is_refused_in_words", || {
        ip("tuntap add tap7 mode tap");
        let error = Tap::open_queues(&TapConfig::new("tap7"), 2).expect_err("refused");
        assert!(matches!(error.problem, Problem::Queues { asked: 2, .. }), "{error}");
        assert!(error.to_string().contains("multi_queue"), "{error}");
        assert_eq!(Tap::open_queues(&TapConfig::new("tap7"), 1).expect("one is there").len(), 1);
    });
}

#[test]
fn one_port_on_a_tap_device_of_several_queues() {
    tap_namespace("one_port_on_a_tap_device_of_several_queues", || {
        ip("tuntap add tap7 mode tap multi_queue");
        Tap::open(&TapConfig::new("tap7")).expect("one of its queues");
        assert_eq!(hedgerow_port::open_queues("tap", "tap7", 3).expect("opens").len(), 3);
    });
}
