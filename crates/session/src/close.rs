//! Why sessions end.

use quinn_proto::{ConnectionError, TransportErrorCode, VarInt};
use std::{fmt, time::Duration};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal, $text:literal;)*) => {
        /// Why one side closed a session (RFC 9000 section 20.2: application error codes).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum CloseCode {
            $($(#[$doc])* $name,)*
            /// A code of a newer version.
            Unknown(u32),
        }

        impl CloseCode {
            /// Every code this version knows.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u32 {
                match self { $(Self::$name => $code,)* Self::Unknown(code) => code }
            }

            /// From the wire; a code of a newer version is kept as a number.
            #[must_use]
            pub const fn from_code(code: u32) -> Self {
                match code { $($code => Self::$name,)* other => Self::Unknown(other) }
            }

            /// The metric label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* Self::Unknown(_) => "unknown" }
            }
        }

        impl fmt::Display for CloseCode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name => f.write_str($text),)*
                    Self::Unknown(code) => write!(f, "code {code}, which this version does not know"),
                }
            }
        }
    };
}

codes! {
    /// No longer needed.
    Done = 0, "done", "no longer needed";
    /// The process ends or drains.
    ShuttingDown = 1, "shutting_down", "the process is shutting down";
    /// A frame or message that does not parse.
    Malformed = 2, "malformed", "a message did not parse";
    /// A frame longer than this side takes.
    TooLong = 3, "too_long", "a frame was longer than this side takes";
    /// The certificate does not verify (any more).
    NotTrusted = 4, "not_trusted", "the certificate does not verify";
    /// The subject was struck by a revocation.
    Struck = 5, "struck", "access of this subject was revoked";
    /// The certificate has expired.
    Expired = 6, "expired", "the certificate has expired";
    /// A message that this role may not send, or not now.
    WrongRole = 7, "wrong_role", "this role may not send this message";
    /// The stream was ended or reset.
    StreamEnded = 8, "stream_ended", "the session's stream was ended";
    /// No common protocol version.
    Version = 9, "version", "no common protocol version";
    /// The peer reads too slowly.
    TooSlow = 10, "too_slow", "the peer reads too slowly";
    /// The same subject opened a newer session.
    Replaced = 11, "replaced", "the same subject opened a newer session";
    /// The peer did not answer on the session's own level.
    Silent = 12, "silent", "nothing answered in time";
    /// A table is full.
    Full = 13, "full", "a table is full";
    /// The same subject begins sessions all the time.
    TooOften = 14, "too_often", "this agent begins sessions too often; it waits before it comes again";
    /// The peer went on saying far more than its budget after it had been told to wait.
    Flooding = 15, "flooding", "this agent says far more than a session may; it waits before it comes again";
}

impl CloseCode {
    pub(crate) fn var_int(self) -> VarInt {
        VarInt::from_u32(self.code())
    }
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LostReason {
    /// This side closed it.
    ClosedHere(CloseCode),
    /// The peer closed it.
    ClosedByPeer(CloseCode),
    /// This side refused the peer in the handshake; the TLS alert that was sent (RFC 8446
    /// section 6.2).
    PeerRefusedHere(u8),
    /// The peer refused this side in the handshake; the TLS alert that came.
    RefusedByPeer(u8),
    /// The peer took no new sessions.
    Busy,
    /// Nothing came for too long.
    TimedOut,
    /// The peer has forgotten the session, most likely by a restart.
    Reset,
    /// The peer broke QUIC or was broken by it; the error code (RFC 9000 section 20.1).
    Transport(u64),
    /// No common version of QUIC.
    NoCommonVersion,
}

/// First error code of a failed TLS handshake (RFC 9001 section 4.8).
const CRYPTO_ERROR: u64 = 0x100;
/// RFC 9000 section 20.1.
const CONNECTION_REFUSED: u64 = 0x2;

/// What a close says beside its code (RFC 9000 section 19.19, the reason phrase): its label, and when to come back.
/// An older agent reads the code alone.
pub(crate) fn phrase(code: CloseCode, retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(after) => format!("{}{RETRY_AFTER}{}", code.label(), after.as_millis()),
        None => code.label().to_owned(),
    }
}

