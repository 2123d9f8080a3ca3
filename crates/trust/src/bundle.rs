//! The trust bundle: every key that may sign anything, each with exactly one role.
//!
//! ```text
//! root hash (pinned) ── root key ──signs──► rotation key (≤ 2 years) ──signs──► bundle (keys ≤ 90 days)
//!                          └─signs──► next root key
//! ```

use crate::{
    document::MAX_CLOCK_SKEW,
    encoding,
    key::{KeyId, SigningKey, VerifyingKey},
    paseto::{self, PasetoError, UnverifiedToken},
    root::{MAX_ROTATION_LIFE, RootHash, RootSuccession, RotationStatement},
    time::UnixMs,
};
use std::{collections::BTreeMap, fmt, time::Duration};
use wire::{ControllerId, InstallationId};

/// Longest life of a key in a bundle (architecture: at most 90 days).
pub const MAX_KEY_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Keys in one bundle: 9 roles × 2 overlapping generations × 7 controllers.
const MAX_KEYS: usize = 128;
/// Root successions in one chain; one a year for longer than hardware lives.
const MAX_SUCCESSIONS: usize = 8;
/// Longest text of a chain; fits `wire::MAX_PUBLIC_DOCUMENT`.
const MAX_CHAIN_TEXT: usize = wire::MAX_PUBLIC_DOCUMENT;

/// The one thing a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyRole {
    /// Sign certificates of devices.
    DeviceIssuer,
    /// Sign certificates of connectors.
    ConnectorIssuer,
    /// Sign certificates of PoPs.
    PopIssuer,
    /// Sign certificates of controllers.
    ControllerIssuer,
    /// Sign the console's and API's web certificates. Browsers want NIST curves: the public key is an
    /// uncompressed P-256 point (65 bytes), all others are 32 bytes.
    ConsoleCa,
    /// Sign grants.
    Grant,
    /// Sign slices.
    Slice,
    /// Sign beacons and revocations.
    Beacon,
    /// Open control frames (X25519, HPKE).
    ControlSeal,
}

impl KeyRole {
    /// Every role.
    pub const ALL: [Self; 9] = [
        Self::DeviceIssuer,
        Self::ConnectorIssuer,
        Self::PopIssuer,
        Self::ControllerIssuer,
        Self::ConsoleCa,
        Self::Grant,
        Self::Slice,
        Self::Beacon,
        Self::ControlSeal,
    ];

    const fn public_len(self) -> usize {
        match self {
            Self::ConsoleCa => 65,
            _ => 32,
        }
    }

    const fn is_ed25519(self) -> bool {
        !matches!(self, Self::ConsoleCa | Self::ControlSeal)
    }
}

/// One key.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleKey {
    /// What it may do.
    pub role: KeyRole,
    /// Which controller holds it.
    pub owner: ControllerId,
    /// The public key; its length follows from the role.
    #[serde(with = "public_bytes")]
    pub public: Vec<u8>,
    /// Valid from.
    pub nbf: UnixMs,
    /// Valid until, at most [`MAX_KEY_LIFE`] after `nbf`.
    pub exp: UnixMs,
}

mod public_bytes {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&crate::encoding::encode_base64url(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        crate::encoding::decode_base64url(&text).map_err(D::Error::custom)
    }
}

impl BundleKey {
    /// The key's id.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId::of(&self.public)
    }

    /// The Ed25519 key, for the roles that sign with one.
    #[must_use]
    pub fn verifying_key(&self) -> Option<VerifyingKey> {
        if !self.role.is_ed25519() {
            return None;
        }
        self.public.as_slice().try_into().ok().map(VerifyingKey::from_bytes)
    }

    /// Whether the key may be used at `wall`, with the tolerance for clocks at its beginning.
    #[must_use]
    pub fn is_valid_at(&self, wall: UnixMs) -> bool {
        self.nbf <= wall.plus(MAX_CLOCK_SKEW) && wall < self.exp
    }
}

impl fmt::Debug for BundleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} of {}", self.role, self.key_id(), self.owner)
    }
}

/// What the rotation key signs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleStatement {
    /// The installation.
    pub installation: InstallationId,
    /// Counts bundles; a lower one than accepted before is refused.
    pub serial: u64,
    /// When it was made.
    pub iat: UnixMs,
    /// The keys.
    pub keys: Vec<BundleKey>,
}

