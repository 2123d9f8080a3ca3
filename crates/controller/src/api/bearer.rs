//! The token of a request: `Authorization: Bearer tgt1.ID.SECRET` (RFC 6750 section 2.1).

use wire::TokenId;

const PREFIX: &str = "tgt1.";

/// Why a header carries no token. Its value is never repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoBearer {
    /// One word.
    OneWord,
    /// Another scheme.
    OtherScheme,
}

/// What stands behind the scheme.
///
/// # Errors
/// [`NoBearer`].
pub(crate) fn credential(header: &str) -> Result<&str, NoBearer> {
    let (scheme, text) = header.split_once(' ').ok_or(NoBearer::OneWord)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(NoBearer::OtherScheme);
    }
    Ok(text.trim())
}

/// The id in a token, and its secret; none for what is no token of ours.
pub(crate) fn parts(token: &str) -> Option<(TokenId, &str)> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('.')?;
    Some((id.parse().ok()?, secret))
}

/// A token's text.
pub(crate) fn text(id: TokenId, secret: &str) -> String {
    format!("{PREFIX}{id}.{secret}")
}
