//! Addresses by DHCP, carried around: from the shard that asks for them to the ports, the other cores and the operator.

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::frame::Port;
use hedgerow_dataplane::link::dhcp::LeaseNews;
use hedgerow_dataplane::wire::LinkId;

use super::Core;

/// News that wait to be taken at most.
const WAITING: usize = 64;

impl<P: Port> Core<P> {
    /// What happened to a port's address by DHCP, with the port's place in the configuration.
    pub fn lease_news(&mut self) -> Option<(usize, LeaseNews)> {
        self.leases.pop_front()
    }

    /// Takes the news of this core's shard, if it is the one that asks, or else the addresses that the others know.
    pub(super) fn follow_leases(&mut self, now: Instant) {
        for index in 0..self.ports.len() {
            while let Some(news) = self.shard.lease_news(LinkId(index as u8)) {
                self.carry(index, news);
            }
        }
        let leased = self.commons.leased();
        if leased == self.leased {
            return;
        }
        self.leased = leased;
        for (index, lease) in self.commons.leases().into_iter().enumerate() {
            self.shard.set_lease(now, LinkId(index as u8), lease);
        }
    }

    fn carry(&mut self, index: usize, news: LeaseNews) {
        let port = &mut self.ports[index].port;
        match &news {
            LeaseNews::Bound(lease) => {
                port.own(lease.own.address, true);
                self.commons.lease(index, Some(lease.clone()));
            }
            LeaseNews::Renewed(lease) => self.commons.lease(index, Some(lease.clone())),
            LeaseNews::Lost(address, _) => {
                port.own(*address, false);
                self.commons.lease(index, None);
            }
            LeaseNews::Refused(..) => {}
        }
        if self.leases.len() == WAITING {
            self.leases.pop_front();
        }
        self.leases.push_back((index, news));
    }
}
