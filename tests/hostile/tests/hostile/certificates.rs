//! Whoever shows a certificate that is not for this end, and whoever forges what stands for an address or a handshake.

use agent::Freshness;
use hostile::installation::{
    INSTALLATION, Installation, MINUTE, SECOND, STANDARD, WALL, connector_id, connector_key, device_id,
    device_key, organization, pop_id, pop_key,
};
use hostile::raw::Raw;
use hostile::world::{Packet, Plan, pop_address, raw_address};
use hostile_session::{AcceptorLimits, Cheat, LocalIdentity};
use session::LostReason;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use trust::{Identity, SigningKey};
use wire::{DatagramKind, classify};

/// TLS alert 49, access_denied: a role or name that is not accepted here.
const NOT_HERE: u8 = 49;
/// 48, unknown_ca.
const NOT_TRUSTED: u8 = 48;

/// Keeps: `Vetting::judge` in `session`: a dialler expects exactly the PoP that it dialled. Red with
/// `any-certificate-at-any-end`, `any-pop-will-do`.
#[test]
fn a_pop_that_shows_another_certificate_is_no_pop() {
    let own = Installation::new(Vec::new(), 0);
    let stranger = Installation::under_root([50; 32], Vec::new(), 0);
    let pop = Identity::pop(INSTALLATION, pop_id(0));
    let device = Identity::device(INSTALLATION, organization(0), device_id(7));
    let connector = Identity::connector(INSTALLATION, organization(0), connector_id(7));
    let cases = [
        ("a device", &own, device, device_key(7), NOT_HERE),
        ("a connector", &own, connector, connector_key(7), NOT_HERE),
        ("another PoP", &own, Identity::pop(INSTALLATION, pop_id(1)), pop_key(1), NOT_HERE),
        ("a PoP of another root", &stranger, pop, pop_key(0), NOT_TRUSTED),
    ];
    for (what, installation, identity, key, alert) in cases {
        let certificate = installation.certificate(identity, &key);
        let identity = LocalIdentity::new(&certificate, &key).expect("belongs together");
        let mut world = Plan::new(10).pops([Cheat { identity: Some(identity), ..Cheat::default() }]).build();
        world.pass(SECOND * 30);
        assert!(world.client_at(0).is_empty() && world.connector_at(0).is_empty(), "{what}");
        for lost in [world.clients[0].node.agent().last_lost(), world.connectors[0].node.agent().last_lost()]
        {
            assert_eq!(lost, Some(LostReason::PeerRefusedHere(alert)), "{what}");
        }
        assert!(world.try_to(0, STANDARD, SECOND * 20).is_err(), "{what}");
        assert_eq!(world.pops[0].sessions.status().sessions, 0, "{what}");
    }
}

/// Keeps: the other half of the same judgement: `Expected::Callers`. Red with `any-certificate-at-any-end`.
#[test]
fn a_pop_certificate_is_no_agent_and_no_controller() {
    let mut world = Plan::new(11).build();
    world.settle();
    let before = world.pops[0].sessions.status().sessions;
    let raw = world.add_raw(Identity::pop(INSTALLATION, pop_id(5)), &pop_key(5));
    let session = world.with_raw(raw, |raw, now| {
        let session = raw.dial(now, pop_id(0), pop_address(0));
        let _ = raw.say(session, &Raw::hello());
        session
    });
    world.wait(SECOND * 10, |world| world.raws[raw].lost.contains_key(&session));
    assert_eq!(world.raws[raw].lost.get(&session), Some(&LostReason::RefusedByPeer(NOT_HERE)));
    assert!(world.raws[raw].told.is_empty());
    assert_eq!(world.pops[0].sessions.status().sessions, before);
}

