//! STUN binding requests (RFC 8489), for anybody who asks which address this PoP sees.
//!
//! A response never has more bytes than its request: shorter requests get silence.

use std::net::{IpAddr, SocketAddr};

const HEADER_LEN: usize = 20;
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_RESPONSE: [u8; 2] = [0x01, 0x01];
/// RFC 8489 section 14.2.
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];
/// RFC 5780 section 7.6: what a request is padded with.
const PADDING: u16 = 0x0026;
/// RFC 8489 section 14: attributes from here on may be ignored by who does not know them.
const OPTIONAL: u16 = 0x8000;

/// Why a STUN message is not answered. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum StunRefusal {
    /// Not a binding request whose length field is right.
    #[error("not a well-formed STUN binding request")]
    Malformed,
    /// Shorter than the response would be.
    #[error("a STUN request shorter than its response")]
    TooShort,
    /// An attribute that must be understood and is not.
    #[error("a STUN attribute that must be understood and is not")]
    UnknownAttribute,
}

impl StunRefusal {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooShort => "too_short",
            Self::UnknownAttribute => "unknown_attribute",
        }
    }
}

/// The response to a binding request that came from `source`.
///
/// # Errors
/// Why there is none.
pub fn answer(request: &[u8], source: SocketAddr) -> Result<Vec<u8>, StunRefusal> {
    let (header, mut attributes) = request.split_at_checked(HEADER_LEN).ok_or(StunRefusal::Malformed)?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[..2] != BINDING_REQUEST || header[4..8] != MAGIC_COOKIE || length != attributes.len() {
        return Err(StunRefusal::Malformed);
    }
    // RFC 8489 section 14: type, length, value, padded to four bytes.
    while let Some((head, rest)) = attributes.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([head[0], head[1]]);
        if kind < OPTIONAL && kind != PADDING {
            return Err(StunRefusal::UnknownAttribute);
        }
        let length = usize::from(u16::from_be_bytes([head[2], head[3]])).next_multiple_of(4);
        attributes = rest.get(length..).ok_or(StunRefusal::Malformed)?;
    }
    if !attributes.is_empty() {
        return Err(StunRefusal::Malformed);
    }
    let transaction = &header[4..];
    let (family, mut address) = match source.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    // The mask is the cookie and the transaction id, which lie next to each other in the header.
    for (byte, mask) in address.iter_mut().zip(transaction) {
        *byte ^= mask;
    }
    let port = source.port() ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]]);
    let value_len = u8::try_from(4 + address.len()).expect("4 and at most 16 bytes");
    let mut response = Vec::with_capacity(HEADER_LEN + 4 + usize::from(value_len));
    response.extend_from_slice(&BINDING_RESPONSE);
    response.extend_from_slice(&[0, value_len + 4]);
    response.extend_from_slice(transaction);
    response.extend_from_slice(&XOR_MAPPED_ADDRESS);
    response.extend_from_slice(&[0, value_len, 0, family]);
    response.extend_from_slice(&port.to_be_bytes());
    response.extend_from_slice(&address);
    if request.len() < response.len() && !planted::is("short-request-answered") {
        Err(StunRefusal::TooShort)
    } else {
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(padding: u8) -> Vec<u8> {
        // The transaction id of RFC 5769 section 2.2.
        let id = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let mut request = vec![0x00, 0x01, 0x00, 4 + padding];
        request.extend_from_slice(&MAGIC_COOKIE);
        request.extend_from_slice(&id);
        request.extend_from_slice(&[0x00, 0x26, 0x00, padding]);
        request.resize(request.len() + usize::from(padding), 0);
        request
    }

    #[test]
    fn the_mapped_addresses_of_rfc_5769_come_out() {
        // RFC 5769 section 2.2.
        let answer_v4 = answer(&request(8), "192.0.2.1:32853".parse().expect("address")).expect("answered");
        assert_eq!(answer_v4[20..], [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        // RFC 5769 section 2.3.
        let source = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().expect("address");
        let answer_v6 = answer(&request(20), source).expect("answered");
        assert_eq!(answer_v6[20..28], [0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47]);
        assert_eq!(answer_v6[28..36], [0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79]);
        assert_eq!(answer_v6[36..], [0xbc, 0x25, 0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9]);
    }

    #[test]
    fn a_request_shorter_than_its_answer_gets_silence() {
        let source = "192.0.2.1:32853".parse().expect("address");
        assert_eq!(answer(&request(4), source), Err(StunRefusal::TooShort));
    }

    proptest! {
        #[test]
        fn no_request_panics_or_is_amplified(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), shape: bool) {
            if shape && bytes.len() >= 20 {
                let length = u8::try_from(bytes.len() - 20).expect("short");
                bytes[..4].copy_from_slice(&[0, 1, 0, length]);
                bytes[4..8].copy_from_slice(&MAGIC_COOKIE);
            }
            if let Ok(response) = answer(&bytes, "[2001:db8::1]:9".parse().expect("address")) {
                prop_assert!(response.len() <= bytes.len());
            }
        }
    }
}