/// Why a trust chain is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The text is not a chain.
    #[error("expected a trust chain (lines \"succession\", \"rotation\", \"bundle\"), {0}")]
    Format(&'static str),
    /// A token in it.
    #[error("{part}: {source}")]
    Token {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        source: PasetoError,
    },
    /// The content of a part.
    #[error("{part} does not decode: {problem}")]
    Content {
        /// Which part.
        part: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The root is not the pinned one, nor signed in by it.
    #[error("the chain's root is not the pinned root {0}")]
    OtherRoot(RootHash),
    /// Parts of different installations.
    #[error("the parts belong to different installations")]
    MixedInstallations,
    /// The rotation key is outside its validity.
    #[error("the rotation key is not valid now (valid {nbf} to {exp}); is a clock off?")]
    RotationNotValid {
        /// From.
        nbf: UnixMs,
        /// Until.
        exp: UnixMs,
    },
    /// A rule is broken.
    #[error("the chain breaks a rule: {0}")]
    Rule(&'static str),
    /// Older than what was accepted before.
    #[error(
        "the chain (epoch {got_epoch}, serial {got_serial}) is older than the one held (epoch {held_epoch}, serial {held_serial})"
    )]
    Older {
        /// Epoch that came.
        got_epoch: u64,
        /// Serial that came.
        got_serial: u64,
        /// Epoch held.
        held_epoch: u64,
        /// Serial held.
        held_serial: u64,
    },
}

const SUCCESSION_ASSERTION: &[u8] = b"tidegate/root-succession/1";
const ROTATION_ASSERTION: &[u8] = b"tidegate/rotation/1";
const BUNDLE_ASSERTION: &[u8] = b"tidegate/bundle/1";

/// The chain as text: one labelled token a line. Nothing in it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustChain {
    successions: Vec<String>,
    rotation: String,
    bundle: String,
}

impl TrustChain {
    /// Cuts a text.
    ///
    /// # Errors
    /// [`ChainError::Format`].
    pub fn parse(text: &str) -> Result<Self, ChainError> {
        if text.len() > MAX_CHAIN_TEXT {
            return Err(ChainError::Format("longer than a chain may be"));
        }
        // `lines` would drop a carriage return before a line break: then one chain had several texts.
        if text.contains('\r') {
            return Err(ChainError::Format("it contains a carriage return"));
        }
        let mut successions = Vec::new();
        let mut lines = text.lines();
        let rotation = loop {
            match lines.next().and_then(|line| line.split_once(' ')) {
                Some(("succession", token)) if successions.len() < MAX_SUCCESSIONS => {
                    successions.push(token.to_owned());
                }
                Some(("succession", _)) => return Err(ChainError::Format("too many successions")),
                Some(("rotation", token)) => break token.to_owned(),
                _ => return Err(ChainError::Format("the rotation line is missing")),
            }
        };
        let Some(("bundle", bundle)) = lines.next().and_then(|line| line.split_once(' ')) else {
            return Err(ChainError::Format("the bundle line is missing"));
        };
        if lines.next().is_some() {
            return Err(ChainError::Format("lines behind the bundle"));
        }
        Ok(Self { successions, rotation, bundle: bundle.to_owned() })
    }

