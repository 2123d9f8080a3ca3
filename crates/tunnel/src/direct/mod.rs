//! Which way packets for one peer go: the relay, or an address that has proven itself.
//!
//! A value of this module decides for one peer. It knows no cipher, no socket and no clock: who owns it tells
//! it what was sent, what was heard and what time it is, and sends the messages it gives out. The same
//! calls with the same seed give the same decisions. The reasons for the numbers are in ADR 0006.

mod bursts;
mod candidate;
mod current;
mod hearing;
mod ledger;
mod message;
mod numbers;
mod outcome;
mod pair;
mod size;

pub use candidate::{Candidate, CandidateKind, CandidateRefused, LocalAddress, MAX_CANDIDATES, Surroundings};
pub(crate) use ledger::{Ledger, Owner};
pub use message::{MIN_PROBE_LEN, MessageError, PathMessage};
pub(crate) use outcome::{Cause, Outcome, Part, Route};
pub use outcome::{MoveReason, OneWay, PairReport};
pub use size::BASE_MTU;

use aws_lc_rs::hmac;
use numbers::{
    DOUBT_EVERY, DOUBT_PROBES, DOUBT_TOLD, HOLD_FIRST, IDLE_LIFETIME, IDLE_PROBE, MAX_PINGS, PATIENCE,
    PROOF_APART, PROOF_EVERY, PROOFS, QUICK, SAY_AGAIN, SILENCE, SIZE_PATIENCE, SIZE_PATIENCE_RELAY,
    SLOW_FIRST, STREAM, STREAM_ENDED,
};
use pair::{Pair, Source};
use size::Sizes;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// What is wrong with the path in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Data goes by it.
    None,
    /// Data goes by the relay and the path is being asked.
    Asking { probes: u32, next: Instant },
}

#[derive(Debug, Clone, Copy)]
struct Current {
    address: SocketAddr,
    since: Instant,
    doubt: Doubt,
    /// Data went out and nothing was heard since.
    unheard_since: Option<Instant>,
    /// Data packets that came since the last question.
    came: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Direct {
    part: Part,
    ids: hmac::Key,
    next_id: u64,
    /// The first data packet of the tunnel has proven its key; before that nothing is said.
    is_open: bool,
    pairs: BTreeMap<SocketAddr, Pair>,
    /// Where the PoP that introduced the peer sees it.
    seen_at: Option<SocketAddr>,
    /// The newest list of the peer's, as it said it.
    their_candidates: Vec<Candidate>,
    their_list: Option<(u32, u32)>,
    their_round: u32,
    current: Option<Current>,
    last_data: Option<Instant>,
    /// How long packets may be by the address in use, and by the relay.
    direct_sizes: Sizes,
    relay_sizes: Sizes,

    own: Vec<Candidate>,
    epoch: u32,
    sequence: u32,
    round: u32,
    said_at: Option<Instant>,
    say_at: Option<Instant>,
    says_left: u32,
    say_pause: Duration,
    /// The peer has not said that it heard the list.
    is_unheard: bool,

    bursts: VecDeque<Instant>,
    seen_probes: VecDeque<Instant>,
    next_burst: Option<Instant>,
    quick: usize,
    series_began: Instant,
    slow: Duration,
    /// The next burst is the second of a slow pair.
    is_second: bool,
    /// A slow burst came due while the tunnel was not used.
    waits_for_use: bool,
    /// When addresses that answered once are asked again, because their second answer is late.
    once_more: Option<Instant>,

    hold_until: Instant,
    hold: Duration,
    refused: BTreeMap<CandidateRefused, u64>,
    /// Probes that somebody waits for.
    pings: VecDeque<(u64, Instant)>,
}

impl Direct {
    pub fn new(part: Part, secret: &[u8; 32], now: Instant) -> Self {
        let mut direct = Self {
            part,
            ids: hmac::Key::new(hmac::HMAC_SHA256, secret),
            next_id: 0,
            is_open: false,
            pairs: BTreeMap::new(),
            seen_at: None,
            their_candidates: Vec::new(),
            their_list: None,
            their_round: 0,
            current: None,
            last_data: None,
            direct_sizes: Sizes::new(),
            relay_sizes: Sizes::new(),
            own: Vec::new(),
            epoch: 0,
            sequence: 0,
            round: 0,
            said_at: None,
            say_at: None,
            says_left: 0,
            say_pause: SAY_AGAIN,
            is_unheard: false,
            bursts: VecDeque::new(),
            seen_probes: VecDeque::new(),
            next_burst: None,
            quick: QUICK.len(),
            series_began: now,
            slow: SLOW_FIRST,
            is_second: false,
            waits_for_use: false,
            once_more: None,
            hold_until: now,
            hold: HOLD_FIRST,
            refused: BTreeMap::new(),
            pings: VecDeque::new(),
        };
        // Whatever comes first of the same source of numbers.
        direct.epoch = (direct.next_random() >> 32) as u32;
        direct
    }

