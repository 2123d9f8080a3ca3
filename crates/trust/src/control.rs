//! Control frames: what an agent asks a controller and what comes back, unreadable on the way.
//!
//! A request is signed by the agent's identity key and sealed to a controller's `control-seal` key; it
//! carries a fresh key for the answer, so only who opened the request can answer it. The PoP in
//! between sees lengths and times.
//!
//! ```text
//! sealed request = id of the seal key (16) ‖ HPKE(info "tidegate/control-request/1", aad "", body)
//! sealed reply   = HPKE to the request's reply key (info "tidegate/control-reply/1", aad nonce, body)
//! ```

use crate::{
    bundle::{BundleKey, KeyRole, TrustBundle},
    certificate::{Certificate, CertificateError},
    encoding,
    key::{KeyId, SigningKey},
    seal::{OpenKey, SealError, SealKey},
    time::UnixMs,
};
use minicbor::{Decode, Encode};
use wire::{ControlReply, ControlRequest, ControllerId};

const REQUEST_INFO: &[u8] = b"tidegate/control-request/1";
const REPLY_INFO: &[u8] = b"tidegate/control-reply/1";
const KEY_ID_LEN: usize = 16;

/// Why a control frame is refused. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The bundle has no seal key that is valid now.
    #[error("no control-seal key in the trust bundle is valid now")]
    NoSealKey,
    /// Sealed to a key that this controller does not hold.
    #[error("the frame is sealed to another controller's key")]
    OtherKey,
    /// Does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The content does not decode.
    #[error("the content of the frame does not decode")]
    Content,
    /// The agent's certificate.
    #[error("the agent's certificate: {0}")]
    Certificate(CertificateError),
    /// The agent's signature.
    #[error("the agent's signature does not verify")]
    Signature,
    /// A type of a newer version.
    #[error("the frame carries a message type of a newer version")]
    UnknownType,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct RequestBody {
    #[cbor(n(0), with = "minicbor::bytes")]
    certificate: Vec<u8>,
    #[cbor(n(1), with = "minicbor::bytes")]
    reply_key: [u8; 32],
    #[cbor(n(2), with = "minicbor::bytes")]
    nonce: [u8; 16],
    #[n(3)]
    frame_type: u16,
    #[cbor(n(4), with = "minicbor::bytes")]
    body: Vec<u8>,
    #[cbor(n(5), with = "minicbor::bytes")]
    signature: [u8; 64],
}

impl RequestBody {
    fn signing_input(&self, seal_key: KeyId) -> Vec<u8> {
        let mut input = b"tidegate/control-sign/1".to_vec();
        input.extend_from_slice(seal_key.as_bytes());
        input.extend_from_slice(&self.reply_key);
        input.extend_from_slice(&self.nonce);
        input.extend_from_slice(&self.frame_type.to_be_bytes());
        input.extend_from_slice(&encoding::sha256(&[&self.certificate]));
        input.extend_from_slice(&encoding::sha256(&[&self.body]));
        input
    }
}

/// What the agent keeps until the answer comes.
#[derive(Debug)]
pub struct PendingReply {
    key: OpenKey,
    nonce: [u8; 16],
}

/// Seals a request to any seal key of the bundle that is valid now (`pick` chooses among several).
///
/// # Errors
/// [`ControlError::NoSealKey`] when there is none.
pub fn seal_request(
    identity_key: &SigningKey,
    certificate_der: &[u8],
    bundle: &TrustBundle,
    wall: UnixMs,
    pick: u64,
    request: &ControlRequest,
) -> Result<(Vec<u8>, PendingReply), ControlError> {
    seal_request_to(identity_key, certificate_der, bundle, wall, (None, pick), request)
}

