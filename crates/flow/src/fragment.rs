//! Packets in pieces: a program's datagram may be longer than a tunnel's packets.
//!
//! What a machine's kernel cut is put together here before anybody asks what it is, within bounds: a piece that
//! overlaps another, a datagram longer than [`MAX_WHOLE`], and what is not complete in time go nowhere. The other way
//! what is longer than the link is cut, as a host does that sends it.

use crate::event::LinkId;
use crate::ip::IpError;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The longest packet that is put together, its header included: what NFS and DNS over UDP send, and less than a
/// program can ask for (65,535).
pub const MAX_WHOLE: usize = 16 * 1024;
/// Packets that lack pieces: of all links, and of one.
const MAX_PARTIAL: usize = 256;
const MAX_PARTIAL_OF_LINK: usize = 16;
/// Pieces of one packet: the longest in pieces of 576 bytes (RFC 791: what everybody can take), rounded up.
const MAX_PIECES: usize = 32;
/// How long the first piece waits for the others (Linux: net.ipv4.ipfrag_time; RFC 1122 section 3.3.2 wants 60 to 120 s,
/// which is for paths across the world, not across a tunnel).
const LIFETIME: Duration = Duration::from_secs(30);

/// Most bytes that wait for their other pieces.
pub const WORST_CASE_WAITING: usize = MAX_PARTIAL * MAX_WHOLE;
const _: () = assert!(WORST_CASE_WAITING <= 4 << 20, "4 MiB");

const IPV6_FRAGMENT: u8 = 44;

/// Why a piece went nowhere. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FragmentDrop {
    /// It overlaps another, or contradicts the length that another said (RFC 5722).
    Overlap,
    /// The whole would be too long, or has too many pieces.
    TooLong,
    /// The others did not come in time, or something else needed the room.
    Incomplete,
}

impl FragmentDrop {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Overlap => "overlap",
            Self::TooLong => "too_long",
            Self::Incomplete => "incomplete",
        }
    }
}

/// One piece that passed the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// The source. The owner checks it: a piece is a packet.
    pub src: IpAddr,
    /// The destination.
    pub dst: IpAddr,
    protocol: u8,
    identification: u32,
    offset: usize,
    more: bool,
    data: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Reads a packet that is a piece of one; `None` when it is a whole one.
    ///
    /// # Errors
    /// [`IpError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, IpError> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::v4(bytes),
            Some(6) => Self::v6(bytes),
            Some(_) => Err(IpError::Version),
            None => Err(IpError::TooShort),
        }
    }

    fn v4(bytes: &'a [u8]) -> Result<Option<Self>, IpError> {
        let header = bytes.first_chunk::<20>().ok_or(IpError::TooShort)?;
        let header_len = usize::from(header[0] & 0x0F) * 4;
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let flags = u16::from_be_bytes([header[6], header[7]]);
        if flags & 0x3FFF == 0 {
            return Ok(None);
        }
        if header_len < 20 {
            return Err(IpError::HeaderLength);
        }
        let data = bytes.get(header_len..total).ok_or(IpError::Length)?;
        let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        Self {
            src: address(12).into(),
            dst: address(16).into(),
            protocol: header[9],
            identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
            offset: usize::from(flags & 0x1FFF) * 8,
            more: flags & 0x2000 != 0,
            data,
        }
        .checked()
    }

    fn v6(bytes: &'a [u8]) -> Result<Option<Self>, IpError> {
        let header = bytes.first_chunk::<40>().ok_or(IpError::TooShort)?;
        // RFC 8200 section 4.5; headers in front of it are not looked behind, here as elsewhere.
        if header[6] != IPV6_FRAGMENT {
            return Ok(None);
        }
        let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let payload = bytes.get(40..40 + length).ok_or(IpError::Length)?;
        let (fragment, data) = payload.split_first_chunk::<8>().ok_or(IpError::TooShort)?;
        let offset = u16::from_be_bytes([fragment[2], fragment[3]]);
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            Ipv6Addr::from(octets)
        };
        Self {
            src: address(8).into(),
            dst: address(24).into(),
            protocol: fragment[0],
            identification: u32::from_be_bytes([fragment[4], fragment[5], fragment[6], fragment[7]]),
            offset: usize::from(offset >> 3) * 8,
            more: offset & 1 != 0,
            data,
        }
        .checked()
    }

    /// Every piece but the last has a length that the next one's offset can say.
    fn checked(self) -> Result<Option<Self>, IpError> {
        if self.data.is_empty() || (self.more && !self.data.len().is_multiple_of(8)) {
            return Err(IpError::Length);
        }
        Ok(Some(self))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    link: LinkId,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    identification: u32,
}

