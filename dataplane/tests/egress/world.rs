//! A box with shards between two links, and packets for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::admit::Limits;
use hedgerow_dataplane::egress::{Allow, EgressConfig, EgressNode, Inspect, Protocol, Rules};
use hedgerow_dataplane::frame::{Abilities, BATCH, Batch, Frame, Meta, Pool};
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::screen::{Master, ScreenConfig};
use hedgerow_dataplane::shard::{
    Accept, Config, Exchange, ExchangeConfig, Listener, Shard, ShardIndex, ShardLink,
};
use hedgerow_dataplane::tcp::EngineConfig;
use hedgerow_dataplane::wire::{Address, LinkId, Mac, PrefixSet};
use hedgerow_dataplane::{Instant, Reason};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4DstUnreachable,
    Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol, IpRepr, Ipv4Packet,
    Ipv6Packet, NdiscNeighborFlags, NdiscRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket,
    UdpRepr,
};

pub(crate) const OUTER: LinkId = LinkId(0);
pub(crate) const INNER: LinkId = LinkId(1);
pub(crate) const SLOT: usize = 2_048;
pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OURS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
pub(crate) const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
pub(crate) const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 9);
pub(crate) const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
pub(crate) const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 78);
pub(crate) const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x77);
pub(crate) const FIRST_PORT: u16 = 40_000;
pub(crate) const BLOCK: u16 = 64;
pub(crate) const SESSIONS: usize = 128;
pub(crate) const LISTENS: u16 = 8_444;

