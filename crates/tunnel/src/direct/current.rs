//! The path in use: what is promoted to it, what makes it doubtful, and what passes by it.

use super::{
    Cause, Current, Direct, Doubt, MoveReason, Outcome, Part, Route,
    numbers::{
        DOUBT_MEANT, FRESH, HELD_WELL, HOLD_FIRST, HOLD_LAST, IDLE_LIFETIME, IN_USE, LEFT_BY_PEER, PROOFS,
        QUICK, READY, SAY_SELDOM, SILENCE, SLOW_FIRST, STALE,
    },
    pair::{Pair, Source},
    size::Sizes,
};
use std::{net::SocketAddr, time::Instant};

impl Direct {
    pub(super) fn promote(
        &mut self,
        now: Instant,
        address: SocketAddr,
        reason: MoveReason,
        outcome: &mut Outcome,
    ) {
        if let Some(pair) = self.pairs.get_mut(&address) {
            pair.better = 0;
            // What was asked before it was chosen says nothing about it now.
            pair.forget_questions();
        }
        self.current =
            Some(Current { address, since: now, doubt: Doubt::None, unheard_since: None, came: 0 });
        self.direct_sizes = Sizes::new();
        outcome.moved = Some((Route::Direct(address), reason));
        // What is found is looked at again later, in case something better comes up.
        self.quick = QUICK.len();
        self.slow = SLOW_FIRST;
        self.next_burst = (self.part == Part::Asker).then_some(now + self.slow);
    }

    /// The doubtful path answered.
    pub(super) fn settle(&mut self, outcome: &mut Outcome) {
        if let Some(current) = &mut self.current {
            current.doubt = Doubt::None;
            current.unheard_since = None;
            // It may lead over other links than before the doubt.
            self.direct_sizes.begin_again();
            outcome.moved = Some((Route::Direct(current.address), MoveReason::AnsweredAgain));
        }
    }

    /// A packet that verified came from an address.
    pub fn heard(&mut self, now: Instant, from: SocketAddr) {
        if let Some(pair) = self.pairs.get_mut(&from) {
            pair.heard = Some(now);
        }
    }

    /// Data or a proof came from an address: what was sent there arrives. A question of the peer's says nothing of that.
    pub(super) fn arrives(&mut self, from: SocketAddr) {
        if let Some(current) = &mut self.current
            && current.address == from
        {
            current.unheard_since = None;
        }
    }

    /// Data came, by an address or by the relay.
    pub fn data_received(&mut self, now: Instant, from: Option<SocketAddr>) -> Outcome {
        let mut outcome = Outcome::default();
        self.used(now);
        if let Some(from) = from {
            self.heard(now, from);
            self.arrives(from);
            if let Some(current) = self.current.as_mut().filter(|current| current.address == from) {
                current.came = current.came.saturating_add(1);
            }
        }
        // The two sides choose their ways apart: what comes by either shows that what was sent arrives.
        self.direct_sizes.heard();
        self.relay_sizes.heard();
        if from.is_some() {
            // The path in use carries.
        } else if let Some(Current { address, doubt: Doubt::None, .. }) = self.current {
            // The peer has left the path, and may know something about it.
            let pair = &self.pairs[&address];
            if pair.heard.is_none_or(|at| now >= at + SILENCE)
                && pair.proven.is_none_or(|at| now >= at + LEFT_BY_PEER)
            {
                self.doubt(now, MoveReason::Doubtful, &mut outcome);
            }
        }
        self.tick(now, &mut outcome);
        outcome
    }

    /// Data is about to be sent, the longest packet of so many bytes; ask [`Self::route`] after it.
    pub fn data_sent(&mut self, now: Instant, longest: usize) -> Outcome {
        let mut outcome = Outcome::default();
        self.used(now);
        if let Some(Current { address, doubt: Doubt::None, .. }) = self.current {
            let heard = self.pairs[&address].heard;
            if heard.is_none_or(|at| now >= at + STALE) {
                self.doubt(now, MoveReason::Doubtful, &mut outcome);
            } else if let Some(current) = &mut self.current {
                current.unheard_since.get_or_insert(now);
            }
        }
        match self.route() {
            Route::Direct(_) => self.direct_sizes.sent(now, longest),
            Route::Relay => self.relay_sizes.sent(now, longest),
        }
        self.tick(now, &mut outcome);
        outcome
    }