#[derive(Debug)]
struct Partial {
    since: Instant,
    /// By offset; none overlap.
    pieces: BTreeMap<usize, Vec<u8>>,
    held: usize,
    total: Option<usize>,
}

/// Packets that lack pieces.
#[derive(Debug, Default)]
pub struct Reassembly {
    partial: BTreeMap<Key, Partial>,
    by_age: BTreeSet<(Instant, Key)>,
    drops: BTreeMap<FragmentDrop, u64>,
}

impl Reassembly {
    /// Nothing waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a piece that came by a link; the whole packet when it was the last one.
    pub fn push(&mut self, now: Instant, link: LinkId, piece: &Fragment<'_>) -> Option<Vec<u8>> {
        self.expire(now);
        let Fragment { src, dst, protocol, identification, .. } = *piece;
        let key = Key { link, src, dst, protocol, identification };
        if !self.partial.contains_key(&key) {
            self.make_room(link);
            let partial = Partial { since: now, pieces: BTreeMap::new(), held: 0, total: None };
            self.partial.insert(key, partial);
            self.by_age.insert((now, key));
        }
        let partial = self.partial.get_mut(&key)?;
        match partial.add(piece) {
            Ok(true) => {
                let whole = self.forget(&key)?;
                Some(whole.join(src, dst, protocol))
            }
            Ok(false) => None,
            // The rest of it comes to nothing either.
            Err(drop) => {
                self.forget(&key);
                self.count(drop);
                None
            }
        }
    }

    /// Gives up what has waited for too long.
    pub fn expire(&mut self, now: Instant) {
        while let Some((since, key)) = self.by_age.first().copied() {
            if now.saturating_duration_since(since) < LIFETIME {
                return;
            }
            self.forget(&key);
            self.count(FragmentDrop::Incomplete);
        }
    }

    /// When something will have waited for too long.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.by_age.first().map(|(since, _)| *since + LIFETIME)
    }

    /// A link is gone, and so is what it began.
    pub fn drop_link(&mut self, link: LinkId) {
        self.partial.retain(|key, _| key.link != link);
        self.by_age.retain(|(_, key)| key.link != link);
    }

    /// What went nowhere, by reason.
    #[must_use]
    pub const fn drops(&self) -> &BTreeMap<FragmentDrop, u64> {
        &self.drops
    }

    /// Room for one more: the oldest goes, of the link that has its share, else of all.
    fn make_room(&mut self, link: LinkId) {
        let of_link = self.partial.keys().filter(|key| key.link == link).count();
        let oldest = if of_link >= MAX_PARTIAL_OF_LINK {
            self.by_age.iter().find(|(_, key)| key.link == link).copied()
        } else if self.partial.len() >= MAX_PARTIAL {
            self.by_age.first().copied()
        } else {
            None
        };
        if let Some((_, key)) = oldest {
            self.forget(&key);
            self.count(FragmentDrop::Incomplete);
        }
    }

    fn forget(&mut self, key: &Key) -> Option<Partial> {
        let partial = self.partial.remove(key)?;
        self.by_age.remove(&(partial.since, *key));
        Some(partial)
    }

    fn count(&mut self, drop: FragmentDrop) {
        *self.drops.entry(drop).or_default() += 1;
    }
}

impl Partial {
    /// Whether nothing lacks now.
    fn add(&mut self, piece: &Fragment<'_>) -> Result<bool, FragmentDrop> {
        let end = piece.offset + piece.data.len();
        // An IPv6 header is the longer one.
        if end + 40 > MAX_WHOLE || self.pieces.len() >= MAX_PIECES {
            return Err(FragmentDrop::TooLong);
        }
        let before = self.pieces.range(..=piece.offset).next_back();
        let after = self.pieces.range(piece.offset..).next();
        if before.is_some_and(|(at, data)| (*at, data.as_slice()) == (piece.offset, piece.data)) {
            // The same piece twice is no attack, networks do that (RFC 8200 section 4.5).
            return Ok(false);
        }
        let overlaps = before.is_some_and(|(at, data)| at + data.len() > piece.offset)
            || after.is_some_and(|(at, _)| *at < end);
        let contradicts = match (self.total, piece.more) {
            (Some(total), true) => end >= total,
            (Some(total), false) => end != total,
            (None, true) => false,
            (None, false) => self.pieces.last_key_value().is_some_and(|(at, data)| at + data.len() > end),
        };
        if overlaps || contradicts {
            return Err(FragmentDrop::Overlap);
        }
        if !piece.more {
            self.total = Some(end);
        }
        self.held += piece.data.len();
        self.pieces.insert(piece.offset, piece.data.to_vec());
        // None overlap, so as many bytes as there are to be are all of them.
        Ok(self.total == Some(self.held))
    }

