//! The decision: a grant's groups against a connector's slice.

use crate::{
    address::{Address, HostName},
    explain::{Explanation, Step, StepOutcome},
    inner::{inner_address, is_inner_resource_address},
    model::Mode,
    ports::Protocol,
    slices::{ConnectorSlice, SliceResource},
};
use std::{fmt, net::IpAddr};
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

    /// What a grant of this owner with these groups would say: for previews and explanations, which open nothing.
    #[must_use]
    pub fn would_be(owner: Owner, groups: Vec<GroupRef>, revocations: &RevocationSet) -> Self {
        let mut groups = groups;
        groups.retain(|group| {
            !revocations.is_struck(RevokedSubject::membership(owner, group.id), group.generation)
        });
        Self { groups, owner }
    }

    fn is_in(&self, group: GroupId) -> bool {
        self.groups.iter().any(|held| held.id == group)
    }
}

/// What a flow wants to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// An address inside the tunnel: a real one, or the one derived from a named resource's id.
    Address(IpAddr),
    /// A name.
    Name(&'a HostName),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Where a flow wants to go, as seen inside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Destination<'a> {
    /// What.
    pub place: Place<'a>,
    /// By which protocol.
    pub protocol: Protocol,
    /// At which port; 0 where the protocol has none.
    pub port: u16,
}

impl Destination<'_> {
    /// A TCP port of an address.
    #[must_use]
    pub const fn tcp(address: IpAddr, port: u16) -> Self {
        Self { place: Place::Address(address), protocol: Protocol::Tcp, port }
    }
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
/// Precedence: the most specific resource wins (a literal address before a longer prefix before a shorter one; a host
/// name before a longer wildcard before a shorter one); of equals, the one that has the protocol and port; then the
/// stricter mode; then the lower id.
#[must_use]
pub fn decide<'a>(slice: &'a ConnectorSlice, grant: &GrantFacts, to: Destination<'_>) -> Decision<'a> {
    let mut steps = Vec::new();
    let Some(resource) = resolve_resource(slice, to) else {
        let what = format!("{} is a resource of site {}", to.place, slice.site_name);
        steps.push(Step::new(
            what,
            StepOutcome::Failed,
            match to.place {
                Place::Address(_) => "no resource has this address",
                Place::Name(_) => "no resource has this name",
            },
        ));
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
    let port = to.protocol.describe(to.port);
    if !has_port(resource, to) {
        let ports: Vec<String> = resource.ports.iter().map(ToString::to_string).collect();
        steps.push(Step::new(
            format!("{port} is part of it"),
            StepOutcome::Failed,
            format!("it has {}", ports.join(", ")),
        ));
        return Decision {
            verdict: Verdict::Deny(Refusal::PortNotAllowed),
            resource: Some(resource),
            explanation: Explanation::new(steps),
        };
    }
    steps.push(Step::new(format!("{port} is part of it"), StepOutcome::Held, ""));
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

fn has_port(resource: &SliceResource, to: Destination<'_>) -> bool {
    resource.ports.iter().any(|range| range.contains(to.protocol, to.port))
}

/// The resource a destination means, by the precedence of [`decide`].
#[must_use]
pub fn resolve_resource<'a>(slice: &'a ConnectorSlice, to: Destination<'_>) -> Option<&'a SliceResource> {
    if let Place::Address(address) = to.place
        && let IpAddr::V6(v6) = address.to_canonical()
        && is_inner_resource_address(v6)
    {
        // A real prefix never wins over the derived range: it is ours inside the tunnel. A wildcard has no one address.
        return slice.resources.iter().find(|resource| {
            matches!(resource.address, Address::Host(_)) && inner_address(resource.id) == v6
        });
    }
    slice
        .resources
        .iter()
        .filter_map(|resource| specificity(&resource.address, to.place).map(|how| (how, resource)))
        .max_by_key(|(how, resource)| {
            let strict = resource.mode == Mode::Strict;
            let how = if planted::is("widest-resource-decides") { u8::MAX - *how } else { *how };
            (how, has_port(resource, to), strict, std::cmp::Reverse(resource.id))
        })
        .map(|(_, resource)| resource)
}

/// How closely a resource's address fits a place: the length of a prefix or of what is behind a wildcard, and more than
/// any of them for the place itself.
fn specificity(address: &Address, place: Place<'_>) -> Option<u8> {
    match (address, place) {
        (Address::Ip(ip), Place::Address(asked)) => (*ip == asked.to_canonical()).then_some(129),
        (Address::Cidr(prefix), Place::Address(asked)) => prefix.contains(asked).then(|| prefix.length()),
        (Address::Host(name), Place::Name(asked)) => (name == asked).then_some(u8::MAX),
        // At most 251 characters (RFC 1035 section 2.3.4), so a host name is more.
        (Address::Wildcard(names), Place::Name(asked)) => {
            names.contains(asked).then(|| u8::try_from(names.suffix().as_str().len()).unwrap_or(u8::MAX - 1))
        }
        (Address::Ip(_) | Address::Cidr(_), Place::Name(_))
        | (Address::Host(_) | Address::Wildcard(_), Place::Address(_)) => None,
    }
}

/// Whether an address is one that a connector forwards to only when a resource names it literally:
/// unspecified, loopback, link-local (cloud metadata lives there), multicast, broadcast, and where clouds
/// answer for their machines elsewhere.
#[must_use]
pub fn is_refused_range(address: IpAddr) -> bool {
    wire::is_special_address(address)
}
