//! Peers and strangers that mean harm: where they cannot make anybody send anything, and what they cannot move.

use sim::fast::{Kind, Part, Place, Program, Record, Sent, Site, World};
use sim::stack::Stack;
use sim::world::{LinkRules, Network, Time};
use std::net::{IpAddr, SocketAddr};
use tunnel::{Candidate, CandidateKind, MAX_CANDIDATES, Path, PathMessage};

const SECOND: Time = Time::from_secs(1);
const KINDS: [CandidateKind; 3] = [CandidateKind::Local, CandidateKind::Observed, CandidateKind::Mapped];
const THIRD_PARTY: &str = "192.0.2.77:9000";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A connector at home, whose client is going to lie to it.
struct Victim {
    world: World,
    client: u16,
    connector: u16,
    told: u32,
}

impl Victim {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed, Record::All);
        let rules = LinkRules::of_delay(Time::from_millis(10));
        let connector_at = Site::build(&mut world.net, Place::Home, 1, rules).address();
        let client_at = Site::build(&mut world.net, Place::Home, 2, rules).address();
        let connector = world.add(Part::Connector, &connector_at);
        world.run_for(SECOND * 2);
        let client = world.add(Part::Client, &client_at);
        world.with(client, |agent, now| {
            agent.want(now, connector);
            agent.set_program(now, Program { every: Some(SECOND) });
        });
        // What its budget of bursts was spent on before is more than a minute ago.
        world.run_for(SECOND * 75);
        assert!(world.agent(client).experience.first.is_some(), "the tunnel is up");
        Self { world, client, connector, told: 0 }
    }

    /// The client says these bytes inside the tunnel.
    fn say(&mut self, inner: &[u8]) {
        self.world.with(self.client, |agent, now| agent.seal_anything(now, inner));
    }

    /// The client names addresses, as another process would.
    fn name(&mut self, list: Vec<Candidate>) {
        self.told += 1;
        let message = PathMessage::Candidates { epoch: 7_000 + self.told, sequence: 1, round: 0, list };
        self.say(&message.encode());
    }

    /// What the connector sent to an address.
    fn sent_to(&self, to: SocketAddr) -> Vec<Sent> {
        let is_it = |sent: &&Sent| sent.agent == self.connector && sent.to == to;
        self.world.watch.sent.iter().filter(is_it).cloned().collect()
    }

    fn own_address(&self) -> IpAddr {
        self.world.net.addresses(self.world.agent(self.connector).host)[0]
    }
}

/// How many packets a lie makes a connector send there in two minutes, whatever the peer calls the address.
fn sent_after_naming(lie: SocketAddr) -> usize {
    KINDS
        .into_iter()
        .zip(1..)
        .map(|(kind, seed)| {
            let mut victim = Victim::new(seed);
            for _ in 0..4 {
                victim.name(vec![Candidate { kind, address: lie }]);
                victim.world.run_for(SECOND * 30);
            }
            victim.sent_to(lie).len()
        })
        .sum()
}

#[test]
fn no_packet_leaves_to_loopback_link_local_multicast_metadata_or_port_0_whoever_names_it() {
    for lie in [
        "127.0.0.1:8080",
        "127.8.8.8:5000",
        "[::1]:8080",
        "169.254.1.1:5000",
        "[fe80::1]:5000",
        "169.254.169.254:8080",
        "[fd00:ec2::254]:8080",
        "100.100.100.200:8080",
        "192.0.0.192:8080",
        "224.0.0.251:5353",
        "239.1.1.1:5000",
        "[ff02::1]:5353",
        "255.255.255.255:5000",
        "0.0.0.0:9000",
        "[::]:9000",
        "[64:ff9b::7f00:1]:8080",
        "198.51.100.9:0",
        "198.51.100.9:53",
        "198.51.100.9:443",
    ] {
        assert_eq!(sent_after_naming(address(lie)), 0, "{lie}");
    }
}

#[test]
fn no_packet_leaves_to_a_private_network_that_is_not_ours() {
    for lie in ["10.99.0.1:9000", "172.16.5.5:9000", "100.64.9.9:9000", "[fd12:3456::9]:9000"] {
        assert_eq!(sent_after_naming(address(lie)), 0, "{lie}");
    }
}

#[test]
fn a_peer_that_names_the_victims_own_public_address_is_looked_for_in_no_private_network() {
    let mut victim = Victim::new(7);
    let connector = victim.world.agent(victim.connector).host;
    let IpAddr::V4(own) = victim.own_address() else { panic!("a home has IPv4") };
    let [a, b, c, _] = own.octets();
    // Where the PoP sees the connector's router: its number in the world is 1.
    let public = SocketAddr::from(([203, 0, 113, 1], 50_000));
    let lies = [
        address("10.99.0.1:9000"),
        address("172.16.5.5:9000"),
        address("100.64.9.9:9000"),
        address("[fd12:3456::9]:9000"),
        SocketAddr::from(([a, b, c, 77], 9_000)),
    ];
    for (kind, local) in KINDS.into_iter().flat_map(|kind| KINDS.map(|local| (kind, local))) {
        let mut list = vec![Candidate { kind, address: public }];
        list.extend(lies.map(|address| Candidate { kind: local, address }));
        list.sort_unstable();
        victim.name(list);
        victim.world.run_for(SECOND * 30);
    }
    assert!(!victim.sent_to(public).is_empty(), "the list was not taken at all, so nothing was tested");
    for lie in lies {
        assert_eq!(victim.sent_to(lie), [], "{lie}");
    }
    assert_eq!(victim.world.agent(victim.connector).host, connector);
}

