//! What a snapshot must be, whoever made it: the one judge of what the database gave and of what the disk
//! kept.

use super::{SnapshotError, model::model};
use policy::OrganizationModel;
use std::{collections::BTreeMap, fmt::Display};
use store::{Dataset, EnrolmentKey, EnrolmentTarget, Member, OrganizationData, Pop, Version};
use wire::{InstallationId, OrganizationId};

/// Longest name of anything. What the API takes is shorter.
const MAX_TEXT: usize = 512;
/// Most rows of all kinds together: ten times the largest installation that was measured.
const MAX_ROWS: usize = 1_000_000;
/// Longest life of a grant (architecture: 72 h).
const MAX_GRANT_LIFE_MS: u64 = 72 * 3600 * 1000;

type Judged = Result<(), SnapshotError>;

fn wrong(object: &'static str, id: impl Display, problem: impl Display) -> SnapshotError {
    SnapshotError::Value { object, id: id.to_string(), problem: problem.to_string() }
}

/// Judges a dataset and gives the models that it makes.
///
/// # Errors
/// The first rule that is broken.
pub(super) fn validate(
    dataset: &Dataset,
    installation: InstallationId,
) -> Result<BTreeMap<OrganizationId, OrganizationModel>, SnapshotError> {
    if planted::is("snapshot-not-judged") {
        let all = dataset.organizations.iter();
        return all.map(|data| Ok((data.organization.id, model(data)?))).collect();
    }
    let own = &dataset.installation;
    if own.id != installation {
        return Err(SnapshotError::Foreign { found: own.id, expected: installation });
    }
    version("installation", own.id, own.version)?;
    if dataset.organizations.is_empty() {
        return Err(wrong("installation", own.id, "it has no organization"));
    }
    let rows: usize = dataset.organizations.iter().map(rows).sum::<usize>() + dataset.pops.len();
    if rows > MAX_ROWS {
        return Err(wrong("installation", own.id, format_args!("{rows} rows; {MAX_ROWS} are the most")));
    }
    ascending("organization", dataset.organizations.iter().map(|data| data.organization.id))?;
    unique("organization", dataset.organizations.iter().map(|data| data.organization.name.as_str()))?;
    ascending("PoP", dataset.pops.iter().map(|pop| pop.id))?;
    unique("PoP", dataset.pops.iter().map(|pop| pop.name.as_str()))?;
    dataset.pops.iter().try_for_each(pop)?;
    ascending("administrator", dataset.administrators.iter().map(|administrator| administrator.id))?;
    ascending("enrolment key", dataset.enrolment_keys.iter().map(|key| key.id))?;
    for key in &dataset.enrolment_keys {
        enrolment_key(key)?;
        if key.organization.is_some() || !matches!(key.target, EnrolmentTarget::Pop { .. }) {
            return Err(wrong("enrolment key", key.id, "it is not one of the installation"));
        }
    }
    let organizations = &dataset.organizations;
    let keys = organizations
        .iter()
        .flat_map(|data| {
            let connectors = data.connectors.iter().map(|row| row.identity_key);
            connectors.chain(data.devices.iter().map(|row| row.identity_key))
        })
        .chain(dataset.pops.iter().map(|pop| pop.identity_key));
    let mut keys: Vec<[u8; 32]> = keys.collect();
    keys.sort_unstable();
    if keys.first() == Some(&[0; 32]) || keys.windows(2).any(|two| two[0] == two[1]) {
        return Err(wrong("identity key", own.id, "it is nobody's, or two agents have the same"));
    }
    std::thread::scope(|beside| {
        // One core makes the models while another one judges the rows.
        let models = beside.spawn(|| {
            let all = organizations.iter().map(|data| Ok((data.organization.id, model(data)?)));
            all.collect::<Result<_, SnapshotError>>()
        });
        let judged = organizations.iter().try_for_each(|data| organization(data, own.version));
        // They are made of rows that may be wrong: what is wrong is what counts.
        let models = models.join();
        judged?;
        models.unwrap_or_else(|_| Err(SnapshotError::Panicked("while its models were made".into())))
    })
}

