//! Values as an operator writes them: durations, sizes, addresses with a prefix, nodes, identities.
//!
//! Each type parses from a string; its error says what was found and what was expected, as `found; expected this`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::egress::{PortRange, Purpose};
use crate::pool::Role;
use serde::{Deserialize, Deserializer, de};

/// Why a value was not understood: `what is wrong; expected what would be right`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misread(String);

impl Misread {
    pub(super) fn new(found: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Misread(format!("{found}; expected {expected}"))
    }
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misread {}

/// Lets a type that parses from a string be read from a file.
macro_rules! from_text {
    ($($name:ty),+) => { $(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )+ };
}

from_text!(Period, Size, OwnAddress, Hop, Network, NodeAddress, NodeId, Purpose, PortRange);

/// A duration: a number with `ms`, `s`, `m`, `h` or `d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        let wrong =
            || Misread::new(format_args!("`{text}` is no duration"), "a number and a unit, such as \"30s\"");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        number.checked_mul(millis).map(|ms| Period(Duration::from_millis(ms))).ok_or_else(wrong)
    }
}

/// An amount of memory: a number with `B`, `KiB`, `MiB` or `GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        let wrong =
            || Misread::new(format_args!("`{text}` is no size"), "a number and a unit, such as \"64 MiB\"");
        let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return Err(wrong()),
        };
        number.checked_mul(1 << shift).map(Size).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        match unit.iter().find(|(shift, _)| self.0 >> shift > 0 && self.0.is_multiple_of(1 << shift)) {
            Some((shift, name)) => write!(f, "{} {name}", self.0 >> shift),
            None => write!(f, "{} B", self.0),
        }
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

/// One of our addresses and the prefix it lies in: `203.0.113.7/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix in bits.
    pub length: u8,
}

impl Prefix {
    /// The network that the address lies in.
    pub fn network(&self) -> ipnet::IpNet {
        // The length was checked when the prefix was parsed; a host route stands in for the impossible case.
        ipnet::IpNet::new(self.address, self.length).unwrap_or(ipnet::IpNet::from(self.address)).trunc()
    }

    /// Whether `address` lies in the same network.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.network().contains(&address)
    }
}

impl FromStr for Prefix {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        let expected = "an address with its prefix length, such as \"203.0.113.7/24\" or \"2001:db8::7/64\", or \"dhcp\"";
        if text.parse::<IpAddr>().is_ok() {
            return Err(Misread::new(format_args!("`{text}` has no prefix length"), expected));
        }
        let net: ipnet::IpNet =
            text.parse().map_err(|_| Misread::new(format_args!("`{text}` is no address"), expected))?;
        Ok(Prefix { address: net.addr(), length: net.prefix_len() })
    }
}

/// An address of a port, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnAddress {
    /// This one.
    Fixed(Prefix),
    /// One that a DHCP server gives: `dhcp`.
    Dhcp,
}

impl FromStr for OwnAddress {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        if text == "dhcp" { Ok(OwnAddress::Dhcp) } else { text.parse().map(OwnAddress::Fixed) }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// A plain IP address: a gateway, or one of our service addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop(pub IpAddr);

impl FromStr for Hop {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        let wrong = |_| {
            Misread::new(format_args!("`{text}` is no address"), "an IP address, such as \"203.0.113.1\"")
        };
        text.parse().map(Hop).map_err(wrong)
    }
}

/// A destination prefix of a route: `10.0.0.0/8`. Bits beyond the prefix must be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(pub ipnet::IpNet);

impl FromStr for Network {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        let expected = "a network, such as \"10.0.0.0/8\"";
        let net: ipnet::IpNet =
            text.parse().map_err(|_| Misread::new(format_args!("`{text}` is no network"), expected))?;
        match net.trunc() == net {
            true => Ok(Network(net)),
            false => Err(Misread::new(
                format_args!("`{text}` has bits beyond its prefix"),
                format_args!("\"{}\"", net.trunc()),
            )),
        }
    }
}

