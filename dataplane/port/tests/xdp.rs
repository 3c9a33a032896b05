//! AF_XDP over veth in private network namespaces: lanes, refusals, statistics, and what the kernel keeps.

mod common;

use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use hedgerow_dataplane::Reason;
use hedgerow_dataplane::frame::{BATCH, Batch, Checksum, Lane, Meta, Pool, Port};
use hedgerow_dataplane::screen::{PlanKey, SynPlan};
use hedgerow_dataplane::wire::{Address, FlowKey, Mac, Prefix};
use hedgerow_port::{
    AfPacket, AfPacketConfig, AfXdp, AfXdpConfig, Attach, LaneLimits, Ours, PacketLanes, PacketLanesConfig,
    Problem,
};

const DEVICE: &str = "pub0";

fn config() -> AfXdpConfig {
    let ours =
        Ours { addresses: vec![Address::from_v4(OUR_IP), Address::from_v6(OUR_IP6)], ..Ours::default() };
    AfXdpConfig::new(DEVICE, ours)
}

/// As [`namespace`], with a veth pair in it; skips where the kernel lets this user load no program.
fn xdp_namespace(name: &str, body: impl FnOnce()) {
    namespace(name, || {
        ip("link add pub0 type veth peer name far0");
        ip("link set pub0 up");
        ip("link set far0 up");
        until_up(DEVICE);
        until_up("far0");
        match AfXdp::open(&config()) {
            Ok(port) => drop(port),
            Err(error) if matches!(error.problem, Problem::NotPermitted { .. }) => {
                return skip(name, &error.to_string());
            }
            Err(error) => panic!("{error}"),
        }
        body();
    });
}

/// The far end, which sends frames of any kind.
struct Far {
    port: AfPacket,
    to: Mac,
}

const OUR_IP6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 2];

impl Far {
    fn new(port: &dyn Port) -> Self {
        let far = AfPacket::open(&AfPacketConfig::new("far0")).expect("opens");
        Far { port: far, to: port.abilities().mac }
    }

    /// A TCP segment for our port 8444.
    fn segment(&self, source: [u8; 4], source_port: u16, flags: u8) -> Vec<u8> {
        let tcp = Tcp {
            to: self.to,
            from: self.port.abilities().mac,
            source: source_port,
            destination: 8444,
            seq: 1,
            ack: 0,
            flags,
            options: Vec::new(),
        };
        let mut bytes = tcp.complete(b"");
        readdress(&mut bytes, source, OUR_IP);
        bytes
    }

    /// The same over IPv6; checksums are for whoever receives it to judge.
    fn segment6(&self, source: [u8; 16], source_port: u16, flags: u8) -> Vec<u8> {
        let v4 = self.segment([192, 0, 2, 1], source_port, flags);
        let mut bytes = v4[..12].to_vec();
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
        bytes.extend(source);
        bytes.extend(OUR_IP6);
        bytes.extend(&v4[34..]);
        bytes
    }

    fn send(&mut self, frames: &[Vec<u8>]) {
        let mut batch = Batch::new();
        for frames in frames.chunks(BATCH) {
            for bytes in frames {
                let mut frame = self.port.allocate().expect("a frame");
                assert!(self.port.resize(&mut frame, bytes.len()));
                self.port.bytes_mut(&mut frame).copy_from_slice(bytes);
                batch.push(frame, Meta::default()).expect("space");
            }
            while !batch.is_empty() {
                self.port.transmit(&mut batch).expect("sends");
            }
        }
    }
}

/// Other addresses in an IPv4 header, with its checksum.
fn readdress(bytes: &mut [u8], source: [u8; 4], destination: [u8; 4]) {
    bytes[26..30].copy_from_slice(&source);
    bytes[30..34].copy_from_slice(&destination);
    bytes[24..26].fill(0);
    let checksum = !sum(0, &bytes[14..34]);
    bytes[24..26].copy_from_slice(&checksum.to_be_bytes());
    let length = bytes.len() - 34;
    bytes[50..52].fill(0);
    let checksum = !sum(u32::from(pseudo(source, destination, length)), &bytes[34..]);
    bytes[50..52].copy_from_slice(&checksum.to_be_bytes());
}

