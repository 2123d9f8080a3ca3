//! Which name an address stands for, said inside a tunnel.
//!
//! A program connects to an address; a resource may be a name, or all names below one. The client gives each
//! name that is asked for two synthetic addresses and tells the connector what they mean; packets then carry
//! the synthetic address to the connector, unchanged, and the connector resolves the name. Nothing is
//! decided by it: policy is asked for the name when a packet comes.
//!
//! The messages are inner packets like those about paths, with a first byte that is no IP version. A `Bind`
//! goes ahead of the first packets of each conversation until it was answered, so it costs no round trip. When it is
//! lost and the packet behind it is not, the connector meets an address that means nothing: inside
//! [`SYNTHETIC_V4`] and [`SYNTHETIC_V6`], which clients take such addresses from, it then refuses nothing and says
//! `Unbound`, with zeros for the half of the pair that it does not know; the sender's next packet comes with a `Bind`
//! again.
//!
//! ```text
//! kind (1) | zero (1) | length of the whole (2) | IPv4 (4) | IPv6 (16) | body
//! Bind     0x10  length (1) | name, 1 to 253 bytes
//! Bound    0x11
//! Unbound  0x12
//! ```

use crate::direct::MessageError;
use std::net::{Ipv4Addr, Ipv6Addr};

const HEADER_LEN: usize = 4;
const ADDRESSES_LEN: usize = 4 + 16;
const BIND: u8 = 0x10;
const BOUND: u8 = 0x11;
const UNBOUND: u8 = 0x12;
/// RFC 1035 section 2.3.4, as text without the last dot.
pub const MAX_NAME_LEN: usize = 253;

/// Where clients take IPv4 addresses for names from (RFC 6598): network and length.
pub const SYNTHETIC_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(100, 64, 0, 0), 10);
/// Where they take IPv6 addresses from: a unique local prefix (RFC 4193) of fixed words, as both sides must agree.
pub const SYNTHETIC_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd7a, 0x7467, 0x6e00, 0, 0, 0, 0, 0), 40);

/// Both addresses of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoundPair {
    /// For programs that speak IPv4.
    pub v4: Ipv4Addr,
    /// For those that speak IPv6.
    pub v6: Ipv6Addr,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindMessage {
    /// Client: packets of mine to these two addresses mean this name.
    Bind {
        /// The addresses.
        pair: BoundPair,
        /// 1 to [`MAX_NAME_LEN`] bytes: a host name, or an IP address as text (an alias of a resource that is an
        /// address: two sites may have the same one). The connector parses them.
        name: Vec<u8>,
    },
    /// Connector: noted.
    Bound(BoundPair),
    /// Connector: these mean nothing (any more).
    Unbound(BoundPair),
}

impl BindMessage {
    /// Whether an inner packet claims to be one of these.
    #[must_use]
    pub fn is_claimed_by(inner: &[u8]) -> bool {
        inner.first().is_some_and(|byte| byte >> 4 == 1)
    }

    /// Reads one inner packet; what WireGuard padded it with is cut off.
    ///
    /// # Errors
    /// Names what is wrong; nothing panics.
    pub fn parse(inner: &[u8]) -> Result<Self, MessageError> {
        let ([kind, zero, high, low], _) =
            inner.split_first_chunk::<HEADER_LEN>().ok_or(MessageError::TooShort)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if *zero != 0 || length < HEADER_LEN + ADDRESSES_LEN {
            return Err(MessageError::NotCanonical);
        }
        let body = inner.get(HEADER_LEN..length).ok_or(MessageError::TooShort)?;
        let (v4, rest) = body.split_first_chunk::<4>().ok_or(MessageError::TooShort)?;
        let (v6, rest) = rest.split_first_chunk::<16>().ok_or(MessageError::TooShort)?;
        let pair = BoundPair { v4: Ipv4Addr::from(*v4), v6: Ipv6Addr::from(*v6) };
        match (*kind, rest) {
            (BIND, [count, name @ ..]) if usize::from(*count) == name.len() => {
                if name.is_empty() || name.len() > MAX_NAME_LEN {
                    return Err(MessageError::NotCanonical);
                }
                Ok(Self::Bind { pair, name: name.to_vec() })
            }
            (BOUND, []) => Ok(Self::Bound(pair)),
            (UNBOUND, []) => Ok(Self::Unbound(pair)),
            (BIND, []) => Err(MessageError::TooShort),
            (BIND | BOUND | UNBOUND, _) => Err(MessageError::NotCanonical),
            _ => Err(MessageError::UnknownKind),
        }
    }

