//! Admission: which datagram has its turn first when there are more than there is time for.
//!
//! Everything that comes to the session loop waits here, most often for no time at all. What belongs to a session
//! that runs or a handshake that has begun goes first; a first packet that has proven its address before one that has
//! not; and sources that begin handshakes all the time after everybody else. When the wait passes [`SHED_ABOVE`] the
//! newest goes first: whoever came early has given up or is about to ask again, and answering only the late would
//! help nobody (the queue of the outages that this product remembers). All queues are bounded; nothing here is kept
//! for a source that has not proven its address.

mod sketch;

pub(crate) use sketch::{Sketch, prefix_of};

use super::random::Seed;
use serde::Serialize;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Longer waits turn a queue around: newest first.
pub const SHED_ABOVE: Duration = Duration::from_millis(20);
/// Older first packets are dropped: QUIC has sent another one meanwhile (RFC 9002 section 6.2.2: after one second).
const STALE: Duration = Duration::from_secs(1);
/// Handshakes that a source may begin in ten to twenty seconds and count as usual: an agent that lost its session
/// tries UDP and TCP at two addresses, and does so again.
const USUAL: u32 = 6;
/// One turn in so many is not for the running: a flood of what looks like sessions leaves room to register.
const OTHERS_TURN: u32 = 8;

/// What a datagram is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Of a session, or of a handshake that has begun: keepalives, rekeys, introductions, what completes a
    /// registration.
    Running,
    /// The first packet of a source that has answered a Retry.
    Proven,
    /// The first packet of anybody: it costs a Retry.
    Unproven,
    /// A STUN request.
    Question,
    /// As `Proven`, of a source that comes all the time.
    ProvenAgain,
    /// As `Unproven`, of a source that comes all the time.
    UnprovenAgain,
}

impl Class {
    const ALL: [Self; 6] =
        [Self::Running, Self::Proven, Self::Unproven, Self::Question, Self::ProvenAgain, Self::UnprovenAgain];

    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Proven => "proven",
            Self::Unproven => "unproven",
            Self::Question => "question",
            Self::ProvenAgain => "proven_again",
            Self::UnprovenAgain => "unproven_again",
        }
    }

    /// Datagrams that wait: at most 10 ms of work each at the cost of their kind (a packet of a session 2–5 µs, a
    /// handshake's beginning 100 µs, a Retry 10 µs), or what a burst of the kernel brings.
    const fn room(self) -> usize {
        match self {
            Self::Running => 8_192,
            Self::Proven | Self::ProvenAgain => 2_048,
            Self::Unproven | Self::UnprovenAgain => 512,
            Self::Question => 256,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    came: Instant,
    source: SocketAddr,
    bytes: Vec<u8>,
}

/// What admission did. Counts since the start; `waiting` is as of now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct AdmissionStatus {
    /// Datagrams that wait, by class.
    pub waiting: BTreeMap<&'static str, usize>,
    /// Datagrams dropped because too many waited or they had waited too long, by class.
    pub shed: BTreeMap<&'static str, u64>,
    /// Datagrams that were taken newest first.
    pub turned: u64,
    /// The longest wait of a datagram that had its turn, in microseconds.
    pub longest_wait_us: u64,
}

/// The queues in front of the session core.
#[derive(Debug)]
pub struct Intake {
    queues: [VecDeque<Waiting>; 6],
    len: usize,
    sources: Sketch,
    turn: u32,
    status: AdmissionStatus,
}

/// What a QUIC datagram looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Only somebody who has a connection id sends it.
    Later,
    /// A first packet, with or without the token of a Retry.
    First { has_token: bool },
}

