use super::*;
use crate::jitter::Jitter;

const ONE: ControllerId = ControllerId::from_bytes([1; 16]);
const TWO: ControllerId = ControllerId::from_bytes([2; 16]);
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
const TODAY: UnixMs = UnixMs::from_millis(86_400_000 * 20_000);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[expect(clippy::disallowed_methods, reason = "an Instant has no other beginning")]
fn start() -> Instant {
    Instant::now()
}

/// A clock that a controller anchored, floor and machine right.
fn anchored(start: Instant) -> Clock {
    let mut clock = Clock::new(start, TODAY, Some(TODAY));
    assert!(clock.anchored(start, start, ONE, TODAY));
    clock
}

#[test]
fn a_machine_clock_that_is_behind_does_not_take_time_back() {
    let start = start();
    let mut clock = Clock::new(start, TODAY.minus(DAY), Some(TODAY));
    assert_eq!(clock.wall(start + seconds(5)), TODAY.plus(seconds(5)));
    clock.set_machine(start, TODAY.plus(MINUTE));
    assert_eq!(clock.wall(start), TODAY.plus(MINUTE));
}

#[test]
fn a_machine_clock_that_steps_counts_only_in_isolation() {
    let start = start();
    let mut clock = anchored(start);
    assert_eq!(clock.set_machine(start, TODAY.plus(DAY)), Machine::Stepped);
    assert_eq!(clock.wall(start), TODAY);
    clock.set_machine(start, TODAY.minus(DAY));
    assert_eq!(clock.wall(start), TODAY);
    clock.set_machine(start, TODAY.plus(DAY));
    let later = start + seconds(61);
    assert_eq!(clock.freshness(later), Freshness::Isolated);
    assert_eq!(clock.wall(later), TODAY.plus(DAY + seconds(61)), "it closes access here, and only here");
    // A controller is heard again: time is its line, as the boot-time clock carried it.
    assert_eq!(clock.heard(later, ONE, TODAY.plus(seconds(61))), Moved::Newest);
    assert_eq!(clock.wall(later), TODAY.plus(seconds(61)));
}

#[test]
fn a_beacon_far_ahead_moves_no_time_and_is_no_sign_of_the_present() {
    let start = start();
    let mut clock = anchored(start);
    assert_eq!(clock.heard(start, ONE, TODAY.plus(HOUR)), Moved::Ahead);
    assert_eq!(clock.wall(start), TODAY);
    let later = start + seconds(61);
    assert_eq!(clock.heard(later, ONE, TODAY.plus(HOUR + seconds(61))), Moved::Ahead);
    assert_eq!(clock.freshness(later), Freshness::Isolated);
    // The controller is set right: at once it is heard, however far ahead it had been.
    assert_eq!(clock.heard(later, ONE, TODAY.plus(seconds(61))), Moved::Newest);
    assert_eq!(clock.freshness(later), Freshness::Fresh);
}

#[test]
fn one_controller_that_steps_again_and_again_leads_by_five_minutes_and_no_more() {
    let start = start();
    let mut clock = anchored(start);
    clock.set_machine(start, TODAY);
    for step in 1..200 {
        let now = start + seconds(step * 30);
        let lead = seconds(step * 290);
        let _ = clock.heard(now, ONE, TODAY.plus(seconds(step * 30) + lead));
        let _ = clock.anchored(now, now, ONE, TODAY.plus(seconds(step * 30) + lead));
        let most = TODAY.plus(seconds(step * 30) + MOST_AHEAD + seconds(10));
        assert!(clock.wall(now) <= most, "step {step}: {}", clock.wall(now));
        assert!(clock.floor(now) <= most, "step {step}");
    }
}

#[test]
fn one_controller_that_steps_back_again_and_again_takes_a_minute_and_no_more() {
    let start = start();
    let mut clock = anchored(start);
    // Nobody agrees with it.
    clock.set_machine(start, TODAY.plus(DAY));
    for step in 1..200_u64 {
        let now = start + seconds(step * 30);
        let _ = clock.anchored(now, now, ONE, TODAY.plus(seconds(step * 30)).minus(seconds(step * 50)));
        assert!(clock.wall(now).plus(SKEW) >= TODAY.plus(seconds(step * 30)), "step {step}");
    }
}

