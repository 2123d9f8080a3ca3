//! What is tried, and what must hold of it.

use crate::{
    kinds::{Expected, Kind, place},
    nat::{Behaviour, Depends, Ports},
    random::Random,
    world::{HostId, Links, Place, Records, World},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use tunnel::MoveReason;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A scenario: a name, and a check of one seed that says what does not hold.
pub type Scenario = (&'static str, fn(u64) -> Result<(), String>);

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    ("table", table),
    ("steady", steady),
    ("lossy", lossy),
    ("two-ways", two_ways),
    ("one-lan", one_lan),
    ("roam", roam),
    ("roam-of-one", roam_of_one),
    ("reboot", reboot),
    ("expiry", expiry),
    ("restless", restless),
    ("one-way", one_way),
    ("port-per-packet", port_per_packet),
    ("pop-restart", pop_restart),
    ("suspend", suspend),
    ("idle", idle),
    ("trace", trace),
];

fn holds(condition: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what()) }
}

fn no_faults(world: &World) -> Result<(), String> {
    holds(world.seen.faults.is_empty(), || format!("{:?}", world.seen.faults))
}

/// A connector of one kind and clients of others, each talking.
fn build(seed: u64, links: Links, connector: Kind, clients: &[Kind], every: Option<Duration>) -> World {
    build_with(seed, links, connector, clients, every, Records::Kept)
}

fn build_with(
    seed: u64,
    links: Links,
    connector: Kind,
    clients: &[Kind],
    every: Option<Duration>,
    records: Records,
) -> World {
    let mut world = World::new(seed, links, records);
    let mut random = Random::new(seed ^ 0x5151);
    let at = place(&mut world, &mut random, connector, 1);
    world.add_host(at);
    for (number, kind) in (10..).zip(clients) {
        let at = place(&mut world, &mut random, *kind, number);
        let client = world.add_host(at);
        world.open(client, every);
    }
    world
}

fn any_kind(random: &mut Random) -> Kind {
    Kind::ALL[usize::try_from(random.below(7)).unwrap_or(0)]
}

/// Kinds between which a direct path is expected.
fn direct_kinds(random: &mut Random) -> (Kind, Kind) {
    loop {
        let (client, connector) = (any_kind(random), any_kind(random));
        if client.expected(connector) == Expected::Direct {
            return (client, connector);
        }
    }
}

/// Moves that changed the way for good; a doubt that ends with an answer is none.
fn flaps(world: &World, since: Instant) -> usize {
    let counts =
        |reason: MoveReason| matches!(reason, MoveReason::Proven | MoveReason::Better | MoveReason::Silent);
    world.seen.moves.iter().filter(|(at, .., reason)| *at > since && counts(*reason)).count()
}

fn answered(world: &World, client: HostId, from: Instant, to: Instant) -> u64 {
    let within = |at: &&Instant| **at > from && **at <= to;
    let count = world.seen.answers.get(&client).map_or(0, |answers| answers.iter().filter(within).count());
    u64::try_from(count).unwrap_or(0)
}

/// Between any two networks the path of the document is found in time, and is kept.
fn table(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (client, connector) = (any_kind(&mut random), any_kind(&mut random));
    let mut world = build(seed, Links::GOOD, connector, &[client], Some(SECOND / 5));
    world.run(SECOND * 8);
    let expected = client.expected(connector);
    let is_direct = world.is_direct(1);
    let what = format!("{client:?} to {connector:?}");
    holds(is_direct == (expected == Expected::Direct), || {
        format!("{what}: direct is {is_direct}, expected {expected:?}; {:?}", world.seen.moves)
    })?;
    let settled = world.now;
    world.run(MINUTE * 3);
    holds(flaps(&world, settled) == 0, || format!("{what} moved again: {:?}", world.seen.moves))?;
    holds(world.is_direct(1) == is_direct, || format!("{what} did not stay"))?;
    let asked = world.seen.asked[&1];
    let got = answered(&world, 1, world.start, world.now);
    holds(got + 5 >= asked, || format!("{what}: {got} answers to {asked}"))?;
    probes_are_few(&world)?;
    no_faults(&world)
}

