//! Addresses at which nobody is to be reached: the machine's own, the link's, nobody's, everybody's, and those at
//! which clouds answer for their machines, credentials included. One list for who forwards and for who probes.

use crate::metadata::is_cloud_metadata;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is the machine's own, the link's, nobody's or everybody's, or a cloud's metadata, in whatever
/// spelling a kernel or a gateway turns back into it.
#[must_use]
pub fn is_special_address(address: IpAddr) -> bool {
    let plain = |address: IpAddr| {
        is_cloud_metadata(address)
            || match address {
                IpAddr::V4(v4) => {
                    v4.is_loopback()
                        || v4.is_link_local()
                        || v4.is_multicast()
                        // "This network" with the unspecified address (RFC 1122 section 3.2.1.3), and reserved with
                        // the broadcast address (RFC 1112 section 4).
                        || matches!(v4.octets()[0], 0 | 240..)
                }
                IpAddr::V6(v6) => {
                    v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()
                }
            }
    };
    let address = address.to_canonical();
    plain(address)
        || match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => embedded_ipv4(v6).is_some_and(|v4| plain(v4.into())),
        }
}

/// The IPv4 address in an IPv6 one that stands for it: compatible (RFC 4291 section 2.5.5.1) and mapped, NAT64 (RFC 6052),
/// 6to4 (RFC 3056).
#[must_use]
pub fn embedded_ipv4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xFFFF | 0) => Some(join(g, h)),
        (0x0064, 0xff9b, 0, 0, 0, 0) => Some(join(g, h)),
        (0x2002, ..) => Some(join(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_the_link_and_the_cloud_are_special_in_every_spelling() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "::169.254.169.254",
            "64:ff9b::7f00:1",
            "64:ff9b::6464:64c8",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_special_address(address.parse().expect("address")), "{address}");
        }
    }

    #[test]
    fn ordinary_addresses_are_not() {
        for address in [
            "10.0.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ] {
            assert!(!is_special_address(address.parse().expect("address")), "{address}");
        }
    }
}
