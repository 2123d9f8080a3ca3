//! Whole nodes in simulated time: the production cores of a client, a connector and some PoPs with real TLS, QUIC
//! and ciphers; a controller that beacons and answers; and a network that is a queue. Nothing sleeps.

use agent::{ConnectorAgent, Freshness, PopPhaseWord, StoredState};
use client::core::{ClientNode, DialId, NodeEvent, NodeOutput, NodeParts};
use connector::{ConnectorCore, ConnectorNode, ConnectorOutput, ConnectorParts};
use flow::{FlowId, FlowLimits, Read};
use policy::{
    Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, ConnectorSlice, Mode, PopEntry,
    PortRange, SliceResource,
};
use pop::PopMaterial;
use pop::core::Seed;
use pop::core::relay::{Handled, Relay, RelayLimits, RelayOutput};
use pop::core::sessions::{Sessions, SessionsOutput, Written};
use session::{AcceptorLimits, Dialler, Event, LocalIdentity, SessionId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use trust::{
    Audience, Beacon, BundleKey, BundleStatement, CertificateRequest, Grant, GroupRef, Identity, KeyRole,
    OpenKey, Owner, PostureClass, RootHash, RotationStatement, SigningKey, Slice, SliceBody, SliceHeader,
    SliceVersion, TrustBundle, TrustChain, UnixMs, control, issue_certificate, sign_document,
};
use tunnel::WireGuardPrivateKey;
use wire::{
    Bounded, ConnectorId, ControlReply, ControlRequest, ControllerId, DatagramKind, DeviceId, FromSigner,
    GroupId, InstallationId, OrganizationId, PolicyId, PopId, PublishBeacon, ResourceId, SignerHello, SiteId,
    ToSigner, UserId, classify,
};

pub const WALL: UnixMs = UnixMs::from_millis(1_800_000_000_000);
pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);
pub const STANDARD: &str = "10.20.0.5:80";
pub const STRICT: &str = "10.20.0.6:80";
const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);
const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([2; 16]);
const CONNECTOR: ConnectorId = ConnectorId::from_bytes([3; 16]);
const SITE: SiteId = SiteId::from_bytes([5; 16]);
const DEVICE: DeviceId = DeviceId::from_bytes([6; 16]);
const STAFF: GroupId = GroupId::from_bytes([7; 16]);
const CONTROLLER: ControllerId = ControllerId::from_bytes([9; 16]);
const LATENCY: Duration = Duration::from_millis(10);
const CLIENT_AT: &str = "192.0.2.1:42000";
const CONNECTOR_AT: &str = "192.0.2.2:41000";
const CONTROLLER_AT: &str = "192.0.2.3:40000";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn pop_id(index: usize) -> PopId {
    PopId::from_bytes([0x40 + u8::try_from(index).expect("few"); 16])
}

fn pop_address(index: usize) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 10 + u8::try_from(index).expect("few")], 443))
}

/// The keys of an installation and what they sign.
struct Installation {
    root: RootHash,
    chain: String,
    bundle: TrustBundle,
    keys: BTreeMap<KeyRole, SigningKey>,
    control: OpenKey,
    seal: OpenKey,
    wireguard: OpenKey,
    entries: Vec<PopEntry>,
    /// How long grants live, and after what they are renewed.
    life: Duration,
    renew: Duration,
}

