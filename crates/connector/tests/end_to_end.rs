//! A real PoP and a real connector from their state directories over real sockets, a client made of the same cores
//! as the product's, a TCP service. No controller anywhere: nothing here may need one.

#![allow(clippy::disallowed_methods, reason = "sockets are real here, so is the clock")]

use agent::{AgentEvent, ClientAgent, Output as AgentOutput, RelayInput, RelayLinks, StoredState};
use connector::{Connector, ConnectorOptions, ConnectorStatus, FlowRecord, StrictState, Verdict, ask_status};
use flow::{CloseReason, Event as FlowEvent, FlowId, FlowLimits, Flows, LinkId, Read, Unreachable};
use net::{RecvBatch, SendBatch, UdpPort};
use policy::{
    Address, Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, ConnectorSlice, Mode, PopEntry,
    PortRange, Protocol, SliceResource,
};
use pop::{Pop, PopOptions};
use state::{About, StateDir, names};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use trust::{
    Audience, BundleKey, BundleStatement, CertificateRequest, Grant, GroupRef, Identity, KeyRole, OpenKey,
    Owner, PostureClass, Role, RootHash, RotationStatement, SealKey, SigningKey, Slice, SliceBody,
    SliceHeader, SliceVersion, TrustChain, UnixMs, issue_certificate, seal_open, sign_document, sign_open,
};
use tunnel::{PeerId, Tunnels, WireGuardPrivateKey, WireGuardPublicKey};
use wire::{
    Bounded, ConnectorId, ControllerId, DatagramKind, DeviceId, GroupId, InstallationId, OpenBody,
    OrganizationId, PolicyId, PopId, RELAY_HEADER_LEN, ResourceId, SiteId, UserId, classify,
};

#[path = "end_to_end/crowd.rs"]
mod crowd;
#[path = "end_to_end/datagrams.rs"]
mod datagrams;

const DAY: Duration = Duration::from_secs(86_400);
const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);
const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([2; 16]);
const CONNECTOR: ConnectorId = ConnectorId::from_bytes([3; 16]);
const POP: PopId = PopId::from_bytes([4; 16]);
const SITE: SiteId = SiteId::from_bytes([5; 16]);
const DEVICE: DeviceId = DeviceId::from_bytes([6; 16]);
const STAFF: GroupId = GroupId::from_bytes([7; 16]);
const RESOURCE: ResourceId = ResourceId::from_bytes([8; 16]);
const NAMES: ResourceId = ResourceId::from_bytes([9; 16]);
const LINK: LinkId = LinkId(1);

fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    UnixMs::from_millis(u64::try_from(since.as_millis()).expect("fits"))
}

/// The keys of an installation, and what they sign.
struct Installation {
    root: RootHash,
    chain: String,
    keys: BTreeMap<KeyRole, SigningKey>,
}

impl Installation {
    fn new() -> Self {
        let (root, rotation) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let keys: BTreeMap<KeyRole, SigningKey> = [
            KeyRole::DeviceIssuer,
            KeyRole::ConnectorIssuer,
            KeyRole::PopIssuer,
            KeyRole::Grant,
            KeyRole::Slice,
            KeyRole::Beacon,
        ]
        .into_iter()
        .zip(10_u8..)
        .map(|(role, seed)| (role, SigningKey::from_seed(&[seed; 32])))
        .collect();
        let wall = wall();
        let statement = RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: wall.minus(DAY),
            exp: wall.plus(DAY * 300),
        };
        let bundle = BundleStatement {
            installation: INSTALLATION,
            serial: 1,
            iat: wall,
            keys: keys
                .iter()
                .map(|(role, key)| BundleKey {
                    role: *role,
                    owner: ControllerId::from_bytes([9; 16]),
                    public: key.verifying_key().as_bytes().to_vec(),
                    nbf: wall.minus(DAY),
                    exp: wall.plus(DAY * 60),
                })
                .collect(),
        };
        let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("signs").to_text();
        Self { root: RootHash::of(&root.verifying_key()), chain, keys }
    }

    fn certificate(&self, identity: Identity, key: &SigningKey) -> Vec<u8> {
        let issuer = match identity.role() {
            Role::Device => KeyRole::DeviceIssuer,
            Role::Connector => KeyRole::ConnectorIssuer,
            Role::Pop => KeyRole::PopIssuer,
            Role::Controller => KeyRole::ControllerIssuer,
        };
        let request = CertificateRequest {
            identity,
            public_key: key.verifying_key(),
            generation: 1,
            not_before: wall().minus(Duration::from_secs(600)),
            not_after: wall().plus(DAY * 20),
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
            iat: wall(),
            exp: wall().plus(DAY),
        };
        sign_document(&self.keys[&KeyRole::Slice], &Slice { header, body, ext: None }).expect("signs")
    }

    /// What enrolment leaves behind.
    fn state(&self, path: &Path, identity: Identity) -> StateDir {
        let about = About::new(INSTALLATION, identity.role(), self.root);
        let state = StateDir::create(path, &about).expect("a state directory");
        let key = SigningKey::generate();
        state.write_secret(names::IDENTITY_KEY, key.expose_seed()).expect("written");
        state.write(names::CERTIFICATE, &self.certificate(identity, &key)).expect("written");
        state.write(names::CHAIN, self.chain.as_bytes()).expect("written");
        state
    }
}