    /// The inner packet. A name that is too long is cut, and then means nothing to anybody.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, pair) = match self {
            Self::Bind { pair, .. } => (BIND, pair),
            Self::Bound(pair) => (BOUND, pair),
            Self::Unbound(pair) => (UNBOUND, pair),
        };
        let mut out = vec![kind, 0, 0, 0];
        out.extend_from_slice(&pair.v4.octets());
        out.extend_from_slice(&pair.v6.octets());
        if let Self::Bind { name, .. } = self {
            let name = &name[..name.len().min(MAX_NAME_LEN)];
            out.push(u8::try_from(name.len()).expect("at most 253"));
            out.extend_from_slice(name);
        }
        let length = u16::try_from(out.len()).expect("less than 300 bytes");
        out[2..4].copy_from_slice(&length.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAIR: BoundPair = BoundPair {
        v4: Ipv4Addr::new(100, 97, 0, 9),
        v6: Ipv6Addr::new(0xfd7a, 0x7467, 0x6e61, 0, 0, 0, 0, 9),
    };

    fn examples() -> Vec<BindMessage> {
        vec![
            BindMessage::Bind { pair: PAIR, name: b"db.example".to_vec() },
            BindMessage::Bind { pair: PAIR, name: vec![b'a'; MAX_NAME_LEN] },
            BindMessage::Bound(PAIR),
            BindMessage::Unbound(PAIR),
        ]
    }

    #[test]
    fn every_message_comes_back_from_its_bytes_padded_or_not() {
        for message in examples() {
            let mut bytes = message.encode();
            assert!(BindMessage::is_claimed_by(&bytes) && !crate::PathMessage::is_claimed_by(&bytes));
            assert_eq!(BindMessage::parse(&bytes), Ok(message.clone()));
            bytes.resize(bytes.len().next_multiple_of(16), 0);
            assert_eq!(BindMessage::parse(&bytes), Ok(message));
        }
    }

    #[test]
    fn a_message_cut_at_any_byte_is_refused() {
        for message in examples() {
            let bytes = message.encode();
            for length in 0..bytes.len() {
                assert!(BindMessage::parse(&bytes[..length]).is_err(), "{message:?} cut at {length}");
            }
        }
    }

    #[test]
    fn an_empty_name_and_one_that_is_shorter_than_it_says_are_refused() {
        let mut bytes = BindMessage::Bind { pair: PAIR, name: b"ab".to_vec() }.encode();
        bytes[24] = 1;
        assert_eq!(BindMessage::parse(&bytes), Err(MessageError::NotCanonical));
        let empty = BindMessage::Bind { pair: PAIR, name: vec![] }.encode();
        assert_eq!(BindMessage::parse(&empty), Err(MessageError::NotCanonical));
    }

    proptest! {
        #[test]
        fn what_parses_is_written_the_same_way(mut bytes in proptest::collection::vec(any::<u8>(), 24..300), kind in 0x10_u8..0x14) {
            bytes[0] = kind;
            bytes[1] = 0;
            let length = u16::try_from(bytes.len()).expect("short");
            bytes[2..4].copy_from_slice(&length.to_be_bytes());
            if let Ok(message) = BindMessage::parse(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
