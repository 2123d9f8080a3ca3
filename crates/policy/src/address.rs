//! Addresses as administrators write them, parsed once.

use std::{fmt, net::IpAddr, str::FromStr};

/// Why a text is no address, prefix, name or port range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither an IP address, a prefix nor a host name.
    #[error(
        "expected an IP address, a prefix like 10.0.2.0/24, a host name or a wildcard like *.corp.example, got {0:?}: {1}"
    )]
    Address(String, &'static str),
    /// Not a port or range.
    #[error("expected ports from 1 to 65535 like 443 or 8000-8999, udp/53 for UDP, or icmp, got {0:?}")]
    Ports(String),
}

pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// An IP prefix with no bits set behind its length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

fn mask(address: IpAddr, length: u8) -> u128 {
    // IPv4 is kept in the low 32 bits; lengths are those of the family.
    let width = width(address);
    let ones = u128::MAX >> (128 - u32::from(width));
    if length == 0 { 0 } else { ones & (ones << (width - length)) }
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl Prefix {
    /// A prefix.
    ///
    /// # Errors
    /// The length is too large for the family, or bits behind it are set.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, AddressError> {
        let text = || format!("{address}/{length}");
        if length > width(address) {
            return Err(AddressError::Address(text(), "the prefix length is too large"));
        }
        if bits(address) & !mask(address, length) != 0 {
            return Err(AddressError::Address(text(), "bits behind the prefix length are set"));
        }
        Ok(Self { address, length })
    }

    /// The prefix of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, length: width(address) }
    }

    /// Whether an address is inside. An IPv4-mapped IPv6 address is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.address)
            && bits(address) & mask(address, self.length) == bits(self.address)
    }

    /// The first address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The length in bits.
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.length
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

impl FromStr for Prefix {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |problem| AddressError::Address(shorten(text), problem);
        let (address, length) =
            text.split_once('/').ok_or_else(|| error("a prefix has a length behind a slash"))?;
        let address: IpAddr =
            address.parse().map_err(|_| error("the part before the slash is no IP address"))?;
        if length.len() > 3
            || (length.len() > 1 && length.starts_with('0'))
            || !length.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(error("the prefix length is not a number"));
        }
        Self::new(address, length.parse().map_err(|_| error("the prefix length is not a number"))?)
    }
}

/// RFC 1035 section 2.3.4: 253 characters in text form, 63 a label.
const MAX_NAME: usize = 253;

/// A host name: lower case, no dot at the end, labels of RFC 1123 (underscores allowed, as in real
/// private networks).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// Ordered and equal as its text is.
impl std::borrow::Borrow<str> for HostName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |problem| AddressError::Address(shorten(text), problem);
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(error("a host name has 1 to 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(error("a label of a host name has 1 to 63 characters"));
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(error("a label does not begin or end with a dash"));
            }
            if !label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            {
                return Err(error("a host name has letters, digits, dashes and dots"));
            }
        }
        // "10.0.0" and "0x7f.1" are addresses to some resolvers and names to others.
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(error("the last label of a host name is not a number"));
        }
        Ok(Self(name))
    }
}

/// All names below one, at any depth and without itself: `*.corp.example`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wildcard(HostName);

impl Wildcard {
    /// The name that all of them are below.
    #[must_use]
    pub const fn suffix(&self) -> &HostName {
        &self.0
    }

    /// Whether a name is one of them.
    #[must_use]
    pub fn contains(&self, name: &HostName) -> bool {
        name.as_str().strip_suffix(self.0.as_str()).is_some_and(|below| {
            // "evilcorp.example" ends like "corp.example" and is not below it.
            below.ends_with('.') || (planted::is("suffix-without-a-dot") && !below.is_empty())
        })
    }
}

impl fmt::Display for Wildcard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "*.{}", self.0)
    }
}

impl fmt::Debug for Wildcard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Wildcard {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |problem| AddressError::Address(shorten(text), problem);
        let suffix = text
            .strip_prefix("*.")
            .filter(|suffix| !suffix.contains('*'))
            .ok_or_else(|| error("a wildcard is *. in front of a name, as in *.corp.example"))?;
        let suffix: HostName = suffix.parse()?;
        // The shortest name below it has two characters more.
        if suffix.as_str().len() > MAX_NAME - 2 {
            return Err(error("no name is short enough to be below this one"));
        }
        Ok(Self(suffix))
    }
}

/// Where a resource is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// One IP address, named literally.
    Ip(IpAddr),
    /// A prefix.
    Cidr(Prefix),
    /// A name that the connector resolves in its site.
    Host(HostName),
    /// Names that the connector resolves in its site.
    Wildcard(Wildcard),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Cidr(prefix) => prefix.fmt(f),
            Self::Host(name) => name.fmt(f),
            Self::Wildcard(names) => names.fmt(f),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        if text.contains('/') {
            return text.parse().map(Self::Cidr);
        }
        if text.contains('*') {
            return text.parse().map(Self::Wildcard);
        }
        text.parse().map(Self::Host)
    }
}

macro_rules! serde_as_text {
    ($($name:ty),*) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
pub(crate) use serde_as_text;
serde_as_text!(Prefix, HostName, Wildcard, Address);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_looks_like_an_address_to_some_resolver_is_no_host_name() {
        for text in [
            "127.1",
            "0x7f.0.0.1",
            "10.0.2",
            "1",
            "300.1.1.1",
            "-a.example",
            "a..b",
            "",
            "a b",
            "*x.example",
            "*",
            "*.",
            "x.*.example",
            "*.*.example",
            "*.10.0",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert_eq!("Web.LAB.internal.".parse::<Address>().expect("name").to_string(), "web.lab.internal");
        assert_eq!("::ffff:10.0.0.1".parse::<Address>(), "10.0.0.1".parse::<Address>());
    }

    #[test]
    fn a_wildcard_has_the_names_below_it_and_neither_itself_nor_its_neighbours() {
        let address: Address = "*.Corp.example.".parse().expect("a wildcard");
        assert_eq!(address.to_string(), "*.corp.example");
        let Address::Wildcard(names) = address else { panic!("{address:?}") };
        for (name, inside) in [
            ("wiki.corp.example", true),
            ("a.b.c.corp.example", true),
            ("corp.example", false),
            ("evilcorp.example", false),
            ("wiki.corp.example.org", false),
            ("example", false),
        ] {
            assert_eq!(names.contains(&name.parse().expect("a name")), inside, "{name}");
        }
    }

    #[test]
    fn a_prefix_contains_its_ends_and_not_its_neighbours() {
        let prefix: Prefix = "10.0.2.0/23".parse().expect("prefix");
        for (ip, inside) in [
            ("10.0.2.0", true),
            ("10.0.3.255", true),
            ("10.0.1.255", false),
            ("10.0.4.0", false),
            ("::ffff:10.0.2.9", true),
            ("::a00:209", false),
        ] {
            assert_eq!(prefix.contains(ip.parse().expect("ip")), inside, "{ip}");
        }
        assert!("0.0.0.0/0".parse::<Prefix>().expect("all").contains("203.0.113.1".parse().expect("ip")));
        assert!("10.0.2.1/24".parse::<Prefix>().is_err() && "10.0.2.0/33".parse::<Prefix>().is_err());
        assert!("10.0.2.0/024".parse::<Prefix>().is_err() && "10.0.2.0/+8".parse::<Prefix>().is_err());
    }

    proptest! {
        #[test]
        fn every_address_survives_its_text(text in "[0-9a-z.:/_*-]{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().expect("own text"), address);
            }
        }
    }
}
