//! One address of the peer and what is known about the way there.

use super::OneWay;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Probes to one address whose answer is still counted.
const MAX_OUTSTANDING: usize = 8;
/// So many questions without an answer are no accident: of a path that loses 30 % each way, one time in eight.
pub(super) const MANY: u32 = 3;
/// Round trips older than this are not smoothed into: twice the pause between proofs of a path in use.
const MEASURED_ANEW: Duration = Duration::from_secs(10);
/// An answer later than this answers nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Whether the peer named an address or was only seen there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In its list.
    Told,
    /// A packet of its came from there: a NAT's doing, or somebody's who forwards.
    Seen,
}

#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub source: Source,
    outstanding: Vec<(u64, Instant)>,
    /// Proofs in a row, for promotion.
    pub proofs: u32,
    /// Smoothed like TCP's (RFC 6298, section 2).
    pub round_trip: Option<Duration>,
    /// The last one as it was.
    pub last_trip: Option<Duration>,
    /// The last packet of any kind that came from there.
    pub heard: Option<Instant>,
    pub proven: Option<Instant>,
    /// Proofs in a row that were better than the path in use.
    pub better: u32,
    pub sent: u64,
    pub answered: u64,
    /// Questions since the last answer.
    pub unanswered: u32,
    /// The peer says by the relay that one of those came, and that its answers may not.
    pub arrived: Option<Instant>,
    /// Where the peer saw our last proven probe come from.
    pub seen: Option<SocketAddr>,
}

impl Pair {
    pub const fn new(source: Source) -> Self {
        Self {
            source,
            outstanding: Vec::new(),
            proofs: 0,
            round_trip: None,
            last_trip: None,
            heard: None,
            proven: None,
            better: 0,
            sent: 0,
            answered: 0,
            unanswered: 0,
            arrived: None,
            seen: None,
        }
    }

    pub fn asked(&mut self, now: Instant, id: u64) {
        self.outstanding.retain(|(_, sent)| now < *sent + ANSWER_WITHIN);
        if self.outstanding.len() == MAX_OUTSTANDING {
            self.outstanding.remove(0);
        }
        self.outstanding.push((id, now));
        self.sent += 1;
        self.unanswered = self.unanswered.saturating_add(1);
    }

    /// The oldest probe that waits for its answer.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.outstanding.first().map(|(_, sent)| *sent)
    }

    /// Takes an answer; `false` when it answers nothing that was asked of this address.
    pub fn answer(&mut self, now: Instant, id: u64) -> bool {
        let Some(at) = self.outstanding.iter().position(|(asked, _)| *asked == id) else {
            return false;
        };
        let (_, sent) = self.outstanding.remove(at);
        let took = now.saturating_duration_since(sent);
        if took > ANSWER_WITHIN {
            return false;
        }
        // Whatever was asked before this one is overtaken.
        self.outstanding.retain(|(_, asked)| *asked > sent);
        // What was measured long ago says nothing of now: a path that is not in use is asked every few minutes.
        let is_old = self.proven.is_some_and(|at| now >= at + MEASURED_ANEW);
        self.round_trip = Some(match self.round_trip.filter(|_| !is_old) {
            Some(smooth) => (smooth * 7 + took) / 8,
            None => took,
        });
        self.last_trip = Some(took);
        self.proofs = self.proofs.saturating_add(1);
        self.answered += 1;
        self.unanswered = 0;
        self.arrived = None;
        self.heard = Some(now);
        self.proven = Some(now);
        true
    }

    /// Whether this waits for its answer.
    pub fn has_asked(&self, id: u64) -> bool {
        self.outstanding.iter().any(|(asked, _)| *asked == id)
    }

    /// Which way alone a packet goes between here and there, as far as can be told.
    pub fn one_way(&self) -> Option<OneWay> {
        if self.unanswered < MANY {
            return None;
        }
        let is_since =
            |at: Option<Instant>| at.is_some_and(|at| self.proven.is_none_or(|proven| at > proven));
        if is_since(self.heard) {
            Some(OneWay::ToHere)
        } else {
            is_since(self.arrived).then_some(OneWay::FromHere)
        }
    }

    pub fn forget_questions(&mut self) {
        self.outstanding.clear();
    }

    pub fn forget_proofs(&mut self) {
        self.proofs = 0;
        self.better = 0;
        self.outstanding.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn an_answer_counts_once_and_only_for_what_was_asked() {
        let start = Instant::now();
        let mut pair = Pair::new(Source::Told);
        pair.asked(start, 7);
        assert!(!pair.answer(start, 8));
        assert!(pair.answer(start + Duration::from_millis(40), 7));
        assert!(!pair.answer(start + Duration::from_millis(41), 7));
        assert_eq!((pair.proofs, pair.round_trip), (1, Some(Duration::from_millis(40))));
    }

    #[test]
    #[allow(clippy::disallowed_methods)]
    fn what_waits_for_an_answer_is_bounded() {
        let start = Instant::now();
        let mut pair = Pair::new(Source::Told);
        for id in 0..100 {
            pair.asked(start, id);
        }
        assert_eq!(pair.outstanding.len(), MAX_OUTSTANDING);
        assert!(!pair.answer(start, 0));
    }
}
