//! Kernel mode: what reaches the kernel, what comes back, and when neither does. The site is a second stack behind the
//! packets that the kernel would get.

use super::*;
use flow::ip::{IpPacket, Protocol as Inside};
use flow::{Echo, EchoKind, udp};

const SITE_SIDE: SiteSide = SiteSide { v4: std::net::Ipv4Addr::new(100, 127, 254, 2), v6: None };

/// The world with a site behind the kernel.
struct Kernel {
    world: World,
    site: Flows,
    /// What the kernel was given.
    sent: Vec<Vec<u8>>,
    site_events: Vec<(FlowId, FlowEvent)>,
}

impl Kernel {
    fn new(rules: TestRules) -> Self {
        let world = World::with_side(rules, Some(SITE_SIDE));
        let site = Flows::new(FlowLimits::DEFAULT, 9, world.now);
        Self { world, site, sent: Vec::new(), site_events: Vec::new() }
    }

    /// Carries packets between the core and the site until nothing moves; the site accepts what it is asked.
    fn settle(&mut self) {
        loop {
            self.world.settle();
            let mut moved = false;
            let asked = std::mem::take(&mut self.world.asked);
            for output in asked {
                match output {
                    Output::ToSite(packet) => {
                        moved = true;
                        let _ = self.site.handle_input(self.world.now, LinkId(7), &packet);
                        self.sent.push(packet);
                    }
                    other => self.world.asked.push(other),
                }
            }
            loop {
                match self.site.poll_output() {
                    flow::Output::Packet { bytes, .. } => {
                        moved = true;
                        self.site_says(&bytes);
                    }
                    flow::Output::Event { flow, event, .. } => {
                        moved = true;
                        if matches!(event, FlowEvent::Incoming { .. }) {
                            self.site.accept(self.world.now, flow).expect("held");
                        }
                        self.site_events.push((flow, event));
                    }
                    flow::Output::Timeout(_) => break,
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn site_says(&mut self, packet: &[u8]) {
        let (now, wall) = (self.world.now, self.world.wall);
        self.world.core.from_site(now, wall, std::iter::once(packet));
        self.world.settle();
    }

    /// A client connected to a target that accepted; its flow and the site's.
    fn connected(&mut self, to: &str) -> (FlowId, FlowId) {
        let inner = self.world.enter();
        let client = self.world.dial(inner, to);
        self.settle();
        self.established(client)
    }

    fn established(&self, client: FlowId) -> (FlowId, FlowId) {
        assert!(
            self.world
                .client_events
                .iter()
                .any(|(flow, event)| *flow == client && *event == FlowEvent::Established),
            "{:?}",
            self.world.client_events
        );
        (client, self.site_events.iter().map(|(flow, _)| *flow).next_back().expect("a flow in the site"))
    }

    fn resolved(&mut self, addresses: &[&str]) {
        let at = self.world.asked.iter().position(|asked| matches!(asked, Output::ResolvePassage { .. }));
        let Output::ResolvePassage { passage, .. } = self.world.asked.remove(at.expect("a look-up")) else {
            unreachable!("just found")
        };
        self.world.passage_resolved(passage, addresses);
        self.settle();
    }

    fn ends_sent(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let ends = |packet: &Vec<u8>| {
            let tuple = IpPacket::parse(packet).expect("a packet").tuple().expect("ports");
            (tuple.src, tuple.dst)
        };
        self.sent.iter().map(ends).collect()
    }

    fn client_was_reset(&self, flow: FlowId) -> bool {
        self.world.client_end(flow) == Some(CloseReason::Reset)
    }
}

fn read_all(flows: &mut Flows, now: Instant, flow: FlowId) -> Vec<u8> {
    let mut buffer = [0; 4_096];
    match flows.read(now, flow, &mut buffer).expect("open") {
        Read::Bytes(read) => buffer[..read].to_vec(),
        Read::Empty | Read::End => Vec::new(),
    }
}

#[test]
fn an_allowed_connection_goes_by_the_kernel_from_the_connectors_side_and_leaves_a_record() {
    let mut kernel = Kernel::new(literal(WEB));
    let (client, target) = kernel.connected(WEB);
    let (source, destination) = kernel.ends_sent()[0];
    assert_eq!((source.ip(), destination), (SITE_SIDE.v4.into(), address(WEB)));
    let now = kernel.world.now;
    kernel.world.flows.write(now, client, b"question").expect("open");
    kernel.settle();
    assert_eq!(read_all(&mut kernel.site, now, target), b"question");
    kernel.site.write(now, target, b"the answer").expect("open");
    kernel.settle();
    assert_eq!(read_all(&mut kernel.world.flows, now, client), b"the answer");
    assert_eq!((kernel.world.core.status().flows, kernel.world.core.status().kernel_flows), (1, 1));
    kernel.world.flows.shutdown_write(now, client).expect("open");
    kernel.settle();
    assert!(kernel.world.records.is_empty(), "one side has more to say");
    kernel.site.shutdown_write(now, target).expect("open");
    kernel.settle();
    let [record] = &kernel.world.records[..] else { panic!("{:?}", kernel.world.records) };
    assert_eq!((record.verdict, record.reason.as_str()), (Verdict::Allowed, "finished"));
    assert_eq!((record.bytes_up, record.bytes_down), (8, 10));
    assert_eq!(record.target, Some(address(WEB)));
    assert_eq!(kernel.world.core.status().kernel_flows, 0);
    // Its last segments pass for a while, and then it is forgotten.
    kernel.world.advance(Duration::from_secs(11));
    kernel.site_says(&udp(address(WEB), source, b"late").expect("fits"));
    assert_eq!(kernel.world.core.status().site_strays, 1);
}

#[test]
fn what_policy_does_not_allow_reaches_no_kernel_and_is_recorded() {
    let mut kernel = Kernel::new(literal(WEB));
    let inner = kernel.world.enter();
    let client = kernel.world.dial(inner, "10.0.0.6:80");
    kernel.world.send(&udp(SocketAddr::new(inner, 5_000), address("10.0.0.6:53"), b"?").expect("fits"));
    kernel.settle();
    assert!(kernel.sent.is_empty());
    assert_eq!(kernel.world.client_end(client), Some(CloseReason::Unreachable(Unreachable::Prohibited)));
    assert_eq!(kernel.world.records.len(), 2);
    assert!(kernel.world.records.iter().all(|record| record.verdict == Verdict::Denied));
}

#[test]
fn a_strike_resets_both_sides_and_nothing_passes_any_more() {
    let mut kernel = Kernel::new(literal(WEB));
    let (client, target) = kernel.connected(WEB);
    let (source, _) = kernel.ends_sent()[0];
    kernel.world.strike(RevokedSubject::Device(DEVICE));
    kernel.world.recheck();
    kernel.settle();
    assert!(kernel.client_was_reset(client));
    let closed = (target, FlowEvent::Closed(CloseReason::Reset));
    assert!(kernel.site_events.contains(&closed), "{:?}", kernel.site_events);
    assert_eq!(kernel.world.records[0].verdict, Verdict::Withdrawn);
    let before = kernel.world.inner.len();
    kernel.site_says(&udp(address(WEB), source, b"late").expect("fits"));
    kernel.settle();
    assert_eq!(kernel.world.inner.len(), before);
}

#[test]
fn a_grants_end_ends_the_flow_and_a_packet_that_comes_after_it_reaches_nobody() {
    let mut kernel = Kernel::new(literal(WEB));
    let (client, target) = kernel.connected(WEB);
    let now = kernel.world.now;
    kernel.site.write(now, target, b"too late").expect("open");
    // Nothing was due in between: the clock jumps past the end while a packet waits at the interface.
    kernel.world.now += Duration::from_secs(3_601);
    kernel.world.wall = kernel.world.wall.plus(Duration::from_secs(3_601));
    let flow::Output::Packet { bytes, .. } = kernel.site.poll_output() else { panic!("a segment") };
    let before = kernel.world.inner.len();
    let (at, wall) = (kernel.world.now, kernel.world.wall);
    kernel.world.core.from_site(at, wall, std::iter::once(&bytes[..]));
    kernel.settle();
    assert!(read_all(&mut kernel.world.flows, at, client).is_empty());
    assert!(kernel.world.inner.len() <= before + 1, "a reset at the most");
    assert_eq!(kernel.world.records[0].verdict, Verdict::Withdrawn);
}

#[test]
fn a_policy_that_is_withdrawn_cuts_the_flow() {
    let mut kernel = Kernel::new(literal(WEB));
    let (client, _) = kernel.connected(WEB);
    kernel.world.rules = Some(TestRules::default());
    kernel.world.recheck();
    kernel.settle();
    assert!(kernel.client_was_reset(client));
    assert_eq!(kernel.world.records[0].reason, Refusal::NoPolicy.label());
}

#[test]
fn a_name_asked_for_by_ipv6_reaches_its_ipv4_address_inside_the_sites_prefixes() {
    let destination = "[fd7a:7467:6e62::9]:80";
    let mut kernel = Kernel::new(named(destination, "web.internal"));
    kernel.world.enter();
    let v6 = IpAddr::V6(policy::inner_device_address(DEVICE));
    let client = kernel.world.dial(v6, destination);
    assert!(kernel.sent.is_empty(), "nothing before the name is known");
    kernel.resolved(&["10.0.0.8", "2001:db8::8"]);
    let (client, target) = kernel.established(client);
    assert!(kernel.ends_sent().iter().all(|(_, to)| *to == address("10.0.0.8:80")));
    let now = kernel.world.now;
    kernel.site.write(now, target, &[7; 3_000]).expect("open");
    kernel.settle();
    assert_eq!(read_all(&mut kernel.world.flows, now, client), [7; 3_000]);
}

#[test]
fn a_name_that_leads_out_of_the_site_is_refused_and_nothing_is_sent() {
    let destination = "[fd7a:7467:6e62::9]:80";
    for addresses in [&["192.0.2.1"][..], &["169.254.169.254"], &["127.0.0.1"], &[]] {
        let mut kernel = Kernel::new(named(destination, "web.internal"));
        kernel.world.enter();
        let client = kernel.world.dial(IpAddr::V6(policy::inner_device_address(DEVICE)), destination);
        kernel.resolved(addresses);
        assert!(kernel.sent.is_empty(), "{addresses:?}");
        assert!(kernel.world.client_end(client).is_some(), "{addresses:?}");
        assert_eq!(kernel.world.records.len(), 1);
        assert_ne!(kernel.world.records[0].verdict, Verdict::Allowed);
    }
}

#[test]
fn a_name_whose_address_the_kernel_does_not_forward_to_goes_by_userspace() {
    let destination = "[fd7a:7467:6e62::9]:80";
    let mut kernel = Kernel::new(named(destination, "web.internal"));
    kernel.world.core.set_own_addresses(BTreeSet::from(["10.0.0.1".parse().expect("address")]));
    kernel.world.enter();
    kernel.world.dial(IpAddr::V6(policy::inner_device_address(DEVICE)), destination);
    kernel.resolved(&["10.0.0.1"]);
    assert!(kernel.sent.is_empty());
    let Some(Output::Resolve { flow, .. }) = kernel.world.asked.pop() else { panic!("asked again") };
    kernel.world.resolve(flow, &["10.0.0.1"]);
    assert!(matches!(kernel.world.asked.pop(), Some(Output::Dial { .. })));
    assert_eq!(kernel.world.core.status().kernel_flows, 0);
}

#[test]
fn a_literal_address_of_this_machine_goes_by_userspace() {
    let mut kernel = Kernel::new(literal("127.0.0.1:80"));
    let inner = kernel.world.enter();
    kernel.world.dial(inner, "127.0.0.1:80");
    kernel.settle();
    assert!(kernel.sent.is_empty());
    assert!(matches!(kernel.world.asked.pop(), Some(Output::Dial { .. })));
}

#[test]
fn the_next_address_of_a_name_is_tried_where_the_first_refuses_or_is_silent() {
    let destination = "[fd7a:7467:6e62::9]:80";
    let v6 = IpAddr::V6(policy::inner_device_address(DEVICE));
    // It refuses.
    let mut kernel = Kernel::new(named(destination, "web.internal"));
    kernel.world.enter();
    let client = kernel.world.dial(v6, destination);
    let at = kernel.world.asked.iter().position(|asked| matches!(asked, Output::ResolvePassage { .. }));
    let Output::ResolvePassage { passage, .. } = kernel.world.asked.remove(at.expect("a look-up")) else {
        unreachable!("just found")
    };
    kernel.world.passage_resolved(passage, &["10.0.0.8", "10.0.0.9"]);
    let Some(Output::ToSite(syn)) = kernel.world.asked.pop() else { panic!("a SYN") };
    let syn = IpPacket::parse(&syn).expect("a packet").tcp().expect("TCP");
    assert_eq!(syn.tuple.dst, address("10.0.0.8:80"));
    kernel.site_says(&flow::reset_for(&syn).expect("no reset"));
    kernel.settle();
    kernel.established(client);
    assert_eq!(kernel.ends_sent()[0].1, address("10.0.0.9:80"));
    assert!(kernel.world.records.is_empty(), "a flow that stands");

    // It says nothing.
    let mut kernel = Kernel::new(named(destination, "web.internal"));
    kernel.world.enter();
    let client = kernel.world.dial(v6, destination);
    let at = kernel.world.asked.iter().position(|asked| matches!(asked, Output::ResolvePassage { .. }));
    let Output::ResolvePassage { passage, .. } = kernel.world.asked.remove(at.expect("a look-up")) else {
        unreachable!("just found")
    };
    kernel.world.passage_resolved(passage, &["10.0.0.8", "10.0.0.9"]);
    for _ in 0..8 {
        kernel.world.advance(Duration::from_millis(1_000));
        let tried: Vec<SocketAddr> = kernel
            .world
            .asked
            .iter()
            .filter_map(|asked| match asked {
                Output::ToSite(packet) => Some(IpPacket::parse(packet).ok()?.tuple()?.dst),
                _ => None,
            })
            .collect();
        if tried.last() == Some(&address("10.0.0.9:80")) {
            assert!(tried.len() >= 3, "the first had its chance: {tried:?}");
            kernel.world.asked.retain(|asked| match asked {
                Output::ToSite(packet) => {
                    IpPacket::parse(packet).ok().is_some_and(|read| read.dst == address("10.0.0.9:80").ip())
                }
                _ => false,
            });
            kernel.settle();
            kernel.established(client);
            return;
        }
    }
    panic!("the second address was not tried");
}

#[test]
fn a_target_that_refuses_or_cannot_be_reached_is_said_to_the_client_and_recorded() {
    let mut kernel = Kernel::new(literal(WEB));
    let inner = kernel.world.enter();
    let client = kernel.world.dial(inner, WEB);
    let Some(Output::ToSite(syn)) = kernel.world.asked.pop() else { panic!("a SYN") };
    let read = IpPacket::parse(&syn).expect("a packet");
    kernel.site_says(&flow::reset_for(&read.tcp().expect("TCP")).expect("no reset"));
    assert!(kernel.world.client_end(client).is_some());
    assert_eq!(kernel.world.records[0].reason, Refusal::TargetRefused.label());

    let mut kernel = Kernel::new(literal(WEB));
    let inner = kernel.world.enter();
    let client = kernel.world.dial(inner, WEB);
    let Some(Output::ToSite(syn)) = kernel.world.asked.pop() else { panic!("a SYN") };
    let error = flow::unreachable(&IpPacket::parse(&syn).expect("a packet"), Unreachable::Host).expect("TCP");
    kernel.site_says(&error);
    assert_eq!(kernel.world.client_end(client), Some(CloseReason::Unreachable(Unreachable::Host)));
    assert_eq!(kernel.world.records[0].reason, Refusal::TargetUnreachable.label());
    assert_eq!(kernel.world.records[0].verdict, Verdict::Failed);
}

#[test]
fn packets_of_the_site_that_belong_to_no_flow_reach_no_client() {
    let mut kernel = Kernel::new(literal(WEB));
    kernel.connected(WEB);
    let (source, _) = kernel.ends_sent()[0];
    let before = kernel.world.inner.len();
    let side = IpAddr::from(SITE_SIDE.v4);
    for packet in [
        udp(address(WEB), source, b"x").expect("fits"),
        udp(address("10.0.0.6:80"), source, b"x").expect("fits"),
        flow::reset(address("10.0.0.5:81"), source, 7).expect("one family"),
        flow::reset(address(WEB), SocketAddr::new(side, source.port() ^ 1), 7).expect("one family"),
        flow::reset(address(WEB), address("100.64.0.2:40000"), 7).expect("one family"),
        Echo { kind: EchoKind::Request, identifier: 1, sequence: 1, data: b"" }
            .packet("10.0.0.5".parse().expect("address"), side)
            .expect("fits"),
        vec![0x45; 12],
        Vec::new(),
    ] {
        kernel.site_says(&packet);
    }
    assert_eq!(kernel.world.inner.len(), before);
    assert_eq!(
        kernel.world.client_events.iter().filter(|(_, event)| matches!(event, FlowEvent::Closed(_))).count(),
        0
    );
    let status = kernel.world.core.status();
    assert_eq!((status.site_strays, status.site_unusable), (6, 2));
}

#[test]
fn datagrams_and_echoes_pass_and_their_answers_come_back() {
    let rules = TestRules {
        allowed: BTreeMap::from([
            ("udp://10.0.0.5:53".to_owned(), Target::Literal("10.0.0.5".parse().expect("address"))),
            ("icmp://10.0.0.5:0".to_owned(), Target::Literal("10.0.0.5".parse().expect("address"))),
        ]),
        prefix: [10, 0],
        otherwise: None,
    };
    let mut kernel = Kernel::new(rules);
    let inner = kernel.world.enter();
    let (client, resolver) = (SocketAddr::new(inner, 5_000), address("10.0.0.5:53"));
    kernel.world.send(&udp(client, resolver, b"?").expect("fits"));
    kernel.settle();
    let (source, target) = kernel.ends_sent()[0];
    assert_eq!(target, resolver);
    kernel.site_says(&udp(resolver, source, b"!").expect("fits"));
    let answer = kernel.world.inner.pop().expect("an answer");
    let answer = IpPacket::parse(&answer).expect("a packet").udp().expect("UDP");
    assert_eq!((answer.tuple.src, answer.tuple.dst, answer.data), (resolver, client, &b"!"[..]));

    let echo = Echo { kind: EchoKind::Request, identifier: 77, sequence: 3, data: b"abc" };
    kernel.world.send(&echo.packet(inner, resolver.ip()).expect("fits"));
    kernel.settle();
    let sent = kernel.sent.last().expect("an echo").clone();
    let sent = IpPacket::parse(&sent).expect("a packet");
    assert_eq!((sent.protocol, sent.src), (Inside::Icmp, SITE_SIDE.v4.into()));
    let asked = sent.echo().expect("an echo");
    let reply = Echo { kind: EchoKind::Reply, ..asked };
    kernel.site_says(&reply.packet(resolver.ip(), SITE_SIDE.v4.into()).expect("fits"));
    let answer = kernel.world.inner.pop().expect("an answer");
    let answer = IpPacket::parse(&answer).expect("a packet");
    assert_eq!(answer.echo(), Some(Echo { kind: EchoKind::Reply, ..echo }));
    assert_eq!((answer.src, answer.dst), (resolver.ip(), inner));

    // Nobody asks any more.
    kernel.world.advance(Duration::from_secs(61));
    let reasons: Vec<&str> = kernel.world.records.iter().map(|record| record.reason.as_str()).collect();
    assert_eq!(reasons, ["idle", "idle"]);
    kernel.site_says(&udp(resolver, source, b"late").expect("fits"));
    assert!(kernel.world.inner.is_empty() || kernel.world.core.status().site_strays == 1);
    assert_eq!(kernel.world.core.status().site_strays, 1);
}

#[test]
fn two_names_of_one_target_from_one_port_are_told_apart() {
    let (one, two) = ("[fd7a:7467:6e62::1]:80", "[fd7a:7467:6e62::2]:80");
    let mut rules = named(one, "one.internal");
    rules.allowed.extend(named(two, "two.internal").allowed);
    let mut kernel = Kernel::new(rules);
    kernel.world.enter();
    let from = SocketAddr::new(policy::inner_device_address(DEVICE).into(), 41_000);
    let mut flows = Vec::new();
    for to in [one, two] {
        let now = kernel.world.now;
        flows.push(kernel.world.flows.dial(now, LinkId(1), from, address(to)).expect("room"));
        kernel.world.settle();
        kernel.resolved(&["10.0.0.8"]);
    }
    let mut sources: Vec<SocketAddr> = kernel.ends_sent().iter().map(|(from, _)| *from).collect();
    sources.sort_unstable();
    sources.dedup();
    assert_eq!(sources.len(), 2, "{sources:?}");
    for flow in flows {
        kernel.established(flow);
    }
}

#[test]
fn a_devices_share_of_flows_counts_those_of_the_kernel_too() {
    let mut kernel = Kernel::new(literal(WEB));
    let inner = kernel.world.enter();
    let most = FlowLimits::DEFAULT.flows / 2;
    kernel.world.core.passages = Passages::new(Some(SITE_SIDE));
    for number in 0..=most {
        let port = 2_000 + u16::try_from(number).expect("few");
        let syn = flow::refusal(SocketAddr::new(inner, port), address(WEB), 0).expect("one family");
        // A SYN of it.
        let mut syn = syn;
        syn[33] = 2;
        kernel.world.send(&syn);
        kernel.world.asked.clear();
    }
    assert_eq!(kernel.world.core.status().kernel_flows, most);
    let reasons: Vec<&str> = kernel.world.records.iter().map(|record| record.reason.as_str()).collect();
    assert_eq!(reasons, [Refusal::Full.label()]);
}

#[test]
fn a_packet_of_the_site_in_pieces_comes_whole_and_a_long_one_of_the_client_goes_in_pieces() {
    let address_of = |text: &str| text.parse().expect("address");
    let mut kernel = Kernel::new(allowing("icmp://10.0.0.5:0", Target::Literal(address_of("10.0.0.5"))));
    let inner = kernel.world.enter();
    let data = vec![7; 3_000];
    let echo = Echo { kind: EchoKind::Request, identifier: 77, sequence: 3, data: &data };
    let question = echo.packet(inner, address_of("10.0.0.5")).expect("fits");
    for piece in flow::split(question, 1_280, 9) {
        kernel.world.send(&piece);
    }
    kernel.settle();
    assert!(
        kernel.sent.len() == 3 && kernel.sent.iter().all(|piece| piece.len() <= 1_500),
        "{}",
        kernel.sent.len()
    );
    let mut pieces = flow::Reassembly::new();
    let now = kernel.world.now;
    let whole = kernel.sent.iter().find_map(|piece| {
        let piece = flow::Fragment::parse(piece).expect("a packet").expect("a piece");
        pieces.push(now, LinkId(1), &piece)
    });
    let whole = whole.expect("all pieces");
    let asked = IpPacket::parse(&whole).expect("a packet").echo().expect("an echo");
    assert_eq!(asked.data, data);
    let reply = Echo { kind: EchoKind::Reply, ..asked }.packet(address_of("10.0.0.5"), SITE_SIDE.v4.into());
    for piece in flow::split(reply.expect("fits"), 1_500, 4) {
        kernel.site_says(&piece);
    }
    let mut joined = flow::Reassembly::new();
    let answer = kernel.world.inner.iter().find_map(|piece| {
        let piece = flow::Fragment::parse(piece).ok()??;
        joined.push(now, LinkId(1), &piece)
    });
    let answer = answer.expect("an answer in pieces that a link carries");
    assert_eq!(IpPacket::parse(&answer).expect("a packet").echo().map(|echo| echo.data.len()), Some(3_000));
    assert_eq!(kernel.world.core.status().site_unusable, 0);
}
