//! Which addresses of a site are targets at all.

use super::*;

#[test]
fn a_name_reaches_only_the_sites_prefixes() {
    let destination = "[fd00::5]:80";
    for (answer, expected) in [
        (&["8.8.8.8"][..], Err(Refusal::OutsideSite)),
        (&["127.0.0.1"], Err(Refusal::RefusedRange)),
        (&["169.254.169.254"], Err(Refusal::RefusedRange)),
        (&["::ffff:169.254.169.254"], Err(Refusal::RefusedRange)),
        (&[], Err(Refusal::NameNotResolved)),
        (&["8.8.8.8", "10.0.0.8"], Ok("10.0.0.8:80")),
    ] {
        let mut world = World::new(named(destination, "db.internal"));
        let accept = world.introduce(world.intro()).expect("in");
        let path = Path::relay(POP, ChannelId::from_random(world.next_intro * 2));
        let peer = world.peer.expect("introduced");
        world.tunnels.accept_response(world.now, peer, accept.response.as_slice(), path).expect("true");
        world.settle();
        world.dial(accept.inner_v6.into(), destination);
        let Some(Output::Resolve { flow, host }) = world.asked.pop() else { panic!("a look-up") };
        assert_eq!(host, "db.internal");
        world.resolve(flow, answer);
        match expected {
            Ok(target) => {
                let Some(Output::Dial { addresses, .. }) = world.asked.pop() else { panic!("a dial") };
                assert_eq!(addresses, [address(target)]);
            }
            Err(refusal) => {
                assert!(world.asked.is_empty(), "{answer:?}");
                assert!(world.records[0].is_because_of(refusal), "{answer:?}: {:?}", world.records[0]);
            }
        }
    }
}

#[test]
fn refused_ranges_open_only_for_a_resource_that_names_the_address() {
    for (target, dialled) in [
        (Target::Literal("127.0.0.1".parse().expect("address")), true),
        (Target::InRange("127.0.0.1".parse().expect("address")), false),
    ] {
        let destination = address("127.0.0.1:8080");
        let rules = allowing(&format!("tcp://{}:{}", destination.ip(), destination.port()), target);
        let mut world = World::new(rules);
        let inner = world.enter();
        world.dial(inner, "127.0.0.1:8080");
        assert_eq!(matches!(world.asked.pop(), Some(Output::Dial { .. })), dialled);
        assert_eq!(world.records.iter().any(|record| record.is_because_of(Refusal::RefusedRange)), !dialled);
    }
}

#[test]
fn the_connectors_own_listeners_are_no_targets_of_a_range() {
    let destination = address("10.0.0.9:9");
    let target = Target::InRange(destination.ip());
    let rules = allowing(&format!("tcp://{}:{}", destination.ip(), destination.port()), target);
    let mut world = World::new(rules);
    let inner = world.enter();
    world.dial(inner, "10.0.0.9:9");
    assert!(world.asked.is_empty() && world.records[0].is_because_of(Refusal::RefusedRange));
}

#[test]
fn a_listener_that_is_bound_to_no_address_is_no_target_at_any_that_the_machine_has_in_any_spelling() {
    let refused = Some(Refusal::RefusedRange);
    for (port, found, expected) in [
        (9, "10.0.0.9", refused),
        (9, "::ffff:10.0.0.9", refused),
        (9, "10.0.0.7", None),
        (94, "10.0.0.7", refused),
        (94, "::ffff:10.0.0.7", refused),
        (94, "10.0.0.8", None),
        // Another program may have that port of the other family.
        (94, "fd00::7", Some(Refusal::OutsideSite)),
        (96, "fd00::7", refused),
        (96, "10.0.0.7", refused),
        (95, "10.0.0.7", None),
    ] {
        let destination = format!("10.0.0.99:{port}");
        let mut world = World::new(named(&destination, "metrics.internal"));
        let own = ["10.0.0.7", "fd00::7"].map(|text| text.parse().expect("address"));
        world.core.set_own_addresses(own.into());
        let inner = world.enter();
        world.dial(inner, &destination);
        let Some(Output::Resolve { flow, .. }) = world.asked.pop() else { panic!("a look-up") };
        world.resolve(flow, &[found]);
        assert_eq!(
            matches!(world.asked.pop(), Some(Output::Dial { .. })),
            expected.is_none(),
            "{found}:{port}"
        );
        let is_said = |refusal| world.records[0].is_because_of(refusal);
        assert!(expected.is_none_or(is_said), "{found}:{port}: {:?}", world.records);
    }
}

#[test]
fn an_address_that_policy_took_away_while_it_was_connected_to_is_refused_and_logged() {
    let mut world = World::new(named("10.0.0.99:80", "db.internal"));
    let inner = world.enter();
    let client = world.dial(inner, "10.0.0.99:80");
    let Some(Output::Resolve { flow, .. }) = world.asked.pop() else { panic!("a look-up") };
    world.resolve(flow, &["10.0.0.8"]);
    assert!(matches!(world.asked.pop(), Some(Output::Dial { .. })));
    // The name stays allowed; its address is outside of the site now.
    if let Some(rules) = &mut world.rules {
        rules.prefix = [10, 1];
    }
    world.recheck();
    assert!(!world.dialled(flow, Ok(address("10.0.0.8:80"))), "the connection is to be dropped");
    world.settle();
    assert_eq!(world.client_end(client), Some(CloseReason::Unreachable(Unreachable::Prohibited)));
    let [record] = &world.records[..] else { panic!("{:?}", world.records) };
    assert!(record.verdict == Verdict::Denied && record.is_because_of(Refusal::OutsideSite));
    assert_eq!(world.core.status().flows, 0);
}