fn pops(address: SocketAddr) -> Vec<PopEntry> {
    vec![PopEntry { id: POP, address: address.to_string(), region: "r".into(), zone: "z".into() }]
}

fn allow() -> Vec<Allow> {
    vec![Allow {
        group: STAFF,
        group_name: "staff".into(),
        policy: PolicyId::from_bytes([1; 16]),
        policy_name: "web for staff".into(),
    }]
}

/// A task that runs until it is told to stop.
struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.expect("no panic");
    }
}

/// Everything but the client.
struct Lab {
    directory: tempfile::TempDir,
    installation: Installation,
    pop_address: SocketAddr,
    _pop: Running,
    wireguard_key: WireGuardPublicKey,
    seal_key: SealKey,
    target: SocketAddr,
    /// The same host's UDP service.
    udp: SocketAddr,
    /// And one that gives every byte back by TCP.
    echo: SocketAddr,
}

impl Lab {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let installation = Installation::new();
        drop(installation.state(&directory.path().join("pop"), Identity::pop(INSTALLATION, POP)));
        let any = "127.0.0.1:0".parse().expect("address");
        let pop = Pop::open(PopOptions::new(directory.path().join("pop"), any)).expect("a PoP");
        let pop_address = pop.local_addr();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            Box::pin(pop.run(async { drop(stopped.await) })).await.expect("the PoP runs");
        });
        let target = service().await;
        let (udp, echo) = (datagrams::service().await, crowd::service().await);

        let identity = Identity::connector(INSTALLATION, ORGANIZATION, CONNECTOR);
        let state = installation.state(&directory.path().join("connector"), identity);
        let (wireguard, open_key) = (WireGuardPrivateKey::from_bytes([0x21; 32]), OpenKey::generate());
        state.write_secret(names::WIREGUARD_KEY, wireguard.expose()).expect("written");
        state.write_secret(names::SEAL_KEY, open_key.expose_private()).expect("written");
        let body = ConnectorSlice {
            site: SITE,
            site_name: "lab".into(),
            prefixes: vec!["10.0.0.0/8".parse().expect("prefix")],
            resources: vec![
                SliceResource {
                    id: RESOURCE,
                    name: "service".into(),
                    // Loopback, because the resource names it literally.
                    address: Address::Ip(target.ip()),
                    ports: vec![
                        PortRange::new(target.port(), target.port()).expect("a port"),
                        PortRange::of(Protocol::Udp, udp.port(), udp.port()).expect("a port"),
                        PortRange::new(echo.port(), echo.port()).expect("a port"),
                        PortRange::ICMP,
                    ],
                    mode: Mode::Standard,
                    allow: allow(),
                },
                SliceResource {
                    id: NAMES,
                    name: "names".into(),
                    address: "*.lab.invalid".parse().expect("a wildcard"),
                    ports: vec!["80".parse().expect("a port")],
                    mode: Mode::Standard,
                    allow: allow(),
                },
            ],
            pops: pops(pop_address),
            regions: vec![],
        };
        let slice = installation.slice(Audience::Connector(CONNECTOR), body);
        state.write_generation(names::SLICE, slice.as_bytes()).expect("written");
        Self {
            wireguard_key: wireguard.public_key(),
            seal_key: open_key.seal_key(),
            directory,
            installation,
            pop_address,
            _pop: Running { stop, task },
            target,
            udp,
            echo,
        }
    }

    fn connector(&self) -> Running {
        let connector = Connector::open(ConnectorOptions::new(self.directory.path().join("connector")))
            .expect("a connector");
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            connector.run(async { drop(stopped.await) }).await.expect("the connector runs");
        });
        Running { stop, task }
    }

    async fn status(&self) -> Option<ConnectorStatus> {
        ask_status(&self.directory.path().join("connector")).await.ok()
    }

    async fn until_ready(&self) -> ConnectorStatus {
        let wait = async {
            loop {
                match self.status().await {
                    Some(status) if status.ready => return status,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(15), wait).await.expect("ready in time")
    }

    async fn until_no_flows(&self) {
        let wait = async {
            while self.status().await.is_none_or(|status| status.access.flows > 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(15), wait).await.expect("flows end");
    }

    fn records(&self) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        let directory = self.directory.path().join("connector").join("flows");
        for entry in std::fs::read_dir(directory).expect("a spool") {
            let text = std::fs::read_to_string(entry.expect("readable").path()).expect("text");
            records
                .extend(text.lines().map(|line| serde_json::from_str::<FlowRecord>(line).expect("a record")));
        }
        records
    }

    fn client(&self, groups: Vec<GroupRef>) -> Client {
        self.client_of(DEVICE, groups, FlowLimits::DEFAULT)
    }

    fn client_of(&self, device: DeviceId, groups: Vec<GroupRef>, limits: FlowLimits) -> Client {
        let key = SigningKey::generate();
        let identity = Identity::device(INSTALLATION, ORGANIZATION, device);
        let wall = wall();
        let grant = Grant {
            installation: INSTALLATION,
            organization: ORGANIZATION,
            device,
            device_generation: 1,
            owner: Owner::User(UserId::from_bytes([1; 16])),
            owner_generation: 1,
            device_name: "laptop".into(),
            owner_name: "ada".into(),
            groups,
            posture: PostureClass::Unknown,
            key: key.verifying_key(),
            iat: wall,
            nbf: wall,
            exp: wall.plus(DAY),
            renew_after_ms: 14_400_000,
            ext: None,
        };
        let body = ClientSlice {
            organization_name: "org".into(),
            resources: vec![ClientResource {
                id: RESOURCE,
                name: "service".into(),
                alias: None,
                address: Address::Ip(self.target.ip()),
                ports: vec![PortRange::new(self.target.port(), self.target.port()).expect("a port")],
                mode: Mode::Standard,
                site: SITE,
                allow: allow(),
            }],
            sites: vec![ClientSite {
                id: SITE,
                name: "lab".into(),
                connectors: vec![ClientConnector {
                    id: CONNECTOR,
                    name: "c".into(),
                    wireguard_key: SealKey::from_bytes(*self.wireguard_key.as_bytes()),
                    seal_key: self.seal_key,
                }],
                regions: vec![],
            }],
            pops: pops(self.pop_address),
        };
        let stored = StoredState {
            root: self.installation.root,
            chain: self.installation.chain.clone(),
            certificate: self.installation.certificate(identity, &key),
            identity_key: key.clone(),
            grant: Some(sign_document(&self.installation.keys[&KeyRole::Grant], &grant).expect("signs")),
            slice: Some(self.installation.slice(Audience::Device(device), body)),
            revocations: None,
            time_floor: None,
            reconnect_window: Duration::ZERO,
        };
        let now = Instant::now();
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&wall.as_millis().to_be_bytes());
        seed[8..24].copy_from_slice(device.as_bytes());
        Client {
            agent: ClientAgent::new(stored, now, wall, seed).expect("an agent"),
            key,
            port: UdpPort::bind("127.0.0.1:0".parse().expect("address")).expect("a port"),
            links: RelayLinks::new(),
            tunnels: Tunnels::new(&WireGuardPrivateKey::from_bytes(seed), 1, now),
            flows: Flows::new(limits, 2, now),
            incoming: RecvBatch::for_agent(),
            outgoing: SendBatch::new(),
            events: Vec::new(),
            flow_events: Vec::new(),
            peer: None,
            inner: None,
            next_port: 40_000,
            packets: Vec::new(),
            told: Vec::new(),
        }
    }
}

