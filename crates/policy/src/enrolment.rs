//! What first enrolment says over HTTPS: JSON without logic, for the side that asks and the side
//! that answers.
//!
//! `GET /enrol/v1/trust` gives a [`TrustAnswer`] to anybody: it proves itself against the root's hash
//! in the join key. With `?nonce=` (16 bytes, base64url) it says what time it is, signed. `POST /enrol/v1/{device,connector,pop}` takes one of the requests and gives
//! [`Enrolled`]. The new identity key signs the request together with the hash of the secret, so
//! that a request cannot be replayed with another key, nor a key be enrolled by who does not hold it.
//!
//! Sending the same request twice (an answer was lost) gives the same identity and uses the key
//! once.

use serde::{Deserialize, Serialize};
use trust::{
    BadSignature, Identity, JoinKind, JoinSecret, SealKey, SigningKey, VerifyingKey, decode_base64url,
    encode_base64url, sha256,
};

/// Longest name of a device, connector or PoP, in bytes.
pub const MAX_NAME: usize = 64;
/// Longest address that a PoP advertises, in bytes.
pub const MAX_ADVERTISE: usize = 255;

/// The answer of `GET /enrol/v1/trust`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustAnswer {
    /// The trust chain's text.
    pub chain: String,
    /// A beacon with the nonce that was asked with; none when the controller signs nothing right now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beacon: Option<String>,
}

/// The body of `POST /enrol/v1/device-code`: a terminal asks for a person to confirm it in a browser (in the shape of
/// RFC 8628).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceCodeRequest {
    /// What the device will be called.
    pub name: String,
}

/// Its answer (RFC 8628 section 3.2).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCodeAnswer {
    /// The terminal's secret.
    pub device_code: String,
    /// What the person types, or compares.
    pub user_code: String,
    /// Where it is typed.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: String,
    /// Seconds until the code ends.
    pub expires_in: u64,
    /// Seconds between two questions.
    pub interval: u64,
    /// The hash of the root that the join key will name: shown on both sides.
    pub root: String,
}

impl std::fmt::Debug for DeviceCodeAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceCodeAnswer").field("user_code", &self.user_code).finish_non_exhaustive()
    }
}

/// The body of `POST /enrol/v1/device-code/token`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceCodePoll {
    /// The terminal's secret.
    pub device_code: String,
}

impl std::fmt::Debug for DeviceCodePoll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceCodePoll").finish_non_exhaustive()
    }
}

/// Its answer (RFC 8628 section 3.5, by the same words).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum DeviceCodeResult {
    /// Nobody has decided yet.
    AuthorizationPending,
    /// Asked too often.
    SlowDown {
        /// Seconds between two questions from now on.
        interval: u64,
    },
    /// The person said no.
    AccessDenied,
    /// Too late, or unknown.
    ExpiredToken,
    /// The person said yes.
    Confirmed {
        /// The join key's text: it enrols one device of that person.
        join_key: String,
    },
}

impl std::fmt::Debug for DeviceCodeResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AuthorizationPending => "AuthorizationPending",
            Self::SlowDown { .. } => "SlowDown",
            Self::AccessDenied => "AccessDenied",
            Self::ExpiredToken => "ExpiredToken",
            Self::Confirmed { .. } => "Confirmed",
        })
    }
}

/// The body of `POST /enrol/v1/device`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceEnrolment {
    /// The join key's secret (base64url).
    pub secret: EnrolmentSecret,
    /// The device's new identity key.
    pub identity_key: VerifyingKey,
    /// What its owner calls it.
    pub name: String,
    /// By the identity key.
    pub proof: Proof,
}

/// The body of `POST /enrol/v1/connector`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorEnrolment {
    /// The join key's secret (base64url).
    pub secret: EnrolmentSecret,
    /// The connector's new identity key.
    pub identity_key: VerifyingKey,
    /// The connector's WireGuard key (X25519).
    pub wireguard_key: SealKey,
    /// The key that introductions are sealed to.
    pub seal_key: SealKey,
    /// For people; unique in the organization.
    pub name: String,
    /// By the identity key.
    pub proof: Proof,
}

