//! From what somebody typed to a resource and an address inside a tunnel.

use crate::target::{Host, Target};
use policy::{Address, ClientResource, ClientSlice, Mode, inner_address};
use std::{
    cmp::Reverse,
    net::{IpAddr, SocketAddr},
};
use wire::{Refusal, ResourceId, SiteId};

/// Where a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The resource.
    pub resource: ResourceId,
    /// Its site: one of its connectors is the tunnel's other end.
    pub site: SiteId,
    /// Where to, as seen inside the tunnel.
    pub destination: SocketAddr,
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
    let Some(resource) = find(slice, &target.host, Some(target.port)) else {
        let detail = format!(
            "{} is not a resource that a policy gives this device; `tidegate resources` lists those, `tidegate why {}` says more",
            target.host, target.host
        );
        return Err(NoRoute { reason: Refusal::NoResource, detail });
    };
    if !has_port(resource, target.port) {
        let ports: Vec<String> = resource.ports.iter().map(ToString::to_string).collect();
        let detail = format!(
            "resource {} does not include port {}; it has {}",
            resource.name,
            target.port,
            ports.join(", ")
        );
        return Err(NoRoute { reason: Refusal::PortNotAllowed, detail });
    }
    let address = match (&resource.address, &target.host) {
        (Address::Host(_), _) => IpAddr::V6(inner_address(resource.id)),
        (Address::Ip(address), _) => *address,
        (Address::Cidr(_), Host::Ip(address)) => *address,
        (Address::Cidr(prefix), Host::Name(_)) => {
            let detail =
                format!("resource {} is the range {prefix}; ask for an address inside it", resource.name);
            return Err(NoRoute { reason: Refusal::NoResource, detail });
        }
    };
    Ok(Route {
        resource: resource.id,
        site: resource.site,
        destination: SocketAddr::new(address, target.port),
    })
}

/// The resource that is meant. A name means an alias before a resource's name before a host name; an
/// address means the most specific resource, as at the connector: then the one with the port, then
/// the stricter, then the lower id.
pub fn find<'a>(slice: &'a ClientSlice, host: &Host, port: Option<u16>) -> Option<&'a ClientResource> {
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

fn fit(resource: &ClientResource, host: &Host) -> Option<u8> {
    match (host, &resource.address) {
        (Host::Name(name), address) => {
            let same = |text: &str| text.to_lowercase() == *name;
            if resource.alias.as_deref().is_some_and(same) {
                Some(3)
            } else if same(&resource.name) {
                Some(2)
            } else {
                matches!(address, Address::Host(host) if host.as_str() == name).then_some(1)
            }
        }
        (Host::Ip(asked), Address::Ip(address)) => (asked == address).then_some(129),
        (Host::Ip(asked), Address::Cidr(prefix)) => prefix.contains(*asked).then(|| prefix.length()),
        (Host::Ip(_), Address::Host(_)) => None,
    }
}

fn has_port(resource: &ClientResource, port: u16) -> bool {
    resource.ports.iter().any(|range| range.contains(port))
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
    fn what_is_not_in_the_slice_or_is_a_range_by_name_is_refused_with_what_to_do() {
        assert_eq!(routed("192.0.2.1:80"), Err(Refusal::NoResource));
        assert_eq!(routed("nowhere:80"), Err(Refusal::NoResource));
        assert_eq!(routed("wiki:80"), Err(Refusal::PortNotAllowed));
        let error = route(&slice(), &"lan:80".parse().expect("a target")).expect_err("a range");
        assert!(error.detail.contains("10.0.0.0/8"), "{error}");
    }
}
