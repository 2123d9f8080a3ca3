//! PASETO v4.public over aws-lc-rs's Ed25519: the token format, and nothing about its contents.
//!
//! Source: the PASETO specification, `docs/01-Protocol-Versions/Version4.md` (Sign, Verify) and
//! `docs/01-Protocol-Versions/Common.md` (PAE). Versions are never negotiated: this module knows
//! one header and refuses every other.

use crate::{
    encoding::{decode_base64url, encode_base64url},
    key::{SigningKey, VerifyingKey},
};

const HEADER: &str = "v4.public.";
const SIGNATURE_LEN: usize = 64;

/// Why a text is not a token, or not one by this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum PasetoError {
    /// Not `v4.public.…`.
    #[error("expected a token that starts with \"v4.public.\"")]
    Header,
    /// Not two or three parts of canonical base64url.
    #[error("expected base64url parts separated by dots")]
    Encoding,
    /// Shorter than a signature.
    #[error("the token is shorter than its signature")]
    TooShort,
    /// The signature does not verify under this key, footer and assertion.
    #[error("the signature does not verify")]
    Signature,
}

/// Pre-authentication encoding: count, then each piece with its length, little-endian 64 bits
/// (top bit clear).
#[must_use]
pub fn pre_authentication_encoding(pieces: &[&[u8]]) -> Vec<u8> {
    let le64 = |value: usize| (u64::try_from(value).unwrap_or(u64::MAX) & (u64::MAX >> 1)).to_le_bytes();
    let mut out = Vec::with_capacity(8 + pieces.iter().map(|piece| piece.len() + 8).sum::<usize>());
    out.extend_from_slice(&le64(pieces.len()));
    for piece in pieces {
        out.extend_from_slice(&le64(piece.len()));
        out.extend_from_slice(piece);
    }
    out
}

/// Signs `message`; `footer` travels readable, `assertion` does not travel.
#[must_use]
pub fn sign(key: &SigningKey, message: &[u8], footer: &[u8], assertion: &[u8]) -> String {
    let signature = key.sign(&pre_authentication_encoding(&[HEADER.as_bytes(), message, footer, assertion]));
    let mut token = String::from(HEADER);
    token.push_str(&encode_base64url(&[message, &signature].concat()));
    if !footer.is_empty() {
        token.push('.');
        token.push_str(&encode_base64url(footer));
    }
    token
}

/// A token cut into its parts, nothing about them verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnverifiedToken {
    message: Vec<u8>,
    signature: [u8; SIGNATURE_LEN],
    footer: Vec<u8>,
}

impl UnverifiedToken {
    /// Cuts a token.
    ///
    /// # Errors
    /// The text is not of the form `v4.public.body[.footer]`.
    pub fn parse(token: &str) -> Result<Self, PasetoError> {
        let rest = token.strip_prefix(HEADER).ok_or(PasetoError::Header)?;
        let (body, footer) = match rest.split_once('.') {
            // "v4.public.body." would be a second text of the same token.
            Some((_, "")) => return Err(PasetoError::Encoding),
            Some((body, footer)) => (body, decode_base64url(footer).map_err(|_| PasetoError::Encoding)?),
            None => (rest, Vec::new()),
        };
        let mut message = decode_base64url(body).map_err(|_| PasetoError::Encoding)?;
        let at = message.len().checked_sub(SIGNATURE_LEN).ok_or(PasetoError::TooShort)?;
        let signature = message.split_off(at).try_into().expect("cut at its length");
        Ok(Self { message, signature, footer })
    }

    /// The footer: which key claims to have signed. Not verified yet.
    #[must_use]
    pub fn footer(&self) -> &[u8] {
        &self.footer
    }

    /// What the token claims to say. Only for learning which key to verify it with.
    pub(crate) fn claimed_message(&self) -> &[u8] {
        &self.message
    }

