//! Connectors that stop answering, beside one that does not.

use super::packets::Machine;
use super::*;

const FIRST: &str = "10.1.2.3:80";

/// Which connector a world's first connection goes by.
fn in_use(world: &mut World) -> usize {
    let dial = world.dial(FIRST);
    world.result(dial).expect("a connection");
    world.connectors.iter().position(|connector| !connector.echoed.is_empty()).expect("one of them")
}

fn two() -> World {
    World::new(&[Manners::Accepts, Manners::Accepts])
}

#[test]
fn a_connector_that_falls_silent_is_left_by_the_next_connection_within_three_seconds() {
    let mut world = two();
    let used = in_use(&mut world);
    world.connectors[used].is_frozen = true;
    let dial = world.dial(FIRST);
    world.pass(Duration::from_secs(3));
    let flow = world.result(dial).expect("by the other");
    assert_eq!(world.echo(flow, b"there"), b"there");
    let next = world.dial(FIRST);
    world.result(next).expect("at once, for the first is suspected");
}

#[test]
fn a_conversation_of_the_machine_that_is_not_answered_goes_by_the_other_connector() {
    let mut world = two();
    let used = in_use(&mut world);
    world.connectors[used].is_frozen = true;
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, "100.64.0.2:40000", FIRST);
    machine.pass(&mut world, Duration::from_secs(3));
    assert!(machine.established.contains(&flow));
    assert_eq!(machine.echo(&mut world, flow, b"there"), b"there");
}

#[test]
fn an_introduction_that_nobody_answers_is_not_waited_for_alone() {
    let mut world = World::new(&[Manners::Silent, Manners::Accepts]);
    let dial = world.dial(FIRST);
    world.pass(Duration::from_secs(3));
    world.result(dial).expect("by the one that answers");
}

#[test]
fn a_target_that_is_slow_is_no_dead_connector() {
    let mut world = two();
    let used = in_use(&mut world);
    let dial = world.dial("10.1.2.3:84");
    world.pass(Duration::from_secs(8));
    assert!(!world.dialled.contains_key(&dial), "it still waits, at the connector that was asked");
    assert_eq!(world.connectors[1 - used].opens, 0);
}

#[test]
fn what_runs_stays_and_goes_on_when_its_connector_does() {
    let mut world = two();
    let dial = world.dial(FIRST);
    let flow = world.result(dial).expect("a connection");
    let used = world.connectors.iter().position(|connector| !connector.echoed.is_empty()).expect("one");
    world.connectors[used].is_frozen = true;
    assert_eq!(world.echo(flow, b"one"), b"");
    world.pass(Duration::from_secs(5));
    assert!(world.ended.is_empty(), "it was cut");
    world.connectors[used].is_frozen = false;
    world.pass(Duration::from_secs(10));
    assert_eq!(world.read(flow), b"one");
}

#[test]
fn a_site_with_one_connector_asks_it_nothing_and_waits() {
    let mut world = World::new(&[Manners::Accepts]);
    in_use(&mut world);
    world.connectors[0].is_frozen = true;
    let dial = world.dial(FIRST);
    world.pass(Duration::from_secs(5));
    assert!(!world.dialled.contains_key(&dial));
    world.connectors[0].is_frozen = false;
    world.pass(Duration::from_secs(5));
    world.result(dial).expect("by the connector that came back");
}

#[test]
fn a_connector_that_cannot_reach_the_target_is_left_for_another_that_can() {
    let mut world = two();
    let used = in_use(&mut world);
    world.connectors[used].is_cut_off = true;
    let dial = world.dial("10.1.2.3:80");
    let flow = world.result(dial).expect("by the other");
    assert_eq!(world.echo(flow, b"there"), b"there");
    let mut machine = Machine::new(world.now);
    let own = machine.dial(&mut world, "100.64.0.2:40001", FIRST);
    assert!(machine.established.contains(&own), "the machine's own connection went by the other too");
    assert_eq!(machine.echo(&mut world, own, b"here"), b"here");
}

#[test]
fn where_no_connector_reaches_the_target_that_is_what_is_said() {
    let mut world = two();
    for connector in &mut world.connectors {
        connector.is_cut_off = true;
    }
    let dial = world.dial(FIRST);
    assert_eq!(world.result(dial).expect_err("nobody reaches it"), Refusal::TargetUnreachable);
    assert!(world.connectors.iter().all(|connector| !connector.echoed.is_empty()), "both were asked");
    let mut machine = Machine::new(world.now);
    let own = machine.dial(&mut world, "100.64.0.2:40001", FIRST);
    assert_eq!(machine.end(own), Some(CloseReason::Unreachable(Unreachable::Host)));
}
