//! What is believed after the keys have changed, and strikes that do not come by themselves.

mod support;

use agent::{Agent, AgentEvent, Freshness, Persisted};
use policy::ConnectorSlice;
use session::{CloseCode, LostReason};
use std::time::Duration;
use support::{SECOND, World, document, version};
use trust::{KeyRole, RevokedSubject, TrustChain};
use wire::{BeaconPush, BundlePush, DeviceId, FromAgent, Revocations};

const MINUTE: Duration = Duration::from_secs(60);

fn device(byte: u8) -> RevokedSubject {
    RevokedSubject::Device(DeviceId::from_bytes([byte; 16]))
}

fn push(chain: &TrustChain) -> BundlePush {
    BundlePush { chain: document(&chain.to_text()) }
}

fn lost_by(events: &[AgentEvent], code: CloseCode) -> usize {
    let is_it = |event: &&AgentEvent| matches!(event, AgentEvent::Lost { reason: LostReason::ClosedHere(by), .. } if *by == code);
    events.iter().filter(is_it).count()
}

fn run_with_beacons(world: &mut World<ConnectorSlice>, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        let beacon = document(&world.beacon_text());
        world.tell(0, BeaconPush { beacon });
        world.run(SECOND * 5);
    }
}

#[test]
fn a_grant_whose_key_was_taken_away_is_dropped_and_another_asked_for_at_once() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 5);
    let chain = world.installation.replace_key(KeyRole::Grant, 2);
    world.controller.is_away = true;
    world.tell(0, push(&chain));
    world.run(SECOND);
    assert!(world.agent.grant().is_none() && world.agent.grant_text().is_none());
    assert!(world.events.iter().any(|event| matches!(event, AgentEvent::BundleChanged)));
    world.controller.is_away = false;
    assert!(world.run_until(SECOND * 60, |world| world.agent.grant().is_some()));
}

#[test]
fn a_slice_whose_key_was_taken_away_allows_nothing_and_still_leads_to_a_pop() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    world.run(SECOND * 5);
    assert!(world.agent.slice().is_some());
    world.controller.is_away = true;
    let before = world.stored().slice;
    let chain = world.installation.replace_key(KeyRole::Slice, 2);
    world.tell(0, push(&chain));
    world.run(SECOND);
    assert!(world.agent.slice().is_none());
    // Also after a restart with no controller: it registers, and waits for a slice.
    let mut stored = world.stored();
    stored.slice = before;
    world.restart_agent();
    world.agent = Agent::new(stored, world.now, world.wall(), [8; 32]).expect("starts");
    world.wait_registered(1);
    assert!(world.agent.slice().is_none());
    // What the other key signed is no reason to refuse what is signed now, whatever its number.
    world.controller.is_away = false;
    world.controller.version = version(4);
    assert!(world.run_until(SECOND * 60, |world| world.agent.slice().is_some()));
    assert_eq!(world.agent.slice().expect("held").header.version, version(4));
}

#[test]
fn an_overlap_of_keys_ends_nothing() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 5);
    let chain = world.installation.chain_with_serial(7);
    world.tell(0, push(&chain));
    world.run(SECOND * 5);
    assert_eq!(world.agent.bundle().serial(), 7);
    assert!(world.agent.grant().is_some() && world.agent.slice().is_some());
    assert!(!world.events.iter().any(|event| matches!(event, AgentEvent::Lost { .. })));
}

#[test]
fn a_session_to_a_pop_whose_issuer_was_taken_away_ends() {
    let mut world = World::connector(2);
    world.wait_registered(2);
    let chain = world.installation.replace_key(KeyRole::PopIssuer, 2);
    world.tell(0, push(&chain));
    world.run(SECOND);
    assert_eq!(lost_by(&world.events, CloseCode::NotTrusted), 2);
}

#[test]
fn a_session_to_a_struck_pop_ends_at_once_and_it_is_not_dialled_again() {
    let mut world = World::connector(3);
    world.wait_registered(2);
    world.run(SECOND * 60);
    let order = world.order();
    let entry = world.strike(RevokedSubject::Pop(world.pops[order[0]].id));
    world.tell(order[1], Revocations { entries: vec![entry] });
    world.run(SECOND);
    assert_eq!(lost_by(&world.events, CloseCode::Struck), 1);
    assert!(world.run_until(SECOND * 10, |world| world.registered().len() == 2), "the next two");
    assert!(!world.registered().contains(&order[0]));
    let dials = world.agent.stats().dials;
    world.run(MINUTE * 9);
    assert_eq!(world.agent.stats().dials, dials);
}

