//! The decision: a grant's groups against a connector's slice.

use crate::{
    address::Address,
    explain::{Explanation, Step, StepOutcome},
    inner::{inner_address, is_inner_resource_address},
    model::Mode,
    slices::{ConnectorSlice, SliceResource},
};
use std::net::IpAddr;
use trust::{Grant, GroupRef, Owner, RevocationSet, RevokedSubject};
use wire::{GroupId, Refusal};

/// What the decision needs of a verified, unexpired, unstruck grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantFacts {
    groups: Vec<GroupRef>,
    owner: Owner,
}

impl GrantFacts {
    /// The facts of a grant, without the memberships that are struck.
    #[must_use]
    pub fn of(grant: &Grant, revocations: &RevocationSet) -> Self {
        let groups = grant
            .groups
            .iter()
            .copied()
            .filter(|group| {
                !revocations.is_struck(RevokedSubject::membership(grant.owner, group.id), group.generation)
            })
            .collect();
        Self { groups, owner: grant.owner }
    }

    fn is_in(&self, group: GroupId) -> bool {
        self.groups.iter().any(|held| held.id == group)
    }
}

/// Where a flow wants to go, as seen inside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination {
    /// The inner destination address: a real one, or a named resource's.
    pub address: IpAddr,
    /// The TCP port.
    pub port: u16,
}

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Open it.
    Allow,
    /// Refuse it, and say why.
    Deny(Refusal),
}

/// A verdict, the resource it is about, and how it came about.
#[derive(Debug, Clone)]
pub struct Decision<'a> {
    /// The outcome.
    pub verdict: Verdict,
    /// The resource that was meant, if any is.
    pub resource: Option<&'a SliceResource>,
    /// Every check in order.
    pub explanation: Explanation,
}

/// Decides one flow. Pure: same arguments, same decision.
///
/// Precedence: the most specific address wins (name and literal address before longer prefix before
/// shorter); of equals, the stricter mode; then the one that allows the port; then the lower id.
#[must_use]
pub fn decide<'a>(slice: &'a ConnectorSlice, grant: &GrantFacts, to: Destination) -> Decision<'a> {
    let mut steps = Vec::new();
    let Some(resource) = resolve_resource(slice, to) else {
        let what = format!("{} is a resource of site {}", to.address, slice.site_name);
        steps.push(Step::new(what, StepOutcome::Failed, "no resource has this address"));
        return Decision {
            verdict: Verdict::Deny(Refusal::NoResource),
            resource: None,
            explanation: Explanation::new(steps),
        };
    };
    steps.push(Step::new(
        format!("the destination is resource {}", resource.name),
        StepOutcome::Held,
        format!("{} is the most specific match", resource.address),
    ));
    if !resource.ports.iter().any(|range| range.contains(to.port)) {
        let ports: Vec<String> = resource.ports.iter().map(ToString::to_string).collect();
        steps.push(Step::new(
            format!("port {} is part of it", to.port),
            StepOutcome::Failed,
            format!("it has ports {}", ports.join(", ")),
        ));
        return Decision {
            verdict: Verdict::Deny(Refusal::PortNotAllowed),
            resource: Some(resource),
            explanation: Explanation::new(steps),
        };
    }
    steps.push(Step::new(format!("port {} is part of it", to.port), StepOutcome::Held, ""));
    match resource.allow.iter().find(|allow| grant.is_in(allow.group)) {
        Some(allow) => {
            steps.push(Step::new(
                format!("a policy gives a group of {} access", grant.owner),
                StepOutcome::Held,
                format!("policy {} for group {}", allow.policy_name, allow.group_name),
            ));
            Decision {
                verdict: Verdict::Allow,
                resource: Some(resource),
                explanation: Explanation::new(steps),
            }
        }
        None => {
            steps.push(Step::new(
                format!("a policy gives a group of {} access", grant.owner),
                StepOutcome::Failed,
                "no policy for this resource names a group of this grant",
            ));
            Decision {
                verdict: Verdict::Deny(Refusal::NoPolicy),
                resource: Some(resource),
                explanation: Explanation::new(steps),
            }
        }
    }
}

/// The resource a destination means, by the precedence of [`decide`].
#[must_use]
pub fn resolve_resource(slice: &ConnectorSlice, to: Destination) -> Option<&SliceResource> {
    let address = to.address.to_canonical();
    if let IpAddr::V6(v6) = address
        && is_inner_resource_address(v6)
    {
        // A real prefix never wins over the derived range: it is ours inside the tunnel.
        return slice.resources.iter().find(|resource| {
            matches!(resource.address, Address::Host(_)) && inner_address(resource.id) == v6
        });
    }
    let specificity = |resource: &SliceResource| match resource.address {
        Address::Ip(ip) if ip == address => Some(129_u8),
        Address::Cidr(prefix) if prefix.contains(address) => Some(prefix.length()),
        _ => None,
    };
    slice
        .resources
        .iter()
        .filter_map(|resource| specificity(resource).map(|bits| (bits, resource)))
        .max_by_key(|(bits, resource)| {
            let strict = resource.mode == Mode::Strict;
            let has_port = resource.ports.iter().any(|range| range.contains(to.port));
            let bits = if planted::is("widest-resource-decides") { u8::MAX - *bits } else { *bits };
            (bits, has_port, strict, std::cmp::Reverse(resource.id))
        })
        .map(|(_, resource)| resource)
}

/// Whether an address is one that a connector forwards to only when a resource names it literally:
/// unspecified, loopback, link-local (cloud metadata lives there), multicast, broadcast, and where clouds
/// answer for their machines elsewhere.
#[must_use]
pub fn is_refused_range(address: IpAddr) -> bool {
    if wire::is_cloud_metadata(address) {
        return true;
    }
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                // "This network" with the unspecified address (RFC 1122 section 3.2.1.3), and reserved with the
                // broadcast address (RFC 1112 section 4).
                || matches!(v4.octets()[0], 0 | 240..)
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()
        }
    }
}
