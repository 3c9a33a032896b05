//! AF_PACKET and TAP against the kernel's own stack, in private network namespaces.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;

use common::*;
use hedgerow_dataplane::frame::{Batch, Checksum, Lane, Meta, Pool, Port};
use hedgerow_dataplane::wire::Mac;
use hedgerow_port::{AfPacket, AfPacketConfig, OpenError, Problem, Tap, TapConfig};

/// A veth pair: the port on `pub0`, the kernel's addresses on `far0`.
fn veth(large_slots: bool) -> (AfPacket, Mac) {
    ip("link add pub0 type veth peer name far0");
    ip("link set pub0 up");
    let far = AfPacket::open(&AfPacketConfig::new("far0")).expect("opens").abilities().mac;
    let config = AfPacketConfig { large_slots, ring_bytes: 2 << 20, ..AfPacketConfig::new("pub0") };
    let port = AfPacket::open(&config).expect("opens");
    addresses("far0", port.abilities().mac);
    until_up("pub0");
    (port, far)
}

/// A TAP device with the kernel's addresses.
fn tap() -> (Tap, Mac) {
    let ours = Mac([2, 0, 0, 0, 9, 2]);
    let port = Tap::open(&TapConfig { mac: Some(ours), ..TapConfig::new("tap7") }).expect("opens");
    assert_eq!(port.abilities().mac, ours);
    let kernel = Mac([2, 0, 0, 0, 9, 1]);
    ip(&format!("link set tap7 address {kernel}"));
    addresses("tap7", ours);
    (port, kernel)
}

/// The kernel has accepted a connection from `local` over the port.
struct Connection {
    stream: TcpStream,
    segment: Tcp,
    kernel_port: u16,
}

/// Connects to a listener of the kernel by hand: SYN with a partial checksum, SYN-ACK checked, ACK complete.
fn connect(wire: &mut Wire<'_>, kernel: Mac, mss: u16) -> Connection {
    let listener = TcpListener::bind((std::net::Ipv4Addr::from(KERNEL_IP), 0)).expect("listens");
    let kernel_port = listener.local_addr().expect("bound").port();
    let [mss_high, mss_low] = mss.to_be_bytes();
    let mut segment = Tcp {
        to: kernel,
        from: wire.port.abilities().mac,
        source: 40_000,
        destination: kernel_port,
        seq: 1_000_000,
        ack: 0,
        flags: SYN,
        // MSS, window scale 8.
        options: vec![2, 4, mss_high, mss_low, 1, 3, 3, 8],
    };
    let (bytes, checksum) = segment.partial(&[]);
    wire.send(&bytes, Meta { checksum, ..Meta::default() });
    let answer = wire.wait_for(|seen| tcp_from(seen, kernel_port));
    assert_eq!(answer.bytes[47] & (SYN | ACK), SYN | ACK);
    segment.seq += 1;
    segment.ack = seq(&answer.bytes).wrapping_add(1);
    segment.flags = ACK;
    segment.options.clear();
    wire.send(&segment.complete(&[]), Meta::default());
    let (stream, _) = listener.accept().expect("connected");
    Connection { stream, segment, kernel_port }
}

