//! The core against a connector made of the same tunnels and flows, with no sockets and no sleeping.

#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the clock once, as the start of its virtual time"
)]

use super::dials::DIAL_DEADLINE;
use super::links::OPEN_DEADLINE;
use super::*;
use policy::{ClientResource, ClientSite, Mode, inner_address};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use trust::{OpenKey, OpenProof, SealKey, unseal_open};
use tunnel::{BindMessage, BoundPair};
use wire::{ChannelId, OpenBody, PopId, RELAY_HEADER_LEN, ResourceId, SiteId};

mod failover;
mod packets;

const SITE: SiteId = SiteId::from_bytes([1; 16]);
const POP: PopId = PopId::from_bytes([2; 16]);
const NAMED: ResourceId = ResourceId::from_bytes([3; 16]);
const GRANT: &str = "a grant that only the connector would read";

/// What a connector does with an introduction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    Accepts,
    Refuses(Refusal),
    Silent,
}

struct Connector {
    id: ConnectorId,
    manners: Manners,
    key: WireGuardPrivateKey,
    open_key: OpenKey,
    tunnels: Tunnels,
    flows: Flows,
    opens: usize,
    /// Our channel id at the client is `channel`, at the connector `channel + 1`.
    channel: u64,
    echoed: BTreeMap<FlowId, SocketAddr>,
    /// What it was told about addresses, and whether it answers.
    binds: Vec<BindMessage>,
    answers_binds: bool,
    /// What came that is no TCP.
    inner: Vec<Vec<u8>>,
    /// Stopped: it takes nothing and says nothing.
    is_frozen: bool,
    /// Its way into the site is gone.
    is_cut_off: bool,
}

impl Connector {
    fn new(byte: u8, manners: Manners, now: Instant) -> Self {
        let key = WireGuardPrivateKey::from_bytes([byte; 32]);
        Self {
            id: ConnectorId::from_bytes([byte; 16]),
            manners,
            open_key: OpenKey::generate(),
            tunnels: Tunnels::new(&key, u64::from(byte), now),
            flows: Flows::new(FlowLimits::DEFAULT, u64::from(byte), now),
            key,
            opens: 0,
            channel: u64::from(byte) * 1000,
            echoed: BTreeMap::new(),
            binds: Vec::new(),
            answers_binds: true,
            inner: Vec::new(),
            is_frozen: false,
            is_cut_off: false,
        }
    }

    fn entry(&self) -> ClientConnector {
        ClientConnector {
            id: self.id,
            name: format!("con-{}", self.channel),
            wireguard_key: SealKey::from_bytes(*self.key.public_key().as_bytes()),
            seal_key: self.open_key.seal_key(),
        }
    }

    fn here(&self) -> Path {
        Path::relay(POP, ChannelId::from_random(self.channel + 1))
    }

    /// The channel before: it goes on until it is given back.
    fn was_there(&self) -> Path {
        Path::relay(POP, ChannelId::from_random(self.channel - 2))
    }

    fn there(&self) -> Path {
        Path::relay(POP, ChannelId::from_random(self.channel))
    }

    /// Port 80 echoes, 81 refuses, 82 is prohibited, 83 unreachable, 84 never answers.
    fn run(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        if self.is_frozen {
            return out;
        }
        loop {
            let mut quiet = true;
            loop {
                match self.tunnels.poll_output() {
                    tunnel::Output::Transmit(transmit) => out.push(transmit.bytes),
                    tunnel::Output::Inner { peer, packet } => {
                        quiet = false;
                        let parsed = flow::ip::IpPacket::parse(&packet);
                        if parsed.is_ok_and(|parsed| parsed.protocol == flow::ip::Protocol::Tcp) {
                            self.flows.handle_input(now, LinkId(peer.number()), &packet).expect("a packet");
                        } else {
                            self.inner.push(packet);
                        }
                    }
                    tunnel::Output::Bind { peer, message } => {
                        quiet = false;
                        if let (BindMessage::Bind { pair, .. }, true) = (&message, self.answers_binds) {
                            let answer = BindMessage::Bound(*pair);
                            self.tunnels.send_bind(now, peer, &answer).expect("room");
                        }
                        self.binds.push(message);
                    }
                    tunnel::Output::Event(_) => {}
                    tunnel::Output::Timeout(_) => break,
                }
            }
            loop {
                match self.flows.poll_output() {
                    flow::Output::Packet { link, bytes } => {
                        quiet = false;
                        let peer = self.tunnels.peer_of(CLIENT_KEY.public_key()).expect("the client");
                        assert_eq!(peer.number(), link.0);
                        let _ = self.tunnels.seal(now, peer, &bytes);
                    }
                    flow::Output::Event { flow, event, .. } => self.flow_event(now, flow, event),
                    flow::Output::Timeout(_) => break,
                }
            }
            if quiet {
                return out;
            }
        }
    }

