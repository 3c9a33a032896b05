//! A link and a server on a virtual clock: loss, refusals, time running out, and servers that mean no good.

use std::collections::BTreeSet;

use proptest::prelude::*;
use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, IpProtocol, Ipv4Address, Ipv4Packet,
    Ipv4Repr, UdpPacket, UdpRepr,
};

use super::*;
use crate::frame::Meta;
use crate::link::{ETHERNET, Hop, Link, LinkConfig};
use crate::wire::{LinkRules, parse};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);
const SERVER: [u8; 4] = [192, 0, 2, 1];
const NODE: [u8; 4] = [192, 0, 2, 66];

fn ip(bytes: [u8; 4]) -> Address {
    Address::from_v4(bytes)
}

/// What a server is like.
#[derive(Clone)]
struct Server {
    address: [u8; 4],
    give: [u8; 4],
    mask: Option<[u8; 4]>,
    router: Option<[u8; 4]>,
    seconds: Option<u32>,
    options: Vec<(u8, Vec<u8>)>,
    /// It says no to requests.
    refuses: bool,
    silent: bool,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            address: SERVER,
            give: [192, 0, 2, 50],
            mask: Some([255, 255, 255, 0]),
            router: Some(SERVER),
            seconds: Some(3_600),
            options: Vec::new(),
            refuses: false,
            silent: false,
        }
    }
}

/// A message that was sent: its kind, the options that matter, and where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    kind: DhcpMessageType,
    requested: Option<[u8; 4]>,
    using: [u8; 4],
    to: [u8; 4],
    xid: u32,
}

impl Server {
    fn answer(&self, kind: DhcpMessageType, xid: u32) -> Vec<u8> {
        let v4 = |bytes: [u8; 4]| Ipv4Address::from(bytes);
        let nak = kind == DhcpMessageType::Nak;
        let options: Vec<DhcpOption<'_>> =
            self.options.iter().map(|(kind, data)| DhcpOption { kind: *kind, data }).collect();
        let repr = DhcpRepr {
            message_type: kind,
            transaction_id: xid,
            secs: 0,
            client_hardware_address: EthernetAddress(MAC.0),
            client_ip: Ipv4Address::UNSPECIFIED,
            your_ip: if nak { Ipv4Address::UNSPECIFIED } else { v4(self.give) },
            server_ip: Ipv4Address::UNSPECIFIED,
            router: self.router.filter(|_| !nak).map(v4),
            subnet_mask: self.mask.filter(|_| !nak).map(v4),
            relay_agent_ip: Ipv4Address::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(v4(self.address)),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: self.seconds.filter(|_| !nak),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &options,
        };
        let mut message = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut message[..])).expect("room for the options");
        packet(&message, self.address, (67, 68))
    }
}

fn packet(message: &[u8], from: [u8; 4], (from_port, to_port): (u16, u16)) -> Vec<u8> {
    let (from, to) = (Ipv4Address::from(from), Ipv4Address::BROADCAST);
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: 8 + message.len(),
        hop_limit: 64,
    };
    let checksums = Default::default();
    let mut bytes = vec![0; 28 + message.len()];
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[..]), &checksums);
    UdpRepr { src_port: from_port, dst_port: to_port }.emit(
        &mut UdpPacket::new_unchecked(&mut bytes[20..]),
        &from.into(),
        &to.into(),
        message.len(),
        |body| body.copy_from_slice(message),
        &checksums,
    );
    bytes
}

/// A link whose clock the test turns.
struct Bed {
    link: Link,
    now: Instant,
    news: Vec<LeaseNews>,
    sent: Vec<Sent>,
    /// Another station has this address, and says so when it is asked for.
    squatter: Option<[u8; 4]>,
    refused: usize,
}

fn bed(last: Option<[u8; 4]>) -> Bed {
    let dhcp = Dhcp { taken: vec![ip(NODE)], last: last.map(ip) };
    let config = LinkConfig { mac: MAC, dhcp: Some(dhcp), ..LinkConfig::default() };
    let now = Instant::from_millis(1_000);
    let link = Link::new(config, 7, now);
    Bed { link, now, news: Vec::new(), sent: Vec::new(), squatter: None, refused: 0 }
}