/// The body of `POST /enrol/v1/pop`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PopEnrolment {
    /// The join key's secret (base64url).
    pub secret: EnrolmentSecret,
    /// The PoP's new identity key.
    pub identity_key: VerifyingKey,
    /// `HOST:PORT` that agents and controllers dial.
    pub advertise: String,
    /// For people; unique in the installation.
    pub name: String,
    /// By the identity key.
    pub proof: Proof,
}

/// The answer to each of the three requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Who the enrolled agent is from now on.
    pub identity: Identity,
    /// Its name as the controller keeps it.
    pub name: String,
    /// Whom it belongs to, for people: the organization's name, the installation's for a PoP.
    pub belongs_to: String,
    /// Whose device it is, for people; none for connectors and PoPs.
    pub owner: Option<String>,
    /// The certificate (DER, base64url).
    pub certificate: String,
    /// The grant's text; devices only.
    pub grant: Option<String>,
    /// The slice's text. It carries the PoP list.
    pub slice: String,
    /// The trust chain's text.
    pub chain: String,
}

/// A join key's secret on its way to the controller. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct EnrolmentSecret(pub JoinSecret);

impl std::fmt::Debug for EnrolmentSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnrolmentSecret(…)")
    }
}

impl Serialize for EnrolmentSecret {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&encode_base64url(self.0.expose()))
    }
}

impl<'de> Deserialize<'de> for EnrolmentSecret {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let bytes = decode_base64url(&text).ok().and_then(|bytes| bytes.try_into().ok());
        // The text is a secret: the error does not repeat it.
        bytes
            .map(|bytes| Self(JoinSecret::from_random(bytes)))
            .ok_or_else(|| serde::de::Error::custom("expected 32 bytes as base64url"))
    }
}

/// An Ed25519 signature over a request (base64url).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof(pub [u8; 64]);

impl Serialize for Proof {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&encode_base64url(&self.0))
    }
}

impl<'de> Deserialize<'de> for Proof {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        let bytes = decode_base64url(&text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("expected 64 bytes as base64url"))
    }
}

/// What the proof signs: domain ‖ kind ‖ hash of the secret ‖ identity key ‖ SHA-256 of the rest.
fn signing_input(kind: JoinKind, secret: &JoinSecret, key: &VerifyingKey, rest: &[&[u8]]) -> Vec<u8> {
    let mut input = b"tidegate/enrolment/1".to_vec();
    input.push(match kind {
        JoinKind::Pop => 0,
        JoinKind::Connector => 1,
        JoinKind::Device => 2,
    });
    input.extend_from_slice(&secret.hash());
    input.extend_from_slice(key.as_bytes());
    for part in rest {
        input.extend_from_slice(&sha256(&[part]));
    }
    input
}

impl DeviceEnrolment {
    /// A request by the holder of `identity`.
    #[must_use]
    pub fn new(secret: JoinSecret, identity: &SigningKey, name: &str) -> Self {
        let identity_key = identity.verifying_key();
        let proof =
            identity.sign(&signing_input(JoinKind::Device, &secret, &identity_key, &[name.as_bytes()]));
        Self { secret: EnrolmentSecret(secret), identity_key, name: name.to_owned(), proof: Proof(proof) }
    }

    /// Whether the holder of the identity key made this request.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn check_proof(&self) -> Result<(), BadSignature> {
        let rest = [self.name.as_bytes()];
        let input = signing_input(JoinKind::Device, &self.secret.0, &self.identity_key, &rest);
        self.identity_key.verify(&input, &self.proof.0)
    }
}