    fn join(self, src: IpAddr, dst: IpAddr, protocol: u8) -> Vec<u8> {
        let payload: Vec<u8> = self.pieces.into_values().flatten().collect();
        crate::craft::ip_packet(src, dst, protocol, &payload)
    }
}

/// Cuts a packet that was made here into pieces of at most `mtu` bytes; one that fits stays whole. `identification` is
/// another for each packet.
#[must_use]
pub fn split(packet: Vec<u8>, mtu: usize, identification: u32) -> Vec<Vec<u8>> {
    if packet.len() <= mtu {
        return vec![packet];
    }
    let (header_len, extra) = if packet[0] >> 4 == 4 { (20, 0) } else { (40, 8) };
    // At least 8 bytes a piece, so that this ends whatever it is given.
    let room = (mtu.saturating_sub(header_len + extra) & !7).max(8);
    let (header, payload) = packet.split_at(header_len);
    let last = payload.len().div_ceil(room) - 1;
    let piece = |(index, data): (usize, &[u8])| {
        let offset = u16::try_from(index * room / 8).expect("a packet has less than 65,536 bytes");
        let more = index < last;
        let mut out = header.to_vec();
        if extra == 0 {
            let total = u16::try_from(header_len + data.len()).expect("shorter than the whole");
            out[2..4].copy_from_slice(&total.to_be_bytes());
            let [_, _, high, low] = identification.to_be_bytes();
            out[4..6].copy_from_slice(&[high, low]);
            let flags = offset | if more { 0x2000 } else { 0 };
            out[6..8].copy_from_slice(&flags.to_be_bytes());
            out[10..12].copy_from_slice(&[0, 0]);
            let sum = crate::craft::checksum(0, &out);
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            let length = u16::try_from(extra + data.len()).expect("shorter than the whole");
            out[4..6].copy_from_slice(&length.to_be_bytes());
            let next = std::mem::replace(&mut out[6], IPV6_FRAGMENT);
            out.extend_from_slice(&[next, 0]);
            out.extend_from_slice(&(offset << 3 | u16::from(more)).to_be_bytes());
            out.extend_from_slice(&identification.to_be_bytes());
        }
        out.extend_from_slice(data);
        out
    };
    payload.chunks(room).enumerate().map(piece).collect()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test needs one moment to count from")]
mod tests {
    use super::*;
    use crate::datagram::udp;
    use crate::ip::IpPacket;
    use proptest::prelude::*;

    const LINK: LinkId = LinkId(1);

    fn whole(v4: bool, length: usize) -> Vec<u8> {
        let (src, dst) = if v4 { ("100.64.0.2:9", "10.0.0.1:53") } else { ("[fd00::1]:9", "[fd00::2]:53") };
        let data: Vec<u8> = (0..length).map(|n| u8::try_from(n % 253).expect("a byte")).collect();
        udp(src.parse().expect("address"), dst.parse().expect("address"), &data).expect("fits")
    }

    fn push(waiting: &mut Reassembly, now: Instant, bytes: &[u8]) -> Option<Vec<u8>> {
        let piece = Fragment::parse(bytes).expect("valid").expect("a piece");
        waiting.push(now, LINK, &piece)
    }

    #[test]
    fn what_is_cut_is_put_together_again_in_any_order() {
        let now = Instant::now();
        for v4 in [true, false] {
            for length in [1_300, 1_301, 4_000, 9_000] {
                let packet = whole(v4, length);
                let mut pieces = split(packet.clone(), 1_280, 7);
                assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= 1_280));
                assert!(pieces.iter().all(|piece| Fragment::parse(piece).expect("valid").is_some()));
                for _ in 0..2 {
                    let mut waiting = Reassembly::new();
                    let got: Vec<_> =
                        pieces.iter().filter_map(|piece| push(&mut waiting, now, piece)).collect();
                    let [got] = &got[..] else { panic!("{} packets", got.len()) };
                    let (got, sent) =
                        (IpPacket::parse(got).expect("whole"), IpPacket::parse(&packet).expect("whole"));
                    assert_eq!((got.udp(), got.src), (sent.udp(), sent.src));
                    assert_eq!(waiting.deadline(), None);
                    pieces.reverse();
                }
            }
        }
    }

    #[test]
    fn a_packet_that_fits_is_left_alone_and_a_whole_one_is_no_piece() {
        for v4 in [true, false] {
            let packet = whole(v4, 1_000);
            assert_eq!(Fragment::parse(&packet), Ok(None));
            assert_eq!(split(packet.clone(), 1_280, 7), [packet]);
        }
    }

    #[test]
    fn a_piece_over_another_ends_the_whole_packet() {
        let now = Instant::now();
        let pieces = split(whole(true, 4_000), 1_280, 7);
        let mut waiting = Reassembly::new();
        assert_eq!(push(&mut waiting, now, &pieces[1]), None);
        // The second piece again, begun one unit earlier.
        let mut over = pieces[1].clone();
        over[7] -= 1;
        assert_eq!(push(&mut waiting, now, &over), None);
        assert_eq!(waiting.drops().get(&FragmentDrop::Overlap), Some(&1));
        for piece in &pieces[..3] {
            assert_eq!(push(&mut waiting, now, piece), None, "what was begun is forgotten");
        }
        assert!(push(&mut waiting, now, &pieces[3]).is_some(), "and comes whole when it is sent again");
    }

    #[test]
    fn the_same_piece_twice_does_no_harm() {
        let now = Instant::now();
        let pieces = split(whole(false, 3_000), 1_280, 7);
        let mut waiting = Reassembly::new();
        for piece in [&pieces[0], &pieces[0], &pieces[1]] {
            assert_eq!(push(&mut waiting, now, piece), None);
        }
        assert!(push(&mut waiting, now, &pieces[2]).is_some());
    }

    #[test]
    fn what_is_too_long_or_never_complete_is_given_up_and_counted() {
        let now = Instant::now();
        let mut waiting = Reassembly::new();
        let long = split(whole(true, 30_000), 1_280, 1);
        assert!(long.iter().all(|piece| push(&mut waiting, now, piece).is_none()));
        assert!(waiting.drops()[&FragmentDrop::TooLong] > 0);
        let mut waiting = Reassembly::new();
        for identification in 0..40 {
            push(&mut waiting, now, &split(whole(true, 3_000), 1_280, identification)[0]);
        }
        assert_eq!(waiting.partial.len(), MAX_PARTIAL_OF_LINK);
        let due = waiting.deadline().expect("something waits");
        waiting.expire(due);
        assert_eq!((waiting.partial.len(), waiting.drops()[&FragmentDrop::Incomplete]), (0, 40));
        push(&mut waiting, due, &long[0]);
        waiting.drop_link(LINK);
        assert_eq!(waiting.deadline(), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader_and_memory_stays_bounded(
            packets in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..80), any::<bool>()), 0..80),
        ) {
            let now = Instant::now();
            let mut waiting = Reassembly::new();
            for (mut bytes, v4) in packets {
                if bytes.len() > 48 {
                    let length = u8::try_from(bytes.len()).expect("short");
                    if v4 {
                        bytes[0] = 0x45; bytes[2] = 0; bytes[3] = length; bytes[4] = 0; bytes[6] &= 0x3F;
                        bytes[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
                    } else {
                        bytes[0] = 0x60; bytes[4] = 0; bytes[5] = length - 40; bytes[6] = IPV6_FRAGMENT;
                    }
                }
                if let Ok(Some(piece)) = Fragment::parse(&bytes)
                    && let Some(packet) = waiting.push(now, LINK, &piece)
                {
                    prop_assert!(packet.len() <= MAX_WHOLE);
                }
            }
            prop_assert!(waiting.partial.len() <= MAX_PARTIAL_OF_LINK);
            prop_assert_eq!(waiting.partial.len(), waiting.by_age.len());
        }
    }
}
