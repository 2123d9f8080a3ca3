//! The relay frame: what carries WireGuard packets between two agents over a PoP.
//!
//! ```text
//!  0      1        2..4        4..12        12..
//! +------+--------+----------+-------------+-----------------+
//! | kind | zero   | zero     | channel id  | body            |
//! +------+--------+----------+-------------+-----------------+
//! ```
//!
//! Twelve bytes, so that an inner packet of 1280 bytes needs an outer path of
//! 1280 + 32 (WireGuard) + 12 + 8 (UDP) + 40 (IPv6) = 1372 bytes and no more.
//!
//! Each side of a channel has an id of its own, told to it alone inside its session; the PoP
//! rewrites the id when it forwards.

use std::fmt;

/// Length of the relay header in bytes.
pub const RELAY_HEADER_LEN: usize = 12;
/// Length of a challenge token in bytes.
pub const CHALLENGE_LEN: usize = 16;

/// One side's name for a relay channel: 64 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct ChannelId(#[n(0)] u64);

impl ChannelId {
    /// Wraps 64 random bits.
    #[must_use]
    pub const fn from_random(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
}

// A channel id opens a relay: it is a capability, so logs show four digits of it.
impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ch-{:04x}…", self.0 >> 48)
    }
}

/// The key one side answers address challenges with: 256 random bits, told inside the session.
#[derive(Clone, PartialEq, Eq)]
pub struct ChannelSecret([u8; 32]);

impl ChannelSecret {
    /// Wraps 256 random bits.
    #[must_use]
    pub const fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key bytes.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ChannelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelSecret(…)")
    }
}

impl<C> minicbor::Encode<C> for ChannelSecret {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> minicbor::Decode<'b, C> for ChannelSecret {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        d.bytes()?
            .try_into()
            .map(Self)
            .map_err(|_| minicbor::decode::Error::message("a channel secret has 32 bytes"))
    }
}

/// What a PoP asks an address to prove, and what comes back.
///
/// PoP → agent: `token = truncated HMAC-SHA256(PoP's key, channel ‖ address ‖ time slot)`.
/// Agent → PoP: `truncated HMAC-SHA256(channel secret, token)`: only who holds the session's
/// secret and receives at that address can answer.
pub type ChallengeToken = [u8; CHALLENGE_LEN];

/// The kind byte of a relay frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RelayKind {
    /// Body: one WireGuard packet.
    Data = 0x80,
    /// PoP → agent. Body: a challenge token.
    Challenge = 0x81,
    /// Agent → PoP. Body: the challenge token, then its answer (twice [`CHALLENGE_LEN`]).
    Answer = 0x82,
    /// Agent → PoP, after it changed its address and has nothing to send. Body: empty, or [`CHALLENGE_LEN`] bytes that
    /// mean nothing: an address that has proven nothing gets no more than it sent, and a challenge is so long.
    Hello = 0x83,
}

/// A relay frame that passed the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayFrame<'a> {
    /// The kind.
    pub kind: RelayKind,
    /// The id by which the receiver of this frame knows the channel.
    pub channel: ChannelId,
    /// What follows the header; its length fits the kind.
    pub body: &'a [u8],
}

/// Why a datagram is not a relay frame. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum RelayError {
    /// Shorter than the header.
    #[error("relay frame shorter than its 12-byte header")]
    TooShort,
    /// A kind byte that this version does not know.
    #[error("unknown relay frame kind")]
    UnknownKind,
    /// Reserved bytes were not zero.
    #[error("reserved bytes of a relay frame are not zero")]
    ReservedNotZero,
    /// The body's length does not fit the kind.
    #[error("relay frame body has the wrong length for its kind")]
    WrongLength,
}

/// The smallest WireGuard message is a keepalive: 16 bytes of header, 16 of tag
/// (WireGuard white paper, section 5.4.6).
const SMALLEST_WIREGUARD_MESSAGE: usize = 32;

/// Parses one datagram whose first byte is in the relay range.
///
/// # Errors
/// Names what is wrong; nothing is allocated and nothing panics.
pub fn parse_relay(datagram: &[u8]) -> Result<RelayFrame<'_>, RelayError> {
    let (header, body) = datagram.split_at_checked(RELAY_HEADER_LEN).ok_or(RelayError::TooShort)?;
    let kind = match header[0] {
        0x80 => RelayKind::Data,
        0x81 => RelayKind::Challenge,
        0x82 => RelayKind::Answer,
        0x83 => RelayKind::Hello,
        _ => return Err(RelayError::UnknownKind),
    };
    if header[1..4] != [0; 3] {
        return Err(RelayError::ReservedNotZero);
    }
    let fits = match kind {
        RelayKind::Data => body.len() >= SMALLEST_WIREGUARD_MESSAGE,
        RelayKind::Challenge => body.len() == CHALLENGE_LEN,
        RelayKind::Answer => body.len() == 2 * CHALLENGE_LEN,
        RelayKind::Hello => body.is_empty() || body.len() == CHALLENGE_LEN,
    };
    if !fits {
        return Err(RelayError::WrongLength);
    }
    let mut id = [0; 8];
    id.copy_from_slice(&header[4..12]);
    Ok(RelayFrame { kind, channel: ChannelId(u64::from_be_bytes(id)), body })
}

/// The header for a frame of `kind` on `channel`; the body follows it.
#[must_use]
pub fn encode_relay_header(kind: RelayKind, channel: ChannelId) -> [u8; RELAY_HEADER_LEN] {
    let mut header = [0; RELAY_HEADER_LEN];
    header[0] = kind as u8;
    header[4..12].copy_from_slice(&channel.0.to_be_bytes());
    header
}

/// Replaces the channel id of a parsed frame in place: how a PoP forwards without a copy.
/// Does nothing when the buffer is shorter than a header.
pub fn rewrite_channel(frame: &mut [u8], channel: ChannelId) {
    if let Some(id) = frame.get_mut(4..12) {
        id.copy_from_slice(&channel.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_data_frame_survives_encoding_and_forwarding() {
        let mut frame = encode_relay_header(RelayKind::Data, ChannelId(1)).to_vec();
        frame.extend_from_slice(&[0xAB; 40]);
        rewrite_channel(&mut frame, ChannelId(2));
        let parsed = parse_relay(&frame).expect("valid");
        assert_eq!((parsed.kind, parsed.channel), (RelayKind::Data, ChannelId(2)));
        assert_eq!(parsed.body, [0xAB; 40]);
    }

    #[test]
    fn set_reserved_bytes_are_refused() {
        let mut frame = encode_relay_header(RelayKind::Hello, ChannelId(1));
        for byte in 1..4 {
            frame[byte] = 1;
            assert_eq!(parse_relay(&frame), Err(RelayError::ReservedNotZero));
            frame[byte] = 0;
        }
    }

    #[test]
    fn a_body_of_the_wrong_length_is_refused() {
        let mut frame = encode_relay_header(RelayKind::Challenge, ChannelId(1)).to_vec();
        frame.extend_from_slice(&[0; CHALLENGE_LEN + 1]);
        assert_eq!(parse_relay(&frame), Err(RelayError::WrongLength));
    }

    proptest! {
        #[test]
        fn no_datagram_panics_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(frame) = parse_relay(&bytes) {
                let again = [&encode_relay_header(frame.kind, frame.channel)[..], frame.body].concat();
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