fn rows(data: &OrganizationData) -> usize {
    let links: usize = data.policies.iter().map(|row| row.groups.len() + row.resources.len()).sum();
    data.sites.len()
        + data.connectors.len()
        + data.resources.len()
        + data.groups.len()
        + data.users.len()
        + data.service_accounts.len()
        + data.memberships.len()
        + data.devices.len()
        + data.policies.len()
        + data.tokens.len()
        + data.enrolment_keys.len()
        + links
}

fn version(object: &'static str, id: impl Display, version: Version) -> Judged {
    if version.incarnation == 0 || version.version == 0 {
        return Err(wrong(object, id, "versions count from 1"));
    }
    Ok(())
}

/// In the builder's order, and each once.
fn ascending<T: Ord + Display + Copy>(object: &'static str, ids: impl Iterator<Item = T>) -> Judged {
    let mut before: Option<T> = None;
    for id in ids {
        if before.is_some_and(|before| before >= id) {
            return Err(wrong(object, id, "it is there twice, or out of order"));
        }
        before = Some(id);
    }
    Ok(())
}

fn unique<'a>(object: &'static str, names: impl Iterator<Item = &'a str>) -> Judged {
    let mut names: Vec<&str> = names.collect();
    names.iter().try_for_each(|name| text(object, name))?;
    names.sort_unstable();
    match names.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(wrong(object, two[0], "two have this name")),
        None => Ok(()),
    }
}

