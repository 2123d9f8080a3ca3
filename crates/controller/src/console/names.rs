//! What ids are called, looked up once for a page.

use std::collections::{BTreeMap, BTreeSet};
use store::{Member, OrganizationData};
use wire::{ConnectorId, GroupId, PolicyId, PopId, ResourceId, SiteId};

/// An organization's objects by their ids, and who is in which group.
pub(super) struct Names<'a> {
    pub(super) sites: BTreeMap<SiteId, &'a str>,
    pub(super) groups: BTreeMap<GroupId, &'a str>,
    pub(super) members: BTreeMap<Member, &'a str>,
    pub(super) connectors: BTreeMap<ConnectorId, &'a store::Connector>,
    pub(super) resources: BTreeMap<ResourceId, &'a store::Resource>,
    pub(super) policies: BTreeMap<PolicyId, &'a store::Policy>,
    pub(super) in_group: BTreeMap<GroupId, BTreeSet<Member>>,
}

impl<'a> Names<'a> {
    pub(super) fn of(data: &'a OrganizationData) -> Self {
        let users = data.users.iter().map(|row| (Member::User(row.id), row.name.as_str()));
        let accounts = data.service_accounts.iter();
        let accounts = accounts.map(|row| (Member::ServiceAccount(row.id), row.name.as_str()));
        let mut in_group: BTreeMap<GroupId, BTreeSet<Member>> = BTreeMap::new();
        for membership in &data.memberships {
            in_group.entry(membership.group).or_default().insert(membership.member);
        }
        Self {
            sites: data.sites.iter().map(|row| (row.id, row.name.as_str())).collect(),
            groups: data.groups.iter().map(|row| (row.id, row.name.as_str())).collect(),
            members: users.chain(accounts).collect(),
            connectors: data.connectors.iter().map(|row| (row.id, row)).collect(),
            resources: data.resources.iter().map(|row| (row.id, row)).collect(),
            policies: data.policies.iter().map(|row| (row.id, row)).collect(),
            in_group,
        }
    }

    pub(super) fn member(&self, member: Member) -> &'a str {
        self.members.get(&member).copied().unwrap_or("removed")
    }

    pub(super) fn site(&self, site: SiteId) -> &'a str {
        self.sites.get(&site).copied().unwrap_or("removed")
    }

    pub(super) fn group(&self, group: GroupId) -> &'a str {
        self.groups.get(&group).copied().unwrap_or("removed")
    }

    /// Everybody in any of these groups.
    pub(super) fn people<'b>(&self, groups: impl IntoIterator<Item = &'b GroupId>) -> BTreeSet<Member> {
        groups.into_iter().filter_map(|group| self.in_group.get(group)).flatten().copied().collect()
    }
}

/// A member's page.
pub(super) fn member_page(member: Member) -> String {
    match member {
        Member::User(id) => format!("/people/{id}"),
        Member::ServiceAccount(id) => format!("/service-accounts/{id}"),
    }
}

/// What a PoP is called.
pub(super) fn pop_name(dataset: &store::Dataset, id: &PopId) -> String {
    dataset.pops.iter().find(|pop| pop.id == *id).map_or_else(|| id.to_string(), |pop| pop.name.clone())
}
