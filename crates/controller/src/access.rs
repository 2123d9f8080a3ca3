//! Who reaches what, and why: computed from memory by the connectors' own decision. The API and the console show the same.

mod explanation;
mod preview;

pub(crate) use explanation::{Asked, Asker, Check, NotAsked};
pub(crate) use preview::{Changed, Preview};

use crate::{parts::Core, snapshot::Snapshot};
use policy::{Address, HostName, OrganizationModel, Place, Protocol, ResourceModel};
use std::{collections::BTreeSet, net::IpAddr};
use store::{Member, OrganizationData};
use trust::{RevokedSubject, Subject};
use wire::{GroupId, OrganizationId, SiteId};

/// One organization as it is in memory now.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) core: &'a Core,
    pub(crate) data: &'a OrganizationData,
    pub(crate) model: &'a OrganizationModel,
}

impl<'a> Scene<'a> {
    /// None when the snapshot lacks the organization.
    pub(crate) fn of(core: &'a Core, snapshot: &'a Snapshot, organization: OrganizationId) -> Option<Self> {
        let data = snapshot.organization(organization)?;
        Some(Self { core, data, model: snapshot.models.get(&organization)? })
    }

    /// What a member is called.
    pub(crate) fn member(&self, member: Member) -> &'a str {
        let name = match member {
            Member::User(id) => {
                let rows = &self.data.users;
                rows.binary_search_by_key(&id, |row| row.id).ok().map(|place| rows[place].name.as_str())
            }
            Member::ServiceAccount(id) => {
                let rows = &self.data.service_accounts;
                rows.binary_search_by_key(&id, |row| row.id).ok().map(|place| rows[place].name.as_str())
            }
        };
        name.unwrap_or("removed")
    }

    /// Everybody in any of these groups.
    fn people(&self, groups: &BTreeSet<GroupId>) -> BTreeSet<Member> {
        let rows = self.data.memberships.iter();
        rows.filter(|row| groups.contains(&row.group)).map(|row| row.member).collect()
    }

    /// Sites with a connector that has a session at a PoP and is not revoked.
    pub(crate) fn live_sites(&self) -> BTreeSet<SiteId> {
        let (presence, struck) = (self.core.presence(), self.core.strikes.set());
        let rows = self.data.connectors.iter().filter(|row| {
            !struck.is_struck(RevokedSubject::Connector(row.id), row.generation)
                && presence.of(Subject::Connector(row.id)).is_some_and(|seen| !seen.attached.is_empty())
        });
        rows.map(|row| row.site).collect()
    }
}

/// Where a question leads, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OwnPlace {
    Address(IpAddr),
    Name(HostName),
}

impl OwnPlace {
    pub(crate) const fn as_place(&self) -> Place<'_> {
        match self {
            Self::Address(address) => Place::Address(*address),
            Self::Name(name) => Place::Name(name),
        }
    }
}

/// One destination of a resource: its address, the first of a network, a name below a wildcard; at its first port.
pub(crate) fn place_of(resource: &ResourceModel) -> Option<(OwnPlace, Protocol, u16)> {
    let place = match &resource.address {
        Address::Ip(ip) => OwnPlace::Address(*ip),
        Address::Host(name) => OwnPlace::Name(name.clone()),
        Address::Cidr(prefix) => OwnPlace::Address(prefix.to_string().split('/').next()?.parse().ok()?),
        Address::Wildcard(names) => OwnPlace::Name(format!("any.{}", names.suffix().as_str()).parse().ok()?),
    };
    let ports = resource.ports.first()?;
    Some((place, ports.protocol(), ports.first()))
}
