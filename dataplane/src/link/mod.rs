//! One link's neighbourhood: ARP and NDP in both roles, duplicate-address detection, announcements, ping, ICMP errors and
//! static routes; and, where an address is asked for by DHCP, the client ([`dhcp`]).
//!
//! Nothing here grows by what strangers send. The neighbour table holds next hops that *we* asked for; an announcement
//! may refresh such an entry and never makes one. Requests are answered in the frame that carried them, from the
//! configuration alone. All answers are rate-limited.
//!
//! # Choices
//!
//! - **No answer is longer than its request.** An ARP reply has the size of its request, an advertisement that of a
//!   solicitation with a source link-layer option. A solicitation without that option that came by multicast (a
//!   duplicate-address probe) must be answered with the longer form (RFC 4861, section 7.2.4); it is answered by the
//!   ordinary announcement to all nodes, at most once a second per address. Its hop limit of 255 proves that the asker
//!   shares our link, so nothing is amplified across a router.
//! - **Addresses are those of the configuration**, and the one that a DHCP server gives where that was asked for ([`dhcp`]); its routes
//!   are those of the link while the lease lasts. Nothing else: no link-local address is made up from the MAC, because
//!   the kernel may own the same one on the same NIC; no router advertisement and no redirect is believed (A27), routes
//!   are static. Solicitations go out from whichever configured address fits best.
//! - **Group membership** (MLDv2, RFC 3810) is reported for each IPv6 address from the unspecified address, at the start
//!   and once a minute, so that snooping switches keep forwarding solicitations to us.
//! - **Frames do not wait here.** [`Link::next_hop`] says [`Hop::Pending`] while it asks, and TCP sends again.

mod arp;
mod build;
mod claims;
pub mod dhcp;
mod icmp;
mod ndp;
mod neighbours;
mod rate;
mod routes;
#[cfg(test)]
mod tests;

use claims::Claim;
use dhcp::{Client, Dhcp, Lease, LeaseNews, MESSAGE_MAX, To};
use neighbours::{Effect, Heard, Neighbours};
pub(crate) use rate::Bucket;
use rate::Jitter;
use routes::Routes;

use crate::Reason;
use crate::frame::Meta;
use crate::time::Instant;
use crate::wire::{Address, FlowKey, Kind, Mac, Packet, Seq};

/// Longest frame that [`Link::transmit`] emits; bytes. Those with DHCP messages are the longest.
pub const FRAME_MAX: usize = ETHERNET + 20 + 8 + dhcp::MESSAGE_MAX;

/// Bytes of an Ethernet header without tag.
const ETHERNET: usize = 14;

/// An address and the length of its on-link prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: Address,
    /// Leading bits that belong to the network, counted in the address's own family (at most 32 or 128).
    pub length: u8,
}

impl Prefix {
    /// The network: host bits cleared, and the length within what the family allows.
    pub fn network(&self) -> Prefix {
        let length = self.length.min(if self.address.is_v4() { 32 } else { 128 });
        Prefix { address: self.address.prefix(length), length }
    }

    /// Whether an address lies in the network.
    pub fn covers(&self, address: Address) -> bool {
        self.address.same_family(address) && address.prefix(self.length) == self.address.prefix(self.length)
    }
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub prefix: Prefix,
    /// The next hop, taken to be on this link; `None`: the destinations themselves are.
    pub gateway: Option<Address>,
}

/// How addresses are taken into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Claiming {
    /// Probed first, and used once nobody objected: some 5 to 9 s for IPv4 (RFC 5227), 1 to 2 s for IPv6 (RFC 4862).
    #[default]
    Probe,
    /// Used and announced at once: for addresses that a failover daemon has just moved here.
    Announce,
    /// Used at once, never announced.
    Silent,
}

