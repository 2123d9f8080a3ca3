//! The signature of an id_token (RFC 7515 compact form, RFC 7517 keys, RFC 7518 and 8037 algorithms), over aws-lc-rs.
//!
//! Only signatures that need the provider's private key: no `none`, and no HMAC, under which a public key could be
//! taken for a secret (RFC 8725 sections 3.1 and 3.2). The key decides which algorithm it may be used with.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use trust::decode_base64url;

/// Longest token that is looked at.
const MAX_TOKEN: usize = 32 * 1024;
/// Keys of a set that are looked at.
const MAX_KEYS: usize = 64;

/// A token was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JwsError {
    /// Not three parts of base64url, or no header.
    #[error("the id_token is not a signed token in compact form")]
    Form,
    /// The header asks for something that is not done.
    #[error("the id_token is signed with {0:?}; RS, PS, ES256, ES384 and EdDSA are taken")]
    Algorithm(String),
    /// No key of the set fits.
    #[error("the provider's key set has no key {0:?} for the id_token")]
    NoKey(String),
    /// The signature.
    #[error("the id_token's signature is not the provider's")]
    Signature,
}

/// One key of a set (RFC 7517 section 4). Parameters that are not read here are skipped.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Jwk {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

/// A key set. A key that does not parse is skipped: providers publish kinds that nobody else knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeySet(Vec<Jwk>);

impl KeySet {
    /// # Errors
    /// Not a key set.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(bytes)?;
        let keys = set.keys.into_iter().take(MAX_KEYS).filter_map(|key| serde_json::from_value(key).ok());
        Ok(Self(keys.collect()))
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood (RFC 7515 section 4.1.11): none is.
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

fn part(text: Option<&String>) -> Option<Vec<u8>> {
    decode_base64url(text?).ok()
}

impl Jwk {
    fn fits(&self, header: &Header) -> bool {
        let curve = self.crv.as_deref();
        let kind = match header.alg.as_str() {
            "RS256" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" => self.kty == "RSA",
            "ES256" => self.kty == "EC" && curve == Some("P-256"),
            "ES384" => self.kty == "EC" && curve == Some("P-384"),
            "EdDSA" => self.kty == "OKP" && curve == Some("Ed25519"),
            _ => false,
        };
        kind && self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.alg.as_deref().is_none_or(|alg| alg == header.alg)
            && header.kid.as_ref().is_none_or(|kid| self.kid.as_ref() == Some(kid))
    }

    fn verifies(&self, alg: &str, message: &[u8], signature: &[u8]) -> bool {
        let rsa = |params| {
            let (Some(n), Some(e)) = (part(self.n.as_ref()), part(self.e.as_ref())) else { return false };
            RsaPublicKeyComponents { n, e }.verify(params, message, signature).is_ok()
        };
        let point = |length: usize| {
            let (x, y) = (part(self.x.as_ref())?, part(self.y.as_ref())?);
            // RFC 7518 section 6.2.1.2: the full length of a coordinate.
            (x.len() == length && y.len() == length).then(|| [&[4][..], &x, &y].concat())
        };
        match alg {
            "RS256" => rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => rsa(&RSA_PSS_2048_8192_SHA256),
            "PS384" => rsa(&RSA_PSS_2048_8192_SHA384),
            "PS512" => rsa(&RSA_PSS_2048_8192_SHA512),
            "ES256" => point(32).is_some_and(|point| {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }),
            "ES384" => point(48).is_some_and(|point| {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature).is_ok()
            }),
            "EdDSA" => part(self.x.as_ref())
                .is_some_and(|key| UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()),
            _ => false,
        }
    }
}

