//! Why: a chain of checks that ends at the first that failed.

use crate::{address::Address, slices::ClientSlice};
use std::net::IpAddr;

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
    let resource = slice.resources.iter().find(|resource| {
        resource.name.eq_ignore_ascii_case(asked)
            || resource.alias.as_deref().is_some_and(|alias| alias.eq_ignore_ascii_case(asked))
            || resource.id.to_string() == asked
            || match (&resource.address, ip) {
                (Address::Host(name), None) => {
                    name.as_str().eq_ignore_ascii_case(asked.strip_suffix('.').unwrap_or(asked))
                }
                (Address::Ip(address), Some(ip)) => *address == ip.to_canonical(),
                (Address::Cidr(prefix), Some(ip)) => prefix.contains(ip),
                _ => false,
            }
    })?;
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
