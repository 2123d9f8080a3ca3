//! Addresses inside a tunnel.
//!
//! A resource with an IP address or prefix is reached at its real address: each tunnel ends in one
//! site, so ranges of different sites may overlap. A named resource is reached at an address derived
//! from its id, the same on both sides without asking anybody; the connector resolves the name.
//!
//! All derived addresses are unique local (RFC 4193) under prefixes made from fixed words, not random
//! ones as RFC 4193 section 3.2.2 asks for: they never leave the tunnel, and both sides must agree.

use std::net::{Ipv4Addr, Ipv6Addr};
use trust::sha256;
use wire::{DeviceId, ResourceId};

/// `fd` ‖ "tgres" : 48 bits.
const RESOURCE_PREFIX: [u8; 6] = [0xFD, b't', b'g', b'r', b'e', b's'];
/// `fd` ‖ "tgdev" : 48 bits.
const DEVICE_PREFIX: [u8; 6] = [0xFD, b't', b'g', b'd', b'e', b'v'];

/// The client's IPv4 address inside every tunnel: each tunnel has one client, so one address serves
/// (from 100.64.0.0/10, RFC 6598, which neither side's own network should use).
pub const INNER_V4: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

fn derive(prefix: [u8; 6], domain: &[u8], id: &[u8; 16]) -> Ipv6Addr {
    let digest = sha256(&[domain, id]);
    let mut octets = [0; 16];
    octets[..6].copy_from_slice(&prefix);
    octets[6..].copy_from_slice(&digest[..10]);
    Ipv6Addr::from(octets)
}

/// Where a named resource is inside the tunnel. 80 bits of a hash: two of 10,000 resources share an
/// address with a probability of 10,000² ÷ 2⁸¹ ≈ 4 × 10⁻¹⁷, and then the connector's slice is refused.
#[must_use]
pub fn inner_address(resource: ResourceId) -> Ipv6Addr {
    derive(RESOURCE_PREFIX, b"tidegate/inner-resource/1", resource.as_bytes())
}

/// A device's own address inside its tunnels.
#[must_use]
pub fn inner_device_address(device: DeviceId) -> Ipv6Addr {
    derive(DEVICE_PREFIX, b"tidegate/inner-device/1", device.as_bytes())
}

/// Whether an address is in the range that named resources have inside a tunnel.
#[must_use]
pub fn is_inner_resource_address(address: Ipv6Addr) -> bool {
    address.octets()[..6] == RESOURCE_PREFIX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_and_devices_have_distinct_stable_addresses() {
        let resource = inner_address(ResourceId::from_bytes([1; 16]));
        let device = inner_device_address(DeviceId::from_bytes([1; 16]));
        assert!(is_inner_resource_address(resource) && !is_inner_resource_address(device));
        assert_eq!(resource, inner_address(ResourceId::from_bytes([1; 16])));
        assert_ne!(resource, inner_address(ResourceId::from_bytes([2; 16])));
    }
}