    /// The message, once its signature verifies.
    ///
    /// # Errors
    /// [`PasetoError::Signature`].
    pub fn verify(self, key: &VerifyingKey, assertion: &[u8]) -> Result<Vec<u8>, PasetoError> {
        let signed =
            pre_authentication_encoding(&[HEADER.as_bytes(), &self.message, &self.footer, assertion]);
        key.verify(&signed, &self.signature).map_err(|_| PasetoError::Signature)?;
        Ok(self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Test vectors 4-S-1 to 4-S-3 of the PASETO project (test-vectors/v4.json).
    const SEED: &str = "b4cbfb43df4ce210727d953e4a713307fa19bb7d9f85041438d9e11b942a3774";
    const MESSAGE: &[u8] = b"{\"data\":\"this is a signed message\",\"exp\":\"2022-01-01T00:00:00+00:00\"}";

    fn key() -> SigningKey {
        let bytes: Vec<u8> =
            (0..32).map(|i| u8::from_str_radix(&SEED[2 * i..2 * i + 2], 16).expect("hex")).collect();
        SigningKey::from_seed(&bytes.try_into().expect("32 bytes"))
    }

    #[test]
    fn official_vector_4_s_1_holds() {
        let token = sign(&key(), MESSAGE, b"", b"");
        assert_eq!(
            token,
            "v4.public.eyJkYXRhIjoidGhpcyBpcyBhIHNpZ25lZCBtZXNzYWdlIiwiZXhwIjoiMjAyMi0wMS0wMVQwMDowMDowMCswMDowMCJ9bg_XBBzds8lTZShVlwwKSgeKpLT3yukTw6JUz3W4h_ExsQV-P0V54zemZDcAxFaSeef1QlXEFtkqxT1ciiQEDA"
        );
    }

    #[test]
    fn official_vector_4_s_2_holds() {
        let footer = b"{\"kid\":\"zVhMiPBP9fRf2snEcT7gFTioeA9COcNy9DfgL1W60haN\"}";
        let token = sign(&key(), MESSAGE, footer, b"");
        assert_eq!(
            token,
            "v4.public.eyJkYXRhIjoidGhpcyBpcyBhIHNpZ25lZCBtZXNzYWdlIiwiZXhwIjoiMjAyMi0wMS0wMVQwMDowMDowMCswMDowMCJ9v3Jt8mx_TdM2ceTGoqwrh4yDFn0XsHvvV_D0DtwQxVrJEBMl0F2caAdgnpKlt4p7xBnx1HcO-SPo8FPp214HDw.eyJraWQiOiJ6VmhNaVBCUDlmUmYyc25FY1Q3Z0ZUaW9lQTlDT2NOeTlEZmdMMVc2MGhhTiJ9"
        );
    }

    #[test]
    fn official_vector_4_s_3_holds_with_its_implicit_assertion() {
        let footer = b"{\"kid\":\"zVhMiPBP9fRf2snEcT7gFTioeA9COcNy9DfgL1W60haN\"}";
        let assertion = b"{\"test-vector\":\"4-S-3\"}";
        let token = sign(&key(), MESSAGE, footer, assertion);
        assert!(
            token.contains(
                "NPWciuD3d0o5eXJXG5pJy-DiVEoyPYWs1YSTwWHNJq6DZD3je5gf-0M4JR9ipdUSJbIovzmBECeaWmaqcaP0DQ"
            ),
            "{token}"
        );
        let parsed = UnverifiedToken::parse(&token).expect("own token");
        assert_eq!(parsed.clone().verify(&key().verifying_key(), b""), Err(PasetoError::Signature));
        assert_eq!(parsed.verify(&key().verifying_key(), assertion).as_deref(), Ok(MESSAGE));
    }

    #[test]
    fn other_versions_and_purposes_are_refused_by_name() {
        for token in ["v3.public.AAAA", "v4.local.AAAA", "v2.public.AAAA", "", "v4.public"] {
            assert_eq!(UnverifiedToken::parse(token), Err(PasetoError::Header), "{token}");
        }
    }

    #[test]
    fn a_token_has_exactly_one_text() {
        let token = sign(&key(), b"{}", b"", b"");
        assert!(UnverifiedToken::parse(&format!("{token}.")).is_err());
        assert!(UnverifiedToken::parse(&format!("{token}=")).is_err());
        // A message of 2 + 64 bytes is 66: no spare bits; 3 + 64 = 67 leaves four of them.
        let mut spare = sign(&key(), b"{ }", b"", b"");
        let last = spare.pop().expect("not empty");
        spare.push(char::from(u8::try_from(last).expect("ascii") + 1));
        assert!(UnverifiedToken::parse(&spare).is_err());
    }
}
