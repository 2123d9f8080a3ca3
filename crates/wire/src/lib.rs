//! What goes over the wire, and nothing else.
//!
//! This crate owns: the typed identifiers, the total first-byte table of a PoP's UDP port, the
//! relay frame header, and the messages of an agent's (and a controller's) session to a PoP.
//! It refuses to know: keys, signatures, time, sockets. Everything signed or sealed travels here
//! as opaque, size-bounded bytes.
//!
//! ```
//! use wire::{classify, DatagramKind};
//! // A QUIC long header (RFC 9000 section 17.2) starts with the two top bits set.
//! assert_eq!(classify(&[0xC3, 0, 0, 0, 1]), DatagramKind::Quic);
//! ```

mod bounded;
mod first_byte;
mod frame;
mod id;
mod message;
mod metadata;
mod proxy_line;
mod reason;
mod relay;
mod special;
mod stream;
mod stun;

pub use bounded::{Bounded, TooLong};
pub use first_byte::{DatagramKind, RELAY_FIRST_BYTE_MASK, RELAY_FIRST_BYTE_VALUE, classify};
pub use frame::{FrameError, FrameReader, MAX_AGENT_MESSAGE, MAX_CONTROLLER_MESSAGE, encode_frame};
pub use id::{
    ConnectorId, ControllerId, DeviceId, EnrolmentKeyId, GroupId, IdError, InstallationId, OrganizationId,
    PolicyId, PopId, ResourceId, ServiceAccountId, SiteId, TokenId, UserId,
};
pub use message::*;
pub use metadata::is_cloud_metadata;
pub use proxy_line::{MAX_PROXY_LINE, encode_proxy_line, parse_proxy_line};
pub use reason::{Refusal, RefusalClass};
pub use relay::{
    CHALLENGE_LEN, ChallengeToken, ChannelId, ChannelSecret, RELAY_HEADER_LEN, RelayError, RelayFrame,
    RelayKind, encode_relay_header, parse_relay, rewrite_channel,
};
pub use special::{embedded_ipv4, is_special_address};
pub use stream::{
    MAX_STREAM_DATAGRAM, StreamError, StreamReader, encode_stream_datagram, is_stream_address,
    shares_outside, stream_address, stream_address_from,
};
pub use stun::{stun_mapped_address, stun_request};
