//! As much of HTTP/1.1 (RFC 9112) as a gateway's control point needs: one request and one bounded response per
//! connection. `httparse` reads the head; nothing here follows, redirects, retries or keeps a connection.

use crate::ssdp::GatewayUrl;

/// No response is read further.
pub const MAX_RESPONSE: usize = 64 * 1024;

const MAX_HEADERS: usize = 64;

/// A response whose length was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body, without the framing of chunks.
    pub body: Vec<u8>,
}

/// Why bytes are no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than [`MAX_RESPONSE`].
    #[error("too long")]
    TooLong,
    /// No HTTP head.
    #[error("head")]
    Head,
    /// Two lengths, or one that is no number, or an encoding that nobody asked for.
    #[error("framing")]
    Framing,
    /// It ended early.
    #[error("truncated")]
    Truncated,
}

/// A request for a document.
pub fn get(url: &GatewayUrl) -> Vec<u8> {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {AGENT}\r\nAccept: text/xml\r\nConnection: close\r\n\r\n",
        url.path(),
        url.to(),
    )
    .into_bytes()
}

/// A call of an action: `action` is `urn#Name`.
pub fn post(url: &GatewayUrl, action: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {AGENT}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\
         SOAPAction: \"{action}\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        url.path(),
        url.to(),
        body.len(),
    )
    .into_bytes()
}

/// UPnP wants system, UPnP version and product; which system this is concerns no gateway.
const AGENT: &str = "Linux UPnP/1.1 tidegate/1";

/// Whether `bytes` hold a whole response already, or can never become one, so that nobody waits for a gateway that
/// does not close its connection.
pub fn is_decided(bytes: &[u8]) -> bool {
    match parse(bytes, Ending::More) {
        Ok(_) => true,
        Err(error) => error != Malformed::Truncated,
    }
}

/// Reads what a connection brought until it was closed, or until [`is_decided`].
///
/// # Errors
/// It is no whole response.
pub fn parse_response(bytes: &[u8]) -> Result<Response, Malformed> {
    parse(bytes, Ending::Closed)
}

/// Whether more bytes can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    More,
    Closed,
}

fn parse(bytes: &[u8], ending: Ending) -> Result<Response, Malformed> {
    if bytes.len() > MAX_RESPONSE {
        return Err(Malformed::TooLong);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(bytes).map_err(|_| Malformed::Head)? else {
        return Err(Malformed::Truncated);
    };
    let status = head.code.ok_or(Malformed::Head)?;
    let rest = bytes.get(length..).unwrap_or_default();
    match framing(head.headers)? {
        Framing::Length(length) => {
            let body = rest.get(..length).ok_or(Malformed::Truncated)?;
            Ok(Response { status, body: body.to_vec() })
        }
        Framing::Chunks => Ok(Response { status, body: join_chunks(rest)? }),
        Framing::UntilClosed if ending == Ending::Closed => Ok(Response { status, body: rest.to_vec() }),
        Framing::UntilClosed => Err(Malformed::Truncated),
    }
}

/// RFC 9112, section 6.
enum Framing {
    Length(usize),
    Chunks,
    UntilClosed,
}

fn framing(headers: &[httparse::Header<'_>]) -> Result<Framing, Malformed> {
    let mut found = None;
    for header in headers {
        let value = || std::str::from_utf8(header.value).map(str::trim).map_err(|_| Malformed::Framing);
        let this = if header.name.eq_ignore_ascii_case("content-length") {
            let value = value()?;
            // `parse` alone would take a sign.
            if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Malformed::Framing);
            }
            let length = value.parse().map_err(|_| Malformed::TooLong)?;
            if length > MAX_RESPONSE {
                return Err(Malformed::TooLong);
            }
            Framing::Length(length)
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value()?.eq_ignore_ascii_case("chunked") {
                return Err(Malformed::Framing);
            }
            Framing::Chunks
        } else {
            continue;
        };
        // Section 6.3: two framings are how responses are smuggled.
        if found.replace(this).is_some() {
            return Err(Malformed::Framing);
        }
    }
    Ok(found.unwrap_or(Framing::UntilClosed))
}

fn join_chunks(mut rest: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut body = Vec::new();
    loop {
        let size = httparse::parse_chunk_size(rest).map_err(|_| Malformed::Framing)?;
        let httparse::Status::Complete((start, size)) = size else { return Err(Malformed::Truncated) };
        let size =
            usize::try_from(size).ok().filter(|size| *size <= MAX_RESPONSE).ok_or(Malformed::TooLong)?;
        rest = rest.get(start..).ok_or(Malformed::Truncated)?;
        if size == 0 {
            return Ok(body); // trailers tell us nothing
        }
        body.extend_from_slice(rest.get(..size).ok_or(Malformed::Truncated)?);
        let after = rest.get(size..size + 2).ok_or(Malformed::Truncated)?;
        if after != b"\r\n" {
            return Err(Malformed::Framing);
        }
        rest = rest.get(size + 2..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_a_told_length_is_cut_there() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef";
        assert!(is_decided(bytes));
        assert_eq!(parse_response(bytes), Ok(Response { status: 200, body: b"abc".to_vec() }));
        let short = b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc";
        assert!(!is_decided(short));
        assert_eq!(parse_response(short), Err(Malformed::Truncated));
    }

    #[test]
    fn chunks_are_joined() {
        let bytes =
            b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n";
        assert!(is_decided(bytes));
        assert_eq!(parse_response(bytes), Ok(Response { status: 500, body: b"abcde".to_vec() }));
        for length in 0..bytes.len() - 4 {
            assert_eq!(parse_response(&bytes[..length]), Err(Malformed::Truncated), "{length}");
        }
    }

    #[test]
    fn without_a_length_the_end_of_the_connection_is_the_end() {
        let bytes = b"HTTP/1.0 200 OK\r\n\r\nabc";
        assert!(!is_decided(bytes));
        assert_eq!(parse_response(bytes).unwrap().body, b"abc");
    }

    #[test]
    fn ambiguous_endless_and_foreign_bytes_are_refused() {
        let of = |bytes: &[u8]| parse_response(bytes).unwrap_err();
        assert_eq!(
            of(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na"),
            Malformed::Framing
        );
        assert_eq!(
            of(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na"),
            Malformed::Framing
        );
        assert_eq!(of(b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na"), Malformed::Framing);
        assert_eq!(of(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\na"), Malformed::TooLong);
        assert_eq!(
            of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\na"),
            Malformed::TooLong
        );
        assert_eq!(of(b"220 mail.example ESMTP\r\n"), Malformed::Head);
        assert_eq!(of(&vec![b'a'; MAX_RESPONSE + 1]), Malformed::TooLong);
    }
}