fn v4_key(source: [u8; 4], port: u16) -> FlowKey {
    let (local, remote) = (Address::from_v4(OUR_IP), Address::from_v4(source));
    FlowKey { local, remote, local_port: 8444, remote_port: port }
}

/// All that waits in a lane.
fn drain(port: &mut dyn Port, lane: Lane) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut batch = Batch::new();
    while port.receive(lane, &mut batch).expect("receives") > 0 {
        for (frame, meta) in batch.drain(BATCH) {
            seen.push(Seen { bytes: port.bytes(&frame).to_vec(), meta });
            port.release(frame);
        }
    }
    port.flush().expect("flushes");
    seen
}

/// Takes from a lane until there are `count` frames of TCP to our port. A silence of ten seconds is a failure.
#[track_caller]
fn take(port: &mut dyn Port, lane: Lane, count: usize) -> Vec<Seen> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut seen = Vec::new();
    loop {
        seen.extend(drain(port, lane).into_iter().filter(|seen| is_tcp(&seen.bytes)));
        if seen.len() >= count {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "{} of {count} frames in {lane:?}: {:?}",
            seen.len(),
            port.statistics()
        );
        wait(port);
    }
}

fn is_tcp(bytes: &[u8]) -> bool {
    let at = match bytes[12..14] {
        [8, 0] if bytes[23] == 6 => 34,
        [0x86, 0xdd] if bytes[20] == 6 => 54,
        _ => return false,
    };
    bytes.get(at + 2..at + 4) == Some(&8444u16.to_be_bytes())
}

/// Frames that a device says it dropped on the way out: where a veth's own ring was full.
fn dropped_by(device: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").expect("a table");
    let line = table.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    line.expect("the device").split_whitespace().nth(11).expect("a column").parse().expect("a number")
}

const PEER: [u8; 4] = [192, 0, 2, 1];

fn lanes_are_apart(port: &mut dyn Port) {
    assert!(port.abilities().lanes, "{:?}", port.abilities());
    let mut far = Far::new(port);
    let peer6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    let key6 = FlowKey {
        local: Address::from_v6(OUR_IP6),
        remote: Address::from_v6(peer6),
        local_port: 8444,
        remote_port: 1000,
    };
    let both = |far: &Far| {
        vec![
            far.segment(PEER, 1000, ACK),
            far.segment(PEER, 1001, ACK),
            far.segment(PEER, 1000, SYN),
            far.segment6(peer6, 1000, ACK),
            far.segment6(peer6, 1001, ACK),
        ]
    };
    let frames = both(&far);
    far.send(&frames);
    let bytes = |seen: Vec<Seen>| seen.into_iter().map(|seen| seen.bytes).collect::<Vec<_>>();
    assert_eq!(bytes(take(port, Lane::Stranger, 5)), frames);

    port.known(&v4_key(PEER, 1000), true);
    port.known(&key6, true);
    port.flush().expect("flushes");
    far.send(&frames);
    assert_eq!(bytes(take(port, Lane::Known, 2)), [&frames[0][..], &frames[3][..]]);
    // A SYN is never a segment of a flow that must not be lost.
    assert_eq!(bytes(take(port, Lane::Stranger, 3)), [&frames[1][..], &frames[2][..], &frames[4][..]]);

    port.known(&v4_key(PEER, 1000), false);
    port.known(&key6, false);
    port.flush().expect("flushes");
    far.send(&frames);
    take(port, Lane::Stranger, 5);
    assert!(drain(port, Lane::Known).is_empty());
    assert_eq!(port.statistics().lost_ring, 0);
}

#[test]
fn known_flows_have_a_lane_of_their_own() {
    xdp_namespace("known_flows_have_a_lane_of_their_own", || {
        for attach in [Attach::Driver, Attach::Generic] {
            lanes_are_apart(&mut AfXdp::open(&AfXdpConfig { attach, ..config() }).expect("opens"));
        }
        lanes_are_apart(&mut packet_lanes(0).remove(0));
    });
}

