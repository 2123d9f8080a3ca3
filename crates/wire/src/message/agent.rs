//! What agents (clients and connectors) and PoPs say to each other.

use super::{
    Document, MAX_SEALED_OPEN, MAX_SEALED_REPLY, MAX_SEALED_REQUEST, WG_INITIATION_LEN, WG_RESPONSE_LEN,
};
use crate::{Bounded, ChannelId, ChannelSecret, ConnectorId, ControllerId, Refusal};
use minicbor::{Decode, Encode};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// First message of a session, in the flight that ends the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Hello {
    /// Oldest protocol version the agent speaks.
    #[n(0)]
    pub oldest: u16,
    /// Newest protocol version the agent speaks.
    #[n(1)]
    pub newest: u16,
    /// Build of the agent, for people.
    #[n(2)]
    pub build: Bounded<64>,
}

/// Sent once per keepalive interval while a session is up.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Default)]
#[cbor(map)]
pub struct Keepalive {}

/// A client asks to be introduced to a connector.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Open {
    /// The client's number for this request; comes back in the answer.
    #[n(0)]
    pub seq: u64,
    /// Whom to.
    #[n(1)]
    pub connector: ConnectorId,
    /// [`OpenBody`], sealed to the connector's key; the PoP cannot read it.
    #[n(2)]
    pub sealed: Bounded<MAX_SEALED_OPEN>,
    /// The WireGuard handshake initiation, [`WG_INITIATION_LEN`] bytes.
    #[n(3)]
    pub initiation: Bounded<WG_INITIATION_LEN>,
}

/// The part of an introduction that only the connector reads.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenBody {
    /// The grant, as its PASETO text.
    #[n(0)]
    pub grant: Bounded<MAX_SEALED_OPEN>,
    /// The client's WireGuard public key of this run (X25519).
    #[cbor(n(1), with = "minicbor::bytes")]
    pub client_key: [u8; 32],
    /// Ed25519 signature by the device key over the domain-separated
    /// (connector id, WireGuard key, SHA-256 of the initiation).
    #[cbor(n(2), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

/// A connector accepts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Accept {
    /// The PoP's number of the introduction.
    #[n(0)]
    pub intro: u64,
    /// The WireGuard handshake response, [`WG_RESPONSE_LEN`] bytes.
    #[n(1)]
    pub response: Bounded<WG_RESPONSE_LEN>,
    /// The client's address inside the tunnel.
    #[n(2)]
    pub inner_v4: Ipv4Addr,
    /// The client's address inside the tunnel.
    #[n(3)]
    pub inner_v6: Ipv6Addr,
}

/// A connector refuses.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refuse {
    /// The PoP's number of the introduction.
    #[n(0)]
    pub intro: u64,
    /// Why.
    #[n(1)]
    pub reason: Refusal,
    /// When to come back, in milliseconds; 0 when coming back does not help.
    #[n(2)]
    pub retry_after_ms: u32,
}

/// A sealed control frame for whichever controller is attached.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ToController {
    /// The agent's number for this request.
    #[n(0)]
    pub seq: u64,
    /// A sealed [`ControlRequest`] frame.
    #[n(1)]
    pub sealed: Bounded<MAX_SEALED_REQUEST>,
}

/// Gives a relay channel back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CloseChannel {
    /// The sender's own id of the channel.
    #[n(0)]
    pub channel: ChannelId,
}

/// A connector lacks strikes that a beacon's head speaks of. The answer is [`Revocations`]: what the PoP holds
/// of these, in the order of their numbers, at most [`MAX_DOCUMENTS`]; whoever lacks more asks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetRevocations {
    /// Whose strikes.
    #[n(0)]
    pub signer: ControllerId,
    /// The first number that is wanted.
    #[n(1)]
    pub first: u64,
    /// The last.
    #[n(2)]
    pub last: u64,
}