impl Installation {
    fn new(entries: Vec<PopEntry>) -> Self {
        let (root, rotation) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let keys: BTreeMap<KeyRole, SigningKey> = KeyRole::ALL
            .into_iter()
            .filter(|role| !matches!(role, KeyRole::ConsoleCa | KeyRole::ControlSeal))
            .zip(10_u8..)
            .map(|(role, byte)| (role, SigningKey::from_seed(&[byte; 32])))
            .collect();
        let control = OpenKey::generate();
        let statement = RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: WALL.minus(DAY),
            exp: WALL.plus(DAY * 300),
        };
        let key = |role, public: &[u8; 32]| BundleKey {
            role,
            owner: CONTROLLER,
            public: public.to_vec(),
            nbf: WALL.minus(DAY),
            exp: WALL.plus(DAY * 60),
        };
        let mut all: Vec<BundleKey> =
            keys.iter().map(|(role, signing)| key(*role, signing.verifying_key().as_bytes())).collect();
        all.push(key(KeyRole::ControlSeal, control.seal_key().as_bytes()));
        let bundle = BundleStatement { installation: INSTALLATION, serial: 1, iat: WALL, keys: all };
        let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("signs");
        let root = RootHash::of(&root.verifying_key());
        let bundle = chain.verify(&root, WALL).expect("verifies");
        let (seal, wireguard) = (OpenKey::generate(), OpenKey::generate());
        let (life, renew) = (DAY, HOUR * 4);
        Self { root, chain: chain.to_text(), bundle, keys, control, seal, wireguard, entries, life, renew }
    }

    fn certificate(&self, identity: Identity, issuer: KeyRole, key: &SigningKey) -> Vec<u8> {
        let request = CertificateRequest {
            identity,
            public_key: key.verifying_key(),
            generation: 1,
            not_before: WALL.minus(Duration::from_secs(600)),
            not_after: WALL.plus(DAY * 20),
            serial_random: [5; 8],
        };
        issue_certificate(&self.keys[&issuer], &request).expect("issues")
    }

    fn slice<B: SliceBody>(&self, audience: Audience, body: B) -> String {
        let header = SliceHeader {
            installation: INSTALLATION,
            organization: Some(ORGANIZATION),
            audience,
            version: SliceVersion { incarnation: 1, version: 1 },
            iat: WALL,
            exp: WALL.plus(DAY * 7),
        };
        sign_document(&self.keys[&KeyRole::Slice], &Slice { header, body, ext: None }).expect("signs")
    }

    fn stored(&self, identity: Identity, issuer: KeyRole, byte: u8, slice: String) -> StoredState {
        let key = SigningKey::from_seed(&[byte; 32]);
        StoredState {
            root: self.root,
            chain: self.chain.clone(),
            certificate: self.certificate(identity, issuer, &key),
            identity_key: key,
            grant: None,
            slice: Some(slice),
            revocations: None,
            time_floor: None,
            reconnect_window: Duration::ZERO,
        }
    }

    fn pop(&self, index: usize) -> PopMaterial {
        let key = SigningKey::from_seed(&[90 + u8::try_from(index).expect("few"); 32]);
        let certificate =
            self.certificate(Identity::pop(INSTALLATION, pop_id(index)), KeyRole::PopIssuer, &key);
        PopMaterial { key, certificate, root: self.root, chain: self.chain.clone(), revocations: Vec::new() }
    }

    fn connector(&self) -> StoredState {
        let resource = |byte: u8, at: &str, mode| SliceResource {
            id: ResourceId::from_bytes([byte; 16]),
            name: format!("service {byte}"),
            address: policy::Address::Ip(address(at).ip()),
            ports: ports(),
            mode,
            allow: allow(),
        };
        let body = ConnectorSlice {
            site: SITE,
            site_name: "site".into(),
            prefixes: vec![],
            resources: vec![resource(1, STANDARD, Mode::Standard), resource(2, STRICT, Mode::Strict)],
            pops: self.entries.clone(),
            regions: vec![],
        };
        let slice = self.slice(Audience::Connector(CONNECTOR), body);
        let identity = Identity::connector(INSTALLATION, ORGANIZATION, CONNECTOR);
        self.stored(identity, KeyRole::ConnectorIssuer, 34, slice)
    }

    fn client(&self) -> StoredState {
        let resource = |byte: u8, at: &str, mode| ClientResource {
            id: ResourceId::from_bytes([byte; 16]),
            name: format!("service {byte}"),
            alias: None,
            address: policy::Address::Ip(address(at).ip()),
            ports: ports(),
            mode,
            site: SITE,
            allow: allow(),
        };
        let connector = ClientConnector {
            id: CONNECTOR,
            name: "one".into(),
            wireguard_key: self.wireguard.seal_key(),
            seal_key: self.seal.seal_key(),
        };
        let site = ClientSite { id: SITE, name: "site".into(), connectors: vec![connector], regions: vec![] };
        let body = ClientSlice {
            organization_name: "organization".into(),
            resources: vec![resource(1, STANDARD, Mode::Standard), resource(2, STRICT, Mode::Strict)],
            sites: vec![site],
            pops: self.entries.clone(),
        };
        let slice = self.slice(Audience::Device(DEVICE), body);
        let identity = Identity::device(INSTALLATION, ORGANIZATION, DEVICE);
        let mut stored = self.stored(identity, KeyRole::DeviceIssuer, 35, slice);
        stored.grant = Some(self.grant(&stored.identity_key, WALL));
        stored
    }

    fn grant(&self, key: &SigningKey, iat: UnixMs) -> String {
        let grant = Grant {
            installation: INSTALLATION,
            organization: ORGANIZATION,
            device: DEVICE,
            device_generation: 1,
            owner: Owner::User(UserId::from_bytes([1; 16])),
            owner_generation: 1,
            device_name: "laptop".into(),
            owner_name: "ada".into(),
            groups: vec![GroupRef { id: STAFF, generation: 1 }],
            posture: PostureClass::Unknown,
            key: key.verifying_key(),
            iat,
            nbf: iat,
            exp: iat.plus(self.life),
            renew_after_ms: u64::try_from(self.renew.as_millis()).expect("fits"),
            ext: None,
        };
        sign_document(&self.keys[&KeyRole::Grant], &grant).expect("signs")
    }

    fn beacon(&self, time: UnixMs, nonce: Option<[u8; 16]>) -> wire::Document {
        let beacon = Beacon {
            installation: INSTALLATION,
            controller: CONTROLLER,
            time,
            versions: BTreeMap::new(),
            heads: BTreeMap::new(),
            nonce,
            ext: None,
        };
        let text = sign_document(&self.keys[&KeyRole::Beacon], &beacon).expect("signs");
        Bounded::new(text.into_bytes()).expect("short")
    }
}

