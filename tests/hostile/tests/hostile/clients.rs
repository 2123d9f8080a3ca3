//! Clients that have every right to be here and do their worst with it.

use agent::Freshness;
use hostile::installation::{
    FORBIDDEN, HANGING, INSTALLATION, MINUTE, SECOND, STANDARD, connector_id, device_id, device_key,
    organization, pop_id,
};
use hostile::raw::Raw;
use hostile::world::{Packet, Plan, Tenant, World, client_address, pop_address, raw_address};
use session::{CloseCode, LostReason, SessionId};
use std::time::Duration;
use trust::Identity;
use wire::{Bounded, ChannelId, FromAgent, Open, RelayKind, ToController};

/// The honest ones: everybody but the first.
const HONEST: [usize; 3] = [1, 2, 3];
const TENANT: Tenant = Tenant { connectors: 2, clients: 4 };

/// What the honest ones had: how many tries, how many came to something, and how long the slowest took, in the world's own
/// time.
#[derive(Debug, Default)]
struct Service {
    tries: usize,
    served: usize,
    slowest: Duration,
}

/// Each honest client opens a new connection and has an answer on it, a second after the other, while `each` goes on
/// between.
fn serve(world: &mut World, rounds: usize, mut each: impl FnMut(&mut World)) -> Service {
    let mut service = Service::default();
    for round in 0..rounds {
        for client in HONEST {
            each(world);
            let began = world.now;
            service.tries += 1;
            if round % 10 == 9 {
                // Sometimes it is a process that has just started: registration, introduction and all.
                world.restart_client(client);
            }
            let opened = world.try_to(client, STANDARD, MINUTE);
            if let Ok(flow) = opened
                && world.echo(client, flow, b"a line", MINUTE)
            {
                service.served += 1;
                service.slowest = service.slowest.max(world.now - began);
                let now = world.now;
                world.clients[client].node.abort(now, flow);
                world.clients[client].node.flush(now);
            }
            world.pass(Duration::from_millis(300));
        }
    }
    service
}

/// The same world with nobody who means harm, and then with: the honest ones must not see the difference.
fn harms_nobody(seed: u64, plan: impl Fn(Plan) -> Plan, mut worst: impl FnMut(&mut World)) -> World {
    let build = || plan(Plan::new(seed).tenants(&[TENANT])).build();
    let mut calm = build();
    calm.settle();
    let unharmed = serve(&mut calm, 20, |_| ());
    assert_eq!(unharmed.served, unharmed.tries, "seed {seed}");
    let mut world = build();
    world.settle();
    let service = serve(&mut world, 20, &mut worst);
    assert_eq!(service.served, service.tries, "seed {seed}: {service:?}");
    // Twice the calm one, and a round trip: what is random in both is not the same.
    let bound = unharmed.slowest * 2 + SECOND;
    assert!(service.slowest <= bound, "seed {seed}: {service:?} against {unharmed:?}");
    assert!(world.connectors.iter().all(|part| part.node.agent().freshness(world.now) == Freshness::Fresh));
    world
}

fn opening(connector: usize, seq: u64) -> FromAgent {
    Open {
        seq,
        connector: connector_id(connector),
        sealed: Bounded::new(vec![7; 900]).expect("fits"),
        initiation: Bounded::new(vec![1; wire::WG_INITIATION_LEN]).expect("fits"),
    }
    .into()
}

/// A raw device that is registered as soon as it is asked for something.
struct Attacker {
    number: Option<usize>,
    session: Option<SessionId>,
    said: u64,
}

impl Attacker {
    const fn new() -> Self {
        Self { number: None, session: None, said: 0 }
    }

    fn with(&mut self, world: &mut World, act: impl FnOnce(&mut Raw, SessionId, &mut u64)) {
        let number = *self.number.get_or_insert_with(|| {
            world.add_raw(Identity::device(INSTALLATION, organization(0), device_id(500)), &device_key(500))
        });
        let is_up = self.session.is_some_and(|session| world.raws[number].up.contains(&session));
        if !is_up {
            // It comes back as fast as it may.
            let session = world.with_raw(number, |raw, now| raw.dial(now, pop_id(0), pop_address(0)));
            world.wait(SECOND, |world| {
                world.raws[number].up.contains(&session) || world.raws[number].lost.contains_key(&session)
            });
            let _ = world.with_raw(number, |raw, _| raw.say(session, &Raw::hello()));
            self.session = Some(session);
        }
        let session = self.session.expect("just set");
        world.with_raw(number, |raw, _| act(raw, session, &mut self.said));
    }

    fn lost(&self, world: &World) -> Vec<LostReason> {
        self.number.map_or_else(Vec::new, |number| world.raws[number].lost.values().copied().collect())
    }
}