/// The kernel sends, and the port must see super-frames whose bytes are the stream's.
fn super_frames_in(port: &mut dyn Port, kernel: Mac) {
    let mut wire = Wire::new(port);
    let Connection { mut stream, mut segment, kernel_port } = connect(&mut wire, kernel, 1400);
    let data: Vec<u8> = (0..600_000u32).map(|n| (n / 3) as u8).collect();
    let expected = data.clone();
    let writer = thread::spawn(move || {
        stream.write_all(&data).expect("writes");
        stream
    });
    let first = segment.ack;
    let mut received: Vec<u8> = Vec::new();
    let (mut largest, mut partial) = (0, 0);
    while received.len() < expected.len() {
        let seen = wire.wait_for(|seen| tcp_from(seen, kernel_port) && !payload(&seen.bytes).is_empty());
        let body = payload(&seen.bytes);
        let at = seq(&seen.bytes).wrapping_sub(first) as usize;
        assert!(at <= received.len(), "the kernel sends in order and nothing was lost");
        if body.len() > 1400 {
            assert_eq!(seen.meta.segment, 1400, "a super-frame says how it is to be cut");
            largest = largest.max(body.len());
        }
        if seen.meta.checksum == (Checksum::Partial { start: 34, offset: 16 }) {
            partial += 1;
            let ip_payload = seen.bytes.len() - 34;
            assert_eq!(seen.bytes[50..52], pseudo(KERNEL_IP, OUR_IP, ip_payload).to_be_bytes());
        }
        received.truncate(at);
        received.extend(body);
        segment.ack = first.wrapping_add(received.len() as u32);
        wire.send(&segment.complete(&[]), Meta::default());
    }
    assert!(received == expected, "the bytes of the stream");
    assert!(largest > 20_000, "no large super-frame among them: {largest}");
    assert!(partial > 0, "no partial checksum among them");
    writer.join().expect("wrote");
}

/// The port sends super-frames, tagged or not, and a socket of the kernel must read their bytes.
fn super_frames_out(port: &mut dyn Port, kernel: Mac) {
    let mut wire = Wire::new(port);
    let Connection { mut stream, mut segment, kernel_port } = connect(&mut wire, kernel, 1400);
    let data: Vec<u8> = (0..300_000u32).map(|n| (n / 7) as u8).collect();
    for piece in data.chunks(30_000) {
        let (bytes, checksum) = segment.partial(piece);
        wire.send(&bytes, Meta { checksum, segment: 1400, vlan: None });
        segment.seq = segment.seq.wrapping_add(piece.len() as u32);
        // The window is wider than a piece, and the kernel says when it has it.
        wire.wait_for(|seen| tcp_from(seen, kernel_port) && seen.bytes[42..46] == segment.seq.to_be_bytes());
        let mut read = vec![0; piece.len()];
        stream.read_exact(&mut read).expect("reads");
        assert!(read == piece, "the bytes of the stream");
    }
}

#[test]
fn packet_socket_receives_super_frames() {
    namespace("packet_socket_receives_super_frames", || {
        let (mut port, kernel) = veth(false);
        super_frames_in(&mut port, kernel);
        let statistics = port.statistics();
        assert_eq!((statistics.lost_ring, statistics.lost_before, statistics.malformed), (0, 0, 0));
    });
}

#[test]
fn packet_socket_with_large_slots_receives_super_frames() {
    namespace("packet_socket_with_large_slots_receives_super_frames", || {
        let (mut port, kernel) = veth(true);
        assert!(port.abilities().mode.contains("large"));
        super_frames_in(&mut port, kernel);
    });
}

#[test]
fn packet_socket_sends_super_frames() {
    namespace("packet_socket_sends_super_frames", || {
        let (mut port, kernel) = veth(false);
        super_frames_out(&mut port, kernel);
    });
}

#[test]
fn tap_receives_super_frames() {
    tap_namespace("tap_receives_super_frames", || {
        let (mut port, kernel) = tap();
        super_frames_in(&mut port, kernel);
    });
}

#[test]
fn tap_sends_super_frames() {
    tap_namespace("tap_sends_super_frames", || {
        let (mut port, kernel) = tap();
        super_frames_out(&mut port, kernel);
    });
}

