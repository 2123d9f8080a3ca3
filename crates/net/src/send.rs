//! What is to be sent, in runs the kernel can cut for us.

use quinn_udp::Transmit;
use std::{io, net::SocketAddr};

/// Longest payload of one system call: an IPv4 length field less IP and UDP headers.
const RUN_BYTES: usize = 65_535 - 20 - 8;

/// How a batch fared. Counts of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct SendReport {
    /// The kernel took them.
    pub sent: usize,
    /// Longer than the path's MTU.
    pub too_long: usize,
    /// The socket's buffer was full (only without waiting).
    pub no_room: usize,
    /// No route, no permission, or another error of the network below.
    pub refused: usize,
}

impl SendReport {
    pub(crate) fn refuse(&mut self, error: &io::Error) {
        if quinn_udp::is_msg_size_err(error) {
            self.too_long += 1;
        } else {
            self.refused += 1;
        }
    }
}

#[derive(Debug)]
struct Stretch {
    to: SocketAddr,
    start: usize,
    end: usize,
    segment: usize,
    open: Open,
}

/// Whether one more datagram may join a stretch: only its last one may be shorter than the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Yes,
    No,
}

/// Datagrams to send, in order. Consecutive ones of one length to one destination leave in one
/// system call. The memory is kept for the next use.
#[derive(Debug, Default)]
pub struct SendBatch {
    bytes: Vec<u8>,
    stretches: Vec<Stretch>,
    datagrams: usize,
}

impl SendBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a datagram. An empty one is dropped: nobody's protocol has one.
    pub fn push(&mut self, to: SocketAddr, payload: &[u8]) {
        self.push_parts(to, &[payload]);
    }

    /// Appends a datagram made of parts, such as a header and a body, without joining them first.
    pub fn push_parts(&mut self, to: SocketAddr, parts: &[&[u8]]) {
        let start = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        let (end, len) = (self.bytes.len(), self.bytes.len() - start);
        if len == 0 {
            return;
        }
        self.datagrams += 1;
        match self.stretches.last_mut() {
            Some(last) if last.open == Open::Yes && last.to == to && len <= last.segment => {
                last.end = end;
                if len < last.segment {
                    last.open = Open::No;
                }
            }
            _ => self.stretches.push(Stretch { to, start, end, segment: len, open: Open::Yes }),
        }
    }

    /// How many datagrams wait.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.datagrams
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.stretches.clear();
        self.datagrams = 0;
    }

    pub(crate) fn runs(&self, max_segments: usize) -> impl Iterator<Item = Run<'_>> {
        self.stretches.iter().flat_map(move |stretch| {
            let per_run = max_segments.min(RUN_BYTES / stretch.segment).max(1);
            self.bytes[stretch.start..stretch.end].chunks(per_run * stretch.segment).map(move |bytes| Run {
                to: stretch.to,
                segment: stretch.segment,
                bytes,
            })
        })
    }
}

/// What goes out in one system call.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    to: SocketAddr,
    segment: usize,
    bytes: &'a [u8],
}

impl<'a> Run<'a> {
    pub(crate) const fn to(&self) -> SocketAddr {
        self.to
    }

    pub(crate) const fn datagrams(&self) -> usize {
        self.bytes.len().div_ceil(self.segment)
    }

    /// The length of its longest datagram.
    pub(crate) const fn longest(&self) -> usize {
        self.segment
    }

    pub(crate) const fn transmit(&self, destination: SocketAddr) -> Transmit<'a> {
        Transmit {
            destination,
            ecn: None,
            contents: self.bytes,
            segment_size: Some(self.segment),
            src_ip: None,
        }
    }

    pub(crate) fn singles(&self, destination: SocketAddr) -> impl Iterator<Item = Transmit<'a>> {
        self.bytes.chunks(self.segment).map(move |contents| Transmit {
            destination,
            ecn: None,
            contents,
            segment_size: None,
            src_ip: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 7))
    }

    proptest! {
        #[test]
        fn every_datagram_leaves_once_in_order_and_whole(
            pushes in proptest::collection::vec((0_u8..3, 1_usize..5), 0..80),
            max_segments in 1_usize..6,
        ) {
            let mut batch = SendBatch::new();
            let wanted: Vec<_> = pushes
                .iter()
                .enumerate()
                .map(|(index, (to, len))| (address(*to), vec![u8::try_from(index).expect("< 80"); *len]))
                .collect();
            for (to, payload) in &wanted {
                batch.push(*to, payload);
            }
            let mut seen = Vec::new();
            for run in batch.runs(max_segments) {
                prop_assert!(run.datagrams() <= max_segments);
                for single in run.singles(run.to()) {
                    seen.push((single.destination, single.contents.to_vec()));
                }
            }
            prop_assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn a_run_never_exceeds_one_ip_packet() {
        let mut batch = SendBatch::new();
        for _ in 0..64 {
            batch.push(address(1), &[0; 1400]);
        }
        let lengths: Vec<usize> = batch.runs(64).map(|run| run.bytes.len()).collect();
        assert_eq!(lengths, [46 * 1400, 18 * 1400]);
    }

    #[test]
    fn a_short_datagram_ends_its_run() {
        let mut batch = SendBatch::new();
        for len in [100, 100, 40, 40, 100] {
            batch.push(address(1), &vec![0; len]);
        }
        let counts: Vec<usize> = batch.runs(64).map(|run| run.datagrams()).collect();
        assert_eq!(counts, [3, 1, 1]);
    }
}
