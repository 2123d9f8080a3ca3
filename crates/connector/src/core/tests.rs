//! The core against a real client side: real documents, real tunnels, real TCP, no sockets.

#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the clock once, as the start of its virtual time"
)]

use super::*;
use flow::{CloseReason, Event as FlowEvent, Read, Unreachable};
use std::net::IpAddr;
use std::time::Duration;
use trust::{
    BundleKey, BundleStatement, Grant, KeyRole, Owner, PostureClass, Revocation, RevocationSet,
    RevokedSubject, RootHash, RotationStatement, SigningKey, TrustBundle, TrustChain, seal_open,
    sign_document, sign_open,
};
use tunnel::BindMessage;
use wire::{
    ChannelSecret, ConnectorId, ControllerId, DeviceId, InstallationId, OpenBody, OrganizationId, ResourceId,
    UserId,
};

mod bound;
mod datagrams;
mod leases;
mod lookups;
mod passages;
mod paths;
mod targets;

const WALL: UnixMs = UnixMs::from_millis(1_800_000_000_000);
const POP: PopId = PopId::from_bytes([0x70; 16]);
const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);
const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([2; 16]);
const CONNECTOR: ConnectorId = ConnectorId::from_bytes([3; 16]);
const CONTROLLER: ControllerId = ControllerId::from_bytes([4; 16]);
pub(crate) const DEVICE: DeviceId = DeviceId::from_bytes([5; 16]);
const WEB: &str = "10.0.0.5:80";

/// What the tests' policy allows, by destination.
#[derive(Clone, Default)]
pub(crate) struct TestRules {
    /// By `tcp://place:port`, or `icmp://place:0`.
    pub(crate) allowed: BTreeMap<String, Target>,
    pub(crate) prefix: [u8; 2],
    /// What the rest is refused for, unless it is a missing policy.
    otherwise: Option<Refusal>,
}

impl Rules for TestRules {
    fn decide(&self, question: &Question<'_>) -> Ruling {
        let resource = ResourceName { id: ResourceId::from_bytes([9; 16]), name: "web".into() };
        let policy::Destination { place, protocol, port } = question.destination;
        match self.allowed.get(&format!("{protocol}://{place}:{port}")) {
            Some(target) => Ruling {
                resource: Some(resource),
                verdict: Ok(target.clone()),
                explanation: "policy \"staff\" allows".into(),
            },
            None => Ruling {
                resource: Some(resource),
                verdict: Err(self.otherwise.unwrap_or(Refusal::NoPolicy)),
                explanation: "no policy gives the groups of this device access".into(),
            },
        }
    }

    fn in_site(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if v4.octets()[..2] == self.prefix)
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(crate) fn literal(text: &str) -> TestRules {
    let target = address(text);
    allowing(&format!("tcp://{}:{}", target.ip(), target.port()), Target::Literal(target.ip()))
}

fn named(destination: &str, host: &str) -> TestRules {
    let destination = address(destination);
    let target = Target::Name(host.into());
    allowing(&format!("tcp://{}:{}", destination.ip(), destination.port()), target)
}

pub(crate) fn allowing(what: &str, target: Target) -> TestRules {
    TestRules { allowed: BTreeMap::from([(what.to_owned(), target)]), prefix: [10, 0], otherwise: None }
}

fn installation() -> (SigningKey, TrustBundle) {
    let signer = SigningKey::from_seed(&[3; 32]);
    let bundle = bundle_of(&[&signer], 1);
    (signer, bundle)
}

/// A bundle whose keys sign grants.
fn bundle_of(signers: &[&SigningKey], serial: u64) -> TrustBundle {
    let (root, rotation) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
    let day = Duration::from_secs(24 * 3600);
    let chain = TrustChain::sign(
        &root,
        &rotation,
        &RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: WALL.minus(day),
            exp: WALL.plus(day * 300),
        },
        &BundleStatement {
            installation: INSTALLATION,
            serial,
            iat: WALL,
            keys: signers
                .iter()
                .map(|signer| BundleKey {
                    role: KeyRole::Grant,
                    owner: CONTROLLER,
                    public: signer.verifying_key().as_bytes().to_vec(),
                    nbf: WALL.minus(day),
                    exp: WALL.plus(day * 60),
                })
                .collect(),
        },
    )
    .expect("signs");
    chain.verify(&RootHash::of(&root.verifying_key()), WALL).expect("verifies")
}

