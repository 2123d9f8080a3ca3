//! The yardstick: a bare QUIC handshake with quinn. Retry, client certificate, one message each way, the settings
//! that mattered; nothing of Tidegate.

use anyhow::{Context as _, Result};
use load_rig::Place;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use quinn_proto::RandomConnectionIdGenerator;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SignatureAlgorithm,
};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use std::{
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::task::JoinSet;

const ALPN: &[u8] = b"bare";
const NAME: &str = "bare.invalid";
const MESSAGE: &[u8] = b"hello there";

/// Which cryptography.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// P-256 certificates under a CA, X25519: the row of the design's table.
    P256,
    /// Ed25519 certificates, X25519MLKEM768: what Tidegate's handshake does.
    Ed25519,
}

impl Kind {
    const fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }

    fn provider(self) -> Arc<CryptoProvider> {
        let group = match self {
            Self::P256 => aws_lc_rs::kx_group::X25519,
            Self::Ed25519 => aws_lc_rs::kx_group::X25519MLKEM768,
        };
        Arc::new(CryptoProvider { kx_groups: vec![group], ..aws_lc_rs::default_provider() })
    }
}

/// Writes a CA, a server's and a client's certificate into a directory.
pub fn write_certificates(kind: Kind, place: &Path) -> Result<()> {
    let key = KeyPair::generate_for(kind.algorithm())?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "bare CA");
    std::fs::write(place.join("ca"), ca.self_signed(&key)?.der())?;
    let issuer = Issuer::new(ca, key);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate_for(kind.algorithm())?;
        let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
        params.extended_key_usages = vec![usage];
        std::fs::write(place.join(name), params.signed_by(&key, &issuer)?.der())?;
        std::fs::write(place.join(format!("{name}.key")), key.serialize_der())?;
    }
    Ok(())
}

fn own(place: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificate = CertificateDer::from(std::fs::read(place.join(name))?);
    let key = PrivatePkcs8KeyDer::from(std::fs::read(place.join(format!("{name}.key")))?);
    Ok((vec![certificate], key.into()))
}

fn roots(place: &Path) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(place.join("ca"))?))?;
    Ok(Arc::new(roots))
}

fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(2_u32.into())
        .max_concurrent_uni_streams(0_u32.into())
        .stream_receive_window(4_096_u32.into())
        .receive_window(8_192_u32.into())
        .send_window(8_192)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .enable_segmentation_offload(false);
    Arc::new(config)
}

fn endpoint(server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut config = EndpointConfig::default();
    // The ids by default have 24 random bits: among thousands of connections some meet, and those handshakes stand
    // still for as long as they are allowed to.
    config.grease_quic_bit(false).cid_generator(|| Box::new(RandomConnectionIdGenerator::new(8)));
    Ok(Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))?)
}

/// Serves until it is killed; the first line of output is its address.
pub async fn serve(kind: Kind, place: &Path) -> Result<()> {
    let provider = kind.provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(place)?, Arc::clone(&provider)).build()?;
    let (chain, key) = own(place, "server")?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.ticketer = aws_lc_rs::Ticketer::new()?;
    tls.send_tls13_tickets = 1;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let mut tokens = quinn::ValidationTokenConfig::default();
    tokens.sent(1);
    config
        .transport_config(transport())
        .validation_token_config(tokens)
        .max_incoming(4_096)
        .incoming_buffer_size(4_096)
        .incoming_buffer_size_total(16 * 1024 * 1024);
    let endpoint = endpoint(Some(config))?;
    println!("{}", endpoint.local_addr()?);
    while let Some(incoming) = endpoint.accept().await {
        if !incoming.remote_address_validated() {
            let _ = incoming.retry();
            continue;
        }
        tokio::spawn(async move {
            let answered = async {
                let connection = incoming.await?;
                let (mut send, mut receive) = connection.accept_bi().await?;
                let mut message = [0; MESSAGE.len()];
                receive.read_exact(&mut message).await?;
                send.write_all(&message).await?;
                connection.closed().await;
                anyhow::Ok(())
            };
            let _ = answered.await;
        });
    }
    Ok(())
}

/// A bare server as a process, and those who shake hands with it.
pub struct Bare {
    child: Child,
    address: SocketAddr,
    endpoint: Endpoint,
    held: Vec<Connection>,
}

impl Bare {
    /// Starts the server at a place; call it in the load's runtime.
    pub fn start(kind: Kind, certificates: &Path, place: &Place) -> Result<Self> {
        let own_program: PathBuf = std::env::current_exe()?;
        let word = match kind {
            Kind::P256 => "p256",
            Kind::Ed25519 => "ed25519",
        };
        let mut child = place
            .command(&own_program)
            .args(["bare-server", "--kind", word, "--certificates"])
            .arg(certificates)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let address = line.trim().parse().context("the bare server's address")?;
        let (chain, key) = own(certificates, "client")?;
        let mut tls = rustls::ClientConfig::builder_with_provider(kind.provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots(certificates)?)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.resumption = rustls::client::Resumption::disabled();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(transport());
        let mut endpoint = endpoint(None)?;
        endpoint.set_default_client_config(config);
        Ok(Self { child, address, endpoint, held: Vec::new() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Makes `count` handshakes, `at_once` of them at a time, and keeps the connections.
    pub async fn register(&mut self, count: usize, at_once: usize) -> Result<()> {
        let mut under_way = JoinSet::new();
        let mut begun = 0;
        while begun < count || !under_way.is_empty() {
            while begun < count && under_way.len() < at_once {
                begun += 1;
                let connecting = self.endpoint.connect(self.address, NAME)?;
                under_way.spawn(async move {
                    let register = async {
                        let connection = connecting.await?;
                        let (mut send, mut receive) = connection.open_bi().await?;
                        send.write_all(MESSAGE).await?;
                        let mut answer = [0; MESSAGE.len()];
                        receive.read_exact(&mut answer).await?;
                        anyhow::Ok(connection)
                    };
                    tokio::time::timeout(Duration::from_secs(20), register).await.context("no answer")?
                });
            }
            if let Some(done) = under_way.join_next().await {
                self.held.push(done??);
            }
        }
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
