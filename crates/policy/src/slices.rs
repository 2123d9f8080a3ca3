//! The bodies of the three slices.

use crate::{
    address::{Address, Prefix},
    inner::inner_address,
    model::Mode,
    ports::PortRange,
};
use std::collections::BTreeSet;
use trust::{Audience, RootHash, SealKey, SliceBody};
use wire::{ConnectorId, GroupId, PolicyId, PopId, ResourceId, SiteId};

/// Most resources in one slice.
const MAX_RESOURCES: usize = 20_000;
/// Most PoPs in one installation.
const MAX_POPS: usize = 256;

/// A PoP that agents may use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PopEntry {
    /// Its id: what its certificate must name.
    pub id: PopId,
    /// `HOST:PORT`; a host name is resolved by the agent.
    pub address: String,
    /// Where it stands.
    pub region: String,
    /// What it shares its fate with.
    pub zone: String,
}

/// A policy that allows a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// The group.
    pub group: GroupId,
    /// Its name, for explanations.
    pub group_name: String,
    /// The policy.
    pub policy: PolicyId,
    /// Its name, for explanations.
    pub policy_name: String,
}

/// A resource as its connector sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceResource {
    /// Its id.
    pub id: ResourceId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// Which protocols and ports.
    pub ports: Vec<PortRange>,
    /// What isolation does.
    pub mode: Mode,
    /// Who may, ordered.
    pub allow: Vec<Allow>,
}

/// What a connector gets: the policy of its site.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorSlice {
    /// Its site.
    pub site: SiteId,
    /// The site's name.
    pub site_name: String,
    /// What names of the site may resolve to.
    pub prefixes: Vec<Prefix>,
    /// The site's resources, ordered by id.
    pub resources: Vec<SliceResource>,
    /// The installation's PoPs, ordered by id.
    pub pops: Vec<PopEntry>,
    /// The site's regions, in order of preference; empty means all.
    pub regions: Vec<String>,
}

/// A resource as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientResource {
    /// Its id.
    pub id: ResourceId,
    /// Its name.
    pub name: String,
    /// Its alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Where it is.
    pub address: Address,
    /// Which protocols and ports.
    pub ports: Vec<PortRange>,
    /// What isolation does.
    pub mode: Mode,
    /// Its site.
    pub site: SiteId,
    /// Through which policies and groups of this client, ordered.
    pub allow: Vec<Allow>,
}

/// A connector as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConnector {
    /// Its id.
    pub id: ConnectorId,
    /// Its name.
    pub name: String,
    /// Its WireGuard public key (X25519).
    pub wireguard_key: SealKey,
    /// The key to seal introductions to.
    pub seal_key: SealKey,
}

/// A site as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSite {
    /// Its id.
    pub id: SiteId,
    /// Its name.
    pub name: String,
    /// Its connectors, ordered by id.
    pub connectors: Vec<ClientConnector>,
    /// Its regions, in order of preference; empty means all.
    pub regions: Vec<String>,
}

/// What a client gets: what it may reach, and how.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientSlice {
    /// The organization's name.
    pub organization_name: String,
    /// Resources that a policy gives one of its groups, ordered by id.
    pub resources: Vec<ClientResource>,
    /// The sites of those resources, ordered by id.
    pub sites: Vec<ClientSite>,
    /// The installation's PoPs, ordered by id.
    pub pops: Vec<PopEntry>,
}

/// What a PoP gets.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PopSlice {
    /// The root that is pinned.
    pub root: RootHash,
    /// Sessions it takes at most.
    pub max_sessions: u32,
    /// Registrations it admits a second.
    pub admit_rate: u32,
    /// How many PoPs the installation has, this one included; 0 where it is not said. A PoP that is the only one has
    /// nobody to send its agents to.
    #[serde(default)]
    pub pops: u32,
    /// What each organization may have of it; where it is not said, all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<OrganizationShare>,
}

/// What one organization may have of a PoP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrganizationShare {
    /// Devices and connectors registered at once.
    pub max_sessions: u32,
    /// Introductions a second.
    pub introductions: u32,
}

fn ordered<T, K: Ord>(items: &[T], key: impl Fn(&T) -> K) -> bool {
    items.is_sorted_by(|a, b| key(a) < key(b))
}

fn check_pops(pops: &[PopEntry]) -> Result<(), &'static str> {
    if pops.len() > MAX_POPS || !ordered(pops, |pop| pop.id) {
        return Err("PoPs are ordered by id, named once, and at most 256");
    }
    Ok(())
}

impl SliceBody for ConnectorSlice {
    const KIND: &'static str = "slice-connector";
    fn check(&self) -> Result<(), &'static str> {
        if self.resources.len() > MAX_RESOURCES || !ordered(&self.resources, |resource| resource.id) {
            return Err("resources are ordered by id, named once, and at most 20,000");
        }
        if self.resources.iter().any(|resource| !resource.allow.is_sorted()) {
            return Err("who is allowed is ordered");
        }
        let inner: BTreeSet<_> = self.resources.iter().map(|resource| inner_address(resource.id)).collect();
        if inner.len() != self.resources.len() {
            return Err("two resources share an address inside the tunnel; recreate one of them");
        }
        check_pops(&self.pops)
    }
    fn is_for(audience: Audience) -> bool {
        matches!(audience, Audience::Connector(_))
    }
}

impl SliceBody for ClientSlice {
    const KIND: &'static str = "slice-client";
    fn check(&self) -> Result<(), &'static str> {
        if self.resources.len() > MAX_RESOURCES || !ordered(&self.resources, |resource| resource.id) {
            return Err("resources are ordered by id, named once, and at most 20,000");
        }
        if !ordered(&self.sites, |site| site.id) {
            return Err("sites are ordered by id and named once");
        }
        check_pops(&self.pops)
    }
    fn is_for(audience: Audience) -> bool {
        matches!(audience, Audience::Device(_))
    }
}

impl SliceBody for PopSlice {
    const KIND: &'static str = "slice-pop";
    fn check(&self) -> Result<(), &'static str> {
        let share =
            self.organization.is_some_and(|share| share.max_sessions == 0 || share.introductions == 0);
        if self.max_sessions == 0 || self.admit_rate == 0 || share {
            return Err("a PoP's limits are above zero");
        }
        Ok(())
    }
    fn is_for(audience: Audience) -> bool {
        matches!(audience, Audience::Pop(_))
    }
}
