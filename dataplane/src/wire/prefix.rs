//! A prefix of addresses, as bans, quotas and drivers name it: `203.0.113.0/24`, `2001:db8::/32`.
//!
//! A [`Prefix`] is valid by construction: its length fits the family, and all bits beyond it are zero.

use core::fmt;
use core::str::FromStr;
use std::net::IpAddr;

use super::Address;

/// A network: an address whose bits beyond `length` are zero. Ordered by address, then from wide to narrow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: Address,
    length: u8,
}

impl Prefix {
    /// The network of `length` bits that `address` lies in; a length beyond the family's means the address alone.
    pub const fn of(address: Address, length: u8) -> Self {
        let most = Self::longest(address);
        let length = if length > most { most } else { length };
        Prefix { address: address.prefix(length), length }
    }

    /// One address.
    pub const fn host(address: Address) -> Self {
        Self::of(address, u8::MAX)
    }

    /// The network that is written as `address/length`.
    ///
    /// # Errors
    /// A length that the family does not have, and bits beyond it.
    pub fn new(address: Address, length: u8) -> Result<Self, PrefixError> {
        if length > Self::longest(address) {
            return Err(PrefixError::TooLong { length, most: Self::longest(address) });
        }
        let prefix = Self::of(address, length);
        if prefix.address == address { Ok(prefix) } else { Err(PrefixError::HostBits(prefix)) }
    }

    /// The first address.
    pub const fn address(self) -> Address {
        self.address
    }

    /// Leading bits that count, in the address's own family: at most 32 or 128.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// The last address.
    pub const fn last(self) -> Address {
        let free = Self::longest(self.address) - self.length;
        let ones = if free == 128 { u128::MAX } else { (1 << free) - 1 };
        Address::from_v6((self.address.bits() | ones).to_be_bytes())
    }

    /// Whether it is of IPv4.
    pub const fn is_v4(self) -> bool {
        self.address.is_v4()
    }

    /// Whether an address lies in it.
    pub fn covers(self, address: Address) -> bool {
        self.address.same_family(address) && address.prefix(self.length) == self.address
    }

    /// Whether all of `other` lies in it.
    pub fn contains(self, other: Prefix) -> bool {
        self.length <= other.length && self.covers(other.address)
    }

    /// Whether the two have an address in common: one of them contains the other.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// Bits of the family's addresses.
    const fn longest(address: Address) -> u8 {
        if address.is_v4() { 32 } else { 128 }
    }
}

/// Why a text or a pair is no prefix; reads as `what is wrong; expected what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// Not an address.
    NoAddress(String),
    /// Not a number of bits.
    NoLength(String),
    /// More bits than the family has.
    TooLong {
        /// As given.
        length: u8,
        /// What the family has.
        most: u8,
    },
    /// Bits beyond the length are set; the network that was probably meant.
    HostBits(Prefix),
    /// An IPv4 address in IPv6 form, as it would be written.
    Mapped(Address),
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrefixError::NoAddress(text) => write!(
                f,
                "`{text}` is no address; expected an address or a prefix, such as 203.0.113.7 or 2001:db8::/32"
            ),
            PrefixError::NoLength(text) => {
                write!(f, "`/{text}` is no prefix length; expected a number of bits, such as /24")
            }
            PrefixError::TooLong { length, most } => {
                write!(f, "/{length} is longer than the address; expected at most /{most}")
            }
            PrefixError::HostBits(meant) => {
                write!(f, "the address has bits beyond its prefix; expected {meant}")
            }
            PrefixError::Mapped(meant) => write!(f, "an IPv4 address in IPv6 form; expected {meant}"),
        }
    }
}

impl std::error::Error for PrefixError {}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `address/length`, or an address alone for itself.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| PrefixError::NoAddress(address.to_owned()))?;
        if ip.is_ipv6() && Address::from(ip).is_v4() {
            return Err(PrefixError::Mapped(ip.into()));
        }
        match length {
            None => Ok(Prefix::host(ip.into())),
            // `parse` would take a sign, too.
            Some(bits) if bits.is_empty() || bits.bytes().any(|byte| !byte.is_ascii_digit()) => {
                Err(PrefixError::NoLength(bits.to_owned()))
            }
            Some(bits) => {
                let length = bits.parse().map_err(|_| PrefixError::NoLength(bits.to_owned()))?;
                Prefix::new(ip.into(), length)
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn any_address() -> impl Strategy<Value = Address> {
        // IPv6 outside of the v4-mapped range, which no packet carries.
        prop_oneof![
            any::<[u8; 4]>().prop_map(Address::from_v4),
            any::<[u8; 16]>().prop_map(|mut bytes| {
                bytes[0] |= 0x20;
                Address::from_v6(bytes)
            }),
        ]
    }

    #[test]
    fn says_what_is_wrong_and_what_was_meant() {
        for (text, error) in [
            ("10.0.0.1/8", "the address has bits beyond its prefix; expected 10.0.0.0/8"),
            ("10.0.0.0/33", "/33 is longer than the address; expected at most /32"),
            ("2001:db8::/129", "/129 is longer than the address; expected at most /128"),
            ("10.0.0.0/", "`/` is no prefix length; expected a number of bits, such as /24"),
            ("10.0.0.0/+8", "`/+8` is no prefix length; expected a number of bits, such as /24"),
            ("10.0.0.0/999", "`/999` is no prefix length; expected a number of bits, such as /24"),
            ("::ffff:10.0.0.1", "an IPv4 address in IPv6 form; expected 10.0.0.1"),
            (
                "10.0.0/8",
                "`10.0.0` is no address; expected an address or a prefix, such as 203.0.113.7 or 2001:db8::/32",
            ),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn an_address_alone_is_a_whole_prefix() {
        assert_eq!(prefix("203.0.113.7").to_string(), "203.0.113.7/32");
        assert_eq!(prefix("2001:db8::7").to_string(), "2001:db8::7/128");
    }

    #[test]
    fn the_families_are_apart() {
        let (v4, v6) = (prefix("0.0.0.0/0"), prefix("::/0"));
        let (a, b) = (Address::from_v4([203, 0, 113, 7]), prefix("2001:db8::7").address());
        assert!(v4.covers(a) && !v4.covers(b) && v6.covers(b) && !v6.covers(a));
        assert!(!v4.overlaps(v6));
        assert_eq!((v4.last(), v6.last().bits()), (Address::from_v4([255; 4]), u128::MAX));
    }

    proptest! {
        #[test]
        fn reads_what_it_prints(address in any_address(), length in 0u8..=130) {
            let prefix = Prefix::of(address, length);
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            prop_assert_eq!(Prefix::new(prefix.address(), prefix.length()), Ok(prefix));
            prop_assert!(prefix.covers(address) && prefix.covers(prefix.last()));
            prop_assert!(prefix.contains(Prefix::host(address)));
        }

        #[test]
        fn covers_what_lies_between_first_and_last(a in any_address(), b in any_address(), length in 0u8..=128) {
            let prefix = Prefix::of(a, length);
            let between = (prefix.address()..=prefix.last()).contains(&b) && a.same_family(b);
            prop_assert_eq!(prefix.covers(b), between);
        }
    }
}