fn ports() -> Vec<PortRange> {
    vec![PortRange::new(80, 80).expect("a port")]
}

fn allow() -> Vec<Allow> {
    vec![Allow {
        group: STAFF,
        group_name: "staff".into(),
        policy: PolicyId::from_bytes([1; 16]),
        policy_name: "web for staff".into(),
    }]
}

fn seed_of(seed: u64, byte: u8) -> [u8; 32] {
    let mut bytes = [byte; 32];
    // Not in the first byte alone: X25519 leaves out its three lowest bits (RFC 7748 section 5), and neighbouring seeds
    // would be one key.
    bytes[8..16].copy_from_slice(&seed.to_le_bytes());
    bytes
}

struct Pop {
    sessions: Sessions,
    relay: Relay,
    /// Its packets go nowhere, in either direction.
    is_dark: bool,
}

/// Dials every PoP, beacons each second, and answers.
struct Controller {
    dialler: Dialler,
    sessions: BTreeMap<usize, SessionId>,
    next_beacon: Instant,
    is_dead: bool,
    renewals: u64,
}

pub struct World {
    installation: Installation,
    base: Instant,
    pub now: Instant,
    seed: u64,
    pops: Vec<Pop>,
    controller: Controller,
    pub client: ClientNode,
    pub connector: ConnectorNode,
    wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sent: u64,
    due: BTreeMap<Node, Instant>,
    /// How each dial ended.
    pub dialled: BTreeMap<DialId, Result<FlowId, String>>,
    pub ended: Vec<FlowId>,
    /// What came back on each flow.
    pub echoed: BTreeMap<FlowId, usize>,
    unsent: BTreeMap<FlowId, Vec<u8>>,
    /// Times at which the connector dialled into the site.
    pub site_dials: u64,
    /// Bytes that reached the site.
    pub site_bytes: usize,
    /// Of a thousand packets so many are lost.
    pub loss: u64,
    /// How far the clocks of client and connector are off.
    pub client_clock: Off,
    pub connector_clock: Off,
    /// How often the client has changed its network.
    moves: u16,
    random: u64,
}

/// What a machine's clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    Right,
    Ahead(Duration),
    Behind(Duration),
}

