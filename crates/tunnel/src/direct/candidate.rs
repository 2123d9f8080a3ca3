//! Where a peer may be, and which of what a peer says is tried.

use std::net::{IpAddr, SocketAddr};

/// Most candidates that a side tells.
pub const MAX_CANDIDATES: usize = 16;
/// Ports below belong to services; no agent sends from one.
const FIRST_PORT: u16 = 1024;

/// How a side knows one of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateKind {
    /// It is on one of its interfaces.
    Local,
    /// A PoP saw it.
    Observed,
    /// A router mapped it on request.
    Mapped,
}

impl CandidateKind {
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Local => 1,
            Self::Observed => 2,
            Self::Mapped => 3,
        }
    }

    pub(super) const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Local),
            2 => Some(Self::Observed),
            3 => Some(Self::Mapped),
            _ => None,
        }
    }

    /// The word for people and `--json`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Observed => "observed",
            Self::Mapped => "mapped",
        }
    }
}

/// An address a side may be reached at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// How it is known.
    pub kind: CandidateKind,
    /// The address.
    pub address: SocketAddr,
}

/// An address of an interface of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalAddress {
    /// The address.
    pub ip: IpAddr,
    /// How many bits of it name the link.
    pub prefix: u8,
}

impl LocalAddress {
    fn holds(self, other: IpAddr) -> bool {
        match (self.ip, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(32_u32.saturating_sub(self.prefix.into())).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let differ = own.to_bits() ^ other.to_bits();
                differ.checked_shr(128_u32.saturating_sub(self.prefix.into())).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What this machine knows of where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// The port that all its packets leave by.
    pub port: u16,
    /// Its interfaces.
    pub local: Vec<LocalAddress>,
    /// What PoPs see.
    pub observed: Vec<SocketAddr>,
    /// What a router mapped.
    pub mapped: Vec<SocketAddr>,
}

/// Why a candidate is not tried. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CandidateRefused {
    /// Loopback, link-local, multicast, metadata: no peer is there.
    Special,
    /// A port of services.
    Port,
    /// A private address, and nothing says that we share that network.
    OtherNetwork,
    /// One of our own.
    Own,
}

impl CandidateRefused {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Special => "special",
            Self::Port => "port",
            Self::OtherNetwork => "other_network",
            Self::Own => "own",
        }
    }
}

/// Where no peer can be, whoever says so (RFC 6890, and what clouds keep for themselves).
fn is_special(ip: IpAddr) -> bool {
    if wire::is_cloud_metadata(ip) {
        return true;
    }
    match ip {
        IpAddr::V4(ip) => {
            // The planted bug of the simulation: a machine that can be made to knock at its own door.
            (ip.is_loopback() && !planted::is("probe-loopback"))
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.octets()[0] == 0
                || ip.octets()[0] >= 240
        }
        IpAddr::V6(ip) => {
            let segments = ip.segments();
            (ip.is_loopback() && !planted::is("probe-loopback"))
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.is_unicast_link_local()
                // Translated IPv4 (RFC 6052) would lead around the rules for IPv4.
                || segments[..6] == [0x0064, 0xff9b, 0, 0, 0, 0]
                // Discard-only (RFC 6666).
                || segments[..4] == [0x0100, 0, 0, 0]
        }
    }
}

/// Addresses that mean something else in the next network (RFC 1918, RFC 6598, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xC0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