#[test]
fn two_controllers_move_time_as_far_as_they_agree_and_one_with_the_machine_too() {
    let start = start();
    let ahead = TODAY.plus(DAY);
    let mut clock = anchored(start);
    assert_eq!(clock.heard(start, ONE, ahead), Moved::Ahead);
    assert_eq!(clock.heard(start, TWO, ahead.plus(seconds(30))), Moved::Newest);
    assert_eq!(clock.wall(start), ahead.plus(seconds(30)));
    let mut clock = anchored(start);
    clock.set_machine(start, ahead);
    assert_eq!(clock.heard(start, ONE, ahead.plus(seconds(30))), Moved::Newest);
    assert_eq!(clock.wall(start), ahead.plus(seconds(30)));
    // A controller that is there and says otherwise outweighs the machine.
    let mut clock = anchored(start);
    clock.heard(start, TWO, TODAY.plus(seconds(1)));
    clock.set_machine(start, ahead);
    assert_eq!(clock.heard(start, ONE, ahead.plus(seconds(30))), Moved::Ahead);
    assert!(clock.wall(start) <= TODAY.plus(seconds(1)));
}

#[test]
fn beacons_that_a_pop_begins_to_delay_show_their_age() {
    let start = start();
    let mut clock = anchored(start);
    // Ten minutes later the PoP hands out a beacon that is five minutes old: newer, and not fresh.
    let later = start + seconds(600);
    assert_eq!(clock.heard(later, ONE, TODAY.plus(seconds(300))), Moved::Newest);
    assert_eq!(clock.age(later), Some(seconds(300)));
    assert_eq!(clock.freshness(later), Freshness::Isolated);
}

#[test]
fn beacons_that_a_pop_delays_from_the_beginning_show_their_age_too() {
    let start = start();
    let mut clock = Clock::new(start, TODAY, Some(TODAY.minus(MINUTE)));
    assert_eq!(clock.heard(start, ONE, TODAY.minus(MINUTE * 10)), Moved::Newest);
    assert_eq!(clock.freshness(start), Freshness::Isolated);
    assert!(clock.anchored(start, start + seconds(1), ONE, TODAY));
    assert_eq!(clock.freshness(start + seconds(1)), Freshness::Fresh);
    for minute in 1..60 {
        let now = start + MINUTE * minute;
        clock.heard(now, ONE, TODAY.plus(MINUTE * minute).minus(MINUTE * 10));
        let expected = if minute == 1 { Freshness::Stale } else { Freshness::Isolated };
        assert_eq!(clock.freshness(now), expected, "minute {minute}");
    }
}

#[test]
fn a_beacon_older_than_the_floor_is_not_fresh_after_a_restart() {
    let start = start();
    for old in [61, 600, 86_400] {
        // The machine's clock is as old as the beacon: it may have been set back for this.
        let beacon = TODAY.minus(seconds(old));
        let mut clock = Clock::new(start, beacon, Some(TODAY));
        clock.heard(start, ONE, beacon);
        assert_eq!(clock.freshness(start), Freshness::Isolated, "{old} s old");
        assert_eq!(clock.wall(start), TODAY);
    }
}

#[test]
fn nobody_is_fresh_before_a_controller_signed_the_time_and_after_a_sleep() {
    let start = start();
    let mut clock = Clock::new(start, TODAY, Some(TODAY));
    assert_eq!(clock.heard(start, ONE, TODAY), Moved::Newest);
    assert_eq!(clock.freshness(start), Freshness::Stale);
    assert!(clock.anchored(start, start, ONE, TODAY.plus(seconds(1))));
    assert_eq!(clock.freshness(start), Freshness::Fresh);
    clock.unsettle();
    assert_eq!(clock.freshness(start), Freshness::Stale);
    // Nor when controllers are heard and none signs the time any more.
    assert!(clock.anchored(start, start, ONE, TODAY));
    let later = start + HOUR * 2 + seconds(1);
    clock.heard(later, ONE, TODAY.plus(HOUR * 2 + seconds(1)));
    assert_eq!(clock.freshness(later), Freshness::Stale);
}

