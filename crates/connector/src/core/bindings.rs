//! What the addresses of one session stand for, as its client says.
//!
//! A client gives synthetic addresses to the names that programs ask for, and tells this connector inside the tunnel.
//! Nothing is allowed by that: whoever is asked about a packet is asked about the name, and a client that binds an
//! address to anything only shadows its own traffic.
//!
//! An address that is bound to another name **ends the flows of the old one**. Refusing the new binding instead would
//! leave a name unreachable for as long as something idle hangs on its address; a flow that went on would have two
//! names on one pair of addresses and ports, and nobody could say which bytes belong to which.

use policy::{HostName, Place, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::Instant;
use tunnel::BoundPair;

/// Names of one session: a name takes about 400 bytes here, so a session takes 400 KiB.
pub(crate) const MAX_BINDINGS: usize = 1_024;

/// What an address was bound to: a name, or the literal address of a resource that is asked for by its alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Resolved in the site.
    Name(HostName),
    /// As if it had been written on the packet.
    Address(IpAddr),
}

impl Meaning {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        match text.parse::<IpAddr>() {
            Ok(address) => Some(Self::Address(address.to_canonical())),
            Err(_) => text.parse().ok().map(Self::Name),
        }
    }

    /// What policy is asked about.
    pub fn place(&self) -> Place<'_> {
        match self {
            Self::Name(name) => Place::Name(name),
            Self::Address(address) => Place::Address(*address),
        }
    }

    /// The name, for the flow log.
    pub fn name(&self) -> Option<&HostName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Address(_) => None,
        }
    }
}

/// Why an address is not bound. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum BindRefused {
    /// An address that no packet to a resource can have.
    Address,
    /// Not a name.
    Name,
    /// As many as there may be, all in use.
    Full,
}

impl BindRefused {
    pub const fn label(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Name => "name",
            Self::Full => "full",
        }
    }
}

/// What came of a binding.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// Both addresses meant this before.
    Already,
    /// They mean it from now on: flows to them that meant anything else are to end.
    Anew {
        /// These pairs mean nothing any more; the client is to be told.
        forgotten: Vec<BoundPair>,
    },
}

struct Binding {
    pair: BoundPair,
    meaning: Meaning,
    used: Instant,
    flows: usize,
}

/// The bindings of one session.
#[derive(Default)]
pub(crate) struct Bindings {
    by_address: BTreeMap<IpAddr, u64>,
    bindings: BTreeMap<u64, Binding>,
    next: u64,
}

impl Bindings {
    /// Binds both addresses of a pair to what `text` says.
    pub fn bind(
        &mut self,
        now: Instant,
        pair: BoundPair,
        text: &[u8],
        own: &[IpAddr],
    ) -> Result<Noted, BindRefused> {
        let both = addresses(pair);
        if !both.iter().all(|address| may_be_bound(*address) && !own.contains(address)) {
            return Err(BindRefused::Address);
        }
        let meaning = Meaning::parse(text).ok_or(BindRefused::Name)?;
        let mut forgotten = Vec::new();
        // Usually one and the same for both; a client that mixes pairs loses the older ones.
        let mut known: Vec<u64> = both.iter().filter_map(|at| self.by_address.get(at).copied()).collect();
        known.dedup();
        if let [number] = known[..]
            && let Some(binding) = self.bindings.get_mut(&number)
            && binding.pair == pair
            && binding.meaning == meaning
        {
            binding.used = now;
            return Ok(Noted::Already);
        }
        if known.is_empty() && self.bindings.len() >= MAX_BINDINGS {
            let unused = self.bindings.iter().filter(|(_, binding)| binding.flows == 0);
            let oldest = unused.min_by_key(|(_, binding)| binding.used).map(|(number, _)| *number);
            let gone = oldest.and_then(|number| self.remove(number)).ok_or(BindRefused::Full)?;
            forgotten.push(gone.pair);
        }
        for number in known {
            let gone = self.remove(number).map(|gone| gone.pair);
            forgotten.extend(gone.filter(|gone| *gone != pair));
        }
        let number = self.next;
        self.next += 1;
        self.by_address.extend(both.map(|address| (address, number)));
        self.bindings.insert(number, Binding { pair, meaning, used: now, flows: 0 });
        Ok(Noted::Anew { forgotten })
    }

