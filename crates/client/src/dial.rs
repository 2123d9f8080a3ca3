//! What the proxies ask of the rest: one connection to a target, or why not.

use crate::target::Target;
use std::{future::Future, time::Duration};
use tokio::io::{AsyncRead, AsyncWrite};
use wire::{Refusal, RefusalClass};

/// Why a connection was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{target}: {detail}")]
pub struct DialError {
    /// What was asked for.
    pub target: Target,
    /// Why not, for programs.
    pub reason: Refusal,
    /// Why not, for people.
    pub detail: String,
    /// When trying again can help.
    pub retry_after: Option<Duration>,
}

impl DialError {
    /// A refusal in its own words.
    #[must_use]
    pub fn new(target: Target, reason: Refusal) -> Self {
        Self { target, reason, detail: reason.to_string(), retry_after: None }
    }

    /// The reply code of SOCKS (RFC 1928 section 6).
    #[must_use]
    pub const fn socks_reply(&self) -> u8 {
        match self.reason {
            Refusal::TargetRefused => 0x05,
            Refusal::TargetUnreachable | Refusal::NameNotResolved | Refusal::Timeout => 0x04,
            reason => match reason.class() {
                RefusalClass::Denied => 0x02,
                // The site cannot be reached right now: "network unreachable".
                RefusalClass::Later => 0x03,
                RefusalClass::Malformed => 0x01,
            },
        }
    }

    /// The status of the HTTP proxy (RFC 9110 section 15).
    #[must_use]
    pub const fn http_status(&self) -> (u16, &'static str) {
        match self.reason {
            Refusal::TargetRefused | Refusal::TargetUnreachable | Refusal::NameNotResolved => {
                (502, "Bad Gateway")
            }
            Refusal::Timeout => (504, "Gateway Timeout"),
            reason => match reason.class() {
                RefusalClass::Denied => (403, "Forbidden"),
                RefusalClass::Later => (503, "Service Unavailable"),
                RefusalClass::Malformed => (502, "Bad Gateway"),
            },
        }
    }
}

/// Makes connections.
pub trait Dial: Clone + Send + Sync + 'static {
    /// A byte stream to the target. When the far side aborts, its reads and writes fail; an ordinary
    /// end is an ordinary end.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects. Has its own deadlines.
    fn dial(&self, target: Target) -> impl Future<Output = Result<Self::Stream, DialError>> + Send;
}
