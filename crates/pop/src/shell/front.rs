//! The TCP port. Agents that cannot send UDP have their sessions by it; on the host of a small installation the
//! controller gets the console's connections over a Unix socket. Either restarts without the other.
//!
//! The front reads the ClientHello to learn the ALPN names (RFC 7301). A session's stream ends here
//! ([`super::streams`]); the console's bytes are passed on unchanged: the front holds no key of it.

use super::{
    PopError,
    places::{NoPlace, Places, Proof},
    streams::StreamSide,
};
use rustls::server::Acceptor;
use serde::Serialize;
use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    time::timeout,
};

/// One TLS record is the longest ClientHello that is read (RFC 8446 section 5.1).
const MAX_CLIENT_HELLO: usize = 16 * 1024;
/// How long a connection has for its ClientHello.
const CLIENT_HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// What is read at once in one direction.
const BUFFER: usize = 8 * 1024;
/// How long a person has to notice that the controller has said its last; the controller lingers as long.
const LINGER: Duration = Duration::from_secs(5);
/// Most of what a person still sends to a controller that takes nothing more.
const MAX_LINGER: usize = 8 << 20;
/// How long the controller has to take a connection; it is on the same host.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the front listens and where it passes connections.
#[derive(Debug, Clone)]
pub struct TcpFrontOptions {
    /// The TCP address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The controller's Unix socket, on a host that has one.
    pub console: Option<PathBuf>,
    /// Most connections at once: each takes two descriptors and 32 kB.
    pub max_connections: usize,
}

/// What became of connections.
#[derive(Debug, Default)]
pub struct FrontCounters {
    passed: AtomicU64,
    no_client_hello: AtomicU64,
    not_tls: AtomicU64,
    session_alpn: AtomicU64,
    console_down: AtomicU64,
    full: AtomicU64,
}

/// [`FrontCounters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FrontSnapshot {
    /// Passed to the controller.
    pub passed: u64,
    /// Said nothing, or not enough, in time.
    pub no_client_hello: u64,
    /// Spoke something that is not TLS.
    pub not_tls: u64,
    /// Sessions by TCP.
    pub session_alpn: u64,
    /// The controller did not take the connection.
    pub console_down: u64,
    /// Too many at once: turned away, or ended for a newer one.
    pub full: u64,
}

impl FrontCounters {
    pub(super) fn snapshot(&self) -> FrontSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FrontSnapshot {
            passed: get(&self.passed),
            no_client_hello: get(&self.no_client_hello),
            not_tls: get(&self.not_tls),
            session_alpn: get(&self.session_alpn),
            console_down: get(&self.console_down),
            full: get(&self.full),
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[derive(Debug)]
pub(super) struct Front {
    listener: std::net::TcpListener,
    local: SocketAddr,
    options: TcpFrontOptions,
}

impl Front {
    pub(super) fn bind(options: TcpFrontOptions) -> Result<Self, PopError> {
        let bind = || {
            // The standard library sets SO_REUSEADDR, so that a restart does not wait for TIME_WAIT.
            let listener = std::net::TcpListener::bind(options.listen)?;
            listener.set_nonblocking(true)?;
            let local = listener.local_addr()?;
            Ok((listener, local))
        };
        match bind() {
            Ok((listener, local)) => Ok(Self { listener, local, options }),
            Err(source) => Err(PopError::Tcp { address: options.listen, source }),
        }
    }

    pub(super) const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// A thread of its own: somebody's download from the console delays no registration. It ends
    /// when the last holder of the counters has gone.
    pub(super) fn start(self, streams: StreamSide) -> io::Result<Arc<FrontCounters>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let counters = Arc::new(FrontCounters::default());
        let weak = Arc::downgrade(&counters);
        let streams = Arc::new(streams);
        thread::Builder::new().name("pop-front".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(self.listener) else { return };
                let places = Places::new(self.options.max_connections);
                let mut alive = tokio::time::interval(Duration::from_millis(100));
                loop {
                    let accepted = tokio::select! {
                        accepted = listener.accept() => accepted,
                        _ = alive.tick() => match weak.strong_count() {
                            0 => return,
                            _ => continue,
                        },
                    };
                    let Some(counters) = weak.upgrade() else { return };
                    let Ok((stream, peer)) = accepted else {
                        // Out of descriptors: the backlog waits until some are free again.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    // Before it has said anything: who connects and is silent takes its own share of the places.
                    let mut place = match places.admit(peer) {
                        Ok(place) => place,
                        Err(NoPlace::Full) => {
                            count(&counters.full);
                            continue;
                        }
                        Err(NoPlace::Share) => {
                            streams.too_many();
                            continue;
                        }
                    };
                    let console = self.options.console.clone();
                    let streams = Arc::clone(&streams);
                    tokio::spawn(async move {
                        let proof = place.proof();
                        tokio::select! {
                            () = connection(stream, peer, console.as_deref(), &counters, &streams, proof) => {}
                            () = place.wanted() => count(&counters.full),
                        }
                    });
                }
            });
        })?;
        Ok(counters)
    }
}

