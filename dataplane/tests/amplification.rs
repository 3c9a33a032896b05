//! No weapon: before proof never more frames or IP bytes go out than came in, whatever comes, and a prefix is sent no more
//! than its cap. Each kind of answer is seen at least once, so that none is missing from the balance by accident.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::frame::{Abilities, Batch, Frame, Meta, Pool};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{Accept, Config, Listener, Shard, ShardIndex, ShardLink};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{LinkId, Mac};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpProtocol, IpRepr, NdiscRepr, RawHardwareAddress,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

const LINK: LinkId = LinkId(0);
const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);
const PORT: u16 = 8444;
const SLOT: usize = 2_048;
const ETHERNET: usize = 14;

/// Memory for frames.
struct Heap {
    slots: Vec<[u8; SLOT]>,
    free: Vec<u32>,
}

impl Pool for Heap {
    fn allocate(&mut self) -> Option<Frame> {
        self.free.pop().map(|slot| Frame::new(slot, 0, 0))
    }
    fn release(&mut self, frame: Frame) {
        self.free.push(frame.slot());
    }
    fn bytes(&self, frame: &Frame) -> &[u8] {
        &self.slots[frame.slot() as usize][..frame.len()]
    }
    fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        &mut self.slots[frame.slot() as usize][..frame.len()]
    }
    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        let fits = len <= SLOT;
        if fits {
            frame.set_len(len as u32);
        }
        fits
    }
}

struct Bed {
    shard: Shard,
    pool: Heap,
}

impl Bed {
    fn new(replies_per_second: u32) -> Self {
        let abilities = Abilities {
            mac: OURS,
            mtu: 1_500,
            frame_bytes: SLOT,
            frames: 128,
            checksum: false,
            segmentation: 0,
            vlan: false,
            lanes: false,
            mode: "test".into(),
        };
        let own = |text: &str, length| Prefix { address: ip(text).into(), length };
        // Silent: a link's own announcements are nobody's answers.
        let link = LinkConfig {
            addresses: vec![own("203.0.113.1", 24), own("2001:db8:2::1", 64)],
            claiming: Claiming::Silent,
            ..LinkConfig::default()
        };
        let config = Config {
            links: vec![ShardLink::new(link, &abilities)],
            listeners: vec![Listener { link: LINK, address: None, port: PORT, accept: Accept::ClientHello }],
            admit: Limits::default(),
            engine: EngineConfig { flows: 64, blocks: 64, ..EngineConfig::default() },
            screen: ScreenConfig { replies_per_second, ..ScreenConfig::default() },
            cookie_secret: Master([1; 32]),
            seed: [7; 32],
            index: ShardIndex::default(),
            exchange: None,
            egress: None,
        };
        let mut shard = Shard::new(&config, Instant::ZERO);
        shard.set_utc(Instant::ZERO, 1_800_000_000_000);
        Bed { shard, pool: Heap { slots: vec![[0; SLOT]; 256], free: (0..256).collect() } }
    }

    /// Hands frames in; what comes out, timers and all.
    fn turn(&mut self, now: Instant, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let (mut rx, mut tx, mut said) = (Batch::new(), Batch::new(), Vec::new());
        for bytes in frames {
            let mut frame = self.pool.allocate().expect("memory");
            assert!(self.pool.resize(&mut frame, bytes.len()));
            self.pool.bytes_mut(&mut frame).copy_from_slice(bytes);
            rx.push(frame, Meta::default()).expect("few frames");
        }
        self.shard.ingest(now, LINK, &mut self.pool, &mut rx, &mut tx);
        self.shard.advance(now);
        self.shard.transmit(now, LINK, &mut self.pool, &mut tx, 32);
        for (frame, _) in tx.drain(64) {
            said.push(self.pool.bytes(&frame).to_vec());
            self.pool.release(frame);
        }
        said
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ethernet(ethertype: EthernetProtocol, to: Mac, body: usize) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET + body];
    let header =
        EthernetRepr { src_addr: EthernetAddress(THEIRS.0), dst_addr: EthernetAddress(to.0), ethertype };
    header.emit(&mut EthernetFrame::new_unchecked(&mut frame[..]));
    frame
}

/// An IP packet of the stranger's with room for a message, and where that begins.
fn packet(v6: bool, protocol: IpProtocol, hops: u8, message: usize) -> (Vec<u8>, usize, [IpAddr; 2]) {
    let (from, to) = if v6 { ("2001:db8:2::9", "2001:db8:2::1") } else { ("203.0.113.9", "203.0.113.1") };
    let (from, to) = (ip(from), ip(to));
    let repr = IpRepr::new(from.into(), to.into(), protocol, message, hops);
    let ethertype = if v6 { EthernetProtocol::Ipv6 } else { EthernetProtocol::Ipv4 };
    let mut frame = ethernet(ethertype, OURS, repr.buffer_len());
    repr.emit(&mut frame[ETHERNET..], &ChecksumCapabilities::default());
    (frame, ETHERNET + repr.header_len(), [from, to])
}

