//! TLS 1.3 with certificates of our own on both sides.
//!
//! Web-PKI libraries do not check URI names and have no notion of roles, so neither judges anything here:
//! the chain is one certificate, `trust` parses and verifies it, and its key checks the handshake's
//! signature. Resumption, tickets and early data are off: on resumption rustls restores the peer's chain
//! without asking a verifier.

use crate::vetting::{Expected, PeerRefused, Vetting};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    AlertDescription, CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName,
    Error as TlsError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
};
use std::sync::Arc;
use trust::{CertificateError, SigningKey, VerifyingKey};

/// The name in the handshake's SNI. It names nobody: who the peer must be is in its certificate.
pub(crate) const SERVER_NAME: &str = "pop.tidegate.invalid";

/// The own key and certificate cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum IdentityError {
    /// The certificate's bytes hold no Ed25519 key.
    #[error("expected a certificate with an Ed25519 key; enrol again to get a new one")]
    Certificate,
    /// The certificate is for another key.
    #[error("the certificate is not for this key; the state directory mixes two identities")]
    OtherKey,
    /// The TLS library refused the key.
    #[error("the TLS library refused the key")]
    Refused,
}

/// Who this side is: a certificate and its key.
#[derive(Clone)]
pub struct LocalIdentity(Arc<CertifiedKey>);

impl LocalIdentity {
    /// Joins a certificate (DER) and the key it is for. Whether the certificate is valid now is for the
    /// peer to judge.
    ///
    /// # Errors
    /// They do not belong together or are no Ed25519 pair.
    pub fn new(certificate: &[u8], key: &SigningKey) -> Result<Self, IdentityError> {
        let public = trust::subject_public_key(certificate).map_err(|_| IdentityError::Certificate)?;
        if public != key.verifying_key().as_bytes() {
            return Err(IdentityError::OtherKey);
        }
        let pkcs8 = PrivatePkcs8KeyDer::from(key.to_pkcs8_der());
        let signer = aws_lc_rs::sign::any_eddsa_type(&pkcs8).map_err(|_| IdentityError::Refused)?;
        let chain = vec![CertificateDer::from(certificate.to_vec())];
        Ok(Self(Arc::new(CertifiedKey::new(chain, signer))))
    }
}

impl std::fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalIdentity(…)")
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// How a dialler shakes hands with exactly one PoP.
pub(crate) fn dialler_config(
    local: &LocalIdentity,
    vetting: &Arc<Vetting>,
    expected: Expected,
) -> Result<Arc<QuicClientConfig>, IdentityError> {
    let verifier = Arc::new(Verifier { vetting: Arc::clone(vetting), expected });
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|_| IdentityError::Refused)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&local.0))));
    config.alpn_protocols = vec![wire::SESSION_ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_early_data = false;
    QuicClientConfig::try_from(config).map(Arc::new).map_err(|_| IdentityError::Refused)
}

/// How an acceptor shakes hands with everybody.
pub(crate) fn acceptor_config(
    local: &LocalIdentity,
    vetting: &Arc<Vetting>,
) -> Result<Arc<QuicServerConfig>, IdentityError> {
    let verifier = Arc::new(Verifier { vetting: Arc::clone(vetting), expected: Expected::Callers });
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|_| IdentityError::Refused)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&local.0))));
    config.alpn_protocols = vec![wire::SESSION_ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map(Arc::new).map_err(|_| IdentityError::Refused)
}

/// Asks [`Vetting`], in both directions.
#[derive(Debug)]
struct Verifier {
    vetting: Arc<Vetting>,
    expected: Expected,
}

impl Verifier {
    fn judge(&self, end_entity: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), TlsError> {
        if !others.is_empty() {
            // Exactly one certificate: the issuer is found in the bundle, never in the handshake.
            return Err(TlsError::InvalidCertificate(TlsCertificateError::BadEncoding));
        }
        self.vetting.judge(end_entity, self.expected).map(drop).map_err(|refused| tls_error(&refused))
    }
}

/// The alert tells the other side what to mend; see `alert_words` for what it says there.
fn tls_error(refused: &PeerRefused) -> TlsError {
    let error = match refused {
        PeerRefused::Certificate(error) => match error {
            CertificateError::NotYetValid | CertificateError::Expired => TlsCertificateError::Expired,
            CertificateError::UnknownIssuer
            | CertificateError::Signature
            | CertificateError::OtherInstallation => TlsCertificateError::UnknownIssuer,
            _ => TlsCertificateError::BadEncoding,
        },
        PeerRefused::Struck => TlsCertificateError::Revoked,
        PeerRefused::Role(_) | PeerRefused::OtherPop { .. } => {
            TlsCertificateError::ApplicationVerificationFailure
        }
        PeerRefused::None => return TlsError::NoCertificatesPresented,
    };
    TlsError::InvalidCertificate(error)
}

fn check_signature(
    vetting: &Vetting,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, TlsError> {
    if signed.scheme != SignatureScheme::ED25519 {
        return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
    }
    let parse = || {
        let key = trust::subject_public_key(certificate).ok().and_then(|key| key.try_into().ok());
        key.map(VerifyingKey::from_bytes)
    };
    let key = vetting
        .key_of(certificate)
        .or_else(parse)
        .ok_or(TlsError::InvalidCertificate(TlsCertificateError::BadEncoding))?;
    key.verify(message, signed.signature())
        .map(|()| HandshakeSignatureValid::assertion())
        .map_err(|_| TlsError::InvalidCertificate(TlsCertificateError::BadSignature))
}

/// Only TLS 1.3 is offered; the traits want an answer for 1.2 all the same.
fn no_tls12() -> Result<HandshakeSignatureValid, TlsError> {
    Err(TlsError::AlertReceived(AlertDescription::ProtocolVersion))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        self.judge(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        check_signature(&self.vetting, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.judge(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        check_signature(&self.vetting, message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
