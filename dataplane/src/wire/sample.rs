//! Frames for tests, written and read with smoltcp's wire module: an independent opinion on every byte.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, TcpRepr,
    TcpSeqNumber,
};

use super::{LinkRules, Mac};

pub(crate) const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
pub(crate) const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 2]);
pub(crate) const LINK: LinkRules = LinkRules { mac: OURS, vlan: None, mtu: 1500, resets: false };

/// The options of a Linux SYN: MSS 1460, SACK permitted, timestamps, NOP, window scale 7.
pub(crate) const LINUX: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0x12, 0x34, 0, 0, 0, 0, 1, 3, 3, 7];

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A TCP segment from a peer to us.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) vlan: Option<u16>,
}

impl Sample {
    /// A SYN over IPv4 with the options of Linux.
    pub(crate) fn syn() -> Self {
        Sample {
            source: [198, 51, 100, 7].into(),
            destination: [203, 0, 113, 1].into(),
            source_port: 40_000,
            destination_port: 8444,
            seq: 1000,
            ack: 0,
            flags: SYN,
            options: LINUX.to_vec(),
            payload: Vec::new(),
            vlan: None,
        }
    }

    /// The same over IPv6.
    pub(crate) fn syn_v6() -> Self {
        Sample {
            source: "2001:db8:1::7".parse().unwrap(),
            destination: "2001:db8:2::1".parse().unwrap(),
            ..Sample::syn()
        }
    }

    fn segment(&self) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let mut bytes = vec![0; 20 + options.len() + self.payload.len()];
        let mut tcp = TcpPacket::new_unchecked(&mut bytes);
        tcp.set_src_port(self.source_port);
        tcp.set_dst_port(self.destination_port);
        tcp.set_seq_number(TcpSeqNumber(self.seq as i32));
        tcp.set_ack_number(TcpSeqNumber(self.ack as i32));
        tcp.set_header_len(20 + options.len() as u8);
        tcp.set_window_len(64_240);
        tcp.options_mut().copy_from_slice(&options);
        tcp.payload_mut().copy_from_slice(&self.payload);
        bytes[13] = self.flags;
        TcpPacket::new_unchecked(&mut bytes).fill_checksum(&self.source.into(), &self.destination.into());
        bytes
    }

    fn datagram(&self) -> Vec<u8> {
        let segment = self.segment();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut bytes = vec![0; 20 + segment.len()];
                let mut ip = Ipv4Packet::new_unchecked(&mut bytes);
                ip.set_version(4);
                ip.set_header_len(20);
                ip.set_total_len(20 + segment.len() as u16);
                ip.set_dont_frag(true);
                ip.set_hop_limit(57);
                ip.set_next_header(IpProtocol::Tcp);
                ip.set_src_addr(source);
                ip.set_dst_addr(destination);
                ip.payload_mut().copy_from_slice(&segment);
                ip.fill_checksum();
                bytes
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut bytes = vec![0; 40 + segment.len()];
                let mut ip = Ipv6Packet::new_unchecked(&mut bytes);
                ip.set_version(6);
                ip.set_payload_len(segment.len() as u16);
                ip.set_hop_limit(57);
                ip.set_next_header(IpProtocol::Tcp);
                ip.set_src_addr(source);
                ip.set_dst_addr(destination);
                ip.payload_mut().copy_from_slice(&segment);
                bytes
            }
            _ => panic!("a packet has one family"),
        }
    }

    /// The whole frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let datagram = self.datagram();
        let mut bytes = vec![0; 14];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.set_src_addr(EthernetAddress(THEIRS.0));
        ethernet.set_dst_addr(EthernetAddress(OURS.0));
        let v4 = self.source.is_ipv4();
        ethernet.set_ethertype(if v4 { EthernetProtocol::Ipv4 } else { EthernetProtocol::Ipv6 });
        if let Some(tag) = self.vlan {
            let [high, low] = tag.to_be_bytes();
            bytes.splice(12..12, [0x81, 0, high, low]);
        }
        bytes.extend(datagram);
        bytes
    }
}

/// What smoltcp reads in an untagged frame.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) ethernet: (Mac, Mac),
    pub(crate) addresses: (IpAddr, IpAddr),
    pub(crate) hop_limit: u8,
    /// IP bytes.
    pub(crate) length: usize,
    pub(crate) flags: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) sack: Vec<(u32, u32)>,
    pub(crate) timestamps: Option<(u32, u32)>,
    pub(crate) payload: Vec<u8>,
}

/// Reads a frame and verifies all of its checksums; `None` where smoltcp refuses it.
pub(crate) fn read(bytes: &[u8]) -> Option<Read> {
    let ethernet = EthernetFrame::new_checked(bytes).ok()?;
    let (source, destination, hop_limit, length, message): (IpAddr, IpAddr, u8, usize, &[u8]) = match ethernet
        .ethertype()
    {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            if !ip.verify_checksum() {
                return None;
            }
            (ip.src_addr().into(), ip.dst_addr().into(), ip.hop_limit(), ip.total_len().into(), ip.payload())
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            let length = 40 + usize::from(ip.payload_len());
            (ip.src_addr().into(), ip.dst_addr().into(), ip.hop_limit(), length, ip.payload())
        }
        _ => return None,
    };
    let tcp = TcpPacket::new_checked(message).ok()?;
    let repr =
        TcpRepr::parse(&tcp, &source.into(), &destination.into(), &ChecksumCapabilities::default()).ok()?;
    Some(Read {
        ethernet: (Mac(ethernet.src_addr().0), Mac(ethernet.dst_addr().0)),
        addresses: (source, destination),
        hop_limit,
        length,
        flags: message[13],
        ports: (tcp.src_port(), tcp.dst_port()),
        seq: tcp.seq_number().0 as u32,
        ack: tcp.ack_number().0 as u32,
        window: tcp.window_len(),
        mss: repr.max_seg_size,
        window_scale: repr.window_scale,
        sack_permitted: repr.sack_permitted,
        sack: repr.sack_ranges.iter().flatten().copied().collect(),
        timestamps: repr.timestamp.map(|stamp| (stamp.tsval, stamp.tsecr)),
        payload: repr.payload.to_vec(),
    })
}