/// Answers each connection: reads until the end, then sends as many bytes as the decimal number it read says, or
/// what it read when it was none.
async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                let mut asked = String::new();
                stream.read_to_string(&mut asked).await.expect("reads");
                let answer = match asked.parse::<usize>() {
                    Ok(length) => pattern(length),
                    Err(_) => asked.into_bytes(),
                };
                stream.write_all(&answer).await.expect("writes");
            });
        }
    });
    address
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from((n * 7 + n / 255) % 256).expect("a byte")).collect()
}

struct Client {
    agent: ClientAgent,
    key: SigningKey,
    port: UdpPort,
    links: RelayLinks,
    tunnels: Tunnels,
    flows: Flows,
    incoming: RecvBatch,
    outgoing: SendBatch,
    events: Vec<AgentEvent>,
    flow_events: Vec<(FlowId, FlowEvent)>,
    peer: Option<PeerId>,
    inner: Option<SocketAddr>,
    next_port: u16,
    /// What a kernel would have been given.
    packets: Vec<Vec<u8>>,
    told: Vec<tunnel::BindMessage>,
}

impl Client {
    /// Lets the cores do what they want; when they want to be called again.
    fn pump(&mut self) -> Instant {
        let now = Instant::now();
        self.agent.handle_timeout(now);
        self.tunnels.handle_timeout(now);
        self.flows.handle_timeout(now);
        let mut wake = now + Duration::from_millis(200);
        loop {
            let mut moved = false;
            loop {
                match self.agent.poll_output(now) {
                    AgentOutput::Transmit { to, payload } => self.outgoing.push(to, &payload),
                    AgentOutput::Event(event) => self.events.push(event),
                    AgentOutput::Persist { .. } => {}
                    AgentOutput::Resolve { name, .. } => panic!("{name} is an address"),
                    AgentOutput::Timeout { at, .. } => {
                        wake = wake.min(at);
                        break;
                    }
                }
            }
            loop {
                match self.tunnels.poll_output() {
                    tunnel::Output::Transmit(transmit) => {
                        let to = match transmit.path {
                            tunnel::Path::Relay { channel, .. } => self.links.pop_of(channel),
                            tunnel::Path::Direct { remote } => Some(remote),
                            other => panic!("an unknown kind of path: {other:?}"),
                        };
                        let to = to.expect("an open channel");
                        self.outgoing.push(to, &transmit.bytes);
                    }
                    tunnel::Output::Inner { packet, .. } => {
                        let _ = self.flows.handle_input(now, LINK, &packet);
                        self.packets.push(packet);
                        moved = true;
                    }
                    tunnel::Output::Bind { message, .. } => self.told.push(message),
                    tunnel::Output::Event(_) => {}
                    tunnel::Output::Timeout(at) => {
                        wake = at.map_or(wake, |at| wake.min(at.at));
                        break;
                    }
                }
            }
            loop {
                match self.flows.poll_output() {
                    flow::Output::Packet { bytes, .. } => {
                        let _ = self.tunnels.seal(now, self.peer.expect("open"), &bytes);
                        moved = true;
                    }
                    flow::Output::Event { flow, event, .. } => self.flow_events.push((flow, event)),
                    flow::Output::Timeout(at) => {
                        wake = at.map_or(wake, |at| wake.min(at.at));
                        break;
                    }
                }
            }
            if !moved {
                return wake;
            }
        }
    }