impl Off {
    fn shows(self, wall: UnixMs) -> UnixMs {
        match self {
            Self::Right => wall,
            Self::Ahead(by) => wall.plus(by),
            Self::Behind(by) => wall.minus(by),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Pop(usize),
    Controller,
    Connector,
    Client,
}

fn bytes_of(key: &OpenKey) -> [u8; 32] {
    key.expose_private().try_into().expect("an X25519 key has 32 bytes")
}

impl World {
    /// So many PoPs, one zone each.
    pub fn new(seed: u64, pops: usize) -> Self {
        Self::with_life(seed, pops, DAY, HOUR * 4)
    }

    pub fn with_life(seed: u64, pops: usize, life: Duration, renew: Duration) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences to it are used")]
        let base = Instant::now();
        let entries = (0..pops)
            .map(|index| PopEntry {
                id: pop_id(index),
                address: pop_address(index).to_string(),
                region: "r".into(),
                zone: format!("z{index}"),
            })
            .collect();
        let mut installation = Installation::new(entries);
        (installation.life, installation.renew) = (life, renew);
        let key = SigningKey::from_seed(&[77; 32]);
        let identity = Identity::controller(INSTALLATION, CONTROLLER);
        let certificate = installation.certificate(identity, KeyRole::ControllerIssuer, &key);
        let local = LocalIdentity::new(&certificate, &key).expect("belongs together");
        let dialler = Dialler::new(local, installation.bundle.clone(), WALL, seed_of(seed, 7));
        let (client, connector) =
            (Self::client(&installation, seed, base, WALL), Self::connector(&installation, seed, base, WALL));
        let pops = (0..pops).map(|index| Self::pop(&installation, index, seed, base, WALL)).collect();
        let mut world = Self {
            installation,
            base,
            now: base,
            seed,
            pops,
            controller: Controller {
                dialler,
                sessions: BTreeMap::new(),
                next_beacon: base,
                is_dead: false,
                renewals: 0,
            },
            client,
            connector,
            wire: BTreeMap::new(),
            sent: 0,
            due: BTreeMap::new(),
            dialled: BTreeMap::new(),
            ended: Vec::new(),
            echoed: BTreeMap::new(),
            unsent: BTreeMap::new(),
            site_dials: 0,
            site_bytes: 0,
            loss: 0,
            client_clock: Off::Right,
            connector_clock: Off::Right,
            moves: 0,
            random: seed,
        };
        for index in 0..world.pops.len() {
            world.controller_dials(index);
        }
        for node in world.nodes() {
            world.drain(node);
        }
        world
    }

    fn pop(installation: &Installation, index: usize, seed: u64, now: Instant, wall: UnixMs) -> Pop {
        let limits = RelayLimits::default();
        let seed = Seed::from_random(seed_of(seed, 100 + u8::try_from(index).expect("few")));
        let acceptor = AcceptorLimits::default();
        let material = installation.pop(index);
        let sessions =
            Sessions::new(material, acceptor, limits.channels, now, wall, &seed).expect("good material");
        Pop { sessions, relay: Relay::new(limits, now, &seed), is_dark: false }
    }

    fn connector(installation: &Installation, seed: u64, now: Instant, wall: UnixMs) -> ConnectorNode {
        let agent = ConnectorAgent::new(installation.connector(), now, wall, seed_of(seed, 4))
            .expect("good material");
        let parts = ConnectorParts {
            site: None,
            identity: agent.identity(),
            open_key: OpenKey::from_private(&bytes_of(&installation.seal)).expect("its own key"),
            wireguard_key: WireGuardPrivateKey::from_bytes(bytes_of(&installation.wireguard)),
            own_listeners: Vec::new(),
            limits: FlowLimits::DEFAULT,
        };
        let core = ConnectorCore::new(parts, seed, now, wall).expect("a connector");
        ConnectorNode::new(agent, core, now)
    }

    fn client(installation: &Installation, seed: u64, now: Instant, wall: UnixMs) -> ClientNode {
        let parts = NodeParts {
            state: installation.client(),
            wireguard_key: WireGuardPrivateKey::from_bytes(seed_of(seed, 5)),
            seed: seed_of(seed, 6),
        };
        ClientNode::new(parts, now, wall).expect("good material")
    }

    // ---- what a test does ------------------------------------------------------------------------

    pub fn wall(&self) -> UnixMs {
        WALL.plus(self.now - self.base)
    }

    /// All controllers die; sessions to them are dropped, and nobody beacons any more.
    pub fn kill_controller(&mut self) {
        self.controller.is_dead = true;
    }

    pub const fn renewals(&self) -> u64 {
        self.controller.renewals
    }

    /// A PoP's packets go nowhere from now on.
    pub fn darken(&mut self, index: usize) {
        self.pops[index].is_dark = true;
    }

    /// A PoP asks everybody to leave: what its process says when it drains.
    pub fn ask_to_leave(&mut self, index: usize, within: Duration) {
        self.pops[index].sessions.drain(self.now, within);
        self.drain(Node::Pop(index));
    }

    /// A PoP's process was killed and starts again.
    pub fn restart_pop(&mut self, index: usize) {
        self.seed += 1;
        self.pops[index] = Self::pop(&self.installation, index, self.seed, self.now, self.wall());
        self.drain(Node::Pop(index));
        self.controller_dials(index);
    }

    /// The client's process ends and starts again, from what enrolment wrote.
    pub fn restart_client(&mut self) {
        self.seed += 1;
        self.client = Self::client(&self.installation, self.seed, self.now, self.wall());
        // The numbers begin anew: what the one before did is not this one's answer.
        self.dialled.clear();
        self.echoed.clear();
        self.drain(Node::Client);
    }

    /// The connector's does.
    pub fn restart_connector(&mut self) {
        self.seed += 1;
        self.connector = Self::connector(&self.installation, self.seed, self.now, self.wall());
        self.drain(Node::Connector);
    }

    /// The client is in another network: its packets have another address, and what comes to the old one is lost.
    pub fn roam(&mut self) {
        self.moves += 1;
        self.client.network_changed(self.now);
        self.drain(Node::Client);
    }

    fn client_address(&self) -> SocketAddr {
        let mut here = address(CLIENT_AT);
        here.set_port(here.port() + self.moves);
        here
    }

    pub fn dial(&mut self, to: &str) -> DialId {
        let dial = self.client.dial(self.now, &to.parse().expect("a target"));
        self.drain(Node::Client);
        dial
    }

    /// A connection that stands.
    pub fn connect(&mut self, to: &str) -> FlowId {
        let dial = self.dial(to);
        assert!(self.wait(MINUTE, |world| world.dialled.contains_key(&dial)), "no answer");
        self.dialled[&dial].clone().expect("connects")
    }

    /// How a dial ends.
    pub fn try_to(&mut self, to: &str) -> Result<FlowId, String> {
        let dial = self.dial(to);
        assert!(self.wait(MINUTE, |world| world.dialled.contains_key(&dial)), "no answer");
        self.dialled[&dial].clone()
    }

    pub fn say(&mut self, flow: FlowId, text: &[u8]) {
        let _ = self.client.write(self.now, flow, text);
        self.client.flush(self.now);
        self.drain(Node::Client);
    }

    /// Says something and waits for it to come back.
    pub fn echo(&mut self, flow: FlowId, most: Duration) -> bool {
        let before = self.echoed.get(&flow).copied().unwrap_or(0);
        self.say(flow, b"hello");
        self.wait(most, |world| world.echoed.get(&flow).copied().unwrap_or(0) > before)
    }

    /// Where the client is registered.
    pub fn client_at(&self) -> Vec<usize> {
        let up = self.client.agent().pops().filter(|pop| pop.phase == PopPhaseWord::Registered);
        up.filter_map(|pop| (0..self.pops.len()).find(|index| pop_id(*index) == pop.pop)).collect()
    }

    /// Where the connector is registered.
    pub fn connector_at(&self) -> Vec<usize> {
        let up = self.connector.agent().pops().filter(|pop| pop.phase == PopPhaseWord::Registered);
        up.filter_map(|pop| (0..self.pops.len()).find(|index| pop_id(*index) == pop.pop)).collect()
    }

    /// Which PoP carries the client's packets.
    pub fn relay(&self) -> Option<usize> {
        let link = self.client.links().first().cloned()?;
        let pop = link.way.and(link.pop)?;
        (0..self.pops.len()).find(|index| pop_id(*index) == pop)
    }

    /// Everybody registered and heard, the connector at as many PoPs as it wants.
    pub fn settle(&mut self) {
        let wanted = self.pops.len().min(2);
        let is_settled = |world: &Self| {
            !world.client_at().is_empty()
                && world.connector_at().len() >= wanted
                && world.connector.agent().freshness(world.now) == Freshness::Fresh
                && world.client.agent().freshness(world.now) == Freshness::Fresh
        };
        assert!(self.wait(MINUTE * 2, is_settled), "nobody settles");
    }

    pub fn pass(&mut self, time: Duration) {
        self.wait(time, |_| false);
    }

    /// Runs until `is_so`, or for so long; whether it became so.
    pub fn wait(&mut self, most: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        while !is_so(self) {
            let due = self.due.values().copied();
            let next = due.chain(self.wire.keys().next().map(|(at, _)| *at)).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return is_so(self);
            }
            self.now = self.now.max(next);
            self.step();
        }
        true
    }