/// Tagged frames from `one` to `other`: a plain one, and a super-frame that may arrive whole or cut. Returns the plain one
/// as it arrived.
fn tagged(one: &mut dyn Port, other: &mut dyn Port) -> Seen {
    let segment = Tcp {
        to: other.abilities().mac,
        from: one.abilities().mac,
        source: 7,
        destination: 8,
        seq: 0,
        ack: 0,
        flags: ACK,
        options: Vec::new(),
    };
    let mut other = Wire::new(other);
    let tag = Some(0x6005);
    send(one, &segment.complete(b"a plain one"), Meta { vlan: tag, ..Meta::default() });
    let plain = other.wait_for(|seen| tcp_from(&untagged(seen), 7));
    assert_eq!(untagged(&plain).bytes, segment.complete(b"a plain one"));

    let data: Vec<u8> = (0..20_000u32).map(|n| (n / 11) as u8).collect();
    let (bytes, checksum) = segment.partial(&data);
    send(one, &bytes, Meta { checksum, segment: 1400, vlan: tag });
    let mut received = vec![0; data.len()];
    let mut missing = data.len();
    while missing > 0 {
        let seen = untagged(&other.wait_for(|seen| tcp_from(&untagged(seen), 7)));
        let (at, body) = (seq(&seen.bytes) as usize, payload(&seen.bytes));
        received[at..at + body.len()].copy_from_slice(body);
        missing -= body.len();
    }
    assert!(received == data, "the bytes of the super-frame");
    plain
}

/// Without the tag that TAP leaves within the bytes.
fn untagged(seen: &Seen) -> Seen {
    let mut bytes = seen.bytes.clone();
    if bytes.len() > 16 && bytes[12..14] == [0x81, 0] {
        bytes.drain(12..16);
    }
    Seen { bytes, meta: seen.meta }
}

#[test]
fn packet_socket_carries_tags() {
    namespace("packet_socket_carries_tags", || {
        let (mut port, _) = veth(false);
        let mut far = AfPacket::open(&AfPacketConfig::new("far0")).expect("opens");
        let seen = tagged(&mut far, &mut port);
        assert_eq!(seen.meta.vlan, Some(0x6005));
        assert_eq!(seen.bytes[12..14], [8, 0]);
    });
}

#[test]
fn tap_carries_tags() {
    tap_namespace("tap_carries_tags", || {
        let (mut port, _) = tap();
        let mut kernel = AfPacket::open(&AfPacketConfig::new("tap7")).expect("opens");
        let seen = tagged(&mut port, &mut kernel);
        assert_eq!(seen.meta.vlan, Some(0x6005));
        let seen = tagged(&mut kernel, &mut port);
        assert_eq!(seen.bytes[12..18], [0x81, 0, 0x60, 5, 8, 0]);
    });
}

/// A super-frame of TCP over IPv6 with an incomplete checksum, from `one` to `other`, which must see the same.
fn super_frame_v6(one: &mut dyn Port, other: &mut dyn Port) {
    let tcp_len: u16 = 20 + 30_000;
    let mut bytes = Vec::new();
    bytes.extend(other.abilities().mac.0);
    bytes.extend(one.abilities().mac.0);
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    bytes.extend(tcp_len.to_be_bytes());
    bytes.extend([6, 64]);
    for host in [2, 1] {
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, host]);
    }
    let pseudo = sum(6 + u32::from(tcp_len), &bytes[22..54]);
    bytes.extend([0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 5 << 4, ACK, 0xff, 0xff]);
    bytes.extend(pseudo.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend((0..30_000u32).map(|n| (n / 13) as u8));
    let meta = Meta { checksum: Checksum::Partial { start: 54, offset: 16 }, segment: 1400, vlan: None };
    send(one, &bytes, meta);
    let seen = Wire::new(other).wait_for(|seen| seen.bytes.get(54..58) == Some(&[0, 7, 0, 8]));
    assert_eq!(seen.meta, meta);
    assert!(seen.bytes == bytes);
}

#[test]
fn super_frames_of_ipv6_pass_whole() {
    namespace("super_frames_of_ipv6_pass_whole", || {
        let (mut port, _) = veth(false);
        let mut far = AfPacket::open(&AfPacketConfig::new("far0")).expect("opens");
        super_frame_v6(&mut far, &mut port);
        super_frame_v6(&mut port, &mut far);
    });
}

