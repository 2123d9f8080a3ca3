//! Sessions by TCP 443: TLS streams whose datagrams go to the same loops as those of the UDP port, under an
//! address that stands for the stream (`docs/adr/0007`).

use super::{Foreign, places::Proof};
use aws_lc_rs::{hmac, rand::SystemRandom};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::PrivatePkcs8KeyDer,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use trust::SigningKey;
use wire::{DatagramKind, SESSION_ALPN, StreamReader, classify, encode_stream_datagram, stream_address_from};

/// Datagrams that wait for one stream: 512 of 1.4 kB are 50 ms at 100 Mbit/s. More are lost, as at any router.
const QUEUE: usize = 512;
const WRITE_BURST: usize = 64;
const READ_BUFFER: usize = 16 * 1024;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Whoever has no registered session within this is no agent, whatever comes: a session that was not welcomed in this
/// time is given up by the agent too.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);
/// An agent says something three times in this.
const IDLE: Duration = Duration::from_secs(90);
/// Bytes that wait for all streams together: some hundred that read nothing fill their queues, and the rest lose as
/// at any full router.
pub(super) const MAX_WAITING: usize = 64 * 1024 * 1024;
/// What a datagram in a queue costs beside its bytes: its own header and the queue's, at most.
const WAITING_OVERHEAD: usize = 96;

/// What became of streams.
#[derive(Debug, Default)]
pub(super) struct StreamCounters {
    opened: AtomicU64,
    tls_failed: AtomicU64,
    too_many: AtomicU64,
    malformed: AtomicU64,
    foreign: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    dropped: AtomicU64,
    certificates: AtomicU64,
    claimed: AtomicU64,
}

/// [`StreamCounters`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct StreamSnapshot {
    /// Streams open now.
    pub open: usize,
    /// Streams whose TLS handshake ended well, since the start.
    pub opened: u64,
    /// Whose did not.
    pub tls_failed: u64,
    /// Connections from a source that has too many already, closed before they said anything.
    pub too_many: u64,
    /// Bytes that wait for streams now.
    pub waiting: usize,
    /// UDP packets from 100::/64, where no packet comes from: somebody claims to be a stream.
    pub claimed: u64,
    /// How often the certificate on the TCP port was replaced by a newer one.
    pub certificates: u64,
    /// Ended because what came is no stream of datagrams.
    pub malformed: u64,
    /// Datagrams that are neither a session's nor a relay's.
    pub foreign: u64,
    /// Datagrams taken.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams lost because a queue was full or the stream gone.
    pub dropped: u64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A datagram that waits for its stream, and gives its room back however it leaves the queue.
#[derive(Debug)]
pub(super) struct Waiting {
    bytes: Vec<u8>,
    of: Arc<AtomicUsize>,
}

impl Waiting {
    /// `None` when too much waits already.
    fn new(of: &Arc<AtomicUsize>, datagram: &[u8]) -> Option<Self> {
        let cost = datagram.len() + WAITING_OVERHEAD;
        let before = of.fetch_add(cost, Ordering::Relaxed);
        if before + cost > MAX_WAITING {
            of.fetch_sub(cost, Ordering::Relaxed);
            return None;
        }
        Some(Self { bytes: datagram.to_vec(), of: Arc::clone(of) })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes.len() + WAITING_OVERHEAD, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Stream {
    queue: mpsc::Sender<Waiting>,
    /// Set when a session on it is registered.
    registered: Arc<AtomicBool>,
    proof: Option<Proof>,
}

type Table = BTreeMap<SocketAddr, Stream>;

/// The streams that are open; every loop sends to them by address.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams {
    table: Arc<Mutex<Table>>,
    counters: Arc<StreamCounters>,
    waiting: Arc<AtomicUsize>,
    identity: Option<Arc<TlsIdentity>>,
}

impl Streams {
    /// No stream is open; new ones are shown this certificate.
    pub(super) fn new(identity: Arc<TlsIdentity>) -> Self {
        Self { identity: Some(identity), ..Self::default() }
    }

    /// A packet claimed by its source to come from a stream.
    pub(super) fn claimed(&self) {
        count(&self.counters.claimed);
    }

    /// New connections are shown this certificate from now on; those that stand are not touched.
    pub(super) fn set_certificate(&self, certificate: &[u8]) {
        if self.identity.as_ref().is_some_and(|identity| identity.set(certificate)) {
            count(&self.counters.certificates);
        }
    }