    async fn turn(&mut self) {
        self.turn_before(None).await;
    }

    /// One turn that is over at a moment, if one is given.
    async fn turn_before(&mut self, end: Option<Instant>) {
        let wake = self.pump();
        let wake = end.map_or(wake, |end| wake.min(end));
        let _ = self.port.send_batch(&mut self.outgoing).await;
        tokio::select! {
            () = tokio::time::sleep_until(wake.into()) => {}
            received = self.port.recv_batch(&mut self.incoming) => {
                received.expect("the socket works");
                let now = Instant::now();
                for datagram in self.incoming.iter() {
                    match classify(datagram.payload) {
                        DatagramKind::Quic => self.agent.handle_input(now, datagram.from, datagram.payload),
                        DatagramKind::Relay => match self.links.handle_input(datagram.from, datagram.payload) {
                            Ok(RelayInput::Data { channel, packet }) => {
                                self.tunnels.handle_input(now, tunnel::Path::relay(POP, channel), packet);
                            }
                            Ok(RelayInput::Answer { to, payload, .. }) => self.outgoing.push(to, &payload),
                            Err(_) => {}
                        },
                        DatagramKind::WireGuard => {
                            self.tunnels.handle_direct(now, datagram.from, &[datagram.payload]);
                        }
                        DatagramKind::Stun | DatagramKind::Foreign => panic!("nobody's datagram"),
                    }
                }
            }
        }
    }

