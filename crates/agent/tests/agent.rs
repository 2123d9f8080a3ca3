//! The agent against PoPs made of the real acceptor.

mod support;

use agent::{Agent, AgentEvent, Asked, ConnectorAgent, Freshness, Persisted, StartError};
use session::{CloseCode, LostReason};
use std::{collections::BTreeSet, time::Duration};
use support::{SECOND, SITE, World, document, grant, pki::DAY, pki::WALL, version};
use trust::{RevokedSubject, Subject};
use wire::{
    Accept, BeaconPush, Bounded, BundlePush, ChannelId, ChannelSecret, ConnectorId, ControlRequest, DeviceId,
    FromAgent, FromController, GoAway, Introduce, Refusal, Revocations, Why,
};

const HOUR: Duration = Duration::from_secs(3600);

fn count(events: &[AgentEvent], wanted: impl Fn(&AgentEvent) -> bool) -> usize {
    events.iter().filter(|event| wanted(event)).count()
}

#[test]
fn it_comes_up_from_stored_state_with_no_controller() {
    let mut world = World::client(2);
    world.controller.is_away = true;
    world.sends_beacons = false;
    world.wait_registered(1);
    assert_eq!(world.registered(), [world.order()[0]], "the first in the site's order");
    assert!(world.agent.grant().is_some() && world.agent.slice().is_some());
    world.run(HOUR);
    assert_eq!(world.registered().len(), 1);
    assert_eq!(world.agent.freshness(world.now), Freshness::Isolated);
    assert_eq!(world.agent.control_last_heard(world.now), None);
    assert_eq!(world.agent.access_until(), WALL.plus(DAY));
    assert_eq!(world.agent.stats().dials, 1, "one session all the while");
}

#[test]
fn a_connector_keeps_two_sessions_and_a_client_one() {
    let mut connector = World::connector(3);
    connector.wait_registered(2);
    connector.run(SECOND * 30);
    let mut expected = connector.order()[..2].to_vec();
    expected.sort_unstable();
    assert_eq!(connector.registered(), expected);
    let mut client = World::client(3);
    client.wait_registered(1);
    client.run(SECOND * 30);
    assert_eq!(client.registered().len(), 1);
}

#[test]
fn a_device_renews_between_three_and_five_hours_and_writes_what_it_got() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(HOUR * 3 - SECOND * 10);
    assert!(world.controller.renewals.is_empty());
    world.run(HOUR * 2 + SECOND * 20);
    assert_eq!(world.controller.renewals, [false], "a grant, and no certificate before day 10");
    assert!(world.agent.grant().expect("held").iat > WALL);
    assert!(world.writes.contains(&Persisted::Grant));
    assert_eq!(count(&world.events, |event| matches!(event, AgentEvent::GrantChanged)), 1);
    world.run(DAY);
    let renewals = world.controller.renewals.len();
    assert!((5..=9).contains(&renewals), "{renewals} renewals in 29 hours");
}

#[test]
fn a_certificate_is_renewed_from_its_tenth_day_by_devices_and_connectors() {
    let mut connector = World::connector(1);
    connector.wait_registered(1);
    let first = connector.agent.certificate().not_after();
    connector.run(DAY * 9);
    assert!(connector.controller.renewals.is_empty());
    connector.run(DAY * 2);
    assert_eq!(connector.controller.renewals, [true]);
    assert!(connector.agent.certificate().not_after() > first);
    assert!(connector.writes.contains(&Persisted::Certificate));
    let mut device = World::client(1);
    device.run(DAY * 11);
    assert!(device.controller.renewals.contains(&true));
    assert!(device.agent.certificate().not_before() > WALL);
}

#[test]
fn renewal_goes_on_trying_while_no_controller_is_there_and_the_old_grant_holds() {
    let mut world = World::client(2);
    world.controller.is_away = true;
    world.run(HOUR * 8);
    assert_eq!(world.agent.grant().expect("held").iat, WALL);
    let requests = world.agent.stats().requests;
    // Three hours of asking for a grant, eight of asking for the time.
    assert!((10..400).contains(&requests), "{requests} requests in eight hours of trying");
    assert!(world.agent.stats().retries * 5 <= requests, "{:?}", world.agent.stats());
    world.controller.is_away = false;
    world.run(SECOND * 1200);
    assert!(world.agent.grant().expect("held").iat > WALL);
}

#[test]
fn a_beacon_with_a_newer_version_fetches_the_slice_once() {
    let mut world = World::connector(2);
    world.wait_registered(2);
    world.run(SECOND * 10);
    let asked = world.controller.slices;
    assert_eq!(asked, 1, "once at the start");
    world.controller.version = version(6);
    for _ in 0..4 {
        let beacon = document(&world.beacon_text());
        world.tell(0, BeaconPush { beacon: beacon.clone() });
        world.tell(1, BeaconPush { beacon });
        world.run(SECOND * 5);
    }
    assert_eq!(world.controller.slices, asked + 1);
    assert_eq!(world.agent.slice().expect("held").header.version, version(6));
    assert_eq!(count(&world.events, |event| matches!(event, AgentEvent::SliceChanged)), 1);
    world.restart_agent();
    assert_eq!(world.agent.slice().expect("stored").header.version, version(6));
}