    // ---- how it goes -----------------------------------------------------------------------------

    fn nodes(&self) -> Vec<Node> {
        (0..self.pops.len()).map(Node::Pop).chain([Node::Controller, Node::Connector, Node::Client]).collect()
    }

    fn step(&mut self) {
        let (now, wall) = (self.now, self.wall());
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= now
        {
            let (from, to, payload) = entry.remove();
            self.deliver(from, to, payload);
        }
        for node in self.nodes() {
            if self.due.get(&node).is_some_and(|at| *at > now) {
                continue;
            }
            match node {
                Node::Pop(index) => {
                    let pop = &mut self.pops[index];
                    pop.sessions.set_wall(now, wall);
                    pop.sessions.handle_timeout(now);
                    pop.relay.handle_timeout(now);
                }
                Node::Controller => {
                    self.controller.dialler.set_wall(wall);
                    self.controller.dialler.handle_timeout(now);
                    self.beacon();
                }
                Node::Connector => {
                    self.connector.set_wall(now, self.connector_clock.shows(wall));
                    self.connector.handle_timeout(now);
                }
                Node::Client => {
                    self.client.set_wall(now, self.client_clock.shows(wall));
                    self.client.handle_timeout(now);
                }
            }
            self.drain(node);
        }
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, mut payload: Vec<u8>) {
        let now = self.now;
        if let Some(index) = (0..self.pops.len()).find(|index| pop_address(*index) == to) {
            if self.pops[index].is_dark {
                return;
            }
            match classify(&payload) {
                DatagramKind::Quic => {
                    let _ = self.pops[index].sessions.handle_input(now, from, &payload);
                }
                DatagramKind::Relay => {
                    let handled = self.pops[index].relay.handle_input(now, from, &mut payload);
                    if let Handled::Forward(to) = handled {
                        self.post(Node::Pop(index), to, payload);
                    }
                }
                _ => {}
            }
            self.drain(Node::Pop(index));
        } else if to == address(CONNECTOR_AT) {
            let mut answers = Vec::new();
            self.connector.handle_datagrams(now, [(from, payload.as_slice())].into_iter(), &mut answers);
            for (to, payload) in answers {
                self.post(Node::Connector, to, payload);
            }
            self.drain(Node::Connector);
        } else if to == self.client_address() {
            self.client.handle_input(now, [(from, payload.as_slice())].into_iter());
            self.drain(Node::Client);
        } else if to == address(CONTROLLER_AT) && !self.controller.is_dead {
            self.controller.dialler.handle_input(now, from, &payload);
            self.drain(Node::Controller);
        }
    }

