//! What a session core gives to its owner.

use crate::close::LostReason;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use trust::Certificate;

/// Names a session within one [`Dialler`](crate::Dialler) or [`Acceptor`](crate::Acceptor); never
/// reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub(crate) u64);

impl SessionId {
    /// The number, for routes that travel as one.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// From a number that [`as_u64`](Self::as_u64) gave. A number of no session names no session: calls
    /// with it answer [`SendError::NoSession`].
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// One thing for the owner to do.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// Something happened.
    Event(Event),
    /// Nothing more to do before `at`, unless input comes.
    Timeout {
        /// When to call `handle_timeout`.
        at: Instant,
        /// What will be due.
        reason: &'static str,
    },
}

/// Something happened to a session.
#[derive(Debug)]
pub enum Event {
    /// The handshake is complete and the peer's certificate was verified. A dialler may still learn by
    /// [`Event::Lost`] that its own certificate was refused: in TLS 1.3 the server judges last.
    Connected {
        /// Which.
        id: SessionId,
        /// Who the peer is.
        peer: Box<Certificate>,
        /// Where the peer is, as this side sees it.
        remote: SocketAddr,
    },
    /// A whole frame came.
    Frame {
        /// On which session.
        id: SessionId,
        /// The frame's type.
        frame_type: u16,
        /// The frame's body.
        body: Vec<u8>,
    },
    /// The peer's packets come from another address now (acceptor only). QUIC has moved, and validates the
    /// new path by itself; nothing else may believe the address before it has proven it.
    AddressChanged {
        /// Which.
        id: SessionId,
        /// The new address.
        remote: SocketAddr,
    },
    /// The session is over; its id means nothing any more. Comes once for each session that was dialled
    /// and for each that was [`Connected`](Event::Connected).
    Lost {
        /// Which.
        id: SessionId,
        /// Why.
        reason: LostReason,
        /// When the peer said to come back, if it did; whoever heeds it bounds it.
        retry_after: Option<Duration>,
    },
}

/// A frame could not be queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum SendError {
    /// No such session, or it is over.
    #[error("the session is over")]
    NoSession,
    /// The handshake is not complete.
    #[error("the session is not up yet")]
    NotUp,
    /// The session's queue is full: the peer reads too slowly.
    #[error("the session's send queue is full")]
    Full,
    /// The peer takes no frame of this length.
    #[error("the frame is longer than the peer takes")]
    TooLong,
}

impl SendError {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoSession => "no_session",
            Self::NotUp => "not_up",
            Self::Full => "full",
            Self::TooLong => "too_long",
        }
    }
}

/// A session could not be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum DialError {
    /// The address has no port, or is no one host's.
    #[error("expected the address and port of a PoP, got {0}")]
    Address(SocketAddr),
    /// Too many sessions at once.
    #[error("this agent has as many sessions as it may have; close one first")]
    Full,
    /// The own certificate or key cannot be used.
    #[error("the own certificate cannot be used for a handshake; enrol this agent again")]
    Identity,
}

/// How far away a timeout is when nothing at all is due.
pub(crate) const NOTHING_DUE: Duration = Duration::from_secs(24 * 3600);
