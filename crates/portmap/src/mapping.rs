//! What a gateway gave: the external address, how far it reaches, by which protocol and until when.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};

/// A way to ask a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device, 1 or 2.
    Upnp,
}

impl Protocol {
    /// A word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp-igd",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::Pcp => 1,
            Self::NatPmp => 2,
            Self::Upnp => 4,
        }
    }
}

/// Which protocols may be used: an administrator's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols(u8);

impl Protocols {
    /// Nothing is asked of any gateway.
    pub const NONE: Self = Self(0);
    /// Every protocol.
    pub const ALL: Self = Self::NONE.with(Protocol::Pcp).with(Protocol::NatPmp).with(Protocol::Upnp);

    /// These and one more.
    #[must_use]
    pub const fn with(self, protocol: Protocol) -> Self {
        Self(self.0 | protocol.bit())
    }

    /// These but one.
    #[must_use]
    pub const fn without(self, protocol: Protocol) -> Self {
        Self(self.0 & !protocol.bit())
    }

    /// Whether it is one of these.
    pub const fn contains(self, protocol: Protocol) -> bool {
        self.0 & protocol.bit() != 0
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// From where an external address can be reached, as far as the address itself tells. A mapping of a
/// router behind another router is worth something to peers behind the same outer one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Globally routable.
    Global,
    /// RFC 6598, 100.64.0.0/10: behind a carrier-grade NAT.
    CarrierGrade,
    /// RFC 1918 or RFC 4193: another NAT is in front of the gateway.
    Private,
    /// Another range that IANA keeps apart (documentation, benchmarks, reserved).
    Special,
}

impl Reach {
    /// `None` for what is no host's address anywhere else: unspecified, loopback, link-local,
    /// multicast, broadcast, "this network". A gateway that names one has no address to give.
    pub const fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    /// A word for logs and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::CarrierGrade => "carrier-grade",
            Self::Private => "private",
            Self::Special => "special",
        }
    }

    const fn of_v4(address: Ipv4Addr) -> Option<Self> {
        if address.is_loopback()
            || address.is_link_local()
            || address.is_multicast()
            || address.is_broadcast()
        {
            return None;
        }
        // The IANA IPv4 Special-Purpose Address Registry.
        match address.octets() {
            [0, ..] => None,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Self::Private),
            [100, 64..=127, ..] => Some(Self::CarrierGrade),
            [192, 0, 0 | 2, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [240..=255, ..] => Some(Self::Special),
            _ => Some(Self::Global),
        }
    }

    const fn of_v6(address: Ipv6Addr) -> Option<Self> {
        if address.to_ipv4_mapped().is_some() {
            return None; // an IPv4 address in IPv6 clothes is read before it gets here
        }
        match address.segments() {
            // 2000::/3 is what is given out; documentation and the IETF's own blocks lie inside it.
            [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] | [0x2001, 0..=0x01ff, ..] => Some(Self::Special),
            [0x2000..=0x3fff, ..] => Some(Self::Global),
            [0xfc00..=0xfdff, ..] => Some(Self::Private),
            [0xfe80..=0xfebf, ..] | [0xff00..=0xffff, ..] | [0, ..] => None,
            _ => Some(Self::Special),
        }
    }
}

/// A port of the gateway that leads to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Where others reach us.
    pub external: SocketAddr,
    /// How far that address reaches.
    pub reach: Reach,
    /// Who gave it.
    pub protocol: Protocol,
    /// Until when it holds unless it is renewed, which is tried from half of that time.
    pub until: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_behind_another_nat_is_told_from_a_global_one() {
        let of = |text: &str| Reach::of(text.parse().unwrap());
        assert_eq!(of("8.8.8.8"), Some(Reach::Global));
        assert_eq!(of("100.63.255.255"), Some(Reach::Global));
        assert_eq!(of("100.64.0.1"), Some(Reach::CarrierGrade));
        assert_eq!(of("100.127.255.255"), Some(Reach::CarrierGrade));
        assert_eq!(of("172.31.0.1"), Some(Reach::Private));
        assert_eq!(of("172.32.0.1"), Some(Reach::Global));
        assert_eq!(of("203.0.113.9"), Some(Reach::Special));
        assert_eq!(of("2a00:1450::1"), Some(Reach::Global));
        assert_eq!(of("2001:db8::1"), Some(Reach::Special));
        assert_eq!(of("fd00::1"), Some(Reach::Private));
    }

    #[test]
    fn an_address_that_is_nobodys_is_no_external_address() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
        ] {
            assert_eq!(Reach::of(text.parse().unwrap()), None, "{text}");
        }
    }
}