/// What the world knows; a macro, for its core is borrowed beside it.
macro_rules! knowledge {
    ($world:expr) => {
        Knowledge {
            bundle: &$world.bundle,
            revocations: &$world.revocations,
            rules: $world.rules.as_ref(),
            wall: $world.wall,
            time: $world.time,
            contact: Contact::Connected,
        }
    };
}

/// One connector, one client, and the wire between them.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) wall: UnixMs,
    time: TimeWord,
    signer: SigningKey,
    bundle: TrustBundle,
    revocations: RevocationSet,
    rules: Option<TestRules>,
    pub(crate) core: ConnectorCore,
    connector_key: tunnel::WireGuardPublicKey,
    seal_key: trust::SealKey,
    device: SigningKey,
    tunnels: Tunnels,
    pub(crate) flows: Flows,
    peer: Option<PeerId>,
    next_intro: u64,
    pub(crate) records: Vec<FlowRecord>,
    /// What the core asked the shell to do.
    pub(crate) asked: Vec<Output>,
    to_pop: Vec<FromAgent>,
    pub(crate) client_events: Vec<(FlowId, FlowEvent)>,
    /// Packets that the client was sent.
    pub(crate) inner: Vec<Vec<u8>>,
    /// What it was told of its addresses.
    told: Vec<BindMessage>,
}

/// What a test changes about an introduction.
struct Intro {
    grant: Grant,
    signed_by: SigningKey,
    device: SigningKey,
    for_connector: ConnectorId,
    sealed_for: ConnectorId,
    client_key: Option<[u8; 32]>,
    initiation: Option<Vec<u8>>,
    client_seen: Option<SocketAddr>,
}

impl World {
    pub(crate) fn new(rules: TestRules) -> Self {
        Self::with_side(rules, None)
    }

    fn with_side(rules: TestRules, site: Option<SiteSide>) -> Self {
        let now = Instant::now();
        let (signer, bundle) = installation();
        let wireguard_key = WireGuardPrivateKey::from_bytes([0x11; 32]);
        let open_key = OpenKey::generate();
        let (connector_key, seal_key) = (wireguard_key.public_key(), open_key.seal_key());
        let parts = Parts {
            site,
            identity: Identity::connector(INSTALLATION, ORGANIZATION, CONNECTOR),
            open_key,
            wireguard_key,
            own_listeners: ["10.0.0.9:9", "0.0.0.0:94", "[::]:96"].map(address).to_vec(),
            limits: FlowLimits::DEFAULT,
        };
        Self {
            now,
            wall: WALL,
            time: TimeWord::Known,
            signer,
            bundle,
            revocations: RevocationSet::new(),
            rules: Some(rules),
            core: ConnectorCore::new(parts, 1, now, WALL).expect("a connector"),
            connector_key,
            seal_key,
            device: SigningKey::from_seed(&[7; 32]),
            tunnels: Tunnels::new(&WireGuardPrivateKey::from_bytes([0x22; 32]), 2, now),
            flows: Flows::new(FlowLimits::DEFAULT, 3, now),
            peer: None,
            next_intro: 0,
            records: Vec::new(),
            asked: Vec::new(),
            to_pop: Vec::new(),
            client_events: Vec::new(),
            inner: Vec::new(),
            told: Vec::new(),
        }
    }

