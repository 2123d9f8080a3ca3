//! Certificates: X.509 for TLS, with exactly one name of ours and no path building.
//!
//! A certificate is signed directly by an issuer key of the trust bundle, and each agent role has an
//! issuer role of its own. Web-PKI libraries do not check URI names, so one parser here decides:
//! Ed25519 throughout, exactly one `tidegate://` URI and no other name, not a CA, `digitalSignature`
//! only, and exactly the extended usage of the role: `clientAuth` for devices and connectors,
//! `serverAuth` for PoPs and controllers.
//!
//! The serial number is `1 ‖ generation (8 bytes) ‖ random (8 bytes)`: a strike ends a generation, so
//! the certificate says which one it is of.

use crate::{
    bundle::{KeyRole, TrustBundle},
    document::MAX_CLOCK_SKEW,
    identity::{Identity, Role},
    key::{KeyId, SigningKey, VerifyingKey},
    time::UnixMs,
};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyUsagePurpose, SanType,
    SerialNumber,
};
use std::time::Duration;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::OID_SIG_ED25519,
    prelude::FromDer as _,
};

/// Longest life of a certificate (architecture: 30 days), with an hour for the backdated beginning.
pub const MAX_CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600 + 3600);
/// Longest certificate that is looked at; ours have about 450 bytes.
const MAX_DER: usize = 4096;
const SERIAL_LEN: usize = 17;

/// Why a certificate is not believed. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum CertificateError {
    /// Not one DER certificate, or too long.
    #[error("the certificate does not parse")]
    Malformed,
    /// An algorithm that is not Ed25519.
    #[error("expected Ed25519 keys and signatures (RFC 8410)")]
    Algorithm,
    /// Not exactly one URI as its only name.
    #[error("expected exactly one subject alternative name, a tidegate:// URI")]
    Names,
    /// The URI is not one of ours.
    #[error("the name is not tidegate://installation/organization/role/id")]
    Identity,
    /// CA:TRUE.
    #[error("an agent's certificate may not be a CA's")]
    IsCa,
    /// Wrong or additional usages.
    #[error("the key usages do not fit the role")]
    Usage,
    /// An extension that this parser does not know and that is marked critical, or one twice.
    #[error("an unknown critical or repeated extension")]
    Extension,
    /// No issuer key of this role with this id.
    #[error("no issuer key for this role in the trust bundle signed it")]
    UnknownIssuer,
    /// The signature is wrong.
    #[error("the signature does not verify")]
    Signature,
    /// Another installation.
    #[error("the certificate belongs to another installation")]
    OtherInstallation,
    /// `notBefore` lies ahead.
    #[error("the certificate is not valid yet; is a clock off?")]
    NotYetValid,
    /// `notAfter` has passed.
    #[error("the certificate has expired")]
    Expired,
    /// Lives longer than 30 days.
    #[error("the certificate lives longer than 30 days")]
    LivesTooLong,
    /// The serial number is not of our form.
    #[error("the serial number does not carry a generation")]
    Serial,
}

impl CertificateError {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Algorithm => "algorithm",
            Self::Names => "names",
            Self::Identity => "identity",
            Self::IsCa => "is_ca",
            Self::Usage => "usage",
            Self::Extension => "extension",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Signature => "signature",
            Self::OtherInstallation => "other_installation",
            Self::NotYetValid => "not_yet_valid",
            Self::Expired => "expired",
            Self::LivesTooLong => "lives_too_long",
            Self::Serial => "serial",
        }
    }
}

/// A verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    identity: Identity,
    public_key: VerifyingKey,
    generation: u64,
    not_before: UnixMs,
    not_after: UnixMs,
}

impl Role {
    /// The key role that signs this role's certificates.
    #[must_use]
    pub const fn issuer(self) -> KeyRole {
        match self {
            Self::Device => KeyRole::DeviceIssuer,
            Self::Connector => KeyRole::ConnectorIssuer,
            Self::Pop => KeyRole::PopIssuer,
            Self::Controller => KeyRole::ControllerIssuer,
        }
    }

    const fn is_client(self) -> bool {
        matches!(self, Self::Device | Self::Connector)
    }
}

impl Certificate {
    /// Parses and believes a certificate, or says why not.
    ///
    /// # Errors
    /// The first reason found.
    pub fn verify(der: &[u8], bundle: &TrustBundle, wall: UnixMs) -> Result<Self, CertificateError> {
        let certificate = Self::verify_at_any_time(der, bundle)?;
        certificate.check_time(wall)?;
        Ok(certificate)
    }