/// Keeps: the ranges of frame types of each role in `Sessions::handle_frame`, and the roles in `hear_agent`. Red with
/// `agents-say-what-they-like`.
#[test]
fn an_agent_that_speaks_as_another_role_is_shown_the_door() {
    let mut world = Plan::new(12).build();
    world.settle();
    let flow = world.connect(0, STANDARD);
    let strike = world.controller.journal.beacon(&world.installation, Default::default(), WALL, None);
    let said: Vec<(u16, Vec<u8>)> = vec![
        // As a connector: takes and refuses other people's introductions.
        {
            let message = wire::FromAgent::from(wire::Accept {
                intro: 1,
                response: wire::Bounded::new(vec![0; wire::WG_RESPONSE_LEN]).expect("fits"),
                inner_v4: std::net::Ipv4Addr::LOCALHOST,
                inner_v6: std::net::Ipv6Addr::LOCALHOST,
            });
            (message.frame_type(), message.encode_body())
        },
        // As a controller: publishes, strikes, answers.
        {
            let message = wire::FromSigner::from(wire::PublishBeacon { beacon: strike });
            (message.frame_type(), message.encode_body())
        },
        {
            let message = wire::FromSigner::from(wire::Strike { entries: Vec::new() });
            (message.frame_type(), message.encode_body())
        },
        // As a PoP.
        {
            let message = wire::ToAgent::from(wire::GoAway { within_ms: 0 });
            (message.frame_type(), message.encode_body())
        },
    ];
    for (number, (frame_type, body)) in said.into_iter().enumerate() {
        let id = device_id(100 + number);
        let raw =
            world.add_raw(Identity::device(INSTALLATION, organization(0), id), &device_key(100 + number));
        let session = world.register_raw(raw, 0);
        world.with_raw(raw, |raw, _| raw.dialler.send(session, frame_type, &body).expect("room"));
        world.wait(SECOND * 5, |world| world.raws[raw].lost.contains_key(&session));
        let lost = world.raws[raw].lost.get(&session);
        assert_eq!(
            lost,
            Some(&LostReason::ClosedByPeer(session::CloseCode::WrongRole)),
            "frame {frame_type}"
        );
    }
    assert!(world.echo(0, flow, b"x", SECOND));
    assert_eq!(world.clients[0].node.agent().freshness(world.now), Freshness::Fresh);
}

/// What came of a first packet at an honest PoP's acceptor.
struct Door {
    acceptor: session::Acceptor,
    now: std::time::Instant,
}

impl Door {
    fn new(installation: &Installation, number: usize, seed: u8) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences to it are used")]
        let now = std::time::Instant::now();
        let key = pop_key(number);
        let certificate = installation.certificate(Identity::pop(INSTALLATION, pop_id(number)), &key);
        let local = LocalIdentity::new(&certificate, &key).expect("belongs together");
        let bundle = installation.bundle.clone();
        let acceptor =
            session::Acceptor::new(&local, &key, bundle, AcceptorLimits::default(), now, WALL, [seed; 32])
                .expect("usable");
        Self { acceptor, now }
    }

    /// Gives it a datagram; the datagrams it answers with.
    fn give(&mut self, from: std::net::SocketAddr, datagram: &[u8]) -> Vec<Vec<u8>> {
        self.acceptor.handle_input(self.now, from, datagram);
        let mut out = Vec::new();
        loop {
            match self.acceptor.poll_output(self.now) {
                session::Output::Transmit { payload, .. } => out.push(payload),
                session::Output::Event(_) => {}
                session::Output::Timeout { .. } => return out,
            }
        }
    }

    fn is_untouched(&self) -> bool {
        self.acceptor.stats().accepted == 0
            && self.acceptor.open_connections() == 0
            && self.acceptor.incoming_buffer_bytes() == 0
    }
}

fn packets(dialler: &mut session::Dialler, now: std::time::Instant) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let session::Output::Transmit { payload, .. } = dialler.poll_output(now) {
        out.push(payload);
    }
    out
}

/// Keeps: tokens are sealed under a key of this PoP's process, for one address and ten seconds
/// (`session::acceptor::server_config`). Red with `one-token-key-for-all`, `tokens-for-ever`.
#[test]
fn an_address_token_of_another_pop_another_address_or_another_time_opens_nothing() {
    let installation = Installation::new(Vec::new(), 0);
    let key = device_key(0);
    let certificate =
        installation.certificate(Identity::device(INSTALLATION, organization(0), device_id(0)), &key);
    let (mine, other) = (raw_address(0), raw_address(1));
    // (who gave the token, who is shown it, from where, after how long, whether it counts)
    let cases = [
        ("its own", 1, mine, Duration::from_millis(50), true),
        ("a hostile PoP's", 2, mine, Duration::from_millis(50), false),
        ("another address's", 1, other, Duration::from_millis(50), false),
        ("an old one", 1, mine, Duration::from_secs(11), false),
    ];
    for (what, giver, from, after, counts) in cases {
        // The hostile PoP has the same name and another process's secret: what it can forge at best.
        let mut gives = Door::new(&installation, 0, giver);
        let mut honest = Door::new(&installation, 0, 1);
        honest.now = gives.now;
        let local = LocalIdentity::new(&certificate, &key).expect("belongs together");
        let mut dialler = session::Dialler::new(local, installation.bundle.clone(), WALL, [3; 32]);
        dialler.dial(gives.now, pop_id(0), pop_address(0)).expect("room");
        let first = packets(&mut dialler, gives.now);
        let retry: Vec<Vec<u8>> = first.iter().flat_map(|packet| gives.give(mine, packet)).collect();
        assert!((1..=first.len()).contains(&retry.len()), "{what}: {} answers", retry.len());
        dialler.handle_input(gives.now, pop_address(0), &retry[0]);
        let second = packets(&mut dialler, gives.now);
        honest.now += after;
        let received: usize = second.iter().map(Vec::len).sum();
        let sent: usize =
            second.iter().flat_map(|packet| honest.give(from, packet)).map(|out| out.len()).sum();
        assert_eq!(honest.acceptor.stats().accepted > 0, counts, "{what}");
        if !counts {
            assert!(honest.is_untouched(), "{what}: nothing is kept");
            assert!(sent <= received, "{what}: {sent} bytes for {received}");
        }
    }
}