    fn remove(&mut self, number: u64) -> Option<Binding> {
        let binding = self.bindings.remove(&number)?;
        for address in addresses(binding.pair) {
            self.by_address.remove(&address);
        }
        Some(binding)
    }

    /// What a binding of this pair may change the meaning of: its own addresses, and those that were bound with one.
    pub fn touched(&self, pair: BoundPair) -> BTreeSet<IpAddr> {
        let known = addresses(pair).into_iter().filter_map(|at| self.bindings.get(self.by_address.get(&at)?));
        let others: Vec<IpAddr> = known.flat_map(|binding| addresses(binding.pair)).collect();
        others.into_iter().chain(addresses(pair)).collect()
    }

    /// What an address stands for; itself, when it was not bound.
    pub fn meaning(&self, address: IpAddr) -> Option<&Meaning> {
        let binding = self.bindings.get(self.by_address.get(&address)?)?;
        Some(&binding.meaning)
    }

    /// A flow to this address begins: as long as it lasts, what the address means is not forgotten.
    pub fn hold(&mut self, now: Instant, address: IpAddr) {
        if let Some(binding) = self.at(address) {
            binding.flows += 1;
            binding.used = now;
        }
    }

    /// A flow to this address has ended.
    pub fn release(&mut self, address: IpAddr) {
        if let Some(binding) = self.at(address) {
            binding.flows = binding.flows.saturating_sub(1);
        }
    }

    fn at(&mut self, address: IpAddr) -> Option<&mut Binding> {
        self.bindings.get_mut(self.by_address.get(&address)?)
    }
}

pub(crate) const fn addresses(pair: BoundPair) -> [IpAddr; 2] {
    [IpAddr::V4(pair.v4), IpAddr::V6(pair.v6)]
}

/// Whether an address is in the ranges that clients take addresses for names from.
pub(crate) fn is_synthetic(address: IpAddr) -> bool {
    static RANGES: LazyLock<[Prefix; 2]> = LazyLock::new(|| {
        let (v4, v6) = (tunnel::SYNTHETIC_V4, tunnel::SYNTHETIC_V6);
        [(IpAddr::V4(v4.0), v4.1), (IpAddr::V6(v6.0), v6.1)]
            .map(|(network, length)| Prefix::new(network, length).expect("networks, without further bits"))
    });
    RANGES.iter().any(|range| range.contains(address))
}