    /// Only ways by a PoP, and only UDP: what is measured here is the relay.
    fn post(&mut self, node: Node, to: SocketAddr, payload: Vec<u8>) {
        let from = match node {
            Node::Pop(index) if self.pops[index].is_dark => return,
            Node::Pop(index) => pop_address(index),
            Node::Controller => address(CONTROLLER_AT),
            Node::Connector => address(CONNECTOR_AT),
            Node::Client => self.client_address(),
        };
        let is_between_agents = matches!(node, Node::Client | Node::Connector)
            && [self.client_address(), address(CONNECTOR_AT)].contains(&to);
        // Knuth's constants (MMIX): a stream of the seed.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let is_lost = (self.random >> 33) % 1_000 < self.loss;
        if !is_between_agents && !is_lost {
            self.sent += 1;
            self.wire.insert((self.now + LATENCY, self.sent), (from, to, payload));
        }
    }

    fn drain(&mut self, node: Node) {
        let due = match node {
            Node::Pop(index) => self.drain_pop(index),
            Node::Controller => self.drain_controller(),
            Node::Connector => self.drain_connector(),
            Node::Client => self.drain_client(),
        };
        // The wall clock is looked at now and then, and no node is asked twice in one instant for nothing.
        let due = due.min(self.now + SECOND * 10).max(self.now + Duration::from_micros(10));
        self.due.insert(node, due);
    }

