//! Addresses that are never forwarded to unless a resource names that very address.

use std::net::IpAddr;

/// Whether an address is the machine's own, the link's, nobody's or everybody's, or a cloud's metadata, in whatever spelling
/// a kernel or a gateway turns back into it.
#[must_use]
pub(crate) fn is_refused(address: IpAddr) -> bool {
    wire::is_special_address(address)
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