async fn connection(
    mut stream: TcpStream,
    peer: SocketAddr,
    console: Option<&Path>,
    counters: &FrontCounters,
    streams: &StreamSide,
    proof: Proof,
) {
    let mut hello = Vec::new();
    let kind = timeout(CLIENT_HELLO_TIMEOUT, read_client_hello(&mut stream, &mut hello)).await;
    match kind {
        Ok(Ok(Speaks::Web)) => {}
        Ok(Ok(Speaks::Session)) => {
            count(&counters.session_alpn);
            return streams.serve(stream, peer, hello, proof).await;
        }
        Ok(Ok(Speaks::NotTls)) => return count(&counters.not_tls),
        Ok(Err(_)) | Err(_) => return count(&counters.no_client_hello),
    }
    let Ok(local) = stream.local_addr() else { return count(&counters.no_client_hello) };
    let Some(console) = console else { return count(&counters.console_down) };
    let Ok(Ok(mut inner)) = timeout(CONSOLE_TIMEOUT, UnixStream::connect(console)).await else {
        return count(&counters.console_down);
    };
    let header = wire::encode_proxy_line(peer, local);
    if inner.write_all(header.as_bytes()).await.is_err() || inner.write_all(&hello).await.is_err() {
        return count(&counters.console_down);
    }
    drop(hello);
    count(&counters.passed);
    // However it ends, both ends are closed with it.
    pass_on(&mut stream, &mut inner).await;
}

/// Passes both directions on until both have ended. A controller that takes no more, or has gone, does not end what it
/// has said before: the answer goes out, and what the person still sends is thrown away for a while. A socket that is
/// closed with something unread resets the connection, and with it the answer that says why (RFC 9293 section 3.10.4).
async fn pass_on(stream: &mut TcpStream, inner: &mut UnixStream) {
    let (mut from_person, mut to_person) = stream.split();
    let (mut from_console, mut to_console) = inner.split();
    let asks = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(length @ 1..) = from_person.read(&mut buffer).await {
            if to_console.write_all(&buffer[..length]).await.is_err() {
                return discard(&mut from_person, &mut buffer).await;
            }
        }
        let _ = to_console.shutdown().await;
    };
    let answers = async {
        let _ = tokio::io::copy(&mut from_console, &mut to_person).await;
        let _ = to_person.shutdown().await;
    };
    tokio::pin!(asks);
    tokio::pin!(answers);
    tokio::select! {
        () = &mut asks => answers.await,
        () = &mut answers => {
            let _ = timeout(LINGER, asks).await;
        }
    }
}

async fn discard(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) {
    let mut left = MAX_LINGER;
    while let Ok(length @ 1..) = from.read(buffer).await {
        left = left.saturating_sub(length);
        if left == 0 {
            return;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Web,
    Session,
    NotTls,
}

/// Reads until the ClientHello is whole. Everything read is in `read`, to be passed on.
async fn read_client_hello(stream: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Speaks> {
    let mut acceptor = Acceptor::default();
    let mut chunk = [0; 2048];
    while read.len() < MAX_CLIENT_HELLO {
        let length = stream.read(&mut chunk).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&chunk[..length]);
        let mut rest = &chunk[..length];
        while !rest.is_empty() {
            if acceptor.read_tls(&mut rest)? == 0 {
                break;
            }
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let session =
                    hello.alpn().is_some_and(|mut names| names.any(|name| name == wire::SESSION_ALPN));
                return Ok(if session { Speaks::Session } else { Speaks::Web });
            }
            Ok(None) => {}
            Err(_) => return Ok(Speaks::NotTls),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}
