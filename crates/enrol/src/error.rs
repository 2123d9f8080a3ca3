//! Why an enrolment failed, in words that say what to do.

use crate::{api::ApiError, http::ServerUrlError};
use state::StateError;
use std::{path::PathBuf, time::Duration};
use trust::{CertificateError, ChainError, DocumentError, Identity, JoinKind, UnixMs};

/// An enrolment failed. Nothing but the new keys is in the state directory then.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The key is for something else.
    #[error("this key enrols a {got}, not a {expected}; ask an administrator for a key of kind {expected}")]
    OtherKind {
        /// What this command enrols.
        expected: JoinKind,
        /// What the key enrols.
        got: JoinKind,
    },
    /// The address in the key.
    #[error("the controller's address in the key: {0}")]
    Address(#[from] ServerUrlError),
    /// The name given.
    #[error("expected a {what} of 1 to {max} bytes without control characters, got {got} bytes")]
    Name {
        /// Which.
        what: &'static str,
        /// The bound.
        max: usize,
        /// What came.
        got: usize,
    },
    /// The directory is enrolled already.
    #[error("{} is enrolled already, as {identity}; choose another directory with --state, or remove this one first", path.display())]
    AlreadyEnrolled {
        /// Where.
        path: PathBuf,
        /// As whom.
        identity: Identity,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// No answer, or a refusal.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The person refused the device code.
    #[error("the person who was asked refused; nothing was enrolled")]
    CodeDenied,
    /// Nobody confirmed the device code in time.
    #[error("nobody confirmed the code in time; run tidegate login again")]
    CodeExpired,
    /// The controller is not the one that the key names.
    #[error(
        "{address} is not the installation that this key is for: its root key has another hash than the one in the key; check the address, and that nobody is in between"
    )]
    OtherRoot {
        /// Who was asked.
        address: String,
    },
    /// The trust chain does not verify.
    #[error("the trust chain of {address}: {source}")]
    Chain {
        /// Who was asked.
        address: String,
        /// What is wrong.
        source: ChainError,
    },
    /// This machine's clock.
    #[error("this machine's clock is {} {direction} the controller's; set it (for example with NTP) and try again ({source})", plain(*by))]
    Clock {
        /// By how much.
        by: Duration,
        /// Which way.
        direction: ClockDirection,
        /// What failed because of it.
        source: Box<Self>,
    },
    /// The certificate that came back.
    #[error("the controller's answer is not usable: the certificate: {0}")]
    Certificate(CertificateError),
    /// A document that came back.
    #[error("the controller's answer is not usable: the {part}: {source}")]
    Document {
        /// Which.
        part: &'static str,
        /// What is wrong.
        source: DocumentError,
    },
    /// The answer does not fit together.
    #[error("the controller's answer is not usable: {0}")]
    Answer(&'static str),
}

/// Which way a clock is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockDirection {
    /// It shows a later time.
    Ahead,
    /// It shows an earlier time.
    Behind,
}

impl std::fmt::Display for ClockDirection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ahead => "ahead of",
            Self::Behind => "behind",
        })
    }
}

fn plain(by: Duration) -> String {
    match by.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

impl EnrolError {
    /// The same failure with the clock as its cause, when the clocks are far enough apart to be it.
    pub(crate) fn blame_clock(self, ours: UnixMs, theirs: Option<UnixMs>) -> Self {
        let Some(theirs) = theirs else { return self };
        let (by, direction) = if ours > theirs {
            (ours.since(theirs), ClockDirection::Ahead)
        } else {
            (theirs.since(ours), ClockDirection::Behind)
        };
        if by <= trust::MAX_CLOCK_SKEW {
            return self;
        }
        match &self {
            Self::Chain { source: ChainError::RotationNotValid { .. } | ChainError::Rule(_), .. }
            | Self::Certificate(CertificateError::NotYetValid | CertificateError::Expired)
            | Self::Document {
                source:
                    DocumentError::NotYetValid(_) | DocumentError::Expired(_) | DocumentError::KeyNotValid(_),
                ..
            }
            | Self::Api(ApiError::Http(crate::http::HttpError::Tls { .. })) => {
                Self::Clock { by, direction, source: Box::new(self) }
            }
            _ => self,
        }
    }
}
