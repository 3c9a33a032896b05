//! The way out: what nodes send is passed on and answered, and nothing from outside ever begins anything.
//!
//! Packets are built and checked by another stack's code (smoltcp), so that a checksum that is kept right by what changes is
//! held against one that is made anew.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::egress::{Allow, EgressConfig, EgressNode, Protocol, Rules};
use hedgerow_dataplane::frame::{Abilities, BATCH, Batch, Checksum, Frame, Meta, Pool};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{
    Accept, Config, Exchange, ExchangeConfig, Listener, Shard, ShardIndex, ShardLink,
};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{Address, LinkId, Mac, PrefixSet};
use hedgerow_dataplane::{Instant, Reason};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable,
    Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, IpRepr,
    Ipv4Packet, Ipv6Packet, NdiscNeighborFlags, NdiscRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    UdpPacket, UdpRepr,
};

const OUTER: LinkId = LinkId(0);
const INNER: LinkId = LinkId(1);
const SLOT: usize = 2_048;
const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OURS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 9);
const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 78);
const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x77);
const FIRST_PORT: u16 = 40_000;
const BLOCK: u16 = 64;
const SESSIONS: usize = 128;
const LISTENS: u16 = 8_444;

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

fn mac(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            Mac([2, a, b, c, d, 4])
        }
        IpAddr::V6(ip) => {
            let [.., c, d] = ip.octets();
            Mac([2, 6, 6, c, d, 6])
        }
    }
}

fn ours(link: LinkId) -> Mac {
    Mac([2, 0, 0, 0, 0, link.0])
}

/// A box with shards between two links, and the time.
struct World {
    shards: Vec<Shard>,
    pool: Heap,
    now: Instant,
}

fn config(index: u16, shards: u16, mtu: u16, exchange: Option<Arc<Exchange>>) -> Config {
    let link = |link: LinkId, v4: Ipv4Addr, v6: Ipv6Addr, mtu: u16| {
        let abilities = Abilities {
            mac: ours(link),
            mtu,
            frame_bytes: SLOT,
            frames: 1_024,
            checksum: false,
            segmentation: 0,
            vlan: false,
            lanes: false,
            mode: "test".into(),
        };
        let own = |address: IpAddr, length| Prefix { address: address.into(), length };
        let link = LinkConfig {
            addresses: vec![own(v4.into(), 24), own(v6.into(), 64)],
            claiming: Claiming::Silent,
            ..LinkConfig::default()
        };
        ShardLink::new(LinkConfig { mtu, ..link }, &abilities)
    };
    Config {
        links: vec![link(OUTER, OURS, OURS_V6, mtu), link(INNER, INSIDE, INSIDE_V6, 1_500)],
        listeners: vec![Listener { link: OUTER, address: None, port: LISTENS, accept: Accept::Handshake }],
        admit: Limits::default(),
        engine: EngineConfig { flows: 64, time_waits: 64, blocks: 256, ..EngineConfig::default() },
        screen: ScreenConfig::default(),
        cookie_secret: Master([1; 32]),
        seed: [7 + index as u8; 32],
        index: ShardIndex::of(index, shards),
        exchange,
        egress: Some(EgressConfig {
            inner: vec![INNER],
            outer: OUTER,
            address: Some(Address::from(OURS)),
            first_port: FIRST_PORT,
            ports_per_node: BLOCK,
            sessions: SESSIONS,
            home: index == 0,
        }),
    }
}

/// Both nodes may go anywhere by any protocol, if they are open.
fn rules(open: bool) -> Arc<Rules> {
    let anything = |protocol| Allow { protocol, ports: 1..=65_535, to: None };
    let allow: Arc<[Allow]> = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].map(anything).into();
    let node = |addresses: Vec<Address>, block| EgressNode { addresses, open, block, allow: allow.clone() };
    let ours = [IpAddr::from(OURS), OURS_V6.into(), INSIDE.into(), INSIDE_V6.into()];
    let refused = PrefixSet::new(ours.map(|ip| hedgerow_dataplane::wire::Prefix::host(ip.into())));
    let nodes = vec![
        node(vec![Address::from(NODE), Address::from(NODE_V6)], 0),
        node(vec![Address::from(OTHER_NODE)], 1),
    ];
    Arc::new(Rules::new(nodes, refused))
}

impl World {
    fn new(shards: u16, mtu: u16) -> World {
        let exchange = (shards > 1).then(|| {
            let size = ExchangeConfig { shards, flows: 256, frame_bytes: vec![SLOT; 2], seed: [5; 32] };
            Exchange::new(&size, Box::new(|_| {}))
        });
        let shard = |index| Shard::new(&config(index, shards, mtu, exchange.clone()), Instant::ZERO);
        let mut made = World {
            shards: (0..shards).map(shard).collect(),
            pool: Heap { slots: vec![[0; SLOT]; 1_024], free: (0..1_024).collect() },
            now: Instant::ZERO + Duration::from_secs(1),
        };
        made.open(true);
        made
    }

