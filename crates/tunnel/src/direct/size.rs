//! How long a packet one way carries, found with probes filled up to a length (the ideas of RFC 8899).
//!
//! A search begins with the longest, because most ways carry it, and halves what is left. What is proven is asked
//! again while long packets are sent, and at once when nothing comes back: three questions without an answer and the
//! way counts as a black hole for that length, so that packets are of the least length again and the search goes on
//! below. Nothing is asked before somebody sends long packets, and nothing after.

use crate::MAX_INNER_PACKET;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The longest inner packet that every way carries: with the relay's header, UDP and IPv6 it fits a link of 1,280
/// bytes (`flow`'s `FLOW_MTU`).
pub const BASE_MTU: usize = 1_176;
/// The lengths that are tried. Up to 1,280 multiples of sixteen, because WireGuard pads to them; above, what is left
/// of the links one meets (1,500, PPPoE's 1,492, 1,480, 1,460, 1,440, 1,420, 1,400) after IPv4 or IPv6, UDP,
/// WireGuard and the relay's header.
const LENGTHS: [usize; 13] =
    [1_200, 1_216, 1_248, 1_280, 1_296, 1_312, 1_328, 1_344, 1_360, 1_376, 1_392, 1_408, MAX_INNER_PACKET];
/// A packet of this length shows that somebody would send longer ones if he could.
const LONG: usize = 1_100;
/// MAX_PROBES of RFC 8899, section 5.1.2.
const TRIES: u32 = 3;
/// Long packets went out within this: the search goes on.
const ACTIVE: Duration = Duration::from_secs(5);
/// What is proven is asked again so often while longer packets than the least are sent.
const CONFIRM: Duration = Duration::from_secs(5);
/// Long packets out and nothing in for this long: it is asked at once.
const SILENCE: Duration = Duration::from_millis(300);
/// And no sooner than this after the last answer, and once in a silence: who is never answered is asked each
/// [`CONFIRM`].
const ANSWER_APART: Duration = Duration::from_millis(500);
/// PMTU_RAISE_TIMER of RFC 8899, section 5.1.1: what did not pass is tried again.
const RAISE: Duration = Duration::from_secs(600);
/// A question is not asked again sooner, however short the round trip is: a busy machine answers late.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(150);
/// An answer counts for this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Questions whose answers count.
const MAX_OPEN: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Asked {
    step: usize,
    sent: Instant,
    tries: u32,
}

impl Asked {
    const fn first(step: usize, now: Instant) -> Self {
        Self { step, sent: now, tries: 1 }
    }
}

/// A length to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    step: usize,
    /// Of the inner packet.
    pub length: usize,
}

const fn question(step: usize) -> Question {
    Question { step, length: LENGTHS[step] }
}

/// What is known of one way.
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    /// The longest step that was answered.
    proven: Option<usize>,
    /// The shortest that was not.
    failed: usize,
    /// Where the next search begins: what was proven before the way became doubtful.
    hint: Option<usize>,
    /// The question of the search, and the one whether what is used still passes.
    search: Option<Asked>,
    check: Option<Asked>,
    open: VecDeque<(u64, usize, Instant)>,
    confirmed: Option<Instant>,
    raise_at: Option<Instant>,
    /// A long packet went out last.
    long: Option<Instant>,
    /// One longer than the least went out, and nothing came in since.
    unheard: Option<Instant>,
    /// How long an answer took, smoothed like TCP's (RFC 6298, section 2).
    trip: Option<Duration>,
}

impl Sizes {
    pub const fn new() -> Self {
        Self {
            proven: None,
            failed: LENGTHS.len(),
            hint: None,
            search: None,
            check: None,
            open: VecDeque::new(),
            confirmed: None,
            raise_at: None,
            long: None,
            unheard: None,
            trip: None,
        }
    }

    /// How long an answer is waited for before the question is asked again: three round trips, when answers have come,
    /// but no longer than `most`, or two. RFC 8899 (section 4.6.1) wants PROBE_TIMER longer than a round trip, and a
    /// second where nothing measures it; an answer that is late after all counts as well.
    pub fn patience(&self, most: Duration) -> Duration {
        self.trip.map_or(most, |trip| (trip * 3).max(SHORTEST_PATIENCE).min(most.max(trip * 2)))
    }

    /// The longest inner packet that may go this way.
    pub fn longest(&self) -> usize {
        self.proven.map_or(BASE_MTU, |step| LENGTHS[step])
    }

    /// The way may lead elsewhere now: nothing is proven, and what was is asked first.
    pub fn begin_again(&mut self) {
        *self = Self { hint: self.proven.or(self.hint), long: self.long, ..Self::new() };
    }

    /// Data is about to go this way, the longest packet of so many bytes.
    pub fn sent(&mut self, now: Instant, longest: usize) {
        if longest >= LONG {
            self.long = Some(now);
        }
        if longest > BASE_MTU && self.proven.is_some() {
            self.unheard.get_or_insert(now);
        }
    }

    /// Data came this way: what was sent arrives.
    pub const fn heard(&mut self) {
        self.unheard = None;
    }

