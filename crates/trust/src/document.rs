//! Signed documents: one way to make them, one way to believe them.
//!
//! A document is a PASETO v4.public token. Its message is JSON, decoded strictly: an unknown field
//! is an error, except inside `ext`, where a newer version may put what an older one can do without.
//! The footer is the id of the signing key; the implicit assertion is the document's kind and its
//! installation, so that a token of one kind or installation is never one of another.

use crate::{
    bundle::{KeyRole, TrustBundle},
    key::{KeyId, SigningKey},
    paseto::{self, PasetoError, UnverifiedToken},
    time::UnixMs,
};
use std::{fmt, marker::PhantomData, time::Duration};
use wire::{ControllerId, InstallationId};

/// How far two clocks may differ before `nbf` is taken at its word. Guarantees: clocks are off by
/// up to 60 s "always".
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// What every kind of signed document says about itself.
pub trait Document: serde::Serialize + serde::de::DeserializeOwned {
    /// Part of the signed domain. Never reused.
    const KIND: &'static str;
    /// The only role a key may have to sign this.
    const ROLE: KeyRole;
    /// Longest text that is looked at.
    const MAX_TEXT: usize;

    /// The installation it belongs to.
    fn installation(&self) -> InstallationId;
    /// From when it says it is valid.
    fn not_before(&self) -> UnixMs;
    /// Until when; `None` for what has an age instead of an end.
    fn expires(&self) -> Option<UnixMs>;
    /// In whose name it speaks, where it says so: only that controller's key may sign it.
    fn speaker(&self) -> Option<ControllerId> {
        None
    }
    /// What else must hold inside, whoever signed it. The text names the rule.
    ///
    /// # Errors
    /// The broken rule.
    fn check(&self) -> Result<(), &'static str>;
}

/// Why a document is not believed. Doubles as a metric label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Longer than its kind may be.
    #[error("expected at most {max} bytes of text, got {got}")]
    TooLong {
        /// The bound of the kind.
        max: usize,
        /// What came.
        got: usize,
    },
    /// Not a token, or the signature is wrong.
    #[error(transparent)]
    Token(#[from] PasetoError),
    /// The footer names no key.
    #[error("the footer is not a key id")]
    Footer,
    /// The bundle has no such key with this role.
    #[error("no key {0} with the role of this document is in the trust bundle")]
    UnknownKey(KeyId),
    /// The key is another controller's than the one in whose name the document speaks.
    #[error("the document speaks for {speaker}, and the key that signed is {owner}'s")]
    OtherOwner {
        /// In whose name it speaks.
        speaker: ControllerId,
        /// Whose key signed.
        owner: ControllerId,
    },
    /// The key is outside its own validity.
    #[error("the key {0} that signed is not valid now")]
    KeyNotValid(KeyId),
    /// The JSON is not this document.
    #[error("the content does not decode: {0}")]
    Content(String),
    /// Of another installation.
    #[error("the document belongs to another installation")]
    OtherInstallation,
    /// `nbf` lies ahead.
    #[error("the document is not valid before {0}; is a clock off?")]
    NotYetValid(UnixMs),
    /// `exp` has passed.
    #[error("the document expired at {0}")]
    Expired(UnixMs),
    /// An inner rule is broken.
    #[error("the document breaks a rule: {0}")]
    Rule(&'static str),
}

impl DocumentError {
    /// The metric label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::Token(PasetoError::Signature) => "signature",
            Self::Token(_) => "token",
            Self::Footer => "footer",
            Self::UnknownKey(_) => "unknown_key",
            Self::OtherOwner { .. } => "other_owner",
            Self::KeyNotValid(_) => "key_not_valid",
            Self::Content(_) => "content",
            Self::OtherInstallation => "other_installation",
            Self::NotYetValid(_) => "not_yet_valid",
            Self::Expired(_) => "expired",
            Self::Rule(_) => "rule",
        }
    }
}

/// A document's text, cut but not believed.
#[derive(Clone, PartialEq, Eq)]
pub struct Unverified<D> {
    token: UnverifiedToken,
    signer: KeyId,
    text: String,
    kind: PhantomData<D>,
}

impl<D> fmt::Debug for Unverified<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unverified(by {:?}, {} bytes)", self.signer, self.text.len())
    }
}

fn assertion(kind: &str, installation: InstallationId) -> Vec<u8> {
    format!("tidegate/{kind}/1/{installation}").into_bytes()
}

