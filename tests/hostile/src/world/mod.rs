//! The world: everybody, the network between them, and time.

mod people;
mod running;

pub use people::{ClientPart, ConnectorPart, PopPart, Reads};

use crate::documents::Journal;
use crate::installation::{
    CONTROLLER, Claims, INSTALLATION, Installation, SECOND, WALL, connector_id, device_id, pop_id,
};
use crate::raw::Raw;
use hostile_session::Cheat;
use policy::PopEntry;
use session::{Dialler, LocalIdentity, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use trust::{Identity, OrganizationTag, RevokedSubject, SigningKey, SliceVersion, UnixMs};
use wire::{FromSigner, PublishBeacon, Strike};

/// How long a packet takes.
pub const LATENCY: Duration = Duration::from_millis(10);

/// One datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Whose address it carries.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// What becomes of each datagram: the packets that go instead, each after so long.
pub type Tamper = Box<dyn FnMut(Packet, Instant) -> Vec<(Duration, Packet)>>;

/// How many there are of one organization.
#[derive(Debug, Clone, Copy)]
pub struct Tenant {
    /// Connectors of its site.
    pub connectors: usize,
    /// Clients.
    pub clients: usize,
}

/// Somebody in the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A PoP.
    Pop(usize),
    /// The controller.
    Controller,
    /// A connector.
    Connector(usize),
    /// A client.
    Client(usize),
    /// A peer that says what it likes.
    Raw(usize),
}

/// What a world is made of.
pub struct Plan {
    seed: u64,
    tenants: Vec<Tenant>,
    cheats: Vec<Cheat>,
    claims: BTreeSet<usize>,
    life: Duration,
    renew: Duration,
}

impl Plan {
    /// One organization with a connector and a client, and one honest PoP.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            tenants: vec![Tenant { connectors: 1, clients: 1 }],
            cheats: vec![Cheat::default()],
            claims: BTreeSet::new(),
            life: crate::installation::DAY,
            renew: crate::installation::HOUR * 4,
        }
    }

    /// These organizations.
    #[must_use]
    pub fn tenants(mut self, tenants: &[Tenant]) -> Self {
        self.tenants = tenants.to_vec();
        self
    }

    /// PoPs that cheat like this, one each.
    #[must_use]
    pub fn pops(mut self, cheats: impl IntoIterator<Item = Cheat>) -> Self {
        self.cheats = cheats.into_iter().collect();
        self
    }

    /// How long grants live, and after what they are renewed.
    #[must_use]
    pub fn life(mut self, life: Duration, renew: Duration) -> Self {
        (self.life, self.renew) = (life, renew);
        self
    }

    /// This client's slice names everything.
    #[must_use]
    pub fn lying(mut self, client: usize) -> Self {
        self.claims.insert(client);
        self
    }

    /// Builds it.
    #[must_use]
    pub fn build(self) -> World {
        World::new(self)
    }
}

/// Dials every PoP, beacons each second, strikes, and answers.
pub struct Controller {
    pub(crate) dialler: Dialler,
    pub(crate) sessions: BTreeMap<usize, SessionId>,
    pub(crate) next_beacon: Instant,
    /// It does nothing any more.
    pub is_dead: bool,
    /// It has new documents for whoever asks.
    pub version: u64,
    /// How often a grant was renewed.
    pub renewals: u64,
    /// Sealed frames that did not open.
    pub refused: u64,
    /// Everything struck.
    pub journal: Journal,
    struck: BTreeSet<RevokedSubject>,
}

/// Everybody and everything.
pub struct World {
    /// The keys.
    pub installation: Installation,
    base: Instant,
    /// What time it is.
    pub now: Instant,
    seed: u64,
    /// The PoPs.
    pub pops: Vec<PopPart>,
    /// The controller.
    pub controller: Controller,
    /// The connectors of all organizations.
    pub connectors: Vec<ConnectorPart>,
    /// The clients of all organizations.
    pub clients: Vec<ClientPart>,
    /// Whoever else there is.
    pub raws: Vec<Raw>,
    wire: BTreeMap<(Instant, u64), Packet>,
    sent: u64,
    due: BTreeMap<Node, Instant>,
    /// Somebody on every wire.
    pub tamper: Option<Tamper>,
    /// Every address that an agent has sent something to, and how many bytes.
    pub went_to: BTreeMap<(Node, SocketAddr), usize>,
}

