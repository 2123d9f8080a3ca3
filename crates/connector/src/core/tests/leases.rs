//! How long somebody is let in: grants, strikes, policy, and what a clock says of them.

use super::*;

#[test]
fn a_struck_device_or_owner_is_not_let_in() {
    for subject in [RevokedSubject::Device(DEVICE), RevokedSubject::User(UserId::from_bytes([6; 16]))] {
        let mut world = World::new(literal(WEB));
        world.strike(subject);
        let intro = world.intro();
        assert_eq!(world.introduce(intro).map(|_| ()), Err(Refusal::Struck));
        // A raised generation gives access back.
        let mut intro = world.intro();
        (intro.grant.device_generation, intro.grant.owner_generation) = (2, 2);
        world.introduce(intro).expect("the living generation");
    }
}

#[test]
fn without_a_policy_nobody_is_let_in_and_told_to_come_back() {
    let mut world = World::new(literal(WEB));
    world.rules = None;
    let intro = world.intro();
    assert_eq!(world.introduce(intro).map(|_| ()), Err(Refusal::NoSlice));
}

#[test]
fn what_looks_expired_before_the_time_is_signed_is_told_to_come_back() {
    let mut world = World::new(literal(WEB));
    let intro = world.intro();
    // The machine's clock is a day ahead, and the first word of a controller is on its way.
    (world.wall, world.time) = (WALL.plus(Duration::from_secs(86_400)), TimeWord::Awaited);
    assert_eq!(world.introduce(intro).map(|_| ()), Err(Refusal::Settling));
    let mut intro = world.intro();
    intro.signed_by = SigningKey::from_seed(&[9; 32]);
    assert_eq!(world.introduce(intro).map(|_| ()), Err(Refusal::GrantInvalid), "nothing else is softened");
    (world.wall, world.time) = (WALL, TimeWord::Known);
    world.introduce(world.intro()).expect("the time is known");
}

#[test]
fn a_grant_whose_signer_left_the_bundle_ends_its_session_and_another_does_not() {
    let mut world = World::new(literal(WEB));
    let (client, _) = world.open_flow();
    let next = SigningKey::from_seed(&[0x55; 32]);
    // An overlap changes nothing; a key that is taken away ends what it signed.
    world.bundle = bundle_of(&[&world.signer, &next], 2);
    world.recheck();
    assert_eq!((world.core.status().sessions, world.client_end(client)), (1, None));
    world.bundle = bundle_of(&[&next], 3);
    world.recheck();
    assert_eq!((world.core.status().sessions, world.client_end(client)), (0, Some(CloseReason::Reset)));
    assert!(world.records.last().expect("a record").is_because_of(Refusal::GrantInvalid));
    let intro = world.intro();
    assert_eq!(world.introduce(intro).map(|_| ()), Err(Refusal::GrantInvalid));
    let mut intro = world.intro();
    intro.signed_by = next;
    world.introduce(intro).expect("the living key");
}

#[test]
fn a_strike_ends_the_running_session_and_the_client_learns_it_at_once() {
    let mut world = World::new(literal(WEB));
    let (client, flow) = world.open_flow();
    world.strike(RevokedSubject::Device(DEVICE));
    world.recheck();
    assert!(
        matches!(world.asked.last(), Some(Output::Ended { flow: ended, ending: Ending::Cut }) if *ended == flow)
    );
    assert_eq!(world.client_end(client), Some(CloseReason::Reset));
    assert!(matches!(world.to_pop.last(), Some(FromAgent::CloseChannel(_))));
    let record = world.records.last().expect("a record");
    assert!(record.verdict == Verdict::Withdrawn && record.is_because_of(Refusal::Struck));
    assert_eq!(world.core.status().sessions, 0);
}

#[test]
fn a_grant_that_runs_out_ends_the_session_and_a_newer_one_prolongs_it() {
    let mut world = World::new(literal(WEB));
    let (client, _) = world.open_flow();
    world.advance(Duration::from_secs(3_000));
    // The client opens again with the grant it was given meanwhile.
    world.enter();
    world.advance(Duration::from_secs(1_000));
    assert_eq!(world.core.status().flows, 1, "the newer grant counts");
    assert_eq!(world.client_end(client), None);
    world.advance(Duration::from_secs(2_599));
    assert_eq!(world.core.status().sessions, 1);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.core.status().sessions, 0);
    assert!(world.records.last().expect("a record").is_because_of(Refusal::GrantExpired));
}

#[test]
fn after_a_night_asleep_nothing_is_carried_for_a_lease_that_ended_meanwhile() {
    let mut world = World::new(literal(WEB));
    let (client, flow) = world.open_flow();
    world.flows.write(world.now, client, b"before").expect("open");
    world.settle();
    // The machine sleeps for eight hours, which its clocks count; the client's packet is the first thing it sees.
    let night = Duration::from_secs(8 * 3600);
    (world.now, world.wall) = (world.now + night, world.wall.plus(night));
    let mut buffer = [0; 64];
    assert_eq!(world.core.read(world.now, flow, &mut buffer), Read::Empty, "not even what came before");
    world.flows.write(world.now, client, b"after").expect("open");
    world.settle();
    assert_eq!(world.core.read(world.now, flow, &mut buffer), Read::Empty);
    assert_eq!(world.core.status().sessions, 0);
    assert!(world.records.last().expect("a record").is_because_of(Refusal::GrantExpired));
}

#[test]
fn nothing_passes_a_second_after_the_hard_expiry_and_everything_a_second_before() {
    let mut world = World::new(literal(WEB));
    let (client, flow) = world.open_flow();
    let mut buffer = [0; 64];
    world.advance(Duration::from_secs(3_599));
    world.flows.write(world.now, client, b"in time").expect("open");
    world.settle();
    assert_eq!(world.core.read(world.now, flow, &mut buffer), Read::Bytes(7));
    let before = world.core.status().bytes.relay_sent;
    world.advance(Duration::from_secs(2));
    assert_eq!(world.client_end(client), Some(CloseReason::Reset), "told, not left to wait");
    let told = world.core.status().bytes.relay_sent - before;
    assert!(told < 400, "{told} bytes: the reset");
    let src = "100.64.0.1".parse().expect("address");
    world.dial(src, WEB);
    assert_eq!(world.core.read(world.now, flow, &mut buffer), Read::Empty);
    assert!(!matches!(world.asked.last(), Some(Output::Dial { .. })), "{:?}", world.asked.last());
}

#[test]
fn a_tightened_policy_ends_the_flow_and_leaves_the_session() {
    let mut world = World::new(literal(WEB));
    let (client, _) = world.open_flow();
    world.rules = Some(literal("10.0.0.7:80"));
    world.recheck();
    assert_eq!(world.client_end(client), Some(CloseReason::Reset));
    assert!(world.records.last().expect("a record").is_because_of(Refusal::NoPolicy));
    assert_eq!((world.core.status().sessions, world.core.status().flows), (1, 0));
}
