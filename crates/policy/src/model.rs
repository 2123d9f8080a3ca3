//! One organization's configuration, as the builder of slices reads it.

use crate::{
    address::{Address, Prefix},
    ports::PortRange,
};
use std::collections::{BTreeMap, BTreeSet};
use trust::{Owner, SealKey};
use wire::{ConnectorId, GroupId, OrganizationId, PolicyId, ResourceId, SiteId};

/// Who can be a member of a group.
pub type Member = Owner;

/// What isolation of the connector does to a resource.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Goes on until the grant's hard expiry.
    #[default]
    Standard,
    /// Closes.
    Strict,
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteModel {
    /// Its name.
    pub name: String,
    /// What its names may resolve to.
    pub prefixes: Vec<Prefix>,
    /// Its regions, in order of preference.
    pub regions: Vec<String>,
}

/// A connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorModel {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: SiteId,
    /// Its WireGuard public key.
    pub wireguard_key: SealKey,
    /// The key introductions are sealed to.
    pub seal_key: SealKey,
}

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceModel {
    /// Its name.
    pub name: String,
    /// Its alias.
    pub alias: Option<String>,
    /// Its site.
    pub site: SiteId,
    /// Where it is.
    pub address: Address,
    /// Which protocols and ports.
    pub ports: Vec<PortRange>,
    /// What isolation does.
    pub mode: Mode,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupModel {
    /// Its name.
    pub name: String,
}

/// A membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MembershipModel {
    /// Who.
    pub member: Member,
    /// In which group.
    pub group: GroupId,
    /// In which generation.
    pub generation: u64,
}

/// A policy: these groups reach these resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyModel {
    /// Its name.
    pub name: String,
    /// Groups.
    pub groups: BTreeSet<GroupId>,
    /// Resources.
    pub resources: BTreeSet<ResourceId>,
}

/// Everything a slice is cut from. Ordered throughout: the same model makes the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrganizationModel {
    /// The organization.
    pub id: OrganizationId,
    /// Its name.
    pub name: String,
    /// Sites.
    pub sites: BTreeMap<SiteId, SiteModel>,
    /// Connectors.
    pub connectors: BTreeMap<ConnectorId, ConnectorModel>,
    /// Resources.
    pub resources: BTreeMap<ResourceId, ResourceModel>,
    /// Groups.
    pub groups: BTreeMap<GroupId, GroupModel>,
    /// Memberships.
    pub memberships: BTreeSet<MembershipModel>,
    /// Policies.
    pub policies: BTreeMap<PolicyId, PolicyModel>,
}