/// Bursts of a minute (ADR 0006), and what the quick ones of one list are.
const BURSTS: usize = 5;

/// Nothing but probes, each as short as a probe is, and no more of them in any minute than bursts.
fn is_in_budget(sent: &[Sent]) -> bool {
    let crowd = sent.windows(BURSTS + 1).find(|window| window[BURSTS].at < window[0].at + SECOND * 60);
    sent.iter().all(|sent| sent.kind == Kind::Probe) && crowd.is_none()
}

#[test]
fn a_third_party_gets_a_few_probes_however_often_it_is_named_and_a_neighbour_on_our_link_none() {
    let mut victim = Victim::new(5);
    let IpAddr::V4(own) = victim.own_address() else { panic!("a home has IPv4") };
    let [a, b, c, _] = own.octets();
    let neighbour = SocketAddr::from(([a, b, c, 77], 9_000));
    let third = address(THIRD_PARTY);
    for round in 0..300 {
        let kind = KINDS[round % KINDS.len()];
        let list = [third, neighbour].map(|address| Candidate { kind, address });
        let mut list = list.to_vec();
        list.sort_unstable();
        victim.name(list);
        victim.world.run_for(SECOND);
    }
    let sent = victim.sent_to(third);
    assert!(!sent.is_empty(), "{third} was never asked, so nothing was tested");
    assert!(is_in_budget(&sent), "{third}: {sent:?}");
    assert_eq!(victim.sent_to(neighbour), []);
}

/// A list as the wire has it, of more candidates than a list may have.
fn list_of(count: u8) -> Vec<u8> {
    const COUNT_AT: usize = 4 + 12;
    let candidate = |number: u8| Candidate {
        kind: CandidateKind::Observed,
        address: SocketAddr::from(([192, 0, 2, 100 + number], 9_000)),
    };
    let of =
        |list: Vec<Candidate>| PathMessage::Candidates { epoch: 9, sequence: 1, round: 0, list }.encode();
    let most = u8::try_from(MAX_CANDIDATES).expect("few");
    let mut bytes = of((0..most.min(count)).map(candidate).collect());
    for number in most..count {
        // The candidate alone, cut out of a list of one.
        bytes.extend_from_slice(&of(vec![candidate(number)])[COUNT_AT + 1..]);
    }
    bytes[COUNT_AT] = count;
    let length = u16::try_from(bytes.len()).expect("short");
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[test]
fn a_list_of_seventeen_candidates_is_believed_in_nothing_and_one_of_sixteen_is_tried() {
    for (count, asked) in [(16, 16), (17, 0)] {
        let mut victim = Victim::new(6);
        victim.say(&list_of(count));
        victim.world.run_for(SECOND * 10);
        let got = (0..count)
            .filter(|number| !victim.sent_to(SocketAddr::from(([192, 0, 2, 100 + number], 9_000))).is_empty())
            .count();
        assert_eq!(got, asked, "of {count}");
    }
}

/// A connection of whole nodes by the relay alone.
fn relayed(seed: u64) -> Stack {
    let mut net = Network::new(seed);
    let link = LinkRules::of_delay(Time::from_millis(10));
    let [connector, client] =
        [1, 2].map(|number| Site::build(&mut net, Place::Symmetric, number, link).address());
    let mut stack = Stack::new(seed, net, &connector, &client);
    stack.wait(SECOND * 5, |_| false);
    stack.dial();
    assert!(stack.wait(SECOND * 15, Stack::is_connected), "{:?}", stack.faults());
    stack
}

#[test]
fn who_captures_all_that_a_client_says_and_sends_it_from_elsewhere_is_sent_nothing_of_the_tunnel() {
    // He is slower than the client, as fast, and faster.
    for (seed, later) in [(1, 90), (2, 40), (3, 20), (4, 5), (5, 0)] {
        let mut stack = relayed(seed);
        let moves = stack.relay_moves();
        stack.let_steal(LinkRules::of_delay(Time::from_millis(later)));
        for byte in 0..60 {
            let before = stack.echoed.len();
            assert_eq!(stack.say(&[byte]), 1, "{:?}", stack.faults());
            let is_back = stack.wait(SECOND * 3, |stack| stack.echoed.len() > before);
            assert!(is_back, "byte {byte} beside a thief {later} ms away: {:?}", stack.faults());
            stack.wait(SECOND, |_| false);
        }
        let from_thief =
            stack.sent.iter().filter(|sent| sent.to.to_string() == "198.51.100.250:6666").count();
        assert!(
            from_thief > 10,
            "the PoP answers what he sends with questions alone, and there were {from_thief}"
        );
        assert_eq!((stack.stolen, stack.relay_moves()), (0, moves), "{later} ms away");
        assert!(matches!(stack.way(), Some(Path::Relay { .. })), "{:?}", stack.way());
    }
}