/// The session is registered.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Welcome {
    /// The version both speak.
    #[n(0)]
    pub version: u16,
    /// The agent's address as this PoP sees it.
    #[n(1)]
    pub observed: SocketAddr,
    /// How often to send [`Keepalive`], in milliseconds.
    #[n(2)]
    pub keepalive_ms: u32,
    /// Over how many milliseconds to spread a reconnect: sessions ÷ admit rate.
    #[n(3)]
    pub reconnect_window_ms: u32,
    /// The newest beacon, if the PoP has one.
    #[n(4)]
    pub beacon: Option<Document>,
    /// All revocation entries this PoP holds; connectors get them, clients none.
    #[n(5)]
    pub revocations: Vec<Document>,
    /// How many relay channels this PoP holds for the agent from an earlier session. None: whatever the agent
    /// remembers of channels here is gone.
    #[n(6)]
    #[cbor(default)]
    pub channels: u32,
}

/// The answer to [`Keepalive`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Alive {
    /// The agent's address as this PoP sees it.
    #[n(0)]
    pub observed: SocketAddr,
    /// The newest beacon, if the PoP has one.
    #[n(1)]
    pub beacon: Option<Document>,
    /// Over how many milliseconds to spread a reconnect by now; a PoP of an older version does not say.
    #[n(2)]
    pub reconnect_window_ms: Option<u32>,
}

/// A beacon for a connector.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BeaconPush {
    /// The beacon.
    #[n(0)]
    pub beacon: Document,
}

/// A client wants in.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Introduce {
    /// The PoP's number; comes back in [`Accept`] or [`Refuse`].
    #[n(0)]
    pub intro: u64,
    /// The connector's id of the relay channel.
    #[n(1)]
    pub channel: ChannelId,
    /// The connector's key for address challenges on that channel.
    #[n(2)]
    pub secret: ChannelSecret,
    /// [`OpenBody`], sealed to this connector.
    #[n(3)]
    pub sealed: Bounded<MAX_SEALED_OPEN>,
    /// The WireGuard handshake initiation.
    #[n(4)]
    pub initiation: Bounded<WG_INITIATION_LEN>,
    /// Where this PoP sees the client; a PoP of an older version does not say.
    #[n(5)]
    pub client_seen: Option<SocketAddr>,
}

/// The tunnel can be used.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Opened {
    /// The client's number of the request.
    #[n(0)]
    pub seq: u64,
    /// The client's id of the relay channel.
    #[n(1)]
    pub channel: ChannelId,
    /// The client's key for address challenges on that channel.
    #[n(2)]
    pub secret: ChannelSecret,
    /// The WireGuard handshake response.
    #[n(3)]
    pub response: Bounded<WG_RESPONSE_LEN>,
    /// The client's address inside the tunnel.
    #[n(4)]
    pub inner_v4: Ipv4Addr,
    /// The client's address inside the tunnel.
    #[n(5)]
    pub inner_v6: Ipv6Addr,
    /// Where this PoP sees the connector; a PoP of an older version does not say.
    #[n(6)]
    pub connector_seen: Option<SocketAddr>,
}

/// The introduction failed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct OpenRefused {
    /// The client's number of the request.
    #[n(0)]
    pub seq: u64,
    /// Why.
    #[n(1)]
    pub reason: Refusal,
    /// When to come back, in milliseconds; 0 when coming back does not help.
    #[n(2)]
    pub retry_after_ms: u32,
}

/// A sealed control frame from a controller.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FromController {
    /// The agent's number of the request.
    #[n(0)]
    pub seq: u64,
    /// A sealed [`ControlReply`] frame.
    #[n(1)]
    pub sealed: Bounded<MAX_SEALED_REPLY>,
}

/// No controller took the frame.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ControllerUnavailable {
    /// The agent's number of the request.
    #[n(0)]
    pub seq: u64,
    /// Why.
    #[n(1)]
    pub reason: Refusal,
    /// When to come back, in milliseconds.
    #[n(2)]
    pub retry_after_ms: u32,
}

/// Revocation entries.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Revocations {
    /// Signed entries, at most [`MAX_DOCUMENTS`].
    #[n(0)]
    pub entries: Vec<Document>,
}

/// A channel is gone.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ChannelClosed {
    /// The receiver's own id of the channel.
    #[n(0)]
    pub channel: ChannelId,
    /// Why.
    #[n(1)]
    pub reason: Refusal,
}

/// The PoP drains.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GoAway {
    /// Leave within this many milliseconds.
    #[n(0)]
    pub within_ms: u32,
}

/// The newest trust chain.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BundlePush {
    /// The chain as its text form (rotation certificate and bundle).
    #[n(0)]
    pub chain: Document,
}
