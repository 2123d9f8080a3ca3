//! Passphrases: argon2id on the blocking pool, a few at a time.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use std::sync::LazyLock;
use tokio::sync::Semaphore;

/// Hashes at once. Each takes 19 MiB and some 30 ms of a core: strangers cannot take more.
static AT_ONCE: Semaphore = Semaphore::const_new(2);
/// One more for browsers in which somebody signed in before: they do not stand in line behind a thousand guesses.
static OF_KNOWN: Semaphore = Semaphore::const_new(1);
/// What an unknown name is checked against, so that it takes as long as a known one.
static NOBODY: LazyLock<String> = LazyLock::new(|| hash("nobody has this passphrase"));

/// Shortest passphrase (NIST SP 800-63B-4 section 3.1.1.2: 15 characters when it is the only factor).
pub(crate) const MIN_CHARS: usize = 15;
/// Longest, in bytes.
pub(crate) const MAX_BYTES: usize = 256;

/// OWASP's first choice for argon2id: 19 MiB, 2 passes, 1 lane.
fn argon2() -> Argon2<'static> {
    let params = Params::new(19 * 1024, 2, 1, None).expect("constants within argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

fn hash(passphrase: &str) -> String {
    argon2()
        .hash_password(passphrase.as_bytes())
        .expect("a passphrase within bounds hashes with a random salt")
        .to_string()
}

/// The hash to keep.
pub(crate) async fn hashed(passphrase: String) -> Option<String> {
    let _permit = AT_ONCE.acquire().await.ok()?;
    tokio::task::spawn_blocking(move || hash(&passphrase)).await.ok()
}

/// In which line a passphrase waits to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Of everybody.
    Strangers,
    /// Of browsers that are known.
    Known,
}

/// Whether the passphrase is the one of `kept`; with none it takes as long and is wrong.
pub(crate) async fn matches(passphrase: String, kept: Option<String>, line: Line) -> bool {
    let line = if line == Line::Known { &OF_KNOWN } else { &AT_ONCE };
    let Ok(_permit) = line.acquire().await else { return false };
    let work = move || {
        let known = kept.is_some();
        let kept = kept.unwrap_or_else(|| NOBODY.clone());
        let right = PasswordHash::new(&kept)
            .is_ok_and(|kept| argon2().verify_password(passphrase.as_bytes(), &kept).is_ok());
        right && known
    };
    tokio::task::spawn_blocking(work).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_passphrase_matches_its_own_hash_only_and_nobody_matches_nothing() {
        let kept = hashed("correct horse battery".into()).await.unwrap();
        assert!(kept.starts_with("$argon2id$"), "{kept}");
        assert!(matches("correct horse battery".into(), Some(kept.clone()), Line::Known).await);
        assert!(!matches("correct horse batterz".into(), Some(kept), Line::Strangers).await);
        assert!(!matches("nobody has this passphrase".into(), None, Line::Strangers).await);
    }
}