/// [`seal_request`] to one controller, where it has a key that is valid now; else to any.
///
/// # Errors
/// [`ControlError::NoSealKey`] when there is none.
pub fn seal_request_to(
    identity_key: &SigningKey,
    certificate_der: &[u8],
    bundle: &TrustBundle,
    wall: UnixMs,
    (owner, pick): (Option<ControllerId>, u64),
    request: &ControlRequest,
) -> Result<(Vec<u8>, PendingReply), ControlError> {
    let valid = || bundle.keys(KeyRole::ControlSeal).filter(|key| key.is_valid_at(wall));
    let mut candidates: Vec<SealKey> =
        valid().filter(|key| Some(key.owner) == owner).filter_map(seal_key).collect();
    if candidates.is_empty() {
        candidates = valid().filter_map(seal_key).collect();
    }
    let count = u64::try_from(candidates.len()).unwrap_or(u64::MAX);
    let index = pick.checked_rem(count).ok_or(ControlError::NoSealKey)?;
    let to = candidates[usize::try_from(index).expect("below the number of candidates")];
    let key = OpenKey::generate();
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| SealError)?;
    let mut body = RequestBody {
        certificate: certificate_der.to_vec(),
        reply_key: *key.seal_key().as_bytes(),
        nonce,
        frame_type: request.frame_type(),
        body: request.encode_body(),
        signature: [0; 64],
    };
    body.signature = identity_key.sign(&body.signing_input(to.key_id()));
    let plaintext = minicbor::to_vec(&body).expect("writing CBOR to a Vec does not fail");
    let mut sealed = to.key_id().as_bytes().to_vec();
    sealed.extend_from_slice(&to.seal(REQUEST_INFO, b"", &plaintext)?);
    Ok((sealed, PendingReply { key, nonce }))
}

fn seal_key(key: &BundleKey) -> Option<SealKey> {
    key.public.as_slice().try_into().ok().map(SealKey::from_bytes)
}

/// A request that a controller opened and believes.
#[derive(Debug)]
pub struct OpenedRequest {
    /// Who asks: verified against the bundle, valid now. Whether it is struck is the caller's check.
    pub agent: Certificate,
    /// What it asks.
    pub request: ControlRequest,
    reply_key: SealKey,
    nonce: [u8; 16],
}

/// Opens a request with the controller's own key.
///
/// # Errors
/// The first reason found.
pub fn open_request(
    key: &OpenKey,
    bundle: &TrustBundle,
    wall: UnixMs,
    sealed: &[u8],
) -> Result<OpenedRequest, ControlError> {
    let (id, sealed) = sealed.split_at_checked(KEY_ID_LEN).ok_or(ControlError::Content)?;
    let own = key.seal_key().key_id();
    if id != own.as_bytes() {
        return Err(ControlError::OtherKey);
    }
    let plaintext = key.open(REQUEST_INFO, b"", sealed)?;
    let body: RequestBody = minicbor::decode(&plaintext).map_err(|_| ControlError::Content)?;
    let agent = Certificate::verify(&body.certificate, bundle, wall).map_err(ControlError::Certificate)?;
    agent
        .public_key()
        .verify(&body.signing_input(own), &body.signature)
        .map_err(|_| ControlError::Signature)?;
    let request = ControlRequest::decode_body(body.frame_type, &body.body)
        .map_err(|_| ControlError::Content)?
        .ok_or(ControlError::UnknownType)?;
    Ok(OpenedRequest { agent, request, reply_key: SealKey::from_bytes(body.reply_key), nonce: body.nonce })
}

/// The id of the key a sealed request names: lets a controller with two keys choose.
#[must_use]
pub fn sealed_to(sealed: &[u8]) -> Option<KeyId> {
    sealed.first_chunk().map(|bytes| KeyId::from_bytes(*bytes))
}

impl OpenedRequest {
    /// Seals the answer.
    ///
    /// # Errors
    /// [`SealError`] when the agent's reply key is not usable.
    pub fn seal_reply(&self, reply: &ControlReply) -> Result<Vec<u8>, SealError> {
        let mut plaintext = reply.frame_type().to_be_bytes().to_vec();
        plaintext.extend_from_slice(&reply.encode_body());
        self.reply_key.seal(REPLY_INFO, &self.nonce, &plaintext)
    }
}

impl PendingReply {
    /// Opens the answer. The request stays pending when this fails: a PoP cannot end it with noise.
    ///
    /// # Errors
    /// The first reason found.
    pub fn open(&self, sealed: &[u8]) -> Result<ControlReply, ControlError> {
        let plaintext = self.key.open(REPLY_INFO, &self.nonce, sealed)?;
        let (kind, body) = plaintext.split_first_chunk::<2>().ok_or(ControlError::Content)?;
        ControlReply::decode_body(u16::from_be_bytes(*kind), body)
            .map_err(|_| ControlError::Content)?
            .ok_or(ControlError::UnknownType)
    }
}