#[derive(Clone, Debug)]
struct Segment {
    v6: bool,
    control: TcpControl,
    ack: Option<u32>,
    to: u16,
    port: u16,
    options: bool,
    payload: Vec<u8>,
}

fn segment(asked: &Segment) -> Vec<u8> {
    let syn = asked.options && asked.control == TcpControl::Syn;
    let repr = TcpRepr {
        src_port: asked.port,
        dst_port: asked.to,
        control: asked.control,
        seq_number: TcpSeqNumber(1_000),
        ack_number: asked.ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 64_240,
        window_scale: syn.then_some(7),
        max_seg_size: syn.then_some(1_460),
        sack_permitted: syn,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &asked.payload,
    };
    let (mut frame, at, [from, to]) = packet(asked.v6, IpProtocol::Tcp, 57, repr.buffer_len());
    let checksums = ChecksumCapabilities::default();
    repr.emit(&mut TcpPacket::new_unchecked(&mut frame[at..]), &from.into(), &to.into(), &checksums);
    frame
}

fn ping(v6: bool, data: &[u8]) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    if v6 {
        let echo = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data };
        let (mut frame, at, _) = packet(true, IpProtocol::Icmpv6, 57, echo.buffer_len());
        let (from, to) = ("2001:db8:2::9".parse().unwrap(), "2001:db8:2::1".parse().unwrap());
        echo.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(&mut frame[at..]), &checksums);
        return frame;
    }
    let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data };
    let (mut frame, at, _) = packet(false, IpProtocol::Icmp, 57, echo.buffer_len());
    echo.emit(&mut Icmpv4Packet::new_unchecked(&mut frame[at..]), &checksums);
    frame
}

fn arp() -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(THEIRS.0),
        source_protocol_addr: "203.0.113.9".parse().unwrap(),
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: "203.0.113.1".parse().unwrap(),
    };
    let mut frame = ethernet(EthernetProtocol::Arp, Mac::BROADCAST, repr.buffer_len());
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[ETHERNET..]));
    frame
}

fn solicitation() -> Vec<u8> {
    let target = "2001:db8:2::1".parse().unwrap();
    let asks = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: Some(RawHardwareAddress::from_bytes(&THEIRS.0)),
    });
    let (mut frame, at, _) = packet(true, IpProtocol::Icmpv6, 255, asks.buffer_len());
    let from = "2001:db8:2::9".parse().unwrap();
    let checksums = ChecksumCapabilities::default();
    asks.emit(&from, &target, &mut Icmpv6Packet::new_unchecked(&mut frame[at..]), &checksums);
    frame
}

/// Bytes of the packet in a frame: what counts on the way to a victim.
fn ip_bytes(frame: &[u8]) -> usize {
    frame.len() - ETHERNET
}

/// What kind of answer a frame is.
fn kind(frame: &[u8]) -> &'static str {
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    let (protocol, at) = match ethertype {
        0x0806 => return "arp reply",
        0x0800 => (frame[23], ETHERNET + 20),
        _ => (frame[20], ETHERNET + 40),
    };
    match (protocol, frame[at], frame.get(at + 13).copied().unwrap_or(0)) {
        (6, _, flags) if flags & 0x12 == 0x12 => "syn-ack",
        (6, _, flags) if flags & 0x04 != 0 => "reset",
        (6, _, flags) if flags & 0x01 != 0 => "fin",
        (6, ..) => "tcp",
        (1, 0, _) => "echo reply",
        (58, 129, _) => "echo reply v6",
        (58, 136, _) => "advertisement",
        _ => "other",
    }
}

