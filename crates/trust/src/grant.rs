//! The grant: who a device is and which groups it is in, until when.

use crate::{bundle::KeyRole, document::Document, key::VerifyingKey, time::UnixMs};
use std::{fmt, time::Duration};
use wire::{DeviceId, GroupId, InstallationId, OrganizationId, ServiceAccountId, UserId};

/// Most groups in one grant (architecture: at most 128 policy-relevant groups).
pub const MAX_GRANT_GROUPS: usize = 128;
/// Longest hard life of a grant (architecture: 1–72 h per organization).
pub const MAX_GRANT_LIFE: Duration = Duration::from_secs(72 * 3600);

/// Whose device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// A person's.
    User(UserId),
    /// A headless subject's.
    ServiceAccount(ServiceAccountId),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::ServiceAccount(id) => id.fmt(f),
        }
    }
}

/// What is known of the device's condition. One class until posture is enforced.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum PostureClass {
    /// Nothing was reported.
    #[default]
    Unknown,
    /// Reported, and meets the organization's baseline.
    Baseline,
}

/// A membership, with the generation that a strike can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRef {
    /// The group.
    pub id: GroupId,
    /// The generation of this owner's membership.
    #[serde(rename = "gen")]
    pub generation: u64,
}

/// A grant. It lists no resources: the connector's slice says which groups reach what.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The installation.
    pub installation: InstallationId,
    /// The organization.
    pub organization: OrganizationId,
    /// The device.
    pub device: DeviceId,
    /// The generation of the device.
    pub device_generation: u64,
    /// Whose it is.
    pub owner: Owner,
    /// The generation of the owner.
    pub owner_generation: u64,
    /// A name for people: the device's, as its owner knows it.
    pub device_name: String,
    /// A name for people: the owner's.
    pub owner_name: String,
    /// Groups, ordered by id, at most [`MAX_GRANT_GROUPS`].
    pub groups: Vec<GroupRef>,
    /// The device's condition.
    pub posture: PostureClass,
    /// The identity key this grant is bound to.
    pub key: VerifyingKey,
    /// Made at.
    pub iat: UnixMs,
    /// Valid from.
    pub nbf: UnixMs,
    /// Hard end, at most [`MAX_GRANT_LIFE`] after `iat`.
    pub exp: UnixMs,
    /// How long after `iat` the device asks for the next one, in milliseconds.
    pub renew_after_ms: u64,
    /// Room for later versions; ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext: Option<serde_json::Value>,
}

impl Document for Grant {
    const KIND: &'static str = "grant";
    const ROLE: KeyRole = KeyRole::Grant;
    const MAX_TEXT: usize = wire::MAX_SEALED_OPEN - 1024;

    fn installation(&self) -> InstallationId {
        self.installation
    }
    fn not_before(&self) -> UnixMs {
        self.nbf
    }
    fn expires(&self) -> Option<UnixMs> {
        Some(self.exp)
    }
    fn check(&self) -> Result<(), &'static str> {
        // From its beginning as well as from its making: a date of making in the future lengthens nothing.
        if self.exp <= self.nbf
            || self.exp.since(self.iat) > MAX_GRANT_LIFE
            || self.exp.since(self.nbf) > MAX_GRANT_LIFE
            || self.iat > self.exp
        {
            return Err("a grant lives at most 72 h and ends after it begins");
        }
        if self.groups.len() > MAX_GRANT_GROUPS {
            return Err("a grant carries at most 128 groups");
        }
        if !self.groups.is_sorted_by(|a, b| a.id < b.id) {
            return Err("a grant's groups are ordered and named once");
        }
        if self.device_name.len() > 255 || self.owner_name.len() > 255 {
            return Err("a name has at most 255 bytes");
        }
        Ok(())
    }
}
