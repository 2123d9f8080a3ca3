//! The words that flows and their owner share: numbers, refusals, events, outputs.

use crate::craft::Unreachable;
use std::net::SocketAddr;
use std::time::Instant;

/// Which tunnel a packet came by and goes to; the owner's number. Flows of different links are strangers
/// even when their addresses are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// A flow's number inside one [`Flows`]; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub(crate) u64);

impl FlowId {
    /// The number, for a log line.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum FlowError {
    /// No such flow: never was, has ended, or the link was dropped.
    #[error("there is no such flow; it has ended")]
    Unknown,
    /// The table, or this link's part of it, is full.
    #[error("too many flows are open already")]
    Full,
    /// The two addresses are in use by another flow, of different families, or no unicast addresses.
    #[error("the addresses are in use or cannot be dialled")]
    Address,
    /// The call does not fit the state: accepting what is not held, writing after closing.
    #[error("the flow is not in a state for this")]
    State,
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseReason {
    /// Both sides said all they had and it arrived.
    Finished,
    /// The peer reset it.
    Reset,
    /// The peer refused the connection.
    Refused,
    /// An ICMP error answered the SYN.
    Unreachable(Unreachable),
    /// Nothing came back.
    TimedOut,
}

impl CloseReason {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Unreachable(Unreachable::Prohibited) => "prohibited",
            Self::Unreachable(Unreachable::Host | Unreachable::Port) => "unreachable",
            Self::TimedOut => "timed_out",
        }
    }
}

/// What happened to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants a connection. The SYN is held: accept or reject.
    Incoming {
        /// From where.
        src: SocketAddr,
        /// To where.
        dst: SocketAddr,
    },
    /// The connection stands.
    Established,
    /// There is something to read, or the end. Comes again only after [`crate::Flows::read`] found nothing.
    Readable,
    /// There is room again, after [`crate::Flows::write`] took less than it was given.
    Writable,
    /// The flow is gone; its number means nothing any more. What was unread after a reset is lost.
    Closed(CloseReason),
}

/// What [`crate::Flows::read`] gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Bytes(usize),
    /// Nothing yet.
    Empty,
    /// The peer has no more.
    End,
}

/// Why something that came in went no further, without being an error of its packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// A SYN sent again while the first is held.
    Held,
    /// No room for another flow.
    Full,
    /// A segment of no flow, reset.
    Stray,
    /// A segment of no flow, not even reset: too many of them.
    StrayUnanswered,
    /// Not TCP.
    NotTcp,
}

impl DropReason {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Full => "full",
            Self::Stray => "stray",
            Self::StrayUnanswered => "stray_unanswered",
            Self::NotTcp => "not_tcp",
        }
    }
}

/// Why the flows want to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeoutReason {
    /// A held SYN that nobody answered.
    Held,
    /// A connection attempt.
    Connect,
    /// TCP's own timers: retransmission, delayed acknowledgement, window probe.
    Tcp,
    /// Data that nobody acknowledges, or a flow that nobody uses.
    Dead,
}

impl TimeoutReason {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Held => "held_syn",
            Self::Connect => "connect",
            Self::Tcp => "tcp",
            Self::Dead => "dead_flow",
        }
    }
}

/// When to call [`crate::Flows::handle_timeout`], and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: TimeoutReason,
}

/// What the flows want done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this IP packet by this link.
    Packet {
        /// The link.
        link: LinkId,
        /// The packet, at most [`crate::MAX_FLOW_MTU`] bytes.
        bytes: Vec<u8>,
    },
    /// Something happened.
    Event {
        /// The flow's link.
        link: LinkId,
        /// The flow.
        flow: FlowId,
        /// What.
        event: Event,
    },
    /// Nothing more until then, or until something comes in.
    Timeout(Option<Timeout>),
}