impl<D: Document> Unverified<D> {
    /// Cuts a text.
    ///
    /// # Errors
    /// Too long, not a token, or no key id in the footer.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        if text.len() > D::MAX_TEXT {
            return Err(DocumentError::TooLong { max: D::MAX_TEXT, got: text.len() });
        }
        let token = UnverifiedToken::parse(text)?;
        let signer = std::str::from_utf8(token.footer())
            .ok()
            .and_then(|footer| footer.parse().ok())
            .ok_or(DocumentError::Footer)?;
        Ok(Self { token, signer, text: text.to_owned(), kind: PhantomData })
    }

    /// [`Self::parse`] for bytes off the wire.
    ///
    /// # Errors
    /// As [`Self::parse`]; bytes that are not UTF-8 are no token.
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, DocumentError> {
        Self::parse(std::str::from_utf8(bytes).map_err(|_| PasetoError::Encoding)?)
    }

    /// The key that claims to have signed.
    #[must_use]
    pub const fn signer(&self) -> KeyId {
        self.signer
    }

    /// The text, as it came.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// When it says that it was made. A claim: worth something once everything that verifies it does so at that time.
    #[must_use]
    pub fn claimed_time(&self) -> Option<UnixMs> {
        let document: D = serde_json::from_slice(self.token.claimed_message()).ok()?;
        Some(document.not_before())
    }

    /// Believes the document, or says why not: key known with exactly this role and valid now,
    /// signature over kind and installation, content, times, inner rules.
    ///
    /// # Errors
    /// The first reason found.
    pub fn verify(self, bundle: &TrustBundle, wall: UnixMs) -> Result<D, DocumentError> {
        let document = self.verify_at_any_time(bundle)?;
        if document.not_before() > wall.plus(MAX_CLOCK_SKEW) {
            return Err(DocumentError::NotYetValid(document.not_before()));
        }
        if let Some(end) = document.expires()
            && end <= wall
            && !planted::is("expired-document-believed")
        {
            return Err(DocumentError::Expired(end));
        }
        Ok(document)
    }

    /// As [`Self::verify`] but without asking whether the document is valid *now*: for what has an
    /// age instead of an end, and for saying until when an expired one was good. The signing key
    /// must have been valid when the document says it was made.
    ///
    /// # Errors
    /// The first reason found.
    pub fn verify_at_any_time(self, bundle: &TrustBundle) -> Result<D, DocumentError> {
        let key = bundle.key(self.signer, D::ROLE).ok_or(DocumentError::UnknownKey(self.signer))?;
        let verifying = key.verifying_key().ok_or(DocumentError::UnknownKey(self.signer))?;
        let message = self.token.verify(&verifying, &assertion(D::KIND, bundle.installation()))?;
        let document: D =
            serde_json::from_slice(&message).map_err(|error| DocumentError::Content(error.to_string()))?;
        if document.installation() != bundle.installation() {
            return Err(DocumentError::OtherInstallation);
        }
        if let Some(speaker) = document.speaker()
            && speaker != key.owner
            && !planted::is("controller-speaks-for-another")
        {
            return Err(DocumentError::OtherOwner { speaker, owner: key.owner });
        }
        if !key.is_valid_at(document.not_before()) {
            return Err(DocumentError::KeyNotValid(self.signer));
        }
        document.check().map_err(DocumentError::Rule)?;
        Ok(document)
    }

    /// Reads what this node verified when it came and has kept on its own disk since, although the key may have
    /// left the bundle: a strike outlives the key that signed it. For nothing that came off the wire.
    ///
    /// # Errors
    /// The content does not decode, is another installation's, or breaks its rules.
    pub fn verified_before(self, installation: InstallationId) -> Result<D, DocumentError> {
        let document: D = serde_json::from_slice(self.token.claimed_message())
            .map_err(|error| DocumentError::Content(error.to_string()))?;
        if document.installation() != installation {
            return Err(DocumentError::OtherInstallation);
        }
        document.check().map_err(DocumentError::Rule)?;
        Ok(document)
    }
}

/// Signs a document. The result's text is deterministic: same document, same key, same text.
///
/// # Errors
/// The document breaks one of its own rules or is longer than its kind may be.
pub fn sign_document<D: Document>(key: &SigningKey, document: &D) -> Result<String, DocumentError> {
    document.check().map_err(DocumentError::Rule)?;
    let message = serde_json::to_vec(document).map_err(|error| DocumentError::Content(error.to_string()))?;
    let kid = key.verifying_key().key_id().to_string();
    let text = paseto::sign(key, &message, kid.as_bytes(), &assertion(D::KIND, document.installation()));
    if text.len() > D::MAX_TEXT {
        return Err(DocumentError::TooLong { max: D::MAX_TEXT, got: text.len() });
    }
    Ok(text)
}