/// An hour in a steady network moves nothing, and says nothing new.
fn steady(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (client, connector) = (any_kind(&mut random), any_kind(&mut random));
    let links = Links { jitter: Duration::from_millis(8), ..Links::GOOD };
    let mut world = build(seed, links, connector, &[client], Some(SECOND));
    world.run(SECOND * 15);
    let settled = world.now;
    world.run(MINUTE * 60);
    let what = format!("{client:?} to {connector:?}");
    holds(flaps(&world, settled) == 0, || format!("{what}: {:?}", world.seen.moves))?;
    // What asks for another try is the asker's, and rarer and rarer.
    let lists = world.seen.lists.iter().filter(|(at, _)| *at > settled).count();
    holds(lists <= 12, || format!("{what}: {lists} lists of candidates in a steady hour"))?;
    probes_are_few(&world)?;
    no_faults(&world)
}

/// Loss of one to thirty in a hundred, duplicates and reordering: few moves, and packets get through as they can.
fn lossy(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (client, connector) = direct_kinds(&mut random);
    let loss = [10, 100, 300][usize::try_from(seed % 3).unwrap_or(0)];
    let links = Links { loss, twice: 20, jitter: Duration::from_millis(30) };
    let mut world = build(seed, links, connector, &[client], Some(SECOND / 5));
    world.run(MINUTE * 3);
    let settled = world.now;
    world.run(MINUTE * 30);
    let moves = flaps(&world, settled);
    let most = if loss <= 100 { 2 } else { 20 };
    let what = format!("{client:?} to {connector:?} at {loss} of 1000");
    holds(moves <= most, || format!("{what}: {moves} moves in half an hour"))?;
    let asked = u64::try_from((MINUTE * 30).as_millis() / 200).unwrap_or(0);
    let got = answered(&world, 1, settled, world.now);
    let through = (1000 - loss) * (1000 - loss);
    holds(got * 1_000_000 >= asked * through * 9 / 10, || format!("{what}: {got} answers to {asked}"))?;
    no_faults(&world)
}

/// Two ways that are alike, with jitter: one is taken, and not the other by turns.
fn two_ways(seed: u64) -> Result<(), String> {
    let links = Links { jitter: Duration::from_millis(6), ..Links::GOOD };
    let mut world = World::new(seed, links, Records::Kept);
    let mut random = Random::new(seed ^ 0x77);
    // Both behind one router that hairpins far away: its inside and its outside lead there.
    let nat =
        world.add_box(Behaviour { hairpin: true, ..Behaviour::FULL_CONE }, [203, 0, 113, 9].into(), None);
    let delay = random.between(SECOND / 500, SECOND / 200);
    let at = |last: u8, port: u16| Place {
        inside: SocketAddr::from(([192, 168, 9, last], port)),
        nearest: Some(nat),
        udp: true,
        delay,
    };
    world.add_host(at(2, 4000));
    let client = world.add_host(at(3, 4001));
    world.open(client, Some(SECOND / 4));
    world.run(SECOND * 20);
    holds(world.is_direct(client), || "no direct path".to_owned())?;
    let settled = world.now;
    world.run(MINUTE * 120);
    let moves = flaps(&world, settled);
    holds(moves <= 2, || format!("{moves} moves in two hours: {:?}", world.seen.moves))?;
    no_faults(&world)
}

/// On one LAN the interfaces meet, whatever the router does.
fn one_lan(seed: u64) -> Result<(), String> {
    let behaviour =
        [Behaviour::HOME, Behaviour::SYMMETRIC, Behaviour::FULL_CONE][usize::try_from(seed % 3).unwrap_or(0)];
    let mut world = World::new(seed, Links::GOOD, Records::Kept);
    let nat = world.add_box(behaviour, [203, 0, 113, 9].into(), None);
    let at = |last: u8| Place {
        inside: SocketAddr::from(([192, 168, 9, last], 4000)),
        nearest: Some(nat),
        udp: seed.is_multiple_of(2),
        delay: SECOND / 100,
    };
    world.add_host(at(2));
    let client = world.add_host(at(3));
    world.open(client, Some(SECOND / 5));
    world.run(SECOND * 5);
    holds(world.is_direct(client), || format!("{behaviour:?}: {:?}", world.seen.moves))?;
    no_faults(&world)
}

