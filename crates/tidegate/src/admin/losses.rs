//! What removing an object takes away from whom, said before it is done.

use crate::{
    cli::Kind,
    output::{Failure, Outcome, note},
};
use serde_json::Value;
use std::io::{IsTerminal as _, Write as _};

/// What decides who reaches what, as the API lists it.
#[derive(Debug, Default)]
pub(super) struct Access {
    pub(super) groups: Vec<Value>,
    pub(super) resources: Vec<Value>,
    pub(super) policies: Vec<Value>,
    pub(super) devices: Vec<Value>,
    pub(super) connectors: Vec<Value>,
}

/// Whether a removal takes access from somebody, so that it is worth asking.
pub(super) const fn takes_access(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Policies
            | Kind::Resources
            | Kind::Groups
            | Kind::Users
            | Kind::ServiceAccounts
            | Kind::Devices
            | Kind::Connectors
    )
}

fn id(item: &Value) -> &str {
    item["id"].as_str().unwrap_or_default()
}

fn name(item: &Value) -> &str {
    item["name"].as_str().unwrap_or_default()
}

fn names(item: &Value, list: &str, wanted: &str) -> bool {
    item[list].as_array().is_some_and(|ids| ids.iter().any(|id| id == wanted))
}

impl Access {
    /// Whether a group reaches a resource by some policy but `without`.
    fn reaches(&self, group: &str, resource: &str, without: &str) -> bool {
        let mut policies = self.policies.iter().filter(|policy| id(policy) != without);
        policies.any(|policy| names(policy, "groups", group) && names(policy, "resources", resource))
    }

    /// The pairs of group and resource that a policy joins.
    fn joined<'a>(&'a self, policy: &'a Value) -> impl Iterator<Item = (&'a Value, &'a Value)> {
        let groups = self.groups.iter().filter(|group| names(policy, "groups", id(group)));
        groups.flat_map(move |group| {
            let resources = self.resources.iter();
            resources.filter(|resource| names(policy, "resources", id(resource))).map(move |one| (group, one))
        })
    }

    /// One line for each thing that somebody loses with an object; none when nobody loses anything.
    pub(super) fn lost_with(&self, kind: Kind, removed: &str) -> Vec<String> {
        let mut lines: Vec<String> = match kind {
            Kind::Policies => {
                let policy = self.policies.iter().find(|policy| id(policy) == removed);
                let joined = policy.into_iter().flat_map(|policy| self.joined(policy));
                let lost = joined.filter(|(group, one)| !self.reaches(id(group), id(one), removed));
                lost.map(|(group, one)| line(group, one)).collect()
            }
            Kind::Resources | Kind::Groups => {
                let joined = self.policies.iter().flat_map(|policy| self.joined(policy));
                let lost = joined.filter(|(group, one)| id(group) == removed || id(one) == removed);
                lost.map(|(group, one)| line(group, one)).collect()
            }
            Kind::Users | Kind::ServiceAccounts => {
                let devices = self.devices.iter().filter(|device| device["owner"] == removed);
                devices.map(|device| format!("the device {} loses all access, now", name(device))).collect()
            }
            Kind::Devices => {
                let devices = self.devices.iter().filter(|device| id(device) == removed);
                let line = |device: &Value| {
                    let owner = device["owner_name"].as_str().unwrap_or_default();
                    format!("the device {} of {owner} loses all access, now", name(device))
                };
                devices.map(line).collect()
            }
            Kind::Connectors => self.lost_with_connector(removed),
            _ => Vec::new(),
        };
        lines.sort();
        lines.dedup();
        lines
    }

    fn lost_with_connector(&self, removed: &str) -> Vec<String> {
        let Some(connector) = self.connectors.iter().find(|connector| id(connector) == removed) else {
            return Vec::new();
        };
        let of_site = |item: &&Value| item["site"] == connector["site"];
        if self.connectors.iter().filter(of_site).any(|other| id(other) != removed && other["struck"] != true)
        {
            return vec![format!("flows through {} end; the site has another connector", name(connector))];
        }
        let resources = self.resources.iter().filter(of_site);
        resources
            .map(|one| format!("nobody reaches {}: its site has no other connector", name(one)))
            .collect()
    }
}

