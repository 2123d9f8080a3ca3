//! Another rotation key: made here, signed for by the root elsewhere, and published at once.
//!
//! The root key never comes to a controller for this, and the new key never leaves the controllers: each that stays finds
//! a copy in the database, sealed to the newest key that it opens control frames with.

use super::{Due, Keyring, KeyringError, SignError, Signer};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};
use trust::{
    KeyRole, RootHash, SealKey, SigningKey, TrustBundle, UnixMs, VerifyingKey, decode_base64url,
    encode_base64url,
};
use wire::{ControllerId, InstallationId};

/// The copies' name among the database's trust documents.
pub(crate) const ROTATION_COPIES: &str = "rotation-key";
const INFO: &[u8] = b"tidegate/rotation-key/1";
/// With this much of its life left a rotation key is an alarm: replacing it needs somebody with the recovery phrase.
const ALARM_BEFORE_END: Duration = Duration::from_secs(90 * 24 * 3600);

/// A rotation key that waits for the root's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RotationOffer {
    /// The installation.
    pub(crate) installation: InstallationId,
    /// The root that has to sign.
    pub(crate) root: RootHash,
    /// The number that the key would have.
    pub(crate) epoch: u64,
    /// The key.
    pub(crate) rotation: VerifyingKey,
}

/// What a root signed is not for the key that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// Nothing was asked for, or this process started since.
    #[error("no rotation key waits for a signature at this controller: ask for one first")]
    NoneOffered,
    /// The chain got another number meanwhile.
    #[error(
        "the chain has rotation key {held} already, and the signature is for number {got}: ask for a new key"
    )]
    NotNewer {
        /// What is held.
        held: u64,
        /// What was signed.
        got: u64,
    },
}

/// The new key for every controller that stays.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copies {
    epoch: u64,
    copies: BTreeMap<ControllerId, String>,
}

/// A chain under another rotation key, and what the other controllers need of it.
pub(crate) struct Replacing {
    /// The chain, with the private halves.
    pub(crate) due: Due,
    /// The document for the database.
    pub(crate) copies: String,
    /// What everything that is sealed for controllers alone is sealed with from now on.
    pub(crate) secret: [u8; 32],
}

fn copies(key: &SigningKey, bundle: &TrustBundle, wall: UnixMs) -> Result<String, SignError> {
    let mut newest = BTreeMap::new();
    for open in bundle.keys(KeyRole::ControlSeal).filter(|open| open.exp > wall) {
        let held = newest.entry(open.owner).or_insert(open);
        if open.nbf > held.nbf {
            *held = open;
        }
    }
    let mut copies = BTreeMap::new();
    for (controller, open) in newest {
        let public: [u8; 32] = open.public.as_slice().try_into().expect("a bundle's keys have their length");
        let sealed = SealKey::from_bytes(public)
            .seal(INFO, &associated(bundle, controller), key.expose_seed())
            .map_err(|error| KeyringError::Decode(format!("the key of {controller}: {error}")))?;
        copies.insert(controller, encode_base64url(&sealed));
    }
    let copies = Copies { epoch: bundle.epoch(), copies };
    Ok(serde_json::to_string(&copies).expect("text and numbers always serialize"))
}

/// A copy opens for one controller and one number.
fn associated(bundle: &TrustBundle, controller: ControllerId) -> Vec<u8> {
    format!("{}/{}/{controller}", bundle.installation(), bundle.epoch()).into_bytes()
}

/// The rotation key of `bundle` among the copies, when there is one that `ring` opens.
pub(super) fn own_copy(ring: &Keyring, bundle: &TrustBundle, document: &str) -> Option<SigningKey> {
    let copies: Copies = serde_json::from_str(document).ok()?;
    let sealed = decode_base64url(copies.copies.get(&ring.controller)?).ok()?;
    let associated = associated(bundle, ring.controller);
    let mut seeds =
        ring.open_keys().ok()?.into_iter().filter_map(|key| key.open(INFO, &associated, &sealed).ok());
    let key = SigningKey::from_seed(&seeds.next()?.try_into().ok()?);
    (key.verifying_key() == bundle.rotation()).then_some(key)
}

