//! ARP (RFC 826, RFC 5227): answers for our addresses, takes in answers to our requests, notices conflicts.

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::neighbours::{Effect, Heard};
use super::{Answer, Link, Received};
use crate::Reason;
use crate::time::Instant;
use crate::wire::{Address, Mac};

impl Link {
    /// Takes an ARP packet. A broadcast request for somebody else is refused like any other that asks nothing of us.
    pub(super) fn arp(&mut self, now: Instant, received: Received<'_>) -> Answer {
        let parsed = ArpPacket::new_checked(received.message()).and_then(|packet| ArpRepr::parse(&packet));
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(station),
            source_protocol_addr,
            target_hardware_addr: EthernetAddress(target_station),
            target_protocol_addr,
        }) = parsed
        else {
            return Answer::Drop(Reason::NeighbourInvalid);
        };
        let station = Mac(station);
        if station == self.config.mac {
            return Answer::Quiet; // our own frame, or the kernel's on the same NIC
        }
        if station.is_group() || station == Mac::default() {
            return Answer::Drop(Reason::NeighbourInvalid);
        }
        let sender = Address::from(source_protocol_addr);
        let target = Address::from(target_protocol_addr);
        if self.contested(now, sender, |_| true)
            || (source_protocol_addr.is_unspecified()
                && self.contested(now, target, |claim| claim.tentative()))
        {
            return Answer::Drop(Reason::AddressConflict);
        }
        let solicited = operation == ArpOperation::Reply && Mac(target_station) == self.config.mac;
        let effect = self.hear(now, Heard { address: sender, mac: Some(station), solicited, replaces: true });
        if operation == ArpOperation::Request && self.usable(target) && !self.config.shared {
            if !self.solicitations.take(now) {
                return Answer::Drop(Reason::LinkRate);
            }
            return self.arp_reply(received, station, sender, target);
        }
        if effect == Effect::None { Answer::Drop(Reason::NeighbourInvalid) } else { Answer::Quiet }
    }

    fn arp_reply(&self, mut received: Received<'_>, station: Mac, sender: Address, own: Address) -> Answer {
        let (Some(sender), Some(own)) = (sender.v4(), own.v4()) else {
            return Answer::Drop(Reason::NeighbourInvalid);
        };
        let repr = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Reply,
            source_hardware_addr: EthernetAddress(self.config.mac.0),
            source_protocol_addr: own.into(),
            target_hardware_addr: EthernetAddress(station.0),
            target_protocol_addr: sender.into(),
        };
        let start = received.packet.network();
        received.address_frame(station, self.config.mac);
        repr.emit(&mut ArpPacket::new_unchecked(&mut received.bytes[start..]));
        Answer::Reply(start + repr.buffer_len())
    }
}
