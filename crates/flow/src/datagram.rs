//! UDP inside a tunnel: reading a datagram, making one.

use crate::craft::{checksum, ip_packet, pseudo_header};
use crate::ip::{FiveTuple, IpError, IpPacket, Protocol};
use std::net::SocketAddr;

const HEADER: usize = 8;
const UDP: u8 = 17;

/// A UDP datagram that passed the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The two ends.
    pub tuple: FiveTuple,
    /// What it carries.
    pub data: &'a [u8],
}

impl<'a> IpPacket<'a> {
    /// Reads the UDP header of a UDP packet. Its sum is left alone, like TCP's here: WireGuard authenticated every byte.
    ///
    /// # Errors
    /// [`IpError::Transport`] when this is not UDP or its header is wrong.
    pub fn udp(&self) -> Result<Datagram<'a>, IpError> {
        let tuple = self.tuple().filter(|tuple| tuple.protocol == Protocol::Udp).ok_or(IpError::Transport)?;
        let header = self.payload.first_chunk::<HEADER>().ok_or(IpError::Transport)?;
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        // A source port of 0 asks for no answer (RFC 768); nothing here sends what nobody can answer.
        if tuple.src.port() == 0 || tuple.dst.port() == 0 {
            return Err(IpError::Transport);
        }
        let data = self.payload.get(HEADER..length).ok_or(IpError::Transport)?;
        Ok(Datagram { tuple, data })
    }
}

/// The IP packet of a datagram, however long; `None` when it is longer than any or the addresses are of two families.
#[must_use]
pub fn udp(src: SocketAddr, dst: SocketAddr, data: &[u8]) -> Option<Vec<u8>> {
    let length = HEADER + data.len();
    let ip = if src.is_ipv4() { 20 } else { 0 };
    if src.is_ipv4() != dst.is_ipv4() || ip + length > usize::from(u16::MAX) {
        return None;
    }
    let mut message = Vec::with_capacity(length);
    message.extend_from_slice(&src.port().to_be_bytes());
    message.extend_from_slice(&dst.port().to_be_bytes());
    message.extend_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend_from_slice(data);
    // A sum of zero says that there is none (RFC 768), and IPv6 must have one (RFC 8200 section 8.1).
    let sum = match checksum(pseudo_header(src.ip(), dst.ip(), UDP, length), &message) {
        0 => u16::MAX,
        sum => sum,
    };
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    Some(ip_packet(src.ip(), dst.ip(), UDP, &message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpAddress, UdpPacket, UdpRepr};

    fn ends(v4: bool) -> (SocketAddr, SocketAddr) {
        let (src, dst) =
            if v4 { ("10.0.0.1:5000", "10.0.0.2:53") } else { ("[fd00::1]:5000", "[fd00::2]:53") };
        (src.parse().expect("address"), dst.parse().expect("address"))
    }

    #[test]
    fn a_datagram_of_any_family_and_length_reads_back_and_its_sum_verifies_elsewhere() {
        for v4 in [true, false] {
            let (src, dst) = ends(v4);
            for length in [0, 1, 2, 1200, 9000, 65_507] {
                let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
                let bytes = udp(src, dst, &data).expect("fits");
                let packet = IpPacket::parse(&bytes).expect("own packet");
                let read = packet.udp().expect("own datagram");
                assert_eq!((read.tuple.src, read.tuple.dst, read.data), (src, dst, &data[..]));
                let other = UdpPacket::new_checked(packet.payload).expect("a header");
                UdpRepr::parse(
                    &other,
                    &IpAddress::from(src.ip()),
                    &IpAddress::from(dst.ip()),
                    &ChecksumCapabilities::default(),
                )
                .expect("the sum verifies");
            }
            assert_eq!(udp(src, dst, &[0; 65_528]), None);
        }
        assert_eq!(udp(ends(true).0, ends(false).1, b"x"), None);
    }

    #[test]
    fn a_length_that_lies_and_a_port_of_zero_are_refused() {
        let (src, dst) = ends(true);
        let good = udp(src, dst, b"abc").expect("fits");
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            IpPacket::parse(&bad).and_then(|packet| packet.udp().map(|_| ()))
        };
        for (at, bytes) in [(24, [0, 7]), (24, [0, 12]), (24, [0xFF, 0xFF]), (20, [0, 0]), (22, [0, 0])] {
            assert_eq!(with(at, &bytes), Err(IpError::Transport), "{at} {bytes:?}");
        }
        // Shorter than the packet is allowed: what is behind it belongs to nobody.
        assert_eq!(with(24, &[0, 10]), Ok(()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut bytes = bytes;
            if bytes.len() > 9 { bytes[0] = 0x45; bytes[9] = 17; }
            if let Ok(packet) = IpPacket::parse(&bytes) && let Ok(read) = packet.udp() {
                prop_assert!(read.data.len() + 8 <= packet.payload.len());
            }
        }
    }
}