#[test]
fn a_lower_slice_is_refused_and_the_one_held_stays() {
    let mut world = World::connector(1);
    world.controller.version = version(4);
    world.run(SECOND * 30);
    assert!(world.controller.slices >= 1);
    assert_eq!(world.agent.slice().expect("held").header.version, version(5));
    assert!(world.agent.stats().slices_refused >= 1);
    assert!(!world.writes.contains(&Persisted::Slice));
    assert_eq!(count(&world.events, |event| matches!(event, AgentEvent::SliceChanged)), 0);
}

#[test]
fn a_controller_that_lags_behind_the_beacon_is_asked_again_a_few_times_and_no_more() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    world.run(SECOND * 10);
    let asked = world.controller.slices;
    // The beacon is ahead of what this controller answers with.
    let answers = world.controller.version;
    world.controller.version = version(6);
    let beacon = document(&world.beacon_text());
    world.controller.version = answers;
    world.tell(0, BeaconPush { beacon });
    world.run(HOUR * 3);
    assert_eq!(world.controller.slices - asked, 4, "once, and three times more");
}

#[test]
fn failing_to_get_a_slice_backs_off_however_often_beacons_come() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    world.run(SECOND * 10);
    world.controller.version = version(6);
    world.controller.is_away = true;
    let requests = world.agent.stats().requests;
    for _ in 0..240 {
        let beacon = document(&world.beacon_text());
        world.tell(0, BeaconPush { beacon });
        world.run(SECOND * 5);
    }
    let tried = world.agent.stats().requests - requests;
    assert!((4..40).contains(&tried), "{tried} requests in 20 minutes");
    assert_eq!(world.agent.last_control_refusal(), Some(Refusal::NoController));
    world.controller.is_away = false;
    world.run(SECOND * 700);
    assert_eq!(world.agent.slice().expect("held").header.version, version(6));
    assert_eq!(world.agent.last_control_refusal(), None);
}

#[test]
fn a_stored_slice_or_grant_of_somebody_else_is_left_out() {
    let world = World::client(1);
    let other = world.installation.device(2);
    let mut stored = world.stored();
    stored.grant = Some(grant(&world.installation, other, &world.key, WALL));
    stored.slice =
        Some(support::client_slice(&world.installation, other, version(9), WALL, &world.entries()));
    let agent: agent::ClientAgent = Agent::new(stored, world.now, WALL, [1; 32]).expect("starts");
    assert!(agent.grant().is_none() && agent.slice().is_none());
    assert_eq!((agent.stats().grants_refused, agent.stats().slices_refused), (1, 1));
    let error = ConnectorAgent::new(world.stored(), world.now, WALL, [1; 32]).expect_err("a device's state");
    assert!(matches!(error, StartError::Role { .. }), "{error}");
}

#[test]
fn revocations_are_in_force_written_told_and_survive_a_restart() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    let device = DeviceId::from_bytes([1; 16]);
    let subject = RevokedSubject::of(Subject::Device(device));
    let entry = document(&world.strike_text(subject, 1));
    let forged = {
        let mut text =
            world.strike_text(RevokedSubject::Device(DeviceId::from_bytes([2; 16])), 2).into_bytes();
        let last = text.len() - 90;
        text[last] = if text[last] == b'A' { b'B' } else { b'A' };
        Bounded::new(text).expect("fits")
    };
    world.tell(0, Revocations { entries: vec![entry.clone(), forged] });
    world.run(SECOND);
    assert!(world.agent.revocations().is_struck(subject, 1));
    assert!(!world.agent.revocations().is_struck(subject, 2), "a later generation lives");
    assert_eq!((world.agent.revocations().len(), world.agent.stats().revocations_refused), (1, 1));
    assert_eq!(count(&world.events, |event| matches!(event, AgentEvent::RevocationsChanged)), 1);
    // The same again changes nothing.
    let writes = world.writes.len();
    world.tell(0, Revocations { entries: vec![entry] });
    world.run(SECOND);
    assert_eq!(world.writes.len(), writes);
    world.restart_agent();
    assert!(world.agent.revocations().is_struck(subject, 1));
}

#[test]
fn a_struck_pop_is_not_used() {
    let mut world = World::client(2);
    world.wait_registered(1);
    let first = world.order()[0];
    let struck = RevokedSubject::Pop(world.pops[first].id);
    let entry = document(&world.strike_text(struck, 1));
    world.tell(first, Revocations { entries: vec![entry] });
    world.run(SECOND);
    world.close_all(first, CloseCode::ShuttingDown);
    world.run(SECOND * 120);
    assert_eq!(world.registered(), [world.order()[1]]);
}