    fn open(&mut self, open: bool) {
        for shard in &mut self.shards {
            shard.set_egress(rules(open));
            shard.advance(self.now);
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        // A sweep looks at a part of the table.
        for _ in 0..8 {
            self.now += Duration::from_millis(250);
            self.shards.iter_mut().for_each(|shard| shard.advance(self.now));
        }
    }

    /// Lets a shard have a frame, and gives what is sent on each link in the end. Neighbours are answered for.
    fn give(&mut self, shard: usize, link: LinkId, bytes: Vec<u8>, meta: Meta) -> [Vec<(Vec<u8>, Meta)>; 2] {
        let mut sent = [Vec::new(), Vec::new()];
        let mut work = vec![(shard, link, bytes, meta)];
        for _ in 0..4 {
            for (shard, link, bytes, meta) in std::mem::take(&mut work) {
                self.ingest(shard, link, &bytes, meta, &mut sent);
            }
            for shard in 0..self.shards.len() {
                for link in [OUTER, INNER] {
                    self.transmit(shard, link, &mut sent);
                }
            }
            for link in [OUTER, INNER] {
                let (asked, kept) = std::mem::take(&mut sent[usize::from(link.0)])
                    .into_iter()
                    .partition::<Vec<_>, _>(|(bytes, _)| answer(bytes).is_some());
                sent[usize::from(link.0)] = kept;
                work.extend(asked.iter().filter_map(|(b, _)| Some((0, link, answer(b)?, Meta::default()))));
            }
            self.now += Duration::from_millis(1);
        }
        assert_eq!(self.pool.free.len(), 1_024, "no frame is lost");
        sent
    }

    fn ingest(
        &mut self,
        at: usize,
        link: LinkId,
        bytes: &[u8],
        meta: Meta,
        sent: &mut [Vec<(Vec<u8>, Meta)>; 2],
    ) {
        let (mut rx, mut tx) = (Batch::new(), Batch::new());
        let mut frame = self.pool.allocate().expect("memory");
        assert!(self.pool.resize(&mut frame, bytes.len()));
        self.pool.bytes_mut(&mut frame).copy_from_slice(bytes);
        rx.push(frame, meta).expect("space");
        self.shards[at].ingest(self.now, link, &mut self.pool, &mut rx, &mut tx);
        self.drain(link, &mut tx, sent);
        for at in 0..self.shards.len() {
            for link in [OUTER, INNER] {
                while self.shards[at].ingest_handed(self.now, link, &mut self.pool, &mut rx, &mut tx) > 0 {}
                self.drain(link, &mut tx, sent);
            }
        }
    }

    fn transmit(&mut self, at: usize, link: LinkId, sent: &mut [Vec<(Vec<u8>, Meta)>; 2]) {
        let mut tx = Batch::new();
        self.shards[at].transmit(self.now, link, &mut self.pool, &mut tx, BATCH);
        self.drain(link, &mut tx, sent);
    }

    fn drain(&mut self, link: LinkId, tx: &mut Batch, sent: &mut [Vec<(Vec<u8>, Meta)>; 2]) {
        for (frame, meta) in tx.drain(BATCH) {
            sent[usize::from(link.0)].push((self.pool.bytes(&frame).to_vec(), meta));
            self.pool.release(frame);
        }
    }

    /// The one packet that comes out on a link, its checksums verified; nothing comes out on the other.
    fn one(&mut self, shard: usize, link: LinkId, packet: Vec<u8>, out: LinkId) -> Seen {
        let sent = self.give(shard, link, packet, Meta::default());
        let other = usize::from(1 - out.0);
        assert!(sent[other].is_empty(), "{:?}", sent[other]);
        let [(bytes, _)] = &sent[usize::from(out.0)][..] else { panic!("{:?}", sent[usize::from(out.0)]) };
        see(bytes)
    }

    /// Nothing comes out anywhere, and the reason is this.
    fn none(&mut self, shard: usize, link: LinkId, packet: Vec<u8>, reason: Reason) {
        let before = self.count(reason);
        let sent = self.give(shard, link, packet, Meta::default());
        assert!(sent.iter().all(Vec::is_empty), "{sent:?}");
        assert_eq!(self.count(reason), before + 1, "{:?}", self.reasons());
    }

    fn count(&self, reason: Reason) -> u64 {
        self.shards.iter().map(|shard| shard.statistics().reasons[reason]).sum()
    }

    fn reasons(&self) -> Vec<(Reason, u64)> {
        self.shards.iter().flat_map(|s| s.statistics().reasons.iter().collect::<Vec<_>>()).collect()
    }
}

/// What a neighbour answers to a question about it.
fn answer(bytes: &[u8]) -> Option<Vec<u8>> {
    let frame = EthernetFrame::new_checked(bytes).ok()?;
    let asker = Mac(frame.src_addr().0);
    match frame.ethertype() {
        EthernetProtocol::Arp => {
            let ArpRepr::EthernetIpv4 { source_protocol_addr, target_protocol_addr, .. } =
                ArpRepr::parse(&ArpPacket::new_checked(frame.payload()).ok()?).ok()?
            else {
                return None;
            };
            let repr = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(mac(target_protocol_addr.into()).0),
                source_protocol_addr: target_protocol_addr,
                target_hardware_addr: EthernetAddress(asker.0),
                target_protocol_addr: source_protocol_addr,
            };
            let mut body = vec![0; repr.buffer_len()];
            repr.emit(&mut ArpPacket::new_unchecked(&mut body));
            Some(ethernet(mac(target_protocol_addr.into()), asker, EthernetProtocol::Arp, &body))
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(frame.payload()).ok()?;
            let (asked_from, group) = (ip.src_addr(), ip.dst_addr());
            let message = Icmpv6Packet::new_checked(ip.payload()).ok()?;
            let checksums = ChecksumCapabilities::default();
            let Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. })) =
                Icmpv6Repr::parse(&asked_from, &group, &message, &checksums)
            else {
                return None;
            };
            let repr = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
                target_addr,
                lladdr: Some(EthernetAddress(mac(target_addr.into()).0).into()),
            });
            let mut body = vec![0; repr.buffer_len()];
            repr.emit(&target_addr, &asked_from, &mut Icmpv6Packet::new_unchecked(&mut body), &checksums);
            let ip = ip_packet(target_addr.into(), asked_from.into(), IpProtocol::Icmpv6, 255, &body);
            Some(ethernet(mac(target_addr.into()), asker, EthernetProtocol::Ipv6, &ip))
        }
        _ => None,
    }
}

