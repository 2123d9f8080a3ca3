//! Texts as parts of addresses and forms.

/// Percent-encoding of everything that is not unreserved (RFC 3986 section 2.3).
pub(crate) fn percent(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String does not fail");
        }
        out
    })
}
