//! Which servers are believed: a provisional look that carries no secret, then the real check.

use crate::anchor::Anchor;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, Der, ServerName, TrustAnchor, UnixTime};
use std::sync::Arc;

/// What makes a server's certificate believable.
///
/// The console's certificate comes from the installation's own console CA (whose key the trust
/// bundle names) or from a public CA that this machine already trusts.
#[derive(Clone, Default)]
pub struct ServerTrust {
    console_cas: Vec<Vec<u8>>,
    system: Option<Arc<RootCertStore>>,
    time: Option<Anchor>,
}

impl ServerTrust {
    /// Believes nobody yet.
    #[must_use]
    pub fn nobody() -> Self {
        Self::default()
    }

    /// Also believes leaves signed by this key: an Ed25519 public key (32 bytes), an uncompressed
    /// P-256 point (65 bytes), or any DER SubjectPublicKeyInfo (RFC 5280 section 4.1).
    #[must_use]
    pub fn with_console_ca(mut self, public_key: &[u8]) -> Self {
        self.console_cas.push(subject_public_key_info(public_key));
        self
    }

    /// Also believes what the machine's own CA store believes. An unreadable store believes nobody.
    #[must_use]
    pub fn with_system_roots(mut self) -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "one of the machine's CA files cannot be read");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        self.system = Some(Arc::new(store));
        self
    }

    /// Judges certificates by this time instead of the machine's clock.
    #[must_use]
    pub(crate) const fn at(mut self, time: Anchor) -> Self {
        self.time = Some(time);
        self
    }

    pub(crate) fn into_config(self) -> Arc<ClientConfig> {
        config(Arc::new(Strict { trust: self, provider: provider() }))
    }
}

/// Believes every certificate. For the one request that carries no secret and whose answer proves
/// itself against the root's hash.
pub(crate) fn provisional_config() -> Arc<ClientConfig> {
    config(Arc::new(Provisional { provider: provider() }))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn config(verifier: Arc<dyn ServerCertVerifier>) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Prefix of an Ed25519 SubjectPublicKeyInfo (RFC 8410 section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Prefix of an uncompressed P-256 SubjectPublicKeyInfo (RFC 5480 section 2).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86,
    0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

fn subject_public_key_info(public_key: &[u8]) -> Vec<u8> {
    match public_key.len() {
        32 => [&ED25519_SPKI, public_key].concat(),
        65 if public_key[0] == 0x04 => [&P256_SPKI[..], public_key].concat(),
        _ => public_key.to_vec(),
    }
}

/// The contents of one DER element with a definite length (X.690 section 8.1).
fn der_contents(element: &[u8]) -> Option<&[u8]> {
    let (first, rest) = element.get(1..)?.split_first()?;
    let (length, body) = match usize::from(*first) {
        short @ 0..=0x7F => (short, rest),
        long @ 0x81..=0x83 => {
            let (digits, body) = rest.split_at_checked(long - 0x80)?;
            (digits.iter().fold(0_usize, |length, digit| (length << 8) | usize::from(*digit)), body)
        }
        _ => return None,
    };
    (body.len() == length).then_some(body)
}

struct Strict {
    trust: ServerTrust,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Strict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Strict({} console CAs)", self.trust.console_cas.len())
    }
}

impl Strict {
    /// Console CAs as trust anchors. The bundle names keys, not certificates, so the anchor takes
    /// the name that the leaf says issued it; what counts is whose key made the signature.
    fn console_anchors(&self, leaf: &CertificateDer<'_>) -> Result<RootCertStore, rustls::Error> {
        let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|_| bad())?;
        let issuer = der_contents(parsed.issuer().as_raw()).ok_or_else(bad)?;
        let mut store = RootCertStore::empty();
        for spki in &self.trust.console_cas {
            if let Some(spki) = der_contents(spki) {
                store.roots.push(TrustAnchor {
                    subject: Der::from(issuer.to_vec()),
                    subject_public_key_info: Der::from(spki.to_vec()),
                    name_constraints: None,
                });
            }
        }
        Ok(store)
    }
}

impl ServerCertVerifier for Strict {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let now = self.trust.time.map_or(now, |time| UnixTime::since_unix_epoch(time.since_unix_epoch()));
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let console = self.console_anchors(leaf)?;
        // The console CA signs leaves directly: no intermediate is taken from the server.
        let mut verdict = verify_server_cert_signed_by_trust_anchor(&parsed, &console, &[], now, algorithms);
        if let (Err(_), Some(system)) = (&verdict, &self.trust.system)
            && verify_server_cert_signed_by_trust_anchor(&parsed, system, intermediates, now, algorithms)
                .is_ok()
        {
            verdict = Ok(());
        }
        verdict?;
        verify_server_name(&parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Provisional {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Provisional {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

    fn ca_and_leaf(host: &str) -> (KeyPair, CertificateDer<'static>) {
        let ca_key = KeyPair::generate().expect("key");
        let mut ca = CertificateParams::new(Vec::new()).expect("params");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = Issuer::from_params(&ca, &ca_key);
        let leaf_key = KeyPair::generate().expect("key");
        let mut leaf = CertificateParams::new(vec![host.to_owned()]).expect("params");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = leaf.signed_by(&leaf_key, &issuer).expect("signs");
        (ca_key, leaf.der().clone())
    }

    fn check(trust: ServerTrust, leaf: &CertificateDer<'_>, host: &str) -> Result<(), rustls::Error> {
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        Strict { trust, provider: provider() }
            .verify_server_cert(leaf, &[], &name, &[], UnixTime::now())
            .map(|_| ())
    }

    #[test]
    fn a_leaf_of_the_console_ca_is_believed_for_its_own_host_only() {
        let (ca, leaf) = ca_and_leaf("console.example");
        let trust = || ServerTrust::nobody().with_console_ca(ca.public_key_raw());
        check(trust(), &leaf, "console.example").expect("signed by the console CA");
        check(trust(), &leaf, "other.example").expect_err("another host");
        let (other, _) = ca_and_leaf("console.example");
        check(ServerTrust::nobody().with_console_ca(other.public_key_raw()), &leaf, "console.example")
            .expect_err("another CA");
        check(ServerTrust::nobody(), &leaf, "console.example").expect_err("nobody is believed");
    }

    #[test]
    fn an_ed25519_console_ca_and_an_address_as_host_work() {
        let ca_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let mut ca = CertificateParams::new(Vec::new()).expect("params");
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let issuer = Issuer::from_params(&ca, &ca_key);
        let leaf_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("params");
        let leaf = leaf.signed_by(&leaf_key, &issuer).expect("signs");
        let trust = || ServerTrust::nobody().with_console_ca(ca_key.public_key_raw());
        check(trust(), leaf.der(), "127.0.0.1").expect("signed by the console CA");
        check(trust(), leaf.der(), "127.0.0.2").expect_err("another address");
    }

    #[test]
    fn der_lengths_that_do_not_fit_are_refused() {
        assert_eq!(der_contents(&[0x30, 2, 1, 2]), Some(&[1, 2][..]));
        assert_eq!(der_contents(&[0x30, 0x81, 2, 1, 2]), Some(&[1, 2][..]));
        for bad in [&[][..], &[0x30], &[0x30, 3, 1, 2], &[0x30, 0x84, 0, 0, 0, 0], &[0x30, 0x82, 1]] {
            assert_eq!(der_contents(bad), None, "{bad:?}");
        }
    }
}