    /// [`Self::parse`] for bytes off the wire.
    ///
    /// # Errors
    /// [`ChainError::Format`].
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, ChainError> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| ChainError::Format("it is not text"))?)
    }

    /// The text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for succession in &self.successions {
            text.push_str("succession ");
            text.push_str(succession);
            text.push('\n');
        }
        text.push_str("rotation ");
        text.push_str(&self.rotation);
        text.push_str("\nbundle ");
        text.push_str(&self.bundle);
        text.push('\n');
        text
    }

    /// The root signs a rotation key; the rotation key signs a bundle.
    ///
    /// # Errors
    /// A statement breaks a rule.
    pub fn sign(
        root: &SigningKey,
        rotation: &SigningKey,
        rotation_statement: &RotationStatement,
        bundle: &BundleStatement,
    ) -> Result<Self, ChainError> {
        let signed = Self::sign_rotation(root, rotation_statement)?;
        Self { successions: Vec::new(), rotation: String::new(), bundle: String::new() }
            .with_rotation(&signed, rotation, bundle)
    }

    /// The root's signature on a rotation key, for [`Self::with_rotation`]: made where the root key is, used where the new
    /// key is, so that neither travels.
    ///
    /// # Errors
    /// The statement breaks a rule.
    pub fn sign_rotation(root: &SigningKey, statement: &RotationStatement) -> Result<String, ChainError> {
        check_rotation(statement)?;
        sign_part("rotation", root, statement, ROTATION_ASSERTION)
    }

    /// The same roots with another rotation key, which signs `bundle`. Whether a root signed for that key is what
    /// [`Self::verify`] says of the whole.
    ///
    /// # Errors
    /// The bundle breaks a rule.
    pub fn with_rotation(
        &self,
        signed: &str,
        rotation: &SigningKey,
        bundle: &BundleStatement,
    ) -> Result<Self, ChainError> {
        Self { rotation: signed.to_owned(), ..self.clone() }.with_bundle(rotation, bundle)
    }

    /// The same roots and rotation key with another bundle: what happens unattended.
    ///
    /// # Errors
    /// The bundle breaks a rule.
    pub fn with_bundle(&self, rotation: &SigningKey, bundle: &BundleStatement) -> Result<Self, ChainError> {
        check_bundle(bundle)?;
        let bundle = sign_part("bundle", rotation, bundle, BUNDLE_ASSERTION)?;
        Ok(Self { bundle, ..self.clone() })
    }

    /// The old root names a new one, which signs the (same or another) rotation key.
    ///
    /// # Errors
    /// A statement breaks a rule.
    pub fn with_successor(
        &self,
        old_root: &SigningKey,
        new_root: &SigningKey,
        rotation_statement: &RotationStatement,
        iat: UnixMs,
    ) -> Result<Self, ChainError> {
        check_rotation(rotation_statement)?;
        let succession = RootSuccession {
            installation: rotation_statement.installation,
            old_root: old_root.verifying_key(),
            new_root: new_root.verifying_key(),
            iat,
        };
        let mut next = self.clone();
        next.successions.push(sign_part("succession", old_root, &succession, SUCCESSION_ASSERTION)?);
        next.rotation = sign_part("rotation", new_root, rotation_statement, ROTATION_ASSERTION)?;
        Ok(next)
    }

    /// Believes the chain from the pinned root hash down.
    ///
    /// # Errors
    /// The first reason found.
    pub fn verify(&self, pinned: &RootHash, wall: UnixMs) -> Result<TrustBundle, ChainError> {
        // Each statement names the key that signed it, so the key is read first and then held
        // against what is pinned or was signed in: the signature is what is believed.
        let mut believed = *pinned;
        let mut installation = None;
        for token in &self.successions {
            let statement: RootSuccession =
                open_part("succession", token, SUCCESSION_ASSERTION, |s: &RootSuccession| s.old_root)?;
            if RootHash::of(&statement.old_root) == believed {
                believed = RootHash::of(&statement.new_root);
            }
            // A chain tells the whole history; agents that pinned a later root skip what came before.
            if *installation.get_or_insert(statement.installation) != statement.installation {
                return Err(ChainError::MixedInstallations);
            }
        }
        let rotation: RotationStatement =
            open_part("rotation", &self.rotation, ROTATION_ASSERTION, |r: &RotationStatement| r.root)?;
        if RootHash::of(&rotation.root) != believed && !planted::is("any-root-is-believed") {
            return Err(ChainError::OtherRoot(*pinned));
        }
        check_rotation(&rotation)?;
        if *installation.get_or_insert(rotation.installation) != rotation.installation {
            return Err(ChainError::MixedInstallations);
        }
        if rotation.nbf > wall.plus(MAX_CLOCK_SKEW) || rotation.exp <= wall {
            return Err(ChainError::RotationNotValid { nbf: rotation.nbf, exp: rotation.exp });
        }
        let statement: BundleStatement =
            open_part("bundle", &self.bundle, BUNDLE_ASSERTION, |_: &BundleStatement| rotation.rotation)?;
        check_bundle(&statement)?;
        if statement.installation != rotation.installation {
            return Err(ChainError::MixedInstallations);
        }
        let keys = statement.keys.into_iter().map(|key| ((key.role, key.key_id()), key)).collect();
        Ok(TrustBundle {
            installation: rotation.installation,
            epoch: rotation.epoch,
            serial: statement.serial,
            root: believed,
            rotation: rotation.rotation,
            rotation_end: rotation.exp,
            keys,
        })
    }
}

fn sign_part<S: serde::Serialize>(
    part: &'static str,
    key: &SigningKey,
    statement: &S,
    assertion: &[u8],
) -> Result<String, ChainError> {
    let message = serde_json::to_vec(statement)
        .map_err(|error| ChainError::Content { part, problem: error.to_string() })?;
    Ok(paseto::sign(key, &message, b"", assertion))
}