    /// The client sends a packet of its own making.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        let peer = self.peer.expect("a client");
        self.tunnels.seal(self.now, peer, packet).expect("room");
        self.settle();
    }

    /// The shell says something of a conversation.
    pub(crate) fn news(&mut self, news: DatagramNews) {
        let knowledge = knowledge!(self);
        self.core.datagram_news(self.now, &knowledge, news);
        self.settle();
    }

    fn grant(&self) -> Grant {
        Grant {
            installation: INSTALLATION,
            organization: ORGANIZATION,
            device: DEVICE,
            device_generation: 1,
            owner: Owner::User(UserId::from_bytes([6; 16])),
            owner_generation: 1,
            device_name: "laptop".into(),
            owner_name: "ada".into(),
            groups: vec![],
            posture: PostureClass::Unknown,
            key: self.device.verifying_key(),
            iat: self.wall,
            nbf: self.wall,
            exp: self.wall.plus(Duration::from_secs(3600)),
            renew_after_ms: 600_000,
            ext: None,
        }
    }

    fn intro(&self) -> Intro {
        Intro {
            grant: self.grant(),
            signed_by: self.signer.clone(),
            device: self.device.clone(),
            for_connector: CONNECTOR,
            sealed_for: CONNECTOR,
            client_key: None,
            initiation: None,
            client_seen: None,
        }
    }

    /// Sends an introduction by channel `2 * n + 1` of the connector and gives the answer.
    fn introduce(&mut self, intro: Intro) -> Result<Accept, Refusal> {
        let (peer, initiation) = self.tunnels.connect(self.now, self.connector_key).expect("room");
        self.peer = Some(peer);
        let client_key = *self.tunnels.public_key().as_bytes();
        let signature = sign_open(&intro.device, intro.for_connector, &client_key, &initiation);
        let body = minicbor::to_vec(OpenBody {
            grant: Bounded::new(sign_document(&intro.signed_by, &intro.grant).expect("signs").into_bytes())
                .expect("short"),
            client_key: intro.client_key.unwrap_or(client_key),
            signature,
        })
        .expect("encodes");
        let sealed = seal_open(&self.seal_key, intro.sealed_for, &body).expect("seals");
        let initiation = intro.initiation.unwrap_or_else(|| initiation.to_vec());
        self.next_intro += 1;
        let introduce = Introduce {
            intro: self.next_intro,
            channel: ChannelId::from_random(self.next_intro * 2 + 1),
            secret: ChannelSecret::from_random([0; 32]),
            sealed: Bounded::new(sealed).expect("short"),
            initiation: Bounded::new(initiation).expect("short"),
            client_seen: intro.client_seen,
        };
        let knowledge = knowledge!(self);
        self.core.introduce(self.now, &knowledge, POP, &introduce);
        self.settle();
        match self.to_pop.pop().expect("an answer") {
            FromAgent::Accept(accept) => Ok(accept),
            FromAgent::Refuse(refuse) => Err(refuse.reason),
            other => panic!("{other:?}"),
        }
    }

    /// A client that is in, as its inner address.
    pub(crate) fn enter(&mut self) -> IpAddr {
        self.enter_as(self.intro())
    }

    fn enter_as(&mut self, intro: Intro) -> IpAddr {
        let accept = self.introduce(intro).expect("a true introduction");
        let path = Path::relay(POP, ChannelId::from_random(self.next_intro * 2));
        let peer = self.peer.expect("introduced");
        self.tunnels
            .accept_response(self.now, peer, accept.response.as_slice(), path)
            .expect("a true response");
        self.settle();
        accept.inner_v4.into()
    }

    /// Carries everything both ways until nothing moves.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut moved = false;
            loop {
                let knowledge = knowledge!(self);
                match self.core.poll_output(self.now, &knowledge) {
                    Output::Transmit { path: Path::Relay { channel, .. }, bytes } => {
                        let path = Path::relay(POP, ChannelId::from_random(channel.bits() ^ 1));
                        self.tunnels.handle_input(self.now, path, &bytes[wire::RELAY_HEADER_LEN..]);
                    }
                    Output::ToPop { message, .. } => self.to_pop.push(message),
                    Output::Record(record) => self.records.push(*record),
                    Output::Timeout(_) => break,
                    other => self.asked.push(other),
                }
                moved = true;
            }
            loop {
                match self.tunnels.poll_output() {
                    tunnel::Output::Transmit(transmit) => {
                        // Nothing goes straight in this world: what a probe is answered with is lost.
                        let Path::Relay { channel, .. } = transmit.path else { continue };
                        let channel = ChannelId::from_random(channel.bits() ^ 1);
                        self.core.handle_input(
                            self.now,
                            Path::relay(POP, channel),
                            &[&transmit.bytes[wire::RELAY_HEADER_LEN..]],
                        );
                    }
                    tunnel::Output::Inner { packet, .. } => {
                        // UDP, echoes and pieces are a kernel's at a real client.
                        let _ = self.flows.handle_input(self.now, LinkId(1), &packet);
                        self.inner.push(packet);
                    }
                    tunnel::Output::Bind { message, .. } => self.told.push(message),
                    tunnel::Output::Event(_) => {}
                    tunnel::Output::Timeout(_) => break,
                }
                moved = true;
            }
            loop {
                match self.flows.poll_output() {
                    flow::Output::Packet { bytes, .. } => {
                        let peer = self.peer.expect("a client");
                        self.tunnels.seal(self.now, peer, &bytes).expect("room");
                    }
                    flow::Output::Event { flow, event, .. } => self.client_events.push((flow, event)),
                    flow::Output::Timeout(_) => break,
                }
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.wall = self.wall.plus(by);
        let knowledge = knowledge!(self);
        self.core.handle_timeout(self.now, &knowledge);
        self.tunnels.handle_timeout(self.now);
        self.flows.handle_timeout(self.now);
        self.settle();
    }

    fn recheck(&mut self) {
        let knowledge = knowledge!(self);
        self.core.recheck(self.now, &knowledge);
        self.settle();
    }

    pub(crate) fn dial(&mut self, from: IpAddr, to: &str) -> FlowId {
        let src = SocketAddr::new(from, 40_000 + u16::try_from(self.asked.len()).expect("few"));
        let flow = self.flows.dial(self.now, LinkId(1), src, address(to)).expect("room");
        self.settle();
        flow
    }

    fn resolve(&mut self, flow: FlowId, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("address")).collect();
        let knowledge = knowledge!(self);
        self.core.resolved(self.now, &knowledge, flow, &addresses);
        self.settle();
    }

    fn passage_resolved(&mut self, passage: PassageId, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("address")).collect();
        let knowledge = knowledge!(self);
        self.core.passage_resolved(self.now, &knowledge, passage, &addresses);
        self.settle();
    }

    /// The target accepted.
    fn accept(&mut self, flow: FlowId, target: &str) {
        assert!(self.dialled(flow, Ok(address(target))));
        self.settle();
    }

    /// A connection attempt ended; whether the flow goes on.
    pub(crate) fn dialled(&mut self, flow: FlowId, result: Result<SocketAddr, DialFault>) -> bool {
        let knowledge = knowledge!(self);
        self.core.dialled(self.now, &knowledge, flow, result)
    }

    fn strike(&mut self, subject: RevokedSubject) {
        self.revocations.insert(&Revocation {
            installation: INSTALLATION,
            signer: CONTROLLER,
            seq: 1,
            previous: [0; 32],
            at: self.wall,
            subject,
            generation: 1,
            keep_until: self.wall.plus(Duration::from_secs(86_400)),
            ext: None,
        });
    }

    /// A flow to the web server that carries bytes; as the client and as the core know it.
    fn open_flow(&mut self) -> (FlowId, FlowId) {
        let inner = self.enter();
        let client = self.dial(inner, WEB);
        let Some(Output::Dial { flow, .. }) = self.asked.pop() else { panic!("a dial, {:?}", self.records) };
        self.accept(flow, WEB);
        assert!(self.client_events.contains(&(client, FlowEvent::Established)));
        (client, flow)
    }

    pub(crate) fn client_end(&self, flow: FlowId) -> Option<CloseReason> {
        self.client_events.iter().find_map(|(of, event)| match event {
            FlowEvent::Closed(reason) if *of == flow => Some(*reason),
            _ => None,
        })
    }
}