    /// Whether it is valid now.
    ///
    /// # Errors
    /// Not yet, or not any more.
    pub fn check_time(&self, wall: UnixMs) -> Result<(), CertificateError> {
        if self.not_before > wall.plus(MAX_CLOCK_SKEW) {
            return Err(CertificateError::NotYetValid);
        }
        if self.not_after <= wall {
            return Err(CertificateError::Expired);
        }
        Ok(())
    }

    /// As [`Self::verify`], without asking whether it is valid *now*: for saying since when it is not.
    ///
    /// # Errors
    /// The first reason found.
    pub fn verify_at_any_time(der: &[u8], bundle: &TrustBundle) -> Result<Self, CertificateError> {
        use CertificateError as E;
        if der.len() > MAX_DER {
            return Err(E::Malformed);
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| E::Malformed)?;
        if !rest.is_empty() {
            return Err(E::Malformed);
        }
        let public_key = ed25519_key(&parsed)?;
        let identity = only_name(&parsed)?;
        check_extensions(&parsed, identity.role())?;
        let generation = generation(&parsed)?;
        let (not_before, not_after) = validity(&parsed)?;
        if not_after.since(not_before) > MAX_CERTIFICATE_LIFE || not_after <= not_before {
            return Err(E::LivesTooLong);
        }
        if identity.installation() != bundle.installation() {
            return Err(E::OtherInstallation);
        }
        let issuer = issuer_key_id(&parsed).ok_or(E::UnknownIssuer)?;
        let key = bundle
            .key(issuer, identity.role().issuer())
            .filter(|key| key.is_valid_at(not_before.max(key.nbf)))
            .and_then(crate::bundle::BundleKey::verifying_key)
            .ok_or(E::UnknownIssuer)?;
        if !is_canonical(der, &parsed) {
            return Err(E::Malformed);
        }
        key.verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data)
            .map_err(|_| E::Signature)?;
        Ok(Self { der: der.to_vec(), identity, public_key, generation, not_before, not_after })
    }

    /// The certificate as DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its one name.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// The key it binds.
    #[must_use]
    pub const fn public_key(&self) -> VerifyingKey {
        self.public_key
    }

    /// The generation of the subject it was issued to.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Valid from.
    #[must_use]
    pub const fn not_before(&self) -> UnixMs {
        self.not_before
    }

    /// Valid until.
    #[must_use]
    pub const fn not_after(&self) -> UnixMs {
        self.not_after
    }
}

/// The signature covers the inner part only, and the parser is lenient about what is around it: the
/// outer sequence, the algorithm and the bit string must have their one DER form (X.690 section 10),
/// so that a certificate has exactly one encoding.
fn is_canonical(der: &[u8], parsed: &X509Certificate<'_>) -> bool {
    /// SEQUENCE { OID 1.3.101.112 } (RFC 8410), then BIT STRING of 65 bytes with no unused bits.
    const ALGORITHM_AND_BITS: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x41, 0x00];
    let inner = parsed.tbs_certificate.as_ref();
    let signature = &parsed.signature_value.data;
    let length = inner.len() + ALGORITHM_AND_BITS.len() + signature.len();
    let Ok(short) = u16::try_from(length) else { return false };
    // Ours are longer than 255 bytes, so the length takes the two-byte form.
    let expected = [&[0x30, 0x82][..], &short.to_be_bytes(), inner, &ALGORITHM_AND_BITS, signature].concat();
    length > 255 && expected == der
}

/// The raw subject public key of any certificate: an Ed25519 key's 32 bytes, an uncompressed curve
/// point's 65. For comparing a console CA with the bundle; believes nothing.
///
/// # Errors
/// [`CertificateError::Malformed`].
pub fn subject_public_key(der: &[u8]) -> Result<Vec<u8>, CertificateError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
    Ok(parsed.public_key().subject_public_key.data.to_vec())
}

fn ed25519_key(parsed: &X509Certificate<'_>) -> Result<VerifyingKey, CertificateError> {
    let spki = parsed.public_key();
    let algorithms = [&parsed.signature_algorithm, &parsed.tbs_certificate.signature, &spki.algorithm];
    // RFC 8410 section 3: the parameters are absent.
    if algorithms.iter().any(|a| a.algorithm != OID_SIG_ED25519 || a.parameters.is_some()) {
        return Err(CertificateError::Algorithm);
    }
    let bytes = spki.subject_public_key.data.as_ref().try_into().map_err(|_| CertificateError::Algorithm)?;
    Ok(VerifyingKey::from_bytes(bytes))
}

fn only_name(parsed: &X509Certificate<'_>) -> Result<Identity, CertificateError> {
    let names = parsed
        .subject_alternative_name()
        .map_err(|_| CertificateError::Extension)?
        .ok_or(CertificateError::Names)?;
    let [GeneralName::URI(uri)] = names.value.general_names[..] else {
        return Err(CertificateError::Names);
    };
    uri.parse().map_err(|_| CertificateError::Identity)
}

