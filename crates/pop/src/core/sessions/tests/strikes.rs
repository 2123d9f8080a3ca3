//! What is struck: enforced, held, told on, and still struck after a restart.

use super::*;

#[test]
fn a_struck_device_loses_its_session_and_its_channel_and_connectors_learn_it() {
    let mut world = World::new();
    let (client, connector, ..) = world.channel();
    let signer = world.signer();
    let Subject::Device(id) = device(1, 10).subject() else { panic!("a device") };
    let entry = world.installation.strike(RevokedSubject::Device(id), KeyRole::Beacon);
    world.say_signer(signer, &Strike { entries: vec![entry.clone()] }.into());
    assert_eq!(world.closed_with(client), Some(LostReason::ClosedByPeer(CloseCode::Struck)));
    let told = &world.ends[connector].agent_inbox;
    assert!(told.iter().any(|m| matches!(m, ToAgent::Revocations(r) if r.entries == [entry.clone()])));
    assert!(told.iter().any(|m| matches!(m, ToAgent::ChannelClosed(c) if c.reason == Refusal::Struck)));
    assert_eq!(world.sessions.status().channels, 0);
    // Not acknowledged before it is on disk.
    let held =
        |world: &World| world.ends[signer].signer_inbox.iter().any(|m| matches!(m, ToSigner::StrikesHeld(_)));
    assert!(!held(&world));
    let [(write, Record::Revocations(texts))] = &world.writes[..] else { panic!("one write") };
    assert_eq!(texts[0].as_bytes(), entry.as_slice());
    world.sessions.handle_written(world.now, *write, Written::Durable);
    world.settle();
    assert!(held(&world));
    // The same device is not let in again.
    let again = world.dial(device(1, 10), "198.51.100.9:4000");
    assert!(world.closed_with(again).is_some());
}

#[test]
fn what_one_controller_strikes_every_other_one_is_told_once_and_nobody_is_told_what_it_said() {
    let mut world = World::new();
    let signer = world.signer();
    let another =
        Identity::controller(world.installation.bundle.installation(), ControllerId::from_bytes([3; 16]));
    let other = world.dial(another, "192.0.2.10:7000");
    world.say_signer(other, &SignerHello { oldest: 1, newest: 1 }.into());
    let Subject::Device(id) = device(1, 10).subject() else { panic!("a device") };
    let entry = world.installation.strike(RevokedSubject::Device(id), KeyRole::Beacon);
    let told = |world: &World, end: usize| -> Vec<_> {
        let of = world.ends[end].signer_inbox.iter();
        of.filter_map(|m| if let ToSigner::StrikesElsewhere(e) = m { Some(e.entries.clone()) } else { None })
            .collect()
    };
    world.say_signer(signer, &Strike { entries: vec![entry.clone()] }.into());
    assert_eq!(told(&world, other), [vec![entry.clone()]]);
    // The other one spreads it: the PoP has it, and tells nobody again.
    world.say_signer(other, &Strike { entries: vec![entry] }.into());
    assert!(told(&world, signer).is_empty());
    assert_eq!(told(&world, other).len(), 1);
}

#[test]
fn a_strike_that_could_not_be_written_is_enforced_but_never_acknowledged() {
    let mut world = World::new();
    let client = world.agent(device(1, 10), CLIENT);
    let signer = world.signer();
    let Subject::Device(id) = device(1, 10).subject() else { panic!("a device") };
    let entry = world.installation.strike(RevokedSubject::Device(id), KeyRole::Beacon);
    world.say_signer(signer, &Strike { entries: vec![entry.clone()] }.into());
    let write = world.writes[0].0;
    world.sessions.handle_written(world.now, write, Written::Failed);
    world.settle();
    assert!(world.closed_with(client).is_some());
    assert!(!world.ends[signer].signer_inbox.iter().any(|m| matches!(m, ToSigner::StrikesHeld(_))));
    // Sent again, it is written again.
    world.say_signer(signer, &Strike { entries: vec![entry] }.into());
    assert_eq!(world.writes.len(), 2);
}

#[test]
fn a_strike_that_could_not_be_written_is_written_when_the_disk_takes_it_and_every_controller_hears_of_it() {
    let mut world = World::new();
    let signer = world.signer();
    let Subject::Device(id) = device(1, 10).subject() else { panic!("a device") };
    let entry = world.installation.strike(RevokedSubject::Device(id), KeyRole::Beacon);
    world.say_signer(signer, &Strike { entries: vec![entry] }.into());
    for failures in 1..=3 {
        assert_eq!(world.writes.len(), failures);
        let write = world.writes[failures - 1].0;
        world.sessions.handle_written(world.now, write, Written::Failed);
        world.pass(limits::REWRITE_AFTER);
    }
    assert!(!world.ends[signer].signer_inbox.iter().any(|m| matches!(m, ToSigner::StrikesHeld(_))));
    let (write, _) = world.writes[3];
    world.sessions.handle_written(world.now, write, Written::Durable);
    world.settle();
    let said = world.ends[signer]
        .signer_inbox
        .iter()
        .filter(|m| matches!(m, ToSigner::StrikesHeld(held) if held.hashes.len() == 1));
    assert_eq!(said.count(), 1);
    // There is nothing more to write.
    world.pass(10 * limits::REWRITE_AFTER);
    assert_eq!(world.writes.len(), 4);
}

