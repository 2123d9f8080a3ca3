//! What a connector checks before anybody becomes a peer, all by itself: the PoP that brought the
//! introduction is believed in nothing.

use trust::{
    DocumentError, Grant, Identity, KeyId, OpenKey, OpenProof, RevocationSet, Subject, TrustBundle, UnixMs,
    Unverified, unseal_open,
};
use tunnel::WireGuardPublicKey;
use wire::{ConnectorId, OpenBody, Refusal};

/// Who this connector is, and the key that opens what is sealed to it.
pub(crate) struct Doorkeeper {
    pub identity: Identity,
    pub connector: ConnectorId,
    pub open_key: OpenKey,
}

/// An introduction that verified: the only way to make one is [`Doorkeeper::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Admitted {
    pub grant: Grant,
    /// The key that signed it: when it leaves the bundle, the grant ends.
    pub signer: KeyId,
    pub key: WireGuardPublicKey,
}

impl Doorkeeper {
    /// `None` when the identity is no connector's.
    pub fn new(identity: Identity, open_key: OpenKey) -> Option<Self> {
        match identity.subject() {
            Subject::Connector(connector) => Some(Self { identity, connector, open_key }),
            _ => None,
        }
    }

    /// Grant valid ∧ ours ∧ key proven for this very initiation ∧ not struck. In the order of cost, the
    /// cheapest refusal first.
    pub fn verify(
        &self,
        bundle: &TrustBundle,
        revocations: &RevocationSet,
        wall: UnixMs,
        sealed: &[u8],
        initiation: &[u8],
    ) -> Result<Admitted, Refusal> {
        let body = unseal_open(&self.open_key, self.connector, sealed).map_err(|_| Refusal::Malformed)?;
        let body = decode(&body).ok_or(Refusal::Malformed)?;
        let grant = Unverified::<Grant>::parse_bytes(body.grant.as_slice()).map_err(|e| refusal_of(&e))?;
        let signer = grant.signer();
        let grant = grant.verify(bundle, wall).map_err(|error| refusal_of(&error))?;
        if grant.installation != self.identity.installation() {
            return Err(Refusal::OtherInstallation);
        }
        if Some(grant.organization) != self.identity.organization()
            && !planted::is("other-organizations-grant")
        {
            return Err(Refusal::OtherOrganization);
        }
        let proof =
            OpenProof::check(&grant.key, self.connector, &body.client_key, initiation, &body.signature)
                .map_err(|_| Refusal::KeyNotProven)?;
        if revocations.strikes_grant(&grant) && !planted::is("struck-device-let-in") {
            return Err(Refusal::Struck);
        }
        Ok(Admitted { key: WireGuardPublicKey::from_bytes(*proof.client_key()), signer, grant })
    }
}

fn decode(body: &[u8]) -> Option<OpenBody> {
    let mut decoder = minicbor::Decoder::new(body);
    let decoded = decoder.decode().ok()?;
    (decoder.position() == body.len()).then_some(decoded)
}

fn refusal_of(error: &DocumentError) -> Refusal {
    match error {
        DocumentError::Expired(_) => Refusal::GrantExpired,
        DocumentError::NotYetValid(_) => Refusal::GrantNotYetValid,
        DocumentError::OtherInstallation => Refusal::OtherInstallation,
        DocumentError::TooLong { .. } => Refusal::Malformed,
        _ => Refusal::GrantInvalid,
    }
}
