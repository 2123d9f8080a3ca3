//! Datagrams on a TLS stream (TCP 443), for networks that let no UDP out: each with its length in two bytes,
//! big-endian, in front. What they say is what they would say by UDP.
//!
//! The cores know addresses only. A stream has one of the discard-only prefix 100::/64 (RFC 6666), from which no
//! packet may come and to which none may go: whoever sees such a source on a UDP socket drops the packet.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The longest datagram on a stream: QUIC's and the relay's are shorter than any Ethernet frame.
pub const MAX_STREAM_DATAGRAM: usize = 2_048;
/// How much of a stream may wait for the end of a datagram.
const MAX_BUFFERED: usize = 64 * 1024;

/// The address that stands for stream `number`.
#[must_use]
pub fn stream_address(number: u64, port: u16) -> SocketAddr {
    let bits = (0x0100_u128 << 112) | u128::from(number);
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), port)
}

/// The address that stands for a stream of somebody whose network has this number: `origin` is the same for all that
/// come from one place, and says nothing else; 0 says nothing at all.
#[must_use]
pub fn stream_address_from(origin: u32, number: u32, port: u16) -> SocketAddr {
    stream_address((u64::from(origin) << 32) | u64::from(number), port)
}

/// Whether two addresses, as one PoP sees them, say that their owners stand behind one router: one IPv4 address, one /64
/// of IPv6, or streams from one place.
#[must_use]
pub fn shares_outside(one: SocketAddr, other: SocketAddr) -> bool {
    match (one.ip().to_canonical(), other.ip().to_canonical()) {
        (IpAddr::V4(one), IpAddr::V4(other)) => one == other,
        (IpAddr::V6(a), IpAddr::V6(b)) => match (is_stream_address(one), is_stream_address(other)) {
            (true, true) => a.segments()[4..6] == b.segments()[4..6] && a.segments()[4..6] != [0, 0],
            (false, false) => a.segments()[..4] == b.segments()[..4],
            _ => false,
        },
        _ => false,
    }
}

/// Whether an address stands for a stream.
#[must_use]
pub fn is_stream_address(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V6(ip) if ip.segments()[..4] == [0x0100, 0, 0, 0])
}

/// Appends one datagram to what goes out on a stream. One that is empty or too long is left out, as a
/// network would lose it.
pub fn encode_stream_datagram(out: &mut Vec<u8>, datagram: &[u8]) {
    if datagram.is_empty() || datagram.len() > MAX_STREAM_DATAGRAM {
        return;
    }
    let length = u16::try_from(datagram.len()).expect("at most 2,048");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(datagram);
}

/// Why a stream is not one of ours. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum StreamError {
    /// A datagram of no bytes.
    #[error("a datagram of no bytes on a stream")]
    Empty,
    /// A datagram longer than any.
    #[error("a datagram of more than {MAX_STREAM_DATAGRAM} bytes on a stream")]
    TooLong,
    /// More came than was taken out.
    #[error("more than {MAX_BUFFERED} bytes wait on a stream")]
    Full,
}

impl StreamError {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::Full => "full",
        }
    }
}

/// Cuts a stream into datagrams.
#[derive(Debug, Default)]
pub struct StreamReader {
    buffer: Vec<u8>,
    taken: usize,
}

impl StreamReader {
    /// Nothing has come yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), taken: 0 }
    }

    /// Takes what came. Call [`Self::next_datagram`] until it gives none.
    ///
    /// # Errors
    /// More waits than is taken out.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), StreamError> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        if self.buffer.len() + bytes.len() > MAX_BUFFERED {
            return Err(StreamError::Full);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole datagram.
    ///
    /// # Errors
    /// The stream is not one of ours; nothing after this means anything.
    pub fn next_datagram(&mut self) -> Result<Option<&[u8]>, StreamError> {
        let Some((head, rest)) = self.buffer[self.taken..].split_first_chunk::<2>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes(*head));
        match length {
            0 => Err(StreamError::Empty),
            1..=MAX_STREAM_DATAGRAM if rest.len() < length => Ok(None),
            1..=MAX_STREAM_DATAGRAM => {
                let from = self.taken + 2;
                self.taken = from + length;
                Ok(Some(&self.buffer[from..from + length]))
            }
            _ => Err(StreamError::TooLong),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(reader: &mut StreamReader) -> Result<Vec<Vec<u8>>, StreamError> {
        let mut found = Vec::new();
        while let Some(datagram) = reader.next_datagram()? {
            found.push(datagram.to_vec());
        }
        Ok(found)
    }

    #[test]
    fn a_stream_has_an_address_of_the_discard_prefix_and_nobody_else_has() {
        assert_eq!(stream_address(0x1_0002, 443), "[100::1:2]:443".parse().expect("an address"));
        assert!(is_stream_address(stream_address(u64::MAX, 1)));
        for other in ["203.0.113.1:443", "[2001:db8::1]:443", "[100:0:0:1::]:443", "[::1]:1"] {
            assert!(!is_stream_address(other.parse().expect("an address")), "{other}");
        }
    }

    #[test]
    fn empty_and_overlong_datagrams_end_the_stream() {
        let mut reader = StreamReader::new();
        reader.push(&[0, 0]).expect("room");
        assert_eq!(reader.next_datagram(), Err(StreamError::Empty));
        let mut reader = StreamReader::new();
        reader.push(&[0x08, 0x01]).expect("room");
        assert_eq!(reader.next_datagram(), Err(StreamError::TooLong));
    }

    #[test]
    fn what_is_never_taken_out_is_bounded() {
        let mut reader = StreamReader::new();
        let mut pushed = 0;
        while reader.push(&[1; 1024]).is_ok() {
            pushed += 1024;
            assert!(pushed <= MAX_BUFFERED);
        }
    }

    proptest! {
        #[test]
        fn datagrams_come_out_as_they_went_in_however_the_stream_is_cut(
            datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 0..20),
            cut in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            for datagram in &datagrams {
                encode_stream_datagram(&mut bytes, datagram);
            }
            let mut reader = StreamReader::new();
            let mut found = Vec::new();
            for chunk in bytes.chunks(cut) {
                reader.push(chunk).expect("room");
                found.extend(all(&mut reader).expect("ours"));
            }
            prop_assert_eq!(found, datagrams);
        }

        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut reader = StreamReader::new();
            if reader.push(&bytes).is_ok() {
                let _ = all(&mut reader);
            }
        }
    }

    #[test]
    fn two_addresses_share_their_outside_by_ipv4_address_by_64_bits_of_ipv6_or_by_the_place_of_a_stream() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let stream = |origin, number| stream_address_from(origin, number, 443);
        assert!(shares_outside(at("203.0.113.1:1"), at("203.0.113.1:2")));
        assert!(shares_outside(at("203.0.113.1:1"), at("[::ffff:203.0.113.1]:2")));
        assert!(!shares_outside(at("203.0.113.1:1"), at("203.0.113.2:1")));
        assert!(shares_outside(at("[2001:db8:1::2]:1"), at("[2001:db8:1::3]:2")));
        assert!(!shares_outside(at("[2001:db8:1::2]:1"), at("[2001:db8:2::2]:1")));
        assert!(shares_outside(stream(7, 1), stream(7, 2)));
        assert!(!shares_outside(stream(7, 1), stream(8, 1)));
        // Whose numbers say nothing of a place.
        assert!(!shares_outside(stream(0, 1), stream(0, 2)));
        assert!(!shares_outside(stream(7, 1), at("203.0.113.1:1")));
    }
}
