//! When a controller is told by which way packets to devices go, sans-IO: soon after a way has changed, only what has
//! changed, one report at a time, and at growing intervals when nobody takes it.
//!
//! People look at it, and nothing is decided by it: it is asked once, kept nowhere, and costs nothing while there are no
//! devices. Whether the controller still holds what it was told is in each of its answers; a report without news, twice a
//! minute, asks for one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use wire::{DeviceId, MAX_PATHS, PathTold, PopId, TellPaths};

/// Between an answer and the next report: with the second between two looks, a change is told within three.
const PAUSE: Duration = Duration::from_secs(2);
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A controller that has lost what it held (it was restarted) hears of it within this.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Connectors that hear of a controller in the same second spread over this.
const SPREAD_MS: u64 = 4_000;

/// By which way packets to a device go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Straight.
    Direct,
    /// By this PoP's relay, which is reached by UDP.
    Relay(PopId),
    /// By this PoP's relay, which is reached by TCP 443.
    Stream(PopId),
}

impl Way {
    const fn told(self, device: DeviceId) -> PathTold {
        match self {
            Self::Direct => PathTold { device, pop: None, stream: false },
            Self::Relay(pop) => PathTold { device, pop: Some(pop), stream: false },
            Self::Stream(pop) => PathTold { device, pop: Some(pop), stream: true },
        }
    }
}

/// What the controller is taken to hold.
#[derive(Debug, Default)]
struct Held(BTreeMap<DeviceId, Way>);

#[derive(Debug)]
enum Stage {
    /// Nothing is asked; not again before then.
    Resting { until: Instant },
    /// This is what the controller holds when it has taken the report that is under way.
    Telling { then: Held },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Teller {
    stage: Stage,
    held: Held,
    /// The controller's part may be another one: all of it is told anew.
    afresh: bool,
    pause: Duration,
    ask_at: Instant,
}

impl Teller {
    /// Nobody was told anything by this process.
    pub fn new(now: Instant) -> Self {
        Self {
            stage: Stage::Resting { until: now },
            held: Held::default(),
            afresh: true,
            pause: PAUSE,
            ask_at: now,
        }
    }

    /// The next report, if one is due. `ways` is called only when one may be.
    pub fn report(
        &mut self,
        now: Instant,
        ways: impl FnOnce() -> BTreeMap<DeviceId, Way>,
    ) -> Option<TellPaths> {
        let Stage::Resting { until } = self.stage else { return None };
        if now < until {
            return None;
        }
        let ways = ways();
        let nothing = BTreeMap::new();
        let before = if self.afresh { &nothing } else { &self.held.0 };
        let changed = ways.iter().filter(|(device, way)| before.get(device) != Some(way));
        let paths: Vec<PathTold> = changed.take(MAX_PATHS).map(|(device, way)| way.told(*device)).collect();
        let gone = before.keys().filter(|device| !ways.contains_key(device));
        let gone: Vec<DeviceId> = gone.take(MAX_PATHS - paths.len()).copied().collect();
        let is_news = !paths.is_empty() || !gone.is_empty();
        // Whoever held nothing and has nothing is silent.
        let is_due = now >= self.ask_at && (!before.is_empty() || !self.held.0.is_empty());
        if !is_news && !is_due {
            return None;
        }
        let mut then = before.clone();
        for device in &gone {
            then.remove(device);
        }
        for told in &paths {
            then.extend(ways.get(&told.device).map(|way| (told.device, *way)));
        }
        let report = TellPaths { afresh: self.afresh, paths, gone };
        self.stage = Stage::Telling { then: Held(then) };
        Some(report)
    }

    /// The controller took the report and holds the ways of so many devices now.
    pub fn taken(&mut self, now: Instant, held: u32) {
        let Stage::Telling { then } = &mut self.stage else { return };
        let then = std::mem::take(then);
        if usize::try_from(held) == Ok(then.0.len()) {
            self.held = then;
            self.afresh = false;
            self.pause = PAUSE;
            self.ask_at = now + ASK_AGAIN;
            self.stage = Stage::Resting { until: now + PAUSE };
        } else {
            // It was restarted, or has no room for all of them.
            self.held = then;
            self.rest(now, Duration::ZERO);
        }
    }

    /// Nobody took it, or nobody said so; `retry_after` is what somebody said.
    pub fn failed(&mut self, now: Instant, retry_after: Duration) {
        if let Stage::Telling { then } = &mut self.stage {
            self.held = std::mem::take(then);
            self.rest(now, retry_after);
        }
    }

