//! What the node tells the peer about addresses: never those behind the wall.
//!
//! A node gossips whom it knows, and may know its siblings, the appliance's inner side or itself. [`Privacy::edit`] reads
//! the lists that it sends. Entries with an address that no stranger could use, or that is one of ours, are withheld; a
//! node's own becomes the service's public address, if it has one. A list that cannot be read is replaced by an empty one.
//! The handshake names the service's port instead of the node's, or none.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::carry::Tally;
use crate::chia::{Handshake, number};

/// Longest list that is read; a node's own limit for such messages. A longer one does not go out, and is not held.
pub(super) const LIST_MAX: u32 = 1 << 20;

/// Addresses that stay inside, and what is said instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privacy {
    /// The nodes' addresses: where one appears, it becomes that of `service`.
    pub nodes: Vec<IpAddr>,
    /// Further addresses that nobody outside is to hear of: the appliance's own inner and outbound ones.
    pub inner: Vec<IpAddr>,
    /// Where peers reach the nodes. An address that is not public stands for no node's own: that is withheld, as it is where
    /// there is none. Then the handshake names port 0 too.
    pub service: Option<SocketAddr>,
}

impl Privacy {
    /// Changes what a message says, if it speaks of addresses.
    pub(super) fn edit(&self, kind: u8, body: Vec<u8>, tally: &mut Tally) -> Vec<u8> {
        match kind {
            number::HANDSHAKE => self.handshake(body),
            _ => self.list(&body, tally),
        }
    }

    fn handshake(&self, mut body: Vec<u8>) -> Vec<u8> {
        // Zero says that nobody can be reached there, which stays true.
        if let Some(place) = Handshake::server_port_bytes(&body)
            && body[place.clone()] != [0, 0]
        {
            let port = self.service.map_or(0, |service| service.port());
            body[place].copy_from_slice(&port.to_be_bytes());
        }
        body
    }

    fn list(&self, body: &[u8], tally: &mut Tally) -> Vec<u8> {
        let Some(entries) = entries(body) else {
            tally.addresses_withheld += 1;
            return 0u32.to_be_bytes().to_vec();
        };
        let (mut out, mut count, mut announced) = (0u32.to_be_bytes().to_vec(), 0u32, false);
        for entry in entries {
            let Some(address) = self.shown(&entry, &mut announced) else {
                tally.addresses_withheld += 1;
                continue;
            };
            let host = match address {
                Shown::AsItIs => entry.host.to_owned(),
                Shown::Service(service) => service.ip().to_string(),
            };
            let port = match address {
                Shown::AsItIs => entry.port,
                Shown::Service(service) => service.port(),
            };
            out.extend((host.len() as u32).to_be_bytes());
            out.extend(host.as_bytes());
            out.extend(port.to_be_bytes());
            out.extend(entry.timestamp);
            count += 1;
        }
        out[..4].copy_from_slice(&count.to_be_bytes());
        out
    }

    fn shown(&self, entry: &Entry<'_>, announced: &mut bool) -> Option<Shown> {
        let address = entry.host.parse::<IpAddr>().ok()?.to_canonical();
        if self.nodes.iter().any(|node| node.to_canonical() == address) {
            let service = self.service.filter(|service| is_public(service.ip()) && !*announced)?;
            *announced = true;
            return Some(Shown::Service(service));
        }
        let ours = self.inner.iter().any(|inner| inner.to_canonical() == address);
        (is_public(address) && !ours).then_some(Shown::AsItIs)
    }
}

enum Shown {
    AsItIs,
    Service(SocketAddr),
}

/// A `TimestampedPeerInfo`.
struct Entry<'a> {
    host: &'a str,
    port: u16,
    timestamp: [u8; 8],
}

/// The entries of a `RespondPeers`; `None` if it is none.
fn entries(body: &[u8]) -> Option<Vec<Entry<'_>>> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut entries = vec![];
    for _ in 0..u32::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk()?;
        let (host, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (port, after) = after.split_first_chunk()?;
        let (timestamp, after) = after.split_first_chunk()?;
        let host = core::str::from_utf8(host).ok()?;
        entries.push(Entry { host, port: u16::from_be_bytes(*port), timestamp: *timestamp });
        rest = after;
    }
    rest.is_empty().then_some(entries)
}

