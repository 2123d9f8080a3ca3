//! Every network against every other, with the table of docs/nat-expected.md as the judge.

use super::{MINUTE, MS, Report, SECOND, report, wait};
use crate::fast::{Part, Place, Program, Record, Site, World};
use crate::world::{LinkRules, Random, Time};
use tunnel::Path;

const TABLE: &str = include_str!("../../../../docs/nat-expected.md");

/// The expected path, from the table of the document.
#[must_use]
pub fn expected(client: Place, connector: Place) -> &'static str {
    let cells = |line: &'static str| line.split('|').map(str::trim).filter(|cell| !cell.is_empty());
    let rows = || TABLE.lines().filter(|line| line.starts_with('|'));
    let head = rows().find(|line| line.contains(r"client \ connector")).expect("the table has a head");
    let column = cells(head).position(|cell| cell == connector.name()).expect("each network has a column");
    let body = rows().skip_while(|line| *line != head).skip(2);
    let row = body.into_iter().find(|line| cells(line).next() == Some(client.name()));
    cells(row.expect("each network has a row")).nth(column).expect("each row is whole")
}

/// Two places, or one LAN of this place, by the seed: every cell comes in turn.
fn cell(seed: u64) -> (Place, Option<Place>) {
    let lans = [Place::Home, Place::Symmetric, Place::UdpBlocked];
    let count = Place::ALL.len();
    let index = usize::try_from(seed).unwrap_or(usize::MAX) % (count * count + lans.len());
    match index.checked_sub(count * count) {
        Some(lan) => (lans[lan], None),
        None => (Place::ALL[index / count], Some(Place::ALL[index % count])),
    }
}

pub(super) fn link(random: &mut Random) -> LinkRules {
    LinkRules {
        jitter: random.up_to(MS(4)),
        loss: u32::try_from(random.below(8)).expect("small"),
        ..LinkRules::of_delay(random.between(MS(1), MS(60)))
    }
}

pub(super) fn run(seed: u64) -> Report {
    let (client_place, connector_place) = cell(seed);
    let mut world = World::new(seed, Record::All);
    let links = [link(&mut world.random), link(&mut world.random)];
    let mut near = Site::build(&mut world.net, client_place, 1, links[0]);
    let client_at = near.address();
    let connector_at = match connector_place {
        Some(place) => Site::build(&mut world.net, place, 2, links[1]).address(),
        None => near.address(),
    };
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 3);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(MS(500)) });
    });
    let began = world.now();
    let mut wrong = Vec::new();
    let up = wait(&mut world, SECOND * 30, |world| world.agent(client).experience.first.is_some());
    match up {
        None => wrong.push("no answer within 30 s".to_owned()),
        Some(up) if up > began + SECOND * 8 => wrong.push(format!("the first answer took {:?}", up - began)),
        Some(_) => {}
    }
    let expected = connector_place.map_or("direct", |place| expected(client_place, place));
    let both = |world: &World| {
        let is_direct =
            |one: u16, other: u16| matches!(world.agent(one).way_to(other), Some(Path::Direct { .. }));
        is_direct(client, connector) && is_direct(connector, client)
    };
    let name = format!("{} × {}", client_place.name(), connector_place.map_or("its LAN", Place::name));
    if expected == "direct" {
        // Two bursts may be lost whole; the third is at one second, the fourth at three.
        if wait(&mut world, SECOND * 40, both).is_none() {
            wrong.push(format!("{name}: no direct path both ways in 40 s"));
        }
    } else {
        world.run_for(MINUTE);
        let moves = world.watch.moves.iter().filter(|moved| matches!(moved.path, Some(Path::Direct { .. })));
        if let Some(moved) = moves.into_iter().next() {
            wrong.push(format!(
                "{name}: {expected} is expected, and agent {} went {:?}",
                moved.agent, moved.path
            ));
        }
    }
    world.with(client, |agent, now| agent.experience.start_over(now));
    world.run_for(MINUTE);
    let last = world.agent(client).experience.last.unwrap_or(Time::ZERO);
    if last + SECOND * 5 < world.now() {
        wrong.push(format!("{name}: nothing came back since {last:?}"));
    }
    report(&world, wrong)
}

/// Within this of its arrival a device uses the LAN that it shares with its connector: it is introduced anew after 2 s, and
/// the bursts of its roam may be spent.
const HOME_WITHIN: Time = Time::from_secs(75);

/// A device that comes into its connector's LAN.
pub(super) fn homecoming(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let links = [link(&mut world.random), link(&mut world.random)].map(|link| LinkRules { loss: 0, ..link });
    let mut home = Site::build(&mut world.net, Place::Home, 1, links[0]);
    let connector_at = home.address();
    // Homes have the same addresses inside: the connector's is on this link too, and is somebody else there.
    let away = *world.random.pick(&[Place::Home, Place::Cgn, Place::Symmetric, Place::Open]);
    let client_at = Site::build(&mut world.net, away, 2, links[1]).address();
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(MS(500)) });
    });
    world.run_for(MINUTE);
    let inside = connector_at.addresses[0];
    let mut wrong = Vec::new();
    let strangers = world.watch.sent.iter().filter(|sent| sent.agent == client && sent.to.ip() == inside);
    if let Some(sent) = strangers.into_iter().next() {
        wrong.push(format!("{:?} went to {} of another home", sent.kind, sent.to));
    }
    let arrived = world.now();
    world.roam(client, &home.address());
    let is_near = |world: &World| match world.agent(client).way_to(connector) {
        Some(Path::Direct { remote }) => remote.ip() == inside,
        _ => false,
    };
    if wait(&mut world, HOME_WITHIN, is_near).is_none() {
        let way = world.agent(client).way_to(connector);
        wrong.push(format!(
            "from {} at {arrived:?}: no path on the LAN in {HOME_WITHIN:?}: {way:?}",
            away.name()
        ));
    }
    report(&world, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_document_is_read_as_it_stands() {
        assert_eq!(expected(Place::Open, Place::Symmetric), "direct");
        assert_eq!(expected(Place::Home, Place::Symmetric), "relay");
        assert_eq!(expected(Place::Ipv6Only, Place::Ipv6Only), "direct");
        assert_eq!(expected(Place::UdpBlocked, Place::Open), "tcp");
    }
}