#[test]
fn the_loss_of_a_pop_moves_the_session_to_the_next_and_back_off_bounds_the_rest() {
    let mut world = World::client(2);
    world.wait_registered(1);
    world.run(SECOND * 60);
    let (first, second) = (world.order()[0], world.order()[1]);
    world.pops[first].is_alive = false;
    // Nothing tells: the next keepalive finds out.
    assert!(world.run_until(SECOND * 45, |world| world.registered() == [second]), "{:?}", world.events);
    let dials = world.agent.stats().dials;
    world.run(HOUR);
    let tried = world.agent.stats().dials - dials;
    assert!((30..400).contains(&tried), "{tried} dials of a dead PoP in an hour");
    world.restart_pop(first);
    assert!(world.run_until(SECOND * 130, |world| world.registered().contains(&first)));
}

#[test]
fn a_probe_finds_a_silent_pop_within_ten_seconds() {
    let mut world = World::client(2);
    world.wait_registered(1);
    world.run(SECOND * 40);
    let (first, second) = (world.order()[0], world.order()[1]);
    world.pops[first].is_alive = false;
    world.agent.probe(world.now);
    assert!(world.run_until(SECOND * 12, |world| world.registered() == [second]), "{:?}", world.events);
    let silent = LostReason::ClosedHere(CloseCode::Silent);
    assert_eq!(
        count(&world.events, |event| matches!(event, AgentEvent::Lost { reason, .. } if *reason == silent)),
        1
    );
}

#[test]
fn a_restarted_pop_gets_its_session_back() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    world.run(SECOND * 60);
    world.restart_pop(0);
    let reset = |world: &mut World<_>| {
        world.events.iter().any(|event| matches!(event, AgentEvent::Lost { reason: LostReason::Reset, .. }))
    };
    assert!(world.run_until(SECOND * 26, reset), "{:?}", world.events);
    world.wait_registered(1);
}

#[test]
fn all_pops_dead_is_tried_for_ever_at_a_bounded_rate() {
    let mut world = World::connector(3);
    for pop in &mut world.pops {
        pop.is_alive = false;
    }
    world.run(HOUR * 2);
    let dials = world.agent.stats().dials;
    assert!((200..1200).contains(&dials), "{dials} dials of three dead PoPs in two hours");
    for index in 0..3 {
        world.restart_pop(index);
    }
    world.wait_registered(2);
}

#[test]
fn a_pop_that_leaves_a_renewal_without_a_word_is_found_silent_long_before_its_next_keepalive() {
    let mut world = World::client(2);
    world.wait_registered(1);
    world.run(SECOND * 60);
    let first = world.order()[0];
    let keepalives = world.keepalives;
    // Just after a keepalive, so that the next one is 25 s away.
    assert!(world.run_until(SECOND * 30, |world| world.keepalives > keepalives));
    world.run(SECOND);
    world.pops[first].is_alive = false;
    world.agent.force_renew(world.now);
    let began = world.now;
    assert!(world.run_until(SECOND * 20, |world| !world.registered().is_empty()
        && !world.registered().contains(&first)));
    assert!(world.now - began <= SECOND * 15, "{:?}", world.now - began);
    assert!(world.run_until(SECOND * 15, |world| !world.controller.renewals.is_empty()), "by the other one");
}

#[test]
fn a_draining_pop_is_left_after_the_next_one_is_up() {
    let mut world = World::client(2);
    world.wait_registered(1);
    world.run(SECOND * 60);
    let (first, second) = (world.order()[0], world.order()[1]);
    world.tell(first, GoAway { within_ms: 20_000 });
    assert!(world.run_until(SECOND * 16, |world| world.registered() == [second]));
    assert_eq!(count(&world.events, |event| matches!(event, AgentEvent::Lost { .. })), 0, "both are up");
    let left =
        |world: &mut World<_>| count(&world.events, |event| matches!(event, AgentEvent::Lost { .. })) == 1;
    assert!(world.run_until(SECOND * 25, left), "{:?}", world.events);
}

#[test]
fn freshness_goes_from_fresh_to_isolated_and_back_and_each_step_is_told_once() {
    let mut world = World::connector(1);
    world.sends_beacons = false;
    world.wait_registered(1);
    let beacon = document(&world.beacon_text());
    world.tell(0, BeaconPush { beacon });
    // Before a controller has signed the time, nobody knows how old a beacon is.
    world.run(SECOND * 90);
    let beacon = document(&world.beacon_text());
    world.tell(0, BeaconPush { beacon });
    world.run(SECOND);
    let steps: Vec<Freshness> = world
        .events
        .iter()
        .filter_map(|event| match event {
            AgentEvent::FreshnessChanged(freshness) => Some(*freshness),
            _ => None,
        })
        .collect();
    use Freshness::{Fresh, Isolated, Stale};
    assert_eq!(steps, [Stale, Fresh, Stale, Isolated, Fresh]);
}

#[test]
fn a_client_with_a_working_control_plane_is_fresh_whenever_somebody_asks_and_wakes_for_nothing_else() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 5);
    world.events.clear();
    for pause in (0..200).map(|step| SECOND * (step * 7 % 61)) {
        world.run(pause);
        let asked = world.agent.ask_beacon(world.now);
        let is_old = world.agent.control_last_heard(world.now).is_some_and(|age| age > SECOND * 15);
        assert_eq!(asked == Asked::Yes, is_old, "after {pause:?}");
        assert!(world.run_until(SECOND, |world| !world.agent.awaits_pop(world.now)));
        assert_eq!(world.agent.freshness(world.now), Freshness::Fresh, "after {pause:?}");
    }
    assert_eq!(count(&world.events, |event| matches!(event, AgentEvent::FreshnessChanged(_))), 0);
}