/// Whether an address may be one of the Internet's: not special by RFC 6890 in a way that tells of an inner network, nor one
/// that holds such an address (6to4, NAT64).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    let special = a == 0 || a >= 224 || shared;
    !(special || address.is_private() || address.is_loopback() || address.is_link_local())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let holds = match segments {
        [0x2002, high, low, ..] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some([high, low]),
        _ => None,
    };
    if let Some([high, low]) = holds {
        let [a, b, c, d] = [high >> 8, high & 0xff, low >> 8, low & 0xff].map(|part| part as u8);
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    // 2000::/3 is what has been given out.
    segments[0] & 0xe000 == 0x2000
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[(&str, u16)]) -> Vec<u8> {
        let mut body = (entries.len() as u32).to_be_bytes().to_vec();
        for (number, (host, port)) in entries.iter().enumerate() {
            body.extend((host.len() as u32).to_be_bytes());
            body.extend(host.as_bytes());
            body.extend(port.to_be_bytes());
            body.extend((number as u64).to_be_bytes());
        }
        body
    }

    fn said(privacy: &Privacy, body: Vec<u8>) -> (Vec<(String, u16, u64)>, u64) {
        let mut tally = Tally::default();
        let edited = privacy.edit(44, body, &mut tally);
        let entries = entries(&edited).expect("a list").into_iter();
        let read = entries.map(|e| (e.host.to_owned(), e.port, u64::from_be_bytes(e.timestamp)));
        (read.collect(), tally.addresses_withheld)
    }

    fn privacy() -> Privacy {
        Privacy {
            nodes: ["10.2.0.2", "203.0.113.77"].map(|text| text.parse().expect("an address")).to_vec(),
            inner: vec!["192.0.2.9".parse().expect("an address")],
            service: Some("203.0.113.1:8444".parse().expect("an address")),
        }
    }

    #[test]
    fn inner_addresses_stay_inside_and_the_nodes_own_becomes_the_services() {
        let body = list(&[
            ("198.51.100.7", 8444),
            ("10.2.0.2", 8555),
            ("203.0.113.77", 8444),
            ("10.9.9.9", 8444),
            ("::ffff:10.2.0.2", 8444),
            ("::ffff:192.0.2.9", 1),
            ("2001:db8::5", 8444),
            ("2002:a00:1::1", 8444),
            ("64:ff9b::c0a8:101", 8444),
            ("fd00::1", 8444),
            ("fe80::1", 8444),
            ("100.64.0.1", 8444),
            ("node.internal", 8444),
            ("127.0.0.1", 8444),
        ]);
        let (entries, withheld) = said(&privacy(), body);
        let kept = [("198.51.100.7", 8444, 0), ("203.0.113.1", 8444, 1), ("2001:db8::5", 8444, 6)];
        assert_eq!(entries, kept.map(|(host, port, time)| (host.to_owned(), port, time)));
        assert_eq!(withheld, 11);
    }

    #[test]
    fn without_a_public_service_a_nodes_own_address_is_withheld() {
        for service in [None, Some("10.1.0.1:8444".parse().expect("an address"))] {
            let privacy = Privacy { service, ..privacy() };
            assert_eq!(said(&privacy, list(&[("203.0.113.77", 8444)])), (vec![], 1));
        }
    }

    #[test]
    fn what_is_no_list_becomes_an_empty_one() {
        let good = list(&[("198.51.100.7", 8444)]);
        for bad in [&good[..good.len() - 1], &[good.clone(), vec![0]].concat(), &[0xff; 9], &[]] {
            assert_eq!(said(&privacy(), bad.to_vec()), (vec![], 1));
        }
    }

    #[test]
    fn the_handshake_names_the_services_port_or_none() {
        let hidden = Privacy { service: None, ..privacy() };
        for (privacy, said, expected) in [(privacy(), 9_000, 8444), (privacy(), 0, 0), (hidden, 9_000, 0)] {
            let greeting = Handshake::new("mainnet", crate::chia::NodeType::FullNode, said);
            let body = privacy.edit(number::HANDSHAKE, greeting.encode(), &mut Tally::default());
            let read = Handshake::decode(&body).expect("a handshake");
            assert_eq!(read, Handshake { server_port: expected, ..greeting });
        }
    }

    proptest! {
        /// Whatever a node sends, no private address comes out, and what is public comes in its order.
        #[test]
        fn nothing_private_comes_out(hosts in proptest::collection::vec((any::<u128>(), 0u8..4, any::<u16>()), 0..50)) {
            let texts: Vec<(String, u16)> = hosts.iter().map(|&(bits, form, port)| {
                let v4 = Ipv4Addr::from(bits as u32);
                (match form {
                    0 => v4.to_string(),
                    1 => v4.to_ipv6_mapped().to_string(),
                    2 => Ipv4Addr::new(10, v4.octets()[1], 0, 1).to_string(),
                    _ => Ipv6Addr::from(bits).to_string(),
                }, port)
            }).collect();
            let body = list(&texts.iter().map(|(host, port)| (host.as_str(), *port)).collect::<Vec<_>>());
            let (entries, withheld) = said(&privacy(), body);
            prop_assert_eq!(entries.len() + withheld as usize, texts.len());
            let mut before = None;
            for (host, port, number) in entries {
                prop_assert!(is_public(host.parse().expect("an address")));
                prop_assert_eq!(&(host, port), &texts[number as usize]);
                prop_assert!(before.is_none_or(|before| before < number));
                before = Some(number);
            }
        }
    }
}
