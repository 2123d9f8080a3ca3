//! Whole nodes in the network: the production client, connector and PoP cores with real TLS, QUIC and ciphers. No
//! controller anywhere: their documents are made here. What ciphers draw from the operating system is not in a seed,
//! so a run of this kind is judged by what comes of it, not by a trace.

mod installation;

use crate::fast::{Address, is_forbidden};
use crate::world::{HostId, LinkRules, Network, Time};
use agent::ConnectorAgent;
use client::Target;
use client::core::{ClientNode, DialId, NodeEvent, NodeOutput, NodeParts};
use connector::{ConnectorCore, ConnectorNode, ConnectorOutput, ConnectorParts};
use flow::{FlowId, FlowLimits, Read};
use installation::{Installation, POP_AT, TARGET, WALL};
use pop::core::Seed;
use pop::core::relay::{Handled, Relay, RelayLimits, RelayOutput};
use pop::core::sessions::{Sessions, SessionsOutput, Written};
use session::AcceptorLimits;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use trust::{OpenKey, UnixMs};
use tunnel::{LocalAddress, Path, WireGuardPrivateKey};
use wire::{DatagramKind, RelayKind, classify};

/// Something that a node sent, for who reads what went wrong.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// When.
    pub at: Time,
    /// Which node.
    pub by: &'static str,
    /// Where to.
    pub to: SocketAddr,
    /// What it is.
    pub kind: DatagramKind,
    /// How long it is.
    pub length: usize,
    /// Its first byte, which says more about some kinds.
    pub first: u8,
}

/// As many as are kept: an hour asleep is short, and a minute of a download has 5,000.
const MAX_DATAGRAMS: usize = 100_000;

struct PopNode {
    sessions: Sessions,
    relay: Relay,
}

/// One PoP, one connector whose site has one service that answers what it is told, and one client.
pub struct Stack {
    /// The network.
    pub net: Network,
    /// Bytes that came back to the client.
    pub echoed: Vec<u8>,
    /// The first address where nothing may go that something was sent to.
    pub forbidden: Option<SocketAddr>,
    /// What was sent, the first of it.
    pub sent: Vec<Datagram>,
    /// Packets of the tunnel that the PoP sent to who steals.
    pub stolen: usize,
    thief: Option<HostId>,
    installation: Installation,
    base: Instant,
    now: Time,
    seed: u64,
    pop: PopNode,
    client: ClientNode,
    connector: ConnectorNode,
    hosts: [HostId; 3],
    due: [Time; 3],
    /// The client's machine does.
    sleeps: bool,
    flow: Option<FlowId>,
    faults: Vec<String>,
    unsent: BTreeMap<FlowId, Vec<u8>>,
    /// When the service says something by itself again, while it does.
    pours_at: Option<Time>,
    /// When something last came to the client's program, and the longest time between two arrivals.
    came_at: Time,
    silence: Time,
}

/// How often the service says something by itself while it pours, and how much.
const POUR_EVERY: Time = Time::from_millis(50);
const POUR: [u8; 512] = [0; 512];

const POP_HOST: usize = 0;
const CONNECTOR_HOST: usize = 1;
const CLIENT_HOST: usize = 2;

