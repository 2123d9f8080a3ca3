//! What goes on while controllers and PoPs do not: whole nodes, simulated time.

mod world;

use agent::Freshness;
use std::time::Duration;
use world::{HOUR, MINUTE, SECOND, STANDARD, STRICT, World};

#[test]
fn a_standard_resource_goes_on_until_the_grants_hard_expiry_and_no_longer() {
    let mut world = World::with_life(1, 2, HOUR, HOUR);
    world.settle();
    let flow = world.connect(STANDARD);
    let end = HOUR - (world.wall().since(world::WALL));
    world.kill_controller();
    // To the last seconds of the lease, old flow and new.
    for _ in 0..11 {
        world.pass(MINUTE * 5);
        assert!(world.echo(flow, SECOND), "at {:?}", world.wall().since(world::WALL));
        world.try_to(STANDARD).expect("a new one");
    }
    assert_eq!(world.connector.agent().freshness(world.now), Freshness::Isolated);
    let left = HOUR - world.wall().since(world::WALL);
    assert!(left > SECOND * 30 && left < end, "{left:?}");
    world.pass(left - SECOND);
    assert!(world.echo(flow, Duration::from_millis(900)), "a second before");
    let left = HOUR - world.wall().since(world::WALL);
    world.pass(left + SECOND);
    let (dials, bytes) = (world.site_dials, world.site_bytes);
    assert!(!world.echo(flow, SECOND * 5), "a second after");
    assert!(world.ended.contains(&flow), "and its owner was told");
    assert!(world.try_to(STANDARD).is_err());
    assert_eq!((world.site_dials, world.site_bytes), (dials, bytes), "nothing reached the site");
}

#[test]
fn a_renewed_grant_carries_a_running_flow_over_the_end_of_the_first_without_a_gap() {
    let mut world = World::with_life(2, 2, HOUR, MINUTE * 20);
    world.settle();
    let flow = world.connect(STANDARD);
    // Three leases long, asked every two seconds.
    for _ in 0..(3 * 3600 / 2) {
        assert!(world.echo(flow, SECOND), "at {:?}", world.wall().since(world::WALL));
        world.pass(SECOND * 2);
    }
    assert!(world.renewals() >= 6, "{} renewals", world.renewals());
    assert!(world.ended.is_empty());
}

#[test]
fn a_strict_resource_takes_no_new_flow_seventy_seconds_after_isolation_and_carries_none_after_the_grace() {
    let mut world = World::new(3, 2);
    world.settle();
    let (strict, standard) = (world.connect(STRICT), world.connect(STANDARD));
    world.kill_controller();
    world.pass(SECOND * 40);
    world.try_to(STRICT).expect("not isolated yet");
    world.pass(SECOND * 29);
    let dials = world.site_dials;
    assert!(world.try_to(STRICT).is_err(), "70 s after the last beacon");
    assert_eq!(world.site_dials, dials);
    world.try_to(STANDARD).expect("standard goes on");
    world.pass(MINUTE * 14);
    assert!(world.echo(strict, SECOND), "what runs has a grace");
    world.pass(MINUTE + SECOND * 10);
    assert!(!world.echo(strict, SECOND * 5), "70 s and 15 min after");
    assert!(world.ended.contains(&strict));
    assert!(world.echo(standard, SECOND));
}

/// How long a running flow through a PoP stood still when that PoP went dark, over many seeds and moments.
fn gaps(seeds: std::ops::Range<u64>) -> Vec<Duration> {
    let mut gaps: Vec<Duration> = seeds
        .map(|seed| {
            let mut world = World::new(seed, 3);
            world.settle();
            let flow = world.connect(STANDARD);
            // Anywhere between two keepalives.
            world.pass(SECOND * 5 + Duration::from_millis(seed * 7_919 % 25_000));
            let first = world.relay().expect("by a relay");
            // The rest of the network loses nothing, a twentieth, a tenth.
            world.loss = seed % 3 * 50;
            world.darken(first);
            let began = world.now;
            // A person types; TCP sends again what was lost.
            let before = world.echoed.get(&flow).copied().unwrap_or(0);
            while world.echoed.get(&flow).copied().unwrap_or(0) == before {
                world.say(flow, b"x");
                world.pass(Duration::from_millis(100));
                assert!(world.now < began + MINUTE, "seed {seed}: a minute of silence");
            }
            assert!(world.ended.is_empty(), "seed {seed}: the flow survives");
            assert_ne!(world.relay(), Some(first), "seed {seed}");
            world.now - began
        })
        .collect();
    gaps.sort_unstable();
    gaps
}

