//! Several packets of one flow in one system call: the kernel's segmentation offload on an interface (virtio's header,
//! tun(4) with `IFF_VNET_HDR`).
//!
//! Towards the kernel, segments of one flow that follow each other become one long packet, which the kernel carries as a
//! whole and cuts again where it leaves the machine. Sums of the parts are not looked at: each packet was authenticated by
//! WireGuard. From the kernel, a long packet is cut by the kept library.

use std::io;
use tun_rs::{VIRTIO_NET_HDR_LEN, VirtioNetHdr, gso_split};

/// What an interface's packets come with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offload {
    /// Nothing: one packet a system call.
    None,
    /// TCP in long packets.
    Tcp,
    /// TCP and UDP in long packets (Linux 6.2).
    TcpAndUdp,
}

impl Offload {
    /// Whether packets have virtio's header in front.
    pub(crate) const fn has_header(self) -> bool {
        !matches!(self, Self::None)
    }
}

/// The longest packet there is.
const LONGEST: usize = 65_535;
/// Segments of one long packet: what every kernel takes of UDP (UDP_MAX_SEGMENTS before Linux 6.9).
const MAX_SEGMENTS: usize = 64;
/// linux/virtio_net.h: the sum in the packet is that of the pseudo-header alone.
const NEEDS_SUM: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// A segment that may become part of a longer packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    is_v4: bool,
    protocol: u8,
    /// Bytes of the IP header, and of both headers.
    ip: usize,
    headers: usize,
    data: usize,
}

impl Segment {
    fn read(packet: &[u8], offload: Offload) -> Option<Self> {
        let (is_v4, protocol, ip, length) = match packet.first()? >> 4 {
            // No options, no pieces.
            4 if packet.len() >= 20 && packet[0] == 0x45 => {
                if packet[6] & 0x3F != 0 || packet[7] != 0 {
                    return None;
                }
                (true, packet[9], 20, usize::from(u16::from_be_bytes([packet[2], packet[3]])))
            }
            6 if packet.len() >= 40 => {
                (false, packet[6], 40, 40 + usize::from(u16::from_be_bytes([packet[4], packet[5]])))
            }
            _ => return None,
        };
        let transport = match protocol {
            TCP => {
                let offset = packet.get(ip + 12)?;
                // Nothing but data in the middle of a connection.
                if packet.get(ip + 13)? & !PSH != ACK {
                    return None;
                }
                usize::from(offset >> 4) * 4
            }
            // A sum of 0 says that there is none, and the parts would get one. What is behind the datagram's own end would
            // be in it.
            UDP if offload == Offload::TcpAndUdp && packet.get(ip + 6..ip + 8)? != [0, 0] => {
                let inside = usize::from(u16::from_be_bytes([packet[ip + 4], packet[ip + 5]]));
                (ip + inside == packet.len()).then_some(8)?
            }
            _ => return None,
        };
        let least = if protocol == TCP { 20 } else { 8 };
        let data = packet.len().checked_sub(ip + transport).filter(|data| *data > 0)?;
        (transport >= least && length == packet.len()).then_some(Self {
            is_v4,
            protocol,
            ip,
            headers: ip + transport,
            data,
        })
    }

    fn sequence(&self, packet: &[u8]) -> u32 {
        let at = self.ip + 4;
        u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
    }

    /// Whether two packets differ in nothing that a longer one would lose.
    fn is_same_flow(&self, one: &[u8], other: &[u8]) -> bool {
        let same = |range: std::ops::Range<usize>| one[range.clone()] == other[range];
        let ip =
            if self.is_v4 { same(0..2) && same(6..10) && same(12..20) } else { same(0..4) && same(6..40) };
        let at = self.ip;
        ip && if self.protocol == TCP {
            same(at..at + 4) && same(at + 8..at + 13) && same(at + 14..at + 16) && same(at + 18..self.headers)
        } else {
            same(at..at + 4)
        }
    }
}

/// A long packet in the making.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: Segment,
    segments: usize,
    next: u32,
    is_closed: bool,
}

/// Puts packets together; its buffer is used again.
#[derive(Debug, Default)]
pub struct Coalescer {
    buffer: Vec<u8>,
    run: Option<Run>,
}

