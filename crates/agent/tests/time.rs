//! Time, as the agent asks controllers for it and as PoPs and clocks may twist it.

mod support;

use agent::{Agent, AgentEvent, ConnectorAgent, Freshness};
use policy::ConnectorSlice;
use std::time::Duration;
use support::{SECOND, World, document, pki::DAY, pki::WALL};
use trust::UnixMs;
use wire::BeaconPush;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn apart(one: UnixMs, other: UnixMs) -> Duration {
    one.since(other).max(other.since(one))
}

/// The usual: a beacon every five seconds.
fn run_with_beacons(world: &mut World<ConnectorSlice>, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        let beacon = document(&world.beacon_text());
        world.tell(0, BeaconPush { beacon });
        world.run(SECOND * 5);
    }
}

#[test]
fn time_is_asked_for_at_the_start_hourly_and_after_a_sleep_or_a_step_of_the_clock() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    world.run(SECOND * 3);
    assert_eq!((world.controller.anchors, world.agent.stats().anchors), (1, 1));
    assert!(world.events.iter().any(|event| matches!(event, AgentEvent::TimeAnchored)));
    world.run(DAY);
    let asked = world.controller.anchors;
    assert!((20..=34).contains(&asked), "{asked} in a day");
    world.agent.resumed(world.now);
    assert_ne!(world.agent.freshness(world.now), Freshness::Fresh);
    world.run(SECOND * 3);
    assert_eq!(world.controller.anchors, asked + 1);
    world.run(MINUTE);
    let asked = world.controller.anchors;
    world.machine_ahead = DAY;
    world.run(SECOND * 30);
    assert_eq!(world.controller.anchors, asked + 1);
}

#[test]
fn a_clock_that_is_set_twice_within_seconds_is_asked_about_for_both() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    run_with_beacons(&mut world, MINUTE);
    for ahead in [DAY, Duration::ZERO] {
        world.machine_ahead = ahead;
        run_with_beacons(&mut world, SECOND * 5);
    }
    run_with_beacons(&mut world, SECOND * 20);
    assert_eq!(world.agent.freshness(world.now), Freshness::Fresh);
}

#[test]
fn with_no_controller_time_is_asked_for_at_a_bounded_rate() {
    let mut world = World::connector(2);
    world.controller.is_away = true;
    world.wait_registered(2);
    let before = world.agent.stats().requests;
    run_with_beacons(&mut world, HOUR);
    let asked = world.agent.stats().requests - before;
    assert!((5..80).contains(&asked), "{asked} requests in an hour of beacons and no answers");
    assert_eq!(world.agent.freshness(world.now), Freshness::Stale, "unanchored");
}

#[test]
fn a_machine_clock_that_is_off_by_a_day_or_ten_years_counts_for_nothing_once_time_is_signed() {
    for days in [1, 3650] {
        let mut world = World::connector(1);
        world.wait_registered(1);
        run_with_beacons(&mut world, MINUTE * 20);
        world.machine_ahead = DAY * days;
        run_with_beacons(&mut world, MINUTE * 20);
        assert!(apart(world.agent.wall(world.now), world.wall()) < SECOND * 6);
        assert_eq!(world.agent.freshness(world.now), Freshness::Fresh);
        // And a start with such a clock.
        let (stored, wall) = (world.stored(), world.wall().plus(DAY * days));
        world.restart_agent();
        world.agent = ConnectorAgent::new(stored, world.now, wall, [5; 32]).expect("starts");
        world.wait_registered(1);
        run_with_beacons(&mut world, MINUTE);
        assert!(apart(world.agent.wall(world.now), world.wall()) < SECOND * 6, "{days} days ahead");
        assert_eq!(world.agent.freshness(world.now), Freshness::Fresh);
    }
}

#[test]
fn a_controller_that_is_a_day_ahead_moves_no_time_and_is_heard_again_once_it_is_set_right() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    run_with_beacons(&mut world, MINUTE);
    world.controller.off = 86_400_000;
    run_with_beacons(&mut world, MINUTE * 5);
    assert!(apart(world.agent.wall(world.now), world.wall()) < SECOND * 6);
    assert_eq!(world.agent.freshness(world.now), Freshness::Isolated);
    assert!(world.agent.stats().beacons_ahead >= 50 && world.agent.stats().anchors_refused >= 1);
    world.controller.off = 0;
    run_with_beacons(&mut world, SECOND * 10);
    assert_eq!(world.agent.freshness(world.now), Freshness::Fresh);
}

