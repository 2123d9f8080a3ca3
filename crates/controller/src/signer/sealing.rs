//! The root key on disk: sealed under a phrase that only people hold.

use super::RecoveryPhrase;
use crate::clock;
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// Why the root key was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootSealError {
    /// The phrase is well-formed but of another root key.
    #[error("this is not the recovery phrase of this root key")]
    WrongPhrase,
    /// Not a sealed root key.
    #[error("expected a sealed root key as `tidegate admin root export` writes it")]
    Form,
}

const PREFIX: &[u8; 16] = b"tidegate-root/1\n";
const SALT_LEN: usize = 16;

/// Argon2id at 64 MiB and 3 passes (RFC 9106 section 4, second recommended option). The phrase has
/// 160 random bits already; this costs a second and is done twice in a root key's life.
fn stretch(phrase: &RecoveryPhrase, salt: &[u8]) -> LessSafeKey {
    let params = Params::new(64 * 1024, 3, 1, Some(32)).expect("constants within argon2's limits");
    let mut key = [0; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(phrase.expose(), salt, &mut key)
        .expect("a salt of 16 bytes and a key of 32 are within argon2's limits");
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key).expect("the cipher takes 32-byte keys"))
}

/// Seals the root key's seed: prefix ‖ salt ‖ nonce ‖ ciphertext and tag.
pub(crate) fn seal_root(phrase: &RecoveryPhrase, seed: &[u8; 32]) -> Vec<u8> {
    let salt: [u8; SALT_LEN] = clock::random();
    let nonce: [u8; NONCE_LEN] = clock::random();
    let mut sealed = seed.to_vec();
    stretch(phrase, &salt)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(PREFIX), &mut sealed)
        .expect("32 bytes are far below the cipher's limit");
    [&PREFIX[..], &salt, &nonce, &sealed].concat()
}

/// Opens what [`seal_root`] made.
pub(crate) fn open_root(phrase: &RecoveryPhrase, sealed: &[u8]) -> Result<[u8; 32], RootSealError> {
    let rest = sealed.strip_prefix(&PREFIX[..]).ok_or(RootSealError::Form)?;
    let (salt, rest) = rest.split_at_checked(SALT_LEN).ok_or(RootSealError::Form)?;
    let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(RootSealError::Form)?;
    let mut body = body.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let seed = stretch(phrase, salt)
        .open_in_place(nonce, Aad::from(PREFIX), &mut body)
        .map_err(|_| RootSealError::WrongPhrase)?;
    (&*seed).try_into().map_err(|_| RootSealError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_key_opens_with_its_own_phrase_only_and_says_which_is_wrong() {
        let (phrase, other) = (RecoveryPhrase::generate(), RecoveryPhrase::generate());
        let mut sealed = seal_root(&phrase, &[7; 32]);
        assert_eq!(open_root(&phrase, &sealed), Ok([7; 32]));
        assert_eq!(open_root(&other, &sealed), Err(RootSealError::WrongPhrase));
        assert_eq!(open_root(&phrase, b"something else"), Err(RootSealError::Form));
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        assert_eq!(open_root(&phrase, &sealed), Err(RootSealError::WrongPhrase));
    }
}