    /// Whether the tunnel is in use, or was not long ago.
    pub(super) fn is_awake(&self, now: Instant) -> bool {
        self.last_data.is_some_and(|at| now < at + IDLE_LIFETIME)
    }

    /// Whether it is worth looking for something better.
    pub(super) fn is_in_use(&self, now: Instant) -> bool {
        self.last_data.is_some_and(|at| now < at + IN_USE)
    }

    pub(super) fn used(&mut self, now: Instant) {
        let was_idle = !self.is_in_use(now);
        self.last_data = Some(now);
        let has_waited = std::mem::take(&mut self.waits_for_use);
        let is_due = has_waited || (was_idle && self.part == Part::Asker);
        if is_due && self.is_open && self.next_burst.is_none() {
            self.plan_one(now);
        }
        if self.is_unheard && self.say_at.is_none() {
            self.say_at = self.said_at.map(|at| now.max(at + SAY_SELDOM));
        }
    }

    pub(super) fn doubt(&mut self, now: Instant, reason: MoveReason, outcome: &mut Outcome) {
        if let Some(current) = &mut self.current
            && current.doubt == Doubt::None
        {
            current.doubt = Doubt::Asking { probes: 0, next: now };
            current.unheard_since = None;
            let doubted = current.address;
            outcome.moved = Some((Route::Relay, reason));
            self.ask_others(now, doubted, outcome);
        }
    }

    /// Whether another address that the peer names has to wait for the doubtful one, which the peer names too and which
    /// has proven itself from this network: where a third of all packets is lost most doubts are nothing, and the address
    /// that happens to be asked in one is no better. One that the peer was only seen at is what it moved to.
    pub(super) fn may_still_answer(&self, other: SocketAddr) -> bool {
        let Some(Current { address, doubt: Doubt::Asking { probes, .. }, .. }) = self.current else {
            return false;
        };
        let pair = &self.pairs[&address];
        let are_named = [address, other].iter().all(|one| self.pairs[one].source == Source::Told);
        are_named && pair.proofs >= PROOFS && probes < DOUBT_MEANT
    }

    /// Whatever can take a doubtful address's place does, or is asked.
    ///
    /// A peer whose router gave it another port asks from there before it notices anything: an address that said
    /// something just now is asked with the doubtful one. It costs one of the bursts.
    fn ask_others(&mut self, now: Instant, doubted: SocketAddr, outcome: &mut Outcome) {
        // Addresses that it named are tried in bursts; between them a doubt decides nothing.
        let is_fresh =
            |pair: &Pair| pair.source == Source::Seen && pair.heard.is_some_and(|at| now < at + FRESH);
        let ready = self.pairs.iter().find(|(address, pair)| {
            **address != doubted
                && pair.source == Source::Seen
                && pair.proofs >= PROOFS
                && pair.proven.is_some_and(|at| now < at + READY)
        });
        if let Some(ready) = ready.map(|(address, _)| *address)
            && now >= self.hold_until
        {
            return self.promote(now, ready, MoveReason::Proven, outcome);
        }
        let others = self.pairs.iter().filter(|(address, pair)| **address != doubted && is_fresh(pair));
        let others: Vec<SocketAddr> = others.map(|(address, _)| *address).collect();
        if others.is_empty() || !self.may_burst(now) {
            return;
        }
        self.bursts.push_back(now);
        for address in others {
            self.probe(now, address, Cause::Burst, outcome);
        }
    }

