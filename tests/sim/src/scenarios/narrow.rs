//! Worlds whose links carry less than others do, and change what they carry.

use super::{MINUTE, MS, Report, SECOND, report, wait};
use crate::fast::{Length, Part, Place, Program, Record, Site, World};
use crate::world::{LinkRules, RealmId, Time};
use tunnel::{BASE_MTU, MAX_INNER_PACKET, Path};
use wire::RELAY_HEADER_LEN;

/// Header and tag of a transport packet.
const WIREGUARD: usize = 32;
/// The steps between two lengths that are tried.
const STEP: usize = 32;
/// Long packets that are lost are noticed within this, and others go.
const BLACK_HOLE: Time = Time::from_millis(3_500);
/// Four halvings of three questions each.
const FOUND_WITHIN: Time = Time::from_secs(12);

/// The longest inner packet that a link takes whose longest payload is this.
const fn most(longest: usize, way: Path) -> usize {
    match way {
        // The PoP's own link is one of IPv6 on Ethernet.
        Path::Relay { .. } => {
            let pop = LinkRules::PERFECT.longest;
            (if longest < pop { longest } else { pop }) - WIREGUARD - RELAY_HEADER_LEN
        }
        _ => longest - WIREGUARD,
    }
}

/// Whether what an agent believes is what the links carry, less a step.
fn judge(world: &World, one: u16, other: u16, longest: usize) -> Result<(), String> {
    let agent = world.agent(one);
    let (Some(way), Some(mtu)) = (agent.way_to(other), agent.mtu_to(other)) else {
        return Err(format!("agent {one} has no way"));
    };
    let carries = most(longest, way);
    let found =
        mtu <= carries && (mtu == MAX_INNER_PACKET || mtu + STEP > carries || carries < BASE_MTU + STEP);
    if found { Ok(()) } else { Err(format!("agent {one} sends {mtu} by {way:?}, which carries {carries}")) }
}

fn set(world: &mut World, realms: [RealmId; 2], longest: usize) {
    for realm in realms {
        if let Some(gateway) = world.net.gateway_mut(realm) {
            gateway.link.longest = longest;
        }
    }
}

pub(super) fn narrow(seed: u64) -> Report {
    let mut world = World::new(seed, Record::All);
    // A direct path, or the relay alone.
    let place = if seed.is_multiple_of(3) { Place::Symmetric } else { Place::Home };
    let delay = MS(2 + seed % 60);
    // From what every way carries to the longest that there is, and beyond.
    let least = 1_184 + WIREGUARD + RELAY_HEADER_LEN;
    let longest = least + usize::try_from(world.random.below(280)).expect("small");
    let rules = LinkRules { longest, ..LinkRules::of_delay(delay) };
    let mut sites = [1, 2].map(|number| Site::build(&mut world.net, place, number, rules));
    let realms = [sites[0].realm(), sites[1].realm()];
    let (connector_at, client_at) = (sites[0].address(), sites[1].address());
    let connector = world.add(Part::Connector, &connector_at);
    world.run_for(SECOND * 2);
    let client = world.add(Part::Client, &client_at);
    world.with(client, |agent, now| {
        agent.want(now, connector);
        agent.set_program(now, Program { every: Some(MS(50)) });
    });
    let mut wrong = Vec::new();
    // Short packets ask for nothing.
    world.run_for(SECOND * 20);
    for (one, other) in [(client, connector), (connector, client)] {
        if world.agent(one).mtu_to(other) != Some(BASE_MTU) {
            wrong.push(format!("agent {one} asked how long packets may be and sends short ones"));
        }
    }
    for agent in [client, connector] {
        world.with(agent, |agent, _| agent.length = Length::Most);
    }
    let both = |world: &World, longest: usize| {
        [(client, connector), (connector, client)]
            .into_iter()
            .find_map(|(one, other)| judge(world, one, other, longest).err())
    };
    if wait(&mut world, FOUND_WITHIN, |world| both(world, longest).is_none()).is_none() {
        wrong.push(format!("links of {longest}: {}", both(&world, longest).unwrap_or_default()));
    }
    // The links carry less from one packet to the next, and nobody says so.
    let narrower = least + usize::try_from(world.random.below(280)).expect("small");
    world.with(client, |agent, now| agent.experience.start_over(now));
    set(&mut world, realms, narrower);
    world.run_for(BLACK_HOLE);
    let gap = world.agent(client).experience.longest.0;
    let silent = world.now().saturating_sub(world.agent(client).experience.last.unwrap_or_default());
    if gap.max(silent) > BLACK_HOLE {
        wrong.push(format!(
            "nothing came back for {:?} after links of {longest} became {narrower}",
            gap.max(silent)
        ));
    }
    // The longer ones are found again when their time has come, ten minutes later; those before are kept.
    world.with(client, |agent, now| agent.set_program(now, Program { every: Some(SECOND) }));
    let is_known = longest.min(narrower);
    let each = |world: &World| {
        [(client, connector), (connector, client)].into_iter().all(|(one, other)| {
            let agent = world.agent(one);
            let (Some(way), Some(mtu)) = (agent.way_to(other), agent.mtu_to(other)) else { return false };
            // Who was still asking when the links became wider stops anywhere between.
            let is_no_less = mtu == MAX_INNER_PACKET || mtu + STEP > most(is_known, way);
            mtu <= most(narrower, way) && (is_no_less || most(is_known, way) < BASE_MTU + STEP)
        })
    };
    if wait(&mut world, MINUTE, each).is_none() {
        let why = both(&world, is_known).unwrap_or_default();
        wrong.push(format!("links of {longest} that became {narrower}: {why}"));
    }
    if wait(&mut world, MINUTE * 11, |world| both(world, narrower).is_none()).is_none() {
        wrong.push(format!("links of {narrower}: {}", both(&world, narrower).unwrap_or_default()));
    }
    world.run_for(SECOND * 30);
    report(&world, wrong)
}
