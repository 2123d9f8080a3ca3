//! The slice: the part of an organization's snapshot that one audience gets.

use crate::{bundle::KeyRole, document::Document, identity::Subject, time::UnixMs};
use std::{fmt, time::Duration};
use wire::{ConnectorId, DeviceId, InstallationId, OrganizationId, PopId};

/// Longest hard life of a slice (architecture: 7 days).
pub const MAX_SLICE_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Which snapshot a slice was cut from. A restore of the store raises the incarnation; a change of
/// configuration raises the version. A node never goes back.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct SliceVersion {
    /// Raised by a restore.
    pub incarnation: u64,
    /// Raised by a change.
    pub version: u64,
}

impl fmt::Display for SliceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.incarnation, self.version)
    }
}

/// Who a slice is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// A device's client.
    Device(DeviceId),
    /// A connector.
    Connector(ConnectorId),
    /// A PoP.
    Pop(PopId),
}

impl Audience {
    /// Whether `subject` is this audience.
    #[must_use]
    pub fn is(self, subject: Subject) -> bool {
        match (self, subject) {
            (Self::Device(a), Subject::Device(b)) => a == b,
            (Self::Connector(a), Subject::Connector(b)) => a == b,
            (Self::Pop(a), Subject::Pop(b)) => a == b,
            _ => false,
        }
    }
}

/// What every slice says.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceHeader {
    /// The installation.
    pub installation: InstallationId,
    /// The organization; `None` for PoPs.
    pub organization: Option<OrganizationId>,
    /// Who it is for.
    pub audience: Audience,
    /// Which snapshot it was cut from.
    pub version: SliceVersion,
    /// Made at.
    pub iat: UnixMs,
    /// Hard end, at most [`MAX_SLICE_LIFE`] after `iat`.
    pub exp: UnixMs,
}

/// What a body of a slice must be: the policy crate defines them.
pub trait SliceBody: serde::Serialize + serde::de::DeserializeOwned {
    /// Part of the signed domain: a connector's slice is never a client's.
    const KIND: &'static str;
    /// Checks what must hold whoever signed it.
    ///
    /// # Errors
    /// The broken rule.
    fn check(&self) -> Result<(), &'static str>;
    /// Whether this body is meant for this kind of audience.
    fn is_for(audience: Audience) -> bool;
}

/// A slice.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, bound = "B: SliceBody")]
pub struct Slice<B> {
    /// What every slice says.
    pub header: SliceHeader,
    /// What this kind of slice says.
    pub body: B,
    /// Room for later versions; ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext: Option<serde_json::Value>,
}

impl<B: SliceBody> Document for Slice<B> {
    const KIND: &'static str = B::KIND;
    const ROLE: KeyRole = KeyRole::Slice;
    const MAX_TEXT: usize = wire::MAX_SEALED_REPLY - 8192;

    fn installation(&self) -> InstallationId {
        self.header.installation
    }
    fn not_before(&self) -> UnixMs {
        self.header.iat
    }
    fn expires(&self) -> Option<UnixMs> {
        Some(self.header.exp)
    }
    fn check(&self) -> Result<(), &'static str> {
        if self.header.exp <= self.header.iat || self.header.exp.since(self.header.iat) > MAX_SLICE_LIFE {
            return Err("a slice lives at most 7 days and ends after it begins");
        }
        if !B::is_for(self.header.audience) {
            return Err("the slice's audience does not fit its kind");
        }
        self.body.check()
    }
}