#[test]
fn a_strike_signed_by_a_key_of_another_role_strikes_nobody() {
    let mut world = World::new();
    let client = world.agent(device(1, 10), CLIENT);
    let signer = world.signer();
    let Subject::Device(id) = device(1, 10).subject() else { panic!("a device") };
    let entry = world.installation.strike(RevokedSubject::Device(id), KeyRole::Grant);
    world.say_signer(signer, &Strike { entries: vec![entry] }.into());
    assert_eq!(world.closed_with(client), None);
    assert_eq!(world.sessions.status().counters.refused.get("unknown_key"), 1);
    assert!(world.writes.is_empty());
}

#[test]
fn a_connector_gets_the_strikes_it_asks_for_in_their_order_and_a_device_none() {
    let mut world = World::new();
    let signer = world.signer();
    let strikes: Vec<_> = (1..=70)
        .map(|seq| {
            let subject =
                RevokedSubject::Device(DeviceId::from_bytes([u8::try_from(seq).expect("small"); 16]));
            world.installation.strike_number(seq, subject, KeyRole::Beacon)
        })
        .collect();
    for some in strikes.chunks(64) {
        world.say_signer(signer, &Strike { entries: some.to_vec() }.into());
    }
    let end = world.agent(connector(1, 200), "198.51.100.20:4000");
    let ask = |world: &mut World, first: u64, last: u64| {
        world.ends[end].agent_inbox.clear();
        world.say(end, &GetRevocations { signer: controller_id(), first, last }.into());
        match &world.ends[end].agent_inbox[..] {
            [ToAgent::Revocations(answer)] => answer.entries.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut world, 3, 5), strikes[2..5]);
    assert_eq!(ask(&mut world, 1, u64::MAX), strikes[..64], "as many as a message carries");
    assert_eq!(ask(&mut world, 71, 99), []);
    // It costs what it is worth: a connector that asks on and on is not answered on and on.
    world.ends[end].agent_inbox.clear();
    for _ in 0..200 {
        world.say(end, &GetRevocations { signer: controller_id(), first: 1, last: 99 }.into());
    }
    let answers = world.ends[end].agent_inbox.len();
    assert!((10..=80).contains(&answers), "{answers} answers");
    let client = world.agent(device(1, 250), CLIENT);
    world.say(client, &GetRevocations { signer: controller_id(), first: 1, last: 9 }.into());
    assert_eq!(world.closed_with(client), Some(LostReason::ClosedByPeer(CloseCode::WrongRole)));
}

#[test]
fn strikes_outlive_their_key_and_a_retired_root_signs_no_more() {
    let world = World::new();
    let mut material = world.installation.pop();
    let subject = RevokedSubject::Device(DeviceId::from_bytes([9; 16]));
    let entry = world.installation.strike(subject, KeyRole::Beacon);
    material.revocations = vec![String::from_utf8(entry.as_slice().to_vec()).expect("text")];
    material.chain = world.installation.chain_without(KeyRole::Beacon, 2);
    let (wall, seed) = (world.installation.wall, Seed::from_random([1; 32]));
    let started = |material| {
        Sessions::new(material, AcceptorLimits::default(), 1024, world.now, wall, &seed).expect("material")
    };
    let sessions = started(material);
    assert!(sessions.revocations.set().is_struck(subject, 1));
    // The successor's chain is believed, and after it nothing of the root before, now and after a restart.
    let material = world.installation.pop();
    let later = document(&world.installation.later_chain_of_the_root());
    let mut sessions = started(material);
    sessions.publish_bundle(world.now, &document(&world.installation.succeeded()));
    assert_eq!(sessions.bundle.epoch(), 2);
    sessions.publish_bundle(world.now, &later);
    assert_eq!(sessions.bundle.epoch(), 2);
    let mut material = world.installation.pop();
    material.chain = world.installation.succeeded();
    let mut sessions = started(material);
    sessions.publish_bundle(world.now, &later);
    assert_eq!((sessions.bundle.epoch(), sessions.counters.refused.get("chain")), (2, 1));
}

#[test]
fn what_was_struck_before_a_restart_is_struck_after_it() {
    let installation = Installation::new(UnixMs::from_millis(1_800_000_000_000));
    let Subject::Device(id) = device(1, 10).subject() else { panic!("a device") };
    let entry = installation.strike(RevokedSubject::Device(id), KeyRole::Beacon);
    let text = String::from_utf8(entry.into_vec()).expect("text");
    let mut world = World::new();
    let material = PopMaterial { revocations: vec![text], ..installation.pop() };
    let seed = Seed::from_random([1; 32]);
    world.sessions =
        Sessions::new(material, AcceptorLimits::default(), 8, world.now, world.installation.wall, &seed)
            .expect("material");
    let client = world.dial(device(1, 10), CLIENT);
    assert!(world.closed_with(client).is_some());
}