fn any_segment() -> impl Strategy<Value = Vec<u8>> {
    let controls = prop_oneof![
        Just(TcpControl::Syn),
        Just(TcpControl::None),
        Just(TcpControl::Psh),
        Just(TcpControl::Fin),
        Just(TcpControl::Rst)
    ];
    let payload = prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 0..200)];
    let to = prop_oneof![3 => Just(PORT), 1 => 1..u16::MAX];
    (any::<bool>(), controls, proptest::option::of(any::<u32>()), to, 1..u16::MAX, any::<bool>(), payload)
        .prop_map(|(v6, control, ack, to, port, options, payload)| {
            segment(&Segment { v6, control, ack, to, port, options, payload })
        })
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let data = proptest::collection::vec(any::<u8>(), 0..120);
    let good = prop_oneof![
        6 => any_segment(),
        2 => (any::<bool>(), data).prop_map(|(v6, data)| ping(v6, &data)),
        1 => Just(arp()),
        1 => Just(solicitation()),
    ];
    // Some are damaged on the way, and some are padded as short Ethernet frames are.
    (good, 0..6u8, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut frame, fate, at, byte)| {
        match fate {
            0 => {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            1 => frame.truncate(ETHERNET + at.index(frame.len() - ETHERNET)),
            2 => frame.resize(frame.len().max(60), 0),
            _ => {}
        }
        frame
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_more_goes_out_than_came_in(batches in proptest::collection::vec(proptest::collection::vec(any_frame(), 1..16), 1..12)) {
        let mut bed = Bed::new(1_000_000);
        let mut now = Instant::from_millis(1_000);
        let (mut frames, mut bytes) = (0i64, 0i64);
        for batch in &batches {
            now += Duration::from_millis(40);
            frames += batch.len() as i64;
            bytes += batch.iter().map(|frame| ip_bytes(frame) as i64).sum::<i64>();
            let said = bed.turn(now, batch);
            frames -= said.len() as i64;
            bytes -= said.iter().map(|frame| ip_bytes(frame) as i64).sum::<i64>();
            prop_assert!(frames >= 0 && bytes >= 0, "{} frames, {} bytes", frames, bytes);
        }
        // Nothing comes later either: no timer answers a stranger.
        for seconds in [1, 5, 60, 600] {
            prop_assert_eq!(bed.turn(now + Duration::from_secs(seconds), &[]).len(), 0);
        }
    }
}

#[test]
fn each_kind_of_answer_is_no_longer_than_what_asked_for_it() {
    let mut seen = BTreeSet::new();
    let plain = Segment {
        v6: false,
        control: TcpControl::Syn,
        ack: None,
        to: PORT,
        port: 40_000,
        options: false,
        payload: Vec::new(),
    };
    let mut asked = vec![arp(), solicitation(), ping(false, b""), ping(true, b"")];
    for v6 in [false, true] {
        for options in [false, true] {
            asked.push(segment(&Segment { v6, options, ..plain.clone() }));
        }
        let ack = Some(77);
        asked.push(segment(&Segment { v6, control: TcpControl::None, ack, ..plain.clone() }));
        asked.push(segment(&Segment { v6, control: TcpControl::Syn, ack, ..plain.clone() }));
        asked.push(segment(&Segment { v6, to: 9, ..plain.clone() }));
    }
    let mut now = Instant::from_millis(1_000);
    for frame in &asked {
        // Alone, so that no budget of the whole can hide a single one that grows.
        let mut bed = Bed::new(1_000);
        now += Duration::from_secs(1);
        let said = bed.turn(now, std::slice::from_ref(frame));
        assert!(said.len() <= 1, "{frame:02x?}");
        for answer in &said {
            assert!(ip_bytes(answer) <= ip_bytes(frame), "{} {frame:02x?}", kind(answer));
            seen.insert(kind(answer));
        }
    }
    // The stateless close: the cookie comes back with nothing but FIN.
    let mut bed = Bed::new(1_000);
    let said = bed.turn(now, &[segment(&plain)]);
    let cookie = u32::from_be_bytes([said[0][38], said[0][39], said[0][40], said[0][41]]);
    let hangs_up = Segment { control: TcpControl::Fin, ack: Some(cookie.wrapping_add(1)), ..plain.clone() };
    let mut frame = segment(&hangs_up);
    // Its number follows the SYN's.
    frame = renumbered(&frame, 1_001, &hangs_up);
    let said = bed.turn(now, std::slice::from_ref(&frame));
    assert_eq!(said.len(), 1);
    assert!(ip_bytes(&said[0]) <= ip_bytes(&frame));
    seen.insert(kind(&said[0]));
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        ["advertisement", "arp reply", "echo reply", "echo reply v6", "fin", "reset", "syn-ack"]
    );
}

/// The same segment over IPv4 with another sequence number.
fn renumbered(frame: &[u8], seq: u32, of: &Segment) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let mut tcp = TcpPacket::new_unchecked(&mut frame[ETHERNET + 20..]);
    tcp.set_seq_number(TcpSeqNumber(seq as i32));
    assert!(!of.v6);
    tcp.fill_checksum(&ip("203.0.113.9").into(), &ip("203.0.113.1").into());
    frame
}

#[test]
fn a_prefix_is_sent_no_more_than_its_cap() {
    let mut bed = Bed::new(100);
    let now = Instant::from_millis(1_000);
    let mut said = 0;
    for port in 1..=5_000u16 {
        let v6 = false;
        let control = if port % 2 == 0 { TcpControl::Syn } else { TcpControl::None };
        let ack = (port % 2 == 1).then_some(9);
        let asked = Segment { v6, control, ack, to: PORT, port, options: true, payload: Vec::new() };
        said += bed.turn(now, &[segment(&asked)]).len();
    }
    // Two seconds' worth at once, SYN-ACKs and resets together.
    assert!((200..=202).contains(&said), "{said}");
}
