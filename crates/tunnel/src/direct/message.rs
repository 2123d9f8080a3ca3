//! What two peers say to each other about paths, inside their tunnel.
//!
//! The messages are inner packets whose first byte is no IP version, so that who does not know them drops
//! them. All numbers are big-endian.
//!
//! ```text
//! kind (1) | zero (1) | length of the whole (2) | body
//! Candidates 0x01  epoch (4) | sequence (4) | round (4) | count (1) | count × (kind (1) | address)
//! Heard      0x02  epoch (4) | sequence (4)
//! Probe      0x03  id (8) | filling
//! Proof      0x04  id (8) | address that the probe was seen from
//! address          family 4 or 6 (1) | port (2) | 4 or 16 bytes
//! ```

use super::candidate::{Candidate, CandidateKind, MAX_CANDIDATES};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const HEADER_LEN: usize = 4;
const CANDIDATES: u8 = 0x01;
const HEARD: u8 = 0x02;
const PROBE: u8 = 0x03;
const PROOF: u8 = 0x04;

/// The smallest probe: as long as the longest proof, so that an answer is never longer than its question.
pub const MIN_PROBE_LEN: usize = HEADER_LEN + 8 + 19;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMessage {
    /// Where the sender may be reached.
    Candidates {
        /// Another one for each process that says it.
        epoch: u32,
        /// Higher than that of any list of the epoch before; a list of the same number is the same list.
        sequence: u32,
        /// Higher when the sender asks for another try.
        round: u32,
        /// At most [`MAX_CANDIDATES`].
        list: Vec<Candidate>,
    },
    /// A list arrived.
    Heard {
        /// Whose.
        epoch: u32,
        /// Which.
        sequence: u32,
    },
    /// Whoever can read this is asked to answer, by the way it came.
    Probe {
        /// Random.
        id: u64,
        /// Length of the whole message in bytes: to see what a path carries.
        length: usize,
    },
    /// The answer.
    Proof {
        /// The probe's.
        id: u64,
        /// Where the probe came from.
        seen: SocketAddr,
    },
}

/// Why an inner packet is no message about paths. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum MessageError {
    /// Shorter than it says, or than its kind needs.
    #[error("the message is shorter than it says")]
    TooShort,
    /// A kind that this version does not know.
    #[error("unknown kind of path message")]
    UnknownKind,
    /// Bytes that mean nothing.
    #[error("the message has bytes that mean nothing")]
    NotCanonical,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let (first, rest) = self.0.split_first_chunk::<N>().ok_or(MessageError::TooShort)?;
        self.0 = rest;
        Ok(*first)
    }

    fn address(&mut self) -> Result<SocketAddr, MessageError> {
        let [family] = self.take()?;
        let port = u16::from_be_bytes(self.take()?);
        let ip = match family {
            4 => IpAddr::V4(Ipv4Addr::from(self.take::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.take::<16>()?)),
            _ => return Err(MessageError::NotCanonical),
        };
        // An IPv4 address has one way to be written.
        if ip != ip.to_canonical() {
            return Err(MessageError::NotCanonical);
        }
        Ok(SocketAddr::new(ip, port))
    }

    fn end(&self) -> Result<(), MessageError> {
        if self.0.is_empty() { Ok(()) } else { Err(MessageError::NotCanonical) }
    }
}

fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&address.port().to_be_bytes());
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&address.port().to_be_bytes());
            out.extend_from_slice(&ip.octets());
        }
    }
}

impl PathMessage {
    /// Whether an inner packet claims to be one of these rather than an IP packet.
    #[must_use]
    pub fn is_claimed_by(inner: &[u8]) -> bool {
        inner.first().is_some_and(|byte| byte >> 4 == 0)
    }

    /// Reads one inner packet; what WireGuard padded it with is cut off.
    ///
    /// # Errors
    /// Names what is wrong; nothing panics.
    pub fn parse(inner: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader(inner);
        let [kind, zero] = reader.take()?;
        let length = usize::from(u16::from_be_bytes(reader.take()?));
        if zero != 0 || length < HEADER_LEN {
            return Err(MessageError::NotCanonical);
        }
        let mut body = Reader(inner.get(HEADER_LEN..length).ok_or(MessageError::TooShort)?);
        match kind {
            CANDIDATES => {
                let epoch = u32::from_be_bytes(body.take()?);
                let sequence = u32::from_be_bytes(body.take()?);
                let round = u32::from_be_bytes(body.take()?);
                let [count] = body.take()?;
                if usize::from(count) > MAX_CANDIDATES {
                    return Err(MessageError::NotCanonical);
                }
                let mut list = Vec::with_capacity(usize::from(count));
                for _ in 0..count {
                    let [kind] = body.take()?;
                    let kind = CandidateKind::from_code(kind).ok_or(MessageError::NotCanonical)?;
                    list.push(Candidate { kind, address: body.address()? });
                }
                body.end()?;
                Ok(Self::Candidates { epoch, sequence, round, list })
            }
            HEARD => {
                let epoch = u32::from_be_bytes(body.take()?);
                let sequence = u32::from_be_bytes(body.take()?);
                body.end()?;
                Ok(Self::Heard { epoch, sequence })
            }
            PROBE if length >= MIN_PROBE_LEN => {
                Ok(Self::Probe { id: u64::from_be_bytes(body.take()?), length })
            }
            PROBE => Err(MessageError::TooShort),
            PROOF => {
                let id = u64::from_be_bytes(body.take()?);
                let seen = body.address()?;
                body.end()?;
                Ok(Self::Proof { id, seen })
            }
            _ => Err(MessageError::UnknownKind),
        }
    }

