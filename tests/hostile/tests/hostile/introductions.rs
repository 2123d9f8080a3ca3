//! A PoP that repeats, redirects, invents and answers introductions.

use crate::cheats::{Shared, Switch, from_agent, instead, meddling, saying, to_agent};
use hostile::installation::{
    INSTALLATION, MINUTE, SECOND, STANDARD, connector_id, connector_key, device_id, device_key, organization,
};
use hostile::world::{Plan, Tenant, World};
use hostile_session::{Cheat, Frame, Verdict, Way};
use std::net::{Ipv4Addr, Ipv6Addr};
use trust::{Identity, RevokedSubject, SigningKey, Subject, seal_open, sign_open, unseal_open};
use wire::{
    Bounded, ChannelId, ChannelSecret, FromAgent, Introduce, OpenBody, Opened, ToAgent, WG_RESPONSE_LEN,
};

/// An `Introduce` that the PoP has kept, for whom it was, and what it is to be said again to.
type Kept = Shared<Vec<(Identity, Introduce)>>;

/// A PoP that keeps every `Introduce`, and says what it is told to, to whom it is told to.
fn keeping(kept: &Kept, says: &Shared<Vec<(Identity, Introduce)>>) -> Cheat {
    let (kept, says) = (kept.clone(), says.clone());
    Cheat {
        meddle: Some(Box::new(move |frame, _| {
            if let Some(ToAgent::Introduce(introduce)) = to_agent(frame) {
                kept.with(|kept| kept.push((frame.peer, introduce)));
            }
            Verdict::Pass
        })),
        invent: Some(Box::new(move |_, peers| {
            let due: Vec<(Identity, Introduce)> = says.with(std::mem::take);
            due.into_iter()
                .filter_map(|(to, introduce)| {
                    let (session, peer) = peers.iter().find(|(_, peer)| **peer == to)?;
                    let message = ToAgent::from(introduce);
                    Some(Frame {
                        way: Way::Out,
                        session: *session,
                        peer: *peer,
                        frame_type: message.frame_type(),
                        body: message.encode_body(),
                    })
                })
                .collect()
        })),
        identity: None,
    }
}

/// The same introduction under another number, channel and secret.
fn renumbered(introduce: &Introduce, number: u64) -> Introduce {
    Introduce {
        intro: 1_000_000 + number,
        channel: ChannelId::from_random(77_000 + number),
        secret: ChannelSecret::from_random([u8::try_from(number).expect("few"); 32]),
        ..introduce.clone()
    }
}

fn connector(of: usize, number: usize) -> Identity {
    Identity::connector(INSTALLATION, organization(of), connector_id(number))
}

fn accepted(world: &World, number: usize) -> u64 {
    world.connectors[number].node.core_status().introductions_accepted
}

fn refused(world: &World, number: usize) -> u64 {
    world.connectors[number].node.core_status().introductions_refused
}

fn dials(world: &World) -> Vec<usize> {
    world.connectors.iter().map(|part| part.dials.len()).collect()
}

/// Keeps: the timestamp of a WireGuard initiation (`accept_initiation`), and the connector in what the device signs.
#[test]
fn an_open_said_again_opens_nothing_here_and_nothing_elsewhere() {
    let (kept, says) = (Kept::new(), Shared::new());
    let tenants = [Tenant { connectors: 2, clients: 1 }, Tenant { connectors: 1, clients: 1 }];
    let mut world = Plan::new(20).tenants(&tenants).pops([keeping(&kept, &says)]).build();
    world.settle();
    let flow = world.connect(0, STANDARD);
    let (to, introduce) = kept.with(|kept| kept[0].clone());
    let Subject::Connector(id) = to.subject() else { panic!("{to}") };
    let used = world.number_of_connector(id).expect("one of them");
    let (before, dialled) = (accepted(&world, used), dials(&world));
    for number in 0..20 {
        for (of, connector_number) in [(0, 0), (0, 1), (1, 2)] {
            says.with(|says| says.push((connector(of, connector_number), renumbered(&introduce, number))));
        }
        world.pass(SECOND * 6);
    }
    assert_eq!(accepted(&world, used), before, "no second tunnel out of one Open");
    for other in (0..3).filter(|number| *number != used) {
        assert_eq!((accepted(&world, other), refused(&world, other)), (0, 20), "connector {other}");
    }
    assert_eq!(dials(&world), dialled);
    assert!(world.echo(0, flow, b"still here", SECOND), "and the tunnel stands");
    // Struck, it is nothing at all.
    world.strike(RevokedSubject::Device(device_id(0)));
    world.pass(SECOND * 5);
    let (before, dialled) = (accepted(&world, used), dials(&world));
    says.with(|says| says.push((to, renumbered(&introduce, 99))));
    world.pass(SECOND * 5);
    assert_eq!((accepted(&world, used), dials(&world)), (before, dialled));
}