/// A client roams while it talks: a gap of at most three seconds, and direct again.
fn roam(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (client, connector) = direct_kinds(&mut random);
    let mut world = build(seed, Links::GOOD, connector, &[client], Some(SECOND / 20));
    world.run(SECOND * 20);
    for round in 0..4 {
        let next = loop {
            let next = any_kind(&mut random);
            if (next == Kind::Ipv6Only) == (client == Kind::Ipv6Only) && next != Kind::UdpBlocked {
                break next;
            }
        };
        let to = place(&mut world, &mut random, next, 20 + round);
        let left = world.now;
        world.roam(1, to);
        world.run(SECOND * 10);
        let gap = world.longest_gap(1, left, world.now);
        holds(gap <= SECOND * 3, || format!("a gap of {gap:?} after a roam to {next:?}"))?;
        world.run(MINUTE * 7);
        let expected = next.expected(connector) == Expected::Direct;
        holds(world.is_direct(1) == expected, || {
            format!("{next:?} to {connector:?} after a roam: {:?}", world.seen.moves.last())
        })?;
    }
    probes_are_few(&world)?;
    no_faults(&world)
}

/// One client of five roams: the others and their tunnels hear nothing of it.
fn roam_of_one(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut world = build(seed, Links::GOOD, Kind::Open, &[Kind::Home; 5], Some(SECOND / 2));
    world.run(MINUTE);
    let left = world.now;
    let to = place(&mut world, &mut random, Kind::Home, 20);
    world.roam(2, to);
    world.run(MINUTE);
    let by_others =
        world.seen.lists.iter().filter(|(at, host)| *at > left && *host != 2 && *host != 0).count();
    holds(by_others == 0, || format!("{by_others} lists of clients that did not move"))?;
    let by_connector = world.seen.lists.iter().filter(|(at, host)| *at > left && *host == 0).count();
    holds(by_connector == 0, || format!("the connector said {by_connector} lists and did not move"))?;
    let by_roamer = world.seen.lists.iter().filter(|(at, host)| *at > left && *host == 2).count();
    holds((1..=16).contains(&by_roamer), || format!("{by_roamer} lists of the one that moved"))?;
    let moved: Vec<_> = world.seen.moves.iter().filter(|(at, host, ..)| *at > left && *host > 2).collect();
    holds(moved.is_empty(), || format!("others moved: {moved:?}"))?;
    no_faults(&world)
}

/// A router forgets its mappings while data flows.
fn reboot(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let connector = any_kind(&mut random);
    let client = if connector == Kind::Ipv6Only { Kind::Ipv6Only } else { Kind::Home };
    let mut world = build(seed, Links::GOOD, connector, &[client], Some(SECOND / 20));
    world.run(SECOND * 20);
    // The last box is the client's.
    let number = match connector {
        Kind::Open => 0,
        Kind::Cgn => 2,
        _ => 1,
    };
    let at = world.now;
    world.reboot(number);
    world.run(SECOND * 20);
    let gap = world.longest_gap(1, at, world.now);
    holds(gap <= SECOND * 3, || format!("a gap of {gap:?}, {client:?} to {connector:?}"))?;
    no_faults(&world)
}

/// Mappings that live for twenty seconds: idle for long, the next packet gets its answer at once.
fn expiry(seed: u64) -> Result<(), String> {
    let short = Behaviour { lifetime: SECOND * 20, ..Behaviour::HOME };
    let mut world = World::new(seed, Links::GOOD, Records::Kept);
    let mut random = Random::new(seed ^ 0x99);
    let mut host = |world: &mut World, last: u8| {
        let nat = world.add_box(short, [203, 0, 113, last].into(), None);
        Place {
            inside: SocketAddr::from(([192, 168, last, 2], 4000)),
            nearest: Some(nat),
            udp: true,
            delay: random.between(SECOND / 200, SECOND / 20),
        }
    };
    let connector = host(&mut world, 1);
    let client = host(&mut world, 2);
    world.add_host(connector);
    world.add_host(client);
    // One packet in 45 s: both mappings are gone each time, and the session has kept its own only just.
    world.open(1, Some(SECOND * 45));
    world.run(MINUTE * 20);
    let asked = world.seen.asked[&1];
    let got = answered(&world, 1, world.start, world.now);
    // The relay's mapping of twenty seconds is gone as well while nobody speaks for 25: the first packet of one side opens
    // it again, and the answer finds it.
    holds(got * 10 >= asked * 4, || format!("{got} answers to {asked}"))?;
    no_faults(&world)
}

