//! The machine's own stack, here another set of flows, against the same connectors.

use super::*;
use crate::core::PacketDrop;
use dns::Pool;

const MACHINE: LinkId = LinkId(1);
const SOURCE: &str = "100.64.0.2:40000";

/// The machine's stack: what a kernel does with a TUN interface.
pub(super) struct Machine {
    stack: Flows,
    pool: Pool,
    closed: BTreeMap<FlowId, CloseReason>,
    pub(super) established: BTreeSet<FlowId>,
}

impl Machine {
    pub(super) fn new(now: Instant) -> Self {
        let stack = Flows::new(FlowLimits::DEFAULT, 99, now);
        let pool =
            Pool::new("100.97.0.0/16".parse().unwrap(), "fd7a:7467:6e61::/96".parse().unwrap()).unwrap();
        Self { stack, pool, closed: BTreeMap::new(), established: BTreeSet::new() }
    }

    /// The addresses of a name, as the machine's resolver answers.
    fn resolve(&mut self, world: &World, name: &str) -> BoundPair {
        let (v4, v6) = self.pool.assign(world.now, &name.parse().unwrap()).unwrap();
        BoundPair { v4, v6 }
    }

    pub(super) fn dial(&mut self, world: &mut World, from: &str, to: &str) -> FlowId {
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        let flow = self.stack.dial(world.now, MACHINE, from, to).unwrap();
        self.run(world);
        flow
    }

    /// Carries packets between the stack and the core until both are quiet.
    fn run(&mut self, world: &mut World) {
        loop {
            let mut quiet = true;
            loop {
                match self.stack.poll_output() {
                    flow::Output::Packet { bytes, .. } => {
                        quiet = false;
                        world.core.handle_packet(world.now, &mut self.pool, &bytes);
                    }
                    flow::Output::Event { flow, event, .. } => match event {
                        flow::Event::Closed(reason) => {
                            self.closed.insert(flow, reason);
                        }
                        flow::Event::Established => {
                            self.established.insert(flow);
                        }
                        _ => {}
                    },
                    flow::Output::Timeout(_) => break,
                }
            }
            world.run();
            for packet in std::mem::take(&mut world.machine) {
                quiet = false;
                self.stack.handle_input(world.now, MACHINE, &packet).unwrap();
            }
            if quiet {
                return;
            }
        }
    }

    pub(super) fn pass(&mut self, world: &mut World, time: Duration) {
        let end = world.now + time;
        while world.now < end {
            world.pass(Duration::from_millis(250));
            self.stack.handle_timeout(world.now);
            self.run(world);
        }
    }

    pub(super) fn end(&self, flow: FlowId) -> Option<CloseReason> {
        self.closed.get(&flow).copied()
    }

    pub(super) fn echo(&mut self, world: &mut World, flow: FlowId, text: &[u8]) -> Vec<u8> {
        self.stack.write(world.now, flow, text).unwrap();
        self.run(world);
        let mut buffer = [0; 4096];
        match self.stack.read(world.now, flow, &mut buffer) {
            Ok(Read::Bytes(count)) => buffer[..count].to_vec(),
            _ => Vec::new(),
        }
    }
}

#[test]
fn a_conversation_of_the_machine_opens_its_tunnel_and_goes_through_it() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    assert!(machine.established.contains(&flow));
    assert_eq!(machine.echo(&mut world, flow, b"hello"), b"hello");
    assert_eq!(world.opens(), 1);
}

#[test]
fn a_connection_by_the_proxy_shares_the_tunnel_and_neither_gets_the_other_s_packets() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let dial = world.dial("10.1.2.3:80");
    let proxied = world.result(dial).unwrap();
    let own = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    assert_eq!(machine.echo(&mut world, own, b"of the machine"), b"of the machine");
    assert_eq!(world.echo(proxied, b"of the proxy"), b"of the proxy");
    assert_eq!(world.opens(), 1);
}