/// The connector has forgotten the initiation's time with its process: it answers, and nothing can come of it, for nobody
/// but the client has the key.
///
/// Keeps: no flow and no data before a transport packet proves the key (`tunnel`).
#[test]
fn an_open_said_again_to_a_connector_that_started_anew_opens_no_flow_and_shuts_nobody_out() {
    let (kept, says) = (Kept::new(), Shared::new());
    let mut world = Plan::new(21).pops([keeping(&kept, &says)]).build();
    world.settle();
    let flow = world.connect(0, STANDARD);
    assert!(world.echo(0, flow, b"before", SECOND));
    world.restart_connector(0);
    assert!(world.wait(MINUTE, |world| !world.connector_at(0).is_empty()), "it is back");
    let introduces = kept.with(|kept| kept.clone());
    for (number, (to, introduce)) in introduces.iter().enumerate() {
        says.with(|says| says.push((*to, renumbered(introduce, number as u64))));
    }
    world.pass(SECOND * 3);
    assert_eq!(world.connectors[0].dials.len(), 0);
    assert_eq!(world.connectors[0].bytes(), 0);
    let flow = world.connect(0, STANDARD);
    assert!(world.echo(0, flow, b"after", SECOND), "the client itself comes in");
}

/// A connector of the same organization that works with the PoP: it opens what was sealed to it, and the PoP says it to
/// the other connector, sealed anew.
///
/// Keeps: `OpenProof::check`: the device's signature names the connector, the key and the initiation. Red with
/// `an-open-needs-no-signature`.
#[test]
fn a_grant_that_one_connector_saw_opens_nothing_at_another() {
    let (kept, says) = (Kept::new(), Shared::new());
    let tenants = [Tenant { connectors: 2, clients: 1 }];
    let mut world = Plan::new(22).tenants(&tenants).pops([keeping(&kept, &says)]).build();
    world.settle();
    world.connect(0, STANDARD);
    let (to, introduce) = kept.with(|kept| kept[0].clone());
    let Subject::Connector(id) = to.subject() else { panic!("{to}") };
    let traitor = world.number_of_connector(id).expect("one of them");
    let victim = 1 - traitor;
    let open_key = &world.installation.connectors[traitor].seal;
    let body = unseal_open(open_key, connector_id(traitor), introduce.sealed.as_slice()).expect("its own");
    let victims_key = world.installation.connectors[victim].seal.seal_key();
    let seal = |body: &[u8]| {
        Bounded::new(seal_open(&victims_key, connector_id(victim), body).expect("seals")).expect("fits")
    };
    // As it is; and with a handshake of the forger's own, which the victim would answer: the grant is the device's, the
    // signature a stranger's, or the device's for the traitor.
    let decoded: OpenBody = minicbor::decode(&body).expect("decodes");
    let own = SigningKey::from_seed(&[123; 32]);
    let (client_key, initiation) = handshake(&world, victim);
    let forged = OpenBody {
        client_key,
        signature: sign_open(&own, connector_id(victim), &client_key, initiation.as_slice()),
        ..decoded.clone()
    };
    let half = OpenBody { client_key, ..decoded };
    let said = [
        (body, introduce.initiation.clone()),
        (minicbor::to_vec(&forged).expect("encodes"), initiation.clone()),
        (minicbor::to_vec(&half).expect("encodes"), initiation),
    ];
    for (number, (body, initiation)) in said.into_iter().enumerate() {
        let said = Introduce { sealed: seal(&body), initiation, ..renumbered(&introduce, number as u64) };
        says.with(|says| says.push((connector(0, victim), said)));
    }
    world.pass(SECOND * 2);
    assert_eq!((accepted(&world, victim), refused(&world, victim)), (0, 3));
    assert!(world.connectors[victim].dials.is_empty());
}

/// The beginning of a handshake with a connector that a stranger makes: a key of its own, and an initiation.
fn handshake(world: &World, with: usize) -> ([u8; 32], Bounded<{ wire::WG_INITIATION_LEN }>) {
    let key = tunnel::WireGuardPrivateKey::from_bytes([9; 32]);
    let mut tunnels = tunnel::Tunnels::new(&key, 1, world.now);
    let public = *world.installation.connectors[with].wireguard.seal_key().as_bytes();
    let connector = tunnel::WireGuardPublicKey::from_bytes(public);
    let (_, initiation) = tunnels.connect(world.now, connector).expect("room");
    (*tunnels.public_key().as_bytes(), Bounded::new(initiation.to_vec()).expect("fits"))
}