    /// Where data goes now.
    pub fn route(&self) -> Route {
        match self.current {
            Some(Current { address, doubt: Doubt::None, .. }) => Route::Direct(address),
            _ => Route::Relay,
        }
    }

    /// The longest inner packet that goes where data goes now.
    pub fn mtu(&self) -> usize {
        match self.route() {
            Route::Direct(_) => self.direct_sizes.longest(),
            Route::Relay => self.relay_sizes.longest(),
        }
    }

    /// The relay has another channel, or none: what it carried says nothing of what it carries.
    pub fn relay_changed(&mut self) {
        self.relay_sizes.begin_again();
    }

    /// The address in use or being asked, when there is no relay to take its place.
    pub fn fallback(&self) -> Option<SocketAddr> {
        self.current.map(|current| current.address)
    }

    /// The smoothed round trip of the path in use.
    pub fn round_trip(&self) -> Option<Duration> {
        self.in_use()?.1.round_trip
    }

    /// The path in use, doubtful or not. Looked up once where several things are asked of it: each packet asks for
    /// a deadline.
    fn in_use(&self) -> Option<(Current, &Pair)> {
        let current = self.current?;
        Some((current, self.pairs.get(&current.address)?))
    }

    /// Whether an address has proven itself as this peer's, or is in use.
    pub fn is_proven(&self, address: SocketAddr) -> bool {
        self.pairs.get(&address).is_some_and(|pair| pair.proofs >= PROOFS)
    }

    pub fn pairs(&self) -> impl Iterator<Item = PairReport> {
        self.pairs.iter().map(|(address, pair)| PairReport {
            address: *address,
            told: pair.source == Source::Told,
            round_trip: pair.round_trip,
            probes: pair.sent,
            proofs: pair.answered,
            heard: pair.heard,
            one_way: pair.one_way(),
            seen: pair.seen,
        })
    }

    pub const fn refused(&self) -> &BTreeMap<CandidateRefused, u64> {
        &self.refused
    }

    // ---- what this machine knows of itself -----------------------------------------------------------

    /// The tunnel is open: the peer has proven its key.
    pub fn opened(&mut self, now: Instant, own: &[Candidate]) -> Outcome {
        let mut outcome = Outcome::default();
        if !self.is_open {
            self.is_open = true;
            // Somebody wanted the tunnel a moment ago.
            self.last_data = Some(now);
            self.own = own.to_vec();
            self.sequence = 1;
        }
        // A peer that was opened to once more may be another process, which knows nothing yet.
        if !self.own.is_empty() || self.said_at.is_some() {
            self.plan_saying(now);
        }
        // What was tried while there was no session to try it with is tried again.
        if self.current.is_none() && !self.pairs.is_empty() {
            self.plan_series(now);
        }
        self.tick(now, &mut outcome);
        outcome
    }

    /// This machine's own candidates are these now.
    pub fn set_own(&mut self, now: Instant, surroundings: &Surroundings, own: &[Candidate]) -> Outcome {
        let mut outcome = Outcome::default();
        self.judge_again(now, surroundings, &mut outcome);
        if self.own != own {
            self.own = own.to_vec();
            self.sequence = self.sequence.wrapping_add(1);
            // What was lost from there says nothing of what is found from here.
            self.hold_until = self.hold_until.min(now);
            if self.is_open {
                self.plan_saying(now);
                self.plan_series(now);
                self.tick(now, &mut outcome);
            }
        }
        outcome
    }

    /// This machine is somewhere else: what was proven is not any more.
    pub fn network_changed(&mut self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        for pair in self.pairs.values_mut() {
            pair.forget_proofs();
        }
        self.relay_changed();
        self.doubt(now, MoveReason::NetworkChanged, &mut outcome);
        self.tick(now, &mut outcome);
        outcome
    }

