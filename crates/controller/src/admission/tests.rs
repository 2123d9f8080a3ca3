//! Who is served, who waits, and who is sent away.

use super::{
    Admission, Class, Party,
    lanes::{Asked, Lane, Room, Ticket},
};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use wire::OrganizationId;

const MS: Duration = Duration::from_millis(1);
const ROOM: Room = Room { places: 2, waiting: 4, patience: Duration::from_secs(1) };

fn party(byte: u8) -> Party {
    Party::Organization(OrganizationId::from_bytes([byte; 16]))
}

#[expect(clippy::disallowed_methods, reason = "where time begins does not matter here")]
fn start() -> Instant {
    Instant::now()
}

fn waits(asked: Asked) -> Ticket {
    match asked {
        Asked::Wait { ticket, out: None } => ticket,
        other => panic!("expected to wait, {other:?}"),
    }
}

#[test]
fn who_finds_a_place_is_served_and_the_rest_wait_in_their_order() {
    let (mut lane, now) = (Lane::new(ROOM), start());
    assert_eq!((lane.asks(party(1), now), lane.asks(party(1), now)), (Asked::Go, Asked::Go));
    let (first, second) = (waits(lane.asks(party(1), now)), waits(lane.asks(party(1), now)));
    assert_eq!(lane.load(), (2, 2));
    assert_eq!(lane.finished(party(1), MS, now + MS), Some(first));
    assert_eq!(lane.finished(party(1), MS, now + MS), Some(second));
    assert_eq!(lane.finished(party(1), MS, now + MS), None);
    assert_eq!(lane.load(), (1, 0));
}

#[test]
fn a_full_queue_sends_the_next_away_and_says_when_there_would_be_room() {
    let (mut lane, now) = (Lane::new(Room { patience: Duration::from_secs(100), ..ROOM }), start());
    for _ in 0..2 {
        assert_eq!(lane.asks(party(1), now), Asked::Go);
    }
    // What a request takes is learned from those that were served.
    for _ in 0..200 {
        assert_eq!(lane.finished(party(1), Duration::from_secs(4), now), None);
        assert_eq!(lane.asks(party(1), now), Asked::Go);
    }
    for _ in 0..4 {
        waits(lane.asks(party(1), now));
    }
    let Asked::Full(full) = lane.asks(party(1), now) else { panic!("there is no room") };
    // Five requests of four seconds by two places.
    assert!((9..=10).contains(&full.retry_after.as_secs()), "{full:?}");
    assert_eq!(lane.counts().sent_away, 1);
}

#[test]
fn who_would_wait_longer_than_is_promised_is_sent_away_at_once() {
    let (mut lane, now) = (Lane::new(ROOM), start());
    for _ in 0..2 {
        assert_eq!(lane.asks(party(1), now), Asked::Go);
    }
    for _ in 0..100 {
        lane.finished(party(1), Duration::from_secs(3), now);
        lane.asks(party(1), now);
    }
    assert!(matches!(lane.asks(party(1), now), Asked::Full(_)), "1.5 s and one is the most");
    assert_eq!(lane.load(), (2, 0));
}

#[test]
fn an_organization_that_fills_the_queue_leaves_the_others_their_turns() {
    let (mut lane, now) = (Lane::new(Room { places: 1, waiting: 100, ..ROOM }), start());
    assert_eq!(lane.asks(party(1), now), Asked::Go);
    let loud: Vec<_> = (0..50).map(|_| waits(lane.asks(party(1), now))).collect();
    let quiet: Vec<_> = (0..5).map(|_| waits(lane.asks(party(2), now))).collect();
    let mut served = Vec::new();
    let (mut at, mut of) = (now, party(1));
    while let Some(next) = lane.finished(of, MS, at) {
        of = if quiet.contains(&next) { party(2) } else { party(1) };
        served.push(next);
        at += MS;
    }
    assert_eq!(served.len(), loud.len() + quiet.len());
    let last = served.iter().position(|ticket| Some(ticket) == quiet.last()).unwrap();
    assert!(last <= 10, "its fifth was served as number {last}");
}

