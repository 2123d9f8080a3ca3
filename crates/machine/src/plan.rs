//! Which routes lead into the tunnel: a function of what is wanted and what the machine has.

use crate::message::{Conflict, Network};
use policy::Prefix;
use std::{collections::BTreeSet, net::IpAddr};

/// Routes that are made at once: what is wanted, and what is left of prefixes that had something cut out. The
/// kernel takes far more; a person who reads `ip route` does not.
const MAX_ROUTES: usize = 4_096;
/// Conflicts that are told; more are counted.
const MAX_CONFLICTS: usize = 64;
/// Nothing wider than this is a private network (RFC 1918 has one /8, RFC 4193 a /7 of which each site has a /48).
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;

/// A route or an address that the machine has by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRoute {
    /// Where to.
    pub prefix: Prefix,
    /// The interface's name, when there is one.
    pub interface: String,
    /// What kind of thing it is.
    pub kind: KnownKind,
}

/// What a [`KnownRoute`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownKind {
    /// An address of this machine.
    Own,
    /// A network that the machine is on.
    Connected,
    /// By a router, or another program's tunnel.
    Routed,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Exactly these lead into the tunnel.
    pub routes: BTreeSet<Prefix>,
    /// What is to be told.
    pub conflicts: Vec<Conflict>,
}

/// What `wanted` comes to on a machine with `known`. `avoid` stays outside besides what the worker names: name servers
/// and the like. `own` are the tunnel's ranges and addresses, which nothing else may name.
#[must_use]
pub fn plan(wanted: &Network, avoid: &[IpAddr], own: &[Prefix], known: &[KnownRoute]) -> Plan {
    let mut plan = Plan::default();
    let mut untold = 0;
    let mut tell = |prefix: Prefix, routed: bool, why: String| {
        if plan.conflicts.len() < MAX_CONFLICTS {
            plan.conflicts.push(Conflict { prefix, routed, why });
        } else {
            untold += 1;
        }
    };
    let prefixes: BTreeSet<Prefix> = wanted.routes.iter().copied().collect();
    let outside: BTreeSet<IpAddr> = wanted.avoid.iter().chain(avoid).map(IpAddr::to_canonical).collect();
    for prefix in prefixes {
        if let Some(why) = refusal(prefix) {
            tell(prefix, false, why.to_owned());
            continue;
        }
        if own.iter().any(|own| overlaps(*own, prefix)) {
            tell(prefix, false, "the tunnel has its own addresses there".to_owned());
            continue;
        }
        let same = known.iter().find(|known| known.prefix == prefix);
        if let Some(same) = same.filter(|_| !planted::is("takes-the-lan")) {
            let why = match same.kind {
                KnownKind::Own => "it is an address of this machine".to_owned(),
                KnownKind::Connected => format!(
                    "this machine is on a network with the same range ({}); reach the resource by the proxy",
                    same.interface
                ),
                KnownKind::Routed => format!(
                    "this machine has a route of its own for it ({}); reach the resource by the proxy",
                    same.interface
                ),
            };
            tell(prefix, false, why);
            continue;
        }
        let mut rest = vec![prefix];
        if planted::is("the-tunnel-through-itself") {
            plan.routes.extend(rest);
            continue;
        }
        for hole in outside.iter().filter(|hole| prefix.contains(**hole)) {
            rest = rest.into_iter().flat_map(|part| without(part, *hole)).collect();
        }
        if rest.is_empty() || plan.routes.len() + rest.len() > MAX_ROUTES {
            let why = if rest.is_empty() {
                "the tunnel itself or a name server is at this address"
            } else {
                "there are too many routes already"
            };
            tell(prefix, false, why.to_owned());
            continue;
        }
        if rest.len() > 1 {
            let holes: Vec<String> =
                outside.iter().filter(|hole| prefix.contains(**hole)).map(ToString::to_string).collect();
            let why = format!("all but {}, which a PoP or name server has", holes.join(", "));
            tell(prefix, true, why);
        }
        for other in known.iter().filter(|known| overlaps(known.prefix, prefix)) {
            if is_everything(other.prefix) {
                continue;
            }
            if inside(other.prefix, prefix) {
                tell(prefix, true, format!("all but {}, which stays with {}", other.prefix, other.interface));
            } else {
                tell(prefix, true, format!("taken out of {} on {}", other.prefix, other.interface));
            }
        }
        plan.routes.extend(rest);
    }
    if untold > 0
        && let Some(last) = plan.conflicts.last_mut()
    {
        last.why.push_str(&format!(" (and {untold} more)"));
    }
    plan
}

