//! The root key and what it signs: its own successor and the rotation key.

use crate::{encoding, key::VerifyingKey, time::UnixMs};
use std::{fmt, str::FromStr, time::Duration};
use wire::InstallationId;

/// Longest life of a rotation key (architecture: at most two years).
pub const MAX_ROTATION_LIFE: Duration = Duration::from_secs(2 * 366 * 24 * 3600);

/// SHA-256 over a domain and the root's public key: what join keys carry and agents pin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RootHash(#[serde(with = "encoding::fixed")] [u8; 32]);

impl RootHash {
    /// The hash of a root key.
    #[must_use]
    pub fn of(root: &VerifyingKey) -> Self {
        Self(encoding::sha256(&[b"tidegate/root/1", root.as_bytes()]))
    }

    /// From its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encoding::encode_base64url(&self.0))
    }
}

impl fmt::Debug for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "root:{self}")
    }
}

impl FromStr for RootHash {
    type Err = encoding::Base64Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = encoding::decode_base64url(text)?;
        bytes.try_into().map(Self).map_err(|_| encoding::Base64Error)
    }
}

/// Signed by a root key: this other key is the root from now on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootSuccession {
    /// The installation.
    pub installation: InstallationId,
    /// The root that signs this.
    pub old_root: VerifyingKey,
    /// The root that follows.
    pub new_root: VerifyingKey,
    /// When it was made.
    pub iat: UnixMs,
}

/// Signed by the root: this key may sign trust bundles.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationStatement {
    /// The installation.
    pub installation: InstallationId,
    /// The root that signs this.
    pub root: VerifyingKey,
    /// The rotation key.
    pub rotation: VerifyingKey,
    /// Counts rotation keys; a lower one than accepted before is refused.
    pub epoch: u64,
    /// Valid from.
    pub nbf: UnixMs,
    /// Valid until, at most [`MAX_ROTATION_LIFE`] after `nbf`.
    pub exp: UnixMs,
}
