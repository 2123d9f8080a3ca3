//! Worlds in which little happens, and little must be sent.

use super::{MINUTE, MS, Report, SECOND, matrix::link, report, wait};
use crate::fast::{Kind, Part, Place, Program, Record, Site, World};
use crate::world::{LinkRules, Time};
use std::collections::BTreeMap;
use tunnel::{MoveReason, Path};

/// Places between which a direct path is found.
const REACHABLE: [Place; 4] = [Place::Open, Place::FullCone, Place::Home, Place::Cgn];

fn is_direct(world: &World, one: u16, other: u16) -> bool {
    matches!(world.agent(one).way_to(other), Some(Path::Direct { .. }))
}

/// Changes of the path that data takes between addresses, an hour: after the first, without loss. Two families
/// of like round trips tempt to more; 2,080 seeds made one at most.
const CHANGES_WITHOUT_LOSS: usize = 2;
/// With loss a path may end by twelve lost proofs in a row and be found again: at 30 % each way that is
/// 0.51¹² = 0.03 % of the doubts, of which an hour has about 1,300. 2,080 seeds made six at most (ADR 0006, Flapping).
const CHANGES_WITH_LOSS: usize = 8;

pub(super) fn steady(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let loss = [0, 100, 300][usize::try_from(seed % 3).expect("small")];
    let places = [*world.random.pick(&REACHABLE), *world.random.pick(&REACHABLE)];
    let mut addresses = Vec::new();
    for (number, place) in (1_u8..).zip(places) {
        // Like for like: the two families differ by jitter alone.
        let rules = LinkRules { loss: loss / 2, jitter: MS(20), ..LinkRules::of_delay(MS(25)) };
        let site = Site::build(&mut world.net, place, number, rules).dual_stack(&mut world.net);
        let mut site = site;
        addresses.push(site.address());
    }
    let connector = world.add(Part::Connector, &addresses[0]);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &addresses[1]);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(SECOND) });
    });
    let mut wrong = Vec::new();
    // At 30 % each way a probe is answered in 51 % of all cases, and the five bursts a minute may all miss. Of 8,000
    // seeds 8.2 % took more than 5 s, 0.4 % more than 30 s, one more than 90 s (123 s), none more than 240 s: each minute
    // leaves a twentieth, and six leave one in ten million.
    if wait(&mut world, MINUTE * 6, |world| is_direct(world, client, connector)).is_none() {
        wrong.push(format!("no direct path in six minutes at {loss} ‰ loss"));
    }
    let began = world.now();
    world.run_for(MINUTE * 60);
    for agent in [client, connector] {
        // Data that goes by the relay while a path is asked, and comes back to it, has not changed its path.
        let mut path = None;
        let mut changes = 0;
        for moved in world.watch.moves.iter().filter(|moved| moved.agent == agent) {
            let is_change = match (moved.reason, moved.path) {
                (MoveReason::Proven | MoveReason::Better, Some(to)) => path.replace(to) != Some(to),
                (MoveReason::Silent, _) => true,
                _ => false,
            };
            changes += usize::from(is_change && moved.at > began);
        }
        let most = if loss == 0 { CHANGES_WITHOUT_LOSS } else { CHANGES_WITH_LOSS };
        if changes > most {
            wrong.push(format!("agent {agent} changed its path {changes} times an hour at {loss} ‰ loss"));
        }
    }
    report(&world, wrong)
}

/// One packet in 20 s, in any minute.
const IDLE_WINDOW: Time = MINUTE;
const IDLE_PACKETS: usize = 3;

pub(super) fn idle(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let places = [*world.random.pick(&Place::ALL), *world.random.pick(&Place::ALL)];
    let rules = [link(&mut world.random), link(&mut world.random)].map(|link| LinkRules { loss: 0, ..link });
    let connector_at = Site::build(&mut world.net, places[0], 1, rules[0]).address();
    let client_at = Site::build(&mut world.net, places[1], 2, rules[1]).address();
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(SECOND) });
    });
    world.run_for(MINUTE);
    world.with(client, |agent, now| agent.set_program(now, Program { every: None }));
    // What the last data caused comes to its end: WireGuard's keepalive after ten seconds.
    world.run_for(SECOND * 15);
    let began = world.now();
    world.run_for(MINUTE * 15);
    let mut wrong = Vec::new();
    if world.agent(client).experience.came == 0 {
        wrong.push("the tunnel never carried anything".to_owned());
    }
    for agent in [client, connector] {
        let times: Vec<Time> = world
            .watch
            .sent
            .iter()
            .filter(|sent| sent.agent == agent && sent.at >= began)
            .map(|sent| sent.at)
            .collect();
        let crowd =
            times.windows(IDLE_PACKETS + 1).find(|window| window[IDLE_PACKETS] < window[0] + IDLE_WINDOW);
        if let Some(crowd) = crowd {
            wrong.push(format!(
                "agent {agent} sent {} packets in a minute while idle, at {crowd:?}",
                crowd.len()
            ));
        }
    }
    report(&world, wrong)
}