/// Decodes a part far enough to learn its signer, then verifies it with that key. What the caller
/// does with the statement before it has held the signer against something believed is its own
/// business, and it does nothing.
fn open_part<S: serde::de::DeserializeOwned>(
    part: &'static str,
    token: &str,
    assertion: &[u8],
    signer: impl Fn(&S) -> VerifyingKey,
) -> Result<S, ChainError> {
    let parsed = UnverifiedToken::parse(token).map_err(|source| ChainError::Token { part, source })?;
    if !parsed.footer().is_empty() {
        return Err(ChainError::Format("a part carries a footer"));
    }
    let claimed: S = serde_json::from_slice(parsed.claimed_message())
        .map_err(|error| ChainError::Content { part, problem: error.to_string() })?;
    let key = signer(&claimed);
    parsed.verify(&key, assertion).map_err(|source| ChainError::Token { part, source })?;
    Ok(claimed)
}

fn check_rotation(rotation: &RotationStatement) -> Result<(), ChainError> {
    if rotation.exp <= rotation.nbf {
        return Err(ChainError::Rule("the rotation key expires before it begins"));
    }
    if rotation.exp.since(rotation.nbf) > MAX_ROTATION_LIFE {
        return Err(ChainError::Rule("the rotation key lives longer than two years"));
    }
    if rotation.root == rotation.rotation {
        return Err(ChainError::Rule("the root is its own rotation key"));
    }
    Ok(())
}

fn check_bundle(bundle: &BundleStatement) -> Result<(), ChainError> {
    if bundle.keys.len() > MAX_KEYS {
        return Err(ChainError::Rule("more than 128 keys"));
    }
    let mut seen = std::collections::BTreeSet::new();
    for key in &bundle.keys {
        if key.public.len() != key.role.public_len() {
            return Err(ChainError::Rule("a public key has the wrong length for its role"));
        }
        // One key, one role: the id covers the key only, so a key under two roles repeats its id.
        if !seen.insert(key.key_id()) {
            return Err(ChainError::Rule("a key appears twice; each key has exactly one role"));
        }
        if key.exp <= key.nbf || key.exp.since(key.nbf) > MAX_KEY_LIFE {
            return Err(ChainError::Rule("a key lives longer than 90 days or ends before it begins"));
        }
    }
    Ok(())
}

/// A verified bundle: the only source of keys to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    installation: InstallationId,
    epoch: u64,
    serial: u64,
    root: RootHash,
    rotation: VerifyingKey,
    rotation_end: UnixMs,
    keys: BTreeMap<(KeyRole, KeyId), BundleKey>,
}

impl TrustBundle {
    /// The installation.
    #[must_use]
    pub const fn installation(&self) -> InstallationId {
        self.installation
    }

    /// Counts rotation keys.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Counts bundles under one rotation key.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// The root that was believed in the end; pin this from now on.
    #[must_use]
    pub const fn root(&self) -> RootHash {
        self.root
    }

    /// The rotation key that signed it.
    #[must_use]
    pub const fn rotation(&self) -> VerifyingKey {
        self.rotation
    }

    /// When the rotation key ends: no chain under it is believed from then on.
    #[must_use]
    pub const fn rotation_end(&self) -> UnixMs {
        self.rotation_end
    }

    /// The key with this id in exactly this role.
    #[must_use]
    pub fn key(&self, id: KeyId, role: KeyRole) -> Option<&BundleKey> {
        self.keys.get(&(role, id))
    }

    /// All keys of a role, in order of their ids.
    pub fn keys(&self, role: KeyRole) -> impl Iterator<Item = &BundleKey> {
        self.keys.values().filter(move |key| key.role == role)
    }

    /// All keys.
    pub fn all_keys(&self) -> impl Iterator<Item = &BundleKey> {
        self.keys.values()
    }

    /// Takes `newer` in place of this one.
    ///
    /// # Errors
    /// [`ChainError::Older`] when it is older, [`ChainError::MixedInstallations`] when it is
    /// another's. The same one again is fine.
    pub fn replace_with(&mut self, newer: Self) -> Result<(), ChainError> {
        if newer.installation != self.installation {
            return Err(ChainError::MixedInstallations);
        }
        if (newer.epoch, newer.serial) < (self.epoch, self.serial) && !planted::is("older-bundle-believed") {
            return Err(ChainError::Older {
                got_epoch: newer.epoch,
                got_serial: newer.serial,
                held_epoch: self.epoch,
                held_serial: self.serial,
            });
        }
        *self = newer;
        Ok(())
    }

    /// SHA-256 over what the bundle says, for comparing two of them in a log line.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        let text = format!("{}/{}/{}/{:?}", self.installation, self.epoch, self.serial, self.keys);
        encoding::sha256(&[b"tidegate/bundle-fingerprint/1", text.as_bytes()])
    }
}