impl Coalescer {
    /// Gives everything to `write`, in order, with virtio's header in front where the interface has it.
    pub(crate) fn each<P: AsRef<[u8]>>(
        &mut self,
        packets: &[P],
        offload: Offload,
        mut write: impl FnMut(&[u8]),
    ) {
        for packet in packets.iter().map(AsRef::as_ref) {
            if !offload.has_header() {
                write(packet);
                continue;
            }
            let segment = Segment::read(packet, offload);
            if segment.is_some_and(|segment| self.takes(&segment, packet)) {
                continue;
            }
            self.flush(&mut write);
            self.buffer.resize(VIRTIO_NET_HDR_LEN, 0);
            self.buffer.extend_from_slice(packet);
            match segment {
                Some(first) => {
                    let next = first.next(packet);
                    let is_closed = first.protocol == TCP && packet[first.ip + 13] & PSH != 0;
                    self.run = Some(Run { first, segments: 1, next, is_closed });
                }
                None => self.flush(&mut write),
            }
        }
        self.flush(&mut write);
    }

    /// Adds a segment to the packet in the making, if it is the next of its flow.
    fn takes(&mut self, segment: &Segment, packet: &[u8]) -> bool {
        let Some(run) = &mut self.run else { return false };
        let first = run.first;
        let own = &self.buffer[VIRTIO_NET_HDR_LEN..];
        let fits = !run.is_closed
            && run.segments < MAX_SEGMENTS
            && segment.data <= first.data
            && own.len() + segment.data <= LONGEST
            && Segment { data: 0, ..first } == Segment { data: 0, ..*segment }
            && (first.protocol == UDP || segment.sequence(packet) == run.next)
            && first.is_same_flow(own, packet);
        if !fits {
            return false;
        }
        let is_last = segment.protocol == TCP && packet[segment.ip + 13] & PSH != 0;
        if is_last {
            self.buffer[VIRTIO_NET_HDR_LEN + first.ip + 13] |= PSH;
        }
        self.buffer.extend_from_slice(&packet[segment.headers..]);
        run.segments += 1;
        run.next = segment.next(packet);
        // A shorter one can only be the last.
        run.is_closed = is_last || segment.data < first.data;
        true
    }

    fn flush(&mut self, write: &mut impl FnMut(&[u8])) {
        if let Some(run) = self.run.take().filter(|run| run.segments > 1) {
            self.finish(run.first);
        }
        if !self.buffer.is_empty() {
            write(&self.buffer);
            self.buffer.clear();
        }
    }

    /// Lengths, sums and virtio's header of a packet of several segments.
    fn finish(&mut self, first: Segment) {
        let Segment { is_v4, protocol, ip, headers, data } = first;
        let packet = &mut self.buffer[VIRTIO_NET_HDR_LEN..];
        // At most 65,535, as `takes` saw to.
        let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
        let (whole, inside) = (packet.len(), packet.len() - ip);
        let addresses = if is_v4 {
            packet[2..4].copy_from_slice(&length(whole));
            packet[10..12].copy_from_slice(&[0, 0]);
            let sum = !tun_rs::checksum(&packet[..20], 0);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            12..20
        } else {
            packet[4..6].copy_from_slice(&length(inside));
            8..40
        };
        let at = if protocol == TCP {
            16
        } else {
            packet[ip + 4..ip + 6].copy_from_slice(&length(inside));
            6
        };
        let pseudo = u64::from(protocol) + inside as u64;
        let sum = tun_rs::checksum(&packet[addresses], pseudo);
        packet[ip + at..ip + at + 2].copy_from_slice(&sum.to_be_bytes());
        let small = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        let gso_type = match (protocol, is_v4) {
            (TCP, true) => tun_rs::VIRTIO_NET_HDR_GSO_TCPV4,
            (TCP, false) => tun_rs::VIRTIO_NET_HDR_GSO_TCPV6,
            _ => tun_rs::VIRTIO_NET_HDR_GSO_UDP_L4,
        };
        let header = VirtioNetHdr {
            flags: NEEDS_SUM,
            gso_type,
            hdr_len: small(headers),
            gso_size: small(data),
            csum_start: small(ip),
            csum_offset: small(at),
        };
        // The room is that header's.
        let _ = header.encode(&mut self.buffer[..VIRTIO_NET_HDR_LEN]);
    }
}

impl Segment {
    /// The sequence number behind this segment; 0 where there are none.
    fn next(&self, packet: &[u8]) -> u32 {
        match self.protocol {
            TCP => self.sequence(packet).wrapping_add(u32::try_from(self.data).unwrap_or(0)),
            _ => 0,
        }
    }
}