    /// A stream whose queue the test reads, or does not.
    #[cfg(test)]
    pub(super) fn insert_for_test(&self, stands_for: SocketAddr) -> mpsc::Receiver<Waiting> {
        let (queue, outgoing) = mpsc::channel(QUEUE);
        let stream = Stream { queue, registered: Arc::default(), proof: None };
        self.with(|table| table.insert(stands_for, stream));
        outgoing
    }

    fn with<T>(&self, call: impl FnOnce(&mut Table) -> T) -> T {
        call(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sends one datagram; never waits.
    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let sent = Waiting::new(&self.waiting, datagram).is_some_and(|waiting| {
            self.with(|table| table.get(&to).is_some_and(|stream| stream.queue.try_send(waiting).is_ok()))
        });
        count(if sent { &self.counters.sent } else { &self.counters.dropped });
    }

    /// A session by this stream is registered: it may be idle for as long as a session may, and keeps its place.
    pub(super) fn registered(&self, stands_for: SocketAddr) {
        let proof = self.with(|table| {
            let stream = table.get_mut(&stands_for)?;
            stream.registered.store(true, Ordering::Relaxed);
            stream.proof.take()
        });
        if let Some(proof) = proof {
            proof.is_given();
        }
    }

    pub(super) fn snapshot(&self) -> StreamSnapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamSnapshot {
            open: self.with(|table| table.len()),
            opened: get(&self.counters.opened),
            tls_failed: get(&self.counters.tls_failed),
            too_many: get(&self.counters.too_many),
            waiting: self.waiting.load(Ordering::Relaxed),
            claimed: get(&self.counters.claimed),
            certificates: get(&self.counters.certificates),
            malformed: get(&self.counters.malformed),
            foreign: get(&self.counters.foreign),
            received: get(&self.counters.received),
            sent: get(&self.counters.sent),
            dropped: get(&self.counters.dropped),
        }
    }
}

/// What a stream needs of the PoP.
pub(super) struct StreamSide {
    acceptor: TlsAcceptor,
    streams: Streams,
    to_sessions: mpsc::Sender<Foreign>,
    to_relay: mpsc::Sender<Foreign>,
    /// Numbers places for [`stream_address_from`].
    origins: hmac::Key,
}

impl std::fmt::Debug for StreamSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamSide({:?})", self.streams.snapshot())
    }
}

/// The PoP's own certificate and key, as the TCP port shows them. Nobody judges it: who the PoP is, the session inside
/// proves. What stands in between may, and an expired one looks bad.
#[derive(Debug)]
pub(super) struct TlsIdentity {
    key: Arc<dyn rustls::sign::SigningKey>,
    current: Mutex<Arc<CertifiedKey>>,
}

impl TlsIdentity {
    fn new(provider: &CryptoProvider, certificate: &[u8], key: &SigningKey) -> Result<Self, rustls::Error> {
        let der = PrivatePkcs8KeyDer::from(key.to_pkcs8_der()).into();
        let key = provider.key_provider.load_private_key(der)?;
        let first = CertifiedKey::new(vec![certificate.to_vec().into()], Arc::clone(&key));
        first.keys_match()?;
        Ok(Self { key, current: Mutex::new(Arc::new(first)) })
    }

    /// Takes a newer certificate of the same key; one of another key is left out.
    fn set(&self, certificate: &[u8]) -> bool {
        let newer = CertifiedKey::new(vec![certificate.to_vec().into()], Arc::clone(&self.key));
        if newer.keys_match().is_err() {
            return false;
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(newer);
        true
    }
}

impl ResolvesServerCert for TlsIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The TLS side of streams, and what it shows.
pub(super) fn acceptor(
    certificate: &[u8],
    key: &SigningKey,
) -> Result<(TlsAcceptor, Arc<TlsIdentity>), rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let identity = Arc::new(TlsIdentity::new(&provider, certificate, key)?);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&identity) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = vec![SESSION_ALPN.to_vec()];
    // A resumed handshake would save nothing that matters, and tickets are state.
    config.send_tls13_tickets = 0;
    Ok((TlsAcceptor::from(Arc::new(config)), identity))
}

