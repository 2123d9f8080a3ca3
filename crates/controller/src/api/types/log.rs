//! The flow log and the audit log, as the API says and takes them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which flow records.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FlowParams {
    /// At most this many records (1 to 1000), newest first.
    #[param(minimum = 1, maximum = 1000, default = 200, nullable = false)]
    pub limit: Option<u32>,
    /// Of this device.
    #[param(nullable = false)]
    pub device: Option<String>,
    /// From this connector.
    #[param(nullable = false)]
    pub connector: Option<String>,
    /// To this resource.
    #[param(nullable = false)]
    pub resource: Option<String>,
    /// With this verdict.
    #[param(value_type = FlowVerdict, inline, required = false)]
    pub verdict: Option<String>,
    /// Only what has this text in one of its members, whatever the case.
    #[param(nullable = false)]
    pub q: Option<String>,
    /// That ended from this time on, in milliseconds since 1970.
    #[param(nullable = false)]
    pub from_ms: Option<u64>,
    /// That ended before this time, in milliseconds since 1970.
    #[param(nullable = false)]
    pub before_ms: Option<u64>,
    /// `next` of the page before: an opaque cursor.
    #[param(nullable = false)]
    pub after: Option<String>,
}

/// How a flow went.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "records come as connectors wrote them; this says which words there are")]
pub(crate) enum FlowVerdict {
    /// It was let through.
    Allowed,
    /// It was refused at its beginning.
    Denied,
    /// Access ended while it was open.
    Withdrawn,
    /// It was let through, and the resource did not answer.
    Failed,
}

/// Flow records as connectors wrote them.
#[derive(Debug, Serialize, ToSchema)]
pub struct Flows {
    /// Newest first.
    #[schema(value_type = Vec<Object>)]
    pub items: Vec<serde_json::Value>,
    /// An opaque cursor: what to pass as `after` for the page of older ones; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
}

/// Which flow records to export.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FlowExportParams {
    /// Behind this place: the `place` of the last line that was read.
    #[param(nullable = false)]
    pub after: Option<String>,
    /// With this verdict.
    #[param(value_type = FlowVerdict, inline, required = false)]
    pub verdict: Option<String>,
    /// Goes on with what comes, until the connection ends.
    #[param(nullable = false)]
    pub follow: Option<bool>,
}

/// Which audit entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditParams {
    /// At most this many entries (1 to 1000), newest first.
    #[param(minimum = 1, maximum = 1000, default = 200, nullable = false)]
    pub limit: Option<u32>,
    /// Before this time, in milliseconds since 1970.
    #[param(nullable = false)]
    pub before_ms: Option<u64>,
    /// From this time on, in milliseconds since 1970.
    #[param(nullable = false)]
    pub from_ms: Option<u64>,
    /// `next` of the page before: an opaque cursor.
    #[param(nullable = false)]
    pub after: Option<String>,
    /// Whose actor has this text.
    #[param(nullable = false)]
    pub actor: Option<String>,
    /// With this action, as in `create site`.
    #[param(nullable = false)]
    pub action: Option<String>,
    /// About this object.
    #[param(nullable = false)]
    pub subject: Option<String>,
}

/// One change.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditEntry {
    /// Its number in the chain of the organization, or in that of the installation; absent on entries from before there
    /// was a chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub seq: Option<u64>,
    /// `organization`, or `installation` for what all share.
    pub chain: String,
    /// When (RFC 3339).
    pub at: String,
    /// Who.
    pub actor: String,
    /// From which address; `local` for the local socket. Empty when nobody outside asked.
    pub source: String,
    /// The request's id, as `x-request-id` had it.
    pub request: String,
    /// What.
    pub action: String,
    /// To which object.
    pub subject: String,
    /// The version this made.
    pub version: u64,
    /// The object before; never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub before: Option<serde_json::Value>,
    /// The object after; never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub after: Option<serde_json::Value>,
    /// More.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// SHA-256 over this entry and the hash before it (hexadecimal).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// Entries, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Audit {
    /// Newest first.
    pub items: Vec<AuditEntry>,
    /// An opaque cursor: what to pass as `after` for the page of older ones; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
}

/// Which audit entries to export.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditExportParams {
    /// Behind this number of the chain.
    #[param(nullable = false)]
    pub after: Option<u64>,
    /// Of the installation, which needs the permission `installation`, in place of the organization's own.
    #[param(nullable = false)]
    pub installation: Option<bool>,
    /// Goes on with what comes, until the connection ends.
    #[param(nullable = false)]
    pub follow: Option<bool>,
}

/// What the verification of a chain of audit entries found.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditVerification {
    /// Whether every entry is as it was written, and none is missing.
    pub intact: bool,
    /// The chains that were read.
    pub chains: Vec<ChainVerification>,
}

/// One chain of audit entries.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChainVerification {
    /// `organization`, or `installation`.
    pub chain: String,
    /// Whether it is as it was written.
    pub intact: bool,
    /// How many entries were read.
    pub entries: u64,
    /// The number of the first one that is kept.
    pub first: u64,
    /// The number of the last one.
    pub last: u64,
    /// The hash of the last one (hexadecimal); keep it elsewhere to hold the chain against it later.
    pub head: String,
    /// The number of the last entry that this controller remembers outside the database.
    pub remembered: u64,
    /// What is wrong, one sentence each.
    pub findings: Vec<String>,
}
