//! Text forms of bytes: strict base 64, URL alphabet, no padding (RFC 4648 section 5).

use base64::Engine as _;

const ENGINE: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The text is not canonical base64url without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected base64url without padding")]
pub struct Base64Error;

/// Bytes as text.
#[must_use]
pub fn encode_base64url(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// Text as bytes; refuses padding, other alphabets and set trailing bits, so that each byte string
/// has exactly one text.
///
/// # Errors
/// [`Base64Error`].
pub fn decode_base64url(text: &str) -> Result<Vec<u8>, Base64Error> {
    ENGINE.decode(text).map_err(|_| Base64Error)
}

/// SHA-256.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Serde form of a fixed number of bytes: base64url text.
pub(crate) mod fixed {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&super::encode_base64url(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(d: D) -> Result<[u8; N], D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let bytes = super::decode_base64url(&text).map_err(D::Error::custom)?;
        let got = bytes.len();
        bytes.try_into().map_err(|_| D::Error::custom(format_args!("expected {N} bytes, got {got}")))
    }
}