fn ethernet(from: Mac, to: Mac, ethertype: EthernetProtocol, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + body.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(EthernetAddress(from.0));
    frame.set_dst_addr(EthernetAddress(to.0));
    frame.set_ethertype(ethertype);
    frame.payload_mut().copy_from_slice(body);
    bytes
}

fn ip_packet(from: IpAddr, to: IpAddr, protocol: IpProtocol, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let repr = IpRepr::new(from.into(), to.into(), protocol, body.len(), hop_limit);
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut bytes[..], &ChecksumCapabilities::default());
    let start = repr.header_len();
    bytes[start..].copy_from_slice(body);
    bytes
}

/// A frame for us on a link.
fn frame(link: LinkId, from: IpAddr, to: IpAddr, protocol: IpProtocol, body: &[u8]) -> Vec<u8> {
    let ethertype = if from.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    ethernet(mac(from), ours(link), ethertype, &ip_packet(from, to, protocol, 64, body))
}

type End = (IpAddr, u16);

fn udp(link: LinkId, from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: from.1, dst_port: to.1 };
    let mut body = vec![0; repr.header_len() + payload.len()];
    let mut packet = UdpPacket::new_unchecked(&mut body);
    let (source, destination): (IpAddress, IpAddress) = (from.0.into(), to.0.into());
    let fill = |space: &mut [u8]| space.copy_from_slice(payload);
    repr.emit(&mut packet, &source, &destination, payload.len(), fill, &ChecksumCapabilities::default());
    frame(link, from.0, to.0, IpProtocol::Udp, &body)
}

fn tcp(link: LinkId, from: End, to: End, control: TcpControl, ack: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: from.1,
        dst_port: to.1,
        control,
        seq_number: TcpSeqNumber(1_000),
        ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 1_000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload,
    };
    let mut body = vec![0; repr.buffer_len()];
    let mut packet = TcpPacket::new_unchecked(&mut body);
    repr.emit(&mut packet, &from.0.into(), &to.0.into(), &ChecksumCapabilities::default());
    frame(link, from.0, to.0, IpProtocol::Tcp, &body)
}

fn ping(link: LinkId, from: IpAddr, to: IpAddr, reply: bool, ident: u16) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    match (from, to) {
        (IpAddr::V4(_), _) => {
            let data = &b"are you there"[..];
            let repr = match reply {
                true => Icmpv4Repr::EchoReply { ident, seq_no: 1, data },
                false => Icmpv4Repr::EchoRequest { ident, seq_no: 1, data },
            };
            let mut body = vec![0; repr.buffer_len()];
            repr.emit(&mut Icmpv4Packet::new_unchecked(&mut body), &checksums);
            frame(link, from, to, IpProtocol::Icmp, &body)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let data = &b"are you there"[..];
            let repr = match reply {
                true => Icmpv6Repr::EchoReply { ident, seq_no: 1, data },
                false => Icmpv6Repr::EchoRequest { ident, seq_no: 1, data },
            };
            let mut body = vec![0; repr.buffer_len()];
            repr.emit(&source, &destination, &mut Icmpv6Packet::new_unchecked(&mut body), &checksums);
            frame(link, from, to, IpProtocol::Icmpv6, &body)
        }
        _ => panic!("mixed families"),
    }
}

/// What stands behind the IP header.
#[derive(Debug, Clone, PartialEq)]
enum What {
    Udp(Vec<u8>),
    Tcp {
        rst: bool,
        seq: u32,
        payload: Vec<u8>,
    },
    Echo {
        reply: bool,
    },
    /// An error with its type, code and the packet that it quotes.
    Error(u8, u8, Vec<u8>),
}

/// A packet that came out, verified.
#[derive(Debug, Clone)]
struct Seen {
    to: Mac,
    from: End,
    at: End,
    hop_limit: u8,
    what: What,
}

fn see(bytes: &[u8]) -> Seen {
    let frame = EthernetFrame::new_checked(bytes).expect("a frame");
    let to = Mac(frame.dst_addr().0);
    let (from, at, hop_limit, protocol, body) = match frame.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(frame.payload()).expect("a packet");
            assert!(ip.verify_checksum(), "IP header");
            let ends: (IpAddr, IpAddr) = (ip.src_addr().into(), ip.dst_addr().into());
            (ends.0, ends.1, ip.hop_limit(), ip.next_header(), ip.payload().to_vec())
        }
        _ => {
            let ip = Ipv6Packet::new_checked(frame.payload()).expect("a packet");
            let ends: (IpAddr, IpAddr) = (ip.src_addr().into(), ip.dst_addr().into());
            (ends.0, ends.1, ip.hop_limit(), ip.next_header(), ip.payload().to_vec())
        }
    };
    let (ports, what) = transport(from, at, protocol, &body);
    Seen { to, from: (from, ports.0), at: (at, ports.1), hop_limit, what }
}