/// New lists of who roams: its interfaces, and what the PoP then sees.
const NEW_LISTS: usize = 2;
/// How often they are said, again after 0.5, 1.5 and 3.5 s while the relay moves; and one when a try is asked for.
const LISTS: usize = 5;

pub(super) fn roam(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let rules = LinkRules { loss: 0, ..link(&mut world.random) };
    let connector_at = Site::build(&mut world.net, Place::Home, 1, rules).address();
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let count = 3 + u8::try_from(world.random.below(6)).expect("small");
    let mut clients = Vec::new();
    for number in 0..count {
        let place = *world.random.pick(&Place::ALL);
        let rules = LinkRules { loss: 0, ..link(&mut world.random) };
        let at = Site::build(&mut world.net, place, 10 + number, rules).address();
        let client = world.add(Part::Client, &at);
        world.with(client, |agent, now| {
            agent.want(now, connector);
            agent.set_program(now, Program { every: Some(SECOND) });
        });
        clients.push(client);
    }
    world.run_for(MINUTE * 3);
    let mut wrong = Vec::new();
    // One that has a translator of its own to leave.
    let movers: Vec<u16> = clients
        .iter()
        .copied()
        .filter(|client| {
            world.net.addresses(world.agent(*client).host)[0].is_ipv4() && !world.is_by_stream(*client)
        })
        .collect();
    let Some(roamer) = movers.first().copied() else { return report(&world, wrong) };
    for client in &clients {
        world.with(*client, |agent, now| agent.experience.start_over(now));
    }
    let rules = LinkRules { loss: 0, ..link(&mut world.random) };
    let place = *world.random.pick(&REACHABLE);
    let to = Site::build(&mut world.net, place, 60, rules).address();
    let roamed = world.now();
    world.roam(roamer, &to);
    world.run_for(SECOND * 30);
    wrong.extend(judge_lists(&world, roamer, roamed));
    for client in clients {
        let experience = &world.agent(client).experience;
        let most = if client == roamer { SECOND * 6 } else { SECOND * 3 };
        let silent = world.now().saturating_sub(experience.last.unwrap_or_default());
        if experience.longest.0.max(silent) > most {
            wrong.push(format!(
                "agent {client} heard nothing for {:?} (roamer {roamer})",
                experience.longest.0.max(silent)
            ));
        }
    }
    report(&world, wrong)
}

/// Who roamed says so; nobody else has anything new to say. Who has only a relay asks for another try with the list that its
/// peer has, once in this time at most.
fn judge_lists(world: &World, roamer: u16, roamed: Time) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut newest: BTreeMap<(u16, Option<u16>), u32> = BTreeMap::new();
    let mut said: BTreeMap<(u16, Option<u16>), (usize, usize)> = BTreeMap::new();
    for list in &world.watch.lists {
        let pair = (list.agent, list.other);
        let is_new = newest.insert(pair, list.sequence) != Some(list.sequence);
        if list.at >= roamed {
            let counts = said.entry(pair).or_default();
            *counts = (counts.0 + usize::from(is_new), counts.1 + 1);
        }
    }
    for ((agent, other), (new, lists)) in said {
        let (most_new, most) = if agent == roamer { (NEW_LISTS, LISTS) } else { (0, 1) };
        if new > most_new || lists > most {
            wrong.push(format!(
                "agent {agent} said {lists} lists to {other:?}, {new} of them new, after agent {roamer} roamed"
            ));
        }
    }
    for agent in 0..world.len() {
        for other in (0..world.len()).filter(|other| *other != agent) {
            let heard = world.watch.count(roamed, agent, other, Kind::Heard);
            let told = world.watch.count(roamed, other, agent, Kind::Candidates);
            if heard > told {
                wrong
                    .push(format!("agent {agent} heard {heard} of the {told} lists that agent {other} said"));
            }
        }
    }
    wrong
}
