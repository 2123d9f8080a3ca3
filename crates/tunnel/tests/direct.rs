//! Two sides of a tunnel that look for a way around the relay, on a virtual clock and a virtual network.

#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the clock once, as the start of its virtual time"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tunnel::{
    CandidateRefused, Event, LocalAddress, MoveReason, OneWay, Output, Path, PeerId, PingId, Surroundings,
    Tunnels, WireGuardPrivateKey,
};
use wire::{ChannelId, PopId, RELAY_HEADER_LEN};

const DELAY: Duration = Duration::from_millis(10);
const CLIENT: &str = "192.168.1.2:40000";
const CONNECTOR: &str = "10.0.2.5:50000";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn relay() -> Path {
    Path::relay(PopId::from_bytes([9; 16]), ChannelId::from_random(1))
}

fn ip_packet(length: u16) -> Vec<u8> {
    let mut packet = vec![7; usize::from(length)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// Which side of the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Client,
    Connector,
}

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Connector,
            Self::Connector => Self::Client,
        }
    }
}

/// What stands before a side.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Edge {
    /// Packets to and from this address pass.
    Open(SocketAddr),
    /// One public address for all packets; only those already written to may answer.
    Home { public: SocketAddr, written: BTreeSet<SocketAddr> },
    /// Nothing passes.
    Blocked,
}

struct World {
    now: Instant,
    start: Instant,
    sides: BTreeMap<Side, Tunnels>,
    peers: BTreeMap<Side, PeerId>,
    edges: BTreeMap<Side, Edge>,
    relay_works: bool,
    /// Nothing that goes straight reaches this side.
    deaf: Option<Side>,
    /// Datagrams under way: when, to whom, by the relay or from an address.
    flying: VecDeque<(Instant, Side, Option<SocketAddr>, Vec<u8>)>,
    /// Direct datagrams that were sent: when, by whom, where to, how long.
    sent: Vec<(Instant, Side, SocketAddr, usize)>,
    relayed: Vec<(Instant, Side, usize)>,
    inner: Vec<(Instant, Side)>,
    moves: Vec<(Instant, Side, Option<Path>, MoveReason)>,
    quiet: usize,
    /// A handshake of the client's was given up.
    is_given_up: bool,
    pongs: Vec<(PingId, Duration)>,
}

fn surroundings(host: &str, observed: &str) -> Surroundings {
    let host = address(host);
    Surroundings {
        port: host.port(),
        local: vec![LocalAddress { ip: host.ip(), prefix: 24 }],
        observed: vec![address(observed)],
        mapped: vec![],
    }
}

const CLIENT_PUBLIC: &str = "203.0.113.20:40000";
const CONNECTOR_PUBLIC: &str = "203.0.113.30:50000";

fn home(public: &str) -> Edge {
    Edge::Home { public: address(public), written: BTreeSet::new() }
}

impl World {
    fn new(client: Edge, connector: Edge) -> Self {
        let now = Instant::now();
        let mut ours = Tunnels::new(&WireGuardPrivateKey::from_bytes([1; 32]), 1, now);
        let mut theirs = Tunnels::new(&WireGuardPrivateKey::from_bytes([2; 32]), 2, now);
        ours.set_surroundings(now, surroundings(CLIENT, CLIENT_PUBLIC));
        theirs.set_surroundings(now, surroundings(CONNECTOR, CONNECTOR_PUBLIC));
        let (to_connector, initiation) = ours.connect(now, theirs.public_key()).expect("room");
        let accepted = theirs
            .accept_initiation(now, ours.public_key(), &initiation, relay())
            .expect("a true initiation");
        ours.accept_response(now, to_connector, &accepted.response, relay()).expect("a true response");
        Self {
            now,
            start: now,
            sides: BTreeMap::from([(Side::Client, ours), (Side::Connector, theirs)]),
            peers: BTreeMap::from([(Side::Client, to_connector), (Side::Connector, accepted.peer)]),
            edges: BTreeMap::from([(Side::Client, client), (Side::Connector, connector)]),
            relay_works: true,
            deaf: None,
            flying: VecDeque::new(),
            sent: Vec::new(),
            relayed: Vec::new(),
            inner: Vec::new(),
            moves: Vec::new(),
            quiet: 0,
            is_given_up: false,
            pongs: Vec::new(),
        }
    }

