//! The specification's vectors, and an authenticator in software that can be made to lie.

use super::*;
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use serde_json::json;
use trust::encode_base64url;

/// An authenticator with one passkey.
pub(crate) struct Authenticator {
    pub(crate) id: String,
    pub(crate) origin: String,
    credential: [u8; 24],
    key: Key,
    pub(crate) counter: u32,
    pub(crate) flags: u8,
    pub(crate) user: Vec<u8>,
}

enum Key {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Authenticator {
    pub(crate) fn p256(id: &str, origin: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        Self::with(id, origin, Key::P256(pair))
    }

    fn ed25519(id: &str, origin: &str) -> Self {
        Self::with(id, origin, Key::Ed25519(Ed25519KeyPair::generate().unwrap()))
    }

    fn with(id: &str, origin: &str, key: Key) -> Self {
        let (id, origin) = (id.to_owned(), origin.to_owned());
        Self {
            id,
            origin,
            credential: crate::clock::random(),
            key,
            counter: 0,
            flags: PRESENT | VERIFIED,
            user: vec![1; 16],
        }
    }

    fn cose(&self) -> Vec<u8> {
        let mut encoder = minicbor::Encoder::new(Vec::new());
        match &self.key {
            Key::P256(pair) => {
                let point = pair.public_key().as_ref();
                let map = encoder.map(5).unwrap();
                map.i64(1)
                    .unwrap()
                    .i64(2)
                    .unwrap()
                    .i64(3)
                    .unwrap()
                    .i64(-7)
                    .unwrap()
                    .i64(-1)
                    .unwrap()
                    .i64(1)
                    .unwrap();
                map.i64(-2)
                    .unwrap()
                    .bytes(&point[1..33])
                    .unwrap()
                    .i64(-3)
                    .unwrap()
                    .bytes(&point[33..])
                    .unwrap();
            }
            Key::Ed25519(pair) => {
                let map = encoder.map(4).unwrap();
                map.i64(1)
                    .unwrap()
                    .i64(1)
                    .unwrap()
                    .i64(3)
                    .unwrap()
                    .i64(-8)
                    .unwrap()
                    .i64(-1)
                    .unwrap()
                    .i64(6)
                    .unwrap();
                map.i64(-2).unwrap().bytes(pair.public_key().as_ref()).unwrap();
            }
        }
        encoder.into_writer()
    }

    fn data(&self, flags: u8, rest: &[u8]) -> Vec<u8> {
        [&sha256(&[self.id.as_bytes()])[..], &[flags], &self.counter.to_be_bytes(), rest].concat()
    }

    fn client_data(&self, kind: &str, challenge: &[u8]) -> Vec<u8> {
        let challenge = encode_base64url(challenge);
        json!({"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": false})
            .to_string()
            .into_bytes()
    }

    pub(crate) fn make_json(&self, challenge: &[u8]) -> serde_json::Value {
        let length = u16::try_from(self.credential.len()).unwrap().to_be_bytes();
        let rest = [&[0; 16][..], &length, &self.credential, &self.cose()].concat();
        let data = self.data(self.flags | ATTESTED, &rest);
        let mut encoder = minicbor::Encoder::new(Vec::new());
        let map = encoder.map(3).unwrap();
        map.str("fmt").unwrap().str("none").unwrap().str("attStmt").unwrap().map(0).unwrap();
        map.str("authData").unwrap().bytes(&data).unwrap();
        json!({
            "clientDataJSON": encode_base64url(&self.client_data("webauthn.create", challenge)),
            "attestationObject": encode_base64url(&encoder.into_writer()),
        })
    }

    pub(crate) fn prove_json(&self, challenge: &[u8]) -> serde_json::Value {
        let client_data = self.client_data("webauthn.get", challenge);
        let data = self.data(self.flags, &[]);
        let message = [&data[..], &sha256(&[&client_data])].concat();
        let signature = match &self.key {
            Key::P256(pair) => pair.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec(),
            Key::Ed25519(pair) => pair.sign(&message).as_ref().to_vec(),
        };
        json!({
            "id": encode_base64url(&self.credential),
            "clientDataJSON": encode_base64url(&client_data),
            "authenticatorData": encode_base64url(&data),
            "signature": encode_base64url(&signature),
            "userHandle": encode_base64url(&self.user),
        })
    }