/// Keeps: the budget of a session (`limits::DEVICE_FRAMES`) and introductions of one client and connector.
#[test]
fn who_opens_to_every_connector_as_often_as_it_may_takes_nothing_from_others() {
    let mut attacker = Attacker::new();
    let world = harms_nobody(
        70,
        |plan| plan,
        |world| {
            attacker.with(world, |raw, session, said| {
                for _ in 0..8 {
                    *said += 1;
                    let connector = usize::try_from(*said % 3).expect("small");
                    let _ = raw.say(session, &opening(connector, *said));
                }
            });
        },
    );
    assert!(attacker.said >= 400);
    assert!(attacker.lost(&world).is_empty(), "within its budget nobody is closed");
    let refused: u64 =
        world.connectors.iter().map(|part| part.node.core_status().introductions_refused).sum();
    assert!(refused >= 100, "they came to the connectors: {refused}");
}

/// Keeps: `limits::PATIENCE`; the code is what a client prints. Red with `patience-without-end`, `no-budget-for-frames`.
#[test]
fn who_floods_frames_is_slowed_then_closed_with_a_code_and_then_kept_away() {
    let mut attacker = Attacker::new();
    let world = harms_nobody(
        71,
        |plan| plan,
        |world| {
            attacker.with(world, |raw, session, said| {
                for _ in 0..400 {
                    *said += 1;
                    let message: FromAgent = if *said % 2 == 0 {
                        opening(0, *said)
                    } else {
                        let sealed = Bounded::new(vec![9; 3_000]).expect("fits");
                        ToController { seq: *said, sealed }.into()
                    };
                    let _ = raw.say(session, &message);
                }
            });
        },
    );
    let lost = attacker.lost(&world);
    let flooding = LostReason::ClosedByPeer(CloseCode::Flooding);
    assert!(lost.contains(&flooding), "{lost:?}");
    assert!(flooding.to_string().contains("far more than a session may"));
    // Of all that was said, connectors and controller saw what the budget lets through, a burst for each session.
    let sessions = lost.len() as u64 + 1;
    let allowed = 100 * sessions + 20 * world.elapsed().as_secs();
    let asked: u64 = world.connectors.iter().map(|part| part.node.core_status().introductions_refused).sum();
    assert!(attacker.said > 4 * allowed, "{} said, {allowed} allowed", attacker.said);
    assert!(asked + world.controller.refused <= allowed, "{asked} and {}", world.controller.refused);
}

/// Keeps: `limits::MAX_REGISTRATIONS`. Red with `registers-as-often-as-it-likes`.
#[test]
fn who_comes_back_all_the_time_is_closed_with_a_code() {
    let mut number = None;
    let world = harms_nobody(
        72,
        |plan| plan,
        |world| {
            let raw = *number.get_or_insert_with(|| {
                world.add_raw(
                    Identity::device(INSTALLATION, organization(0), device_id(501)),
                    &device_key(501),
                )
            });
            let sessions: Vec<SessionId> = (0..5)
                .map(|_| world.with_raw(raw, |raw, now| raw.dial(now, pop_id(0), pop_address(0))))
                .collect();
            world.wait(SECOND, |world| sessions.iter().all(|session| world.raws[raw].up.contains(session)));
            for session in sessions {
                let _ = world.with_raw(raw, |raw, _| raw.say(session, &Raw::hello()));
            }
        },
    );
    let lost: Vec<LostReason> = world.raws[number.expect("came")].lost.values().copied().collect();
    let often = lost.iter().filter(|lost| **lost == LostReason::ClosedByPeer(CloseCode::TooOften)).count();
    assert!(often > 50, "{often} of {}", lost.len());
}

/// Keeps: channel ids are 64 random bits, and a frame counts from the address that has proven itself
/// (`pop::core::relay`).
#[test]
fn channel_ids_that_are_guessed_move_nothing_and_are_answered_with_nothing() {
    let mut guess = 1_u64;
    let world = harms_nobody(
        73,
        |plan| plan,
        |world| {
            for _ in 0..200 {
                guess = guess.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let kind = [RelayKind::Data, RelayKind::Hello, RelayKind::Answer, RelayKind::Challenge]
                    [usize::try_from(guess >> 62).expect("small")];
                let mut payload = wire::encode_relay_header(kind, ChannelId::from_random(guess)).to_vec();
                payload.extend_from_slice(&[5; 200]);
                // From its own address, and in the name of another.
                for from in [raw_address(7), client_address(1)] {
                    world.inject(Packet { from, to: pop_address(0), payload: payload.clone() });
                }
            }
        },
    );
    let to_the_guesser = world.went_to.get(&(hostile::world::Node::Pop(0), raw_address(7)));
    assert_eq!(to_the_guesser, None, "not one byte");
    let dropped = world.pops[0].relay.counters().dropped;
    assert!(format!("{dropped:?}").len() > 2, "they came: {dropped:?}");
}

