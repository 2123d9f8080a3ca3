//! Names that a client binds to addresses of its own.

use super::*;
use flow::udp;
use std::net::{Ipv4Addr, Ipv6Addr};
use tunnel::BoundPair;

const PAIR: BoundPair =
    BoundPair { v4: Ipv4Addr::new(100, 97, 0, 9), v6: Ipv6Addr::new(0xfd7a, 0x7467, 0x6e61, 0, 0, 0, 0, 9) };

impl World {
    fn bind(&mut self, pair: BoundPair, name: &str) -> Vec<BindMessage> {
        let peer = self.peer.expect("in");
        let message = BindMessage::Bind { pair, name: name.as_bytes().to_vec() };
        self.tunnels.send_bind(self.now, peer, &message).expect("room");
        self.settle();
        std::mem::take(&mut self.told)
    }

    fn resolve_request(&mut self) -> Option<(FlowId, String)> {
        match self.asked.pop() {
            Some(Output::Resolve { flow, host }) => Some((flow, host)),
            None => None,
            other => panic!("{other:?}"),
        }
    }
}

fn wiki() -> TestRules {
    let mut rules = allowing("tcp://wiki.corp.example:80", Target::Name("wiki.corp.example".into()));
    let target = Target::Name("wiki.corp.example".into());
    rules.allowed.insert("udp://wiki.corp.example:80".into(), target);
    rules
}

#[test]
fn a_packet_to_a_bound_address_means_the_name_and_policy_is_asked_for_the_name() {
    let mut world = World::new(wiki());
    let inner = world.enter();
    // Before it is bound it is an address of nobody.
    let early = world.dial(inner, "100.97.0.9:80");
    assert_eq!(world.client_end(early), Some(CloseReason::Unreachable(Unreachable::Prohibited)));
    assert_eq!(world.bind(PAIR, "wiki.corp.example"), [BindMessage::Bound(PAIR)]);

    let client = world.dial(inner, "100.97.0.9:80");
    let (flow, host) = world.resolve_request().expect("a question");
    assert_eq!(host, "wiki.corp.example");
    world.resolve(flow, &["8.8.8.8", "10.0.0.7"]);
    let Some(Output::Dial { addresses, .. }) = world.asked.pop() else { panic!("a dial") };
    assert_eq!(addresses, [address("10.0.0.7:80")], "inside the site alone");
    world.accept(flow, "10.0.0.7:80");
    assert!(world.client_events.contains(&(client, FlowEvent::Established)));

    // A policy for the port 80 of the name is none for its port 81.
    let refused = world.dial(inner, "100.97.0.9:81");
    assert_eq!(world.client_end(refused), Some(CloseReason::Unreachable(Unreachable::Prohibited)));
    let record = world.records.last().expect("a record");
    assert_eq!((record.name.as_deref(), record.destination.port()), (Some("wiki.corp.example"), 81));
}

#[test]
fn a_packet_whose_binding_was_lost_is_not_refused_and_the_client_is_asked_to_say_it_again() {
    let mut world = World::new(TestRules { otherwise: Some(Refusal::NoResource), ..wiki() });
    let inner = world.enter();
    let v6: IpAddr = policy::inner_device_address(DEVICE).into();
    let client = world.dial(inner, "100.97.0.9:80");
    let echo = flow::Echo { kind: flow::EchoKind::Request, identifier: 1, sequence: 1, data: b"" };
    world.send(&echo.packet(v6, PAIR.v6.into()).expect("one family"));
    world.send(&udp(address("100.64.0.2:9"), SocketAddr::new(PAIR.v4.into(), 80), b"?").expect("one family"));
    assert_eq!((world.client_end(client), world.records.len(), world.asked.len()), (None, 0, 0));
    let half_v4 = BindMessage::Unbound(BoundPair { v6: Ipv6Addr::UNSPECIFIED, ..PAIR });
    let half_v6 = BindMessage::Unbound(BoundPair { v4: Ipv4Addr::UNSPECIFIED, ..PAIR });
    assert_eq!(std::mem::take(&mut world.told), [half_v4.clone(), half_v6, half_v4]);
    assert_eq!(world.core.status().packets_of_no_name, 3);
    // With it the first packet, which comes again, finds its way.
    world.bind(PAIR, "wiki.corp.example");
    world.advance(Duration::from_secs(2));
    assert_eq!(world.resolve_request().expect("a question").1, "wiki.corp.example");
    // Anywhere else an address of nobody is refused.
    let client = world.dial(inner, "10.97.0.9:80");
    assert_eq!(world.client_end(client), Some(CloseReason::Unreachable(Unreachable::Prohibited)));
}

