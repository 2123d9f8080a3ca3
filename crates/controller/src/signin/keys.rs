//! The secrets behind web sessions: made here, kept sealed in the controller's state, replaced by time. Several controllers
//! share them by the database, sealed under what only controllers have; each verifies from its own memory and disk.
//!
//! One secret a generation; what is used is derived from it, a key for each purpose (RFC 5869): a text of one
//! purpose is nothing under another. Old generations go on opening what is sealed in the database, and go on
//! verifying cookies for as long as a cookie lives.

use crate::clock;
use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
};
use serde::{Deserialize, Serialize};
use state::{StateDir, StateError};
use std::{
    sync::{Arc, RwLock},
    time::Duration,
};
use trust::{UnixMs, decode_base64url, encode_base64url};

/// The file in the state directory's sealed part.
pub(crate) const FILE: &str = "web-keys";
/// A new secret each quarter: the same life as every signing key (architecture: ≤ 90 days).
pub(crate) const REPLACE_AFTER: Duration = Duration::from_secs(90 * 24 * 3600);
/// Generations that are kept: 64 quarters are 16 years.
const MOST: usize = 64;

/// What a text is for: under another purpose it is nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The cookie of a person who is signed in.
    Session,
    /// The token in that person's forms.
    Form,
    /// Whose browser it is, of one that signed in before.
    KnownBrowser,
    /// Between the two factors of a sign-in.
    SecondFactor,
    /// A passkey is being registered.
    PasskeyRegistration,
    /// Somebody signs in with a passkey.
    PasskeySignIn,
    /// Somebody is at an OpenID provider.
    Provider,
    /// A TOTP secret that was shown and not yet confirmed.
    TotpSetup,
    /// A TOTP secret in the database.
    TotpSecret,
    /// A provider's client secret in the database.
    ClientSecret,
    /// These secrets themselves, for the other controllers.
    SharedKeys,
}

/// Longer than any holiday; written anew with each sign-in.
pub(crate) const KNOWN_BROWSER_LIFE: Duration = Duration::from_secs(180 * 24 * 3600);
/// By how much the clocks of two controllers may differ.
const AHEAD: Duration = Duration::from_secs(60);

impl Purpose {
    /// How long what is sealed for this lives at most.
    const fn longest(self) -> Duration {
        match self {
            Self::KnownBrowser => KNOWN_BROWSER_LIFE,
            _ => Duration::from_secs(900),
        }
    }

    /// Part of the key's derivation: never changed, for what is sealed stays sealed.
    const fn info(self) -> &'static [u8] {
        match self {
            Self::Session => b"tidegate/web-session/1",
            Self::Form => b"tidegate/web-form/1",
            Self::KnownBrowser => b"tidegate/known-browser/1",
            Self::SecondFactor => b"tidegate/second-factor/1",
            Self::PasskeyRegistration => b"tidegate/passkey-registration/1",
            Self::PasskeySignIn => b"tidegate/passkey-sign-in/1",
            Self::Provider => b"tidegate/provider/1",
            Self::TotpSetup => b"tidegate/totp-setup/1",
            Self::TotpSecret => b"tidegate/totp-secret/1",
            Self::ClientSecret => b"tidegate/client-secret/1",
            Self::SharedKeys => b"tidegate/shared-web-keys/1",
        }
    }
}

impl Purpose {
    /// What is sealed lies in the database, and nobody brings it.
    const fn is_kept_here(self) -> bool {
        matches!(self, Self::TotpSecret | Self::ClientSecret)
    }
}

/// One secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Generation {
    id: u32,
    secret: String,
    made: UnixMs,
    /// Somebody else knows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    retired: bool,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ring {
    generations: Vec<Generation>,
}

/// A generation, decoded.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    id: u32,
    made: UnixMs,
    secret: [u8; 32],
    /// Opens what is sealed in the database, and nothing that a browser brings.
    retired: bool,
}

/// The secrets of one controller.
pub(crate) struct WebKeys {
    directory: Option<Arc<StateDir>>,
    ring: RwLock<Vec<Key>>,
}

impl std::fmt::Debug for WebKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebKeys").finish_non_exhaustive()
    }
}

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebKeysError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// What is there is no key ring.
    #[error(
        "the keys of web sessions do not decode ({0}); restore them, or remove the file and sign in anew"
    )]
    Decode(String),
}

