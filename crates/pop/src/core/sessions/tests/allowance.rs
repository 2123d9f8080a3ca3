//! What a PoP allows: by its slice, by a session's budget, and while it leaves.

use super::*;
use policy::{OrganizationShare, PopSlice};
use trust::Audience;
use wire::PublishSlice;

fn body(world: &World) -> PopSlice {
    PopSlice {
        root: world.installation.root_hash(),
        max_sessions: 50_000,
        admit_rate: 1_000,
        pops: 2,
        organization: None,
    }
}

fn publish(world: &mut World, signer: usize, text: &str) {
    world.say_signer(signer, &PublishSlice { slice: document(text) }.into());
}

/// Publishes this body as version 1.
fn with_slice(body: impl FnOnce(PopSlice) -> PopSlice) -> World {
    let mut world = World::new();
    let signer = world.signer();
    let body = body(self::body(&world));
    let text = world.installation.pop_slice(1, Audience::Pop(pop_id()), KeyRole::Slice, body);
    publish(&mut world, signer, &text);
    assert_eq!(world.sessions.status().slice, Some((1, 1)));
    world
}

#[test]
fn a_slice_lowers_what_a_pop_allows_and_raises_nothing() {
    let world = with_slice(|body| PopSlice { max_sessions: 5, admit_rate: 100, ..body });
    let allowed = world.sessions.allowed;
    assert_eq!((allowed.sessions, allowed.admit_per_second), (5, 100));
    assert_eq!(limits::reconnect_window(1_000, allowed.admit_per_second), Duration::from_secs(10));
    let world = with_slice(|body| PopSlice { max_sessions: u32::MAX, admit_rate: u32::MAX, ..body });
    let (caps, allowed) = (AcceptorLimits::default(), world.sessions.allowed);
    assert_eq!((allowed.sessions, allowed.admit_per_second), (caps.sessions, limits::ADMIT_PER_SECOND));
    assert_eq!(allowed.introductions, limits::ORGANIZATION_INTRODUCTIONS);
}

#[test]
fn a_pop_takes_as_many_sessions_as_its_slice_says() {
    // The controller that brought it has one of them.
    let mut world = with_slice(|body| PopSlice { max_sessions: 3, ..body });
    world.agent(device(1, 10), CLIENT);
    world.agent(device(1, 11), "198.51.100.7:4000");
    let third = world.dial(device(1, 12), "198.51.100.8:4000");
    assert_eq!(world.closed_with(third), Some(LostReason::Busy));
}

#[test]
fn one_organization_has_its_share_of_sessions_and_another_has_its_own() {
    let share = OrganizationShare { max_sessions: 2, introductions: 1 };
    let mut world = with_slice(|body| PopSlice { organization: Some(share), ..body });
    world.agent(connector(1, 20), CONNECTOR);
    world.agent(device(1, 10), CLIENT);
    let third = world.dial(device(1, 11), "198.51.100.7:4000");
    world.say(third, &FromAgent::from(hello()));
    assert_eq!(world.closed_with(third), Some(LostReason::ClosedByPeer(CloseCode::Full)));
    // Who is here already comes again, and another organization comes at all.
    let again = world.agent(device(1, 10), "198.51.100.1:4001");
    world.agent(device(2, 12), "198.51.100.9:4000");
    // When one has gone there is room for the next.
    let (now, id) = (world.now, world.ends[again].id);
    world.ends[again].dialler.close(now, id, CloseCode::Done);
    world.settle();
    world.agent(device(1, 11), "198.51.100.7:4001");
}

#[test]
fn one_organizations_introductions_are_as_many_as_the_slice_says() {
    let share = OrganizationShare { max_sessions: 100, introductions: 1 };
    let mut world = with_slice(|body| PopSlice { organization: Some(share), ..body });
    world.agent(connector(1, 20), CONNECTOR);
    let client = world.agent(device(1, 10), CLIENT);
    // One a second, and ten seconds' worth at once, as the cap has it.
    for _ in 0..10 {
        world.open(client, connector_id(20));
    }
    assert_eq!(world.open_refused(client), None);
    world.open(client, connector_id(20));
    assert_eq!(world.open_refused(client), Some(Refusal::Budget));
}

#[test]
fn a_slice_of_another_pop_another_key_another_root_or_an_older_one_changes_nothing() {
    let mut world = with_slice(|body| PopSlice { max_sessions: 7, ..body });
    let allowed = world.sessions.allowed;
    let signer = world.signer();
    let good = body(&world);
    let (own, other) = (Audience::Pop(pop_id()), Audience::Pop(wire::PopId::from_bytes([1; 16])));
    let stranger = RootHash::of(&SigningKey::from_seed(&[99; 32]).verifying_key());
    let cases = [
        ("slice_of_another", world.installation.pop_slice(2, other, KeyRole::Slice, good.clone())),
        ("wrong_role", world.installation.pop_slice(2, own, KeyRole::Grant, good.clone())),
        (
            "slice_of_another_root",
            world.installation.pop_slice(2, own, KeyRole::Slice, PopSlice { root: stranger, ..good.clone() }),
        ),
        ("older_slice", world.installation.pop_slice(0, own, KeyRole::Slice, good)),
    ];
    for (why, text) in cases {
        let before: u64 = world.sessions.status().counters.refused.get(why);
        publish(&mut world, signer, &text);
        assert_eq!(world.sessions.allowed, allowed, "{why}");
        let counted = &world.sessions.status().counters.refused;
        if why != "wrong_role" {
            assert_eq!(counted.get(why), before + 1, "{why}: {counted:?}");
        }
    }
}