/// The first of `candidates` that no route or address of the machine overlaps.
#[must_use]
pub fn choose_range(candidates: &[Prefix], known: &[KnownRoute]) -> Option<Prefix> {
    let is_free = |range: &&Prefix| {
        !known.iter().any(|known| !is_everything(known.prefix) && overlaps(known.prefix, **range))
    };
    candidates.iter().find(is_free).copied()
}

/// Why a prefix never leads into the tunnel, whoever asks.
fn refusal(prefix: Prefix) -> Option<&'static str> {
    let (address, length) = (prefix.address(), prefix.length());
    let widest = if address.is_ipv4() { WIDEST_V4 } else { WIDEST_V6 };
    if length < widest {
        return Some("it is wider than any private network: the internet would go through the tunnel");
    }
    if address.is_loopback() {
        return Some("it is this machine itself");
    }
    if address.is_multicast() {
        return Some("multicast does not go through the tunnel");
    }
    let is_bad = match address {
        // 0.0.0.0/8 is "this network", 127.0.0.0/8 loopback, 169.254.0.0/16 link-local (RFC 6890), 240.0.0.0/4 reserved.
        IpAddr::V4(v4) => {
            matches!(v4.octets(), [0, ..] | [127, ..] | [240..=255, ..]) || v4.octets()[..2] == [169, 254]
        }
        // fe80::/10 is link-local (RFC 4291); what is inside ::/16 is loopback, unspecified or an embedded IPv4 address.
        IpAddr::V6(v6) => v6.segments()[0] == 0 || v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    is_bad.then_some("addresses of this kind mean something on one link only")
}

/// A default route, or one half of a pair that stands for it.
fn is_everything(prefix: Prefix) -> bool {
    prefix.length() <= 3
}

fn inside(inner: Prefix, outer: Prefix) -> bool {
    inner.length() >= outer.length() && outer.contains(inner.address())
}

fn overlaps(one: Prefix, other: Prefix) -> bool {
    inside(one, other) || inside(other, one)
}

