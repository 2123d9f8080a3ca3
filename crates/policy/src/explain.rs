//! Why: a chain of checks that ends at the first that failed.

use crate::{
    address::{Address, HostName},
    slices::{ClientResource, ClientSlice},
};
use std::{cmp::Reverse, net::IpAddr};

/// How one check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// It held.
    Held,
    /// It failed; nothing behind it was looked at.
    Failed,
    /// It cannot be known here.
    Unknown,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Step {
    /// What was checked, as a statement.
    pub what: String,
    /// How it came out.
    pub outcome: StepOutcome,
    /// What it was held against; may be empty.
    pub detail: String,
}

impl Step {
    /// A check.
    #[must_use]
    pub fn new(what: impl Into<String>, outcome: StepOutcome, detail: impl Into<String>) -> Self {
        Self { what: what.into(), outcome, detail: detail.into() }
    }
}

/// A chain of checks.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Explanation {
    /// In order.
    pub steps: Vec<Step>,
}

impl Explanation {
    /// From its steps.
    #[must_use]
    pub const fn new(steps: Vec<Step>) -> Self {
        Self { steps }
    }

    /// Whether every check held.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.outcome == StepOutcome::Held)
    }
}

/// What a client can say from its own slice about a resource that a person typed (name, alias, host
/// name or address). `None` when nothing in the slice is meant: then the controller may know more.
#[must_use]
pub fn explain_client(slice: &ClientSlice, asked: &str) -> Option<Explanation> {
    let asked = asked.trim();
    let ip: Option<IpAddr> = asked.parse().ok();
    let name: Option<HostName> = asked.parse().ok();
    let fit = |resource: &ClientResource| {
        let is_called = resource.name.eq_ignore_ascii_case(asked)
            || resource.alias.as_deref().is_some_and(|alias| alias.eq_ignore_ascii_case(asked))
            || resource.id.to_string() == asked;
        match &resource.address {
            _ if is_called => Some(usize::MAX),
            Address::Host(host) => (name.as_ref() == Some(host)).then_some(usize::MAX - 1),
            Address::Wildcard(names) => {
                name.as_ref().filter(|name| names.contains(name)).map(|_| names.suffix().as_str().len())
            }
            Address::Ip(address) => ip.filter(|ip| ip.to_canonical() == *address).map(|_| usize::MAX - 1),
            Address::Cidr(prefix) => {
                ip.filter(|ip| prefix.contains(*ip)).map(|_| usize::from(prefix.length()))
            }
        }
    };
    // The closest, and of equals the first: as the connector decides, as far as no port is asked for.
    let (_, resource) = slice
        .resources
        .iter()
        .filter_map(|resource| fit(resource).map(|fit| (fit, resource)))
        .max_by_key(|(fit, resource)| (*fit, Reverse(resource.id)))?;
    let mut steps = vec![Step::new(
        format!("{asked} is resource {}", resource.name),
        StepOutcome::Held,
        format!("at {}", resource.address),
    )];
    for allow in &resource.allow {
        steps.push(Step::new(
            format!("policy {} gives group {} access", allow.policy_name, allow.group_name),
            StepOutcome::Held,
            "this device's owner is in the group",
        ));
    }
    match slice.sites.iter().find(|site| site.id == resource.site) {
        Some(site) if !site.connectors.is_empty() => steps.push(Step::new(
            format!("site {} has a connector", site.name),
            StepOutcome::Held,
            format!("{} enrolled", site.connectors.len()),
        )),
        _ => steps.push(Step::new("its site has a connector", StepOutcome::Failed, "none is enrolled")),
    }
    Some(Explanation::new(steps))
}