    fn homes() -> Self {
        Self::new(home(CLIENT_PUBLIC), home(CONNECTOR_PUBLIC))
    }

    /// A datagram on its way through both edges: who gets it, and from where.
    fn travel(&mut self, from: Side, to: SocketAddr) -> Option<(Side, SocketAddr)> {
        let source = match self.edges.get_mut(&from)? {
            Edge::Open(public) => *public,
            Edge::Home { public, written } => {
                written.insert(to);
                *public
            }
            Edge::Blocked => return None,
        };
        let target = from.other();
        if self.deaf == Some(target) {
            return None;
        }
        match &self.edges[&target] {
            Edge::Open(public) if *public == to => Some((target, source)),
            Edge::Home { public, written } if *public == to && written.contains(&source) => {
                Some((target, source))
            }
            _ => None,
        }
    }

    fn pump(&mut self) {
        for side in [Side::Client, Side::Connector] {
            loop {
                match self.sides.get_mut(&side).expect("both").poll_output() {
                    Output::Transmit(transmit) => match transmit.path {
                        Path::Direct { remote } => {
                            self.sent.push((self.now, side, remote, transmit.bytes.len()));
                            if let Some((to, from)) = self.travel(side, remote) {
                                self.flying.push_back((self.now + DELAY, to, Some(from), transmit.bytes));
                            }
                        }
                        _ => {
                            let bytes = transmit.bytes[RELAY_HEADER_LEN..].to_vec();
                            self.relayed.push((self.now, side, bytes.len()));
                            if self.relay_works {
                                self.flying.push_back((self.now + DELAY * 3, side.other(), None, bytes));
                            }
                        }
                    },
                    Output::Inner { .. } => self.inner.push((self.now, side)),
                    Output::Event(Event::Moved { path, reason, .. }) => {
                        self.moves.push((self.now, side, path, reason));
                    }
                    Output::Event(Event::Quiet { .. }) => self.quiet += 1,
                    Output::Event(Event::GaveUp { .. }) => self.is_given_up |= side == Side::Client,
                    Output::Event(Event::Pong { ping, round_trip, .. }) => {
                        self.pongs.push((ping, round_trip))
                    }
                    Output::Event(_) | Output::Bind { .. } => {}
                    Output::Timeout(_) => break,
                }
            }
        }
    }

    /// Goes on for a while; with `talk`, the client sends a packet that often and the connector answers each.
    fn run(&mut self, time: Duration, talk: Option<Duration>) {
        let end = self.now + time;
        let mut next = talk.map(|_| self.now);
        let mut heard = self.inner.len();
        while self.now < end {
            self.pump();
            self.now += Duration::from_millis(1);
            let now = self.now;
            self.flying.make_contiguous().sort_by_key(|(at, ..)| *at);
            while self.flying.front().is_some_and(|(at, ..)| *at <= now) {
                let (_, to, from, bytes) = self.flying.pop_front().expect("looked at");
                let path = from.map_or(relay(), Path::direct);
                self.sides.get_mut(&to).expect("both").handle_input(now, path, &bytes);
            }
            for side in self.sides.values_mut() {
                side.handle_timeout(now);
            }
            self.pump();
            if next.is_some_and(|at| at <= now) {
                next = talk.map(|every| now + every);
                self.say(Side::Client);
            }
            let answers = self.inner[heard..].iter().filter(|(_, side)| *side == Side::Connector).count();
            heard = self.inner.len();
            for _ in 0..answers {
                self.say(Side::Connector);
            }
        }
        self.pump();
    }

    fn say(&mut self, side: Side) {
        let peer = self.peers[&side];
        self.sides.get_mut(&side).expect("both").seal(self.now, peer, &ip_packet(100)).expect("taken");
    }

    fn way(&self, side: Side) -> Option<Path> {
        self.sides[&side].way_of(self.peers[&side])
    }

    fn is_direct(&self) -> bool {
        [Side::Client, Side::Connector]
            .into_iter()
            .all(|side| matches!(self.way(side), Some(Path::Direct { .. })))
    }

    fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.start)
    }
}

const SECOND: Duration = Duration::from_secs(1);
const OFTEN: Option<Duration> = Some(Duration::from_millis(50));