    /// The inner packet.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_LEN];
        match self {
            Self::Candidates { epoch, sequence, round, list } => {
                out[0] = CANDIDATES;
                out.extend_from_slice(&epoch.to_be_bytes());
                out.extend_from_slice(&sequence.to_be_bytes());
                out.extend_from_slice(&round.to_be_bytes());
                let list = &list[..list.len().min(MAX_CANDIDATES)];
                out.push(u8::try_from(list.len()).expect("at most sixteen"));
                for candidate in list {
                    out.push(candidate.kind.code());
                    put_address(&mut out, candidate.address);
                }
            }
            Self::Heard { epoch, sequence } => {
                out[0] = HEARD;
                out.extend_from_slice(&epoch.to_be_bytes());
                out.extend_from_slice(&sequence.to_be_bytes());
            }
            Self::Probe { id, length } => {
                out[0] = PROBE;
                out.extend_from_slice(&id.to_be_bytes());
                out.resize((*length).clamp(MIN_PROBE_LEN, crate::MAX_INNER_PACKET), 0);
            }
            Self::Proof { id, seen } => {
                out[0] = PROOF;
                out.extend_from_slice(&id.to_be_bytes());
                put_address(&mut out, *seen);
            }
        }
        let length = u16::try_from(out.len()).expect("at most an inner packet");
        out[2..4].copy_from_slice(&length.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples() -> Vec<PathMessage> {
        let v4 = SocketAddr::from(([203, 0, 113, 20], 40_000));
        let v6 = SocketAddr::new("2001:db8::7".parse().expect("an address"), 40_001);
        let list = vec![
            Candidate { kind: CandidateKind::Local, address: v6 },
            Candidate { kind: CandidateKind::Observed, address: v4 },
        ];
        vec![
            PathMessage::Candidates { epoch: 5, sequence: 7, round: 2, list },
            PathMessage::Candidates { epoch: 5, sequence: 8, round: 0, list: vec![] },
            PathMessage::Heard { epoch: 5, sequence: 7 },
            PathMessage::Probe { id: 1 << 60, length: MIN_PROBE_LEN },
            PathMessage::Probe { id: 3, length: 1_280 },
            PathMessage::Proof { id: 9, seen: v6 },
        ]
    }

    #[test]
    fn every_message_comes_back_from_its_bytes_padded_or_not() {
        for message in examples() {
            let mut bytes = message.encode();
            assert!(PathMessage::is_claimed_by(&bytes));
            assert_eq!(PathMessage::parse(&bytes), Ok(message.clone()));
            bytes.resize(bytes.len().next_multiple_of(16), 0);
            assert_eq!(PathMessage::parse(&bytes), Ok(message));
        }
    }

    #[test]
    fn an_answer_is_never_longer_than_its_question() {
        let v6 = SocketAddr::new("2001:db8::7".parse().expect("an address"), 1);
        let longest = PathMessage::Proof { id: 1, seen: v6 }.encode().len();
        assert!(longest <= MIN_PROBE_LEN);
    }

    #[test]
    fn a_message_cut_at_any_byte_is_refused() {
        for message in examples() {
            let bytes = message.encode();
            for length in 0..bytes.len() {
                assert!(PathMessage::parse(&bytes[..length]).is_err(), "{message:?} cut at {length}");
            }
        }
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_refused() {
        let mut bytes =
            PathMessage::Proof { id: 1, seen: "[2001:db8::1]:5".parse().expect("an address") }.encode();
        let at = bytes.len() - 16;
        bytes[at..].copy_from_slice(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        assert_eq!(PathMessage::parse(&bytes), Err(MessageError::NotCanonical));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_parses_has_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(message) = PathMessage::parse(&bytes) {
                prop_assert_eq!(PathMessage::parse(&message.encode()), Ok(message));
            }
        }
    }
}
