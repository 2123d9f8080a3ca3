//! What the tunnels need from a WireGuard engine: the Noise handshake and the transport cipher of one
//! peer, nothing about time, paths or queues. The simulation replaces this and keeps the rest.

use crate::{WireGuardPublicKey, tunnels::TunnelError};
use wire::{WG_INITIATION_LEN, WG_RESPONSE_LEN};

/// The index by which this side names one session of one peer (WireGuard white paper, section 5.4):
/// the receiver index of every packet that comes in on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalIndex(pub u32);

/// A handshake initiation this side made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initiation {
    /// The message.
    pub bytes: [u8; WG_INITIATION_LEN],
    /// The index the answer will come back to.
    pub index: LocalIndex,
}

/// A handshake response this side made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The message.
    pub bytes: [u8; WG_RESPONSE_LEN],
    /// The new session's index.
    pub index: LocalIndex,
}

/// Why a transport packet was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum OpenError {
    /// The tag does not verify.
    #[error("the packet was not sealed by the peer")]
    Forged,
    /// The counter was seen before or is too old (white paper, section 5.4.6).
    #[error("the packet was received before")]
    Replayed,
    /// The engine holds no such session.
    #[error("the session is gone")]
    NoSession,
}

/// What takes opened packets: the inner packet, to keep or to change, or why there is none.
pub type OpenSink<'a> = dyn FnMut(Result<&mut Vec<u8>, OpenError>) + 'a;

/// A WireGuard engine. One value serves all peers of one static key; `Peer` is what it keeps for one.
///
/// Packets go in batches, so that an engine can seal into one buffer or on several cores later.
pub trait Engine {
    /// The state of one peer.
    type Peer;

    /// This side's public key.
    fn public_key(&self) -> WireGuardPublicKey;

    /// State for a peer without any session.
    fn new_peer(&self, key: &WireGuardPublicKey) -> Self::Peer;

    /// A fresh handshake initiation. Earlier sessions stay usable.
    fn initiate(&self, peer: &mut Self::Peer) -> Initiation;

    /// Answers an initiation of this very peer. A refused one changes nothing.
    ///
    /// # Errors
    /// Not by this peer's key, replayed, or malformed.
    fn respond(&self, peer: &mut Self::Peer, initiation: &[u8]) -> Result<Response, TunnelError>;

    /// Takes the answer to one of the last two initiations; the new session is the one that seals.
    ///
    /// # Errors
    /// Not an answer by this peer to such an initiation.
    fn finish(&self, peer: &mut Self::Peer, response: &[u8]) -> Result<LocalIndex, TunnelError>;

    /// Seals each packet under the newest proven session and hands it to `out`, in order. An empty packet
    /// is a keepalive. Returns how many were sealed; fewer than given when the session is used up.
    fn seal(&self, peer: &mut Self::Peer, packets: &[&[u8]], out: &mut dyn FnMut(&[u8])) -> usize;

    /// Opens each transport packet and hands the inner packet (empty for a keepalive) or the reason to
    /// `out`, in order.
    fn open(&self, peer: &mut Self::Peer, packets: &[&[u8]], out: &mut OpenSink<'_>);
}