fn transport(from: IpAddr, to: IpAddr, protocol: IpProtocol, body: &[u8]) -> ((u16, u16), What) {
    let (source, destination): (IpAddress, IpAddress) = (from.into(), to.into());
    match protocol {
        IpProtocol::Udp => {
            let udp = UdpPacket::new_checked(body).expect("UDP");
            assert!(udp.verify_checksum(&source, &destination), "UDP");
            ((udp.src_port(), udp.dst_port()), What::Udp(udp.payload().to_vec()))
        }
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(body).expect("TCP");
            assert!(tcp.verify_checksum(&source, &destination), "TCP");
            let seq = tcp.seq_number().0 as u32;
            let what = What::Tcp { rst: tcp.rst(), seq, payload: tcp.payload().to_vec() };
            ((tcp.src_port(), tcp.dst_port()), what)
        }
        IpProtocol::Icmp => {
            assert!(Icmpv4Packet::new_checked(body).expect("ICMP").verify_checksum(), "ICMP");
            message(body, 8, 0)
        }
        IpProtocol::Icmpv6 => {
            let (IpAddr::V6(source), IpAddr::V6(destination)) = (from, to) else { panic!("families") };
            let icmp = Icmpv6Packet::new_checked(body).expect("ICMPv6");
            assert!(icmp.verify_checksum(&source, &destination), "ICMPv6");
            message(body, 128, 129)
        }
        other => panic!("{other:?}"),
    }
}

fn message(body: &[u8], request: u8, reply: u8) -> ((u16, u16), What) {
    let ident = u16::from_be_bytes([body[4], body[5]]);
    match body[0] {
        kind if kind == request => ((ident, 0), What::Echo { reply: false }),
        kind if kind == reply => ((0, ident), What::Echo { reply: true }),
        kind => ((0, 0), What::Error(kind, body[1], body[8..].to_vec())),
    }
}

const NODE_END: End = (IpAddr::V4(NODE), 5_000);
const WORLD_END: End = (IpAddr::V4(WORLD), 53);

/// A node's UDP goes out and comes back; gives what it showed.
fn converse(world: &mut World, node: End, far: End) -> End {
    let out = world.one(0, INNER, udp(INNER, node, far, b"question"), OUTER);
    assert_eq!((out.at, out.to, out.hop_limit), (far, mac(far.0), 63));
    assert_eq!(out.what, What::Udp(b"question".to_vec()));
    let back = world.one(0, OUTER, udp(OUTER, far, out.from, b"answer"), INNER);
    assert_eq!((back.from, back.at, back.to, back.hop_limit), (far, node, mac(node.0), 63));
    assert_eq!(back.what, What::Udp(b"answer".to_vec()));
    out.from
}

#[test]
fn udp_tcp_and_echo_go_out_under_our_address_and_come_back() {
    let mut world = World::new(1, 1_500);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    assert_eq!(shown.0, IpAddr::V4(OURS));
    assert!((FIRST_PORT..FIRST_PORT + BLOCK).contains(&shown.1));

    let far = (IpAddr::V4(WORLD), 8_444);
    let syn = world.one(0, INNER, tcp(INNER, NODE_END, far, TcpControl::Syn, None, b""), OUTER);
    let shown = syn.from;
    let answer = tcp(OUTER, far, shown, TcpControl::Syn, Some(1_001), b"");
    assert_eq!(world.one(0, OUTER, answer, INNER).at, NODE_END);
    let data = tcp(OUTER, far, shown, TcpControl::Psh, Some(1_001), b"a block");
    let data = world.one(0, OUTER, data, INNER);
    assert_eq!(data.what, What::Tcp { rst: false, seq: 1_000, payload: b"a block".to_vec() });

    let asked = world.one(0, INNER, ping(INNER, NODE.into(), WORLD.into(), false, 77), OUTER);
    assert_eq!(asked.from.0, IpAddr::V4(OURS));
    let answered = world.one(0, OUTER, ping(OUTER, WORLD.into(), OURS.into(), true, asked.from.1), INNER);
    assert_eq!((answered.at, answered.what), ((NODE.into(), 77), What::Echo { reply: true }));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 3);
    assert_eq!(world.shards[0].egress_traffic()[0].packets_in, 4);
}

/// RFC 4787, REQ-1 and REQ-8: one mapping for all destinations, and only those that were spoken to may answer by it.
#[test]
fn an_end_shows_the_same_port_to_all_and_only_those_it_spoke_to_may_answer() {
    let mut world = World::new(1, 1_500);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    let same_host = (IpAddr::V4(WORLD), 54);
    world.none(0, OUTER, udp(OUTER, same_host, shown, b"guess"), Reason::EgressUnsolicited);
    assert_eq!(converse(&mut world, NODE_END, same_host), shown);
    let stranger = (IpAddr::V4(STRANGER), 53);
    world.none(0, OUTER, udp(OUTER, stranger, shown, b"guess"), Reason::EgressUnsolicited);
    let other = converse(&mut world, (IpAddr::V4(OTHER_NODE), 5_000), WORLD_END);
    assert!((FIRST_PORT + BLOCK..FIRST_PORT + 2 * BLOCK).contains(&other.1), "a block for each node");
}

