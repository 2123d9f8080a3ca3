//! What agents and controllers say to each other, sealed: no PoP on the way reads it.

use super::{Document, MAX_SEALED_OPEN, MAX_SEALED_REPLY};
use crate::{Bounded, DeviceId, PopId, Refusal};
use minicbor::{Decode, Encode};

/// Asks for a grant (devices) and, when due, a certificate (all agents).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Renew {
    /// Whether a certificate is wanted too.
    #[n(0)]
    pub certificate: bool,
}

/// Asks for the newest slice of this agent.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct GetSlice {
    /// Incarnation of the slice held; 0 when none.
    #[n(0)]
    pub incarnation: u64,
    /// Version of the slice held; 0 when none.
    #[n(1)]
    pub version: u64,
}

/// Asks why a resource can or cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Why {
    /// A resource's name or alias, as the person typed it.
    #[n(0)]
    pub resource: Bounded<255>,
}

/// A batch of flow records.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ShipFlows {
    /// The connector's number of the batch: shipping it twice stores it once.
    #[n(0)]
    pub batch: u64,
    /// Records, one JSON object a line.
    #[n(1)]
    pub ndjson: Bounded<40_960>,
}

/// Asks for signed time.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Anchor {
    /// 128 random bits that come back signed.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// What has changed of the ways by which a connector's packets to devices go, since the controller last said what it
/// holds. At most [`MAX_PATHS`] devices in all; more go in the next one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TellPaths {
    /// Whatever this connector told before counts no more: this is the first part of all of it.
    #[n(0)]
    pub afresh: bool,
    /// Devices whose way is another one now.
    #[n(1)]
    pub paths: Vec<PathTold>,
    /// Devices that have no tunnel any more.
    #[n(2)]
    pub gone: Vec<DeviceId>,
}

/// By which way packets to a device go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PathTold {
    /// Which device.
    #[n(0)]
    pub device: DeviceId,
    /// Whose relay carries them; none: they go straight.
    #[n(1)]
    pub pop: Option<PopId>,
    /// The connector reaches that PoP by TCP 443 alone.
    #[n(2)]
    #[cbor(default)]
    pub stream: bool,
}

/// Renewed documents.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Renewed {
    /// The grant as its PASETO text; none for connectors.
    #[n(0)]
    pub grant: Option<Bounded<MAX_SEALED_OPEN>>,
    /// The certificate (DER), when asked for.
    #[n(1)]
    pub certificate: Option<Bounded<4096>>,
}

/// A slice, or nothing newer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct SliceReply {
    /// The slice as its PASETO text; none when the agent's is the newest.
    #[n(0)]
    pub slice: Option<Bounded<{ MAX_SEALED_REPLY - 4096 }>>,
}

/// The explanation as JSON of the policy crate's `Explanation`.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct WhyReply {
    /// JSON.
    #[n(0)]
    pub explanation: Bounded<32_768>,
}

/// The batch is stored.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct FlowsTaken {
    /// The batch's number.
    #[n(0)]
    pub batch: u64,
}

/// A report of paths is known. It is in memory alone: a controller that holds another number than the connector thinks
/// has lost them, and is told all of them anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct PathsTaken {
    /// Of how many devices the controller knows the way from this connector now.
    #[n(0)]
    pub held: u32,
}

/// Signed time.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Anchored {
    /// A beacon whose `nonce` is the one asked with.
    #[n(0)]
    pub beacon: Document,
}

/// A control request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ControlRefused {
    /// Why.
    #[n(0)]
    pub reason: Refusal,
    /// When to come back, in milliseconds; 0 when coming back does not help.
    #[n(1)]
    pub retry_after_ms: u32,
}
