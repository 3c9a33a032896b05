//! Addresses and flow keys in the one form that tables, hashes and quotas use.

use core::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The broadcast address.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether this is a group address (multicast or broadcast).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IP address of either family in 128 bits: IPv4 in its v4-mapped form, `::ffff:a.b.c.d`.
///
/// The form is unambiguous because v4-mapped addresses inside real IPv6 packets are refused as martians. Kept in two
/// halves, the first bits first, because a number of 128 bits would want sixteen-byte alignment in every table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address {
    high: u64,
    low: u64,
}

impl Address {
    const V4_PREFIX: u64 = 0xffff_0000_0000;

    /// From the four bytes of an IPv4 address.
    #[inline]
    pub const fn from_v4(bytes: [u8; 4]) -> Self {
        Address { high: 0, low: Self::V4_PREFIX | u32::from_be_bytes(bytes) as u64 }
    }

    /// From the sixteen bytes of an IPv6 address.
    pub const fn from_v6(bytes: [u8; 16]) -> Self {
        Address::from_bits(u128::from_be_bytes(bytes))
    }

    const fn from_bits(bits: u128) -> Self {
        Address { high: (bits >> 64) as u64, low: bits as u64 }
    }

    /// Whether this is an IPv4 address.
    #[inline]
    pub const fn is_v4(self) -> bool {
        self.high == 0 && self.low >> 32 == 0xffff
    }

    /// The four bytes of an IPv4 address; `None` for IPv6.
    #[inline]
    pub const fn v4(self) -> Option<[u8; 4]> {
        if self.is_v4() { Some((self.low as u32).to_be_bytes()) } else { None }
    }

    /// The sixteen bytes, in the v4-mapped form for IPv4.
    pub const fn octets(self) -> [u8; 16] {
        self.bits().to_be_bytes()
    }

    /// The address as a number, in the v4-mapped form for IPv4.
    #[inline]
    pub const fn bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// The first `length` bits of the address in its own family (up to 32 for IPv4, 128 for IPv6), the rest zero.
    pub const fn prefix(self, length: u8) -> Address {
        let length = if self.is_v4() { 96 + if length > 32 { 32 } else { length } } else { length };
        match length {
            0 => Address { high: 0, low: 0 },
            1..=127 => Address::from_bits(self.bits() & (u128::MAX << (128 - length))),
            _ => self,
        }
    }

    /// Whether both addresses are of one family.
    pub const fn same_family(self, other: Address) -> bool {
        self.is_v4() == other.is_v4()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Address::from_v4(v4.octets()),
            IpAddr::V6(v6) => Address::from_v6(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(ip: Ipv4Addr) -> Self {
        Address::from_v4(ip.octets())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(ip: Ipv6Addr) -> Self {
        Address::from_v6(ip.octets())
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.v4() {
            Some(v4) => IpAddr::V4(v4.into()),
            None => IpAddr::V6(address.octets().into()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 4-tuple of a TCP connection, seen from this side.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Our address (or the peer's, on a transparent private leg).
    pub local: Address,
    /// The other side's address.
    pub remote: Address,
    /// Our TCP port.
    pub local_port: u16,
    /// The other side's TCP port.
    pub remote_port: u16,
}

impl FlowKey {
    /// The key of a connection between two socket addresses.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        FlowKey {
            local: local.ip().into(),
            remote: remote.ip().into(),
            local_port: local.port(),
            remote_port: remote.port(),
        }
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local.into(), self.local_port)
    }

    /// The other end.
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote.into(), self.remote_port)
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<-{}", self.local(), self.remote())
    }
}