    /// The PoP that introduced the peer sees it there.
    pub fn introduced_from(
        &mut self,
        now: Instant,
        surroundings: &Surroundings,
        seen: Option<SocketAddr>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if self.seen_at != seen {
            self.seen_at = seen;
            self.judge_again(now, surroundings, &mut outcome);
        }
        outcome
    }

    /// Whether the peer names an address on our own link, and no PoP has said that it is in our network.
    pub fn lacks_a_word(&self, surroundings: &Surroundings) -> bool {
        self.their_candidates.iter().any(|named| surroundings.lacks_a_word(named.address, self.seen_at))
    }

    /// What the peer named is judged by what is known now: addresses may be tried that were not before, and others not any
    /// more. What is in use stays until it fails.
    fn judge_again(&mut self, now: Instant, surroundings: &Surroundings, outcome: &mut Outcome) {
        let named = self.their_candidates.iter().map(|candidate| candidate.address);
        let told: Vec<SocketAddr> =
            named.filter(|address| surroundings.accepts(*address, self.seen_at).is_ok()).collect();
        let current = self.current.map(|current| current.address);
        for (address, pair) in &mut self.pairs {
            if pair.source == Source::Told && !told.contains(address) {
                pair.source = Source::Seen;
            }
        }
        self.pairs.retain(|address, pair| {
            pair.source == Source::Told
                || Some(*address) == current
                || !self.their_candidates.iter().any(|named| named.address == *address)
        });
        let mut has_new = false;
        for address in told {
            let pair = self.pairs.entry(address).or_insert_with(|| {
                has_new = true;
                Pair::new(Source::Told)
            });
            pair.source = Source::Told;
        }
        if has_new && self.is_open {
            self.plan_series(now);
            self.tick(now, outcome);
        }
    }

    /// Asks how long it takes, by the way that data takes; [`Outcome::pong`] follows under the id given, if an
    /// answer comes.
    pub fn ping(&mut self, now: Instant) -> (u64, Outcome) {
        let mut outcome = Outcome::default();
        let id = self.next_random();
        if self.pings.len() == MAX_PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back((id, now));
        outcome.ask(self.route(), PathMessage::Probe { id, length: MIN_PROBE_LEN }, Cause::Proven);
        (id, outcome)
    }

    // ---- time ----------------------------------------------------------------------------------------

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        self.tick(now, &mut outcome);
        outcome
    }

    fn tick(&mut self, now: Instant, outcome: &mut Outcome) {
        if !self.is_open {
            return;
        }
        self.tick_current(now, outcome);
        if self.say_at.is_some_and(|at| at <= now) {
            self.say_candidates(now, outcome);
        }
        if self.next_burst.is_some_and(|at| at <= now) {
            self.burst(now, outcome);
        }
        if self.once_more.is_some_and(|at| at <= now) {
            self.ask_once_more(now, outcome);
        }
        self.tick_sizes(now, outcome);
    }

    /// Asks how long packets may be by the way that data takes.
    fn tick_sizes(&mut self, now: Instant, outcome: &mut Outcome) {
        let route = self.route();
        let patience = self.size_patience(self.round_trip());
        let sizes = match route {
            Route::Direct(_) => &mut self.direct_sizes,
            Route::Relay => &mut self.relay_sizes,
        };
        // A question of the search, and one whether what is used still passes.
        let questions = [sizes.due(now, patience), sizes.due(now, patience)];
        for question in questions.into_iter().flatten() {
            let id = self.next_random();
            match route {
                Route::Direct(_) => self.direct_sizes.asked(now, id, question),
                Route::Relay => self.relay_sizes.asked(now, id, question),
            }
            outcome.ask(route, PathMessage::Probe { id, length: question.length }, Cause::Proven);
        }
    }

    fn size_patience(&self, round_trip: Option<Duration>) -> Duration {
        match self.route() {
            Route::Direct(_) => {
                let most = SIZE_PATIENCE.max(round_trip.unwrap_or_default() * 2);
                self.direct_sizes.patience(most)
            }
            Route::Relay => self.relay_sizes.patience(SIZE_PATIENCE_RELAY),
        }
    }