/// The same device through packet sockets.
fn packet_lanes(strangers_per_second: u32) -> Vec<PacketLanes> {
    let config = PacketLanesConfig {
        packet: AfPacketConfig { ring_bytes: 4 << 20, ..AfPacketConfig::new(DEVICE) },
        limits: LaneLimits { strangers_per_second, ..LaneLimits::default() },
    };
    PacketLanes::open_queues(&config, 1).expect("opens")
}

#[test]
fn packet_sockets_keep_known_flows_apart_from_a_flood() {
    xdp_namespace("packet_sockets_keep_known_flows_apart_from_a_flood", || {
        let mut port = packet_lanes(0).remove(0);
        let mut far = Far::new(&port);
        port.known(&v4_key(PEER, 1000), true);
        port.deny(Prefix::of(Address::from_v4([203, 0, 113, 0]), 24), true);
        port.flush().expect("flushes");
        let strangers: Vec<_> =
            (0..BATCH as u16).map(|n| far.segment([198, 51, 100, n as u8], 2000 + n, SYN)).collect();
        let others = [far.segment(PEER, 1000, ACK), far.segment([203, 0, 113, 9], 1000, ACK)];
        for _ in 0..200 {
            far.send(&strangers);
            far.send(&others);
        }
        // Nobody has read anything: one ring is full, the other is not.
        let good = take(&mut port, Lane::Known, 200);
        assert!(good.iter().all(|seen| seen.bytes == others[0]));
        let statistics = port.statistics();
        assert!(statistics.lost_ring > 5_000, "{statistics:?}");
        assert_eq!(statistics.refused[Reason::Denied], 200);
        // Answers go out of the frames of either lane, in order.
        let frames = [others[0].clone(), strangers[0].clone()];
        drain(&mut port, Lane::Stranger);
        far.send(&frames);
        let mut batch = Batch::new();
        while batch.len() < 2 {
            port.receive(Lane::Known, &mut batch).expect("receives");
            port.receive(Lane::Stranger, &mut batch).expect("receives");
            let strange = batch.iter().any(|(frame, _)| !is_tcp(port.bytes(frame)));
            if strange {
                let count = batch.len();
                batch.drain(count).for_each(|(frame, _)| port.release(frame));
                far.send(&frames);
            }
        }
        for (frame, _) in batch.as_mut_slice() {
            let bytes = port.bytes_mut(frame);
            let (to, rest) = bytes.split_at_mut(6);
            to.swap_with_slice(&mut rest[..6]);
        }
        let sent: Vec<_> = batch.iter().map(|(frame, _)| port.bytes(frame)[26..30].to_vec()).collect();
        assert!(port.transmit(&mut batch).expect("sends") >= 2);
        let mut wire = Wire::new(&mut far.port);
        for source in sent {
            wire.wait_for(|seen| seen.bytes.get(26..30) == Some(&source[..]));
        }
    });
}

#[test]
fn packet_sockets_police_strangers() {
    xdp_namespace("packet_sockets_police_strangers", || {
        let mut port = packet_lanes(100).remove(0);
        let mut far = Far::new(&port);
        let frames: Vec<_> = (0..2_000).map(|n| far.segment(PEER, 1000 + n, SYN)).collect();
        far.send(&frames);
        let seen = take(&mut port, Lane::Stranger, 1_000).len() as u64;
        let statistics = port.statistics();
        assert_eq!(seen + statistics.refused[Reason::Policed], 2_000, "{statistics:?}");
    });
}

/// How SYNs to our listener are answered, by somebody whose clock says zero.
fn plan(unix_ms: u64) -> SynPlan {
    let key = PlanKey { k0: 1, k1: 2 };
    SynPlan {
        unix_ms,
        slots: [(unix_ms / 64_000, key), (unix_ms / 64_000 + 1, key)],
        stamp: key,
        mss_v4: [536, 1300, 1440, 1460],
        mss_v6: [1220, 1360, 1420, 1440],
        mtu: 1_500,
        listeners: vec![(Address::from_v4(OUR_IP), 8444), (Address::from_v6(OUR_IP6), 8444)],
        replies_per_second: Some(1_000),
        cap_secret: [1, 3, 5, 7],
    }
}

