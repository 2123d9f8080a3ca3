//! Ways to a peer.

use std::net::SocketAddr;
use wire::{ChannelId, PopId, RELAY_HEADER_LEN, RelayKind, encode_relay_header};

/// One way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Path {
    /// Through a PoP, on a channel that it told us inside our session.
    Relay {
        /// The PoP.
        pop: PopId,
        /// Our id of the channel.
        channel: ChannelId,
    },
    /// From our socket to the peer's.
    Direct {
        /// The peer's address as we see it.
        remote: SocketAddr,
    },
}

impl Path {
    /// A relay path.
    #[must_use]
    pub const fn relay(pop: PopId, channel: ChannelId) -> Self {
        Self::Relay { pop, channel }
    }

    /// A direct path.
    #[must_use]
    pub const fn direct(remote: SocketAddr) -> Self {
        Self::Direct { remote }
    }

    /// How many bytes go in front of a WireGuard packet on this path.
    #[must_use]
    pub const fn headroom(self) -> usize {
        match self {
            Self::Relay { .. } => RELAY_HEADER_LEN,
            Self::Direct { .. } => 0,
        }
    }

    /// A WireGuard packet as the datagram that travels on this path.
    #[must_use]
    pub(crate) fn frame(self, wireguard: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(self.headroom() + wireguard.len());
        match self {
            Self::Relay { channel, .. } => {
                datagram.extend_from_slice(&encode_relay_header(RelayKind::Data, channel));
            }
            Self::Direct { .. } => {}
        }
        datagram.extend_from_slice(wireguard);
        datagram
    }
}
