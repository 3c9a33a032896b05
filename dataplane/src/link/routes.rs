//! Static routes: which next hops lead to a destination, longest prefix first.

use super::{LinkConfig, Prefix};
use crate::wire::Address;

/// One route, in the form that is searched.
#[derive(Clone, Copy, Debug)]
struct Entry {
    prefix: Prefix,
    /// The gateway; `None` where the destination itself is the next hop.
    via: Option<Address>,
}

/// The routes of a link. A gateway is always taken to be on the link itself, whether or not a prefix of ours covers it:
/// clouds hand out `/32` addresses with a gateway elsewhere, and IPv6 gateways are often link-local.
#[derive(Clone, Debug)]
pub(super) struct Routes {
    entries: Vec<Entry>,
}

impl Routes {
    /// The on-link prefixes of our addresses, the configured routes, and a default route per gateway.
    pub(super) fn new(config: &LinkConfig) -> Self {
        let on_link = config.addresses.iter().map(|own| Entry { prefix: own.network(), via: None });
        let routes =
            config.routes.iter().map(|route| Entry { prefix: route.prefix.network(), via: route.gateway });
        let defaults = config.gateways.iter().map(|&gateway| {
            let any = if gateway.is_v4() { Address::from_v4([0; 4]) } else { Address::from_v6([0; 16]) };
            Entry { prefix: Prefix { address: any, length: 0 }, via: Some(gateway) }
        });
        let mut entries: Vec<Entry> = on_link.chain(routes).chain(defaults).collect();
        // Stable: among equals the order of the configuration is the order of preference.
        entries.sort_by_key(|entry| core::cmp::Reverse(entry.prefix.length));
        Routes { entries }
    }

    /// The next hops towards a destination: those of the longest prefix that covers it, in order of preference.
    pub(super) fn next_hops(&self, destination: Address) -> impl Iterator<Item = Address> + '_ {
        let covering = move |entry: &&Entry| entry.prefix.covers(destination);
        let longest = self.entries.iter().find(covering).map(|entry| entry.prefix.length);
        self.entries
            .iter()
            .filter(move |entry| Some(entry.prefix.length) == longest && entry.prefix.covers(destination))
            .map(move |entry| entry.via.unwrap_or(destination))
    }
}