    fn flow_event(&mut self, now: Instant, flow: FlowId, event: flow::Event) {
        match event {
            flow::Event::Incoming { dst, .. } => {
                self.echoed.insert(flow, dst);
                let done = match dst.port() {
                    _ if self.is_cut_off => self.flows.reject_unreachable(now, flow, Unreachable::Host),
                    80 => self.flows.accept(now, flow),
                    81 => self.flows.reject_reset(now, flow),
                    82 => self.flows.reject_unreachable(now, flow, Unreachable::Prohibited),
                    83 => self.flows.reject_unreachable(now, flow, Unreachable::Host),
                    _ => Ok(()),
                };
                done.expect("held");
            }
            flow::Event::Readable => {
                let mut buffer = [0; 4096];
                loop {
                    match self.flows.read(now, flow, &mut buffer).expect("open") {
                        Read::Bytes(count) => {
                            let taken = self.flows.write(now, flow, &buffer[..count]).expect("open");
                            assert_eq!(taken, count, "these tests echo little");
                        }
                        Read::Empty => break,
                        Read::End => {
                            let _ = self.flows.shutdown_write(now, flow);
                            break;
                        }
                    }
                }
            }
            _ => {}
        }
    }
}

const CLIENT_KEY: WireGuardPrivateKey = WireGuardPrivateKey::from_bytes([42; 32]);

struct World {
    now: Instant,
    core: ClientCore,
    connectors: Vec<Connector>,
    dialled: BTreeMap<DialId, Result<FlowId, DialFault>>,
    ended: BTreeMap<FlowId, Ending>,
    given_back: Vec<Path>,
    /// The grants that connectors accepted.
    shown: Vec<String>,
    /// Packets for the machine's own stack.
    machine: Vec<Vec<u8>>,
    connected: bool,
}

fn resource(id: ResourceId, name: &str, address: &str) -> ClientResource {
    ClientResource {
        id,
        name: name.into(),
        alias: None,
        address: address.parse().expect("an address"),
        ports: vec!["80-84".parse().expect("ports")],
        mode: Mode::Standard,
        site: SITE,
        allow: vec![],
    }
}

impl World {
    fn new(manners: &[Manners]) -> Self {
        let now = Instant::now();
        let connectors: Vec<Connector> =
            (10_u8..).zip(manners).map(|(byte, manners)| Connector::new(byte, *manners, now)).collect();
        let mut core = ClientCore::new(SigningKey::from_seed(&[7; 32]), &CLIENT_KEY, 7, now);
        core.set_grant(now, GRANT);
        let mut world = Self {
            now,
            core,
            connectors,
            dialled: BTreeMap::new(),
            ended: BTreeMap::new(),
            given_back: Vec::new(),
            shown: Vec::new(),
            machine: Vec::new(),
            connected: true,
        };
        let slice = world.slice();
        world.core.set_slice(now, slice);
        world
    }

