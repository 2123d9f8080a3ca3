//! What an agent core gives to its owner.

use session::{LostReason, SendError, SessionId};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{ChannelId, ControlReply, PopId, Refusal};

/// One thing for the shell to do.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// Write this to the state directory, atomically. What was in force before stays on disk until then.
    Persist {
        /// Which document.
        what: Persisted,
        /// Its bytes: DER for the certificate, text for everything else.
        bytes: Vec<u8>,
    },
    /// Look up `HOST:PORT` and answer by [`Agent::handle_resolved`](crate::Agent::handle_resolved), with
    /// no address when there is none.
    Resolve {
        /// Whose address.
        pop: PopId,
        /// What to look up.
        name: String,
    },
    /// Something happened.
    Event(AgentEvent),
    /// Nothing more to do before `at`, unless input comes.
    Timeout {
        /// When to call `handle_timeout`.
        at: Instant,
        /// What will be due.
        reason: &'static str,
    },
}

/// What the state directory holds of an agent, apart from its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Persisted {
    /// The trust chain's text.
    Chain,
    /// The certificate, DER.
    Certificate,
    /// The grant's text.
    Grant,
    /// The slice's text.
    Slice,
    /// Revocation entries, one text a line.
    Revocations,
    /// Milliseconds since 1970, decimal: time was never before this.
    TimeFloor,
    /// Milliseconds, decimal: over how long the PoP spreads a crowd.
    ReconnectWindow,
}

/// The number of a control request; comes back with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestSeq(pub(crate) u64);

/// Something happened.
#[derive(Debug)]
pub enum AgentEvent {
    /// A PoP welcomed this agent.
    Registered {
        /// The session.
        session: SessionId,
        /// Which PoP.
        pop: PopId,
        /// This agent's address as that PoP sees it.
        observed: SocketAddr,
    },
    /// A PoP sees this agent at another address now: channels over it need a relay `Hello` from there.
    ObservedChanged {
        /// The session.
        session: SessionId,
        /// Which PoP.
        pop: PopId,
        /// The new address.
        observed: SocketAddr,
    },
    /// Another session to the same PoP carries on: by TCP where UDP stopped, by UDP where it goes again. Its
    /// channels are to be moved to it, and a relay `Hello` sent on each; [`AgentEvent::Lost`] of the old one
    /// follows.
    Switched {
        /// The old session.
        from: SessionId,
        /// The new one.
        to: SessionId,
        /// Which PoP.
        pop: PopId,
        /// The PoP's address on the new one.
        relay: SocketAddr,
    },
    /// A PoP does not answer a question that was asked because nothing comes back through it, or it drains and another
    /// one is there. Its session lasts some time yet; channels of it are better asked for anew now.
    Doubted {
        /// The session.
        session: SessionId,
        /// Which PoP.
        pop: PopId,
    },
    /// A session ended, or a PoP could not be reached. Channels of the session are gone.
    Lost {
        /// The session.
        session: SessionId,
        /// Which PoP.
        pop: PopId,
        /// Why.
        reason: LostReason,
    },
    /// A client wants in (connectors). Answer by [`Agent::accept`](crate::Agent::accept) or
    /// [`Agent::refuse`](crate::Agent::refuse).
    Introduce {
        /// Where it came from, and where the answer goes.
        session: SessionId,
        /// The PoP's address: where the channel's relay frames come from and go to.
        relay: SocketAddr,
        /// The introduction.
        introduce: wire::Introduce,
    },
    /// A connector accepted (clients).
    Opened {
        /// The session that carries it.
        session: SessionId,
        /// The PoP's address: where the channel's relay frames come from and go to.
        relay: SocketAddr,
        /// What came; `seq` is what [`Agent::open`](crate::Agent::open) gave.
        opened: wire::Opened,
    },
    /// An introduction failed (clients).
    OpenRefused {
        /// What [`Agent::open`](crate::Agent::open) gave.
        seq: u64,
        /// Why.
        reason: Refusal,
        /// When to come back, in milliseconds; 0 when coming back does not help.
        retry_after_ms: u32,
    },
    /// A channel is gone.
    ChannelClosed {
        /// On which session.
        session: SessionId,
        /// This side's id of it.
        channel: ChannelId,
        /// Why.
        reason: Refusal,
    },
    /// The answer to [`Agent::request`](crate::Agent::request).
    ControlReply {
        /// Which request.
        seq: RequestSeq,
        /// The controller's answer, never [`ControlReply::Refused`].
        reply: ControlReply,
    },
    /// A request got no answer or a refusal.
    RequestFailed {
        /// Which request.
        seq: RequestSeq,
        /// Why.
        reason: Refusal,
        /// It is of no use to ask again sooner.
        retry_after: Duration,
    },
    /// The grant or the certificate is a newer one.
    GrantChanged,
    /// The slice is a newer one.
    SliceChanged,
    /// More is struck than before.
    RevocationsChanged,
    /// The trust bundle is another one: what a key signed that has left it counts no more.
    BundleChanged,
    /// A controller signed the time: what is taken for it may have changed.
    TimeAnchored,
    /// The control plane became fresh, stale or isolated. Connectors are told; a client is asked.
    FreshnessChanged(crate::Freshness),
}

/// An introduction could not be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum OpenError {
    /// The slice lists no PoP.
    #[error("no PoP is known; the slice lists none")]
    NoPop,
    /// Too many are under way.
    #[error("too many introductions are under way; try again shortly")]
    Full,
    /// The sealed body or the initiation is longer than the protocol allows.
    #[error("the introduction is longer than a PoP takes")]
    TooLong,
}

/// A request or message could not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum RequestError {
    /// Too many are under way.
    #[error("too many control requests are under way; try again shortly")]
    Full,
    /// The session does not take it.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// What an agent did and refused. Counts since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentStats {
    /// Sessions dialled.
    pub dials: u64,
    /// Welcomes received.
    pub registrations: u64,
    /// Control requests sent for the first time.
    pub requests: u64,
    /// Control requests sent again.
    pub retries: u64,
    /// Control replies that did not open or answered nothing.
    pub replies_refused: u64,
    /// Beacons that did not verify.
    pub beacons_refused: u64,
    /// Beacons too far ahead of the own time to be believed.
    pub beacons_ahead: u64,
    /// Nonces of ours that a controller signed, and that were believed.
    pub anchors: u64,
    /// Signed nonces that were not: another's, or a time that nobody else agrees with.
    pub anchors_refused: u64,
    /// Slices that did not verify, were for somebody else, or older than the one held.
    pub slices_refused: u64,
    /// Grants and certificates that did not verify or were older.
    pub grants_refused: u64,
    /// Trust chains that did not verify or were older.
    pub chains_refused: u64,
    /// Revocation entries that did not verify.
    pub revocations_refused: u64,
    /// Questions for entries that a beacon spoke of and that had not come.
    pub revocations_asked: u64,
    /// Messages of a newer version, skipped.
    pub unknown_messages: u64,
    /// Messages that did not parse or came out of turn; each ended a session.
    pub malformed_messages: u64,
}
