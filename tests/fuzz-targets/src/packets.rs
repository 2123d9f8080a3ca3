//! Packets on their way through a machine: put together for its kernel, cut again, and given other ends.

use flow::ip::{IpPacket, Protocol};
use std::net::SocketAddr;
use tun_rs::VIRTIO_NET_HDR_LEN;

/// Its own source, which no crate exports.
#[path = "../../../crates/machine/src/offload.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the machine, which documents it")]
mod offload;

use offload::{Coalescer, Offload, cut};

/// Segments of one long packet, and one more.
const ROOMS: usize = 65;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Packets, each with its length in two bytes in front.
fn parts(bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (part, behind) = behind.split_at(behind.len().min(usize::from(u16::from_be_bytes(*length))));
        parts.push(part);
        rest = behind;
    }
    parts
}

/// What a kernel would send on of one write; the rooms are as long as the longest packet.
fn sent_on(written: &[u8], longest: usize) -> Vec<Vec<u8>> {
    let (mut rooms, mut lengths) = (vec![vec![0; longest]; ROOMS], vec![0; ROOMS]);
    let count = cut(&mut written.to_vec(), &mut rooms, &mut lengths).expect("own writing");
    rooms.iter().zip(&lengths).take(count).map(|(room, length)| room[..*length].to_vec()).collect()
}

/// A packet without what a kernel writes anew into each part: sums, and IPv4's identification (RFC 6864).
fn settled(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (protocol, ip) = match packet[0] >> 4 {
        4 => {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
            (packet[9], 20)
        }
        _ => (packet[6], 40),
    };
    let sum = ip + if protocol == TCP { 16 } else { 6 };
    packet[sum..sum + 2].fill(0);
    packet
}

/// What goes to the kernel in long packets comes out of it as the same packets, in their order; what was not put together
/// is not touched.
pub(crate) fn coalesced(bytes: &[u8]) {
    let packets = parts(bytes);
    let longest = packets.iter().map(|packet| packet.len()).max().unwrap_or(0);
    for offload in [Offload::None, Offload::Tcp, Offload::TcpAndUdp] {
        let mut written: Vec<Vec<u8>> = Vec::new();
        Coalescer::default().each(&packets, offload, |write| written.push(write.to_vec()));
        if offload == Offload::None {
            assert_eq!(written, packets);
            continue;
        }
        let mut left = packets.iter();
        for write in &written {
            assert!(write.len() <= VIRTIO_NET_HDR_LEN + 65_535, "longer than any packet");
            let parts = sent_on(write, longest);
            for part in &parts {
                let packet = left.next().expect("no more come out than went in");
                if parts.len() == 1 {
                    assert_eq!(part, packet);
                } else {
                    assert_eq!(settled(part), settled(packet));
                    assert!(
                        offload == Offload::TcpAndUdp || part[if part[0] >> 4 == 4 { 9 } else { 6 }] != UDP
                    );
                }
            }
        }
        assert_eq!(left.next(), None, "a packet was lost");
    }
}

/// What an interface gave, or a kernel that errs: an error, or as many packets as there is room for.
pub(crate) fn long_packet(bytes: &[u8]) {
    let (mut rooms, mut lengths) = (vec![vec![0; 2_048]; ROOMS], vec![0; ROOMS]);
    let mut whole = bytes.to_vec();
    if let Ok(count) = cut(&mut whole, &mut rooms, &mut lengths) {
        assert!(count <= ROOMS && bytes.len() >= VIRTIO_NET_HDR_LEN);
        assert!(lengths[..count].iter().all(|length| *length <= 2_048), "a part is longer than its room");
        // Without offload in its header a packet is itself, but for its sum.
        if bytes[1] == 0 {
            assert_eq!((count, lengths[0]), (1, bytes.len() - VIRTIO_NET_HDR_LEN));
        }
    }
}

/// Where translated packets come from and go to.
fn ends() -> [(SocketAddr, SocketAddr); 2] {
    [("100.127.254.2:40001", "10.0.0.5:8443"), ("[fd01::2]:40001", "[2001:db8::5]:8443")]
        .map(|(src, dst)| (src.parse().expect("an address"), dst.parse().expect("an address")))
}

