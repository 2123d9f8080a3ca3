//! The names that this device's slice makes private.

use dns::Names;
use policy::{Address, ClientSlice, HostName};

/// The names that are answered on this machine: aliases and host names of resources. What a resource is called for
/// people is no name of a machine: a resource called `example.com` would take that name from its owner.
#[must_use]
pub fn names_of(slice: &ClientSlice) -> Names {
    let aliases = slice
        .resources
        .iter()
        .filter(|resource| matches!(resource.address, Address::Ip(_) | Address::Host(_)))
        .filter_map(|resource| resource.alias.as_deref()?.parse::<HostName>().ok());
    let hosts = slice.resources.iter().filter_map(|resource| match &resource.address {
        Address::Host(name) => Some(name.clone()),
        _ => None,
    });
    let below = slice.resources.iter().filter_map(|resource| match &resource.address {
        Address::Wildcard(names) => Some(names.suffix().clone()),
        _ => None,
    });
    Names::new(aliases.chain(hosts), below)
}
