//! The lie of the land: addresses, gateways and ports of a world, and the device's place in it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hedgerow_dataplane::Instant;
use hedgerow_dataplane::link::{Claiming, LinkConfig, Prefix};
use hedgerow_dataplane::wire::Mac;
use hedgerow_port::{Memory, MemoryConfig};
use rustls::crypto::CryptoProvider;

use crate::host::{Host, Place};
use crate::subject::Site;

/// Noon of 1 November 2026, UTC: the time of day when a world begins.
pub const UNIX: Duration = Duration::from_secs(1_793_534_400);

const PUBLIC_MAC: Mac = Mac([2, 0x68, 0, 0, 0, 1]);
const PRIVATE_MAC: Mac = Mac([2, 0x68, 0, 0, 0, 2]);
const NODE_MAC: Mac = Mac([2, 0x6e, 0, 0, 0, 1]);

/// Addresses of one world.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Where peers connect to.
    pub service: SocketAddr,
    /// The device's way out.
    pub gateway: IpAddr,
    /// The device among the nodes.
    pub inside: IpAddr,
    /// The node.
    pub node: SocketAddr,
    prefix: u8,
}

impl Ground {
    /// A world of IPv4 with the service on `port`.
    pub fn v4(port: u16) -> Self {
        Ground {
            service: SocketAddr::new(Ipv4Addr::new(62, 4, 16, 80).into(), port),
            gateway: Ipv4Addr::new(62, 4, 16, 1).into(),
            inside: Ipv4Addr::new(10, 20, 0, 1).into(),
            node: SocketAddr::new(Ipv4Addr::new(10, 20, 0, 10).into(), port),
            prefix: 24,
        }
    }

    /// A world of IPv6 with the service on `port`.
    pub fn v6(port: u16) -> Self {
        let (outside, inside) = (
            |last| Ipv6Addr::new(0x2a01, 0x4f8, 1, 2, 0, 0, 0, last),
            |last| Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, last),
        );
        Ground {
            service: SocketAddr::new(outside(0x80).into(), port),
            gateway: outside(1).into(),
            inside: inside(1).into(),
            node: SocketAddr::new(inside(0x10).into(), port),
            prefix: 64,
        }
    }

    /// The node's host; whatever is not beside it goes through the device.
    pub fn node_host(&self, seed: u64) -> Host {
        let place = Place {
            mac: NODE_MAC,
            address: self.node.ip(),
            prefix: self.prefix,
            gateway: self.inside,
            mtu: 1_500,
            seed,
        };
        Host::new(place, Instant::ZERO)
    }

    fn link(&self, mac: Mac, address: IpAddr, gateway: Option<IpAddr>) -> LinkConfig {
        LinkConfig {
            mac,
            addresses: vec![Prefix { address: address.into(), length: self.prefix }],
            gateways: gateway.into_iter().map(Into::into).collect(),
            claiming: Claiming::Announce,
            ..LinkConfig::default()
        }
    }
}

/// Lays a world out: the device's site, and the far ends of its public and its private port.
pub fn lay_out(ground: &Ground, crypto: Arc<CryptoProvider>, seed: u64) -> (Site, Memory, Memory) {
    let near = |mac| MemoryConfig { mac, ..MemoryConfig::default() };
    // The far end looks at frames where they lie and needs only a batch of its own.
    let far = MemoryConfig { frames: 128, queue: 1_024, ..MemoryConfig::default() };
    let (public, outside) = Memory::pair(near(PUBLIC_MAC), far.clone());
    let (private, inside) = Memory::pair(near(PRIVATE_MAC), far);
    let site = Site {
        public,
        private,
        public_link: ground.link(PUBLIC_MAC, ground.service.ip(), Some(ground.gateway)),
        private_link: ground.link(PRIVATE_MAC, ground.inside, None),
        service: ground.service,
        nodes: vec![ground.node],
        network: "mainnet".into(),
        crypto,
        unix: UNIX,
        seed,
    };
    (site, outside, inside)
}