#[test]
fn turns_are_by_what_requests_take_and_not_by_how_many_there_are() {
    let (mut lane, now) =
        (Lane::new(Room { places: 1, waiting: 1000, patience: Duration::from_secs(100) }), start());
    assert_eq!(lane.asks(party(9), now), Asked::Go);
    let cost = BTreeMap::from([(party(1), 10 * MS), (party(2), MS)]);
    let mut whose = BTreeMap::new();
    for _ in 0..200 {
        for party in cost.keys() {
            whose.insert(waits(lane.asks(*party, now)), *party);
        }
    }
    let (mut had, mut of, mut took) = (BTreeMap::<Party, Duration>::new(), party(9), MS);
    for _ in 0..150 {
        let next = lane.finished(of, took, now).expect("they wait");
        (of, took) = (whose[&next], cost[&whose[&next]]);
        *had.entry(of).or_default() += took;
    }
    let (one, other) = (had[&party(1)], had[&party(2)]);
    assert!(one.abs_diff(other) <= 20 * MS, "{one:?} and {other:?}");
}

#[test]
fn a_newcomer_gets_into_a_full_queue_where_another_one_has_more_of_it() {
    let (mut lane, now) = (Lane::new(ROOM), start());
    for _ in 0..2 {
        assert_eq!(lane.asks(party(1), now), Asked::Go);
    }
    let loud: Vec<_> = (0..4).map(|_| waits(lane.asks(party(1), now))).collect();
    let Asked::Wait { out: Some((out, _)), .. } = lane.asks(party(2), now) else { panic!("it has none yet") };
    assert_eq!(out, loud[0], "the oldest of who has most");
    assert_eq!(lane.load(), (2, 4));
    // Three against one, and then two against two.
    let Asked::Wait { out: Some((out, _)), .. } = lane.asks(party(2), now) else { panic!("it has less") };
    assert_eq!(out, loud[1]);
    assert!(matches!(lane.asks(party(2), now), Asked::Full(_)), "it has as much now");
    assert!(matches!(lane.asks(party(1), now), Asked::Full(_)));
}

#[test]
fn while_requests_have_waited_long_the_newest_is_served_first() {
    let (mut lane, now) = (Lane::new(Room { places: 1, ..ROOM }), start());
    assert_eq!(lane.asks(party(1), now), Asked::Go);
    let old = waits(lane.asks(party(1), now));
    let new = waits(lane.asks(party(1), now + 150 * MS));
    assert_eq!(lane.finished(party(1), MS, now + 160 * MS), Some(new));
    assert_eq!(lane.finished(party(1), MS, now + 161 * MS), Some(old));
}

#[test]
fn nobody_who_was_away_has_saved_turns_up() {
    let (mut lane, now) = (Lane::new(Room { places: 1, waiting: 100, ..ROOM }), start());
    assert_eq!(lane.asks(party(1), now), Asked::Go);
    let first: Vec<_> = (0..40).map(|_| waits(lane.asks(party(1), now))).collect();
    for ticket in &first[..20] {
        assert_eq!(lane.finished(party(1), 10 * MS, now), Some(*ticket));
    }
    for _ in 0..20 {
        waits(lane.asks(party(2), now));
    }
    let mut of = party(1);
    let mut turns = BTreeMap::<Party, u32>::new();
    for _ in 0..10 {
        let next = lane.finished(of, 10 * MS, now).expect("they wait");
        of = if first.contains(&next) { party(1) } else { party(2) };
        *turns.entry(of).or_default() += 1;
    }
    assert!(turns[&party(1)] >= 4, "{turns:?}");
}