    fn slice(&self) -> Arc<ClientSlice> {
        Arc::new(ClientSlice {
            organization_name: "Acme".into(),
            resources: vec![
                resource(NAMED, "wiki", "wiki.example"),
                resource(ResourceId::from_bytes([4; 16]), "lan", "10.0.0.0/8"),
                ClientResource {
                    alias: Some("printer".into()),
                    ..resource(ResourceId::from_bytes([5; 16]), "Printer", "10.9.9.9")
                },
                resource(ResourceId::from_bytes([6; 16]), "Apps", "*.apps.example"),
                ClientResource {
                    alias: Some("db.apps.example".into()),
                    ports: vec!["5432".parse().expect("ports")],
                    ..resource(ResourceId::from_bytes([7; 16]), "Database", "10.9.9.8")
                },
                ClientResource {
                    ports: vec!["udp/53-2000".parse().expect("ports")],
                    ..resource(ResourceId::from_bytes([8; 16]), "Datagrams", "10.7.0.0/16")
                },
            ],
            sites: vec![ClientSite {
                id: SITE,
                name: "hq".into(),
                connectors: self.connectors.iter().map(Connector::entry).collect(),
                regions: vec![],
            }],
            pops: vec![],
        })
    }

    fn dial(&mut self, target: &str) -> DialId {
        let dial = self.core.dial(self.now, &target.parse().expect("a target"));
        self.run();
        dial
    }

    fn result(&self, dial: DialId) -> Result<FlowId, Refusal> {
        match self.dialled.get(&dial) {
            Some(Ok(flow)) => Ok(*flow),
            Some(Err(fault)) => Err(fault.reason),
            None => panic!("the dial has not come to its end"),
        }
    }

    /// Carries everything until nobody has anything to say.
    fn run(&mut self) {
        loop {
            let mut quiet = true;
            loop {
                match self.core.poll_output() {
                    Output::Timeout(_) => break,
                    output => {
                        quiet = false;
                        self.output(output);
                    }
                }
            }
            for index in 0..self.connectors.len() {
                let packets = self.connectors[index].run(self.now);
                let path = self.connectors[index].there();
                for packet in packets {
                    quiet = false;
                    if self.connected {
                        self.core.handle_input(self.now, path, &[&packet[RELAY_HEADER_LEN..]]);
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Open { token, connector, site, sealed, initiation } => {
                assert_eq!(site, SITE);
                self.introduce(token, connector, &sealed, &initiation);
            }
            Output::RelayQuiet(_) | Output::Pinged { .. } => {}
            Output::Packet(bytes) => self.machine.push(bytes),
            Output::Transmit { path, bytes } => {
                let to = self
                    .connectors
                    .iter_mut()
                    .find(|connector| connector.there() == path || connector.was_there() == path)
                    .expect("a channel");
                if self.connected && !to.is_frozen {
                    let here = to.here();
                    to.tunnels.handle_input(self.now, here, &bytes[RELAY_HEADER_LEN..]);
                }
            }
            Output::GiveBack(path) => self.given_back.push(path),
            Output::Dialled { dial, result } => {
                assert!(self.dialled.insert(dial, result).is_none(), "a dial ends once");
            }
            Output::Ended { flow, ending } => {
                assert!(self.ended.insert(flow, ending).is_none(), "a flow ends once");
            }
            Output::Readable(_) | Output::Writable(_) | Output::Timeout(_) => {}
        }
    }

    fn introduce(&mut self, token: OpenToken, to: ConnectorId, sealed: &[u8], initiation: &[u8]) {
        let now = self.now;
        let connector = self.connectors.iter_mut().find(|connector| connector.id == to).expect("known");
        connector.opens += 1;
        match connector.manners {
            Manners::Silent => {}
            Manners::Refuses(reason) => {
                self.core.open_refused(now, token, reason, Duration::from_millis(700));
            }
            Manners::Accepts => {
                let body = unseal_open(&connector.open_key, to, sealed).expect("sealed to this connector");
                let body: OpenBody = minicbor::decode(&body).expect("decodes");
                self.shown.push(String::from_utf8(body.grant.as_slice().to_vec()).expect("text"));
                let device = SigningKey::from_seed(&[7; 32]).verifying_key();
                OpenProof::check(&device, to, &body.client_key, initiation, &body.signature).expect("proven");
                connector.channel += 2;
                let key = WireGuardPublicKey::from_bytes(body.client_key);
                let path = connector.here();
                let accepted =
                    connector.tunnels.accept_initiation(now, key, initiation, path).expect("a handshake");
                let inner = (Ipv4Addr::new(100, 64, 0, 2), "fd00::2".parse().expect("an address"));
                let there = connector.there();
                self.core.opened(now, token, there, &accepted.response, inner);
            }
        }
    }

    /// Lets time pass, step by step where somebody has something to do.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = (self.now + Duration::from_millis(50)).min(end);
            self.core.handle_timeout(self.now);
            for connector in self.connectors.iter_mut().filter(|connector| !connector.is_frozen) {
                connector.tunnels.handle_timeout(self.now);
                connector.flows.handle_timeout(self.now);
            }
            self.run();
        }
    }

    fn echo(&mut self, flow: FlowId, text: &[u8]) -> Vec<u8> {
        assert_eq!(self.core.write(self.now, flow, text), Ok(text.len()));
        self.core.flush(self.now);
        self.run();
        self.read(flow)
    }

    fn read(&mut self, flow: FlowId) -> Vec<u8> {
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(Read::Bytes(count)) = self.core.read(self.now, flow, &mut buffer) {
            got.extend_from_slice(&buffer[..count]);
        }
        got
    }

    fn opens(&self) -> usize {
        self.connectors.iter().map(|connector| connector.opens).sum()
    }
}

#[test]
fn a_name_is_reached_at_its_derived_address_and_bytes_come_back() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    assert_eq!(world.echo(flow, b"hello"), b"hello");
    let dst = world.connectors[0].echoed.values().next().copied().expect("a flow");
    assert_eq!(dst, SocketAddr::new(IpAddr::V6(inner_address(NAMED)), 80));
}