impl Intake {
    /// Empty queues.
    #[must_use]
    pub fn new(seed: &Seed, now: Instant) -> Self {
        Self {
            queues: Default::default(),
            len: 0,
            sources: Sketch::new(seed, "admission/sources", now),
            turn: 0,
            status: AdmissionStatus::default(),
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The class of a QUIC datagram. `is_handshaking`: a handshake with this source has begun.
    pub fn classify(
        &mut self,
        now: Instant,
        source: SocketAddr,
        datagram: &[u8],
        is_handshaking: impl FnOnce() -> bool,
    ) -> Class {
        // Planted: one queue for everybody, first come, first served.
        if planted::is("one-queue") {
            return Class::Running;
        }
        let Look::First { has_token } = look(datagram) else { return Class::Running };
        if is_handshaking() {
            return Class::Running;
        }
        let again = self.sources.count(now, &prefix_of(source.ip())) > USUAL;
        match (has_token, again) {
            (true, false) => Class::Proven,
            (false, false) => Class::Unproven,
            (true, true) => Class::ProvenAgain,
            (false, true) => Class::UnprovenAgain,
        }
    }

    /// A source that has proven its address began a handshake.
    pub fn charge(&mut self, now: Instant, source: SocketAddr) {
        // Addresses that stand for streams are proven by TCP, and counted where streams are taken.
        if !wire::is_stream_address(source) {
            self.sources.add(now, &prefix_of(source.ip()));
        }
    }

    /// Takes a datagram in, or drops one: of what runs the newest, else the oldest.
    pub fn offer(&mut self, now: Instant, class: Class, source: SocketAddr, datagram: &[u8]) {
        let queue = &mut self.queues[class as usize];
        if queue.len() >= class.room() && !planted::is("queue-without-end") {
            *self.status.shed.entry(class.label()).or_default() += 1;
            if class == Class::Running {
                return;
            }
            queue.pop_front();
            self.len -= 1;
        }
        queue.push_back(Waiting { came: now, source, bytes: datagram.to_vec() });
        self.len += 1;
    }

    /// Whose turn it is.
    pub fn take(&mut self, now: Instant) -> Option<(Class, SocketAddr, Vec<u8>)> {
        self.turn = self.turn.wrapping_add(1);
        let mut order = Class::ALL;
        if self.turn.is_multiple_of(OTHERS_TURN) {
            order.rotate_left(1);
        }
        if self.turn.is_multiple_of(2) {
            // A token is not proven before QUIC has looked at it: invented ones must not keep everybody from a first
            // answer. A Retry costs a thirtieth of a handshake.
            let of = |class| order.iter().position(|other| *other == class);
            if let (Some(proven), Some(unproven)) = (of(Class::Proven), of(Class::Unproven)) {
                order.swap(proven, unproven);
            }
        }
        let class = order.into_iter().find(|class| self.has(now, *class))?;
        let queue = &mut self.queues[class as usize];
        let oldest = queue.front()?.came;
        let newest_first = class != Class::Running
            && now.saturating_duration_since(oldest) > SHED_ABOVE
            && !planted::is("oldest-first-when-behind");
        let waiting = if newest_first {
            self.status.turned += 1;
            queue.pop_back()?
        } else {
            queue.pop_front()?
        };
        self.len -= 1;
        let wait = now.saturating_duration_since(waiting.came);
        let wait = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        self.status.longest_wait_us = self.status.longest_wait_us.max(wait);
        Some((class, waiting.source, waiting.bytes))
    }

    /// Whether there is one of this class, after those that waited too long are gone.
    fn has(&mut self, now: Instant, class: Class) -> bool {
        let queue = &mut self.queues[class as usize];
        if class != Class::Running {
            while queue.front().is_some_and(|waiting| now.saturating_duration_since(waiting.came) > STALE) {
                queue.pop_front();
                self.len -= 1;
                *self.status.shed.entry(class.label()).or_default() += 1;
            }
        }
        !queue.is_empty()
    }

    /// What was done.
    #[must_use]
    pub fn status(&self) -> AdmissionStatus {
        let mut status = self.status.clone();
        for (class, queue) in Class::ALL.into_iter().zip(&self.queues) {
            status.waiting.insert(class.label(), queue.len());
        }
        status
    }
}

/// Reads as much of a QUIC header as tells a first packet and its token (RFC 9000 section 17.2.2). What cannot be
/// read is a first packet without one: the class that gets least.
fn look(datagram: &[u8]) -> Look {
    const LONG_HEADER: u8 = 0x80;
    const TYPE: u8 = 0x30;
    const INITIAL: u8 = 0x00;
    let nothing = Look::First { has_token: false };
    let Some((first, rest)) = datagram.split_first() else { return nothing };
    if first & LONG_HEADER == 0 {
        return Look::Later;
    }
    let Some((version, rest)) = rest.split_first_chunk::<4>() else { return nothing };
    if u32::from_be_bytes(*version) != session::QUIC_V1 {
        return nothing;
    }
    if first & TYPE != INITIAL {
        return Look::Later;
    }
    // Destination and source connection id, each behind its length.
    let mut rest = rest;
    for _ in 0..2 {
        let Some((length, behind)) = rest.split_first() else { return nothing };
        let Some(behind) = behind.get(usize::from(*length)..) else { return nothing };
        rest = behind;
    }
    // The token's length is a variable-length integer: only zero is one byte of zero bits.
    Look::First { has_token: rest.first().is_some_and(|length| *length != 0) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    use super::*;

    fn source(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4433))
    }

    fn initial(token: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xC0, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0];
        packet.push(u8::try_from(token.len()).expect("short"));
        packet.extend_from_slice(token);
        packet.resize(1200, 0);
        packet
    }