pub(crate) struct Heap {
    slots: Vec<[u8; SLOT]>,
    pub(crate) free: Vec<u32>,
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

pub(crate) fn mac(ip: IpAddr) -> Mac {
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

pub(crate) fn ours(link: LinkId) -> Mac {
    Mac([2, 0, 0, 0, 0, link.0])
}

/// A box with shards between two links, and the time.
pub(crate) struct World {
    pub(crate) shards: Vec<Shard>,
    pub(crate) pool: Heap,
    pub(crate) now: Instant,
}

pub(crate) fn config(index: u16, shards: u16, mtu: u16, exchange: Option<Arc<Exchange>>) -> Config {
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
pub(crate) fn rules(open: bool) -> Arc<Rules> {
    rules_inspecting(open, &[Inspect::default(), Inspect::default()])
}

/// The same, and some of what each node begins is inspected.
pub(crate) fn rules_inspecting(open: bool, inspect: &[Inspect; 2]) -> Arc<Rules> {
    let anything = |protocol| Allow { protocol, ports: 1..=65_535, to: None };
    let allow: Arc<[Allow]> = [Protocol::Tcp, Protocol::Udp, Protocol::Icmp].map(anything).into();
    let node = |addresses: Vec<Address>, block: u16| EgressNode {
        addresses,
        link: INNER,
        open,
        block,
        allow: allow.clone(),
        inspect: inspect[usize::from(block)].clone(),
    };
    let ours = [IpAddr::from(OURS), OURS_V6.into(), INSIDE.into(), INSIDE_V6.into()];
    let refused = PrefixSet::new(ours.map(|ip| hedgerow_dataplane::wire::Prefix::host(ip.into())));
    let nodes = vec![
        node(vec![Address::from(NODE), Address::from(NODE_V6)], 0),
        node(vec![Address::from(OTHER_NODE)], 1),
    ];
    Arc::new(Rules::new(nodes, refused))
}

impl World {
    pub(crate) fn new(shards: u16, mtu: u16) -> World {
        World::with(shards, |index, exchange| config(index, shards, mtu, exchange))
    }

    /// A box whose shards are configured otherwise.
    pub(crate) fn with(shards: u16, config: impl Fn(u16, Option<Arc<Exchange>>) -> Config) -> World {
        let exchange = (shards > 1).then(|| {
            let size = ExchangeConfig { shards, flows: 256, frame_bytes: vec![SLOT; 2], seed: [5; 32] };
            Exchange::new(&size, Box::new(|_| {}))
        });
        let shard = |index| Shard::new(&config(index, exchange.clone()), Instant::ZERO);
        let mut made = World {
            shards: (0..shards).map(shard).collect(),
            pool: Heap { slots: vec![[0; SLOT]; 1_024], free: (0..1_024).collect() },
            now: Instant::ZERO + Duration::from_secs(1),
        };
        made.open(true);
        made
    }

    pub(crate) fn open(&mut self, open: bool) {
        for shard in &mut self.shards {
            shard.set_egress(rules(open));
            shard.advance(self.now);
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
        // A sweep looks at a part of the table.
        for _ in 0..8 {
            self.now += Duration::from_millis(250);
            self.shards.iter_mut().for_each(|shard| shard.advance(self.now));
        }
    }

    /// Lets a shard have a frame, and gives what is sent on each link in the end. Neighbours are answered for.
    pub(crate) fn give(
        &mut self,
        shard: usize,
        link: LinkId,
        bytes: Vec<u8>,
        meta: Meta,
    ) -> [Vec<(Vec<u8>, Meta)>; 2] {
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

    pub(crate) fn ingest(
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

    pub(crate) fn transmit(&mut self, at: usize, link: LinkId, sent: &mut [Vec<(Vec<u8>, Meta)>; 2]) {
        let mut tx = Batch::new();
        self.shards[at].transmit(self.now, link, &mut self.pool, &mut tx, BATCH);
        self.drain(link, &mut tx, sent);
    }

    pub(crate) fn drain(&mut self, link: LinkId, tx: &mut Batch, sent: &mut [Vec<(Vec<u8>, Meta)>; 2]) {
        for (frame, meta) in tx.drain(BATCH) {
            sent[usize::from(link.0)].push((self.pool.bytes(&frame).to_vec(), meta));
            self.pool.release(frame);
        }
    }

    /// The one packet that comes out on a link, its checksums verified; nothing comes out on the other.
    pub(crate) fn one(&mut self, shard: usize, link: LinkId, packet: Vec<u8>, out: LinkId) -> Seen {
        let sent = self.give(shard, link, packet, Meta::default());
        let other = usize::from(1 - out.0);
        assert!(sent[other].is_empty(), "{:?}", sent[other]);
        let [(bytes, _)] = &sent[usize::from(out.0)][..] else { panic!("{:?}", sent[usize::from(out.0)]) };
        see(bytes)
    }

    /// Nothing comes out anywhere, and the reason is this.
    pub(crate) fn none(&mut self, shard: usize, link: LinkId, packet: Vec<u8>, reason: Reason) {
        let before = self.count(reason);
        let sent = self.give(shard, link, packet, Meta::default());
        assert!(sent.iter().all(Vec::is_empty), "{sent:?}");
        assert_eq!(self.count(reason), before + 1, "{:?}", self.reasons());
    }

    pub(crate) fn count(&self, reason: Reason) -> u64 {
        self.shards.iter().map(|shard| shard.statistics().reasons[reason]).sum()
    }

    pub(crate) fn reasons(&self) -> Vec<(Reason, u64)> {
        self.shards.iter().flat_map(|s| s.statistics().reasons.iter().collect::<Vec<_>>()).collect()
    }
}

/// What a neighbour answers to a question about it.
pub(crate) fn answer(bytes: &[u8]) -> Option<Vec<u8>> {
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

pub(crate) fn ethernet(from: Mac, to: Mac, ethertype: EthernetProtocol, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + body.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(EthernetAddress(from.0));
    frame.set_dst_addr(EthernetAddress(to.0));
    frame.set_ethertype(ethertype);
    frame.payload_mut().copy_from_slice(body);
    bytes
}

pub(crate) fn ip_packet(
    from: IpAddr,
    to: IpAddr,
    protocol: IpProtocol,
    hop_limit: u8,
    body: &[u8],
) -> Vec<u8> {
    let repr = IpRepr::new(from.into(), to.into(), protocol, body.len(), hop_limit);
    let mut bytes = vec![0; repr.buffer_len()];
    repr.emit(&mut bytes[..], &ChecksumCapabilities::default());
    let start = repr.header_len();
    bytes[start..].copy_from_slice(body);
    bytes
}

/// A frame for us on a link.
pub(crate) fn frame(link: LinkId, from: IpAddr, to: IpAddr, protocol: IpProtocol, body: &[u8]) -> Vec<u8> {
    let ethertype = if from.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    ethernet(mac(from), ours(link), ethertype, &ip_packet(from, to, protocol, 64, body))
}

pub(crate) type End = (IpAddr, u16);

pub(crate) fn udp(link: LinkId, from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: from.1, dst_port: to.1 };
    let mut body = vec![0; repr.header_len() + payload.len()];
    let mut packet = UdpPacket::new_unchecked(&mut body);
    let (source, destination): (IpAddress, IpAddress) = (from.0.into(), to.0.into());
    let fill = |space: &mut [u8]| space.copy_from_slice(payload);
    repr.emit(&mut packet, &source, &destination, payload.len(), fill, &ChecksumCapabilities::default());
    frame(link, from.0, to.0, IpProtocol::Udp, &body)
}

pub(crate) fn tcp(
    link: LinkId,
    from: End,
    to: End,
    control: TcpControl,
    ack: Option<u32>,
    payload: &[u8],
) -> Vec<u8> {
    tcp_at(link, from, to, 1_000, control, ack, payload)
}

/// The same from any place in the stream.
pub(crate) fn tcp_at(
    link: LinkId,
    from: End,
    to: End,
    seq: u32,
    control: TcpControl,
    ack: Option<u32>,
    payload: &[u8],
) -> Vec<u8> {
    let repr = TcpRepr {
        src_port: from.1,
        dst_port: to.1,
        control,
        seq_number: TcpSeqNumber(seq as i32),
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

pub(crate) fn ping(link: LinkId, from: IpAddr, to: IpAddr, reply: bool, ident: u16) -> Vec<u8> {
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
pub(crate) enum What {
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
pub(crate) struct Seen {
    pub(crate) to: Mac,
    pub(crate) from: End,
    pub(crate) at: End,
    pub(crate) hop_limit: u8,
    pub(crate) what: What,
}

pub(crate) fn see(bytes: &[u8]) -> Seen {
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

pub(crate) fn transport(from: IpAddr, to: IpAddr, protocol: IpProtocol, body: &[u8]) -> ((u16, u16), What) {
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

pub(crate) fn message(body: &[u8], request: u8, reply: u8) -> ((u16, u16), What) {
    let ident = u16::from_be_bytes([body[4], body[5]]);
    match body[0] {
        kind if kind == request => ((ident, 0), What::Echo { reply: false }),
        kind if kind == reply => ((0, ident), What::Echo { reply: true }),
        kind => ((0, 0), What::Error(kind, body[1], body[8..].to_vec())),
    }
}

pub(crate) const NODE_END: End = (IpAddr::V4(NODE), 5_000);
pub(crate) const WORLD_END: End = (IpAddr::V4(WORLD), 53);

/// A node's UDP goes out and comes back; gives what it showed.
pub(crate) fn converse(world: &mut World, node: End, far: End) -> End {
    let out = world.one(0, INNER, udp(INNER, node, far, b"question"), OUTER);
    assert_eq!((out.at, out.to, out.hop_limit), (far, mac(far.0), 63));
    assert_eq!(out.what, What::Udp(b"question".to_vec()));
    let back = world.one(0, OUTER, udp(OUTER, far, out.from, b"answer"), INNER);
    assert_eq!((back.from, back.at, back.to, back.hop_limit), (far, node, mac(node.0), 63));
    assert_eq!(back.what, What::Udp(b"answer".to_vec()));
    out.from
}

/// Makes an IPv4 header's checksum right.
pub(crate) fn fix(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[14] == 0x45 || frame[14] == 0x47 {
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    }
    frame
}

pub(crate) fn unreachable(from: IpAddr, to: IpAddr, reason: Icmpv4DstUnreachable, quote: &[u8]) -> Vec<u8> {
    // smoltcp quotes by parts; the bytes are laid down by hand and checked by its code.
    let mut body = vec![0; 8 + quote.len()];
    body[0] = 3;
    body[1] = reason.into();
    body[6..8].copy_from_slice(&1_300u16.to_be_bytes());
    body[8..].copy_from_slice(quote);
    Icmpv4Packet::new_unchecked(&mut body).fill_checksum();
    frame(OUTER, from, to, IpProtocol::Icmp, &body)
}
