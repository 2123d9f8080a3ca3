//! The few packets that no TCP state machine makes: resets and acknowledgements for flows that are gone,
//! and ICMP errors.

use crate::echo::EchoKind;
use crate::ip::{IpPacket, Protocol, TcpFlags, TcpSegment};
use crate::limits::INNER_MTU;
use std::net::{IpAddr, SocketAddr};

const HOP_LIMIT: u8 = 64;
const TCP_HEADER: usize = 20;

/// Why something cannot be reached, as ICMP says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unreachable {
    /// Policy: "communication administratively prohibited" (RFC 1812 section 5.2.7.1 code 13; RFC 4443
    /// section 3.1 code 1).
    Prohibited,
    /// The host does not answer: "host unreachable" (RFC 792 code 1), "address unreachable" (RFC 4443
    /// section 3.1 code 3).
    Host,
    /// Nothing listens: "port unreachable" (RFC 792 code 3, RFC 4443 section 3.1 code 4).
    Port,
}

impl Unreachable {
    const fn code_v4(self) -> u8 {
        match self {
            Self::Prohibited => 13,
            Self::Host => 1,
            Self::Port => 3,
        }
    }

    const fn code_v6(self) -> u8 {
        match self {
            Self::Prohibited => 1,
            Self::Host => 3,
            Self::Port => 4,
        }
    }
}

const ICMP_V4_UNREACHABLE: u8 = 3;
const ICMP_V4_FRAGMENTATION_NEEDED: u8 = 4;
const ICMP_V6_UNREACHABLE: u8 = 1;
const ICMP_V6_TOO_BIG: u8 = 2;

/// The ICMP error that answers a packet; none for ICMP but echo requests, so that errors breed no errors (RFC 1122
/// section 3.2.2).
#[must_use]
pub fn unreachable(packet: &IpPacket<'_>, why: Unreachable) -> Option<Vec<u8>> {
    match packet.dst {
        IpAddr::V4(_) => error(packet, ICMP_V4_UNREACHABLE, why.code_v4(), [0; 4]),
        IpAddr::V6(_) => error(packet, ICMP_V6_UNREACHABLE, why.code_v6(), [0; 4]),
    }
}

/// The ICMP error that says how long packets to there may be (RFC 1191 section 4, RFC 4443 section 3.2).
#[must_use]
pub fn too_big(packet: &IpPacket<'_>, mtu: u16) -> Option<Vec<u8>> {
    let [high, low] = mtu.to_be_bytes();
    match packet.dst {
        IpAddr::V4(_) => error(packet, ICMP_V4_UNREACHABLE, ICMP_V4_FRAGMENTATION_NEEDED, [0, 0, high, low]),
        IpAddr::V6(_) => error(packet, ICMP_V6_TOO_BIG, 0, [0, 0, high, low]),
    }
}

fn error(packet: &IpPacket<'_>, kind: u8, code: u8, rest: [u8; 4]) -> Option<Vec<u8>> {
    if packet.protocol == Protocol::Icmp && packet.echo().is_none_or(|echo| echo.kind == EchoKind::Reply) {
        return None;
    }
    let (header_len, protocol) = match packet.dst {
        IpAddr::V4(_) => (20, 1),
        IpAddr::V6(_) => (40, 58),
    };
    // Quoted: as much as fits into 576 bytes (RFC 1812 section 4.3.2.3) or the minimum MTU (RFC 4443
    // section 2.4 (c)).
    let most = if header_len == 20 { 576 } else { INNER_MTU };
    let quoted = &packet.bytes[..packet.bytes.len().min(most - header_len - 8)];
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&rest);
    message.extend_from_slice(quoted);
    // ICMPv6 sums the pseudo-header too (RFC 4443 section 2.3).
    let pseudo =
        if header_len == 40 { pseudo_header(packet.dst, packet.src, protocol, message.len()) } else { 0 };
    let sum = checksum(pseudo, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(ip_packet(packet.dst, packet.src, protocol, &message))
}

