//! Frames of floods, made once and sent again and again: forged sources, complete checksums.

use std::net::{Ipv4Addr, SocketAddrV4};

/// What a flood consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// SYNs as Linux sends them, with all their options.
    Syn,
    /// SYN-ACKs that nobody asked for.
    SynAck,
    /// Bare ACKs with a cookie that nobody gave out.
    Ack,
    /// Data segments with a cookie that nobody gave out.
    Data,
    /// RSTs.
    Rst,
    /// FINs.
    Fin,
    /// UDP datagrams to the service port.
    Udp,
    /// ICMP echo requests.
    Icmp,
    /// First fragments of TCP segments.
    Fragment,
    /// SYNs with a wrong TCP checksum.
    Malformed,
    /// All of the above in turn.
    Mixed,
}

impl Kind {
    /// Every kind but the mixture.
    pub const PLAIN: [Kind; 10] = [
        Kind::Syn,
        Kind::SynAck,
        Kind::Ack,
        Kind::Data,
        Kind::Rst,
        Kind::Fin,
        Kind::Udp,
        Kind::Icmp,
        Kind::Fragment,
        Kind::Malformed,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Syn => "syn",
            Kind::SynAck => "syn-ack",
            Kind::Ack => "ack",
            Kind::Data => "data",
            Kind::Rst => "rst",
            Kind::Fin => "fin",
            Kind::Udp => "udp",
            Kind::Icmp => "icmp",
            Kind::Fragment => "fragment",
            Kind::Malformed => "malformed",
            Kind::Mixed => "mixed",
        }
    }
}

/// Where frames go.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    /// Ethernet address that they come from.
    pub from: [u8; 6],
    /// Ethernet address of the box.
    pub to: [u8; 6],
    /// Address of the service.
    pub address: Ipv4Addr,
    /// Its TCP port.
    pub port: u16,
}

/// Forged sources are in 10.64.0.0/10.
pub const SOURCES: &str = "10.64.0.0/10";

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const PSH: u8 = 8;
/// MSS 1460, SACK permitted, timestamps, window scale 7, in the order of Linux.
const OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 1, 1, 0, 0, 0, 0, 1, 3, 3, 7];
/// The beginning of a TLS record with a ClientHello, so that only the cookie is wrong.
const HELLO: [u8; 11] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// `count` frames of a kind, each with a source, a port and a sequence number of its own.
pub fn frames(kind: Kind, aim: Aim, count: usize) -> Vec<Vec<u8>> {
    (0..count as u32)
        .map(|number| match kind {
            Kind::Mixed => frame(Kind::PLAIN[number as usize % Kind::PLAIN.len()], aim, number),
            kind => frame(kind, aim, number),
        })
        .collect()
}

/// Data segments that seem to belong to connections of `peers`, with sequence numbers far from what is expected of them.
pub fn out_of_window(aim: Aim, peers: &[SocketAddrV4], count: usize) -> Vec<Vec<u8>> {
    let frame = |(number, peer): (u32, &SocketAddrV4)| {
        let mut segment = tcp(aim, scatter(number), ACK | PSH, &[], &HELLO);
        segment[..2].copy_from_slice(&peer.port().to_be_bytes());
        ipv4(aim, *peer.ip(), 6, segment, 16, 0x4000)
    };
    (0..count as u32).zip(peers.iter().cycle()).map(frame).collect()
}

/// UDP datagrams of a node at 10.2.0.2: from so many of its ports, to so many hosts among the forged sources each.
pub fn outward(from: [u8; 6], to: [u8; 6], ports: u16, hosts: u8) -> Vec<Vec<u8>> {
    let datagram = |(port, host): (u16, u8)| {
        let aim = Aim { from, to, address: Ipv4Addr::new(10, 64, 7, host), port: 8444 };
        let udp =
            [&(5_000 + port).to_be_bytes()[..], &aim.port.to_be_bytes(), &[0, 72, 0, 0], &[7; 64]].concat();
        ipv4(aim, Ipv4Addr::new(10, 2, 0, 2), 17, udp, 6, 0x4000)
    };
    (0..ports).flat_map(|port| (0..hosts).map(move |host| (port, host + 1))).map(datagram).collect()
}

/// Spreads neighbouring numbers (Knuth's multiplicative hash).
fn scatter(number: u32) -> u32 {
    (number + 1).wrapping_mul(2_654_435_761)
}

