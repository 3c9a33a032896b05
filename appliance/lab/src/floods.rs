//! Attackers that need no stack: floods of raw frames from forged addresses, and strangers at real addresses who complete
//! the handshake and then say nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hedgerow_dataplane::Instant;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, IpRepr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr,
};

use crate::network::Source;
use crate::random::Random;
use crate::router::{self, ROUTER};

/// When an attack goes on, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The first frame.
    pub from: Instant,
    /// None from here on.
    pub until: Instant,
    /// Frames (or connections) a second.
    pub per_second: u32,
}

/// Where a [`Schedule`] stands.
#[derive(Clone, Copy, Debug)]
struct Ticker {
    schedule: Schedule,
    next: Instant,
}

impl Ticker {
    fn new(schedule: Schedule) -> Self {
        Ticker { schedule, next: schedule.from }
    }

    fn next(&self) -> Option<Instant> {
        (self.schedule.per_second > 0 && self.next < self.schedule.until).then_some(self.next)
    }

    /// Counts the frames that are due.
    fn due(&mut self, now: Instant) -> usize {
        let gap = Duration::from_secs(1) / self.schedule.per_second.max(1);
        let mut count = 0;
        while self.next().is_some_and(|next| next <= now) {
            self.next += gap;
            count += 1;
        }
        count
    }
}

/// A TCP segment as a frame from the router.
pub(crate) fn segment(from: SocketAddr, to: SocketAddr, tcp: &TcpRepr<'_>) -> Vec<u8> {
    let (source, destination): (IpAddress, IpAddress) = (from.ip().into(), to.ip().into());
    let ip = IpRepr::new(source, destination, IpProtocol::Tcp, tcp.buffer_len(), 57);
    let mut frame = vec![0; 14 + ip.buffer_len()];
    let ethertype = if from.is_ipv4() { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 };
    EthernetRepr {
        src_addr: EthernetAddress(ROUTER.0),
        dst_addr: EthernetAddress([2, 0x68, 0, 0, 0, 1]),
        ethertype,
    }
    .emit(&mut EthernetFrame::new_unchecked(&mut frame));
    let checksums = ChecksumCapabilities::default();
    ip.emit(&mut frame[14..], &checksums);
    let start = 14 + ip.header_len();
    tcp.emit(&mut TcpPacket::new_unchecked(&mut frame[start..]), &source, &destination, &checksums);
    frame
}