fn ring_of(bytes: &[u8]) -> Result<Vec<Key>, WebKeysError> {
    let ring: Ring =
        serde_json::from_slice(bytes).map_err(|error| WebKeysError::Decode(error.to_string()))?;
    let mut keys = Vec::with_capacity(ring.generations.len());
    for generation in ring.generations {
        let secret = decode_base64url(&generation.secret).ok().and_then(|bytes| bytes.try_into().ok());
        let secret = secret.ok_or_else(|| WebKeysError::Decode("a secret is not 32 bytes".into()))?;
        let Generation { id, made, retired, .. } = generation;
        keys.push(Key { id, made, secret, retired });
    }
    if keys.is_empty() {
        return Err(WebKeysError::Decode("there is none".into()));
    }
    Ok(keys)
}

impl WebKeys {
    /// Reads them, or makes the first.
    ///
    /// # Errors
    /// [`WebKeysError`]: a damaged file is not replaced, for what it seals would be lost.
    pub(crate) fn open(directory: Arc<StateDir>) -> Result<Self, WebKeysError> {
        let keys = match directory.read_secret(FILE)? {
            Some(bytes) => ring_of(&bytes)?,
            None => {
                let keys = vec![Key { id: 1, made: clock::wall(), secret: clock::random(), retired: false }];
                write(&directory, &keys)?;
                keys
            }
        };
        Ok(Self { directory: Some(directory), ring: RwLock::new(keys) })
    }

    #[cfg(test)]
    pub(crate) fn of(secrets: &[(u32, [u8; 32])], made: UnixMs) -> Self {
        let key = |(id, secret): &(u32, [u8; 32])| Key { id: *id, made, secret: *secret, retired: false };
        let ring = secrets.iter().map(key).collect();
        Self { directory: None, ring: RwLock::new(ring) }
    }

