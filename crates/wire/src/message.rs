//! The messages of a session to a PoP, and the control messages that travel sealed inside them.
//!
//! Each message is a CBOR map with integer keys (RFC 8949), so that a neighbour version can add
//! a field that this one skips. The frame in front of it carries the type (see [`crate::encode_frame`]),
//! so that a neighbour version can add a message that this one counts and skips.

use crate::{Bounded, ChannelId, ChannelSecret, ConnectorId, ControllerId, DeviceId, PopId, Refusal};
use minicbor::{Decode, Encode};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Newest protocol version this build speaks; it also speaks the one before, once there is one.
pub const PROTOCOL_VERSION: u16 = 1;
/// Oldest protocol version this build speaks.
pub const OLDEST_PROTOCOL_VERSION: u16 = 1;
/// ALPN of a session to a PoP (RFC 7301).
pub const SESSION_ALPN: &[u8] = b"tidegate/1";

/// Upper length of one signed document that everybody may see (beacon, revocation, bundle link).
pub const MAX_PUBLIC_DOCUMENT: usize = 48 * 1024;
/// Upper length of the sealed introduction (grant, keys, signature).
pub const MAX_SEALED_OPEN: usize = 16 * 1024;
/// Upper length of a sealed control frame from an agent.
pub const MAX_SEALED_REQUEST: usize = 48 * 1024;
/// Upper length of a sealed control frame from a controller (it may carry a slice).
pub const MAX_SEALED_REPLY: usize = 1024 * 1024;
/// Most documents in one message.
pub const MAX_DOCUMENTS: usize = 64;
/// Most devices in one [`TellPaths`]: 512 × 45 bytes are half of what a sealed request may have.
pub const MAX_PATHS: usize = 512;
/// Length of a WireGuard handshake initiation (white paper, section 5.4.2).
pub const WG_INITIATION_LEN: usize = 148;
/// Length of a WireGuard handshake response (white paper, section 5.4.3).
pub const WG_RESPONSE_LEN: usize = 92;

/// A signed document as bytes of its text form.
pub type Document = Bounded<MAX_PUBLIC_DOCUMENT>;

/// Ties a message struct to its number in the frame.
pub trait Typed {
    /// The frame type. Numbers are never reused.
    const TYPE: u16;
}

