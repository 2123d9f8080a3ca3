//! Worlds in which one path is better than another: it is found, and when another becomes the better one, that is taken.

use super::{MINUTE, MS, Report, SECOND, report, wait};
use crate::fast::{Part, Place, Program, Record, Site, World};
use crate::world::{Behaviour, Family, Hairpin, LinkRules, Mapping, NatRules, Time};
use tunnel::{MoveReason, Path};

/// The first choice: the quick bursts, of which none is lost here.
const FIRST_WITHIN: Time = Time::from_secs(10);
/// The asker looks for something better 30 s after a choice, then after twice as long each time. What changes within the first
/// half minute is seen by the second look at the latest, after 90 s, and three proofs later it is taken.
const BETTER_WITHIN: Time = Time::from_secs(100);
const QUICK: Time = Time::from_millis(20);
const SLOW: Time = Time::from_millis(80);

fn goes_by(world: &World, one: u16, other: u16, is_it: &dyn Fn(std::net::SocketAddr) -> bool) -> bool {
    match world.agent(one).way_to(other) {
        Some(Path::Direct { remote }) => is_it(remote),
        _ => false,
    }
}

pub(super) fn run(seed: u64) -> Report {
    if seed % 3 == 2 { lan_or_hairpin(seed) } else { two_families(seed) }
}

fn talk(world: &mut World, client: u16, connector: u16) {
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(MS(250)) });
    });
}

fn two_families(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let rules = LinkRules { jitter: MS(seed % 3), ..LinkRules::of_delay(MS(1)) };
    let places = [Place::Home, Place::Open, Place::FullCone];
    let sites = [1, 2].map(|number| {
        let place = *world.random.pick(&places);
        Site::build(&mut world.net, place, number, rules).dual_stack(&mut world.net)
    });
    let [connector_at, client_at] = sites.map(|mut site| site.address());
    let (mut quick, mut slow) = (Family::V4, Family::V6);
    if seed % 2 == 1 {
        (quick, slow) = (slow, quick);
    }
    world.net.slow_down(quick, QUICK);
    world.net.slow_down(slow, SLOW);
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    talk(&mut world, client, connector);
    let mut wrong = Vec::new();
    let both = |world: &World, family: Family| {
        let is_it = |to: std::net::SocketAddr| to.is_ipv4() == (family == Family::V4);
        goes_by(world, client, connector, &is_it) && goes_by(world, connector, client, &is_it)
    };
    if wait(&mut world, FIRST_WITHIN, |world| both(world, quick)).is_none() {
        wrong.push(format!("{quick:?} takes {QUICK:?} and {slow:?} {SLOW:?}, and {quick:?} is not used"));
    }
    let until = world.random.between(SECOND, SECOND * 25);
    world.run_for(until);
    // Providers change their routes.
    world.net.slow_down(quick, SLOW);
    world.net.slow_down(slow, QUICK);
    let changed = world.now();
    if wait(&mut world, BETTER_WITHIN, |world| both(world, slow)).is_none() {
        let ways = [world.agent(client).way_to(connector), world.agent(connector).way_to(client)];
        wrong.push(format!("{slow:?} became the better one at {changed:?}, and {ways:?} is used"));
    }
    for agent in [client, connector] {
        let is_better = |moved: &&crate::fast::Move| {
            moved.agent == agent && moved.at >= changed && moved.reason == MoveReason::Better
        };
        let moves = world.watch.moves.iter().filter(is_better).count();
        if moves != 1 {
            wrong.push(format!(
                "agent {agent} took a better path {moves} times after the one change at {changed:?}"
            ));
        }
    }
    world.run_for(MINUTE);
    if !both(&world, slow) {
        wrong.push("it was left again".to_owned());
    }
    report(&world, wrong)
}

/// Both behind one router that hairpins: by its outside address and by the LAN, which is shorter.
fn lan_or_hairpin(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    let mapping = Mapping::By(Behaviour::EndpointIndependent);
    let nat = NatRules { hairpin: Hairpin::Yes, mapping, ..NatRules::home() };
    let mut site = Site::with_rules(&mut world.net, Place::Home, 1, LinkRules::of_delay(MS(30)), nat);
    // The hosts' own links take time too, or nothing would be better by 5 ms.
    let link = LinkRules { jitter: MS(1), ..LinkRules::of_delay(MS(2)) };
    let connector_at = crate::fast::Address { link, ..site.address() };
    let client_at = crate::fast::Address { link, ..site.address() };
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    talk(&mut world, client, connector);
    let inside = |world: &World| {
        let is_lan =
            |to: std::net::SocketAddr| matches!(to.ip(), std::net::IpAddr::V4(ip) if ip.is_private());
        goes_by(world, client, connector, &is_lan) && goes_by(world, connector, client, &is_lan)
    };
    let mut wrong = Vec::new();
    if wait(&mut world, BETTER_WITHIN, inside).is_none() {
        let ways = [world.agent(client).way_to(connector), world.agent(connector).way_to(client)];
        wrong.push(format!("both are on one LAN, and {ways:?} is used"));
    }
    world.run_for(MINUTE * 2);
    if !inside(&world) {
        wrong.push("the LAN was left again".to_owned());
    }
    report(&world, wrong)
}