#[test]
fn strikes_stay_when_the_key_that_signed_them_leaves_also_after_a_restart() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    let entry = world.strike(device(1));
    world.tell(0, Revocations { entries: vec![entry.clone()] });
    world.run(SECOND);
    let chain = world.installation.replace_key(KeyRole::Beacon, 2);
    world.tell(0, push(&chain));
    world.run(SECOND);
    assert!(world.agent.revocations().is_struck(device(1), 1));
    world.restart_agent();
    assert!(world.agent.revocations().is_struck(device(1), 1));
    // And the key's later word strikes nobody.
    assert_eq!(world.agent.stats().revocations_refused, 0);
}

#[test]
fn a_root_that_named_its_successor_signs_nothing_any_more_also_after_a_restart() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    let (next, later) = (world.installation.succeeded(), world.installation.later_chain_of_the_root());
    world.tell(0, push(&next));
    world.run(SECOND);
    assert_eq!(world.agent.bundle().epoch(), 2);
    world.tell(0, push(&later));
    world.run(SECOND);
    assert_eq!((world.agent.bundle().epoch(), world.agent.stats().chains_refused), (2, 1));
    assert_eq!(world.persisted.get(&Persisted::Chain), Some(&next.to_text().into_bytes()));
    world.restart_agent();
    world.wait_registered(1);
    world.tell(0, push(&later));
    world.run(SECOND);
    assert_eq!((world.agent.bundle().epoch(), world.agent.stats().chains_refused), (2, 1));
}

#[test]
fn a_strike_that_did_not_come_is_learnt_from_the_head_of_the_next_beacon() {
    let mut world = World::connector(2);
    world.wait_registered(2);
    let first = world.strike(device(1));
    for pop in &mut world.pops {
        pop.strikes.insert(1, first.clone());
    }
    run_with_beacons(&mut world, SECOND * 10);
    assert!(world.agent.revocations().is_struck(device(1), 1), "made before the first beacon");
    for byte in 2..=90_u8 {
        let entry = world.strike(device(byte));
        for pop in &mut world.pops {
            pop.strikes.insert(byte.into(), entry.clone());
        }
    }
    let beacon = document(&world.beacon_text());
    world.tell(0, BeaconPush { beacon });
    let all = |world: &mut World<ConnectorSlice>| world.agent.revocations().len() == 90;
    assert!(world.run_until(SECOND * 4, all), "{} of 90", world.agent.revocations().len());
    assert!(world.persisted.contains_key(&Persisted::Revocations));
    let asked = world.agent.stats().revocations_asked;
    assert!((3..=5).contains(&asked), "{asked} questions");
    run_with_beacons(&mut world, MINUTE * 10);
    assert_eq!(world.agent.stats().revocations_asked, asked, "nothing is missing");
    assert_eq!(world.agent.freshness(world.now), Freshness::Fresh);
}

#[test]
fn a_pop_that_holds_strikes_back_makes_an_agent_stale_then_isolated_and_is_not_asked_without_end() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    let known = world.strike(device(1));
    world.tell(0, Revocations { entries: vec![known] });
    run_with_beacons(&mut world, MINUTE);
    assert_eq!(world.agent.freshness(world.now), Freshness::Fresh);
    let held_back = world.strike(device(2));
    run_with_beacons(&mut world, SECOND * 15);
    assert_eq!(world.agent.freshness(world.now), Freshness::Stale);
    run_with_beacons(&mut world, SECOND * 50);
    assert_eq!(world.agent.freshness(world.now), Freshness::Isolated);
    run_with_beacons(&mut world, MINUTE * 60);
    let asked = world.agent.stats().revocations_asked;
    assert!((10..80).contains(&asked), "{asked} questions in an hour");
    let is_question = |heard: &&FromAgent| matches!(heard, FromAgent::GetRevocations(_));
    let heard = world.pops[0].heard.iter().map(|(_, message)| message).filter(is_question).count();
    assert_eq!(u64::try_from(heard).expect("few"), asked);
    world.tell(0, Revocations { entries: vec![held_back] });
    world.run(SECOND);
    assert!(world.agent.revocations().is_struck(device(2), 1));
    assert_eq!(world.agent.freshness(world.now), Freshness::Fresh);
}

#[test]
fn what_nobody_has_any_more_is_asked_for_rarely_and_isolates_nobody() {
    let mut world = World::connector(1);
    // Struck and served before this connector was enrolled.
    world.strike(device(1));
    world.wait_registered(1);
    run_with_beacons(&mut world, MINUTE * 120);
    let asked = world.agent.stats().revocations_asked;
    assert!((5..60).contains(&asked), "{asked} questions in two hours");
    assert_eq!(world.agent.freshness(world.now), Freshness::Fresh);
}
