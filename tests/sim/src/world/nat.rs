//! A network address translator, behaviour by behaviour as RFC 4787 names them.

use super::{Random, Time};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

/// Whether the remote end plays a part (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// None.
    EndpointIndependent,
    /// Its address does.
    AddressDependent,
    /// Its address and port do.
    AddressAndPortDependent,
}

/// Which mapping a packet from inside gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// As RFC 4787 has it.
    By(Behaviour),
    /// A new one each time: broken, and met in the wild.
    PerPacket,
}

/// Which external port a new mapping gets (section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The inside one when it is free; another free one otherwise.
    Preserve,
    /// Any free one.
    Random,
}

/// What keeps a mapping (section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// Packets from inside.
    Outbound,
    /// Packets both ways.
    Both,
}

/// Whether inside hosts reach each other by external addresses (section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hairpin {
    /// They do, and see the external source.
    Yes,
    /// They do not.
    No,
}

/// A translator's behaviour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatRules {
    /// Which mapping.
    pub mapping: Mapping,
    /// Who may come in.
    pub filtering: Behaviour,
    /// Which port.
    pub ports: Ports,
    /// What keeps a mapping.
    pub refresh: Refresh,
    /// How long without.
    pub lifetime: Time,
    /// Inside to inside.
    pub hairpin: Hairpin,
    /// The external ports there are.
    pub pool: RangeInclusive<u16>,
}

impl NatRules {
    /// A common home router's.
    #[must_use]
    pub const fn home() -> Self {
        Self {
            mapping: Mapping::By(Behaviour::EndpointIndependent),
            filtering: Behaviour::AddressAndPortDependent,
            ports: Ports::Preserve,
            refresh: Refresh::Both,
            // REQ-5: not below two minutes.
            lifetime: Time::from_secs(120),
            hairpin: Hairpin::No,
            pool: 1_024..=u16::MAX,
        }
    }
}

/// Why a packet went no further. Doubles as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NatDrop {
    /// No mapping has this port.
    NoMapping,
    /// The filter does not let this remote in.
    Filtered,
    /// Every port is taken.
    NoPort,
    /// Inside to inside is not done here.
    NoHairpin,
}

/// The part of the remote end that a mapping belongs to, and for translators that never reuse one, its number.
type Key = (SocketAddr, Option<IpAddr>, Option<u16>, u64);

#[derive(Debug, Clone)]
struct Entry {
    key: Key,
    used: Time,
    /// Whom packets went to, and when last.
    asked: BTreeMap<SocketAddr, Time>,
}

/// Remotes remembered by one mapping before the expired are swept.
const SWEEP: usize = 1_024;

/// A translator with one external address.
#[derive(Debug, Clone)]
pub struct Nat {
    rules: NatRules,
    external: IpAddr,
    by_key: BTreeMap<Key, u16>,
    by_port: BTreeMap<u16, Entry>,
    packets: u64,
    random: Random,
}

impl Nat {
    /// A translator that knows nothing yet.
    #[must_use]
    pub fn new(rules: NatRules, external: IpAddr, seed: u64) -> Self {
        let random = Random::new(seed, "nat");
        Self { rules, external, by_key: BTreeMap::new(), by_port: BTreeMap::new(), packets: 0, random }
    }

    /// Its external address.
    #[must_use]
    pub const fn external(&self) -> IpAddr {
        self.external
    }

    /// Whether inside hosts reach each other by external addresses.
    #[must_use]
    pub const fn hairpin(&self) -> Hairpin {
        self.rules.hairpin
    }

    /// Another external address, as providers give them at night; the mappings are gone with the old one.
    pub fn renumber(&mut self, external: IpAddr) {
        self.external = external;
        self.reboot();
    }

    /// Forgets every mapping.
    pub fn reboot(&mut self) {
        self.by_key.clear();
        self.by_port.clear();
    }

    /// How many mappings live.
    #[must_use]
    pub fn mappings(&self, now: Time) -> usize {
        self.by_port.values().filter(|entry| now < entry.used + self.rules.lifetime).count()
    }

    /// A packet from inside: which source it gets.
    ///
    /// # Errors
    /// There is no port for it.
    pub fn outbound(
        &mut self,
        now: Time,
        inner: SocketAddr,
        remote: SocketAddr,
    ) -> Result<SocketAddr, NatDrop> {
        self.packets += 1;
        let key = match self.rules.mapping {
            Mapping::By(Behaviour::EndpointIndependent) => (inner, None, None, 0),
            Mapping::By(Behaviour::AddressDependent) => (inner, Some(remote.ip()), None, 0),
            Mapping::By(Behaviour::AddressAndPortDependent) => {
                (inner, Some(remote.ip()), Some(remote.port()), 0)
            }
            Mapping::PerPacket => (inner, None, None, self.packets),
        };
        let lifetime = self.rules.lifetime;
        let known = self.by_key.get(&key).copied().filter(|port| self.is_live(now, *port));
        let port = match known {
            Some(port) => port,
            None => {
                let port = self.free_port(now, inner.port()).ok_or(NatDrop::NoPort)?;
                self.forget(port);
                self.by_key.insert(key, port);
                self.by_port.insert(port, Entry { key, used: now, asked: BTreeMap::new() });
                port
            }
        };
        let entry = self.by_port.get_mut(&port).expect("found or made just now");
        entry.used = now;
        if entry.asked.len() >= SWEEP {
            entry.asked.retain(|_, at| now < *at + lifetime);
        }
        entry.asked.insert(remote, now);
        Ok(SocketAddr::new(self.external, port))
    }