#[test]
fn two_home_routers_are_crossed_within_a_second() {
    let mut world = World::homes();
    world.run(SECOND, OFTEN);
    assert!(world.is_direct(), "{:?}", world.moves);
    assert_eq!(world.way(Side::Client), Some(Path::direct(address(CONNECTOR_PUBLIC))));
    let last = world.moves.iter().map(|(at, ..)| *at).max().expect("both moved");
    println!("direct after {:?}", world.since_start(last));
    assert_eq!(world.moves.len(), 2, "one move a side, and no more: {:?}", world.moves);
}

#[test]
fn ten_minutes_of_data_move_nothing_in_a_steady_network() {
    let mut world = World::homes();
    world.run(Duration::from_secs(600), Some(SECOND));
    assert_eq!(world.moves.len(), 2, "{:?}", world.moves);
}

#[test]
fn without_a_way_the_relay_carries_on_and_few_bursts_are_sent() {
    let mut world = World::new(Edge::Blocked, home(CONNECTOR_PUBLIC));
    world.run(Duration::from_secs(180), Some(SECOND));
    assert!(world.moves.is_empty());
    let heard = world.inner.iter().filter(|(_, side)| *side == Side::Client).count();
    assert!(heard > 170, "{heard} answers");
    for side in [Side::Client, Side::Connector] {
        let times: Vec<Instant> =
            world.sent.iter().filter(|sent| sent.1 == side).map(|sent| sent.0).collect();
        let mut bursts: Vec<Instant> = times.clone();
        bursts.dedup();
        for window in bursts.windows(6) {
            assert!(
                window[5] - window[0] >= Duration::from_secs(60),
                "six bursts of {side:?} within a minute"
            );
        }
        println!("{side:?}: {} probes in {} bursts", times.len(), bursts.len());
    }
}

#[test]
fn a_path_that_dies_is_left_within_a_second_and_found_again_later() {
    let mut world = World::homes();
    world.run(SECOND * 2, OFTEN);
    assert!(world.is_direct());
    world.edges.insert(Side::Client, Edge::Blocked);
    let died = world.now;
    world.run(SECOND, OFTEN);
    let first_by_relay = world
        .relayed
        .iter()
        .find(|(at, side, length)| *at > died && *side == Side::Client && *length >= 128)
        .expect("data by the relay");
    let left_after = first_by_relay.0 - died;
    println!("left after {left_after:?}");
    assert!(left_after <= Duration::from_millis(750), "{left_after:?}");
    world.run(SECOND * 2, OFTEN);
    assert!(world.moves.iter().any(|(.., reason)| *reason == MoveReason::Silent));
    world.edges.insert(Side::Client, home(CLIENT_PUBLIC));
    world.run(Duration::from_secs(70), OFTEN);
    assert!(world.is_direct(), "{:?}", world.moves);
}

#[test]
fn a_path_that_comes_and_goes_is_tried_less_and_less() {
    let mut world = World::homes();
    for round in 0..300 {
        world.run(SECOND, OFTEN);
        let edge = if round % 2 == 0 { Edge::Blocked } else { home(CLIENT_PUBLIC) };
        world.edges.insert(Side::Client, edge);
    }
    let taken = world.moves.iter().filter(|(.., reason)| *reason == MoveReason::Proven).count();
    println!("{taken} times in 300 s");
    assert!(taken <= 20, "{taken} times direct in 300 s");
    let heard = world.inner.iter().filter(|(_, side)| *side == Side::Client).count();
    assert!(heard > 300 * 20 / 2, "{heard} answers");
}

