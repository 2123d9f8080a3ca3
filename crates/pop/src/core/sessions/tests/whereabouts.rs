//! Where a session is, and whose word that is.

use super::*;

#[test]
fn a_roaming_session_is_told_its_address_and_the_relay_asks_before_it_believes() {
    let mut world = World::new();
    let (client, _, channel, _) = world.channel();
    let roamed = "198.51.100.200:4999";
    world.ends[client].address = roamed.parse().expect("address");
    world.say(client, &Keepalive {}.into());
    let told = world.ends[client].agent_inbox.iter().any(
        |message| matches!(message, ToAgent::Alive(alive) if alive.observed == world.ends[client].address),
    );
    assert!(told);
    let asked = |world: &World| {
        world.commands.iter().any(|command| matches!(command, RelayCommand::AddressChanged { .. }))
    };
    assert!(!asked(&world), "one packet's source is not asked about every channel");
    world.pass(Duration::from_secs(4));
    assert!(asked(&world), "an address that QUIC has kept is");
    let mut frame = data(channel);
    let handled = world.relay.handle_input(world.now, world.ends[client].address, &mut frame);
    assert!(matches!(handled, Handled::Dropped(_)), "not before our own challenge is answered");
}

#[test]
fn where_a_session_says_it_moved_is_no_ones_word_before_the_relay_had_an_answer_from_there() {
    let mut world = World::new();
    let (client, connector, ..) = world.channel();
    let spoofed: SocketAddr = "198.51.100.200:4999".parse().expect("address");
    let true_address = std::mem::replace(&mut world.ends[client].address, spoofed);
    world.say(client, &Keepalive {}.into());
    // However long it stays: path validation is the peer's to stretch.
    for _ in 0..3 {
        world.pass(Duration::from_secs(20));
        world.say(client, &Keepalive {}.into());
    }
    world.open(client, connector_id(20));
    let introduced = world.introduced(connector).expect("introduced");
    assert_eq!(introduced.client_seen, None, "its peer is told nothing of it");
    world.say(connector, &accept(introduced.intro).into());
    let installed = world.commands.iter().rev().find_map(|command| match command {
        RelayCommand::Install(spec) => Some(spec.sides[0].clone()),
        _ => None,
    });
    let side = installed.expect("a channel");
    assert_eq!(
        (side.address, side.moved),
        (true_address, Some(spoofed)),
        "and nothing is sent there unasked"
    );
}

#[test]
fn a_session_whose_channel_answered_from_where_it_moved_is_there() {
    let mut world = World::new();
    let (client, connector, channel, _) = world.channel();
    let secret = world.ends[client].agent_inbox.iter().find_map(|message| match message {
        ToAgent::Opened(opened) => Some(opened.secret.clone()),
        _ => None,
    });
    let secret = secret.expect("opened");
    let roamed: SocketAddr = "198.51.100.200:4999".parse().expect("address");
    world.ends[client].address = roamed;
    world.say(client, &Keepalive {}.into());
    world.relay.handle_input(world.now, roamed, &mut data(channel));
    let frame = loop {
        match world.relay.poll_output() {
            RelayOutput::Transmit { to, frame } if to == roamed => break frame,
            RelayOutput::Transmit { .. } => {}
            other => panic!("the newcomer is asked, not {other:?}"),
        }
    };
    let mut answer = frame.to_vec();
    answer[0] = RelayKind::Answer as u8;
    answer.extend_from_slice(&crate::core::relay::answer_of(&secret, &frame[wire::RELAY_HEADER_LEN..]));
    world.relay.handle_input(world.now, roamed, &mut answer);
    world.pass(Duration::from_secs(2));
    world.open(client, connector_id(20));
    assert_eq!(world.introduced(connector).expect("introduced").client_seen, Some(roamed));
}
