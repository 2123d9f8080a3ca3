//! The total first-byte table of a PoP's UDP port (and of an agent's socket).
//!
//! | bytes | claimed by | source |
//! | --- | --- | --- |
//! | `0x00..=0x03`, ≥ 20 bytes, magic cookie at 4 | STUN | RFC 8489 section 5 |
//! | `0x40..=0x7F` | QUIC, short header | RFC 9000 section 17.3 |
//! | `0x80..=0x8F` | relay frame | ours; the range RFC 9443 leaves to RTP, which no PoP speaks |
//! | `0xC0..=0xFF` | QUIC, long header | RFC 9000 section 17.2 |
//! | everything else, and the empty datagram | nobody | counted and dropped |
//!
//! QUIC's fixed bit is never greased on this port (RFC 9287 is off), so the ranges are disjoint.

/// Mask of the kernel's filter that sends relay frames to the relay socket.
pub const RELAY_FIRST_BYTE_MASK: u8 = 0xF0;
/// A first byte is a relay frame's when `byte & RELAY_FIRST_BYTE_MASK` is this.
pub const RELAY_FIRST_BYTE_VALUE: u8 = 0x80;

const STUN_MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const STUN_HEADER_LEN: usize = 20;

/// Who a datagram belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DatagramKind {
    /// A QUIC packet.
    Quic,
    /// A relay frame.
    Relay,
    /// A STUN message.
    Stun,
    /// Nobody's: dropped and counted.
    Foreign,
}

/// Classifies one datagram (one GRO segment). Total: each input has exactly one kind.
#[must_use]
pub fn classify(datagram: &[u8]) -> DatagramKind {
    match datagram.first() {
        Some(byte) if byte & RELAY_FIRST_BYTE_MASK == RELAY_FIRST_BYTE_VALUE => DatagramKind::Relay,
        Some(0x40..=0x7F | 0xC0..=0xFF) => DatagramKind::Quic,
        Some(0x00..=0x03) if datagram.len() >= STUN_HEADER_LEN && datagram[4..8] == STUN_MAGIC_COOKIE => {
            DatagramKind::Stun
        }
        _ => DatagramKind::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_first_byte_has_one_owner_and_the_kernel_filter_agrees() {
        let mut counts = [0_u32; 4];
        for byte in 0..=u8::MAX {
            let mut datagram = vec![byte; 32];
            datagram[4..8].copy_from_slice(&STUN_MAGIC_COOKIE);
            let kind = classify(&datagram);
            counts[kind as usize] += 1;
            let filter = byte & RELAY_FIRST_BYTE_MASK == RELAY_FIRST_BYTE_VALUE;
            assert_eq!(filter, kind == DatagramKind::Relay, "byte {byte:#04x}");
        }
        assert_eq!(counts, [128, 16, 4, 108]);
    }

    #[test]
    fn a_stun_byte_without_the_cookie_is_foreign() {
        assert_eq!(classify(&[0; 32]), DatagramKind::Foreign);
        assert_eq!(classify(&[0x00, 0x01]), DatagramKind::Foreign);
        assert_eq!(classify(&[]), DatagramKind::Foreign);
    }
}
