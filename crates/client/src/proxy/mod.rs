//! The proxies on this machine: SOCKS 5 and HTTP on one port, told apart by the first byte, and
//! local ports forwarded to one target.

mod credential;
mod http;
mod socks5;

pub use credential::Credential;

use crate::{
    dial::{Dial, DialError},
    target::Target,
};
use std::{future::Future, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

/// Connections of one daemon at a time. Each holds two copy buffers and a flow: 1024 × 256 KiB is the
/// most they take.
const MAX_CONNECTIONS: usize = 1024;
/// How long a client may take from connecting to its whole request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Copy buffer in each direction.
const COPY_BUFFER: usize = 64 * 1024;
/// How long to wait when the machine has no descriptors left, before the next accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who may use a listener.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Whoever could open it: a Unix socket that only the user can open.
    Open,
    /// Who knows the credential: a loopback port, which every user of the machine can open.
    Password(Credential),
}

/// Why a proxy client was sent away before anything was dialled. Doubles as a log label.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Not the protocol.
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    /// No credential where one is needed.
    #[error("no credential was given; it is in the file proxy-url of the state directory")]
    CredentialMissing,
    /// Another credential.
    #[error("the credential is wrong; it is in the file proxy-url of the state directory")]
    CredentialWrong,
    /// Nothing in time.
    #[error("no whole request within {} s", REQUEST_DEADLINE.as_secs())]
    Timeout,
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A local stream that can be torn down so that its peer sees an error, not an ordinary end: a
/// download that was cut must not look complete.
trait Abort {
    fn abort(&self);
}

impl Abort for TcpStream {
    fn abort(&self) {
        let _ = self.set_zero_linger();
    }
}

impl Abort for UnixStream {
    // A Unix socket has no reset; closing with unread input gives the peer ECONNRESET at times. The
    // proxy's clients see a short body.
    fn abort(&self) {}
}

/// Limits shared by all listeners of a daemon.
#[derive(Debug, Clone)]
pub struct ProxyLimits {
    connections: Arc<Semaphore>,
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self { connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }
}

/// Serves SOCKS 5 and HTTP on a loopback port until dropped.
pub async fn serve_tcp<D: Dial>(
    listener: TcpListener,
    admission: Admission,
    dialler: D,
    limits: ProxyLimits,
) {
    let admission = Arc::new(admission);
    accept_loop(
        limits,
        || async { listener.accept().await.map(|(stream, _)| stream) },
        move |stream: TcpStream| {
            let (admission, dialler) = (admission.clone(), dialler.clone());
            async move {
                let _ = stream.set_nodelay(true);
                serve_client(stream, &admission, &dialler).await
            }
        },
    )
    .await;
}

/// Serves SOCKS 5 and HTTP on a Unix socket until dropped. `uid` is who may connect.
pub async fn serve_unix<D: Dial>(listener: UnixListener, uid: u32, dialler: D, limits: ProxyLimits) {
    accept_loop(
        limits,
        || async { listener.accept().await.map(|(stream, _)| stream) },
        move |stream: UnixStream| {
            let dialler = dialler.clone();
            async move {
                if stream.peer_cred()?.uid() != uid {
                    return Err(ProxyError::CredentialWrong);
                }
                serve_client(stream, &Admission::Open, &dialler).await
            }
        },
    )
    .await;
}

/// Forwards each connection of a local port to one target until dropped.
pub async fn serve_forward<D: Dial>(listener: TcpListener, target: Target, dialler: D, limits: ProxyLimits) {
    accept_loop(
        limits,
        || async { listener.accept().await.map(|(stream, _)| stream) },
        move |stream: TcpStream| {
            let (target, dialler) = (target.clone(), dialler.clone());
            async move {
                let _ = stream.set_nodelay(true);
                match dialler.dial(target).await {
                    Ok(far) => splice(stream, far).await,
                    Err(error) => {
                        log_refusal(&error);
                        stream.abort();
                    }
                }
                Ok(())
            }
        },
    )
    .await;
}

async fn accept_loop<S, A, AF, H, HF>(limits: ProxyLimits, accept: A, handle: H)
where
    A: Fn() -> AF,
    AF: Future<Output = io::Result<S>>,
    H: Fn(S) -> HF,
    HF: Future<Output = Result<(), ProxyError>> + Send + 'static,
{
    // The set aborts its tasks when the listener's future is dropped: no connection outlives it.
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok(permit) = limits.connections.clone().acquire_owned().await else {
            return;
        };
        match accept().await {
            Ok(stream) => {
                let client = handle(stream);
                clients.spawn(async move {
                    if let Err(error) = client.await {
                        tracing::debug!(%error, "a proxy client was sent away");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::info!(%error, "a local connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

enum Request {
    Socks(Target),
    Http(http::HttpRequest),
}

/// Reads one request, SOCKS 5 or HTTP, told by its first byte.
async fn read_request<S>(stream: &mut S, admission: &Admission) -> Result<Request, ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    match stream.read_u8().await? {
        socks5::VERSION => socks5::accept(stream, admission).await.map(Request::Socks),
        first if first.is_ascii_uppercase() => {
            http::accept(stream, first, admission).await.map(Request::Http)
        }
        _ => Err(ProxyError::Malformed("neither SOCKS 5 nor HTTP")),
    }
}

/// Where a request of a proxy client wants to go: the parsers alone, without dialling. For holding them
/// against arbitrary bytes.
///
/// # Errors
/// [`ProxyError`].
pub async fn target_of<S>(stream: &mut S, admission: &Admission) -> Result<Target, ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    Ok(match read_request(stream, admission).await? {
        Request::Socks(target) => target,
        Request::Http(request) => request.target,
    })
}

async fn serve_client<S, D>(mut stream: S, admission: &Admission, dialler: &D) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Abort + Unpin,
    D: Dial,
{
    let request = match timeout(REQUEST_DEADLINE, read_request(&mut stream, admission)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) => {
            // The answer must reach the client before the end of the connection does.
            let _ = stream.shutdown().await;
            return Err(error);
        }
        Err(_) => return Err(ProxyError::Timeout),
    };
    let target = match &request {
        Request::Socks(target) => target,
        Request::Http(request) => &request.target,
    };
    let mut far = match dialler.dial(target.clone()).await {
        Ok(far) => far,
        Err(error) => {
            log_refusal(&error);
            match &request {
                Request::Socks(_) => socks5::refuse(&mut stream, &error).await?,
                Request::Http(_) => http::refuse(&mut stream, &error).await?,
            }
            let _ = stream.shutdown().await;
            return Ok(());
        }
    };
    match request {
        Request::Socks(_) => socks5::succeed(&mut stream).await?,
        Request::Http(request) => {
            http::succeed(&mut stream, request.form).await?;
            if far.write_all(&request.ahead).await.is_err() {
                stream.abort();
                return Ok(());
            }
        }
    }
    splice(stream, far).await;
    Ok(())
}

fn log_refusal(error: &DialError) {
    tracing::debug!(reason = error.reason.label(), "a connection was refused");
}

/// Copies both ways; each end's end is passed on, and an error on one side becomes one on the other.
async fn splice<S, F>(mut near: S, mut far: F)
where
    S: AsyncRead + AsyncWrite + Abort + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    if tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, COPY_BUFFER, COPY_BUFFER).await.is_err()
    {
        near.abort();
    }
}

#[cfg(test)]
mod tests;