#[test]
fn a_client_that_is_asked_says_stale_15_s_after_the_last_beacon_and_isolated_after_60() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 5);
    // Whatever the keepalives do, the newest beacon is the one that comes now.
    let beacon = document(&world.beacon_text());
    world.tell(0, BeaconPush { beacon });
    world.run(Duration::ZERO);
    world.sends_beacons = false;
    let last = world.now;
    for second in 1..90 {
        world.run(SECOND);
        let _ = world.agent.ask_beacon(world.now);
        world.run_until(SECOND / 2, |world| !world.agent.awaits_pop(world.now));
        let age = world.now - last;
        let expected = match age.as_millis() {
            0..15_000 => Freshness::Fresh,
            15_500..60_000 => Freshness::Stale,
            60_500.. => Freshness::Isolated,
            // The beacon was made a little before it came.
            _ => continue,
        };
        assert_eq!(world.agent.freshness(world.now), expected, "{second}: {age:?}");
    }
    // However often it is asked, a PoP is not: two dozen times a minute at most.
    assert!(world.keepalives <= 45, "{}", world.keepalives);
}

#[test]
fn a_client_without_a_session_has_nobody_to_ask() {
    let mut world = World::client(1);
    assert_eq!(world.agent.ask_beacon(world.now), Asked::No);
    assert!(!world.agent.awaits_pop(world.now));
    assert_eq!(world.agent.freshness(world.now), Freshness::Isolated);
    world.wait_registered(1);
}

#[test]
fn an_old_or_foreign_beacon_changes_nothing() {
    let mut world = World::connector(1);
    world.sends_beacons = false;
    world.wait_registered(1);
    let beacon = document(&world.beacon_text());
    world.tell(0, BeaconPush { beacon: beacon.clone() });
    world.run(SECOND * 20);
    world.tell(0, BeaconPush { beacon });
    world.tell(0, BeaconPush { beacon: document("v4.public.AAAA") });
    world.run(SECOND);
    assert_eq!(world.agent.freshness(world.now), Freshness::Stale);
    assert_eq!(world.agent.stats().beacons_refused, 1);
}

#[test]
fn a_machine_clock_a_day_off_stops_neither_sessions_nor_renewals() {
    for (ahead, behind) in [(DAY, Duration::ZERO), (Duration::ZERO, DAY)] {
        let mut world = World::client(1);
        world.machine_ahead = ahead;
        // Behind: the grants that come are dated a day ahead of the agent's clock.
        world.controller.grant_iat = (behind > Duration::ZERO).then(|| WALL.plus(behind));
        world.agent.set_wall(world.now, WALL.plus(ahead));
        world.wait_registered(1);
        world.run(HOUR * 12);
        let renewals = world.controller.renewals.len();
        assert!((1..=5).contains(&renewals), "{renewals} renewals in 12 hours, clock {ahead:?} ahead");
        assert!(world.agent.grant().expect("held").iat > WALL);
        assert_eq!(world.agent.stats().grants_refused, 0);
    }
}

#[test]
fn a_newer_chain_is_taken_and_written_an_older_or_foreign_one_refused() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    let newer = world.installation.chain_with_serial(3);
    world.tell(0, BundlePush { chain: document(&newer.to_text()) });
    world.run(SECOND);
    assert_eq!(world.agent.bundle().serial(), 3);
    assert_eq!(world.persisted.get(&Persisted::Chain), Some(&newer.to_text().into_bytes()));
    let foreign = support::pki::Installation::new(2).chain_with_serial(9);
    for chain in [world.installation.chain_with_serial(2), foreign] {
        world.tell(0, BundlePush { chain: document(&chain.to_text()) });
    }
    world.run(SECOND);
    assert_eq!((world.agent.bundle().serial(), world.agent.stats().chains_refused), (3, 2));
    world.restart_agent();
    assert_eq!(world.agent.bundle().serial(), 3);
}

fn open(world: &mut World<policy::ClientSlice>) -> u64 {
    let connector = ConnectorId::from_bytes([1; 16]);
    world.agent.open(world.now, SITE, connector, vec![1; 500], vec![2; 148]).expect("asked")
}

fn opened(world: &World<policy::ClientSlice>) -> usize {
    count(&world.events, |event| matches!(event, AgentEvent::Opened { .. }))
}

#[test]
fn an_introduction_takes_one_round_trip_over_a_standing_session() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 5);
    open(&mut world);
    assert!(world.run_until(Duration::from_millis(20), |world| opened(world) == 1), "{:?}", world.events);
    let Some(AgentEvent::Opened { relay, .. }) = world.events.last() else { panic!("{:?}", world.events) };
    assert_eq!(*relay, world.pops[0].address);
}