    fn ring(&self) -> std::sync::RwLockReadGuard<'_, Vec<Key>> {
        self.ring.read().expect("nothing panics while it holds the keys")
    }

    /// Makes a new secret when the newest is old. The old ones stay.
    ///
    /// # Errors
    /// The old ones go on.
    pub(crate) fn rotate_if_due(&self, wall: UnixMs) -> Result<bool, WebKeysError> {
        let mut keys = self.ring().clone();
        if !self.is_due(wall) {
            return Ok(false);
        }
        keys.push(one_more(&keys, wall));
        let too_many = keys.len().saturating_sub(MOST);
        keys.drain(..too_many);
        if let Some(directory) = &self.directory {
            write(directory, &keys)?;
        }
        *self.ring.write().expect("nothing panics while it holds the keys") = keys;
        Ok(true)
    }

    /// Takes what the controllers share. Secrets that only this one has stay; of two with one number theirs is the one.
    /// Says whether anything was new. Blocking.
    ///
    /// # Errors
    /// [`WebKeysError`]: the ones held go on.
    pub(crate) fn adopt(&self, shared: &[u8]) -> Result<bool, WebKeysError> {
        let shared = ring_of(shared)?;
        let held = self.ring().clone();
        let mut next: Vec<_> =
            held.iter().filter(|key| shared.iter().all(|other| other.id != key.id)).copied().collect();
        next.extend(shared);
        next.sort_unstable_by_key(|key| key.id);
        let too_many = next.len().saturating_sub(MOST);
        next.drain(..too_many);
        if next == held {
            return Ok(false);
        }
        if let Some(directory) = &self.directory {
            write(directory, &next)?;
        }
        *self.ring.write().expect("nothing panics while it holds the keys") = next;
        Ok(true)
    }

    /// Whether the newest secret is old.
    pub(crate) fn is_due(&self, wall: UnixMs) -> bool {
        self.ring().last().is_some_and(|newest| wall.since(newest.made) >= REPLACE_AFTER)
    }

    /// Them with one more, for the other controllers; nothing is used before it is adopted.
    pub(crate) fn with_one_more(&self, wall: UnixMs) -> Vec<u8> {
        let mut keys = self.ring().clone();
        keys.push(one_more(&keys, wall));
        encoded(&keys)
    }

    /// Them for the other controllers, as they are.
    pub(crate) fn as_they_are(&self) -> Vec<u8> {
        encoded(&self.ring())
    }

    /// A new one, for the other controllers, and nothing that a browser brings is believed by those of before: somebody
    /// else knows them. What they have sealed in the database still opens.
    pub(crate) fn with_all_retired(&self, wall: UnixMs) -> Vec<u8> {
        let mut keys = self.ring().clone();
        keys.iter_mut().for_each(|key| key.retired = true);
        keys.push(one_more(&keys, wall));
        encoded(&keys)
    }

    fn newest(&self) -> (u32, [u8; 32]) {
        let ring = self.ring();
        let newest = ring.last().expect("a ring has at least one key");
        (newest.id, newest.secret)
    }

    fn secret(&self, id: u32, purpose: Purpose) -> Option<[u8; 32]> {
        let ring = self.ring();
        let key = ring.iter().find(|key| key.id == id)?;
        (!key.retired || purpose.is_kept_here() || planted::is("stolen-secrets-are-believed"))
            .then_some(key.secret)
    }

    /// The code of `body`, and which generation made it.
    pub(crate) fn sign(&self, purpose: Purpose, body: &[u8]) -> (u32, [u8; 32]) {
        let (id, secret) = self.newest();
        (id, mac(&secret, purpose, body))
    }

    /// The code of `body` by a generation that is known.
    pub(crate) fn sign_by(&self, id: u32, purpose: Purpose, body: &[u8]) -> Option<[u8; 32]> {
        self.secret(id, purpose).map(|secret| mac(&secret, purpose, body))
    }

    /// Whether `code` is the one of `body` by generation `id`. Takes the same time wherever they differ.
    pub(crate) fn verify(&self, id: u32, purpose: Purpose, body: &[u8], code: &[u8]) -> bool {
        let Some(secret) = self.secret(id, purpose) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &derive(&secret, purpose));
        hmac::verify(&key, body, code).is_ok()
    }

    /// Seals: generation ‖ nonce ‖ ciphertext and tag, in base64url.
    pub(crate) fn seal(&self, purpose: Purpose, plain: &[u8]) -> String {
        let (id, secret) = self.newest();
        let nonce: [u8; NONCE_LEN] = clock::random();
        let id = id.to_be_bytes();
        let mut body = plain.to_vec();
        cipher(&secret, purpose)
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(id), &mut body)
            .expect("what is sealed here is far below the cipher's limit");
        encode_base64url(&[&id[..], &nonce, &body].concat())
    }

    /// Opens what [`Self::seal`] made for the same purpose.
    pub(crate) fn open_sealed(&self, purpose: Purpose, sealed: &str) -> Option<Vec<u8>> {
        let bytes = decode_base64url(sealed).ok()?;
        let (id, rest) = bytes.split_first_chunk::<4>()?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
        let secret = self.secret(u32::from_be_bytes(*id), purpose)?;
        let mut body = body.to_vec();
        let plain = cipher(&secret, purpose)
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(*id), &mut body)
            .ok()?;
        Some(plain.to_vec())
    }

    /// Seals something small for a browser to bring back until `until`.
    pub(crate) fn seal_until<T: Serialize>(&self, purpose: Purpose, until: UnixMs, what: &T) -> String {
        let bytes = serde_json::to_vec(&(until, what)).expect("what is sealed has a JSON form");
        self.seal(purpose, &bytes)
    }

    /// Opens it, in time.
    pub(crate) fn open_until<T: serde::de::DeserializeOwned>(
        &self,
        purpose: Purpose,
        sealed: &str,
        now: UnixMs,
    ) -> Option<T> {
        let bytes = self.open_sealed(purpose, sealed)?;
        let (until, what): (UnixMs, T) = serde_json::from_slice(&bytes).ok()?;
        // What was sealed by a clock that was ahead has more of its life left than it ever had: it is of the future.
        (now < until && until <= now.plus(purpose.longest() + AHEAD)).then_some(what)
    }
}

fn one_more(keys: &[Key], wall: UnixMs) -> Key {
    let newest = keys.last().map_or(0, |key| key.id);
    Key { id: newest.wrapping_add(1), made: wall, secret: clock::random(), retired: false }
}

fn write(directory: &StateDir, keys: &[Key]) -> Result<(), StateError> {
    directory.write_secret(FILE, &encoded(keys))
}