impl Signer {
    /// Makes a rotation key that nothing is signed by until the root has signed for it. The one offered before is
    /// forgotten.
    ///
    /// # Errors
    /// [`SignError::Fenced`].
    pub(crate) fn offer_rotation_key(&self) -> Result<RotationOffer, SignError> {
        self.signing_time()?;
        let key = SigningKey::generate();
        let rotation = key.verifying_key();
        *self.offered.lock().expect("nothing panics while it holds the key") = Some(key);
        let bundle = self.bundle();
        let (installation, root) = (bundle.installation(), bundle.root());
        Ok(RotationOffer { installation, root, epoch: bundle.epoch() + 1, rotation })
    }

    /// The chain under the key that was offered, for which the root has signed. Nothing is changed by this.
    ///
    /// # Errors
    /// [`SignError`]: the signature is for another key, of another root, outside its time, or too late.
    pub(crate) fn under_rotation(
        &self,
        signed: &str,
        without: &[ControllerId],
    ) -> Result<Replacing, SignError> {
        let wall = self.signing_time()?;
        let offered = self.offered.lock().expect("nothing panics while it holds the key");
        let key = offered.as_ref().ok_or(RotationError::NoneOffered)?;
        let (ring, chain, held) = self.keys(|keys| {
            let made = keys.ring.under_rotation(key, signed, without, &keys.chain, &keys.bundle, wall);
            made.map(|(ring, chain)| (ring, chain, keys.bundle.epoch()))
        })?;
        let bundle = chain.verify(&self.root, wall)?;
        if bundle.epoch() <= held && !planted::is("rotation-keys-of-any-number") {
            return Err(RotationError::NotNewer { held, got: bundle.epoch() }.into());
        }
        let copies = copies(key, &bundle, wall)?;
        Ok(Replacing { due: Due { ring, chain }, copies, secret: *key.expose_seed() })
    }

    /// The offered key is in use: another one is made when somebody asks again.
    pub(crate) fn rotation_key_is_used(&self) {
        *self.offered.lock().expect("nothing panics while it holds the key") = None;
    }

