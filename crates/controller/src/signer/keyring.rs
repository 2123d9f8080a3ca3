//! The private halves of the bundle's keys of one controller, and when each is used.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use trust::{
    BundleKey, BundleStatement, KeyRole, MAX_KEY_LIFE, OpenKey, RotationStatement, SigningKey, TrustBundle,
    TrustChain, UnixMs, decode_base64url, encode_base64url,
};
use wire::{ControllerId, InstallationId};

/// A key is replaced while a third of its life is left: 30 days, which is more than the longest
/// lease (a certificate's 30 days start only when it is issued by a newer key).
const REPLACE_BEFORE_END: Duration = Duration::from_secs(30 * 24 * 3600);
/// A new key signs only when every agent has had a day to receive the bundle that names it.
const PUBLISHED_BEFORE_USE: Duration = Duration::from_secs(24 * 3600);

/// The bundle takes 128; one regular replacement has to fit beside what is there.
const MOST_KEYS: usize = 128;

/// New keys are dated back for agents whose clocks are behind.
const BACKDATED: Duration = Duration::from_secs(300);

/// The keyring cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// It does not decode.
    #[error("the keyring does not decode: {0}")]
    Decode(String),
    /// No key of a role is valid.
    #[error("no {0:?} key of this controller is valid now; is the clock right?")]
    NoKey(KeyRole),
    /// The chain could not be signed.
    #[error(transparent)]
    Chain(#[from] trust::ChainError),
    /// A key could not be made.
    #[error("the console CA's key could not be made: {0}")]
    ConsoleCa(#[from] rcgen::Error),
    /// The rotation key was replaced where this controller did not hear of it.
    #[error(
        "the installation's rotation key was replaced, and this controller has no copy of the new one: it gets one from the \
         database when it runs, unless it was removed"
    )]
    NoRotationKey,
    /// Whoever replaces the rotation key is to keep one controller at least.
    #[error("{0} is this controller: ask one that stays")]
    Itself(ControllerId),
    /// Nobody of that name.
    #[error("the trust bundle has no key of {0}")]
    Unknown(ControllerId),
    /// Rotated so often that the older keys, which still have to be believed, fill the bundle.
    #[error(
        "there are {0} keys already, and those of before are believed until they end: wait until some have"
    )]
    TooMany(usize),
}

/// One private key with its place in the bundle.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    role: KeyRole,
    private: String,
    public: String,
    nbf: UnixMs,
    exp: UnixMs,
    /// It signs from here on, when somebody said so; else a day after it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    use_from: Option<UnixMs>,
}

impl StoredKey {
    fn used_from(&self) -> UnixMs {
        self.use_from.unwrap_or_else(|| self.nbf.plus(PUBLISHED_BEFORE_USE))
    }
}

/// What is stored, sealed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keyring {
    pub(crate) installation: InstallationId,
    pub(crate) controller: ControllerId,
    identity: String,
    rotation: String,
    /// A rotation key that a root has signed for, until the chain that has it is here too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_rotation: Option<String>,
    serial: u64,
    keys: Vec<StoredKey>,
    /// What the bundle names of other controllers: theirs to replace, and kept with each bundle made here.
    #[serde(skip)]
    others: Vec<BundleKey>,
    /// The chain has a rotation key that is not here.
    #[serde(skip)]
    lacks_rotation: bool,
}

fn seed_of(text: &str) -> Result<[u8; 32], KeyringError> {
    decode_base64url(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| KeyringError::Decode("a seed is not 32 bytes".into()))
}

impl StoredKey {
    fn generate(role: KeyRole, nbf: UnixMs) -> Result<Self, KeyringError> {
        let (private, public) = match role {
            KeyRole::ConsoleCa => {
                let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                (pair.serialize_der(), pair.public_key_raw().to_vec())
            }
            KeyRole::ControlSeal => {
                let key = OpenKey::generate();
                (key.expose_private().to_vec(), key.seal_key().as_bytes().to_vec())
            }
            _ => {
                let key = SigningKey::generate();
                (key.expose_seed().to_vec(), key.verifying_key().as_bytes().to_vec())
            }
        };
        Ok(Self {
            role,
            private: encode_base64url(&private),
            public: encode_base64url(&public),
            nbf,
            exp: nbf.plus(MAX_KEY_LIFE),
            use_from: None,
        })
    }

    fn to_bundle_key(&self, owner: ControllerId) -> Result<BundleKey, KeyringError> {
        let public =
            decode_base64url(&self.public).map_err(|error| KeyringError::Decode(error.to_string()))?;
        Ok(BundleKey { role: self.role, owner, public, nbf: self.nbf, exp: self.exp })
    }
}

