//! The HTTP proxy: CONNECT (RFC 9110 section 9.3.6), and requests in absolute form for plain HTTP
//! (RFC 9112 section 3.2.2), one request a connection.

use super::{Admission, ProxyError};
use crate::{
    dial::DialError,
    target::{Host, Target},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Largest request head; what browsers and servers agree on.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 100;

/// What a client of the HTTP proxy wants.
#[derive(Debug)]
pub(super) struct HttpRequest {
    pub(super) target: Target,
    /// How to answer success: CONNECT gets a 200, a plain request gets the server's own answer.
    pub(super) form: Form,
    /// What goes to the target first.
    pub(super) ahead: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Connect,
    Absolute,
}

/// Takes a client from its first byte (which has been read) to its request.
pub(super) async fn accept<S>(
    stream: &mut S,
    first: u8,
    admission: &Admission,
) -> Result<HttpRequest, ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = Vec::with_capacity(1024);
    buffer.push(first);
    let head_len = loop {
        if let Some(end) = end_of_head(&buffer) {
            break end;
        }
        if buffer.len() >= MAX_HEAD {
            answer(stream, 431, "Request Header Fields Too Large", "", "the request's head is too large")
                .await?;
            return Err(ProxyError::Malformed("a request head above 16 KiB"));
        }
        let room = MAX_HEAD - buffer.len();
        if (&mut *stream).take(u64::try_from(room).unwrap_or(u64::MAX)).read_buf(&mut buffer).await? == 0 {
            return Err(ProxyError::Malformed("the connection ended inside a request head"));
        }
    };
    let rest = buffer.split_off(head_len);
    match parse(&buffer, admission) {
        Ok((target, form, mut ahead)) => {
            ahead.extend_from_slice(&rest);
            Ok(HttpRequest { target, form, ahead })
        }
        Err(ProxyError::CredentialMissing | ProxyError::CredentialWrong) => {
            let challenge = "Proxy-Authenticate: Basic realm=\"tidegate\"\r\n";
            let hint = "the user name and password are in the file proxy-url of the state directory";
            answer(stream, 407, "Proxy Authentication Required", challenge, hint).await?;
            Err(ProxyError::CredentialWrong)
        }
        Err(ProxyError::Malformed(problem)) => {
            answer(stream, 400, "Bad Request", "", problem).await?;
            Err(ProxyError::Malformed(problem))
        }
        Err(other) => Err(other),
    }
}

fn end_of_head(buffer: &[u8]) -> Option<usize> {
    buffer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn parse(head: &[u8], admission: &Admission) -> Result<(Target, Form, Vec<u8>), ProxyError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(ProxyError::Malformed("not an HTTP/1 request")),
    }
    let method = request.method.ok_or(ProxyError::Malformed("no method"))?;
    let uri = request.path.ok_or(ProxyError::Malformed("no request target"))?;
    if let Admission::Password(credential) = admission {
        let is_authorization =
            |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("proxy-authorization");
        let mut given = request.headers.iter().filter(is_authorization);
        match (given.next(), given.next()) {
            (None, _) => return Err(ProxyError::CredentialMissing),
            (Some(header), None) if credential.admits_basic(header.value) => {}
            _ => return Err(ProxyError::CredentialWrong),
        }
    }
    if method == "CONNECT" {
        let target = uri.parse().map_err(|_| ProxyError::Malformed("CONNECT takes HOST:PORT"))?;
        return Ok((target, Form::Connect, Vec::new()));
    }
    let rest = uri
        .strip_prefix("http://")
        .ok_or(ProxyError::Malformed("a proxy takes CONNECT HOST:PORT, or a request for http://…"))?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let target = match authority.parse::<Target>() {
        Ok(target) => target,
        Err(_) => {
            let host = authority.parse::<Host>().map_err(|_| ProxyError::Malformed("no host in the URL"))?;
            Target { host, port: 80 }
        }
    };
    Ok((target, Form::Absolute, origin_form(method, path, request.headers)))
}

/// The request as the target gets it: without what was meant for this proxy, and asking for the
/// connection's end, so that a second request for another host never goes to this one.
fn origin_form(method: &str, path: &str, headers: &[httparse::Header<'_>]) -> Vec<u8> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut head = format!("{method} {slash}{path} HTTP/1.1\r\n").into_bytes();
    for header in headers {
        const HOP_BY_HOP: [&str; 4] = ["proxy-authorization", "proxy-connection", "connection", "keep-alive"];
        if HOP_BY_HOP.iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
            continue;
        }
        head.extend_from_slice(header.name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(header.value);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}

/// Says that the tunnel stands.
pub(super) async fn succeed<S: AsyncWrite + Unpin>(stream: &mut S, form: Form) -> std::io::Result<()> {
    if form == Form::Connect {
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        stream.flush().await?;
    }
    Ok(())
}

/// Says why there is none.
pub(super) async fn refuse<S: AsyncWrite + Unpin>(stream: &mut S, error: &DialError) -> std::io::Result<()> {
    let (status, phrase) = error.http_status();
    let mut extra = format!("Tidegate-Reason: {}\r\n", error.reason.label());
    if let Some(after) = error.retry_after {
        // Whole seconds, rounded up: coming back too early is refused again.
        extra.push_str(&format!("Retry-After: {}\r\n", after.as_millis().div_ceil(1000)));
    }
    answer(stream, status, phrase, &extra, &error.to_string()).await
}

async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: u16,
    phrase: &str,
    extra: &str,
    text: &str,
) -> std::io::Result<()> {
    let body = format!("{text}\n");
    let head = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{extra}Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_request_reaches_the_target_without_what_was_meant_for_the_proxy() {
        let head = b"GET http://Wiki:8080/a?b HTTP/1.1\r\nHost: Wiki:8080\r\nProxy-Authorization: Basic eDp5\r\nConnection: keep-alive\r\n\r\n";
        let (target, form, ahead) = parse(head, &Admission::Open).expect("valid");
        assert_eq!((target.to_string().as_str(), form), ("wiki:8080", Form::Absolute));
        assert_eq!(
            String::from_utf8(ahead).expect("text"),
            "GET /a?b HTTP/1.1\r\nHost: Wiki:8080\r\nConnection: close\r\n\r\n"
        );
        let (target, _, ahead) =
            parse(b"GET http://wiki?q HTTP/1.1\r\n\r\n", &Admission::Open).expect("valid");
        assert_eq!(target.to_string(), "wiki:80");
        assert!(ahead.starts_with(b"GET /?q HTTP/1.1\r\n"));
    }

    #[test]
    fn a_request_for_this_server_itself_or_for_https_is_refused() {
        for bad in
            ["GET / HTTP/1.1", "GET https://a/ HTTP/1.1", "CONNECT wiki HTTP/1.1", "CONNECT wiki:0 HTTP/1.1"]
        {
            let head = format!("{bad}\r\n\r\n");
            assert!(
                matches!(parse(head.as_bytes(), &Admission::Open), Err(ProxyError::Malformed(_))),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_request_head_panics(head in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&head, &Admission::Open);
        }
    }
}
