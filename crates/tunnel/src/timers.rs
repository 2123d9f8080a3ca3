//! WireGuard's timers (white paper, section 6.1), on the caller's clock. gotatun's own never fire.

use std::time::Duration;

/// The initiator makes a new session when it sends on one of this age.
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session of this age neither seals nor opens.
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long a handshake is tried.
pub(crate) const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long to wait for the answer to one initiation.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after data came in something must go back.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The initiator makes a new session when it receives on one of this age (white paper, section 6.2).
pub(crate) const REKEY_ON_RECEIVE: Duration = Duration::from_secs(180 - 10 - 5);
/// Data went out and nothing came back for this long: a new handshake (white paper, section 6.5).
pub(crate) const SILENCE: Duration = Duration::from_secs(10 + 5);
/// Retries are spread over a third of a second (white paper, section 6.1).
pub(crate) const MAX_JITTER: Duration = Duration::from_millis(333);
/// At most 50 initiations a second of one peer over its path, the kernel module's figure.
pub(crate) const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// How long a peer that was answered may take to prove its key. Ours: as long as silence may last on a
/// live session.
pub(crate) const UNPROVEN_LIFETIME: Duration = SILENCE;
/// How long a peer that came to us is kept after its path went: as long as its session lives, so that a
/// roaming client finds its flows again.
pub(crate) const PATHLESS_LIFETIME: Duration = REJECT_AFTER_TIME;

/// Data went by the relay and nothing came back for this long: its PoP may have restarted. Ours.
pub(crate) const QUIET: Duration = Duration::from_millis(600);
/// Told again after as long, then twice the time, up to this.
pub(crate) const QUIET_LAST: Duration = Duration::from_secs(30);

/// Why the tunnels want to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeoutReason {
    /// A peer that was answered has not proven its key.
    Unproven,
    /// A peer without a path is given up.
    Pathless,
    /// A handshake went unanswered.
    HandshakeRetry,
    /// Data came in and nothing went back.
    Keepalive,
    /// Data went out and nothing came back.
    Silence,
    /// A session is past its life.
    SessionEnd,
    /// The relay carries data one way only.
    RelayQuiet,
    /// A direct path is to be found, asked or left.
    Direct,
}

impl TimeoutReason {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unproven => "unproven",
            Self::Pathless => "pathless",
            Self::HandshakeRetry => "handshake_retry",
            Self::Keepalive => "keepalive",
            Self::Silence => "silence",
            Self::SessionEnd => "session_end",
            Self::RelayQuiet => "relay_quiet",
            Self::Direct => "direct",
        }
    }
}
