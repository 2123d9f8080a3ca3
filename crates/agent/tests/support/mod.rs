//! PoPs made of `session::Acceptor`, a controller behind them, and a network made of a queue.

#![allow(dead_code, reason = "each test binary uses a part of it")]

#[path = "../../../session/tests/support/mod.rs"]
pub mod pki;

use agent::{Agent, AgentEvent, AgentSlice, Output, Persisted, StoredState, Transport};
use pki::{CONTROLLER, DAY, Installation, ORGANIZATION, WALL};
use policy::{ClientSite, ClientSlice, ConnectorSlice, PopEntry};
use session::{Acceptor, AcceptorLimits, CloseCode, Event, LocalIdentity, SessionId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use trust::{
    Audience, Beacon, Grant, Identity, OrganizationTag, Owner, PostureClass, Revocation, RevokedSubject,
    SigningKey, Slice, SliceHeader, SliceVersion, Subject, UnixMs, control,
};
use wire::{
    Alive, Bounded, ChannelId, ChannelSecret, ControlReply, ControlRequest, ControllerUnavailable, Document,
    FromAgent, FromController, OpenRefused, Opened, PopId, Refusal, Renewed, Revocations, SiteId, SliceReply,
    ToAgent, UserId, Welcome,
};

pub const SECOND: Duration = Duration::from_secs(1);
pub const SITE: SiteId = SiteId::from_bytes([4; 16]);
const LATENCY: Duration = Duration::from_millis(10);

#[expect(clippy::disallowed_methods, reason = "an Instant has no other beginning")]
fn start() -> Instant {
    Instant::now()
}

pub fn document(text: &str) -> Document {
    Bounded::new(text.as_bytes().to_vec()).expect("short")
}

pub struct FakePop {
    pub id: PopId,
    pub address: SocketAddr,
    /// With a name, it is found at these addresses, in this order, and `address` means nothing.
    pub name: Option<(String, Vec<SocketAddr>)>,
    acceptor: Acceptor,
    pub is_alive: bool,
    pub refuses_opens: Option<Refusal>,
    /// It says of every request that too much is asked.
    pub says_budget: bool,
    /// It lets nobody register, and says when to come back.
    pub turns_away: Option<Duration>,
    pub sessions: BTreeMap<SessionId, Identity>,
    pub heard: Vec<(SessionId, FromAgent)>,
    /// What it holds of the controller's chain, and tells only who asks.
    pub strikes: BTreeMap<u64, Document>,
}

#[derive(Default)]
pub struct Controller {
    pub is_away: bool,
    pub version: SliceVersion,
    pub renewals: Vec<bool>,
    pub slices: usize,
    pub whys: usize,
    pub anchors: usize,
    /// Its clock is off by this many milliseconds.
    pub off: i64,
    /// Grants go out with this much off their true date.
    pub grant_iat: Option<UnixMs>,
}

pub struct World<B> {
    pub installation: Installation,
    pub key: SigningKey,
    pub now: Instant,
    started: Instant,
    pub machine_ahead: Duration,
    pub agent: Agent<B>,
    pub pops: Vec<FakePop>,
    pub controller: Controller,
    pub sends_beacons: bool,
    /// What a PoP's signs of life say of the reconnect window.
    pub says_window: BTreeMap<usize, u32>,
    /// How often PoPs were asked for a sign of life.
    pub keepalives: usize,
    pub resolves: bool,
    /// Addresses of PoPs by which nothing passes, and how much longer it takes by some.
    pub deaf: BTreeSet<(Transport, SocketAddr)>,
    pub delays: BTreeMap<SocketAddr, Duration>,
    /// Whether UDP and TCP 443 pass between the agent and its PoPs.
    pub udp_passes: bool,
    pub tcp_passes: bool,
    /// The streams that the agent opened, by the address that stands for each, with where they lead.
    pub streams: BTreeMap<SocketAddr, SocketAddr>,
    /// Datagrams for a stream that has died: a stream is never dialled again.
    pub dead_streams: BTreeSet<SocketAddr>,
    pub sent_to_dead_streams: usize,
    wire: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    sent: u64,
    pub agent_address: SocketAddr,
    pub events: Vec<AgentEvent>,
    pub persisted: BTreeMap<Persisted, Vec<u8>>,
    pub writes: Vec<Persisted>,
    pub lookups: Vec<String>,
    pub heads: BTreeMap<wire::ControllerId, trust::Head>,
    make_slice: fn(&Installation, Identity, SliceVersion, UnixMs, &[PopEntry]) -> String,
}

pub fn header(identity: Identity, version: SliceVersion, iat: UnixMs) -> SliceHeader {
    let audience = match identity.subject() {
        Subject::Device(id) => Audience::Device(id),
        Subject::Connector(id) => Audience::Connector(id),
        Subject::Pop(id) => Audience::Pop(id),
        Subject::Controller(_) => unreachable!("controllers get no slices"),
    };
    SliceHeader {
        installation: identity.installation(),
        organization: identity.organization(),
        audience,
        version,
        iat,
        exp: iat.plus(DAY * 7),
    }
}

pub fn client_slice(
    installation: &Installation,
    identity: Identity,
    version: SliceVersion,
    iat: UnixMs,
    pops: &[PopEntry],
) -> String {
    let site = ClientSite { id: SITE, name: "site".into(), connectors: vec![], regions: vec![] };
    let body = ClientSlice {
        organization_name: "organization".into(),
        resources: vec![],
        sites: vec![site],
        pops: pops.to_vec(),
    };
    installation.sign(&Slice { header: header(identity, version, iat), body, ext: None })
}

pub fn connector_slice(
    installation: &Installation,
    identity: Identity,
    version: SliceVersion,
    iat: UnixMs,
    pops: &[PopEntry],
) -> String {
    let body = ConnectorSlice {
        site: SITE,
        site_name: "site".into(),
        prefixes: vec![],
        resources: vec![],
        pops: pops.to_vec(),
        regions: vec![],
    };
    installation.sign(&Slice { header: header(identity, version, iat), body, ext: None })
}

pub fn grant(installation: &Installation, identity: Identity, key: &SigningKey, iat: UnixMs) -> String {
    let Subject::Device(device) = identity.subject() else { unreachable!("devices have grants") };
    installation.sign(&Grant {
        installation: installation.id,
        organization: ORGANIZATION,
        device,
        device_generation: 1,
        owner: Owner::User(UserId::from_bytes([6; 16])),
        owner_generation: 1,
        device_name: "laptop".into(),
        owner_name: "ada".into(),
        groups: vec![],
        posture: PostureClass::Unknown,
        key: key.verifying_key(),
        iat,
        nbf: iat,
        exp: iat.plus(DAY),
        renew_after_ms: 4 * 3600 * 1000,
        ext: None,
    })
}

pub fn version(version: u64) -> SliceVersion {
    SliceVersion { incarnation: 1, version }
}

impl World<ClientSlice> {
    pub fn client(pops: usize) -> Self {
        let installation = Installation::new(1);
        let identity = installation.device(1);
        Self::new(installation, identity, pops, client_slice, None)
    }

    /// A client of one PoP that has a name, which leads to these addresses.
    pub fn client_of_name(addresses: &[SocketAddr]) -> Self {
        let installation = Installation::new(1);
        let identity = installation.device(1);
        let name = ("pop.example.org:443".to_owned(), addresses.to_vec());
        Self::new(installation, identity, 1, client_slice, Some(name))
    }
}

impl World<ConnectorSlice> {
    pub fn connector(pops: usize) -> Self {
        let installation = Installation::new(1);
        let identity = installation.connector(1);
        Self::new(installation, identity, pops, connector_slice, None)
    }
}

impl<B: AgentSlice> World<B> {
    fn new(
        installation: Installation,
        identity: Identity,
        count: usize,
        make_slice: fn(&Installation, Identity, SliceVersion, UnixMs, &[PopEntry]) -> String,
        name: Option<(String, Vec<SocketAddr>)>,
    ) -> Self {
        let now = start();
        let key = SigningKey::from_seed(&[42; 32]);
        let pops: Vec<FakePop> = (0..count)
            .map(|index| {
                let byte = u8::try_from(index).expect("few") + 10;
                FakePop { name: name.clone(), ..fake_pop(&installation, byte, now, 1) }
            })
            .collect();
        let entries: Vec<PopEntry> = pops.iter().map(entry).collect();
        let stored = StoredState {
            identity_key: key.clone(),
            root: installation.root_hash(),
            chain: installation.chain.to_text(),
            certificate: installation.certificate(identity, &key),
            grant: matches!(identity.subject(), Subject::Device(_))
                .then(|| grant(&installation, identity, &key, WALL)),
            slice: Some(make_slice(&installation, identity, version(5), WALL, &entries)),
            revocations: None,
            time_floor: None,
            reconnect_window: Duration::ZERO,
        };
        let agent = Agent::new(stored, now, WALL, [3; 32]).expect("starts from what is stored");
        Self {
            installation,
            key,
            now,
            started: now,
            machine_ahead: Duration::ZERO,
            agent,
            pops,
            controller: Controller { version: version(5), ..Controller::default() },
            sends_beacons: true,
            says_window: BTreeMap::new(),
            keepalives: 0,
            resolves: true,
            deaf: BTreeSet::new(),
            delays: BTreeMap::new(),
            udp_passes: true,
            tcp_passes: true,
            streams: BTreeMap::new(),
            dead_streams: BTreeSet::new(),
            sent_to_dead_streams: 0,
            wire: BTreeMap::new(),
            sent: 0,
            agent_address: SocketAddr::from(([192, 0, 2, 1], 4000)),
            events: Vec::new(),
            persisted: BTreeMap::new(),
            writes: Vec::new(),
            lookups: Vec::new(),
            heads: BTreeMap::new(),
            make_slice,
        }
    }

    /// The true time.
    pub fn wall(&self) -> UnixMs {
        WALL.plus(self.now - self.started)
    }

    pub fn entries(&self) -> Vec<PopEntry> {
        self.pops.iter().map(entry).collect()
    }

    pub fn slice_text(&self, version: SliceVersion) -> String {
        (self.make_slice)(&self.installation, self.agent.identity(), version, self.wall(), &self.entries())
    }

    /// What a restarted process would find.
    pub fn stored(&self) -> StoredState {
        let text =
            |what| self.persisted.get(&what).map(|bytes| String::from_utf8(bytes.clone()).expect("text"));
        let identity = self.agent.identity();
        StoredState {
            identity_key: self.key.clone(),
            root: self.installation.root_hash(),
            chain: text(Persisted::Chain).unwrap_or_else(|| self.installation.chain.to_text()),
            certificate: self
                .persisted
                .get(&Persisted::Certificate)
                .cloned()
                .unwrap_or_else(|| self.agent.certificate().der().to_vec()),
            grant: text(Persisted::Grant).or_else(|| self.agent.grant_text().map(str::to_owned)),
            slice: text(Persisted::Slice).or_else(|| {
                Some((self.make_slice)(&self.installation, identity, version(5), WALL, &self.entries()))
            }),
            revocations: text(Persisted::Revocations),
            reconnect_window: text(Persisted::ReconnectWindow)
                .map(|text| Duration::from_millis(text.parse().expect("a number")))
                .unwrap_or_default(),
            time_floor: text(Persisted::TimeFloor)
                .map(|text| UnixMs::from_millis(text.parse().expect("a number"))),
        }
    }

    pub fn restart_agent(&mut self) {
        self.agent = Agent::new(self.stored(), self.now, self.wall(), [4; 32]).expect("starts again");
        self.wire.clear();
        self.agent_address.set_port(self.agent_address.port() + 1);
        self.events.clear();
    }

    pub fn restart_pop(&mut self, index: usize) {
        let byte = u8::try_from(index).expect("few") + 10;
        self.pops[index] = fake_pop(&self.installation, byte, self.now, 2);
    }

    pub fn controller_time(&self) -> UnixMs {
        let off = Duration::from_millis(self.controller.off.unsigned_abs());
        if self.controller.off < 0 { self.wall().minus(off) } else { self.wall().plus(off) }
    }

    pub fn beacon_text(&self) -> String {
        self.beacon_at(self.controller_time())
    }

    pub fn beacon_at(&self, time: UnixMs) -> String {
        self.beacon(time, None)
    }

    pub fn beacon(&self, time: UnixMs, nonce: Option<[u8; 16]>) -> String {
        self.installation.sign(&Beacon {
            installation: self.installation.id,
            controller: CONTROLLER,
            time,
            versions: BTreeMap::from([(OrganizationTag::of(ORGANIZATION), self.controller.version)]),
            heads: self.heads.clone(),
            nonce,
            ext: None,
        })
    }

    /// A controller strikes: the next link of its chain, which its beacons name from now on.
    pub fn strike(&mut self, subject: RevokedSubject) -> Document {
        let head = self.heads.get(&CONTROLLER).copied().unwrap_or(trust::Head { seq: 0, hash: [0; 32] });
        let text = self.strike_link(subject, head.seq + 1, head.hash);
        let hash = trust::sha256(&[text.as_bytes()]);
        self.heads.insert(CONTROLLER, trust::Head { seq: head.seq + 1, hash });
        document(&text)
    }

    pub fn strike_text(&self, subject: RevokedSubject, seq: u64) -> String {
        self.strike_link(subject, seq, [0; 32])
    }

    fn strike_link(&self, subject: RevokedSubject, seq: u64, previous: [u8; 32]) -> String {
        self.installation.sign(&Revocation {
            installation: self.installation.id,
            signer: CONTROLLER,
            seq,
            previous,
            at: self.wall(),
            subject,
            generation: 1,
            keep_until: self.wall().plus(DAY * 31),
            ext: None,
        })
    }

    /// A PoP says something to every session it has.
    pub fn tell(&mut self, pop: usize, message: impl Into<ToAgent>) {
        let message = message.into();
        for id in self.pops[pop].sessions.keys().copied().collect::<Vec<_>>() {
            let body = message.encode_body();
            self.pops[pop].acceptor.send(id, message.frame_type(), &body).expect("queued");
        }
    }

    fn post(&mut self, from: SocketAddr, to: SocketAddr, payload: Vec<u8>) {
        self.sent += 1;
        let place = if self.is_agents(to) { from } else { to };
        let place = self.agent.stream_target(place).map_or(place, |(target, _)| target);
        let delay = LATENCY + self.delays.get(&place).copied().unwrap_or_default();
        self.wire.insert((self.now + delay, self.sent), (from, to, payload));
    }

    /// The address that the agent's packets to this address of a PoP come from: another for each, so that the PoP's
    /// answers leave by the one that was asked.
    fn source_for(&self, to: SocketAddr) -> SocketAddr {
        let named = self.pops.iter().filter_map(|pop| pop.name.as_ref()).flat_map(|(_, addresses)| addresses);
        match (1..).zip(named).find(|(_, address)| **address == to) {
            Some((number, _)) => {
                SocketAddr::new(self.agent_address.ip(), self.agent_address.port() + 1_000 + number)
            }
            None => self.agent_address,
        }
    }

    fn is_agents(&self, address: SocketAddr) -> bool {
        address.ip() == self.agent_address.ip()
    }

    /// By which of its addresses a PoP answers the agent there.
    fn answers_from(&self, index: usize, to: SocketAddr) -> SocketAddr {
        let pop = &self.pops[index];
        let addresses = pop.name.iter().flat_map(|(_, addresses)| addresses).copied();
        addresses.into_iter().find(|address| self.source_for(*address) == to).unwrap_or(pop.address)
    }

    fn pop_at(&self, address: SocketAddr) -> Option<usize> {
        self.pops.iter().position(|pop| {
            let is_there = match &pop.name {
                Some((_, addresses)) => addresses.contains(&address),
                None => pop.address == address,
            };
            is_there && pop.is_alive
        })
    }

    fn drain_agent(&mut self) -> Instant {
        loop {
            match self.agent.poll_output(self.now) {
                Output::Transmit { to, payload } => self.post(self.source_for(to), to, payload),
                Output::Persist { what, bytes } => {
                    self.writes.push(what);
                    self.persisted.insert(what, bytes);
                }
                Output::Resolve { pop, name } => {
                    let known = self.pops.iter().find(|known| known.id == pop).filter(|_| self.resolves);
                    self.lookups.push(name);
                    let addresses = known.map_or_else(Vec::new, |known| match &known.name {
                        Some((_, addresses)) => addresses.clone(),
                        None => vec![known.address],
                    });
                    self.agent.handle_resolved(self.now, pop, addresses);
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout { at, .. } => return at,
            }
        }
    }

    fn drain_pop(&mut self, index: usize) -> Instant {
        loop {
            let pop = &mut self.pops[index];
            match pop.acceptor.poll_output(self.now) {
                session::Output::Transmit { to, payload } => {
                    let from = self.answers_from(index, to);
                    if self.pops[index].is_alive {
                        self.post(from, to, payload);
                    }
                }
                session::Output::Event(Event::Connected { id, peer, .. }) => {
                    pop.sessions.insert(id, peer.identity());
                }
                session::Output::Event(Event::Frame { id, frame_type, body }) => {
                    let message = FromAgent::decode_body(frame_type, &body).expect("valid").expect("known");
                    self.pops[index].heard.push((id, message.clone()));
                    self.answer(index, id, message);
                }
                session::Output::Event(Event::Lost { id, .. }) => {
                    pop.sessions.remove(&id);
                }
                session::Output::Event(Event::AddressChanged { .. }) => {}
                session::Output::Timeout { at, .. } => return at,
            }
        }
    }

    fn answer(&mut self, index: usize, id: SessionId, message: FromAgent) {
        if let (FromAgent::Hello(_), Some(after)) = (&message, self.pops[index].turns_away) {
            return self.pops[index].acceptor.close_for(self.now, id, CloseCode::Full, after);
        }
        let observed = self.agent_address;
        let beacon = self.sends_beacons.then(|| document(&self.beacon_text()));
        let answer: ToAgent = match message {
            FromAgent::Hello(_) => Welcome {
                version: 1,
                observed,
                keepalive_ms: 25_000,
                reconnect_window_ms: 1_000,
                beacon,
                revocations: vec![],
                channels: 0,
            }
            .into(),
            FromAgent::Keepalive(_) => {
                self.keepalives += 1;
                Alive { observed, beacon, reconnect_window_ms: self.says_window.get(&index).copied() }.into()
            }
            FromAgent::ToController(request) if self.pops[index].says_budget => {
                let retry_after_ms = u32::MAX;
                ControllerUnavailable { seq: request.seq, reason: Refusal::Budget, retry_after_ms }.into()
            }
            FromAgent::ToController(request) if self.controller.is_away => {
                ControllerUnavailable { seq: request.seq, reason: Refusal::NoController, retry_after_ms: 0 }
                    .into()
            }
            FromAgent::ToController(request) => {
                let sealed = self.control(request.sealed.as_slice());
                FromController { seq: request.seq, sealed: Bounded::new(sealed).expect("fits") }.into()
            }
            FromAgent::Open(open) => match self.pops[index].refuses_opens {
                Some(reason) => OpenRefused { seq: open.seq, reason, retry_after_ms: 0 }.into(),
                None => Opened {
                    seq: open.seq,
                    channel: ChannelId::from_random(77),
                    secret: ChannelSecret::from_random([1; 32]),
                    response: Bounded::new(vec![2; 92]).expect("fits"),
                    inner_v4: [100, 64, 0, 1].into(),
                    inner_v6: [0; 16].into(),
                    connector_seen: None,
                }
                .into(),
            },
            FromAgent::GetRevocations(asked) => {
                let entries = self.pops[index].strikes.range(asked.first..=asked.last);
                let entries = entries.take(wire::MAX_DOCUMENTS).map(|(_, entry)| entry.clone()).collect();
                Revocations { entries }.into()
            }
            FromAgent::Accept(_) | FromAgent::Refuse(_) | FromAgent::CloseChannel(_) => return,
        };
        let body = answer.encode_body();
        self.pops[index].acceptor.send(id, answer.frame_type(), &body).expect("queued");
    }

    fn control(&mut self, sealed: &[u8]) -> Vec<u8> {
        let opened =
            control::open_request(&self.installation.seal, &self.installation.bundle, self.wall(), sealed)
                .expect("an agent's request opens");
        let identity = opened.agent.identity();
        let reply: ControlReply = match &opened.request {
            ControlRequest::Renew(renew) => {
                self.controller.renewals.push(renew.certificate);
                let iat = self.controller.grant_iat.unwrap_or(self.wall());
                let grant = matches!(identity.subject(), Subject::Device(_))
                    .then(|| grant(&self.installation, identity, &self.key, iat));
                let certificate = renew.certificate.then(|| {
                    let (from, to) = (self.wall(), self.wall().plus(DAY * 30));
                    self.installation.certificate_between(identity, &self.key, from, to)
                });
                Renewed {
                    grant: grant.map(|text| Bounded::new(text.into_bytes()).expect("fits")),
                    certificate: certificate.map(|der| Bounded::new(der).expect("fits")),
                }
                .into()
            }
            ControlRequest::GetSlice(held) => {
                self.controller.slices += 1;
                let is_newer = (held.incarnation, held.version)
                    != (self.controller.version.incarnation, self.controller.version.version);
                let text = self.slice_text(self.controller.version);
                SliceReply { slice: is_newer.then(|| Bounded::new(text.into_bytes()).expect("fits")) }.into()
            }
            ControlRequest::Why(_) => {
                self.controller.whys += 1;
                wire::WhyReply { explanation: Bounded::new(b"{}".to_vec()).expect("fits") }.into()
            }
            ControlRequest::Anchor(anchor) => {
                self.controller.anchors += 1;
                let beacon = self.beacon(self.controller_time(), Some(anchor.nonce));
                wire::Anchored { beacon: document(&beacon) }.into()
            }
            other => unreachable!("no test asks {other:?}"),
        };
        opened.seal_reply(&reply).expect("seals")
    }

    /// Lets time pass until `done` or for `limit`; says whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            let mut next = self.drain_agent();
            for index in 0..self.pops.len() {
                next = next.min(self.drain_pop(index));
            }
            if done(self) {
                return true;
            }
            if let Some((at, _)) = self.wire.keys().next() {
                next = next.min(*at);
            }
            if next > end {
                self.now = end;
                return false;
            }
            // Equal times make progress by the events handled at them.
            self.now = self.now.max(next);
            while let Some(message) = self.wire.first_entry()
                && message.key().0 <= self.now
            {
                let (from, to, payload) = message.remove();
                if wire::is_stream_address(to) {
                    self.by_stream(from, to, &payload);
                } else if !self.udp_passes
                    || [from, to].iter().any(|at| self.deaf.contains(&(Transport::Udp, *at)))
                {
                    // Nobody hears of it.
                } else if self.is_agents(to) {
                    self.agent.handle_input(self.now, from, &payload);
                    self.drain_agent();
                } else if let Some(index) = self.pop_at(to) {
                    self.pops[index].acceptor.handle_input(self.now, from, &payload);
                    self.drain_pop(index);
                }
            }
            self.agent.set_wall(self.now, self.wall().plus(self.machine_ahead));
            self.agent.handle_timeout(self.now);
            for pop in &mut self.pops {
                pop.acceptor.handle_timeout(self.now);
            }
        }
    }

    /// A datagram on a stream, up or down. Its address is the same at both ends here.
    fn by_stream(&mut self, from: SocketAddr, stream: SocketAddr, payload: &[u8]) {
        if self.dead_streams.contains(&stream) {
            self.sent_to_dead_streams += usize::from(self.is_agents(from));
            return;
        }
        if !self.tcp_passes {
            return;
        }
        if !self.is_agents(from) {
            self.agent.handle_input(self.now, stream, payload);
            self.drain_agent();
        } else if let Some((to, _)) = self.agent.stream_target(stream) {
            self.streams.insert(stream, to);
            if let Some(index) = self.pop_at(to).filter(|_| !self.deaf.contains(&(Transport::Tcp, to))) {
                self.pops[index].acceptor.handle_input(self.now, stream, payload);
                self.drain_pop(index);
            }
        }
    }

    /// Every stream that stands ends, as when a router forgets its connections.
    pub fn kill_streams(&mut self) {
        self.dead_streams.extend(self.streams.keys());
    }

    /// What carries the sessions that are registered.
    pub fn transports(&self) -> Vec<Transport> {
        let registered = |status: &agent::PopStatus| status.phase == agent::PopPhaseWord::Registered;
        self.agent.pops().filter(registered).filter_map(|status| status.transport).collect()
    }

    /// The agent's machine sleeps: nothing is done, and its sessions die meanwhile.
    pub fn sleep(&mut self, time: Duration) {
        self.wire.clear();
        self.now += time;
        self.drain_agent();
        self.wire.clear();
    }

    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    pub fn registered(&self) -> Vec<usize> {
        self.agent
            .pops()
            .filter(|status| status.phase == agent::PopPhaseWord::Registered)
            .filter_map(|status| self.pops.iter().position(|pop| pop.id == status.pop))
            .collect()
    }

    pub fn wait_registered(&mut self, count: usize) {
        let done = self.run_until(SECOND * 120, |world| world.registered().len() >= count);
        assert!(done, "{count} sessions; {:?}", self.events);
    }

    /// Positions of the PoPs in the site's order.
    pub fn order(&self) -> Vec<usize> {
        agent::pop_order(SITE, &[], &self.entries())
            .into_iter()
            .map(|id| self.pops.iter().position(|pop| pop.id == id).expect("listed"))
            .collect()
    }

    pub fn close_all_for(&mut self, pop: usize, code: CloseCode, retry_after: Duration) {
        for id in self.pops[pop].sessions.keys().copied().collect::<Vec<_>>() {
            self.pops[pop].acceptor.close_for(self.now, id, code, retry_after);
        }
    }

    pub fn close_all(&mut self, pop: usize, code: CloseCode) {
        for id in self.pops[pop].sessions.keys().copied().collect::<Vec<_>>() {
            self.pops[pop].acceptor.close(self.now, id, code);
        }
    }
}

fn entry(pop: &FakePop) -> PopEntry {
    let address = pop.name.as_ref().map_or_else(|| pop.address.to_string(), |(name, _)| name.clone());
    PopEntry { id: pop.id, address, region: "r".into(), zone: "z".into() }
}

fn fake_pop(installation: &Installation, byte: u8, now: Instant, seed: u8) -> FakePop {
    let key = SigningKey::from_seed(&[byte; 32]);
    let certificate = installation.certificate(installation.pop(byte), &key);
    let local = LocalIdentity::new(&certificate, &key).expect("belongs together");
    let limits = AcceptorLimits::default();
    let bundle = installation.bundle.clone();
    let acceptor = Acceptor::new(&local, &key, bundle, limits, now, WALL, [seed; 32]).expect("an acceptor");
    FakePop {
        id: PopId::from_bytes([byte; 16]),
        address: SocketAddr::from(([203, 0, 113, byte], 443)),
        name: None,
        acceptor,
        is_alive: true,
        refuses_opens: None,
        says_budget: false,
        turns_away: None,
        sessions: BTreeMap::new(),
        heard: Vec::new(),
        strikes: BTreeMap::new(),
    }
}