/// A packet with other ends has those ends, one hop less and the same inside; with its own ends back it is what it was.
pub(crate) fn translated(bytes: &[u8]) {
    clamped(bytes);
    let Ok(packet) = IpPacket::parse(bytes) else { return };
    for (src, dst) in ends() {
        let Some(there) = flow::translate(&packet, src, dst) else { continue };
        let read = IpPacket::parse(&there).expect("own packet");
        assert_eq!((read.src, read.dst, read.bytes.len()), (src.ip(), dst.ip(), there.len()));
        assert_eq!(hops(&read) + 1, hops(&packet), "one hop further on");
        let Some(before) = packet.tuple() else {
            let (asked, sent) = (packet.echo().expect("an echo"), read.echo().expect("an echo"));
            assert_eq!((asked.kind, asked.sequence, asked.data), (sent.kind, sent.sequence, sent.data));
            continue;
        };
        let after = read.tuple().expect("it has ports");
        assert_eq!((after.protocol, after.src, after.dst), (before.protocol, src, dst));
        assert_eq!(inside(&read), inside(&packet));
        if before.src.is_ipv4() == src.is_ipv4()
            && let Some(back) = flow::translate(&read, before.src, before.dst)
        {
            let back = IpPacket::parse(&back).expect("own packet");
            assert_eq!(back.tuple(), Some(before));
            // IPv6 has no datagrams without a sum: one gets it. 0 and 0xFFFF are one sum (RFC 1624 section 3).
            let had_none = packet.protocol == Protocol::Udp && packet.src.is_ipv6() && sum(&packet) == 0;
            assert!(had_none || sum(&back) % 0xFFFF == sum(&packet) % 0xFFFF, "the sum is not carried over");
        }
    }
}

fn hops(packet: &IpPacket<'_>) -> u8 {
    packet.bytes[if packet.src.is_ipv4() { 8 } else { 7 }]
}

const fn sum_at(packet: &IpPacket<'_>) -> usize {
    if matches!(packet.protocol, Protocol::Tcp) { 16 } else { 6 }
}

fn sum(packet: &IpPacket<'_>) -> u16 {
    let at = sum_at(packet);
    u16::from_be_bytes([packet.payload[at], packet.payload[at + 1]])
}

/// Everything behind the ports but the sum.
fn inside<'a>(packet: &IpPacket<'a>) -> (&'a [u8], &'a [u8]) {
    let at = sum_at(packet);
    (&packet.payload[4..at], &packet.payload[at + 2..])
}

/// A lowered maximum stays lowered, and nothing else of the packet changes but its sum.
fn clamped(bytes: &[u8]) {
    let mut once = bytes.to_vec();
    flow::clamp_mss(&mut once, 1_280);
    let changed = bytes.iter().zip(&once).filter(|(before, after)| before != after).count();
    assert!(once.len() == bytes.len() && changed <= 4, "{changed} bytes of an option and a sum");
    if changed > 0 {
        let packet = IpPacket::parse(bytes).expect("what does not parse is not touched");
        assert!(packet.tcp().is_ok_and(|segment| segment.flags.syn()));
    }
    let mut twice = once.clone();
    flow::clamp_mss(&mut twice, 1_280);
    assert_eq!(twice, once);
}

fn framed(packets: &[Vec<u8>]) -> Vec<u8> {
    let framed = packets.iter().map(|packet| {
        let length = u16::try_from(packet.len()).expect("short").to_be_bytes();
        [&length[..], packet].concat()
    });
    framed.collect::<Vec<_>>().concat()
}

/// A TCP segment of the connection whose second and later segments are `number` data lengths further on.
fn segment(is_v4: bool, number: u32, flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let inside = u16::try_from(header + data.len()).expect("short");
    let mut packet = if is_v4 {
        let [high, low] = (inside + 20).to_be_bytes();
        vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, TCP, 0, 0, 100, 64, 0, 2, 10, 0, 2, 9]
    } else {
        let [high, low] = inside.to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, high, low, TCP, 64];
        packet.extend_from_slice(&[0xFD; 31]);
        packet.push(2);
        packet
    };
    packet.extend_from_slice(&[0x30, 0x39, 1, 187]);
    packet.extend_from_slice(&(1_000 + number * 40).to_be_bytes());
    packet.extend_from_slice(&[
        0,
        0,
        0,
        9,
        u8::try_from(header * 4).expect("short"),
        flags,
        4,
        0,
        0,
        0,
        0,
        0,
    ]);
    packet.extend_from_slice(options);
    packet.extend_from_slice(data);
    packet
}