fn encoded(keys: &[Key]) -> Vec<u8> {
    let generations = keys.iter().map(|key| Generation {
        id: key.id,
        secret: encode_base64url(&key.secret),
        made: key.made,
        retired: key.retired,
    });
    let ring = Ring { generations: generations.collect() };
    serde_json::to_vec(&ring).expect("text and numbers always serialize")
}

/// Seals a ring for the database: `secret` is what every controller has and the database has not.
pub(crate) fn sealed_ring(secret: &[u8; 32], ring: &[u8]) -> String {
    let nonce: [u8; NONCE_LEN] = clock::random();
    let mut body = ring.to_vec();
    cipher(secret, Purpose::SharedKeys)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(FILE), &mut body)
        .expect("what is sealed here is far below the cipher's limit");
    encode_base64url(&[&nonce[..], &body].concat())
}

/// Opens what [`sealed_ring`] made.
///
/// # Errors
/// [`WebKeysError::Decode`]: of another installation, or changed.
pub(crate) fn opened_ring(secret: &[u8; 32], sealed: &str) -> Result<Vec<u8>, WebKeysError> {
    let wrong = || WebKeysError::Decode("the database's copy was not sealed by this installation".into());
    let bytes = decode_base64url(sealed).map_err(|_| wrong())?;
    let (nonce, body) = bytes.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
    let mut body = body.to_vec();
    let plain = cipher(secret, Purpose::SharedKeys)
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(FILE), &mut body)
        .map_err(|_| wrong())?;
    ring_of(plain)?;
    Ok(plain.to_vec())
}

struct Bytes32;

impl hkdf::KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}

fn derive(secret: &[u8; 32], purpose: Purpose) -> [u8; 32] {
    // The secret is uniformly random: a fixed salt is all that extraction needs (RFC 5869 section 3.1).
    let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate/web-keys/1");
    let mut key = [0; 32];
    salt.extract(secret)
        .expand(&[purpose.info()], Bytes32)
        .and_then(|okm| okm.fill(&mut key))
        .expect("32 bytes are within HKDF's limit");
    key
}

fn mac(secret: &[u8; 32], purpose: Purpose, body: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, purpose));
    hmac::sign(&key, body).as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
}

