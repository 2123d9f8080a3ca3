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
    // The planted bug of the simulation: a machine that can be made to knock at its own door.
    if planted::is("probe-loopback") && ip.is_loopback() {
        return false;
    }
    wire::is_special_address(ip)
        || match ip {
            IpAddr::V4(_) => false,
            // Whatever stands for an IPv4 address would lead around the rules for IPv4, be it translated or in a tunnel of
            // its own (6to4; Teredo, RFC 4380; NAT64 of one network, RFC 8215). Discard-only (RFC 6666) stands for streams.
            IpAddr::V6(ip) => {
                let segments = ip.segments();
                wire::embedded_ipv4(ip).is_some()
                    || segments[..2] == [0x2001, 0]
                    || segments[..3] == [0x0064, 0xff9b, 1]
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

    /// Whether an address that a peer names is tried. `seen` is where the PoP that introduced the two sees the peer: in our
    /// networks, which nobody outside has any business with, only a peer is looked for that stands there itself, and what the
    /// peer says of that is worth nothing.
    ///
    /// # Errors
    /// Why not.
    pub fn accepts(&self, address: SocketAddr, seen: Option<SocketAddr>) -> Result<(), CandidateRefused> {
        self.may_be_a_peer(address)?;
        let ip = address.ip();
        let is_on_link = self.is_on_link(ip);
        let is_of_a_network = is_private(ip) || (ip.is_ipv6() && is_on_link);
        if is_of_a_network && !self.is_shared(ip, is_on_link, seen) && !planted::is("peer-says-where-it-is") {
            return Err(CandidateRefused::OtherNetwork);
        }
        Ok(())
    }

    /// Whether a probe that came from an address is answered there. Unlike a name, a packet that came by our own link shows
    /// that somebody is there.
    ///
    /// # Errors
    /// Why not.
    pub fn answers(&self, from: SocketAddr, seen: Option<SocketAddr>) -> Result<(), CandidateRefused> {
        match self.accepts(from, seen) {
            Err(CandidateRefused::OtherNetwork) if self.is_on_link(from.ip()) => Ok(()),
            verdict => verdict,
        }
    }

    /// Whether a peer that names this address may stand on our own link, and only the PoP's word is missing.
    pub(super) fn lacks_a_word(&self, address: SocketAddr, seen: Option<SocketAddr>) -> bool {
        self.accepts(address, seen) == Err(CandidateRefused::OtherNetwork) && self.is_on_link(address.ip())
    }

    fn may_be_a_peer(&self, address: SocketAddr) -> Result<(), CandidateRefused> {
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
        Ok(())
    }

    fn is_on_link(&self, ip: IpAddr) -> bool {
        self.local.iter().any(|local| local.holds(ip))
    }

    /// Whether a PoP's word puts the peer at an address of one network with us.
    fn is_shared(&self, ip: IpAddr, is_on_link: bool, seen: Option<SocketAddr>) -> bool {
        let Some(seen) = seen else { return false };
        // Behind one router; or both in one private network with the PoP, which then sees the peer where it is.
        let is_behind_our_router = self.observed.iter().any(|own| wire::shares_outside(*own, seen));
        let is_private_installation =
            is_private(seen.ip()) && self.observed.iter().any(|own| is_private(own.ip()));
        is_behind_our_router
            || seen.ip().to_canonical() == ip && (is_on_link || is_private_installation)
            || is_private_installation && is_on_link
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
            "[64:ff9b::c0a8:101]:5000",
            "[64:ff9b:1::c0a8:101]:5000",
            "[::127.0.0.1]:5000",
            "[::192.168.1.1]:5000",
            "[2002:7f00:1::]:5000",
            "[2002:c0a8:101::1]:5000",
            "[2001:0:7f00:1::1]:5000",
            "[100::1]:5000",
        ] {
            let home = Some(address("203.0.113.20:50000"));
            assert_eq!(
                at_home().accepts(address(special), home),
                Err(CandidateRefused::Special),
                "{special}"
            );
            assert_eq!(
                at_home().answers(address(special), home),
                Err(CandidateRefused::Special),
                "{special}"
            );
        }
    }

    #[test]
    fn ports_of_services_are_refused() {
        assert_eq!(at_home().accepts(address("198.51.100.1:53"), None), Err(CandidateRefused::Port));
    }

    #[test]
    fn an_address_of_a_private_network_is_tried_only_where_a_pop_sees_the_peer_in_it() {
        let home = at_home();
        let refused = Err(CandidateRefused::OtherNetwork);
        let neighbours = ["192.168.1.77:5000", "[2001:db8:1::77]:5000", "10.0.0.5:5000", "[fd12::1]:5000"];
        for neighbour in neighbours.map(address) {
            for far in [None, Some(address("198.51.100.7:4000")), Some(address("[2001:db8:9::1]:4000"))] {
                assert_eq!(home.accepts(neighbour, far), refused, "{neighbour} {far:?}");
            }
            assert_eq!(home.accepts(neighbour, Some(address("203.0.113.20:61000"))), Ok(()), "{neighbour}");
        }
        // Who writes from our link is there.
        assert_eq!(home.answers(address("192.168.1.77:5000"), None), Ok(()));
        assert_eq!(home.answers(address("10.0.0.5:5000"), None), refused);
    }

    #[test]
    fn in_a_private_installation_a_peer_is_where_the_pop_sees_it_or_on_our_link() {
        let inside = Surroundings { observed: vec![address("192.168.1.2:50000")], ..at_home() };
        let seen = Some(address("10.9.9.9:4000"));
        assert_eq!(inside.accepts(address("10.9.9.9:4000"), seen), Ok(()));
        assert_eq!(inside.accepts(address("192.168.1.77:5000"), seen), Ok(()));
        assert_eq!(inside.accepts(address("10.0.0.5:5000"), seen), Err(CandidateRefused::OtherNetwork));
        assert_eq!(
            inside.accepts(address("192.168.1.77:5000"), Some(address("198.51.100.7:4000"))),
            Err(CandidateRefused::OtherNetwork)
        );
    }

    #[test]
    fn two_streams_of_one_place_to_a_pop_are_on_one_lan() {
        let stream = |origin, number| wire::stream_address_from(origin, number, 443);
        let blocked = Surroundings { observed: vec![stream(7, 1)], ..at_home() };
        let neighbour = address("192.168.1.77:5000");
        assert_eq!(blocked.accepts(neighbour, Some(stream(7, 2))), Ok(()));
        assert_eq!(blocked.accepts(neighbour, Some(stream(8, 2))), Err(CandidateRefused::OtherNetwork));
    }

    #[test]
    fn the_own_address_is_refused() {
        assert_eq!(at_home().accepts(address("192.168.1.2:50000"), None), Err(CandidateRefused::Own));
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