    /// A packet from outside for one of its ports: whom inside it is for.
    ///
    /// # Errors
    /// Nobody, or the filter does not let it in.
    pub fn inbound(&mut self, now: Time, remote: SocketAddr, port: u16) -> Result<SocketAddr, NatDrop> {
        if !self.is_live(now, port) {
            return Err(NatDrop::NoMapping);
        }
        let (lifetime, filtering, refresh) = (self.rules.lifetime, self.rules.filtering, self.rules.refresh);
        let entry = self.by_port.get_mut(&port).ok_or(NatDrop::NoMapping)?;
        let asked = |(to, at): (&SocketAddr, &Time)| {
            (refresh == Refresh::Both || now < *at + lifetime).then_some(*to)
        };
        let admits = match filtering {
            Behaviour::EndpointIndependent => true,
            Behaviour::AddressDependent => {
                entry.asked.iter().filter_map(asked).any(|to| to.ip() == remote.ip())
            }
            Behaviour::AddressAndPortDependent => {
                entry.asked.get_key_value(&remote).and_then(asked).is_some()
            }
        };
        if !admits {
            return Err(NatDrop::Filtered);
        }
        if refresh == Refresh::Both {
            entry.used = now;
        }
        Ok(entry.key.0)
    }

    fn is_live(&self, now: Time, port: u16) -> bool {
        self.by_port.get(&port).is_some_and(|entry| now < entry.used + self.rules.lifetime)
    }

    fn forget(&mut self, port: u16) {
        if let Some(entry) = self.by_port.remove(&port) {
            self.by_key.remove(&entry.key);
        }
    }