#[test]
fn a_connector_that_is_not_there_is_asked_for_at_the_next_pop() {
    let mut world = World::client(3);
    world.wait_registered(1);
    let order = world.order();
    world.pops[order[0]].refuses_opens = Some(Refusal::NotAttached);
    open(&mut world);
    assert!(world.run_until(SECOND * 3, |world| opened(world) == 1), "{:?}", world.events);
    assert!(world.registered().contains(&order[1]), "opened on demand");
    // The connector's own no is not asked around.
    world.pops[order[0]].refuses_opens = Some(Refusal::Struck);
    open(&mut world);
    let refused = |world: &mut World<_>| {
        world
            .events
            .iter()
            .any(|event| matches!(event, AgentEvent::OpenRefused { reason: Refusal::Struck, .. }))
    };
    assert!(world.run_until(SECOND, refused));
}

#[test]
fn a_session_that_nothing_goes_through_is_given_back_and_its_pop_is_no_worse_for_it() {
    let mut world = World::client(3);
    world.wait_registered(1);
    let order = world.order();
    world.pops[order[0]].refuses_opens = Some(Refusal::NotAttached);
    open(&mut world);
    assert!(world.run_until(SECOND * 3, |world| opened(world) == 1), "{:?}", world.events);
    assert_eq!(world.registered().len(), 2);
    let session = |world: &World<policy::ClientSlice>, at: usize| {
        let of_it = |status: &agent::PopStatus| status.pop == world.pops[at].id;
        world.agent.pops().find(of_it).and_then(|status| status.session).expect("registered")
    };
    let (first, second) = (session(&world, order[0]), session(&world, order[1]));
    // Too new to be spare; then in use; then neither.
    world.agent.close_unused(world.now, &BTreeSet::new());
    world.run(SECOND * 360);
    world.agent.close_unused(world.now, &BTreeSet::from([second]));
    world.run(SECOND);
    assert_eq!(world.registered().len(), 2);
    world.agent.close_unused(world.now, &BTreeSet::new());
    world.run(SECOND);
    assert_eq!((world.registered(), session(&world, order[0])), (vec![order[0]], first));
    assert!(world.agent.pops().all(|status| status.failures == 0));
    // And it is there again at once when it is wanted.
    open(&mut world);
    assert!(world.run_until(SECOND, |world| opened(world) == 2), "{:?}", world.events);
}

#[test]
fn an_introduction_into_a_black_hole_goes_to_the_next_pop_or_ends_in_ten_seconds() {
    let mut world = World::client(2);
    world.wait_registered(1);
    world.run(SECOND * 40);
    let order = world.order();
    world.pops[order[0]].is_alive = false;
    open(&mut world);
    assert!(world.run_until(SECOND * 5, |world| opened(world) == 1), "{:?}", world.events);
    world.pops[order[1]].is_alive = false;
    let seq = open(&mut world);
    let timed_out = |world: &mut World<_>| {
        world
            .events
            .iter()
            .any(|event| matches!(event, AgentEvent::OpenRefused { seq: got, .. } if *got == seq))
    };
    assert!(world.run_until(SECOND * 11, timed_out), "{:?}", world.events);
}

#[test]
fn a_connector_hears_of_a_client_and_its_answer_goes_back_on_the_same_session() {
    let mut world = World::connector(1);
    world.wait_registered(1);
    world.tell(
        0,
        Introduce {
            intro: 5,
            channel: ChannelId::from_random(9),
            secret: ChannelSecret::from_random([3; 32]),
            sealed: Bounded::new(vec![1; 40]).expect("fits"),
            initiation: Bounded::new(vec![2; 148]).expect("fits"),
            client_seen: None,
        },
    );
    world.run(SECOND);
    let Some(AgentEvent::Introduce { session, introduce, relay }) =
        world.events.iter().find(|event| matches!(event, AgentEvent::Introduce { .. }))
    else {
        panic!("{:?}", world.events)
    };
    assert_eq!((introduce.intro, *relay), (5, world.pops[0].address));
    let session = *session;
    let accept = Accept {
        intro: 5,
        response: Bounded::new(vec![0; 92]).expect("fits"),
        inner_v4: [100, 64, 0, 1].into(),
        inner_v6: [0; 16].into(),
    };
    world.agent.accept(world.now, session, accept.clone());
    world.run(SECOND);
    assert!(world.pops[0].heard.iter().any(|(_, message)| *message == FromAgent::Accept(accept.clone())));
}

#[test]
fn a_clients_introduce_is_a_fault_and_ends_the_session() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.tell(
        0,
        Introduce {
            intro: 5,
            channel: ChannelId::from_random(9),
            secret: ChannelSecret::from_random([3; 32]),
            sealed: Bounded::default(),
            initiation: Bounded::default(),
            client_seen: None,
        },
    );
    world.run(SECOND);
    assert_eq!(world.agent.last_lost(), Some(LostReason::ClosedHere(CloseCode::Malformed)));
    assert_eq!(world.agent.stats().malformed_messages, 1);
}

