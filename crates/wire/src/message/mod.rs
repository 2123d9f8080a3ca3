//! The messages of a session to a PoP, and the control messages that travel sealed inside them.
//!
//! Each message is a CBOR map with integer keys (RFC 8949), so that a neighbour version can add
//! a field that this one skips. The frame in front of it carries the type (see [`crate::encode_frame`]),
//! so that a neighbour version can add a message that this one counts and skips.

mod agent;
mod control;
mod signer;
#[cfg(test)]
mod tests;

pub use agent::*;
pub use control::*;
pub use signer::*;

use crate::Bounded;
use minicbor::Decode;

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