#[test]
fn whatever_comes_from_outside_begins_nothing() {
    let mut world = World::new(1, 1_500);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    let far = (IpAddr::V4(WORLD), 8_444);
    let tcp_shown = world.one(0, INNER, tcp(INNER, NODE_END, far, TcpControl::Syn, None, b""), OUTER).from;
    // Every port, by every protocol, from a stranger and from whom the node spoke to.
    for port in (1..=u16::MAX).filter(|port| ![LISTENS, shown.1, tcp_shown.1].contains(port)) {
        for source in [STRANGER, WORLD] {
            let to = (IpAddr::V4(OURS), port);
            let from = (IpAddr::V4(source), if port % 2 == 0 { 53 } else { 8_444 });
            for packet in [
                udp(OUTER, from, to, b"guess"),
                tcp(OUTER, from, to, TcpControl::Syn, None, b""),
                tcp(OUTER, from, to, TcpControl::None, Some(7), b"guess"),
                ping(OUTER, source.into(), OURS.into(), true, port),
            ] {
                let sent = world.give(0, OUTER, packet, Meta::default());
                assert!(sent[usize::from(INNER.0)].is_empty(), "{port}");
            }
        }
    }
    // A SYN does not even where there is a session, and a node's own addresses mean nothing outside.
    let syn = tcp(OUTER, far, tcp_shown, TcpControl::Syn, None, b"");
    world.none(0, OUTER, syn, Reason::EgressUnsolicited);
    for to in [IpAddr::V4(NODE), IpAddr::V6(NODE_V6)] {
        let from = if to.is_ipv4() { IpAddr::V4(WORLD) } else { IpAddr::V6(WORLD_V6) };
        world.none(0, OUTER, udp(OUTER, (from, 53), (to, 5_000), b"direct"), Reason::EgressUnsolicited);
        let syn = tcp(OUTER, (from, 53), (to, 8_444), TcpControl::Syn, None, b"");
        world.none(0, OUTER, syn, Reason::EgressUnsolicited);
        world.none(0, OUTER, ping(OUTER, from, to, false, 9), Reason::EgressUnsolicited);
    }
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 2);
}