fn connects() -> bool {
    let address = (Ipv4Addr::from(OUR_IP), 8444).into();
    TcpStream::connect_timeout(&address, Duration::from_millis(600)).is_ok()
}

#[test]
fn the_program_completes_handshakes_with_the_kernel() {
    xdp_namespace("the_program_completes_handshakes_with_the_kernel", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        addresses("far0", port.abilities().mac);
        match Command::new("ethtool").args(["-K", "far0", "gro", "on"]).status() {
            Ok(status) if status.success() => {}
            other => {
                return skip(
                    "the_program_completes_handshakes_with_the_kernel",
                    &format!("ethtool: {other:?}"),
                );
            }
        }
        assert!(!connects(), "nobody has said how");
        assert!(port.answer(&plan(1 << 40)));
        assert!(connects(), "{:?}", port.statistics());
        assert!(port.answer(&plan(1 << 40)), "the answers arrived");
        assert_eq!(port.statistics().cookies, 1);
        // What a peer sends after the handshake is the core's.
        let mut seen = drain(&mut port, Lane::Stranger);
        seen.retain(|seen| is_tcp(&seen.bytes) && seen.bytes[47] & SYN == 0);
        assert!(!seen.is_empty());
        // Listeners that are gone are not answered for.
        assert!(port.answer(&SynPlan { listeners: Vec::new(), ..plan(1 << 40) }));
        assert!(!connects());
        let mut generic = drop_and(port, || {
            AfXdp::open(&AfXdpConfig { attach: Attach::Generic, ..config() }).expect("opens")
        });
        assert!(generic.answer(&plan(1 << 40)));
        assert!(connects(), "{:?}", generic.statistics());
    });
}

fn drop_and<T>(port: AfXdp, next: impl FnOnce() -> T) -> T {
    drop(port);
    next()
}

#[test]
fn answers_that_get_lost_are_left_to_the_core() {
    xdp_namespace("answers_that_get_lost_are_left_to_the_core", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        addresses("far0", port.abilities().mac);
        // The far end of a veth pair has no queue for frames from XDP unless it asks for one.
        assert!(port.answer(&plan(1 << 40)));
        assert!(!connects());
        assert!(!port.answer(&plan(1 << 40)), "{:?}", port.statistics());
        assert!(port.abilities().mode.contains("by the core"), "{}", port.abilities().mode);
        drain(&mut port, Lane::Stranger);
        assert!(!connects());
        assert!(drain(&mut port, Lane::Stranger).iter().any(|seen| is_tcp(&seen.bytes)), "SYNs arrive again");
    });
}

#[test]
fn an_answer_goes_out_in_the_frame_of_its_question() {
    xdp_namespace("an_answer_goes_out_in_the_frame_of_its_question", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        let mut far = Far::new(&port);
        // More often than there are frames, so each has come back many times.
        for round in 0..300u16 {
            let frames: Vec<_> = (0..BATCH as u16).map(|n| far.segment(PEER, 1000 + n, ACK)).collect();
            far.send(&frames);
            let mut batch = Batch::new();
            let mut back = 0;
            while back < BATCH {
                port.receive(Lane::Stranger, &mut batch).expect("receives");
                for (frame, _) in batch.as_mut_slice() {
                    let bytes = port.bytes_mut(frame);
                    back += usize::from(is_tcp(bytes));
                    let (to, rest) = bytes.split_at_mut(6);
                    to.swap_with_slice(&mut rest[..6]);
                }
                port.transmit(&mut batch).expect("sends");
                assert!(batch.is_empty());
                port.flush().expect("flushes");
            }
            let mut seen = 0;
            while seen < BATCH {
                let count = far.port.receive(Lane::Stranger, &mut batch).expect("receives");
                for (frame, _) in batch.drain(count) {
                    seen += usize::from(is_tcp(far.port.bytes(&frame)));
                    far.port.release(frame);
                }
                if count == 0 {
                    wait(&mut far.port);
                }
            }
            assert_eq!(seen, BATCH, "round {round}");
        }
        assert!(port.statistics().transmitted >= 300 * BATCH as u64);
    });
}