    fn drain_pop(&mut self, index: usize) -> Instant {
        let now = self.now;
        loop {
            let sessions = loop {
                match self.pops[index].sessions.poll_output(now) {
                    SessionsOutput::Transmit { to, payload } => self.post(Node::Pop(index), to, payload),
                    SessionsOutput::Relay(command) => self.pops[index].relay.handle_command(now, command),
                    SessionsOutput::Persist { id, .. } => {
                        self.pops[index].sessions.handle_written(now, id, Written::Durable);
                    }
                    SessionsOutput::RegisteredBy { .. } => {}
                    SessionsOutput::Timeout { at, .. } => break at,
                }
            };
            let mut has_ended = false;
            let relay = loop {
                match self.pops[index].relay.poll_output() {
                    RelayOutput::Transmit { to, frame } => {
                        let frame = frame.to_vec();
                        self.post(Node::Pop(index), to, frame);
                    }
                    RelayOutput::Proven { owner, address } => {
                        self.pops[index].sessions.handle_side_proven(owner, address);
                    }
                    RelayOutput::Ended(ended) => {
                        has_ended = true;
                        self.pops[index].sessions.handle_channel_ended(now, ended);
                    }
                    RelayOutput::Timeout { at, .. } => break at,
                }
            };
            if !has_ended {
                return relay.map_or(sessions, |at| at.min(sessions));
            }
        }
    }

    fn controller_dials(&mut self, index: usize) {
        let dialled = self.controller.dialler.dial(self.now, pop_id(index), pop_address(index));
        self.controller.sessions.insert(index, dialled.expect("room"));
        self.drain(Node::Controller);
    }

    fn beacon(&mut self) {
        if self.controller.is_dead || self.controller.next_beacon > self.now {
            return;
        }
        self.controller.next_beacon = self.now + SECOND;
        let message = FromSigner::from(PublishBeacon { beacon: self.installation.beacon(self.wall(), None) });
        for session in self.controller.sessions.values() {
            let _ = self.controller.dialler.send(*session, message.frame_type(), &message.encode_body());
        }
    }

    fn drain_controller(&mut self) -> Instant {
        if self.controller.is_dead {
            return self.now + HOUR;
        }
        loop {
            match self.controller.dialler.poll_output(self.now) {
                session::Output::Transmit { to, payload } => self.post(Node::Controller, to, payload),
                session::Output::Event(Event::Connected { id, .. }) => {
                    let hello = FromSigner::from(SignerHello { oldest: 1, newest: 1 });
                    let _ = self.controller.dialler.send(id, hello.frame_type(), &hello.encode_body());
                }
                session::Output::Event(Event::Frame { id, frame_type, body }) => {
                    if let Ok(Some(ToSigner::Forward(forward))) = ToSigner::decode_body(frame_type, &body) {
                        let sealed = self.answer(forward.sealed.as_slice());
                        let sealed = Bounded::new(sealed).expect("fits");
                        let reply: FromSigner =
                            wire::Reply { route: forward.route, seq: forward.seq, sealed }.into();
                        let _ = self.controller.dialler.send(id, reply.frame_type(), &reply.encode_body());
                    }
                }
                session::Output::Event(_) => {}
                session::Output::Timeout { at, .. } => return at.min(self.controller.next_beacon),
            }
        }
    }