/// What a link is, as configured.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Our Ethernet address: the port's.
    pub mac: Mac,
    /// Largest IP packet.
    pub mtu: u16,
    /// The VLAN that the link lives in (12 bits).
    pub vlan: Option<u16>,
    /// Our addresses with their on-link prefixes.
    pub addresses: Vec<Prefix>,
    /// Default gateways, in order of preference per family; the next one serves while one does not answer.
    pub gateways: Vec<Address>,
    /// Further routes.
    pub routes: Vec<Route>,
    /// How addresses are taken into use.
    pub claiming: Claiming,
    /// Next hops remembered at most.
    pub neighbours: usize,
    /// Pings answered per second, both families together; zero: none.
    pub pings_per_second: u32,
    /// One more address is asked for by DHCP.
    pub dhcp: Option<Dhcp>,
    /// The kernel has the addresses too, and answers for them: here nothing is claimed, announced or answered, and only
    /// what concerns our own next hops is heard.
    pub shared: bool,
}

impl Default for LinkConfig {
    fn default() -> Self {
        LinkConfig {
            mac: Mac::default(),
            mtu: 1500,
            vlan: None,
            addresses: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            claiming: Claiming::default(),
            neighbours: 256,
            pings_per_second: 100,
            dhcp: None,
            shared: false,
        }
    }
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// To this station.
    Known(Mac),
    /// The station is being asked for; try again later ([`Link::take_resolved`]).
    Pending,
    /// Nowhere: [`Reason::NoRoute`], or [`Reason::NoNeighbour`] for a next hop that did not answer.
    Unroutable(Reason),
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpErrorKind {
    /// The path takes packets of at most this many bytes (IP header included; RFC 1191, RFC 8201). Never zero: a router
    /// that names no size is answered by the next plateau of RFC 1191, section 7.
    PacketTooBig(u16),
    /// The destination cannot be reached, for whatever cause. A hint, never proof (RFC 5927).
    Unreachable,
}

/// An ICMP error about a TCP segment that claims to be ours. The engine believes it only if `seq` is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// The flow that the quoted segment belongs to, seen from our side.
    pub key: FlowKey,
    /// The quoted segment's sequence number.
    pub seq: Seq,
    /// What went wrong.
    pub kind: IcmpErrorKind,
}

/// What becomes of a frame that was handed to [`Link::ingest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An answer was written over the frame; its first so many bytes go back out. Never more than came in.
    Reply(usize),
    /// Taken in; nothing to send.
    Quiet,
    /// Refused.
    Drop(Reason),
    /// An ICMP error, for the engine to judge.
    Error(IcmpError),
}

/// Answers to ARP and neighbour solicitations per second: far above what a sane segment of the network asks for.
const SOLICITATIONS_PER_SECOND: u32 = 1_000;

/// One link. See the [module](self).
#[derive(Clone, Debug)]
pub struct Link {
    /// As configured, with what the lease adds.
    config: LinkConfig,
    /// As configured.
    fixed: LinkConfig,
    /// The lease that the configuration holds.
    leased: Option<Lease>,
    /// Who asks for leases; on links that have one, and of one shard alone.
    client: Option<Client>,
    claims: Vec<Claim>,
    routes: Routes,
    neighbours: Neighbours,
    jitter: Jitter,
    resolved: bool,
    solicitations: Bucket,
    pings: Bucket,
    /// Another shard of this box says what is to be said about our addresses.
    hushed: bool,
}

impl Link {
    /// A link that begins to claim its addresses. `seed` spreads its timers apart from other stations'.
    pub fn new(config: LinkConfig, seed: u64, now: Instant) -> Self {
        let mut jitter = Jitter::new(seed);
        let claiming = if config.shared { Claiming::Silent } else { config.claiming };
        let claim = |own: &Prefix| Claim::new(*own, claiming, now, &mut jitter);
        let claims = config.addresses.iter().map(claim).collect();
        let client = config.dhcp.as_ref().filter(|_| !config.shared);
        Link {
            claims,
            client: client.map(|dhcp| Client::new(config.mac, dhcp, jitter.number(), now)),
            leased: None,
            fixed: config.clone(),
            routes: Routes::new(&config),
            neighbours: Neighbours::new(config.neighbours),
            jitter,
            resolved: false,
            solicitations: Bucket::new(SOLICITATIONS_PER_SECOND, SOLICITATIONS_PER_SECOND / 4, now),
            pings: Bucket::new(config.pings_per_second, config.pings_per_second.div_ceil(4), now),
            hushed: config.shared,
            config,
        }
    }