#[test]
fn an_owners_request_is_answered_or_fails_and_noise_of_a_pop_ends_none() {
    let mut world = World::client(2);
    world.wait_registered(1);
    let why = || ControlRequest::from(Why { resource: Bounded::new(b"db".to_vec()).expect("fits") });
    let seq = world.agent.request(world.now, why()).expect("asked");
    // A PoP that guesses numbers and answers first.
    for guess in 0..20 {
        world.tell(
            world.registered()[0],
            FromController { seq: guess, sealed: Bounded::new(vec![0; 99]).expect("fits") },
        );
    }
    let answered = |world: &mut World<_>| {
        world
            .events
            .iter()
            .any(|event| matches!(event, AgentEvent::ControlReply { seq: got, .. } if *got == seq))
    };
    assert!(world.run_until(SECOND, answered), "{:?}", world.events);
    assert!(world.agent.stats().replies_refused > 0);
    world.controller.is_away = true;
    let seq = world.agent.request(world.now, why()).expect("asked");
    let failed = |world: &mut World<_>| {
        world.events.iter().any(|event| {
            matches!(event, AgentEvent::RequestFailed { seq: got, reason: Refusal::NoController, .. } if *got == seq)
        })
    };
    assert!(world.run_until(SECOND * 16, failed), "{:?}", world.events);
}

#[test]
fn a_pop_that_refuses_every_request_for_itself_ends_none_at_another_one_and_is_not_asked_first_again() {
    let mut world = World::<policy::ConnectorSlice>::connector(2);
    world.wait_registered(2);
    world.run(SECOND * 5);
    let why = || ControlRequest::from(Why { resource: Bounded::new(b"db".to_vec()).expect("fits") });
    let answered = |world: &World<_>, of: agent::RequestSeq| {
        let is_it = |event: &AgentEvent| matches!(event, AgentEvent::ControlReply { seq, .. } if *seq == of);
        world.events.iter().any(is_it)
    };
    let asked = |world: &World<_>, pop: usize| {
        let heard = world.pops[pop].heard.iter();
        heard.filter(|(_, message)| matches!(message, FromAgent::ToController(_))).count()
    };
    let before = [asked(&world, 0), asked(&world, 1)];
    let seq = world.agent.request(world.now, why()).expect("asked");
    assert!(world.run_until(SECOND * 5, |world| answered(world, seq)));
    let first = usize::from(asked(&world, 0) == before[0]);
    let other = 1 - first;
    // The one that did not take it says of every number that too much was asked, and says it first.
    let seq = world.agent.request(world.now, why()).expect("asked");
    for seq in 0..100 {
        let gone = wire::ControllerUnavailable { seq, reason: Refusal::Budget, retry_after_ms: u32::MAX };
        world.tell(other, gone);
    }
    assert!(world.run_until(SECOND * 5, |world| answered(world, seq)), "{:?}", world.events);
    assert!(world.agent.stats().replies_refused >= 90);
    // The one that is asked first refuses everything from now on.
    world.pops[first].says_budget = true;
    let refused = world.agent.request(world.now, why()).expect("asked");
    let over = |world: &World<_>| {
        world.events.iter().any(
            |event| matches!(event, AgentEvent::RequestFailed { seq, reason: Refusal::Budget, .. } if *seq == refused),
        )
    };
    assert!(world.run_until(SECOND * 5, |world| over(world)));
    for _ in 0..3 {
        let seq = world.agent.request(world.now, why()).expect("asked");
        assert!(world.run_until(SECOND * 5, |world| answered(world, seq)), "the other one is asked first");
    }
}

#[test]
fn force_renew_asks_now() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.agent.force_renew(world.now);
    world.run(SECOND);
    assert_eq!(world.controller.renewals.len(), 1);
}

#[test]
fn a_grant_that_shows_less_than_the_slice_gives_is_renewed_soon_and_once_a_minute_at_most() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.agent.want_grant(world.now);
    world.run(SECOND * 3);
    assert_eq!(world.controller.renewals.len(), 1);
    for _ in 0..10 {
        world.agent.want_grant(world.now);
        world.run(SECOND);
    }
    assert_eq!(world.controller.renewals.len(), 1);
    world.run(SECOND * 60);
    assert_eq!(world.controller.renewals.len(), 2, "asked again when the minute is over, and not ten times");
}

#[test]
fn an_idle_client_sends_about_one_message_a_keepalive_and_asks_the_controller_nothing() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 10);
    let (asked, heard) = (world.agent.stats().requests, world.pops[0].heard.len());
    world.run(SECOND * 600);
    assert_eq!(world.agent.stats().requests, asked);
    let sent = world.pops[0].heard.len() - heard;
    assert!((23..=25).contains(&sent), "{sent} messages in ten minutes");
}

#[test]
fn names_are_looked_up_and_a_failed_look_up_keeps_the_last_address() {
    let mut world = World::client(1);
    let named = |world: &World<policy::ClientSlice>| {
        let mut entries = world.entries();
        entries[0].address = "pop.example:443".into();
        support::client_slice(&world.installation, world.agent.identity(), version(6), WALL, &entries)
    };
    let mut stored = world.stored();
    stored.slice = Some(named(&world));
    world.agent = Agent::new(stored, world.now, WALL, [1; 32]).expect("starts");
    // The controller's slice would bring the address back.
    world.controller.is_away = true;
    world.wait_registered(1);
    assert_eq!(world.lookups, ["pop.example:443"]);
    world.resolves = false;
    world.close_all(0, CloseCode::ShuttingDown);
    world.run(SECOND);
    world.wait_registered(1);
    assert!(world.lookups.len() >= 2);
}

