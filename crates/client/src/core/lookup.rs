//! From what somebody typed to a resource and an address inside a tunnel.

use crate::target::{Host, Target};
use policy::{Address, ClientResource, ClientSlice, HostName, Mode, Protocol, Wildcard, inner_address};
use std::{
    cmp::Reverse,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};
use wire::{Refusal, ResourceId, SiteId};

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The resource.
    pub resource: ResourceId,
    /// Its site: one of its connectors is the tunnel's other end.
    pub site: SiteId,
    /// Where to, as seen inside the tunnel.
    pub destination: SocketAddr,
    /// One name of many that are one resource: it has no address before one is bound to it, and `destination` has its
    /// port alone.
    pub bind: Option<HostName>,
}

/// Why there is no way, from this device's own slice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct NoRoute {
    /// For programs.
    pub reason: Refusal,
    /// For people.
    pub detail: String,
}

/// Looks a target up in the slice.
///
/// # Errors
/// [`NoRoute`].
pub fn route(slice: &ClientSlice, target: &Target) -> Result<Route, NoRoute> {
    let to = (Protocol::Tcp, target.port);
    let Some(resource) = find(slice, &target.host, Some(to)) else {
        let detail = format!(
            "{} is not a resource that a policy gives this device; `tidegate resources` lists those, `tidegate why {}` says more",
            target.host, target.host
        );
        return Err(NoRoute { reason: Refusal::NoResource, detail });
    };
    if !has_port(resource, to) {
        let ports: Vec<String> = resource.ports.iter().map(ToString::to_string).collect();
        let detail = format!(
            "resource {} does not include port {}; it has {}",
            resource.name,
            target.port,
            ports.join(", ")
        );
        return Err(NoRoute { reason: Refusal::PortNotAllowed, detail });
    }
    let mut bind = None;
    let not_one = |resource: &ClientResource| NoRoute {
        reason: Refusal::NoResource,
        detail: format!("resource {} is {}; ask for a name below it", resource.name, resource.address),
    };
    let address = match (&resource.address, &target.host) {
        (Address::Host(_), _) => IpAddr::V6(inner_address(resource.id)),
        (Address::Ip(address), _) => *address,
        (Address::Cidr(_), Host::Ip(address)) => *address,
        (Address::Cidr(prefix), Host::Name(_)) => {
            let detail =
                format!("resource {} is the range {prefix}; ask for an address inside it", resource.name);
            return Err(NoRoute { reason: Refusal::NoResource, detail });
        }
        (Address::Wildcard(names), Host::Name(name)) => {
            // Not when all of them are asked for at once, by the resource's own name.
            bind = name.parse().ok().filter(|name| names.contains(name));
            if bind.is_none() {
                return Err(not_one(resource));
            }
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        }
        (Address::Wildcard(_), Host::Ip(_)) => return Err(not_one(resource)),
    };
    Ok(Route {
        resource: resource.id,
        site: resource.site,
        destination: SocketAddr::new(address, target.port),
        bind,
    })
}

/// The resource that is meant. A name means an alias before a resource's name before a host name; an
/// address means the most specific resource, as at the connector: then the one with the port, then
/// the stricter, then the lower id.
pub fn find<'a>(
    slice: &'a ClientSlice,
    host: &Host,
    port: Option<(Protocol, u16)>,
) -> Option<&'a ClientResource> {
    slice
        .resources
        .iter()
        .filter_map(|resource| Some((fit(resource, host)?, resource)))
        .max_by_key(|(fit, resource)| {
            let with_port = port.is_none_or(|port| has_port(resource, port));
            // A name may stand for resources with different ports on one host: there the port decides first.
            let fit = match host {
                Host::Name(_) => (u16::from(with_port), u16::from(*fit)),
                Host::Ip(_) => (u16::from(*fit), u16::from(with_port)),
            };
            (fit, resource.mode == Mode::Strict, Reverse(resource.id))
        })
        .map(|(_, resource)| resource)
}

/// The resource that a name of the machine's resolver means: by alias before by host name before by the longest wildcard,
/// whatever its ports. Of several that fit as well, the one that has the port, then the stricter, then the lower id. So an
/// address stands for one thing at a time.
pub fn find_named<'a>(
    slice: &'a ClientSlice,
    name: &HostName,
    port: (Protocol, u16),
) -> Option<&'a ClientResource> {
    slice
        .resources
        .iter()
        .filter_map(|resource| {
            let fit = match (&resource.alias, &resource.address) {
                (Some(alias), _) if alias.eq_ignore_ascii_case(name.as_str()) => 255,
                (_, Address::Host(host)) if host == name => EXACT,
                (_, Address::Wildcard(names)) => below(names, name)?,
                _ => return None,
            };
            Some((fit, resource))
        })
        .max_by_key(|(fit, resource)| {
            (*fit, has_port(resource, port), resource.mode == Mode::Strict, Reverse(resource.id))
        })
        .map(|(_, resource)| resource)
        .filter(|resource| has_port(resource, port))
}