#[test]
fn a_flow_through_a_pop_that_goes_dark_goes_on_by_the_next() {
    let gaps = gaps(100..124);
    println!("{gaps:?}");
    assert!(gaps[gaps.len() / 2] <= SECOND * 3, "p50 of {gaps:?}");
    assert!(gaps[gaps.len() - 1] <= SECOND * 15, "the worst of {gaps:?}");
}

#[test]
fn a_first_connection_with_the_first_pop_dark_takes_seconds() {
    let mut worst = Duration::ZERO;
    for seed in 200..212 {
        let mut world = World::new(seed, 3);
        world.settle();
        let first = world.client_at()[0];
        world.darken(first);
        world.restart_client();
        let began = world.now;
        world.try_to(STANDARD).expect("by the next PoP");
        worst = worst.max(world.now - began);
    }
    println!("worst {worst:?}");
    assert!(worst <= SECOND * 5, "{worst:?}");
}

#[test]
fn a_flow_goes_on_after_its_pop_was_killed_and_started_again() {
    for seed in 300..308 {
        let mut world = World::new(seed, 2);
        world.settle();
        let flow = world.connect(STANDARD);
        world.pass(SECOND * 40);
        let first = world.relay().expect("by a relay");
        assert!(world.echo(flow, SECOND));
        world.restart_pop(first);
        let began = world.now;
        let before = world.echoed[&flow];
        while world.echoed[&flow] == before {
            world.say(flow, b"x");
            world.pass(Duration::from_millis(100));
            assert!(world.now < began + SECOND * 5, "seed {seed}");
        }
        assert!(world.ended.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_pop_that_drains_is_left_in_its_time_and_no_flow_stands_still() {
    for seed in 400..406 {
        let mut world = World::new(seed, 3);
        world.settle();
        let flow = world.connect(STANDARD);
        let first = world.relay().expect("by a relay");
        let began = world.now;
        world.ask_to_leave(first, SECOND * 20);
        let (mut left, mut connector_left) = (None, None);
        while world.now < began + SECOND * 40 {
            assert!(world.echo(flow, Duration::from_millis(900)), "seed {seed} at {:?}", world.now - began);
            world.pass(Duration::from_millis(200));
            if !world.client_at().contains(&first) && world.relay() != Some(first) {
                left.get_or_insert(world.now - began);
            }
            if !world.connector_at().contains(&first) && world.connector_at().len() == 2 {
                connector_left.get_or_insert(world.now - began);
            }
        }
        assert!(left.is_some_and(|left| left <= SECOND * 21), "seed {seed}: {left:?}");
        assert!(connector_left.is_some_and(|left| left <= SECOND * 21), "seed {seed}: {connector_left:?}");
        assert!(world.ended.is_empty());
    }
}

#[test]
fn controllers_dead_and_a_pop_dead_as_well_stop_no_standard_resource() {
    let mut world = World::new(5, 3);
    world.settle();
    let flow = world.connect(STANDARD);
    world.kill_controller();
    world.pass(MINUTE * 10);
    let first = world.relay().expect("by a relay");
    world.darken(first);
    assert!(world.echo(flow, SECOND * 15));
    world.restart_client();
    world.connect(STANDARD);
    world.restart_connector();
    world.pass(SECOND * 5);
    world.connect(STANDARD);
}

#[test]
fn a_day_without_controllers_drops_no_session_and_whoever_restarts_comes_back() {
    let mut world = World::with_life(6, 2, HOUR * 26, HOUR * 25);
    world.settle();
    let flow = world.connect(STANDARD);
    world.kill_controller();
    let (mut asked, mut came) = (0, 0);
    for hour in 0..24_u32 {
        world.pass(MINUTE * 59);
        // The flow of the beginning is there for as long as both its ends are.
        if hour < 8 {
            assert!(world.echo(flow, SECOND), "hour {hour}");
        }
        for _ in 0..20 {
            asked += 1;
            came += usize::from(world.try_to(STANDARD).is_ok());
        }
        match hour {
            8 | 14 | 20 => world.restart_client(),
            11 | 17 => world.restart_connector(),
            // Killed and started again, it knows nothing of anybody.
            13 | 19 => world.restart_pop(0),
            _ => {}
        }
        world.pass(SECOND * 20);
    }
    assert_eq!((asked, came), (480, 480));
    assert_eq!(world.client.agent().freshness(world.now), Freshness::Isolated);
}