impl Keyring {
    /// Fresh keys of every role, and the chain that says so.
    pub(crate) fn generate(
        installation: InstallationId,
        controller: ControllerId,
        root: &SigningKey,
        wall: UnixMs,
    ) -> Result<(Self, TrustChain), KeyringError> {
        let nbf = wall.minus(BACKDATED);
        let rotation = SigningKey::generate();
        let statement = RotationStatement {
            installation,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf,
            exp: nbf.plus(trust::MAX_ROTATION_LIFE),
        };
        let keys =
            KeyRole::ALL.into_iter().map(|role| StoredKey::generate(role, nbf)).collect::<Result<_, _>>()?;
        let ring = Self {
            installation,
            controller,
            identity: encode_base64url(SigningKey::generate().expose_seed()),
            rotation: encode_base64url(rotation.expose_seed()),
            next_rotation: None,
            serial: 1,
            keys,
            others: Vec::new(),
            lacks_rotation: false,
        };
        let chain = TrustChain::sign(root, &rotation, &statement, &ring.bundle(wall)?)?;
        Ok((ring, chain))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, KeyringError> {
        serde_json::from_slice(bytes).map_err(|error| KeyringError::Decode(error.to_string()))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers always serialize")
    }

    /// Keys of one more controller of an installation that has `bundle`, and the chain that names them beside the others.
    pub(crate) fn joining(
        &self,
        controller: ControllerId,
        chain: &TrustChain,
        bundle: &TrustBundle,
        wall: UnixMs,
    ) -> Result<(Self, TrustChain), KeyringError> {
        let nbf = wall.minus(BACKDATED);
        let keys =
            KeyRole::ALL.into_iter().map(|role| StoredKey::generate(role, nbf)).collect::<Result<_, _>>()?;
        let mut next = Self {
            installation: self.installation,
            controller,
            identity: encode_base64url(SigningKey::generate().expose_seed()),
            rotation: self.rotation.clone(),
            next_rotation: None,
            serial: bundle.serial() + 1,
            keys,
            others: Vec::new(),
            lacks_rotation: false,
        };
        next.others = next.of_others(bundle);
        next.room()?;
        let chain = chain.with_bundle(&self.rotation_key()?, &next.bundle(wall)?)?;
        Ok((next, chain))
    }

    /// The chain without any key of a controller.
    pub(crate) fn without(
        &self,
        controller: ControllerId,
        chain: &TrustChain,
        bundle: &TrustBundle,
        wall: UnixMs,
    ) -> Result<TrustChain, KeyringError> {
        let keys = bundle.all_keys().filter(|key| key.owner != controller).cloned().collect();
        let statement =
            BundleStatement { installation: self.installation, serial: bundle.serial() + 1, iat: wall, keys };
        Ok(chain.with_bundle(&self.rotation_key()?, &statement)?)
    }

    /// The chain under another rotation key, which a root has signed for, and without any key of the controllers in
    /// `without`. Whoever held the rotation key of before can name no key any more.
    pub(crate) fn under_rotation(
        &self,
        rotation: &SigningKey,
        signed: &str,
        without: &[ControllerId],
        chain: &TrustChain,
        bundle: &TrustBundle,
        wall: UnixMs,
    ) -> Result<(Self, TrustChain), KeyringError> {
        if without.contains(&self.controller) {
            return Err(KeyringError::Itself(self.controller));
        }
        if let Some(unknown) = without.iter().find(|id| bundle.all_keys().all(|key| key.owner != **id)) {
            return Err(KeyringError::Unknown(*unknown));
        }
        let mut next = self.clone();
        next.others = next.of_others(bundle);
        next.others
            .retain(|key| !without.contains(&key.owner) || planted::is("stolen-controllers-stay-named"));
        next.serial = bundle.serial() + 1;
        next.next_rotation = Some(encode_base64url(rotation.expose_seed()));
        let chain = chain.with_rotation(signed, rotation, &next.bundle(wall)?)?;
        Ok((next, chain))
    }

    /// Keeps a rotation key beside the one held, for the chain that has it.
    pub(crate) fn with_next_rotation(mut self, rotation: &SigningKey) -> Self {
        self.next_rotation = Some(encode_base64url(rotation.expose_seed()));
        self
    }

    /// Whether one of the rotation keys here is the one that signed `bundle`.
    pub(crate) fn has_rotation_of(&self, bundle: &TrustBundle) -> bool {
        self.clone().settled_on(bundle).is_ok_and(|ring| !ring.lacks_rotation)
    }

    /// Of the rotation keys here the one that signed `bundle` is the one from now on. The other stays only while it may
    /// still be that of a chain on its way.
    fn settled_on(mut self, bundle: &TrustBundle) -> Result<Self, KeyringError> {
        let signed = |seed: &str| {
            seed_of(seed).map(|seed| SigningKey::from_seed(&seed).verifying_key() == bundle.rotation())
        };
        match &self.next_rotation {
            Some(next) if signed(next)? => {
                self.rotation.clone_from(next);
                self.next_rotation = None;
                self.lacks_rotation = false;
            }
            _ => self.lacks_rotation = !signed(&self.rotation)?,
        }
        Ok(self)
    }

    fn rotation_key(&self) -> Result<SigningKey, KeyringError> {
        if self.lacks_rotation {
            return Err(KeyringError::NoRotationKey);
        }
        Ok(SigningKey::from_seed(&seed_of(&self.rotation)?))
    }

    fn of_others(&self, bundle: &TrustBundle) -> Vec<BundleKey> {
        bundle.all_keys().filter(|key| key.owner != self.controller).cloned().collect()
    }

    /// The same keys beside what `bundle` names of other controllers, and the rotation key that signed it.
    pub(crate) fn beside(self, bundle: &TrustBundle) -> Result<Self, KeyringError> {
        let mut next = self.settled_on(bundle)?;
        next.others = next.of_others(bundle);
        next.serial = next.serial.max(bundle.serial());
        Ok(next)
    }

    /// Whether other controllers have keys, too: then the chain changes in the database, in one order for all.
    pub(crate) fn is_one_of_several(&self) -> bool {
        !self.others.is_empty()
    }

    /// Whether `bundle` has a key of this controller: one that was removed does not put itself back.
    pub(crate) fn is_named_by(&self, bundle: &TrustBundle) -> bool {
        bundle.all_keys().any(|key| key.owner == self.controller)
    }

    /// Forgets keys that nobody was told of.
    pub(crate) fn only_named_by(mut self, bundle: &TrustBundle) -> Result<Self, KeyringError> {
        let mut kept = Vec::with_capacity(self.keys.len());
        for key in std::mem::take(&mut self.keys) {
            let public = key.to_bundle_key(self.controller)?.public;
            if bundle.all_keys().any(|named| named.role == key.role && named.public == public) {
                kept.push(key);
            }
        }
        self.keys = kept;
        Ok(self)
    }

    /// A secret that every controller of the installation can make, and the database cannot.
    pub(crate) fn shared_secret(&self) -> Result<[u8; 32], KeyringError> {
        if self.lacks_rotation { Err(KeyringError::NoRotationKey) } else { seed_of(&self.rotation) }
    }

    fn room(&self) -> Result<(), KeyringError> {
        let all = self.keys.len() + self.others.len();
        if all + KeyRole::ALL.len() > MOST_KEYS { Err(KeyringError::TooMany(all)) } else { Ok(()) }
    }

    fn bundle(&self, wall: UnixMs) -> Result<BundleStatement, KeyringError> {
        let own = self.keys.iter().map(|key| key.to_bundle_key(self.controller));
        let others = self.others.iter().filter(|key| key.exp > wall).cloned().map(Ok);
        let keys = own.chain(others).collect::<Result<_, _>>()?;
        Ok(BundleStatement { installation: self.installation, serial: self.serial, iat: wall, keys })
    }

    /// Makes ring and chain agree again. A crash between writing the one and the other, or one of them
    /// restored alone, leaves keys that nobody was told of, or names of keys that are lost. `None` when they
    /// agree.
    pub(crate) fn reconciled(
        &self,
        chain: &TrustChain,
        bundle: &TrustBundle,
        wall: UnixMs,
    ) -> Result<Option<(Self, TrustChain)>, KeyringError> {
        let mut next = self.clone();
        let named = |key: &StoredKey| -> Result<bool, KeyringError> {
            let public = key.to_bundle_key(self.controller)?.public;
            Ok(bundle.all_keys().any(|named| named.role == key.role && named.public == public))
        };
        let mut unnamed = 0;
        for key in &mut next.keys {
            if !named(key)? {
                unnamed += 1;
                // Its day of publication begins now.
                key.nbf = wall.minus(BACKDATED);
                key.exp = key.nbf.plus(MAX_KEY_LIFE);
            }
        }
        let own = bundle.all_keys().filter(|key| key.owner == self.controller).count();
        if unnamed == 0 && own == next.keys.len() && self.serial == bundle.serial() {
            return Ok(None);
        }
        next.serial = self.serial.max(bundle.serial() + 1);
        let chain = chain.with_bundle(&self.rotation_key()?, &next.bundle(wall)?)?;
        Ok(Some((next, chain)))
    }

    /// Replaces keys that near their end and drops those behind it. `None` when nothing is due.
    pub(crate) fn rotated(
        &self,
        chain: &TrustChain,
        wall: UnixMs,
    ) -> Result<Option<(Self, TrustChain)>, KeyringError> {
        let mut next = self.clone();
        next.keys.retain(|key| key.exp > wall);
        for role in KeyRole::ALL {
            let newest = next.keys.iter().filter(|key| key.role == role).map(|key| key.exp).max();
            if newest.is_none_or(|exp| exp <= wall.plus(REPLACE_BEFORE_END)) {
                next.keys.push(StoredKey::generate(role, wall.minus(BACKDATED))?);
            }
        }
        let same = next.keys.len() == self.keys.len()
            && next.keys.iter().zip(&self.keys).all(|(a, b)| a.public == b.public);
        if same {
            return Ok(None);
        }
        next.serial += 1;
        let chain = chain.with_bundle(&self.rotation_key()?, &next.bundle(wall)?)?;
        Ok(Some((next, chain)))
    }

    /// New keys of every role now, because somebody says so: they sign after `published_for`. What the keys of before
    /// have signed stays good to its end.
    ///
    /// # Errors
    /// [`KeyringError::TooMany`].
    pub(crate) fn renewed(
        &self,
        chain: &TrustChain,
        wall: UnixMs,
        published_for: Duration,
    ) -> Result<(Self, TrustChain), KeyringError> {
        let mut next = self.clone();
        next.keys.retain(|key| key.exp > wall);
        if planted::is("rotation-drops-the-keys-of-before") {
            next.keys.clear();
        }
        if next.keys.len() + next.others.len() + 2 * KeyRole::ALL.len() > MOST_KEYS {
            return Err(KeyringError::TooMany(next.keys.len() + next.others.len()));
        }
        for role in KeyRole::ALL {
            let mut key = StoredKey::generate(role, wall.minus(BACKDATED))?;
            key.use_from = Some(wall.plus(published_for));
            next.keys.push(key);
        }
        next.serial += 1;
        let chain = chain.with_bundle(&self.rotation_key()?, &next.bundle(wall)?)?;
        Ok((next, chain))
    }

    /// The role whose newest key ends first, and when that is: with all keys replaced in time it is far away.
    pub(crate) fn next_end(&self) -> Option<(KeyRole, UnixMs)> {
        let newest = |role| self.keys.iter().filter(|key| key.role == role).map(|key| key.exp).max();
        let ends = KeyRole::ALL.into_iter().map(|role| (role, newest(role).unwrap_or_default()));
        ends.min_by_key(|(_, end)| *end)
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn identity(&self) -> Result<SigningKey, KeyringError> {
        Ok(SigningKey::from_seed(&seed_of(&self.identity)?))
    }

    /// The newest key of a role that agents have had time to learn of; the oldest when none has.
    fn current(&self, role: KeyRole, wall: UnixMs) -> Result<&StoredKey, KeyringError> {
        let valid = || self.keys.iter().filter(|key| key.role == role && key.exp > wall);
        valid()
            .filter(|key| key.used_from() <= wall || planted::is("key-is-used-before-it-is-published"))
            .max_by_key(|key| key.nbf)
            .or_else(|| valid().min_by_key(|key| key.nbf))
            .ok_or(KeyringError::NoKey(role))
    }

    pub(crate) fn signing(&self, role: KeyRole, wall: UnixMs) -> Result<SigningKey, KeyringError> {
        Ok(SigningKey::from_seed(&seed_of(&self.current(role, wall)?.private)?))
    }

    /// Every key that agents may have sealed to.
    pub(crate) fn open_keys(&self) -> Result<Vec<OpenKey>, KeyringError> {
        let keys = self.keys.iter().filter(|key| key.role == KeyRole::ControlSeal);
        keys.map(|key| {
            OpenKey::from_private(&seed_of(&key.private)?)
                .map_err(|error| KeyringError::Decode(error.to_string()))
        })
        .collect()
    }

    /// The console CA's key pair and when it ends.
    pub(crate) fn console_ca(&self, wall: UnixMs) -> Result<(KeyPair, UnixMs), KeyringError> {
        let key = self.current(KeyRole::ConsoleCa, wall)?;
        let der = decode_base64url(&key.private).map_err(|error| KeyringError::Decode(error.to_string()))?;
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(der);
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)?;
        Ok((pair, key.exp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trust::RootHash;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn keys_are_replaced_before_their_end_and_used_only_after_a_day() {
        let start = UnixMs::from_millis(1_800_000_000_000);
        let root = SigningKey::from_seed(&[1; 32]);
        let (installation, controller) =
            (InstallationId::from_bytes([1; 16]), ControllerId::from_bytes([2; 16]));
        let (ring, chain) = Keyring::generate(installation, controller, &root, start).unwrap();
        let pinned = RootHash::of(&root.verifying_key());
        assert_eq!(chain.verify(&pinned, start).unwrap().all_keys().count(), KeyRole::ALL.len());
        assert!(ring.rotated(&chain, start.plus(59 * DAY)).unwrap().is_none());

        let later = start.plus(61 * DAY);
        let (newer, newer_chain) = ring.rotated(&chain, later).unwrap().expect("a third of the life is left");
        let bundle = newer_chain.verify(&pinned, later).unwrap();
        assert_eq!((bundle.serial(), bundle.all_keys().count()), (2, 2 * KeyRole::ALL.len()));
        let grant_key = |ring: &Keyring, wall| ring.signing(KeyRole::Grant, wall).unwrap().verifying_key();
        assert_eq!(grant_key(&newer, later), grant_key(&ring, later));
        assert_ne!(grant_key(&newer, later.plus(DAY)), grant_key(&ring, later));

        let end = start.plus(90 * DAY);
        let (last, _) = newer.rotated(&newer_chain, end).unwrap().expect("the first keys have ended");
        assert_eq!(last.keys.len(), KeyRole::ALL.len());
    }

    #[test]
    fn keys_that_somebody_replaces_sign_when_told_to_and_those_of_before_stay_named() {
        let wall = UnixMs::from_millis(1_800_000_000_000);
        let root = SigningKey::from_seed(&[1; 32]);
        let ids = (InstallationId::from_bytes([1; 16]), ControllerId::from_bytes([2; 16]));
        let (mut ring, mut chain) = Keyring::generate(ids.0, ids.1, &root, wall).unwrap();
        let pinned = RootHash::of(&root.verifying_key());
        let key = |ring: &Keyring, wall| ring.signing(KeyRole::Slice, wall).unwrap().verifying_key();
        let first = key(&ring, wall);
        let ten = Duration::from_secs(10);
        let (newer, newer_chain) = ring.renewed(&chain, wall, ten).unwrap();
        assert_eq!(newer_chain.verify(&pinned, wall).unwrap().all_keys().count(), 2 * KeyRole::ALL.len());
        assert_eq!(key(&newer, wall.plus(ten).minus(Duration::from_millis(1))), first);
        assert_ne!(key(&newer, wall.plus(ten)), first);
        assert_eq!(
            Keyring::decode(&newer.encode()).unwrap().keys.last().unwrap().use_from,
            Some(wall.plus(ten))
        );
        // Somebody who goes on and on is stopped before agents would refuse the bundle, and time helps.
        let refused = loop {
            match ring.renewed(&chain, wall, ten) {
                Ok(next) => (ring, chain) = next,
                Err(error) => break error,
            }
            chain.verify(&pinned, wall).unwrap();
        };
        assert!(matches!(refused, KeyringError::TooMany(_)), "{refused}");
        let (regular, regular_chain) = ring.rotated(&chain, wall.plus(61 * DAY)).unwrap().unwrap();
        regular_chain.verify(&pinned, wall.plus(61 * DAY)).unwrap();
        assert!(regular.renewed(&regular_chain, wall.plus(91 * DAY), ten).is_ok());
    }

    #[test]
    fn a_keyring_survives_the_disk() {
        let root = SigningKey::from_seed(&[1; 32]);
        let wall = UnixMs::from_millis(1_800_000_000_000);
        let ids = (InstallationId::from_bytes([1; 16]), ControllerId::from_bytes([2; 16]));
        let (ring, _) = Keyring::generate(ids.0, ids.1, &root, wall).unwrap();
        let back = Keyring::decode(&ring.encode()).unwrap();
        assert_eq!(back.identity().unwrap().verifying_key(), ring.identity().unwrap().verifying_key());
        back.console_ca(wall).unwrap();
        assert_eq!(back.open_keys().unwrap().len(), 1);
    }
}
