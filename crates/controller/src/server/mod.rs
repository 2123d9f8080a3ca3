//! Listeners: TLS on TCP, TLS behind a PoP's front on a Unix socket, and the local admin socket.

mod apart;
mod patience;
mod refusals;

pub(crate) use apart::Apart;
pub(crate) use patience::{BodyTooSlow, Patience};

use crate::{
    api::{self, Peer},
    clock, console, enrolment,
    parts::Core,
    signer::{SignError, Signer},
    signin,
};
use axum::{Router, body::Body, response::IntoResponse};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use patience::{Deadlined, Moving, Sources};
use refusals::Refusals;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Connections at once; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Connections of the local socket at once.
const MAX_LOCAL: usize = 64;
/// A connection that is to end has so long for the request that is under way.
const LAST_REQUEST: Duration = Duration::from_secs(30);

/// Where the console's certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSource {
    /// Our own console CA.
    Own,
    /// PEM files, read again each hour.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The leaf's key.
        key: PathBuf,
    },
}

/// The console's certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("{}: expected {expected} in PEM: {problem}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What should be in it.
        expected: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Our own CA.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Certificate and key.
    #[error("the certificate and key cannot be used together: {0}")]
    Pair(rustls::Error),
}

/// A listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", net::bind_hint(source))]
pub struct ListenError {
    address: String,
    source: io::Error,
}

fn not_listening(address: impl ToString) -> impl FnOnce(io::Error) -> ListenError {
    move |source| ListenError { address: address.to_string(), source }
}

/// The host of an `https://HOST[:PORT]` address.
fn host_of(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?.split('/').next()?;
    let host = match rest.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => rest.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_owned())
}

/// The certificate that is shown, replaced without a restart.
#[derive(Debug)]
pub(crate) struct Shown {
    source: TlsSource,
    names: Vec<String>,
    key: RwLock<Arc<CertifiedKey>>,
}

impl Shown {
    pub(crate) fn load(source: TlsSource, url: &str, signer: &Signer) -> Result<Arc<Self>, TlsError> {
        let mut names: Vec<String> = host_of(url).into_iter().collect();
        // A PoP on this host and `serve` reach the console over the loopback.
        for name in ["localhost", "127.0.0.1", "::1"] {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        let key = RwLock::new(Arc::new(certified(&source, &names, signer)?));
        Ok(Arc::new(Self { source, names, key }))
    }

    /// Reads or makes the certificate again; the old one goes on when that fails.
    pub(crate) fn refresh(&self, signer: &Signer) {
        match certified(&self.source, &self.names, signer) {
            Ok(key) => *self.key.write().expect("nothing panics while it holds the key") = Arc::new(key),
            Err(error) => tracing::warn!(%error, "the console's certificate was not renewed"),
        }
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key.read().expect("nothing panics while it holds the key")))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certified(source: &TlsSource, names: &[String], signer: &Signer) -> Result<CertifiedKey, TlsError> {
    let (chain, key) = match source {
        TlsSource::Own => {
            let own = signer.console_certificate(names)?;
            (own.chain, own.key)
        }
        TlsSource::Files { certificate, key } => {
            let wrong = |path: &Path, expected, problem: String| TlsError::File {
                path: path.to_owned(),
                expected,
                problem,
            };
            let expected = "a certificate chain";
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| wrong(certificate, expected, error.to_string()))?;
            if chain.is_empty() {
                return Err(wrong(certificate, expected, "there is none".into()));
            }
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| wrong(key, "a private key", error.to_string()))?;
            (chain, secret)
        }
    };
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Pair)
}