/// What an ICMP error says about which flow of ours: the flow's own direction, and why.
pub(crate) fn quoted_error<'a>(packet: &IpPacket<'a>) -> Option<(IpPacket<'a>, Unreachable)> {
    let (header, quoted) = packet.payload.split_at_checked(8)?;
    let why = match (packet.src, header[0], header[1]) {
        (IpAddr::V4(_), ICMP_V4_UNREACHABLE, 9 | 10 | 13) | (IpAddr::V6(_), ICMP_V6_UNREACHABLE, 1) => {
            Unreachable::Prohibited
        }
        (IpAddr::V4(_), ICMP_V4_UNREACHABLE, _) | (IpAddr::V6(_), ICMP_V6_UNREACHABLE, _) => {
            Unreachable::Host
        }
        _ => return None,
    };
    Some((IpPacket::quoted(quoted)?, why))
}

/// The reset that answers a segment of no flow (RFC 9293 section 3.10.7.1); none for a reset.
pub(crate) fn reset_for(segment: &TcpSegment) -> Option<Vec<u8>> {
    if segment.flags.rst() {
        return None;
    }
    let (to, from) = (segment.tuple.src, segment.tuple.dst);
    Some(if segment.flags.ack() {
        self::segment(from, to, segment.ack, 0, TcpFlags::RST)
    } else {
        let ack = segment.seq.wrapping_add(segment.sequence_len());
        self::segment(from, to, 0, ack, TcpFlags::RST | TcpFlags::ACK)
    })
}

/// The acknowledgement of a FIN that was sent again after the flow had ended here (RFC 9293
/// section 3.10.7.4, TIME-WAIT): all that is needed is in the segment.
pub(crate) fn acknowledge_again(segment: &TcpSegment) -> Vec<u8> {
    let ack = segment.seq.wrapping_add(segment.sequence_len());
    self::segment(segment.tuple.dst, segment.tuple.src, segment.ack, ack, TcpFlags::ACK)
}

/// A segment without data.
pub(crate) fn segment(src: SocketAddr, dst: SocketAddr, seq: u32, ack: u32, flags: u8) -> Vec<u8> {
    let mut tcp = [0_u8; TCP_HEADER];
    tcp[0..2].copy_from_slice(&src.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&dst.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&ack.to_be_bytes());
    tcp[12] = 0x50;
    tcp[13] = flags;
    let sum = checksum(pseudo_header(src.ip(), dst.ip(), 6, TCP_HEADER), &tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    ip_packet(src.ip(), dst.ip(), 6, &tcp)
}

/// An IP packet around a payload; both addresses are of one family.
pub(crate) fn ip_packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(40 + payload.len());
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = u16::try_from(20 + payload.len()).expect("payloads here fit a packet");
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&total.to_be_bytes());
            // No identification, don't fragment (RFC 6864 section 4.1).
            packet.extend_from_slice(&[0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
            packet.extend_from_slice(&src.octets());
            packet.extend_from_slice(&dst.octets());
            let sum = checksum(0, &packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (src, dst) => {
            let length = u16::try_from(payload.len()).expect("payloads here fit a packet");
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&length.to_be_bytes());
            packet.extend_from_slice(&[protocol, HOP_LIMIT]);
            for address in [src, dst] {
                let address = match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped(),
                    IpAddr::V6(address) => address,
                };
                packet.extend_from_slice(&address.octets());
            }
        }
    }
    packet.extend_from_slice(payload);
    packet
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub(crate) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> u32 {
    let addresses = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => sum(&src.octets()) + sum(&dst.octets()),
        _ => 0,
    };
    addresses + u32::from(protocol) + u32::try_from(length).unwrap_or(0)
}

/// The internet checksum (RFC 1071) on top of a sum.
pub(crate) fn checksum(start: u32, bytes: &[u8]) -> u16 {
    let mut total = start + sum(bytes);
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    !u16::try_from(total).expect("folded to 16 bits")
}