#[test]
fn a_flood_of_strangers_takes_no_frame_from_known_flows() {
    xdp_namespace("a_flood_of_strangers_takes_no_frame_from_known_flows", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        let mut far = Far::new(&port);
        port.known(&v4_key(PEER, 1000), true);
        port.flush().expect("flushes");
        let strangers: Vec<_> =
            (0..BATCH as u16).map(|n| far.segment([198, 51, 100, n as u8], 2000 + n, SYN)).collect();
        let good = [far.segment(PEER, 1000, ACK)];
        // Nobody reads the strangers' lane, so its ring is full nearly from the start.
        let mut received = 0;
        for _ in 0..500 {
            far.send(&strangers);
            far.send(&good);
            received += drain(&mut port, Lane::Known).len();
        }
        let lost_before = dropped_by("far0");
        while received + (lost_before as usize) < 500 {
            received += take(&mut port, Lane::Known, 1).len();
        }
        let statistics = port.statistics();
        assert!(statistics.lost_ring > 20_000, "the flood was no flood: {statistics:?}");
        assert!(lost_before > 0 || received == 500, "{received} of 500, and none was lost before");
        // What waits in the other lane is whole.
        assert_eq!(drain(&mut port, Lane::Stranger).iter().filter(|seen| is_tcp(&seen.bytes)).count(), 2_048);
    });
}

#[test]
fn every_frame_is_received_refused_or_counted_as_lost() {
    xdp_namespace("every_frame_is_received_refused_or_counted_as_lost", || {
        let limits = LaneLimits { strangers_per_second: 10_000, ..LaneLimits::default() };
        let mut port = AfXdp::open(&AfXdpConfig { limits, ..config() }).expect("opens");
        let mut far = Far::new(&port);
        port.known(&v4_key(PEER, 1000), true);
        port.deny(Prefix::of(Address::from_v4([203, 0, 113, 0]), 24), true);
        port.flush().expect("flushes");
        let mut frames = Vec::new();
        for n in 0..200u16 {
            frames.push(far.segment(PEER, 1000, ACK));
            frames.push(far.segment([198, 51, 100, n as u8], 2000, SYN));
            frames.push(far.segment([203, 0, 113, n as u8], 2000, SYN));
            frames.push(far.segment([198, 51, 100, n as u8], 2000, SYN | ACK | 1));
        }
        let before = port.statistics().received;
        for _ in 0..50 {
            far.send(&frames);
        }
        let mut received = 0;
        let settled = |port: &AfXdp, received: u64| {
            let statistics = port.statistics();
            received + statistics.refused.total() + statistics.lost_ring + dropped_by("far0")
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while settled(&port, received) < 40_000 {
            for lane in [Lane::Known, Lane::Stranger] {
                received += drain(&mut port, lane).iter().filter(|seen| is_tcp(&seen.bytes)).count() as u64;
            }
            assert!(Instant::now() < deadline, "{received}: {:?}", port.statistics());
        }
        let statistics = port.statistics();
        assert_eq!(settled(&port, received), 40_000, "{statistics:?}");
        assert!(statistics.received - before >= received);
        for reason in [Reason::Denied, Reason::BadFlags] {
            assert!(statistics.refused[reason] > 5_000, "{reason:?}: {statistics:?}");
        }
        assert!(statistics.refused[Reason::Policed] > 0, "{statistics:?}");
        assert_eq!(port.statistics(), statistics, "asking twice changes nothing");
    });
}

#[test]
fn malformed_frames_end_in_the_program() {
    xdp_namespace("malformed_frames_end_in_the_program", || {
        let port = AfXdp::open(&config()).expect("opens");
        let mut far = Far::new(&port);
        let good = far.segment(PEER, 1000, ACK);
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            bytes
        };
        let cases = [
            (Reason::Truncated, changed(&|b| b[17] = 255)),
            (Reason::BadIpHeader, changed(&|b| b[22] = 0)),
            (Reason::IpOptions, changed(&|b| b[14] = 0x46)),
            (Reason::Fragment, changed(&|b| b[20] = 0x20)),
            (Reason::UnknownProtocol, changed(&|b| b[23] = 17)),
            (Reason::Martian, changed(&|b| b[26] = 127)),
            (Reason::Land, changed(&|b| b[26..30].copy_from_slice(&OUR_IP))),
            (Reason::BadTcpHeader, changed(&|b| b[46] = 0x40)),
            (Reason::BadFlags, changed(&|b| b[47] = 0)),
            (Reason::PortZero, changed(&|b| b[34..36].fill(0))),
        ];
        let frames: Vec<_> = cases.iter().map(|(_, bytes)| bytes.clone()).collect();
        far.send(&frames);
        let deadline = Instant::now() + Duration::from_secs(10);
        while port.statistics().refused.total() < cases.len() as u64 {
            assert!(Instant::now() < deadline, "{:?}", port.statistics());
            std::thread::yield_now();
        }
        let refused = port.statistics().refused;
        for (reason, _) in cases {
            assert_eq!(refused[reason], 1, "{reason:?} of {refused:?}");
        }
    });
}