fn acceptor(shown: Arc<Shown>) -> TlsAcceptor {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Everything that is served over the network.
pub(crate) fn network_router(core: &Arc<Core>) -> Router {
    let own = Arc::clone(core);
    api::router(core)
        .merge(enrolment::router(core))
        .merge(signin::device_router(core))
        .merge(signin::router(core))
        .merge(console::router(core))
        .fallback(move |request| console::no_such_address(Arc::clone(&own), request))
        .layer(axum::middleware::map_response(api::guarded))
}

/// What the local socket serves: the API, and enrolment for the PoP of this host, which passes connections on
/// only once it is enrolled.
pub(crate) fn local_router(core: &Arc<Core>) -> Router {
    let all = api::router(core).merge(enrolment::router(core)).fallback(api::no_such_path);
    all.layer(axum::middleware::map_response(api::guarded))
}

/// The open listeners.
pub(crate) struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<UnixListener>,
    admin: UnixListener,
    own_uid: u32,
}

fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    // What a killed process left behind; the state directory's lock says that it does not run any more.
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(not_listening(path.display()))?;
    }
    let listener = UnixListener::bind(path).map_err(not_listening(path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(not_listening(path.display()))?;
    Ok(listener)
}

impl Listeners {
    pub(crate) async fn open(
        listen: Option<SocketAddr>,
        unix: Option<&Path>,
        admin: &Path,
    ) -> Result<Self, ListenError> {
        let tcp = match listen {
            Some(address) => Some(TcpListener::bind(address).await.map_err(not_listening(address))?),
            None => None,
        };
        let unix = unix.map(bind_unix).transpose()?;
        let socket = bind_unix(admin)?;
        let own_uid = std::fs::metadata(admin).map_err(not_listening(admin.display()))?.uid();
        Ok(Self { tcp, unix, admin: socket, own_uid })
    }

    pub(crate) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until the future is dropped.
    ///
    /// The network is served apart: handshakes and pages of any number wait for each other there, and neither beacons, nor what
    /// agents ask, nor the administrator on this host waits for them.
    ///
    /// # Errors
    /// A listener could not be moved there.
    pub(crate) async fn serve(self, core: &Arc<Core>, shown: Arc<Shown>, apart: &Apart) -> io::Result<()> {
        let acceptor = acceptor(shown);
        let (network, local) = (network_router(core), local_router(core));
        let (tcp, unix) = (apart.tcp(self.tcp)?, apart.unix(self.unix)?);
        let network = apart.spawn(async move {
            let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            let sources = Sources::default();
            let tcp = async {
                match tcp {
                    Some(listener) => serve_tcp(listener, &acceptor, &network, (&permits, &sources)).await,
                    None => std::future::pending().await,
                }
            };
            let unix = async {
                match unix {
                    Some(listener) => serve_front(listener, &acceptor, &network, (&permits, &sources)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::join!(tcp, unix);
        });
        let admin = serve_admin(self.admin, self.own_uid, &local);
        tokio::join!(network, admin);
        Ok(())
    }
}

/// What to do when accepting fails: most often there are no descriptors left.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "a connection was not accepted");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn serve_tcp(
    listener: TcpListener,
    acceptor: &TlsAcceptor,
    router: &Router,
    (permits, sources): (&Arc<Semaphore>, &Sources),
) {
    while let Ok(permit) = Arc::clone(permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, from)) => {
                let (acceptor, router) = (acceptor.clone(), router.clone());
                let Some(counted) = sources.count(from.ip()) else { continue };
                tokio::spawn(async move {
                    let _held = (permit, counted);
                    // Small answers do not wait for each other (RFC 896 against RFC 1122 section 4.2.3.2).
                    let _ = stream.set_nodelay(true);
                    tls(stream, from.ip(), &acceptor, router).await;
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn serve_front(
    listener: UnixListener,
    acceptor: &TlsAcceptor,
    router: &Router,
    (permits, sources): (&Arc<Semaphore>, &Sources),
) {
    while let Ok(permit) = Arc::clone(permits).acquire_owned().await {
        match listener.accept().await {
            Ok((mut stream, _)) => {
                let (acceptor, router, sources) = (acceptor.clone(), router.clone(), sources.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    match tokio::time::timeout(Patience::USUAL.head, proxied_from(&mut stream)).await {
                        Ok(Ok(from)) => {
                            if let Some(_counted) = sources.count(from) {
                                tls(stream, from, &acceptor, router).await;
                            }
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "no PROXY line on the console's socket"),
                        Err(_) => {}
                    }
                });
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Reads the PROXY line and nothing behind it.
async fn proxied_from(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<IpAddr> {
    let mut line = Vec::with_capacity(wire::MAX_PROXY_LINE);
    while !line.ends_with(b"\r\n") {
        if line.len() >= wire::MAX_PROXY_LINE {
            return Err(io::Error::other("the line is too long"));
        }
        line.push(stream.read_u8().await?);
    }
    wire::parse_proxy_line(&line)
        .map(|source| source.ip())
        .ok_or_else(|| io::Error::other("expected PROXY TCP4|TCP6 source destination ports"))
}

async fn tls(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    from: IpAddr,
    acceptor: &TlsAcceptor,
    router: Router,
) {
    match tokio::time::timeout(Patience::USUAL.head, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => http1(stream, Peer::Network(from), router, Patience::USUAL).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn serve_admin(listener: UnixListener, own_uid: u32, router: &Router) {
    let permits = Arc::new(Semaphore::new(MAX_LOCAL));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                // The socket's mode keeps others out already; this holds if somebody changes it.
                let uid = stream.peer_cred().map(|peer| peer.uid());
                match uid {
                    Ok(uid) if uid == 0 || uid == own_uid => {
                        let router = router.clone();
                        tokio::spawn(async move {
                            let _permit = permit;
                            http1(stream, Peer::Local { uid }, router, Patience::USUAL).await;
                        });
                    }
                    Ok(uid) => tracing::warn!(uid, "another user tried the admin socket"),
                    Err(error) => tracing::warn!(%error, "a peer of the admin socket has no credentials"),
                }
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// What the log has of a path: all of one of the API, whose paths hold identifiers alone, and of a page's the first part, since
/// some links to pages are secrets (first owner, invitations). Queries are never logged.
fn logged_path(path: &str) -> String {
    let first = path.strip_prefix('/').and_then(|rest| rest.split_once('/'));
    match first {
        Some((first, rest)) if first != "api" && !rest.is_empty() => format!("/{first}/…"),
        _ => path.to_owned(),
    }
}

pub(crate) async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    patience: Patience,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(|body| Body::new(Deadlined::new(body, patience.body)));
            request.extensions_mut().insert(peer);
            let started = clock::now();
            let method = request.method().clone();
            let path = logged_path(request.uri().path());
            let answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            tracing::debug!(%method, path, status = answer.status().as_u16(), took = ?started.elapsed(), "answered");
            Ok::<_, std::convert::Infallible>(answer.into_response())
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .serve_connection(TokioIo::new(Refusals::new(Moving::new(stream, patience))), service);
    tokio::pin!(connection);
    let served = match tokio::time::timeout(patience.life, connection.as_mut()).await {
        Ok(served) => served,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(LAST_REQUEST, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_no_secret_of_a_link() {
        for (path, logged) in [
            ("/first-owner/c2VjcmV0", "/first-owner/…"),
            ("/invitation/c2VjcmV0", "/invitation/…"),
            ("/invitation/", "/invitation/"),
            ("/overview", "/overview"),
            ("/", "/"),
            ("/api/v1/sites/0192", "/api/v1/sites/0192"),
        ] {
            assert_eq!(logged_path(path), logged);
        }
    }

    #[test]
    fn the_host_of_an_address_is_found_with_and_without_a_port() {
        for (url, host) in [
            ("https://tidegate.example.com", Some("tidegate.example.com")),
            ("https://tidegate.example.com:8443/", Some("tidegate.example.com")),
            ("https://[2001:db8::1]:443", Some("2001:db8::1")),
            ("http://x", None),
            ("https://", None),
        ] {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
    }
}
