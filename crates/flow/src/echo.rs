//! ICMP echo (ping) inside a tunnel and towards a target.

use crate::craft::{checksum, ip_packet, pseudo_header};
use crate::ip::{IpPacket, Protocol};
use std::net::IpAddr;

const HEADER: usize = 8;

/// Which half of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoKind {
    /// "Are you there?"
    Request,
    /// "Yes."
    Reply,
}

impl EchoKind {
    /// RFC 792 and RFC 4443 section 4.
    const fn number(self, v4: bool) -> u8 {
        match (self, v4) {
            (Self::Request, true) => 8,
            (Self::Reply, true) => 0,
            (Self::Request, false) => 128,
            (Self::Reply, false) => 129,
        }
    }
}

/// An echo message that passed the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Which half.
    pub kind: EchoKind,
    /// Which program asks: one conversation has one.
    pub identifier: u16,
    /// Which of its questions.
    pub sequence: u16,
    /// What comes back unchanged.
    pub data: &'a [u8],
}

impl<'a> Echo<'a> {
    /// Reads an ICMP message, of IPv4 or of IPv6. `None` for any other kind.
    #[must_use]
    pub fn parse(message: &'a [u8], v4: bool) -> Option<Self> {
        let (header, data) = message.split_first_chunk::<HEADER>()?;
        let kind = match header[0] {
            kind if kind == EchoKind::Request.number(v4) => EchoKind::Request,
            kind if kind == EchoKind::Reply.number(v4) => EchoKind::Reply,
            _ => return None,
        };
        (header[1] == 0).then_some(Self {
            kind,
            identifier: u16::from_be_bytes([header[4], header[5]]),
            sequence: u16::from_be_bytes([header[6], header[7]]),
            data,
        })
    }

    /// The ICMP message. IPv4's has its sum; in IPv6's it is zero, because it covers the addresses too: whoever knows
    /// these fills it in, as a kernel does.
    #[must_use]
    pub fn message(&self, v4: bool) -> Vec<u8> {
        let mut message = Vec::with_capacity(HEADER + self.data.len());
        message.extend_from_slice(&[self.kind.number(v4), 0, 0, 0]);
        message.extend_from_slice(&self.identifier.to_be_bytes());
        message.extend_from_slice(&self.sequence.to_be_bytes());
        message.extend_from_slice(self.data);
        if v4 {
            let sum = checksum(0, &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// The IP packet, however long; `None` when it is longer than any or the addresses are of two families.
    #[must_use]
    pub fn packet(&self, src: IpAddr, dst: IpAddr) -> Option<Vec<u8>> {
        let ip = if src.is_ipv4() { 20 } else { 0 };
        if src.is_ipv4() != dst.is_ipv4() || ip + HEADER + self.data.len() > usize::from(u16::MAX) {
            return None;
        }
        let mut message = self.message(src.is_ipv4());
        let protocol = if src.is_ipv4() { 1 } else { 58 };
        if src.is_ipv6() {
            let sum = checksum(pseudo_header(src, dst, protocol, message.len()), &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        Some(ip_packet(src, dst, protocol, &message))
    }
}

impl<'a> IpPacket<'a> {
    /// The echo message in this packet, if it is one.
    #[must_use]
    pub fn echo(&self) -> Option<Echo<'a>> {
        if self.protocol != Protocol::Icmp {
            return None;
        }
        Echo::parse(self.payload, self.src.is_ipv4())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, Ipv6Packet};

    #[test]
    fn an_echo_reads_back_and_its_sum_verifies_elsewhere() {
        for (src, dst) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (src, dst): (IpAddr, IpAddr) = (src.parse().expect("address"), dst.parse().expect("address"));
            for kind in [EchoKind::Request, EchoKind::Reply] {
                let echo = Echo { kind, identifier: 7, sequence: 513, data: b"are you there" };
                let bytes = echo.packet(src, dst).expect("fits");
                let packet = IpPacket::parse(&bytes).expect("own packet");
                assert_eq!(packet.echo(), Some(echo));
                let sums = ChecksumCapabilities::default();
                if src.is_ipv4() {
                    let other = Icmpv4Packet::new_checked(packet.payload).expect("ICMP");
                    Icmpv4Repr::parse(&other, &sums).expect("the sum verifies");
                } else {
                    let ip = Ipv6Packet::new_checked(&bytes[..]).expect("IPv6");
                    let other = Icmpv6Packet::new_checked(packet.payload).expect("ICMPv6");
                    Icmpv6Repr::parse(&ip.src_addr(), &ip.dst_addr(), &other, &sums)
                        .expect("the sum verifies");
                }
            }
        }
    }

    #[test]
    fn an_error_a_code_and_the_other_familys_number_are_no_echo() {
        let v4 = Echo { kind: EchoKind::Request, identifier: 1, sequence: 1, data: b"" }.message(true);
        assert!(Echo::parse(&v4, true).is_some() && Echo::parse(&v4, false).is_none());
        let mut coded = v4.clone();
        coded[1] = 1;
        assert_eq!(Echo::parse(&coded, true), None);
        assert_eq!(Echo::parse(&v4[..7], true), None);
        assert_eq!(Echo::parse(&[3, 0, 0, 0, 0, 0, 0, 0], true), None);
    }

    proptest! {
        #[test]
        fn what_parses_is_written_the_same_way(mut bytes in proptest::collection::vec(any::<u8>(), 8..60), v4 in any::<bool>(), reply in any::<bool>()) {
            bytes[0] = if reply { EchoKind::Reply } else { EchoKind::Request }.number(v4);
            bytes[1] = 0;
            let echo = Echo::parse(&bytes, v4).expect("an echo");
            let again = echo.message(v4);
            prop_assert_eq!(&again[4..], &bytes[4..]);
            prop_assert_eq!(again[0], bytes[0]);
        }
    }
}