/// A device that has everything but belongs to another organization, and a PoP that leads it in.
///
/// Keeps: the organization in a grant is the connector's own (`Doorkeeper::verify`). Red with `other-organizations-grant`.
#[test]
fn a_device_of_another_organization_that_a_pop_leads_in_is_refused() {
    let (kept, says) = (Kept::new(), Shared::new());
    let tenants = [Tenant { connectors: 1, clients: 1 }, Tenant { connectors: 1, clients: 1 }];
    let mut world = Plan::new(25).tenants(&tenants).pops([keeping(&kept, &says)]).build();
    world.settle();
    let (client_key, initiation) = handshake(&world, 0);
    let grant = world.installation.grant(1, 1, hostile::installation::WALL);
    let signature = sign_open(&device_key(1), connector_id(0), &client_key, initiation.as_slice());
    let grant = Bounded::new(grant.into_bytes()).expect("short");
    let body = minicbor::to_vec(OpenBody { grant, client_key, signature }).expect("encodes");
    let seal_key = world.installation.connectors[0].seal.seal_key();
    let sealed = Bounded::new(seal_open(&seal_key, connector_id(0), &body).expect("seals")).expect("fits");
    let introduce = Introduce {
        intro: 1,
        channel: ChannelId::from_random(1),
        secret: ChannelSecret::from_random([1; 32]),
        sealed,
        initiation,
        client_seen: None,
    };
    says.with(|says| says.push((connector(0, 0), introduce)));
    world.pass(SECOND * 2);
    assert_eq!((accepted(&world, 0), refused(&world, 0)), (0, 1));
    assert!(world.connectors[0].dials.is_empty());
}

/// Keeps: the client's handshake is with the connector's key of its slice, whoever answers.
#[test]
fn a_pop_that_answers_in_a_connectors_place_gets_no_tunnel() {
    let hostile = meddling(move |frame, _| match from_agent(frame) {
        Some(FromAgent::Open(open)) => {
            let opened = Opened {
                seq: open.seq,
                channel: ChannelId::from_random(4_711),
                secret: ChannelSecret::from_random([1; 32]),
                response: Bounded::new({
                    let mut response = vec![2, 0, 0, 0];
                    response.extend_from_slice(&[7; WG_RESPONSE_LEN - 12]);
                    // The receiver's index is the initiation's sender.
                    response.splice(8..12, open.initiation.as_slice()[4..8].iter().copied());
                    response.resize(WG_RESPONSE_LEN, 7);
                    response
                })
                .expect("fits"),
                inner_v4: Ipv4Addr::new(10, 1, 2, 3),
                inner_v6: Ipv6Addr::LOCALHOST,
                connector_seen: None,
            };
            instead(saying(frame, opened))
        }
        _ => Verdict::Pass,
    });
    let mut world = Plan::new(23).pops([hostile]).build();
    world.settle();
    assert!(world.try_to(0, STANDARD, MINUTE).is_err());
    assert!(world.clients[0].node.links().iter().all(|link| link.way.is_none()), "no tunnel stands");
    assert!(world.connectors[0].dials.is_empty());
    // Nothing of what it says reaches the PoP in plain.
    assert!(world.clients[0].echoed.is_empty());
}

/// Another connector of the organization, with software of its own, gets the introduction in place of the one that the
/// client wants, and answers it.
///
/// Keeps: introductions are sealed to one connector's key; and the same handshake.
#[test]
fn an_open_led_to_another_connector_is_not_read_there_and_not_answered_in_the_others_name() {
    let wanted = Switch::default();
    let leads = wanted.clone();
    let impostor = connector_id(77);
    let hostile = meddling(move |frame, _| match from_agent(frame) {
        Some(FromAgent::Open(open)) if leads.is_on() => {
            let message = FromAgent::from(wire::Open { connector: impostor, ..open });
            instead(Frame { body: message.encode_body(), ..frame.clone() })
        }
        _ => Verdict::Pass,
    });
    let mut world = Plan::new(24).pops([hostile]).build();
    world.settle();
    let key = connector_key(77);
    let raw = world.add_raw(Identity::connector(INSTALLATION, organization(0), impostor), &key);
    let session = world.register_raw(raw, 0);
    wanted.on();
    let dial = world.dial(0, STANDARD);
    let asked = |world: &World| {
        world.raws[raw].told.iter().find_map(|(_, told)| match told {
            ToAgent::Introduce(introduce) => Some(introduce.clone()),
            _ => None,
        })
    };
    assert!(world.wait(SECOND * 5, |world| asked(world).is_some()), "the impostor is asked");
    let introduce = asked(&world).expect("just now");
    // It has keys of its own, and they open nothing.
    let own = trust::OpenKey::generate();
    assert!(unseal_open(&own, impostor, introduce.sealed.as_slice()).is_err());
    let accept = wire::Accept {
        intro: introduce.intro,
        response: Bounded::new(vec![3; WG_RESPONSE_LEN]).expect("fits"),
        inner_v4: Ipv4Addr::new(10, 1, 2, 3),
        inner_v6: Ipv6Addr::LOCALHOST,
    };
    world.with_raw(raw, |raw, _| raw.say(session, &accept.into()).expect("room"));
    world.pass(SECOND * 30);
    assert!(!matches!(world.clients[0].dialled.get(&dial), Some(Ok(_))));
    assert!(world.clients[0].node.links().iter().all(|link| link.way.is_none()), "no tunnel stands");
    assert_eq!(world.connectors[0].bytes(), 0);
}