#[test]
fn an_allowed_flow_is_dialled_accepted_carried_and_logged() {
    let mut world = World::new(literal(WEB));
    let (client, flow) = world.open_flow();
    world.flows.write(world.now, client, b"GET /").expect("open");
    world.settle();
    let mut buffer = [0; 64];
    assert_eq!(world.core.read(world.now, flow, &mut buffer), Read::Bytes(5));
    assert_eq!(world.core.write(world.now, flow, b"hello there"), 11);
    world.core.target_finished(world.now, flow);
    world.settle();
    assert_eq!(world.flows.read(world.now, client, &mut buffer), Ok(Read::Bytes(11)));
    assert_eq!(world.flows.read(world.now, client, &mut buffer), Ok(Read::End));
    world.flows.shutdown_write(world.now, client).expect("open");
    world.settle();
    assert_eq!(world.core.read(world.now, flow, &mut buffer), Read::End);
    world.settle();
    let [record] = &world.records[..] else { panic!("{:?}", world.records) };
    assert_eq!((record.verdict, record.reason.as_str()), (Verdict::Allowed, "finished"));
    assert_eq!((record.bytes_up, record.bytes_down), (5, 11));
    assert_eq!(
        (record.device, record.device_name.as_str(), record.owner_name.as_str()),
        (DEVICE, "laptop", "ada")
    );
    assert_eq!((record.destination, record.target), (address(WEB), Some(address(WEB))));
    assert_eq!(record.resource_name.as_deref(), Some("web"));
    assert_eq!(record.relay, Some(POP));
    assert_eq!(world.core.status().flows, 0);
}

