//! One bounded HTTP/1.1 request per connection, over TLS or over a Unix socket.

use crate::tls::{ServerTrust, provisional_config};
use bytes::Bytes;
use http::{HeaderName, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::{fmt, net::Ipv6Addr, path::PathBuf, str::FromStr, sync::Arc, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use trust::UnixMs;

/// Longest a TCP connection and a TLS handshake may take together. A controller on the other side of
/// the world answers in under a second; five leave room for two lost SYNs (RFC 6298: 1 s, then 2 s).
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longest a request may take once the connection stands: the controller's own write deadline is 1 s
/// and a read waits at most 2 s for its version.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// Largest answer that is read: a list of ten thousand objects of 800 bytes.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// Where an HTTPS server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    host: String,
    port: u16,
}

/// Why a text is not a server's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a server like https://HOST or https://HOST:PORT, got {got:?}: {problem}")]
pub struct ServerUrlError {
    got: String,
    problem: &'static str,
}

impl ServerUrl {
    /// The host name or address, IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;
    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let error = |problem| ServerUrlError { got: text.chars().take(200).collect(), problem };
        let uri: Uri = text.parse().map_err(|_| error("not a URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(error("only https is spoken"));
        }
        let authority = uri.authority().ok_or_else(|| error("no host"))?;
        if authority.as_str().contains('@') {
            return Err(error("a user name has no place here"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(error("a path has no place here"));
        }
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => 443,
            // A number may have a sign, a port not.
            Some(rest) => rest
                .strip_prefix(':')
                .filter(|digits| !digits.starts_with('+'))
                .and_then(|digits| digits.parse().ok())
                .filter(|port| *port != 0)
                .ok_or_else(|| error("no such port"))?,
            None => return Err(error("no host")),
        };
        // The library takes brackets anywhere; they stand around an address alone (RFC 3986 section 3.2.2).
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host).to_owned();
        let is_v6 = host.parse::<Ipv6Addr>().is_ok();
        if host.is_empty() || host.contains(['[', ']']) || bracketed.is_some() != is_v6 {
            return Err(error("no host"));
        }
        Ok(Self { host, port })
    }
}

/// A request did not get an answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No TCP connection, or nobody listens on the socket.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// What was tried.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Nothing in time while connecting.
    #[error("{address} did not answer within {} s", CONNECT_DEADLINE.as_secs())]
    ConnectTimeout {
        /// What was tried.
        address: String,
    },
    /// The server is not the one it should be, or does not speak TLS 1.3.
    #[error("the server at {address} is not believed: {}", disbelief(source))]
    Tls {
        /// What was tried.
        address: String,
        /// What TLS says.
        source: std::io::Error,
    },
    /// The request was sent and the connection then ended or stayed silent.
    #[error(
        "{address} took the request and gave no whole answer ({problem}); whether it was carried out is unknown"
    )]
    NoAnswer {
        /// Who was asked.
        address: String,
        /// What happened instead.
        problem: String,
    },
    /// The answer is larger than this client reads.
    #[error("the answer of {address} is larger than {MAX_ANSWER} bytes")]
    TooLarge {
        /// Who was asked.
        address: String,
    },
    /// The request itself cannot be written.
    #[error("this is no valid request: {0}")]
    Request(String),
}

/// Why a server is not believed, and what helps.
fn disbelief(source: &std::io::Error) -> String {
    use rustls::{CertificateError as E, Error::InvalidCertificate};
    let error = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(InvalidCertificate(reason)) = error else { return source.to_string() };
    match reason {
        E::UnknownIssuer => {
            "its certificate was issued by nobody whom this machine knows; if it has a CA of its own, give that CA's \
             certificate with --ca FILE, or to the machine"
                .to_owned()
        }
        E::Expired | E::ExpiredContext { .. } => {
            "its certificate has expired, or this machine's clock is ahead".to_owned()
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or this machine's clock is behind".to_owned()
        }
        E::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is a CA's own, and a server needs one that says CA:FALSE; have the CA issue one for the \
             server's name"
                .to_owned()
        }
        _ => source.to_string(),
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: StatusCode,
    /// `Content-Type`, if it is text.
    pub content_type: Option<String>,
    /// The server's clock (`Date`, RFC 9110 section 6.6.1), if it said.
    pub date: Option<UnixMs>,
    /// `Retry-After` in seconds (RFC 9110 section 10.2.3), if it said.
    pub retry_after: Option<u64>,
    /// `ETag` as it stands there, with its quotes (RFC 9110 section 8.8.3), if it said.
    pub etag: Option<String>,
    /// The body.
    pub body: Bytes,
}