/// A PoP's address.
#[must_use]
pub fn pop_address(number: usize) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 10 + u8::try_from(number).expect("few")], 443))
}

fn host(kind: u8, number: usize, port: u16) -> SocketAddr {
    let number = u16::try_from(number).expect("few").to_be_bytes();
    SocketAddr::from(([192, kind, number[0], number[1] + 1], port))
}

/// A client's.
#[must_use]
pub fn client_address(number: usize) -> SocketAddr {
    host(1, number, 42_000)
}

/// A connector's.
#[must_use]
pub fn connector_address(number: usize) -> SocketAddr {
    host(2, number, 41_000)
}

/// Of one of the others.
#[must_use]
pub fn raw_address(number: usize) -> SocketAddr {
    host(3, number, 40_000)
}

pub(crate) const CONTROLLER_AT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 3)), 40_000);

pub(crate) fn seed_of(seed: u64, kind: u8, number: usize) -> [u8; 32] {
    let mut bytes = [kind; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

impl World {
    fn new(plan: Plan) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences to it are used")]
        let base = Instant::now();
        let entries = (0..plan.cheats.len())
            .map(|number| PopEntry {
                id: pop_id(number),
                address: pop_address(number).to_string(),
                region: "r".into(),
                zone: format!("z{number}"),
            })
            .collect();
        let connectors: usize = plan.tenants.iter().map(|tenant| tenant.connectors).sum();
        let mut installation = Installation::new(entries, connectors);
        (installation.life, installation.renew) = (plan.life, plan.renew);
        let key = SigningKey::from_seed(&[77; 32]);
        let certificate = installation.certificate(Identity::controller(INSTALLATION, CONTROLLER), &key);
        let local = LocalIdentity::new(&certificate, &key).expect("belongs together");
        let dialler = Dialler::new(local, installation.bundle.clone(), WALL, seed_of(plan.seed, 7, 0));
        let controller = Controller {
            dialler,
            sessions: BTreeMap::new(),
            next_beacon: base,
            is_dead: false,
            version: 1,
            renewals: 0,
            refused: 0,
            journal: Journal::default(),
            struck: BTreeSet::new(),
        };
        let mut world = Self {
            installation,
            base,
            now: base,
            seed: plan.seed,
            pops: Vec::new(),
            controller,
            connectors: Vec::new(),
            clients: Vec::new(),
            raws: Vec::new(),
            wire: BTreeMap::new(),
            sent: 0,
            due: BTreeMap::new(),
            tamper: None,
            went_to: BTreeMap::new(),
        };
        for (number, cheat) in plan.cheats.into_iter().enumerate() {
            world.pops.push(PopPart::new(&world.installation, number, plan.seed, base, WALL, cheat));
        }
        for (organization, tenant) in plan.tenants.iter().enumerate() {
            let first = world.connectors.len();
            let own: Vec<usize> = (first..first + tenant.connectors).collect();
            for number in &own {
                let part =
                    ConnectorPart::new(&world.installation, organization, *number, plan.seed, base, WALL);
                world.connectors.push(part);
            }
            for _ in 0..tenant.clients {
                let number = world.clients.len();
                let claims = if plan.claims.contains(&number) { Claims::Everything } else { Claims::Honest };
                let state = world.installation.client(organization, number, &own, claims);
                world.clients.push(ClientPart::new(state, organization, number, plan.seed, base, WALL));
            }
        }
        for number in 0..world.pops.len() {
            world.controller_dials(number);
        }
        for node in world.nodes() {
            world.drain(node);
        }
        world
    }

    // ---- what a test does ------------------------------------------------------------------------

    /// The true time.
    #[must_use]
    pub fn wall(&self) -> UnixMs {
        WALL.plus(self.now - self.base)
    }

    /// How long it has been.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.base
    }

    /// A peer of this identity and key, at an address of its own.
    pub fn add_raw(&mut self, identity: Identity, key: &SigningKey) -> usize {
        let number = self.raws.len();
        let certificate = self.installation.certificate(identity, key);
        let bundle = self.installation.bundle.clone();
        let seed = seed_of(self.seed, 99, number);
        self.raws.push(Raw::new(&certificate, key, bundle, self.wall(), raw_address(number), seed));
        number
    }

    /// Lets a raw peer do something.
    pub fn with_raw<T>(&mut self, number: usize, act: impl FnOnce(&mut Raw, Instant) -> T) -> T {
        let result = act(&mut self.raws[number], self.now);
        self.drain(Node::Raw(number));
        result
    }

    /// A raw peer's session that is registered.
    ///
    /// # Panics
    /// It does not become so.
    pub fn register_raw(&mut self, number: usize, pop: usize) -> SessionId {
        let session = self.with_raw(number, |raw, now| raw.dial(now, pop_id(pop), pop_address(pop)));
        assert!(self.wait(SECOND * 5, |world| world.raws[number].up.contains(&session)), "no handshake");
        self.with_raw(number, |raw, _| raw.say(session, &Raw::hello()).expect("room"));
        assert!(
            self.wait(SECOND * 5, |world| world.raws[number].told.iter().any(|(of, _)| *of == session)),
            "no welcome"
        );
        session
    }

    /// Puts a datagram on the wire, from whatever address.
    pub fn inject(&mut self, packet: Packet) {
        self.sent += 1;
        self.wire.insert((self.now + LATENCY, self.sent), packet);
    }

    /// The controller strikes somebody's first generation, at every PoP.
    pub fn strike(&mut self, subject: RevokedSubject) -> wire::Document {
        let wall = self.wall();
        let entry = self.controller.journal.strike(&self.installation, subject, wall);
        self.controller.struck.insert(subject);
        let message = FromSigner::from(Strike { entries: vec![entry.clone()] });
        for session in self.controller.sessions.values() {
            let _ = self.controller.dialler.send(*session, message.frame_type(), &message.encode_body());
        }
        self.drain(Node::Controller);
        entry
    }

    /// The client's process ends and starts again, from what enrolment wrote.
    pub fn restart_client(&mut self, number: usize) {
        self.seed += 1;
        let organization = self.clients[number].organization;
        let own: Vec<usize> = (0..self.connectors.len())
            .filter(|connector| self.connectors[*connector].organization == organization)
            .collect();
        let state = self.installation.client(organization, number, &own, Claims::Honest);
        let wall = self.wall();
        self.clients[number] = ClientPart::new(state, organization, number, self.seed, self.now, wall);
        self.drain(Node::Client(number));
    }

    /// The connector's does: it knows nothing of its tunnels any more.
    pub fn restart_connector(&mut self, number: usize) {
        self.seed += 1;
        let organization = self.connectors[number].organization;
        let wall = self.wall();
        let part = ConnectorPart::new(&self.installation, organization, number, self.seed, self.now, wall);
        self.connectors[number] = part;
        self.drain(Node::Connector(number));
    }

    /// Begins a connection.
    pub fn dial(&mut self, client: usize, to: &str) -> client::core::DialId {
        let dial = self.clients[client].node.dial(self.now, &to.parse().expect("a target"));
        self.drain(Node::Client(client));
        dial
    }

    /// Whether a new connection can be had, and which.
    ///
    /// # Errors
    /// Why not.
    pub fn try_to(&mut self, client: usize, to: &str, most: Duration) -> Result<flow::FlowId, String> {
        let dial = self.dial(client, to);
        self.wait(most, |world| world.clients[client].dialled.contains_key(&dial));
        self.clients[client].dialled.get(&dial).cloned().unwrap_or_else(|| Err("no answer".to_owned()))
    }

    /// A connection that stands.
    ///
    /// # Panics
    /// There is none within a minute.
    pub fn connect(&mut self, client: usize, to: &str) -> flow::FlowId {
        self.try_to(client, to, crate::installation::MINUTE).expect("connects")
    }

    /// Says something on a connection.
    pub fn say(&mut self, client: usize, flow: flow::FlowId, data: &[u8]) -> usize {
        let node = &mut self.clients[client].node;
        let written = node.write(self.now, flow, data).unwrap_or(0);
        node.flush(self.now);
        self.drain(Node::Client(client));
        written
    }

    /// Says something and waits for the service to say it again.
    pub fn echo(&mut self, client: usize, flow: flow::FlowId, data: &[u8], most: Duration) -> bool {
        let heard = |world: &Self| world.clients[client].echoed.get(&flow).map_or(0, Vec::len);
        let before = heard(self);
        self.say(client, flow, data);
        self.wait(most, |world| heard(world) >= before + data.len())
    }

    /// Where a client is registered.
    #[must_use]
    pub fn client_at(&self, number: usize) -> Vec<usize> {
        self.up(self.clients[number].node.agent().pops())
    }

    /// Where a connector is.
    #[must_use]
    pub fn connector_at(&self, number: usize) -> Vec<usize> {
        self.up(self.connectors[number].node.agent().pops())
    }

    fn up(&self, pops: impl Iterator<Item = agent::PopStatus>) -> Vec<usize> {
        let up = pops.filter(|pop| pop.phase == agent::PopPhaseWord::Registered);
        up.filter_map(|pop| (0..self.pops.len()).find(|number| pop_id(*number) == pop.pop)).collect()
    }

    /// Everybody registered and heard.
    ///
    /// # Panics
    /// They do not within two minutes.
    pub fn settle(&mut self) {
        let wanted = self.pops.len().min(2);
        let is_settled = |world: &Self| {
            let fresh = agent::Freshness::Fresh;
            (0..world.clients.len()).all(|number| {
                !world.client_at(number).is_empty()
                    && world.clients[number].node.agent().freshness(world.now) == fresh
            }) && (0..world.connectors.len()).all(|number| {
                world.connector_at(number).len() >= wanted
                    && world.connectors[number].node.agent().freshness(world.now) == fresh
            })
        };
        assert!(self.wait(crate::installation::MINUTE * 2, is_settled), "nobody settles");
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        self.wait(time, |_| false);
    }

    /// Who has this id.
    #[must_use]
    pub fn number_of_device(&self, id: wire::DeviceId) -> Option<usize> {
        (0..self.clients.len()).find(|number| device_id(*number) == id)
    }

    /// Who has this id.
    #[must_use]
    pub fn number_of_connector(&self, id: wire::ConnectorId) -> Option<usize> {
        (0..self.connectors.len()).find(|number| connector_id(*number) == id)
    }

    pub(crate) fn versions(&self) -> BTreeMap<OrganizationTag, SliceVersion> {
        let organizations = self.connectors.iter().map(|part| part.organization).collect::<BTreeSet<_>>();
        organizations
            .into_iter()
            .map(|number| {
                let tag = OrganizationTag::of(crate::installation::organization(number));
                (tag, SliceVersion { incarnation: 1, version: self.controller.version })
            })
            .collect()
    }

    pub(crate) fn beacon(&mut self) {
        if self.controller.is_dead || self.controller.next_beacon > self.now {
            return;
        }
        self.controller.next_beacon = self.now + SECOND;
        let beacon = self.controller.journal.beacon(&self.installation, self.versions(), self.wall(), None);
        let message = FromSigner::from(PublishBeacon { beacon });
        for session in self.controller.sessions.values() {
            let _ = self.controller.dialler.send(*session, message.frame_type(), &message.encode_body());
        }
    }

    pub(crate) fn is_struck(&self, subject: RevokedSubject) -> bool {
        self.controller.struck.contains(&subject)
    }
}
