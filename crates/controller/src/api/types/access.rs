//! Who reaches what, and why.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use wire::{DeviceId, GroupId, PolicyId, ResourceId, SiteId};

/// Who, and what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AccessExplanationParams {
    /// A person, service account or device: its id, name, or e-mail address.
    #[param(min_length = 1, max_length = 253)]
    pub who: String,
    /// A resource by id, name or alias, or any address or host name.
    #[param(min_length = 1, max_length = 253)]
    pub to: String,
    /// `443`, `udp/53` or `icmp`; absent: the resource's first port.
    #[param(nullable = false)]
    pub on: Option<String>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Checked {
    /// The gate is open.
    Held,
    /// The gate is closed.
    Failed,
    /// It cannot be known here.
    Unknown,
}

/// One check.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccessCheck {
    /// Who makes it: `controller`, `PoPs`, `connector`, `every connector`.
    pub by: String,
    /// What has to be true.
    pub what: String,
    /// Whether it is.
    pub outcome: Checked,
    /// What it was held against; may be empty.
    pub detail: String,
}

/// Whether somebody reaches something, and why.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccessExplanation {
    /// Every gate is open.
    pub allowed: bool,
    /// Whose access it is: `usr-…` or `svc-…`.
    pub member: String,
    /// What that one is called.
    pub name: String,
    /// The device, when one was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub device: Option<DeviceId>,
    /// What was asked about, as it is called.
    pub to: String,
    /// The resource that is meant, when any is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub resource: Option<ResourceId>,
    /// The site in which it is, or would be.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// Protocol and port.
    pub on: String,
    /// The connector's own decision: `allow`, or its word for the refusal.
    pub verdict: String,
    /// Which of `checks` is the first closed gate, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub closed: Option<usize>,
    /// In order.
    pub checks: Vec<AccessCheck>,
    /// The version of the configuration that was decided from.
    pub version: u64,
}

/// A change of a policy that is not made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyPreviewInput {
    /// The policy that would change; absent: a new one.
    #[schema(value_type = Option<String>, nullable = false)]
    pub policy: Option<PolicyId>,
    /// Who; absent: as it is.
    #[schema(value_type = Option<Vec<String>>, nullable = false)]
    pub groups: Option<Vec<GroupId>>,
    /// What; absent: as it is.
    #[schema(value_type = Option<Vec<String>>, nullable = false)]
    pub resources: Option<Vec<ResourceId>>,
    /// The policy would be removed.
    #[schema(nullable = false)]
    pub remove: Option<bool>,
}

/// Somebody whose access would change.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChangedAccess {
    /// `usr-…` or `svc-…`.
    pub member: String,
    /// What that one is called.
    pub name: String,
    /// To what.
    #[schema(value_type = Vec<String>)]
    pub resources: Vec<ResourceId>,
    /// How many of their devices have a session at a PoP now.
    pub devices_attached: usize,
}

/// What a change would do.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyPreview {
    /// Everything was decided; where it is false the change is too large for one answer and nothing is listed.
    pub complete: bool,
    /// Who would reach more: the first 1,000 pairs of a member and a resource, by the members' names.
    pub gained: Vec<ChangedAccess>,
    /// How many pairs there are.
    pub gained_total: usize,
    /// Who would reach less: the first 1,000 pairs.
    pub lost: Vec<ChangedAccess>,
    /// How many pairs there are.
    pub lost_total: usize,
    /// Members of the groups named before or after for whom nothing changes.
    pub unchanged: usize,
    /// When it was computed (RFC 3339).
    pub as_of: String,
}
