//! Who may be at the other end.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use trust::{
    Certificate, CertificateError, RevocationSet, RevokedSubject, Role, Subject, TrustBundle, UnixMs,
    VerifyingKey,
};
use wire::PopId;

/// Why a peer's certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// It does not verify.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A PoP was expected, or one was not.
    #[error("a {} may not be at this end of a session", .0.word())]
    Role(Role),
    /// Another PoP than the one dialled.
    #[error("expected {expected}, the certificate is {got}'s")]
    OtherPop {
        /// Who was dialled.
        expected: PopId,
        /// Who answered.
        got: PopId,
    },
    /// Its subject was struck.
    #[error("access of this subject was revoked")]
    Struck,
    /// None came.
    #[error("the peer showed no certificate")]
    None,
}

/// Whom this side talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Exactly this PoP.
    Pop(PopId),
    /// A device, a connector or a controller.
    Callers,
}

/// Certificates whose signature is remembered. TLS asks about one, then about its key, and when the handshake is
/// complete the session asks again: all within the call that brought the packet.
const REMEMBERED: usize = 4;

#[derive(Debug)]
struct Held {
    bundle: Arc<TrustBundle>,
    revocations: Arc<RevocationSet>,
    wall: UnixMs,
    /// The newest certificates that verify under `bundle`. Times, roles and strikes are asked each time.
    verified: VecDeque<Certificate>,
}

/// What certificates are judged by, shared between a core and the TLS verifiers it gave away, so that a
/// change counts for handshakes already running.
#[derive(Debug)]
pub(crate) struct Vetting(Mutex<Held>);

impl Vetting {
    pub(crate) fn new(bundle: TrustBundle, wall: UnixMs) -> Self {
        let revocations = Arc::new(RevocationSet::new());
        let verified = VecDeque::new();
        Self(Mutex::new(Held { bundle: Arc::new(bundle), revocations, wall, verified }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each critical section below is a plain assignment or clone: there is no half-done state to fear.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_wall(&self, wall: UnixMs) {
        self.held().wall = wall;
    }

    pub(crate) fn set_bundle(&self, bundle: TrustBundle) {
        let mut held = self.held();
        held.bundle = Arc::new(bundle);
        held.verified.clear();
    }

    pub(crate) fn set_revocations(&self, revocations: Arc<RevocationSet>) {
        self.held().revocations = revocations;
    }

    pub(crate) fn wall(&self) -> UnixMs {
        self.held().wall
    }

    pub(crate) fn is_struck(&self, peer: &Certificate) -> Result<(), PeerRefused> {
        let subject = RevokedSubject::of(peer.identity().subject());
        let struck = self.held().revocations.is_struck(subject, peer.generation());
        if struck && !planted::is("struck-agent-registers") { Err(PeerRefused::Struck) } else { Ok(()) }
    }

    /// The one judgement on a peer, used by the TLS verifiers, after the handshake and when something
    /// changed.
    pub(crate) fn judge(&self, der: &[u8], expected: Expected) -> Result<Certificate, PeerRefused> {
        let peer = self.verified(der)?;
        match (expected, peer.identity().subject()) {
            _ if planted::is("any-certificate-at-any-end") => {}
            (Expected::Pop(expected), Subject::Pop(got))
                if expected != got && !planted::is("any-pop-will-do") =>
            {
                return Err(PeerRefused::OtherPop { expected, got });
            }
            (Expected::Pop(_), Subject::Pop(_))
            | (Expected::Callers, Subject::Device(_) | Subject::Connector(_) | Subject::Controller(_)) => {}
            (_, subject) => return Err(PeerRefused::Role(subject.role())),
        }
        self.is_struck(&peer)?;
        Ok(peer)
    }

    /// The certificate, if it verifies now.
    fn verified(&self, der: &[u8]) -> Result<Certificate, CertificateError> {
        let (bundle, wall) = {
            let held = self.held();
            if let Some(known) = held.verified.iter().find(|known| known.der() == der) {
                known.check_time(held.wall)?;
                return Ok(known.clone());
            }
            (Arc::clone(&held.bundle), held.wall)
        };
        let peer = Certificate::verify(der, &bundle, wall)?;
        let mut held = self.held();
        // Another bundle may have come while the signature was checked.
        if Arc::ptr_eq(&held.bundle, &bundle) {
            held.verified.truncate(REMEMBERED - 1);
            held.verified.push_front(peer.clone());
        }
        Ok(peer)
    }

    /// The key of a certificate that was judged just now.
    pub(crate) fn key_of(&self, der: &[u8]) -> Option<VerifyingKey> {
        self.held().verified.iter().find(|known| known.der() == der).map(Certificate::public_key)
    }
}
