//! When what was sent is sent again.
//!
//! The kept stack waits a second at least before it sends again, sends one segment for three duplicate
//! acknowledgements, and knows nothing of the segments lost beside it: a window of which much was lost would cost a
//! second a segment. Here is what it lacks: a question after two round trips (the tail loss probe of RFC 8985,
//! section 7), the next segment as soon as an acknowledgement shows that it is missing too (RFC 6582, section 3.2),
//! and a timeout after which everything goes again (RFC 6298), no sooner than Linux's.
//!
//! The stack has no word for "send again". It is told by what the peer would have sent, or by a clock that shows
//! that its own timer is over.

use crate::craft;
use crate::ip::{IpPacket, TcpFlags, TcpSegment};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The shortest wait before everything goes again (Linux's TCP_RTO_MIN).
const SHORTEST: Duration = Duration::from_millis(200);
/// Beyond the round trip before the first segment is sent again: the peer delays an acknowledgement by 10 ms, and is
/// scheduled late.
const PROBE_SLACK: Duration = Duration::from_millis(15);
/// How often the first segment alone is sent again before everything is.
const PROBES: u32 = 2;
/// Duplicate acknowledgements that mean a loss (RFC 5681, section 3.2); the stack counts them as well.
const DUPLICATES: u32 = 3;
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
    /// The end of what was sent.
    highest: Option<u32>,
    duplicates: u32,
    /// The end of what was under way when a loss was noticed: an acknowledgement that stops short of it shows the next
    /// loss (RFC 6582).
    recover: Option<u32>,
}

/// What a segment of the peer's shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Whatever it says.
    News,
    /// Nothing that was not known: a duplicate acknowledgement.
    Nothing,
    /// That the next segment was lost as well: [`Recovery::first`] is for the stack, after it.
    NextLost,
}

/// What is to be sent again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// Nothing.
    Nothing,
    /// The first segment that is not acknowledged: the stack sends it when it takes these packets.
    First(Vec<Vec<u8>>),
    /// All from there on. How often in a row.
    All(u32),
}

/// Serial numbers (RFC 1982).
const fn is_later(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() > 0
}

impl Recovery {
    pub const fn new() -> Self {
        Self {
            heard: None,
            timed: None,
            smooth: None,
            since: None,
            fired: 0,
            highest: None,
            duplicates: 0,
            recover: None,
        }
    }

