//! UDP and TCP 443 beside each other: found within seconds, left again, and never a stream dialled twice.

mod support;

use agent::Transport;
use std::time::Duration;
use support::{SECOND, World};

#[test]
fn a_network_without_udp_is_left_by_tcp_within_five_seconds() {
    for _ in 0..2 {
        let mut world = World::client(1);
        world.udp_passes = false;
        assert!(
            world.run_until(SECOND * 5, |world| world.transports() == [Transport::Tcp]),
            "{:?}",
            world.events
        );
    }
}

#[test]
fn where_udp_works_no_stream_is_opened() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 600);
    assert_eq!(world.transports(), [Transport::Udp]);
    assert!(world.streams.is_empty(), "{:?}", world.streams);
}

#[test]
fn a_session_whose_udp_is_taken_away_goes_on_by_tcp_and_back_when_udp_returns() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 60);
    world.udp_passes = false;
    // Its owner noticed that nothing comes back.
    world.agent.probe(world.now);
    let by_tcp = |world: &mut World<policy::ClientSlice>| world.transports() == [Transport::Tcp];
    assert!(world.run_until(SECOND * 5, by_tcp), "{:?}", world.events);
    world.run(SECOND * 20);
    world.udp_passes = true;
    let by_udp = |world: &mut World<policy::ClientSlice>| world.transports() == [Transport::Udp];
    // It is tried 30 s after the change, and later at twice the pause.
    assert!(world.run_until(SECOND * 65, by_udp), "{:?}", world.events);
    // And stays there.
    world.run(SECOND * 300);
    assert_eq!(world.transports(), [Transport::Udp]);
}

#[test]
fn while_udp_stays_away_it_is_tried_seldom() {
    let mut world = World::client(1);
    world.udp_passes = false;
    assert!(world.run_until(SECOND * 5, |world| world.transports() == [Transport::Tcp]));
    let dials = world.agent.stats().dials;
    world.run(SECOND * 3_600);
    let tried = world.agent.stats().dials - dials;
    // After 30 s, then doubled up to five minutes: about fifteen in an hour.
    assert!((8..=20).contains(&tried), "{tried} dials in an hour by TCP");
    assert_eq!(world.transports(), [Transport::Tcp]);
}

#[test]
fn a_stream_that_died_is_given_up_for_a_new_one() {
    let mut world = World::client(1);
    world.udp_passes = false;
    assert!(world.run_until(SECOND * 5, |world| world.transports() == [Transport::Tcp]));
    world.run(SECOND * 30);
    let before: Vec<_> = world.streams.keys().copied().collect();
    world.kill_streams();
    let anew = |world: &mut World<policy::ClientSlice>| {
        let lives = world.streams.keys().any(|stream| !world.dead_streams.contains(stream));
        lives && world.transports() == [Transport::Tcp]
    };
    assert!(world.run_until(SECOND * 45, anew), "{:?}", world.events);
    // Once the new one carries, nothing more is said to the old one than goodbye.
    world.run(SECOND * 10);
    let said = world.sent_to_dead_streams;
    world.run(Duration::from_secs(300));
    assert_eq!(world.sent_to_dead_streams, said);
    assert!(world.streams.keys().any(|stream| !before.contains(stream)));
}

#[test]
fn without_udp_and_tcp_it_is_tried_for_ever_and_comes_back_when_either_does() {
    let mut world = World::client(1);
    (world.udp_passes, world.tcp_passes) = (false, false);
    world.run(SECOND * 3_600);
    let dials = world.agent.stats().dials;
    assert!((20..400).contains(&dials), "{dials} dials in an hour without a network");
    world.tcp_passes = true;
    assert!(
        world.run_until(SECOND * 140, |world| world.transports() == [Transport::Tcp]),
        "{:?}",
        world.events
    );
}
