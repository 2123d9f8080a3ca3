//! Slices from a model: a function of its arguments, so that two builders make the same bytes.

use crate::{
    model::{Member, OrganizationModel, PolicyModel},
    slices::{
        Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, ConnectorSlice, PopEntry,
        SliceResource,
    },
};
use std::collections::{BTreeMap, BTreeSet};
use trust::GroupRef;
use wire::{ConnectorId, GroupId, PolicyId, ResourceId, SiteId};

/// Which policies name a resource, looked up once for a whole slice.
struct Named<'a>(BTreeMap<ResourceId, Vec<(PolicyId, &'a PolicyModel)>>);

impl<'a> Named<'a> {
    fn of(model: &'a OrganizationModel) -> Self {
        let mut named: BTreeMap<ResourceId, Vec<(PolicyId, &PolicyModel)>> = BTreeMap::new();
        for (id, policy) in &model.policies {
            for resource in &policy.resources {
                named.entry(*resource).or_default().push((*id, policy));
            }
        }
        Self(named)
    }

    /// Who may reach a resource through any policy, ordered; `only` keeps some groups.
    fn allowed(
        &self,
        model: &OrganizationModel,
        resource: ResourceId,
        only: Option<&BTreeSet<GroupId>>,
    ) -> Vec<Allow> {
        let mut allow: Vec<Allow> = self
            .0
            .get(&resource)
            .into_iter()
            .flatten()
            .flat_map(|(id, policy)| policy.groups.iter().map(move |group| (*id, policy, *group)))
            .filter(|(_, _, group)| only.is_none_or(|only| only.contains(group)))
            .filter_map(|(id, policy, group)| {
                Some(Allow {
                    group,
                    group_name: model.groups.get(&group)?.name.clone(),
                    policy: id,
                    policy_name: policy.name.clone(),
                })
            })
            .collect();
        allow.sort();
        allow
    }
}

/// The slice of one connector; `None` when the model does not have it.
#[must_use]
pub fn connector_slice(
    model: &OrganizationModel,
    connector: ConnectorId,
    pops: &[PopEntry],
) -> Option<ConnectorSlice> {
    site_slice(model, model.connectors.get(&connector)?.site, pops)
}

/// What every connector of a site gets, whether it has one yet or not; `None` when the model does not have the site.
#[must_use]
pub fn site_slice(model: &OrganizationModel, site_id: SiteId, pops: &[PopEntry]) -> Option<ConnectorSlice> {
    let site = model.sites.get(&site_id)?;
    let named = Named::of(model);
    let resources = model
        .resources
        .iter()
        .filter(|(_, resource)| resource.site == site_id)
        .map(|(id, resource)| SliceResource {
            id: *id,
            name: resource.name.clone(),
            address: resource.address.clone(),
            ports: resource.ports.clone(),
            mode: resource.mode,
            allow: named.allowed(model, *id, None),
        })
        .collect();
    Some(ConnectorSlice {
        site: site_id,
        site_name: site.name.clone(),
        prefixes: site.prefixes.clone(),
        resources,
        pops: ordered_pops(pops),
        regions: site.regions.clone(),
    })
}

/// The slice of a device whose owner is `member`.
#[must_use]
pub fn client_slice(model: &OrganizationModel, member: Member, pops: &[PopEntry]) -> ClientSlice {
    let groups: BTreeSet<GroupId> =
        model.memberships.iter().filter(|m| m.member == member).map(|m| m.group).collect();
    let named = Named::of(model);
    let resources: Vec<ClientResource> = model
        .resources
        .iter()
        .filter_map(|(id, resource)| {
            let allow = named.allowed(model, *id, Some(&groups));
            (!allow.is_empty()).then(|| ClientResource {
                id: *id,
                name: resource.name.clone(),
                alias: resource.alias.clone(),
                address: resource.address.clone(),
                ports: resource.ports.clone(),
                mode: resource.mode,
                site: resource.site,
                allow,
            })
        })
        .collect();
    let needed: BTreeSet<_> = resources.iter().map(|resource| resource.site).collect();
    let sites = model
        .sites
        .iter()
        .filter(|(id, _)| needed.contains(id))
        .map(|(id, site)| ClientSite {
            id: *id,
            name: site.name.clone(),
            connectors: model
                .connectors
                .iter()
                .filter(|(_, connector)| connector.site == *id)
                .map(|(id, connector)| ClientConnector {
                    id: *id,
                    name: connector.name.clone(),
                    wireguard_key: connector.wireguard_key,
                    seal_key: connector.seal_key,
                })
                .collect(),
            regions: site.regions.clone(),
        })
        .collect();
    ClientSlice { organization_name: model.name.clone(), resources, sites, pops: ordered_pops(pops) }
}

/// The groups of a member that some policy names, ordered: what goes into a grant.
#[must_use]
pub fn relevant_groups(model: &OrganizationModel, member: Member) -> Vec<GroupRef> {
    let named: BTreeSet<GroupId> =
        model.policies.values().flat_map(|policy| policy.groups.iter().copied()).collect();
    model
        .memberships
        .iter()
        .filter(|membership| membership.member == member && named.contains(&membership.group))
        .map(|membership| GroupRef { id: membership.group, generation: membership.generation })
        .collect()
}

fn ordered_pops(pops: &[PopEntry]) -> Vec<PopEntry> {
    let mut pops = pops.to_vec();
    pops.sort();
    pops.dedup_by_key(|pop| pop.id);
    pops
}