#[test]
fn a_prefix_is_denied_until_it_is_not() {
    xdp_namespace("a_prefix_is_denied_until_it_is_not", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        let mut far = Far::new(&port);
        let peer6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        let frames = [far.segment(PEER, 1000, SYN), far.segment6(peer6, 1000, SYN)];
        let prefixes = [
            Prefix::of(Address::from_v4(PEER), 24),
            Prefix::host(Address::from_v4(PEER)),
            Prefix::of(Address::from_v6(peer6), 32),
        ];
        for prefix in prefixes {
            port.deny(prefix, true);
        }
        port.flush().expect("flushes");
        far.send(&frames);
        // One of two overlapping prefixes is lifted: the other one holds.
        port.deny(prefixes[0], false);
        port.flush().expect("flushes");
        far.send(&frames);
        for prefix in &prefixes[1..] {
            port.deny(*prefix, false);
        }
        port.flush().expect("flushes");
        far.send(&frames);
        assert_eq!(take(&mut port, Lane::Stranger, 2).len(), 2);
        assert_eq!(port.statistics().refused[Reason::Denied], 4);
    });
}

/// The kernel's end has an address, and so has the kernel on our own device.
fn kernel_address(port: &AfXdp) {
    addresses("far0", port.abilities().mac);
    ip("addr add 10.9.0.7/24 dev pub0");
    let far = AfPacket::open(&AfPacketConfig::new("far0")).expect("opens").abilities().mac;
    ip(&format!("neigh replace 10.9.0.7 lladdr {} dev far0 nud permanent", port.abilities().mac));
    let _ = far;
}

#[test]
fn the_kernel_keeps_what_is_not_ours() {
    xdp_namespace("the_kernel_keeps_what_is_not_ours", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        let mut far = Far::new(&port);
        kernel_address(&port);
        // Both ends are in one namespace, where the kernel would not route from one to the other: frames are made by hand.
        let socket = UdpSocket::bind("10.9.0.7:9000").expect("binds");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        let mut frame = far.segment([10, 9, 0, 99], 1000, ACK);
        readdress(&mut frame, [10, 9, 0, 99], [10, 9, 0, 7]);
        frame.truncate(34);
        frame[16..18].copy_from_slice(&32u16.to_be_bytes());
        frame[23] = 17;
        frame[24..26].fill(0);
        let checksum = !sum(0, &frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame.extend(1000u16.to_be_bytes());
        frame.extend(9000u16.to_be_bytes());
        frame.extend([0, 12, 0, 0]);
        frame.extend(b"past");
        far.send(&[frame]);
        let mut data = [0; 8];
        assert_eq!(socket.recv(&mut data).expect("the kernel's datagram"), 4);
        assert_eq!(&data[..4], b"past");
        assert!(!drain(&mut port, Lane::Stranger).iter().any(|seen| is_tcp(&seen.bytes)));
        assert_eq!(port.statistics().refused.total(), 0);
    });
}