#[test]
fn time_is_written_every_ten_minutes_and_at_the_end_and_never_goes_back() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 700);
    assert!(world.writes.contains(&Persisted::TimeFloor));
    world.agent.shutdown(world.now);
    world.run(SECOND);
    assert_eq!(world.pops[0].sessions.len(), 0, "the PoP was told");
    let floor = world.stored().time_floor.expect("written");
    assert!(floor > WALL.plus(SECOND * 600));
    let mut stored = world.stored();
    stored.time_floor = Some(floor);
    let agent: agent::ClientAgent = Agent::new(stored, world.now, WALL.minus(DAY), [1; 32]).expect("starts");
    assert_eq!(agent.wall(world.now), floor);
}

/// When an agent that starts from this first asks for anything, after its start.
fn first_attempt(
    world: &World<policy::ClientSlice>,
    reconnect_window: Duration,
    seed: u8,
    is_told_of_its_network: bool,
) -> Duration {
    let mut stored = world.stored();
    stored.reconnect_window = reconnect_window;
    let mut now = world.now;
    let mut agent: agent::ClientAgent = Agent::new(stored, now, WALL, [seed; 32]).expect("starts");
    if is_told_of_its_network {
        agent.network_changed(now);
    }
    loop {
        match agent.poll_output(now) {
            agent::Output::Transmit { .. } | agent::Output::Resolve { .. } => return now - world.now,
            agent::Output::Timeout { at, .. } => {
                assert!(at - world.now < SECOND * 60, "it never asks");
                now = at;
                agent.handle_timeout(now);
            }
            _ => {}
        }
    }
}

#[test]
fn who_starts_again_spreads_its_first_attempt_as_it_was_told_and_over_two_seconds_at_most() {
    let mut world = World::client(2);
    world.wait_registered(1);
    assert_eq!(world.stored().reconnect_window, SECOND, "as the PoP says");
    assert_eq!(first_attempt(&world, Duration::ZERO, 1, false), Duration::ZERO, "nobody has said");
    for (told, most) in [(SECOND, SECOND), (HOUR, SECOND * 2)] {
        for is_told_of_its_network in [false, true] {
            let waits: Vec<Duration> =
                (0..=199).map(|seed| first_attempt(&world, told, seed, is_told_of_its_network)).collect();
            assert!(waits.iter().all(|wait| *wait <= most), "{told:?}: {:?}", waits.iter().max());
            // Full jitter: a fifth in each fifth of it, give or take.
            for fifth in 0..5_u32 {
                let range = most * fifth / 5..most * (fifth + 1) / 5;
                let here = waits.iter().filter(|wait| range.contains(*wait)).count();
                assert!((15..=70).contains(&here), "{told:?}: {here} of 200 in {range:?}");
            }
        }
    }
}

#[test]
fn an_attempt_whose_time_came_before_anybody_asked_for_a_timeout_is_made() {
    let mut world = World::client(2);
    world.wait_registered(1);
    let mut stored = world.stored();
    stored.reconnect_window = Duration::from_millis(1);
    let mut agent: agent::ClientAgent = Agent::new(stored, world.now, WALL, [1; 32]).expect("starts");
    // The shell opens its sockets before it asks.
    let mut now = world.now + SECOND / 10;
    loop {
        match agent.poll_output(now) {
            agent::Output::Transmit { .. } | agent::Output::Resolve { .. } => return,
            agent::Output::Timeout { at, .. } => {
                assert!(at <= world.now + SECOND, "it sleeps over its own attempt");
                now = now.max(at);
                agent.handle_timeout(now);
            }
            _ => {}
        }
    }
}

#[test]
fn a_window_that_grew_since_the_welcome_counts_and_an_older_pop_says_none() {
    let mut world = World::client(2);
    world.wait_registered(1);
    world.run(SECOND * 60);
    assert_eq!(world.stored().reconnect_window, SECOND, "the welcome's");
    world.says_window = [(0, 40_000), (1, 40_000)].into();
    world.run(SECOND * 660);
    assert_eq!(world.stored().reconnect_window, SECOND * 40);
    // Everybody loses it in this moment: this one waits for its part of the window.
    let lost = world.now;
    world.close_all(0, CloseCode::ShuttingDown);
    world.close_all(1, CloseCode::ShuttingDown);
    while !world.registered().is_empty() {
        world.run(Duration::from_millis(1));
        assert!(world.now < lost + SECOND, "it hears of it");
    }
    while world.registered().is_empty() {
        world.run(SECOND / 10);
        assert!(world.now < lost + SECOND * 60, "it is back within the window and a handshake");
    }
    assert!(world.now > lost + SECOND, "after {:?}", world.now - lost);
}