/// Cuts what an interface gave into packets; how many there are.
///
/// # Errors
/// It is nothing that a kernel sends, or has too many parts.
pub(crate) fn cut(whole: &mut [u8], rooms: &mut [Vec<u8>], lengths: &mut [usize]) -> io::Result<usize> {
    let Some((header, packet)) = whole.split_at_mut_checked(VIRTIO_NET_HDR_LEN) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut header = VirtioNetHdr::decode(header)?;
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let sum_at = usize::from(header.csum_start);
    if header.gso_type == 0 {
        if header.flags & NEEDS_SUM != 0 {
            let field = sum_at + usize::from(header.csum_offset);
            let initial = packet.get(field..field + 2).ok_or_else(bad)?;
            let initial = u16::from_be_bytes([initial[0], initial[1]]);
            packet[field..field + 2].copy_from_slice(&[0, 0]);
            let mut sum = !tun_rs::checksum(packet.get(sum_at..).ok_or_else(bad)?, initial.into());
            // A datagram whose sum is 0 would have none (RFC 768).
            if header.csum_offset == 6 && sum == 0 {
                sum = u16::MAX;
            }
            packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let (Some(room), Some(length)) = (rooms.first_mut(), lengths.first_mut()) else { return Err(bad()) };
        room.get_mut(..packet.len()).ok_or_else(bad)?.copy_from_slice(packet);
        *length = packet.len();
        return Ok(1);
    }
    // The kernel's own word for it may be the length of everything where it forwards.
    let transport = match header.csum_offset {
        16 => usize::from(packet.get(sum_at + 12).ok_or_else(bad)? >> 4) * 4,
        _ => 8,
    };
    header.hdr_len = u16::try_from(sum_at + transport).map_err(|_| bad())?;
    let is_v6 = packet.first().ok_or_else(bad)? >> 4 == 6;
    gso_split(packet, header, rooms, lengths, 0, is_v6)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment as a kernel would send it, its sums right.
    fn tcp(is_v4: bool, sequence: u32, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut packet = if is_v4 {
            let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, TCP, 0, 0];
            ip.extend_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
            ip
        } else {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, TCP, 64];
            ip.extend_from_slice(&[0xfd; 32]);
            ip
        };
        let ip = packet.len();
        packet.extend_from_slice(&[0x12, 0x34, 0, 80]);
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&[0, 0, 0, 9, 0x50, flags, 4, 0, 0, 0, 0, 0]);
        packet.extend_from_slice(data);
        let inside = packet.len() - ip;
        let length = |bytes: usize| u16::try_from(bytes).unwrap().to_be_bytes();
        let addresses = if is_v4 {
            let whole = length(packet.len());
            packet[2..4].copy_from_slice(&whole);
            let sum = !tun_rs::checksum(&packet[..20], 0);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            12..20
        } else {
            packet[4..6].copy_from_slice(&length(inside));
            8..40
        };
        let pseudo = tun_rs::checksum(&packet[addresses], u64::from(TCP) + inside as u64);
        let sum = !tun_rs::checksum(&packet[ip..], pseudo.into());
        packet[ip + 16..ip + 18].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn udp(data: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let inside = u16::try_from(8 + data.len()).unwrap();
        packet.extend_from_slice(&[0x12, 0x34, 0, 53]);
        packet.extend_from_slice(&inside.to_be_bytes());
        packet.extend_from_slice(&[0, 0]);
        packet.extend_from_slice(data);
        let whole = u16::try_from(packet.len()).unwrap().to_be_bytes();
        packet[2..4].copy_from_slice(&whole);
        let sum = !tun_rs::checksum(&packet[..20], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let pseudo = tun_rs::checksum(&packet[12..20], u64::from(UDP) + u64::from(inside));
        let sum = !tun_rs::checksum(&packet[20..], pseudo.into());
        packet[26..28].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn written(packets: &[Vec<u8>], offload: Offload) -> Vec<Vec<u8>> {
        let mut written = Vec::new();
        Coalescer::default().each(packets, offload, |bytes| written.push(bytes.to_vec()));
        written
    }

    /// What the kernel would send on of what was written to it.
    fn cut_again(written: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for bytes in written {
            let (mut rooms, mut lengths) = (vec![vec![0; 2_048]; 80], vec![0; 80]);
            let count = cut(&mut bytes.clone(), &mut rooms, &mut lengths).unwrap();
            packets.extend(
                rooms.iter().zip(&lengths).take(count).map(|(room, length)| room[..*length].to_vec()),
            );
        }
        packets
    }

    #[test]
    fn segments_that_follow_each_other_are_one_write_and_are_the_same_segments_after_it() {
        for is_v4 in [true, false] {
            let packets: Vec<Vec<u8>> = (0..50_u32)
                .map(|number| {
                    let last = number == 49;
                    let data = vec![u8::try_from(number).unwrap(); if last { 300 } else { 1_200 }];
                    tcp(
                        is_v4,
                        (u32::MAX - 5_000).wrapping_add(1_200 * number),
                        if last { ACK | PSH } else { ACK },
                        &data,
                    )
                })
                .collect();
            let written = written(&packets, Offload::Tcp);
            assert_eq!(written.len(), 1, "one long packet");
            let mut again = cut_again(&written);
            if is_v4 {
                // Identifications are counted up, and mean nothing where nothing may be cut (RFC 6864).
                for packet in &mut again {
                    packet[4..6].copy_from_slice(&[0, 0]);
                    packet[10..12].copy_from_slice(&[0, 0]);
                    let sum = !tun_rs::checksum(&packet[..20], 0);
                    packet[10..12].copy_from_slice(&sum.to_be_bytes());
                }
            }
            assert_eq!(again, packets);
        }
    }

    #[test]
    fn what_does_not_follow_is_a_packet_of_its_own_and_the_order_stays() {
        let data = [7; 100];
        let packets = vec![
            tcp(true, 0, ACK, &data),
            tcp(true, 100, ACK, &data),
            // A hole, a SYN, a reset, an acknowledgement without data, another family, a longer one.
            tcp(true, 300, ACK, &data),
            tcp(true, 400, 0x02, &[]),
            tcp(true, 400, 0x04 | ACK, &[]),
            tcp(true, 400, ACK, &[]),
            tcp(false, 400, ACK, &data),
            tcp(true, 400, ACK, &data),
            tcp(true, 500, ACK, &[7; 101]),
        ];
        let written = written(&packets, Offload::Tcp);
        assert_eq!(written.len(), 8);
        let again = cut_again(&written);
        assert_eq!(again.len(), packets.len());
        for (one, other) in again.iter().zip(&packets).skip(2) {
            assert_eq!(one, other);
        }
    }

    #[test]
    fn a_pushed_or_shorter_segment_is_the_last_of_its_packet() {
        let packets = vec![
            tcp(true, 0, ACK | PSH, &[1; 100]),
            tcp(true, 100, ACK, &[1; 100]),
            tcp(true, 200, ACK, &[1; 50]),
            tcp(true, 250, ACK, &[1; 50]),
        ];
        assert_eq!(written(&packets, Offload::Tcp).len(), 3);
    }

    #[test]
    fn datagrams_go_together_only_where_the_kernel_takes_them() {
        let packets: Vec<Vec<u8>> = (0..70).map(|_| udp(&[3; 400])).collect();
        assert_eq!(written(&packets, Offload::Tcp).len(), 70);
        let together = written(&packets, Offload::TcpAndUdp);
        assert_eq!(together.len(), 2, "64 and the rest");
        let mut again = cut_again(&together);
        for packet in &mut again {
            packet[4..6].copy_from_slice(&[0, 0]);
            packet[10..12].copy_from_slice(&[0, 0]);
            let sum = !tun_rs::checksum(&packet[..20], 0);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        assert_eq!(again, packets);
    }

    #[test]
    fn a_datagram_that_is_shorter_than_its_packet_stays_as_it_is() {
        let packets: Vec<Vec<u8>> = (0..3)
            .map(|_| {
                let mut packet = udp(&[3; 400]);
                packet[24..26].copy_from_slice(&200_u16.to_be_bytes());
                packet
            })
            .collect();
        assert_eq!(cut_again(&written(&packets, Offload::TcpAndUdp)), packets);
    }

    #[test]
    fn without_offload_nothing_is_put_in_front() {
        let packets = vec![udp(b"a"), tcp(true, 0, ACK, b"b")];
        assert_eq!(written(&packets, Offload::None), packets);
    }

    #[test]
    fn what_no_kernel_sends_is_an_error() {
        let (mut rooms, mut lengths) = (vec![vec![0; 64]; 2], vec![0; 2]);
        let mut seed = 7_u32;
        for length in 0..90 {
            for _ in 0..50 {
                let mut bytes: Vec<u8> = (0..length)
                    .map(|_| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        seed.to_be_bytes()[0]
                    })
                    .collect();
                let _ = cut(&mut bytes, &mut rooms, &mut lengths);
            }
        }
        assert!(cut(&mut [0; 9], &mut rooms, &mut lengths).is_err());
    }
}
