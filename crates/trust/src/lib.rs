//! Who is who, and who said what: keys, certificates and signed documents.
//!
//! This crate owns: the trust chain from the root key down to the keys with exactly one role each,
//! the certificates with exactly one `tidegate://` name, the signed documents (grant, slice, beacon,
//! revocation) and their only verifier, and the sealing of what travels between two agents or an
//! agent and a controller. It is shared by those who make documents and those who check them.
//!
//! It refuses to know: the machine's clock (wall time comes as [`UnixMs`]), files, sockets, and what
//! a policy means.
//!
//! Unverified things have types of their own: [`Unverified<Grant>`](Unverified) has no fields to read;
//! only [`Unverified::verify`] turns it into a [`Grant`].
//!
//! ```
//! use trust::{Grant, Unverified};
//! // Text that is not a token is refused before anything else looks at it.
//! assert!(Unverified::<Grant>::parse("v4.local.AAAA").is_err());
//! ```

mod beacon;
mod bundle;
mod certificate;
pub mod control;
mod document;
mod encoding;
mod grant;
mod identity;
mod join;
mod key;
mod open;
pub mod paseto;
mod revocation;
mod root;
mod seal;
mod slice;
mod time;

pub use beacon::{Beacon, Head, OrganizationTag};
pub use bundle::{BundleKey, BundleStatement, ChainError, KeyRole, MAX_KEY_LIFE, TrustBundle, TrustChain};
pub use certificate::{
    Certificate, CertificateError, CertificateRequest, MAX_CERTIFICATE_LIFE, issue_certificate,
    subject_public_key,
};
pub use document::{Document, DocumentError, MAX_CLOCK_SKEW, Unverified, sign_document};
pub use encoding::{Base64Error, decode_base64url, encode_base64url, sha256};
pub use grant::{Grant, GroupRef, MAX_GRANT_GROUPS, MAX_GRANT_LIFE, Owner, PostureClass};
pub use identity::{Identity, IdentityError, Role, Subject};
pub use join::{JoinKey, JoinKeyError, JoinKind, JoinSecret};
pub use key::{BadSignature, KeyId, SigningKey, VerifyingKey};
pub use open::{OpenProof, open_signing_input, seal_open, sign_open, unseal_open};
pub use revocation::{Changed, Revocation, RevocationSet, RevokedSubject, RevokedSubjectError};
pub use root::{MAX_ROTATION_LIFE, RootHash, RootSuccession, RotationStatement};
pub use seal::{OpenKey, SealError, SealKey};
pub use slice::{Audience, MAX_SLICE_LIFE, Slice, SliceBody, SliceHeader, SliceVersion};
pub use time::UnixMs;