/// Keeps: the same; and a datagram that is not a token at all.
#[test]
fn made_up_tokens_get_a_retry_and_nothing_more() {
    let installation = Installation::new(Vec::new(), 0);
    let mut door = Door::new(&installation, 0, 1);
    for (length, fill) in [(1_usize, 0_u8), (16, 0xFF), (64, 7), (200, 0x5A), (900, 1)] {
        // RFC 9000 section 17.2.2: an Initial with a token of our own making.
        let mut initial = vec![0xC3, 0, 0, 0, 1, 8];
        initial.extend_from_slice(&[9; 8]);
        initial.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8]);
        initial.extend_from_slice(&(0x4000 | u16::try_from(length).expect("short")).to_be_bytes());
        initial.extend(std::iter::repeat_n(fill, length));
        let rest = 1200 - initial.len() - 2;
        initial.extend_from_slice(&(0x4000 | u16::try_from(rest).expect("short")).to_be_bytes());
        initial.resize(1200, 0xA5);
        let out = door.give(raw_address(0), &initial);
        assert!(out.iter().map(Vec::len).sum::<usize>() <= initial.len());
        assert!(door.is_untouched(), "a token of {length} bytes");
    }
}

/// A PoP that knows everything its sessions say cannot open a session as one of its agents at another PoP: what a
/// handshake signs is of that handshake alone.
///
/// Keeps: the CertificateVerify of TLS 1.3 (`check_signature` in `session::tls`).
#[test]
fn a_handshake_carried_on_to_another_pop_ends_there() {
    let seen: Arc<Mutex<Vec<Packet>>> = Arc::default();
    let wire = Arc::clone(&seen);
    let mut world = Plan::new(13).pops([Cheat::default(), Cheat::default()]).build();
    let client = hostile::world::client_address(0);
    // Whatever the client says to one PoP is said to the other too, as if the client had.
    world.tamper = Some(Box::new(move |packet, _| {
        let mut packets = vec![(Duration::ZERO, packet.clone())];
        if packet.from == client && classify(&packet.payload) == DatagramKind::Quic {
            let to = if packet.to == pop_address(0) { pop_address(1) } else { pop_address(0) };
            wire.lock().expect("no panic inside").push(packet.clone());
            packets.push((Duration::from_millis(1), Packet { to, ..packet }));
        }
        packets
    }));
    world.settle();
    world.connect(0, STANDARD);
    world.pass(MINUTE);
    let sessions: Vec<usize> = (0..2).map(|pop| world.pops[pop].sessions.status().devices).collect();
    assert_eq!(sessions.iter().sum::<usize>(), world.client_at(0).len(), "{sessions:?}");
    assert!(seen.lock().expect("no panic inside").len() > 5);
}

/// Keeps: no tickets are given (`send_tls13_tickets = 0`) and none is taken: each handshake shows and judges the
/// certificate (`session::tls`).
#[test]
fn whoever_was_struck_comes_back_by_no_ticket() {
    let mut world = Plan::new(14).build();
    world.settle();
    let key = SigningKey::from_seed(&[70; 32]);
    let raw = world.add_raw(Identity::device(INSTALLATION, organization(0), device_id(50)), &key);
    let first = world.register_raw(raw, 0);
    world.strike(trust::RevokedSubject::Device(device_id(50)));
    assert!(world.wait(SECOND * 5, |world| world.raws[raw].lost.contains_key(&first)));
    assert_eq!(
        world.raws[raw].lost[&first],
        LostReason::ClosedByPeer(session::CloseCode::Struck),
        "the running one ends"
    );
    for _ in 0..5 {
        let again = world.with_raw(raw, |raw, now| raw.dial(now, pop_id(0), pop_address(0)));
        world.wait(SECOND * 5, |world| world.raws[raw].lost.contains_key(&again));
        assert_eq!(world.raws[raw].lost.get(&again), Some(&LostReason::RefusedByPeer(44)));
    }
}
