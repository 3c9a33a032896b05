//! Neighbour discovery (RFC 4861, RFC 4862): answers for our addresses, takes in answers to our solicitations, notices
//! conflicts. Router messages and redirects are not believed.

use smoltcp::wire::{
    EthernetAddress, HardwareAddress, Icmpv6Message, Icmpv6Packet, Ipv6Address, Ipv6Packet,
    NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::build::solicited_node;
use super::neighbours::{Effect, Heard};
use super::{Answer, Link, Received};
use crate::Reason;
use crate::time::Instant;
use crate::wire::{Address, Mac};

/// A solicitation, as far as it matters here.
struct Solicitation {
    target: Address,
    /// From the source link-layer option.
    station: Option<Mac>,
    /// Sent to the target itself, not to its group.
    unicast: bool,
}

impl Link {
    /// Takes a neighbour solicitation or advertisement whose checksum was verified.
    pub(super) fn ndp(&mut self, now: Instant, received: Received<'_>) -> Answer {
        // A router would have taken one off: 255 proves that the sender is on our link (section 7.1).
        let on_link = received.packet.hop_limit == 255;
        let message = Icmpv6Packet::new_checked(received.message());
        let Some(message) = message.ok().filter(|message| on_link && message.msg_code() == 0) else {
            return Answer::Drop(Reason::NeighbourInvalid);
        };
        match NdiscRepr::parse(&message) {
            Ok(NdiscRepr::NeighborSolicit { target_addr, lladdr }) => {
                let (Ok(station), false) = (station(lladdr), target_addr.is_multicast()) else {
                    return Answer::Drop(Reason::NeighbourInvalid);
                };
                let target = Address::from(target_addr);
                let unicast = received.packet.key.local == target;
                let group = received.packet.key.local == Address::from(solicited_node(target));
                if !self.owns(target) || !(unicast || group) {
                    return Answer::Drop(Reason::NeighbourInvalid);
                }
                self.solicited(now, received, Solicitation { target, station, unicast })
            }
            Ok(NdiscRepr::NeighborAdvert { flags, target_addr, lladdr }) => {
                let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
                let to_group = Ipv6Address::from(received.packet.key.local.octets()).is_multicast();
                let (Ok(station), false) = (station(lladdr), solicited && to_group) else {
                    return Answer::Drop(Reason::NeighbourInvalid);
                };
                let heard = Heard {
                    address: target_addr.into(),
                    mac: station,
                    solicited,
                    replaces: flags.contains(NdiscNeighborFlags::OVERRIDE),
                };
                self.advertised(now, received.packet.source_mac, heard)
            }
            _ => Answer::Drop(Reason::NeighbourInvalid),
        }
    }

    fn advertised(&mut self, now: Instant, from: Mac, heard: Heard) -> Answer {
        if heard.mac.unwrap_or(from) == self.config.mac {
            return Answer::Quiet;
        }
        if self.contested(now, heard.address, |_| true) {
            return Answer::Drop(Reason::AddressConflict);
        }
        match self.hear(now, heard) {
            Effect::None => Answer::Drop(Reason::NeighbourInvalid),
            Effect::Refreshed | Effect::Resolved => Answer::Quiet,
        }
    }

    fn solicited(&mut self, now: Instant, received: Received<'_>, asked: Solicitation) -> Answer {
        if received.packet.source_mac == self.config.mac {
            return Answer::Quiet; // our own probe, looped back (RFC 7527)
        }
        let unspecified = received.packet.key.remote == Address::from_v6([0; 16]);
        if unspecified && (asked.unicast || asked.station.is_some()) {
            return Answer::Drop(Reason::NeighbourInvalid);
        }
        if self.contested(now, received.packet.key.remote, |_| true)
            || (unspecified && self.contested(now, asked.target, |claim| claim.tentative()))
        {
            return Answer::Drop(Reason::AddressConflict);
        }
        if asked.station.is_some() {
            let heard = Heard {
                address: received.packet.key.remote,
                mac: asked.station,
                solicited: false,
                replaces: true,
            };
            self.hear(now, heard);
        }
        if !self.usable(asked.target) || self.config.shared {
            return Answer::Drop(Reason::NeighbourInvalid);
        }
        if !self.solicitations.take(now) {
            return Answer::Drop(Reason::LinkRate);
        }
        if !asked.unicast && asked.station.is_none() {
            // The answer has to name our Ethernet address and would be longer than the question.
            if let Some(claim) = self.claims.iter_mut().find(|claim| claim.own.address == asked.target) {
                claim.asked(now);
            }
            return Answer::Quiet;
        }
        self.neighbour_reply(received, asked)
    }

    /// Turns a solicitation into its advertisement (section 7.2.4).
    fn neighbour_reply(&self, mut received: Received<'_>, asked: Solicitation) -> Answer {
        let own = Ipv6Address::from(asked.target.octets());
        let to = Ipv6Address::from(received.packet.key.remote.octets());
        let repr = NdiscRepr::NeighborAdvert {
            flags: NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
            target_addr: own,
            lladdr: asked.station.map(|_| EthernetAddress(self.config.mac.0).into()),
        };
        let (network, transport) = (received.packet.network(), received.packet.transport());
        let (length, end) = (repr.buffer_len(), transport + repr.buffer_len());
        if end > received.bytes.len() {
            return Answer::Drop(Reason::NeighbourInvalid);
        }
        received.address_frame(asked.station.unwrap_or(received.packet.source_mac), self.config.mac);
        let mut packet = Ipv6Packet::new_unchecked(&mut received.bytes[network..transport]);
        packet.set_src_addr(own);
        packet.set_dst_addr(to);
        packet.set_hop_limit(255);
        packet.set_payload_len(u16::try_from(length).unwrap_or(u16::MAX));
        let mut message = Icmpv6Packet::new_unchecked(&mut received.bytes[transport..end]);
        message.set_msg_type(Icmpv6Message::NeighborAdvert);
        repr.emit(&mut message);
        message.fill_checksum(&own, &to);
        Answer::Reply(end)
    }
}

/// The station that a link-layer option names; an error where it names none that could exist.
fn station(option: Option<RawHardwareAddress>) -> Result<Option<Mac>, ()> {
    let Some(raw) = option else { return Ok(None) };
    match raw.parse(smoltcp::phy::Medium::Ethernet) {
        Ok(HardwareAddress::Ethernet(EthernetAddress(bytes))) if bytes != [0; 6] && bytes[0] & 1 == 0 => {
            Ok(Some(Mac(bytes)))
        }
        _ => Err(()),
    }
}
