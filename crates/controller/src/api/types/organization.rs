//! Settings, sessions, and who the caller is.

use super::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wire::{OrganizationId, PopId};

/// How an organization works.
#[derive(Debug, Serialize, ToSchema)]
pub struct Settings {
    /// The organization, `org-…`.
    #[schema(value_type = String)]
    pub id: OrganizationId,
    /// Its name, unique in the installation.
    pub name: String,
    /// Hard life of grants, in seconds.
    pub grant_life_seconds: u64,
    /// When grants are renewed, in seconds after they were issued, ± 25 %.
    pub renew_after_seconds: u64,
    /// Whether each new device waits until somebody approves it.
    pub approve_devices: bool,
    /// For how many days audit entries are kept; 0: for ever.
    pub audit_retention_days: u64,
    /// For how many days flow records are kept, if there is room; 0: as long as there is room.
    pub flow_retention_days: u64,
}

/// Settings to change; absent ones stay.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettingsPatch {
    /// Unique in the installation.
    #[serde(default)]
    pub name: Option<String>,
    /// Hard life of grants (3600 to 259200).
    #[serde(default)]
    #[schema(minimum = 3600, maximum = 259200)]
    pub grant_life_seconds: Option<u64>,
    /// When grants are renewed (5 to half of their life).
    #[serde(default)]
    #[schema(minimum = 5)]
    pub renew_after_seconds: Option<u64>,
    /// Whether each new device waits until somebody approves it.
    #[serde(default)]
    pub approve_devices: Option<bool>,
    /// For how many days audit entries are kept (0 for ever, or 7 to 36500).
    #[serde(default)]
    #[schema(maximum = 36500)]
    pub audit_retention_days: Option<u64>,
    /// For how many days flow records are kept, if there is room (0 to 36500).
    #[serde(default)]
    #[schema(maximum = 36500)]
    pub flow_retention_days: Option<u64>,
}

/// What is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// A device.
    Device,
    /// A connector.
    Connector,
}

/// A device or connector that has sessions to PoPs now. From memory; a controller that was just started learns it from
/// PoPs within seconds.
#[derive(Debug, Serialize, ToSchema)]
pub struct Session {
    /// `dev-…` or `con-…`
    pub id: String,
    /// What it is.
    pub kind: SessionKind,
    /// Its name.
    pub name: String,
    /// Devices: whose, `usr-…` or `svc-…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub owner: Option<String>,
    /// Devices: the owner's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub owner_name: Option<String>,
    /// Connectors: of which site.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub site: Option<String>,
    /// PoPs it has sessions to.
    #[schema(value_type = Vec<String>)]
    pub pops: Vec<PopId>,
    /// Since when it has had a session without a break (RFC 3339).
    pub since: String,
    /// When a PoP last told this controller about it (RFC 3339).
    pub last_seen: String,
}

/// Who is asking.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// As the audit log names the caller.
    pub actor: String,
    /// The organization that is meant, `org-…`.
    #[schema(value_type = String)]
    pub organization: OrganizationId,
    /// Its name.
    pub organization_name: String,
    /// The role, where the caller has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub role: Option<Role>,
    /// What the caller may do, by the words of docs/roles.md.
    pub permissions: Vec<String>,
}
