//! What a browser brings back from a passkey, checked by Web Authentication Level 3 (W3C), sections 7.1 and 7.2.
//!
//! Values in, a verdict out: no clock, no randomness, no table. Attestation is not asked for and not looked at: which
//! make of authenticator somebody has is none of our business, and a statement would prove nothing else.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use minicbor::{Decoder, data::Type};
use serde::Deserialize;
use trust::{decode_base64url, sha256};

/// COSE algorithms (RFC 9053, RFC 8812), in the order of preference.
pub(super) const ALGORITHMS: [i64; 3] = [-8, -7, -257];
/// Section 4: a credential id has at most 1,023 bytes.
const MAX_CREDENTIAL_ID: usize = 1023;

/// Flags of authenticator data (section 6.1).
const PRESENT: u8 = 1;
const VERIFIED: u8 = 1 << 2;
const BACKUP_ELIGIBLE: u8 = 1 << 3;
const BACKED_UP: u8 = 1 << 4;
const ATTESTED: u8 = 1 << 6;
const EXTENDED: u8 = 1 << 7;

/// What did not hold. Names the step of section 7.1 (registration) or 7.2 (assertion).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Not what a browser sends.
    #[error("the browser's answer does not parse: {0}")]
    Form(&'static str),
    /// 7.1 step 7, 7.2 step 10.
    #[error("it is an answer to another question")]
    Type,
    /// 7.1 step 8, 7.2 step 11.
    #[error("it answers another challenge")]
    Challenge,
    /// 7.1 steps 9 to 11, 7.2 steps 12 to 14.
    #[error("it was made on another site")]
    Origin,
    /// 7.1 step 13, 7.2 step 15.
    #[error("the passkey is of another site")]
    Party,
    /// 7.1 step 14, 7.2 step 16.
    #[error("nobody touched the passkey")]
    NotPresent,
    /// 7.1 step 15, 7.2 step 17.
    #[error("the passkey did not ask who is using it (PIN, fingerprint or face)")]
    NotVerified,
    /// 7.1 steps 16 and 17, 7.2 steps 18 and 19.
    #[error("what it says about its backup does not agree")]
    Backup,
    /// 7.1 step 20.
    #[error("its kind of key is not taken")]
    Algorithm,
    /// 7.2 step 21.
    #[error("the signature is not this passkey's")]
    Signature,
    /// 7.2 step 22.
    #[error("its counter went back: it may have been copied")]
    Counter,
}

/// Who is asked by: this console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Party {
    /// The relying party's id: the console's host name.
    pub(super) id: String,
    /// The console's origin, `https://HOST[:PORT]`.
    pub(super) origin: String,
}

/// Whether the authenticator must have asked who is using it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// A passkey alone signs in: it must know its owner.
    Verification,
    /// As the vectors of the specification have it.
    #[cfg(test)]
    Presence,
}

/// The public key of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PublicKey {
    /// ECDSA with P-256 and SHA-256; an uncompressed point.
    Es256([u8; 65]),
    /// Ed25519.
    EdDsa([u8; 32]),
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256 { n: Vec<u8>, e: Vec<u8> },
}

impl PublicKey {
    /// A COSE key (RFC 9052 section 7) that fills `bytes` up to what is left; gives how much it took.
    fn decode(bytes: &[u8]) -> Result<(Self, usize), Refusal> {
        const FORM: Refusal = Refusal::Form("the public key");
        let mut decoder = Decoder::new(bytes);
        let pairs = decoder.map().ok().flatten().filter(|pairs| *pairs <= 16).ok_or(FORM)?;
        let (mut kind, mut algorithm, mut curve) = (None, None, None);
        let (mut first, mut second, mut third) = (None, None, None);
        for _ in 0..pairs {
            match decoder.i64().map_err(|_| FORM)? {
                1 => kind = Some(decoder.i64().map_err(|_| FORM)?),
                3 => algorithm = Some(decoder.i64().map_err(|_| FORM)?),
                // A curve's number, or RSA's modulus.
                -1 if decoder.datatype().ok() == Some(Type::Bytes) => {
                    first = Some(decoder.bytes().map_err(|_| FORM)?);
                }
                -1 => curve = Some(decoder.i64().map_err(|_| FORM)?),
                -2 => second = Some(decoder.bytes().map_err(|_| FORM)?),
                -3 => third = Some(decoder.bytes().map_err(|_| FORM)?),
                _ => decoder.skip().map_err(|_| FORM)?,
            }
        }
        let key = match (kind, algorithm, curve) {
            (Some(2), Some(-7), Some(1)) => {
                let (x, y) = second.zip(third).ok_or(FORM)?;
                let point = [&[4][..], x, y].concat();
                (x.len() == 32).then_some(()).ok_or(FORM)?;
                Self::Es256(point.try_into().map_err(|_| FORM)?)
            }
            (Some(1), Some(-8), Some(6)) => Self::EdDsa(second.ok_or(FORM)?.try_into().map_err(|_| FORM)?),
            (Some(3), Some(-257), None) => {
                let (n, e) = first.zip(second).ok_or(FORM)?;
                Self::Rs256 { n: n.to_vec(), e: e.to_vec() }
            }
            _ => return Err(Refusal::Algorithm),
        };
        Ok((key, decoder.position()))
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
            }
            Self::EdDsa(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
            Self::Rs256 { n, e } => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
        }
    }
}