#[derive(Clone)]
enum Endpoint {
    Tls { url: ServerUrl, config: Arc<ClientConfig> },
    Unix { path: PathBuf },
}

/// Asks one server, one connection per request: the uses are few and far between.
#[derive(Clone)]
pub struct HttpsClient {
    endpoint: Endpoint,
}

impl fmt::Debug for HttpsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpsClient({})", self.address())
    }
}

impl HttpsClient {
    /// A server that must prove itself by `trust`.
    #[must_use]
    pub fn strict(url: ServerUrl, trust: ServerTrust) -> Self {
        Self { endpoint: Endpoint::Tls { url, config: trust.into_config() } }
    }

    /// A server that is not checked. Whatever is sent to it is public, whatever it says must prove
    /// itself.
    pub(crate) fn provisional(url: ServerUrl) -> Self {
        Self { endpoint: Endpoint::Tls { url, config: provisional_config() } }
    }

    /// A server behind a Unix socket: the socket file's permissions say who may ask.
    #[must_use]
    pub const fn unix(path: PathBuf) -> Self {
        Self { endpoint: Endpoint::Unix { path } }
    }

    /// Whom this asks, for people.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.endpoint {
            Endpoint::Tls { url, .. } => url.to_string(),
            Endpoint::Unix { path } => path.display().to_string(),
        }
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// [`HttpError`]; an HTTP status of 400 and above is an answer, not an error.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let request = self.prepared(method, path, headers, body)?;
        let address = self.address();
        match self.connect().await? {
            Stream::Tls(stream) => exchange(*stream, request, address).await,
            Stream::Unix(stream) => exchange(stream, request, address).await,
        }
    }

    /// Sends one request and reads its answer as it comes, for as long as it comes.
    ///
    /// # Errors
    /// [`HttpError`]; an HTTP status of 400 and above is an answer, not an error.
    pub async fn open(
        &self,
        path: &str,
        headers: &[(HeaderName, String)],
    ) -> Result<Result<Lines, Answer>, HttpError> {
        let request = self.prepared(Method::GET, path, headers, Bytes::new())?;
        let address = self.address();
        match self.connect().await? {
            Stream::Tls(stream) => opened(*stream, request, address).await,
            Stream::Unix(stream) => opened(stream, request, address).await,
        }
    }

    fn prepared(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, String)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let host = match &self.endpoint {
            Endpoint::Tls { url, .. } => url.authority(),
            Endpoint::Unix { .. } => "localhost".to_owned(),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(Full::new(body)).map_err(|error| HttpError::Request(error.to_string()))
    }

    async fn connect(&self) -> Result<Stream, HttpError> {
        let address = self.address();
        match &self.endpoint {
            Endpoint::Tls { url, config } => {
                let connect = async {
                    let tcp = TcpStream::connect((url.host(), url.port()))
                        .await
                        .map_err(|source| HttpError::Unreachable { address: address.clone(), source })?;
                    // One small request: waiting for more of it only costs a delayed acknowledgement.
                    let _ = tcp.set_nodelay(true);
                    let name = ServerName::try_from(url.host().to_owned())
                        .map_err(|error| HttpError::Request(format!("{}: {error}", url.host())))?;
                    let tls = TlsConnector::from(config.clone()).connect(name, tcp).await;
                    tls.map_err(|source| HttpError::Tls { address: address.clone(), source })
                };
                let stream = timeout(CONNECT_DEADLINE, connect)
                    .await
                    .map_err(|_| HttpError::ConnectTimeout { address: address.clone() })??;
                Ok(Stream::Tls(Box::new(stream)))
            }
            Endpoint::Unix { path } => {
                let stream = timeout(CONNECT_DEADLINE, UnixStream::connect(path))
                    .await
                    .map_err(|_| HttpError::ConnectTimeout { address: address.clone() })?
                    .map_err(|source| HttpError::Unreachable { address: address.clone(), source })?;
                Ok(Stream::Unix(stream))
            }
        }
    }
}

enum Stream {
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// An answer's lines, as they come.
pub struct Lines {
    body: hyper::body::Incoming,
    /// What has come of the next line.
    held: Vec<u8>,
    address: String,
    /// Moves the bytes; it ends with this.
    connection: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lines({})", self.address)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Lines {
    /// The next line, or none at the end.
    ///
    /// # Errors
    /// [`HttpError`]: the connection ended in the middle, or a line is longer than any answer.
    pub async fn next(&mut self) -> Result<Option<String>, HttpError> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.held.len() > MAX_ANSWER {
                return Err(HttpError::TooLarge { address: self.address.clone() });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.held.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(HttpError::NoAnswer {
                        address: self.address.clone(),
                        problem: error.to_string(),
                    });
                }
                None if self.held.is_empty() => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.held);
                    return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
                }
            }
        }
    }
}