/// Keeps: what a connector lets a device reach is the connector's to say (`core::rules`), and flows of one device are
/// bounded.
#[test]
fn who_asks_for_every_port_and_for_what_is_forbidden_gets_none_of_it() {
    let mut port = 1_u16;
    let world = harms_nobody(
        74,
        |plan| plan.lying(0),
        |world| {
            for _ in 0..20 {
                port += 1;
                let target = format!("10.20.0.5:{}", if port == 80 { 81 } else { port });
                world.dial(0, &target);
                world.dial(0, FORBIDDEN);
            }
        },
    );
    assert!(port > 1_000);
    for part in &world.connectors {
        let wrong = part.dials.iter().find(|to| to.to_string() != STANDARD);
        assert_eq!(wrong, None, "somebody dialled into the site");
    }
    let denied: usize = world
        .connectors
        .iter()
        .flat_map(|part| &part.records)
        .filter(|record| record.verdict == connector::Verdict::Denied)
        .count();
    // Ten a second of a device are written down; the rest is counted.
    assert!(denied > 200, "they were refused by the connector and written down: {denied}");
}

/// Keeps: `FlowLimits::flows_per_link`.
#[test]
fn half_open_connections_of_one_device_leave_room_for_everybody_else() {
    let world = harms_nobody(
        75,
        |plan| plan,
        |world| {
            for _ in 0..30 {
                world.dial(0, HANGING);
            }
        },
    );
    let hanging = |part: &hostile::world::ConnectorPart| {
        part.dials.iter().filter(|to| to.to_string() == HANGING).count()
    };
    assert!(world.connectors.iter().map(hanging).sum::<usize>() > 500);
}

/// One device that starts anew all the time, and begins as many flows each time as it can.
///
/// Keeps: `FlowLimits::flows_per_link`, and that a session which another replaced takes its tunnels along. (With all tunnels
/// at once: `connector::core::tests`, `one_device_has_half_of_the_flows_at_the_most_…`, red with `a-device-takes-every-flow`.)
#[test]
fn flows_of_one_device_through_many_tunnels_leave_room_for_everybody_else() {
    let mut calls = 0_usize;
    let world = harms_nobody(
        76,
        // One connector, so that it is the one that would be full.
        |plan| plan.tenants(&[Tenant { connectors: 1, clients: 4 }]),
        |world| {
            calls += 1;
            if calls % 5 == 1 {
                world.restart_client(0);
            }
            for _ in 0..150 {
                world.dial(0, STANDARD);
            }
            world.pass(SECOND);
        },
    );
    assert!(calls >= 54);
    let dialled = world.connectors[0].dials.len();
    assert!(dialled > 1_000, "{dialled} flows were begun");
}

/// A client that says much and reads nothing of what comes back.
///
/// Keeps: windows of flows, and the buffers of one (`flow::limits`).
#[test]
fn who_never_reads_fills_its_own_windows_and_nobody_elses() {
    let mut flows = Vec::new();
    let world = harms_nobody(
        77,
        |plan| plan,
        |world| {
            world.clients[0].reads = hostile::world::Reads::Nothing;
            if flows.len() < 40
                && let Ok(flow) = world.try_to(0, STANDARD, SECOND * 2)
            {
                flows.push(flow);
            }
            for flow in flows.clone() {
                world.say(0, flow, &[b'x'; 16_384]);
            }
        },
    );
    assert!(flows.len() >= 20);
    let heard: usize = world.connectors.iter().map(hostile::world::ConnectorPart::bytes).sum();
    // Each flow's site has heard at most what fits into the buffers on the way there and back.
    let most = flows.len() * (4 * flow::FlowLimits::DEFAULT.buffer) + 100_000;
    assert!(heard > 1_000_000 && heard < most, "{heard} of at most {most}");
}

/// The longest frames there are, as many as a session may say.
///
/// Keeps: frames are bounded before they are read (`wire::frame`), and budgets count them.
#[test]
fn the_longest_frames_are_taken_up_to_the_budget() {
    let mut attacker = Attacker::new();
    let world = harms_nobody(
        78,
        |plan| plan,
        |world| {
            attacker.with(world, |raw, session, said| {
                for _ in 0..6 {
                    *said += 1;
                    let sealed = Bounded::new(vec![3; wire::MAX_SEALED_REQUEST]).expect("fits");
                    let _ = raw.say(session, &ToController { seq: *said, sealed }.into());
                }
            });
        },
    );
    assert!(world.controller.refused > 50, "{}", world.controller.refused);
}