impl ConnectorEnrolment {
    /// A request by the holder of `identity`.
    #[must_use]
    pub fn new(
        secret: JoinSecret,
        identity: &SigningKey,
        wireguard_key: SealKey,
        seal_key: SealKey,
        name: &str,
    ) -> Self {
        let identity_key = identity.verifying_key();
        let rest: [&[u8]; 3] = [wireguard_key.as_bytes(), seal_key.as_bytes(), name.as_bytes()];
        let proof = identity.sign(&signing_input(JoinKind::Connector, &secret, &identity_key, &rest));
        Self {
            secret: EnrolmentSecret(secret),
            identity_key,
            wireguard_key,
            seal_key,
            name: name.to_owned(),
            proof: Proof(proof),
        }
    }

    /// Whether the holder of the identity key made this request.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn check_proof(&self) -> Result<(), BadSignature> {
        let rest: [&[u8]; 3] =
            [self.wireguard_key.as_bytes(), self.seal_key.as_bytes(), self.name.as_bytes()];
        let input = signing_input(JoinKind::Connector, &self.secret.0, &self.identity_key, &rest);
        self.identity_key.verify(&input, &self.proof.0)
    }
}

impl PopEnrolment {
    /// A request by the holder of `identity`.
    #[must_use]
    pub fn new(secret: JoinSecret, identity: &SigningKey, advertise: &str, name: &str) -> Self {
        let identity_key = identity.verifying_key();
        let rest = [advertise.as_bytes(), name.as_bytes()];
        let proof = identity.sign(&signing_input(JoinKind::Pop, &secret, &identity_key, &rest));
        Self {
            secret: EnrolmentSecret(secret),
            identity_key,
            advertise: advertise.to_owned(),
            name: name.to_owned(),
            proof: Proof(proof),
        }
    }

    /// Whether the holder of the identity key made this request.
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn check_proof(&self) -> Result<(), BadSignature> {
        let rest = [self.advertise.as_bytes(), self.name.as_bytes()];
        let input = signing_input(JoinKind::Pop, &self.secret.0, &self.identity_key, &rest);
        self.identity_key.verify(&input, &self.proof.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_json_and_any_changed_field_breaks_its_proof() {
        let identity = SigningKey::from_seed(&[1; 32]);
        let keys = [SealKey::from_bytes([2; 32]), SealKey::from_bytes([3; 32])];
        let secret = JoinSecret::from_random([4; 32]);
        let request = ConnectorEnrolment::new(secret, &identity, keys[0], keys[1], "hh-1");
        let text = serde_json::to_string(&request).expect("serializes");
        let back: ConnectorEnrolment = serde_json::from_str(&text).expect("decodes");
        assert_eq!(back.check_proof(), Ok(()));
        let changes: [fn(&mut ConnectorEnrolment); 5] = [
            |r| r.secret = EnrolmentSecret(JoinSecret::from_random([5; 32])),
            |r| r.identity_key = SigningKey::from_seed(&[9; 32]).verifying_key(),
            |r| r.wireguard_key = SealKey::from_bytes([9; 32]),
            |r| r.seal_key = SealKey::from_bytes([9; 32]),
            |r| r.name.push('x'),
        ];
        for (index, change) in changes.iter().enumerate() {
            let mut changed = back.clone();
            change(&mut changed);
            assert_eq!(changed.check_proof(), Err(BadSignature), "change {index}");
        }
    }

    #[test]
    fn a_device_request_is_no_pop_request() {
        let identity = SigningKey::from_seed(&[1; 32]);
        let secret = JoinSecret::from_random([4; 32]);
        let device = DeviceEnrolment::new(secret.clone(), &identity, "a");
        let mut pop = PopEnrolment::new(secret, &identity, "", "a");
        pop.proof = device.proof.clone();
        assert_eq!((device.check_proof(), pop.check_proof()), (Ok(()), Err(BadSignature)));
    }

    #[test]
    fn a_wrong_secret_is_refused_without_being_repeated() {
        let error = serde_json::from_str::<EnrolmentSecret>("\"hunter2\"").expect_err("too short");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