async fn opened<S>(
    stream: S,
    request: Request<Full<Bytes>>,
    address: String,
) -> Result<Result<Lines, Answer>, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let no_answer = |problem: String| HttpError::NoAnswer { address: address.clone(), problem };
    let open = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| no_answer(error.to_string()))?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await.map_err(|error| no_answer(error.to_string()))?;
        Ok((response, connection))
    };
    let silence = || no_answer(format!("silence for {} s", ANSWER_DEADLINE.as_secs()));
    let (response, connection) = timeout(ANSWER_DEADLINE, open).await.map_err(|_| silence())??;
    let (head, body) = response.into_parts();
    if head.status.is_success() {
        return Ok(Ok(Lines { body, held: Vec::new(), address, connection }));
    }
    let read = timeout(ANSWER_DEADLINE, Limited::new(body, MAX_ANSWER).collect()).await;
    connection.abort();
    let body = read.map_err(|_| silence())?.map_err(|error| no_answer(error.to_string()))?;
    Ok(Err(answer(&head, body.to_bytes())))
}

fn answer(head: &http::response::Parts, body: Bytes) -> Answer {
    let text = |name: HeaderName| head.headers.get(name)?.to_str().ok();
    Answer {
        status: head.status,
        content_type: text(header::CONTENT_TYPE).map(str::to_owned),
        date: text(header::DATE).and_then(parse_date),
        retry_after: text(header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok()),
        etag: text(header::ETAG).map(str::to_owned),
        body,
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>, address: String) -> Result<Answer, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let no_answer = |problem: String| HttpError::NoAnswer { address: address.clone(), problem };
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| no_answer(error.to_string()))?;
        let talk = async {
            let response =
                sender.send_request(request).await.map_err(|error| no_answer(error.to_string()))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    HttpError::TooLarge { address: address.clone() }
                } else {
                    no_answer(error.to_string())
                }
            })?;
            Ok(answer(&head, body.to_bytes()))
        };
        tokio::pin!(connection, talk);
        // The connection moves the bytes; it ends by itself only when the server closes early.
        tokio::select! {
            biased;
            answer = &mut talk => answer,
            ended = &mut connection => match ended {
                Ok(()) => (&mut talk).await,
                Err(error) => Err(no_answer(error.to_string())),
            },
        }
    };
    timeout(ANSWER_DEADLINE, exchange)
        .await
        .unwrap_or_else(|_| Err(no_answer(format!("silence for {} s", ANSWER_DEADLINE.as_secs()))))
}

fn parse_date(text: &str) -> Option<UnixMs> {
    let date = httpdate::parse_http_date(text).ok()?;
    let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(UnixMs::from_millis(u64::try_from(since.as_millis()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_server_url_has_a_host_a_port_and_nothing_else() {
        let parse = |text: &str| text.parse::<ServerUrl>();
        assert_eq!(parse("https://a.example").expect("valid").to_string(), "https://a.example:443");
        assert_eq!(parse("https://a.example:8443/").expect("valid").port(), 8443);
        let v6 = parse("https://[2001:db8::1]:8443").expect("valid");
        assert_eq!((v6.host(), v6.port()), ("2001:db8::1", 8443));
        assert_eq!(parse("https://[2001:db8::1]").expect("valid").port(), 443);
        for bad in [
            "http://a.example",
            "a.example",
            "https://",
            "https://u@a.example",
            "https://a.example/x",
            "https://a.example?x",
            "https://a.example:0",
            "https://a.example:99999",
            "https://a.example:+443",
            "https://a[::1]",
            "https://a:+44[2001:db8::1]:8443/",
            "https://a:443:8443",
            "https://[2001]",
            "",
        ] {
            let error = parse(bad).expect_err(bad).to_string();
            assert!(error.contains("https://HOST"), "{error}");
        }
    }

    #[test]
    fn the_date_header_is_read() {
        // The example of RFC 9110 section 5.6.7.
        let date = parse_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("valid");
        assert_eq!(date.as_secs(), 784_111_777);
        assert_eq!(parse_date("yesterday"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics_the_url_parser(text in "\\PC{0,60}") {
            if let Ok(url) = text.parse::<ServerUrl>() {
                prop_assert_eq!(url.to_string().parse::<ServerUrl>(), Ok(url));
            }
        }
    }
}