#[test]
fn an_address_in_a_prefix_keeps_its_real_destination() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("10.1.2.3:80");
    world.result(dial).expect("connects");
    let dst = world.connectors[0].echoed.values().next().copied().expect("a flow");
    assert_eq!(dst.to_string(), "10.1.2.3:80");
}

#[test]
fn dials_at_the_same_time_share_one_introduction_and_later_ones_its_tunnel() {
    let mut world = World::new(&[Manners::Accepts]);
    let dials: Vec<DialId> =
        (0..20).map(|_| world.core.dial(world.now, &"wiki:80".parse().expect("a target"))).collect();
    world.run();
    for dial in dials {
        world.result(dial).expect("connects");
    }
    let later = world.dial("10.0.0.1:80");
    world.result(later).expect("connects");
    assert_eq!(world.opens(), 1);
}

#[test]
fn each_way_a_target_can_refuse_has_its_own_reason() {
    let mut world = World::new(&[Manners::Accepts]);
    for (port, reason) in
        [(81, Refusal::TargetRefused), (82, Refusal::NoPolicy), (83, Refusal::TargetUnreachable)]
    {
        let dial = world.dial(&format!("wiki:{port}"));
        assert_eq!(world.result(dial), Err(reason), "{port}");
    }
    let dial = world.dial("wiki:84");
    world.pass(DIAL_DEADLINE + Duration::from_secs(1));
    assert_eq!(world.result(dial), Err(Refusal::Timeout));
}

#[test]
fn what_the_slice_does_not_have_is_refused_without_asking_anybody() {
    let mut world = World::new(&[Manners::Accepts]);
    let (unknown, port) = (world.dial("nowhere:80"), world.dial("wiki:443"));
    assert_eq!(world.result(unknown), Err(Refusal::NoResource));
    assert_eq!(world.result(port), Err(Refusal::PortNotAllowed));
    assert_eq!(world.opens(), 0);
}

