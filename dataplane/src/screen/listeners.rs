//! Which listener a destination belongs to: a sorted table.

use crate::shard::{Listener, ListenerId};
use crate::wire::{Address, LinkId};

/// The listeners of a shard; built once per configuration.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    /// Port and link of each listener, sorted: all that a search for a foreign port has to read.
    places: Vec<u32>,
    /// In the same order, those for one address before the one for all.
    listeners: Vec<(ListenerId, Listener)>,
}

impl Listeners {
    /// A table of `listeners`, whose [`ListenerId`] is their index. Of two for the same place the first one counts.
    pub fn new(listeners: &[Listener]) -> Self {
        let ids = (0..=u16::MAX).map(ListenerId);
        let mut sorted: Vec<_> = ids.zip(listeners.iter().copied()).collect();
        let order = |listener: &Listener| {
            (place(listener.link, listener.port), listener.address.is_none(), listener.address)
        };
        sorted.sort_by_key(|(id, listener)| (order(listener), id.0));
        sorted.dedup_by_key(|(_, listener)| order(listener));
        let places = sorted.iter().map(|(_, listener)| place(listener.link, listener.port)).collect();
        Listeners { places, listeners: sorted }
    }

    /// The listener for a destination: one that names the address goes before one for all of the link's.
    #[inline]
    pub fn find(&self, link: LinkId, address: Address, port: u16) -> Option<(ListenerId, &Listener)> {
        let place = place(link, port);
        let first = match self.places.as_slice() {
            [] => return None,
            // Nearly every appliance has so few.
            few @ ([_] | [_, _] | [_, _, _]) => few.iter().position(|&other| other == place)?,
            many => many.partition_point(|&other| other < place),
        };
        let here = self.places.get(first..)?.iter().take_while(|&&other| other == place);
        let candidates = self.listeners.get(first..)?.iter().zip(here).map(|(entry, _)| entry);
        let mut fits = candidates.filter(|(_, listener)| listener.address.is_none_or(|own| own == address));
        fits.next().map(|(id, listener)| (*id, listener))
    }

    /// The TCP ports of a link that listeners hold, each with its address, or `None` for all of the link's.
    pub(crate) fn on(&self, link: LinkId) -> impl Iterator<Item = (Option<Address>, u16)> + '_ {
        let here = self.listeners.iter().filter(move |(_, listener)| listener.link == link);
        here.map(|(_, listener)| (listener.address, listener.port))
    }
}

/// Port and link in one number.
fn place(link: LinkId, port: u16) -> u32 {
    u32::from(port) << 8 | u32::from(link.0)
}