#[test]
fn the_syn_is_answered_only_when_the_target_accepted() {
    for (fault, end, refusal) in [
        (DialFault::Refused, CloseReason::Refused, Refusal::TargetRefused),
        (DialFault::Unreachable, CloseReason::Unreachable(Unreachable::Host), Refusal::TargetUnreachable),
        (DialFault::Full, CloseReason::Unreachable(Unreachable::Host), Refusal::Full),
    ] {
        let mut world = World::new(literal(WEB));
        let inner = world.enter();
        let client = world.dial(inner, WEB);
        assert!(world.client_events.is_empty());
        let Some(Output::Dial { flow, .. }) = world.asked.pop() else { panic!("a dial") };
        assert!(!world.dialled(flow, Err(fault)));
        world.settle();
        assert_eq!(world.client_end(client), Some(end));
        assert!(world.records[0].verdict == Verdict::Failed && world.records[0].is_because_of(refusal));
    }
}

#[test]
fn a_denied_flow_reaches_nobody_and_is_logged_with_its_reason() {
    let mut world = World::new(literal(WEB));
    let inner = world.enter();
    let client = world.dial(inner, "10.0.0.6:22");
    assert!(world.asked.is_empty(), "nothing was dialled");
    assert_eq!(world.client_end(client), Some(CloseReason::Unreachable(Unreachable::Prohibited)));
    let [record] = &world.records[..] else { panic!("{:?}", world.records) };
    assert_eq!(record.verdict, Verdict::Denied);
    assert!(record.is_because_of(Refusal::NoPolicy));
    assert_eq!(record.destination, address("10.0.0.6:22"));
    assert!(record.explanation.contains("no policy"));
}

#[test]
fn a_hammering_client_is_counted_and_not_logged_line_by_line() {
    let mut world = World::new(literal(WEB));
    let inner = world.enter();
    for port in 1..100 {
        let src = SocketAddr::new(inner, 50_000 + port);
        world.flows.dial(world.now, LinkId(1), src, address("10.0.0.6:22")).expect("room");
        world.settle();
    }
    assert_eq!(world.records.len(), 20);
    assert_eq!(world.core.status().refusals_not_logged, 79);
    world.advance(Duration::from_secs(1));
    world.dial(inner, "10.0.0.6:22");
    assert_eq!(world.records.len(), 21);
}