/// What is kept of a credential.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credential {
    /// Its id, in base64url.
    pub(super) id: String,
    /// The COSE key, in base64url.
    key: String,
    /// The signature counter when it was last looked at.
    pub(super) counter: u32,
    backup_eligible: bool,
}

/// What a browser brings back from `navigator.credentials.create()`; every text is base64url.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made {
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    attestation_object: String,
}

/// What it brings back from `navigator.credentials.get()`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proof {
    /// Which credential.
    pub(super) id: String,
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    authenticator_data: String,
    signature: String,
    /// The user handle that was given at registration. Discoverable credentials always have one.
    #[serde(default)]
    user_handle: Option<String>,
}

impl Proof {
    /// Whom the credential says it belongs to.
    pub(super) fn user_handle(&self) -> Option<Vec<u8>> {
        decode_base64url(self.user_handle.as_deref()?).ok()
    }
}

fn decoded(text: &str, what: &'static str) -> Result<Vec<u8>, Refusal> {
    decode_base64url(text.trim_end_matches('=')).map_err(|_| Refusal::Form(what))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientData {
    r#type: String,
    challenge: String,
    origin: String,
    #[serde(default)]
    cross_origin: bool,
    #[serde(default)]
    top_origin: Option<String>,
}

impl Party {
    /// 7.1 steps 5 to 11, 7.2 steps 8 to 14. Gives the hash that is signed.
    fn client_data(&self, text: &str, expected: &str, challenge: &[u8]) -> Result<[u8; 32], Refusal> {
        let bytes = decoded(text, "client data")?;
        // 7.1 step 5, 7.2 step 8: text first. In members that nobody reads serde_json would take any bytes.
        let said = std::str::from_utf8(&bytes).map_err(|_| Refusal::Form("client data is no UTF-8"))?;
        let data: ClientData =
            serde_json::from_str(said).map_err(|_| Refusal::Form("client data is no JSON"))?;
        if data.r#type != expected {
            return Err(Refusal::Type);
        }
        let asked = decode_base64url(&data.challenge).ok().as_deref() == Some(challenge);
        if !asked && !planted::is("passkeys-of-any-challenge") {
            return Err(Refusal::Challenge);
        }
        if data.origin != self.origin || data.cross_origin || data.top_origin.is_some() {
            return Err(Refusal::Origin);
        }
        Ok(sha256(&[&bytes]))
    }
}

/// Authenticator data (section 6.1), with what is behind it.
struct AuthenticatorData<'a> {
    flags: u8,
    counter: u32,
    rest: &'a [u8],
}

impl<'a> AuthenticatorData<'a> {
    /// 7.1 steps 13 to 17, 7.2 steps 15 to 19.
    fn check(bytes: &'a [u8], party: &Party, demand: Demand) -> Result<Self, Refusal> {
        const FORM: Refusal = Refusal::Form("authenticator data");
        let (hash, rest) = bytes.split_first_chunk::<32>().ok_or(FORM)?;
        let (flags, rest) = rest.split_first().ok_or(FORM)?;
        let (counter, rest) = rest.split_first_chunk::<4>().ok_or(FORM)?;
        if *hash != sha256(&[party.id.as_bytes()]) {
            return Err(Refusal::Party);
        }
        if flags & PRESENT == 0 {
            return Err(Refusal::NotPresent);
        }
        if demand == Demand::Verification && flags & VERIFIED == 0 {
            return Err(Refusal::NotVerified);
        }
        if flags & BACKED_UP != 0 && flags & BACKUP_ELIGIBLE == 0 {
            return Err(Refusal::Backup);
        }
        Ok(Self { flags: *flags, counter: u32::from_be_bytes(*counter), rest })
    }