impl Bed {
    /// Lets so many seconds pass; `servers` hear what is asked and answer, unless `lost` says that it is lost.
    fn pass(&mut self, seconds: u64, servers: &[Server], mut lost: impl FnMut() -> bool) {
        let until = self.now + Duration::from_secs(seconds);
        while self.now < until {
            self.turn(servers, &mut lost);
            let next = self.link.deadline().unwrap_or(until).max(self.now + Duration::from_millis(10));
            self.now = next.min(until);
        }
        self.turn(servers, &mut lost);
    }

    fn turn(&mut self, servers: &[Server], lost: &mut impl FnMut() -> bool) {
        let mut frames = Vec::new();
        self.link.transmit(self.now, |frame| frames.push(frame.to_vec()));
        for frame in frames {
            assert!(frame.len() <= crate::link::FRAME_MAX);
            match &frame[12..14] {
                [8, 6] => self.arp(&frame),
                _ => self.asked(&frame, servers, lost),
            }
        }
        while let Some(news) = self.link.lease_news() {
            self.news.push(news);
        }
    }

    fn asked(&mut self, frame: &[u8], servers: &[Server], lost: &mut impl FnMut() -> bool) {
        let ip = Ipv4Packet::new_checked(&frame[ETHERNET..]).expect("an IPv4 packet");
        let udp = UdpPacket::new_checked(ip.payload()).expect("a datagram");
        assert!(ip.verify_checksum() && udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!((udp.src_port(), udp.dst_port()), (68, 67));
        let message = DhcpPacket::new_checked(udp.payload()).expect("a message");
        let said = DhcpRepr::parse(&message).expect("a message");
        let sent = Sent {
            kind: said.message_type,
            requested: said.requested_ip.map(|ip| ip.octets()),
            using: said.client_ip.octets(),
            to: ip.dst_addr().octets(),
            xid: said.transaction_id,
        };
        self.sent.push(sent);
        for server in servers.iter().filter(|server| !server.silent) {
            let kind = match sent.kind {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                DhcpMessageType::Request if server.refuses => DhcpMessageType::Nak,
                DhcpMessageType::Request => DhcpMessageType::Ack,
                _ => continue,
            };
            let chosen = said.server_identifier.is_none_or(|chosen| chosen.octets() == server.address);
            if chosen && !lost() {
                self.hear(&server.answer(kind, sent.xid));
            }
        }
    }

    fn hear(&mut self, packet: &[u8]) -> Option<Result<(), Reason>> {
        let heard = self.link.hear_server(self.now, packet, &Meta::default());
        self.refused += usize::from(matches!(heard, Some(Err(_))));
        heard
    }

    /// A probe for the squatter's address is answered.
    fn arp(&mut self, frame: &[u8]) {
        let Some(squatter) = self.squatter.filter(|taken| frame[38..42] == *taken) else { return };
        let mut answer = frame.to_vec();
        answer[..6].copy_from_slice(&MAC.0);
        answer[6..12].copy_from_slice(&OTHER.0);
        answer[20..22].copy_from_slice(&[0, 2]);
        answer[22..28].copy_from_slice(&OTHER.0);
        answer[28..32].copy_from_slice(&squatter);
        answer[32..38].copy_from_slice(&MAC.0);
        answer[38..42].copy_from_slice(&[0; 4]);
        let rules = LinkRules { mac: MAC, vlan: None, mtu: 1_500, resets: true };
        let packet = parse(&answer, &Meta::default(), &rules).expect("an answer");
        self.link.ingest(self.now, &packet, &mut answer);
    }

    fn in_use(&self) -> Option<Address> {
        let own = self.link.lease()?.own.address;
        self.link.usable(own).then_some(own)
    }

    fn kinds(&self) -> Vec<DhcpMessageType> {
        self.sent.iter().map(|sent| sent.kind).collect()
    }
}

fn never() -> bool {
    false
}

#[test]
fn an_address_is_asked_for_probed_and_used_with_its_gateway() {
    let mut bed = bed(None);
    bed.pass(2, &[Server::default()], never);
    assert_eq!(bed.kinds(), [DhcpMessageType::Discover, DhcpMessageType::Request]);
    assert_eq!((bed.link.lease().is_some(), bed.in_use()), (true, None), "it is probed first");
    assert!(bed.news.is_empty());
    bed.pass(10, &[Server::default()], never);
    assert_eq!(bed.in_use(), Some(ip([192, 0, 2, 50])));
    let [LeaseNews::Bound(lease)] = &bed.news[..] else { panic!("{:?}", bed.news) };
    assert_eq!((lease.own.length, lease.gateway, lease.server), (24, Some(ip(SERVER)), ip(SERVER)));
    assert_eq!(bed.link.next_hop(bed.now, ip([8, 8, 8, 8])), Hop::Pending, "the gateway is asked for");
    assert_eq!(bed.link.source_for(ip([8, 8, 8, 8])), Some(ip([192, 0, 2, 50])));
}

#[test]
fn more_time_is_asked_of_the_server_then_of_all_and_what_runs_out_is_lost() {
    let good = Server::default();
    let mut bed = bed(None);
    bed.pass(12, std::slice::from_ref(&good), never);
    let until = bed.link.lease().and_then(|lease| lease.until).expect("an end");
    bed.sent.clear();
    bed.pass(1_800, std::slice::from_ref(&good), never);
    assert!(matches!(bed.news.last(), Some(LeaseNews::Renewed(_))), "{:?}", bed.news);
    let [sent] = bed.sent[..] else { panic!("{:?}", bed.sent) };
    assert_eq!((sent.using, sent.requested, sent.to), ([192, 0, 2, 50], None, SERVER));
    let later = bed.link.lease().and_then(|lease| lease.until).expect("an end");
    assert!(later > until);
    // Now nobody answers.
    let silent = Server { silent: true, ..good.clone() };
    bed.sent.clear();
    bed.pass(3_580, std::slice::from_ref(&silent), never);
    assert_eq!(bed.in_use(), Some(ip([192, 0, 2, 50])), "to the last second");
    let tos: BTreeSet<[u8; 4]> = bed.sent.iter().map(|sent| sent.to).collect();
    assert_eq!(tos, BTreeSet::from([SERVER, [255; 4]]));
    assert!((4..=40).contains(&bed.sent.len()), "{} requests", bed.sent.len());
    bed.pass(30, &[silent], never);
    assert_eq!((bed.in_use(), bed.link.lease()), (None, None));
    assert_eq!(bed.news.last(), Some(&LeaseNews::Lost(ip([192, 0, 2, 50]), LeaseEnd::Expired)));
    assert_eq!(bed.link.next_hop(bed.now, ip([8, 8, 8, 8])), Hop::Unroutable(Reason::NoRoute));
    bed.pass(100, &[Server { give: [192, 0, 2, 51], ..good }], never);
    assert_eq!(bed.in_use(), Some(ip([192, 0, 2, 51])));
}

#[test]
fn a_server_that_takes_it_back_is_obeyed_at_once() {
    let mut bed = bed(None);
    bed.pass(12, &[Server::default()], never);
    bed.pass(1_790, &[Server { refuses: true, ..Server::default() }], never);
    assert!(bed.news.contains(&LeaseNews::Lost(ip([192, 0, 2, 50]), LeaseEnd::Withdrawn)), "{:?}", bed.news);
    assert_eq!(bed.in_use(), None);
}

#[test]
fn an_address_that_another_station_has_is_declined_and_asked_for_no_faster() {
    let mut bed = bed(None);
    bed.squatter = Some([192, 0, 2, 50]);
    bed.pass(600, &[Server::default()], never);
    let declined = bed.sent.iter().filter(|sent| sent.kind == DhcpMessageType::Decline).count();
    assert!((3..=8).contains(&declined), "{declined} times declined");
    assert!(bed.news.iter().all(|news| matches!(news, LeaseNews::Refused(_, Some(_), Unfit::Conflict))));
    assert_eq!(bed.in_use(), None);
    bed.squatter = None;
    bed.pass(400, &[Server::default()], never);
    assert_eq!(bed.in_use(), Some(ip([192, 0, 2, 50])));
}

#[test]
fn a_restart_asks_for_the_address_that_was_ours() {
    let again = Server { give: [192, 0, 2, 77], ..Server::default() };
    let mut same = bed(Some([192, 0, 2, 77]));
    same.pass(12, &[again], never);
    assert_eq!(same.kinds(), [DhcpMessageType::Request]);
    assert_eq!((same.sent[0].requested, same.sent[0].using), (Some([192, 0, 2, 77]), [0; 4]));
    assert_eq!(same.in_use(), Some(ip([192, 0, 2, 77])));
    // Refused, or unheard: any address will do.
    for server in
        [Server { refuses: true, ..Server::default() }, Server { silent: true, ..Server::default() }]
    {
        let mut other = bed(Some([192, 0, 2, 77]));
        other.pass(30, &[server], never);
        other.pass(120, &[Server::default()], never);
        assert_eq!(other.in_use(), Some(ip([192, 0, 2, 50])));
    }
    // What no host can have is not even asked for.
    let mut wrong = bed(Some([127, 0, 0, 1]));
    wrong.pass(2, &[Server::default()], never);
    assert_eq!(wrong.kinds().first(), Some(&DhcpMessageType::Discover));
}

/// A size of packets, a host address with a gateway elsewhere, and routes in the place of the router.
#[test]
fn what_clouds_hand_out_is_taken() {
    let routes = vec![32, 10, 0, 0, 1, 0, 0, 0, 0, 0, 10, 0, 0, 1, 16, 172, 20, 10, 0, 0, 1];
    let cloud = Server {
        mask: Some([255; 4]),
        router: Some([1, 2, 3, 4]),
        options: vec![(26, vec![0x05, 0xb4]), (121, routes)],
        ..Server::default()
    };
    let mut bed = bed(None);
    bed.pass(12, &[cloud], never);
    let lease = bed.link.lease().expect("a lease");
    assert_eq!((lease.own.length, lease.gateway, lease.mtu), (32, Some(ip([10, 0, 0, 1])), Some(1_460)));
    assert_eq!((lease.routes.len(), bed.link.mtu()), (2, 1_460));
    // No end, no renewal.
    let for_ever = Server { seconds: Some(u32::MAX), ..Server::default() };
    let mut bed = super::tests::bed(None);
    bed.pass(12, std::slice::from_ref(&for_ever), never);
    bed.sent.clear();
    bed.pass(1_000_000, &[for_ever], never);
    assert!(bed.sent.is_empty() && bed.in_use().is_some());
}

#[test]
fn what_cannot_be_used_is_refused_with_its_reason() {
    let with = |change: &dyn Fn(&mut Server)| {
        let mut server = Server::default();
        change(&mut server);
        let mut bed = bed(None);
        bed.pass(60, std::slice::from_ref(&server), never);
        assert!(bed.refused > 0 && bed.link.lease().is_none(), "it was taken");
        assert!(!bed.kinds().contains(&DhcpMessageType::Request), "it was asked for");
        assert!(bed.news.len() <= bed.sent.len() && bed.sent.len() < 10);
        // Another server on the link is heard all the same.
        let good = Server { address: [192, 0, 2, 2], ..Server::default() };
        bed.pass(120, &[server, good], never);
        assert_eq!(bed.in_use(), Some(ip([192, 0, 2, 50])));
        match bed.news.first() {
            Some(LeaseNews::Refused(.., unfit)) => *unfit,
            news => panic!("{news:?}"),
        }
    };
    for address in [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 5], [255; 4], [192, 0, 2, 0], [192, 0, 2, 255]]
    {
        assert_eq!(with(&|server| server.give = address), Unfit::Address, "{address:?}");
    }
    assert_eq!(with(&|server| server.give = NODE), Unfit::Taken);
    for mask in [[255, 0, 255, 0], [0; 4], [254, 0, 0, 0]] {
        assert_eq!(with(&|server| server.mask = Some(mask)), Unfit::Mask);
    }
    for router in [[10, 9, 9, 9], [192, 0, 2, 50], [127, 0, 0, 1]] {
        assert_eq!(with(&|server| server.router = Some(router)), Unfit::Gateway);
    }
    for seconds in [None, Some(0), Some(29)] {
        assert_eq!(with(&|server| server.seconds = seconds), Unfit::Time);
    }
    for routes in [vec![33, 1, 2, 3, 4, 5, 192, 0, 2, 1], vec![24, 10], [16, 10, 1, 192, 0, 2, 1].repeat(17)]
    {
        assert_eq!(with(&|server| server.options = vec![(121, routes.clone())]), Unfit::Routes);
    }
    assert_eq!(with(&|server| server.options = vec![(121, vec![8, 10, 203, 0, 113, 1])]), Unfit::Routes);
}