fn check_extensions(parsed: &X509Certificate<'_>, role: Role) -> Result<(), CertificateError> {
    use CertificateError as E;
    let mut key_usage_seen = false;
    let mut extended_usage_seen = false;
    let mut seen = std::collections::BTreeSet::new();
    for extension in parsed.extensions() {
        if !seen.insert(extension.oid.to_id_string()) {
            return Err(E::Extension);
        }
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(constraints) if constraints.ca => return Err(E::IsCa),
            ParsedExtension::KeyUsage(usage) => {
                key_usage_seen = true;
                // digitalSignature is bit 0 (RFC 5280 section 4.2.1.3); x509-parser keeps it lowest.
                if usage.flags != 1 {
                    return Err(E::Usage);
                }
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                extended_usage_seen = true;
                let others = usage.any
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping
                    || usage.ocsp_signing
                    || !usage.other.is_empty();
                if others || usage.client_auth != role.is_client() || usage.server_auth == role.is_client() {
                    return Err(E::Usage);
                }
            }
            ParsedExtension::BasicConstraints(_)
            | ParsedExtension::SubjectAlternativeName(_)
            | ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::SubjectKeyIdentifier(_) => {}
            _ if extension.critical => return Err(E::Extension),
            _ => {}
        }
    }
    if key_usage_seen && extended_usage_seen { Ok(()) } else { Err(E::Usage) }
}

fn generation(parsed: &X509Certificate<'_>) -> Result<u64, CertificateError> {
    let serial: &[u8; SERIAL_LEN] = parsed.raw_serial().try_into().map_err(|_| CertificateError::Serial)?;
    if serial[0] != 1 {
        return Err(CertificateError::Serial);
    }
    Ok(u64::from_be_bytes(serial[1..9].try_into().expect("8 of 17 bytes")))
}

fn validity(parsed: &X509Certificate<'_>) -> Result<(UnixMs, UnixMs), CertificateError> {
    let millis = |seconds: i64| {
        u64::try_from(seconds)
            .ok()
            .and_then(|seconds| seconds.checked_mul(1000))
            .map(UnixMs::from_millis)
            .ok_or(CertificateError::Malformed)
    };
    let validity = parsed.validity();
    Ok((millis(validity.not_before.timestamp())?, millis(validity.not_after.timestamp())?))
}

fn issuer_key_id(parsed: &X509Certificate<'_>) -> Option<KeyId> {
    let mut names = parsed.issuer().iter_common_name();
    let name = names.next()?.as_str().ok()?.parse().ok()?;
    if names.next().is_some() { None } else { Some(name) }
}

/// What a controller puts into a certificate.
#[derive(Debug, Clone, Copy)]
pub struct CertificateRequest {
    /// Whose.
    pub identity: Identity,
    /// The key, whose private half the subject has proven to hold.
    pub public_key: VerifyingKey,
    /// The subject's generation.
    pub generation: u64,
    /// Valid from; the issuer backdates it by minutes for clocks that are behind.
    pub not_before: UnixMs,
    /// Valid until.
    pub not_after: UnixMs,
    /// 64 random bits of the serial number.
    pub serial_random: [u8; 8],
}

/// Issues a certificate. The caller uses the issuer key of the identity's role; a verifier refuses
/// any other.
///
/// # Errors
/// The library cannot encode it; with our own types this does not happen.
pub fn issue_certificate(issuer: &SigningKey, request: &CertificateRequest) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::default();
    let name = |text: String| {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, text);
        name
    };
    params.distinguished_name = name(request.identity.subject().to_string());
    params.not_before = to_date(request.not_before);
    params.not_after = to_date(request.not_after);
    params.subject_alt_names = vec![SanType::URI(request.identity.to_string().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![if request.identity.role().is_client() {
        ExtendedKeyUsagePurpose::ClientAuth
    } else {
        ExtendedKeyUsagePurpose::ServerAuth
    }];
    let mut serial = vec![1];
    serial.extend_from_slice(&request.generation.to_be_bytes());
    serial.extend_from_slice(&request.serial_random);
    params.serial_number = Some(SerialNumber::from(serial));
    let mut issuer_params = CertificateParams::default();
    issuer_params.distinguished_name = name(issuer.verifying_key().key_id().to_string());
    let issuer = Issuer::new(issuer_params, issuer);
    Ok(params.signed_by(&request.public_key, &issuer)?.der().to_vec())
}

fn to_date(time: UnixMs) -> time::OffsetDateTime {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}
