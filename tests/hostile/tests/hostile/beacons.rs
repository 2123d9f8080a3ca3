//! A PoP that holds back, repeats or invents what controllers say to everybody.

use crate::cheats::{
    Answers, Shared, Switch, from_agent, from_signer, instead, meddling, saying, ten_minutes_late, to_agent,
};
use agent::Freshness;
use hostile::documents::{Journal, document};
use hostile::installation::{
    CONTROLLER, INSTALLATION, Installation, MINUTE, SECOND, STANDARD, STRICT, connector_id, device_id,
};
use hostile::world::{Plan, World};
use hostile_session::{Cheat, Frame, Verdict, Way};
use std::collections::BTreeMap;
use std::time::Duration;
use trust::{Beacon, KeyRole, RevokedSubject, Role, SigningKey, sign_document};
use wire::{BeaconPush, FromAgent, FromSigner, ToAgent};

fn freshness(world: &World) -> Freshness {
    world.connectors[0].node.agent().freshness(world.now)
}

/// How far a connector's time is from the true one.
fn off(world: &World) -> Duration {
    let (own, true_time) = (world.connectors[0].node.wall(world.now), world.wall());
    own.since(true_time).max(true_time.since(own))
}

/// Keeps: the age of a beacon is counted from what it says, and not from when it came (`agent::clock`, `age`). Red with
/// `a-beacon-is-as-old-as-its-arrival`, `always-fresh`.
#[test]
fn beacons_ten_minutes_late_isolate_and_close_strict_resources_and_lengthen_no_lease() {
    for answers in [Answers::InTime, Answers::Late] {
        let late = Switch::default();
        let life = MINUTE * 40;
        let mut world = Plan::new(1).life(life, life).pops([ten_minutes_late(&late, answers)]).build();
        world.settle();
        let (standard, strict) = (world.connect(0, STANDARD), world.connect(0, STRICT));
        late.on();
        let began = world.now;
        let mut anchors = world.connectors[0].node.agent().stats().anchors;
        world.pass(SECOND * 17);
        assert!(freshness(&world) >= Freshness::Stale, "17 s after");
        world.pass(SECOND * 53);
        assert_eq!(freshness(&world), Freshness::Isolated, "70 s after");
        let dials = world.connectors[0].dials.len();
        assert!(world.try_to(0, STRICT, SECOND * 20).is_err(), "no new flow to a strict resource");
        assert_eq!(world.connectors[0].dials.len(), dials);
        // The late ones come now, one each second, and make nothing new.
        while world.now < began + MINUTE * 20 {
            world.pass(SECOND * 30);
            // An answer to a question of its own is as new as the question: where the PoP lets it through, it counts, and
            // brings the heads of all strikes with it. Nothing else does.
            let anchored = world.connectors[0].node.agent().stats().anchors;
            if std::mem::replace(&mut anchors, anchored) == anchored {
                assert_ne!(freshness(&world), Freshness::Fresh, "{:?} after", world.now - began);
            } else {
                assert_eq!(answers, Answers::InTime);
            }
            assert!(off(&world) <= MINUTE, "{:?} off", off(&world));
            assert!(world.echo(0, standard, b"x", SECOND), "a standard resource goes on");
        }
        if answers == Answers::InTime {
            continue;
        }
        assert!(world.try_to(0, STRICT, SECOND * 20).is_err(), "still none");
        assert!(!world.echo(0, strict, b"x", SECOND * 5), "and what ran has had its grace");
        // Not one second more than the grant says.
        world.pass(life.saturating_sub(world.elapsed()) + SECOND * 2);
        let bytes = world.connectors[0].bytes();
        assert!(!world.echo(0, standard, b"after the end", SECOND * 10));
        assert!(world.try_to(0, STANDARD, SECOND * 20).is_err());
        assert_eq!(world.connectors[0].bytes(), bytes, "nothing reached the site");
    }
}

/// Keeps: the same, and [`agent::Freshness`] of whoever knows of strikes that it does not get.
#[test]
fn a_strike_that_a_pop_hides_is_enforced_by_way_of_another() {
    let late = Switch::default();
    let hides = late.clone();
    let hostile = meddling(move |frame, _| match (from_signer(frame), from_agent(frame)) {
        (Some(FromSigner::Strike(_) | FromSigner::PublishBeacon(_)), _) if hides.is_on() => Verdict::Drop,
        _ => Verdict::Pass,
    });
    let mut world = Plan::new(2).pops([hostile, Cheat::default()]).build();
    world.settle();
    let flow = world.connect(0, STANDARD);
    late.on();
    world.strike(RevokedSubject::Device(device_id(0)));
    world.pass(SECOND * 5);
    let bytes = world.connectors[0].bytes();
    assert!(!world.echo(0, flow, b"after the strike", SECOND * 10));
    assert!(world.try_to(0, STANDARD, SECOND * 20).is_err());
    assert_eq!(world.connectors[0].bytes(), bytes, "nothing reached the site five seconds after");
}

