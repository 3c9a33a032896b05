//! Which listener a destination belongs to: a sorted table, fast for a few listeners and correct for many.

use crate::shard::{Listener, ListenerId};
use crate::wire::{Address, LinkId};

/// The listeners of a shard; built once per configuration.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    /// Sorted by port, link and address; a listener for all addresses comes before those for one.
    sorted: Vec<(ListenerId, Listener)>,
}

impl Listeners {
    /// A table of `listeners`, whose [`ListenerId`] is their index. Of two for the same place the first one counts.
    pub fn new(listeners: &[Listener]) -> Self {
        let ids = (0..=u16::MAX).map(ListenerId);
        let mut sorted: Vec<_> = ids.zip(listeners.iter().copied()).collect();
        sorted.sort_by_key(|(id, listener)| (Self::order(listener), id.0));
        sorted.dedup_by_key(|(_, listener)| Self::order(listener));
        Listeners { sorted }
    }

    /// The listener for a destination: one that names the address goes before one for all of the link's.
    pub fn find(&self, link: LinkId, address: Address, port: u16) -> Option<(ListenerId, &Listener)> {
        self.at((port, link, Some(address))).or_else(|| self.at((port, link, None)))
    }

    fn at(&self, place: (u16, LinkId, Option<Address>)) -> Option<(ListenerId, &Listener)> {
        let index = self.sorted.binary_search_by_key(&place, |(_, listener)| Self::order(listener)).ok()?;
        self.sorted.get(index).map(|(id, listener)| (*id, listener))
    }

    fn order(listener: &Listener) -> (u16, LinkId, Option<Address>) {
        (listener.port, listener.link, listener.address)
    }
}
