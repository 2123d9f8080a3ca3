//! Network address translation by the behaviours of RFC 4787, and a firewall without translation (RFC 6092).

use crate::random::Random;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// What a mapping or a filter depends on (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depends {
    /// On nothing of the other end.
    Independent,
    /// On its address.
    Address,
    /// On its address and port.
    AddressAndPort,
}

/// Which outside port a mapping gets (section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The inside one while it is free.
    Preserved,
    /// Any.
    Random,
}

/// How a box behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Mapping; none for a firewall without translation.
    pub mapping: Option<Depends>,
    /// Filtering.
    pub filtering: Depends,
    /// Port assignment.
    pub ports: Ports,
    /// Whether inside hosts reach each other by their outside addresses (section 6).
    pub hairpin: bool,
    /// How long a mapping lives without a packet from inside (section 4.3).
    pub lifetime: Duration,
    /// Outside ports there are.
    pub pool: u16,
}

impl Behaviour {
    /// The common home router.
    pub const HOME: Self = Self {
        mapping: Some(Depends::Independent),
        filtering: Depends::AddressAndPort,
        ports: Ports::Preserved,
        hairpin: false,
        lifetime: Duration::from_secs(120),
        pool: 60_000,
    };
    /// Takes whatever comes to a mapping.
    pub const FULL_CONE: Self = Self { filtering: Depends::Independent, ..Self::HOME };
    /// Another random port for each destination.
    pub const SYMMETRIC: Self =
        Self { mapping: Some(Depends::AddressAndPort), ports: Ports::Random, ..Self::HOME };
    /// A stateful firewall for IPv6.
    pub const FIREWALL: Self = Self { mapping: None, ..Self::HOME };
}

#[derive(Debug, Clone)]
struct Binding {
    outside: SocketAddr,
    used: Instant,
    /// To whom the inside has written through it.
    written: BTreeSet<SocketAddr>,
}

/// One box.
#[derive(Debug, Clone)]
pub struct Nat {
    /// How it behaves.
    pub behaviour: Behaviour,
    /// Its outside address.
    pub outside: IpAddr,
    bindings: BTreeMap<(SocketAddr, Option<IpAddr>, Option<u16>), Binding>,
    random: Random,
}

impl Nat {
    /// A box without any mapping.
    #[must_use]
    pub const fn new(behaviour: Behaviour, outside: IpAddr, seed: u64) -> Self {
        Self { behaviour, outside, bindings: BTreeMap::new(), random: Random::new(seed) }
    }

    fn key(&self, inside: SocketAddr, to: SocketAddr) -> (SocketAddr, Option<IpAddr>, Option<u16>) {
        match self.behaviour.mapping {
            Some(Depends::Independent) | None => (inside, None, None),
            Some(Depends::Address) => (inside, Some(to.ip()), None),
            Some(Depends::AddressAndPort) => (inside, Some(to.ip()), Some(to.port())),
        }
    }

    /// A packet from inside: where it seems to come from outside; none when no port is left.
    pub fn outward(&mut self, now: Instant, inside: SocketAddr, to: SocketAddr) -> Option<SocketAddr> {
        let key = self.key(inside, to);
        let lifetime = self.behaviour.lifetime;
        if self.bindings.get(&key).is_some_and(|binding| now >= binding.used + lifetime) {
            self.bindings.remove(&key);
        }
        if !self.bindings.contains_key(&key) {
            let outside = if self.behaviour.mapping.is_none() { inside } else { self.free(now, inside)? };
            self.bindings.insert(key, Binding { outside, used: now, written: BTreeSet::new() });
        }
        let binding = self.bindings.get_mut(&key)?;
        binding.used = now;
        binding.written.insert(to);
        Some(binding.outside)
    }

    fn free(&mut self, now: Instant, inside: SocketAddr) -> Option<SocketAddr> {
        let lifetime = self.behaviour.lifetime;
        self.bindings.retain(|_, binding| now < binding.used + lifetime);
        let taken: BTreeSet<u16> = self.bindings.values().map(|binding| binding.outside.port()).collect();
        if taken.len() >= usize::from(self.behaviour.pool) {
            return None;
        }
        let mut port = match self.behaviour.ports {
            Ports::Preserved => inside.port(),
            Ports::Random => 1024 + u16::try_from(self.random.below(60_000)).unwrap_or(0),
        };
        while taken.contains(&port) {
            // A clash: somebody inside has the same port already.
            port = 1024 + u16::try_from(self.random.below(60_000)).unwrap_or(0);
        }
        Some(SocketAddr::new(self.outside, port))
    }

    /// A packet from outside: to whom inside, if the filter lets it in.
    #[must_use]
    pub fn inward(&self, now: Instant, to: SocketAddr, from: SocketAddr) -> Option<SocketAddr> {
        let binding = |binding: &&Binding| {
            let passes = match self.behaviour.filtering {
                Depends::Independent => true,
                Depends::Address => binding.written.iter().any(|written| written.ip() == from.ip()),
                Depends::AddressAndPort => binding.written.contains(&from),
            };
            binding.outside == to && now < binding.used + self.behaviour.lifetime && passes
        };
        let found = self.bindings.iter().find(|(_, candidate)| binding(candidate));
        found.map(|((inside, ..), _)| *inside)
    }

