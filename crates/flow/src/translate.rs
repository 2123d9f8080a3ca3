//! A packet with other ends: what a connector that forwards by the kernel does with the packets of a flow.
//!
//! The payload is never looked at. Sums are carried over by difference (RFC 1624), so that a packet that was damaged
//! before is as wrong after; only where one family's header becomes another's (RFC 7915) is a sum made anew that there was
//! none of.

use crate::craft::{self, checksum, ip_packet, pseudo_header, sum};
use crate::echo::Echo;
use crate::ip::{IpPacket, Protocol, TcpFlags, TcpSegment};
use std::net::{IpAddr, SocketAddr};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where a transport header has its sum.
const TCP_SUM: usize = 16;
const UDP_SUM: usize = 6;
/// RFC 9293 section 3.2.
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_MSS: u8 = 2;

/// The packet with other addresses and ports, one hop further on; of another family where the new ends are. Options of an
/// IPv4 header go no further: they are for routers (RFC 7126 lets them be dropped). An echo's identifier stands for the port of
/// who asks. None for a packet that ends here: its hops are used up, it has no ports, or it is too long for the other family.
#[must_use]
pub fn translate(packet: &IpPacket<'_>, src: SocketAddr, dst: SocketAddr) -> Option<Vec<u8>> {
    let hops = hops(packet)?;
    if src.is_ipv4() != dst.is_ipv4() {
        return None;
    }
    if packet.protocol == Protocol::Icmp {
        let Echo { kind, sequence, data, .. } = packet.echo()?;
        let identifier = if kind == crate::EchoKind::Request { src.port() } else { dst.port() };
        let mut bytes = Echo { kind, identifier, sequence, data }.packet(src.ip(), dst.ip())?;
        set_hops(&mut bytes, hops);
        return Some(bytes);
    }
    let before = packet.tuple()?;
    let (number, at, least) = match packet.protocol {
        Protocol::Tcp => (TCP, TCP_SUM, 20),
        _ => (UDP, UDP_SUM, 8),
    };
    if packet.payload.len() < least {
        return None;
    }
    let header = packet.bytes.len() - packet.payload.len();
    // An IPv4 header with options may be as long as one of IPv6.
    let is_same_header =
        packet.src.is_ipv4() == src.is_ipv4() && header == if src.is_ipv4() { 20 } else { 40 };
    let mut bytes = if is_same_header {
        readdressed(packet, src.ip(), dst.ip(), hops)
    } else {
        // What IPv4 counts in its length is 20 bytes more than what IPv6 counts.
        if src.is_ipv4() && packet.payload.len() > usize::from(u16::MAX) - 20 {
            return None;
        }
        let mut bytes = ip_packet(src.ip(), dst.ip(), number, packet.payload);
        set_hops(&mut bytes, hops);
        bytes
    };
    let start = bytes.len() - packet.payload.len();
    let payload = &mut bytes[start..];
    payload[0..2].copy_from_slice(&src.port().to_be_bytes());
    payload[2..4].copy_from_slice(&dst.port().to_be_bytes());
    let old = u16::from_be_bytes([payload[at], payload[at + 1]]);
    let new = if packet.protocol == Protocol::Udp && old == 0 {
        // There was none, which IPv6 does not allow (RFC 8200 section 8.1).
        if src.is_ipv4() { 0 } else { made_anew(payload, src.ip(), dst.ip()) }
    } else {
        let sum = adjusted(old, words(before.src, before.dst), words(src, dst));
        if packet.protocol == Protocol::Udp && sum == 0 { u16::MAX } else { sum }
    };
    payload[at..at + 2].copy_from_slice(&new.to_be_bytes());
    Some(bytes)
}

/// What is left of a packet's hops behind this one.
fn hops(packet: &IpPacket<'_>) -> Option<u8> {
    let at = if packet.src.is_ipv4() { 8 } else { 7 };
    packet.bytes.get(at)?.checked_sub(1).filter(|left| *left > 0)
}

fn set_hops(bytes: &mut [u8], hops: u8) {
    if bytes[0] >> 4 == 4 {
        bytes[8] = hops;
        sum_header(&mut bytes[..20]);
    } else {
        bytes[7] = hops;
    }
}