    fn free_port(&mut self, now: Time, wanted: u16) -> Option<u16> {
        let pool = self.rules.pool.clone();
        if self.rules.ports == Ports::Preserve && pool.contains(&wanted) && !self.is_live(now, wanted) {
            return Some(wanted);
        }
        let size = u64::from(*pool.end() - *pool.start()) + 1;
        let first = self.random.below(size);
        (0..size)
            .map(|step| *pool.start() + u16::try_from((first + step) % size).expect("inside the pool"))
            .find(|port| !self.is_live(now, *port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn second(seconds: u64) -> Time {
        Time::from_secs(seconds)
    }

    fn nat(change: impl FnOnce(&mut NatRules)) -> Nat {
        let mut rules = NatRules::home();
        change(&mut rules);
        Nat::new(rules, at("203.0.113.1:0").ip(), 1)
    }

    const INNER: &str = "192.168.1.2:4000";
    const ONE: &str = "198.51.100.1:5000";
    const ONE_OTHER_PORT: &str = "198.51.100.1:5001";
    const TWO: &str = "198.51.100.2:5000";

    /// The external sources towards three remotes.
    fn sources(nat: &mut Nat) -> [SocketAddr; 3] {
        [ONE, ONE_OTHER_PORT, TWO]
            .map(|remote| nat.outbound(second(0), at(INNER), at(remote)).expect("a port"))
    }

    #[test]
    fn endpoint_independent_mapping_uses_one_port_for_every_remote() {
        let [one, other_port, two] = sources(&mut nat(|_| {}));
        assert!(one == other_port && one == two);
    }

    #[test]
    fn address_dependent_mapping_uses_one_port_for_each_remote_address() {
        let [one, other_port, two] =
            sources(&mut nat(|rules| rules.mapping = Mapping::By(Behaviour::AddressDependent)));
        assert!(one == other_port && one != two);
    }

    #[test]
    fn address_and_port_dependent_mapping_uses_one_port_for_each_remote() {
        let mut symmetric = nat(|rules| rules.mapping = Mapping::By(Behaviour::AddressAndPortDependent));
        let [one, other_port, two] = sources(&mut symmetric);
        assert!(one != other_port && one != two && other_port != two);
        assert_eq!(
            symmetric.outbound(second(1), at(INNER), at(ONE)),
            Ok(one),
            "the same remote, the same port"
        );
    }

    #[test]
    fn a_translator_without_reuse_gives_each_packet_a_port() {
        let mut broken = nat(|rules| rules.mapping = Mapping::PerPacket);
        let first = broken.outbound(second(0), at(INNER), at(ONE));
        assert_ne!(first, broken.outbound(second(0), at(INNER), at(ONE)));
    }

    fn admitted(filtering: Behaviour) -> [bool; 3] {
        let mut nat = nat(|rules| rules.filtering = filtering);
        let external = nat.outbound(second(0), at(INNER), at(ONE)).expect("a port");
        [ONE, ONE_OTHER_PORT, TWO]
            .map(|remote| nat.inbound(second(1), at(remote), external.port()) == Ok(at(INNER)))
    }

    #[test]
    fn endpoint_independent_filtering_admits_everybody_to_a_mapping() {
        assert_eq!(admitted(Behaviour::EndpointIndependent), [true, true, true]);
    }

    #[test]
    fn address_dependent_filtering_admits_every_port_of_a_remote_that_was_asked() {
        assert_eq!(admitted(Behaviour::AddressDependent), [true, true, false]);
    }

    #[test]
    fn address_and_port_dependent_filtering_admits_the_remote_that_was_asked() {
        assert_eq!(admitted(Behaviour::AddressAndPortDependent), [true, false, false]);
    }

    #[test]
    fn nobody_comes_in_without_a_mapping_whatever_the_filter() {
        let mut open = nat(|rules| rules.filtering = Behaviour::EndpointIndependent);
        assert_eq!(open.inbound(second(0), at(ONE), 4000), Err(NatDrop::NoMapping));
    }

    #[test]
    fn port_preservation_keeps_the_inside_port_when_it_is_free() {
        let mut nat = nat(|_| {});
        assert_eq!(nat.outbound(second(0), at(INNER), at(ONE)), Ok(at("203.0.113.1:4000")));
    }

    #[test]
    fn a_port_clash_gives_the_second_host_another_port_and_leaves_the_first_its_own() {
        let mut nat = nat(|_| {});
        let first = nat.outbound(second(0), at("192.168.1.2:4000"), at(ONE)).expect("a port");
        let others: Vec<SocketAddr> = (3..20)
            .map(|host| SocketAddr::new(std::net::Ipv4Addr::new(192, 168, 1, host).into(), 4000))
            .map(|inner| nat.outbound(second(0), inner, at(ONE)).expect("a port"))
            .collect();
        let distinct: std::collections::BTreeSet<u16> = others.iter().map(SocketAddr::port).collect();
        assert_eq!((first.port(), distinct.len(), distinct.contains(&4000)), (4000, 17, false));
        assert_eq!(nat.inbound(second(1), at(ONE), 4000), Ok(at(INNER)));
    }

    #[test]
    fn random_ports_are_not_the_inside_port() {
        let mut nat = nat(|rules| rules.ports = Ports::Random);
        assert_ne!(nat.outbound(second(0), at(INNER), at(ONE)).expect("a port").port(), 4000);
    }

    #[test]
    fn a_mapping_ends_when_nothing_refreshes_it() {
        let mut nat = nat(|_| {});
        nat.outbound(second(0), at(INNER), at(ONE)).expect("a port");
        assert_eq!(nat.inbound(second(119), at(ONE), 4000), Ok(at(INNER)));
        assert_eq!(nat.inbound(second(239), at(ONE), 4000), Err(NatDrop::NoMapping));
    }

    #[test]
    fn outbound_refresh_alone_lets_a_mapping_end_under_inbound_traffic() {
        let mut nat = nat(|rules| rules.refresh = Refresh::Outbound);
        nat.outbound(second(0), at(INNER), at(ONE)).expect("a port");
        assert_eq!(nat.inbound(second(119), at(ONE), 4000), Ok(at(INNER)));
        assert_eq!(nat.inbound(second(121), at(ONE), 4000), Err(NatDrop::NoMapping));
        nat.outbound(second(121), at(INNER), at(ONE)).expect("a port");
        assert_eq!(nat.inbound(second(230), at(ONE), 4000), Ok(at(INNER)));
    }

    #[test]
    fn a_finite_pool_runs_out_and_recovers_when_mappings_end() {
        let mut nat = nat(|rules| rules.pool = 2_000..=2_001);
        let host = |last: u8| SocketAddr::new(std::net::Ipv4Addr::new(192, 168, 1, last).into(), 4000);
        assert!(nat.outbound(second(0), host(2), at(ONE)).is_ok());
        assert!(nat.outbound(second(0), host(3), at(ONE)).is_ok());
        assert_eq!(nat.outbound(second(0), host(4), at(ONE)), Err(NatDrop::NoPort));
        assert!(nat.outbound(second(120), host(4), at(ONE)).is_ok());
    }

    #[test]
    fn a_reboot_forgets_every_mapping() {
        let mut nat = nat(|_| {});
        nat.outbound(second(0), at(INNER), at(ONE)).expect("a port");
        nat.reboot();
        assert_eq!(nat.inbound(second(0), at(ONE), 4000), Err(NatDrop::NoMapping));
        assert_eq!(nat.mappings(second(0)), 0);
    }
}