/// An address that changes each second: the relay carries on as it can, attempts stay few.
fn restless(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let mut world = build(seed, Links::GOOD, Kind::Home, &[Kind::Home], Some(SECOND / 20));
    world.run(SECOND * 5);
    let began = world.now;
    for round in 0..40 {
        let to = place(&mut world, &mut random, Kind::Home, 30 + round);
        world.roam(1, to);
        world.run(SECOND);
    }
    let lists = world.seen.lists.iter().filter(|(at, host)| *at > began && *host == 1).count();
    holds(lists <= 40 / 4 + 12, || format!("{lists} lists in 40 s"))?;
    let got = answered(&world, 1, began, world.now);
    holds(got >= 40 * 20 * 5 / 10, || format!("{got} answers to 800"))?;
    probes_are_few(&world)?;
    no_faults(&world)
}

/// A path that works one way only carries nothing for long.
fn one_way(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (client, connector) = direct_kinds(&mut random);
    let mut world = build(seed, Links::GOOD, connector, &[client], Some(SECOND / 20));
    world.run(SECOND * 20);
    let broken = world.now;
    world.one_way.insert(if seed.is_multiple_of(2) { (0, 1) } else { (1, 0) });
    world.run(MINUTE * 5);
    let gap = world.longest_gap(1, broken, world.now);
    holds(gap <= SECOND * 7, || format!("a gap of {gap:?}"))?;
    let late = world.now - MINUTE * 3;
    let got = answered(&world, 1, late, world.now);
    holds(got >= 180 * 20 * 98 / 100, || format!("{got} answers to 3600"))?;
    holds(!world.is_direct(1), || "still direct both ways".to_owned())?;
    no_faults(&world)
}

/// A NAT that gives each destination a port at random, before another of the kind: the relay, for ever.
fn port_per_packet(seed: u64) -> Result<(), String> {
    let worst = Behaviour {
        mapping: Some(Depends::AddressAndPort),
        ports: Ports::Random,
        lifetime: SECOND / 2,
        ..Behaviour::SYMMETRIC
    };
    let mut world = World::new(seed, Links::GOOD, Records::Kept);
    let mut random = Random::new(seed ^ 0x1234);
    let connector = place(&mut world, &mut random, Kind::Home, 1);
    world.add_host(connector);
    let nat = world.add_box(worst, [203, 0, 113, 2].into(), None);
    let inside = SocketAddr::from(([192, 168, 2, 2], 4000));
    world.add_host(Place { inside, nearest: Some(nat), udp: true, delay: SECOND / 50 });
    world.open(1, Some(SECOND / 10));
    world.run(MINUTE * 5);
    holds(!world.is_direct(1), || "direct through a NAT that cannot".to_owned())?;
    let asked = world.seen.asked[&1];
    let got = answered(&world, 1, world.start, world.now);
    holds(got * 100 >= asked * 90, || format!("{got} answers to {asked}"))?;
    holds(flaps(&world, world.start) <= 2, || format!("{:?}", world.seen.moves))?;
    probes_are_few(&world)?;
    no_faults(&world)
}

/// The PoP restarts: nothing of it is felt on a direct path, and three seconds by the relay.
fn pop_restart(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (client, connector) = (any_kind(&mut random), any_kind(&mut random));
    let mut world = build(seed, Links::GOOD, connector, &[client], Some(SECOND / 20));
    world.run(SECOND * 20);
    let was_direct = world.is_direct(1);
    let at = world.now;
    world.restart_pop(SECOND);
    world.run(SECOND * 20);
    let gap = world.longest_gap(1, at, world.now);
    let most = if was_direct { SECOND / 2 } else { SECOND * 3 };
    holds(gap <= most, || format!("a gap of {gap:?}; direct before: {was_direct}"))?;
    holds(world.is_direct(1) == was_direct, || "another way than before".to_owned())?;
    no_faults(&world)
}

