//! Addresses by DHCP: servers' messages find the one client, its news the other shards, and what an address that is gone
//! leaves behind ends.

use super::{Shard, Verdict};
use crate::Reason;
use crate::frame::Meta;
use crate::link::dhcp::{Lease, LeaseNews};
use crate::time::Instant;
use crate::wire::{Address, LinkId, ipv4_packet};

impl Shard {
    /// What happened to the address that a link has by DHCP; from the shard that asks for it, the first. Its host tells the
    /// other shards ([`Shard::set_lease`]) and the ports.
    pub fn lease_news(&mut self, link: LinkId) -> Option<LeaseNews> {
        let news = self.links.get_mut(usize::from(link.0))?.link.lease_news()?;
        match &news {
            LeaseNews::Lost(address, _) => self.abandon(link, *address),
            LeaseNews::Bound(_) | LeaseNews::Renewed(_) => self.measure(link),
            LeaseNews::Refused(..) => {}
        }
        Some(news)
    }

    /// Uses the address that a link has been given by DHCP, as another shard found out, or none any more. Flows of the one
    /// before end.
    pub fn set_lease(&mut self, now: Instant, link: LinkId, lease: Option<Lease>) {
        let Some(attached) = self.links.get_mut(usize::from(link.0)) else { return };
        let before = attached.link.lease().map(|lease| lease.own.address);
        attached.link.set_lease(now, lease);
        let after = attached.link.lease().map(|lease| lease.own.address);
        if let Some(gone) = before.filter(|before| Some(*before) != after) {
            self.abandon(link, gone);
        }
        self.measure(link);
    }

    /// Whether a link asks for an address by DHCP.
    pub(super) fn asks(&self, link: LinkId) -> bool {
        self.links.get(usize::from(link.0)).is_some_and(|attached| attached.link.asks())
    }

    /// A frame of a protocol that nothing else here speaks: a DHCP server's, or to be passed on.
    pub(super) fn served(&mut self, now: Instant, link: LinkId, bytes: &[u8], meta: &Meta) -> Verdict {
        let attached = &mut self.links[usize::from(link.0)];
        let heard = ipv4_packet(bytes).and_then(|packet| attached.link.hear_server(now, packet, meta));
        match heard {
            None => self.transit(now, link, bytes, meta, Reason::UnknownProtocol),
            // The first shard asks, whichever gets the answer.
            Some(_) if self.index != 0 => match self.sharing.take(now) {
                true => Verdict::Elsewhere(0),
                false => Verdict::Drop(Reason::LinkRate),
            },
            Some(Ok(())) => Verdict::Done,
            Some(Err(reason)) => Verdict::Drop(reason),
        }
    }

    /// Ends the flows of an address that is ours no more: nobody would be answered.
    fn abandon(&mut self, link: LinkId, address: Address) {
        for slot in 0..self.engine.slots() {
            if let Some((id, local, at)) = self.engine.local(slot)
                && (local, at) == (address, link)
            {
                self.engine.evict(id, Reason::AddressLost);
            }
        }
        self.measure(link);
    }

    /// Takes over the size of packets and the addresses that the link has now.
    fn measure(&mut self, link: LinkId) {
        if let Some(attached) = self.links.get_mut(usize::from(link.0)) {
            let mtu = attached.link.mtu();
            attached.rules.mtu = mtu;
            self.engine.set_mtu(link, mtu);
            let own = attached.link.config().addresses.iter().map(|own| own.address);
            if let Some(egress) = &mut self.egress {
                egress.set_own(link, own.collect());
            }
        }
    }
}