#[test]
fn pops_that_say_different_windows_are_one_write_and_the_longest_of_them() {
    let mut world = World::connector(2);
    assert!(world.run_until(SECOND * 20, |world| world.registered().len() == 2));
    world.says_window = [(0, 100), (1, 40_000)].into();
    world.run(SECOND * 660);
    assert_eq!(world.stored().reconnect_window, SECOND * 40);
    let written =
        |world: &World<_>| world.writes.iter().filter(|what| **what == Persisted::ReconnectWindow).count();
    let so_far = written(&world);
    assert!(so_far <= 2, "{so_far}");
    // One that says another with each sign of life.
    for turn in 0..600 {
        world.says_window.insert(1, if turn % 2 == 0 { 100 } else { 300_000 });
        world.run(SECOND * 2);
    }
    assert!(written(&world) <= so_far + 2, "one in ten minutes at most: {}", written(&world));
}

#[test]
fn what_a_silent_pop_took_is_not_sent_to_it_again_before_it_gives_a_sign_of_life() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 60);
    (world.udp_passes, world.tcp_passes) = (false, false);
    let before = world.agent.stats();
    let why = Why { resource: Bounded::new(b"db".to_vec()).expect("fits") };
    let seq = world.agent.request(world.now, why.into()).expect("asked");
    world.run(SECOND * 7);
    let stats = world.agent.stats();
    assert_eq!((stats.requests - before.requests, stats.retries - before.retries), (1, 0));
    // It lives: the answer was lost, and is asked for again.
    (world.udp_passes, world.tcp_passes) = (true, true);
    let answered =
        |event: &AgentEvent| matches!(event, AgentEvent::ControlReply { seq: of, .. } if *of == seq);
    assert!(world.run_until(SECOND * 10, |world| world.events.iter().any(answered)), "{:?}", world.events);
    assert!(world.agent.stats().retries - before.retries <= 1);
}

#[test]
fn what_was_asked_through_a_pop_that_died_is_sent_once_more_and_not_to_the_dead() {
    let mut world = World::client(1);
    world.wait_registered(1);
    world.run(SECOND * 60);
    (world.udp_passes, world.tcp_passes) = (false, false);
    let before = world.agent.stats();
    let why = Why { resource: Bounded::new(b"db".to_vec()).expect("fits") };
    let seq = world.agent.request(world.now, why.into()).expect("asked");
    assert!(world.run_until(SECOND * 20, |world| {
        world.events.iter().any(|event| matches!(event, AgentEvent::Lost { .. }))
    }));
    assert_eq!(world.agent.stats().retries - before.retries, 1, "when the session was found dead");
    (world.udp_passes, world.tcp_passes) = (true, true);
    let answered =
        |event: &AgentEvent| matches!(event, AgentEvent::ControlReply { seq: of, .. } if *of == seq);
    assert!(world.run_until(SECOND * 20, |world| world.events.iter().any(answered)), "{:?}", world.events);
    assert_eq!(world.agent.stats().retries - before.retries, 1);
}

#[test]
fn who_is_told_when_to_come_back_comes_then_and_nobody_is_kept_away_for_longer_than_five_minutes() {
    for (told, at_least, at_most) in
        [(SECOND * 40, SECOND * 40, SECOND * 45), (DAY, SECOND * 300, SECOND * 310)]
    {
        let mut world = World::client(1);
        world.wait_registered(1);
        let before = world.agent.stats().registrations;
        let began = world.now;
        world.close_all_for(0, CloseCode::Full, told);
        assert!(world.run_until(SECOND * 400, |world| world.agent.stats().registrations > before));
        let took = world.now - began;
        assert!((at_least..at_most).contains(&took), "{told:?}: {took:?}");
    }
}

#[test]
fn who_is_turned_away_before_it_is_registered_tries_no_other_address_and_waits_as_long_as_it_was_told() {
    let mut world = World::client(1);
    world.pops[0].turns_away = Some(SECOND * 40);
    let began = world.now;
    assert!(world.run_until(SECOND * 10, |world| {
        world.pops[0].heard.iter().any(|(_, message)| matches!(message, FromAgent::Hello(_)))
    }));
    let hellos = |world: &World<_>| {
        let heard = world.pops[0].heard.iter();
        heard.filter(|(_, message)| matches!(message, FromAgent::Hello(_))).count()
    };
    world.run(SECOND * 30);
    assert_eq!(hellos(&world), 1, "by UDP or TCP, once");
    world.pops[0].turns_away = None;
    world.wait_registered(1);
    assert!((SECOND * 40..SECOND * 50).contains(&(world.now - began)), "{:?}", world.now - began);
}

#[test]
fn the_window_is_written_once_until_it_changes_much() {
    let mut world = World::client(2);
    world.wait_registered(1);
    world.close_all(0, CloseCode::ShuttingDown);
    world.run(SECOND * 30);
    world.wait_registered(1);
    let written = world.writes.iter().filter(|what| **what == Persisted::ReconnectWindow).count();
    assert_eq!(written, 1, "two PoPs that say the same are one write");
}