/// A machine sleeps for an hour and goes on.
fn suspend(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (client, connector) = direct_kinds(&mut random);
    let mut world = build(seed, Links::GOOD, connector, &[client], Some(SECOND / 4));
    world.run(SECOND * 20);
    world.suspend(1, true);
    world.run(MINUTE * 60);
    // The connector has forgotten it by now: the client's own owner opens again.
    world.suspend(1, false);
    world.restart_pop(SECOND);
    let back = world.now;
    world.run(SECOND * 30);
    let got = answered(&world, 1, back, world.now);
    holds(got >= 90, || format!("{got} answers in 30 s after an hour's sleep"))?;
    holds(world.is_direct(1), || format!("{:?}", world.seen.moves.last()))?;
    no_faults(&world)
}

/// An idle tunnel sends at most one packet in twenty seconds and peer.
fn idle(seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let (client, connector) = (any_kind(&mut random), any_kind(&mut random));
    let mut world = build(seed, Links::GOOD, connector, &[client], None);
    world.run(SECOND * 60);
    let before = world.seen.sent.clone();
    world.run(MINUTE * 30);
    for host in [0, 1] {
        let sent = world.seen.sent.get(&host).unwrap_or(&0) - before.get(&host).unwrap_or(&0);
        holds(sent <= 90, || {
            format!("host {host} sent {sent} packets in an idle half hour, {client:?} to {connector:?}")
        })?;
    }
    no_faults(&world)
}

/// The same seed decides the same.
fn trace(seed: u64) -> Result<(), String> {
    let run = || {
        let mut random = Random::new(seed);
        let (client, connector) = (any_kind(&mut random), any_kind(&mut random));
        let links = Links { loss: 50, twice: 20, jitter: SECOND / 50 };
        let mut world = build(seed, links, connector, &[client, Kind::Home], Some(SECOND / 5));
        world.run(MINUTE);
        let to = place(&mut world, &mut random, Kind::Home, 40);
        world.roam(1, to);
        world.run(MINUTE);
        world.trace()
    };
    let (first, second) = (run(), run());
    holds(first == second, || format!("{first:x} and {second:x}"))
}

/// At most five bursts a minute and peer, and ten questions to addresses that nobody named.
fn probes_are_few(world: &World) -> Result<(), String> {
    let mut bursts: BTreeMap<HostId, Vec<Instant>> = BTreeMap::new();
    let mut at: BTreeMap<(HostId, Instant), BTreeSet<SocketAddr>> = BTreeMap::new();
    for (when, host, to) in &world.seen.probes {
        at.entry((*host, *when)).or_default().insert(*to);
    }
    // One peer each here: probes to several addresses in one moment are a burst.
    for ((host, when), addresses) in at {
        if addresses.len() >= 2 {
            bursts.entry(host).or_default().push(when);
        }
    }
    for (host, times) in bursts {
        for window in times.windows(6) {
            let span = window[5] - window[0];
            holds(span >= MINUTE, || {
                let at = |when: &Instant| (*when - world.start).as_millis();
                let probes = world.seen.probes.iter().filter(|(when, by, _)| {
                    *by == host && *when >= window[0] && *when <= window[5]
                });
                let probes: Vec<_> = probes.map(|(when, _, to)| (at(when), to.to_string())).collect();
                format!("six bursts of host {host} within {span:?}: {probes:?}")
            })?;
        }
    }
    Ok(())
}

/// What the throughput was.
#[derive(Debug, Clone, Copy)]
pub struct Throughput {
    /// Simulated time.
    pub simulated: Duration,
    /// Time it took.
    pub took: Duration,
    /// Events handled.
    pub events: u64,
}

/// One connector and three NATed clients at one packet a second each, with hourly roams, for a while of simulated
/// time.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "a measurement reads the clock")]
pub fn throughput(seed: u64, simulated: Duration) -> Throughput {
    let began = Instant::now();
    let mut random = Random::new(seed ^ 0xABC);
    let clients = [Kind::Home, Kind::Cgn, Kind::FullCone];
    let mut world = build_with(seed, Links::GOOD, Kind::Home, &clients, Some(SECOND), Records::Counted);
    let mut left = simulated;
    let mut round = 0_u8;
    while left > Duration::ZERO {
        let step = left.min(MINUTE * 20);
        world.run(step);
        left -= step;
        let client = 1 + usize::from(round % 3);
        round = round.wrapping_add(1);
        let to = place(&mut world, &mut random, Kind::Home, 60 + round % 120);
        world.roam(client, to);
    }
    Throughput { simulated, took: began.elapsed(), events: world.seen.events }
}
