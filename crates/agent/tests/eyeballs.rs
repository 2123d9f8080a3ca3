//! Happy eyeballs (RFC 8305): a PoP whose name leads to many addresses is reached by the first that works, in either
//! family, by UDP or by TCP 443, and never by two sessions.

mod support;

use agent::Transport;
use std::{net::SocketAddr, time::Duration};
use support::{SECOND, World};
use wire::FromAgent;

const MS: fn(u64) -> Duration = Duration::from_millis;
/// The next address is tried after this.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Retry, handshake and `Welcome` in this world: a round trip is 20 ms.
const HANDSHAKE: Duration = Duration::from_millis(120);
const V4: &str = "203.0.113.10:443";
const V6: &str = "[2001:db8:10::1]:443";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn six(number: u16) -> SocketAddr {
    address(&format!("[2001:db8:10::{number:x}]:443"))
}

type Client = World<policy::ClientSlice>;

fn client(addresses: &[&str]) -> Client {
    World::client_of_name(&addresses.iter().map(|text| address(text)).collect::<Vec<_>>())
}

fn deafen(world: &mut Client, transports: &[Transport], addresses: &[SocketAddr]) {
    world.deaf.extend(transports.iter().flat_map(|by| addresses.iter().map(|address| (*by, *address))));
}

const BOTH: [Transport; 2] = [Transport::Udp, Transport::Tcp];

/// Waits until it is registered; by what, and how long it took.
fn registered(world: &mut Client, within: Duration) -> (Transport, Duration) {
    let began = world.now;
    let is_up = world.run_until(within, |world| !world.transports().is_empty());
    assert!(is_up, "not registered within {within:?}: {:?}", world.events);
    (world.transports()[0], world.now - began)
}

/// Sessions that introduced themselves to the PoP.
fn hellos(world: &Client) -> usize {
    world.pops[0].heard.iter().filter(|(_, said)| matches!(said, FromAgent::Hello(_))).count()
}

#[test]
fn when_the_first_address_is_dead_the_other_family_is_taken_a_quarter_of_a_second_later() {
    for (dead, alive) in [(V6, V4), (V4, V6)] {
        let mut world = client(&[dead, alive]);
        deafen(&mut world, &BOTH, &[address(dead)]);
        let (by, took) = registered(&mut world, SECOND * 5);
        assert_eq!(by, Transport::Udp);
        assert!(took <= NEXT_ADDRESS + HANDSHAKE, "{alive} after {took:?}");
    }
}

#[test]
fn when_the_first_address_is_dead_and_udp_passes_nowhere_the_other_family_is_taken_by_tcp_within_five_seconds()
 {
    for (dead, alive) in [(V6, V4), (V4, V6)] {
        let mut world = client(&[dead, alive]);
        deafen(&mut world, &BOTH, &[address(dead)]);
        deafen(&mut world, &[Transport::Udp], &[address(alive)]);
        let (by, took) = registered(&mut world, SECOND * 5);
        assert_eq!(by, Transport::Tcp);
        println!("{alive} by TCP after {took:?}");
        assert_eq!(
            world.streams.values().filter(|to| **to == address(alive)).count(),
            1,
            "{:?}",
            world.streams
        );
    }
}

#[test]
fn a_family_with_many_dead_addresses_does_not_keep_the_other_one_waiting() {
    // A resolver that sorts by RFC 6724 gives all of one family first.
    for count in [2, 3, 4, 7, 8, 12] {
        let dead: Vec<SocketAddr> = (1..=count).map(six).collect();
        let addresses: Vec<SocketAddr> = dead.iter().copied().chain([address(V4)]).collect();
        let mut world = World::client_of_name(&addresses);
        deafen(&mut world, &BOTH, &dead);
        let (by, took) = registered(&mut world, SECOND * 5);
        assert_eq!(by, Transport::Udp);
        assert!(took <= NEXT_ADDRESS + HANDSHAKE, "behind {count} dead addresses after {took:?}");
    }
}

#[test]
fn two_families_that_race_never_open_two_sessions() {
    // By how much the first one is slower: the handshakes end one before the other, together, or the other way round.
    for later in (0..600).step_by(3) {
        let mut world = client(&[V6, V4]);
        world.delays.insert(address(V6), MS(later));
        registered(&mut world, SECOND * 6);
        world.run(SECOND * 20);
        assert_eq!(hellos(&world), 1, "V6 later by {later} ms: {:?}", world.events);
        assert_eq!(world.pops[0].sessions.len(), 1, "V6 later by {later} ms: one session stays");
        assert_eq!(world.transports(), [Transport::Udp]);
    }
}

#[test]
fn udp_and_tcp_that_race_leave_one_session_and_udp_when_it_is_there() {
    // UDP answers about when TCP is tried as well, two seconds after it.
    for later in (0..1_200).step_by(40) {
        let mut world = client(&[V4]);
        world.delays.insert(address(V4), MS(later));
        registered(&mut world, SECOND * 20);
        world.run(SECOND * 30);
        assert_eq!(world.pops[0].sessions.len(), 1, "later by {later} ms: one session stays");
        assert!(
            hellos(&world) <= 2,
            "later by {later} ms: {} sessions introduced themselves",
            hellos(&world)
        );
    }
}

#[test]
fn the_address_that_worked_is_the_first_one_next_time() {
    let mut world = client(&[V6, V4]);
    deafen(&mut world, &BOTH, &[address(V6)]);
    registered(&mut world, SECOND * 5);
    world.run(SECOND * 40);
    let dials = world.agent.stats().dials;
    world.close_all(0, session::CloseCode::Done);
    assert!(world.run_until(SECOND, |world| world.transports().is_empty()));
    assert!(world.run_until(SECOND * 10, |world| !world.transports().is_empty()), "{:?}", world.events);
    assert_eq!(world.agent.stats().dials - dials, 1, "the dead one was not tried again");
}

#[test]
fn where_nothing_answers_each_round_tries_a_bounded_number_of_ways() {
    let dead: Vec<SocketAddr> = (1..=12).map(six).collect();
    let mut world = World::client_of_name(&dead);
    deafen(&mut world, &BOTH, &dead);
    world.run(SECOND * 3_600);
    let dials = world.agent.stats().dials;
    // Four addresses by two transports, and a pause of up to a minute between two rounds of about ten seconds.
    assert!((8 * 30..8 * 120).contains(&dials), "{dials} dials in an hour");
    assert_eq!(hellos(&world), 0);
}
