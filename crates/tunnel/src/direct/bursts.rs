//! When a choice tells its peer where it is, and when it tries the peer's addresses: in bursts, inside a budget.

use super::numbers::{
    BURST_WINDOW, FRESH, KEPT_FOR, MAX_BURSTS, MAX_SEEN_PROBES, PROOFS, QUICK, SAY_AGAIN, SAY_INTERVAL,
    SAY_SELDOM, SAY_TIMES, SLOW_FIRST, SLOW_LAST, SLOW_TWICE, UNDER_WAY,
};
use super::{Cause, Direct, Doubt, Outcome, Part, PathMessage, Route, patience};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

impl Direct {
    pub(super) fn may_burst(&mut self, now: Instant) -> bool {
        while self.bursts.front().is_some_and(|at| now >= *at + BURST_WINDOW) {
            self.bursts.pop_front();
        }
        self.bursts.len() < MAX_BURSTS
    }

    pub(super) fn plan_saying(&mut self, now: Instant) {
        self.is_unheard = true;
        self.says_left = SAY_TIMES;
        self.say_pause = SAY_AGAIN;
        let interval = if planted::is("echo-on-change") { Duration::ZERO } else { SAY_INTERVAL };
        self.say_at = Some(self.said_at.map_or(now, |at| now.max(at + interval)));
    }

    pub(super) fn say_candidates(&mut self, now: Instant, outcome: &mut Outcome) {
        if self.says_left == 0 && self.last_data.is_none_or(|at| now >= at + UNDER_WAY) {
            // Nobody waits for a better way; whoever uses the tunnel again has it said again.
            self.say_at = None;
            return;
        }
        self.says_left = self.says_left.saturating_sub(1);
        self.say_at = Some(now + self.say_pause);
        self.say_pause = (self.say_pause * 2).min(SAY_SELDOM);
        self.said_at = Some(now);
        outcome.say(Route::Relay, self.list());
    }

    pub(super) fn list(&self) -> PathMessage {
        let (epoch, sequence, round) = (self.epoch, self.sequence, self.round);
        PathMessage::Candidates { epoch, sequence, round, list: self.own.clone() }
    }

    /// The quick bursts, from now.
    pub(super) fn plan_series(&mut self, now: Instant) {
        self.quick = 0;
        self.series_began = now;
        self.slow = SLOW_FIRST;
        self.is_second = false;
        self.next_burst = Some(now);
    }

    /// One burst now, then the slow ones.
    pub(super) fn plan_one(&mut self, now: Instant) {
        self.next_burst = Some(now);
    }

    pub(super) fn burst(&mut self, now: Instant, outcome: &mut Outcome) {
        if !self.may_burst(now) {
            self.next_burst = self.bursts.front().map(|at| *at + BURST_WINDOW);
            return;
        }
        let kept_until = self.series_began + KEPT_FOR;
        let is_first_of_list = self.quick == 0;
        if !is_first_of_list && now < kept_until && self.bursts.len() + 1 == MAX_BURSTS {
            self.next_burst = Some(kept_until);
            return;
        }
        let is_slow = self.quick >= QUICK.len();
        if self.pairs.is_empty() || !self.is_awake(now) {
            self.next_burst = None;
            return;
        }
        if is_slow
            && self.last_data.is_none_or(|at| now >= at + UNDER_WAY)
            && !planted::is("bursts-into-silence")
        {
            // Planned while the tunnel was used, and due when it is not: nobody waits for a better way.
            self.next_burst = None;
            self.waits_for_use = true;
            return;
        }
        self.bursts.push_back(now);
        let addresses: Vec<SocketAddr> = self.pairs.keys().copied().collect();
        for address in addresses {
            self.probe(now, address, Cause::Burst, outcome);
        }
        let is_second = std::mem::take(&mut self.is_second);
        let is_first = is_slow && !is_second && self.current.is_none() && self.part == Part::Asker;
        if is_first && self.says_left == 0 {
            // The peer is asked to try in the same moment.
            self.round = self.round.wrapping_add(1);
            self.say_at = self.say_at.map(|_| now + SAY_SELDOM);
            outcome.say(Route::Relay, self.list());
        }
        self.quick = (self.quick + 1).min(QUICK.len());
        let settled = self.current.is_some_and(|current| current.doubt == Doubt::None);
        self.next_burst = match QUICK.get(self.quick).filter(|_| !settled) {
            Some(after) => Some((self.series_began + *after).max(now)),
            None if is_first => {
                self.is_second = true;
                Some(now + SLOW_TWICE)
            }
            None => self.plan_slow(now),
        };
    }

