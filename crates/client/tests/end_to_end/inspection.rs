//! A proxy that breaks TLS open, between the agents and their PoP: it shows them a certificate of its own authority, asks for
//! none, and reads what goes through.

use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The proxy's rule for this destination: whatever certificate stands there.
#[derive(Debug)]
struct Excepted(Arc<CryptoProvider>);

impl ServerCertVerifier for Excepted {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What it has read, in the clear.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Connections whose TLS it broke open.
    pub(crate) opened: AtomicU64,
    /// Bytes.
    pub(crate) bytes: AtomicU64,
}

/// Stands at `listener` for the PoP at `pop`, by TCP alone.
pub(crate) fn inspect(listener: TcpListener, pop: SocketAddr) -> Arc<Seen> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let leaf = leaf.signed_by(&key, &issuer).expect("signs");
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .expect("usable");
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Excepted(provider)))
        .with_no_client_auth();
    server.alpn_protocols = vec![wire::SESSION_ALPN.to_vec()];
    client.alpn_protocols = vec![wire::SESSION_ALPN.to_vec()];
    let (acceptor, connector) = (TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client)));
    let seen = Arc::new(Seen::default());
    let shown = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, connector, seen) = (acceptor.clone(), connector.clone(), Arc::clone(&shown));
            tokio::spawn(async move {
                let Ok(inside) = acceptor.accept(stream).await else { return };
                let Ok(stream) = TcpStream::connect(pop).await else { return };
                let name = ServerName::from(pop.ip());
                let Ok(outside) = connector.connect(name, stream).await else { return };
                seen.opened.fetch_add(1, Ordering::Relaxed);
                pass(inside, outside, &seen).await;
            });
        }
    });
    seen
}

/// Both ways until one side ends, each byte in the clear between.
async fn pass(
    mut inside: tokio_rustls::server::TlsStream<TcpStream>,
    mut outside: tokio_rustls::client::TlsStream<TcpStream>,
    seen: &Seen,
) {
    let (mut up, mut down) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let passed = tokio::select! {
            read = inside.read(&mut up) => match read {
                Ok(length @ 1..) => outside.write_all(&up[..length]).await.and(Ok(length)),
                _ => return,
            },
            read = outside.read(&mut down) => match read {
                Ok(length @ 1..) => inside.write_all(&down[..length]).await.and(Ok(length)),
                _ => return,
            },
        };
        let flushed = async { inside.flush().await.is_ok() && outside.flush().await.is_ok() };
        match passed {
            Ok(length) if flushed.await => seen.bytes.fetch_add(length as u64, Ordering::Relaxed),
            _ => return,
        };
    }
}