/// Sums 16-bit words; at most 65,535 bytes are 2³¹, so 32 bits cannot overflow.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket,
        TcpRepr,
    };

    fn pairs() -> [(SocketAddr, SocketAddr); 2] {
        [("10.0.0.1:4000", "10.0.0.2:80"), ("[fd00::1]:4000", "[fd00::2]:80")]
            .map(|(src, dst)| (src.parse().expect("address"), dst.parse().expect("address")))
    }

    #[test]
    fn checksums_verify_by_another_implementation() {
        for (src, dst) in pairs() {
            let bytes = segment(src, dst, 1, 2, TcpFlags::SYN);
            let read = IpPacket::parse(&bytes).expect("own packet");
            let (from, to) = (IpAddress::from(src.ip()), IpAddress::from(dst.ip()));
            let tcp = TcpPacket::new_checked(read.payload).expect("a TCP header");
            TcpRepr::parse(&tcp, &from, &to, &ChecksumCapabilities::default()).expect("sums verify");

            let error = unreachable(&read, Unreachable::Prohibited).expect("not ICMP");
            match src {
                SocketAddr::V4(_) => {
                    let ip = Ipv4Packet::new_checked(&error[..]).expect("IPv4");
                    assert!(ip.verify_checksum());
                    let icmp = Icmpv4Packet::new_checked(ip.payload()).expect("ICMP");
                    Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).expect("sums verify");
                }
                SocketAddr::V6(_) => {
                    let ip = Ipv6Packet::new_checked(&error[..]).expect("IPv6");
                    let icmp = Icmpv6Packet::new_checked(ip.payload()).expect("ICMPv6");
                    let (src, dst) = (ip.src_addr(), ip.dst_addr());
                    Icmpv6Repr::parse(&src, &dst, &icmp, &ChecksumCapabilities::default())
                        .expect("sums verify");
                }
            }
        }
    }

    #[test]
    fn an_error_quotes_the_packet_it_answers() {
        for (src, dst) in pairs() {
            for why in [Unreachable::Prohibited, Unreachable::Host, Unreachable::Port] {
                let bytes = segment(src, dst, 1, 2, TcpFlags::SYN);
                let error =
                    unreachable(&IpPacket::parse(&bytes).expect("own packet"), why).expect("not ICMP");
                let error = IpPacket::parse(&error).expect("own packet");
                assert_eq!((error.src, error.dst), (dst.ip(), src.ip()));
                let (quoted, said) = quoted_error(&error).expect("an error");
                // For a TCP flow a port that nobody listens at is a host that does not answer.
                assert_eq!(said, if why == Unreachable::Port { Unreachable::Host } else { why });
                let tuple = quoted.tuple().expect("ports are quoted");
                assert_eq!((tuple.src, tuple.dst), (src, dst));
                assert_eq!(unreachable(&error, why), None, "an error breeds no error");
            }
        }
    }

    #[test]
    fn a_question_is_answered_with_an_error_and_an_answer_is_not() {
        for (src, dst) in pairs() {
            for (kind, told) in [(EchoKind::Request, true), (EchoKind::Reply, false)] {
                let echo = crate::Echo { kind, identifier: 1, sequence: 1, data: b"" };
                let packet = echo.packet(src.ip(), dst.ip()).expect("fits");
                let packet = IpPacket::parse(&packet).expect("own packet");
                assert_eq!(unreachable(&packet, Unreachable::Prohibited).is_some(), told);
            }
        }
    }

    #[test]
    fn how_long_packets_may_be_is_said_where_hosts_look_for_it() {
        for (src, dst) in pairs() {
            let packet = crate::udp(src, dst, &[0; 1400]).expect("fits");
            let told = too_big(&IpPacket::parse(&packet).expect("own packet"), 1_280).expect("not ICMP");
            let told = IpPacket::parse(&told).expect("own packet");
            let (kind, code) = if src.is_ipv4() { (3, 4) } else { (2, 0) };
            assert_eq!(told.payload[..2], [kind, code]);
            assert_eq!(told.payload[4..8], [0, 0, 5, 0]);
            let quoted = IpPacket::quoted(&told.payload[8..]).expect("quoted").tuple().expect("ports");
            assert_eq!((quoted.src, quoted.dst), (src, dst));
        }
    }
}