#[test]
fn whoever_gives_up_is_named_to_nobody() {
    let (mut lane, now) = (Lane::new(Room { places: 1, ..ROOM }), start());
    assert_eq!(lane.asks(party(1), now), Asked::Go);
    let gone = waits(lane.asks(party(1), now));
    let stays = waits(lane.asks(party(1), now));
    assert!(lane.given_up(party(1), gone).is_some());
    assert_eq!(lane.given_up(party(1), gone), None, "twice is once");
    assert!(!lane.gone(party(1), gone));
    let closed = waits(lane.asks(party(1), now));
    assert!(lane.gone(party(1), closed));
    assert_eq!((lane.counts().sent_away, lane.counts().gone), (1, 1));
    assert_eq!(lane.finished(party(1), MS, now), Some(stays));
    assert_eq!(lane.given_up(party(1), stays), None, "it was named");
    assert_eq!(lane.finished(party(1), MS, now), None);
    assert_eq!(lane.load(), (0, 0));
}

fn admission() -> Arc<Admission> {
    Arc::new(Admission::with(|_| Room { places: 1, waiting: 8, patience: 200 * MS }))
}

#[tokio::test]
async fn a_class_that_is_full_takes_no_place_of_another() {
    let admission = admission();
    let held = admission.enter(Class::Exports, party(1)).await.unwrap();
    let refused = admission.enter(Class::Exports, party(2)).await.unwrap_err();
    assert!(refused.retry_after >= Duration::from_secs(1));
    for class in Class::ALL.into_iter().filter(|class| *class != Class::Exports) {
        assert!(admission.enter(class, party(1)).await.is_ok(), "{class:?}");
    }
    drop(held);
    assert!(admission.enter(Class::Exports, party(2)).await.is_ok());
    let load = &admission.load()["exports"];
    assert_eq!((load.served, load.waiting, load.sent_away), (0, 0, 1));
}

#[tokio::test]
async fn a_place_that_is_let_go_is_the_next_ones_also_where_who_waited_has_gone() {
    let admission = admission();
    let held = admission.enter(Class::Reads, party(1)).await.unwrap();
    let waiting = |admission: &Arc<Admission>| {
        let admission = Arc::clone(admission);
        tokio::spawn(async move { admission.enter(Class::Reads, party(1)).await.map(drop) })
    };
    let until = async |waits: usize| {
        while admission.load()["reads"].waiting != waits {
            tokio::task::yield_now().await;
        }
    };
    let first = waiting(&admission);
    until(1).await;
    let second = waiting(&admission);
    until(2).await;
    first.abort();
    let _ = first.await;
    assert_eq!(admission.load()["reads"].waiting, 1);
    // Named, and gone in the same moment: nobody ran between.
    let third = waiting(&admission);
    until(2).await;
    drop(held);
    second.abort();
    assert!(third.await.unwrap().is_ok());
    let _ = second.await;
    assert_eq!((admission.load()["reads"].served, admission.load()["reads"].waiting), (0, 0));
}

#[tokio::test]
async fn who_was_sent_away_and_has_gone_gives_no_place_to_anybody() {
    let admission =
        Arc::new(Admission::with(|_| Room { places: 1, waiting: 2, patience: Duration::from_secs(60) }));
    let held = admission.enter(Class::Reads, party(1)).await.unwrap();
    let waits = |of: Party| {
        let admission = Arc::clone(&admission);
        Box::pin(async move { admission.enter(Class::Reads, of).await.map(drop) })
    };
    let mut loud = [waits(party(1)), waits(party(1))];
    for one in &mut loud {
        assert!(futures_util::poll!(one).is_pending());
    }
    let mut quiet = waits(party(2));
    assert!(futures_util::poll!(&mut quiet).is_pending());
    // The oldest was told so, and is dropped before it looks.
    let [oldest, newest] = loud;
    drop(oldest);
    assert_eq!(admission.load()["reads"].served, 1, "the one that is held");
    assert!(futures_util::poll!(&mut quiet).is_pending(), "and nobody else");
    drop(held);
    assert!(quiet.await.is_ok());
    assert!(newest.await.is_ok());
    assert_eq!((admission.load()["reads"].served, admission.load()["reads"].waiting), (0, 0));
}