#[test]
fn every_forgery_of_an_introduction_is_refused_with_its_reason() {
    type Forge = fn(&World, &mut Intro);
    let forgeries: [(&str, Forge, Refusal); 13] = [
        ("grant by another key", |_, i| i.signed_by = SigningKey::from_seed(&[9; 32]), Refusal::GrantInvalid),
        (
            "expired",
            |w, i| {
                i.grant.exp = w.wall;
                i.grant.nbf = w.wall.minus(Duration::from_secs(60));
                i.grant.iat = i.grant.nbf;
            },
            Refusal::GrantExpired,
        ),
        (
            "not yet valid",
            |w, i| i.grant.nbf = w.wall.plus(Duration::from_secs(600)),
            Refusal::GrantNotYetValid,
        ),
        (
            "another organization",
            |_, i| i.grant.organization = OrganizationId::from_bytes([8; 16]),
            Refusal::OtherOrganization,
        ),
        (
            "another installation",
            |_, i| i.grant.installation = InstallationId::from_bytes([8; 16]),
            Refusal::GrantInvalid,
        ),
        ("another device's key", |_, i| i.device = SigningKey::from_seed(&[9; 32]), Refusal::KeyNotProven),
        (
            "another device's grant",
            |_, i| i.grant.key = SigningKey::from_seed(&[9; 32]).verifying_key(),
            Refusal::KeyNotProven,
        ),
        (
            "signed for another connector",
            |_, i| i.for_connector = ConnectorId::from_bytes([8; 16]),
            Refusal::KeyNotProven,
        ),
        (
            "sealed for another connector",
            |_, i| i.sealed_for = ConnectorId::from_bytes([8; 16]),
            Refusal::Malformed,
        ),
        ("another WireGuard key", |_, i| i.client_key = Some([8; 32]), Refusal::KeyNotProven),
        ("another initiation", |_, i| i.initiation = Some(vec![1; 148]), Refusal::KeyNotProven),
        ("no initiation", |_, i| i.initiation = Some(vec![]), Refusal::KeyNotProven),
        (
            "a longer life than a grant has",
            |w, i| i.grant.exp = w.wall.plus(Duration::from_secs(73 * 3600)),
            Refusal::GrantInvalid,
        ),
    ];
    for (what, forge, expected) in forgeries {
        let mut world = World::new(literal(WEB));
        let mut intro = world.intro();
        forge(&world, &mut intro);
        // A grant that its own rules refuse cannot be signed by an honest signer.
        if sign_document(&intro.signed_by, &intro.grant).is_err() {
            assert_eq!(expected, Refusal::GrantInvalid, "{what}");
            continue;
        }
        assert_eq!(world.introduce(intro).map(|_| ()), Err(expected), "{what}");
        assert_eq!(world.core.status().sessions, 0, "{what}");
        assert_eq!(world.core.status().introductions_refused, 1, "{what}");
    }
}

#[test]
fn a_packet_from_a_source_that_is_not_the_devices_goes_nowhere() {
    let mut world = World::new(literal(WEB));
    world.enter();
    world.dial("100.64.0.77".parse().expect("address"), WEB);
    assert!(world.asked.is_empty() && world.records.is_empty());
    assert_eq!(world.core.status().wrong_source, 1);
}

#[test]
fn a_protocol_that_is_not_forwarded_is_refused_and_logged() {
    let mut world = World::new(literal(WEB));
    let IpAddr::V4(inner) = world.enter() else { panic!("IPv4") };
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 132, 0, 0];
    packet.extend_from_slice(&inner.octets());
    packet.extend_from_slice(&[10, 0, 0, 5, 0x9C, 0x40, 0, 53, 0, 8, 0, 0]);
    let peer = world.peer.expect("in");
    world.tunnels.seal(world.now, peer, &packet).expect("room");
    world.settle();
    let record = &world.records[0];
    assert!(record.is_because_of(Refusal::ProtocolNotForwarded));
    assert_eq!((record.protocol.as_str(), record.destination), ("132", address("10.0.0.5:0")));
}

