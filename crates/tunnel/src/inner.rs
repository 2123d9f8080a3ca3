//! The little that a tunnel must know of inner packets: how long they are, because WireGuard pads them.

/// WireGuard pads inner packets to a multiple of 16 bytes (white paper, section 5.4.6).
const PADDING: usize = 16;
/// Inner MTU at least (architecture): padding never grows a packet beyond it.
pub(crate) const INNER_MTU: usize = 1280;

/// Pads a packet in place as the white paper says, never past the inner MTU.
pub(crate) fn pad(packet: &mut Vec<u8>) {
    let padded = packet.len().next_multiple_of(PADDING).min(INNER_MTU);
    if padded > packet.len() {
        packet.resize(padded, 0);
    }
}

/// Cuts the padding off; `false` when these are not the bytes of one IP packet.
pub(crate) fn trim(packet: &mut Vec<u8>) -> bool {
    let length = match packet.first().map(|byte| byte >> 4) {
        // Total length at 2..4 (RFC 791 section 3.1), header of at least 20 bytes.
        Some(4) if packet.len() >= 20 => usize::from(u16::from_be_bytes([packet[2], packet[3]])),
        // Payload length at 4..6, behind a header of 40 bytes (RFC 8200 section 3).
        Some(6) if packet.len() >= 40 => 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])),
        _ => return false,
    };
    if length > packet.len() || length < 20 {
        return false;
    }
    packet.truncate(length);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_comes_off_again() {
        for length in 20_u16..=1280 {
            let mut packet = vec![0_u8; usize::from(length)];
            packet[0] = 0x45;
            packet[2..4].copy_from_slice(&length.to_be_bytes());
            let original = packet.clone();
            pad(&mut packet);
            assert!(packet.len() <= INNER_MTU && (packet.len() % 16 == 0 || packet.len() == INNER_MTU));
            assert!(trim(&mut packet));
            assert_eq!(packet, original);
        }
    }

    #[test]
    fn what_is_no_ip_packet_is_not_trimmed() {
        for bad in [&[][..], &[0x45; 19], &[0x60; 39], &[0x00; 64]] {
            assert!(!trim(&mut bad.to_vec()));
        }
        let mut longer_than_it_is = vec![0_u8; 40];
        longer_than_it_is[0] = 0x45;
        longer_than_it_is[3] = 41;
        assert!(!trim(&mut longer_than_it_is));
    }
}