#[test]
fn a_packet_sent_again_from_elsewhere_moves_nothing() {
    let mut world = World::homes();
    world.run(SECOND * 2, OFTEN);
    // Somebody keeps packets of the client back and sends them from his own address.
    let thief = address("198.51.100.66:6666");
    let way = world.way(Side::Connector);
    let moves = world.moves.len();
    let now = world.now;
    for _ in 0..50 {
        world.say(Side::Client);
    }
    loop {
        match world.sides.get_mut(&Side::Client).expect("both").poll_output() {
            Output::Transmit(transmit) => {
                world.sides.get_mut(&Side::Connector).expect("both").handle_direct(
                    now,
                    thief,
                    &[&transmit.bytes],
                );
            }
            Output::Timeout(_) => break,
            _ => {}
        }
    }
    world.run(SECOND, OFTEN);
    assert_eq!(world.way(Side::Connector), way);
    assert_eq!(world.moves.len(), moves, "{:?}", world.moves);
    let to_thief: Vec<_> = world.sent.iter().filter(|(_, _, to, _)| *to == thief).collect();
    assert!(to_thief.iter().all(|(.., length)| *length <= 96), "only probes and proofs: {to_thief:?}");
    assert!(to_thief.len() <= 60, "{}", to_thief.len());
}

/// Proofs are answers, each to one question; what is asked of an address that nobody named has a budget (ADR 0006).
const SEEN_PROBES_A_MINUTE: usize = 10;

#[test]
fn a_flood_of_probes_from_invented_addresses_gets_no_more_back_than_it_sent_and_few_questions() {
    let mut world = World::homes();
    world.run(SECOND * 2, OFTEN);
    assert!(world.is_direct());
    let (way, moves, began) = (world.way(Side::Connector), world.moves.len(), world.now);
    // A peer that means harm asks from addresses that are not its own: 200 a second for two minutes, of 500 places.
    let mut came: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for number in 0..24_000_u16 {
        let peer = world.peers[&Side::Client];
        let client = world.sides.get_mut(&Side::Client).expect("both");
        client.ping(world.now, peer).expect("a way");
        let mut said = Vec::new();
        loop {
            match client.poll_output() {
                Output::Transmit(transmit) => said.push(transmit.bytes),
                Output::Timeout(_) => break,
                _ => {}
            }
        }
        let invented = SocketAddr::from(([198, 18, 0, 1], 20_000 + number % 500));
        for bytes in said {
            *came.entry(invented).or_default() += bytes.len();
            let connector = world.sides.get_mut(&Side::Connector).expect("both");
            connector.handle_direct(world.now, invented, &[&bytes]);
        }
        world.run(Duration::from_millis(5), None);
    }
    assert_eq!(came.len(), 500);
    let mut went: BTreeMap<SocketAddr, Vec<usize>> = BTreeMap::new();
    for (at, side, to, length) in &world.sent {
        if *side == Side::Connector && came.contains_key(to) && *at >= began {
            went.entry(*to).or_default().push(*length);
        }
    }
    let answers: usize = went.values().map(Vec::len).sum();
    assert!(answers >= 24_000 - 500, "{answers} answers: nothing was tested");
    let asked = answers.saturating_sub(24_000);
    assert!(asked <= SEEN_PROBES_A_MINUTE * 3, "{asked} questions in two minutes");
    let mut more = 0;
    for (to, lengths) in &went {
        more += lengths.iter().sum::<usize>().saturating_sub(came[to]);
    }
    assert!(more <= asked * 96, "{more} bytes more than came in, of {asked} questions");
    // None of it carries data, and the path stays where it was.
    assert!(went.values().flatten().all(|length| *length <= 96));
    assert_eq!((world.way(Side::Connector), world.moves.len()), (way, moves), "{:?}", world.moves);
}

#[test]
fn candidates_where_no_peer_can_be_are_never_written_to() {
    let mut world = World::homes();
    let hostile = Surroundings {
        port: 50_000,
        local: vec![],
        observed: ["127.0.0.1:4000", "169.254.169.254:4000", "192.168.77.7:4000", "198.51.100.53:53"]
            .map(address)
            .to_vec(),
        mapped: vec![],
    };
    // What an honest side never says is left out before it is said …
    assert_eq!(hostile.candidates().len(), 1, "{:?}", hostile.candidates());
    // … and what a hostile one says is not believed: a private network that we are not in.
    world.sides.get_mut(&Side::Connector).expect("both").set_surroundings(world.now, hostile);
    world.run(SECOND * 10, OFTEN);
    let strange = address("192.168.77.7:4000");
    assert!(world.sent.iter().all(|(_, _, to, _)| *to != strange));
    let refused =
        world.sides[&Side::Client].refused_candidates_of(world.peers[&Side::Client]).expect("a peer");
    assert!(refused.contains_key(&CandidateRefused::OtherNetwork), "{refused:?}");
}

