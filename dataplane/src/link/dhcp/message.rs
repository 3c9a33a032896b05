//! DHCP messages as bytes: the questions of a client, the answers of servers, and the datagrams that carry them.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpHardware, DhcpMessageType, DhcpOpCode, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, IpProtocol,
    Ipv4Address, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use crate::frame::{Checksum, Meta};
use crate::wire::{Address, Mac};

/// Bytes of a message that we send: what BOOTP relays expect at least (RFC 1542, section 2.1).
pub(in super::super) const MESSAGE_MAX: usize = 300;
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const IPV4: usize = 20;
const UDP: usize = 8;
const MAGIC: u32 = 0x6382_5363;
const HOPS: u8 = 64;
/// The largest message that we take.
const SIZE: u16 = 1_400;

mod option {
    pub(super) const MASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const MTU: u8 = 26;
    pub(super) const LEASE_TIME: u8 = 51;
    pub(super) const MESSAGE_TYPE: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const RENEWAL_TIME: u8 = 58;
    pub(super) const REBINDING_TIME: u8 = 59;
    pub(super) const CLIENT_ID: u8 = 61;
    pub(super) const CLASSLESS_ROUTES: u8 = 121;
}

/// What we ask for: classless routes before the router that they replace (RFC 3442).
const WANTED: [u8; 8] = [
    option::CLASSLESS_ROUTES,
    option::MASK,
    option::ROUTER,
    option::MTU,
    option::LEASE_TIME,
    option::SERVER,
    option::RENEWAL_TIME,
    option::REBINDING_TIME,
];

/// A message of ours (RFC 2131, table 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// "Who has an address for me?"
    Discover,
    /// "I take this one."
    Request { address: Address, server: Address },
    /// "I had this one; may I have it again?"
    Reboot { address: Address },
    /// "I am using this one; may I have more time?"
    Renew { address: Address },
    /// "Somebody else has this one."
    Decline { address: Address, server: Address },
}

impl Question {
    /// Writes the message; says how long it is.
    pub(super) fn write(self, space: &mut [u8; MESSAGE_MAX], mac: Mac, xid: u32, secs: u16) -> Option<usize> {
        let client = client_id(mac);
        let v4 = |address: Address| address.v4().map(Ipv4Address::from);
        let (kind, using, wanted, server) = match self {
            Question::Discover => (DhcpMessageType::Discover, None, None, None),
            Question::Request { address, server } => {
                (DhcpMessageType::Request, None, v4(address), v4(server))
            }
            Question::Reboot { address } => (DhcpMessageType::Request, None, v4(address), None),
            Question::Renew { address } => (DhcpMessageType::Request, v4(address), None, None),
            Question::Decline { address, server } => {
                (DhcpMessageType::Decline, None, v4(address), v4(server))
            }
        };
        let declines = kind == DhcpMessageType::Decline;
        let repr = DhcpRepr {
            message_type: kind,
            transaction_id: xid,
            secs: if declines { 0 } else { secs },
            client_hardware_address: EthernetAddress(mac.0),
            client_ip: using.unwrap_or(Ipv4Address::UNSPECIFIED),
            your_ip: Ipv4Address::UNSPECIFIED,
            server_ip: Ipv4Address::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: false,
            requested_ip: wanted,
            client_identifier: None,
            server_identifier: server,
            parameter_request_list: (!declines).then_some(&WANTED),
            dns_servers: None,
            max_size: (!declines).then_some(SIZE),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[DhcpOption { kind: option::CLIENT_ID, data: &client }],
        };
        space.fill(0);
        repr.emit(&mut DhcpPacket::new_unchecked(&mut space[..])).ok()?;
        Some(MESSAGE_MAX)
    }
}

/// Who we are (RFC 4361): an association that the MAC names, and a DUID of the link layer.
fn client_id(Mac(mac): Mac) -> [u8; 15] {
    let [a, b, c, d, e, f] = mac;
    [255, c, d, e, f, 0, 3, 0, 1, a, b, c, d, e, f]
}

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// "You may have this one."
    Offer,
    /// "It is yours."
    Ack,
    /// "It is not."
    Nak,
}

