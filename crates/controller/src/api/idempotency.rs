//! The same request twice: a change with an `Idempotency-Key` keeps its answer in the transaction that makes it, for a
//! day. Whoever lost the answer asks again with the same key and gets it, whatever became of the connection.
//!
//! Answers may hold a secret that is shown once (a token, a key), so what is kept is sealed with a key that is in the
//! state directory and not in the database.

use super::{Problem, request::Said, tag::Tagged};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use http::{HeaderMap, HeaderName, StatusCode};
use serde_json::{Value, json};
use state::StateDir;
use std::fmt;
use store::Kept;
use trust::{decode_base64url, encode_base64url, sha256};

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// The sealing key's file.
/// The secret that seals kept answers: the same at every controller of an installation.
pub(crate) const KEY_FILE: &str = "answers.key";
/// Longest key: four UUIDs.
const MAX_KEY: usize = 128;
/// An answer that is larger is not kept; a bulk of 500 operations has some 300 kB.
const MAX_ANSWER: usize = 1024 * 1024;

/// Seals kept answers.
pub(crate) struct AnswerSeal(RandomizedNonceKey);

impl fmt::Debug for AnswerSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswerSeal(…)")
    }
}

impl AnswerSeal {
    /// Opens the state directory's key, or makes it.
    ///
    /// # Errors
    /// The directory.
    pub(crate) fn open(directory: &StateDir) -> Result<Self, state::StateError> {
        let held = directory.read_secret(KEY_FILE)?.filter(|bytes| bytes.len() == 32);
        let bytes = match held {
            Some(bytes) => bytes,
            None => {
                let fresh = crate::clock::random::<32>();
                directory.write_secret(KEY_FILE, &fresh)?;
                fresh.to_vec()
            }
        };
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes).expect("the key has 32 bytes");
        Ok(Self(key))
    }

    fn seal(&self, key: &[u8; 32], answer: &Value) -> Option<String> {
        let mut bytes = answer.to_string().into_bytes();
        if bytes.len() > MAX_ANSWER {
            return None;
        }
        let nonce = self.0.seal_in_place_append_tag(Aad::from(key), &mut bytes).ok()?;
        Some(encode_base64url(&[&nonce.as_ref()[..], &bytes].concat()))
    }

    fn unseal(&self, key: &[u8; 32], text: &str) -> Option<Value> {
        let mut bytes = decode_base64url(text).ok()?;
        let (nonce, sealed) = bytes.split_at_mut_checked(12)?;
        let nonce: [u8; 12] = (&*nonce).try_into().ok()?;
        let opened =
            self.0.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(key), sealed).ok()?;
        serde_json::from_slice(opened).ok()
    }
}

/// A caller's key for one request.
#[derive(Debug, Clone)]
pub(crate) struct IdempotencyKey {
    text: String,
    /// Method, path and query.
    what: String,
    said: Said,
}

impl IdempotencyKey {
    /// Reads the header.
    ///
    /// # Errors
    /// It is not a key.
    pub(crate) fn read(headers: &HeaderMap, what: String, said: Said) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(HEADER) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        // The draft has it in quotes (draft-ietf-httpapi-idempotency-key-header); most scripts send it bare.
        let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        if bare.is_empty() || bare.len() > MAX_KEY || !bare.bytes().all(|byte| byte.is_ascii_graphic()) {
            let rule = format!("1 to {MAX_KEY} visible characters");
            let mut problem =
                Problem::invalid("idempotency-key", rule, text.chars().take(MAX_KEY).collect::<String>());
            problem.status = StatusCode::BAD_REQUEST.as_u16();
            return Err(problem);
        }
        Ok(Some(Self { text: bare.to_owned(), what, said }))
    }

    /// The key, to say which.
    pub(super) fn shown(&self) -> &str {
        &self.text
    }

    /// What names it in the database: nobody's key is another's, and none is stored.
    pub(crate) fn digest(&self, actor: &str, organization: impl fmt::Display) -> [u8; 32] {
        let organization = organization.to_string();
        sha256(&[
            b"tidegate/idempotency/1\0",
            organization.as_bytes(),
            b"\0",
            actor.as_bytes(),
            b"\0",
            self.text.as_bytes(),
        ])
    }

    /// The same for the same request.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(&[b"tidegate/request/1\0", self.what.as_bytes(), b"\0", &self.said.digest()])
    }

    /// What was kept, as the answer.
    ///
    /// # Errors
    /// The key was used for another request, or its answer cannot be read here.
    pub(crate) fn replay(
        &self,
        digest: &[u8; 32],
        kept: &Kept,
        seal: &AnswerSeal,
    ) -> Result<Tagged, Problem> {
        if kept.fingerprint != self.fingerprint() {
            let mut problem = Problem::invalid(
                "idempotency-key",
                "one key for one request: another method, path, query or body needs another key",
                self.text.as_str(),
            );
            problem.title = "The key was used for another request".into();
            problem.kind = "/problems/key-reused".into();
            return Err(problem);
        }
        let opened = kept.answer.as_deref().and_then(|text| seal.unseal(digest, text));
        let status = opened.as_ref().and_then(|value| value["status"].as_u64());
        let status = status.and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok());
        match (opened, status) {
            (Some(opened), Some(status)) => Ok(Tagged::value(status, &opened["body"])),
            _ => {
                let mut problem = Problem::new(
                    StatusCode::CONFLICT,
                    "done-before",
                    "This was done before",
                    "the change of this key is stored; its answer is not kept on this controller: read what is there",
                );
                problem.field = Some("idempotency-key".into());
                problem.rule = Some("a key whose answer is kept".into());
                problem.value = Some(self.text.as_str().into());
                Err(problem)
            }
        }
    }

    /// What is kept of an answer.
    pub(crate) fn kept(
        &self,
        digest: &[u8; 32],
        status: StatusCode,
        body: &Value,
        seal: &AnswerSeal,
    ) -> Kept {
        let answer = seal.seal(digest, &json!({"status": status.as_u16(), "body": body}));
        Kept { fingerprint: self.fingerprint(), answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(text: &'static str, what: &str) -> Result<Option<IdempotencyKey>, Problem> {
        let headers = HeaderMap::from_iter([(HEADER, HeaderValue::from_static(text))]);
        IdempotencyKey::read(&headers, what.to_owned(), Said::default())
    }

    fn seal() -> AnswerSeal {
        AnswerSeal(RandomizedNonceKey::new(&AES_256_GCM, &[7; 32]).unwrap())
    }

    #[test]
    fn a_kept_answer_is_given_again_to_its_own_request_and_key_only() {
        let key = read("\"8e03978e\"", "POST /api/v1/tokens").unwrap().unwrap();
        let digest = key.digest("token a", "org-a");
        let kept = key.kept(&digest, StatusCode::CREATED, &json!({"id": "x", "token": "secret"}), &seal());
        assert!(!kept.answer.clone().unwrap().contains("secret"));
        assert!(key.replay(&digest, &kept, &seal()).is_ok());
        let other = read("8e03978e", "POST /api/v1/sites").unwrap().unwrap();
        assert_eq!(other.digest("token a", "org-a"), digest);
        assert_eq!(other.replay(&digest, &kept, &seal()).unwrap_err().status, 422);
        let elsewhere = key.digest("token b", "org-a");
        assert_ne!(elsewhere, digest);
        assert_eq!(key.replay(&elsewhere, &kept, &seal()).unwrap_err().status, 409);
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        for bad in ["", "\"\"", "a b"] {
            assert_eq!(read(bad, "").unwrap_err().status, 400, "{bad}");
        }
    }
}
