//! Settings, sessions, and who the caller is.

use super::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use wire::{ConnectorId, OrganizationId, PopId};

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
    /// For how many days audit entries and sign-ins are kept; 0: for ever (sign-ins: as long as there is room).
    pub audit_retention_days: u64,
    /// For how many days flow records are kept, if there is room; 0: as long as there is room.
    pub flow_retention_days: u64,
    /// How old a person's sign-in may be for what asks for a fresh one (docs/roles.md), in seconds.
    pub sign_in_age_seconds: u64,
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
    /// For how many days audit entries and sign-ins are kept (0 for ever, or 7 to 36500).
    #[serde(default)]
    #[schema(maximum = 36500)]
    pub audit_retention_days: Option<u64>,
    /// For how many days flow records are kept, if there is room (0 to 36500).
    #[serde(default)]
    #[schema(maximum = 36500)]
    pub flow_retention_days: Option<u64>,
    /// How old a person's sign-in may be for what asks for a fresh one, in seconds (60 to 43200).
    #[serde(default)]
    #[schema(minimum = 60, maximum = 43200)]
    pub sign_in_age_seconds: Option<u64>,
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

/// By which way packets between a device and a connector go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Straight from one to the other.
    Direct,
    /// Through a PoP, which the device reaches by UDP.
    Relay,
    /// Through a PoP, which the device reaches by TCP 443 alone.
    Tcp,
}

/// What a connector reaches a PoP by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathTransport {
    /// UDP.
    Udp,
    /// TCP 443.
    Tcp,
}

/// The way between a device and one connector, as the connector told it when it changed. Told by connectors from this
/// version on; one of an earlier version says it when a flow ends, which counts for ten minutes.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SessionPath {
    /// To which connector.
    #[schema(value_type = String)]
    pub connector: ConnectorId,
    /// Its name.
    pub connector_name: String,
    /// The word that `tidegate status --json` on the device has for it.
    pub kind: PathKind,
    /// Whose relay carries packets; none: they go straight.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = String)]
    pub pop: Option<PopId>,
    /// By what the connector reaches that relay, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub connector_transport: Option<PathTransport>,
    /// Since when it is so (RFC 3339).
    pub since: String,
}

/// Devices with a tunnel to a connector, by the way that packets go.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub struct SessionPathCounts {
    /// Straight.
    pub direct: u64,
    /// Through a PoP, which the device reaches by UDP.
    pub relay: u64,
    /// Through a PoP, which the device reaches by TCP 443 alone.
    pub tcp: u64,
}

/// A device or connector that has sessions to PoPs now. From memory; a controller that was just started learns it from
/// PoPs within seconds.
#[derive(Debug, Clone, Serialize, ToSchema)]
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
    /// Those of them that it reaches by TCP 443 alone.
    #[schema(value_type = Vec<String>)]
    pub pops_by_tcp: Vec<PopId>,
    /// Devices: the way to each connector that it has a tunnel to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub paths: Option<Vec<SessionPath>>,
    /// Connectors: how many devices' packets go by which way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub path_counts: Option<SessionPathCounts>,
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