/// The payload of a token whose signature is of one of these keys.
///
/// # Errors
/// [`JwsError`]. On [`JwsError::NoKey`] the provider may have a newer set.
pub(crate) fn verify(token: &str, keys: &KeySet) -> Result<Vec<u8>, JwsError> {
    if token.len() > MAX_TOKEN {
        return Err(JwsError::Form);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(JwsError::Form)?;
    let (header, payload) = message.split_once('.').ok_or(JwsError::Form)?;
    let decoded = |text: &str| decode_base64url(text).map_err(|_| JwsError::Form);
    let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| JwsError::Form)?;
    let (payload, signature) = (decoded(payload)?, decoded(signature)?);
    if header.crit.is_some() {
        return Err(JwsError::Algorithm("crit".into()));
    }
    let known = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
    if !known.contains(&header.alg.as_str()) {
        return Err(JwsError::Algorithm(header.alg.chars().take(20).collect()));
    }
    let mut fitting = keys.0.iter().filter(|key| key.fits(&header)).peekable();
    if fitting.peek().is_none() {
        return Err(JwsError::NoKey(header.kid.unwrap_or_default().chars().take(64).collect()));
    }
    if fitting.any(|key| key.verifies(&header.alg, message.as_bytes(), &signature)) {
        Ok(payload)
    } else {
        Err(JwsError::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trust::encode_base64url;

    /// RFC 7515 appendix A.2.
    const RSA_KEY: &str = r#"{"keys":[{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}]}"#;
    const RSA_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    /// RFC 7515 appendix A.3.
    const EC_KEY: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    const EC_TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    /// RFC 8037 appendix A.4.
    const ED_KEY: &str = r#"{"keys":[{"kty":"oct","k":"AA"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    const ED_TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

    fn keys(text: &str) -> KeySet {
        KeySet::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_examples_of_the_rfcs_verify() {
        let joe = "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";
        assert_eq!(verify(RSA_TOKEN, &keys(RSA_KEY)).unwrap(), joe.as_bytes());
        assert_eq!(verify(EC_TOKEN, &keys(EC_KEY)).unwrap(), joe.as_bytes());
        assert_eq!(verify(ED_TOKEN, &keys(ED_KEY)).unwrap(), b"Example of Ed25519 signing");
    }

    #[test]
    fn no_changed_character_verifies_and_no_key_of_another_kind_is_used() {
        for (token, key) in [(RSA_TOKEN, RSA_KEY), (EC_TOKEN, EC_KEY), (ED_TOKEN, ED_KEY)] {
            for index in 0..token.len() {
                let mut forged = token.to_owned().into_bytes();
                forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
                let forged = String::from_utf8(forged).unwrap();
                let same_bytes = forged.rsplit_once('.').is_some_and(|(message, signature)| {
                    // The last character of base64url may carry bits that mean nothing; strict decoding refuses those.
                    token.rsplit_once('.').is_some_and(|(m, s)| {
                        m == message && decode_base64url(s).ok() == decode_base64url(signature).ok()
                    })
                });
                assert!(same_bytes || verify(&forged, &keys(key)).is_err(), "character {index}");
            }
        }
        assert!(matches!(verify(RSA_TOKEN, &keys(EC_KEY)), Err(JwsError::NoKey(_))));
    }

    #[test]
    fn none_and_shared_secrets_are_no_signatures() {
        let body = RSA_TOKEN.split('.').nth(1).unwrap();
        for alg in ["none", "None", "HS256", "", "ES256K", "RS1"] {
            let header = encode_base64url(format!("{{\"alg\":\"{alg}\"}}").as_bytes());
            for signature in ["", "AAAA"] {
                let token = format!("{header}.{body}.{signature}");
                assert_eq!(verify(&token, &keys(RSA_KEY)), Err(JwsError::Algorithm(alg.into())));
            }
        }
        let crit = encode_base64url(br#"{"alg":"RS256","crit":["b64"],"b64":false}"#);
        assert!(matches!(verify(&format!("{crit}.{body}.AA"), &keys(RSA_KEY)), Err(JwsError::Algorithm(_))));
        for form in ["", ".", "..", "a.b", "a.b.c", "e30.e30.e30"] {
            assert!(verify(form, &keys(RSA_KEY)).is_err(), "{form}");
        }
    }

    #[test]
    fn a_key_for_another_use_or_algorithm_or_of_another_name_is_not_used() {
        let with = |extra: &str| keys(&EC_KEY.replace("\"kty\"", &format!("{extra},\"kty\"")));
        assert!(verify(EC_TOKEN, &with("\"use\":\"sig\",\"alg\":\"ES256\",\"kid\":\"a\"")).is_ok());
        for extra in ["\"use\":\"enc\"", "\"alg\":\"ES384\""] {
            assert!(matches!(verify(EC_TOKEN, &with(extra)), Err(JwsError::NoKey(_))), "{extra}");
        }
    }
}
