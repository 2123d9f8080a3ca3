//! What goes into the core and comes out of it.

use crate::mapping::Mapping;
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

/// Where we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Who is asked.
    pub gateway: IpAddr,
    /// Our own address, as the gateway sees it.
    pub local: IpAddr,
    /// Our UDP port that others shall reach.
    pub port: u16,
}

/// Names an HTTP exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpToken(pub(crate) u64);

/// No response came: not connected, broken, too long, too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpFailure;

/// Something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// There is a mapping: a new one, or the same for longer.
    Mapped(Mapping),
    /// There is none any more.
    Lost,
    /// Nothing more will come: [`crate::PortMapper::shutdown`] is done.
    Closed,
}

/// Why a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutReason {
    /// The next packet of a search.
    Seek,
    /// A request has no answer yet.
    Retry,
    /// An HTTP exchange has told nothing.
    Http,
    /// The gateway is asked whether it still knows.
    Check,
    /// The mapping is asked for again.
    Renew,
    /// The mapping ends.
    Expiry,
    /// Nobody answered; it is tried again.
    Quiet,
    /// The mapping's end was not confirmed yet.
    Close,
}

impl TimeoutReason {
    /// A word for logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Seek => "seek",
            Self::Retry => "retry",
            Self::Http => "http",
            Self::Check => "check",
            Self::Renew => "renew",
            Self::Expiry => "expiry",
            Self::Quiet => "quiet",
            Self::Close => "close",
        }
    }
}

/// When to call [`crate::PortMapper::handle_timeout`], and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: TimeoutReason,
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this by UDP. A link-local gateway's zone is for the sender to add.
    Send {
        /// Where: the gateway, or the group that UPnP searches.
        to: SocketAddr,
        /// What.
        datagram: Vec<u8>,
    },
    /// Connect by TCP, send this, and give what comes to [`crate::PortMapper::handle_http`].
    Http {
        /// Always the gateway.
        to: SocketAddr,
        /// What.
        request: Vec<u8>,
        /// Which.
        token: HttpToken,
    },
    /// Something happened.
    Event(Event),
    /// Nothing more until then, or until something comes in.
    Timeout(Option<Timeout>),
}

/// Why a datagram counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// We are nowhere.
    #[error("no network")]
    NoNetwork,
    /// It is not from the gateway.
    #[error("foreign source")]
    ForeignSource,
    /// It is none of the three protocols'.
    #[error("malformed")]
    Malformed,
    /// It names a place that is not the gateway.
    #[error("foreign url")]
    ForeignUrl,
    /// It is about somebody else's mapping.
    #[error("not ours")]
    NotOurs,
    /// Nobody asked for it, or not now.
    #[error("unexpected")]
    Unexpected,
}

impl Refused {
    /// A word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoNetwork => "no-network",
            Self::ForeignSource => "foreign-source",
            Self::Malformed => "malformed",
            Self::ForeignUrl => "foreign-url",
            Self::NotOurs => "not-ours",
            Self::Unexpected => "unexpected",
        }
    }
}