#[test]
fn fragments_options_spoofed_and_broken_packets_are_refused() {
    let mut world = World::new(1, 1_500);
    let good = udp(INNER, NODE_END, WORLD_END, b"question");
    // Source routing, and the first fragment of a longer packet.
    let mut options = good.clone();
    let length = options.len();
    options.splice(34..34, [131, 7, 4, 192, 0, 2, 99, 0]);
    options[14] = 0x47;
    options[16..18].copy_from_slice(&((length - 14 + 8) as u16).to_be_bytes());
    world.none(0, INNER, fix(options), Reason::IpOptions);
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    world.none(0, INNER, fix(fragment), Reason::Fragment);
    let spoofed = udp(INNER, (IpAddr::V4(Ipv4Addr::new(10, 0, 0, 99)), 5_000), WORLD_END, b"who");
    world.none(0, INNER, spoofed, Reason::EgressUnknownNode);
    let mut last_hop = good.clone();
    last_hop[22] = 1;
    world.none(0, INNER, fix(last_hop), Reason::HopLimit);
    let metadata = (IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
    world.none(0, INNER, udp(INNER, NODE_END, metadata, b"secrets"), Reason::Martian);
    let mut unknown = good.clone();
    unknown[23] = 132;
    world.none(0, INNER, fix(unknown), Reason::UnknownProtocol);
    // A checksum that was wrong is wrong to its receiver, too.
    let mut broken = good;
    *broken.last_mut().unwrap() ^= 1;
    let sent = world.give(0, INNER, broken, Meta::default());
    let bytes = &sent[0][0].0;
    let ip = Ipv4Packet::new_checked(&bytes[14..]).unwrap();
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(ip.verify_checksum() && !udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
}

/// Makes an IPv4 header's checksum right.
fn fix(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[14] == 0x45 || frame[14] == 0x47 {
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    }
    frame
}

#[test]
fn a_node_that_may_not_is_told_at_once() {
    let mut world = World::new(1, 1_500);
    world.open(false);
    let told = |world: &mut World, packet: Vec<u8>, reason: Reason| {
        let before = world.count(reason);
        let seen = world.one(0, INNER, packet.clone(), INNER);
        let What::Error(kind, code, quote) = seen.what else { panic!("{:?}", seen.what) };
        let v6 = seen.from.0.is_ipv6();
        assert_eq!((kind, code), if v6 { (1, 1) } else { (3, 13) });
        assert!(packet[14..].starts_with(&quote));
        assert_eq!(seen.from.0, if v6 { IpAddr::V6(INSIDE_V6) } else { IpAddr::V4(INSIDE) });
        assert_eq!(world.count(reason), before + 1);
    };
    let syn = |to| tcp(INNER, NODE_END, (to, 8_444), TcpControl::Syn, None, b"");
    told(&mut world, syn(IpAddr::V4(WORLD)), Reason::EgressClosed);
    told(&mut world, udp(INNER, NODE_END, WORLD_END, b"question"), Reason::EgressClosed);
    let v6 = udp(INNER, (NODE_V6.into(), 5_000), (WORLD_V6.into(), 53), b"question");
    told(&mut world, v6, Reason::EgressClosed);
    world.open(true);
    // A node does not dial its own public address, nor the inner one.
    told(&mut world, syn(IpAddr::V4(OURS)), Reason::EgressRefused);
    // Nobody floods by what we say.
    let mut said = 0;
    for _ in 0..1_000 {
        said += world.give(0, INNER, syn(IpAddr::V4(OURS)), Meta::default())[1].len();
    }
    assert!((25..=600).contains(&said), "{said}: a hundred a second");
}

#[test]
fn what_is_closed_ends_and_its_connections_are_reset() {
    let mut world = World::new(1, 1_500);
    let far = (IpAddr::V4(WORLD), 8_444);
    let shown = world.one(0, INNER, tcp(INNER, NODE_END, far, TcpControl::Syn, None, b""), OUTER).from;
    let answer = tcp(OUTER, far, shown, TcpControl::Syn, Some(1_001), b"");
    world.one(0, OUTER, answer.clone(), INNER);
    world.open(false);
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 0);
    world.none(0, OUTER, answer, Reason::EgressUnsolicited);
    let data = tcp(INNER, NODE_END, far, TcpControl::None, Some(4_242), b"late");
    let seen = world.one(0, INNER, data, INNER);
    assert_eq!((seen.from, seen.at), (far, NODE_END));
    assert_eq!(seen.what, What::Tcp { rst: true, seq: 4_242, payload: Vec::new() });
    let reset = tcp(INNER, NODE_END, far, TcpControl::Rst, Some(4_242), b"");
    world.none(0, INNER, reset, Reason::EgressNoSession);
}

/// RFC 1191 and RFC 8201: the sender learns the next link's size; and what routers further out say reaches it, about its own
/// packet (RFC 5508, REQ-3 to REQ-5).
#[test]
fn path_mtu_is_honoured() {
    let mut world = World::new(1, 1_400);
    let seen = world.one(0, INNER, udp(INNER, NODE_END, WORLD_END, &[7; 1_400]), INNER);
    let What::Error(3, 4, quote) = seen.what else { panic!("{seen:?}") };
    assert!(quote.len() >= 28);
    let big = udp(INNER, (NODE_V6.into(), 5_000), (WORLD_V6.into(), 53), &[7; 1_400]);
    assert!(matches!(world.one(0, INNER, big, INNER).what, What::Error(2, 0, _)));
    assert_eq!(world.count(Reason::TooBig), 2);

    let node = (IpAddr::V4(NODE), 6_000);
    let out = udp(INNER, node, WORLD_END, &[7; 1_300]);
    let sent = world.give(0, INNER, out.clone(), Meta::default());
    let (outside, router) = (&sent[0][0].0, IpAddr::V4(STRANGER));
    for (error, bytes) in [(4, 576), (4, 28), (13, 28)] {
        let reason = if error == 4 { Icmpv4DstUnreachable::FragRequired } else { 13.into() };
        let quoted = &outside[14..14 + bytes.min(outside.len() - 14)];
        let packet = unreachable(router, OURS.into(), reason, quoted);
        let seen = world.one(0, OUTER, packet, INNER);
        assert_eq!((seen.from.0, seen.at.0), (router, IpAddr::V4(NODE)));
        let What::Error(3, code, quote) = seen.what else { panic!("{seen:?}") };
        assert_eq!((code, quote.len()), (error, bytes));
        // The quote is what the node sent, but for a hop.
        let mut sent = out[14..14 + bytes].to_vec();
        sent[8] -= 1;
        sent[10..12].copy_from_slice(&quote[10..12]);
        assert_eq!(sent, quote);
        assert!(Ipv4Packet::new_unchecked(&quote).verify_checksum());
    }
    // Errors about what no node sent reach nobody, nor such that come to another address than the quoted one.
    let mut other = outside[14..42].to_vec();
    other[20..22].copy_from_slice(&(FIRST_PORT + 3 * BLOCK).to_be_bytes());
    let sent = world.give(0, OUTER, unreachable(router, OURS.into(), 1.into(), &other), Meta::default());
    assert!(sent.iter().all(Vec::is_empty), "{sent:?}");
}

fn unreachable(from: IpAddr, to: IpAddr, reason: Icmpv4DstUnreachable, quote: &[u8]) -> Vec<u8> {
    // smoltcp quotes by parts; the bytes are laid down by hand and checked by its code.
    let mut body = vec![0; 8 + quote.len()];
    body[0] = 3;
    body[1] = reason.into();
    body[6..8].copy_from_slice(&1_300u16.to_be_bytes());
    body[8..].copy_from_slice(quote);
    Icmpv4Packet::new_unchecked(&mut body).fill_checksum();
    frame(OUTER, from, to, IpProtocol::Icmp, &body)
}

#[test]
fn ipv6_is_filtered_and_not_translated() {
    let mut world = World::new(1, 1_500);
    let (node, far): (End, End) = ((NODE_V6.into(), 5_000), (WORLD_V6.into(), 53));
    let out = world.one(0, INNER, udp(INNER, node, far, b"question"), OUTER);
    assert_eq!((out.from, out.at, out.hop_limit), (node, far, 63));
    let back = world.one(0, OUTER, udp(OUTER, far, node, b"answer"), INNER);
    assert_eq!((back.from, back.at, back.hop_limit), (far, node, 63));
    let other = (WORLD_V6.into(), 54);
    world.none(0, OUTER, udp(OUTER, other, node, b"guess"), Reason::EgressUnsolicited);
    let asked = world.one(0, INNER, ping(INNER, NODE_V6.into(), WORLD_V6.into(), false, 9), OUTER);
    assert_eq!(asked.from, (NODE_V6.into(), 9));
    world.one(0, OUTER, ping(OUTER, WORLD_V6.into(), NODE_V6.into(), true, 9), INNER);
    // An error about it comes in, and one about anything else does not.
    let quote = |port| udp(OUTER, (NODE_V6.into(), port), far, b"question")[14..].to_vec();
    for (port, comes) in [(5_000, true), (5_001, false)] {
        let quote = quote(port);
        let (header, data) = quote.split_at(40);
        let ip = Ipv6Packet::new_unchecked(header);
        let error = Icmpv6Repr::DstUnreachable {
            reason: Icmpv6DstUnreachable::NoRoute,
            header: smoltcp::wire::Ipv6Repr {
                src_addr: ip.src_addr(),
                dst_addr: ip.dst_addr(),
                next_header: IpProtocol::Udp,
                payload_len: data.len(),
                hop_limit: 60,
            },
            data,
        };
        let mut body = vec![0; error.buffer_len()];
        let checksums = ChecksumCapabilities::default();
        error.emit(&WORLD_V6, &NODE_V6, &mut Icmpv6Packet::new_unchecked(&mut body), &checksums);
        let packet = frame(OUTER, WORLD_V6.into(), NODE_V6.into(), IpProtocol::Icmpv6, &body);
        match comes {
            true => assert!(matches!(world.one(0, OUTER, packet, INNER).what, What::Error(1, 0, _))),
            false => world.none(0, OUTER, packet, Reason::EgressUnsolicited),
        }
    }
}

/// RFC 4787, REQ-5 and REQ-6; RFC 5382, REQ-5; RFC 5508, REQ-1.
#[test]
fn sessions_live_as_long_as_the_standards_say() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let mut world = World::new(1, 1_500);
    let far = (IpAddr::V4(WORLD), 8_444);
    let shown = converse(&mut world, NODE_END, WORLD_END);
    world.wait(minutes(4));
    // What comes from outside keeps nothing alive.
    world.one(0, OUTER, udp(OUTER, WORLD_END, shown, b"still there"), INNER);
    world.wait(minutes(1));
    world.none(0, OUTER, udp(OUTER, WORLD_END, shown, b"and now"), Reason::EgressUnsolicited);

    let asked = world.one(0, INNER, ping(INNER, NODE.into(), WORLD.into(), false, 77), OUTER);
    world.wait(Duration::from_secs(50));
    world.one(0, OUTER, ping(OUTER, WORLD.into(), OURS.into(), true, asked.from.1), INNER);
    world.wait(Duration::from_secs(10));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 0);

    let begin = |world: &mut World, port| {
        let node = (IpAddr::V4(NODE), port);
        let shown = world.one(0, INNER, tcp(INNER, node, far, TcpControl::Syn, None, b""), OUTER).from;
        (node, shown)
    };
    let (_, never_answered) = begin(&mut world, 1);
    let (node, established) = begin(&mut world, 2);
    let (_, closed) = begin(&mut world, 3);
    for shown in [established, closed] {
        world.one(0, OUTER, tcp(OUTER, far, shown, TcpControl::Syn, Some(1_001), b""), INNER);
    }
    world.one(0, INNER, tcp(INNER, (IpAddr::V4(NODE), 3), far, TcpControl::Fin, Some(1), b""), OUTER);
    world.one(0, OUTER, tcp(OUTER, far, closed, TcpControl::Fin, Some(1), b""), INNER);
    world.wait(minutes(3));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 3);
    world.wait(minutes(1));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 1, "{never_answered:?} and {closed:?} are over");
    world.wait(minutes(118));
    world.one(0, OUTER, tcp(OUTER, far, established, TcpControl::None, Some(1_001), b"news"), INNER);
    world.wait(minutes(123));
    world.one(0, INNER, tcp(INNER, node, far, TcpControl::None, Some(1_001), b""), OUTER);
    world.wait(minutes(124));
    assert_eq!(world.shards[0].egress_traffic()[0].sessions, 0);
    assert!(world.shards[0].egress_sessions().next().is_none());
}

