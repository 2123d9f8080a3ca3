//! Worlds in which much goes wrong.

use super::{MINUTE, MS, Report, SECOND, matrix::link, report, wait};
use crate::fast::{Kind, Part, Place, Program, Record, Site, World};
use crate::world::{LinkRules, Mapping, NatRules, Time};
use std::net::Ipv4Addr;
use tunnel::Path;

struct Two {
    world: World,
    sites: [Site; 2],
    connector: u16,
    client: u16,
}

fn two(seed: u64, places: [Place; 2], rules: [LinkRules; 2], every: Time) -> Two {
    let mut world = World::new(seed, Record::All);
    let mut sites = [
        Site::build(&mut world.net, places[0], 1, rules[0]),
        Site::build(&mut world.net, places[1], 2, rules[1]),
    ];
    let addresses = [sites[0].address(), sites[1].address()];
    let connector = world.add(Part::Connector, &addresses[0]);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &addresses[1]);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(every) });
    });
    Two { world, sites, connector, client }
}

/// How long nothing came back at most, the time since the last included.
fn silence(world: &World, client: u16) -> Time {
    let experience = &world.agent(client).experience;
    experience.longest.0.max(world.now().saturating_sub(experience.last.unwrap_or_default()))
}

/// Instants of nine minutes, after the first, in which an agent asks an address that works one way only: the slow bursts at
/// 30, 90, 210 and 450 s, each of them twice, and one that the other side's make it ask. 16 seeds made nine at most.
const ONE_WAY_BURSTS: usize = 10;

/// When an agent asked addresses since then.
fn bursts_since(world: &World, agent: u16, since: Time) -> Vec<Time> {
    let is_it = |sent: &&crate::fast::Sent| {
        sent.agent == agent
            && sent.kind == Kind::Probe
            && sent.at >= since
            && matches!(sent.path, Path::Direct { .. })
    };
    let mut at: Vec<Time> = world.watch.sent.iter().filter(is_it).map(|sent| sent.at).collect();
    at.dedup();
    at
}

pub(super) fn one_way(seed: u64) -> Report {
    let rules = LinkRules::of_delay(MS(5 + seed % 40));
    let Two { mut world, connector, client, .. } = two(seed, [Place::Home, Place::Home], [rules; 2], MS(200));
    let mut wrong = Vec::new();
    let is_found = wait(&mut world, MINUTE, |world| {
        matches!(world.agent(client).way_to(connector), Some(Path::Direct { .. }))
    });
    if is_found.is_none() {
        wrong.push("no direct path in a minute".to_owned());
    }
    world.with(client, |agent, now| agent.experience.start_over(now));
    let (from, to) = if seed.is_multiple_of(2) { (client, connector) } else { (connector, client) };
    let (from, to) = (world.agent(from).host, world.agent(to).host);
    let cut_at = world.now();
    world.net.cut(from, to);
    world.run_for(MINUTE * 10);
    for agent in [client, connector] {
        let settled = cut_at + MINUTE;
        let bursts = bursts_since(&world, agent, settled);
        if bursts.len() > ONE_WAY_BURSTS {
            wrong.push(format!(
                "agent {agent} does not back off: it asks at {bursts:?} with the path cut at {cut_at:?}"
            ));
        }
    }
    // Three seconds of interruption; the program's interval and a round trip by the relay come on top.
    if silence(&world, client) > SECOND * 3 + MS(200) + rules.delay * 4 {
        let around = world.agent(client).experience.longest;
        let near: Vec<_> = world
            .watch
            .moves
            .iter()
            .filter(|moved| moved.at + SECOND * 8 > around.1 && moved.at < around.1 + SECOND)
            .collect();
        wrong.push(format!(
            "nothing came back for {:?} before {:?} with the path cut one way; moves near it: {near:?}",
            silence(&world, client),
            around.1
        ));
    }
    world.net.mend(from, to);
    // The slow bursts are ten minutes apart at most.
    let is_back = wait(&mut world, MINUTE * 11, |world| {
        matches!(world.agent(client).way_to(connector), Some(Path::Direct { .. }))
    });
    if is_back.is_none() {
        wrong.push("no direct path eleven minutes after it was mended".to_owned());
    }
    report(&world, wrong)
}

/// Of a thousand packets from an address that a second passes with, so many arrive by the relay at least: what goes out
/// before the PoP has asked the new address and heard it is lost. Of 1,510 seeds 1,509 let 121 to 134 of 300 through. In one the
/// client, to which nothing came back for 15 s, opened the tunnel anew, and the answers to that went to addresses that it had left:
/// ten seconds were missing, and 102 came.
const RESTLESS_SHARE: u64 = 300;