#[test]
fn an_anchor_after_a_long_absence_needs_a_witness() {
    let start = start();
    // Off for a day; the machine's clock is right.
    let mut clock = Clock::new(start, TODAY, Some(TODAY.minus(DAY)));
    assert!(clock.anchored(start, start, ONE, TODAY));
    // Off for a day, and the machine's clock says 1970: one controller alone does not move time that far.
    let mut clock = Clock::new(start, UnixMs::default(), Some(TODAY.minus(DAY)));
    assert!(!clock.anchored(start, start, ONE, TODAY));
    assert_eq!(clock.wall(start), TODAY.minus(DAY));
    assert!(clock.anchored(start, start, TWO, TODAY.plus(seconds(20))), "a second one agrees");
    // Off for some minutes with a clock a day ahead: the controller is near the floor.
    let mut clock = Clock::new(start, TODAY.plus(DAY), Some(TODAY.minus(MINUTE * 12)));
    assert!(clock.anchored(start, start, ONE, TODAY));
    assert_eq!(clock.wall(start), TODAY);
    // The first run ever, with the same clock: what was enrolled says where to begin.
    let mut clock = Clock::new(start, TODAY.plus(DAY), None);
    clock.begin_at(TODAY.minus(MINUTE));
    assert!(clock.anchored(start, start, ONE, TODAY));
    assert_eq!(clock.wall(start), TODAY);
}

#[test]
fn a_controller_that_led_by_minutes_is_followed_back() {
    let start = start();
    let mut clock = anchored(start);
    assert!(clock.anchored(start, start, ONE, TODAY.plus(MINUTE * 4)));
    assert_eq!(clock.wall(start), TODAY.plus(MINUTE * 4));
    let later = start + MINUTE;
    clock.heard(later, ONE, TODAY.plus(MINUTE * 5));
    assert!(clock.anchored(later, later, ONE, TODAY.plus(MINUTE)), "the machine's clock agrees");
    assert_eq!(clock.wall(later), TODAY.plus(MINUTE));
    assert_eq!(clock.heard(later, ONE, TODAY.plus(MINUTE + seconds(1))), Moved::Newest);
    assert_eq!(clock.freshness(later), Freshness::Fresh);
    assert_eq!(clock.floor(later), TODAY.plus(MINUTE * 5), "what is written never goes back");
}

#[test]
fn a_second_controllers_delayed_beacons_hide_behind_nobody() {
    let start = start();
    let mut clock = anchored(start);
    // One dies; of the other the PoP hands out what is ten minutes old, from the beginning.
    for minute in 0..10 {
        let now = start + MINUTE * minute;
        clock.heard(now, TWO, TODAY.plus(MINUTE * minute).minus(MINUTE * 10));
    }
    assert_eq!(clock.freshness(start + MINUTE * 9), Freshness::Isolated);
}

#[test]
fn an_answer_that_took_its_time_makes_nothing_last_longer() {
    let start = start();
    let mut clock = Clock::new(start, TODAY, Some(TODAY));
    assert!(clock.anchored(start, start + seconds(5), ONE, TODAY));
    assert_eq!(clock.wall(start + seconds(5)), TODAY.plus(seconds(5)));
}

#[test]
fn not_even_two_witnesses_take_time_back_behind_what_one_could_have_led_by() {
    let start = start();
    let mut clock = anchored(start);
    // The machine is the controller's own host, and its clock is set back a day.
    clock.set_machine(start, TODAY.minus(DAY));
    assert!(!clock.anchored(start, start, ONE, TODAY.minus(DAY)));
    assert!(!clock.anchored(start, start, TWO, TODAY.minus(DAY)));
    assert_eq!(clock.wall(start), TODAY);
}

#[test]
fn before_a_controller_signed_the_time_the_later_of_floor_and_machine_counts() {
    let start = start();
    let mut clock = Clock::new(start, TODAY.plus(seconds(50)), Some(TODAY));
    clock.heard(start, ONE, TODAY);
    assert_eq!(clock.freshness(start), Freshness::Stale);
    assert_eq!(clock.wall(start), TODAY.plus(seconds(50)));
}

#[test]
fn a_floor_from_before_this_program_is_none() {
    let start = start();
    let mut clock = Clock::new(start, TODAY, Some(UnixMs::from_millis(358)));
    clock.begin_at(TODAY.minus(DAY));
    assert_eq!(clock.reach(start), TODAY);
    assert_eq!(clock.floor(start + seconds(9)), UnixMs::from_millis(0));
}

#[test]
fn a_clock_off_by_ten_years_still_reaches_a_controller() {
    let start = start();
    let clock = Clock::new(start, TODAY.plus(DAY * 3650), Some(TODAY));
    let reached = |clock: &Clock| [0, 10, 20].map(|after| clock.reach(start + seconds(after)));
    let ahead = TODAY.plus(DAY * 3650);
    // Nobody's certificate lives that long: what was written down comes first.
    assert_eq!(reached(&clock), [TODAY, ahead.plus(seconds(10)), TODAY.plus(seconds(20))]);
    let clock = Clock::new(start, TODAY.plus(DAY * 20), Some(TODAY));
    let ahead = TODAY.plus(DAY * 20);
    assert_eq!(reached(&clock), [ahead, TODAY.plus(seconds(10)), ahead.plus(seconds(20))]);
    let clock = Clock::new(start, TODAY.minus(DAY * 3650), Some(TODAY));
    assert_eq!(reached(&clock)[0], TODAY);
}