#[test]
fn a_slice_goes_on_after_a_restart_and_does_not_go_back() {
    let mut world = with_slice(|body| PopSlice { max_sessions: 7, pops: 1, ..body });
    let written: Vec<String> = world
        .writes
        .iter()
        .filter_map(|(_, record)| match record {
            Record::Slice(text) => Some(text.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(written.len(), 1);
    let seed = Seed::from_random([43; 32]);
    // Nine days later, when the slice itself has ended: what limits goes on limiting.
    let wall = world.installation.wall.plus(Duration::from_secs(9 * 86_400));
    let limits = AcceptorLimits::default();
    world.sessions =
        Sessions::new(world.installation.pop(), limits, 1024, world.now, wall, &seed).expect("material");
    world.sessions.restore_slice(&written[0]);
    assert_eq!((world.sessions.allowed.sessions, world.sessions.allowed.pops), (7, 1));
    world.sessions.restore_slice("v4.public.AAAA");
    assert_eq!(world.sessions.allowed.sessions, 7);
}

#[test]
fn a_session_that_says_far_more_than_it_may_is_slowed_and_then_closed_with_a_code_and_others_are_not() {
    let mut world = World::new();
    let quiet = world.agent(device(1, 11), "198.51.100.7:4000");
    let busy = world.agent(device(1, 10), CLIENT);
    // Half as much again as it may: for a minute it is told to wait, and stays.
    for _ in 0..600 {
        for _ in 0..3 {
            world.open(busy, connector_id(20));
        }
        world.pass(Duration::from_millis(100));
        assert_eq!(world.closed_with(busy), None);
    }
    assert_eq!(world.open_refused(busy), Some(Refusal::Budget));
    // Ten times as much: closed.
    for _ in 0..600 {
        for _ in 0..20 {
            world.open(busy, connector_id(20));
        }
        world.pass(Duration::from_millis(100));
        if world.closed_with(busy).is_some() {
            break;
        }
    }
    assert_eq!(world.closed_with(busy), Some(LostReason::ClosedByPeer(CloseCode::Flooding)));
    assert_eq!(world.closed_with(quiet), None);
}

#[test]
fn messages_of_a_later_version_are_not_free() {
    let mut world = World::new();
    let busy = world.agent(device(1, 10), CLIENT);
    for _ in 0..2_000 {
        world.say_raw(busy, 300, &[0; 100]);
    }
    assert_eq!(world.closed_with(busy), Some(LostReason::ClosedByPeer(CloseCode::Flooding)));
}

fn asked_to_leave(world: &World) -> Vec<usize> {
    let asked = |end: &End| end.agent_inbox.iter().any(|message| matches!(message, ToAgent::GoAway(_)));
    (0..world.ends.len()).filter(|end| asked(&world.ends[*end])).collect()
}

#[test]
fn a_pop_that_leaves_asks_connectors_first_and_everybody_in_its_turn() {
    let mut world = with_slice(|body| PopSlice { admit_rate: 20, ..body });
    let devices: Vec<usize> =
        (0..6).map(|n| world.agent(device(1, 10 + n), &format!("198.51.100.{}:4000", 10 + n))).collect();
    let connector = world.agent(connector(1, 20), CONNECTOR);
    let began = world.now;
    world.sessions.drain(began, Duration::from_secs(20));
    world.settle();
    // Twenty a second are two each tenth of one.
    let first = asked_to_leave(&world);
    assert!(first.len() == 2 && first.contains(&connector), "{first:?}");
    world.pass(Duration::from_millis(100));
    assert_eq!(asked_to_leave(&world).len(), 4);
    world.pass(Duration::from_millis(300));
    assert_eq!(asked_to_leave(&world).len(), 7);
    assert!(!world.sessions.is_drained(world.now), "they are still here");
    // Who comes meanwhile is asked too.
    let late = world.agent(device(1, 30), "198.51.100.40:4000");
    world.pass(Duration::from_millis(200));
    assert!(asked_to_leave(&world).contains(&late));
    let once = |world: &World, end: usize| {
        world.ends[end].agent_inbox.iter().filter(|message| matches!(message, ToAgent::GoAway(_))).count()
    };
    assert_eq!(once(&world, devices[0]), 1, "nobody is asked twice");
    // When the last has gone, it is over; the controller is nobody to wait for.
    for end in devices.into_iter().chain([connector, late]) {
        let (now, id) = (world.now, world.ends[end].id);
        world.ends[end].dialler.close(now, id, CloseCode::Done);
    }
    world.settle();
    assert!(world.sessions.is_drained(world.now));
    assert!(world.now < began + Duration::from_secs(2));
}

#[test]
fn a_leave_ends_at_its_deadline_whoever_stays() {
    let mut world = with_slice(|body| body);
    world.agent(device(1, 10), CLIENT);
    let began = world.now;
    world.sessions.drain(began, Duration::from_secs(5));
    world.pass(Duration::from_millis(4_900));
    assert!(!world.sessions.is_drained(world.now));
    world.pass(Duration::from_millis(200));
    assert!(world.sessions.is_drained(world.now));
}

#[test]
fn the_only_pop_of_an_installation_waits_for_nobody() {
    let mut world = with_slice(|body| PopSlice { pops: 1, ..body });
    world.agent(device(1, 10), CLIENT);
    world.sessions.drain(world.now, Duration::from_secs(20));
    assert!(world.sessions.is_drained(world.now));
}
