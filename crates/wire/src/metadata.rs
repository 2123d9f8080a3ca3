//! Addresses outside the link-local range at which clouds answer for their machines, credentials included.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Alibaba Cloud, Oracle Cloud, Azure's host, Amazon and Google by IPv6; from their documentation. 169.254.169.254 is
/// link-local and refused as such.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
];

/// Whether a cloud answers for its machines at this address.
#[must_use]
pub fn is_cloud_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clouds_own_addresses_are_known_in_both_spellings() {
        for known in
            ["100.100.100.200", "::ffff:192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"]
        {
            assert!(is_cloud_metadata(known.parse().expect("an address")), "{known}");
        }
        assert!(!is_cloud_metadata("100.100.100.201".parse().expect("an address")));
    }
}