#[test]
fn freshness_passes_through_its_three_steps_at_its_bounds() {
    let start = start();
    let clock = anchored(start);
    for (after, expected) in
        [(15, Freshness::Fresh), (16, Freshness::Stale), (60, Freshness::Stale), (61, Freshness::Isolated)]
    {
        assert_eq!(clock.freshness(start + seconds(after)), expected, "{after} s");
    }
    assert_eq!(clock.next_change(start), Some(start + Duration::from_millis(15_001)));
    assert_eq!(clock.next_change(start + seconds(20)), Some(start + Duration::from_millis(60_001)));
}

// ---- one thing wrong at a time, over many seeds ----------------------------------------------------

/// What is wrong in a run; everything else is right within the 60 s that clocks are always off by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The machine's clock jumps by anything up to ten years, again and again.
    Machine,
    /// A controller's clock does.
    Controller,
    /// The PoP holds beacons back by up to ten minutes, and answers to nonces as long as it can.
    Pop,
    None,
}

struct Scene {
    random: Jitter,
    fault: Fault,
    controllers: usize,
    begin: Instant,
    /// True time since the beginning.
    passed: Duration,
    /// Milliseconds that each controller's clock is off by.
    off: [i64; 2],
    machine_off: i64,
    clock: Clock,
    written: Option<UnixMs>,
    written_at: Duration,
}

fn shifted(time: UnixMs, off: i64) -> UnixMs {
    let by = Duration::from_millis(off.unsigned_abs());
    if off < 0 { time.minus(by) } else { time.plus(by) }
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut random = Jitter::new(seed);
        let fault =
            [Fault::Machine, Fault::Controller, Fault::Pop][usize::try_from(seed % 3).expect("small")];
        let begin = start();
        let controllers = 1 + usize::from(random.bits().is_multiple_of(2));
        let clock = Clock::new(begin, TODAY, Some(TODAY.minus(seconds(30))));
        let mut scene = Self {
            random,
            fault,
            controllers,
            begin,
            passed: Duration::ZERO,
            off: [0; 2],
            machine_off: 0,
            clock,
            written: None,
            written_at: Duration::ZERO,
        };
        scene.off = [scene.small(), scene.small()];
        scene.machine_off = scene.small();
        scene
    }

    /// Up to 25 s either way: two right clocks differ by less than a minute.
    fn small(&mut self) -> i64 {
        i64::try_from(self.random.bits() % 50_000).expect("small") - 25_000
    }

    /// Anything: seconds, minutes, days, years.
    fn jump(&mut self) -> i64 {
        let scale =
            [30_000, 290_000, 900_000, 86_400_000, 315_360_000_000][(self.random.bits() % 5) as usize];
        let by = i64::try_from(self.random.bits() % (2 * scale)).expect("fits");
        by - i64::try_from(scale).expect("fits")
    }

    fn now(&self) -> Instant {
        self.begin + self.passed
    }

    fn truth(&self) -> UnixMs {
        TODAY.plus(self.passed)
    }

    fn once_in(&mut self, turns: u64) -> bool {
        self.random.bits().is_multiple_of(turns)
    }

    fn step(&mut self) {
        // Five seconds; now and then the machine sleeps up to eight hours, which `now` counts.
        let step = if self.once_in(2_000) { self.random.up_to(HOUR * 8) } else { seconds(5) };
        self.passed += step;
        if self.once_in(300) {
            match self.fault {
                Fault::Machine => self.machine_off = self.jump(),
                Fault::Controller => self.off[0] = self.jump(),
                Fault::Pop | Fault::None => {}
            }
        }
        if self.once_in(1_500) {
            self.reboot();
        }
        let now = self.now();
        self.clock.set_machine(now, shifted(self.truth(), self.machine_off));
        for (index, id) in [ONE, TWO].into_iter().enumerate().take(self.controllers) {
            let delay =
                if self.fault == Fault::Pop { self.random.up_to(MINUTE * 10) } else { Duration::ZERO };
            if delay < self.passed {
                let made = shifted(self.truth().minus(delay), self.off[index]);
                self.clock.heard(now, id, made);
            }
            if self.once_in(360) || (!self.clock.is_anchor_current(now) && self.once_in(3)) {
                // What takes longer than 5 s is no answer. Somewhere on the way it is signed.
                let took = self.random.up_to(seconds(5)).min(self.passed);
                let since = self.random.up_to(took);
                let made = shifted(self.truth().minus(since), self.off[index]);
                self.clock.anchored(now - took, now, id, made);
            }
        }
        if self.passed >= self.written_at + FLOOR_INTERVAL {
            self.written = Some(self.clock.floor(now));
            self.written_at = self.passed;
        }
    }

    /// Off for up to five minutes, and back with what was written last.
    fn reboot(&mut self) {
        self.passed += self.random.up_to(MINUTE * 5);
        let floor = self.written.unwrap_or(TODAY.minus(seconds(30)));
        self.clock = Clock::new(self.now(), shifted(self.truth(), self.machine_off), Some(floor));
    }
}