#[test]
fn what_no_policy_gives_is_answered_as_a_router_would() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    for to in ["192.0.2.1:80", "10.1.2.3:99"] {
        let flow = machine.dial(&mut world, SOURCE, to);
        assert_eq!(machine.closed[&flow], CloseReason::Unreachable(Unreachable::Prohibited), "{to}");
    }
    assert_eq!(world.opens(), 0);
    assert_eq!(world.core.packet_drops().collect::<Vec<_>>(), [(PacketDrop::NoResource, 2)]);
}

#[test]
fn a_refused_connection_is_refused_and_a_prohibited_one_prohibited() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let refused = machine.dial(&mut world, SOURCE, "10.1.2.3:81");
    let prohibited = machine.dial(&mut world, "100.64.0.2:40001", "10.1.2.3:82");
    assert_eq!(machine.closed[&refused], CloseReason::Refused);
    assert_eq!(machine.closed[&prohibited], CloseReason::Unreachable(Unreachable::Prohibited));
}

#[test]
fn a_connector_that_cannot_be_reached_leads_to_the_next() {
    let mut world = World::new(&[Manners::Refuses(Refusal::NotAttached), Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    machine.pass(&mut world, Duration::from_secs(2));
    assert!(machine.established.contains(&flow));
}

#[test]
fn when_no_connector_can_be_reached_the_machine_is_told() {
    let mut world =
        World::new(&[Manners::Refuses(Refusal::NotAttached), Manners::Refuses(Refusal::NotAttached)]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    assert_eq!(machine.closed[&flow], CloseReason::Unreachable(Unreachable::Host));
}

#[test]
fn a_tunnel_that_is_lost_is_opened_again_for_a_conversation_that_runs() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    let path = world.connectors[0].there();
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    machine.run(&mut world);
    assert_eq!(world.opens(), 2);
    assert_eq!(machine.echo(&mut world, flow, b"again"), b"again");
}

#[test]
fn a_quiet_conversation_does_not_keep_a_lost_tunnel_open() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    machine.pass(&mut world, Duration::from_secs(90));
    let path = world.connectors[0].there();
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    machine.run(&mut world);
    assert_eq!(world.opens(), 1);
    assert_eq!(machine.echo(&mut world, flow, b"awake"), b"awake", "its next packet opens the tunnel");
    assert_eq!(world.opens(), 2);
}

#[test]
fn packets_from_foreign_addresses_and_of_other_protocols_go_nowhere() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let from: SocketAddr = "192.168.1.5:40000".parse().unwrap();
    machine.stack.dial(world.now, MACHINE, from, "10.1.2.3:80".parse().unwrap()).unwrap();
    machine.run(&mut world);
    world.core.handle_packet(world.now, &mut machine.pool, &[0x45; 19]);
    let drops: BTreeMap<PacketDrop, u64> = world.core.packet_drops().collect();
    assert!(drops.contains_key(&PacketDrop::Source));
    assert!(drops.keys().any(|why| matches!(why, PacketDrop::Malformed(_))));
    assert_eq!(world.opens(), 0);
}

#[test]
fn a_flood_of_first_packets_holds_a_bounded_number_and_ends_no_running_conversation() {
    let mut world = World::new(&[Manners::Silent, Manners::Silent]);
    let mut machine = Machine::new(world.now);
    for port in 1024..8_000_u16 {
        let from = SocketAddr::new("100.64.0.2".parse().unwrap(), port);
        if machine.stack.dial(world.now, MACHINE, from, "10.1.2.3:80".parse().unwrap()).is_err() {
            // The stack itself is full; its packets go out, and the next ones come.
            machine.run(&mut world);
            machine.stack.drop_link(MACHINE);
        }
    }
    machine.run(&mut world);
    assert!(world.core.packet_drops().any(|(why, count)| why == PacketDrop::Full && count > 0));
}