fn line(group: &Value, resource: &Value) -> String {
    let members = group["members"].as_u64().unwrap_or_default();
    let members = if members == 1 { "1 member".to_owned() } else { format!("{members} members") };
    format!("{} ({members}) no longer reaches {}", name(group), name(resource))
}

/// Most lines that are shown.
const SHOWN: usize = 20;

/// Says what goes, and asks on a terminal. Scripts are not asked: they say what they mean.
///
/// # Errors
/// The person said no.
pub(super) fn confirm(what: &str, lost: &[String], yes: bool) -> Result<(), Failure> {
    for line in lost.iter().take(SHOWN) {
        note(&format!("  {line}"));
    }
    if lost.len() > SHOWN {
        note(&format!("  and {} more", lost.len() - SHOWN));
    }
    let asked = !lost.is_empty() && !yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !asked {
        return Ok(());
    }
    let mut prompt = std::io::stderr();
    write!(prompt, "Delete {what}? [y/N] ").and_then(|()| prompt.flush())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Failure::say(Outcome::Failed, "nothing was deleted"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn access() -> Access {
        Access {
            groups: vec![
                json!({"id": "grp-a", "name": "eng", "members": 3}),
                json!({"id": "grp-b", "name": "ops", "members": 1}),
            ],
            resources: vec![
                json!({"id": "res-a", "name": "wiki", "site": "site-a"}),
                json!({"id": "res-b", "name": "db", "site": "site-a"}),
            ],
            policies: vec![
                json!({"id": "pol-a", "groups": ["grp-a", "grp-b"], "resources": ["res-a"]}),
                json!({"id": "pol-b", "groups": ["grp-a"], "resources": ["res-a", "res-b"]}),
            ],
            devices: vec![json!({"id": "dev-a", "name": "laptop", "owner": "usr-a", "owner_name": "Ada"})],
            connectors: vec![json!({"id": "con-a", "name": "hh-1", "site": "site-a", "struck": false})],
        }
    }

    #[test]
    fn a_policy_takes_away_what_no_other_policy_gives() {
        assert_eq!(access().lost_with(Kind::Policies, "pol-a"), ["ops (1 member) no longer reaches wiki"]);
        assert_eq!(access().lost_with(Kind::Policies, "pol-b"), ["eng (3 members) no longer reaches db"]);
        assert!(access().lost_with(Kind::Policies, "pol-c").is_empty());
    }

    #[test]
    fn a_resource_a_group_a_person_and_a_device_say_who_loses_what() {
        let lost = access().lost_with(Kind::Resources, "res-a");
        assert_eq!(lost, ["eng (3 members) no longer reaches wiki", "ops (1 member) no longer reaches wiki"]);
        let lost = access().lost_with(Kind::Groups, "grp-a");
        assert_eq!(lost, ["eng (3 members) no longer reaches db", "eng (3 members) no longer reaches wiki"]);
        assert_eq!(access().lost_with(Kind::Users, "usr-a"), ["the device laptop loses all access, now"]);
        assert_eq!(
            access().lost_with(Kind::Devices, "dev-a"),
            ["the device laptop of Ada loses all access, now"]
        );
        assert!(access().lost_with(Kind::Tokens, "tok-a").is_empty() && !takes_access(Kind::Tokens));
    }

    #[test]
    fn the_last_connector_of_a_site_takes_its_resources_and_another_one_only_flows() {
        let mut access = access();
        let last = access.lost_with(Kind::Connectors, "con-a");
        assert_eq!(last.len(), 2);
        assert!(last[0].starts_with("nobody reaches db"), "{last:?}");
        access.connectors.push(json!({"id": "con-b", "name": "hh-2", "site": "site-a", "struck": false}));
        assert!(access.lost_with(Kind::Connectors, "con-a")[0].contains("another connector"));
    }
}