    /// What to ask now, if anything; [`Self::asked`] follows. To be called until there is nothing.
    pub fn due(&mut self, now: Instant, patience: Duration) -> Option<Question> {
        if self.long.is_none_or(|at| now >= at + ACTIVE) {
            // Nobody needs to know any more. A question that stayed open would be late for ever, and due all the time.
            (self.search, self.check, self.unheard) = (None, None, None);
            return None;
        }
        let is_late = |asked: &Asked| now >= asked.sent + patience;
        if let Some(check) = self.check.filter(is_late) {
            if check.tries < TRIES {
                self.check = Some(Asked { sent: now, tries: check.tries + 1, ..check });
                return Some(question(check.step));
            }
            self.fails(now, check.step);
        } else if let Some(proven) = self.proven.filter(|_| self.check.is_none() && self.wants_check(now)) {
            self.check = Some(Asked::first(proven, now));
            return Some(question(proven));
        }
        if let Some(search) = self.search.filter(is_late) {
            if search.tries < TRIES {
                self.search = Some(Asked { sent: now, tries: search.tries + 1, ..search });
                return Some(question(search.step));
            }
            self.fails(now, search.step);
        }
        if self.search.is_none() {
            let step = self.next_step(now)?;
            self.search = Some(Asked::first(step, now));
            return Some(question(step));
        }
        None
    }

    /// A question of [`Self::due`] goes out under this number.
    pub fn asked(&mut self, now: Instant, id: u64, question: Question) {
        if self.open.len() == MAX_OPEN {
            self.open.pop_front();
        }
        self.open.push_back((id, question.step, now));
    }

    /// Takes an answer; `false` when it answers nothing that was asked here.
    pub fn answered(&mut self, now: Instant, id: u64) -> bool {
        let Some(at) = self.open.iter().position(|(open, ..)| *open == id) else { return false };
        let Some((_, step, sent)) = self.open.remove(at) else { return false };
        if now > sent + ANSWER_WITHIN {
            return true;
        }
        let took = now.saturating_duration_since(sent);
        self.trip = Some(self.trip.map_or(took, |trip| (trip * 7 + took) / 8));
        self.search = self.search.filter(|asked| asked.step > step);
        self.check = self.check.filter(|asked| asked.step > step);
        if self.proven.is_none_or(|proven| proven <= step) {
            self.proven = Some(step);
            self.confirmed = Some(now);
            self.failed = self.failed.max(step + 1);
            self.settle(now);
        }
        true
    }

    fn fails(&mut self, now: Instant, step: usize) {
        self.failed = self.failed.min(step);
        self.search = self.search.filter(|asked| asked.step < step);
        if self.proven.is_some_and(|proven| proven >= step) {
            self.proven = None;
            self.check = None;
            self.unheard = None;
        }
        self.settle(now);
    }

    fn settle(&mut self, now: Instant) {
        let is_over = self.proven.map_or(0, |step| step + 1) >= self.failed;
        if is_over && self.failed < LENGTHS.len() {
            self.raise_at.get_or_insert(now + RAISE);
        } else {
            self.raise_at = None;
        }
    }

    fn next_step(&mut self, now: Instant) -> Option<usize> {
        if self.raise_at.is_some_and(|at| now >= at) {
            self.raise_at = None;
            self.failed = LENGTHS.len();
        }
        let low = self.proven.map_or(0, |step| step + 1);
        let hint = self.hint.take().filter(|hint| (low..self.failed).contains(hint));
        (low < self.failed).then_some(hint.unwrap_or(match self.failed {
            of if of == LENGTHS.len() => of - 1,
            of => low + of.saturating_sub(low) / 2,
        }))
    }

    fn wants_check(&self, now: Instant) -> bool {
        let Some(confirmed) = self.confirmed else { return false };
        let is_used = self.long.is_some_and(|at| at > confirmed);
        is_used && now >= confirmed + CONFIRM || self.silent_at().is_some_and(|at| now >= at)
    }

    /// When what is proven is to be asked because nothing comes back.
    fn silent_at(&self) -> Option<Instant> {
        let (silent, confirmed) = (self.unheard? + SILENCE, self.confirmed?);
        (confirmed < silent).then(|| silent.max(confirmed + ANSWER_APART))
    }

    /// When something is due though nothing is sent until then.
    pub fn deadline(&self, patience: Duration) -> Option<Instant> {
        let asked = [self.search, self.check].into_iter().flatten().map(|asked| asked.sent + patience);
        let silent = self.silent_at().filter(|_| self.check.is_none());
        let at = asked.chain(silent).min()?;
        self.long.filter(|long| at < *long + ACTIVE).map(|_| at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "a test reads the clock once, as its start")]
    use super::*;
    use proptest::prelude::*;

    const PATIENCE: Duration = Duration::from_millis(300);
    const TICK: Duration = Duration::from_millis(50);

    struct Way {
        sizes: Sizes,
        now: Instant,
        /// The longest that passes.
        carries: usize,
        probes: Vec<usize>,
    }