/// What is left of a prefix when one address is cut out: the half without it, of each half with it.
fn without(prefix: Prefix, hole: IpAddr) -> Vec<Prefix> {
    if !prefix.contains(hole) {
        return vec![prefix];
    }
    let width = if hole.is_ipv4() { 32 } else { 128 };
    let sibling = |length: u8| {
        let flipped = match hole {
            IpAddr::V4(v4) => {
                let keep = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                let bit = 1u32.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::from(((u32::from(v4) ^ bit) & keep).to_be_bytes())
            }
            IpAddr::V6(v6) => {
                let keep = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                let bit = 1u128.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::from(((u128::from(v6) ^ bit) & keep).to_be_bytes())
            }
        };
        Prefix::new(flipped, length).ok()
    };
    (prefix.length() + 1..=width).filter_map(sibling).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn wanting(routes: &[&str], avoid: &[&str]) -> Network {
        Network {
            routes: routes.iter().map(|text| prefix(text)).collect(),
            avoid: avoid.iter().map(|text| text.parse().unwrap()).collect(),
            ..Network::default()
        }
    }

    fn known(text: &str, interface: &str, kind: KnownKind) -> KnownRoute {
        KnownRoute { prefix: prefix(text), interface: interface.to_owned(), kind }
    }

    fn routes(plan: &Plan) -> Vec<String> {
        plan.routes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_would_take_the_internet_or_the_link_is_never_routed() {
        for text in [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/1",
            "8.0.0.0/7",
            "2000::/3",
            "127.0.0.0/8",
            "127.0.0.53/32",
            "224.0.0.0/24",
            "169.254.0.0/16",
            "169.254.169.254/32",
            "fe80::/64",
            "ff02::/16",
            "::1/128",
            "::ffff:0:0/96",
            "255.255.255.255/32",
        ] {
            let plan = plan(&wanting(&[text], &[]), &[], &[], &[]);
            assert!(plan.routes.is_empty(), "{text}");
            assert!(!plan.conflicts[0].routed, "{text}");
        }
    }

    #[test]
    fn a_network_that_the_machine_is_on_stays_and_is_said() {
        let known = [
            known("10.0.2.0/24", "eth0", KnownKind::Connected),
            known("192.168.7.9/32", "eth0", KnownKind::Own),
            known("0.0.0.0/0", "eth0", KnownKind::Routed),
        ];
        let plan = plan(&wanting(&["10.0.2.0/24", "192.168.7.9/32", "10.9.0.0/16"], &[]), &[], &[], &known);
        assert_eq!(routes(&plan), ["10.9.0.0/16"]);
        assert_eq!(plan.conflicts.len(), 2);
        assert!(plan.conflicts.iter().all(|conflict| !conflict.routed));
    }

    #[test]
    fn the_more_specific_one_wins_as_in_the_kernel_and_is_said() {
        let known = [
            known("10.0.2.0/24", "eth0", KnownKind::Connected),
            known("172.16.0.0/12", "wg0", KnownKind::Routed),
        ];
        let plan = plan(&wanting(&["10.0.0.0/8", "172.16.5.0/24"], &[]), &[], &[], &known);
        assert_eq!(routes(&plan), ["10.0.0.0/8", "172.16.5.0/24"]);
        let why: Vec<&str> = plan.conflicts.iter().map(|conflict| conflict.why.as_str()).collect();
        assert_eq!(why, ["all but 10.0.2.0/24, which stays with eth0", "taken out of 172.16.0.0/12 on wg0"]);
    }

    #[test]
    fn a_pop_inside_a_range_stays_outside_the_tunnel_and_the_rest_goes_in() {
        let plan = plan(&wanting(&["192.0.2.0/29"], &["192.0.2.3"]), &[], &[], &[]);
        assert_eq!(routes(&plan), ["192.0.2.0/31", "192.0.2.2/32", "192.0.2.4/30"]);
        assert_eq!(plan.conflicts[0].why, "all but 192.0.2.3, which a PoP or name server has");
        let alone = super::plan(&wanting(&["192.0.2.3/32"], &[]), &["192.0.2.3".parse().unwrap()], &[], &[]);
        assert!(alone.routes.is_empty() && !alone.conflicts[0].routed);
    }

    #[test]
    fn nothing_takes_the_tunnels_own_addresses() {
        let own = [prefix("100.64.0.2/32"), prefix("100.97.0.0/16")];
        for text in ["100.64.0.0/10", "100.97.3.0/24", "100.64.0.2/32"] {
            assert!(plan(&wanting(&[text], &[]), &[], &own, &[]).routes.is_empty(), "{text}");
        }
    }

    #[test]
    fn a_range_is_free_when_nothing_but_the_default_route_overlaps_it() {
        let candidates = [prefix("100.97.0.0/16"), prefix("198.18.0.0/16")];
        let default = known("0.0.0.0/0", "eth0", KnownKind::Routed);
        assert_eq!(choose_range(&candidates, std::slice::from_ref(&default)), Some(candidates[0]));
        let vpn = known("100.64.0.0/10", "tailscale0", KnownKind::Routed);
        assert_eq!(choose_range(&candidates, &[default, vpn.clone()]), Some(candidates[1]));
        let bench = known("198.18.7.0/24", "eth1", KnownKind::Connected);
        assert_eq!(choose_range(&candidates, &[vpn, bench]), None);
    }

    proptest! {
        #[test]
        fn what_is_left_of_a_prefix_is_all_of_it_but_the_hole(base: u32, length in 8u8..=32, pick: u32, probe: u32) {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            let whole = Prefix::new(IpAddr::from((base & mask).to_be_bytes()), length).unwrap();
            let within = |bits: u32| IpAddr::from(((base & mask) | (bits & !mask)).to_be_bytes());
            let (hole, probe) = (within(pick), within(probe));
            let rest = without(whole, hole);
            prop_assert!(rest.iter().all(|part| inside(*part, whole) && !part.contains(hole)));
            let holders = rest.iter().filter(|part| part.contains(probe)).count();
            prop_assert_eq!(holders, usize::from(probe != hole));
        }

        #[test]
        fn no_plan_routes_an_address_that_has_to_stay_outside(
            wanted in proptest::collection::vec((any::<u128>(), 0u8..=128, any::<bool>()), 0..20),
            avoid in proptest::collection::vec(any::<u32>(), 0..5),
        ) {
            let routes = wanted.into_iter().filter_map(|(bits, length, v4)| {
                if v4 {
                    let length = length % 33;
                    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                    Prefix::new(IpAddr::from((bits as u32 & mask).to_be_bytes()), length).ok()
                } else {
                    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                    Prefix::new(IpAddr::from((bits & mask).to_be_bytes()), length).ok()
                }
            });
            let avoid: Vec<IpAddr> = avoid.into_iter().map(|bits| IpAddr::from(bits.to_be_bytes())).collect();
            let network = Network { routes: routes.collect(), avoid: avoid.clone(), ..Network::default() };
            let plan = plan(&network, &[], &[], &[]);
            for route in &plan.routes {
                prop_assert!(route.length() >= 8);
                prop_assert!(avoid.iter().all(|outside| !route.contains(*outside)));
                prop_assert!(!route.address().is_loopback() && !route.address().is_multicast());
            }
        }
    }
}