#[test]
fn a_node_uses_up_its_own_share_and_no_more() {
    let mut world = World::new(1, 1_500);
    let mut ports = BTreeSet::new();
    for port in 1..=2 * BLOCK {
        let sent = world.give(0, INNER, udp(INNER, (NODE.into(), port), WORLD_END, b"q"), Meta::default());
        ports.extend(sent[0].iter().map(|(bytes, _)| see(bytes).from.1));
    }
    assert_eq!(ports.len(), usize::from(BLOCK), "each end has a port of its own");
    assert_eq!(world.count(Reason::EgressFull), u64::from(BLOCK));
    for port in 1..=10 {
        converse(&mut world, (OTHER_NODE.into(), port), WORLD_END);
    }
    assert_eq!(world.shards[0].egress_traffic().iter().map(|t| t.sessions).sum::<usize>(), 74);
    // An end that has a port may speak to more peers, up to the node's share of sessions.
    world.none(0, INNER, udp(INNER, (NODE.into(), 1), (WORLD.into(), 99), b"q"), Reason::EgressFull);
    world.wait(Duration::from_secs(300));
    converse(&mut world, (NODE.into(), 9_999), WORLD_END);
}

#[test]
fn any_shard_may_get_a_packet_and_floods_do_not_pass_between_them() {
    let mut world = World::new(3, 1_500);
    let far = (IpAddr::V4(WORLD), 8_444);
    let shown = world.one(2, INNER, udp(INNER, NODE_END, WORLD_END, b"question"), OUTER).from;
    for shard in [1, 0, 2] {
        let back = world.one(shard, OUTER, udp(OUTER, WORLD_END, shown, b"answer"), INNER);
        assert_eq!(back.at, NODE_END);
    }
    let syn = tcp(INNER, NODE_END, far, TcpControl::Syn, None, b"");
    let shown = world.one(1, INNER, syn, OUTER).from;
    for shard in [2, 1, 0] {
        let back = tcp(OUTER, far, shown, TcpControl::Syn, Some(1_001), b"");
        assert_eq!(world.one(shard, OUTER, back, INNER).at, NODE_END);
    }
    let asked = world.one(1, INNER, ping(INNER, NODE.into(), WORLD.into(), false, 77), OUTER);
    let answer = ping(OUTER, WORLD.into(), OURS.into(), true, asked.from.1);
    assert_eq!(world.one(2, OUTER, answer, INNER).at, (NODE.into(), 77));
    let handed = |world: &World| world.shards.iter().map(|s| s.statistics().handed_over).sum::<u64>();
    let before = handed(&world);
    for port in 1..200 {
        let guess = udp(OUTER, (STRANGER.into(), port), shown, b"guess");
        world.none(usize::from(port % 3), OUTER, guess, Reason::EgressUnsolicited);
    }
    assert_eq!(handed(&world), before);
}