/// An address for counting: IPv6 by its /64.
pub(super) fn source_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl StreamSide {
    pub(super) fn new(
        acceptor: TlsAcceptor,
        streams: Streams,
        to_sessions: mpsc::Sender<Foreign>,
        to_relay: mpsc::Sender<Foreign>,
    ) -> Self {
        let origins = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let origins = origins.expect("the system has random numbers, or TLS would not have begun");
        Self { acceptor, streams, to_sessions, to_relay, origins }
    }

    fn counters(&self) -> &StreamCounters {
        &self.streams.counters
    }

    /// What tells streams of one place from those of others, and nobody where that is; never 0.
    fn origin_of(&self, peer: IpAddr) -> u32 {
        let octets = match source_of(peer) {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let tag = hmac::sign(&self.origins, &octets);
        u32::from_be_bytes(*tag.as_ref().first_chunk().expect("a tag has 32 bytes")).max(1)
    }

    /// A connection from a source that has its share was closed before it said anything.
    pub(super) fn too_many(&self) {
        count(&self.counters().too_many);
    }

    /// Serves a connection whose first bytes, `read`, showed that it is to be a stream.
    pub(super) async fn serve(&self, stream: TcpStream, peer: SocketAddr, read: Vec<u8>, proof: Proof) {
        let ended = self.stream(stream, peer, read, proof).await;
        tracing::debug!(%peer, ?ended, "a stream ended");
    }

    async fn stream(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        read: Vec<u8>,
        proof: Proof,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let whole = tokio::io::join(io::Cursor::new(read).chain(reader), writer);
        let Ok(Ok(tls)) = timeout(HANDSHAKE_WITHIN, self.acceptor.accept(whole)).await else {
            count(&self.counters().tls_failed);
            return Err(io::Error::other("TLS"));
        };
        let mut number = [0; 4];
        aws_lc_rs::rand::fill(&mut number).map_err(|_| io::Error::other("no random numbers"))?;
        let origin = self.origin_of(peer.ip());
        let stands_for = stream_address_from(origin, u32::from_be_bytes(number), peer.port());
        let (queue, outgoing) = mpsc::channel(QUEUE);
        let registered = Arc::new(AtomicBool::new(false));
        let entry = Stream { queue, registered: Arc::clone(&registered), proof: Some(proof) };
        self.streams.with(|table| table.insert(stands_for, entry));
        count(&self.counters().opened);
        let (reader, writer) = tokio::io::split(tls);
        // Reading does not wait for writing, or two full streams would wait for each other.
        let result = tokio::select! {
            read = self.read(reader, stands_for, &registered) => read,
            written = write(writer, outgoing) => written,
        };
        self.streams.with(|table| table.remove(&stands_for));
        result
    }

    async fn read(
        &self,
        mut reader: impl AsyncRead + Unpin,
        stands_for: SocketAddr,
        registered: &AtomicBool,
    ) -> io::Result<()> {
        let mut frames = StreamReader::new();
        let mut buffer = vec![0; READ_BUFFER];
        let opened = Instant::now();
        let mut heard = opened;
        loop {
            // What anybody may send renews nothing: only a registered session does.
            let until =
                if registered.load(Ordering::Relaxed) { heard + IDLE } else { opened + REGISTERED_WITHIN };
            let length = tokio::select! {
                length = reader.read(&mut buffer) => length?,
                () = sleep_until(until) => match registered.load(Ordering::Relaxed) {
                    true if until < heard + IDLE => continue,
                    _ => return Err(io::ErrorKind::TimedOut.into()),
                },
            };
            if length == 0 {
                return Ok(());
            }
            let malformed = |error| {
                count(&self.counters().malformed);
                io::Error::other(error)
            };
            frames.push(&buffer[..length]).map_err(malformed)?;
            while let Some(datagram) = frames.next_datagram().map_err(malformed)? {
                let place = match classify(datagram) {
                    DatagramKind::Quic => &self.to_sessions,
                    DatagramKind::Relay => &self.to_relay,
                    DatagramKind::Stun | DatagramKind::WireGuard | DatagramKind::Foreign => {
                        count(&self.counters().foreign);
                        continue;
                    }
                };
                heard = Instant::now();
                let foreign = Foreign { source: stands_for, bytes: datagram.to_vec() };
                let taken = place.try_send(foreign).is_ok();
                count(if taken { &self.counters().received } else { &self.counters().dropped });
            }
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut outgoing: mpsc::Receiver<Waiting>) -> io::Result<()> {
    let mut burst = Vec::with_capacity(WRITE_BURST);
    let mut bytes = Vec::new();
    loop {
        if outgoing.recv_many(&mut burst, WRITE_BURST).await == 0 {
            return writer.shutdown().await;
        }
        bytes.clear();
        // They keep their room until the kernel has them.
        for datagram in &burst {
            encode_stream_datagram(&mut bytes, &datagram.bytes);
        }
        let written = timeout(IDLE, async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        });
        written.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        burst.clear();
    }
}
