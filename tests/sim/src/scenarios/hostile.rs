//! Peers and strangers that mean harm.

use super::{MINUTE, MS, Report, SECOND, report, wait};
use crate::fast::{Kind, Part, Place, Program, Record, Site, World};
use crate::world::{LinkRules, Time};
use std::net::SocketAddr;
use tunnel::{Candidate, CandidateKind, Path, PathMessage};

/// Where a liar says it is: probes alone may go to the last, and nothing to the others.
const LIES: [&str; 19] = [
    "127.0.0.1:8080",
    "127.8.8.8:5000",
    "[::1]:8080",
    "169.254.169.254:8080",
    "[fe80::1]:5000",
    "[fd00:ec2::254]:8080",
    "100.100.100.200:8080",
    "224.0.0.251:5353",
    "[ff02::1]:5353",
    "0.0.0.0:9000",
    "[64:ff9b::7f00:1]:5000",
    "[2002:7f00:1::]:5000",
    "[::127.0.0.1]:5000",
    "10.99.0.1:9000",
    "100.64.9.9:9000",
    "[fd12:3456::9]:9000",
    // On the link of a home, where the connector is.
    "192.168.1.77:9000",
    "[2001:db8:1::77]:9000",
    THIRD_PARTY,
];
const THIRD_PARTY: &str = "192.0.2.77:9000";
/// Bursts of an hour: five a minute while lies are told, and one each ten minutes at least.
const LIES_TOLD: usize = 120;

pub(super) fn lying_peer(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let rules = LinkRules::of_delay(MS(5 + seed % 40));
    let connector_at =
        Site::build(&mut world.net, Place::Home, 1, rules).dual_stack(&mut world.net).address();
    let client_at = Site::build(&mut world.net, Place::Home, 2, rules).address();
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(SECOND) });
    });
    let mut wrong = Vec::new();
    if wait(&mut world, MINUTE, |world| world.agent(client).experience.first.is_some()).is_none() {
        wrong.push("the tunnel did not come up".to_owned());
    }
    let third: SocketAddr = THIRD_PARTY.parse().expect("an address");
    let began = world.now();
    for told in 0..LIES_TOLD {
        let kinds = [CandidateKind::Local, CandidateKind::Observed, CandidateKind::Mapped];
        let kind = *world.random.pick(&kinds);
        let address = |text: &&str| Candidate { kind, address: text.parse().expect("an address") };
        // And first that it is where the connector is seen, so that all of it might be its own network. A list holds sixteen.
        let own = SocketAddr::new([203, 0, 113, 1].into(), 50_000);
        let mut list = vec![Candidate { kind: CandidateKind::Observed, address: own }];
        let from = world.random.below(u64::try_from(LIES.len()).expect("few"));
        let turned = LIES.iter().cycle().skip(usize::try_from(from).expect("few"));
        list.extend(turned.take(14).chain([&THIRD_PARTY]).map(address));
        list.sort_unstable();
        list.dedup();
        let sequence = 1_000 + u32::try_from(told).expect("few");
        // An epoch of its own, so that every list is another process's.
        let epoch = 7_000 + u32::try_from(seed % 1_000).expect("small");
        let message = PathMessage::Candidates { epoch, sequence, round: 0, list }.encode();
        world.with(client, |agent, now| agent.seal_anything(now, &message));
        world.run_for(SECOND);
    }
    let forbidden: Vec<SocketAddr> = LIES[..LIES.len() - 1].iter().flat_map(|lie| lie.parse()).collect();
    let told = world.watch.sent.iter().find(|sent| sent.agent == connector && forbidden.contains(&sent.to));
    if let Some(sent) = told {
        wrong.push(format!("{:?} went to {}, where no peer can be", sent.kind, sent.to));
    }
    let mut to_third: Vec<Time> = Vec::new();
    for sent in
        world.watch.sent.iter().filter(|sent| sent.agent == connector && sent.at >= began && sent.to == third)
    {
        if sent.kind != Kind::Probe {
            wrong.push(format!("{:?} went to a third party", sent.kind));
        }
        to_third.push(sent.at);
    }
    if to_third.is_empty() {
        wrong.push("the lies were not believed at all, so that nothing was tested".to_owned());
    }
    if let Some(crowd) = to_third.windows(6).find(|window| window[5] < window[0] + MINUTE) {
        wrong.push(format!("six bursts in the minute from {:?} at a third party", crowd[0]));
    }
    report(&world, wrong)
}

/// Every key of a device gets four quick bursts if each has a budget of its own: this many keys in two minutes.
const KEYS: u32 = 60;

pub(super) fn reopening_liar(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let rules = LinkRules::of_delay(MS(5 + seed % 40));
    let connector_at = Site::build(&mut world.net, Place::Home, 1, rules).address();
    let client_at = Site::build(&mut world.net, Place::Home, 2, rules).address();
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(MS(200)) });
    });
    let mut wrong = Vec::new();
    if wait(&mut world, MINUTE, |world| world.agent(client).experience.first.is_some()).is_none() {
        wrong.push("the tunnel did not come up".to_owned());
    }
    let began = world.now();
    let ip = |host: u8| SocketAddr::from(([192, 0, 2, 100 + host], 9_000));
    for told in 0..KEYS {
        world.with(client, |agent, now| agent.take_another_key(now));
        world.run_for(SECOND);
        let mut list: Vec<Candidate> =
            (0..16).map(|host| Candidate { kind: CandidateKind::Observed, address: ip(host) }).collect();
        list.sort_unstable();
        let message = PathMessage::Candidates { epoch: 7_000 + told, sequence: 1, round: 0, list }.encode();
        world.with(client, |agent, now| agent.seal_anything(now, &message));
        world.run_for(SECOND);
    }
    for host in 0..16 {
        let is_it =
            |sent: &&crate::fast::Sent| sent.agent == connector && sent.at >= began && sent.to == ip(host);
        let at: Vec<Time> = world.watch.sent.iter().filter(is_it).map(|sent| sent.at).collect();
        if at.is_empty() {
            wrong.push(format!("{} was never asked, so that nothing was tested", ip(host)));
        }
        if let Some(crowd) = at.windows(6).find(|window| window[5] < window[0] + MINUTE) {
            wrong.push(format!(
                "six bursts in the minute from {:?} at {} for one device",
                crowd[0],
                ip(host)
            ));
        }
    }
    report(&world, wrong)
}

pub(super) fn thief(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let rules = LinkRules::of_delay(MS(5 + seed % 40));
    // Between these two there is the relay alone.
    let connector_at = Site::build(&mut world.net, Place::Symmetric, 1, rules).address();
    let client_at = Site::build(&mut world.net, Place::Symmetric, 2, rules).address();
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(MS(200)) });
    });
    let mut wrong = Vec::new();
    let is_up = wait(&mut world, MINUTE, |world| {
        matches!(world.agent(client).way_to(connector), Some(Path::Relay { .. }))
            && world.agent(client).experience.first.is_some()
    });
    if is_up.is_none() {
        wrong.push("the tunnel did not come up".to_owned());
    }
    world.with(client, |agent, now| agent.experience.start_over(now));
    world.let_steal_from(client);
    world.run_for(MINUTE * 2);
    if world.stolen() > 0 || world.relay_moves() > 0 {
        wrong.push(format!("{} packets went to the thief, {} moves", world.stolen(), world.relay_moves()));
    }
    let gap = world.agent(client).experience.longest.0;
    if gap > SECOND * 2 {
        wrong.push(format!("the owner heard nothing for {gap:?}"));
    }
    report(&world, wrong)
}