#[test]
fn a_third_party_that_a_peer_names_gets_a_few_probes_and_no_data() {
    let mut world = World::homes();
    let victim = address("198.51.100.99:9999");
    let naming = Surroundings { port: 50_000, local: vec![], observed: vec![victim], mapped: vec![] };
    world.sides.get_mut(&Side::Connector).expect("both").set_surroundings(world.now, naming);
    world.run(Duration::from_secs(120), OFTEN);
    let got: Vec<usize> =
        world.sent.iter().filter(|(_, _, to, _)| *to == victim).map(|(.., length)| *length).collect();
    println!("{} probes of {:?} bytes in two minutes", got.len(), got.iter().max());
    assert!(!got.is_empty() && got.len() <= 10, "{} packets", got.len());
    assert!(got.iter().all(|length| *length <= 96));
}

/// Two home routers, and a connector that names more addresses than one: each burst asks all of them.
fn homes_with_spare_addresses() -> (World, SocketAddr) {
    let mut world = World::homes();
    let spare = address("203.0.113.31:50000");
    let mut around = surroundings(CONNECTOR, CONNECTOR_PUBLIC);
    around.observed.extend([spare, address("203.0.113.32:50000"), address("203.0.113.33:50000")]);
    world.sides.get_mut(&Side::Connector).expect("both").set_surroundings(world.now, around);
    (world, spare)
}

#[test]
fn an_idle_tunnel_sends_at_most_three_packets_in_any_minute_and_side() {
    for used in [1, 2, 4, 7, 11, 16, 24] {
        let (mut world, _) = homes_with_spare_addresses();
        world.run(SECOND * used, OFTEN);
        assert!(world.is_direct());
        // WireGuard's own keepalive is the last thing that the data causes.
        world.run(SECOND * 15, None);
        let quiet_since = world.now;
        world.run(SECOND * 120, None);
        assert!(world.is_direct());
        for side in [Side::Client, Side::Connector] {
            let direct = world.sent.iter().filter(|sent| sent.1 == side).map(|sent| sent.0);
            let relayed = world.relayed.iter().filter(|sent| sent.1 == side).map(|sent| sent.0);
            let mut sent: Vec<Instant> = direct.chain(relayed).filter(|at| *at > quiet_since).collect();
            sent.sort();
            assert!(sent.len() >= 4, "{side:?}: nothing keeps the path, so nothing was tested");
            let crowd = sent.windows(4).find(|four| four[3] < four[0] + SECOND * 60);
            let at: Vec<Duration> = sent.iter().map(|at| *at - quiet_since).collect();
            assert_eq!(crowd, None, "{side:?}, used for {used} s, sends at {at:?}");
        }
    }
}

#[test]
fn a_burst_that_came_due_while_nobody_used_the_tunnel_is_sent_with_the_next_data() {
    let (mut world, spare) = homes_with_spare_addresses();
    world.run(SECOND * 2, OFTEN);
    assert!(world.is_direct());
    let probes = |world: &World, since: Instant| {
        world
            .sent
            .iter()
            .filter(|(at, side, to, _)| (*side, *to) == (Side::Client, spare) && *at > since)
            .count()
    };
    world.run(SECOND * 10, None);
    let idle_since = world.now;
    world.run(SECOND * 50, None);
    assert_eq!(probes(&world, idle_since), 0);
    world.say(Side::Client);
    world.run(SECOND, None);
    assert_eq!(probes(&world, idle_since), 1);
}

#[test]
fn a_tunnel_that_was_idle_for_long_works_at_once_and_is_direct_again_soon() {
    let mut world = World::homes();
    world.run(SECOND * 2, OFTEN);
    world.run(Duration::from_secs(170), None);
    assert!(!world.is_direct(), "forgotten");
    let heard = world.inner.len();
    world.run(SECOND * 3, OFTEN);
    assert!(world.inner.len() > heard + 40);
    assert!(world.is_direct(), "{:?}", world.moves);
}