#[test]
fn both_families_and_both_protocols_reach_the_name() {
    let mut world = World::new(wiki());
    world.enter();
    world.bind(PAIR, "wiki.corp.example");
    let v6: IpAddr = policy::inner_device_address(DEVICE).into();
    world.dial(v6, &format!("[{}]:80", PAIR.v6));
    assert_eq!(world.resolve_request().expect("a question").1, "wiki.corp.example");
    let ask = udp(address("100.64.0.2:9"), SocketAddr::new(PAIR.v4.into(), 80), b"?").expect("one family");
    world.send(&ask);
    let Some(Output::Datagrams(DatagramRequest::Resolve { host, .. })) = world.asked.pop() else {
        panic!("a question")
    };
    assert_eq!(host, "wiki.corp.example");
}

#[test]
fn a_binding_opens_nothing_that_policy_does_not() {
    let mut world = World::new(wiki());
    let inner = world.enter();
    for name in ["payroll.corp.example", "localhost", "169.254.169.254", "127.0.0.1", "10.0.0.5"] {
        assert_eq!(world.bind(PAIR, name), [BindMessage::Bound(PAIR)], "{name}");
        let client = world.dial(inner, "100.97.0.9:80");
        assert!(world.asked.is_empty(), "{name}");
        assert_eq!(
            world.client_end(client),
            Some(CloseReason::Unreachable(Unreachable::Prohibited)),
            "{name}"
        );
    }
    // Nor does a name that is rebound in the site's DNS lead anywhere else.
    world.bind(PAIR, "wiki.corp.example");
    for found in ["127.0.0.1", "169.254.169.254", "192.0.2.1", "fd00:ec2::254"] {
        let client = world.dial(inner, "100.97.0.9:80");
        let (flow, _) = world.resolve_request().expect("a question");
        world.resolve(flow, &[found]);
        assert!(world.asked.is_empty(), "{found}");
        assert_eq!(
            world.client_end(client),
            Some(CloseReason::Unreachable(Unreachable::Prohibited)),
            "{found}"
        );
    }
}

#[test]
fn a_bound_address_shadows_a_resource_for_its_own_session_alone() {
    let mut rules = wiki();
    rules.allowed.insert(format!("tcp://{WEB}"), Target::Literal("10.0.0.5".parse().expect("address")));
    let mut world = World::new(rules);
    let inner = world.enter();
    world.bind(BoundPair { v4: Ipv4Addr::new(10, 0, 0, 5), ..PAIR }, "wiki.corp.example");
    world.dial(inner, WEB);
    assert_eq!(world.resolve_request().expect("a question").1, "wiki.corp.example");
    // Another client of the same connector: its addresses mean what they are.
    let key = WireGuardPrivateKey::from_bytes([0x23; 32]);
    world.tunnels = Tunnels::new(&key, 5, world.now);
    world.flows = Flows::new(FlowLimits::DEFAULT, 6, world.now);
    let inner = world.enter();
    world.dial(inner, WEB);
    assert!(matches!(world.asked.pop(), Some(Output::Dial { .. })));
}

