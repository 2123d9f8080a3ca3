//! The words that tunnels and their owner share: refusals, events, outputs, counts.

use super::{MAX_INNER_PACKET, MAX_PEERS};
use crate::bind::BindMessage;
use crate::peer::PeerId;
use crate::timers::TimeoutReason;
use crate::{MoveReason, Path, WireGuardPublicKey};
use std::time::{Duration, Instant};
use wire::WG_RESPONSE_LEN;

/// Why a peer was not added or a handshake not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum TunnelError {
    /// The table of peers is full.
    #[error("{MAX_PEERS} peers are connected, which is the most; try again when one has left")]
    Full,
    /// Nobody has this number.
    #[error("there is no such peer")]
    UnknownPeer,
    /// The path belongs to another peer.
    #[error("the path already belongs to another peer")]
    PathTaken,
    /// Not a handshake message of the expected kind.
    #[error("not a WireGuard handshake message of the expected kind")]
    Malformed,
    /// The message was made with another static key than the one expected.
    #[error("the WireGuard handshake was made with another key than the one announced")]
    WrongKey,
    /// The message does not verify.
    #[error("the WireGuard handshake does not verify")]
    Forged,
    /// An initiation no newer than one already seen.
    #[error("the WireGuard initiation was seen before")]
    Replayed,
    /// A response to nothing that was asked.
    #[error("the WireGuard response answers no initiation of ours")]
    NotAwaited,
}

impl TunnelError {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::UnknownPeer => "unknown_peer",
            Self::PathTaken => "path_taken",
            Self::Malformed => "malformed",
            Self::WrongKey => "wrong_key",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::NotAwaited => "not_awaited",
        }
    }
}

/// Why an inner packet was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum SealError {
    /// Nobody has this number.
    #[error("there is no such peer")]
    UnknownPeer,
    /// Empty, or longer than [`MAX_INNER_PACKET`].
    #[error("an inner packet has 1 to {MAX_INNER_PACKET} bytes")]
    Length,
    /// The peer's queue or the outputs are full.
    #[error("too much waits for this peer already")]
    Full,
}

/// Why something that came in went no further. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// No peer has the path it came by.
    UnknownPath,
    /// Not a WireGuard message.
    Malformed,
    /// A session that is gone or never was.
    UnknownSession,
    /// The tag does not verify.
    Forged,
    /// Received before.
    Replayed,
    /// A handshake that is not to be answered here.
    Handshake,
    /// More handshakes than one peer may make.
    HandshakeTooOften,
    /// Sealed by the peer, but not an IP packet.
    NotIp,
    /// The outputs were not drained.
    Full,
    /// The handshake they waited for never came about.
    GaveUp,
}

impl DropReason {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownPath => "unknown_path",
            Self::Malformed => "malformed",
            Self::UnknownSession => "unknown_session",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
            Self::Handshake => "handshake",
            Self::HandshakeTooOften => "handshake_too_often",
            Self::NotIp => "not_ip",
            Self::Full => "full",
            Self::GaveUp => "gave_up",
        }
    }
}

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Whom it is for.
    pub peer: PeerId,
    /// By which path; names the PoP whose address it goes to.
    pub path: Path,
    /// The whole UDP payload, the path's header included.
    pub bytes: Vec<u8>,
}

/// Names a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub(crate) u64);

/// Packets and their bytes, the path's header included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// How many.
    pub packets: u64,
    /// How long together.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

/// What went and came by each kind of path since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Sent by relays.
    pub relay_sent: Count,
    /// Taken from relays.
    pub relay_received: Count,
    /// Sent straight to peers.
    pub direct_sent: Count,
    /// Taken straight from peers.
    pub direct_received: Count,
}

/// Something a peer's owner wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The first valid packet came by this path: the peer holds its key, and packets go there now.
    Proven {
        /// Who.
        peer: PeerId,
        /// The path in use from now on.
        path: Path,
        /// The path in use before, which can be given back.
        replaced: Option<Path>,
    },
    /// An answer went by this path and the peer never used it: it can be given back.
    Unused {
        /// Who.
        peer: PeerId,
        /// The path.
        path: Path,
    },
    /// Data takes another way now. What [`crate::Tunnels::way_of`] says.
    Moved {
        /// Who.
        peer: PeerId,
        /// The new way; none when there is none left.
        path: Option<Path>,
        /// Why.
        reason: MoveReason,
    },
    /// The longest inner packet that goes by the way in use is another one now; what [`crate::Tunnels::mtu_of`] says.
    Mtu {
        /// Who.
        peer: PeerId,
        /// In bytes, [`crate::BASE_MTU`] to [`MAX_INNER_PACKET`].
        mtu: usize,
    },
    /// A ping was answered.
    Pong {
        /// By whom.
        peer: PeerId,
        /// Which.
        ping: PingId,
        /// How long it took.
        round_trip: Duration,
    },
    /// Data went out by the relay and nothing came back for a while, or a direct path went silent, perhaps with this
    /// machine's address: the session to that PoP is worth a question.
    Quiet {
        /// Who.
        peer: PeerId,
        /// The relay path.
        path: Path,
    },
    /// A handshake over the relay went unanswered once: the channel is probably gone.
    Unanswered {
        /// Who.
        peer: PeerId,
    },
    /// A handshake was tried for a minute and a half; what waited was dropped.
    GaveUp {
        /// Who.
        peer: PeerId,
    },
    /// A peer that came to us never proved its key, or lost its path and did not come back. Its number
    /// means nothing any more.
    Removed {
        /// Who it was.
        peer: PeerId,
        /// Its key.
        key: WireGuardPublicKey,
    },
}

/// When to call [`crate::Tunnels::handle_timeout`], and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: TimeoutReason,
}

/// What the tunnels want done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Transmit(Transmit),
    /// An IP packet that the peer sealed; its length is the one its header says.
    Inner {
        /// Who sealed it.
        peer: PeerId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// What the peer says about addresses inside the tunnel.
    Bind {
        /// Who says it.
        peer: PeerId,
        /// What.
        message: BindMessage,
    },
    /// Something happened.
    Event(Event),
    /// Nothing more until then, or until something comes in.
    Timeout(Option<Timeout>),
}

impl Output {
    pub(super) const fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Transmit(transmit) => Some(transmit.peer),
            Self::Inner { peer, .. } | Self::Bind { peer, .. } => Some(*peer),
            Self::Event(_) | Self::Timeout(_) => None,
        }
    }
}

/// An initiation that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// Whose it was. A peer that was here before keeps its number.
    pub peer: PeerId,
    /// The answer, for `Accept`.
    pub response: [u8; WG_RESPONSE_LEN],
}