    /// Takes note of a segment of the peer's, before the stack takes it.
    pub fn heard(&mut self, now: Instant, segment: &TcpSegment) -> Shows {
        if !segment.flags.ack() || segment.flags.rst() {
            return Shows::News;
        }
        let mut shows = Shows::News;
        if self.heard.is_none_or(|(_, ack, _)| is_later(segment.ack, ack)) {
            self.since = self.since.map(|_| now);
            self.fired = 0;
            self.duplicates = 0;
            self.recover = self.recover.filter(|recover| is_later(*recover, segment.ack));
            if self.recover.is_some() {
                shows = Shows::NextLost;
                // Whatever is timed may be sent again (Karn; RFC 6298, section 3).
                self.untime(segment.ack);
            }
        } else if segment.sequence_len() == 0
            && self.heard.is_some_and(|(_, ack, window)| (ack, window) == (segment.ack, segment.window))
        {
            shows = Shows::Nothing;
            self.duplicates = self.duplicates.saturating_add(1);
            if self.duplicates == DUPLICATES && self.since.is_some() && self.recover.is_none() {
                // The stack sends the first one now.
                self.recover = self.highest;
                self.untime(segment.ack);
            }
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
        shows
    }

    /// What is timed and not acknowledged yet is not timed any more.
    fn untime(&mut self, ack: u32) {
        self.timed = self.timed.filter(|(end, _)| !is_later(*end, ack));
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
        let Some(packet) = packets.last() else { return };
        let segment = IpPacket::parse(packet).and_then(|packet| packet.tcp());
        let Some(segment) = segment.ok().filter(|segment| segment.sequence_len() > 0) else { return };
        let end = segment.seq.wrapping_add(segment.sequence_len());
        let is_new = self.highest.is_none_or(|highest| is_later(end, highest));
        if is_new {
            self.highest = Some(end);
        }
        // One at a time, and none that may be a repetition (RFC 6298, section 3).
        if self.timed.is_none() && self.fired == 0 && is_new && segment.data_len > 0 {
            self.timed = Some((end, now));
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
        let Some((smooth, spread)) = self.smooth else {
            return (FIRST * (1 << self.fired.min(6))).min(self.longest().max(FIRST));
        };
        let trip = smooth + spread * 4;
        if self.fired < PROBES {
            return (smooth * 2).max(trip) + PROBE_SLACK;
        }
        let first = trip.max(SHORTEST);
        (first * (1 << (self.fired - PROBES).min(6))).min(self.longest().max(first))
    }

    const fn longest(&self) -> Duration {
        if self.fired < PATIENT_AFTER { LONGEST } else { LONGEST_LATER }
    }

    /// When something is to be sent again.
    pub fn deadline(&self) -> Option<Instant> {
        self.heard?;
        Some(self.since? + self.wait())
    }

    /// What is to be sent again; nothing before the deadline.
    pub fn fire(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) -> Again {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Again::Nothing;
        }
        self.since = Some(now);
        self.fired += 1;
        self.timed = None;
        self.duplicates = 0;
        if self.heard.is_none_or(|(_, _, window)| window == 0) {
            // The peer takes nothing now; the stack asks for its window by itself.
            return Again::Nothing;
        }
        if self.smooth.is_some() && self.fired <= PROBES {
            self.recover = self.highest;
            return Again::First(self.first(local, remote));
        }
        self.recover = None;
        Again::All(self.fired)
    }

    /// The way has changed: what has waited for longer than a round trip, or was sent again already, was lost with the
    /// old one.
    pub fn hurry(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let trip = self.smooth.map_or(FIRST, |(smooth, spread)| (smooth + spread * 4) + PROBE_SLACK);
        if self.fired > 0 || now >= since + trip {
            self.fired = self.fired.max(PROBES);
            self.since = Some(now.checked_sub(self.wait()).unwrap_or(since));
        }
    }

    /// What the peer would have sent to say that the first segment is missing.
    ///
    /// A change of the window in front: the stack counts duplicates to three once, and starts to count again after an
    /// acknowledgement that is none.
    pub fn first(&self, local: SocketAddr, remote: SocketAddr) -> Vec<Vec<u8>> {
        let Some((seq, ack, window)) = self.heard.filter(|(_, _, window)| *window > 0) else {
            return Vec::new();
        };
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
    fn the_first_goes_again_twice_and_then_everything_after_waits_that_grow_to_a_second() {
        let (local, remote) = ends();
        let start = Instant::now();
        let mut recovery = Recovery::new();
        recovery.heard(start, &heard(1));
        recovery.measured(Duration::from_millis(10));
        recovery.awaits(start, true);
        let mut now = start;
        let mut waits = Vec::new();
        for number in 1..=7 {
            let due = recovery.deadline().expect("something waits");
            assert_eq!(recovery.fire(due - Duration::from_millis(1), local, remote), Again::Nothing);
            match recovery.fire(due, local, remote) {
                Again::First(packets) => assert_eq!((packets.len(), number <= PROBES), (5, true)),
                Again::All(times) => assert_eq!((times, number > PROBES), (number, true)),
                Again::Nothing => panic!("{number}: it was due"),
            }
            waits.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(waits, [45, 45, 200, 400, 800, 1000, 1000]);
        recovery.heard(now, &heard(2));
        assert_eq!(recovery.deadline(), Some(now + Duration::from_millis(45)));
        recovery.awaits(now, false);
        assert_eq!(recovery.deadline(), None);
    }

    #[test]
    fn an_acknowledgement_that_stops_short_of_what_was_under_way_shows_the_next_loss() {
        let (local, remote) = ends();
        let start = Instant::now();
        let mut recovery = Recovery::new();
        recovery.heard(start, &heard(100));
        recovery.awaits(start, true);
        recovery.highest = Some(1_000);
        for _ in 0..DUPLICATES {
            assert_eq!(recovery.heard(start, &heard(100)), Shows::Nothing);
        }
        assert_eq!(recovery.heard(start, &heard(200)), Shows::NextLost);
        assert_eq!(recovery.first(local, remote).len(), 5);
        assert_eq!(recovery.heard(start, &heard(900)), Shows::NextLost);
        assert_eq!(recovery.heard(start, &heard(1_000)), Shows::News);
        // No loss, no hurry.
        assert_eq!(recovery.heard(start, &heard(1_100)), Shows::News);
    }

    #[test]
    fn what_waits_when_the_way_changes_goes_again_at_once_and_what_was_just_sent_does_not() {
        let start = Instant::now();
        let mut recovery = Recovery::new();
        recovery.heard(start, &heard(1));
        recovery.measured(Duration::from_millis(10));
        recovery.awaits(start, true);
        let soon = start + Duration::from_millis(20);
        recovery.hurry(soon);
        assert!(recovery.deadline().expect("something waits") > soon);
        let late = start + Duration::from_millis(200);
        recovery.hurry(late);
        assert!(recovery.deadline().expect("something waits") <= late);
        let (local, remote) = ends();
        assert!(matches!(recovery.fire(late, local, remote), Again::All(_)));
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
