//! Who gains and who loses access by a change of a policy, before it is saved: the connectors' decision over both states.

use super::{Scene, place_of};
use crate::parts::Core;
use policy::{
    Destination, GrantFacts, OrganizationModel, PolicyModel, Verdict, decide, relevant_groups, site_slice,
};
use std::collections::{BTreeMap, BTreeSet};
use store::Member;
use trust::{GroupRef, Subject};
use wire::{GroupId, PolicyId, ResourceId, SiteId};

/// Decisions of one preview; beyond it the answer is that it stopped.
const MOST_DECISIONS: usize = 200_000;

/// One member whose access changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) member: Member,
    pub(crate) resources: Vec<ResourceId>,
    /// Devices that have a session at a PoP now.
    pub(crate) attached: usize,
}

/// What a change does.
#[derive(Debug, Default)]
pub(crate) struct Preview {
    pub(crate) gain: Vec<Changed>,
    pub(crate) lose: Vec<Changed>,
    pub(crate) unchanged: usize,
    /// There was more to decide than is done for one answer.
    pub(crate) stopped: bool,
}

/// Replaces, adds or (with none) removes a policy in a copy of the model.
fn changed_model(model: &OrganizationModel, id: PolicyId, policy: Option<PolicyModel>) -> OrganizationModel {
    let mut after = model.clone();
    match policy {
        Some(policy) => after.policies.insert(id, policy),
        None => after.policies.remove(&id),
    };
    after
}

/// What each member reaches of some resources: members with the same groups are decided once.
fn reached(
    core: &Core,
    model: &OrganizationModel,
    members: &BTreeSet<Member>,
    resources: &BTreeSet<ResourceId>,
    left: &mut usize,
) -> Option<BTreeMap<Member, BTreeSet<ResourceId>>> {
    let struck = core.strikes.set();
    let sites: BTreeSet<SiteId> =
        resources.iter().filter_map(|id| model.resources.get(id)).map(|resource| resource.site).collect();
    let slices: BTreeMap<SiteId, _> =
        sites.iter().filter_map(|site| Some((*site, site_slice(model, *site, &[])?))).collect();
    let mut by_groups: BTreeMap<Vec<GroupRef>, BTreeSet<ResourceId>> = BTreeMap::new();
    let mut all = BTreeMap::new();
    for member in members {
        let owner = crate::snapshot::owner(*member);
        let mut groups = relevant_groups(model, owner);
        groups.retain(|group| {
            !struck.is_struck(trust::RevokedSubject::membership(owner, group.id), group.generation)
        });
        let known: Vec<GroupRef> =
            groups.iter().map(|group| GroupRef { id: group.id, generation: 0 }).collect();
        if let Some(found) = by_groups.get(&known) {
            all.insert(*member, found.clone());
            continue;
        }
        let facts = GrantFacts::would_be(owner, groups, &struck);
        let mut found = BTreeSet::new();
        for id in resources {
            *left = left.checked_sub(1)?;
            let Some(resource) = model.resources.get(id) else { continue };
            let (Some(slice), Some((place, protocol, port))) =
                (slices.get(&resource.site), place_of(resource))
            else {
                continue;
            };
            let to = Destination { place: place.as_place(), protocol, port };
            if decide(slice, &facts, to).verdict == Verdict::Allow {
                found.insert(*id);
            }
        }
        by_groups.insert(known, found.clone());
        all.insert(*member, found);
    }
    Some(all)
}

impl Scene<'_> {
    /// Compares both states for everybody whom the policy names before or after.
    pub(crate) fn preview(&self, id: PolicyId, after: Option<PolicyModel>) -> Preview {
        let model = self.model;
        let before = model.policies.get(&id);
        let none = BTreeSet::new();
        let groups: BTreeSet<GroupId> = before
            .map_or(&none, |policy| &policy.groups)
            .union(after.as_ref().map_or(&none, |policy| &policy.groups))
            .copied()
            .collect();
        let nothing = BTreeSet::new();
        let resources: BTreeSet<ResourceId> = before
            .map_or(&nothing, |policy| &policy.resources)
            .union(after.as_ref().map_or(&nothing, |policy| &policy.resources))
            .copied()
            .collect();
        let members = self.people(&groups);
        let mut left = MOST_DECISIONS;
        let changed = changed_model(model, id, after);
        let both = reached(self.core, model, &members, &resources, &mut left)
            .zip(reached(self.core, &changed, &members, &resources, &mut left));
        let Some((then, now)) = both else { return Preview { stopped: true, ..Preview::default() } };
        let presence = self.core.presence();
        let mut attached: BTreeMap<Member, usize> = BTreeMap::new();
        for device in self.data.devices.iter().filter(|device| members.contains(&device.owner)) {
            if presence.of(Subject::Device(device.id)).is_some_and(|seen| !seen.attached.is_empty()) {
                *attached.entry(device.owner).or_default() += 1;
            }
        }
        drop(presence);
        let mut result = Preview::default();
        for member in members {
            let (then, now) = (&then[&member], &now[&member]);
            let attached = attached.get(&member).copied().unwrap_or(0);
            let changed = |ids: Vec<ResourceId>| Changed { member, resources: ids, attached };
            let (gained, lost): (Vec<_>, Vec<_>) =
                (now.difference(then).copied().collect(), then.difference(now).copied().collect());
            if gained.is_empty() && lost.is_empty() {
                result.unchanged += 1;
            }
            if !gained.is_empty() {
                result.gain.push(changed(gained));
            }
            if !lost.is_empty() {
                result.lose.push(changed(lost));
            }
        }
        let by_name = |one: &Changed| self.member(one.member).to_lowercase();
        result.gain.sort_by_cached_key(by_name);
        result.lose.sort_by_cached_key(by_name);
        result
    }
}