/// Keeps: `withheld_since` in `agent::documents`, and the age of beacons. Red with `withheld-strikes-are-not-missed`,
/// `a-first-strike-is-not-missed`, `heads-of-beacons-unread`.
#[test]
fn a_connector_that_only_hostile_pops_reach_says_that_it_is_stale_and_ends_with_the_lease() {
    // One lets beacons through and hides the strike they speak of; the other lets nothing through.
    for lets_beacons_through in [true, false] {
        let hides = Switch::default();
        let switch = hides.clone();
        let hostile = move || {
            let switch = switch.clone();
            meddling(move |frame, _| {
                if !switch.is_on() {
                    return Verdict::Pass;
                }
                match (from_signer(frame), to_agent(frame)) {
                    (Some(FromSigner::Strike(_)), _) => Verdict::Drop,
                    (Some(FromSigner::PublishBeacon(_)), _) if !lets_beacons_through => Verdict::Drop,
                    (Some(FromSigner::Reply(_)), _) => Verdict::Drop,
                    (_, Some(ToAgent::Revocations(_))) => Verdict::Drop,
                    _ => Verdict::Pass,
                }
            })
        };
        let life = MINUTE * 30;
        let mut world = Plan::new(3).life(life, life).pops([hostile(), hostile()]).build();
        world.settle();
        let flow = world.connect(0, STANDARD);
        hides.on();
        world.strike(RevokedSubject::Device(device_id(0)));
        // The promise is 15 s: a second to the PoP, five to the connector, nine until it says so.
        world.pass(Duration::from_millis(15_100));
        assert!(freshness(&world) >= Freshness::Stale, "beacons pass: {lets_beacons_through}");
        world.pass(MINUTE);
        assert_eq!(freshness(&world), Freshness::Isolated, "beacons pass: {lets_beacons_through}");
        assert!(world.try_to(0, STRICT, SECOND * 20).is_err());
        world.pass(life.saturating_sub(world.elapsed()) + SECOND * 2);
        let bytes = world.connectors[0].bytes();
        assert!(!world.echo(0, flow, b"after the end", SECOND * 10));
        assert_eq!(world.connectors[0].bytes(), bytes);
    }
}

/// Keeps: a beacon as new as one before is not news (`Moved::No`), and its signature. Red with `always-fresh`.
#[test]
fn beacons_said_again_and_beacons_invented_make_nobody_fresh() {
    let stranger = Installation::under_root([50; 32], Vec::new(), 0);
    let mut kept = None;
    let invented = {
        let beacon = Beacon {
            installation: INSTALLATION,
            controller: CONTROLLER,
            time: hostile::installation::WALL.plus(MINUTE * 4),
            versions: BTreeMap::new(),
            heads: BTreeMap::new(),
            nonce: None,
            ext: None,
        };
        let own = SigningKey::from_seed(&[66; 32]);
        [&own, &stranger.keys[&KeyRole::Beacon]]
            .map(|key| document(&sign_document(key, &beacon).expect("signs")))
    };
    let again = Switch::default();
    let switch = again.clone();
    let mut at = None;
    let hostile = Cheat {
        meddle: Some(Box::new(move |frame, _| match to_agent(frame) {
            Some(ToAgent::BeaconPush(_)) if kept.is_none() => {
                kept = Some(frame.clone());
                Verdict::Pass
            }
            Some(ToAgent::BeaconPush(_)) if switch.is_on() => {
                let old = kept.clone().expect("one came first");
                let mut frames = vec![(Duration::ZERO, Frame { session: frame.session, ..old })];
                frames.extend(
                    invented
                        .iter()
                        .map(|beacon| saying(frame, BeaconPush { beacon: beacon.clone() }))
                        .map(|frame| (Duration::ZERO, frame)),
                );
                Verdict::Instead(frames)
            }
            _ => Verdict::Pass,
        })),
        // The core has one push each five seconds; this one wants more.
        invent: Some(Box::new(move |now, peers| {
            let due = at.is_none_or(|at| now >= at + SECOND);
            if !due {
                return Vec::new();
            }
            at = Some(now);
            let keepalive = FromAgent::from(wire::Keepalive {});
            peers
                .iter()
                .filter(|(_, peer)| peer.role() == Role::Connector)
                .map(|(session, peer)| Frame {
                    way: Way::In,
                    session: *session,
                    peer: *peer,
                    frame_type: keepalive.frame_type(),
                    body: keepalive.encode_body(),
                })
                .collect()
        })),
        identity: None,
    };
    let mut world = Plan::new(4).pops([hostile]).build();
    world.settle();
    world.pass(SECOND * 20);
    again.on();
    world.controller.is_dead = true;
    world.pass(SECOND * 17);
    assert_eq!(freshness(&world), Freshness::Stale);
    world.pass(SECOND * 60);
    assert_eq!(freshness(&world), Freshness::Isolated);
    assert!(off(&world) <= MINUTE);
    let stats = world.connectors[0].node.agent().stats();
    assert!(stats.beacons_refused >= 10, "the invented ones came: {stats:?}");
}