    fn rest(&mut self, now: Instant, at_least: Duration) {
        self.afresh = true;
        self.stage = Stage::Resting { until: now + self.pause.max(at_least.min(LONGEST_PAUSE)) };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// A controller is heard again: no need to wait, but not all at once. `who` spreads connectors.
    pub fn reachable(&mut self, now: Instant, who: u64) {
        self.pause = PAUSE;
        if let Stage::Resting { until } = &mut self.stage {
            *until = (*until).min(now + PAUSE + Duration::from_millis(who % SPREAD_MS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POP: PopId = PopId::from_bytes([9; 16]);
    const SECOND: Duration = Duration::from_secs(1);

    fn device(n: u32) -> DeviceId {
        DeviceId::from_bytes(u128::from(n).to_be_bytes())
    }

    fn ways(list: &[(u32, Way)]) -> impl FnOnce() -> BTreeMap<DeviceId, Way> {
        let list: BTreeMap<DeviceId, Way> = list.iter().map(|(n, way)| (device(*n), *way)).collect();
        move || list
    }

    fn start() -> (Teller, Instant) {
        #[allow(clippy::disallowed_methods, reason = "the start of a virtual clock")]
        let now = Instant::now();
        (Teller::new(now), now)
    }

    /// A controller as it should be: takes a report and says how many it holds.
    #[derive(Default)]
    struct Controller(BTreeMap<DeviceId, PathTold>);

    impl Controller {
        fn take(&mut self, report: &TellPaths) -> u32 {
            if report.afresh {
                self.0.clear();
            }
            self.0.retain(|device, _| !report.gone.contains(device));
            self.0.extend(report.paths.iter().map(|told| (told.device, *told)));
            u32::try_from(self.0.len()).unwrap()
        }
    }

    #[test]
    fn a_connector_without_devices_is_silent() {
        let (mut teller, now) = start();
        for seconds in 0..300 {
            assert_eq!(teller.report(now + SECOND * seconds, ways(&[])), None);
        }
    }

    #[test]
    fn a_way_that_changes_is_told_within_three_seconds_and_what_stays_is_not_told_again() {
        let (mut teller, mut now) = start();
        let mut controller = Controller::default();
        let first = teller.report(now, ways(&[(1, Way::Relay(POP)), (2, Way::Direct)])).unwrap();
        assert!(first.afresh);
        teller.taken(now, controller.take(&first));
        // Looked at each second, it is the third look at the latest that tells.
        let changed = [(1, Way::Direct), (2, Way::Direct)];
        let mut report = None;
        for _ in 0..3 {
            now += SECOND;
            report = report.or_else(|| teller.report(now, ways(&changed)));
        }
        let report = report.unwrap();
        assert!(!report.afresh);
        assert_eq!(report.paths, [Way::Direct.told(device(1))]);
        teller.taken(now, controller.take(&report));
        assert_eq!(teller.report(now + SECOND * 29, ways(&changed)), None);
        let gone = teller.report(now + SECOND * 29, ways(&[(2, Way::Direct)])).unwrap();
        assert_eq!((gone.paths.len(), gone.gone), (0, vec![device(1)]));
    }

    #[test]
    fn a_controller_that_lost_everything_is_told_all_of_it_after_the_next_question() {
        let (mut teller, mut now) = start();
        let here = [(1, Way::Relay(POP)), (2, Way::Stream(POP))];
        let mut controller = Controller::default();
        let first = teller.report(now, ways(&here)).unwrap();
        teller.taken(now, controller.take(&first));
        controller = Controller::default();
        now += ASK_AGAIN;
        let question = teller.report(now, ways(&here)).unwrap();
        assert_eq!((question.paths.len(), question.gone.len()), (0, 0));
        teller.taken(now, controller.take(&question));
        now += PAUSE;
        let all = teller.report(now, ways(&here)).unwrap();
        assert!(all.afresh);
        teller.taken(now, controller.take(&all));
        assert_eq!(controller.0.len(), 2);
        assert!(controller.0[&device(2)].stream);
    }

    #[test]
    fn a_report_whose_answer_was_lost_is_not_counted_on() {
        let (mut teller, mut now) = start();
        let mut controller = Controller::default();
        let first = teller.report(now, ways(&[(1, Way::Relay(POP))])).unwrap();
        teller.taken(now, controller.take(&first));
        now += PAUSE;
        let lost = teller.report(now, ways(&[(1, Way::Direct)])).unwrap();
        controller.take(&lost);
        teller.failed(now, Duration::ZERO);
        // Meanwhile it went back to what the controller had said it holds.
        now += PAUSE;
        let again = teller.report(now, ways(&[(1, Way::Relay(POP))])).unwrap();
        teller.taken(now, controller.take(&again));
        assert_eq!(controller.0[&device(1)], Way::Relay(POP).told(device(1)));
    }

    #[test]
    fn more_devices_than_fit_a_report_go_in_several_and_all_arrive() {
        let (mut teller, mut now) = start();
        let all: Vec<(u32, Way)> = (0..1_300).map(|n| (n, Way::Direct)).collect();
        let mut controller = Controller::default();
        let mut reports = 0;
        while let Some(report) = teller.report(now, ways(&all)) {
            assert!(report.paths.len() + report.gone.len() <= MAX_PATHS);
            teller.taken(now, controller.take(&report));
            now += PAUSE;
            reports += 1;
        }
        assert_eq!((reports, controller.0.len()), (3, 1_300));
        while let Some(report) = teller.report(now, ways(&[])) {
            teller.taken(now, controller.take(&report));
            now += PAUSE;
        }
        assert_eq!(controller.0.len(), 0);
    }

    #[test]
    fn while_nobody_takes_reports_they_become_rare_and_a_controller_that_is_heard_ends_that() {
        let (mut teller, mut now) = start();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert!(teller.report(now, ways(&[(1, Way::Direct)])).is_some());
            assert_eq!(teller.report(now, ways(&[(1, Way::Direct)])), None, "one is under way");
            teller.failed(now, Duration::ZERO);
            let Stage::Resting { until } = teller.stage else { panic!("it rests") };
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
        assert!(teller.report(now, ways(&[(1, Way::Direct)])).is_some());
        teller.failed(now, Duration::ZERO);
        teller.reachable(now, 5_000);
        assert_eq!(teller.report(now + SECOND * 2, ways(&[(1, Way::Direct)])), None);
        assert!(teller.report(now + SECOND * 3, ways(&[(1, Way::Direct)])).is_some());
    }
}