    impl Way {
        fn new(carries: usize) -> Self {
            Self { sizes: Sizes::new(), now: Instant::now(), carries, probes: Vec::new() }
        }

        /// Sends a packet of the length in use each 50 ms; whatever passes is acknowledged.
        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.now += TICK;
                let length = self.sizes.longest();
                self.sizes.sent(self.now, length);
                if length <= self.carries {
                    self.sizes.heard();
                }
                while let Some(question) = self.sizes.due(self.now, PATIENCE) {
                    let (id, length) = (self.probes.len() as u64, question.length);
                    self.probes.push(length);
                    self.sizes.asked(self.now, id, question);
                    if length <= self.carries {
                        assert!(self.sizes.answered(self.now, id));
                    }
                }
            }
        }
    }

    fn expected(carries: usize) -> usize {
        LENGTHS.iter().copied().filter(|length| *length <= carries).max().unwrap_or(BASE_MTU)
    }

    #[test]
    fn the_steps_grow_and_fit_what_wireguard_pads() {
        assert!(LENGTHS.windows(2).all(|pair| pair[0] < pair[1]) && LENGTHS[0] > BASE_MTU);
        for length in LENGTHS.into_iter().filter(|length| *length <= crate::inner::INNER_MTU) {
            assert_eq!(length % 16, 0);
        }
    }

    #[test]
    fn a_way_that_carries_the_longest_is_asked_once() {
        let mut way = Way::new(1_500);
        way.run(Duration::from_secs(1));
        assert_eq!((way.sizes.longest(), way.probes.as_slice()), (MAX_INNER_PACKET, &[MAX_INNER_PACKET][..]));
    }

    #[test]
    fn short_packets_ask_for_nothing() {
        let start = Instant::now();
        let mut sizes = Sizes::new();
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            sizes.sent(now, 200);
            assert_eq!((sizes.due(now, PATIENCE), sizes.deadline(PATIENCE)), (None, None));
        }
    }

    #[test]
    fn a_black_hole_is_left_within_two_seconds_and_found_out_anew() {
        let mut way = Way::new(1_500);
        way.run(Duration::from_secs(10));
        way.carries = 1_300;
        way.run(Duration::from_secs(2));
        assert!(way.sizes.longest() <= 1_300, "{}", way.sizes.longest());
        way.run(Duration::from_secs(10));
        assert_eq!(way.sizes.longest(), 1_296);
        way.carries = 1_500;
        way.run(RAISE + Duration::from_secs(10));
        assert_eq!(way.sizes.longest(), MAX_INNER_PACKET);
    }

    #[test]
    fn what_was_proven_before_a_doubt_is_asked_first() {
        let mut way = Way::new(1_370);
        way.run(Duration::from_secs(20));
        assert_eq!(way.sizes.longest(), 1_360);
        way.sizes.begin_again();
        assert_eq!(way.sizes.longest(), BASE_MTU);
        way.probes.clear();
        way.run(TICK);
        assert_eq!((way.probes.first(), way.sizes.longest()), (Some(&1_360), 1_360));
    }

    #[test]
    fn an_answer_to_nothing_proves_nothing() {
        let mut sizes = Sizes::new();
        assert!(!sizes.answered(Instant::now(), 0));
        assert_eq!(sizes.longest(), BASE_MTU);
    }

    proptest! {
        #[test]
        fn what_a_way_carries_is_found_in_bounded_time_with_few_questions(carries in BASE_MTU..1_600_usize) {
            let mut way = Way::new(carries);
            way.run(Duration::from_secs(15));
            prop_assert_eq!(way.sizes.longest(), expected(carries));
            // Four halvings of three questions at most, and what is proven asked again each five seconds.
            prop_assert!(way.probes.len() <= 20, "{:?}", way.probes);
        }

        #[test]
        fn no_more_is_used_than_passes_for_longer_than_two_seconds(
            changes in proptest::collection::vec(BASE_MTU..1_600_usize, 1..6)
        ) {
            let mut way = Way::new(1_500);
            for carries in changes {
                way.carries = carries;
                way.run(Duration::from_secs(2));
                prop_assert!(way.sizes.longest() <= carries);
                way.run(Duration::from_secs(5));
                prop_assert!(way.sizes.longest() <= carries);
            }
        }
    }

    #[test]
    fn a_question_without_an_answer_is_not_due_for_ever_once_nobody_sends_anything_long() {
        let mut sizes = Sizes::new();
        let now = Instant::now();
        sizes.sent(now, LONG);
        let question = sizes.due(now, PATIENCE).expect("something long was sent");
        sizes.asked(now, 1, question);
        assert_eq!(sizes.deadline(PATIENCE), Some(now + PATIENCE));
        // Another way was taken meanwhile, and nobody looked at this one.
        let later = now + ACTIVE * 30;
        assert_eq!(sizes.due(later, PATIENCE).map(|question| question.length), None);
        assert_eq!(sizes.deadline(PATIENCE), None);
        sizes.sent(later, LONG);
        assert!(sizes.due(later, PATIENCE).is_some(), "it is asked again when it matters");
    }
}