    fn answer(&mut self, sealed: &[u8]) -> Vec<u8> {
        let installation = &self.installation;
        let wall = self.wall();
        let opened = control::open_request(&installation.control, &installation.bundle, wall, sealed)
            .expect("an agent's request opens");
        let reply: ControlReply = match &opened.request {
            ControlRequest::Anchor(anchor) => {
                wire::Anchored { beacon: installation.beacon(wall, Some(anchor.nonce)) }.into()
            }
            ControlRequest::Renew(_) => {
                let is_device = opened.agent.identity().role() == trust::Role::Device;
                let grant = is_device.then(|| {
                    self.controller.renewals += 1;
                    let key = SigningKey::from_seed(&[35; 32]);
                    Bounded::new(installation.grant(&key, wall).into_bytes()).expect("short")
                });
                wire::Renewed { grant, certificate: None }.into()
            }
            ControlRequest::GetSlice(_) => wire::SliceReply { slice: None }.into(),
            _ => wire::ControlRefused { reason: wire::Refusal::NoController, retry_after_ms: 0 }.into(),
        };
        opened.seal_reply(&reply).expect("seals")
    }

    fn drain_client(&mut self) -> Instant {
        let now = self.now;
        loop {
            match self.client.poll_output(now) {
                NodeOutput::Transmit { to, payload } => self.post(Node::Client, to, payload),
                NodeOutput::Resolve { pop, name } => {
                    self.client.handle_resolved(now, pop, name.parse().into_iter().collect());
                }
                NodeOutput::Event(NodeEvent::Dialled { dial, result }) => {
                    self.dialled.insert(dial, result.map_err(|fault| format!("{:?}", fault.reason)));
                }
                NodeOutput::Event(NodeEvent::Readable(flow)) => {
                    let mut buffer = [0; 4096];
                    while let Ok(Read::Bytes(count)) = self.client.read(now, flow, &mut buffer) {
                        *self.echoed.entry(flow).or_default() += count;
                    }
                    self.client.flush(now);
                }
                NodeOutput::Event(NodeEvent::Ended { flow, .. }) => self.ended.push(flow),
                NodeOutput::Event(_) | NodeOutput::Persist { .. } => {}
                // Nobody here is a machine with a network stack of its own.
                NodeOutput::Packet(_) => {}
                NodeOutput::Timeout(timeout) => return timeout.at,
            }
        }
    }

    /// The site: every dial succeeds, and the service says again what it is told.
    fn drain_connector(&mut self) -> Instant {
        let now = self.now;
        loop {
            match self.connector.poll_output(now) {
                ConnectorOutput::Transmit { to, payload } => self.post(Node::Connector, to, payload),
                ConnectorOutput::ResolvePop { pop, name } => {
                    self.connector.pop_resolved(now, pop, name.parse().into_iter().collect());
                }
                ConnectorOutput::Dial { flow, addresses } => {
                    self.site_dials += 1;
                    let first = addresses.first().copied();
                    self.connector.dialled(now, flow, first.ok_or(connector::DialFault::Unreachable));
                }
                ConnectorOutput::Readable(flow) | ConnectorOutput::Writable(flow) => self.serve(now, flow),
                ConnectorOutput::Ended { flow, .. } => {
                    self.unsent.remove(&flow);
                }
                ConnectorOutput::ReadBatch => self.connector.batch_read(now, None),
                ConnectorOutput::Resolve { .. }
                | ConnectorOutput::Datagrams(_)
                | ConnectorOutput::Persist { .. }
                | ConnectorOutput::Record { .. }
                | ConnectorOutput::ResolvePassage { .. }
                | ConnectorOutput::ToSite(_)
                | ConnectorOutput::ForgetBatch(_) => {}
                ConnectorOutput::Timeout { at, .. } => return at,
            }
        }
    }

    fn serve(&mut self, now: Instant, flow: FlowId) {
        let waiting = self.unsent.entry(flow).or_default();
        let mut buffer = [0; 4096];
        let core = self.connector.core();
        while let Read::Bytes(count) = core.read(now, flow, &mut buffer) {
            self.site_bytes += count;
            waiting.extend_from_slice(&buffer[..count]);
        }
        let written = core.write(now, flow, waiting);
        waiting.drain(..written);
    }
}
