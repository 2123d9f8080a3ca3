//! Addresses of clients inside the tunnel. They mean something between one client and this connector
//! only, so any two connectors may give out the same ones.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tunnel::PeerId;

/// The shared address space (RFC 6598): never a site's own, and never routed on the internet.
const V4_BASE: u32 = u32::from_be_bytes([100, 64, 0, 0]);
/// 100.64.0.0/10 less its first and last addresses.
const V4_COUNT: u32 = (1 << 22) - 2;
/// A unique local prefix (RFC 4193) for the inside of tunnels: `fd` and 40 bits taken once at random,
/// subnet 1. Resources by name live in another subnet, the policy crate's.
const V6_PREFIX: [u16; 4] = [0xfd7c, 0x1b9e, 0x42d5, 1];

/// A client's two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InnerAddresses {
    /// Inside the tunnel, IPv4.
    pub v4: Ipv4Addr,
    /// Inside the tunnel, IPv6.
    pub v6: Ipv6Addr,
}

impl InnerAddresses {
    fn numbered(number: u32) -> Self {
        let [a, b, c, d] = V6_PREFIX;
        let (high, low) = ((number >> 16) & 0xFFFF, number & 0xFFFF);
        let part = |bits: u32| u16::try_from(bits).expect("masked to 16 bits");
        Self {
            v4: Ipv4Addr::from(V4_BASE + number),
            v6: Ipv6Addr::new(a, b, c, d, 0, 0, part(high), part(low)),
        }
    }

    /// Whether a packet may come from this source.
    #[must_use]
    pub fn owns(&self, source: IpAddr) -> bool {
        match source {
            IpAddr::V4(source) => source == self.v4,
            IpAddr::V6(source) => source == self.v6,
        }
    }
}

/// Gives each peer addresses of its own and takes them back.
#[derive(Debug, Default)]
pub(crate) struct InnerPool {
    taken: BTreeMap<u32, PeerId>,
    next: u32,
}

impl InnerPool {
    /// Addresses that no other peer has. Numbers go round, so that a client that left is not confused
    /// with the next one. `None` when all are taken; there are more than a connector has peers.
    pub fn take(&mut self, peer: PeerId) -> Option<InnerAddresses> {
        for _ in 0..=self.taken.len() {
            self.next = self.next % V4_COUNT + 1;
            if let std::collections::btree_map::Entry::Vacant(free) = self.taken.entry(self.next) {
                free.insert(peer);
                return Some(InnerAddresses::numbered(self.next));
            }
        }
        None
    }

    pub fn give_back(&mut self, addresses: InnerAddresses) {
        self.taken.remove(&(u32::from(addresses.v4) - V4_BASE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: usize) -> Vec<PeerId> {
        use tunnel::{Tunnels, WireGuardPrivateKey};
        #[allow(clippy::disallowed_methods, reason = "peer ids come from tunnels, which take a time")]
        let now = std::time::Instant::now();
        let mut tunnels = Tunnels::new(&WireGuardPrivateKey::from_bytes([1; 32]), 1, now);
        (0..count)
            .map(|n| {
                let key = WireGuardPrivateKey::from_bytes([u8::try_from(n + 2).expect("few"); 32]);
                tunnels.connect(now, key.public_key()).expect("room").0
            })
            .collect()
    }

    #[test]
    fn no_two_peers_have_the_same_address_and_a_free_one_is_used_late() {
        let peers = peers(3);
        let mut pool = InnerPool::default();
        let first = pool.take(peers[0]).expect("free");
        let second = pool.take(peers[1]).expect("free");
        assert_ne!((first.v4, first.v6), (second.v4, second.v6));
        assert_eq!(first.v4, Ipv4Addr::new(100, 64, 0, 1));
        pool.give_back(first);
        assert_eq!(pool.take(peers[2]).expect("free").v4, Ipv4Addr::new(100, 64, 0, 3));
    }

    #[test]
    fn only_the_own_source_is_owned() {
        let own = InnerAddresses::numbered(70_000);
        assert!(own.owns(own.v4.into()) && own.owns(own.v6.into()));
        assert!(!own.owns(InnerAddresses::numbered(70_001).v4.into()));
        assert!(!own.owns("10.0.0.1".parse().expect("address")));
    }
}