fn bind(pair: BoundPair, name: &str) -> BindMessage {
    BindMessage::Bind { pair, name: name.as_bytes().to_vec() }
}

#[test]
fn a_connector_is_told_once_what_an_address_stands_for_and_ahead_of_the_first_packet() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let pair = machine.resolve(&world, "wiki.example");
    let flow = machine.dial(&mut world, SOURCE, &format!("{}:80", pair.v4));
    assert!(machine.established.contains(&flow));
    assert_eq!(machine.echo(&mut world, flow, b"hello"), b"hello");
    let second = machine.dial(&mut world, "100.64.0.2:40001", &format!("{}:80", pair.v4));
    assert!(machine.established.contains(&second));
    let own = "[fd00::2]:40000";
    let third = machine.dial(&mut world, own, &format!("[{}]:80", pair.v6));
    assert!(machine.established.contains(&third));
    assert_eq!(world.connectors[0].binds, [bind(pair, "wiki.example")]);
}

#[test]
fn until_a_connector_has_answered_each_packet_says_what_its_address_stands_for() {
    let mut world = World::new(&[Manners::Accepts]);
    world.connectors[0].answers_binds = false;
    let mut machine = Machine::new(world.now);
    let pair = machine.resolve(&world, "wiki.example");
    let flow = machine.dial(&mut world, SOURCE, &format!("{}:80", pair.v4));
    assert_eq!(machine.echo(&mut world, flow, b"hello"), b"hello");
    let unanswered = world.connectors[0].binds.len();
    assert!(unanswered >= 3, "one with each packet, not {unanswered}");
    world.connectors[0].answers_binds = true;
    assert_eq!(machine.echo(&mut world, flow, b"more"), b"more");
    let answered = world.connectors[0].binds.len();
    assert_eq!(machine.echo(&mut world, flow, b"most"), b"most");
    assert_eq!(world.connectors[0].binds.len(), answered);
}

#[test]
fn a_tunnel_that_is_opened_anew_is_told_anew() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let pair = machine.resolve(&world, "wiki.example");
    let flow = machine.dial(&mut world, SOURCE, &format!("{}:80", pair.v4));
    let path = world.connectors[0].there();
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    machine.run(&mut world);
    assert_eq!(machine.echo(&mut world, flow, b"again"), b"again");
    assert_eq!(world.connectors[0].binds, [bind(pair, "wiki.example"), bind(pair, "wiki.example")]);
}

#[test]
fn a_connector_that_had_to_forget_is_told_again() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let pair = machine.resolve(&world, "wiki.example");
    let flow = machine.dial(&mut world, SOURCE, &format!("{}:80", pair.v4));
    let connector = &mut world.connectors[0];
    let peer = connector.tunnels.peer_of(CLIENT_KEY.public_key()).expect("the client");
    connector.tunnels.send_bind(world.now, peer, &BindMessage::Unbound(pair)).expect("room");
    machine.run(&mut world);
    assert_eq!(machine.echo(&mut world, flow, b"again"), b"again");
    assert_eq!(world.connectors[0].binds.len(), 2);
}

#[test]
fn the_alias_of_an_address_stands_for_that_address_at_its_own_site() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let pair = machine.resolve(&world, "printer");
    let flow = machine.dial(&mut world, SOURCE, &format!("{}:80", pair.v4));
    assert!(machine.established.contains(&flow));
    assert_eq!(world.connectors[0].binds, [bind(pair, "10.9.9.9")]);
}

#[test]
fn a_synthetic_address_without_a_name_leads_nowhere_even_inside_a_range_that_is_a_resource() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    machine.pool =
        Pool::new("10.97.0.0/16".parse().unwrap(), "fd7a:7467:6e61::/96".parse().unwrap()).unwrap();
    let flow = machine.dial(&mut world, SOURCE, "10.97.3.4:80");
    assert_eq!(machine.closed[&flow], CloseReason::Unreachable(Unreachable::Prohibited));
    assert_eq!(world.opens(), 0);
}

