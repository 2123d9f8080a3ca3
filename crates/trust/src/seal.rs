//! Sealing to a key: HPKE base mode (RFC 9180), DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
//! ChaCha20-Poly1305, by rustls's implementation over aws-lc-rs.

use crate::{encoding, key::KeyId};
use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as SUITE,
    hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey},
};
use std::fmt;

/// Length of an encapsulated X25519 key (RFC 9180 section 7.1).
const ENCAPSULATED_LEN: usize = 32;

/// It cannot be sealed, or it was not sealed to this key with this info and associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes do not open with this key")]
pub struct SealError;

/// A public key to seal to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct SealKey(#[serde(with = "encoding::fixed")] [u8; 32]);

impl SealKey {
    /// From its 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key's id.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId::of(&self.0)
    }

    /// Seals: encapsulated key (32 bytes) ‖ ciphertext and tag.
    ///
    /// # Errors
    /// [`SealError`] when the key is not a point one can agree with.
    pub fn seal(&self, info: &[u8], associated: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let (EncapsulatedSecret(mut sealed), ciphertext) = SUITE
            .seal(info, associated, plaintext, &HpkePublicKey(self.0.to_vec()))
            .map_err(|_| SealError)?;
        sealed.extend_from_slice(&ciphertext);
        Ok(sealed)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x25519:{}", encoding::encode_base64url(&self.0))
    }
}

/// A private key that opens. Never printed.
pub struct OpenKey {
    private: Vec<u8>,
    public: SealKey,
}

impl OpenKey {
    /// A fresh key from the operating system's random source.
    #[must_use]
    pub fn generate() -> Self {
        let (HpkePublicKey(public), private) =
            SUITE.generate_key_pair().expect("the operating system's random source works");
        Self {
            private: private.secret_bytes().to_vec(),
            public: SealKey(public.try_into().expect("an X25519 public key has 32 bytes")),
        }
    }

    /// From its 32 private bytes.
    ///
    /// # Errors
    /// [`SealError`] when they are no X25519 private key.
    pub fn from_private(private: &[u8; 32]) -> Result<Self, SealError> {
        use aws_lc_rs::agreement::{PrivateKey, X25519};
        let key = PrivateKey::from_private_key(&X25519, private).map_err(|_| SealError)?;
        let public = key.compute_public_key().map_err(|_| SealError)?;
        let public = public.as_ref().try_into().map_err(|_| SealError)?;
        Ok(Self { private: private.to_vec(), public: SealKey(public) })
    }

    /// The private bytes: for writing the key to disk, sealed.
    #[must_use]
    pub fn expose_private(&self) -> &[u8] {
        &self.private
    }

    /// The public half.
    #[must_use]
    pub const fn seal_key(&self) -> SealKey {
        self.public
    }

    /// Opens what [`SealKey::seal`] made.
    ///
    /// # Errors
    /// [`SealError`], whatever the cause.
    pub fn open(&self, info: &[u8], associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (encapsulated, ciphertext) = sealed.split_at_checked(ENCAPSULATED_LEN).ok_or(SealError)?;
        SUITE
            .open(
                &EncapsulatedSecret(encapsulated.to_vec()),
                info,
                associated,
                ciphertext,
                &HpkePrivateKey::from(self.private.clone()),
            )
            .map_err(|_| SealError)
    }
}

impl Drop for OpenKey {
    fn drop(&mut self) {
        self.private.fill(0);
    }
}

impl fmt::Debug for OpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenKey({:?})", self.public.key_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_open_with_the_right_key_info_and_data_only() {
        let key = OpenKey::generate();
        let sealed = key.seal_key().seal(b"info", b"data", b"secret").expect("seals");
        assert_eq!(key.open(b"info", b"data", &sealed).as_deref(), Ok(&b"secret"[..]));
        assert_eq!(key.open(b"other", b"data", &sealed), Err(SealError));
        assert_eq!(key.open(b"info", b"other", &sealed), Err(SealError));
        assert_eq!(OpenKey::generate().open(b"info", b"data", &sealed), Err(SealError));
        for at in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            // RFC 7748 section 5: the top bit of an X25519 coordinate is masked. HPKE binds the
            // encapsulated bytes into the key schedule, so even that bit may not be bent.
            assert_eq!(key.open(b"info", b"data", &bent), Err(SealError), "byte {at}");
            assert_eq!(key.open(b"info", b"data", &sealed[..at]), Err(SealError), "cut at {at}");
        }
    }

    #[test]
    fn a_key_read_back_from_disk_opens_what_was_sealed_to_it() {
        let key = OpenKey::generate();
        let private: [u8; 32] = key.expose_private().try_into().expect("32 bytes");
        let again = OpenKey::from_private(&private).expect("own key");
        assert_eq!(again.seal_key(), key.seal_key());
        let sealed = key.seal_key().seal(b"", b"", b"x").expect("seals");
        assert_eq!(again.open(b"", b"", &sealed).as_deref(), Ok(&b"x"[..]));
    }
}
