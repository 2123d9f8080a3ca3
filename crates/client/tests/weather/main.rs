//! What goes on while controllers and PoPs do not: whole nodes, simulated time.

mod world;

use agent::Freshness;
use std::time::Duration;
use world::{DAY, HOUR, MINUTE, Off, SECOND, STANDARD, STRICT, World};

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
}

#[test]
fn controllers_dead_a_pop_dead_and_both_ends_restart() {
    let mut world = World::new(5, 3);
    world.settle();
    world.connect(STANDARD);
    world.kill_controller();
    world.pass(MINUTE * 10);
    let first = world.relay().expect("by a relay");
    world.darken(first);
    world.restart_client();
    world.connect(STANDARD);
    world.restart_connector();
    world.pass(SECOND * 5);
    world.connect(STANDARD);
}

/// Controllers dead for ten minutes, then something else happens as well: the flow of before (where both its ends
/// stay) and twenty new ones.
fn controllers_dead_and(seeds: std::ops::Range<u64>, answer_within: Duration, also: impl Fn(&mut World)) {
    for seed in seeds {
        let mut world = World::new(seed, 3);
        world.settle();
        let flow = world.connect(STANDARD);
        world.kill_controller();
        world.pass(MINUTE * 10);
        assert!(world.echo(flow, SECOND), "seed {seed}");
        also(&mut world);
        world.pass(SECOND * 5);
        for number in 0..20 {
            // Where a third of all packets is lost a person presses twice.
            let tries = if world.loss > 0 { 3 } else { 1 };
            let new = (0..tries).find_map(|_| world.try_to(STANDARD).ok());
            let new = new.unwrap_or_else(|| panic!("seed {seed}, {number}: no connection"));
            let asked = world.now;
            assert!(world.echo(new, answer_within), "seed {seed}, {number}, {:?}", world.now - asked);
            world.pass(SECOND * 10);
        }
        assert_eq!(world.client.agent().freshness(world.now), Freshness::Isolated, "seed {seed}");
    }
}

/// As [`controllers_dead_and`], and the flow of before goes on.
fn controllers_dead_and_flows_go_on(
    seeds: std::ops::Range<u64>,
    answer_within: Duration,
    also: impl Fn(&mut World),
) {
    controllers_dead_and(seeds.clone(), answer_within, &also);
    for seed in seeds {
        let mut world = World::new(seed, 3);
        world.settle();
        let flow = world.connect(STANDARD);
        world.kill_controller();
        world.pass(MINUTE * 10);
        also(&mut world);
        for minute in 0..30 {
            world.pass(MINUTE);
            assert!(world.echo(flow, answer_within), "seed {seed}, minute {minute}");
        }
        assert!(world.ended.is_empty(), "seed {seed}");
    }
}

#[test]
fn controllers_dead_and_the_connector_restarts() {
    controllers_dead_and(500..506, SECOND, World::restart_connector);
}

#[test]
fn a_flow_whose_client_roams_while_its_connector_dies_ends_or_goes_on_and_never_hangs() {
    let mut hung = Vec::new();
    for seed in 600..660 {
        let mut world = World::new(seed, 2);
        world.settle();
        let flow = world.connect(STANDARD);
        world.kill_controller();
        world.pass(SECOND * 40 + Duration::from_millis(seed * 7_919 % 25_000));
        assert!(world.echo(flow, SECOND), "seed {seed}");
        // From two seconds before to two seconds after.
        let apart = Duration::from_millis(seed * 1_009 % 2_000);
        if seed % 2 == 0 {
            world.roam();
            world.pass(apart);
            world.say(flow, b"x");
            world.restart_connector();
        } else {
            world.restart_connector();
            world.pass(apart);
            world.say(flow, b"x");
            world.roam();
        }
        let began = world.now;
        let before = world.echoed[&flow];
        while world.echoed[&flow] == before && !world.ended.contains(&flow) {
            world.pass(SECOND);
            if world.now > began + MINUTE {
                hung.push(seed);
                break;
            }
        }
    }
    assert!(hung.is_empty(), "seeds {hung:?}: a minute without a word");
}

#[test]
fn controllers_dead_and_the_client_restarts() {
    controllers_dead_and(510..516, SECOND, World::restart_client);
}

#[test]
fn controllers_dead_and_thirty_percent_of_all_packets_are_lost() {
    // By way of a PoP each packet has two hops: 16 of 100 on each are 30 of 100 between the two ends.
    controllers_dead_and_flows_go_on(520..524, SECOND * 15, |world| world.loss = 160);
}

#[test]
fn controllers_dead_and_a_clock_a_minute_off_or_a_day_behind() {
    for off in [Off::Ahead(MINUTE), Off::Behind(MINUTE), Off::Behind(DAY)] {
        controllers_dead_and_flows_go_on(530..532, SECOND, |world| world.client_clock = off);
        controllers_dead_and_flows_go_on(532..534, SECOND, |world| world.connector_clock = off);
    }
}

#[test]
fn controllers_dead_and_a_connectors_clock_a_day_ahead_closes_it_and_set_right_it_is_open_again() {
    let mut world = World::new(540, 2);
    world.settle();
    world.kill_controller();
    world.pass(MINUTE * 10);
    world.connector_clock = Off::Ahead(DAY);
    world.pass(MINUTE);
    // Nobody is there who knows better: by its clock every grant is over.
    let dials = world.site_dials;
    world.try_to(STANDARD).expect_err("closed");
    assert_eq!(world.site_dials, dials);
    world.connector_clock = Off::Right;
    world.pass(MINUTE);
    world.try_to(STANDARD).expect("open again");
}

#[test]
fn controllers_dead_and_a_clients_clock_a_day_ahead_takes_nothing_from_it() {
    // Its connector decides, by a clock that is right.
    controllers_dead_and_flows_go_on(541..543, SECOND, |world| world.client_clock = Off::Ahead(DAY));
}

#[test]
fn controllers_dead_and_a_clock_behind_lengthens_no_lease() {
    let mut world = World::with_life(550, 2, HOUR, HOUR);
    world.settle();
    let flow = world.connect(STANDARD);
    world.kill_controller();
    world.pass(MINUTE * 10);
    (world.client_clock, world.connector_clock) = (Off::Behind(DAY), Off::Behind(DAY));
    world.pass(MINUTE * 40);
    assert!(world.echo(flow, SECOND));
    world.pass(MINUTE * 11);
    let bytes = world.site_bytes;
    assert!(!world.echo(flow, SECOND * 5) && world.try_to(STANDARD).is_err());
    assert_eq!(world.site_bytes, bytes);
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
