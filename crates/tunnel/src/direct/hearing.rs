//! What the peer says: its candidates, its probes, its proofs.

use super::{
    Candidate, Cause, Current, Direct, Doubt, MoveReason, Outcome, Part, PathMessage, Route, Surroundings,
    numbers::{BETTER_BY, BETTER_PROOFS, COMPARED_EVERY, DOUBT_EVERY, MAX_SEEN, NOWHERE, PROOFS},
    pair::{MANY, Pair, Source},
    patience,
};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

impl Direct {
    /// Takes a message of the peer's. `from` is where it came from, or none for the relay.
    pub fn handle_message(
        &mut self,
        now: Instant,
        surroundings: &Surroundings,
        from: Option<SocketAddr>,
        message: &PathMessage,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        match message {
            PathMessage::Candidates { epoch, sequence, round, list } => {
                outcome.say(Route::Relay, PathMessage::Heard { epoch: *epoch, sequence: *sequence });
                self.candidates(now, surroundings, (*epoch, *sequence, *round), list, &mut outcome);
            }
            PathMessage::Heard { epoch, sequence } => {
                if (*epoch, *sequence) == (self.epoch, self.sequence) {
                    self.is_unheard = false;
                    self.says_left = 0;
                    self.say_at = None;
                }
            }
            PathMessage::Probe { id, .. } => {
                match from {
                    Some(from) => self.probed(now, surroundings, from, *id, &mut outcome),
                    // By the relay it says nothing about a way: somebody wants to know how long it takes.
                    None => outcome.say(Route::Relay, PathMessage::Proof { id: *id, seen: NOWHERE }),
                }
            }
            PathMessage::Proof { id, seen } => {
                if let Some((asked, sent)) = self.pings.iter().copied().find(|(asked, _)| asked == id) {
                    self.pings.retain(|(other, _)| *other != asked);
                    outcome.pong = Some((asked, now.saturating_duration_since(sent)));
                }
                match from {
                    Some(from) if self.fallback() == Some(from) && self.direct_sizes.answered(now, *id) => {
                        self.heard(now, from);
                        self.arrives(from);
                    }
                    Some(from) => self.proven(now, from, *id, *seen, &mut outcome),
                    None => {
                        if !self.relay_sizes.answered(now, *id)
                            && let Some(pair) = self.pairs.values_mut().find(|pair| pair.has_asked(*id))
                        {
                            // It proves nothing: anybody can pass on a number by the relay.
                            pair.arrived = Some(now);
                        }
                    }
                }
            }
        }
        self.tick(now, &mut outcome);
        outcome
    }

    fn candidates(
        &mut self,
        now: Instant,
        surroundings: &Surroundings,
        (epoch, sequence, round): (u32, u32, u32),
        list: &[Candidate],
        outcome: &mut Outcome,
    ) {
        // Serial numbers, so that a tunnel may live for ever (RFC 1982).
        let later = |one: u32, other: u32| one.wrapping_sub(other).cast_signed() > 0;
        let is_newer = self.their_list.is_none_or(|(of, known)| of != epoch || later(sequence, known));
        if is_newer {
            if self.their_list.is_some() {
                // It is in another network, and so is its end of the relay.
                self.relay_changed();
            }
            self.their_list = Some((epoch, sequence));
            self.hold_until = self.hold_until.min(now);
            self.their_candidates = list.to_vec();
            let mut told = Vec::new();
            for candidate in list {
                match surroundings.accepts(candidate.address, self.seen_at) {
                    Ok(()) => told.push(candidate.address),
                    Err(refused) => *self.refused.entry(refused).or_default() += 1,
                }
            }
            let current = self.current.map(|current| current.address);
            let mut has_left = false;
            for (address, pair) in &mut self.pairs {
                if pair.source == Source::Told && !told.contains(address) {
                    pair.source = Source::Seen;
                    if current == Some(*address) {
                        has_left = true;
                    }
                }
            }
            if has_left {
                // The peer says that it is not there any more.
                self.doubt(now, MoveReason::Doubtful, outcome);
            }
            let current = self.current.map(|current| current.address);
            self.pairs.retain(|address, pair| pair.source == Source::Told || Some(*address) == current);
            for address in told {
                self.pairs.entry(address).or_insert_with(|| Pair::new(Source::Told)).source = Source::Told;
            }
            if planted::is("echo-on-change") {
                self.sequence = self.sequence.wrapping_add(1);
                self.plan_saying(now);
            }
            self.plan_series(now);
        } else if later(round, self.their_round) {
            // The peer tries again: so do we, in the same moment, or neither filter is open.
            self.plan_one(now);
        }
        if is_newer || later(round, self.their_round) {
            self.their_round = round;
        }
    }

