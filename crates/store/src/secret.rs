/// SHA-256 of a secret of at least 128 random bits, as stored. Comparing takes the same time
/// wherever the first difference is.
#[derive(Clone, Copy, Eq, serde::Serialize, serde::Deserialize)]
pub struct SecretHash(#[serde(with = "crate::row::hex32")] [u8; 32]);

impl SecretHash {
    /// Wraps a digest.
    #[must_use]
    pub const fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0_u8, |seen, (a, b)| seen | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl std::fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretHash(…)")
    }
}
