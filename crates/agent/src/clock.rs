//! Wall time that never runs behind what is known, and the age of the control plane's word.

use std::time::{Duration, Instant};
use trust::UnixMs;

/// How old the newest beacon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Freshness {
    /// At most 15 s.
    Fresh,
    /// Older. Not unhealthy.
    Stale,
    /// Older than 60 s, or none came yet.
    Isolated,
}

impl Freshness {
    /// The word for people and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Isolated => "isolated",
        }
    }
}

const FRESH: Duration = Duration::from_secs(15);
const ISOLATED: Duration = Duration::from_secs(60);
/// A beacon moves time by at most this much: no single controller can expire everything.
const MOST_FORWARD: Duration = Duration::from_secs(300);

/// A point on the monotonic clock and the wall time it had.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    wall: UnixMs,
}

impl Mark {
    fn read(self, now: Instant) -> UnixMs {
        self.wall.plus(now.saturating_duration_since(self.at))
    }
}

/// The agent's time.
#[derive(Debug)]
pub(crate) struct Clock {
    /// The machine's wall clock, as last told.
    machine: Mark,
    /// Time was at least this.
    floor: Mark,
    /// The controllers' clock as this agent reconstructs it: the earliest any beacon arrived. A PoP that
    /// begins to delay beacons cannot move it, so the delay shows as their age.
    line: Option<Mark>,
    newest: Option<UnixMs>,
    /// Clients hear a beacon once a keepalive interval: their newest is that much older without any fault.
    slack: Duration,
}

/// What a beacon did to the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// It is the newest.
    Newest,
    /// It is the newest, and too far ahead to be believed as time.
    NewestButAhead,
    /// One as new was here before.
    No,
}

impl Clock {
    pub(crate) fn new(now: Instant, machine: UnixMs, floor: Option<UnixMs>) -> Self {
        let machine = Mark { at: now, wall: machine };
        let floor = Mark { at: now, wall: floor.unwrap_or_default() };
        Self { machine, floor, line: None, newest: None, slack: Duration::ZERO }
    }

    pub(crate) fn set_machine(&mut self, now: Instant, wall: UnixMs) {
        self.machine = Mark { at: now, wall };
    }

    pub(crate) fn set_slack(&mut self, slack: Duration) {
        self.slack = slack;
    }

    /// Never behind the floor, whatever the machine's clock says.
    pub(crate) fn wall(&self, now: Instant) -> UnixMs {
        self.machine.read(now).max(self.floor.read(now))
    }

    /// What the floor would be if it were written now.
    pub(crate) fn floor(&self, now: Instant) -> UnixMs {
        self.floor.read(now)
    }

    pub(crate) fn heard(&mut self, now: Instant, beacon: UnixMs) -> Moved {
        if self.newest.is_some_and(|newest| beacon <= newest) {
            return Moved::No;
        }
        self.newest = Some(beacon);
        let arrived = Mark { at: now, wall: beacon };
        if self.line.is_none_or(|line| line.read(now) < beacon) {
            self.line = Some(arrived);
        }
        if beacon > self.wall(now).plus(MOST_FORWARD) {
            return Moved::NewestButAhead;
        }
        if beacon > self.floor.read(now) {
            self.floor = arrived;
        }
        Moved::Newest
    }

    /// How long ago a controller made the newest beacon, by the monotonic clock; `None` before the first.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        Some(self.line?.read(now).since(self.newest?))
    }

    pub(crate) fn freshness(&self, now: Instant) -> Freshness {
        match self.age(now) {
            Some(age) if age <= FRESH + self.slack => Freshness::Fresh,
            Some(age) if age <= ISOLATED + self.slack => Freshness::Stale,
            _ => Freshness::Isolated,
        }
    }

    /// When freshness changes next if nothing comes.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        let age = self.age(now)?;
        let bound = match self.freshness(now) {
            Freshness::Fresh => FRESH + self.slack,
            Freshness::Stale => ISOLATED + self.slack,
            Freshness::Isolated => return None,
        };
        // One millisecond behind the bound, where it is true.
        Some(now + bound.saturating_sub(age) + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_machine_clock_that_is_behind_does_not_take_time_back() {
        let start = Instant::now_for_tests();
        let day = UnixMs::from_millis(86_400_000 * 20_000);
        let mut clock = Clock::new(start, day.minus(seconds(86_400)), Some(day));
        assert_eq!(clock.wall(start + seconds(5)), day.plus(seconds(5)));
        clock.set_machine(start, day.plus(seconds(60)));
        assert_eq!(clock.wall(start), day.plus(seconds(60)));
    }

    #[test]
    fn a_beacon_far_ahead_is_heard_and_moves_no_time() {
        let start = Instant::now_for_tests();
        let day = UnixMs::from_millis(86_400_000 * 20_000);
        let mut clock = Clock::new(start, day, None);
        assert_eq!(clock.heard(start, day.plus(seconds(3_600))), Moved::NewestButAhead);
        assert_eq!(clock.wall(start), day);
        assert_eq!(clock.freshness(start), Freshness::Fresh);
        assert_eq!(clock.heard(start, day), Moved::No);
    }

    #[test]
    fn beacons_that_a_pop_begins_to_delay_show_their_age() {
        let start = Instant::now_for_tests();
        let day = UnixMs::from_millis(86_400_000 * 20_000);
        let mut clock = Clock::new(start, day, None);
        assert_eq!(clock.freshness(start), Freshness::Isolated);
        assert_eq!(clock.heard(start, day), Moved::Newest);
        // Ten minutes later the PoP hands out a beacon that is five minutes old: newer, and not fresh.
        let later = start + seconds(600);
        assert_eq!(clock.heard(later, day.plus(seconds(300))), Moved::Newest);
        assert_eq!(clock.age(later), Some(seconds(300)));
        assert_eq!(clock.freshness(later), Freshness::Isolated);
    }

    #[test]
    fn freshness_passes_through_its_three_steps_at_its_bounds() {
        let start = Instant::now_for_tests();
        let mut clock = Clock::new(start, UnixMs::from_millis(1_000_000), None);
        clock.heard(start, UnixMs::from_millis(1_000_000));
        for (after, expected) in [
            (15, Freshness::Fresh),
            (16, Freshness::Stale),
            (60, Freshness::Stale),
            (61, Freshness::Isolated),
        ] {
            assert_eq!(clock.freshness(start + seconds(after)), expected, "{after} s");
        }
        assert_eq!(clock.next_change(start), Some(start + Duration::from_millis(15_001)));
    }

    trait Start {
        fn now_for_tests() -> Instant;
    }
    impl Start for Instant {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other beginning")]
        fn now_for_tests() -> Instant {
            Instant::now()
        }
    }
}