fn frame(kind: Kind, aim: Aim, number: u32) -> Vec<u8> {
    let noise = scatter(number);
    let source = Ipv4Addr::from(0x0a40_0000 | noise >> 10);
    match kind {
        Kind::Udp => {
            let udp = [&port(noise)[..], &aim.port.to_be_bytes(), &[0, 40, 0, 0], &[7; 32]].concat();
            ipv4(aim, source, 17, udp, 6, 0x4000)
        }
        Kind::Icmp => {
            let mut icmp = [&[8, 0, 0, 0][..], &noise.to_be_bytes(), &[7; 56]].concat();
            let sum = checksum(&icmp, 0);
            icmp[2..4].copy_from_slice(&sum);
            ipv4_header(aim, source, 1, icmp, 0x4000)
        }
        Kind::Fragment => {
            ipv4(aim, source, 6, tcp(aim, noise, SYN, &OPTIONS, &[7; 24]), 16, 0x2000) // more fragments follow
        }
        Kind::Malformed => {
            let mut bytes = ipv4(aim, source, 6, tcp(aim, noise, SYN, &OPTIONS, &[]), 16, 0x4000);
            bytes[50] ^= 0x55;
            bytes
        }
        Kind::Syn => ipv4(aim, source, 6, tcp(aim, noise, SYN, &OPTIONS, &[]), 16, 0x4000),
        Kind::SynAck => ipv4(aim, source, 6, tcp(aim, noise, SYN | ACK, &OPTIONS, &[]), 16, 0x4000),
        Kind::Ack => ipv4(aim, source, 6, tcp(aim, noise, ACK, &[], &[]), 16, 0x4000),
        Kind::Data | Kind::Mixed => ipv4(aim, source, 6, tcp(aim, noise, ACK | PSH, &[], &HELLO), 16, 0x4000),
        Kind::Rst => ipv4(aim, source, 6, tcp(aim, noise, RST, &[], &[]), 16, 0x4000),
        Kind::Fin => ipv4(aim, source, 6, tcp(aim, noise, FIN | ACK, &[], &[]), 16, 0x4000),
    }
}

/// A port above the well-known ones.
fn port(noise: u32) -> [u8; 2] {
    (1024 + (noise % 64_000) as u16).to_be_bytes()
}

fn tcp(aim: Aim, noise: u32, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let acknowledgement = if flags & ACK == 0 { 0 } else { scatter(noise ^ 0x5a5a) };
    let mut tcp = Vec::with_capacity(20 + options.len() + payload.len());
    tcp.extend(port(noise));
    tcp.extend(aim.port.to_be_bytes());
    tcp.extend(scatter(noise).to_be_bytes());
    tcp.extend(acknowledgement.to_be_bytes());
    tcp.extend([(20 + options.len() as u8) << 2, flags, 0xfa, 0xf0, 0, 0, 0, 0]);
    tcp.extend(options);
    tcp.extend(payload);
    tcp
}

/// A frame around a transport segment whose checksum, at `at`, covers the pseudo-header too.
fn ipv4(aim: Aim, source: Ipv4Addr, protocol: u8, mut segment: Vec<u8>, at: usize, flags: u16) -> Vec<u8> {
    let pseudo =
        pairs(&source.octets()) + pairs(&aim.address.octets()) + u32::from(protocol) + segment.len() as u32;
    let sum = checksum(&segment, pseudo);
    segment[at..at + 2].copy_from_slice(&sum);
    ipv4_header(aim, source, protocol, segment, flags)
}

fn ipv4_header(aim: Aim, source: Ipv4Addr, protocol: u8, segment: Vec<u8>, flags: u16) -> Vec<u8> {
    let length = (20 + segment.len() as u16).to_be_bytes();
    let [flags_high, flags_low] = flags.to_be_bytes();
    let mut header =
        [0x45, 0, length[0], length[1], 0x12, 0x34, flags_high, flags_low, 64, protocol, 0, 0].to_vec();
    header.extend(source.octets());
    header.extend(aim.address.octets());
    let sum = checksum(&header, 0);
    header[10..12].copy_from_slice(&sum);
    [&aim.to[..], &aim.from, &[0x08, 0x00], &header, &segment].concat()
}

fn pairs(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

/// The Internet checksum (RFC 1071) of `bytes` and what was summed before.
pub fn checksum(bytes: &[u8], before: u32) -> [u8; 2] {
    let mut sum = pairs(bytes) + before;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AIM: Aim = Aim { from: [2; 6], to: [4; 6], address: Ipv4Addr::new(10, 1, 0, 1), port: 8444 };

    #[test]
    fn sources_differ_and_stay_in_their_range() {
        let made = frames(Kind::Syn, AIM, 16_384);
        let sources: std::collections::BTreeSet<&[u8]> = made.iter().map(|frame| &frame[26..30]).collect();
        assert!(sources.len() > 16_000, "{}", sources.len());
        assert!(sources.iter().all(|source| source[0] == 10 && source[1] & 0xc0 == 0x40));
    }

    /// The sum over a correct segment and its pseudo-header is all ones.
    #[test]
    fn checksums_are_complete() {
        for kind in Kind::PLAIN {
            for frame in frames(kind, AIM, 50) {
                let (header, segment) = frame[14..].split_at(20);
                assert_eq!(checksum(header, 0), [0, 0], "{kind:?}");
                let pseudo = pairs(&header[12..20]) + u32::from(header[9]) + segment.len() as u32;
                let before = if kind == Kind::Icmp { 0 } else { pseudo };
                assert_eq!(checksum(segment, before) == [0, 0], kind != Kind::Malformed, "{kind:?}");
            }
        }
    }
}
