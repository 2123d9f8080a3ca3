//! What an agent starts from.

use std::time::Duration;
use trust::{CertificateError, ChainError, Role, RootHash, SigningKey, UnixMs};

/// What the state directory holds, as it was read. Texts are believed only after they verify.
#[derive(Debug, Clone)]
pub struct StoredState {
    /// The durable identity key.
    pub identity_key: SigningKey,
    /// The pinned root.
    pub root: RootHash,
    /// The trust chain's text.
    pub chain: String,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// The grant's text; devices only.
    pub grant: Option<String>,
    /// The slice's text.
    pub slice: Option<String>,
    /// Revocation entries, one text a line.
    pub revocations: Option<String>,
    /// Time was never before this.
    pub time_floor: Option<UnixMs>,
    /// Over how long the PoP that it was last at spreads a crowd; zero when none has said.
    pub reconnect_window: Duration,
}

/// The stored state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The trust chain.
    #[error("the stored trust chain does not verify against the pinned root; enrol this agent again")]
    Chain(#[source] ChainError),
    /// The certificate.
    #[error("the stored certificate does not verify under the stored trust chain; enrol this agent again")]
    Certificate(#[source] CertificateError),
    /// The key and the certificate.
    #[error("the stored key and certificate do not belong together")]
    Identity(#[source] session::IdentityError),
    /// The state directory of something else.
    #[error("expected the state directory of a {}, found that of a {}", expected.word(), got.word())]
    Role {
        /// What this process is.
        expected: Role,
        /// Whose state it found.
        got: Role,
    },
}