#[test]
fn another_device_cannot_take_over_a_wireguard_key() {
    let mut world = World::new(literal(WEB));
    world.enter();
    let thief = SigningKey::from_seed(&[0x33; 32]);
    let mut intro = world.intro();
    intro.grant.device = DeviceId::from_bytes([0x44; 16]);
    intro.grant.key = thief.verifying_key();
    intro.device = thief;
    assert_eq!(world.introduce(intro).map(|_| ()), Err(Refusal::KeyNotProven));
    assert_eq!(world.core.status().sessions, 1);
}

#[test]
fn a_roaming_client_finds_its_flow_again() {
    let mut world = World::new(literal(WEB));
    let (client, flow) = world.open_flow();
    let path = |world: &World| Path::relay(POP, ChannelId::from_random(world.next_intro * 2));
    let (lost, channel) = (path(&world), ChannelId::from_random(world.next_intro * 2 + 1));
    world.core.channel_closed(world.now, POP, channel);
    world.tunnels.drop_path(world.now, lost);
    assert_eq!(world.core.write(world.now, flow, b"waiting for you"), 15);
    world.settle();
    world.advance(Duration::from_secs(20));
    world.enter();
    world.advance(Duration::from_secs(2));
    let mut buffer = [0; 64];
    assert_eq!(world.flows.read(world.now, client, &mut buffer), Ok(Read::Bytes(15)));
    assert_eq!(world.core.status().sessions, 1);
}

#[test]
fn shutting_down_resets_the_flows_and_says_so() {
    let mut world = World::new(literal(WEB));
    let (client, _) = world.open_flow();
    world.core.shut_down(world.now, world.wall);
    world.settle();
    assert_eq!(world.client_end(client), Some(CloseReason::Reset));
    assert!(world.records.last().expect("a record").is_because_of(Refusal::ShuttingDown));
}

#[test]
fn one_device_has_half_of_the_flows_at_the_most_through_however_many_tunnels() {
    let mut world = World::new(literal(WEB));
    let dials =
        |world: &World| world.asked.iter().filter(|asked| matches!(asked, Output::Dial { .. })).count();
    // Three processes of one client, each with a key of its own.
    for process in 0..3_u8 {
        let key = WireGuardPrivateKey::from_bytes([0x30 + process; 32]);
        world.tunnels = Tunnels::new(&key, u64::from(process), world.now);
        world.flows = Flows::new(FlowLimits::DEFAULT, 3, world.now);
        let inner = world.enter();
        for _ in 0..FlowLimits::DEFAULT.flows_per_link {
            world.dial(inner, WEB);
        }
    }
    assert_eq!(dials(&world), FlowLimits::DEFAULT.flows / 2);
    assert!(world.records.iter().any(|record| record.reason == Refusal::Full.label()), "and it is said why");
    // Another device finds room.
    let other = SigningKey::from_seed(&[8; 32]);
    world.tunnels = Tunnels::new(&WireGuardPrivateKey::from_bytes([0x40; 32]), 9, world.now);
    world.flows = Flows::new(FlowLimits::DEFAULT, 3, world.now);
    let grant =
        Grant { device: DeviceId::from_bytes([0x50; 16]), key: other.verifying_key(), ..world.grant() };
    let accept =
        world.introduce(Intro { grant, device: other, ..world.intro() }).expect("a true introduction");
    let path = Path::relay(POP, ChannelId::from_random(world.next_intro * 2));
    let peer = world.peer.expect("introduced");
    world
        .tunnels
        .accept_response(world.now, peer, accept.response.as_slice(), path)
        .expect("a true response");
    world.settle();
    let before = dials(&world);
    world.dial(accept.inner_v4.into(), WEB);
    assert_eq!(dials(&world), before + 1);
}