macro_rules! message_sets {
    ($($(#[$set_doc:meta])* $set:ident { $($(#[$doc:meta])* $variant:ident($body:ident) = $number:literal,)* })*) => {$(
        $(#[$set_doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $set { $($(#[$doc])* $variant($body),)* }

        impl $set {
            /// The number in the frame.
            #[must_use]
            pub const fn frame_type(&self) -> u16 {
                match self { $(Self::$variant(_) => $number,)* }
            }

            /// The message's name for logs and metrics.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant),)* }
            }

            /// The CBOR body.
            #[must_use]
            pub fn encode_body(&self) -> Vec<u8> {
                match self {
                    $(Self::$variant(body) => minicbor::to_vec(body)
                        .expect("writing CBOR to a Vec does not fail"),)*
                }
            }

            /// Decodes a body. `Ok(None)` is a type of a newer version: count it and go on.
            ///
            /// # Errors
            /// The body of a known type is malformed.
            pub fn decode_body(frame_type: u16, body: &[u8]) -> Result<Option<Self>, minicbor::decode::Error> {
                match frame_type {
                    $($number => exact(body).map(|decoded| Some(Self::$variant(decoded))),)*
                    _ => Ok(None),
                }
            }
        }

        $(impl From<$body> for $set {
            fn from(body: $body) -> Self { Self::$variant(body) }
        })*
    )*};
}

/// Decodes a value and refuses bytes behind it.
fn exact<'b, T: Decode<'b, ()>>(body: &'b [u8]) -> Result<T, minicbor::decode::Error> {
    let mut decoder = minicbor::Decoder::new(body);
    let value = decoder.decode()?;
    if decoder.position() != body.len() {
        return Err(minicbor::decode::Error::message("bytes behind the end of a message"));
    }
    Ok(value)
}

message_sets! {
    /// What an agent (client or connector) says to a PoP.
    FromAgent {
        /// First message of a session.
        Hello(Hello) = 1,
        /// Sent once per keepalive interval.
        Keepalive(Keepalive) = 2,
        /// A client asks to be introduced to a connector.
        Open(Open) = 3,
        /// A connector accepts an introduction.
        Accept(Accept) = 4,
        /// A connector refuses an introduction.
        Refuse(Refuse) = 5,
        /// A sealed control frame for a controller.
        ToController(ToController) = 6,
        /// Either side gives a channel back.
        CloseChannel(CloseChannel) = 7,
        /// A connector lacks strikes that a beacon's head speaks of.
        GetRevocations(GetRevocations) = 8,
    }

    /// What a PoP says to an agent.
    ToAgent {
        /// The answer to `Hello`: the session is registered.
        Welcome(Welcome) = 32,
        /// The answer to `Keepalive`.
        Alive(Alive) = 33,
        /// A beacon, pushed to connectors.
        BeaconPush(BeaconPush) = 34,
        /// A client wants to reach this connector.
        Introduce(Introduce) = 35,
        /// The connector accepted.
        Opened(Opened) = 36,
        /// The introduction was refused, by the PoP or by the connector.
        OpenRefused(OpenRefused) = 37,
        /// A sealed control frame from a controller.
        FromController(FromController) = 38,
        /// No controller took the control frame.
        ControllerUnavailable(ControllerUnavailable) = 39,
        /// Revocation entries, signed for everybody.
        Revocations(Revocations) = 40,
        /// A channel is gone.
        ChannelClosed(ChannelClosed) = 41,
        /// The PoP drains: go to the next one in your order.
        GoAway(GoAway) = 42,
        /// The trust bundle changed.
        BundlePush(BundlePush) = 43,
    }

    /// What a controller says to a PoP.
    FromSigner {
        /// First message of a controller's session.
        SignerHello(SignerHello) = 64,
        /// The newest beacon.
        PublishBeacon(PublishBeacon) = 65,
        /// The newest trust bundle.
        PublishBundle(PublishBundle) = 66,
        /// Revocation entries to hold and to spread.
        Strike(Strike) = 67,
        /// A sealed control frame for the agent behind `route`.
        Reply(Reply) = 68,
        /// The PoP's own slice.
        PublishSlice(PublishSlice) = 69,
    }

    /// What a PoP says to a controller.
    ToSigner {
        /// The answer to `SignerHello`.
        SignerWelcome(SignerWelcome) = 96,
        /// A sealed control frame from an agent.
        Forward(Forward) = 97,
        /// Revocation entries this PoP holds on its disk.
        StrikesHeld(StrikesHeld) = 98,
        /// Sessions that came and went.
        Presence(Presence) = 99,
        /// Revocation entries that another controller gave this PoP.
        StrikesElsewhere(StrikesElsewhere) = 100,
    }

    /// What an agent asks a controller, sealed.
    ControlRequest {
        /// A new grant and, when due, a new certificate.
        Renew(Renew) = 128,
        /// The newest slice, if newer than the one held.
        GetSlice(GetSlice) = 129,
        /// Why a resource can or cannot be reached.
        Why(Why) = 130,
        /// Flow records.
        ShipFlows(ShipFlows) = 131,
        /// A time anchor.
        Anchor(Anchor) = 132,
        /// By which way packets to devices go.
        TellPaths(TellPaths) = 133,
    }

    /// What a controller answers, sealed.
    ControlReply {
        /// Renewed documents.
        Renewed(Renewed) = 160,
        /// A slice, or nothing newer.
        SliceReply(SliceReply) = 161,
        /// The explanation.
        WhyReply(WhyReply) = 162,
        /// The records are on the controller's disk.
        FlowsTaken(FlowsTaken) = 163,
        /// Signed time.
        Anchored(Anchored) = 164,
        /// The request was refused.
        Refused(ControlRefused) = 165,
        /// What a connector told of its paths is known.
        PathsTaken(PathsTaken) = 166,
    }
}

// ---- agent → PoP -------------------------------------------------------------------------------

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
    /// Hashes of the newest revocation heads the agent holds are not needed here: the beacon has them.
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

// ---- PoP → agent -------------------------------------------------------------------------------

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

// ---- controller ↔ PoP --------------------------------------------------------------------------

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

// ---- agent ↔ controller, sealed ----------------------------------------------------------------

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_survives_encoding() {
        let welcome = ToAgent::from(Welcome {
            version: 1,
            observed: "[2001:db8::1]:443".parse().expect("address"),
            keepalive_ms: 25_000,
            reconnect_window_ms: 1_000,
            beacon: Some(Bounded::new(vec![1, 2, 3]).expect("short")),
            revocations: vec![],
            channels: 0,
        });
        let body = welcome.encode_body();
        let back = ToAgent::decode_body(welcome.frame_type(), &body).expect("valid");
        assert_eq!(back, Some(welcome));
    }

    #[test]
    fn an_unknown_type_is_skipped_and_an_unknown_field_too() {
        assert_eq!(ToAgent::decode_body(31_000, &[0xFF]).expect("skipped"), None);
        // {0: 30000, 9: "new"}: field 9 is of a later version.
        let body = [0xA2, 0x00, 0x19, 0x75, 0x30, 0x09, 0x63, b'n', b'e', b'w'];
        let go_away = ToAgent::decode_body(42, &body).expect("field 9 is skipped");
        assert_eq!(go_away, Some(ToAgent::GoAway(GoAway { within_ms: 30_000 })));
    }

    #[test]
    fn an_introduction_of_an_older_pop_says_nothing_of_where_the_client_is_and_is_taken() {
        let now = Introduce {
            intro: 7,
            channel: ChannelId::from_random(9),
            secret: ChannelSecret::from_random([3; 32]),
            sealed: Bounded::default(),
            initiation: Bounded::default(),
            client_seen: Some("203.0.113.9:4000".parse().expect("address")),
        };
        let before = Introduce { client_seen: None, ..now.clone() };
        // An absent optional field leaves no trace: this is what an older PoP sends.
        let body = ToAgent::from(before.clone()).encode_body();
        assert_eq!(body[0], 0xA5, "a map of five");
        assert_eq!(ToAgent::decode_body(35, &body).expect("valid"), Some(before.into()));
        let body = ToAgent::from(now.clone()).encode_body();
        assert_eq!(ToAgent::decode_body(35, &body).expect("valid"), Some(now.into()));
    }

    #[test]
    fn the_longest_report_of_paths_fits_a_sealed_request_with_room_for_the_seal() {
        let told = |n: u8| PathTold {
            device: DeviceId::from_bytes([n; 16]),
            pop: Some(PopId::from_bytes([n; 16])),
            stream: true,
        };
        let paths: Vec<PathTold> = std::iter::repeat_with(|| told(0xFF)).take(MAX_PATHS).collect();
        let report = ControlRequest::from(TellPaths { afresh: true, paths, gone: Vec::new() });
        let body = report.encode_body();
        assert!(body.len() <= MAX_SEALED_REQUEST / 2, "{}", body.len());
        assert_eq!(ControlRequest::decode_body(133, &body).expect("valid"), Some(report));
    }

    #[test]
    fn a_presence_of_an_older_pop_says_nothing_of_tcp_and_is_taken() {
        // {0: [], 1: []}
        let told = ToSigner::decode_body(99, &[0xA2, 0x00, 0x80, 0x01, 0x80]).expect("valid");
        let nobody = Presence { attached: vec![], detached: vec![], streams: vec![] };
        assert_eq!(told, Some(nobody.into()));
    }

    #[test]
    fn bytes_behind_a_message_are_refused() {
        let mut body = FromAgent::from(Keepalive {}).encode_body();
        body.push(0);
        assert!(FromAgent::decode_body(2, &body).is_err());
    }

    #[test]
    fn an_oversized_field_is_refused_before_it_is_copied() {
        let frame = ToController { seq: 1, sealed: Bounded::default() };
        let mut body = minicbor::to_vec(&frame).expect("encodes");
        body.pop();
        minicbor::Encoder::new(&mut body).bytes(&vec![0; MAX_SEALED_REQUEST + 1]).expect("encodes");
        assert!(FromAgent::decode_body(6, &body).is_err());
    }

    proptest! {
        #[test]
        fn no_body_panics_a_decoder(kind in 0_u16..200, body in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = FromAgent::decode_body(kind, &body);
            let _ = ToAgent::decode_body(kind, &body);
            let _ = FromSigner::decode_body(kind, &body);
            let _ = ToSigner::decode_body(kind, &body);
            let _ = ControlRequest::decode_body(kind, &body);
            let _ = ControlReply::decode_body(kind, &body);
        }
    }
}
