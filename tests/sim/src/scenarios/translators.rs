//! Worlds whose translators do whatever RFC 4787 has words for: mapping, filtering, ports kept, drawn and clashing, refresh by
//! one direction alone, mappings of 20 s, a handful of ports, hairpins at a provider.

use super::{MINUTE, MS, Report, SECOND, matrix::link, report, wait};
use crate::fast::{Address, Part, Place, Program, Record, Site, World};
use crate::world::{Behaviour, Hairpin, LinkRules, Mapping, NatRules, Ports, Random, Refresh, Time};
use tunnel::Path;

const BEHAVIOURS: [Behaviour; 3] =
    [Behaviour::EndpointIndependent, Behaviour::AddressDependent, Behaviour::AddressAndPortDependent];
/// The port of every socket here, as of an agent that is set to one: behind one translator they clash.
const PORT: u16 = 41_641;
/// As in the matrix: quick bursts that are lost whole, and the slow one at half a minute.
const DIRECT_WITHIN: Time = Time::from_secs(75);
/// After a pause longer than any mapping: the relay's mapping is renewed by what is sent.
const AWAKE_WITHIN: Time = Time::from_secs(8);

/// What is expected of two translators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Direct,
    Relay,
    /// The two meet or do not: ports kept, or dependent on the address alone. The tunnel carries.
    Either,
}

fn rules(chance: &mut Random) -> NatRules {
    let mapping = Mapping::By(*chance.pick(&BEHAVIOURS));
    let size = *chance.pick(&[60_000, 60_000, 24]);
    NatRules {
        mapping,
        filtering: *chance.pick(&BEHAVIOURS),
        ports: *chance.pick(&[Ports::Preserve, Ports::Random]),
        refresh: *chance.pick(&[Refresh::Outbound, Refresh::Both]),
        lifetime: *chance.pick(&[SECOND * 20, SECOND * 120]),
        hairpin: *chance.pick(&[Hairpin::Yes, Hairpin::No]),
        pool: 2_000..=2_000 + size,
    }
}

/// What the RFC's words say of two translators (docs/nat-expected.md, derivation).
fn expected(one: &NatRules, other: &NatRules) -> Expected {
    let is_one = |rules: &NatRules| rules.mapping == Mapping::By(Behaviour::EndpointIndependent);
    match (is_one(one), is_one(other)) {
        // Each is met where the PoP sees it, and each has opened its filter by its own probe.
        (true, true) => Expected::Direct,
        // The one with several ports is known by its address alone.
        (true, false) if one.filtering == Behaviour::AddressAndPortDependent => Expected::Relay,
        (false, true) if other.filtering == Behaviour::AddressAndPortDependent => Expected::Relay,
        (true, false) | (false, true) => Expected::Direct,
        (false, false) => Expected::Either,
    }
}

struct Scene {
    connector_at: Address,
    client_at: Address,
    expected: Expected,
    what: String,
}

fn apart(world: &mut World, chance: &mut Random) -> Scene {
    let nats = [rules(chance), rules(chance)];
    let [mut near, mut far] = [0_u8, 1].map(|index| {
        let rules = nats[usize::from(index)].clone();
        let link = LinkRules { loss: 0, ..link(chance) };
        Site::with_rules(&mut world.net, Place::Home, 1 + index, link, rules)
    });
    // A neighbour with the same port, who came first and keeps it.
    for site in [&mut near, &mut far] {
        if chance.per_mille(500) {
            let neighbour = Address { port: Some(PORT), ..site.address() };
            let host = world.add(Part::Connector, &neighbour);
            world.run_for(SECOND);
            debug_assert!(world.agent(host).part() == Part::Connector);
        }
    }
    Scene {
        connector_at: Address { port: Some(PORT), ..near.address() },
        client_at: Address { port: Some(PORT), ..far.address() },
        expected: expected(&nats[0], &nats[1]),
        what: format!("{nats:?}"),
    }
}

/// Two homes of one provider, whose translator has one address for both.
fn neighbours(world: &mut World, chance: &mut Random) -> Scene {
    let hairpin = *chance.pick(&[Hairpin::Yes, Hairpin::No]);
    let outer = NatRules { hairpin, ..NatRules::home() };
    let link = LinkRules { loss: 0, ..link(chance) };
    let mut homes = Site::neighbours(&mut world.net, 40, link, outer, &NatRules::home());
    let [connector_at, client_at] =
        [0, 1].map(|index: usize| Address { port: Some(PORT), ..homes[index].address() });
    let expected = if hairpin == Hairpin::Yes { Expected::Direct } else { Expected::Relay };
    Scene { connector_at, client_at, expected, what: format!("two homes of a provider, hairpin {hairpin:?}") }
}

pub(super) fn run(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let mut chance = Random::new(seed, "translators");
    let scene =
        if seed % 8 == 7 { neighbours(&mut world, &mut chance) } else { apart(&mut world, &mut chance) };
    let Scene { connector_at, client_at, expected, what } = scene;
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 3);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(MS(500)) });
    });
    let mut wrong = Vec::new();
    let up = wait(&mut world, SECOND * 8, |world| world.agent(client).experience.first.is_some());
    if up.is_none() {
        wrong.push(format!("no answer within 8 s: {what}"));
    }
    let is_direct = |world: &World| {
        let is_it =
            |one: u16, other: u16| matches!(world.agent(one).way_to(other), Some(Path::Direct { .. }));
        is_it(client, connector) && is_it(connector, client)
    };
    match expected {
        Expected::Direct if wait(&mut world, DIRECT_WITHIN, is_direct).is_none() => {
            wrong.push(format!("no direct path both ways in {DIRECT_WITHIN:?}: {what}"));
        }
        Expected::Relay => {
            world.run_for(MINUTE);
            if world.watch.moves.iter().any(|moved| matches!(moved.path, Some(Path::Direct { .. }))) {
                wrong.push(format!("no direct path is expected, and one was taken: {what}"));
            }
        }
        _ => world.run_for(MINUTE),
    }
    // Longer than any mapping lives without packets from inside, and then data again.
    world.with(client, |agent, now| agent.set_program(now, Program { every: None }));
    let pause = *chance.pick(&[SECOND * 22, SECOND * 45, SECOND * 200]);
    world.run_for(pause);
    let woken = world.now();
    world.with(client, |agent, now| agent.set_program(now, Program { every: Some(MS(500)) }));
    let is_back = wait(&mut world, AWAKE_WITHIN, |world| {
        world.agent(client).experience.last.is_some_and(|at| at > woken)
    });
    if is_back.is_none() {
        wrong.push(format!("nothing came back within {AWAKE_WITHIN:?} of a pause of {pause:?}: {what}"));
    }
    world.run_for(SECOND * 20);
    let last = world.agent(client).experience.last.unwrap_or_default();
    if last + SECOND * 5 < world.now() {
        wrong.push(format!("nothing came back since {last:?}: {what}"));
    }
    report(&world, wrong)
}