    /// Forgets everything, as after a power cut.
    pub fn reboot(&mut self) {
        self.bindings.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test reads the clock once, as its start")]
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    const INSIDE: &str = "192.168.1.2:4000";
    const ONE: &str = "198.51.100.1:443";
    const OTHER_PORT: &str = "198.51.100.1:444";
    const OTHER: &str = "198.51.100.2:443";

    fn nat(behaviour: Behaviour) -> (Nat, Instant) {
        (Nat::new(behaviour, address("203.0.113.1:0").ip(), 7), Instant::now())
    }

    #[test]
    fn an_endpoint_independent_mapping_is_one_for_all_destinations() {
        let (mut nat, now) = nat(Behaviour::HOME);
        let outside = |nat: &mut Nat, to| nat.outward(now, address(INSIDE), address(to));
        let first = outside(&mut nat, ONE);
        assert_eq!(first, Some(address("203.0.113.1:4000")));
        assert_eq!(outside(&mut nat, OTHER), first);
        assert_eq!(outside(&mut nat, OTHER_PORT), first);
    }

    #[test]
    fn an_address_dependent_mapping_is_another_for_each_address() {
        let (mut nat, now) = nat(Behaviour { mapping: Some(Depends::Address), ..Behaviour::SYMMETRIC });
        let outside = |nat: &mut Nat, to| nat.outward(now, address(INSIDE), address(to));
        let first = outside(&mut nat, ONE);
        assert_eq!(outside(&mut nat, OTHER_PORT), first);
        assert_ne!(outside(&mut nat, OTHER), first);
    }

    #[test]
    fn an_address_and_port_dependent_mapping_is_another_for_each_destination() {
        let (mut nat, now) = nat(Behaviour::SYMMETRIC);
        let outside = |nat: &mut Nat, to| nat.outward(now, address(INSIDE), address(to));
        let all: BTreeSet<_> = [ONE, OTHER, OTHER_PORT].map(|to| outside(&mut nat, to)).into();
        assert_eq!(all.len(), 3);
    }

    #[test]
    fn a_filter_lets_in_who_was_written_to_as_far_as_it_looks() {
        for (filtering, expected) in [
            (Depends::Independent, [true, true, true]),
            (Depends::Address, [true, true, false]),
            (Depends::AddressAndPort, [true, false, false]),
        ] {
            let (mut nat, now) = nat(Behaviour { filtering, ..Behaviour::HOME });
            let outside = nat.outward(now, address(INSIDE), address(ONE)).expect("a port");
            let passes =
                [ONE, OTHER_PORT, OTHER].map(|from| nat.inward(now, outside, address(from)).is_some());
            assert_eq!(passes, expected, "{filtering:?}");
        }
    }

    #[test]
    fn nothing_unasked_comes_in() {
        let (nat, now) = nat(Behaviour::FULL_CONE);
        assert_eq!(nat.inward(now, address("203.0.113.1:4000"), address(ONE)), None);
    }

    #[test]
    fn a_mapping_ends_unless_the_inside_keeps_it_alive() {
        let (mut nat, now) = nat(Behaviour::HOME);
        let outside = nat.outward(now, address(INSIDE), address(ONE)).expect("a port");
        let later = now + Duration::from_secs(100);
        assert!(nat.inward(later, outside, address(ONE)).is_some());
        assert!(nat.inward(later + Duration::from_secs(21), outside, address(ONE)).is_none());
        nat.outward(later, address(INSIDE), address(ONE));
        assert!(nat.inward(later + Duration::from_secs(21), outside, address(ONE)).is_some());
    }

    #[test]
    fn two_inside_hosts_with_one_port_get_two_outside_ports() {
        let (mut nat, now) = nat(Behaviour::HOME);
        let first = nat.outward(now, address(INSIDE), address(ONE));
        let second = nat.outward(now, address("192.168.1.3:4000"), address(ONE));
        assert!(first.is_some() && second.is_some() && first != second);
    }

    #[test]
    fn a_full_pool_drops_and_takes_nobodys_port() {
        let (mut nat, now) = nat(Behaviour { pool: 1, ..Behaviour::HOME });
        assert!(nat.outward(now, address(INSIDE), address(ONE)).is_some());
        assert_eq!(nat.outward(now, address("192.168.1.3:4000"), address(ONE)), None);
    }

    #[test]
    fn a_firewall_translates_nothing() {
        let (mut nat, now) = nat(Behaviour::FIREWALL);
        let inside = address("[2001:db8:1::2]:4000");
        let outside = address("[2001:db8:2::2]:4000");
        assert_eq!(nat.outward(now, inside, outside), Some(inside));
        assert_eq!(nat.inward(now, inside, outside), Some(inside));
        assert_eq!(nat.inward(now, inside, address("[2001:db8:2::2]:4001")), None);
    }
}