pub(crate) fn bare<'a>(from: u16, to: u16, control: TcpControl, seq: u32, ack: Option<u32>) -> TcpRepr<'a> {
    TcpRepr {
        src_port: from,
        dst_port: to,
        control,
        seq_number: TcpSeqNumber(seq as i32),
        ack_number: ack.map(|ack| TcpSeqNumber(ack as i32)),
        window_len: 64_240,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// A forged source: an address of the service's family that a router would carry, and at which nobody of this world lives.
fn forged(service: SocketAddr, random: &mut Random) -> SocketAddr {
    let port = random.between(1_024, 65_536) as u16;
    let ip: IpAddr = if service.is_ipv4() {
        let first = [5, 23, 37, 45, 64, 77, 83, 93, 104, 134, 151, 178, 188, 193, 203, 217]
            [random.below(16) as usize];
        let [_, b, c, d] = (random.next() as u32).to_be_bytes();
        Ipv4Addr::new(first, b.clamp(1, 112), c, d.clamp(1, 254)).into()
    } else {
        let mut bytes = [0; 16];
        random.fill(&mut bytes);
        bytes[..4].copy_from_slice(&[0x2a, 0x02, 0x08, 0x10]);
        Ipv6Addr::from(bytes).into()
    };
    SocketAddr::new(ip, port)
}

/// SYNs from forged addresses.
pub struct SynFlood {
    service: SocketAddr,
    ticker: Ticker,
    random: Random,
}

impl SynFlood {
    /// A flood against `service`.
    pub fn new(service: SocketAddr, schedule: Schedule, random: Random) -> Self {
        SynFlood { service, ticker: Ticker::new(schedule), random }
    }
}

impl Source for SynFlood {
    fn next(&self) -> Option<Instant> {
        self.ticker.next()
    }

    fn fire(&mut self, now: Instant, send: &mut Vec<Vec<u8>>) {
        for _ in 0..self.ticker.due(now) {
            let from = forged(self.service, &mut self.random);
            let mut syn =
                bare(from.port(), self.service.port(), TcpControl::Syn, self.random.next() as u32, None);
            if self.random.chance(900_000) {
                syn.max_seg_size = Some(1_460);
                syn.sack_permitted = true;
                syn.window_scale = Some(7);
                let tsval = self.random.next() as u32;
                syn.timestamp = self.random.chance(800_000).then_some(TcpTimestampRepr { tsval, tsecr: 0 });
            }
            send.push(segment(from, self.service, &syn));
        }
    }

    fn covers(&self, _: IpAddr) -> bool {
        false
    }

    fn hear(&mut self, _: Instant, _: &[u8], _: &mut Vec<Vec<u8>>) {}
}

/// Data segments that guess cookies, from forged addresses.
pub struct AckFlood {
    service: SocketAddr,
    ticker: Ticker,
    random: Random,
}

impl AckFlood {
    /// A flood against `service`.
    pub fn new(service: SocketAddr, schedule: Schedule, random: Random) -> Self {
        AckFlood { service, ticker: Ticker::new(schedule), random }
    }
}

impl Source for AckFlood {
    fn next(&self) -> Option<Instant> {
        self.ticker.next()
    }

    fn fire(&mut self, now: Instant, send: &mut Vec<Vec<u8>>) {
        for _ in 0..self.ticker.due(now) {
            let from = forged(self.service, &mut self.random);
            let (seq, ack) = (self.random.next() as u32, self.random.next() as u32);
            let mut data = bare(from.port(), self.service.port(), TcpControl::Psh, seq, Some(ack));
            data.payload = &HELLO;
            send.push(segment(from, self.service, &data));
        }
    }

    fn covers(&self, _: IpAddr) -> bool {
        false
    }

    fn hear(&mut self, _: Instant, _: &[u8], _: &mut Vec<Vec<u8>>) {}
}

/// How a TLS ClientHello begins.
const HELLO: [u8; 11] = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];

/// Strangers at real addresses: they take part in the handshake and then keep silent.
pub struct Silent {
    service: SocketAddr,
    ticker: Ticker,
    random: Random,
    /// Their addresses lie in this /16.
    network: [u8; 2],
    /// Send the first bytes of a ClientHello, and no more.
    begins: bool,
}

impl Silent {
    /// Strangers in one IPv4 /16 against `service`; those who begin send eleven bytes of a ClientHello.
    pub fn new(
        service: SocketAddr,
        schedule: Schedule,
        network: [u8; 2],
        begins: bool,
        random: Random,
    ) -> Self {
        Silent { service, ticker: Ticker::new(schedule), random, network, begins }
    }
}

impl Source for Silent {
    fn next(&self) -> Option<Instant> {
        self.ticker.next()
    }

    fn fire(&mut self, now: Instant, send: &mut Vec<Vec<u8>>) {
        for _ in 0..self.ticker.due(now) {
            let [a, b] = self.network;
            let c = self.random.below(256) as u8;
            let address = Ipv4Addr::new(a, b, c, self.random.between(1, 255) as u8);
            let from = SocketAddr::new(address.into(), self.random.between(1_024, 65_536) as u16);
            let seq = self.random.next() as u32;
            let mut syn = bare(from.port(), self.service.port(), TcpControl::Syn, seq, None);
            syn.max_seg_size = Some(1_460);
            send.push(segment(from, self.service, &syn));
        }
    }

    fn covers(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if v4.octets()[..2] == self.network)
    }

    fn hear(&mut self, _: Instant, frame: &[u8], send: &mut Vec<Vec<u8>>) {
        let Some((_, own, syn_ack)) = router::tcp(frame) else { return };
        if syn_ack.control != TcpControl::Syn || syn_ack.ack_number.is_none() {
            return;
        }
        let Some(ack) = syn_ack.ack_number else { return };
        let next = (syn_ack.seq_number + 1).0 as u32;
        let from = SocketAddr::new(own, syn_ack.dst_port);
        let answer = bare(from.port(), self.service.port(), TcpControl::None, ack.0 as u32, Some(next));
        send.push(segment(from, self.service, &answer));
        if self.begins {
            send.push(segment(
                from,
                self.service,
                &TcpRepr { control: TcpControl::Psh, payload: &HELLO, ..answer },
            ));
        }
    }
}

/// Frames that no stack sends: good ones with bytes changed, cut or made up.
pub struct Malformed {
    service: SocketAddr,
    ticker: Ticker,
    random: Random,
}

impl Malformed {
    /// A stream of them against `service`.
    pub fn new(service: SocketAddr, schedule: Schedule, random: Random) -> Self {
        Malformed { service, ticker: Ticker::new(schedule), random }
    }
}

impl Source for Malformed {
    fn next(&self) -> Option<Instant> {
        self.ticker.next()
    }

    fn fire(&mut self, now: Instant, send: &mut Vec<Vec<u8>>) {
        for _ in 0..self.ticker.due(now) {
            let from = forged(self.service, &mut self.random);
            let mut repr = bare(from.port(), self.service.port(), TcpControl::Syn, 1, None);
            repr.max_seg_size = Some(1_460);
            let mut frame = segment(from, self.service, &repr);
            match self.random.below(4) {
                0 => frame.truncate(self.random.between(1, frame.len() as u64) as usize),
                1 => self.random.fill(&mut frame[14..]),
                2 => {
                    let at = self.random.between(14, frame.len() as u64) as usize;
                    frame[at] ^= 1 << self.random.below(8);
                }
                _ => {
                    // Every flag at once, with a checksum that fits.
                    let mut christmas =
                        TcpRepr { control: TcpControl::Rst, ack_number: Some(TcpSeqNumber(1)), ..repr };
                    christmas.max_seg_size = None;
                    frame = segment(from, self.service, &christmas);
                    set_flags(&mut frame, self.service, from, 0x3f);
                }
            }
            send.push(frame);
        }
    }

    fn covers(&self, _: IpAddr) -> bool {
        false
    }

    fn hear(&mut self, _: Instant, _: &[u8], _: &mut Vec<Vec<u8>>) {}
}

fn set_flags(frame: &mut [u8], service: SocketAddr, from: SocketAddr, flags: u8) {
    let start = if service.is_ipv4() { 34 } else { 54 };
    let Some(place) = frame.get_mut(start + 13) else { return };
    *place = flags;
    TcpPacket::new_unchecked(&mut frame[start..]).fill_checksum(&from.ip().into(), &service.ip().into());
}