/// A super-frame of a driver that merges is cut to what the other link carries, and a checksum that a local sender left
/// undone is made.
#[test]
fn super_frames_are_cut_and_partial_checksums_completed() {
    let mut world = World::new(1, 1_500);
    let far = (IpAddr::V4(WORLD), 8_444);
    world.one(0, INNER, tcp(INNER, NODE_END, far, TcpControl::Syn, None, b""), OUTER);
    let payload: Vec<u8> = (0..1_900u16).map(|n| n as u8).collect();
    let mut whole = tcp(INNER, NODE_END, far, TcpControl::Fin, Some(9), &payload);
    whole[50..52].copy_from_slice(&[0xab, 0xcd]);
    let meta =
        Meta { checksum: Checksum::Partial { start: 34, offset: 16 }, segment: 500, ..Meta::default() };
    let sent = world.give(0, INNER, whole.clone(), meta);
    let pieces: Vec<Seen> = sent[0].iter().map(|(bytes, _)| see(bytes)).collect();
    assert_eq!(pieces.len(), 4);
    let mut joined = Vec::new();
    for (n, piece) in pieces.iter().enumerate() {
        let What::Tcp { seq, payload, .. } = &piece.what else { panic!("{piece:?}") };
        assert_eq!(*seq as usize, 1_000 + 500 * n);
        joined.extend_from_slice(payload);
    }
    assert_eq!(joined, payload);
    let fin = |n: usize| TcpPacket::new_unchecked(&sent[0][n].0[34..]).fin();
    assert_eq!([0, 1, 2, 3].map(fin), [false, false, false, true]);
    let alone = Meta { segment: 0, ..meta };
    let short = {
        let mut short = tcp(INNER, NODE_END, far, TcpControl::None, Some(9), b"short");
        short[50..52].copy_from_slice(&[0xab, 0xcd]);
        short
    };
    let sent = world.give(0, INNER, short, alone);
    assert!(matches!(see(&sent[0][0].0).what, What::Tcp { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes come from either side: nothing panics, no frame is lost, nothing from outside reaches a node.
    #[test]
    fn no_bytes_from_outside_reach_a_node(
        kind in 0u8..4,
        flips in proptest::collection::vec((14usize..60, any::<u8>()), 0..4),
        cut in 42usize..80,
    ) {
        let mut world = World::new(1, 1_500);
        let shown = converse(&mut world, NODE_END, WORLD_END);
        let from = (IpAddr::V4(STRANGER), 53);
        let mut packet = match kind {
            0 => udp(OUTER, from, shown, b"a guess of some length, long enough"),
            1 => tcp(OUTER, from, shown, TcpControl::None, Some(1), b"a guess of some length"),
            2 => ping(OUTER, STRANGER.into(), OURS.into(), true, shown.1),
            _ => unreachable(STRANGER.into(), OURS.into(), 1.into(),
                &udp(OUTER, shown, from, b"a guess of some length, long enough")[14..]),
        };
        for (at, value) in flips {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        packet.truncate(cut);
        // The one who was spoken to may answer.
        let spoken = Ipv4Packet::new_checked(&packet[14..]).is_ok_and(|ip| ip.src_addr() == WORLD);
        prop_assume!(!spoken);
        let sent = world.give(0, OUTER, fix(packet), Meta::default());
        prop_assert!(sent[1].is_empty());
    }
}