#[test]
fn a_connector_that_is_away_or_says_no_is_passed_over_for_one_that_works() {
    for refusal in [Refusal::NotAttached, Refusal::GrantExpired] {
        let manners = [Manners::Refuses(refusal), Manners::Refuses(refusal), Manners::Accepts];
        let mut world = World::new(&manners);
        let dial = world.dial("wiki:80");
        world.result(dial).expect("connects");
        // From then on the one that works is asked first.
        let before = world.opens();
        let dial = world.dial("wiki:80");
        world.result(dial).expect("connects");
        assert_eq!(world.opens(), before);
    }
}

#[test]
fn when_all_refuse_the_no_is_told_rather_than_the_not_now() {
    let manners = [
        Manners::Refuses(Refusal::NotAttached),
        Manners::Refuses(Refusal::Struck),
        Manners::Refuses(Refusal::NotAttached),
    ];
    let mut world = World::new(&manners);
    let dial = world.dial("wiki:80");
    assert_eq!(world.result(dial), Err(Refusal::Struck));
    let mut world = World::new(&[Manners::Refuses(Refusal::Budget)]);
    let dial = world.dial("wiki:80");
    assert_eq!(world.result(dial), Err(Refusal::Budget));
    let retry = world.dialled[&dial].as_ref().expect_err("refused").retry_after;
    assert_eq!(retry, Some(Duration::from_millis(700)));
}

#[test]
fn a_connector_that_never_answers_ends_in_a_timeout() {
    let mut world = World::new(&[Manners::Silent]);
    let dial = world.dial("wiki:80");
    world.pass(OPEN_DEADLINE + Duration::from_secs(1));
    assert_eq!(world.result(dial), Err(Refusal::Timeout));
}

#[test]
fn a_flow_that_waits_for_an_answer_hears_that_its_connector_has_started_anew() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("10.1.2.3:80");
    let flow = world.result(dial).unwrap();
    assert_eq!(world.echo(flow, b"hello"), b"hello");
    // Everything that was said is acknowledged: nothing is sent again that a reset could answer.
    let fresh = Connector::new(10, Manners::Accepts, world.now);
    world.connectors[0].tunnels = fresh.tunnels;
    world.connectors[0].flows = fresh.flows;
    let path = world.connectors[0].there();
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    world.run();
    assert_eq!(world.ended.get(&flow), Some(&Ending::Cut));
}

#[test]
fn a_flow_that_waits_for_an_answer_and_is_still_known_goes_on() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("10.1.2.3:80");
    let flow = world.result(dial).unwrap();
    assert_eq!(world.echo(flow, b"hello"), b"hello");
    let path = world.connectors[0].there();
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    world.run();
    world.pass(Duration::from_secs(5));
    assert!(world.ended.is_empty());
    assert_eq!(world.echo(flow, b"still here"), b"still here");
}

#[test]
fn a_flow_survives_the_loss_of_its_channel() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    assert_eq!(world.echo(flow, b"before"), b"before");
    let path = world.connectors[0].there();
    // The PoP is gone for three seconds; what is written meanwhile waits.
    world.connectors[0].manners = Manners::Refuses(Refusal::NotAttached);
    let here = world.connectors[0].here();
    world.connectors[0].tunnels.drop_path(world.now, here);
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    world.run();
    assert_eq!(world.core.write(world.now, flow, b"during"), Ok(6));
    world.core.flush(world.now);
    world.pass(Duration::from_secs(3));
    world.connectors[0].manners = Manners::Accepts;
    world.pass(Duration::from_secs(10));
    assert_eq!(world.read(flow), b"during");
    assert_eq!(world.echo(flow, b"after"), b"after");
    assert!(world.ended.is_empty());
}

#[test]
fn a_newer_grant_is_shown_to_the_connector_and_its_flows_go_on() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    assert_eq!(world.echo(flow, b"by the old one"), b"by the old one");
    world.core.set_grant(world.now, "a newer one");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.shown, [GRANT, "a newer one"]);
    assert_eq!(world.echo(flow, b"by the newer one"), b"by the newer one");
    // The same again is nothing new.
    world.core.set_grant(world.now, "a newer one");
    world.pass(Duration::from_secs(60));
    assert_eq!(world.opens(), 2);
    assert!(world.ended.is_empty());
}