    pub(super) fn lose(&mut self, now: Instant, reason: MoveReason) {
        let Some(current) = self.current.take() else { return };
        if let Some(pair) = self.pairs.get_mut(&current.address) {
            pair.forget_proofs();
        }
        if reason == MoveReason::Silent {
            let held = now.saturating_duration_since(current.since);
            self.hold = if held >= HELD_WELL { HOLD_FIRST } else { (self.hold * 2).min(HOLD_LAST) };
            self.hold_until = now + self.hold;
            // Another try when the hold is over.
            self.slow = SLOW_FIRST;
            if self.part == Part::Asker {
                self.next_burst = Some(self.hold_until);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test reads the clock once, as the start of its virtual time")]
mod tests {
    use super::*;
    use crate::direct::{Candidate, CandidateKind, PathMessage, Surroundings, outcome::Say};
    use std::time::Duration;

    const FIRST: &str = "198.51.100.1:40000";
    const OTHER: &str = "[2001:db8:1::2]:40000";
    const MS: Duration = Duration::from_millis(1);

    /// A choice whose peer answers from where it is set to.
    struct World {
        now: Instant,
        direct: Direct,
        around: Surroundings,
        asked: Vec<(SocketAddr, u64)>,
    }

    impl World {
        /// In use is the first of two addresses that the peer named.
        fn with_two_named() -> Self {
            let now = Instant::now();
            let around =
                Surroundings { port: 50_000, local: Vec::new(), observed: Vec::new(), mapped: Vec::new() };
            let direct = Direct::new(Part::Answerer, &[7; 32], now);
            let mut world = Self { now, direct, around, asked: Vec::new() };
            let opened = world.direct.opened(now, &[]);
            world.take(opened);
            let named = |text: &str| Candidate { kind: CandidateKind::Local, address: address(text) };
            world.says(&[named(FIRST)]);
            world.answer(address(FIRST));
            world.answer(address(FIRST));
            assert_eq!(world.direct.route(), Route::Direct(address(FIRST)));
            world.says(&[named(FIRST), named(OTHER)]);
            world
        }

        fn says(&mut self, list: &[Candidate]) {
            let sequence = self.direct.their_list.map_or(1, |(_, last)| last + 1);
            let said = PathMessage::Candidates { epoch: 1, sequence, round: 0, list: list.to_vec() };
            let outcome = self.direct.handle_message(self.now, &self.around, None, &said);
            self.take(outcome);
        }

        fn take(&mut self, outcome: Outcome) {
            for Say { route, message, .. } in outcome.say {
                if let (Route::Direct(to), PathMessage::Probe { id, .. }) = (route, message) {
                    self.asked.push((to, id));
                }
            }
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            let outcome = self.direct.handle_timeout(self.now);
            self.take(outcome);
        }

        /// The newest question to an address is answered from there.
        fn answer(&mut self, from: SocketAddr) {
            self.pass(MS * 10);
            let (_, id) = *self.asked.iter().rfind(|(to, _)| *to == from).expect("a question");
            let proof = PathMessage::Proof { id, seen: address("203.0.113.9:50000") };
            let outcome = self.direct.handle_message(self.now, &self.around, Some(from), &proof);
            self.take(outcome);
        }

        /// Data goes out until an answer is late.
        fn lose_an_answer(&mut self) {
            let began = self.now;
            while self.direct.route() != Route::Relay {
                assert!(self.now < began + Duration::from_secs(10), "nothing became doubtful");
                let outcome = self.direct.data_sent(self.now, 100);
                self.take(outcome);
                self.pass(MS * 100);
            }
        }

        fn ask(&mut self, from: SocketAddr) {
            let mut outcome = Outcome::default();
            self.direct.probe(self.now, from, Cause::Burst, &mut outcome);
            self.take(outcome);
        }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_late_answer_does_not_give_a_proven_path_to_another_address_that_the_peer_names() {
        let mut world = World::with_two_named();
        world.lose_an_answer();
        for _ in 0..3 {
            world.ask(address(OTHER));
            world.answer(address(OTHER));
        }
        assert_eq!(world.direct.route(), Route::Relay, "data waits at the relay");
        world.answer(address(FIRST));
        assert_eq!(world.direct.route(), Route::Direct(address(FIRST)));
    }

    #[test]
    fn a_path_that_stays_silent_is_taken_by_another_address_that_the_peer_names() {
        let mut world = World::with_two_named();
        world.lose_an_answer();
        for _ in 0..u64::from(DOUBT_MEANT) {
            world.pass(MS * 150);
        }
        world.ask(address(OTHER));
        world.answer(address(OTHER));
        world.ask(address(OTHER));
        world.answer(address(OTHER));
        assert_eq!(world.direct.route(), Route::Direct(address(OTHER)));
    }

    #[test]
    fn an_address_that_the_peer_names_no_more_is_waited_for_no_longer() {
        let mut world = World::with_two_named();
        let moved = Candidate { kind: CandidateKind::Local, address: address(OTHER) };
        world.says(&[moved]);
        assert_eq!(world.direct.route(), Route::Relay);
        world.ask(address(OTHER));
        world.answer(address(OTHER));
        world.ask(address(OTHER));
        world.answer(address(OTHER));
        assert_eq!(world.direct.route(), Route::Direct(address(OTHER)));
    }
}