    /// Leaves it to another shard of this box to probe, announce and report our addresses. The timers run as ever, so that
    /// with the same seed the addresses come into use at the same time.
    pub fn hush(&mut self) {
        self.hushed = true;
        self.client = None;
    }

    /// The configuration.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Whether an address is one of ours, usable or not.
    pub fn owns(&self, address: Address) -> bool {
        self.claims.iter().any(|claim| claim.own.address == address)
    }

    /// Whether an address is one of ours and may be used: probed where that was asked for, and not another's.
    pub fn usable(&self, address: Address) -> bool {
        self.claims.iter().any(|claim| claim.own.address == address && claim.held())
    }

    /// Addresses of ours that another station held when we probed for them; they are not used and probed again.
    pub fn conflicts(&self) -> impl Iterator<Item = Address> + '_ {
        self.claims.iter().filter(|claim| claim.conflicted()).map(|claim| claim.own.address)
    }

    /// Next hops remembered.
    pub fn neighbours(&self) -> usize {
        self.neighbours.len()
    }

    /// The address that we show to a destination: one of its family, best one whose prefix holds the next hop. It may still
    /// be in the making, and then [`Link::next_hop`] says [`Hop::Pending`] until it may be used.
    pub fn source_for(&self, destination: Address) -> Option<Address> {
        self.source(destination).map(|claim| claim.own.address)
    }

    fn source(&self, destination: Address) -> Option<&Claim> {
        let hop = self.routes.next_hops(destination).next().unwrap_or(destination);
        let ours = self.claims.iter().filter(|claim| claim.own.address.same_family(destination));
        ours.filter(|claim| claim.held() || claim.tentative())
            .min_by_key(|claim| (!claim.own.covers(hop), !claim.held()))
    }

    /// Where a packet to `destination` goes next. Starts asking where that is not known, and waits for an address of ours
    /// that is still being probed, without which nobody could be asked or answer.
    pub fn next_hop(&mut self, now: Instant, destination: Address) -> Hop {
        match self.source(destination) {
            None => return Hop::Unroutable(Reason::NoRoute),
            Some(claim) if !claim.held() => return Hop::Pending,
            Some(_) => {}
        }
        let mut answer = Hop::Unroutable(Reason::NoRoute);
        for address in self.routes.next_hops(destination) {
            answer = self.neighbours.lookup(now, address);
            if !matches!(answer, Hop::Unroutable(_)) {
                break;
            }
        }
        answer
    }

    /// Takes an ARP, ICMP or ICMPv6 frame that [`crate::wire::parse`] checked; `bytes` are those that it checked. An answer
    /// is written over them.
    pub fn ingest(&mut self, now: Instant, packet: &Packet, bytes: &mut [u8]) -> Answer {
        let ordered = ETHERNET <= packet.network() && packet.network() <= packet.transport();
        if !ordered || packet.transport() > packet.end() || packet.end() > bytes.len() {
            return Answer::Drop(Reason::Truncated);
        }
        let received = Received { packet: *packet, bytes };
        match packet.kind {
            Kind::Arp => self.arp(now, received),
            Kind::Icmpv4 => self.icmpv4(now, received),
            Kind::Icmpv6 => self.icmpv6(now, received),
            Kind::Tcp => Answer::Drop(Reason::UnknownProtocol),
        }
    }

    /// Whether an ARP or ICMPv6 message is one that every shard of a box has to hear, whichever got it: an answer about a
    /// next hop, the news that one has moved, a claim to an address of ours. Questions are for one to answer.
    pub fn concerns_all(&self, packet: &Packet, bytes: &[u8]) -> bool {
        const ARP_REPLY: [u8; 2] = [0, 2];
        const SOLICITATION: u8 = 135;
        const ADVERTISEMENT: u8 = 136;
        let message = packet.message(bytes);
        let claims_ours = self.owns(packet.key.remote)
            || packet.key.remote == Address::from_v6([0; 16])
            || packet.key.remote == Address::from_v4([0; 4]) && self.owns(packet.key.local);
        match packet.kind {
            Kind::Arp => {
                message.get(6..8) == Some(&ARP_REPLY) || packet.key.remote == packet.key.local || claims_ours
            }
            Kind::Icmpv6 if packet.hop_limit == 255 => match message.first() {
                Some(&ADVERTISEMENT) => true,
                Some(&SOLICITATION) => claims_ours,
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether a next hop has become known since the last call: what [`Hop::Pending`] held back may be tried again.
    pub fn take_resolved(&mut self) -> bool {
        core::mem::take(&mut self.resolved)
    }

    /// When [`Link::transmit`] has something to say.
    pub fn deadline(&self) -> Option<Instant> {
        let client = self.client.as_ref().and_then(Client::deadline);
        self.claims.iter().filter_map(Claim::deadline).chain(self.neighbours.deadline()).chain(client).min()
    }

    /// Whether an address is asked for by DHCP.
    pub fn asks(&self) -> bool {
        self.config.dhcp.is_some()
    }

    /// The lease whose address is in use here, or is being probed.
    pub fn lease(&self) -> Option<&Lease> {
        self.leased.as_ref()
    }

    /// Largest packet of the link: the port's, or what the lease says.
    pub fn mtu(&self) -> u16 {
        let named = self.leased.as_ref().and_then(|lease| lease.mtu);
        named.map_or(self.config.mtu, |mtu| mtu.min(self.config.mtu))
    }

    /// Takes a frame's IP packet if it is a DHCP server's: `None` if it is none.
    pub fn hear_server(&mut self, now: Instant, packet: &[u8], meta: &Meta) -> Option<Result<(), Reason>> {
        let message = dhcp::payload(packet, meta)?;
        let heard = match &mut self.client {
            Some(client) => client.hear(now, message),
            None => Err(Reason::DhcpInvalid),
        };
        self.follow(now);
        Some(heard)
    }

    /// What happened to the address by DHCP since this was last asked.
    pub fn lease_news(&mut self) -> Option<LeaseNews> {
        self.client.as_mut()?.news()
    }

    /// Uses the address that another shard's link has been given, or none.
    pub fn set_lease(&mut self, now: Instant, lease: Option<Lease>) {
        if self.client.is_none() {
            self.adopt(now, lease, Claiming::Silent);
        }
    }

    /// Claims what the client wants claimed, and tells it how that went.
    fn follow(&mut self, now: Instant) {
        let Some(client) = &mut self.client else { return };
        if let (true, Some(lease)) = (client.probes(), &self.leased) {
            let claim = self.claims.iter().find(|claim| claim.own.address == lease.own.address);
            match claim {
                Some(claim) if claim.held() => client.claimed(),
                Some(claim) if claim.conflicted() => client.contested(),
                _ => {}
            }
        }
        let wanted = client.wanted();
        if wanted != self.leased.as_ref() {
            let wanted = wanted.cloned();
            self.adopt(now, wanted, self.fixed.claiming);
        }
    }

    /// Puts a lease in the place of the one before: an address that stays is not claimed anew.
    fn adopt(&mut self, now: Instant, lease: Option<Lease>, claiming: Claiming) {
        self.config = LinkConfig { mac: self.config.mac, ..self.fixed.clone() };
        if let Some(lease) = &lease {
            self.config.addresses.push(lease.own);
            self.config.gateways.extend(lease.gateway);
            self.config.routes.extend(&lease.routes);
        }
        self.routes = Routes::new(&self.config);
        let wanted = &self.config.addresses;
        self.claims.retain(|claim| wanted.iter().any(|own| own.address == claim.own.address));
        for own in wanted {
            match self.claims.iter_mut().find(|claim| claim.own.address == own.address) {
                Some(claim) => claim.own = *own,
                None => self.claims.push(Claim::new(*own, claiming, now, &mut self.jitter)),
            }
        }
        self.leased = lease;
    }

    /// Sends what the client of DHCP has to say.
    fn ask_servers(&mut self, now: Instant, emit: &mut impl FnMut(&[u8])) {
        let (mut message, mut space) = ([0; MESSAGE_MAX], [0; FRAME_MAX]);
        while let Some((length, to)) = self.client.as_mut().and_then(|client| client.say(now, &mut message)) {
            self.follow(now);
            let (from, server) = match to {
                To::Everybody => (None, None),
                To::EverybodyFrom(own) => (Some(own), None),
                To::Server(own, server) => (Some(own), Some(server)),
            };
            let station = match server.map(|server| self.next_hop(now, server)) {
                None => Mac::BROADCAST,
                Some(Hop::Known(mac)) => mac,
                // A server whose station is not known yet hears it by broadcast: it is there in time, and read by none else.
                Some(Hop::Pending | Hop::Unroutable(_)) => Mac::BROADCAST,
            };
            let message = &message[..length.min(MESSAGE_MAX)];
            emit(build::dhcp(&mut space, (self.config.mac, station), message, from, server));
        }
        self.follow(now);
    }

    /// Emits the requests, probes, announcements and membership reports that are due: whole Ethernet frames of at most
    /// [`FRAME_MAX`] bytes without VLAN tag (the tag of the configuration goes with the frame's metadata). What cannot be
    /// sent is lost like any frame; everything here is repeated.
    pub fn transmit(&mut self, now: Instant, mut emit: impl FnMut(&[u8])) {
        if self.client.as_ref().and_then(Client::deadline).is_some_and(|at| at <= now) {
            self.ask_servers(now, &mut emit);
        }
        let mut space = build::space();
        let mac = self.config.mac;
        for claim in &mut self.claims {
            while let Some(say) = claim.say(now, &mut self.jitter) {
                if !self.hushed {
                    emit(build::say(&mut space, mac, say));
                }
            }
        }
        let claims = &self.claims;
        self.neighbours.ask(now, |ask| {
            let held =
                || claims.iter().filter(|claim| claim.held() && claim.own.address.same_family(ask.address));
            let source = held().find(|claim| claim.own.covers(ask.address)).or_else(|| held().next());
            if let Some(source) = source {
                emit(build::ask(&mut space, mac, source.own.address, ask));
            }
        });
        self.follow(now);
    }

    /// The Ethernet group addresses that the port has to receive besides broadcast: all nodes, and the solicited-node
    /// groups of our IPv6 addresses (RFC 2464, section 7).
    pub fn multicast_groups(&self) -> Vec<Mac> {
        let v6 = self.config.addresses.iter().filter(|own| !own.address.is_v4() && !self.config.shared);
        let mut groups: Vec<Mac> =
            v6.map(|own| build::group_mac(build::solicited_node(own.address))).collect();
        if !groups.is_empty() {
            groups.push(build::group_mac(build::ALL_NODES));
        }
        groups.sort();
        groups.dedup();
        groups
    }

    /// Takes a neighbour message and remembers whether it brought an answer that was waited for.
    fn hear(&mut self, now: Instant, heard: Heard) -> Effect {
        let effect = self.neighbours.hear(now, heard, &mut self.jitter);
        self.resolved |= effect == Effect::Resolved;
        effect
    }

    /// Records a conflict where another station uses an address of ours that is in a state to care about it.
    fn contested(&mut self, now: Instant, address: Address, cares: impl Fn(&Claim) -> bool) -> bool {
        if self.config.shared {
            return false;
        }
        let mut claims = self.claims.iter_mut();
        let Some(claim) = claims.find(|claim| claim.own.address == address && cares(claim)) else {
            return false;
        };
        claim.conflict(now);
        self.follow(now);
        true
    }
}

/// A frame and what the parser found in it. [`Link::ingest`] has checked that the offsets lie within the bytes.
struct Received<'a> {
    packet: Packet,
    bytes: &'a mut [u8],
}

impl Received<'_> {
    /// The ARP or ICMP message.
    fn message(&self) -> &[u8] {
        self.packet.message(self.bytes)
    }

    /// Sets the Ethernet addresses of an answer.
    fn address_frame(&mut self, to: Mac, from: Mac) {
        self.bytes[..6].copy_from_slice(&to.0);
        self.bytes[6..12].copy_from_slice(&from.0);
    }
}