/// A node of a pool: `name=address:port`, or `address:port` where the address is name enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddress {
    /// The name in `status` and logs.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// What it is for, where that is said.
    pub role: Option<Role>,
    /// Its share of sessions.
    pub weight: u32,
}

/// Largest weight of a node.
pub const WEIGHT_MAX: u32 = 100;

impl FromStr for NodeAddress {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        // Where the first `=` stands behind a blank it belongs to a word behind the address.
        let named = text.split_once('=').map(|(name, rest)| (name.trim(), rest));
        let named = named.filter(|(name, _)| !name.contains(char::is_whitespace));
        let mut words = named.map_or(text, |(_, rest)| rest).split_whitespace();
        let address = words.next().unwrap_or_default();
        let name = named.map_or(address, |(name, _)| name);
        let expected = "a name, an address and a port, such as \"a=10.0.1.11:8444\" or \"b=[fd00::b]:8444\"";
        if address.parse::<IpAddr>().is_ok() {
            return Err(Misread::new(format_args!("`{text}` has no port"), expected));
        }
        let address =
            address.parse().map_err(|_| Misread::new(format_args!("`{text}` is no node"), expected))?;
        if name.is_empty() {
            return Err(Misread::new(format_args!("`{text}` has an empty name"), expected));
        }
        let (mut role, mut weight) = (None, 1);
        for word in words {
            match (word, word.strip_prefix("weight=").map(str::parse)) {
                ("public", _) => role = Some(Role::Public),
                ("protected", _) => role = Some(Role::Protected),
                ("hidden", _) => role = Some(Role::Hidden),
                (_, Some(Ok(share))) if (1..=WEIGHT_MAX).contains(&share) => weight = share,
                _ => {
                    return Err(Misread::new(
                        format_args!("`{word}` says nothing about a node"),
                        "`public`, `protected`, `hidden` or `weight=` and 1 to 100 behind its address",
                    ));
                }
            }
        }
        Ok(NodeAddress { name: name.to_owned(), address, role, weight })
    }
}

/// The identity of a peer or node: SHA-256 over its leaf certificate, as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(pub [u8; 32]);

impl FromStr for NodeId {
    type Err = Misread;
    fn from_str(text: &str) -> Result<Self, Misread> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        hex32(digits).map(NodeId).ok_or_else(|| {
            Misread::new(
                format_args!("`{text}` is no node id"),
                "64 hexadecimal digits, as `chia show --connections` prints them",
            )
        })
    }
}

/// Reads 32 bytes from 64 hexadecimal digits.
pub fn hex32(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit() {
        assert_eq!("1500ms".parse(), Ok(Period(Duration::from_millis(1500))));
        assert_eq!("2 m".parse(), Ok(Period(Duration::from_secs(120))));
        assert_eq!("8 MiB".parse(), Ok(Size(8 << 20)));
        for text in
            ["30", "s", "-1s", "1.5s", "30 fortnights", "", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
        for text in ["8", "8MB", "MiB", "17179869184 GiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_as_they_are_written() {
        for text in ["1 B", "1025 B", "3 KiB", "64 MiB", "1 GiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_network_with_host_bits_names_the_network_that_was_meant() {
        assert_eq!(
            "10.0.0.1/8".parse::<Network>().unwrap_err().to_string(),
            "`10.0.0.1/8` has bits beyond its prefix; expected \"10.0.0.0/8\""
        );
    }

    #[test]
    fn nodes_have_a_name_an_address_and_a_port() {
        let node: NodeAddress = "a = 10.0.1.11:8444".parse().unwrap();
        assert_eq!((node.name.as_str(), node.address.to_string().as_str()), ("a", "10.0.1.11:8444"));
        assert_eq!("[fd00::b]:8444".parse::<NodeAddress>().unwrap().name, "[fd00::b]:8444");
        for text in ["a=10.0.1.11", "=10.0.1.11:8444", "a=b:8444", ""] {
            assert!(text.parse::<NodeAddress>().is_err(), "{text}");
        }
    }
}
