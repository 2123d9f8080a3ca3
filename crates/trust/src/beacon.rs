//! The beacon: a controller's small heartbeat, signed for everybody.

use crate::{bundle::KeyRole, document::Document, encoding, slice::SliceVersion, time::UnixMs};
use std::{collections::BTreeMap, fmt};
use wire::{ControllerId, InstallationId, OrganizationId};

/// Most organizations and signers one beacon speaks of.
const MAX_ENTRIES: usize = 256;

/// Names an organization to those who know it, and tells nobody else anything: the first 8 bytes of
/// SHA-256 over a domain and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrganizationTag([u8; 8]);

impl OrganizationTag {
    /// The tag of an organization.
    #[must_use]
    pub fn of(organization: OrganizationId) -> Self {
        let digest = encoding::sha256(&[b"tidegate/organization-tag/1", organization.as_bytes()]);
        Self(digest[..8].try_into().expect("8 of 32 bytes"))
    }
}

impl fmt::Display for OrganizationTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encoding::encode_base64url(&self.0))
    }
}

impl serde::Serialize for OrganizationTag {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for OrganizationTag {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        encoding::fixed::deserialize(d).map(Self)
    }
}

/// The newest link of one signer's chain of revocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Its number; 0 before the first entry.
    pub seq: u64,
    /// SHA-256 of its text; zeros before the first entry.
    #[serde(with = "encoding::fixed")]
    pub hash: [u8; 32],
}

/// A beacon. It has an age, not an end.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beacon {
    /// The installation.
    pub installation: InstallationId,
    /// Who speaks.
    pub controller: ControllerId,
    /// The controller's wall clock.
    pub time: UnixMs,
    /// Each organization's newest snapshot.
    pub versions: BTreeMap<OrganizationTag, SliceVersion>,
    /// Each signer's newest revocation.
    pub heads: BTreeMap<ControllerId, Head>,
    /// The nonce of an agent that asked for time.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "nonce")]
    pub nonce: Option<[u8; 16]>,
    /// Room for later versions; ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext: Option<serde_json::Value>,
}

mod nonce {
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(nonce: &Option<[u8; 16]>, s: S) -> Result<S::Ok, S::Error> {
        match nonce {
            Some(bytes) => crate::encoding::fixed::serialize(bytes, s),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<[u8; 16]>, D::Error> {
        crate::encoding::fixed::deserialize(d).map(Some)
    }
}

impl Beacon {
    /// The newest snapshot of an organization, if the beacon speaks of it.
    #[must_use]
    pub fn version_of(&self, organization: OrganizationId) -> Option<SliceVersion> {
        self.versions.get(&OrganizationTag::of(organization)).copied()
    }
}

impl Document for Beacon {
    const KIND: &'static str = "beacon";
    const ROLE: KeyRole = KeyRole::Beacon;
    const MAX_TEXT: usize = wire::MAX_PUBLIC_DOCUMENT;

    fn installation(&self) -> InstallationId {
        self.installation
    }
    fn not_before(&self) -> UnixMs {
        self.time
    }
    fn expires(&self) -> Option<UnixMs> {
        None
    }
    fn speaker(&self) -> Option<ControllerId> {
        Some(self.controller)
    }
    fn check(&self) -> Result<(), &'static str> {
        if self.versions.len() > MAX_ENTRIES || self.heads.len() > MAX_ENTRIES {
            return Err("a beacon speaks of at most 256 organizations and 256 signers");
        }
        Ok(())
    }
}