#[test]
fn a_renewal_that_fails_for_now_cuts_nothing_and_is_tried_again_at_leisure() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    for manners in [Manners::Refuses(Refusal::Full), Manners::Silent] {
        world.connectors[0].manners = manners;
        world.core.set_grant(world.now, &format!("newer {}", world.opens()));
        let opens = world.opens();
        for _ in 0..60 {
            world.pass(Duration::from_secs(5));
            assert_eq!(world.echo(flow, b"still here"), b"still here");
        }
        let tries = world.opens() - opens;
        assert!((8..=21).contains(&tries), "{tries} tries in five minutes");
    }
    world.connectors[0].manners = Manners::Accepts;
    world.pass(Duration::from_secs(40));
    assert_eq!(world.shown.len(), 2);
    assert_eq!(world.echo(flow, b"renewed"), b"renewed");
    assert!(world.ended.is_empty());
}

#[test]
fn a_renewal_that_is_denied_ends_what_the_older_grant_began() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    world.connectors[0].manners = Manners::Refuses(Refusal::Struck);
    world.core.set_grant(world.now, "a newer one");
    world.pass(Duration::from_secs(1));
    assert_eq!(world.ended.get(&flow), Some(&Ending::Cut));
}

#[test]
fn a_struck_device_loses_its_running_flows_at_once() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    let path = world.connectors[0].there();
    world.core.path_lost(world.now, path, Refusal::Struck);
    world.run();
    assert_eq!(world.ended.get(&flow), Some(&Ending::Cut));
    assert!(world.core.write(world.now, flow, b"x").is_err());
}

#[test]
fn flows_are_given_up_when_no_connector_comes_back() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    let path = world.connectors[0].there();
    world.connectors[0].manners = Manners::Refuses(Refusal::NotAttached);
    world.core.path_lost(world.now, path, Refusal::SessionLost);
    world.pass(Duration::from_secs(300));
    assert_eq!(world.ended.get(&flow), Some(&Ending::Cut));
    assert!(world.opens() <= 2 + usize::try_from(MAX_REOPENS).expect("small"));
}

#[test]
fn a_connector_that_leaves_the_slice_is_given_up_with_its_flows() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    let path = world.connectors[0].there();
    let mut slice = (*world.slice()).clone();
    slice.sites[0].connectors.clear();
    world.core.set_slice(world.now, Arc::new(slice));
    world.run();
    assert_eq!(world.ended.get(&flow), Some(&Ending::Cut));
    assert!(world.given_back.contains(&path));
    let dial = world.dial("wiki:80");
    assert_eq!(world.result(dial), Err(Refusal::NotAttached));
}

#[test]
fn a_half_closed_flow_is_read_to_its_end_and_finishes() {
    let mut world = World::new(&[Manners::Accepts]);
    let dial = world.dial("wiki:80");
    let flow = world.result(dial).expect("connects");
    assert_eq!(world.core.write(world.now, flow, b"all"), Ok(3));
    world.core.shutdown_write(world.now, flow).expect("open");
    world.core.flush(world.now);
    world.run();
    assert_eq!(world.read(flow), b"all");
    let mut buffer = [0; 16];
    world.pass(Duration::from_secs(1));
    assert!(matches!(world.core.read(world.now, flow, &mut buffer), Ok(Read::End) | Err(FlowError::Unknown)));
    world.core.flush(world.now);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.ended.get(&flow), Some(&Ending::Finished));
}

#[test]
fn an_answer_that_nobody_waits_for_is_given_back() {
    let mut world = World::new(&[Manners::Accepts]);
    let path = Path::relay(POP, ChannelId::from_random(5));
    let inner = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    world.core.opened(world.now, OpenToken(99), path, &[0; 92], inner);
    world.run();
    assert_eq!(world.given_back, [path]);
}
