//! The networks of docs/nat-expected.md.

use crate::world::{
    Behaviour, Firewall, Gateway, Hairpin, LinkRules, Mapping, Nat, NatRules, Network, Ports, RealmId, Time,
    Udp,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A kind of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A public address.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address and port-dependent filtering.
    Home,
    /// Another random port for each destination.
    Symmetric,
    /// A home behind the provider's translator.
    Cgn,
    /// A home that lets no UDP out.
    UdpBlocked,
    /// IPv6 behind a firewall.
    Ipv6Only,
}

/// An address that an agent may have.
#[derive(Debug, Clone)]
pub struct Address {
    /// Where.
    pub realm: RealmId,
    /// Which.
    pub addresses: Vec<IpAddr>,
    /// The host's own link.
    pub link: LinkRules,
    /// The port of its socket; one of its own when none.
    pub port: Option<u16>,
    /// Whether the PoP is reached by TCP alone.
    pub needs_stream: bool,
}

/// A network of a kind, with room for hosts.
#[derive(Debug, Clone)]
pub struct Site {
    place: Place,
    realm: RealmId,
    /// Its number in the world.
    number: u8,
    link: LinkRules,
    hosts: u8,
    v6: bool,
}

impl Place {
    /// All, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::FullCone,
        Self::Home,
        Self::Symmetric,
        Self::Cgn,
        Self::UdpBlocked,
        Self::Ipv6Only,
    ];

    /// Its name in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::Home => "home",
            Self::Symmetric => "symmetric",
            Self::Cgn => "cgn",
            Self::UdpBlocked => "udp-blocked",
            Self::Ipv6Only => "ipv6-only",
        }
    }

    /// What its translator does.
    #[must_use]
    pub fn rules(self) -> NatRules {
        match self {
            Self::FullCone => NatRules { filtering: Behaviour::EndpointIndependent, ..NatRules::home() },
            Self::Symmetric => NatRules {
                mapping: Mapping::By(Behaviour::AddressAndPortDependent),
                ports: Ports::Random,
                ..NatRules::home()
            },
            _ => NatRules::home(),
        }
    }
}

fn home(number: u8, rules: NatRules, external: Ipv4Addr, link: LinkRules) -> Gateway {
    Gateway {
        nat: Some(Nat::new(rules, external.into(), number.into())),
        firewall: None,
        udp: Udp::Passes,
        link,
    }
}

impl Site {
    /// Builds a network of a kind; `number` below 100, each once in a world.
    pub fn build(net: &mut Network, place: Place, number: u8, link: LinkRules) -> Self {
        Self::with_rules(net, place, number, link, place.rules())
    }

    /// The same with another translator.
    pub fn with_rules(net: &mut Network, place: Place, number: u8, link: LinkRules, rules: NatRules) -> Self {
        let external = Ipv4Addr::new(203, 0, 113, number);
        let realm = match place {
            Place::Open => Network::INTERNET,
            Place::Cgn => {
                let outer =
                    home(number, NatRules { hairpin: Hairpin::Yes, ..NatRules::home() }, external, link);
                let provider = net.add_realm(Network::INTERNET, outer);
                let inner = Ipv4Addr::new(100, 64, 0, number);
                net.add_realm(provider, home(number, rules, inner, LinkRules::of_delay(Time::from_millis(1))))
            }
            Place::Ipv6Only => {
                let firewall = Some(Firewall::new(Time::from_secs(120)));
                net.add_realm(Network::INTERNET, Gateway { nat: None, firewall, udp: Udp::Passes, link })
            }
            _ => net.add_realm(Network::INTERNET, home(number, rules, external, link)),
        };
        if place == Place::UdpBlocked
            && let Some(gateway) = net.gateway_mut(realm)
        {
            gateway.udp = Udp::Blocked;
        }
        Self { place, realm, number, link, hosts: 0, v6: place == Place::Ipv6Only }
    }

    /// Two homes of one provider, who translates for both with one address.
    pub fn neighbours(
        net: &mut Network,
        number: u8,
        link: LinkRules,
        outer: NatRules,
        inner: &NatRules,
    ) -> [Self; 2] {
        let external = Ipv4Addr::new(203, 0, 113, number);
        let provider = net.add_realm(Network::INTERNET, home(number, outer, external, link));
        [number, number + 1].map(|number| {
            let own = Ipv4Addr::new(100, 64, 0, number);
            let realm = net.add_realm(
                provider,
                home(number, inner.clone(), own, LinkRules::of_delay(Time::from_millis(1))),
            );
            Self { place: Place::Home, realm, number, link, hosts: 0, v6: false }
        })
    }

    /// Gives its hosts IPv6 too, behind a firewall where there is a router.
    pub fn dual_stack(mut self, net: &mut Network) -> Self {
        if let Some(gateway) = net.gateway_mut(self.realm) {
            gateway.firewall = Some(Firewall::new(Time::from_secs(120)));
        }
        self.v6 = true;
        self
    }

    /// Its realm.
    #[must_use]
    pub const fn realm(&self) -> RealmId {
        self.realm
    }

    /// An address for another host.
    pub fn address(&mut self) -> Address {
        // Who comes back after many others finds the first address free again.
        self.hosts = self.hosts % 200 + 1;
        let (number, host) = (self.number, self.hosts);
        let v4: IpAddr = match self.place {
            Place::Open => Ipv4Addr::new(198, 51, 100, number).into(),
            _ => Ipv4Addr::new(192, 168, 1, 1 + host).into(),
        };
        let v6: IpAddr = Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 1 + u16::from(host)).into();
        let addresses = match (self.place, self.v6) {
            (Place::Ipv6Only, _) => vec![v6],
            (_, true) => vec![v4, v6],
            (_, false) => vec![v4],
        };
        let link = if self.place == Place::Open { self.link } else { LinkRules::PERFECT };
        let needs_stream = self.place == Place::UdpBlocked;
        Address { realm: self.realm, addresses, link, port: None, needs_stream }
    }
}