#[test]
fn neighbours_are_everybodys() {
    xdp_namespace("neighbours_are_everybodys", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        let mut far = Far::new(&port);
        kernel_address(&port);
        ip("neigh flush dev pub0");
        let station = far.port.abilities().mac;
        let mut request = vec![0xff; 6];
        request.extend(station.0);
        request.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend(station.0);
        request.extend([10, 9, 0, 99]);
        request.extend([0; 6]);
        request.extend([10, 9, 0, 7]);
        far.send(std::slice::from_ref(&request));
        // We see it, and the kernel answers it.
        let ours = Wire::new(&mut port).wait_for(|seen| seen.bytes[12..14] == [8, 6] && seen.bytes[21] == 1);
        assert_eq!(ours.bytes[..42], request[..]);
        let reply = Wire::new(&mut far.port).wait_for(|seen| {
            seen.bytes[12..14] == [8, 6] && seen.bytes[21] == 2 && seen.bytes[28..32] == [10, 9, 0, 7]
        });
        assert_eq!(reply.bytes[..6], station.0);
        port.join(Mac([0x33, 0x33, 0xff, 0x12, 0x34, 0x56])).expect("joins");
        let output = Command::new("ip").args(["maddr", "show", "dev", DEVICE]).output().expect("ip");
        assert!(String::from_utf8_lossy(&output.stdout).contains("33:33:ff:12:34:56"));
    });
}

#[test]
fn a_shared_address_gives_its_listeners_ports_alone() {
    xdp_namespace("a_shared_address_gives_its_listeners_ports_alone", || {
        let own = Address::from_v4(OUR_IP);
        let node = Address::from_v4([10, 0, 0, 5]);
        let ours = Ours { ports: vec![(own, 8444)], sources: vec![(node, 9444)], ..Ours::default() };
        let mut port = AfXdp::open(&AfXdpConfig { ours, ..config() }).expect("opens");
        let mut far = Far::new(&port);
        let listener = far.segment(PEER, 1000, SYN);
        let mut other = listener.clone();
        other[36..38].copy_from_slice(&22u16.to_be_bytes());
        let mut from_node = far.segment([10, 0, 0, 5], 9444, SYN | ACK);
        readdress(&mut from_node, [10, 0, 0, 5], [198, 51, 100, 77]);
        let mut elsewhere = from_node.clone();
        elsewhere[34..36].copy_from_slice(&22u16.to_be_bytes());
        // An ICMP error about a segment of ours, and one about the kernel's.
        let mut error = listener[..34].to_vec();
        error[17] = 20 + 8 + 28;
        error[23] = 1;
        error.extend([3, 4, 0, 0, 0, 0, 5, 0]);
        let mut quoted = listener[14..42].to_vec();
        quoted[12..16].copy_from_slice(&OUR_IP);
        quoted[16..20].copy_from_slice(&PEER);
        quoted[20..22].copy_from_slice(&8444u16.to_be_bytes());
        error.extend(&quoted);
        let mut of_the_kernel = error.clone();
        of_the_kernel[62..64].copy_from_slice(&22u16.to_be_bytes());
        far.send(&[other, listener.clone(), elsewhere, from_node.clone(), of_the_kernel, error.clone()]);
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while seen.len() < 3 && Instant::now() < deadline {
            let strangers = drain(&mut port, Lane::Stranger).into_iter().map(|seen| seen.bytes);
            seen.extend(strangers.filter(|bytes| bytes[12..14] == [8, 0]));
        }
        assert_eq!(seen, [listener, from_node, error]);
    });
}

#[test]
fn partial_checksums_are_told_by_their_value() {
    xdp_namespace("partial_checksums_are_told_by_their_value", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        addresses("far0", port.abilities().mac);
        let connecting = std::thread::spawn(|| {
            let address = (Ipv4Addr::from(OUR_IP), 8444).into();
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).map(drop)
        });
        let seen = take(&mut port, Lane::Stranger, 1).remove(0);
        assert_eq!(seen.meta.checksum, Checksum::Partial { start: 34, offset: 16 });
        assert!(connecting.join().expect("ends").is_err(), "nobody answered");
        let mut far = Far::new(&port);
        let frames = [far.segment(PEER, 1000, ACK)];
        far.send(&frames);
        let complete = take(&mut port, Lane::Stranger, 1);
        let complete = complete.iter().find(|seen| seen.bytes[26..30] == PEER).expect("it came");
        assert_eq!(complete.meta.checksum, Checksum::Unverified);
    });
}

