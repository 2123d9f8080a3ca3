//! STUN as a client needs it (RFC 8489): the question which address a PoP sees, and its answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// Filling (RFC 5780 section 7.6): a PoP answers no request that is shorter than its answer.
const PADDING: [u8; 24] = {
    let mut attribute = [0; 24];
    attribute[1] = 0x26;
    attribute[3] = 20;
    attribute
};

/// A Binding request, as long as the longest answer. The transaction is to be random: by it the answer is known.
#[must_use]
pub fn stun_request(transaction: [u8; 12]) -> Vec<u8> {
    let mut request = vec![0, 1, 0, 24];
    request.extend_from_slice(&MAGIC_COOKIE);
    request.extend_from_slice(&transaction);
    request.extend_from_slice(&PADDING);
    request
}

/// The XOR-MAPPED-ADDRESS (RFC 8489 section 14.2) of the answer to a transaction; none when it is no such answer.
#[must_use]
pub fn stun_mapped_address(answer: &[u8], transaction: [u8; 12]) -> Option<SocketAddr> {
    let (header, mut attributes) = answer.split_at_checked(20)?;
    let is_ours = header[..2] == [1, 1] && header[4..8] == MAGIC_COOKIE && header[8..] == transaction;
    if !is_ours || usize::from(u16::from_be_bytes([header[2], header[3]])) != attributes.len() {
        return None;
    }
    while let Some((head, rest)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        if head[..2] == [0x00, 0x20] {
            let port = u16::from_be_bytes([*value.get(2)?, *value.get(3)?]) ^ 0x2112;
            let unmasked: Vec<u8> =
                value.get(4..)?.iter().zip(&header[4..]).map(|(byte, mask)| byte ^ mask).collect();
            let ip = match value.get(1)? {
                1 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(unmasked).ok()?)),
                2 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(unmasked).ok()?)),
                _ => return None,
            };
            return Some(SocketAddr::new(ip, port));
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_rfc_5769_are_read() {
        let transaction = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let mut answer = vec![1, 1, 0, 12];
        answer.extend_from_slice(&MAGIC_COOKIE);
        answer.extend_from_slice(&transaction);
        // RFC 5769 section 2.2.
        answer.extend_from_slice(&[0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(stun_mapped_address(&answer, transaction), "192.0.2.1:32853".parse().ok());
        assert_eq!(stun_mapped_address(&answer, [0; 12]), None);
        for length in 0..answer.len() {
            assert_eq!(stun_mapped_address(&answer[..length], transaction), None);
        }
    }

    #[test]
    fn a_request_is_as_long_as_the_longest_answer() {
        assert!(stun_request([0; 12]).len() >= 20 + 4 + 20);
    }
}