#[test]
fn a_port_that_the_resource_behind_a_name_lacks_is_prohibited_without_asking_anybody() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let pair = machine.resolve(&world, "wiki.example");
    let flow = machine.dial(&mut world, SOURCE, &format!("{}:99", pair.v4));
    assert_eq!(machine.closed[&flow], CloseReason::Unreachable(Unreachable::Prohibited));
    assert!(world.connectors[0].binds.is_empty());
}

#[test]
fn only_aliases_and_host_names_are_private_not_what_people_call_a_resource() {
    let world = World::new(&[Manners::Accepts]);
    let names = names_of(&world.slice());
    let has = |name: &str| names.has(&name.parse().unwrap());
    assert!(has("wiki.example") && has("printer"));
    assert!(!has("wiki") && !has("lan"));
}

#[test]
fn a_proxy_reaches_any_name_below_a_wildcard_and_each_by_an_address_of_its_own() {
    let mut world = World::new(&[Manners::Accepts]);
    for (name, text) in [("a.apps.example", "one"), ("b.apps.example", "two"), ("a.apps.example", "three")] {
        let dial = world.dial(&format!("{name}:80"));
        let flow = world.result(dial).unwrap();
        assert_eq!(world.echo(flow, text.as_bytes()), text.as_bytes());
    }
    let told: Vec<String> = world.connectors[0]
        .binds
        .iter()
        .map(|bind| match bind {
            BindMessage::Bind { name, .. } => String::from_utf8(name.clone()).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["a.apps.example", "b.apps.example"]);
    let addresses: BTreeSet<SocketAddr> = world.connectors[0].echoed.values().copied().collect();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
}

/// An ICMP echo request or reply, IPv4.
fn echo_packet(from: [u8; 4], to: [u8; 4], kind: u8, identifier: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 1, 0, 0];
    packet.extend(from);
    packet.extend(to);
    packet.extend([kind, 0, 0, 0]);
    packet.extend(identifier.to_be_bytes());
    packet.extend([0, 1, b'p', b'i', b'n', b'g']);
    packet
}

#[test]
fn an_echo_goes_where_a_policy_gives_it_and_its_answer_comes_back_to_the_machine() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let own = [100, 64, 0, 2];
    world.core.handle_packet(world.now, &mut machine.pool, &echo_packet(own, [10, 1, 2, 3], 8, 77));
    let mut slice = (*world.slice()).clone();
    slice.resources[1].ports = vec!["icmp".parse().unwrap()];
    world.core.set_slice(world.now, Arc::new(slice));
    assert_eq!(world.core.packet_drops().collect::<Vec<_>>(), [(PacketDrop::NoResource, 1)]);
    world.run();
    assert_eq!(world.machine.len(), 1, "the refusal as a router says it");
    world.machine.clear();
    world.core.handle_packet(world.now, &mut machine.pool, &echo_packet(own, [10, 1, 2, 3], 8, 77));
    world.run();
    assert_eq!(world.opens(), 1);
    let connector = &mut world.connectors[0];
    let peer = connector.tunnels.peer_of(CLIENT_KEY.public_key()).expect("the client");
    let answer = echo_packet([10, 1, 2, 3], own, 0, 77);
    let foreign = echo_packet([10, 1, 2, 3], own, 0, 78);
    connector.tunnels.seal_batch(world.now, peer, &[&answer, &foreign]).expect("room");
    world.run();
    assert_eq!(world.machine, [answer]);
}

const OWN: &str = "100.64.0.2:5000";
const TALKER: &str = "10.7.0.9:53";

fn datagram(from: &str, to: &str, length: usize) -> Vec<u8> {
    flow::udp(from.parse().unwrap(), to.parse().unwrap(), &vec![7; length]).unwrap()
}

