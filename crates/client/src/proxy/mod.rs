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
use std::{
    collections::VecDeque,
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use wire::Refusal;

/// Connections of one daemon at a time. Each holds two copy buffers and a flow: 1024 × 256 KiB is the
/// most they take.
const MAX_CONNECTIONS: usize = 1024;
/// Of forwarded ports, which every user of the machine can open.
const MAX_FORWARDED: usize = 256;
/// Connections of one listener that have not shown yet who they are.
const MAX_WAITING: usize = 128;
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
    /// As many as there may be.
    #[error("as many connections as this client takes are open")]
    Full,
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
    /// Who has shown who they are.
    connections: Arc<Semaphore>,
    /// Who came by a forwarded port, which every user of the machine can open.
    forwarded: Arc<Semaphore>,
}

impl Default for ProxyLimits {
    fn default() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
        }
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
        || async { listener.accept().await.map(|(stream, _)| stream) },
        move |stream: TcpStream, entry| {
            let (admission, dialler, limits) = (admission.clone(), dialler.clone(), limits.clone());
            async move {
                let _ = stream.set_nodelay(true);
                serve_client(stream, &admission, &dialler, &limits, entry).await
            }
        },
    )
    .await;
}

/// Serves SOCKS 5 and HTTP on a Unix socket until dropped. `uid` is who may connect.
pub async fn serve_unix<D: Dial>(listener: UnixListener, uid: u32, dialler: D, limits: ProxyLimits) {
    accept_loop(
        || async { listener.accept().await.map(|(stream, _)| stream) },
        move |stream: UnixStream, entry| {
            let (dialler, limits) = (dialler.clone(), limits.clone());
            async move {
                is_of(&stream, uid)?;
                serve_client(stream, &Admission::Open, &dialler, &limits, entry).await
            }
        },
    )
    .await;
}

fn is_of(stream: &UnixStream, uid: u32) -> Result<(), ProxyError> {
    if stream.peer_cred()?.uid() == uid { Ok(()) } else { Err(ProxyError::CredentialWrong) }
}

/// Forwards each connection of a local port to one target until dropped. Whoever can open the port is served: it has
/// a share of connections of its own.
pub async fn serve_forward<D: Dial>(listener: TcpListener, target: Target, dialler: D, limits: ProxyLimits) {
    accept_loop(
        || async { listener.accept().await.map(|(stream, _)| stream) },
        move |stream: TcpStream, entry| {
            let (target, dialler, share) = (target.clone(), dialler.clone(), limits.forwarded.clone());
            async move {
                let _ = stream.set_nodelay(true);
                forward(stream, target, &dialler, share, entry).await
            }
        },
    )
    .await;
}

/// Forwards each connection of a Unix socket to one target until dropped. `uid` is who may connect.
pub async fn serve_forward_unix<D: Dial>(
    listener: UnixListener,
    uid: u32,
    target: Target,
    dialler: D,
    limits: ProxyLimits,
) {
    accept_loop(
        || async { listener.accept().await.map(|(stream, _)| stream) },
        move |stream: UnixStream, entry| {
            let (target, dialler, share) = (target.clone(), dialler.clone(), limits.connections.clone());
            async move {
                is_of(&stream, uid)?;
                forward(stream, target, &dialler, share, entry).await
            }
        },
    )
    .await;
}

async fn forward<S, D>(
    stream: S,
    target: Target,
    dialler: &D,
    share: Arc<Semaphore>,
    entry: Entry,
) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Abort + Unpin,
    D: Dial,
{
    let Some(_permit) = entry.admit(&share) else {
        stream.abort();
        return Err(ProxyError::Full);
    };
    match dialler.dial(target).await {
        Ok(far) => splice(stream, far).await,
        Err(error) => {
            log_refusal(&error);
            stream.abort();
        }
    }
    Ok(())
}

const WAITING: u8 = 0;
const ADMITTED: u8 = 1;
const EVICTED: u8 = 2;

/// A connection that has not shown yet who it is. It holds none of the connections that those who have may use; when
/// too many wait, the one that has waited longest goes: whoever knows the credential is in within milliseconds.
struct Entry(Arc<AtomicU8>);

impl Entry {
    /// It may stay, if there is room among those who may.
    fn admit(&self, share: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let permit = share.clone().try_acquire_owned().ok()?;
        let admitted = self.0.compare_exchange(WAITING, ADMITTED, Ordering::AcqRel, Ordering::Acquire);
        admitted.is_ok().then_some(permit)
    }
}

/// The acceptor's side of the same.
struct Waiting {
    state: Arc<AtomicU8>,
    task: AbortHandle,
}

impl Waiting {
    fn is_over(&self) -> bool {
        self.task.is_finished() || self.state.load(Ordering::Acquire) != WAITING
    }

    fn evict(&self) {
        let evicted = self.state.compare_exchange(WAITING, EVICTED, Ordering::AcqRel, Ordering::Acquire);
        if evicted.is_ok() {
            self.task.abort();
        }
    }
}

async fn accept_loop<S, A, AF, H, HF>(accept: A, handle: H)
where
    A: Fn() -> AF,
    AF: Future<Output = io::Result<S>>,
    H: Fn(S, Entry) -> HF,
    HF: Future<Output = Result<(), ProxyError>> + Send + 'static,
{
    // The set aborts its tasks when the listener's future is dropped: no connection outlives it.
    let mut clients = JoinSet::new();
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    loop {
        while clients.try_join_next().is_some() {}
        match accept().await {
            Ok(stream) => {
                waiting.retain(|waiting| !waiting.is_over());
                if waiting.len() >= MAX_WAITING
                    && let Some(oldest) = waiting.pop_front()
                {
                    oldest.evict();
                }
                let state = Arc::new(AtomicU8::new(WAITING));
                let client = handle(stream, Entry(state.clone()));
                let task = clients.spawn(async move {
                    if let Err(error) = client.await {
                        tracing::debug!(%error, "a proxy client was sent away");
                    }
                });
                waiting.push_back(Waiting { state, task });
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

async fn serve_client<S, D>(
    mut stream: S,
    admission: &Admission,
    dialler: &D,
    limits: &ProxyLimits,
    entry: Entry,
) -> Result<(), ProxyError>
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
    let permit = entry.admit(&limits.connections);
    let dialled = match &permit {
        Some(_) => dialler.dial(target.clone()).await,
        None => Err(DialError::new(target.clone(), Refusal::Full)),
    };
    let mut far = match dialled {
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