    /// An address that answered once, and whose second answer was lost, is a way for all that is known. It is asked
    /// again before the next burst, and in its place in the budget.
    pub(super) fn ask_once_more(&mut self, now: Instant, outcome: &mut Outcome) {
        self.once_more = None;
        if self.current.is_some() || self.next_burst.is_some_and(|at| at < now + SLOW_TWICE * 2) {
            return;
        }
        let half = self.pairs.iter().filter(|(_, pair)| {
            (1..PROOFS).contains(&pair.proofs) && pair.proven.is_some_and(|at| now < at + FRESH)
        });
        let half: Vec<(SocketAddr, Duration)> =
            half.map(|(address, pair)| (*address, patience(pair))).collect();
        let Some(longest) = half.iter().map(|(_, patience)| *patience).max() else { return };
        if !self.may_burst(now) {
            return;
        }
        self.bursts.push_back(now);
        for (address, _) in half {
            self.probe(now, address, Cause::Burst, outcome);
        }
        self.once_more = Some(now + longest);
    }

    /// The slow bursts are the asker's, and only while the tunnel is used.
    pub(super) fn plan_slow(&mut self, now: Instant) -> Option<Instant> {
        if self.part == Part::Answerer || !self.is_in_use(now) {
            return None;
        }
        let at = now + self.slow;
        self.slow = (self.slow * 2).min(SLOW_LAST);
        Some(at)
    }

    pub(super) fn may_probe_seen(&mut self, now: Instant) -> bool {
        while self.seen_probes.front().is_some_and(|at| now >= *at + BURST_WINDOW) {
            self.seen_probes.pop_front();
        }
        if self.seen_probes.len() >= MAX_SEEN_PROBES {
            return false;
        }
        self.seen_probes.push_back(now);
        true
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test reads the clock once, as the start of its virtual time")]
mod tests {
    use super::*;
    use crate::direct::{Candidate, CandidateKind, Surroundings};

    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        now: Instant,
        direct: Direct,
        /// When a list was said, in seconds.
        said: Vec<u64>,
        began: Instant,
    }

    impl World {
        /// A tunnel with a list to tell, whose peer says nothing.
        fn new() -> Self {
            let now = Instant::now();
            let mut direct = Direct::new(Part::Answerer, &[7; 32], now);
            let address = "203.0.113.7:40000".parse().expect("an address");
            let outcome = direct.opened(now, &[Candidate { kind: CandidateKind::Observed, address }]);
            let mut world = Self { now, direct, said: Vec::new(), began: now };
            world.take(&outcome);
            world
        }

        fn take(&mut self, outcome: &Outcome) {
            let is_list =
                |say: &&crate::direct::outcome::Say| matches!(say.message, PathMessage::Candidates { .. });
            let lists = outcome.say.iter().filter(is_list).count();
            let at = (self.now - self.began).as_secs();
            self.said.extend(std::iter::repeat_n(at, lists));
        }

        /// So many seconds, with data in each or in none.
        fn pass(&mut self, seconds: u64, is_used: bool) {
            for _ in 0..seconds * 2 {
                self.now += SECOND / 2;
                if is_used {
                    let outcome = self.direct.data_received(self.now, None);
                    self.take(&outcome);
                }
                let outcome = self.direct.handle_timeout(self.now);
                self.take(&outcome);
            }
        }

        fn hears(&mut self) {
            let around =
                Surroundings { port: 50_000, local: Vec::new(), observed: Vec::new(), mapped: Vec::new() };
            let heard = PathMessage::Heard { epoch: self.direct.epoch, sequence: self.direct.sequence };
            let outcome = self.direct.handle_message(self.now, &around, None, &heard);
            self.take(&outcome);
        }
    }

    #[test]
    fn a_list_that_nobody_hears_is_said_again_each_minute_for_as_long_as_the_tunnel_is_used() {
        let mut world = World::new();
        world.pass(300, true);
        assert_eq!(world.said[..7], [0, 0, 1, 3, 7, 15, 31], "{:?}", world.said);
        assert!(world.said.windows(2).skip(7).all(|two| two[1] - two[0] == 60), "{:?}", world.said);
        assert!(world.said.len() >= 10, "{:?}", world.said);
        let before = world.said.len();
        world.pass(3600, false);
        assert!(world.said.len() <= before + 2, "nobody needs a way: {:?}", world.said);
        let before = world.said.len();
        world.pass(2, true);
        assert_eq!(world.said.len(), before + 1, "it is used again");
        world.hears();
        let before = world.said.len();
        world.pass(300, true);
        assert_eq!(world.said.len(), before, "it was heard");
    }
}