    /// Extensions are not asked for; what comes unasked is one CBOR map and nothing behind it.
    fn end(&self, rest: &[u8]) -> Result<(), Refusal> {
        const FORM: Refusal = Refusal::Form("what is behind the authenticator data");
        let mut length = 0;
        if self.flags & EXTENDED != 0 {
            let mut decoder = Decoder::new(rest);
            if decoder.datatype().ok() != Some(Type::Map) {
                return Err(FORM);
            }
            decoder.skip().map_err(|_| FORM)?;
            length = decoder.position();
        }
        if rest.len() == length { Ok(()) } else { Err(FORM) }
    }
}

/// Section 7.1: a credential that was just made for `challenge`.
///
/// # Errors
/// [`Refusal`].
pub(super) fn register(
    party: &Party,
    challenge: &[u8],
    made: &Made,
    demand: Demand,
) -> Result<Credential, Refusal> {
    const FORM: Refusal = Refusal::Form("the attestation object");
    party.client_data(&made.client_data, "webauthn.create", challenge)?;
    let object = decoded(&made.attestation_object, "the attestation object")?;
    let mut decoder = Decoder::new(&object);
    let pairs = decoder.map().ok().flatten().filter(|pairs| *pairs <= 8).ok_or(FORM)?;
    let mut data = None;
    for _ in 0..pairs {
        match decoder.str().map_err(|_| FORM)? {
            "authData" => data = Some(decoder.bytes().map_err(|_| FORM)?),
            // `fmt` and `attStmt`: an attestation was not asked for (section 5.4.7, none).
            _ => decoder.skip().map_err(|_| FORM)?,
        }
    }
    if decoder.position() != object.len() {
        return Err(FORM);
    }
    let data = AuthenticatorData::check(data.ok_or(FORM)?, party, demand)?;
    if data.flags & ATTESTED == 0 {
        return Err(FORM);
    }
    // Section 6.5.1: AAGUID, length, id, key.
    let (_aaguid, rest) = data.rest.split_first_chunk::<16>().ok_or(FORM)?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or(FORM)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length > MAX_CREDENTIAL_ID {
        return Err(Refusal::Form("the credential's id"));
    }
    let (id, rest) = rest.split_at_checked(length).ok_or(FORM)?;
    let (_, taken) = PublicKey::decode(rest)?;
    let (key, rest) = rest.split_at_checked(taken).ok_or(FORM)?;
    data.end(rest)?;
    Ok(Credential {
        id: trust::encode_base64url(id),
        key: trust::encode_base64url(key),
        counter: data.counter,
        backup_eligible: data.flags & BACKUP_ELIGIBLE != 0,
    })
}

/// Section 7.2: a proof by this credential for `challenge`. Gives the counter to remember.
///
/// # Errors
/// [`Refusal`].
pub(super) fn prove(
    party: &Party,
    challenge: &[u8],
    credential: &Credential,
    proof: &Proof,
    demand: Demand,
) -> Result<u32, Refusal> {
    if proof.id != credential.id {
        return Err(Refusal::Signature);
    }
    let hash = party.client_data(&proof.client_data, "webauthn.get", challenge)?;
    let bytes = decoded(&proof.authenticator_data, "authenticator data")?;
    let data = AuthenticatorData::check(&bytes, party, demand)?;
    data.end(data.rest)?;
    // What is eligible for backup is decided once, when it is made.
    if (data.flags & BACKUP_ELIGIBLE != 0) != credential.backup_eligible {
        return Err(Refusal::Backup);
    }
    let (key, _) = PublicKey::decode(&decoded(&credential.key, "the stored key")?)?;
    let signature = decoded(&proof.signature, "the signature")?;
    if !key.verifies(&[&bytes[..], &hash].concat(), &signature) {
        return Err(Refusal::Signature);
    }
    // Step 22: an authenticator without a counter always says 0.
    let counts = data.counter != 0 || credential.counter != 0;
    if counts && data.counter <= credential.counter {
        return Err(Refusal::Counter);
    }
    Ok(data.counter)
}

#[cfg(test)]
#[path = "webauthn_tests.rs"]
pub(crate) mod tests;