/// Who does not know the transaction, or speaks for another client, is not heard; nor is a server without a name.
#[test]
fn strangers_cannot_answer() {
    let mut bed = bed(None);
    bed.pass(2, &[], never);
    let xid = bed.sent.last().expect("a question").xid;
    let good = Server::default();
    let offer = |xid| good.answer(DhcpMessageType::Offer, xid);
    assert_eq!(bed.hear(&offer(xid ^ 1)), Some(Err(Reason::DhcpInvalid)));
    let mut other = offer(xid);
    other[28 + 28] ^= 1; // the client's hardware address
    other[26..28].fill(0); // no checksum
    assert_eq!(bed.hear(&other), Some(Err(Reason::DhcpInvalid)));
    let mut torn = offer(xid);
    torn[60] ^= 1;
    assert_eq!(bed.hear(&torn), None, "its checksum is wrong");
    let nameless = Server { address: [0; 4], ..Server::default() };
    assert_eq!(bed.hear(&nameless.answer(DhcpMessageType::Offer, xid)), Some(Err(Reason::DhcpInvalid)));
    assert_eq!(
        bed.hear(&good.answer(DhcpMessageType::Ack, xid)),
        Some(Err(Reason::DhcpInvalid)),
        "not asked for"
    );
    assert_eq!(bed.hear(&good.answer(DhcpMessageType::Nak, xid)), Some(Err(Reason::DhcpInvalid)));
    assert_eq!(bed.hear(&packet(&[0; 300], SERVER, (67, 68))), Some(Err(Reason::DhcpInvalid)));
    assert_eq!(bed.hear(&packet(&[0; 300], SERVER, (53, 68))), None, "no server's port");
    assert_eq!(bed.hear(&offer(xid)), Some(Ok(())));
}