const RETRY_AFTER: &str = "; retry-after-ms=";

/// When the peer said to come back; whoever reads it bounds it.
pub(crate) fn retry_after(error: &ConnectionError) -> Option<Duration> {
    let ConnectionError::ApplicationClosed(close) = error else { return None };
    let (_, millis) = std::str::from_utf8(&close.reason).ok()?.split_once(RETRY_AFTER)?;
    millis.parse().ok().map(Duration::from_millis)
}

impl LostReason {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ClosedHere(_) => "closed_here",
            Self::ClosedByPeer(_) => "closed_by_peer",
            Self::PeerRefusedHere(_) => "peer_refused_here",
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::Busy => "busy",
            Self::TimedOut => "timed_out",
            Self::Reset => "reset",
            Self::Transport(_) => "transport",
            Self::NoCommonVersion => "no_common_version",
        }
    }

    pub(crate) fn of(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::VersionMismatch => Self::NoCommonVersion,
            ConnectionError::TransportError(error) => match alert(error.code) {
                Ok(alert) => Self::PeerRefusedHere(alert),
                Err(code) => Self::Transport(code),
            },
            ConnectionError::ConnectionClosed(close) => match alert(close.error_code) {
                Ok(alert) => Self::RefusedByPeer(alert),
                Err(CONNECTION_REFUSED) => Self::Busy,
                Err(code) => Self::Transport(code),
            },
            ConnectionError::ApplicationClosed(close) => {
                let code = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
                Self::ClosedByPeer(CloseCode::from_code(code))
            }
            ConnectionError::Reset => Self::Reset,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::ClosedHere(CloseCode::Done),
            ConnectionError::CidsExhausted => Self::Busy,
        }
    }
}

fn alert(code: TransportErrorCode) -> Result<u8, u64> {
    let code = u64::from(code);
    code.checked_sub(CRYPTO_ERROR).and_then(|alert| u8::try_from(alert).ok()).ok_or(code)
}

/// The alerts of RFC 8446 section 6.2 that this crate's verifiers cause.
const fn alert_words(alert: u8) -> &'static str {
    match alert {
        42 => "the certificate is malformed",
        44 => "the certificate was revoked",
        45 => "the certificate has expired or is not valid yet; is a clock off?",
        48 => "the certificate was issued by a key that is not trusted here, or for another installation",
        49 => "the certificate's role or name is not accepted here",
        116 => "a certificate is required",
        120 => "the application protocol is another one",
        _ => "the TLS handshake failed",
    }
}

impl fmt::Display for LostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedHere(code) => write!(f, "closed by this side: {code}"),
            Self::ClosedByPeer(code) => write!(f, "closed by the peer: {code}"),
            Self::PeerRefusedHere(alert) => {
                write!(f, "the peer was refused: {} (alert {alert})", alert_words(*alert))
            }
            Self::RefusedByPeer(alert) => {
                write!(f, "the peer refused this side: {} (alert {alert})", alert_words(*alert))
            }
            Self::Busy => f.write_str("the peer takes no new sessions right now"),
            Self::TimedOut => f.write_str("nothing came in time"),
            Self::Reset => f.write_str("the peer has forgotten the session; it was probably restarted"),
            Self::Transport(code) => write!(f, "QUIC transport error {code:#x}"),
            Self::NoCommonVersion => f.write_str("no common version of QUIC"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_and_labels_are_unique_and_round_trip() {
        let codes: BTreeSet<u32> = CloseCode::ALL.iter().map(|code| code.code()).collect();
        let labels: BTreeSet<&str> = CloseCode::ALL.iter().map(|code| code.label()).collect();
        assert_eq!((codes.len(), labels.len()), (CloseCode::ALL.len(), CloseCode::ALL.len()));
        for code in CloseCode::ALL {
            assert_eq!(CloseCode::from_code(code.code()), *code);
        }
        assert_eq!(CloseCode::from_code(9_999), CloseCode::Unknown(9_999));
    }
}