    /// When the rotation key ends, and an alarm in words when that is near: no document of this installation is believed
    /// from then on, and nothing but a person with the root key puts another one in its place.
    #[must_use]
    pub fn rotation_key_end(&self) -> (UnixMs, Option<String>) {
        let end = self.bundle().rotation_end();
        let left = end.since(self.unfenced_time());
        let alarm = (left < ALARM_BEFORE_END).then(|| {
            format!(
                "the rotation key ends in {} days, and then nothing that this installation signs is believed: replace it with tidegate admin root new-rotation-key",
                left.as_secs() / 86_400
            )
        });
        (end, alarm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::first_start;
    use state::StateDir;
    use std::sync::Arc;
    use trust::{MAX_ROTATION_LIFE, RotationStatement, TrustChain};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn opened(path: &std::path::Path) -> Signer {
        Signer::open(Arc::new(StateDir::open(path, trust::Role::Controller).unwrap())).unwrap()
    }

    fn signed(root: &SigningKey, offer: &RotationOffer, nbf: UnixMs) -> String {
        let statement = RotationStatement {
            installation: offer.installation,
            root: root.verifying_key(),
            rotation: offer.rotation,
            epoch: offer.epoch,
            nbf,
            exp: nbf.plus(MAX_ROTATION_LIFE),
        };
        TrustChain::sign_rotation(root, &statement).unwrap()
    }

    struct Here {
        _directory: tempfile::TempDir,
        path: std::path::PathBuf,
        root: SigningKey,
    }

    fn here() -> Here {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controller");
        let made = first_start(&path).unwrap();
        let phrase = made.phrase.to_secret_text();
        drop(made);
        let root = crate::open_root_file(&path.join("root.sealed"), &phrase).unwrap();
        Here { _directory: directory, path, root }
    }

    #[test]
    fn a_key_that_the_root_signed_for_signs_bundles_and_the_one_of_before_none_that_anybody_takes() {
        let here = here();
        let signer = opened(&here.path);
        let (before, old_chain) = (signer.bundle(), signer.chain_text());
        let old = signer.shared_secret().unwrap();
        let offer = signer.offer_rotation_key().unwrap();
        let wall = crate::clock::wall();
        signer.replace_rotation_key(&signed(&here.root, &offer, wall.minus(DAY)), &[]).unwrap();
        let after = signer.bundle();
        assert_eq!((after.epoch(), after.serial()), (2, before.serial() + 1));
        assert_eq!(after.rotation(), offer.rotation);
        assert!(after.rotation_end() > before.rotation_end().minus(DAY));
        assert!(after.all_keys().eq(before.all_keys()), "what was signed is believed as before");
        assert_ne!(signer.shared_secret().unwrap(), old);
        // An agent that has it goes back to nothing that the old key signs, whatever number it gives.
        let forged = trust::BundleStatement {
            installation: before.installation(),
            serial: 99,
            iat: wall,
            keys: before.all_keys().cloned().collect(),
        };
        let forged = TrustChain::parse(&old_chain)
            .unwrap()
            .with_bundle(&SigningKey::from_seed(&old), &forged)
            .unwrap();
        let forged = forged.verify(&signer.root(), wall).unwrap();
        let mut held = (*after).clone();
        assert!(matches!(held.replace_with(forged), Err(trust::ChainError::Older { .. })));
        // The next start has it from the disk, and replaces keys under it.
        drop(signer);
        let again = opened(&here.path);
        assert_eq!(*again.bundle(), *after);
        again.rotate_now(Duration::from_secs(1)).unwrap();
        assert_eq!((again.bundle().epoch(), again.bundle().serial()), (2, after.serial() + 1));
    }

    #[test]
    fn a_signature_for_another_key_or_by_another_root_or_asked_for_too_early_changes_nothing() {
        let here = here();
        let signer = opened(&here.path);
        let before = signer.chain_text();
        let wall = crate::clock::wall();
        let refused = |signed: &str, expected: &str| {
            let error = signer.replace_rotation_key(signed, &[]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(signer.chain_text(), before);
        };
        refused("anything", "no rotation key waits");
        let first = signer.offer_rotation_key().unwrap();
        let second = signer.offer_rotation_key().unwrap();
        refused(&signed(&here.root, &first, wall.minus(DAY)), "bundle");
        refused(&signed(&SigningKey::generate(), &second, wall.minus(DAY)), "not the pinned root");
        refused(&signed(&here.root, &RotationOffer { epoch: 1, ..second }, wall.minus(DAY)), "number 1");
        refused(&signed(&here.root, &second, wall.plus(DAY)), "not valid now");
        refused("not a token", "rotation");
        let unknown = ControllerId::from_bytes([9; 16]);
        let good = signed(&here.root, &second, wall.minus(DAY));
        assert!(signer.replace_rotation_key(&good, &[unknown]).is_err());
        assert!(signer.replace_rotation_key(&good, &[signer.controller()]).is_err());
        assert_eq!(signer.chain_text(), before);
        signer.replace_rotation_key(&good, &[]).unwrap();
    }

    #[test]
    fn a_crash_between_keyring_and_chain_leaves_the_key_of_before_in_use() {
        let here = here();
        let signer = opened(&here.path);
        let chain = std::fs::read(here.path.join(state::names::CHAIN)).unwrap();
        let offer = signer.offer_rotation_key().unwrap();
        let wall = crate::clock::wall();
        signer.replace_rotation_key(&signed(&here.root, &offer, wall.minus(DAY)), &[]).unwrap();
        drop(signer);
        std::fs::write(here.path.join(state::names::CHAIN), chain).unwrap();
        let again = opened(&here.path);
        assert_eq!(again.bundle().epoch(), 1);
        again.rotate_now(Duration::from_secs(1)).unwrap();
        let offer = again.offer_rotation_key().unwrap();
        again.replace_rotation_key(&signed(&here.root, &offer, wall.minus(DAY)), &[]).unwrap();
        assert_eq!((again.bundle().epoch(), again.bundle().rotation()), (2, offer.rotation));
    }

    #[test]
    fn a_rotation_key_that_nobody_replaces_is_an_alarm_three_months_before_its_end() {
        let here = here();
        let signer = opened(&here.path);
        assert_eq!(signer.rotation_key_end().1, None);
        let offer = signer.offer_rotation_key().unwrap();
        let old = crate::clock::wall().minus(MAX_ROTATION_LIFE).plus(89 * DAY);
        signer.replace_rotation_key(&signed(&here.root, &offer, old), &[]).unwrap();
        let (_, alarm) = signer.rotation_key_end();
        assert!(alarm.unwrap().contains("ends in 88 days"), "{:?}", signer.rotation_key_end());
    }
}
