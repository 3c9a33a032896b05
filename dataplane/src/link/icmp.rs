//! ICMP and ICMPv6 (RFC 792, RFC 4443): ping answered in place; errors about TCP segments read for the engine.

use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6Address, Ipv6Packet,
};

use super::{Answer, IcmpError, IcmpErrorKind, Link, Received};
use crate::Reason;
use crate::time::Instant;
use crate::wire::{Address, FlowKey, Seq};

/// Hop limit of our answers.
const HOP_LIMIT: u8 = 64;
const IPV6: usize = 40;
/// Largest packet of common media (RFC 1191, section 7): the guess where a router names no size.
const PLATEAUS: [u16; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68];

impl Link {
    /// Takes an ICMP message of IPv4.
    pub(super) fn icmpv4(&mut self, now: Instant, received: Received<'_>) -> Answer {
        let Ok(message) = Icmpv4Packet::new_checked(received.message()) else {
            return Answer::Drop(Reason::Truncated);
        };
        match (message.msg_type(), message.msg_code()) {
            (Icmpv4Message::EchoRequest, 0) => self.pong(now, received),
            (Icmpv4Message::DstUnreachable, code) => {
                let quote = message.data();
                let kind = if code == 4 {
                    too_big_v4(received.message(), quote)
                } else {
                    IcmpErrorKind::Unreachable
                };
                self.error(received.packet.key.local, quoted_v4(quote), kind)
            }
            _ => Answer::Drop(Reason::IcmpIgnored),
        }
    }

    /// Takes an ICMPv6 message, neighbour discovery included.
    pub(super) fn icmpv6(&mut self, now: Instant, received: Received<'_>) -> Answer {
        let Ok(message) = Icmpv6Packet::new_checked(received.message()) else {
            return Answer::Drop(Reason::IcmpIgnored); // too short, or a type that nobody knows
        };
        let kind = match (message.msg_type(), message.msg_code()) {
            (Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert, _) => {
                return self.ndp(now, received);
            }
            (Icmpv6Message::EchoRequest, 0) => return self.pong(now, received),
            (Icmpv6Message::PktTooBig, 0) => {
                let named = u16::try_from(message.pkt_too_big_mtu()).unwrap_or(u16::MAX);
                IcmpErrorKind::PacketTooBig(named.max(1))
            }
            (Icmpv6Message::DstUnreachable, _) => IcmpErrorKind::Unreachable,
            _ => return Answer::Drop(Reason::IcmpIgnored),
        };
        self.error(received.packet.key.local, quoted_v6(message.payload()), kind)
    }

    /// Turns an echo request to one of our addresses into its reply: same data, same length.
    fn pong(&mut self, now: Instant, mut received: Received<'_>) -> Answer {
        let packet = received.packet;
        if !self.usable(packet.key.local) {
            return Answer::Drop(Reason::NotOurs);
        }
        if !self.pings.take(now) {
            return Answer::Drop(Reason::LinkRate);
        }
        received.address_frame(packet.source_mac, self.config.mac);
        let (header, message) = received.bytes[packet.network()..packet.end()]
            .split_at_mut(packet.transport() - packet.network());
        match (packet.key.remote.v4(), packet.key.local.v4()) {
            (Some(source), Some(own)) => {
                let mut header = Ipv4Packet::new_unchecked(header);
                header.set_src_addr(own.into());
                header.set_dst_addr(source.into());
                header.set_hop_limit(HOP_LIMIT);
                header.fill_checksum();
                let mut message = Icmpv4Packet::new_unchecked(message);
                message.set_msg_type(Icmpv4Message::EchoReply);
                message.fill_checksum();
            }
            _ => {
                let own = Ipv6Address::from(packet.key.local.octets());
                let source = Ipv6Address::from(packet.key.remote.octets());
                let mut header = Ipv6Packet::new_unchecked(header);
                header.set_src_addr(own);
                header.set_dst_addr(source);
                header.set_hop_limit(HOP_LIMIT);
                let mut message = Icmpv6Packet::new_unchecked(message);
                message.set_msg_type(Icmpv6Message::EchoReply);
                message.fill_checksum(&own, &source);
            }
        }
        Answer::Reply(packet.end())
    }

    /// Hands an error on, if it quotes a segment that left from the address that the error came to. Judging one costs the
    /// engine no more than any segment does; a limit here would let forged errors keep the true ones out.
    fn error(&self, destination: Address, quoted: Option<(FlowKey, Seq)>, kind: IcmpErrorKind) -> Answer {
        let Some((key, seq)) = quoted.filter(|(key, _)| key.local == destination) else {
            return Answer::Drop(Reason::IcmpUnrelated);
        };
        Answer::Error(IcmpError { key, seq, kind })
    }
}

/// What "fragmentation needed" says: the size that the router named (RFC 1191, section 4), or a guess from the quote.
fn too_big_v4(message: &[u8], quote: &[u8]) -> IcmpErrorKind {
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |&pair| u16::from_be_bytes(pair));
    let named = message.get(6..8).map_or(0, number);
    let quoted = quote.get(2..4).map_or(0, number);
    IcmpErrorKind::PacketTooBig(if named == 0 { plateau_below(quoted) } else { named })
}

/// The largest plateau below the size of the packet that was too big.
fn plateau_below(size: u16) -> u16 {
    PLATEAUS.into_iter().find(|&plateau| plateau < size).unwrap_or(68)
}

/// The TCP segment that an IPv4 error quotes: its first fragment's header and at least eight bytes (RFC 792).
fn quoted_v4(quote: &[u8]) -> Option<(FlowKey, Seq)> {
    if quote.len() < 20 {
        return None;
    }
    let packet = Ipv4Packet::new_unchecked(quote);
    let header = usize::from(packet.header_len());
    let whole = packet.version() == 4 && header >= 20 && packet.frag_offset() == 0;
    if !whole || packet.next_header() != IpProtocol::Tcp {
        return None;
    }
    quoted_tcp(packet.src_addr().into(), packet.dst_addr().into(), quote.get(header..)?)
}

/// The TCP segment that an IPv6 error quotes; we send none with extension headers.
fn quoted_v6(quote: &[u8]) -> Option<(FlowKey, Seq)> {
    if quote.len() < IPV6 {
        return None;
    }
    let packet = Ipv6Packet::new_unchecked(quote);
    if packet.version() != 6 || packet.next_header() != IpProtocol::Tcp {
        return None;
    }
    quoted_tcp(packet.src_addr().into(), packet.dst_addr().into(), quote.get(IPV6..)?)
}

fn quoted_tcp(local: Address, remote: Address, header: &[u8]) -> Option<(FlowKey, Seq)> {
    let &[a, b, c, d, e, f, g, h] = header.first_chunk::<8>()?;
    let key = FlowKey {
        local,
        remote,
        local_port: u16::from_be_bytes([a, b]),
        remote_port: u16::from_be_bytes([c, d]),
    };
    Some((key, Seq(u32::from_be_bytes([e, f, g, h]))))
}