#[test]
fn beacons_from_before_a_restart_are_not_fresh_after_it() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    run_with_beacons(&mut world, MINUTE * 11);
    let old = document(&world.beacon_text());
    run_with_beacons(&mut world, MINUTE * 11);
    world.agent.shutdown(world.now);
    world.run(SECOND);
    // The machine's clock was set back too, and nobody signs the time: all there is to go by is the disk.
    let stored = world.stored();
    let clock = world.wall().minus(MINUTE * 11);
    world.restart_agent();
    world.agent = Agent::new(stored, world.now, clock, [5; 32]).expect("starts");
    world.controller.is_away = true;
    world.sends_beacons = false;
    world.machine_ahead = Duration::ZERO;
    world.wait_registered(1);
    world.tell(0, BeaconPush { beacon: old });
    world.run(SECOND);
    assert!(world.agent.beacon().is_some(), "it is genuine, and what it says of strikes counts");
    assert_eq!(world.agent.freshness(world.now), Freshness::Isolated);
    assert!(world.agent.wall(world.now) >= world.wall().minus(SECOND * 6));
}

#[test]
fn an_agent_that_ends_before_anybody_said_the_time_writes_none_and_the_next_start_is_in_at_once() {
    let mut world = World::client(1);
    let stored = world.stored();
    world.restart_agent();
    world.agent = Agent::new(stored, world.now, world.wall(), [5; 32]).expect("starts");
    (world.controller.is_away, world.sends_beacons) = (true, false);
    world.run(SECOND / 3);
    world.agent.shutdown(world.now);
    world.run(SECOND);
    assert_eq!(world.stored().time_floor, None);
    world.restart_agent();
    world.controller.is_away = false;
    let before = world.now;
    world.wait_registered(1);
    assert!(world.now < before + SECOND, "{:?}", world.now - before);
}

#[test]
fn a_pop_that_holds_beacons_back_for_ten_minutes_makes_an_agent_isolated_and_turns_back_no_time() {
    let mut world = World::connector(1);
    world.sends_beacons = false;
    let mut held = std::collections::VecDeque::new();
    world.wait_registered(1);
    for _ in 0..(1_800 / 5) {
        held.push_back(document(&world.beacon_text()));
        if held.len() > 120 {
            let beacon = held.pop_front().expect("held");
            world.tell(0, BeaconPush { beacon });
        }
        world.run(SECOND * 5);
    }
    assert_eq!(world.agent.freshness(world.now), Freshness::Isolated);
    assert!(apart(world.agent.wall(world.now), world.wall()) < SECOND * 6);
}

#[test]
fn a_night_asleep_is_a_night() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(MINUTE);
    let until = world.agent.access_until();
    assert_eq!(until, WALL.plus(DAY));
    // `now` counts it, and nothing was done meanwhile.
    world.sleep(HOUR * 8);
    assert!(apart(world.agent.wall(world.now), world.wall()) < SECOND * 6);
    world.agent.resumed(world.now);
    assert!(world.run_until(SECOND * 40, |world| world.agent.freshness(world.now) == Freshness::Fresh));
    assert!(world.agent.grant().expect("held").iat > WALL.plus(HOUR * 8), "renewed at once");
}

#[test]
fn after_a_night_asleep_nothing_is_asked_through_sessions_that_died_and_all_of_it_when_one_is_up() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(MINUTE);
    let before = world.agent.stats();
    world.sleep(HOUR * 8);
    world.agent.resumed(world.now);
    assert!(world.run_until(SECOND * 60, |world| world.agent.stats().registrations > before.registrations));
    let registered = world.now;
    let is_renewed = world.run_until(SECOND * 20, |world| {
        world.agent.grant().is_some_and(|grant| grant.iat > WALL.plus(HOUR * 8))
    });
    assert!(is_renewed, "{:?}", world.events);
    assert!(world.now < registered + SECOND, "it waited {:?} for something", world.now - registered);
    assert_eq!(world.agent.stats().retries, before.retries, "nothing had to be asked twice");
}

#[test]
fn a_machine_that_wakes_up_by_itself_waits_for_no_crowd() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.says_window = [(0, 300_000)].into();
    world.run(MINUTE);
    let before = world.agent.stats().registrations;
    world.sleep(HOUR * 8);
    world.agent.resumed(world.now);
    assert!(world.run_until(SECOND * 3, |world| world.agent.stats().registrations > before));
}
