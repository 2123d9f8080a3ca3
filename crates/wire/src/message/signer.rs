//! What controllers and PoPs say to each other.

use super::{Document, MAX_SEALED_REPLY, MAX_SEALED_REQUEST};
use crate::{Bounded, ConnectorId};
use minicbor::{Decode, Encode};

/// First message of a controller's session.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SignerHello {
    /// Oldest protocol version the controller speaks.
    #[n(0)]
    pub oldest: u16,
    /// Newest protocol version the controller speaks.
    #[n(1)]
    pub newest: u16,
}

/// The newest beacon.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PublishBeacon {
    /// The beacon.
    #[n(0)]
    pub beacon: Document,
}

/// The newest trust chain.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PublishBundle {
    /// The chain as its text form.
    #[n(0)]
    pub chain: Document,
}

/// Revocation entries to hold and to spread.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Strike {
    /// Signed entries, at most [`MAX_DOCUMENTS`].
    #[n(0)]
    pub entries: Vec<Document>,
}

/// A sealed control frame for an agent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Reply {
    /// From the [`Forward`] this answers.
    #[n(0)]
    pub route: u64,
    /// From the [`Forward`] this answers.
    #[n(1)]
    pub seq: u64,
    /// A sealed [`ControlReply`] frame.
    #[n(2)]
    pub sealed: Bounded<MAX_SEALED_REPLY>,
}

/// The PoP's own slice.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PublishSlice {
    /// The slice as its PASETO text.
    #[n(0)]
    pub slice: Document,
}

/// The answer to [`SignerHello`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SignerWelcome {
    /// The version both speak.
    #[n(0)]
    pub version: u16,
    /// All revocation entries this PoP holds.
    #[n(1)]
    pub held: Vec<Document>,
    /// Sessions that are up, as the URIs of their certificates.
    #[n(2)]
    pub attached: Vec<Bounded<256>>,
    /// The newest beacon of each controller: a controller that was restored learns from them what it has
    /// lost. An older PoP sends none.
    #[n(3)]
    #[cbor(default)]
    pub beacons: Vec<Document>,
    /// Those of `attached` whose session is carried by TCP 443. An older PoP does not say.
    #[n(4)]
    #[cbor(default)]
    pub streams: Vec<Bounded<256>>,
}

/// A sealed control frame from an agent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Forward {
    /// Opaque to the controller: which session to answer to.
    #[n(0)]
    pub route: u64,
    /// The agent's number.
    #[n(1)]
    pub seq: u64,
    /// A sealed [`ControlRequest`] frame.
    #[n(2)]
    pub sealed: Bounded<MAX_SEALED_REQUEST>,
}

/// Entries that are on this PoP's disk.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StrikesHeld {
    /// SHA-256 of each entry's text.
    #[n(0)]
    pub hashes: Vec<Bounded<32>>,
    /// Connectors attached here that were sent the entries.
    #[n(1)]
    pub connectors: Vec<ConnectorId>,
}

/// Revocation entries that another controller gave this PoP since this one came.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StrikesElsewhere {
    /// The signed texts.
    #[n(0)]
    pub entries: Vec<Document>,
}

/// Sessions that came and went since the last message.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Presence {
    /// URIs of sessions that came.
    #[n(0)]
    pub attached: Vec<Bounded<256>>,
    /// URIs of sessions that went.
    #[n(1)]
    pub detached: Vec<Bounded<256>>,
    /// Those of `attached` whose session is carried by TCP 443. An older PoP does not say.
    #[n(2)]
    #[cbor(default)]
    pub streams: Vec<Bounded<256>>,
}
