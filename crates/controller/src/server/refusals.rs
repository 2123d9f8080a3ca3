//! What the HTTP library refuses by itself, said as everything else here is refused.
//!
//! A request that is none, a path or headers that are too large: hyper answers these before anything of ours sees them, with a
//! status and nothing behind it. Its answer is one write of a known shape; in its place goes a problem (RFC 9457).

use crate::api::Problem;
use http::StatusCode;
use serde_json::Value;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// No answer of the library's own is longer.
const LONGEST: usize = 256;
/// Most headers of a request, as hyper has it.
const MOST_HEADERS: usize = 100;

/// A stream whose refusals by the library are whole.
pub(super) struct Refusals<S> {
    inner: S,
    /// What is written in place of so many bytes of the library's.
    instead: Option<(Vec<u8>, usize, usize)>,
}

impl<S> Refusals<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self { inner, instead: None }
    }
}

/// The problem in place of an answer that has none; nothing where these bytes are another answer, or the middle of one.
fn in_place_of(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() > LONGEST || !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let status: u16 = text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let is_empty = text.lines().any(|line| line.eq_ignore_ascii_case("content-length: 0"));
    let ends = text.lines().any(|line| line.eq_ignore_ascii_case("connection: close"));
    if !is_empty || !ends {
        return None;
    }
    let (status, word, title, field, rule) = match status {
        400 => (
            StatusCode::BAD_REQUEST,
            "malformed",
            "This is no HTTP request",
            "request",
            "a request of HTTP/1.1 (RFC 9112)".to_owned(),
        ),
        414 => (
            StatusCode::URI_TOO_LONG,
            "path-too-long",
            "The path is too long",
            "path",
            format!("at most {} bytes with its query", u16::MAX - 1),
        ),
        431 => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers-too-large",
            "The headers are too large",
            "headers",
            format!("at most {MOST_HEADERS} of them, and some 400 kB altogether"),
        ),
        _ => return None,
    };
    let problem =
        Problem::new(status, word, title, format!("{field}: {rule}")).about(field, rule, Value::Null);
    let body = serde_json::to_vec(problem.document()).expect("a problem always serializes");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    Some([head.into_bytes(), body].concat())
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusals<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Refusals<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.instead.is_none() {
            this.instead = in_place_of(buf).map(|text| (text, 0, buf.len()));
        }
        let Some((text, written, stands_for)) = &mut this.instead else {
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        };
        while *written < text.len() {
            match ready!(Pin::new(&mut this.inner).poll_write(cx, &text[*written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        let taken = *stands_for;
        this.instead = None;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Patience, http1};
    use crate::api::Peer;
    use axum::{Router, routing::get};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// What a server with one page says to these bytes, until it closes.
    async fn said_to(request: &[u8]) -> String {
        // Smaller than the answer: it is written in pieces.
        let (mut peer, served) = tokio::io::duplex(64);
        let router = Router::new().route("/", get(|| async { "HTTP/1.1 400 is no answer here\r\n\r\n" }));
        let patience = Patience { linger: Duration::from_millis(50), ..Patience::USUAL };
        let serving = tokio::spawn(http1(served, Peer::Local { uid: 0 }, router, patience));
        let mut said = String::new();
        let (mut read, mut write) = tokio::io::split(&mut peer);
        let sent = async {
            let _ = write.write_all(request).await;
        };
        let heard = async {
            let mut piece = [0; 1024];
            while let Ok(length @ 1..) = read.read(&mut piece).await {
                said.push_str(std::str::from_utf8(&piece[..length]).unwrap());
            }
        };
        tokio::join!(sent, heard);
        serving.await.unwrap();
        said
    }

    #[tokio::test]
    async fn what_is_no_request_or_too_large_is_a_problem_that_names_field_and_rule() {
        let long_path = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70_000));
        let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
        let after_one = "GET / HTTP/1.1\r\nhost: a\r\n\r\nno request\r\n\r\n".to_owned();
        for (request, status, field) in [
            ("no request\r\n\r\n".to_owned(), "400 Bad Request", "request"),
            (after_one, "400 Bad Request", "request"),
            (long_path, "414 URI Too Long", "path"),
            (many, "431 Request Header Fields Too Large", "headers"),
        ] {
            let said = said_to(request.as_bytes()).await;
            let refused = &said[said.rfind("HTTP/1.1 4").unwrap() + "HTTP/1.1 ".len()..];
            assert!(refused.starts_with(status), "{said}");
            assert!(refused.contains("content-type: application/problem+json"), "{said}");
            let body = refused.split_once("\r\n\r\n").unwrap().1;
            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(problem["field"], field, "{said}");
            assert!(problem["rule"].is_string(), "{said}");
        }
    }

    #[tokio::test]
    async fn an_answer_of_ours_goes_out_as_it_is_whatever_it_says() {
        let said = said_to(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        assert!(said.starts_with("HTTP/1.1 200 OK"), "{said}");
        assert!(said.ends_with("HTTP/1.1 400 is no answer here\r\n\r\n"), "{said}");
    }
}