/// Keeps: a set of strikes only grows (`RevocationSet::insert`, `Strikes::learn`). Red with
/// `the-last-list-of-strikes-counts`.
#[test]
fn strikes_of_the_past_said_again_give_nothing_back() {
    let again = Switch::default();
    let (switch, says) = (again.clone(), again.clone());
    let first = Shared::<Option<wire::Revocations>>::new();
    let kept = first.clone();
    let mut at = None;
    let hostile = Cheat {
        meddle: Some(Box::new(move |frame, _| match (to_agent(frame), from_agent(frame)) {
            (Some(ToAgent::Revocations(told)), _) => {
                kept.with(|kept| {
                    kept.get_or_insert(told);
                });
                Verdict::Pass
            }
            // Whoever registers is told of the first strike alone, and who asks for more is not heard.
            (Some(ToAgent::Welcome(mut welcome)), _) if switch.is_on() => {
                welcome.revocations =
                    kept.with(|kept| kept.clone()).map(|told| told.entries).unwrap_or_default();
                instead(saying(frame, welcome))
            }
            (_, Some(FromAgent::GetRevocations(_))) if switch.is_on() => Verdict::Drop,
            _ => Verdict::Pass,
        })),
        // And the first list is said again and again.
        invent: Some(Box::new(move |now, peers| {
            let is_due = says.is_on() && at.is_none_or(|at| now >= at + SECOND);
            let Some(told) = first.with(|first| first.clone()).filter(|_| is_due) else { return Vec::new() };
            at = Some(now);
            let message = ToAgent::from(told);
            peers
                .iter()
                .filter(|(_, peer)| peer.role() == Role::Connector)
                .map(|(session, peer)| Frame {
                    way: Way::Out,
                    session: *session,
                    peer: *peer,
                    frame_type: message.frame_type(),
                    body: message.encode_body(),
                })
                .collect()
        })),
        identity: None,
    };
    let mut world =
        Plan::new(5).tenants(&[hostile::world::Tenant { connectors: 1, clients: 2 }]).pops([hostile]).build();
    world.settle();
    world.strike(RevokedSubject::Device(device_id(1)));
    world.pass(SECOND * 2);
    let flow = world.connect(0, STANDARD);
    world.strike(RevokedSubject::Device(device_id(0)));
    world.pass(SECOND * 2);
    again.on();
    world.pass(SECOND * 10);
    let (dials, bytes) = (world.connectors[0].dials.len(), world.connectors[0].bytes());
    for client in [0, 1] {
        world.restart_client(client);
        assert!(world.try_to(client, STANDARD, SECOND * 20).is_err(), "client {client}");
    }
    assert!(!world.echo(0, flow, b"x", SECOND));
    assert_eq!((world.connectors[0].dials.len(), world.connectors[0].bytes()), (dials, bytes));
    let revocations = world.connectors[0].node.agent().revocations();
    for device in [0, 1] {
        assert!(revocations.is_struck(RevokedSubject::Device(device_id(device)), 1), "device {device}");
    }
}

/// Keeps: a strike counts by its signature under the beacon role (`Unverified::verify`), at the PoP and at connectors. Red
/// with `strikes-need-no-signature`.
#[test]
fn strikes_that_no_controller_signed_strike_nobody() {
    let stranger = Installation::under_root([50; 32], Vec::new(), 0);
    let wall = hostile::installation::WALL;
    let mut entries = Vec::new();
    for subject in [RevokedSubject::Device(device_id(0)), RevokedSubject::Connector(connector_id(0))] {
        entries.push(Journal::default().strike(&stranger, subject, wall));
    }
    let mut is_told = false;
    let hostile = meddling(move |frame, _| match to_agent(frame) {
        Some(ToAgent::BeaconPush(_)) if !is_told => {
            is_told = true;
            let told = wire::Revocations { entries: entries.clone() };
            Verdict::Instead(vec![(Duration::ZERO, saying(frame, told)), (Duration::ZERO, frame.clone())])
        }
        _ => Verdict::Pass,
    });
    let mut world = Plan::new(6).pops([hostile]).build();
    world.settle();
    let flow = world.connect(0, STANDARD);
    world.pass(SECOND * 10);
    assert!(world.echo(0, flow, b"x", SECOND));
    assert_eq!(world.connectors[0].node.agent().stats().revocations_refused, 2);
    assert_eq!(world.connectors[0].node.agent().revocations().len(), 0);
}
