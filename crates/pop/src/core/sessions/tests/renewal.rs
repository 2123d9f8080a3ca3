//! A PoP's own certificate.

use super::*;

/// The renewal that the PoP sends to its controller, opened.
fn asked_renewal(world: &mut World, signer: usize) -> (wire::Forward, trust::control::OpenedRequest) {
    world.ends[signer].signer_inbox.clear();
    let now = world.now;
    world.sessions.renewal_due(now);
    world.settle();
    let forward = world.ends[signer].signer_inbox.iter().find_map(|message| match message {
        ToSigner::Forward(forward) => Some(forward.clone()),
        _ => None,
    });
    let forward = forward.expect("the PoP asks the controller that is attached");
    let home = &world.installation;
    let opened = trust::control::open_request(&home.seal, &home.bundle, home.wall, forward.sealed.as_slice());
    (forward, opened.expect("signed by the PoP and sealed to the controller"))
}

fn answer_renewal(
    world: &mut World,
    signer: usize,
    certificate: impl FnOnce(&Installation, &Certificate) -> Vec<u8>,
) {
    let (forward, opened) = asked_renewal(world, signer);
    let der = certificate(&world.installation, &opened.agent);
    let renewed = wire::Renewed { grant: None, certificate: Some(Bounded::new(der).expect("short")) };
    let sealed = Bounded::new(opened.seal_reply(&renewed.into()).expect("seals")).expect("short");
    world.say_signer(signer, &Reply { route: forward.route, seq: forward.seq, sealed }.into());
}

fn written_certificates(world: &World) -> usize {
    world.writes.iter().filter(|(_, record)| matches!(record, Record::Certificate(_))).count()
}

#[test]
fn a_pop_renews_its_certificate_and_shows_the_new_one() {
    let mut world = World::new();
    let signer = world.signer();
    // Time went on for the controller: what it issues now lives longer.
    world.installation.wall = world.installation.wall.plus(Duration::from_secs(3600));
    let wall = world.installation.wall;
    world.sessions.set_wall(world.now, wall);
    answer_renewal(&mut world, signer, |home, agent| {
        home.certificate_for(agent.identity(), agent.public_key(), 1)
    });
    assert_eq!(written_certificates(&world), 1, "{:?}", world.sessions.status().counters.refused);
    let client = world.agent(device(1, 10), CLIENT);
    let shown = world.ends[client].dialler.peer(world.ends[client].id).expect("the PoP's certificate");
    assert_eq!(shown.not_after(), wall.plus(Duration::from_secs(20 * 24 * 3600)));
}

#[test]
fn a_pop_takes_no_certificate_of_another_name_or_key_or_shorter_life() {
    let mut world = World::new();
    let signer = world.signer();
    // Not longer than the one held.
    answer_renewal(&mut world, signer, |home, agent| {
        home.certificate_for(agent.identity(), agent.public_key(), 1)
    });
    world.installation.wall = world.installation.wall.plus(Duration::from_secs(3600));
    let wall = world.installation.wall;
    world.sessions.set_wall(world.now, wall);
    let other = Identity::pop(world.installation.bundle.installation(), wire::PopId::from_bytes([77; 16]));
    answer_renewal(&mut world, signer, |home, agent| home.certificate_for(other, agent.public_key(), 1));
    let key = SigningKey::generate();
    answer_renewal(&mut world, signer, |home, agent| home.certificate(agent.identity(), &key, 1));
    assert_eq!(world.sessions.status().counters.refused.get("renewal_not_ours"), 3);
    assert_eq!(written_certificates(&world), 0);
}

#[test]
fn a_certificate_that_came_due_while_no_controller_was_there_is_renewed_when_one_comes() {
    let mut world = World::new();
    // The month is half over; nobody answers the first try, and the next one is a minute away.
    world.installation.wall = world.installation.wall.plus(Duration::from_secs(16 * 24 * 3600));
    let wall = world.installation.wall;
    world.sessions.set_wall(world.now, wall);
    let now = world.now;
    world.sessions.renewal_due(now);
    world.settle();
    let signer = world.signer();
    world.now += Duration::from_millis(1);
    world.sessions.handle_timeout(world.now);
    world.settle();
    let asks = |message: &ToSigner| matches!(message, ToSigner::Forward(_));
    assert_eq!(world.ends[signer].signer_inbox.iter().filter(|message| asks(message)).count(), 1);
}