#[test]
fn super_frames_of_ipv6_pass_a_tap_device() {
    tap_namespace("super_frames_of_ipv6_pass_a_tap_device", || {
        let (mut port, _) = tap();
        let mut kernel = AfPacket::open(&AfPacketConfig::new("tap7")).expect("opens");
        super_frame_v6(&mut kernel, &mut port);
        super_frame_v6(&mut port, &mut kernel);
    });
}

#[test]
fn an_answer_goes_out_of_the_slot_of_its_question() {
    namespace("an_answer_goes_out_of_the_slot_of_its_question", || {
        let (mut port, _) = veth(false);
        let socket = UdpSocket::bind((std::net::Ipv4Addr::from(KERNEL_IP), 5000)).expect("binds");
        // More often than there are slots, so each slot has come back many times.
        let rounds = 3_000u32;
        for round in 0..rounds {
            socket.send_to(&round.to_be_bytes(), (std::net::Ipv4Addr::from(OUR_IP), 5000)).expect("sends");
            let mut batch = Batch::new();
            while batch.is_empty() {
                wait(&mut port);
                port.receive(Lane::Stranger, &mut batch).expect("receives");
                batch = only_udp(&mut port, batch);
            }
            for (frame, meta) in batch.as_mut_slice() {
                let bytes = port.bytes_mut(frame);
                let (to, rest) = bytes.split_at_mut(6);
                to.swap_with_slice(&mut rest[..6]);
                let (source, destination) = bytes[26..34].split_at_mut(4);
                source.swap_with_slice(destination);
                // Neither the sum of the addresses nor the equal ports changed.
                assert!(matches!(meta.checksum, Checksum::Partial { .. } | Checksum::Unverified));
            }
            assert_eq!(port.transmit(&mut batch).expect("sends"), 1);
            let mut back = [0; 4];
            assert_eq!(socket.recv(&mut back).expect("echoed"), 4);
            assert_eq!(u32::from_be_bytes(back), round);
        }
        assert!(port.statistics().received >= u64::from(rounds));
    });
}

/// Drops what the kernel says beside the test's own traffic.
fn only_udp(port: &mut AfPacket, mut batch: Batch) -> Batch {
    let mut kept = Batch::new();
    let count = batch.len();
    for (frame, meta) in batch.drain(count) {
        let bytes = port.bytes(&frame);
        if bytes.len() >= 46 && bytes[23] == 17 && bytes[12..14] == [8, 0] {
            kept.push(frame, meta).expect("space");
        } else {
            port.release(frame);
        }
    }
    kept
}

#[test]
fn a_full_ring_loses_and_counts() {
    namespace("a_full_ring_loses_and_counts", || {
        let (mut port, _) = veth(false);
        let socket = UdpSocket::bind((std::net::Ipv4Addr::from(KERNEL_IP), 0)).expect("binds");
        let sent = 5_000;
        for n in 0..sent as u32 {
            socket.send_to(&n.to_be_bytes(), (std::net::Ipv4Addr::from(OUR_IP), 9)).expect("sends");
        }
        // What was kept is whole and in order, and fills the ring.
        let mut last = None;
        let mut kept = 0;
        let mut batch = Batch::new();
        while port.receive(Lane::Stranger, &mut batch).expect("receives") > 0 {
            let count = batch.len();
            for (frame, _) in batch.drain(count) {
                let bytes = port.bytes(&frame);
                if bytes.len() == 46 && bytes[23] == 17 {
                    let number = u32::from_be_bytes(bytes[42..46].try_into().expect("four bytes"));
                    assert!(last < Some(number));
                    last = Some(number);
                    kept += 1;
                }
                port.release(frame);
            }
        }
        let statistics = port.statistics();
        assert!(kept > 1_000, "{kept} of {sent}");
        assert!(statistics.lost_ring > 0 && statistics.lost_ring < sent, "{statistics:?}");
        assert_eq!(port.statistics(), statistics, "asking twice changes nothing");
    });
}

