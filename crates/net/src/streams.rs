//! An agent's way to PoPs by TCP 443: TLS streams that carry the datagrams UDP would carry (`docs/adr/0007`).

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use wire::{SESSION_ALPN, StreamReader, encode_stream_datagram};

/// Streams at once: one a PoP.
const MAX_STREAMS: usize = 64;
/// Datagrams that wait for a stream; more are lost, as on any full link.
const QUEUE: usize = 512;
/// Datagrams that wait for the agent.
const INCOMING: usize = 1_024;
/// Datagrams written in one go.
const WRITE_BURST: usize = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// A stream that could not be opened is not tried again before.
const PAUSE: Duration = Duration::from_secs(1);
/// Nothing came or went for this long: nobody needs it.
const IDLE: Duration = Duration::from_secs(90);
const READ_BUFFER: usize = 16 * 1024;

/// Takes any certificate. Who the PoP is and who the agent is are proven by the QUIC session **inside** the
/// stream, end to end; the TLS outside only looks like what strict networks let pass, and may be broken open by
/// them. It gives nobody anything: it carries what UDP would carry in the clear.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    // Version 1.2 as well: what stands in between may know no other.
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![SESSION_ALPN.to_vec()];
    Ok(config)
}

/// Where a stream leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTarget {
    /// The PoP's TCP address.
    pub address: SocketAddr,
    /// Its host name or address, for the TLS handshake.
    pub host: String,
}

/// The streams of one agent, opened when something is to be sent.
#[derive(Debug)]
pub struct StreamLinks {
    connector: Option<TlsConnectorDebug>,
    links: BTreeMap<SocketAddr, Link>,
    sender: mpsc::Sender<(SocketAddr, Vec<u8>)>,
    incoming: mpsc::Receiver<(SocketAddr, Vec<u8>)>,
    totals: StreamTotals,
}

/// What became of an agent's streams, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct StreamTotals {
    /// Streams begun.
    pub opened: u64,
    /// Datagrams that did not fit, or had no stream.
    pub dropped: u64,
    /// UDP packets that claimed to come from a stream's address (100::/64), from which none comes.
    pub claimed: u64,
    /// Datagrams given to streams.
    #[serde(default)]
    pub datagrams_sent: u64,
    /// Their bytes.
    #[serde(default)]
    pub bytes_sent: u64,
    /// Datagrams taken from streams.
    #[serde(default)]
    pub datagrams_received: u64,
    /// Their bytes.
    #[serde(default)]
    pub bytes_received: u64,
}

struct TlsConnectorDebug(TlsConnector);

impl std::fmt::Debug for TlsConnectorDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsConnector")
    }
}

#[derive(Debug)]
struct Link {
    outgoing: mpsc::Sender<Vec<u8>>,
    opened: Instant,
}

impl StreamLinks {
    /// No stream is open.
    #[must_use]
    pub fn new() -> Self {
        let (sender, incoming) = mpsc::channel(INCOMING);
        let connector = config().ok().map(|config| TlsConnectorDebug(TlsConnector::from(Arc::new(config))));
        Self { connector, links: BTreeMap::new(), sender, incoming, totals: StreamTotals::default() }
    }

    /// Sends one datagram on the stream that `to` stands for, opening it if need be. Never waits; what does not
    /// fit is lost and counted.
    pub fn send(&mut self, to: SocketAddr, target: &StreamTarget, datagram: Vec<u8>) {
        if self.links.get(&to).is_some_and(|link| link.outgoing.is_closed()) {
            // Ended, or could not be opened.
            if self.links.get(&to).is_some_and(|link| link.opened.elapsed() < PAUSE) {
                self.totals.dropped += 1;
                return;
            }
            self.links.remove(&to);
        }
        if !self.links.contains_key(&to) {
            self.links.retain(|_, link| !link.outgoing.is_closed());
            let (Some(connector), true) = (&self.connector, self.links.len() < MAX_STREAMS) else {
                self.totals.dropped += 1;
                return;
            };
            let (outgoing, queue) = mpsc::channel(QUEUE);
            let task = run(connector.0.clone(), target.clone(), to, queue, self.sender.clone());
            tokio::spawn(async move {
                if let Err(error) = task.await {
                    tracing::debug!(%error, "a stream to a PoP ended");
                }
            });
            self.totals.opened += 1;
            self.links.insert(to, Link { outgoing, opened: Instant::now() });
        }
        let length = datagram.len() as u64;
        match self.links.get(&to).map(|link| link.outgoing.try_send(datagram)) {
            Some(Ok(())) => {
                self.totals.datagrams_sent += 1;
                self.totals.bytes_sent += length;
            }
            Some(Err(_)) => self.totals.dropped += 1,
            None => {}
        }
    }