#[test]
fn without_the_relay_the_direct_path_goes_on_for_longer_than_a_session() {
    let mut world = World::homes();
    world.run(SECOND * 2, OFTEN);
    let way = world.way(Side::Client);
    world.relay_works = false;
    let now = world.now;
    for side in world.sides.values_mut() {
        side.drop_path(now, relay());
    }
    let heard = world.inner.len();
    world.run(Duration::from_secs(400), Some(SECOND / 4));
    assert_eq!(world.way(Side::Client), way);
    let answered = world.inner.len() - heard;
    assert!(answered >= 3_190, "{answered} of 3,200 packets");
}

#[test]
fn a_handshake_whose_every_way_has_gone_is_tried_later_and_given_up_in_the_end() {
    let mut world = World::homes();
    world.run(SECOND * 2, OFTEN);
    assert!(world.is_direct());
    world.relay_works = false;
    let now = world.now;
    for side in world.sides.values_mut() {
        side.drop_path(now, relay());
    }
    // The session is two minutes old in half a second, and another one is begun by the address alone.
    let began = world.start;
    world.run((began + Duration::from_millis(119_500)) - world.now, OFTEN);
    for edge in world.edges.values_mut() {
        *edge = Edge::Blocked;
    }
    world.run(SECOND, OFTEN);
    world.run(SECOND * 30, None);
    assert_eq!(world.way(Side::Client), None);
    // What is given up says so, and none of it is a loop at one instant: virtual time went on.
    world.run(SECOND * 90, None);
    assert!(world.is_given_up, "the handshake that was begun was not given up in two minutes");
}

#[test]
fn a_machine_that_changed_its_network_is_found_again() {
    let mut world = World::homes();
    world.run(SECOND * 20, OFTEN);
    let moved_to = "203.0.113.99:41000";
    world.edges.insert(Side::Client, home(moved_to));
    let now = world.now;
    let client = world.sides.get_mut(&Side::Client).expect("both");
    client.network_changed(now);
    client.set_surroundings(now, surroundings("192.168.7.7:40000", moved_to));
    let heard = world.inner.len();
    world.run(SECOND, OFTEN);
    println!("{} packets in the second after", world.inner.len() - heard);
    assert!(world.inner.len() - heard >= 30, "the relay carries on");
    world.run(SECOND * 5, OFTEN);
    assert_eq!(world.way(Side::Connector), Some(Path::direct(address(moved_to))), "{:?}", world.moves);
    assert!(world.is_direct());
}

#[test]
fn the_same_seed_gives_the_same_moves() {
    let trace = || {
        let mut world = World::homes();
        world.run(SECOND * 30, Some(SECOND / 3));
        let start = world.start;
        world.sent.iter().map(|(at, side, to, length)| (*at - start, *side, *to, *length)).collect::<Vec<_>>()
    };
    assert_eq!(trace(), trace());
}

#[test]
fn on_one_lan_the_interfaces_meet() {
    let lan = |host: &str| Edge::Open(address(host));
    let mut world = World::new(lan(CLIENT), lan("192.168.1.9:50000"));
    let now = world.now;
    let beside = surroundings("192.168.1.9:50000", "203.0.113.20:50000");
    world.sides.get_mut(&Side::Connector).expect("both").set_surroundings(now, beside);
    // The PoP sees both at one address; without its word neither is looked for on the LAN.
    for (side, seen) in [(Side::Client, "203.0.113.20:50000"), (Side::Connector, CLIENT_PUBLIC)] {
        let peer = world.peers[&side];
        world.sides.get_mut(&side).expect("both").introduced_from(now, peer, Some(address(seen)));
    }
    world.run(SECOND, OFTEN);
    assert_eq!(world.way(Side::Client), Some(Path::direct(address("192.168.1.9:50000"))));
}

#[test]
fn an_address_that_nobody_named_is_answered_and_used_once_it_has_proven_itself() {
    // A symmetric NAT: the connector is public, and the client comes from a port that no PoP saw.
    let mut world = World::new(home("203.0.113.20:61234"), Edge::Open(address(CONNECTOR_PUBLIC)));
    world.run(SECOND, OFTEN);
    assert_eq!(world.way(Side::Connector), Some(Path::direct(address("203.0.113.20:61234"))));
    assert!(world.is_direct());
}

#[test]
fn a_quiet_relay_is_told() {
    let mut world = World::new(Edge::Blocked, Edge::Blocked);
    world.run(SECOND, OFTEN);
    assert_eq!(world.quiet, 0);
    world.relay_works = false;
    world.run(SECOND, OFTEN);
    assert!(world.quiet >= 1);
}

