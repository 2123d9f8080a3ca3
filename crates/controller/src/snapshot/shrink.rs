//! A configuration that suddenly lacks much of what it had is a mistake until somebody says otherwise.

use super::SnapshotError;
use std::collections::BTreeSet;
use store::{Dataset, OrganizationData, Version};

/// So many objects of a kind may go in one change without a word.
const FREE: usize = 10;
/// And above that, so large a part of them: a fifth.
const PART: usize = 5;

/// Whether so much at once needs an explicit word.
const fn is_large(before: usize, removed: usize) -> bool {
    removed > FREE && removed * PART > before
}

/// How many there were, and how many of them are gone. Mostly nothing is: what is the same at both ends is not looked up.
fn gone<T: Ord>(
    old: impl DoubleEndedIterator<Item = T> + ExactSizeIterator,
    new: impl DoubleEndedIterator<Item = T> + ExactSizeIterator,
) -> (usize, usize) {
    let before = old.len();
    let (mut old, mut new) = (old.peekable(), new.peekable());
    while let (Some(one), Some(other)) = (old.peek(), new.peek())
        && one == other
    {
        old.next();
        new.next();
    }
    let (mut old, mut new): (Vec<T>, Vec<T>) = (old.collect(), new.collect());
    while !old.is_empty() && old.last() == new.last() {
        old.pop();
        new.pop();
    }
    let new: BTreeSet<T> = new.into_iter().collect();
    (before, old.iter().filter(|one| !new.contains(*one)).count())
}

/// Each change in between may have taken a little.
fn allowed(before: usize, removed: usize, old: Version, new: Version) -> bool {
    let changes = usize::try_from(new.version.saturating_sub(old.version)).unwrap_or(usize::MAX);
    !is_large(before, removed) || removed <= changes.saturating_mul(FREE)
}

/// Refuses a dataset that lacks much of what is held, unless a change in between was allowed to.
pub(super) fn guard(new: &Dataset, held: &Dataset) -> Result<(), SnapshotError> {
    let (was, is) = (held.installation.version, new.installation.version);
    if is.incarnation > was.incarnation || planted::is("shrink-unguarded") {
        // Somebody accepted a restored database.
        return Ok(());
    }
    let refuse = |kind, (before, removed): (usize, usize)| SnapshotError::Shrunk { kind, before, removed };
    let pops = gone(held.pops.iter().map(|pop| pop.id), new.pops.iter().map(|pop| pop.id));
    if !allowed(pops.0, pops.1, was, is) {
        return Err(refuse("PoPs", pops));
    }
    for old in &held.organizations {
        let row = &old.organization;
        let Some(data) = new.organizations.iter().find(|data| data.organization.id == row.id) else {
            return Err(refuse("organizations", (held.organizations.len(), 1)));
        };
        if data.organization.shrink_version > row.version.version {
            continue;
        }
        for (kind, counts) in kinds(old, data) {
            if !allowed(counts.0, counts.1, row.version, data.organization.version) {
                return Err(refuse(kind, counts));
            }
        }
    }
    Ok(())
}

/// The kind of which one change would take much at once: how many there are, and how many would go.
pub(crate) fn large_shrink(
    old: &OrganizationData,
    new: &OrganizationData,
) -> Option<(&'static str, usize, usize)> {
    let all = kinds(old, new).into_iter();
    all.map(|(kind, (before, removed))| (kind, before, removed))
        .find(|(_, before, removed)| is_large(*before, *removed))
}

fn kinds(old: &OrganizationData, new: &OrganizationData) -> Vec<(&'static str, (usize, usize))> {
    macro_rules! by {
        ($rows:ident, $row:ident => $key:expr) => {
            gone(old.$rows.iter().map(|$row| $key), new.$rows.iter().map(|$row| $key))
        };
    }
    let links = |data: &OrganizationData| -> BTreeSet<(String, String)> {
        let all = data.policies.iter().flat_map(|row| {
            let ids = row.groups.iter().map(ToString::to_string);
            let ids = ids.chain(row.resources.iter().map(ToString::to_string));
            ids.map(|id| (row.id.to_string(), id)).collect::<Vec<_>>()
        });
        all.collect()
    };
    vec![
        ("sites", by!(sites, row => row.id)),
        ("connectors", by!(connectors, row => row.id)),
        ("resources", by!(resources, row => row.id)),
        ("groups", by!(groups, row => row.id)),
        ("users", by!(users, row => row.id)),
        ("service accounts", by!(service_accounts, row => row.id)),
        ("memberships", by!(memberships, row => (row.group, row.member))),
        ("devices", by!(devices, row => row.id)),
        ("policies", by!(policies, row => row.id)),
        (
            "groups and resources of policies",
            if old.policies == new.policies {
                (old.policies.iter().map(|row| row.groups.len() + row.resources.len()).sum(), 0)
            } else {
                gone(links(old).into_iter(), links(new).into_iter())
            },
        ),
    ]
}