fn cipher(secret: &[u8; 32], purpose: Purpose) -> LessSafeKey {
    let key = derive(secret, purpose);
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("the cipher takes 32-byte keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> WebKeys {
        WebKeys::of(&[(1, [1; 32]), (2, [2; 32])], UnixMs::from_millis(1_000))
    }

    #[test]
    fn what_is_sealed_for_one_purpose_opens_for_no_other_and_not_after_its_end() {
        let keys = keys();
        let end = UnixMs::from_millis(5_000);
        let sealed = keys.seal_until(Purpose::Provider, end, &"state");
        let open = |purpose, at: u64| keys.open_until::<String>(purpose, &sealed, UnixMs::from_millis(at));
        assert_eq!(open(Purpose::Provider, 4_999).as_deref(), Some("state"));
        assert_eq!(open(Purpose::Provider, 5_000), None);
        assert_eq!(open(Purpose::SecondFactor, 4_999), None);
    }

    #[test]
    fn what_was_sealed_by_a_clock_a_year_ahead_opens_by_that_clock_and_by_no_right_one() {
        let (keys, now) = (keys(), UnixMs::from_millis(5_000));
        let ahead = now.plus(Duration::from_secs(365 * 24 * 3600));
        let sealed = keys.seal_until(Purpose::SecondFactor, ahead.plus(Duration::from_secs(300)), &1);
        assert_eq!(keys.open_until::<u8>(Purpose::SecondFactor, &sealed, ahead), Some(1));
        assert_eq!(keys.open_until::<u8>(Purpose::SecondFactor, &sealed, now), None);
    }

    #[test]
    fn no_changed_byte_of_a_sealed_text_opens() {
        let keys = keys();
        let sealed = decode_base64url(&keys.seal(Purpose::TotpSecret, b"secret")).unwrap();
        for index in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[index] ^= 1;
            assert_eq!(
                keys.open_sealed(Purpose::TotpSecret, &encode_base64url(&forged)),
                None,
                "byte {index}"
            );
        }
        for length in 0..sealed.len() {
            let short = encode_base64url(&sealed[..length]);
            assert_eq!(keys.open_sealed(Purpose::TotpSecret, &short), None);
        }
    }

    #[test]
    fn what_controllers_share_opens_with_their_secret_alone_and_adds_to_what_each_has() {
        let (ours, theirs) = (keys(), WebKeys::of(&[(2, [9; 32]), (3, [3; 32])], UnixMs::from_millis(1_000)));
        let ring = encoded(&theirs.ring());
        let sealed = sealed_ring(&[7; 32], &ring);
        assert!(opened_ring(&[8; 32], &sealed).is_err() && opened_ring(&[7; 32], "x").is_err());
        assert!(!sealed.contains(&encode_base64url(&[3; 32])));
        let opened = opened_ring(&[7; 32], &sealed).unwrap();
        let old = ours.sign(Purpose::Session, b"b");
        let first = ours.sign_by(1, Purpose::Session, b"b").unwrap();
        assert!(ours.adopt(&opened).unwrap() && !ours.adopt(&opened).unwrap());
        assert!(ours.verify(1, Purpose::Session, b"b", &first), "what only this one has stays");
        assert!(!ours.verify(old.0, Purpose::Session, b"b", &old.1), "of two with one number theirs counts");
        let (id, code) = ours.sign(Purpose::Session, b"b");
        assert!(id == 3 && theirs.verify(id, Purpose::Session, b"b", &code));
        let more = ours.with_one_more(UnixMs::from_millis(2_000));
        assert!(theirs.adopt(&more).unwrap());
        assert_eq!(theirs.newest().0, 4);
    }

    #[test]
    fn what_somebody_else_knows_opens_what_is_kept_and_believes_nothing_that_a_browser_brings() {
        let (ours, at) = (keys(), UnixMs::from_millis(1_000));
        let (kept, cookie) = (ours.seal(Purpose::TotpSecret, b"s"), ours.sign(Purpose::Session, b"b"));
        let brought = ours.seal_until(Purpose::SecondFactor, UnixMs::from_millis(5_000), &1);
        ours.adopt(&ours.with_all_retired(at)).unwrap();
        assert_eq!(ours.open_sealed(Purpose::TotpSecret, &kept).as_deref(), Some(&b"s"[..]));
        assert!(!ours.verify(cookie.0, Purpose::Session, b"b", &cookie.1));
        assert_eq!(ours.sign_by(cookie.0, Purpose::Session, b"b"), None);
        assert_eq!(ours.open_until::<u8>(Purpose::SecondFactor, &brought, at), None);
        let newer = ours.sign(Purpose::Session, b"b");
        assert!(newer.0 == 3 && ours.verify(3, Purpose::Session, b"b", &newer.1));
        // Another controller takes it as it is said.
        let theirs = keys();
        theirs.adopt(&ours.as_they_are()).unwrap();
        assert!(!theirs.verify(cookie.0, Purpose::Session, b"b", &cookie.1));
    }

    #[test]
    fn keys_are_replaced_each_quarter_and_the_old_ones_go_on_opening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("controller");
        let made = crate::signer::first_start(&path).unwrap();
        drop(made);
        let state = Arc::new(StateDir::open(&path, trust::Role::Controller).unwrap());
        let keys = WebKeys::open(Arc::clone(&state)).unwrap();
        let (sealed, code) = (keys.seal(Purpose::TotpSecret, b"s"), keys.sign(Purpose::Session, b"b"));
        assert!(!keys.rotate_if_due(clock::wall()).unwrap());
        assert!(keys.rotate_if_due(clock::wall().plus(REPLACE_AFTER)).unwrap());
        let newer = keys.sign(Purpose::Session, b"b");
        assert_ne!((code.0, code.1), (newer.0, newer.1));
        // After a restart, and on a controller that was given the same keys.
        let again = WebKeys::open(state).unwrap();
        assert_eq!(again.open_sealed(Purpose::TotpSecret, &sealed).as_deref(), Some(&b"s"[..]));
        assert!(again.verify(code.0, Purpose::Session, b"b", &code.1));
        assert!(again.verify(newer.0, Purpose::Session, b"b", &newer.1));
        assert!(!again.verify(newer.0, Purpose::Form, b"b", &newer.1));
        assert!(!again.verify(code.0, Purpose::Session, b"b", &newer.1));
    }
}