    fn make(&self, challenge: &[u8]) -> Made {
        serde_json::from_value(self.make_json(challenge)).unwrap()
    }

    fn prove(&self, challenge: &[u8]) -> Proof {
        serde_json::from_value(self.prove_json(challenge)).unwrap()
    }
}

const ID: &str = "tide.example.com";
const ORIGIN: &str = "https://tide.example.com:8443";
const CHALLENGE: &[u8] = &[7; 32];

fn ours() -> Party {
    Party { id: ID.into(), origin: ORIGIN.into() }
}

fn registered(authenticator: &Authenticator) -> Credential {
    register(&ours(), CHALLENGE, &authenticator.make(CHALLENGE), Demand::Verification).unwrap()
}

fn proven(credential: &Credential, proof: &Proof) -> Result<u32, Refusal> {
    prove(&ours(), CHALLENGE, credential, proof, Demand::Verification)
}

#[test]
fn a_passkey_of_each_kind_is_registered_and_proves_itself() {
    for authenticator in [Authenticator::p256(ID, ORIGIN), Authenticator::ed25519(ID, ORIGIN)] {
        let credential = registered(&authenticator);
        let kept = serde_json::to_string(&credential).unwrap();
        let credential: Credential = serde_json::from_str(&kept).unwrap();
        let proof = authenticator.prove(CHALLENGE);
        assert_eq!(proof.user_handle().unwrap(), vec![1; 16]);
        assert_eq!(proven(&credential, &proof), Ok(0));
    }
}

#[test]
fn another_site_challenge_kind_or_party_is_refused_by_its_step() {
    let good = Authenticator::p256(ID, ORIGIN);
    let credential = registered(&good);
    let lie = |change: fn(&mut Authenticator)| {
        let mut liar = Authenticator::p256(ID, ORIGIN);
        change(&mut liar);
        (register(&ours(), CHALLENGE, &liar.make(CHALLENGE), Demand::Verification), liar)
    };
    type Lie = (fn(&mut Authenticator), Refusal);
    let lies: [Lie; 6] = [
        (|a| a.origin = "https://evil.example".into(), Refusal::Origin),
        (|a| a.origin = "https://tide.example.com".into(), Refusal::Origin),
        (|a| a.id = "example.com".into(), Refusal::Party),
        (|a| a.flags = VERIFIED, Refusal::NotPresent),
        (|a| a.flags = PRESENT, Refusal::NotVerified),
        (|a| a.flags = PRESENT | VERIFIED | BACKED_UP, Refusal::Backup),
    ];
    for (change, refusal) in lies {
        assert_eq!(lie(change).0, Err(refusal));
        let mut liar = Authenticator { ..Authenticator::p256(ID, ORIGIN) };
        let credential = registered(&liar);
        change(&mut liar);
        assert_eq!(proven(&credential, &liar.prove(CHALLENGE)), Err(refusal));
    }
    assert_eq!(proven(&credential, &good.prove(&[8; 32])), Err(Refusal::Challenge));
    assert_eq!(
        register(&ours(), CHALLENGE, &good.make(&[8; 32]), Demand::Verification),
        Err(Refusal::Challenge)
    );
    // A registration is no proof and a proof no registration.
    let (made, mut proof) = (good.make(CHALLENGE), good.prove(CHALLENGE));
    proof.client_data = made.client_data;
    assert_eq!(proven(&credential, &proof), Err(Refusal::Type));
    // In a frame of another site.
    let framed = json!({"type": "webauthn.get", "challenge": encode_base64url(CHALLENGE), "origin": ORIGIN, "crossOrigin": true});
    proof.client_data = encode_base64url(framed.to_string().as_bytes());
    assert_eq!(proven(&credential, &proof), Err(Refusal::Origin));
}

#[test]
fn no_changed_byte_of_a_proof_is_taken_and_no_other_passkey() {
    let good = Authenticator::p256(ID, ORIGIN);
    let credential = registered(&good);
    let proof = good.prove(CHALLENGE);
    type Part = fn(&mut Proof) -> &mut String;
    let parts: [Part; 3] = [|p| &mut p.client_data, |p| &mut p.authenticator_data, |p| &mut p.signature];
    for part in parts {
        let mut forged = proof.clone();
        let bytes = decode_base64url(part(&mut forged)).unwrap();
        for index in 0..bytes.len() {
            let mut other = bytes.clone();
            other[index] ^= 1;
            *part(&mut forged) = encode_base64url(&other);
            assert!(proven(&credential, &forged).is_err(), "byte {index}");
            *part(&mut forged) = encode_base64url(&bytes[..index]);
            assert!(proven(&credential, &forged).is_err(), "{index} bytes");
        }
        *part(&mut forged) = encode_base64url(&[&bytes[..], &[0]].concat());
        assert!(proven(&credential, &forged).is_err());
    }
    let other = Authenticator::p256(ID, ORIGIN);
    let mut stolen = other.prove(CHALLENGE);
    stolen.id.clone_from(&credential.id);
    assert_eq!(proven(&credential, &stolen), Err(Refusal::Signature));
    assert_eq!(proven(&credential, &other.prove(CHALLENGE)), Err(Refusal::Signature));
}

#[test]
fn a_counter_that_does_not_rise_is_a_copy() {
    let mut authenticator = Authenticator::p256(ID, ORIGIN);
    authenticator.counter = 5;
    let mut credential = registered(&authenticator);
    assert_eq!(proven(&credential, &authenticator.prove(CHALLENGE)), Err(Refusal::Counter));
    authenticator.counter = 6;
    credential.counter = proven(&credential, &authenticator.prove(CHALLENGE)).unwrap();
    assert_eq!(credential.counter, 6);
    authenticator.counter = 0;
    assert_eq!(proven(&credential, &authenticator.prove(CHALLENGE)), Err(Refusal::Counter));
}

#[test]
fn nothing_that_a_browser_could_send_panics() {
    let good = Authenticator::p256(ID, ORIGIN);
    let made = good.make(CHALLENGE);
    let object = decode_base64url(&made.attestation_object).unwrap();
    for index in 0..object.len() {
        for byte in [0x00, 0x5f, 0x7f, 0x9f, 0xbf, 0xff, object[index] ^ 1] {
            let mut other = object.clone();
            other[index] = byte;
            let forged = Made { attestation_object: encode_base64url(&other), ..made.clone() };
            let _ = register(&ours(), CHALLENGE, &forged, Demand::Verification);
        }
        let short = Made { attestation_object: encode_base64url(&object[..index]), ..made.clone() };
        assert!(register(&ours(), CHALLENGE, &short, Demand::Verification).is_err(), "{index} bytes");
    }
    // Kinds of keys that are not taken: a curve, an algorithm and a type that nobody asked for.
    for key in ["a5010203262002215820", "a401010327200621", "a201042000", "a0", "", "80"] {
        assert!(PublicKey::decode(&hex(key)).is_err(), "{key}");
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn url(text: &str) -> String {
    encode_base64url(&hex(text))
}

/// Web Authentication Level 3, section "Test Vectors": `none.ES256` and `packed.RS256`, for example.org.
#[test]
fn the_vectors_of_the_specification_hold() {
    let text = include_str!("webauthn_vectors.json");
    let vectors: Vec<std::collections::BTreeMap<String, String>> = serde_json::from_str(text).unwrap();
    assert_eq!(vectors.len(), 2);
    let party = Party { id: "example.org".into(), origin: "https://example.org".into() };
    for vector in vectors {
        let get = |name: &str| vector[name].as_str();
        let made = Made { client_data: url(get("regCData")), attestation_object: url(get("attObj")) };
        let challenge = hex(get("regChallenge"));
        let credential = register(&party, &challenge, &made, Demand::Presence).unwrap();
        assert_eq!(credential.id, url(get("credId")));
        let proof = Proof {
            id: credential.id.clone(),
            client_data: url(get("cData")),
            authenticator_data: url(get("authData")),
            signature: url(get("sig")),
            user_handle: None,
        };
        let challenge = hex(get("challenge"));
        assert_eq!(
            prove(&party, &challenge, &credential, &proof, Demand::Presence),
            Ok(0),
            "{}",
            get("name")
        );
        // Nobody was verified in these.
        let demanded = prove(&party, &challenge, &credential, &proof, Demand::Verification);
        assert_eq!(demanded, Err(Refusal::NotVerified));
    }
}