    fn intake(now: Instant) -> Intake {
        Intake::new(&Seed::from_random([3; 32]), now)
    }

    fn class_of(intake: &mut Intake, now: Instant, last: u8, datagram: &[u8]) -> Class {
        intake.classify(now, source(last), datagram, || false)
    }

    #[test]
    fn packets_are_told_apart_by_what_they_show() {
        let now = Instant::now();
        let mut intake = intake(now);
        assert_eq!(class_of(&mut intake, now, 1, &[0x40; 40]), Class::Running);
        assert_eq!(class_of(&mut intake, now, 1, &initial(b"")), Class::Unproven);
        assert_eq!(class_of(&mut intake, now, 1, &initial(b"token")), Class::Proven);
        let mut handshake = initial(b"");
        handshake[0] = 0xE0;
        assert_eq!(class_of(&mut intake, now, 1, &handshake), Class::Running);
        assert_eq!(intake.classify(now, source(1), &initial(b"token"), || true), Class::Running);
        for length in 0..15 {
            assert_eq!(
                class_of(&mut intake, now, 1, &initial(b"token")[..length]),
                Class::Unproven,
                "{length}"
            );
        }
    }

    #[test]
    fn what_runs_goes_first_and_leaves_one_turn_in_eight() {
        let now = Instant::now();
        let mut intake = intake(now);
        for _ in 0..64 {
            intake.offer(now, Class::Running, source(1), b"r");
            intake.offer(now, Class::Proven, source(2), b"p");
        }
        let first: Vec<Class> = (0..16).filter_map(|_| intake.take(now)).map(|(class, ..)| class).collect();
        assert_eq!(first.iter().filter(|class| **class == Class::Proven).count(), 2, "{first:?}");
    }

    #[test]
    fn who_comes_with_a_token_keeps_nobody_from_a_first_answer() {
        let now = Instant::now();
        let mut intake = intake(now);
        for _ in 0..64 {
            intake.offer(now, Class::Proven, source(1), b"p");
            intake.offer(now, Class::Unproven, source(2), b"u");
        }
        let first: Vec<Class> = (0..16).filter_map(|_| intake.take(now)).map(|(class, ..)| class).collect();
        assert_eq!(first.iter().filter(|class| **class == Class::Unproven).count(), 8, "{first:?}");
    }

    #[test]
    fn a_source_that_comes_all_the_time_comes_after_everybody_else() {
        let now = Instant::now();
        let mut intake = intake(now);
        for _ in 0..=USUAL {
            intake.charge(now, source(9));
        }
        let busy = class_of(&mut intake, now, 9, &initial(b"token"));
        assert_eq!(busy, Class::ProvenAgain);
        intake.offer(now, busy, source(9), b"busy");
        intake.offer(now, Class::Unproven, source(1), b"somebody");
        assert_eq!(intake.take(now).expect("one").2, b"somebody");
        assert_eq!(intake.take(now).expect("one").2, b"busy");
        let later = now + Duration::from_secs(25);
        assert_eq!(class_of(&mut intake, later, 9, &initial(b"token")), Class::Proven);
    }

    #[test]
    fn a_queue_that_is_behind_serves_the_newest_and_drops_what_has_been_asked_again() {
        let now = Instant::now();
        let mut intake = intake(now);
        intake.offer(now, Class::Proven, source(1), b"stale");
        intake.offer(now + Duration::from_millis(990), Class::Proven, source(2), b"late");
        intake.offer(now + Duration::from_millis(1_020), Class::Proven, source(3), b"new");
        let at = now + Duration::from_millis(1_030);
        assert_eq!(intake.take(at).expect("one").2, b"new");
        assert_eq!(intake.take(at).expect("one").2, b"late");
        assert!(intake.take(at).is_none());
        assert_eq!(intake.status().shed["proven"], 1);
    }

    #[test]
    fn every_queue_is_bounded_and_a_full_one_keeps_what_is_worth_more() {
        let now = Instant::now();
        let mut intake = intake(now);
        for class in Class::ALL {
            for number in 0..class.room() + 10 {
                intake.offer(now, class, source(1), &number.to_be_bytes());
            }
        }
        let status = intake.status();
        for class in Class::ALL {
            assert_eq!(status.waiting[class.label()], class.room());
            assert_eq!(status.shed[class.label()], 10);
        }
        assert_eq!(intake.take(now).expect("one").2, 0_usize.to_be_bytes(), "the oldest of what runs");
    }
}