/// Others of the box use what the first has been given, at once, and say nothing about it.
#[test]
fn a_link_that_is_told_of_a_lease_uses_it_at_once() {
    let mut first = bed(None);
    first.pass(12, &[Server::default()], never);
    let lease = first.link.lease().cloned();
    let mut other = bed(None);
    other.link.hush();
    other.link.set_lease(other.now, lease);
    assert_eq!(other.in_use(), Some(ip([192, 0, 2, 50])));
    other.pass(20_000, &[Server::default()], never);
    assert!(other.sent.is_empty());
    other.link.set_lease(other.now, None);
    assert_eq!(other.in_use(), None);
}

proptest! {
    /// Whatever is lost, and whoever else offers rubbish: in the end there is an address, it is never used beyond its lease,
    /// and never asked for without pause.
    #[test]
    fn an_address_is_found_through_loss(seed: u64, loss in 0..70_u64, seconds in 120..4_000_u32) {
        let mut state = seed | 1;
        let mut lost = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % 100 < loss
        };
        let good = Server { seconds: Some(seconds), ..Server::default() };
        let bad = Server { address: [192, 0, 2, 3], give: [127, 0, 0, 1], ..Server::default() };
        let mut bed = bed(None);
        let mut until = None;
        for _ in 0..400 {
            bed.pass(30, &[bad.clone(), good.clone()], &mut lost);
            if let Some(lease) = bed.link.lease() {
                prop_assert!(lease.until.is_some_and(|until| bed.now < until));
                until = lease.until;
            }
        }
        prop_assert!(until.is_some() && bed.sent.len() < 12_000 / 2);
        prop_assert!(bed.news.iter().any(|news| matches!(news, LeaseNews::Bound(_))));
    }

    /// Bytes of any kind, behind a transaction that is right, change nothing or give an address that may be used.
    #[test]
    fn options_of_any_kind_do_no_harm(
        kind in prop::sample::select(vec![2_u8, 5, 6]),
        options in prop::collection::vec((0..=255_u8, prop::collection::vec(any::<u8>(), 0..40)), 0..12),
        give: [u8; 4],
        cut in 0..400_usize,
    ) {
        let mut bed = bed(None);
        bed.pass(2, &[], never);
        let xid = bed.sent.last().expect("a question").xid;
        let server = Server { give, mask: None, router: None, seconds: None, options, ..Server::default() };
        let whole = server.answer(kind.into(), xid);
        let message = &whole[28..(28 + cut).clamp(28, whole.len())];
        for kind in [kind, 5] {
            let mut message = message.to_vec();
            if let Some(place) = message.get_mut(242) { *place = kind; }
            bed.hear(&packet(&message, SERVER, (67, 68)));
            bed.pass(5, &[], never);
        }
        if let Some(lease) = bed.link.lease() {
            prop_assert!(is_host(lease.own.address) && lease.own.address != ip(NODE));
            prop_assert!(lease.routes.len() <= ROUTES && lease.until.is_none_or(|until| until > bed.now));
        }
        prop_assert!(bed.news.len() <= 16);
    }
}