fn datagram(src: &str, dst: &str, data: &[u8]) -> Vec<u8> {
    flow::udp(src.parse().expect("an address"), dst.parse().expect("an address"), data).expect("one family")
}

const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Genuine packets.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let run = |is_v4| -> Vec<Vec<u8>> {
        let one = |number| segment(is_v4, number, ACK, &[], &[u8::try_from(number).expect("few"); 40]);
        let mut run: Vec<Vec<u8>> = (0..4).map(one).collect();
        run.push(segment(is_v4, 4, ACK | PSH, &[], &[9; 12]));
        run
    };
    let datagrams: Vec<Vec<u8>> =
        (0..3).map(|number| datagram("100.64.0.2:40000", "10.0.2.9:53", &[number; 30])).collect();
    // Bytes behind what the datagram says that it has.
    let mut tail = datagrams.clone();
    for packet in &mut tail {
        let inside = u16::from_be_bytes([packet[24], packet[25]]) - 5;
        packet[24..26].copy_from_slice(&inside.to_be_bytes());
    }
    let mixed = [run(true), datagrams.clone(), run(false), vec![vec![0x45; 7]]].concat();
    let mut long = Vec::new();
    Coalescer::default().each(&run(true), Offload::Tcp, |write| long.push(write.to_vec()));
    let mss = [2, 4, 0x05, 0xB4, 1, 1, 4, 2];
    let odd = [1, 2, 4, 0x05, 0xB4, 0, 0, 0];
    vec![
        ("coalesced", "v4", framed(&run(true))),
        ("coalesced", "v6", framed(&run(false))),
        ("coalesced", "datagrams", framed(&datagrams)),
        ("coalesced", "datagrams-with-a-tail", framed(&tail)),
        ("coalesced", "mixed", framed(&mixed)),
        ("long_packet", "tcp", long.concat()),
        ("long_packet", "plain", [&[0; VIRTIO_NET_HDR_LEN][..], &datagrams[0]].concat()),
        ("long_packet", "sum", [&[1, 0, 0, 0, 0, 0, 20, 0, 6, 0][..], &datagrams[0]].concat()),
        ("translated", "syn-v4", segment(true, 0, SYN, &mss, &[])),
        ("translated", "syn-v6", segment(false, 0, SYN | ACK, &mss, &[])),
        ("translated", "syn-odd-place", segment(true, 0, SYN, &odd, &[])),
        ("translated", "data", segment(true, 3, ACK, &[], b"GET / HTTP/1.1\r\n\r\n")),
        ("translated", "datagram-v4", datagrams[0].clone()),
        ("translated", "datagram-v6", datagram("[fd00::2]:40000", "[fd00::9]:53", b"a question")),
        ("translated", "datagram-without-sum", {
            let mut packet = datagrams[0].clone();
            packet[26..28].fill(0);
            packet
        }),
        ("translated", "echo", crate::echo_packet()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn genuine_packets_are_put_together_and_translated() {
        let of = |target: &str, name: &str| {
            let found = genuine().into_iter().find(|(of, called, _)| (*of, *called) == (target, name));
            found.expect("a seed").2
        };
        for (name, expected) in [("v4", 1), ("v6", 1), ("datagrams", 1), ("datagrams-with-a-tail", 3)] {
            let bytes = of("coalesced", name);
            let mut writes = 0;
            Coalescer::default().each(&parts(&bytes), Offload::TcpAndUdp, |_| writes += 1);
            assert_eq!(writes, expected, "{name}");
        }
        assert_eq!(sent_on(&of("long_packet", "tcp"), 100).len(), 5);
        for (_, name, bytes) in genuine().into_iter().filter(|(target, ..)| *target == "translated") {
            let packet = IpPacket::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(ends().iter().any(|(src, dst)| flow::translate(&packet, *src, *dst).is_some()), "{name}");
            let mut lowered = bytes.clone();
            flow::clamp_mss(&mut lowered, 1_280);
            assert_eq!(lowered != bytes, name.starts_with("syn"), "{name}");
        }
    }
}