/// No program sends to these through a tunnel and means a host.
fn may_be_bound(address: IpAddr) -> bool {
    let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || address == broadcast)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs one moment to count from")]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pair(number: u32) -> BoundPair {
        BoundPair {
            v4: Ipv4Addr::from(0x6440_0100 + number),
            v6: std::net::Ipv6Addr::from((0xFD7A_u128 << 112) + u128::from(number)),
        }
    }

    fn name_at(bindings: &Bindings, address: impl Into<IpAddr>) -> Option<&str> {
        bindings.meaning(address.into()).and_then(Meaning::name).map(HostName::as_str)
    }

    fn anew(forgotten: &[BoundPair]) -> Result<Noted, BindRefused> {
        Ok(Noted::Anew { forgotten: forgotten.to_vec() })
    }

    #[test]
    fn both_addresses_of_a_pair_mean_the_name_until_it_means_another() {
        let (now, mut bindings) = (Instant::now(), Bindings::default());
        assert_eq!(bindings.bind(now, pair(1), b"Wiki.Corp.example.", &[]), anew(&[]));
        assert_eq!(name_at(&bindings, pair(1).v4), Some("wiki.corp.example"));
        assert_eq!(name_at(&bindings, pair(1).v6), Some("wiki.corp.example"));
        assert_eq!(name_at(&bindings, pair(2).v4), None);
        assert_eq!(bindings.bind(now, pair(1), b"wiki.corp.example", &[]), Ok(Noted::Already));
        assert_eq!(
            bindings.bind(now, pair(1), b"db.corp.example", &[]),
            anew(&[]),
            "the pair still means something"
        );
        assert_eq!(name_at(&bindings, pair(1).v6), Some("db.corp.example"));
    }

    #[test]
    fn a_pair_mixed_from_two_others_displaces_both() {
        let (now, mut bindings) = (Instant::now(), Bindings::default());
        bindings.bind(now, pair(1), b"a.example", &[]).expect("room");
        bindings.bind(now, pair(2), b"b.example", &[]).expect("room");
        let mixed = BoundPair { v4: pair(1).v4, v6: pair(2).v6 };
        assert_eq!(bindings.bind(now, mixed, b"c.example", &[]), anew(&[pair(1), pair(2)]));
        assert_eq!((bindings.bindings.len(), bindings.by_address.len()), (1, 2));
        assert_eq!(name_at(&bindings, pair(1).v6), None);
        assert_eq!(name_at(&bindings, pair(2).v6), Some("c.example"));
    }

    #[test]
    fn an_address_of_this_machine_of_everybody_or_of_the_tunnel_is_not_bound() {
        let (now, mut bindings) = (Instant::now(), Bindings::default());
        for v4 in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "100.64.0.2"] {
            let pair = BoundPair { v4: v4.parse().expect("address"), ..pair(1) };
            let own = [IpAddr::V4(policy::INNER_V4)];
            assert_eq!(bindings.bind(now, pair, b"a.example", &own), Err(BindRefused::Address), "{v4}");
        }
        for v6 in ["::1", "::", "ff02::1"] {
            let pair = BoundPair { v6: v6.parse().expect("address"), ..pair(1) };
            assert_eq!(bindings.bind(now, pair, b"a.example", &[]), Err(BindRefused::Address), "{v6}");
        }
        for text in [&b"a..b"[..], b"*.example", b"a b", b"\xFF", b"10.0.0", b"10.0.0.0/8"] {
            assert_eq!(bindings.bind(now, pair(1), text, &[]), Err(BindRefused::Name), "{text:?}");
        }
        assert!(bindings.bindings.is_empty() && bindings.by_address.is_empty());
    }

    #[test]
    fn a_full_table_gives_up_what_was_unused_longest_and_has_no_flow() {
        let (start, mut bindings) = (Instant::now(), Bindings::default());
        let many = u32::try_from(MAX_BINDINGS).expect("few");
        for number in 0..many {
            let at = start + Duration::from_millis(number.into());
            bindings.bind(at, pair(number), format!("n{number}.example").as_bytes(), &[]).expect("room");
        }
        let later = start + Duration::from_secs(60);
        bindings.hold(start, pair(0).v4.into());
        bindings.bind(later, pair(1), b"n1.example", &[]).expect("known");
        assert_eq!(bindings.bind(later, pair(many), b"new.example", &[]), anew(&[pair(2)]));
        assert_eq!(name_at(&bindings, pair(0).v4), Some("n0.example"), "it has a flow");
        assert_eq!(bindings.bindings.len(), MAX_BINDINGS);
        for number in 0..=many {
            bindings.hold(later, pair(number).v6.into());
        }
        let refused = bindings.bind(later, pair(many + 1), b"more.example", &[]);
        assert_eq!(refused, Err(BindRefused::Full), "all are in use");
        bindings.release(pair(7).v4.into());
        assert_eq!(bindings.bind(later, pair(many + 1), b"more.example", &[]), anew(&[pair(7)]));
    }

    #[test]
    fn the_ranges_of_synthetic_addresses_are_those_that_both_sides_know() {
        for (address, inside) in [
            ("100.97.0.9", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("10.0.0.5", false),
            ("fd7a:7467:6e61::9", true),
            ("fd7a:7467:6eff::1", true),
            ("fd7a:7467:6f00::1", false),
            ("::ffff:100.97.0.9", true),
        ] {
            assert_eq!(is_synthetic(address.parse().expect("address")), inside, "{address}");
        }
    }

    #[test]
    fn an_alias_of_an_address_means_that_address() {
        let (now, mut bindings) = (Instant::now(), Bindings::default());
        bindings.bind(now, pair(1), b"10.0.0.5", &[]).expect("room");
        let meaning = bindings.meaning(pair(1).v6.into()).expect("bound");
        assert_eq!(meaning.place(), Place::Address("10.0.0.5".parse().expect("address")));
        assert_eq!(meaning.name(), None);
    }
}
