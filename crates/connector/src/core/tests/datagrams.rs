//! UDP and echoes through the core: packets of a client's own making, a site that is written down here.

use super::*;
use flow::ip::{IpPacket, Protocol};
use flow::{Echo, EchoKind, split, udp};

const DNS: &str = "10.0.0.5:53";
/// The test client's address inside, and a port.
const CLIENT: &str = "100.64.0.2:5353";

fn resolver() -> TestRules {
    allowing("udp://10.0.0.5:53", Target::Literal("10.0.0.5".parse().expect("address")))
}

fn datagram(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    udp(address(from), address(to), data).expect("one family")
}

impl World {
    fn requests(&mut self) -> Vec<DatagramRequest> {
        let asked = std::mem::take(&mut self.asked).into_iter();
        asked
            .filter_map(|output| match output {
                Output::Datagrams(request) => Some(request),
                Output::RelayQuiet => None,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// A conversation with the resolver that has a socket, and what was sent by it.
    fn opened(&mut self, packet: &[u8], target: &str) -> (DatagramId, Vec<Vec<u8>>) {
        self.send(packet);
        let [DatagramRequest::Open { flow, ref targets, .. }] = self.requests()[..] else {
            panic!("an open, {:?}", self.records)
        };
        assert!(targets.contains(&address(target)), "{targets:?}");
        self.news(DatagramNews::Opened { flow, result: Ok(address(target)) });
        (flow, self.sent(flow))
    }

    fn sent(&mut self, of: DatagramId) -> Vec<Vec<u8>> {
        let requests = self.requests().into_iter();
        requests
            .map(|request| match request {
                DatagramRequest::Send { flow, bytes } if flow == of => bytes,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn received(&mut self, flow: DatagramId, from: &str, bytes: &[u8]) {
        self.news(DatagramNews::Received { flow, datagrams: vec![(address(from), bytes.to_vec())] });
    }

    /// What the client's kernel reads of UDP, in order.
    fn answers(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        let inner = std::mem::take(&mut self.inner);
        let packets = inner.iter().filter_map(|bytes| IpPacket::parse(bytes).ok());
        let datagrams =
            packets.filter_map(|packet| packet.udp().ok().map(|read| (read.tuple.src, read.data.to_vec())));
        datagrams.collect()
    }

    /// Kind and code of the ICMP errors that the client was sent, and whom they are about.
    fn errors(&mut self) -> Vec<(u8, u8, SocketAddr)> {
        let inner = std::mem::take(&mut self.inner);
        let packets = inner.iter().filter_map(|bytes| IpPacket::parse(bytes).ok());
        let errors = packets.filter(|packet| packet.protocol == Protocol::Icmp && packet.echo().is_none());
        errors
            .filter_map(|packet| {
                let quoted = IpPacket::quoted(packet.payload.get(8..)?)?;
                let about = quoted.tuple().map_or(SocketAddr::new(quoted.dst, 0), |tuple| tuple.dst);
                Some((packet.payload[0], packet.payload[1], about))
            })
            .collect()
    }
}

#[test]
fn a_datagram_goes_to_the_target_and_its_answer_comes_back_from_where_it_was_asked() {
    let mut world = World::new(resolver());
    world.enter();
    let (flow, sent) = world.opened(&datagram(CLIENT, DNS, b"who is web?"), DNS);
    assert_eq!(sent, [b"who is web?"]);
    world.received(flow, DNS, b"10.0.0.5");
    assert_eq!(world.answers(), [(address(DNS), b"10.0.0.5".to_vec())]);
    // The second needs nothing but the socket that is there.
    world.send(&datagram(CLIENT, DNS, b"and mail?"));
    assert_eq!(world.sent(flow), [b"and mail?"]);
    assert_eq!(world.core.status().datagram_flows, 1);

    world.advance(Duration::from_secs(31));
    assert_eq!(world.requests(), [DatagramRequest::Close(flow)]);
    let [record] = &world.records[..] else { panic!("{:?}", world.records) };
    assert_eq!((record.protocol.as_str(), record.verdict), ("udp", Verdict::Allowed));
    assert_eq!((record.bytes_up, record.bytes_down), (20, 8));
    assert_eq!((record.destination, record.target), (address(DNS), Some(address(DNS))));
    assert_eq!(record.reason, "idle");
    assert_eq!(record.resource_name.as_deref(), Some("web"));
    assert_eq!(world.core.status().datagram_flows, 0);
}

#[test]
fn a_conversation_lives_five_minutes_after_its_last_packet_and_one_with_a_resolver_half_a_minute() {
    let target: IpAddr = "10.0.0.5".parse().expect("address");
    let mut rules = resolver();
    rules.allowed.insert("udp://10.0.0.5:4500".into(), Target::Literal(target));
    let mut world = World::new(rules);
    world.enter();
    let (dns, _) = world.opened(&datagram(CLIENT, DNS, b"?"), DNS);
    let (long, _) = world.opened(&datagram(CLIENT, "10.0.0.5:4500", b"?"), "10.0.0.5:4500");
    world.advance(Duration::from_secs(31));
    assert_eq!(world.requests(), [DatagramRequest::Close(dns)]);
    world.advance(Duration::from_secs(200));
    world.received(long, "10.0.0.5:4500", b"keep-alive");
    world.advance(Duration::from_secs(299));
    assert_eq!(world.requests(), []);
    world.advance(Duration::from_secs(2));
    assert_eq!(world.requests(), [DatagramRequest::Close(long)]);
}

#[test]
fn what_policy_does_not_allow_is_answered_by_icmp_and_logged() {
    let mut world = World::new(resolver());
    world.enter();
    for to in ["10.0.0.5:54", "10.0.0.6:53"] {
        world.send(&datagram(CLIENT, to, b"?"));
        assert_eq!(world.requests(), []);
        assert_eq!(world.errors(), [(3, 13, address(to))], "administratively prohibited");
        let record = world.records.pop().expect("a record");
        assert_eq!((record.protocol.as_str(), record.destination), ("udp", address(to)));
        assert!(record.verdict == Verdict::Denied && record.is_because_of(Refusal::NoPolicy));
    }
    // A policy for UDP is none for TCP.
    let inner: IpAddr = policy::INNER_V4.into();
    let client = world.dial(inner, DNS);
    assert_eq!(world.client_end(client), Some(CloseReason::Unreachable(Unreachable::Prohibited)));
}

#[test]
fn a_flood_of_refused_datagrams_is_counted_and_neither_logged_nor_answered_one_by_one() {
    let mut world = World::new(resolver());
    world.enter();
    for port in 1..100 {
        world.send(&datagram(CLIENT, &format!("10.0.0.6:{port}"), b"?"));
    }
    assert_eq!((world.records.len(), world.errors().len()), (20, 20));
    assert_eq!(world.core.status().refusals_not_logged, 79);
    assert_eq!(world.core.status().datagram_flows, 0);
}

#[test]
fn an_answer_from_anybody_else_does_not_come_in() {
    let mut world = World::new(resolver());
    world.enter();
    let (flow, _) = world.opened(&datagram(CLIENT, DNS, b"?"), DNS);
    for from in ["10.0.0.6:53", "10.0.0.5:54"] {
        world.received(flow, from, b"forged");
        assert_eq!(world.answers(), [], "{from}");
    }
    assert_eq!(world.core.status().wrong_source, 2);
}

#[test]
fn nobody_listens_is_told_to_the_client_and_says_so_in_the_log() {
    let mut world = World::new(resolver());
    world.enter();
    let (flow, _) = world.opened(&datagram(CLIENT, DNS, b"?"), DNS);
    world.news(DatagramNews::Fault { flow, fault: DatagramFault::PortUnreachable });
    assert_eq!(world.errors(), [(3, 3, address(DNS))]);
    world.news(DatagramNews::Fault { flow, fault: DatagramFault::TooLong });
    assert_eq!(world.errors(), [(3, 4, address(DNS))]);
    world.advance(Duration::from_secs(31));
    let [record] = &world.records[..] else { panic!("{:?}", world.records) };
    assert!(record.verdict == Verdict::Failed && record.is_because_of(Refusal::TargetRefused));
}

#[test]
fn a_name_is_resolved_while_its_first_datagrams_wait_and_reaches_the_sites_prefixes_alone() {
    let destination = "[fd74:6772:6573::1]:443";
    let rules = || allowing("udp://fd74:6772:6573::1:443", Target::Name("web.internal".into()));
    let from = SocketAddr::new(policy::inner_device_address(DEVICE).into(), 9).to_string();
    for (found, opened, refusal) in [
        (vec!["10.0.0.5"], vec!["10.0.0.5:443"], None),
        (vec!["8.8.8.8", "10.0.0.5", "127.0.0.1"], vec!["10.0.0.5:443"], None),
        (vec!["8.8.8.8"], vec![], Some(Refusal::OutsideSite)),
        (vec!["169.254.169.254"], vec![], Some(Refusal::RefusedRange)),
        (vec![], vec![], Some(Refusal::NameNotResolved)),
    ] {
        let mut world = World::new(rules());
        world.enter();
        for number in 0..12 {
            world.send(&datagram(&from, destination, &[number; 10]));
        }
        let [DatagramRequest::Resolve { flow, ref host }] = world.requests()[..] else {
            panic!("a question")
        };
        assert_eq!(host, "web.internal");
        assert_eq!(world.core.status().datagrams_no_room, 4, "eight wait");
        let addresses = found.iter().map(|text| text.parse().expect("address")).collect();
        world.news(DatagramNews::Resolved { flow, addresses });
        let requests = world.requests();
        let Some(refusal) = refusal else {
            let [DatagramRequest::Open { ref targets, .. }] = requests[..] else { panic!("{requests:?}") };
            let expected: Vec<SocketAddr> = opened.iter().map(|text| address(text)).collect();
            assert_eq!(*targets, expected);
            world.news(DatagramNews::Opened { flow, result: Ok(targets[0]) });
            assert_eq!(world.sent(flow), (0..8).map(|number| vec![number; 10]).collect::<Vec<_>>());
            world.received(flow, opened[0], b"yes");
            assert_eq!(world.answers(), [(address(destination), b"yes".to_vec())], "in the client's family");
            continue;
        };
        assert_eq!(requests, [DatagramRequest::Close(flow)], "{found:?}");
        assert!(world.records[0].is_because_of(refusal), "{:?}", world.records);
        assert_eq!(world.errors().len(), 1);
    }
}

#[test]
fn a_policy_that_ends_ends_running_conversations() {
    let mut world = World::new(resolver());
    world.enter();
    let (flow, _) = world.opened(&datagram(CLIENT, DNS, b"?"), DNS);
    world.rules = Some(literal(WEB));
    world.recheck();
    assert_eq!(world.requests(), [DatagramRequest::Close(flow)]);
    assert_eq!(world.errors(), [(3, 13, address(DNS))]);
    let [record] = &world.records[..] else { panic!("{:?}", world.records) };
    assert!(record.verdict == Verdict::Withdrawn && record.is_because_of(Refusal::NoPolicy));
    world.received(flow, DNS, b"too late");
    assert_eq!(world.answers(), []);
}

#[test]
fn a_strike_and_the_grants_end_end_conversations_with_the_session() {
    for strikes in [true, false] {
        let mut world = World::new(resolver());
        world.enter();
        let (flow, _) = world.opened(&datagram(CLIENT, DNS, b"?"), DNS);
        if strikes {
            world.strike(RevokedSubject::Device(DEVICE));
            world.recheck();
        } else {
            // In use until the last moment.
            for _ in 0..180 {
                world.advance(Duration::from_secs(20));
                if world.core.status().sessions == 1 {
                    world.received(flow, DNS, b"still");
                }
            }
        }
        assert_eq!(world.requests().pop(), Some(DatagramRequest::Close(flow)));
        let refusal = if strikes { Refusal::Struck } else { Refusal::GrantExpired };
        assert!(world.records[0].verdict == Verdict::Withdrawn && world.records[0].is_because_of(refusal));
        assert_eq!(world.core.status().datagram_flows, 0);
    }
}

#[test]
fn a_device_has_its_share_of_conversations_and_no_more() {
    let mut world = World::new(resolver());
    world.enter();
    let most = FlowLimits::DEFAULT.flows / 2;
    for number in 0..most + 3 {
        let from = SocketAddr::new(policy::INNER_V4.into(), 10_000 + u16::try_from(number).expect("few"));
        world.send(&datagram(&from.to_string(), DNS, b"?"));
    }
    assert_eq!((world.core.status().datagram_flows, world.requests().len()), (most, most));
    assert_eq!(world.records.len(), 3);
    assert!(
        world
            .records
            .iter()
            .all(|record| record.verdict == Verdict::Failed && record.is_because_of(Refusal::Full))
    );
    // What ends makes room again.
    world.advance(Duration::from_secs(31));
    assert_eq!(world.core.status().datagram_flows, 0);
    world.asked.clear();
    world.opened(&datagram(CLIENT, DNS, b"?"), DNS);
}

#[test]
fn a_client_that_no_longer_waits_ends_its_conversation() {
    let mut world = World::new(resolver());
    world.enter();
    let (flow, _) = world.opened(&datagram(CLIENT, DNS, b"?"), DNS);
    world.received(flow, DNS, b"late answer");
    let answer = world.inner.pop().expect("an answer");
    let told =
        flow::unreachable(&IpPacket::parse(&answer).expect("a packet"), Unreachable::Port).expect("an error");
    world.send(&told);
    assert_eq!(world.requests(), [DatagramRequest::Close(flow)]);
    assert_eq!(world.records[0].reason, "client_gone");
}

#[test]
fn a_long_datagram_comes_in_pieces_and_goes_back_in_pieces() {
    let mut world = World::new(resolver());
    world.enter();
    let long: Vec<u8> = (0..4_000_u32).map(|n| u8::try_from(n % 251).expect("a byte")).collect();
    let mut pieces = split(datagram(CLIENT, DNS, &long), 1_280, 7);
    pieces.reverse();
    let last = pieces.pop().expect("pieces");
    for piece in &pieces {
        world.send(piece);
    }
    assert_eq!(world.requests(), []);
    let (flow, sent) = world.opened(&last, DNS);
    assert_eq!(sent, std::slice::from_ref(&long));
    world.received(flow, DNS, &long);
    assert_eq!(world.inner.len(), 4);
    assert!(world.inner.iter().all(|piece| piece.len() <= flow::INNER_MTU));
    let mut waiting = flow::Reassembly::new();
    let whole = world.inner.iter().find_map(|piece| {
        waiting.push(world.now, LinkId(1), &flow::Fragment::parse(piece).expect("valid").expect("a piece"))
    });
    world.inner = vec![whole.expect("all pieces")];
    assert_eq!(world.answers(), [(address(DNS), long)]);
}

#[test]
fn a_piece_from_a_source_that_is_not_the_devices_goes_nowhere() {
    let mut world = World::new(resolver());
    world.enter();
    for piece in split(datagram("100.64.0.77:5353", DNS, &[0; 3_000]), 1_280, 7) {
        world.send(&piece);
    }
    assert_eq!((world.requests(), world.core.status().wrong_source), (vec![], 3));
    for piece in split(datagram(CLIENT, DNS, &[0; 20_000]), 1_280, 8) {
        world.send(&piece);
    }
    assert!(world.core.status().fragments_dropped > 0, "longer than what is put together");
}

#[test]
fn an_answer_to_ping_keeps_its_numbers_and_comes_from_the_resource() {
    let target: IpAddr = "10.0.0.5".parse().expect("address");
    let mut world = World::new(allowing("icmp://10.0.0.5:0", Target::Literal(target)));
    let inner = world.enter();
    let ask = |identifier, sequence| {
        let echo = Echo { kind: EchoKind::Request, identifier, sequence, data: b"payload" };
        echo.packet(inner, target).expect("one family")
    };
    let (flow, sent) = world.opened(&ask(77, 1), "10.0.0.5:0");
    let question = Echo::parse(&sent[0], true).expect("an echo");
    assert_eq!((question.kind, question.sequence, question.data), (EchoKind::Request, 1, &b"payload"[..]));
    // The kernel chose another identifier.
    let reply = Echo { kind: EchoKind::Reply, identifier: 4_711, ..question }.message(true);
    world.received(flow, "10.0.0.5:0", &reply);
    world.received(flow, "10.0.0.6:0", &reply);
    let [packet] = &std::mem::take(&mut world.inner)[..] else { panic!("one answer") };
    let packet = IpPacket::parse(packet).expect("a packet");
    assert_eq!((packet.src, packet.dst), (target, inner));
    let expected = Echo { kind: EchoKind::Reply, identifier: 77, sequence: 1, data: b"payload" };
    assert_eq!(packet.echo(), Some(expected));
    // Another program's ping is another conversation.
    let (other, _) = world.opened(&ask(78, 1), "10.0.0.5:0");
    assert_ne!(flow, other);
    world.advance(Duration::from_secs(61));
    let records: Vec<_> =
        world.records.iter().map(|r| (r.protocol.as_str(), r.bytes_up, r.bytes_down)).collect();
    assert_eq!(records, [("icmp", 7, 7), ("icmp", 7, 0)]);
}

#[test]
fn ping_without_a_policy_or_a_permission_is_answered_and_logged_with_its_reason() {
    let target: IpAddr = "10.0.0.5".parse().expect("address");
    let mut world = World::new(allowing("icmp://10.0.0.5:0", Target::Literal(target)));
    let inner = world.enter();
    let ping = |to: &str| {
        let echo = Echo { kind: EchoKind::Request, identifier: 1, sequence: 1, data: b"" };
        echo.packet(inner, to.parse().expect("address")).expect("one family")
    };
    world.send(&ping("10.0.0.6"));
    assert_eq!(world.errors(), [(3, 13, address("10.0.0.6:0"))]);
    assert!(world.records.remove(0).is_because_of(Refusal::NoPolicy));
    world.send(&ping("10.0.0.5"));
    let [DatagramRequest::Open { flow, kind: DatagramKind::Echo { .. }, .. }] = world.requests()[..] else {
        panic!("an open")
    };
    world.news(DatagramNews::Opened { flow, result: Err(OpenFault::NotPermitted) });
    assert_eq!(world.errors(), [(3, 13, address("10.0.0.5:0"))]);
    let [record] = &world.records[..] else { panic!("{:?}", world.records) };
    assert!(
        record.verdict == Verdict::Failed && record.explanation.contains("ping_group_range"),
        "{record:?}"
    );
}

#[test]
fn a_socket_to_an_address_that_policy_took_away_meanwhile_is_closed_and_nothing_is_sent_by_it() {
    let destination = "10.0.0.99:443";
    let mut world = World::new(allowing("udp://10.0.0.99:443", Target::Name("web.internal".into())));
    world.enter();
    world.send(&datagram(CLIENT, destination, b"?"));
    let [DatagramRequest::Resolve { flow, .. }] = world.requests()[..] else { panic!("a question") };
    world.news(DatagramNews::Resolved { flow, addresses: vec!["10.0.0.5".parse().expect("address")] });
    let [DatagramRequest::Open { .. }] = world.requests()[..] else { panic!("an open") };
    if let Some(rules) = &mut world.rules {
        rules.prefix = [10, 1];
    }
    world.recheck();
    world.news(DatagramNews::Opened { flow, result: Ok(address("10.0.0.5:443")) });
    assert_eq!(world.requests(), [DatagramRequest::Close(flow)]);
    assert_eq!(world.errors(), [(3, 13, address(destination))]);
    let [record] = &world.records[..] else { panic!("{:?}", world.records) };
    assert!(record.verdict == Verdict::Denied && record.is_because_of(Refusal::OutsideSite));
}
