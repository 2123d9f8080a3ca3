//! Look-ups: each device has its own share of them.

use super::*;
use crate::core::lookups::{SHARE, WAITING};
use flow::udp;

const PLACE: &str = "10.0.0.99:80";

fn by_name() -> TestRules {
    let mut rules = named(PLACE, "db.internal");
    rules.allowed.insert(format!("udp://{PLACE}"), Target::Name("db.internal".into()));
    rules
}

impl World {
    /// Another device comes in, and what follows is its own.
    fn enter_another(&mut self, number: u8) -> IpAddr {
        let key = SigningKey::from_seed(&[number; 32]);
        self.tunnels = Tunnels::new(&WireGuardPrivateKey::from_bytes([number; 32]), 9, self.now);
        self.flows = Flows::new(FlowLimits::DEFAULT, 3, self.now);
        let device = DeviceId::from_bytes([number; 16]);
        let grant = Grant { device, key: key.verifying_key(), ..self.grant() };
        let accept =
            self.introduce(Intro { grant, device: key, ..self.intro() }).expect("a true introduction");
        let path = Path::relay(POP, ChannelId::from_random(self.next_intro * 2));
        let peer = self.peer.expect("introduced");
        self.tunnels
            .accept_response(self.now, peer, accept.response.as_slice(), path)
            .expect("a true response");
        self.settle();
        accept.inner_v4.into()
    }

    fn dial_from(&mut self, from: IpAddr, port: u16) -> FlowId {
        self.dial_to(PLACE, SocketAddr::new(from, port))
    }

    fn dial_to(&mut self, place: &str, from: SocketAddr) -> FlowId {
        let flow = self.flows.dial(self.now, LinkId(1), from, address(place)).expect("room");
        self.settle();
        flow
    }

    /// The flows whose look-ups began since this was asked last.
    fn looked_up(&mut self) -> Vec<FlowId> {
        let asked = std::mem::take(&mut self.asked).into_iter();
        asked
            .filter_map(|output| match output {
                Output::Resolve { flow, .. } => Some(flow),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn one_device_has_its_share_of_look_ups_and_another_does_not_wait_behind_it() {
    let mut world = World::new(by_name());
    let inner = world.enter();
    for port in 0..20 {
        world.dial_from(inner, 1_000 + port);
    }
    let first = world.looked_up();
    assert_eq!(first.len(), SHARE, "the others wait");
    let other = world.enter_another(0x50);
    world.dial_from(other, 1_000);
    assert_eq!(world.looked_up().len(), 1);
    // An answer makes room for the next of the same device.
    world.resolve(first[0], &["10.0.0.8"]);
    assert!(matches!(&world.asked[0], Output::Resolve { .. }), "{:?}", world.asked);
    assert!(matches!(&world.asked[1], Output::Dial { flow, .. } if *flow == first[0]), "{:?}", world.asked);
    assert_eq!(world.looked_up().len(), 1);
}

#[test]
fn a_look_up_that_the_resolver_does_not_end_is_given_up_by_the_flow_and_stays_one_of_the_share() {
    let mut world = World::new(by_name());
    let inner = world.enter();
    let clients: Vec<FlowId> = (0..20).map(|port| world.dial_from(inner, 1_000 + port)).collect();
    let first = world.looked_up();
    for flow in &first {
        world.core.look_up_overdue(world.now, world.wall, *flow);
    }
    world.settle();
    assert_eq!(world.client_end(clients[0]), Some(CloseReason::Unreachable(Unreachable::Host)));
    assert_eq!(world.records.len(), SHARE);
    assert!(world.records.iter().all(|record| record.is_because_of(Refusal::NameNotResolved)));
    assert!(world.looked_up().is_empty(), "the threads are still taken");
    for (ended, flow) in first.iter().enumerate() {
        world.resolve(*flow, &["10.0.0.8"]);
        assert_eq!(world.looked_up().len(), 1, "one for each that ended: {ended}");
    }
    assert_eq!(world.core.status().flows, 20 - SHARE);
}

#[test]
fn a_flow_that_ends_while_it_waits_for_a_look_up_is_not_looked_up() {
    let mut rules = by_name();
    rules.allowed.insert("tcp://10.0.0.98:80".into(), Target::Name("old.internal".into()));
    let mut world = World::new(rules);
    let inner = world.enter();
    for port in 0..8 {
        world.dial_from(inner, 1_000 + port);
    }
    let withdrawn = world.dial_to("10.0.0.98:80", SocketAddr::new(inner, 1_008));
    world.dial_from(inner, 1_009);
    let first = world.looked_up();
    assert_eq!(first.len(), SHARE);
    world.rules = Some(by_name());
    world.recheck();
    assert!(world.client_end(withdrawn).is_some());
    world.asked.clear();
    world.resolve(first[0], &["10.0.0.8"]);
    assert_eq!(world.looked_up().len(), 1, "the one behind it");
    world.resolve(first[1], &["10.0.0.8"]);
    assert!(world.looked_up().is_empty(), "nothing waits");
}

#[test]
fn a_device_that_asks_for_more_than_may_wait_is_told_and_another_is_not() {
    let mut world = World::new(by_name());
    // As many flows as a real connector gives a device.
    world.core.flows_per_device = 2_000;
    world.enter();
    let most = u16::try_from(SHARE + WAITING).expect("few");
    let ask = |world: &mut World, port| {
        let from = SocketAddr::new(policy::INNER_V4.into(), port);
        world.send(&udp(from, address(PLACE), b"?").expect("one family"));
    };
    for port in 0..most {
        ask(&mut world, 1_000 + port);
    }
    assert!(world.records.is_empty(), "{:?}", world.records.first());
    ask(&mut world, 1_000 + most);
    assert!(world.records[0].is_because_of(Refusal::Full), "{:?}", world.records);
    let asked = std::mem::take(&mut world.asked);
    assert_eq!(asked.len(), SHARE);
    // What is given up late makes room too, and what is overdue is told.
    let Output::Datagrams(DatagramRequest::Resolve { flow, .. }) = asked[0] else { panic!("{:?}", asked[0]) };
    world.news(DatagramNews::Overdue { flow });
    assert!(world.asked.iter().all(|asked| matches!(asked, Output::Datagrams(DatagramRequest::Close(_)))));
    assert!(world.records[1].is_because_of(Refusal::NameNotResolved), "{:?}", world.records);
    world.news(DatagramNews::Resolved { flow, addresses: vec![] });
    assert!(matches!(world.asked.last(), Some(Output::Datagrams(DatagramRequest::Resolve { .. }))));
    world.asked.clear();
    world.enter_another(0x50);
    ask(&mut world, 1_000);
    assert!(matches!(world.asked.last(), Some(Output::Datagrams(DatagramRequest::Resolve { .. }))));
}