#[test]
fn a_datagram_in_pieces_goes_there_in_pieces_that_fit_and_an_answer_in_pieces_comes_back_whole() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    // A short one opens the tunnel.
    world.core.handle_packet(world.now, &mut machine.pool, &datagram(OWN, TALKER, 20));
    world.run();
    world.connectors[0].inner.clear();
    for piece in flow::split(datagram(OWN, TALKER, 3_000), 1_280, 9) {
        world.core.handle_packet(world.now, &mut machine.pool, &piece);
    }
    world.run();
    let came = std::mem::take(&mut world.connectors[0].inner);
    assert!(came.len() >= 3 && came.iter().all(|piece| piece.len() <= 1_280), "{}", came.len());
    let peer = world.connectors[0].tunnels.peer_of(CLIENT_KEY.public_key()).expect("the client");
    let answer = datagram(TALKER, OWN, 2_500);
    for piece in flow::split(answer.clone(), 1_280, 4) {
        world.connectors[0].tunnels.seal(world.now, peer, &piece).expect("room");
    }
    world.run();
    let [whole] = world.machine.as_slice() else { panic!("{} packets", world.machine.len()) };
    assert_eq!(whole[20..], answer[20..], "all behind the header, which counts its pieces");
}

#[test]
fn the_same_ends_again_are_another_connection_which_may_go_by_another_connector() {
    let mut world = World::new(&[Manners::Accepts, Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let flow = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    assert_eq!(machine.echo(&mut world, flow, b"once"), b"once");
    let used = world.connectors.iter().position(|connector| connector.opens > 0).expect("one of them");
    world.connectors[used].is_frozen = true;
    machine.stack.drop_link(MACHINE);
    let again = machine.dial(&mut world, SOURCE, "10.1.2.3:80");
    machine.pass(&mut world, Duration::from_secs(4));
    assert!(machine.established.contains(&again));
    assert_eq!(machine.echo(&mut world, again, b"twice"), b"twice");
}

#[test]
fn a_name_stands_for_its_alias_at_every_port_and_not_for_the_wildcard_around_it() {
    let mut world = World::new(&[Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let pair = machine.resolve(&world, "db.apps.example");
    let flow = machine.dial(&mut world, SOURCE, &format!("{}:80", pair.v4));
    assert_eq!(machine.closed[&flow], CloseReason::Unreachable(Unreachable::Prohibited));
    machine.dial(&mut world, "100.64.0.2:40001", &format!("{}:5432", pair.v4));
    assert_eq!(world.connectors[0].binds, [bind(pair, "10.9.9.8")]);
}

#[test]
fn an_answered_conversation_outlasts_a_gap_in_this_machines_own_network() {
    let mut world = World::new(&[Manners::Accepts, Manners::Accepts]);
    let mut machine = Machine::new(world.now);
    let mut say = |world: &mut World| {
        world.core.handle_packet(world.now, &mut machine.pool, &datagram(OWN, TALKER, 20));
        world.run();
    };
    say(&mut world);
    let used = world.connectors.iter().position(|connector| connector.opens > 0).expect("one of them");
    let peer = world.connectors[used].tunnels.peer_of(CLIENT_KEY.public_key()).expect("the client");
    let answer = datagram(TALKER, OWN, 20);
    world.connectors[used].tunnels.seal(world.now, peer, &answer).expect("room");
    world.run();
    world.connected = false;
    for _ in 0..3 {
        say(&mut world);
        world.pass(Duration::from_secs(1));
    }
    world.connected = true;
    say(&mut world);
    world.pass(Duration::from_secs(3));
    assert!(world.connectors[1 - used].inner.is_empty(), "it moved");
    world.connectors[used].is_frozen = true;
    for _ in 0..10 {
        say(&mut world);
        world.pass(Duration::from_secs(1));
    }
    assert!(!world.connectors[1 - used].inner.is_empty(), "it stayed with a connector that is gone");
}