#[test]
fn an_address_of_one_kind_is_told_once() {
    let both: IpAddr = "203.0.113.20".parse().expect("an address");
    let own = Surroundings {
        port: 40_000,
        local: vec![LocalAddress { ip: both, prefix: 24 }],
        observed: vec![SocketAddr::new(both, 40_000)],
        mapped: vec![SocketAddr::new(both, 40_000)],
    };
    assert_eq!(own.candidates().len(), 1);
}

#[test]
fn a_ping_is_answered_by_the_way_that_data_takes() {
    for (edge, kind) in [(Edge::Blocked, "relay"), (home(CLIENT_PUBLIC), "direct")] {
        let mut world = World::new(edge, home(CONNECTOR_PUBLIC));
        world.run(SECOND * 2, OFTEN);
        let peer = world.peers[&Side::Client];
        let now = world.now;
        let ping = world.sides.get_mut(&Side::Client).expect("both").ping(now, peer).expect("a way");
        world.run(SECOND, None);
        let (answered, round_trip) = world.pongs.pop().expect("an answer");
        let expected = if kind == "relay" { DELAY * 6 } else { DELAY * 2 };
        assert_eq!(answered, ping);
        assert!(round_trip >= expected && round_trip <= expected * 2, "{kind}: {round_trip:?}");
    }
}

#[test]
fn who_only_receives_notices_within_a_second_that_its_path_is_gone_and_has_its_relay_looked_at() {
    let mut world = World::homes();
    world.run(SECOND * 2, OFTEN);
    for _ in 0..200 {
        world.say(Side::Connector);
        world.run(Duration::from_millis(5), None);
    }
    assert!(world.is_direct());
    let (quiet, asked) = (world.quiet, world.sent.len());
    // The client's address changes: nothing reaches it any more, and what it sends comes from elsewhere.
    world.edges.insert(Side::Client, Edge::Blocked);
    let died = world.now;
    world.run(SECOND + Duration::from_millis(500), None);
    let left = world.moves.iter().find(|(at, side, ..)| *at > died && *side == Side::Client);
    let (left, .., reason) = left.expect("the client left the path");
    assert_eq!(*reason, MoveReason::Doubtful);
    assert!(*left - died <= Duration::from_millis(800), "{:?}", *left - died);
    assert!(world.quiet > quiet, "nobody looked at the relay");
    assert!(world.sent.len() - asked < 20, "{} questions", world.sent.len() - asked);
}

#[test]
fn a_download_that_ended_costs_one_question() {
    let mut world = World::homes();
    world.run(SECOND * 2, OFTEN);
    for _ in 0..200 {
        world.say(Side::Connector);
        world.run(Duration::from_millis(5), None);
    }
    let before = world.sent.iter().filter(|(_, side, ..)| *side == Side::Client).count();
    world.run(SECOND * 4, None);
    let sent = world.sent.iter().filter(|(_, side, ..)| *side == Side::Client).count() - before;
    assert!(sent <= 2, "{sent} packets");
    assert!(world.is_direct());
}

#[test]
fn a_path_that_works_one_way_only_is_seen_as_that_from_both_ends_and_carries_no_data() {
    for deaf in [Side::Client, Side::Connector] {
        let mut world = World::homes();
        world.deaf = Some(deaf);
        world.run(SECOND * 100, OFTEN);
        assert!(!world.is_direct(), "{:?}", world.moves);
        let seen = |world: &World, side: Side| -> Vec<Option<OneWay>> {
            world.sides[&side].pairs_of(world.peers[&side]).iter().map(|pair| pair.one_way).collect()
        };
        assert_eq!(seen(&world, deaf.other()), [Some(OneWay::ToHere)], "{deaf:?} is deaf");
        assert_eq!(seen(&world, deaf), [Some(OneWay::FromHere)], "{deaf:?} is deaf");
        // And no more when it works again.
        world.deaf = None;
        world.run(SECOND * 300, OFTEN);
        assert!(world.is_direct());
        assert_eq!((seen(&world, Side::Client), seen(&world, Side::Connector)), (vec![None], vec![None]));
    }
}