    async fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "no {what}: {:?} {:?}", self.events, self.flow_events);
            self.turn().await;
        }
    }

    /// Until the connector has no flow: a last acknowledgement may be lost, and is asked for again.
    async fn until_no_flows(&mut self, lab: &Lab) {
        tokio::select! {
            () = lab.until_no_flows() => {}
            () = async { loop { self.turn().await } } => {}
        }
    }

    /// Registers at the PoP and is introduced to the connector.
    async fn enter(&mut self, lab: &Lab) {
        self.until("registration", |client| {
            client.events.iter().any(|event| matches!(event, AgentEvent::Registered { .. })).then_some(())
        })
        .await;
        let now = Instant::now();
        let (peer, initiation) = self.tunnels.connect(now, lab.wireguard_key).expect("room");
        let client_key = *self.tunnels.public_key().as_bytes();
        let grant = self.agent.grant_text().expect("a grant").as_bytes().to_vec();
        let body = OpenBody {
            grant: Bounded::new(grant).expect("short"),
            client_key,
            signature: sign_open(&self.key, CONNECTOR, &client_key, &initiation),
        };
        let body = encode(&body);
        let sealed = seal_open(&lab.seal_key, CONNECTOR, &body).expect("seals");
        let seq = self.agent.open(now, SITE, CONNECTOR, sealed, initiation.to_vec()).expect("a PoP");
        let (session, relay, opened) = self
            .until("introduction", |client| {
                let at = client.events.iter().position(
                    |event| matches!(event, AgentEvent::Opened { opened, .. } if opened.seq == seq),
                )?;
                match client.events.remove(at) {
                    AgentEvent::Opened { session, relay, opened } => Some((session, relay, opened)),
                    _ => None,
                }
            })
            .await;
        assert!(self.links.insert(opened.channel, session, relay, opened.secret.clone()));
        self.tunnels
            .accept_response(
                Instant::now(),
                peer,
                opened.response.as_slice(),
                tunnel::Path::relay(POP, opened.channel),
            )
            .expect("a true response");
        self.peer = Some(peer);
        self.inner = Some(SocketAddr::new(opened.inner_v4.into(), 0));
    }

    fn dial(&mut self, to: SocketAddr) -> FlowId {
        let mut src = self.inner.expect("inside");
        self.next_port += 1;
        src.set_port(self.next_port);
        self.flows.dial(Instant::now(), LINK, src, to).expect("room")
    }

    /// Sends a request, says that it is all, and reads the answer.
    async fn ask(&mut self, to: SocketAddr, request: &[u8]) -> Vec<u8> {
        let flow = self.dial(to);
        self.until("connection", |client| {
            client.flow_events.contains(&(flow, FlowEvent::Established)).then_some(())
        })
        .await;
        let now = Instant::now();
        assert_eq!(self.flows.write(now, flow, request), Ok(request.len()));
        self.flows.shutdown_write(now, flow).expect("open");
        let mut answer = Vec::new();
        let mut buffer = vec![0; 65_536];
        self.until("answer", |client| {
            loop {
                match client.flows.read(Instant::now(), flow, &mut buffer).expect("open") {
                    Read::Bytes(read) => answer.extend_from_slice(&buffer[..read]),
                    Read::Empty => return None,
                    Read::End => return Some(()),
                }
            }
        })
        .await;
        let closed = (flow, FlowEvent::Closed(CloseReason::Finished));
        self.until("end", |client| client.flow_events.contains(&closed).then_some(())).await;
        // The last acknowledgement.
        let _ = self.port.send_batch(&mut self.outgoing).await;
        answer
    }
}

