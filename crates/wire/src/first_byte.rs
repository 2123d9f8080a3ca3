//! The total first-byte table of a PoP's UDP port (and of an agent's socket).
//!
//! | bytes | claimed by | source |
//! | --- | --- | --- |
//! | `0x01..=0x04`, then three zero bytes, ≥ 32 bytes | WireGuard, straight from a peer | WireGuard white paper, section 5.4 |
//! | else `0x00..=0x03`, ≥ 20 bytes, magic cookie at 4 | STUN | RFC 8489 section 5 |
//! | `0x40..=0x7F` | QUIC, short header | RFC 9000 section 17.3 |
//! | `0x80..=0x8F` | relay frame | ours; the range RFC 9443 leaves to RTP, which no PoP speaks |
//! | `0xC0..=0xFF` | QUIC, long header | RFC 9000 section 17.2 |
//! | everything else, and the empty datagram | nobody | counted and dropped |
//!
//! WireGuard comes before STUN: a STUN message with zero at 1 and a length of zero would be of type 0x0100,
//! 0x0200 or 0x0300, which are of the reserved method 0 (RFC 8489 section 18.2). A PoP gets no WireGuard outside
//! relay frames and drops it as nobody's.
//!
//! QUIC's fixed bit is never greased on this port (RFC 9287 is off), so the ranges are disjoint.

/// Mask of the kernel's filter that sends relay frames to the relay socket.
pub const RELAY_FIRST_BYTE_MASK: u8 = 0xF0;
/// A first byte is a relay frame's when `byte & RELAY_FIRST_BYTE_MASK` is this.
pub const RELAY_FIRST_BYTE_VALUE: u8 = 0x80;

const STUN_MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const STUN_HEADER_LEN: usize = 20;
/// The smallest WireGuard message, a keepalive: 16 bytes of header, 16 of tag (white paper, section 5.4.6).
const WIREGUARD_LEN: usize = 32;

/// Who a datagram belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DatagramKind {
    /// A QUIC packet.
    Quic,
    /// A relay frame.
    Relay,
    /// A STUN message.
    Stun,
    /// A WireGuard message that no relay carried.
    WireGuard,
    /// Nobody's: dropped and counted.
    Foreign,
}

/// Classifies one datagram (one GRO segment). Total: each input has exactly one kind.
#[must_use]
pub fn classify(datagram: &[u8]) -> DatagramKind {
    match datagram.first() {
        Some(byte) if byte & RELAY_FIRST_BYTE_MASK == RELAY_FIRST_BYTE_VALUE => DatagramKind::Relay,
        Some(0x40..=0x7F | 0xC0..=0xFF) => DatagramKind::Quic,
        Some(0x01..=0x04) if datagram.len() >= WIREGUARD_LEN && datagram[1..4] == [0; 3] => {
            DatagramKind::WireGuard
        }
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
        let mut counts = [0_u32; 5];
        for byte in 0..=u8::MAX {
            let mut datagram = vec![byte; 32];
            datagram[4..8].copy_from_slice(&STUN_MAGIC_COOKIE);
            let kind = classify(&datagram);
            counts[kind as usize] += 1;
            let filter = byte & RELAY_FIRST_BYTE_MASK == RELAY_FIRST_BYTE_VALUE;
            assert_eq!(filter, kind == DatagramKind::Relay, "byte {byte:#04x}");
        }
        assert_eq!(counts, [128, 16, 4, 0, 108]);
    }

    #[test]
    fn a_wireguard_message_is_one_by_its_first_four_bytes() {
        for byte in 0..=u8::MAX {
            let mut datagram = [0; 32];
            datagram[0] = byte;
            let is_one = (1..=4).contains(&byte);
            assert_eq!(classify(&datagram) == DatagramKind::WireGuard, is_one, "byte {byte:#04x}");
            datagram[2] = 1;
            assert_ne!(classify(&datagram), DatagramKind::WireGuard);
        }
        assert_eq!(classify(&[4, 0, 0, 0]), DatagramKind::Foreign);
    }

    #[test]
    fn a_stun_byte_without_the_cookie_is_foreign() {
        assert_eq!(classify(&[0; 32]), DatagramKind::Foreign);
        assert_eq!(classify(&[0x00, 0x01]), DatagramKind::Foreign);
        assert_eq!(classify(&[]), DatagramKind::Foreign);
    }
}