fn sum_header(header: &mut [u8]) {
    header[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(0, header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The same header with other addresses of its own family.
fn readdressed(packet: &IpPacket<'_>, src: IpAddr, dst: IpAddr, hops: u8) -> Vec<u8> {
    let mut bytes = packet.bytes.to_vec();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes[8] = hops;
            bytes[12..16].copy_from_slice(&src.octets());
            bytes[16..20].copy_from_slice(&dst.octets());
            sum_header(&mut bytes[..20]);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes[7] = hops;
            bytes[8..24].copy_from_slice(&src.octets());
            bytes[24..40].copy_from_slice(&dst.octets());
        }
        // The caller looked.
        _ => {}
    }
    bytes
}

/// What of the ends a sum covers.
fn words(src: SocketAddr, dst: SocketAddr) -> u32 {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    address(src.ip()) + address(dst.ip()) + u32::from(src.port()) + u32::from(dst.port())
}

/// RFC 1624 section 3, equation 3.
fn adjusted(sum: u16, before: u32, after: u32) -> u16 {
    let mut total = u32::from(!sum) + u32::from(!fold(before)) + u32::from(fold(after));
    total = (total & 0xFFFF) + (total >> 16);
    !fold(total)
}

fn fold(mut total: u32) -> u16 {
    while total > 0xFFFF {
        total = (total & 0xFFFF) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

fn made_anew(datagram: &[u8], src: IpAddr, dst: IpAddr) -> u16 {
    match checksum(pseudo_header(src, dst, UDP, datagram.len()), datagram) {
        0 => u16::MAX,
        sum => sum,
    }
}

/// Lets no segment of the other side be longer than a link carries: its announced maximum is lowered in a packet that opens
/// a TCP connection or answers one (RFC 9293 section 3.7.1). `mtu` is the longest packet in the announcer's own family.
pub fn clamp_mss(packet: &mut [u8], mtu: usize) {
    let Ok((start, end)) = IpPacket::parse(packet).map(|read| {
        let start = read.bytes.len() - read.payload.len();
        let syn = read.tcp().is_ok_and(|segment| segment.flags.syn());
        let header = read.payload.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
        (start, if syn { start + header } else { start })
    }) else {
        return;
    };
    let ip = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let most = u16::try_from(mtu.saturating_sub(ip + 20)).unwrap_or(u16::MAX);
    let mut at = start + 20;
    while at < end {
        let length = match packet[at] {
            OPTION_END => return,
            OPTION_NOTHING => 1,
            _ => match packet.get(at + 1) {
                Some(length) if *length >= 2 => usize::from(*length),
                _ => return,
            },
        };
        if packet[at] == OPTION_MSS && length == 4 && at + 4 <= end {
            let old = u16::from_be_bytes([packet[at + 2], packet[at + 3]]);
            if old > most {
                packet[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
                let at_sum = start + TCP_SUM;
                let sum = u16::from_be_bytes([packet[at_sum], packet[at_sum + 1]]);
                // The option may begin at an odd place: its bytes are then the other halves of words.
                let swap =
                    |value: u16| if (at - start).is_multiple_of(2) { value } else { value.swap_bytes() };
                let sum = adjusted(sum, swap(old).into(), swap(most).into());
                packet[at_sum..at_sum + 2].copy_from_slice(&sum.to_be_bytes());
            }
            return;
        }
        at += length;
    }
}

/// The reset that answers a segment of no connection (RFC 9293 section 3.10.7.1); none for a reset.
#[must_use]
pub fn reset_for(segment: &TcpSegment) -> Option<Vec<u8>> {
    craft::reset_for(segment)
}

/// A reset in the middle of a connection: `seq` is what its receiver expects next (RFC 5961 section 3.2).
#[must_use]
pub fn reset(src: SocketAddr, dst: SocketAddr, seq: u32) -> Option<Vec<u8>> {
    (src.is_ipv4() == dst.is_ipv4()).then(|| craft::segment(src, dst, seq, 0, TcpFlags::RST))
}

/// The reset that answers a SYN whose next sequence number is `ack`.
#[must_use]
pub fn refusal(src: SocketAddr, dst: SocketAddr, ack: u32) -> Option<Vec<u8>> {
    (src.is_ipv4() == dst.is_ipv4()).then(|| craft::segment(src, dst, 0, ack, TcpFlags::RST | TcpFlags::ACK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EchoKind, udp};
    use proptest::prelude::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        IpAddress, Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
    };

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    /// Every pair of families, from and to.
    fn ends() -> Vec<[SocketAddr; 4]> {
        let v4 =
            [at("100.64.0.2:40000"), at("100.97.0.9:443"), at("100.127.254.2:40001"), at("10.0.0.5:8443")];
        let v6 =
            [at("[fd00::2]:40000"), at("[fd7a::9]:443"), at("[fd01::2]:40001"), at("[2001:db8::5]:8443")];
        vec![v4, v6, [v4[0], v4[1], v6[2], v6[3]], [v6[0], v6[1], v4[2], v4[3]]]
    }

    fn tcp(src: SocketAddr, dst: SocketAddr, mss: u16, data: &[u8]) -> Vec<u8> {
        let repr = TcpRepr {
            src_port: src.port(),
            dst_port: dst.port(),
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(7),
            ack_number: None,
            window_len: 1_000,
            window_scale: Some(7),
            max_seg_size: Some(mss),
            sack_permitted: true,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: data,
        };
        let mut bytes = vec![0; repr.buffer_len()];
        let sums = ChecksumCapabilities::default();
        repr.emit(
            &mut TcpPacket::new_unchecked(&mut bytes[..]),
            &IpAddress::from(src.ip()),
            &IpAddress::from(dst.ip()),
            &sums,
        );
        ip_packet(src.ip(), dst.ip(), TCP, &bytes)
    }

    /// What another implementation reads: maximum segment size and data, all sums verified.
    fn read_tcp(bytes: &[u8]) -> (Option<u16>, Vec<u8>) {
        let packet = IpPacket::parse(bytes).expect("a packet");
        if packet.src.is_ipv4() {
            assert!(Ipv4Packet::new_checked(bytes).expect("IPv4").verify_checksum());
        }
        let segment = TcpPacket::new_checked(packet.payload).expect("TCP");
        let (from, to) = (IpAddress::from(packet.src), IpAddress::from(packet.dst));
        let repr =
            TcpRepr::parse(&segment, &from, &to, &ChecksumCapabilities::default()).expect("sums verify");
        (repr.max_seg_size, repr.payload.to_vec())
    }

    #[test]
    fn a_segment_gets_other_ends_of_either_family_and_its_sums_verify() {
        for [src, dst, new_src, new_dst] in ends() {
            let before = tcp(src, dst, 1_400, b"odd");
            let packet = IpPacket::parse(&before).expect("a packet");
            let after = translate(&packet, new_src, new_dst).expect("hops are left");
            assert_eq!(read_tcp(&after), (Some(1_400), b"odd".to_vec()), "{src} {new_src}");
            let tuple = IpPacket::parse(&after).expect("a packet").tuple().expect("ports");
            assert_eq!((tuple.src, tuple.dst), (new_src, new_dst));
        }
    }

    #[test]
    fn a_datagram_and_an_echo_get_other_ends_too() {
        for [src, dst, new_src, new_dst] in ends() {
            let before = udp(src, dst, b"hello").expect("fits");
            let after =
                translate(&IpPacket::parse(&before).expect("a packet"), new_src, new_dst).expect("hops");
            let packet = IpPacket::parse(&after).expect("a packet");
            let datagram = UdpPacket::new_checked(packet.payload).expect("UDP");
            let (from, to) = (IpAddress::from(packet.src), IpAddress::from(packet.dst));
            UdpRepr::parse(&datagram, &from, &to, &ChecksumCapabilities::default())
                .expect("the sum verifies");
            assert_eq!(packet.udp().expect("UDP").data, b"hello");

            let echo = Echo { kind: EchoKind::Request, identifier: 1, sequence: 7, data: b"abc" };
            let before = echo.packet(src.ip(), dst.ip()).expect("fits");
            let after =
                translate(&IpPacket::parse(&before).expect("a packet"), new_src, new_dst).expect("hops");
            let read = IpPacket::parse(&after).expect("a packet").echo();
            assert_eq!(read, Some(Echo { identifier: new_src.port(), ..echo }));
        }
    }

    #[test]
    fn a_datagram_without_a_sum_has_none_in_ipv4_and_gets_one_in_ipv6() {
        let (src, dst) = (at("100.64.0.2:1000"), at("100.97.0.9:53"));
        let mut before = udp(src, dst, b"hello").expect("fits");
        before[26..28].copy_from_slice(&[0, 0]);
        let packet = IpPacket::parse(&before).expect("a packet");
        let v4 = translate(&packet, at("10.0.0.1:1"), at("10.0.0.2:53")).expect("hops");
        assert_eq!(v4[26..28], [0, 0]);
        let v6 = translate(&packet, at("[fd00::1]:1"), at("[fd00::2]:53")).expect("hops");
        let read = IpPacket::parse(&v6).expect("a packet");
        assert!(
            UdpPacket::new_checked(read.payload)
                .expect("UDP")
                .verify_checksum(&IpAddress::from(read.src), &IpAddress::from(read.dst))
        );
        assert_ne!(v6[46..48], [0, 0]);
    }

    #[test]
    fn a_damaged_packet_stays_damaged_and_one_without_hops_goes_no_further() {
        for [src, dst, new_src, new_dst] in ends() {
            let mut before = udp(src, dst, b"hello").expect("fits");
            *before.last_mut().expect("bytes") ^= 1;
            let after =
                translate(&IpPacket::parse(&before).expect("a packet"), new_src, new_dst).expect("hops");
            let packet = IpPacket::parse(&after).expect("a packet");
            let (from, to) = (IpAddress::from(packet.src), IpAddress::from(packet.dst));
            assert!(!UdpPacket::new_checked(packet.payload).expect("UDP").verify_checksum(&from, &to));
            let at_hops = if src.is_ipv4() { 8 } else { 7 };
            before[at_hops] = 1;
            assert_eq!(translate(&IpPacket::parse(&before).expect("a packet"), new_src, new_dst), None);
        }
    }

    #[test]
    fn options_as_long_as_the_other_family_s_header_go_no_further() {
        for [src, dst, to_src, to_dst] in ends().into_iter().filter(|ends| ends[0].is_ipv4()) {
            for options in [4, 20, 40] {
                let plain = udp(src, dst, b"a question").expect("fits");
                let mut packet = plain[..20].to_vec();
                packet.resize(20 + options, 1);
                packet.extend_from_slice(&plain[20..]);
                let length = u16::try_from(packet.len()).expect("short");
                packet[0] = 0x45 + u8::try_from(options / 4).expect("few");
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                let packet = IpPacket::parse(&packet).expect("a packet");
                let there = translate(&packet, to_src, to_dst).expect("it has ports");
                let read = IpPacket::parse(&there).expect("own packet").udp().expect("own datagram");
                assert_eq!((read.tuple.src, read.tuple.dst, read.data), (to_src, to_dst, &b"a question"[..]));
            }
        }
    }

    #[test]
    fn what_is_too_long_for_the_other_family_goes_no_further() {
        let [src, dst, to_src, to_dst] = ends()[3];
        for (length, fits) in [(65_515, true), (65_516, false), (65_535, false)] {
            let mut packet = udp(src, dst, b"").expect("fits");
            packet.resize(40 + length, 0);
            packet[4..6].copy_from_slice(&u16::try_from(length).expect("fits").to_be_bytes());
            let packet = IpPacket::parse(&packet).expect("a packet");
            assert_eq!(translate(&packet, to_src, to_dst).is_some(), fits, "{length} bytes");
            assert!(translate(&packet, src, dst).is_some());
        }
    }

    #[test]
    fn an_announced_segment_size_is_lowered_never_raised_and_only_in_a_syn() {
        for [src, dst, ..] in ends() {
            let header = if src.is_ipv4() { 40 } else { 60 };
            let mut packet = tcp(src, dst, 1_400, b"");
            clamp_mss(&mut packet, 1_280);
            assert_eq!(read_tcp(&packet).0, Some(1_280 - header));
            clamp_mss(&mut packet, 1_400);
            assert_eq!(read_tcp(&packet).0, Some(1_280 - header));
            let mut plain = craft::segment(src, dst, 1, 2, TcpFlags::ACK);
            let before = plain.clone();
            clamp_mss(&mut plain, 100);
            assert_eq!(plain, before);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), v4 in any::<bool>()) {
            if let Some(first) = bytes.first_mut() {
                *first = if v4 { 0x45 } else { 0x60 };
            }
            if bytes.len() >= 40 {
                let length = u16::try_from(bytes.len()).unwrap_or(0);
                if v4 {
                    bytes[2..4].copy_from_slice(&length.to_be_bytes());
                    bytes[6..8].copy_from_slice(&[0, 0]);
                    bytes[9] = TCP;
                } else {
                    bytes[4..6].copy_from_slice(&(length - 40).to_be_bytes());
                    bytes[6] = TCP;
                }
            }
            if let Ok(packet) = IpPacket::parse(&bytes) {
                for [_, _, src, dst] in ends() {
                    let _ = translate(&packet, src, dst);
                }
            }
            clamp_mss(&mut bytes, 1_280);
        }

        #[test]
        fn there_and_back_is_the_same_packet(data in proptest::collection::vec(any::<u8>(), 0..60), to in any::<[u8; 4]>(), port in 1u16..) {
            let (src, dst) = (at("100.64.0.2:40000"), at("100.97.0.9:443"));
            let outside = SocketAddr::new(IpAddr::from([10, to[1], to[2], to[3] | 1]), port);
            let before = udp(src, dst, &data).expect("fits");
            let there = translate(&IpPacket::parse(&before).expect("a packet"), at("10.9.9.9:7"), outside).expect("hops");
            let mut back = translate(&IpPacket::parse(&there).expect("a packet"), src, dst).expect("hops");
            back[8] = before[8];
            sum_header(&mut back[..20]);
            prop_assert_eq!(back, before);
        }
    }
}