fn seed_of(seed: u64, byte: u8) -> [u8; 32] {
    let mut bytes = [byte; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes
}

fn pop_node(installation: &Installation, seed: u64, now: Instant, wall: UnixMs) -> PopNode {
    let limits = RelayLimits::default();
    let seed = Seed::from_random(seed_of(seed, 3));
    let acceptor = AcceptorLimits::default();
    let sessions = Sessions::new(installation.pop(), acceptor, limits.channels, now, wall, &seed)
        .expect("good material");
    PopNode { sessions, relay: Relay::new(limits, now, &seed) }
}

fn bytes_of(key: &OpenKey) -> [u8; 32] {
    key.expose_private().try_into().expect("an X25519 key has 32 bytes")
}

fn locals(addresses: &[IpAddr]) -> Vec<LocalAddress> {
    addresses.iter().map(|ip| LocalAddress { ip: *ip, prefix: if ip.is_ipv4() { 24 } else { 64 } }).collect()
}

impl Stack {
    /// Nodes at these places of a network, started in the same moment.
    #[must_use]
    pub fn new(seed: u64, mut net: Network, connector_at: &Address, client_at: &Address) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences to it are used")]
        let base = Instant::now();
        let installation = Installation::new();
        let pop_at: SocketAddr = POP_AT.parse().expect("an address");
        let link = LinkRules::of_delay(Time::from_millis(2));
        let pop_host = net.add_host(Network::INTERNET, vec![pop_at.ip()], pop_at.port(), link);
        net.serve_streams(pop_host);
        let mut host = |at: &Address, port| net.add_host(at.realm, at.addresses.clone(), port, at.link);
        let hosts = [pop_host, host(connector_at, 41_000), host(client_at, 42_000)];
        let agent = ConnectorAgent::new(installation.connector(), base, WALL, seed_of(seed, 4))
            .expect("good material");
        let parts = ConnectorParts {
            site: None,
            identity: agent.identity(),
            open_key: OpenKey::from_private(&bytes_of(&installation.seal)).expect("its own key"),
            wireguard_key: WireGuardPrivateKey::from_bytes(bytes_of(&installation.wireguard)),
            own_listeners: Vec::new(),
            limits: FlowLimits::DEFAULT,
        };
        let core = ConnectorCore::new(parts, seed, base, WALL).expect("a connector");
        let mut connector = ConnectorNode::new(agent, core, base);
        connector.set_local(base, 41_000, locals(&connector_at.addresses));
        let parts = NodeParts {
            state: installation.client(),
            wireguard_key: WireGuardPrivateKey::from_bytes(seed_of(seed, 5)),
            seed: seed_of(seed, 6),
        };
        let mut client = ClientNode::new(parts, base, WALL).expect("good material");
        client.set_local(base, 42_000, locals(&client_at.addresses));
        let pop = pop_node(&installation, seed, base, WALL);
        let mut stack = Self {
            net,
            echoed: Vec::new(),
            forbidden: None,
            sent: Vec::new(),
            stolen: 0,
            thief: None,
            installation,
            base,
            now: Time::ZERO,
            seed,
            pop,
            client,
            connector,
            hosts,
            due: [Time::ZERO; 3],
            sleeps: false,
            flow: None,
            faults: Vec::new(),
            unsent: BTreeMap::new(),
            pours_at: None,
            came_at: Time::ZERO,
            silence: Time::ZERO,
        };
        (0..3).for_each(|node| stack.drain(node));
        stack
    }

    fn at(&self) -> Instant {
        self.base + self.now
    }

    /// What time it is.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Begins a connection to the service.
    pub fn dial(&mut self) -> DialId {
        let target: Target = TARGET.parse().expect("a target");
        let dial = self.client.dial(self.at(), &target);
        self.drain(CLIENT_HOST);
        dial
    }

    /// Whether the connection stands.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.flow.is_some()
    }

    /// What went wrong on the way: dials refused, flows cut.
    #[must_use]
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    /// How the nodes stand to the PoP and to each other, for who reads what went wrong.
    #[must_use]
    pub fn describe(&self) -> String {
        let client: Vec<&str> = self.client.agent().pops().map(|pop| pop.phase.label()).collect();
        let connector: Vec<&str> = self.connector.agent().pops().map(|pop| pop.phase.label()).collect();
        let status = self.pop.sessions.status();
        let links = self.client.links();
        let link = links.first().map(|link| (link.way, link.refusal));
        format!(
            "client {client:?}, connector {connector:?}, PoP {} sessions and {} channels, link {link:?}",
            status.sessions, status.channels
        )
    }

    /// Says something to the service.
    pub fn say(&mut self, data: &[u8]) -> usize {
        let Some(flow) = self.flow else { return 0 };
        let now = self.at();
        let written = self.client.write(now, flow, data).unwrap_or(0);
        self.client.flush(now);
        self.drain(CLIENT_HOST);
        written
    }

    /// The service says something all the time from now on: a download.
    pub fn pour(&mut self) {
        self.pours_at = Some(self.now);
        self.watch_silence();
    }

    /// And no more.
    pub fn stop_pouring(&mut self) {
        self.pours_at = None;
    }

    /// The longest silence is counted from now.
    pub fn watch_silence(&mut self) {
        (self.came_at, self.silence) = (self.now, Time::ZERO);
    }

    /// The longest time in which nothing came to the client's program, up to now.
    #[must_use]
    pub fn silence(&self) -> Time {
        self.silence.max(self.now.saturating_sub(self.came_at))
    }

    /// By which way the client's packets go.
    #[must_use]
    pub fn way(&self) -> Option<Path> {
        self.client.links().first().and_then(|link| link.way)
    }

    /// From now on somebody on the client's way sends all that it says to the PoP from an address of his own too, as
    /// much later as `link` takes, and hands what comes back to the client as if it came from the PoP.
    pub fn let_steal(&mut self, link: LinkRules) {
        let at = IpAddr::from([198, 51, 100, 250]);
        self.thief = Some(self.net.add_host(Network::INTERNET, vec![at], 6_666, link));
    }

    /// How many sides of channels the PoP's relay has moved to another address.
    #[must_use]
    pub fn relay_moves(&self) -> u64 {
        self.pop.relay.counters().moves
    }

    /// The client is at another place.
    pub fn roam(&mut self, to: &Address) {
        self.carry(to);
        self.notice(to);
    }

    /// The client is at another place, and does not know it yet.
    pub fn carry(&mut self, to: &Address) {
        self.net.attach(self.hosts[CLIENT_HOST], to.realm, to.addresses.clone());
        *self.net.link_mut(self.hosts[CLIENT_HOST]) = to.link;
    }

    /// The client looks at its interfaces, and finds that it is there.
    pub fn notice(&mut self, to: &Address) {
        let now = self.at();
        self.client.set_local(now, 42_000, locals(&to.addresses));
        self.client.network_changed(now);
        self.drain(CLIENT_HOST);
    }

    /// The PoP's process ends and starts again.
    pub fn restart_pop(&mut self) {
        self.net.end_streams();
        self.seed += 1;
        self.pop = pop_node(&self.installation, self.seed, self.at(), WALL.plus(self.now));
        self.drain(POP_HOST);
    }

    /// The client's machine sleeps for so long, and wakes up in the same network.
    pub fn sleep_client(&mut self, time: Time) {
        self.net.set_up(self.hosts[CLIENT_HOST], false);
        self.sleeps = true;
        self.wait(time, |_| false);
        self.sleeps = false;
        self.net.set_up(self.hosts[CLIENT_HOST], true);
        self.due[CLIENT_HOST] = self.now;
    }

    /// Whether the client's session goes by TCP 443.
    #[must_use]
    pub fn is_by_stream(&self) -> bool {
        self.net.has_opened(self.hosts[CLIENT_HOST])
    }

    /// Runs until `is_so`, or for so long; whether it became so.
    pub fn wait(&mut self, most: Time, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        while !is_so(self) {
            let due = self.due.iter().copied().enumerate();
            let due = due.filter(|(node, _)| !(self.sleeps && *node == CLIENT_HOST)).map(|(_, at)| at);
            let next = due.chain(self.net.next_at()).chain(self.pours_at).min().unwrap_or(Time::MAX);
            if next > end {
                self.now = end;
                return is_so(self);
            }
            self.now = self.now.max(next);
            self.step();
        }
        true
    }

    fn step(&mut self) {
        let now = self.at();
        let wall = WALL.plus(self.now);
        while let Some(arrival) = self.net.poll(self.now) {
            let mut payload = arrival.payload;
            let from = arrival.from;
            if arrival.host == self.hosts[POP_HOST] {
                match classify(&payload) {
                    DatagramKind::Quic => {
                        self.pop.sessions.handle_input(now, from, &payload);
                    }
                    DatagramKind::Relay => {
                        if let Handled::Forward(to) = self.pop.relay.handle_input(now, from, &mut payload) {
                            self.transmit(POP_HOST, to, payload);
                        }
                    }
                    _ => {}
                }
                self.drain(POP_HOST);
            } else if arrival.host == self.hosts[CONNECTOR_HOST] {
                let mut answers = Vec::new();
                self.connector.handle_datagrams(now, [(from, payload.as_slice())].into_iter(), &mut answers);
                for (to, payload) in answers {
                    self.transmit(CONNECTOR_HOST, to, payload);
                }
                self.drain(CONNECTOR_HOST);
            } else {
                let is_stolen = self.thief == Some(arrival.host);
                let is_data =
                    classify(&payload) == DatagramKind::Relay && payload[0] == RelayKind::Data as u8;
                self.stolen += usize::from(is_stolen && is_data);
                self.client.handle_input(now, [(from, payload.as_slice())].into_iter());
                self.drain(CLIENT_HOST);
            }
        }
        if self.pours_at.is_some_and(|at| at <= self.now) {
            self.pours_at = Some(self.now + POUR_EVERY);
            for flow in self.unsent.keys().copied().collect::<Vec<_>>() {
                // What does not fit is not waited for: the next time there is more.
                self.connector.core().write(now, flow, &POUR);
            }
            self.drain(CONNECTOR_HOST);
        }
        for node in 0..3 {
            if self.due[node] > self.now || (self.sleeps && node == CLIENT_HOST) {
                continue;
            }
            match node {
                POP_HOST => {
                    self.pop.sessions.set_wall(now, wall);
                    self.pop.sessions.handle_timeout(now);
                    self.pop.relay.handle_timeout(now);
                }
                CONNECTOR_HOST => {
                    self.connector.set_wall(now, wall);
                    self.connector.handle_timeout(now);
                }
                _ => {
                    self.client.set_wall(now, wall);
                    self.client.handle_timeout(now);
                }
            }
            self.drain(node);
        }
    }

    fn transmit(&mut self, node: usize, to: SocketAddr, payload: Vec<u8>) {
        if is_forbidden(to) {
            self.forbidden.get_or_insert(to);
        }
        if self.sent.len() < MAX_DATAGRAMS {
            let by = ["pop", "connector", "client"][node];
            let (kind, length) = (classify(&payload), payload.len());
            let first = payload.first().copied().unwrap_or_default();
            self.sent.push(Datagram { at: self.now, by, to, kind, length, first });
        }
        if let Some(thief) = self.thief
            && (node, to) == (CLIENT_HOST, POP_AT.parse().expect("an address"))
        {
            self.net.send(self.now, thief, to, payload.clone());
        }
        self.net.send(self.now, self.hosts[node], to, payload);
    }

    fn drain(&mut self, node: usize) {
        let due = match node {
            POP_HOST => self.drain_pop(),
            CONNECTOR_HOST => self.drain_connector(),
            _ => self.drain_client(),
        };
        // No node is asked twice in one instant for nothing.
        self.due[node] = due.saturating_duration_since(self.base).max(self.now + Time::from_micros(10));
    }

    fn drain_pop(&mut self) -> Instant {
        let now = self.at();
        loop {
            let sessions = loop {
                match self.pop.sessions.poll_output(now) {
                    SessionsOutput::Transmit { to, payload } => {
                        self.transmit(POP_HOST, to, payload);
                    }
                    SessionsOutput::Relay(command) => self.pop.relay.handle_command(now, command),
                    SessionsOutput::Persist { id, .. } => {
                        self.pop.sessions.handle_written(now, id, Written::Durable);
                    }
                    SessionsOutput::RegisteredBy { .. } => {}
                    SessionsOutput::Timeout { at, .. } => break at,
                }
            };
            let mut has_ended = false;
            let relay = loop {
                match self.pop.relay.poll_output() {
                    RelayOutput::Transmit { to, frame } => {
                        self.transmit(POP_HOST, to, frame.to_vec());
                    }
                    RelayOutput::Proven { owner, address } => {
                        self.pop.sessions.handle_side_proven(owner, address);
                    }
                    RelayOutput::Ended(ended) => {
                        has_ended = true;
                        self.pop.sessions.handle_channel_ended(now, ended);
                    }
                    RelayOutput::Timeout { at, .. } => break at,
                }
            };
            if !has_ended {
                return relay.map_or(sessions, |at| at.min(sessions));
            }
        }
    }

    fn drain_client(&mut self) -> Instant {
        let now = self.at();
        loop {
            match self.client.poll_output(now) {
                NodeOutput::Transmit { to, payload } => {
                    self.transmit(CLIENT_HOST, to, payload);
                }
                NodeOutput::Resolve { pop, name } => {
                    self.client.handle_resolved(now, pop, name.parse().into_iter().collect());
                }
                NodeOutput::Event(event) => match event {
                    NodeEvent::Dialled { result: Ok(flow), .. } => self.flow = Some(flow),
                    NodeEvent::Dialled { result: Err(fault), .. } => self.faults.push(fault.detail),
                    NodeEvent::Readable(flow) => {
                        let mut buffer = [0; 4096];
                        while let Ok(Read::Bytes(count)) = self.client.read(now, flow, &mut buffer) {
                            self.silence = self.silence.max(self.now - self.came_at);
                            self.came_at = self.now;
                            if self.pours_at.is_none() {
                                self.echoed.extend_from_slice(&buffer[..count]);
                            }
                        }
                        self.client.flush(now);
                    }
                    NodeEvent::Ended { flow, ending } => {
                        self.faults.push(format!("a flow ended: {ending:?}"));
                        self.flow = self.flow.filter(|own| *own != flow);
                    }
                    _ => {}
                },
                NodeOutput::Persist { .. } => {}
                // Nobody here is a machine with a network stack of its own.
                NodeOutput::Packet(_) => {}
                NodeOutput::Timeout(timeout) => return timeout.at,
            }
        }
    }

    /// The site: every dial succeeds, and the service says again what it is told.
    fn drain_connector(&mut self) -> Instant {
        let now = self.at();
        loop {
            match self.connector.poll_output(now) {
                ConnectorOutput::Transmit { to, payload } => {
                    self.transmit(CONNECTOR_HOST, to, payload);
                }
                ConnectorOutput::ResolvePop { pop, name } => {
                    self.connector.pop_resolved(now, pop, name.parse().into_iter().collect());
                }
                ConnectorOutput::Dial { flow, addresses } => {
                    let first = addresses.first().copied();
                    self.connector.dialled(now, flow, first.ok_or(connector::DialFault::Unreachable));
                }
                ConnectorOutput::Readable(flow) | ConnectorOutput::Writable(flow) => self.echo(now, flow),
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

    fn echo(&mut self, now: Instant, flow: FlowId) {
        let waiting = self.unsent.entry(flow).or_default();
        let mut buffer = [0; 4096];
        let core = self.connector.core();
        while let Read::Bytes(count) = core.read(now, flow, &mut buffer) {
            waiting.extend_from_slice(&buffer[..count]);
        }
        let written = core.write(now, flow, waiting);
        waiting.drain(..written);
    }
}