#[test]
fn no_single_clock_controller_or_pop_expires_the_fleet_freezes_it_or_lengthens_a_lease() {
    let (mut connected, mut alone) = (0_u64, 0_u64);
    for seed in 0..240 {
        let mut scene = Scene::new(seed);
        for step in 0..6_000 {
            scene.step();
            let (now, truth) = (scene.now(), scene.truth());
            let (wall, fault) = (scene.clock.wall(now), scene.fault);
            let ahead = wall.since(truth);
            let behind = truth.since(wall);
            let is_believing =
                scene.clock.anchored_at.is_some() && scene.clock.freshness(now) != Freshness::Isolated;
            let says = || {
                format!(
                    "seed {seed} step {step} {fault:?}, {} controllers: {wall} at {truth}",
                    scene.controllers
                )
            };
            if is_believing {
                connected += 1
            } else {
                alone += 1
            }
            // A minute of skew, and a round trip. A controller that is off leads by what one may.
            let usual = SKEW + seconds(10);
            let (most_ahead, most_behind) = match (fault, is_believing) {
                // Alone with a machine's clock that is off: that one node closes.
                (Fault::Machine, false) => (Duration::MAX, Duration::MAX),
                // After a restart the floor is up to ten minutes old, and five off.
                (Fault::Controller, true) => (MOST_AHEAD * 3 + usual, MOST_AHEAD * 3 + usual),
                (Fault::Controller, false) => (MOST_AHEAD * 3 + usual, usual),
                _ => (usual, usual),
            };
            assert!(ahead <= most_ahead, "ahead: {}", says());
            assert!(behind <= most_behind, "behind: {}", says());
            assert!(scene.clock.floor(now).since(truth) <= MOST_AHEAD * 3 + usual, "floor: {}", says());
        }
    }
    assert!(connected > 100_000 && alone > 10_000, "both happened: {connected}, {alone}");
}

#[test]
fn a_pop_that_holds_beacons_back_makes_nobody_believe_that_controllers_are_there() {
    for seed in 0..60 {
        let mut scene = Scene::new(seed * 3 + 2);
        assert_eq!(scene.fault, Fault::Pop);
        for step in 0..3_000 {
            scene.step();
            let now = scene.now();
            // Nothing newer than two minutes, of any controller, from now on.
            let newest = scene.clock.controllers.values().filter_map(|line| line.newest).max();
            let age = newest.map_or(Duration::MAX, |newest| scene.truth().plus(seconds(25)).since(newest));
            if age > seconds(150) {
                assert_eq!(
                    scene.clock.freshness(now),
                    Freshness::Isolated,
                    "seed {seed} step {step} {age:?}"
                );
            }
        }
    }
}

#[test]
fn with_everything_right_nodes_are_fresh_and_on_time_through_sleep_and_restart() {
    for seed in 0..60 {
        let mut scene = Scene::new(seed);
        scene.fault = Fault::None;
        let mut fresh = 0;
        for step in 0..2_000 {
            scene.step();
            let now = scene.now();
            let apart = apart(scene.clock.wall(now), scene.truth());
            assert!(apart <= SKEW, "seed {seed} step {step}: {apart:?}");
            fresh += usize::from(scene.clock.freshness(now) == Freshness::Fresh);
        }
        assert!(fresh > 1_900, "seed {seed}: {fresh} of 2,000");
    }
}