pub(super) fn restless(seed: u64) -> Report {
    let rules = LinkRules::of_delay(MS(5 + seed % 40));
    let Two { mut world, sites, connector, client } =
        two(seed, [Place::Home, Place::Home], [rules; 2], MS(200));
    world.run_for(SECOND * 20);
    let began = world.now();
    let (sent, before) = (world.agent(client).experience.sent, world.agent(connector).experience.came);
    for change in 0..60 {
        world.net.renumber(sites[1].realm(), Ipv4Addr::new(203, 0, 113, 100 + change % 100));
        world.run_for(SECOND);
    }
    let mut wrong = Vec::new();
    for (agent, other) in [(client, connector), (connector, client)] {
        let lists = world.watch.count(began, agent, other, Kind::Candidates);
        // A new list in four seconds, and said again after 0.5, 1.5 and 3.5 s while nobody has heard it.
        if lists > 4 * 16 {
            wrong.push(format!("agent {agent} told {lists} lists in a minute of changes"));
        }
    }
    let (sent, came) =
        (world.agent(client).experience.sent - sent, world.agent(connector).experience.came - before);
    if came * 1_000 < sent * RESTLESS_SHARE {
        wrong.push(format!("{came} of {sent} packets reached the connector in a minute of changes"));
    }
    let settled = world.now();
    let is_back = wait(&mut world, SECOND * 20, |world| {
        world.agent(client).experience.last.is_some_and(|at| at > settled)
    });
    if is_back.is_none() {
        wrong.push("nothing came back in 20 s after the last change".to_owned());
    }
    report(&world, wrong)
}

pub(super) fn port_per_packet(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let rules = LinkRules::of_delay(MS(5 + seed % 40));
    let connector_at = Site::build(&mut world.net, Place::Home, 1, rules).address();
    let nat = NatRules { mapping: Mapping::PerPacket, ..NatRules::home() };
    let mut broken = Site::with_rules(&mut world.net, Place::Home, 2, rules, nat);
    // No address of it can be proven: the session is found by TCP 443.
    let mut client_at = broken.address();
    client_at.needs_stream = true;
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(MS(200)) });
    });
    world.run_for(MINUTE * 10);
    let mut wrong = Vec::new();
    if world.agent(client).experience.came == 0 || silence(&world, client) > SECOND * 2 {
        wrong.push(format!("nothing came back for {:?}", silence(&world, client)));
    }
    report(&world, wrong)
}

/// Where whoever roams may go.
const ANYWHERE: [Place; 7] = Place::ALL;

pub(super) fn faults(seed: u64) -> Report {
    let mut chance = crate::world::Random::new(seed, "faults");
    let places = [*chance.pick(&ANYWHERE), *chance.pick(&ANYWHERE)];
    let rules = [link(&mut chance), link(&mut chance)];
    let Two { mut world, sites, connector, client } = two(seed, places, rules, MS(250));
    let mut realms = [sites[0].realm(), sites[1].realm()];
    let mut number = 3;
    let mut log = Vec::new();
    for _ in 0..8 {
        let time = chance.between(SECOND, SECOND * 40);
        world.run_for(time);
        let who = usize::from(chance.per_mille(500));
        let agent = [connector, client][who];
        let fault = chance.below(8);
        log.push(format!("{:?} {fault} on {agent}", world.now()));
        match fault {
            0 => {
                if let Some(nat) = world.net.gateway_mut(realms[who]).and_then(|gateway| gateway.nat.as_mut())
                {
                    nat.reboot();
                }
            }
            1 | 2 => {
                let place = *chance.pick(&ANYWHERE);
                let mut site = Site::build(&mut world.net, place, number, link(&mut chance));
                number += 1;
                realms[who] = site.realm();
                world.roam(agent, &site.address());
            }
            3 => {
                world.suspend(agent);
                let asleep = chance.between(SECOND, SECOND * 300);
                world.run_for(asleep);
                world.resume(agent);
            }
            4 => world.restart(agent),
            5 => world.restart_pop(),
            6 => {
                let (one, other) = (world.agent(connector).host, world.agent(client).host);
                let (from, to) = if who == 0 { (one, other) } else { (other, one) };
                world.net.cut(from, to);
                let time = chance.between(SECOND, SECOND * 30);
                world.run_for(time);
                world.net.mend(from, to);
            }
            _ => {
                let host = world.agent(agent).host;
                let before = *world.net.link_mut(host);
                let bad = LinkRules {
                    loss: 300,
                    reorder: 100,
                    duplicate: 50,
                    jitter: MS(50),
                    ..LinkRules::of_delay(MS(200))
                };
                *world.net.link_mut(host) = bad;
                let time = chance.between(SECOND, SECOND * 60);
                world.run_for(time);
                *world.net.link_mut(host) = before;
            }
        }
    }
    let settled = world.now();
    let is_back = wait(&mut world, SECOND * 30, |world| {
        world.agent(client).experience.last.is_some_and(|at| at > settled)
    });
    let mut wrong = Vec::new();
    if is_back.is_none() {
        wrong.push(format!("nothing came back in 30 s after the last fault ({})", log.join(", ")));
    }
    world.with(client, |agent, now| agent.experience.start_over(now));
    world.run_for(MINUTE);
    if silence(&world, client) > SECOND * 10 {
        wrong.push(format!(
            "nothing came back for {:?} in the quiet minute ({})",
            silence(&world, client),
            log.join(", ")
        ));
    }
    report(&world, wrong)
}