#[test]
fn an_address_that_means_another_name_ends_the_flows_of_the_old_one() {
    let mut rules = wiki();
    rules.allowed.insert("tcp://db.corp.example:80".into(), Target::Name("db.corp.example".into()));
    let mut world = World::new(rules);
    let inner = world.enter();
    world.bind(PAIR, "wiki.corp.example");
    let client = world.dial(inner, "100.97.0.9:80");
    let (flow, _) = world.resolve_request().expect("a question");
    world.resolve(flow, &["10.0.0.7"]);
    world.asked.clear();
    world.accept(flow, "10.0.0.7:80");
    world.send(&udp(address("100.64.0.2:9"), SocketAddr::new(PAIR.v4.into(), 80), b"?").expect("one family"));
    world.asked.clear();
    assert_eq!(world.bind(PAIR, "wiki.corp.example"), [BindMessage::Bound(PAIR)]);
    assert_eq!(world.client_end(client), None, "the same again changes nothing");
    assert_eq!(world.bind(PAIR, "db.corp.example"), [BindMessage::Bound(PAIR)]);
    assert_eq!(world.client_end(client), Some(CloseReason::Reset));
    assert!(world.asked.iter().any(|asked| matches!(asked, Output::Ended { ending: Ending::Cut, .. })));
    assert!(world.asked.iter().any(|asked| matches!(asked, Output::Datagrams(DatagramRequest::Close(_)))));
    let reasons: Vec<_> = world.records.iter().map(|record| record.reason.as_str()).collect();
    assert_eq!(reasons, ["rebound", "rebound"]);
    world.asked.clear();
    world.dial(inner, "100.97.0.9:80");
    assert_eq!(world.resolve_request().expect("a question").1, "db.corp.example");
}

#[test]
fn what_is_no_name_or_no_address_for_one_is_not_bound_and_the_client_is_told() {
    let mut world = World::new(wiki());
    world.enter();
    let own = BoundPair { v4: policy::INNER_V4, ..PAIR };
    let loopback = BoundPair { v6: Ipv6Addr::LOCALHOST, ..PAIR };
    for (pair, name) in
        [(PAIR, "not a name"), (PAIR, "*.corp.example"), (own, "a.example"), (loopback, "a.example")]
    {
        assert_eq!(world.bind(pair, name), [BindMessage::Unbound(pair)], "{name}");
    }
    assert_eq!(world.core.status().bindings_refused, 4);
}

#[test]
fn a_policy_change_ends_a_flow_to_a_bound_name() {
    let mut world = World::new(wiki());
    let inner = world.enter();
    world.bind(PAIR, "wiki.corp.example");
    let client = world.dial(inner, "100.97.0.9:80");
    let (flow, _) = world.resolve_request().expect("a question");
    world.resolve(flow, &["10.0.0.7"]);
    world.accept(flow, "10.0.0.7:80");
    world.recheck();
    assert_eq!(world.client_end(client), None);
    world.rules = Some(literal(WEB));
    world.recheck();
    assert_eq!(world.client_end(client), Some(CloseReason::Reset));
    assert!(world.records.iter().any(|record| record.verdict == Verdict::Withdrawn));
}

#[test]
fn addresses_in_use_come_to_mean_something_else_so_often_in_a_second_and_new_ones_are_bound_all_the_same() {
    let most = u16::try_from(session::REBINDINGS_PER_SECOND).expect("few");
    // One address in use, and another of the other family with it each time.
    let pair =
        |number: u16| BoundPair { v6: Ipv6Addr::new(0xfd7a, 0x7467, 0x6e61, 0, 0, 0, 1, number), ..PAIR };
    let mut world = World::new(wiki());
    let inner = world.enter();
    world.bind(pair(0), "wiki.corp.example");
    let client = world.dial(inner, "100.97.0.9:80");
    for number in 1..=most {
        let told = [BindMessage::Bound(pair(number)), BindMessage::Unbound(pair(number - 1))];
        assert_eq!(world.bind(pair(number), "wiki.corp.example"), told, "{number}");
    }
    assert_eq!(world.bind(pair(most + 1), "wiki.corp.example"), [], "as if it had been lost");
    assert_eq!(world.core.status().rebindings_put_off, 1);
    let fresh = BoundPair { v4: Ipv4Addr::new(100, 97, 1, 1), ..pair(0xFFFF) };
    assert_eq!(world.bind(fresh, "wiki.corp.example"), [BindMessage::Bound(fresh)]);
    world.advance(Duration::from_secs(1));
    assert_eq!(world.bind(pair(most + 1), "wiki.corp.example").len(), 2, "said again");
    assert_eq!(world.client_end(client), None, "it meant the same all the time");
}