fn fit(resource: &ClientResource, host: &Host) -> Option<u8> {
    match (host, &resource.address) {
        (Host::Name(name), address) => {
            let same = |text: &str| text.to_lowercase() == *name;
            if resource.alias.as_deref().is_some_and(same) {
                Some(255)
            } else if same(&resource.name) {
                Some(254)
            } else {
                match address {
                    Address::Host(host) => (host.as_str() == name).then_some(EXACT),
                    Address::Wildcard(names) => below(names, &name.parse().ok()?),
                    Address::Ip(_) | Address::Cidr(_) => None,
                }
            }
        }
        (Host::Ip(asked), Address::Ip(address)) => (asked == address).then_some(129),
        (Host::Ip(asked), Address::Cidr(prefix)) => prefix.contains(*asked).then(|| prefix.length()),
        (Host::Ip(_), Address::Host(_) | Address::Wildcard(_)) => None,
    }
}

/// How well a host name fits itself; more than any wildcard.
const EXACT: u8 = 253;

/// How well a wildcard fits a name below it: the longer, the better.
fn below(names: &Wildcard, name: &HostName) -> Option<u8> {
    let length = u8::try_from(names.suffix().as_str().len()).unwrap_or(u8::MAX).min(EXACT - 1);
    names.contains(name).then_some(length)
}

/// Whether a resource has a port of a protocol.
pub(super) fn has_port(resource: &ClientResource, (protocol, port): (Protocol, u16)) -> bool {
    resource.ports.iter().any(|range| range.contains(protocol, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(id: u8, name: &str, alias: Option<&str>, address: &str, ports: &str) -> ClientResource {
        ClientResource {
            id: ResourceId::from_bytes([id; 16]),
            name: name.into(),
            alias: alias.map(Into::into),
            address: address.parse().expect("an address"),
            ports: vec![ports.parse().expect("ports")],
            mode: Mode::Standard,
            site: SiteId::from_bytes([1; 16]),
            allow: vec![],
        }
    }

    fn slice() -> ClientSlice {
        ClientSlice {
            organization_name: "Acme".into(),
            resources: vec![
                resource(1, "Wiki", Some("docs"), "wiki.corp.example", "443"),
                resource(2, "LAN", None, "10.0.0.0/8", "1-65535"),
                resource(3, "Database", None, "10.0.0.5", "5432"),
                resource(4, "Lab", None, "10.0.2.0/24", "80"),
                resource(5, "wiki.corp.example", None, "10.9.9.9", "22"),
                resource(6, "Apps", None, "*.apps.example", "443"),
                resource(7, "Shop", None, "*.shop.apps.example", "443"),
                resource(8, "One", None, "one.apps.example", "443"),
            ],
            sites: vec![],
            pops: vec![],
        }
    }

    fn routed(target: &str) -> Result<(u8, String), Refusal> {
        route(&slice(), &target.parse().expect("a target"))
            .map(|route| (route.resource.as_bytes()[0], route.destination.to_string()))
            .map_err(|error| error.reason)
    }

    #[test]
    fn a_name_alias_or_host_name_in_any_case_leads_to_the_derived_address() {
        let inner = inner_address(ResourceId::from_bytes([1; 16]));
        for name in ["WIKI:443", "Docs:443", "wiki.corp.example.:443"] {
            assert_eq!(routed(name), Ok((1, format!("[{inner}]:443"))), "{name}");
        }
    }

    #[test]
    fn a_name_that_two_resources_share_means_the_one_with_the_port() {
        assert_eq!(routed("wiki.corp.example:22"), Ok((5, "10.9.9.9:22".into())));
    }

    #[test]
    fn the_most_specific_resource_of_an_address_wins_and_keeps_the_real_address() {
        assert_eq!(routed("10.0.0.5:5432"), Ok((3, "10.0.0.5:5432".into())));
        assert_eq!(routed("10.0.2.7:80"), Ok((4, "10.0.2.7:80".into())));
        assert_eq!(routed("10.1.2.3:80"), Ok((2, "10.1.2.3:80".into())));
        // The more specific one decides, also where it lacks the port, as at the connector.
        assert_eq!(routed("10.0.2.7:81"), Err(Refusal::PortNotAllowed));
    }

    #[test]
    fn a_name_below_a_wildcard_is_bound_and_the_exact_name_and_the_longer_wildcard_come_first() {
        let bound = |target: &str| {
            let route = route(&slice(), &target.parse().expect("a target")).expect("a route");
            (route.resource.as_bytes()[0], route.bind.map(|name| name.to_string()))
        };
        assert_eq!(bound("Any.apps.example:443"), (6, Some("any.apps.example".into())));
        assert_eq!(bound("a.b.apps.example:443"), (6, Some("a.b.apps.example".into())));
        assert_eq!(bound("a.shop.apps.example:443"), (7, Some("a.shop.apps.example".into())));
        assert_eq!(bound("one.apps.example:443"), (8, None));
        assert_eq!(routed("apps.example:443"), Err(Refusal::NoResource));
        let error = route(&slice(), &"apps:443".parse().expect("a target")).expect_err("many names");
        assert!(error.detail.contains("*.apps.example"), "{error}");
    }

    #[test]
    fn what_is_not_in_the_slice_or_is_a_range_by_name_is_refused_with_what_to_do() {
        assert_eq!(routed("192.0.2.1:80"), Err(Refusal::NoResource));
        assert_eq!(routed("nowhere:80"), Err(Refusal::NoResource));
        assert_eq!(routed("wiki:80"), Err(Refusal::PortNotAllowed));
        let error = route(&slice(), &"lan:80".parse().expect("a target")).expect_err("a range");
        assert!(error.detail.contains("10.0.0.0/8"), "{error}");
    }
}