/// A server's message, as far as it matters here; nothing of it is judged but its form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) kind: Kind,
    pub(super) address: Address,
    pub(super) server: Option<Address>,
    pub(super) mask: Option<[u8; 4]>,
    /// The first of them.
    pub(super) router: Option<Address>,
    pub(super) mtu: Option<u16>,
    pub(super) seconds: Option<u32>,
    pub(super) renew: Option<u32>,
    pub(super) rebind: Option<u32>,
    pub(super) routes: Option<&'a [u8]>,
}

impl<'a> Answer<'a> {
    /// Reads a message that answers the transaction `xid` of `mac`. Of an option that is there twice the first counts;
    /// options in the fields for names (option 52) are not read, since no server needs the room.
    pub(super) fn read(packet: &'a DhcpPacket<&[u8]>, mac: Mac, xid: u32) -> Option<Self> {
        let ours = packet.opcode() == DhcpOpCode::Reply
            && packet.hardware_type() == ArpHardware::Ethernet
            && packet.hardware_len() == 6
            && packet.magic_number() == MAGIC
            && packet.transaction_id() == xid
            && packet.client_hardware_address() == EthernetAddress(mac.0);
        if !ours {
            return None;
        }
        let find = |kind: u8| packet.options().find(|option| option.kind == kind).map(|option| option.data);
        let four = |kind: u8| find(kind).and_then(|data| <[u8; 4]>::try_from(data).ok());
        let number = |kind: u8| four(kind).map(u32::from_be_bytes);
        let kind = match find(option::MESSAGE_TYPE)? {
            [2] => Kind::Offer,
            [5] => Kind::Ack,
            [6] => Kind::Nak,
            _ => return None,
        };
        let router = find(option::ROUTER).and_then(|data| data.first_chunk::<4>());
        Some(Answer {
            kind,
            address: Address::from_v4(packet.your_ip().octets()),
            server: four(option::SERVER).map(Address::from_v4),
            mask: four(option::MASK),
            router: router.map(|router| Address::from_v4(*router)),
            mtu: find(option::MTU).and_then(|data| <[u8; 2]>::try_from(data).ok()).map(u16::from_be_bytes),
            seconds: number(option::LEASE_TIME),
            renew: number(option::RENEWAL_TIME),
            rebind: number(option::REBINDING_TIME),
            routes: find(option::CLASSLESS_ROUTES),
        })
    }
}

/// The message in a frame from a server's port to a client's, if it is one; whether it is for us its contents say.
pub(in super::super) fn payload<'a>(packet: &'a [u8], meta: &Meta) -> Option<&'a [u8]> {
    let ip = Ipv4Packet::new_checked(packet).ok()?;
    let plain = ip.header_len() == 20 && !ip.more_frags() && ip.frag_offset() == 0;
    if !plain || ip.next_header() != IpProtocol::Udp || !ip.verify_checksum() {
        return None;
    }
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    let end = usize::from(ip.total_len());
    let udp = UdpPacket::new_checked(packet.get(IPV4..end)?).ok()?;
    if (udp.src_port(), udp.dst_port()) != (SERVER_PORT, CLIENT_PORT) {
        return None;
    }
    let seen = !matches!(meta.checksum, Checksum::Unverified);
    if !seen && !udp.verify_checksum(&from.into(), &to.into()) {
        return None;
    }
    packet.get(IPV4 + UDP..IPV4 + usize::from(udp.len()))
}

/// Writes the packet around a message into `space`; says how long it is.
pub(in super::super) fn datagram(
    space: &mut [u8],
    message: &[u8],
    from: Option<Address>,
    to: Option<Address>,
) -> usize {
    let v4 = |address: Option<Address>| address.and_then(Address::v4).map(Ipv4Address::from);
    let from = v4(from).unwrap_or(Ipv4Address::UNSPECIFIED);
    let to = v4(to).unwrap_or(Ipv4Address::BROADCAST);
    let checksums = ChecksumCapabilities::default();
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: UDP + message.len(),
        hop_limit: HOPS,
    };
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut space[..]), &checksums);
    let udp = UdpRepr { src_port: CLIENT_PORT, dst_port: SERVER_PORT };
    let mut packet = UdpPacket::new_unchecked(&mut space[IPV4..IPV4 + UDP + message.len()]);
    udp.emit(
        &mut packet,
        &from.into(),
        &to.into(),
        message.len(),
        |body| body.copy_from_slice(message),
        &checksums,
    );
    IPV4 + UDP + message.len()
}
