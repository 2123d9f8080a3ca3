//! What browsers bring to sign in: the answers of passkeys.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;
use std::sync::LazyLock;
use trust::{encode_base64url, sha256};

/// Their own sources, which no crate exports.
#[path = "../../../crates/controller/src/signin/percent.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
pub(crate) mod percent;
#[path = "../../../crates/controller/src/signin/webauthn.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod webauthn;

use webauthn::{Credential, Demand, Made, Party, Proof};

const CHALLENGE: &[u8] = b"a challenge of 32 bytes, always.";
const CREDENTIAL: &[u8] = b"credential";
/// Present, verified.
const FLAGS: u8 = 0b101;
const ATTESTED: u8 = 1 << 6;

static PARTY: LazyLock<Party> =
    LazyLock::new(|| Party { id: "example.org".into(), origin: "https://example.org".into() });
static PAIR: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes are a seed"));

fn client_data(kind: &str) -> Vec<u8> {
    let challenge = encode_base64url(CHALLENGE);
    json!({"type": kind, "challenge": challenge, "origin": "https://example.org"}).to_string().into_bytes()
}

fn cose() -> Vec<u8> {
    let mut encoder = minicbor::Encoder::new(Vec::new());
    let written = encoder
        .map(4)
        .and_then(|map| map.i64(1)?.i64(1)?.i64(3)?.i64(-8)?.i64(-1)?.i64(6)?.i64(-2))
        .and_then(|map| map.bytes(PAIR.public_key().as_ref()));
    written.expect("a vector takes everything");
    encoder.into_writer()
}

fn authenticator_data(flags: u8, counter: u32, behind: &[u8]) -> Vec<u8> {
    let party = sha256(&[PARTY.id.as_bytes()]);
    [&party[..], &[flags], &counter.to_be_bytes(), behind].concat()
}

fn attestation() -> Vec<u8> {
    let length = u16::try_from(CREDENTIAL.len()).expect("ten").to_be_bytes();
    let behind = [&[0; 16][..], &length, CREDENTIAL, &cose()].concat();
    let data = authenticator_data(FLAGS | ATTESTED, 0, &behind);
    let mut encoder = minicbor::Encoder::new(Vec::new());
    let written = encoder
        .map(3)
        .and_then(|map| map.str("fmt")?.str("none")?.str("attStmt")?.map(0)?.str("authData"))
        .and_then(|map| map.bytes(&data));
    written.expect("a vector takes everything");
    encoder.into_writer()
}

fn made(client_data: &[u8], attestation: &[u8]) -> Result<Credential, webauthn::Refusal> {
    let said = json!({
        "clientDataJSON": encode_base64url(client_data), "attestationObject": encode_base64url(attestation),
    });
    let made: Made = serde_json::from_value(said).expect("what a browser sends");
    webauthn::register(&PARTY, CHALLENGE, &made, Demand::Verification)
}

/// A new passkey's attestation object: whatever is taken has an id that can be asked for again.
pub(crate) fn passkey_made(bytes: &[u8]) {
    if let Ok(credential) = made(&client_data("webauthn.create"), bytes) {
        let id = trust::decode_base64url(&credential.id).expect("it was encoded here");
        assert!((1..=1023).contains(&id.len()), "an id of {} bytes", id.len());
    }
}

/// What the browser says of itself: nothing but an answer to this challenge on this site is taken.
pub(crate) fn passkey_client_data(bytes: &[u8]) {
    if made(bytes, &attestation()).is_ok() {
        let said: serde_json::Value = serde_json::from_slice(bytes).expect("it was taken as JSON");
        let challenge = encode_base64url(CHALLENGE);
        assert_eq!(
            (&said["type"], &said["challenge"], &said["origin"]),
            (&json!("webauthn.create"), &json!(challenge), &json!("https://example.org"))
        );
    }
}

fn signed(data: &[u8]) -> Vec<u8> {
    PAIR.sign(&[data, &sha256(&[&client_data("webauthn.get")])].concat()).as_ref().to_vec()
}

/// A proof's authenticator data: only what was signed proves anything.
pub(crate) fn passkey_proof(bytes: &[u8]) {
    let genuine = authenticator_data(FLAGS, 3, &[]);
    let credential = made(&client_data("webauthn.create"), &attestation()).expect("a genuine passkey");
    let said = json!({
        "id": credential.id,
        "clientDataJSON": encode_base64url(&client_data("webauthn.get")),
        "authenticatorData": encode_base64url(bytes),
        "signature": encode_base64url(&signed(&genuine)),
    });
    let proof: Proof = serde_json::from_value(said).expect("what a browser sends");
    let proven = webauthn::prove(&PARTY, CHALLENGE, &credential, &proof, Demand::Verification);
    assert_eq!(proven.is_ok(), bytes == genuine, "{proven:?}");
}

/// Genuine inputs.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    vec![
        ("passkey_made", "ed25519", attestation()),
        ("passkey_client_data", "create", client_data("webauthn.create")),
        ("passkey_proof", "ed25519", authenticator_data(FLAGS, 3, &[])),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_answer_is_taken() {
        assert!(made(&client_data("webauthn.create"), &attestation()).is_ok());
        passkey_proof(&authenticator_data(FLAGS, 3, &[]));
    }
}
