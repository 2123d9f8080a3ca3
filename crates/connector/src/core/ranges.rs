//! Addresses that are never forwarded to unless a resource names that very address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address is the machine's own, the link's, nobody's or everybody's, or a cloud's metadata.
///
/// IPv6 forms of IPv4 addresses that a kernel or a gateway turns back (compatible, RFC 4291 section 2.5.5.1;
/// NAT64, RFC 6052; 6to4, RFC 3056) are judged by the address inside too.
#[must_use]
pub(crate) fn is_refused(address: IpAddr) -> bool {
    policy::is_refused_range(address)
        || match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => embedded_v4(v6).is_some_and(|v4| policy::is_refused_range(v4.into())),
        }
}

fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
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
    fn the_machine_the_link_and_the_cloud_are_refused_in_every_spelling() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_refused(address.parse().expect("address")), "{address}");
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
        ] {
            assert!(!is_refused(address.parse().expect("address")), "{address}");
        }
    }
}