#[test]
fn a_second_program_is_refused_in_words() {
    xdp_namespace("a_second_program_is_refused_in_words", || {
        let first = AfXdp::open(&config()).expect("opens");
        for attach in [Attach::Auto, Attach::Driver, Attach::Generic] {
            let error = AfXdp::open(&AfXdpConfig { attach, ..config() }).expect_err("refused");
            assert!(matches!(error.problem, Problem::ProgramAttached), "{error}");
            assert!(error.to_string().contains("bpftool link"), "{error}");
        }
        drop(first);
        AfXdp::open(&config()).expect("free again");
    });
}

#[test]
fn devices_that_cannot_serve_are_refused_in_words() {
    xdp_namespace("devices_that_cannot_serve_are_refused_in_words", || {
        let refused = |config: AfXdpConfig| AfXdp::open(&config).expect_err("refused").problem;
        assert!(matches!(refused(AfXdpConfig { device: "eth77".into(), ..config() }), Problem::NoDevice(_)));
        assert!(matches!(
            refused(AfXdpConfig { device: "lo".into(), ..config() }),
            Problem::NotEthernet(772)
        ));
        ip("link set pub0 mtu 9000");
        assert!(matches!(refused(config()), Problem::MtuTooLarge { mtu: 9000, .. }));
        ip("link set pub0 mtu 1500");
        let two = AfXdp::open_queues(&config(), 2).expect_err("refused");
        assert!(matches!(two.problem, Problem::QueueCount { device: 1, shards: 2 }), "{two}");
    });
}

/// Set in a process that opens the port and waits for its end.
const VICTIM: &str = "HEDGEROW_TEST_VICTIM";

#[test]
fn nothing_is_left_of_a_killed_process() {
    if std::env::var_os(VICTIM).is_some() {
        let _port = AfXdp::open(&config()).expect("opens");
        println!("open");
        loop {
            std::thread::park();
        }
    }
    xdp_namespace("nothing_is_left_of_a_killed_process", || {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .args(["--exact", "nothing_is_left_of_a_killed_process", "--nocapture"])
            .env(VICTIM, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines =
            std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
        assert!(lines.any(|line| line.expect("a line").ends_with("open")));
        assert!(has_program(), "the other process has its program there");
        child.kill().expect("SIGKILL");
        child.wait().expect("ends");
        let deadline = Instant::now() + Duration::from_secs(10);
        while has_program() {
            assert!(Instant::now() < deadline, "the program is still there");
            std::thread::yield_now();
        }
        let mut port = AfXdp::open(&config()).expect("opens");
        let mut far = Far::new(&port);
        let frames = [far.segment(PEER, 1000, ACK)];
        far.send(&frames);
        take(&mut port, Lane::Stranger, 1);
    });
}

fn has_program() -> bool {
    let output = Command::new("ip").args(["link", "show", "dev", DEVICE]).output().expect("ip");
    String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
}

#[test]
fn a_device_that_goes_away_is_reported() {
    xdp_namespace("a_device_that_goes_away_is_reported", || {
        let mut port = AfXdp::open(&config()).expect("opens");
        ip("link set pub0 down");
        let mut batch = Batch::new();
        port.park();
        port.receive(Lane::Known, &mut batch).expect("a device that is down may come up again");
        send(&mut port, &[0; 60], Meta::default());
        ip("link set pub0 up");
        until_up(DEVICE);
        let mut far = Far::new(&port);
        let frames = [far.segment(PEER, 1000, ACK)];
        far.send(&frames);
        take(&mut port, Lane::Stranger, 1);
        ip("link del pub0");
        port.park();
        let error = port.receive(Lane::Known, &mut batch).expect_err("gone");
        assert!(error.to_string().contains("pub0"), "{error}");
    });
}