    /// The next datagram that came, with the address that stands for its stream. May be dropped at any time
    /// without losing one.
    pub async fn recv(&mut self) -> (SocketAddr, Vec<u8>) {
        match self.incoming.recv().await {
            Some(came) => self.taken(came),
            // The sender is held here: this does not happen.
            None => std::future::pending().await,
        }
    }

    /// One more, if it has come already.
    pub fn try_recv(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let came = self.incoming.try_recv().ok()?;
        Some(self.taken(came))
    }

    const fn taken(&mut self, came: (SocketAddr, Vec<u8>)) -> (SocketAddr, Vec<u8>) {
        self.totals.datagrams_received += 1;
        self.totals.bytes_received += came.1.len() as u64;
        came
    }

    /// Ends every stream: the machine is in another network.
    pub fn reset(&mut self) {
        self.links.clear();
    }

    /// Counts UDP packets that claimed to come from a stream.
    pub fn claimed(&mut self, packets: u64) {
        self.totals.claimed += packets;
    }

    /// What became of the streams.
    #[must_use]
    pub const fn totals(&self) -> StreamTotals {
        self.totals
    }
}

impl Default for StreamLinks {
    fn default() -> Self {
        Self::new()
    }
}

async fn run(
    connector: TlsConnector,
    target: StreamTarget,
    stands_for: SocketAddr,
    mut queue: mpsc::Receiver<Vec<u8>>,
    incoming: mpsc::Sender<(SocketAddr, Vec<u8>)>,
) -> io::Result<()> {
    let late = |what| move |_| io::Error::new(io::ErrorKind::TimedOut, what);
    let stream =
        timeout(CONNECT_WITHIN, TcpStream::connect(target.address)).await.map_err(late("connecting"))??;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(target.host).map_err(io::Error::other)?;
    let stream = timeout(HANDSHAKE_WITHIN, connector.connect(name, stream)).await.map_err(late("TLS"))??;
    if stream.get_ref().1.alpn_protocol() != Some(SESSION_ALPN) {
        return Err(io::Error::other("the other end does not speak tidegate/1"));
    }
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut frames = StreamReader::new();
    let mut buffer = vec![0; READ_BUFFER];
    let mut burst = Vec::with_capacity(WRITE_BURST);
    let mut bytes = Vec::new();
    let mut last = Instant::now();
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => {
                let length = read?;
                if length == 0 {
                    return Ok(());
                }
                last = Instant::now();
                frames.push(&buffer[..length]).map_err(io::Error::other)?;
                while let Some(datagram) = frames.next_datagram().map_err(io::Error::other)? {
                    // A full queue loses it, as a full socket would.
                    let _ = incoming.try_send((stands_for, datagram.to_vec()));
                }
            }
            count = queue.recv_many(&mut burst, WRITE_BURST) => {
                if count == 0 {
                    let _ = writer.shutdown().await;
                    return Ok(());
                }
                last = Instant::now();
                bytes.clear();
                for datagram in burst.drain(..) {
                    encode_stream_datagram(&mut bytes, &datagram);
                }
                // A network that takes nothing for so long is gone.
                timeout(IDLE, async {
                    writer.write_all(&bytes).await?;
                    writer.flush().await
                })
                .await
                .map_err(late("writing"))??;
            }
            () = tokio::time::sleep_until(last + IDLE) => return Ok(()),
        }
    }
}