impl Surroundings {
    /// What the peers are told: at most [`MAX_CANDIDATES`], each address once, interfaces first.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        let local =
            self.local.iter().map(|local| (CandidateKind::Local, SocketAddr::new(local.ip, self.port)));
        let observed = self.observed.iter().map(|address| (CandidateKind::Observed, *address));
        let mapped = self.mapped.iter().map(|address| (CandidateKind::Mapped, *address));
        let mut list: Vec<Candidate> = Vec::new();
        // What a PoP saw and a router promised is worth more than the sixteenth interface.
        for (kind, address) in mapped.chain(observed).chain(local) {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            let is_new = list.iter().all(|known| known.address != address);
            if is_new
                && list.len() < MAX_CANDIDATES
                && address.port() >= FIRST_PORT
                && !is_special(address.ip())
            {
                list.push(Candidate { kind, address });
            }
        }
        list.sort_unstable();
        list
    }

    /// Whether an address that a peer names, or sent from, is tried. `peer_observed` are the addresses at
    /// which PoPs see that peer, as it says.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts(&self, address: SocketAddr, peer_observed: &[IpAddr]) -> Result<(), CandidateRefused> {
        let ip = address.ip();
        if is_special(ip) {
            return Err(CandidateRefused::Special);
        }
        if address.port() < FIRST_PORT {
            return Err(CandidateRefused::Port);
        }
        if address.port() == self.port && self.local.iter().any(|local| local.ip == ip) {
            return Err(CandidateRefused::Own);
        }
        if is_private(ip) {
            let on_link = self.local.iter().any(|local| local.holds(ip));
            let same_nat = self.observed.iter().any(|own| peer_observed.contains(&own.ip()));
            let private_installation = self.observed.iter().any(|own| is_private(own.ip()));
            if !on_link && !same_nat && !private_installation {
                return Err(CandidateRefused::OtherNetwork);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn at_home() -> Surroundings {
        Surroundings {
            port: 50_000,
            local: vec![
                LocalAddress { ip: "192.168.1.2".parse().expect("an address"), prefix: 24 },
                LocalAddress { ip: "127.0.0.1".parse().expect("an address"), prefix: 8 },
                LocalAddress { ip: "fe80::1".parse().expect("an address"), prefix: 64 },
                LocalAddress { ip: "2001:db8:1::2".parse().expect("an address"), prefix: 64 },
            ],
            observed: vec![address("203.0.113.20:50000")],
            mapped: vec![],
        }
    }

    #[test]
    fn loopback_and_link_local_addresses_are_not_told() {
        let told: Vec<String> =
            at_home().candidates().iter().map(|candidate| candidate.address.to_string()).collect();
        assert_eq!(told, ["192.168.1.2:50000", "[2001:db8:1::2]:50000", "203.0.113.20:50000"]);
    }

    #[test]
    fn addresses_where_no_peer_can_be_are_refused() {
        for special in [
            "127.0.0.1:5000",
            "169.254.169.254:5000",
            "224.0.0.1:5000",
            "255.255.255.255:5000",
            "0.0.0.0:5000",
            "100.100.100.200:5000",
            "192.0.0.192:5000",
            "[::1]:5000",
            "[::]:5000",
            "[fe80::1]:5000",
            "[ff02::1]:5000",
            "[fd00:ec2::254]:5000",
            "[64:ff9b::7f00:1]:5000",
            "[100::1]:5000",
        ] {
            assert_eq!(at_home().accepts(address(special), &[]), Err(CandidateRefused::Special), "{special}");
        }
    }

    #[test]
    fn ports_of_services_are_refused() {
        assert_eq!(at_home().accepts(address("198.51.100.1:53"), &[]), Err(CandidateRefused::Port));
    }

    #[test]
    fn a_private_address_is_tried_only_where_the_network_is_shared() {
        let home = at_home();
        assert_eq!(home.accepts(address("192.168.1.77:5000"), &[]), Ok(()));
        let elsewhere = address("10.0.0.5:5000");
        assert_eq!(home.accepts(elsewhere, &[]), Err(CandidateRefused::OtherNetwork));
        let same_nat = [address("203.0.113.20:1").ip()];
        assert_eq!(home.accepts(elsewhere, &same_nat), Ok(()));
        let inside = Surroundings { observed: vec![address("10.9.9.9:50000")], ..home };
        assert_eq!(inside.accepts(elsewhere, &[]), Ok(()));
    }

    #[test]
    fn the_own_address_is_refused() {
        assert_eq!(at_home().accepts(address("192.168.1.2:50000"), &[]), Err(CandidateRefused::Own));
    }

    #[test]
    fn at_most_sixteen_are_told_and_the_observed_one_is_among_them() {
        let local =
            (1..=40).map(|host| LocalAddress { ip: IpAddr::from([10, 0, host, 1]), prefix: 24 }).collect();
        let crowded = Surroundings { local, ..at_home() };
        let told = crowded.candidates();
        assert_eq!(told.len(), MAX_CANDIDATES);
        assert!(told.iter().any(|candidate| candidate.kind == CandidateKind::Observed));
    }
}
