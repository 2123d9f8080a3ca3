//! Sending again sooner than the kept stack does by itself.
//!
//! smoltcp waits a second at least before it sends anything again, doubles that up to a minute, and knows no SACK
//! (its `RTTE_MIN_RTO`, `RTTE_MAX_RTO`). A path that was gone for two seconds would cost seven. It does send again
//! at once after three duplicate acknowledgements (RFC 5681, section 3.2), so this module measures the round trip,
//! waits as RFC 6298 says but not below 200 ms (as Linux does), and then gives the stack these three, as the peer
//! would have sent them.

use crate::craft;
use crate::ip::{IpPacket, TcpFlags, TcpSegment};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The shortest wait (Linux's TCP_RTO_MIN).
const SHORTEST: Duration = Duration::from_millis(200);
/// Before a round trip was measured (RFC 6298, section 2.1).
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait while the peer may be on its way back: a path that works again is used within a second.
const LONGEST: Duration = Duration::from_secs(1);
/// After so many waits the peer is not about to come back.
const PATIENT_AFTER: u32 = 40;
const LONGEST_LATER: Duration = Duration::from_secs(10);
/// Where the window is in a TCP header.
const WINDOW: usize = 14;

/// What one flow knows about getting its data across.
#[derive(Debug)]
pub(crate) struct Recovery {
    /// The peer's last word: its next sequence number, what it has, and its window as it wrote it.
    heard: Option<(u32, u32, u16)>,
    /// A segment whose acknowledgement is timed: its end, and when it was sent.
    timed: Option<(u32, Instant)>,
    smooth: Option<(Duration, Duration)>,
    /// Since when nothing new was acknowledged while something waited.
    since: Option<Instant>,
    fired: u32,
}

impl Recovery {
    pub const fn new() -> Self {
        Self { heard: None, timed: None, smooth: None, since: None, fired: 0 }
    }

    /// Takes note of a segment of the peer's.
    pub fn heard(&mut self, now: Instant, segment: &TcpSegment) {
        if !segment.flags.ack() || segment.flags.rst() {
            return;
        }
        let is_later = |one: u32, other: u32| one.wrapping_sub(other).cast_signed() > 0;
        if self.heard.is_none_or(|(_, ack, _)| is_later(segment.ack, ack)) {
            self.since = self.since.map(|_| now);
            self.fired = 0;
        }
        if let Some((end, sent)) = self.timed
            && !is_later(end, segment.ack)
        {
            self.timed = None;
            self.measured(now.saturating_duration_since(sent));
        }
        if self.heard.is_none_or(|(_, ack, _)| !is_later(ack, segment.ack)) {
            let next = segment.seq.wrapping_add(segment.sequence_len());
            self.heard = Some((next, segment.ack, segment.window));
        }
    }

    /// RFC 6298, section 2.
    fn measured(&mut self, took: Duration) {
        self.smooth = Some(match self.smooth {
            None => (took, took / 2),
            Some((smooth, spread)) => {
                let differs = smooth.abs_diff(took);
                ((smooth * 7 + took) / 8, (spread * 3 + differs) / 4)
            }
        });
    }

    /// Takes note of packets that go out.
    pub fn sent(&mut self, now: Instant, packets: &[Vec<u8>]) {
        // One at a time, and none that may be a repetition (RFC 6298, section 3).
        if self.timed.is_some() || self.fired > 0 {
            return;
        }
        let Some(packet) = packets.last() else { return };
        let segment = IpPacket::parse(packet).and_then(|packet| packet.tcp());
        if let Some(segment) = segment.ok().filter(|segment| segment.data_len > 0) {
            self.timed = Some((segment.seq.wrapping_add(segment.sequence_len()), now));
        }
    }

    /// Whether something waits for its acknowledgement now.
    pub fn awaits(&mut self, now: Instant, awaits: bool) {
        if awaits {
            self.since.get_or_insert(now);
        } else {
            self.since = None;
            self.fired = 0;
        }
    }

    fn wait(&self) -> Duration {
        let first = match self.smooth {
            Some((smooth, spread)) => (smooth + spread * 4).max(SHORTEST),
            None => FIRST,
        };
        let longest = if self.fired < PATIENT_AFTER { LONGEST } else { LONGEST_LATER };
        (first * (1 << self.fired.min(6))).min(longest.max(first))
    }

    /// When the stack is to send again.
    pub fn deadline(&self) -> Option<Instant> {
        self.heard?;
        Some(self.since? + self.wait())
    }

    /// What the peer would have sent to say that something is missing; nothing before the deadline.
    ///
    /// Two changes of the window in front: the stack counts duplicates to three once, and starts to count again after
    /// an acknowledgement that is none.
    pub fn fire(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) -> Vec<Vec<u8>> {
        let (Some(deadline), Some((seq, ack, window))) = (self.deadline(), self.heard) else {
            return Vec::new();
        };
        if deadline > now {
            return Vec::new();
        }
        self.since = Some(now);
        self.fired += 1;
        self.timed = None;
        if window == 0 {
            // The peer takes nothing now; the stack asks for its window by itself.
            return Vec::new();
        }
        let header = if remote.is_ipv4() { 20 } else { 40 };
        let with = |window: u16| {
            let mut packet = craft::segment(remote, local, seq, ack, TcpFlags::ACK);
            packet[header + WINDOW..header + WINDOW + 2].copy_from_slice(&window.to_be_bytes());
            packet
        };
        [window - 1, window, window, window, window].map(with).into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test reads the clock once, as its start")]
    use super::*;

    fn ends() -> (SocketAddr, SocketAddr) {
        ("10.0.0.1:40000".parse().expect("an address"), "10.0.0.2:80".parse().expect("an address"))
    }

    fn heard(ack: u32) -> TcpSegment {
        let (local, remote) = ends();
        let packet = craft::segment(remote, local, 500, ack, TcpFlags::ACK);
        let segment = IpPacket::parse(&packet).and_then(|packet| packet.tcp()).expect("a segment");
        TcpSegment { window: 4000, ..segment }
    }

    #[test]
    fn waits_grow_to_a_second_and_begin_again_after_progress() {
        let (local, remote) = ends();
        let start = Instant::now();
        let mut recovery = Recovery::new();
        recovery.heard(start, &heard(1));
        recovery.measured(Duration::from_millis(10));
        recovery.awaits(start, true);
        let mut now = start;
        let mut waits = Vec::new();
        for _ in 0..5 {
            let due = recovery.deadline().expect("something waits");
            assert!(recovery.fire(due - Duration::from_millis(1), local, remote).is_empty());
            assert_eq!(recovery.fire(due, local, remote).len(), 5);
            waits.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(waits, [200, 400, 800, 1000, 1000]);
        recovery.heard(now, &heard(2));
        assert_eq!(recovery.deadline(), Some(now + SHORTEST));
        recovery.awaits(now, false);
        assert_eq!(recovery.deadline(), None);
    }

    #[test]
    fn a_long_round_trip_is_waited_for() {
        let start = Instant::now();
        let mut recovery = Recovery::new();
        recovery.heard(start, &heard(1));
        for _ in 0..20 {
            recovery.measured(Duration::from_millis(700));
        }
        recovery.awaits(start, true);
        assert!(recovery.deadline().expect("something waits") >= start + Duration::from_millis(700));
    }
}