#[test]
fn own_and_outgoing_frames_are_not_received() {
    namespace("own_and_outgoing_frames_are_not_received", || {
        let (mut port, kernel) = veth(false);
        ip("addr add 10.9.1.1/24 dev pub0");
        ip(&format!("neigh replace 10.9.1.2 lladdr {kernel} dev pub0 nud permanent"));
        let socket = UdpSocket::bind("10.9.1.1:0").expect("binds");
        socket.send_to(b"from the same host", "10.9.1.2:9").expect("sends");
        let far = UdpSocket::bind((std::net::Ipv4Addr::from(KERNEL_IP), 0)).expect("binds");
        far.send_to(b"from the far end", (std::net::Ipv4Addr::from(OUR_IP), 9)).expect("sends");
        let seen = Wire::new(&mut port).wait_for(|seen| {
            assert!(!seen.bytes.ends_with(b"from the same host"));
            seen.bytes.ends_with(b"from the far end")
        });
        assert_eq!(seen.bytes[..6], port.abilities().mac.0);
    });
}

#[test]
fn a_joined_group_is_asked_of_the_device() {
    namespace("a_joined_group_is_asked_of_the_device", || {
        let (mut port, _) = veth(false);
        port.join(Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56])).expect("joins");
        let output =
            std::process::Command::new("ip").args(["maddr", "show", "dev", "pub0"]).output().expect("ip");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("33:33:ff:12:34:56"), "{text}");
        assert!(port.join(Mac([2, 0, 0, 0, 0, 1])).is_ok() || cfg!(target_os = "linux"));
    });
}

#[test]
fn a_device_that_goes_away_is_reported() {
    namespace("a_device_that_goes_away_is_reported", || {
        let (mut port, _) = veth(false);
        ip("link set pub0 down");
        let mut batch = Batch::new();
        port.park();
        let count =
            port.receive(Lane::Stranger, &mut batch).expect("a device that is down may come up again");
        for (frame, _) in batch.drain(count) {
            port.release(frame);
        }
        let frame = port.allocate().map(|mut frame| {
            port.resize(&mut frame, 60);
            frame
        });
        batch.push(frame.expect("a frame"), Meta::default()).expect("space");
        assert_eq!(port.transmit(&mut batch).expect("down is no error"), 1);
        assert_eq!(port.statistics().lost_transmit, 1);
        ip("link del pub0");
        port.park();
        let error = port.receive(Lane::Stranger, &mut batch).expect_err("gone");
        assert!(error.to_string().contains("pub0"), "{error}");
    });
}

#[test]
fn devices_that_cannot_serve_are_refused_in_words() {
    namespace("devices_that_cannot_serve_are_refused_in_words", || {
        let problem = |result: Result<AfPacket, OpenError>| result.expect_err("refused").problem;
        let open = |name: &str| AfPacket::open(&AfPacketConfig::new(name));
        assert!(matches!(problem(open("eth77")), Problem::NoDevice(known) if known == ["lo"]));
        assert!(matches!(problem(open("lo")), Problem::NotEthernet(772)));
        assert!(matches!(problem(open("a-name-that-is-too-long")), Problem::BadName));
        let unknown = hedgerow_port::open("dpdk", "lo").err().expect("refused");
        assert!(matches!(unknown.problem, Problem::NoDriver(_)));
    });
}

#[test]
fn a_tap_device_has_one_holder() {
    tap_namespace("a_tap_device_has_one_holder", || {
        let first = Tap::open(&TapConfig::new("tap7")).expect("opens");
        let second = Tap::open(&TapConfig::new("tap7")).expect_err("refused");
        assert!(matches!(second.problem, Problem::Busy), "{second}");
        drop(first);
        Tap::open(&TapConfig::new("tap7")).expect("free again");
    });
}
