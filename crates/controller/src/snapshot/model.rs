//! From rows to the model that the policy crate decides by.

use super::{SnapshotError, owner};
use policy::{
    ConnectorModel, GroupModel, MembershipModel, Mode, OrganizationModel, PolicyModel, PortRange, Protocol,
    ResourceModel, SiteModel,
};
use std::collections::BTreeMap;
use store::{OrganizationData, PortProtocol, ResourceMode};
use trust::SealKey;

pub(super) fn model(data: &OrganizationData) -> Result<OrganizationModel, SnapshotError> {
    fn wrong(object: &'static str, id: impl ToString, problem: impl ToString) -> SnapshotError {
        SnapshotError::Value { object, id: id.to_string(), problem: problem.to_string() }
    }
    let mut sites = BTreeMap::new();
    for site in &data.sites {
        let prefixes = site.prefixes.iter().map(|text| text.parse()).collect::<Result<_, _>>();
        let prefixes = prefixes.map_err(|error: policy::AddressError| wrong("site", site.id, error))?;
        sites.insert(site.id, SiteModel { name: site.name.clone(), prefixes, regions: site.regions.clone() });
    }
    let mut resources = BTreeMap::new();
    for resource in &data.resources {
        let address = resource.address.parse().map_err(|error| wrong("resource", resource.id, error))?;
        let ports = resource.ports.iter().map(|ports| port_range(*ports));
        let ports = ports.collect::<Result<_, _>>().map_err(|error| wrong("resource", resource.id, error))?;
        let mode = match resource.mode {
            ResourceMode::Standard => Mode::Standard,
            ResourceMode::Strict => Mode::Strict,
        };
        let (name, alias, site) = (resource.name.clone(), resource.alias.clone(), resource.site);
        resources.insert(resource.id, ResourceModel { name, alias, site, address, ports, mode });
    }
    let connectors = data.connectors.iter().map(|connector| {
        let wireguard_key = SealKey::from_bytes(connector.wireguard_key);
        let seal_key = SealKey::from_bytes(connector.seal_key);
        let (name, site) = (connector.name.clone(), connector.site);
        (connector.id, ConnectorModel { name, site, wireguard_key, seal_key })
    });
    let memberships = data.memberships.iter().map(|membership| MembershipModel {
        member: owner(membership.member),
        group: membership.group,
        generation: membership.generation,
    });
    let policies = data.policies.iter().map(|policy| {
        let groups = policy.groups.iter().copied().collect();
        let resources = policy.resources.iter().copied().collect();
        (policy.id, PolicyModel { name: policy.name.clone(), groups, resources })
    });
    Ok(OrganizationModel {
        id: data.organization.id,
        name: data.organization.name.clone(),
        sites,
        connectors: connectors.collect(),
        resources,
        groups: data.groups.iter().map(|group| (group.id, GroupModel { name: group.name.clone() })).collect(),
        memberships: memberships.collect(),
        policies: policies.collect(),
    })
}

/// # Errors
/// Ports that the protocol does not have.
pub(crate) fn port_range(ports: store::Ports) -> Result<PortRange, policy::AddressError> {
    let protocol = match ports.protocol {
        PortProtocol::Tcp => Protocol::Tcp,
        PortProtocol::Udp => Protocol::Udp,
        PortProtocol::Icmp => Protocol::Icmp,
    };
    PortRange::of(protocol, ports.first, ports.last)
}