fn text(object: &'static str, text: &str) -> Judged {
    let shown = || text.chars().filter(|c| !c.is_control()).take(40).collect::<String>();
    if text.is_empty() || text.len() > MAX_TEXT {
        return Err(wrong(
            object,
            shown(),
            format_args!("a name has 1 to {MAX_TEXT} bytes, not {}", text.len()),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(wrong(object, shown(), "a name has no control characters"));
    }
    Ok(())
}

fn generation(object: &'static str, id: impl Display, generation: u64) -> Judged {
    if generation == 0 { Err(wrong(object, id, "generations count from 1")) } else { Ok(()) }
}

fn pop(pop: &Pop) -> Judged {
    generation("PoP", pop.id, pop.generation)?;
    text("region", &pop.region)?;
    text("zone", &pop.zone)?;
    crate::api::host_port("address", &pop.address)
        .map(|_| ())
        .map_err(|problem| wrong("PoP", pop.id, &problem.detail))
}

fn enrolment_key(key: &EnrolmentKey) -> Judged {
    text("enrolment key", &key.name)?;
    if key.cap == 0 || key.uses > key.cap {
        return Err(wrong("enrolment key", key.id, format_args!("used {} of {} times", key.uses, key.cap)));
    }
    Ok(())
}

fn organization(data: &OrganizationData, installation: Version) -> Judged {
    let row = &data.organization;
    version("organization", row.id, row.version)?;
    let refused = |problem: &str| Err(wrong("organization", row.id, problem));
    if row.version.incarnation > installation.incarnation {
        return refused("its incarnation is higher than the installation's");
    }
    if row.shrink_version > row.version.version {
        return refused("a later version than its own was allowed to shrink");
    }
    if row.grant_life_ms == 0 || row.grant_life_ms > MAX_GRANT_LIFE_MS {
        return refused("grants live at most 72 h");
    }
    if row.renew_after_ms == 0 || row.renew_after_ms > row.grant_life_ms {
        return refused("grants are renewed before they end");
    }
    ascending("site", data.sites.iter().map(|row| row.id))?;
    ascending("connector", data.connectors.iter().map(|row| row.id))?;
    ascending("resource", data.resources.iter().map(|row| row.id))?;
    ascending("group", data.groups.iter().map(|row| row.id))?;
    ascending("user", data.users.iter().map(|row| row.id))?;
    ascending("service account", data.service_accounts.iter().map(|row| row.id))?;
    ascending("device", data.devices.iter().map(|row| row.id))?;
    ascending("policy", data.policies.iter().map(|row| row.id))?;
    ascending("token", data.tokens.iter().map(|row| row.id))?;
    ascending("enrolment key", data.enrolment_keys.iter().map(|row| row.id))?;
    unique("site", data.sites.iter().map(|row| row.name.as_str()))?;
    unique("connector", data.connectors.iter().map(|row| row.name.as_str()))?;
    unique("resource", data.resources.iter().map(|row| row.name.as_str()))?;
    unique("alias", data.resources.iter().filter_map(|row| row.alias.as_deref()))?;
    unique("group", data.groups.iter().map(|row| row.name.as_str()))?;
    unique("user", data.users.iter().map(|row| row.email.as_str()))?;
    unique("service account", data.service_accounts.iter().map(|row| row.name.as_str()))?;
    unique("policy", data.policies.iter().map(|row| row.name.as_str()))?;
    unique("token", data.tokens.iter().map(|row| row.name.as_str()))?;
    data.users.iter().try_for_each(|row| {
        text("user", &row.name)?;
        generation("user", row.id, row.generation)
    })?;
    data.service_accounts.iter().try_for_each(|row| generation("service account", row.id, row.generation))?;
    references(data)
}

fn references(data: &OrganizationData) -> Judged {
    // All of them are in order, which was judged before.
    let is_site = |id| data.sites.binary_search_by_key(&id, |row| row.id).is_ok();
    let is_group = |id| data.groups.binary_search_by_key(&id, |row| row.id).is_ok();
    let is_resource = |id| data.resources.binary_search_by_key(&id, |row| row.id).is_ok();
    let is_member = |member| match member {
        Member::User(id) => data.users.binary_search_by_key(&id, |row| row.id).is_ok(),
        Member::ServiceAccount(id) => data.service_accounts.binary_search_by_key(&id, |row| row.id).is_ok(),
    };
    for row in &data.connectors {
        generation("connector", row.id, row.generation)?;
        if !is_site(row.site) {
            return Err(wrong("connector", row.id, "its site is not of this organization"));
        }
        if row.wireguard_key == [0; 32] || row.seal_key == [0; 32] {
            return Err(wrong("connector", row.id, "it has no key"));
        }
    }
    for row in &data.resources {
        if !is_site(row.site) {
            return Err(wrong("resource", row.id, "its site is not of this organization"));
        }
    }
    for row in &data.devices {
        generation("device", row.id, row.generation)?;
        text("device", &row.name)?;
        if !is_member(row.owner) {
            return Err(wrong("device", row.id, "its owner is not of this organization"));
        }
    }
    let mut before = None;
    for row in &data.memberships {
        let id = format!("{}/{}", row.member, row.group);
        generation("membership", &id, row.generation)?;
        if !is_group(row.group) || !is_member(row.member) {
            return Err(wrong("membership", id, "group or member is not of this organization"));
        }
        // As the database orders them: by the texts of the ids.
        let place = (row.group.to_string(), row.member.to_string());
        if before.as_ref().is_some_and(|before| *before >= place) {
            return Err(wrong("membership", id, "it is there twice, or out of order"));
        }
        before = Some(place);
    }
    for row in &data.policies {
        if !row.groups.iter().all(|id| is_group(*id)) || !row.resources.iter().all(|id| is_resource(*id)) {
            return Err(wrong(
                "policy",
                row.id,
                "it names a group or resource that is not of this organization",
            ));
        }
        ascending("group of a policy", row.groups.iter().copied())?;
        ascending("resource of a policy", row.resources.iter().copied())?;
    }
    for row in &data.tokens {
        if row.scopes.is_empty() {
            return Err(wrong("token", row.id, "it has no scope"));
        }
    }
    for row in &data.enrolment_keys {
        enrolment_key(row)?;
        let own = row.organization == Some(data.organization.id);
        let target = match row.target {
            EnrolmentTarget::Pop { .. } => false,
            EnrolmentTarget::Connector { site } => is_site(site),
            EnrolmentTarget::Device { owner } => is_member(owner),
        };
        if !own || !target {
            return Err(wrong("enrolment key", row.id, "what it enrols is not of this organization"));
        }
    }
    Ok(())
}