fn encode(body: &OpenBody) -> Vec<u8> {
    minicbor::to_vec(body).expect("encodes")
}

fn staff() -> Vec<GroupRef> {
    vec![GroupRef { id: STAFF, generation: 1 }]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_is_reached_by_policy_without_any_controller_and_again_after_a_restart() {
    let lab = Lab::new().await;
    let connector = lab.connector();
    lab.until_ready().await;
    let mut client = lab.client(staff());
    client.enter(&lab).await;
    assert_eq!(client.ask(lab.target, b"hello").await, b"hello");
    let started = Instant::now();
    let answer = client.ask(lab.target, b"20000000").await;
    println!("20 MB over the relay in {:?}, unoptimized", started.elapsed());
    assert!(answer == pattern(20_000_000));
    let status = lab.status().await.expect("status");
    assert_eq!((status.access.sessions, status.access.introductions_accepted), (1, 1));
    assert_eq!(status.control_plane, "isolated");
    // No controller anywhere: what is strict takes nobody in, and says until when what runs goes on.
    assert_eq!(status.strict, StrictState::NoNewFlows);
    assert!(status.strict_closes_in_ms.is_some_and(|ms| (800_000..=900_000).contains(&ms)));
    assert!(status.resources.iter().all(|resource| !resource.closed_by_isolation), "all are standard");
    assert!(!status.resources.is_empty());
    assert!(status.access_until > status.now && status.access_until <= status.certificate_until);
    client.until_no_flows(&lab).await;
    connector.stop().await;

    // The same state directory, a new process of the client.
    let connector = lab.connector();
    lab.until_ready().await;
    let mut client = lab.client(staff());
    client.enter(&lab).await;
    assert_eq!(client.ask(lab.target, b"once more").await, b"once more");
    client.until_no_flows(&lab).await;
    connector.stop().await;
    let records = lab.records();
    let carried: Vec<&FlowRecord> =
        records.iter().filter(|record| record.verdict == Verdict::Allowed).collect();
    assert_eq!(carried.len(), 3, "{records:?}");
    assert!(
        carried.iter().any(|record| record.bytes_down == 20_000_000 && record.target == Some(lab.target))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_without_the_group_is_refused_and_the_refusal_is_in_the_flow_log() {
    let lab = Lab::new().await;
    let connector = lab.connector();
    lab.until_ready().await;
    let mut client = lab.client(vec![]);
    client.enter(&lab).await;
    let flow = client.dial(lab.target);
    let ended = client
        .until("refusal", |client| {
            client.flow_events.iter().find_map(|(of, event)| match event {
                FlowEvent::Closed(reason) if *of == flow => Some(*reason),
                _ => None,
            })
        })
        .await;
    assert_eq!(ended, CloseReason::Unreachable(Unreachable::Prohibited));
    connector.stop().await;
    let records = lab.records();
    assert_eq!(
        (records.len(), records[0].verdict, records[0].reason.as_str()),
        (1, Verdict::Denied, "no_policy")
    );
    assert_eq!((records[0].resource, records[0].device), (Some(RESOURCE), DEVICE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connector_says_what_is_wrong_with_its_state_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let empty =
        Connector::open(ConnectorOptions::new(directory.path().join("none"))).expect_err("nothing there");
    assert!(empty.to_string().contains("tidegate connector --join"), "{empty}");
    let lab = Lab::new().await;
    let other =
        Connector::open(ConnectorOptions::new(lab.directory.path().join("pop"))).expect_err("a PoP's");
    assert!(other.to_string().contains("not of a connector"), "{other}");
    let connector = lab.connector();
    let twice =
        Connector::open(ConnectorOptions::new(lab.directory.path().join("connector"))).expect_err("in use");
    assert!(twice.to_string().contains("another Tidegate process"), "{twice}");
    connector.stop().await;
}

#[test]
fn a_relay_frame_is_a_wireguard_packet_and_twelve_bytes() {
    // The tunnel's datagrams and the relay's header agree about where the packet begins.
    assert_eq!(tunnel::Path::relay(POP, wire::ChannelId::from_random(1)).headroom(), RELAY_HEADER_LEN);
}
