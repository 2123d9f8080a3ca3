//! Join keys and one-time links: where the controller is, which root to believe, and a secret.

use crate::{encoding, root::RootHash};
use minicbor::{Decode, Encode};
use std::{fmt, str::FromStr};

/// What a key enrols.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    Encode,
    Decode,
)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum JoinKind {
    /// A PoP.
    #[n(0)]
    Pop,
    /// A connector of one site.
    #[n(1)]
    Connector,
    /// A device of one user or service account.
    #[n(2)]
    Device,
}

impl fmt::Display for JoinKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pop => "PoP",
            Self::Connector => "connector",
            Self::Device => "device",
        })
    }
}

/// 256 random bits. Printed only as part of a join key.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// Wraps 256 random bits.
    #[must_use]
    pub const fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// What a controller stores: SHA-256 over a domain and the secret. 256 random bits need no
    /// slow hash.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        encoding::sha256(&[b"tidegate/join-secret/1", &self.0])
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(…)")
    }
}

/// A join key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinKey {
    /// What it enrols.
    pub kind: JoinKind,
    /// The controller's address, `https://host[:port]`.
    pub controller: String,
    /// The root to believe.
    pub root: RootHash,
    /// The secret.
    pub secret: JoinSecret,
}

/// Why a text is no join key. The text itself is never repeated: it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinKeyError {
    /// Another beginning.
    #[error("expected a key that starts with \"tg1.\"; copy the whole key as it was shown")]
    Prefix,
    /// Not base64url.
    #[error("expected letters, digits, - and _ behind \"tg1.\"; the key was changed in copying")]
    Encoding,
    /// The check sum is wrong.
    #[error("the key's check sum is wrong: it was cut or changed in copying")]
    Checksum,
    /// The content does not decode.
    #[error("the key does not decode; was it made by a newer version?")]
    Content,
    /// Not an https address.
    #[error("the key's controller address is not https://")]
    Address,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Content {
    #[n(0)]
    kind: JoinKind,
    #[n(1)]
    controller: String,
    #[cbor(n(2), with = "minicbor::bytes")]
    root: [u8; 32],
    #[cbor(n(3), with = "minicbor::bytes")]
    secret: [u8; 32],
}

const PREFIX: &str = "tg1.";
const CHECKSUM_LEN: usize = 4;
const MAX_TEXT: usize = 1024;

fn checksum(content: &[u8]) -> [u8; CHECKSUM_LEN] {
    let digest = encoding::sha256(&[b"tidegate/join-key/1", content]);
    digest[..CHECKSUM_LEN].try_into().expect("4 of 32 bytes")
}

impl JoinKey {
    /// The text to hand over. It contains the secret.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        let content = minicbor::to_vec(Content {
            kind: self.kind,
            controller: self.controller.clone(),
            root: *self.root.as_bytes(),
            secret: self.secret.0,
        })
        .expect("writing CBOR to a Vec does not fail");
        let sum = checksum(&content);
        format!("{PREFIX}{}", encoding::encode_base64url(&[&content[..], &sum].concat()))
    }
}

impl FromStr for JoinKey {
    type Err = JoinKeyError;
    fn from_str(text: &str) -> Result<Self, JoinKeyError> {
        let text = text.trim();
        // A link carries the key behind its '#': browsers do not send that part anywhere.
        let text = text.rsplit_once('#').map_or(text, |(_, key)| key);
        let encoded = text.strip_prefix(PREFIX).ok_or(JoinKeyError::Prefix)?;
        if text.len() > MAX_TEXT {
            return Err(JoinKeyError::Encoding);
        }
        let bytes = encoding::decode_base64url(encoded).map_err(|_| JoinKeyError::Encoding)?;
        let at = bytes.len().checked_sub(CHECKSUM_LEN).ok_or(JoinKeyError::Checksum)?;
        let (content, sum) = bytes.split_at(at);
        if checksum(content) != *sum {
            return Err(JoinKeyError::Checksum);
        }
        let content: Content = minicbor::decode(content).map_err(|_| JoinKeyError::Content)?;
        if !content.controller.starts_with("https://") {
            return Err(JoinKeyError::Address);
        }
        Ok(Self {
            kind: content.kind,
            controller: content.controller,
            root: RootHash::from_bytes(content.root),
            secret: JoinSecret(content.secret),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> JoinKey {
        JoinKey {
            kind: JoinKind::Device,
            controller: "https://tidegate.example.org:8443".into(),
            root: RootHash::from_bytes([5; 32]),
            secret: JoinSecret([9; 32]),
        }
    }

    #[test]
    fn a_key_survives_its_text_and_a_link_around_it() {
        let text = key().to_secret_text();
        assert_eq!(text.parse::<JoinKey>(), Ok(key()));
        assert_eq!(format!(" https://x.example/join#{text}\n").parse::<JoinKey>(), Ok(key()));
    }

    #[test]
    fn a_key_that_was_cut_or_changed_says_so() {
        let text = key().to_secret_text();
        for end in PREFIX.len()..text.len() {
            assert!(text[..end].parse::<JoinKey>().is_err(), "cut at {end}");
        }
        let bent = text.replace('a', "b");
        assert!(bent == text || bent.parse::<JoinKey>().is_err());
        assert_eq!("hello".parse::<JoinKey>(), Err(JoinKeyError::Prefix));
    }

    #[test]
    fn a_key_prints_its_secret_only_when_asked_to() {
        assert!(!format!("{:?}", key()).contains("9, 9"));
    }
}