    fn tick_current(&mut self, now: Instant, outcome: &mut Outcome) {
        let Some(current) = self.current else { return };
        let address = current.address;
        if !self.is_awake(now) {
            self.lose(now, MoveReason::Idle);
            outcome.moved = Some((Route::Relay, MoveReason::Idle));
            return;
        }
        match current.doubt {
            Doubt::None => {
                let Some(pair) = self.pairs.get(&address) else { return };
                if pair.waiting_since().is_some_and(|since| now >= since + patience(pair)) {
                    return {
                        self.doubt(now, MoveReason::Doubtful, outcome);
                        self.tick_current(now, outcome);
                    };
                }
                if pair.waiting_since().is_none()
                    && self.next_proof(current, pair).is_some_and(|at| at <= now)
                {
                    self.probe(now, address, Cause::Proven, outcome);
                }
            }
            Doubt::Asking { probes, next } if next <= now => {
                if probes >= DOUBT_PROBES {
                    self.lose(now, MoveReason::Silent);
                    // Told once: the owner hears that it is over, not only doubtful.
                    outcome.moved = Some((Route::Relay, MoveReason::Silent));
                    return;
                }
                let every = self.pairs.get(&address).and_then(|pair| pair.round_trip).unwrap_or_default() / 2;
                let next = now + DOUBT_EVERY.max(every);
                if let Some(current) = &mut self.current {
                    current.doubt = Doubt::Asking { probes: probes + 1, next };
                }
                outcome.is_quiet |= probes == DOUBT_TOLD;
                self.probe(now, address, Cause::Proven, outcome);
            }
            Doubt::Asking { .. } => {}
        }
    }

    /// When the path in use is to be asked for its next proof.
    fn next_proof(&self, current: Current, pair: &Pair) -> Option<Instant> {
        let proven = pair.proven.unwrap_or(current.since);
        let silence = current.unheard_since.map(|since| {
            (since + SILENCE.max(pair.round_trip.unwrap_or_default() * 2)).max(proven + PROOF_APART)
        });
        // A proof is due after data only: an idle path is asked by the asker alone, and seldom.
        let active = self.last_data.filter(|data| *data > proven).map(|data| data.max(proven + PROOF_EVERY));
        let idle = (self.part == Part::Asker).then(|| {
            let heard = pair.heard.unwrap_or(current.since);
            heard.max(proven) + IDLE_PROBE
        });
        let ended = (current.came >= STREAM)
            .then(|| (pair.heard.unwrap_or(current.since) + STREAM_ENDED).max(proven + PROOF_APART));
        [silence, active, idle, ended].into_iter().flatten().min()
    }

    /// The next time something is due.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.is_open {
            return None;
        }
        let in_use = self.in_use();
        let current = in_use.map(|(current, pair)| {
            let forgotten = self.last_data.unwrap_or(current.since) + IDLE_LIFETIME;
            let next = match current.doubt {
                Doubt::Asking { next, .. } => Some(next),
                Doubt::None => {
                    let asked_again = pair.waiting_since().map(|since| since + patience(pair));
                    asked_again.or_else(|| self.next_proof(current, pair))
                }
            };
            next.map_or(forgotten, |at| at.min(forgotten))
        });
        let patience = self.size_patience(in_use.and_then(|(_, pair)| pair.round_trip));
        let sizes = match self.route() {
            Route::Direct(_) => self.direct_sizes.deadline(patience),
            Route::Relay => self.relay_sizes.deadline(patience),
        };
        [current, self.say_at, self.next_burst, self.once_more, sizes].into_iter().flatten().min()
    }

    // ---- details -------------------------------------------------------------------------------------

    fn probe(&mut self, now: Instant, address: SocketAddr, cause: Cause, outcome: &mut Outcome) {
        let id = self.next_random();
        if let Some(current) = self.current.as_mut().filter(|current| current.address == address) {
            current.came = 0;
        }
        let cause = match cause {
            Cause::Burst | Cause::Seen if self.seen_at == Some(address) => Cause::Introduced,
            other => other,
        };
        if let Some(pair) = self.pairs.get_mut(&address) {
            pair.asked(now, id);
            outcome.ask(Route::Direct(address), PathMessage::Probe { id, length: MIN_PROBE_LEN }, cause);
        }
    }

    /// An id that even the peer cannot guess from those it has seen: whoever answers has received the probe, so
    /// that no peer can prove somebody else's address by a spoofed source.
    fn next_random(&mut self) -> u64 {
        self.next_id = self.next_id.wrapping_add(1);
        let tag = hmac::sign(&self.ids, &self.next_id.to_be_bytes());
        u64::from_be_bytes(*tag.as_ref().first_chunk().expect("32 bytes hold 8"))
    }
}

fn patience(pair: &Pair) -> Duration {
    PATIENCE.max(pair.round_trip.unwrap_or_default() * 2)
}