    fn probed(
        &mut self,
        now: Instant,
        surroundings: &Surroundings,
        from: SocketAddr,
        id: u64,
        outcome: &mut Outcome,
    ) {
        if let Err(refused) = surroundings.answers(from, self.seen_at) {
            *self.refused.entry(refused).or_default() += 1;
            return;
        }
        outcome.say(Route::Direct(from), PathMessage::Proof { id, seen: from });
        if self.pairs.get(&from).is_some_and(|pair| pair.unanswered >= MANY) {
            // Nothing that goes there comes back: the peer may not hear this either, and can tell people why.
            outcome.say(Route::Relay, PathMessage::Proof { id, seen: from });
        }
        self.heard(now, from);
        if !self.pairs.contains_key(&from) {
            let seen = self.pairs.iter().filter(|(_, pair)| pair.source == Source::Seen);
            let current = self.current.map(|current| current.address);
            let unused: Vec<SocketAddr> =
                seen.map(|(address, _)| *address).filter(|address| Some(*address) != current).collect();
            if unused.len() >= MAX_SEEN
                && let Some(oldest) = unused.iter().min_by_key(|address| self.pairs[address].heard)
            {
                self.pairs.remove(oldest);
            }
            let mut pair = Pair::new(Source::Seen);
            pair.heard = Some(now);
            self.pairs.insert(from, pair);
        }
        if !self.is_awake(now) {
            // Nobody needs a way now; whoever asks to keep one gets an answer and no question back.
            return;
        }
        let is_other = self.current.is_some_and(|current| current.address != from);
        let pair = &self.pairs[&from];
        let is_known = pair.proven.is_some_and(|at| now < at + COMPARED_EVERY);
        if self.part == Part::Answerer && is_other && pair.source == Source::Told && !is_known {
            // The peer looks for something better: each direction chooses by itself, so this side looks too.
            self.plan_one(now);
            return;
        }
        let is_asked = pair.waiting_since().is_some_and(|since| now < since + DOUBT_EVERY);
        // One that was proven while promotion had to wait is asked again as soon as its peer uses it: the bursts may be
        // spent.
        let is_wanted = pair.proofs < PROOFS || self.current.is_none() && now >= self.hold_until;
        if is_wanted && !is_asked && self.may_probe_seen(now) {
            self.probe(now, from, Cause::Seen, outcome);
        }
    }

    fn proven(&mut self, now: Instant, from: SocketAddr, id: u64, seen: SocketAddr, outcome: &mut Outcome) {
        let current_trip = self.round_trip();
        let Some(pair) = self.pairs.get_mut(&from) else { return };
        if !pair.answer(now, id) {
            return;
        }
        pair.seen = Some(seen);
        self.arrives(from);
        let Some(pair) = self.pairs.get(&from) else { return };
        // Each of some proofs in a row is looked at by itself: a smoothed one would count the first three times.
        let (proofs, trip) = (pair.proofs, pair.last_trip.unwrap_or_default());
        self.heard(now, from);
        match self.current {
            Some(Current { address, doubt: Doubt::Asking { .. }, .. }) if address == from => {
                self.settle(outcome);
            }
            Some(Current { address, .. }) if address == from => {}
            Some(Current { doubt: Doubt::None, .. }) => {
                let current_trip = current_trip.unwrap_or(Duration::MAX);
                let is_better = planted::is("no-hysteresis") && trip < current_trip
                    || trip + BETTER_BY <= current_trip && trip * 5 <= current_trip * 4;
                let is_better = is_better && !planted::is("never-better");
                let Some(pair) = self.pairs.get_mut(&from) else { return };
                pair.better = if is_better { pair.better + 1 } else { 0 };
                let (better, is_seen) = (pair.better, pair.source == Source::Seen);
                let is_asked = self
                    .current
                    .and_then(|current| self.pairs.get(&current.address)?.waiting_since())
                    .is_some();
                if better >= BETTER_PROOFS || planted::is("no-hysteresis") {
                    self.promote(now, from, MoveReason::Better, outcome);
                } else if better > 0 || is_asked && is_seen && proofs < PROOFS {
                    // The one in use has not answered yet: this one is made ready to take its place.
                    self.probe(now, from, Cause::Proven, outcome);
                }
            }
            Some(_) | None if proofs < PROOFS => {
                // Two questions, of which one may be lost.
                self.probe(now, from, Cause::Proven, outcome);
                self.probe(now, from, Cause::Proven, outcome);
                self.once_more = self.pairs.get(&from).map(|pair| now + patience(pair));
            }
            Some(_) | None => {
                if !self.is_awake(now) || self.may_still_answer(from) && !planted::is("no-hysteresis") {
                    return;
                }
                if now >= self.hold_until || planted::is("no-hysteresis") {
                    self.promote(now, from, MoveReason::Proven, outcome);
                } else {
                    // Proven, but too soon after the last mistake: asked again when the hold is over.
                    self.next_burst =
                        Some(self.next_burst.map_or(self.hold_until, |at| at.min(self.hold_until)));
                }
            }
        }
    }
}
